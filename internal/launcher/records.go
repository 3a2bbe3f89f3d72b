package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// The files of a job in its record directory. The scanner's two are written by the box, the
// others by the launcher before the launch.
const (
	fileStdout = "stdout"
	fileStderr = "stderr"
	fileArgv   = "argv"
	fileSpec   = "spec"
	fileRecord = "record"
)

var artefacts = []string{fileStdout, fileStderr, fileArgv, fileSpec}

// maxRecords bounds the jobs that are kept for a front that does not come to take them.
const maxRecords = 256

// maxRecordsPerUID bounds those of one user: the last quarter is for others.
const maxRecordsPerUID = maxRecords - maxRecords/4

// recordHeader is the first line of a record, before the job in CBOR. Its number changes with
// what is stored, so that after a downgrade a record is put aside and not misread.
const (
	recordHeader  = "secmcpd record "
	recordVersion = "1"
)

// maxBroken bounds the records that are kept aside for the operator. Beyond it the oldest goes.
const maxBroken = 16

// records is the launcher's durable memory: a directory per job, with its record and its
// outputs, from acceptance until the front has acknowledged the end. Records are few and
// small, so the file system is the database, and a crash leaves a directory that says what it is.
//
// What cannot be read is never deleted at once: it is put aside, for it may be all that is left
// of a scan.
type records struct {
	dir    string
	broken string // where what cannot be read is put aside
}

func openRecords(stateDir string) (*records, error) {
	r := &records{dir: filepath.Join(stateDir, "boxes"), broken: filepath.Join(stateDir, "boxes.broken")}
	for _, dir := range []string{r.dir, r.broken} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot keep records: %w", err)
		}
	}
	return r, nil
}

func (r *records) path(job, file string) string { return filepath.Join(r.dir, job, file) }

// create makes the directory of a new job and its first record. An id that is still kept is
// refused: the front may lie.
func (r *records) create(j wire.Job) error {
	if err := os.Mkdir(filepath.Join(r.dir, j.ID), 0o700); err != nil {
		return fmt.Errorf("cannot keep a record: %w", err)
	}
	if err := r.write(j); err != nil {
		return errors.Join(err, r.remove(j.ID))
	}
	return syncDir(r.dir)
}

// write replaces the record. It is on disk when write returns.
func (r *records) write(j wire.Job) error {
	b, err := wire.Encode(&j, wire.MaxMessage)
	if err != nil {
		return err
	}
	temp := r.path(j.ID, fileRecord+".new")
	if err := writeSynced(temp, append([]byte(recordHeader+recordVersion+"\n"), b...)); err != nil {
		return fmt.Errorf("cannot keep a record: %w", err)
	}
	if err := os.Rename(temp, r.path(j.ID, fileRecord)); err != nil {
		return fmt.Errorf("cannot keep a record: %w", err)
	}
	return syncDir(filepath.Join(r.dir, j.ID))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// probe writes and syncs a file beside the records, as each record is.
func (r *records) probe() error {
	path := filepath.Join(filepath.Dir(r.dir), ".probe")
	err := writeSynced(path, make([]byte, 4<<10))
	if gone := os.Remove(path); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// output makes one of the scanner's output files. O_EXCL: nothing that exists is ever written
// to; O_APPEND: a scanner cannot overwrite what the front has read. The box's filter of system
// calls keeps it from switching that off.
func (r *records) output(job, file string) (*os.File, error) {
	return os.OpenFile(r.path(job, file), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
}

// note keeps what the launcher says about a launch (argv, Spec) beside the scanner's output.
func (r *records) note(job, file string, b []byte) error {
	return os.WriteFile(r.path(job, file), b, 0o600)
}

// open gives read-only descriptors of those files of a job that exist, in the order of names.
func (r *records) open(job string) (names []string, files []*os.File) {
	for _, name := range artefacts {
		f, err := os.OpenFile(r.path(job, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue // the job did not come so far
		}
		names, files = append(names, name), append(files, f)
	}
	return names, files
}

// unreadable is an entry among the records that cannot be read, and why.
type unreadable struct{ name, why string }

// load reads every record. A directory with nothing in it, or with a first record that was not
// finished, is a creation that was cut off before anything ran: it is removed and told. What
// cannot be read is told and left where it is, for setAside.
func (r *records) load() (jobs []wire.Job, removed []string, unread []unreadable, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot read records: %w", err)
	}
	for _, e := range entries {
		j, err := r.read(e.Name())
		switch {
		case err == nil:
			jobs = append(jobs, j)
		case errors.Is(err, fs.ErrNotExist) && r.neverBegan(e.Name()):
			removed = append(removed, e.Name())
			if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
				return nil, nil, nil, fmt.Errorf("cannot remove a record that was cut off: %w", err)
			}
		default:
			unread = append(unread, unreadable{e.Name(), err.Error()})
		}
	}
	slices.SortFunc(jobs, func(a, b wire.Job) int { return strings.Compare(a.ID, b.ID) })
	return jobs, removed, unread, nil
}

func (r *records) read(name string) (j wire.Job, err error) {
	b, err := os.ReadFile(r.path(name, fileRecord))
	if err != nil {
		return j, err
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	version, is := strings.CutPrefix(string(line), recordHeader)
	switch {
	case !is:
		return j, errors.New("it is no record")
	case version != recordVersion:
		return j, fmt.Errorf("it is of version %.20q, this program reads version %s", version, recordVersion)
	}
	if err := wire.Decode(rest, wire.MaxMessage, &j); err != nil {
		return j, err
	}
	if j.ID != name {
		return j, fmt.Errorf("it is the record of %.40q", j.ID)
	}
	return j, nil
}

// neverBegan says that a directory holds nothing but, perhaps, the beginning of its first record.
func (r *records) neverBegan(name string) bool {
	entries, err := os.ReadDir(filepath.Join(r.dir, name))
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != fileRecord+".new" })
}

// setAside moves what cannot be read out of the way, and says where to. Names begin with the
// time, so that the oldest is the first.
func (r *records) setAside(name string, now time.Time) (string, error) {
	to := filepath.Join(r.broken, fmt.Sprintf("%s-%.64s", now.UTC().Format("20060102T150405.000000000Z"), name))
	if err := os.Rename(filepath.Join(r.dir, name), to); err != nil {
		return "", fmt.Errorf("cannot put a broken record aside: %w", err)
	}
	kept, err := os.ReadDir(r.broken)
	if err != nil {
		return "", fmt.Errorf("cannot put a broken record aside: %w", err)
	}
	for _, e := range kept[:max(len(kept)-maxBroken, 0)] {
		if err := os.RemoveAll(filepath.Join(r.broken, e.Name())); err != nil {
			return "", fmt.Errorf("cannot remove an old broken record: %w", err)
		}
	}
	return to, errors.Join(syncDir(r.dir), syncDir(r.broken))
}

// remove forgets a job. Its record goes last: outputs without one would be taken for damage.
func (r *records) remove(job string) error {
	for _, name := range artefacts {
		if err := os.Remove(r.path(job, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove a record: %w", err)
		}
	}
	if err := os.RemoveAll(filepath.Join(r.dir, job)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove a record: %w", err)
	}
	return nil
}

// written is how many bytes the scanner of a job has written so far.
func (r *records) written(job string) (n int64) {
	for _, name := range []string{fileStdout, fileStderr} {
		if info, err := os.Lstat(r.path(job, name)); err == nil { // it may not have come so far
			n += info.Size()
		}
	}
	return n
}

// free says how many bytes may still be written where the records are.
func (r *records) free() (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(r.dir, &s); err != nil {
		return 0, fmt.Errorf("cannot ask for free space: %w", err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}
