//go:build systest

package vm

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	debFile = flag.String("deb", "", "the package to install")
	before  = flag.String("previous", "", "the package of a build before it, to upgrade from")
	only    = flag.String("cases", "*", "pattern of the names of the cases to run")
	keepLog = flag.String("log", "", "directory that keeps what each guest printed")
)

// A kind of guest says how to start one whose /test is the directory, and how long a case and
// the whole guest may take. The process is the guest: when it ends, the guest has. A guest that was
// started before finds its disk as it left it.
type kind struct {
	name         string
	perCase, all time.Duration
	cases        string                         // directory of what it runs; none: cases
	packages     func(t *testing.T, dir string) // puts into the guest what is installed there; none: the deb
	disk         func(t *testing.T, im image) (disk string)
	start        func(ctx context.Context, im image, disk, test, console string) (*guest, error)
}

// guest is a running one. Its cases are read from results.
type guest struct {
	process *exec.Cmd
	results io.ReadCloser
	after   func() error
}

// mostBoots bounds how often a guest is started again.
const mostBoots = 4

// runCases boots a guest, runs the cases in it and makes each a subtest.
func runCases(t *testing.T, k kind, im image) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("guests are started by root")
	}
	test, names := payload(t, k, im)
	disk := k.disk(t, im)
	ctx, cancel := context.WithTimeout(t.Context(), k.all)
	defer cancel()
	began := time.Now()
	var outcomes []*outcome
	for boot := 1; ; boot++ {
		console := consoleName(t, fmt.Sprintf("%s-%s-%d", k.name, im.suite, boot))
		bootCtx, end := context.WithCancel(ctx)
		g, err := k.start(bootCtx, im, disk, test, console)
		if err != nil {
			end()
			t.Fatalf("cannot start the guest: %v", err)
		}
		said, again, read := follow(g.results)
		outcomes = append(outcomes, said...)
		cancelled := ctx.Err()
		if !again {
			end() // the guest has said all it will; ends its process if it has not ended itself
		}
		ended := g.process.Wait()
		end()
		if g.after != nil {
			if err := g.after(); err != nil {
				t.Errorf("what the guest leaves: %v", err)
			}
		}
		if again && boot < mostBoots && cancelled == nil {
			continue
		}
		if ended != nil && read != nil {
			t.Errorf("the guest ended badly: %v", ended)
		}
		if cancelled != nil {
			t.Errorf("the guest did not finish within %s", k.all)
		}
		if again {
			t.Errorf("the guest was started %d times, and wants to be once more", boot)
		}
		if read != nil {
			t.Errorf("%v; the end of its console:\n%s", read, tail(console, 60))
		}
		break
	}
	report(t, names, outcomes)
	t.Logf("%s %s with systemd %s: %.0f s", k.name, im.suite, im.systemd, time.Since(began).Seconds())
}

// outcome is what the guest said of one case.
type outcome struct {
	name    string
	status  int // -1: it did not end
	seconds int
	log     strings.Builder
}

// maxLog bounds what is kept of a case that prints without end.
const maxLog = 256 << 10

// follow reads what a guest says until it says that it is done, or that it starts again.
func follow(results io.Reader) (all []*outcome, again bool, err error) {
	lines := bufio.NewScanner(results)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if *keepLog != "" || strings.HasPrefix(line, "BENCH ") {
			fmt.Println(line)
		}
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "@@" {
			if len(all) > 0 && all[len(all)-1].log.Len() < maxLog {
				fmt.Fprintln(&all[len(all)-1].log, line)
			}
			continue
		}
		switch {
		case words[1] == "begin" && len(words) == 3:
			all = append(all, &outcome{name: words[2], status: -1})
		case words[1] == "end" && len(words) == 5 && len(all) > 0:
			last := all[len(all)-1]
			last.status, _ = strconv.Atoi(words[3])
			last.seconds, _ = strconv.Atoi(words[4])
		case words[1] == "done", words[1] == "reboot":
			return all, words[1] == "reboot", nil
		}
	}
	return all, false, errors.Join(errors.New("the guest fell silent before it was done"), lines.Err())
}

// shortly is what the end of the output says again of cases that failed or did not run: guests run beside each other, and
// what one of them says of a case is long.
var shortly struct {
	sync.Mutex
	strings.Builder
}

func TestMain(m *testing.M) {
	status := m.Run()
	fmt.Print(shortly.String())
	os.Exit(status)
}

// cut is how much of a case's log is said again: what it did last, without the evidence after it.
func (o *outcome) cut() string {
	did, _, _ := strings.Cut(o.log.String(), "\n--- units\n")
	return did[max(0, len(did)-2000):]
}

// sayAgain has the end of the output say it.
func sayAgain(format string, args ...any) {
	shortly.Lock()
	defer shortly.Unlock()
	fmt.Fprintf(&shortly, "== "+format+"\n", args...)
}

// report makes a subtest of each case that was to run: one that did not is a failure.
func report(t *testing.T, names []string, outcomes []*outcome) {
	t.Helper()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(outcomes, func(o *outcome) bool { return o.name == name })
			switch {
			case i < 0:
				t.Error("did not run")
				sayAgain("%s: did not run", t.Name())
			case outcomes[i].status != 0:
				o := outcomes[i]
				t.Errorf("status %d after %d s (124: its time was up, -1: it did not end)\n%s", o.status, o.seconds, o.log.String())
				sayAgain("%s: status %d after %d s\n%s", t.Name(), o.status, o.seconds, o.cut())
			default:
				t.Logf("%d s", outcomes[i].seconds)
			}
		})
	}
}

func tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// machineOnly begins a case that needs what a container here cannot have; the rest of the line says what.
const machineOnly = "# machine only:"

// oneMachine begins a case that the kernel alone answers: all machines have the same one, and the first
// of them runs it.
const oneMachine = "# one machine only:"

// containerOnly begins a case that systemd alone answers: a machine has the same one, and takes ten times as long.
const containerOnly = "# container only:"

// containersAndOne begins a case of which a container has a part and the kernel of machines the rest.
const containersAndOne = "# containers and one machine:"

// runsIn says whether a case runs in a kind of guest with a suite.
func runsIn(text, kind, suite string) bool {
	first := suite == suites[0].suite
	switch {
	case strings.HasPrefix(text, containerOnly):
		return kind == "container"
	case strings.HasPrefix(text, machineOnly):
		return kind == "machine"
	case strings.HasPrefix(text, oneMachine):
		return kind == "machine" && first
	case strings.HasPrefix(text, containersAndOne):
		return kind == "container" || first
	}
	return true
}

// payload makes the directory that a guest sees as /test, and names the cases in it.
func payload(t *testing.T, k kind, im image) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // users of the guest run programs from it
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "cases"), 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(cmp.Or(k.cases, "cases"), "*.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".sh")
		if chosen, err := filepath.Match(*only, name); err != nil || !chosen {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !runsIn(string(text), k.name, im.suite) || im.suite == between.suite && !ofUnits.MatchString(name) {
			continue
		}
		write(t, filepath.Join(dir, "cases", filepath.Base(file)), text)
		names = append(names, name)
	}
	if len(names) == 0 {
		t.Fatalf("no case is named %s", *only)
	}
	for _, file := range []string{"run", "lib.sh"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), text)
	}
	// What a Vagrantfile's machine runs is tried here.
	if err := command(t.Context(), "cp", "-r", "../../deploy/vagrant", filepath.Join(dir, "vagrant")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "limit"), strconv.AppendInt(nil, int64(k.perCase.Seconds()), 10))
	if k.packages == nil {
		k.packages = packages
	}
	k.packages(t, dir)
	programs(t, dir)
	return dir, names
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

// packages puts the deb into the guest, and the same with a later version, to upgrade to.
func packages(t *testing.T, dir string) {
	t.Helper()
	if *debFile == "" {
		t.Fatal("no package to install: `make systest` and `make vmtest` build one and pass it with -deb")
	}
	if err := command(t.Context(), "cp", *debFile, filepath.Join(dir, "secmcpd.deb")); err != nil {
		t.Fatal(err)
	}
	if *before != "" {
		if err := command(t.Context(), "cp", *before, filepath.Join(dir, "secmcpd-previous.deb")); err != nil {
			t.Fatal(err)
		}
	}
	tree := t.TempDir()
	if err := command(t.Context(), "dpkg-deb", "--raw-extract", *debFile, tree); err != nil {
		t.Fatal(err)
	}
	control := filepath.Join(tree, "DEBIAN/control")
	if err := command(t.Context(), "sed", "-i", `s/^Version: .*/&+later/`, control); err != nil {
		t.Fatal(err)
	}
	if err := command(t.Context(), "dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, filepath.Join(dir, "secmcpd-later.deb")); err != nil {
		t.Fatal(err)
	}
}

// programs builds what the cases run inside the guest.
func programs(t *testing.T, dir string) {
	t.Helper()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	const source = "../../sandbox/testdata"
	// All but the tests without a shared library, so that they run in any guest, and in any box.
	for _, build := range [][]string{
		{"env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", filepath.Join(bin, "labtool"), "./labtool"},
		{"gcc", "-O1", "-static", "-pthread", "-o", filepath.Join(bin, "hog"), "hog/hog.c"},
		{"gcc", "-O1", "-static", "-pthread", "-DCROWD", "-o", filepath.Join(bin, "hog-crowd"), "hog/hog.c"},
		{"gcc", "-O1", "-static", "-w", "-Wa,-I," + source, "-o", filepath.Join(bin, "probe"), source + "/probe/probe.c", "-pthread"},
		{"gcc", "-O1", "-static", "-o", filepath.Join(bin, "attack"), "../lab/attack/attack.c"},
		{"go", "test", "-c", "-tags", "osusergo,netgo", "-o", filepath.Join(bin, "sandbox.test"), "../../sandbox"},
		{"go", "test", "-c", "-tags", "osusergo,netgo", "-o", filepath.Join(bin, "lab.test"), "../lab"},
	} {
		if err := command(t.Context(), build[0], build[1:]...); err != nil {
			t.Fatalf("cannot build a program for the guest: %v", err)
		}
	}
	// Where the tests of the sandbox, and the cases, look for it.
	table, err := os.ReadFile(source + "/probes.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "testdata/probes.txt"), table)
}

// bound makes a guest's process end with the context: asked first, then killed.
func bound(cmd *exec.Cmd, ask syscall.Signal) {
	cmd.Cancel = func() error {
		err := cmd.Process.Signal(ask)
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	}
	cmd.WaitDelay = 10 * time.Second
}

// consoleName is the file that receives what a guest prints outside its cases.
func consoleName(t *testing.T, guest string) string {
	t.Helper()
	dir := *keepLog
	if dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, guest+".log")
}
