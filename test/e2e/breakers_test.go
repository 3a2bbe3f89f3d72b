package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/test/lab"
)

// strictFping is the example as a scanner that fails where nobody answers, and does not where somebody
// does.
func strictFping(t *testing.T) map[string]string {
	t.Helper()
	all := examples(t)
	text := strings.Replace(all["fping_scan"], "statuses: [0, 1]", "statuses: [0]", 1)
	if text == all["fping_scan"] {
		t.Fatal("the example has other statuses")
	}
	all["fping_scan"] = text
	return all
}

// operate runs the operator's command, which has to succeed, and returns what it printed.
func (h *house) operate(words ...string) string {
	h.t.Helper()
	out, err := h.command(0, words...).Output()
	if err != nil {
		h.t.Fatalf("%v: %v\n%s", words, err, out)
	}
	return string(out)
}

// breaker is one as the operator sees it.
func (h *house) breaker(name string) (b object) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.operate("breaker", "show", name, "--json")), &b); err != nil {
		h.t.Fatal(err)
	}
	return b
}

// A tool that fails is refused to agents until its time is over and a probe goes well. A launcher that is
// killed meanwhile has forgotten nothing when it is back.
func TestABreakerOpensOutlivesItsLauncherAndCloses(t *testing.T) {
	h := newHouse(t, lab.Options{Runners: strictFping(t), Engagements: map[string]string{"lab": declaredEngagement},
		Settings: "breakers: {failures: 2, recovery: 8s}\n"})
	silent := object{"targets": []string{"10.77.1.1"}, "profile": "quick", "wait_s": 30}
	alive := object{"targets": []string{lab.SSH}, "profile": "quick", "wait_s": 30}
	for range 2 {
		if answer := h.call("fping_scan", silent); answer["status"] != "failed" || at(answer, "end", "exit_code") != 1.0 {
			t.Fatalf("%s", show(answer))
		}
	}
	refused := func(answer object, by string) {
		t.Helper()
		after, _ := at(answer, "error", "retry_after_s").(float64)
		if at(answer, "error", "code") != "breaker_open" || at(answer, "error", "got") != by || at(answer, "error", "retryable") != true || after < 1 || after > 10 {
			t.Fatalf("%s", show(answer))
		}
	}
	answer := h.call("fping_scan", alive)
	refused(answer, "fping_scan")
	if answer := h.call("scan_preview", object{"tool": "fping_scan", "arguments": without(alive, "wait_s")}); answer["allowed"] != false || at(answer, "error", "code") != "breaker_open" {
		t.Errorf("%s", show(answer))
	}
	refusing, _ := h.call("capabilities", object{})["refusing"].([]any)
	if len(refusing) != 2 || at(refusing[0].(object), "breaker") != "fping_scan" || at(refusing[1].(object), "breaker") != "10.77.1.0/24" {
		t.Errorf("%s", show(refusing))
	}

	before := h.breaker("fping_scan")
	h.restart(lab.Launcher)
	after := h.breaker("fping_scan")
	for _, key := range []string{"failure_reasons", "recent_failures", "state_history"} {
		if show(after[key]) != show(before[key]) || after[key] == nil {
			t.Errorf("%s was %s and is %s", key, show(before[key]), show(after[key]))
		}
	}
	if at(after, "breaker", "state") != "open" || at(after, "breaker", "counts", "failure") != 2.0 {
		t.Errorf("%s", show(after))
	}
	refused(h.call("fping_scan", alive), "fping_scan")

	for deadline := time.Now().Add(15 * time.Second); at(h.breaker("fping_scan"), "breaker", "state") != "half_open"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it stays open: %s", show(h.breaker("fping_scan")))
		}
	}
	if answer := h.call("fping_scan", alive); answer["status"] != "completed" {
		t.Errorf("the probe: %s", show(answer))
	}
	if b := h.breaker("fping_scan"); at(b, "breaker", "state") != "closed" || at(b, "breaker", "counts", "success") != 1.0 {
		t.Errorf("%s", show(b))
	}

	// An operator's hand.
	if out := h.operate("breaker", "open", "10.77.0.0/16", "--for", "1h"); out != "10.77.0.0/16 is open, by an operator, for 1h0m0s\n" {
		t.Errorf("%s", out)
	}
	answer = h.call("fping_scan", alive)
	if at(answer, "error", "code") != "breaker_open" || at(answer, "error", "got") != "10.77.0.0/16" || !strings.Contains(show(answer), "an operator holds") {
		t.Errorf("%s", show(answer))
	}
	list := h.operate("breaker")
	if !strings.Contains(list, "10.77.0.0/16") || !strings.Contains(list, "open, by an operator, for ") || !strings.Contains(list, "fping_scan") || !strings.Contains(list, "bad_exit, ") {
		t.Errorf("%s", list)
	}
	if out := h.operate("breaker", "close", "10.77.0.0/16"); out != "10.77.0.0/16 is closed\n" {
		t.Errorf("%s", out)
	}
	if answer := h.call("fping_scan", alive); answer["status"] != "completed" {
		t.Errorf("%s", show(answer))
	}
	if out := h.operate("breaker", "show", "fping_scan"); !strings.Contains(out, "from half_open to closed: probes_succeeded") || !strings.Contains(out, "bad_exit, 2 times") {
		t.Errorf("%s", out)
	}
	if out, err := h.command(0, "breaker", "close", "nosuch_scan").CombinedOutput(); err == nil || !strings.Contains(string(out), "no_such_breaker: name: got") {
		t.Errorf("%v: %s", err, out)
	}
	// What is left of a file that cannot be read is put aside, and the service goes on.
	path := filepath.Join(h.daemon.Dir, "launcher", "breakers")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // what was counted last is written within one
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.restart(lab.Launcher)
	if b := h.breaker("fping_scan"); at(b, "breaker", "state") != "closed" || at(b, "breaker", "counts", "failure") != 0.0 {
		t.Errorf("%s", show(b))
	}
	if kept, err := os.ReadFile(path + ".broken"); err != nil || string(kept) != "nonsense" || !strings.Contains(h.daemon.Log(lab.Launcher), "put aside and all begin closed") {
		t.Errorf("%q, %v", kept, err)
	}
	if answer := h.call("fping_scan", alive); answer["status"] != "completed" {
		t.Errorf("%s", show(answer))
	}
	if _, err := observability.VerifyAudit(h.daemon.AuditDir()); err != nil {
		t.Error(err)
	}
}
