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
	Layer string
	Held  bool
	Found string // what was tried, or what was not prevented
}

const (
	proofTimeout = 10 * time.Second // of one box
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
	proofs, err := s.prove(ctx, wish, argv, func(layer string) bool {
		return !slices.ContainsFunc(gaps, func(g Gap) bool { return g.Layer == layer })
	})
	return proofs, gaps, errors.Join(err, s.Close())
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
		r, said, err := s.runProof(ctx, wish)
		if err != nil {
			return nil, fmt.Errorf("cannot try %s: %w", door, err)
		}
		switch {
		case door == doorLook && (r.Reason != Exited || r.Code != 0):
			return nil, fmt.Errorf("cannot look out of a box: it ended: %s, status %d, signal %d", r.Reason, r.Code, r.Signal)
		case door == doorLook:
			c.read(said)
		case door == doorMemory && inForce(CgroupMemory):
			c.add(CgroupMemory, "more memory than its limit", r.Reason == Memory)
		case door == doorMemory:
			c.add(Rlimits, "more memory than its limit", said == "")
		case door == doorTasks && inForce(CgroupPids):
			c.add(CgroupPids, "more tasks than its limit", said == "")
		case door == doorTasks:
			c.add(Rlimits, "more tasks than its limit", said == "")
		case door == doorStay:
			c.add(Cgroup, "staying beyond its time", r.Reason == Timeout)
		case door == doorShare:
			c.add(CgroupCPU, "more of a processor than its share", r.Usage.Throttled > 0)
		default:
			c.add(Seccomp, door, r.Reason == Violation)
		}
		if inForce(Cgroup) {
			c.add(Cgroup, "outliving the box", r.Stage == "" && !hasProcesses(wish.UID))
		}
	}
	return c.proofs(inForce), nil
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
	layer, what string
	held        bool
}

func (c *claims) add(layer, what string, held bool) {
	c.tried = append(c.tried, claim{layer, what, held})
}

// read takes the lines that Door wrote for itself.
func (c *claims) read(said string) {
	for line := range strings.Lines(said) {
		if f := strings.SplitN(strings.TrimSpace(line), "\t", 3); len(f) == 3 {
			c.add(f[0], f[2], f[1] == "held")
		}
	}
}

func (c *claims) proofs(inForce func(string) bool) (all []Proof) {
	for _, layer := range Layers {
		var tried, open []string
		for _, t := range c.tried {
			if t.layer != layer {
				continue
			}
			if !slices.Contains(tried, t.what) {
				tried = append(tried, t.what)
			}
			if !t.held && !slices.Contains(open, t.what) {
				open = append(open, t.what)
			}
		}
		switch {
		case !inForce(layer) || len(tried) == 0:
		case len(open) > 0:
			all = append(all, Proof{layer, false, strings.Join(open, ", ")})
		default:
			all = append(all, Proof{layer, true, strings.Join(tried, ", ")})
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
			found := "held"
			if !look.held() {
				found = "open"
			}
			if _, err := fmt.Fprintf(out, "%s\t%s\t%s\n", look.layer, found, look.what); err != nil {
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
	_, err := fmt.Fprintln(out, "open")
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
