package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// ran is what came of a command.
type ran struct {
	status         int
	stdout, stderr string
}

// run runs the operator's command with the daemon's configuration and socket, as root.
func (h *house) run(words ...string) ran {
	h.t.Helper()
	return h.finish(h.prepare(words...))
}

func (h *house) prepare(words ...string) *exec.Cmd {
	c := h.command(0, words...)
	c.Dir, c.Env = "/", []string{"SECMCPD_SOCKET=" + h.daemon.Socket(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return c
}

func (h *house) finish(c *exec.Cmd) ran {
	h.t.Helper()
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return ran{c.ProcessState.ExitCode(), out.String(), said.String()}
}

// expect is a command with the status that it has to end with.
func (h *house) expect(status int, words ...string) ran {
	h.t.Helper()
	r := h.run(words...)
	if r.status != status {
		h.t.Errorf("secmcpd %s: status %d, want %d\n%s%s", strings.Join(words, " "), r.status, status, r.stdout, r.stderr)
	}
	return r
}

// A person and a timer scan by the same way as an agent, and the exit status says what has changed.
func TestScansByCommand(t *testing.T) {
	h := newHouse(t, lab.Options{})
	scan := []string{"scan", "nmap_scan", lab.SSHAndWeb, "--ports", "22,80,8088", "--limit", "60"}
	with := func(more ...string) []string { return append(append([]string{}, scan...), more...) }

	r := h.expect(0, scan...)
	for _, want := range []string{"10.77.0.10  22/tcp", "open", "ssh", "completed, 1 host up, 2 open ports, 1 of 1 address looked at"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout+r.stderr, "\x1b") {
		t.Errorf("colours in a file: %q", r.stdout+r.stderr)
	}

	// No baseline yet; the first; the same; another port is open; and what is not asked for is not compared.
	if r := h.expect(5, with("--diff-baseline", "weekly")...); !strings.Contains(r.stderr, "no job is pinned as weekly") {
		t.Errorf("%+v", r)
	}
	h.expect(0, with("--diff-baseline", "weekly", "--pin", "weekly")...)
	if r := h.expect(0, with("--diff-baseline", "weekly")...); !strings.Contains(r.stdout, "0 appeared, 0 vanished, 0 changed, 2 the same") {
		t.Errorf("%+v", r)
	}
	var door net.Listener
	if err := network.In(func() (err error) {
		door, err = net.Listen("tcp", lab.SSHAndWeb+":8088")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r = h.expect(4, with("--diff-baseline", "weekly")...)
	if !strings.Contains(r.stdout, "appeared  10.77.0.10  8088/tcp") {
		t.Errorf("%+v", r)
	}
	var out struct {
		Outcome string `json:"outcome"`
		Exit    int    `json:"exit_status"`
		Job     object `json:"job"`
		Diff    object `json:"diff"`
	}
	r = h.expect(4, with("--diff-baseline", "weekly", "--json")...)
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || out.Outcome != "changed" || out.Exit != 4 || out.Diff["appeared"] != 1.0 || at(out.Diff, "changes", 0, "port") != 8088.0 ||
		out.Job["status"] != "completed" || at(out.Job, "hosts", 0, "addr") != lab.SSHAndWeb {
		t.Errorf("%v\n%s", err, r.stdout)
	}
	if err := door.Close(); err != nil {
		t.Fatal(err)
	}
	h.expect(5, "scan", "nmap_scan", lab.SSHAndWeb, "--ports", "22", "--diff-baseline", "weekly")

	// A report beside it, in any form.
	report := filepath.Join(t.TempDir(), "report.csv")
	h.expect(0, with("--format", "csv", "--output", report)...)
	if b, err := os.ReadFile(report); err != nil || !strings.Contains(string(b), lab.SSHAndWeb+",tcp,22,open,") {
		t.Errorf("%v\n%s", err, b)
	}
	if r := h.expect(0, with("--format", "jsonl")...); !json.Valid([]byte(strings.SplitN(r.stdout, "\n", 2)[0])) {
		t.Errorf("%s", r.stdout)
	}

	// What is refused says so; what is wrong is wrong usage.
	if r := h.expect(1, "scan", "nmap_scan", "192.0.2.1"); !strings.Contains(r.stderr, "target_") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("%+v", r)
	}
	if r := h.expect(2, "scan", "nmap_scan", lab.SSHAndWeb, "--ports", "0"); !strings.Contains(r.stderr, "ports[0]") || !strings.Contains(r.stderr, "secmcpd scan nmap_scan --help") {
		t.Errorf("%+v", r)
	}
	h.expect(2, "scan", "nmap_scan", lab.SSHAndWeb, "--diff-baseline", "Weekly Scan")

	// One that does not come to its end is not complete; what was found counts.
	if r := h.expect(3, "scan", "nmap_scan", lab.SSHAndWeb, "10.77.1.0/29", "--skip-discovery", "--ports", "1-400", "--host-timeout", "5"); !strings.Contains(r.stdout, "not complete") {
		t.Errorf("%+v", r)
	}
}

// Ended by a signal, as by `systemctl stop`, the command cancels its scan; detached, the scan goes on; and
// the front may be restarted meanwhile.
func TestAScanByCommandIsCancelledDetachedAndSurvivesTheFront(t *testing.T) {
	h := newHouse(t, lab.Options{})
	slow := []string{"scan", "nmap_scan", lab.SSHAndWeb, "10.77.1.0/26", "--skip-discovery", "--ports", "22,80"}
	c := h.prepare(slow...)
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	h.boxed()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != 1 || !strings.Contains(out.String(), "cancelled") {
		t.Errorf("%v\n%s%s", err, out.String(), said.String())
	}

	id := strings.TrimSpace(h.expect(0, append(slow, "--detach")...).stdout)
	h.boxed()
	if got := h.call("job_status", object{"job_id": id, "wait_s": 0}); got["status"] != "running" {
		t.Errorf("%s", show(got))
	}
	h.call("job_cancel", object{"job_id": id})

	done := make(chan ran, 1)
	go func() { done <- h.run(slow...) }()
	h.boxed()
	if err := h.daemon.Kill9(lab.Front); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.status != 0 || !strings.Contains(r.stdout, "completed") {
		t.Errorf("%+v", r)
	}
}

// boxed waits until a scanner runs.
func (h *house) boxed() {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		pids, err := h.daemon.Boxes()
		if err == nil && len(pids) > 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("no box runs: %v", err)
		}
	}
}

// On a terminal there is a line of progress, and who interrupts is asked what becomes of the scan.
func TestAScanByCommandOnATerminalAsksWhoInterrupts(t *testing.T) {
	h := newHouse(t, lab.Options{})
	for word, c := range map[string]struct {
		status int    // of the command
		says   string // on the terminal
		state  string // of the job, once it has ended or is left alone
	}{
		"c\n": {1, "cancelling job", "cancelled"},
		"d\n": {0, "the job goes on", "running"},
	} {
		plain := h.prepare("scan", "nmap_scan", lab.SSHAndWeb, "10.77.1.0/26", "--skip-discovery", "--ports", "22,80")
		shell := exec.Command("script", "--quiet", "--return", "--flush", "--command", "exec "+strings.Join(plain.Args, " "), "/dev/null")
		shell.Env = append(plain.Env, "TERM=xterm")
		keys, err := shell.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said lockedBuffer
		shell.Stdout, shell.Stderr = &said, &said
		if err := shell.Start(); err != nil {
			t.Fatal(err)
		}
		press := func(key, after string) {
			for deadline := time.Now().Add(30 * time.Second); !strings.Contains(said.String(), after); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("no %q on the terminal: %q", after, said.String())
				}
			}
			if _, err := keys.Write([]byte(key)); err != nil {
				t.Fatal(err)
			}
		}
		press("\x03", "nmap_scan running")
		press(word, "[c]ancel the scan, [d]etach")
		err = shell.Wait()
		if shell.ProcessState.ExitCode() != c.status || !strings.Contains(said.String(), c.says) {
			t.Errorf("%q: %v\n%q", word, err, said.String())
		}
		list := h.call("job_list", object{"limit": 1})
		if got := at(list, "jobs", 0, "status"); got != c.state {
			t.Errorf("%q: the job is %v", word, got)
		}
		h.call("job_cancel", object{"job_id": at(list, "jobs", 0, "job_id")})
	}
}

// lockedBuffer is written and read at the same time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
