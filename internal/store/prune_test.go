package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// ended makes a finished job of a user, with a result and an artefact of so many bytes.
func ended(t *testing.T, s *Store, id string, uid uint32, state State, result, artefact int) {
	t.Helper()
	j := create(t, s, id, uid)
	if artefact > 0 {
		if _, err := s.Save(id, "nmap.xml", bytes.NewReader(make([]byte, artefact)), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	j.State, j.Ended, j.Result = state, time.Now(), make([]byte, result)
	if err := s.Update(ctx, j); err != nil {
		t.Fatal(err)
	}
}

// left is what the users have, as "uid:id id, uid:id", the newest first.
func left(t *testing.T, s *Store, uids ...uint32) string {
	t.Helper()
	var out []string
	for _, uid := range uids {
		jobs, _, err := s.List(ctx, uid, Filter{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, j := range jobs {
			ids = append(ids, j.ID)
		}
		out = append(out, fmt.Sprintf("%d:%s", uid, strings.Join(ids, " ")))
	}
	return strings.Join(out, ", ")
}

// counted checks that what is counted per user is what is there.
func counted(t *testing.T, s *Store) {
	t.Helper()
	const is = `SELECT uid, sum(state <> 'refused'), sum(state = 'refused'), sum(bytes) FROM jobs WHERE state NOT IN ('queued', 'running') GROUP BY uid`
	for says, query := range map[string]string{
		"there is and is not counted": is + " EXCEPT SELECT * FROM users",
		"is counted and is not there": "SELECT * FROM users EXCEPT " + is,
	} {
		var uid, kept, refused, size int64
		if err := s.db.QueryRow(query).Scan(&uid, &kept, &refused, &size); err != sql.ErrNoRows {
			t.Errorf("uid %d: %d kept, %d refused, %d bytes: this %s (%v)", uid, kept, refused, size, says, err)
		}
	}
}

func TestPruneIsFair(t *testing.T) {
	roomy := Limits{Jobs: 100, Bytes: 1 << 30, Age: time.Hour}
	for says, c := range map[string]struct {
		fill   func(s *Store)
		limits Limits
		left   string
	}{
		"each user has as many": {func(s *Store) {
			ended(t, s, "a1", 1, Completed, 10, 0)
			ended(t, s, "b1", 2, Completed, 10, 0)
			ended(t, s, "a2", 1, Failed, 10, 0)
			ended(t, s, "a3", 1, Partial, 10, 0)
		}, Limits{Jobs: 2, Bytes: 1 << 30, Age: time.Hour}, "1:a3 a2, 2:b1"},
		"results count as artefacts do, and who has most gives first": {func(s *Store) {
			ended(t, s, "b1", 2, Completed, 2000, 0)
			ended(t, s, "a1", 1, Completed, 0, 3000)
			ended(t, s, "a2", 1, Completed, 3000, 0)
			ended(t, s, "a3", 1, Completed, 1500, 1500)
			ended(t, s, "b2", 2, Completed, 10, 0)
		}, Limits{Jobs: 100, Bytes: 6000, Age: time.Hour}, "1:a3, 2:b2 b1"},
		"the heaviest user's refused go before its results": {func(s *Store) {
			ended(t, s, "a1", 1, Completed, 3000, 0)
			ended(t, s, "ar", 1, Refused, 2000, 0)
			ended(t, s, "b1", 2, Completed, 1000, 0)
		}, Limits{Jobs: 100, Bytes: 5000, Age: time.Hour}, "1:a1, 2:b1"},
		"the one that ended last stays": {func(s *Store) {
			ended(t, s, "b1", 2, Completed, 1000, 0)
			ended(t, s, "a1", 1, Completed, 9000, 0)
			time.Sleep(2 * time.Millisecond)
			ended(t, s, "a2", 1, Completed, 9000, 0)
		}, Limits{Jobs: 100, Bytes: 5000, Age: time.Hour}, "1:a2, 2:b1"},
		"nothing is too much": {func(s *Store) {
			ended(t, s, "a1", 1, Completed, 3000, 0)
			ended(t, s, "ar", 1, Refused, 2000, 0)
		}, roomy, "1:ar a1, 2:"},
	} {
		t.Run(says, func(t *testing.T) {
			s := open(t, t.TempDir())
			c.fill(s)
			if _, err := s.Prune(ctx, c.limits, time.Now()); err != nil {
				t.Fatal(err)
			}
			if got := left(t, s, 1, 2); got != c.left {
				t.Errorf("left is %s, not %s", got, c.left)
			}
			counted(t, s)
		})
	}
}

// What is pinned stays, whatever it is too much of, and takes nobody's place; what runs stays in any case.
func TestWhatIsPinnedIsNotPruned(t *testing.T) {
	pin := func(t *testing.T, s *Store, uid uint32, ids ...string) {
		for _, id := range ids {
			if err := s.Pin(ctx, uid, id, "pin-"+id); err != nil {
				t.Fatal(err)
			}
		}
	}
	for says, c := range map[string]struct {
		limits Limits
		left   string
	}{
		"by age":              {Limits{Jobs: 100, Bytes: 1 << 30, Age: -time.Second}, "1:run refused old, 2:"},
		"by number":           {Limits{Jobs: 1, Bytes: 1 << 30, Age: time.Hour}, "1:run a2 refused old, 2:b2"},
		"by size":             {Limits{Jobs: 100, Bytes: 3600, Age: time.Hour}, "1:run a2 refused old, 2:b2 b1"},
		"as far as possible":  {Limits{Jobs: 100, Bytes: 2500, Age: time.Hour}, "1:run a2 refused old, 2:b2"},
		"no limit is reached": {Limits{Jobs: 2, Bytes: 1 << 30, Age: time.Hour}, "1:run a2 a1 refused old, 2:b2 b1"},
	} {
		t.Run(says, func(t *testing.T) {
			s := open(t, t.TempDir())
			ended(t, s, "old", 1, Completed, 5000, 500<<10) // larger than all that may be kept
			ended(t, s, "refused", 1, Refused, 10, 0)
			pin(t, s, 1, "old", "refused")
			ended(t, s, "b1", 2, Completed, 1000, 0)
			ended(t, s, "b2", 2, Completed, 1000, 0)
			ended(t, s, "a1", 1, Completed, 1500, 0)
			time.Sleep(2 * time.Millisecond)
			ended(t, s, "a2", 1, Completed, 1200, 0)
			create(t, s, "run", 1)
			if _, err := s.Prune(ctx, c.limits, time.Now()); err != nil {
				t.Fatal(err)
			}
			if got := left(t, s, 1, 2); got != c.left {
				t.Errorf("left is %s, not %s", got, c.left)
			}
			if a := s.Artefacts("old"); len(a) != 1 || a[0].Size != 500<<10 {
				t.Errorf("its artefacts: %v", a)
			}
			counted(t, s)
			if err := s.Unpin(ctx, 1, "pin-old"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Prune(ctx, Limits{Jobs: 100, Bytes: 1 << 30, Age: -time.Second}, time.Now()); err != nil {
				t.Fatal(err)
			}
			if got := left(t, s, 1, 2); got != "1:run refused, 2:" {
				t.Errorf("without its pin: %s", got)
			}
			counted(t, s)
		})
	}
}

// A job that is pinned after it was chosen to go, and before it has gone, stays.
func TestWhatIsPinnedWhilePruningStays(t *testing.T) {
	s := open(t, t.TempDir())
	ended(t, s, "a", 1, Completed, 10, 100)
	if err := s.Pin(ctx, 1, "a", "base"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.remove(ctx, "a"); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if j, err := s.Baseline(ctx, 1, "base"); err != nil || j.ID != "a" || len(s.Artefacts("a")) != 1 {
		t.Errorf("%+v, %v, %v", j, err, s.Artefacts("a"))
	}
	counted(t, s)
	if err := s.Unpin(ctx, 1, "base"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.remove(ctx, "a"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

// What is pinned is bounded in bytes, too, for each user by itself.
func TestPinsAreNotLarger(t *testing.T) {
	s := open(t, t.TempDir())
	for id, size := range map[string]int{"large": maxPinsBytes - 1000, "small": 1000, "more": 1} {
		ended(t, s, id, 1, Completed, 10, 0)
		if _, err := s.db.Exec("UPDATE jobs SET bytes = ? WHERE id = ?", size, id); err != nil {
			t.Fatal(err)
		}
	}
	ended(t, s, "other", 2, Completed, 10, 0)
	for _, step := range []struct {
		uid  uint32
		id   string
		want error
	}{{1, "large", nil}, {1, "small", nil}, {1, "more", ErrTooManyPins}, {2, "other", nil}} {
		if err := s.Pin(ctx, step.uid, step.id, "p-"+step.id); !errors.Is(err, step.want) {
			t.Errorf("%s: %v", step.id, err)
		}
	}
}

// A thousand refused calls, of any user, displace nothing that a scan has found.
func TestRefusedJobsDisplaceNoResult(t *testing.T) {
	s := open(t, t.TempDir())
	ended(t, s, "a", 1, Completed, 10, 10)
	ended(t, s, "b", 2, Completed, 10, 10)
	for i := range 3 * maxRefused {
		ended(t, s, fmt.Sprintf("r%03d", i), 1, Refused, 0, 0)
	}
	n, err := s.Prune(ctx, Limits{Jobs: 1, Bytes: 1 << 30, Age: time.Hour}, time.Now())
	if err != nil || n != 2*maxRefused {
		t.Errorf("%d removed, %v", n, err)
	}
	for uid, id := range map[uint32]string{1: "a", 2: "b"} {
		if _, err := s.Get(ctx, uid, id); err != nil {
			t.Errorf("the result of user %d: %v", uid, err)
		}
	}
	if _, err := s.Get(ctx, 1, "r299"); err != nil {
		t.Errorf("the last refusal: %v", err)
	}
	counted(t, s)
}

// Pruning is done whenever a job ends: none of its questions may go through all jobs.
func TestPruningLooksAtNoMoreThanItRemoves(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 300 {
		ended(t, s, fmt.Sprint("j", i), uint32(i%3), Completed, 10, 0)
	}
	for _, query := range []string{
		"SELECT id FROM jobs WHERE bytes >= 0 AND pinned = '' AND ended < 1000",
		"SELECT id FROM jobs WHERE uid = 1 AND bytes >= 0 AND pinned = '' AND state = 'refused' ORDER BY rowid LIMIT 3",
		"SELECT id FROM jobs WHERE uid = 1 AND bytes >= 0 AND pinned = '' AND state <> 'refused' ORDER BY rowid LIMIT 3",
		"SELECT count(*), coalesce(sum(bytes), 0) FROM jobs WHERE uid = 1 AND pinned <> ''",
		"SELECT id FROM jobs WHERE uid = 1 AND bytes >= 0 AND pinned = '' AND state <> 'refused' AND id <> (SELECT id FROM jobs WHERE bytes >= 0 ORDER BY ended DESC, rowid DESC LIMIT 1) ORDER BY rowid LIMIT 1",
	} {
		rows, err := s.db.Query("EXPLAIN QUERY PLAN " + query)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, step)
		}
		rows.Close()
		for _, step := range plan {
			if strings.Contains(step, "SCAN") && !strings.Contains(step, "INDEX jobs_by_end") || strings.Contains(step, "TEMP B-TREE") {
				t.Errorf("%s\n%s", query, strings.Join(plan, "\n"))
			}
		}
	}
}

// A database of the version before is counted when it is opened.
func TestADatabaseOfTheFirstVersionIsCounted(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "jobs", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "jobs", "a", "nmap.xml"), make([]byte, 500), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "jobs.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(migrations[0] + `PRAGMA user_version = 1;
		INSERT INTO jobs VALUES ('a', 1, 't', 'p', '', '', 'completed', 1, 1, 2, x'', x'', x'', zeroblob(1000));
		INSERT INTO jobs VALUES ('b', 1, 't', 'p', '', '', 'refused', 1, 0, 2, x'', x'', x'', x'');
		INSERT INTO jobs VALUES ('c', 2, 't', 'p', '', '', 'running', 1, 1, 0, x'', x'', x'', x'');`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	counted(t, s)
	var size int
	if err := s.db.QueryRow("SELECT bytes FROM users WHERE uid = 1").Scan(&size); err != nil || size != 1500 {
		t.Errorf("%d bytes, %v", size, err)
	}
	finish(t, s, Job{ID: "c", UID: 2}, Completed)
	counted(t, s)
	if _, err := s.Prune(ctx, Limits{Age: time.Hour}, time.Now()); err != nil {
		t.Fatal(err)
	}
	counted(t, s)
}

// A probe says whether the store can be written and is whole, as far as it looks, and changes nothing.
func TestAProbeOfTheStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Probe(t.Context()); err != nil || !s.Answers(t.Context()) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == ".probe" }) {
		t.Errorf("%v, %v", left, err)
	}
	held, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	if s.Answers(ctx) || s.Probe(ctx) == nil {
		t.Error("a database that somebody holds answers")
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// A page that somebody wrote over is found.
func TestAProbeFindsADamagedTable(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var page int
	if err := s.db.QueryRow("SELECT rootpage FROM sqlite_schema WHERE name = 'users'").Scan(&page); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "jobs.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), int64(page-1)*4096)
	if err := errors.Join(err, f.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s.db, err = sql.Open("sqlite3", "file:"+filepath.Join(dir, "jobs.db")); err != nil { // without what Open looks at
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
}
