package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A database that is damaged is set aside, whole, with the artefacts beside it; a new one is begun,
// and what can still be read of the old one is taken over. Nothing is written to it that was not
// there: an operator may repair it.

const (
	databaseName = "jobs.db"
	// suspectName is a file that has the database looked through at the next start.
	suspectName = "jobs.suspect"
	asidePrefix = "damaged-"
	// takenOver is a file in what was set aside: all that could be read of it has been taken over.
	takenOver = "taken-over"
	// maxAside bounds what is set aside; the oldest goes. Each may be as large as all results.
	maxAside = 2
	// maxUnreadable bounds the places that are tried for another row that can be read.
	maxUnreadable = 10000
	// maxPadded bounds how long a database that was cut off is believed to have been, in bytes.
	maxPadded = 64 << 30
)

// ErrDamaged says that the database is not what was written. Suspect has the next Open see to it.
var ErrDamaged = errors.New("the database is damaged")

// Aside is what became of a damaged database.
type Aside struct {
	Path string // where it is
	Kept int    // jobs that were taken over from it
	Why  error  // what could not be read of it; nil: everything could
}

// Aside is what Open has set aside; nil: nothing.
func (s *Store) Aside() *Aside { return s.aside }

// Suspect has the next Open look through the database, and set it aside if it is damaged.
func (s *Store) Suspect() error {
	f, err := os.OpenFile(filepath.Join(s.dir, suspectName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return named("suspect the database", err)
	}
	return named("suspect the database", errors.Join(f.Sync(), f.Close(), syncDir(s.dir)))
}

// examine looks through a database that is suspected.
func (s *Store) examine() error {
	suspect := filepath.Join(s.dir, suspectName)
	if _, err := os.Stat(suspect); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var found string
	if err := s.db.QueryRow("PRAGMA integrity_check(1)").Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return ErrDamaged // its text may have words of a row
	}
	return ignoreMissing(os.Remove(suspect))
}

// setAside moves a damaged database out of the way. What a crash cut off is gone on with.
func setAside(dir string) (err error) {
	to, err := unfinishedAside(dir)
	if err != nil {
		return err
	}
	if to == "" {
		to = filepath.Join(dir, asidePrefix+time.Now().UTC().Format("20060102T150405.000Z"))
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	}
	// The database last: as long as it is there, nothing of this counts as done.
	for _, name := range []string{"jobs", databaseName + "-shm", databaseName + "-wal", databaseName} {
		err := os.Rename(filepath.Join(dir, name), filepath.Join(to, name))
		if errors.Is(err, fs.ErrExist) { // moved before the kill; this start has made an empty one
			err = os.Remove(filepath.Join(dir, name))
		}
		if err := ignoreMissing(err); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(to), ignoreMissing(os.Remove(filepath.Join(dir, suspectName))), syncDir(dir))
}

// asides are the directories of what was set aside, the oldest first.
func asides(dir string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(dir, asidePrefix+"*"))
	slices.Sort(all)
	return all, err
}

// unfinishedAside is a directory that a database was about to be moved to when the process was killed.
// One that was taken over is finished, whatever an operator has moved out of it.
func unfinishedAside(dir string) (string, error) {
	all, err := asides(dir)
	for _, a := range all {
		_, database := os.Lstat(filepath.Join(a, databaseName))
		_, taken := os.Lstat(filepath.Join(a, takenOver))
		if errors.Is(database, fs.ErrNotExist) && errors.Is(taken, fs.ErrNotExist) {
			return a, nil
		}
	}
	return "", err
}

// finishAside goes on with what a crash cut off. It comes before the database is opened: without the log
// beside it, which was moved already, an older state of it may look whole.
func finishAside(dir string) error {
	to, err := unfinishedAside(dir)
	if err != nil || to == "" {
		return err
	}
	return setAside(dir)
}

// takeOver reads what can be read of a database that was set aside, unless that has been done. Where there is
// no space for it the next start does it.
func (s *Store) takeOver() error {
	all, err := asides(s.dir)
	if err != nil {
		return err
	}
	for len(all) > maxAside {
		if err := os.RemoveAll(all[0]); err != nil {
			return err
		}
		all = all[1:]
	}
	for _, a := range all {
		done := filepath.Join(a, takenOver)
		if _, err := os.Lstat(done); err == nil {
			continue
		}
		kept, why := s.salvage(a)
		s.aside = &Aside{Path: a, Kept: kept, Why: why}
		if errors.Is(why, ErrDiskFull) {
			continue
		}
		f, err := os.OpenFile(done, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close(), syncDir(a)); err != nil {
			return err
		}
	}
	return nil
}

// salvage takes over from a damaged database what can be read of it: jobs one by one, totals table by
// table, and the artefacts of those jobs. It may be called again. The error says what could not be.
func (s *Store) salvage(from string) (kept int, err error) {
	restore, err := padded(filepath.Join(from, databaseName))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, restore()) }()
	ctx := context.Background()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "ATTACH ? AS old", filepath.Join(from, databaseName)); err != nil {
		return 0, err
	}
	defer func() {
		_, detached := conn.ExecContext(ctx, "DETACH old")
		err = errors.Join(err, detached)
	}()
	var version int
	if err := conn.QueryRowContext(ctx, "PRAGMA old.user_version").Scan(&version); err != nil {
		return 0, err
	}
	if version != len(migrations) {
		return 0, fmt.Errorf("it has version %d, and %d alone is read", version, len(migrations))
	}
	tables, err := texts(conn.QueryContext(ctx, "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT IN ('jobs', 'users', 'searched', 'columns')"))
	if err != nil {
		return 0, err
	}
	var wrong []error
	for _, t := range tables { // names of ours
		if _, err := conn.ExecContext(ctx, "INSERT OR IGNORE INTO main."+t+" SELECT * FROM old."+t); err != nil {
			wrong = append(wrong, named("take over "+t, err))
		}
	}
	kept, err = salvageJobs(ctx, conn)
	wrong = append(wrong, err)
	ids, err := texts(conn.QueryContext(ctx, "SELECT id FROM main.jobs"))
	wrong = append(wrong, err)
	for _, id := range ids {
		if err := os.Rename(filepath.Join(from, "jobs", id), s.path(id)); ignoreMissing(err) != nil && !errors.Is(err, fs.ErrExist) {
			wrong = append(wrong, named("take over artefacts", err))
		}
	}
	return kept, errors.Join(wrong...)
}

// padded makes a database that was cut off as long as its header says: SQLite reads nothing of it
// otherwise. restore cuts it off again.
func padded(path string) (restore func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var header [32]byte
	info, err := f.Stat()
	if err == nil {
		_, err = f.ReadAt(header[:], 0)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// Database file format: the size of a page at 16 (1 stands for 65536), the number of pages at 28.
	page := int64(binary.BigEndian.Uint16(header[16:]))
	if page == 1 {
		page = 65536
	}
	size := page * int64(binary.BigEndian.Uint32(header[28:]))
	if info.Size() >= size || info.Size()/page < 1 || size > maxPadded {
		return func() error { return nil }, nil
	}
	if err := os.Truncate(path, size); err != nil {
		return nil, err
	}
	return func() error { return os.Truncate(path, info.Size()) }, nil
}

// salvageJobs copies rows of which every part can be read and is what it has to be. What a row takes is measured anew.
func salvageJobs(ctx context.Context, conn *sql.Conn) (kept int, err error) {
	columns, err := texts(conn.QueryContext(ctx, "SELECT name FROM pragma_table_info('jobs') WHERE name <> 'bytes'"))
	if err != nil {
		return 0, err
	}
	list := strings.Join(columns, ", ")
	whole := ""
	for _, c := range []string{"arguments", "record", "summary", "result"} {
		whole += " AND (length(" + c + ") = 0 OR json_valid(CAST(" + c + " AS TEXT)))"
	}
	unreadable := 0
	for at := int64(0); ; {
		var next int64
		err := conn.QueryRowContext(ctx, "SELECT rowid FROM old.jobs NOT INDEXED WHERE rowid > ? ORDER BY rowid LIMIT 1", at).Scan(&next)
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err == nil {
			var done sql.Result
			if done, err = conn.ExecContext(ctx, "INSERT OR IGNORE INTO main.jobs ("+list+") SELECT "+list+" FROM old.jobs NOT INDEXED WHERE rowid = ?"+whole, next); err == nil {
				n, _ := done.RowsAffected() // it never fails (go-sqlite3)
				if n == 0 {                 // it is not whole, or an earlier start has taken it over
					err = conn.QueryRowContext(ctx, "SELECT count(*) FROM main.jobs WHERE id = (SELECT id FROM old.jobs NOT INDEXED WHERE rowid = ?)", next).Scan(&n)
				}
				kept += int(n)
				if n == 0 && err == nil {
					unreadable++
				}
			}
		}
		if err = named("take over jobs", err); errors.Is(err, ErrDiskFull) {
			return kept, err
		}
		if err != nil {
			if unreadable++; unreadable > maxUnreadable {
				return kept, err
			}
			next = max(next, at+1)
		}
		at = next
	}
	if unreadable > 0 {
		return kept, fmt.Errorf("jobs: %d could not be read", unreadable)
	}
	return kept, nil
}

// texts are the values of a query's one column.
func texts(rows *sql.Rows, err error) (all []string, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}
