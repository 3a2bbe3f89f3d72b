package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Config of a Sandbox.
type Config struct {
	Accept []string // layers whose absence is accepted; none by default
}

// Sandbox starts boxes. Its methods may be called from several goroutines.
type Sandbox struct {
	features Features
	accept   []string
	starts   chan func() // what the launcher thread is to do

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	filters map[filterKey][]byte
}

// filterKey: the filter names the one descriptor that may be executed, and
// that is the limit of open files.
type filterKey struct {
	box   string
	files int
}

// Open prepares this process for starting boxes: its place in the cgroup tree
// and the thread they are started from.
func Open(c Config) (*Sandbox, error) {
	for _, layer := range c.Accept {
		if !slices.Contains(Layers, layer) {
			return nil, fmt.Errorf("cannot accept a box without %q: not a layer", layer)
		}
	}
	f := Probe()
	if f.Libseccomp[0] < 2 || f.Libseccomp[0] == 2 && f.Libseccomp[1] < 5 {
		return nil, fmt.Errorf("cannot use libseccomp %d.%d: 2.5 or later is needed", f.Libseccomp[0], f.Libseccomp[1])
	}
	if len(f.Lacks) == 0 && f.kernelBefore(5, 14) {
		return nil, fmt.Errorf("cannot use Linux %d.%d: 5.14 or later is needed", f.Kernel[0], f.Kernel[1])
	}
	if f.Cgroup != "" && f.UID == 0 && len(f.Lacks) == 0 {
		enabled, err := divide(f.Cgroup, f.Controllers)
		if err != nil {
			f.Cgroup, f.NoCgroup, enabled = "", err.Error(), nil
		}
		f.Controllers = enabled
	}
	s := &Sandbox{features: f, accept: slices.Clone(c.Accept), starts: make(chan func()), filters: map[filterKey][]byte{}}
	go s.launcherThread()
	return s, nil
}

// Features are those found, with the controllers that boxes really get.
func (s *Sandbox) Features() Features { return s.features }

// launcherThread is the parent of every box, for as long as the Sandbox is
// open. The kernel sends a box its death signal when the *thread* that started
// it ends, and Go ends threads as it likes: all but a locked one.
func (s *Sandbox) launcherThread() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the Sandbox
	for do := range s.starts {
		do()
	}
}

// onLauncherThread runs do there and waits for it.
func (s *Sandbox) onLauncherThread(do func()) {
	done := make(chan struct{})
	s.starts <- func() { defer close(done); do() }
	<-done
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
	return reclaim(s.features.Cgroup)
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
		close(s.starts)
		return nil
	case <-time.After(2 * emptyTimeout):
		return errors.New("cannot close the sandbox: boxes are still running")
	}
}
