package exports

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/test/lab"
)

// promFile is a file of metrics as the packages place it: in a directory of the front's, with a link to it in the directory of
// node_exporter.
type promFile struct {
	path     string
	exporter string // its address
}

// newPromFile starts the real node_exporter, as nobody, beside the daemon to come.
func newPromFile(t *testing.T) promFile {
	t.Helper()
	dir, err := os.MkdirTemp("", "metrics")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := promFile{path: filepath.Join(dir, "run", "secmcpd.prom")}
	looked := filepath.Join(dir, "node-exporter")
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(filepath.Dir(f.path), 0o755), os.Mkdir(looked, 0o755),
		os.Chown(filepath.Dir(f.path), lab.FrontUID, lab.FrontUID), os.WriteFile(f.path, nil, 0o644), os.Chown(f.path, lab.FrontUID, lab.FrontUID),
		os.Symlink(f.path, filepath.Join(looked, "secmcpd.prom"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory="+looked,
		"--web.disable-exporter-metrics", "--web.listen-address=127.0.0.1:0")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	log, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it is ours alone
		_ = c.Wait()
	})
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := regexp.MustCompile(`Listening on" address=(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			f.exporter = m[1]
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return f
		}
	}
	t.Fatal("node_exporter does not listen")
	return f
}

// settings are those of a daemon that writes the file.
func (f promFile) settings() string {
	return "metrics: {textfile: " + f.path + ", every: 5s}\n"
}

// moment is what node_exporter had to say at one time: samples by series, as they are written.
type moment struct {
	at      time.Time
	samples map[string]float64
}

// scrape asks node_exporter.
func (f promFile) scrape(t *testing.T) moment {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	r, err := client.Get("http://" + f.exporter + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%v, %d: %s", err, r.StatusCode, b)
	}
	return moment{time.Now(), samplesOf(t, string(b))}
}

func samplesOf(t *testing.T, text string) map[string]float64 {
	t.Helper()
	samples := map[string]float64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		samples[line[:at]] = value
	}
	return samples
}

// when waits until a sample is as wanted, and tells of that moment.
func (f promFile) when(t *testing.T, series string, is func(float64) bool) moment {
	t.Helper()
	for deadline := time.Now().Add(45 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		m := f.scrape(t)
		if v, there := m.samples[series]; there && is(v) {
			return m
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(f.path)
			t.Fatalf("%s is %v after 45 s\n%.4000s", series, m.samples[series], text)
		}
	}
}

func equals(want float64) func(float64) bool { return func(v float64) bool { return v == want } }
func above(least float64) func(float64) bool { return func(v float64) bool { return v > least } }

// A front that is killed while a scan runs has counted it once when it is back, and what it had counted before it still has.
func TestAKilledFrontCountsEachScanOnce(t *testing.T) {
	file := newPromFile(t)
	h := newHouse(t, lab.Options{Settings: file.settings()})
	const good = `mcp_tool_execution_total{error_type="none",status="success",tool="nmap_scan"}`
	h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "wait_s": 45})
	file.when(t, good, equals(1))
	if a := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb, "10.77.1.0/26"}, "ports": []any{22, 80}, "skip_discovery": true, "wait_s": 1}); a["status"] != "running" {
		t.Fatalf("%s", show(a))
	}
	if err := h.daemon.Kill9(lab.Front); err != nil {
		t.Fatal(err)
	}
	h.agent.Close()
	h.agent = h.connect() // to the next front
	m := file.when(t, good, equals(2))
	if m.samples[`secmcpd_launches_total{tool="nmap_scan"}`] != 2 || m.samples[`mcp_tool_execution_seconds_count{tool="nmap_scan"}`] != 2 || m.samples["secmcpd_sessions_total"] < 2 {
		t.Errorf("%v", m.samples)
	}
}

// held is a moment that lasts for some minutes. While the front lives its file is written again, and the oldest job of the
// queue waits on.
type held struct {
	moment
	minutes int
	dead    bool
}

// firing are the alerts that fire at the end of a history of moments. promtool runs the shipped rules over them.
func firing(t *testing.T, history ...held) []string {
	t.Helper()
	rules, err := filepath.Abs("../../packaging/prometheus/secmcpd.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]string{}
	minute := 0
	for _, part := range history {
		for name := range part.samples {
			if values[name] == nil {
				values[name] = slices.Repeat([]string{"_"}, minute)
			}
		}
		for i := range part.minutes {
			for name := range values {
				v, there := part.samples[name]
				switch {
				case !there:
					values[name] = append(values[name], "_")
					continue
				case strings.HasPrefix(name, "node_textfile_mtime_seconds"):
					age := float64(part.at.Unix()) - v
					v = float64(minute*60) - age
					if !part.dead {
						v += float64(i * 60)
					}
				case name == "secmcpd_queue_oldest_seconds" && v > 0 && !part.dead:
					v += float64(i * 60)
				}
				values[name] = append(values[name], strconv.FormatFloat(v, 'f', -1, 64))
			}
		}
		minute += part.minutes
	}
	var test bytes.Buffer
	fmt.Fprintf(&test, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n", rules)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&test, "  - {series: '%s', values: '%s'}\n", name, strings.Join(values[name], " "))
	}
	fmt.Fprintf(&test, "  promql_expr_test:\n  - expr: group by (alertname) (ALERTS{alertstate=\"firing\"})\n    eval_time: %dm\n    exp_samples: [{labels: '{alertname=\"none\"}', value: 1}]\n", minute-1)
	path := filepath.Join(t.TempDir(), "history.yaml")
	if err := os.WriteFile(path, test.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("promtool", "test", "rules", path).CombinedOutput()
	got := regexp.MustCompile(`(?s)got:(.*)`).FindString(string(out))
	if err == nil || got == "" {
		t.Fatalf("promtool does not say what fires: %v\n%s", err, out) // it is never none
	}
	var names []string
	for _, m := range regexp.MustCompile(`alertname="([A-Za-z]+)"`).FindAllStringSubmatch(got, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return names
}

// as is a moment with other values, for what takes longer than a test.
func (m moment) as(change func(series string, v float64) float64) moment {
	out := moment{m.at, map[string]float64{}}
	for name, v := range m.samples {
		out.samples[name] = change(name, v)
	}
	return out
}

func expect(t *testing.T, when string, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q fire, want %q", when, got, want)
	}
}

// onADisk gives a directory of the launcher's a disk of its own, so small, and it the next launcher.
func (h *house) onADisk(dir string, mib int) {
	h.t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { // before the daemon is stopped
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	if err := h.daemon.Kill9(lab.Launcher); err != nil {
		h.t.Fatal(err)
	}
	h.agent.Close()
	h.agent = h.connect() // through the next launcher
}

// tracer is a scanner that makes a call that no scanner makes, in nmap's place.
const tracer = `#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
int main(int argc, char **argv) {
	if (argc == 2 && !strcmp(argv[1], "--version"))
		return puts("Nmap version 7.93 ( https://nmap.org )") < 0;
	return ptrace(PTRACE_TRACEME, 0, 0, 0) != 0;
}
`

// intruder is a scanner that sends to another port than it was started for, in nmap's place.
const intruder = `#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
	if (argc == 2 && !strcmp(argv[1], "--version"))
		return puts("Nmap version 7.93 ( https://nmap.org )") < 0;
	inet_pton(AF_INET, argv[argc - 1], &to.sin_addr);
	connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (struct sockaddr *)&to, sizeof to);
	sleep(1);
	return 0;
}
`

const onlySSH = `name: ssh
callers: {users: [0]}
targets:
  - {network: 10.77.0.8/29, ports: [22]}
tools: {nmap_scan: {profiles: ["*"]}}
`

// compiled is a program in nmap's place.
func compiled(t *testing.T, source string) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "nmap")
	if err := os.WriteFile(path+".c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", path, path+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// The shipped rules, over what the real daemon wrote and the real node_exporter read of it.
func TestAlertsFireOnWhatTheDaemonWrites(t *testing.T) {
	good := object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "wait_s": 45}
	slow := func(more object) object {
		o := object{"targets": []string{lab.SSHAndWeb, "10.77.1.0/26"}, "ports": []any{22, 80}, "skip_discovery": true}
		maps.Copy(o, more)
		return o
	}
	start := func(t *testing.T, o lab.Options) (*house, promFile, moment) {
		t.Helper()
		file := newPromFile(t)
		o.Settings += file.settings()
		h := newHouse(t, o)
		h.agent = h.connect() // the launcher comes to the front with the first agent
		return h, file, file.when(t, "secmcpd_slots", above(0))
	}

	t.Run("a quiet day, and its end", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{NoRestart: true})
		for range 3 {
			if a := h.call("nmap_scan", good); a["status"] != "completed" {
				t.Fatalf("%s", show(a))
			}
		}
		after := file.when(t, `secmcpd_launches_total{tool="nmap_scan"}`, equals(3))
		expect(t, "a quiet day", firing(t, held{begin, 10, false}, held{after, 30, false}))
		h.agent.Close()
		h.agent = nil
		if err := syscall.Kill(h.daemon.Pid(lab.Front), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		end := file.when(t, "secmcpd_up", equals(0))
		expect(t, "its end", firing(t, held{begin, 10, false}, held{after, 10, false}, held{end, 60, true}))

		long := after.as(func(series string, v float64) float64 {
			if strings.HasPrefix(series, "mcp_tool_execution_seconds_bucket{") && !strings.Contains(series, `le="3600"`) && !strings.Contains(series, `le="+Inf"`) {
				return 0
			}
			return v
		})
		expect(t, "scans of an hour", firing(t, held{begin, 10, false}, held{long, 30, false}), "SecmcpdScansSlow")
	})

	t.Run("scans that run out of time", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{})
		for range 6 {
			h.call("nmap_scan", slow(object{"limit": 10, "wait_s": 45}))
		}
		after := file.when(t, `mcp_circuit_breaker_calls_total{name="nmap_scan",result="rejected"}`, equals(1))
		for series, want := range map[string]float64{`mcp_circuit_breaker_state{name="nmap_scan"}`: 1, `mcp_circuit_breaker_calls_total{name="nmap_scan",result="failure"}`: 5,
			`mcp_circuit_breaker_transitions_total{from_state="closed",name="nmap_scan",to_state="open"}`: 1, `mcp_tool_errors_total{error_type="timeout",tool="nmap_scan"}`: 5,
			`mcp_tool_errors_total{error_type="circuit_breaker_open",tool="nmap_scan"}`: 1, `secmcpd_refusals_total{code="breaker_open"}`: 1} {
			if after.samples[series] != want {
				t.Errorf("%s is %v, want %v", series, after.samples[series], want)
			}
		}
		expect(t, "at once", firing(t, held{begin, 10, false}, held{after, 3, false}))
		expect(t, "after ten minutes", firing(t, held{begin, 10, false}, held{after, 12, false}), "SecmcpdBreakerOpen", "SecmcpdFailureRateHigh", "SecmcpdFailureRateSevere", "SecmcpdTimeoutRateHigh")
	})

	t.Run("a queue, a front that ends under it, and one that is killed", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{NoRestart: true, Settings: "scans: {at_once: 1}\n"})
		for range 2 {
			h.call("nmap_scan", slow(object{"limit": 300, "wait_s": 0}))
		}
		full := file.when(t, `secmcpd_queue_oldest_seconds`, above(0))
		if full.samples[`mcp_tool_active{tool="nmap_scan"}`] != 1 || full.samples[`secmcpd_jobs{state="queued"}`] != 1 {
			t.Fatalf("%v", full.samples)
		}
		expect(t, "a queue of ten minutes", firing(t, held{begin, 10, false}, held{full, 10, false}))
		expect(t, "a queue of half an hour", firing(t, held{begin, 10, false}, held{full, 30, false}), "SecmcpdQueueLong")
		free := full.as(func(series string, v float64) float64 {
			if series == "secmcpd_slots" {
				return 4
			}
			return v
		})
		expect(t, "with slots that are free", firing(t, held{begin, 10, false}, held{free, 30, false}), "SecmcpdScansWait")
		expect(t, "killed", firing(t, held{begin, 10, false}, held{full, 5, false}, held{full, 30, true}), "SecmcpdMetricsStale")
		if err := syscall.Kill(h.daemon.Pid(lab.Front), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		down := file.when(t, "secmcpd_up", equals(0))
		if down.samples["secmcpd_jobs_unfinished"] != 2 || down.samples[`secmcpd_jobs{state="running"}`] != 0 {
			t.Errorf("%v are unfinished, %v run", down.samples["secmcpd_jobs_unfinished"], down.samples[`secmcpd_jobs{state="running"}`])
		}
		expect(t, "ended", firing(t, held{begin, 10, false}, held{full, 5, false}, held{down, 5, true}), "SecmcpdDownWithJobs")
	})

	t.Run("a launcher that is gone", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{NoRestart: true})
		h.call("nmap_scan", slow(object{"wait_s": 1}))
		if err := h.daemon.Kill9(lab.Launcher); err != nil {
			t.Fatal(err)
		}
		gone := file.when(t, "secmcpd_launcher_connected", equals(0))
		expect(t, "a launcher that is gone", firing(t, held{begin, 10, false}, held{gone, 5, false}), "SecmcpdLauncherGone")
	})

	t.Run("a scanner that leaves its scope", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{Settings: "scanners: {nmap: " + compiled(t, intruder) + "}\n", Engagements: map[string]string{"ssh": onlySSH}})
		h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "scan_type": "syn", "wait_s": 45})
		after := file.when(t, `secmcpd_scope_violations_total{tool="nmap_scan"}`, equals(1))
		expect(t, "a violation", firing(t, held{begin, 20, false}, held{after, 5, false}), "SecmcpdScopeViolation")
	})

	t.Run("a scanner that breaks out", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{Settings: "scanners: {nmap: " + compiled(t, tracer) + "}\n"})
		h.call("nmap_scan", good)
		after := file.when(t, `secmcpd_jobs_ended_total{reason="violation",state="failed",tool="nmap_scan"}`, equals(1))
		expect(t, "a violation", firing(t, held{begin, 20, false}, held{after, 5, false}), "SecmcpdBoxViolation")
		expect(t, "a day later", firing(t, held{begin, 20, false}, held{after, 60, false}))
	})

	t.Run("a launcher without room", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{})
		h.onADisk(filepath.Join(h.daemon.Dir, "launcher"), 24)
		if a := h.call("nmap_scan", good); code(a) != "disk_full" {
			t.Fatalf("%s", show(a))
		}
		after := file.when(t, `secmcpd_launch_failures_total{stage="outputs"}`, equals(1))
		expect(t, "a launch that fails", firing(t, held{begin, 20, false}, held{after, 5, false}), "SecmcpdLaunchFails")
	})

	t.Run("a disk that is full", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{StateMiB: 24, Settings: "jobs: {free_mib: 8}\n"})
		h.call("nmap_scan", slow(object{"wait_s": 1}))
		ballast := filepath.Join(h.daemon.StateDir(), "ballast")
		_ = os.WriteFile(ballast, make([]byte, 32<<20), 0o600) // as much as there is room for
		full := file.when(t, "secmcpd_store_errors_total", above(0))
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		expect(t, "a full disk", firing(t, held{begin, 10, false}, held{full, 5, false}), "SecmcpdDiskReserved", "SecmcpdStoreFails")
		again := file.when(t, "secmcpd_jobs_kept", equals(1))
		expect(t, "with room again", firing(t, held{begin, 10, false}, held{full, 5, false}, held{again, 20, false}))
	})

	t.Run("an audit log that cannot be written", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{})
		h.onADisk(h.daemon.AuditDir(), 1)
		ballast := filepath.Join(h.daemon.AuditDir(), "ballast")
		_ = os.WriteFile(ballast, make([]byte, 2<<20), 0o600) // as much as there is room for
		full := false
		for deadline := time.Now().Add(40 * time.Second); !full; time.Sleep(200 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the audit log can still be written")
			}
			full = code(h.call("nmap_scan", good)) == "audit_unavailable"
		}
		unwritable := file.when(t, "secmcpd_audit_unwritable", equals(1))
		expect(t, "an audit log that cannot be written", firing(t, held{begin, 10, false}, held{unwritable, 5, false}), "SecmcpdAuditUnwritable", "SecmcpdUnhealthy")
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("an agent that does not learn", func(t *testing.T) {
		h, file, begin := start(t, lab.Options{})
		var after [3]moment
		for i := range after {
			for range 150 {
				h.call("job_result", object{"job_id": strings.Repeat("a", 26)})
			}
			after[i] = file.when(t, `secmcpd_refusals_total{code="no_such_job"}`, equals(float64(150*(i+1))))
		}
		expect(t, "refusals", firing(t, held{begin, 10, false}, held{after[0], 7, false}, held{after[1], 7, false}, held{after[2], 4, false}), "SecmcpdRefusalsMany")
	})

	t.Run("a file of somebody else's that cannot be read", func(t *testing.T) {
		_, file, begin := start(t, lab.Options{})
		if err := os.Symlink("/nowhere.prom", filepath.Join(filepath.Dir(filepath.Dir(file.path)), "node-exporter", "other.prom")); err != nil {
			t.Fatal(err)
		}
		bad := file.when(t, "node_textfile_scrape_error", equals(1))
		expect(t, "a link to nowhere", firing(t, held{begin, 10, false}, held{bad, 15, false}), "SecmcpdTextfileUnreadable")
	})
}
