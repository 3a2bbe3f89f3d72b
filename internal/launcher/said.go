package launcher

import (
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// What the log says of jobs. It never has what a scanner wrote or what an agent wrote freely: ids,
// names of ours and of the operator, numbers.

// about is the job in a line of the log.
func about(r wire.Job) []any {
	out := []any{"job", r.ID, "correlation", r.Correlation, "uid", r.UID, "tool", r.Tool}
	if r.Verdict.Engagement != "" {
		out = append(out, "engagement", r.Verdict.Engagement)
	}
	return out
}

// sayLaunched is the one line of a launch.
func (l *Launcher) sayLaunched(r wire.Job) {
	l.log.Info("scan launched", append(about(r), journal.Key, journal.ScanLaunched, "rate", r.Rate, "expected_s", r.ExpectedS)...)
}

// sayEnded is the one line of an end. That of a refused one was said when it was refused.
func (l *Launcher) sayEnded(r wire.Job) {
	o := r.Outcome
	args := append(about(r), "outcome", o.Reason)
	if o.Usage.WallMS > 0 {
		args = append(args, "wall_ms", o.Usage.WallMS, "sent_packets", o.Usage.SentPackets, "output_bytes", o.Usage.Output)
	}
	switch o.Reason {
	case wire.Refused:
	case wire.Launch:
		l.log.Error("scan not launched", append(args, journal.Key, journal.LaunchFailed, "stage", o.Stage, "why", o.Detail)...)
	case wire.Memory:
		l.log.Warn("scan ended: out of memory", append(args, journal.Key, journal.OutOfMemory, "memory_peak_bytes", o.Usage.MemoryPeak)...)
	case wire.Timeout, wire.Output, wire.Pids, wire.CPU:
		l.log.Warn("scan ended at a limit", append(args, journal.Key, journal.LimitReached)...)
	case wire.Exited:
		l.log.Info("scan ended", append(args, journal.Key, journal.ScanEnded, "code", o.Code)...)
	default:
		l.log.Info("scan ended", append(args, journal.Key, journal.ScanEnded)...)
	}
}

// sayDenied is the line of a refusal, from its record.
func (l *Launcher) sayDenied(r observability.Record) {
	args := []any{journal.Key, journal.ScanRefused, "code", r.Code}
	if r.Job != "" {
		args = append(args, "job", r.Job, "correlation", r.Correlation)
	}
	if r.Caller != nil {
		args = append(args, "uid", r.Caller.UID)
	}
	for _, s := range []struct{ key, value string }{{"tool", r.Tool}, {"engagement", r.Engagement}, {"rule", r.Rule}} {
		if s.value != "" {
			args = append(args, s.key, s.value)
		}
	}
	l.log.Info("scan refused", args...)
}
