package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// records is the launcher's durable memory: a directory per job, with its record and its
// outputs, from acceptance until the front has acknowledged the end. Records are few and
// small, so the file system is the database, and a crash leaves a directory that says what it is.
type records struct{ dir string }

func openRecords(stateDir string) (*records, error) {
	r := &records{dir: filepath.Join(stateDir, "boxes")}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep records: %w", err)
	}
	return r, nil
}

func (r *records) path(job, file string) string { return filepath.Join(r.dir, job, file) }

// create makes the directory of a new job and its first record. An id that was used before is
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
	if err := writeSynced(temp, b); err != nil {
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

// load reads every record. A directory without a readable record is a creation that was cut
// off, before anything ran: it is removed and told.
func (r *records) load() (jobs []wire.Job, removed []string, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read records: %w", err)
	}
	for _, e := range entries {
		var j wire.Job
		b, err := os.ReadFile(r.path(e.Name(), fileRecord))
		if err == nil {
			err = wire.Decode(b, wire.MaxMessage, &j)
		}
		if err == nil && j.ID != e.Name() {
			err = fmt.Errorf("the record of %q names %q", e.Name(), j.ID)
		}
		if err != nil {
			removed = append(removed, e.Name())
			if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
				return nil, nil, fmt.Errorf("cannot remove a broken record: %w", err)
			}
			continue
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b wire.Job) int { return strings.Compare(a.ID, b.ID) })
	return jobs, removed, nil
}

// remove forgets a job.
func (r *records) remove(job string) error {
	if err := os.RemoveAll(filepath.Join(r.dir, job)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove a record: %w", err)
	}
	return nil
}

// free says how many bytes may still be written where the records are.
func (r *records) free() (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(r.dir, &s); err != nil {
		return 0, fmt.Errorf("cannot ask for free space: %w", err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}
