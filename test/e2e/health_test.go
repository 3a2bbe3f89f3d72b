package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// often is a daemon that looks as often as it can, on a machine of which this test uses what it likes.
const often = "health: {every: 5s, timeout: 2s, cpu_percent: 100, memory_percent: 100, disk_percent: 100}\n"

// health asks an endpoint of the front's operators.
func (h *house) health(path string) (code int, answer object) {
	h.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.daemon.AdminSocket())
		}}}
	r, err := client.Get("http://front" + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		h.t.Fatalf("%v: %s", err, body)
	}
	return r.StatusCode, answer
}

// becomes waits until an endpoint answers so, with these words somewhere in its reasons.
func (h *house) becomes(path string, code int, reason string) object {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		got, answer := h.health(path)
		if got == code && strings.Contains(fmt.Sprint(answer["reasons"]), reason) {
			return answer
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s answers %d, want %d for %q: %s", path, got, code, reason, show(answer))
		}
	}
}

// status waits for a line of a role's status that has these words.
func (h *house) status(r lab.Role, words string) {
	h.t.Helper()
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, n := range h.daemon.Notices(r) {
			if line, is := strings.CutPrefix(n.State, "STATUS="); is {
				last = line
			}
		}
		if strings.Contains(last, words) {
			return
		}
	}
	h.t.Fatalf("the status of %s is %q, want %q", r, last, words)
}

// The audit log's disk fills up: the daemon is alive and not ready, and says why; with space it is again.
func TestAnAuditLogThatCannotBeWrittenIsNotReady(t *testing.T) {
	h := newHouse(t, lab.Options{AuditMiB: 48, Settings: often})
	h.slow() // there is a client, and a scan: work is no fault
	ready := h.becomes("/readyz", http.StatusOK, "")
	for _, check := range []string{"front.loop", "front.database", "front.store", "front.disk", "front.launcher", "launcher.loop", "launcher.filter", "launcher.audit",
		"launcher.records", "launcher.disk", "launcher.scanners", "launcher.slots", "launcher.protection", "launcher.cgroups", "launcher.scope", "launcher.engagements", "launcher.front", "launcher.clock"} {
		for deadline := time.Now().Add(20 * time.Second); at(ready, "checks", check, "status") != "healthy"; time.Sleep(200 * time.Millisecond) {
			if _, ready = h.health("/readyz"); time.Now().After(deadline) {
				t.Fatalf("%s: %s", check, show(at(ready, "checks", check)))
			}
		}
		c := at(ready, "checks", check).(object)
		if c["priority"] == nil || c["duration"] == nil || c["age"].(float64) < 0 || c["message"] == "" {
			t.Errorf("%s: %s", check, show(c))
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) { // known since the scan was asked for
		found := fmt.Sprint(at(ready, "checks", "launcher.scanners", "metadata", "nmap"))
		if strings.HasPrefix(found, "7.") && len(found) > 64 {
			break
		}
		if _, ready = h.health("/readyz"); time.Now().After(deadline) {
			t.Fatalf("the scanner is %q, want its version and its hash", found)
		}
	}
	h.status(lab.Launcher, "1 scan running, 0 queued; 1 client")

	ballast := filepath.Join(h.daemon.AuditDir(), "ballast")
	if err := os.WriteFile(ballast, make([]byte, 64<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	answer := h.becomes("/readyz", http.StatusServiceUnavailable, "launcher audit: the audit log cannot be written (no space left on device)")
	if answer["live"] != true || at(answer, "checks", "launcher.audit", "status") != "unhealthy" {
		t.Errorf("%s", show(answer))
	}
	h.becomes("/healthz", http.StatusMultiStatus, "launcher audit")
	if code, live := h.health("/livez"); code != http.StatusOK || live["live"] != true {
		t.Errorf("/livez answers %d: %v", code, live)
	}
	if code, _ := h.health("/healthz?live"); code != http.StatusOK {
		t.Errorf("/healthz?live answers %d", code)
	}
	h.status(lab.Launcher, "not ready: audit: the audit log cannot be written (no space left on device)")
	if log := h.daemon.Log(lab.Launcher); !strings.Contains(log, "event=not_ready") {
		t.Errorf("the log does not say it:\n%s", log)
	}
	refusal{code: "audit_unavailable"}.check(t, "without an audit log", h.call("nmap_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait_s": 0}))

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	h.becomes("/readyz", http.StatusOK, "")
	h.status(lab.Launcher, "queued; 1 client; engagements ok")
	if log := h.daemon.Log(lab.Launcher); !strings.Contains(log, "event=ready") {
		t.Errorf("the log does not say that it is ready again:\n%s", log)
	}
}

// A scanner that was there and is gone makes the launcher unready; another one in its place is said.
func TestAScannerThatIsRemovedIsNotReady(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nmap, err := os.ReadFile("/usr/bin/nmap")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "nmap")
	if err := os.WriteFile(path, nmap, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, lab.Options{Settings: often + "scanners: {nmap: " + path + "}\n"})
	h.call("capabilities", object{})
	h.becomes("/readyz", http.StatusOK, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	h.becomes("/readyz", http.StatusServiceUnavailable, "launcher scanners: cannot be used: nmap; ")
	if err := os.WriteFile(path, append(nmap, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	answer := h.becomes("/readyz", http.StatusOK, "")
	if said := fmt.Sprint(at(answer, "checks", "launcher.scanners", "message")); !strings.Contains(said, "changed since the start: nmap") {
		t.Errorf("%q", said)
	}
}

// An engagement with faults degrades, and none at all is not ready.
func TestEngagementsThatAreNotInForceAreTold(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: often, Engagements: map[string]string{"lab": lab.Engagement, "other": strings.Replace(lab.Engagement, "name: lab", "name: other", 1)}})
	h.call("capabilities", object{})
	h.becomes("/readyz", http.StatusOK, "")
	other := filepath.Join(h.daemon.Engagements(), "other.yaml")
	if err := os.WriteFile(other, []byte("name: other\nnonsense: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.becomes("/healthz", http.StatusMultiStatus, "launcher engagements: 1 in force, 1 with faults (other)")
	h.becomes("/readyz", http.StatusOK, "")
	if err := os.Remove(filepath.Join(h.daemon.Engagements(), "lab.yaml")); err != nil {
		t.Fatal(err)
	}
	h.becomes("/readyz", http.StatusServiceUnavailable, "every scan is refused: 0 in force")
}

// A room that is stopped feeds no watchdog, and the other one does, and says who is missing; it goes on
// once it is not. The scan that runs has nothing to do with it.
func TestTheWatchdogIsNotFedByARoomThatIsWedged(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: often, Watchdog: 2 * time.Second})
	id := h.slow()
	fed := func(r lab.Role, since time.Time) (n int) {
		for _, notice := range h.daemon.Notices(r) {
			if notice.State == "WATCHDOG=1" && notice.At.After(since) {
				n++
			}
		}
		return n
	}
	begun := time.Now()
	time.Sleep(5 * time.Second)
	for _, r := range []lab.Role{lab.Front, lab.Launcher} {
		if n := fed(r, begun); n < 7 || n > 12 { // at a quarter of its time
			t.Errorf("%s fed its watchdog %d times in 5 s, want about 10", r, n)
		}
	}
	front := h.daemon.Pid(lab.Front)
	if err := syscall.Kill(front, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now().Add(200 * time.Millisecond) // what was under way
	time.Sleep(6 * time.Second)
	if n := fed(lab.Front, stopped); n != 0 {
		t.Errorf("a front that is stopped fed its watchdog %d times", n)
	}
	if n := fed(lab.Launcher, stopped); n < 3 {
		t.Errorf("the launcher fed its watchdog %d times in 6 s while the front was stopped", n)
	}
	if err := syscall.Kill(front, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	going := time.Now()
	time.Sleep(3 * time.Second)
	if fed(lab.Front, going) == 0 {
		t.Error("the front does not feed its watchdog again")
	}
	if s := h.call("job_status", object{"job_id": id}); s["status"] != "running" {
		t.Errorf("the scan: %s", show(s))
	}
}

// A launcher that hangs is told by the front: it is not ready, and is itself alive.
func TestALauncherThatHangsIsNotReady(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: often, NoRestart: true})
	h.call("capabilities", object{})
	h.becomes("/readyz", http.StatusOK, "")
	launcher := h.daemon.Pid(lab.Launcher)
	if err := syscall.Kill(launcher, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h.becomes("/readyz", http.StatusServiceUnavailable, "front launcher: connected, and silent for")
	if code, _ := h.health("/livez"); code != http.StatusOK {
		t.Errorf("/livez answers %d", code)
	}
	if err := syscall.Kill(launcher, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.becomes("/readyz", http.StatusOK, "")
}
