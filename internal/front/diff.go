package front

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// What can be said of something that one of two scans found.
const (
	appeared      = "appeared"
	vanished      = "vanished"
	changed       = "changed"
	notComparable = "not_comparable" // the other scan did not look there: nothing follows
)

var diffKinds = []string{appeared, vanished, changed, notComparable}

var (
	diffCursor = regexp.MustCompile(`^([a-z2-7]{8})\.([a-z2-7]{8})\.([0-9]{1,7})(\.[avcn])?$`)
	scanForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`) // a job's id is one, too
)

func scanNamed(name, about string) argument {
	return argument{name: name, kind: "string", about: about, form: scanForm, required: true,
		allowed: "a job_id, or a name that job_pin gave", hint: "job_list lists your jobs, and under which names they are pinned"}
}

// The arguments of scan_diff and job_pin.
var (
	argBefore2 = scanNamed("before", "job_id, or a name of job_pin")
	argAfter   = scanNamed("after", "likewise")
	argKind    = argument{name: "kind", kind: "string", about: "only these", words: diffKinds, hint: "leave it out to have all"}
	argChange  = argument{name: "cursor", kind: "string", about: "page.next_cursor of the last page", form: diffCursor,
		allowed: "page.next_cursor of an answer of scan_diff about these jobs and this kind", hint: "leave cursor out to begin with the first change"}
	argPin = argument{name: "name", kind: "string", about: "yours, for scan_diff", form: scanForm, fits: func(s string) bool { return !wire.ValidJobID(s) }, required: true,
		allowed: "1 to 32 of a-z 0-9 . _ -, and no job_id", hint: "a name of your own", example: "baseline"}
	argPinned = argument{name: "job_id", kind: "string", about: "left out: unpin", form: argJob.form, allowed: argJob.allowed, hint: argJob.hint}

	diffArguments = []argument{argBefore2, argAfter, argKind, argLimit, argChange}
	pinArguments  = []argument{argPin, argPinned}
)

// diffed is what two scans say of each other.
type diffed struct {
	Before        scanOf        `json:"before"`
	After         scanOf        `json:"after"`
	Appeared      int           `json:"appeared"`
	Vanished      int           `json:"vanished"`
	Changed       int           `json:"changed"`
	Same          int           `json:"same"`
	NotComparable int           `json:"not_comparable" jsonschema:"the other scan did not look there: neither opened nor closed"`
	Reasons       []reasonCount `json:"reasons,omitempty" jsonschema:"why they are not comparable"`
	Changes       []change      `json:"changes"`
	Page          diffPage      `json:"page"`
	Notice        string        `json:"notice,omitempty"`
	Next          string        `json:"next"`
	sentNothing   []string      // before, after
}

// scanOf is one of the two, and how far it came.
type scanOf struct {
	JobID      string      `json:"job_id"`
	Name       string      `json:"name,omitempty"` // that it is pinned under
	Status     store.State `json:"status"`
	Tool       string      `json:"tool"`
	Ended      string      `json:"ended,omitempty"`
	Complete   bool        `json:"complete"`
	NotReached uint64      `json:"not_reached,omitempty"` // addresses
	TimedOut   int         `json:"timed_out,omitempty"`
	CutBy      string      `json:"cut_by,omitempty"`
	CutFrom    []string    `json:"cut_from,omitempty"`
}

type reasonCount struct {
	Scan   string `json:"scan"` // before, after: the one that did not look
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

type diffPage struct {
	Returned int    `json:"returned"`
	Total    int    `json:"total"`
	Next     string `json:"next_cursor,omitempty"`
}

// change is one thing that one of the scans found. What a scan says nothing of is left out.
type change struct {
	Kind   string `json:"kind"`
	Host   string `json:"host"`
	Port   int    `json:"port,omitempty"`
	Proto  string `json:"proto,omitempty"`
	Name   string `json:"name,omitempty"` // path or name
	Before *seen  `json:"before,omitempty"`
	After  *seen  `json:"after,omitempty"`
	Scan   string `json:"scan,omitempty"` // before, after: the one that did not look
	Reason string `json:"reason,omitempty"`
}

// seen is what one scan found.
type seen struct {
	State     string   `json:"state,omitempty"` // of a port; of a host up, down
	Service   string   `json:"service,omitempty"`
	Status    int      `json:"status,omitempty"`
	Untrusted *rowText `json:"untrusted,omitempty"`
}

// spot is where something was found; no port and no name: the host itself.
type spot struct {
	addr  netip.Addr
	proto string
	port  int
	name  string
}

func (a spot) compare(b spot) int {
	return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port), strings.Compare(a.name, b.name))
}

// sight is what is compared of something that was found.
type sight struct {
	state, service, tunnel     string
	product, version, location string
	status                     int
}

// there says that it is a finding: a port that is open, a path or a name that was found, a host that is up.
func (at spot) there(s sight) bool {
	return at.name != "" || at.isHost() && s.state == "up" || !at.isHost() && s.state == "open"
}

func (at spot) isHost() bool { return at.proto == "" && at.name == "" }

func (s sight) seen() *seen {
	out := &seen{State: s.state, Service: s.service, Status: s.status}
	if s.product != "" || s.version != "" || s.location != "" {
		out.Untrusted = &rowText{s.product, s.version, s.location}
	}
	return out
}

// side is one of two scans, without what is not compared.
type side struct {
	scanOf
	looked
	detects   bool // it asked which services they are
	found     map[spot]sight
	hosts     map[netip.Addr]hostState
	through   prefixSet
	down      prefixSet
	gaveUp    prefixSet
	asked     prefixSet
	excluded  prefixSet
	lostHosts bool // some that are up are not in the report
	lostPorts bool
}

// hostState is what is said of the ports of a host that are not listed.
type hostState struct {
	others    string // the state of all of them; "": they have several, or none is said
	undecided bool   // some are open|filtered: nothing answered, which an open port may do as well
	silent    bool
}

// sideOf is a job's. It keeps nothing of the report but what is compared.
func sideOf(of runners.Table, row store.Job) (*side, error) {
	record, r, err := unpack(row)
	if err != nil {
		return nil, err
	}
	whole := cover(record, r)
	d := &side{looked: lookedOf(of, row, record, r), found: map[spot]sight{}, hosts: map[netip.Addr]hostState{},
		scanOf: scanOf{JobID: row.ID, Name: row.Pinned, Status: row.State, Tool: row.Tool, Complete: whole.Complete && row.State == store.Completed,
			NotReached: whole.NotReached, TimedOut: whole.TimedOut, CutBy: whole.CutBy, CutFrom: whole.CutFrom}}
	if !row.Ended.IsZero() {
		d.Ended = row.Ended.Format("2006-01-02T15:04:05Z")
	}
	call, _ := of.Read(row.Tool, row.Arguments)
	d.detects = call.Nmap != nil && call.Nmap.ServiceDetection
	c := r.Coverage
	d.through, d.down, d.gaveUp = setOf(d.Through), setOf(c.DownAt), setOf(c.GivenUp)
	asked, _ := prefixesOf(record.Verdict.Addresses, record.Verdict.AddressCount)
	d.asked = setOf(asked)
	var out []netip.Prefix
	for _, e := range record.Verdict.Excluded {
		if p, err := netip.ParsePrefix(e.Prefix); err == nil {
			out = append(out, p)
		}
	}
	d.excluded = setOf(out)
	d.lostHosts = c.NotKept > 0
	d.lostPorts = slices.ContainsFunc(r.Cut, func(what string) bool {
		return what == "ports" || what == "found" || what == "total" || what == "depth"
	})
	for _, h := range r.Hosts {
		d.take(h)
	}
	return d, nil
}

func (d *side) take(h report.Host) {
	state := hostState{silent: h.Silent}
	state.undecided = slices.ContainsFunc(h.Others, func(o report.Others) bool { return o.State == "open|filtered" })
	if len(h.Others) == 1 {
		state.others = h.Others[0].State
	}
	d.hosts[h.Addr] = state
	for _, p := range h.Ports {
		s := sight{state: p.State, service: p.Service, tunnel: p.Tunnel}
		if u := p.Untrusted; u != nil {
			s.product, s.version = u.Product, u.Version
		}
		d.found[spot{addr: h.Addr, proto: p.Proto, port: p.Port}] = s
	}
	for _, f := range h.Found {
		s := sight{status: f.Status}
		if f.Untrusted != nil {
			s.location = f.Untrusted.Location
		}
		d.found[spot{addr: h.Addr, name: cmp.Or(f.Path, f.Name)}] = s
	}
	if h.Status == "up" && !h.Silent && !h.TimedOut && d.Tool != gobusterTool {
		d.found[spot{addr: h.Addr}] = sight{state: "up"}
	}
}

// why says why the scan tells nothing of a place that it does not list, found by one that asked words; "": it looked, and it
// was not there.
func (d *side) why(at spot, words string) string {
	if d.Silence != "" {
		return d.Silence
	}
	if at.name != "" {
		_, there := d.hosts[at.addr]
		switch {
		case d.Words == "":
			return noWords
		case d.Words != words:
			return otherWords
		case !there:
			return notAsked // the name led elsewhere
		case d.lostPorts:
			return notKept
		}
		return "" // of the same words, at the same address, and all of them
	}
	if why := d.host(at.addr); why != "" {
		return why
	}
	if why := d.port(at.proto, at.port); why != "" {
		return why
	}
	if d.lostPorts {
		return notKept
	}
	return ""
}

// host is why it tells nothing of the ports of an address.
func (d *side) host(a netip.Addr) string {
	_, listed := d.hosts[a]
	switch {
	case d.Words != "":
		return noPorts
	case d.down.has(a):
		return isDown
	case d.gaveUp.has(a):
		return gaveUp
	case d.through.has(a) && !listed && d.lostHosts:
		return notKept
	case d.through.has(a):
		return ""
	case d.excluded.has(a):
		return leftOut
	case d.asked.has(a):
		return notReachedYet
	}
	return notAsked
}

// rest is what a scan that looked at a port says of it when it does not list it.
func (d *side) rest(at spot) *seen {
	h, is := d.hosts[at.addr]
	switch {
	case at.name != "" || !is:
		return nil
	case h.silent:
		return &seen{State: "no answer"}
	case h.others != "":
		return &seen{State: h.others}
	}
	return nil
}

// judged is what follows for one place.
type judged struct {
	spot
	kind, scan, reason string
	before, after      *seen
}

// compare says what two scans say of each other, by place. same is how many found the same.
func compare(a, b *side) (out []judged, same int) {
	places := slices.SortedFunc(maps.Keys(a.found), spot.compare)
	for at := range b.found {
		if _, both := a.found[at]; !both {
			places = append(places, at)
		}
	}
	slices.SortFunc(places, spot.compare)
	for _, at := range places {
		j, is := judge(at, a, b)
		if !is {
			continue
		}
		if j.kind == "" {
			same++
			continue
		}
		out = append(out, j)
	}
	return out, same
}

// judge is about one place; false: there is nothing to be said, since neither found it there. Of one that
// both have alike there is no kind.
func judge(at spot, a, b *side) (judged, bool) {
	x, inA := a.found[at]
	y, inB := b.found[at]
	inA, inB = inA && at.there(x), inB && at.there(y)
	switch {
	case at.isHost() && !(inA && b.down.has(at.addr) || inB && a.down.has(at.addr)):
		return judged{}, false // whether a host is there only discovery tells
	case inA && inB:
		return between(at, x, y, a, b), true
	case inA:
		j := missing(at, x, a, b)
		if j.kind == "" {
			j.kind = vanished
		} else {
			j.scan = "after"
		}
		return j, true
	case inB:
		j := missing(at, y, b, a)
		if j.kind == "" {
			j.kind = appeared
		} else {
			j.scan = "before"
		}
		j.before, j.after = j.after, j.before
		return j, true
	}
	return judged{}, false
}

// missing is about what the first scan found and the other did not: as before and after.
func missing(at spot, x sight, first, other *side) judged {
	j := judged{spot: at, before: x.seen()}
	y, listed := other.found[at]
	if listed && y.state == "open|filtered" {
		j.kind, j.reason, j.after = notComparable, undecided, y.seen()
		return j
	}
	if listed && other.Silence == "" {
		j.after = y.seen()
		return j
	}
	if at.isHost() && other.Silence == "" {
		j.after = &seen{State: isDown}
		return j
	}
	if j.reason = other.why(at, first.Words); j.reason != "" {
		j.kind = notComparable
		return j
	}
	j.after = other.rest(at)
	if other.undecided(at) {
		j.kind, j.reason = notComparable, undecided
	}
	return j
}

// undecided says that a scan which looked at a port that it does not list may have found it open: where datagrams are sent,
// no answer is no sign.
func (d *side) undecided(at spot) bool {
	if at.name != "" {
		return false
	}
	h := d.hosts[at.addr]
	return h.others == "open|filtered" || at.proto != "tcp" && (h.undecided || d.Tool == masscanTool)
}

// between is about what both found.
func between(at spot, x, y sight, a, b *side) judged {
	j := judged{spot: at, before: x.seen(), after: y.seen()}
	known := func(s sight) bool { return s.product != "" || s.version != "" }
	switch {
	case at.name != "":
		if x != y {
			j.kind = changed
		}
	case a.detects && b.detects:
		if x != y {
			j.kind = changed
		}
	case a.detects && known(x):
		j.kind, j.scan, j.reason = notComparable, "after", notDetected
	case b.detects && known(y):
		j.kind, j.scan, j.reason = notComparable, "before", notDetected
	}
	return j
}

// diffAnswer is a page of what was compared.
func diffAnswer(a, b *side, kind string, from, limit int) diffed {
	all, same := compare(a, b)
	d := diffed{Before: a.scanOf, After: b.scanOf, Same: same, Changes: []change{}}
	for _, scan := range []struct {
		name string
		*side
	}{{"before", a}, {"after", b}} {
		if scan.Silence == notSent {
			d.sentNothing = append(d.sentNothing, scan.name)
		}
	}
	why := map[reasonCount]int{}
	wanted := all[:0]
	for _, j := range all {
		switch j.kind {
		case appeared:
			d.Appeared++
		case vanished:
			d.Vanished++
		case changed:
			d.Changed++
		default:
			d.NotComparable++
			why[reasonCount{Scan: j.scan, Reason: j.reason}]++
		}
		if kind == "" || kind == j.kind {
			wanted = append(wanted, j)
		}
	}
	for r, n := range why {
		r.Count = n
		d.Reasons = append(d.Reasons, r)
	}
	slices.SortFunc(d.Reasons, func(x, y reasonCount) int {
		return cmp.Or(y.Count-x.Count, strings.Compare(x.Scan+x.Reason, y.Scan+y.Reason))
	})
	// What happened comes before what cannot be told.
	slices.SortStableFunc(wanted, func(x, y judged) int { return slices.Index(diffKinds, x.kind) - slices.Index(diffKinds, y.kind) })
	d.Page.Total = len(wanted)
	room := pageBytes
	at := min(from, len(wanted))
	for ; at < len(wanted) && len(d.Changes) < limit; at++ {
		c := wanted[at].change()
		if room -= weight(c); room < 0 && len(d.Changes) > 0 {
			break
		}
		if c.Before != nil && c.Before.Untrusted != nil || c.After != nil && c.After.Untrusted != nil {
			d.Notice = notice
		}
		d.Changes = append(d.Changes, c)
	}
	d.Page.Returned = len(d.Changes)
	if at < len(wanted) {
		d.Page.Next = fmt.Sprintf("%.8s.%.8s.%d%s", a.JobID, b.JobID, at, ofKind(kind))
	}
	d.Next = d.next()
	return d
}

// ofKind is how a cursor says which kind of change its pages have: another has other pages.
func ofKind(kind string) string {
	if kind == "" {
		return ""
	}
	return "." + kind[:1]
}

func (j judged) change() change {
	return change{Kind: j.kind, Host: j.addr.String(), Port: j.port, Proto: j.proto, Name: j.name, Before: j.before, After: j.after, Scan: j.scan, Reason: j.reason}
}

func (d *diffed) next() string {
	var say []string
	if d.Appeared+d.Vanished+d.Changed == 0 {
		switch {
		case len(d.sentNothing) > 0:
			say = append(say, fmt.Sprintf("Nothing can be compared: %s sent nothing.", strings.Join(d.sentNothing, " and ")))
		case !d.Before.Complete || !d.After.Complete:
			say = append(say, "No difference where both looked. That is not all: a scan was not complete.")
		case d.NotComparable > 0:
			say = append(say, "No difference where both looked.")
		default:
			say = append(say, "No difference.")
		}
	} else if !d.Before.Complete || !d.After.Complete {
		say = append(say, "A scan was not complete: of what it did not come to nothing is told. coverage of job_result says what that is.")
	}
	if d.NotComparable > 0 {
		say = append(say, fmt.Sprintf("%d are not comparable, since one scan did not look there: they have neither opened nor closed. Scan again with the same targets and ports to compare them.", d.NotComparable))
	}
	if d.Page.Next != "" {
		say = append(say, fmt.Sprintf("The same call with cursor %q gives the next.", d.Page.Next))
	}
	return strings.Join(say, " ")
}

func (f *front) scanDiff(ctx context.Context, s *session, r *mcp.CallToolRequest) (any, error) {
	v, wrong := read(diffArguments, r.Params.Arguments)
	if wrong != nil {
		return nil, wrong
	}
	// One at a time: each reads two results, which may be large.
	select {
	case f.comparing <- struct{}{}:
		defer func() { <-f.comparing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a, err := f.side(ctx, s, argBefore2, v)
	if err != nil {
		return nil, err
	}
	b, err := f.side(ctx, s, argAfter, v)
	if err != nil {
		return nil, err
	}
	from := 0
	if m := diffCursor.FindStringSubmatch(v.text(argChange)); m != nil {
		if m[1] != a.JobID[:8] || m[2] != b.JobID[:8] || m[4] != ofKind(v.text(argKind)) {
			return nil, faults{argChange.fault("bad_value", clip(v.text(argChange)))}
		}
		from, _ = strconv.Atoi(m[3]) // digits, says the form
	}
	return diffAnswer(a, b, v.text(argKind), from, v.number(argLimit)), nil
}

// side is a scan that is named by a job's id or by what it is pinned under.
func (f *front) side(ctx context.Context, s *session, arg argument, v values) (*side, error) {
	name := v.text(arg)
	var row store.Job
	var err error
	if wire.ValidJobID(name) {
		if f.underWay(s, name) != nil {
			return nil, refused{Refusal: notOver(name, arg.name)}
		}
		row, err = f.store.Get(ctx, s.client.UID, name)
	} else {
		row, err = f.store.Baseline(ctx, s.client.UID, name)
	}
	if errors.Is(err, store.ErrNotFound) {
		refusal := noSuchJob(arg.name, clip(name))
		refusal.Reason = "no job of yours has this id, or is pinned under this name"
		return nil, refused{Refusal: refusal}
	}
	if err != nil {
		return nil, err
	}
	return sideOf(f.toolsOf(row), row)
}

// pinnedAs is what job_pin answers.
type pinnedAs struct {
	Name  string `json:"name"`
	JobID string `json:"job_id,omitempty"`
	Next  string `json:"next"`
}

func (f *front) jobPin(ctx context.Context, s *session, r *mcp.CallToolRequest) (any, error) {
	v, wrong := read(pinArguments, r.Params.Arguments)
	if wrong != nil {
		return nil, wrong
	}
	name, id := v.text(argPin), v.text(argPinned)
	if id == "" {
		err := f.store.Unpin(ctx, s.client.UID, name)
		if errors.Is(err, store.ErrNotFound) {
			return nil, refused{Refusal: &wire.Refusal{Code: "no_such_pin", Field: "name", Got: name, Reason: "no job of yours is pinned under this name", Hint: "job_list says which are pinned"}}
		}
		return pinnedAs{Name: name, Next: "The job is kept as long as any other."}, err
	}
	if f.underWay(s, id) != nil {
		return nil, refused{Refusal: notOver(id, "job_id")}
	}
	before, err := f.store.Pins(ctx, s.client.UID)
	if err == nil {
		err = f.store.Pin(ctx, s.client.UID, id, name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, refused{Refusal: noSuchJob("job_id", id)}
	case errors.Is(err, store.ErrTooManyPins):
		return nil, refused{Refusal: &wire.Refusal{Code: "too_many_pins", Field: "name", Got: name, Reason: err.Error(), Hint: "job_pin with a name alone unpins; job_list says which are pinned"}}
	case err != nil:
		return nil, err
	}
	return pinnedAs{name, id, fmt.Sprintf("The job is kept until it is unpinned. scan_diff takes %q for it.", name) + unpinnedBy(before, id, name)}, nil
}

// unpinnedBy says what pinning a job has unpinned: the job that had the name, and the name that the job had.
func unpinnedBy(before map[string]string, id, name string) (say string) {
	if other := before[name]; other != "" && other != id {
		say = fmt.Sprintf(" Job %s had this name, and is kept as long as any other from now on.", other)
	}
	for was, of := range before {
		if of == id && was != name {
			say += fmt.Sprintf(" It was pinned as %q before, which names no job any more.", was)
		}
	}
	return say
}
