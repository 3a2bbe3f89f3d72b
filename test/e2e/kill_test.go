package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/test/lab"
)

const boxesDeadWithin = 2 * time.Second

// noBoxes waits until no process is in any box.
func (h *house) noBoxes(within time.Duration) {
	h.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		pids, err := h.daemon.Boxes()
		if err != nil {
			h.t.Fatal(err)
		}
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("after %v there are still %v", within, pids)
		}
	}
}

// again connects anew and keeps asking for a job until it is finished.
func (h *house) again(id any) object {
	h.t.Helper()
	return h.againAs(0, id)
}

func (h *house) againAs(uid uint32, id any) object {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		s, err := h.daemon.Client(ctx, uid, nil)
		done()
		if err != nil {
			continue // the daemon is being started again
		}
		answer, err := call(s, "job_result", object{"job_id": id, "wait_s": 20})
		s.Close()
		if err == nil && answer["status"] != nil && answer["status"] != "running" && answer["status"] != "queued" {
			return answer
		}
	}
	h.t.Fatalf("job %v never ends\nlauncher:\n%s\nfront:\n%s", id, h.daemon.Log(lab.Launcher), h.daemon.Log(lab.Front))
	return nil
}

func (h *house) slow() any {
	h.t.Helper()
	answer := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb, "10.77.1.0/26"}, "ports": []any{22, 80}, "skip_discovery": true, "wait_s": 1})
	if answer["status"] != "running" {
		h.t.Fatalf("%s", show(answer))
	}
	return answer["job_id"]
}

func TestAKilledFrontFindsItsScansAgain(t *testing.T) {
	h := newHouse(t, lab.Options{})
	id := h.slow()
	before, err := h.daemon.Boxes()
	if err != nil || len(before) == 0 {
		t.Fatalf("no box runs: %v", err)
	}
	launcher := h.daemon.Pid(lab.Launcher)
	if err := h.daemon.Kill9(lab.Front); err != nil {
		t.Fatal(err)
	}
	if after, err := h.daemon.Boxes(); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("boxes before %v, after %v, %v", before, after, err)
	}
	answer := h.again(id)
	if answer["status"] != "completed" || at(answer, "coverage", "complete") != true || at(answer, "coverage", "asked") != 65.0 {
		delete(answer, "hosts")
		t.Errorf("%s", show(answer))
	}
	if h.daemon.Pid(lab.Launcher) != launcher {
		t.Error("the launcher was started again, too")
	}
}

// Even if nobody ever starts it again, the launcher's boxes die with it, and the front keeps what
// its jobs had. What became of them is said once there is a launcher to ask through.
func TestAKilledLauncherTakesItsBoxesWithIt(t *testing.T) {
	h := newHouse(t, lab.Options{NoRestart: true})
	id := h.slow()
	time.Sleep(4 * time.Second) // until the first group of hosts is through
	if err := h.daemon.Kill9(lab.Launcher); err != nil {
		t.Fatal(err)
	}
	h.noBoxes(boxesDeadWithin)
	// The front has no clients any more: they come through the launcher.
	path := filepath.Join(h.daemon.Dir, "state", "jobs", fmt.Sprint(id), "nmap.xml")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(lab.SSHAndWeb)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the output there was is not kept: %s", h.daemon.Log(lab.Front))
		}
	}
}

func TestAKilledLauncherSaysInterruptedWhenItIsBack(t *testing.T) {
	h := newHouse(t, lab.Options{})
	id := h.slow()
	time.Sleep(4 * time.Second)
	if err := h.daemon.Kill9(lab.Launcher); err != nil {
		t.Fatal(err)
	}
	h.noBoxes(boxesDeadWithin)
	answer := h.again(id)
	if answer["status"] != "interrupted" || at(answer, "coverage", "cut_by") != "interrupted" || at(answer, "coverage", "complete") != false ||
		at(answer, "coverage", "probed").(float64) < 1 || at(answer, "hosts", 0, "addr") != lab.SSHAndWeb {
		delete(answer, "hosts")
		t.Errorf("%s", show(answer))
	}
	log := h.auditLog()
	if !strings.Contains(log, `"event":"interrupted","job":"`+fmt.Sprint(id)) {
		t.Errorf("the audit log does not say so:\n%s", log)
	}
}

func (h *house) auditLog() string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// mortals is an engagement of ten users: each may start two scans a second for long.
const mortals = `name: lab
callers: {users: [65410, 65411, 65412, 65413, 65414, 65415, 65416, 65417, 65418, 65419]}
targets: [10.77.0.0/16]
tools: {nmap_scan: {profiles: ["*"]}}
limits: {jobs: 1024}
`

// Five hundred scans while either role is killed again and again, at any moment: what was answered as
// finished stays finished, every other job ends as what it was, and no process is left.
func TestKillingEitherRoleInALoopLosesNothing(t *testing.T) {
	const scans, workers, users = 500, 20, 10
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": mortals}, Settings: "scans: {at_once: 16, queued: 512, packets_per_second: 1000000}\n"})
	stop := make(chan struct{})
	var killer sync.WaitGroup
	kills := 0
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(500+rand.IntN(3000)) * time.Millisecond):
			}
			role := lab.Front
			if kills%3 == 2 {
				role = lab.Launcher
			}
			if err := h.daemon.Kill9(role); err != nil {
				t.Errorf("cannot kill %s: %v", role, err)
				return
			}
			kills++
			if role == lab.Launcher {
				h.noBoxes(boxesDeadWithin)
			}
		}
	})
	began := time.Now()
	answered := map[string]string{} // by job: the end that was told
	whose := map[string]uint32{}
	var mu sync.Mutex
	var agents sync.WaitGroup
	for worker := range workers {
		agents.Go(func() {
			uid := uint32(65410 + worker%users)
			for enough := false; !enough && time.Since(began) < 5*time.Minute; time.Sleep(100 * time.Millisecond) {
				id, status := h.oneScan(uid, worker)
				mu.Lock()
				if id != "" {
					answered[id], whose[id] = status, uid
				}
				enough = len(answered) >= scans
				mu.Unlock()
			}
		})
	}
	agents.Wait()
	close(stop)
	killer.Wait()
	t.Logf("%d scans were given an id, %d kills", len(answered), kills)
	if kills < 8 || len(answered) < scans {
		t.Errorf("too little happened to prove anything")
	}
	ends := map[any]int{}
	for id, told := range answered {
		now := h.againAs(whose[id], id)
		ends[now["status"]]++
		if told != "" && now["status"] != told {
			t.Errorf("job %s was told as %s and is %v", id, told, now["status"])
		}
		switch now["status"] {
		case "completed":
			if at(now, "coverage", "complete") != true {
				t.Errorf("job %s: completed, and its coverage is not complete: %s", id, show(now["coverage"]))
			}
		case "interrupted", "refused":
		default:
			t.Errorf("job %s is %v: %s", id, now["status"], show(now["end"]))
		}
	}
	t.Log(ends)
	if ends["completed"] < scans/10 || ends["interrupted"] < scans/10 {
		t.Error("too few of one kind to prove anything")
	}
	h.noBoxes(20 * time.Second) // of agents that were lost before they had an id
	if s, err := observability.VerifyAudit(h.daemon.AuditDir()); err != nil {
		t.Error(err)
	} else {
		t.Log(s)
	}
	for _, id := range h.everyLaunchHasAnEnd() {
		h.launchedIsKept(h.askedBy(id), id)
	}
}

// launchedIsKept tries a job that was launched, whether or not an agent ever heard of it: it is
// never kept as refused, and what its scanner wrote is there.
func (h *house) launchedIsKept(uid uint32, id string) {
	h.t.Helper()
	now := h.againAs(uid, id)
	switch now["status"] {
	case "completed", "partial", "interrupted":
	default:
		h.t.Errorf("job %s was launched and is kept as %v: %s %s", id, now["status"], show(now["end"]), show(now["error"]))
		return
	}
	if now["started"] != nil && at(now, "coverage", "asked") == nil {
		h.t.Errorf("job %s was launched, and nothing is said of its coverage", id)
	}
	artefact := filepath.Join(h.daemon.Dir, "state", "jobs", id, "nmap.xml")
	if _, err := os.Stat(artefact); err != nil {
		h.t.Errorf("job %s was launched and is %v, and its output is not kept: %v", id, now["status"], err)
	}
}

// oneScan asks for one scan and says what it was told: its id and, if it heard of it, its end.
func (h *house) oneScan(uid uint32, worker int) (id, status string) {
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	s, err := h.daemon.Client(ctx, uid, nil)
	done()
	if err != nil {
		return "", ""
	}
	defer s.Close()
	targets := []string{lab.SSH}
	if worker%4 == 0 {
		targets = append(targets, "10.77.1.8/31") // which take their time to say nothing
	}
	answer, err := call(s, "nmap_scan", object{"targets": targets, "ports": []any{22, 80}, "skip_discovery": true, "wait_s": worker % 3, "correlation_id": fmt.Sprint("w", worker)})
	if err != nil {
		return "", ""
	}
	id, _ = answer["job_id"].(string)
	switch answer["status"] {
	case "running", "queued", nil:
		return id, ""
	}
	return id, fmt.Sprint(answer["status"])
}

// askedBy is the user who asked for a job, as the audit log has it.
func (h *house) askedBy(id string) uint32 {
	h.t.Helper()
	for line := range strings.Lines(h.auditLog()) {
		var r observability.Record
		if strings.Contains(line, id) && json.Unmarshal([]byte(line), &r) == nil && r.Caller != nil {
			return r.Caller.UID
		}
	}
	h.t.Fatalf("nobody has asked for job %s", id)
	return 0
}

// everyLaunchHasAnEnd reads the audit log: whatever was launched is done or interrupted. It
// returns the jobs.
func (h *house) everyLaunchHasAnEnd() (jobs []string) {
	h.t.Helper()
	ended := map[string]bool{}
	for line := range strings.Lines(h.auditLog()) {
		_, rest, ok := strings.Cut(line, `"job":"`)
		if !ok {
			continue
		}
		id, _, _ := strings.Cut(rest, `"`)
		switch {
		case strings.Contains(line, `"event":"launched"`):
			jobs = append(jobs, id)
		case strings.Contains(line, `"event":"done"`), strings.Contains(line, `"event":"interrupted"`):
			ended[id] = true
		}
	}
	for _, id := range jobs {
		if !ended[id] {
			h.t.Errorf("job %s was launched and has no end in the audit log", id)
		}
	}
	if len(jobs) == 0 {
		h.t.Error("nothing was launched")
	}
	return jobs
}
