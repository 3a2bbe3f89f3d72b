package launcher

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
)

// notes keeps what systemd is told.
type notes struct {
	mu   sync.Mutex
	said []string
}

func (n *notes) note(state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, strings.Split(state, "\n")...)
}

func (n *notes) first(prefix string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.IndexFunc(n.said, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

func (n *notes) count(state string, from, to int) (times int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.said[from:to] {
		if s == state {
			times++
		}
	}
	return times
}

// looking is a launcher that looks every second, on a machine of which others use what they like.
var looking = health.Settings{Every: time.Second, Timeout: time.Second, CPU: 100, Memory: 100, Disk: 100}

// tenSeconds is a scan that is at work until its time is up, or nearly.
const tenSeconds = `{"targets":["10.77.1.0/27"],"top_ports":100,"skip_discovery":true,"limit":10}`

const shortScan = quickScan

// A launcher that is stopped lets go on what runs, ends what waits, and takes nothing new.
func TestAStopLeavesRunningScansTheGrace(t *testing.T) {
	h := newHouse(t)
	h.cfg.Live.Grace, h.cfg.Slots = 30*time.Second, 1
	told := &notes{}
	h.cfg.Notify, h.cfg.Watchdog, h.cfg.Health = told.note, time.Second, looking
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, strings.Replace(tenSeconds, "10}", "12}", 1))
	h.accepted(handle, jobB, shortScan)
	began := time.Now()
	stop, ended := h.stop, h.ended
	h.stop = nil
	stop()
	if m := h.until(func(m wire.Message) bool { return m.Job != nil && !m.Job.EndsBy.IsZero() }).m.Job; m.ID != jobA || m.EndsBy.Before(began.Add(29*time.Second)) {
		t.Errorf("%+v", m)
	}
	if o := h.endOf(jobB).Outcome; o.Reason != wire.Shutdown || time.Since(began) > 5*time.Second {
		t.Errorf("what waits ends after %s: %+v", time.Since(began), o)
	}
	if r := h.start(handle, jobC, value(t, shortScan)); r == nil || r.Code != wire.Stopping || !r.Retryable || r.RetryAfterS == 0 {
		t.Errorf("a new one: %+v", r)
	}
	if o := h.endOf(jobA).Outcome; o.Reason == wire.Shutdown {
		t.Errorf("what runs: %+v", o)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the launcher does not end")
	}
	extend, status, stopping := told.first("EXTEND_TIMEOUT_USEC="), told.first("STATUS=draining: 1 scan has until "), told.first("STOPPING=1")
	if extend < 0 || status < 0 || stopping < extend || stopping < status {
		t.Errorf("systemd was told %q", told.said)
	}
	// It drained for longer than its watchdog has patience, and for longer than a look is good for.
	if fed := told.count("WATCHDOG=1", extend, stopping); fed < 10 {
		t.Errorf("the watchdog was fed %d times while it drained", fed)
	}
}

// What the grace is too short for is ended with what it has, and a second signal ends it at once.
func TestAfterTheGraceScansAreEnded(t *testing.T) {
	for _, c := range []struct {
		why   string
		grace time.Duration
		hurry bool
		most  time.Duration
	}{
		{"no grace", 0, false, 10 * time.Second},
		{"a short one", 2 * time.Second, false, 12 * time.Second},
		{"a long one, and a second signal", 5 * time.Minute, true, 12 * time.Second},
	} {
		t.Run(strings.ReplaceAll(c.why, " ", "_"), func(t *testing.T) {
			h := newHouse(t)
			hurry := make(chan struct{})
			h.cfg.Live.Grace, h.cfg.Hurry = c.grace, hurry
			h.open()
			handle, _ := h.client()
			h.running(handle, jobA, longScan)
			began := time.Now()
			stop, ended := h.stop, h.ended
			h.stop = nil
			stop()
			if c.hurry {
				time.AfterFunc(time.Second, func() { close(hurry) })
			}
			if o := h.endOf(jobA).Outcome; o.Reason != wire.Shutdown || time.Since(began) < min(c.grace, time.Second) || time.Since(began) > c.most {
				t.Errorf("after %s: %+v", time.Since(began), o)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// An operator has new scans refused; those that there are go on, unless he ends them.
func TestAnOperatorDrainsTheLauncher(t *testing.T) {
	h := newHouse(t)
	h.withOperators()
	h.cfg.Health = looking
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	a := h.ordered(adminUID, wire.Order{Drain: &wire.Drain{}})
	if a.State == nil || a.State.Draining == nil || a.State.Draining.Why != wire.Drained || *a.State.Draining.By != adminUID || a.State.Unfinished != 1 {
		t.Errorf("%+v", a)
	}
	drained := func(a wire.Answer) bool {
		return a.State != nil && !a.State.Health.Ready && a.State.Health.Status != "healthy" && a.State.Health.Reasons[0] == "drain: an operator has the daemon take no new scan; those that were accepted go on"
	}
	if !drained(a) {
		t.Errorf("it is told as ready: %+v", a.State.Health)
	}
	if r := h.start(handle, jobB, value(t, shortScan)); r == nil || r.Code != wire.Drained || !r.Retryable {
		t.Errorf("%+v", r)
	}
	if a := h.ordered(adminUID, wire.Order{Drain: &wire.Drain{Off: true}}); a.State == nil || a.State.Draining != nil || slices.ContainsFunc(a.State.Health.Reasons, func(r string) bool { return strings.HasPrefix(r, "drain:") }) {
		t.Errorf("%+v", a)
	}
	h.accepted(handle, jobB, shortScan)
	h.endOf(jobB)
	h.ordered(adminUID, wire.Order{Drain: &wire.Drain{Cancel: true}})
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Shutdown {
		t.Errorf("%+v", o)
	}
	var said []string
	for _, r := range auditRecords(t, h) {
		if r.Event == "drain" && r.Operator.UID == adminUID {
			said = append(said, r.Reason)
		}
	}
	if want := []string{"no new scan is taken", "new scans are taken", "no new scan is taken, and all are ended"}; !slices.Equal(said, want) {
		t.Errorf("audit %q", said)
	}
}

// A launcher whose program was replaced makes way when its last scan has ended, and not before.
func TestALauncherMakesWayForItsNextVersion(t *testing.T) {
	h := newHouse(t)
	h.withOperators()
	told := &notes{}
	h.cfg.Notify, h.cfg.Live.Grace, h.cfg.Replaced = told.note, time.Minute, func() bool { return true }
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, strings.Replace(tenSeconds, "10}", "14}", 1))
	for deadline := time.Now().Add(15 * time.Second); !h.ordered(adminUID, wire.Order{Look: &wire.Look{}}).State.Replaced; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not notice")
		}
	}
	if o := h.endOf(jobA).Outcome; o.Reason == wire.Shutdown {
		t.Errorf("%+v", o)
	}
	stop := h.stop
	h.stop = nil
	select {
	case err := <-h.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		stop()
		t.Fatal("it does not make way")
	}
	if told.first("STATUS=an upgrade waits for 1 scan ") < 0 {
		t.Errorf("systemd was told %q", told.said)
	}
}
