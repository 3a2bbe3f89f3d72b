/*
 * In the child of a clone with CLONE_VM and CLONE_VFORK: it has the launcher's memory, a copy of
 * its descriptors and the stack below the frame of the thread that waits. So it calls the kernel
 * and nothing else: no allocation, no lock, no stdio, and none of libc's wrappers that do more
 * than the call (setuid and its like change all threads). errno is that of the waiting thread.
 *
 * The order of the steps is the security of it: what needs privilege comes first, what takes
 * privilege away next, what takes system calls away last.
 */
#define _GNU_SOURCE
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failed(struct box *b, const char *what, const char *object)
{
	b->what = what;
	b->object = object;
	return -1;
}

/*
 * Where the memory runs out, of the machine or of all scans together, the kernel takes scanners first, of whatever size:
 * not the launcher, whose end is that of every scan. Before anything else: the launcher's /proc is not kept. A child of
 * vfork changes this of itself alone. Without root it may not be asked for.
 */
static int out_of_memory(struct box *b)
{
	int fd = openat(b->proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == EACCES && syscall(SYS_geteuid) != 0)
		return 0;
	if (fd < 0 || syscall(SYS_write, fd, "1000", 4) != 4)
		return failed(b, "write", "/proc/self/oom_score_adj");
	close(fd);
	return 0;
}

/*
 * The copies of descriptors that are not ours go first: one of a file that another launch is
 * writing would keep it from making its mount read-only.
 */
static int begin(struct box *b)
{
	unsigned from = 3;
	for (int i = 0; i <= b->keep_count; i++) {
		unsigned kept = i < b->keep_count ? (unsigned)b->keep[i] : ~0U;
		if (kept > from && syscall(SYS_close_range, from, kept - (i < b->keep_count), 0U) < 0)
			return failed(b, "close descriptors", "");
		if (kept >= from)
			from = kept + 1;
	}
	if (syscall(SYS_setsid) < 0)
		return failed(b, "start a session", "");
	/* For the way to "death signal", which has to ask again. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return failed(b, "ask for the death signal", "");
	return 0;
}

/* While we may still enter a namespace that is not ours. */
static int network(struct box *b)
{
	if (b->network < 0)
		return 0; /* the clone made an empty one */
	if (syscall(SYS_setns, b->network, CLONE_NEWNET) < 0)
		return failed(b, "join the network", "");
	return 0;
}

/* From inside the leaf, so that its own cgroup is the root the scanner sees. */
static int cgroup_namespace(struct box *b)
{
	if (syscall(SYS_unshare, CLONE_NEWCGROUP) < 0)
		return failed(b, "leave the cgroup namespace", "");
	return 0;
}

/* The launcher's session keyring would otherwise stay in reach. */
static int keyring(struct box *b)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return failed(b, "get a keyring", ""); /* a kernel without keys has none to leave behind */
	return 0;
}

/* What the template cannot hold: /proc is that of whoever mounts it, the rest is the job's. */
static int root(struct box *b)
{
	if (syscall(SYS_mount, "proc", "/proc/.p", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "hidepid=invisible,subset=pid") < 0)
		return failed(b, "mount /proc", "");
	for (int i = 0; i < b->mount_count; i++)
		if (syscall(SYS_move_mount, b->mounts[i].fd, "", AT_FDCWD, b->mounts[i].target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
			return failed(b, "mount", b->mounts[i].target);
	return 0;
}

/* Without a root of its own it may look at itself and at no other process. */
static int own_process(struct box *b)
{
	if (b->own_rights == 0)
		return 0;
	int self = open("/proc/self", O_PATH | O_CLOEXEC);
	if (self < 0)
		return failed(b, "open /proc/self", "");
	struct landlock_path_beneath_attr rule = {.allowed_access = b->own_rights, .parent_fd = self};
	long r = syscall(SYS_landlock_add_rule, b->ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	if (r < 0)
		return failed(b, "allow /proc/self", "");
	close(self);
	return 0;
}

/* Away from the launcher's directory; a relative name must find nothing. */
static int working_directory(struct box *b)
{
	syscall(SYS_umask, 077);
	if (syscall(SYS_chdir, b->directory) < 0)
		return failed(b, "go to", b->directory);
	return 0;
}

static int host_name(struct box *b)
{
	size_t n = 0;
	while (b->host_name[n])
		n++;
	if (syscall(SYS_setdomainname, "", 0) < 0 || syscall(SYS_sethostname, b->host_name, n) < 0)
		return failed(b, "set the host name", "");
	return 0;
}

/* A descriptor that is still needed and has the number of the scanner's gets one beyond it. */
static int out_of_the_way(struct box *b, int *fd)
{
	if (*fd != b->exec_fd)
		return 0;
	*fd = fcntl(*fd, F_DUPFD_CLOEXEC, b->exec_fd + 1);
	return *fd < 0 ? -1 : 0;
}

/*
 * Inside the finished root, so that what is found there must be what was hashed. The number is
 * the limit of open files: exec closes it, and nobody can make it again.
 */
static int scanner(struct box *b)
{
	int fd = b->exe;
	struct rlimit old, raised;
	if (b->scanner) {
		struct stat found, checked;
		fd = open(b->scanner, O_PATH | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 || fstat(fd, &found) < 0 || fstat(b->exe, &checked) < 0)
			return failed(b, "open", b->scanner);
		if (found.st_dev != checked.st_dev || found.st_ino != checked.st_ino) {
			errno = ESTALE;
			return failed(b, "use what is not the file that was checked:", b->scanner);
		}
	}
	if (getrlimit(RLIMIT_NOFILE, &old) < 0)
		return failed(b, "read the limit of open files", "");
	/* Room for the number itself and for those in its way. */
	raised.rlim_cur = (rlim_t)b->exec_fd + 32;
	raised.rlim_max = old.rlim_max > raised.rlim_cur ? old.rlim_max : raised.rlim_cur;
	if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &raised, NULL) < 0)
		return failed(b, "raise the limit of open files", "");
	int *needed[] = {&fd, &b->ruleset, &b->launcher, &b->standard_output, &b->standard_error};
	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
		if (out_of_the_way(b, needed[i]) < 0)
			return failed(b, "move a descriptor", "");
	if (dup3(fd, b->exec_fd, O_CLOEXEC) < 0)
		return failed(b, "give the scanner its number", "");
	raised.rlim_cur = raised.rlim_max = (rlim_t)b->exec_fd;
	if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &raised, NULL) < 0)
		return failed(b, "limit open files", "");
	return 0;
}

static int limits(struct box *b)
{
	for (int i = 0; i < b->limit_count; i++) {
		const struct box_limit *l = &b->limits[i];
		struct rlimit old, now;
		if (syscall(SYS_prlimit64, 0, l->resource, NULL, &old) < 0)
			return failed(b, "read limit", l->name);
		now.rlim_cur = now.rlim_max = l->exact || l->value < old.rlim_max ? l->value : old.rlim_max;
		if (syscall(SYS_prlimit64, 0, l->resource, &now, NULL) < 0)
			return failed(b, "set limit", l->name);
	}
	return 0;
}

/*
 * Securebits, each locked: root's uid gives no capability, a change of uid changes none
 * ("capabilities" says exactly which remain), KEEP_CAPS stays off. What is to be inheritable must
 * be so before it leaves the bounding set, and that before SETPCAP is lost.
 */
static int bounding_set(struct box *b)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct held[2];
	if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED, 0, 0, 0) < 0)
		return failed(b, "set securebits", "");
	if (syscall(SYS_capget, &header, held) < 0)
		return failed(b, "read capabilities", "");
	held[0].inheritable = b->capabilities;
	held[1].inheritable = 0;
	if (syscall(SYS_capset, &header, held) < 0)
		return failed(b, "set inheritable capabilities", "");
	for (unsigned long c = 0;; c++) {
		int in = prctl(PR_CAPBSET_READ, c, 0, 0, 0);
		if (in < 0)
			return 0; /* past the last that this kernel knows */
		if (in && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
			return failed(b, "drop a capability for good", "");
	}
}

/* Groups and gid before uid. */
static int user(struct box *b)
{
	if (b->uid == 0 || b->gid == 0) {
		errno = EINVAL;
		return failed(b, "run as root: a slot is not root", "");
	}
	if (syscall(SYS_setgroups, 0, NULL) < 0)
		return failed(b, "leave groups", "");
	if (syscall(SYS_setresgid, b->gid, b->gid, b->gid) < 0)
		return failed(b, "take the slot's gid", "");
	if (syscall(SYS_setresuid, b->uid, b->uid, b->uid) < 0)
		return failed(b, "take the slot's uid", "");
	return 0;
}

/* Permitted, effective, inheritable and ambient: the one grant or none. Ambient survives exec. */
static int capabilities(struct box *b)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{.effective = b->capabilities, .permitted = b->capabilities, .inheritable = b->capabilities}};
	if (syscall(SYS_capset, &header, data) < 0)
		return failed(b, "set capabilities", "");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return failed(b, "clear ambient capabilities", "");
	for (unsigned long c = 0; c < 32; c++)
		if (b->capabilities & (1u << c) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) < 0)
			return failed(b, "keep a capability", "");
	return 0;
}

/* Landlock and seccomp ask it of whoever has no privilege left. */
static int no_new_privileges(struct box *b)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return failed(b, "renounce new privileges", "");
	return 0;
}

/*
 * Changing credentials cleared it. The launcher may have died before: the parent's pid would not
 * tell, it is 0 from inside a pid namespace.
 */
static int launcher_lives(struct box *b)
{
	struct pollfd launcher = {.fd = b->launcher, .events = POLLIN};
	struct timespec now = {0, 0};
	if (syscall(SYS_ppoll, &launcher, 1, &now, NULL, 0) == 0)
		return 0;
	errno = ESRCH;
	return failed(b, "go on: the launcher is gone", "");
}

static int death_signal(struct box *b)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return failed(b, "ask for the death signal", "");
	return launcher_lives(b);
}

/* Before seccomp, whose filter kills landlock_*. */
static int landlock(struct box *b)
{
	if (syscall(SYS_landlock_restrict_self, b->ruleset, 0) < 0)
		return failed(b, "restrict itself", "");
	return 0;
}

/*
 * What survives the exec of a careless parent: ignored signals (CLONE_CLEAR_SIGHAND leaves those)
 * and blocked ones. Handlers first, since the launcher's must not run here.
 */
static int signals(struct box *b)
{
	struct { /* as the kernel has it, on the machines that we build for */
		void (*handler)(int);
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} now, standard = {.handler = SIG_DFL};
	for (int n = 1; n <= 64; n++) {
		if (n == SIGKILL || n == SIGSTOP)
			continue;
		if (syscall(SYS_rt_sigaction, n, NULL, &now, 8) < 0)
			return failed(b, "read the handling of a signal", "");
		if (now.handler != SIG_DFL && syscall(SYS_rt_sigaction, n, &standard, NULL, 8) < 0)
			return failed(b, "reset the handling of a signal", "");
	}
	uint64_t none = 0;
	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8) < 0)
		return failed(b, "unblock signals", "");
	return 0;
}

/*
 * Nearly last: nothing above may leave a file open. The input is opened behind Landlock, which
 * goes with a descriptor; exec closes everything beyond standard error, whoever opened it.
 */
static int descriptors(struct box *b)
{
	/* Once more: while a launcher dies, there is a moment when its thread is gone and it is not. */
	if (launcher_lives(b) < 0)
		return -1;
	close(0);
	if (open("/dev/null", O_RDONLY) != 0)
		return failed(b, "open /dev/null", "");
	if (dup3(b->standard_output, 1, 0) < 0 || dup3(b->standard_error, 2, 0) < 0)
		return failed(b, "give the scanner its output", "");
	if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) < 0)
		return failed(b, "close descriptors", "");
	return 0;
}

/* Last, so that the filter need allow nothing but the exec. */
static int filter(struct box *b)
{
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &b->filter) < 0)
		return failed(b, "load the filter", "");
	return 0;
}

static int execute(struct box *b)
{
	syscall(SYS_execveat, b->exec_fd, "", b->argv, b->environment, AT_EMPTY_PATH);
	return failed(b, "execute the scanner", "");
}

static const struct {
	const char *stage;
	int (*go)(struct box *);
} steps[] = {
	{"out of memory", out_of_memory},
	{"begin", begin},
	{"network", network},
	{"cgroup namespace", cgroup_namespace},
	{"keyring", keyring},
	{"root", root},
	{"own process", own_process},
	{"working directory", working_directory},
	{"host name", host_name},
	{"scanner", scanner},
	{"limits", limits},
	{"bounding set", bounding_set},
	{"user", user},
	{"capabilities", capabilities},
	{"no new privileges", no_new_privileges},
	{"death signal", death_signal},
	{"landlock", landlock},
	{"signals", signals},
	{"descriptors", descriptors},
	{"seccomp", filter},
	{"exec", execute},
};

static const int count = sizeof steps / sizeof *steps;
_Static_assert(sizeof steps / sizeof *steps == BOX_STEPS, "BOX_STEPS is their number");

const char *box_stage(int step)
{
	return step < count ? steps[step].stage : NULL;
}

static _Noreturn void walk(struct box *b)
{
	for (int i = 0; i < count; i++) {
		if (b->skip[i])
			continue;
		b->step = i;
		if (b->pause == i) {
			struct pollfd launcher = {.fd = b->launcher, .events = POLLIN};
			syscall(SYS_ppoll, &launcher, 1, NULL, NULL, 0);
		}
		errno = EIO;
		if (b->fault == i ? failed(b, "do it: a test wants it so", "") : steps[i].go(b)) {
			b->error = errno;
			break;
		}
	}
	for (;;)
		syscall(SYS_exit_group, 125);
}

/*
 * The two calls by hand: libc's clone has no CLONE_INTO_CGROUP, and its syscall() returns through
 * a frame that the child would have overwritten by then. The child goes on below this frame,
 * whose thread sleeps until the child has executed or is gone.
 */
#if defined(__x86_64__)
static inline __attribute__((always_inline)) long call5(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}
#elif defined(__aarch64__)
static inline __attribute__((always_inline)) long call5(long number, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory", "cc");
	return x0;
}
#else
#error "no way to clone on this processor"
#endif

static __attribute__((noinline)) void spawn(struct box *b)
{
	const uint64_t always = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
	struct clone_args a = {.flags = always | CLONE_CLEAR_SIGHAND | b->namespaces, .pidfd = (uintptr_t)&b->pidfd, .exit_signal = SIGCHLD};
	if (b->cgroup >= 0) {
		a.flags |= CLONE_INTO_CGROUP;
		a.cgroup = (uint64_t)b->cgroup;
	}
	long r;
	if (b->old_clone)
		r = call5(SYS_clone, (long)(always | b->namespaces | SIGCHLD), 0, (long)&b->pidfd, 0, 0);
	else
		r = call5(SYS_clone3, (long)&a, sizeof a, 0, 0, 0);
	if (r == 0)
		walk(b);
	b->pid = (int)r;
	if (r < 0) {
		b->pid = -1;
		b->error = (int)-r;
	}
}

void box_launch(struct box *b)
{
	/* A handler of the launcher's would run in the child, on its memory. Every signal, also those that libc keeps back. */
	uint64_t all = ~UINT64_C(0), before;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
	spawn(b);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
}
