package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keep puts finished jobs with an artefact and a large result into a store.
func keep(t *testing.T, s *Store, jobs int) (ids []string) {
	t.Helper()
	for i := range jobs {
		j := newJob(fmt.Sprintf("job%03d", i), 1000)
		if err := s.Create(ctx, j); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Save(j.ID, "output.txt", strings.NewReader("what it wrote"), 100); err != nil {
			t.Fatal(err)
		}
		j.State, j.Ended, j.Reason = Completed, time.Now(), "exited"
		j.Result = fmt.Appendf(nil, `{"padding": %q}`, strings.Repeat("x", 10000))
		if err := s.Update(ctx, j); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, j.ID)
	}
	return ids
}

// intact are the jobs that can be read whole, with their artefact.
func intact(t *testing.T, s *Store, ids []string) (n int) {
	t.Helper()
	for _, id := range ids {
		j, err := s.Get(ctx, 1000, id)
		if err != nil {
			continue
		}
		a, err := s.Artefact(id, "output.txt")
		if err != nil || len(j.Result) < 10000 {
			t.Errorf("%s was kept, and not all of it: %v, %d bytes", id, err, len(j.Result))
			continue
		}
		a.Close()
		n++
	}
	return n
}

// A database that is damaged is set aside, and the service goes on: with whatever could be read of it.
func TestADamagedDatabaseIsSetAside(t *testing.T) {
	const jobs = 40
	for _, c := range []struct {
		name    string
		damage  func(b []byte) []byte
		suspect bool // found while it was used
		least   int  // jobs that are still there
	}{
		{"no database at all", func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), 1000) }, false, 0},
		{"its first page is gone", func(b []byte) []byte { return append(make([]byte, 4096), b[4096:]...) }, false, 0},
		{"a hole in the middle", func(b []byte) []byte {
			copy(b[len(b)/2:], make([]byte, 40960))
			return b
		}, true, jobs - 12},
		{"its end is cut off", func(b []byte) []byte { return b[:len(b)*3/4&^4095] }, true, jobs / 2},
		// The header has the version at 60, as a number with a sign.
		{"its version is none", func(b []byte) []byte { return append(append(b[:60:60], 0xff, 0xff, 0xff, 0xff), b[64:]...) }, false, 0},
		{"its version is not that of its tables", func(b []byte) []byte { return append(append(b[:60:60], 0, 0, 0, 0), b[64:]...) }, false, 0},
		{"it has no tables", func(b []byte) []byte { return append(append(b[:103:103], 0, 0), b[105:]...) }, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			ids := keep(t, s, jobs)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, databaseName)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := c.damage(b)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.suspect {
				if err := (&Store{dir: dir}).Suspect(); err != nil {
					t.Fatal(err)
				}
			}
			s = open(t, dir)
			a := s.Aside()
			if a == nil || a.Why == nil {
				t.Fatalf("set aside: %+v", a)
			}
			if kept, _ := os.ReadFile(filepath.Join(a.Path, databaseName)); !bytes.Equal(kept, damaged) {
				t.Error("what was set aside is not what was there")
			}
			n := intact(t, s, ids)
			if n < c.least || n != a.Kept {
				t.Errorf("%d of %d jobs are there, %d were told, at least %d were to be: %v", n, jobs, a.Kept, c.least, a.Why)
			}
			// It goes on, and is not set aside again.
			if err := s.Create(ctx, newJob("later", 1000)); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			if s.Aside() != nil || intact(t, s, ids) != n {
				t.Errorf("the next start: %+v, %d jobs", s.Aside(), intact(t, s, ids))
			}
		})
	}
}

// A database that is suspected and sound is left as it is.
func TestASoundDatabaseIsNotSetAside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ids := keep(t, s, 3)
	if err := s.Suspect(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	if s.Aside() != nil || intact(t, s, ids) != 3 {
		t.Errorf("%+v", s.Aside())
	}
	if _, err := os.Stat(filepath.Join(dir, suspectName)); err == nil {
		t.Error("it is still suspected")
	}
}

// A kill while a database is set aside loses nothing: the next start goes on with it.
func TestSettingAsideIsGoneOnWith(t *testing.T) {
	whole := t.TempDir()
	s := open(t, whole)
	ids := keep(t, s, 10)
	s.Close()
	for _, moved := range [][]string{{}, {"jobs"}, {"jobs", databaseName}} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		aside := filepath.Join(dir, asidePrefix+"20260101T000000.000Z")
		if err := os.Mkdir(aside, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range moved {
			if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
				t.Fatal(err)
			}
		}
		if len(moved) < 2 { // what is left is what was damaged
			path := filepath.Join(dir, databaseName)
			if err := os.Truncate(path, 5*4096); err != nil {
				t.Fatal(err)
			}
			if err := (&Store{dir: dir}).Suspect(); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, dir)
		if a := s.Aside(); a == nil || a.Path != aside || len(moved) == 2 && a.Kept != len(ids) {
			t.Errorf("moved %v: %+v", moved, a)
		}
		if len(moved) == 2 && intact(t, s, ids) != len(ids) {
			t.Errorf("moved %v: %d jobs", moved, intact(t, s, ids))
		}
	}
}

// What is set aside is bounded.
func TestOnlySoMuchIsKeptAside(t *testing.T) {
	dir := t.TempDir()
	for range maxAside + 2 {
		if err := os.WriteFile(filepath.Join(dir, databaseName), []byte(strings.Repeat("garbage ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		open(t, dir).Close()
		time.Sleep(2 * time.Millisecond) // their names have milliseconds
	}
	if all, err := asides(dir); err != nil || len(all) != maxAside {
		t.Errorf("%v, %v", all, err)
	}
}

// What had not got from the log into the database is there, too, when the power goes off between the two.
func TestTheLogOfADatabaseIsSetAsideWithIt(t *testing.T) {
	whole, dir := t.TempDir(), t.TempDir()
	s := open(t, whole)
	keep(t, s, 1)
	if _, err := s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	later := newJob("later", 1000)
	if err := s.Create(ctx, later); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(whole)); err != nil { // as the power goes off
		t.Fatal(err)
	}
	aside := filepath.Join(dir, asidePrefix+"20260101T000000.000Z")
	if err := os.Mkdir(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"jobs", databaseName + "-shm", databaseName + "-wal"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir)
	if _, err := s.Get(ctx, 1000, later.ID); err != nil || s.Aside() == nil || s.Aside().Kept != 2 {
		t.Errorf("%v, %+v", err, s.Aside())
	}
	s.Close()
	// An operator takes the old one away: that is no crash.
	if err := os.Remove(filepath.Join(aside, databaseName)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, err := s.Get(ctx, 1000, later.ID); err != nil || s.Aside() != nil {
		t.Errorf("%v, %+v", err, s.Aside())
	}
}

// Where there is no space to take over what was set aside, a later start does it.
func TestTakingOverWaitsForSpace(t *testing.T) {
	old := t.TempDir()
	s := open(t, old)
	ids := keep(t, s, 10)
	s.Close()
	dir := t.TempDir()
	s = open(t, dir)
	if err := os.CopyFS(filepath.Join(dir, asidePrefix+"20260101T000000.000Z"), os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	var pages int
	if err := s.db.QueryRow("PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", pages+5)); err != nil {
		t.Fatal(err)
	}
	if err := s.takeOver(); err != nil || !errors.Is(s.Aside().Why, ErrDiskFull) || s.Aside().Kept == len(ids) {
		t.Fatalf("%v, %+v", err, s.Aside())
	}
	s.Close()
	s = open(t, dir)
	if a := s.Aside(); a == nil || a.Why != nil || intact(t, s, ids) != len(ids) {
		t.Errorf("%+v, %d jobs", a, intact(t, s, ids))
	}
}
