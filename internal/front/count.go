package front

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/metrics"
)

// countEvery is how often the file of metrics is written at least, countAtMost how often at most.
const (
	countEvery  = 15 * time.Second
	countAtMost = time.Second
)

// count writes the file of metrics whenever a job has ended, and once more when the front ends.
func (f *front) count(ctx context.Context) error {
	path := f.cfg.Metrics
	if path == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		f.log.Warn("metrics are not written: make the directory and restart, or set metrics.textfile to \"\"", "why", err)
		return nil
	}
	r := metrics.New(metrics.Source{Version: f.cfg.Version, Ended: f.totals, Packets: f.packets, UnderWay: f.underWayNow, Budget: f.budgetNow, Space: f.spaceNow})
	write := func() {
		if err := r.WriteFile(path); err != nil {
			f.log.Error("cannot write metrics", "why", err)
		}
	}
	defer write()
	defer r.Stop()
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		write()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(countAtMost):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.counted:
		case <-tick.C:
		}
	}
}

func (f *front) totals() (out []metrics.Ended, err error) {
	ends, err := f.store.Ends(context.WithoutCancel(f.ctx))
	for _, e := range ends {
		out = append(out, metrics.Ended{Tool: e.Tool, State: string(e.State), Reason: e.Reason, Jobs: e.Jobs})
	}
	return out, err
}

// packetsOf is what became of a job's packets, each once: the fates are the metric's.
func packetsOf(u wire.Usage) map[string]uint64 {
	return map[string]uint64{"sent": u.SentPackets, "received": u.Received, "off_scope": u.OffScope,
		"form": u.Dropped - min(u.Dropped, u.OffScope), "over_rate": u.OverRate, "refused": u.Refused}
}

func (f *front) packets() (out []metrics.Packets, err error) {
	all, err := f.store.Packets(context.WithoutCancel(f.ctx))
	for _, p := range all {
		out = append(out, metrics.Packets(p))
	}
	return out, err
}

// budgetNow is the launcher's budget for all scans, and what those have of it that run.
func (f *front) budgetNow() (allowed, reserved int) {
	f.mu.Lock()
	if f.link != nil {
		allowed = f.link.budget
	}
	f.mu.Unlock()
	for _, j := range f.underWayAll() {
		j.mu.Lock()
		if j.record.State == wire.Running {
			reserved += j.record.Rate
		}
		j.mu.Unlock()
	}
	return allowed, reserved
}

func (f *front) underWayNow() (queued, running int) {
	for _, j := range f.underWayAll() {
		j.mu.Lock()
		if j.record.State == wire.Running {
			running++
		} else {
			queued++
		}
		j.mu.Unlock()
	}
	return queued, running
}
