package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Proof is what one layer did on this machine, now, with a program that tried what the layer
// is there to prevent. Layers that are not in force have none: they are gaps.
type Proof struct {
	Layer    string
	Held     bool
	Found    string // what was tried, or what was not prevented
	Unproved string // nothing was let through, but what was tried so ended otherwise than of its layer
}

const (
	proofTimeout = 20 * time.Second // of one box: on an emulated processor this program takes seconds to begin
	proofMemory  = 256 << 20
	proofTasks   = 32
	proofHost    = "proof"
	doorLook     = "look" // all that a program survives
	doorMemory   = "memory"
	doorTasks    = "tasks"
	doorShare    = "share"
	doorStay     = "stay"
	proofStay    = 300 * time.Millisecond // until a box that would stay is ended
	proofShare   = 10                     // percent of a processor
	proofSpin    = 100 * time.Millisecond // of processor time, with that share a second
	proofTries   = 3                      // of a door at which the program ended otherwise
	proofPause   = 2 * time.Second        // between them: longer than what another may have asleep
	proofTurn    = time.Minute            // for another doctor to be done
	proofAlone   = 5 * time.Second        // for what runs as the uid to be gone
)

// deadly are the doors at which a program is killed, each tried by a box of its own. None does
// anything where it is open: the arguments are wrong, or harmless.
var deadly = []struct {
	name string
	call func() error
}{
	{"a user namespace", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"a mount", func() error { return errnoOf(unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)) }},
	{"a second exec", func() error { return unix.Exec("/nonexistent", []string{"x"}, nil) }},
	{"ptrace", func() error { return unix.PtraceAttach(1) }},
	{"memory of others", func() error { return errnoOf(unix.ProcessVMReadv(1, nil, nil, 0)) }},
	{"keys", func() error { return errnoOf(unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)) }},
	{"bpf", func() error { return raw(unix.SYS_BPF, 0, 0, 0) }},
	{"io_uring", func() error { return raw(unix.SYS_IO_URING_SETUP, 0, 0, 0) }},
	{"perf", func() error { return raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }},
	{"setuid", func() error { return raw(unix.SYS_SETUID, 0, 0, 0) }},
	{"modules", func() error { return raw(unix.SYS_INIT_MODULE, 0, 0, 0) }},
	{"another root", func() error { return unix.Chroot("/nonexistent") }},
}

func errnoOf[T any](_ T, err error) error { return err }

func raw(call, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// Prove puts this very program into boxes, as uid, which must be nobody else's, where it tries to get out; argv makes it call
// Door. The profile is the resolver's, the one in which this program runs. A cgroup is divided
// only if a service manager has marked it as delegated.
func Prove(ctx context.Context, uid uint32, argv func(door string) []string) ([]Proof, []Gap, error) {
	s, err := Open(Config{Accept: Layers, delegatedOnly: true})
	if err != nil {
		return nil, nil, err
	}
	wish := Spec{Box: "resolver", UID: uid, GID: uid, Hostname: proofHost, NetNS: s.nowhere,
		Limits: Limits{Memory: proofMemory, Pids: proofTasks, CPU: proofTimeout, OpenFiles: 256, Output: 64 << 10, Tmp: 1 << 20, TmpInodes: 16, Wall: proofTimeout}}
	_, gaps := Fit(wish, s.features)
	if !slices.ContainsFunc(gaps, func(g Gap) bool { return g.Layer == UID }) {
		release, err := alone(ctx, uid)
		if err != nil {
			return nil, nil, errors.Join(err, s.Close())
		}
		defer release()
	}
	proofs, err := s.prove(ctx, wish, argv, func(layer string) bool {
		return !slices.ContainsFunc(gaps, func(g Gap) bool { return g.Layer == layer })
	})
	return proofs, gaps, errors.Join(err, s.Close())
}

// alone waits until nobody else proves anything as this uid: the kernel counts tasks by it, and what another's box
// has of them would be missing in ours. Two of the same program wait for each other by a lock on its file; nothing is
// written for it.
func alone(ctx context.Context, uid uint32) (release func(), err error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("cannot open this program: %w", err)
	}
	err = waitUntil(ctx, proofTurn, func() bool {
		return unix.Flock(int(exe.Fd()), unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK // a file that cannot be locked keeps nobody out
	}, "another `secmcpd doctor` is at work, or something else has locked this program's file")
	if err == nil {
		err = waitUntil(ctx, proofAlone, func() bool { return !hasProcesses(uid) }, fmt.Sprintf("something else runs as uid %d", uid))
	}
	if err != nil {
		exe.Close()
		return nil, err
	}
	return func() { exe.Close() }, nil
}

func waitUntil(ctx context.Context, most time.Duration, is func() bool, otherwise string) error {
	for until := time.Now().Add(most); !is(); {
		if time.Now().After(until) {
			return errors.New(otherwise)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// prove tries every door of the layers that are said to be in force.
func (s *Sandbox) prove(ctx context.Context, wish Spec, argv func(door string) []string, inForce func(string) bool) ([]Proof, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("cannot open this program: %w", err)
	}
	defer exe.Close()
	wish.Exe = exe
	c := claims{}
	for _, door := range doors(inForce) {
		wish.Job, wish.Argv = "proof-"+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(len(c.tried)), argv(door)
		wish.Limits.CPUPercent = 0
		if door == doorShare {
			wish.Limits.CPUPercent = proofShare
		}
		wish.Limits.Wall = proofTimeout
		if door == doorStay {
			wish.Limits.Wall = proofStay
		}
		for try := 1; ; try++ {
			r, said, err := s.runProof(ctx, wish)
			if err != nil {
				return nil, fmt.Errorf("cannot try %s: %w", door, err)
			}
			if inForce(Cgroup) {
				c.add(Cgroup, "outliving the box", heldIf(r.Stage == "" && !hasProcesses(wish.UID)))
			}
			if door == doorLook {
				if r.Reason != Exited || r.Code != 0 {
					return nil, fmt.Errorf("cannot look out of a box: it ended: %s, status %d, signal %d", r.Reason, r.Code, r.Signal)
				}
				c.read(said)
				break
			}
			found := judge(door, r, said, inForce)
			if found.outcome != attemptUnproved || try == proofTries {
				c.tried = append(c.tried, found)
				break
			}
			if err := pause(ctx, proofPause); err != nil {
				return nil, err
			}
			wish.Job += "-again"
		}
	}
	return c.proofs(inForce), nil
}

// judge says of a program whether its layer stopped it at a door, or let it through: then it says so. One that ended of
// something else, of time on a slow machine or for want of a task, is evidence of neither.
func judge(door string, r Result, said string, inForce func(string) bool) claim {
	c := claim{layer: Seccomp, what: door, outcome: attemptUnproved}
	var stopped, passed bool
	switch door {
	case doorMemory: // who is refused it comes to a good end, and says nothing
		c.layer, c.what, stopped = Rlimits, "more memory than its limit", r.Reason == Exited
		if inForce(CgroupMemory) {
			c.layer, stopped, passed = CgroupMemory, r.Reason == Memory, r.Reason == Exited && r.Code == 0
		}
	case doorTasks: // the runtime ends whom it is refused, and writes more than it may of why
		c.layer, c.what = Rlimits, "more tasks than its limit"
		if inForce(CgroupPids) {
			c.layer = CgroupPids
		}
		stopped = slices.Contains([]string{Exited, Signalled, Pids, Output}, r.Reason)
	case doorStay:
		c.layer, c.what, stopped = Cgroup, "staying beyond its time", r.Reason == Timeout
	case doorShare: // whoever is throttled comes through, too
		c.layer, c.what, stopped = CgroupCPU, "more of a processor than its share", r.Usage.Throttled > 0
	default:
		stopped = r.Reason == Violation
	}
	switch passed = passed || said != ""; {
	case passed && !(door == doorShare && stopped):
		c.outcome = attemptOpen
	case stopped:
		c.outcome = attemptHeld
	}
	return c
}

func doors(inForce func(string) bool) (names []string) {
	names = append(names, doorLook)
	if inForce(CgroupMemory) || inForce(Rlimits) {
		names = append(names, doorMemory)
	}
	if inForce(CgroupPids) || inForce(Rlimits) && inForce(UID) {
		names = append(names, doorTasks)
	}
	if inForce(CgroupCPU) {
		names = append(names, doorShare)
	}
	if inForce(Cgroup) {
		names = append(names, doorStay)
	}
	for _, d := range deadly {
		if inForce(Seccomp) {
			names = append(names, d.name)
		}
	}
	return names
}

func (s *Sandbox) runProof(ctx context.Context, spec Spec) (r Result, said string, err error) {
	var files [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		if files[i], err = memFile(name); err != nil {
			return r, "", err
		}
		defer files[i].Close()
	}
	if r = s.Run(ctx, spec, Files{Stdout: files[0], Stderr: files[1]}); r.Err != nil {
		return r, "", fmt.Errorf("%s: %w", r.Stage, r.Err)
	}
	b, err := io.ReadAll(io.NewSectionReader(files[0], 0, spec.Limits.Output))
	return r, string(b), err
}

// claims gathers what was tried, by layer.
type claims struct {
	tried []claim
}

type claim struct {
	layer, what, outcome string
}

// Outcomes; Door writes the first two.
const (
	attemptHeld     = "held"
	attemptOpen     = "open"
	attemptUnproved = "unproved"
)

func heldIf(is bool) string {
	if is {
		return attemptHeld
	}
	return attemptOpen
}

func (c *claims) add(layer, what, outcome string) {
	c.tried = append(c.tried, claim{layer, what, outcome})
}

// read takes the lines that Door wrote for itself.
func (c *claims) read(said string) {
	for line := range strings.Lines(said) {
		if f := strings.SplitN(strings.TrimSpace(line), "\t", 3); len(f) == 3 {
			c.add(f[0], f[2], f[1])
		}
	}
}

func (c *claims) proofs(inForce func(string) bool) (all []Proof) {
	for _, layer := range Layers {
		of := map[string][]string{}
		for _, t := range c.tried {
			if t.layer != layer {
				continue
			}
			if !slices.Contains(of[t.outcome], t.what) {
				of[t.outcome] = append(of[t.outcome], t.what)
			}
		}
		switch {
		case !inForce(layer) || len(of) == 0:
		case len(of[attemptOpen]) > 0:
			all = append(all, Proof{Layer: layer, Found: strings.Join(of[attemptOpen], ", ")})
		default:
			all = append(all, Proof{layer, len(of[attemptUnproved]) == 0, strings.Join(of[attemptHeld], ", "), strings.Join(of[attemptUnproved], ", ")})
		}
	}
	return all
}

// Door is the program in the box: it tries one door, or looks at all that can be looked at, and
// writes what it found. Outside a box it does no harm.
func Door(name string, out io.Writer) error {
	switch name {
	case doorLook:
		for _, look := range looks {
			if _, err := fmt.Fprintf(out, "%s\t%s\t%s\n", look.layer, heldIf(look.held()), look.what); err != nil {
				return err
			}
		}
		return nil
	case doorMemory:
		for range 2 * proofMemory >> 20 {
			b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				return nil
			}
			for i := 0; i < len(b); i += os.Getpagesize() {
				b[i] = 1
			}
		}
	case doorTasks:
		sleepers(4 * proofTasks)
	case doorStay: // whatever it is asked
		signal.Ignore()
		for {
			sleepers(proofTasks / 4)
		}
	case doorShare: // by its own clock of processor time, whatever else the machine does
		for used := (unix.Timespec{}); used.Nano() < proofSpin.Nanoseconds(); {
			if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
				return err
			}
		}
	default:
		i := slices.IndexFunc(deadly, func(d struct {
			name string
			call func() error
		}) bool {
			return d.name == name
		})
		if i < 0 {
			return fmt.Errorf("no door %q", name)
		}
		_ = deadly[i].call() // whoever comes back was let through the filter
	}
	_, err := fmt.Fprintln(out, attemptOpen)
	return err
}

// hasProcesses says that some process of this machine is of a user.
func hasProcesses(uid uint32) bool {
	return slices.ContainsFunc(processes(), func(pid string) bool {
		var stat unix.Stat_t
		return unix.Stat("/proc/"+pid, &stat) == nil && stat.Uid == uid
	})
}

// sleepers are tasks that do nothing: each waits in the kernel, so each takes a thread. The Go
// runtime ends a process that cannot have one.
func sleepers(n int) {
	asleep := make(chan struct{})
	for range n {
		go func() {
			asleep <- struct{}{}
			pause := unix.Timespec{Sec: 1}
			_ = unix.Nanosleep(&pause, nil)
			asleep <- struct{}{}
		}()
	}
	for range 2 * n {
		<-asleep
	}
}

// looks are what a program in a box finds of itself and of the machine.
var looks = []struct {
	layer, what string
	held        func() bool
}{
	{Cgroup, "the machine's cgroups", func() bool { return strings.Contains(contents("/proc/self/cgroup"), "0::/\n") }},
	{Namespaces, "other processes", func() bool { return os.Getpid() == 1 && !strings.Contains(strings.Join(processes(), " "), " ") }},
	{Namespaces, "interfaces of the machine", func() bool { return strings.Count(contents("/proc/net/dev"), ":") <= 1 }},
	{Namespaces, "name of the machine", func() bool { host, err := os.Hostname(); return err == nil && host == proofHost }},
	{Root, "files of the machine", func() bool {
		return !slices.ContainsFunc([]string{"/etc/shadow", "/etc/machine-id", "/root", "/home", "/var", "/run", "/sys", "/boot", "/dev/kmsg", "/dev/tty"},
			func(name string) bool { _, err := os.Lstat(name); return !errors.Is(err, os.ErrNotExist) })
	}},
	{Root, "writing outside /tmp", readOnlyMounts},
	{UID, "another user", func() bool {
		return os.Getuid() != 0 && status("Uid") == strings.TrimSpace(strings.Repeat(strconv.Itoa(os.Getuid())+"\t", 4)) && status("Groups") == ""
	}},
	{Capabilities, "capabilities", func() bool {
		return !slices.ContainsFunc([]string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"},
			func(set string) bool { caps := status(set); return caps == "" || strings.Trim(caps, "0") != "" })
	}},
	{NoNewPrivs, "set-uid programs", func() bool { return status("NoNewPrivs") == "1" }},
	{Landlock, "listing /", func() bool {
		fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err == unix.EACCES
	}},
	{Seccomp, "calls without a filter", func() bool { return status("Seccomp") == "2" }},
	{Seccomp, "packet sockets", func() bool { return refusedSocket(unix.AF_PACKET, unix.SOCK_RAW) == unix.ENOSYS }},
	{Seccomp, "raw sockets", func() bool { return refusedSocket(unix.AF_INET, unix.SOCK_RAW) == unix.ENOSYS }},
	{Seccomp, "Unix sockets", func() bool { return refusedSocket(unix.AF_UNIX, unix.SOCK_STREAM) == unix.EAFNOSUPPORT }},
	{Seccomp, "signals", func() bool { return unix.Kill(2, 0) == unix.ENOSYS }},
	{Rlimits, "core dumps", func() bool { return limitIs(unix.RLIMIT_CORE, 1) }},
	{Rlimits, "files without end", func() bool { return !limitIs(unix.RLIMIT_FSIZE, unix.RLIM_INFINITY) }},
	{Rlimits, "more open files", func() bool { return limitIs(unix.RLIMIT_NOFILE, 256) }},
}

func contents(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error() + ":::" // which is none of the texts looked for
	}
	return string(b)
}

// processes are those in /proc, by number; it lies elsewhere in a box.
func processes() (pids []string) {
	for _, dir := range []string{"/proc", "/proc/.p"} {
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(-1) // of a directory that ends early the rest is missing
		d.Close()
		for _, name := range names {
			if _, err := strconv.Atoi(name); err == nil && !slices.Contains(pids, name) {
				pids = append(pids, name)
			}
		}
	}
	return pids
}

func readOnlyMounts() bool {
	mounts := 0
	for line := range strings.Lines(contents("/proc/self/mountinfo")) {
		f := strings.Fields(line)
		if len(f) < 6 {
			return false
		}
		flags := strings.Split(f[5], ",")
		switch own := f[4] == tmpDir; {
		case !slices.Contains(flags, "nosuid"), own && !slices.Contains(flags, "noexec"), !own && !slices.Contains(flags, "ro"):
			return false
		}
		mounts++
	}
	return mounts > 3
}

func status(key string) string {
	for line := range bytes.Lines([]byte(contents("/proc/self/status"))) {
		if rest, ok := bytes.CutPrefix(line, []byte(key+":")); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

func refusedSocket(family, kind int) error {
	fd, err := unix.Socket(family, kind, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func limitIs(resource int, value uint64) bool {
	var r unix.Rlimit
	return unix.Getrlimit(resource, &r) == nil && r.Max == value
}
