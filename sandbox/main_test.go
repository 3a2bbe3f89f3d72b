package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// The tests run the real thing: as root, in a cgroup made for them. TestMain starts the binary again inside that
// cgroup, as a service manager would start secmcpd, and with a network, IPC and mounts of its own: what it puts
// there to be found is not in the way of another run, nor of the machine.
func TestMain(m *testing.M) {
	if os.Args[0] == "resolver" { // as the scanner of a resolver box
		os.Exit(resolve(os.Args[1:]))
	}
	if os.Args[0] == "proof" {
		if err := Door(os.Args[1], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	switch os.Getenv("SECMCPD_TEST") {
	case "delegated":
		os.Exit(delegatedMain(m))
	case "launcher":
		os.Exit(launcherMain())
	case "user":
		os.Exit(userMain())
	case "filters":
		// Chosen by -run: they ask nothing of the kernel, so that an emulator of another processor can run them.
		// An emulator has no seccomp, and the library is told that the kernel has.
		if err := seccomp.SetAPI(3); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := delegate(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and cgroup2:", err)
		code = 1
	}
	os.Exit(code)
}

// shared by the tests, made by delegatedMain
var (
	box      *Sandbox
	probe    string // path of the hostile scanner
	accepted = []string{CgroupMemory, CgroupPids, CgroupCPU, CgroupIO}
)

// slotUID is of this run alone, and so are the 255 after it: the kernel counts processes by user,
// and another run on this machine is none of ours.
var (
	slotUID = 1<<30 + uint32(os.Getpid())<<8
	slotGID = slotUID + 1
)

// unified is where the machine mounts cgroup2.
func unified() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return ownCgroup(string(mounts), "0::/\n")
}

// delegate runs a copy of this process in a fresh cgroup and cleans up after it.
func delegate(argv []string) (code int, err error) {
	top, err := unified()
	if err != nil {
		return 1, err
	}
	dir := filepath.Join(top, fmt.Sprintf("secmcpd-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, removeCgroups(dir)) }()
	if err := unix.Setxattr(dir, "trusted.delegate", []byte("1"), 0); err != nil { // as systemd marks it
		return 1, err
	}
	fd, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 1, err
	}
	defer fd.Close()
	if err := burden(); err != nil {
		return 1, err
	}
	self, err := os.Executable() // by its path: /proc/self/exe would be a file of other mounts
	if err != nil {
		return 1, err
	}
	cmd := exec.Command(self, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Env = append(os.Environ(), "SECMCPD_TEST=delegated")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd()),
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC, Unshareflags: unix.CLONE_NEWNS}
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return 1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// burden gives this thread, and with it the process started from it, what a
// careless parent may hand down and no scanner must get: a session keyring
// with a key in it, a blocked signal, a strict umask, and an ignored one that Go never touches.
func burden() error {
	runtime.LockOSThread()
	if _, err := unix.KeyctlJoinSessionKeyring("secmcpd-test"); err != nil {
		return fmt.Errorf("cannot join a keyring: %w", err)
	}
	if _, err := unix.AddKey("user", "secmcpd-test", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		return fmt.Errorf("cannot add a key: %w", err)
	}
	ignore := [4]uintptr{1} // SIG_IGN, as the kernel lays out a sigaction
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, 32, uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0); errno != 0 {
		return fmt.Errorf("cannot ignore signal 32: %w", errno)
	}
	unix.Umask(0o077) // as a service has it
	blocked := unix.Sigset_t{}
	blocked.Val[0] = 1 << (unix.SIGUSR2 - 1)
	return unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, nil)
}

// removeCgroups kills what a failed test left and removes the tree, deepest first.
func removeCgroups(dir string) error {
	top := &leaf{dir: dir}
	if err := errors.Join(top.kill(), top.waitEmpty()); err != nil {
		return err
	}
	var dirs []string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append([]string{path}, dirs...)
		}
		return nil
	})
	var failed []error
	for _, d := range dirs {
		failed = append(failed, os.Remove(d))
	}
	return errors.Join(failed...)
}

// ownMachine makes the part of the machine that tests listen on: its own network is up, its /run is empty.
func ownMachine() error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot use 127.0.0.1: %w: %s", err, out)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("cannot mount /run: %w", err)
	}
	return nil
}

func delegatedMain(m *testing.M) int {
	// So that no test changes the namespaces of the main thread, which /proc/self shows.
	runtime.LockOSThread()
	os.Unsetenv("SECMCPD_TEST")
	err := ownMachine()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot prepare the tests:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "secmcpd-probe")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755)
	}
	probe = filepath.Join(dir, "probe")
	if built := os.Getenv("SECMCPD_PROBE"); built != "" { // where there is no compiler
		probe = built
	} else if err == nil {
		var out []byte
		out, err = exec.Command("gcc", "-O1", "-static", "-w", "-Wa,-I,testdata", "-o", probe, "testdata/probe/probe.c", "-pthread").CombinedOutput()
		os.Stderr.Write(out)
		if err == nil {
			err = os.Chmod(probe, 0o755)
		}
	}
	if err == nil {
		box, err = Open(Config{Accept: accepted})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot prepare the tests:", err)
		return 1
	}
	code := m.Run()
	if err := box.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func limits() Limits {
	return Limits{Memory: 512 << 20, Pids: 64, CPUPercent: 100, CPU: time.Minute, OpenFiles: 256,
		Output: 8 << 20, Tmp: 1 << 20, TmpInodes: 64, Wall: time.Minute}
}

// wish is a box for a scanner, without network unless one is set.
func wish(t testing.TB, profile, exe string, argv ...string) Spec {
	t.Helper()
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s := Spec{Job: jobName(), Box: profile, Exe: f, Argv: argv, UID: slotUID, GID: slotGID, Hostname: "scanner",
		Hosts: "127.0.0.1 localhost\n", Resolv: "nameserver 192.0.2.1\n", Raw: profiles[profile].raw, Limits: limits()}
	if profiles[profile].network {
		s.NetNS = ownNetwork(t)
	}
	return s
}

var jobs int

func jobName() string { jobs++; return fmt.Sprintf("t%d-%d", os.Getpid(), jobs) }

// ownNetwork is a network namespace with nothing in it.
func ownNetwork(t testing.TB) *os.File {
	t.Helper()
	f, err := emptyNetwork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// output files of one box, and what it wrote to them.
type output struct{ Files }

func outputFiles(t testing.TB) output {
	t.Helper()
	open := func(name string) *os.File {
		// As the launcher opens them: what can be read could be mapped, and then written anywhere.
		f, err := os.OpenFile(filepath.Join(t.TempDir(), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	return output{Files{Stdout: open("out"), Stderr: open("err")}}
}

func (o output) text() (stdout, stderr string) {
	a, _ := os.ReadFile(o.Stdout.Name())
	b, _ := os.ReadFile(o.Stderr.Name())
	return string(a), string(b)
}

func run(t testing.TB, s *Sandbox, spec Spec) (Result, string, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	files := outputFiles(t)
	r := s.Run(ctx, spec, files.Files)
	stdout, stderr := files.text()
	return r, stdout, stderr
}

// succeed runs a box that must come to a good end.
func succeed(t testing.TB, s *Sandbox, spec Spec) string {
	t.Helper()
	r, stdout, stderr := run(t, s, spec)
	if r.Reason != Exited || r.Code != 0 || r.Err != nil {
		t.Fatalf("%s: got %s, code %d, signal %d, stage %q, error %v\nstderr: %s\nstdout: %s", quoted(spec.Argv), r.Reason, r.Code, r.Signal, r.Stage, r.Err, stderr, stdout)
	}
	return stdout
}

// opened opens another Sandbox in the same place, for a configuration of its own.
func opened(t testing.TB, c Config) *Sandbox {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// resolve is a scanner of our own: it looks up names with the resolver of the box.
func resolve(names []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, name := range names {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(name, addresses)
	}
	return 0
}

func lines(text, prefix string) (found []string) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			found = append(found, strings.TrimSpace(rest))
		}
	}
	return found
}

func one(t *testing.T, text, prefix string) string {
	t.Helper()
	found := lines(text, prefix)
	if len(found) != 1 {
		t.Fatalf("%d lines %q, want one, in:\n%s", len(found), prefix, text)
	}
	return found[0]
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}
