package scope

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The fence is a second obstacle that does not depend on the filter: a routing table that what
// comes from a slot is looked up in first. It throws the addresses of the scope back to the
// machine's own routes and swallows all others. It judges destinations alone; the filter judges
// everything else, and counts.

// fenceTable is the routing table of link 0; the following ones belong to the following links.
const fenceTable = 0x5ecd0000

// fenceTables is more than there are links.
const fenceTables = 0x10000

// passed is the mark of what the BPF filter has passed, until the table takes it off.
const passed = 0x5ec0de01

// trapRule swallows what has the mark: the table that should have taken it off is not there, and
// what is tracked may be sent elsewhere by rules of others.
func trapRule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Type, r.Priority, r.Mark = family, unix.FR_ACT_BLACKHOLE, fencePriority, passed
	r.Protocol = unix.RTPROT_KERNEL
	return r
}

// trap sets it.
func trap() error {
	for _, family := range families() {
		if err := netlink.RuleAdd(trapRule(family)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// fencePriority puts the rule behind that of the machine's own addresses, which is always the
// first, and before all others.
const fencePriority = 1

func fenceRule(number, family int, link string) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Table, r.Priority, r.IifName = family, fenceTable+number, fencePriority, link
	// As the kernel's own: systemd-networkd removes the rules and routes of everybody else.
	r.Protocol = unix.RTPROT_KERNEL
	return r
}

func fenceRoute(number int, to netip.Prefix, kind int) *netlink.Route {
	dst := &net.IPNet{IP: to.Masked().Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
	return &netlink.Route{Table: fenceTable + number, Type: kind, Dst: dst, Protocol: unix.RTPROT_KERNEL}
}

// fenceRoutes are those of a slot's fence in one family.
func fenceRoutes(number, family int, allow []netip.Prefix) []*netlink.Route {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == netlink.FAMILY_V6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	routes := []*netlink.Route{fenceRoute(number, all, unix.RTN_BLACKHOLE)}
	for _, p := range allow {
		switch {
		case p.Addr().Is4() != all.Addr().Is4():
		case p.Bits() == 0:
			routes[0] = fenceRoute(number, all, unix.RTN_THROW)
		default:
			routes = append(routes, fenceRoute(number, p, unix.RTN_THROW))
		}
	}
	return routes
}

func families() []int {
	if hasIPv6() {
		return []int{netlink.FAMILY_V4, netlink.FAMILY_V6}
	}
	return []int{netlink.FAMILY_V4}
}

// fence puts the fence of a slot in place.
func fence(l *link, allow []netip.Prefix) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, family := range families() {
		for _, r := range fenceRoutes(l.number, family, allow) {
			if err := h.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("route to %s: %w", r.Dst, err)
			}
		}
		if err := h.RuleAdd(fenceRule(l.number, family, l.name())); err != nil {
			return fmt.Errorf("rule: %w", err)
		}
	}
	return nil
}

// unfence removes a slot's fence; what is not there is no error.
func unfence(l *link, allow []netip.Prefix) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	var errs []error
	for _, family := range families() {
		if err := h.RuleDel(fenceRule(l.number, family, l.name())); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("cannot remove the fence of %s: %w", l.name(), err))
		}
		for _, r := range fenceRoutes(l.number, family, allow) {
			if err := h.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("cannot remove the fence of %s: %w", l.name(), err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// removeFences removes all of them, whoever made them.
func removeFences() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	ours := func(table int) bool { return table >= fenceTable && table < fenceTable+fenceTables }
	rules, err := consistent(func() ([]netlink.Rule, error) { return h.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("cannot list the rules of routing: %w", err)
	}
	for _, r := range rules {
		if r.Mark == passed && r.Priority == fencePriority {
			if err := h.RuleDel(trapRule(r.Family)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("cannot remove a rule of routing: %w", err)
			}
			continue
		}
		if !ours(r.Table) || !strings.HasPrefix(r.IifName, prefix) {
			continue
		}
		if err := h.RuleDel(fenceRule(r.Table-fenceTable, r.Family, r.IifName)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot remove the fence of %s: %w", r.IifName, err)
		}
	}
	routes, err := consistent(func() (found []netlink.Route, err error) {
		err = h.RouteListFilteredIter(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if ours(r.Table) {
				found = append(found, r)
			}
			return true
		})
		return found, err
	})
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot remove the fence's route to %s: %w", r.Dst, err)
		}
	}
	return nil
}
