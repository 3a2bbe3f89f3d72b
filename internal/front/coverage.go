package front

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// coverage is the honest part: what was asked for, and what became of it. Addresses that are
// neither up, down nor timed out were not reached.
type coverage struct {
	Asked      uint64           `json:"asked"`      // addresses that the verdict allowed
	Excluded   uint64           `json:"excluded"`   // asked for and left out
	Exclusions []wire.Exclusion `json:"exclusions"` // the first of them, with the rule
	// ExcludedPorts were asked for and left out at every address, by PortsRule.
	ExcludedPorts []string        `json:"excluded_ports,omitempty"`
	PortsRule     string          `json:"excluded_ports_rule,omitempty"`
	Probed        int             `json:"probed"` // up, down or given up
	Up            int             `json:"up"`
	Down          int             `json:"down"`
	Silent        int             `json:"silent"`    // up by assumption alone: discovery was skipped and nothing answered
	TimedOut      int             `json:"timed_out"` // given up after host_timeout
	NotReached    uint64          `json:"not_reached"`
	Addresses     addresses       `json:"addresses"`
	Dropped       uint64          `json:"dropped_packets"`             // off scope, or of a form that does not pass, by the kernel
	OverRate      uint64          `json:"over_rate_packets,omitempty"` // dropped because they were more than the rate: the scanner took them for sent
	OffScope      []wire.OffScope `json:"off_scope,omitempty"`         // the first destinations off scope
	CutBy         string          `json:"cut_by,omitempty"`            // the limit or event that ended the scan early
	CutFrom       []string        `json:"cut_from,omitempty"`          // parts of the report that exceeded a bound
	NotListed     int             `json:"hosts_not_listed,omitempty"`  // up, and beyond the bound of hosts
	Requests      *requests       `json:"requests,omitempty"`          // of a scan by words
	ScriptsNotRun *scriptsNotRun  `json:"scripts_not_run,omitempty"`   // where scripts were asked for
	// AskedUnknown says that the arguments were lost with a damaged database.
	AskedUnknown bool `json:"asked_unknown,omitempty"`
	Complete     bool `json:"complete"`

	SecondPass   *report.SecondPass    `json:"second_pass,omitempty"`
	Verification []report.Verification `json:"verification,omitempty"`
}

// scriptsNotRun is where nothing is known of what scripts look for.
type scriptsNotRun struct {
	Failed  int      `json:"failed"`            // how often one ended in an error of its own
	Scripts []string `json:"scripts,omitempty"` // the first of those
	Hosts   uint64   `json:"hosts"`             // timed out or not reached: none ran to its end there
}

// lacking is what a job's scripts did not do; nil where there is nothing, or none was asked for.
func lacking(of runners.Table, row store.Job, c *coverage, r report.Report) *scriptsNotRun {
	call, faults := of.Read(row.Tool, row.Arguments)
	s := scriptsNotRun{Failed: r.Coverage.ScriptErrors, Scripts: r.Coverage.ScriptsFailed, Hosts: c.NotReached + uint64(c.TimedOut)}
	if len(faults) > 0 || call.Nmap == nil || len(call.Nmap.Scripts) == 0 || s.Failed == 0 && s.Hosts == 0 {
		return nil
	}
	return &s
}

// requests is how far a scan by words came. Of a word without an answer nothing is known.
type requests struct {
	Asked      int64 `json:"asked"` // words, each with every extension
	Made       int64 `json:"made"`  // a scan that was cut may have made more than it told
	Unanswered int64 `json:"unanswered"`
	Found      int64 `json:"found"`
}

// unanswered is how many requests of a scan by words had no answer. Of a name that is not answered
// gobuster says nothing; there the kernel's counts tell, since each question is one packet and each
// answer is one.
func unanswered(record wire.Job, r report.Report) int64 {
	q := r.Coverage.Requests
	if q == nil {
		return 0
	}
	lost := int64(0)
	if o := record.Outcome; q.Mode == "dns" && o != nil && o.Usage.SentPackets > o.Usage.Received {
		lost = int64(o.Usage.SentPackets - o.Usage.Received)
	}
	return max(q.Failed, lost) + q.Unreadable
}

// addresses says which they are.
type addresses struct {
	Completed  part `json:"completed"` // up or down, and not timed out
	TimedOut   part `json:"timed_out"`
	NotReached part `json:"not_reached"`
}

// part is a part of the addresses: how many, and the first prefixes of the shortest list of them.
type part struct {
	Count    uint64   `json:"count"`
	Prefixes []string `json:"prefixes"`
	More     bool     `json:"more,omitempty"` // not all are listed
}

// maxPrefixes bounds the prefixes of a part.
const maxPrefixes = 64

// cover compares what was asked for with what the report says.
func cover(record wire.Job, r report.Report) *coverage {
	v, c := record.Verdict, r.Coverage
	out := &coverage{Asked: v.AddressCount, Excluded: v.ExcludedCount, Exclusions: slices.Clone(v.Excluded),
		ExcludedPorts: v.ExcludedPorts, PortsRule: v.ExcludedPortsRule, Up: c.Up, Down: c.Down, Silent: c.Silent, TimedOut: c.TimedOut, Probed: c.Up + c.Down, CutFrom: r.Cut, NotListed: c.NotKept}
	if out.Exclusions == nil {
		out.Exclusions = []wire.Exclusion{}
	}
	if c.Whole {
		// The scanner went through all that it was given and lists what answered: the others were silent.
		asked, _ := prefixesOf(v.Addresses, v.AddressCount)
		out.Probed, out.Silent = int(v.AddressCount), max(int(v.AddressCount)-c.Up, 0)
		out.Addresses = addresses{Completed: partOf(asked, v.AddressCount), TimedOut: partOf(nil, 0), NotReached: partOf(nil, 0)}
	} else {
		out.Addresses = addresses{Completed: partOf(c.Completed, sizeOf(c.Completed)), TimedOut: partOf(c.GivenUp, sizeOf(c.GivenUp)), NotReached: notReached(v, r)}
	}
	out.NotReached = out.Addresses.NotReached.Count
	out.SecondPass, out.Verification, out.AskedUnknown = c.SecondPass, c.Verification, c.AskedUnknown
	if q := r.Coverage.Requests; q != nil {
		out.Requests = &requests{Asked: q.Asked, Made: q.Made, Unanswered: unanswered(record, r), Found: q.Found}
		if w := record.Wordlist; w != nil && w.Lines > 0 { // gobuster counts lines, and asks for words
			none := w.Blank * (q.Asked / w.Lines)
			out.Requests.Asked, out.Requests.Made = q.Asked-none, max(q.Made-none, 0)
		}
	}
	if o := record.Outcome; o != nil {
		out.Dropped, out.OverRate, out.OffScope = o.Usage.Dropped, o.Usage.OverRate, o.OffScope
		switch {
		case o.Reason != wire.Exited:
			out.CutBy = o.Reason
		case out.OverRate > 0:
			out.CutBy = "rate"
		}
		out.Complete = o.Reason == wire.Exited && endedWell(o.Code, r) && sent(record) && r.Finished && r.ExitOK && out.NotReached == 0 && out.TimedOut == 0 && len(r.Cut) == 0 && out.OverRate == 0 && unanswered(record, r) == 0 &&
			c.ScriptErrors == 0 && c.Confirmed() && !c.AskedUnknown
	}
	return out
}

// unconfirmed says what of that which followed the scan did not confirm it.
func (c *coverage) unconfirmed() (say []string) {
	if s := c.SecondPass; s != nil && !s.Agreed {
		switch differ := s.OnlyFirst.Count + s.OnlySecond.Count; {
		case differ > 0:
			say = append(say, fmt.Sprintf("The two passes differ: %d open ports answered to one alone, and others may have answered to none. Scan again with a lower rate or more retries.", differ))
		default:
			say = append(say, "There was no second pass to compare it with: "+s.Why+".")
		}
	}
	for _, v := range c.Verification {
		if v.Why != "" || v.Unknown > 0 {
			say = append(say, strings.TrimSuffix(fmt.Sprintf("Not verified: %d of %d open ports: %s", v.Unknown, v.Asked, v.Why), ": ")+".")
		}
		if v.NotOpen.Count > 0 {
			say = append(say, fmt.Sprintf("Found open, and not open any more when nmap looked: %d.", v.NotOpen.Count))
		}
	}
	return say
}

// sent says that packets left the box. A scan of which none did looked at nothing, whatever the
// scanner says. Without a filter nobody counted them.
func sent(record wire.Job) bool {
	return record.Outcome.Usage.SentPackets > 0 || slices.ContainsFunc(record.NotEnforced, func(g wire.Gap) bool { return g.Layer == "scope" })
}

func partOf(prefixes []netip.Prefix, count uint64) part {
	listed := prefixes[:min(len(prefixes), maxPrefixes)]
	p := part{Count: count, Prefixes: make([]string, len(listed)), More: sizeOf(listed) < count}
	for i, prefix := range listed {
		p.Prefixes[i] = prefix.String()
	}
	return p
}

// notReached is what was asked for and is not in the report. Where the verdict or the report
// could not list all, the count comes from theirs.
func notReached(v wire.Verdict, r report.Report) part {
	c := r.Coverage
	asked, all := prefixesOf(v.Addresses, v.AddressCount)
	if slices.Contains(r.Cut, "coverage") {
		asked, all = nil, false
	}
	seen := slices.Concat(c.Completed, c.GivenUp)
	var left []netip.Prefix
	for _, p := range asked {
		left = append(left, without(p, seen)...)
	}
	if all {
		return partOf(left, sizeOf(left))
	}
	return partOf(left, v.AddressCount-min(v.AddressCount, uint64(c.Up+c.Down)))
}

// prefixesOf reads a verdict's list back, and says whether it holds all count addresses.
func prefixesOf(texts []string, count uint64) (out []netip.Prefix, all bool) {
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out, sizeOf(out) == count
}

func sizeOf(prefixes []netip.Prefix) (n uint64) {
	for _, p := range prefixes {
		n += 1 << min(p.Addr().BitLen()-p.Bits(), 63)
	}
	return n
}

// without is the shortest list of what is left of p.
func without(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	var in []netip.Prefix
	for _, h := range holes {
		switch {
		case !h.Overlaps(p):
		case h.Bits() <= p.Bits():
			return nil
		default:
			in = append(in, h)
		}
	}
	if len(in) == 0 {
		return []netip.Prefix{p}
	}
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(b) // of the same length
	return append(without(netip.PrefixFrom(p.Addr(), p.Bits()+1), in), without(netip.PrefixFrom(upper, p.Bits()+1), in)...)
}

func holds(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// fate is what became of one address.
type fate struct {
	Addr  string `json:"addr"`
	State string `json:"state"`
	Rule  string `json:"rule,omitempty"` // that excluded it
}

// fates are the states of a fate.
var fates = []string{
	"found",       // it is in hosts
	"silent",      // it was scanned, and nothing answered
	"not_kept",    // it is up; the report had more hosts than are kept
	"down",        // discovery found nobody
	"timed_out",   // given up after host_timeout: nothing is known of its ports
	"excluded",    // asked for, and left out by a rule
	"not_reached", // asked for, and the scan ended before it
	"not_asked",   // no target of this job
	"not_listed",  // a target that was excluded or not reached: there were more of either than are recorded
}

// fateOf says what became of an address of a job that has ended.
func fateOf(row store.Job, record wire.Job, r report.Report, a netip.Addr) fate {
	c, v := r.Coverage, record.Verdict
	at := slices.IndexFunc(r.Hosts, func(h report.Host) bool { return h.Addr == a })
	state := func(s string) fate { return fate{Addr: a.String(), State: s} }
	switch {
	case holds(c.GivenUp, a):
		return state("timed_out")
	case holds(c.DownAt, a):
		return state("down")
	case at >= 0 && r.Hosts[at].Silent:
		return state("silent")
	case at >= 0:
		return state("found")
	case holds(c.Completed, a):
		return state("not_kept")
	}
	allowed, allAllowed := prefixesOf(v.Addresses, v.AddressCount)
	if holds(allowed, a) && c.Whole {
		return state("silent")
	}
	if holds(allowed, a) {
		return state("not_reached")
	}
	var taken []string
	for _, e := range v.Excluded {
		if p, err := netip.ParsePrefix(e.Prefix); err == nil && p.Contains(a) {
			return fate{Addr: a.String(), State: "excluded", Rule: e.Rule}
		}
		taken = append(taken, e.Prefix)
	}
	_, allTaken := prefixesOf(taken, v.ExcludedCount)
	named, numbered, all := asked(row, record, a)
	switch {
	case named, numbered && (record.Started.IsZero() || allTaken):
		return state("not_reached")
	case numbered && allAllowed:
		return state("excluded")
	case numbered, !all && !allAllowed:
		return state("not_listed")
	}
	return state("not_asked")
}

// asked says whether a job asked for an address, by name or by number, and whether all addresses
// of its names are on record.
func asked(row store.Job, record wire.Job, a netip.Addr) (named, numbered, all bool) {
	all = true
	for _, n := range record.Resolved {
		named = named || slices.Contains(n.Addresses, a.String())
		all = all && n.Count == len(n.Addresses)
	}
	targets := runners.TargetsOf(row.Arguments) // of a declared tool, whose declaration may be gone
	if call, faults := runners.BuiltIn().Read(row.Tool, row.Arguments); len(faults) == 0 {
		targets = call.Plan().Targets
	}
	if len(targets) == 0 {
		return named, false, false
	}
	names := 0
	for _, t := range targets {
		numbered = numbered || t.Prefix.IsValid() && t.Prefix.Contains(a)
		if t.Name != "" {
			names++
		}
	}
	return named, numbered, all && names <= max(len(record.Resolved), wire.MaxNames-1)
}
