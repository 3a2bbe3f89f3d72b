package launcher

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// untried has the filter tried when the channel is closed.
func (h *house) untried() chan struct{} {
	try := make(chan struct{})
	h.inside = func(l *Launcher) {
		l.bringNet = func(ctx context.Context) {
			select {
			case <-try:
				l.openNet(ctx)
			case <-ctx.Done():
			}
		}
	}
	return try
}

// Whoever comes first waits for no proof of the filter, and gets no scan before it.
func TestTheFilterIsTriedWhileAgentsAreLetIn(t *testing.T) {
	h := newHouse(t)
	var mu sync.Mutex
	var told []string
	said := func(state string) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(strings.Join(told, "\n"), state)
	}
	h.cfg.Notify = func(state string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, state)
	}
	try := h.untried()
	h.open()
	handle, _ := h.client() // the front hears of it
	if said("READY=1") {
		t.Fatal("it is ready without a filter")
	}
	h.seq++
	if err := h.conn.Send(wire.Message{Ask: &wire.Ask{Seq: h.seq, Handle: handle}}); err != nil {
		t.Fatal(err)
	}
	h.seq++
	if err := h.conn.Send(wire.Message{Start: &wire.Start{Seq: h.seq, Handle: handle, Job: jobA, Value: value(t, quickScan)}}); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-h.events:
		t.Fatalf("answered before the filter was tried: %+v, %v", e.m, e.err)
	case <-time.After(300 * time.Millisecond):
	}
	close(try)
	answers := map[uint64]bool{}
	for len(answers) < 2 {
		answers[h.until(func(m wire.Message) bool { return m.Reply != nil }).m.Reply.Seq] = true
	}
	for until := time.Now().Add(10 * time.Second); !said("READY=1"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it has a filter, and is not ready")
		}
	}
}

// A launcher that is stopped while it tries the filter ends, and says neither that it is ready nor that the filter is
// missing.
func TestAStopDoesNotWaitForTheFilter(t *testing.T) {
	h := newHouse(t)
	var mu sync.Mutex
	var told, logged strings.Builder
	h.cfg.Notify = func(state string) {
		mu.Lock()
		defer mu.Unlock()
		told.WriteString(state + "\n")
	}
	h.cfg.Log = slog.New(slog.NewTextHandler(&logged, nil)) // which one at a time writes to
	h.inside = func(l *Launcher) {
		l.bringNet = func(ctx context.Context) {
			<-ctx.Done()
			l.cfg.Mode = "cut off" // as a try that is: it fails
			l.openNet(ctx)
		}
	}
	h.open()
	handle, _ := h.client()
	h.seq++
	if err := h.conn.Send(wire.Message{Ask: &wire.Ask{Seq: h.seq, Handle: handle}}); err != nil {
		t.Fatal(err)
	}
	h.close()
	if told := told.String(); strings.Contains(told, "READY=1") || !strings.Contains(told, "STOPPING=1") {
		t.Errorf("it told systemd:\n%s", told)
	}
	if logged := logged.String(); strings.Contains(logged, "event="+journal.ScopeMissing.Name) || !strings.Contains(logged, "event="+journal.Stopping.Name) {
		t.Errorf("it logged:\n%s", logged)
	}
}

// A start that waits for the filter is a job that can be cancelled: it ends as that, and launches nothing.
func TestACancelCountsBeforeTheFilterIsTried(t *testing.T) {
	h := newHouse(t)
	try := h.untried()
	h.open()
	handle, _ := h.client()
	h.seq++
	if err := h.conn.Send(wire.Message{Start: &wire.Start{Seq: h.seq, Handle: handle, Job: jobA, Value: value(t, longScan)}}); err != nil {
		t.Fatal(err)
	}
	var refused *wire.Refusal
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if refused = h.cancel(handle, jobA); refused == nil {
			break
		}
	}
	if refused != nil {
		t.Fatalf("refused: %+v", refused)
	}
	close(try)
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled {
		t.Errorf("it ended: %+v", o)
	}
	h.close()
	for _, r := range auditRecords(t, h) {
		if r.Job == jobA && r.Event == "launched" {
			t.Errorf("it was launched: %+v", r)
		}
	}
}
