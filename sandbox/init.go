package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The descriptors that Run hands to box-init, beside standard input and output.
const (
	planFD = 3 + iota
	statusFD
	firstFD // those that the plan names
)

// plan is what Run tells box-init. It comes from the launcher on a descriptor
// that nobody else has; it is not hostile input.
type plan struct {
	Spec     Spec
	Filter   []byte // the seccomp program; empty: none
	Path     string // of the scanner inside the box; empty: ExeFD is executed
	ExeFD    int    // what was hashed
	NetFD    int    // 0: none
	Binds    []boundFile
	FileSize int64 // the last fence of the output
	ABI      int   // of Landlock
}

// boundFile is a mount that the launcher detached for us: a descriptor of its
// mount namespace cannot be bound in ours.
type boundFile struct {
	Target string
	FD     int
}

// status is what box-init tells Run: ready just before the end, or the step that failed.
type status struct {
	Ready bool
	Stage string
	Text  string
	Errno syscall.Errno
}

// step is one move on the way into the box. It is left out with its layer.
type step struct {
	stage string
	layer string // empty: always
	do    func(*plan) error
}

// The order is the security of it: what needs privilege comes first, what
// takes privilege away next, what takes system calls away last.
var steps = []step{
	// While we may still enter a namespace that is not ours.
	{"network", Namespaces, joinNetwork},
	// From inside the leaf, so that its own cgroup is the root the scanner sees.
	{"cgroup namespace", Namespaces, func(*plan) error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
	// The launcher's session keyring would otherwise stay in reach.
	{"keyring", "", newKeyring},
	{"root", Root, buildRoot},
	{"working directory", "", chdir},
	{"host name", Namespaces, setNames},
	// Inside the finished root: what is found there must be what was hashed.
	{"scanner", "", pinScanner},
	{"limits", Rlimits, setLimits},
	// The bounding set before SETPCAP is lost, groups and gid before uid.
	{"bounding set", Capabilities, emptyBoundingSet},
	{"user", UID, becomeSlot},
	{"capabilities", "", keepCapabilities},
	// Landlock and seccomp ask it of whoever has no privilege left.
	{"no new privileges", NoNewPrivs, func(*plan) error {
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}},
	// Changing credentials cleared it.
	{"parent", "", dieWithLauncher},
	// Before seccomp, whose filter kills landlock_*.
	{"landlock", Landlock, restrictFiles},
	{"signals", "", defaultSignals},
	// Nearly last: nothing above this line may open a file that stays open.
	{"descriptors", "", closeRest},
	{"seccomp", Seccomp, loadFilter},
}

// Init is the hidden command box-init: it turns this process, which Run
// started inside new namespaces and the box's cgroup, into the scanner. It
// never returns. Call it before anything else in main: a goroutine that runs
// beside it still has the privileges it gives up, and only the thread that
// calls exec carries its credentials, filter and domain into the scanner.
func Init() {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // this process ends in a few milliseconds
	unix.Umask(0o022)
	p, err := readPlan()
	if err != nil {
		fmt.Fprintln(os.Stderr, "secmcpd box-init is started by secmcpd itself:", err)
		os.Exit(2)
	}
	// What exec takes is laid out while we may still do anything.
	argv, err1 := syscall.SlicePtrFromStrings(p.Spec.Argv)
	env, err2 := syscall.SlicePtrFromStrings(p.Spec.Env)
	if err := errors.Join(err1, err2); err != nil {
		fail("arguments", err)
	}
	for _, s := range steps {
		if s.layer != "" && !p.Spec.Has(s.layer) {
			continue
		}
		if err := s.do(p); err != nil {
			fail(s.stage, err)
		}
	}
	// By descriptor: the filter allows this number alone, the number is not
	// below the limit of open files, and exec closes it. There is no second exec.
	empty := [1]byte{}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(p.execFD()), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	fail("exec", errno)
}

func (p *plan) execFD() int { return p.Spec.Limits.OpenFiles }

func readPlan() (*plan, error) {
	f := os.NewFile(planFD, "plan")
	var stat unix.Stat_t
	if err := unix.Fstat(planFD, &stat); err != nil {
		return nil, fmt.Errorf("cannot find the plan: %w", err)
	}
	var p plan
	if err := json.NewDecoder(f).Decode(&p); err != nil {
		return nil, fmt.Errorf("cannot read the plan: %w", err)
	}
	if len(p.Spec.Argv) == 0 {
		return nil, errors.New("cannot use a plan without arguments")
	}
	return &p, nil
}

func report(s status) {
	// A launcher that is gone cannot be told; its death kills us.
	text, _ := json.Marshal(s)
	_, _ = unix.Write(statusFD, text)
}

func fail(stage string, err error) {
	var errno syscall.Errno
	errors.As(err, &errno)
	report(status{Stage: stage, Text: err.Error(), Errno: errno})
	os.Exit(125)
}

func joinNetwork(p *plan) error {
	if p.NetFD == 0 {
		return nil // the clone made an empty one
	}
	return unix.Setns(p.NetFD, unix.CLONE_NEWNET)
}

func newKeyring(*plan) error {
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno != 0 && errno != unix.ENOSYS { // a kernel without keys has none to leave behind
		return errno
	}
	return nil
}

// chdir leaves the launcher's directory; a relative name must find nothing.
func chdir(p *plan) error {
	unix.Umask(0o077)
	if p.Spec.Has(Root) {
		return unix.Chdir(emptyDir)
	}
	return unix.Chdir("/")
}

func setNames(p *plan) error {
	if err := unix.Setdomainname(nil); err != nil {
		return err
	}
	return unix.Sethostname([]byte(p.Spec.Hostname))
}

// pinScanner puts the scanner at the one descriptor that may be executed.
func pinScanner(p *plan) error {
	fd := p.ExeFD
	if p.Path != "" {
		found, err := unix.Open(p.Path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("cannot open %s: %w", p.Path, err)
		}
		if err := sameFile(found, p.ExeFD); err != nil {
			return fmt.Errorf("cannot use %s: %w", p.Path, err)
		}
		fd = found
	}
	n := uint64(p.execFD())
	var old unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return err
	}
	// One more than the limit to come, for the moment of the dup.
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n + 1, Max: max(old.Max, n+1)}, nil); err != nil {
		return fmt.Errorf("cannot raise the limit of open files to %d: %w", n+1, err)
	}
	// A table of our own, not the one the runtime's other threads share: to grow
	// a shared one the kernel waits until no thread can be reading it, 8 ms here.
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("cannot get a descriptor table of its own: %w", err)
	}
	if err := unix.Dup3(fd, int(n), unix.O_CLOEXEC); err != nil {
		return err
	}
	return unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil)
}

// tasks is one more than the cgroup admits, where it does: a refusal by the cgroup is counted,
// and so the result can say what the scanner ended of.
func (p *plan) tasks() uint64 {
	if p.Spec.Has(CgroupPids) && p.Spec.Limits.Pids >= tasksOfInit {
		return uint64(p.Spec.Limits.Pids) + 1
	}
	return uint64(p.Spec.Limits.Pids)
}

func sameFile(a, b int) error {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return err
	}
	if x.Dev != y.Dev || x.Ino != y.Ino {
		return fmt.Errorf("it is not the file that was checked: %w", unix.ESTALE)
	}
	return nil
}

func setLimits(p *plan) error {
	l := p.Spec.Limits
	for _, r := range []struct {
		name     string
		resource int
		value    uint64
		off      bool
	}{
		// 1 and not 0: a core pattern that is a pipe ignores 0 and takes 1 for "do not dump".
		{"core", unix.RLIMIT_CORE, 1, false},
		{"fsize", unix.RLIMIT_FSIZE, uint64(p.FileSize), false},
		{"cpu", unix.RLIMIT_CPU, uint64(l.CPU.Seconds()) + 1, false},
		{"memlock", unix.RLIMIT_MEMLOCK, 64 << 10, false},
		{"msgqueue", unix.RLIMIT_MSGQUEUE, 0, false},
		{"rtprio", unix.RLIMIT_RTPRIO, 0, false},
		{"nice", unix.RLIMIT_NICE, 0, false},
		{"sigpending", unix.RLIMIT_SIGPENDING, 256, false},
		// Counted per user: only a user that is the slot's alone can be held to it.
		{"nproc", unix.RLIMIT_NPROC, p.tasks(), !p.Spec.Has(UID)},
		// Coarser than a cgroup, and better than nothing.
		{"data", unix.RLIMIT_DATA, uint64(l.Memory), p.Spec.Has(CgroupMemory)},
	} {
		if r.off {
			continue
		}
		var old unix.Rlimit
		if err := unix.Prlimit(0, r.resource, nil, &old); err != nil {
			return fmt.Errorf("cannot read limit %s: %w", r.name, err)
		}
		value := min(r.value, old.Max)
		if err := unix.Prlimit(0, r.resource, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil {
			return fmt.Errorf("cannot set limit %s to %d: %w", r.name, value, err)
		}
	}
	return nil
}

// Securebits, each locked: root's uid gives no capability, a change of uid
// changes none (keepCapabilities says exactly which remain), KEEP_CAPS stays off.
const securebits = secureNoRoot | secureNoRoot<<1 | secureNoSetuidFixup | secureNoSetuidFixup<<1 | secureKeepCaps<<1

const (
	secureNoRoot        = 1 << 0
	secureNoSetuidFixup = 1 << 2
	secureKeepCaps      = 1 << 4
)

func emptyBoundingSet(p *plan) error {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set securebits: %w", err)
	}
	// What is inheritable must be so before it leaves the bounding set.
	header, held := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capget(&header, &held[0]); err != nil {
		return err
	}
	held[0].Inheritable, held[1].Inheritable = p.capabilities(), 0
	if err := unix.Capset(&header, &held[0]); err != nil {
		return fmt.Errorf("cannot set inheritable capabilities: %w", err)
	}
	for c := uintptr(0); ; c++ {
		held, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, c, 0)
		if errno != 0 {
			return nil // past the last that this kernel knows
		}
		if held == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot drop capability %d: %w", c, err)
		}
	}
}

func (p *plan) capabilities() uint32 {
	if p.Spec.Raw {
		return 1 << unix.CAP_NET_RAW
	}
	return 0
}

// becomeSlot uses raw calls: Go's own change all threads, and only this one
// reaches exec.
func becomeSlot(p *plan) error {
	uid, gid := uintptr(p.Spec.UID), uintptr(p.Spec.GID)
	if uid == 0 || gid == 0 {
		return fmt.Errorf("a slot is not root: %w", unix.EINVAL)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot leave groups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("cannot take gid %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("cannot take uid %d: %w", uid, errno)
	}
	return nil
}

// keepCapabilities leaves permitted = effective = inheritable = ambient, the
// one grant or none. Ambient is what survives exec in a user without privilege.
func keepCapabilities(p *plan) error {
	caps := p.capabilities()
	data := [2]unix.CapUserData{{Effective: caps, Permitted: caps, Inheritable: caps}}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("cannot set capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot clear ambient capabilities: %w", err)
	}
	if caps == 0 {
		return nil
	}
	return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_RAW, 0, 0)
}

// dieWithLauncher asks for SIGKILL at the launcher's death. It may have died
// before: then nobody reads the status pipe. The parent's pid would not tell,
// it is 0 from inside a pid namespace.
func dieWithLauncher(*plan) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	fds := []unix.PollFd{{Fd: statusFD}}
	if _, err := unix.Poll(fds, 0); err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		return fmt.Errorf("the launcher is gone: %w", unix.ESRCH)
	}
	return nil
}

// closeRest gives the scanner the box's own /dev/null as input and has exec
// close everything beyond standard error, whoever opened it.
func closeRest(*plan) error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open /dev/null: %w", err)
	}
	if err := unix.Dup3(null, 0, 0); err != nil {
		return err
	}
	if err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	report(status{Ready: true})
	return nil
}

// defaultSignals undoes what survives exec of a careless parent: blocked
// signals and ignored ones. Go never touches 32 and its neighbours, and keeps
// SIGHUP and SIGINT ignored under nohup.
func defaultSignals(*plan) error {
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return fmt.Errorf("cannot unblock signals: %w", err)
	}
	type sigaction struct { // as the kernel has it, on every machine we build for
		handler, flags, restorer uintptr
		mask                     uint64
	}
	for n := uintptr(1); n <= 64; n++ {
		var now sigaction
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&now)), unsafe.Sizeof(now.mask), 0, 0); errno != 0 {
			return fmt.Errorf("cannot read signal %d: %w", n, errno)
		}
		if now.handler != 1 { // SIG_IGN
			continue // exec itself resets a handler
		}
		var def sigaction
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&def)), 0, unsafe.Sizeof(def.mask), 0, 0); errno != 0 {
			return fmt.Errorf("cannot reset signal %d: %w", n, errno)
		}
	}
	return nil
}

// loadFilter is last, so that the filter need allow nothing but the exec.
func loadFilter(p *plan) error {
	// struct sock_filter is eight bytes, in the order of this machine, as exported.
	n := len(p.Filter) / 8
	if n == 0 || n > unix.BPF_MAXINSNS {
		return fmt.Errorf("a filter of %d instructions: %w", n, unix.EINVAL)
	}
	program := unix.SockFprog{Len: uint16(n), Filter: (*unix.SockFilter)(unsafe.Pointer(&p.Filter[0]))}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return errno
	}
	return nil
}
