package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// tools is `secmcpd tools` as root runs it.
func (h *house) tools(words ...string) {
	h.t.Helper()
	out, err := exec.Command(binary, append(append([]string{"tools"}, words...), "--config", h.daemon.Config)...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("secmcpd tools %v: %v\n%s", words, err, out)
	}
}

// disabled is what capabilities say of a tool.
func (h *house) disabled(tool string) string {
	h.t.Helper()
	list, _ := h.call("capabilities", object{})["scanners"].([]any)
	for _, s := range list {
		if at(s, "tool") == tool {
			why, _ := at(s, "disabled").(string)
			return why
		}
	}
	h.t.Fatalf("capabilities know no %s", tool)
	return ""
}

// A tool that is switched off is refused from the next decision on, also after a crash; what runs goes on.
func TestToolsAreSwitchedOffAndOn(t *testing.T) {
	h := newHouse(t, lab.Options{})
	quick := object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45}
	running := h.slow()
	h.tools("disable", "nmap_scan")
	refused := func(when string) {
		t.Helper()
		answer, err := call(h.agent, "nmap_scan", quick)
		if err != nil || at(answer, "error", "code") != "tool_disabled" || at(answer, "error", "retryable") != true {
			t.Errorf("%s: %v %s", when, err, show(answer))
		}
		if why := h.disabled("nmap_scan"); !strings.Contains(why, "disabled") {
			t.Errorf("%s: capabilities say %q", when, why)
		}
		preview := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": without(quick, "wait_s")})
		if preview["allowed"] != false || at(preview, "error", "code") != "tool_disabled" {
			t.Errorf("%s: %s", when, show(preview))
		}
	}
	refused("while it runs")
	if status := h.call("job_status", object{"job_id": running}); status["status"] != "running" {
		t.Errorf("what ran has not gone on: %s", show(status))
	}
	// Nor does it follow another tool's scan.
	answer := h.call("masscan_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait": 1, "retries": 0, "verify": "ports", "wait_s": 45})
	if why := fmt.Sprint(at(answer, "coverage", "verification", 0, "why")); answer["status"] != "completed" || !strings.HasPrefix(why, "tool_disabled") ||
		at(answer, "coverage", "complete") != false {
		t.Errorf("another tool: %s", show(answer))
	}
	h.restart(lab.Launcher)
	refused("after a crash")
	h.tools("enable", "nmap_scan")
	if answer := h.call("nmap_scan", quick); answer["status"] != "completed" {
		t.Errorf("%s", show(answer))
	}
	if why := h.disabled("nmap_scan"); why != "" {
		t.Errorf("capabilities say %q", why)
	}
	log := h.auditLog()
	for _, want := range []string{`"event":"tools","targets":["nmap_scan"]`, `"code":"tool_disabled"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit log has no %s", want)
		}
	}
}

// A scan that waits for its turn is judged again before it starts.
func TestAToolThatIsSwitchedOffWhileItsScanWaits(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "scans: {at_once: 1}\n"})
	running := h.slow()
	waiting := h.call("masscan_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 0})
	if waiting["status"] != "queued" {
		t.Fatal(show(waiting))
	}
	h.tools("disable", "masscan_scan")
	h.call("job_cancel", object{"job_id": running})
	var answer object
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if answer, _ = call(h.agent, "job_status", object{"job_id": waiting["job_id"]}); answer["status"] != "queued" {
			break
		}
	}
	if answer["status"] != "refused" || at(answer, "error", "code") != "tool_disabled" {
		t.Errorf("%s", show(answer))
	}
}

// A tool that the configuration leaves out is not listed, and refused by the launcher as well.
func TestToolsThatAreLeftOut(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "tools: {include: [nmap_scan, masscan_scan], exclude: [masscan_scan]}\n"})
	h.agent = h.connect(0)
	list, err := h.agent.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "nmap_scan") || strings.Contains(got, "masscan_scan") || strings.Contains(got, "gobuster_scan") {
		t.Errorf("%s", got)
	}
	for _, tool := range []string{"masscan_scan", "gobuster_scan"} {
		if why := h.disabled(tool); !strings.Contains(why, "configuration") {
			t.Errorf("%s: %q", tool, why)
		}
	}
	if answer := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "wait_s": 45}); answer["status"] != "completed" {
		t.Errorf("%s", show(answer))
	}
}
