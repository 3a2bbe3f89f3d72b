package front

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secmcpd/secmcpd/internal/store"
)

// What job_status answers twice is the same, is its caller's alone, and is gone with the job.
func TestAStatusThatIsKeptGoesWithItsJob(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	out, run := h.begin(s, quick)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	id := h.object(<-out)["job_id"].(string)
	run.acknowledged()
	first := h.call(s, "job_status", map[string]any{"job_id": id})
	if first["status"] != "completed" {
		t.Fatalf("%v", first)
	}
	if kept, _ := h.front.statuses.get(1000, id); kept.text == nil {
		t.Error("it is not kept")
	}
	if diff := cmp.Diff(first, h.call(s, "job_status", map[string]any{"job_id": id})); diff != "" {
		t.Errorf("the second time:\n%s", diff)
	}
	if a := h.call(h.agent(1001, nil), "job_status", map[string]any{"job_id": id}); at(a, "error", "code") != "no_such_job" {
		t.Errorf("for another user: %v", a)
	}
	h.front.cfg.Keep = store.Limits{Jobs: 100, Bytes: 1 << 30, Age: time.Nanosecond}
	h.front.prune(context.Background())
	if a := h.call(s, "job_status", map[string]any{"job_id": id}); at(a, "error", "code") != "no_such_job" {
		t.Errorf("after it was removed: %v", a)
	}
}

func TestStatusesAreBounded(t *testing.T) {
	var s statuses
	_, round := s.get(1, "a")
	s.forget()
	s.put(1, "a", status{text: json.RawMessage(`{}`)}, round) // made before the removal
	s.put(1, "b", status{make(json.RawMessage, 1), make(json.RawMessage, maxStatus)}, round+1)
	if len(s.kept) != 0 {
		t.Errorf("%d are kept", len(s.kept))
	}
	for i := range uint32(3 * maxStatuses) {
		if s.put(i, "a", status{text: json.RawMessage(`{}`)}, round+1); len(s.kept) > maxStatuses {
			t.Fatalf("%d are kept", len(s.kept))
		}
	}
}
