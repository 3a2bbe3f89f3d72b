// Package scope is the network of a box, and the kernel's filter on it.
//
// A slot is a network namespace joined to this one by a veth. The filter sits on this side of
// it, where nothing that the box sends can skip it: not raw sockets, not packet sockets with or
// without a queue, not AF_XDP. It passes only what goes from the slot's own address to an
// address of the scope, in a protocol that a scan needs, unfragmented and without options. What
// comes back passes only from an address of the scope, or as an ICMP error.
//
//	box ── eth0 ══ secvN ── prerouting: slotN ── forward ── uplink ── targets
//	                        everything else: dropped, counted
//
// The table stays when the launcher is killed: its base drops whatever comes from a secv
// interface that has no slot. Somebody else may remove it all the same, as a firewall does that
// begins by forgetting every rule: Watch ends the slots then, and until it has, a slot's fence
// in the routing keeps its packets from all destinations but those of its scope.
package scope

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// prefix begins the name of every interface of ours on this side.
const prefix = "secv"

// ErrNoIPv6 says that this machine does not forward IPv6 for slots: before Linux 6.17 that is
// only possible for all interfaces at once, which costs a machine the routes that it learns from
// its routers. The operator may switch it (net.ipv6.conf.all.forwarding); secmcpd does not.
var ErrNoIPv6 = errors.New("this machine does not forward IPv6, and its kernel cannot do so for slots alone")

// Config says which addresses slots have. Slot N takes the Nth block of 4 addresses of V4 and
// the Nth /64 of V6.
type Config struct{ V4, V6 netip.Prefix }

// Net is the slots' side of the machine while it is open.
type Net struct {
	cfg    Config
	nft    *nftables.Conn // one socket for every change: by its port, ours are told from others'
	socket *nl.Conn       // the same one
	port   uint32
	list   *nftables.Conn
	events *events

	mu     sync.Mutex // one change of the table at a time
	t      *table     // nil: it was lost and could not be made anew yet
	print  string     // of the table, after our last change
	slots  map[int]*Slot
	guards map[guard]bool
}

// guard is a switch of an interface that is on for slots alone.
type guard struct{ family, key, link string }

// Open makes the table. Reclaim comes before it.
func Open(c Config) (_ *Net, err error) {
	if err := free(c); err != nil {
		return nil, fmt.Errorf("cannot use the range of slots: %w", err)
	}
	n := &Net{cfg: c, slots: map[int]*Slot{}, guards: map[guard]bool{}}
	// Before there is a table: no change of it goes unseen.
	if n.events, err = subscribe(); err != nil {
		return nil, fmt.Errorf("cannot follow nf_tables: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.disconnect())
		}
	}()
	if n.nft, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(n.learn)); err == nil {
		n.list, err = nftables.New()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot speak with nf_tables: %w", err)
	}
	if n.t, err = newTable(n.nft, n.list, c); err != nil {
		return nil, fmt.Errorf("cannot make the filter's base: %w", err)
	}
	return n, n.remember()
}

// learn keeps the socket of our changes and asks for its port.
func (n *Net) learn(c *nl.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var name unix.Sockaddr
	var failed error
	if err := raw.Control(func(fd uintptr) { name, failed = unix.Getsockname(int(fd)) }); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	address, ok := name.(*unix.SockaddrNetlink)
	if !ok {
		return errors.New("not a netlink socket")
	}
	n.socket, n.port = c, address.Pid
	return nil
}

// drain reads what a change that failed may have left unread: the answers to the next one
// would be taken for others. The kernel has answered before a change returns.
func (n *Net) drain() error {
	if err := n.socket.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	for range 1 << 16 {
		if _, err := n.socket.Receive(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return n.socket.SetReadDeadline(time.Time{})
}

func (n *Net) disconnect() error {
	err := n.events.file.Close()
	if n.nft != nil {
		err = errors.Join(err, n.nft.CloseLasting())
	}
	return err
}

// free refuses a range that the machine uses: its own hosts could no longer be told from slots.
func free(c Config) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		dst, ok := destination(r)
		if ok && dst.Bits() > 0 && (dst.Overlaps(c.V4) || dst.Overlaps(c.V6)) {
			return fmt.Errorf("there is a route to %s: set slots.ipv4 and slots.ipv6 to unused ranges", dst)
		}
	}
	return nil
}

func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		if r.Family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	return toPrefix(r.Dst)
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	if addr = addr.Unmap(); !ok || ones > addr.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, ones).Masked(), true
}

// Close takes everything away again. Slots are closed before.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(reclaim(n.nft), n.unguard(), n.disconnect())
}

// Reclaim removes what a launcher that died has left: links, fences, forwarding, filter, in this
// order.
func Reclaim() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot speak with nf_tables: %w", err)
	}
	return reclaim(conn)
}

func reclaim(conn *nftables.Conn) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, prefix) && l.Type() == "veth" {
			if err := netlink.LinkDel(l); err != nil && !gone(err) {
				return fmt.Errorf("cannot remove %s: %w", l.Attrs().Name, err)
			}
		}
	}
	if err := removeFences(); err != nil {
		return err
	}
	return removeTable(conn)
}

func gone(err error) bool {
	return errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}

// Supported says why slots could not be made here.
func Supported() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot speak with nf_tables: %w", err)
	}
	if _, err := conn.ListTables(); err != nil {
		return fmt.Errorf("cannot list nf_tables: %w", err)
	}
	return nil
}

// Slot is one box's network.
type Slot struct {
	net   *Net
	index int
	allow []netip.Prefix
	ipv6  bool
	netns *os.File
	lost  chan struct{}
}

// ErrLost says that somebody else has changed or removed the filter under a slot.
var ErrLost = errors.New("the kernel's filter was changed or removed by somebody else")

// Lost is closed when the filter is no longer in force for the slot. Its link is down then and
// stays down.
func (s *Slot) Lost() <-chan struct{} { return s.lost }

func (s *Slot) isLost() bool {
	select {
	case <-s.lost:
		return true
	default:
		return false
	}
}

// addresses of both ends of a slot's link.
type addresses struct{ outer4, inner4, outer6, inner6 netip.Addr }

func (c Config) addresses(index int) addresses {
	four := c.V4.Masked().Addr()
	for range index {
		four = four.Next().Next().Next().Next()
	}
	six := c.V6.Masked().Addr().As16()
	six[6], six[7] = six[6]|byte(index>>8), six[7]|byte(index)
	outer6 := netip.AddrFrom16(six).Next()
	return addresses{outer4: four.Next(), inner4: four.Next().Next(), outer6: outer6, inner6: outer6.Next()}
}

// Slot makes slot index with a scope. The filter is in force before the link is up. IPv6 is
// off in a slot that does not scan it: its kernel would speak by itself.
func (n *Net) Slot(index int, allow []netip.Prefix, ipv6 bool) (_ *Slot, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.cfg.addresses(index)
	if !n.cfg.V4.Contains(a.inner4) || !n.cfg.V6.Contains(a.inner6) {
		return nil, fmt.Errorf("cannot make slot %d: the range of slots has no place for it", index)
	}
	if n.t == nil {
		if err := n.renew(); err != nil {
			return nil, fmt.Errorf("cannot make slot %d: %w", index, err)
		}
	}
	s := &Slot{net: n, index: index, allow: slices.Clone(allow), ipv6: ipv6, lost: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot make slot %d: %w", index, err), n.drain(), s.close())
		}
	}()
	if s.netns, err = newNetns(ipv6); err != nil {
		return nil, fmt.Errorf("namespace: %w", err)
	}
	if err := n.t.addSlot(index, a, allow); err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	if err := fence(index, s.name(), allow, ipv6); err != nil {
		return nil, fmt.Errorf("fence: %w", err)
	}
	if err := s.join(a, ipv6); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	if err := n.forward(s.name(), allow, ipv6); err != nil {
		return nil, fmt.Errorf("forwarding: %w", err)
	}
	if err := n.remember(); err != nil {
		return nil, err
	}
	n.slots[index] = s
	return s, nil
}

func (s *Slot) name() string { return prefix + strconv.Itoa(s.index) }

// NetNS is the slot's namespace; it stays the slot's.
func (s *Slot) NetNS() *os.File { return s.netns }

// newNetns makes a namespace on a thread that is given up afterwards, and switches off there
// what its kernel would send by itself.
func newNetns(ipv6 bool) (file *os.File, err error) {
	done := make(chan struct{})
	make_ := func() {
		defer close(done)
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if err = quiet(ipv6); err != nil {
			return
		}
		file, err = os.Open("/proc/thread-self/ns/net")
	}
	go func() {
		// Never unlocked where it is made: the thread ends with the goroutine, and no other one
		// finds itself in the new namespace. Not the first thread, which does not end and is what
		// /proc/self shows.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			make_()
			return
		}
		go func() { runtime.LockOSThread(); make_() }()
		<-done
		runtime.UnlockOSThread()
	}()
	<-done
	return file, err
}

// quiet needs the thread to be in the namespace: /proc/sys/net is that of whoever opens it.
func quiet(ipv6 bool) error {
	const dir = "/proc/sys/net/ipv6/conf/default/"
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) && !ipv6 {
		return nil // a kernel without IPv6
	}
	values := map[string]string{"disable_ipv6": "1"}
	if ipv6 {
		values = map[string]string{"accept_ra": "0", "dad_transmits": "0", "router_solicitations": "0"}
	}
	for name, value := range values {
		if err := os.WriteFile(dir+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// join makes the link and addresses both ends. Neighbours are fixed on both sides: neither
// kernel has to ask.
func (s *Slot) join(a addresses, ipv6 bool) error {
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(s.netns.Fd())}
	link.Name = s.name()
	// Addresses of our own choice: udev gives links whose address the kernel chose another one
	// (MACAddressPolicy=persistent), after the neighbours below were written, and every packet
	// would be dropped in silence.
	link.HardwareAddr, link.PeerHardwareAddr = hardwareAddress(), hardwareAddress()
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(s.netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	if !ipv6 {
		if err := set("ipv6", s.name(), "disable_ipv6", "1"); err != nil {
			return err
		}
	} else if err := errors.Join(set("ipv6", s.name(), "accept_ra", "0"), set("ipv6", s.name(), "accept_dad", "0")); err != nil {
		return err
	}
	// Part of the fence: what claims to come from elsewhere goes nowhere. There is no such switch
	// for IPv6.
	if err := set("ipv4", s.name(), "rp_filter", "1"); err != nil {
		return err
	}
	outer, err := here.LinkByName(s.name())
	if err != nil {
		return err
	}
	inner, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	pairs := []struct {
		outer, inner netip.Addr
		bits         int
	}{{a.outer4, a.inner4, 30}}
	if ipv6 {
		pairs = append(pairs, struct {
			outer, inner netip.Addr
			bits         int
		}{a.outer6, a.inner6, 64})
	}
	for _, p := range pairs {
		if err := errors.Join(here.AddrAdd(outer, address(p.outer, p.bits)), inside.AddrAdd(inner, address(p.inner, p.bits))); err != nil {
			return err
		}
	}
	if err := errors.Join(inside.LinkSetUp(lo), here.LinkSetUp(outer), inside.LinkSetUp(inner)); err != nil {
		return err
	}
	for _, p := range pairs {
		err := errors.Join(
			here.NeighSet(neighbour(outer, p.inner, inner.Attrs().HardwareAddr)),
			inside.NeighSet(neighbour(inner, p.outer, outer.Attrs().HardwareAddr)),
			inside.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: p.outer.AsSlice()}))
		if err != nil {
			return err
		}
	}
	return nil
}

// hardwareAddress is a random one of those that are locally administered.
func hardwareAddress() net.HardwareAddr {
	b := make([]byte, 6)
	rand.Read(b) // never fails (crypto/rand)
	b[0] = b[0]&^1 | 2
	return b
}

func address(a netip.Addr, bits int) *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD // it can be sent from at once
	}
	return out
}

func neighbour(l netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
}

// forward lets packets of a slot cross this machine: on the slot's link, and on the interfaces
// that lead to its scope, one by one. The machine's global switch is left alone, and on an
// interface that did not forward before, nothing but slots may use it.
func (n *Net) forward(link string, allow []netip.Prefix, ipv6 bool) error {
	if err := set("ipv4", link, "forwarding", "1"); err != nil {
		return err
	}
	leads, err := outgoing(allow)
	if err != nil {
		return err
	}
	for _, name := range leads {
		if get("ipv4", name, "forwarding") == "1" {
			continue
		}
		if err := n.guard(guard{"ipv4", "forwarding", name}); err != nil {
			return err
		}
		if err := set("ipv4", name, "forwarding", "1"); err != nil {
			return err
		}
	}
	if !ipv6 || get("ipv6", "all", "forwarding") == "1" {
		return nil
	}
	for _, name := range append(leads, link) {
		switch get("ipv6", name, "force_forwarding") {
		case "1":
			continue
		case "":
			return ErrNoIPv6
		}
		if name != link {
			if err := n.guard(guard{"ipv6", "force_forwarding", name}); err != nil {
				return err
			}
		}
		if err := set("ipv6", name, "force_forwarding", "1"); err != nil {
			return err
		}
	}
	return nil
}

func (n *Net) guard(g guard) error {
	n.guards[g] = true
	return n.t.guard(g.family, g.key, g.link)
}

// unguard switches back what is on for slots alone.
func (n *Net) unguard() error {
	var errs []error
	for g := range n.guards {
		// An interface that is gone needs no switching back.
		if get(g.family, g.link, g.key) == "1" {
			if err := set(g.family, g.link, g.key, "0"); err != nil {
				errs = append(errs, fmt.Errorf("cannot switch forwarding of %s back: %w", g.link, err))
				continue
			}
		}
		delete(n.guards, g)
	}
	return errors.Join(errs...)
}

// outgoing names the interfaces that have a route to some part of the scope.
func outgoing(allow []netip.Prefix) ([]string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	seen := map[int]bool{}
	var names []string
	for _, r := range routes {
		dst, ok := destination(r)
		if !ok || !overlaps(dst, allow) {
			continue
		}
		hops := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			hops = append(hops, hop.LinkIndex)
		}
		for _, index := range hops {
			if index == 0 || seen[index] {
				continue
			}
			seen[index] = true
			l, err := netlink.LinkByIndex(index)
			if gone(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("cannot find link %d: %w", index, err)
			}
			if name := l.Attrs().Name; !strings.HasPrefix(name, prefix) && l.Attrs().Flags&net.FlagLoopback == 0 {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func overlaps(p netip.Prefix, list []netip.Prefix) bool {
	for _, q := range list {
		if p.Overlaps(q) {
			return true
		}
	}
	return false
}

func sysctl(family, link, key string) string {
	return filepath.Join("/proc/sys/net", family, "conf", link, key)
}

func set(family, link, key, value string) error {
	err := os.WriteFile(sysctl(family, link, key), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) && family == "ipv6" && key == "disable_ipv6" {
		return nil // a kernel without IPv6 has none to disable
	}
	return err
}

// get is the value, or "" where the kernel has no such key.
func get(family, link, key string) string {
	b, err := os.ReadFile(sysctl(family, link, key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Counters are the filter's, in packets.
type Counters struct {
	Sent    uint64 // passed, to the scope
	Dropped uint64 // off scope or of a form that does not pass
	Refused uint64 // on the way in, from elsewhere
}

// Counters reads the slot's. They are exact, and gone with the slot. ErrLost: they are gone
// already, even if the watch has not said so yet.
func (s *Slot) Counters() (Counters, error) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.isLost() || s.net.t == nil {
		return Counters{}, ErrLost
	}
	return s.net.t.counters(s.index)
}

// Close takes the slot away: link, filter, namespace.
func (s *Slot) Close() error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if err := s.close(); err != nil {
		return fmt.Errorf("cannot take slot %d away: %w", s.index, err)
	}
	return nil
}

func (s *Slot) close() error {
	var errs []error
	l, err := netlink.LinkByName(s.name())
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !gone(err) {
		// The filter stays where the link stays.
		return err
	}
	errs = append(errs, unfence(s.index, s.name(), s.allow, s.ipv6))
	if !s.isLost() && s.net.t != nil { // a lost slot's part went with the filter that was replaced
		delete(s.net.slots, s.index)
		if err := s.net.t.removeSlot(s.index); err != nil {
			errs = append(errs, err, s.net.drain())
		}
		errs = append(errs, s.net.remember())
	}
	if s.netns != nil {
		errs = append(errs, s.netns.Close())
		s.netns = nil
	}
	return errors.Join(errs...)
}
