package front

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// house is a front that outlives the connections of its launcher, as the daemon's does.
type house struct {
	*room
	front *front
	log   lines
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

const grace = 200 * time.Millisecond

func newHouse(t *testing.T) *house {
	t.Helper()
	return newHouseThatKeeps(t, 100)
}

func newHouseThatKeeps(t *testing.T, jobs int) *house {
	t.Helper()
	return openHouse(t, jobs, "")
}

// openHouse is the house of a front that keeps so many jobs, and writes its metrics to a file.
func openHouse(t *testing.T, jobs int, metrics string) *house {
	t.Helper()
	h := &house{room: &room{t: t, dir: t.TempDir()}}
	s, err := store.Open(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: "@" + newJobID(), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cfg := Config{Listener: listener, StateDir: h.dir, Live: Live{Tools: runners.BuiltIn(), Metrics: metrics, Every: 5 * time.Second, Keep: store.Limits{Jobs: jobs, Bytes: 1 << 30, Age: time.Hour}}, Version: "test",
		Log: slog.New(slog.NewTextHandler(&h.log, nil)), Notify: func(string) {}, Grace: grace}
	if h.front, err = newFront(ctx, cfg, s, nil); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.front.serve(stop) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the front ended: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the front does not end")
		}
		h.conn.Close()
		s.Close()
		listener.Close()
	})
	h.link()
	return h
}

// link connects as a launcher and greets; it has said nothing of its records yet.
func (h *house) link() {
	h.t.Helper()
	ours, theirs := pair(h.t, unix.SOCK_SEQPACKET)
	go func() { _ = h.front.follow(theirs.(*net.UnixConn)) }()
	h.greet(ours)
}

// cut ends the launcher's connection and waits until the front has seen it.
func (h *house) cut() {
	h.t.Helper()
	h.conn.Close()
	for deadline := time.Now().Add(10 * time.Second); h.front.launcher() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("the front does not see that its launcher is gone")
		}
	}
}

func (h *house) synced() { h.t.Helper(); h.tell(wire.Message{Synced: &wire.Synced{}}) }

func (h *house) kept(id string) store.Job {
	h.t.Helper()
	row, err := h.front.store.Get(context.Background(), 1000, id)
	if err != nil {
		h.t.Fatal(err)
	}
	return row
}

// The connection ends between the request and its answer. The scan may have been accepted, and may
// run: what became of it is what the launcher's records say, and not before they have come.
func TestWhetherAScanWasAcceptedIsForTheLauncherToSay(t *testing.T) {
	for says, c := range map[string]struct {
		then   func(h *house, id string) *running // what the launcher says when it is back
		status string
		code   any
	}{
		"it ran to its end": {func(h *house, id string) *running {
			run := h.launched(id)
			run.write(capture(h.t, "connect.xml"))
			run.end(exited)
			h.synced()
			return run
		}, "completed", nil},
		"it runs": {func(h *house, id string) *running {
			run := h.launched(id)
			h.synced()
			run.write(capture(h.t, "connect.xml"))
			run.end(exited)
			return run
		}, "completed", nil},
		"it was refused later": {func(h *house, id string) *running {
			run := &running{r: h.room, record: wire.Job{ID: id, UID: 1000, State: wire.Queued}}
			h.tell(wire.Message{Job: &run.record})
			h.synced()
			run.end(wire.Outcome{Reason: wire.Refused, Refused: &wire.Refusal{Code: "target_never"}})
			return run
		}, "refused", "target_never"},
		"it does not know it": {func(h *house, id string) *running {
			h.synced()
			return &running{r: h.room, record: wire.Job{ID: id}}
		}, "refused", "launcher_unreachable"},
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.synced()
			start(context.Background(), h.agent(1000, nil), "nmap_scan", json.RawMessage(quick))
			id := h.until(func(m wire.Message) bool { return m.Start != nil }).Start.Job
			said := h.call(h.agent(1000, nil), "job_status", map[string]any{"job_id": id})
			if next, _ := said["next"].(string); said["status"] != "queued" || !strings.Contains(next, "accepted is not known yet") {
				t.Errorf("before the launcher has answered: %v", said)
			}
			h.cut()
			time.Sleep(2 * grace) // the launcher is slow to come back
			if row := h.kept(id); row.State.Finished() {
				t.Errorf("before the launcher has said anything: %s", row.State)
			}
			h.link()
			run := c.then(h, id)
			run.acknowledged()
			answer := h.call(h.agent(1000, nil), "job_result", map[string]any{"job_id": id})
			if answer["status"] != c.status || at(answer, "error", "code") != c.code {
				t.Errorf("%v", answer)
			}
			if hosts, _ := answer["hosts"].([]any); c.status == "completed" && len(hosts) == 0 {
				t.Error("what it found is gone")
			}
		})
	}
}

// What a connection said last may be read after another has taken its place: it ends nothing then.
func TestTheLastWordsOfAReplacedConnectionEndNothing(t *testing.T) {
	h := newHouse(t)
	h.synced()
	_, run := h.begin(h.agent(1000, nil), quick)
	old, was := h.front.launcher(), h.conn
	defer was.Close()
	h.link()
	for deadline := time.Now().Add(10 * time.Second); h.front.launcher() == old; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new connection does not take the place of the old one")
		}
	}
	h.front.reconcile(old)
	run.show()
	h.synced()
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	run.acknowledged()
	if row := h.kept(run.record.ID); row.State != store.Completed {
		t.Errorf("%s", row.State)
	}
}

// A launcher that hangs keeps no call longer than it asked to wait, or than it takes to hear of a
// scan that is accepted.
func TestACallEndsInTimeWhileTheLauncherHangs(t *testing.T) {
	h := newHouse(t)
	h.synced()
	s := h.agent(1000, nil)
	began := time.Now()
	calls := map[time.Duration]chan answered{}
	for _, wait := range []time.Duration{0, 6 * time.Second} {
		arguments := fmt.Sprintf(`{"targets":["10.77.0.10"],"wait_s":%.0f}`, wait.Seconds())
		calls[max(wait, acceptWait)] = start(context.Background(), s, "nmap_scan", json.RawMessage(arguments))
	}
	for wait, call := range calls {
		select {
		case a := <-call:
			answer, took := h.object(a), time.Since(began)
			if next, _ := answer["next"].(string); answer["status"] != "queued" || !strings.Contains(next, "accepted is not known yet") || took < wait {
				t.Errorf("of %v, after %v: %v", wait, took, answer)
			}
		case <-time.After(time.Until(began.Add(wait + 3*time.Second))):
			t.Errorf("no answer within %v", wait)
		}
	}
}

// A launcher that connects anew before the front has seen that the old connection is gone.
func TestAScanOfAConnectionThatWasReplacedIsJudgedByTheNewOne(t *testing.T) {
	h := newHouse(t)
	h.synced()
	start(context.Background(), h.agent(1000, nil), "nmap_scan", json.RawMessage(quick))
	id := h.until(func(m wire.Message) bool { return m.Start != nil }).Start.Job
	old := h.conn
	defer old.Close()
	h.link()
	h.synced()
	h.until(func(m wire.Message) bool { return m.Ack != nil && m.Ack.Job == id })
	if row := h.kept(id); row.State != store.Refused {
		t.Errorf("%s", row.State)
	}
}

// A launcher that is away has not lost its scans: they end as what it says when it is back. What
// they have written is kept meanwhile, and counts if it is never heard of again.
func TestScansOfALauncherThatIsAwayAreNotGivenUp(t *testing.T) {
	for says, c := range map[string]struct {
		listed bool
		status string
	}{
		"it comes back with its scans":     {true, "completed"},
		"its successor knows none of them": {false, "interrupted"},
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.synced()
			_, run := h.begin(h.agent(1000, nil), quick)
			whole := capture(t, "connect.xml")
			run.write(whole)
			for h.kept(run.record.ID).State != store.Running {
				time.Sleep(time.Millisecond)
			}
			h.cut()
			path := filepath.Join(h.dir, "jobs", run.record.ID, "nmap.xml")
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if b, err := os.ReadFile(path); err == nil && bytes.Equal(b, whole) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("what it has written is not kept")
				}
			}
			if row := h.kept(run.record.ID); row.State != store.Running {
				t.Errorf("while the launcher is away it is %s", row.State)
			}
			h.link()
			if c.listed {
				run.show()
			}
			h.synced()
			if c.listed {
				run.end(exited)
			}
			run.acknowledged()
			answer := h.call(h.agent(1000, nil), "job_result", map[string]any{"job_id": run.record.ID})
			if hosts, _ := answer["hosts"].([]any); answer["status"] != c.status || len(hosts) == 0 {
				t.Errorf("%v", answer)
			}
		})
	}
}

// The launcher is away, the front is started again, and the launcher that comes has lost its
// records: the scan is interrupted with what was kept of it.
func TestWhatWasKeptCountsWhenTheRecordsAreLost(t *testing.T) {
	r := newRoom(t)
	out, run := r.begin(r.agent(1000, nil), `{"targets":["10.77.0.10"],"wait_s":0}`)
	id := r.object(<-out)["job_id"].(string)
	for deadline := time.Now().Add(10 * time.Second); r.call(r.agent(1000, nil), "job_status", map[string]any{"job_id": id})["status"] != "running"; {
		if time.Now().After(deadline) {
			t.Fatal("it does not run")
		}
	}
	r.close()
	s, err := store.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Save(run.record.ID, "nmap.xml", bytes.NewReader(capture(t, "killed.xml")), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.tell(wire.Message{Synced: &wire.Synced{}})
	run.acknowledged()
	answer := r.call(r.agent(1000, nil), "job_result", map[string]any{"job_id": id})
	hosts, _ := answer["hosts"].([]any)
	if answer["status"] != "interrupted" || len(hosts) == 0 || at(answer, "engagement") != "lab" || at(answer, "coverage", "cut_by") != "interrupted" {
		t.Errorf("%v", answer)
	}
}

// What is too much goes when a job ends, not an hour later, and calls that are refused displace no
// result.
func TestTheLimitThatEndedAScanIsCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secmcpd.prom")
	t.Run("while the front runs", func(t *testing.T) {
		h := openHouse(t, 100, path)
		h.synced()
		s := h.agent(1000, nil)
		for _, reason := range []string{wire.Memory, wire.Pids, wire.Memory} {
			_, run := h.begin(s, quick)
			run.end(wire.Outcome{Reason: reason, Usage: wire.Usage{SentPackets: 100, Received: 50, Dropped: 7, OffScope: 5, OverRate: 3, Refused: 1}})
			run.acknowledged()
		}
		h.begin(s, quick)
		inFile(t, path, `secmcpd_jobs_ended_total{reason="memory",state="partial",tool="nmap_scan"} 2`,
			`secmcpd_jobs_ended_total{reason="pids",state="partial",tool="nmap_scan"} 1`, "secmcpd_up 1",
			`secmcpd_packets_total{fate="form",tool="nmap_scan"} 6`, `secmcpd_packets_total{fate="off_scope",tool="nmap_scan"} 15`,
			`secmcpd_packets_total{fate="over_rate",tool="nmap_scan"} 9`, `secmcpd_packets_total{fate="received",tool="nmap_scan"} 150`,
			`secmcpd_packets_total{fate="refused",tool="nmap_scan"} 3`, `secmcpd_packets_total{fate="sent",tool="nmap_scan"} 300`,
			`secmcpd_budget_packets_per_second{share="allowed"} 5000`, `secmcpd_budget_packets_per_second{share="reserved"} 700`)
	})
	inFile(t, path, `state="partial",tool="nmap_scan"} 2`, "secmcpd_up 0", `secmcpd_jobs{state="running"} 0`)
}

// inFile waits for lines in a file.
func inFile(t *testing.T, path string, want ...string) {
	t.Helper()
	var text []byte
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, _ = os.ReadFile(path)
		if !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(string(text), line) }) {
			return
		}
	}
	t.Errorf("the file of metrics lacks one of %q:\n%s", want, text)
}

func TestTheOldestResultGoesWhenThereAreTooMany(t *testing.T) {
	h := newHouseThatKeeps(t, 3)
	h.synced()
	s := h.agent(1000, nil)
	var ids []any
	for range 5 {
		_, run := h.begin(s, quick)
		run.end(exited)
		run.acknowledged()
		ids = append(ids, run.record.ID)
		for range 3 {
			start(context.Background(), s, "nmap_scan", json.RawMessage(quick))
			m := h.until(func(m wire.Message) bool { return m.Start != nil }).Start
			h.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq, Refused: &wire.Refusal{Code: "target_never"}}})
			h.until(func(m wire.Message) bool { return m.Ack != nil })
		}
	}
	var left []any
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = nil
		list := h.call(s, "job_list", map[string]any{"state": "failed"})
		for _, job := range list["jobs"].([]any) {
			left = append(left, at(job, "job_id"))
		}
		if len(left) == 3 {
			break
		}
	}
	if want := []any{ids[4], ids[3], ids[2]}; fmt.Sprint(left) != fmt.Sprint(want) {
		t.Errorf("of %v there are %v", ids, left)
	}
	if list := h.call(s, "job_list", map[string]any{"state": "refused", "limit": 100}); len(list["jobs"].([]any)) != 15 {
		t.Errorf("%v", list)
	}
}

// Scans that end at once remove what is too much, and no more than that.
func TestScansThatEndAtOnceDisplaceNoMoreThanIsTooMuch(t *testing.T) {
	h := newHouseThatKeeps(t, 3)
	ctx := context.Background()
	for range 60 {
		for range 5 {
			row := store.Job{ID: newJobID(), UID: 1000, Tool: "nmap_scan", Profile: "quick", State: store.Queued, Created: time.Now(), Arguments: json.RawMessage(`{}`)}
			if err := h.front.store.Create(ctx, row); err != nil {
				t.Fatal(err)
			}
			row.State, row.Ended = store.Completed, time.Now()
			if err := h.front.store.Update(ctx, row); err != nil {
				t.Fatal(err)
			}
		}
		var ended sync.WaitGroup
		for range 4 {
			ended.Go(func() { h.front.prune(ctx) })
		}
		ended.Wait()
		if rows, _, err := h.front.store.List(ctx, 1000, store.Filter{Limit: 100}); err != nil || len(rows) != 3 {
			t.Fatalf("%d are left, %v", len(rows), err)
		}
	}
}

// Hosts that send as much as a scan may write, of a character that a careless encoding makes six
// of: the result is kept, says what it leaves out, and the front stays small.
func TestAReportFullOfTextIsKeptAndTheFrontStaysSmall(t *testing.T) {
	const most = 400 << 20 // of the 512 MiB that its unit may use
	if os.Getenv("FRONT_MEMORY") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "FRONT_MEMORY=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	h := newHouse(t)
	h.synced()
	agent := h.agent(1000, nil)
	var runs []*running
	for range 4 {
		_, run := h.begin(agent, quick)
		writeHostile(t, run.stdout, 62<<20)
		runs = append(runs, run)
	}
	for _, run := range runs {
		run.end(exited)
	}
	waiting := map[string]bool{}
	for _, run := range runs {
		waiting[run.record.ID] = true
	}
	for deadline := time.After(2 * time.Minute); len(waiting) > 0; {
		select {
		case m := <-h.inbox:
			if m.Ack != nil {
				delete(waiting, m.Ack.Job)
			}
		case <-deadline:
			t.Fatalf("%d results are not kept", len(waiting))
		}
	}
	for _, run := range runs {
		answer := h.call(agent, "job_result", map[string]any{"job_id": run.record.ID})
		cut, _ := at(answer, "coverage", "cut_from").([]any)
		if answer["status"] != "completed" || !slices.Contains(cut, any("texts")) || at(answer, "coverage", "complete") != false {
			delete(answer, "hosts")
			t.Errorf("%v", answer)
		}
		t.Logf("a result of %d bytes", len(h.kept(run.record.ID).Result))
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var peak int64
	if _, err := fmt.Sscan(rest, &peak); err != nil {
		t.Fatal(err)
	}
	t.Logf("at most %d MiB in memory", peak>>10)
	if peak<<10 > most {
		t.Errorf("%d MiB, at most %d", peak>>10, most>>20)
	}
}

// A result that the store does not take is cut until it does, and says so: trying again for ever
// would keep nothing of it.
func TestAResultThatIsTooLargeIsCut(t *testing.T) {
	h := newHouse(t)
	row := store.Job{ID: newJobID(), UID: 1000, Tool: "nmap_scan", Profile: "quick", State: store.Queued, Created: time.Now(), Arguments: json.RawMessage(`{}`)}
	if err := h.front.store.Create(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	j := newJob(runners.BuiltIn(), row)
	outcome := exited
	j.record = wire.Job{ID: row.ID, State: wire.Ended, Started: time.Now(), Outcome: &outcome}
	r := report.Report{Finished: true, ExitOK: true}
	for range 10 {
		r.Hosts = append(r.Hosts, report.Host{Status: "up", Vendor: strings.Repeat("x", 10<<20)})
	}
	if err := h.front.commit(j, r); err != nil {
		t.Fatal(err)
	}
	var kept report.Report
	row = h.kept(row.ID)
	if err := json.Unmarshal(row.Result, &kept); err != nil {
		t.Fatal(err)
	}
	if row.State != store.Completed || len(kept.Hosts) != 5 || fmt.Sprint(kept.Cut) != "[hosts]" {
		t.Errorf("%s, %d hosts, cut %v", row.State, len(kept.Hosts), kept.Cut)
	}
}

// writeHostile writes a whole report of a size, nearly all of it text of hosts.
func writeHostile(t *testing.T, to io.Writer, size int) {
	t.Helper()
	text := strings.Repeat(">", 256)
	out := bufio.NewWriter(to)
	written := 0
	write := func(format string, args ...any) {
		n, err := fmt.Fprintf(out, format, args...)
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	write(`<nmaprun scanner="nmap" version="7.95">`)
	hosts := 0
	for ; written < size-8<<20; hosts++ {
		write(`<host><status state="up" reason="syn-ack"/><address addr="10.77.%d.%d" addrtype="ipv4"/><ports>`, hosts/256, hosts%256)
		for port := range 1000 {
			write(`<port protocol="tcp" portid="%d"><state state="open" reason="syn-ack"/>`+
				`<service name="http" product="%[2]s" version="%[2]s" extrainfo="%[2]s" hostname="%[2]s" ostype="%[2]s" devicetype="%[2]s" method="probed"><cpe>%[2]s</cpe></service>`+
				`<script id="banner" output="%[2]s%[2]s%[2]s%[2]s"/></port>`, port+1, text)
		}
		write(`</ports></host>`)
	}
	write(`<runstats><finished exit="success"/><hosts up="%[1]d" down="0" total="%[1]d"/></runstats></nmaprun>`, hosts)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}

// What was dropped for being too much looks like silence to the scanner: it has not looked at all.
func TestPacketsBeyondTheRateMakeAResultPartial(t *testing.T) {
	for over, want := range map[uint64]struct {
		state    store.State
		cutBy    string
		complete bool
	}{
		0: {store.Completed, "", true},
		1: {store.Partial, "rate", false},
	} {
		record := wire.Job{Outcome: &wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 10, OverRate: over}}}
		r := report.Report{Finished: true, ExitOK: true}
		if got := stateOf(record, r); got != want.state {
			t.Errorf("with %d dropped it is %s, want %s", over, got, want.state)
		}
		if c := cover(record, r); c.CutBy != want.cutBy || c.Complete != want.complete || c.OverRate != over {
			t.Errorf("with %d dropped: %+v", over, c)
		}
	}
}

// A job that the store lost is taken up with what the launcher says of it. What it was asked for is not known, and so
// it is not whole, whatever its scanner says.
func TestAJobThatTheStoreLostIsNotCalledWhole(t *testing.T) {
	h := newHouse(t)
	h.synced()
	const id = "abcdefghijklmnopqrstuvwxyz"
	h.tell(wire.Message{Job: &wire.Job{ID: id, UID: 1000, Tool: "nmap_scan", State: wire.Queued, Correlation: "ticket-17"}})
	run := h.launched(id)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	run.acknowledged()
	s := h.agent(1000, nil)
	answer := h.call(s, "job_result", map[string]any{"job_id": id})
	if _, is := answer["arguments"]; is || answer["status"] != "partial" || answer["correlation_id"] != "ticket-17" || at(answer, "coverage", "complete") != false || at(answer, "coverage", "asked_unknown") != true ||
		at(answer, "summary", "complete") != false || !strings.Contains(fmt.Sprint(answer["next"]), "was lost with a damaged database") {
		t.Errorf("%v %v %v %v %v", answer["arguments"], answer["status"], answer["correlation_id"], answer["summary"], answer["next"])
	}
	if hosts, _ := answer["hosts"].([]any); len(hosts) == 0 {
		t.Error("what it found is gone")
	}
	list := h.call(s, "job_list", map[string]any{})
	job := list["jobs"].([]any)[0].(map[string]any)
	if _, is := job["arguments"]; is || at(job, "summary", "complete") != false {
		t.Errorf("%v", list)
	}
}

// What was kept of a job under way cannot be read back: the front starts all the same, and the launcher tells it anew.
func TestARecordThatCannotBeReadBackStopsNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	row := store.Job{ID: "abcdefghijklmnopqrstuvwxyz", UID: 1000, Tool: "nmap_scan", Created: time.Now(), Arguments: json.RawMessage(quick)}
	if err := s.Create(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	row.State, row.Started, row.Record = store.Running, time.Now(), json.RawMessage("{\"id\x00")
	if err := errors.Join(s.Update(t.Context(), row), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := newFront(t.Context(), Config{StateDir: dir, Live: Live{Tools: runners.BuiltIn()}, Log: slog.New(slog.DiscardHandler), Notify: func(string) {}}, s, nil)
	if err != nil || f.jobs[row.ID] == nil {
		t.Errorf("%v", err)
	}
}
