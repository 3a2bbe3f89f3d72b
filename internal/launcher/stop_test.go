package launcher

import (
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
)

// An operator ends any job, on the record with who it was, and the agent is told; one that is not under way is
// none.
func TestAnOperatorEndsAJobOfAnyUser(t *testing.T) {
	h := newHouse(t)
	var l *Launcher
	h.inside = func(inner *Launcher) { l = inner }
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, `{"targets":["10.77.0.0/24"],"skip_discovery":true,"ports":["1-10000"]}`)
	operator := wire.Client{UID: 1234, GID: 5, PID: 6}
	if a := l.operate(t.Context(), operator, wire.Order{Stop: &wire.Stop{Job: jobB}}); a.Refused == nil || a.Refused.Code != "no_such_job" || a.Refused.Hint == "" {
		t.Errorf("%+v", a)
	}
	a := l.operate(t.Context(), operator, wire.Order{Stop: &wire.Stop{Job: jobA}})
	if s := a.Stopped; s == nil || s.Job != jobA || s.UID != 0 || s.State != wire.Running {
		t.Fatalf("%+v", a)
	}
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled || o.Detail != "by an operator, uid 1234" {
		t.Errorf("%+v", o)
	}
	if a := l.operate(t.Context(), operator, wire.Order{Stop: &wire.Stop{Job: jobA}}); a.Refused == nil {
		t.Errorf("ended twice: %+v", a)
	}
	var said []string
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.CancelOrdered || r.Event == observability.Done {
			said = append(said, string(r.Event)+" "+r.Reason)
		}
		if r.Event == observability.CancelOrdered && (r.Operator == nil || r.Operator.UID != 1234 || r.Operator.PID != 6 || r.Job != jobA || r.Caller == nil) {
			t.Errorf("%+v", r)
		}
	}
	if got := strings.Join(said, ", "); got != "cancel_ordered , done by an operator, uid 1234" {
		t.Error(got)
	}
}
