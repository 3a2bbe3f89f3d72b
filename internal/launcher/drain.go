package launcher

import (
	"context"
	"fmt"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
)

// A launcher that takes no new scan is draining: because it is being stopped, when what runs has until the end of the
// grace and what waits is ended at once, since it would only begin to be cut; or because an operator said so, when all
// that was accepted goes its way. Being replaced by another version is a stop that waits until there is nothing to end.

const (
	// drainTick is how often a drain looks how far it is, extendBy what systemd is asked for each time: ending and
	// telling what is left comes after the drain.
	drainTick = time.Second
	extendBy  = 20 * time.Second
	// replacedEvery is how often the program's file is looked at.
	replacedEvery = 5 * time.Second
)

// closed is the refusal of a new scan while none is taken. It needs l.mu.
func (l *Launcher) closedLocked() *wire.Refusal {
	d := l.draining
	switch {
	case l.ending, d != nil && d.Why == wire.Stopping:
		r := &wire.Refusal{Code: wire.Stopping, Reason: "the launcher is being stopped, and takes no new scan", Hint: "ask again in a few seconds", Retryable: true, RetryAfterS: 5}
		if d != nil && !d.Until.IsZero() {
			r.RetryAfterS = max(int64(time.Until(d.Until)/time.Second), 0) + 5
			r.Hint = fmt.Sprintf("ask again after %s: a stop that is a restart is over by then", d.Until.UTC().Format(time.RFC3339))
		}
		return r
	case d != nil:
		return &wire.Refusal{Code: wire.Drained, Reason: "an operator has the daemon take no new scan; those that were accepted go on", Hint: "ask the operator when it goes on, or ask again later", Retryable: true, RetryAfterS: 60}
	}
	return nil
}

func (l *Launcher) closed() *wire.Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closedLocked()
}

// unfinished is how many scans run, and how many were accepted and do not yet. It needs l.mu.
func (l *Launcher) unfinishedLocked() (running, waiting int) {
	for _, j := range l.jobs {
		switch {
		case !j.begun:
		case j.snapshot().State == wire.Running:
			running++
		case j.snapshot().State == wire.Queued:
			waiting++
		}
	}
	return running, waiting
}

func (l *Launcher) unfinished() (running, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unfinishedLocked()
}

// lastGrace leaves running scans until the end of the grace, when the launcher is being stopped.
func (l *Launcher) lastGrace() {
	grace := l.now().Grace
	if l.cfg.stdio() {
		grace = 0 // who ends it is who asked for its scans
	}
	until := time.Now().Add(grace)
	l.mu.Lock()
	l.draining = &wire.Draining{Why: wire.Stopping, Since: time.Now(), Until: until}
	running, waiting := l.unfinishedLocked()
	l.mu.Unlock()
	l.stateChanged()
	if grace <= 0 || running+waiting == 0 {
		return
	}
	l.log.Info("the launcher is being stopped; scans that run have until the end of the grace, and another signal ends them at once",
		"running", running, "waiting", waiting, "until", until.Format(time.RFC3339))
	for _, j := range l.all() {
		j.mu.Lock()
		isRunning := j.record.State == wire.Running
		if isRunning {
			j.record.EndsBy = until
		}
		j.mu.Unlock()
		if isRunning {
			l.show(j)
		} else {
			j.stop(errShutdown)
		}
	}
	end, tick := time.NewTimer(grace), time.NewTicker(drainTick)
	defer end.Stop()
	defer tick.Stop()
	for {
		running, _ := l.unfinished()
		if running == 0 {
			return
		}
		l.service.Extend(extendBy)
		l.service.Changed()
		select {
		case <-tick.C:
		case <-end.C:
			l.log.Warn("the grace is over: scans that still run are ended", "running", running)
			return
		case <-l.cfg.Hurry:
			l.log.Warn("a second signal: scans that still run are ended", "running", running)
			return
		}
	}
}

// isStopping says that no client is accepted any more.
func (l *Launcher) isStopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending || l.draining != nil && l.draining.Why == wire.Stopping
}

// drainLine is the line of status while scans are to come to their end; empty: they are not.
func (l *Launcher) drainLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	running, waiting := l.unfinishedLocked()
	switch d := l.draining; {
	case d != nil && d.Why == wire.Stopping && !d.Until.IsZero() && running > 0:
		return fmt.Sprintf("draining: %s until %s", have(running), d.Until.Format(time.TimeOnly))
	case d != nil && d.Why == wire.Drained:
		return fmt.Sprintf("draining: an operator has new scans refused; %s left", plural(running+waiting))
	case l.replaced && running+waiting > 0:
		return fmt.Sprintf("an upgrade waits for %s (`secmcpd drain` takes no new ones)", plural(running+waiting))
	}
	return ""
}

func plural(scans int) string {
	if scans == 1 {
		return "1 scan"
	}
	return fmt.Sprintf("%d scans", scans)
}

func have(scans int) string {
	if scans == 1 {
		return "1 scan has"
	}
	return plural(scans) + " have"
}

// drain carries out an operator's order to take no new scan, or to take them again.
func (l *Launcher) drain(who wire.Client, o wire.Drain) *wire.Refusal {
	l.mu.Lock()
	if l.ending || l.draining != nil && l.draining.Why == wire.Stopping {
		defer l.mu.Unlock()
		return l.closedLocked()
	}
	was := l.draining
	l.draining = nil
	if !o.Off {
		l.draining = &wire.Draining{Why: wire.Drained, Since: time.Now(), By: &who.UID}
		if was != nil {
			l.draining.Since = was.Since
		}
	}
	running, waiting := l.unfinishedLocked()
	l.mu.Unlock()
	l.stateChanged()
	what := "no new scan is taken"
	switch {
	case o.Off:
		what = "new scans are taken"
	case o.Cancel:
		what = "no new scan is taken, and all are ended"
	}
	l.note(observability.Record{Event: observability.Drain, Operator: onAuditCaller(who), Reason: what})
	l.log.Info("an operator's order: "+what, "by_uid", who.UID, "running", running, "waiting", waiting)
	if o.Cancel && !o.Off {
		for _, j := range l.all() {
			j.stop(errShutdown)
		}
	}
	return nil
}

// drained is drain, with what is left as the answer.
func (l *Launcher) drained(who wire.Client, o wire.Drain) wire.Answer {
	if refused := l.drain(who, o); refused != nil {
		return wire.Answer{Refused: refused}
	}
	state := l.state()
	return wire.Answer{State: &state}
}

// followProgram has the launcher make way for another version of the program, as soon as there is no scan that it would
// end. systemd starts it again, and clients wait in the socket.
func (l *Launcher) followProgram(ctx context.Context) error {
	if l.cfg.Replaced == nil {
		return nil
	}
	tick := time.NewTicker(replacedEvery)
	defer tick.Stop()
	said, seen := -1, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// By two looks in a row: a package is unpacked before it is set up.
		was := seen
		if seen = l.cfg.Replaced(); !seen || !was {
			continue
		}
		l.mu.Lock()
		running, waiting := l.unfinishedLocked()
		n := running + waiting
		l.replaced = true
		if n == 0 { // whoever begins one now is refused, and asks again
			l.draining = &wire.Draining{Why: wire.Stopping, Since: time.Now()}
		}
		l.mu.Unlock()
		l.stateChanged()
		if n == 0 {
			l.log.Info("the program was replaced and no scan runs: the launcher makes way for it")
			l.stop()
			return nil
		}
		if n != said {
			l.log.Info("the program was replaced; the launcher makes way for it when no scan runs or waits", "running", running, "waiting", waiting)
			said = n
		}
	}
}
