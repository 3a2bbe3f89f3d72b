package scope

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// prefix begins the name of every interface of ours on this side.
const prefix = "secv"

// link is a network namespace joined to this one by a veth. It is made before it is needed and
// used once: what a scanner leaves behind in its namespace (connections that end slowly, learned
// routes, neighbours) no other one finds, and nobody waits while the kernel takes it away.
type link struct {
	number int
	addresses
	netns   *os.File
	outer   netlink.Link
	segment *segment // nil: in other modes than L2
	lent    []netip.Addr
	queue   *queue // nil: this kernel has none
	inner   net.HardwareAddr
}

// addresses of both ends. The outer one is the same for all: each end has a route to the other
// one alone.
type addresses struct{ outer4, inner4, outer6, inner6 netip.Addr }

func (c Config) addresses(number int) addresses {
	four := c.V4.Masked().Addr()
	out := addresses{outer4: four.Next(), inner4: plus(four, number+2)}
	if six := c.V6.Masked().Addr(); six.IsValid() {
		out.outer6, out.inner6 = six.Next(), plus(six, number+2)
	}
	return out
}

func plus(a netip.Addr, n int) netip.Addr {
	sum := new(big.Int).Add(new(big.Int).SetBytes(a.AsSlice()), big.NewInt(int64(n)))
	out, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, a.BitLen()/8)))
	return out
}

// places is how many links there can be: the range but for its first two addresses and its last.
func (c Config) places() int {
	bits := min(32-c.V4.Bits(), 16)
	if c.V6.IsValid() {
		bits = min(bits, 128-c.V6.Bits())
	}
	return 1<<bits - 3
}

func linkName(number int) string { return prefix + strconv.Itoa(number) }

func (l *link) name() string { return linkName(l.number) }

// rest is how long the addresses of a slot are given to no other one: what is still under way to
// them finds nobody.
const rest = time.Minute

// numbers are the links' names and addresses, the longest unused first.
type numbers struct {
	rest time.Duration
	size int

	mu      sync.Mutex
	start   int // anywhere: a launcher that was killed may have used the first ones just now
	fresh   int // how many have been given out for the first time
	resting []resting
}

type resting struct {
	number int
	until  time.Time
}

func newNumbers(size int) (*numbers, error) {
	start, err := rand.Int(rand.Reader, big.NewInt(int64(size)))
	if err != nil {
		return nil, err
	}
	return &numbers{rest: rest, size: size, start: int(start.Int64())}, nil
}

// take waits for a number that has rested.
func (n *numbers) take(ctx context.Context) (int, error) {
	for {
		number, wait, err := n.try(time.Now())
		if err != nil || wait == 0 {
			return number, err
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("every address of the slots' range was used within the last %s, or others have it: %w", n.rest, ctx.Err())
		case <-time.After(wait):
		}
	}
}

func (n *numbers) try(now time.Time) (number int, wait time.Duration, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fresh < n.size {
		n.fresh++
		return (n.start + n.fresh) % n.size, 0, nil
	}
	if len(n.resting) == 0 {
		return 0, 0, errors.New("every address of the slots' range is in use: widen slots.ipv4 and slots.ipv6")
	}
	first := n.resting[0]
	if wait := first.until.Sub(now); wait > 0 {
		return 0, wait, nil
	}
	n.resting = n.resting[1:]
	return first.number, 0, nil
}

func (n *numbers) put(number int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resting = append(n.resting, resting{number, time.Now().Add(n.rest)})
}

// putUnused gives a number back that nothing was sent under: it need not rest.
func (n *numbers) putUnused(number int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resting = slices.Insert(n.resting, 0, resting{number, time.Now()})
}

// newLink makes a link that is up and belongs to no slot: nothing passes it.
func (n *Net) newLink(ctx context.Context) (_ *link, err error) {
	on := n.segment()
	number, err := n.vacant(ctx, on)
	if err != nil {
		return nil, err
	}
	l := &link{number: number, addresses: n.cfg.addresses(number), segment: on}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot make the link %s: %w", l.name(), err), n.removeLink(l))
		}
	}()
	if l.netns, err = newNetns(n.ipv6); err != nil {
		return nil, fmt.Errorf("namespace: %w", err)
	}
	if err := l.join(n.ipv6, n.attach); err != nil {
		return nil, err
	}
	if l.queue, err = newQueue(l.netns); errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return l, err
}

// attach puts the filter on a link that is not up yet. The table needs nothing: its base drops.
func (n *Net) attach(l netlink.Link) error {
	if n.filter == nil {
		return nil
	}
	return n.filter.attach(l)
}

// newNetns makes a namespace and switches off there what its kernel would send by itself.
func newNetns(ipv6 bool) (file *os.File, err error) {
	aside(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if ipv6 {
			if err = quiet("default"); err != nil {
				return
			}
		}
		file, err = os.Open("/proc/thread-self/ns/net")
	})
	return file, err
}

// aside does something on a thread that is given up afterwards: what changes its namespace.
func aside(do func()) {
	done := make(chan struct{})
	once := func() { defer close(done); do() }
	go func() {
		// Never unlocked where it is done: the thread ends with the goroutine, and no other one
		// finds itself in the other namespace. Not the first thread, which does not end and is what
		// /proc/self shows.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			once()
			return
		}
		go func() { runtime.LockOSThread(); once() }()
		<-done
		runtime.UnlockOSThread()
	}()
	<-done
}

// inside does something in a namespace.
func inside(ns *os.File, do func() error) (err error) {
	aside(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			err = do()
		}
	})
	return err
}

// hasIPv6 reports whether the kernel has IPv6 at all.
func hasIPv6() bool { return get("ipv6", "default", "disable_ipv6") != "" }

// quiet keeps the kernel from speaking IPv6 on a link by itself: no address of its own making, no
// search for doubles or routers. Where IPv6 is switched off by default it is on for this link, as scans and the proof of
// the filter need it: whether it leads anywhere is for the others to say. /proc/sys/net is that of the thread's namespace.
func quiet(link string) error {
	var errs []error
	for _, s := range [][2]string{{"disable_ipv6", "0"}, {"addr_gen_mode", "1"}, {"accept_ra", "0"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"router_solicitations", "0"}} {
		errs = append(errs, set("ipv6", link, s[0], s[1]))
	}
	return errors.Join(errs...)
}

// join makes the veth and addresses both ends. Neighbours are fixed on both sides: neither kernel
// has to ask.
func (l *link) join(ipv6 bool, attach func(netlink.Link) error) error {
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(l.netns.Fd())}
	veth.Name = l.name()
	// Addresses of our own choice: udev gives links whose address the kernel chose another one
	// (MACAddressPolicy=persistent), after the neighbours below were written, and every packet
	// would be dropped in silence.
	l.inner = hardwareAddress()
	if l.segment != nil {
		// What comes by the segment is addressed to its interface.
		l.inner, veth.MTU = l.segment.mac, l.segment.mtu
	}
	veth.HardwareAddr, veth.PeerHardwareAddr = hardwareAddress(), l.inner
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(l.netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	if ipv6 {
		if err := quiet(l.name()); err != nil {
			return err
		}
	}
	// What claims to come from elsewhere goes nowhere. There is no such switch for IPv6.
	if err := set("ipv4", l.name(), "rp_filter", "1"); err != nil {
		return err
	}
	if l.segment == nil {
		if err := set("ipv4", l.name(), "forwarding", "1"); err != nil {
			return err
		}
	}
	if l.outer, err = here.LinkByName(l.name()); err != nil {
		return err
	}
	if err := attach(l.outer); err != nil {
		return err
	}
	inner, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := finished(l.netns, "eth0"); err != nil {
		return err
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	pairs := [][2]netip.Addr{{l.outer4, l.inner4}}
	if ipv6 {
		pairs = append(pairs, [2]netip.Addr{l.outer6, l.inner6})
	}
	if err := errors.Join(inside.LinkSetUp(lo), here.LinkSetUp(l.outer), inside.LinkSetUp(inner)); err != nil {
		return err
	}
	for _, p := range pairs {
		own := alone(p[1])
		if l.segment != nil {
			own.Mask = net.CIDRMask(l.segment.bits(p[1]), p[1].BitLen()) // its kernel looks for targets on the link
		} else if err := errors.Join(
			here.AddrAdd(l.outer, alone(p[0])),
			here.NeighSet(neighbour(l.outer, p[1], l.inner)),
			// As the kernel's own: systemd-networkd removes the routes of everybody else.
			here.RouteAdd(&netlink.Route{LinkIndex: l.outer.Attrs().Index, Dst: whole(p[1]), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL})); err != nil {
			return err
		}
		err := errors.Join(
			inside.AddrAdd(inner, own),
			inside.NeighSet(neighbour(inner, p[0], veth.HardwareAddr)),
			inside.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: p[0].AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
		if err == nil {
			err = awaitOwn(inside, p[1])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settling bounds how long an address may take to become the kernel's own.
const settling = 5 * time.Second

// awaitOwn returns when a kernel takes what comes for an address that it was just given. An IPv6
// address is answered for at once but gets its route from a worker of the kernel's, which waits for
// whoever changes a link meanwhile (addrconf_dad_work of net/ipv6/addrconf.c): until then it can be
// sent from, and the answers are dropped without a trace.
func awaitOwn(at *netlink.Handle, a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	for end := time.Now().Add(settling); ; time.Sleep(time.Millisecond) {
		routes, err := at.RouteGet(a.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the kernel has no route for its own address %s after %v: %w", a, settling, errors.Join(err, unix.ETIMEDOUT))
		}
	}
}

// hardwareAddress is a random one of those that are locally administered.
func hardwareAddress() net.HardwareAddr {
	b := make([]byte, 6)
	rand.Read(b) // never fails (crypto/rand)
	b[0] = b[0]&^1 | 2
	return b
}

// alone is an address without a network around it.
func alone(a netip.Addr) *netlink.Addr {
	out := &netlink.Addr{IPNet: whole(a)}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD // it can be sent from at once
	}
	return out
}

func whole(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func neighbour(l netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
}

// removeLink takes a link away that nobody uses any more and returns when it is gone; only then its
// addresses begin to rest. What is not there is no error.
func (n *Net) removeLink(l *link) error {
	if l.netns != nil {
		// The kernel takes the link away with its namespace, those of many jobs in one go; to delete
		// it by name costs 20 ms during which nobody else can change any link.
		l.queue.close()
		_ = l.netns.Close()
	}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		left, err := netlink.LinkByName(l.name())
		if gone(err) {
			n.failed(n.forgetConnections(l))
			n.numbers.put(l.number)
			if n.filter != nil && l.outer != nil {
				return n.filter.detach(l.outer.Attrs().Index)
			}
			return nil
		}
		if err == nil && wait == 200*time.Millisecond { // somebody else holds the namespace
			err = netlink.LinkDel(left)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("cannot remove %s: %w", l.name(), err) // its number is never used again
		}
		time.Sleep(wait)
	}
}
