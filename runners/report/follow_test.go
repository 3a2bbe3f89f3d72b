package report

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// reported is a report of hosts, each "address port/proto[ state] …".
func reported(hosts ...string) Report {
	r := Report{Finished: true, ExitOK: true}
	for _, text := range hosts {
		words := strings.Fields(text)
		h := Host{Addr: netip.MustParseAddr(words[0]), Status: "up", Ports: []Port{}}
		for _, w := range words[1:] {
			if w == "timed_out" {
				h.TimedOut = true
				continue
			}
			parts := strings.Split(w, "/")
			p := Port{Proto: parts[1], State: "open"}
			fmt.Sscan(parts[0], &p.Port)
			if len(parts) > 2 {
				p.State = parts[2]
			}
			h.Ports = append(h.Ports, p)
			r.Coverage.OpenPorts++
		}
		r.Hosts = append(r.Hosts, h)
		r.Coverage.Up++
	}
	return r
}

func openText(r Report) string {
	var out []string
	for _, h := range r.Hosts {
		for _, p := range h.Ports {
			out = append(out, portText(h.Addr, p))
		}
	}
	return strings.Join(out, ", ")
}

func TestTwoPasses(t *testing.T) {
	for _, row := range []struct {
		says       string
		one, two   Report
		agreed     bool
		first, sec string
		open       string
	}{
		{"alike", reported("10.0.0.1 22/tcp 53/udp", "10.0.0.3 80/tcp"), reported("10.0.0.3 80/tcp", "10.0.0.1 53/udp 22/tcp"), true, "[]", "[]", "10.0.0.1 22/tcp, 10.0.0.1 53/udp, 10.0.0.3 80/tcp"},
		{"nothing in either", reported(), reported(), true, "[]", "[]", ""},
		{"more in the first", reported("10.0.0.1 22/tcp", "10.0.0.3 80/tcp"), reported("10.0.0.1 22/tcp"), false, "[10.0.0.3 80/tcp]", "[]", "10.0.0.1 22/tcp, 10.0.0.3 80/tcp"},
		{"more in the second", reported("10.0.0.1 22/tcp 443/tcp"), reported("10.0.0.0 80/tcp", "10.0.0.1 22/tcp 80/tcp 443/tcp", "10.0.0.2 53/udp"), false, "[]", "[10.0.0.0 80/tcp 10.0.0.1 80/tcp 10.0.0.2 53/udp]",
			"10.0.0.0 80/tcp, 10.0.0.1 22/tcp, 10.0.0.1 80/tcp, 10.0.0.1 443/tcp, 10.0.0.2 53/udp"},
		{"the same number of UDP", reported("10.0.0.1 53/tcp"), reported("10.0.0.1 53/udp"), false, "[10.0.0.1 53/tcp]", "[10.0.0.1 53/udp]", "10.0.0.1 53/tcp, 10.0.0.1 53/udp"},
	} {
		s := row.one.Again(row.two)
		if s.Agreed != row.agreed || fmt.Sprint(s.OnlyFirst.Ports) != row.first || fmt.Sprint(s.OnlySecond.Ports) != row.sec || openText(row.one) != row.open {
			t.Errorf("%s: %+v, %s", row.says, s, openText(row.one))
		}
		if c := row.one.Coverage; c.Up != len(row.one.Hosts) || c.OpenPorts != len(strings.Split(row.open, ", "))-map[bool]int{true: 1}[row.open == ""] {
			t.Errorf("%s: %+v", row.says, c)
		}
	}
	cut, whole := reported("10.0.0.1 22/tcp"), reported("10.0.0.1 22/tcp")
	cut.Cut = []string{"hosts"}
	if s := whole.Again(cut); s.Agreed || s.Why == "" {
		t.Errorf("of a report that was cut: %+v", s)
	}
	unfinished := reported("10.0.0.1 22/tcp")
	unfinished.Finished, unfinished.ExitOK = false, false
	if s := whole.Again(unfinished); s.Agreed {
		t.Errorf("with a pass that did not come to its end: %+v", s)
	}
	lost := reported("10.0.0.1 22/tcp")
	lost.ExitOK, lost.ErrorClass = false, ErrorLost
	if s := whole.Again(lost); s.Agreed {
		t.Errorf("with a pass that found more than it printed: %+v", s)
	}
}

// However much a second pass has found, what is kept and named is bounded, and the counts are exact.
func TestALargeSecondPass(t *testing.T) {
	first, second := reported("10.0.0.0 1/tcp"), Report{Finished: true}
	for i := range maxHosts + 100 {
		second.Hosts = append(second.Hosts, Host{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Ports: []Port{{Port: 1, Proto: "tcp", State: "open"}}})
	}
	for i := range maxPorts + 10 {
		second.Hosts[0].Ports = append(second.Hosts[0].Ports, Port{Port: 10 + i, Proto: "tcp", State: "open"})
	}
	s := first.Again(second)
	if s.OnlySecond.Count != maxHosts+99+maxPorts+10 || len(s.OnlySecond.Ports) != maxTold || len(first.Hosts) != maxHosts || len(first.Hosts[0].Ports) != maxPorts || first.Coverage.NotKept != 100 ||
		fmt.Sprint(first.Cut) != "[ports hosts]" || first.Coverage.Up != maxHosts+100 {
		t.Errorf("%d, %d named, %d hosts, %d ports, %v, %+v", s.OnlySecond.Count, len(s.OnlySecond.Ports), len(first.Hosts), len(first.Hosts[0].Ports), first.Cut, first.Coverage.NotKept)
	}
}

func TestAVerification(t *testing.T) {
	r := reported("10.0.0.1 22/tcp 80/tcp 443/tcp 53/udp", "10.0.0.2 80/tcp", "10.0.0.3 80/tcp", "10.0.0.4 80/tcp")
	by := reported("10.0.0.1 22/tcp 80/tcp/closed", "10.0.0.2 timed_out", "10.0.0.3 80/tcp 8080/tcp")
	by.Hosts[0].Ports[0].Service, by.Hosts[0].Ports[0].Reason = "ssh", "syn-ack"
	r.Hosts[0].Ports[0].Reason = "seen"
	v := r.Verified(by, func(a netip.Addr, udp bool, port uint16) bool { return !udp })
	if v.Asked != 6 || v.Open != 2 || v.Unknown != 2 || v.NotOpen.Count != 2 || fmt.Sprint(v.NotOpen.Ports) != "[10.0.0.1 80/tcp closed 10.0.0.1 443/tcp not listed]" {
		t.Errorf("%+v", v)
	}
	if p := r.Hosts[0].Ports[0]; p.Service != "ssh" || p.Reason != "seen" {
		t.Errorf("what is known of a service is not taken over: %+v", p)
	}
	if got := openText(r); got != "10.0.0.1 22/tcp, 10.0.0.1 80/tcp, 10.0.0.1 443/tcp, 10.0.0.1 53/udp, 10.0.0.2 80/tcp, 10.0.0.3 80/tcp, 10.0.0.4 80/tcp" {
		t.Errorf("ports have come or gone: %s", got)
	}
}
