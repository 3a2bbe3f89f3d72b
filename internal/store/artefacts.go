package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// The artefacts that a job can have. The set is closed: a name is never made from a request.
var names = []string{"nmap.xml", "output.txt", "stderr.txt", "argv.json", "spec.txt", "runner.yaml"}

// Artefact is one file of a job.
type Artefact struct {
	Name string
	Size int64
}

func (s *Store) path(id string) string { return filepath.Join(s.dir, "jobs", id) }

// Save copies an artefact into place, at most limit bytes of it; cut says that there was more.
// Saving it again replaces it. It is synced when Save returns; the row that speaks of it comes
// afterwards.
func (s *Store) Save(id, name string, from io.Reader, limit int64) (cut bool, err error) {
	if !slices.Contains(names, name) || id != filepath.Base(id) || id == "." || id == ".." {
		return false, fmt.Errorf("cannot keep artefact %q of %q: no such name", name, id)
	}
	if err := os.Mkdir(s.path(id), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, named("keep artefact", err)
	}
	temp := filepath.Join(s.path(id), "."+name)
	cut, err = write(temp, from, limit)
	if err == nil {
		err = os.Rename(temp, filepath.Join(s.path(id), name))
	}
	if err == nil {
		err = syncDir(s.path(id))
	}
	if err != nil {
		return false, errors.Join(named("keep artefact", err), ignoreMissing(os.Remove(temp)))
	}
	return cut, nil
}

func write(path string, from io.Reader, limit int64) (cut bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false, err
	}
	n, err := io.Copy(f, io.LimitReader(from, limit))
	if err == nil && n == limit {
		more := [1]byte{}
		_, readErr := io.ReadFull(from, more[:])
		cut = readErr == nil
	}
	return cut, errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Artefacts lists what a job has.
func (s *Store) Artefacts(id string) []Artefact {
	var found []Artefact
	for _, name := range names {
		if info, err := os.Lstat(filepath.Join(s.path(id), name)); err == nil && info.Mode().IsRegular() {
			found = append(found, Artefact{name, info.Size()})
		}
	}
	return found
}

// Artefact opens one file of a job. Whose job it is, Get has said before.
func (s *Store) Artefact(id, name string) (*os.File, error) {
	if !slices.Contains(names, name) || id != filepath.Base(id) {
		return nil, ErrNotFound
	}
	f, err := os.Open(filepath.Join(s.path(id), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	return f, err
}

func (s *Store) size(id string) (total int64) {
	for _, a := range s.Artefacts(id) {
		total += a.Size
	}
	return total
}
