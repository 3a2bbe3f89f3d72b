package scope

import (
	"context"
	"errors"
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
		n := openNet(t)
		before := settled(t, n, "")
		must(t, n.Prove(context.Background()))
		settled(t, n, before)
	})
}

// A proof that cannot fail is none: without the filter each way of attack gets through.
func TestTheProofFailsWithoutTheFilter(t *testing.T) {
	ready := config.Ready
	config.Ready = 0
	n := openNet(t)
	config.Ready = ready
	n.nft.FlushTable(n.t.t)
	must(t, n.nft.Flush())
	passing, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	must(t, err)
	real := n.filter.programs.Out
	n.filter.programs.Out = passing
	n.filter.out, err = programNumber(passing)
	must(t, err)
	defer func() { n.filter.programs.Out = real; must(t, passing.Close()) }()
	err = n.Prove(context.Background())
	if err == nil {
		t.Fatal("the filter was proved that is not there")
	}
	for _, f := range frames {
		// The routing drops sources of its own accord where it can.
		if !f.spoofed && !strings.Contains(err.Error(), f.name) {
			t.Errorf("%s is not among what got through: %v", f.name, err)
		}
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
	_, _, err := n.rewrite(allowed, forbidden)
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
