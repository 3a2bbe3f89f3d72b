package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

const approvedScans = `name: lab
callers: {users: [0, 65402]}
targets: [10.77.0.0/16]
tools: {nmap_scan: {profiles: ["*"]}, masscan_scan: {profiles: ["*"]}}
intrusive: approve
approve: [masscan_scan]
approval: {within: 10m}
`

// admin runs an operator's command as root, which has asked for nothing, and returns what it says.
func (h *house) admin(words ...string) (string, error) {
	h.t.Helper()
	out, err := h.command(0, words...).CombinedOutput()
	return string(out), err
}

// held asks for an intrusive scan as an agent and returns its job, which waits.
func (h *house) held() string {
	h.t.Helper()
	began := time.Now()
	a := h.call("nmap_scan", object{"targets": []string{"10.77.0.10"}, "ports": []int{22}, "service_detection": true, "version_intensity": 9})
	if a["status"] != "queued" || a["waiting_for"] != "approval" || !strings.Contains(fmt.Sprint(a["next"]), "secmcpd approve "+fmt.Sprint(a["job_id"])) {
		h.t.Fatalf("%v", a)
	}
	if took := time.Since(began); took > 10*time.Second {
		h.t.Errorf("the answer that an operator has to approve took %s", took)
	}
	return a["job_id"].(string)
}

// An operator is shown what would be run, and it is run once he has approved it.
func TestAnIntrusiveScanWaitsForAnOperator(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": approvedScans}})
	h.agent = h.connect(65402)

	c := h.call("capabilities", object{})
	if got := fmt.Sprint(at(c, "engagements", 0, "approve")); got != "[intrusive masscan_scan]" {
		t.Errorf("capabilities: %s", got)
	}
	p := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": object{"targets": []string{"10.77.0.10"}, "ports": []int{22}, "service_detection": true, "version_intensity": 9}})
	if p["allowed"] != true || at(p, "verdict", "outcome") != "approve" || !strings.Contains(fmt.Sprint(p["next"]), "An operator has to approve it") || p["argv"] == nil {
		t.Errorf("preview: %v", p)
	}

	job := h.held()
	list, err := h.admin("approve")
	if err != nil || !strings.Contains(list, job) || !strings.Contains(list, "uid 65402") {
		t.Errorf("%v\n%s", err, list)
	}
	shown, err := h.command(0, "approve", job).CombinedOutput() // no terminal
	if err == nil || !strings.Contains(string(shown), "--digest") || !strings.Contains(string(shown), "10.77.0.10") || !strings.Contains(string(shown), "--version-") {
		t.Errorf("%v\n%s", err, shown)
	}
	var exact struct {
		Digest string   `json:"digest"`
		Argv   []string `json:"argv"`
	}
	out, err := h.command(0, "approve", job, "--json").Output()
	if err != nil || json.Unmarshal(out, &exact) != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := h.admin("approve", job, "--digest", strings.Repeat("0", 64)); err == nil || !strings.Contains(out, "approval_stale") {
		t.Errorf("another digest: %v\n%s", err, out)
	}
	if s := h.call("job_status", object{"job_id": job}); s["waiting_for"] != "approval" || at(s, "approval", "digest") != exact.Digest || at(s, "approval", "expires") == nil {
		t.Errorf("%v", s)
	}
	if out, err := h.admin("approve", job, "--digest", exact.Digest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := h.admin("approve", job, "--digest", exact.Digest); err == nil || !strings.Contains(out, "no_such_job") {
		t.Errorf("twice: %v\n%s", err, out)
	}
	end := h.call("job_status", object{"job_id": job, "wait_s": 45})
	if end["status"] != "completed" || at(end, "approval", "by_uid") != 0.0 || end["waiting_for"] != nil {
		t.Errorf("%v", end)
	}
	// What was shown is what was run.
	b, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"approval_asked", "approved", "launched"} {
		found := false
		for line := range strings.Lines(string(b)) {
			var r struct {
				Event, Job, Digest string
				Argv               []string
			}
			if json.Unmarshal([]byte(line), &r) == nil && r.Event == event && r.Job == job {
				found = r.Digest == exact.Digest && (event != "launched" || strings.Join(r.Argv, " ") == strings.Join(exact.Argv, " "))
			}
		}
		if !found {
			t.Errorf("the audit log has no %s of the digest", event)
		}
	}
}

// An agent is told who refused its scan and why, and a cancelled one waits no more.
func TestAScanThatWaitsIsDeniedOrCancelled(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": approvedScans}})
	h.agent = h.connect(65402)
	job := h.held()
	if out, err := h.admin("deny", job, "--reason", "not in office hours"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	a := h.call("job_status", object{"job_id": job, "wait_s": 10})
	if a["status"] != "refused" || at(a, "error", "code") != "approval_denied" || !strings.Contains(fmt.Sprint(at(a, "error", "reason")), "not in office hours") ||
		!strings.Contains(fmt.Sprint(at(a, "error", "reason")), "root") {
		t.Errorf("%v", a)
	}
	job = h.held()
	if a := h.call("job_cancel", object{"job_id": job}); a["status"] != "cancelled" {
		t.Errorf("%v", a)
	}
	if out, err := h.admin("approve"); err != nil || !strings.Contains(out, "No scan waits") {
		t.Errorf("%v\n%s", err, out)
	}
	// The engagement changes while one waits.
	job = h.held()
	if err := os.WriteFile(filepath.Join(h.daemon.Engagements(), "lab.yaml"), []byte(approvedScans+"# later\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if a := h.call("job_status", object{"job_id": job, "wait_s": 20}); at(a, "error", "code") != "approval_stale" {
		t.Errorf("%v", a)
	}
	// Root asked, and is no other operator.
	h.agent.Close()
	h.agent = h.connect(0)
	job = h.held()
	if out, err := h.admin("approve", job, "--yes"); err == nil || !strings.Contains(out, "own_request") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What follows a scan is approved by itself, and the agent is told that the scan waits for that.
func TestWhatFollowsAnApprovedScanIsApprovedToo(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": approvedScans}})
	h.agent = h.connect(65402)
	a := h.call("masscan_scan", object{"targets": []string{"10.77.0.10"}, "ports": []int{22}, "second_pass": true, "wait_s": 30})
	job := fmt.Sprint(a["job_id"])
	if out, err := h.admin("approve", job, "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var next string
	for deadline := time.Now().Add(40 * time.Second); next == ""; time.Sleep(100 * time.Millisecond) {
		s := h.call("job_status", object{"job_id": job})
		if s["waiting_for"] == "approval" && s["status"] == "running" {
			next = fmt.Sprint(at(s, "followed_by", 0))
			if !strings.Contains(fmt.Sprint(s["next"]), "secmcpd approve "+next) {
				t.Errorf("%v", s["next"])
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not say what it waits for: %v", s)
		}
	}
	var approved struct {
		JobID    string `json:"job_id"`
		Approved bool
		Digest   string
	}
	if out, err := h.admin("approve", next, "--yes", "--json"); err != nil || json.Unmarshal([]byte(out), &approved) != nil || approved.JobID != next || !approved.Approved || len(approved.Digest) != 64 {
		t.Errorf("%v\n%s", err, out)
	}
	if end := h.call("job_status", object{"job_id": job, "wait_s": 45}); end["status"] != "completed" || end["waiting_for"] != nil || at(end, "coverage", "second_pass", "agreed") != true {
		t.Errorf("%v", end)
	}
}
