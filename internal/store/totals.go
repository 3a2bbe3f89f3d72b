package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

const totalsMigration = `
CREATE TABLE totals ( -- likewise
	name  TEXT NOT NULL,
	tool  TEXT NOT NULL, -- '' where it is of no tool
	label TEXT NOT NULL, -- '' where the name says all
	n     INTEGER NOT NULL,
	PRIMARY KEY (name, tool, label)
) STRICT;
`

// Count is what is added to one total: its words come from short lists of the front's own.
type Count struct {
	Name, Label string
	N           int64 // at most maxCount counts; below 1 nothing does
}

// Total is one sum.
type Total struct {
	Name, Tool, Label string
	N                 int64
}

const (
	// maxCount bounds one addition: no job comes near it, and a total never overflows.
	maxCount = 1 << 48
	// MaxCounts bounds the additions of one call.
	MaxCounts = 256
	// maxWord bounds the bytes of a name, tool or label.
	maxWord = 64
)

const addTotal = " ON CONFLICT (name, tool, label) DO UPDATE SET n = n + excluded.n"

// addOf adds what a job that ends counts for, in the transaction that ends it.
func addOf(ctx context.Context, tx *sql.Tx, id string, counts []Count) error {
	if len(counts) > MaxCounts {
		return fmt.Errorf("cannot count a job: %w: %d counts, at most %d", ErrTooLarge, len(counts), MaxCounts)
	}
	for _, c := range counts {
		if c.N < 1 {
			continue
		}
		if err := wordsFit(c.Name, c.Label); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO totals (name, tool, label, n) SELECT ?, tool, ?, ? FROM jobs WHERE id = ?"+addTotal,
			c.Name, c.Label, min(c.N, maxCount), id); err != nil {
			return err
		}
	}
	return nil
}

func wordsFit(words ...string) error {
	for _, w := range words {
		if len(w) > maxWord {
			return fmt.Errorf("cannot count: %w: a word of %d bytes, at most %d", ErrTooLarge, len(w), maxWord)
		}
	}
	return nil
}

// Add adds to totals what is of no job: all of it, or with an error nothing.
func (s *Store) Add(ctx context.Context, totals []Total) error {
	if len(totals) > MaxCounts {
		return fmt.Errorf("cannot add to totals: %w: %d of them, at most %d", ErrTooLarge, len(totals), MaxCounts)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return named("add to totals", err)
	}
	for _, t := range totals {
		err = wordsFit(t.Name, t.Tool, t.Label)
		if err == nil && t.N > 0 {
			_, err = tx.ExecContext(ctx, "INSERT INTO totals (name, tool, label, n) VALUES (?, ?, ?, ?)"+addTotal, t.Name, t.Tool, t.Label, min(t.N, maxCount))
		}
		if err != nil {
			return errors.Join(named("add to totals", err), tx.Rollback())
		}
	}
	return named("add to totals", tx.Commit())
}

// Totals reads all totals, as [Store.Ends] does.
func (s *Store) Totals(ctx context.Context) (all []Total, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT name, tool, label, n FROM totals ORDER BY name, tool, label")
	if err != nil {
		return nil, named("read totals", err)
	}
	defer rows.Close()
	for rows.Next() {
		var t Total
		if err := rows.Scan(&t.Name, &t.Tool, &t.Label, &t.N); err != nil {
			return nil, named("read totals", err)
		}
		all = append(all, t)
	}
	return all, named("read totals", rows.Err())
}

// Kept is how many jobs there are that have ended, and how many that have not.
func (s *Store) Kept(ctx context.Context) (ended, unfinished int64, err error) {
	err = s.db.QueryRowContext(ctx, "SELECT (SELECT coalesce(sum(kept + refused), 0) FROM users), (SELECT count(*) FROM jobs WHERE state IN (?, ?))", Queued, Running).Scan(&ended, &unfinished)
	return ended, unfinished, named("read totals", err)
}
