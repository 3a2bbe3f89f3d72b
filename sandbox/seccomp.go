package sandbox

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// A profile is what one kind of box may ask of the kernel. Anything it does
// not name answers ENOSYS, so that a libc that probes for something newer
// falls back; what no scanner ever has a reason to call (killed) ends the
// process, so that the attempt is seen.
type profile struct {
	raw     bool // CAP_NET_RAW
	network bool
	threads bool // clone, for threads alone
	calls   []string
	spared  []string // of killed: they answer ENOSYS here
	sockets []socketKind
	ioctls  []uint64
	options []socketOption
}

// socketKind is one allowed (family, type, protocol) of socket(2). The
// protocol is compared too: IPPROTO_MPTCP is a SOCK_STREAM of AF_INET.
type socketKind struct{ family, kind, protocol uint64 }

type socketOption struct{ level, name uint64 }

var profiles = map[string]profile{
	"nmap-raw": {
		raw: true, network: true,
		calls:   join(base, inet, nmapCalls),
		sockets: join(inetSockets, rawSockets, packetSockets, netlink),
		ioctls:  join(ttyIoctls, interfaceIoctls),
		options: join(plainOptions, rawOptions),
	},
	"nmap-connect": {
		network: true,
		calls:   join(base, inet, nmapCalls),
		sockets: join(inetSockets, netlinkRoute),
		ioctls:  join(ttyIoctls, interfaceIoctls),
		options: plainOptions,
	},
	"masscan": {
		raw: true, network: true, threads: true,
		calls:   join(base, inet, []string{"eventfd2", "getdents64"}),
		sockets: join(inetSockets, packetSockets, netlink),
		ioctls:  join(ttyIoctls, interfaceIoctls),
		options: join(plainOptions, rawOptions),
	},
	"gobuster": {
		network: true, threads: true,
		calls:   join(base, inet, goCalls),
		sockets: join(inetSockets, netlinkRoute),
		ioctls:  ttyIoctls,
		options: plainOptions,
	},
	// A scanner that an operator declares: a client of TCP and UDP, in whatever
	// language, without raw sockets and with threads.
	"declared": {
		network: true, threads: true,
		calls:   join(base, inet, goCalls, nmapCalls),
		sockets: join(inetSockets, netlinkRoute),
		ioctls:  ttyIoctls,
		options: plainOptions,
	},
	// One that is declared to need raw sockets.
	"declared-raw": {
		raw: true, network: true, threads: true,
		calls:   join(base, inet, goCalls, nmapCalls),
		sockets: join(inetSockets, rawSockets, packetSockets, netlink),
		ioctls:  join(ttyIoctls, interfaceIoctls),
		options: join(plainOptions, rawOptions),
	},
	// Our own binary. At its start libseccomp, which it links, asks what the
	// kernel can do; it is content with no answer.
	"resolver": {
		network: true, threads: true,
		calls:   join(base, inet, goCalls),
		spared:  []string{"seccomp"},
		sockets: inetSockets,
		ioctls:  ttyIoctls,
		options: plainOptions,
	},
	// Any scanner, asked for its version: it computes and prints.
	"version": {
		threads: true,
		calls:   join(base, goCalls),
		ioctls:  ttyIoctls,
	},
}

func boxNames() []string { return slices.Sorted(maps.Keys(profiles)) }

// base is what any program of this machine's libc needs, with the variants
// that other versions and other processors use for the same thing.
var base = []string{
	"access", "arch_prctl", "brk", "clock_gettime", "clock_nanosleep", "close", "exit", "exit_group",
	"faccessat", "faccessat2", "fstat", "futex", "getcwd", "getegid", "geteuid", "getgid", "getpgrp",
	"getpid", "getppid", "getrandom", "getrlimit", "getrusage", "gettid", "gettimeofday", "getuid", "lseek",
	"lstat", "madvise", "mmap", "mprotect", "mremap", "munmap", "nanosleep", "newfstatat", "open", "openat",
	"poll", "ppoll", "pread64", "read", "readlink", "readlinkat", "readv", "restart_syscall",
	"rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
	"set_robust_list", "set_tid_address", "sigaltstack", "stat", "statx", "sysinfo", "tgkill", "time",
	"umask", "uname", "write", "writev",
}

var inet = []string{"bind", "connect", "getpeername", "getsockname", "recvfrom", "recvmsg", "sendmsg", "sendto", "shutdown"}

var nmapCalls = []string{
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2",
	"getdents64", "pipe2", "pselect6", "select", "sendmmsg",
}

// goCalls is what the Go runtime adds, with and without cgo.
var goCalls = []string{
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "getdents64", "pipe2", "sendmmsg",
	"setitimer", "timer_create", "timer_delete", "timer_settime", "unlinkat",
}

var (
	inetSockets = []socketKind{
		{unix.AF_INET, unix.SOCK_STREAM, 0}, {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET, unix.SOCK_DGRAM, 0}, {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		{unix.AF_INET6, unix.SOCK_STREAM, 0}, {unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0}, {unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	}
	rawSockets = rawOver(unix.IPPROTO_RAW, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP)
	// A packet socket names its protocol in network order; any is the same grant.
	packetSockets = []socketKind{{unix.AF_PACKET, unix.SOCK_RAW, anyProtocol}}
	netlinkRoute  = []socketKind{
		{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, {unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_ROUTE},
	}
	netlink = join(netlinkRoute, []socketKind{{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC}})
)

const anyProtocol = ^uint64(0)

func rawOver(protocols ...uint64) (kinds []socketKind) {
	for _, p := range protocols {
		kinds = append(kinds, socketKind{unix.AF_INET, unix.SOCK_RAW, p}, socketKind{unix.AF_INET6, unix.SOCK_RAW, p})
	}
	return kinds
}

// TIOCSTI and TIOCLINUX are not here, and only the low 32 bits are compared,
// as the kernel compares them.
var ttyIoctls = []uint64{unix.TCGETS, unix.TIOCGPGRP, unix.TIOCGWINSZ, unix.TIOCINQ, fionbio}

const fionbio = 0x5421

var interfaceIoctls = []uint64{
	unix.SIOCGIFADDR, unix.SIOCGIFCONF, unix.SIOCGIFFLAGS, unix.SIOCGIFHWADDR, unix.SIOCGIFINDEX,
	unix.SIOCGIFMTU, unix.SIOCGIFNAME, unix.SIOCGIFNETMASK, unix.SIOCETHTOOL,
}

var plainOptions = []socketOption{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_BROADCAST}, {unix.SOL_SOCKET, unix.SO_SNDBUF},
	{unix.SOL_SOCKET, unix.SO_RCVBUF}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.SOL_SOCKET, unix.SO_LINGER},
	{unix.SOL_TCP, unix.TCP_NODELAY}, {unix.SOL_TCP, unix.TCP_KEEPIDLE}, {unix.SOL_TCP, unix.TCP_KEEPINTVL},
	{unix.SOL_TCP, unix.TCP_KEEPCNT}, {unix.SOL_TCP, unix.TCP_USER_TIMEOUT}, {unix.SOL_IPV6, unix.IPV6_V6ONLY},
}

// rawOptions leaves out, on purpose: SO_MARK (CAP_NET_RAW may set it since
// Linux 5.17), PACKET_TX_RING, PACKET_FANOUT, PACKET_QDISC_BYPASS (the kernel
// bugs behind packet sockets), SO_ATTACH_BPF, IP_TRANSPARENT, TCP_ULP.
var rawOptions = []socketOption{
	{unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, {unix.SOL_SOCKET, unix.SO_BINDTODEVICE},
	{unix.SOL_IP, unix.IP_HDRINCL}, {unix.SOL_IP, unix.IP_TTL}, {unix.SOL_IP, unix.IP_TOS},
	{unix.SOL_IP, unix.IP_RECVERR}, {unix.SOL_IP, unix.IP_MTU_DISCOVER},
	{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS}, {unix.SOL_IPV6, unix.IPV6_RECVERR},
	{unix.SOL_PACKET, unix.PACKET_RESERVE}, {unix.SOL_PACKET, unix.PACKET_AUXDATA}, {unix.SOL_PACKET, unix.PACKET_RX_RING},
	{unix.SOL_PACKET, unix.PACKET_VERSION}, {unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP},
}

// optionLevels of getsockopt: how a socket is, and its packet counters. Those of protocols are
// not plain reading: TCP's maps memory, IP's ask the machine's packet filter.
var optionLevels = []uint64{unix.SOL_SOCKET, unix.SOL_PACKET}

var prctls = []uint64{unix.PR_CAPBSET_READ, unix.PR_SET_NAME, unix.PR_SET_VMA}

// killed has no legitimate use in any scanner. execve is here because the one
// exec of a box is execveat on one descriptor.
var killed = []string{
	"acct", "add_key", "adjtimex", "bpf", "capset", "chroot", "clock_adjtime", "clock_settime", "delete_module",
	"execve", "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module",
	"io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load",
	"kexec_load", "keyctl", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
	"lookup_dcookie", "mbind", "memfd_secret", "migrate_pages", "mknod", "mknodat", "modify_ldt", "mount",
	"mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "open_by_handle_at", "open_tree",
	"perf_event_open", "personality", "pidfd_getfd", "pivot_root", "process_madvise", "process_vm_readv",
	"process_vm_writev", "ptrace", "quotactl", "reboot", "request_key", "seccomp", "set_mempolicy",
	"setdomainname", "setfsgid", "setfsuid", "setgid", "setgroups", "sethostname", "setns", "setregid",
	"setresgid", "setresuid", "setreuid", "settimeofday", "setuid", "swapoff", "swapon", "syslog", "umount2",
	"unshare", "userfaultfd", "vhangup", "vmsplice",
}

func (p profile) names() []string {
	return slices.Compact(slices.Sorted(slices.Values(p.calls)))
}

// threadFlags must all be set in a clone, and none of newNamespaces: what is
// left is a thread of this process. clone3 hides its flags in memory and
// answers ENOSYS; libc then falls back to clone.
const (
	threadFlags   = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
)

// int32Mask: the upper halves of int arguments are undefined on amd64 and the
// kernel ignores them; so do the rules.
const int32Mask = 0xffffffff

// filter builds the seccomp program of a profile. execFD is the one descriptor
// that may be executed.
func (p profile) filter(execFD int) (*seccomp.ScmpFilter, error) {
	f, err := seccomp.NewFilter(seccomp.ActErrno.SetReturnCode(int16(unix.ENOSYS)))
	if err != nil {
		return nil, err
	}
	// The other ways into the kernel (int 0x80, x32) see other tables: no scanner uses them.
	if err := f.SetBadArchAction(seccomp.ActKillProcess); err != nil {
		return nil, err
	}
	// A binary tree: the kernel checks the filter against every number when it is loaded. Older libraries do without.
	_ = f.SetOptimize(2)
	r := rules{filter: f}
	for _, name := range killed {
		if !slices.Contains(p.spared, name) {
			r.add(seccomp.ActKillProcess, name)
		}
	}
	for _, name := range p.names() {
		r.add(seccomp.ActAllow, name)
	}
	if p.threads {
		r.add(seccomp.ActAllow, "clone", masked(0, threadFlags|newNamespaces, threadFlags))
	}
	// Its own process group, where the kernel has no call for that alone (arm64).
	if number, err := seccomp.GetSyscallFromName("getpgrp"); err != nil || number < 0 {
		r.add(seccomp.ActAllow, "getpgid", equal(0, 0))
	}
	r.add(seccomp.ActAllow, "execveat", equal(0, uint64(execFD)), equal(4, unix.AT_EMPTY_PATH))
	r.addFcntl(execFD)
	// Its own limits: a box without a pid namespace would see others.
	r.add(seccomp.ActAllow, "prlimit64", equal(0, 0))
	for _, option := range prctls {
		r.add(seccomp.ActAllow, "prctl", equal(0, option))
	}
	for _, request := range p.ioctls {
		r.add(seccomp.ActAllow, "ioctl", equal(1, request))
	}
	for _, o := range p.options {
		r.add(seccomp.ActAllow, "setsockopt", equal(1, o.level), equal(2, o.name))
	}
	if p.network {
		for _, level := range optionLevels {
			r.add(seccomp.ActAllow, "getsockopt", equal(1, level))
		}
	}
	for _, s := range p.sockets {
		r.add(seccomp.ActAllow, "socket", s.conditions()...)
	}
	// libc asks for the name-service daemon by a Unix socket and takes this for "there is none".
	r.add(seccomp.ActErrno.SetReturnCode(int16(unix.EAFNOSUPPORT)), "socket", equal(0, unix.AF_UNIX))
	return f, r.err
}

func (s socketKind) conditions() []condition {
	c := []condition{equal(0, s.family), masked(1, int32Mask&^(unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK), s.kind)}
	if s.protocol != anyProtocol {
		c = append(c, equal(2, s.protocol))
	}
	return c
}

// addFcntl keeps standard output and error appending, whatever the scanner does: the front reads
// them as they grow. Their descriptors stay 1 and 2, since there is no dup of any kind, and there
// is no ftruncate. Nor is it told what others do with files (F_NOTIFY, F_SETLEASE), or chooses who
// gets which signal (F_SETOWN, F_SETSIG). Sockets are made non-blocking by the same call, so the descriptor decides.
func (r *rules) addFcntl(execFD int) {
	for _, command := range []uint64{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL} {
		r.add(seccomp.ActAllow, "fcntl", equal(1, command))
	}
	set := equal(1, unix.F_SETFL)
	r.add(seccomp.ActAllow, "fcntl", set, masked(2, unix.O_APPEND, unix.O_APPEND))
	for _, fd := range []uint64{0, 3} {
		r.add(seccomp.ActAllow, "fcntl", set, equal(0, fd))
	}
	// Above 3 some higher bit is set. "Greater" would look at the upper half, too. No descriptor of a
	// scanner reaches execFD, and each bit lengthens the filter, which the kernel translates for each box.
	for bit := 2; 1<<bit < execFD; bit++ {
		r.add(seccomp.ActAllow, "fcntl", set, masked(0, 1<<bit, 1<<bit))
	}
}

type condition struct {
	argument    uint
	mask, value uint64
}

func equal(argument uint, value uint64) condition {
	return condition{argument, int32Mask, value & int32Mask}
}

func masked(argument uint, mask, value uint64) condition { return condition{argument, mask, value} }

// rules adds rules until one fails.
type rules struct {
	filter *seccomp.ScmpFilter
	err    error
}

func (r *rules) add(action seccomp.ScmpAction, name string, conditions ...condition) {
	number, err := seccomp.GetSyscallFromName(name)
	if err != nil || number < 0 || r.err != nil {
		return // a name that this library does not know, or a call that this processor does not have, answers ENOSYS like any other
	}
	var conds []seccomp.ScmpCondition
	for _, c := range conditions {
		cond, err := seccomp.MakeCondition(c.argument, seccomp.CompareMaskedEqual, c.mask, c.value)
		if err != nil {
			r.err = fmt.Errorf("cannot compare argument %d of %s: %w", c.argument, name, err)
			return
		}
		conds = append(conds, cond)
	}
	if err := r.filter.AddRuleConditional(number, action, conds); err != nil {
		r.err = fmt.Errorf("cannot add rule for %s: %w", name, err)
	}
}

// program is the filter as the kernel loads it. The library can only export
// to a descriptor in the versions that are in use.
func (p profile) program(execFD int) ([]byte, error) {
	return p.export(execFD, (*seccomp.ScmpFilter).ExportBPF)
}

func (p profile) export(execFD int, export func(*seccomp.ScmpFilter, *os.File) error) ([]byte, error) {
	f, err := p.filter(execFD)
	if err != nil {
		return nil, fmt.Errorf("cannot build the system call filter: %w", err)
	}
	defer f.Release()
	mem, err := memFile("filter")
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	if err := export(f, mem); err != nil {
		return nil, fmt.Errorf("cannot export the system call filter: %w", err)
	}
	return io.ReadAll(io.NewSectionReader(mem, 0, 1<<20))
}

func memFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot create memory file: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func join[T any](lists ...[]T) []T { return slices.Concat(lists...) }
