package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/view"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
)

// How the daemon is, in one word.
const (
	isWell     = "well"
	isDegraded = "degraded" // it works, and something is worth a look
	isDown     = "down"     // a room that is needed cannot be asked
)

// statusCommand says how both rooms are, on one screen.
func statusCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "how the daemon is, and what it does", Args: noArgs,
		Long: `How both rooms of the daemon are, who is connected, what runs and waits, and what is worth a look.
A front that idles is not woken for it.

Exit status: 0 all is well; 1 a room that is needed is down; 3 something is worth a look.`,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := s.look(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = s.printJSON(r)
			} else {
				_, err = io.WriteString(s.stdout, r.page(screenOf(s.stdout), time.Now(), userName))
			}
			if err != nil {
				return err
			}
			return r.exit()
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// statusReport is what both rooms say, and what follows.
type statusReport struct {
	Is      string   `json:"is"`      // well, degraded, down
	Reasons []string `json:"reasons"` // why it is not well
	// Launcher and Front are what the rooms say; null where they cannot be asked, or the front idles.
	Launcher      *wire.State  `json:"launcher"`
	LauncherError string       `json:"launcher_error,omitempty"`
	Front         *view.Status `json:"front"`
	FrontError    string       `json:"front_error,omitempty"`
	FrontIdle     bool         `json:"front_idle"`
}

// lookTimeout bounds what one room is waited for.
const lookTimeout = 5 * time.Second

// look asks both rooms. Faulty settings are an error, and so is to be nobody who may ask: that a room does not
// answer is an answer.
func (s *surroundings) look(ctx context.Context) (statusReport, error) {
	var r statusReport
	settings, err := loadSettings(s.config)
	if err != nil {
		return r, err
	}
	one, done := context.WithTimeout(ctx, lookTimeout)
	a, err := s.launcherAsk(one, wire.Order{Look: &wire.Look{}})
	done()
	if errors.Is(err, fs.ErrPermission) { // who may not ask learns nothing, also not that it is down
		return r, err
	} else if err != nil {
		r.LauncherError = err.Error()
	} else {
		r.Launcher = a.State
	}
	// Without anything under way the front may have ended until somebody needs it. This is not somebody.
	if l := r.Launcher; l != nil && !l.Front && l.Clients+l.Running+l.Waiting == 0 {
		r.FrontIdle = true
		r.judge(settings.AcceptUnenforced)
		return r, nil
	}
	one, done = context.WithTimeout(ctx, lookTimeout)
	defer done()
	var front view.Status
	if err := s.frontGet(one, "/v1/status", &front); err != nil {
		r.FrontError = err.Error()
	} else {
		r.Front = &front
	}
	r.judge(settings.AcceptUnenforced)
	return r, nil
}

// judge says what follows from what the rooms say. Layers that may be missing are told, and are no reason.
func (r *statusReport) judge(accepted []string) {
	r.Is, r.Reasons = isWell, []string{}
	worse := func(is, reason string) {
		if r.Is != isDown {
			r.Is = is
		}
		r.Reasons = append(r.Reasons, reason)
	}
	if r.LauncherError != "" {
		worse(isDown, firstLine(r.LauncherError))
	}
	if r.FrontError != "" {
		worse(isDown, firstLine(r.FrontError))
	}
	for _, g := range r.gaps() {
		if !slices.Contains(accepted, g.Layer) {
			worse(isDegraded, "not enforced: "+g.Layer+": "+g.Why)
		}
	}
	for _, h := range []struct {
		room string
		is   *wire.Health
	}{{"launcher", r.launcherHealth()}, {"front", r.frontHealth()}} {
		if h.is == nil || h.is.Status == string(health.Healthy) {
			continue
		}
		is := isDegraded
		if h.is.Status == string(health.Unhealthy) {
			is = isDown // it does not do what it is for
		}
		for _, why := range h.is.Reasons {
			if !strings.HasPrefix(why, "breakers: ") && !strings.HasPrefix(why, "drain: ") { // below, with more
				worse(is, h.room+": "+why)
			}
		}
	}
	if l := r.Launcher; l != nil {
		for _, b := range notClosed(l.Breakers) {
			worse(isDegraded, brokenIn(b))
		}
		if n := l.PendingCount; n > 0 {
			wait := "wait for"
			if n == 1 {
				wait = "waits for"
			}
			worse(isDegraded, plural(n, "scan")+" "+wait+" an approval: secmcpd approve")
		}
		if l.Draining != nil {
			worse(isDegraded, "no new scan is taken: the launcher drains, and "+plural(l.Unfinished, "scan")+" left")
		}
		if l.Replaced {
			worse(isDegraded, "another version is installed, and waits for the scans that are under way")
		}
		if more := l.Breakers.Open + l.Breakers.HalfOpen - len(l.Breakers.Networks); more > 0 {
			worse(isDegraded, fmt.Sprintf("%s more are refused: secmcpd breaker list", plural(more, "network")))
		}
	}
	if f := r.Front; f != nil {
		for _, why := range f.NotReady {
			worse(isDegraded, why)
		}
		if l := r.Launcher; l != nil && l.Version != f.Version {
			worse(isDegraded, "the rooms are of different versions: restart both units")
		}
	}
}

func (r *statusReport) launcherHealth() *wire.Health {
	if r.Launcher == nil {
		return nil
	}
	return r.Launcher.Health
}

func (r *statusReport) frontHealth() *wire.Health {
	if r.Front == nil {
		return nil
	}
	return r.Front.Health
}

// notClosed are the breakers that refuse, or try.
func notClosed(all wire.Breakers) []wire.Breaker {
	return slices.DeleteFunc(append(slices.Clone(all.Tools), all.Networks...), func(b wire.Breaker) bool { return b.State == "closed" })
}

// brokenIn is a breaker that is not closed, in words.
func brokenIn(b wire.Breaker) string {
	text := "breaker of " + b.Name + " is " + strings.ReplaceAll(b.State, "_", " ")
	switch {
	case b.Forced:
		text += ", by an operator"
	case b.Reason != "":
		text += " after " + b.Reason
	}
	if b.RetryAfterS > 0 {
		text += fmt.Sprintf(", for %s more", short(time.Duration(b.RetryAfterS)*time.Second))
	}
	return text
}

// gaps are what both rooms cannot enforce.
func (r *statusReport) gaps() (all []wire.Gap) {
	if r.Launcher != nil {
		all = r.Launcher.Gaps
	}
	if r.Front != nil {
		for _, g := range r.Front.Gaps {
			if !slices.ContainsFunc(all, func(other wire.Gap) bool { return other.Layer == g.Layer }) {
				all = append(slices.Clip(all), g)
			}
		}
	}
	return all
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// exit is the exit status that says the same.
func (r *statusReport) exit() error {
	switch r.Is {
	case isDown:
		return exitError{exitFailed, nil}
	case isDegraded:
		return exitError{exitWarned, nil}
	}
	return nil
}

// userName is what a user is called on this machine.
func userName(uid uint32) string {
	text := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}

// page is the screen for people.
func (r *statusReport) page(sc screen, now time.Time, name func(uid uint32) string) string {
	t := &table{screen: sc}
	how := map[string]style{isWell: green, isDegraded: yellow, isDown: red}[r.Is]
	t.row(cell{"secmcpd", strong}, cell{r.Is, how})
	for _, why := range r.Reasons {
		t.row("", cell{why, how})
	}
	r.rooms(t, now, name)
	var b strings.Builder
	b.WriteString(t.String())
	if f := r.Front; f != nil {
		b.WriteString(jobsTable(sc, "under way", r.placed(f.Jobs), now, name))
		if more := f.Queued + f.Running - len(f.Jobs); more > 0 && len(f.Jobs) > 0 {
			fmt.Fprintf(&b, "and %d more: secmcpd jobs\n", more)
		}
		b.WriteString(jobsTable(sc, "ended last", f.Ended, now, name))
	}
	return b.String()
}

func (r *statusReport) rooms(t *table, now time.Time, name func(uid uint32) string) {
	if l := r.Launcher; l != nil {
		ready := ""
		if l.Health != nil {
			ready = map[bool]string{false: ", not ready", true: ", ready"}[l.Health.Ready]
		}
		t.row("launcher", fmt.Sprintf("%s, for %s%s", l.Version, short(now.Sub(l.Since)), ready))
		t.row("scans", fmt.Sprintf("%d of %d slots taken, %d waiting", l.Running, l.Slots, l.Waiting))
		budget := fmt.Sprintf("%d packets/s reserved", l.Reserved)
		if l.Budget > 0 {
			budget = fmt.Sprintf("%d of %d packets/s reserved", l.Reserved, l.Budget)
		}
		if l.Filter != "" {
			budget += ", filter " + l.Filter
		}
		t.row("network", budget)
	} else {
		t.row("launcher", cell{"down", red})
	}
	if gaps := r.gaps(); len(gaps) > 0 {
		var layers []string
		for _, g := range gaps {
			layers = append(layers, g.Layer)
		}
		t.row("without", strings.Join(layers, ", "))
	}
	f := r.Front
	switch {
	case r.FrontIdle:
		t.row("front", "idle: nothing is under way, and it starts when somebody connects")
		return
	case f == nil:
		t.row("front", cell{"down", red})
		return
	case f.Ready:
		t.row("front", fmt.Sprintf("%s, for %s, ready", f.Version, short(now.Sub(f.Since))))
	default:
		t.row("front", fmt.Sprintf("%s, for %s, not ready", f.Version, short(now.Sub(f.Since))))
	}
	var users []string
	for _, u := range f.Users {
		users = append(users, fmt.Sprintf("%s %d", name(u.UID), u.Sessions))
	}
	clients := plural(f.Sessions, "session")
	if len(users) > 0 {
		clients += ": " + strings.Join(users, ", ")
	}
	t.row("clients", clients)
	for _, h := range f.HTTP {
		listens := cell{text: "listens at " + h.Address}
		if h.Refused != "" {
			listens = cell{"refuses at " + h.Address + ": " + h.Refused, yellow}
		}
		t.row("http", listens)
	}
	space := cell{text: fmt.Sprintf("%s of %s kept, %s free", size(f.Space.Kept), size(f.Space.Allowed), size(f.Space.Free))}
	if f.Space.Free < f.Space.Reserved {
		space.how = red
	}
	t.row("results", space)
}

// placed says of each job that waits where it stands, as far as the launcher tells.
func (r *statusReport) placed(jobs []view.Job) []view.Job {
	jobs = slices.Clone(jobs)
	if r.Launcher == nil {
		return jobs
	}
	for i := range jobs {
		for _, a := range r.Launcher.Pending {
			if a.Job == jobs[i].JobID {
				jobs[i].Reason = "waits for an approval"
			}
		}
		for place, w := range r.Launcher.Queue {
			if w.Job == jobs[i].JobID {
				jobs[i].Reason = fmt.Sprintf("place %d", place+1)
				if w.AboutS >= 0 {
					jobs[i].Reason += ", begins in about " + short(time.Duration(w.AboutS)*time.Second)
				}
			}
		}
	}
	return jobs
}

// stateStyles are how states stand out.
var stateStyles = map[string]style{"running": green, "queued": yellow, "completed": green, "partial": yellow, "truncated": yellow, "failed": red,
	"refused": faint, "cancelled": faint, "interrupted": red}

// jobsTable is jobs in a list; empty for none.
func jobsTable(sc screen, title string, jobs []view.Job, now time.Time, name func(uid uint32) string) string {
	if len(jobs) == 0 {
		return ""
	}
	t := &table{screen: sc}
	if title != "" {
		t.rows = append(t.rows, nil, []cell{{title, strong}})
	}
	head := []cell{}
	for _, word := range []string{"JOB", "USER", "TOOL", "ENGAGEMENT", "STATE", "", "AGE", "TARGETS"} {
		head = append(head, cell{word, faint})
	}
	t.rows = append(t.rows, head)
	for _, j := range jobs {
		t.row(j.JobID, name(j.UID), j.Tool, j.Engagement, cell{j.State, stateStyles[j.State]}, howFar(j, now), short(now.Sub(j.Created)), targetsOf(j))
	}
	return t.String()
}

// howFar is what there is to say of a job beside its state.
func howFar(j view.Job, now time.Time) string {
	switch {
	case j.Progress != nil:
		text := fmt.Sprintf("%.0f %%", j.Progress.Percent)
		switch {
		case j.Progress.RemainingS > 0:
			text += ", " + short(time.Duration(j.Progress.RemainingS)*time.Second) + " left"
		case !j.Deadline.IsZero():
			text += ", ends in " + short(j.Deadline.Sub(now)) + " at the latest"
		}
		return text
	case j.Found != nil && j.Found.Words > 0:
		return strings.TrimPrefix(fmt.Sprintf("%s, %d found", j.Reason, j.Found.Words), ", ")
	case j.Found != nil:
		return strings.TrimPrefix(fmt.Sprintf("%s, %d up, %d open", j.Reason, j.Found.HostsUp, j.Found.OpenPorts), ", ")
	}
	return j.Reason
}

func targetsOf(j view.Job) string {
	text := strings.Join(j.Targets, " ")
	if more := j.TargetCount - len(j.Targets); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// anyUser reads a user's name or number.
func anyUser(text string) (uint32, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(text)
	if err != nil {
		return 0, errors.New("there is no such user; a number needs none")
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

// states are those that a list of jobs can be narrowed to.
var states = []string{"queued", "running", "completed", "partial", "truncated", "cancelled", "failed", "refused", "interrupted"}

func knownState(text string) bool { return text == "" || slices.Contains(states, text) }
