package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/test/lab"
)

// fill leaves so many bytes of the state's disk free.
func fill(t *testing.T, h *house, free int64) string {
	t.Helper()
	path := filepath.Join(h.daemon.StateDir(), "ballast")
	left, err := freeIn(h.daemon.StateDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, max(left-free, 0)), 0o600); err != nil && free > 0 {
		t.Fatal(err)
	}
	if left, err = freeIn(h.daemon.StateDir()); err != nil || left > free {
		t.Fatalf("%d bytes are free, %v", left, err)
	}
	return path
}

// The disk of results fills up, for real: scans are refused, what was found stays, and what a scan that runs has found
// is kept once there is space.
func TestTheDiskOfResultsFillsUp(t *testing.T) {
	h := newHouse(t, lab.Options{StateMiB: 24, Settings: "jobs: {free_mib: 8}\n", Engagements: map[string]string{"lab": lab.Engagement}})
	scan := object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}, "wait_s": 45}
	first := h.call("nmap_scan", scan)
	if first["status"] != "completed" {
		t.Fatalf("%v", first)
	}

	ballast := fill(t, h, 7<<20)
	refused := h.call("nmap_scan", scan)
	if at(refused, "error", "code") != "disk_full" || !strings.Contains(fmt.Sprint(at(refused, "error", "reason")), "what was found before is kept") {
		t.Errorf("%v", refused)
	}
	if p := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": without(scan, "wait_s")}); p["allowed"] != false || at(p, "error", "code") != "disk_full" {
		t.Errorf("%v", p)
	}
	if again := h.call("job_result", object{"job_id": first["job_id"]}); again["status"] != "completed" || fmt.Sprint(again["hosts"]) != fmt.Sprint(first["hosts"]) {
		t.Errorf("%v", again)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	running := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{"1-400"}, "rate": 100, "wait_s": 0})
	if running["status"] != "running" && running["status"] != "queued" {
		t.Fatalf("%v", running)
	}
	ballast = fill(t, h, 0)
	id := running["job_id"]
	deadline := time.Now().Add(40 * time.Second)
	for !strings.Contains(h.daemon.Log(lab.Front), "cannot keep a result") && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	if s := h.call("job_status", object{"job_id": id}); s["status"] != "running" || !strings.Contains(h.daemon.Log(lab.Front), "no space left") {
		t.Errorf("on a full disk: %v", s)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		got := h.call("job_result", object{"job_id": id, "wait_s": 1})
		if got["status"] == "completed" && at(got, "summary", "open_ports") == 2.0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with space again: %v", got)
		}
	}
	if last := h.call("nmap_scan", scan); last["status"] != "completed" {
		t.Errorf("with space again: %v", last)
	}
}

func freeIn(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return int64(st.Bavail) * st.Bsize, err
}
