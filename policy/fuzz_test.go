package policy

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// source makes choices of bytes, so that a fuzzer's small change is a small change of what is
// made. At its end it chooses the first of everything.
type source struct {
	bytes []byte
	// pool is networks that were made before. Most of what is asked for lies in one of them, or
	// nearly nothing would be allowed and half of the promises would not be tried.
	pool []netip.Prefix
}

func (s *source) choose(n int) int {
	if len(s.bytes) == 0 {
		return 0
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return int(b) % n
}

// rarely is true for one byte in n, and not for the bytes that are not there.
func (s *source) rarely(n int) bool { return s.choose(n) == n-1 }

func pick[T any](s *source, list []T) T { return list[s.choose(len(list))] }

// where are the corners of the table of reserved ranges, of the machine below, and of nothing.
var where = []string{
	"10.0.0.0", "10.0.0.64", "10.0.1.0", "10.1.0.0", "192.168.0.0", "0.0.0.0", "127.0.0.0", "169.254.169.254", "169.254.0.0", "100.100.100.192",
	"172.17.0.0", "203.0.113.0", "224.0.0.0", "255.255.255.0", "168.63.129.0", "11.0.0.0", "fd00::", "fd00::100", "fd00:ec2::200", "::", "::ffff:0:0",
	"10.2.0.0", "10.3.0.0", "10.4.0.0", "10.5.0.0", "192.168.1.0", "192.168.2.0", "172.16.0.0", "172.18.0.0", "172.20.0.0", "8.8.8.0", "1.1.1.0",
	"10.6.0.0", "10.7.0.0", "10.8.0.0", "fd02::", "fd03::", "fd04::", "fd05::", "2a00::", "2002::", "fe80::", "2001:db8::", "64:ff9b::", "fd01::", "2600::",
}

var lengths = []int{24, 32, 31, 30, 28, 27, 26, 29, 25, 23, 16, 8, 4, 0}

// prefix is a network near one of the corners, or in or around one that was made before.
func (s *source) prefix() netip.Prefix {
	a := netip.MustParseAddr(pick(s, where))
	bits := pick(s, lengths) + a.BitLen() - 32
	if len(s.pool) > 0 && !s.rarely(8) {
		whole := pick(s, s.pool)
		a, bits = whole.Addr(), min(whole.Bits()+s.choose(10), whole.Addr().BitLen())
		if s.rarely(12) {
			bits = max(whole.Bits()-s.choose(4), 0)
		}
	}
	b := a.AsSlice()
	b[len(b)-1] |= byte(s.choose(256))
	a, _ = netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits).Masked()
}

func (s *source) prefixes(n int) []netip.Prefix {
	var out []netip.Prefix
	for range s.choose(n) {
		out = append(out, s.prefix())
	}
	return out
}

// reachable leaves out what a file may not have as a target.
func (s *source) reachable() netip.Prefix {
	for range 4 {
		p := s.prefix()
		if !slices.ContainsFunc(never, func(r reserved) bool { return !r.lifts && spanOf(p).isIn(r.span) }) && !p.Addr().Is4In6() {
			s.pool = append(s.pool, p)
			return p
		}
	}
	return netip.MustParsePrefix("10.0.0.0/24")
}

var (
	hosts     = []string{"web.lab", "db.lab", "x.lab", "a.b.lab", "web.lab", "db.lab", "a.b.lab", "lab", "other", "WEB.lab", "10.1"}
	hostRules = []string{".lab", "db.lab", ".lab", "lab", ".lab", "other", ".b.lab"}
)

// engagement writes a file and reads it.
func (s *source) engagement(t *testing.T, name string) Engagement {
	caller := 1000
	if s.rarely(10) {
		caller = 1001
	}
	var text strings.Builder
	fmt.Fprintf(&text, "name: %s\ncallers: {users: [%d]}\ntargets:\n", name, caller)
	for range 1 + s.choose(5) {
		fmt.Fprintf(&text, "  - {network: %q%s}\n", s.reachable(), s.ports(3))
	}
	for _, p := range s.pool[:min(len(s.pool), s.choose(5))] {
		fmt.Fprintf(&text, "  - {network: %q%s}\n", p, s.ports(3))
	}
	for range s.choose(4) {
		fmt.Fprintf(&text, "  - {name: %s, within: [%q, %q]%s}\n", pick(s, hostRules), s.reachable(), s.reachable(), s.ports(5))
	}
	text.WriteString("exclude:\n  - 10.0.0.7\n")
	for _, p := range s.prefixes(5) {
		if !s.rarely(3) {
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen()-s.choose(3)).Masked()
		}
		if !p.Addr().Is4In6() {
			fmt.Fprintf(&text, "  - %q\n", p)
		}
	}
	for range s.choose(3) {
		p := s.reachable()
		if len(s.pool) > 1 {
			p = netip.PrefixFrom(s.prefix().Addr(), p.Addr().BitLen()-s.choose(9)).Masked()
		}
		if ports := s.portSet(); !p.Addr().Is4In6() && p.IsValid() {
			fmt.Fprintf(&text, "  - {network: %q, ports: [%s]}\n", p, words(ports))
		}
	}
	fmt.Fprintf(&text, "tools: {nmap_scan: {profiles: [%s]}}\nintrusive: %s\n", pick(s, []string{"quick", `"*"`, "quick, slow", "quick", `"*"`, "slow"}), pick(s, []string{"deny", "approve", "allow"}))
	fmt.Fprintf(&text, "limits: {addresses_per_job: %d, ports_per_address: %d, packets_per_second: %d, duration: %dm%s}\n",
		5000-19*s.choose(256), 300-s.choose(256), 300-s.choose(256), 300-s.choose(256), pick(s, []string{"", "", ", total_packets_per_second: 100"}))
	if s.rarely(8) {
		fmt.Fprintf(&text, "expires: 2026-11-%02d\n", 1+s.choose(30))
	}
	if s.rarely(2) {
		fmt.Fprintf(&text, "approve: [%s]\napproval: {self: %v%s}\n", pick(s, []string{"", "nmap_scan", "nmap_scan"}), s.rarely(2),
			pick(s, []string{"", ", addresses_over: 8", ", packets_per_second_over: 20"}))
	}
	if s.rarely(8) {
		fmt.Fprintf(&text, "hours: {days: [%s], from: \"%02d:00\", to: \"%02d:30\", timezone: UTC}\n", pick(s, []string{"mon", "sun", "tue"}), s.choose(24), s.choose(24))
	}
	e, faults := ParseEngagement(name+".yaml", []byte(text.String()), Lookup{Profiles: func(string) ([]string, bool) { return []string{"quick", "slow"}, true }})
	if err := faults.Err(); err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	return e
}

// ports is what a rule says of them, with nothing for all in most cases.
func (s *source) ports(n int) string {
	if !s.rarely(n) {
		return ""
	}
	set := s.portSet()
	for range s.choose(4) { // more than one is asked for
		set = set.with(portSet{tcp: [][2]uint16{{1, 12}}})
	}
	return fmt.Sprintf(", ports: [%s], icmp: %v", words(set), len(set[icmp]) > 0)
}

func words(set portSet) string {
	set[icmp] = nil
	return strings.Join(set.ports().Strings(), ", ")
}

func (s *source) machine() Machine {
	m := Machine{Own: s.prefixes(3), Slots: s.prefixes(2), Bridges: s.prefixes(3), Broadcast: s.prefixes(3), Budget: s.choose(3) * s.choose(200)}
	if s.rarely(4) {
		m.Own = append(m.Own, netip.Prefix{})
	}
	return m
}

func (s *source) target() Target {
	if s.rarely(4) {
		t := Target{Text: "n", Name: pick(s, hosts)}
		for range (5 - s.choose(6)) / 2 {
			t.Answers = append(t.Answers, s.prefix().Addr())
		}
		return t
	}
	return Target{Text: "p", Prefix: s.prefix()}
}

func (s *source) request() Request {
	r := Request{Tool: "nmap_scan", Profile: "quick", Ports: s.choose(90), Rate: s.choose(90), Duration: time.Duration(s.choose(90)) * time.Minute}
	for range 1 + s.choose(7)/3 {
		r.Targets = append(r.Targets, s.target())
	}
	if s.rarely(6) {
		r.Engagement = pick(s, []string{"a", "b", "c"})
	}
	if s.rarely(6) {
		r.Intrusive = []string{"scripts"}
	}
	for range s.choose(5) / 2 {
		s.askPort(&r)
	}
	if s.rarely(12) {
		r.Elsewhere = []Wish{{"os_detection", "true", "it asks other ports", "leave it out"}}
	}
	r.Discovery = s.rarely(12)
	if s.rarely(4) {
		r.Omit = s.prefixes(3)
	}
	return r
}

// askPort asks for a range more.
func (s *source) askPort(r *Request) {
	first := uint16(1 + s.choose(12))
	to := pick(s, []*[][2]uint16{&r.Asked.TCP, &r.Asked.TCP, &r.Asked.TCP, &r.Asked.UDP, &r.Asked.SCTP})
	*to = append(slices.Clone(*to), [2]uint16{first, first + uint16(s.choose(4))})
}

// TestTheFuzzerTriesBothHalves: a fuzzer whose requests are all denied, or denied for one
// reason, would find every promise kept.
func TestTheFuzzerTriesBothHalves(t *testing.T) {
	const tries = 4000
	chance := rand.New(rand.NewPCG(1, 2))
	seen := map[string]int{}
	for range tries {
		p, c, r := made(t, &source{bytes: randomBytes(chance)})
		v := Decide(p, c, r, monday)
		seen[cmp.Or(v.Code, string(v.Outcome))]++
	}
	t.Log(seen)
	for _, outcome := range []Outcome{Allow, Approve} {
		if n := seen[string(outcome)]; n < tries/50 || n > tries*19/20 {
			t.Errorf("%d of %d have the outcome %s", n, tries, outcome)
		}
	}
	for _, code := range []string{Expired, OutsideHours, ProfileNotAllowed, TargetOutOfScope, TargetNever, TargetExcluded, NameNotAllowed,
		NameOutsideScope, PortNotAllowed, PortExcluded, NameUnresolved, TooManyAddresses, TooManyPorts, RateTooHigh, DurationTooLong, Intrusive, NoEngagement, NotACaller} {
		if seen[code] == 0 {
			t.Errorf("none of %d is denied for %s", tries, code)
		}
	}
}

func randomBytes(chance *rand.Rand) []byte {
	b := make([]byte, 480)
	for i := range b {
		b[i] = byte(chance.Uint32())
	}
	return b
}

// made is a policy, a caller and a request.
func made(t *testing.T, s *source) (*Policy, Caller, Request) {
	p := &Policy{Engagements: []Engagement{s.engagement(t, "b"), s.engagement(t, "a")}, Machine: s.machine()}
	if s.rarely(8) {
		p.Suspended = map[string]string{"a": "x"}
	}
	return p, Caller{UID: 1000}, s.request()
}

// FuzzDecide holds decisions to what they promise: a second, slow way to judge one address
// agrees with every address of a verdict, asking for more never turns denial into permission nor what has
// to be approved into what has not, and one thing more that has to be approved permits nothing more.
func FuzzDecide(f *testing.F) {
	chance := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		f.Add(randomBytes(chance))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{bytes: data}
		p, c, r := made(t, s)
		v := Decide(p, c, r, monday)
		isWellFormed(t, v)
		pre := Precheck(p, c, r, monday)
		isWellFormed(t, pre)
		if v.Grants() {
			if strictness(pre) > strictness(v) {
				t.Errorf("%s, and before:\n%s", v, pre)
			}
			agrees(t, p, c, r, v)
			if again := Rejudge(p, c, r, v.Engagement, monday); again.String() != v.String() {
				t.Errorf("judged again:\n%s\nbefore:\n%s", again, v)
			}
		}
		wantsNoMore(t, p, c, r, v, s)
		staysAsStrict(t, p, c, r, v, s)
	})
}

// strictness is the order of outcomes.
func strictness(v Verdict) int { return slices.Index([]Outcome{Allow, Approve, Deny}, v.Outcome) }

// wantsNoMore has one of the engagements want approval of more.
func wantsNoMore(t *testing.T, p *Policy, c Caller, r Request, before Verdict, s *source) {
	stricter := *p
	stricter.Engagements = slices.Clone(p.Engagements)
	e := &stricter.Engagements[s.choose(len(p.Engagements))]
	switch s.choose(4) {
	case 0:
		e.approve = append(slices.Clone(e.approve), r.Tool)
	case 1:
		e.approval.Addresses = 1 + s.choose(8)
	case 2:
		e.approval.Rate = 1 + s.choose(90)
	default:
		if e.Intrusive == Allow {
			e.Intrusive = Approve
		}
	}
	if p.named(e.Name).approval.Addresses > 0 || p.named(e.Name).approval.Rate > 0 {
		e.approve = append(slices.Clone(e.approve), r.Tool) // a bound may have been lower
	}
	v := Decide(&stricter, c, r, monday)
	if strictness(v) < strictness(before) {
		t.Errorf("more has to be approved, and less is:\n%s\nbefore:\n%s", v, before)
	}
	if v.Engagement == before.Engagement && v.Grants() && before.Grants() &&
		(!slices.Equal(v.Addresses(), before.Addresses()) || fmt.Sprint(v.Ports) != fmt.Sprint(before.Ports) || v.Limits != before.Limits || v.Until != before.Until) {
		t.Errorf("with more to be approved:\n%s\nbefore:\n%s", v, before)
	}
}

func isWellFormed(t *testing.T, v Verdict) {
	if len(v.String()) > 100_000 {
		t.Errorf("a page of %d bytes", len(v.String()))
	}
	if v.Outcome == Deny && v.Code != "" && v.Reason != "" && len(v.Targets) == 0 && len(v.Addresses()) == 0 {
		return
	}
	if (v.Outcome == Approve) != (len(v.Approval.Of) > 0) || v.Outcome == Approve && v.Approval.Within < minWithin {
		t.Errorf("of the outcome %s: %+v", v.Outcome, v.Approval)
	}
	if !v.Grants() || v.Code != "" || v.Engagement == "" || v.Rule == "" || v.Limits.Rate < 1 || v.Limits.Duration < 1 {
		t.Errorf("neither a denial nor a permission: %+v", v)
	}
}

// agrees holds every network of a verdict, at its ends and for small ones throughout, to the
// slow way.
func agrees(t *testing.T, p *Policy, c Caller, r Request, v Verdict) {
	e := p.named(v.Engagement)
	var count uint64
	for _, target := range v.Targets {
		i := slices.IndexFunc(r.Targets, func(asked Target) bool { return asked.Text == target.Text })
		asked := r.Targets[i]
		for _, net := range target.Addresses {
			if net != net.Masked() {
				t.Errorf("%s has host bits", net)
			}
			for _, a := range sample(net) {
				if why := slowly(e, p.Machine, a, asked.Name != ""); why != "" || isOmitted(r, a) {
					t.Errorf("%s is allowed: %s", a, why)
				}
				portsAgree(t, e, asked.Name, a, r, v)
				one := r
				one.Engagement = v.Engagement
				one.Targets = []Target{{Text: "p", Prefix: netip.PrefixFrom(a, a.BitLen())}}
				if single := Decide(p, c, one, monday); asked.Name == "" && len(v.PortRules) == 0 && strictness(single) > strictness(v) {
					t.Errorf("%s is allowed in %s, and not alone:\n%s", a, net, single)
				}
				for _, port := range portsOf(v) {
					one.Asked = port.ports()
					if single := Decide(p, c, one, monday); asked.Name == "" && len(r.Elsewhere) == 0 && !r.Discovery && strictness(single) > strictness(v) {
						t.Errorf("%s, port %s is allowed in %s, and not alone:\n%s", a, one.Asked, net, single)
					}
				}
			}
		}
		for i, out := range target.Excluded {
			for _, a := range sample(out.Prefix) {
				if out.Rule == omitRule && !isOmitted(r, a) {
					t.Errorf("%s is left out as if the request said so", a)
				}
				if slowly(e, p.Machine, a, false) == "" && !portIsExcluded(e, a, r.Asked) && !isOmitted(r, a) {
					t.Errorf("%s is left out, by %s, without need", a, out.Rule)
				}
			}
			for _, other := range target.Excluded[:i] {
				if other.Prefix.Overlaps(out.Prefix) {
					t.Errorf("%v and %v overlap", other, out)
				}
			}
			for _, net := range target.Addresses {
				if net.Overlaps(out.Prefix) {
					t.Errorf("%v is left out of %s, and allowed", out, net)
				}
			}
		}
		if asked.Name == "" {
			count = sizeOf(merge(spansOf(target.Addresses))) + sizeOf(merge(spansOf(excludedOf(target))))
			if whole := spanWholeOf(r.Targets, target); count != whole {
				t.Errorf("%d addresses are allowed or left out of %d", count, whole)
			}
		}
	}
	var last netip.Prefix
	for _, net := range v.Addresses() {
		if last.IsValid() && (net.Overlaps(last) || net.Addr().Less(last.Addr())) {
			t.Errorf("%v is not sorted or overlaps", v.Addresses())
		}
		last = net
	}
	if n := sizeOf(v.spans()); n > uint64(e.Limits.Addresses) || r.Ports > e.Limits.Ports || v.Limits.Rate > e.Limits.Rate || e.Limits.Budget > 0 && v.Limits.Rate > e.Limits.Budget || v.Limits.Duration > e.Limits.Duration {
		t.Errorf("more than the limits: %d addresses, %s", n, v)
	}
}

func isOmitted(r Request, a netip.Addr) bool {
	return slices.ContainsFunc(r.Omit, func(p netip.Prefix) bool { return p.Contains(a) })
}

func spansOf(prefixes []netip.Prefix) []span {
	var out []span
	for _, p := range prefixes {
		out = append(out, spanOf(p))
	}
	return out
}

func excludedOf(j Judged) []netip.Prefix {
	var out []netip.Prefix
	for _, e := range j.Excluded {
		out = append(out, e.Prefix)
	}
	return out
}

// spanWholeOf is the size of the target that j judges: the one that holds its first address.
func spanWholeOf(targets []Target, j Judged) uint64 {
	sum := sizeOf(merge(append(spansOf(j.Addresses), spansOf(excludedOf(j))...)))
	for _, t := range targets {
		if t.Name == "" && t.Prefix.Contains(j.Addresses[0].Addr()) && spanOf(t.Prefix).size() == sum {
			return sum
		}
	}
	return 0
}

// sample is all addresses of a small network, and those at the ends of a large one.
func sample(p netip.Prefix) []netip.Addr {
	s := spanOf(p)
	var out []netip.Addr
	for a := s.from; a.IsValid() && !s.to.Less(a) && len(out) < 64; a = a.Next() {
		out = append(out, a)
	}
	return append(out, s.to)
}

// slowly judges one address by the words of the documentation and nothing of the package's
// arithmetic, and says what is against it.
func slowly(e *Engagement, m Machine, a netip.Addr, fromName bool) string {
	holds := func(s span) bool {
		return a.BitLen() == s.from.BitLen() && a.Compare(s.from) >= 0 && a.Compare(s.to) <= 0
	}
	lists := [][]portRule{e.nets.rules}
	if fromName {
		lists = nil
		for _, n := range e.names {
			lists = append(lists, n.scope.rules)
		}
	}
	if slices.ContainsFunc(e.exclude, func(r rule) bool { return holds(r.span) }) {
		return "excluded"
	}
	for _, own := range slices.Concat(m.Own, m.Slots) {
		if own.IsValid() && own.Contains(a) {
			return "the machine's own"
		}
	}
	why := "no rule holds it"
	for _, rules := range lists {
		mine := slices.DeleteFunc(slices.Clone(rules), func(r portRule) bool { return !holds(r.span) })
		if len(mine) == 0 {
			continue
		}
		inside := func(whole span) bool {
			return slices.ContainsFunc(mine, func(r portRule) bool {
				return r.from.BitLen() == whole.from.BitLen() && r.from.Compare(whole.from) >= 0 && r.to.Compare(whole.to) <= 0
			})
		}
		why = ""
		for _, row := range never {
			if holds(row.span) && !(row.lifts && inside(row.span)) {
				why = row.what
			}
		}
		for _, net := range slices.Concat(m.Bridges, m.Broadcast) {
			if net.IsValid() && net.Contains(a) && !inside(spanOf(net)) {
				why = "containers or broadcast"
			}
		}
		if why == "" {
			return ""
		}
	}
	return why
}

// eachPort is those that are tried: each of the few that rules name, and one that none does.
func eachPort() (out []portSet) {
	for _, protocol := range []int{tcp, udp, sctp} {
		for port := uint16(1); port <= 25; port++ {
			var one portSet
			one[protocol] = [][2]uint16{{port, port}}
			out = append(out, one)
		}
	}
	return append(out, portSet{icmp: icmpAsked})
}

// portsOf is some that the verdict allows.
func portsOf(v Verdict) (out []portSet) {
	for i, one := range eachPort() {
		if i%7 == 0 && len(one[icmp]) == 0 && v.Ports.Covers(new(one.ports())) {
			out = append(out, one)
		}
	}
	return out
}

func excludedPort(e *Engagement, a netip.Addr, one portSet) bool {
	return slices.ContainsFunc(e.partly, func(r portRule) bool { return (span{a, a}).isIn(r.span) && !r.ports.and(one).isNone() })
}

func portIsExcluded(e *Engagement, a netip.Addr, asked Ports) bool {
	return slices.ContainsFunc(eachPort(), func(one portSet) bool {
		return !one.and(setOf(asked)).isNone() && excludedPort(e, a, one)
	})
}

// portsAgree holds the ports of a verdict at one of its addresses to the words of the documentation.
func portsAgree(t *testing.T, e *Engagement, name string, a netip.Addr, r Request, v Verdict) {
	t.Helper()
	rules := e.nets.rules
	if name != "" {
		rules = nil
		for _, n := range e.names {
			if n.covers(Target{Name: name}) {
				rules = append(rules, n.scope.rules...)
			}
		}
	}
	out := setOf(v.WithoutPorts)
	for _, one := range eachPort() {
		granted := v.Ports.Covers(new(one.ports()))
		may := !excludedPort(e, a, one) && slices.ContainsFunc(rules, func(r portRule) bool { return (span{a, a}).isIn(r.span) && !r.ports.and(one).isNone() })
		asked := !one.and(setOf(r.Asked)).isNone()
		switch {
		case granted && !may:
			t.Errorf("%s: port %s is allowed, and should not be\n%s\n%s", a, one.ports(), v, e)
		case asked && !granted && one.and(out).isNone():
			t.Errorf("%s: port %s is neither allowed nor left out\n%s", a, one.ports(), v)
		case !one.and(out).isNone() && (granted || !asked || !excludedPort(e, a, one)):
			t.Errorf("%s: port %s is left out without need\n%s", a, one.ports(), v)
		}
	}
}

// staysAsStrict asks for more of everything.
func staysAsStrict(t *testing.T, p *Policy, c Caller, r Request, before Verdict, s *source) {
	wider := r
	wider.Targets = slices.Clone(r.Targets)
	for range s.choose(3) {
		wider.Targets = slices.Insert(wider.Targets, s.choose(len(wider.Targets)+1), s.target())
	}
	if len(r.Omit) > 0 && s.rarely(2) {
		wider.Omit = wider.Omit[1:]
	}
	wider.Ports += s.choose(100)
	if r.Rate > 0 {
		wider.Rate += s.choose(100)
	}
	if r.Duration > 0 {
		wider.Duration += time.Duration(s.choose(100)) * time.Minute
	}
	if s.rarely(2) {
		wider.Intrusive = append(slices.Clone(r.Intrusive), "more")
	}
	if s.rarely(8) {
		wider.Ports, wider.Rate, wider.Duration = math.MaxInt, math.MaxInt, math.MaxInt64
	}
	for range s.choose(3) {
		s.askPort(&wider)
	}
	if v := Decide(p, c, wider, monday); strictness(v) < strictness(before) {
		t.Errorf("%s\nand, with more asked for:\n%s", before, v)
	}
	// A name with one more answer.
	for i, target := range wider.Targets {
		if target.Name != "" && len(r.Targets) == len(wider.Targets) && len(target.Answers) > 0 {
			wider.Targets[i].Answers = append(slices.Clone(target.Answers), s.prefix().Addr())
		}
	}
	if v := Decide(p, c, wider, monday); strictness(v) < strictness(before) {
		t.Errorf("%s\nand, with one more answer:\n%s", before, v)
	}
}

// FuzzParseEngagement: whatever the file says, reading it, printing it and deciding under it
// ends, and a file with faults allows nothing.
func FuzzParseEngagement(f *testing.F) {
	example, err := os.ReadFile(examplePath)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{string(example), "name: f" + lab[len("\nname: lab"):], "name: f\n" + office, strings.Replace(whole, "name: x", "name: f", 1)} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		who := Lookup{User: func(string) (uint32, bool) { return 1000, true }, Group: func(string) (uint32, bool) { return 50, true }}
		e, faults := ParseEngagement("f.yaml", data, who)
		for _, fault := range faults {
			if fault.Line < 1 || fault.File != "f.yaml" {
				t.Errorf("a fault without its place: %s", fault)
			}
		}
		if len(faults) > 0 && (e.Name != "" || e.Names(alice) || e.Names(bob)) {
			t.Error("an engagement with faults has callers")
		}
		if len(faults) == 0 && (e.Name != "f" || len(e.Tools()) == 0 || len(e.Targets()) == 0 || len(e.Revision) != 64) {
			t.Errorf("an engagement without faults lacks something: %s", e)
		}
		if len(e.String()) > 64<<10 {
			t.Errorf("a page of %d bytes", len(e.String()))
		}
		p := &Policy{Engagements: []Engagement{e}, Machine: machine}
		for _, r := range []Request{
			scan("10.1.2.3"), scan("10.0.0.0/8", "fd00::/8"), scan("web.lab.internal=10.0.3.4"), scan("0.0.0.0/0"), scan("::/0"), scan("127.0.0.1"),
			scan("192.168.1.0/24").with(func(r *Request) { r.Tool = "x"; r.Intrusive = []string{"x"} }),
		} {
			for _, c := range []Caller{alice, bob, carol} {
				v := Decide(p, c, r, monday)
				isWellFormed(t, v)
				if v.Grants() {
					agrees(t, p, c, r, v)
				}
			}
		}
	})
}

func FuzzPrefixes(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef0123456789"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{bytes: data}
		whole := spanOf(s.prefix())
		holes := merge(spansOf(s.prefixes(12)))
		left := whole.without(holes)
		nets := prefixesOf(left)
		if !slices.Equal(merge(spansOf(nets)), left) {
			t.Errorf("%v and %v are not the same", nets, left)
		}
		for _, a := range append(sample(prefixesOf([]span{whole})[0]), whole.to) {
			in := slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(a) })
			out := slices.ContainsFunc(holes, func(h span) bool { return (span{a, a}).isIn(h) })
			if in == out {
				t.Errorf("%s: in what is left %v, in a hole %v", a, in, out)
			}
		}
		for i := 1; i < len(nets); i++ {
			a, b := nets[i-1], nets[i]
			if a.Bits() == b.Bits() && a.Bits() > 0 && netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked().Contains(b.Addr()) {
				t.Errorf("%s and %s are one", a, b)
			}
		}
	})
}
