package launcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/policy"
)

const (
	agentUID = 65402 // asks
	adminUID = 65403 // approves
)

const toBeApproved = `name: lab
description: the lab
callers: {users: [65402, 0]}
targets: [10.77.0.0/16, {name: .lab.internal, within: [10.77.0.0/16]}]
exclude: [10.77.0.13]
tools: {nmap_scan: {profiles: ["*"]}}
limits: {jobs: 2}
approve: [nmap_scan]
`

// withOperators gives the launcher a socket for operators, which anybody may open: who they are is what is tried.
func (h *house) withOperators() {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(h.cfg.FrontSocket), "admin.sock")
	_ = os.Remove(path) // of a launcher before this one
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err := errors.Join(err, os.Chmod(path, 0o666)); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	h.cfg.Operators = l
}

func (h *house) order(uid int, o wire.Order) (wire.Answer, error) {
	type given struct {
		a   wire.Answer
		err error
	}
	done := make(chan given)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread that has become somebody else ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			done <- given{err: errno}
			return
		}
		a, err := wire.Give(context.Background(), h.cfg.Operators.Addr().String(), o)
		done <- given{a, err}
	}()
	g := <-done
	return g.a, g.err
}

// ordered is an order that reaches the launcher.
func (h *house) ordered(uid int, o wire.Order) wire.Answer {
	h.t.Helper()
	a, err := h.order(uid, o)
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// waits starts a scan and returns what an operator is shown of it, once it waits.
func (h *house) waits(handle uint64, job string) wire.Exact {
	h.t.Helper()
	h.accepted(handle, job, quickScan)
	m := h.until(func(m wire.Message) bool {
		return m.Job != nil && m.Job.ID == job && (m.Job.Approval != nil || m.Job.State == wire.Ended)
	}).m
	if m.Job.State != wire.Queued || !m.Job.Approval.Waits() {
		h.t.Fatalf("it does not wait: %+v %+v", m.Job.Outcome, m.Job.Approval)
	}
	a := h.ordered(adminUID, wire.Order{Show: &wire.Show{Job: job}})
	if a.Exact == nil || a.Exact.Digest != m.Job.Approval.Digest {
		h.t.Fatalf("%+v", a)
	}
	return *a.Exact
}

func (h *house) mustRefuse(uid int, o wire.Order, code string) {
	h.t.Helper()
	if a := h.ordered(uid, o); a.Refused == nil || a.Refused.Code != code || a.Refused.Reason == "" || a.Refused.Hint == "" {
		h.t.Errorf("%+v by uid %d: %+v, want %s", o, uid, a.Refused, code)
	}
}

// What an operator is shown, and approves by its digest, is what is launched.
func TestAnOperatorApprovesOneExactCommand(t *testing.T) {
	h := newHouse(t)
	h.withOperators()
	h.engage("lab", toBeApproved)
	h.open()
	handle, _ := h.clientAs(agentUID)
	exact := h.waits(handle, jobA)
	if exact.UID != agentUID || !slices.Contains(exact.Argv, "10.77.0.10") || exact.ArgvCount != len(exact.Argv) || !slices.Equal(exact.Addresses, []string{"10.77.0.10/32"}) ||
		!slices.Equal(exact.Of, []string{"nmap_scan"}) || exact.LimitS != 10 || exact.Scanner.SHA256 == "" || exact.Expires.Before(time.Now().Add(30*time.Minute)) {
		t.Errorf("%+v", exact)
	}
	if a := h.ordered(adminUID, wire.Order{Pending: &wire.Pending{}}); len(a.Pending) != 1 || a.Pending[0] != exact.Awaited {
		t.Errorf("%+v", a)
	}
	if s := h.ordered(adminUID, wire.Order{Look: &wire.Look{}}).State; s.PendingCount != 1 || s.Running != 0 || s.Waiting != 0 {
		t.Errorf("it takes a place while it waits: %+v", s)
	}
	other := exact.Digest[1:] + exact.Digest[:1]
	h.mustRefuse(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: other}}, "approval_stale")
	h.mustRefuse(adminUID, wire.Order{Approve: &wire.Approve{Job: jobB, Digest: exact.Digest}}, "no_such_job")
	h.mustRefuse(agentUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}, "own_request")
	if _, err := h.order(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest[:12]}}); err == nil {
		t.Error("a part of the digest was answered")
	}
	for _, uid := range []int{int(h.cfg.FrontUID), int(h.cfg.FirstSlotUID)} {
		if a, err := h.order(uid, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}); err == nil {
			t.Errorf("uid %d was answered: %+v", uid, a)
		}
	}
	if a := h.ordered(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}); a.Refused != nil {
		t.Fatalf("%+v", a.Refused)
	}
	h.mustRefuse(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}, "no_such_job")
	end := h.endOf(jobA)
	if end.Outcome.Reason != wire.Exited || *end.Approval.By != adminUID || end.Approval.Given.IsZero() {
		t.Errorf("%+v %+v", end.Outcome, end.Approval)
	}
	h.close()
	events := auditEvents(t, h)
	if want := []string{"started", "engagements", "asked", "decided", "approval_asked", "approved", "launched", "done", "stopped"}; !slices.Equal(events, want) {
		t.Errorf("audit %v, want %v", events, want)
	}
	for _, r := range auditRecords(t, h) {
		switch r.Event {
		case observability.Approved:
			if r.Operator == nil || r.Operator.UID != adminUID || r.Caller.UID != agentUID || r.Digest != exact.Digest {
				t.Errorf("%+v", r)
			}
		case observability.Launched:
			if !slices.Equal(r.Argv, exact.Argv) || r.Digest != exact.Digest || *r.Approver != adminUID {
				t.Errorf("launched is %v, approved was %v", r.Argv, exact.Argv)
			}
		}
	}
}

// Each way in which a job that waits ends without a packet.
func TestAScanThatIsNotApprovedIsNotLaunched(t *testing.T) {
	for _, c := range []struct {
		why    string
		do     func(h *house, handle uint64, e wire.Exact)
		change func(h *house)
		reason string
		code   string
		says   string
		event  string
	}{
		{why: "denied, with a reason", do: func(h *house, _ uint64, e wire.Exact) {
			h.ordered(adminUID, wire.Order{Deny: &wire.Deny{Job: jobA, Reason: "not today\x1b[2J\n"}})
		}, reason: wire.Refused, code: "approval_denied", says: "(uid 65403) has not approved the scan; nothing was sent: not today [2J", event: "approval_denied"},
		{why: "nobody comes", change: func(h *house) { h.cfg.Live.Approvals = 300 * time.Millisecond }, reason: wire.Refused, code: "approval_expired", event: "approval_passed"},
		{why: "its caller cancels it", do: func(h *house, handle uint64, _ wire.Exact) { h.cancel(handle, jobA) }, reason: wire.Cancelled},
		{why: "its engagement changes", do: func(h *house, _ uint64, _ wire.Exact) { h.engage("lab", toBeApproved+"# changed\n") },
			reason: wire.Refused, code: "approval_stale", event: "denied"},
		{why: "its engagement goes", do: func(h *house, _ uint64, _ wire.Exact) {
			if err := os.Remove(filepath.Join(h.cfg.EngagementsDir, "lab.yaml")); err != nil {
				h.t.Error(err)
			}
		}, reason: wire.Refused, code: "approval_stale", event: "denied"},
		{why: "its scanner is another one when it is approved", do: func(h *house, _ uint64, e wire.Exact) {
			f, err := os.OpenFile(h.cfg.Live.Scanners["nmap"], os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.WriteString("\x00")
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				h.t.Fatal(err)
			}
			if a := h.ordered(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: e.Digest}}); a.Refused != nil {
				h.t.Errorf("%+v", a.Refused)
			}
		}, reason: wire.Refused, code: "approval_stale", event: "denied"},
		{why: "the launcher is stopped", do: func(h *house, _ uint64, _ wire.Exact) { h.stop() }, reason: wire.Shutdown},
	} {
		t.Run(strings.ReplaceAll(c.why, " ", "_"), func(t *testing.T) {
			h := newHouse(t)
			h.withOperators()
			h.engage("lab", toBeApproved)
			program, err := os.ReadFile(h.cfg.Live.Scanners["nmap"])
			own := filepath.Join(filepath.Dir(h.cfg.FrontSocket), "nmap")
			if err := errors.Join(err, os.WriteFile(own, program, 0o755)); err != nil {
				t.Fatal(err)
			}
			h.cfg.Live.Scanners = map[string]string{"nmap": own}
			if c.change != nil {
				c.change(h)
			}
			h.open()
			handle, _ := h.clientAs(agentUID)
			if c.do == nil {
				h.accepted(handle, jobA, quickScan)
			} else {
				c.do(h, handle, h.waits(handle, jobA))
			}
			o := h.endOf(jobA).Outcome
			if o.Reason != c.reason || c.code != "" && (o.Refused == nil || o.Refused.Code != c.code || o.Refused.Hint == "" || !strings.Contains(o.Refused.Reason, c.says)) {
				t.Errorf("%+v %+v", o, o.Refused)
			}
			if a, err := h.order(adminUID, wire.Order{Pending: &wire.Pending{}}); err == nil && len(a.Pending) != 0 {
				t.Errorf("it still waits: %+v", a.Pending)
			}
			events := auditEvents(t, h)
			if slices.Contains(events, "launched") || c.event != "" && !slices.Contains(events, c.event) {
				t.Errorf("audit %v", events)
			}
		})
	}
}

// Root who asked is who asked; the engagement may say that this is enough.
func TestWhoAskedApprovesOnlyWhereTheEngagementSaysSo(t *testing.T) {
	h := newHouse(t)
	h.withOperators()
	h.engage("lab", toBeApproved)
	h.engage("own", strings.Replace(toBeApproved, "name: lab", "name: own", 1)+"approval: {self: true}\n")
	h.open()
	handle, _ := h.client()
	exact := h.waits(handle, jobA)
	h.mustRefuse(0, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}, "own_request")
	h.accepted(handle, jobB, strings.Replace(quickScan, "{", `{"engagement":"own",`, 1))
	m := h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.ID == jobB && m.Job.Approval != nil }).m
	if a := h.ordered(0, wire.Order{Approve: &wire.Approve{Job: jobB, Digest: m.Job.Approval.Digest}}); a.Refused != nil {
		t.Errorf("%+v", a.Refused)
	}
	if end := h.endOf(jobB); end.Outcome.Reason != wire.Exited {
		t.Errorf("%+v", end.Outcome)
	}
}

// Those that wait are bounded for each user, take nobody's place, and count for their engagement once they are approved.
func TestThoseThatWaitAreBounded(t *testing.T) {
	h := newHouse(t)
	h.withOperators()
	h.engage("lab", toBeApproved)
	h.open()
	handle, _ := h.clientAs(agentUID)
	id := func(i int) string { return fmt.Sprintf("%c", 'a'+i) + jobA[1:] }
	var exact []wire.Exact
	for i := range wire.MaxPendingPerUID {
		exact = append(exact, h.waits(handle, id(i)))
	}
	h.accepted(handle, id(wire.MaxPendingPerUID), quickScan)
	if o := h.endOf(id(wire.MaxPendingPerUID)).Outcome; o.Refused == nil || o.Refused.Code != "too_many_approvals" || !o.Refused.Retryable {
		t.Errorf("%+v %+v", o, o.Refused)
	}
	// Another user is none of those.
	root, _ := h.client()
	h.waits(root, id(20))
	for i, want := range []string{"", "", "too_many_jobs"} {
		a := h.ordered(adminUID, wire.Order{Approve: &wire.Approve{Job: exact[i].Job, Digest: exact[i].Digest}})
		if got := a.Refused; (got == nil) != (want == "") || got != nil && got.Code != want {
			t.Errorf("approval %d: %+v, want %q", i, got, want)
		}
	}
	for ended := map[string]bool{}; len(ended) < 2; { // in either order
		ended[h.until(func(m wire.Message) bool { return m.Job != nil && m.Job.State == wire.Ended }).m.Job.ID] = true
	}
	if a := h.ordered(adminUID, wire.Order{Approve: &wire.Approve{Job: exact[2].Job, Digest: exact[2].Digest}}); a.Refused != nil {
		t.Errorf("when others have ended: %+v", a.Refused)
	}
	h.endOf(exact[2].Job)
}

// A job that waited when the launcher died is interrupted: what it would have been launched by is gone.
func TestAJobThatWaitsDoesNotOutliveTheLauncher(t *testing.T) {
	h := newHouse(t)
	h.withOperators()
	h.engage("lab", toBeApproved)
	h.open()
	handle, _ := h.clientAs(agentUID)
	h.waits(handle, jobA)
	record, err := os.ReadFile(filepath.Join(h.cfg.StateDir, "boxes", jobA, "record"))
	if err != nil {
		t.Fatal(err)
	}
	h.close()
	// As it was at its death, not at its end.
	if err := os.WriteFile(filepath.Join(h.cfg.StateDir, "boxes", jobA, "record"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	h.conn = nil
	h.withOperators()
	h.open()
	h.link()
	end := h.endOf(jobA)
	if end.Outcome == nil || end.Outcome.Reason != wire.Interrupted || !strings.Contains(end.Outcome.Detail, "approval") {
		t.Errorf("%+v", end.Outcome)
	}
	h.mustRefuse(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: strings.Repeat("0", 64)}}, "no_such_job")
}

// A preview of what has to be approved says so, and is none of a refusal.
func TestAPreviewSaysWhatAnOperatorHasToApprove(t *testing.T) {
	for _, withOperators := range []bool{true, false} {
		h := newHouse(t)
		if withOperators {
			h.withOperators()
		}
		h.engage("lab", toBeApproved)
		h.open()
		handle, _ := h.clientAs(agentUID)
		p := h.reply(func(seq uint64) wire.Message {
			return wire.Message{Preview: &wire.Preview{Seq: seq, Handle: handle, Value: value(t, quickScan)}}
		}).Preview
		if p == nil || p.Verdict.Outcome != "approve" || !slices.Equal(p.Verdict.Approve, []string{"nmap_scan"}) || len(p.Argv) == 0 || (p.Refused == nil) != withOperators {
			t.Errorf("with operators %v: %+v", withOperators, p)
		}
		if !withOperators {
			h.accepted(handle, jobA, quickScan)
			if o := h.endOf(jobA).Outcome; o.Refused == nil || o.Refused.Code != "approval_unavailable" {
				t.Errorf("%+v", o)
			}
		}
		h.close()
	}
}

// The clock on the wall says when it is too late: timers stand still while the machine sleeps.
func TestNobodyApprovesWhenTheTimeIsOverByTheClock(t *testing.T) {
	h := newHouse(t)
	var l *Launcher
	h.inside = func(is *Launcher) { l = is }
	h.withOperators()
	h.engage("lab", toBeApproved)
	h.open()
	handle, _ := h.clientAs(agentUID)
	exact := h.waits(handle, jobA)
	l.mu.Lock()
	l.pending[jobA].exact.Expires = time.Now().Add(-time.Second)
	l.mu.Unlock()
	h.mustRefuse(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}, "approval_expired")
	if o := h.endOf(jobA).Outcome; o.Refused == nil || o.Refused.Code != "approval_expired" {
		t.Errorf("%+v", o)
	}
	if events := auditEvents(t, h); slices.Contains(events, "approved") || !slices.Contains(events, "approval_passed") {
		t.Errorf("audit %v", events)
	}
}

// An approval is kept at once: what is said of a job that was approved and not launched when the launcher died is true.
func TestAnApprovedJobDoesNotOutliveTheLauncher(t *testing.T) {
	h := newHouse(t)
	h.inside = func(l *Launcher) {
		for range h.cfg.Slots { // its place does not come
			if _, _, err := l.gate.Enter(context.Background(), 1, policy.Share{}); err != nil {
				t.Error(err)
			}
		}
	}
	h.withOperators()
	h.engage("lab", toBeApproved)
	h.open()
	handle, _ := h.clientAs(agentUID)
	exact := h.waits(handle, jobA)
	if a := h.ordered(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}); a.Refused != nil {
		t.Fatalf("%+v", a.Refused)
	}
	path := filepath.Join(h.cfg.StateDir, "boxes", jobA, "record")
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.close()
	if err := os.WriteFile(path, record, 0o600); err != nil { // as it was at its death
		t.Fatal(err)
	}
	h.conn, h.inside = nil, nil
	h.withOperators()
	h.open()
	h.link()
	end := h.endOf(jobA)
	if end.Outcome.Reason != wire.Interrupted || !strings.Contains(end.Outcome.Detail, "no scanner was started") || end.Approval.Waits() {
		t.Errorf("%+v %+v", end.Outcome, end.Approval)
	}
	h.mustRefuse(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}, "no_such_job")
}

// What an operator is shown of a list is whole words, and what is not shown is counted as such.
func TestNoWordThatIsShownToAnOperatorIsCut(t *testing.T) {
	long := strings.Repeat("x", 2000) + "the end"
	if got := shown([]string{"nmap", long, "-6"}, 24<<10); !slices.Equal(got, []string{"nmap", long, "-6"}) {
		t.Errorf("%d words", len(got))
	}
	if got := shown([]string{"nmap", long, "-6"}, 1000); !slices.Equal(got, []string{"nmap"}) {
		t.Errorf("%q", got)
	}
}

// A job whose engagement changes in the moment of its approval is told what has ended it.
func TestAnApprovalThatIsStaleAtOnceIsNoCancellation(t *testing.T) {
	ctx, end := context.WithCancelCause(context.Background())
	end(errStale)
	if o, over := ended(ctx); !over || o.Reason != wire.Refused || o.Refused.Code != "approval_stale" {
		t.Errorf("%+v", o)
	}
}

// All that wait are bounded, and who is refused for that is told which bound it was.
func TestAllThatWaitTogetherAreBounded(t *testing.T) {
	l := &Launcher{pending: map[string]*awaited{}}
	waits := func(uid int) *wire.Refusal {
		a := &awaited{}
		a.exact.Job, a.exact.UID = fmt.Sprint(len(l.pending)), uint32(uid)
		return l.awaits(a)
	}
	for i := range wire.MaxPending - 1 {
		if r := waits(1000 + i/wire.MaxPendingPerUID); r != nil {
			t.Fatalf("number %d: %+v", i+1, r)
		}
	}
	if r := waits(1000); r == nil || r.Got != "9" || !slices.Equal(r.Allowed, []string{"8"}) {
		t.Errorf("of one user: %+v", r)
	}
	if r := waits(2000); r != nil {
		t.Errorf("the last place: %+v", r)
	}
	if r := waits(3000); r == nil || r.Got != "65" || !slices.Equal(r.Allowed, []string{"64"}) || strings.Contains(r.Hint, "yours") {
		t.Errorf("of all: %+v", r)
	}
}
