package front

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

// A front that nobody needs ends; systemd holds its sockets and starts it again when somebody connects.
// Sessions and jobs need it. Operators, health, metrics and events do not: what is under way of them is
// finished.
//
//	nothing under way ── doors left ── nothing came meanwhile ── the launcher lets go ── end
//
// Nobody is lost: whoever connects once the doors are left waits in their backlogs, and the launcher,
// which ends the connection between the rooms only if it has nothing either, connects anew for whatever
// comes to it then.

const (
	idleLook = 10 * time.Second // between two looks at most
	idleRest = 2 * time.Second  // for the launcher to let go
)

func (f *front) addDoor(d *door) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doors = append(f.doors, d)
}

// idle ends the front when nothing has been under way for so long.
func (f *front) idle(ctx context.Context, stop func()) error {
	if f.cfg.IdleExit <= 0 || f.cfg.Link != nil {
		return nil
	}
	tick := time.NewTicker(min(max(f.cfg.IdleExit/10, 20*time.Millisecond), idleLook))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if f.isNeeded() {
			f.touch()
			continue
		}
		f.mu.Lock()
		since := time.Since(f.used)
		f.mu.Unlock()
		if since < f.cfg.IdleExit || f.visitors() > f.events.listening() {
			continue
		}
		if f.rest(ctx) {
			f.log.Info("nothing is under way: the front ends until it is needed", "idle", since.Round(time.Second))
			stop()
			return nil
		}
	}
}

// touch says that the front is needed now.
func (f *front) touch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = time.Now()
}

// isNeeded says whether a session or a job is there.
func (f *front) isNeeded() bool {
	f.mu.Lock()
	needed := len(f.sessions) > 0 || len(f.jobs) > 0 || f.spoken > 0
	f.mu.Unlock()
	return needed || f.speaker.Sessions() > 0
}

// speaks counts a request of MCP over HTTP, until done.
func (f *front) speaks() (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spoken++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.spoken--
		f.used = time.Now()
	}
}

// visitors are connections of operators and over HTTP.
func (f *front) visitors() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.doors {
		n += d.inside()
	}
	return n
}

// rest leaves every door and has the launcher let go. true: nothing is here, and nothing comes any more.
// Otherwise all is as it was.
func (f *front) rest(ctx context.Context) (rests bool) {
	f.mu.Lock()
	doors := append(slices.Clone(f.doors), f.linkDoor)
	f.mu.Unlock()
	for _, d := range doors {
		d.leave()
	}
	defer func() {
		for _, d := range doors {
			if !rests {
				d.attend()
			}
		}
	}()
	f.events.endStreams()
	for until := time.Now().Add(idleRest); f.visitors() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) || f.isNeeded() {
			return false
		}
	}
	f.resting.Store(true)
	defer func() { f.resting.Store(rests) }()
	if f.isNeeded() || !f.letLauncherGo(ctx) {
		return false
	}
	return !f.isNeeded() && ctx.Err() == nil
}

// letLauncherGo ends the connection between the rooms, if the launcher has nothing to say over it.
func (f *front) letLauncherGo(ctx context.Context) bool {
	f.letGo(ctx, time.Now())
	ctx, done := context.WithTimeout(ctx, idleRest)
	defer done()
	if l := f.launcher(); l != nil {
		if _, err := l.ask(ctx, func(seq uint64) wire.Message { return wire.Message{Rest: &wire.Rest{Seq: seq}} }); !errors.Is(err, errUnreachable) {
			return false // it refuses, or does not answer
		}
	}
	for f.links.Load() > 0 { // it is being taken down
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}
