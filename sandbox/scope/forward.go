package scope

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// guard is a switch of an interface that is on for slots alone.
type guard struct{ family, key, link string }

// lead is an interface that leads to a part of a scope.
type lead struct {
	name  string
	index int
}

// forward lets packets of a slot cross this machine: on the slot's link, and on the interfaces
// that lead to its scope, one by one. The machine's global switch is left alone, and on an
// interface that did not forward before, nothing but slots may use it.
func (n *Net) forward(link string, allow []netip.Prefix, ipv6 bool) ([]lead, error) {
	if err := set("ipv4", link, "forwarding", "1"); err != nil {
		return nil, err
	}
	leads, err := outgoing(allow)
	if err != nil {
		return nil, err
	}
	for _, l := range leads {
		if get("ipv4", l.name, "forwarding") == "1" {
			continue
		}
		if err := n.guard(guard{"ipv4", "forwarding", l.name}); err != nil {
			return nil, err
		}
		if err := set("ipv4", l.name, "forwarding", "1"); err != nil {
			return nil, err
		}
	}
	if !ipv6 || get("ipv6", "all", "forwarding") == "1" {
		return leads, nil
	}
	for _, l := range append(slices.Clone(leads), lead{name: link}) {
		switch get("ipv6", l.name, "force_forwarding") {
		case "1":
			continue
		case "":
			return nil, ErrNoIPv6
		}
		if l.name != link {
			if err := n.guard(guard{"ipv6", "force_forwarding", l.name}); err != nil {
				return nil, err
			}
		}
		if err := set("ipv6", l.name, "force_forwarding", "1"); err != nil {
			return nil, err
		}
	}
	return leads, nil
}

// stops names the switch that keeps packets of a slot from crossing this machine.
func (s *Slot) stops() string {
	ipv6 := slices.ContainsFunc(s.allow, func(p netip.Prefix) bool { return p.Addr().Is6() }) && get("ipv6", "all", "forwarding") != "1"
	for _, l := range append(slices.Clone(s.leads), lead{name: s.name()}) {
		// An interface that is gone is no way any more, and no switch was touched.
		if get("ipv4", l.name, "forwarding") == "0" {
			return "IPv4 forwarding of " + l.name + " is off"
		}
		if ipv6 && get("ipv6", l.name, "force_forwarding") == "0" {
			return "IPv6 forwarding of " + l.name + " is off"
		}
	}
	return ""
}

func (n *Net) guard(g guard) error {
	n.guards[g] = true
	if err := n.t.guard(g.family, g.key, g.link); err != nil {
		return err
	}
	return n.remember() // whoever needs it, and whatever becomes of that: a slot, or the proof
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
func outgoing(allow []netip.Prefix) ([]lead, error) {
	routes, err := consistent(allRoutes)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	seen := map[int]bool{}
	var leads []lead
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
				leads = append(leads, lead{name, index})
			}
		}
	}
	return leads, nil
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
