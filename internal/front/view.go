package front

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/view"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// What operators see: every user's jobs, and nothing that scanners found but numbers.

// status is the answer of /v1/status.
func (f *front) status(ctx context.Context) view.Status {
	s := view.Status{Version: f.cfg.Version, Since: f.since, At: time.Now(), Users: []view.User{}, Jobs: []view.Job{}, Ended: []view.Job{},
		Gaps: append([]wire.Gap{}, f.gaps...), Launcher: f.launcherState()}
	if f.cfg.Health.Every > 0 {
		s.Health = wire.HealthOf(f.health.Report())
	}
	for _, l := range f.cfg.HTTP {
		one := view.HTTP{Address: l.Addr().String()}
		if beyondLoopback(l.Addr()) && s.Launcher != nil && s.Launcher.Tokens == 0 {
			one.Refused = "it is not of this machine alone, and no token is in force"
		}
		s.HTTP = append(s.HTTP, one)
	}
	s.Queued, s.Running = f.underWayNow()
	under := f.underWayAll()
	slices.SortFunc(under, func(a, b *job) int {
		return cmp.Or(a.row.Created.Compare(b.row.Created), cmp.Compare(a.row.ID, b.row.ID))
	})
	for _, j := range under[:min(len(under), view.MaxJobs)] {
		s.Jobs = append(s.Jobs, j.listed())
	}
	if ended, err := f.store.Ended(ctx, view.MaxEnded); err == nil {
		for _, row := range ended {
			s.Ended = append(s.Ended, f.listed(row))
		}
	} else {
		s.NotReady = append(s.NotReady, "the store cannot be read")
	}
	if space, err := f.store.Space(ctx); err == nil {
		s.Space = view.Space{Kept: space.Kept, Allowed: f.now().Keep.Bytes, Free: space.Free, Reserved: f.now().Keep.Free}
		if space.Free < f.now().Keep.Free {
			s.NotReady = append(s.NotReady, "the disk of results is full: no new scan is started")
		}
	}
	f.mu.Lock()
	of := map[uint32]int{}
	for _, one := range f.sessions {
		of[one.client.UID]++
	}
	s.Sessions = len(f.sessions)
	if f.link == nil {
		s.NotReady = append(s.NotReady, "the launcher is not connected")
	}
	f.mu.Unlock()
	for _, uid := range slices.Sorted(maps.Keys(of)) {
		if len(s.Users) < view.MaxUsers {
			s.Users = append(s.Users, view.User{UID: uid, Sessions: of[uid]})
		}
	}
	s.Ready = len(s.NotReady) == 0 && (s.Health == nil || s.Health.Ready)
	return s
}

// listed is a job under way as a list shows it.
func (j *job) listed() view.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := rowListed(j.row)
	v.take(j.record)
	if v.State == string(store.Running) {
		p := j.progress
		v.Progress = &view.Progress{Percent: p.Percent, Task: p.Task, RemainingS: p.Remaining, HostsDone: p.Hosts}
	}
	return v.Job
}

// listed is a job of the store as a list shows it: what is under way, as it is now.
func (f *front) listed(row store.Job) view.Job {
	f.mu.Lock()
	j := f.jobs[row.ID]
	f.mu.Unlock()
	if j != nil {
		return j.listed()
	}
	v := rowListed(row)
	var record wire.Job
	if json.Unmarshal(row.Record, &record) == nil { // what cannot be read back is told by who asks for the job
		v.take(record)
	}
	var s summary
	if len(row.Summary) > 0 && json.Unmarshal(row.Summary, &s) == nil && !row.Started.IsZero() {
		v.Found = &view.Found{HostsUp: s.HostsUp, OpenPorts: s.OpenPorts, Words: s.Found, Complete: s.Complete}
	}
	return v.Job
}

// listedRow is a job on its way into a list.
type listedRow struct{ view.Job }

func rowListed(row store.Job) listedRow {
	v := listedRow{view.Job{JobID: row.ID, UID: row.UID, Tool: row.Tool, Profile: row.Profile, Engagement: row.Engagement, Correlation: row.Correlation,
		Follows: row.Follows, Pinned: row.Pinned, State: string(row.State), Targets: []string{}, Created: row.Created, Started: row.Started, Ended: row.Ended}}
	var asked struct {
		Targets     []string `json:"targets"`
		URL, Domain string
	}
	if json.Unmarshal(row.Arguments, &asked) == nil {
		for _, one := range []string{asked.URL, asked.Domain} {
			if one != "" {
				asked.Targets = append(asked.Targets, one)
			}
		}
		v.TargetCount = len(asked.Targets)
		v.Targets = append(v.Targets, asked.Targets[:min(len(asked.Targets), view.MaxTargets)]...)
	}
	return v
}

// take adds what the launcher's record says.
func (v *listedRow) take(record wire.Job) {
	v.Engagement = cmp.Or(record.Verdict.Engagement, v.Engagement)
	v.Deadline = record.Deadline
	if o := record.Outcome; o != nil && o.Reason != wire.Exited {
		v.Reason = o.Reason
		if o.Refused != nil {
			v.Reason = cmp.Or(o.Refused.Code, v.Reason)
		}
	}
}

// problemJSON answers an operator who asked for what is not there, or wrongly.
func problemJSON(w http.ResponseWriter, status int, r wire.Refusal) {
	answerJSON(w, status, map[string]wire.Refusal{"error": r})
}

// showJobs answers /v1/jobs?uid=&state=&tool=&before=&limit=. The states are those of a job, and "under_way".
func (f *front) showJobs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	wrong := func(field, allowed string) {
		problemJSON(w, http.StatusBadRequest, wire.Refusal{Code: "bad_value", Field: field, Got: clip(q.Get(field)), Allowed: []string{allowed}})
	}
	filter := store.Filter{Tool: q.Get("tool"), Before: q.Get("before"), Limit: 20}
	var whose store.Whose
	if text := q.Get("uid"); text != "" {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			wrong("uid", "a number")
			return
		}
		uid := uint32(n)
		whose = &uid
	}
	most := view.MaxJobs
	if q.Get("state") == "under_way" {
		most = view.MaxUnderWay
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			wrong("limit", "1 to "+strconv.Itoa(most))
			return
		}
		filter.Limit = n
	}
	out := view.Jobs{Jobs: []view.Job{}}
	switch state := q.Get("state"); {
	case state == "under_way":
		for _, j := range f.underWayAll() {
			if v := j.listed(); (whose == nil || v.UID == *whose) && (filter.Tool == "" || v.Tool == filter.Tool) {
				out.Jobs = append(out.Jobs, v)
			}
		}
		slices.SortFunc(out.Jobs, func(a, b view.Job) int {
			return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.JobID, b.JobID))
		})
		out.More = max(len(out.Jobs)-filter.Limit, 0)
		out.Jobs = out.Jobs[:len(out.Jobs)-out.More]
		answerJSON(w, http.StatusOK, out)
		return
	case state != "" && !slices.Contains(jobStates, state):
		wrong("state", "under_way, or a state of a job")
		return
	default:
		filter.State = store.State(state)
	}
	if filter.Before != "" && !wire.ValidJobID(filter.Before) {
		wrong("before", "next of an answer")
		return
	}
	rows, next, err := f.store.ListAll(r.Context(), whose, filter)
	switch {
	case errors.Is(err, store.ErrNotFound):
		wrong("before", "next of an answer")
		return
	case err != nil:
		f.log.Error("cannot list jobs", "why", err)
		problemJSON(w, http.StatusInternalServerError, wire.Refusal{Code: "store_unavailable", Reason: "the jobs cannot be read; the log says why"})
		return
	}
	out.Next = next
	for _, row := range rows {
		out.Jobs = append(out.Jobs, f.listed(row))
	}
	answerJSON(w, http.StatusOK, out)
}

// showJob answers /v1/jobs/ID.
func (f *front) showJob(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !wire.ValidJobID(id) {
		problemJSON(w, http.StatusBadRequest, wire.Refusal{Code: "bad_value", Field: "id", Got: clip(id), Allowed: []string{argJob.allowed}})
		return
	}
	row, err := f.store.Of(r.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		problemJSON(w, http.StatusNotFound, wire.Refusal{Code: "no_such_job", Field: "id", Got: id, Reason: "no job with this id is kept"})
		return
	}
	var detail view.JobDetail
	if err == nil {
		detail, err = f.detail(row)
	}
	if err != nil {
		f.log.Error("cannot show a job", "job", id, "why", stageOf(err))
		problemJSON(w, http.StatusInternalServerError, wire.Refusal{Code: "store_unavailable", Reason: "the job cannot be read; the log says why"})
		return
	}
	answerJSON(w, http.StatusOK, detail)
}

// stageOf is an error without what was kept, which may be a scanned host's.
func stageOf(err error) string {
	var u *unreadable
	if errors.As(err, &u) {
		return u.Stage()
	}
	return err.Error()
}

func (f *front) detail(row store.Job) (view.JobDetail, error) {
	d := view.JobDetail{Job: f.listed(row), Arguments: row.Arguments}
	f.mu.Lock()
	j := f.jobs[row.ID]
	f.mu.Unlock()
	var argv io.ReadCloser
	var a answer
	if j != nil {
		a = j.now()
		j.mu.Lock()
		d.Verdict = j.record.Verdict
		if file := j.files["argv"]; file != nil {
			argv = io.NopCloser(io.NewSectionReader(file, 0, maxArgvFile))
		}
		j.mu.Unlock()
	} else {
		record, _, err := unpack(row)
		if err != nil {
			return d, err
		}
		d.Verdict = record.Verdict
		if a, err = f.finished(row, query{Limit: 1}); err != nil {
			return d, err
		}
		if file, err := f.store.Artefact(row.ID, "argv.json"); err == nil {
			argv = file
		}
	}
	a = a.brief()
	a.Hosts = nil
	d.Answer = encode(a)
	if argv != nil {
		var words []string
		text, err := io.ReadAll(io.LimitReader(argv, maxArgvFile))
		if argv.Close(); err == nil && json.Unmarshal(text, &words) == nil {
			d.ArgvCount, d.Argv = len(words), words[:min(len(words), view.MaxArgv)]
		}
	}
	return d, nil
}

// maxArgvFile bounds what is read of the file that has a command line, in bytes.
const maxArgvFile = 4 << 20
