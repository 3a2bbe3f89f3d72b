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
	Started     Event = "started"     // the launcher
	Stopped     Event = "stopped"     // the launcher, in order
	Recovered   Event = "recovered"   // a torn record was cut off; Bytes says how much
	Engagements Event = "engagements" // the engagements were read; Reason tells of faults
	Asked       Event = "asked"       // a scan was asked for
	Decided     Event = "decided"     // and allowed, by this engagement and rule
	Denied      Event = "denied"      // or refused
	Launched    Event = "launched"    // written before the scanner is started
	Violation   Event = "violation"   // the box killed a scanner for a call that no scanner makes
	Done        Event = "done"        // nothing of the scan runs any more
	Interrupted Event = "interrupted" // the launcher died while it ran
)

// Record is one line. No field of it ever holds what a scanner wrote.
type Record struct {
	Seq         uint64    `json:"seq"`
	Time        time.Time `json:"time"`
	Event       Event     `json:"event"`
	Job         string    `json:"job,omitempty"`
	Caller      *Caller   `json:"caller,omitempty"`
	Tool        string    `json:"tool,omitempty"`
	Profile     string    `json:"profile,omitempty"`
	Targets     []string  `json:"targets,omitempty"` // as asked; the first MaxList
	TargetCount int       `json:"target_count,omitempty"`
	Engagement  string    `json:"engagement,omitempty"`
	Revision    string    `json:"revision,omitempty"` // sha256 of the engagement file
	Rule        string    `json:"rule,omitempty"`
	Code        string    `json:"code,omitempty"` // of a denial
	Reason      string    `json:"reason,omitempty"`
	Addresses   []string  `json:"addresses,omitempty"` // that may be sent to; the first MaxList
	Prefixes    int       `json:"prefixes,omitempty"`  // how many there are
	Argv        []string  `json:"argv,omitempty"`      // the first MaxList words
	Words       int       `json:"words,omitempty"`     // how many there are
	Scanner     string    `json:"scanner,omitempty"`
	Version     string    `json:"version,omitempty"`
	SHA256      string    `json:"sha256,omitempty"` // of the scanner's executable
	Limits      *Limits   `json:"limits,omitempty"`
	NotEnforced []string  `json:"not_enforced,omitempty"` // layers
	Outcome     string    `json:"outcome,omitempty"`
	ExitCode    *int      `json:"exit_code,omitempty"`
	Signal      int       `json:"signal,omitempty"`
	Stage       string    `json:"stage,omitempty"`
	Usage       *Usage    `json:"usage,omitempty"`
	Bytes       int64     `json:"bytes,omitempty"`
	Prev        string    `json:"prev"` // the hash of the record before; of the first, empty
	Hash        string    `json:"hash"` // sha256 of this line without its hash
}

// Caller is who asked, from the kernel.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	PID int32  `json:"pid"`
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
}

// Usage is what a box used.
type Usage struct {
	WallMS  int64  `json:"wall_ms"`
	CPUMS   int64  `json:"cpu_ms"`
	Memory  uint64 `json:"memory_peak_bytes,omitempty"` // 0: not counted
	Output  int64  `json:"output_bytes"`
	Sent    uint64 `json:"sent_packets"`
	Dropped uint64 `json:"dropped_packets"`
}

const (
	// MaxList bounds the lists of a record; the counts beside them are exact.
	MaxList = 64
	// maxLine bounds one record, in bytes.
	maxLine = 64 << 10
	// rotateAt is the size from which the next record begins a new file.
	rotateAt = 64 << 20

	current = "audit.jsonl"
	head    = "audit.head"
)

// Audit is the log while it is open. One process at a time has it.
type Audit struct {
	mu       sync.Mutex
	dir      string
	now      func() time.Time
	rotateAt int64
	lock     *os.File
	file     *os.File
	size     int64 // of what is good in the file
	seq      uint64
	hash     string
	torn     bool // something after size may be in the file
}

// OpenAudit opens or begins the log in dir. It checks the chain of the newest file; a record
// that was torn by a crash is cut off, and the log says so.
func OpenAudit(dir string, now func() time.Time) (*Audit, error) {
	a := &Audit{dir: dir, now: now, rotateAt: rotateAt}
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
	if a.file, err = os.OpenFile(filepath.Join(a.dir, current), os.O_RDWR|os.O_CREATE, 0o640); err != nil {
		return err
	}
	return a.recover()
}

// recover finds the end of the chain in the current file.
func (a *Audit) recover() error {
	b, err := io.ReadAll(a.file)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		return a.afterRotation()
	}
	c := chain{any: true}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		err := c.add(line)
		if !whole || (err != nil && len(rest) == 0) {
			a.torn = true // by a crash in the middle of the last write
			break
		}
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", current, c.lines+1, err)
		}
		a.size += int64(len(line)) + 1
		b = rest
	}
	a.seq, a.hash = c.seq, c.hash
	if c.lines == 0 {
		if err := a.afterRotation(); err != nil {
			return err
		}
	}
	if a.torn {
		return a.append(Record{Event: Recovered, Bytes: int64(len(b))})
	}
	return nil
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
	b, err := os.ReadFile(filepath.Join(a.dir, files[len(files)-1]))
	if err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	c := chain{any: true}
	if err := c.add(lines[len(lines)-1]); err != nil {
		return fmt.Errorf("%s: %w", files[len(files)-1], err)
	}
	a.seq, a.hash = c.seq, c.hash
	return nil
}

// Append writes one record. It is on disk when Append returns nil; on an error nothing of it
// counts, and whatever the caller wanted to do is refused. The next Append begins by cutting
// off what a failed one left.
func (a *Audit) Append(r Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.append(r); err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	return nil
}

func (a *Audit) append(r Record) error {
	if a.file == nil {
		return fs.ErrClosed
	}
	if a.torn {
		if err := a.file.Truncate(a.size); err != nil {
			return err
		}
		a.torn = false
	}
	if a.size >= a.rotateAt {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	r.Seq, r.Time, r.Prev = a.seq+1, a.now().UTC(), a.hash
	r.bound()
	line, err := r.seal()
	if err != nil {
		return err
	}
	if len(line) > maxLine {
		return fmt.Errorf("a record of %d bytes, at most %d", len(line), maxLine)
	}
	// One write at a known place: after a failure the good end is where it was.
	a.torn = true
	if _, err := a.file.WriteAt(append(line, '\n'), a.size); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(a.file.Fd())); err != nil {
		return err
	}
	if err := a.writeHead(r.Seq, r.Hash); err != nil {
		return err
	}
	a.torn = false
	a.size += int64(len(line)) + 1
	a.seq, a.hash = r.Seq, r.Hash
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

// rotate puts the full file aside under the number of its first record.
func (a *Audit) rotate() error {
	first, err := firstSeq(a.file)
	if err != nil {
		return err
	}
	next, err := os.OpenFile(filepath.Join(a.dir, current+".new"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(a.dir, current), filepath.Join(a.dir, fmt.Sprintf("audit-%020d.jsonl", first))); err != nil {
		return errors.Join(err, next.Close())
	}
	if err := os.Rename(filepath.Join(a.dir, current+".new"), filepath.Join(a.dir, current)); err != nil {
		return errors.Join(err, next.Close())
	}
	old := a.file
	a.file, a.size = next, 0
	return errors.Join(old.Close(), syncDir(a.dir))
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

// writeHead notes the last record beside the log, so that cutting off its end is noticed. It is
// not synced: a crash may leave it one record behind, never ahead.
func (a *Audit) writeHead(seq uint64, hash string) error {
	temp := filepath.Join(a.dir, head+".new")
	if err := os.WriteFile(temp, fmt.Appendf(nil, "%d %s\n", seq, hash), 0o640); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(a.dir, head))
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
	a.file, a.lock = nil, nil
	return errors.Join(errs...)
}

// chain follows records one by one.
type chain struct {
	seq   uint64
	hash  string
	lines int
	any   bool // the first record may continue a chain that is not followed
}

// add checks that line is the next record, byte for byte as it was written.
func (c *chain) add(line []byte) error {
	if len(line) > maxLine {
		return errors.New("longer than any record")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var r Record
	if err := d.Decode(&r); err != nil {
		return errors.New("not a record")
	}
	said := r.Hash
	again, err := r.seal()
	if err != nil {
		return err
	}
	switch {
	case r.Hash != said || !bytes.Equal(again, line):
		return errors.New("changed since it was written: its hash differs")
	case c.any && c.lines == 0:
	case r.Seq != c.seq+1:
		return fmt.Errorf("record %d follows record %d", r.Seq, c.seq)
	case r.Prev != c.hash:
		return errors.New("does not follow the record before it: the chain is broken")
	}
	c.seq, c.hash = r.Seq, r.Hash
	c.lines++
	return nil
}

// AuditSummary is what a whole chain amounts to.
type AuditSummary struct {
	Records     uint64
	Files       int
	First, Last time.Time
	Hash        string // of the last record: kept elsewhere, it proves everything before it
}

func (s AuditSummary) String() string {
	if s.Records == 0 {
		return "no records"
	}
	return fmt.Sprintf("%d records in %d files, %s to %s, chain intact; last hash %s", s.Records, s.Files,
		s.First.Format(time.RFC3339), s.Last.Format(time.RFC3339), s.Hash)
}

// VerifyAudit follows the chain in dir from the first record to the last, and compares with
// the head. The error names file and line.
func VerifyAudit(dir string) (AuditSummary, error) {
	var s AuditSummary
	files, err := auditFiles(dir)
	if err != nil {
		return s, fmt.Errorf("cannot verify the audit log: %w", err)
	}
	noted, err := readHead(dir)
	if err != nil {
		return s, fmt.Errorf("cannot verify the audit log: %w", err)
	}
	c := chain{}
	seen := noted == "" // the head may be a record behind, never ahead
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return s, fmt.Errorf("cannot verify the audit log: %w", err)
		}
		for n := 1; len(b) > 0; n++ {
			line, rest, whole := bytes.Cut(b, []byte("\n"))
			err := c.add(line)
			if err == nil && !whole {
				err = errors.New("cut off in the middle")
			}
			if err != nil {
				return s, fmt.Errorf("%s:%d: %w", filepath.Join(dir, name), n, err)
			}
			s.note(line)
			seen = seen || noted == fmt.Sprintf("%d %s", c.seq, c.hash)
			b = rest
		}
	}
	s.Files, s.Records, s.Hash = len(files), c.seq, c.hash
	if !seen {
		return s, fmt.Errorf("%s: the log ends before the record that %s names: its end was cut off", filepath.Join(dir, current), head)
	}
	return s, nil
}

func (s *AuditSummary) note(line []byte) {
	var r Record
	if json.Unmarshal(line, &r) == nil { // checked before
		if s.First.IsZero() {
			s.First = r.Time
		}
		s.Last = r.Time
	}
}

func readHead(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, head))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// auditFiles lists the files of the log in the order of their records.
func auditFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	last := false
	for _, e := range entries {
		switch name := e.Name(); {
		case name == current:
			last = true
		case strings.HasPrefix(name, "audit-") && strings.HasSuffix(name, ".jsonl"):
			files = append(files, name) // numbers of equal length: by name is by number
		}
	}
	slices.Sort(files)
	if last {
		files = append(files, current)
	}
	return files, nil
}
