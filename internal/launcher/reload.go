package launcher

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// A reload reads the whole configuration again, in both rooms, before either takes any of it:
//
//	read      settings, declarations, engagements; any fault, or a key that needs a restart: nothing changes
//	front     reads the same files, and says so; its faults: nothing changes
//	apply     the boxes' limits, Live at once, engagements; what runs is judged again
//	front     takes what it has read
//
// A front that is not there, or that dies meanwhile, reads the files at its start.

// Next is what a reload has read, and found without a fault.
type Next struct {
	Live     Live
	Digest   string   // of the files, by which the front knows that it has read the same
	Changed  []string // keys whose values are others than those in force
	Warnings []string // of values that are in force otherwise than they were said
	Took     func()   // it is in force
}

// NeedsRestart is the error of a reload that found keys changed that no reload takes up.
type NeedsRestart []string

func (n NeedsRestart) Error() string { return "it takes a restart for " + strings.Join(n, ", ") }

const (
	// rereadTimeout bounds each of the front's two answers.
	rereadTimeout = 15 * time.Second
	// rereads is how often both rooms begin again because somebody changed the files while they read.
	rereads = 4
	// hangupPause is how long the next reload for a SIGHUP waits at least after one: those that come meanwhile are one.
	hangupPause = time.Second
)

const changedMeanwhile = "the files were changed while they were read: reload once more"

// orderReload reloads for an operator.
func (l *Launcher) orderReload(ctx context.Context, who wire.Client, o wire.Reload) wire.Answer {
	if l.cfg.Reload == nil {
		return wire.Answer{Refused: &wire.Refusal{Code: "no_reload", Reason: "this launcher reads its configuration at its start alone", Hint: "restart it"}}
	}
	if !o.Wait && len(l.reloading) > 0 {
		return wire.Answer{Refused: &wire.Refusal{Code: "busy", Reason: "the configuration is being read again already", Hint: "ask again in a moment, or wait for it with --wait", Retryable: true}}
	}
	r, err := l.reload(ctx, &observability.Caller{UID: who.UID, GID: who.GID, PID: who.PID})
	if err != nil {
		return wire.Answer{Refused: &wire.Refusal{Code: wire.Stopping, Reason: "the launcher is being stopped", Hint: "what is started next reads the files at its start", Retryable: true}}
	}
	return wire.Answer{Reloaded: &r}
}

// followHangups reloads for each SIGHUP, of this process or of the front's.
func (l *Launcher) followHangups(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.cfg.Hangup:
		case <-l.hangup:
		}
		if l.cfg.Reload == nil {
			continue
		}
		if _, err := l.reload(ctx, nil); err != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(hangupPause):
		}
	}
}

// signalled asks for a reload because the front was sent SIGHUP.
func (l *Launcher) signalled() {
	select {
	case l.hangup <- struct{}{}:
	default:
	}
}

// reload does it, one at a time; the error is that of ctx. by is nil where a signal asks for it.
func (l *Launcher) reload(ctx context.Context, by *observability.Caller) (wire.Reloaded, error) {
	select {
	case l.reloading <- struct{}{}:
		defer func() { <-l.reloading }()
	case <-ctx.Done():
		return wire.Reloaded{}, ctx.Err()
	}
	defer l.service.Reloading()()
	r := l.reread(ctx)
	record := observability.Record{Event: observability.Reloaded, Caller: by, Targets: r.Changed, TargetCount: len(r.Changed)}
	if r.Well() {
		l.log.Info("the configuration was read again and is in force", journal.Key, journal.ConfigReloaded, "changed", r.Changed)
	} else {
		why := notTaken(r)
		record.Outcome, record.Reason = "refused", clip(why)
		l.log.Error("the configuration was read again and is not in force: all stays as it was", journal.Key, journal.ReloadRefused, "why", why)
	}
	for _, w := range r.Warnings {
		l.log.Warn("a setting is not as it was said", journal.Key, journal.ValueClamped, "why", w)
	}
	l.note(record)
	l.stateChanged()
	return r, nil
}

// notTaken says why nothing of it is in force, in one text. What the front says is not in it.
func notTaken(r wire.Reloaded) string {
	switch {
	case r.FaultsCount > 0:
		return strings.Join(r.Faults, "\n")
	case len(r.Restart) > 0:
		return NeedsRestart(r.Restart).Error()
	}
	return r.Front
}

func (l *Launcher) reread(ctx context.Context) wire.Reloaded {
	var next Next
	for again := rereads; ; again-- {
		var err error
		if next, err = l.cfg.Reload(); err != nil {
			r, _ := unread(err)
			return r
		}
		why, said := l.frontReads(ctx, wire.Reread{Digest: next.Digest})
		if why == "" {
			break
		}
		if why != changedMeanwhile || again == 0 {
			return wire.Reloaded{Front: why, FrontSays: said}
		}
	}
	if err := l.apply(next.Live); err != nil {
		r, _ := unread(err)
		return r
	}
	next.Took()
	r := wire.Reloaded{Changed: firstOf(next.Changed, wire.MaxList)}
	for _, w := range firstOf(next.Warnings, wire.MaxFaults) {
		r.Warnings = append(r.Warnings, clipTo(w, wire.MaxFaultText-len("…")))
	}
	if why, _ := l.frontReads(ctx, wire.Reread{Digest: next.Digest, Apply: true}); why != "" {
		// It is gone, or will be: the next one reads the files.
		r.Warnings = append(firstOf(r.Warnings, wire.MaxFaults-1), "the front has not said that it took it up: "+why)
	}
	return r
}

// unread is the answer where the configuration could not be read.
func unread(err error) (r wire.Reloaded, failed bool) {
	var restart NeedsRestart
	switch {
	case err == nil:
		return r, false
	case errors.As(err, &restart):
		return wire.Reloaded{Restart: firstOf(restart, wire.MaxList)}, true
	}
	lines := strings.Split(err.Error(), "\n")
	r.FaultsCount = len(lines)
	for _, line := range firstOf(lines, wire.MaxFaults) {
		r.Faults = append(r.Faults, clipTo(line, wire.MaxFaultText-len("…")))
	}
	return r, true
}

// apply puts it in force. The boxes come first: with an error, nothing has changed.
func (l *Launcher) apply(next Live) error {
	if err := l.boxes.Change(ofTheBox(next.Accept), next.Together); err != nil {
		return err
	}
	l.inForce.Store(&next)
	l.gate.Change(next.Queue, next.Budget)
	l.gate.PerTool(next.PerTool)
	l.breakers.change(next.Breakers)
	l.rules.relearn(Lookup(next.Tools))
	if err := l.learnMachine(); err != nil {
		l.log.Error("the machine's addresses are as they were before the reload", "why", err)
	}
	l.judged()
	l.rejudge()
	return nil
}

// frontReads has the front read the files, or take up what it has read, and says why it does not.
func (l *Launcher) frontReads(ctx context.Context, m wire.Reread) (why string, said []string) {
	answer := make(chan wire.HasRead, 1)
	l.link.mu.Lock()
	conn := l.link.conn
	if conn == nil {
		l.link.mu.Unlock()
		return "", nil // it reads them at its start
	}
	l.link.seq++
	m.Seq, l.link.read = l.link.seq, answer
	l.sentLocked(conn.Send(wire.Message{Reread: &m}))
	l.link.mu.Unlock()
	defer func() {
		l.link.mu.Lock()
		l.link.read = nil
		l.link.mu.Unlock()
	}()
	timeout := time.NewTimer(rereadTimeout)
	defer timeout.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case a := <-answer:
			switch {
			case len(a.Faults) > 0:
				for _, f := range a.Faults {
					said = append(said, clipTo(printable(f), wire.MaxFaultText-len("…")))
				}
				return "the front finds faults that the launcher does not: its unit has another environment, or it may not read the files", said
			case a.Other:
				return changedMeanwhile, nil
			}
			return "", nil
		case <-tick.C:
			l.link.mu.Lock()
			gone := l.link.conn != conn
			l.link.mu.Unlock()
			if gone {
				return "", nil
			}
		case <-timeout.C:
			return fmt.Sprintf("the front did not answer within %s", rereadTimeout), nil
		case <-ctx.Done():
			return "the launcher is being stopped", nil
		}
	}
}

// frontHasRead takes the front's answer. One that nobody waits for is left out.
func (l *Launcher) frontHasRead(m wire.HasRead) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	if l.link.read == nil || m.Seq != l.link.seq {
		return
	}
	select {
	case l.link.read <- m:
	default:
	}
}

// printable is text of the front's without what a terminal would take for an order.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
