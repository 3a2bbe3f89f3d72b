package scope

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A slot whose scope has ports sends to these and to no other, in both families, and what it sent to
// others is counted and named.
func TestPortsOfASlot(t *testing.T) { withBoth(t, portsOfASlot) }

func portsOfASlot(t *testing.T) {
	newLab(t)
	n := openNet(t)
	web := [][2]uint16{{80, 80}}
	for _, c := range []struct {
		says    string
		to      netip.Addr
		ports   Ports
		reaches bool
	}{
		{"its port", allowed, Ports{TCP: web}, true},
		{"its port in a range", allowed, Ports{TCP: [][2]uint16{{1, 79}, {80, 1000}}}, true},
		{"another port", allowed, Ports{TCP: [][2]uint16{{1, 79}, {81, 65535}}}, false},
		{"the same port of another protocol", allowed, Ports{UDP: web, SCTP: web}, false},
		{"ICMP alone", allowed, Ports{ICMP: true}, false},
		{"nothing", allowed, Ports{}, false},
		{"its port, by IPv6", allowed6, Ports{TCP: web}, true},
		{"another port, by IPv6", allowed6, Ports{TCP: [][2]uint16{{81, 81}}}, false},
	} {
		s, err := n.Slot(t.Context(), []Target{{Prefixes: []netip.Prefix{host(allowed), host(allowed6)}, Ports: &c.ports}}, 0)
		must(t, err)
		err = dial(s.NetNS(), c.to, time.Second)
		counted, failed := s.Counters()
		must(t, failed)
		must(t, s.Close())
		if (err == nil) != c.reaches || counted.Dropped > 0 == c.reaches {
			t.Errorf("%s: %v, %+v", c.says, err, counted)
		}
		if config.NoBPF {
			continue // it names nobody
		}
		if v := counted.First; !c.reaches && len(c.ports.TCP) > 0 && (counted.OffScope == 0 || len(v) != 1 || v[0].To != c.to || v[0].Port != 80 || v[0].Protocol != unix.IPPROTO_TCP) {
			t.Errorf("%s: %+v", c.says, counted)
		}
	}
}

// Targets of one slot have each their own ports; the longest prefix has an address.
func TestTargetsOfASlotHaveTheirOwnPorts(t *testing.T) {
	newLab(t)
	n := openNet(t)
	s, err := n.Slot(t.Context(), []Target{
		{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}, Ports: &Ports{TCP: [][2]uint16{{22, 22}}}},
		{Prefixes: []netip.Prefix{host(allowed)}},
		{Prefixes: []netip.Prefix{host(allowed6)}, Ports: &Ports{ICMP: true}},
	}, 0)
	must(t, err)
	defer func() { must(t, s.Close()) }()
	must(t, reaches(s.NetNS(), allowed))
	for _, to := range []netip.Addr{allowed6, netip.MustParseAddr("10.77.0.11")} {
		if dial(s.NetNS(), to, 300*time.Millisecond) == nil {
			t.Errorf("%s was reached", to)
		}
	}
}

// Where the table is the filter, one list of ports is held for all targets of a slot.
func TestTheTableHoldsOneListOfPorts(t *testing.T) {
	newLab(t)
	withTable(t)
	n := openNet(t)
	web := &Ports{TCP: [][2]uint16{{80, 80}}}
	if s, err := n.Slot(t.Context(), []Target{{Prefixes: []netip.Prefix{host(allowed)}, Ports: web}, {Prefixes: []netip.Prefix{host(allowed6)}}}, 0); err == nil {
		t.Errorf("%v", s)
	}
	same := &Ports{TCP: [][2]uint16{{80, 80}}}
	s, err := n.Slot(t.Context(), []Target{{Prefixes: []netip.Prefix{host(allowed)}, Ports: web}, {Prefixes: []netip.Prefix{host(allowed6)}, Ports: same}}, 0)
	must(t, err)
	must(t, reaches(s.NetNS(), allowed))
	must(t, reaches(s.NetNS(), allowed6))
	must(t, s.Close())
	if sets, err := n.list.GetSets(n.t.t); err != nil || len(sets) > 0 {
		t.Errorf("%d sets are left, %v", len(sets), err)
	}
}
