package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// launch runs a judged job in its box. Every failure names its stage; what was made before it
// is undone by the defer beside it.
func (l *Launcher) launch(ctx context.Context, j *job, place policy.Place) wire.Outcome {
	set := l.now()
	if refused := l.stillThere(set, j.call); refused != nil {
		return denied(l.noted(j, refused))
	}
	p, o, over := l.prepare(ctx, set, j, place.Rate)
	defer p.words.close()
	if over {
		return o
	}
	if refused := j.unchanged(p); refused != nil {
		return denied(l.noted(j, refused))
	}
	v, command, words := p.verdict, p.command, p.words
	began := time.Now()
	wall, outOfTime := deadline(v, j.plan.Limit, began)

	network, err := l.slot(ctx, set, target(v), command.Rate, l.budgets(set, v)...)
	if o, over := ended(ctx); over && err != nil {
		return o
	}
	if err != nil {
		return l.failed("scope", err)
	}
	defer l.leave(network)
	ctx, release := whileFiltered(ctx, network)
	defer release()
	if command.Ticks && network != nil {
		defer l.ticked(ctx, network)()
	}
	spec := boxFor(command, p.tool.file, l.cell(j.record.ID, place.Slot, network, wall), set.Limits, words.inputs()...)

	files, err := l.outputs(j.record.ID, j.record.Correlation, command, spec)
	defer l.reserved.release(j.record.ID)
	if err != nil {
		return l.failed("outputs", err)
	}
	defer files.Stdout.Close()
	defer files.Stderr.Close()

	if err := l.launching(j, p.tool, command, p.way, spec, words.onRecord(), began.Add(wall)); err != nil {
		return l.failed("audit", err)
	}
	result := l.boxes.Run(ctx, spec, files)
	l.withholdIfAlive(place.Slot, j.record.ID, result.Err)
	return l.outcome(ctx, j, result, network, outOfTime)
}

// commandFor is the command of a judged call, and the network that it has: what its preview shows is
// what its launch runs.
func (l *Launcher) commandFor(call runners.Call, tool *scanner, v policy.Verdict, wall time.Duration) (runners.Command, *wire.Network, error) {
	build := func(rate int) (runners.Command, error) {
		return call.Bounded(rate, wall).Command(tool.version, v.Addresses(), excluded(v), (*runners.Reach)(v.Ports))
	}
	command, err := build(v.Limits.Rate)
	way := l.network()
	net, _ := l.slots.get() // it may come meanwhile
	if way != nil && err == nil && command.Rate == v.Limits.Rate {
		way.Slowed = v.Slowed
	}
	if err != nil || way == nil || net == nil {
		return command, way, err
	}
	if err := net.OnSegment(v.Addresses()); err != nil {
		return command, way, err
	}
	rate, err := pace(command.Packets, command.Rate, net.Tracking(), l.cfg.Slots)
	if err != nil || rate == command.Rate {
		return command, way, err
	}
	way.Slowed = fmt.Sprintf("to %d packets per second: this machine's table of connections is shared with all that it does", rate)
	command, err = build(rate)
	return command, way, err
}

// commandStage is the stage at which commandFor has failed.
func commandStage(err error) string {
	switch {
	case errors.Is(err, errConnections):
		return "connections"
	case errors.Is(err, scope.ErrOffSegment):
		return "segment"
	}
	return "command"
}

// withholdIfAlive keeps the slot of a box that could not be ended: no other job runs under the uid of
// a process that may still live. The next start reclaims what is left, or fails.
func (l *Launcher) withholdIfAlive(slot int, job string, err error) {
	if !errors.Is(err, sandbox.ErrAlive) {
		return
	}
	l.gate.Withhold(slot)
	l.log.Error("a scanner cannot be ended; its slot is withheld until the launcher is restarted", journal.Key, journal.BoxAlive, "job", job,
		"slot", slot, "uid", l.cfg.FirstSlotUID+uint32(slot), "slots_left", l.gate.Slots(), "why", err)
}

// deadline is the least of the job's limit and the end of the engagement's hours or term, with
// the reason that a job gets which reaches it.
func deadline(v policy.Verdict, asked time.Duration, now time.Time) (time.Duration, string) {
	wall := allowed(v, asked)
	if !v.Until.IsZero() && v.Until.Sub(now) < wall {
		return max(v.Until.Sub(now), time.Millisecond), wire.Withdrawn
	}
	return wall, wire.Timeout
}

// commanded is the time that the command of a job is made for. What an operator approves does not change while
// the end of the engagement comes nearer: the box ends in time.
func commanded(v policy.Verdict, asked time.Duration, now time.Time) time.Duration {
	if v.Outcome == policy.Approve {
		return allowed(v, asked)
	}
	wall, _ := deadline(v, asked, now)
	return wall
}

// allowed is the time that a job may take, whenever it is launched.
func allowed(v policy.Verdict, asked time.Duration) time.Duration {
	if asked > 0 {
		return min(v.Limits.Duration, asked)
	}
	return v.Limits.Duration
}

// slot joins a box to the network behind the kernel's filter. nil, nil: this launcher runs
// without it, which Accept allowed.
func (l *Launcher) slot(ctx context.Context, set *Live, allow scope.Target, rate int, together ...scope.Budget) (*scope.Slot, error) {
	net, gap := l.slots.get()
	if net == nil {
		if gap == nil {
			return nil, errors.New("the scope filter has not been tried")
		}
		if !slices.Contains(set.Accept, gap.Layer) {
			return nil, errors.New(gap.Why)
		}
		return nil, nil
	}
	return net.Slot(ctx, []scope.Target{allow}, rate, together...)
}

// budgets are what a job's packets count against beside its own rate.
func (l *Launcher) budgets(set *Live, v policy.Verdict) []scope.Budget {
	return []scope.Budget{
		{Name: "engagement " + v.Engagement, Rate: v.Limits.Budget, Slots: l.cfg.Slots},
		{Name: "machine", Rate: set.Budget, Slots: l.cfg.Slots},
	}
}

// target is what a verdict allows, in the terms of the kernel's filter.
func target(v policy.Verdict) scope.Target {
	return scope.Target{Prefixes: v.Addresses(), Ports: (*scope.Ports)(v.Ports)}
}

// whileFiltered ends ctx when the filter is no longer in force for a slot.
func whileFiltered(ctx context.Context, s *scope.Slot) (_ context.Context, release func()) {
	if s == nil {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.Lost():
			end(errScopeLost)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil); <-done }
}

// ticked keeps a slot's link from being quiet until stop. Without it a scanner that needs that ends by
// its own time, and is told as timed out.
func (l *Launcher) ticked(ctx context.Context, s *scope.Slot) (stop func()) {
	ctx, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Tick(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("a slot's link is quiet: its scanner may not end by itself", "why", err)
		}
	}()
	return func() { end(); <-done }
}

// cell is the place of a box: what belongs to its slot and to nobody else meanwhile.
func (l *Launcher) cell(job string, slot int, network *scope.Slot, wall time.Duration) cell {
	c := cell{job: job, uid: l.cfg.FirstSlotUID + uint32(slot), netns: netnsOf(network), wall: wall}
	if network == nil {
		c.without = []string{sandbox.Scope}
	}
	return c
}

func netnsOf(s *scope.Slot) *os.File {
	if s == nil {
		return nil
	}
	return s.NetNS()
}

func (l *Launcher) leave(s *scope.Slot) {
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		l.log.Error("cannot take a slot's network down", "why", err)
	}
}

// outputs makes the job's files: the scanner's two, and beside them what is launched.
func (l *Launcher) outputs(id, correlation string, c runners.Command, spec sandbox.Spec) (sandbox.Files, error) {
	if err := l.reserved.take(id, spec.Limits.Output, l.records); err != nil {
		return sandbox.Files{}, err
	}
	argv, err := json.MarshalIndent(c.Argv, "", "  ")
	if err != nil {
		return sandbox.Files{}, err
	}
	if err := errors.Join(l.records.note(id, fileArgv, argv), l.records.note(id, fileSpec, fmt.Appendf(nil, "correlation %s\n%s", correlation, spec))); err != nil {
		return sandbox.Files{}, err
	}
	stdout, err := l.records.output(id, fileStdout)
	if err != nil {
		return sandbox.Files{}, err
	}
	stderr, err := l.records.output(id, fileStderr)
	if err != nil {
		stdout.Close()
		return sandbox.Files{}, err
	}
	return sandbox.Files{Stdout: stdout, Stderr: stderr}, nil
}

// space is what the running scans may still write to the disk of the outputs.
type space struct {
	mu     sync.Mutex
	limits map[string]int64 // bytes, by job
}

// take keeps room for a job beside what is kept for the others, or says that there is not enough.
func (s *space) take(id string, limit int64, r *records) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := r.free()
	if err != nil {
		return err
	}
	need := uint64(limit) + MinFree
	for other, limit := range s.limits {
		need += uint64(max(limit-r.written(other), 0))
	}
	if free < need {
		return fmt.Errorf("%d MiB free where outputs are kept, %d MiB needed, also by what runs already", free>>20, need>>20)
	}
	if s.limits == nil {
		s.limits = map[string]int64{}
	}
	s.limits[id] = limit
	return nil
}

func (s *space) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.limits, id)
}

// MinFree is kept free on the file system of the outputs, in bytes: with less, scans are ended.
const MinFree = 16 << 20

// full says that the outputs have no space left to grow in.
func (l *Launcher) full() bool {
	free, err := l.records.free()
	if err != nil {
		l.log.Error("cannot look after the space of the outputs", "why", err)
		return false
	}
	return free < MinFree
}

// endWhatCannotWrite ends a running scan where the disk of the outputs is full: the one that has
// written most, so that one does not end its neighbours. The next look ends the next, if that was
// not enough. What they have reported by then counts.
func (l *Launcher) endWhatCannotWrite() {
	if !l.full() {
		return
	}
	var largest *job
	most := int64(-1)
	for _, j := range l.all() {
		record := j.snapshot()
		if written := l.records.written(record.ID); record.State == wire.Running && written > most {
			largest, most = j, written
		}
	}
	if largest != nil {
		largest.stop(errDiskFull)
	}
}

// launching makes the launch known before it happens: audit, record, front, in this order. It
// fails closed.
func (l *Launcher) launching(j *job, s *scanner, c runners.Command, way *wire.Network, spec sandbox.Spec, words *wire.Wordlist, deadline time.Time) error {
	j.mu.Lock()
	j.argv = c.Argv
	j.limits = onAudit(spec.Limits, c.Rate)
	j.record.State = wire.Running
	j.record.Scanner = s.onWire(j.call.Tool)
	if j.record.Wordlist = words; words != nil {
		j.record.Requests = words.Lines * j.plan.Variants
	}
	j.record.Packets, j.record.ExpectedS = c.Packets, int64((c.Time+time.Second-1)/time.Second)
	j.record.Rate = c.Rate
	j.record.Started, j.record.Deadline = time.Now(), deadline
	j.record.Network = way
	j.record.NotEnforced = l.gaps()
	record := j.record
	j.mu.Unlock()
	if err := l.audit.Append(j.entry(observability.Launched)); err != nil {
		return err
	}
	if err := l.records.write(record); err != nil {
		return err
	}
	l.sayLaunched(record)
	l.show(j)
	return nil
}

// outcome translates how a box ended.
func (l *Launcher) outcome(ctx context.Context, j *job, r sandbox.Result, network *scope.Slot, outOfTime string) wire.Outcome {
	o := wire.Outcome{Reason: string(r.Reason), Code: r.Code, Signal: r.Signal, Stage: r.Stage, Usage: onWireUsage(r.Usage)}
	if r.Err != nil && o.Reason != wire.Launch {
		l.log.Error("cannot clean up after a scanner", "job", j.record.ID, "reason", o.Reason, "stage", r.Stage, "why", r.Err)
	}
	switch o.Reason {
	case wire.Cancelled:
		o.Reason, o.Detail = endedBy(context.Cause(ctx)), why(context.Cause(ctx))
	case wire.Timeout:
		o.Reason = outOfTime
	case wire.Launch:
		o.Detail = clip(fmt.Sprint(r.Err))
		o.Refused = notLaunched(r.Stage, o.Detail)
	case wire.Violation:
		l.log.Error("a scanner made a call that no scanner makes; its box killed it", append(about(j.snapshot()), journal.Key, journal.BoxViolation, "signal", r.Signal)...)
		l.note(j.entry(observability.Violation))
	case wire.Exited, wire.Signalled:
		// Whether it could write all that it found is not known then: nmap does not look.
		if l.full() {
			o.Reason = wire.DiskFull
		}
	}
	if o.Reason == wire.DiskFull {
		l.log.Error("the disk of the outputs is full: a scan is ended", append(about(j.snapshot()), journal.Key, journal.DiskFull, "dir", l.cfg.StateDir)...)
		o.Detail = fmt.Sprintf("less than %d MiB were free where outputs are kept", MinFree>>20)
	}
	gaps := onWireGaps(r.NotEnforced)
	if network != nil {
		gaps = append(gaps, l.crossed(j, network, &o)...)
	}
	j.mu.Lock()
	j.record.NotEnforced = mergeGaps(j.record.NotEnforced, gaps)
	j.mu.Unlock()
	return o
}

// crossed completes an outcome by what the kernel's filter has counted, and by its loss.
func (l *Launcher) crossed(j *job, network *scope.Slot, o *wire.Outcome) (gaps []wire.Gap) {
	whole := network.Check() // what has gone unseen until now
	c, err := network.Counters()
	o.Usage.SentPackets, o.Usage.Received = c.Sent, c.Received
	o.Usage.Dropped, o.Usage.OffScope, o.Usage.OverRate, o.Usage.Refused = c.Dropped, c.OffScope, c.OverRate, c.Refused
	for _, v := range c.First[:min(len(c.First), wire.MaxOffScope)] {
		o.OffScope = append(o.OffScope, wire.OffScope{To: v.To.String(), Protocol: v.Protocol, Port: v.Port, Packets: v.Packets})
	}
	switch {
	case errors.Is(err, scope.ErrLost):
		// However the box ended: for a moment of its life nothing is certain.
		o.Reason, o.Detail = wire.ScopeLost, "until its link was taken down, only routing held it to the scope's addresses, and nothing was counted"
		gaps = []wire.Gap{{Layer: sandbox.Scope, Why: scope.ErrLost.Error(), Follows: o.Detail}}
	case errors.Is(whole, scope.ErrLost):
		o.Reason, o.Detail = wire.ScopeLost, clip(whole.Error())+"; from then on nothing of this one left this machine, or no answer came back"
	case err != nil || whole != nil:
		l.log.Error("cannot look at a slot", "job", j.record.ID, "why", errors.Join(whole, err))
	}
	if c.OffScope > 0 {
		l.log.Error("a scanner sent to what its scope does not have; the kernel dropped it", append(about(j.snapshot()), journal.Key, journal.ScopeViolation, "packets", c.OffScope)...)
		e := j.entry(observability.ScopeViolation)
		e.Usage = &observability.Usage{Sent: c.Sent, Received: c.Received, Dropped: c.Dropped, OffScope: c.OffScope, OverRate: c.OverRate, Refused: c.Refused}
		for _, v := range c.First {
			e.OffScope = append(e.OffScope, observability.Destination{To: v.To.String(), Protocol: v.Protocol, Port: v.Port, Packets: v.Packets})
		}
		l.note(e)
	}
	return gaps
}

// failed is a launch that did not come to a box.
func (l *Launcher) failed(stage string, err error) wire.Outcome {
	detail := clip(err.Error())
	return wire.Outcome{Reason: wire.Launch, Stage: stage, Detail: detail, Refused: notLaunched(stage, detail)}
}

// notLaunched says a failed launch to the caller: the stage tells what can be done about it.
func notLaunched(stage, detail string) *wire.Refusal {
	r := &wire.Refusal{Code: "launch_failed", Reason: "the scan was not launched: " + detail,
		Hint: "the operator finds the cause in the log and with `secmcpd doctor`"}
	switch stage {
	case "scanner":
		r.Code, r.Field, r.Hint = "scanner_missing", "tool", hintScanner
	case "command":
		r.Code, r.Field, r.Hint = "no_command", "targets", "give fewer targets or larger networks, or split the scan"
	case "connections":
		r.Code, r.Field = "too_many_connections", "targets"
		r.Hint = "ask for fewer addresses or ports; the operator raises net.netfilter.nf_conntrack_max, or sets slots.mode to routed"
	case "segment":
		r.Code, r.Field = "off_segment", "targets"
		r.Hint = "name targets on that segment alone; the operator reaches others in another slots.mode"
	case "outputs":
		r.Code, r.Retryable = "disk_full", true
		r.Hint = "the operator frees space in the launcher's state directory"
	case "scope":
		r.Code, r.Hint = "scope_unavailable", "the operator finds the cause with `secmcpd doctor`: a scan is not launched without its filter"
	case "audit":
		r.Code, r.Retryable = "audit_unavailable", true
		r.Hint = hintAudit
	}
	return r
}

const hintScanner = "the operator installs the scanner or sets its path under `scanners` in secmcpd.yaml; `secmcpd doctor` says what is wrong with it"

// noScanner refuses a scan whose scanner cannot be used.
func noScanner(tool string, err error) *wire.Refusal {
	return &wire.Refusal{Code: "scanner_missing", Field: "tool", Got: tool, Reason: clip(err.Error()), Hint: hintScanner}
}

// clip bounds our own words where they travel.
func clip(s string) string { return clipTo(s, 512) }

// clipTo cuts at a number of bytes. What is no UTF-8 (a path can be anything, and a cut can go
// through a letter) would be refused on its way; in its place is nothing, so that the bound holds.
func clipTo(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

func onAudit(l sandbox.Limits, rate int) *observability.Limits {
	return &observability.Limits{WallS: int64(l.Wall / time.Second), MemoryMiB: l.Memory >> 20, Pids: l.Pids, CPUPercent: l.CPUPercent,
		CPUS: int64(l.CPU / time.Second), OutputMiB: l.Output >> 20, Rate: rate,
		IOMiB: l.IO >> 20, TmpMiB: l.Tmp >> 20, TmpInodes: l.TmpInodes, OpenFiles: l.OpenFiles}
}

// memoryFile is a file that only this process and its box have.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// runVersion asks a scanner for its version in a box of its own.
func (l *Launcher) runVersion(ctx context.Context, argv []string, exe *os.File) ([]byte, error) {
	// masscan tells its version with a status of failure: what is judged is what it says.
	const anyStatus = true
	return l.runSmall(ctx, anyStatus, func(job string) (sandbox.Spec, func(), error) {
		in := cell{job: job, uid: l.cfg.FirstSlotUID + uint32(l.cfg.Slots) + 1, wall: versionTimeout}
		return boxForVersion(exe, argv, in, l.now().Limits), func() {}, nil
	})
}

// runResolver asks one name server for names in a box whose scope is that server.
func (l *Launcher) runResolver(ctx context.Context, uid uint32, server netip.AddrPort, names []string, ipv6 bool) ([]byte, error) {
	family := "4"
	if ipv6 {
		family = "6"
	}
	argv := append([]string{"secmcpd", "resolve", family, server.String()}, names...)
	_, leave, err := l.resolving.Enter(ctx, uid, policy.Share{})
	if err != nil {
		return nil, err
	}
	defer leave()
	exe, err := l.program()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	set := l.now()
	return l.runSmall(ctx, false, func(job string) (sandbox.Spec, func(), error) {
		network, err := l.slot(ctx, set, nameServer(server), resolverRate)
		if err != nil {
			return sandbox.Spec{}, nil, err
		}
		in := l.cell(job, l.cfg.Slots, network, resolveTimeout)
		// A loss of the filter meanwhile takes its link down, and it ends by its own time.
		return boxForResolver(exe, argv, hostsFile(), in, set.Limits), func() { l.leave(network) }, nil
	})
}

// nameServer is the scope of the resolver's box: one port of one address.
func nameServer(server netip.AddrPort) scope.Target {
	port := [][2]uint16{{server.Port(), server.Port()}}
	return scope.Target{Prefixes: []netip.Prefix{netip.PrefixFrom(server.Addr(), server.Addr().BitLen())}, Ports: &scope.Ports{TCP: port, UDP: port}}
}

const (
	resolveTimeout = 15 * time.Second
	versionTimeout = 10 * time.Second
	resolverRate   = 200 // packets per second: a question for each name and family, over UDP, or TCP once more
)

// runSmall runs one of our own small boxes and returns what it wrote. There is one of each kind at
// a time, in a place of its own after the scans' slots.
func (l *Launcher) runSmall(ctx context.Context, anyStatus bool, wish func(job string) (sandbox.Spec, func(), error)) ([]byte, error) {
	out, err := memoryFile("stdout")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	errs, err := memoryFile("stderr")
	if err != nil {
		return nil, err
	}
	defer errs.Close()
	if l.smallAlive.Load() {
		return nil, errSmallAlive
	}
	spec, undo, err := wish("small-" + strconv.FormatUint(l.smallSeq.Add(1), 10))
	if err != nil {
		return nil, err
	}
	defer undo()
	r := l.boxes.Run(ctx, spec, sandbox.Files{Stdout: out, Stderr: errs})
	if errors.Is(r.Err, sandbox.ErrAlive) {
		l.smallAlive.Store(true)
		l.log.Error("a small box cannot be ended; there is no other until the launcher is restarted", "uid", spec.UID, "why", r.Err)
	}
	if string(r.Reason) != wire.Exited || r.Code != 0 && !anyStatus {
		return nil, fmt.Errorf("its box ended: %s, status %d, stage %q: %w", r.Reason, r.Code, r.Stage, errors.Join(r.Err, errSmall))
	}
	b := make([]byte, spec.Limits.Output)
	n, err := out.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

var (
	errSmall      = errors.New("no answer")
	errSmallAlive = errors.New("an earlier small box could not be ended: the launcher has to be restarted")
)

func excluded(v policy.Verdict) []netip.Prefix {
	var out []netip.Prefix
	for _, e := range v.Excluded() {
		out = append(out, e.Prefix)
	}
	return out
}

func onWireUsage(u sandbox.Usage) wire.Usage {
	return wire.Usage{WallMS: u.Wall.Milliseconds(), CPUMS: u.CPU.Milliseconds(), MemoryPeak: uint64(max(u.Memory, 0)), PidsRefused: uint64(max(u.PidsRefused, 0)), Output: u.Output,
		ThrottledMS: u.Throttled.Milliseconds(), Read: u.Read, Written: u.Written,
		WaitedCPUMS: u.WaitedCPU.Milliseconds(), WaitedMemoryMS: u.WaitedMemory.Milliseconds(), WaitedIOMS: u.WaitedIO.Milliseconds()}
}

func onWireGaps(gaps []sandbox.Gap) []wire.Gap {
	var out []wire.Gap
	for _, g := range gaps {
		out = append(out, wire.Gap{Layer: g.Layer, Why: clip(g.Why), Follows: clip(g.Follows)})
	}
	return out
}

// mergeGaps is the union by layer, in order of layer.
func mergeGaps(lists ...[]wire.Gap) []wire.Gap {
	var out []wire.Gap
	for _, list := range lists {
		for _, g := range list {
			if !slices.ContainsFunc(out, func(have wire.Gap) bool { return have.Layer == g.Layer }) {
				out = append(out, g)
			}
		}
	}
	slices.SortFunc(out, func(a, b wire.Gap) int { return strings.Compare(a.Layer, b.Layer) })
	return out
}
