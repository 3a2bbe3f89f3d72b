package front

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// What this room looks at. Critical is what its restart mends, which costs no scan: its loops, and
// its own connection to the database.

// checks are those of this room.
func (f *front) checks() []health.Check {
	s := f.cfg.Health
	if s.Every == 0 {
		return nil
	}
	beat := min(health.Beat, s.Every)
	check := func(name string, p health.Priority, every time.Duration, run func(context.Context) health.Finding) health.Check {
		return health.Check{Name: name, Priority: p, Every: every, Timeout: s.Timeout, Run: run}
	}
	now := func(run func() health.Finding) func(context.Context) health.Finding {
		return func(context.Context) health.Finding { return run() }
	}
	answered, alone := time.Now(), time.Time{}
	return []health.Check{
		check("loop", health.Critical, beat, now(f.lookLoop)),
		check("database", health.Critical, beat, func(ctx context.Context) health.Finding { return f.lookAnswers(ctx, &answered) }),
		check("store", health.Important, s.Every, f.lookStore),
		check("disk", health.Important, s.Every, now(f.lookDisk)),
		check("launcher", health.Important, beat, now(func() health.Finding { return f.lookLauncher(&alone) })),
		check("memory", health.Informational, s.Every, now(func() health.Finding { return health.Memory(s.Memory) })),
		check("pressure", health.Informational, s.Every, now(health.Pressure)),
		check("descriptors", health.Informational, s.Every, now(health.Descriptors)),
		check("metrics", health.Informational, s.Every, now(f.lookMetrics)),
	}
}

// Whoever accepts looks up at least every acceptTurn; acceptStill is too long to be that.
const (
	acceptTurn  = 5 * time.Second
	acceptStill = 20 * time.Second
)

// lookLoop takes the lock that everything takes. One that hangs is told by the time-out.
func (f *front) lookLoop() health.Finding {
	f.mu.Lock()
	sessions, jobs := len(f.sessions), len(f.jobs)
	f.mu.Unlock()
	if still := f.accepting.Still(); f.cfg.Listener != nil && still > acceptStill {
		return health.Ill("no launcher is accepted for %s", still.Round(time.Second))
	}
	return health.Well("%d sessions, %d jobs under way", sessions, jobs)
}

// databasePatience is how long the database may be busy with one thing: a large result takes seconds, on a
// slow machine more. Longer than that it is held by somebody who has forgotten it.
const databasePatience = 2 * time.Minute

func (f *front) lookAnswers(ctx context.Context, answered *time.Time) health.Finding {
	if f.store.Answers(ctx) {
		*answered = time.Now()
		return health.Well("answers")
	}
	busy := time.Since(*answered).Round(time.Second)
	if busy > databasePatience {
		return health.Ill("does not answer for %s", busy)
	}
	return health.Well("busy for %s", busy)
}

func (f *front) lookStore(ctx context.Context) health.Finding {
	err := f.store.Probe(ctx)
	switch {
	case err == nil:
		return health.Well("can be written, and is whole as far as was looked")
	case errors.Is(err, store.ErrDamaged):
		f.looksDamaged(err)
		return health.Ill("the database is damaged: the front ends, and its next start sets it aside")
	case ctx.Err() != nil:
		return health.Poor("busy")
	case errors.Is(err, store.ErrDiskFull):
		return health.Ill("jobs and results cannot be kept: no space left")
	}
	var staged interface{ Stage() string }
	if errors.As(err, &staged) {
		return health.Ill("jobs and results cannot be kept: %s", staged.Stage())
	}
	return health.Ill("jobs and results cannot be kept")
}

func (f *front) lookDisk() health.Finding {
	return health.Disks(f.cfg.Health.Disk, health.Need{Dir: f.cfg.StateDir, Bytes: f.now().Keep.Free})
}

// The launcher says how it is every five seconds: silent for launcherSilent, or wanted and away for
// launcherAway, it is not there.
const (
	launcherSilent = 20 * time.Second
	launcherAway   = 15 * time.Second
)

func (f *front) lookLauncher(alone *time.Time) health.Finding {
	l := f.launcher()
	if l == nil {
		jobs := len(f.underWayAll())
		if jobs == 0 {
			*alone = time.Time{}
			return health.Well("not connected: it comes with an agent")
		}
		if alone.IsZero() {
			*alone = time.Now()
		}
		if away := time.Since(*alone); away > launcherAway {
			return health.Ill("%d jobs wait for the launcher, which is away for %s", jobs, away.Round(time.Second))
		}
		return health.Well("%d jobs wait for it", jobs)
	}
	*alone = time.Time{}
	l.mu.Lock()
	silent := time.Since(l.spoke)
	l.mu.Unlock()
	if silent > launcherSilent {
		return health.Ill("connected, and silent for %s", silent.Round(time.Second))
	}
	return health.Well("connected")
}

// metricsLate is how old the file of metrics may be, at least; and four times of what it is written every.
const metricsLate = time.Minute

func (f *front) lookMetrics() health.Finding {
	if f.now().Metrics == "" {
		return health.Well("no file is written, as metrics.textfile says")
	}
	info, err := os.Stat(f.now().Metrics)
	if err != nil {
		return health.Poor("the file is not there: make its directory, or set metrics.textfile to \"\"")
	}
	if age := time.Since(info.ModTime()); age > max(metricsLate, 4*f.now().Every) {
		return health.Poor("the file was last written %s ago", age.Round(time.Second))
	}
	return health.Well("written lately")
}

// looked is called whenever something was looked at: the log is told when this room is no longer ready, or is
// again.
func (f *front) looked() {
	f.service.Changed()
	r := f.health.Report()
	if slices.ContainsFunc(r.Checks, func(s health.Seen) bool { return s.At.IsZero() }) || f.wasReady.Swap(r.Ready) == r.Ready {
		return
	}
	if r.Ready {
		f.log.Info("ready for scans", journal.Key, journal.Ready)
		return
	}
	f.log.Warn("not ready for scans", journal.Key, journal.NotReady, "why", strings.Join(r.Reasons[:min(len(r.Reasons), wire.MaxReasons)], "; "))
}

// line is what `systemctl status` shows.
func (f *front) line() string {
	queued, running := f.underWayNow()
	f.mu.Lock()
	sessions, connected := len(f.sessions), f.link != nil
	f.mu.Unlock()
	does := fmt.Sprintf("%s; %s running, %d queued", number(sessions, "session"), number(running, "job"), queued)
	if !connected {
		does += "; no launcher"
	}
	return f.health.Report().Line(does)
}

func number(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// healthAnswer is the answer of /healthz, /readyz and /livez.
type healthAnswer struct {
	Status    string                 `json:"status"` // healthy, degraded, unhealthy: of both rooms
	Ready     bool                   `json:"ready"`  // both
	Live      bool                   `json:"live"`   // both
	Timestamp time.Time              `json:"timestamp"`
	Reasons   []string               `json:"reasons,omitempty"` // the worst first, with the room before it
	Checks    map[string]healthCheck `json:"checks"`            // by ROOM.NAME
	Summary   map[string]int         `json:"summary"`           // how many of each status
	History   []healthChange         `json:"history,omitempty"` // of the front, the newest last
}

type healthCheck struct {
	Status   string            `json:"status"`
	Message  string            `json:"message"`
	Priority string            `json:"priority"`
	Duration float64           `json:"duration"` // seconds
	Age      float64           `json:"age"`      // seconds since it was looked at; -1: not yet
	Metadata map[string]string `json:"metadata,omitempty"`
}

type healthChange struct {
	At      time.Time `json:"at"`
	Status  string    `json:"status"`
	Ready   bool      `json:"ready"`
	Live    bool      `json:"live"`
	Reasons []string  `json:"reasons,omitempty"`
}

// shownHistory is how many changes an answer has.
const shownHistory = 10

// healthNow is how both rooms are, by what each last found. Of a launcher that is not connected
// nothing is known, and its absence is no fault while nobody needs it.
func (f *front) healthNow() healthAnswer {
	now := time.Now()
	a := healthAnswer{Status: string(health.Healthy), Ready: true, Live: true, Timestamp: now.UTC(), Checks: map[string]healthCheck{},
		Summary: map[string]int{string(health.Healthy): 0, string(health.Degraded): 0, string(health.Unhealthy): 0}}
	a.add("front", wire.HealthOf(f.health.Report()), now)
	if s := f.launcherState(); s != nil && s.Health != nil {
		a.add("launcher", s.Health, now)
	}
	changes := f.health.History()
	for _, c := range changes[max(len(changes)-shownHistory, 0):] {
		a.History = append(a.History, healthChange{c.At.UTC(), string(c.Status), c.Ready, c.Live, c.Reasons})
	}
	return a
}

func (a *healthAnswer) add(room string, h *wire.Health, now time.Time) {
	rank := map[string]int{string(health.Degraded): 1, string(health.Unhealthy): 2}
	if rank[h.Status] > rank[a.Status] {
		a.Status = h.Status
	}
	at := len(a.Reasons)
	if a.Ready && !h.Ready {
		at = 0 // what a room that is ready finds can wait
	}
	a.Ready, a.Live = a.Ready && h.Ready, a.Live && h.Live
	for i, r := range h.Reasons {
		a.Reasons = slices.Insert(a.Reasons, at+i, room+" "+r)
	}
	for _, c := range h.Checks {
		age := -1.0
		if !c.At.IsZero() {
			age = max(now.Sub(c.At).Seconds(), 0)
		}
		a.Checks[room+"."+c.Name] = healthCheck{c.Status, c.Message, c.Priority, float64(c.DurationMS) / 1000, age, c.Metadata}
		a.Summary[c.Status]++
	}
}

// healthz answers 200 where both rooms are healthy, 207 degraded, 503 unhealthy. With ?live it is livez.
func (f *front) healthz(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("live") {
		f.livez(w, r)
		return
	}
	a := f.healthNow()
	answerHealth(w, map[string]int{string(health.Degraded): http.StatusMultiStatus, string(health.Unhealthy): http.StatusServiceUnavailable}[a.Status], a)
}

// readyz answers 200 where a scan may be asked for now, and 503 with the reasons where not.
func (f *front) readyz(w http.ResponseWriter, _ *http.Request) {
	a := f.healthNow()
	answerHealth(w, codeOf(a.Ready), a)
}

// livez answers 503 where a restart of the front would mend it. Of a launcher that hangs its own
// watchdog takes care, and no restart of the front.
func (f *front) livez(w http.ResponseWriter, _ *http.Request) {
	live := f.health.Report().Live
	answerHealth(w, codeOf(live), map[string]bool{"live": live})
}

func codeOf(well bool) int {
	if well {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// answerHealth answers with a code; 0 is 200. Nothing on the way keeps it: it is about now.
func answerHealth(w http.ResponseWriter, code int, v any) {
	if code == 0 {
		code = http.StatusOK
	}
	w.Header().Set("Cache-Control", "no-store")
	answerJSON(w, code, v)
}
