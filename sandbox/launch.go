package sandbox

// #cgo CFLAGS: -O2 -Wall -Wextra
// #include <stdlib.h>
// #include "child.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A box is not made by a program that is started in it: the start of a Go
// program costs as much as bubblewrap does in all. The child of the clone goes
// the way itself, in C, on the launcher's memory (child.c); here is laid out
// what it takes, and told what became of it.

// layerOf are the layers that a step is left out with; the others always happen.
var layerOf = map[string]string{
	"network": Namespaces, "cgroup namespace": Namespaces, "host name": Namespaces, "root": Root, "limits": Rlimits,
	"bounding set": Capabilities, "user": UID, "no new privileges": NoNewPrivs, "own process": Landlock, "landlock": Landlock, "seccomp": Seccomp,
}

// stages are the names of the steps, in their order.
func stages() (names []string) {
	for i := C.int(0); ; i++ {
		name := C.box_stage(i)
		if name == nil {
			return names
		}
		names = append(names, C.GoString(name))
	}
}

// launch is one box on its way to exec, with what must be given back afterwards.
type launch struct {
	c      *C.struct_box
	memory []unsafe.Pointer // C's: the child must find nothing moved
	opened []int
}

func (l *launch) free() {
	for _, p := range l.memory {
		C.free(p)
	}
	for _, fd := range l.opened {
		unix.Close(fd)
	}
}

func (l *launch) alloc(size uintptr) unsafe.Pointer {
	p := C.calloc(1, C.size_t(max(size, 1))) // never nil: cgo ends the process instead
	l.memory = append(l.memory, p)
	return p
}

func (l *launch) text(s string) *C.char {
	p := C.CString(s)
	l.memory = append(l.memory, unsafe.Pointer(p))
	return p
}

func (l *launch) texts(list []string) **C.char {
	p := l.alloc(uintptr(len(list)+1) * unsafe.Sizeof((*C.char)(nil)))
	for i, s := range list {
		unsafe.Slice((**C.char)(p), len(list)+1)[i] = l.text(s)
	}
	return (**C.char)(p)
}

// layOut makes everything that the child needs, before there is one. What is of
// the template is added by the thread that has it.
func (s *Sandbox) layOut(spec Spec, b *running, program []byte) (l *launch, err error) {
	l = &launch{}
	defer func() {
		if err != nil {
			l.free()
		}
	}()
	if b.files.Stdout.Fd() < 3 || b.files.Stderr.Fd() < 3 {
		return nil, errors.New("cannot use a standard descriptor of the launcher for the output")
	}
	l.c = (*C.struct_box)(l.alloc(unsafe.Sizeof(C.struct_box{})))
	c := l.c
	for i, name := range stages() {
		if layer := layerOf[name]; layer != "" && !spec.Has(layer) {
			c.skip[i] = 1
		}
	}
	c.fault, c.pause = C.int(s.fault), C.int(s.pause)
	c.pidfd, c.cgroup, c.network, c.ruleset = -1, -1, -1, -1
	c.old_clone = C.int(unset(s.features.CloneInto))
	if b.leaf != nil {
		c.cgroup = C.int(b.leaf.fd.Fd())
	}
	if spec.Has(Namespaces) {
		c.namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		switch netns := s.network(spec); {
		case netns == nil:
			c.namespaces |= unix.CLONE_NEWNET
		default: // 2 µs instead of half a millisecond
			c.network = C.int(netns.Fd())
		}
	}
	c.directory, c.host_name = l.text("/"), l.text(spec.Hostname)
	c.exe, c.exec_fd = C.int(spec.Exe.Fd()), C.int(spec.Limits.OpenFiles)
	c.launcher, c.proc = C.int(s.self.Fd()), C.int(s.proc.Fd())
	c.standard_output, c.standard_error = C.int(b.files.Stdout.Fd()), C.int(b.files.Stderr.Fd())
	c.uid, c.gid = C.uint32_t(spec.UID), C.uint32_t(spec.GID)
	if spec.Raw {
		c.capabilities = 1 << unix.CAP_NET_RAW
	}
	c.argv, c.environment = l.texts(spec.Argv), l.texts(spec.Env)
	l.limits(spec, b.base)
	if len(program) > 0 {
		// struct sock_filter is eight bytes, in the order of this machine, as exported.
		p := l.alloc(uintptr(len(program)))
		copy(unsafe.Slice((*byte)(p), len(program)), program)
		c.filter.len, c.filter.filter = C.ushort(len(program)/8), (*C.struct_sock_filter)(p)
	}
	if spec.Has(Root) {
		c.directory = l.text(emptyDir)
		err = l.mounts(spec)
	} else if spec.Has(Landlock) {
		err = l.ownRules(spec, s.features.LandlockABI)
	}
	return l, err
}

func unset(b bool) int {
	if b {
		return 0
	}
	return 1
}

// limits of the process, as the last fence behind those of the cgroup.
func (l *launch) limits(spec Spec, base int64) {
	type limit struct {
		name     string
		resource int
		value    uint64
		exact    bool // no less will do
	}
	m := spec.Limits
	list := []limit{
		// 1 and not 0: a core pattern that is a pipe ignores 0, starts its program as root, and takes
		// 1 for "do not dump". One that is a socket takes no limit at all: see Fit. Less than 1 is what a mere user may have been left with.
		{"core", unix.RLIMIT_CORE, 1, spec.Has(UID)},
		{"fsize", unix.RLIMIT_FSIZE, uint64(base + m.Output + fenceSlack), false},
		{"cpu", unix.RLIMIT_CPU, uint64(m.CPU.Seconds()) + 1, false},
		{"memlock", unix.RLIMIT_MEMLOCK, 64 << 10, false},
		{"msgqueue", unix.RLIMIT_MSGQUEUE, 0, false},
		{"rtprio", unix.RLIMIT_RTPRIO, 0, false},
		{"nice", unix.RLIMIT_NICE, 0, false},
		{"sigpending", unix.RLIMIT_SIGPENDING, 256, false},
	}
	if spec.Has(UID) { // counted per user: only a user that is the slot's alone can be held to it
		tasks := uint64(m.Pids)
		if spec.Has(CgroupPids) {
			// One more than the cgroup admits: a refusal by the cgroup is counted, and so the
			// result can say what the scanner ended of.
			tasks++
		}
		list = append(list, limit{"nproc", unix.RLIMIT_NPROC, tasks, false})
	}
	if !spec.Has(CgroupMemory) { // coarser than a cgroup, and better than nothing
		list = append(list, limit{"data", unix.RLIMIT_DATA, uint64(m.Memory), false})
	}
	p := unsafe.Slice((*C.struct_box_limit)(l.alloc(uintptr(len(list))*unsafe.Sizeof(C.struct_box_limit{}))), len(list))
	for i, r := range list {
		p[i] = C.struct_box_limit{resource: C.int(r.resource), value: C.uint64_t(r.value), name: l.text(r.name)}
		if r.exact {
			p[i].exact = 1
		}
	}
	l.c.limits, l.c.limit_count = &p[0], C.int(len(list))
}

// keep tells the child which descriptors are its own.
func (l *launch) keep() {
	c := l.c
	list := []C.int{c.network, c.exe, c.ruleset, c.launcher, c.standard_output, c.standard_error}
	if c.mount_count > 0 {
		for _, m := range unsafe.Slice(c.mounts, c.mount_count) {
			list = append(list, m.fd)
		}
	}
	list = slices.DeleteFunc(list, func(fd C.int) bool { return fd < 3 })
	slices.Sort(list)
	list = slices.Compact(list)
	p := unsafe.Slice((*C.int)(l.alloc(uintptr(len(list))*unsafe.Sizeof(C.int(0)))), len(list))
	copy(p, list)
	c.keep, c.keep_count = &p[0], C.int(len(list))
}

// mounts are what a box has beside the template.
func (l *launch) mounts(spec Spec) error {
	p := unsafe.Slice((*C.struct_box_mount)(l.alloc(uintptr(len(spec.Inputs)+3)*unsafe.Sizeof(C.struct_box_mount{}))), len(spec.Inputs)+3)
	l.c.mounts = &p[0]
	add := func(target string, fd int, err error) error {
		if err != nil {
			return fmt.Errorf("cannot make %s: %w", target, err)
		}
		l.opened = append(l.opened, fd)
		p[l.c.mount_count] = C.struct_box_mount{fd: C.int(fd), target: l.text(target)}
		l.c.mount_count++
		return nil
	}
	fd, err := given(spec)
	if err := add(givenDir, fd, err); err != nil {
		return err
	}
	if spec.Limits.Tmp > 0 {
		fd, err := ownTmp(spec)
		if err := add(tmpDir, fd, err); err != nil {
			return err
		}
	}
	path := spec.executable()
	if !underUsr(path) {
		path = scannerPath
		fd, err := detach(int(spec.Exe.Fd()), "", unix.MOUNT_ATTR_NODEV)
		if err := add(scannerPath, fd, err); err != nil {
			return err
		}
	}
	l.c.scanner = l.text(path)
	for _, in := range spec.Inputs {
		fd, err := detach(int(in.File.Fd()), "", unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		if err := add(givenDir+"/in/"+in.Name, fd, err); err != nil {
			return err
		}
	}
	return nil
}

// ownRules are the rules of one box without a root of its own: they name its
// scanner, and the child adds its own process.
func (l *launch) ownRules(spec Spec, abi int) error {
	ruleset, err := newRules(abi, profiles[spec.Box].network, nil)
	if err != nil {
		return err
	}
	l.opened = append(l.opened, ruleset)
	l.c.ruleset, l.c.own_rights = C.int(ruleset), C.uint64_t(mayRead&handled(abi))
	return allow(ruleset, int(spec.Exe.Fd()), mayRun&handled(abi))
}

// start brings a box from the clone to the scanner's first instruction. What it
// started is in b, also when it fails.
func (s *Sandbox) start(ctx context.Context, b *running, spec Spec, program []byte) (stage string, err error) {
	l, err := s.layOut(spec, b, program)
	if err != nil {
		return "hand over", err
	}
	done, turn := make(chan struct{}), new(turn)
	var on *thread // read when it is done
	var noRoot error
	order := order{done: done, do: func(t *thread) {
		if !turn.take() {
			return // nobody waits for it any more, and its descriptors may be somebody else's
		}
		if s.hook != nil {
			s.hook("taken")
		}
		if t.err != nil && spec.Has(Root) {
			noRoot = t.err
			return
		}
		if spec.Has(Root) && spec.Has(Landlock) {
			l.c.ruleset = C.int(t.template.rules[profiles[spec.Box].network])
		}
		l.keep()
		t.boxes.Add(1)
		on = t
		C.box_launch(l.c)
	}}
	if spec.Has(Root) {
		order.shown = fingerprint()
	}
	select {
	case s.orders <- order:
	case <-ctx.Done():
		l.free()
		return "queue", ctx.Err()
	}
	killed, hangs := b.awaitLaunch(ctx, l, turn, done)
	if hangs {
		return "launch", fmt.Errorf("cannot end a launch that hangs: %w", errors.Join(killed, ErrAlive))
	}
	runtime.KeepAlive(spec)
	defer l.free()
	if turn.givenUp() {
		return "queue", killed
	}
	if noRoot != nil {
		return "root", noRoot
	}
	b.thread = on
	if l.c.pid < 0 {
		return "clone", fmt.Errorf("cannot clone: %w", syscall.Errno(l.c.error))
	}
	b.pid, b.pidfd = int(l.c.pid), os.NewFile(uintptr(l.c.pidfd), "pidfd")
	at := C.GoString(C.box_stage(l.c.step))
	switch {
	case killed != nil:
		return at, killed
	case l.c.error != 0:
		what := strings.TrimRight(C.GoString(l.c.what)+" "+C.GoString(l.c.object), " ")
		return at, fmt.Errorf("cannot %s: %w", what, syscall.Errno(l.c.error))
	case at != "exec":
		return at, errors.New("cannot tell why: it was killed")
	}
	return "", nil
}

// turn settles between a thread and the job that waits for it whether a launch happens: the first
// to say so.
type turn struct{ state atomic.Int32 }

const (
	nobodys int32 = iota
	theThreads
	givenUp
)

func (c *turn) take() bool    { return c.state.CompareAndSwap(nobodys, theThreads) }
func (c *turn) giveUp() bool  { return c.state.CompareAndSwap(nobodys, givenUp) }
func (c *turn) givenUp() bool { return c.state.Load() == givenUp }

// awaitLaunch waits until the thread is free again, which the kernel holds until
// the child has executed or is gone. A launch that no thread has begun is given up
// when its job is over; a child that takes too long, or whose job is over, is killed.
// The cause is returned. hangs: it cannot even be killed, and what it uses is lost.
func (b *running) awaitLaunch(ctx context.Context, l *launch, turn *turn, done <-chan struct{}) (killed error, hangs bool) {
	deadline := time.NewTimer(launchTimeout)
	defer deadline.Stop()
	select {
	case <-done:
		return nil, false
	case <-ctx.Done():
		killed = ctx.Err()
	case <-deadline.C:
		killed = fmt.Errorf("cannot bring the scanner to its start within %s", launchTimeout)
	}
	if turn.giveUp() {
		return killed, false
	}
	for until := time.Now().Add(emptyTimeout); time.Now().Before(until); {
		if b.leaf != nil {
			_ = b.leaf.kill()
		} else if fd := atomic.LoadInt32((*int32)(&l.c.pidfd)); fd >= 0 { // written by the clone
			_ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
		}
		select {
		case <-done:
			return killed, false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return killed, true
}
