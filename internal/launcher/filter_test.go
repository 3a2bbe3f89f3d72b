package launcher

import (
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/sandbox"
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
	if end.Outcome.Reason != wire.ScopeLost || !strings.Contains(end.Outcome.Detail, "is down") {
		t.Errorf("it ended: %+v", end.Outcome)
	}
	h.accepted(handle, jobB, quickScan)
	if end = h.endOf(jobB); end.Outcome.Reason != wire.Exited || end.Outcome.Code != 0 {
		t.Errorf("the next scan ended: %+v", end.Outcome)
	}
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.ScopeLost && strings.Contains(r.Reason, "is down") {
			return
		}
	}
	t.Error("the audit log does not say it")
}
