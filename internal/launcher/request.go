package launcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// The path of one scan, from the front's request to the end of the box. Each step can refuse,
// and each refusal is audited:
//
//	start     caller → decode and validate → audit asked → breaker of the tool → precheck → record, durable
//	run       resolve → decide → audit decided → approval → breakers → gate → decide again → breakers → launch → audit done
//	launch    scanner → command → box → scope → audit launched → sandbox.Run
//
// start answers the front; run goes on in a goroutine of the job's own.

// start accepts a scan or says why not. nil: accepted, the rest is told by the job's record. front
// ends with the connection that asked.
func (l *Launcher) start(front context.Context, m wire.Start) *wire.Refusal {
	caller, ok := l.caller(m.Handle)
	if !ok {
		return gone()
	}
	set := l.now()
	call, refused := l.decodeCall(set, m.Value)
	if refused != nil {
		return refused
	}
	plan := call.Plan()
	// Before anybody can find the job: whoever does can end it.
	ctx, end := context.WithCancelCause(context.WithoutCancel(front))
	j := &job{caller: caller, call: call, plan: plan, request: asked(plan, call.Tool), end: end, consent: m.Consent,
		record: wire.Job{ID: m.Job, UID: caller.UID, Tool: call.Tool, State: wire.Queued, Asked: time.Now(), Correlation: cmp.Or(m.Correlation, m.Job)}}
	if refused := l.enlist(j); refused != nil {
		return refused
	}
	// From here on it can be cancelled; nothing of it is begun before the filter has been tried.
	if l.knowsFilter(front) != nil {
		l.strike(j)
		return frontGone()
	}
	if refused := l.accepted(ctx, set, j); refused != nil {
		l.strike(j)
		return refused
	}
	if refused := l.begin(front, j); refused != nil {
		l.note(j.refusedBy(refused))
		if err := l.records.remove(j.record.ID); err != nil {
			l.log.Error("cannot remove a record", "job", j.record.ID, "why", err)
		}
		l.strike(j)
		return refused
	}
	go func() {
		defer l.running.Done()
		defer end(nil)
		l.finish(j, l.run(ctx, j))
	}()
	return nil
}

// begin makes an accepted job one that runs, unless there is nobody left who would hear that it
// was accepted: the next front is told of those that have begun, and gives up the others.
func (l *Launcher) begin(front context.Context, j *job) *wire.Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if refused := l.closedLocked(); refused != nil {
		return refused
	}
	if front.Err() != nil {
		return frontGone()
	}
	j.begun = true
	l.running.Add(1)
	return nil
}

func frontGone() *wire.Refusal {
	return &wire.Refusal{Code: "front_gone", Reason: "the connection to the front ended before the scan began", Hint: "ask again in a few seconds", Retryable: true}
}

// decodeCall reads the runner's value as the front encoded it and applies the runner's own
// rules again: the front is not trusted to have done so.
func (l *Launcher) decodeCall(set *Live, value []byte) (runners.Call, *wire.Refusal) {
	var call runners.Call
	if err := wire.Decode(value, wire.MaxValue, &call); err != nil {
		return call, &wire.Refusal{Code: "bad_value", Reason: "the value is not in the runner's form", Hint: hintRooms}
	}
	call, faults := set.Tools.Validate(call)
	if len(faults) > 0 {
		f := faults[0]
		return call, &wire.Refusal{Code: f.Code, Field: f.Field, Got: f.Got, Allowed: firstOf(f.Allowed, wire.MaxList),
			Reason: "the launcher does not take what the front took", Hint: cmp.Or(f.Hint, hintRooms)}
	}
	return call, nil
}

// hintRooms is for what an honest front of the same version never sends.
const hintRooms = "the operator restarts both units, which have to be of one version"

// enlist reserves the id and a place. Of two jobs with one id the second is refused, until the
// front has acknowledged the first.
func (l *Launcher) enlist(j *job) *wire.Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs[j.record.ID] != nil {
		return &wire.Refusal{Code: "job_exists", Field: "job", Reason: "this job's id is in use", Hint: "ask again: each scan gets an id of its own"}
	}
	if len(l.jobs) >= maxRecords {
		return &wire.Refusal{Code: "busy", Reason: fmt.Sprintf("%d jobs are kept already", len(l.jobs)),
			Hint: "wait for running scans to end", Retryable: true, RetryAfterS: busyAgain}
	}
	own := 0
	for _, other := range l.jobs {
		if other.record.UID == j.record.UID {
			own++
		}
	}
	if own >= maxRecordsPerUID {
		return &wire.Refusal{Code: "busy", Reason: fmt.Sprintf("%d jobs of yours are kept already", own),
			Hint: "wait for running scans to end, or cancel some", Retryable: true, RetryAfterS: busyAgain}
	}
	l.jobs[j.record.ID] = j
	return nil
}

// strike takes back what enlist did.
func (l *Launcher) strike(j *job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.jobs, j.record.ID)
}

// accepted audits, prechecks and records a job. Nothing has been sent anywhere when it refuses.
func (l *Launcher) accepted(ctx context.Context, set *Live, j *job) *wire.Refusal {
	if err := l.audit.Append(j.entry(observability.Asked)); err != nil {
		l.log.Error("cannot write the audit log: scans are refused", journal.Key, journal.AuditUnwritable, "why", err)
		return auditUnavailable()
	}
	if refused := l.closed(); refused != nil {
		return l.noted(j, refused)
	}
	if refused := l.off(set, j.call.Tool); refused != nil {
		return l.noted(j, refused)
	}
	if refused := l.broken(j.call.Tool, nil, true); refused != nil {
		return l.noted(j, refused)
	}
	if refused := j.aimed(l); refused != nil {
		return l.noted(j, refused)
	}
	v := policy.Precheck(l.judged(), onPolicy(j.caller), j.asks(), time.Now())
	if !v.Grants() {
		l.note(j.denied(v))
		return refusal(v)
	}
	if missing := l.missing(set); len(missing) > 0 {
		r := unenforced(missing)
		l.note(j.refusedBy(r))
		return r
	}
	if refused := j.unconfirmed(v, false); refused != nil {
		return l.noted(j, refused)
	}
	if len(names(j.asks())) > 0 {
		if _, refused := l.resolvers(set); refused != nil {
			return l.noted(j, refused)
		}
	}
	words, refused := l.wordlist(set, j.plan)
	if refused != nil {
		return l.noted(j, refused)
	}
	j.call = j.call.WithWords(words.words()) // its cost, which the gate asks for
	words.close()
	if _, err := l.scanners.get(ctx, set, set.Tools.ScannerOf(j.call.Tool)); err != nil {
		if _, over := ended(ctx); !over { // else run says how it ended
			return l.noted(j, noScanner(j.call.Tool, err))
		}
	}
	if err := l.records.create(j.record); err != nil {
		l.log.Error("cannot keep a record", "job", j.record.ID, "why", err)
		r := &wire.Refusal{Code: "records_unavailable", Reason: "the launcher cannot keep a record of the job, so it is not started",
			Hint: "the operator finds the cause in the log and with `secmcpd doctor`", Retryable: true}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			r.Code, r.Hint = "disk_full", "the operator frees space in the launcher's state directory"
		}
		l.note(j.refusedBy(r))
		return r
	}
	return nil
}

// run takes an accepted job to its end and says how it ended.
func (l *Launcher) run(ctx context.Context, j *job) wire.Outcome {
	if ask := names(j.asks()); len(ask) > 0 {
		if refused := l.resolved(ctx, j, ask); refused != nil {
			return denied(refused)
		}
	}
	if o, over := ended(ctx); over {
		return o
	}
	if refused := l.decide(j); refused != nil {
		return denied(refused)
	}
	if refused := l.inTime(ctx, j); refused != nil {
		return denied(l.noted(j, refused))
	}
	if o, over := l.approval(ctx, j); over {
		return o
	}
	if refused := l.broken(j.call.Tool, j.decided().Addresses(), true); refused != nil {
		return denied(l.noted(j, refused))
	}
	place, leave, err := l.gate.Enter(ctx, j.caller.UID, l.share(ctx, j))
	if err != nil {
		return l.notEntered(ctx, err)
	}
	defer leave()
	j.enters(place)
	// The queue may have been long: the engagement is read, the clock and the protections are
	// asked once more.
	if refused := l.decide(j); refused != nil {
		return denied(refused)
	}
	if missing := l.missing(l.now()); len(missing) > 0 {
		return denied(l.noted(j, unenforced(missing)))
	}
	return l.tried(j, func() wire.Outcome { return l.launch(ctx, j, place) })
}

// share is what a job needs of the budgets: the rate that its scanner would be launched with now.
func (l *Launcher) share(ctx context.Context, j *job) policy.Share {
	v, set := j.decided(), l.now()
	s := policy.Share{Rate: v.Limits.Rate, Engagement: v.Engagement, Budget: v.Limits.Budget, Tool: j.call.Tool, Job: j.record.ID}
	wall, _ := deadline(v, j.plan.Limit, time.Now())
	expected := wall
	if tool, err := l.scanners.get(ctx, set, set.Tools.ScannerOf(j.call.Tool)); err == nil {
		if c, _, err := l.commandFor(j.call, tool, v, commanded(v, j.plan.Limit, time.Now())); err == nil {
			if c.Rate > 0 {
				s.Rate = min(s.Rate, c.Rate)
			}
			expected = min(wall, c.Time)
		}
	}
	j.lasts(expected, wall)
	return s // what is wrong with either is told when it is launched
}

// resolved asks for the names of a job once and pins their answers.
func (l *Launcher) resolved(ctx context.Context, j *job, ask []string) *wire.Refusal {
	if len(ask) > namesBurst {
		return l.noted(j, &wire.Refusal{Code: policy.RateTooHigh, Field: "targets", Got: strconv.Itoa(len(ask)), Allowed: []string{strconv.Itoa(namesBurst)},
			Reason: "more names than are resolved for one scan", Hint: "split the scan, or give addresses"})
	}
	if wait := l.names.allow(j.caller.UID, len(ask), time.Now()); wait > 0 {
		return l.noted(j, &wire.Refusal{Code: policy.RateTooHigh, Field: "targets", Reason: "too many names in a short time",
			Hint: "ask again in " + seconds(wait) + " seconds, or give addresses", Retryable: true, RetryAfterS: wholeSeconds(wait)})
	}
	servers, refused := l.resolvers(l.now())
	if refused != nil {
		return l.noted(j, refused)
	}
	a, err := l.resolve(ctx, j.caller.UID, servers, ask, j.plan.IPv6)
	if _, over := ended(ctx); over {
		return nil // that it has no answers is then no denial; run says how it ended
	}
	if err != nil {
		l.log.Error("cannot resolve names", "job", j.record.ID, "why", err)
		return l.noted(j, &wire.Refusal{Code: "name_unresolved", Field: "targets", Reason: "names cannot be resolved here: " + err.Error(),
			Hint: "give addresses; the operator sees the cause with `secmcpd doctor`", Retryable: true})
	}
	pinned, refused := pin(j.asks(), a, j.plan.One)
	if refused != nil {
		return l.noted(j, refused)
	}
	j.mu.Lock()
	j.request = pinned
	j.record.Resolved = resolvedOnWire(pinned)
	j.mu.Unlock()
	return nil
}

// decide takes the verdict on a job as of now and keeps it in its record.
func (l *Launcher) decide(j *job) *wire.Refusal {
	// One at a time: of two jobs that would be the last one of their engagement, one is.
	l.deciding.Lock()
	defer l.deciding.Unlock()
	if refused := l.stillThere(l.now(), j.call); refused != nil {
		return l.noted(j, refused)
	}
	v := policy.Decide(l.judged(), onPolicy(j.caller), j.asks(), time.Now())
	if !v.Grants() {
		l.note(j.denied(v))
		return refusal(v)
	}
	again := j.decided().Grants()
	if again && v.Outcome == policy.Approve && !j.isApproved() {
		return l.noted(j, &wire.Refusal{Code: "approval_needed", Rule: v.Engagement + ": approval", Allowed: firstOf(v.Approval.Of, wire.MaxList), Retryable: true,
			Reason: "the engagement has changed while the scan waited, and wants an operator's approval for it now; nothing was sent", Hint: "ask again, and have it approved"})
	}
	// One that has yet to be approved is counted from then on.
	if refused := l.crowded(j, v); refused != nil && !again && v.Outcome == policy.Allow {
		return l.noted(j, refused)
	}
	if refused := j.unconfirmed(v, again); refused != nil {
		return l.noted(j, refused)
	}
	j.mu.Lock()
	// One job is under one engagement, from its first verdict on.
	j.request.Engagement = v.Engagement
	j.record.Verdict = onWire(v)
	j.verdict = v
	j.mu.Unlock()
	if again {
		return nil // audited when it was first decided; a change would be a denial
	}
	if err := l.audit.Append(j.entry(observability.Decided)); err != nil {
		return auditUnavailable()
	}
	return nil
}

// crowded refuses a job beyond those that its engagement has at once. Those that were allowed
// before it count, whether they run or wait.
func (l *Launcher) crowded(j *job, v policy.Verdict) *wire.Refusal {
	if v.Limits.Jobs == 0 {
		return nil
	}
	others := 0
	for _, o := range l.all() {
		r := o.snapshot()
		isIn := r.Verdict.Outcome == string(policy.Allow) || r.Approval != nil && !r.Approval.Waits()
		if o != j && r.State != wire.Ended && r.Verdict.Engagement == v.Engagement && isIn {
			others++
		}
	}
	if others < v.Limits.Jobs {
		return nil
	}
	return &wire.Refusal{Code: "too_many_jobs", Got: strconv.Itoa(others + 1), Allowed: []string{strconv.Itoa(v.Limits.Jobs)}, Rule: v.Engagement + ": limits.jobs",
		Reason: "the engagement allows no more scans at once", Hint: "wait for one to end, or cancel one", Retryable: true}
}

func (l *Launcher) notEntered(ctx context.Context, err error) wire.Outcome {
	if o, over := ended(ctx); over {
		return o
	}
	if errors.Is(err, policy.ErrNoSlot) {
		return denied(&wire.Refusal{Code: "no_slot", Reason: "scanners that could not be ended hold every slot",
			Hint: "the operator finds them in the log, and restarts the launcher once they are gone"})
	}
	if errors.Is(err, policy.ErrQueueFull) {
		return denied(&wire.Refusal{Code: "busy", Reason: "the queue of waiting scans is full, or its last places are kept for users who have none waiting", Hint: "wait for running scans to end", Retryable: true,
			RetryAfterS: l.firstEnd()})
	}
	return l.failed("gate", err)
}

// ended is the outcome of a job that we have ended, over all that may have failed because of it.
func ended(ctx context.Context) (o wire.Outcome, over bool) {
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errStale) { // in the moment of its approval
			return denied(staleApproval()), true
		}
		return wire.Outcome{Reason: endedBy(cause), Detail: why(cause)}, true
	}
	return wire.Outcome{}, false
}

// endedBy says which of our own causes ended a job.
func endedBy(cause error) string {
	for _, known := range []error{errWithdrawn, errShutdown, errScopeLost, errDiskFull} {
		if errors.Is(cause, known) {
			return known.Error()
		}
	}
	return wire.Cancelled
}

// finish makes the end of a job durable, then tells it: audit first, then the record, then the
// front. While the disk of one of them is full the front is told all the same; on disk the job
// still says `running`, which a crash now turns into `interrupted`: no launch is without its end
// in the audit log, and no result is invented.
func (l *Launcher) finish(j *job, o wire.Outcome) {
	o.Ended = time.Now()
	j.mu.Lock()
	j.record.State, j.record.Outcome = wire.Ended, &o
	record := j.record
	j.mu.Unlock()
	l.sayEnded(record)
	l.note(j.entry(observability.Done))
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := l.audit.Flush()
		if err == nil {
			if j.wasAudited() {
				l.forget(j)
				return // acknowledged meanwhile
			}
			err = l.records.write(record)
		}
		if err == nil || l.isEnding() {
			break
		}
		l.log.Error("cannot keep the end of a job; trying again", "job", record.ID, "why", err)
		l.show(j)
		time.Sleep(wait)
		if !l.knows(j) {
			return // acknowledged meanwhile
		}
	}
	l.show(j)
}

// wasAudited notes that the end of a job is in the audit log, and says whether the front has
// acknowledged it by then.
func (j *job) wasAudited() (acknowledged bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.audited = true
	return j.acknowledged
}

// mayBeForgotten notes that the front has committed a job. One whose end is not in the audit log
// yet is kept until it is.
func (j *job) mayBeForgotten() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acknowledged = j.record.State == wire.Ended
	return j.acknowledged && j.audited
}

// acknowledge forgets a job that has ended and that the front has committed. One that has not
// ended is not forgotten, whatever the front says.
func (l *Launcher) acknowledge(id string) {
	l.mu.Lock()
	j := l.jobs[id]
	l.mu.Unlock()
	if j != nil && j.mayBeForgotten() {
		l.forget(j)
	}
}

func (l *Launcher) forget(j *job) {
	if err := l.records.remove(j.record.ID); err != nil {
		l.log.Error("cannot remove a record", "job", j.record.ID, "why", err)
	}
	l.strike(j) // the id may be used again from here on
}

// cancel ends a job for its caller. Another uid's job is said not to exist.
func (l *Launcher) cancel(m wire.Cancel) *wire.Refusal {
	caller, ok := l.caller(m.Handle)
	if !ok {
		return gone()
	}
	l.mu.Lock()
	j := l.jobs[m.Job]
	l.mu.Unlock()
	if j == nil || j.record.UID != caller.UID {
		return &wire.Refusal{Code: "no_such_job", Field: "job_id", Got: m.Job, Reason: "no job of yours with this id is under way", Hint: "job_list lists yours"}
	}
	j.stop(errCancelled)
	return nil
}

// stop ends a job with a cause; the first cause stands.
func (j *job) stop(cause error) {
	if j.end != nil {
		j.end(cause)
	}
}

// rejudge ends the running jobs that the policy as it now is would not allow as they were
// launched: an engagement was narrowed, removed or suspended, its hours or its term are over.
func (l *Launcher) rejudge() {
	p := l.judged()
	now := time.Now()
	budgets := map[string]int{}
	for _, e := range p.Engagements {
		budgets[e.Name] = e.Limits.Budget
		l.gate.Bound(e.Name, e.Limits.Budget)
	}
	var stay []*job
	for _, j := range l.all() {
		r := j.snapshot()
		if r.State == wire.Ended || r.Verdict.Outcome == "" {
			continue
		}
		was := j.decided()
		if r.Approval.Waits() && p.RevisionOf(was.Engagement) != was.Revision {
			j.stop(errStale) // what waits is under another text
			continue
		}
		v := outgrown(policy.Rejudge(p, onPolicy(j.caller), j.asks(), was.Engagement, now), was, r, now.Round(0).Add(r.Deadline.Sub(now)))
		if !v.Grants() {
			l.note(j.denied(v))
			j.stop(errWithdrawn)
			continue
		}
		stay = append(stay, j)
	}
	for j, v := range overdrawn(stay, budgets) {
		l.note(j.denied(v))
		j.stop(errWithdrawn)
	}
}

// overdrawn are the jobs to be ended because their engagement has less for all of them together
// than they have: those that entered last.
func overdrawn(jobs []*job, budgets map[string]int) map[*job]policy.Verdict {
	out := map[*job]policy.Verdict{}
	has := map[string]int{}
	entered := func(j *job) time.Time { _, at := j.inside(); return at }
	slices.SortStableFunc(jobs, func(a, b *job) int { return entered(a).Compare(entered(b)) })
	for _, j := range jobs {
		place, _ := j.inside()
		was := j.decided()
		most := budgets[was.Engagement]
		if has[was.Engagement]+place.Rate <= most || most == 0 || place.Rate == 0 {
			has[was.Engagement] += place.Rate
			continue
		}
		out[j] = policy.Verdict{Outcome: policy.Deny, Code: policy.RateTooHigh, Engagement: was.Engagement, Revision: was.Revision,
			Rule: "limits.total_packets_per_second", Got: strconv.Itoa(has[was.Engagement] + place.Rate), Allowed: []string{strconv.Itoa(most)},
			Reason: "the engagement was narrowed: its scans together have a higher rate"}
	}
	return out
}

// outgrown is the verdict of now on a job, or a denial where it allows less than the job has: some
// address, the rate or the time that its scanner was launched with. What has not been launched
// is decided again before it is. ends is when the job's time is over by the wall clock as it goes now:
// earlier than its deadline if the clock was set back, which takes nothing from a job within its hours.
func outgrown(now, was policy.Verdict, r wire.Job, ends time.Time) policy.Verdict {
	deny := func(code, rule, got, allowed, reason string) policy.Verdict {
		return policy.Verdict{Outcome: policy.Deny, Code: code, Engagement: now.Engagement, Revision: now.Revision, Rule: rule, Got: got,
			Allowed: []string{allowed}, Reason: "the engagement was narrowed: " + reason}
	}
	switch {
	case !now.Grants():
		return now
	case now.Outcome == policy.Approve && was.Outcome == policy.Allow:
		return deny("approval_needed", "intrusive, approve, approval", "", "", "it wants an operator's approval, which the job has not")
	case !now.Ports.Covers(was.Ports):
		return deny(policy.PortNotAllowed, "targets, exclude", "", "", "it no longer allows every port of the job")
	case !covers(now.Addresses(), was.Addresses()):
		return deny(policy.TargetOutOfScope, "targets, exclude", "", "", "it no longer allows every address of the job")
	case r.State != wire.Running:
		return now
	case now.Limits.Rate < was.Limits.Rate:
		return deny(policy.RateTooHigh, "limits.packets_per_second", strconv.Itoa(was.Limits.Rate), strconv.Itoa(now.Limits.Rate), "the job was launched with a higher rate")
	case r.Started.Add(now.Limits.Duration).Before(r.Deadline):
		return deny(policy.DurationTooLong, "limits.duration", r.Deadline.Sub(r.Started).String(), now.Limits.Duration.String(), "the job was launched with a longer time")
	case !now.Until.IsZero() && now.Until.Before(r.Deadline) && now.Until.Before(ends):
		return deny(policy.DurationTooLong, "hours, expires", r.Deadline.Format(time.RFC3339), now.Until.Format(time.RFC3339), "it ends before the job would")
	}
	return now
}

// covers reports whether every prefix of part lies in one of whole. Both are the shortest lists
// for their addresses, so a prefix that is covered is covered by one.
func covers(whole, part []netip.Prefix) bool {
	for _, p := range part {
		if !slices.ContainsFunc(whole, func(w netip.Prefix) bool { return w.Bits() <= p.Bits() && w.Contains(p.Addr()) }) {
			return false
		}
	}
	return true
}

func denied(r *wire.Refusal) wire.Outcome {
	return wire.Outcome{Reason: wire.Refused, Refused: bounded(*r)}
}

func gone() *wire.Refusal {
	return &wire.Refusal{Code: "caller_gone", Reason: "the connection behind this request is closed", Hint: "connect again", Retryable: true}
}

func auditUnavailable() *wire.Refusal {
	return &wire.Refusal{Code: "audit_unavailable", Reason: "the audit log cannot be written, so nothing is launched", Hint: hintAudit, Retryable: true}
}

const hintAudit = "the operator finds the cause with `secmcpd doctor` (a full disk, most often)"
