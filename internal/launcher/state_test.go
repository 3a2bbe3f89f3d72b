package launcher

import (
	"fmt"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// Who waits is told where, and when it is expected to begin; of a tool as many run as may.
func TestTheStateSaysWhoWaits(t *testing.T) {
	h := newHouse(t)
	h.cfg.Live.PerTool = map[string]int{"nmap_scan": 1} // of two slots
	var l *Launcher
	h.inside = func(inside *Launcher) { l = inside }
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	for i, id := range []string{jobB, "cccccccccccccccccccccccccc"} {
		h.accepted(handle, id, longScan)
		eventually(t, func() bool { taken, waiting := l.gate.Load(); return taken == 1 && waiting == i+1 })
	}
	running := l.jobs[jobA].snapshot()
	s := h.stateOnce(func(s wire.State) bool { return len(s.Queue) == 2 })
	if s.Running != 1 || s.Waiting != 2 || s.Slots != 2 || s.Queue[0].Job != jobB {
		t.Fatalf("%+v", s)
	}
	left := int64(time.Until(running.Deadline).Seconds())
	for i, w := range s.Queue {
		least, most := running.ExpectedS*int64(i+1)-3, (left+2)*int64(i+1)+3
		if w.AboutS < min(least, left-3) || w.LatestS < w.AboutS || w.LatestS > most || w.LatestS < left-3 {
			t.Errorf("%d: %+v, expected are %d s, %d are left", i, w, running.ExpectedS, left)
		}
	}
	if r := h.cancel(handle, jobA); r != nil {
		t.Fatalf("%+v", r)
	}
	h.stateOnce(func(s wire.State) bool { return len(s.Queue) == 1 && s.Queue[0].Job != jobB })
}

// One user leaves room for others among the jobs that are kept.
func TestOneUserDoesNotHaveAllJobs(t *testing.T) {
	l := &Launcher{jobs: map[string]*job{}}
	enlist := func(uid uint32, n int) *wire.Refusal {
		return l.enlist(&job{record: wire.Job{ID: fmt.Sprint(uid, "-", n), UID: uid}})
	}
	for n := range maxRecordsPerUID {
		if r := enlist(1, n); r != nil {
			t.Fatalf("%d: %+v", n, r)
		}
	}
	if r := enlist(1, maxRecordsPerUID); r == nil || r.Code != "busy" || !r.Retryable || r.RetryAfterS == 0 {
		t.Errorf("one more of his: %+v", r)
	}
	for n := range maxRecords - maxRecordsPerUID {
		if r := enlist(2, n); r != nil {
			t.Fatalf("another user's: %+v", r)
		}
	}
	if r := enlist(3, 0); r == nil || r.Code != "busy" {
		t.Errorf("more than all: %+v", r)
	}
}

func TestTheTempoOfATool(t *testing.T) {
	var p tempo
	if got := p.of("nmap_scan"); got != 1 {
		t.Errorf("of one that nothing is known of: %v", got)
	}
	p.learn("nmap_scan", 0, time.Second)
	p.learn("nmap_scan", time.Second, 0)
	for range 30 {
		p.learn("nmap_scan", 2*time.Second, 20*time.Second)
		p.learn("masscan_scan", time.Hour, time.Second)
	}
	if got := p.of("nmap_scan"); got < 0.099 || got > 0.101 {
		t.Errorf("of one that takes a tenth: %v", got)
	}
	if got := p.of("masscan_scan"); got != 10 {
		t.Errorf("of one that takes much more: %v", got)
	}
	now := time.Now()
	j := &job{expected: 20 * time.Second, wall: time.Minute, entered: now, record: wire.Job{State: wire.Running, Started: now, Deadline: now.Add(time.Minute)}}
	for _, c := range []struct {
		says          string
		after         time.Duration
		inside        bool
		part          float64
		about, latest time.Duration
	}{
		{"it waits", 0, false, 0.1, 2 * time.Second, time.Minute},
		{"it waits, and others took longer than they may", 0, false, 10, time.Minute, time.Minute},
		{"it has begun", time.Second, true, 0.1, time.Second, 59 * time.Second},
		{"it takes longer than others", 5 * time.Second, true, 0.1, 55 * time.Second, 55 * time.Second},
		{"its time is over", time.Hour, true, 0.1, 0, 0},
	} {
		about, latest := j.left(now.Add(c.after), c.inside, c.part)
		if about != c.about || latest != c.latest {
			t.Errorf("%s: %s, at most %s; want %s, %s", c.says, about, latest, c.about, c.latest)
		}
	}
}
