package launcher

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// A firewall that is loaded again forgets every rule, ours too. The scans that ran are ended and
// say why; the next one runs as if nothing had happened.
func TestAFirewallThatForgetsEveryRuleEndsRunningScans(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	other, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	other.FlushRuleset()
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	end := h.endOf(jobA)
	t.Logf("ended %v after the change", time.Since(began))
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it ended only after %v", took)
	}
	if end.Outcome.Reason != wire.ScopeLost || !strings.Contains(end.Outcome.Detail, "nothing of this one left") {
		t.Errorf("it ended: %+v", end.Outcome)
	}
	for _, g := range end.NotEnforced {
		if g.Layer == sandbox.Scope {
			t.Errorf("its record says that the scope was not enforced: %+v", g)
		}
	}

	h.accepted(handle, jobB, quickScan)
	end = h.endOf(jobB)
	if end.Outcome.Reason != wire.Exited || end.Outcome.Code != 0 {
		t.Errorf("the next scan ended: %+v", end.Outcome)
	}
	for _, g := range end.NotEnforced {
		if g.Layer == sandbox.Scope {
			t.Errorf("the next scan ran without: %+v", g)
		}
	}
	lost, done := 0, ""
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.ScopeLost {
			lost++
		}
		if r.Event == observability.Done && r.Job == jobA {
			done = r.Outcome
		}
	}
	if lost != 1 || done != wire.ScopeLost {
		t.Errorf("the audit log says %d times that the filter was lost, and that the scan ended by %q", lost, done)
	}
}

// Whoever changes a scan's link ends that scan: what it would report is silence, not closed ports. The
// launcher looks once more before it tells a result, so that a short scan is no exception.
func TestAScanWhoseLinkSomebodyChangesIsEnded(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links { // the links that are ready, too: the next scan has another one
		if strings.HasPrefix(l.Attrs().Name, "secv") {
			if err := netlink.LinkSetDown(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	end := h.endOf(jobA)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it ended only after %v", took)
	}
	if end.Outcome.Reason != wire.ScopeLost || !strings.Contains(end.Outcome.Detail, "link secv") {
		t.Errorf("it ended: %+v", end.Outcome)
	}
	h.accepted(handle, jobB, quickScan)
	if end = h.endOf(jobB); end.Outcome.Reason != wire.Exited || end.Outcome.Code != 0 {
		t.Errorf("the next scan ended: %+v", end.Outcome)
	}
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.ScopeLost && strings.Contains(r.Reason, "link secv") {
			return
		}
	}
	t.Error("the audit log does not say it")
}

// A filter that lets one frame of the attack arrive is not used: somebody else's rule carries to one
// port what a slot sends to another, before the table sees it. Scans are refused with that reason until it is gone.
func TestNoScanRunsWhereAFrameOfTheAttackArrives(t *testing.T) {
	h := newHouse(t)
	h.cfg.NoBPF = true // which judges before anybody else
	var mu sync.Mutex
	var status string
	h.cfg.Notify = func(state string) {
		mu.Lock()
		defer mu.Unlock()
		if says, is := strings.CutPrefix(state, "STATUS="); is {
			status = says
		}
	}
	says := func(what string) {
		t.Helper()
		for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // told by the next look
			mu.Lock()
			now := status
			mu.Unlock()
			if strings.Contains(now, what) && !strings.Contains(now, "\n") {
				return
			}
			if time.Now().After(until) {
				t.Errorf("the service's status is %q, want %q", now, what)
				return
			}
		}
	}
	nft := func(script string) {
		t.Helper()
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	nft(`table ip carrier { chain pre { type filter hook prerouting priority -400; iifname "secv*" udp dport 7 udp dport set 9; }; }`)
	var once sync.Once
	gone := func() { once.Do(func() { nft("delete table ip carrier") }) }
	t.Cleanup(gone)
	h.open()
	handle, _ := h.client()
	refused := h.start(handle, jobA, value(t, quickScan))
	if refused == nil || refused.Code != "not_enforced" || !strings.Contains(refused.Got, sandbox.Scope) ||
		!strings.Contains(strings.Join(refused.Allowed, "; "), "lets through what it must not: another port, IPv4") {
		t.Fatalf("it launched all the same: %+v", refused)
	}
	if c := h.capabilities(handle); !slices.ContainsFunc(c.NotEnforced, func(g wire.Gap) bool { return g.Layer == sandbox.Scope }) || c.Network != nil {
		t.Errorf("the capabilities do not say it: %+v, %+v", c.NotEnforced, c.Network)
	}
	says("not in force: the filter lets through what it must not")
	gone()
	for until := time.Now().Add(40 * time.Second); refused != nil && time.Now().Before(until); time.Sleep(time.Second) {
		refused = h.start(handle, jobB, value(t, quickScan))
	}
	if refused != nil {
		t.Fatalf("it is refused when the rule is gone: %+v", refused)
	}
	says("by nftables")
	if end := h.endOf(jobB); end.Outcome.Reason != wire.Exited || end.Outcome.Code != 0 {
		t.Errorf("its scan ended: %+v", end.Outcome)
	}
}

// An address of slots' that a station has is no scan's, and the capabilities say so.
func TestAnAddressThatAStationHasIsTold(t *testing.T) {
	h := newHouse(t)
	far, err := newStation("segment0", "10.77.1.66/24", "10.77.1.68/24", "10.77.1.70/24", "10.77.1.72/24", "10.77.1.74/24")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := far(); err != nil {
			t.Error(err)
		}
	})
	own, err := netlink.ParseAddr("10.77.1.1/24")
	segment, found := netlink.LinkByName("segment0")
	if err = errors.Join(err, found); err == nil {
		err = errors.Join(netlink.AddrAdd(segment, own), netlink.LinkSetUp(segment))
	}
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.Mode, h.cfg.Interface = scope.L2, "segment0"
	h.cfg.SlotsV4, h.cfg.SlotsV6 = netip.MustParsePrefix("10.77.1.64/28"), netip.Prefix{} // .66 to .78 are for links
	h.open()
	handle, _ := h.client()
	h.accepted(handle, jobA, strings.ReplaceAll(quickScan, "10.77.0.", "10.77.1."))
	if end := h.endOf(jobA); end.Outcome.Reason != wire.Exited || end.Outcome.Code != 0 {
		t.Errorf("%+v", end.Outcome)
	}
	var said string
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
		if said = strings.Join(h.capabilities(handle).Network.Cannot, "; "); strings.Contains(said, "used by others") {
			break
		}
	}
	if !strings.Contains(said, "used by others on the segment, the first by ") {
		t.Errorf("the capabilities say: %s", said)
	}
}

// newStation is a host at the other end of a link that has addresses.
func newStation(link string, addresses ...string) (remove func() error, err error) {
	done := make(chan error)
	var ns netns.NsHandle
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	veth.Name = link
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	remove = func() error { return errors.Join(netlink.LinkDel(veth), ns.Close()) }
	there, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	defer there.Close()
	eth0, err := there.LinkByName("eth0")
	if err == nil {
		err = there.LinkSetUp(eth0)
	}
	for _, text := range addresses {
		a, wrong := netlink.ParseAddr(text)
		if err = errors.Join(err, wrong); err == nil {
			err = there.AddrAdd(eth0, a)
		}
	}
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// One launcher at a time has the slots. Another one serves without them, says who has them, refuses
// scans, and has them by itself once the first one is gone.
func TestASecondLauncherWaitsForTheSlots(t *testing.T) {
	h := newHouse(t)
	if err := scope.Reclaim(); err != nil {
		t.Fatal(err)
	}
	first, err := scope.Open(scope.Config{V4: h.cfg.SlotsV4, V6: h.cfg.SlotsV6, Mode: h.cfg.Mode})
	if err != nil {
		t.Fatal(err)
	}
	its, err := first.Slot(t.Context(), scope.All(netip.MustParsePrefix("10.77.0.10/32")), 0)
	if err != nil {
		t.Fatal(err)
	}
	h.open()
	handle, _ := h.client()
	refused := h.start(handle, jobA, value(t, quickScan))
	if refused == nil || refused.Code != "not_enforced" {
		t.Fatalf("it launched beside another: %+v", refused)
	}
	if said := strings.Join(refused.Allowed, "; "); !strings.Contains(said, fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("it does not say who has the slots: %+v", refused)
	}
	if err := errors.Join(its.Check(), its.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); refused != nil && time.Now().Before(until); time.Sleep(time.Second) {
		refused = h.start(handle, jobB, value(t, quickScan))
	}
	if refused != nil {
		t.Fatalf("it does not have the slots when the first one is gone: %+v", refused)
	}
	if end := h.endOf(jobB); end.Outcome.Reason != wire.Exited || end.Outcome.Code != 0 {
		t.Errorf("its scan ended: %+v", end.Outcome)
	}
}

// Scans that stand on a segment reach what is on it. Another target is refused with what can be done,
// and never looks silent.
func TestATargetOffTheSegmentIsRefused(t *testing.T) {
	h := newHouse(t)
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "segment1"}
	veth.Name = "segment0"
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(veth); err != nil {
			t.Error(err)
		}
	})
	own, err := netlink.ParseAddr("10.77.1.1/24")
	if err == nil {
		err = errors.Join(netlink.AddrAdd(veth, own), netlink.LinkSetUp(veth))
	}
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.Mode, h.cfg.Interface = scope.L2, "segment0"
	h.cfg.SlotsV4, h.cfg.SlotsV6 = netip.MustParsePrefix("10.77.1.64/26"), netip.Prefix{}
	h.open()
	handle, _ := h.client()
	h.accepted(handle, jobA, quickScan)
	end := h.endOf(jobA)
	if r := end.Outcome.Refused; end.Outcome.Stage != "segment" || r == nil || r.Code != "off_segment" || r.Field != "targets" ||
		!strings.Contains(r.Reason, "10.77.0.10/32") || !strings.Contains(r.Reason, "segment0") || r.Hint == "" {
		t.Errorf("%+v, %+v", end.Outcome, end.Outcome.Refused)
	}
	h.accepted(handle, jobB, strings.ReplaceAll(quickScan, "10.77.0.", "10.77.1."))
	if end := h.endOf(jobB); end.Outcome.Reason != wire.Exited || end.Network == nil || end.Network.Mode != "l2" || len(end.Network.Cannot) == 0 {
		t.Errorf("%+v, %+v", end.Outcome, end.Network)
	}
}
