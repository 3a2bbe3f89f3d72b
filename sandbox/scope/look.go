package scope

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What belongs to a slot is changed by us before it is in use and after it was, never meanwhile. So
// whatever is said to have changed of one in use is looked at, and what is not as it must be was
// changed by somebody else.

// linkGroups are what is said of links, queues and filters, addresses, routes, rules and forwarding.
var linkGroups = []int{unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF}

// look says what a link lacks of what join gave it.
func (n *Net) look(l *link) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot look at %s: %w", l.name(), err)
	}
	defer h.Close()
	now, err := h.LinkByIndex(l.outer.Attrs().Index)
	if gone(err) {
		return lostBy("the link " + l.name() + " is gone")
	}
	if err != nil {
		return fmt.Errorf("cannot look at %s: %w", l.name(), err)
	}
	switch a := now.Attrs(); {
	case a.Name != l.name():
		return lostBy("the link " + l.name() + " is called " + a.Name)
	case a.Flags&net.FlagUp == 0:
		return lostBy("the link " + l.name() + " is down")
	case a.RawFlags&unix.IFF_LOWER_UP == 0:
		return lostBy("the box's side of the link " + l.name() + " is down")
	case a.MasterIndex != 0:
		return lostBy("the link " + l.name() + " belongs to another interface")
	case a.Xdp != nil && a.Xdp.Attached:
		return lostBy("the link " + l.name() + " has an XDP program")
	case !slices.Equal(a.HardwareAddr, l.outer.Attrs().HardwareAddr):
		return lostBy("the link " + l.name() + " has another hardware address")
	case l.segment != nil && !slices.Equal(l.inner, l.segment.mac):
		return lostBy("the link " + l.name() + " was made for another hardware address of " + l.segment.name)
	}
	if n.filter != nil && !n.filter.on(h, now) {
		return lostBy("the filter is not on the link " + l.name() + ", or not alone")
	}
	if l.segment != nil {
		return n.lookOn(l.segment, nil)
	}
	for _, inner := range n.inners(l) {
		routes, err := h.RouteGet(inner.AsSlice())
		if err != nil || len(routes) != 1 || routes[0].LinkIndex != now.Attrs().Index {
			return lostBy("no route leads to the link " + l.name())
		}
	}
	return nil
}

func (n *Net) inners(l *link) []netip.Addr {
	if n.ipv6 {
		return []netip.Addr{l.inner4, l.inner6}
	}
	return []netip.Addr{l.inner4}
}

// lookAt looks at all that a slot in use must have.
func (n *Net) lookAt(s *Slot) error {
	if err := n.look(s.link); err != nil {
		return err
	}
	if s.segment != nil {
		return errors.Join(n.lookOn(s.segment, n.inners(s.link)), s.loud())
	}
	have, err := consistent(func() ([]netlink.Addr, error) { return netlink.AddrList(s.outer, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("cannot list the addresses of %s: %w", s.name(), err)
	}
	outers := []netip.Addr{s.outer4, s.outer6}[:len(n.inners(s.link))]
	for _, outer := range outers {
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(outer.AsSlice()) }) {
			return lostBy("the link " + s.name() + " has lost its address " + outer.String())
		}
	}
	if n.filter == nil && !fenced(s.link) {
		return lostBy("the routing of the link " + s.name())
	}
	if off := s.stops(); off != "" {
		return lostBy(off)
	}
	return nil
}

// Check looks once more at all that holds the slot to its scope and lets it through. An error is an
// ErrLost that says what is not as it was, and the slot is lost then; or the slot cannot be looked at.
func (s *Slot) Check() error {
	n := s.net
	n.losing.Lock()
	defer n.losing.Unlock()
	if s.isLost() {
		return s.what
	}
	err := n.lookAt(s)
	if err == nil && n.filter != nil && !trapped() {
		err = errTrap // the watch will find it, too
	}
	if errors.Is(err, ErrLost) && err != errTrap {
		n.mu.Lock()
		defer n.mu.Unlock()
		return errors.Join(err, n.loseOne(s, err))
	}
	return err
}

// loseOne is what follows when a slot's part is no longer as we made it. mu is held.
func (n *Net) loseOne(s *Slot, what error) error {
	if !n.slots[s] {
		return nil
	}
	err := down(s.outer)
	if n.filter != nil {
		err = errors.Join(err, n.filter.stop(s.outer.Attrs().Index))
	}
	s.end(what)
	return err
}

var errTrap = lostBy("the rule of routing for packets that the nftables table inet " + tableName + " has not seen")

// watchLinks looks at the slots in use of which something has changed.
func (n *Net) watchLinks(ctx context.Context, lost func(what, err error)) error {
	for {
		messages, err := n.links.next()
		changed := newChanges(messages)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOverrun):
			changed = changes{all: true}
		case err != nil:
			return fmt.Errorf("cannot watch the slots' links: %w", err)
		}
		if changed.all && n.filter != nil && !trapped() {
			lost(errTrap, n.lose(errTrap))
			continue
		}
		n.mu.Lock()
		var used []*Slot
		for s := range n.slots {
			if changed.of(s) {
				used = append(used, s)
			}
		}
		n.mu.Unlock()
		for _, s := range used {
			n.losing.Lock()
			what := n.lookAt(s)
			if what == nil && changed.fences[s.number] {
				what = lostBy("the routing of the link " + s.name())
			}
			n.losing.Unlock()
			if what == nil {
				continue
			}
			n.mu.Lock()
			still := n.slots[s] // or it was closed meanwhile
			err := n.loseOne(s, what)
			n.mu.Unlock()
			if still {
				lost(what, err)
			}
		}
	}
}

// changes are what messages of the kernel are about.
type changes struct {
	all     bool // a rule of routing, or nobody knows
	indexes map[int]bool
	inners  map[netip.Addr]bool
	fences  map[int]bool // by number: something was taken from them
}

func (c changes) of(s *Slot) bool {
	return c.all || c.indexes[s.outer.Attrs().Index] || c.inners[s.inner4] || c.inners[s.inner6] || c.fences[s.number] ||
		slices.ContainsFunc(s.leads, func(l lead) bool { return c.indexes[l.index] })
}

func newChanges(messages []syscall.NetlinkMessage) changes {
	c := changes{indexes: map[int]bool{}, inners: map[netip.Addr]bool{}, fences: map[int]bool{}}
	for _, m := range messages {
		c.add(m)
	}
	return c
}

func (c *changes) add(m syscall.NetlinkMessage) {
	removes := m.Header.Flags&unix.NLM_F_REPLACE != 0
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		var table int
		for kind, value := range attributes(m.Data, unix.SizeofRtMsg) {
			switch {
			case kind == unix.RTA_OIF && len(value) == 4:
				c.indexes[int(binary.NativeEndian.Uint32(value))] = true
			case kind == unix.RTA_TABLE && len(value) == 4:
				table = int(binary.NativeEndian.Uint32(value))
			case kind == unix.RTA_DST:
				if a, ok := netip.AddrFromSlice(value); ok {
					c.inners[a] = true
				}
			}
		}
		if number, ours := fenceNumber(table); ours && (removes || m.Header.Type == unix.RTM_DELROUTE) {
			c.fences[number] = true
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		var table int
		for kind, value := range attributes(m.Data, unix.SizeofRtMsg) { // a rule's header is as long
			if kind == unix.FRA_TABLE && len(value) == 4 {
				table = int(binary.NativeEndian.Uint32(value))
			}
		}
		if number, ours := fenceNumber(table); !ours {
			c.all = true
		} else if m.Header.Type == unix.RTM_DELRULE {
			c.fences[number] = true
		}
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		for kind, value := range attributes(m.Data, 4) {
			if kind == 1 && len(value) == 4 { // NETCONFA_IFINDEX
				c.indexes[int(int32(binary.NativeEndian.Uint32(value)))] = true
			}
		}
	default: // of a link, an address, a queue or a filter
		if len(m.Data) >= 8 {
			c.indexes[int(binary.NativeEndian.Uint32(m.Data[4:]))] = true
		}
	}
}

// attributes are those behind a header of a message.
func attributes(b []byte, header int) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for b = b[min(header, len(b)):]; len(b) >= unix.NLA_HDRLEN; {
			size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if size < unix.NLA_HDRLEN || size > len(b) || !yield(kind&^unix.NLA_F_NESTED, b[unix.NLA_HDRLEN:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// trapped says whether the trap is set.
func trapped() bool {
	return ruled(func(r netlink.Rule) bool {
		return r.Mark == passed && r.Priority == fencePriority && r.Table == 0 && !r.Invert // no table: it swallows
	})
}

// fenced says whether what comes from a link is looked up in its fence.
func fenced(l *link) bool {
	return ruled(func(r netlink.Rule) bool {
		return r.IifName == l.name() && r.Priority == fencePriority && r.Table == fenceTable+l.number && !r.Invert
	})
}

// ruled says whether there is such a rule of routing in each family.
func ruled(is func(netlink.Rule) bool) bool {
	for _, family := range families() {
		rules, err := consistent(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil || !slices.ContainsFunc(rules, is) {
			return false
		}
	}
	return true
}

// fenceNumber is the number of the link whose fence a routing table is.
func fenceNumber(table int) (number int, ours bool) {
	return table - fenceTable, table >= fenceTable && table < fenceTable+fenceTables
}
