package launcher

import (
	"errors"
	"fmt"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// byOperator is why a job ends that an operator has ended: cancelled, and the agent is told by whom.
type byOperator struct{ uid uint32 }

func (b byOperator) Error() string     { return fmt.Sprintf("by an operator, uid %d", b.uid) }
func (byOperator) Is(other error) bool { return other == errCancelled }

// why is what is said of the end of a job beside its reason.
func why(cause error) string {
	var by byOperator
	if errors.As(cause, &by) {
		return by.Error()
	}
	return ""
}

// stopFor ends a job for an operator, whoever's it is.
func (l *Launcher) stopFor(who wire.Client, s wire.Stop) wire.Answer {
	l.mu.Lock()
	j := l.jobs[s.Job]
	l.mu.Unlock()
	var r wire.Job
	if j != nil {
		r = j.snapshot()
	}
	if j == nil || r.State == wire.Ended || j.end == nil {
		return wire.Answer{Refused: &wire.Refusal{Code: "no_such_job", Field: "job", Got: s.Job, Reason: "no job with this id is under way",
			Hint: "`secmcpd jobs` lists those that are"}}
	}
	// First: an order that cannot be recorded is not carried out.
	record := observability.Record{Event: observability.CancelOrdered, Job: r.ID, Correlation: r.Correlation, Tool: r.Tool, Engagement: r.Verdict.Engagement,
		Caller:   &observability.Caller{UID: j.caller.UID, GID: j.caller.GID, PID: j.caller.PID},
		Operator: &observability.Caller{UID: who.UID, GID: who.GID, PID: who.PID}}
	if err := l.audit.Append(record); err != nil {
		l.log.Error("cannot write the audit log: an operator's order is refused", journal.Key, journal.AuditUnwritable, "why", err)
		return wire.Answer{Refused: auditUnavailable()}
	}
	l.log.Info("an operator ends a job", append(about(r), "by_uid", who.UID)...)
	j.stop(byOperator{who.UID})
	return wire.Answer{Stopped: &wire.Stopped{Job: r.ID, UID: r.UID, Tool: r.Tool, State: r.State}}
}
