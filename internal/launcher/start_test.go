package launcher

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

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
	if !said("READY=1") {
		t.Error("it has a filter, and is not ready")
	}
}

// A launcher that is stopped while it tries the filter ends.
func TestAStopDoesNotWaitForTheFilter(t *testing.T) {
	h := newHouse(t)
	h.inside = func(l *Launcher) {
		l.bringNet = func(ctx context.Context) { <-ctx.Done() }
	}
	h.open()
	handle, _ := h.client()
	h.seq++
	if err := h.conn.Send(wire.Message{Ask: &wire.Ask{Seq: h.seq, Handle: handle}}); err != nil {
		t.Fatal(err)
	}
	h.close()
}
