package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Sender is a place from which attacks are sent: a slot, or one of the lab's own that nothing
// filters, by which the attacks and the observer are proven.
type Sender struct {
	NS        *os.File
	Four, Six Ends
}

// Ends are the addresses that attacks of one family need: the sender's own, that of the other
// end of its link, another one of the machine that this is, one in scope and one that is not.
type Ends struct{ Source, Gateway, Machine, Allowed, Forbidden netip.Addr }

// SenderIn is a sender in a namespace whose link is eth0, with a way to everywhere by it.
func SenderIn(ns *os.File) (Sender, error) {
	h, err := handle(ns)
	if err != nil {
		return Sender{}, err
	}
	defer h.Close()
	s := Sender{NS: ns}
	s.Four, err = ends(h, netlink.FAMILY_V4, Uplink, SSHAndWeb, Outside)
	if err == nil {
		s.Six, err = ends(h, netlink.FAMILY_V6, Uplink6, IPv6Host, Outside6)
	}
	return s, err
}

func ends(h *netlink.Handle, family int, machine, allowed, forbidden string) (Ends, error) {
	e := Ends{Machine: one(machine).Addr(), Allowed: one(allowed).Addr(), Forbidden: one(forbidden).Addr()}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return e, err
	}
	addresses, err := h.AddrList(eth0, family)
	if err != nil {
		return e, err
	}
	for _, a := range addresses {
		if a.IP.IsGlobalUnicast() {
			e.Source, _ = netip.AddrFromSlice(a.IP)
		}
	}
	routes, err := h.RouteList(eth0, family)
	if err != nil {
		return e, err
	}
	for _, r := range routes {
		if r.Gw != nil {
			e.Gateway, _ = netip.AddrFromSlice(r.Gw)
		}
	}
	e.Source, e.Gateway = e.Source.Unmap(), e.Gateway.Unmap()
	if !e.Source.IsValid() || !e.Gateway.IsValid() {
		return e, errors.New("a sender needs an address and a gateway")
	}
	return e, nil
}

// Scope is what a sender with these ends may send, and Back what may come to it.
func (s Sender) Scope() Scope {
	return Scope{Sources: []netip.Prefix{alone(s.Four.Source), alone(s.Six.Source)}, Targets: []netip.Prefix{alone(s.Four.Allowed), alone(s.Six.Allowed)}}
}

// Back is the scope the other way round.
func (s Sender) Back() Scope { return Scope{Sources: s.Scope().Targets, Targets: s.Scope().Sources} }

func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Direct makes a sender on a link to the router, where an observer sees whatever it sends. One
// at a time.
func (l *Lab) Direct() (s Sender, undo func() error, err error) {
	s, unlink, err := l.sender(l.router, "direct", "10.252.0.", "fd5c::")
	if err != nil {
		return s, nil, err
	}
	s.Four.Machine, s.Six.Machine = one("172.30.0.2").Addr(), one("fd30::2").Addr()
	err = l.observed("direct", end{s.NS, "eth0", []string{s.Four.Source.String() + "/30", s.Six.Source.String() + "/64"}},
		end{l.router, "direct", []string{s.Four.Gateway.String() + "/30", s.Six.Gateway.String() + "/64"}})
	undo = func() error {
		l.segments = slices.DeleteFunc(l.segments, func(s segment) bool { return s.name == "direct" })
		return unlink()
	}
	if err != nil {
		return s, nil, errors.Join(err, undo())
	}
	return s, undo, nil
}

// Routed makes a sender that is joined to the scanning machine as a slot is, without a filter:
// the machine forwards all that it sends. One at a time. While it is there, the machine forwards
// for everybody. Each has addresses of its own: what is still said to the one before would be
// answered by the next.
func (l *Lab) Routed() (s Sender, undo func() error, err error) {
	l.routed++
	four, six := fmt.Sprintf("10.253.%d.", l.routed%256), fmt.Sprintf("fd5d:0:0:%x::", l.routed)
	s, unlink, err := l.sender(nil, "control", four, six)
	if err != nil {
		return s, nil, err
	}
	before := map[string]string{}
	undo = func() error {
		errs := []error{unlink(), l.unroute(four+"0/30", six+"/64")}
		for name, value := range before {
			errs = append(errs, switches(name, value))
		}
		return errors.Join(errs...)
	}
	for name, value := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/accept_source_route": "1", "ipv4/conf/all/rp_filter": "0"} {
		was, err2 := os.ReadFile("/proc/sys/net/" + name)
		before[name] = strings.TrimSpace(string(was))
		err = errors.Join(err, err2, switches(name, value))
	}
	err = errors.Join(err, switches("ipv4/conf/control/rp_filter", "0", "ipv4/conf/control/accept_source_route", "1"),
		route{l.router, four + "0/30", Uplink, 0}.add(), route{l.router, six + "/64", Uplink6, 0}.add())
	if err != nil {
		return s, nil, errors.Join(err, undo())
	}
	return s, undo, nil
}

// Strand takes the lab's way back to the slots away, as it is where nobody was told of them.
func (l *Lab) Strand() (undo func() error, err error) {
	undo = func() error {
		return errors.Join(route{l.router, SlotsV4, Uplink, 0}.add(), route{l.router, SlotsV6, Uplink6, 0}.add())
	}
	return undo, l.unroute(SlotsV4, SlotsV6)
}

func (l *Lab) unroute(list ...string) (err error) {
	h, err := handle(l.router)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, to := range list {
		err = errors.Join(err, h.RouteDel(&netlink.Route{Dst: network(to)}))
	}
	return err
}

// sender makes a namespace on a link to another. As in a slot, neighbours are fixed on both
// sides. It forwards, so that what it sends to itself can leave it.
func (l *Lab) sender(to *os.File, name, four, six string) (s Sender, undo func() error, err error) {
	ns, err := namespace()
	if err != nil {
		return s, nil, err
	}
	near := end{to, name, []string{four + "1/30", six + "1/64"}}
	far := end{ns, "eth0", []string{four + "2/30", six + "2/64"}}
	err = errors.Join(link(near, far), in(ns, func() error { return switches("ipv4/ip_forward", "1", "ipv6/conf/all/forwarding", "1") }),
		fix(near, far), fix(far, near), route{ns, "0.0.0.0/0", four + "1", 0}.add(), route{ns, "::/0", six + "1", 0}.add())
	undo = func() error {
		defer ns.Close()
		return in(to, func() error { return unlink(name) })
	}
	if err == nil {
		s, err = SenderIn(ns)
	}
	if err != nil {
		return s, nil, errors.Join(err, undo())
	}
	return s, undo, nil
}

// fix tells one end of a link where the other is.
func fix(here, there end) error {
	mac, err := there.mac()
	if err != nil {
		return err
	}
	h, err := handle(here.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(here.name)
	if err != nil {
		return err
	}
	for _, a := range there.addresses {
		err = errors.Join(err, h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: netip.MustParsePrefix(a).Addr().AsSlice(), HardwareAddr: mac}))
	}
	return err
}
