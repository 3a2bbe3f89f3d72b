package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

// write puts a file in its place at once, as an operator's editor does.
func (h *house) write(name, text string) error {
	path := filepath.Join(h.daemon.Dir, name)
	temp := filepath.Join(h.daemon.Dir, ".new-"+strings.ReplaceAll(name, "/", "-"))
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(temp, []byte(text), 0o644), os.Rename(temp, path))
}

// reload has the daemon read everything again, and returns the command's status and what it said.
func (h *house) reload() (status int, said string) {
	out, err := h.command(0, "reload", "--wait").CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		return -1, err.Error()
	}
	return 0, string(out)
}

func (h *house) reloaded() {
	h.t.Helper()
	if status, said := h.reload(); status != 0 {
		h.t.Fatalf("status %d: %s", status, said)
	}
}

// spec is the box in which a job ran, as its user can read it.
func spec(s *mcp.ClientSession, job any) (string, error) {
	ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	r, err := s.ReadResource(ctx, &mcp.ReadResourceParams{URI: fmt.Sprintf("secmcpd://jobs/%s/spec", job)})
	if err != nil {
		return "", err
	}
	return r.Contents[0].Text, nil
}

func (h *house) specOf(job any) string {
	h.t.Helper()
	text, err := spec(h.agent, job)
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}

var oneScan = object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45}

// A file with a fault is a failed reload, for who asks and for a signal, and everything stays as it was; a
// change that takes a restart as well. What is good is in force for the next scan.
func TestABadFileIsAFailedReload(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "limits: {open_files: 300}\n"})
	running := h.slow()
	scan := func(says, files string) {
		t.Helper()
		answer := h.call("nmap_scan", oneScan)
		if answer["status"] != "completed" {
			t.Fatalf("%s: %s", says, show(answer))
		}
		if box := h.specOf(answer["job_id"]); !regexp.MustCompile(`open files +` + files + `\n`).MatchString(box) {
			t.Errorf("%s: the box has not %s open files:\n%s", says, files, box)
		}
	}
	if err := h.write("conf.d/10-test.yaml", "limits:\n  open_files: 400\n  memroy_mib: 1\n"); err != nil {
		t.Fatal(err)
	}
	status, said := h.reload()
	if status != 78 || !strings.Contains(said, `10-test.yaml:3: limits.memroy_mib: got an unknown key "memroy_mib"`) || !strings.Contains(said, "all stays as it was") {
		t.Errorf("status %d: %s", status, said)
	}
	scan("after a bad file", "300")
	for _, role := range []lab.Role{lab.Launcher, lab.Front} {
		before := strings.Count(h.daemon.Log(lab.Launcher), "is not in force: all stays as it was")
		if err := syscall.Kill(h.daemon.Pid(role), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for until := time.Now().Add(10 * time.Second); strings.Count(h.daemon.Log(lab.Launcher), "is not in force: all stays as it was") <= before; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("SIGHUP to %s does nothing", role)
			}
		}
	}
	scan("after a signal", "300")
	if err := h.write("conf.d/10-test.yaml", "limits: {open_files: 400}\nscans: {at_once: 3}\nslots: {first_uid: 67000}\n"); err != nil {
		t.Fatal(err)
	}
	if status, said = h.reload(); status != 78 || !strings.Contains(said, "restart for scans.at_once, slots.first_uid") {
		t.Errorf("status %d: %s", status, said)
	}
	scan("after a change that takes a restart", "300")
	if err := h.write("conf.d/10-test.yaml", "limits: {open_files: 400}\n"); err != nil {
		t.Fatal(err)
	}
	if err := h.write("engagements.d/bad.yaml", "name: bad\ncallers: {users: [0]}\ntargets: [10.77.0.0/16]\ntoolz: {}\n"); err != nil {
		t.Fatal(err)
	}
	if status, said = h.reload(); status != 78 || !strings.Contains(said, "bad.yaml:4: toolz") {
		t.Errorf("status %d: %s", status, said)
	}
	scan("after a bad engagement", "300")
	if err := os.Remove(filepath.Join(h.daemon.Engagements(), "bad.yaml")); err != nil {
		t.Fatal(err)
	}
	if status, said = h.reload(); status != 0 || said != "reloaded: limits.open_files\n" {
		t.Errorf("status %d: %s", status, said)
	}
	scan("after a good file", "400")
	if answer := h.call("job_status", object{"job_id": running}); answer["status"] != "running" {
		t.Errorf("what ran before: %s", show(answer))
	}
	if out, err := h.command(lab.FrontUID, "reload").CombinedOutput(); err == nil || !strings.Contains(string(out), "secmcpd-admin") {
		t.Errorf("the front's user: %v: %s", err, out)
	}
	log := h.auditLog()
	if n := strings.Count(log, `"event":"reloaded"`); n < 6 || !strings.Contains(log, `"targets":["limits.open_files"]`) {
		t.Errorf("%d records: %s", n, log)
	}
}

// An engagement that is narrower after a reload ends what it would not allow.
func TestAReloadNarrowsAnEngagement(t *testing.T) {
	h := newHouse(t, lab.Options{})
	job := h.slow()
	if err := h.write("engagements.d/lab.yaml", strings.Replace(lab.Engagement, "  - 10.77.0.0/16", "  - 10.77.0.0/30", 1)); err != nil {
		t.Fatal(err)
	}
	h.reloaded()
	answer := h.again(job)
	if at(answer, "end", "reason") != "withdrawn" {
		t.Errorf("%s", show(answer))
	}
}

// A declaration that is added takes effect by a reload, and so does its end; who is connected is told.
func TestAReloadTakesUpDeclarations(t *testing.T) {
	h := newHouse(t, lab.Options{})
	changes := make(chan struct{}, 8)
	cmd := exec.Command(filepath.Join(h.daemon.Dir, "secmcpd"), "connect", "--socket", h.daemon.Socket())
	cmd.Dir, cmd.Env = "/", []string{}
	var err error
	h.agent, err = mcp.NewClient(&mcp.Implementation{Name: "lab", Version: "1"}, &mcp.ClientOptions{
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { changes <- struct{}{} },
	}).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	offered := func(says string, want bool) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: nobody is told that the tools have changed", says)
		}
		list, err := h.agent.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(list.Tools, func(tool *mcp.Tool) bool { return tool.Name == "fping_scan" }); got != want {
			t.Errorf("%s: listed: %v", says, got)
		}
	}
	if err := errors.Join(h.write("runners.d/fping_scan.yaml", examples(t)["fping_scan"]),
		h.write("engagements.d/lab.yaml", strings.Replace(lab.Engagement, "tools: {", `tools: {fping_scan: {profiles: ["*"]}, `, 1))); err != nil {
		t.Fatal(err)
	}
	h.reloaded()
	offered("it was added", true)
	job := h.call("fping_scan", object{"targets": []string{lab.Web}, "profile": "quick", "wait_s": 45})
	if job["status"] != "completed" {
		t.Fatalf("%s", show(job))
	}
	text := examples(t)["fping_scan"]
	if err := h.write("runners.d/fping_scan.yaml", text+"# another\n"); err != nil {
		t.Fatal(err)
	}
	h.reloaded() // the same to who sees it: nobody is told
	if again := h.call("fping_scan", object{"targets": []string{lab.Web}, "profile": "quick", "wait_s": 45}); again["status"] != "completed" {
		t.Errorf("%s", show(again))
	}
	if err := errors.Join(os.Remove(filepath.Join(h.daemon.Dir, "runners.d/fping_scan.yaml")), h.write("engagements.d/lab.yaml", lab.Engagement)); err != nil {
		t.Fatal(err)
	}
	h.reloaded()
	offered("it is gone", false)
	if _, err := call(h.agent, "fping_scan", object{"targets": []string{lab.Web}}); err == nil || !strings.Contains(err.Error(), "unknown tool") {
		t.Errorf("a tool that is gone: %v", err)
	}
	if answer := h.call("job_result", object{"job_id": job["job_id"]}); at(answer, "coverage", "up") != 1.0 {
		t.Errorf("its result: %s", show(answer))
	}
}

// A hundred reloads each of two operators, and signals, while agents call and scans run: no call fails, no scan
// has a half of one configuration and a half of another, and every result is whole.
func TestReloadStorm(t *testing.T) {
	const reloads = 100
	h := newHouse(t, lab.Options{Settings: "scans: {at_once: 4, queued: 64}\n"})
	slow := h.slow()
	storm, calm := context.WithCancel(t.Context())
	defer calm()
	var operators, others sync.WaitGroup
	var done atomic.Int32
	operator := func(change func(turn int) error) {
		operators.Go(func() {
			for turn := range reloads {
				if err := change(turn); err != nil {
					t.Error(err)
					return
				}
				if status, said := h.reload(); status != 0 {
					t.Errorf("reload %d: status %d: %s", turn, status, said)
					return
				}
				done.Add(1)
			}
		})
	}
	// What belongs together: a box has all of the first or all of the second.
	limits := []string{"limits: {open_files: 300, tmp_mib: 5, processes: 20, output_mib: 33}\n", "limits: {open_files: 600, tmp_mib: 7, processes: 30, output_mib: 44}\n"}
	either := []*regexp.Regexp{}
	for _, n := range [][]string{{"5", "20", "300", "33"}, {"7", "30", "600", "44"}} {
		either = append(either, regexp.MustCompile(fmt.Sprintf(`(?s)/tmp of its own, %s MiB.*tasks +%s\n.*open files +%s\n.*output +%s MiB`, n[0], n[1], n[2], n[3])))
	}
	if err := h.write("conf.d/10-limits.yaml", limits[0]); err != nil {
		t.Fatal(err)
	}
	h.reloaded()
	operator(func(turn int) error { return h.write("conf.d/10-limits.yaml", limits[turn%2]) })
	operator(func(turn int) error {
		tools := []string{"tools: {exclude: [gobuster_scan]}\n", "tools: {exclude: []}\nscans: {queued: 60, packets_per_second: 9000}\n"}
		text := lab.Engagement + fmt.Sprintf("# turn %d\n", turn)
		return errors.Join(h.write("conf.d/20-tools.yaml", tools[turn%2]), h.write("engagements.d/lab.yaml", text))
	})
	others.Go(func() {
		for storm.Err() == nil {
			for _, role := range []lab.Role{lab.Launcher, lab.Front} {
				_ = syscall.Kill(h.daemon.Pid(role), syscall.SIGHUP)
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
	var scans atomic.Int32
	for _, uid := range []uint32{0, 0, 65402} {
		agent := h.connect(uid)
		t.Cleanup(func() { agent.Close() })
		others.Go(func() {
			for storm.Err() == nil {
				answer, err := call(agent, "nmap_scan", oneScan)
				if err != nil || answer["status"] != "completed" || at(answer, "coverage", "complete") != true || at(answer, "hosts", 0, "ports", 0, "state") != "open" {
					t.Errorf("a scan: %v: %s", err, show(answer))
					return
				}
				box, err := spec(agent, answer["job_id"])
				if err != nil || !either[0].MatchString(box) && !either[1].MatchString(box) {
					t.Errorf("a box has some of each: %v\n%s", err, box)
					return
				}
				scans.Add(1)
				time.Sleep(800 * time.Millisecond) // of each user only so many are taken in a minute
			}
		})
		others.Go(func() {
			for storm.Err() == nil {
				for tool, arguments := range map[string]object{"capabilities": {}, "job_list": {},
					"scan_preview": {"tool": "nmap_scan", "arguments": object{"targets": []string{lab.Web}, "ports": []any{80}}}} {
					if answer, err := call(agent, tool, arguments); err != nil || answer["error"] != nil {
						t.Errorf("%s: %v: %s", tool, err, show(answer))
						return
					}
				}
				time.Sleep(500 * time.Millisecond)
				if _, err := agent.ListTools(storm, nil); err != nil && storm.Err() == nil {
					t.Errorf("tools/list: %v", err)
					return
				}
			}
		})
	}
	operators.Wait()
	calm()
	others.Wait()
	t.Logf("%d reloads, %d scans", done.Load(), scans.Load())
	if scans.Load() < 5 {
		t.Errorf("only %d scans", scans.Load())
	}
	if answer := h.call("job_status", object{"job_id": slow}); answer["status"] != "running" && answer["status"] != "completed" {
		t.Errorf("what ran before: %s", show(answer))
	}
	out, err := h.command(0, "config", "show", "tools.exclude").Output()
	list, lerr := h.agent.ListTools(t.Context(), nil)
	if err := errors.Join(err, lerr); err != nil {
		t.Fatal(err)
	}
	left := !bytes.Contains(out, []byte("gobuster"))
	if got := slices.ContainsFunc(list.Tools, func(tool *mcp.Tool) bool { return tool.Name == "gobuster_scan" }); got != left {
		t.Errorf("in the end gobuster_scan is listed: %v; the files say %s", got, out)
	}
}

// `secmcpd stdio` reads everything again at SIGHUP.
func TestStdioReloadsAtAHangup(t *testing.T) {
	h := newHouse(t, lab.Options{NoRoles: true, Settings: "limits: {open_files: 300}\n"})
	s, process, err := h.daemon.Stdio(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for until, want := time.Now().Add(30*time.Second), "300"; ; {
		answer, err := call(s, "nmap_scan", oneScan)
		if err != nil || answer["status"] != "completed" {
			t.Fatalf("%v: %s", err, show(answer))
		}
		box, err := spec(s, answer["job_id"])
		if err != nil {
			t.Fatal(err)
		}
		if has := regexp.MustCompile(`open files +` + want + `\n`).MatchString(box); has && want == "400" {
			return
		} else if !has && (want == "300" || time.Now().After(until)) {
			t.Fatalf("the box has not %s open files:\n%s", want, box)
		}
		if want == "300" {
			want = "400"
			if err := errors.Join(h.write("conf.d/10-test.yaml", "limits: {open_files: 400}\n"), process.Signal(syscall.SIGHUP)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
