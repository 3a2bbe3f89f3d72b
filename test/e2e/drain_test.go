package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// signal sends a role a signal, as systemctl kill does.
func (h *house) signal(r lab.Role, s syscall.Signal) {
	h.t.Helper()
	if err := syscall.Kill(h.daemon.Pid(r), s); err != nil {
		h.t.Fatal(err)
	}
}

// awaitPid waits until a role is another process.
func (h *house) awaitPid(r lab.Role, before int, within time.Duration) {
	h.t.Helper()
	for deadline := time.Now().Add(within); h.daemon.Pid(r) == before; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("%s is not another process after %s", r, within)
		}
	}
}

// underWay waits until a scan runs.
func (h *house) underWay(id any) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); h.call("job_status", object{"job_id": id})["status"] != "running"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("it does not run")
		}
	}
}

// short is a scan that is at work until its time is up.
var short = object{"targets": []string{"10.77.0.64/28"}, "ports": []string{"1-100"}, "skip_discovery": true, "rate": 200, "limit": 15, "wait_s": 0}

// A launcher that is stopped lets a running scan come to its end; agents are told until when.
func TestAScanEndsWithinTheGraceOfAStop(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "shutdown: {grace: 60s}\n"})
	id := h.call("nmap_scan", short)["job_id"]
	h.underWay(id)
	before := h.daemon.Pid(lab.Launcher)
	h.signal(lab.Launcher, syscall.SIGTERM)
	told := false
	for deadline := time.Now().Add(10 * time.Second); !told && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s := h.call("job_status", object{"job_id": id})
		told = s["ends_by"] != nil && strings.Contains(fmt.Sprint(s["next"]), "being stopped")
	}
	if !told {
		t.Error("the agent is not told that the daemon is being stopped")
	}
	if a := h.call("nmap_scan", short); at(a, "error", "code") != "stopping" || at(a, "error", "retryable") != true {
		t.Errorf("a new scan: %v", a)
	}
	h.awaitPid(lab.Launcher, before, 90*time.Second)
	if a := h.again(id); at(a, "end", "reason") != "timeout" {
		t.Errorf("%v %v", a["status"], a["end"])
	}
}

// A second signal does not wait, and what there was is kept.
func TestASecondSignalEndsWhatRuns(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "shutdown: {grace: 5m}\n"})
	id := h.slow()
	before := h.daemon.Pid(lab.Launcher)
	h.signal(lab.Launcher, syscall.SIGTERM)
	for deadline := time.Now().Add(10 * time.Second); h.call("job_status", object{"job_id": id})["ends_by"] == nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not drain")
		}
	}
	h.signal(lab.Launcher, syscall.SIGTERM)
	h.awaitPid(lab.Launcher, before, 15*time.Second)
	if a := h.again(id); a["status"] != "interrupted" || at(a, "end", "reason") != "shutdown" {
		t.Errorf("%v", a)
	}
}

// An operator drains the daemon, and takes it back.
func TestAnOperatorDrains(t *testing.T) {
	h := newHouse(t, lab.Options{})
	id := h.slow()
	if out, err := h.admin("drain"); err != nil || !strings.Contains(out, "have not ended: 1") {
		t.Errorf("%v\n%s", err, out)
	}
	if a := h.call("nmap_scan", short); at(a, "error", "code") != "draining" || at(a, "error", "retryable") != true {
		t.Errorf("%v", a)
	}
	if out, err := h.admin("drain", "--json"); err != nil || !strings.Contains(out, `"unfinished": 1`) || !strings.Contains(out, `"why": "draining"`) {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := h.admin("drain", "--wait", "1s"); err == nil || !strings.Contains(out, "have not ended: 1") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := h.admin("drain", "--cancel", "--wait", "20s"); err != nil || !strings.Contains(out, "none is left") {
		t.Errorf("%v\n%s", err, out)
	}
	if a := h.call("job_status", object{"job_id": id, "wait_s": 20}); at(a, "end", "reason") != "shutdown" {
		t.Errorf("%v", a)
	}
	if out, err := h.admin("drain", "--off", "--json"); err != nil || !strings.Contains(out, `"draining": null`) {
		t.Errorf("%v\n%s", err, out)
	}
	if a := h.call("nmap_scan", short); a["job_id"] == nil || a["error"] != nil {
		t.Errorf("%v", a)
	}
}

// Both rooms make way for another version of their program when no scan runs, and one that runs goes on.
func TestAnUpgradeEndsNoScan(t *testing.T) {
	h := newHouse(t, lab.Options{})
	h.agent = h.connect(0)
	id := h.call("nmap_scan", short)["job_id"]
	h.underWay(id)
	launcher, front := h.daemon.Pid(lab.Launcher), h.daemon.Pid(lab.Front)
	path := filepath.Join(h.daemon.Dir, "secmcpd")
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	next := bytes.Clone(program) // another file of the same program
	if err := os.WriteFile(path+".new", next, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	// Names are asked for by the program that runs, whatever is at its path now.
	if a := h.call("nmap_scan", object{"targets": []string{"ssh.lab.internal"}, "ports": []int{22}, "wait_s": 45}); a["status"] != "completed" {
		t.Errorf("a scan of a name after the program was replaced: %v %v", a["status"], a["error"])
	}
	if a := h.call("job_status", object{"job_id": id, "wait_s": 45}); at(a, "end", "reason") != "timeout" {
		t.Errorf("%v %v", a["status"], a["end"])
	}
	h.awaitPid(lab.Launcher, launcher, 40*time.Second)
	if a := h.again(id); at(a, "end", "reason") != "timeout" { // who connects has the next front started
		t.Errorf("%v %v", a["status"], a["end"])
	}
	h.awaitPid(lab.Front, front, 20*time.Second)
}
