package front

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// Reasons why a job says nothing of something that it does not list.
const (
	notSent       = "nothing_sent"      // no packet left this machine
	overRate      = "over_rate"         // packets were dropped, which looks like silence
	notAsked      = "not_asked"         // the address was no target
	leftOut       = "excluded"          // it was, and a rule left it out
	notReachedYet = "not_reached"       // the scan ended before it
	gaveUp        = "timed_out"         // given up after host_timeout
	isDown        = "down"              // discovery found nobody, so that no port was looked at
	notKept       = "not_kept"          // it is up, and the report had more than is kept
	portNotAsked  = "port_not_asked"    // the port was none of those scanned
	portsUnknown  = "ports_unknown"     // which ports were scanned is not on record
	undecided     = "undecided"         // nothing answered, which an open port may do as well (open|filtered)
	noPorts       = "no_ports"          // a scan by words
	noWords       = "no_words"          // a scan of ports
	otherWords    = "other_words"       // it asked something else, or with other words
	notWhole      = "not_complete"      // a scan by words that did not come to its end
	notDetected   = "service_not_asked" // one of the two did not ask which service it is
)

// reasons are all of them.
var reasons = []string{notSent, overRate, notAsked, leftOut, notReachedYet, gaveUp, isDown, notKept, portNotAsked, portsUnknown, undecided, noPorts, noWords, otherWords, notWhole, notDetected}

// looked is what a job looked at, as it is kept beside its rows: enough to say whether something that it does not list
// was not there or was not looked for.
type looked struct {
	TCP     portRanges `json:"tcp,omitempty"`
	UDP     portRanges `json:"udp,omitempty"`
	SCTP    portRanges `json:"sctp,omitempty"`
	Unknown bool       `json:"unknown,omitempty"` // which ports is not on record
	// Through are the addresses of which it looked at the ports, or the words, to the end; More says that not all are listed.
	// Down are those where discovery found nobody.
	Through []netip.Prefix `json:"through,omitempty"`
	More    bool           `json:"more,omitempty"`
	Down    []netip.Prefix `json:"down,omitempty"`
	// Undetected says that it did not ask which products there are.
	Undetected bool   `json:"undetected,omitempty"`
	Words      string `json:"words,omitempty"` // of a scan by words: what it asked
	Silence    string `json:"silence,omitempty"`
}

// portRanges are ports, each range with both ends. They are kept as text, "22,80-90": many questions read many of them.
type portRanges [][2]uint16

func (p portRanges) MarshalText() (out []byte, _ error) {
	for i, r := range p {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendUint(out, uint64(r[0]), 10)
		if r[1] != r[0] {
			out = strconv.AppendUint(append(out, '-'), uint64(r[1]), 10)
		}
	}
	return out, nil
}

func (p *portRanges) UnmarshalText(text []byte) error {
	*p = make(portRanges, 0, bytes.Count(text, []byte(","))+1)
	for list := range strings.SplitSeq(string(text), ",") {
		_, ports, is := cutPorts(list)
		if !is {
			return errors.New("no ports")
		}
		*p = append(*p, ports)
	}
	return nil
}

// lookedOf says what a job looked at.
func lookedOf(of runners.Table, row store.Job, record wire.Job, r report.Report) looked {
	l := looked{Silence: silence(record)}
	call, faults := of.Read(row.Tool, row.Arguments)
	if len(faults) > 0 || record.Started.IsZero() {
		l.Unknown = true // it was never begun, or of another version
		return l
	}
	plan := call.Plan()
	if call.Gobuster != nil {
		l.Words = wordsAsked(call.Gobuster, record)
		if !cover(record, r).Complete && l.Silence == "" {
			l.Silence = notWhole
		}
	}
	l.TCP, l.UDP, l.SCTP = plan.Asked.TCP, plan.Asked.UDP, plan.Asked.SCTP
	if call.Nmap != nil && call.Nmap.TopPorts > 0 {
		l.TCP, l.UDP, l.Unknown = nil, nil, true
	}
	for i, s := range r.Coverage.Scanned {
		if i == 0 {
			l.TCP, l.UDP, l.SCTP, l.Unknown = nil, nil, nil, false
		}
		switch s.Proto {
		case "tcp":
			l.TCP = s.Ports
		case "udp":
			l.UDP = s.Ports
		case "sctp":
			l.SCTP = s.Ports
		}
	}
	l.take(record.Verdict)
	l.Undetected = call.Masscan != nil || call.Nmap != nil && !call.Nmap.ServiceDetection
	l.Through = r.Coverage.Completed
	if r.Coverage.Whole || call.Gobuster != nil {
		var all bool
		l.Through, all = prefixesOf(record.Verdict.Addresses, record.Verdict.AddressCount)
		l.More = !all
	}
	l.Down = r.Coverage.DownAt
	l.Through = withoutAll(l.Through, l.Down)
	return l
}

// withoutAll is what is left of prefixes without holes, which do not overlap.
func withoutAll(prefixes, holes []netip.Prefix) (out []netip.Prefix) {
	sorted := setOf(holes)
	for _, p := range prefixes {
		from, _ := slices.BinarySearchFunc(sorted, p.Addr(), func(h netip.Prefix, a netip.Addr) int { return h.Addr().Compare(a) })
		if from > 0 && sorted[from-1].Overlaps(p) {
			continue // it begins before p, so that it holds all of it
		}
		to := from
		for to < len(sorted) && sorted[to].Overlaps(p) {
			to++
		}
		out = append(out, without(p, sorted[from:to])...)
	}
	return out
}

// noPortsAsked says that it looked at no port and asked no words: it was about addresses alone.
func (l *looked) noPortsAsked() bool {
	return len(l.TCP)+len(l.UDP)+len(l.SCTP) == 0 && !l.Unknown && l.Words == ""
}

// take takes away the ports that the verdict left out.
func (l *looked) take(v wire.Verdict) {
	l.Unknown = l.Unknown || v.ExcludedPortsCount > len(v.ExcludedPorts)
	for _, text := range v.ExcludedPorts {
		proto, ports, is := cutPorts(text)
		if !is {
			continue
		}
		of := l.of(proto)
		*of = withoutPorts(*of, ports)
	}
}

// cutPorts reads ports as a verdict has them: "22", "8000-8100", "udp/53".
func cutPorts(text string) (proto string, ports [2]uint16, is bool) {
	proto, list, named := strings.Cut(text, "/")
	if !named {
		proto, list = "tcp", text
	}
	first, last, isRange := strings.Cut(list, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	return proto, [2]uint16{uint16(from), uint16(to)}, err1 == nil && err2 == nil
}

// withoutPorts is ranges without those of hole.
func withoutPorts(ranges [][2]uint16, hole [2]uint16) (out [][2]uint16) {
	for _, r := range ranges {
		if r[0] < hole[0] {
			out = append(out, [2]uint16{r[0], min(r[1], hole[0]-1)})
		}
		if r[1] > hole[1] {
			out = append(out, [2]uint16{max(r[0], hole[1]+1), r[1]})
		}
	}
	return out
}

// silence is why nothing at all is to be concluded from what a job does not list.
func silence(record wire.Job) string {
	switch o := record.Outcome; {
	case record.Started.IsZero() || o == nil || !sent(record):
		return notSent
	case o.Usage.OverRate > 0:
		return overRate
	}
	return ""
}

// wordsAsked is what a scan by words asked, so that two that did the same have the same.
func wordsAsked(g *runners.Gobuster, record wire.Job) string {
	list := g.Wordlist
	if record.Wordlist != nil {
		list = cmp.Or(record.Wordlist.SHA256, list)
	}
	return string(encode([]any{g.Mode, g.URL, g.Host, g.Domain, g.Extensions, g.StatusCodes, g.ExcludeStatus, list}))
}

func (l *looked) of(proto string) *portRanges {
	switch proto {
	case "udp":
		return &l.UDP
	case "sctp":
		return &l.SCTP
	}
	return &l.TCP
}

// port says why the job says nothing of a port of an address that it went through; "": it looked at it. Of
// no protocol: any.
func (l *looked) port(proto string, port int) string {
	has := func(ranges portRanges) bool {
		return slices.ContainsFunc(ranges, func(r [2]uint16) bool { return int(r[0]) <= port && port <= int(r[1]) })
	}
	switch {
	case l.Words != "":
		return noPorts
	case l.Unknown:
		return portsUnknown
	case proto == "" && (has(l.TCP) || has(l.UDP) || has(l.SCTP)), proto != "" && has(*l.of(proto)):
		return ""
	}
	return portNotAsked
}

// kept is l as it is kept beside the rows: of very many addresses or ports it says that there are more.
func (l looked) kept() json.RawMessage {
	const most = 60 << 10
	b := encode(l)
	if len(b) > most {
		l.Down = nil
		b = encode(l)
	}
	if len(b) > most {
		l.Through, l.More = nil, true
		b = encode(l)
	}
	if len(b) > most {
		l.TCP, l.UDP, l.SCTP, l.Unknown = nil, nil, nil, true
		b = encode(l)
	}
	return b
}

// prefixSet finds an address among prefixes that do not overlap.
type prefixSet []netip.Prefix

func setOf(prefixes []netip.Prefix) prefixSet {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return sorted
}

func (s prefixSet) has(a netip.Addr) bool {
	at, is := slices.BinarySearchFunc(s, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return is || at > 0 && s[at-1].Contains(a)
}

// rowsOf are what a job's report has, as the store searches it.
func rowsOf(row store.Job, record wire.Job, r report.Report) iter.Seq[store.Row] {
	port := 0
	if row.Tool == gobusterTool {
		port = int(wordsOf(row, record).At.Port())
	}
	return func(yield func(store.Row) bool) {
		for _, h := range r.Hosts {
			for _, p := range h.Ports {
				row := store.Row{Host: h.Addr, Port: p.Port, Proto: p.Proto, State: p.State, Service: p.Service}
				if u := p.Untrusted; u != nil {
					row.Product, row.Version = u.Product, u.Version
				}
				if !yield(row) {
					return
				}
			}
			for _, found := range h.Found {
				row := store.Row{Host: h.Addr, Port: port, Status: found.Status, Name: cmp.Or(found.Path, found.Name)}
				if found.Untrusted != nil {
					row.Text = found.Untrusted.Location
				}
				if !yield(row) {
					return
				}
			}
		}
	}
}

// maxUnindexed is after how many jobs that cannot be indexed no more are tried.
const maxUnindexed = 16

// index makes rows of what an earlier version kept, so that it is searched, too: the newest job first. One of which
// none can be made keeps none of the others from it.
func (f *front) index() {
	failed := map[string]bool{}
	for more := true; more && f.ctx.Err() == nil; {
		jobs, err := f.store.Unindexed(f.ctx, 16+len(failed))
		if err != nil {
			return
		}
		more = false
		for _, job := range jobs {
			if failed[job.ID] {
				continue
			}
			err := f.indexOne(job)
			if err == nil || errors.Is(err, store.ErrNotFound) { // it has been removed
				more = true
				continue
			}
			if f.ctx.Err() != nil {
				return
			}
			f.log.Error("a result of an earlier version cannot be searched", "job", job.ID, "why", err)
			if failed[job.ID] = true; len(failed) == maxUnindexed {
				return
			}
		}
	}
}

func (f *front) indexOne(job store.Job) error {
	f.keeping.Lock()
	defer f.keeping.Unlock()
	row, err := f.store.Get(f.ctx, job.UID, job.ID)
	if err != nil {
		return err
	}
	record, r, err := unpack(row)
	if err != nil {
		r = report.Report{} // what it says of itself stays; there is nothing to search
	}
	return f.store.Index(f.ctx, row.ID, rowsOf(row, record, r), lookedOf(f.toolsOf(row), row, record, r).kept())
}

// unpack reads back what was kept of a job.
func unpack(row store.Job) (record wire.Job, r report.Report, err error) {
	for _, part := range []struct {
		from json.RawMessage
		into any
	}{{row.Record, &record}, {row.Result, &r}} {
		if len(part.from) == 0 {
			continue
		}
		if err := json.Unmarshal(part.from, part.into); err != nil {
			return record, r, &unreadable{row.ID, err}
		}
	}
	return record, r, nil
}
