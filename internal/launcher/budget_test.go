package launcher

import (
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
)

const budgeted = engagement + "limits: {packets_per_second: 300, total_packets_per_second: 200}\n"

func (h *house) preview(handle uint64, arguments string) *wire.Previewed {
	h.t.Helper()
	return h.reply(func(seq uint64) wire.Message {
		return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(h.t, arguments)}}
	}).Preview
}

// A scan that is alone has the whole of a budget, and is told that it is less than it might have;
// the next one runs when there is room. Another engagement's budget is its own.
func TestScansOfAnEngagementShareItsBudget(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", budgeted)
	h.engage("other", strings.ReplaceAll(strings.ReplaceAll(budgeted, "name: lab", "name: other"), "10.77", "10.78"))
	var gate *policy.Gate
	h.inside = func(l *Launcher) { gate = l.gate }
	h.cfg.Slots, h.cfg.Live.Budget = 4, 350
	h.open()
	handle, _ := h.client()
	const slowed = "to 200 packets per second: all scans under engagement lab together have no more (limits.total_packets_per_second)"
	p := h.preview(handle, longScan)
	if p.Network.Slowed != slowed || p.Verdict.Rate != 200 || !strings.Contains(strings.Join(p.Argv, " "), "--max-rate 200") {
		t.Errorf("previewed: %+v, %+v, %q", p.Network, p.Verdict, p.Argv)
	}
	if e := h.ask(handle).Capabilities.Engagements; len(e) != 2 || e[0].Budget != 200 {
		t.Errorf("capabilities: %+v", e)
	}
	if slow := h.preview(handle, strings.Replace(longScan, "{", `{"rate":50,`, 1)); slow.Network.Slowed != "" || slow.ExpectedS <= p.ExpectedS {
		t.Errorf("a slow one takes %d s of %d, slowed: %q", slow.ExpectedS, p.ExpectedS, slow.Network.Slowed)
	}

	run := h.running(handle, jobA, longScan).m.Job
	if run.Network.Slowed != slowed || run.Verdict.Rate != 200 {
		t.Errorf("it runs with %+v, %+v", run.Network, run.Verdict)
	}
	h.accepted(handle, jobB, strings.Replace(longScan, "{", `{"rate":9,`, 1))
	h.running(handle, jobC, strings.Replace(strings.Replace(longScan, "10.77", "10.78", 1), "{", `{"rate":150,`, 1))
	if reserved, most := gate.Reserved(); reserved != 350 || most != 350 {
		t.Errorf("%d of %d are reserved", reserved, most)
	}
	if _, waiting := gate.Load(); waiting != 1 {
		t.Errorf("%d wait", waiting)
	}
	if r := h.cancel(handle, jobA); r != nil {
		t.Fatalf("%+v", r)
	}
	h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.ID == jobB && m.Job.State == wire.Running })
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.Launched && (r.Limits.Rate != map[string]int{jobA: 200, jobB: 9, jobC: 150}[r.Job] || r.Filter != "bpf") {
			t.Errorf("launched: %+v, %+v", r, r.Limits)
		}
	}
}

// The machine's budget is for all engagements.
func TestScansOfAllEngagementsShareTheMachinesBudget(t *testing.T) {
	h := newHouse(t)
	h.cfg.Live.Budget = 120
	h.open()
	handle, _ := h.client()
	const slowed = "to 120 packets per second: all scans of this machine together have no more (scans.packets_per_second)"
	if p := h.preview(handle, longScan); p.Network.Slowed != slowed {
		t.Errorf("previewed: %+v", p.Network)
	}
	h.running(handle, jobA, longScan)
	h.accepted(handle, jobB, longScan)
	time.Sleep(300 * time.Millisecond)
	if r := h.cancel(handle, jobA); r != nil {
		t.Fatalf("%+v", r)
	}
	for ended := false; ; {
		m := h.next().m
		ended = ended || m.Job != nil && m.Job.ID == jobA && m.Job.State == wire.Ended
		if m.Job != nil && m.Job.ID == jobB && m.Job.State == wire.Running {
			break
		}
	}
}

// A budget that is lowered ends what entered last, until the rest fits; what waits waits for less.
func TestLoweringABudgetEndsWhatEnteredLast(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", engagement+"limits: {packets_per_second: 100}\n")
	h.cfg.Slots = 3
	h.open()
	handle, _ := h.client()
	for _, job := range []string{jobA, jobB, jobC} {
		h.running(handle, job, longScan)
	}
	h.engage("lab", engagement+"limits: {packets_per_second: 100, total_packets_per_second: 200}\n")
	end := h.endOf(jobC)
	if end.Outcome.Reason != wire.Withdrawn {
		t.Errorf("it ended: %+v", end.Outcome)
	}
	time.Sleep(2 * lookEvery)
	var denied []string
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.Denied {
			denied = append(denied, r.Job+" "+r.Rule+" "+r.Code)
		}
	}
	if len(denied) != 1 || denied[0] != jobC+" limits.total_packets_per_second rate_too_high" {
		t.Errorf("denied: %q", denied)
	}
	// Less than one of them has.
	h.engage("lab", engagement+"limits: {packets_per_second: 100, total_packets_per_second: 99}\n")
	for _, job := range []string{"", ""} {
		e := h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Ended && m.Job.ID != jobC }).m.Job
		if e.Outcome.Reason != wire.Withdrawn {
			t.Errorf("%s%s ended: %+v", job, e.ID, e.Outcome)
		}
	}
}

// A launcher that is told to use nf_tables alone does, and says so in previews, records and audit.
func TestTheTableAloneIsTheFilterWhereItIsWanted(t *testing.T) {
	h := newHouse(t)
	h.cfg.NoBPF = true
	h.open()
	handle, _ := h.client()
	if p := h.preview(handle, quickScan); p.Network.Filter != "nftables" || p.Refused != nil {
		t.Errorf("previewed: %+v, %+v", p.Network, p.Refused)
	}
	h.accepted(handle, jobA, quickScan)
	if end := h.endOf(jobA); end.Outcome.Reason != wire.Exited || end.Network.Filter != "nftables" || end.Outcome.Usage.SentPackets == 0 {
		t.Errorf("it ended: %+v, %+v", end.Outcome, end.Network)
	}
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.Launched && r.Filter != "nftables" {
			t.Errorf("audited: %+v", r)
		}
	}
}
