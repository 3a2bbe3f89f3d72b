package exports

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/observability/metrics"
	"github.com/secmcpd/secmcpd/test/lab"
)

// operatorGet asks the front on its admin socket.
func (h *house) operatorGet(path string) string {
	h.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.daemon.AdminSocket())
	}}}
	defer client.CloseIdleConnections()
	r, err := client.Get("http://localhost" + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %v, %d: %s", path, err, r.StatusCode, b)
	}
	return string(b)
}

// Everything that is declared is in both exports of the real daemon, and nothing else is; labels have words of the lists;
// promtool finds nothing to say; node_exporter reads the file.
func TestTheRealDaemonExportsEveryMetric(t *testing.T) {
	file := newPromFile(t)
	h := newHouse(t, lab.Options{Settings: file.settings()})
	for _, scan := range []object{
		{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}, "wait_s": 45},
		{"targets": []string{lab.SSHAndWeb, "10.77.1.0/26"}, "ports": []any{22, 80}, "skip_discovery": true, "limit": 10, "wait_s": 45},
		{"targets": []string{"10.77.0.13"}, "ports": []any{22}},
		{"targets": []string{"169.254.169.254"}, "ports": []any{"a port"}},
	} {
		h.call("nmap_scan", scan)
	}
	h.call("masscan_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "wait_s": 45})
	h.call("job_list", object{})
	last := file.when(t, `mcp_tool_execution_total{error_type="none",status="success",tool="masscan_scan"}`, equals(1))
	for series, want := range map[string]float64{
		`mcp_tool_execution_total{error_type="none",status="success",tool="nmap_scan"}`:    1,
		`mcp_tool_execution_total{error_type="timeout",status="failure",tool="nmap_scan"}`: 1,
		`mcp_tool_errors_total{error_type="validation_error",tool="nmap_scan"}`:            1,
		`mcp_tool_execution_seconds_count{tool="nmap_scan"}`:                               2,
		`secmcpd_refusals_total{code="target_excluded"}`:                                   1,
		`secmcpd_refusals_total{code="arguments"}`:                                         1,
		`secmcpd_jobs_ended_total{reason="timeout",state="partial",tool="nmap_scan"}`:      1,
		`secmcpd_sessions`:           1,
		`secmcpd_slots`:              4,
		`secmcpd_launcher_connected`: 1,
		`secmcpd_jobs_unfinished`:    0,
		`node_textfile_scrape_error`: 0,
	} {
		if got, there := last.samples[series]; !there || got != want {
			t.Errorf("%s is %v (%v), want %v", series, got, there, want)
		}
	}
	for _, series := range []string{`secmcpd_packets_total{fate="sent",tool="nmap_scan"}`, `secmcpd_scan_output_bytes_total{tool="nmap_scan"}`,
		`secmcpd_parsed_bytes_total{tool="nmap_scan"}`, `secmcpd_audit_records_total`, `secmcpd_audit_bytes`, `secmcpd_process_resident_bytes{room="front"}`,
		`secmcpd_process_open_files{room="launcher"}`, `secmcpd_process_goroutines{room="front"}`, `secmcpd_process_cpu_seconds_total{room="launcher"}`, `mcp_tool_execution_seconds_sum{tool="nmap_scan"}`} {
		if last.samples[series] <= 0 {
			t.Errorf("%s is %v", series, last.samples[series])
		}
	}
	text, err := os.ReadFile(file.path)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"the file": string(text), "/metrics": h.operatorGet("/metrics")} {
		h.declared(where, text)
		check := exec.Command("promtool", "check", "metrics")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", where, err, out)
		}
	}
}

// declared compares a text with what is declared: families, types, labels and their words.
func (h *house) declared(where, text string) {
	h.t.Helper()
	types := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(text, -1) {
		types[m[1]] = m[2]
	}
	labels := map[string][]string{}
	for _, f := range metrics.Families() {
		if types[f.Name] != f.Type {
			h.t.Errorf("%s: %s is %q, declared as %s", where, f.Name, types[f.Name], f.Type)
		}
		delete(types, f.Name)
		labels[f.Name] = f.Labels
	}
	if len(types) > 0 {
		h.t.Errorf("%s: exported and not declared: %v", where, types)
	}
	scanners := []string{"nmap_scan", "masscan_scan", "gobuster_scan"}
	tools := slices.Concat(scanners, []string{"scan_preview", "capabilities", "job_status", "job_result", "job_list", "job_cancel", "job_pin", "scan_diff", "result_query"})
	words := map[string][]string{
		"tool": tools, "status": {"success", "failure"}, "error_type": append(slices.Clone(metrics.ErrorTypes), metrics.None), "code": metrics.Codes, "stage": metrics.Stages,
		"outcome": metrics.Outcomes, "room": {"front", "launcher"}, "resource": {"cpu", "memory", "io"}, "direction": {"read", "written"},
		"fate": {"sent", "received", "off_scope", "form", "over_rate", "refused"}, "share": {"kept", "allowed", "free", "reserved"},
		"priority": {"critical", "important", "informational"},
		"name":     append(slices.Clone(scanners), "network"), "result": {"success", "failure", "rejected"}, "from_state": metrics.BreakerStates, "to_state": metrics.BreakerStates,
		"state":  {"queued", "running", "ending", "completed", "partial", "truncated", "cancelled", "failed", "refused", "interrupted"},
		"reason": {"exited", "signalled", "cancelled", "timeout", "refused"},
	}
	checks := map[string]bool{}
	for series := range samplesOf(h.t, text) {
		name, set, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		want, known := labels[name]
		for _, end := range []string{"_bucket", "_sum", "_count"} {
			if w, is := labels[strings.TrimSuffix(name, end)]; !known && is && strings.HasSuffix(name, end) {
				want = w
			}
		}
		var got []string
		for _, m := range regexp.MustCompile(`([a-z_]+)="([^"]*)"`).FindAllStringSubmatch(set, -1) {
			if m[1] == "le" {
				continue
			}
			got = append(got, m[1])
			if m[1] == "check" && len(m[2]) < 20 && !strings.ContainsAny(m[2], ".0123456789") {
				checks[m[2]] = true // of a table of each room
				continue
			}
			if m[1] != "version" && !slices.Contains(words[m[1]], m[2]) {
				h.t.Errorf("%s: %s: %q is no word of %s", where, series, m[2], m[1])
			}
			if strings.ContainsAny(m[2], ":/") || strings.Contains(m[2], "10.77.") {
				h.t.Errorf("%s: %s names a target", where, series)
			}
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			h.t.Errorf("%s: %s has the labels %v, declared are %v", where, series, got, want)
		}
	}
	if len(checks) < 10 || len(checks) > 2*24 {
		h.t.Errorf("%s: %d checks", where, len(checks))
	}
}
