package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config of a Sandbox.
type Config struct {
	Accept []string // layers whose absence is accepted; none by default
	Total  Total

	delegatedOnly bool // leave a cgroup alone that nobody marked as ours
}

// Sandbox starts boxes. Its methods may be called from several goroutines.
type Sandbox struct {
	features Features
	orders   chan order // what a thread is to do
	self     *os.File   // pidfd of this process
	proc     *os.File   // /proc, which the template has not
	nowhere  *os.File   // a network with nothing in it

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	accept  []string
	total   Total
	filters map[filterKey][]byte
	devices map[uint64]disk // names of disks, as far as they were asked for
	rings   *rings          // nil: they cannot be bounded here

	fault, pause int             // of the tests: a step of the launch, -1 for none
	hook         func(at string) // of the tests, nil for none: called on a thread that does something new
}

// threads start boxes side by side: one waits while the kernel builds a box.
const threads = 4

// order is one launch.
type order struct {
	shown string // fingerprint of what the box is to show; "": it has no root of its own
	do    func(*thread)
	done  chan<- struct{}
}

// thread is the parent of the boxes that it starts. The kernel sends a box its
// death signal when the *thread* that started it ends, and Go ends threads as
// it likes: all but a locked one.
type thread struct {
	template *template // nil: err says why
	err      error
	boxes    sync.WaitGroup
}

// filterKey: the filter names the one descriptor that may be executed, and
// that is the limit of open files.
type filterKey struct {
	box   string
	files int
}

// known refuses what is no layer.
func known(layers []string) error {
	for _, layer := range layers {
		if !slices.Contains(Layers, layer) {
			return fmt.Errorf("cannot accept a box without %q: not a layer", layer)
		}
	}
	return nil
}

// Open prepares this process for starting boxes: its place in the cgroup tree
// and the thread they are started from.
func Open(c Config) (*Sandbox, error) {
	if err := known(c.Accept); err != nil {
		return nil, err
	}
	f := Probe()
	if f.Libseccomp[0] < 2 || f.Libseccomp[0] == 2 && f.Libseccomp[1] < 5 {
		return nil, fmt.Errorf("cannot use libseccomp %d.%d: 2.5 or later is needed", f.Libseccomp[0], f.Libseccomp[1])
	}
	if len(f.Lacks) == 0 && f.kernelBefore(5, 14) {
		return nil, fmt.Errorf("cannot use Linux %d.%d: 5.14 or later is needed", f.Kernel[0], f.Kernel[1])
	}
	if c.delegatedOnly && f.Cgroup != "" && !handedOver(f.Cgroup) {
		f.Cgroup, f.NoCgroup, f.Controllers = "", "no cgroup was delegated here", nil
	}
	if f.Cgroup != "" && f.UID == 0 && len(f.Lacks) == 0 {
		enabled, err := divide(f.Cgroup, f.Controllers, c.Total, c.delegatedOnly)
		if err != nil {
			f.Cgroup, f.NoCgroup, enabled = "", err.Error(), nil
		}
		f.Controllers = enabled
	}
	s := &Sandbox{features: f, accept: slices.Clone(c.Accept), orders: make(chan order), total: c.Total, filters: map[filterKey][]byte{}, devices: map[uint64]disk{}, fault: -1, pause: -1}
	// Inherited by whoever is started: should a core be written all the same, no memory is in it.
	// The files of a user's undumpable process are root's; his boxes are his own to look into.
	if err := os.WriteFile("/proc/self/coredump_filter", []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) && f.UID == 0 {
		return nil, fmt.Errorf("cannot keep memory out of cores: %w", err)
	}
	if s.privileged() && f.Cgroup != "" && f.NoRings == "" {
		var err error
		if s.rings, err = newRings(); err != nil {
			return nil, err
		}
	}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		s.rings.close()
		return nil, fmt.Errorf("cannot watch this process: %w", err)
	}
	s.self = os.NewFile(uintptr(self), "launcher")
	if s.proc, err = os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		s.self.Close()
		s.rings.close()
		return nil, fmt.Errorf("cannot look at processes: %w", err)
	}
	if s.privileged() {
		if s.nowhere, err = emptyNetwork(); err != nil {
			s.self.Close()
			s.proc.Close()
			s.rings.close()
			return nil, fmt.Errorf("cannot make an empty network: %w", err)
		}
	}
	// All at once, so that the first launches find them: a root takes a few milliseconds.
	ready := make(chan struct{})
	for range min(runtime.NumCPU(), threads) {
		shown := fingerprint()
		onOwnThread(func() { s.serve(shown, ready, nil) })
	}
	for range min(runtime.NumCPU(), threads) {
		<-ready
	}
	return s, nil
}

func (s *Sandbox) privileged() bool { return s.features.UID == 0 && len(s.features.Lacks) == 0 }

// Features are those found, with the controllers that boxes really get.
func (s *Sandbox) Features() Features { return s.features }

// serve is a thread of the Sandbox. It lives as long as its boxes, and has the
// root of boxes as its own, which it cannot leave again: when the machine has
// changed, another thread takes its place, and the order that found it out.
func (s *Sandbox) serve(shown string, ready chan<- struct{}, first *order) {
	t := &thread{}
	if first != nil && s.hook != nil {
		s.hook("anew")
	}
	if s.privileged() {
		t.template, t.err = newTemplate(shown, s.features.LandlockABI)
	}
	if ready != nil {
		ready <- struct{}{}
	}
	if first != nil {
		first.do(t)
		close(first.done)
	}
	for o := range s.orders {
		if o.shown != "" && (t.template == nil || t.template.shown != o.shown) {
			onOwnThread(func() { s.serve(o.shown, nil, &o) })
			break
		}
		o.do(t)
		close(o.done)
	}
	t.boxes.Wait()
	if t.template != nil {
		t.template.close()
	}
}

// emptyNetwork makes a network namespace with nothing in it, for boxes that may
// not even make a socket. The thread that made it ends with it.
func emptyNetwork() (file *os.File, err error) {
	done := make(chan struct{})
	onOwnThread(func() {
		defer close(done)
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			file, err = os.Open("/proc/thread-self/ns/net")
		}
	})
	<-done
	return file, err
}

// onOwnThread runs do on a thread that ends with it, and never on the first one
// of the process: that does not end, and is what /proc/self shows of them all.
func onOwnThread(do func()) {
	go func() {
		runtime.LockOSThread() // and never unlocked where do runs: nobody else finds himself there
		if unix.Gettid() != unix.Getpid() {
			do()
			return
		}
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(elsewhere)
			do()
		}()
		<-elsewhere // on another thread, since this one is held
		runtime.UnlockOSThread()
	}()
}

// network is the namespace that a box joins; nil: the clone makes one. Boxes
// share one only if nothing in it is in their reach.
func (s *Sandbox) network(spec Spec) *os.File {
	if spec.NetNS == nil && !profiles[spec.Box].network && spec.Has(Seccomp) {
		return s.nowhere
	}
	return spec.NetNS
}

// enter counts a box in; it fails when the Sandbox is closed.
func (s *Sandbox) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("cannot start a box: the sandbox is closed")
	}
	s.running.Add(1)
	return nil
}

// program returns the system call filter for a Spec, built once.
func (s *Sandbox) program(spec Spec) ([]byte, error) {
	if !spec.Has(Seccomp) {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := filterKey{spec.Box, spec.Limits.OpenFiles}
	if program, ok := s.filters[key]; ok {
		return program, nil
	}
	program, err := profiles[spec.Box].program(spec.Limits.OpenFiles)
	if err != nil {
		return nil, err
	}
	if len(s.filters) < 64 { // callers use a handful of limits
		s.filters[key] = program
	}
	return program, nil
}

// Reclaim kills and removes the boxes of a launcher that died. Call it before
// the first Run: it takes every box for a leftover.
func (s *Sandbox) Reclaim() error {
	if s.features.Cgroup == "" {
		return nil
	}
	// Also where versions before this one had them.
	return errors.Join(reclaim(filepath.Join(s.features.Cgroup, together)), reclaim(s.features.Cgroup))
}

// Close waits for the boxes that run, for a bounded time; cancel them first.
// Those that are left die with this process.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()

	idle := make(chan struct{})
	go func() { s.running.Wait(); close(idle) }()
	select {
	case <-idle:
		close(s.orders)
		if s.nowhere != nil {
			s.nowhere.Close()
		}
		s.rings.close()
		return errors.Join(s.self.Close(), s.proc.Close())
	case <-time.After(2 * emptyTimeout):
		return errors.New("cannot close the sandbox: boxes are still running")
	}
}
