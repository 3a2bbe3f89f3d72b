package front

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/metrics"
	"github.com/secmcpd/secmcpd/runners/report"
)

func TestHowAJobEndedIsOneOfThePredecessorsErrorTypes(t *testing.T) {
	refused := func(code string) *wire.Outcome {
		return &wire.Outcome{Reason: wire.Refused, Refused: &wire.Refusal{Code: code}}
	}
	for what, c := range map[string]struct {
		state store.State
		o     *wire.Outcome
		want  string
	}{
		"a whole report":                        {store.Completed, &wire.Outcome{Reason: wire.Exited}, metrics.None},
		"hosts that were given up":              {store.Partial, &wire.Outcome{Reason: wire.Exited}, metrics.None},
		"a bad exit":                            {store.Failed, &wire.Outcome{Reason: wire.Exited, Code: 1}, metrics.Execution},
		"a signal":                              {store.Failed, &wire.Outcome{Reason: wire.Signalled}, metrics.Execution},
		"a call that no scanner makes":          {store.Failed, &wire.Outcome{Reason: wire.Violation}, metrics.Execution},
		"a launch that failed":                  {store.Failed, &wire.Outcome{Reason: wire.Launch, Stage: "cgroup", Refused: &wire.Refusal{Code: "launch_failed"}}, metrics.Execution},
		"a scanner that went before the launch": {store.Failed, &wire.Outcome{Reason: wire.Launch, Stage: "scanner", Refused: &wire.Refusal{Code: "scanner_missing"}}, metrics.NotFound},
		"no scanner":                            {store.Refused, refused("scanner_missing"), metrics.NotFound},
		"a breaker":                             {store.Refused, refused("breaker_open"), metrics.BreakerOpen},
		"policy":                                {store.Refused, refused("target_never"), metrics.Validation},
		"no time":                               {store.Partial, &wire.Outcome{Reason: wire.Timeout}, metrics.Timeout},
		"no memory":                             {store.Partial, &wire.Outcome{Reason: wire.Memory}, metrics.Exhausted},
		"too much output":                       {store.Truncated, &wire.Outcome{Reason: wire.Output}, metrics.Exhausted},
		"a full disk":                           {store.Partial, &wire.Outcome{Reason: wire.DiskFull}, metrics.Exhausted},
		"its caller":                            {store.Cancelled, &wire.Outcome{Reason: wire.Cancelled}, metrics.Cancelled},
		"a narrowed engagement":                 {store.Partial, &wire.Outcome{Reason: wire.Withdrawn}, metrics.Cancelled},
		"a launcher that died":                  {store.Interrupted, &wire.Outcome{Reason: wire.Interrupted}, metrics.Interrupted},
		"a filter that was changed":             {store.Interrupted, &wire.Outcome{Reason: wire.ScopeLost}, metrics.Interrupted},
	} {
		if got := errorType(c.state, c.o); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

func TestWhatAJobCountsFor(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	row := store.Job{State: store.Partial, Created: at}
	record := wire.Job{Started: at.Add(3 * time.Second), Outcome: &wire.Outcome{Reason: wire.Memory, Ended: at.Add(20 * time.Second),
		Usage: wire.Usage{WallMS: 16500, CPUMS: 2500, MemoryPeak: 512 << 20, Output: 900, OffScope: 2, WaitedMemoryMS: 40, PidsRefused: 1}}}
	has := func(counts []store.Count, want ...store.Count) {
		t.Helper()
		for _, c := range want {
			if !slices.Contains(counts, c) {
				t.Errorf("no %v in %v", c, counts)
			}
		}
	}
	all := countsOf(row, record, report.Report{Cut: []string{"hosts"}}, reading{bytes: 900, took: 2 * time.Millisecond})
	has(all, store.Count{Name: "ended", Label: "resource_exhausted", N: 1}, store.Count{Name: "scan", Label: "30", N: 1}, store.Count{Name: "scan", Label: "sum", N: 16500},
		store.Count{Name: "wait", Label: "5", N: 1}, store.Count{Name: "wait", Label: "sum", N: 3000}, store.Count{Name: "memory", Label: "5.36870912e+08", N: 1},
		store.Count{Name: "parse", Label: "0.01", N: 1}, store.Count{Name: "parse", Label: "sum", N: 2000}, store.Count{Name: "parsed", N: 900}, store.Count{Name: "cut", N: 1},
		store.Count{Name: "cpu", N: 2500}, store.Count{Name: "pressure", Label: "memory", N: 40}, store.Count{Name: "violations", N: 1}, store.Count{Name: "launched", N: 1})
	if len(all) > store.MaxCounts/2 {
		t.Errorf("%d counts", len(all))
	}

	// Its launcher died: the next one ended it, days later perhaps.
	record.Outcome.Usage = wire.Usage{}
	died := countsOf(row, record, report.Report{}, reading{})
	has(died, store.Count{Name: "launched", N: 1})
	if slices.ContainsFunc(died, func(c store.Count) bool { return c.Name == "scan" }) {
		t.Errorf("how long it ran is invented: %v", died)
	}

	never := wire.Job{Outcome: &wire.Outcome{Reason: wire.Refused, Refused: &wire.Refusal{Code: "of another version"}, Ended: at}}
	row.State = store.Refused
	if got := countsOf(row, never, report.Report{}, reading{}); !slices.Equal(got, []store.Count{{Name: "ended", Label: "validation_error", N: 1}, {Name: "refused", Label: "other", N: 1}}) {
		t.Errorf("one that was refused: %v", got)
	}
	never.Outcome = &wire.Outcome{Reason: wire.Launch, Stage: "cgroup", Refused: &wire.Refusal{Code: "launch_failed"}, Ended: at}
	row.State = store.Failed
	if got := countsOf(row, never, report.Report{}, reading{}); !slices.Equal(got, []store.Count{{Name: "ended", Label: "execution_error", N: 1}, {Name: "stage", Label: "cgroup", N: 1}}) {
		t.Errorf("one that was not launched: %v", got)
	}
}

// Calls, sessions and refusals without a job are counted, and outlive the front; a scrape is answered
// whether there is a file or not.
func TestCallsAreCountedAndKept(t *testing.T) {
	h := openHouse(t, 100, "")
	h.synced()
	s := h.agent(1000, nil)
	h.call(s, "nmap_scan", map[string]any{"targets": []string{}})
	h.call(s, "job_result", map[string]any{"job_id": strings.Repeat("a", 26)})
	h.call(s, "job_list", nil)
	measured := exited
	measured.Usage.WallMS = 1500
	answer := h.scanned(s, quick, allowed(8, "10.91.0.8/29"), capture(t, "connect.xml"), measured)
	if answer["status"] != "completed" {
		t.Fatalf("%v", answer)
	}
	scrape := func(f *front) string {
		w := httptest.NewRecorder()
		f.adminHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	want := []string{`secmcpd_calls_total{outcome="refused",tool="nmap_scan"} 1`, `secmcpd_calls_total{outcome="refused",tool="job_result"} 1`,
		`secmcpd_calls_total{outcome="answered",tool="job_list"} 1`, `secmcpd_calls_total{outcome="answered",tool="nmap_scan"} 1`,
		`secmcpd_refusals_total{code="arguments"} 1`, `secmcpd_refusals_total{code="no_such_job"} 1`, "secmcpd_sessions_total 1",
		`mcp_tool_execution_total{error_type="none",status="success",tool="nmap_scan"} 1`, `mcp_tool_execution_seconds_count{tool="nmap_scan"} 1`,
		`secmcpd_parse_seconds_count{tool="nmap_scan"} 1`, "secmcpd_jobs_kept 1"}
	check := func(when, text string) {
		t.Helper()
		for _, line := range want {
			if !strings.Contains(text, line+"\n") {
				t.Errorf("%s: no %s in\n%s", when, line, text)
			}
		}
	}
	check("at once", scrape(h.front))
	if left := h.front.tally.pending(); len(left) > 0 {
		t.Errorf("a front that is killed would count anew what it has told: %v", left)
	}
	check("again", scrape(h.front))

	broken := wire.Breakers{Enabled: true, Open: 1, HalfOpen: 3, OfNetworks: wire.BreakerCounts{Rejected: 7},
		Networks: []wire.Breaker{{Name: "10.77.0.0/24", Kind: wire.BreakerOfNetwork, State: "open"}},
		Tools: []wire.Breaker{{Name: "nmap_scan", Kind: wire.BreakerOfTool, State: "half_open", Counts: wire.BreakerCounts{Success: 5, Failure: 6,
			Changes: []wire.BreakerChanges{{From: "closed", To: "open", Count: 2}}}}}}
	h.tell(wire.Message{State: &wire.State{Version: "test", Slots: 4, Breakers: broken, Health: &wire.Health{Checks: []wire.HealthCheck{{Name: "audit", Priority: "important", Status: "unhealthy"}}},
		Counters: wire.Counters{Audit: wire.AuditFigures{Records: 12, Bytes: 3400, Files: 1, Unwritable: true}}}})
	deadline := time.Now().Add(5 * time.Second)
	for h.front.heard.Load() == nil && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	want = []string{"secmcpd_slots 4", "secmcpd_audit_records_total 12", "secmcpd_audit_bytes 3400", "secmcpd_audit_unwritable 1", "secmcpd_launcher_connected 1",
		`mcp_circuit_breaker_state{name="nmap_scan"} 2`, `mcp_circuit_breaker_state{name="network"} 1`, `mcp_circuit_breaker_calls_total{name="nmap_scan",result="failure"} 6`,
		`mcp_circuit_breaker_calls_total{name="network",result="rejected"} 7`, `mcp_circuit_breaker_transitions_total{from_state="closed",name="nmap_scan",to_state="open"} 2`,
		`mcp_circuit_breaker_transitions_total{from_state="open",name="network",to_state="closed"} 0`,
		`secmcpd_health_status{check="audit",priority="important",room="launcher"} 2`}
	check("once the launcher has spoken", scrape(h.front))
	if text := scrape(h.front); strings.Contains(text, "10.77.") {
		t.Errorf("a label names a target:\n%s", text)
	}
	h.cut()
	want[3], want[4] = "secmcpd_audit_unwritable 0", "secmcpd_launcher_connected 0"
	want = want[:len(want)-1]
	check("once it is gone", scrape(h.front))
	if text := scrape(h.front); strings.Contains(text, `secmcpd_health_status{check="audit"`) {
		t.Errorf("how it was is told as how it is:\n%s", text)
	}
}
