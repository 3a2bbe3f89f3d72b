package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tick is how often a running box is looked at.
	tick = 100 * time.Millisecond
	// launchTimeout bounds the way from clone to exec, milliseconds in practice.
	launchTimeout = 10 * time.Second
	// fenceSlack lies between the output limit, which the watch enforces, and
	// RLIMIT_FSIZE, which holds if the watch does not.
	fenceSlack = 1 << 20
)

// Reasons for the end of a box.
const (
	Exited    = "exited"    // by itself, with Code
	Signalled = "signalled" // by Signal, none of ours
	Cancelled = "cancelled"
	Timeout   = "timeout"
	Output    = "output"
	Memory    = "memory"
	Pids      = "pids"
	CPU       = "cpu"
	Violation = "violation" // it made a system call that no scanner makes
	Launch    = "launch"    // it never ran: Stage and Err say why
)

// ErrAlive is in the Result of a box of which something may still run: nothing
// else may run under its uid.
var ErrAlive = errors.New("something of the box may still run")

// Result of one box.
type Result struct {
	Reason      string
	Code        int
	Signal      int
	Stage       string // where a launch, or the cleaning up after a box, failed
	Usage       Usage
	NotEnforced []Gap
	Err         error
}

// Usage is what a box took.
type Usage struct {
	Start       time.Duration // from the first step to exec
	Wall        time.Duration // from exec to the end
	CPU         time.Duration
	Memory      int64 // bytes, at the highest; 0: no cgroup counts it
	Output      int64 // bytes
	OOMKills    int64
	PidsRefused int64
	Throttled   time.Duration // kept from the processor by the limit of its share
	Read        int64         // bytes from disks, and to them
	Written     int64
	// How long some task of it waited, by what it waited for.
	WaitedCPU, WaitedMemory, WaitedIO time.Duration
}

// running is a box that has a process.
type running struct {
	pid    int // 0: none
	pidfd  *os.File
	thread *thread // that started it
	leaf   *leaf   // nil: no cgroup
	held   *held   // nil: no rings, or no bound of them
	// how often all boxes together had been refused a task when it began
	refused int64
	files   Files
	base    int64 // size of the output files before
	limits  Limits
}

// Run starts one box and returns when nothing of it is left. Its error is in
// the Result. Descriptors in spec and files stay the caller's.
func (s *Sandbox) Run(ctx context.Context, spec Spec, files Files) (r Result) {
	began := time.Now()
	failed := func(stage string, err error) Result {
		return Result{Reason: Launch, Stage: stage, Err: err, NotEnforced: r.NotEnforced}
	}
	if err := s.enter(); err != nil {
		return failed("open", err)
	}
	defer s.running.Done()
	if err := spec.Check(); err != nil {
		return failed("spec", err)
	}
	spec, r.NotEnforced = Fit(spec, s.features)
	devices, unknown, err := s.disks(spec, files)
	if err != nil {
		return failed("cgroup", err)
	}
	if unknown {
		r.NotEnforced = append(r.NotEnforced, Gap{CgroupIO, "what the scanner reads, or its output, lies on a file system that names no disk", "the scanner can keep the disk under it busy"})
	}
	if err := s.accepts(spec, r.NotEnforced); err != nil {
		return failed("fit", err)
	}
	base, err := outputSize(files)
	if err != nil {
		return failed("files", err)
	}
	program, err := s.program(spec)
	if err != nil {
		return failed("filter", err)
	}
	b := &running{files: files, base: base, limits: spec.Limits}
	if spec.Has(Cgroup) {
		b.leaf, err = newLeaf(filepath.Join(s.features.Cgroup, together), spec, devices)
		if err == nil && spec.Raw && s.rings != nil {
			if b.held, err = s.rings.hold(b.leaf, spec.Limits.Memory); err != nil {
				err = errors.Join(err, b.leaf.remove(), b.leaf.fd.Close())
			}
		}
		if err != nil {
			return failed("cgroup", err)
		}
	}
	if b.leaf != nil && spec.Has(CgroupPids) {
		b.refused = refusedTogether(b.leaf.all())
	}
	stage, err := s.start(ctx, b, spec, program)
	r.Usage.Start = time.Since(began)
	stopped := ""
	if err == nil {
		stopped = b.watch(ctx, spec.NetNS)
	}
	r.Usage.Wall = time.Since(began) - r.Usage.Start
	ended, endStage, endErr := b.end(spec, &r.Usage)
	switch {
	case err != nil && ctx.Err() != nil: // ended on its way, on purpose
		r.Reason = stopReason(ctx)
		if !errors.Is(err, ErrAlive) {
			stage, err = endStage, nil
		}
	case err != nil:
		r.Reason = Launch
	default:
		stage = endStage
		r.Reason, r.Code, r.Signal = reason(stopped, ended, r.Usage, spec.Limits)
	}
	r.Stage, r.Err = stage, errors.Join(err, endErr)
	return r
}

// accepts refuses a box that lacks what the configuration does not do without.
func (s *Sandbox) accepts(spec Spec, gaps []Gap) error {
	s.mu.Lock()
	accept := s.accept
	s.mu.Unlock()
	var missing []string
	for _, g := range gaps {
		if !slices.Contains(accept, g.Layer) {
			missing = append(missing, g.String())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("cannot enforce %s", strings.Join(missing, "; "))
	}
	for _, layer := range spec.Without {
		if !slices.Contains(accept, layer) {
			return fmt.Errorf("cannot start a box without %s: that is not accepted", layer)
		}
	}
	return impossible(spec)
}

// watch returns when the scanner has ended, or with the reason why it must.
func (b *running) watch(ctx context.Context, network *os.File) (stop string) {
	deadline := time.Now().Add(b.limits.Wall)
	for {
		if b.exited(tick) {
			return ""
		}
		b.held.renew(network)
		switch {
		case ctx.Err() != nil:
			return stopReason(ctx)
		case time.Now().After(deadline):
			return Timeout
		case b.written() > b.limits.Output:
			return Output
		case b.leaf != nil && b.leaf.cpu() > b.limits.CPU:
			return CPU
		}
	}
}

func stopReason(ctx context.Context) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return Timeout
	}
	return Cancelled
}

// exited waits for the end of the process without taking its number from it.
func (b *running) exited(wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(b.pidfd.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(wait.Milliseconds()))
	return err == nil && n > 0
}

// outputSize insists on regular files: a pipe could block the scanner on its
// reader, and has no size to watch.
func outputSize(files Files) (total int64, err error) {
	for _, f := range []*os.File{files.Stdout, files.Stderr} {
		if f == nil {
			return 0, errors.New("cannot run without files for the output")
		}
		info, err := f.Stat()
		if err != nil {
			return 0, fmt.Errorf("cannot look at %s: %w", f.Name(), err)
		}
		if !info.Mode().IsRegular() {
			return 0, fmt.Errorf("cannot write the output to %s: not a regular file", f.Name())
		}
		total += info.Size()
	}
	return total, nil
}

func (b *running) written() int64 {
	now, err := outputSize(b.files)
	if err != nil {
		return 0
	}
	return now - b.base
}

// end kills what is left, waits until nothing is, measures and takes the
// cgroup away. It also ends what start left half-way.
func (b *running) end(spec Spec, u *Usage) (ended *unix.WaitStatus, stage string, err error) {
	if b.thread != nil {
		defer b.thread.boxes.Done()
	}
	defer b.pidfd.Close()
	if b.leaf != nil {
		defer b.leaf.fd.Close()
		// A box that has ended took its processes with it; to look costs a third of a kill.
		if empty, unknown := b.leaf.empty(); !empty || unknown != nil {
			err = b.leaf.kill()
		}
	}
	if b.pid > 0 {
		ended, stage, err = b.reap(err, u)
	}
	u.Output = b.written()
	if b.leaf == nil {
		return ended, stage, err
	}
	if empty := b.leaf.waitEmpty(); empty != nil {
		// It may be that it could not be watched; of one that is not empty the kernel takes nothing away.
		if b.leaf.remove() == nil {
			return ended, stage, errors.Join(err, b.held.release())
		}
		return ended, "empty cgroup", errors.Join(err, empty, ErrAlive)
	}
	b.leaf.measure(spec, u)
	if spec.Has(CgroupPids) && u.PidsRefused == 0 {
		u.PidsRefused = b.refusedOf(b.leaf.all(), ended)
	}
	if removed := errors.Join(b.held.release(), b.leaf.remove()); removed != nil {
		return ended, "remove cgroup", errors.Join(err, removed)
	}
	return ended, stage, err
}

// refusedOf is how often the limit of all boxes refused a task while this one was there. Whose it was
// the kernel does not say: one that came to a good end is not taken for it.
func (b *running) refusedOf(boxes string, ended *unix.WaitStatus) int64 {
	if ended == nil || ended.Exited() && ended.ExitStatus() == 0 {
		return 0
	}
	return refusedTogether(boxes) - b.refused
}

// reap kills the process, by every handle there is, and then takes its
// status: until then its number, and its group's, is nobody else's. Its memory
// is not asked for: the kernel counts that of the launcher in, on which the
// child was until its exec.
func (b *running) reap(killed error, u *Usage) (*unix.WaitStatus, string, error) {
	_ = unix.PidfdSendSignal(int(b.pidfd.Fd()), unix.SIGKILL, nil, 0) // one that has ended already is no error
	if b.leaf == nil {
		_ = unix.Kill(-b.pid, unix.SIGKILL)
	}
	for deadline := time.Now().Add(emptyTimeout); !b.exited(tick); {
		if time.Now().After(deadline) {
			return nil, "kill", errors.Join(killed, fmt.Errorf("cannot end the scanner within %s: %w", emptyTimeout, ErrAlive))
		}
	}
	var status unix.WaitStatus
	var usage unix.Rusage
	for {
		_, err := unix.Wait4(b.pid, &status, 0, &usage)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, "wait", errors.Join(killed, fmt.Errorf("cannot take the scanner's status: %w", err))
		}
		break
	}
	u.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if killed != nil {
		return &status, "kill", fmt.Errorf("cannot kill cgroup: %w", killed)
	}
	return &status, "", nil
}

// reason names the end of a scanner that ran. What we stopped it for comes
// first, then what the kernel says, then what its way of ending says.
func reason(stopped string, ended *unix.WaitStatus, u Usage, l Limits) (why string, code, signal int) {
	if ended == nil {
		return orElse(stopped, Signalled), 0, 0
	}
	if ended.Signaled() {
		signal = int(ended.Signal())
	} else {
		code = ended.ExitStatus()
	}
	return reasonOf(stopped, code, syscall.Signal(signal), u, l), code, signal
}

func reasonOf(stopped string, code int, signal syscall.Signal, u Usage, l Limits) string {
	switch {
	case stopped != "":
		return stopped
	case u.OOMKills > 0:
		return Memory
	case signal == syscall.SIGSYS:
		return Violation
	case u.Output > l.Output || signal == syscall.SIGXFSZ:
		return Output
	case signal == syscall.SIGXCPU || signal == syscall.SIGKILL && u.CPU >= l.CPU:
		return CPU
	case u.PidsRefused > 0 && (code != 0 || signal != 0):
		return Pids
	case signal != 0:
		return Signalled
	}
	return Exited
}

func orElse(word, other string) string {
	if word == "" {
		return other
	}
	return word
}
