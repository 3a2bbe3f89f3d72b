package launcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const quickScan = `{"targets":["10.77.0.10"],"ports":[22],"host_timeout":5,"limit":10}`

// A scan of addresses that nobody has: it ends by itself, and its record says how.
func TestAScanGoesThroughTheWholeHouse(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	running := h.running(handle, jobA, quickScan)
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
	if end.Network == nil || end.Network.Mode != "routed" || end.Network.Filter != "bpf" || len(end.Network.Cannot) == 0 || end.Network.Slowed != "" {
		t.Errorf("network: %+v", end.Network)
	}
	if err := h.conn.Send(wire.Message{Ack: &wire.Ack{Job: jobA}}); err != nil {
		t.Fatal(err)
	}
	h.close()
	if _, err := os.Stat(filepath.Join(h.cfg.StateDir, "boxes", jobA)); !os.IsNotExist(err) {
		t.Errorf("the record is kept after its acknowledgement: %v", err)
	}
	for _, r := range auditRecords(t, h) {
		want := digest(append([]string{"10.77.0.10/32"}, r.Argv...)[:1]) == r.AddressesSHA256 && digest(r.Argv) == r.ArgvSHA256 && len(r.Argv) == r.Words
		if r.Event == observability.Launched != want {
			t.Errorf("the digests of %s: %+v", r.Event, r)
		}
		if (r.Network == "routed") != (r.Event == observability.Launched) {
			t.Errorf("the network of %s: %q", r.Event, r.Network)
		}
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

	call, _ := runners.BuiltIn().Read("nmap_scan", []byte(quickScan))
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
		} else if r.Code == "" || r.Reason == "" || r.Hint == "" {
			t.Errorf("%s: %+v", c.says, r)
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
	if r := h.ask(handle); r.Refused == nil {
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
	for uid, want := range map[uint32]bool{65999: false, 66000: true, 66005: true, 66006: true, 66007: false, 0: false} {
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

// A launcher that cannot read a record starts, says so in the audit log, and keeps what there is.
func TestARecordThatCannotBeReadIsToldAndKept(t *testing.T) {
	h := newHouse(t)
	r, err := openRecords(h.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.create(wire.Job{ID: jobA, UID: 1000, Tool: "nmap_scan", State: wire.Ended}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.note(jobA, fileRecord, []byte("secmcpd record 2\n?")), r.note(jobA, fileStdout, []byte("<?xml"))); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.client()
	h.close()
	if found, _ := filepath.Glob(filepath.Join(h.cfg.StateDir, "boxes.broken", "*-"+jobA, fileStdout)); len(found) != 1 {
		t.Error("the output is not where broken records are kept")
	}
	for _, e := range auditRecords(t, h) {
		if e.Event == observability.Unreadable && e.Job == jobA && strings.Contains(e.Reason, `version "2"`) {
			return
		}
	}
	t.Error("the audit log says nothing of it")
}

// longScan is of addresses that do not answer, so that it lasts.
const longScan = `{"targets":["10.77.1.0/24"],"top_ports":100,"skip_discovery":true}`

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
		"the rate is lowered":     engagement + "limits: {packets_per_second: 500}\n",
		"the time is shortened":   engagement + "limits: {duration: 30m}\n",
		"the end comes sooner":    engagement + "expires: " + time.Now().Add(20*time.Minute).UTC().Format(time.RFC3339) + "\n",
		"the rate is raised":      engagement + "limits: {packets_per_second: 2000}\n",
		"the time is lengthened":  engagement + "limits: {duration: 2h}\n",
		"the end comes later":     engagement + "expires: 2099-01-01\n",
		"the description changes": strings.Replace(engagement, "the lab", "a lab", 1),
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.open()
			handle, _ := h.client()
			h.running(handle, jobA, longScan)
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
				stays = slices.Contains([]string{"it no longer parses", "the description changes", "the rate is raised",
					"the time is lengthened", "the end comes later"}, says)
				h.engage("lab", next)
			}
			if stays {
				time.Sleep(lookEvery + 500*time.Millisecond) // nothing must happen
				if r := h.cancel(handle, jobA); r != nil {
					t.Fatalf("it does not run any more: %+v", r)
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
	h.accepted(handle, jobA, quickScan)
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

// A file that was faulty already when the launcher started is no engagement that is not there:
// callers are told of it, without its name unless they say it.
func TestAFileThatIsBrokenAtTheStartIsSuspended(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", "name: [")
	h.open()
	handle, _ := h.client()
	r := h.start(handle, jobA, value(t, quickScan))
	if r == nil || r.Code != policy.EngagementSuspended || !r.Retryable || strings.Contains(r.Reason+r.Got+r.Hint+r.Rule, "lab") || !strings.Contains(r.Hint, "secmcpd check") {
		t.Errorf("alone: %+v", r)
	}
	h.engage("other", strings.NewReplacer("name: lab", "name: other", "users: [0]", "users: [1]").Replace(engagement))
	r = h.start(handle, jobA, value(t, quickScan))
	if r == nil || r.Code != policy.EngagementSuspended || strings.Contains(r.Reason+r.Got+r.Hint+r.Rule, "lab") || strings.Contains(r.Reason+r.Got+r.Hint+r.Rule, "other") {
		t.Errorf("beside one that names somebody else: %+v", r)
	}
	if r := h.start(handle, jobA, value(t, strings.Replace(quickScan, "{", `{"engagement":"lab",`, 1))); r == nil || r.Code != policy.EngagementSuspended {
		t.Errorf("by name: %+v", r)
	}
	h.engage("lab", engagement)
	if r := h.start(handle, jobA, value(t, quickScan)); r != nil {
		t.Fatalf("put right: %+v", r)
	}
	h.endOf(jobA)
	h.engage("other", "name: [")
	if r := h.start(handle, jobB, value(t, quickScan)); r != nil {
		t.Errorf("beside a faulty one: %+v", r)
	}
	h.endOf(jobB)
	if err := os.Remove(filepath.Join(h.cfg.EngagementsDir, "lab.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(h.cfg.EngagementsDir, "other.yaml")); err != nil {
		t.Fatal(err)
	}
	if r := h.start(handle, "cccccccccccccccccccccccccc", value(t, quickScan)); r == nil || r.Code != policy.NoEngagement {
		t.Errorf("with no file left: %+v", r)
	}
}

func TestAMissingLayerRefusesUnlessItIsAccepted(t *testing.T) {
	h := newHouse(t)
	h.cfg.Live.Accept = nil
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
		h.cfg.Live.Scanners = map[string]string{"nmap": path}
		h.open()
		handle, _ := h.client()
		if r := h.start(handle, jobA, value(t, quickScan)); r == nil || r.Code != "scanner_missing" || r.Field != "tool" || r.Hint == "" || !strings.Contains(r.Reason, want) {
			t.Errorf("%s: %+v", path, r)
		}
		p := h.reply(func(seq uint64) wire.Message {
			return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, quickScan)}}
		}).Preview
		if p == nil || p.Refused == nil || p.Refused.Code != "scanner_missing" || !strings.Contains(p.Scanner.Problem, want) {
			t.Errorf("%s, previewed: %+v", path, p)
		}
		h.close()
		if events := auditEvents(t, h); !slices.Equal(events[len(events)-3:], []string{"asked", "denied", "stopped"}) {
			t.Errorf("%s: audit %v", path, events)
		}
	}
}

// What fails after a scan was accepted is an error that its caller can act on, as a refusal is.
func TestALaunchThatFailsLaterSaysWhy(t *testing.T) {
	h := newHouse(t)
	small(t, h.cfg.StateDir)
	h.open()
	handle, _ := h.client()
	// Room for a record, not for the outputs.
	if err := os.WriteFile(filepath.Join(h.cfg.StateDir, "ballast"), make([]byte, 50<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.accepted(handle, jobA, quickScan)
	o := h.endOf(jobA).Outcome
	if o.Reason != wire.Launch || o.Stage != "outputs" || o.Refused == nil || o.Refused.Code != "disk_full" || o.Refused.Hint == "" || !o.Refused.Retryable {
		t.Errorf("%+v, %+v", o, o.Refused)
	}
	for _, stage := range []string{"scanner", "command", "connections", "segment", "scope", "outputs", "audit", "gate", "clone"} {
		if r := notLaunched(stage, "why"); r.Code == "" || r.Hint == "" || !strings.Contains(r.Reason, "why") {
			t.Errorf("%s: %+v", stage, r)
		}
	}
}

func TestStoppingEndsJobsAndTellsTheFront(t *testing.T) {
	h := newHouse(t)
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
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
	h.running(handle, jobA, longScan)
	h.accepted(handle, jobB, quickScan)
	if o := h.endOf(jobB).Outcome; o.Reason != wire.Refused || o.Refused.Code != "too_many_jobs" {
		t.Errorf("%+v", o)
	}
}

func (h *house) capabilities(handle uint64) *wire.Capabilities {
	h.t.Helper()
	r := h.ask(handle)
	if r.Capabilities == nil {
		h.t.Fatalf("refused: %+v", r.Refused)
	}
	return r.Capabilities
}

// A caller sees what it has to know to ask for what is allowed, and which engagement cannot be
// used, and why.
func TestACallerSeesItsEngagements(t *testing.T) {
	h := newHouse(t)
	h.engage("lab", engagement+"hours: {from: \"00:00\", to: \"24:00\", timezone: UTC}\nlimits: {jobs: 3, ports_per_address: 100}\n")
	h.engage("others", strings.NewReplacer("name: lab", "name: others", "users: [0]", "users: [1]").Replace(engagement))
	h.open()
	handle, _ := h.client()
	c := h.capabilities(handle)
	want := wire.EngagementView{Name: "lab", Description: "the lab", Targets: []string{"10.77.0.0/16", ".lab.internal within 10.77.0.0/16"}, TargetsCount: 2,
		Excluded: []string{"10.77.0.13"}, ExcludedCount: 1, Tools: []string{"nmap_scan"}, Profiles: map[string][]string{"nmap_scan": {"*"}}, Intrusive: "deny",
		Addresses: 256, Ports: 100, Rate: 1000, LimitS: 3600, Jobs: 3, Hours: "every day 00:00-24:00 UTC", Open: true}
	if len(c.Engagements) != 1 || c.EngagementsCount != 1 {
		t.Fatalf("%+v", c)
	}
	if diff := cmp.Diff(want, c.Engagements[0]); diff != "" {
		t.Error(diff)
	}
	h.engage("lab", "name: [")
	c = h.capabilities(handle)
	if len(c.Engagements) != 1 || c.Engagements[0].Open || !strings.Contains(c.Engagements[0].Closed, "secmcpd check") {
		t.Errorf("suspended: %+v", c.Engagements)
	}
}

// However many and however large the engagements are, the answer is one message.
func TestCapabilitiesFitInAMessage(t *testing.T) {
	for says, c := range map[string]struct{ engagements, targets, description, least int }{
		"many with many targets":       {40, 64, 100, 40},
		"many with long descriptions":  {200, 3, 1000, 16},
		"one with names of many nets":  {1, 1, 10, 1},
		"more than are ever shown":     {100, 1, 10, 64},
		"one with more than is listed": {1, 3000, 10, 1},
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			if err := os.Remove(filepath.Join(h.cfg.EngagementsDir, "lab.yaml")); err != nil {
				t.Fatal(err)
			}
			var targets []string
			for i := range c.targets {
				targets = append(targets, fmt.Sprintf("10.77.%d.%d", i/256, i%256))
			}
			if c.targets == 1 {
				var within []string
				for i := range 5000 {
					within = append(within, fmt.Sprintf("10.77.%d.%d", i/256, i%256))
				}
				targets = append(targets, "{name: .lab.internal, within: ["+strings.Join(within, ", ")+"]}")
			}
			for i := range c.engagements {
				name := fmt.Sprintf("lab%d", i)
				h.engage(name, fmt.Sprintf("name: %s\ndescription: %s\ncallers: {users: [0]}\ntargets: [%s]\nexclude: [%s]\ntools: {nmap_scan: {profiles: [\"*\"]}}\n",
					name, strings.Repeat("d", c.description), strings.Join(targets, ", "), strings.Join(targets[:1], ", ")))
			}
			h.open()
			handle, _ := h.client()
			got := h.capabilities(handle)
			if got.EngagementsCount != c.engagements || len(got.Engagements) < c.least || len(got.Engagements) > wire.MaxList {
				t.Errorf("%d of %d engagements", len(got.Engagements), got.EngagementsCount)
			}
			for _, e := range got.Engagements {
				if e.TargetsCount != len(targets) || len(e.Targets) == 0 || len(e.Targets) > wire.MaxList || e.ExcludedCount != 1 {
					t.Fatalf("%d of %d targets, %d exclusions", len(e.Targets), e.TargetsCount, e.ExcludedCount)
				}
			}
		})
	}
}

// What travels is text, wherever it is cut.
func TestClippedWordsAreText(t *testing.T) {
	if s := clip(strings.Repeat("x", 511) + "ü" + "\xff"); !utf8.ValidString(s) {
		t.Errorf("no text: %q", s)
	}
}

// The lists of a record are cut; its digests are of the whole.
func TestTheDigestsOfALaunchAreOfTheWholeLists(t *testing.T) {
	var targets []policy.Judged
	for i := range 200 {
		targets = append(targets, policy.Judged{Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 1}), 32)}})
	}
	at := func(last string) observability.Record {
		argv := append(slices.Repeat([]string{"-v"}, 300), last)
		return (&job{argv: argv, verdict: policy.Verdict{Targets: targets}}).entry(observability.Launched)
	}
	one, other := at("a"), at("b")
	if one.ArgvSHA256 == other.ArgvSHA256 || len(one.ArgvSHA256) != 64 || one.AddressesSHA256 != other.AddressesSHA256 {
		t.Errorf("argv %s and %s, addresses %s and %s", one.ArgvSHA256, other.ArgvSHA256, one.AddressesSHA256, other.AddressesSHA256)
	}
	targets = targets[:len(targets)-1]
	if fewer := at("a"); fewer.AddressesSHA256 == one.AddressesSHA256 {
		t.Error("an address beyond the cut is not in the digest")
	}
}

// No other job runs under the uid of a process that could not be ended.
func TestTheSlotOfABoxThatCannotBeEndedIsWithheld(t *testing.T) {
	var log bytes.Buffer
	l := &Launcher{gate: policy.NewGate(2, 4, 0), log: slog.New(slog.NewTextHandler(&log, nil)), records: testRecords(t), cfg: Config{FirstSlotUID: 66000, Slots: 2}}
	for _, c := range []struct {
		says string
		err  error
		left int
	}{
		{"one that ended well", nil, 2},
		{"one that left its cgroup behind, empty", errors.New("cannot remove cgroup"), 2},
		{"one in which something may run", errors.Join(errors.New("cannot empty cgroup"), sandbox.ErrAlive), 1},
	} {
		place, leave, err := l.gate.Enter(context.Background(), 1000, policy.Share{})
		if err != nil {
			t.Fatal(err)
		}
		l.withholdIfAlive(place.Slot, jobA, c.err)
		leave()
		if l.gate.Slots() != c.left {
			t.Errorf("%s: %d slots are left", c.says, l.gate.Slots())
		}
		if told := strings.Contains(log.String(), jobA); told != (c.left < 2) {
			t.Errorf("%s: the log says %q", c.says, log.String())
		}
	}
	j := &job{record: wire.Job{ID: jobB}}
	l.outcome(context.Background(), j, sandbox.Result{Reason: wire.Exited, Stage: "empty cgroup", Err: errors.New("cannot empty cgroup")}, nil, wire.Timeout)
	if !strings.Contains(log.String(), "cannot empty cgroup") || !strings.Contains(log.String(), jobB) {
		t.Errorf("the log says nothing of what was left: %s", log.String())
	}
}

func TestOverlappingTargetsAreCountedOnce(t *testing.T) {
	hole := []policy.Exclusion{{Prefix: netip.MustParsePrefix("10.0.0.4/30"), Rule: "exclude[0]"}}
	left := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30")}
	v := onWire(policy.Verdict{Targets: []policy.Judged{{Addresses: left, Excluded: hole}, {Addresses: left, Excluded: hole}}})
	if v.AddressCount != 4 || v.ExcludedCount != 4 || len(v.Excluded) != 1 {
		t.Errorf("%+v", v)
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

// What a running job was launched with is what it is judged by, to the moment.
func TestAJobIsWithdrawnWhenItHasMoreThanIsAllowedNow(t *testing.T) {
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	was := policy.Verdict{Outcome: policy.Allow, Limits: policy.Limits{Rate: 1000, Duration: time.Hour}, Ports: &policy.Ports{TCP: [][2]uint16{{22, 80}}},
		Targets: []policy.Judged{{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}}}
	for _, c := range []struct {
		says  string
		now   func(*policy.Verdict)
		state string
		set   time.Duration // by which the clock was set since
		want  string        // the code of the denial
	}{
		{"nothing has changed", func(*policy.Verdict) {}, wire.Running, 0, ""},
		{"it is denied", func(v *policy.Verdict) { v.Outcome, v.Code = policy.Deny, policy.Expired }, wire.Running, 0, policy.Expired},
		{"fewer addresses", func(v *policy.Verdict) { v.Targets = nil }, wire.Running, 0, policy.TargetOutOfScope},
		{"fewer addresses, while it waits", func(v *policy.Verdict) { v.Targets = nil }, wire.Queued, 0, policy.TargetOutOfScope},
		{"fewer ports", func(v *policy.Verdict) { v.Ports = &policy.Ports{TCP: [][2]uint16{{22, 79}}} }, wire.Running, 0, policy.PortNotAllowed},
		{"fewer ports, while it waits", func(v *policy.Verdict) { v.Ports = &policy.Ports{TCP: [][2]uint16{{22, 79}}} }, wire.Queued, 0, policy.PortNotAllowed},
		{"more ports", func(v *policy.Verdict) { v.Ports = &policy.Ports{TCP: [][2]uint16{{22, 81}}, ICMP: true} }, wire.Running, 0, ""},
		{"all ports", func(v *policy.Verdict) { v.Ports = nil }, wire.Running, 0, ""},
		{"a lower rate", func(v *policy.Verdict) { v.Limits.Rate = 999 }, wire.Running, 0, policy.RateTooHigh},
		{"a lower rate, while it waits", func(v *policy.Verdict) { v.Limits.Rate = 999 }, wire.Queued, 0, ""},
		{"a shorter time", func(v *policy.Verdict) { v.Limits.Duration -= time.Second }, wire.Running, 0, policy.DurationTooLong},
		{"a shorter time, while it waits", func(v *policy.Verdict) { v.Limits.Duration -= time.Second }, wire.Queued, 0, ""},
		{"an end before its own", func(v *policy.Verdict) { v.Until = began.Add(59 * time.Minute) }, wire.Running, 0, policy.DurationTooLong},
		{"an end with its own", func(v *policy.Verdict) { v.Until = began.Add(time.Hour) }, wire.Running, 0, ""},
		{"an end after its own", func(v *policy.Verdict) { v.Until = began.Add(2 * time.Hour) }, wire.Running, 0, ""},
		{"the end of the hours of the day before, to which the clock was set back", func(v *policy.Verdict) { v.Until = began.Add(-18 * time.Hour) }, wire.Running, -24 * time.Hour, ""},
		{"an end before its own, on that day", func(v *policy.Verdict) { v.Until = began.Add(-24*time.Hour + 59*time.Minute) }, wire.Running, -24 * time.Hour, policy.DurationTooLong},
		{"the end of the hours of today, to which the clock was set forward", func(v *policy.Verdict) { v.Until = began.Add(9 * time.Hour) }, wire.Running, 8*time.Hour + 30*time.Minute, ""},
		{"more of everything", func(v *policy.Verdict) { v.Limits = policy.Limits{Rate: 2000, Duration: 2 * time.Hour} }, wire.Running, 0, ""},
	} {
		v := was
		c.now(&v)
		if got := outgrown(v, was, wire.Job{State: c.state, Started: began, Deadline: began.Add(time.Hour)}, began.Add(time.Hour+c.set)); got.Code != c.want {
			t.Errorf("%s: %+v", c.says, got)
		}
	}
}

// What a preview shows is what is launched, word by word.
func TestThePreviewShowsWhatIsLaunched(t *testing.T) {
	for says, arguments := range map[string]string{
		"with the engagement's rate and time": `{"targets":["10.77.0.10"],"ports":[22],"host_timeout":5}`,
		"with a rate and a time of its own":   `{"targets":["10.77.0.10"],"ports":[22],"rate":50,"limit":10}`,
		"of a network with a hole":            `{"targets":["10.77.0.12/30"],"ports":[22],"host_timeout":5,"limit":10}`,
	} {
		t.Run(says, func(t *testing.T) {
			h := newHouse(t)
			h.engage("lab", engagement+"limits: {packets_per_second: 300}\n")
			h.open()
			handle, _ := h.client()
			p := h.reply(func(seq uint64) wire.Message {
				return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, arguments)}}
			}).Preview
			if p == nil || p.Refused != nil || len(p.Argv) == 0 || len(p.Argv) != p.ArgvCount {
				t.Fatalf("previewed as %+v", p)
			}
			h.running(handle, jobA, arguments)
			b, err := os.ReadFile(filepath.Join(h.cfg.StateDir, "boxes", jobA, fileArgv))
			if err != nil {
				t.Fatal(err)
			}
			var launched []string
			if err := json.Unmarshal(b, &launched); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Argv, launched) {
				t.Errorf("shown    %q\nlaunched %q", p.Argv, launched)
			}
		})
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
	nmap, masscan := runners.Version{Major: 7, Minor: 93}, runners.Version{Major: 1, Minor: 3}
	for _, row := range []struct {
		tool, arguments string
		version         runners.Version
	}{
		{"nmap_scan", `{"targets":["10.0.0.0/24"],"profile":"discovery"}`, nmap},
		{"nmap_scan", `{"targets":["10.0.0.1"],"profile":"quick"}`, nmap},
		{"nmap_scan", `{"targets":["10.0.0.1"],"profile":"standard","scan_type":"syn","os_detection":true}`, nmap},
		{"nmap_scan", `{"targets":["10.0.0.1"],"scan_type":"udp","ports":[53,161]}`, nmap},
		{"nmap_scan", `{"targets":["10.0.0.1"],"profile":"script","scripts":["http-title"]}`, nmap},
		{"nmap_scan", `{"targets":["fd00::1"],"profile":"version"}`, nmap},
		{"masscan_scan", `{"targets":["10.0.0.0/24"],"profile":"web"}`, masscan},
	} {
		call, faults := runners.BuiltIn().Read(row.tool, []byte(row.arguments))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		addresses := []netip.Prefix{call.Plan().Targets[0].Prefix}
		command, err := call.Bounded(1000, time.Hour).Command(row.version, addresses, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		page.WriteString(row.tool + " " + row.arguments + "\n" + boxFor(command, exe, in, limits).String() + "\n")
	}
	words, err := os.Open("../../packaging/wordlists/small.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer words.Close()
	site, server := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.53/32")
	for _, row := range []struct {
		arguments string
		address   netip.Prefix
		reach     *runners.Reach
	}{
		{`{"url":"https://10.0.0.1:8443/app"}`, site, nil},
		{`{"url":"http://www.lab.internal","profile":"standard","tls_verify":false,"host":"shop.lab.internal"}`, site, nil},
		{`{"url":"http://10.0.0.1","domain":"lab.internal","profile":"vhost"}`, site, nil},
		{`{"domain":"lab.internal","profile":"dns"}`, server, &runners.Reach{TCP: [][2]uint16{{53, 53}}, UDP: [][2]uint16{{53, 53}}}},
	} {
		call, faults := runners.BuiltIn().Read("gobuster_scan", []byte(row.arguments))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		command, err := call.Bounded(1000, time.Hour).WithWords(276).Command(runners.Version{Major: 3, Minor: 5}, []netip.Prefix{row.address}, nil, row.reach)
		if err != nil {
			t.Fatal(err)
		}
		spec := boxFor(command, exe, in, limits, sandbox.Input{Name: runners.Wordlist, File: words})
		page.WriteString("gobuster_scan " + row.arguments + "\n" + spec.String() + "  hosts         " + strconv.Quote(spec.Hosts) + "\n\n")
	}
	for _, name := range []string{"fping_scan", "sslscan_scan"} {
		d, faults := declaration("../../packaging/runners.d/" + name + ".yaml")
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		const arguments = `{"targets":["10.0.0.1"]}`
		call, wrong := runners.BuiltIn().With(d).Read(name, []byte(arguments))
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		command, err := call.Bounded(1000, time.Hour).Command(runners.Version{Major: 5, Minor: 1}, []netip.Prefix{site}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		page.WriteString(name + " " + arguments + "\n" + boxFor(command, exe, in, limits).String() + "\n")
	}
	page.WriteString("a name\n" + boxForResolver(exe, []string{"secmcpd", "resolve", "4", "10.0.0.53:53", "web.lab.internal"}, "", in, limits).String() + "\n")
	page.WriteString("a version\n" + boxForVersion(exe, []string{"nmap", "--version"}, in, limits).String())
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

// A disk that fills while a scan runs ends it, and is said to have.
func TestAScanOnADiskThatFillsSaysSo(t *testing.T) {
	h := newHouse(t)
	fill, free := small(t, h.cfg.StateDir)
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	fill()
	began := time.Now()
	if o := h.endOf(jobA).Outcome; o.Reason != "disk_full" || !strings.Contains(o.Detail, "16 MiB") || time.Since(began) > 3*lookEvery {
		t.Errorf("after %v: %+v", time.Since(began), o)
	}
	free()
	if r := h.start(handle, jobB, value(t, quickScan)); r != nil {
		t.Fatalf("with space again: %+v", r)
	}
	if o := h.endOf(jobB).Outcome; o.Reason != wire.Exited {
		t.Errorf("with space again: %+v", o)
	}
	h.close()
	for _, r := range auditRecords(t, h) {
		if r.Event == observability.Done && r.Job == jobA && r.Outcome != "disk_full" {
			t.Errorf("the audit log says that it ended by %s", r.Outcome)
		}
	}
}

// A disk that fills ends the scan that has written most, and not its neighbours.
func TestTheLargestWriterEndsFirst(t *testing.T) {
	h := newHouse(t)
	fill, free := small(t, h.cfg.StateDir)
	h.open()
	handle, _ := h.client()
	for _, id := range []string{jobA, jobB} {
		h.running(handle, id, longScan)
	}
	out, err := os.OpenFile(filepath.Join(h.cfg.StateDir, "boxes", jobB, fileStderr), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.Write(make([]byte, 256<<10)); err != nil {
		t.Fatal(err)
	}
	fill()
	o := h.endOf(jobB).Outcome
	free()
	if o.Reason != wire.DiskFull {
		t.Errorf("the largest: %+v", o)
	}
	time.Sleep(lookEvery + 500*time.Millisecond) // nothing must happen
	if r := h.cancel(handle, jobA); r != nil {
		t.Fatalf("%+v", r)
	}
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled {
		t.Errorf("its neighbour: %+v", o)
	}
}

// What the running scans may still write is not promised to another one.
func TestRoomIsKeptForWhatRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	small(t, dir) // 64 MiB
	kept, err := openRecords(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s space
	take := func(id string, limit int64, fits bool) {
		t.Helper()
		if err := s.take(id, limit, kept); (err == nil) != fits {
			t.Errorf("%s: %v", id, err)
		}
	}
	take(jobA, 30<<20, true)
	take(jobB, 30<<20, false) // beside A's, and what is always kept free
	if err := os.Mkdir(filepath.Join(kept.dir, jobA), 0o700); err != nil {
		t.Fatal(err)
	}
	// What A has written is taken from the disk, and no longer from its room.
	if err := errors.Join(kept.note(jobA, fileStdout, make([]byte, 10<<20)), kept.note(jobA, fileStderr, make([]byte, 10<<20))); err != nil {
		t.Fatal(err)
	}
	take(jobB, 19<<20, false)
	take(jobB, 17<<20, true)
	s.release(jobB)
	s.release(jobA)
	take(jobB, 27<<20, true)
}

// What ended a scan has one word, from the box to the audit log: none is lost or renamed on its way.
// That the front says the same is its own test.
func TestWhatEndedAScanHasOneWord(t *testing.T) {
	known := words(t, "../wire/wire.go", "// The reasons for which a job ended.")
	l := &Launcher{log: slog.New(slog.DiscardHandler), records: testRecords(t)}
	var err error
	if l.audit, err = observability.OpenAudit(t.TempDir(), time.Now); err != nil {
		t.Fatal(err)
	}
	defer l.audit.Close()
	ends := func(ctx context.Context, reason, want string) {
		t.Helper()
		j := &job{record: wire.Job{ID: jobA, State: wire.Ended}}
		o := l.outcome(ctx, j, sandbox.Result{Reason: reason}, nil, wire.Timeout)
		j.record.Outcome = &o
		if audited := j.entry(observability.Done).Outcome; o.Reason != want || audited != want || !slices.Contains(known, want) {
			t.Errorf("a box that ended by %s: the record says %s, the audit log %s; want %s, of %v", reason, o.Reason, audited, want, known)
		}
	}
	boxes := words(t, "../../sandbox/run.go", "// Reasons for the end of a box.")
	for _, reason := range boxes {
		ends(t.Context(), reason, reason)
	}
	if len(boxes) < 10 || len(known) < 16 {
		t.Errorf("a box ends by one of %v, a job by one of %v", boxes, known)
	}
	for _, cause := range []error{errCancelled, errWithdrawn, errShutdown, errScopeLost, errDiskFull} {
		ctx, end := context.WithCancelCause(t.Context())
		end(cause)
		ends(ctx, sandbox.Cancelled, cause.Error())
	}
}

// words are the texts of a block of constants.
func words(t *testing.T, file, block string) (found []string) {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(source), block)
	constants, _, _ := strings.Cut(after, "\n)\n")
	for _, m := range regexp.MustCompile(`(?m)^\t\w+ += "(\w+)"`).FindAllStringSubmatch(constants, -1) {
		found = append(found, m[1])
	}
	return found
}

// A scanner that ended by itself may not have been able to write all that it found.
func TestWhatAFullDiskIsTheCauseOf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	fill, free := small(t, dir)
	kept, err := openRecords(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		says   string
		full   bool
		reason string
		want   string
	}{
		{"a scanner that ended by itself", true, sandbox.Exited, wire.DiskFull},
		{"a scanner that crashed", true, sandbox.Signalled, wire.DiskFull},
		{"a scanner that was out of time", true, sandbox.Timeout, wire.Timeout},
		{"a scanner that wrote too much", true, sandbox.Output, wire.Output},
		{"a scanner that ended by itself, with space", false, sandbox.Exited, wire.Exited},
		{"a scanner that crashed, with space", false, sandbox.Signalled, wire.Signalled},
	} {
		var log bytes.Buffer
		l := &Launcher{log: slog.New(slog.NewTextHandler(&log, nil)), records: kept}
		if c.full {
			fill()
		}
		o := l.outcome(context.Background(), &job{record: wire.Job{ID: jobA}}, sandbox.Result{Reason: c.reason}, nil, wire.Timeout)
		if c.full {
			free()
		}
		told := strings.Contains(log.String(), "disk of the outputs is full") && strings.Contains(log.String(), jobA)
		if o.Reason != c.want || told != (c.want == wire.DiskFull) {
			t.Errorf("%s: %+v, the log says %q", c.says, o, log.String())
		}
	}
}

// A job that ends while the disk of the audit log is full is recorded at once: the log has space for
// that. Nothing is launched until others have it, too.
func TestTheEndOfAJobIsAuditedOnAFullDisk(t *testing.T) {
	h := newHouse(t)
	fill, free := small(t, h.cfg.AuditDir)
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	fill()
	if r := h.cancel(handle, jobA); r != nil {
		t.Fatalf("%+v", r)
	}
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled {
		t.Errorf("%+v", o)
	}
	if got, want := auditEvents(t, h), []string{"started", "engagements", "asked", "decided", "launched", "done"}; !slices.Equal(got, want) {
		t.Errorf("on the full disk: audit %v, want %v", got, want)
	}
	if r := h.start(handle, jobB, value(t, quickScan)); r == nil || r.Code != "audit_unavailable" {
		t.Errorf("a new one on the full disk: %+v", r)
	}
	free()
	if r := h.start(handle, jobB, value(t, quickScan)); r != nil {
		t.Fatalf("with space again: %+v", r)
	}
	h.endOf(jobB)
}

// A job that ends while the audit log cannot be written at all: its end is told to the front, and its
// record stays as it was until the end is in the log. Nothing is launched before that.
func TestTheEndOfAJobIsAuditedWhenTheDiskHasSpaceAgain(t *testing.T) {
	h := newHouse(t)
	fill, free := small(t, h.cfg.AuditDir)
	var log *observability.Audit
	h.inside = func(l *Launcher) { log = l.audit }
	h.open()
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	fill()
	for reserve := 0; log.Note(observability.Record{Event: observability.Recovered, Reason: strings.Repeat("x", 1000)}) == nil; reserve++ {
		if reserve == observability.Reserve/1000 {
			t.Fatal("the reserve has no end")
		}
	}
	if r := h.cancel(handle, jobA); r != nil {
		t.Fatalf("%+v", r)
	}
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Cancelled {
		t.Errorf("%+v", o)
	}
	if err := h.conn.Send(wire.Message{Ack: &wire.Ack{Job: jobA}}); err != nil {
		t.Fatal(err)
	}
	if r := h.start(handle, jobB, value(t, quickScan)); r == nil || r.Code != "audit_unavailable" {
		t.Errorf("while the end of a job is not in the log: %+v", r)
	}
	kept := records{dir: filepath.Join(h.cfg.StateDir, "boxes")}
	if jobs, _, _, err := kept.load(); err != nil || len(jobs) != 1 || jobs[0].State != wire.Running {
		t.Errorf("a crash now would leave %+v, %v", jobs, err)
	}
	free()
	if r := h.start(handle, jobB, value(t, quickScan)); r != nil {
		t.Fatalf("with space again: %+v", r)
	}
	h.endOf(jobB)
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(kept.dir, jobA)); os.IsNotExist(err) {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the record is kept although it was acknowledged and its end is in the log")
		}
	}
	h.close()
	got := slices.DeleteFunc(auditEvents(t, h), func(event string) bool { return event == string(observability.Recovered) })
	if want := []string{"started", "engagements", "asked", "decided", "launched", "done", "asked", "decided", "launched", "done", "stopped"}; !slices.Equal(got, want) {
		t.Errorf("audit %v, want %v", got, want)
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

// The audit log names every limit that a box has.
func TestEveryLimitIsAudited(t *testing.T) {
	none := *onAudit(sandbox.Limits{}, 0)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[sandbox.Limits]()) {
		var l sandbox.Limits
		reflect.ValueOf(&l).Elem().FieldByIndex(field.Index).SetInt(1 << 40)
		if *onAudit(l, 0) == none {
			t.Errorf("%s is not audited", field.Name)
		}
	}
	// One that an earlier version wrote is sealed as it was.
	if b, err := json.Marshal(none); err != nil || string(b) != `{"wall_s":0,"memory_mib":0,"pids":0,"cpu_percent":0,"cpu_s":0,"output_mib":0}` {
		t.Errorf("%s, %v", b, err)
	}
}

// Whichever step of a launch before the box fails leaves nothing: no file that is open to be written,
// no room kept, no box, and the only slot is free for the next job.
func TestAFaultBeforeTheBoxLeavesNothing(t *testing.T) {
	h := newHouse(t)
	h.cfg.Slots = 1
	var l *Launcher
	h.inside = func(made *Launcher) { l = made }
	h.open()
	handle, _ := h.client()
	for i, c := range []struct{ in, stage string }{
		{fileArgv, "outputs"}, {fileSpec, "outputs"}, {fileStdout, "outputs"}, {fileStderr, "outputs"}, {fileRecord + ".new", "audit"},
	} {
		before, job := strings.Repeat(string(rune('c'+i)), 26), strings.Repeat(string(rune('n'+i)), 26)
		h.running(handle, before, longScan)
		h.accepted(handle, job, quickScan) // it waits for the slot
		obstacle := l.records.path(job, c.in)
		if err := os.Mkdir(obstacle, 0o700); err != nil {
			t.Fatal(err)
		}
		if r := h.cancel(handle, before); r != nil {
			t.Fatalf("%+v", r)
		}
		h.endOf(before)
		if c.stage == "audit" { // the end of the job is to be kept again
			time.AfterFunc(500*time.Millisecond, func() { os.Remove(obstacle) })
		}
		if o := h.endOf(job).Outcome; o.Reason != wire.Launch || o.Stage != c.stage || o.Refused == nil {
			t.Errorf("%s: %+v", c.in, o)
		}
		os.Remove(obstacle)
		l.reserved.mu.Lock()
		if len(l.reserved.limits) > 0 {
			t.Errorf("%s: room is still kept: %v", c.in, l.reserved.limits)
		}
		l.reserved.mu.Unlock()
		if left := openToWrite(t, job); len(left) > 0 {
			t.Errorf("%s: still open: %v", c.in, left)
		}
		if left, _ := filepath.Glob(l.boxes.Features().Cgroup + "/boxes/box-" + job); len(left) > 0 {
			t.Errorf("%s: left: %v", c.in, left)
		}
	}
	h.accepted(handle, jobA, quickScan)
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Exited {
		t.Errorf("the next job: %+v", o)
	}
}

// openToWrite lists the files of a job that this process could still write to.
func openToWrite(t *testing.T, job string) (names []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		number, _ := strconv.Atoi(filepath.Base(link))
		name, err := os.Readlink(link)
		if err != nil || !strings.Contains(name, job) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(number), unix.F_GETFL, 0); err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY {
			names = append(names, name)
		}
	}
	return names
}
