package launcher

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const quickScan = `{"targets":["10.77.0.10"],"ports":[22],"host_timeout":5,"limit":10}`

// A scan of addresses that nobody has: it ends by itself, and its record says how.
func TestAScanGoesThroughTheWholeHouse(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	if r := h.start(handle, jobA, value(t, quickScan)); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	running := h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Running })
	if len(running.files) != 4 || !slices.Equal(running.m.Job.Files, artefacts) {
		t.Errorf("with %d files %v", len(running.files), running.m.Job.Files)
	}
	for _, f := range running.files {
		if _, err := f.WriteString("x"); err == nil {
			t.Error("the front can write to an output")
		}
		defer f.Close()
	}
	end := h.endOf(jobA)
	if end.Outcome.Reason != wire.Exited || end.Scanner.SHA256 == "" || end.Verdict.Engagement != "lab" {
		t.Errorf("%+v", end)
	}
	if err := h.conn.Send(wire.Message{Ack: &wire.Ack{Job: jobA}}); err != nil {
		t.Fatal(err)
	}
	h.close()
	if _, err := os.Stat(filepath.Join(h.cfg.StateDir, "boxes", jobA)); !os.IsNotExist(err) {
		t.Errorf("the record is kept after its acknowledgement: %v", err)
	}
	got := auditEvents(t, h)
	want := []string{"started", "engagements", "asked", "decided", "launched", "done", "stopped"}
	if !slices.Equal(got, want) {
		t.Errorf("audit %v, want %v", got, want)
	}
}

func auditEvents(t *testing.T, h *house) (events []string) {
	t.Helper()
	for _, r := range auditRecords(t, h) {
		events = append(events, string(r.Event))
	}
	return events
}

func auditRecords(t *testing.T, h *house) (records []observability.Record) {
	t.Helper()
	if _, err := observability.VerifyAudit(h.cfg.AuditDir); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(filepath.Join(h.cfg.AuditDir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var r observability.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

// Whatever the front claims, it gets no more than its connected clients may have.
func TestALyingFrontGetsNothing(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, conn := h.client()
	good := value(t, quickScan)

	call, _ := runners.Read("nmap_scan", []byte(quickScan))
	lie := func(change func(*runners.Nmap)) []byte {
		n := *call.Nmap
		n.Targets = slices.Clone(n.Targets)
		change(&n)
		b, err := wire.Encode(&runners.Call{Tool: "nmap_scan", Nmap: &n}, wire.MaxValue)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		says   string
		handle uint64
		value  []byte
	}{
		{"a handle that was never given", handle + 1, good},
		{"handle zero", 0, good},
		{"a value that is no call", handle, []byte{0xa0}},
		{"a value with something after it", handle, append(slices.Clone(good), 0)},
		{"an unknown tool", handle, mustEncode(t, &runners.Call{Tool: "sh", Nmap: call.Nmap})},
		{"a tool without arguments", handle, mustEncode(t, &runners.Call{Tool: "nmap_scan"})},
		{"an option for a target", handle, lie(func(n *runners.Nmap) { n.Targets[0] = "--script=/tmp/evil.nse" })},
		{"a file for a target", handle, lie(func(n *runners.Nmap) { n.Targets[0] = "-iL/etc/shadow" })},
		{"a target outside", handle, lie(func(n *runners.Nmap) { n.Targets[0] = "10.99.0.5" })},
		{"an excluded target", handle, lie(func(n *runners.Nmap) { n.Targets[0] = "10.77.0.13" })},
		{"a target that is never one", handle, lie(func(n *runners.Nmap) { n.Targets[0] = "127.0.0.1" })},
		{"a name that no rule allows", handle, lie(func(n *runners.Nmap) { n.Targets[0] = "example.org" })},
		{"an unknown script", handle, lie(func(n *runners.Nmap) { n.Profile = "script"; n.Scripts = []string{"../../evil"} })},
		{"an unknown profile", handle, lie(func(n *runners.Nmap) { n.Profile = "root" })},
		{"port zero", handle, lie(func(n *runners.Nmap) { n.Ports = []runners.Ports{{}} })},
		{"a rate beyond its bound", handle, lie(func(n *runners.Nmap) { n.Rate = 1 << 30 })},
		{"an engagement of a strange name", handle, lie(func(n *runners.Nmap) { n.Engagement = "../lab" })},
	} {
		if r := h.start(c.handle, jobB, c.value); r == nil {
			t.Errorf("%s: accepted", c.says)
		}
		if r := h.reply(func(seq uint64) wire.Message {
			return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: c.handle, Value: c.value}}
		}); r.Refused == nil && (r.Preview == nil || r.Preview.Refused == nil) {
			t.Errorf("%s: previewed as allowed", c.says)
		}
	}

	// A job of somebody else, a job that does not exist, an id that is in use.
	if r := h.reply(func(seq uint64) wire.Message {
		return wire.Message{Cancel: &wire.Cancel{Seq: seq, Handle: handle, Job: jobB}}
	}); r.Refused == nil {
		t.Error("a job that does not exist was cancelled")
	}
	if r := h.start(handle, jobA, good); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	if r := h.start(handle, jobA, good); r == nil || r.Code != "job_exists" {
		t.Errorf("the same id twice: %+v", r)
	}
	// An acknowledgement of a job that runs forgets nothing.
	if err := h.conn.Send(wire.Message{Ack: &wire.Ack{Job: jobA}}); err != nil {
		t.Fatal(err)
	}
	h.endOf(jobA)

	// The handle of a client that is gone.
	conn.Close()
	h.until(func(m wire.Message) bool { return m.Gone != nil && m.Gone.Handle == handle })
	if r := h.start(handle, jobB, good); r == nil || r.Code != "caller_gone" {
		t.Errorf("for a client that is gone: %+v", r)
	}
	if r := h.reply(func(seq uint64) wire.Message { return wire.Message{Ask: &wire.Ask{Seq: seq, Handle: handle}} }); r.Refused == nil {
		t.Error("asked for a client that is gone")
	}
	launched := 0
	for _, e := range auditEvents(t, h) {
		if e == "launched" {
			launched++
		}
	}
	if launched != 1 {
		t.Errorf("%d launches", launched)
	}
}

func mustEncode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := wire.Encode(v, wire.MaxValue)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What only the launcher says, a descriptor, garbage: each ends the connection, and the launcher
// comes back for another front as long as it has something to tell.
func TestAFrontThatBreaksTheProtocolLosesItsConnection(t *testing.T) {
	for says, packet := range map[string]wire.Message{
		"a client of its own":  {Client: &wire.Client{Handle: 1, UID: 0}},
		"a record of its own":  {Job: &wire.Job{ID: jobA, State: wire.Ended}},
		"a reply":              {Reply: &wire.Reply{Seq: 1}},
		"a hang-up":            {Gone: &wire.Gone{Handle: 1}},
		"a second hello":       {Hello: &wire.Hello{Version: wire.Version}},
		"the end of a listing": {Synced: &wire.Synced{}},
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.open()
			h.client()
			if err := h.conn.Send(packet); err != nil {
				t.Fatal(err)
			}
			h.lost()
		})
	}
	t.Run("a descriptor", func(t *testing.T) {
		h := newHouse(t)
		h.open()
		h.client()
		b, err := wire.Encode(&wire.Message{Ack: &wire.Ack{Job: jobA}}, wire.MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.raw.WriteMsgUnix(b, unix.UnixRights(0), nil); err != nil {
			t.Fatal(err)
		}
		h.lost()
	})
	t.Run("garbage", func(t *testing.T) {
		h := newHouse(t)
		h.open()
		h.client()
		if _, err := h.raw.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		h.lost()
	})
}

// lost waits until the launcher has hung up.
func (h *house) lost() {
	h.t.Helper()
	for {
		if e := h.next(); e.err != nil {
			return
		}
	}
}

func TestTheFrontsAndTheBoxesUsersAreNeverCallers(t *testing.T) {
	h := newHouse(t)
	h.cfg.FrontUID = uint32(os.Getuid()) // this test connects as the front would
	h.open()
	c, err := unixDial(h)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("the front's own user was let in (%d, %v)", n, err)
	}
	cfg := Config{FirstSlotUID: 66000, Slots: 4}
	for uid, want := range map[uint32]bool{65999: false, 66000: true, 66005: true, 66006: false, 0: false} {
		if cfg.isSlotUID(uid) != want {
			t.Errorf("uid %d belongs to a box: %v", uid, !want)
		}
	}
}

// A launcher that starts after one that was killed says what was interrupted, keeps the output
// there was, and tells the front until it is acknowledged.
func TestWhatAPredecessorLeftIsInterrupted(t *testing.T) {
	h := newHouse(t)
	r, err := openRecords(h.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for id, state := range map[string]string{jobA: wire.Running, jobB: wire.Queued} {
		if err := r.create(wire.Job{ID: id, UID: 1000, Tool: "nmap_scan", State: state}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(r.path(jobA, fileStdout), []byte("<?xml"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.link()
	for _, id := range []string{jobA, jobB} {
		e := h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.ID == id })
		if e.m.Job.State != wire.Ended || e.m.Job.Outcome.Reason != wire.Interrupted {
			t.Errorf("%+v", e.m.Job)
		}
		if id == jobA && len(e.files) != 1 {
			t.Errorf("%d files came with the record", len(e.files))
		}
	}
	h.until(func(m wire.Message) bool { return m.Synced != nil })
	// Not acknowledged: told again to the next front.
	h.raw.Close()
	h.link()
	h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.ID == jobA })
	for _, id := range []string{jobA, jobB} {
		if err := h.conn.Send(wire.Message{Ack: &wire.Ack{Job: id}}); err != nil {
			t.Fatal(err)
		}
	}
	h.close()
	if left, _ := os.ReadDir(r.dir); len(left) != 0 {
		t.Errorf("%d records are left", len(left))
	}
	if events := auditEvents(t, h); !slices.Equal(events, []string{"started", "interrupted", "interrupted", "engagements", "stopped"}) {
		t.Errorf("audit %v", events)
	}
}

const longScan = `{"targets":["10.77.1.0/24"],"top_ports":100,"skip_discovery":true}`

// discard is a route on which packets vanish without an answer, so that scans last.
func TestNarrowingAnEngagementEndsItsRunningJobs(t *testing.T) {
	for says, next := range map[string]string{
		"an exclusion is added":   strings.Replace(engagement, "[10.77.0.13]", "[10.77.0.13, 10.77.1.7]", 1),
		"the targets are others":  strings.ReplaceAll(engagement, "10.77.0.0/16", "10.78.0.0/16"),
		"the caller is gone":      strings.Replace(engagement, "users: [0]", "users: [1]", 1),
		"it has expired":          engagement + "expires: 2020-01-01\n",
		"the tool is taken away":  strings.Replace(engagement, `["*"]`, `["version"]`, 1),
		"the file is taken away":  "",
		"it no longer parses":     "name: [",
		"another one is added":    "another",
		"the description changes": strings.Replace(engagement, "the lab", "a lab", 1),
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.open()
			handle, _ := h.client()
			if r := h.start(handle, jobA, value(t, longScan)); r != nil {
				t.Fatalf("refused: %+v", r)
			}
			h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Running })
			stays := true
			switch {
			case next == "":
				stays = false
				if err := os.Remove(filepath.Join(h.cfg.EngagementsDir, "lab.yaml")); err != nil {
					t.Fatal(err)
				}
			case next == "another":
				h.engage("other", strings.Replace(engagement, "name: lab", "name: other", 1))
			default:
				stays = says == "it no longer parses" || says == "the description changes"
				h.engage("lab", next)
			}
			if stays {
				time.Sleep(lookEvery + 500*time.Millisecond) // nothing must happen
				if r := h.reply(func(seq uint64) wire.Message {
					return wire.Message{Cancel: &wire.Cancel{Seq: seq, Handle: handle, Job: jobA}}
				}); r.Refused != nil {
					t.Fatalf("it does not run any more: %+v", r.Refused)
				}
				if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled {
					t.Errorf("it ended: %+v", o)
				}
				return
			}
			began := time.Now()
			if o := h.endOf(jobA).Outcome; o.Reason != wire.Withdrawn {
				t.Errorf("it ended: %+v", o)
			}
			if took := time.Since(began); took > lookEvery+2*time.Second {
				t.Errorf("only after %v", took)
			}
		})
	}
}

// While an engagement's file does not parse, nothing new begins under it; the others stand.
func TestABrokenFileSuspendsItsEngagementAlone(t *testing.T) {
	h := newHouse(t)
	h.engage("other", strings.NewReplacer("name: lab", "name: other", "10.77.", "10.78.").Replace(engagement))
	h.open()
	handle, _ := h.client()
	if r := h.start(handle, jobA, value(t, quickScan)); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	h.endOf(jobA)
	h.engage("lab", "name: [")
	if r := h.start(handle, jobB, value(t, quickScan)); r == nil {
		t.Error("a broken engagement allowed it")
	}
	if r := h.start(handle, jobB, value(t, strings.Replace(quickScan, "{", `{"engagement":"lab",`, 1))); r == nil || r.Code != policy.EngagementSuspended {
		t.Errorf("under a broken engagement: %+v", r)
	}
	if r := h.start(handle, jobB, value(t, strings.Replace(quickScan, "10.77.", "10.78.", 1))); r != nil {
		t.Errorf("under the other one: %+v", r)
	}
	h.endOf(jobB)
	h.engage("lab", engagement)
	const jobC = "cccccccccccccccccccccccccc"
	if r := h.start(handle, jobC, value(t, quickScan)); r != nil {
		t.Errorf("under the mended one: %+v", r)
	}
	h.endOf(jobC)
}

func TestAMissingLayerRefusesUnlessItIsAccepted(t *testing.T) {
	h := newHouse(t)
	h.cfg.Accept = nil
	h.open()
	handle, _ := h.client()
	r := h.start(handle, jobA, value(t, quickScan))
	if r == nil || r.Code != "not_enforced" || !strings.Contains(r.Got, "cgroup-memory") {
		t.Errorf("%+v", r)
	}
	if events := auditEvents(t, h); !slices.Equal(events[len(events)-2:], []string{"asked", "denied"}) {
		t.Errorf("audit %v", events)
	}
}

func TestAMissingOrUntrustedScannerIsSaid(t *testing.T) {
	writable := filepath.Join(t.TempDir(), "nmap")
	if err := os.WriteFile(writable, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(writable, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/nonexistent/nmap": "install it", writable: "may be written by others", "/etc/passwd": "not executable", "/usr/bin": "not a regular file"} {
		h := newHouse(t)
		h.cfg.Scanners = map[string]string{"nmap": path}
		h.open()
		handle, _ := h.client()
		if r := h.start(handle, jobA, value(t, quickScan)); r != nil {
			t.Fatalf("refused: %+v", r)
		}
		if o := h.endOf(jobA).Outcome; o.Reason != wire.Launch || o.Stage != "scanner" || !strings.Contains(o.Detail, want) {
			t.Errorf("%s: %+v", path, o)
		}
		h.close()
	}
}

func TestStoppingEndsJobsAndTellsTheFront(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	if r := h.start(handle, jobA, value(t, longScan)); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Running })
	h.stop()
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Shutdown {
		t.Errorf("%+v", o)
	}
	if err := h.conn.Send(wire.Message{Ack: &wire.Ack{Job: jobA}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h.close()
	if took := time.Since(began); took > farewellTime {
		t.Errorf("it took %v to stop although all was acknowledged", took)
	}
}

func TestOnlySoManyJobsOfAnEngagementAtOnce(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", engagement+"limits: {jobs: 1}\n")
	h.open()
	handle, _ := h.client()
	if r := h.start(handle, jobA, value(t, longScan)); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Running })
	if r := h.start(handle, jobB, value(t, quickScan)); r != nil {
		t.Fatalf("refused: %+v", r)
	}
	if o := h.endOf(jobB).Outcome; o.Reason != wire.Refused || o.Refused.Code != "too_many_jobs" {
		t.Errorf("%+v", o)
	}
}

func TestTheDeadlineIsTheLeast(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		says         string
		limit, asked time.Duration
		until        time.Time
		want         time.Duration
		reason       string
	}{
		{"the engagement's limit", time.Hour, 0, time.Time{}, time.Hour, wire.Timeout},
		{"what was asked for", time.Hour, time.Minute, time.Time{}, time.Minute, wire.Timeout},
		{"the end of the hours", time.Hour, 0, now.Add(10 * time.Minute), 10 * time.Minute, wire.Withdrawn},
		{"what was asked for, before the end of the hours", time.Hour, time.Minute, now.Add(10 * time.Minute), time.Minute, wire.Timeout},
		{"hours that are just over", time.Hour, 0, now.Add(-time.Second), time.Millisecond, wire.Withdrawn},
	} {
		got, reason := deadline(policy.Verdict{Limits: policy.Limits{Duration: c.limit}, Until: c.until}, c.asked, now)
		if got != c.want || reason != c.reason {
			t.Errorf("%s: %v, %s", c.says, got, reason)
		}
	}
}

func TestCovers(t *testing.T) {
	list := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		says        string
		whole, part []netip.Prefix
		want        bool
	}{
		{"itself", list("10.0.0.0/8"), list("10.0.0.0/8"), true},
		{"a part", list("10.0.0.0/8", "fd00::/8"), list("10.1.0.0/16", "fd00::1/128"), true},
		{"a hole in it", list("10.0.0.0/9", "10.128.0.0/10"), list("10.0.0.0/8"), false},
		{"another family", list("10.0.0.0/8"), list("fd00::1/128"), false},
		{"nothing of nothing", nil, nil, true},
		{"something of nothing", nil, list("10.0.0.1/32"), false},
	} {
		if got := covers(c.whole, c.part); got != c.want {
			t.Errorf("%s: %v", c.says, got)
		}
	}
}

// The page that a security reviewer reads: which box each kind of call gets.
func TestTheTableOfBoxes(t *testing.T) {
	exe, err := os.Open("/usr/bin/nmap")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	limits := Limits{Memory: 512 << 20, Pids: 32, CPUPercent: 100, CPUTime: time.Hour, Output: 64 << 20, Tmp: 16 << 20, OpenFiles: 512}
	in := cell{job: "example", uid: 66000, wall: time.Hour}
	var page strings.Builder
	for _, arguments := range []string{
		`{"targets":["10.0.0.0/24"],"profile":"discovery"}`,
		`{"targets":["10.0.0.1"],"profile":"quick"}`,
		`{"targets":["10.0.0.1"],"profile":"standard","scan_type":"syn","os_detection":true}`,
		`{"targets":["10.0.0.1"],"scan_type":"udp","ports":[53,161]}`,
		`{"targets":["10.0.0.1"],"profile":"script","scripts":["http-title"]}`,
		`{"targets":["fd00::1"],"profile":"version"}`,
	} {
		call, faults := runners.Read("nmap_scan", []byte(arguments))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		addresses := []netip.Prefix{call.Plan().Targets[0].Prefix}
		command, err := call.Bounded(1000, time.Hour).Command(runners.Version{Major: 7, Minor: 93}, addresses, nil)
		if err != nil {
			t.Fatal(err)
		}
		page.WriteString("nmap_scan " + arguments + "\n" + boxFor(command, exe, in, limits).String() + "\n")
	}
	page.WriteString("a name\n" + boxForResolver(exe, []string{"secmcpd", "resolve", "4", "10.0.0.53:53", "web.lab.internal"}, "", in, limits).String() + "\n")
	page.WriteString("a version\n" + boxForVersion(exe, "nmap", in, limits).String())
	golden := filepath.Join("testdata", "boxes.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != page.String() {
		t.Errorf("the table of boxes has changed (%v); if that is meant, run with -update:\n%s", err, page.String())
	}
}

// small mounts a small file system where a directory of the launcher is.
func small(t *testing.T, dir string) (fill func(), free func()) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	return func() { _ = os.WriteFile(ballast, make([]byte, 80<<20), 0o600) }, // fails when all is full: that is its purpose
		func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}
}

// With a full disk nothing is launched, whichever disk it is, and with space again all goes on.
func TestAFullDiskRefusesAndRecovers(t *testing.T) {
	for says, c := range map[string]struct {
		dir  func(Config) string
		code string
	}{
		"of the audit log": {func(c Config) string { return c.AuditDir }, "audit_unavailable"},
		"of the records":   {func(c Config) string { return c.StateDir }, "disk_full"},
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			fill, free := small(t, c.dir(h.cfg))
			h.open()
			handle, _ := h.client()
			fill()
			if r := h.start(handle, jobA, value(t, quickScan)); r == nil || r.Code != c.code || !r.Retryable {
				t.Fatalf("%+v", r)
			}
			free()
			if r := h.start(handle, jobA, value(t, quickScan)); r != nil {
				t.Fatalf("with space again: %+v", r)
			}
			if o := h.endOf(jobA).Outcome; o.Reason != wire.Exited {
				t.Errorf("%+v", o)
			}
		})
	}
}

// A directory that somebody else could write to is not read; what was in force stays, and what is
// put right is noticed.
func TestAnUntrustedDirectoryLeavesTheOldEngagements(t *testing.T) {
	h := newHouse(t)
	if err := os.Chmod(h.cfg.EngagementsDir, 0o777); err != nil {
		t.Fatal(err)
	}
	h.open()
	handle, _ := h.client()
	if r := h.start(handle, jobA, value(t, quickScan)); r == nil || r.Code != policy.NoEngagement {
		t.Errorf("with nothing that may be read: %+v", r)
	}
	if err := os.Chmod(h.cfg.EngagementsDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := h.start(handle, jobA, value(t, quickScan)); r != nil {
		t.Fatalf("put right: %+v", r)
	}
	h.endOf(jobA)
	if err := os.Chmod(h.cfg.EngagementsDir, 0o777); err != nil {
		t.Fatal(err)
	}
	h.engage("evil", strings.NewReplacer("name: lab", "name: evil", "10.77.", "10.78.").Replace(engagement))
	if r := h.start(handle, jobB, value(t, strings.Replace(quickScan, "10.77.", "10.78.", 1))); r == nil {
		t.Error("an engagement out of an untrusted directory is in force")
	}
	if r := h.start(handle, jobB, value(t, quickScan)); r != nil {
		t.Errorf("the old engagement does not stand: %+v", r)
	}
	h.endOf(jobB)
}
