package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what is kept of finished jobs.
type Limits struct {
	Jobs  int           // of each user
	Bytes int64         // of all users: rows and artefacts
	Age   time.Duration // since the end
	Free  int64         // bytes that are left on the disk, or no new job is begun
}

// Space is what is kept and what there is room for, in bytes.
type Space struct {
	Kept int64 // of finished jobs: rows and artefacts
	Free int64 // on the disk, for this user
}

// Space looks at the disk. Where no more files can be made there is none free.
func (s *Store) Space(ctx context.Context) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return Space{}, named("look at the disk", err)
	}
	space := Space{Free: int64(st.Bavail) * st.Bsize}
	if st.Files > 0 && st.Ffree < leastFiles {
		space.Free = 0
	}
	err := s.db.QueryRowContext(ctx, "SELECT coalesce(sum(bytes), 0) FROM users").Scan(&space.Kept)
	return space, named("look at the disk", err)
}

// Answers waits until the one connection to the database is free, and asks it something. What comes
// back counts as an answer, also if it is an error; ctx says how long is waited.
func (s *Store) Answers(ctx context.Context) bool {
	var n int
	_ = s.db.QueryRowContext(ctx, "SELECT 1").Scan(&n) // what is wrong with it is Probe's to say
	return ctx.Err() == nil
}

// Probe looks whether the store can be written and is whole: a small file is synced beside the
// database, the writer's place is taken, and the small tables are checked page by page. The large
// ones are not, which would take minutes: what is damaged there is found when it is read.
func (s *Store) Probe(ctx context.Context) error {
	if err := s.probeDisk(); err != nil {
		return named("write", err)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return named("write", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	for _, table := range []string{"users", "ends", "packets"} {
		var found string
		if err := tx.QueryRowContext(ctx, "PRAGMA quick_check("+table+")").Scan(&found); err != nil {
			return named("check the database", err)
		}
		if found != "ok" {
			return ErrDamaged
		}
	}
	return nil
}

func (s *Store) probeDisk() error {
	f, err := os.OpenFile(filepath.Join(s.dir, ".probe"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4<<10))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// leastFiles is how many more files a disk must take to have room for a job.
const leastFiles = 16

// maxRefused bounds the refused jobs of each user. They are counted apart: a call that is refused
// costs nothing, and must not displace what a scan has found.
const maxRefused = 100

// count adds a job that has just ended to what its user has. Its artefacts are in place.
func (s *Store) count(ctx context.Context, tx *sql.Tx, id string) error {
	_, err := tx.ExecContext(ctx, `UPDATE jobs SET bytes = ? + length(arguments) + length(record) + length(summary) + length(result)
		+ (SELECT coalesce(sum(length(words) + length(codes)), 0) FROM columns WHERE job = id) WHERE id = ?`, s.size(id), id)
	if err != nil {
		return err
	}
	return tally(ctx, tx, id, +1)
}

// tally adds a finished job to what its user has, or takes it away.
func tally(ctx context.Context, tx *sql.Tx, id string, sign int) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO users (uid, kept, refused, bytes)
		SELECT uid, ?1 * (state <> 'refused'), ?1 * (state = 'refused'), ?1 * bytes FROM jobs WHERE id = ?2
		ON CONFLICT (uid) DO UPDATE SET kept = kept + excluded.kept, refused = refused + excluded.refused, bytes = bytes + excluded.bytes`, sign, id)
	return err
}

// measure counts the finished jobs that an earlier version of the database did not count.
func (s *Store) measure() error {
	ctx := context.Background()
	ids, err := s.ids(ctx, "SELECT id FROM jobs WHERE bytes < 0 AND state NOT IN (?, ?)", Queued, Running)
	if err != nil || len(ids) == 0 {
		return err
	}
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.count(ctx, tx, id); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// Prune removes finished jobs beyond the limits, the oldest first, and says how many. It costs
// little where there is nothing to remove.
//
// Each user has as many jobs as any other, and when all of them together take too much, it is the
// user with the most whose oldest go, those that were refused before the others. The job that
// ended last stays in any case: whoever waits for it has not read it yet. Those that are pinned stay,
// too, and count neither for the number nor for the bytes: they have bounds of their own.
func (s *Store) Prune(ctx context.Context, l Limits, now time.Time) (removed int, err error) {
	for _, find := range []func() ([]string, error){
		func() ([]string, error) {
			return s.ids(ctx, "SELECT id FROM jobs WHERE bytes >= 0 AND pinned = '' AND ended < ?", milli(now.Add(-l.Age)))
		},
		func() ([]string, error) {
			return s.beyond(ctx, "refused", "state = 'refused'", maxRefused)
		},
		func() ([]string, error) { return s.beyond(ctx, "kept", "state <> 'refused'", l.Jobs) },
	} {
		ids, err := find()
		if err != nil {
			return removed, named("prune jobs", err)
		}
		for _, id := range ids {
			gone, err := s.remove(ctx, id)
			if err != nil {
				return removed, err
			}
			removed += gone
		}
	}
	for {
		id, err := s.heaviest(ctx, l.Bytes)
		if errors.Is(err, sql.ErrNoRows) {
			return removed, nil
		}
		if err != nil {
			return removed, named("prune jobs", err)
		}
		gone, err := s.remove(ctx, id)
		if err != nil {
			return removed, err
		}
		removed += gone
	}
}

// beyond lists the oldest jobs of one kind of the users that have more than most of it.
func (s *Store) beyond(ctx context.Context, column, kind string, most int) (ids []string, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT uid, "+column+" - ?1 - (SELECT count(*) FROM jobs WHERE jobs.uid = users.uid AND pinned <> '' AND "+kind+") AS over FROM users WHERE "+column+" > ?1 AND over > 0", most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	over := map[uint32]int{}
	for rows.Next() {
		var uid uint32
		var n int
		if err := rows.Scan(&uid, &n); err != nil {
			return nil, err
		}
		over[uid] = n
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for uid, n := range over {
		oldest, err := s.ids(ctx, "SELECT id FROM jobs WHERE uid = ? AND bytes >= 0 AND pinned = '' AND "+kind+" ORDER BY rowid LIMIT ?", uid, n)
		if err != nil {
			return nil, err
		}
		ids = append(ids, oldest...)
	}
	return ids, nil
}

// heaviest is the job that goes next when all users together have more than most bytes; no row:
// they have not, or the user with the most has but the job that ended last.
func (s *Store) heaviest(ctx context.Context, most int64) (id string, err error) {
	var uid uint32
	err = s.db.QueryRowContext(ctx, `WITH loose AS (SELECT uid, bytes - (SELECT coalesce(sum(bytes), 0) FROM jobs WHERE jobs.uid = users.uid AND pinned <> '') AS bytes FROM users)
		SELECT uid FROM loose WHERE (SELECT sum(bytes) FROM loose) > ? ORDER BY bytes DESC, uid LIMIT 1`, most).Scan(&uid)
	if err != nil {
		return "", err
	}
	for _, kind := range []string{"state = 'refused'", "state <> 'refused'"} {
		err = s.db.QueryRowContext(ctx, `SELECT id FROM jobs WHERE uid = ? AND bytes >= 0 AND pinned = '' AND `+kind+`
			AND id <> (SELECT id FROM jobs WHERE bytes >= 0 ORDER BY ended DESC, rowid DESC LIMIT 1) ORDER BY rowid LIMIT 1`, uid).Scan(&id)
		if !errors.Is(err, sql.ErrNoRows) {
			return id, err
		}
	}
	return "", err
}

// remove forgets a finished job, unless it has been pinned since it was chosen, and says how many that are: 1 or 0. The row
// goes first: a directory without a row is swept up at the next start, a row without its artefacts would be a lie.
func (s *Store) remove(ctx context.Context, id string) (int, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, named("prune jobs", err)
	}
	defer tx.Rollback()
	var pinned bool
	err = tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_pinned WHERE pinned <> '' AND id = ?)", id).Scan(&pinned)
	if pinned {
		return 0, nil
	}
	if err == nil {
		err = tally(ctx, tx, id, -1)
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM jobs WHERE id = ?", id)
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM users WHERE kept = 0 AND refused = 0")
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return 0, named("prune jobs", err)
	}
	if err := os.RemoveAll(s.path(id)); err != nil {
		return 1, fmt.Errorf("cannot prune jobs: %w", err)
	}
	return 1, nil
}

func (s *Store) ids(ctx context.Context, query string, args ...any) (ids []string, err error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
