package launcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// Some scans start only once an operator has approved them. What is approved is one exact command:
//
//	decide → approve? → prepare → digest → wait ──► operator: show, approve its digest ──► gate
//	gate → decide again → prepare again → the same digest, or refused
//
// A job that waits has no slot and no part of a budget. It lives in this process alone: the caller's
// connection, the names as they were resolved and the scanner as it was found go with it, so that after a
// restart there is nothing left that could be approved.

// errStale ends the wait for an approval of what is no longer so.
var errStale = errors.New("stale")

// prepared is what a launch is made of, when its scope and its box are not counted.
type prepared struct {
	tool    *scanner
	words   *wordlist
	call    runners.Call
	verdict policy.Verdict // with the rate that the command has
	command runners.Command
	way     *wire.Network
}

// prepare builds the command of a judged job by the settings of set, at most that fast. The word list is the caller's to close, also
// where there is an outcome: the job is over then.
func (l *Launcher) prepare(ctx context.Context, set *Live, j *job, rate int) (p prepared, o wire.Outcome, over bool) {
	var err error
	if p.tool, err = l.scanners.get(ctx, set, set.Tools.ScannerOf(j.call.Tool)); err != nil {
		if o, over := ended(ctx); over {
			return p, o, true
		}
		return p, l.failed("scanner", err), true
	}
	if o, over := ended(ctx); over {
		return p, o, true
	}
	var refused *wire.Refusal
	if p.words, refused = l.wordlist(set, j.plan); refused != nil {
		return p, denied(l.noted(j, refused)), true
	}
	p.verdict, p.call = j.decided(), j.call.WithWords(p.words.words())
	build := func(wall time.Duration) error {
		p.command, p.way, err = l.commandFor(p.call, p.tool, p.verdict, wall)
		if err == nil && p.command.Rate > rate {
			p.verdict.Limits.Rate = rate // it was less when the job asked for its place
			p.command, p.way, err = l.commandFor(p.call, p.tool, p.verdict, wall)
		}
		return err
	}
	now := time.Now()
	wall, _ := deadline(p.verdict, j.plan.Limit, now)
	err = build(wall)
	if whole := commanded(p.verdict, j.plan.Limit, now); err == nil && whole != wall { // it can end in time
		err = build(whole)
	}
	if refused := l.tooLong(err, p.verdict); refused != nil {
		return p, denied(l.noted(j, refused)), true
	}
	if err != nil {
		return p, l.failed(commandStage(err), err), true
	}
	return p, wire.Outcome{}, false
}

// exact is what an operator approves of a prepared job, and its digest.
func (j *job) exact(p prepared) (wire.Exact, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := p.verdict
	var targets, addresses, ports []string
	for _, t := range j.plan.Targets {
		targets = append(targets, t.Text)
	}
	for _, a := range v.Addresses() {
		addresses = append(addresses, a.String())
	}
	if v.Ports != nil {
		ports = v.Ports.Strings()
	}
	e := wire.Exact{Awaited: wire.Awaited{Job: j.record.ID, UID: j.caller.UID, Tool: j.call.Tool, Profile: clipTo(j.plan.Profile, maxWord), Engagement: v.Engagement,
		Why: clipTo(strings.Join(v.Approval.Of, "; "), maxWord), Asked: j.record.Asked}, GID: j.caller.GID, PID: j.caller.PID, Revision: v.Revision, Rule: clip(v.Rule),
		Of: clipped(v.Approval.Of, wire.MaxList), Self: v.Approval.Self, Scanner: p.tool.onWire(j.call.Tool), Wordlist: p.words.onRecord(),
		Rate: p.command.Rate, LimitS: int64(allowed(v, j.plan.Limit) / time.Second), Packets: p.command.Packets, ExpectedS: int64((p.command.Time + time.Second - 1) / time.Second)}
	for _, a := range v.Addresses() {
		e.AddressCount += count(a)
	}
	// The lists that the message may have to cut are in the digest whole.
	whole := struct {
		Exact                           wire.Exact
		Targets, Addresses, Ports, Argv string
		Declaration, Box, Hosts         string
		Raw                             bool
	}{e, digest(targets), digest(addresses), digest(ports), digest(p.command.Argv), "", p.command.Box, digest([]string{p.command.Hosts}), p.command.Raw}
	if j.call.Declared != nil {
		whole.Declaration = j.call.Declared.Revision
	}
	b, err := wire.Encode(&whole, wire.MaxMessage)
	if err != nil {
		return e, err
	}
	e.Digest = digest([]string{string(b)})
	e.TargetsCount, e.Prefixes, e.PortsCount, e.ArgvCount = len(targets), len(addresses), len(ports), len(p.command.Argv)
	e.Targets, e.Addresses, e.Ports, e.Argv = shown(targets, 4<<10), shown(addresses, 8<<10), shown(ports, 4<<10), shown(p.command.Argv, 24<<10)
	return e, nil
}

// shown is as much of a list as has that many bytes. What is shown of it is whole: the end of a word may be what matters.
func shown(words []string, bytes int) []string {
	out := []string{}
	for _, w := range words {
		w = strings.ToValidUTF8(w, "\uFFFD")
		if bytes -= len(w) + 3; bytes < 0 {
			break
		}
		out = append(out, w)
	}
	return out
}

// awaited is a job that waits for its approval.
type awaited struct {
	job   *job
	exact wire.Exact
	said  chan *wire.Refusal // holds one: what an operator decided; nil: approved
	told  bool               // it is on the record that it waits: operators may decide; guarded by Launcher.mu
}

// approval waits until an operator has approved a job that needs it. over: it is over without.
func (l *Launcher) approval(ctx context.Context, j *job) (o wire.Outcome, over bool) {
	v := j.decided()
	if v.Outcome != policy.Approve {
		return wire.Outcome{}, false
	}
	if refused := l.unapprovable(v); refused != nil {
		return denied(l.noted(j, refused)), true
	}
	set := l.now()
	p, o, over := l.prepare(ctx, set, j, math.MaxInt)
	if over {
		p.words.close()
		return o, true
	}
	exact, err := j.exact(p)
	p.words.close() // it may wait for long
	if err != nil {
		return l.failed("command", err), true
	}
	within := min(v.Approval.Within, set.Approvals)
	exact.Expires = time.Now().Add(within)
	if !v.Until.IsZero() && v.Until.Before(exact.Expires) {
		exact.Expires = v.Until
	}
	a := &awaited{job: j, exact: exact, said: make(chan *wire.Refusal, 1)}
	if refused := l.awaits(a); refused != nil {
		return denied(l.noted(j, refused)), true
	}
	timer := time.NewTimer(time.Until(exact.Expires))
	defer timer.Stop()
	if err := l.asking(a); err != nil {
		l.claim(a)
		l.log.Error("cannot ask for an approval", "job", exact.Job, "why", err)
		return denied(auditUnavailable()), true
	}
	select {
	case refused := <-a.said:
		return decidedBy(refused)
	case <-ctx.Done():
	case <-timer.C:
	}
	if !l.claim(a) { // an operator has just decided
		return decidedBy(<-a.said)
	}
	if errors.Is(context.Cause(ctx), errStale) {
		return denied(l.noted(j, staleApproval())), true
	}
	if o, over := ended(ctx); over {
		return o, true
	}
	return denied(l.passed(a)), true
}

// passed refuses a job that nobody has approved in time, and puts that on the record.
func (l *Launcher) passed(a *awaited) *wire.Refusal {
	e := a.job.entry(observability.ApprovalPassed)
	e.Digest = a.exact.Digest
	l.note(e)
	return &wire.Refusal{Code: "approval_expired", Reason: fmt.Sprintf("no operator approved the scan until %s; nothing was sent", a.exact.Expires.Format(time.RFC3339)),
		Rule: rule(a.job.decided()), Allowed: a.exact.Of, Hint: "ask again when an operator is there to approve it, or leave out what has to be approved", Retryable: true}
}

// late says that the time for an approval is over by the clock on the wall, which goes on while the machine sleeps. Timers
// do not.
func (a *awaited) late(now time.Time) bool { return !now.Round(0).Before(a.exact.Expires.Round(0)) }

func decidedBy(refused *wire.Refusal) (wire.Outcome, bool) {
	if refused != nil {
		return denied(refused), true
	}
	return wire.Outcome{}, false
}

// awaits gives a job a place among those that wait.
func (l *Launcher) awaits(a *awaited) *wire.Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	his := 0
	for _, other := range l.pending {
		if other.exact.UID == a.exact.UID {
			his++
		}
	}
	if all := len(l.pending); his >= wire.MaxPendingPerUID || all >= wire.MaxPending {
		r := &wire.Refusal{Code: "too_many_approvals", Got: strconv.Itoa(his + 1), Allowed: []string{strconv.Itoa(wire.MaxPendingPerUID)},
			Reason: fmt.Sprintf("%d scans wait for an operator's approval, %d of them yours; at most %d may, and %d of one user", all, his, wire.MaxPending, wire.MaxPendingPerUID),
			Hint:   "wait until an operator has decided on those, or cancel one of yours", Retryable: true}
		if his < wire.MaxPendingPerUID {
			r.Got, r.Allowed = strconv.Itoa(all+1), []string{strconv.Itoa(wire.MaxPending)}
			r.Hint = "wait until an operator has decided on some"
		}
		return r
	}
	l.pending[a.exact.Job] = a
	return nil
}

// claim takes a job from those that wait. Of all who would decide on it, one gets it.
func (l *Launcher) claim(a *awaited) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[a.exact.Job] != a {
		return false
	}
	delete(l.pending, a.exact.Job)
	return true
}

// asking makes it known that a job waits: audit, record, operators, front.
func (l *Launcher) asking(a *awaited) error {
	j, exact := a.job, a.exact
	e := j.entry(observability.ApprovalAsked)
	e.Digest = exact.Digest
	if err := l.audit.Append(e); err != nil {
		return err
	}
	j.mu.Lock()
	j.record.Approval = &wire.Approval{Of: exact.Of, Digest: exact.Digest, Expires: exact.Expires}
	record := j.record
	j.mu.Unlock()
	if err := l.records.write(record); err != nil {
		return err
	}
	l.log.Info("a scan waits for an approval", append(about(record), journal.Key, journal.ApprovalAsked, "digest", exact.Digest[:12], "until", exact.Expires.Format(time.RFC3339))...)
	l.mu.Lock()
	a.told = true
	l.mu.Unlock()
	l.show(j)
	return nil
}

// unapprovable refuses what nobody could approve.
func (l *Launcher) unapprovable(v policy.Verdict) *wire.Refusal {
	if v.Outcome != policy.Approve || l.cfg.Operators != nil {
		return nil
	}
	return &wire.Refusal{Code: "approval_unavailable", Reason: "an operator has to approve the scan, and there is no socket for operators here", Rule: rule(v), Allowed: firstOf(v.Approval.Of, wire.MaxList),
		Hint: "leave out what has to be approved, or use the daemon: `secmcpd stdio` has no operators"}
}

// isApproved says that an operator has approved a job.
func (j *job) isApproved() bool {
	a := j.snapshot().Approval
	return a != nil && !a.Given.IsZero()
}

// unchanged refuses a job that is no longer what was approved.
func (j *job) unchanged(p prepared) *wire.Refusal {
	approved := j.snapshot().Approval
	if approved == nil {
		return nil
	}
	if now, err := j.exact(p); err != nil || now.Digest != approved.Digest {
		return staleApproval()
	}
	return nil
}

func staleApproval() *wire.Refusal {
	return &wire.Refusal{Code: "approval_stale", Reason: "the scan is no longer what was to be approved: its engagement, its scanner, its word list or its rate has changed meanwhile; nothing was sent",
		Hint: "ask again, for an approval of what it is now", Retryable: true}
}

// pendingNow is those that wait, the one that waits for the shortest time first.
func (l *Launcher) pendingNow() []wire.Awaited {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []wire.Awaited
	for _, a := range l.pending {
		if a.told {
			out = append(out, a.exact.Awaited)
		}
	}
	slices.SortFunc(out, func(a, b wire.Awaited) int {
		return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.Job, b.Job))
	})
	return out
}

func (l *Launcher) awaitedJob(id string) (*awaited, *wire.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.pending[id]; a != nil && a.told {
		return a, nil
	}
	return nil, &wire.Refusal{Code: "no_such_job", Field: "job", Got: id, Reason: "no job with this id waits for an approval", Hint: "`secmcpd approve` lists those that do"}
}

// approve carries out an operator's approval.
func (l *Launcher) approve(who wire.Client, o wire.Approve) *wire.Refusal {
	l.deciding.Lock()
	defer l.deciding.Unlock()
	a, refused := l.awaitedJob(o.Job)
	if refused != nil {
		return refused
	}
	v := a.job.decided()
	switch {
	case o.Digest != a.exact.Digest:
		return &wire.Refusal{Code: "approval_stale", Field: "digest", Got: o.Digest, Reason: "this is not the digest of what waits", Hint: "look at it again: `secmcpd approve " + o.Job + "`"}
	case who.UID == a.exact.UID && !v.Approval.Self:
		return &wire.Refusal{Code: "own_request", Got: strconv.FormatUint(uint64(who.UID), 10), Rule: v.Engagement + ": approval.self",
			Reason: "who asked for a scan does not approve it", Hint: "have another operator approve it"}
	}
	if a.late(time.Now()) {
		if !l.claim(a) {
			_, refused := l.awaitedJob(o.Job)
			return refused
		}
		refused := l.passed(a)
		a.said <- refused
		return refused
	}
	// From the approval on it is one of the jobs that its engagement has at once.
	if refused := l.crowded(a.job, v); refused != nil {
		refused.Hint = "approve it when one of them has ended, if it still waits then"
		return refused
	}
	if !l.claim(a) {
		_, refused := l.awaitedJob(o.Job)
		return refused
	}
	e := a.job.entry(observability.Approved)
	e.Digest, e.Operator = a.exact.Digest, onAuditCaller(who)
	if err := l.audit.Append(e); err != nil {
		l.log.Error("cannot write the audit log: an approval is not carried out", journal.Key, journal.AuditUnwritable, "why", err)
		a.said <- auditUnavailable()
		return auditUnavailable()
	}
	a.job.mu.Lock()
	given := *a.job.record.Approval
	given.Given, given.By = time.Now(), &who.UID
	a.job.record.Approval = &given
	record := a.job.record
	a.job.mu.Unlock()
	if err := l.records.write(record); err != nil { // without it the scan is not launched: it is written once more then
		l.log.Error("cannot keep a record", "job", o.Job, "why", err)
	}
	l.log.Info("a scan was approved", append(about(a.job.snapshot()), journal.Key, journal.ApprovalGiven, "by_uid", who.UID, "digest", a.exact.Digest[:12])...)
	a.said <- nil
	l.show(a.job)
	return nil
}

// deny carries out an operator's refusal.
func (l *Launcher) deny(who wire.Client, o wire.Deny) *wire.Refusal {
	a, refused := l.awaitedJob(o.Job)
	if refused != nil {
		return refused
	}
	if !l.claim(a) {
		_, refused := l.awaitedJob(o.Job)
		return refused
	}
	reason := said(o.Reason)
	e := a.job.entry(observability.ApprovalDenied)
	e.Digest, e.Operator, e.Reason = a.exact.Digest, onAuditCaller(who), reason
	l.note(e)
	why := "an operator (" + userName(who.UID) + ") has not approved the scan; nothing was sent"
	if reason != "" {
		why += ": " + reason
	}
	l.log.Info("a scan was not approved", append(about(a.job.snapshot()), journal.Key, journal.ApprovalDenied, "by_uid", who.UID)...)
	a.said <- &wire.Refusal{Code: "approval_denied", Reason: why, Rule: rule(a.job.decided()), Allowed: a.exact.Of,
		Hint: "ask for something else, or talk to the operator before asking again"}
	return nil
}

// said is an operator's words as they may be shown: on one line, without what acts on a terminal.
func said(words string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(words, "")))
}

// userName is a user for people.
func userName(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil && len(u.Username) <= 64 {
		return said(u.Username) + ", uid " + number
	}
	return "uid " + number
}

func onAuditCaller(c wire.Client) *observability.Caller {
	return &observability.Caller{UID: c.UID, GID: c.GID, PID: c.PID}
}
