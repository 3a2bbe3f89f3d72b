package launcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// Why a running job is ended. The box itself only knows that its context was cancelled.
var (
	errCancelled = errors.New(wire.Cancelled)
	errWithdrawn = errors.New(wire.Withdrawn)
	errShutdown  = errors.New(wire.Shutdown)
	errScopeLost = errors.New(wire.ScopeLost)
	errDiskFull  = errors.New(wire.DiskFull)
)

// job is one requested scan, from acceptance until the front has acknowledged its end.
type job struct {
	caller  wire.Client // as it was when the scan was asked for
	call    runners.Call
	plan    runners.Plan
	end     context.CancelCauseFunc // nil: it ended with an earlier launcher
	consent string                  // as wire.Start has it
	begun   bool                    // it is accepted, and the front may be told of it; guarded by Launcher.mu

	mu      sync.Mutex
	request policy.Request // what is judged, again and again; names get their answers once
	record  wire.Job
	verdict policy.Verdict // the last one
	argv    []string       // from the launch on
	limits  *observability.Limits
	place   policy.Place // at the gate; of no rate: none yet
	entered time.Time
	// How long it is expected to take once it has its place, and at most.
	expected, wall time.Duration
	// audited says that the end is in the audit log, acknowledged that the front has committed it.
	audited, acknowledged bool
}

// asks is what is judged.
func (j *job) asks() policy.Request {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.request
}

func (j *job) decided() policy.Verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.verdict
}

// enters notes the place that a job has from now on.
func (j *job) enters(p policy.Place) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.place, j.entered = p, time.Now()
}

// lasts notes how long a job takes once it has its place.
func (j *job) lasts(expected, wall time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.expected, j.wall = expected, wall
}

// hoped is how long it was expected to take.
func (j *job) hoped() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.expected
}

// left is how long a job holds a place yet, or would hold one: as is expected, of which scans like it take a
// part, and at most. Of one that takes longer nothing is known but its deadline.
func (j *job) left(now time.Time, inside bool, part float64) (about, latest time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	expected := min(time.Duration(float64(j.expected)*part), j.wall)
	if !inside {
		return expected, j.wall
	}
	began, deadline := j.entered, j.entered.Add(j.wall)
	if j.record.State == wire.Running {
		began, deadline = j.record.Started, j.record.Deadline
	}
	about, latest = began.Add(expected).Sub(now), deadline.Sub(now)
	if about <= 0 {
		about = latest
	}
	return max(about, 0), max(latest, 0)
}

func (j *job) inside() (policy.Place, time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.place, j.entered
}

func (j *job) snapshot() wire.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.record
}

// asked translates what the runner read into what policy judges.
func asked(p runners.Plan, tool string) policy.Request {
	r := policy.Request{Tool: tool, Profile: p.Profile, Engagement: p.Engagement, Ports: p.Ports, Rate: p.Rate,
		Duration: p.Limit, Intrusive: p.Intrusive, Asked: policy.Ports(p.Asked), PortsField: p.PortsField, Discovery: p.Discovery, Omit: p.Exclude}
	for _, w := range p.Elsewhere {
		r.Elsewhere = append(r.Elsewhere, policy.Wish(w))
	}
	for _, t := range p.Targets {
		said := policy.Target{Text: t.Text, Prefix: t.Prefix, Name: t.Name, Field: t.Field, Below: t.Below, Said: t.Like}
		if first := p.Targets[0].Prefix; t.Like && first.IsSingleIP() {
			said.Answers = []netip.Addr{first.Addr()}
		}
		r.Targets = append(r.Targets, said)
	}
	return r
}

// aim gives a request that only asks for names the name server that it asks.
func (l *Launcher) aim(p runners.Plan, r *policy.Request) *wire.Refusal {
	if !p.Asks {
		return nil
	}
	servers, refused := l.resolvers(l.now())
	if refused != nil {
		refused.Field, refused.Hint = "mode", "ask the operator to set `resolvers` in secmcpd.yaml"
		return refused
	}
	r.Resolver = servers[0]
	return nil
}

// aimed is aim, once for the life of a job.
func (j *job) aimed(l *Launcher) *wire.Refusal {
	j.mu.Lock()
	defer j.mu.Unlock()
	return l.aim(j.plan, &j.request)
}

// pin gives the names of a request their answers: what is judged from now on is what is passed
// to the scanner, whatever the name server says later. one keeps the first address of each.
func pin(r policy.Request, a answers, one bool) (policy.Request, *wire.Refusal) {
	targets := make([]policy.Target, len(r.Targets))
	for i, t := range r.Targets {
		switch {
		case t.Said && len(t.Answers) == 0:
			t.Answers = targets[0].Answers
		case t.Name != "" && !t.Said:
			if code := a.failed[t.Name]; code != "" || len(a.addresses[t.Name]) == 0 {
				return r, &wire.Refusal{Code: "name_unresolved", Field: cmp.Or(t.Field, fmt.Sprintf("targets[%d]", i)), Got: t.Text,
					Reason: "the name server gave no address (" + code + ")",
					Hint:   "give the address, or ask the operator whether the name is known to the configured resolvers", Retryable: code == "timeout"}
			}
			t.Answers = append([]netip.Addr(nil), a.addresses[t.Name]...)
			if one {
				t.Answers = firstOf(t.Answers, 1)
			}
		}
		targets[i] = t
	}
	r.Targets = targets
	return r, nil
}

// resolvedOnWire shows the answers of a request's names to the front, their lists bounded.
func resolvedOnWire(r policy.Request) (out []wire.Resolved) {
	for _, t := range r.Targets {
		if t.Name == "" || t.Said || r.Resolver.IsValid() || len(out) == wire.MaxNames {
			continue
		}
		n := wire.Resolved{Name: t.Name, Count: len(t.Answers)}
		for _, a := range firstOf(t.Answers, wire.MaxAnswers) {
			n.Addresses = append(n.Addresses, a.String())
		}
		out = append(out, n)
	}
	return out
}

func names(r policy.Request) []string {
	var out []string
	for _, t := range r.Targets {
		if t.Name != "" && len(t.Answers) == 0 && !t.Said && !r.Resolver.IsValid() {
			out = append(out, t.Name)
		}
	}
	return out
}

func onPolicy(c wire.Client) policy.Caller {
	return policy.Caller{UID: c.UID, GID: c.GID, Groups: c.Groups, PID: c.PID}
}

// refusal says a denial to the caller.
func refusal(v policy.Verdict) *wire.Refusal {
	return &wire.Refusal{Code: v.Code, Field: v.Field, Got: v.Got, Allowed: firstOf(v.Allowed, wire.MaxList), Reason: v.Reason,
		Hint: v.Hint, Rule: rule(v), Retryable: v.Code == "outside_hours" || v.Code == "engagement_suspended"}
}

// unconfirmed refuses what the user of the agent has to confirm and has not. A consent is to one
// revision of one engagement when the scan is first decided, and what was confirmed stays so while
// it waits.
func (j *job) unconfirmed(v policy.Verdict, again bool) *wire.Refusal {
	if len(v.Confirm) == 0 || j.consent == v.Engagement+"@"+v.Revision || again && j.consent != "" {
		return nil
	}
	return &wire.Refusal{Code: wire.ConfirmationNeeded, Reason: "engagement " + v.Engagement + " wants the user of the agent to confirm this scan, and nobody has",
		Rule: v.Engagement + ": confirm", Allowed: firstOf(v.Confirm, wire.MaxList),
		Hint: "use a client that can ask its user (elicitation), leave out what has to be confirmed, or ask the operator to take it out of confirm"}
}

// rule names an engagement's rule so that the operator finds it.
func rule(v policy.Verdict) string {
	if v.Engagement == "" || v.Rule == "" {
		return v.Rule
	}
	return v.Engagement + ": " + v.Rule
}

// onWire shows a verdict to the front, its lists bounded.
func onWire(v policy.Verdict) wire.Verdict {
	out := wire.Verdict{Outcome: string(v.Outcome), Engagement: v.Engagement, Revision: v.Revision, Rule: clip(v.Rule), Reason: clip(v.Reason),
		Rate: v.Limits.Rate, LimitS: int64(v.Limits.Duration / time.Second), Until: v.Until, Confirm: firstOf(v.Confirm, wire.MaxList), Approve: firstOf(v.Approval.Of, wire.MaxList)}
	for _, p := range v.Addresses() {
		out.AddressCount += count(p)
		if len(out.Addresses) < wire.MaxList {
			out.Addresses = append(out.Addresses, p.String())
		}
	}
	if v.Ports != nil {
		ports, without := v.Ports.Strings(), v.WithoutPorts.Strings()
		out.Ports, out.PortsCount = firstOf(ports, wire.MaxList), len(ports)
		out.ExcludedPorts, out.ExcludedPortsCount = firstOf(without, wire.MaxList), len(without)
		out.ExcludedPortsRule = clip(strings.Join(v.PortRules, ", "))
	}
	for _, e := range v.Excluded() {
		out.ExcludedCount += count(e.Prefix)
		if len(out.Excluded) < wire.MaxList {
			out.Excluded = append(out.Excluded, wire.Exclusion{Prefix: e.Prefix.String(), Rule: clipTo(e.Rule, maxWord)})
		}
	}
	return out
}

// maxWord bounds an entry of the lists in a record, in bytes. With all its lists full and all its
// texts at their bounds a record still fits a message.
const maxWord = 128

// bounded is a refusal as it may go into a record.
func bounded(r wire.Refusal) *wire.Refusal {
	for _, s := range []*string{&r.Code, &r.Field, &r.Got, &r.Reason, &r.Hint, &r.Rule} {
		*s = clip(*s)
	}
	r.Allowed = slices.Clone(firstOf(r.Allowed, wire.MaxList))
	for i := range r.Allowed {
		r.Allowed[i] = clipTo(r.Allowed[i], maxWord)
	}
	return &r
}

// count is the number of addresses of a prefix, at most 2^63.
func count(p netip.Prefix) uint64 {
	return 1 << min(p.Addr().BitLen()-p.Bits(), 63)
}

func firstOf[T any](s []T, n int) []T { return s[:min(len(s), n)] }
