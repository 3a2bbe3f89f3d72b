package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

// Two users ask for as many scans at once as a whole queue holds, and get the same of the slots, to within a
// tenth; one that waits says where; none is lost. The gate itself is tried with 64 scans, by a clock of the test's
// own.
func TestTwoUsersHaveTheSameOfTheSlots(t *testing.T) {
	const each = 24
	engagement := `name: lab
callers: {users: [0, 65402]}
targets: [10.77.0.0/16]
tools: {fping_scan: {profiles: ["*"]}}
limits: {jobs: 64}
`
	h := newHouse(t, lab.Options{Runners: examples(t), Engagements: map[string]string{"lab": engagement}, Settings: "scans: {at_once: 2, queued: 128, packets_per_second: 10000}\n"})
	type scan struct {
		user  int
		id    string
		start time.Time
	}
	users := []*mcp.ClientSession{h.connect(0), h.connect(65402)}
	asking := make(chan []scan, len(users))
	for user, s := range users {
		defer s.Close()
		go func() {
			var mine []scan
			defer func() { asking <- mine }()
			for range each {
				answer, err := call(s, "fping_scan", object{"targets": []string{lab.SSH, "10.77.0.200"}, "profile": "quick", "wait_s": 0})
				id, _ := answer["job_id"].(string)
				if err != nil || id == "" || answer["error"] != nil {
					t.Errorf("%v: %s", err, show(answer))
					return
				}
				mine = append(mine, scan{user: user, id: id})
			}
		}()
	}
	scans := append(<-asking, <-asking...)
	if len(scans) != 2*each {
		t.Fatalf("%d scans", len(scans))
	}
	asked := time.Now()
	last := scans[len(scans)-1]
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		answer, err := call(users[last.user], "job_status", object{"job_id": last.id})
		if err != nil {
			t.Fatal(err)
		}
		position, is := at(answer, "queue", "position").(float64)
		if !is && time.Now().Before(deadline) {
			continue // the launcher tells of it every second
		}
		expected, _ := at(answer, "queue", "expected_start_s").(float64)
		latest, _ := at(answer, "queue", "latest_start_s").(float64)
		if position < each/4 || at(answer, "queue", "ahead") != position-1 || expected < 1 || latest < expected {
			t.Errorf("%s", show(answer))
		}
		t.Logf("the last one says %s", show(answer["queue"]))
		break
	}
	for i, one := range scans {
		for deadline := time.Now().Add(2 * time.Minute); ; {
			answer, err := call(users[one.user], "job_status", object{"job_id": one.id, "wait_s": 30})
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%v: %s", err, show(answer))
			}
			if answer["status"] == "queued" || answer["status"] == "running" {
				continue
			}
			if answer["status"] != "completed" {
				t.Fatalf("%s", show(answer))
			}
			started, err := time.Parse(time.RFC3339Nano, fmt.Sprint(answer["started"]))
			if err != nil {
				t.Fatal(err)
			}
			scans[i].start = started
			break
		}
	}
	// From when both wanted more until one had all he wanted.
	slices.SortFunc(scans, func(a, b scan) int { return cmp.Compare(a.start.UnixNano(), b.start.UnixNano()) })
	var had, contended [2]int
	for _, one := range scans {
		if one.start.After(asked) && had[0] < each && had[1] < each {
			contended[one.user]++
		}
		had[one.user]++
	}
	t.Logf("while both waited they began %v scans, the first one had begun %d before", contended, each-contended[0])
	if least, most := min(contended[0], contended[1]), max(contended[0], contended[1]); least < 10 || float64(most-least) > max(0.1*float64(most), 1) {
		t.Errorf("while both waited they began %v scans", contended)
	}
}
