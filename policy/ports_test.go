package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const doors = `
name: doors
callers: {users: [1000]}
targets:
  - {network: 10.1.0.0/16, ports: [22, 80, 443, 8000-8100, udp/53]}
  - {network: 10.1.5.0/24, ports: [3306]}
  - {network: 10.1.6.0/24}
  - {network: 10.2.0.0/16, ports: [22], icmp: true}
  - {network: 10.3.0.0/16, icmp: false}
  - {network: 10.4.0.0/16, ports: [], icmp: true}
  - {network: 10.5.0.0/16, ports: [udp/1-65535]}
  - 10.6.0.0/16
  - {name: .lab, within: [10.0.0.0/8], ports: [22]}
  - {name: web.lab, within: [10.7.0.0/16], ports: [443]}
exclude:
  - {network: 10.6.0.5, ports: [9100]}
  - {network: 10.6.1.0/24, ports: [9100-9107, udp/161]}
  - {network: 10.6.1.8, ports: [22]}
  - 10.6.1.9
  - {network: 10.1.0.8, ports: [80]}
tools: {nmap_scan: {profiles: ["*"]}}
limits: {addresses_per_job: 1024}
`

// asks is a request for ports: "22", "1-100", "udp/53".
func asks(ports string, targets ...string) Request {
	r := scan(targets...)
	r.Ports = 1
	for text := range strings.FieldsSeq(ports) {
		var p portText
		if f := p.ReadScalar(text); f != nil {
			panic(f)
		}
		to := map[int]*[][2]uint16{tcp: &r.Asked.TCP, udp: &r.Asked.UDP, sctp: &r.Asked.SCTP}[p.protocol]
		*to = append(*to, p.ports)
	}
	return r
}

func (r Request) pings() Request {
	r.Discovery = true
	return r
}

func (r Request) echoes() Request {
	r.Asked.ICMP = true
	return r
}

func (r Request) roams() Request {
	r.Elsewhere = []Wish{{"os_detection", "true", "it asks ports of its own choice", "leave it out"}}
	return r
}

func (r Request) top() Request {
	r.PortsField = "top_ports"
	return r
}

func TestPorts(t *testing.T) {
	w := world{&Policy{Engagements: []Engagement{parse(t, doors)}, Machine: machine}, alice, monday}
	w.check(t, []row{
		allow("a port that the rule has", asks("22", "10.1.1.1"), "10.1.1.1", "ports       22", "\n              udp/53", "targets[0] 10.1.0.0/16 ports 22, 80, 443, 8000-8100, udp/53"),
		allow("a range in a range", asks("8010-8020 443 udp/53", "10.1.1.1"), "10.1.1.1"),
		allow("what a smaller network allows beside", asks("22 3306", "10.1.5.7"), "10.1.5.7", "3306"),
		allow("a smaller network without ports", asks("1-65535", "10.1.6.7"), "10.1.6.7"),
		allow("a network without a rule for ports", asks("1-65535", "10.6.2.7").roams(), "10.6.2.7"),
		allow("UDP alone", asks("udp/161", "10.5.0.1"), "10.5.0.1", "udp/1-65535"),
		allow("every address of two rules", asks("22", "10.1.1.1", "10.2.1.1"), "10.1.1.1 10.2.1.1", "ports       22\n"),
		allow("all of TCP, where all but ICMP is allowed", asks("1-65535", "10.3.0.1").top(), "10.3.0.1", "ports       1-65535"),
		refuse("a port that the rule does not have", asks("22 81", "10.1.1.1"), PortNotAllowed, "field       ports", `got         "81"`, "allowed     22", "8000-8100", "udp/53", "rule        targets[0] 10.1.0.0/16 ports"),
		refuse("a range that is wider", asks("8000-8101", "10.1.1.1"), PortNotAllowed, `got         "8101"`),
		refuse("UDP where TCP is allowed", asks("udp/22", "10.1.1.1"), PortNotAllowed, `got         "udp/22"`),
		refuse("TCP where UDP is allowed", asks("53", "10.1.1.1"), PortNotAllowed),
		refuse("a network of which part allows it", asks("3306", "10.1.4.0/23"), PortNotAllowed),
		refuse("one of two targets", asks("80", "10.1.1.1", "10.2.1.1"), PortNotAllowed, "of 10.2.1.1", `allowed     22`),
		refuse("ports of the scanner's choice", asks("1-65535", "10.1.1.1").top(), PortNotAllowed, "field       top_ports", "give those that are allowed in ports"),
		refuse("what goes to other ports", asks("22", "10.1.1.1").roams(), PortNotAllowed, "field       os_detection", "ports of its own choice", "leave it out"),
		refuse("what goes to other ports, where ICMP is not allowed", asks("22", "10.3.1.1").roams(), PortNotAllowed),

		allow("whether a host is there, by its TCP", asks("", "10.1.1.1").pings(), "10.1.1.1", "443"),
		allow("by ICMP alone", asks("", "10.4.1.1").pings(), "10.4.1.1", "ports       icmp\n"),
		allow("by ICMP and a port", asks("", "10.2.1.1").pings(), "10.2.1.1", "ports       22\n              icmp\n"),
		refuse("by UDP alone", asks("", "10.5.1.1").pings(), PortNotAllowed, "field       scan_type", "neither ICMP nor a TCP port"),
		refuse("by what one of two does not allow", asks("", "10.1.1.1", "10.4.1.1").pings(), PortNotAllowed),

		allow("ICMP where it is said", asks("", "10.2.1.1").echoes(), "10.2.1.1", "icmp\n"),
		allow("ICMP alone", asks("", "10.4.1.1").echoes(), "10.4.1.1", "ports       icmp\n"),
		allow("ICMP where ports are not said", asks("", "10.6.2.1").echoes(), "10.6.2.1"),
		allow("ICMP where a port is excluded", asks("", "10.6.0.5").echoes(), "10.6.0.5", "icmp\n"),
		refuse("ICMP where ports alone are said", asks("", "10.1.1.1").echoes(), PortNotAllowed, `got         "icmp"`),
		refuse("ICMP where it is denied", asks("", "10.3.1.1").echoes(), PortNotAllowed),
		refuse("a port that is allowed and ICMP that is not", asks("22", "10.1.1.1").echoes(), PortNotAllowed),

		allow("an address of which a port is excluded that is not asked for", asks("22", "10.6.0.5"), "10.6.0.5", "ports       1-9099\n              9101-65535\n"),
		allow("an excluded port in a range", asks("9000-9200", "10.6.0.5"), "10.6.0.5", "port 9100 by exclude[0] 10.6.0.5 ports 9100"),
		allow("excluded at every address", asks("22 9000-9200", "10.6.1.0/30"), "10.6.1.0/30", "port 9100-9107 by exclude[1] 10.6.1.0/24 ports 9100-9107, udp/161"),
		allow("excluded at some", asks("9100", "10.6.0.4/31"), "10.6.0.4", "10.6.0.5 by exclude[0] 10.6.0.5 ports 9100"),
		allow("beside an exclusion of all", asks("22", "10.6.1.8/30"), "10.6.1.10/31", "10.6.1.8 by exclude[1] 10.6.1.0/24 ports 9100-9107, udp/161, exclude[2] 10.6.1.8 ports 22", "10.6.1.9 by exclude[3] 10.6.1.9"),
		allow("two targets, one with an exclusion", asks("9000-9200", "10.6.0.4/31", "10.6.2.1"), "10.6.0.4 10.6.2.1", "10.6.0.5 by exclude[0]"),
		refuse("nothing else is asked for", asks("9100", "10.6.0.5"), PortExcluded, "field       ports", `got         "9100"`, "exclude[0] 10.6.0.5 ports 9100"),
		refuse("nothing of one element", asks("22 9100", "10.6.0.5"), PortExcluded, `got         "9100"`),
		refuse("nothing of one target", asks("22", "10.6.1.8", "10.6.1.10"), PortExcluded, "field       targets[0]", `got         "10.6.1.8"`, "22"),
		refuse("allowed and excluded", asks("80", "10.1.0.8"), PortExcluded),
		refuse("what goes to other ports, where one is excluded", asks("22", "10.6.0.5").roams(), PortNotAllowed, "field       os_detection"),

		allow("a name with a port of its rule", asks("22", "ssh.lab=10.9.0.1"), "10.9.0.1", "targets[8] .lab ports 22"),
		allow("a name under its second rule", asks("443", "web.lab=10.7.0.1"), "10.7.0.1", "targets[9] web.lab ports 443", "ports       443\n"),
		refuse("a name with another port", asks("443", "ssh.lab=10.9.0.1"), PortNotAllowed, "targets[8] .lab ports 22"),
		refuse("a name in a network that allows more", asks("80", "ssh.lab=10.6.2.1"), PortNotAllowed),
		refuse("a name, one answer of which excludes the port", asks("22", "ssh.lab=10.6.1.8,10.6.1.10"), PortExcluded, "field       targets[0]"),
	})
	if v := Decide(w.Policy, alice, asks("22", "10.6.2.7"), monday); v.Ports != nil {
		t.Errorf("no rule for ports, and %v", v.Ports)
	}
	for says, r := range map[string]Request{"a port": asks("443", "ssh.lab="), "what nobody asked for": asks("22 udp/53", "web.lab=")} {
		if v := Precheck(w.Policy, alice, r, monday); v.Code != PortNotAllowed {
			t.Errorf("%s that no rule of the name allows is asked for: %s", says, v)
		}
	}
	if v := Precheck(w.Policy, alice, asks("22", "ssh.lab=", "web.lab="), monday); v.Outcome != Allow || !v.MoreNames {
		t.Errorf("%s", v)
	}
	e := w.Engagements[0]
	for _, want := range []string{"10.2.0.0/16 ports 22, icmp", "10.3.0.0/16 without icmp", "10.4.0.0/16 ports icmp", ".lab within 10.0.0.0/8 ports 22", "10.6.0.5 ports 9100", "10.6.1.0/24 ports 9100-9107, udp/161", "10.6.1.9\n"} {
		if !strings.Contains(e.String(), want) {
			t.Errorf("does not say %q:\n%s", want, &e)
		}
	}
	if got := e.Excluded(); !slices.Contains(got, "10.6.0.5 ports 9100") || got[0] != "10.6.1.9" {
		t.Error(got)
	}
}

func TestWhatPortsCover(t *testing.T) {
	some := &Ports{TCP: [][2]uint16{{20, 30}}, ICMP: true}
	for _, c := range []struct {
		why         string
		whole, part *Ports
		want        bool
	}{
		{"all covers all", nil, nil, true},
		{"all covers some", nil, some, true},
		{"some do not cover all", some, nil, false},
		{"some cover themselves", some, some, true},
		{"some cover fewer", some, &Ports{TCP: [][2]uint16{{22, 22}, {24, 30}}}, true},
		{"and no more", some, &Ports{TCP: [][2]uint16{{22, 31}}}, false},
		{"of another protocol none", some, &Ports{UDP: [][2]uint16{{22, 22}}}, false},
		{"and ICMP not, where it is not", &Ports{TCP: [][2]uint16{{20, 30}}}, some, false},
	} {
		if got := c.whole.Covers(c.part); got != c.want {
			t.Errorf("%s: %v", c.why, got)
		}
	}
}

// A table of ports has each address once, with the ports of all rules that hold it.
func FuzzPortTable(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef0123456789"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{bytes: data}
		var rules []portRule
		for range 1 + s.choose(10) {
			p := s.prefix()
			s.pool = append(s.pool, p)
			rules = append(rules, newPortRule(fmt.Sprint(len(rules)), p, s.portSet(), ""))
		}
		table := newPortTable(rules)
		for i, r := range table {
			if r.to.Less(r.from) || i > 0 && !table[i-1].to.Less(r.from) {
				t.Fatalf("%v is not sorted", table)
			}
		}
		for _, r := range rules {
			for _, a := range append(sample(netip.PrefixFrom(r.from, r.from.BitLen())), sample(prefixesOf([]span{r.span})[0])...) {
				var want portSet
				for _, o := range rules {
					if (span{a, a}).isIn(o.span) {
						want = want.with(o.ports)
					}
				}
				var got []portSet
				for _, r := range table.in(span{a, a}) {
					got = append(got, r.ports)
				}
				if len(got) != 1 || !got[0].equals(want) {
					t.Fatalf("%s: %v, want %v of %v", a, got, want, rules)
				}
			}
		}
	})
}

// portSet is a few ports near each other, so that they meet.
func (s *source) portSet() (p portSet) {
	for range 1 + s.choose(3) {
		first := uint16(1 + s.choose(12))
		protocol := s.choose(3)
		p[protocol] = joined(append(p[protocol], [2]uint16{first, first + uint16(s.choose(6))}))
	}
	if s.rarely(3) {
		p[icmp] = icmpAsked
	}
	return p
}
