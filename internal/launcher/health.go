package launcher

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/sandbox"
)

// What this room looks at. Critical is what its restart mends, although it ends every scan that runs:
// its loops, and the filter that it holds. A full disk or a missing scanner it does not mend.
//
// What is looked at waits for no disk and no front under a lock that a critical check takes.

// checks are those of this room.
func (l *Launcher) checks() []health.Check {
	s := l.cfg.Health
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
	cpu, clock := &health.Processors{}, &health.Clock{}
	frontSince, known := time.Time{}, map[string]seenScanner{}
	return []health.Check{
		check("loop", health.Critical, beat, now(l.lookLoop)),
		check("filter", health.Critical, s.Every, l.lookFilter),
		check("audit", health.Important, s.Every, now(l.lookAudit)),
		check("records", health.Important, s.Every, now(l.lookRecords)),
		check("disk", health.Important, s.Every, now(l.lookDisk)),
		check("scanners", health.Important, s.Every, func(ctx context.Context) health.Finding { return l.lookScanners(ctx, known) }),
		check("slots", health.Important, s.Every, now(l.lookSlots)),
		check("protection", health.Important, s.Every, now(l.lookProtection)),
		check("cgroups", health.Important, s.Every, now(l.lookCgroups)),
		check("scope", health.Important, s.Every, now(l.lookScope)),
		check("engagements", health.Important, s.Every, now(func() health.Finding { return l.lookEngagements(time.Now()) })),
		check("front", health.Important, beat, now(func() health.Finding { return l.lookFront(&frontSince) })),
		check("breakers", health.Informational, s.Every, now(func() health.Finding { return l.lookBreakers(time.Now()) })),
		check("memory", health.Informational, s.Every, now(func() health.Finding { return health.Memory(s.Memory) })),
		check("processors", health.Informational, s.Every, now(func() health.Finding { return l.lookProcessors(cpu) })),
		check("pressure", health.Informational, s.Every, now(health.Pressure)),
		check("descriptors", health.Informational, s.Every, now(health.Descriptors)),
		check("clock", health.Informational, s.Every, now(clock.Look)),
	}
}

// Whoever accepts looks up at least every acceptTurn; acceptStill is too long to be that.
const (
	acceptTurn  = 5 * time.Second
	acceptStill = 30 * time.Second
)

// lookLoop takes the locks that everything takes. One that hangs is told by the time-out.
func (l *Launcher) lookLoop() health.Finding {
	l.mu.Lock()
	clients, jobs := len(l.clients), len(l.jobs)
	l.mu.Unlock()
	l.gate.Load()
	if still := l.accepting.Still(); l.cfg.Listener != nil && !l.isStopping() && still > acceptStill {
		return health.Ill("no client is accepted for %s", still.Round(time.Second))
	}
	return health.Well("%d clients, %d jobs", clients, jobs)
}

// filterAgain is how long a filter may be other than it was made: whoever watches it makes it anew.
const filterAgain = 3 * time.Second

func (l *Launcher) lookFilter(ctx context.Context) health.Finding {
	net, _ := l.slots.get()
	if net == nil {
		return health.Well("there is none: see scope")
	}
	for until := time.Now().Add(filterAgain); !net.Intact(); {
		if time.Now().After(until) {
			return health.Ill("the table of the scope filter is not as it was made, and is not made anew")
		}
		select {
		case <-ctx.Done():
			return health.Ill("the table of the scope filter is not as it was made")
		case <-time.After(100 * time.Millisecond):
		}
	}
	return health.Well("as it was made")
}

func (l *Launcher) lookAudit() health.Finding {
	if err := l.audit.Probe(); err != nil {
		return health.Ill("the audit log cannot be written (%s), so nothing is launched", cause(err))
	}
	if l.audit.Tampered() != "" {
		return health.Poor("it was tampered with while no launcher had it: `secmcpd audit verify`")
	}
	return health.Well("can be written")
}

// cause is the error of the system at the end of a chain, in its own few words.
func cause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

func (l *Launcher) lookRecords() health.Finding {
	if err := l.records.probe(); err != nil {
		return health.Ill("no record of a job can be kept (%s), so nothing is launched", cause(err))
	}
	return health.Well("can be written")
}

func (l *Launcher) lookDisk() health.Finding {
	return health.Disks(l.cfg.Health.Disk, Needs(l.cfg.StateDir, l.cfg.AuditDir, l.now().Limits.Output)...)
}

// Needs is what this room has to have free: for the outputs of one more scan, and for the record of it.
func Needs(state, audit string, output int64) []health.Need {
	return []health.Need{{Dir: state, Bytes: output + MinFree}, {Dir: audit, Bytes: MinFree}}
}

// seenScanner is a scanner's file as it was looked at.
type seenScanner struct{ stamp, sha256, first string }

// lookScanners looks at files, and starts none of them: their versions are known once somebody has asked.
func (l *Launcher) lookScanners(ctx context.Context, known map[string]seenScanner) health.Finding {
	if _, err := l.switched(); err != nil {
		return health.Ill("which tools are disabled cannot be read, so none is used")
	}
	f := health.Well("")
	var there, absent, broken, changed []string
	set := l.now()
	for _, t := range set.Tools.Tools() {
		if t.Off {
			continue
		}
		name := t.Scanner
		s, err := l.scanners.look(ctx, set, name, known[name])
		var said string
		switch {
		case err == nil:
			said = s.sha256
			if known[name].first != "" && s.sha256 != s.first {
				changed = append(changed, name)
			}
			if version := l.scanners.versionOf(ctx, name, s.stamp); version != "" {
				said = version + " " + said
			}
			known[name] = s
			there = append(there, name)
		case errors.Is(err, errNoPath), errors.Is(err, fs.ErrNotExist) && known[name].first == "" && slices.Contains(set.Assumed, name):
			said = "not installed"
			absent = append(absent, name)
		default:
			said = clip(err.Error())
			broken = append(broken, name)
		}
		f = f.With(name, said)
	}
	var parts []string
	for _, p := range []struct {
		says  string
		names []string
	}{{"cannot be used: ", broken}, {"", there}, {"changed since the start: ", changed}, {"not installed: ", absent}} {
		if len(p.names) > 0 {
			parts = append(parts, p.says+strings.Join(p.names, ", "))
		}
	}
	f.Message = strings.Join(parts, "; ")
	if len(broken) > 0 || len(there) == 0 {
		f.Status = health.Unhealthy
	}
	if len(there)+len(broken)+len(absent) == 0 {
		f.Message = "every tool is switched off"
	}
	return f
}

var errNoPath = errors.New("no path is configured")

// look is a scanner's file as it is: hashed again if it has changed since it was last seen.
func (s *scanners) look(ctx context.Context, set *Live, name string, last seenScanner) (seenScanner, error) {
	path := cmp.Or(set.Tools.Program(name), set.Scanners[name])
	if path == "" {
		return last, errNoPath
	}
	file, stamp, err := openScanner(path)
	if err != nil {
		return last, err
	}
	defer file.Close()
	if stamp == last.stamp {
		return last, nil
	}
	h := sha256.New()
	for at := int64(0); ctx.Err() == nil; {
		n, err := io.Copy(h, io.NewSectionReader(file, at, 1<<20))
		if err != nil {
			return last, fmt.Errorf("cannot read the scanner: %w", err)
		}
		if at += n; n == 0 || at > maxScanner {
			sum := hex.EncodeToString(h.Sum(nil))
			return seenScanner{stamp: stamp, sha256: sum, first: cmp.Or(last.first, sum)}, nil
		}
	}
	return last, ctx.Err()
}

// versionOf is what a scanner last said of itself, if it is still the same file.
func (s *scanners) versionOf(ctx context.Context, name, stamp string) string {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "" // somebody asks one just now
	case <-time.After(100 * time.Millisecond):
		return ""
	}
	if found := s.found[name]; found != nil && found.stamp == stamp {
		return found.said
	}
	return ""
}

// lookSlots: that all are taken is work. That one cannot be given to anybody is not.
func (l *Launcher) lookSlots() health.Finding {
	taken, waiting := l.gate.Load()
	switch slots := l.gate.Slots(); {
	case slots == 0:
		return health.Ill("scanners that could not be ended hold every slot: restart the launcher once they are gone")
	case slots < l.cfg.Slots:
		return health.Poor("scanners that could not be ended hold %d of %d slots", l.cfg.Slots-slots, l.cfg.Slots)
	default:
		return health.Well("%d of %d taken, %d wait", taken, slots, waiting)
	}
}

func (l *Launcher) lookProtection() health.Finding {
	f, features := health.Well("every layer is in force"), l.boxes.Features()
	f = f.With("kernel", fmt.Sprintf("Linux %d.%d, Landlock ABI %d, seccomp %v", features.Kernel[0], features.Kernel[1], features.LandlockABI, features.Seccomp))
	if gaps := l.gaps(); len(gaps) > 0 {
		f.Message = "accepted as missing: " + layersOf(gaps)
	}
	missing := slices.DeleteFunc(l.missing(l.now()), func(g wire.Gap) bool { return g.Layer == sandbox.Scope })
	if len(missing) > 0 {
		f.Status, f.Message = health.Unhealthy, "missing, so that scans are refused: "+layersOf(missing)
	}
	return f
}

func layersOf(gaps []wire.Gap) string {
	var layers []string
	for _, g := range gaps {
		layers = append(layers, g.Layer)
	}
	return strings.Join(layers, ", ")
}

func (l *Launcher) lookCgroups() health.Finding {
	if err := l.boxes.Delegated(); err != nil {
		return health.Ill("%s", clip(err.Error()))
	}
	f := l.boxes.Features()
	if f.Cgroup == "" {
		return health.Well("none is delegated: see protection")
	}
	return health.Well("%s has %s", f.Cgroup, cmp.Or(strings.Join(f.Controllers, " "), "no controller"))
}

// proof is what is known of the attack on the kernel's filter.
type proof struct {
	state string // one of those below
	at    time.Time
	lost  time.Time // when somebody else last changed it
}

const (
	proven   = "proven"
	unproven = "unproven"
)

// lostLately is how long a change by somebody else is told.
const lostLately = 10 * time.Minute

func (l *Launcher) lookScope() health.Finding {
	net, gap := l.slots.get()
	p := l.slots.proved()
	switch {
	case net == nil && gap == nil:
		return health.Ill("it is not there yet")
	case net == nil && slices.Contains(l.now().Accept, sandbox.Scope):
		return health.Well("not in force, as accept_unenforced says")
	case net == nil:
		return health.Ill("the kernel's scope filter is not in force: %s", gap.Why)
	}
	kind, _ := net.Filter()
	f := health.Well("attacked by ourselves, and let nothing through")
	switch {
	case p.state == unproven:
		f = health.Poor("unproven when the launcher started: nothing that was sent left this machine, or no answer came back; `secmcpd doctor` names the firewall; once that lets scans through, restart secmcpd-launcher.service")
	case !p.lost.IsZero() && time.Since(p.lost) < lostLately:
		f = health.Poor("somebody else changed it, and it was made anew; its scans were ended")
	}
	f = f.With("filter", kind).With("mode", string(l.cfg.Mode)).With("attacked", p.at.UTC().Format(time.RFC3339))
	if !p.lost.IsZero() {
		f = f.With("lost", p.lost.UTC().Format(time.RFC3339))
	}
	return f
}

// lookEngagements tells whether anybody may scan anything now.
func (l *Launcher) lookEngagements(now time.Time) health.Finding {
	p := l.judged()
	l.rules.mu.Lock()
	failed := l.rules.failed
	l.rules.mu.Unlock()
	var valid, expired int
	for _, e := range p.Engagements {
		switch {
		case p.Suspended[e.Name] != "":
		case !e.Expires.IsZero() && !now.Before(e.Expires):
			expired++
		default:
			valid++
		}
	}
	said := fmt.Sprintf("%d in force", valid)
	if expired > 0 {
		said += fmt.Sprintf(", %d expired", expired)
	}
	if n := len(p.Suspended); n > 0 {
		names := slices.Sorted(maps.Keys(p.Suspended))
		said += fmt.Sprintf(", %d with faults (%s): `secmcpd check`", n, strings.Join(names[:min(n, 4)], ", "))
	}
	switch {
	case valid == 0:
		return health.Ill("every scan is refused: %s", said)
	case failed != "":
		return health.Poor("%s, as they were: their directory can no longer be read", said)
	case len(p.Suspended) > 0:
		return health.Poor("%s", said)
	}
	return health.Well("%s", said)
}

// lookBreakers tells of those that refuse scans. The networks of targets are counted, not named.
func (l *Launcher) lookBreakers(now time.Time) health.Finding {
	b := l.breakers.told(now, l.now().Tools.Names())
	if !b.Enabled {
		return health.Well("switched off, as breakers.enabled says")
	}
	var refuse []string
	for _, t := range b.Tools {
		if t.State == string(policy.BreakerClosed) {
			continue
		}
		said := t.Name + " is " + strings.ReplaceAll(t.State, "_", " ")
		if t.Forced {
			said += ", by an operator"
		}
		refuse = append(refuse, said)
	}
	if n := b.Open + b.HalfOpen; n > 0 {
		refuse = append(refuse, number(n, "network")+" not closed")
	}
	if len(refuse) > 0 {
		return health.Poor("%s: `secmcpd breaker`", strings.Join(refuse, "; "))
	}
	return health.Well("all are closed")
}

// frontLate is how long clients may wait for a front.
const frontLate = 15 * time.Second

func (l *Launcher) lookFront(since *time.Time) health.Finding {
	switch {
	case l.linked():
		*since = time.Time{}
		return health.Well("connected")
	case !l.needsFront():
		*since = time.Time{}
		return health.Well("not needed: no client, no job")
	case since.IsZero():
		*since = time.Now()
	}
	if waits := time.Since(*since); waits > frontLate {
		return health.Ill("clients or results wait for a front that does not come, for %s", waits.Round(time.Second))
	}
	return health.Well("is being started")
}

// lookProcessors: scans are meant to use what they are given. What keeps the machine busy while none
// runs is something else.
func (l *Launcher) lookProcessors(p *health.Processors) health.Finding {
	percent, known := p.Look()
	taken, _ := l.gate.Load()
	switch {
	case !known:
		return health.Well("looked at from now on")
	case percent > l.cfg.Health.CPU && taken == 0:
		return health.Poor("%d%% busy, more than %d%%, and not with scans", percent, l.cfg.Health.CPU)
	}
	return health.Well("%d%% busy, %d scans run", percent, taken)
}

// healthNow is how this room is, for the front and for operators.
func (l *Launcher) healthNow() *wire.Health {
	if l.cfg.Health.Every == 0 {
		return nil
	}
	h := wire.HealthOf(l.health.Report())
	if r := l.closed(); r != nil { // no check fails, and a scan is refused all the same
		h.Ready = false
		if h.Status == string(health.Healthy) {
			h.Status = string(health.Degraded)
		}
		h.Reasons = firstOf(slices.Insert(h.Reasons, 0, "drain: "+r.Reason), wire.MaxReasons)
	}
	return h
}

// line is what `systemctl status` shows.
func (l *Launcher) line() string {
	if line := l.drainLine(); line != "" {
		return line
	}
	if l.cfg.Health.Every == 0 {
		return l.filterLine()
	}
	running, waiting := l.gate.Load()
	l.mu.Lock()
	clients := len(l.clients)
	l.mu.Unlock()
	does := fmt.Sprintf("%s running, %d queued; %s", number(running, "scan"), waiting, number(clients, "client"))
	r := l.health.Report()
	if slices.ContainsFunc(r.Checks, func(s health.Seen) bool { return s.Name == "engagements" && s.Status == health.Healthy }) {
		does += "; engagements ok"
	}
	return r.Line(does)
}

// looked is called whenever something was looked at: the line of status is made anew, and the front
// is told, also one that would not be there, when this room becomes ready or no longer is.
func (l *Launcher) looked() {
	l.service.Changed()
	r := l.health.Report()
	if slices.ContainsFunc(r.Checks, func(s health.Seen) bool { return s.At.IsZero() }) {
		return // the first round is under way
	}
	if l.wasReady.Swap(r.Ready) != r.Ready {
		l.news.Store(true)
		l.want()
		l.stateChanged()
		if r.Ready {
			l.log.Info("ready for scans", journal.Key, journal.Ready)
		} else {
			l.log.Warn("not ready for scans", journal.Key, journal.NotReady, "why", strings.Join(firstOf(r.Reasons, wire.MaxReasons), "; "))
		}
	}
}

func number(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
