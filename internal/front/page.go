package front

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"github.com/secmcpd/secmcpd/runners/report"
)

// query is which part of a report is wanted.
type query struct {
	Limit  int        // hosts, 1 to 100
	Cursor string     // from the page before
	Host   netip.Addr // only this address, if it is one
	Room   int        // bytes of hosts; 0 for pageBytes
	Short  bool       // where there is more than fits, a summary and the first hosts will do
}

type page struct {
	Returned  int    `json:"returned"` // hosts on this page
	Total     int    `json:"total"`
	Continued bool   `json:"continued,omitempty"`   // the first host began on the page before
	Continues bool   `json:"continues,omitempty"`   // the last host goes on on the next page
	Ports     int    `json:"ports_total,omitempty"` // of a host that is not whole here
	Next      string `json:"next_cursor,omitempty"`
}

// pageBytes keeps a page of hosts to what a model takes in well (about 4 bytes a token).
const pageBytes = 24 << 10

// weight is what a value adds to an answer, in bytes.
func weight(v any) int {
	b, err := json.Marshal(v) // as result does
	if err != nil {
		return pageBytes // it fits nowhere, and the answer says so
	}
	return len(b) + 1
}

// A cursor names its job, a host of it, and the part of that host to begin with.
var cursorForm = regexp.MustCompile(`^([a-z2-7]{8})\.([0-9]{1,6})\.([0-9]{1,6})$`)

func cursor(job string, host, part int) string { return fmt.Sprintf("%.8s.%d.%d", job, host, part) }

// begin is the host and the part of it that a page begins with.
func (q query) begin(job string, hosts []report.Host) (host, part int, err error) {
	if q.Host.IsValid() {
		host = max(slices.IndexFunc(hosts, func(h report.Host) bool { return h.Addr == q.Host }), 0)
	}
	if q.Cursor == "" {
		return host, 0, nil
	}
	m := cursorForm.FindStringSubmatch(q.Cursor)
	if m == nil || m[1] != job[:8] {
		return 0, 0, q.foreign()
	}
	at, _ := strconv.Atoi(m[2]) // digits, says the form
	part, _ = strconv.Atoi(m[3])
	if at >= len(hosts) || part >= parts(hosts[at]) || q.Host.IsValid() && at != host {
		return 0, 0, q.foreign()
	}
	return at, part, nil
}

func (q query) foreign() error {
	return faults{argPage.fault("bad_value", clip(q.Cursor))}
}

// page is the part of a report that a query wants. A host that does not fit is on the next page;
// one that does not fit on any goes on from page to page.
func (q query) page(job string, hosts []report.Host) ([]report.Host, *page, error) {
	at, from, err := q.begin(job, hosts)
	if err != nil {
		return nil, nil, err
	}
	p := &page{Total: len(hosts), Continued: from > 0}
	end := len(hosts)
	if q.Host.IsValid() {
		if end = at; end < len(hosts) && hosts[at].Addr == q.Host {
			end++
		}
		p.Total = end - at
	}
	out := []report.Host{}
	for room := cmp.Or(q.Room, pageBytes); at < end && len(out) < q.Limit; at++ {
		h, next := split(hosts[at], from, room)
		size := weight(h)
		if len(out) > 0 && (next > 0 || size > room) {
			break
		}
		if next > 0 || from > 0 {
			p.Ports = len(hosts[at].Ports)
		}
		out, from = append(out, h), 0
		if next > 0 {
			p.Continues, p.Next = true, cursor(job, at, next)
			break
		}
		room -= size
	}
	p.Returned = len(out)
	if at < end && !p.Continues {
		p.Next = cursor(job, at, 0)
	}
	return out, p, nil
}

// The parts of a host are each thing found, each of its scripts, then each port and each of that port's scripts.
func parts(h report.Host) int {
	n := len(h.Ports) + len(h.Found)
	if h.Untrusted != nil {
		n += len(h.Untrusted.Scripts)
	}
	for _, p := range h.Ports {
		if p.Untrusted != nil {
			n += len(p.Untrusted.Scripts)
		}
	}
	return max(n, 1)
}

// split is a host from one of its parts on, as far as there is room, and the part that comes
// next; 0: none. There is room for one part at least.
func split(h report.Host, from, room int) (report.Host, int) {
	out := h
	out.Untrusted, out.Ports, out.Found = nil, []report.Port{}, nil
	n, next, taken := 0, 0, false
	room -= weight(out)
	take := func(part any) bool {
		n++
		if n <= from || next > 0 {
			return false
		}
		size := weight(part)
		if size > room && taken {
			next = n - 1
			return false
		}
		room, taken = room-size, true
		return true
	}
	for _, found := range h.Found {
		if take(found) {
			out.Found = append(out.Found, found)
		}
	}
	if h.Untrusted != nil {
		for _, s := range h.Untrusted.Scripts {
			if take(s) {
				if out.Untrusted == nil {
					out.Untrusted = &report.HostText{}
				}
				out.Untrusted.Scripts = append(out.Untrusted.Scripts, s)
			}
		}
	}
	for _, p := range h.Ports {
		first, scripts := p, []report.Script{}
		if p.Untrusted != nil {
			text := *p.Untrusted
			scripts, text.Scripts = text.Scripts, nil
			first.Untrusted = &text
		}
		shown := take(first)
		for _, s := range scripts {
			if !take(s) {
				continue
			}
			if !shown { // its beginning is on the page before
				first.Untrusted, shown = &report.PortText{}, true
			}
			first.Untrusted.Scripts = append(first.Untrusted.Scripts, s)
		}
		if shown {
			out.Ports = append(out.Ports, first)
		}
	}
	return out, next
}
