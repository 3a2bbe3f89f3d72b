package front

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/metrics"
	"github.com/secmcpd/secmcpd/runners/report"
)

// countAtMost is how often the file of metrics is written at most, countTimeout how long that, or
// the answer to a scrape, may wait for the store.
const (
	countAtMost  = time.Second
	countTimeout = 10 * time.Second
)

// count writes the file of metrics whenever a job has ended, and once more when the front ends.
func (f *front) count(ctx context.Context) error {
	defer f.flush()
	var lacking string // the path whose directory is not there, as it was last told
	write := func() {
		f.flush()
		path := f.now().Metrics
		if path == "" {
			return
		}
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			if lacking != path {
				f.log.Warn("metrics are not written: make the directory, or set metrics.textfile to \"\"", "why", err)
			}
			lacking = path
			return
		}
		if err := f.metrics.WriteFile(path); err != nil {
			f.log.Error("cannot write metrics", "why", err)
		}
	}
	defer write()
	defer f.metrics.Stop()
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
		case <-time.After(max(f.now().Every-countAtMost, 0)):
		}
	}
}

// recount has the file written soon.
func (f *front) recount() {
	select {
	case f.counted <- struct{}{}:
	default:
	}
}

// tally is what has been counted and is not in the store yet. What is of a job is counted there, when
// it ends; this is the rest, of which a front that is killed loses what it has not flushed.
type tally struct {
	moving sync.Mutex // held while sums go into the store, or are read with what is there
	mu     sync.Mutex
	sums   map[metrics.Total]int64 // N is 0 in the key; as many as there are words for them
}

func (f *front) add(t metrics.Total) {
	n := t.N
	t.N = 0
	f.tally.mu.Lock()
	defer f.tally.mu.Unlock()
	if f.tally.sums == nil {
		f.tally.sums = map[metrics.Total]int64{}
	}
	f.tally.sums[t] += n
}

// pending are the sums that are not in the store.
func (t *tally) pending() (all []metrics.Total) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for sum, n := range t.sums {
		if sum.N = n; n > 0 {
			all = append(all, sum)
		}
	}
	return all
}

// flush puts what has been counted into the store. What cannot be put there waits.
func (f *front) flush() {
	f.tally.moving.Lock()
	defer f.tally.moving.Unlock()
	ctx, done := context.WithTimeout(context.WithoutCancel(f.ctx), countTimeout)
	defer done()
	for some := range slices.Chunk(f.tally.pending(), store.MaxCounts) {
		var all []store.Total
		for _, t := range some {
			all = append(all, store.Total(t))
		}
		if err := f.store.Add(ctx, all); err != nil {
			f.log.Warn("cannot keep what was counted; it is kept later", "why", err)
			return
		}
		for _, t := range some {
			t.N = -t.N
			f.add(t)
		}
	}
}

// countCall counts a call of a tool by what came of it. One that was refused with a job is in the job's
// end.
func (f *front) countCall(tool string, err error) {
	var fs faults
	var r refused
	outcome := "refused"
	switch {
	case err == nil:
		outcome = "answered"
	case errors.As(err, &fs):
		f.add(metrics.Refused(metrics.Arguments))
	case errors.As(err, &r):
		if r.JobID == "" {
			f.add(metrics.Refused(r.Code))
		}
	case errors.Is(err, errUnreachable):
		f.add(metrics.Refused("launcher_unreachable"))
	default:
		outcome = "failed"
	}
	f.add(metrics.Call(tool, outcome))
}

// reading is what it took to read a report.
type reading struct {
	bytes  int64
	waited time.Duration // for the report to grow
	took   time.Duration // without that
}

// at counts what is read of a report.
func (r *reading) at(from io.Reader) io.Reader { return &metered{from, &r.bytes} }

type metered struct {
	from io.Reader
	n    *int64
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.from.Read(b)
	*m.n += int64(n)
	return n, err
}

// countsOf is what a job that ends adds to the totals of its tool.
func countsOf(row store.Job, record wire.Job, r report.Report, took reading) (out []store.Count) {
	o, u := record.Outcome, record.Outcome.Usage
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	j := metrics.Job{ErrorType: errorType(row.State, o), Launched: !record.Started.IsZero() && o.Reason != wire.Launch,
		Wait: record.Started.Sub(row.Created), Ran: ms(u.WallMS),
		CPU: ms(u.CPUMS), Throttled: ms(u.ThrottledMS), WaitedCPU: ms(u.WaitedCPUMS), WaitedMemory: ms(u.WaitedMemoryMS), WaitedIO: ms(u.WaitedIOMS),
		MemoryPeak: u.MemoryPeak, PidsRefused: u.PidsRefused, OffScope: u.OffScope, Output: u.Output, Read: u.Read, Written: u.Written,
		Parse: took.took, Parsed: took.bytes, Cut: len(r.Cut) > 0}
	if o.Refused != nil && row.State == store.Refused {
		j.Code = o.Refused.Code
	}
	if o.Reason == wire.Launch {
		j.Stage = o.Stage
	}
	for _, t := range j.Sums() {
		out = append(out, store.Count{Name: t.Name, Label: t.Label, N: t.N})
	}
	return out
}

// errorType says how a job ended in the predecessor's words.
func errorType(state store.State, o *wire.Outcome) string {
	code := ""
	if o.Refused != nil {
		code = o.Refused.Code
	}
	switch {
	case state == store.Completed, state == store.Partial && o.Reason == wire.Exited:
		return metrics.None
	case code == "scanner_missing":
		return metrics.NotFound
	case code == "breaker_open":
		return metrics.BreakerOpen
	}
	switch o.Reason {
	case wire.Timeout:
		return metrics.Timeout
	case wire.Refused:
		return metrics.Validation
	case wire.Memory, wire.Pids, wire.CPU, wire.Output, wire.DiskFull:
		return metrics.Exhausted
	case wire.Cancelled, wire.Withdrawn:
		return metrics.Cancelled
	case wire.Shutdown, wire.Interrupted, wire.ScopeLost:
		return metrics.Interrupted
	}
	return metrics.Execution
}

// packetsOf is what became of a job's packets, each once: the fates are the metric's.
func packetsOf(u wire.Usage) map[string]uint64 {
	return map[string]uint64{"sent": u.SentPackets, "received": u.Received, "off_scope": u.OffScope,
		"form": u.Dropped - min(u.Dropped, u.OffScope), "over_rate": u.OverRate, "refused": u.Refused}
}

// facts are what there is to count now. What was counted is kept before it is told, so that no total goes
// back if the front is killed; it is told, too, if it cannot be kept.
func (f *front) facts() (metrics.Facts, error) {
	f.flush()
	m := metrics.Facts{Version: f.cfg.Version, Tools: f.now().Tools.Names(), Process: processOf(wire.ThisProcess(f.since)), Running: map[string]int{}}
	f.underWayFacts(&m)
	if l := f.launcher(); l != nil {
		l.mu.Lock()
		m.Connected, m.Allowed = true, l.budget
		l.mu.Unlock()
	}
	f.mu.Lock()
	m.Sessions = len(f.sessions)
	users := map[uint32]bool{}
	for _, s := range f.sessions {
		users[s.client.UID] = true
	}
	m.Clients = len(users)
	f.mu.Unlock()
	m.Checks = checksOf("front", wire.HealthOf(f.health.Report()))
	if s := f.heard.Load(); s != nil {
		m.Launcher = launcherFacts(s)
		switch {
		case !m.Connected: // how it was is not how it is
			m.Launcher = m.Launcher.Gone()
		case s.Health != nil:
			m.Checks = append(m.Checks, checksOf("launcher", s.Health)...)
		}
	}
	return m, f.keptFacts(&m)
}

// keptFacts are those of the store. The totals in it and those on their way there are of one moment.
func (f *front) keptFacts(m *metrics.Facts) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(f.ctx), countTimeout)
	defer done()
	space, err := f.store.Space(ctx)
	if err != nil {
		return err
	}
	m.Kept, m.Most, m.Free, m.Least = space.Kept, f.now().Keep.Bytes, space.Free, f.now().Keep.Free
	if m.JobsKept, m.Unfinished, err = f.store.Kept(ctx); err != nil {
		return err
	}
	ends, err := f.store.Ends(ctx)
	if err != nil {
		return err
	}
	for _, e := range ends {
		m.Ended = append(m.Ended, metrics.Ended{Tool: e.Tool, State: string(e.State), Reason: e.Reason, Jobs: e.Jobs})
	}
	packets, err := f.store.Packets(ctx)
	if err != nil {
		return err
	}
	for _, p := range packets {
		m.Packets = append(m.Packets, metrics.Packets(p))
	}
	f.tally.moving.Lock()
	defer f.tally.moving.Unlock()
	totals, err := f.store.Totals(ctx)
	for _, t := range totals {
		m.Totals = append(m.Totals, metrics.Total(t))
	}
	m.Totals = append(m.Totals, f.tally.pending()...)
	return err
}

// underWayFacts are those of jobs under way.
func (f *front) underWayFacts(m *metrics.Facts) {
	now := time.Now()
	for _, j := range f.underWayAll() {
		j.mu.Lock()
		switch j.record.State {
		case wire.Running:
			m.Running[j.row.Tool]++
			m.Reserved += j.record.Rate
		case wire.Ended:
			m.Ending++
		default:
			m.Queued++
			m.Oldest = max(m.Oldest, now.Sub(j.row.Created))
		}
		j.mu.Unlock()
	}
}

func launcherFacts(s *wire.State) *metrics.Launcher {
	a := s.Counters.Audit
	return &metrics.Launcher{Slots: s.Slots, Records: a.Records, AuditBytes: a.Bytes, AuditFiles: int64(a.Files), AuditPending: int64(a.Pending),
		Unwritable: a.Unwritable, Process: processOf(s.Counters.Process), Breakers: breakersOf(s.Breakers)}
}

// breakersOf are the tools' breakers, and one for all networks of targets: a label names no target.
func breakersOf(b wire.Breakers) (all []metrics.Breaker) {
	of := func(name, state string, c wire.BreakerCounts) metrics.Breaker {
		one := metrics.Breaker{Name: name, State: state, Moves: map[[2]string]int64{},
			Calls: map[string]int64{"success": int64(c.Success), "failure": int64(c.Failure), "rejected": int64(c.Rejected)}}
		for _, from := range metrics.BreakerStates {
			for _, to := range metrics.BreakerStates {
				if from != to {
					one.Moves[[2]string{from, to}] = 0
				}
			}
		}
		for _, change := range c.Changes {
			one.Moves[[2]string{change.From, change.To}] = int64(change.Count)
		}
		return one
	}
	for _, tool := range b.Tools {
		all = append(all, of(tool.Name, tool.State, tool.Counts))
	}
	worst := "closed"
	switch {
	case b.Open > 0:
		worst = "open"
	case b.HalfOpen > 0:
		worst = "half_open"
	}
	return append(all, of("network", worst, b.OfNetworks))
}

func checksOf(room string, h *wire.Health) (all []metrics.Check) {
	for _, c := range h.Checks {
		all = append(all, metrics.Check{Room: room, Name: c.Name, Priority: c.Priority, Status: c.Status})
	}
	return all
}

func processOf(p wire.Process) metrics.Process {
	return metrics.Process{Resident: p.Resident, CPU: time.Duration(p.CPUMS) * time.Millisecond, Goroutines: p.Goroutines, Files: p.Files, Started: p.Started}
}

func (f *front) underWayNow() (queued, running int) {
	m := metrics.Facts{Running: map[string]int{}}
	f.underWayFacts(&m)
	for _, n := range m.Running {
		running += n
	}
	return m.Queued + m.Ending, running
}
