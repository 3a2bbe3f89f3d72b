package scope

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// here are the scanning machine's addresses.
var (
	here  = netip.MustParseAddr("10.77.255.1")
	here6 = netip.MustParseAddr("fd77::ffff")
)

// careless makes the base pass every connection, wherever somebody else has sent it.
func careless(t *testing.T, n *Net) {
	t.Helper()
	last := &nftables.Chain{Table: n.t.t, Name: "tracked"}
	n.nft.FlushChain(last)
	n.t.rule(last, "base", from(prefix), unmark(), pass())
	must(t, n.nft.Flush())
}

// rewriting are rules of others that send what is bound for one address elsewhere.
var rewriting = []struct {
	says string
	to   netip.Addr // which the slot may send to
	rule func() []expr.Any
}{
	{"a published port", allowed, func() []expr.Any {
		return slices.Concat(is4(), equal(netDst4, allowed.AsSlice()), tcpPort(80), dnat(forbidden))
	}},
	{"a published port, IPv6", allowed6, func() []expr.Any {
		return slices.Concat(is6(), equal(netDst6, allowed6.AsSlice()), tcpPort(80), dnat(forbidden6))
	}},
	{"a published port of this machine", here, func() []expr.Any {
		local := []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)}}
		return slices.Concat(is4(), local, tcpPort(80), dnat(forbidden))
	}},
	{"a redirection to this machine", allowed, func() []expr.Any {
		return slices.Concat(is4(), tcpPort(80), redirect(8080))
	}},
	{"a redirection to this machine, IPv6", allowed6, func() []expr.Any {
		return slices.Concat(is6(), tcpPort(80), redirect(8080))
	}},
}

func tcpPort(port uint16) []expr.Any {
	return slices.Concat(meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)}})
}

func dnat(to netip.Addr) []expr.Any {
	family := uint32(unix.NFPROTO_IPV4)
	if to.Is6() {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Immediate{Register: 1, Data: to.AsSlice()}, &expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1}}
}

func redirect(port uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)}, &expr.Redir{RegisterProtoMin: 1}}
}

// others puts a rule of somebody else's into a chain until the test ends.
func others(t *testing.T, of nftables.ChainType, priority nftables.ChainPriority, rule []expr.Any) {
	t.Helper()
	c := somebody(t)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "engine"})
	chain := c.AddChain(&nftables.Chain{Table: table, Name: "prerouting", Type: of, Hooknum: nftables.ChainHookPrerouting, Priority: &priority})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	must(t, c.Flush())
	t.Cleanup(func() { c.DelTable(table); must(t, c.Flush()) })
}

// A filter that judges destinations is of no use where somebody translates them behind it.
func TestATranslatedDestinationIsNotReached(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		for _, c := range rewriting {
			for _, priority := range []nftables.ChainPriority{-199, -100, math.MaxInt32} {
				t.Run(fmt.Sprintf("%s, priority %d", c.says, priority), func(t *testing.T) {
					l := newLab(t)
					n := openNet(t)
					listen(t, "[::]:8080")
					s := slotOf(t, n, All(host(c.to)))
					others(t, nftables.ChainTypeNAT, priority, c.rule())
					l.strangers(outside(s))
					err := dial(s.NetNS(), c.to, 300*time.Millisecond)
					// Where nothing is tracked nothing is translated: the packet goes where it is bound for.
					if reached := err == nil; reached != (config.Mode != Translated && c.to != here) {
						t.Errorf("a connection: %v", err)
					}
					for _, f := range l.strangers(outside(s)) {
						if !strings.HasPrefix(f, here.String()) && !strings.HasPrefix(f, here6.String()) || strings.Contains(f, forbidden.String()) || strings.Contains(f, forbidden6.String()) {
							t.Error(f)
						}
					}
				})
			}
		}
	})
}

// Without the last chain the same rules carry the same connections away.
func TestWithoutTheLastChainDestinationsAreTranslated(t *testing.T) {
	withMode(t, Translated)
	for _, c := range rewriting {
		t.Run(c.says, func(t *testing.T) {
			l := newLab(t)
			n := openNet(t)
			s := slotOf(t, n, All(host(c.to)))
			careless(t, n)
			n.nft.FlushChain(&nftables.Chain{Table: n.t.t, Name: "input"})
			must(t, n.nft.Flush())
			listen(t, "[::]:8080")
			others(t, nftables.ChainTypeNAT, -100, c.rule())
			l.strangers(outside(s))
			if strings.Contains(c.says, "redirection") {
				// The answer comes from another address than was asked, as it looks to the filter; who
				// listens here hears of it all the same.
				_ = dial(s.NetNS(), c.to, 300*time.Millisecond)
				if got := tracked(t, s); !strings.Contains(got, "8080") {
					t.Errorf("the kernel tracks %q", got)
				}
				return
			}
			_ = dial(s.NetNS(), c.to, 300*time.Millisecond)
			if found := l.strangers(outside(s)); len(found) == 0 {
				t.Error("nothing reached the other address")
			}
		})
	}
}

// tracked is what the kernel tracks of a slot.
func tracked(t *testing.T, s *Slot) string {
	t.Helper()
	var out []string
	for _, family := range families() {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family))
		must(t, err)
		for _, f := range flows {
			if (connections{host(s.inner4), host(s.inner6)}).MatchConntrackFlow(f) {
				out = append(out, f.String())
			}
		}
	}
	return strings.Join(out, "\n")
}

// What leaves leaves under this machine's address or not at all.
func TestNothingLeavesUntranslated(t *testing.T) {
	withMode(t, Translated)
	for _, filter := range []bool{false, true} {
		t.Run(fmt.Sprint("no BPF is ", filter), func(t *testing.T) {
			if filter {
				withTable(t)
			}
			l := newLab(t)
			n := openNet(t)
			s := slotOf(t, n, All(host(allowed), host(allowed6)))
			must(t, reaches(s.NetNS(), allowed))
			must(t, reaches(s.NetNS(), allowed6))
			silent := func(says string) {
				t.Helper()
				if found := l.strangers(outside(s)); len(found) > 0 {
					t.Errorf("%s: %v", says, found)
				}
			}
			silent("connections")
			for _, flags := range []byte{0, 1, 0x29, 0x2b} { // none, FIN, FIN PSH URG, SYN FIN PSH URG
				p := packet4(inner(s), allowed, unix.IPPROTO_TCP, nil, 0)
				p = append(p, make([]byte, 12)...)
				binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
				p[32], p[33] = 5<<4, flags
				must(t, frame(s, unix.ETH_P_IP, checksummed(p), true))
			}
			silent("segments of no connection")
			others(t, nftables.ChainTypeFilter, -300, notrack())
			if dial(s.NetNS(), allowed, 300*time.Millisecond) == nil || dial(s.NetNS(), allowed6, 300*time.Millisecond) == nil {
				t.Error("a connection that nobody tracks was answered")
			}
			silent("what somebody keeps from being tracked")
		})
	}
}

// A slot's own address is nobody's business outside.
func TestNobodySpeaksToASlotsOwnAddress(t *testing.T) {
	withMode(t, Translated)
	l := newLab(t)
	n := openNet(t)
	s := slotOf(t, n, All(host(allowed)))
	must(t, reaches(s.NetNS(), allowed)) // the way is open
	before, err := s.Counters()
	must(t, err)
	l.in(t, func() {
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: whole(s.inner4), Gw: here.AsSlice()}))
		c, err := net.Dial("udp", netip.AddrPortFrom(s.inner4, 9).String())
		must(t, err)
		defer c.Close()
		for range 5 {
			_, _ = c.Write([]byte("hello")) // refused, once it arrives
		}
	})
	time.Sleep(50 * time.Millisecond)
	after, err := s.Counters()
	must(t, err)
	if after.Received != before.Received || after.Refused != before.Refused {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// Not even a scope that has another slot in it leads there.
func TestSlotsDoNotReachEachOther(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		one := slotOf(t, n, All(config.V4, config.V6))
		other, err := n.Slot(context.Background(), All(config.V4, config.V6), 0)
		must(t, err)
		defer other.Close()
		must(t, in(other.NetNS(), func() { listen(t, "[::]:80") }))
		for _, to := range []netip.Addr{other.inner4, other.inner6} {
			if dial(one.NetNS(), to, 300*time.Millisecond) == nil {
				t.Errorf("%s was reached", to)
			}
		}
		if c, err := other.Counters(); err != nil || c.Received+c.Refused > 0 {
			t.Errorf("the other slot: %+v, %v", c, err)
		}
	})
}

// What a job has left in the table of connections goes with it, and nothing else does.
func TestConnectionsAreForgotten(t *testing.T) {
	withMode(t, Translated)
	newLab(t)
	n := openNet(t)
	own, err := net.Dial("tcp", netip.AddrPortFrom(allowed, 80).String())
	must(t, err)
	defer own.Close()
	var slots []*Slot
	for range 3 {
		s, err := n.Slot(context.Background(), All(host(allowed), host(allowed6)), 0)
		must(t, err)
		must(t, reaches(s.NetNS(), allowed))
		must(t, reaches(s.NetNS(), allowed6))
		if strings.Count(tracked(t, s), "\n") < 1 {
			t.Fatalf("nothing is tracked: %q", tracked(t, s))
		}
		slots = append(slots, s)
	}
	for _, s := range slots[:2] {
		must(t, s.Close())
	}
	for deadline := time.Now().Add(3 * time.Second); tracked(t, slots[0])+tracked(t, slots[1]) != "" && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	for i, want := range []bool{false, false, true} {
		if got := tracked(t, slots[i]); (got != "") != want {
			t.Errorf("slot %d: %q", i, got)
		}
	}
	must(t, untrack(connections{host(slots[2].inner4), host(slots[2].inner6)}))
	if got := tracked(t, slots[2]); got != "" {
		t.Errorf("%q", got)
	}
	must(t, slots[2].Close())
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(t, err)
	if !slices.ContainsFunc(flows, func(f *netlink.ConntrackFlow) bool { return f.Forward.SrcIP.Equal(here.AsSlice()) }) {
		t.Error("this machine's own connection was forgotten, too")
	}
}

func TestAnUnknownModeIsRefused(t *testing.T) {
	c := config
	c.Mode = "bridged"
	if n, err := Open(c); err == nil {
		must(t, n.Close())
		t.Error("it was accepted")
	}
}

func TestTheTableOfConnectionsIsKnown(t *testing.T) {
	withMode(t, Translated)
	n := openNet(t)
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if got := n.Tracking(); err != nil || fmt.Sprint(got.Max) != strings.TrimSpace(string(b)) || got.Keeps < 10*time.Second || got.Keeps > time.Hour {
		t.Errorf("%+v, %v", got, err)
	}
}
