// probe is a hostile scanner. It tries one thing and prints the errno that the
// kernel answered, or 0 when it got through. It is built by the tests, and
// runs in a box as any scanner does. In nmap's place, with a command line that
// is the runner's, the port that it is to scan says which rows of probes.txt it
// tries: 1 all that are not deadly, 1000+N the Nth alone.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

__asm__(".section .rodata\nprobes: .incbin \"probes.txt\"\n.byte 0\n.text");
extern const char probes[];

static const char *outcome(long r) { return r < 0 ? strerrorname_np(errno) : "0"; }

static void cat(const char *name) {
	char buf[65536];
	int fd = open(name, O_RDONLY);
	if (fd < 0) {
		printf("%s: errno %d\n", name, errno);
		return;
	}
	int n = read(fd, buf, sizeof buf - 1);
	close(fd);
	buf[n < 0 ? 0 : n] = 0;
	for (char *line = strtok(buf, "\n"); line; line = strtok(NULL, "\n"))
		printf("%s: %s\n", name, line);
}

static void list(const char *name) {
	DIR *d = opendir(name);
	if (!d) {
		printf("ls %s: errno %d\n", name, errno);
		return;
	}
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			printf("ls %s: %s\n", name, e->d_name);
	closedir(d);
}

static void limit(const char *name, int which) {
	struct rlimit r;
	getrlimit(which, &r);
	printf("limit %s: %llu %llu\n", name, (unsigned long long)r.rlim_cur, (unsigned long long)r.rlim_max);
}

// report prints what the box looks like from inside.
static int report(int argc, char **argv) {
	char cwd[4096], host[256];
	for (int i = 0; i < argc; i++)
		printf("argv: %s\n", argv[i]);
	for (char **e = environ; *e; e++)
		printf("env: %s\n", *e);
	printf("pid: %d\nppid: %d\nuid: %d %d\ngid: %d %d\n", getpid(), getppid(), getuid(), geteuid(), getgid(), getegid());
	printf("cwd: %s\n", getcwd(cwd, sizeof cwd) ? cwd : "none");
	gethostname(host, sizeof host);
	printf("host: %s\n", host);
	printf("umask: %03o\n", umask(0));
	for (int fd = 0; fd < 1100; fd++)
		if (fcntl(fd, F_GETFD) >= 0) {
			char path[64], target[4096];
			snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
			int n = readlink(path, target, sizeof target - 1);
			target[n < 0 ? 0 : n] = 0;
			printf("fd: %d %s\n", fd, target);
		}
	const char *ns[] = {"mnt", "pid", "ipc", "uts", "net", "cgroup", "user"};
	for (int i = 0; i < 7; i++) {
		char path[64], target[256];
		snprintf(path, sizeof path, "/proc/self/ns/%s", ns[i]);
		int n = readlink(path, target, sizeof target - 1);
		target[n < 0 ? 0 : n] = 0;
		printf("ns: %s\n", target);
	}
	limit("core", RLIMIT_CORE), limit("nofile", RLIMIT_NOFILE), limit("fsize", RLIMIT_FSIZE), limit("nproc", RLIMIT_NPROC);
	limit("memlock", RLIMIT_MEMLOCK), limit("data", RLIMIT_DATA), limit("msgqueue", RLIMIT_MSGQUEUE), limit("cpu", RLIMIT_CPU);
	limit("rtprio", RLIMIT_RTPRIO), limit("nice", RLIMIT_NICE), limit("sigpending", RLIMIT_SIGPENDING);
	cat("/proc/self/status"), cat("/proc/self/oom_score_adj"), cat("/proc/self/cgroup"), cat("/proc/self/mountinfo"), cat("/proc/net/dev");
	cat("/etc/hosts"), cat("/etc/resolv.conf"), cat("/etc/passwd");
	list("/"), list("/proc"), list("/proc/.p"), list("/dev"), list("/etc"), list("/tmp"), list("/in"), list(".");
	return 0;
}

static long reading(const char *name) { return open(name, O_RDONLY); }
static long writing(const char *name) { return open(name, O_WRONLY); }
static long creating(const char *name) { return open(name, O_WRONLY | O_CREAT, 0700); }

static long sock(int family, int type, int protocol) { return socket(family, type, protocol); }

static long option(int family, int type, int protocol, int level, int name) {
	static char value[256];
	int fd = socket(family, type, protocol);
	if (fd < 0)
		return -1;
	return setsockopt(fd, level, name, value, 4);
}

static void *sleeper(void *unused) { for (;;) sleep(1000); return unused; }

static long threads(void) {
	pthread_attr_t a;
	pthread_attr_init(&a);
	pthread_attr_setstacksize(&a, 16384);
	for (int i = 0; i < 2000; i++) {
		pthread_t t;
		errno = pthread_create(&t, &a, sleeper, NULL);
		if (errno) {
			fprintf(stderr, "%d threads\n", i);
			return -1;
		}
	}
	return 0;
}

static long memory(void) {
	for (int i = 0; i < 4096; i++) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED) {
			fprintf(stderr, "%d MiB\n", i);
			return -1;
		}
		memset(p, 1, 1 << 20);
	}
	return 0;
}

static long fill(const char *name) {
	static char block[65536];
	int fd = creating(name);
	if (fd < 0)
		return -1;
	for (int i = 0; i < 16384; i++)
		if (write(fd, block, sizeof block) < 0)
			return -1;
	return 0;
}

static long inodes(void) {
	for (int i = 0; i < 100000; i++) {
		char name[64];
		snprintf(name, sizeof name, "/tmp/%d", i);
		int fd = creating(name);
		if (fd < 0)
			return -1;
		close(fd);
	}
	return 0;
}

static long descriptors(void) {
	for (int i = 0; i < 100000; i++)
		if (open("/dev/null", O_RDONLY) < 0)
			return -1;
	return 0;
}

static long raise_limit(int which, rlim_t value) {
	struct rlimit r = {value, value};
	return setrlimit(which, &r);
}

static long stack_clone(unsigned long flags) { return syscall(SYS_clone, flags, 0, 0, 0, 0); }

static long exec_other(int number) {
	char *av[] = {"true", NULL}, *ev[] = {NULL};
	int fd = open("/usr/bin/true", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (number && fcntl(fd, F_DUPFD, number) < 0))
		return -1;
	return syscall(SYS_execveat, number ? number : fd, "", av, ev, AT_EMPTY_PATH);
}

// scanner_number is that of the descriptor that may be executed, once: the limit of open files.
static int scanner_number(void) {
	struct rlimit r;
	getrlimit(RLIMIT_NOFILE, &r);
	return (int)r.rlim_cur;
}

static long exec_path(const char *name) {
	char *av[] = {"x", NULL}, *ev[] = {NULL};
	return execve(name, av, ev);
}

// written does as a scanner that was taken over would: bring a program and run it.
static long exec_written(void) {
	int fd = creating("/tmp/x");
	if (fd < 0)
		return -1;
	write(fd, "#!/usr/bin/true\n", 16);
	close(fd);
	return exec_path("/tmp/x");
}

static long int80(void) {
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); // getpid
	return r;
}

static long inet_connect(const char *ip, int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	errno = fd < 0 ? errno : 0;
	inet_aton(ip, &a.sin_addr);
	if (fd < 0)
		return -1;
	struct pollfd done = {.fd = fd, .events = POLLOUT};
	socklen_t n = sizeof errno;
	if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno != EINPROGRESS)
		return errno ? -1 : 0;
	if (poll(&done, 1, 700) == 0)
		errno = ETIMEDOUT;
	else
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &errno, &n);
	return errno ? -1 : 0;
}

// outside opens what lies beyond the root by a descriptor of it.
static long outside(const char *name) {
	int root = open("/proc/self/root", O_PATH);
	return root < 0 ? -1 : openat(root, name, O_RDONLY);
}

static socklen_t unix_name(struct sockaddr_un *a, const char *name) { // '@' begins an abstract name
	a->sun_family = AF_UNIX;
	int n = snprintf(a->sun_path, sizeof a->sun_path, "%s", name);
	if (*name == '@')
		a->sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + n + (*name != '@');
}

static long unix_connect(const char *name) {
	struct sockaddr_un a = {};
	socklen_t n = unix_name(&a, name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&a, n);
}

// listening waits for others at a name, or at port 4747.
static long listening(int family, const char *name) {
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(4747)};
	struct sockaddr_un un = {};
	socklen_t n = family == AF_UNIX ? unix_name(&un, name) : sizeof in;
	int fd = socket(family, SOCK_STREAM, 0);
	return fd < 0 || bind(fd, family == AF_UNIX ? (struct sockaddr *)&un : (struct sockaddr *)&in, n) < 0 ? -1 : listen(fd, 1);
}

static long datagram(const char *ip, int port, int flags) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	inet_aton(ip, &a.sin_addr);
	return fd < 0 ? -1 : sendto(fd, "x", 1, flags, (struct sockaddr *)&a, sizeof a);
}

// marked sends a datagram that asks for a mark of its own.
static long marked(const char *ip, int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = {};
	struct iovec text = {"x", 1};
	struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &text, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	control.header.cmsg_len = CMSG_LEN(sizeof(int)), control.header.cmsg_level = SOL_SOCKET, control.header.cmsg_type = 36; // SO_MARK
	*(int *)CMSG_DATA(&control.header) = 1;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	inet_aton(ip, &a.sin_addr);
	return fd < 0 ? -1 : sendmsg(fd, &m, 0);
}

// ring takes memory of the kernel for packets, in MiB, and returns its socket.
static long ring(unsigned size) {
	struct tpacket_req r = {.tp_block_size = 1 << 20, .tp_block_nr = size, .tp_frame_size = 2048, .tp_frame_nr = 512 * size};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r, sizeof r) == 0)
		return fd;
	int why = errno;
	close(fd);
	errno = why;
	return -1;
}

// rings keeps many: each lives by a page of its mapping when its descriptor is gone.
static long rings(int many) {
	for (int i = 0; i < many; i++) {
		int fd = ring(1);
		if (fd < 0)
			return -1;
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED || munmap(p + 4096, (1 << 20) - 4096) < 0)
			return -1;
		close(fd);
	}
	return 0;
}

// listed puts an address into the list of a packet socket, which has no end.
static long listed(int interface, int type, int length) {
	struct packet_mreq r = {.mr_ifindex = interface, .mr_type = type, .mr_alen = length, .mr_address = {1, 0, 0x5e, 1, 2, 3}};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	return fd < 0 ? -1 : setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &r, sizeof r);
}

static long bound(int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return fd < 0 ? -1 : bind(fd, (struct sockaddr *)&a, sizeof a);
}

// interface tries to listen on an interface by its number: those of the machine have some, too.
static long interface(int number) {
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(3), .sll_ifindex = number};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	return fd < 0 ? -1 : bind(fd, (struct sockaddr *)&a, sizeof a);
}

static long got(int level, int name) {
	static char value[4096];
	socklen_t n = sizeof value;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return fd < 0 ? -1 : getsockopt(fd, level, name, value, &n);
}

// change_network asks the kernel for a change of the network: what is 16 an interface, 20 an address, 24 a route.
static long change_network(int what) {
	struct {
		struct nlmsghdr h;
		char body[64];
	} m = {.h = {.nlmsg_len = sizeof m.h + (what == 24 ? 12 : what == 20 ? 8 : 16), .nlmsg_type = what, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE}};
	m.body[0] = AF_INET;
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char rest[256];
	} r;
	int fd = socket(AF_NETLINK, SOCK_RAW, 0);
	if (fd < 0 || send(fd, &m, m.h.nlmsg_len, 0) < 0 || recv(fd, &r, sizeof r, 0) < 0)
		return -1;
	errno = -r.e.error;
	return errno ? -1 : 0;
}

static long interface_ioctl(unsigned long request, unsigned command) {
	struct {
		unsigned command, value;
	} e = {command, 1};
	struct ifreq r = {.ifr_name = "lo"};
	r.ifr_data = (void *)&e;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	return fd < 0 ? -1 : ioctl(fd, request, &r);
}

static long file_ioctl(const char *name, unsigned long request) {
	static char value[64];
	int fd = creating(name);
	return fd < 0 ? -1 : ioctl(fd, request, value);
}

// control does with fcntl what has a system call of its own, or nothing to do with scanning.
static long control(const char *name, int flags, int command, long value) {
	int fd = open(name, flags, 0600);
	return fd < 0 ? -1 : fcntl(fd, command, value);
}

// executable brings code in a file and maps it, at once or in two steps.
static long executable(const char *name, int how) {
	static char page[4096];
	int fd = open(name, O_RDWR | O_CREAT, 0700);
	if (fd < 0 || write(fd, page, sizeof page) < 0)
		return -1;
	void *p = mmap(NULL, sizeof page, how ? PROT_READ : PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	return p == MAP_FAILED ? -1 : how ? mprotect(p, sizeof page, PROT_READ | PROT_EXEC) : 0;
}

static long limit_of(int pid) {
	struct rlimit r = {16, 16};
	return prlimit(pid, RLIMIT_SIGPENDING, &r, NULL);
}

static long resolved(const char *name, unsigned long long how) {
	unsigned long long a[3] = {O_RDONLY, 0, how};
	return syscall(437, AT_FDCWD, name, a, sizeof a);
}

#define TRY(probe, call) if (!strcmp(name, probe)) return outcome(call)

// try is what there is to try, by name. NULL: there is none of that name.
static const char *try(int argc, char **argv) {
	static char buf[4096];
	static int fds[2];
	const char *name = argv[1], *what = argc > 2 ? argv[2] : "";
	long number = atol(what);
	// files
	TRY("read", reading(what));
	TRY("write", writing(what));
	TRY("create", creating(what));
	TRY("mkdir", mkdir(what, 0777));
	TRY("chmod", chmod(what, 04755));
	TRY("chmod-created", (creating("/tmp/s"), chmod("/tmp/s", 04755)));
	TRY("link", link("/usr/bin/true", "/tmp/l"));
	TRY("symlink", symlink("/etc/shadow", "/tmp/l"));
	TRY("mkfifo", mkfifo("/tmp/f", 0600));
	TRY("mknod", mknod("/tmp/b", S_IFBLK | 0600, 0));
	TRY("unlink", unlink(what));
	TRY("rename", rename(what, "/tmp/y"));
	TRY("truncate", truncate(what, 0));
	TRY("inotify", syscall(SYS_inotify_init1, 0));
	TRY("name-to-handle", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", buf, buf + 64, 0));
	TRY("open-by-handle", syscall(SYS_open_by_handle_at, AT_FDCWD, buf, 0));
	TRY("outside", outside(what));
	TRY("openat2", resolved(what, 0x10)); // RESOLVE_IN_ROOT
	TRY("fchmod", fchmod(creating("/tmp/s"), 06755));
	TRY("fchmodat2", syscall(452, AT_FDCWD, "/tmp", 06755, 0));
	TRY("setxattr", syscall(SYS_setxattr, "/tmp", "security.capability", buf, 20, 0));
	TRY("tmpfile", open(what, O_TMPFILE | O_WRONLY, 0700));
	TRY("linkat", linkat(open("/tmp", O_TMPFILE | O_WRONLY, 0600), "", AT_FDCWD, "/tmp/l", AT_EMPTY_PATH));
	TRY("dnotify", control(what, O_RDONLY | O_DIRECTORY, F_NOTIFY, DN_MODIFY | DN_ACCESS | DN_MULTISHOT));
	TRY("lease", control("/tmp/s", O_RDONLY | O_CREAT, F_SETLEASE, F_RDLCK));
	TRY("lock-watch", control("/tmp/s", O_RDWR | O_CREAT, F_GETLK, (long)buf));
	TRY("signal-owner", fcntl(1, F_SETOWN, 2));
	TRY("signal-choice", fcntl(1, F_SETSIG, SIGKILL));
	TRY("seal", fcntl(1, 1033, 1));
	TRY("ftruncate", ftruncate((int)number, 0));
	TRY("dup", dup(1));
	TRY("dup-above", fcntl(1, F_DUPFD, 10));
	TRY("dup-cloexec", fcntl(1, F_DUPFD_CLOEXEC, 10));
	TRY("no-append", fcntl((int)number, F_SETFL, 0));
	TRY("no-append-high", syscall(SYS_fcntl, 0xdead00000001UL, F_SETFL, O_NONBLOCK));
	TRY("append", fcntl(1, F_SETFL, O_APPEND | O_NONBLOCK));
	TRY("non-blocking", fcntl(socket(AF_INET, SOCK_STREAM, 0), F_SETFL, O_RDWR | O_NONBLOCK));
	TRY("immutable", file_ioctl("/tmp/s", 0x40086602));
	TRY("clone-range", file_ioctl("/tmp/s", 0x40049409));
	TRY("sendfile", syscall(SYS_sendfile, 1, 0, NULL, 1));
	TRY("splice", syscall(SYS_splice, 0, NULL, 1, NULL, 1, 0));
	TRY("copy-range", syscall(SYS_copy_file_range, 0, NULL, 1, NULL, 1, 0));
	TRY("map-output", (long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 1, 0));
	TRY("map-output-written", (long)mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, 1, 0));
	TRY("pwrite", syscall(SYS_pwrite64, 1, "", 0, 0));
	TRY("pwritev", syscall(SYS_pwritev, 1, NULL, 0, 0, 0));
	TRY("pwrite-anywhere", syscall(SYS_pwritev2, 1, NULL, 0, 0, 0, 0x20)); // RWF_NOAPPEND
	TRY("grow", fallocate(1, FALLOC_FL_KEEP_SIZE, 0, 1));
	TRY("punch", fallocate(1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 30, 1));
	TRY("link-output", linkat(AT_FDCWD, "/proc/self/fd/1", AT_FDCWD, "/tmp/l", AT_SYMLINK_FOLLOW));
	TRY("chdir", chdir("/tmp"));
	TRY("cachestat", syscall(451, 0, buf, buf + 64, 0));
	TRY("statmount", syscall(457, buf, buf, 64, 0));
	TRY("listmount", syscall(458, buf, buf, 8, 0));
	TRY("execute-file", executable("/tmp/x", 0));
	TRY("execute-later", executable("/tmp/x", 1));
	// kernel
	TRY("bpf", syscall(SYS_bpf, 0, buf, 64));
	TRY("perf", syscall(SYS_perf_event_open, buf, 0, -1, -1, 0));
	TRY("io-uring", syscall(SYS_io_uring_setup, 1, buf));
	TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
	TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0));
	TRY("add-key", syscall(SYS_add_key, "user", "x", "x", 1, -2));
	TRY("request-key", syscall(SYS_request_key, "user", "secmcpd-test", 0, 0));
	TRY("init-module", syscall(SYS_init_module, buf, 1, ""));
	TRY("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
	TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
	TRY("clock-settime", syscall(SYS_clock_settime, 0, NULL));
	TRY("sethostname", sethostname("x", 1));
	TRY("personality", syscall(SYS_personality, 0x0040000));
	TRY("iopl", syscall(SYS_iopl, 3));
	TRY("modify-ldt", syscall(SYS_modify_ldt, 0, buf, 16));
	TRY("fanotify", syscall(SYS_fanotify_init, 0, 0));
	TRY("swapon", syscall(SYS_swapon, "/x", 0));
	TRY("syslog", syscall(SYS_syslog, 10, 0, 0));
	TRY("x32", syscall(0x40000000 | 39));
	TRY("int80", int80());
	TRY("unknown", syscall(4000));
	TRY("io-uring-enter", syscall(SYS_io_uring_enter, 0, 0, 0, 0, 0, 0));
	TRY("io-uring-register", syscall(SYS_io_uring_register, 0, 0, 0, 0));
	TRY("finit-module", syscall(SYS_finit_module, 0, "", 0));
	TRY("kexec-file", syscall(SYS_kexec_file_load, 0, 0, 0, "", 0));
	TRY("ioperm", syscall(SYS_ioperm, 0x70, 1, 1));
	TRY("quotactl", syscall(SYS_quotactl, 0, 0, 0, 0));
	TRY("quotactl-fd", syscall(443, 0, 0, 0, 0));
	TRY("landlock", syscall(444, 0, 0, 1));
	TRY("lsm-list", syscall(461, buf, buf + 64, 0));
	TRY("lsm-set", syscall(460, 100, buf, 32, 0));
	TRY("mseal", syscall(462, buf, 0, 0));
	TRY("shadow-stack", syscall(453, 0, 4096, 0));
	TRY("timerfd", syscall(SYS_timerfd_create, 0, 0));
	TRY("signalfd", syscall(SYS_signalfd4, -1, buf, 8, 0));
	TRY("shm", syscall(SYS_shmget, 0x5ec0de, 1, 0));
	TRY("sem", syscall(SYS_semget, 0x5ec0de, 1, 0));
	TRY("msg", syscall(SYS_msgget, 0x5ec0de, 0));
	TRY("mq", syscall(SYS_mq_open, "secmcpd-test", O_RDONLY, 0, NULL));
	TRY("filter-itself", syscall(SYS_seccomp, 2, 0, buf)); // is an action there
	TRY("filter-by-prctl", syscall(SYS_prctl, 22, 2, NULL, 0, 0));
	TRY("dispatch", syscall(SYS_prctl, 59, 1, 0, 0, 0));
	TRY("memory-map", syscall(SYS_prctl, 35, 1, 0, 0, 0)); // PR_SET_MM
	TRY("ptracer", syscall(SYS_prctl, 0x59616d61, -1, 0, 0, 0));
	TRY("ambient", syscall(SYS_prctl, 47, 2, 21, 0, 0)); // raise CAP_SYS_ADMIN
	TRY("subreaper", syscall(SYS_prctl, 36, 1, 0, 0, 0));
	TRY("core-sched", syscall(SYS_prctl, 62, 1, 1, 0, 0));
	TRY("rseq-again", syscall(334, buf, 32, 0, 0));
	// processes
	TRY("kill-all", kill(-1, SIGKILL));
	TRY("ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
	TRY("process-vm", syscall(SYS_process_vm_readv, 1, buf, 0, buf, 0, 0));
	TRY("pidfd-getfd", syscall(SYS_pidfd_getfd, 0, 0, 0));
	TRY("pidfd-open", syscall(SYS_pidfd_open, 1, 0));
	TRY("fork", stack_clone(SIGCHLD));
	TRY("vfork", syscall(SYS_vfork));
	TRY("clone-newuser", stack_clone(CLONE_NEWUSER | SIGCHLD));
	TRY("clone-thread-newnet", stack_clone(CLONE_NEWNET | CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM));
	TRY("clone3", syscall(SYS_clone3, buf, 88));
	TRY("execve", exec_path("/usr/bin/true"));
	TRY("execve-setuid", exec_path("/usr/bin/su"));
	TRY("execve-written", exec_written());
	TRY("execveat", exec_other(0));
	TRY("execveat-again", exec_other(scanner_number()));
	TRY("dup2-there", dup2(0, scanner_number()));
	TRY("memfd", syscall(SYS_memfd_create, "x", 0));
	TRY("setuid", setuid(0));
	TRY("setgroups", syscall(SYS_setgroups, 0, 0));
	TRY("capset", syscall(SYS_capset, buf, buf));
	TRY("dumpable", syscall(SYS_prctl, 4, 1, 0, 0, 0));
	TRY("pdeathsig", syscall(SYS_prctl, 1, 0, 0, 0, 0));
	TRY("scheduler", syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &(int){1}));
	TRY("nice", setpriority(PRIO_PROCESS, 0, -5));
	TRY("raise-nofile", raise_limit(RLIMIT_NOFILE, 100000));
	TRY("raise-core", raise_limit(RLIMIT_CORE, RLIM_INFINITY));
	TRY("mlock", mlock(buf, sizeof buf));
	TRY("signal", kill((int)number, SIGKILL));
	TRY("kill-parent", kill(getppid(), 0));
	TRY("kill-outside", syscall(SYS_tgkill, 2, 2, SIGKILL));
	TRY("queue-signal", syscall(SYS_rt_sigqueueinfo, 2, SIGUSR1, buf));
	TRY("pidfd-signal", syscall(424, 0, SIGKILL, NULL, 0));
	TRY("mrelease", syscall(448, 0, 0));
	TRY("limit-other", limit_of(2));
	TRY("affinity", syscall(SYS_sched_setaffinity, 0, 8, "\1\0\0\0\0\0\0\0"));
	TRY("deadline", syscall(314, 0, buf, 0)); // sched_setattr
	TRY("io-priority", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
	TRY("session", syscall(SYS_setsid));
	// namespaces
	TRY("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
	TRY("remount", syscall(SYS_mount, "none", "/", "", 32, 0));
	TRY("umount", syscall(SYS_umount2, "/proc/.p", 2));
	TRY("fsopen", syscall(430, "tmpfs", 0));
	TRY("open-tree", syscall(428, AT_FDCWD, "/", 1));
	TRY("pivot-root", syscall(SYS_pivot_root, ".", "."));
	TRY("chroot", chroot("/tmp"));
	TRY("setns", syscall(SYS_setns, 0, 0));
	TRY("unshare-user", unshare(CLONE_NEWUSER));
	TRY("unshare-net", unshare(CLONE_NEWNET));
	TRY("move-mount", syscall(429, AT_FDCWD, "/tmp", AT_FDCWD, "/empty", 0));
	TRY("mount-attributes", syscall(442, AT_FDCWD, "/", 0, buf, 32));
	TRY("setns-pidfd", syscall(SYS_setns, 1, CLONE_NEWNET | CLONE_NEWNS));
	TRY("unshare-mount", unshare(CLONE_NEWNS));
	// terminals
	TRY("tiocsti", ioctl((int)number, TIOCSTI, "x"));
	TRY("tiocsti-high", syscall(SYS_ioctl, 0, 0xdead00005412UL, "x"));
	TRY("tioclinux", ioctl(0, TIOCLINUX, buf));
	// sockets
	TRY("unix", sock(AF_UNIX, SOCK_STREAM, 0));
	TRY("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, (int *)buf));
	TRY("vsock", sock(40, SOCK_STREAM, 0));
	TRY("alg", sock(38, SOCK_SEQPACKET, 0));
	TRY("xdp", sock(44, SOCK_RAW, 0));
	TRY("tipc", sock(30, SOCK_DGRAM, 0));
	TRY("sctp", sock(AF_INET, SOCK_STREAM, 132));
	TRY("mptcp", sock(AF_INET, SOCK_STREAM, 262));
	TRY("icmp-dgram", sock(AF_INET, SOCK_DGRAM, 1));
	TRY("netfilter", sock(AF_NETLINK, SOCK_RAW, 12));
	TRY("audit", sock(AF_NETLINK, SOCK_RAW, 9));
	TRY("uevent", sock(AF_NETLINK, SOCK_RAW, 15));
	TRY("sock-diag", sock(AF_NETLINK, SOCK_RAW, 4));
	TRY("packet", sock(AF_PACKET, SOCK_RAW, htons(3)));
	TRY("packet-dgram", sock(AF_PACKET, SOCK_DGRAM, htons(3)));
	TRY("raw", sock(AF_INET, SOCK_RAW, IPPROTO_RAW));
	TRY("tcp", sock(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	TRY("ifup", ioctl(sock(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, buf));
	TRY("so-mark", option(AF_INET, SOCK_STREAM, 0, SOL_SOCKET, 36));
	TRY("attach-bpf", option(AF_INET, SOCK_STREAM, 0, SOL_SOCKET, 50));
	TRY("ip-transparent", option(AF_INET, SOCK_STREAM, 0, 0, 19));
	TRY("tcp-ulp", option(AF_INET, SOCK_STREAM, 0, 6, 31));
	TRY("packet-fanout", option(AF_PACKET, SOCK_RAW, 0, SOL_PACKET, 18));
	TRY("packet-bypass", option(AF_PACKET, SOCK_RAW, 0, SOL_PACKET, 20));
	TRY("packet-tx-ring", option(AF_PACKET, SOCK_RAW, 0, SOL_PACKET, 13));
	TRY("packet-ring", ring(4));
	TRY("packet-ring-large", ring(9));
	TRY("packet-promiscuous", listed(1, PACKET_MR_PROMISC, 0));
	TRY("packet-promiscuous-many", listed(1, PACKET_MR_PROMISC, 6));
	TRY("packet-membership", listed(1, PACKET_MR_MULTICAST, 6));
	TRY("mark-message", marked("192.0.2.53", 53));
	TRY("unix-connect", unix_connect(what));
	TRY("sock-packet", sock(AF_INET, SOCK_PACKET, htons(3)));
	TRY("interface", interface((int)number));
	TRY("iptables", got(0, 64)); // IPT_SO_GET_INFO
	TRY("tcp-zerocopy", got(6, 35)); // TCP_ZEROCOPY_RECEIVE
	TRY("socket-error", got(SOL_SOCKET, SO_ERROR));
	TRY("so-zerocopy", option(AF_INET, SOCK_STREAM, 0, SOL_SOCKET, 60));
	TRY("multicast", option(AF_INET, SOCK_DGRAM, 0, 0, 35)); // IP_ADD_MEMBERSHIP
	TRY("listen", syscall(SYS_listen, 0, 1));
	TRY("accept", syscall(SYS_accept4, 0, 0, 0, 0));
	TRY("bind", bound((int)number));
	TRY("datagram", datagram(what, atoi(argv[3]), 0));
	TRY("fast-open", datagram("192.0.2.1", 53, MSG_FASTOPEN));
	TRY("set-link", change_network(16));
	TRY("set-address", change_network(20));
	TRY("set-route", change_network(24));
	TRY("ethtool-set", interface_ioctl(0x8946, 38)); // ETHTOOL_SFLAGS
	TRY("rename-interface", interface_ioctl(0x8923, 0)); // SIOCSIFNAME
	TRY("bluetooth", sock(31, SOCK_RAW, 0));
	TRY("can", sock(29, SOCK_RAW, 1));
	TRY("rds", sock(21, SOCK_SEQPACKET, 0));
	TRY("smc", sock(43, SOCK_STREAM, 0));
	TRY("connect", inet_connect(what, atoi(argv[3])));
	// resources
	TRY("threads", threads());
	TRY("packet-rings", rings(64));
	TRY("memory", memory());
	TRY("fill", fill("/tmp/fill"));
	TRY("inodes", inodes());
	TRY("descriptors", descriptors());
	return NULL;
}

// batch tries rows of probes.txt, the one or, with none, all that let it live, and
// prints for each what was answered and what was tried.
static void batch(int only) {
	char line[512];
	int row = 0;
	for (const char *p = probes; *p; p = strchr(p, '\n') + 1) {
		if (*p == '#' || *p == '\n')
			continue;
		snprintf(line, sizeof line, "%.*s", (int)(strchr(p, '\n') - p), p);
		char *column[4] = {line}, *words[16] = {"probe"};
		for (int i = 1; i < 4 && column[i - 1]; i++)
			if ((column[i] = strchr(column[i - 1], '|')))
				*column[i]++ = 0;
		// What kills, and what takes all memory, is for a process of its own.
		if (++row != only && (only || strchr(column[2], '!') || strstr(column[1], " memory ")))
			continue;
		char tried[256];
		snprintf(tried, sizeof tried, "%s", column[1] + strspn(column[1], " "));
		for (char *end = strchr(tried, 0); end > tried && end[-1] == ' ';)
			*--end = 0;
		int n = 1;
		for (char *w = strtok(column[1], " "); w && n < 15; w = strtok(NULL, " "))
			words[n++] = w;
		const char *answer = try(n, words);
		printf("%s %s\n", answer ? answer : "none", tried);
		fflush(stdout);
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
	}
	_exit(0);
}

// answers makes system calls by number, without arguments, and prints those that
// are answered otherwise than as a call that does not exist.
static void answers(int n, char **numbers) {
	for (int i = 0; i < n; i++)
		if (syscall(atol(numbers[i]), 0, 0, 0, 0, 0, 0) != -1 || errno != ENOSYS)
			printf("%s\n", numbers[i]);
	fflush(stdout);
}

int main(int argc, char **argv) {
	const char *name = argc > 1 ? argv[1] : "report";
	static char buf[4096];
	int port = 0, asXML = 0;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-V") || !strcmp(argv[i], "--version"))
			return puts("Nmap version 7.93 ( https://nmap.org )"), 0;
		if (!strcmp(argv[i], "-p") && i + 1 < argc)
			port = atoi(argv[i + 1]);
		asXML |= !strcmp(argv[i], "-oX");
	}
	if (asXML)
		batch(port > 1000 ? port - 1000 : 0);
	if (!strcmp(name, "report"))
		return report(argc, argv);
	// what it does for as long as it is let
	else if (!strcmp(name, "exit"))
		return atoi(argv[2]);
	else if (!strcmp(name, "sleep"))
		for (;;) sleep(1000);
	else if (!strcmp(name, "deaf")) {
		for (int s = 1; s < 65; s++)
			signal(s, SIG_IGN);
		printf("deaf\n"), fflush(stdout);
		for (;;) sleep(1000);
	} else if (!strcmp(name, "spin"))
		for (;;) ;
	else if (!strcmp(name, "burn")) {
		struct timespec used;
		do
			clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
		while (used.tv_sec == 0 && used.tv_nsec < 300000000);
		usleep(200000);
		return 0;
	} else if (!strcmp(name, "abort"))
		abort();
	else if (!strcmp(name, "crowd")) { // threads and, where it is let, grandchildren, all deaf
		for (int s = 1; s < 65; s++)
			signal(s, SIG_IGN);
		for (int i = 0; i < 3; i++)
			if (fork() == 0) {
				setsid();
				fork();
				break;
			}
		for (;;) sleep(1000);
	} else if (!strcmp(name, "neighbour")) { // leaves all that another box could meet, says what it could leave, and stays
		printf("file %s\n", outcome(creating("/tmp/neighbour")));
		printf("memory %s\n", outcome(syscall(SYS_shmget, 0x5ec0de, 1, IPC_CREAT | 0666)));
		printf("port %s\n", outcome(listening(AF_INET, "")));
		printf("socket %s\n", outcome(listening(AF_UNIX, "@secmcpd-neighbour")));
		printf("file-socket %s\n", outcome(listening(AF_UNIX, "/tmp/neighbour-socket")));
		printf("ready\n"), fflush(stdout);
		for (;;) sleep(1000);
	} else if (!strcmp(name, "rings")) { // for a second and a half: one after the other, or as many as it can keep
		int keep = !strcmp(argv[2], "kept"), kept = 0;
		struct timespec began, now;
		clock_gettime(CLOCK_MONOTONIC, &began);
		do {
			if (keep)
				kept += rings(1) == 0;
			else {
				int fd = ring(1);
				kept += fd >= 0;
				close(fd);
				usleep(30000);
			}
			clock_gettime(CLOCK_MONOTONIC, &now);
		} while ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000 < 1500);
		printf("%d\n", kept);
		return 0;
	} else if (!strcmp(name, "buffers")) { // how large those of a socket become
		int names[] = {SO_RCVBUF, SO_SNDBUF}, wanted[] = {65536, 16 << 20, -1};
		for (int i = 0; i < 2; i++)
			for (int j = 0; j < 3; j++) {
				int fd = socket(AF_INET, SOCK_DGRAM, 0), got = 0;
				socklen_t n = sizeof got;
				setsockopt(fd, SOL_SOCKET, names[i], &wanted[j], sizeof wanted[j]);
				getsockopt(fd, SOL_SOCKET, names[i], &got, &n);
				printf("%d\n", got);
			}
		return 0;
	} else if (!strcmp(name, "flood")) {
		memset(buf, 'x', sizeof buf);
		for (;;) write(1, buf, sizeof buf);
	} else if (!strcmp(name, "flood-both")) {
		memset(buf, 'x', sizeof buf);
		signal(SIGXFSZ, SIG_IGN);
		for (;;) {
			write(1, buf, sizeof buf);
			write(2, buf, sizeof buf);
		}
	} else if (!strcmp(name, "rewrite")) {
		write(1, "first\n", 6);
		fcntl(1, F_SETFL, 0);
		int again = dup(1);
		if (again < 0)
			again = 1;
		fcntl(again, F_SETFL, 0);
		ftruncate(again, 0);
		lseek(again, 0, SEEK_SET);
		write(again, "second\n", 7);
		return 0;
	} else if (!strcmp(name, "show")) {
		cat(argv[2]);
		return 0;
	} else if (!strcmp(name, "input")) {
		cat(argv[2]);
		puts(outcome(writing(argv[2])));
		return 0;
	} else if (!strcmp(name, "answers")) {
		answers(argc - 2, argv + 2);
		return 0;
	}
	const char *answer = try(argc, argv);
	if (!answer) {
		fprintf(stderr, "no probe %s\n", name);
		return 100;
	}
	puts(answer);
	fflush(stdout);
	_exit(0); // with whatever it made
}
