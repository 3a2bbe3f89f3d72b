package front

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
)

const (
	queryTime     = 2 * time.Second // of one question; jobs that it does not come to are told
	maxIncomplete = 10              // jobs that are listed by themselves
)

// columnsBy are what result_query counts the values of.
var columnsBy = []string{store.ColumnPort, store.ColumnHost, store.ColumnProto, store.ColumnState, store.ColumnService, store.ColumnStatus, store.ColumnName, store.ColumnProduct, store.ColumnVersion}

// rowCursor names the row that was listed last, and says how many were listed until then, and of which question.
var rowCursor = regexp.MustCompile(`^([a-z2-7]{26})\.([0-9]{1,7})\.([0-9]{1,12})\.([a-z2-7]{8})$`)

// markOf tells a question from others, wherever its pages begin and however long they are.
func markOf(q store.Question) string {
	sum := sha256.Sum256(encode([]any{q.Job, q.Hosts, q.Port, q.Status, q.Proto, q.State, q.Service, q.Name, q.By}))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
}

func wordOf(name, about, example string) argument {
	return argument{name: name, kind: "string", about: about, form: regexp.MustCompile(`^[A-Za-z0-9._|+/-]{1,64}$`), allowed: "1 to 64 of A-Z a-z 0-9 . _ | + / -", hint: "one word, as results have it", example: example}
}

// The arguments of result_query.
var (
	argOneJob = argument{name: "job_id", kind: "string", about: "one job; else all of yours", form: argJob.form, allowed: argJob.allowed, hint: "leave it out for all of your jobs; job_list lists them"}
	argHosts  = argument{name: "host", kind: "string", about: "address or network", fits: func(s string) bool { _, is := networkOf(s); return is },
		allowed: "an address, or a network such as 10.0.0.0/24", hint: "names are not taken", example: "10.0.0.0/24"}
	argPort    = argument{name: "port", kind: "integer", low: 1, high: 65535, hint: "one port; leave it out for all"}
	argProto   = argument{name: "proto", kind: "string", words: []string{"tcp", "udp", "sctp", "ip"}, hint: "leave it out for all"}
	argIn      = wordOf("state", "of a port", "open")
	argService = wordOf("service", "", "http")
	argStatus  = argument{name: "status", kind: "integer", about: "of an answer by HTTP", low: 100, high: 999, hint: "one code; leave it out for all", example: "200"}
	argName    = argument{name: "name", kind: "string", about: "part of a path or name", fits: func(s string) bool { return s != "" && utf8.RuneCountInString(s) <= 128 },
		allowed: "1 to 128 characters", hint: "a part of what is to be found", example: "admin"}
	argBy   = argument{name: "by", kind: "string", about: "count its values instead of listing rows", words: columnsBy, hint: "leave it out to have rows"}
	argRows = argument{name: "cursor", kind: "string", about: "next_cursor of the last page", form: rowCursor, allowed: "next_cursor of an answer of result_query to the same question", hint: "leave cursor out to begin with the first row"}

	queryArguments = []argument{argOneJob, argHosts, argPort, argProto, argIn, argService, argStatus, argName, argBy, argLimit, argRows}
)

func networkOf(s string) (netip.Prefix, bool) {
	if isAddress(s) {
		a := netip.MustParseAddr(s)
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil && p == p.Masked()
}

// queried is the answer to a question about results.
type queried struct {
	Count    int64      `json:"count" jsonschema:"rows that match, over all pages"`
	By       string     `json:"by,omitempty"`
	Distinct int        `json:"distinct,omitempty" jsonschema:"values there are"`
	Values   []counted  `json:"values,omitempty" jsonschema:"those that most rows have"`
	Rows     []foundRow `json:"rows,omitempty"`
	Over     over       `json:"over" jsonschema:"the jobs that were searched, their states, and what they did not look at"`
	Cursor   string     `json:"next_cursor,omitempty"`
	Notice   string     `json:"notice,omitempty"`
	Next     string     `json:"next"`
	unlisted int64      // rows on no page: of jobs that came to their ends ahead of the cursor
}

// counted is a value, which is the scanned host's own text where it is one of product or version.
type counted struct {
	Value     string     `json:"value,omitempty"`
	Untrusted *valueText `json:"untrusted,omitempty"`
	Count     int64      `json:"count"`
}

type valueText struct {
	Value string `json:"value"`
}

type foundRow struct {
	JobID     string   `json:"job_id,omitempty"` // where several were searched
	Host      string   `json:"host,omitempty"`
	Port      int      `json:"port,omitempty"`
	Proto     string   `json:"proto,omitempty"`
	State     string   `json:"state,omitempty"`
	Service   string   `json:"service,omitempty"`
	Status    int      `json:"status,omitempty"`
	Name      string   `json:"name,omitempty"` // path or name
	Untrusted *rowText `json:"untrusted,omitempty"`
}

type rowText struct {
	Product  string `json:"product,omitempty"`
	Version  string `json:"version,omitempty"`
	Location string `json:"location,omitempty"`
}

// over says over which jobs an answer is, so that nobody takes what was not looked at for what is not there.
type over struct {
	Jobs        int              `json:"jobs"` // searched
	States      map[string]int   `json:"states"`
	Complete    int              `json:"complete"` // of those searched: they looked at all that they were asked for
	Looked      int              `json:"looked"`   // of those searched: they looked where the question is about
	UnderWay    int              `json:"under_way,omitempty"`
	NotSearched int              `json:"not_searched,omitempty"`
	NotLooked   map[string]int   `json:"did_not_look,omitempty"` // jobs, by the reason why they say nothing of this
	Incomplete  []incompleteHere `json:"incomplete,omitempty"`   // the first of those that are not complete
}

type incompleteHere struct {
	JobID      string `json:"job_id"`
	Status     string `json:"status"`
	CutBy      string `json:"cut_by,omitempty"`
	NotReached uint64 `json:"not_reached,omitempty"` // addresses
	TimedOut   int    `json:"timed_out,omitempty"`
	CutFrom    string `json:"cut_from,omitempty"` // parts of the report that exceeded a bound
}

func (f *front) resultQuery(ctx context.Context, s *session, r *mcp.CallToolRequest) (any, error) {
	v, wrong := read(queryArguments, r.Params.Arguments)
	if by, cursor := v.text(argBy), v.text(argRows); by != "" && cursor != "" && len(check(queryArguments, v)) == 0 {
		wrong = append(wrong, argRows.fault("conflict", clip(cursor)))
	}
	if wrong != nil {
		return nil, wrong
	}
	q := questionOf(v)
	if m := rowCursor.FindStringSubmatch(v.text(argRows)); m != nil && m[4] != markOf(q) {
		return nil, faults{argRows.fault("bad_value", clip(m[0]))} // another question has other pages
	}
	if q.Job != "" && f.underWay(s, q.Job) != nil {
		return nil, refused{Refusal: notOver(q.Job, "job_id")}
	}
	limited, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	// One at a time: what a thousand jobs looked at is large, and the store reads for one at a time anyway.
	select {
	case f.searching <- struct{}{}:
		defer func() { <-f.searching }()
	case <-limited.Done():
		return nil, cmp.Or(ctx.Err(), noTime)
	}
	found, err := f.store.Find(limited, s.client.UID, q)
	switch {
	case errors.Is(err, store.ErrNotFound) && q.AfterJob != "" && q.Job == "":
		return nil, faults{argRows.fault("bad_value", clip(v.text(argRows)))}
	case errors.Is(err, store.ErrNotFound):
		return nil, refused{Refusal: noSuchJob("job_id", q.Job)}
	case limited.Err() != nil && ctx.Err() == nil && err != nil:
		return nil, noTime
	case err != nil:
		return nil, err
	}
	before := int64(0)
	if m := rowCursor.FindStringSubmatch(v.text(argRows)); m != nil {
		before, _ = strconv.ParseInt(m[3], 10, 64) // digits that fit, says the form
	}
	return answerTo(q, found, f.underWayOf(s), before), nil
}

// noTime is told where a question came to nothing within its time.
var noTime error = refused{Refusal: &wire.Refusal{Code: "busy", Reason: "there was no time to search any job", Hint: "ask again", Retryable: true}}

func questionOf(v values) store.Question {
	q := store.Question{Job: v.text(argOneJob), Port: v.number(argPort), Status: v.number(argStatus), Proto: v.text(argProto), State: v.text(argIn),
		Service: v.text(argService), Name: v.text(argName), By: v.text(argBy), Limit: v.number(argLimit)}
	if host := v.text(argHosts); host != "" {
		q.Hosts, _ = networkOf(host)
	}
	if m := rowCursor.FindStringSubmatch(v.text(argRows)); m != nil {
		q.AfterJob = m[1]
		q.AfterRow, _ = strconv.Atoi(m[2]) // digits, says the form
	}
	return q
}

func noSuchJob(field, id string) *wire.Refusal {
	return &wire.Refusal{Code: "no_such_job", Field: field, Got: id, Reason: "no job of yours has this id", Hint: "job_list lists yours"}
}

func notOver(id, field string) *wire.Refusal {
	return &wire.Refusal{Code: "under_way", Field: field, Got: id, Reason: "the scan has not ended, so that nothing of it can be searched", Hint: "job_status with wait_s waits for its end", Retryable: true}
}

// underWayOf is how many of the caller's jobs have not ended.
func (f *front) underWayOf(s *session) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, j := range f.jobs {
		if j.row.UID == s.client.UID {
			n++
		}
	}
	return n
}

// answerTo is what is said of what was found. before is how many rows earlier pages had.
func answerTo(q store.Question, found store.Findings, underWay int, before int64) queried {
	a := queried{Count: found.Count, By: q.By, Over: overOf(q, found.Jobs)}
	if q.Job == "" {
		a.Over.UnderWay = underWay
	}
	room := pageBytes
	cut := false
	if q.By != "" {
		a.Distinct = found.Distinct
		for _, value := range found.Values {
			c := counted{Value: value.Value, Count: value.Rows}
			if q.By == store.ColumnProduct || q.By == store.ColumnVersion {
				c.Value, c.Untrusted = "", &valueText{value.Value}
				a.Notice = notice
			}
			if room -= weight(c); room < 0 {
				cut = true
				break
			}
			a.Values = append(a.Values, c)
		}
	}
	for _, at := range found.Rows {
		row := rowAnswer(at, q.Job == "")
		if room -= weight(row); room < 0 && len(a.Rows) > 0 {
			cut = true
			break
		}
		if row.Untrusted != nil {
			a.Notice = notice
		}
		a.Rows = append(a.Rows, row)
	}
	if n := len(a.Rows); n > 0 && (cut || found.More) {
		a.Cursor = fmt.Sprintf("%s.%d.%d.%s", found.Rows[n-1].Job, found.Rows[n-1].At, before+int64(n), markOf(q))
	} else if q.By == "" && a.Over.NotSearched == 0 {
		a.unlisted = a.Count - before - int64(n)
	}
	a.Next = a.next(q)
	return a
}

func rowAnswer(at store.Listed, several bool) foundRow {
	row := foundRow{Port: at.Port, Proto: at.Proto, State: at.State, Service: at.Service, Status: at.Status, Name: at.Name}
	if at.Host.IsValid() {
		row.Host = at.Host.String()
	}
	if several {
		row.JobID = at.Job
	}
	if at.Product != "" || at.Version != "" || at.Text != "" {
		row.Untrusted = &rowText{at.Product, at.Version, at.Text}
	}
	return row
}

// overOf says what the jobs are that were searched.
func overOf(q store.Question, jobs []store.Searched) over {
	o := over{States: map[string]int{}, NotLooked: map[string]int{}}
	read := map[string]*looked{} // jobs that did the same have the same
	for _, j := range jobs {
		if j.Passed || j.Kept < 0 {
			o.NotSearched++
			continue
		}
		o.Jobs++
		o.States[string(j.State)]++
		if why := unlooked(q, j, read); why != "" {
			o.NotLooked[why]++
		} else {
			o.Looked++
		}
		var s summary
		if len(j.Summary) == 0 || json.Unmarshal(j.Summary, &s) != nil {
			s = summary{} // it never began
		}
		if s.Complete && j.State == store.Completed {
			o.Complete++
			continue
		}
		if len(o.Incomplete) < maxIncomplete {
			o.Incomplete = append(o.Incomplete, incompleteHere{j.ID, string(j.State), s.CutBy, s.NotReached, s.TimedOut, strings.Join(s.CutFrom, " ")})
		}
	}
	return o
}

// unlooked is why a job says nothing about what a question is about; "": it looked there, or found something.
func unlooked(q store.Question, j store.Searched, read map[string]*looked) string {
	products := q.By == store.ColumnProduct || q.By == store.ColumnVersion
	if j.Matches > 0 && !products {
		return ""
	}
	l := read[string(j.Looked)]
	if l == nil {
		l = &looked{}
		if len(j.Looked) == 0 || json.Unmarshal(j.Looked, l) != nil {
			l.Silence = notSent
		}
		read[string(j.Looked)] = l
	}
	words := q.Status > 0 || q.Name != "" || q.By == store.ColumnStatus || q.By == store.ColumnName
	ports := q.State != "" || q.Service != "" || q.Proto != ""
	switch {
	case j.Matches > 0 && l.Undetected: // what it found is counted, and nobody asked what it is
		return notDetected
	case j.Matches > 0:
		return ""
	case l.Silence != "":
		return l.Silence
	case words && l.Words == "":
		return noWords
	case ports && l.Words != "":
		return noPorts
	case l.noPortsAsked():
		return portNotAsked
	case products && l.Undetected, j.Tool == masscanTool && (q.Service != "" || q.By == store.ColumnService):
		return notDetected
	case q.Hosts.IsValid() && !overlaps(l.Through, q.Hosts) && overlaps(l.Down, q.Hosts), len(l.Through) == 0 && len(l.Down) > 0:
		return isDown
	case q.Hosts.IsValid() && !overlaps(l.Through, q.Hosts) && !l.More, len(l.Through) == 0 && !l.More:
		return notReachedYet
	case q.Port > 0 && l.Words == "":
		return l.port(q.Proto, q.Port)
	}
	return ""
}

func overlaps(prefixes []netip.Prefix, with netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Overlaps(with) {
			return true
		}
	}
	return false
}

// next says how far the count goes, and how to go on.
func (a *queried) next(q store.Question) string {
	var say []string
	o := a.Over
	switch {
	case a.Count == 0 && o.Looked == 0:
		say = append(say, "No job that was searched looked there, so that nothing is known: this is not a finding of none.")
	case a.Count == 0:
		say = append(say, fmt.Sprintf("Jobs that looked there: %d of %d. They list none.", o.Looked, o.Jobs))
	}
	if n := o.NotLooked[notDetected]; n > 0 && a.Count > 0 {
		say = append(say, fmt.Sprintf("%d of %d jobs did not ask which service it is (service_detection): their rows are counted without a value.", n, o.Jobs))
	}
	if a.unlisted > 0 {
		say = append(say, fmt.Sprintf("%d rows are on no page: jobs ended while you were reading. The same question without cursor begins anew.", a.unlisted))
	}
	if left := o.Jobs - o.Complete; left > 0 {
		say = append(say, fmt.Sprintf("%d of %d jobs were not complete: what they did not come to is not counted, and may be there. coverage of job_result tells what that is.", left, o.Jobs))
	}
	if n := o.NotSearched; n > 0 {
		say = append(say, fmt.Sprintf("%d jobs were not searched: ask about each by job_id, or again later.", n))
	}
	if o.Jobs > 1 && a.Count > 0 {
		say = append(say, "What several jobs found counts once for each.")
	}
	if a.Cursor != "" {
		say = append(say, fmt.Sprintf("The same question with cursor %q gives the next rows.", a.Cursor))
	} else if len(a.Values) < a.Distinct {
		say = append(say, "There are more values than are listed: narrow the question, or raise limit.")
	}
	if len(say) == 0 {
		return "This is all."
	}
	return strings.Join(say, " ")
}
