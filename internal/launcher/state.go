package launcher

import (
	"context"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// The launcher's state is told to the front within stateAtMost of a change, and every stateEvery.
const (
	stateAtMost = time.Second
	stateEvery  = 5 * time.Second
)

// state is how the launcher is now.
func (l *Launcher) state() wire.State {
	s := wire.State{Version: l.cfg.Version, Since: l.since, At: time.Now(), Slots: l.gate.Slots(), Budget: l.cfg.Budget}
	s.Running, s.Waiting = l.gate.Load()
	s.Reserved, _ = l.gate.Reserved()
	if way := l.network(); way != nil {
		s.Filter = way.Filter
	}
	s.Gaps = firstOf(l.gaps(), wire.MaxList)
	s.Breakers = l.breakers.told(s.At, l.cfg.Tools.Names())
	s.Counters = l.counters()
	l.mu.Lock()
	defer l.mu.Unlock()
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
