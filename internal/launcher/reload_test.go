package launcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/runners"
)

// reloads is a house whose launcher reads what the test says.
type reloads struct {
	*house
	l    *Launcher
	next atomic.Pointer[func() (Next, error)]
	took atomic.Int32
}

func newReloads(t *testing.T, change ...func(*house)) *reloads {
	t.Helper()
	r := &reloads{house: newHouse(t)}
	for _, c := range change {
		c(r.house)
	}
	r.reads(func(*Live) {})
	r.cfg.Reload = func() (Next, error) { return (*r.next.Load())() }
	begun := make(chan struct{})
	r.inside = func(l *Launcher) { r.l = l; close(begun) }
	r.open()
	<-begun
	return r
}

// reads has the next reloads find the house's configuration with a change.
func (r *reloads) reads(change func(*Live)) {
	live := r.cfg.Live
	change(&live)
	next := func() (Next, error) {
		return Next{Live: live, Digest: "d", Changed: []string{"some.key"}, Took: func() { r.took.Add(1) }}, nil
	}
	r.next.Store(&next)
}

func (r *reloads) fails(err error) {
	next := func() (Next, error) { return Next{}, err }
	r.next.Store(&next)
}

// reload does one while the front answers each Reread by what answers says.
func (r *reloads) reload(answers ...func(wire.Reread) wire.HasRead) wire.Reloaded {
	r.t.Helper()
	done := make(chan wire.Reloaded, 1)
	go func() {
		said, err := r.l.reload(context.Background(), nil)
		if err != nil {
			r.t.Error(err)
		}
		done <- said
	}()
	for _, answer := range answers {
		m := r.until(func(m wire.Message) bool { return m.Reread != nil }).m.Reread
		a := answer(*m)
		if err := r.conn.Send(wire.Message{HasRead: &a}); err != nil {
			r.t.Fatal(err)
		}
	}
	select {
	case said := <-done:
		return said
	case <-time.After(20 * time.Second):
		r.t.Fatal("the reload does not end")
		panic("unreachable")
	}
}

func well(m wire.Reread) wire.HasRead { return wire.HasRead{Seq: m.Seq} }

// All of a configuration is taken when both rooms have found no fault, and nothing of it before.
func TestReload(t *testing.T) {
	h := newReloads(t)
	handle, _ := h.client()
	e := h.running(handle, jobA, longScan)
	for _, f := range e.files {
		f.Close()
	}
	memory := func() int64 { return h.l.now().Limits.Memory }
	was := memory()
	more := func(l *Live) { l.Limits.Memory, l.Queue, l.Budget = was+1<<20, 3, 777 }
	unchanged := func(says string, r wire.Reloaded) {
		t.Helper()
		if r.Well() || memory() != was || h.took.Load() != 0 {
			t.Errorf("%s: %+v, memory %d, was %d", says, r, memory(), was)
		}
		if _, budget := h.l.gate.Reserved(); budget != 0 {
			t.Errorf("%s: the gate has a budget of %d", says, budget)
		}
	}

	h.fails(errors.Join(strict.Faults{{File: "a", Line: 1, Got: "x"}, {File: "b", Line: 2, Got: strings.Repeat("y", 2000)}}))
	r := h.reload()
	unchanged("faults", r)
	if r.FaultsCount != 2 || len(r.Faults) != 2 || r.Faults[0] != "a:1: got x" || len(r.Faults[1]) > wire.MaxFaultText {
		t.Errorf("%+v", r)
	}
	h.fails(fmt.Errorf("wrapped: %w", NeedsRestart{"slots.mode", "audit_dir"}))
	if r = h.reload(); len(r.Restart) != 2 || r.FaultsCount != 0 {
		t.Errorf("%+v", r)
	}
	unchanged("a restart", r)

	h.reads(more)
	r = h.reload(func(m wire.Reread) wire.HasRead {
		if m.Apply || m.Digest != "d" || memory() != was {
			t.Errorf("the front is first asked %+v", m)
		}
		return wire.HasRead{Seq: m.Seq, Faults: []string{"c:1: \x1b[2Jgone", "two"}}
	})
	unchanged("the front's faults", r)
	if r.Front == "" || len(r.FrontSays) != 2 || r.FrontSays[0] != "c:1: ?[2Jgone" {
		t.Errorf("%+v", r)
	}
	other := func(m wire.Reread) wire.HasRead { return wire.HasRead{Seq: m.Seq, Other: true} }
	r = h.reload(other, other, other, other, other)
	unchanged("other files, again and again", r)

	// An answer to another question is none.
	r = h.reload(func(m wire.Reread) wire.HasRead {
		old := wire.HasRead{Seq: m.Seq - 1}
		if err := h.conn.Send(wire.Message{HasRead: &old}); err != nil {
			t.Error(err)
		}
		return wire.HasRead{Seq: m.Seq, Faults: []string{"one"}}
	})
	unchanged("an old answer", r)

	r = h.reload(other, well, func(m wire.Reread) wire.HasRead {
		if !m.Apply || memory() != was+1<<20 {
			t.Errorf("it is told to apply %+v with %d", m, memory())
		}
		return wire.HasRead{Seq: m.Seq}
	})
	if !r.Well() || len(r.Changed) != 1 || len(r.Warnings) != 0 || memory() != was+1<<20 || h.took.Load() != 1 {
		t.Errorf("%+v, %d", r, memory())
	}
	if _, budget := h.l.gate.Reserved(); budget != 777 {
		t.Errorf("the gate has a budget of %d", budget)
	}
	if total := h.l.state().Budget; total != 777 {
		t.Errorf("the state says %d", total)
	}
	// What runs was launched before, and goes on.
	for _, j := range h.l.all() {
		if s := j.snapshot(); s.State != wire.Running {
			t.Errorf("%+v", s)
		}
	}
	if refused := h.cancel(handle, jobA); refused != nil {
		t.Error(refused)
	}
	h.endOf(jobA)
	log, err := os.ReadFile(filepath.Join(h.cfg.AuditDir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if n, refused := strings.Count(string(log), `"event":"reloaded"`), strings.Count(string(log), `"outcome":"refused"`); n != 6 || refused != 5 || strings.Contains(string(log), "2Jgone") {
		t.Errorf("%d records, %d of them refused: %s", n, refused, log)
	}
}

// A launch has what is in force then, and a launch after a reload that failed what was before it.
func TestALaunchHasWhatIsInForce(t *testing.T) {
	h := newReloads(t)
	handle, _ := h.client()
	spec := func(job string) string {
		e := h.running(handle, job, longScan)
		for _, f := range e.files {
			f.Close()
		}
		b, err := os.ReadFile(h.l.records.path(job, fileSpec))
		if err != nil {
			t.Fatal(err)
		}
		h.cancel(handle, job)
		h.endOf(job)
		_, limits, _ := strings.Cut(string(b), "  memory ") // what is above is the slot's
		limits, _, _ = strings.Cut(limits, "  kill ")
		return limits
	}
	before := spec(jobA)
	h.fails(errors.New("a fault"))
	h.reload()
	if after := spec(jobB); after != before || before == "" {
		t.Errorf("after a reload that failed:\n%s\nbefore:\n%s", after, before)
	}
	h.reads(func(l *Live) { l.Limits.OpenFiles = 333 })
	if r := h.reload(well, well); !r.Well() {
		t.Fatalf("%+v", r)
	}
	if after := spec(jobC); !strings.Contains(after, "333") || strings.Contains(before, "333") {
		t.Errorf("after a reload:\n%s", after)
	}
}

// Without a front, or with one that ends meanwhile, the launcher reloads alone: the next front reads the files itself.
func TestReloadWithoutAFront(t *testing.T) {
	h := newReloads(t)
	h.reads(func(l *Live) { l.Queue = 5 })
	if r := h.reload(); !r.Well() || h.l.now().Queue != 5 {
		t.Errorf("%+v", r)
	}
	h.client()
	h.reads(func(l *Live) { l.Queue = 6 })
	done := make(chan wire.Reloaded, 1)
	go func() {
		r, err := h.l.reload(context.Background(), nil)
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	h.until(func(m wire.Message) bool { return m.Reread != nil })
	h.raw.Close()
	select {
	case r := <-done:
		if !r.Well() || h.l.now().Queue != 6 {
			t.Errorf("%+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a front that is gone is waited for")
	}
}

// A front that says without end that it was sent SIGHUP has a reload a second, not more.
func TestSignalsOfTheFrontAreFew(t *testing.T) {
	h := newReloads(t)
	h.fails(errors.New("a fault"))
	var n atomic.Int32
	next := func() (Next, error) { n.Add(1); return Next{}, errors.New("a fault") }
	h.next.Store(&next)
	handle, _ := h.client()
	for range 2000 {
		if err := h.conn.Send(wire.Message{Signal: &wire.Signal{}}); err != nil {
			t.Fatal(err)
		}
	}
	if r := h.ask(handle); r.Capabilities == nil { // it is heard all the same
		t.Errorf("%+v", r)
	}
	time.Sleep(500 * time.Millisecond)
	if got := n.Load(); got < 1 || got > 3 {
		t.Errorf("%d reloads", got)
	}
}

// An order for a reload while one is under way is refused, unless it waits.
func TestOrdersOfReloads(t *testing.T) {
	h := newReloads(t)
	hold, held := make(chan struct{}), make(chan struct{}, 2)
	next := func() (Next, error) { held <- struct{}{}; <-hold; return Next{}, errors.New("a fault") }
	h.next.Store(&next)
	answers := make(chan wire.Answer, 2)
	go func() { answers <- h.l.operate(t.Context(), wire.Client{}, wire.Order{Reload: &wire.Reload{}}) }()
	<-held
	if a := h.l.operate(t.Context(), wire.Client{}, wire.Order{Reload: &wire.Reload{}}); a.Refused == nil || a.Refused.Code != "busy" {
		t.Errorf("%+v", a)
	}
	go func() {
		answers <- h.l.operate(t.Context(), wire.Client{}, wire.Order{Reload: &wire.Reload{Wait: true}})
	}()
	close(hold)
	for range 2 {
		if a := <-answers; a.Reloaded == nil || a.Reloaded.FaultsCount != 1 {
			t.Errorf("%+v", a)
		}
	}
}

// What an operator approves is what would be launched by the settings of then: a reload that changes nothing of that
// leaves an approval standing.
func TestAReloadWhileAScanWaitsForItsApproval(t *testing.T) {
	for _, c := range []struct {
		why    string
		change func(*house, *Live)
		code   string // of the refusal; empty: it is launched
	}{
		{"its box has another limit", func(_ *house, l *Live) { l.Limits.OpenFiles = 333 }, ""},
		{"its scanner is at another path", func(h *house, l *Live) {
			own := filepath.Join(filepath.Dir(h.cfg.FrontSocket), "nmap")
			program, err := os.ReadFile(l.Scanners["nmap"])
			if err := errors.Join(err, os.WriteFile(own, program, 0o755)); err != nil {
				h.t.Fatal(err)
			}
			l.Scanners = map[string]string{"nmap": own}
		}, "approval_stale"},
		{"its tool is left out", func(_ *house, l *Live) { l.Tools = runners.BuiltIn().Only(nil, []string{"nmap_scan"}) }, "tool_disabled"},
	} {
		t.Run(strings.ReplaceAll(c.why, " ", "_"), func(t *testing.T) {
			h := newReloads(t, func(h *house) {
				h.withOperators()
				h.engage("lab", toBeApproved)
			})
			handle, _ := h.clientAs(agentUID)
			exact := h.waits(handle, jobA)
			h.reads(func(l *Live) { c.change(h.house, l); l.Approvals = 2 * time.Minute })
			if r := h.reload(well, well); !r.Well() {
				t.Fatalf("%+v", r)
			}
			if a := h.ordered(adminUID, wire.Order{Approve: &wire.Approve{Job: jobA, Digest: exact.Digest}}); a.Refused != nil {
				t.Fatalf("%+v", a.Refused)
			}
			o := h.endOf(jobA).Outcome
			if got := o.Refused; (got == nil) != (c.code == "") || got != nil && got.Code != c.code || got == nil && o.Reason != wire.Exited {
				t.Errorf("%+v %+v", o, got)
			}
			if c.code == "tool_disabled" {
				return
			}
			if after := h.waits(handle, jobB).Expires; after.After(time.Now().Add(2*time.Minute)) || !after.Before(exact.Expires) {
				t.Errorf("the next one waits until %s, the first one did until %s", after, exact.Expires)
			}
		})
	}
}

// The grace of a stop is the one in force, but for stdio: who ends that is who asked for its scans.
func TestAStopHasTheGraceInForce(t *testing.T) {
	h := newReloads(t)
	handle, _ := h.client()
	h.running(handle, jobA, longScan)
	h.reads(func(l *Live) { l.Grace = 3 * time.Second })
	if r := h.reload(well, well); !r.Well() {
		t.Fatalf("%+v", r)
	}
	began := time.Now()
	stop, ended := h.stop, h.ended
	h.stop = nil
	stop()
	if o := h.endOf(jobA).Outcome; o.Reason != wire.Shutdown || time.Since(began) < 3*time.Second {
		t.Errorf("after %s: %+v", time.Since(began), o)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}

	l := &Launcher{cfg: Config{Stdio: &Stdio{}}, log: h.cfg.Log, service: health.NewService(h.cfg.Notify), changed: make(chan struct{}, 1),
		jobs: map[string]*job{jobA: {begun: true, record: wire.Job{ID: jobA, State: wire.Running}}}}
	l.inForce.Store(&Live{Grace: time.Minute})
	l.lastGrace()
	if by := l.jobs[jobA].snapshot().EndsBy; !by.IsZero() {
		t.Errorf("stdio's scan has until %s", by)
	}
}

// A scan of a declared tool whose declaration is another by the time it is launched is refused.
func TestADeclarationThatChangesWhileItsScanWaits(t *testing.T) {
	declared := func(text string) runners.Table {
		b, err := os.ReadFile("../../packaging/runners.d/fping_scan.yaml")
		if err != nil {
			t.Fatal(err)
		}
		d, faults := runners.ParseDeclaration("fping_scan.yaml", append(b, text...))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		return runners.BuiltIn().With(d)
	}
	l := &Launcher{}
	l.switches.dir = t.TempDir()
	of := declared("")
	call, faults := of.Read("fping_scan", []byte(`{"targets":["10.77.0.10"]}`))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for says, c := range map[string]struct {
		now  runners.Table
		code string
	}{
		"the same":  {declared(""), ""},
		"another":   {declared("# another\n"), "declaration_changed"},
		"none":      {runners.BuiltIn(), "declaration_changed"},
		"left out":  {of.Only(nil, []string{"fping_scan"}), "tool_disabled"},
		"the first": {of, ""},
	} {
		r := l.stillThere(&Live{Tools: c.now}, call)
		if got := ""; r != nil {
			if got = r.Code; got != c.code {
				t.Errorf("%s: %+v", says, r)
			}
		} else if c.code != "" {
			t.Errorf("%s is not refused", says)
		}
	}
}
