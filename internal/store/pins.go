package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
)

// The bounds of what a user has pinned: it is never pruned, and no limit of all that is kept holds for it.
const (
	maxPins      = 16
	maxPinsBytes = 256 << 20
)

var pinForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)

var (
	ErrTooManyPins = fmt.Errorf("at most %d jobs can be pinned, of %d MiB together: unpin one", maxPins, maxPinsBytes>>20)
	ErrUnfinished  = errors.New("this job has not ended")
)

// ValidPin reports whether a job can be pinned under name: 1 to 32 of a-z 0-9 . _ -, beginning with a letter
// or a digit.
func ValidPin(name string) bool { return pinForm.MatchString(name) }

// Pin keeps a finished job of a user for good, under a name of the user's. A job has one such name, and a
// name one job: the job that had the name before is unpinned, and a job that had another name loses it.
func (s *Store) Pin(ctx context.Context, uid uint32, id, name string) error {
	if !ValidPin(name) {
		return fmt.Errorf("cannot pin a job: %q is no name for it", name)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return named("pin a job", err)
	}
	defer tx.Rollback()
	var state State
	if err := tx.QueryRowContext(ctx, "SELECT state FROM jobs WHERE id = ? AND uid = ?", id, uid).Scan(&state); err != nil {
		return named("pin a job", err)
	}
	if !state.Finished() {
		return ErrUnfinished
	}
	if _, err := tx.ExecContext(ctx, "UPDATE jobs SET pinned = '' WHERE uid = ? AND pinned = ?", uid, name); err != nil {
		return named("pin a job", err)
	}
	if _, err := tx.ExecContext(ctx, "UPDATE jobs SET pinned = ? WHERE id = ?", name, id); err != nil {
		return named("pin a job", err)
	}
	var pins, size int64
	if err := tx.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(bytes), 0) FROM jobs WHERE uid = ? AND pinned <> ''", uid).Scan(&pins, &size); err != nil {
		return named("pin a job", err)
	}
	if pins > maxPins || size > maxPinsBytes {
		return ErrTooManyPins
	}
	return named("pin a job", tx.Commit())
}

// Pins are the ids of a user's pinned jobs by their names.
func (s *Store) Pins(ctx context.Context, uid uint32) (map[string]string, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT pinned, id FROM jobs INDEXED BY jobs_pinned WHERE uid = ? AND pinned <> ''", uid)
	if err != nil {
		return nil, named("list pins", err)
	}
	defer rows.Close()
	pins := map[string]string{}
	for rows.Next() {
		var name, id string
		if err := rows.Scan(&name, &id); err != nil {
			return nil, named("list pins", err)
		}
		pins[name] = id
	}
	return pins, named("list pins", rows.Err())
}

// Unpin takes a name of a user's from its job, which is kept or pruned like any other from then on.
func (s *Store) Unpin(ctx context.Context, uid uint32, name string) error {
	done, err := s.db.ExecContext(ctx, "UPDATE jobs SET pinned = '' WHERE uid = ? AND pinned = ? AND pinned <> ''", uid, name)
	if err != nil {
		return named("unpin a job", err)
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return errors.Join(named("unpin a job", err), ErrNotFound)
	}
	return nil
}

// Baseline reads the job that a user has pinned under a name, with its result.
func (s *Store) Baseline(ctx context.Context, uid uint32, name string) (Job, error) {
	return scan(s.db.QueryRowContext(ctx, "SELECT "+columns+", result FROM jobs WHERE uid = ? AND pinned = ? AND pinned <> ''", uid, name))
}
