package launcher

import (
	"context"
	"sync"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/policy"
)

// The launcher's state is told to the front within stateAtMost of a change, and every stateEvery.
const (
	stateAtMost = time.Second
	stateEvery  = 5 * time.Second
)

// state is how the launcher is now.
func (l *Launcher) state() wire.State {
	s := wire.State{Version: l.cfg.Version, Since: l.since, At: time.Now(), Slots: l.gate.Slots(), Budget: l.now().Budget, Front: l.linked()}
	s.Running, s.Waiting = l.gate.Load()
	s.Reserved, _ = l.gate.Reserved()
	if way := l.network(); way != nil {
		s.Filter = way.Filter
	}
	s.Gaps = firstOf(l.gaps(), wire.MaxList)
	s.Queue = l.queue(s.At)
	s.Breakers = l.breakers.told(s.At, l.now().Tools.Names())
	s.Counters = l.counters()
	s.Health = l.healthNow()
	s.Tokens = l.logins.count()
	pending := l.pendingNow()
	s.Pending, s.PendingCount = firstOf(pending, wire.MaxPendingShown), len(pending)
	l.mu.Lock()
	defer l.mu.Unlock()
	running, waiting := l.unfinishedLocked()
	s.Draining, s.Unfinished, s.Replaced = l.draining, running+waiting, l.replaced
	s.Clients = len(l.clients)
	return s
}

// counters are what the launcher counts of itself.
func (l *Launcher) counters() wire.Counters {
	a := l.audit.Figures()
	return wire.Counters{Process: wire.ThisProcess(l.since),
		Audit: wire.AuditFigures{Records: a.Records, Bytes: a.Bytes, Files: a.Files, Pending: a.Pending, Unwritable: a.Unwritable}}
}

// stateChanged has the front told soon.
func (l *Launcher) stateChanged() {
	l.service.Changed()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// tellState tells the front how the launcher is, until ctx ends.
func (l *Launcher) tellState(ctx context.Context) error {
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	for {
		if l.linked() {
			state := l.state()
			l.send(wire.Message{State: &state})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(stateAtMost):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.changed:
		case <-tick.C:
		}
	}
}

// queue is who waits at the gate, and when each would begin.
func (l *Launcher) queue(now time.Time) (out []wire.Waiting) {
	jobs := map[string]*job{}
	for _, j := range l.all() {
		jobs[j.record.ID] = j
	}
	foretell := func(latest bool) []policy.Turn {
		return l.gate.Forecast(wire.MaxQueue, func(id string, inside bool) time.Duration {
			j := jobs[id]
			if j == nil {
				return 0 // it has just come or gone
			}
			about, most := j.left(now, inside, l.tempo.of(j.call.Tool))
			if latest {
				return most
			}
			return about
		})
	}
	at := map[string]int64{}
	for _, t := range foretell(true) {
		at[t.Job] = wholeSeconds(t.After)
	}
	for _, t := range foretell(false) {
		w := wire.Waiting{Job: t.Job, AboutS: wholeSeconds(t.After), LatestS: -1}
		if latest, is := at[t.Job]; is {
			w.LatestS = max(latest, w.AboutS) // where the order is another
		}
		out = append(out, w)
	}
	return out
}

// busyAgain is when to ask again where it is not known when there is room, in seconds.
const busyAgain = 10

// firstEnd is in how many seconds the first scan that runs is expected to end.
func (l *Launcher) firstEnd() int64 {
	now, first := time.Now(), time.Duration(-1)
	for _, j := range l.all() {
		if j.snapshot().State == wire.Running {
			if about, _ := j.left(now, true, l.tempo.of(j.call.Tool)); first < 0 || about < first {
				first = about
			}
		}
	}
	if first < 0 {
		return busyAgain
	}
	return max(wholeSeconds(first), 1)
}

// tempo is how long scans of each tool really take, as a part of what was expected: what a runner expects is
// the most that its scanner should need, and often it needs much less.
type tempo struct {
	mu     sync.Mutex
	byTool map[string]float64
}

// of is 1 as long as no scan of a tool has ended.
func (p *tempo) of(tool string) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if part, known := p.byTool[tool]; known {
		return part
	}
	return 1
}

// learn takes what one has taken. The last few scans count.
func (p *tempo) learn(tool string, took, expected time.Duration) {
	if took <= 0 || expected <= 0 {
		return
	}
	part := min(max(float64(took)/float64(expected), 0.001), 10)
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, known := p.byTool[tool]; known {
		part = 0.75*before + 0.25*part
	}
	if p.byTool == nil {
		p.byTool = map[string]float64{}
	}
	p.byTool[tool] = part // of a tool that there is: bounded
}
