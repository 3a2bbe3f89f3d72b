package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	Memory      int64 // bytes, at the highest
	Output      int64 // bytes
	OOMKills    int64
	PidsRefused int64
}

// running is a box that has a process.
type running struct {
	process *os.Process
	pidfd   *os.File
	leaf    *leaf // nil: no cgroup
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
		if b.leaf, err = newLeaf(s.features.Cgroup, spec); err != nil {
			return failed("cgroup", err)
		}
	}
	stage, err := s.start(ctx, b, spec, program)
	r.Usage.Start = time.Since(began)
	stopped := ""
	if err == nil {
		stopped = b.watch(ctx)
	}
	r.Usage.Wall = time.Since(began) - r.Usage.Start
	ended, endStage, endErr := b.end(spec, &r.Usage)
	switch {
	case err != nil && ctx.Err() != nil:
		r.Reason = stopReason(ctx)
	case err != nil:
		r.Reason = Launch
	default:
		r.Reason, r.Code, r.Signal = reason(stopped, ended, r.Usage, spec.Limits)
	}
	if err == nil {
		stage = endStage
	}
	r.Stage, r.Err = stage, errors.Join(err, endErr)
	return r
}

// accepts refuses a box that lacks what the configuration does not do without.
func (s *Sandbox) accepts(spec Spec, gaps []Gap) error {
	var missing []string
	for _, g := range gaps {
		if !slices.Contains(s.accept, g.Layer) {
			missing = append(missing, g.String())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("cannot enforce %s", strings.Join(missing, "; "))
	}
	for _, layer := range spec.Without {
		if !slices.Contains(s.accept, layer) {
			return fmt.Errorf("cannot start a box without %s: that is not accepted", layer)
		}
	}
	return impossible(spec)
}

// start clones box-init and follows it to the scanner's first instruction.
// Whatever it started is in b, also when it fails.
func (s *Sandbox) start(ctx context.Context, b *running, spec Spec, program []byte) (stage string, err error) {
	h := &handover{files: []*os.File{planFD: nil, statusFD: nil}}
	defer h.close()
	p, err := h.plan(spec, s.features, program, b.base)
	if err != nil {
		return "hand over", err
	}
	if err := h.openStatus(); err != nil {
		return "hand over", err
	}
	if err := h.standard(p, b.files); err != nil {
		return "hand over", err
	}
	pidfd := -1
	attr := &os.ProcAttr{Dir: "/", Env: []string{}, Files: h.files, Sys: sysProcAttr(spec, b.leaf, &pidfd)}
	s.onLauncherThread(func() {
		b.process, err = os.StartProcess("/proc/self/exe", []string{"secmcpd", "box-init"}, attr)
	})
	if err != nil {
		return "clone", fmt.Errorf("cannot start box-init: %w", err)
	}
	b.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	return h.follow(ctx)
}

func sysProcAttr(spec Spec, l *leaf, pidfd *int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true, PidFD: pidfd}
	if spec.Has(Namespaces) {
		attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		if spec.NetNS == nil {
			attr.Cloneflags |= unix.CLONE_NEWNET
		}
	}
	if l != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(l.fd.Fd())
	}
	return attr
}

// handover is what goes through the clone: descriptors by their number in the
// child, and what must be closed here afterwards.
type handover struct {
	files  []*os.File
	opened []*os.File
	status *os.File // our end
}

func (h *handover) close() {
	for _, f := range h.opened {
		f.Close()
	}
}

func (h *handover) give(f *os.File) (number int) {
	h.files = append(h.files, f)
	return len(h.files) - 1
}

func (h *handover) plan(spec Spec, f Features, program []byte, base int64) (*plan, error) {
	p := &plan{Spec: spec, Filter: program, ABI: f.LandlockABI, FileSize: base + spec.Limits.Output + fenceSlack}
	p.ExeFD = h.give(spec.Exe)
	if spec.NetNS != nil && spec.Has(Namespaces) {
		p.NetFD = h.give(spec.NetNS)
	}
	if !spec.Has(Root) {
		return p, nil
	}
	if p.Path = spec.executable(); !underUsr(p.Path) {
		p.Path = scannerPath
		if err := h.bind(p, scannerPath, spec.Exe, 0); err != nil {
			return nil, err
		}
	}
	for _, in := range spec.Inputs {
		if err := h.bind(p, inputDir+"/"+in.Name, in.File, unix.MOUNT_ATTR_NOEXEC); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (h *handover) bind(p *plan, target string, file *os.File, attributes uint64) error {
	fd, err := detach(int(file.Fd()), "", attributes|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fmt.Errorf("cannot bind %s as %s: %w", file.Name(), target, err)
	}
	mount := os.NewFile(uintptr(fd), target)
	h.opened = append(h.opened, mount)
	p.Binds = append(p.Binds, boundFile{Target: target, FD: h.give(mount)})
	return nil
}

func (h *handover) openStatus() error {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make status pipe: %w", err)
	}
	h.status = ours
	h.files[statusFD] = theirs
	h.opened = append(h.opened, ours, theirs)
	return nil
}

// standard writes the plan and puts it and the standard descriptors in place.
func (h *handover) standard(p *plan, files Files) error {
	mem, err := memFile("plan")
	if err != nil {
		return err
	}
	h.opened = append(h.opened, mem)
	if err := json.NewEncoder(mem).Encode(p); err != nil {
		return fmt.Errorf("cannot write the plan: %w", err)
	}
	if _, err := mem.Seek(0, io.SeekStart); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	h.opened = append(h.opened, null)
	h.files[0], h.files[1], h.files[2], h.files[planFD] = null, files.Stdout, files.Stderr, mem
	return nil
}

// follow reads what box-init has to say until exec closes the pipe.
func (h *handover) follow(ctx context.Context) (stage string, err error) {
	h.files[statusFD].Close() // ours alone would keep the pipe open
	if err := h.status.SetReadDeadline(time.Now().Add(launchTimeout)); err != nil {
		return "follow", err
	}
	defer context.AfterFunc(ctx, func() { h.status.SetReadDeadline(time.Unix(1, 0)) })()
	ready := false
	messages := json.NewDecoder(io.LimitReader(h.status, 64<<10))
	for {
		var m status
		err := messages.Decode(&m)
		switch {
		case err == io.EOF && ready:
			return "", nil
		case err == io.EOF:
			return "box-init", errors.New("cannot tell why: box-init ended without a word")
		case err != nil:
			return "box-init", fmt.Errorf("cannot follow box-init: %w", err)
		case m.Ready:
			ready = true
		case m.Errno != 0:
			return m.Stage, fmt.Errorf("%w (%s)", m.Errno, m.Text)
		default:
			return m.Stage, errors.New(m.Text)
		}
	}
}

// watch returns when the scanner has ended, or with the reason why it must.
func (b *running) watch(ctx context.Context) (stop string) {
	deadline := time.Now().Add(b.limits.Wall)
	for {
		if b.exited(tick) {
			return ""
		}
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
func (b *running) end(spec Spec, u *Usage) (ended *os.ProcessState, stage string, err error) {
	defer b.pidfd.Close()
	if b.leaf != nil {
		defer b.leaf.fd.Close()
		err = b.leaf.kill()
	}
	if b.process != nil {
		ended, stage, err = b.reap(err)
	}
	if ended != nil {
		u.CPU = ended.UserTime() + ended.SystemTime()
		u.Memory = ended.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	u.Output = b.written()
	if b.leaf == nil {
		return ended, stage, err
	}
	if empty := b.leaf.waitEmpty(); empty != nil {
		return ended, "empty cgroup", errors.Join(err, empty, ErrAlive)
	}
	b.leaf.measure(spec, u)
	if removed := b.leaf.remove(); removed != nil {
		return ended, "remove cgroup", errors.Join(err, removed)
	}
	return ended, stage, err
}

// reap kills the process, by every handle there is, and then takes its
// status: until then its number, and its group's, is nobody else's.
func (b *running) reap(killed error) (*os.ProcessState, string, error) {
	_ = b.process.Signal(syscall.SIGKILL) // a process that has ended already is no error
	if b.leaf == nil {
		_ = unix.Kill(-b.process.Pid, unix.SIGKILL)
	}
	for deadline := time.Now().Add(emptyTimeout); !b.exited(tick); {
		if time.Now().After(deadline) {
			return nil, "kill", errors.Join(killed, fmt.Errorf("cannot end the scanner within %s: %w", emptyTimeout, ErrAlive))
		}
	}
	state, err := b.process.Wait()
	if err != nil {
		return nil, "wait", errors.Join(killed, fmt.Errorf("cannot take the scanner's status: %w", err))
	}
	if killed != nil {
		return state, "kill", fmt.Errorf("cannot kill cgroup: %w", killed)
	}
	return state, "", nil
}

// reason names the end of a scanner that ran. What we stopped it for comes
// first, then what the kernel says, then what its way of ending says.
func reason(stopped string, ended *os.ProcessState, u Usage, l Limits) (why string, code, signal int) {
	if ended == nil {
		return orElse(stopped, Signalled), 0, 0
	}
	status := ended.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		signal = int(status.Signal())
	} else {
		code = status.ExitStatus()
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
