package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/view"
	"github.com/secmcpd/secmcpd/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (-update writes it anew): got\n%s\nwant\n%s", path, got, want)
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

func names(uid uint32) string {
	return map[uint32]string{0: "root", 1000: "alice", 65402: "65402"}[uid]
}

// busy is a daemon with something of everything, and an agent who tries to steer the operator's terminal.
func busy() statusReport {
	return statusReport{
		Launcher: &wire.State{Version: "1.0", Since: ago(26 * time.Hour), At: noon, Front: true, Clients: 3, Slots: 4, Running: 1, Waiting: 1, Budget: 10000, Reserved: 1000, Filter: "bpf",
			Gaps:    []wire.Gap{{Layer: "cgroup-io", Why: "the disk has no name", Follows: "reads are not bounded"}},
			Pending: []wire.Awaited{{Job: "bbbbbbbbbbbbbbbbbbbbbbbbbb"}}, PendingCount: 1, Draining: &wire.Draining{}, Unfinished: 2, Replaced: true,
			Queue: []wire.Waiting{{Job: "bbbbbbbbbbbbbbbbbbbbbbbbbb", AboutS: 130, LatestS: 1800}},
			Breakers: wire.Breakers{Tools: []wire.Breaker{{Name: "masscan_scan", State: "open", Reason: "timeout", RetryAfterS: 45}, {Name: "nmap_scan", State: "closed"}},
				Networks: []wire.Breaker{{Name: "10.0.9.0/24", State: "open", Forced: true}}, Open: 3}},
		Front: &view.Status{Version: "1.0", Since: ago(90 * time.Minute), At: noon, Ready: true, Sessions: 3, Users: []view.User{{UID: 0, Sessions: 1}, {UID: 1000, Sessions: 2}}, Queued: 1, Running: 1,
			Jobs: []view.Job{
				{JobID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", UID: 1000, Tool: "nmap_scan", Profile: "quick", Engagement: "office", State: "running", Targets: []string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}, TargetCount: 9,
					Created: ago(3 * time.Minute), Started: ago(2 * time.Minute), Deadline: noon.Add(28 * time.Minute), Progress: &view.Progress{Percent: 41.6, Task: "SYN Stealth Scan", RemainingS: 190, HostsDone: 12}},
				{JobID: "bbbbbbbbbbbbbbbbbbbbbbbbbb", UID: 65402, Tool: "gobuster_scan", Profile: "standard", State: "queued", Targets: []string{"http://x/\x1b]0;owned\a\u202e"}, TargetCount: 1, Created: ago(30 * time.Second)},
			},
			Ended: []view.Job{
				{JobID: "cccccccccccccccccccccccccc", UID: 1000, Tool: "nmap_scan", Profile: "quick", Engagement: "office", State: "partial", Reason: "timeout", Targets: []string{"10.0.9.0/24"}, TargetCount: 1,
					Created: ago(2 * time.Hour), Started: ago(2 * time.Hour), Ended: ago(time.Hour), Found: &view.Found{HostsUp: 3, OpenPorts: 7}},
				{JobID: "dddddddddddddddddddddddddd", UID: 0, Tool: "nmap_scan", Profile: "quick", State: "refused", Reason: "target_out_of_scope", Targets: []string{"192.0.2.1"}, TargetCount: 1, Created: ago(50 * time.Hour), Ended: ago(50 * time.Hour)},
			},
			Space: view.Space{Kept: 3 << 29, Allowed: 2 << 30, Free: 30 << 30, Reserved: 128 << 20}, Gaps: []wire.Gap{}},
	}
}

func TestTheStatusOnOneScreen(t *testing.T) {
	for name, change := range map[string]func(*statusReport){
		"busy": func(*statusReport) {},
		"well": func(r *statusReport) {
			r.Launcher.Gaps, r.Launcher.Breakers, r.Launcher.Queue = nil, wire.Breakers{}, nil
			r.Launcher.PendingCount, r.Launcher.Pending, r.Launcher.Draining, r.Launcher.Replaced = 0, nil, nil, false
			r.Front.Jobs, r.Front.Ended = []view.Job{}, []view.Job{}
		},
		"crowded": func(r *statusReport) {
			r.Launcher.Gaps, r.Launcher.Breakers, r.Launcher.Queue = nil, wire.Breakers{}, nil
			r.Launcher.PendingCount, r.Launcher.Pending, r.Launcher.Draining, r.Launcher.Replaced = 0, nil, nil, false
			r.Front.Jobs, r.Front.Ended, r.Front.Queued = r.Front.Jobs[:1], []view.Job{}, 70
		},
		"idle": func(r *statusReport) {
			*r = statusReport{Launcher: &wire.State{Version: "1.0", Since: ago(time.Hour), Slots: 4, Filter: "bpf"}, FrontIdle: true}
		},
		"down": func(r *statusReport) {
			*r = statusReport{LauncherError: "cannot ask the launcher at /run/x: connection refused\nhint: look", FrontError: "cannot ask the front at /run/y: connection refused"}
		},
		"full": func(r *statusReport) {
			r.Launcher.Gaps, r.Launcher.Breakers, r.Launcher.Queue = nil, wire.Breakers{}, nil
			r.Launcher.PendingCount, r.Launcher.Pending, r.Launcher.Draining, r.Launcher.Replaced = 0, nil, nil, false
			r.Front.Ready, r.Front.NotReady, r.Front.Space.Free = false, []string{"the disk of results is full: no new scan is started"}, 1<<20
			r.Front.Jobs, r.Front.Ended, r.Front.Version = []view.Job{}, []view.Job{}, "0.9"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := busy()
			change(&r)
			r.judge(nil)
			golden(t, "status-"+name+".txt", r.page(screen{}, noon, names))
		})
	}
	// What programs read; the launcher's part is wire.State as it is.
	r := busy()
	r.judge(nil)
	r.Launcher = nil
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", string(b)+"\n")
	r = busy()
	r.judge(nil)
	for line := range strings.Lines(r.page(screen{terminal: true, colours: true, width: 80}, noon, names)) {
		plain := strings.NewReplacer("\x1b[0m", "", "\x1b[1m", "", "\x1b[2m", "", "\x1b[31m", "", "\x1b[32m", "", "\x1b[33m", "").Replace(line)
		if strings.Contains(plain, "\x1b") || len([]rune(plain)) > 81 {
			t.Errorf("on a terminal of 80 columns: %q", line)
		}
	}
}

func TestWhatTheStatusExitsWith(t *testing.T) {
	for is, want := range map[string]int{isWell: 0, isDegraded: 3, isDown: 1} {
		got := 0
		if err := (&statusReport{Is: is}).exit(); err != nil {
			got = err.(exitError).code
		}
		if got != want {
			t.Errorf("%s: %d, want %d", is, got, want)
		}
	}
}

func TestAJobOnOnePage(t *testing.T) {
	defer func(local *time.Location) { time.Local = local }(time.Local)
	time.Local = time.UTC
	d := view.JobDetail{Job: busy().Front.Jobs[0], Arguments: json.RawMessage(`{"targets": ["10.0.0.0/24"], "ports": [22]}`),
		Verdict: wire.Verdict{Outcome: "allow", Engagement: "office", Revision: "0123456789abcdef", Rule: "targets[0] 10.0.0.0/16", Reason: "engagement office allows it", Addresses: []string{"10.0.0.0/24"},
			AddressCount: 256, Excluded: []wire.Exclusion{{Prefix: "10.0.0.9/32", Rule: "exclude[0]"}}, Ports: []string{"22"}, Rate: 1000, LimitS: 1800},
		Argv: []string{"nmap", "-p", "22", "10.0.0.0/24"}, ArgvCount: 4,
		Answer: json.RawMessage(`{"job_id":"x","scanner":{"tool":"nmap","version":"7.93","list":[1,"a\u001bb",{"x":true}],"none":[]},"not_enforced":[],"usage":{"wall_ms":5,"cpu_ms":3}}`)}
	golden(t, "job.txt", jobPage(screen{}, d, noon, names))
}

func TestALayerThatMayBeMissingIsNoReason(t *testing.T) {
	r := busy()
	r.Launcher.Breakers, r.Launcher.PendingCount, r.Launcher.Draining, r.Launcher.Replaced = wire.Breakers{}, 0, nil, false
	r.judge([]string{"cgroup-io"})
	if r.Is != isWell || len(r.Reasons) != 0 || !strings.Contains(r.page(screen{}, noon, names), "without   cgroup-io\n") {
		t.Errorf("%s %v\n%s", r.Is, r.Reasons, r.page(screen{}, noon, names))
	}
}

// A breaker that refuses is told once, and a drain, though the launcher's health has them, too.
func TestTheStatusTellsThingsOnce(t *testing.T) {
	r := busy()
	r.Launcher.Gaps, r.Launcher.Pending, r.Launcher.PendingCount, r.Launcher.Replaced = nil, nil, 0, false
	r.Launcher.Breakers = wire.Breakers{Enabled: true, Tools: []wire.Breaker{{Name: "nmap_scan", State: "open", Reason: "5 failures", RetryAfterS: 90}}}
	r.Launcher.Health = &wire.Health{Status: "degraded", Reasons: []string{"drain: an operator", "breakers: nmap_scan is open: `secmcpd breaker`"}}
	r.judge(nil)
	if got := strings.Join(r.Reasons, "|"); r.Is != isDegraded || got != "breaker of nmap_scan is open after 5 failures, for 1m30s more|no new scan is taken: the launcher drains, and 2 scans left" {
		t.Errorf("%s: %s", r.Is, got)
	}
}

// What a room says of itself counts: what does not work is down, what is worth a look degraded.
func TestTheStatusIsAsTheRoomsSayThatTheyAre(t *testing.T) {
	for _, c := range []struct {
		says            string
		launcher, front *wire.Health
		is, reason      string
	}{
		{"both well", &wire.Health{Status: "healthy", Ready: true}, &wire.Health{Status: "healthy", Ready: true}, isWell, ""},
		{"one takes no scans", &wire.Health{Status: "degraded", Reasons: []string{"audit: full"}}, &wire.Health{Status: "healthy", Ready: true}, isDegraded, "launcher: audit: full"},
		{"worth a look", &wire.Health{Status: "healthy"}, &wire.Health{Status: "degraded", Reasons: []string{"disk: 10 MiB free"}}, isDegraded, "front: disk: 10 MiB free"},
		{"does not work", &wire.Health{Status: "unhealthy", Reasons: []string{"audit: cannot be written"}}, &wire.Health{Status: "degraded", Reasons: []string{"x"}}, isDown, "launcher: audit: cannot be written"},
	} {
		r := busy()
		r.Launcher.Gaps, r.Launcher.Breakers, r.Launcher.Health, r.Front.Health = nil, wire.Breakers{}, c.launcher, c.front
		r.Launcher.PendingCount, r.Launcher.Draining, r.Launcher.Replaced = 0, nil, false
		r.judge(nil)
		if r.Is != c.is || c.reason != "" && r.Reasons[0] != c.reason {
			t.Errorf("%s: %s %q", c.says, r.Is, r.Reasons)
		}
		said := map[bool]string{true: "1.0, for 1d02h, ready\n", false: "1.0, for 1d02h, not ready\n"}[c.launcher.Ready]
		if page := r.page(screen{}, noon, names); !strings.Contains(page, said) {
			t.Errorf("%s: no %q in\n%s", c.says, said, page)
		}
	}
}
