package policy

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// Ports says what may be sent to at an address: to which ports, each range with its ends (first,
// last), sorted and apart, and whether ICMP may be asked.
type Ports struct {
	TCP, UDP, SCTP [][2]uint16
	ICMP           bool
}

// portSet is ports of each protocol, sorted and apart; of ICMP there is one. What all of them
// are includes port 0, so that a rule for 1 to 65535 is not the same as none.
type portSet [4][][2]uint16

const (
	tcp = iota
	udp
	sctp
	icmp
)

var (
	everyPort = [][2]uint16{{0, 65535}}
	icmpAsked = [][2]uint16{{0, 0}}
	allPorts  = portSet{everyPort, everyPort, everyPort, icmpAsked}
)

// portWords are how protocols are written before a port; TCP needs none.
var portWords = [...]string{tcp: "", udp: "udp/", sctp: "sctp/"}

func setOf(p Ports) portSet {
	s := portSet{joined(p.TCP), joined(p.UDP), joined(p.SCTP), nil}
	if p.ICMP {
		s[icmp] = icmpAsked
	}
	return s
}

func (s portSet) ports() Ports { return Ports{s[tcp], s[udp], s[sctp], len(s[icmp]) > 0} }

func (s portSet) each(f func(protocol int) [][2]uint16) (out portSet) {
	for i := range s {
		out[i] = f(i)
	}
	return out
}

func (s portSet) with(o portSet) portSet {
	return s.each(func(i int) [][2]uint16 { return joined(slices.Concat(s[i], o[i])) })
}

func (s portSet) without(o portSet) portSet {
	return s.each(func(i int) [][2]uint16 { return less(s[i], o[i]) })
}

func (s portSet) and(o portSet) portSet { return s.without(s.without(o)) }

func (s portSet) isNone() bool {
	return len(s[tcp])+len(s[udp])+len(s[sctp])+len(s[icmp]) == 0
}

func (s portSet) equals(o portSet) bool {
	return s.without(o).isNone() && o.without(s).isNone()
}

// joined sorts ranges and joins those that overlap or touch.
func joined(ranges [][2]uint16) [][2]uint16 {
	var out [][2]uint16
	for _, r := range slices.SortedFunc(slices.Values(ranges), func(a, b [2]uint16) int { return cmp.Compare(a[0], b[0]) }) {
		if last := len(out) - 1; last >= 0 && int(r[0]) <= int(out[last][1])+1 {
			out[last][1] = max(out[last][1], r[1])
			continue
		}
		out = append(out, r)
	}
	return out
}

// less is what is left of ranges outside of holes; both are sorted and apart.
func less(ranges, holes [][2]uint16) (out [][2]uint16) {
	for _, r := range ranges {
		from := int(r[0])
		for _, h := range holes {
			if int(h[1]) < from || h[0] > r[1] {
				continue
			}
			if from < int(h[0]) {
				out = append(out, [2]uint16{uint16(from), h[0] - 1})
			}
			from = int(h[1]) + 1
		}
		if from <= int(r[1]) {
			out = append(out, [2]uint16{uint16(from), r[1]})
		}
	}
	return out
}

// Strings is the ports as people write them, in an engagement or to a scanner: "22", "8000-8100",
// "udp/53", and "icmp".
func (p Ports) Strings() []string {
	out := []string{}
	for protocol, ranges := range [][][2]uint16{p.TCP, p.UDP, p.SCTP} {
		for _, r := range ranges {
			out = append(out, portWords[protocol]+rangeText(r))
		}
	}
	if p.ICMP {
		out = append(out, "icmp")
	}
	return out
}

func (p Ports) String() string { return strings.Join(capped(p.Strings()), ", ") }

// Covers says that whatever o allows is allowed; nil is all there is.
func (p *Ports) Covers(o *Ports) bool {
	switch {
	case p == nil:
		return true
	case o == nil:
		return false
	}
	return setOf(*o).without(setOf(*p)).isNone()
}

func rangeText(r [2]uint16) string {
	if r[0] == r[1] {
		return strconv.Itoa(int(r[0]))
	}
	return fmt.Sprintf("%d-%d", r[0], r[1])
}

// portText is a port or a range of an engagement: 22, 8000-8100, udp/53.
type portText struct {
	protocol int
	ports    [2]uint16 // [0, 0]: it could not be read
}

const portForm = "a port or a range of ports from 1 to 65535, such as 22 or 8000-8100 (TCP), udp/53, sctp/2905"

func (p *portText) ReadScalar(text string) *strict.Fault {
	f := &strict.Fault{Allowed: portForm}
	rest := text
	for protocol, word := range portWords {
		if after, is := strings.CutPrefix(text, word); is && word != "" {
			p.protocol, rest = protocol, after
		}
	}
	if after, is := strings.CutPrefix(text, "tcp/"); is {
		f.Hint = "write " + after
		return f
	}
	if text == "icmp" {
		f.Hint = "write icmp: true beside ports"
		return f
	}
	from, to, isRange := strings.Cut(rest, "-")
	if !isRange {
		to = from
	}
	first, ok1 := readPort(from)
	last, ok2 := readPort(to)
	switch {
	case !ok1 || !ok2:
		if strings.Contains(text, ",") {
			f.Hint = "give each as an element of its own"
		}
		return f
	case first > last:
		f.Hint = fmt.Sprintf("the smaller number comes first: %d-%d", last, first)
		return f
	}
	p.ports = [2]uint16{first, last}
	return nil
}

func readPort(text string) (uint16, bool) {
	if !number.MatchString(text) {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

// ParsePorts reads ports as an engagement has them.
func ParsePorts(texts []string) (Ports, error) {
	var f portsFile
	for _, text := range texts {
		var p portText
		if fault := p.ReadScalar(text); fault != nil {
			return Ports{}, fmt.Errorf("got %s; allowed: %s", strict.Quote(text), cmp.Or(fault.Hint, fault.Allowed))
		}
		f = append(f, p)
	}
	return f.set().ports(), nil
}

// portsFile is the ports of a target or of an exclusion, as they are written.
type portsFile []portText

func (f portsFile) set() (s portSet) {
	for _, t := range f {
		s[t.protocol] = append(s[t.protocol], t.ports)
	}
	return s.each(func(i int) [][2]uint16 { return joined(s[i]) })
}

// portRule is a prefix with ports, and its place in the file.
type portRule struct {
	rule
	ports portSet
}

func newPortRule(at string, p netip.Prefix, ports portSet, text string) portRule {
	r := newRule(at, p)
	r.label += text
	return portRule{r, ports}
}

// portTable is spans apart from each other, sorted, each with the ports of all rules that it lies
// in.
type portTable []portRule

// newPortTable cuts rules, which nest or are apart, where the ports change.
func newPortTable(rules []portRule) (t portTable) {
	sorted := slices.Clone(rules)
	slices.SortStableFunc(sorted, func(a, b portRule) int {
		return cmp.Or(a.from.Compare(b.from), b.to.Compare(a.to))
	})
	var open []portRule // each in the one before, with the ports of both
	var at netip.Addr   // what comes before is in the table; not valid: no address is left
	upTo := func(to netip.Addr) {
		if at.IsValid() && !to.Less(at) {
			r := open[len(open)-1]
			r.span = span{at, to}
			t = append(t, r)
		}
		at = to.Next()
	}
	closeBefore := func(from netip.Addr) {
		for len(open) > 0 && (!from.IsValid() || open[len(open)-1].to.Less(from)) {
			upTo(open[len(open)-1].to)
			open = open[:len(open)-1]
		}
	}
	for _, r := range sorted {
		closeBefore(r.from)
		if len(open) > 0 {
			outer := open[len(open)-1]
			if at.Less(r.from) {
				upTo(r.from.Prev())
			}
			if outer.ports.with(r.ports).equals(outer.ports) {
				r.label = outer.label
			} else if !outer.ports.isNone() {
				r.label = outer.label + ", " + r.label
			}
			r.ports = r.ports.with(outer.ports)
		}
		at = r.from
		open = append(open, r)
	}
	closeBefore(netip.Addr{})
	return t
}

// in is the parts of a span that lie in the table's, each with the ports of it.
func (t portTable) in(s span) iter.Seq2[span, *portRule] {
	first, _ := slices.BinarySearchFunc(t, s.from, func(r portRule, from netip.Addr) int {
		if r.to.Less(from) {
			return -1
		}
		return 1
	})
	return func(yield func(span, *portRule) bool) {
		for i := first; i < len(t) && !s.to.Less(t[i].from); i++ {
			if !yield(t[i].within(s), &t[i]) {
				return
			}
		}
	}
}

// judged is a target under an engagement, before its ports are settled.
type judged struct {
	Target
	index    int // among the targets of the request
	pieces   []piece
	excluded []Exclusion
}

// piece is addresses of a target that allow the same ports, by the same rules.
type piece struct {
	spans    []span  // sorted
	label    string  // the rules that allow them
	may      portSet // allowed by them; exclusions take from it
	excluded portSet
	by       string // the exclusions of ports
}

// pieces divides what is left of a target, which lies in may, by its ports.
func (e *Engagement) pieces(may portTable, left []span) (out []piece) {
	type rules struct{ may, excluded *portRule }
	at := map[rules]int{}
	add := func(s span, r rules) {
		i, known := at[r]
		if !known {
			i = len(out)
			at[r] = i
			p := piece{label: r.may.label, may: r.may.ports}
			if r.excluded != nil {
				p.excluded, p.by = r.excluded.ports, r.excluded.label
			}
			out = append(out, p)
		}
		out[i].spans = append(out[i].spans, s)
	}
	for _, s := range left {
		for rest, r := range may.in(s) {
			for x, excluded := range e.excludePorts.in(rest) {
				if rest.from.Less(x.from) {
					add(span{rest.from, x.from.Prev()}, rules{r, nil})
				}
				add(x, rules{r, excluded})
				rest.from = x.to.Next()
			}
			if rest.from.IsValid() && !rest.to.Less(rest.from) {
				add(rest, rules{r, nil})
			}
		}
	}
	return out
}

// portWish is the ports that a request asks for.
type portWish struct {
	field    string
	elements []portSet // each as it was asked for
	all      portSet
	resolver netip.AddrPort
	omit     []span // addresses that the request leaves out
}

func wishOf(r Request) portWish {
	w := portWish{field: cmp.Or(r.PortsField, "ports"), resolver: r.Resolver, omit: r.omit()}
	if r.Resolver.IsValid() {
		port := [][2]uint16{{r.Resolver.Port(), r.Resolver.Port()}}
		r.Asked = Ports{TCP: port, UDP: port}
	}
	for protocol, ranges := range [][][2]uint16{r.Asked.TCP, r.Asked.UDP, r.Asked.SCTP} {
		for _, p := range ranges {
			var one portSet
			if one[protocol] = [][2]uint16{p}; p[0] > p[1] {
				continue
			}
			w.elements = append(w.elements, one)
			w.all[protocol] = append(w.all[protocol], p)
		}
	}
	if r.Asked.ICMP {
		w.all[icmp] = icmpAsked
		w.elements = append(w.elements, portSet{icmp: icmpAsked})
	}
	w.all = setOf(w.all.ports())
	return w
}

// portsAllowed is the denial of a target at some address of which no rule allows a port that is
// asked for, or nil.
func (e *Engagement) portsAllowed(t Target, want portWish, pieces []piece) *Verdict {
	for _, p := range pieces {
		missing := want.all.without(p.may)
		if missing.isNone() {
			continue
		}
		v := deny(PortNotAllowed, want.field, missing.ports().String(), "engagement "+e.Name+" does not allow these ports of "+clip(t.Text))
		v.Rule, v.Allowed = p.label, capped(p.may.known().ports().Strings())
		v.Hint = "give ports that are allowed, or ask the operator"
		if want.field == "top_ports" {
			v.Hint = "top_ports can be any port: give those that are allowed in ports"
		}
		return &v
	}
	return nil
}

// known leaves out port 0, for which no engagement has a word.
func (s portSet) known() portSet {
	zero := [][2]uint16{{0, 0}}
	return s.without(portSet{zero, zero, zero, nil})
}

// judgePorts settles what the job may send to, once for all its addresses: a scanner has one list of
// ports. A port that is excluded at every address is left out of the list; an address at which
// another one is excluded that is asked for is left out of the job. The denial, if any, comes with
// the number of targets before it.
func (e *Engagement) judgePorts(allowed *Verdict, r Request, targets []judged, want portWish) (int, *Verdict) {
	var out portSet // of the list
	first := true
	for _, t := range targets {
		for _, p := range t.pieces {
			if first {
				out, first = want.all, false
			}
			out = out.and(p.excluded)
		}
	}
	common := allPorts
	for i, t := range targets {
		j, v := e.settle(t, want, out)
		if v != nil {
			v.Field = cmp.Or(v.Field, t.Field, strict.Index("targets", t.index))
			return i, v
		}
		for _, p := range j.kept {
			common = common.and(p.may.without(p.excluded))
			if !out.isNone() {
				allowed.PortRules = append(allowed.PortRules, p.by)
			}
		}
		allowed.Targets = append(allowed.Targets, j.Judged)
	}
	return len(targets), e.grant(allowed, r, want, out, common)
}

// settled is a target whose ports are settled.
type settled struct {
	Judged
	kept []piece
}

// settle leaves out of a target the addresses at which more is excluded, of what is asked for, than
// what is left out everywhere.
func (e *Engagement) settle(t judged, want portWish, out portSet) (settled, *Verdict) {
	j := settled{Judged: Judged{Text: t.Text, Excluded: t.excluded}}
	var kept []span
	var last piece
	for _, p := range t.pieces {
		if want.all.and(p.excluded).equals(out) {
			kept, j.kept = append(kept, p.spans...), append(j.kept, p)
			continue
		}
		last = p
		for _, prefix := range prefixesOf(p.spans) {
			j.Excluded = append(j.Excluded, Exclusion{prefix, p.by})
		}
	}
	if last.by != "" && (t.Name != "" || len(kept) == 0) {
		v := deny(PortExcluded, "", t.Text, "the engagement excludes ports of it that are asked for: "+want.all.and(last.excluded).ports().String())
		v.Rule, v.Hint = last.by, "leave these ports out, or ask the operator whether the exclusion still holds"
		return j, &v
	}
	slices.SortFunc(j.Excluded, func(a, b Exclusion) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	j.Addresses = prefixesOf(merge(kept))
	return j, nil
}

// grant puts the ports into a verdict, or is the denial of what cannot be done with them.
func (e *Engagement) grant(allowed *Verdict, r Request, want portWish, out, common portSet) *Verdict {
	allowed.PortRules = distinct(allowed.PortRules)
	for _, element := range want.elements {
		if element.without(out).isNone() {
			v := deny(PortExcluded, want.field, element.ports().String(), "the engagement excludes it at every address of the job")
			v.Rule, v.Hint = strings.Join(capped(allowed.PortRules), ", "), "leave it out, or ask the operator whether the exclusion still holds"
			return &v
		}
	}
	if common.equals(allPorts) {
		return nil
	}
	ports := common.known().ports()
	allowed.Ports, allowed.WithoutPorts = &ports, out.ports()
	refuse := func(field, got, reason, hint string) *Verdict {
		v := deny(PortNotAllowed, field, got, reason)
		v.Rule, v.Allowed, v.Hint = "ports", capped(ports.Strings()), hint
		return &v
	}
	if len(r.Elsewhere) > 0 {
		w := r.Elsewhere[0]
		return refuse(w.Field, w.Got, "engagement "+e.Name+" does not allow all ports of the targets, and "+w.Why, w.Hint+", or ask the operator for an engagement without a rule for ports")
	}
	if r.Discovery && !ports.ICMP && len(ports.TCP) == 0 {
		return refuse("scan_type", "", "engagement "+e.Name+" allows neither ICMP nor a TCP port at every target, so that nothing can tell whether a host is there", "scan the ports that are allowed instead")
	}
	return nil
}
