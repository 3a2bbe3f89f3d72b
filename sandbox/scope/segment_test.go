package scope

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onSegment is a slot in the mode L2, beside a network that is open.
func onSegment(t *testing.T) (*lab, *Net, *Slot) {
	t.Helper()
	withMode(t, L2)
	l := newLab(t)
	n := openNet(t)
	s, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 0)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() }) // once more is no harm
	return l, n, s
}

// What is for a slot's address is the slot's, questions for it are the machine's, and whatever else
// comes by the segment is nobody's business.
func TestWhatComesByASegment(t *testing.T) {
	withMode(t, L2)
	f, err := loadFilter()
	must(t, err)
	defer func() { must(t, f.close()) }()
	must(t, f.reserve(config.V4, config.V6))
	slot4, free4, slot6, free6 := plus(config.V4.Addr(), 5), plus(config.V4.Addr(), 6), plus(config.V6.Addr(), 5), plus(config.V6.Addr(), 6)
	link := newWire(t, f, "secvsink")
	sink, mac := link.Attrs().Index, link.Attrs().HardwareAddr
	must(t, errors.Join(f.own(slot4, sink), f.own(slot6, sink)))
	const goesOn = 0xffffffff
	nd := func(kind byte, to netip.Addr) []byte {
		return back6(ip6(allowed6, to, 58, append([]byte{kind}, make([]byte, 31)...)))
	}
	for _, c := range []struct {
		says  string
		frame []byte
		want  uint32
	}{
		{"an answer to a slot", back4(ip4(allowed, slot4, 6, tcp(40000))), redirects},
		{"an IPv6 answer to a slot", back6(ip6(allowed6, slot6, 6, tcp(40000))), redirects},
		{"a packet to an address that no slot has", back4(ip4(allowed, free4, 6, tcp(80))), drops},
		{"an IPv6 packet to an address that no slot has", back6(ip6(allowed6, free6, 6, tcp(80))), drops},
		{"a packet to the machine", back4(ip4(allowed, here, 6, tcp(80))), goesOn},
		{"an IPv6 packet to the machine", back6(ip6(allowed6, here6, 6, tcp(80))), goesOn},
		{"a broadcast", ethernet(everyone, stranger, unix.ETH_P_IP, ip4(allowed, addr("10.77.255.255"), 17, udp(67))), goesOn},
		{"a question for a slot's address", ethernet(everyone, stranger, unix.ETH_P_ARP, arpOf(1, stranger, allowed, slot4)), goesOn},
		{"an answer to a slot's question, which the machine asks, too", ethernet(box, stranger, unix.ETH_P_ARP, arpOf(2, stranger, allowed, slot4)), goesOn},
		{"a question for an address that no slot has", ethernet(everyone, stranger, unix.ETH_P_ARP, arpOf(1, stranger, allowed, free4)), drops},
		{"a question for the machine", ethernet(everyone, stranger, unix.ETH_P_ARP, arpOf(1, stranger, allowed, here)), goesOn},
		{"a solicitation for a slot", nd(135, slot6), goesOn},
		{"an advertisement to a slot", nd(136, slot6), goesOn},
		{"an echo request to a slot", nd(128, slot6), redirects},
		{"a redirect to a slot", nd(137, slot6), redirects},
		{"a solicitation to an address that no slot has", nd(135, free6), drops},
		{"a packet to a slot's address that all stations get", ethernet(everyone, stranger, unix.ETH_P_IP, ip4(allowed, slot4, 17, udp(9))), drops},
		{"a frame of another kind", ethernet(box, stranger, 0x88cc, make([]byte, 50)), goesOn},
	} {
		if c.frame[0]&1 == 0 { // it is for this station
			copy(c.frame, mac)
		}
		if got, _, err := run(f.programs.Wire, sink, c.frame); err != nil || got != c.want {
			t.Errorf("%s: %#x, %v; want %#x", c.says, got, err, c.want)
		}
	}
	must(t, f.disown(slot4))
	toOther := back4(ip4(allowed, slot4, 6, tcp(40000)))
	if got, _, err := run(f.programs.Wire, sink, toOther); err != nil || got != goesOn {
		t.Errorf("for another station: %#x, %v", got, err)
	}
	if got, _, err := run(f.programs.Wire, sink, ethernet(mac, stranger, unix.ETH_P_IP, ip4(allowed, slot4, 6, tcp(40000)))); err != nil || got != drops {
		t.Errorf("for an address that was given up: %#x, %v", got, err)
	}
}

// The machine lends a slot its address for as long as the slot has it, and sends nothing from it itself.
func TestASlotsAddressIsLent(t *testing.T) {
	l, _, s := onSegment(t)
	uplink, err := netlink.LinkByName("uplink")
	must(t, err)
	asks := func(a netip.Addr) bool { // an answer of ARP
		var found bool
		l.in(t, func() {
			eth0, err := netlink.LinkByName("eth0")
			must(t, err)
			_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: a.AsSlice()})
			c, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
			must(t, err)
			defer c.Close()
			for until := time.Now().Add(time.Second); !found && time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
				_, _ = c.Write([]byte("hello")) // refused, once it arrives
				list, err := netlink.NeighList(eth0.Attrs().Index, netlink.FAMILY_ALL)
				must(t, err)
				found = slices.ContainsFunc(list, func(n netlink.Neigh) bool {
					return n.IP.Equal(a.AsSlice()) && slices.Equal(n.HardwareAddr, uplink.Attrs().HardwareAddr)
				})
			}
		})
		return found
	}
	for _, a := range []netip.Addr{s.inner4, s.inner6} {
		if !asks(a) {
			t.Errorf("nobody answers for %s", a)
		}
	}
	if free := plus(s.inner4, 1); asks(free) {
		t.Errorf("somebody answers for %s", free)
	}
	for _, to := range []netip.Addr{allowed, allowed6} {
		c, err := net.Dial("tcp", netip.AddrPortFrom(to, 80).String())
		must(t, err)
		if from := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); from.Unmap() != here && from != here6 {
			t.Errorf("the machine sends from %s", from)
		}
		must(t, c.Close())
	}
	own, _, _, err := Machine()
	must(t, err)
	if slices.Contains(own, host(s.inner4)) || !slices.Contains(own, host(here)) {
		t.Errorf("the machine's own addresses are %v", own)
	}
	must(t, s.Close())
	for _, a := range []netip.Addr{s.inner4, s.inner6} {
		for until := time.Now().Add(5 * time.Second); asks(a); {
			if time.Now().After(until) {
				t.Fatalf("somebody still answers for %s", a)
			}
		}
	}
}

// Who removes what a slot needs on its segment ends the slot, and one that has no part in it lives on.
func TestWhoChangesTheSegmentEndsSlots(t *testing.T) {
	for _, c := range []struct {
		says   string
		change func(t *testing.T, s *Slot)
		what   string
		all    bool
	}{
		{"takes the filter off the interface", func(t *testing.T, _ *Slot) { shell(t, "tc", "filter", "del", "dev", "uplink", "ingress") }, "filter is not on the interface", true},
		{"takes all of its filters off", func(t *testing.T, _ *Slot) { shell(t, "tc", "qdisc", "del", "dev", "uplink", "clsact") }, "filter is not on the interface", true},
		{"takes the slot's address from it", func(t *testing.T, s *Slot) {
			shell(t, "ip", "addr", "del", s.inner4.String()+"/32", "dev", "uplink")
		}, "lost the address", false},
		{"takes the slot's IPv6 address from it", func(t *testing.T, s *Slot) {
			shell(t, "ip", "addr", "del", s.inner6.String()+"/128", "dev", "uplink")
		}, "lost the address", false},
		{"takes it down", func(t *testing.T, _ *Slot) { shell(t, "ip", "link", "set", "uplink", "down") }, "uplink", true},
		{"gives it another hardware address", func(t *testing.T, _ *Slot) {
			shell(t, "ip", "link", "set", "uplink", "address", "02:00:00:00:00:98")
		}, "another hardware address", true},
		{"calls it by another name", func(t *testing.T, _ *Slot) { shell(t, "ip", "link", "set", "uplink", "name", "uplink2") }, "is called uplink2", true},
		{"takes it out of the network", func(t *testing.T, _ *Slot) {
			shell(t, "ip", "addr", "del", here.String()+"/16", "dev", "uplink")
		}, "no longer in the network 10.77.0.0/16", true},
		{"takes it out of the IPv6 network", func(t *testing.T, _ *Slot) {
			shell(t, "ip", "addr", "del", here6.String()+"/64", "dev", "uplink")
		}, "no longer in the network fd77::/64", true},
	} {
		t.Run("who "+c.says, func(t *testing.T) {
			_, n, s := onSegment(t)
			told := watching(t, n)
			beside, err := n.Slot(context.Background(), All(host(allowed)), 0)
			must(t, err)
			defer beside.Close()
			must(t, errors.Join(reaches(s.netns, allowed), s.Check(), beside.Check()))
			c.change(t, s)
			select {
			case <-s.Lost():
			case <-time.After(5 * stopsWithin):
				t.Fatal("the slot does not say that it is lost")
			}
			if err := s.Check(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), c.what) {
				t.Errorf("it says: %v", err)
			}
			must(t, <-told)
			if lost := beside.Check() != nil; lost != c.all {
				t.Errorf("the slot beside it is lost is %v", lost)
			}
			next, err := n.Slot(context.Background(), All(host(allowed)), 0)
			if err == nil {
				must(t, next.Close())
			}
			// A filter is put back, an address is followed; what else is missing is the operator's.
			follows := strings.Contains(c.what, "filter") || strings.Contains(c.what, "hardware")
			if refused := errors.Is(err, ErrLost); refused != (c.all && !follows) {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

// Who takes the filter off the interface ends the slots of that time, not those to come.
func TestTheFilterIsPutBackOnASegment(t *testing.T) {
	_, n, s := onSegment(t)
	shell(t, "tc", "qdisc", "del", "dev", "uplink", "clsact")
	if err := s.Check(); !errors.Is(err, ErrLost) {
		t.Errorf("it says: %v", err)
	}
	next, err := n.Slot(context.Background(), All(host(allowed)), 0)
	must(t, err)
	defer next.Close()
	must(t, errors.Join(reaches(next.netns, allowed), next.Check()))
}

// Slots stand on the interface as it is now, made anew or under another hardware address.
func TestSlotsFollowTheirSegment(t *testing.T) {
	l, n, s := onSegment(t)
	shell(t, "ip", "link", "set", "uplink", "address", "02:00:00:00:00:98")
	next, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 0)
	must(t, err)
	defer next.Close()
	must(t, errors.Join(reaches(next.netns, allowed), reaches(next.netns, allowed6), next.Check()))

	shell(t, "ip", "link", "del", "uplink")
	for _, lost := range []*Slot{s, next} {
		if err := lost.Check(); !errors.Is(err, ErrLost) {
			t.Errorf("a slot without an interface says: %v", err)
		}
	}
	if _, err := n.Slot(context.Background(), All(host(allowed)), 0); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "uplink is gone") {
		t.Errorf("without an interface: %v", err)
	}
	l.join(t)
	last, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 0)
	must(t, err)
	defer last.Close()
	must(t, errors.Join(reaches(last.netns, allowed), reaches(last.netns, allowed6), last.Check()))

	shell(t, "ip", "addr", "flush", "dev", "uplink", "scope", "global")
	shell(t, "ip", "link", "set", "uplink", "address", "02:00:00:00:00:97")
	var m *Misfit
	if _, err := n.Slot(context.Background(), All(host(allowed)), 0); !errors.As(err, &m) || m.Key != "slots.ipv4" {
		t.Errorf("on an interface without addresses: %v", err)
	}
}

// An address that somebody has given the machine meanwhile is not taken from it with the slot that
// would have had it.
func TestAnAddressOfTheMachinesOwnIsNotTakenBack(t *testing.T) {
	withMode(t, L2)
	newLab(t)
	n := openNet(t)
	l, _, err := n.take(context.Background())
	must(t, err)
	shell(t, "ip", "addr", "add", l.inner4.String()+"/32", "dev", "uplink")
	if err := n.enter(&Slot{link: l, net: n}); err == nil {
		t.Error("the slot has an address of the machine's own")
	}
	must(t, errors.Join(n.depart(l), n.removeLink(l)))
	all, err := addressesNow()
	must(t, err)
	if !slices.ContainsFunc(all, func(a owned) bool { return a.Addr() == l.inner4 && !a.ours }) {
		t.Error("the machine has lost its address")
	}
}

// What others have attached to the interface stays, and is asked about all but slots' packets.
func TestFiltersOfOthersStayOnASegment(t *testing.T) {
	withMode(t, L2)
	newLab(t)
	uplink, err := netlink.LinkByName("uplink")
	must(t, err)
	passing, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	must(t, err)
	defer passing.Close()
	must(t, netlink.QdiscAdd(clsact(uplink.Attrs().Index)))
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		must(t, netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: uplink.Attrs().Index, Parent: parent, Handle: 1, Priority: 1,
			Protocol: unix.ETH_P_ALL}, Fd: passing.FD(), Name: "other", DirectAction: true}))
	}
	show := func() string {
		out, err := exec.Command("sh", "-c", "tc qdisc show dev uplink clsact; tc filter show dev uplink ingress; tc filter show dev uplink egress").Output()
		must(t, err)
		return string(out)
	}
	before := show()
	n, err := Open(config)
	must(t, err)
	if !strings.Contains(show(), wireName) {
		t.Error("ours is not there")
	}
	must(t, n.Close())
	if after := show(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// A segment that slots do not fit on is refused, by the key to set.
func TestWhatDoesNotFitASegmentIsRefused(t *testing.T) {
	withMode(t, L2)
	newLab(t)
	good := config
	for _, c := range []struct {
		says, key, hint string
		change          func(c *Config)
	}{
		{"no interface", "slots.interface", "ip -br link", func(c *Config) { c.Interface = "nothing0" }},
		{"loopback", "slots.interface", "no ARP", func(c *Config) { c.Interface = "lo" }},
		{"another network", "slots.ipv4", "10.77.0.0/16", func(c *Config) { c.V4 = netip.MustParsePrefix("10.254.200.0/22") }},
		{"the network itself", "slots.ipv4", "10.77.0.0/16", func(c *Config) { c.V4 = netip.MustParsePrefix("10.77.0.0/16") }},
		{"its first address", "slots.ipv4", "first or the last", func(c *Config) { c.V4 = netip.MustParsePrefix("10.77.0.0/29") }},
		{"its last address", "slots.ipv4", "first or the last", func(c *Config) { c.V4 = netip.MustParsePrefix("10.77.255.128/25") }},
		{"the machine's own", "slots.ipv4", "10.77.255.1 is this machine's", func(c *Config) { c.V4 = netip.MustParsePrefix("10.77.255.0/27") }},
		{"its router", "slots.ipv4", "10.77.0.10 is a router", func(c *Config) { c.V4 = netip.MustParsePrefix("10.77.0.8/29") }},
		{"another IPv6 network", "slots.ipv6", "fd77::/64", func(c *Config) { c.V6 = netip.MustParsePrefix("fd5e:c0de:5ca1::/112") }},
		{"its IPv6 router", "slots.ipv6", "fd77::10 is a router", func(c *Config) { c.V6 = netip.MustParsePrefix("fd77::/120") }},
		{"one of its routers", "slots.ipv4", "10.77.40.9 is a router", func(c *Config) {
			shell(t, "ip", "route", "add", "192.0.2.0/24", "nexthop", "via", "10.77.0.10", "nexthop", "via", "10.77.40.9")
			c.V4 = netip.MustParsePrefix("10.77.40.0/27")
		}},
	} {
		wrong := good
		c.change(&wrong)
		var m *Misfit
		if err := wrong.Fits(); !errors.As(err, &m) || m.Key != c.key || !strings.Contains(m.Hint, c.hint) || m.Got == "" || m.Allowed == "" {
			t.Errorf("%s: %+v", c.says, err)
		}
		if n, err := Open(wrong); err == nil {
			must(t, n.Close())
			t.Errorf("%s was accepted", c.says)
		}
	}
	table := good
	table.NoBPF = true
	if _, err := Open(table); err == nil || !strings.Contains(err.Error(), "needs BPF") {
		t.Errorf("without BPF: %v", err)
	}
	without := good
	without.V6 = netip.Prefix{}
	n, err := Open(without)
	must(t, err)
	defer func() { must(t, n.Close()) }()
	s, err := n.Slot(context.Background(), All(host(allowed)), 0)
	must(t, err)
	defer s.Close()
	must(t, reaches(s.netns, allowed))
	for _, p := range []netip.Prefix{host(allowed6), host(forbidden), netip.MustParsePrefix("10.0.0.0/8")} {
		if _, err := n.Slot(context.Background(), All(host(allowed), p), 0); !errors.Is(err, ErrOffSegment) || !strings.Contains(err.Error(), p.String()) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// The addresses that all stations get are in no scope, whoever has put them there.
func TestNoBroadcastLeavesASegment(t *testing.T) {
	withMode(t, L2)
	l := newLab(t)
	shell(t, "ip", "addr", "add", "10.77.5.1/24", "dev", "uplink") // the kernel has a broadcast address for it, too
	n := openNet(t)
	s, err := n.Slot(context.Background(), All(netip.MustParsePrefix("10.77.0.0/16")), 0)
	must(t, err)
	defer s.Close()
	must(t, reaches(s.netns, allowed))
	l.strangers(outside(s))
	for _, to := range []string{"10.77.255.255", "10.77.0.0", "10.77.5.255"} {
		must(t, frame(s, unix.ETH_P_IP, packet4(s.inner4, addr(to), 17, nil, 0), true))
	}
	for _, f := range l.strangers(outside(s)) {
		t.Errorf("it has seen %s", f)
	}
	if c, err := s.Counters(); err != nil || c.OffScope != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	must(t, s.Check())
	told := watching(t, n)
	shell(t, "ip", "addr", "add", "10.77.6.1/24", "dev", "uplink")
	select {
	case err := <-told:
		must(t, err)
	case <-time.After(5 * stopsWithin):
		t.Fatal("nobody is told of a new broadcast address")
	}
	if err := s.Check(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "10.77.6.255") {
		t.Errorf("it says: %v", err)
	}
}

// A slot that is given has its IPv6 address on both sides of its link, however busy the kernel is with
// other links.
func TestAnIPv6AddressIsThereWithItsSlot(t *testing.T) {
	withMode(t, L2)
	newLab(t)
	n := openNet(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { // keeps the kernel's lock on links
		var err error
		for err == nil && ctx.Err() == nil {
			l := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "churn1"}
			l.Name = "churn0"
			if err = netlink.LinkAdd(l); err == nil {
				err = netlink.LinkDel(l)
			}
		}
		done <- err
	}()
	for range 20 {
		s, err := n.Slot(ctx, All(host(allowed6)), 0)
		must(t, err)
		for where, ns := range map[string]*os.File{"the slot": s.NetNS(), "the machine": nil} {
			look := func() error {
				routes, err := netlink.RouteGet(s.inner6.AsSlice())
				if err == nil && routes[0].Type != unix.RTN_LOCAL {
					err = errors.New("it goes elsewhere")
				}
				return err
			}
			if ns == nil {
				err = look()
			} else {
				err = inside(ns, look)
			}
			if err != nil {
				t.Errorf("%s drops what comes for %s: %v", where, s.inner6, err)
			}
		}
		must(t, s.Close())
	}
	stop()
	must(t, <-done)
}

// Where the kernel keeps no marks, what a launcher that was killed has lent is told by its flags and its
// range. What is not so stays, and is the machine's.
func TestAddressesWithoutAMarkAreTakenBack(t *testing.T) {
	withMode(t, L2)
	newLab(t)
	uplink, err := netlink.LinkByName("uplink")
	must(t, err)
	give := func(a netip.Addr, bits, flags, preferred int) {
		t.Helper()
		must(t, netlink.AddrAdd(uplink, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: flags,
			ValidLft: math.MaxUint32, PreferedLft: preferred}))
	}
	const flags = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_NODAD
	four, six := config.addresses(7).inner4, config.addresses(7).inner6
	give(four, 32, flags, 0)
	give(six, 128, flags, 0)
	must(t, config.Fits()) // a slot's that runs
	stay := []netip.Addr{addr("10.77.9.1"), addr("10.77.9.2"), plus(four, 1), plus(four, 2), plus(four, 3), plus(six, 1)}
	give(stay[0], 32, flags, 0) // outside of the range
	give(stay[1], 16, flags, 0)
	give(stay[2], 32, flags, math.MaxUint32) // not deprecated
	give(stay[3], 32, unix.IFA_F_NODAD, 0)
	give(stay[4], 16, flags, 0) // with a network around it
	give(stay[5], 128, unix.IFA_F_NOPREFIXROUTE, 0)
	must(t, Reclaim(config.V4, config.V6))
	all, err := addressesNow()
	must(t, err)
	has := func(a netip.Addr) bool {
		return slices.ContainsFunc(all, func(o owned) bool { return o.Addr() == a })
	}
	for _, a := range []netip.Addr{four, six} {
		if has(a) {
			t.Errorf("%s is left", a)
		}
	}
	for _, a := range stay {
		if !has(a) {
			t.Errorf("%s is taken", a)
		}
	}
	var m *Misfit
	if err := config.Fits(); !errors.As(err, &m) || !strings.Contains(m.Hint, "machine's own") {
		t.Errorf("the machine has addresses of the range, and: %v", err)
	}
}
