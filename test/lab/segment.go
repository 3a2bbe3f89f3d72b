package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
)

// A segment of the scanning machine's own, beside the uplink: a switch, and stations behind it.
const (
	SegmentLink = "segment"
	SegmentOwn  = "172.31.0.1" // the scanning machine there
	SegmentOwn6 = "fd31::1"
	// SegmentV4 and SegmentV6 are addresses of the segment that nobody has.
	SegmentV4 = "172.31.0.64/26"
	SegmentV6 = "fd31::5c00/120"
)

// Station is a host on the segment: 22 and 80 are open.
type Station struct {
	NS        *os.File
	Four, Six netip.Addr
	MAC       net.HardwareAddr
}

// Segment makes it, with so many stations, at 172.31.0.10, fd31::10 and the following ones (at most 40).
func (l *Lab) Segment(stations int) (list []Station, undo func() error, err error) {
	var own []func() error
	undo = func() error {
		l.segments = slices.DeleteFunc(l.segments, func(s segment) bool { return s.name == SegmentLink })
		errs := []error{unlink(SegmentLink)}
		for _, do := range own {
			errs = append(errs, do())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot make the segment: %w", err), undo())
		}
	}()
	bridge, err := namespace()
	if err != nil {
		return nil, undo, err
	}
	own = append(own, bridge.Close)
	h, err := handle(bridge)
	if err != nil {
		return nil, undo, err
	}
	defer h.Close()
	if err := in(bridge, func() error { return switches("ipv6/conf/default/disable_ipv6", "1") }); err != nil {
		return nil, undo, err
	}
	b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	if err := errors.Join(h.LinkAdd(b), h.LinkSetUp(b)); err != nil {
		return nil, undo, err
	}
	plug := func(port string) error {
		p, err := h.LinkByName(port)
		if err != nil {
			return err
		}
		return h.LinkSetMaster(p, b)
	}
	near, far := end{nil, SegmentLink, []string{SegmentOwn + "/24", SegmentOwn6 + "/64"}}, end{bridge, "machine", nil}
	if err := errors.Join(link(near, far), plug("machine"), l.observed(SegmentLink, near, far)); err != nil {
		return nil, undo, err
	}
	l.segments[len(l.segments)-1].switched = true
	for i := range stations {
		s := Station{Four: netip.AddrFrom4([4]byte{172, 31, 0, byte(10 + i)}), Six: netip.MustParseAddr(fmt.Sprintf("fd31::%d", 10+i))}
		if s.NS, err = namespace(); err != nil {
			return nil, undo, err
		}
		own = append(own, s.NS.Close)
		there := end{s.NS, "eth0", []string{s.Four.String() + "/24", s.Six.String() + "/64"}}
		port := fmt.Sprint("port", i)
		if err := errors.Join(link(end{bridge, port, nil}, there), plug(port)); err != nil {
			return nil, undo, err
		}
		if s.MAC, err = there.mac(); err != nil {
			return nil, undo, err
		}
		for _, a := range []netip.Addr{s.Four, s.Six} {
			for port, speak := range map[uint16]func(net.Conn){22: ssh, 80: web} {
				if err := l.listen(s.NS, netip.AddrPortFrom(a, port).String(), func(n net.Listener) { serve(n, speak) }); err != nil {
					return nil, undo, err
				}
			}
		}
		list = append(list, s)
	}
	return list, undo, nil
}
