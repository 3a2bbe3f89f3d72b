package scope

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// In the mode L2 slots stand on a segment of this machine's: each has an address there that nobody
// else has, and the hardware address of the interface. While a slot has it, the address is the
// machine's, too, so that its kernel answers who asks for it.

// segment is the interface, and the networks that slots are in.
type segment struct {
	name  string
	index int
	mac   net.HardwareAddr
	mtu   int
	nets  []netip.Prefix // of IPv4, then of IPv6 where slots have it
}

// Misfit says what is wrong with a setting of the mode L2 on this machine.
type Misfit struct{ Key, Got, Allowed, Hint string }

func (m *Misfit) Error() string {
	return fmt.Sprintf("%s is %s, allowed is %s: %s", m.Key, m.Got, m.Allowed, m.Hint)
}

// segment is the one that slots stand on; nil: in other modes than L2.
func (n *Net) segment() *segment { return n.stands.Load() }

// follow is the segment as it is now: its interface may have been made anew, or have another hardware
// address. Slots of what it was before are lost, links that were made for it are not used.
func (n *Net) follow(was *segment) (*segment, error) {
	l, err := netlink.LinkByName(n.cfg.Interface)
	if gone(err) {
		return was, nil // which says so
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find the interface %s: %w", n.cfg.Interface, err)
	}
	if l.Attrs().Index == was.index && slices.Equal(l.Attrs().HardwareAddr, was.mac) {
		return was, nil
	}
	now, err := newSegment(n.cfg)
	if err != nil {
		return nil, err
	}
	n.stands.CompareAndSwap(was, now) // somebody else may have been first, and has the same
	return n.segment(), nil
}

// Fits says whether slots can stand on the segment that a configuration names. An error is a
// *Misfit, or this machine cannot be asked.
func (c Config) Fits() error {
	_, err := newSegment(c)
	return err
}

func newSegment(c Config) (*segment, error) {
	l, err := netlink.LinkByName(c.Interface)
	if gone(err) {
		return nil, &Misfit{"slots.interface", c.Interface, "an Ethernet interface of this machine", "`ip -br link` lists them"}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find the interface %s: %w", c.Interface, err)
	}
	a := l.Attrs()
	if a.EncapType != "ether" || len(a.HardwareAddr) != 6 || a.RawFlags&unix.IFF_NOARP != 0 {
		return nil, &Misfit{"slots.interface", c.Interface, "an Ethernet interface of this machine", "it has no ARP: use slots.mode translated or routed"}
	}
	s := &segment{name: c.Interface, index: a.Index, mac: a.HardwareAddr, mtu: a.MTU}
	all, err := addressesNow()
	if err != nil {
		return nil, fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, r := range []struct {
		key   string
		slots netip.Prefix
	}{{"slots.ipv4", c.V4}, {"slots.ipv6", c.V6}} {
		if !r.slots.IsValid() {
			continue
		}
		network, err := s.around(r.key, r.slots, all)
		if err != nil {
			return nil, err
		}
		s.nets = append(s.nets, network)
	}
	return s, nil
}

// around is the network of the segment that a range of slots lies in, alone.
func (s *segment) around(key string, slots netip.Prefix, all []owned) (network netip.Prefix, err error) {
	misfit := func(hint string, of ...any) error {
		return &Misfit{key, slots.String(), "addresses inside a network of " + s.name + " that nobody else uses", fmt.Sprintf(hint, of...)}
	}
	var have []netip.Prefix
	for _, a := range all {
		net := a.Masked()
		if a.link == s.index && !a.ofSlots(slots) && net.Addr().Is4() == slots.Addr().Is4() && !a.Addr().IsLinkLocalUnicast() {
			have = append(have, net)
			if net.Bits() < slots.Bits() && net.Contains(slots.Addr()) {
				network = net
			}
		}
	}
	if !network.IsValid() {
		if slots.Addr().Is6() && len(have) == 0 {
			return network, misfit("%s has no IPv6 network: set slots.ipv6 to \"\"", s.name)
		}
		return network, misfit("its networks are %v", have)
	}
	for _, a := range all {
		if !a.ofSlots(slots) && slots.Contains(a.Addr()) {
			return network, misfit("%s is this machine's own", a.Addr())
		}
	}
	if slots.Addr().Is4() && (slots.Contains(network.Addr()) || slots.Contains(last(network))) {
		return network, misfit("it contains the first or the last address of %s", network)
	}
	routes, err := consistent(allRoutes)
	if err != nil {
		return network, fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		routers := []net.IP{r.Gw}
		for _, hop := range r.MultiPath {
			routers = append(routers, hop.Gw)
		}
		for _, router := range routers {
			if gw, ok := netip.AddrFromSlice(router); ok && slots.Contains(gw.Unmap()) {
				return network, misfit("%s is a router of this machine's", gw)
			}
		}
		if dst, ok := destination(r); ok && dst.Bits() > network.Bits() && dst.Overlaps(slots) {
			return network, misfit("there is a route to %s", dst)
		}
	}
	return network, nil
}

// last is the last address of a network.
func last(p netip.Prefix) netip.Addr {
	if end := after(p); end.IsValid() {
		return end.Prev()
	}
	return netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// ErrOffSegment says that targets are not on the segment of the slots.
var ErrOffSegment = errors.New("not on the segment that scans stand on")

// OnSegment says whether slots can reach all of some prefixes. The error is an ErrOffSegment that
// names the first that they cannot, which in other modes than L2 there is none of.
func (n *Net) OnSegment(targets []netip.Prefix) error {
	on := n.segment()
	if on == nil {
		return nil
	}
	for _, t := range targets {
		if !slices.ContainsFunc(on.nets, func(p netip.Prefix) bool { return p.Overlaps(t) && p.Bits() <= t.Bits() }) {
			return fmt.Errorf("%w: %s; in the mode l2 targets lie within %v, the network of %s: other modes reach others (slots.mode)", ErrOffSegment, t, on.nets, on.name)
		}
	}
	return nil
}

// silent are the addresses of a segment that all stations on it get: the ends of its network, and what
// this machine's kernel has a route for as a broadcast, which it puts into frames for everybody.
func (s *segment) silent(allow []netip.Prefix) (out []netip.Prefix, err error) {
	var all []netip.Prefix
	if s.nets[0].Bits() < 31 {
		all = append(all, netip.PrefixFrom(s.nets[0].Addr(), 32), netip.PrefixFrom(last(s.nets[0]), 32))
	}
	routes, err := consistent(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_BROADCAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list broadcast addresses: %w", err)
	}
	for _, r := range routes {
		if dst, ok := destination(r); ok && !slices.Contains(all, dst) {
			all = append(all, dst)
		}
	}
	return slices.DeleteFunc(all, func(p netip.Prefix) bool { return !overlaps(p, allow) }), nil
}

// loud says that the machine has a broadcast address in the scope that it had not when the slot was made.
func (s *Slot) loud() error {
	now, err := s.segment.silent(s.allow)
	if err != nil {
		return err
	}
	for _, p := range now {
		if !slices.Contains(s.silent, p) {
			return lostBy(p.Addr().String() + ", which is in the scope, is a broadcast address now")
		}
	}
	return nil
}

// bits is how long the network of an address is.
func (s *segment) bits(a netip.Addr) int {
	for _, p := range s.nets {
		if p.Contains(a) {
			return p.Bits()
		}
	}
	return a.BitLen()
}

// ifaProtocol marks an address as ours (IFA_PROTO, since Linux 5.18). Before that the flags tell: all of
// these have addresses that are lent, and hardly any other one. IPv4 addresses keep nothing of DAD.
const (
	ifaProtocol  = 11
	ourAddresses = 0x5e
	lentFlags    = unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_NODAD | unix.IFA_F_DEPRECATED
)

// lend makes an address of a slot the machine's own for who asks on the segment: without a network
// around it, and one that nothing of the machine's is sent from by itself.
func (s *segment) lend(a netip.Addr) error {
	request, err := s.addressed(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a)
	if err == nil {
		_, err = request.Execute(unix.NETLINK_ROUTE, 0)
	}
	if err != nil {
		return fmt.Errorf("cannot give %s the address %s: %w", s.name, a, err)
	}
	return nil
}

// lent returns when the machine's kernel has an address that was lent: it asks for stations under it,
// and would not hear their answers.
func (s *segment) lent(a netip.Addr) error {
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		defer here.Close()
		err = awaitOwn(here, a)
	}
	if err != nil {
		return fmt.Errorf("cannot give %s the address %s: %w", s.name, a, err)
	}
	return nil
}

func (s *segment) addressed(what, flags int, a netip.Addr) (*nl.NetlinkRequest, error) {
	request := nl.NewNetlinkRequest(what, flags|unix.NLM_F_ACK)
	message := nl.NewIfAddrmsg(unix.AF_INET)
	if a.Is6() {
		message.Family = unix.AF_INET6
	}
	message.Index, message.Prefixlen = uint32(s.index), uint8(a.BitLen())
	request.AddData(message)
	request.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	request.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	if what == unix.RTM_NEWADDR {
		lasts := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: 0xffffffff}} // deprecated from now on
		request.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(lentFlags&^unix.IFA_F_DEPRECATED)))
		request.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, lasts.Serialize()))
		request.AddData(nl.NewRtAttr(ifaProtocol, []byte{ourAddresses}))
	}
	return request, nil
}

// takeBack undoes lend; what is not there is no error.
func (s *segment) takeBack(a netip.Addr) error {
	request, err := s.addressed(unix.RTM_DELADDR, 0, a)
	if err == nil {
		_, err = request.Execute(unix.NETLINK_ROUTE, 0)
	}
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot take the address %s from %s: %w", a, s.name, err)
	}
	return nil
}

// owned is an address of this machine's and the network around it.
type owned struct {
	netip.Prefix
	link int
	ours bool // lent to a slot
	like bool // as one that is lent where the kernel keeps no marks
}

// ofSlots says that an address is lent to a slot of these ranges.
func (o owned) ofSlots(ranges ...netip.Prefix) bool {
	return o.ours || o.like && slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(o.Addr()) })
}

// addressesNow are those of all links.
func addressesNow() (all []owned, err error) {
	messages, err := consistent(func() ([][]byte, error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if len(m) < unix.SizeofIfAddrmsg {
			continue
		}
		a := owned{link: int(binary.NativeEndian.Uint32(m[4:]))}
		var local, remote netip.Addr // they differ where there is one station at the other end
		var flags uint32
		marked := false
		for kind, value := range attributes(m, unix.SizeofIfAddrmsg) {
			switch kind {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(value)
			case unix.IFA_ADDRESS:
				remote, _ = netip.AddrFromSlice(value)
			case unix.IFA_FLAGS:
				if len(value) == 4 {
					flags = binary.NativeEndian.Uint32(value)
				}
			case ifaProtocol:
				marked, a.ours = true, len(value) == 1 && value[0] == ourAddresses
			}
		}
		if m[0] == unix.AF_INET {
			flags |= unix.IFA_F_NODAD
		}
		a.like = !marked && flags&lentFlags == lentFlags
		if !local.IsValid() {
			local = remote
		}
		if a.Prefix = netip.PrefixFrom(local, int(m[1])); a.Prefix.IsValid() {
			a.like = a.like && a.IsSingleIP()
			all = append(all, a)
		}
	}
	return all, nil
}

// wireName and wireHandle tell our program at the ingress of a segment from those of others.
const (
	wireName     = "scope_wire"
	wireHandle   = 0x5ecd
	wirePriority = 1
)

func wireFilter(index int) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS,
		Handle: wireHandle, Priority: wirePriority, Protocol: unix.ETH_P_ALL}, Name: wireName, DirectAction: true}
}

func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

// attachWire has what comes by a segment for slots handed to them. What others have attached there stays.
func (f *filter) attachWire(s *segment) error {
	if err := netlink.QdiscAdd(clsact(s.index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot attach the filter to %s: %w", s.name, err)
	}
	ours := wireFilter(s.index)
	ours.Fd = f.programs.Wire.FD()
	if err := netlink.FilterReplace(ours); err != nil {
		return fmt.Errorf("cannot attach the filter to %s: %w", s.name, err)
	}
	return nil
}

// detachWires undoes attachWire on all links, whoever did it, and takes back what is lent to slots of
// these ranges.
func detachWires(ranges []netip.Prefix) error {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	for _, l := range links {
		index := l.Attrs().Index
		in, err := filtersOf(index, netlink.HANDLE_MIN_INGRESS)
		if err != nil || !slices.ContainsFunc(in, isWire) {
			continue
		}
		if err := netlink.FilterDel(wireFilter(index)); err != nil && !errors.Is(err, unix.ENOENT) && !gone(err) {
			return fmt.Errorf("cannot take the filter off %s: %w", l.Attrs().Name, err)
		}
		out, err := filtersOf(index, netlink.HANDLE_MIN_EGRESS)
		if err != nil || len(in)+len(out) > 1 {
			continue // somebody else needs what filters hang on
		}
		if err := netlink.QdiscDel(clsact(index)); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !gone(err) {
			return fmt.Errorf("cannot take what the filter hung on off %s: %w", l.Attrs().Name, err)
		}
	}
	all, err := addressesNow()
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range all {
		if a.ofSlots(ranges...) {
			err = errors.Join(err, (&segment{name: fmt.Sprint("link ", a.link), index: a.link}).takeBack(a.Addr()))
		}
	}
	return err
}

func filtersOf(index int, parent uint32) ([]netlink.Filter, error) {
	return consistent(func() ([]netlink.Filter, error) {
		return netlink.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, parent)
	})
}

func isWire(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == wireName && b.Handle == wireHandle
}

// enter puts a slot on the segment.
func (n *Net) enter(s *Slot) error {
	if s.segment == nil {
		return nil
	}
	for _, a := range n.inners(s.link) {
		if err := n.filter.own(a, s.outer.Attrs().Index); err != nil {
			return err
		}
		if err := s.segment.lend(a); err != nil {
			return err
		}
		s.lent = append(s.lent, a)
		if err := s.segment.lent(a); err != nil {
			return err
		}
	}
	return nil
}

// depart takes it off again: what comes for it is dropped by then.
func (n *Net) depart(l *link) (err error) {
	if l.segment == nil {
		return nil
	}
	for _, a := range n.inners(l) {
		err = errors.Join(err, n.filter.disown(a))
	}
	for _, a := range l.lent { // and no address that was somebody else's before
		err = errors.Join(err, l.segment.takeBack(a))
	}
	return err
}

// lookOn says what a segment lacks of what slots on it need, and what a slot's addresses do.
func (n *Net) lookOn(s *segment, slots []netip.Addr) error {
	now, err := netlink.LinkByIndex(s.index)
	if gone(err) {
		return lostBy("the interface " + s.name + " is gone")
	}
	if err != nil {
		return fmt.Errorf("cannot look at %s: %w", s.name, err)
	}
	switch a := now.Attrs(); {
	case a.Name != s.name:
		return lostBy("the interface " + s.name + " is called " + a.Name) // the table knows it by its name
	case a.Flags&net.FlagUp == 0:
		return lostBy("the interface " + s.name + " is down")
	case !slices.Equal(a.HardwareAddr, s.mac):
		return lostBy("the interface " + s.name + " has another hardware address")
	}
	if there, err := n.filter.onWire(s); err != nil {
		return err
	} else if !there {
		return lostBy("the filter is not on the interface " + s.name)
	}
	all, err := addressesNow()
	if err != nil {
		return fmt.Errorf("cannot list the addresses of %s: %w", s.name, err)
	}
	if s == n.segment() { // what stands in for it in a proof has none
		for _, network := range s.nets {
			if !slices.ContainsFunc(all, func(o owned) bool { return o.link == s.index && !o.ours && o.Masked() == network }) {
				return lostBy("the interface " + s.name + " is no longer in the network " + network.String())
			}
		}
	}
	for _, a := range slots {
		if !slices.ContainsFunc(all, func(o owned) bool { return o.link == s.index && o.Addr() == a }) {
			return lostBy("the interface " + s.name + " has lost the address " + a.String())
		}
	}
	return nil
}

// onWire says whether what comes by a segment is handed over.
func (f *filter) onWire(s *segment) (bool, error) {
	in, err := filtersOf(s.index, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return false, fmt.Errorf("cannot list the filters of %s: %w", s.name, err)
	}
	return slices.ContainsFunc(in, func(x netlink.Filter) bool { return isWire(x) && x.(*netlink.BpfFilter).Id == f.wire }), nil
}

// rangeRecord is what bpf/scope.c calls by the same name.
type rangeRecord struct {
	Net4, Mask4 [4]byte
	Net6, Mask6 [16]byte
}

// reserve says which addresses of a segment are slots' alone.
func (f *filter) reserve(four, six netip.Prefix) error {
	r := rangeRecord{Net4: four.Addr().As4(), Mask4: [4]byte(net.CIDRMask(four.Bits(), 32))}
	if six.IsValid() {
		r.Net6, r.Mask6 = six.Addr().As16(), [16]byte(net.CIDRMask(six.Bits(), 128))
	}
	return f.maps.Range.Put(uint32(0), r)
}

// own has what comes for an address handed to a link.
func (f *filter) own(a netip.Addr, ifindex int) error {
	if err := f.maps.Owners.Put(a.As16(), uint32(ifindex)); err != nil {
		return fmt.Errorf("cannot have what is for %s handed over: %w", a, err)
	}
	return nil
}

// disown has it dropped; an address that nobody had is no error.
func (f *filter) disown(a netip.Addr) error {
	if err := f.maps.Owners.Delete(a.As16()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("cannot have what is for %s dropped: %w", a, err)
	}
	return nil
}
