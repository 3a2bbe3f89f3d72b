package scope

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

func TestTheFilterIsProved(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		l := newLab(t)
		n := openNet(t)
		before := settled(t, n, "")
		l.strangers(netip.Addr{}, netip.Addr{})
		must(t, n.Prove(context.Background()))
		for _, f := range l.strangers(netip.Addr{}, netip.Addr{}) {
			t.Errorf("of the proof, the machine's own network has seen %s", f)
		}
		settled(t, n, before)
	})
}

// A proof that cannot fail is none: without the filter each way of attack gets through, and without one
// side of it what that one has to stop.
func TestTheProofFailsWithoutTheFilter(t *testing.T) {
	into := []string{"a host off scope, IPv4", "a host off scope, IPv6"}
	all := append([]string{"another port, IPv4", "another port, IPv6", "another slot, IPv4", "another slot, IPv6"}, into...)
	for _, f := range frames {
		all = append(all, f.name+", IPv6")
		if !f.spoofed { // the routing drops sources of its own accord where it can
			all = append(all, f.name+", IPv4")
		}
	}
	passing, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	must(t, err)
	defer func() { must(t, passing.Close()) }()
	number, err := programNumber(passing)
	must(t, err)
	for _, c := range []struct {
		says   string
		remove func(n *Net)
		want   []string
	}{
		{"no filter", func(n *Net) {
			n.nft.FlushTable(n.t.t)
			must(t, n.nft.Flush())
			n.filter.programs.Out, n.filter.out = passing, number
			n.filter.programs.In, n.filter.in = passing, number
		}, all},
		{"no filter of what comes in", func(n *Net) { n.filter.programs.In, n.filter.in = passing, number }, into},
	} {
		t.Run(c.says, func(t *testing.T) {
			ready := config.Ready
			config.Ready = 0
			n := openNet(t)
			config.Ready = ready
			real := n.filter.programs
			defer func() { n.filter.programs = real }()
			c.remove(n)
			err := n.Prove(context.Background())
			if err == nil || !strings.Contains(err.Error(), "the filter lets through what it must not: ") {
				t.Fatalf("got %v", err)
			}
			_, list, _ := strings.Cut(err.Error(), "not: ")
			got := strings.Split(list, "; ")
			for _, want := range c.want {
				if !slices.Contains(got, want) {
					t.Errorf("%s is not among what got through: %q", want, got)
				}
			}
			if len(c.want) < len(all) && slices.ContainsFunc(got, func(one string) bool { return !slices.Contains(c.want, one) }) {
				t.Errorf("more than that got through: %q", got)
			}
		})
	}
}

// Nor is a table one that lets translated destinations go where others send them.
func TestTheProofFailsWhereDestinationsAreTranslated(t *testing.T) {
	withMode(t, Translated)
	n := openNet(t)
	before := settled(t, n, "")
	careless(t, n)
	if err := n.Prove(context.Background()); err == nil || !strings.Contains(err.Error(), "translates destinations") {
		t.Errorf("got %v", err)
	}
	settled(t, n, before)
}

// What a launcher leaves that is killed in the middle of the proof goes with the rest.
func TestWhatIsLeftOfAProofIsRemoved(t *testing.T) {
	n := openNet(t)
	_, _, err := n.rewrite([]targetEnds{{forbidden, allowed}, {forbidden6, allowed6}})
	must(t, err)
	must(t, reclaim(somebody(t), nil))
	tables, err := somebody(t).ListTables()
	must(t, err)
	for _, left := range tables {
		t.Errorf("the table %s is left", left.Name)
	}
}

func TestNothingIsProvedWhereNothingArrives(t *testing.T) {
	n := openNet(t)
	other := somebody(t)
	table := other.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "firewall"})
	policy := nftables.ChainPolicyDrop
	other.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &policy})
	must(t, other.Flush())
	t.Cleanup(func() { other.DelTable(table); must(t, other.Flush()) })
	if err := n.Prove(context.Background()); !errors.Is(err, ErrUnproven) {
		t.Errorf("got %v", err)
	}
	if l, err := netlink.LinkByName(targetName); err == nil {
		t.Errorf("%s is left", l.Attrs().Name)
	}
}

// A way that was open once proves nothing of what is tried when it is closed.
func TestNothingIsProvedWhereTheWayClosesMeanwhile(t *testing.T) {
	n := openNet(t)
	other := somebody(t)
	table := other.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "firewall"})
	chain := other.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter})
	other.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Quota{Bytes: 60, Over: true}, &expr.Verdict{Kind: expr.VerdictDrop}}}) // two packets pass
	must(t, other.Flush())
	t.Cleanup(func() { other.DelTable(table); must(t, other.Flush()) })
	if err := n.Prove(context.Background()); !errors.Is(err, ErrUnproven) || !strings.Contains(err.Error(), "after") {
		t.Errorf("got %v", err)
	}
}

// A slot of which nothing comes, as one for IPv6 on a kernel that cannot forward it for slots alone, leaves
// the guard that was made for it. It is the launcher's own change, and no reason to end it.
func TestAGuardIsRememberedWhateverBecomesOfItsSlot(t *testing.T) {
	withBoth(t, func(t *testing.T) {
		newLab(t)
		n := openNet(t)
		n.mu.Lock()
		err := n.guard(guard{"ipv4", "forwarding", targetName})
		n.mu.Unlock()
		must(t, err)
		if !n.Intact() {
			t.Error("the filter is not as it is remembered")
		}
	})
}
