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
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// at makes a Sandbox whose launches fail, or hang, at a step.
func at(t testing.TB, fault, pause int) *Sandbox {
	t.Helper()
	s := opened(t, Config{Accept: accepted})
	s.fault, s.pause = fault, pause
	return s
}

// taken are the steps of a box with every layer; "own process" is of one without a root.
func taken() (steps []int) {
	for i, name := range stages() {
		if name != "own process" {
			steps = append(steps, i)
		}
	}
	return steps
}

// A launch that fails says at which step, and leaves nothing, whichever step it is.
func TestFaultAtEveryStep(t *testing.T) {
	names := stages()
	if len(names) < 15 || names[len(names)-1] != "exec" {
		t.Fatalf("steps %q", names)
	}
	for _, i := range taken() {
		t.Run(names[i], func(t *testing.T) {
			s := at(t, i, -1)
			spec := func() Spec {
				spec := wish(t, "nmap-raw", probe, "probe", "exit", "0")
				word, err := os.Open("/etc/services")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { word.Close() })
				spec.Inputs = []Input{{"words", word}}
				return spec
			}
			files := outputFiles(t).Files
			first, second := spec(), spec()
			before := state(t)
			for _, spec := range []Spec{first, second} {
				r := s.Run(t.Context(), spec, files)
				if r.Reason != Launch || r.Stage != names[i] || r.Err == nil || !strings.Contains(r.Err.Error(), "a test wants it so") {
					t.Errorf("got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
				}
			}
			if after := state(t); after != before {
				t.Errorf("before %+v, after %+v", before, after)
			}
			checkNothingLeft(t)
			s.fault = -1
			third := spec()
			if r := s.Run(t.Context(), third, files); r.Reason != Exited || r.Err != nil {
				t.Errorf("the next box: %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
			}
		})
	}
}

// A launch that is refused a descriptor, whichever of those that it takes, in the launcher or in the
// child, fails and leaves nothing: its cgroup, its mounts and what it had opened by then are gone.
func TestFaultAtEveryDescriptor(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 200, Max: old.Max}
	var taken []int
	free := func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		taken = nil
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
	defer free()
	stages := map[string]int{}
	s := at(t, -1, -1)
	files := outputFiles(t).Files
	warm := wish(t, "nmap-raw", probe, "probe", "exit", "0") // what Go makes once
	if r := s.Run(t.Context(), warm, files); r.Reason != Exited {
		t.Fatalf("%+v", r)
	}
	for left := 0; ; left++ {
		spec := wish(t, "nmap-raw", probe, "probe", "exit", "0")
		if left == 0 && stages["filter"] == 0 {
			spec.Limits.OpenFiles++ // a filter of its own: those that were made are kept
		}
		before := state(t)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		for {
			fd, err := unix.FcntlInt(s.self.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				break
			}
			taken = append(taken, fd)
		}
		if len(taken) < 60 {
			t.Fatalf("%d descriptors at first", len(taken))
		}
		for _, fd := range taken[:left] {
			unix.Close(fd)
		}
		taken = taken[left:]
		r := s.Run(t.Context(), spec, files)
		free()
		if after := state(t); after != before {
			t.Errorf("%d descriptors, stage %q: before %+v, after %+v", left, r.Stage, before, after)
		}
		checkNothingLeft(t)
		if r.Reason == Exited && r.Err == nil {
			break
		}
		if r.Reason != Launch || r.Err == nil {
			t.Fatalf("%d descriptors: got %s, stage %q, error %v", left, r.Reason, r.Stage, r.Err)
		}
		if stages[r.Stage]++; r.Stage == "filter" {
			left-- // the same once more, with the filter that there is
		}
		if left == 50 {
			t.Fatalf("it never comes to its end: %v", r.Err)
		}
	}
	if stages["cgroup"] == 0 || stages["hand over"] < 3 || stages["filter"] == 0 {
		t.Errorf("failed at %v", stages)
	}
	t.Log(stages)
}

// A limit that the kernel does not take leaves no cgroup behind.
func TestFaultAtEveryLimit(t *testing.T) {
	for _, controller := range []string{"memory", "pids", "cpu"} {
		if slices.Contains(box.features.Controllers, controller) {
			continue // the virtual machines have all; here is what is refused
		}
		s := opened(t, Config{Accept: accepted})
		s.features.Controllers = append(slices.Clone(s.features.Controllers), controller)
		before := state(t)
		r := s.Run(t.Context(), wish(t, "nmap-raw", probe, "probe", "exit", "0"), outputFiles(t).Files)
		if r.Reason != Launch || r.Stage != "cgroup" || r.Err == nil {
			t.Errorf("%s: got %s, stage %q, error %v", controller, r.Reason, r.Stage, r.Err)
		}
		after := state(t)
		if after.cgroups != before.cgroups || after.children != before.children {
			t.Errorf("%s: before %+v, after %+v", controller, before, after)
		}
		checkNothingLeft(t)
	}
}

// A job that is cancelled while its box is being built ends at once, whichever step hangs.
func TestCancelledAtEveryStep(t *testing.T) {
	names := stages()
	for _, i := range taken() {
		t.Run(names[i], func(t *testing.T) {
			s := at(t, -1, i)
			spec, files := wish(t, "nmap-raw", probe, "probe", "exit", "0"), outputFiles(t).Files
			before := state(t)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			began := time.Now()
			r := s.Run(ctx, spec, files)
			if took := time.Since(began); r.Reason != Timeout || took > time.Second || r.Err != nil || r.Stage != "" {
				t.Errorf("got %s after %s, stage %q, error %v", r.Reason, took, r.Stage, r.Err)
			}
			if after := state(t); after != before {
				t.Errorf("before %+v, after %+v", before, after)
			}
			checkNothingLeft(t)
		})
	}
}

// A launcher that is killed while its box hangs at a step takes the box along, by its death
// signal or, before that is asked for, because the step after it asks who is still there.
func TestLauncherDiesAtEveryStep(t *testing.T) {
	names := stages()
	for _, i := range taken() {
		t.Run(names[i], func(t *testing.T) {
			cmd, cgroup := startLauncher(t, t.TempDir(), fmt.Sprintf("SECMCPD_PAUSE=%d", i))
			if !within(5*time.Second, func() bool { return len(alive(cgroup)) == 1 }) {
				t.Errorf("no box: %v", alive(cgroup))
			}
			time.Sleep(5 * time.Millisecond) // to the step
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if !within(2*time.Second, func() bool { return len(alive(cgroup)) == 0 }) {
				t.Errorf("alive 2 s after their launcher: %v", alive(cgroup))
			}
		})
	}
}

// 200 boxes at once, each in a network and under a uid of its own as in a slot, all come to a good
// end and leave nothing. Each has room for one process: none counts for another.
func TestTwoHundredAtOnce(t *testing.T) {
	type one struct {
		spec  Spec
		files output
	}
	var all []one
	for i := range 200 {
		spec := wish(t, "nmap-connect", probe, "probe", "exit", "0")
		spec.UID += uint32(i)
		spec.Limits.Pids = 1
		all = append(all, one{spec, outputFiles(t)})
	}
	before := state(t)
	results := make(chan Result)
	for _, b := range all {
		go func() { results <- box.Run(t.Context(), b.spec, b.files.Files) }()
	}
	for range all {
		if r := <-results; r.Reason != Exited || r.Code != 0 || r.Err != nil {
			t.Errorf("got %s, code %d, stage %q, error %v", r.Reason, r.Code, r.Stage, r.Err)
		}
	}
	if after := state(t); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
	checkNothingLeft(t)
}

// changed makes the machine one that no template shows yet.
func changed(t *testing.T) {
	t.Helper()
	name := "etc/secmcpd-test-changed-" + jobName()
	if err := os.WriteFile("/"+name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	etcFiles = append(etcFiles, name)
	t.Cleanup(func() {
		etcFiles = slices.DeleteFunc(etcFiles, func(s string) bool { return s == name })
		os.Remove("/" + name)
	})
}

// A job that is over before a thread has come to it is not launched later: its descriptors are
// somebody else's by then.
func TestGivenUpIsNeverLaunched(t *testing.T) {
	s := opened(t, Config{Accept: append([]string{Cgroup}, accepted...)})
	release, came, launched := make(chan struct{}), make(chan struct{}, 1), make(chan struct{}, 1)
	s.hook = func(at string) {
		switch at {
		case "anew":
			came <- struct{}{}
			<-release
		case "taken":
			launched <- struct{}{}
			runtime.Goexit()
		}
	}
	spec, files := wish(t, "nmap-raw", probe, "probe", "deaf"), outputFiles(t)
	spec.Without = []string{Cgroup, CgroupMemory, CgroupPids, CgroupCPU, CgroupIO}
	changed(t)
	before := state(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	r := s.Run(ctx, spec, files.Files)
	if took := time.Since(began); r.Reason != Timeout || r.Stage != "" || r.Err != nil || took > time.Second {
		t.Errorf("got %s after %s, stage %q, error %v", r.Reason, took, r.Stage, r.Err)
	}
	<-came // it was under way to a thread
	close(release)
	select {
	case <-launched:
		t.Error("it was launched after Run had returned")
	case <-time.After(500 * time.Millisecond):
	}
	if after := state(t); after.children != before.children {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// A launch that hangs and cannot be killed is told, also when its job is over: its slot must be
// given to nobody.
func TestLaunchThatHangs(t *testing.T) {
	s := opened(t, Config{Accept: accepted})
	release := make(chan struct{})
	defer close(release)
	s.hook = func(string) { <-release; runtime.Goexit() }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := s.Run(ctx, wish(t, "nmap-raw", probe, "probe", "exit", "0"), outputFiles(t).Files)
	if r.Reason != Timeout || r.Stage != "launch" || !errors.Is(r.Err, ErrAlive) {
		t.Errorf("got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
	}
}

// Where no root can be made, a launch says so and ends.
func TestNoRoot(t *testing.T) {
	s := opened(t, Config{Accept: accepted})
	changed(t)
	devices = append(devices, "etc/services") // shown twice: its place is taken
	links["etc/services"] = "nowhere"
	defer func() { devices = devices[:len(devices)-1]; delete(links, "etc/services") }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r := s.Run(ctx, wish(t, "nmap-raw", probe, "probe", "exit", "0"), outputFiles(t).Files)
	if r.Reason != Launch || r.Stage != "root" || r.Err == nil {
		t.Errorf("got %s, stage %q, error %v", r.Reason, r.Stage, r.Err)
	}
	checkNothingLeft(t)
}

// What a package upgrade replaces, the next box shows; those that run keep what they have.
func TestTemplateFollowsTheMachine(t *testing.T) {
	name := fmt.Sprintf("etc/secmcpd-test-services-%d", os.Getpid())
	etcFiles = append(etcFiles, name)
	defer func() { etcFiles = slices.DeleteFunc(etcFiles, func(s string) bool { return s == name }) }()
	put := func(content string) {
		t.Helper()
		if err := os.WriteFile("/"+name+".new", []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod("/"+name+".new", 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename("/"+name+".new", "/"+name); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Remove("/" + name)
	s := opened(t, Config{Accept: accepted})
	for _, content := range []string{"first", "second", "third"} {
		put(content + "\n")
		for range 2 * threads { // whichever thread gets it
			got := succeed(t, s, wish(t, "nmap-raw", probe, "probe", "show", "/"+name))
			if strings.TrimSpace(got) != "/"+name+": "+content {
				t.Fatalf("the box shows %q, the machine has %q", got, content)
			}
		}
	}
	checkNothingLeft(t)
	// A box that runs while its thread is replaced lives on.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan Result)
	spec, files := wish(t, "nmap-raw", probe, "probe", "deaf"), outputFiles(t)
	go func() { ended <- s.Run(ctx, spec, files.Files) }()
	within(5*time.Second, func() bool { return fileSize(files.Stdout.Name()) > 0 })
	put("fourth\n")
	for range 2 * threads {
		succeed(t, s, wish(t, "nmap-raw", probe, "probe", "exit", "0"))
	}
	select {
	case r := <-ended:
		t.Errorf("the running box ended: %+v", r)
	case <-time.After(200 * time.Millisecond):
	}
	cancel()
	if r := <-ended; r.Reason != Cancelled {
		t.Errorf("got %+v", r)
	}
}

// A root that was replaced takes its rules along: what the machine changes costs no descriptor.
func TestNoRulesOfOldRoots(t *testing.T) {
	if box.features.LandlockABI < 1 {
		t.Fatal("this kernel has no Landlock")
	}
	rules := func() (n int) {
		names, _ := filepath.Glob("/proc/self/fd/*")
		for _, name := range names {
			if target, err := os.Readlink(name); err == nil && strings.Contains(target, "landlock-ruleset") {
				n++
			}
		}
		return n
	}
	before := rules()
	s := opened(t, Config{Accept: accepted})
	own := rules() - before // two for each thread
	for range 3 {
		changed(t)
		for range 4 * threads {
			succeed(t, s, wish(t, "nmap-raw", probe, "probe", "exit", "0"))
		}
	}
	if own < 2 || !within(5*time.Second, func() bool { return rules()-before <= own }) {
		t.Errorf("%d rules at first, %d after three changes", own, rules()-before)
	}
}

// The launcher is asked for twice on the way: in a moment of its death there is nobody who would send
// the death signal, and the first question may come before it.
func TestLauncherIsAskedForTwice(t *testing.T) {
	gone := exec.Command("/usr/bin/true")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(gone.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	gone.Wait()
	for _, row := range []struct{ stage, without string }{{"death signal", ""}, {"descriptors", Landlock}} {
		s := opened(t, Config{Accept: append([]string{Landlock}, accepted...)})
		kept := s.self
		s.self = os.NewFile(uintptr(fd), "launcher")
		spec := wish(t, "nmap-raw", probe, "probe", "exit", "0")
		if row.without != "" { // in place of a death between the two
			spec.Without = []string{row.without}
			layerOf["death signal"] = row.without
		}
		r := s.Run(t.Context(), spec, outputFiles(t).Files)
		delete(layerOf, "death signal")
		s.self = kept
		if r.Reason != Launch || r.Stage != row.stage || r.Err == nil || !strings.Contains(r.Err.Error(), "the launcher is gone") {
			t.Errorf("%s: got %s, stage %q, error %v", row.stage, r.Reason, r.Stage, r.Err)
		}
	}
}

// The scanner's number is not taken from what the launch still needs, whatever the launcher has
// open: here every number around it.
func TestManyOpenFiles(t *testing.T) {
	var rlimit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rlimit); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var open []*os.File
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	for i := range 400 {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(i)), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	for i, f := range open { // each in turn is the output
		if f.Fd() < 250 || f.Fd() > 262 {
			continue
		}
		spec := wish(t, "nmap-raw", probe, "probe", "exit", "0")
		spec.Limits.OpenFiles = 256
		if r := box.Run(t.Context(), spec, Files{Stdout: f, Stderr: open[i+1]}); r.Reason != Exited || r.Code != 0 || r.Err != nil {
			t.Errorf("output at %d: %s, code %d, stage %q, error %v", f.Fd(), r.Reason, r.Code, r.Stage, r.Err)
		}
	}
	// And when the scanner itself is at the number.
	for _, f := range open {
		if f.Fd() == 256 {
			number := int(f.Fd())
			exe, err := unix.Open(probe, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Dup3(exe, number, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			unix.Close(exe)
			spec := wish(t, "nmap-raw", probe, "probe", "exit", "0")
			spec.Limits.OpenFiles, spec.Exe = 256, f
			if r := box.Run(t.Context(), spec, outputFiles(t).Files); r.Reason != Exited || r.Err != nil {
				t.Errorf("scanner at %d: %s, stage %q, error %v", number, r.Reason, r.Stage, r.Err)
			}
			return
		}
	}
	t.Error("no file got the number 256")
}
