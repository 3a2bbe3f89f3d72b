package front

import (
	"context"
	"strings"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// Next is what a reload has read, and found without a fault.
type Next struct {
	Live   Live
	Digest string // of the files
	Took   func() // it is in force
}

// reread reads the configuration for the launcher, or takes up what was read: the launcher says which,
// when both rooms have found no fault.
func (f *front) reread(l *link, m wire.Reread) {
	f.rereading.Lock()
	defer f.rereading.Unlock()
	defer f.service.Reloading()()
	answer := wire.HasRead{Seq: m.Seq}
	switch {
	case f.cfg.Reload == nil:
		answer.Other = true
	case m.Apply:
		if answer.Other = f.asRead == nil || f.asRead.Digest != m.Digest; !answer.Other {
			f.takeUp(*f.asRead)
			f.log.Info("the configuration was read again and is in force", journal.Key, journal.ConfigReloaded)
		}
		f.asRead = nil
	default:
		f.asRead = nil
		next, err := f.cfg.Reload()
		switch {
		case err != nil:
			answer.Faults = faultTexts(err)
			f.log.Error("the configuration was read again and is not in force: all stays as it was", journal.Key, journal.ReloadRefused, "why", err)
		case next.Digest != m.Digest:
			answer.Other = true
		default:
			f.asRead = &next
		}
	}
	f.tell(l, wire.Message{HasRead: &answer})
}

// takeUp puts it in force: from here on calls are answered by it.
func (f *front) takeUp(next Next) {
	f.inForce.Store(&next.Live)
	f.offer(f.server, next.Live.Tools)
	f.offerSchemas(f.server, next.Live.Tools)
	next.Took()
	f.recount()                        // the file may be another one
	f.spawn(func() { f.prune(f.ctx) }) // less may be kept now
}

// faultTexts is an error of many lines, as many as a message takes.
func faultTexts(err error) (texts []string) {
	for _, line := range strings.Split(err.Error(), "\n") {
		if len(texts) == wire.MaxFaults {
			break
		}
		if len(line) > wire.MaxFaultText {
			line = line[:wire.MaxFaultText]
		}
		texts = append(texts, strings.ToValidUTF8(line, ""))
	}
	return texts
}

// followHangups asks the launcher for a reload at each SIGHUP: of the two rooms none reloads alone.
func (f *front) followHangups(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.cfg.Hangup:
		}
		l := f.launcher()
		if l == nil {
			f.log.Warn("the configuration is not read again: no launcher is connected, and none of the rooms reloads alone")
			continue
		}
		f.tell(l, wire.Message{Signal: &wire.Signal{}})
	}
}
