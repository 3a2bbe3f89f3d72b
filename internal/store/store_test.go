package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
)

var ctx = context.Background()

func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_WRITER"); dir != "" {
		writeForEver(dir)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newJob(id string, uid uint32) Job {
	return Job{ID: id, UID: uid, Tool: "nmap_scan", Profile: "quick", Created: time.Now(), Arguments: []byte(`{}`)}
}

func create(t *testing.T, s *Store, id string, uid uint32) Job {
	t.Helper()
	j := newJob(id, uid)
	if err := s.Create(ctx, j); err != nil {
		t.Fatal(err)
	}
	return j
}

func finish(t *testing.T, s *Store, j Job, state State) {
	t.Helper()
	j.State, j.Ended, j.Result = state, time.Now(), []byte(`{"hosts":[]}`)
	if err := s.Update(ctx, j); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasAnsweredIsThereAfterAReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	j := create(t, s, "a", 1000)
	if cut, err := s.Save("a", "nmap.xml", strings.NewReader("<nmaprun/>"), 100); err != nil || cut {
		t.Fatal(cut, err)
	}
	finish(t, s, j, Completed)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	got, err := s.Get(ctx, 1000, "a")
	if err != nil || got.State != Completed || string(got.Result) != `{"hosts":[]}` || got.Ended.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	f, err := s.Artefact("a", "nmap.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, _ := io.ReadAll(f); string(b) != "<nmaprun/>" {
		t.Errorf("%q", b)
	}
}

// Of every pair of states: either the change is one of the table, or it is refused and nothing
// changes; a finished job stays as it is without an error, since its end is told again.
func TestEveryChangeOfState(t *testing.T) {
	all := []State{Queued, Running, Completed, Partial, Truncated, Cancelled, Failed, Refused, Interrupted}
	s := open(t, t.TempDir())
	for i, from := range all {
		for k, to := range all {
			id := fmt.Sprintf("j%d-%d", i, k)
			j := create(t, s, id, 1)
			if from != Queued {
				finish(t, s, j, from)
			}
			j.State = to
			err := s.Update(ctx, j)
			got, getErr := s.Get(ctx, 1, id)
			if getErr != nil {
				t.Fatal(getErr)
			}
			allowed := from == to || slices.Contains(next[from], to)
			switch {
			case from.Finished() && to.Finished():
				if err != nil || got.State != from {
					t.Errorf("%s to %s: %v, now %s", from, to, err, got.State)
				}
			case allowed:
				if err != nil || got.State != to {
					t.Errorf("%s to %s: %v, now %s", from, to, err, got.State)
				}
			default:
				if err == nil || got.State != from {
					t.Errorf("%s to %s: %v, now %s", from, to, err, got.State)
				}
			}
		}
	}
}

func TestAnotherUsersJobDoesNotExist(t *testing.T) {
	s := open(t, t.TempDir())
	create(t, s, "a", 1000)
	if _, err := s.Get(ctx, 1001, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := s.Get(ctx, 1000, "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if jobs, _, err := s.List(ctx, 1001, Filter{Limit: 10}); err != nil || len(jobs) != 0 {
		t.Errorf("%v, %v", jobs, err)
	}
	if _, _, err := s.List(ctx, 1001, Filter{Limit: 10, Before: "a"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a cursor of another user: %v", err)
	}
	if err := s.Create(ctx, newJob("a", 1001)); !errors.Is(err, ErrExists) {
		t.Errorf("%v", err)
	}
}

// What follows a job is found by it, the oldest first, after a reopen too, and only by the user whose they are.
func TestWhatFollowsAJob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	create(t, s, "first", 1000)
	for _, id := range []string{"second", "third"} {
		j := newJob(id, 1000)
		j.Follows = "first"
		if err := s.Create(t.Context(), j); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	all, err := s.Following(t.Context(), 1000, "first")
	if err != nil || len(all) != 2 || all[0].ID != "second" || all[1].ID != "third" || all[0].Follows != "first" {
		t.Errorf("%+v, %v", all, err)
	}
	for uid, id := range map[uint32]string{1000: "second", 1001: "first"} {
		if none, err := s.Following(t.Context(), uid, id); err != nil || len(none) > 0 {
			t.Errorf("what follows %s of %d: %+v, %v", id, uid, none, err)
		}
	}
	if j, err := s.Get(t.Context(), 1000, "first"); err != nil || j.Follows != "" {
		t.Errorf("%+v, %v", j, err)
	}
}

func TestAListIsWalkedPageByPage(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 25 {
		j := create(t, s, fmt.Sprintf("j%02d", i), 1)
		if i%5 == 0 {
			finish(t, s, j, Failed)
		}
	}
	var seen []string
	f := Filter{Limit: 10}
	for range 10 {
		jobs, more, err := s.List(ctx, 1, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			seen = append(seen, j.ID)
		}
		if f.Before = more; more == "" {
			break
		}
	}
	if len(seen) != 25 || seen[0] != "j24" || seen[24] != "j00" {
		t.Errorf("%v", seen)
	}
	if jobs, _, err := s.List(ctx, 1, Filter{Limit: 100, State: Failed}); err != nil || len(jobs) != 5 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
	for _, limit := range []int{0, 101, -1} {
		if _, _, err := s.List(ctx, 1, Filter{Limit: limit}); err == nil {
			t.Errorf("limit %d was taken", limit)
		}
	}
	if unfinished, err := s.Unfinished(ctx); err != nil || len(unfinished) != 20 {
		t.Errorf("%d unfinished, %v", len(unfinished), err)
	}
}

func TestBoundsAndNames(t *testing.T) {
	s := open(t, t.TempDir())
	for says, change := range map[string]func(*Job){
		"an id with a path":   func(j *Job) { j.ID = "../x" },
		"an empty id":         func(j *Job) { j.ID = "" },
		"a hidden id":         func(j *Job) { j.ID = ".x" },
		"arguments too large": func(j *Job) { j.Arguments = make([]byte, maxArguments+1) },
		"a long correlation":  func(j *Job) { j.Correlation = strings.Repeat("x", 65) },
	} {
		j := newJob("a", 1)
		change(&j)
		if err := s.Create(ctx, j); err == nil {
			t.Errorf("%s was kept", says)
		}
	}
	for _, c := range [][2]string{{"a", "evil"}, {"../a", "nmap.xml"}, {"..", "nmap.xml"}, {"a", "../jobs.db"}} {
		if _, err := s.Save(c[0], c[1], strings.NewReader("x"), 10); err == nil {
			t.Errorf("%v was kept", c)
		}
		if f, err := s.Artefact(c[0], c[1]); err == nil {
			f.Close()
			t.Errorf("%v was opened", c)
		}
	}
	for size, cut := range map[int]bool{9: false, 10: false, 11: true} {
		got, err := s.Save("a", "nmap.xml", bytes.NewReader(make([]byte, size)), 10)
		if err != nil || got != cut || s.size("a") > 10 {
			t.Errorf("%d bytes: cut %v, %v, %d kept", size, got, err, s.size("a"))
		}
	}
}

func TestPruneTakesTheOldestFinished(t *testing.T) {
	for says, c := range map[string]struct {
		limits Limits
		left   int
	}{
		"by number": {Limits{Jobs: 4, Bytes: 1 << 30, Age: time.Hour}, 4},
		"by size":   {Limits{Jobs: 100, Bytes: 3500, Age: time.Hour}, 3},
		"by age":    {Limits{Jobs: 100, Bytes: 1 << 30, Age: 0}, 0},
		"not":       {Limits{Jobs: 100, Bytes: 1 << 30, Age: time.Hour}, 10},
	} {
		dir := t.TempDir()
		s := open(t, dir)
		create(t, s, "running", 1)
		for i := range 10 {
			j := create(t, s, fmt.Sprint("j", i), 1)
			if _, err := s.Save(j.ID, "nmap.xml", bytes.NewReader(make([]byte, 1000)), 1<<20); err != nil {
				t.Fatal(err)
			}
			finish(t, s, j, Completed)
		}
		n, err := s.Prune(ctx, c.limits, time.Now().Add(time.Second))
		if err != nil || n != 10-c.left {
			t.Errorf("%s: %d removed, %v", says, n, err)
		}
		jobs, _, _ := s.List(ctx, 1, Filter{Limit: 100})
		entries, _ := os.ReadDir(filepath.Join(dir, "jobs"))
		if len(jobs) != c.left+1 || len(entries) != c.left || jobs[len(jobs)-1].ID != "running" || c.left > 0 && jobs[0].ID != "j9" {
			t.Errorf("%s: %d jobs, %d directories", says, len(jobs), len(entries))
		}
	}
}

func TestAFullDiskIsSaidAndRecoveredFrom(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	before := create(t, s, "before", 1)
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 4<<20), 0o600) // fails when all is full: that is its purpose
	var full error
	for i := range 2000 {
		if full = s.Create(ctx, newJob(fmt.Sprint("x", i), 1)); full != nil {
			break
		}
	}
	if !errors.Is(full, ErrDiskFull) {
		t.Errorf("create: %v", full)
	}
	if _, err := s.Save("before", "nmap.xml", bytes.NewReader(make([]byte, 1<<20)), 1<<20); !errors.Is(err, ErrDiskFull) {
		t.Errorf("save: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Save("before", "nmap.xml", strings.NewReader("x"), 10); err != nil {
		t.Errorf("with space again: %v", err)
	}
	finish(t, s, before, Completed)
	if err := s.Create(ctx, newJob("after", 1)); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// What is logged of a failure has no text but the program's, SQLite's and the kernel's own.
func TestAFailureSaysItsStage(t *testing.T) {
	for _, x := range []struct {
		err  error
		says string
	}{
		{sqlite3.Error{Code: sqlite3.ErrIoErr, ExtendedCode: sqlite3.ErrIoErrRead}, "cannot read job: disk I/O error"},
		{sqlite3.Error{Code: sqlite3.ErrFull}, "cannot read job: no space left for jobs and results"},
		{&os.PathError{Op: "open", Path: "/var/lib/10.0.0.5", Err: unix.EACCES}, "cannot read job: permission denied"},
		{errors.New("10.0.0.5"), "cannot read job: *errors.errorString"},
	} {
		var at interface{ Stage() string }
		if err := named("read job", x.err); !errors.As(err, &at) || at.Stage() != x.says {
			t.Errorf("%v says %v, not %q", err, at, x.says)
		}
	}
	s := open(t, t.TempDir())
	create(t, s, "a", 1)
	if _, err := s.db.Exec("DROP TABLE jobs"); err != nil {
		t.Fatal(err)
	}
	var at interface{ Stage() string }
	if _, err := s.Get(ctx, 1, "a"); !errors.As(err, &at) || at.Stage() != "cannot read job: SQL logic error" {
		t.Errorf("%v says %v", err, at)
	}
}

func TestADatabaseThatIsNotOursIsRefused(t *testing.T) {
	t.Run("newer", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if s, err := Open(dir); err == nil {
			s.Close()
			t.Error("it was opened")
		}
	})
}

// A writer that is killed at any moment: what it was answered is there, whole.
func TestKilledWritersLoseNothingThatWasAnswered(t *testing.T) {
	dir := t.TempDir()
	finished := map[string]bool{}
	for range 30 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STORE_WRITER="+dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+rand.IntN(100)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		for lines := bufio.NewScanner(&out); lines.Scan(); {
			finished[lines.Text()] = true
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for id := range finished {
			j, err := s.Get(ctx, 1, id)
			if err != nil || j.State != Completed || len(s.Artefacts(id)) != 2 || s.size(id) != 2*5000 {
				t.Fatalf("job %s: %s, %v, artefacts %v", id, j.State, err, s.Artefacts(id))
			}
		}
		entries, err := os.ReadDir(filepath.Join(dir, "jobs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := s.Get(ctx, 1, e.Name()); err != nil {
				t.Errorf("the directory of %s has no row", e.Name())
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d jobs were finished by 30 writers", len(finished))
	if len(finished) < 30 {
		t.Error("too few to prove anything")
	}
}

func writeForEver(dir string) {
	s, err := Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		j := newJob(fmt.Sprintf("w%d-%d", os.Getpid(), i), 1)
		err := s.Create(ctx, j)
		j.State, j.Started = Running, time.Now()
		err = errors.Join(err, s.Update(ctx, j))
		for _, name := range []string{"nmap.xml", "stderr.txt"} {
			_, saveErr := s.Save(j.ID, name, bytes.NewReader(make([]byte, 5000)), 1<<20)
			err = errors.Join(err, saveErr)
		}
		j.State, j.Ended = Completed, time.Now()
		if err = errors.Join(err, s.Update(ctx, j)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(j.ID)
	}
}

func TestEveryEndIsCountedOnceAndOutlivesItsJob(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	end := func(id string, state State, reason string) {
		j := create(t, s, id, 1000)
		j.Reason, j.Packets = reason, map[string]uint64{"sent": 10, "form": 0}
		finish(t, s, j, state)
		j.Reason = "told again"
		finish(t, s, j, Failed) // the launcher tells an end until it is acknowledged
	}
	end("a", Completed, "exited")
	end("b", Partial, "memory")
	end("c", Partial, "memory")
	create(t, s, "under-way", 1000)
	if n, err := s.Prune(ctx, Limits{Jobs: 1, Bytes: 1 << 30, Age: time.Hour}, time.Now()); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ends, err := open(t, dir).Ends(ctx)
	want := []End{{"nmap_scan", Completed, "exited", 1}, {"nmap_scan", Partial, "memory", 2}}
	if err != nil || !slices.Equal(ends, want) {
		t.Errorf("got %v, %v; want %v", ends, err, want)
	}
	packets, err := open(t, dir).Packets(ctx)
	if want := []Packets{{"nmap_scan", "form", 0}, {"nmap_scan", "sent", 30}}; err != nil || !slices.Equal(packets, want) {
		t.Errorf("got %v, %v; want %v", packets, err, want)
	}
}
