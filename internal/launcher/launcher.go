// Package launcher is the privileged room: it accepts clients, decides by the engagements, and
// owns audit, gate, outputs and boxes. It never reads a byte that an agent or a scanner wrote;
// what the front sends it is small, typed, bounded, and judged again.
package launcher

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/policy"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/sandbox"
	"github.com/secmcpd/secmcpd/sandbox/scope"
)

// Config is what the launcher is told at its start. It has no defaults: main gives them.
type Config struct {
	Version     string
	Listener    *net.UnixListener // mcp.sock; nil in stdio
	Operators   *net.UnixListener // launcher-admin.sock; nil: none
	Bell        *net.UnixListener // by which the front asks to be connected; nil: it cannot
	FrontSocket string            // path of the front's socket
	Front       *net.UnixConn     // stdio: the front is a child, already connected
	Stdio       *Stdio            // stdio: the one caller

	StateDir       string // the launcher's own, 0700
	AuditDir       string
	EngagementsDir string
	TokenFiles     []string // of who may come over HTTP

	FrontUID     uint32          // never a caller
	Slots        int             // scans at once
	FirstSlotUID uint32          // Slots+3 uids from here belong to boxes
	Mode         scope.Mode      // how scans leave this machine
	NoBPF        bool            // nf_tables alone is the filter
	SlotsV4      netip.Prefix    // addresses of the slots' links
	SlotsV6      netip.Prefix    //
	Interface    string          // of the segment that slots stand on, in the mode scope.L2
	Hurry        <-chan struct{} // closed: no grace any more
	Replaced     func() bool     // another version of this program is there; nil: not looked at
	Gaps         []wire.Gap      // what main could not give (stdio without root)

	Live Live
	// Reload reads the configuration again; nil: it is never read again. See Next.
	Reload func() (Next, error)
	Hangup <-chan os.Signal // each asks for a reload; nil: none does

	Health   health.Settings
	Watchdog time.Duration // after which systemd restarts this room; 0: it does not

	Log    *slog.Logger
	Notify func(state string) // sd_notify
}

// Live is what of the configuration a reload changes while scans run. It is taken once for each
// decision, so that none is made by a half of one and a half of another; nothing in it is changed.
type Live struct {
	Tools     runners.Table     // the scanners that there are
	Queue     int               // scans that may wait
	Budget    int               // packets a second of all scans together; 0: no bound
	Resolvers []netip.AddrPort  // empty: the machine's own
	Scanners  map[string]string // name to path
	Assumed   []string          // scanners whose paths nobody configured: that one is not there is no fault
	PerTool   map[string]int    // scans of a tool at once; one that is not named has no bound of its own
	Wordlists []string          // directories
	Limits    Limits            // of each scan
	Together  sandbox.Total     // of all
	Breakers  Breakers
	Accept    []string      // layers that may be missing
	Grace     time.Duration // that running scans have when the launcher is stopped
	Approvals time.Duration // that a scan waits for its approval, at most
}

// now is what is in force.
func (l *Launcher) now() *Live { return l.inForce.Load() }

// Limits bound each scan's box.
type Limits struct {
	Memory     int64         // bytes
	Pids       int           // processes and threads
	CPUPercent int           // of one processor
	CPUTime    time.Duration // in all
	IO         int64         // bytes a second from each disk, and to it
	Output     int64         // bytes of standard output and error together
	Tmp        int64         // bytes of /tmp
	OpenFiles  int
}

// Stdio is the one caller of `secmcpd stdio`.
type Stdio struct {
	In, Out *os.File
	Caller  wire.Client
}

func (c *Config) stdio() bool { return c.Stdio != nil }

// isSlotUID reports whether a uid belongs to a box; after the scans' come the resolver's, that of
// whatever is asked for its version, and that of doctor's proofs.
func (c *Config) isSlotUID(uid uint32) bool {
	return uid >= c.FirstSlotUID && uid-c.FirstSlotUID <= uint32(c.Slots)+2
}

func (c *Config) dialFront(ctx context.Context) (*net.UnixConn, error) {
	if c.Front != nil {
		return c.Front, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", c.FrontSocket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the front: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// Launcher is the privileged room while it runs.
type Launcher struct {
	cfg       Config
	inForce   atomic.Pointer[Live]
	reloading chan struct{} // has room for one
	hangup    chan struct{} // holds one: somebody was sent SIGHUP
	log       *slog.Logger
	instance  string
	audit     *observability.Audit
	records   *records
	reserved  space // of the disk of the outputs
	rules     rules
	gate      *policy.Gate
	boxes     *sandbox.Sandbox
	slots     slots
	netTried  chan struct{}         // closed: the slots' network has been tried, once
	bringNet  func(context.Context) // openNet, but for tests
	scanners  scanners
	wordlists wordlists
	switches  switches
	breakers  *breakers
	tempo     tempo
	logins    logins
	servers   func() ([]netip.AddrPort, error) // of names, where the configuration has none
	starts    *allowance                       // scans asked for
	looks     *allowance                       // previews and capabilities
	names     *allowance                       // names to be resolved
	unheard   unheard
	hangups   *hangups
	wanted    chan struct{} // a front is needed
	changed   chan struct{} // holds one: the state is not what the front was told
	since     time.Time
	health    *health.Runner
	service   *health.Service
	accepting health.Turn // of the loop that accepts clients
	wasReady  atomic.Bool
	news      atomic.Bool // the front is to hear that this room is ready, or no longer is
	stop      func()      // ends serve
	link      link
	deciding  sync.Mutex     // one verdict at a time
	resolving *policy.Gate   // one box for names at a time
	smallSeq  atomic.Uint64  // our own small boxes
	answering sync.WaitGroup // requests of the front, which may outlive its connection
	// smallAlive says that something of a small box may still run under its uid.
	smallAlive atomic.Bool

	mu         sync.Mutex
	clients    map[uint64]*client
	rung       bool // the front has asked to be connected
	jobs       map[string]*job
	pending    map[string]*awaited // jobs that wait for an approval, by id
	requests   map[uint32]int      // under way, by uid
	lastHandle uint64
	ending     bool
	draining   *wire.Draining // nil: new scans are taken
	replaced   bool
	copied     bool           // see program; guarded by the place in resolving
	running    sync.WaitGroup // jobs under way; added to under mu, while not ending
}

// Serve runs the launcher until ctx ends, then ends its jobs, tells the front and returns.
func Serve(ctx context.Context, cfg Config) error {
	l, err := open(cfg)
	if err != nil {
		return err
	}
	defer l.close()
	return l.serveFrom(ctx)
}

// serveFrom begins where the launcher before ended.
func (l *Launcher) serveFrom(ctx context.Context) error {
	if found := l.audit.Tampered(); found != "" {
		l.log.Error("the audit log was tampered with while no launcher had it", journal.Key, journal.AuditTampered, "dir", l.cfg.AuditDir, "found", found)
	}
	if err := l.audit.Note(observability.Record{Event: observability.Started}); err != nil {
		return err
	}
	l.log.Info("started", journal.Key, journal.Started, "version", l.cfg.Version, "instance", l.instance)
	if err := l.recover(); err != nil {
		return err
	}
	if err := l.openBreakers(); err != nil {
		return err
	}
	if err := l.learnMachine(); err != nil {
		return err
	}
	l.judged() // reads the engagements for the first time
	l.tokensNow()
	if _, err := l.switched(); err != nil { // told already
		l.log.Error("no tool is used", "why", err)
	}
	err := l.serve(ctx)
	l.tellUnheard(time.Now(), true)
	l.tellFailed(time.Now(), true)
	return errors.Join(err, l.audit.Note(observability.Record{Event: observability.Stopped}))
}

// serve runs the tasks of the launcher. They end in order: no new client, then the jobs, then
// the front hears of it, then the rest.
func (l *Launcher) serve(ctx context.Context) error {
	rest, endRest := context.WithCancel(context.WithoutCancel(ctx))
	defer endRest()
	ctx, l.stop = context.WithCancel(ctx)
	defer l.stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.hangups.run(l.disconnect) })
	g.Go(func() error { return l.followRules(rest) })
	g.Go(func() error { return l.followMachine(rest) })
	g.Go(func() error { return l.followProgram(ctx) })
	g.Go(func() error { return l.followFilter(rest) })
	g.Go(func() error { return l.followBreakers(rest) })
	g.Go(func() error { return l.keepLinked(rest) })
	g.Go(func() error { return l.accept(ctx) })
	g.Go(func() error { return l.acceptOperators(rest) })
	g.Go(func() error { return l.tellState(rest) })
	g.Go(func() error {
		if l.knowsFilter(rest) == nil {
			l.service.Ready()
			l.health.Run(rest)
		}
		return nil
	})
	g.Go(func() error { l.service.Run(rest, l.line); return nil })
	g.Go(func() error {
		l.service.Feed(rest, l.cfg.Watchdog, func() bool { return l.health.Report().Live })
		return nil
	})
	g.Go(func() error { return l.hearBell(ctx) })
	g.Go(func() error { return l.followHangups(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		l.lastGrace()
		l.log.Info("stopping", journal.Key, journal.Stopping)
		l.service.Stopping()
		l.endAll()
		l.farewell()
		endRest()
		l.hangups.close()
		return nil
	})
	l.want()
	err := g.Wait()
	l.answering.Wait()
	return err
}

// open makes what the launcher stands on. The boxes that a predecessor left are removed before anything new is made;
// its links and filter are by tryNet, before there are others.
func open(cfg Config) (_ *Launcher, err error) {
	l := &Launcher{cfg: cfg, log: cfg.Log, instance: newInstance(), lastHandle: randomHandle(),
		reloading: make(chan struct{}, 1), hangup: make(chan struct{}, 1),
		rules:   rules{dir: cfg.EngagementsDir, lookup: Lookup(cfg.Live.Tools), print: "never read"},
		gate:    policy.NewGate(cfg.Slots, cfg.Live.Queue, cfg.Live.Budget),
		clients: map[uint64]*client{}, jobs: map[string]*job{}, pending: map[string]*awaited{}, requests: map[uint32]int{},
		servers: Resolvers, wanted: make(chan struct{}, 1), netTried: make(chan struct{}), changed: make(chan struct{}, 1), since: time.Now(), resolving: policy.NewGate(1, maxRecords, 0)}
	l.starts, l.looks, l.names = newAllowance(startsBurst, startsPerSecond), newAllowance(looksBurst, looksPerSecond), newAllowance(namesBurst, namesPerSecond)
	l.inForce.Store(&cfg.Live)
	l.scanners = scanners{turn: make(chan struct{}, 1), found: map[string]*scanner{}, ask: l.runVersion}
	l.bringNet = l.openNet
	l.switches.dir = cfg.StateDir
	l.gate.PerTool(cfg.Live.PerTool)
	l.gate.OnChange(l.stateChanged)
	l.breakers = newBreakers(cfg.Live.Breakers, cfg.StateDir, cfg.Log)
	l.service = health.NewService(cfg.Notify)
	l.health = health.New(cfg.Health.Timeout, l.looked, l.checks()...)
	l.accepting.Came()
	l.wasReady.Store(true)
	l.logins = logins{paths: cfg.TokenFiles, never: l.cfg.Never, failures: rate.NewLimiter(failuresPerSecond, failuresBurst)}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.audit, err = observability.OpenAudit(cfg.AuditDir, time.Now); err != nil {
		return nil, err
	}
	if l.records, err = openRecords(cfg.StateDir); err != nil {
		return nil, err
	}
	if err = l.forgetProgram(); err != nil {
		return nil, err
	}
	if l.boxes, err = sandbox.Open(sandbox.Config{Accept: ofTheBox(cfg.Live.Accept), Total: cfg.Live.Together}); err != nil {
		return nil, err
	}
	if err = l.boxes.Reclaim(); err != nil {
		return nil, err
	}
	if l.hangups, err = newHangups(); err != nil {
		return nil, err
	}
	return l, nil
}

// ofTheBox are the layers among those accepted that the box knows; others are the rooms'.
func ofTheBox(accept []string) (layers []string) {
	for _, layer := range accept {
		if slices.Contains(sandbox.Layers, layer) {
			layers = append(layers, layer)
		}
	}
	return layers
}

// maxReady is how many links are kept for scans to come; more than that at once wait for theirs.
const maxReady = 8

// slots is the network of them. It may come later than the launcher, and stays then.
type slots struct {
	mu    sync.Mutex
	net   *scope.Net // nil: gap says why
	gap   *wire.Gap
	proof proof
}

func (n *slots) proved() proof {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proof
}

// attacked notes how the attack on the filter ended, whose network is set next.
func (n *slots) attacked(state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proof = proof{state: state, at: time.Now(), lost: n.proof.lost}
}

func (n *slots) lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proof.lost = time.Now()
}

func (n *slots) get() (*scope.Net, *wire.Gap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.net, n.gap
}

func (n *slots) set(net *scope.Net, gap *wire.Gap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.net, n.gap = net, gap
}

// openNet prepares the slots' network. Without it scans are refused, unless the layer's absence
// is accepted; the daemon itself stays up to say so, and tries again.
func (l *Launcher) openNet(ctx context.Context) {
	net, err := l.tryNet(ctx)
	if err == nil {
		l.slots.set(net, nil)
		l.service.Status(l.filterLine())
		l.service.Changed()
		return
	}
	if ctx.Err() != nil {
		return // it was not tried to the end
	}
	why := clip(err.Error())
	if _, gap := l.slots.get(); gap == nil || gap.Why != why {
		l.log.Error("the kernel's scope filter is not in force; it is tried again until it is", journal.Key, journal.ScopeMissing, "why", err)
	}
	l.slots.set(nil, &wire.Gap{Layer: sandbox.Scope, Why: why, Follows: "nothing in the kernel keeps a scanner within its targets"})
	l.service.Status(l.filterLine())
	l.service.Changed()
}

// filterLine is the line of status before anything was looked at.
func (l *Launcher) filterLine() string {
	net, gap := l.slots.get()
	switch {
	case net != nil:
		kind, _ := net.Filter()
		return "the kernel keeps scans within their scopes, by " + kind
	case gap != nil:
		return "the kernel's scope filter is not in force: " + gap.Why
	}
	return "starting"
}

func (l *Launcher) tryNet(ctx context.Context) (*scope.Net, error) {
	// Whoever may not use nf_tables does not keep one from it who may.
	if err := scope.Supported(); err != nil {
		return nil, err
	}
	if err := scope.Reclaim(l.cfg.SlotsV4, l.cfg.SlotsV6); err != nil {
		return nil, err
	}
	net, err := scope.Open(scope.Config{V4: l.cfg.SlotsV4, V6: l.cfg.SlotsV6, Mode: l.cfg.Mode, Interface: l.cfg.Interface, NoBPF: l.cfg.NoBPF, Ready: min(l.cfg.Slots, maxReady),
		Failed: func(err error) { l.log.Error("not all is well with the slots' network", "why", err) }})
	if err != nil {
		return nil, err
	}
	if err := l.proveFilter(ctx, net); err != nil {
		return nil, errors.Join(err, net.Close())
	}
	return net, nil
}

// proveFilter attacks the filter before any scanner can. One that lets anything through is not used.
func (l *Launcher) proveFilter(ctx context.Context, net *scope.Net) error {
	if kind, without := net.Filter(); without != nil {
		l.log.Warn("the kernel's scope filter is nf_tables alone", "filter", kind, "why", without)
	}
	ctx, done := context.WithTimeout(ctx, proofTimeout)
	defer done()
	err := net.Prove(ctx)
	switch {
	case err == nil:
		l.log.Info("the kernel's scope filter was attacked and let nothing through")
		l.slots.attacked(proven)
		return nil
	case errors.Is(err, scope.ErrUnproven):
		l.log.Error("nothing that a scan sends leaves this machine, or no answer comes back: another firewall drops it, most likely; `secmcpd doctor` names it", "why", err)
		l.slots.attacked(unproven)
		return nil
	}
	return err
}

// proofTimeout bounds the attack on the filter at the start.
const proofTimeout = 10 * time.Second

func (l *Launcher) close() {
	if net, _ := l.slots.get(); net != nil {
		if err := net.Close(); err != nil {
			l.log.Error("cannot take the slots' network down", "why", err)
		}
	}
	if l.boxes != nil {
		if err := l.boxes.Close(); err != nil {
			l.log.Error("cannot close the sandbox", "why", err)
		}
	}
	if l.audit != nil {
		if err := l.audit.Close(); err != nil {
			l.log.Error("cannot close the audit log", "why", err)
		}
	}
}

// recover reads the records of a predecessor. What was under way when it died is interrupted:
// its boxes died with it, its output is where it was.
func (l *Launcher) recover() error {
	kept, removed, unread, err := l.records.load()
	if err != nil {
		return err
	}
	for _, b := range unread {
		if err := l.putAside(b); err != nil {
			return err
		}
	}
	for _, id := range removed {
		l.log.Warn("a record that was cut off is removed", "job", fmt.Sprintf("%.40q", id))
	}
	for _, r := range kept {
		j := &job{record: r, caller: wire.Client{UID: r.UID}, begun: true, audited: true}
		l.jobs[r.ID] = j
		if r.State == wire.Ended {
			continue
		}
		detail := "the launcher died; its boxes died with it"
		switch {
		case r.Approval.Waits():
			detail = "the launcher was started anew while it waited for an operator's approval; nothing was sent"
		case r.State == wire.Queued:
			detail = "the launcher died before the scan began; no scanner was started"
		}
		j.record.State, j.record.Outcome = wire.Ended, &wire.Outcome{Reason: wire.Interrupted, Ended: time.Now(), Detail: detail}
		if err := l.audit.Note(j.entry(observability.Interrupted)); err != nil {
			return err
		}
		if err := l.records.write(j.record); err != nil {
			return err
		}
	}
	return nil
}

// putAside takes a record that cannot be read out of the way, with the outputs beside it, and
// tells the operator where they are. Audit first: what is moved is on the record.
func (l *Launcher) putAside(b unreadable) error {
	r := observability.Record{Event: observability.Unreadable, Reason: clip(fmt.Sprintf("%.40q: %s", b.name, b.why))}
	if wire.ValidJobID(b.name) {
		r.Job = b.name
	}
	if err := l.audit.Note(r); err != nil {
		return err
	}
	to, err := l.records.setAside(b.name, time.Now())
	if err != nil {
		return err
	}
	l.log.Error("a job's record cannot be read; it is put aside with its outputs", journal.Key, journal.RecordSetAside, "job", fmt.Sprintf("%.40q", b.name), "why", b.why, "to", to)
	return nil
}

// endAll ends every job and waits until nothing of it runs.
func (l *Launcher) endAll() {
	l.mu.Lock()
	l.ending = true
	l.mu.Unlock()
	for _, j := range l.all() {
		j.stop(errShutdown)
	}
	l.running.Wait()
}

func (l *Launcher) isEnding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

// farewellTime is how long the front is given to take what has ended. What it does not take is
// kept in the records.
const farewellTime = 3 * time.Second

func (l *Launcher) farewell() {
	for until := time.Now().Add(farewellTime); time.Now().Before(until) && l.linked() && len(l.all()) > 0; {
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *Launcher) all() []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*job, 0, len(l.jobs))
	for _, j := range l.jobs {
		out = append(out, j)
	}
	return out
}

func (l *Launcher) knows(j *job) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.jobs[j.record.ID] == j
}

// learnMachine tells policy what this machine's own addresses are: nothing lifts those.
func (l *Launcher) learnMachine() error {
	own, broadcast, bridges, err := scope.Machine()
	if err != nil {
		return fmt.Errorf("cannot tell this machine's own addresses: %w", err)
	}
	slots := []netip.Prefix{l.cfg.SlotsV4}
	if l.cfg.SlotsV6.IsValid() {
		slots = append(slots, l.cfg.SlotsV6)
	}
	l.rules.machine(policy.Machine{Own: own, Broadcast: broadcast, Bridges: bridges, Slots: slots, Budget: l.now().Budget})
	return nil
}

func (l *Launcher) followMachine(ctx context.Context) error {
	return scope.Watch(ctx, func() {
		if err := l.learnMachine(); err != nil {
			l.log.Error("the machine's addresses are no longer followed", "why", err)
			return
		}
		l.rejudge()
	})
}

// The first and the longest pause between two tries to have the slots' network.
const (
	netAgain  = 2 * time.Second
	netAtMost = 30 * time.Second
)

// knowsFilter waits until the slots' network has been tried for the first time. Until then agents are let
// in, and listed what there is; whatever comes of a scan is not begun, nothing is said of the filter, and this
// room is not ready.
func (l *Launcher) knowsFilter(ctx context.Context) error {
	select {
	case <-l.netTried:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// followFilter makes the slots' network, and watches over the kernel's filter as long as scans may run. Their
// slots tell them.
func (l *Launcher) followFilter(ctx context.Context) error {
	l.bringNet(ctx)
	if ctx.Err() != nil {
		return nil // stopped meanwhile: nothing is known of the filter, and nobody is told that this room is ready
	}
	close(l.netTried)
	l.stateChanged()
	net, _ := l.slots.get()
	for pause := netAgain; net == nil; pause = min(2*pause, netAtMost) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		l.openNet(ctx)
		net, _ = l.slots.get()
	}
	return net.Watch(ctx, func(what, err error) {
		l.log.Error("scans whose scope is no longer held are ended", journal.Key, journal.ScopeLost, "why", what)
		if err != nil {
			l.log.Error("what follows from that did not go well", "why", err)
		}
		l.note(observability.Record{Event: observability.ScopeLost, Reason: clip(what.Error())})
		l.slots.lose()
	})
}

func newInstance() string { return rand.Text() }

// randomHandle starts the handles of this life at a random place, so that a handle of an
// earlier life is not by accident one of this one.
func randomHandle() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return binary.BigEndian.Uint64(b[:]) >> 2
}
