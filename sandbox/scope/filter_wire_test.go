package scope

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// flood sends frames of a link for a while, as fast as it can, and says how many passed, and the
// least and the most that a limit lets through meanwhile: a burst until it is spent for the first
// time, and from then on as many as time gives. At empty it was spent for the last time.
func (w *wire) flood(ifindex int, d time.Duration, l limit, frame []byte) (passed, least, most uint64, empty time.Time) {
	w.Helper()
	begin := time.Now()
	var first time.Time
	for time.Since(begin) < d {
		now := time.Now()
		verdict, _, err := run(w.programs.Out, ifindex, frame)
		must(w.T, err)
		if verdict == passes {
			passed++
			continue
		}
		if empty = now; first.IsZero() {
			first = time.Now()
		}
	}
	if empty.IsZero() {
		w.Fatal("the limit was not reached")
	}
	return passed, l.burst + l.in(empty.Sub(first)) - 1, l.burst + l.in(time.Since(begin)) + 1, empty
}

// in is how many packets come after a burst.
func (l limit) in(d time.Duration) uint64 { return uint64(d.Seconds() * float64(l.perSecond)) }

// A burst of half a second's packets: a test that is kept from running for less loses none.
func TestBudgets(t *testing.T) {
	w := onWire(t)
	other := newWire(t, w.filter, "secvother").Attrs().Index
	l := limit{perSecond: 2000, burst: 1000}
	frame := frame4(ip4(own4, allowed, 17, udp(9)))
	const d = 400 * time.Millisecond
	must(t, w.give(other, granted()))
	within := func(says string, passed, least, most uint64) {
		t.Helper()
		if passed < least || passed > most {
			t.Errorf("%s: %d packets passed, not %d to %d", says, passed, least, most)
		}
	}

	g := granted()
	g.rate = l
	must(t, w.give(w.ifindex, g))
	if d := w.frames(w.ifindex, 3, frame4(ip4(own4, forbidden, 17, udp(9)))); d != 0 {
		t.Errorf("%d of 3 packets off scope passed", d)
	}
	passed, least, most, _ := w.flood(w.ifindex, d, l, frame)
	within("a slot's own budget", passed, least, most)
	c, v, err := w.counters(w.ifindex)
	if err != nil || c.sent != passed || c.budget == 0 || c.offScope != 3 || len(v) != 1 {
		t.Errorf("%d passed and %+v, %v, %v", passed, c, v, err)
	}
	if n := w.frames(other, 4000, frame); n != 4000 {
		t.Errorf("of another slot without a budget, %d passed", n)
	}
	must(t, w.give(w.ifindex, g))
	if n := w.frames(w.ifindex, 500, frame); n != 500 {
		t.Errorf("of the next job, %d packets passed of 500 at once", n)
	}

	for i, says := range []string{"an engagement's budget", "the machine's budget"} {
		g = granted()
		g.shared[i] = budget{key: uint64(7 + i), limit: l}
		must(t, w.give(w.ifindex, g))
		must(t, w.give(other, g))
		passed, least, most, empty := w.flood(w.ifindex, d, l, frame)
		within(says, passed, least, most)
		n := w.frames(other, 3000, frame) // both draw on one
		if most := l.in(time.Since(empty)) + 2; n > most {
			t.Errorf("%s was spent, and %d packets of another slot passed, not %d", says, n, most)
		}
		must(t, w.take(w.ifindex))
		must(t, w.take(other))
		must(t, w.give(other, g)) // no new one for the next job
		n += w.frames(other, 3000, frame)
		if most := l.in(time.Since(empty)) + 2; n > most {
			t.Errorf("%s was spent, and %d packets of the next job passed, not %d", says, n, most)
		}
		g.shared[i].key += 2
		must(t, w.give(other, g))
		if n := w.frames(other, 500, frame); n != 500 {
			t.Errorf("another one beside %s: %d packets of 500 passed", says, n)
		}
		must(t, w.take(other))
	}

	// A spent budget of a job costs nobody else: what it refuses is not taken from the machine's.
	g = granted()
	g.rate, g.shared[1] = limit{perSecond: 1, burst: 1}, budget{key: 99, limit: limit{perSecond: 1, burst: 1000}}
	must(t, w.give(w.ifindex, g))
	if n := w.frames(w.ifindex, 2000, frame); n < 1 || n > 2 {
		t.Errorf("of a packet a second, %d passed", n)
	}
	g.rate = limit{}
	must(t, w.give(other, g))
	if n := w.frames(other, 2000, frame); n < 998 || n > 1010 {
		t.Errorf("%d packets passed of the machine's 1000, of which another job has taken one or two", n)
	}

	// A packet that will be segmented is as many as it will be.
	big := frame4(ip4(own4, allowed, 6, append(tcp(80), make([]byte, 2500)...)))
	g = granted()
	g.rate = limit{perSecond: 1, burst: 5}
	must(t, w.give(w.ifindex, g))
	for i, want := range []uint32{passes, drops} {
		if verdict, _, err := runAs(w.programs.Out, skb{Ifindex: uint32(w.ifindex), GsoSize: 1000}, big); err != nil || verdict != want {
			t.Errorf("large packet %d of three: verdict %d, %v", i, verdict, err)
		}
	}
	if c, _, err := w.counters(w.ifindex); err != nil || c.sent != 3 || c.budget != 3 {
		t.Errorf("of two large packets: %+v, %v", c, err)
	}
}

// A shared budget goes with those who share it, but not before it is whole again.
func TestSpentBudgetsAreKept(t *testing.T) {
	w := onWire(t)
	g := granted()
	g.shared[0] = budget{key: 5, limit: limit{perSecond: 2, burst: 3}}
	must(t, w.give(w.ifindex, g))
	if n := w.frames(w.ifindex, 2, frame4(ip4(own4, allowed, 17, udp(9)))); n != 2 {
		t.Fatalf("%d of 2 packets passed", n)
	}
	whole := time.Now().Add(time.Second)
	for range 2 {
		must(t, w.take(w.ifindex))
		if got, want := w.entries(), "0 of the scope, 0 of ports, 1 of budgets, 1 of counters, 0 of violations"; got != want && time.Now().Before(whole) {
			t.Errorf("spent, the maps hold %s, not %s", got, want)
		}
		must(t, w.give(w.ifindex, granted()))
	}
	time.Sleep(time.Until(whole))
	must(t, w.take(w.ifindex))
	if got, want := w.entries(), "0 of the scope, 0 of ports, 0 of budgets, 1 of counters, 0 of violations"; got != want {
		t.Errorf("whole again, the maps hold %s, not %s", got, want)
	}
	if len(w.unused) != 0 {
		t.Errorf("%v are waited for", w.unused)
	}
}

// frames sends some and says how many passed.
func (w *wire) frames(ifindex, n int, frame []byte) (passed uint64) {
	w.Helper()
	for range n {
		verdict, _, err := run(w.programs.Out, ifindex, frame)
		must(w.T, err)
		if verdict == passes {
			passed++
		}
	}
	return passed
}

// Two jobs take turns on a link while packets of both, and of mixtures of both, are under way.
func TestNoPacketIsJudgedByTwoJobs(t *testing.T) {
	w := onWire(t)
	second := addr("10.254.200.6")
	one, two := granted(), granted()
	one.mark, one.allow, one.deny = 1, []targets{{prefixes: []netip.Prefix{host(allowed)}, ports: &portRule{tcp: []portRange{{80, 80}}}}}, nil
	two.mark, two.allow, two.deny = 2, []targets{{prefixes: []netip.Prefix{host(denied)}, ports: &portRule{tcp: []portRange{{81, 81}}}}}, prefixes(host(allowed).String())
	two.inner4 = second
	var mu sync.Mutex
	sent := map[string]int{}
	done := make(chan struct{})
	var traffic sync.WaitGroup
	must(t, w.give(w.ifindex, one))
	for range 2 {
		traffic.Go(func() {
			for {
				for _, from := range []netip.Addr{own4, second} {
					for _, to := range []netip.Addr{allowed, denied} {
						for _, port := range []uint16{80, 81} {
							verdict, after, err := run(w.programs.Out, w.ifindex, frame4(ip4(from, to, 6, tcp(port))))
							mu.Lock()
							if err != nil {
								sent[err.Error()]++
							} else if verdict == passes {
								sent[fmt.Sprintf("%s > %s:%d, mark %d", from, to, port, after.Mark)]++
							}
							mu.Unlock()
						}
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 100 {
		must(t, w.give(w.ifindex, []grant{two, one}[i%2]))
	}
	close(done)
	traffic.Wait()
	if want := []string{"10.254.200.2 > 10.77.0.10:80, mark 1", "10.254.200.6 > 10.88.7.7:81, mark 2"}; len(sent) != 2 || sent[want[0]] == 0 || sent[want[1]] == 0 {
		t.Errorf("sent %v, not some of each of %q", sent, want)
	}
	if c, err := w.count(0); err != nil || c != (counts{}) {
		t.Errorf("between jobs: %+v, %v", c, err)
	}
	must(t, w.take(w.ifindex))
	if after, want := w.entries(), "0 of the scope, 0 of ports, 0 of budgets, 1 of counters, 0 of violations"; after != want {
		t.Errorf("the maps hold %s, not %s", after, want)
	}
}

// Counters are exact, whatever sends at once.
func TestCountersAreExact(t *testing.T) {
	w := onWire(t)
	g := granted()
	g.rate = limit{1e6, 1000}
	must(t, w.give(w.ifindex, g))
	const each, senders = 5000, 4
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			w.frames(w.ifindex, each, frame4(ip4(own4, allowed, 6, tcp(80))))
			w.frames(w.ifindex, each, frame4(ip4(own4, forbidden, 6, tcp(80))))
		})
	}
	sending.Wait()
	c, v, err := w.counters(w.ifindex)
	if err != nil || c.sent+c.budget != each*senders || c.offScope != each*senders || len(v) != 1 || v[0].packets != each*senders || c.sentBytes != c.sent*54 {
		t.Errorf("%+v, %v, %v", c, v, err)
	}
}

// dead is an end of a link that a process has attached which was killed then.
type dead struct {
	peer   int
	mac    net.HardwareAddr
	socket int
}

// arrives sends a datagram from the box's end to an address of this machine.
func (d dead) arrives(t *testing.T, from, to netip.Addr) bool {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	must(t, err)
	defer c.Close()
	for range 3 {
		f := ethernet(d.mac, box, unix.ETH_P_IP, ip4(from, to, 17, udp(9)))
		must(t, unix.Sendto(d.socket, f, 0, &unix.SockaddrLinklayer{Ifindex: d.peer}))
	}
	must(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	_, _, err = c.ReadFrom(make([]byte, 64))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil
}

const deadLinks = "secvdead secvidle"

func TestTheBPFFilterOutlivesItsOwner(t *testing.T) {
	f, err := loadFilter()
	must(t, err)
	defer func() { must(t, f.close()) }()
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(socket)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	away := addr("10.254.203.1")
	liar := addr("10.254.202.9") // no address of a link's: the kernel takes those for false where there ever was a rule of routing
	must(t, netlink.AddrAdd(lo, address(away, 32)))
	defer func() { must(t, netlink.AddrDel(lo, address(away, 32))) }()
	granted, idle := dead{socket: socket}, dead{socket: socket}
	gates := map[string]netip.Addr{"secvdead": gate4, "secvidle": addr("10.254.200.5")}
	for i, name := range strings.Fields(deadLinks) {
		d := []*dead{&granted, &idle}[i]
		link := newWire(t, f, name)
		must(t, netlink.AddrAdd(link, address(gates[name], 30)))
		peer, err := net.InterfaceByName(name + "x")
		must(t, err)
		d.peer, d.mac = peer.Index, link.Attrs().HardwareAddr
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SCOPE_TEST=filter")
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	must(t, err)
	judge := func(when string) {
		t.Helper()
		if !granted.arrives(t, own4, gate4) {
			t.Errorf("%s: a packet to the scope did not pass", when)
		}
		if granted.arrives(t, own4, away) {
			t.Errorf("%s: a packet off scope passed", when)
		}
		if granted.arrives(t, liar, gate4) {
			t.Errorf("%s: a spoofed packet passed", when)
		}
		if idle.arrives(t, addr("10.254.200.6"), gates["secvidle"]) {
			t.Errorf("%s: a packet passed that nobody granted", when)
		}
	}
	judge("the owner lives")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	judge("the owner is dead")
	// Without the filter they all arrive, so that what was blocked above was blocked by it.
	for _, name := range strings.Fields(deadLinks) {
		link, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
	}
	for says, arrives := range map[string]func() bool{
		"off scope":   func() bool { return granted.arrives(t, own4, away) },
		"spoofed":     func() bool { return granted.arrives(t, liar, gate4) },
		"not granted": func() bool { return idle.arrives(t, addr("10.254.200.6"), gates["secvidle"]) },
	} {
		found := false
		for range 20 { // a busy machine delivers late
			if found = arrives(); found {
				break
			}
		}
		if !found {
			t.Errorf("what the filter drops as %s does not arrive without it: the test proves nothing", says)
		}
	}
}

// ownFilterAndWait attaches both links and grants the first one its gateway.
func ownFilterAndWait() {
	err := func() error {
		f, err := loadFilter()
		if err != nil {
			return err
		}
		for i, name := range strings.Fields(deadLinks) {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := f.attach(link); err != nil {
				return err
			}
			g := granted()
			g.outerMAC, g.allow = link.Attrs().HardwareAddr, []targets{{prefixes: []netip.Prefix{host(gate4)}}}
			if i == 0 {
				if err := f.give(link.Attrs().Index, g); err != nil {
					return err
				}
			}
		}
		return nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print("r")
	time.Sleep(time.Minute) // it is killed before
}

// The same attacks as on the filter of nf_tables, by every way that a box has to send.
func TestNoAttackPassesTheBPFFilter(t *testing.T) {
	f, err := loadFilter()
	must(t, err)
	defer func() { must(t, f.close()) }()
	ns, err := newNetns(true)
	must(t, err)
	defer ns.Close()
	s := &Slot{link: &link{number: 0, addresses: config.addresses(0), netns: ns}}
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
	v.Name = s.name()
	must(t, netlink.LinkAdd(v))
	s.outer, err = netlink.LinkByName(v.Name)
	must(t, err)
	defer func() { must(t, netlink.LinkDel(s.outer)) }()
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	must(t, err)
	s.link.inner = eth0.Attrs().HardwareAddr
	must(t, set("ipv6", s.name(), "disable_ipv6", "1"))
	must(t, f.attach(s.outer))
	ifindex := s.outer.Attrs().Index
	must(t, f.give(ifindex, s.grant(All(host(allowed), host(allowed6)), 0)))
	must(t, errors.Join(inside.AddrAdd(eth0, address(inner(s), 30)), netlink.LinkSetUp(s.outer), inside.LinkSetUp(eth0)))
	must(t, inside.NeighSet(neighbour(eth0, s.outer4, s.outer.Attrs().HardwareAddr)))
	must(t, inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: s.outer4.AsSlice()}))
	dropped := func() uint64 {
		c, _, err := f.counters(ifindex)
		must(t, err)
		if c.sent != 0 {
			t.Fatalf("sent: %+v", c)
		}
		return c.offScope + c.spoofed + c.form + c.ethertype + c.protocol
	}
	for _, a := range attacks {
		before := dropped()
		for range 3 {
			must(t, a.send(s))
		}
		for end := time.Now().Add(5 * time.Second); dropped() < before+3 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if n := dropped() - before; n != 3 {
			t.Errorf("%s: %d of 3 were dropped", a.name, n)
		}
	}
	// What a scan sends passes, by the same way.
	must(t, frame(s, unix.ETH_P_IP, packet4(inner(s), allowed, 17, nil, 0), true))
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if c, _, err := f.counters(ifindex); err == nil && c.sent == 1 {
			return
		}
	}
	t.Error("a packet to the scope was not sent")
}

// FuzzWhatLeavesABox lets an independent reader judge whatever passes.
func FuzzWhatLeavesABox(f *testing.F) {
	for _, frame := range [][]byte{
		frame4(ip4(own4, allowed, 6, tcp(80))), frame4(ip4(own4, web, 17, udp(0))), frame4(ip4(own4, allowed, 1, icmpOf(8))),
		frame6(ip6(own6, allowed6, 6, tcp(80))), frame6(ip6(own6, web6, 6, tcp(80))), frame6(ip6(own6, allowed6, 58, icmpOf(128))),
		frame4(ip4(own4, addr("10.88.1.1"), 132, sctp(9))), ethernet(everyone, box, unix.ETH_P_ARP, arpOf(1, box, own4, gate4)),
		frame6(ip6(own6, addr("fd88::1"), 43, make([]byte, 40))), frame4(ip4(own4, allowed, 17, udp(9), fragment(0x2000))),
	} {
		f.Add(frame)
	}
	filter, err := loadFilter()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { filter.close() })
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		f.Fatal(err)
	}
	link := lo.Attrs().Index
	// Not attached to it: the program is run for tests alone.
	filter.slots[link] = &given{}
	if err := errors.Join(filter.maps.Slots.Put(uint32(link), record{}), filter.give(link, granted())); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 15 || short(frame) || len(frame) > 1500 {
			return // not a frame, or the kernel will not run a program on it
		}
		verdict, _, err := run(filter.programs.Out, link, frame)
		if err != nil {
			t.Fatal(err)
		}
		if err := read(frame); verdict == passes && err != nil {
			t.Errorf("%x passed: %v", frame, err)
		}
	})
}

// TestRandomFrames does the same with good frames that are broken at random, many of them.
func TestRandomFrames(t *testing.T) {
	w := onWire(t)
	must(t, w.give(w.ifindex, granted()))
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	addresses := []netip.Addr{own4, allowed, denied, forbidden, web, gate4, addr("10.88.0.1"), addr("224.0.0.1"), addr("255.255.255.255")}
	addresses6 := []netip.Addr{own6, allowed6, denied6, forbidden6, web6, gate6, addr("fd88::1"), addr("ff02::1"), addr("::ffff:10.77.0.10")}
	stations := []net.HardwareAddr{box, gateway, gateway, gateway, stranger, everyone}
	payloads := [][]byte{tcp(80), tcp(81), udp(0), udp(9), sctp(80), icmpOf(8), icmpOf(128), icmpOf(5), icmpOf(3)}
	protocols := []byte{6, 17, 132, 1, 58, 0, 43, 44, 60, 4, 47}
	pick := func(n int) int { return r.IntN(n) }
	passed := 0
	for range 100_000 {
		to, from := stations[pick(len(stations))], stations[pick(2)*pick(len(stations))]
		payload, protocol := payloads[pick(len(payloads))], protocols[pick(len(protocols))]
		payload = payload[:len(payload)-pick(2)*pick(len(payload))]
		var f []byte
		if pick(2) == 0 {
			f = ethernet(to, from, unix.ETH_P_IP, ip4(addresses[pick(2)*pick(len(addresses))], addresses[pick(len(addresses))], protocol, payload))
		} else {
			f = ethernet(to, from, unix.ETH_P_IPV6, ip6(addresses6[pick(2)*pick(len(addresses6))], addresses6[pick(len(addresses6))], protocol, payload))
		}
		for range pick(3) {
			f[pick(len(f))] ^= 1 << pick(8)
		}
		if short(f) {
			continue
		}
		verdict, _, err := run(w.programs.Out, w.ifindex, f)
		must(t, err)
		err = read(f)
		if verdict == passes {
			passed++
		}
		if (verdict == passes) != (err == nil) {
			t.Fatalf("seed %d: %x: verdict %d, and it is %v", seed, f, verdict, err)
		}
	}
	if passed < 100 {
		t.Errorf("seed %d: only %d passed: the test proves little", seed, passed)
	}
}

// read judges a frame as granted does, in another way: by what RFCs say, from left to right.
func read(f []byte) error {
	if !slices.Equal(f[6:12], box) {
		return errors.New("of another station")
	}
	kind, p := int(f[12])<<8|int(f[13]), f[14:]
	if kind == 0x806 {
		want := arpOf(1, box, own4, gate4)
		if len(p) < 28 || !slices.Equal(p[:18], want[:18]) || !slices.Equal(p[24:28], want[24:28]) {
			return errors.New("not the question for the gateway")
		}
		if !slices.Equal(f[:6], gateway) && !slices.Equal(f[:6], everyone) {
			return errors.New("asked of another station")
		}
		return nil
	}
	if !slices.Equal(f[:6], gateway) {
		return errors.New("to another station")
	}
	var src, dst netip.Addr
	var protocol, icmp, length int
	var echo []int
	switch {
	case kind == 0x800 && len(p) >= 20 && p[0] == 0x45:
		src, dst, protocol, icmp = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:])), int(p[9]), 1
		length, echo = int(p[2])<<8|int(p[3]), []int{3, 8, 13, 17}
		if p[6]&0x3f != 0 || p[7] != 0 {
			return errors.New("a fragment")
		}
		if length < 20 || length > len(p) {
			return errors.New("of a length that is not its own")
		}
		p = p[20:length]
	case kind == 0x86dd && len(p) >= 40 && p[0]>>4 == 6:
		src, dst, protocol, icmp = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:])), int(p[6]), 58
		length, echo = int(p[4])<<8|int(p[5]), []int{1, 128}
		if length == 0 || 40+length > len(p) {
			return errors.New("of a length that is not its own")
		}
		p = p[40 : 40+length]
	default:
		return errors.New("neither IPv4 nor IPv6")
	}
	if src != own4 && src != own6 {
		return fmt.Errorf("from %s", src)
	}
	in := func(list ...string) bool {
		return slices.ContainsFunc(prefixes(list...), func(p netip.Prefix) bool { return p.Contains(dst) })
	}
	ports := dst == web || dst == web6
	if !ports && !in("10.77.0.10/32", "10.88.0.0/16", "fd77::10/128", "fd88::/32") || dst == denied || dst == denied6 {
		return fmt.Errorf("to %s", dst)
	}
	if protocol == icmp {
		if ports || len(p) < 8 || !slices.Contains(echo, int(p[0])) {
			return errors.New("ICMP that is not granted")
		}
		return nil
	}
	least, ok := map[int]int{6: 20, 17: 8, 132: 12}[protocol]
	if !ok || len(p) < least {
		return fmt.Errorf("protocol %d in %d bytes", protocol, len(p))
	}
	if protocol == 6 && (int(p[12]>>4) < 5 || int(p[12]>>4)*4 > len(p)) {
		return errors.New("a header that is not TCP's")
	}
	if port := int(p[2])<<8 | int(p[3]); ports {
		switch {
		case protocol == 6 && (port == 80 || port >= 8000 && port < 9000):
		case protocol == 17 && (port == 0 || port == 65535):
		default:
			return fmt.Errorf("port %d", port)
		}
	}
	return nil
}

// size is a scope of n networks, and the host that the tests allow.
func size(n int) grant {
	g := granted()
	for i := range n - 1 {
		g.allow[1].prefixes = append(g.allow[1].prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24))
	}
	g.allow = g.allow[:2]
	g.allow[0].prefixes, g.allow[1].prefixes, g.deny = []netip.Prefix{host(allowed)}, g.allow[1].prefixes[2:], nil
	return g
}

func benchFilter(b *testing.B) (*filter, int) {
	f, err := loadFilter()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.close() })
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "secvbenchx"}
	v.Name = "secvbench"
	if err := netlink.LinkAdd(v); err != nil {
		b.Fatal(err)
	}
	link, err := netlink.LinkByName(v.Name)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = netlink.LinkDel(link) })
	if err := f.attach(link); err != nil {
		b.Fatal(err)
	}
	return f, link.Attrs().Index
}

// BenchmarkGive measures a grant on a link that has none, and taking it.
func BenchmarkGive(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, link := benchFilter(b)
			g := size(n)
			var giving time.Duration
			for b.Loop() {
				begin := time.Now()
				if err := f.give(link, g); err != nil {
					b.Fatal(err)
				}
				giving += time.Since(begin)
				if err := f.take(link); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(giving.Nanoseconds())/float64(b.N), "ns/give")
			b.ReportMetric(float64((b.Elapsed()-giving).Nanoseconds())/float64(b.N), "ns/take")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkPacket is what a program takes, run by the kernel many times at a stretch.
func BenchmarkPacket(b *testing.B) {
	const repeat = 100_000
	for _, n := range []int{1, 1000, 10000} {
		for says, frame := range map[string][]byte{"passes": frame4(ip4(own4, allowed, 6, tcp(80))), "off scope": frame4(ip4(own4, forbidden, 6, tcp(80)))} {
			for _, rated := range []bool{false, true} {
				name := fmt.Sprintf("%d/%s", n, says)
				g := size(n)
				if rated {
					name += "/three budgets"
					l := limit{1e9, 1e9}
					g.rate, g.shared = l, [2]budget{{1, l}, {2, l}}
				}
				b.Run(name, func(b *testing.B) {
					f, link := benchFilter(b)
					if err := f.give(link, g); err != nil {
						b.Fatal(err)
					}
					for b.Loop() {
						_, err := f.programs.Out.Run(&ebpf.RunOptions{Data: frame, Context: &skb{Ifindex: uint32(link)}, Repeat: repeat})
						if err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/repeat, "ns/packet")
				})
			}
		}
	}
}
