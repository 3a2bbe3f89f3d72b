// Package metrics is what the front counts, in the words of Prometheus.
//
// Totals are read from where jobs are kept, when somebody asks: they outlive the front, and one
// that is killed has counted each job once.
package metrics

import (
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ended is how many jobs of a tool have ended in one way. Its words come from short lists of our
// own: none is a caller's or a target's.
type Ended struct {
	Tool, State, Reason string
	Jobs                int64
}

// Packets is how many packets of a tool's jobs that have ended had one fate, of a short list.
type Packets struct {
	Tool, Fate string
	Packets    int64
}

// Total is a sum of another kind: one of the names of [Job] or [Call] and its siblings.
type Total struct {
	Name, Tool, Label string
	N                 int64
}

// Process is a process of the daemon.
type Process struct {
	Resident   int64 // bytes
	CPU        time.Duration
	Goroutines int
	Files      int
	Started    time.Time
}

// Breaker is one breaker, or those of all target networks together.
type Breaker struct {
	Name  string
	State string           // one of BreakerStates
	Calls map[string]int64 // by result
	Moves map[[2]string]int64
}

// Launcher is what the launcher has said of itself.
type Launcher struct {
	Slots                                int
	Records                              uint64 // of the audit log
	AuditBytes, AuditFiles, AuditPending int64
	Unwritable                           bool
	Process                              Process
	Breakers                             []Breaker
}

// Check is one check of health.
type Check struct {
	Room, Name, Priority string
	Status               string // one of HealthStates
}

// Facts are what there is to count, at one moment.
type Facts struct {
	Version string
	Tools   []string // that there are: what is counted of them begins with 0

	// Of ever.
	Ended   []Ended
	Packets []Packets
	Totals  []Total

	// Of now, and 0 in the last file.
	Running           map[string]int // by tool
	Queued, Ending    int
	Oldest            time.Duration
	Allowed, Reserved int // packets a second of all jobs that run
	Sessions, Clients int
	Process           Process
	Connected         bool
	Checks            []Check

	// Of what lasts.
	Unfinished, JobsKept    int64
	Kept, Most, Free, Least int64     // bytes where results are kept
	Launcher                *Launcher // nil: none has said anything yet
}

// Registry is one of our own: a file for node_exporter must hold no family that it exports itself.
type Registry struct {
	*prometheus.Registry
	facts   func() (Facts, error)
	stopped atomic.Bool
	swept   sync.Once
}

// New makes the registry of a front. With an error of facts nothing is exported: no total is better
// than a wrong one.
func New(facts func() (Facts, error)) *Registry {
	r := &Registry{Registry: prometheus.NewPedanticRegistry(), facts: facts}
	r.MustRegister(collector{r}) // fails for descriptions that contradict each other only
	return r
}

// WriteFile replaces the file at path, which has to end in .prom for node_exporter to read it. The
// file is whole at every moment and may be read by everybody.
func (r *Registry) WriteFile(path string) error {
	r.swept.Do(func() { sweep(path) })
	return prometheus.WriteToTextfile(path, r)
}

// sweep removes what a front has left beside the file that was killed while it wrote: the name, and a number.
func sweep(path string) {
	list, _ := os.ReadDir(filepath.Dir(path)) // that it cannot be read is told by who writes there
	for _, e := range list {
		if number, is := strings.CutPrefix(e.Name(), filepath.Base(path)); is && number != "" && strings.Trim(number, "0123456789") == "" {
			_ = os.Remove(filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
}

// Stop makes the next file the last: nothing is up, nothing is under way.
func (r *Registry) Stop() { r.stopped.Store(true) }

// maxScrapes bounds those that are answered at once: each reads the store.
const maxScrapes = 4

// Handler answers scrapes in the text format or in OpenMetrics, as the asker prefers.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes, Timeout: 10 * time.Second})
}

type collector struct{ *Registry }

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, f := range families {
		to <- f.desc
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	facts, err := c.facts()
	if err != nil {
		to <- prometheus.NewInvalidMetric(up.desc, err) // the whole file fails, and says why
		return
	}
	s := samples{to: to}
	if c.stopped.Load() {
		facts = facts.last()
		s.add(up, 0)
	} else {
		s.add(up, 1)
	}
	s.now(facts)
	s.ever(facts)
}

// last are the facts of a front that ends: nothing is under way in it. What is on disk stays, and
// where breakers stand, which they keep.
func (f Facts) last() Facts {
	f.Running, f.Queued, f.Ending, f.Oldest = nil, 0, 0, 0
	f.Allowed, f.Reserved, f.Sessions, f.Clients = 0, 0, 0, 0
	f.Process, f.Connected = Process{}, false
	checks := slices.Clone(f.Checks)
	for i := range checks {
		checks[i].Status = HealthStates[0]
	}
	f.Checks = checks
	if f.Launcher = f.Launcher.Gone(); f.Launcher != nil {
		f.Launcher.Slots = 0
	}
	return f
}

// Gone is what lasts of what a launcher has said that is not there any more: the next one has as many slots.
func (l *Launcher) Gone() *Launcher {
	if l == nil {
		return nil
	}
	gone := *l
	gone.Unwritable, gone.AuditPending, gone.Process = false, 0, Process{}
	return &gone
}

type samples struct{ to chan<- prometheus.Metric }

func (s samples) add(f *Family, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if f.Type == "counter" {
		kind = prometheus.CounterValue
	}
	m, err := prometheus.NewConstMetric(f.desc, kind, value, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	s.to <- m
}

func number(set bool) float64 {
	if set {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func (s samples) now(f Facts) {
	s.add(build, 1, f.Version)
	running := 0
	for _, tool := range f.Tools {
		s.add(active, float64(f.Running[tool]), tool)
		running += f.Running[tool]
	}
	for state, n := range map[string]int{"queued": f.Queued, "running": running, "ending": f.Ending} {
		s.add(jobs, float64(n), state)
	}
	s.add(unfinished, float64(f.Unfinished))
	s.add(oldest, f.Oldest.Seconds())
	s.add(budget, float64(f.Allowed), "allowed")
	s.add(budget, float64(f.Reserved), "reserved")
	s.add(sessions, float64(f.Sessions))
	s.add(clients, float64(f.Clients))
	for share, bytes := range map[string]int64{"kept": f.Kept, "allowed": f.Most, "free": f.Free, "reserved": f.Least} {
		s.add(space, float64(bytes), share)
	}
	s.add(kept, float64(f.JobsKept))
	for _, c := range f.Checks {
		s.add(health, float64(max(slices.Index(HealthStates, c.Status), 0)), c.Room, c.Name, c.Priority)
	}
	s.process("front", f.Process)
	s.add(launcher, number(f.Connected))
	if f.Launcher == nil {
		return
	}
	l := f.Launcher
	s.add(slots, float64(l.Slots))
	s.add(audited, float64(l.Records))
	s.add(auditBytes, float64(l.AuditBytes))
	s.add(auditFiles, float64(l.AuditFiles))
	s.add(auditPending, float64(l.AuditPending))
	s.add(unwritable, number(l.Unwritable))
	s.process("launcher", l.Process)
	for _, b := range l.Breakers {
		s.add(breakerState, float64(max(slices.Index(BreakerStates, b.State), 0)), b.Name)
		for result, n := range b.Calls {
			s.add(breakerCalls, float64(n), b.Name, result)
		}
		for move, n := range b.Moves {
			s.add(breakerMoves, float64(n), b.Name, move[0], move[1])
		}
	}
}

func (s samples) process(room string, p Process) {
	s.add(resident, float64(p.Resident), room)
	s.add(cpuOf, p.CPU.Seconds(), room)
	s.add(goroutines, float64(p.Goroutines), room)
	s.add(files, float64(p.Files), room)
	s.add(started, seconds(p.Started), room)
}

func (s samples) ever(f Facts) {
	for _, e := range f.Ended {
		s.add(ended, float64(e.Jobs), e.Tool, e.State, e.Reason)
	}
	for _, p := range f.Packets {
		s.add(packets, float64(p.Packets), p.Tool, p.Fate)
	}
	t := sums(f.Totals)
	for _, tool := range t.tools(f.Tools) {
		s.add(executions, t.of(sumEnded, tool, None), tool, "success", None)
		for _, kind := range ErrorTypes {
			s.add(executions, t.of(sumEnded, tool, kind), tool, "failure", kind)
			s.add(errorsOf, t.of(sumEnded, tool, kind), tool, kind)
		}
		for _, h := range histograms {
			s.histogram(t, h, tool)
		}
		for _, c := range plain {
			s.add(c.family, t.of(c.sum, tool, "")/c.per, tool)
		}
		for resource, name := range map[string]string{"cpu": "cpu", "memory": "memory", "io": "io"} {
			s.add(pressure, t.of(sumPressure, tool, name)/1000, tool, resource)
		}
		for _, direction := range []string{"read", "written"} {
			s.add(disk, t.of(sumDisk, tool, direction), tool, direction)
		}
	}
	for _, tool := range t.named(sumCalls) {
		for _, outcome := range Outcomes {
			s.add(calls, t.of(sumCalls, tool, outcome), tool, outcome)
		}
	}
	for _, stage := range Stages {
		s.add(unlaunched, t.all(sumStage, stage), stage)
	}
	for _, code := range Codes {
		s.add(refusals, t.all(sumRefused, code), code)
	}
	s.add(sessionsOf, t.of(sumSessions, "", ""))
	s.add(storeErrors, t.of(sumStoreErrors, "", ""))
}

// The names of sums, as the store has them: never another meaning under one of them.
const (
	sumEnded       = "ended"        // label: an error type, or none
	sumSeconds     = "scan"         // milliseconds; label: a bucket, or sum
	sumWait        = "wait"         // likewise
	sumParse       = "parse"        // microseconds; likewise
	sumMemory      = "memory"       // bytes; likewise
	sumLaunched    = "launched"     //
	sumStage       = "stage"        // label: a stage
	sumRefused     = "refused"      // label: a code
	sumCalls       = "calls"        // label: an outcome
	sumViolations  = "violations"   //
	sumCPU         = "cpu"          // milliseconds
	sumThrottled   = "throttled"    // milliseconds
	sumPressure    = "pressure"     // milliseconds; label: cpu, memory, io
	sumDisk        = "disk"         // bytes; label: read, written
	sumPids        = "pids"         //
	sumOutput      = "output"       // bytes
	sumParsed      = "parsed"       // bytes
	sumCut         = "cut"          //
	sumSessions    = "sessions"     //
	sumStoreErrors = "store_errors" //
	sumOf          = "sum"          // the label of a histogram's sum
)

// histograms are those of the store, with how many of what is summed make one of the family's unit.
var histograms = []struct {
	family *Family
	sum    string
	per    float64
}{
	{executionTime, sumSeconds, 1e3},
	{waited, sumWait, 1e3},
	{parse, sumParse, 1e6},
	{memory, sumMemory, 1},
}

// plain are the sums that have a tool and no more.
var plain = []struct {
	family *Family
	sum    string
	per    float64
}{
	{launches, sumLaunched, 1},
	{violations, sumViolations, 1},
	{cpu, sumCPU, 1e3},
	{throttled, sumThrottled, 1e3},
	{pids, sumPids, 1},
	{output, sumOutput, 1},
	{parsed, sumParsed, 1},
	{cut, sumCut, 1},
}

// histogram reads the buckets of a sum. Those that an earlier version had, with other bounds, count
// in the next one that there is.
func (s samples) histogram(t totals, h struct {
	family *Family
	sum    string
	per    float64
}, tool string) {
	counts := make([]uint64, len(h.family.bounds))
	all := uint64(0)
	for label, n := range t[key{h.sum, tool}] {
		if label == sumOf {
			continue
		}
		all += uint64(n)
		bound, err := strconv.ParseFloat(label, 64)
		if at := slices.IndexFunc(h.family.bounds, func(b float64) bool { return bound <= b }); err == nil && at >= 0 {
			counts[at] += uint64(n)
		}
	}
	buckets := map[float64]uint64{}
	below := uint64(0)
	for i, n := range counts {
		below += n
		buckets[h.family.bounds[i]] = below
	}
	m, err := prometheus.NewConstHistogram(h.family.desc, all, t.of(h.sum, tool, sumOf)/h.per, buckets, tool)
	if err != nil {
		m = prometheus.NewInvalidMetric(h.family.desc, err)
	}
	s.to <- m
}

type key struct{ name, tool string }

// totals are sums by name and tool, then by label.
type totals map[key]map[string]int64

func sums(list []Total) totals {
	t := totals{}
	for _, one := range list {
		k := key{one.Name, one.Tool}
		if t[k] == nil {
			t[k] = map[string]int64{}
		}
		t[k][one.Label] += one.N
	}
	return t
}

func (t totals) of(name, tool, label string) float64 { return float64(t[key{name, tool}][label]) }

func (t totals) all(name, label string) float64 {
	n := int64(0)
	for k, labels := range t {
		if k.name == name {
			n += labels[label]
		}
	}
	return float64(n)
}

// named are the tools that a sum has.
func (t totals) named(name string) []string {
	var out []string
	for k := range t {
		if k.name == name {
			out = append(out, k.tool)
		}
	}
	return out
}

// tools are those that there are, and those that there were.
func (t totals) tools(now []string) []string {
	all := map[string]bool{}
	for _, tool := range append(t.named(sumEnded), now...) {
		all[tool] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// Job is one that has ended, as far as it is counted.
type Job struct {
	ErrorType string // one of ErrorTypes, or None
	Code      string // of its refusal
	Stage     string // of the launch that failed
	Launched  bool
	Wait      time.Duration // for its start
	Ran       time.Duration // 0: its launcher died
	CPU, Throttled,
	WaitedCPU, WaitedMemory, WaitedIO time.Duration
	MemoryPeak, PidsRefused, OffScope uint64
	Output, Read, Written             int64
	Parse                             time.Duration
	Parsed                            int64 // bytes
	Cut                               bool
}

// Sums are what a job adds to the totals of its tool.
func (j Job) Sums() (out []Total) {
	add := func(name, label string, n int64) {
		if n > 0 {
			out = append(out, Total{Name: name, Label: label, N: n})
		}
	}
	observe := func(h int, value float64) {
		bound := math.Inf(1)
		if at := slices.IndexFunc(histograms[h].family.bounds, func(b float64) bool { return value <= b }); at >= 0 {
			bound = histograms[h].family.bounds[at]
		}
		add(histograms[h].sum, strconv.FormatFloat(bound, 'g', -1, 64), 1)
		add(histograms[h].sum, sumOf, int64(math.Round(value*histograms[h].per)))
	}
	add(sumEnded, j.ErrorType, 1)
	if j.Code != "" {
		add(sumRefused, Among(Codes, j.Code), 1)
	}
	if j.Stage != "" {
		add(sumStage, Among(Stages, j.Stage), 1)
	}
	if !j.Launched {
		return out
	}
	add(sumLaunched, "", 1)
	if j.Ran > 0 { // else nobody measured it
		observe(0, j.Ran.Seconds())
	}
	observe(1, max(j.Wait, 0).Seconds())
	observe(2, max(j.Parse, 0).Seconds())
	if j.MemoryPeak > 0 { // else no cgroup counts it
		observe(3, float64(j.MemoryPeak))
	}
	add(sumViolations, "", int64(number(j.OffScope > 0)))
	add(sumCPU, "", j.CPU.Milliseconds())
	add(sumThrottled, "", j.Throttled.Milliseconds())
	add(sumPressure, "cpu", j.WaitedCPU.Milliseconds())
	add(sumPressure, "memory", j.WaitedMemory.Milliseconds())
	add(sumPressure, "io", j.WaitedIO.Milliseconds())
	add(sumDisk, "read", j.Read)
	add(sumDisk, "written", j.Written)
	add(sumPids, "", int64(min(j.PidsRefused, math.MaxInt64)))
	add(sumOutput, "", j.Output)
	add(sumParsed, "", j.Parsed)
	add(sumCut, "", int64(number(j.Cut)))
	return out
}

// Call is one call of a tool.
func Call(tool, outcome string) Total {
	return Total{Name: sumCalls, Tool: tool, Label: outcome, N: 1}
}

// Refused is a call that was refused without a job.
func Refused(code string) Total { return Total{Name: sumRefused, Label: Among(Codes, code), N: 1} }

// Session is an agent's connection that has begun, StoreError a write to the store that failed.
func Session() Total    { return Total{Name: sumSessions, N: 1} }
func StoreError() Total { return Total{Name: sumStoreErrors, N: 1} }
