package scope

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Mode is how what slots send leaves this machine.
type Mode string

const (
	// Routed is under the slots' own addresses, past the tracking of connections: targets need a
	// route back.
	Routed Mode = "routed"
	// Translated is under this machine's address, as connections that its kernel tracks.
	Translated Mode = "translated"
	// L2 is by the segment of one interface, under addresses there that are slots' alone: with ARP, past
	// this machine's routes and rules. It needs BPF.
	L2 Mode = "l2"
)

// Modes are all of them.
func Modes() []Mode { return []Mode{Routed, Translated, L2} }

// Cannot says what scans cannot do in a mode, in a few words each.
func (m Mode) Cannot() []string {
	const link = "no ARP: scans see no hardware addresses, and hosts of this machine's own link one hop further away"
	switch m {
	case Routed:
		return []string{"targets without a route back to the slots' addresses look silent or down", link}
	case Translated:
		return []string{"TCP packets that neither open nor belong to a connection are not sent (some of OS detection)", link,
			"many connections at once: they share this machine's table of connections"}
	case L2:
		return []string{"targets that are not on the segment of slots.interface are refused",
			"many hosts at once: the scan shares this machine's table of neighbours"}
	}
	return nil
}

// Tracking is what the kernel keeps of connections.
type Tracking struct {
	Max   int64         // entries, of the whole machine; 0: it does not say
	Keeps time.Duration // one that nothing answered
}

// Tracking reads it. It is zero in a mode that tracks nothing.
func (n *Net) Tracking() Tracking {
	if n.cfg.Mode != Translated {
		return Tracking{}
	}
	t := Tracking{Max: tracking("max")}
	for _, key := range []string{"tcp_timeout_syn_sent", "udp_timeout", "icmp_timeout"} {
		t.Keeps = max(t.Keeps, time.Duration(tracking(key))*time.Second)
	}
	return t
}

// tracking is a number of the kernel's about connections; 0: it has none of that name.
func tracking(key string) int64 {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + key)
	if err != nil {
		return 0
	}
	v, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // what is no number is none
	return v
}

// Tracked is how many connections this machine tracks now, and how many at most.
func Tracked() (now, most int64, err error) {
	if most = tracking("max"); most == 0 {
		return 0, 0, errors.New("this kernel tracks no connections")
	}
	return tracking("count"), most, nil
}

// connections are those that some address of a list opened, for netlink's Conntrack functions.
type connections []netip.Prefix

// MatchConntrackFlow is netlink.CustomConntrackFilter's.
func (c connections) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	from, ok := netip.AddrFromSlice(f.Forward.SrcIP)
	return ok && slices.ContainsFunc(c, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) })
}

// untrack makes the kernel forget connections. It reads the whole table for that.
func untrack(c connections) error {
	for _, family := range families() {
		_, err := consistent(func() ([]uint, error) {
			n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family), c)
			return []uint{n}, err
		})
		// A kernel that tracks nothing has nothing to forget.
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot forget connections: %w", err)
		}
	}
	return nil
}

// forgetConnections makes the kernel forget those of a link that is gone, and of others that went
// meanwhile: one reading of the table serves them all.
func (n *Net) forgetConnections(l *link) error {
	if n.cfg.Mode != Translated {
		return nil
	}
	n.departed.Lock()
	n.departed.list = append(n.departed.list, netip.PrefixFrom(l.inner4, 32), netip.PrefixFrom(l.inner6, 128))
	n.departed.Unlock()
	n.forgetting.Lock()
	defer n.forgetting.Unlock()
	n.departed.Lock()
	list := n.departed.list
	n.departed.list = nil
	n.departed.Unlock()
	if len(list) == 0 {
		return nil // somebody else's reading has served this one
	}
	return untrack(list)
}
