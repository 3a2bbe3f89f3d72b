package front

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	mcpsession "github.com/secmcpd/secmcpd/internal/session"
	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// A task is a job as the protocol's extension shows it, to clients that say that they take tasks. Its
// id is the job's: what the tools say of a job holds for its task, whoever began it and in whichever
// session, and nothing is kept for the one that is not kept for the other.

func (f *front) tasks() mcpsession.Tasks {
	return mcpsession.Tasks{Get: f.task, Update: f.updateTask, Cancel: f.cancelTask}
}

// giveTask answers a scan that goes on with its task, where the client takes one.
func (f *front) giveTask(ctx context.Context, j *job, a any) {
	if under, is := a.(answer); is && under.PollAfterS > 0 && mcpsession.TakesTask(ctx) {
		mcpsession.GiveTask(ctx, j.task())
	}
}

// task is the state of a job under way. It is kept as long as it runs, so that its time has no end.
func (j *job) task() mcpsession.Task {
	a := j.underWay()
	t := mcpsession.Task{ID: a.JobID, Status: mcpsession.Working, Message: j.message(), Created: a.Created, Updated: a.Created, Poll: int64(a.PollAfterS) * 1000}
	if !a.Started.IsZero() {
		t.Updated = a.Started
	}
	t.Created, t.Updated = t.Created.Truncate(time.Millisecond), t.Updated.Truncate(time.Millisecond) // as they are kept
	return t
}

// message says in one line how far a job is.
func (j *job) message() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if by := j.record.EndsBy; j.row.State == store.Running && !by.IsZero() && j.record.Outcome == nil {
		return "the daemon is being stopped; the scan has until " + by.UTC().Format(time.RFC3339)
	}
	if p := j.progress; j.row.State == store.Running && p.Task != "" {
		return fmt.Sprintf("%s, %.0f%%, %d hosts done", p.Task, p.Percent, p.Hosts)
	}
	if !j.held.IsZero() {
		return "the scan that follows it waits for an operator's approval until " + j.held.UTC().Format(time.RFC3339)
	}
	if j.awaitsApproval() {
		return "waits for an operator's approval until " + j.record.Approval.Expires.UTC().Format(time.RFC3339)
	}
	if q := j.waits.now(time.Now()); q != nil && j.row.State == store.Queued {
		return fmt.Sprintf("queued, %d to begin before it, in about %d s", q.Ahead, q.ExpectedStartS)
	}
	return string(j.row.State)
}

// task answers tasks/get: what the scan tool would have answered, once there is an end.
func (f *front) task(ctx context.Context, raw json.RawMessage) (*mcpsession.Task, error) {
	s := sessionOf(ctx)
	id, err := taskID(raw)
	if err != nil {
		return nil, err
	}
	if j := f.underWay(s, id); j != nil && !j.settle(ctx) {
		t := j.task()
		return &t, nil
	}
	row, err := f.taskRow(ctx, s, id)
	if err != nil {
		return nil, err
	}
	t := &mcpsession.Task{ID: id, Status: mcpsession.Completed, Message: string(row.State), Created: row.Created, Updated: row.Created, TTL: f.keptFor(row)}
	if !row.Ended.IsZero() {
		t.Updated = row.Ended
	}
	if row.State == store.Cancelled {
		t.Status, t.Message = mcpsession.TaskCancelled, "cancelled: job_result with this id gives what was found until then"
		return t, nil
	}
	if t.Result, err = result(f.endOf(row)); err != nil {
		f.log.Error("a task has no result", "job", id, "why", fmt.Sprintf("%T", err)) // the text may quote a scanned host
		t.Status, t.Error = mcpsession.TaskFailed, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "what the job found cannot be read back"}
	}
	return t, nil
}

// keptFor is how long after its creation a job that has ended is kept, in milliseconds; nil: no age is too
// old. One user's jobs may become too many, or too large, before.
func (f *front) keptFor(row store.Job) *int64 {
	if f.now().Keep.Age <= 0 || row.Ended.IsZero() {
		return nil
	}
	ms := (row.Ended.Sub(row.Created) + f.now().Keep.Age).Milliseconds()
	return &ms
}

// updateTask takes answers to what a task asks. A user is asked before a scan starts, so that no task
// ever does, and answers that nobody has asked for are ignored.
func (f *front) updateTask(ctx context.Context, raw, _ json.RawMessage) error {
	id, err := taskID(raw)
	if err != nil {
		return err
	}
	s := sessionOf(ctx)
	if f.underWay(s, id) == nil {
		_, err = f.taskRow(ctx, s, id)
	}
	return err
}

// cancelTask asks for the end of a job that has not ended.
func (f *front) cancelTask(ctx context.Context, raw json.RawMessage) error {
	id, err := taskID(raw)
	if err != nil {
		return err
	}
	s := sessionOf(ctx)
	if f.underWay(s, id) == nil {
		_, err = f.taskRow(ctx, s, id)
		return err
	}
	if r := f.cancel(s, id); r != nil && r.Code != "no_such_job" { // no such job: it has just ended
		return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: r.Reason, Data: encode(failure{Error: problemOf(r), JobID: id})}
	}
	return nil
}

// taskRow is a job of the caller's that is not under way.
func (f *front) taskRow(ctx context.Context, s *session, id string) (store.Job, error) {
	row, err := f.committed(ctx, s, id)
	var r refused
	if errors.As(err, &r) {
		return row, noTask(id, r.Refusal)
	}
	return row, err
}

// noTask is told in the protocol's way: its methods have no results that are errors.
func noTask(got string, r *wire.Refusal) error {
	return invalid(faults{{Code: "no_such_task", Field: "taskId", Got: got, Hint: r.Hint}})
}

func taskID(raw json.RawMessage) (id string, err error) {
	if raw == nil {
		f := argJob.fault("missing", "")
		f.Field = "taskId"
		return "", invalid(faults{f})
	}
	if f, wrong := argJob.wrong(raw); wrong {
		f.Field = "taskId"
		return "", invalid(faults{f})
	}
	return values{argJob.name: raw}.text(argJob), nil
}

// longest is what a call waits whose client has not said how long: a task is had at once.
func longest(ctx context.Context, wait time.Duration, given bool) time.Duration {
	if !given && mcpsession.TakesTask(ctx) {
		return 0
	}
	return wait
}
