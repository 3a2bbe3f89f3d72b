package scope

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The tests run in a network namespace of their own, which stands for the scanning machine. A
// second one stands for everything that it can reach.
func TestMain(m *testing.M) {
	switch os.Getenv("SCOPE_TEST") {
	case "":
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), "SCOPE_TEST=inside")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "scope: in a namespace of its own:", err)
			os.Exit(1)
		}
	case "owner":
		ownAndWait()
	case "many":
		manySlots()
	case "filter":
		ownFilterAndWait()
	default:
		os.Exit(m.Run())
	}
}

var config = Config{V4: netip.MustParsePrefix("10.254.200.0/22"), V6: netip.MustParsePrefix("fd5e:c0de:5ca1::/48"), Mode: Routed, Ready: 2}

// withBoth tries what must hold whatever the filter is, and in every mode.
func withBoth(t *testing.T, try func(t *testing.T)) {
	inModes(t, func(t *testing.T) {
		t.Run("bpf", try)
		if config.Mode != L2 { // which has no other filter
			t.Run("nftables", func(t *testing.T) { withTable(t); try(t) })
		}
	})
}

// inModes tries what must hold in every mode.
func inModes(t *testing.T, try func(t *testing.T)) {
	for _, m := range Modes() {
		t.Run(string(m), func(t *testing.T) { withMode(t, m); try(t) })
	}
}

// withMode sets the mode until the test ends.
func withMode(t *testing.T, m Mode) {
	before := config
	setMode(m)
	t.Cleanup(func() { config = before })
}

func setMode(m Mode) {
	if config.Mode = m; m == L2 {
		config.Interface, config.V4, config.V6 = "uplink", netip.MustParsePrefix("10.77.192.0/20"), netip.MustParsePrefix("fd77::5c:0/112")
	}
}

// withTable makes the table the filter until the test ends.
func withTable(t *testing.T) {
	config.NoBPF = true
	t.Cleanup(func() { config.NoBPF = false })
}

var (
	allowed    = netip.MustParseAddr("10.77.0.10")
	forbidden  = netip.MustParseAddr("10.99.0.5")
	allowed6   = netip.MustParseAddr("fd77::10")
	forbidden6 = netip.MustParseAddr("fd99::5")
)

// lab is the far side of the uplink: it has every address of the tests and counts what arrives.
type lab struct {
	ns      *os.File
	uplink  netlink.Link // this machine's side
	witness int          // a packet socket on the lab's side
}

func newLab(t *testing.T) *lab {
	t.Helper()
	ns, err := newNetns(true)
	if err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	l := &lab{ns: ns}
	l.join(t)
	l.in(t, func() {
		l.witness, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_ALL)))
		must(t, err)
		for _, a := range []string{"10.77.0.10:80", "10.99.0.5:80", "[fd77::10]:80", "[fd99::5]:80"} {
			listen(t, a)
		}
	})
	t.Cleanup(func() {
		unix.Close(l.witness)
		ns.Close()
		must(t, netlink.LinkDel(l.uplink))
	})
	return l
}

// join makes the uplink, and gives both ends what the tests expect of them.
func (l *lab) join(t *testing.T) {
	t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(l.ns.Fd())}
	link.Name = "uplink"
	must(t, netlink.LinkAdd(link))
	inside, err := netlink.NewHandleAt(netns.NsHandle(l.ns.Fd()))
	must(t, err)
	defer inside.Close()
	outer, err := netlink.LinkByName("uplink")
	must(t, err)
	l.uplink = outer
	inner, err := inside.LinkByName("eth0")
	must(t, err)
	lo, err := inside.LinkByName("lo")
	must(t, err)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/uplink/accept_dad", []byte("0"), 0))
	for _, a := range []string{"10.77.255.1/16", "fd77::ffff/64"} {
		must(t, netlink.AddrAdd(outer, address(netip.MustParsePrefix(a).Addr(), netip.MustParsePrefix(a).Bits())))
	}
	for _, a := range []string{"10.77.0.10/16", "10.99.0.5/32", "fd77::10/64", "fd99::5/128"} {
		must(t, inside.AddrAdd(inner, address(netip.MustParsePrefix(a).Addr(), netip.MustParsePrefix(a).Bits())))
	}
	must(t, netlink.LinkSetUp(outer))
	must(t, inside.LinkSetUp(inner))
	must(t, inside.LinkSetUp(lo))
	for _, a := range []netip.Addr{allowed6, forbidden6} {
		must(t, awaitOwn(inside, a))
	}
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: outer.Attrs().Index, Gw: allowed.AsSlice()}))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: outer.Attrs().Index, Gw: allowed6.AsSlice()}))
	for _, back := range []struct{ to, by string }{{config.V4.String(), "10.77.255.1"}, {config.V6.String(), "fd77::ffff"}} {
		if config.Mode != Routed { // there is no way back to slots, or they are on the link
			break
		}
		_, dst, _ := net.ParseCIDR(back.to)
		must(t, inside.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Dst: dst, Gw: net.ParseIP(back.by)}))
	}
}

func listen(t *testing.T, addr string) {
	s, err := net.Listen("tcp", addr)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in runs do on a thread in a namespace and gives the thread up.
func in(ns *os.File, do func()) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			do()
		}
		failed <- err
	}()
	return <-failed
}

func (l *lab) in(t *testing.T, do func()) { t.Helper(); must(t, in(l.ns, do)) }

// strangers counts the frames that reached the lab and are none of a scan of the allowed
// addresses by the slot: another destination, or another source.
func (l *lab) strangers(source4, source6 netip.Addr) (found []string) {
	time.Sleep(50 * time.Millisecond) // frames cross two links
	b := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(l.witness, b, 0)
		if err != nil {
			return found
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING || n < 34 {
			continue
		}
		switch kind := binary.BigEndian.Uint16(b[12:]); kind {
		case unix.ETH_P_ARP:
			continue // the scanning machine's own kernel asks for its gateway
		case unix.ETH_P_IP:
			src, dst := netip.AddrFrom4([4]byte(b[26:30])), netip.AddrFrom4([4]byte(b[30:34]))
			whole := b[14] == 0x45 && binary.BigEndian.Uint16(b[20:])&0x3fff == 0 && b[23] != unix.IPPROTO_IPIP
			if src == source4 && dst == allowed && whole {
				continue
			}
			found = append(found, fmt.Sprintf("%s > %s, protocol %d", src, dst, b[23]))
		case unix.ETH_P_IPV6:
			src, dst := netip.AddrFrom16([16]byte(b[22:38])), netip.AddrFrom16([16]byte(b[38:54]))
			if src == source6 && dst == allowed6 && b[20] != 0 && b[20] != 43 && b[20] != 44 || src.IsLinkLocalUnicast() || dst.IsMulticast() || b[20] == 58 && b[54] >= 133 && b[54] <= 137 {
				continue // the scanning machine's own neighbour discovery
			}
			found = append(found, fmt.Sprintf("%s > %s, next header %d", src, dst, b[20]))
		default:
			found = append(found, fmt.Sprintf("ethertype %04x", kind))
		}
	}
}

func openNet(t *testing.T) *Net {
	t.Helper()
	must(t, Reclaim())
	n, err := Open(config)
	must(t, err)
	if kind, without := n.Filter(); kind == "bpf" == config.NoBPF {
		t.Fatalf("the filter is %s: %v", kind, without)
	}
	t.Cleanup(func() { must(t, n.Close()) })
	return n
}

// slotOf makes a slot with a scope and no rate, until the test ends.
func slotOf(t *testing.T, n *Net, to []Target) *Slot {
	t.Helper()
	s, err := n.Slot(t.Context(), to, 0)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() }) // a test may have taken the table away
	return s
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func reaches(ns *os.File, to netip.Addr) error { return dial(ns, to, 3*time.Second) }

// dial gives what should arrive the time of a lost first packet; what should not arrive is given less.
// When it returns nothing of the connection is under way any more: the lab ends it first, and Close
// waits until the end of this side has been acknowledged. What would still come after a test has taken
// the table away is translated no more: it is for this machine itself, whose kernel refuses it.
func dial(ns *os.File, to netip.Addr, timeout time.Duration) error {
	var result error
	err := in(ns, func() {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 80).String(), timeout)
		if err != nil {
			result = err
			return
		}
		result = errors.Join(c.SetReadDeadline(time.Now().Add(timeout)), c.(*net.TCPConn).SetLinger(3))
		_, _ = c.Read(make([]byte, 1)) // the lab says nothing but its end
		result = errors.Join(result, c.Close())
	})
	return errors.Join(err, result)
}

func TestASlotReachesItsScopeAndNothingElse(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		four, err := n.Slot(context.Background(), All(host(allowed)), 0)
		must(t, err)
		six, err := n.Slot(context.Background(), All(host(allowed6)), 0)
		must(t, err)
		for _, c := range []struct {
			says string
			slot *Slot
			to   netip.Addr
			want bool
		}{
			{"an address of the scope", four, allowed, true},
			{"an IPv6 address of the scope", six, allowed6, true},
			{"an address beside it", four, forbidden, false},
			{"an IPv6 address beside it", six, forbidden6, false},
			{"an IPv6 address from a slot without", four, allowed6, false},
			{"another slot's scope", six, allowed, false},
			{"this machine, at the slot's own link", four, four.outer4, false},
			{"this machine, at its uplink", four, netip.MustParseAddr("10.77.255.1"), false},
			{"another slot", four, six.inner4, false},
		} {
			timeout := 700 * time.Millisecond
			if c.want {
				timeout = 3 * time.Second
			}
			err := dial(c.slot.NetNS(), c.to, timeout)
			if got := err == nil; got != c.want {
				t.Errorf("%s: reached is %v, want %v (%v)", c.says, got, c.want, err)
			}
		}
		counters, err := four.Counters()
		must(t, err)
		if counters.Sent == 0 || counters.Dropped == 0 {
			t.Errorf("counters %+v", counters)
		}
		must(t, four.Close())
		must(t, six.Close())
		if b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); strings.TrimSpace(string(b)) != "0" {
			t.Error("the machine's own switch was touched")
		}
	})
}

// Each attack sends from inside a slot, with every privilege over its own network.
var attacks = []struct {
	name string
	send func(s *Slot) error
}{
	{"a raw IP packet", func(s *Slot) error { return rawIP(s, packet4(inner(s), forbidden, 17, nil, 0)) }},
	{"a spoofed source", func(s *Slot) error { return frame(s, unix.ETH_P_IP, packet4(forbidden, allowed, 17, nil, 0), false) }},
	{"a frame", func(s *Slot) error { return frame(s, unix.ETH_P_IP, packet4(inner(s), forbidden, 17, nil, 0), false) }},
	{"a frame past the queue", func(s *Slot) error {
		return frame(s, unix.ETH_P_IP, packet4(inner(s), forbidden, 17, nil, 0), true)
	}},
	{"a frame with a false protocol", func(s *Slot) error {
		return frame(s, unix.ETH_P_IPV6, packet4(inner(s), forbidden, 17, nil, 0), false)
	}},
	{"a fragment", func(s *Slot) error { return frame(s, unix.ETH_P_IP, packet4(inner(s), allowed, 17, nil, 0x2000), true) }},
	{"the rest of a fragment", func(s *Slot) error { return frame(s, unix.ETH_P_IP, packet4(inner(s), allowed, 17, nil, 5), true) }},
	{"a source route", func(s *Slot) error {
		f := forbidden.As4()
		return frame(s, unix.ETH_P_IP, packet4(inner(s), allowed, 17, []byte{131, 7, 4, f[0], f[1], f[2], f[3], 0}, 0), true)
	}},
	{"a tunnel", func(s *Slot) error { return frame(s, unix.ETH_P_IP, packet4(inner(s), allowed, 4, nil, 0), true) }},
	{"a tagged frame", func(s *Slot) error {
		return frame(s, 0x8100, append([]byte{0, 5, 8, 0}, packet4(inner(s), forbidden, 17, nil, 0)...), true)
	}},
	{"a redirect", func(s *Slot) error {
		p := packet4(inner(s), allowed, 1, nil, 0)
		p[20] = 5
		return frame(s, unix.ETH_P_IP, p, true)
	}},
	{"a broadcast", func(s *Slot) error {
		return frame(s, unix.ETH_P_IP, packet4(inner(s), netip.MustParseAddr("10.77.255.255"), 17, nil, 0), true)
	}},
	{"a multicast", func(s *Slot) error {
		return frame(s, unix.ETH_P_IP, packet4(inner(s), netip.MustParseAddr("224.0.0.1"), 17, nil, 0), true)
	}},
	{"an IPv6 frame", func(s *Slot) error { return frame(s, unix.ETH_P_IPV6, packet6(inner6(s), forbidden6, 17), true) }},
	{"an IPv6 header chain", func(s *Slot) error { return frame(s, unix.ETH_P_IPV6, packet6(inner6(s), allowed6, 0), true) }},
	{"an IPv6 fragment", func(s *Slot) error { return frame(s, unix.ETH_P_IPV6, packet6(inner6(s), allowed6, 44), true) }},
	{"an IPv6 routing header", func(s *Slot) error { return frame(s, unix.ETH_P_IPV6, packet6(inner6(s), allowed6, 43), true) }},
	{"a spoofed IPv6 source", func(s *Slot) error { return frame(s, unix.ETH_P_IPV6, packet6(forbidden6, allowed6, 17), true) }},
	{"a packet that dies on this machine", func(s *Slot) error {
		p := packet4(forbidden, allowed, 17, nil, 0)
		p[8] = 1
		return frame(s, unix.ETH_P_IP, checksummed(p), true)
	}},
	{"an echo that this machine would answer elsewhere", func(s *Slot) error {
		p := packet4(forbidden, s.outer4, 1, nil, 0)
		p[20] = 8
		return frame(s, unix.ETH_P_IP, p, true)
	}},
}

func TestNoAttackLeavesTheScope(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		s := slotOf(t, n, All(host(allowed), host(allowed6)))
		must(t, reaches(s.NetNS(), allowed)) // neighbours are known from here on
		l.strangers(outside(s))
		for _, a := range attacks {
			for range 3 {
				if err := a.send(s); err != nil {
					t.Errorf("%s could not be sent: %v", a.name, err)
				}
			}
			for _, f := range l.strangers(outside(s)) {
				t.Errorf("%s reached the lab: %s", a.name, f)
			}
		}
		if c, err := s.Counters(); err != nil || c.Dropped < 30 {
			t.Errorf("counters %+v, %v", c, err)
		}
	})
}

// Without the filter, nothing goes elsewhere than to an address of the scope all the same.
func TestTheFenceHoldsWithoutTheFilter(t *testing.T) {
	withTable(t)
	l := newLab(t)
	n := openNet(t)
	s := slotOf(t, n, All(host(allowed), host(allowed6)))
	must(t, reaches(s.NetNS(), allowed))
	must(t, removeRules(n))
	must(t, reaches(s.NetNS(), allowed))
	must(t, reaches(s.NetNS(), allowed6))
	l.strangers(outside(s))
	for _, a := range attacks {
		must(t, a.send(s))
		for _, f := range l.strangers(outside(s)) {
			if !strings.Contains(f, "> "+allowed.String()+",") && !strings.Contains(f, "> "+allowed6.String()+",") {
				t.Errorf("%s reached the lab: %s", a.name, f)
			}
		}
	}
	for _, to := range []netip.Addr{forbidden, forbidden6, plus(s.inner4, 1)} {
		if dial(s.NetNS(), to, 300*time.Millisecond) == nil {
			t.Errorf("%s was reached", to)
		}
	}
}

// Without the table nothing passes at all: what the filter has passed is marked, and swallowed. In the
// mode L2 no packet of a slot gets to where the table is, and the filter holds alone.
func TestNothingPassesWithoutTheTable(t *testing.T) {
	inModes(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		s := slotOf(t, n, All(host(allowed), host(allowed6)))
		must(t, reaches(s.NetNS(), allowed))
		must(t, removeRules(n))
		var four, six netip.Addr // of the scope or not
		if config.Mode == L2 {
			four, six = outside(s)
		}
		l.strangers(four, six)
		for _, a := range attacks {
			must(t, a.send(s))
			for _, f := range l.strangers(four, six) {
				t.Errorf("%s reached the lab: %s", a.name, f)
			}
		}
		for _, to := range []netip.Addr{allowed, allowed6, forbidden, forbidden6} {
			reached := dial(s.NetNS(), to, 300*time.Millisecond) == nil
			if want := config.Mode == L2 && (to == allowed || to == allowed6); reached != want {
				t.Errorf("%s was reached is %v, want %v", to, reached, want)
			}
		}
	})
}

// Without filter and fence most of the same attacks arrive, so "blocked" above is a result.
func TestWithoutTheFilterAttacksArrive(t *testing.T) {
	withTable(t)
	l := newLab(t)
	n := openNet(t)
	s := slotOf(t, n, All(host(allowed), host(allowed6)))
	must(t, reaches(s.NetNS(), allowed))
	must(t, removeRules(n))
	must(t, removeFences())
	must(t, set("ipv4", s.name(), "rp_filter", "0"))
	l.strangers(outside(s))
	arrived := 0
	for _, a := range attacks {
		must(t, a.send(s))
		if len(l.strangers(outside(s))) > 0 {
			arrived++
		}
	}
	if arrived < 12 {
		t.Errorf("only %d of %d attacks arrive without a filter: the test proves little", arrived, len(attacks))
	}
}

// removeRules takes the whole filter out from under a slot.
func removeRules(n *Net) error {
	n.nft.DelTable(n.t.t)
	return n.nft.Flush()
}

func TestTheFilterOutlivesItsOwner(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		must(t, Reclaim())
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "SCOPE_TEST=owner", fmt.Sprint("SCOPE_NO_BPF=", config.NoBPF), "SCOPE_MODE="+string(config.Mode))
		out, err := cmd.StdoutPipe()
		must(t, err)
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		var number int
		_, err = fmt.Fscanln(out, &number)
		must(t, err)
		ns, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, ownerNamespaceFD))
		must(t, err)
		defer ns.Close()
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		must(t, reaches(ns, allowed))
		s := &Slot{link: &link{number: number, addresses: config.addresses(number), netns: ns}}
		l.strangers(outside(s))
		for _, a := range attacks {
			must(t, a.send(s))
		}
		for _, f := range l.strangers(outside(s)) {
			t.Errorf("after the owner's death: %s", f)
		}
		must(t, Reclaim(config.V4, config.V6))
		if found := connected(t); len(found) > 0 {
			t.Errorf("connections are left: %v", found)
		}
		if get("ipv4", "uplink", "forwarding") != "0" {
			t.Error("forwarding was not switched back")
		}
		links, err := netlink.LinkList()
		must(t, err)
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, prefix) {
				t.Errorf("%s is still there", l.Attrs().Name)
			}
		}
		if out, err := exec.Command("sh", "-c", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all").Output(); err != nil || strings.Contains(string(out), "15905") || strings.Contains(string(out), "0x5ec0") {
			t.Errorf("of the fence: %s, %v", out, err)
		}
	})
}

const ownerNamespaceFD = 200

func ownAndWait() {
	config.NoBPF = os.Getenv("SCOPE_NO_BPF") == "true"
	setMode(Mode(os.Getenv("SCOPE_MODE")))
	n, err := Open(config)
	var s *Slot
	if err == nil {
		s, err = n.Slot(context.Background(), All(host(allowed), host(allowed6)), 0)
		if err == nil {
			err = unix.Dup3(int(s.NetNS().Fd()), ownerNamespaceFD, unix.O_CLOEXEC)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.number)
	time.Sleep(time.Minute) // it is killed before
}

// An interface that forwards for slots does not forward for its neighbours.
func TestOnlySlotsAreForwarded(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		// A second network of this machine, which is no slot.
		other, err := newNetns(false)
		must(t, err)
		defer other.Close()
		link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(other.Fd())}
		link.Name = "office"
		must(t, netlink.LinkAdd(link))
		office, err := netlink.LinkByName("office")
		must(t, err)
		defer func() { must(t, netlink.LinkDel(office)) }()
		must(t, netlink.AddrAdd(office, address(netip.MustParseAddr("10.50.0.1"), 24)))
		must(t, netlink.LinkSetUp(office))
		inside, err := netlink.NewHandleAt(netns.NsHandle(other.Fd()))
		must(t, err)
		defer inside.Close()
		eth0, err := inside.LinkByName("eth0")
		must(t, err)
		must(t, inside.AddrAdd(eth0, address(netip.MustParseAddr("10.50.0.2"), 24)))
		must(t, inside.LinkSetUp(eth0))
		must(t, inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP("10.50.0.1")}))
		_ = l

		allow, want := []netip.Prefix{host(allowed), netip.MustParsePrefix("10.50.0.0/24")}, "1"
		if config.Mode == L2 { // what is on the segment needs no forwarding
			allow, want = allow[:1], "0"
		}
		s, err := n.Slot(context.Background(), All(allow...), 0)
		must(t, err)
		defer s.Close()
		if get("ipv4", "uplink", "forwarding") != want || get("ipv4", "office", "forwarding") != want {
			t.Fatalf("forwarding is not %s", want)
		}
		if err := reaches(other, allowed); err == nil {
			t.Error("a neighbour's packet was forwarded")
		}
	})
}

func TestARangeThatIsInUseIsRefused(t *testing.T) {
	newLab(t)
	for _, c := range []Config{
		{V4: netip.MustParsePrefix("10.77.0.0/22"), V6: config.V6, Mode: Routed},
		{V4: netip.MustParsePrefix("10.0.0.0/8"), V6: config.V6, Mode: Routed},
		{V4: config.V4, V6: netip.MustParsePrefix("fd77::/48"), Mode: Translated},
	} {
		if n, err := Open(c); err == nil {
			n.Close()
			t.Errorf("%v was accepted", c)
		}
	}
}

func TestThousandsOfPrefixes(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		var allow []netip.Prefix
		for i := range 5000 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 7), byte(i << 1), 0}), 24)
			if config.Mode == L2 {
				p = host(netip.AddrFrom4([4]byte{10, 77, byte(i>>7 + 1), byte(i << 1)}))
			}
			allow = append(allow, p)
		}
		allow = append(allow, host(allowed))
		if config.Mode != L2 {
			allow = append(allow, netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("0.0.0.0/32"))
		}
		start := time.Now()
		s, err := n.Slot(context.Background(), All(allow...), 0)
		must(t, err)
		t.Logf("%d prefixes in %v", len(allow), time.Since(start))
		must(t, reaches(s.NetNS(), allowed))
		if reaches(s.NetNS(), forbidden) == nil {
			t.Error("reached what is not in the scope")
		}
		must(t, s.Close())
	})
}

func TestSlotsLeaveNothing(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		before := settled(t, n, "")
		for i := range 30 {
			allow := []netip.Prefix{host(allowed), host(allowed6)}
			s, err := n.Slot(context.Background(), All(allow[:1+i%2]...), 0)
			must(t, err)
			if i%10 == 0 { // it is named, and forgotten with the slot
				must(t, frame(s, unix.ETH_P_IP, packet4(inner(s), forbidden, 17, nil, 0), true))
				if c, err := s.Counters(); err != nil || c.OffScope != 1 {
					t.Errorf("counters %+v, %v", c, err)
				}
			}
			must(t, s.Close())
		}
		settled(t, n, before)
		// A slot that fails half-way leaves nothing either.
		if s, err := n.Slot(context.Background(), All(host(allowed), netip.Prefix{}), 0); err == nil {
			s.Close()
			t.Error("a slot was made of no prefix")
		}
		settled(t, n, before)
	})
}

// When Close returns nothing passes: not later, when the kernel has taken the link away. Somebody who
// still has the namespace keeps it for as long as that takes.
func TestNothingPassesOnceASlotIsClosed(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		s, err := n.Slot(context.Background(), All(host(allowed)), 0)
		must(t, err)
		source, _ := outside(s)
		fd, err := unix.FcntlInt(s.netns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		kept := os.NewFile(uintptr(fd), "namespace")
		defer kept.Close()
		must(t, reaches(kept, allowed))
		l.strangers(netip.Addr{}, netip.Addr{})
		must(t, rawIP(&Slot{link: &link{netns: kept}}, packet4(inner(s), allowed, 17, nil, 0)))
		if l.arrived(source) == 0 {
			t.Fatal("nothing arrives before")
		}
		must(t, s.Close())
		must(t, rawIP(&Slot{link: &link{netns: kept}}, packet4(inner(s), allowed, 17, nil, 0)))
		if got := l.arrived(source); got != 0 {
			t.Errorf("%d packets arrived afterwards", got)
		}
	})
}

// settled waits until what is done in the background is done, and for what is wanted to be left.
func settled(t *testing.T, n *Net, want string) (got string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		last := got
		if got = traces(t, n); got == want || want == "" && got == last && n.stocked() {
			return got
		}
	}
	t.Errorf("before %s, after %s", want, got)
	return got
}

// stocked says that as many links are ready as are to be.
func (n *Net) stocked() bool {
	if n.filter == nil {
		return true // it is not known, and they take no time
	}
	n.filter.mu.Lock()
	defer n.filter.mu.Unlock()
	return len(n.filter.slots) >= n.cfg.Ready
}

// What was still under way to a job when it ended meets no other one.
func TestAddressesRest(t *testing.T) {
	n := &numbers{rest: 100 * time.Millisecond, size: 3, start: 1}
	taken := func() int {
		t.Helper()
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		number, err := n.take(ctx)
		must(t, err)
		return number
	}
	a, b, c := taken(), taken(), taken()
	if a == b || b == c || a == c || max(a, b, c) > 2 || min(a, b, c) < 0 {
		t.Errorf("the numbers %d, %d, %d of 3 places", a, b, c)
	}
	if _, err := n.take(context.Background()); err == nil {
		t.Error("a place was given twice")
	}
	put := time.Now()
	n.put(b)
	n.put(a)
	if got := taken(); got != b {
		t.Errorf("got %d, want %d, which has rested longest", got, b)
	}
	if waited := time.Since(put); waited < n.rest {
		t.Errorf("it was given again after %v", waited)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	n.put(c)
	taken()
	if _, err := n.take(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; nobody waits longer than he wants to", err)
	}
	n.rest = time.Hour
	n.put(a)
	n.putUnused(b)
	if got := taken(); got != b {
		t.Errorf("got %d, want %d, which nobody has used", got, b)
	}
}

func TestTwoSlotsNeverHaveTheSameAddress(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		seen := map[netip.Addr]bool{}
		for range 20 {
			s, err := n.Slot(context.Background(), All(host(allowed)), 0)
			must(t, err)
			if seen[s.inner4] || seen[s.inner6] || !config.V4.Contains(s.inner4) || !config.V6.Contains(s.inner6) || s.inner4 == s.outer4 || s.inner6 == s.outer6 {
				t.Errorf("%s, %s", s.inner4, s.inner6)
			}
			seen[s.inner4], seen[s.inner6] = true, true
			must(t, s.Close())
		}
	})
}

// A scanner's namespace is its own alone: what the one before it left open is not there.
func TestAConnectionThatIsLeftOpenEndsWithItsSlot(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		s, err := n.Slot(context.Background(), All(host(allowed)), 0)
		must(t, err)
		source, _ := outside(s)
		must(t, reaches(s.NetNS(), allowed)) // it is in TIME_WAIT or closing now
		must(t, s.Close())
		l.strangers(netip.Addr{}, netip.Addr{})
		next := slotOf(t, n, All(host(allowed)))
		var sockets []byte
		must(t, in(next.NetNS(), func() { sockets, err = os.ReadFile("/proc/thread-self/net/tcp") }))
		must(t, err)
		if lines := strings.Count(string(sockets), "\n"); lines != 1 {
			t.Errorf("the next slot has sockets:\n%s", sockets)
		}
		time.Sleep(300 * time.Millisecond)
		for _, f := range l.strangers(netip.Addr{}, netip.Addr{}) {
			if strings.HasPrefix(f, source.String()) {
				t.Errorf("after its end: %s", f)
			}
		}
	})
}

// The kernels at both ends say nothing by themselves: whatever is counted is the scanner's.
func TestALinkIsQuiet(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		for _, allow := range [][]netip.Prefix{{host(allowed), host(allowed6)}, {host(allowed)}} {
			s, err := n.Slot(context.Background(), All(allow...), 0)
			must(t, err)
			defer func() {
				if c, err := s.Counters(); err != nil || c.Sent+c.Received+c.Dropped+c.Refused != 0 {
					t.Errorf("to %v: %+v, %v", allow, c, err)
				}
				must(t, s.Close())
			}()
		}
		time.Sleep(3 * time.Second)
	})
}

// Many a machine has IPv6 switched off, and so have the containers of most engines. What is to be scanned by IPv4 is.
func TestIPv6ThatIsSwitchedOffIsNoHindrance(t *testing.T) {
	newLab(t)
	must(t, set("ipv6", "all", "disable_ipv6", "1"))
	t.Cleanup(func() { must(t, set("ipv6", "all", "disable_ipv6", "0")) })
	n := openNet(t)
	must(t, n.Prove(t.Context()))
	s := slotOf(t, n, All(host(allowed), host(allowed6)))
	if err := reaches(s.netns, allowed); err != nil {
		t.Error(err)
	}
	if err := reaches(s.netns, allowed6); err == nil {
		t.Error("IPv6 leads somewhere where it is switched off")
	}
}

func traces(t *testing.T, n *Net) string {
	t.Helper()
	links, err := consistent(netlink.LinkList)
	must(t, err)
	chains, err := n.nft.ListChains()
	must(t, err)
	sets, err := n.nft.GetSets(n.t.t)
	must(t, err)
	rules, err := n.nft.GetRules(n.t.t, n.t.pre)
	must(t, err)
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	routing, err := consistent(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_ALL) })
	must(t, err)
	routes, err := consistent(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	must(t, err)
	// The kernel adds its own routes to the lab's links when it pleases; all others count.
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		return r.Protocol == unix.RTPROT_KERNEL && r.Table < fenceTable && err == nil && !strings.HasPrefix(l.Attrs().Name, prefix)
	})
	all, err := addressesNow()
	must(t, err)
	lent := len(slices.DeleteFunc(all, func(a owned) bool { return !a.ours }))
	maps := "no maps"
	if f := n.filter; f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		// Links that are ready are attached and have no job.
		maps = fmt.Sprintf("%d attached, %d in the map, %d places, %d sets of ports, %d counters, %d violations, %d owners", len(f.slots), entries[uint32, record](t, f.maps.Slots),
			entries[place, targetRecord](t, f.maps.Scope), entries[portSet, portBits](t, f.maps.Ports), entries[uint32, []countersRecord](t, f.maps.Counters), entries[violationKey, uint64](t, f.maps.Violations), entries[[16]byte, uint32](t, f.maps.Owners))
	}
	return fmt.Sprintf("%d lent, %d links, %d chains, %d sets, %d rules, %d rules of routing, %d routes, %d descriptors, %s",
		lent, len(links), len(chains), len(sets), len(rules), len(routing), len(routes), len(fds), maps)
}

// entries counts what is in a map.
func entries[K, V any](t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	var k K
	var v V
	all := m.Iterate()
	for all.Next(&k, &v) {
		n++
	}
	must(t, all.Err())
	return n
}

func TestTheMachineKnowsItsOwnAddresses(t *testing.T) {
	newLab(t)
	own, broadcast, inside, err := Machine()
	must(t, err)
	text := fmt.Sprint(own, broadcast, inside)
	for _, want := range []string{"10.77.255.1/32", "10.77.255.255/32", "10.77.0.0/32", "fd77::ffff/128"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if len(inside) != 0 {
		t.Errorf("bridges %v", inside)
	}
}

// What a job waits for, with links that are ready; the kernel's work behind it goes on meanwhile.
// arrived counts what reaches the lab from a slot.
func (l *lab) arrived(from netip.Addr) (n int) {
	time.Sleep(50 * time.Millisecond)
	b := make([]byte, 4096)
	for {
		size, ll, err := unix.Recvfrom(l.witness, b, 0)
		if err != nil {
			return n
		}
		if a, ok := ll.(*unix.SockaddrLinklayer); ok && a.Pkttype != unix.PACKET_OUTGOING && size >= 34 && netip.AddrFrom4([4]byte(b[26:30])) == from {
			n++
		}
	}
}

// flood sends datagrams to an address as fast as it can, for a while, and says how many the kernel
// took. Past the queue, what there is no room for is lost.
func flood(s *Slot, to netip.Addr, size int, pastQueue bool, howLong time.Duration) (sent int, err error) {
	f, _ := datagram(s.hardware(), netip.AddrPortFrom(s.inner4, 9), netip.AddrPortFrom(to, 9))
	size = max(size, 42)
	f = append(f, make([]byte, size)...)[:size]
	binary.BigEndian.PutUint16(f[16:], uint16(size-14)) // the header says the length
	binary.BigEndian.PutUint16(f[38:], uint16(size-34))
	copy(f[14:], checksummed(f[14:34:34]))
	failed := inside(s.netns, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if pastQueue {
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, 20, 1); err != nil {
				return err
			}
		}
		link, err := linkInside()
		if err != nil {
			return err
		}
		for end := time.Now().Add(howLong); time.Now().Before(end); {
			err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link, Protocol: toNetwork(unix.ETH_P_IP)})
			if err == nil {
				sent++
			} else if !pastQueue {
				return err
			}
		}
		return nil
	})
	return sent, failed
}

// Senders wait for a rate, and lose nothing; those that do not wait lose what is too much.
func TestARateIsKept(t *testing.T) {
	const howLong = 2 * time.Second
	for _, c := range []struct {
		says      string
		rate      int
		size      int
		pastQueue bool
	}{
		{"short packets", 200, 42, false},
		{"long packets", 200, 1400, false},
		{"a high rate", 20000, 42, false},
		{"past the queue", 200, 42, true},
		{"past the queue at a high rate", 20000, 42, true},
	} {
		t.Run(c.says, func(t *testing.T) {
			l := newLab(t)
			must(t, unix.SetsockoptInt(l.witness, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
			n := openNet(t)
			s, err := n.Slot(context.Background(), All(host(allowed)), c.rate)
			must(t, err)
			defer s.Close()
			l.arrived(s.inner4)
			began := time.Now()
			sent, err := flood(s, allowed, c.size, c.pastQueue, howLong)
			must(t, err)
			if !c.pastQueue {
				time.Sleep(300*time.Millisecond + time.Second*400/time.Duration(c.rate)) // what still waits in the queue: a socket's buffer at most
			}
			got, took := l.arrived(s.inner4), time.Since(began)
			counters, err := s.Counters()
			must(t, err)
			t.Logf("%d sent, %d arrived in %v; %+v", sent, got, took, counters)
			most := int(float64(c.rate)*took.Seconds()*1.1) + int(policed(c.rate).burst) + 1
			if got > most {
				t.Errorf("%d packets arrived, more than %d", got, most)
			}
			if c.pastQueue {
				if counters.OverRate == 0 || uint64(got)+counters.OverRate != uint64(sent) {
					t.Errorf("of %d packets %d arrived, %d are said to be dropped", sent, got, counters.OverRate)
				}
				return
			}
			if counters.OverRate != 0 || got != sent {
				t.Errorf("of %d packets %d arrived; %d were dropped", sent, got, counters.OverRate)
			}
			if least := int(float64(c.rate) * howLong.Seconds() * 0.9); got < least {
				t.Errorf("%d packets arrived, less than %d: the queue is too slow", got, least)
			}
		})
	}
}

// Slots that share a budget send no more together, whatever goes on in them; where their rates are
// no more than it together, nothing of theirs is lost. A slot that has no part of it does not
// notice.
func TestABudgetIsKeptByAllSlotsTogether(t *testing.T) {
	const howLong, most = 2 * time.Second, 400
	of := func(name string) Budget { return Budget{Name: name, Rate: most, Slots: 3} }
	for _, c := range []struct {
		says      string
		rates     [3]int
		together  [3][]Budget
		pastQueue bool
		lost      [3]bool
	}{
		{"parts of it, kept by the queues", [3]int{200, 150, 50}, [3][]Budget{{of("a")}, {of("a")}, {of("a")}}, false, [3]bool{}},
		{"parts of two", [3]int{200, 200, 400}, [3][]Budget{{of("a"), of("all")}, {of("a"), {Name: "all"}}, {{Name: "b"}, {}}}, false, [3]bool{}},
		{"each the whole of it, past the queues", [3]int{400, 400, 100}, [3][]Budget{{of("a")}, {of("a")}, {of("b")}}, true, [3]bool{true, true, true}},
		{"each without a rate, past the queues", [3]int{}, [3][]Budget{{of("a"), {}}, {{}, of("a")}, {}}, true, [3]bool{true, true, false}},
	} {
		t.Run(c.says, func(t *testing.T) {
			l := newLab(t)
			must(t, unix.SetsockoptInt(l.witness, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20))
			n := openNet(t)
			var slots [3]*Slot
			var sent [3]int
			var errs [3]error
			for i := range slots {
				s, err := n.Slot(t.Context(), All(host(allowed)), c.rates[i], c.together[i]...)
				must(t, err)
				defer s.Close()
				slots[i] = s
			}
			l.arrived(slots[0].inner4)
			began := time.Now()
			var all sync.WaitGroup
			for i, s := range slots {
				all.Go(func() { sent[i], errs[i] = flood(s, allowed, 42, c.pastQueue, howLong) })
			}
			all.Wait()
			took := time.Since(began)
			if !c.pastQueue {
				time.Sleep(300*time.Millisecond + 2*time.Second) // what still waits in the queues
				took = time.Since(began)
			}
			together, lost := uint64(0), [3]bool{}
			for i, s := range slots {
				must(t, errs[i])
				counters, err := s.Counters()
				must(t, err)
				t.Logf("slot %d: %d sent, %+v", i, sent[i], counters)
				if i < 2 {
					together += counters.Sent
				}
				lost[i] = counters.OverRate > 0
			}
			if limit := of("").policed(); together > uint64(float64(most)*took.Seconds()*1.1)+limit.burst+1 {
				t.Errorf("%d packets passed of the first two", together)
			}
			if lost != c.lost {
				t.Errorf("lost something: %v, want %v", lost, c.lost)
			}
			if least := uint64(float64(most) * howLong.Seconds() * 0.85); together < least {
				t.Errorf("%d packets passed of the first two, less than %d", together, least)
			}
		})
	}
}

func BenchmarkSlot(b *testing.B) {
	for _, m := range Modes() {
		b.Run(string(m), func(b *testing.B) { benchmarkSlot(b, m) })
	}
}

func benchmarkSlot(b *testing.B, m Mode) {
	c := config
	c.Mode = m
	if err := Reclaim(); err != nil {
		b.Fatal(err)
	}
	n, err := Open(c)
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	for _, prefixes := range []int{1, 1000, 10000} {
		var allow []netip.Prefix
		for i := range prefixes {
			allow = append(allow, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 7), byte(i << 1), 0}), 24))
		}
		b.Run(fmt.Sprintf("%d prefixes", prefixes), func(b *testing.B) {
			var given, closed time.Duration
			for range b.N {
				for len(n.ready) == 0 {
					time.Sleep(time.Millisecond)
				}
				start := time.Now()
				s, err := n.Slot(context.Background(), All(allow...), 1000)
				if err != nil {
					b.Fatal(err)
				}
				given += time.Since(start)
				start = time.Now()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				closed += time.Since(start)
			}
			b.ReportMetric(given.Seconds()*1000/float64(b.N), "ms/slot")
			b.ReportMetric(closed.Seconds()*1000/float64(b.N), "ms/close")
		})
	}
}

func inner(s *Slot) netip.Addr  { return s.inner4 }
func inner6(s *Slot) netip.Addr { return s.inner6 }

// outside is where the lab sees a slot's packets come from.
func outside(s *Slot) (four, six netip.Addr) {
	if config.Mode == Translated {
		return netip.MustParseAddr("10.77.255.1"), netip.MustParseAddr("fd77::ffff")
	}
	return s.inner4, s.inner6
}

func address(a netip.Addr, bits int) *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD
	}
	return out
}

// packet4 is an IPv4 packet with eight bytes of payload.
func packet4(src, dst netip.Addr, protocol byte, options []byte, fragment uint16) []byte {
	header := 20 + len(options)
	p := make([]byte, header+8)
	p[0] = 0x40 | byte(header/4)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[6:], fragment)
	p[8], p[9] = 64, protocol
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	copy(p[20:], options)
	binary.BigEndian.PutUint16(p[header+2:], 9) // a port
	binary.BigEndian.PutUint16(p[header+4:], 8) // a length
	return checksummed(p)
}

func checksummed(p []byte) []byte {
	p[10], p[11] = 0, 0
	var sum uint32
	for i := 0; i < int(p[0]&15)*4; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return p
}

func packet6(src, dst netip.Addr, next byte) []byte {
	p := make([]byte, 40+16)
	p[0], p[6], p[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(p[4:], 16)
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	p[40] = 17 // after an extension header: UDP
	binary.BigEndian.PutUint16(p[42:], 9)
	binary.BigEndian.PutUint16(p[44:], 16)
	return p
}

func rawIP(s *Slot, p []byte) error {
	var result error
	err := in(s.netns, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			result = err
			return
		}
		defer unix.Close(fd)
		result = unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: [4]byte(p[16:20])})
	})
	return errors.Join(err, result)
}

// frame sends an Ethernet frame to this machine's side of the link.
func frame(s *Slot, protocol uint16, payload []byte, bypass bool) error {
	outer, err := netlink.LinkByName(s.name())
	if err != nil {
		return err
	}
	var result error
	err = in(s.netns, func() {
		result = func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if bypass {
				const packetQdiscBypass = 20
				if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, packetQdiscBypass, 1); err != nil {
					return err
				}
			}
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			kind := protocol
			if payload[0]>>4 == 4 && protocol == unix.ETH_P_IPV6 {
				kind = unix.ETH_P_IP // the lie is in the socket's address alone
			}
			f := append(append(append([]byte{}, outer.Attrs().HardwareAddr...), eth0.HardwareAddr...), byte(kind>>8), byte(kind))
			return unix.Sendto(fd, append(f, payload...), 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index, Protocol: swap(protocol)})
		}()
	})
	return errors.Join(err, result)
}
