package front

import (
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
)

// While less is free than has to be, no scan is begun and no preview allows one; what was found before can be read,
// and nothing of it is removed. With room again it goes on.
func TestAFullDiskRefusesNewJobsAndKeepsTheOld(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	id := h.scanned(s, quick, allowed(8, "10.91.0.8/29"), capture(t, "connect.xml"), exited)["job_id"].(string)

	h.front.keeps(func(l *store.Limits) { l.Free = 1 << 60 })
	full := h.front.tellSpace(false)
	if again := h.front.tellSpace(full); !full || !again {
		t.Errorf("full %v, %v", full, again)
	}
	if f := h.front.lookDisk(); f.Status != health.Unhealthy || !strings.Contains(f.Message, "MiB are free in") {
		t.Errorf("%+v", f)
	}
	a := h.call(s, "nmap_scan", map[string]any{"targets": []string{"10.77.0.10"}})
	if at(a, "error", "code") != "disk_full" || at(a, "error", "retryable") != true || at(a, "job_id") != nil {
		t.Errorf("%v", a)
	}
	out := start(t.Context(), s, "scan_preview", map[string]any{"tool": "nmap_scan", "arguments": map[string]any{"targets": []string{"10.77.0.10"}}})
	m := h.until(func(m wire.Message) bool {
		if m.Start != nil {
			t.Error("the launcher was asked to start a scan")
		}
		return m.Preview != nil
	})
	h.tell(wire.Message{Reply: &wire.Reply{Seq: m.Preview.Seq, Preview: &wire.Previewed{Verdict: wire.Verdict{Outcome: "allow"}, Argv: []string{"nmap"}, ArgvCount: 1}}})
	if p := h.object(<-out); at(p, "allowed") != false || at(p, "error", "code") != "disk_full" {
		t.Errorf("%v", p)
	}
	h.front.prune(t.Context())
	if a := h.call(s, "job_result", map[string]any{"job_id": id}); a["status"] != "completed" {
		t.Errorf("what was there before: %v", a)
	}
	if a := h.call(s, "job_list", nil); len(a["jobs"].([]any)) != 1 {
		t.Errorf("%v", a)
	}

	h.front.keeps(func(l *store.Limits) { l.Free = 0 })
	if f := h.front.lookDisk(); h.front.tellSpace(full) || f.Status == health.Unhealthy {
		t.Errorf("%+v", f)
	}
	if a := h.scanned(s, quick, allowed(8, "10.91.0.8/29"), capture(t, "connect.xml"), exited); a["status"] != "completed" {
		t.Errorf("with room again: %v", a)
	}
}

// keeps changes what is kept, as a reload does.
func (f *front) keeps(change func(*store.Limits)) {
	live := *f.now()
	change(&live.Keep)
	f.inForce.Store(&live)
}
