package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// probeRow is one line of testdata/probes.txt, which says how to read it.
type probeRow struct {
	numbers []string          // in demanded
	probe   string            // and its arguments
	answer  string            // with all layers, in every profile but
	but     map[string]string // these
	weakBox string
	weak    []string // without seccomp; without seccomp and Landlock
}

// in is what a profile must answer.
func (r probeRow) in(box string) string {
	if answer, ok := r.but[box]; ok {
		return answer
	}
	return r.answer
}

func probeRows(t *testing.T) (rows []probeRow) {
	t.Helper()
	text, err := os.ReadFile("testdata/probes.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line == "\n" || line[0] == '#' {
			continue
		}
		columns := strings.Split(strings.TrimSpace(line), "|")
		if len(columns) != 4 {
			t.Fatalf("%d columns in %s", len(columns), line)
		}
		row := probeRow{numbers: strings.Split(strings.TrimSpace(columns[0]), ","), probe: strings.TrimSpace(columns[1]), but: map[string]string{}, weakBox: "nmap-raw"}
		for i, word := range strings.Fields(columns[2]) {
			if box, answer, ok := strings.Cut(word, "="); ok {
				row.but[box] = answer
			} else if i == 0 {
				row.answer = word
			}
		}
		if row.weak = strings.Fields(columns[3]); len(row.weak) == 3 {
			row.weakBox, row.weak = row.weak[0], row.weak[1:]
		}
		rows = append(rows, row)
	}
	return rows
}

// What the hostile scanner tries under each profile and what the kernel must answer, with all
// layers, without seccomp, and without seccomp and Landlock: a door has more than one lock.
func TestProbes(t *testing.T) {
	onTheMachine(t)
	weaker := opened(t, Config{Accept: append([]string{Seccomp, Landlock}, accepted...)})
	launches := 0
	try := func(row probeRow, profile, want string, without ...string) {
		spec := wish(t, profile, probe, append([]string{"probe"}, strings.Fields(row.probe)...)...)
		spec.Without = without
		launches++
		if got := attempt(t, weaker, spec); got != want {
			t.Errorf("%s without %s: %s: got %s, want %s", profile, orNone(without), row.probe, got, want)
		}
	}
	if testing.Short() {
		shortly(t, try)
		return
	}
	for _, row := range probeRows(t) {
		for _, profile := range boxNames() {
			try(row, profile, row.in(profile))
		}
		if row.weak[0] != "-" {
			try(row, row.weakBox, row.weak[0], Seccomp)
			try(row, row.weakBox, row.weak[1], Seccomp, Landlock)
		}
	}
	t.Logf("%d launches", launches)
}

// shortly is for a machine that is slow, and another one: a process tries all that it survives, each
// deadly one is tried once, and none without a layer, since another kernel may answer otherwise.
func shortly(t *testing.T, try func(row probeRow, profile, want string, without ...string)) {
	for i, profile := range boxNames() {
		said := map[string]string{}
		for line := range strings.Lines(succeed(t, box, wish(t, profile, probe, "nmap", "-oX", "-", "-p", "1"))) {
			answer, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			said[name] = answer
		}
		for j, row := range probeRows(t) {
			switch want := row.in(profile); {
			case row.answer == "!" && j%len(profiles) == i:
				try(row, profile, want)
			case row.answer != "!" && row.probe != "memory" && said[row.probe] != want:
				t.Errorf("%s: %s: got %q, want %s", profile, row.probe, said[row.probe], want)
			}
		}
	}
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

// attempt runs one probe and says what the kernel answered: "!" is death by the filter.
func attempt(t testing.TB, s *Sandbox, spec Spec) string {
	t.Helper()
	r, stdout, stderr := run(t, s, spec)
	if r.Reason == Violation && r.Signal == int(unix.SIGSYS) {
		return "!"
	}
	if r.Reason != Exited || r.Code != 0 {
		return fmt.Sprintf("%s code %d signal %d stage %q %v %s", r.Reason, r.Code, r.Signal, r.Stage, r.Err, stderr)
	}
	return strings.TrimSpace(stdout)
}

// onTheMachine makes what some probes look for: it is there, and within reach of whoever is not in a
// box. It is the machine of this run alone.
func onTheMachine(t *testing.T) {
	t.Helper()
	for _, l := range []struct{ network, address string }{
		{"unix", "/run/secmcpd-test.sock"}, {"unix", "@secmcpd-test"}, {"tcp", "127.0.0.1:47"},
	} {
		listener, err := net.Listen(l.network, l.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		c, err := net.Dial(l.network, l.address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	const key, create = 0x5ec0de, 0o1000 | 0o666
	for _, shared := range []struct{ get, size, flags, control, second, third uintptr }{
		{unix.SYS_SHMGET, 1, create, unix.SYS_SHMCTL, unix.IPC_RMID, 0},
		{unix.SYS_SEMGET, 1, create, unix.SYS_SEMCTL, 0, unix.IPC_RMID},
		{unix.SYS_MSGGET, create, 0, unix.SYS_MSGCTL, unix.IPC_RMID, 0},
	} {
		id, _, errno := unix.Syscall(shared.get, key, shared.size, shared.flags)
		if errno != 0 {
			t.Fatal(errno)
		}
		t.Cleanup(func() { unix.Syscall(shared.control, id, shared.second, shared.third) })
	}
}

// demanded is the list of what a box must withstand, by number from 1, and which other tests try
// it; a number without any is a probe of testdata/probes.txt.
var demanded = []struct{ what, tests string }{
	{"read /etc/shadow", ""},
	{"read /root, /home", ""},
	{"read the machine's /etc", "sandbox:TestInside"},
	{"write /usr/bin", ""},
	{"create in /", ""},
	{"write /etc", ""},
	{"make a directory in /", ""},
	{"set-uid on a file of /usr", ""},
	{"set-uid on a file of its own", "sandbox:checkMounts"},
	{"hard link of a scanner into /tmp", ""},
	{"symbolic link for whoever collects the output", "sandbox:TestFailures"},
	{"named pipe for whoever collects the output", "sandbox:TestFailures"},
	{"beyond the root by .., working directory", "sandbox:TestInside"},
	{"the root of process 1", ""},
	{"open_by_handle_at", ""},
	{"name_to_handle_at", ""},
	{"mknod", ""},
	{"devices", ""},
	{"write its own executable", ""},
	{"watch files of the machine", ""},
	{"mountinfo shows the box only", "sandbox:checkMounts"},
	{"no sysfs", ""},
	{"no cgroup file system", ""},
	{"sysrq-trigger", ""},
	{"write /proc/sys", ""},
	{"kcore, kmsg", ""},
	{"kallsyms", ""},
	{"/proc/keys", ""},
	{"/proc/cmdline", ""},
	{"pids: only its own", "sandbox:TestInside"},
	{"memory and environment of others", ""},
	{"dmesg", ""},
	{"bpf", ""},
	{"perf_event_open", ""},
	{"io_uring", ""},
	{"userfaultfd", ""},
	{"keys", ""},
	{"modules", ""},
	{"kexec", ""},
	{"reboot", ""},
	{"clock_settime", ""},
	{"sethostname", ""},
	{"personality", ""},
	{"iopl, ioperm", ""},
	{"modify_ldt", ""},
	{"x32", ""},
	{"int 0x80", ""},
	{"fanotify", ""},
	{"swapon, quotactl", ""},
	{"signals to all, to others", ""},
	{"ptrace", ""},
	{"process_vm_readv", ""},
	{"pidfd_getfd", ""},
	{"fork", ""},
	{"vfork and execve", ""},
	{"the one exec again", ""},
	{"exec of what it wrote", ""},
	{"exec of a memory file", ""},
	{"a set-uid program", ""},
	{"setuid(0)", ""},
	{"more capabilities", "sandbox:TestInside sandbox:TestInsideWithoutRaw"},
	{"bounding set", "sandbox:TestInside sandbox:TestInsideWithoutRaw"},
	{"no new privileges", "sandbox:TestInside"},
	{"seccomp mode", "sandbox:TestInside"},
	{"no inherited descriptor", "sandbox:TestInside sandbox:TestManyOpenFiles"},
	{"dumpable", ""},
	{"priority", ""},
	{"mount", ""},
	{"remount", ""},
	{"umount /proc", ""},
	{"the new mount calls", ""},
	{"pivot_root, chroot", ""},
	{"setns", ""},
	{"unshare", ""},
	{"clone into a namespace", ""},
	{"clone3", ""},
	{"TIOCSTI", ""},
	{"TIOCSTI with high bits", ""},
	{"TIOCLINUX", ""},
	{"no terminal", ""},
	{"Unix sockets of the machine", ""},
	{"abstract Unix sockets", ""},
	{"socketpair", ""},
	{"vsock", ""},
	{"AF_ALG", ""},
	{"AF_XDP", ""},
	{"TIPC, SCTP, MPTCP", ""},
	{"netlink families", ""},
	{"packet sockets without the grant", ""},
	{"other packet sockets", ""},
	{"interfaces of the machine", "sandbox:TestInside"},
	{"change of interfaces", ""},
	{"SO_MARK", ""},
	{"packet socket options", ""},
	{"SO_ATTACH_BPF", ""},
	{"IP_TRANSPARENT", ""},
	{"TCP_ULP", ""},
	{"getsockopt of iptables", ""},
	{"a port of the machine at 127.0.0.1", "sandbox/scope:TestASlotReachesItsScopeAndNothingElse"},
	{"169.254.169.254", ""},
	{"addresses off the scope, in every form", "sandbox/scope:TestNoAttackLeavesTheScope"},
	{"another name server", "sandbox/scope:TestASlotReachesItsScopeAndNothingElse"},
	{"System V memory, queues", ""},
	{"fork bomb", "sandbox:TestEnds test/vm:cases/41-processes.sh"},
	{"thread bomb", "test/vm:cases/41-processes.sh"},
	{"memory bomb", "test/vm:cases/40-memory.sh"},
	{"fill /tmp", ""},
	{"fill its inodes", ""},
	{"fill the output", "sandbox:TestEnds internal/launcher:TestAFullDiskRefusesAndRecovers"},
	{"descriptors", ""},
	{"mlock", ""},
	{"core dump", "sandbox:TestInside sandbox:TestEnds"},
	{"raise a limit", ""},
	{"processor time", "sandbox:TestEnds test/vm:cases/42-cpu.sh"},
	{"flood of output", "sandbox:TestEnds test/e2e:TestALimitedOutputEndsTruncated"},
	{"flood of packets", "none: the pace is the scanner's own; the kernel holds it to its targets and counts"},
	{"launcher killed at any moment", "sandbox:TestLauncherDies sandbox:TestLauncherDiesAtEveryStep test/e2e:TestAKilledLauncherTakesItsBoxesWithIt test/vm:cases/50-kill-launcher.sh"},
	{"deaf to signals", "sandbox:TestEnds"},
	{"a pid that is used again", "sandbox:TestNoStrangerIsKilled"},
	{"failure at every step", "sandbox:TestFaultAtEveryStep sandbox:TestCancelledAtEveryStep"},
	{"two hundred at once", "sandbox:TestTwoHundredAtOnce"},
	{"two boxes do not see each other", "sandbox:TestBoxesApart"},
	{"a slot used again", "sandbox/scope:TestSlotsLeaveNothing sandbox:TestNoLeaks"},
	{"options smuggled into argv", "runners:TestRefused runners:TestDangerousOptionsAreRefusedEverywhere"},
	{"an unknown system call", "sandbox:TestFilterAnswers"},
	{"a violation is told", "internal/front:TestHowAScanEndsIsHowItIsTold test/e2e:TestAHostileScannerThroughTheHouse"},
}

// Every number of the list has a probe or a test, and each test that it names is there.
func TestTheListIsWhole(t *testing.T) {
	tried := map[string]bool{}
	beyond := 0
	for _, row := range probeRows(t) {
		for _, n := range row.numbers {
			tried[n] = true
		}
		if row.numbers[0] == "+" {
			beyond++
		}
	}
	for i, w := range demanded {
		number := fmt.Sprint(i + 1)
		if why, ok := strings.CutPrefix(w.tests, "none: "); ok && !tried[number] {
			t.Logf("%s, %s: not tried: %s", number, w.what, why)
			continue
		}
		if !tried[number] && w.tests == "" {
			t.Errorf("%s, %s: nobody tries it", number, w.what)
		}
		delete(tried, number)
		for test := range strings.FieldsSeq(w.tests) {
			if !existing(t, test) {
				t.Errorf("%s, %s: there is no %s", number, w.what, test)
			}
		}
	}
	delete(tried, "+")
	if len(tried) > 0 || len(demanded) != 126 || beyond < 10 {
		t.Errorf("numbers that the list has not: %v; %d in the list, %d beyond it", tried, len(demanded), beyond)
	}
}

// existing looks for a test (DIRECTORY:FUNCTION or DIRECTORY:FILE).
func existing(t *testing.T, test string) bool {
	dir, name, _ := strings.Cut(test, ":")
	dir = filepath.Join("..", dir)
	if strings.HasSuffix(name, ".sh") {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	files, err := filepath.Glob(dir + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
