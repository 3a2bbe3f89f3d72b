package scope

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A slot whose scope has ports sends to these and to no other, in both families, and what it sent to
// others is counted and named.
func TestPortsOfASlot(t *testing.T) {
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

// Where the table is the filter it holds no ports, and a slot that has some is not made.
func TestTheTableHoldsNoPorts(t *testing.T) {
	newLab(t)
	withTable(t)
	n := openNet(t)
	to := []Target{{Prefixes: []netip.Prefix{host(allowed)}, Ports: &Ports{TCP: [][2]uint16{{80, 80}}}}}
	if s, err := n.Slot(context.Background(), to, 0); !errors.Is(err, ErrNoPorts) {
		t.Errorf("%v, %v", fmt.Sprint(s), err)
	}
}
