// Command bench compares what secmcpd costs with what it could cost, in one run: every figure is
// a ratio or a difference of two things measured in turns, with its spread. It needs root.
//
//	BENCH <name> <value> <unit> <what against what>
//
// Its arguments are the parts to measure; without any it measures all.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/test/lab"
)

const rounds = 60

func main() {
	if len(os.Args) == 2 && os.Args[1] == plainArg {
		fmt.Fprintln(os.Stderr, "bench:", plainServer())
		os.Exit(1)
	}
	os.Exit(lab.Enter(func() int {
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
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
	if b.network, err = emptyNetwork(); err != nil {
		return err
	}
	fmt.Printf("# %s, %s, %d processors, %d rounds in turns, median (p10 to p90)\n", kernel(), runtime.Version(), runtime.NumCPU(), rounds)
	for _, part := range []struct {
		name    string
		measure func() error
	}{{"launches", b.launches}, {"nmap", b.nmapVersion}, {"sustained", b.sustained}, {"burst", b.burst}, {"idle", idle}, {"scopes", b.scopes},
		{"services", b.services}, {"mcp", b.protocol}, {"query", b.query}} {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], part.name) {
			continue
		}
		if err := part.measure(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

type bench struct {
	boxes   *sandbox.Sandbox
	stdout  *os.File
	network *os.File // with nothing in it
	seq     atomic.Int64
}

var bwrap = []string{"bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
	"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/usr/bin/true"}

// launches compares a box around /bin/true with bubblewrap's, and both with nothing around it.
func (b *bench) launches() error {
	taken, err := inTurns(
		func() error { return command("/usr/bin/true") },
		func() error { return b.box("/usr/bin/true", "true") },
		func() error { return b.scanBox("/usr/bin/true", "true") },
		func() error { return command(bwrap...) },
	)
	if err != nil {
		return err
	}
	plain, boxed, scan, wrapped := taken[0], taken[1], taken[2], taken[3]
	report("box_true", boxed, "ms", "/bin/true in the full box, start to empty cgroup")
	report("scan_box_true", scan, "ms", "the same in the box of a scan with raw sockets, in a network that is there")
	report("bwrap_true", wrapped, "ms", "/bin/true under bwrap --unshare-all")
	report("plain_true", plain, "ms", "/bin/true alone")
	ratio("box_over_bwrap", boxed, wrapped, "box against bwrap, medians of the same rounds")
	ratio("scan_box_over_bwrap", scan, wrapped, "the box of a scan against bwrap, likewise")
	return nil
}

// nmapVersion is what an agent waits for: the scanner's own start against ours around it.
func (b *bench) nmapVersion() error {
	taken, err := inTurns(
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
	plain, boxed, wrapped := taken[0], taken[1], taken[2]
	report("nmap_plain", plain, "ms", "nmap --version alone")
	report("nmap_box", boxed, "ms", "nmap --version in the box")
	fmt.Printf("BENCH nmap_box_overhead %.2f ms nmap --version in the box minus alone, medians\n", median(boxed)-median(plain))
	ratio("nmap_box_over_bwrap", boxed, wrapped, "nmap --version in the box against under bwrap")
	return nil
}

// box is the smallest there is: it computes and prints.
func (b *bench) box(path string, argv ...string) error {
	return b.boxOf(sandbox.Spec{Box: "version", Argv: argv}, path)
}

// scanBox has the longest filter, a capability, and a network like that of a slot.
func (b *bench) scanBox(path string, argv ...string) error {
	return b.boxOf(sandbox.Spec{Box: "nmap-raw", Raw: true, NetNS: b.network, Argv: argv}, path)
}

func (b *bench) boxOf(spec sandbox.Spec, path string) error {
	exe, err := os.Open(path)
	if err != nil {
		return err
	}
	defer exe.Close()
	seq := b.seq.Add(1)
	uid := 66000 + uint32(seq%64) // as slots have each their own
	spec.Job, spec.Exe, spec.UID, spec.GID, spec.Hostname = "bench-"+strconv.FormatInt(seq, 10), exe, uid, uid, "box"
	spec.Limits = sandbox.Limits{Memory: 256 << 20, Pids: 16, CPU: 10 * time.Second, OpenFiles: 256, Output: 1 << 20, Tmp: 1 << 20, TmpInodes: 64, Wall: 10 * time.Second}
	r := b.boxes.Run(context.Background(), spec, sandbox.Files{Stdout: b.stdout, Stderr: b.stdout})
	if r.Reason != sandbox.Exited || r.Code != 0 {
		return fmt.Errorf("the box ended: %s, status %d, stage %q: %w", r.Reason, r.Code, r.Stage, r.Err)
	}
	return nil
}

// sustained is 500 launches one after the other, in turns of 50, with all that they cost the
// machine: what is prepared ahead or cleaned up behind counts too.
func (b *bench) sustained() error {
	const turns, each = 10, 50
	var boxed, wrapped, boxedCPU, wrappedCPU []float64
	for range turns {
		wall, cpu, err := timed(each, func() error { return b.box("/usr/bin/true", "true") })
		if err != nil {
			return err
		}
		boxed, boxedCPU = append(boxed, wall), append(boxedCPU, cpu)
		if wall, cpu, err = timed(each, func() error { return command(bwrap...) }); err != nil {
			return err
		}
		wrapped, wrappedCPU = append(wrapped, wall), append(wrappedCPU, cpu)
	}
	report("box_sustained_cpu", boxedCPU, "ms", "processor time of one of 500 boxes, launcher included")
	report("bwrap_sustained_cpu", wrappedCPU, "ms", "processor time of one of 500 under bwrap, starter included")
	ratio("sustained_over_bwrap", boxed, wrapped, "500 boxes against 500 bwraps, wall time")
	ratio("sustained_cpu_over_bwrap", boxedCPU, wrappedCPU, "500 boxes against 500 bwraps, processor time")
	return nil
}

// timed gives the milliseconds that one of n takes: of the clock, and of all processors by this
// process and its children.
func timed(n int, do func() error) (wall, cpu float64, err error) {
	began, used := time.Now(), processor()
	for range n {
		if err := do(); err != nil {
			return 0, 0, err
		}
	}
	return float64(time.Since(began).Microseconds()) / 1000 / float64(n), float64((processor() - used).Microseconds()) / 1000 / float64(n), nil
}

func processor() (used time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u) // fails for no valid who
		used += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return used
}

// burst is 50 at once.
func (b *bench) burst() error {
	const turns, size = 10, 50
	var boxed, wrapped []float64
	for range turns {
		for _, m := range []struct {
			do   func() error
			into *[]float64
		}{{func() error { return b.box("/usr/bin/true", "true") }, &boxed}, {func() error { return command(bwrap...) }, &wrapped}} {
			began := time.Now()
			var all errgroup.Group
			for range size {
				all.Go(m.do)
			}
			if err := all.Wait(); err != nil {
				return err
			}
			*m.into = append(*m.into, float64(time.Since(began).Microseconds())/1000/size)
		}
	}
	report("box_burst", boxed, "ms", "one of 50 boxes at once")
	report("bwrap_burst", wrapped, "ms", "one of 50 bwraps at once")
	fmt.Printf("BENCH burst_rate %.2f ratio boxes a second against bwraps a second, 50 at once\n", median(wrapped)/median(boxed))
	return nil
}

// idle is the memory of a launcher that waits, with what it has prepared.
func idle() error {
	d, err := lab.Start("bin/secmcpd", lab.Options{})
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", d.Pid(lab.Launcher)))
	if err := errors.Join(err, d.Stop()); err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		for field, name := range map[string]string{"Rss:": "resident", "Pss:": "its share of"} {
			if value, ok := strings.CutPrefix(line, field); ok {
				kib, err := strconv.Atoi(strings.Fields(value)[0])
				if err != nil {
					return err
				}
				fmt.Printf("BENCH idle_launcher_%s %.1f MiB %s memory of an idle launcher\n", strings.ToLower(field[:3]), float64(kib)/1024, name)
			}
		}
	}
	return nil
}

func command(argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{}
	return cmd.Run()
}

// inTurns measures things round by round, so that whatever else the machine does hits all of
// them: the milliseconds of each, by round.
func inTurns(things ...func() error) ([][]float64, error) {
	taken := make([][]float64, len(things))
	for range rounds {
		for i, do := range things {
			start := time.Now()
			if err := do(); err != nil {
				return nil, err
			}
			taken[i] = append(taken[i], float64(time.Since(start).Microseconds())/1000)
		}
	}
	return taken, nil
}

func report(name string, samples []float64, unit, what string) {
	fmt.Printf("BENCH %s %.2f %s %s (%.2f to %.2f)\n", name, median(samples), unit, what, quantile(samples, 0.1), quantile(samples, 0.9))
}

// ratio is that of the medians; its spread is that of the rounds.
func ratio(name string, a, b []float64, what string) {
	each := make([]float64, len(a))
	for i := range a {
		each[i] = a[i] / b[i]
	}
	fmt.Printf("BENCH %s %.2f ratio %s (%.2f to %.2f)\n", name, median(a)/median(b), what, quantile(each, 0.1), quantile(each, 0.9))
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
			err := os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte("0"), 0)
			for _, dir := range []string{"supervisor", "boxes", ""} {
				err = errors.Join(err, os.Remove(filepath.Join(own, dir)))
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "bench: cannot leave its cgroup:", err)
			}
		}, nil
	}
	return nil, fmt.Errorf("cgroup v2 is not mounted")
}

// emptyNetwork makes a network namespace on a thread that ends with it.
func emptyNetwork() (file *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			file, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	return file, err
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
