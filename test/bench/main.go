// Command bench compares what secmcpd costs with what it could cost, in one run: every figure is
// a ratio or a difference of two things measured in turns, with its spread. It needs root.
//
//	BENCH <name> <value> <unit> <what against what>
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/sandbox"
)

const rounds = 60

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	leave, err := enterCgroup()
	if err != nil {
		return err
	}
	defer leave()
	boxes, err := sandbox.Open(sandbox.Config{Accept: sandbox.Layers})
	if err != nil {
		return err
	}
	defer boxes.Close()
	b := &bench{boxes: boxes}
	if b.stdout, err = memFile("stdout"); err != nil {
		return err
	}
	fmt.Printf("# %s, %s, %d processors, %d rounds in turns, median (p10 to p90)\n", kernel(), runtime.Version(), runtime.NumCPU(), rounds)
	if err := b.launches(); err != nil {
		return err
	}
	return b.nmapVersion()
}

type bench struct {
	boxes  *sandbox.Sandbox
	stdout *os.File
	seq    int
}

// launches compares a box around /bin/true with bubblewrap's, and both with nothing around it.
func (b *bench) launches() error {
	bwrap := []string{"bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/usr/bin/true"}
	plain, boxed, wrapped, err := inTurns(
		func() error { return command("/usr/bin/true") },
		func() error { return b.box("/usr/bin/true", "true") },
		func() error { return command(bwrap...) },
	)
	if err != nil {
		return err
	}
	report("box_true", boxed, "ms", "/bin/true in the full box, start to empty cgroup")
	report("bwrap_true", wrapped, "ms", "/bin/true under bwrap --unshare-all")
	report("plain_true", plain, "ms", "/bin/true alone")
	ratio("box_over_bwrap", boxed, wrapped, "box against bwrap, medians of the same rounds")
	return nil
}

// nmapVersion is what an agent waits for: the scanner's own start against ours around it.
func (b *bench) nmapVersion() error {
	plain, boxed, wrapped, err := inTurns(
		func() error { return command("/usr/bin/nmap", "--version") },
		func() error { return b.box("/usr/bin/nmap", "nmap", "--version") },
		func() error {
			return command("bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--symlink", "usr/lib", "/lib",
				"--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/usr/bin/nmap", "--version")
		},
	)
	if err != nil {
		return err
	}
	report("nmap_plain", plain, "ms", "nmap --version alone")
	report("nmap_box", boxed, "ms", "nmap --version in the box")
	fmt.Printf("BENCH nmap_box_overhead %.2f ms nmap --version in the box minus alone, medians\n", median(boxed)-median(plain))
	ratio("nmap_box_over_bwrap", boxed, wrapped, "nmap --version in the box against under bwrap")
	return nil
}

func (b *bench) box(path string, argv ...string) error {
	exe, err := os.Open(path)
	if err != nil {
		return err
	}
	defer exe.Close()
	b.seq++
	r := b.boxes.Run(context.Background(), sandbox.Spec{Job: "bench-" + strconv.Itoa(b.seq), Box: "version", Exe: exe, Argv: argv, UID: 66000, GID: 66000,
		Hostname: "box", Limits: sandbox.Limits{Memory: 256 << 20, Pids: 16, CPU: 10 * time.Second, OpenFiles: 256, Output: 1 << 20, Tmp: 1 << 20, TmpInodes: 64, Wall: 10 * time.Second}},
		sandbox.Files{Stdout: b.stdout, Stderr: b.stdout})
	if r.Reason != sandbox.Exited || r.Code != 0 {
		return fmt.Errorf("the box ended: %s, status %d, stage %q: %w", r.Reason, r.Code, r.Stage, r.Err)
	}
	return b.stdout.Truncate(0)
}

func command(argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{}
	return cmd.Run()
}

// inTurns measures three things round by round, so that whatever else the machine does hits
// all of them.
func inTurns(a, b, c func() error) (as, bs, cs []float64, err error) {
	for range rounds {
		for _, m := range []struct {
			do   func() error
			into *[]float64
		}{{a, &as}, {b, &bs}, {c, &cs}} {
			start := time.Now()
			if err := m.do(); err != nil {
				return nil, nil, nil, err
			}
			*m.into = append(*m.into, float64(time.Since(start).Microseconds())/1000)
		}
	}
	return as, bs, cs, nil
}

func report(name string, samples []float64, unit, what string) {
	fmt.Printf("BENCH %s %.2f %s %s (%.2f to %.2f)\n", name, median(samples), unit, what, quantile(samples, 0.1), quantile(samples, 0.9))
}

func ratio(name string, a, b []float64, what string) {
	fmt.Printf("BENCH %s %.2f ratio %s\n", name, median(a)/median(b), what)
}

func median(samples []float64) float64 { return quantile(samples, 0.5) }

func quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return s[int(q*float64(len(s)-1))]
}

// enterCgroup puts this process into a cgroup of its own, as a service manager would.
func enterCgroup() (leave func(), err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		root := fields[4]
		own := filepath.Join(root, "secmcpd-bench-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(own, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, err
		}
		return func() {
			_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte("0"), 0)
			_ = os.Remove(filepath.Join(own, "supervisor"))
			_ = os.Remove(own)
		}, nil
	}
	return nil, fmt.Errorf("cgroup v2 is not mounted")
}

func memFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "Linux"
	}
	return "Linux " + string(bytes.TrimRight(u.Release[:], "\x00"))
}
