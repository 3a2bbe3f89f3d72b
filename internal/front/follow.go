package front

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// A scan can ask to be followed: by a second pass, and by another scanner that looks at what was found. Each of these is
// a job of its own, that goes the whole way from request to box under the handle of the connection that asked; what it
// found becomes a part of the result of the first, which is under way until then. Where it cannot be had, the result
// says why: nothing follows a scan that did not come to its end.

// errClosing ends the wait for a job that is taken up again at the next start.
var errClosing = errors.New("the front ends")

// followUp has what a job asked for follow it, and adds what comes of it to the report.
func (f *front) followUp(j *job, r *report.Report) error {
	j.mu.Lock()
	then, record := j.then, j.record
	j.mu.Unlock()
	if !then {
		return nil
	}
	call, faults := f.now().Tools.Read(j.row.Tool, j.row.Arguments)
	if len(faults) > 0 {
		return nil // it was read before
	}
	if record.Started.IsZero() {
		return nil // nothing was scanned, and error says why
	}
	engagement := record.Verdict.Engagement
	why := ""
	if record.Outcome.Reason != wire.Exited || !r.ExitOK {
		why = "the scan before it did not come to its end"
	}
	if second, is := call.SecondPass(); is {
		pass, err := f.secondPass(j, r, second.Under(engagement), why)
		if err != nil {
			return err
		}
		r.Coverage.SecondPass = &pass
	}
	return f.verify(j, r, call, engagement, why)
}

func (f *front) secondPass(j *job, r *report.Report, call runners.Call, why string) (report.SecondPass, error) {
	none := report.OnePass{Ports: []string{}}
	pass := report.SecondPass{Status: "none", Why: why, OnlyFirst: none, OnlySecond: none}
	if why != "" {
		return pass, nil
	}
	c, err := f.followed(j, call)
	if err != nil {
		return pass, err
	}
	j.mu.Lock()
	first := j.record.Verdict
	j.mu.Unlock()
	if c = c.of(first); c.ran {
		if pass = r.Again(c.report); !c.ended() {
			pass.OnlyFirst = none // it may not have come to them
		}
	}
	pass.JobID, pass.Status = c.id, c.status
	if c.why != "" {
		pass.Why, pass.Agreed = c.why, false
	}
	return pass, nil
}

func (f *front) verify(j *job, r *report.Report, call runners.Call, engagement, why string) error {
	var open []runners.Open
	r.Found(func(addr netip.Addr, udp bool, port uint16) {
		open = append(open, runners.Open{Addr: addr, UDP: udp, Port: port})
	})
	wanted, left, err := call.Verifications(engagement, open)
	if err != nil {
		f.log.Error("cannot make the call of a verification", "job", j.row.ID, "why", err)
		r.Coverage.Verification = append(r.Coverage.Verification, report.Verification{Status: "none", Asked: len(open), Unknown: len(open),
			Why: "its call cannot be made", NotOpen: report.OnePass{Ports: []string{}}})
		return nil
	}
	for _, w := range wanted {
		v := report.Verification{Status: "none", Why: why, Asked: len(w.Of), Unknown: len(w.Of), NotOpen: report.OnePass{Ports: []string{}}}
		if why == "" {
			c, err := f.followed(j, w.Call)
			if err != nil {
				return err
			}
			if c.ran {
				of := map[runners.Open]bool{}
				for _, o := range w.Of {
					of[o] = true
				}
				v = r.Verified(c.report, func(addr netip.Addr, udp bool, port uint16) bool {
					return of[runners.Open{Addr: addr, UDP: udp, Port: port}]
				})
			}
			v.JobID, v.Status, v.Why = c.id, c.status, c.why
		}
		r.Coverage.Verification = append(r.Coverage.Verification, v)
	}
	if len(left) > 0 {
		r.Coverage.Verification = append(r.Coverage.Verification, report.Verification{Status: "none", Asked: len(left), Unknown: len(left),
			Why: "there are more open ports than one verification takes", NotOpen: report.OnePass{Ports: []string{}}})
	}
	return nil
}

// follower is what became of a job that followed another.
type follower struct {
	id, status string
	ran        bool // its scanner was started
	why        string
	verdict    wire.Verdict
	report     report.Report
}

// ended says that the scanner came to its own end.
func (c follower) ended() bool { return c.ran && c.report.ExitOK }

// of is a job that followed one of that verdict: one that looked at other addresses or ports, since a name or the engagement
// has changed meanwhile, says nothing of what that one found.
func (c follower) of(first wire.Verdict) follower {
	same := c.verdict.AddressCount == first.AddressCount && slices.Equal(c.verdict.Addresses, first.Addresses) &&
		c.verdict.PortsCount == first.PortsCount && slices.Equal(c.verdict.Ports, first.Ports)
	if c.ran && !same {
		c.ran, c.why = false, "it looked at other addresses or ports than the first: a name or the engagement has changed meanwhile"
	}
	return c
}

// followed starts a job after j, or takes up the one that was started, and waits for its end.
func (f *front) followed(j *job, call runners.Call) (follower, error) {
	arguments, err := call.Arguments()
	if err != nil {
		return follower{}, err
	}
	id, refused, err := f.began(j, call, arguments)
	if err != nil || refused != "" {
		return follower{status: "none", why: refused}, err
	}
	if err := f.outwait(j, id); err != nil {
		return follower{}, err
	}
	row, err := f.store.Get(context.WithoutCancel(f.ctx), j.row.UID, id)
	if err != nil {
		f.log.Error("cannot read a job that followed another", "job", id, "why", fmt.Sprintf("%T", err))
		return follower{id: id, status: "none", why: "its result cannot be read"}, nil
	}
	j.mu.Lock()
	if row.Ended.After(j.until) {
		j.until = row.Ended
	}
	j.mu.Unlock()
	return outcomeOf(row), nil
}

// outcomeOf is what a job's row says of it.
func outcomeOf(row store.Job) follower {
	c := follower{id: row.ID, status: string(row.State), ran: !row.Started.IsZero()}
	var record wire.Job
	if len(row.Record) > 0 && json.Unmarshal(row.Record, &record) != nil || len(row.Result) > 0 && json.Unmarshal(row.Result, &c.report) != nil {
		return follower{id: row.ID, status: string(row.State), why: "its result cannot be read"}
	}
	c.verdict = record.Verdict
	switch o := record.Outcome; {
	case row.State == store.Completed:
	case o != nil && o.Refused != nil:
		c.why = o.Refused.Code + ": " + o.Refused.Reason
	case o != nil && o.Reason != wire.Exited:
		c.why = "it was ended: " + o.Reason
	default:
		c.why = "it did not come to a good end"
	}
	return c
}

// began is the job that follows j with those arguments: one that is there already, as after a restart, or a new one.
// refused says why there is none.
func (f *front) began(j *job, call runners.Call, arguments json.RawMessage) (id, refused string, err error) {
	rows, err := f.store.Following(context.WithoutCancel(f.ctx), j.row.UID, j.row.ID)
	if err != nil {
		return "", "the jobs that follow it cannot be read", nil
	}
	if i := slices.IndexFunc(rows, func(r store.Job) bool { return r.Tool == call.Tool && string(r.Arguments) == string(arguments) }); i >= 0 {
		return rows[i].ID, "", nil
	}
	j.mu.Lock()
	asker, halted := j.asker, j.halted
	j.mu.Unlock()
	if halted {
		return "", "the job was cancelled before it began", nil
	}
	if asker == nil {
		return "", "the daemon was restarted before it began", nil
	}
	value, err := wire.Encode(&call, wire.MaxValue)
	if err != nil {
		return "", "its arguments are too large", nil
	}
	plan := call.Plan()
	row := store.Job{ID: newJobID(), UID: j.row.UID, Tool: call.Tool, Profile: plan.Profile, Engagement: plan.Engagement, Correlation: j.row.Correlation,
		Follows: j.row.ID, State: store.Queued, Created: time.Now(), Arguments: arguments}
	child, refusal := f.begin(context.WithoutCancel(f.ctx), asker, f.now().Tools, row, value, j.consent, acceptWait)
	if child == nil {
		return "", refusal.Code + ": " + refusal.Reason, nil
	}
	return row.ID, "", nil
}

// outwait waits for the end of a job that follows j, and shows how far it is as j's own progress.
func (f *front) outwait(j *job, id string) error {
	f.mu.Lock()
	child := f.jobs[id]
	f.mu.Unlock()
	if child == nil {
		return nil // it is over
	}
	j.mu.Lock()
	j.follower = id
	halted := j.halted
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.follower, j.held = "", time.Time{}
	}()
	if halted { // it was cancelled while this one was begun
		f.endFollower(j, id)
	}
	for {
		child.mu.Lock()
		changed, progress := child.changed, child.progress
		var held time.Time
		if child.awaitsApproval() {
			held = child.record.Approval.Expires
		}
		child.mu.Unlock()
		j.mu.Lock()
		j.held = held
		if j.progress = progress; progress.Task != "" {
			j.progress.Task = child.row.Tool + ": " + progress.Task
		}
		j.change()
		j.mu.Unlock()
		select {
		case <-child.done:
			return nil
		case <-changed:
		case <-f.ctx.Done():
			return errClosing
		}
	}
}

// endFollower has the launcher end a job that follows a cancelled one.
func (f *front) endFollower(j *job, id string) {
	j.mu.Lock()
	asker := j.asker
	j.mu.Unlock()
	if asker != nil {
		f.cancelOne(asker, id)
	}
}

// halt notes that nothing is to follow a job any more, and is the job that follows it now; empty: none.
func (f *front) halt(id string) string {
	f.mu.Lock()
	j := f.jobs[id]
	f.mu.Unlock()
	if j == nil {
		return ""
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.halted = true
	return j.follower
}

// isFollowed says that a job's own scan is over, and that others follow it. It needs j.mu.
func (j *job) isFollowed() bool {
	o := j.record.Outcome
	return o != nil && o.Reason == wire.Exited && j.then
}

// wantsMore says whether something is to follow a job.
func wantsMore(of runners.Table, row store.Job) bool {
	call, faults := of.Read(row.Tool, row.Arguments)
	return len(faults) == 0 && len(call.Then()) > 0
}
