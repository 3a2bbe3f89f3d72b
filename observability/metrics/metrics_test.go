package metrics

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func source() Source {
	return Source{
		Version:  "1.2.3",
		UnderWay: func() (int, int) { return 2, 1 },
		Budget:   func() (int, int) { return 10000, 1500 },
		Space:    func() (int64, int64, int64, int64, error) { return 7 << 20, 2 << 30, 5 << 30, 128 << 20, nil },
		Packets: func() ([]Packets, error) {
			return []Packets{{"nmap_scan", "sent", 1200}, {"nmap_scan", "over_rate", 3}}, nil
		},
		Ended: func() ([]Ended, error) {
			return []Ended{{"nmap_scan", "completed", "exited", 7}, {"nmap_scan", "partial", "memory", 2}}, nil
		},
	}
}

const whole = `
# HELP secmcpd_budget_packets_per_second Packets per second of all jobs that run: allowed by the machine's budget, and reserved out of it.
# TYPE secmcpd_budget_packets_per_second gauge
secmcpd_budget_packets_per_second{share="allowed"} 10000
secmcpd_budget_packets_per_second{share="reserved"} 1500
# HELP secmcpd_jobs Jobs under way, by state: queued or running.
# TYPE secmcpd_jobs gauge
secmcpd_jobs{state="queued"} 2
secmcpd_jobs{state="running"} 1
# HELP secmcpd_jobs_ended_total Jobs that have ended, by tool, by how the job ended (state), and by what ended its scanner (reason): exited by itself, or one of its limits.
# TYPE secmcpd_jobs_ended_total counter
secmcpd_jobs_ended_total{reason="exited",state="completed",tool="nmap_scan"} 7
secmcpd_jobs_ended_total{reason="memory",state="partial",tool="nmap_scan"} 2
# HELP secmcpd_packets_total Packets of jobs that have ended, by tool and by what the kernel's filter did with them (fate): sent and received passed; off_scope, form and over_rate were dropped on the way out, refused on the way in.
# TYPE secmcpd_packets_total counter
secmcpd_packets_total{fate="over_rate",tool="nmap_scan"} 3
secmcpd_packets_total{fate="sent",tool="nmap_scan"} 1200
# HELP secmcpd_state_bytes Bytes where results are kept: kept of jobs that have ended and allowed for them, free on the disk and reserved of it; below that no new job is begun.
# TYPE secmcpd_state_bytes gauge
secmcpd_state_bytes{share="allowed"} 2.147483648e+09
secmcpd_state_bytes{share="free"} 5.36870912e+09
secmcpd_state_bytes{share="kept"} 7.340032e+06
secmcpd_state_bytes{share="reserved"} 1.34217728e+08
# HELP secmcpd_up 1 while the front runs; 0 is the last thing that it writes.
# TYPE secmcpd_up gauge
secmcpd_up 1
`

func TestEveryEndIsCountedByItsReason(t *testing.T) {
	if err := testutil.GatherAndCompare(New(source()), strings.NewReader(whole), "secmcpd_jobs", "secmcpd_jobs_ended_total", "secmcpd_up", "secmcpd_packets_total", "secmcpd_budget_packets_per_second", "secmcpd_state_bytes"); err != nil {
		t.Error(err)
	}
}

func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := testutil.GatherAndLint(New(source()))
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestFileIsReadableByEverybodyAndHasNoTimestamp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	r := New(source())
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
		if !strings.HasPrefix(line, "#") && strings.Count(line, " ") != 1 {
			t.Errorf("a sample is more than a name and a value: %q", line)
		}
	}
	r.Stop()
	if err := r.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	text, _ = os.ReadFile(path)
	for _, want := range []string{"\nsecmcpd_up 0\n", `secmcpd_jobs{state="running"} 0`, `state="completed",tool="nmap_scan"} 7`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the last file lacks %q:\n%s", want, text)
		}
	}
}

func TestTotalsThatCannotBeReadLeaveTheFileAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	if err := New(source()).WriteFile(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	s := source()
	s.Ended = func() ([]Ended, error) { return nil, errors.New("the database is locked") }
	if err := New(s).WriteFile(path); err == nil || !strings.Contains(err.Error(), "the database is locked") {
		t.Errorf("got %v, want the cause", err)
	}
	s = source()
	s.Packets = func() ([]Packets, error) { return nil, errors.New("the database is locked") }
	if err := New(s).WriteFile(path); err == nil || !strings.Contains(err.Error(), "the database is locked") {
		t.Errorf("of packets: got %v, want the cause", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Errorf("the file was replaced:\n%s", after)
	}
}
