package observability

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// chain follows records one by one.
type chain struct {
	seq   uint64
	hash  string
	lines int
	any   bool // the first record may continue a chain that is not followed
}

// What is wrong with a line, beside its place in the chain.
var (
	errLong    = errors.New("longer than any record")
	errNone    = errors.New("what stands here is no record")
	errChanged = errors.New("changed since it was written: its hash differs")
)

// gap is a record that is not the one that was to come.
type gap struct {
	after chain
	found Record
}

func (g *gap) Error() string {
	return fmt.Sprintf("record %d follows record %d, and does not continue its chain", g.found.Seq, g.after.seq)
}

// add checks that line is the next record, byte for byte as it was written.
func (c *chain) add(line []byte) error {
	if len(line) > maxLine {
		return errLong
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var r Record
	if err := d.Decode(&r); err != nil {
		return errNone
	}
	said := r.Hash
	again, err := r.seal()
	if err != nil {
		return err
	}
	switch {
	case r.Hash != said || !bytes.Equal(again, line):
		return errChanged
	case c.any && c.lines == 0:
	case r.Seq != c.seq+1 || r.Prev != c.hash:
		return &gap{*c, r}
	}
	c.seq, c.hash = r.Seq, r.Hash
	c.lines++
	return nil
}

// eachLine gives every line without its newline, and whether it had one, until do returns an error.
// io.EOF ends it without one.
func eachLine(r io.Reader, do func(line []byte, whole bool) error) error {
	b := bufio.NewReaderSize(r, maxLine+1)
	for {
		line, err := b.ReadSlice('\n')
		last := err != nil
		switch {
		case err == nil:
			err = do(line[:len(line)-1], true)
		case errors.Is(err, bufio.ErrBufferFull): // the chain refuses it
			err = do(line, true)
		case errors.Is(err, io.EOF) && len(line) > 0:
			err = do(line, false)
		}
		if errors.Is(err, io.EOF) || err == nil && last {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func eachLineOf(path string, do func(line []byte, whole bool) error) error {
	f, err := openFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return eachLine(f, do)
}

// openFile opens a file of a log to read it, and nothing else that has its name: a pipe would be waited for.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(cmp.Or(err, error(&AuditFault{File: path, What: "it is no regular file"})), f.Close())
	}
	return f, nil
}

// AuditFault is the first thing in a log that is not as it was written.
type AuditFault struct {
	File   string
	Line   int    // 0: the file as a whole
	Record uint64 // that was to stand there; 0: none
	What   string
}

func (f *AuditFault) Error() string {
	at := f.File
	if f.Line > 0 {
		at += fmt.Sprintf(":%d", f.Line)
	}
	if f.Record > 0 {
		at += fmt.Sprintf(": record %d", f.Record)
	}
	return at + ": " + f.What
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
// the head. What it finds first that is not as it was written is an [AuditFault]. It reads a log
// that is being written to, too.
func VerifyAudit(dir string) (AuditSummary, error) { return verifyAudit(dir, rotateAt) }

func verifyAudit(dir string, rotateAt int64) (AuditSummary, error) {
	for again := 0; ; again++ {
		s, err := verifyOnce(dir, rotateAt)
		// A write under way looks like a line that is cut off.
		if again < 5 && errors.Is(err, errUnfinished) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		var fault *AuditFault
		if err != nil && !errors.As(err, &fault) {
			err = fmt.Errorf("cannot verify the audit log: %w", err)
		}
		return s, err
	}
}

// errUnfinished is a last line without its end, which may be on its way.
var errUnfinished error = &AuditFault{What: "cut off in the middle"}

// Is tells a fault by what it says.
func (f *AuditFault) Is(other error) bool {
	o, is := other.(*AuditFault)
	return is && o.What == f.What
}

// verification is a log while its chain is followed.
type verification struct {
	dir      string
	files    []string
	newest   *os.File // that of current; nil: there is none
	rotateAt int64    // from which size on a file is put aside
	noted    headText
	at       chain
	summary  AuditSummary
	named    bool        // the record that the head names was found
	tampered *AuditFault // the launcher's own record of it, the first
	last     string      // the file of the last record, and its line
	lastLine int
}

func verifyOnce(dir string, rotateAt int64) (AuditSummary, error) {
	v := &verification{dir: dir, rotateAt: rotateAt}
	var err error
	// Before the log: it may be behind, never ahead.
	if v.noted, err = readHead(dir); err != nil {
		return v.summary, err
	}
	if v.files, v.newest, err = openFiles(dir); err != nil {
		return v.summary, err
	}
	defer v.newest.Close() // nil can be closed
	v.named = v.noted.seq == 0 && v.noted.hash == "" && !v.noted.broken
	v.summary.Files = len(v.files)
	for i := range v.files {
		if err := v.file(i); err != nil {
			return v.summary, err
		}
	}
	v.summary.Records, v.summary.Hash = v.at.seq, v.at.hash
	return v.summary, v.end()
}

// openFiles lists the files of a log as they are at one moment. The newest is opened: it may get
// another name, and another file its name, as soon as the moment is over.
func openFiles(dir string) (files []string, newest *os.File, err error) {
	for again := 0; ; again++ {
		newest, err = openFile(filepath.Join(dir, current))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if files, err = auditFiles(dir); err != nil {
			newest.Close()
			return nil, nil, err
		}
		if same(newest, filepath.Join(dir, current)) || again == 100 {
			return files, newest, nil
		}
		newest.Close()
	}
}

// same says that a file still has its name; of none, that there still is none.
func same(f *os.File, path string) bool {
	there, err := os.Stat(path)
	if f == nil || err != nil {
		return f == nil && errors.Is(err, fs.ErrNotExist)
	}
	is, err := f.Stat()
	return err == nil && os.SameFile(is, there)
}

// lines gives the lines of one file.
func (v *verification) lines(i int, do func(line []byte, whole bool) error) error {
	if v.files[i] == current && v.newest != nil {
		return eachLine(io.NewSectionReader(v.newest, 0, math.MaxInt64), do)
	}
	return eachLineOf(v.path(v.files[i]), do)
}

func (v *verification) path(name string) string { return filepath.Join(v.dir, name) }

// file follows the chain through one file.
func (v *verification) file(i int) error {
	name, n := v.files[i], 0
	return v.lines(i, func(line []byte, whole bool) error {
		n++
		fault := &AuditFault{File: v.path(name), Line: n, Record: v.at.seq + 1}
		err := v.at.add(line)
		var g *gap
		switch {
		case errors.As(err, &g):
			return v.broken(fault, i, g)
		case err != nil && !whole, err == nil && !whole:
			fault.What = "cut off in the middle"
			return fault
		case err != nil:
			fault.What = err.Error()
			return fault
		case n == 1 && name != current && name != rotated(v.at.seq):
			fault.What = "the name of its file is of another record"
			return fault
		}
		v.last, v.lastLine = name, n
		return v.take(line, fault)
	})
}

// take notes a record that follows.
func (v *verification) take(line []byte, at *AuditFault) error {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	if v.summary.First.IsZero() {
		v.summary.First = r.Time
	}
	v.summary.Last = r.Time
	if r.Event == Tampered && v.tampered == nil {
		at.What = "the launcher found the log tampered with when it was started: what is before this record is not all that was written"
		v.tampered = at
	}
	if v.noted.seq == r.Seq && v.noted.hash != "" {
		if v.noted.hash != r.Hash {
			at.What = "not the one that " + head + " names: it was written anew, with all that follows"
			return at
		}
		v.named = true
	}
	return nil
}

// broken says what is wrong where the chain does not go on.
func (v *verification) broken(at *AuditFault, i int, g *gap) error {
	expected, found := g.after.seq+1, g.found.Seq
	first := at.Line == 1
	switch {
	case found == expected && first && expected == 1:
		at.What = "it continues a record that is not here: all before it is gone, or it was written anew"
	case found == expected && first:
		at.What = fmt.Sprintf("it does not follow record %d: its file was replaced, or the one before was written anew", g.after.seq)
	case found == expected:
		at.What = fmt.Sprintf("it does not follow record %d: one of the two was written anew or put in", g.after.seq)
	case found == g.after.seq && g.found.Hash == g.after.hash:
		at.Record, at.What = found, "it stands here twice"
	case found == g.after.seq:
		at.Record, at.What = found, "it stands here twice, and differs: one of the two was put in"
	case found < expected:
		at.Record, at.What = found, fmt.Sprintf("it stands here again, after record %d", g.after.seq)
	default:
		where, err := v.find(i, at.Line, g.after)
		if err != nil {
			return err
		}
		missing := "missing"
		if found-expected > 1 {
			missing = fmt.Sprintf("missing, with those up to %d", found-1)
		}
		switch {
		case where != "":
			at.What = fmt.Sprintf("out of its order: it stands at %s, and here is record %d", where, found)
		case first && g.after.seq == 0:
			at.What = fmt.Sprintf("%s: the log begins with record %d, what was before this file is gone", missing, found)
		case first && v.files[i] == rotated(expected):
			at.What = fmt.Sprintf("%s: its file begins with record %d", missing, found)
		case first && v.gone(g.after.seq, i):
			at.What = fmt.Sprintf("%s: %s is gone", missing, rotated(expected))
		case first:
			at.What = fmt.Sprintf("%s: the end of %s was cut off, or a file after it is gone", missing, v.files[i-1])
		default:
			at.What = fmt.Sprintf("%s: record %d follows record %d", missing, found, g.after.seq)
		}
	}
	return at
}

// gone says that a whole file is missing before the one with index i: the one before that is as long
// as those are that were put aside.
func (v *verification) gone(seq uint64, i int) bool {
	info, err := os.Stat(v.path(v.files[i-1]))
	return err == nil && v.files[i-1] != current && info.Size() >= v.rotateAt && seq > 0
}

// find looks for the record that was to come in what is left of the log.
func (v *verification) find(i, line int, after chain) (where string, err error) {
	for ; i < len(v.files) && where == ""; i, line = i+1, 0 {
		n := 0
		err := v.lines(i, func(text []byte, _ bool) error {
			n++
			var r Record
			if n > line && json.Unmarshal(text, &r) == nil && r.Seq == after.seq+1 && r.Prev == after.hash {
				where = fmt.Sprintf("%s:%d", v.files[i], n)
				return io.EOF
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return where, nil
}

// end compares the end of the log with its head.
func (v *verification) end() error {
	last := &AuditFault{File: v.path(current), Record: v.at.seq + 1}
	if v.last == current {
		last.Line = v.lastLine + 1
	}
	switch {
	case v.noted.missing && len(v.files) > 0:
		return &AuditFault{File: v.path(head), What: "it is gone, so nothing says that the log has its end"}
	case v.noted.missing:
		return nil // it has not begun
	case v.noted.broken:
		return &AuditFault{File: v.path(head), What: "it names no record, so nothing says that the log has its end"}
	case !v.named:
		last.What = fmt.Sprintf("missing: %s names record %d, and the log ends with record %d: its end was cut off", head, v.noted.seq, v.at.seq)
		if v.last != current && !slices.Contains(v.files, current) {
			last.What += ", with this file"
		}
		return last
	case v.tampered != nil:
		return v.tampered
	}
	return nil
}

// rotated is the name of a file that begins with a record and was put aside.
func rotated(first uint64) string { return fmt.Sprintf("audit-%020d.jsonl", first) }

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

// ReadAudit gives the records of a log in dir in their order, with their lines, until do returns an
// error; io.EOF ends it without one. It holds one record at a time, and does not follow the chain.
func ReadAudit(dir string, do func(r Record, line []byte) error) error {
	v := &verification{dir: dir}
	var err error
	if v.files, v.newest, err = openFiles(dir); err != nil {
		return fmt.Errorf("cannot read the audit log: %w", err)
	}
	defer v.newest.Close() // nil can be closed
	over := false
	for i, name := range v.files {
		n := 0
		err := v.lines(i, func(line []byte, whole bool) error {
			n++
			var r Record
			if err := json.Unmarshal(line, &r); err != nil {
				if !whole && name == current {
					return io.EOF // it is being written
				}
				return &AuditFault{File: v.path(name), Line: n, What: errNone.Error()}
			}
			err := do(r, line)
			over = errors.Is(err, io.EOF)
			return err
		})
		if err != nil || over {
			return err
		}
	}
	return nil
}
