package front

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/observability/metrics"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// job is a scan under way, from its creation until its end is committed.
type job struct {
	mu       sync.Mutex
	row      store.Job // its ID and UID never change
	asked    *link     // the connection that it was asked for on, until it is known whether the launcher accepted it
	record   wire.Job
	files    map[string]*os.File // the launcher's outputs, read-only
	reading  bool                // a goroutine reads the report and will commit
	progress report.Progress
	waits    *waits          // its place in the queue, as the launcher last said; nil: it is not known, or it does not wait
	status   json.RawMessage // see readyStatus; nil: something has changed since
	changed  chan struct{}   // closed and replaced at each change
	looked   reading         // what reading its report took
	over     chan struct{}   // closed when record.Outcome is set
	done     chan struct{}   // closed when the end is committed

	asker    *session  // the client that asked, in this life of the front
	consent  string    // with which it was asked for
	then     bool      // something is to follow it
	follower string    // the job that follows it now
	held     time.Time // until when that one waits for an operator's approval; zero: it does not
	halted   bool      // nothing is to follow it any more
	until    time.Time // the end of what followed it
	told     time.Time // when its progress was last an event
}

func newJob(of runners.Table, row store.Job) *job {
	return &job{row: row, then: wantsMore(of, row), files: map[string]*os.File{}, changed: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{})}
}

// unanswered is the connection on which the launcher was asked for the job, if it is not known
// whether it accepted it.
func (j *job) unanswered() *link {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.asked
}

// newJobID is unguessable: 130 bits in 26 letters.
func newJobID() string {
	var b [17]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:wire.JobIDLength]
}

// isOver says whether it is known how the job ended.
func (j *job) isOver() bool {
	select {
	case <-j.over:
		return true
	default:
		return false
	}
}

// now is the answer about a job that has not been committed.
func (j *job) now() answer {
	a := j.underWay()
	if j.unanswered() != nil {
		a.Next = "Whether the scan was accepted is not known yet. job_status tells once it is."
	}
	return a
}

// begin makes a job durable, asks the launcher for it and waits so long for its answer. A refusal
// ends the job with it.
func (f *front) begin(ctx context.Context, s *session, of runners.Table, row store.Job, value []byte, consent string, wait time.Duration) (*job, *wire.Refusal) {
	if full := f.crowded(); full != nil {
		return nil, full
	}
	j := newJob(of, row)
	j.asker, j.consent = s, consent
	if err := f.store.Create(ctx, row); err != nil {
		f.looksDamaged(err)
		f.log.Error("cannot keep a job", "why", err)
		f.add(metrics.StoreError())
		return nil, storeRefusal(err)
	}
	if d := of.Declaration(row.Tool); d != nil {
		// What the scanner will have written is read by the declaration that it was asked for by.
		if _, err := f.store.Save(row.ID, declarationFile, bytes.NewReader(d.Text), maxArtefact); err != nil {
			f.log.Error("cannot keep a declaration", "job", row.ID, "why", err)
			r := storeRefusal(err)
			f.mu.Lock()
			f.jobs[row.ID] = j
			f.mu.Unlock()
			f.refuse(j, r)
			return j, r
		}
	}
	f.mu.Lock()
	l := f.link
	j.asked = l
	f.jobs[row.ID] = j
	f.mu.Unlock()
	j.mu.Lock()
	f.tellJob(jobQueued, j, string(store.Queued))
	j.mu.Unlock()
	if l == nil {
		r := &wire.Refusal{Code: "launcher_unreachable", Reason: "the privileged half of the daemon does not answer", Hint: "ask again in a few seconds", Retryable: true}
		f.refuse(j, r)
		return j, r
	}
	// The client may vanish meanwhile; whether the job was accepted must be known all the same.
	answered := make(chan *wire.Refusal, 1)
	f.spawn(func() { answered <- f.request(j, l, s.client.Handle, value, consent) })
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case r := <-answered:
		return j, r
	case <-timeout.C:
	case <-f.ctx.Done():
	}
	return j, nil
}

// request asks the launcher for a job and returns its refusal. Where the connection ends before
// the answer, the job may have been accepted, and may run: it stays under way until the records of
// the launcher's next connection tell.
func (f *front) request(j *job, l *link, handle uint64, value []byte, consent string) *wire.Refusal {
	reply, err := l.ask(f.ctx, func(seq uint64) wire.Message {
		return wire.Message{Start: &wire.Start{Seq: seq, Handle: handle, Job: j.row.ID, Value: value, Consent: consent, Correlation: correlation(j.row)}}
	})
	if err != nil {
		return nil
	}
	j.mu.Lock()
	j.asked = nil
	j.change()
	j.mu.Unlock()
	if reply.Refused != nil {
		f.refuse(j, reply.Refused)
	}
	return reply.Refused
}

// correlation is the id under which a job is found in all records and logs: its caller's, that of the
// job which it follows, or its own.
func correlation(row store.Job) string { return cmp.Or(row.Correlation, row.Follows, row.ID) }

func (f *front) refuse(j *job, r *wire.Refusal) {
	f.finish(j, wire.Outcome{Reason: wire.Refused, Refused: r, Ended: time.Now()})
}

// miss ends a job that the launcher does not know.
func (f *front) miss(j *job) {
	if j.unanswered() == nil {
		f.finish(j, wire.Outcome{Reason: wire.Interrupted, Ended: time.Now(), Detail: "the launcher died or never started it"})
		return
	}
	f.refuse(j, &wire.Refusal{Code: "launcher_unreachable", Reason: "the connection to the privileged half of the daemon broke before it accepted the scan; nothing was sent",
		Hint: "ask again", Retryable: true})
}

func storeRefusal(err error) *wire.Refusal {
	if errors.Is(err, store.ErrDiskFull) {
		return &wire.Refusal{Code: wire.DiskFull, Reason: "there is no space to keep the job, so it is not started",
			Hint: "the operator frees space or lowers jobs.keep_mib", Retryable: true}
	}
	return &wire.Refusal{Code: "store_unavailable", Reason: "the job cannot be kept, so it is not started",
		Hint: "ask again; the operator finds the cause in the log", Retryable: true}
}

// learn takes a record from the launcher, with the descriptors of its outputs the first time.
func (f *front) learn(l *link, record wire.Job, files []*os.File) {
	defer f.service.Changed()
	j, over := f.known(record)
	if j == nil {
		closeAll(files)
		if over && record.State == wire.Ended { // committed before, and the acknowledgement was lost
			f.tell(l, wire.Message{Ack: &wire.Ack{Job: record.ID}})
		}
		return
	}
	j.mu.Lock()
	j.asked = nil
	for i, file := range files {
		if i >= len(record.Files) || j.files[record.Files[i]] != nil {
			file.Close() // the same file by another descriptor: the first is being read
			continue
		}
		j.files[record.Files[i]] = file
	}
	ended := record.Outcome
	record.Outcome = j.record.Outcome
	j.record = record
	if record.State != wire.Queued {
		j.waits = nil
	}
	j.change()
	started := record.State != wire.Queued && !j.row.State.Finished() && j.row.State != store.Running
	if started {
		j.row.State, j.row.Started, j.row.Engagement = store.Running, record.Started, record.Verdict.Engagement
		f.tellJob(jobRunning, j, string(store.Running))
	}
	row := j.row
	j.mu.Unlock()
	if started && ended == nil {
		row.Record = encode(record)
		if err := f.store.Update(f.ctx, row); err != nil {
			f.looksDamaged(err)
			f.log.Error("cannot keep a job's start", "job", row.ID, "why", err) // its end will be kept
			f.add(metrics.StoreError())
		}
	}
	if ended != nil {
		f.finish(j, *ended)
	} else if record.State == wire.Running {
		f.read(j)
	}
}

// known is the job under way of a record, or says that it is over: neither where the store cannot tell. One that the store does not know at all was lost
// with a damaged one: it is taken up with what the launcher says of it.
func (f *front) known(record wire.Job) (j *job, over bool) {
	f.mu.Lock()
	j = f.jobs[record.ID]
	f.mu.Unlock()
	if j != nil {
		return j, false
	}
	if _, err := f.store.Get(f.ctx, record.UID, record.ID); !errors.Is(err, store.ErrNotFound) {
		f.looksDamaged(err)
		return nil, err == nil
	}
	row := store.Job{ID: record.ID, UID: record.UID, Tool: record.Tool, State: store.Queued, Created: cmp.Or(record.Asked, time.Now())}
	if record.Correlation != record.ID {
		row.Correlation = record.Correlation
	}
	if err := f.store.Create(f.ctx, row); err != nil {
		f.log.Error("cannot keep a job that the store does not know; the launcher keeps it", "job", record.ID, "why", err)
		return nil, false
	}
	f.log.Warn("a job that the store does not know is taken up; what it asked for is not known any more", "job", record.ID)
	j = newJob(f.now().Tools, row)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[record.ID] = j
	return j, false
}

// change wakes whoever waits for news of the job. It needs j.mu, and is in the same hold of it as what
// has changed.
func (j *job) change() {
	j.status = nil
	close(j.changed)
	j.changed = make(chan struct{})
}

// finish sets how a job ended, once, and sees to it that this is committed.
func (f *front) finish(j *job, o wire.Outcome) {
	j.mu.Lock()
	j.asked = nil
	if j.record.Outcome == nil {
		j.record.Outcome = &o
		j.record.State = wire.Ended
		close(j.over)
		j.change()
	}
	j.mu.Unlock()
	f.read(j)
}

// read starts the one goroutine that reads a job's report as it grows and commits its end.
func (f *front) read(j *job) {
	j.mu.Lock()
	start := !j.reading
	j.reading = true
	j.mu.Unlock()
	if start {
		f.spawn(func() { f.conclude(j) })
	}
}

func (f *front) conclude(j *job) {
	began := time.Now()
	r, err := f.parse(j)
	j.looked.took = max(time.Since(began)-j.looked.waited, 0)
	if err != nil {
		f.log.Error("cannot read a report", "job", j.row.ID, "why", fmt.Sprintf("%T", err)) // the text may quote the scanner
	}
	select {
	case <-j.over:
	case <-f.ctx.Done():
		return // taken up again at the next start
	}
	if err := f.followUp(j, &r); err != nil {
		return // likewise
	}
	j.mu.Lock()
	j.then = false
	j.mu.Unlock()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 30*time.Second) {
		err := f.commit(j, r)
		if err == nil {
			break
		}
		if errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrNotFound) {
			f.log.Error("a result cannot be kept and is given up", journal.Key, journal.ResultLost, "correlation", correlation(j.row), "job", j.row.ID, "why", err) // trying again changes nothing
			f.add(metrics.StoreError())
			break
		}
		f.looksDamaged(err)
		f.log.Error("cannot keep a result; trying again", "job", j.row.ID, "why", err)
		f.add(metrics.StoreError())
		select {
		case <-time.After(wait):
		case <-f.ctx.Done():
			return
		}
	}
	f.mu.Lock()
	delete(f.jobs, j.row.ID)
	f.used = time.Now()
	l := f.link
	f.mu.Unlock()
	j.mu.Lock()
	for _, file := range j.files {
		file.Close()
	}
	close(j.done)
	j.change()
	j.mu.Unlock()
	f.tell(l, wire.Message{Ack: &wire.Ack{Job: j.row.ID}})
	f.prune(f.ctx)
}

// parse reads the scanner's report until the job is over. Whatever is whole by then counts. Where
// the launcher has no output to show any more, what was kept while it was away counts.
func (f *front) parse(j *job) (report.Report, error) {
	j.mu.Lock()
	stdout, stderr, record := j.files["stdout"], j.files["stderr"], j.record
	j.mu.Unlock()
	if stdout == nil {
		kept, err := f.store.Artefact(j.row.ID, rawFile(j.row.Tool))
		if errors.Is(err, store.ErrNotFound) {
			return report.Report{}, nil
		}
		if err != nil {
			return report.Report{}, err
		}
		defer kept.Close()
		beside, err := f.store.Artefact(j.row.ID, "stderr.txt")
		if errors.Is(err, store.ErrNotFound) {
			return f.parsed(j.row, record, j.looked.at(kept), strings.NewReader(""), nil)
		}
		if err != nil {
			return report.Report{}, err
		}
		defer beside.Close()
		return f.parsed(j.row, record, j.looked.at(kept), beside, nil)
	}
	var beside io.Reader = strings.NewReader("")
	if stderr != nil {
		beside = &tail{ctx: f.ctx, file: stderr, over: j.over}
	}
	return f.parsed(j.row, record, j.looked.at(&tail{ctx: f.ctx, file: stdout, over: j.over, waited: &j.looked.waited}), beside, func(p report.Progress) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.progress = p
		j.change()
		f.tellProgress(j, p)
	})
}

const (
	nmapTool     = "nmap_scan"
	gobusterTool = "gobuster_scan"
	masscanTool  = "masscan_scan"
)

// rawFile is the file of the store that has what a tool's scanner wrote.
func rawFile(tool string) string {
	if tool == nmapTool {
		return "nmap.xml"
	}
	return "output.txt"
}

// parsed reads what a job's scanner has written.
func (f *front) parsed(row store.Job, record wire.Job, stdout, stderr io.Reader, on func(report.Progress)) (report.Report, error) {
	switch row.Tool {
	case gobusterTool:
		return report.ParseGobuster(stdout, stderr, wordsOf(row, record), on)
	case masscanTool:
		return report.ParseMasscan(stdout, stderr, on)
	case nmapTool:
		return report.ParseNmap(stdout, on)
	}
	form, err := f.formOf(row, record)
	if err != nil {
		return report.Report{ErrorClass: report.ErrorNotAReport}, err
	}
	return report.ParseDeclared(stdout, stderr, form, on)
}

// wordsOf is what a scan by words asked for: as the caller wrote it, of the one address that was judged.
func wordsOf(row store.Job, record wire.Job) report.Asked {
	call, faults := runners.BuiltIn().Read(row.Tool, row.Arguments)
	if len(faults) > 0 {
		return report.Asked{} // it was read before
	}
	plan := call.Plan()
	a := report.Asked{Mode: call.Gobuster.Mode, Domain: call.Gobuster.Domain, Requests: record.Requests, Variants: plan.Variants}
	if to, all := prefixesOf(record.Verdict.Addresses, record.Verdict.AddressCount); all && len(to) == 1 && to[0].IsSingleIP() {
		port := uint16(0)
		if len(plan.Asked.TCP) == 1 {
			port = plan.Asked.TCP[0][0]
		}
		a.At = netip.AddrPortFrom(to[0].Addr(), port)
	}
	return a
}

// tail reads a file that grows until it is over.
type tail struct {
	ctx    context.Context // ends with the front: a scan may last longer
	file   *os.File
	offset int64
	over   chan struct{}
	waited *time.Duration // for more, added up here; nil: nowhere
}

// tailInterval is how often a growing file is looked at. The launcher owns the file and the
// front may only read it: there is nobody who could wake it.
const tailInterval = 100 * time.Millisecond

func (t *tail) Read(b []byte) (int, error) {
	for {
		over := false
		select {
		case <-t.over:
			over = true // before the last look, not after it
		default:
		}
		n, err := t.file.ReadAt(b, t.offset)
		t.offset += int64(n)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if over {
			return 0, io.EOF
		}
		began := time.Now()
		select {
		case <-t.over:
		case <-t.ctx.Done():
			return 0, t.ctx.Err()
		case <-time.After(tailInterval):
		}
		if t.waited != nil {
			*t.waited += time.Since(began)
		}
	}
}

const maxArtefact = 64 << 20

// save copies what a job has written into the store. It needs f.keeping.
func (f *front) save(j *job) error {
	j.mu.Lock()
	files := maps.Clone(j.files)
	j.mu.Unlock()
	for file, name := range map[string]string{"stdout": rawFile(j.row.Tool), "stderr": "stderr.txt", "argv": "argv.json", "spec": "spec.txt"} {
		if files[file] == nil {
			continue
		}
		if _, err := f.store.Save(j.row.ID, name, io.NewSectionReader(files[file], 0, 1<<62), maxArtefact); err != nil {
			return err
		}
	}
	return nil
}

// saveAll copies what the jobs under way have written until now: the launcher is away, and with it
// whoever could ask for them. They stay under way, since their scans may go on.
func (f *front) saveAll() {
	for _, j := range f.underWayAll() {
		f.keeping.Lock()
		select {
		case <-j.done:
		default:
			if err := f.save(j); err != nil {
				f.log.Error("cannot keep what a scan has written so far", "job", j.row.ID, "why", err)
			}
		}
		f.keeping.Unlock()
	}
}

func (f *front) underWayAll() []*job {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.jobs))
}

// shorten leaves out half of a report that is too large to be kept, and says so in it. It reports
// whether there was anything to leave out.
func shorten(r *report.Report) bool {
	what := "hosts"
	switch {
	case len(r.Hosts) > 0:
		kept := len(r.Hosts) / 2
		r.Coverage.NotKept += len(r.Hosts) - kept
		r.Hosts = r.Hosts[:kept]
	case len(r.Coverage.Completed)+len(r.Coverage.DownAt)+len(r.Coverage.GivenUp) > 0:
		what, r.Coverage.Completed, r.Coverage.DownAt, r.Coverage.GivenUp = "coverage", nil, nil, nil
	default:
		return false
	}
	if !slices.Contains(r.Cut, what) {
		r.Cut = append(slices.Clone(r.Cut), what)
	}
	return true
}

// commit keeps the end of a job: artefacts first, then the row that speaks of them.
func (f *front) commit(j *job, r report.Report) error {
	f.keeping.Lock()
	defer f.keeping.Unlock()
	if err := f.save(j); err != nil {
		return err
	}
	j.mu.Lock()
	row, record := j.row, j.record
	j.mu.Unlock()
	r = settled(record.Outcome, r)
	r.Coverage.AskedUnknown = len(row.Arguments) == 0 // see known
	row.State = stateOf(record, r)
	row.Reason, row.Ended = record.Outcome.Reason, record.Outcome.Ended
	if j.until.After(row.Ended) {
		row.Ended = j.until
	}
	row.Packets = packetsOf(record.Outcome.Usage)
	row.Counts = countsOf(row, record, r, j.looked)
	row.Started = record.Started
	if record.Verdict.Engagement != "" {
		row.Engagement = record.Verdict.Engagement
	}
	row.Record = encode(record)
	row.Summary = encode(summarise(record, r))
	row.Result = encode(r)
	row.Rows, row.Looked = rowsOf(row, record, r), lookedOf(f.toolsOf(row), row, record, r).kept()
	err := f.store.Update(context.WithoutCancel(f.ctx), row)
	for errors.Is(err, store.ErrTooLarge) && shorten(&r) {
		f.log.Warn("a result is too large and is cut", "job", j.row.ID, "hosts_left", len(r.Hosts))
		row.Result, row.Rows = encode(r), rowsOf(row, record, r)
		err = f.store.Update(context.WithoutCancel(f.ctx), row)
	}
	if err != nil {
		return err
	}
	f.recount()
	j.mu.Lock()
	j.row.State, j.row.Engagement, j.row.Started, j.row.Ended = row.State, row.Engagement, row.Started, row.Ended
	f.tellJob(jobEnded, j, string(row.State))
	j.mu.Unlock()
	return nil
}

// stateOf says in one word how a job ended. Only a scanner that ended by itself, well, and with
// a whole report has completed.
func stateOf(record wire.Job, r report.Report) store.State {
	o := record.Outcome
	switch o.Reason {
	case wire.Exited:
		switch {
		case !endedWell(o.Code, r) || !r.Finished:
			return store.Failed
		case !r.ExitOK:
			return store.Partial // it came to its end, and what it says is not all that it found
		case r.Coverage.TimedOut > 0:
			return store.Partial // of hosts that were given up nothing is known
		case o.Usage.OverRate > 0:
			return store.Partial // what was dropped looks like silence
		case unanswered(record, r) > 0:
			return store.Partial
		case r.Coverage.AskedUnknown:
			return store.Partial // it may have asked for more
		}
		return store.Completed
	case wire.Cancelled:
		return store.Cancelled
	case wire.Output:
		return store.Truncated
	case wire.Timeout, wire.Memory, wire.Pids, wire.CPU, wire.Withdrawn, wire.DiskFull:
		return store.Partial
	case wire.Refused:
		return store.Refused
	case wire.Shutdown, wire.Interrupted, wire.ScopeLost:
		return store.Interrupted
	}
	return store.Failed // launch, violation, signalled
}

// encode is for our own types, which always encode. What HTML would need escaped is left as it is:
// a host that sends much of it would have six bytes kept for each one.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("front: %T: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
