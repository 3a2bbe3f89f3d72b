// probe is a hostile scanner. It tries one thing and prints the errno that the
// kernel answered, or 0 when it got through. It is built by the tests, and
// runs in a box as any scanner does.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void say(long r) {
	printf("%d\n", r < 0 ? errno : 0);
	fflush(stdout);
	_exit(0);
}

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
	cat("/proc/self/status"), cat("/proc/self/cgroup"), cat("/proc/self/mountinfo"), cat("/proc/net/dev");
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
	if (fd < 0) {
		printf("no socket: ");
		return -1;
	}
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
	sscanf(ip, "%hhu.%hhu.%hhu.%hhu", (unsigned char *)&a.sin_addr, (unsigned char *)&a.sin_addr + 1, (unsigned char *)&a.sin_addr + 2, (unsigned char *)&a.sin_addr + 3);
	return connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a);
}

#define TRY(probe, call) else if (!strcmp(name, probe)) say(call)

int main(int argc, char **argv) {
	const char *name = argc > 1 ? argv[1] : "report";
	static char buf[4096];
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
	else if (!strcmp(name, "abort"))
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
	} else if (!strcmp(name, "flood")) {
		memset(buf, 'x', sizeof buf);
		for (;;) write(1, buf, sizeof buf);
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
		say(writing(argv[2]));
	}
	// files
	TRY("read", reading(argv[2]));
	TRY("write", writing(argv[2]));
	TRY("create", creating(argv[2]));
	TRY("mkdir", mkdir(argv[2], 0777));
	TRY("chmod", chmod(argv[2], 04755));
	TRY("chmod-created", (creating("/tmp/s"), chmod("/tmp/s", 04755)));
	TRY("link", link("/usr/bin/true", "/tmp/l"));
	TRY("symlink", symlink("/etc/shadow", "/tmp/l"));
	TRY("mkfifo", mkfifo("/tmp/f", 0600));
	TRY("mknod", mknod("/tmp/b", S_IFBLK | 0600, 0));
	TRY("unlink", unlink(argv[2]));
	TRY("rename", rename(argv[2], "/tmp/y"));
	TRY("truncate", truncate(argv[2], 0));
	TRY("ftruncate", ftruncate(atoi(argv[2]), 0));
	TRY("dup", dup(1));
	TRY("dup-above", fcntl(1, F_DUPFD, 10));
	TRY("dup-cloexec", fcntl(1, F_DUPFD_CLOEXEC, 10));
	TRY("no-append", fcntl(atoi(argv[2]), F_SETFL, 0));
	TRY("no-append-high", syscall(SYS_fcntl, 0xdead00000001UL, F_SETFL, O_NONBLOCK));
	TRY("append", fcntl(1, F_SETFL, O_APPEND | O_NONBLOCK));
	TRY("non-blocking", fcntl(socket(AF_INET, SOCK_STREAM, 0), F_SETFL, O_RDWR | O_NONBLOCK));
	TRY("inotify", syscall(SYS_inotify_init1, 0));
	TRY("name-to-handle", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", buf, buf + 64, 0));
	TRY("open-by-handle", syscall(SYS_open_by_handle_at, AT_FDCWD, buf, 0));
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
	TRY("execveat-again", exec_other(atoi(argv[2])));
	TRY("dup2-there", dup2(0, atoi(argv[2])));
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
	// terminals
	TRY("tiocsti", ioctl(0, TIOCSTI, "x"));
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
	TRY("connect", inet_connect(argv[2], atoi(argv[3])));
	// resources
	TRY("threads", threads());
	TRY("memory", memory());
	TRY("fill", fill("/tmp/fill"));
	TRY("inodes", inodes());
	TRY("descriptors", descriptors());
	fprintf(stderr, "no probe %s\n", name);
	return 100;
}
