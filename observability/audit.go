// Package observability keeps what secmcpd says about itself. The audit log is the launcher's
// alone: what was asked, decided, launched and how it ended, chained from the first record.
package observability

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Event says what a record is about.
type Event string

const (
	Started        Event = "started"         // the launcher
	Stopped        Event = "stopped"         // the launcher, in order
	Recovered      Event = "recovered"       // a torn record was cut off; Bytes says how much
	Tampered       Event = "tampered"        // the log is not what the launcher wrote; Reason says what was expected and found
	Engagements    Event = "engagements"     // the engagements were read; Reason tells of faults
	Tools          Event = "tools"           // which tools are disabled was read; Targets names them, Reason tells why it is not known
	TokensRead     Event = "tokens"          // the tokens of HTTP were read; Records says how many are in force, Reason why none is
	LoginFailed    Event = "login_failed"    // tokens came over HTTP that are nobody's; Records says how many
	Reloaded       Event = "reloaded"        // the configuration was read again; Targets names what changed, Outcome "refused" that nothing did
	Asked          Event = "asked"           // a scan was asked for
	Decided        Event = "decided"         // and allowed, by this engagement and rule
	Denied         Event = "denied"          // or refused
	ApprovalAsked  Event = "approval_asked"  // an operator has to approve it
	Approved       Event = "approved"        // and has; Operator says who
	ApprovalDenied Event = "approval_denied" // or has refused it
	ApprovalPassed Event = "approval_passed" // or nobody has in time
	Drain          Event = "drain"           // an operator has new scans refused, or taken again; Reason says which
	Launched       Event = "launched"        // written before the scanner is started
	Violation      Event = "violation"       // the box killed a scanner for a call that no scanner makes
	ScopeViolation Event = "scope_violation" // a scanner sent to what its scope does not have; the kernel dropped it
	ScopeLost      Event = "scope_lost"      // somebody else changed the kernel's filter: its scans are ended
	CancelOrdered  Event = "cancel_ordered"  // an operator ends a scan; Operator says who
	Done           Event = "done"            // nothing of the scan runs any more
	Interrupted    Event = "interrupted"     // the launcher died while it ran
	Unreadable     Event = "unreadable"      // a job's record, or the breakers, could not be read at the start; it was put aside, a record with the outputs
	Breaker        Event = "breaker"         // a breaker has changed; Caller is the operator who ordered it
	Lost           Event = "lost"            // Records of what happened could not be kept until the log could be written again
)

// Record is one line. No field of it ever holds what a scanner wrote.
type Record struct {
	Seq         uint64        `json:"seq"`
	Time        time.Time     `json:"time"`
	Event       Event         `json:"event"`
	Job         string        `json:"job,omitempty"`
	Correlation string        `json:"correlation,omitempty"` // the caller's id for the job, or the job's own
	Caller      *Caller       `json:"caller,omitempty"`
	Tool        string        `json:"tool,omitempty"`
	Profile     string        `json:"profile,omitempty"`
	Targets     []string      `json:"targets,omitempty"` // as asked; the first MaxList
	TargetCount int           `json:"target_count,omitempty"`
	Engagement  string        `json:"engagement,omitempty"`
	Revision    string        `json:"revision,omitempty"` // sha256 of the engagement file
	Rule        string        `json:"rule,omitempty"`
	Code        string        `json:"code,omitempty"` // of a denial
	Reason      string        `json:"reason,omitempty"`
	Consent     []string      `json:"consent,omitempty"`   // what the user of the agent confirmed, as the front told; no operator's approval
	Approve     []string      `json:"approve,omitempty"`   // what an operator has to approve
	Digest      string        `json:"digest,omitempty"`    // of the exact command that is to be approved
	Operator    *Caller       `json:"operator,omitempty"`  // who gave an order, from the kernel
	Approver    *uint32       `json:"approver,omitempty"`  // the uid of who approved a launch
	Addresses   []string      `json:"addresses,omitempty"` // that may be sent to; the first MaxList
	Prefixes    int           `json:"prefixes,omitempty"`  // how many there are
	Ports       []string      `json:"ports,omitempty"`     // that may be sent to at each; the first MaxList; none: all
	Argv        []string      `json:"argv,omitempty"`      // the first MaxList words
	Words       int           `json:"words,omitempty"`     // how many there are
	Scanner     string        `json:"scanner,omitempty"`
	Version     string        `json:"version,omitempty"`
	SHA256      string        `json:"sha256,omitempty"`      // of the scanner's executable
	Declaration string        `json:"declaration,omitempty"` // of a scanner that the operator declared: its revision
	Limits      *Limits       `json:"limits,omitempty"`
	Network     string        `json:"network,omitempty"`      // the mode in which a launched scan leaves the machine
	Filter      string        `json:"filter,omitempty"`       // what holds it to its scope: bpf, nftables
	NotEnforced []string      `json:"not_enforced,omitempty"` // layers
	Wordlist    *Wordlist     `json:"wordlist,omitempty"`     // of a launch that has one
	Outcome     string        `json:"outcome,omitempty"`
	ExitCode    *int          `json:"exit_code,omitempty"`
	Signal      int           `json:"signal,omitempty"`
	Stage       string        `json:"stage,omitempty"`
	Usage       *Usage        `json:"usage,omitempty"`
	OffScope    []Destination `json:"off_scope,omitempty"` // the first destinations of a scope_violation
	Bytes       int64         `json:"bytes,omitempty"`
	Records     int           `json:"records,omitempty"`

	Breaker *BreakerChange `json:"breaker,omitempty"`

	// Of a launch, sha256 over the whole lists, with a NUL between the words.
	AddressesSHA256 string `json:"addresses_sha256,omitempty"`
	ArgvSHA256      string `json:"argv_sha256,omitempty"`

	Prev string `json:"prev"` // the hash of the record before; of the first, empty
	Hash string `json:"hash"` // sha256 of this line without its hash
}

// Caller is who asked, from the kernel.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	PID int32  `json:"pid"`
}

// Wordlist is the list of words of a scan.
type Wordlist struct {
	Name   string `json:"name"`
	Lines  int64  `json:"lines"`
	SHA256 string `json:"sha256"`
}

// Limits are those of a box.
type Limits struct {
	WallS      int64 `json:"wall_s"`
	MemoryMiB  int64 `json:"memory_mib"`
	Pids       int   `json:"pids"`
	CPUPercent int   `json:"cpu_percent"`
	CPUS       int64 `json:"cpu_s"`
	OutputMiB  int64 `json:"output_mib"`
	Rate       int   `json:"packets_per_second,omitempty"`
	// Left out where they are 0, as in the records of versions that did not have them.
	IOMiB     int64 `json:"io_mib_per_second,omitempty"` // of each disk, read and written
	TmpMiB    int64 `json:"tmp_mib,omitempty"`
	TmpInodes int   `json:"tmp_inodes,omitempty"`
	OpenFiles int   `json:"open_files,omitempty"`
}

// Usage is what a box used.
type Usage struct {
	WallMS  int64  `json:"wall_ms"`
	CPUMS   int64  `json:"cpu_ms"`
	Memory  uint64 `json:"memory_peak_bytes,omitempty"` // 0: not counted
	Output  int64  `json:"output_bytes"`
	Sent    uint64 `json:"sent_packets"`
	Dropped uint64 `json:"dropped_packets"`
	// Of what was dropped: to another destination or port, or under another source.
	OffScope uint64 `json:"off_scope_packets,omitempty"`
	OverRate uint64 `json:"over_rate_packets,omitempty"` // dropped beside those: more than its rate, or than a budget
	Received uint64 `json:"received_packets,omitempty"`
	Refused  uint64 `json:"refused_packets,omitempty"` // on the way to the scanner, from elsewhere
}

// BreakerChange is a change of the breaker of a tool or of a network.
type BreakerChange struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
	Why  string `json:"why"`
	ForS int64  `json:"for_s,omitempty"` // for which an operator opened it; 0: until one closes it
}

// Destination is one that a scanner may not send to, and did.
type Destination struct {
	To       string `json:"to"`
	Protocol uint8  `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
	Packets  uint64 `json:"packets"`
}

const (
	// MaxList bounds the lists of a record; the counts beside them are exact.
	MaxList = 64
	// maxLine bounds one record, in bytes.
	maxLine = 64 << 10
	// maxPending bounds the records that wait until the log can be written again. While one
	// waits nothing is asked for or launched, so that a few for each job under way are all.
	maxPending = 1024
	// rotateAt is the size from which the next record begins a new file.
	rotateAt = 64 << 20

	// Reserve is kept free ahead of the log's end, in bytes, for what has to be on record when nothing
	// else can be written any more: the ends of 256 scans, at 16 KiB each (the launcher has a test).
	Reserve = 4 << 20

	current = "audit.jsonl"
	next    = current + ".new" // takes the place of current in a rotation
)

// Audit is the log while it is open. One process at a time has it.
type Audit struct {
	mu       sync.Mutex
	dir      string
	now      func() time.Time
	rotateAt int64
	reserve  int64
	lock     *os.File
	file     *os.File
	head     headFile
	size     int64 // of what is good in the file
	held     int64 // how far from the file's start it has its space, at least
	seq      uint64
	hash     string
	torn     bool   // something after size may be in the file
	renamed  bool   // and that the directory says so is not on disk yet
	tampered string // what was found at the opening
	pending  []Record
	lost     int                // beyond maxPending
	step     func(after string) // in tests: where a writer is killed
	failed   bool               // the last attempt to write
	unready  bool               // the last probe failed
}

// OpenAudit opens or begins the log in dir. It checks the chain of the newest file, and that the
// log has the record which its head names.
//
//   - A last line without its newline was torn by a crash: it is cut off, and the log says so.
//   - An intact chain without the record that the head names (its end was cut off, or written
//     anew), and a log without a head, are tampering. The log goes on, with a record of it that
//     no later start takes away and on which [VerifyAudit] fails: who would have to clear the
//     log away before the daemon starts again would clear the evidence away with it. Tampered
//     tells the caller.
//   - A line that is whole and wrong has no good end to go on from: the log is not opened.
//
// A line is synced before the head that names it is written: a crash leaves the head behind the
// log, never ahead of it, and never without one.
//
// Ahead of the log's end the file has [Reserve] bytes of space that nobody else can take, where the
// file system can do that: see [Audit.Append] and [Audit.Note].
func OpenAudit(dir string, now func() time.Time) (*Audit, error) {
	return openAudit(&Audit{dir: dir, now: now, rotateAt: rotateAt, reserve: Reserve})
}

func openAudit(a *Audit) (*Audit, error) {
	if err := a.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the audit log: %w", err), a.Close())
	}
	return a, nil
}

func (a *Audit) open() (err error) {
	if err := os.MkdirAll(a.dir, 0o750); err != nil {
		return err
	}
	if a.lock, err = os.OpenFile(filepath.Join(a.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(a.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another launcher has it: %w", err)
	}
	noted, err := a.begin()
	if err != nil {
		return err
	}
	if a.file, err = os.OpenFile(filepath.Join(a.dir, current), os.O_RDWR|os.O_CREATE, 0o640); err != nil {
		return err
	}
	inPlace(a.file)
	cut, err := a.recover()
	if err != nil {
		return err
	}
	// Before anything is written: that would make a new head.
	if a.tampered, err = a.compare(noted); err != nil {
		return err
	}
	// One that names no record is not written anew before the record that tells of it: that record
	// makes the new head, which is the first to hide what was found.
	if err := a.head.open(a.dir, noted); err != nil {
		return err
	}
	a.hold()
	if a.tampered != "" {
		if err := a.append(Record{Event: Tampered, Reason: a.tampered}, 0); err != nil {
			return err
		}
	}
	if cut > 0 {
		return a.append(Record{Event: Recovered, Bytes: cut}, 0)
	}
	return nil
}

// begin gives a log that is not there its first head, before its first file: from then on a file
// without a head, empty or not, is one that somebody took the head from.
func (a *Audit) begin() (headText, error) {
	noted, err := readHead(a.dir)
	if err != nil || !noted.missing {
		return noted, err
	}
	if files, err := auditFiles(a.dir); err != nil || len(files) > 0 {
		return noted, err
	}
	if err := a.head.open(a.dir, noted); err != nil {
		return noted, err
	}
	if err := errors.Join(a.head.write(0, ""), a.head.close(), syncDir(a.dir)); err != nil {
		return noted, err
	}
	return readHead(a.dir)
}

// Tampered says what was found at the opening that is not as it was written; empty for nothing.
func (a *Audit) Tampered() string { return a.tampered }

// recover finds the end of the chain in the current file, and how many bytes of a torn record
// are after it.
func (a *Audit) recover() (cut int64, err error) {
	c := chain{any: true}
	err = eachLine(a.file, func(line []byte, whole bool) error {
		if !whole {
			a.torn = true // by a crash in the middle of the last write
			cut = int64(len(line))
			return nil
		}
		if wrong := c.add(line); wrong != nil {
			return fmt.Errorf("%s, line %d: %w (put the directory aside as evidence; the log begins anew in an empty one)",
				current, c.lines+1, wrong)
		}
		a.size += int64(len(line)) + 1
		return nil
	})
	if err != nil {
		return 0, err
	}
	a.seq, a.hash = c.seq, c.hash
	if c.lines == 0 {
		return cut, a.afterRotation()
	}
	return cut, nil
}

// compare says in which way the log is not what its head says; empty when it is.
func (a *Audit) compare(noted headText) (string, error) {
	found := fmt.Sprintf("the log ends with record %d (%s)", a.seq, a.hash)
	switch {
	case noted.missing:
		return fmt.Sprintf("expected %s to name a record; found none, and %s", head, found), nil
	case noted.broken:
		return fmt.Sprintf("expected %s to name a record; found something else, and %s", head, found), nil
	}
	expected := fmt.Sprintf("expected record %d (%s), as %s names it; ", noted.seq, noted.hash, head)
	if noted.seq > a.seq {
		return expected + "found that " + found + ": its end was cut off", nil
	}
	there, err := a.hashOf(noted.seq)
	if err != nil || there == noted.hash {
		return "", err
	}
	return expected + fmt.Sprintf("found it as %s: the end was written anew", there), nil
}

// hashOf finds a record that is in the log. Its file was not checked if it is an older one; what
// is compared is its hash.
func (a *Audit) hashOf(seq uint64) (string, error) {
	if seq == 0 {
		return "", nil
	}
	if seq == a.seq {
		return a.hash, nil
	}
	files, err := auditFiles(a.dir)
	if err != nil {
		return "", err
	}
	for _, name := range slices.Backward(files) {
		found := ""
		err := eachLineOf(filepath.Join(a.dir, name), func(line []byte, _ bool) error {
			var r Record
			if json.Unmarshal(line, &r) == nil && r.Seq == seq {
				found = r.Hash
				return io.EOF
			}
			return nil
		})
		if err != nil || found != "" {
			return found, err
		}
	}
	return "no record at all", nil
}

// afterRotation continues the chain of the newest older file, if there is one.
func (a *Audit) afterRotation() error {
	files, err := auditFiles(a.dir)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(name string) bool { return name == current })
	if len(files) == 0 {
		return nil
	}
	newest, last := files[len(files)-1], []byte(nil)
	if err := eachLineOf(filepath.Join(a.dir, newest), func(line []byte, _ bool) error {
		last = append(last[:0], line...)
		return nil
	}); err != nil {
		return err
	}
	c := chain{any: true}
	if err := c.add(last); err != nil {
		return fmt.Errorf("%s: %w", newest, err)
	}
	a.seq, a.hash = c.seq, c.hash
	return nil
}

// Append writes one record, after those that wait. It is on disk when Append returns nil; on an
// error nothing of it counts, and whatever the caller wanted to do is refused. The next Append
// begins by cutting off what a failed one left. It leaves the whole reserve as it was, or fails.
func (a *Audit) Append(r Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.flush()
	if err == nil {
		err = a.append(r, a.reserve)
	}
	if err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}

// Note writes a record of what has happened already, into the reserve where there is no other space
// left. When it cannot be written now it waits, with the time of now, and is written before any
// other record; the error says so.
func (a *Audit) Note(r Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending) == maxPending {
		a.lost++
	} else {
		r.Time = a.now()
		r.bound() // what waits is no larger than what is written
		a.pending = append(a.pending, r)
	}
	if err := a.flush(); err != nil {
		return fmt.Errorf("cannot write the audit log yet: %w", err)
	}
	return nil
}

// Flush writes the records that wait. nil: none does.
func (a *Audit) Flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.flush(); err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}

func (a *Audit) flush() error {
	for len(a.pending) > 0 {
		if err := a.append(a.pending[0], 0); err != nil {
			return err
		}
		a.pending = a.pending[1:]
	}
	a.pending = nil
	if a.lost > 0 {
		if err := a.append(Record{Event: Lost, Records: a.lost}, 0); err != nil {
			return err
		}
		a.lost = 0
	}
	return nil
}

// append writes one record, and keeps so many bytes of space ahead of it.
func (a *Audit) append(r Record, keep int64) (err error) {
	defer func() { a.failed = err != nil }()
	if a.file == nil {
		return fs.ErrClosed
	}
	if err := a.mend(); err != nil {
		return err
	}
	if a.size >= a.rotateAt {
		// Where there is no space for another file this one goes on: what is kept ahead is its own.
		if err := a.rotate(); err != nil && !noSpace(err) {
			return err
		}
	}
	if r.Time.IsZero() {
		r.Time = a.now()
	}
	r.Seq, r.Time, r.Prev = a.seq+1, r.Time.UTC(), a.hash
	r.bound()
	line, err := r.seal()
	if err != nil {
		return err
	}
	if len(line) > maxLine {
		return fmt.Errorf("a record of %d bytes, at most %d", len(line), maxLine)
	}
	line = append(line, '\n')
	if err := a.room(a.size+int64(len(line)), keep); err != nil {
		return err
	}
	// One write at a known place: after a failure the good end is where it was.
	a.torn = true
	if _, err := a.file.WriteAt(line, a.size); err != nil {
		return err
	}
	a.reached("the line")
	if err := unix.Fdatasync(int(a.file.Fd())); err != nil {
		return err
	}
	a.reached("its sync")
	if err := a.head.write(r.Seq, r.Hash); err != nil {
		return err
	}
	a.reached("the head")
	a.torn = false
	a.size += int64(len(line))
	a.seq, a.hash = r.Seq, r.Hash
	return nil
}

// reached is where tests kill a writer.
func (a *Audit) reached(after string) {
	if a.step != nil {
		a.step(after)
	}
}

// mend takes back what a record that failed has left: first in the head, which may name it, then in
// the log. What was kept ahead of the log's end goes with it, and is asked for anew.
func (a *Audit) mend() error {
	if a.renamed {
		if err := syncDir(a.dir); err != nil {
			return err
		}
		a.renamed = false
	}
	if !a.torn {
		return nil
	}
	if a.head.doubtful {
		if err := a.head.write(a.seq, a.hash); err != nil {
			return err
		}
	}
	if err := a.file.Truncate(a.size); err != nil {
		return err
	}
	a.torn, a.held = false, a.size
	a.hold()
	return nil
}

// bound cuts what could be long.
func (r *Record) bound() {
	cut := func(s []string) []string {
		s = slices.Clone(s[:min(len(s), MaxList)])
		for i := range s {
			s[i] = clip(s[i], 256)
		}
		return s
	}
	r.Targets, r.Addresses, r.Argv, r.NotEnforced = cut(r.Targets), cut(r.Addresses), cut(r.Argv), cut(r.NotEnforced)
	for _, s := range []*string{&r.Rule, &r.Reason, &r.Scanner, &r.Stage, &r.Engagement, &r.Profile} {
		*s = clip(*s, 1024)
	}
}

// clip cuts at a number of bytes, and makes what is no UTF-8 visible: a line is read back and
// must be the same.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// seal computes the record's hash and gives its line, without the newline.
func (r *Record) seal() ([]byte, error) {
	r.Hash = ""
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(line)
	r.Hash = hex.EncodeToString(sum[:])
	return json.Marshal(r)
}

// rotate puts the full file aside under the number of its first record, once the next one has its
// space. What fails half way is taken back, or else gone on with at the next try.
func (a *Audit) rotate() (err error) {
	first, err := firstSeq(a.file)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(a.dir, next), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	inPlace(file)
	held, err := reserveSpace(file, 0, a.reserve+heldAhead)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	a.reached("the next file")
	whole, aside, fresh := filepath.Join(a.dir, current), filepath.Join(a.dir, rotated(first)), filepath.Join(a.dir, next)
	if err := os.Rename(whole, aside); err != nil {
		if _, was := os.Lstat(aside); was != nil || !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, file.Close())
		}
	}
	a.reached("the full file's new name")
	if err := os.Rename(fresh, whole); err != nil {
		return errors.Join(err, os.Rename(aside, whole), file.Close())
	}
	a.reached("the next file's name")
	old, size := a.file, a.size
	a.file, a.size, a.held, a.renamed = file, 0, held, true
	// What was kept ahead of the old one's end is for others again. That it is not is no harm.
	_ = old.Truncate(size)
	return errors.Join(old.Close(), a.mend())
}

func firstSeq(f *os.File) (uint64, error) {
	b := make([]byte, maxLine)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	line, _, _ := bytes.Cut(b[:n], []byte("\n"))
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return 0, err
	}
	return r.Seq, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close lets another process have the log.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, f := range []*os.File{a.file, a.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	errs = append(errs, a.head.close())
	a.file, a.lock = nil, nil
	return errors.Join(errs...)
}
