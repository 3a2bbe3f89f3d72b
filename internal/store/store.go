// Package store keeps jobs and their results on disk, for the front alone: one SQLite database,
// and beside it a directory of artefacts for each job.
//
// Whatever it has answered survives a kill: every change is one transaction that is synced
// before the call returns, and artefacts are in place before the row that names them says so.
package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
)

// State is where a job is. Queued and Running are under way; the others are ends.
type State string

const (
	Queued      State = "queued"      // accepted; nothing has been sent to a target
	Running     State = "running"     // its scanner has been started
	Completed   State = "completed"   // the scanner ended by itself and its report is whole
	Partial     State = "partial"     // a limit of time, memory or the like cut it, or hosts were given up; what it had is kept
	Truncated   State = "truncated"   // it wrote more than its limit; what it had until then is kept
	Cancelled   State = "cancelled"   // by its caller; what it had is kept
	Failed      State = "failed"      // the scanner or the launch failed; never "0 findings"
	Refused     State = "refused"     // judged again and denied, before or while it ran
	Interrupted State = "interrupted" // a process of ours died or was stopped; what it had is kept
)

// next says which changes there are. A finished job never changes again.
var next = map[State][]State{
	Queued:  {Running, Completed, Partial, Truncated, Cancelled, Failed, Refused, Interrupted},
	Running: {Completed, Partial, Truncated, Cancelled, Failed, Refused, Interrupted},
}

// Finished reports whether s is an end.
func (s State) Finished() bool { return next[s] == nil }

// Job is one row. The JSON fields are the front's own and are kept as they are.
type Job struct {
	ID                                     string
	UID                                    uint32
	Tool, Profile, Engagement, Correlation string
	Follows                                string // the job of the same user that it was started for, after that one
	State                                  State
	Reason                                 string            // of a job that ends: what ended its scanner; counted, not kept with the row
	Packets                                map[string]uint64 // of a job that ends: how many by what became of them; counted likewise
	Counts                                 []Count           // of a job that ends: what else is added to the totals of its tool
	Created, Started, Ended                time.Time         // to the millisecond; zero where not yet
	Pinned                                 string            // the name that its user has pinned it under
	Arguments                              json.RawMessage   // as read, in canonical form
	Record                                 json.RawMessage   // the launcher's last record
	Summary                                json.RawMessage   // what a list shows
	Result                                 json.RawMessage   // the whole report
	Rows                                   iter.Seq[Row]     // of a job that ends: what its result has, to be searched; read by Find alone
	Looked                                 json.RawMessage   // of a job that ends: what it looked at, for whoever asks Find
}

var (
	ErrNotFound = errors.New("no such job") // also for another user's job: no oracle
	ErrExists   = errors.New("this job exists already")
	ErrDiskFull = errors.New("no space left for jobs and results")
	ErrTooLarge = errors.New("larger than is kept")
)

const (
	maxArguments = 64 << 10
	maxRecord    = 1 << 20 // a message of the launcher, whatever is escaped in it
	maxSummary   = 64 << 10
	maxResult    = 64 << 20
	maxLooked    = 64 << 10
)

// Store is open until Close. Its methods may be called from several goroutines.
type Store struct {
	db    *sql.DB
	dir   string
	aside *Aside
}

// migrations bring a database from version i to i+1 (PRAGMA user_version).
var migrations = []string{`
CREATE TABLE jobs (
	id          TEXT PRIMARY KEY,
	uid         INTEGER NOT NULL,
	tool        TEXT NOT NULL,
	profile     TEXT NOT NULL,
	engagement  TEXT NOT NULL,
	correlation TEXT NOT NULL,
	state       TEXT NOT NULL,
	created     INTEGER NOT NULL,
	started     INTEGER NOT NULL,
	ended       INTEGER NOT NULL,
	arguments   BLOB NOT NULL,
	record      BLOB NOT NULL,
	summary     BLOB NOT NULL,
	result      BLOB NOT NULL
) STRICT;
CREATE INDEX jobs_of_a_user ON jobs (uid, created DESC, id);
CREATE INDEX jobs_by_state ON jobs (state);
`, `
ALTER TABLE jobs ADD COLUMN bytes INTEGER NOT NULL DEFAULT -1; -- of the row and its artefacts, from its end on
CREATE TABLE users (
	uid     INTEGER PRIMARY KEY,
	kept    INTEGER NOT NULL, -- finished jobs but those refused
	refused INTEGER NOT NULL,
	bytes   INTEGER NOT NULL  -- of both
) STRICT;
CREATE INDEX jobs_by_end ON jobs (ended) WHERE bytes >= 0;
CREATE INDEX jobs_kept ON jobs (uid) WHERE bytes >= 0 AND state <> 'refused';
CREATE INDEX jobs_refused ON jobs (uid) WHERE bytes >= 0 AND state = 'refused';
`, `
CREATE TABLE ends ( -- totals: they outlive the jobs
	tool   TEXT NOT NULL,
	state  TEXT NOT NULL,
	reason TEXT NOT NULL,
	jobs   INTEGER NOT NULL,
	PRIMARY KEY (tool, state, reason)
) STRICT;
`, `
CREATE TABLE packets ( -- likewise
	tool    TEXT NOT NULL,
	fate    TEXT NOT NULL,
	packets INTEGER NOT NULL,
	PRIMARY KEY (tool, fate)
) STRICT;
`, `
ALTER TABLE jobs ADD COLUMN pinned TEXT NOT NULL DEFAULT ''; -- the name that its user keeps it under; never pruned
CREATE UNIQUE INDEX jobs_pinned ON jobs (uid, pinned) WHERE pinned <> '';
`, rowsMigration, `
ALTER TABLE jobs ADD COLUMN follows TEXT NOT NULL DEFAULT ''; -- the job that it was started for
CREATE INDEX jobs_following ON jobs (follows) WHERE follows <> '';
CREATE INDEX jobs_followers ON jobs (id, follows) WHERE follows <> '';
`, `
CREATE INDEX jobs_pinned_bytes ON jobs (uid, bytes) WHERE pinned <> ''; -- what a row takes stands behind its result, which is long to read over
`, totalsMigration}

// Open opens or creates the store in dir. Directories of jobs that the database does not know
// are removed: they are what a crash between the two left. A database that is damaged is set aside,
// and what can be read of it is taken over: see [Store.Aside].
func Open(dir string) (*Store, error) {
	if err := finishAside(dir); err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	s, err := begin(dir)
	if isCorrupt(err) {
		if err = setAside(dir); err == nil {
			s, err = begin(dir)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	return s, nil
}

func begin(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "jobs"), 0o700); err != nil {
		return nil, err
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	// One connection: SQLite has one writer anyway, and readers of this size wait microseconds.
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, databaseName)+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000&_txlock=immediate&_secure_delete=off")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: db, dir: dir}
	for _, step := range []func() error{s.migrate, s.examine, s.takeOver, s.measure, s.sweep} {
		if err := step(); err != nil {
			if contradicts(err) {
				err = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			return nil, errors.Join(err, db.Close())
		}
	}
	return s, nil
}

// Close syncs and closes the database.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) migrate() error {
	var version int
	if err := s.db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version < 0 {
		return ErrDamaged
	}
	if version > len(migrations) {
		return fmt.Errorf("the database has version %d, this program knows %d: a newer secmcpd wrote it", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		tx, err := s.db.Begin()
		if err != nil {
			return err
		}
		_, err = tx.Exec(migrations[version])
		if err == nil {
			_, err = tx.Exec("PRAGMA user_version = " + strconv.Itoa(version+1))
		}
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes directories that no row knows.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "jobs"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		var n int
		if err := s.db.QueryRow("SELECT count(*) FROM jobs WHERE id = ?", e.Name()).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			if err := os.RemoveAll(filepath.Join(s.dir, "jobs", e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Create keeps a new job, queued. It is on disk when Create returns.
func (s *Store) Create(ctx context.Context, j Job) error {
	if err := j.check(); err != nil {
		return err
	}
	j.State = Queued
	_, err := s.db.ExecContext(ctx, `INSERT INTO jobs (id, uid, tool, profile, engagement, correlation, follows, state, created, started, ended, arguments, record, summary, result)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, x'', x'', x'')`,
		j.ID, j.UID, j.Tool, j.Profile, j.Engagement, j.Correlation, j.Follows, j.State, milli(j.Created), blob(j.Arguments))
	return named("create job", err)
}

func (j *Job) check() error {
	for _, f := range []struct {
		name string
		size int
		top  int
	}{
		{"id", len(j.ID), 64}, {"tool", len(j.Tool), 64}, {"profile", len(j.Profile), 64}, {"engagement", len(j.Engagement), 256},
		{"correlation", len(j.Correlation), 64}, {"follows", len(j.Follows), 64}, {"reason", len(j.Reason), 64}, {"arguments", len(j.Arguments), maxArguments}, {"record", len(j.Record), maxRecord},
		{"summary", len(j.Summary), maxSummary}, {"result", len(j.Result), maxResult}, {"looked", len(j.Looked), maxLooked},
	} {
		if f.size > f.top {
			return fmt.Errorf("cannot keep job: %s: %w: it has %d bytes, at most %d are kept", f.name, ErrTooLarge, f.size, f.top)
		}
	}
	if j.ID == "" || j.ID != filepath.Base(j.ID) || j.ID[0] == '.' {
		return fmt.Errorf("cannot keep job: %q is no id", j.ID)
	}
	return nil
}

// Update keeps what is known of a job that is under way (its record, Started, Engagement) or
// ends it, in one transaction. A job that is finished stays as it is: ending it again is no
// error, since the launcher tells an end until it is acknowledged.
func (s *Store) Update(ctx context.Context, j Job) error {
	if err := j.check(); err != nil {
		return err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return named("update job", err)
	}
	err = s.update(ctx, tx, j)
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return named("update job", tx.Commit())
}

func (s *Store) update(ctx context.Context, tx *sql.Tx, j Job) error {
	var now State
	if err := tx.QueryRowContext(ctx, "SELECT state FROM jobs WHERE id = ?", j.ID).Scan(&now); err != nil {
		return named("update job", err)
	}
	if now.Finished() {
		if !j.State.Finished() {
			return fmt.Errorf("cannot update job %s: it is %s and cannot become %s", j.ID, now, j.State)
		}
		return nil
	}
	if now != j.State && !slices.Contains(next[now], j.State) {
		return fmt.Errorf("cannot update job %s: it is %s and cannot become %s", j.ID, now, j.State)
	}
	_, err := tx.ExecContext(ctx, `UPDATE jobs SET state = ?, engagement = ?, started = ?, ended = ?, record = ?, summary = ?, result = ? WHERE id = ?`,
		j.State, j.Engagement, milli(j.Started), milli(j.Ended), blob(j.Record), blob(j.Summary), blob(j.Result), j.ID)
	if err == nil && j.State.Finished() {
		err = keepRows(ctx, tx, j.ID, j.rows(), j.Looked)
	}
	if err == nil && j.State.Finished() {
		err = s.count(ctx, tx, j.ID)
	}
	if err == nil && j.State.Finished() {
		_, err = tx.ExecContext(ctx, `INSERT INTO ends (tool, state, reason, jobs) SELECT tool, state, ?, 1 FROM jobs WHERE id = ?
			ON CONFLICT (tool, state, reason) DO UPDATE SET jobs = jobs + 1`, j.Reason, j.ID)
		for fate, n := range j.Packets {
			if err == nil {
				_, err = tx.ExecContext(ctx, `INSERT INTO packets (tool, fate, packets) SELECT tool, ?, ? FROM jobs WHERE id = ?
					ON CONFLICT (tool, fate) DO UPDATE SET packets = packets + excluded.packets`, fate, int64(min(n, maxPackets)), j.ID)
			}
		}
		if err == nil {
			err = addOf(ctx, tx, j.ID, j.Counts)
		}
	}
	return named("update job", err)
}

// rows are those of a job that ends, if there are any.
func (j *Job) rows() iter.Seq[Row] {
	if j.Rows == nil {
		return func(func(Row) bool) {}
	}
	return j.Rows
}

// The name of a pinned job and what a job follows are found by indexes: in the row they come behind the result, which
// may be long.
const columns = `id, uid, tool, profile, engagement, correlation,
	coalesce((SELECT f.follows FROM jobs f INDEXED BY jobs_followers WHERE f.id = jobs.id AND f.follows <> ''), ''), state, created, started, ended,
	coalesce((SELECT p.pinned FROM jobs p WHERE p.uid = jobs.uid AND p.pinned <> '' AND p.rowid = jobs.rowid), ''), arguments, record, summary`

// Get reads a job of a user, with its result.
func (s *Store) Get(ctx context.Context, uid uint32, id string) (Job, error) {
	return scan(s.db.QueryRowContext(ctx, "SELECT "+columns+", result FROM jobs WHERE id = ? AND uid = ?", id, uid))
}

// Filter narrows a list. Before is the cursor of the page before.
type Filter struct {
	State  State
	Tool   string
	Before string
	Limit  int // 1 to 100
}

// List reads a user's jobs, the newest first, without their results; next is the cursor of the
// following page, empty on the last.
func (s *Store) List(ctx context.Context, uid uint32, f Filter) (jobs []Job, next string, err error) {
	if f.Limit < 1 || f.Limit > 100 {
		return nil, "", fmt.Errorf("cannot list jobs: limit %d is not 1 to 100", f.Limit)
	}
	before := int64(1) << 62
	if f.Before != "" {
		err := s.db.QueryRowContext(ctx, "SELECT rowid FROM jobs WHERE id = ? AND uid = ?", f.Before, uid).Scan(&before)
		if err != nil {
			return nil, "", named("list jobs", err)
		}
	}
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+`, x'' FROM jobs
		WHERE uid = ? AND rowid < ? AND (? = '' OR state = ?) AND (? = '' OR tool = ?) ORDER BY rowid DESC LIMIT ?`,
		uid, before, f.State, f.State, f.Tool, f.Tool, f.Limit+1)
	if err != nil {
		return nil, "", named("list jobs", err)
	}
	if jobs, err = collect(rows); err != nil {
		return nil, "", err
	}
	if len(jobs) > f.Limit {
		jobs = jobs[:f.Limit]
		next = jobs[f.Limit-1].ID
	}
	return jobs, next, nil
}

// Whose narrows a list to one user; nil: the jobs of all users, for operators.
type Whose *uint32

// ListAll reads the jobs of all users or of one, the newest first, without their results; next is the cursor of
// the following page, empty on the last.
func (s *Store) ListAll(ctx context.Context, whose Whose, f Filter) (jobs []Job, next string, err error) {
	if whose != nil {
		return s.List(ctx, *whose, f)
	}
	if f.Limit < 1 || f.Limit > 100 {
		return nil, "", fmt.Errorf("cannot list jobs: limit %d is not 1 to 100", f.Limit)
	}
	before := int64(1) << 62
	if f.Before != "" {
		if err := s.db.QueryRowContext(ctx, "SELECT rowid FROM jobs WHERE id = ?", f.Before).Scan(&before); err != nil {
			return nil, "", named("list jobs", err)
		}
	}
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+`, x'' FROM jobs
		WHERE rowid < ? AND (? = '' OR state = ?) AND (? = '' OR tool = ?) ORDER BY rowid DESC LIMIT ?`,
		before, f.State, f.State, f.Tool, f.Tool, f.Limit+1)
	if err != nil {
		return nil, "", named("list jobs", err)
	}
	if jobs, err = collect(rows); err != nil {
		return nil, "", err
	}
	if len(jobs) > f.Limit {
		jobs = jobs[:f.Limit]
		next = jobs[f.Limit-1].ID
	}
	return jobs, next, nil
}

// Ended reads the jobs that have ended last, of all users, the newest first, without their results.
func (s *Store) Ended(ctx context.Context, most int) ([]Job, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+", x'' FROM jobs WHERE bytes >= 0 ORDER BY ended DESC LIMIT ?", most)
	if err != nil {
		return nil, named("list jobs", err)
	}
	return collect(rows)
}

// Of reads a job of any user, with its result, for operators.
func (s *Store) Of(ctx context.Context, id string) (Job, error) {
	return scan(s.db.QueryRowContext(ctx, "SELECT "+columns+", result FROM jobs WHERE id = ?", id))
}

// Unfinished reads every job that is under way, of all users.
func (s *Store) Unfinished(ctx context.Context) ([]Job, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+", x'' FROM jobs WHERE state IN (?, ?) ORDER BY rowid", Queued, Running)
	if err != nil {
		return nil, named("list jobs", err)
	}
	return collect(rows)
}

// Following reads the jobs that were started for a job of a user, the oldest first, without their results.
func (s *Store) Following(ctx context.Context, uid uint32, id string) ([]Job, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+", x'' FROM jobs WHERE follows = ? AND uid = ? ORDER BY rowid", id, uid)
	if err != nil {
		return nil, named("list jobs", err)
	}
	return collect(rows)
}

// End is how many jobs of a tool have ever ended in one way.
type End struct {
	Tool   string
	State  State
	Reason string
	Jobs   int64
}

// Ends reads the totals: each job once, in the transaction that ended it, whether it is still kept
// or not.
func (s *Store) Ends(ctx context.Context) (ends []End, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT tool, state, reason, jobs FROM ends ORDER BY tool, state, reason")
	if err != nil {
		return nil, named("read totals", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e End
		if err := rows.Scan(&e.Tool, &e.State, &e.Reason, &e.Jobs); err != nil {
			return nil, named("read totals", err)
		}
		ends = append(ends, e)
	}
	return ends, named("read totals", rows.Err())
}

// maxPackets of one job are counted: none sends as many, and a total never overflows.
const maxPackets = 1 << 48

// Packets is how many of a tool's packets have ever had one fate.
type Packets struct {
	Tool, Fate string
	Packets    int64
}

// Packets reads the totals of jobs that have ended, as [Store.Ends] does.
func (s *Store) Packets(ctx context.Context) (all []Packets, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT tool, fate, packets FROM packets ORDER BY tool, fate")
	if err != nil {
		return nil, named("read totals", err)
	}
	defer rows.Close()
	for rows.Next() {
		var p Packets
		if err := rows.Scan(&p.Tool, &p.Fate, &p.Packets); err != nil {
			return nil, named("read totals", err)
		}
		all = append(all, p)
	}
	return all, named("read totals", rows.Err())
}

func collect(rows *sql.Rows) (jobs []Job, err error) {
	defer rows.Close()
	for rows.Next() {
		j, err := scan(rows)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, named("list jobs", rows.Err())
}

func scan(row interface{ Scan(...any) error }) (Job, error) {
	var j Job
	var created, started, ended int64
	var arguments, record, summary, result []byte
	err := row.Scan(&j.ID, &j.UID, &j.Tool, &j.Profile, &j.Engagement, &j.Correlation, &j.Follows, &j.State, &created, &started, &ended, &j.Pinned,
		&arguments, &record, &summary, &result)
	j.Created, j.Started, j.Ended = instant(created), instant(started), instant(ended)
	j.Arguments, j.Record, j.Summary, j.Result = arguments, record, summary, result
	return j, named("read job", err)
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// blob is never NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// named says what could not be done, in the words that callers branch on.
func named(what string, err error) error {
	var sqlite sqlite3.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.Is(err, ErrTooLarge):
		return err
	case errors.As(err, &sqlite) && sqlite.Code == sqlite3.ErrConstraint:
		return ErrExists
	case errors.As(err, &sqlite) && (sqlite.Code == sqlite3.ErrFull || sqlite.Code == sqlite3.ErrIoErr && sqlite.SystemErrno == unix.ENOSPC),
		errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &failure{what, ErrDiskFull}
	case isCorrupt(err):
		return &failure{what, fmt.Errorf("%w: %w", ErrDamaged, err)}
	}
	return &failure{what, err}
}

// failure is what the database could not do.
type failure struct {
	what string
	err  error
}

func (f *failure) Error() string { return "cannot " + f.what + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Stage is the failure for a log that may quote nobody: what could not be done, and why in words that
// are SQLite's or the kernel's for a number.
func (f *failure) Stage() string {
	var sqlite sqlite3.Error
	var errno syscall.Errno
	why := fmt.Sprintf("%T", f.err)
	switch {
	case errors.Is(f.err, ErrDiskFull):
		why = ErrDiskFull.Error()
	case errors.As(f.err, &sqlite):
		why = sqlite.ExtendedCode.Error()
	case errors.As(f.err, &errno):
		why = errno.Error()
	}
	return "cannot " + f.what + ": " + why
}

func isCorrupt(err error) bool {
	var sqlite sqlite3.Error
	return errors.Is(err, ErrDamaged) || errors.As(err, &sqlite) && (sqlite.Code == sqlite3.ErrCorrupt || sqlite.Code == sqlite3.ErrNotADB)
}

// contradicts says that SQLite finds a statement of ours wrong: the tables are not those of the version that
// the database says it has.
func contradicts(err error) bool {
	var sqlite sqlite3.Error
	return errors.As(err, &sqlite) && sqlite.Code == sqlite3.ErrError
}
