package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/test/lab"
)

// What scans of the same host by two scanners found is searched and compared, and what one did not look at has
// neither opened nor closed.
func TestRealScansAreSearchedAndCompared(t *testing.T) {
	h := newHouse(t, lab.Options{})
	one := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22}, "wait_s": 45})["job_id"]
	two := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80, 81}, "wait_s": 45})["job_id"]
	fast := h.call("masscan_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80, 81}, "wait_s": 45})["job_id"]
	if h.call("job_pin", object{"job_id": one, "name": "first"})["name"] != "first" {
		t.Error("it is not pinned")
	}
	for says, c := range map[string]struct {
		before, after any
		want          string // appeared, vanished, changed, not comparable, same
	}{
		"a port that the first did not ask for": {"first", two, "0 0 0 1 1"},
		"and the other way round":               {two, "first", "0 0 0 1 1"},
		"another scanner, the same ports":       {two, fast, "0 0 0 0 2"},
		"with itself":                           {fast, fast, "0 0 0 0 2"},
	} {
		d := h.call("scan_diff", object{"before": c.before, "after": c.after})
		got := fmt.Sprint(d["appeared"], d["vanished"], d["changed"], d["not_comparable"], d["same"])
		if got = strings.Join(strings.Fields(got), " "); got != c.want {
			t.Errorf("%s: %s\n%s", says, got, show(d))
		}
	}
	if d := h.call("scan_diff", object{"before": "first", "after": two}); at(d, "changes", 0, "reason") != "port_not_asked" || at(d, "changes", 0, "scan") != "before" || at(d, "changes", 0, "port") != 80.0 {
		t.Errorf("%s", show(d))
	}
	q := h.call("result_query", object{"state": "open", "by": "port"})
	if q["count"] != 5.0 || at(q, "values", 0, "value") != "22" || at(q, "values", 0, "count") != 3.0 || at(q, "over", "complete") != 3.0 {
		t.Errorf("%s", show(q))
	}
	q = h.call("result_query", object{"port": 80, "job_id": one})
	if q["count"] != 0.0 || at(q, "over", "looked") != 0.0 || at(q, "over", "did_not_look", "port_not_asked") != 1.0 {
		t.Errorf("nobody looked at port 80: %s", show(q))
	}
	other := h.connect(65402)
	defer other.Close()
	if q, err := call(other, "result_query", object{}); err != nil || q["count"] != 0.0 || at(q, "over", "jobs") != 0.0 {
		t.Errorf("another user searches %s, %v", show(q), err)
	}
	if d, err := call(other, "scan_diff", object{"before": "first", "after": two}); err != nil || at(d, "error", "code") != "no_such_job" {
		t.Errorf("another user compares %s, %v", show(d), err)
	}
}
