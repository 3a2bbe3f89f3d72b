package front

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
)

// findsIt is a front of which each check found this.
func findsIt(t *testing.T, findings map[health.Priority]health.Finding) *front {
	t.Helper()
	var checks []health.Check
	for p, f := range findings {
		checks = append(checks, health.Check{Name: string(p), Priority: p, Every: time.Minute, Timeout: time.Second, Run: func(context.Context) health.Finding { return f }})
	}
	f := &front{health: health.New(time.Second, nil, checks...), service: health.NewService(func(string) {})}
	f.health.Round(t.Context())
	return f
}

func TestTheEndpointsAnswerByHowBothRoomsAre(t *testing.T) {
	well, poor, ill := health.Well("fine"), health.Poor("so so"), health.Ill("broken")
	type findings = map[health.Priority]health.Finding
	launcher := func(status health.Status, live, ready bool, reasons ...string) *wire.Health {
		return &wire.Health{Status: string(status), Live: live, Ready: ready, Reasons: reasons,
			Checks: []wire.HealthCheck{{Name: "audit", Status: string(status), Priority: "important", Message: "the log", At: time.Now(), DurationMS: 250, Metadata: map[string]string{"a": "b"}}}}
	}
	for _, test := range []struct {
		says                 string
		findings             findings
		launcher             *wire.Health
		healthz, readyz, liv int
		status, reasons      string
	}{
		{"all is well, and no launcher is there", findings{health.Critical: well}, nil, 200, 200, 200, "healthy", ""},
		{"all is well in both", findings{health.Critical: well}, launcher(health.Healthy, true, true), 200, 200, 200, "healthy", ""},
		{"the front is so so", findings{health.Critical: well, health.Informational: poor}, launcher(health.Healthy, true, true), 207, 200, 200, "degraded", "front informational: so so"},
		{"the front has a full disk", findings{health.Critical: well, health.Important: ill}, nil, 207, 503, 200, "degraded", "front important: broken"},
		{"the front hangs", findings{health.Critical: ill}, launcher(health.Healthy, true, true), 503, 503, 503, "unhealthy", "front critical: broken"},
		{"the launcher cannot write its log", findings{health.Critical: well}, launcher(health.Degraded, true, false, "audit: full"), 207, 503, 200, "degraded", "launcher audit: full"},
		{"the launcher hangs", findings{health.Critical: well, health.Informational: poor}, launcher(health.Unhealthy, false, false, "loop: hangs"), 503, 503, 200, "unhealthy", "launcher loop: hangs|front informational: so so"},
	} {
		f := findsIt(t, test.findings)
		if test.launcher != nil {
			f.link = &link{state: &wire.State{Health: test.launcher}}
		}
		ask := func(handler http.HandlerFunc, query string) (int, map[string]any) {
			t.Helper()
			w := httptest.NewRecorder()
			handler(w, httptest.NewRequest(http.MethodGet, "/x"+query, nil))
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %v, %v: %s", test.says, err, w.Header(), w.Body)
			}
			return w.Code, body
		}
		code, body := ask(f.healthz, "")
		var reasons []string
		list, _ := body["reasons"].([]any)
		for _, r := range list {
			reasons = append(reasons, fmt.Sprint(r))
		}
		if code != test.healthz || body["status"] != test.status || strings.Join(reasons, "|") != test.reasons {
			t.Errorf("%s: /healthz answers %d, %v", test.says, code, body)
		}
		if test.launcher != nil {
			c := at(body, "checks", "launcher.audit")
			if at(c, "status") != test.launcher.Status || at(c, "duration") != 0.25 || at(c, "priority") != "important" || at(c, "metadata", "a") != "b" || at(c, "age").(float64) > 60 {
				t.Errorf("%s: %v", test.says, c)
			}
		}
		if code, body := ask(f.readyz, ""); code != test.readyz || body["ready"] != (code == 200) {
			t.Errorf("%s: /readyz answers %d, %v", test.says, code, body)
		}
		for _, live := range []func() (int, map[string]any){func() (int, map[string]any) { return ask(f.livez, "") }, func() (int, map[string]any) { return ask(f.healthz, "?live") }} {
			if code, body := live(); code != test.liv || body["live"] != (code == 200) {
				t.Errorf("%s: liveness answers %d, %v", test.says, code, body)
			}
		}
	}
}

func TestALauncherThatIsNeededAndAwayIsTold(t *testing.T) {
	f := &front{jobs: map[string]*job{}}
	var alone time.Time
	if got := f.lookLauncher(&alone); got.Status != health.Healthy {
		t.Errorf("nobody needs it: %+v", got)
	}
	f.jobs["a"] = &job{}
	if got := f.lookLauncher(&alone); got.Status != health.Healthy || alone.IsZero() {
		t.Errorf("at first: %+v", got)
	}
	alone = time.Now().Add(-launcherAway - time.Second)
	if got := f.lookLauncher(&alone); got.Status != health.Unhealthy {
		t.Errorf("then: %+v", got)
	}
	f.link = &link{spoke: time.Now()}
	if got := f.lookLauncher(&alone); got.Status != health.Healthy || !alone.IsZero() {
		t.Errorf("it has come: %+v", got)
	}
	f.link.spoke = time.Now().Add(-launcherSilent - time.Second)
	if got := f.lookLauncher(&alone); got.Status != health.Unhealthy || !strings.HasPrefix(got.Message, "connected, and silent for") {
		t.Errorf("it is silent: %+v", got)
	}
}

func TestAFileOfMetricsThatIsLateIsTold(t *testing.T) {
	f := &front{}
	f.inForce.Store(&Live{})
	if got := f.lookMetrics(); got.Status != health.Healthy {
		t.Errorf("none is written: %+v", got)
	}
	f.now().Metrics = filepath.Join(t.TempDir(), "secmcpd.prom")
	if got := f.lookMetrics(); got.Status != health.Degraded {
		t.Errorf("it is not there: %+v", got)
	}
	if err := os.WriteFile(f.now().Metrics, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := f.lookMetrics(); got.Status != health.Healthy {
		t.Errorf("it was written just now: %+v", got)
	}
	old := time.Now().Add(-metricsLate - time.Second)
	if err := os.Chtimes(f.now().Metrics, old, old); err != nil {
		t.Fatal(err)
	}
	if got := f.lookMetrics(); got.Status != health.Degraded {
		t.Errorf("it is old: %+v", got)
	}
}

// A database that is busy is not one that hangs, and one that hangs is not waited for.
func TestADatabaseThatIsBusyIsAlive(t *testing.T) {
	h := newHouse(t)
	answered := time.Now().Add(-time.Hour)
	if got := h.front.lookAnswers(t.Context(), &answered); got.Status != health.Healthy || time.Since(answered) > time.Minute {
		t.Errorf("%+v", got)
	}
	if got := h.front.lookStore(t.Context()); got.Status != health.Healthy {
		t.Errorf("%+v", got)
	}
	ctx, done := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer done()
	<-ctx.Done() // as if it had been waited for
	if got := h.front.lookAnswers(ctx, &answered); got.Status != health.Healthy || !strings.HasPrefix(got.Message, "busy for") {
		t.Errorf("%+v", got)
	}
	answered = time.Now().Add(-databasePatience - time.Second)
	if got := h.front.lookAnswers(ctx, &answered); got.Status != health.Unhealthy {
		t.Errorf("%+v", got)
	}
	if got := h.front.lookStore(ctx); got.Status != health.Degraded || got.Message != "busy" {
		t.Errorf("%+v", got)
	}
}
