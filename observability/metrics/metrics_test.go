package metrics

import (
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// some is a front in the middle of its work.
func some() Facts {
	return Facts{
		Version: "1.2.3", Tools: []string{"nmap_scan", "masscan_scan"},
		Ended:   []Ended{{"nmap_scan", "completed", "exited", 7}, {"nmap_scan", "partial", "memory", 2}},
		Packets: []Packets{{"nmap_scan", "sent", 1200}, {"nmap_scan", "over_rate", 3}},
		Running: map[string]int{"nmap_scan": 1}, Queued: 2, Oldest: 90 * time.Second, Allowed: 10000, Reserved: 1500, Sessions: 3, Clients: 2,
		Process: Process{Resident: 40 << 20, Goroutines: 30, Files: 20, Started: time.Unix(1700000000, 0)}, Connected: true,
		Unfinished: 3, JobsKept: 9, Kept: 7 << 20, Most: 2 << 30, Free: 5 << 30, Least: 128 << 20,
		Checks: []Check{{"launcher", "audit", "important", "unhealthy"}},
		Totals: []Total{Call("nmap_scan", "answered"), Refused("busy"), Refused("of a version that is not known"), Session(), StoreError()},
		Launcher: &Launcher{Slots: 4, Records: 40, AuditBytes: 1 << 20, AuditFiles: 2, AuditPending: 1, Unwritable: true,
			Breakers: []Breaker{{"nmap_scan", "half_open", map[string]int64{"success": 5}, map[[2]string]int64{{"closed", "open"}: 1}}}},
	}
}

func registry(f Facts) *Registry { return New(func() (Facts, error) { return f, nil }) }

// gathered is the text of what a registry has of a family, or of all.
func gathered(t *testing.T, r *Registry, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") && (len(names) == 0 || strings.HasPrefix(line, names[0])) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestEveryThingIsCountedUnderItsName(t *testing.T) {
	ended := some()
	for _, j := range []Job{
		{ErrorType: None, Launched: true, Ran: 12 * time.Second, Wait: 2 * time.Second, CPU: 1500 * time.Millisecond, MemoryPeak: 100 << 20, WaitedIO: time.Second,
			Output: 5000, Read: 70, Parse: 3 * time.Millisecond, Parsed: 4000, Cut: true, OffScope: 3},
		{ErrorType: Timeout, Launched: true, Ran: 2 * time.Hour},
		{ErrorType: Validation, Code: "target_never"},
		{ErrorType: Execution, Stage: "cgroup"},
		{ErrorType: Execution, Stage: "what no version knows"},
	} {
		for _, s := range j.Sums() {
			s.Tool = "nmap_scan"
			ended.Totals = append(ended.Totals, s)
		}
	}
	for name, want := range map[string][]string{
		"secmcpd_jobs":                          {`{state="queued"} 2`, `{state="running"} 1`, `{state="ending"} 0`},
		"secmcpd_jobs_unfinished":               {" 3"},
		"secmcpd_queue_oldest_seconds":          {" 90"},
		"secmcpd_jobs_ended_total":              {`{reason="exited",state="completed",tool="nmap_scan"} 7`, `{reason="memory",state="partial",tool="nmap_scan"} 2`},
		"secmcpd_packets_total":                 {`{fate="over_rate",tool="nmap_scan"} 3`, `{fate="sent",tool="nmap_scan"} 1200`},
		"secmcpd_budget_packets_per_second":     {`{share="allowed"} 10000`, `{share="reserved"} 1500`},
		"secmcpd_state_bytes":                   {`{share="free"} 5.36870912e+09`, `{share="kept"} 7.340032e+06`},
		"secmcpd_up":                            {" 1"},
		"secmcpd_build_info":                    {`{version="1.2.3"} 1`},
		"secmcpd_clients":                       {" 2"},
		"secmcpd_launcher_connected":            {" 1"},
		"secmcpd_audit_unwritable":              {" 1"},
		"secmcpd_audit_records_total":           {" 40"},
		"secmcpd_health_status":                 {`{check="audit",priority="important",room="launcher"} 2`},
		"secmcpd_process_start_time_seconds":    {`{room="front"} 1.7e+09`, `{room="launcher"} 0`},
		"mcp_tool_active":                       {`{tool="nmap_scan"} 1`, `{tool="masscan_scan"} 0`},
		"mcp_tool_execution_total":              {`{error_type="none",status="success",tool="nmap_scan"} 1`, `{error_type="timeout",status="failure",tool="nmap_scan"} 1`, `{error_type="none",status="success",tool="masscan_scan"} 0`},
		"mcp_tool_errors_total":                 {`{error_type="execution_error",tool="nmap_scan"} 2`, `{error_type="validation_error",tool="nmap_scan"} 1`},
		"mcp_tool_execution_seconds":            {`_bucket{tool="nmap_scan",le="5"} 0`, `_bucket{tool="nmap_scan",le="15"} 1`, `_bucket{tool="nmap_scan",le="3600"} 1`, `_bucket{tool="nmap_scan",le="+Inf"} 2`, `_sum{tool="nmap_scan"} 7212`, `_count{tool="nmap_scan"} 2`},
		"mcp_circuit_breaker_state":             {`{name="nmap_scan"} 2`},
		"mcp_circuit_breaker_calls_total":       {`{name="nmap_scan",result="success"} 5`},
		"mcp_circuit_breaker_transitions_total": {`{from_state="closed",name="nmap_scan",to_state="open"} 1`},
		"secmcpd_queue_wait_seconds":            {`_bucket{tool="nmap_scan",le="0.1"} 1`, `_bucket{tool="nmap_scan",le="5"} 2`, `_sum{tool="nmap_scan"} 2`},
		"secmcpd_launches_total":                {`{tool="nmap_scan"} 2`},
		"secmcpd_launch_failures_total":         {`{stage="cgroup"} 1`, `{stage="other"} 1`, `{stage="audit"} 0`},
		"secmcpd_refusals_total":                {`{code="busy"} 1`, `{code="other"} 1`, `{code="target_never"} 1`, `{code="disk_full"} 0`},
		"secmcpd_calls_total":                   {`{outcome="answered",tool="nmap_scan"} 1`, `{outcome="refused",tool="nmap_scan"} 0`},
		"secmcpd_scope_violations_total":        {`{tool="nmap_scan"} 1`},
		"secmcpd_scan_cpu_seconds_total":        {`{tool="nmap_scan"} 1.5`},
		"secmcpd_scan_memory_peak_bytes":        {`_bucket{tool="nmap_scan",le="6.7108864e+07"} 0`, `_bucket{tool="nmap_scan",le="1.34217728e+08"} 1`, `_count{tool="nmap_scan"} 1`},
		"secmcpd_scan_pressure_seconds_total":   {`{resource="io",tool="nmap_scan"} 1`, `{resource="cpu",tool="nmap_scan"} 0`},
		"secmcpd_scan_disk_bytes_total":         {`{direction="read",tool="nmap_scan"} 70`},
		"secmcpd_scan_output_bytes_total":       {`{tool="nmap_scan"} 5000`},
		"secmcpd_parse_seconds":                 {`_bucket{tool="nmap_scan",le="0.001"} 1`, `_bucket{tool="nmap_scan",le="0.01"} 2`, `_sum{tool="nmap_scan"} 0.003`},
		"secmcpd_parsed_bytes_total":            {`{tool="nmap_scan"} 4000`},
		"secmcpd_results_cut_total":             {`{tool="nmap_scan"} 1`},
		"secmcpd_sessions_total":                {" 1"},
		"secmcpd_store_errors_total":            {" 1"},
	} {
		text := gathered(t, registry(ended), name)
		for _, sample := range want {
			if !strings.Contains(text, name+sample+"\n") {
				t.Errorf("%s%s is not in\n%s", name, sample, text)
			}
		}
	}
}

// A version with other bounds has counted before: what it counted stays, in the next bucket that there is.
func TestBucketsOfAnotherVersionAreCounted(t *testing.T) {
	f := some()
	f.Totals = []Total{{sumSeconds, "nmap_scan", "45", 3}, {sumSeconds, "nmap_scan", "7200", 2}, {sumSeconds, "nmap_scan", sumOf, 9000}}
	text := gathered(t, registry(f), "mcp_tool_execution_seconds")
	for _, want := range []string{`le="30"} 0`, `le="60"} 3`, `le="3600"} 3`, `le="+Inf"} 5`, `_sum{tool="nmap_scan"} 9`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}

func TestWhatHasNotComeIsNotInvented(t *testing.T) {
	f := some()
	f.Launcher = nil
	if text := gathered(t, registry(f)); strings.Contains(text, "secmcpd_audit") || !strings.Contains(text, "secmcpd_launcher_connected 1") {
		t.Errorf("of a launcher that has not spoken:\n%s", text)
	}
}

func TestEveryFamilyIsExported(t *testing.T) {
	got, err := registry(some()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range got {
		there[f.GetName()] = true
	}
	for _, f := range Families() {
		if !there[f.Name] {
			t.Errorf("%s is declared and not exported", f.Name)
		}
		delete(there, f.Name)
	}
	if len(there) > 0 {
		t.Errorf("exported and not declared: %v", there)
	}
}

// promtool has the last word on names and helps.
func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	if err := registry(some()).WriteFile(path); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = file
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestFileIsReadableByEverybodyAndHasNoTimestamp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	r := registry(some())
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("the file has mode %v, %v; want 0644", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		_, value, found := strings.Cut(line, "} ")
		if !found {
			_, value, _ = strings.Cut(line, " ")
		}
		if !strings.HasPrefix(line, "#") && (value == "" || strings.Contains(value, " ")) {
			t.Errorf("a sample is more than a name and a value: %q", line)
		}
	}
	r.Stop()
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	text, _ = os.ReadFile(path)
	for _, want := range []string{"\nsecmcpd_up 0\n", `secmcpd_jobs{state="running"} 0`, `mcp_tool_active{tool="nmap_scan"} 0`, "\nsecmcpd_sessions 0\n",
		"\nsecmcpd_audit_unwritable 0\n", `secmcpd_health_status{check="audit",priority="important",room="launcher"} 0`, `secmcpd_process_resident_bytes{room="front"} 0`,
		// What lasts is as it was.
		"\nsecmcpd_jobs_unfinished 3\n", `state="completed",tool="nmap_scan"} 7`, `mcp_circuit_breaker_state{name="nmap_scan"} 2`, "\nsecmcpd_jobs_kept 9\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the last file lacks %q:\n%s", want, text)
		}
	}
}

func TestTotalsThatCannotBeReadLeaveTheFileAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	if err := registry(some()).WriteFile(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	locked := New(func() (Facts, error) { return some(), errors.New("the database is locked") })
	if err := locked.WriteFile(path); err == nil || !strings.Contains(err.Error(), "the database is locked") {
		t.Errorf("got %v, want the cause", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Errorf("the file was replaced:\n%s", after)
	}
}

// A scrape is answered in the form that it asks for.
func TestAScrapeIsAnsweredAsItAsks(t *testing.T) {
	for accept, want := range map[string]string{
		"": "text/plain; version=0.0.4",
		"application/openmetrics-text;version=1.0.0,text/plain;q=0.5": "application/openmetrics-text; version=1.0.0",
	} {
		request := httptest.NewRequest("GET", "/metrics", nil)
		request.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		registry(some()).Handler().ServeHTTP(w, request)
		body, _ := io.ReadAll(w.Body)
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), want) || !strings.Contains(string(body), "secmcpd_up 1") {
			t.Errorf("%q: %d, %s\n%.300s", accept, w.Code, w.Header().Get("Content-Type"), body)
		}
		if strings.HasPrefix(want, "application") != strings.HasSuffix(string(body), "# EOF\n") {
			t.Errorf("%q ends with %q", accept, body[len(body)-20:])
		}
	}
}

// A front that ends writes its last file while others still scrape it.
func TestTheLastFileIsWrittenBesideScrapes(t *testing.T) {
	r := registry(some())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			r.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
		}
	}()
	r.Stop()
	if text := gathered(t, r, "secmcpd_up"); text != "secmcpd_up 0\n" {
		t.Errorf("%q", text)
	}
	<-done
}

// A front that is killed while it writes leaves a part of a file, which the next one removes.
func TestWhatAKilledFrontHasLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secmcpd.prom")
	for _, name := range []string{"secmcpd.prom", "secmcpd.prom1834", "secmcpd.prom.bak", "other.prom77"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half a li"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := registry(some()).WriteFile(path); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "other.prom77 secmcpd.prom secmcpd.prom.bak" {
		t.Error(got)
	}
}
