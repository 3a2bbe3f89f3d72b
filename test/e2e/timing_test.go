package e2e

import (
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// A polite scan leaves time between its probes, ends by itself no later than the preview says, and
// gives up hosts that do not answer when their time is over, however many there are.
func TestPoliteScansEndInTime(t *testing.T) {
	h := newHouse(t, lab.Options{})
	const silent = "10.77.1.0/29" // eight addresses that answer nothing
	for _, c := range []struct {
		says        string
		arguments   object
		least, most time.Duration
		timedOut    float64
	}{
		{"connect to a host that answers", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{"20-29"}},
			3 * time.Second, 15 * time.Second, 0},
		{"SYN to a host that answers", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{"20-29"}, "scan_type": "syn"},
			3 * time.Second, 15 * time.Second, 0},
		{"UDP to a host that answers", object{"targets": []string{lab.DNS}, "ports": []any{"50-54"}, "scan_type": "udp"},
			1500 * time.Millisecond, 20 * time.Second, 0},
		{"connect to silent hosts", object{"targets": []string{silent}, "top_ports": 14, "skip_discovery": true, "host_timeout": 6},
			6 * time.Second, 12 * time.Second, 8},
		{"SYN to silent hosts", object{"targets": []string{silent}, "top_ports": 14, "skip_discovery": true, "host_timeout": 6, "scan_type": "syn"},
			6 * time.Second, 12 * time.Second, 8},
		{"UDP to silent hosts", object{"targets": []string{silent}, "top_ports": 14, "skip_discovery": true, "host_timeout": 6, "scan_type": "udp"},
			6 * time.Second, 12 * time.Second, 8},
	} {
		c.arguments["timing"] = "polite"
		preview := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": c.arguments})
		expected, _ := at(preview, "expected", "seconds").(float64)
		c.arguments["wait_s"] = 45
		began := time.Now()
		answer := h.call("nmap_scan", c.arguments)
		took := time.Since(began)
		status := "completed"
		if c.timedOut > 0 {
			status = "partial"
		}
		if answer["status"] != status || at(answer, "coverage", "timed_out") != c.timedOut {
			t.Errorf("%s: %s", c.says, show(answer))
		}
		if took < c.least || took > c.most {
			t.Errorf("%s: took %s, want %s to %s", c.says, took, c.least, c.most)
		}
		// The box, its link and the report cost a little more than the scan.
		if took.Seconds() > expected+3 {
			t.Errorf("%s: took %s, the preview expected %v s at most", c.says, took, expected)
		}
	}
}

// A scan under way says how far it is.
func TestARunningScanTellsItsProgress(t *testing.T) {
	h := newHouse(t, lab.Options{})
	job := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{"20-59"}, "timing": "polite", "wait_s": 0})
	var answer object
	for range 20 {
		answer = h.call("job_status", object{"job_id": job["job_id"], "wait_s": 1})
		if percent, _ := at(answer, "progress", "percent").(float64); percent > 0 {
			break
		}
	}
	if percent, _ := at(answer, "progress", "percent").(float64); percent <= 0 || answer["status"] != "running" {
		t.Errorf("no progress: %s", show(answer))
	}
	h.call("job_cancel", object{"job_id": job["job_id"]})
}
