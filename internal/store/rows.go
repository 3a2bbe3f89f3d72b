package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Row is one thing that a job found, as it is searched: a port of a host, or a path or a name. What is
// not there is zero.
type Row struct {
	Host                   netip.Addr
	Port, Status           int
	Proto, State, Service  string
	Name                   string // a path, or the name of a host
	Product, Version, Text string // as the scanned host said them, cleaned; Text: where a redirect leads
}

// A job's rows are kept by column, in parts of at most partRows: a question reads the columns that it
// is about. A column of words has each word once, and in its codes the number of each row's word. One
// of numbers has in its codes how far each is above the base. The codes of a column that is the same
// in all rows of a part are left out, and so is a column of which every row has none.
const (
	partRows = 1 << 16
	maxRows  = 1 << 22 // of one job
)

const rowsMigration = `
CREATE TABLE searched ( -- beside jobs, whose rows are long: what follows a result there is reached by way of all of it
	job    TEXT PRIMARY KEY,
	rows   INTEGER NOT NULL,
	looked BLOB NOT NULL -- the front's own: what the job looked at
) STRICT;
CREATE TABLE columns (
	job   TEXT NOT NULL,
	part  INTEGER NOT NULL,
	name  TEXT NOT NULL,
	rows  INTEGER NOT NULL,
	base  INTEGER NOT NULL,
	words BLOB NOT NULL,
	codes BLOB NOT NULL,
	PRIMARY KEY (job, part, name)
) STRICT;
CREATE TRIGGER rows_of_a_job AFTER DELETE ON jobs BEGIN
	DELETE FROM columns WHERE job = OLD.id;
	DELETE FROM searched WHERE job = OLD.id;
END;
`

// The columns.
const (
	ColumnHost    = "host"
	ColumnPort    = "port"
	ColumnProto   = "proto"
	ColumnState   = "state"
	ColumnService = "service"
	ColumnStatus  = "status"
	ColumnName    = "name"
	ColumnProduct = "product"
	ColumnVersion = "version"
	columnText    = "text"
)

// wordColumns and numberColumns say where the values of a row go.
var (
	wordColumns = []struct {
		name string
		of   func(*Row) string
	}{
		{ColumnHost, func(r *Row) string { return string(r.Host.AsSlice()) }},
		{ColumnProto, func(r *Row) string { return r.Proto }},
		{ColumnState, func(r *Row) string { return r.State }},
		{ColumnService, func(r *Row) string { return r.Service }},
		{ColumnName, func(r *Row) string { return r.Name }},
		{ColumnProduct, func(r *Row) string { return r.Product }},
		{ColumnVersion, func(r *Row) string { return r.Version }},
		{columnText, func(r *Row) string { return r.Text }},
	}
	numberColumns = []struct {
		name string
		of   func(*Row) int
	}{
		{ColumnPort, func(r *Row) int { return r.Port }},
		{ColumnStatus, func(r *Row) int { return r.Status }},
	}
)

// column is one of a part, as it is kept.
type column struct {
	name  string
	rows  int
	base  uint32
	words []byte
	codes []byte
}

// part collects rows until they are kept.
type part struct {
	rows    int
	numbers [][]uint32
	codes   [][]uint32
	known   []map[string]uint32
}

func newPart() *part {
	p := &part{numbers: make([][]uint32, len(numberColumns)), codes: make([][]uint32, len(wordColumns)), known: make([]map[string]uint32, len(wordColumns))}
	for i := range p.known {
		p.known[i] = map[string]uint32{}
	}
	return p
}

func (p *part) add(r *Row) {
	p.rows++
	for i, c := range numberColumns {
		p.numbers[i] = append(p.numbers[i], uint32(c.of(r)))
	}
	for i, c := range wordColumns {
		word := c.of(r)
		code, is := p.known[i][word]
		if !is {
			code = uint32(len(p.known[i]))
			p.known[i][word] = code
		}
		p.codes[i] = append(p.codes[i], code)
	}
}

// columns are the part's, without those in which there is nothing.
func (p *part) columns() (out []column) {
	for i, c := range numberColumns {
		base, most := slices.Min(p.numbers[i]), slices.Max(p.numbers[i])
		if most > 0 {
			out = append(out, column{c.name, p.rows, base, nil, packed(p.numbers[i], base, most-base)})
		}
	}
	for i, c := range wordColumns {
		words := make([]string, len(p.known[i]))
		for word, code := range p.known[i] {
			words[code] = word
		}
		if len(words) > 1 || words[0] != "" || c.name == ColumnHost { // by its hosts a part is known to be there
			out = append(out, column{c.name, p.rows, 0, joined(words), packed(p.codes[i], 0, uint32(len(words)-1))})
		}
	}
	return out
}

// packed has each value above base in as few bytes as the most needs: none, 1, 2 or 4.
func packed(values []uint32, base, most uint32) []byte {
	width := widthOf(most)
	out := make([]byte, 0, len(values)*width)
	for _, v := range values {
		switch v -= base; width {
		case 1:
			out = append(out, byte(v))
		case 2:
			out = binary.LittleEndian.AppendUint16(out, uint16(v))
		case 4:
			out = binary.LittleEndian.AppendUint32(out, v)
		}
	}
	return out
}

func widthOf(most uint32) int {
	switch {
	case most == 0:
		return 0
	case most < 1<<8:
		return 1
	case most < 1<<16:
		return 2
	}
	return 4
}

// unpack gives the codes of all rows.
func (c *column) unpack(into []uint32) ([]uint32, error) {
	into = slices.Grow(into[:0], c.rows)[:c.rows]
	switch {
	case len(c.codes) == 0:
		clear(into)
	case len(c.codes) == c.rows:
		for i, b := range c.codes {
			into[i] = uint32(b)
		}
	case len(c.codes) == 2*c.rows:
		for i := range into {
			into[i] = uint32(binary.LittleEndian.Uint16(c.codes[2*i:]))
		}
	case len(c.codes) == 4*c.rows:
		for i := range into {
			into[i] = binary.LittleEndian.Uint32(c.codes[4*i:])
		}
	default:
		return nil, c.damaged()
	}
	return into, nil
}

func (c *column) damaged() error { return fmt.Errorf("cannot read rows: column %q is damaged", c.name) }

// joined is words one after the other, each after its length.
func joined(words []string) (out []byte) {
	for _, w := range words {
		out = append(binary.AppendUvarint(out, uint64(len(w))), w...)
	}
	return out
}

// split takes them apart. The words are the column's own memory.
func (c *column) split() (words [][]byte, err error) {
	for rest := c.words; len(rest) > 0; {
		n, at := binary.Uvarint(rest)
		if at <= 0 || n > uint64(len(rest)-at) {
			return nil, c.damaged()
		}
		end := at + int(n)
		words, rest = append(words, rest[at:end]), rest[end:]
	}
	return words, nil
}

// keepRows puts a job's rows beside its result, a part at a time.
func keepRows(ctx context.Context, tx *sql.Tx, id string, rows iter.Seq[Row], looked []byte) error {
	put, err := tx.PrepareContext(ctx, "INSERT INTO columns (job, part, name, rows, base, words, codes) VALUES (?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer put.Close()
	total, at, p := 0, 0, newPart()
	flush := func() error {
		for _, c := range p.columns() {
			if _, err := put.ExecContext(ctx, id, at, c.name, c.rows, c.base, blob(c.words), blob(c.codes)); err != nil {
				return err
			}
		}
		at, p = at+1, newPart()
		return nil
	}
	for r := range rows {
		if total++; total > maxRows {
			return fmt.Errorf("cannot keep job: rows: %w: at most %d are kept", ErrTooLarge, maxRows)
		}
		p.add(&r)
		if p.rows == partRows {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if p.rows > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO searched (job, rows, looked) VALUES (?, ?, ?)", id, total, blob(looked))
	return err
}

// Unindexed lists finished jobs of which no rows have been made: an earlier version kept them.
func (s *Store) Unindexed(ctx context.Context, limit int) (jobs []Job, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+", x'' FROM jobs WHERE state NOT IN (?, ?) AND id NOT IN (SELECT job FROM searched) ORDER BY rowid DESC LIMIT ?", Queued, Running, limit)
	if err != nil {
		return nil, named("list jobs", err)
	}
	return collect(rows)
}

// Index makes the rows of a finished job that has none.
func (s *Store) Index(ctx context.Context, id string, rows iter.Seq[Row], looked []byte) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return named("index a job", err)
	}
	defer tx.Rollback()
	var done bool
	var state State
	if err := tx.QueryRowContext(ctx, "SELECT id IN (SELECT job FROM searched), state FROM jobs WHERE id = ?", id).Scan(&done, &state); err != nil {
		return named("index a job", err)
	}
	if !state.Finished() {
		return ErrUnfinished
	}
	if done {
		return nil
	}
	err = tally(ctx, tx, id, -1)
	if err == nil {
		err = keepRows(ctx, tx, id, rows, looked)
	}
	if err == nil {
		err = s.count(ctx, tx, id)
	}
	if err != nil {
		return named("index a job", err)
	}
	return named("index a job", tx.Commit())
}

// Question is what is asked of the rows of a user's jobs. What is zero is not asked for.
type Question struct {
	Job           string       // of one job; else of all
	Hosts         netip.Prefix // within these
	Port, Status  int
	Proto, State  string
	Service, Name string // Name: a part of it
	By            string // the column of which values are counted; else rows are listed
	Limit         int    // rows, or values
	AfterJob      string // the row that was listed last
	AfterRow      int
}

// Value is a value of a column and how many rows have it.
type Value struct {
	Value string
	Rows  int64
}

// Listed is a row and where it is.
type Listed struct {
	Job string
	At  int // within the job
	Row
}

// Searched is a job that a question was about.
type Searched struct {
	ID      string
	Tool    string
	State   State
	Summary []byte // as it was kept
	Looked  []byte // likewise
	Kept    int64  // rows; -1: none were made of its result, so that nothing of it was searched
	Matches int64
	Passed  bool // there was no time for it, or it went meanwhile
}

// Findings answers a question: over all rows that match, not over those that are listed.
type Findings struct {
	Jobs     []Searched // the newest first
	Count    int64
	Distinct int
	Values   []Value // those that most rows have first
	Rows     []Listed
	More     bool // rows beyond those listed
}

// Find searches a user's jobs, the newest first, until ctx ends: those that it did not come to are marked.
func (s *Store) Find(ctx context.Context, uid uint32, q Question) (Findings, error) {
	var f Findings
	jobs, err := s.toSearch(ctx, uid, q.Job)
	if err != nil {
		return f, err
	}
	if q.Job != "" && len(jobs) == 0 {
		return f, ErrNotFound
	}
	if q.AfterJob != "" && !slices.ContainsFunc(jobs, func(j Searched) bool { return j.ID == q.AfterJob }) {
		return f, ErrNotFound
	}
	find := search{Question: q, store: s, passed: q.AfterJob == "", values: map[string]int64{}}
	for i := range jobs {
		j := &jobs[i]
		if j.Kept <= 0 {
			find.passed = find.passed || j.ID == q.AfterJob
			continue
		}
		err := find.readAhead(ctx, jobs[i:])
		if err == nil {
			err = find.job(ctx, j)
		}
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, ErrNotFound) {
				return f, err
			}
			j.Passed = true
			find.passed = find.passed || j.ID == q.AfterJob && ctx.Err() == nil // it went meanwhile: what follows it is listed
		}
	}
	f.Jobs, f.Rows, f.More = jobs, find.listed, find.more
	for _, j := range jobs {
		f.Count += j.Matches
	}
	f.Values, f.Distinct = find.top()
	return f, nil
}

// toSearch is the user's finished jobs, or the one.
func (s *Store) toSearch(ctx context.Context, uid uint32, id string) (jobs []Searched, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, tool, state, summary, coalesce(looked, x''), coalesce(rows, -1) FROM jobs LEFT JOIN searched ON job = id
		WHERE uid = ?1 AND (?2 = '' OR id = ?2) AND state NOT IN ('queued', 'running') AND (state <> 'refused' OR ?2 <> '') ORDER BY jobs.rowid DESC`, uid, id)
	if err != nil {
		return nil, named("search jobs", err)
	}
	defer rows.Close()
	for rows.Next() {
		var j Searched
		if err := rows.Scan(&j.ID, &j.Tool, &j.State, &j.Summary, &j.Looked, &j.Kept); err != nil {
			return nil, named("search jobs", err)
		}
		jobs = append(jobs, j)
	}
	return jobs, named("search jobs", rows.Err())
}

// search is a question on its way through the jobs.
type search struct {
	Question
	store   *Store
	passed  bool                          // the row that was listed last
	ahead   map[string]map[string]*column // the columns of small jobs that come next
	listed  []Listed
	more    bool
	values  map[string]int64 // rows of each word
	numbers [1 << 16]uint32  // rows of each number; of all jobs there are fewer than that holds
	all     bool             // each row of the part is marked, and mask says nothing
	mask    []byte           // 1: marked
	codes   []uint32
	tally   []int64
}

// job searches one. The parts that were searched before an error stay counted.
func (q *search) job(ctx context.Context, j *Searched) error {
	for at, from := 0, 0; int64(from) < j.Kept; at++ {
		cols := q.ahead[j.ID]
		if at > 0 || cols == nil {
			all, err := q.store.parts(ctx, []string{j.ID}, at, q.needs())
			if err != nil {
				return err
			}
			if cols = all[j.ID]; cols == nil {
				return ErrNotFound
			}
		}
		n := min(int(j.Kept)-from, partRows)
		matches, err := q.match(cols, n)
		if err != nil {
			return err
		}
		if matches > 0 && q.By != "" {
			err = q.count(cols, n)
		} else if matches > 0 {
			err = q.list(ctx, j.ID, at, from, n)
		}
		if err != nil {
			return err
		}
		j.Matches += int64(matches)
		from += n
	}
	q.passed = q.passed || j.ID == q.AfterJob
	return nil
}

// readAhead reads the columns of the first of jobs and of those after it, if they are small: a statement costs more than
// their rows.
func (q *search) readAhead(ctx context.Context, jobs []Searched) (err error) {
	if q.ahead[jobs[0].ID] != nil {
		return nil
	}
	var ids []string
	rows := int64(0)
	for _, j := range jobs {
		if rows += max(j.Kept, 0); rows > partRows || len(ids) == maxAhead {
			break
		}
		if j.Kept > 0 {
			ids = append(ids, j.ID)
		}
	}
	if q.ahead = nil; len(ids) > 1 {
		q.ahead, err = q.store.parts(ctx, ids, 0, q.needs())
	}
	return err
}

const maxAhead = 64

// needs are the columns that the question is about.
func (q *search) needs() []string {
	var names []string
	for name, is := range map[string]bool{ColumnHost: q.Hosts.IsValid(), ColumnPort: q.Port > 0, ColumnStatus: q.Status > 0, ColumnProto: q.Proto != "",
		ColumnState: q.State != "", ColumnService: q.Service != "", ColumnName: q.Name != ""} {
		if is && name != q.By {
			names = append(names, name)
		}
	}
	if q.By != "" {
		names = append(names, q.By)
	}
	return names
}

// parts reads columns of a part of some jobs. The statement is one, so that they are of one time; a part that is gone has
// none, and that it is there is seen by its hosts.
func (s *Store) parts(ctx context.Context, ids []string, at int, names []string) (map[string]map[string]*column, error) {
	var args []any
	for _, id := range ids {
		args = append(args, id)
	}
	args = append(args, at, ColumnHost)
	marks := "?"
	for _, name := range names {
		if name != ColumnHost {
			args, marks = append(args, name), marks+", ?"
		}
	}
	wanted := "words, codes"
	if !slices.Contains(names, ColumnHost) {
		wanted = "CASE name WHEN 'host' THEN x'' ELSE words END, CASE name WHEN 'host' THEN x'' ELSE codes END"
	}
	rows, err := s.db.QueryContext(ctx, "SELECT job, name, rows, base, "+wanted+" FROM columns WHERE job IN (?"+strings.Repeat(", ?", len(ids)-1)+
		") AND part = ? AND name IN ("+marks+")", args...)
	if err != nil {
		return nil, named("read rows", err)
	}
	defer rows.Close()
	out := map[string]map[string]*column{}
	for rows.Next() {
		var c column
		var id string
		if err := rows.Scan(&id, &c.name, &c.rows, &c.base, &c.words, &c.codes); err != nil {
			return nil, named("read rows", err)
		}
		if out[id] == nil {
			out[id] = map[string]*column{}
		}
		out[id][c.name] = &c
	}
	if err := rows.Err(); err != nil {
		return nil, named("read rows", err) // a column that was not read is not one of which every row has none
	}
	return out, nil
}

// match marks the rows of a part that are asked for, and counts them.
func (q *search) match(cols map[string]*column, n int) (int, error) {
	q.mask, q.all = slices.Grow(q.mask[:0], n)[:n], true
	left := n
	for _, w := range []struct {
		name string
		on   bool
		is   func(word []byte) bool
	}{
		{ColumnHost, q.Hosts.IsValid(), q.within},
		{ColumnState, q.State != "", equals(q.State)},
		{ColumnProto, q.Proto != "", equals(q.Proto)},
		{ColumnService, q.Service != "", equals(q.Service)},
		{ColumnName, q.Name != "", contains(q.Name)},
	} {
		if !w.on || left == 0 {
			continue
		}
		var err error
		if left, err = q.words(cols[w.name], w.is, left); err != nil {
			return 0, err
		}
	}
	for _, w := range []struct {
		name string
		is   int
	}{{ColumnPort, q.Port}, {ColumnStatus, q.Status}} {
		if w.is == 0 || left == 0 {
			continue
		}
		var err error
		if left, err = q.number(cols[w.name], uint32(w.is), left); err != nil {
			return 0, err
		}
	}
	return left, nil
}

func (q *search) within(word []byte) bool {
	a, ok := netip.AddrFromSlice(word)
	return ok && q.Hosts.Contains(a)
}

func contains(part string) func([]byte) bool {
	return func(word []byte) bool { return bytes.Contains(word, []byte(part)) }
}

func equals(want string) func([]byte) bool {
	return func(word []byte) bool { return string(word) == want }
}

// words leaves marked the rows of which the word is asked for, of left that are.
func (q *search) words(c *column, is func([]byte) bool, left int) (int, error) {
	if c == nil { // every row has none
		return 0, nil
	}
	words, err := c.split()
	if err != nil {
		return 0, err
	}
	wanted, some := make([]byte, len(words)), 0
	for i, w := range words {
		if is(w) {
			wanted[i] = 1
			some++
		}
	}
	switch some {
	case 0:
		return 0, nil
	case len(words):
		return left, nil
	}
	if q.codes, err = c.unpack(q.codes); err != nil {
		return 0, err
	}
	if len(q.codes) != len(q.mask) {
		return 0, c.damaged()
	}
	if len(q.codes) > 0 && int(slices.Max(q.codes)) >= len(wanted) {
		return 0, c.damaged()
	}
	q.begin()
	left = 0
	for i, code := range q.codes {
		q.mask[i] &= wanted[code]
		left += int(q.mask[i])
	}
	return left, nil
}

// begin marks each row where no filter has marked any yet.
func (q *search) begin() {
	if q.all {
		for i := range q.mask {
			q.mask[i] = 1
		}
		q.all = false
	}
}

// number leaves marked the rows that have it.
func (q *search) number(c *column, want uint32, left int) (int, error) {
	if c == nil || want < c.base {
		return 0, nil
	}
	want -= c.base
	if len(c.codes) == 0 && want == 0 {
		return left, nil
	}
	var err error
	if q.codes, err = c.unpack(q.codes); err != nil {
		return 0, err
	}
	if len(q.codes) != len(q.mask) {
		return 0, c.damaged()
	}
	q.begin()
	left = 0
	for i, code := range q.codes {
		if code != want {
			q.mask[i] = 0
		}
		left += int(q.mask[i])
	}
	return left, nil
}

// count adds the values of the marked rows to those of the question's column.
func (q *search) count(cols map[string]*column, n int) (err error) {
	c := cols[q.By]
	if c == nil {
		return nil // they have none
	}
	if q.codes, err = c.unpack(q.codes); err != nil {
		return err
	}
	if len(q.codes) != n {
		return c.damaged()
	}
	q.begin()
	if q.isNumber() {
		for i, code := range q.codes {
			q.numbers[uint16(code+c.base)] += uint32(q.mask[i])
		}
		return nil
	}
	words, err := c.split()
	if err != nil {
		return err
	}
	q.tally = slices.Grow(q.tally[:0], len(words))[:len(words)]
	clear(q.tally)
	if len(q.codes) > 0 && int(slices.Max(q.codes)) >= len(words) {
		return c.damaged()
	}
	for i, code := range q.codes {
		q.tally[code] += int64(q.mask[i])
	}
	for i, rows := range q.tally {
		if rows > 0 && len(words[i]) > 0 {
			q.values[string(words[i])] += rows
		}
	}
	return nil
}

func (q *search) isNumber() bool { return q.By == ColumnPort || q.By == ColumnStatus }

// top are the values that most rows have, and how many there are.
func (q *search) top() (out []Value, distinct int) {
	if q.isNumber() {
		var best []int
		for n, rows := range q.numbers {
			if n > 0 && rows > 0 {
				distinct++
				best = offered(best, n, q.Limit, func(a, b int) int { return cmp.Or(cmp.Compare(q.numbers[b], q.numbers[a]), a-b) })
			}
		}
		for _, n := range best {
			out = append(out, Value{strconv.Itoa(n), int64(q.numbers[n])})
		}
		return out, distinct
	}
	for word, rows := range q.values {
		out = offered(out, Value{word, rows}, q.Limit, byRows)
	}
	if q.By == ColumnHost {
		for i := range out {
			a, _ := netip.AddrFromSlice([]byte(out[i].Value))
			out[i].Value = a.String()
		}
	}
	return out, len(q.values)
}

func byRows(a, b Value) int {
	return cmp.Or(cmp.Compare(b.Rows, a.Rows), cmp.Compare(a.Value, b.Value))
}

// offered is the best so far, in their order, with one more if it is among them.
func offered[T any](best []T, one T, limit int, order func(a, b T) int) []T {
	if len(best) == limit && order(one, best[limit-1]) >= 0 {
		return best
	}
	at, _ := slices.BinarySearchFunc(best, one, order)
	best = slices.Insert(best, at, one)
	return best[:min(len(best), limit)]
}

// list takes the marked rows of a part that come after the one that was listed last.
func (q *search) list(ctx context.Context, id string, at, from, n int) error {
	if q.more || !q.passed && id != q.AfterJob {
		return nil
	}
	var take []int
	for i := range n {
		if !q.all && q.mask[i] == 0 || !q.passed && from+i <= q.AfterRow {
			continue
		}
		if len(q.listed)+len(take) == q.Limit {
			q.more = true
			break
		}
		take = append(take, i)
	}
	if len(take) == 0 {
		return nil
	}
	found, err := q.store.rowsAt(ctx, id, at, take)
	for i, r := range found {
		q.listed = append(q.listed, Listed{id, from + take[i], r})
	}
	return err
}

// rowsAt reads some rows of a part whole.
func (s *Store) rowsAt(ctx context.Context, id string, at int, take []int) ([]Row, error) {
	names := []string{}
	for _, c := range wordColumns {
		names = append(names, c.name)
	}
	for _, c := range numberColumns {
		names = append(names, c.name)
	}
	all, err := s.parts(ctx, []string{id}, at, names)
	if err != nil {
		return nil, err
	}
	cols := all[id]
	if cols == nil {
		return nil, ErrNotFound
	}
	rows := make([]Row, len(take))
	var codes []uint32
	for _, name := range slices.Sorted(maps.Keys(cols)) {
		c := cols[name]
		if codes, err = c.unpack(codes); err != nil {
			return nil, err
		}
		words, err := c.split()
		if err != nil {
			return nil, err
		}
		for i, n := range take {
			if n >= len(codes) || len(words) > 0 && int(codes[n]) >= len(words) {
				return nil, c.damaged()
			}
			word := ""
			if len(words) > 0 {
				word = string(words[codes[n]])
			}
			rows[i].set(name, word, int(codes[n]+c.base))
		}
	}
	return rows, nil
}

func (r *Row) set(column, word string, number int) {
	switch column {
	case ColumnHost:
		r.Host, _ = netip.AddrFromSlice([]byte(word))
	case ColumnPort:
		r.Port = number
	case ColumnStatus:
		r.Status = number
	case ColumnProto:
		r.Proto = word
	case ColumnState:
		r.State = word
	case ColumnService:
		r.Service = word
	case ColumnName:
		r.Name = word
	case ColumnProduct:
		r.Product = word
	case ColumnVersion:
		r.Version = word
	case columnText:
		r.Text = word
	}
}
