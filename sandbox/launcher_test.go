package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// launcherMain is a launcher that is about to die: it starts one deaf scanner
// and waits for it. What it needs comes in its environment.
func launcherMain() int {
	s, err := Open(Config{Accept: accepted})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if step := os.Getenv("SECMCPD_PAUSE"); step != "" {
		if s.pause, err = strconv.Atoi(step); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	spec, files, err := bare(os.Getenv("SECMCPD_PROBE"), os.Getenv("SECMCPD_DIR"), "version", "probe", "deaf")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	r := s.Run(context.Background(), spec, files)
	fmt.Println("cannot have ended:", r.Reason, r.Stage, r.Err)
	return 1
}

// bare makes a Spec without a testing.T to clean up after it.
func bare(exe, dir, profile string, argv ...string) (s Spec, files Files, err error) {
	if s.Exe, err = os.Open(exe); err != nil {
		return s, files, err
	}
	job := jobName()
	for name, f := range map[string]**os.File{"out": &files.Stdout, "err": &files.Stderr} {
		if *f, err = os.OpenFile(filepath.Join(dir, job+"."+name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
			return s, files, err
		}
	}
	s.Job, s.Box, s.Argv, s.UID, s.GID, s.Raw, s.Limits = job, profile, argv, slotUID, slotGID, profiles[profile].raw, limits()
	return s, files, nil
}

// start runs this binary as something else, in a cgroup of its own.
func startLauncher(t *testing.T, dir string, env ...string) (cmd *exec.Cmd, cgroup string) {
	t.Helper()
	cgroup = filepath.Join(box.features.Cgroup, "launcher-"+jobName())
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeCgroups(cgroup); err != nil {
			t.Error(err)
		}
	})
	if handedOver(cgroup) {
		t.Error("a cgroup is marked as delegated that nobody marked")
	}
	if err := unix.Setxattr(cgroup, "trusted.delegate", []byte("1"), 0); err != nil || !handedOver(cgroup) {
		t.Fatalf("the mark of delegation is not seen: %v", err)
	}
	fd, err := os.OpenFile(cgroup, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append([]string{"SECMCPD_TEST=launcher", "SECMCPD_PROBE=" + probe, "SECMCPD_DIR=" + dir}, env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, cgroup
}

// alive lists the processes in the boxes of a launcher.
func alive(cgroup string) (pids []string) {
	files, _ := filepath.Glob(cgroup + "/boxes/box-*/cgroup.procs")
	for _, name := range files {
		data, _ := os.ReadFile(name)
		pids = append(pids, strings.Fields(string(data))...)
	}
	return pids
}

// within polls for a condition, for as long as it may take.
func within(limit time.Duration, condition func() bool) bool {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// A launcher that is killed takes its boxes along, at any moment of a launch.
func TestLauncherDies(t *testing.T) {
	for i := range 25 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir := t.TempDir()
			cmd, cgroup := startLauncher(t, dir)
			if i == 0 { // the scanner is running and deaf
				heard := within(5*time.Second, func() bool {
					out, _ := filepath.Glob(dir + "/*.out")
					return len(out) == 1 && fileSize(out[0]) > 0
				})
				if !heard || len(alive(cgroup)) != 1 {
					t.Errorf("the scanner does not run: %v, alive %v", heard, alive(cgroup))
				}
			} else { // somewhere on the way there
				within(5*time.Second, func() bool { return len(alive(cgroup)) > 0 })
				time.Sleep(rand.N(15 * time.Millisecond))
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if !within(2*time.Second, func() bool { return len(alive(cgroup)) == 0 }) {
				t.Errorf("alive 2s after their launcher: %v", alive(cgroup))
			}
		})
	}
}

func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// A core limit of 0 is no limit where cores go to a program, so a box has 1, or is not launched by
// one who may have no more than 0 itself.
func TestNoBoxWithoutCoreLimit(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // one that is launched stays
	defer cancel()
	cmd := exec.CommandContext(ctx, "prlimit", "--core=0:0", "setpriv", "--bounding-set=-sys_resource", self)
	cmd.Env = []string{"SECMCPD_TEST=launcher", "SECMCPD_PROBE=" + probe, "SECMCPD_DIR=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "launch limits cannot set limit core: operation not permitted") {
		t.Errorf("%v: %s", err, out)
	}
}

// userMain is secmcpd started by a user: it runs the boxes named on its
// command line, one argument each, and prints how they ended.
func userMain() int {
	s, err := Open(Config{Accept: Layers})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	out := json.NewEncoder(os.Stdout)
	for _, line := range os.Args[1:] {
		words := strings.Fields(line)
		exe := os.Getenv("SECMCPD_PROBE")
		if strings.HasPrefix(words[1], "/") {
			exe = words[1]
		}
		profile, unfiltered := strings.CutSuffix(words[0], "!")
		spec, files, err := bare(exe, os.Getenv("SECMCPD_DIR"), profile, words[1:]...)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if unfiltered {
			spec.Without = []string{Seccomp}
		}
		patience := 10 * time.Second
		if slices.Contains(words, "deaf") {
			patience = 500 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		r := s.Run(ctx, spec, files)
		cancel()
		stdout, stderr := output{files}.text()
		var layers []string
		for _, g := range r.NotEnforced {
			layers = append(layers, g.Layer)
		}
		out.Encode(userResult{r.Reason, r.Code, r.Signal, r.Stage, fmt.Sprint(r.Err), stdout, stderr, layers})
	}
	return 0
}

type userResult struct {
	Reason             string
	Code, Signal       int
	Stage, Err         string
	Stdout, Stderr     string
	NotEnforcedByLayer []string
}

// Without root the layers that need none still hold, and the others are named.
func TestAsUser(t *testing.T) {
	dir := t.TempDir()
	self := filepath.Join(filepath.Dir(probe), "self") // a user cannot reach the one go made
	command(t, "cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), self)
	for _, name := range []string{dir, filepath.Dir(dir), self} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Remove(self)
	rows := []struct{ run, reason, want string }{
		{"nmap-connect probe report", Exited, ""},
		{"nmap-connect probe read /usr/share/nmap/nmap-services", Exited, "0"},
		{"nmap-connect probe read /tmp", Exited, "EACCES"},
		{"nmap-connect probe read /proc/1/cmdline", Exited, "EACCES"},
		{"nmap-connect probe create /tmp/secmcpd-user", Exited, "EACCES"},
		{"nmap-connect probe create " + dir + "/x", Exited, "EACCES"},
		{"nmap-connect probe tcp", Exited, "0"},
		{"nmap-connect probe unix", Exited, "EAFNOSUPPORT"},
		{"nmap-connect probe fork", Exited, "ENOSYS"},
		{"nmap-connect probe unshare-user", Violation, ""},
		{"nmap-connect probe execve", Violation, ""},
		{"nmap-connect probe execveat-again", Exited, "ENOSYS"},
		{"nmap-connect probe raise-nofile", Exited, "EPERM"},
		{"nmap-connect probe memory", Exited, "ENOMEM"},
		// Landlock by itself, where nothing else keeps it from its launcher and its user's other programs
		{"nmap-connect! probe kill-parent", Exited, "EPERM"},
		{"nmap-connect! probe unix-connect @secmcpd-user", Exited, "EPERM"},
		{"nmap-connect probe deaf", Timeout, ""},
		{"version /usr/bin/nmap --version", Exited, ""},
		{"nmap-raw probe report", Launch, ""},
	}
	listener, err := net.Listen("unix", "@secmcpd-user")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := exec.Command(self)
	for _, row := range rows {
		cmd.Args = append(cmd.Args, row.run)
	}
	cmd.Env = []string{"SECMCPD_TEST=user", "SECMCPD_PROBE=" + probe, "SECMCPD_DIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	results := json.NewDecoder(strings.NewReader(string(out)))
	for _, row := range rows {
		var r userResult
		if err := results.Decode(&r); err != nil {
			t.Fatalf("%s: %v\n%s", row.run, err, out)
		}
		got := strings.TrimSpace(r.Stdout)
		if r.Reason != row.reason || row.want != "" && got != row.want {
			t.Errorf("%s: got %s %s, want %s %s (%+v)", row.run, r.Reason, got, row.reason, row.want, r)
		}
		for _, layer := range []string{Cgroup, Namespaces, Root, UID, Capabilities} {
			if !slices.Contains(r.NotEnforcedByLayer, layer) {
				t.Errorf("%s: not said that %s is missing", row.run, layer)
			}
		}
		for _, layer := range []string{NoNewPrivs, Landlock, Seccomp, Rlimits} {
			if slices.Contains(r.NotEnforcedByLayer, layer) {
				t.Errorf("%s: %s is missing", row.run, layer)
			}
		}
		if row.run == rows[0].run {
			checkUserReport(t, r.Stdout)
		}
		if row.reason == Launch && (r.Stage != "fit" || !strings.Contains(r.Err, "raw sockets")) {
			t.Errorf("%s: stage %q, error %s", row.run, r.Stage, r.Err)
		}
	}
}

func checkUserReport(t *testing.T, got string) {
	for prefix, want := range map[string]string{
		"/proc/self/status: Uid:":        "65534\t65534\t65534\t65534",
		"/proc/self/status: CapPrm:":     "0000000000000000",
		"/proc/self/status: NoNewPrivs:": "1",
		"/proc/self/status: Seccomp:":    "2",
		"cwd: ":                          "/",
		"limit nofile: ":                 "256 256",
	} {
		if line := one(t, got, prefix); line != want {
			t.Errorf("%s%q, want %q", prefix, line, want)
		}
	}
	if fds := lines(got, "fd: "); len(fds) != 3 {
		t.Errorf("descriptors %q", fds)
	}
	if env := lines(got, "env: "); len(env) != 0 {
		t.Errorf("environment %q", env)
	}
}
