package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What a scanner sees of itself and of the machine, with every layer on.
func TestInside(t *testing.T) {
	stray, err := os.Open("/etc") // a descriptor that somebody forgot to protect
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	if err := unix.Dup2(int(stray.Fd()), 251); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(251)

	spec := wish(t, "nmap-raw", probe, "nmap", "report", "two words")
	spec.Env = []string{"NMAP_PRIVILEGED=1"}
	got := succeed(t, box, spec)

	for _, row := range []struct{ what, prefix, want string }{
		{"it gets its arguments", "argv: ", "nmap|report|two words"},
		{"and its environment, which is complete", "env: ", "NMAP_PRIVILEGED=1"},
		{"it is the first process", "pid: ", "1"},
		{"of nobody it could name", "ppid: ", "0"},
		{"it is the slot's user", "/proc/self/status: Uid:", "61234\t61234\t61234\t61234"},
		{"and group", "/proc/self/status: Gid:", "61235\t61235\t61235\t61235"},
		{"in no other group", "/proc/self/status: Groups:", ""},
		{"one capability, inheritable", "/proc/self/status: CapInh:", "0000000000002000"},
		{"permitted", "/proc/self/status: CapPrm:", "0000000000002000"},
		{"effective", "/proc/self/status: CapEff:", "0000000000002000"},
		{"ambient", "/proc/self/status: CapAmb:", "0000000000002000"},
		{"and no way to another", "/proc/self/status: CapBnd:", "0000000000000000"},
		{"no new privileges", "/proc/self/status: NoNewPrivs:", "1"},
		{"a system call filter", "/proc/self/status: Seccomp:", "2"},
		{"no signal blocked", "/proc/self/status: SigBlk:", "0000000000000000"},
		{"nor ignored", "/proc/self/status: SigIgn:", "0000000000000000"},
		{"it is in an empty place", "cwd: ", "/empty"},
		{"its files are its own", "umask: ", "077"},
		{"its host name says nothing", "host: ", "scanner"},
		{"its cgroup is a root", "/proc/self/cgroup: 0::", "/"},
		{"three descriptors", "fd: ", "0 /dev/null|1 " + "|2 "},
		{"an interface of its network at most", "/proc/net/dev:     ", "lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0"},
		{"hosts as the job says", "/etc/hosts: ", "127.0.0.1 localhost"},
		{"resolver as the job says", "/etc/resolv.conf: ", "nameserver 192.0.2.1"},
		{"no user but itself", "/etc/passwd: ", "scanner:x:61234:61235::/:/nonexistent"},
		{"in /proc four names", "ls /proc: ", ".p|mounts|net|self|thread-self"},
		{"and behind them one process", "ls /proc/.p: ", "1|self|thread-self"},
		{"nothing in /tmp", "ls /tmp: ", ""},
		{"nothing in its directory", "ls .: ", ""},
		{"the root cannot be listed", "ls /: ", "errno 13"},
		{"core", "limit core: ", "1 1"},
		{"open files", "limit nofile: ", "256 256"},
		{"output", "limit fsize: ", "9437184 9437184"},
		{"processes", "limit nproc: ", "64 64"},
		{"locked memory", "limit memlock: ", "65536 65536"},
		{"message queues", "limit msgqueue: ", "0 0"},
		{"processor time", "limit cpu: ", "61 61"},
		{"real time", "limit rtprio: ", "0 0"},
		{"priority", "limit nice: ", "0 0"},
		{"signals", "limit sigpending: ", "256 256"},
		{"memory, as no cgroup does it here", "limit data: ", "536870912 536870912"},
	} {
		found := lines(got, row.prefix)
		if strings.HasPrefix(row.prefix, "ls ") {
			slices.Sort(found)
		}
		if strings.HasPrefix(row.prefix, "fd: ") {
			for i := 1; i < len(found); i++ {
				found[i] = found[i][:2] // the names of the test's own files
			}
		}
		if text := strings.Join(found, "|"); text != strings.TrimSpace(row.want) && text != row.want {
			t.Errorf("%s: %s%q, want %q", row.what, row.prefix, text, row.want)
		}
	}
	checkNamespaces(t, got)
	checkMounts(t, got)
}

// checkNamespaces: none but the user namespace is the machine's.
func checkNamespaces(t *testing.T, got string) {
	for _, ns := range lines(got, "ns: ") {
		name, _, _ := strings.Cut(ns, ":")
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if shared := ns == ours; shared != (name == "user") {
			t.Errorf("namespace %s: box has %s, the machine %s", name, ns, ours)
		}
	}
}

// checkMounts: every mount is read-only and nosuid, but /tmp, which is noexec.
func checkMounts(t *testing.T, got string) {
	var targets []string
	for _, line := range lines(got, "/proc/self/mountinfo: ") {
		fields := strings.Fields(line)
		target, flags := fields[4], strings.Split(fields[5], ",")
		targets = append(targets, target)
		has := func(f string) bool { return slices.Contains(flags, f) }
		device := strings.HasPrefix(target, "/dev/")
		executable := target == "/usr" || target == "/exe/scanner"
		if !has("nosuid") || has("nodev") == device || has("noexec") == executable || has("ro") == (target == "/own/tmp") {
			t.Errorf("mount %s is %s", target, fields[5])
		}
	}
	want := map[string]bool{"/": true, "/usr": true, "/exe/scanner": true, "/own/tmp": true, "/given/files": true, "/proc/.p": true,
		"/dev/null": true, "/dev/zero": true, "/dev/random": true, "/dev/urandom": true}
	for _, target := range targets {
		if !want[target] && !strings.HasPrefix(target, "/etc/") && !slices.Contains(trees, target[1:]) {
			t.Errorf("mount %s is not one of a box", target)
		}
		delete(want, target)
	}
	if len(want) > 0 {
		t.Errorf("mounts missing: %v", want)
	}
}

// A box without raw sockets holds no capability at all.
func TestInsideWithoutRaw(t *testing.T) {
	got := succeed(t, box, wish(t, "nmap-connect", probe, "nmap", "report"))
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"} {
		if caps := one(t, got, "/proc/self/status: "+set+":"); strings.Trim(caps, "0") != "" {
			t.Errorf("%s is %s", set, caps)
		}
	}
	if env := lines(got, "env: "); len(env) != 0 {
		t.Errorf("environment %q, want none", env)
	}
}

// What the hostile scanner tries and what the kernel must answer, with all
// layers, without seccomp, and without seccomp and Landlock: a door has more
// than one lock. "!" is death by the filter; "-" is not tried, for the layer
// in question is the only one that keeps it, by design.
func TestProbes(t *testing.T) {
	weaker := opened(t, Config{Accept: append([]string{Seccomp, Landlock}, accepted...)})
	rows := []struct{ box, probe, all, noSeccomp, noLandlock string }{
		{"nmap-raw", "read /etc/shadow", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /etc/machine-id", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /etc/masscan/masscan.conf", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /root", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /home", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /../../etc/shadow", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /proc/.p/1/root/etc/shadow", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /", "EACCES", "EACCES", "0"},
		{"nmap-raw", "read /usr/share/nmap/nmap-services", "0", "0", "0"},
		{"nmap-raw", "create /usr/bin/x", "EROFS", "EROFS", "EROFS"},
		{"nmap-raw", "write /usr/bin/true", "EACCES", "EACCES", "EACCES"},
		{"nmap-raw", "write /proc/self/exe", "EACCES", "EACCES", "EACCES"},
		{"nmap-raw", "write /etc/hosts", "EACCES", "EACCES", "EACCES"},
		{"nmap-raw", "create /x", "EROFS", "EROFS", "EROFS"},
		{"nmap-raw", "create x", "EROFS", "EROFS", "EROFS"},
		{"nmap-raw", "create /etc/x", "EROFS", "EROFS", "EROFS"},
		{"nmap-raw", "create /tmp/x", "0", "0", "0"},
		{"nmap-raw", "mkdir /x", "ENOSYS", "EROFS", "EROFS"},
		{"nmap-raw", "chmod /usr/bin/true", "ENOSYS", "EROFS", "EROFS"},
		{"nmap-raw", "chmod-created", "ENOSYS", "0", "0"},
		{"nmap-raw", "unlink /usr/bin/true", "ENOSYS", "EROFS", "EROFS"},
		{"nmap-raw", "rename /usr/bin/true", "ENOSYS", "EXDEV", "EXDEV"},
		{"nmap-raw", "truncate /usr/bin/true", "ENOSYS", "EACCES", "EACCES"},
		{"nmap-raw", "link", "ENOSYS", "EXDEV", "EXDEV"},
		{"nmap-raw", "symlink", "ENOSYS", "EACCES", "0"},
		{"nmap-raw", "mkfifo", "!", "EACCES", "0"},
		{"nmap-raw", "mknod", "!", "EACCES", "EPERM"},
		{"nmap-raw", "write /proc/self/fd/1", "EACCES", "EACCES", "EACCES"},
		{"nmap-raw", "ftruncate 1", "ENOSYS", "-", "-"},
		{"masscan", "ftruncate 1", "ENOSYS", "-", "-"},
		{"nmap-raw", "dup", "ENOSYS", "-", "-"},
		{"nmap-raw", "dup-above", "ENOSYS", "-", "-"},
		{"nmap-raw", "dup-cloexec", "ENOSYS", "-", "-"},
		{"nmap-raw", "no-append 0", "0", "0", "0"},
		{"nmap-raw", "no-append 1", "ENOSYS", "-", "-"},
		{"nmap-raw", "no-append 2", "ENOSYS", "-", "-"},
		{"nmap-raw", "no-append-high", "ENOSYS", "-", "-"},
		{"gobuster", "no-append 1", "ENOSYS", "-", "-"},
		{"version", "no-append 1", "ENOSYS", "-", "-"},
		{"nmap-raw", "append", "0", "0", "0"},
		{"nmap-raw", "non-blocking", "0", "0", "0"},
		{"nmap-raw", "inotify", "ENOSYS", "-", "-"},
		{"nmap-raw", "name-to-handle", "!", "-", "-"},
		{"nmap-raw", "open-by-handle", "!", "-", "-"},
		{"nmap-raw", "read /dev/mem", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /dev/vda", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /dev/kmsg", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /dev/tty", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /dev/ptmx", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /dev/net/tun", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /sys/kernel", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /sys/fs/cgroup", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /run", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "write /proc/sysrq-trigger", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "write /proc/sys/kernel/core_pattern", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "write /proc/.p/sys/kernel/core_pattern", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /proc/kcore", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /proc/.p/kallsyms", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /proc/.p/keys", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "read /proc/.p/cmdline", "ENOENT", "ENOENT", "ENOENT"},
		{"nmap-raw", "write /proc/self/oom_score_adj", "EROFS", "EROFS", "EROFS"},
		{"nmap-raw", "write /proc/self/mem", "EROFS", "EROFS", "EROFS"},

		{"nmap-raw", "bpf", "!", "-", "-"},
		{"nmap-raw", "perf", "!", "-", "-"},
		{"nmap-raw", "io-uring", "!", "-", "-"},
		{"nmap-raw", "userfaultfd", "!", "-", "-"},
		{"nmap-raw", "keyctl", "!", "-", "-"},
		{"nmap-raw", "add-key", "!", "-", "-"},
		{"nmap-raw", "request-key", "!", "ENOKEY", "ENOKEY"},
		{"nmap-raw", "init-module", "!", "-", "-"},
		{"nmap-raw", "kexec", "!", "-", "-"},
		{"nmap-raw", "reboot", "!", "EPERM", "EPERM"},
		{"nmap-raw", "clock-settime", "!", "EFAULT", "EFAULT"},
		{"nmap-raw", "sethostname", "!", "EPERM", "EPERM"},
		{"nmap-raw", "personality", "!", "-", "-"},
		{"nmap-raw", "iopl", "!", "-", "-"},
		{"nmap-raw", "modify-ldt", "!", "-", "-"},
		{"nmap-raw", "fanotify", "!", "EPERM", "EPERM"},
		{"nmap-raw", "swapon", "!", "EPERM", "EPERM"},
		{"nmap-raw", "syslog", "!", "-", "-"},
		{"nmap-raw", "x32", "!", "-", "-"},
		{"nmap-raw", "int80", "!", "-", "-"},
		{"nmap-raw", "unknown", "ENOSYS", "ENOSYS", "ENOSYS"},

		{"nmap-raw", "kill-all", "ENOSYS", "ESRCH", "ESRCH"},
		{"nmap-raw", "ptrace", "!", "-", "-"},
		{"nmap-raw", "process-vm", "!", "-", "-"},
		{"nmap-raw", "pidfd-getfd", "!", "-", "-"},
		{"nmap-raw", "pidfd-open", "ENOSYS", "-", "-"},
		{"nmap-raw", "fork", "ENOSYS", "-", "-"},
		{"masscan", "fork", "ENOSYS", "-", "-"},
		{"nmap-raw", "vfork", "ENOSYS", "-", "-"},
		{"masscan", "clone-newuser", "ENOSYS", "-", "-"},
		{"masscan", "clone-thread-newnet", "ENOSYS", "EPERM", "EPERM"},
		{"masscan", "clone3", "ENOSYS", "-", "-"},
		{"nmap-raw", "execve", "!", "-", "-"},
		{"nmap-raw", "execve-setuid", "!", "-", "-"},
		{"nmap-raw", "execve-written", "!", "EACCES", "EACCES"},
		{"nmap-raw", "execveat", "ENOSYS", "-", "-"},
		{"nmap-raw", "execveat-again 256", "ENOSYS", "EINVAL", "EINVAL"},
		{"nmap-raw", "dup2-there 256", "ENOSYS", "EBADF", "EBADF"},
		{"nmap-raw", "memfd", "ENOSYS", "-", "-"},
		{"nmap-raw", "setuid", "!", "EPERM", "EPERM"},
		{"nmap-raw", "setgroups", "!", "EPERM", "EPERM"},
		{"nmap-raw", "capset", "!", "-", "-"},
		{"nmap-raw", "dumpable", "ENOSYS", "-", "-"},
		{"nmap-raw", "pdeathsig", "ENOSYS", "-", "-"},
		{"nmap-raw", "scheduler", "ENOSYS", "EPERM", "EPERM"},
		{"nmap-raw", "nice", "ENOSYS", "EACCES", "EACCES"},
		{"nmap-raw", "raise-nofile", "EPERM", "EPERM", "EPERM"},
		{"nmap-raw", "raise-core", "EPERM", "EPERM", "EPERM"},
		{"nmap-raw", "mlock", "ENOSYS", "-", "-"},

		{"nmap-raw", "mount", "!", "EPERM", "EPERM"},
		{"nmap-raw", "remount", "!", "EPERM", "EPERM"},
		{"nmap-raw", "umount", "!", "EPERM", "EPERM"},
		{"nmap-raw", "fsopen", "!", "EPERM", "EPERM"},
		{"nmap-raw", "open-tree", "!", "EPERM", "EPERM"},
		{"nmap-raw", "pivot-root", "!", "EPERM", "EPERM"},
		{"nmap-raw", "chroot", "!", "EPERM", "EPERM"},
		{"nmap-raw", "setns", "!", "EINVAL", "EINVAL"},
		{"nmap-raw", "unshare-user", "!", "-", "-"},
		{"nmap-raw", "unshare-net", "!", "EPERM", "EPERM"},
		{"nmap-raw", "tiocsti", "ENOSYS", "EACCES", "ENOTTY"},
		{"nmap-raw", "tiocsti-high", "ENOSYS", "EACCES", "ENOTTY"},
		{"nmap-raw", "tioclinux", "ENOSYS", "EACCES", "ENOTTY"},

		{"nmap-raw", "unix", "EAFNOSUPPORT", "-", "-"},
		{"nmap-raw", "socketpair", "ENOSYS", "-", "-"},
		{"nmap-raw", "vsock", "ENOSYS", "-", "-"},
		{"nmap-raw", "alg", "ENOSYS", "-", "-"},
		{"nmap-raw", "xdp", "ENOSYS", "-", "-"},
		{"nmap-raw", "tipc", "ENOSYS", "-", "-"},
		{"nmap-raw", "sctp", "ENOSYS", "-", "-"},
		{"nmap-raw", "mptcp", "ENOSYS", "-", "-"},
		{"nmap-raw", "icmp-dgram", "ENOSYS", "-", "-"},
		{"nmap-raw", "netfilter", "ENOSYS", "-", "-"},
		{"nmap-raw", "audit", "ENOSYS", "-", "-"},
		{"nmap-raw", "uevent", "ENOSYS", "-", "-"},
		{"nmap-raw", "sock-diag", "ENOSYS", "-", "-"},
		{"nmap-raw", "packet", "0", "0", "0"},
		{"nmap-raw", "raw", "0", "0", "0"},
		{"nmap-raw", "packet-dgram", "ENOSYS", "-", "-"},
		{"nmap-connect", "tcp", "0", "0", "0"},
		{"nmap-connect", "packet", "ENOSYS", "EPERM", "EPERM"},
		{"nmap-connect", "raw", "ENOSYS", "EPERM", "EPERM"},
		{"gobuster", "packet", "ENOSYS", "EPERM", "EPERM"},
		{"gobuster", "raw", "ENOSYS", "EPERM", "EPERM"},
		{"resolver", "packet", "ENOSYS", "EPERM", "EPERM"},
		{"masscan", "packet", "0", "0", "0"},
		{"masscan", "raw", "ENOSYS", "0", "0"},
		{"version", "tcp", "ENOSYS", "0", "0"},
		{"version", "packet", "ENOSYS", "EPERM", "EPERM"},
		{"nmap-raw", "ifup", "ENOSYS", "EPERM", "EPERM"},
		{"nmap-raw", "so-mark", "ENOSYS", "-", "-"},
		{"nmap-raw", "attach-bpf", "ENOSYS", "-", "-"},
		{"nmap-raw", "ip-transparent", "ENOSYS", "-", "-"},
		{"nmap-raw", "tcp-ulp", "ENOSYS", "-", "-"},
		{"nmap-raw", "packet-fanout", "ENOSYS", "-", "-"},
		{"nmap-raw", "packet-bypass", "ENOSYS", "-", "-"},
		{"nmap-raw", "packet-tx-ring", "ENOSYS", "-", "-"},

		{"gobuster", "threads", "EAGAIN", "EAGAIN", "EAGAIN"},
		{"nmap-raw", "memory", "ENOMEM", "ENOMEM", "ENOMEM"},
		{"nmap-raw", "fill", "ENOSPC", "ENOSPC", "ENOSPC"},
		{"nmap-raw", "inodes", "ENOSPC", "ENOSPC", "ENOSPC"},
		{"nmap-raw", "descriptors", "EMFILE", "EMFILE", "EMFILE"},
	}
	blocked := 0
	for _, row := range rows {
		for _, column := range []struct {
			want    string
			without []string
		}{{row.all, nil}, {row.noSeccomp, []string{Seccomp}}, {row.noLandlock, []string{Seccomp, Landlock}}} {
			if column.want == "-" {
				continue
			}
			spec := wish(t, row.box, probe, append([]string{"probe"}, strings.Fields(row.probe)...)...)
			spec.Without = column.without
			if got := attempt(t, weaker, spec); got != column.want {
				t.Errorf("%s without %s: %s: got %s, want %s", row.box, orNone(column.without), row.probe, got, column.want)
			}
		}
		if row.all != "0" {
			blocked++
		}
	}
	t.Logf("%d probes, %d blocked, %d granted", len(rows), blocked, len(rows)-blocked)
}

// attempt runs one probe and says what the kernel answered.
func attempt(t testing.TB, s *Sandbox, spec Spec) string {
	t.Helper()
	r, stdout, stderr := run(t, s, spec)
	if r.Reason == Violation && r.Signal == int(unix.SIGSYS) {
		return "!"
	}
	if r.Reason != Exited || r.Code != 0 {
		return fmt.Sprintf("%s code %d signal %d stage %q %v %s", r.Reason, r.Code, r.Signal, r.Stage, r.Err, stderr)
	}
	number, err := strconv.Atoi(strings.TrimSpace(stdout))
	if err != nil {
		return fmt.Sprintf("%q", stdout)
	}
	if number == 0 {
		return "0"
	}
	return unix.ErrnoName(unix.Errno(number))
}

// What a scanner has written stays written: it can neither overwrite nor cut off what the front
// may have read already.
func TestOutputOnlyGrows(t *testing.T) {
	for _, name := range boxNames() {
		if got := succeed(t, box, wish(t, name, probe, "probe", "rewrite")); got != "first\nsecond\n" {
			t.Errorf("%s: its output is %q", name, got)
		}
	}
}

// A scanner reads the files it was given, and writes none of them.
func TestInputs(t *testing.T) {
	name := t.TempDir() + "/words"
	if err := os.WriteFile(name, []byte("admin\nlogin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec := wish(t, "gobuster", probe, "gobuster", "input", "/in/words")
	spec.Inputs = []Input{{"words", f}}
	want := []string{"/in/words: admin", "/in/words: login", strconv.Itoa(int(unix.EACCES))}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(succeed(t, box, spec)), "\n")); diff != "" {
		t.Error(diff)
	}
}

// Two boxes at the same time see nothing of each other.
func TestBoxesApart(t *testing.T) {
	first, second := wish(t, "nmap-raw", probe, "nmap", "report"), wish(t, "nmap-raw", probe, "nmap", "report")
	results := make(chan string)
	for _, spec := range []Spec{first, second} {
		go func() {
			files := outputFiles(t)
			r := box.Run(t.Context(), spec, files.Files)
			stdout, _ := files.text()
			results <- fmt.Sprint(r.Err) + "\n" + stdout
		}()
	}
	a, b := <-results, <-results
	for i, ns := range lines(a, "ns: ") {
		if other := lines(b, "ns: ")[i]; ns == other != strings.HasPrefix(ns, "user:") {
			t.Errorf("boxes share or split %s and %s", ns, other)
		}
	}
}
