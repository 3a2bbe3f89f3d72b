package scope

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// silence keeps a slot's own kernel from sending ICMP. To an answer for which it knows no socket, as
// of a scan with raw ones, it says that nobody listens; where no ICMP passes, that would be counted
// as if the scanner had sent it. What is received is not concerned. The scanner can do without the
// rule nothing that the filter lets through.
func silence(ns *os.File, ipv6 bool) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("icmp: %w", err)
	}
	defer h.Close()
	protocols := map[int]int{nl.FAMILY_V4: unix.IPPROTO_ICMP}
	if ipv6 {
		protocols[nl.FAMILY_V6] = unix.IPPROTO_ICMPV6
	}
	for family, protocol := range protocols {
		r := netlink.NewRule()
		r.Family, r.IPProto, r.Type, r.Priority = family, protocol, unix.FR_ACT_BLACKHOLE, fencePriority
		r.IifName = "lo" // what this kernel sends, not what it receives
		if err := h.RuleAdd(r); err != nil {
			return fmt.Errorf("icmp: %w", err)
		}
	}
	return nil
}
