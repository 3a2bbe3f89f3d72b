package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How a box ends, and that it ends in time whatever the scanner does.
func TestEnds(t *testing.T) {
	patient := opened(t, Config{Accept: append([]string{Seccomp, Rlimits}, accepted...)})
	for _, row := range []struct {
		says   string
		argv   string
		change func(*Spec)
		cancel time.Duration
		want   Result
	}{
		{says: "a scanner that is content", argv: "exit 0", want: Result{Reason: Exited}},
		{says: "a scanner that complains", argv: "exit 3", want: Result{Reason: Exited, Code: 3}},
		// abort raises a signal that pid 1 does not get from itself; libc then runs into an illegal instruction, which it does.
		{says: "a scanner that crashes", argv: "abort", want: Result{Reason: Signalled, Signal: int(unix.SIGSEGV)}},
		{says: "a scanner that mounts", argv: "mount", want: Result{Reason: Violation, Signal: int(unix.SIGSYS)}},
		{says: "a client that goes away", argv: "sleep", cancel: 300 * time.Millisecond, want: Result{Reason: Cancelled, Signal: 9}},
		{says: "a scanner that ignores every signal", argv: "deaf", cancel: 300 * time.Millisecond, want: Result{Reason: Cancelled, Signal: 9}},
		{says: "a scanner with deaf grandchildren", argv: "crowd", cancel: 300 * time.Millisecond,
			change: func(s *Spec) { s.Without = []string{Seccomp} }, want: Result{Reason: Cancelled, Signal: 9}},
		{says: "a scan that takes too long", argv: "deaf",
			change: func(s *Spec) { s.Limits.Wall = 300 * time.Millisecond }, want: Result{Reason: Timeout, Signal: 9}},
		{says: "a flood of output", argv: "flood", change: func(s *Spec) { s.Limits.Output = 1 << 20 }, want: Result{Reason: Output, Signal: 9}},
		{says: "a flood with nothing but the watch against it", argv: "flood",
			change: func(s *Spec) { s.Limits.Output = 1 << 20; s.Without = []string{Rlimits} }, want: Result{Reason: Output, Signal: 9}},
		{says: "a flood of both outputs, deaf to the signal of the limit", argv: "flood-both",
			change: func(s *Spec) { s.Limits.Output = 1 << 20 }, want: Result{Reason: Output, Signal: 9}},
		{says: "a scanner that computes for ever", argv: "spin",
			change: func(s *Spec) { s.Limits.CPU = time.Second }, want: Result{Reason: CPU, Signal: 9}},
	} {
		spec := wish(t, "nmap-raw", probe, append([]string{"probe"}, strings.Fields(row.argv)...)...)
		if row.change != nil {
			row.change(&spec)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if row.cancel > 0 {
			time.AfterFunc(row.cancel, cancel)
		}
		began := time.Now()
		r := patient.Run(ctx, spec, outputFiles(t).Files)
		cancel()
		took := time.Since(began)
		if row.want.Reason == CPU { // what it used counts: on a busy machine it waits for the processor, too
			took = r.Usage.CPU
			if took < spec.Limits.CPU {
				t.Errorf("%s: ended after %s of processor time", row.says, took)
			}
		}
		if took > 2*time.Second+row.cancel {
			t.Errorf("%s: took %s", row.says, took)
		}
		if r.Reason != row.want.Reason || r.Code != row.want.Code || r.Signal != row.want.Signal || r.Err != nil || r.Stage != "" {
			t.Errorf("%s: got %s, code %d, signal %d, stage %q, error %v", row.says, r.Reason, r.Code, r.Signal, r.Stage, r.Err)
		}
		bound := spec.Limits.Output + fenceSlack // of each file
		if row.argv == "flood-both" {
			bound *= 2
		}
		if r.Reason == Output && (r.Usage.Output <= 1<<20 || r.Usage.Output > bound && len(spec.Without) == 0) {
			t.Errorf("%s: %d bytes written", row.says, r.Usage.Output)
		}
	}
}

// A context that is over already starts nothing that stays.
func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := box.Run(ctx, wish(t, "nmap-raw", probe, "probe", "sleep"), outputFiles(t).Files)
	if r.Reason != Cancelled {
		t.Errorf("got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
	}
	checkNothingLeft(t)
}

// Usage is measured, not guessed: the scanner computes until its own clock of processor time shows
// 300 ms, however busy the machine is, and then sleeps for 200 ms.
func TestUsage(t *testing.T) {
	r, _, _ := run(t, box, wish(t, "nmap-raw", probe, "probe", "burn"))
	u := r.Usage
	if r.Reason != Exited || u.CPU < 300*time.Millisecond || u.CPU > 600*time.Millisecond || u.Wall < 500*time.Millisecond || u.Wall > 2*time.Second+u.WaitedCPU ||
		u.Memory != 0 || u.Start == 0 || u.Start > time.Second {
		t.Errorf("%s, usage %+v", r.Reason, u)
	}
}

// What the kernel counts beside: two tasks that want one processor make each other wait.
func TestPressure(t *testing.T) {
	if _, err := os.Stat("/proc/pressure/cpu"); err != nil {
		t.Fatal("this kernel does not count pressure: ", err)
	}
	results := make(chan Result)
	for range 2 * runtime.NumCPU() {
		spec, files := wish(t, "nmap-raw", probe, "probe", "spin"), outputFiles(t)
		spec.Limits.Wall = 600 * time.Millisecond
		go func() { results <- box.Run(t.Context(), spec, files.Files) }()
	}
	var waited time.Duration
	for range 2 * runtime.NumCPU() {
		waited += (<-results).Usage.WaitedCPU
	}
	if waited < 100*time.Millisecond || waited > 10*time.Second {
		t.Errorf("the boxes waited %s for a processor", waited)
	}
}

// What names the end, when the kernel gives more than one sign of it.
func TestReason(t *testing.T) {
	l := Limits{Output: 100, CPU: time.Second}
	for _, row := range []struct {
		says    string
		stopped string
		code    int
		signal  syscall.Signal
		usage   Usage
		want    string
	}{
		{"ended well", "", 0, 0, Usage{}, Exited},
		{"we stopped it", Cancelled, 0, unix.SIGKILL, Usage{OOMKills: 1}, Cancelled},
		{"the kernel ran out of its memory", "", 0, unix.SIGKILL, Usage{OOMKills: 1}, Memory},
		{"it was killed and no limit tells why", "", 0, unix.SIGKILL, Usage{}, Signalled},
		{"its filter killed it", "", 0, unix.SIGSYS, Usage{}, Violation},
		{"it wrote too much just before its end", "", 0, 0, Usage{Output: 101}, Output},
		{"the file limit stopped it", "", 0, unix.SIGXFSZ, Usage{}, Output},
		{"the processor limit stopped it", "", 0, unix.SIGXCPU, Usage{}, CPU},
		{"so hard that it got no warning", "", 0, unix.SIGKILL, Usage{CPU: time.Second}, CPU},
		{"it wanted more threads and gave up", "", 1, 0, Usage{PidsRefused: 1}, Pids},
		{"it wanted more threads and went on", "", 0, 0, Usage{PidsRefused: 1}, Exited},
		{"it crashed", "", 0, unix.SIGSEGV, Usage{}, Signalled},
	} {
		if got := reasonOf(row.stopped, row.code, row.signal, row.usage, l); got != row.want {
			t.Errorf("%s: got %s, want %s", row.says, got, row.want)
		}
	}
}

// A launch that fails says where, and leaves nothing.
func TestFailures(t *testing.T) {
	strict := opened(t, Config{})
	notNet, err := os.Open("/usr/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer notNet.Close()
	closed, err := os.Open(probe)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	script := filepath.Join(t.TempDir(), "script")
	if err := errors.Join(os.WriteFile(script, []byte("text, not a program"), 0o755), os.Chmod(script, 0o755)); err != nil {
		t.Fatal(err)
	}
	before := state(t)
	for _, row := range []struct {
		says   string
		box    *Sandbox
		exe    string
		change func(*Spec, *Files)
		stage  string
		error  string
	}{
		{"an unknown box", box, probe, func(s *Spec, _ *Files) { s.Box = "netcat" }, "spec", `box "netcat" is none of`},
		{"a job that climbs", box, probe, func(s *Spec, _ *Files) { s.Job = "../x" }, "spec", `job "../x"`},
		{"no bound of memory", box, probe, func(s *Spec, _ *Files) { s.Limits.Memory = 0 }, "spec", "memory"},
		{"raw where it does not belong", box, probe, func(s *Spec, _ *Files) { s.Box = "gobuster" }, "spec", "raw sockets are false"},
		{"layers that are not there", strict, probe, nil, "fit", "cgroup-memory: controller memory is not available"},
		{"a layer left out", box, probe, func(s *Spec, _ *Files) { s.Without = []string{Seccomp} }, "fit", "without seccomp"},
		{"no network namespace", box, probe, func(s *Spec, _ *Files) { s.NetNS = nil }, "fit", "no network namespace"},
		{"output to a device", box, probe, func(_ *Spec, f *Files) { f.Stdout = null }, "files", "not a regular file"},
		{"no output", box, probe, func(_ *Spec, f *Files) { f.Stderr = nil }, "files", "without files"},
		{"a job that exists", box, probe, func(s *Spec, _ *Files) { s.Job = "taken" }, "cgroup", "file exists"},
		{"something else than a network", box, probe, func(s *Spec, _ *Files) { s.NetNS = notNet }, "network", "invalid argument"},
		{"more open files than the launcher may have", box, probe, func(s *Spec, _ *Files) { s.Limits.OpenFiles = 65536 }, "scanner", "cannot raise the limit of open files"},
		{"a scanner that was closed", box, probe, func(s *Spec, _ *Files) { s.Exe = closed }, "hand over", "bad file descriptor"},
		{"root as a slot", box, probe, func(s *Spec, _ *Files) { s.UID = 0 }, "user", "a slot is not root"},
		{"a scanner that is no program", box, script, nil, "exec", "exec format error"},
		{"a scanner that is a directory", box, "/usr/share", nil, "exec", "permission denied"},
	} {
		t.Run(row.says, func(t *testing.T) {
			spec, files := wish(t, "nmap-raw", row.exe, "probe", "exit", "0"), outputFiles(t).Files
			if row.change != nil {
				row.change(&spec, &files)
			}
			if spec.Job == "taken" {
				defer os.Remove(makeLeaf(t, "taken"))
			}
			r := row.box.Run(t.Context(), spec, files)
			if r.Reason != Launch || r.Stage != row.stage || r.Err == nil || !strings.Contains(r.Err.Error(), row.error) {
				t.Errorf("got %s, stage %q, error %v; want stage %q, error with %q", r.Reason, r.Stage, r.Err, row.stage, row.error)
			}
		})
	}
	if after := state(t); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
	checkNothingLeft(t)
}

func makeLeaf(t *testing.T, job string) string {
	t.Helper()
	dir := filepath.Join(box.features.Cgroup, together, leafPrefix+job)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What was swapped after it was hashed does not run.
func TestSwappedScanner(t *testing.T) {
	// Under /usr the box opens the path again, so that is where it must not be fooled.
	dir, err := os.MkdirTemp("/usr/lib", "secmcpd-test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "scanner")
	command(t, "install", "-m", "755", probe, name)
	spec := wish(t, "nmap-raw", name, "probe", "exit", "0")
	if r, _, _ := run(t, box, spec); r.Reason != Exited || r.Err != nil {
		t.Fatalf("not swapped: got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
	}
	spec.Job = jobName()
	command(t, "mv", name, name+".old")
	command(t, "install", "-m", "755", "/usr/bin/true", name)
	// The descriptor's own name follows the move; a link count games the other way round.
	if err := unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, name+".old", unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	r, _, _ := run(t, box, spec)
	if r.Reason != Exited || r.Code != 0 {
		t.Errorf("moved: got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
	}
	// Gone from its directory there is no path to it, and nothing else is taken for it.
	spec.Job = jobName()
	os.Remove(name)
	command(t, "install", "-m", "755", "/usr/bin/true", name+" (deleted)")
	r, _, _ = run(t, box, spec)
	if r.Reason != Launch || r.Stage != "scanner" || r.Err == nil || !strings.Contains(r.Err.Error(), "not the file that was checked") {
		t.Errorf("swapped: got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
	}
}

// counts of what a launch could leave behind
type machine struct{ fds, mounts, cgroups, children int }

func state(t testing.TB) machine {
	t.Helper()
	count := func(glob string) int {
		found, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return machine{
		fds:      count("/proc/self/fd/*"),
		mounts:   strings.Count(string(mounts), "\n"),
		cgroups:  count(box.features.Cgroup+"/*/cgroup.procs") + count(box.features.Cgroup+"/boxes/*/cgroup.procs"),
		children: childCount(t),
	}
}

// childCount counts the children of all threads of this process, zombies too.
func childCount(t testing.TB) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("this kernel does not list children")
	}
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil {
			n += len(strings.Fields(string(data)))
		}
	}
	return n
}

// checkNothingLeft looks at the cgroup: only this process is in it, in its leaf.
func checkNothingLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(box.features.Cgroup + "/boxes/box-*")
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if n := childCount(t); n > 0 {
		t.Errorf("%d children left", n)
	}
}

// Fifty boxes, every other one failing, leave the process as it was.
func TestNoLeaks(t *testing.T) {
	one := func(t *testing.T) {
		i := jobs
		spec := wish(t, "nmap-raw", probe, "probe", "exit", "0")
		switch i % 4 {
		case 1:
			spec.UID = 0 // fails inside
		case 2:
			spec.Argv = []string{"probe", "mount"} // dies by its filter
		case 3:
			spec.NetNS = spec.Exe // fails at the first step
		}
		box.Run(t.Context(), spec, outputFiles(t).Files)
	}
	for range 4 {
		t.Run("first", one) // what Go makes once
	}
	before := state(t)
	for range 50 {
		t.Run("again", one)
	}
	if after := state(t); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
	checkNothingLeft(t)
}

// Many boxes at once all come to a good end.
func TestParallel(t *testing.T) {
	before := state(t)
	t.Run("boxes", func(t *testing.T) {
		for range 96 {
			spec := wish(t, "nmap-connect", probe, "probe", "exit", "0")
			t.Run(spec.Job, func(t *testing.T) {
				t.Parallel()
				succeed(t, box, spec)
			})
		}
	})
	if after := state(t); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
	checkNothingLeft(t)
}

// Leftovers of a launcher that died are killed and removed.
func TestReclaim(t *testing.T) {
	dir := makeLeaf(t, "left-over")
	fd, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	p, err := os.StartProcess(probe, []string{"probe", "deaf"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}})
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Reclaim(); err != nil {
		t.Error(err)
	}
	state, err := p.Wait()
	if err != nil || state.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("left-over process: %v %v", state, err)
	}
	checkNothingLeft(t)
}

// A sandbox that is closed starts nothing.
func TestClosed(t *testing.T) {
	s, err := Open(Config{Accept: accepted})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r, _, _ := run(t, s, wish(t, "nmap-raw", probe, "probe", "exit", "0")); r.Reason != Launch || r.Stage != "open" {
		t.Errorf("got %s, stage %q", r.Reason, r.Stage)
	}
	if _, err := Open(Config{Accept: []string{"seccmop"}}); err == nil || !strings.Contains(err.Error(), "seccmop") {
		t.Errorf("a layer that is none: %v", err)
	}
}

// What is written into a box's cgroup before there is a process; that a kernel holds it to
// that, the virtual machines show.
func TestControls(t *testing.T) {
	total := Total{Memory: 1 << 30, Pids: 100, CPUPercent: 150}.controls([]string{"cpu", "memory", "pids"})
	if want := []control{{"memory.max", "1073741824", false}, {"memory.swap.max", "0", true}, {"pids.max", "100", false}, {"cpu.max", "150000 100000", false}}; !slices.Equal(total, want) {
		t.Errorf("all together: got %v, want %v", total, want)
	}
	for _, c := range (Total{}).controls([]string{"cpu", "memory", "pids"}) {
		if c.file != "memory.swap.max" && !strings.HasPrefix(c.value, "max") {
			t.Errorf("no limit for all together: %v", c)
		}
	}
	memory := []control{{"memory.max", "536870912", false}, {"memory.oom.group", "1", false}, {"memory.swap.max", "0", true}}
	for _, row := range []struct {
		says    string
		without []string
		change  func(*Limits)
		want    []control
	}{
		{"all", nil, func(*Limits) {}, append(memory, control{"pids.max", "64", false}, control{"cpu.max", "100000 100000", false})},
		{"half a processor", []string{CgroupMemory, CgroupPids}, func(l *Limits) { l.CPUPercent = 50 }, []control{{"cpu.max", "50000 100000", false}}},
		{"one task", []string{CgroupMemory, CgroupCPU}, func(l *Limits) { l.Pids = 1 }, []control{{"pids.max", "1", false}}},
		{"no throttle", []string{CgroupMemory, CgroupPids}, func(l *Limits) { l.CPUPercent = 0 }, nil},
		{"a disk not kept busy", []string{CgroupMemory, CgroupPids, CgroupCPU}, func(l *Limits) { l.IO = 4 << 20 }, []control{{"io.max", "8:0 rbps=4194304 wbps=4194304", false}}},
		{"no controllers", accepted, func(*Limits) {}, nil},
	} {
		spec := Spec{Job: "j", Limits: limits(), Without: row.without}
		row.change(&spec.Limits)
		if got := controls(spec, []string{"8:0"}); !slices.Equal(got, row.want) {
			t.Errorf("%s: got %v, want %v", row.says, got, row.want)
		}
	}
}

// What a box costs: from Run to the scanner's first instruction, and in all.
func BenchmarkLaunch(b *testing.B) {
	files := outputFiles(b).Files
	spec := wish(b, "nmap-connect", "/usr/bin/true", "true")
	var starts []time.Duration
	for b.Loop() {
		spec.Job = jobName()
		r := box.Run(b.Context(), spec, files)
		if r.Reason != Exited || r.Err != nil {
			b.Fatal(r)
		}
		starts = append(starts, r.Usage.Start)
	}
	slices.Sort(starts)
	b.ReportMetric(float64(starts[len(starts)/2].Microseconds()), "µs-to-exec")
}

// The same program without a box, to compare.
func BenchmarkBare(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/usr/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

// A box without a cgroup is stopped by its number and its group's. Whoever gets that number the
// moment it is free must not be hit: strangers wait for it here.
func TestNoStrangerIsKilled(t *testing.T) {
	s := opened(t, Config{Accept: append([]string{Cgroup}, accepted...)})
	hits := 0
	for range 20 {
		spec := wish(t, "nmap-connect", probe, "probe", "sleep")
		spec.Without = []string{Cgroup, CgroupMemory, CgroupPids, CgroupCPU, CgroupIO}
		ended := make(chan Result)
		go func() { ended <- s.Run(t.Context(), spec, outputFiles(t).Files) }()
		var pid int
		if !within(5*time.Second, func() bool { pid = scannerOf(t, slotUID); return pid > 0 }) {
			t.Fatal("the scanner does not run")
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var strangers []*exec.Cmd
		var r Result
		for running := true; running || len(strangers) < 3; {
			stranger := exec.Command("sleep", "100")
			stranger.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid-1), 0); err != nil {
				t.Fatal(err)
			}
			if err := stranger.Start(); err != nil {
				t.Fatal(err)
			}
			strangers = append(strangers, stranger)
			if stranger.Process.Pid == pid {
				hits++
			}
			select {
			case r = <-ended:
				running = false
			default:
			}
		}
		if r.Reason != Signalled || r.Signal != int(unix.SIGKILL) || r.Err != nil {
			t.Errorf("ended %s, signal %d, %v", r.Reason, r.Signal, r.Err)
		}
		for _, stranger := range strangers {
			if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
				t.Errorf("a stranger is gone: %v", err)
			}
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", stranger.Process.Pid)); err != nil || strings.Contains(string(b), ") Z ") {
				t.Errorf("a stranger was killed: %s %v", b, err)
			}
			stranger.Process.Kill()
			stranger.Wait()
		}
	}
	if hits == 0 {
		t.Error("nobody got the number of a scanner: nothing was tried")
	}
	t.Logf("%d strangers had the number of a scanner", hits)
}

// scannerOf finds the process of a user that has executed the probe.
func scannerOf(t *testing.T, uid uint32) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var st unix.Stat_t
		if exe, err := os.Readlink(name); err != nil || filepath.Base(exe) != "scanner" && filepath.Base(exe) != "probe" || unix.Stat(filepath.Dir(name), &st) != nil || st.Uid != uid {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(name, "/proc/%d/exe", &pid); err == nil {
			return pid
		}
	}
	return 0
}

// Since Linux 6.11 a task that the limit of all boxes refused counts there, and not in the box that
// wanted it: which box ended of it is told all the same.
func TestRefusedByTheLimitOfAll(t *testing.T) {
	well, badly, killed := unix.WaitStatus(0), unix.WaitStatus(1<<8), unix.WaitStatus(unix.SIGABRT)
	for _, row := range []struct {
		says          string
		before, after string
		ended         *unix.WaitStatus
		want          int64
		reason        string
	}{
		{"refused while it ran, and it failed", "max 3\n", "max 5\n", &badly, 2, Pids},
		{"refused while it ran, and it crashed", "max 3\n", "max 4\n", &killed, 1, Pids},
		{"refused while it ran, and it did not mind", "max 3\n", "max 5\n", &well, 0, Exited},
		{"refused before, and it failed", "max 3\n", "max 3\n", &badly, 0, Exited},
		{"an older kernel", "", "", &badly, 0, Exited},
	} {
		boxes := t.TempDir()
		put := func(text string) {
			if text == "" {
				return
			}
			if err := os.WriteFile(filepath.Join(boxes, "pids.events.local"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(row.before)
		b := &running{leaf: &leaf{dir: filepath.Join(boxes, "box-x")}}
		b.refused = refusedTogether(b.leaf.all())
		put(row.after)
		u := Usage{PidsRefused: b.refusedOf(b.leaf.all(), row.ended)}
		why, _, _ := reason("", row.ended, u, limits())
		if u.PidsRefused != row.want || why != row.reason {
			t.Errorf("%s: %d refused, %s; want %d, %s", row.says, u.PidsRefused, why, row.want, row.reason)
		}
	}
}

// The disk under a file is found by its number or, where that is none of a device, by its mount; where
// neither tells, the limit is not said to be in force.
func TestDisks(t *testing.T) {
	over := t.TempDir()
	inThread(t, func() error { // as a container has its root
		return unix.Mount("overlay", over, "overlay", 0, "lowerdir="+t.TempDir()+":"+t.TempDir())
	})
	t.Cleanup(func() { _ = unix.Unmount(over, unix.MNT_DETACH) })
	s := opened(t, Config{Accept: Layers})
	inMemory, err := memFile("x")
	if err != nil {
		t.Fatal(err)
	}
	defer inMemory.Close()
	onOverlay, err := os.Open(over)
	if err != nil {
		t.Fatal(err)
	}
	defer onOverlay.Close()
	self, err := os.Open(probe)
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	for _, row := range []struct {
		says    string
		file    *os.File
		disk    bool
		unknown bool
	}{{"on a disk", self, true, false}, {"in memory", inMemory, false, false}, {"on an overlay", onOverlay, false, true}} {
		spec := Spec{Limits: Limits{IO: 1 << 20}, Exe: row.file}
		found, unknown, err := s.disks(spec, Files{})
		if err != nil || len(found) > 0 != row.disk || unknown != row.unknown {
			t.Errorf("%s: disks %v, unknown %v, %v", row.says, found, unknown, err)
		}
	}
	if sourceOf(self) == 0 || lookUpDisk(sourceOf(self)) == "" {
		t.Error("no disk by the mount")
	}
	const mounts = "30 1 0:28 /root / rw - btrfs /dev/sda2 rw,subvol=/root\n3 1 0:40 / / rw - overlay overlay rw\n"
	for id, want := range map[uint64]string{30: "/dev/sda2", 3: "overlay", 31: ""} {
		if got := mountSource(mounts, id); got != want {
			t.Errorf("source of mount %d: %q, want %q", id, got, want)
		}
	}
}

// A limit of disks that does not hold is said, and refuses a box where it is not accepted.
func TestUnknownDiskIsAGap(t *testing.T) {
	strict := opened(t, Config{Accept: []string{CgroupMemory, CgroupPids, CgroupCPU}})
	strict.features.Controllers = append(strict.features.Controllers, "io", "memory", "pids", "cpu")
	spec, files := wish(t, "nmap-connect", probe, "probe", "exit", "0"), outputFiles(t).Files
	spec.Limits.IO = 1 << 20
	var stat unix.Stat_t
	if err := unix.Fstat(int(files.Stdout.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	strict.devices[stat.Dev] = disk{unknown: true}
	r := strict.Run(t.Context(), spec, files)
	if r.Reason != Launch || r.Stage != "fit" || r.Err == nil || !strings.Contains(r.Err.Error(), "names no disk") || len(r.NotEnforced) != 1 || r.NotEnforced[0].Layer != CgroupIO {
		t.Errorf("%s, stage %q, %v, gaps %v", r.Reason, r.Stage, r.Err, r.NotEnforced)
	}
}
