package launcher

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
)

// looks is a launcher that does nothing but look.
func looks(t *testing.T) *Launcher {
	l := &Launcher{cfg: Config{Slots: 2, Health: health.Settings{Every: time.Minute, Timeout: time.Second, CPU: 100, Memory: 100, Disk: 100}},
		gate: policy.NewGate(2, 8, 0), clients: map[uint64]*client{}, jobs: map[string]*job{}, wanted: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	l.inForce.Store(&Live{})
	l.accepting.Came()
	return l
}

// All slots taken and a queue that waits is work. A slot that can be given to nobody is not.
func TestABusyLauncherIsHealthy(t *testing.T) {
	l := looks(t)
	ctx, stop := context.WithCancel(t.Context())
	var leave []func()
	for range 2 {
		_, l, err := l.gate.Enter(ctx, 1, policy.Share{})
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	waiting := make(chan struct{})
	go func() { _, _, _ = l.gate.Enter(ctx, 1, policy.Share{}); close(waiting) }()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, n := l.gate.Load(); n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	if f := l.lookSlots(); f.Status != health.Healthy || f.Message != "2 of 2 taken, 1 wait" {
		t.Errorf("%+v", f)
	}
	l.cfg.Health.CPU = -1 // whatever is used is more
	p := &health.Processors{}
	l.lookProcessors(p)
	time.Sleep(50 * time.Millisecond)
	if f := l.lookProcessors(p); f.Status != health.Healthy {
		t.Errorf("while scans run: %+v", f)
	}
	stop()
	<-waiting
	for _, l := range leave {
		l()
	}
	time.Sleep(50 * time.Millisecond)
	if f := l.lookProcessors(p); f.Status != health.Degraded || !strings.Contains(f.Message, "not with scans") {
		t.Errorf("while none runs: %+v", f)
	}
	l.gate.Withhold(0)
	if f := l.lookSlots(); f.Status != health.Degraded {
		t.Errorf("a slot is withheld: %+v", f)
	}
	l.gate.Withhold(1)
	if f := l.lookSlots(); f.Status != health.Unhealthy {
		t.Errorf("all are withheld: %+v", f)
	}
}

// A loop that hangs on a lock is told by its time-out, and nobody waits for it.
func TestALockThatIsNeverGivenBackIsNotLive(t *testing.T) {
	l := looks(t)
	checks := l.checks()[:1]
	if checks[0].Name != "loop" || checks[0].Priority != health.Critical {
		t.Fatalf("%+v", checks[0])
	}
	r := health.New(time.Second, nil, checks...)
	l.mu.Lock()
	r.Round(t.Context())
	if now := r.Report(); now.Live || !strings.Contains(now.Reasons[0], "no answer within 1s") {
		t.Errorf("%+v", now)
	}
	l.mu.Unlock()
}

// The link's lock is held while a front that hangs is written to, and no critical check waits for it;
// nor for the disk of audit log and records, of which one look may hang.
func TestNoCriticalCheckWaitsForFrontOrDisk(t *testing.T) {
	l := looks(t)
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	l.deciding.Lock()
	defer l.deciding.Unlock()
	var critical []health.Check
	for _, c := range l.checks() {
		if c.Priority == health.Critical {
			critical = append(critical, c)
		}
	}
	if len(critical) != 2 {
		t.Fatalf("%d critical checks", len(critical))
	}
	r := health.New(time.Second, nil, critical...)
	r.Round(t.Context())
	if now := r.Report(); !now.Live {
		t.Errorf("%+v", now)
	}
	if line := func() string { l.health = r; return l.line() }(); !strings.HasPrefix(line, "0 scans running, 0 queued; 0 clients") {
		t.Errorf("%q", line)
	}
}

func TestEngagementsAreCounted(t *testing.T) {
	now := time.Now()
	with := func(suspended map[string]string, engagements ...policy.Engagement) *Launcher {
		l := looks(t)
		l.rules.dir = t.TempDir()
		l.rules.print = fingerprint(l.rules.dir)
		l.rules.policy = policy.Policy{Engagements: engagements, Suspended: suspended}
		return l
	}
	valid, old := policy.Engagement{Name: "valid"}, policy.Engagement{Name: "old", Expires: now.Add(-time.Second)}
	for _, test := range []struct {
		l      *Launcher
		status health.Status
		says   string
	}{
		{with(nil), health.Unhealthy, "every scan is refused: 0 in force"},
		{with(nil, valid), health.Healthy, "1 in force"},
		{with(nil, valid, old), health.Healthy, "1 in force, 1 expired"},
		{with(nil, old), health.Unhealthy, "every scan is refused: 0 in force, 1 expired"},
		{with(map[string]string{"new": "line 1"}, valid), health.Degraded, "1 in force, 1 with faults (new): `secmcpd check`"},
		{with(map[string]string{"valid": "line 1"}, valid), health.Unhealthy, "every scan is refused: 0 in force, 1 with faults (valid): `secmcpd check`"},
	} {
		if f := test.l.lookEngagements(now); f.Status != test.status || f.Message != test.says {
			t.Errorf("%+v, want %s %q", f, test.status, test.says)
		}
	}
}

func TestABreakerThatRefusesIsTold(t *testing.T) {
	l := looks(t)
	now := time.Now()
	l.inForce.Store(&Live{Tools: runners.BuiltIn()})
	l.breakers = newBreakers(Breakers{}, t.TempDir(), slog.New(slog.DiscardHandler))
	if f := l.lookBreakers(now); f.Status != health.Healthy || !strings.HasPrefix(f.Message, "switched off") {
		t.Errorf("%+v", f)
	}
	l.breakers.cfg.Load().Enabled = true
	if f := l.lookBreakers(now); f.Status != health.Healthy || f.Message != "all are closed" {
		t.Errorf("%+v", f)
	}
	l.breakers.force(now, breakerKey{tool: "nmap_scan"}, true, time.Hour)
	l.breakers.force(now, breakerKey{network: netip.MustParsePrefix("192.0.2.0/24")}, true, time.Hour)
	if f := l.lookBreakers(now); f.Status != health.Degraded || f.Message != "nmap_scan is open, by an operator; 1 network not closed: `secmcpd breaker`" {
		t.Errorf("%+v", f)
	}
}

// Clients wait for a front: for a while that is a start, then it is told.
func TestAFrontThatDoesNotComeIsTold(t *testing.T) {
	l := looks(t)
	var since time.Time
	if f := l.lookFront(&since); f.Status != health.Healthy || !since.IsZero() {
		t.Errorf("nobody needs it: %+v", f)
	}
	l.clients[1] = &client{}
	if f := l.lookFront(&since); f.Status != health.Healthy || since.IsZero() {
		t.Errorf("at first: %+v", f)
	}
	since = time.Now().Add(-frontLate - time.Second)
	if f := l.lookFront(&since); f.Status != health.Unhealthy {
		t.Errorf("then: %+v", f)
	}
	delete(l.clients, 1)
	if f := l.lookFront(&since); f.Status != health.Healthy || !since.IsZero() {
		t.Errorf("they have gone: %+v", f)
	}
}

// What the launcher says of its health fits in a message, whatever its checks say.
func TestTheHealthFitsInAMessage(t *testing.T) {
	wide := health.Well("%s", strings.Repeat("m", 1000))
	for i := range 100 {
		wide = wide.With(strings.Repeat("k", 200)+string(rune('a'+i%26))+string(rune('a'+i/26)), strings.Repeat("v", 1000))
	}
	var checks []health.Check
	for range 100 {
		checks = append(checks, health.Check{Name: "processors", Priority: health.Important, Every: time.Minute, Timeout: time.Minute,
			Run: func(context.Context) health.Finding { return wide }})
	}
	r := health.New(time.Minute, nil, checks...)
	r.Round(t.Context())
	h := wire.HealthOf(r.Report())
	b, err := wire.Encode(&wire.Message{State: &wire.State{Health: h}}, wire.MaxMessage)
	if err != nil || len(h.Checks) != health.MaxChecks || len(b) > wire.MaxMessage/2 {
		t.Errorf("%d checks in %d bytes: %v", len(h.Checks), len(b), err)
	}
	if n := len(looks(t).checks()); n > health.MaxChecks {
		t.Errorf("%d checks, of which %d are run", n, health.MaxChecks)
	}
}

// A scanner's file is hashed once and again when it changes; that it changed is remembered.
func TestAScannersFileIsLookedAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nmap")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	set := &Live{Scanners: map[string]string{"nmap": path}}
	s := scanners{turn: make(chan struct{}, 1), found: map[string]*scanner{}}
	first, err := s.look(t.Context(), set, "nmap", seenScanner{})
	if err != nil || len(first.sha256) != 64 || first.first != first.sha256 {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := s.look(t.Context(), set, "nmap", first); err != nil || again != first {
		t.Errorf("%+v, %v", again, err)
	}
	write("another")
	other, err := s.look(t.Context(), set, "nmap", first)
	if err != nil || other.sha256 == first.sha256 || other.first != first.sha256 {
		t.Errorf("%+v, %v", other, err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := s.look(t.Context(), set, "nmap", other); err == nil {
		t.Error("a file that others may write is taken")
	}
	if v := s.versionOf(t.Context(), "nmap", other.stamp); v != "" {
		t.Errorf("its version is %q, and nobody asked", v)
	}
}
