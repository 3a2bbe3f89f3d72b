// Package scope is the network of a box, and the kernel's filter on it.
//
// A slot is a network namespace joined to this one by a veth. The filter sits on this side of
// it, where nothing that the box sends can skip it: not raw sockets, not packet sockets with or
// without a queue, not AF_XDP. It passes only what goes from the slot's own address to an
// address of the scope, in a protocol that a scan needs, unfragmented and without options. What
// comes back passes only from an address of the scope, or as an ICMP error about what was sent
// there.
//
//	box ── eth0 ══ secvN ── filter: marked ── prerouting: untracked, unmarked ── forward ── uplink ── targets
//	                        everything else: dropped, counted
//
// That is the mode Routed. In the mode Translated connections are tracked, leave under this
// machine's address, and what somebody else's rule would send to another destination is dropped:
//
//	... filter: marked ── prerouting: tracked ── others' rules ── prerouting, last: no destination
//	translated? unmarked ── forward ── postrouting: translated ── uplink ── targets
//
// In the mode L2 nothing of a slot enters this machine's own stack: the filter sends what passes out of
// the segment's interface, and a second one there hands the slot what comes for its address:
//
//	box ── eth0 ══ secvN ── filter ── uplink ── targets
//	                        everything else: dropped, counted
//
// The filter is BPF (filter.go, bpf/scope.c). Under it is a table of nf_tables, made once: it drops
// what comes from a slot's link without the filter's mark, keeps what passes from being tracked and
// so from being translated to other destinations, and takes the mark off. Whoever removes the table,
// as a firewall does that begins by forgetting every rule, leaves the mark on: a rule of routing
// swallows what has it.
//
// Where BPF cannot be had, the table is the filter (table.go): a chain for each slot, and beside it
// a fence in the routing, which keeps a slot's packets from all destinations but those of its
// scope should the table be removed.
//
// Filter, table and rules stay when the launcher is killed. Watch ends the slots when somebody else
// has changed the table.
package scope

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoIPv6 says that this machine does not forward IPv6 for slots: before Linux 6.17 that is
// only possible for all interfaces at once, which costs a machine the routes that it learns from
// its routers. The operator may switch it (net.ipv6.conf.all.forwarding); secmcpd does not.
var ErrNoIPv6 = errors.New("this machine does not forward IPv6, and its kernel cannot do so for slots alone")

// Config says which addresses slots have: each one of V4 and one of V6.
type Config struct {
	V4, V6 netip.Prefix // in the mode L2, V6 may be the zero prefix: slots have no IPv6
	Mode   Mode
	// Interface is that of the segment, in the mode L2. V4 and V6 lie inside networks of its.
	Interface string
	Ready     int         // so many links are made before they are needed
	NoBPF     bool        // the table is the filter
	Failed    func(error) // told what went wrong where nobody waits; nil: nobody
}

// Net is the slots' side of the machine while it is open.
type Net struct {
	cfg     Config
	held    *net.UnixListener // this namespace is ours as long as it is open
	ipv6    bool              // this kernel has it
	nft     *nftables.Conn    // one socket for every change: by its port, ours are told from others'
	socket  *nl.Conn          // the same one
	port    uint32
	list    *nftables.Conn
	events  *events                 // of nf_tables
	links   *events                 // of links, routes, and what belongs to them
	filter  *filter                 // nil: the table is the filter
	stands  atomic.Pointer[segment] // nil: in other modes than L2
	without error                   // why
	numbers *numbers

	ready      chan *link
	stop       context.CancelFunc // no more links are made ready
	background sync.WaitGroup

	losing sync.Mutex // one loss at a time, and what is looked at is not being taken down; before mu

	forgetting sync.Mutex // one reading of the table of connections at a time
	departed   struct {
		sync.Mutex
		list connections // of links that are gone, to be forgotten
	}
	claimed struct {
		sync.Mutex
		by map[netip.Addr]net.HardwareAddr // at most all of the range
	}

	mu     sync.Mutex // one change of the table at a time
	t      *table     // nil: it was lost and could not be made anew yet
	print  string     // of the table, after our last change
	slots  map[*Slot]bool
	guards map[guard]bool
	shared map[string]uint64 // the filter's keys of budgets, by name
}

// Open makes the table. Reclaim comes before it. ErrHeld: somebody else has done so and has not
// closed it.
func Open(c Config) (_ *Net, err error) {
	if !slices.Contains(Modes(), c.Mode) {
		return nil, fmt.Errorf("there is no mode %q", c.Mode)
	}
	n := &Net{cfg: c, ipv6: hasIPv6(), slots: map[*Slot]bool{}, guards: map[guard]bool{}, shared: map[string]uint64{}}
	n.claimed.by = map[netip.Addr]net.HardwareAddr{}
	if n.held, err = hold(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.disconnect())
		}
	}()
	if c.Mode == L2 {
		var s *segment
		s, err = newSegment(c)
		n.stands.Store(s)
		n.ipv6 = n.ipv6 && c.V6.IsValid()
	} else {
		err = free(c)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the range of slots: %w", err)
	}
	if n.numbers, err = newNumbers(c.places()); err != nil {
		return nil, err
	}
	// Before there is a table: no change of it goes unseen.
	if n.events, err = subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err != nil {
		return nil, fmt.Errorf("cannot follow nf_tables: %w", err)
	}
	if n.links, err = subscribe(unix.NETLINK_ROUTE, linkGroups...); err != nil {
		return nil, fmt.Errorf("cannot follow links and routes: %w", err)
	}
	if n.nft, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(n.learn)); err == nil {
		n.list, err = nftables.New()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot speak with nf_tables: %w", err)
	}
	if n.without = errors.New("the configuration says so"); !c.NoBPF {
		n.filter, n.without = loadFilter()
	}
	if n.filter != nil {
		if err := trap(); err != nil {
			return nil, fmt.Errorf("cannot make a rule of routing: %w", err)
		}
	}
	if n.segment() != nil && n.filter == nil {
		return nil, fmt.Errorf("the mode l2 needs BPF: %w", n.without)
	}
	if n.t, err = n.newTable(); err != nil {
		return nil, fmt.Errorf("cannot make the filter's base: %w", err)
	}
	if n.segment() != nil {
		if err = n.filter.reserve(c.V4, c.V6); err == nil {
			err = n.filter.attachWire(n.segment())
		}
		if err != nil {
			return nil, errors.Join(err, reclaim(n.nft, nil))
		}
	}
	if err := n.remember(); err != nil {
		return nil, err
	}
	n.prepare()
	return n, nil
}

// prepare keeps links ready.
func (n *Net) prepare() {
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	n.ready = make(chan *link, max(n.cfg.Ready-1, 0)) // one more waits to be put there
	if n.cfg.Ready == 0 {
		return
	}
	n.background.Go(func() {
		for ctx.Err() == nil {
			l, err := n.newLink(ctx)
			if err != nil {
				// Whoever needs one makes it, and is told why not.
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				continue
			}
			select {
			case n.ready <- l:
				// Whoever has taken one is about to use it: the kernel changes one link at a time.
				time.Sleep(lull)
			case <-ctx.Done():
				n.remove(l)
			}
		}
	})
}

// lull is how long the next link is not begun after one was taken.
const lull = 20 * time.Millisecond

// take is a link that is ready, or else a new one.
func (n *Net) take(ctx context.Context) (l *link, fresh bool, err error) {
	select {
	case l := <-n.ready:
		return l, false, nil
	default:
		l, err := n.newLink(ctx)
		return l, true, err
	}
}

// remove takes a link away while nobody waits.
func (n *Net) remove(l *link) {
	n.background.Go(func() { n.failed(n.removeLink(l)) })
}

func (n *Net) failed(err error) {
	if err != nil && n.cfg.Failed != nil {
		n.cfg.Failed(err)
	}
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
	var err error
	for _, e := range []*events{n.events, n.links} {
		if e != nil {
			err = errors.Join(err, e.file.Close())
		}
	}
	if n.nft != nil {
		err = errors.Join(err, n.nft.CloseLasting())
	}
	if n.filter != nil {
		err = errors.Join(err, n.filter.close())
	}
	return errors.Join(err, n.held.Close())
}

func allRoutes() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) }

// free refuses a range that the machine uses: its own hosts could no longer be told from slots.
func free(c Config) error {
	routes, err := consistent(allRoutes)
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
	n.stop()
	n.discard()
	n.background.Wait()
	n.discard() // what was being made meanwhile
	n.background.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(reclaim(n.nft, nil), n.unguard(), n.disconnect())
}

// discard takes the links away that are ready.
func (n *Net) discard() {
	for {
		select {
		case l := <-n.ready:
			n.remove(l)
		default:
			return
		}
	}
}

// Reclaim removes what a launcher that died has left: links, fences, forwarding, filter, in this
// order, and the connections of the addresses that its slots had. ErrHeld: it is not dead.
func Reclaim(slots ...netip.Prefix) (err error) {
	held, err := hold()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot speak with nf_tables: %w", err)
	}
	return reclaim(conn, slots)
}

func reclaim(conn *nftables.Conn, slots []netip.Prefix) error {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; (strings.HasPrefix(name, prefix) || name == targetName) && l.Type() == "veth" {
			if err := netlink.LinkDel(l); err != nil && !gone(err) {
				return fmt.Errorf("cannot remove %s: %w", l.Attrs().Name, err)
			}
		}
	}
	err = errors.Join(detachWires(slots), removeFences(), removeTable(conn))
	if len(slots) > 0 {
		err = errors.Join(err, untrack(slots))
	}
	return err
}

func gone(err error) bool {
	return errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}

// Filter says what holds boxes to their scopes: "bpf", or "nftables" and why not BPF.
func (n *Net) Filter() (kind string, without error) {
	if n.filter != nil {
		return "bpf", nil
	}
	return "nftables", n.without
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
	*link
	net   *Net
	allow []netip.Prefix
	leads []lead // the ways to it
	// silent are the addresses in allow that all stations of a segment get; in the mode L2.
	silent []netip.Prefix
	table  *table // that it has a part of, where the table is the filter
	lost   chan struct{}
	what   error // was lost; to be read when lost is closed
}

// Target is addresses, and what may be sent to them. Where prefixes of several targets overlap, the
// longest one that an address lies in is its own.
type Target struct {
	Prefixes []netip.Prefix
	Ports    *Ports // nil: all of them, and ICMP
}

// Ports is ports of each protocol, in ranges with both ends, sorted and apart, and whether what scans ask by ICMP may
// be asked. With them, only packets with whole headers pass, and no fragment.
type Ports struct {
	TCP, UDP, SCTP [][2]uint16
	ICMP           bool
}

// All is prefixes with all their ports.
func All(prefixes ...netip.Prefix) []Target { return []Target{{Prefixes: prefixes}} }

// common is the ports of all targets; false: they are not the same.
func common(allow []Target) (*Ports, bool) {
	for _, t := range allow {
		if !reflect.DeepEqual(t.Ports, allow[0].Ports) {
			return nil, false
		}
	}
	if len(allow) == 0 {
		return nil, true
	}
	return allow[0].Ports, true
}

func prefixesOf(allow []Target) (out []netip.Prefix) {
	for _, t := range allow {
		out = append(out, t.Prefixes...)
	}
	return out
}

// ErrLost says that somebody else has changed or removed what holds a slot to its scope.
var ErrLost = errors.New("what holds a scan to its scope was changed by somebody else")

func lostBy(what string) error { return fmt.Errorf("%w: %s", ErrLost, what) }

// Lost is closed when the filter is no longer in force for the slot, or nothing can get through it
// any more. Its link is down then and stays down.
func (s *Slot) Lost() <-chan struct{} { return s.lost }

func (s *Slot) isLost() bool {
	select {
	case <-s.lost:
		return true
	default:
		return false
	}
}

// Slot gives a scope to a link: what may be sent to, and how many packets in a second (0: as many as
// there are). The filter holds it to that, and all slots of each of the budgets, at most two, to
// theirs; the table alone holds none to it. It waits no longer than ctx where every address of the
// range was used a moment ago.
func (n *Net) Slot(ctx context.Context, to []Target, rate int, together ...Budget) (*Slot, error) {
	return n.slotOn(ctx, n.segment(), to, rate, together...)
}

// slotOn makes a slot on a segment, which is that of the configuration but for the filter's proof.
func (n *Net) slotOn(ctx context.Context, on *segment, to []Target, rate int, together ...Budget) (_ *Slot, err error) {
	ports, same := common(to)
	if n.filter == nil && !same {
		return nil, errors.New("cannot make a slot: without BPF all of its targets have the same ports")
	}
	allow := prefixesOf(to)
	ipv6 := slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if err := n.OnSegment(allow); err != nil {
		return nil, fmt.Errorf("cannot make a slot: %w", err)
	}
	if ipv6 && !n.ipv6 {
		return nil, errors.New("cannot make a slot: this kernel has no IPv6")
	}
	if on != nil && on == n.segment() { // whoever has changed it has ended the slots of that time
		if on, err = n.follow(on); err != nil {
			return nil, fmt.Errorf("cannot make a slot: %w", err)
		}
		if there, err := n.filter.onWire(on); err == nil && !there {
			n.failed(n.filter.attachWire(on)) // without it no slot is made
		}
	}
	var l *link
	for fresh := false; ; { // somebody else may have changed those that are ready
		if l, fresh, err = n.take(ctx); err != nil {
			return nil, err
		}
		l.segment = on
		n.mu.Lock()
		if err = n.look(l); err == nil {
			break
		}
		n.mu.Unlock()
		n.remove(l)
		if fresh {
			return nil, fmt.Errorf("cannot make a slot of %s: %w", l.name(), err)
		}
	}
	defer n.mu.Unlock()
	s := &Slot{link: l, net: n, allow: allow, lost: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot make a slot of %s: %w", l.name(), err), n.drain(), s.close())
		}
	}()
	if n.t == nil {
		if err := n.renew(); err != nil {
			return nil, err
		}
	}
	if err := l.queue.limit(rate); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(to, func(t Target) bool { return t.Ports == nil || t.Ports.ICMP }) {
		if err := silence(l.netns, ipv6); err != nil {
			return nil, err
		}
	}
	if l.segment != nil {
		s.leads = []lead{{l.segment.name, l.segment.index}}
	} else if s.leads, err = n.forward(l.name(), allow, ipv6); err != nil {
		return nil, fmt.Errorf("forwarding: %w", err)
	}
	s.table = n.t
	if n.filter != nil {
		g := l.grant(to, rate)
		for i, b := range together {
			g.shared[i] = budget{n.key(b.Name), b.policed()}
		}
		if l.segment != nil {
			s.silent, err = l.segment.silent(allow)
			g.deny = s.silent
		}
		if err == nil {
			err = n.filter.give(l.outer.Attrs().Index, g)
		}
	} else if err = n.t.addSlot(l, allow, ports); err == nil {
		err = fence(l, allow)
	}
	if err == nil {
		err = n.enter(s)
	}
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	if n.filter == nil {
		if err := n.remember(); err != nil {
			return nil, err
		}
	}
	n.slots[s] = true
	return s, nil
}

// key is the filter's for a budget of that name. It needs mu.
func (n *Net) key(name string) uint64 {
	k, is := n.shared[name]
	if !is {
		k = uint64(len(n.shared) + 1)
		n.shared[name] = k
	}
	return k
}

// grant is what a link's slot may send.
func (l *link) grant(allow []Target, rate int) grant {
	g := grant{inner4: l.inner4, outer4: l.outer4, innerMAC: l.inner, outerMAC: l.outer.Attrs().HardwareAddr,
		arp: true, mark: passed, rate: policed(rate)}
	if l.segment != nil {
		g.l2 = l.segment.index
	}
	for _, t := range allow {
		one := targets{prefixes: t.Prefixes, icmp: t.Ports == nil || t.Ports.ICMP}
		if p := t.Ports; p != nil {
			one.ports = &portRule{ranges(p.TCP), ranges(p.UDP), ranges(p.SCTP)}
		}
		g.allow = append(g.allow, one)
	}
	if slices.ContainsFunc(prefixesOf(allow), func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		g.inner6 = l.inner6
	}
	return g
}

func ranges(ports [][2]uint16) []portRange {
	out := []portRange{} // of a protocol without ports, too: what goes there goes to another port
	for _, r := range ports {
		out = append(out, portRange{r[0], r[1]})
	}
	return out
}

// NetNS is the slot's namespace; it stays the slot's.
func (s *Slot) NetNS() *os.File { return s.netns }

// Counters are the filter's, in packets.
type Counters struct {
	Sent     uint64      // passed, to the scope
	Received uint64      // passed, to the box
	Dropped  uint64      // off scope, or of a form that does not pass
	OffScope uint64      // of them: to another destination or port, or under another source; the table cannot tell and counts all
	OverRate uint64      // dropped because they were too many, beside those dropped
	Refused  uint64      // on the way in, from elsewhere
	First    []Violation // the first destinations off scope, at most 64, the most packets first
}

// Violation is a destination that a box sent to and that its scope does not have.
type Violation struct {
	To       netip.Addr
	Protocol uint8  // of IP; 0: a question of ARP for To
	Port     uint16 // 0: the protocol has none
	Packets  uint64
}

// Counters reads the slot's. They are exact, and gone with the slot. ErrLost: they are gone
// already, even if the watch has not said so yet. Where the table is the filter, what was received
// and the destinations off scope are not known.
func (s *Slot) Counters() (Counters, error) {
	if f := s.net.filter; f != nil {
		c, found, err := f.counters(s.outer.Attrs().Index)
		out := Counters{Sent: c.sent, Received: c.received, Refused: c.refused, OverRate: c.budget, OffScope: c.offScope + c.spoofed + c.port}
		out.Dropped = out.OffScope + c.form + c.ethertype + c.protocol
		for _, v := range found {
			out.First = append(out.First, Violation{To: v.to, Protocol: v.protocol, Port: v.port, Packets: v.packets})
		}
		return out, err
	}
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.net.t == nil || s.net.t != s.table {
		return Counters{}, ErrLost
	}
	return s.net.t.counters(s.number)
}

// Close ends the slot: when it returns nothing passes its link any more. The rest is done while
// nobody waits.
func (s *Slot) Close() error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if err := s.close(); err != nil {
		return fmt.Errorf("cannot take %s away: %w", s.name(), err)
	}
	return nil
}

func (s *Slot) close() error {
	n := s.net
	delete(n.slots, s)
	var errs []error
	switch {
	case n.filter != nil:
		if err := n.filter.stop(s.outer.Attrs().Index); err != nil {
			errs = append(errs, err, down(s.outer))
		}
	case n.t != nil && n.t == s.table: // or its part went with a table that was replaced
		// From here on the base drops what comes from the link.
		if err := n.t.removeSlot(s.number); err != nil {
			errs = append(errs, err, n.drain(), down(s.outer))
		}
		errs = append(errs, n.remember())
	}
	n.background.Go(func() {
		n.failed(n.depart(s.link))
		n.failed(n.removeLink(s.link))
		if n.filter == nil {
			n.failed(unfence(s.link, s.allow))
		}
	})
	return errors.Join(errs...)
}

func down(l netlink.Link) error {
	if err := netlink.LinkSetDown(l); err != nil && !gone(err) {
		return fmt.Errorf("cannot take %s down: %w", l.Attrs().Name, err)
	}
	return nil
}
