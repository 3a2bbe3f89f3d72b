package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// command is the operator's command with the daemon's configuration, as a user.
func (h *house) command(uid uint32, words ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(h.daemon.Dir, "secmcpd"), append(words, "--config", h.daemon.Config)...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return c
}

// Both rooms say how they are, to those who may open their sockets.
func TestOperatorsSeeTheStatus(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "metrics: {textfile: \"\"}\n"}) // where the default is, the lab has no directory
	id := h.slow()
	var view object
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r := h.expect(0, "status", "--json")
		view = nil
		if err := json.Unmarshal([]byte(r.stdout), &view); err != nil {
			t.Fatalf("%v\n%s", err, r.stdout)
		}
		if at(view, "launcher", "running") == 1.0 && at(view, "front", "running") == 1.0 && at(view, "front", "launcher", "running") == 1.0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the front does not learn the launcher's state:\n%s", r.stdout)
		}
	}
	if at(view, "is") != "well" || at(view, "launcher", "clients") != at(view, "front", "sessions") || at(view, "front", "ready") != true ||
		at(view, "front", "jobs", 0, "job_id") != id || at(view, "front", "jobs", 0, "target_count") != 2.0 || at(view, "front", "users", 0, "uid") != 0.0 {
		t.Errorf("%s", show(view))
	}
	page := h.expect(0, "status").stdout
	for _, want := range []string{"secmcpd   well", "launcher  ", "scans     1 of 4 slots taken", "clients   1 session: root 1", id.(string)} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	out, err := h.command(lab.FrontUID, "status").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "permission denied") || strings.Contains(string(out), "down") {
		t.Errorf("the front's user: %v\n%s", err, out)
	}
}

// An operator lists the jobs of all users, looks at one, and ends one; the agent is told, the audit log has who.
func TestOperatorsListAndEndJobs(t *testing.T) {
	h := newHouse(t, lab.Options{})
	done := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "wait_s": 45})
	other := h.connect(65402)
	defer other.Close()
	answer, err := call(other, "nmap_scan", object{"targets": []string{lab.SSHAndWeb, "10.77.1.0/26"}, "ports": []any{22, 80}, "skip_discovery": true, "wait_s": 1, "correlation_id": "ticket-17"})
	if err != nil || answer["status"] != "running" {
		t.Fatalf("%v, %s", err, show(answer))
	}
	id := answer["job_id"].(string)

	list := h.expect(0, "jobs").stdout
	if !strings.Contains(list, id) || !strings.Contains(list, "65402") || strings.Contains(list, done["job_id"].(string)) {
		t.Errorf("under way:\n%s", list)
	}
	var jobs []object
	if err := json.Unmarshal([]byte(h.expect(0, "jobs", "--all", "--json").stdout), &jobs); err != nil || len(jobs) != 2 || jobs[0]["job_id"] != id || jobs[0]["uid"] != 65402.0 ||
		jobs[1]["state"] != "completed" || at(jobs[1], "found", "open_ports") != 1.0 {
		t.Errorf("%v, %s", err, show(jobs))
	}
	for _, narrow := range [][]string{{"--user", "65402"}, {"--state", "running"}, {"--all", "--limit", "1"}} {
		if list := h.expect(0, append([]string{"jobs"}, narrow...)...).stdout; !strings.Contains(list, id) || strings.Contains(list, done["job_id"].(string)) {
			t.Errorf("%v:\n%s", narrow, list)
		}
	}
	if r := h.expect(0, "jobs", "--state", "failed"); r.stdout != "" || !strings.Contains(r.stderr, "none") {
		t.Errorf("%+v", r)
	}
	h.expect(2, "jobs", "--state", "done")
	h.expect(2, "jobs", "--user", "nobody-of-that-name")

	page := strings.Join(strings.Fields(h.expect(0, "job", id).stdout), " ")
	for _, want := range []string{"asked by 65402 (uid 65402)", "ticket-17", "allow by engagement lab", "addresses 65: ", "nmap -", "running"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	var detail object
	if err := json.Unmarshal([]byte(h.expect(0, "job", id, "--json").stdout), &detail); err != nil || at(detail, "verdict", "engagement") != "lab" || at(detail, "argv", 0) != "nmap" || at(detail, "answer", "status") != "running" {
		t.Errorf("%v, %s", err, show(detail))
	}
	if page := h.expect(0, "job", done["job_id"].(string)).stdout; !strings.Contains(page, "completed") || !strings.Contains(page, "usage") || !strings.Contains(page, "artifacts") {
		t.Errorf("%s", page)
	}
	if r := h.expect(1, "job", strings.Repeat("a", 26)); !strings.Contains(r.stderr, "no_such_job") {
		t.Errorf("%+v", r)
	}
	h.expect(2, "job", "1")

	if r := h.expect(0, "cancel", id); !strings.Contains(r.stdout, "is being ended; it was running") {
		t.Errorf("%+v", r)
	}
	answer, err = call(other, "job_status", object{"job_id": id, "wait_s": 20})
	if err != nil || answer["status"] != "cancelled" || at(answer, "end", "detail") != "by an operator, uid 0" {
		t.Errorf("%v, %s", err, show(answer))
	}
	if r := h.expect(1, "cancel", id); !strings.Contains(r.stderr, "no_such_job") {
		t.Errorf("%+v", r)
	}
	log, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	_, ordered, is := strings.Cut(string(log), `"event":"cancel_ordered","job":"`+id+`"`)
	ordered, _, _ = strings.Cut(ordered, "\n")
	if err != nil || !is || !strings.Contains(ordered, `"caller":{"uid":65402`) || !strings.Contains(ordered, `"operator":{"uid":0`) {
		t.Errorf("%v, %q", err, ordered)
	}
	out, err := h.command(65402, "cancel", id).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "secmcpd-admin") {
		t.Errorf("an agent's user: %v\n%s", err, out)
	}
}

// A room that does not answer is said, and so is one that was not asked.
func TestTheStatusOfADaemonThatIsDown(t *testing.T) {
	h := newHouse(t, lab.Options{NoRestart: true})
	if err := h.daemon.Kill9(lab.Front); err != nil {
		t.Fatal(err)
	}
	if r := h.expect(0, "status"); !strings.Contains(r.stdout, "front     idle") {
		t.Errorf("%+v", r)
	}
	if err := h.daemon.Kill9(lab.Launcher); err != nil {
		t.Fatal(err)
	}
	if r := h.expect(1, "status"); !strings.Contains(r.stdout, "launcher  down") {
		t.Errorf("%+v", r)
	}
}
