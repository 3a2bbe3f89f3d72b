// Package front is the room that faces agents. It has no privilege: it parses what agents and
// scanned hosts say, keeps jobs and results, and asks the launcher for everything else.
//
//	launcher ── link.go ──► sessions.go (one per client) ──► tools.go ──► jobs.go ──► reply.go
//	                  └──► jobs.go: records and outputs of running scans ──► store
package front

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sync/errgroup"

	mcpsession "github.com/secmcpd/secmcpd/internal/session"
	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/health"
	"github.com/secmcpd/secmcpd/observability/journal"
	"github.com/secmcpd/secmcpd/observability/metrics"
	"github.com/secmcpd/secmcpd/runners"
)

// Config is what the front is told at its start.
type Config struct {
	Listener *net.UnixListener // where the launcher connects; nil in stdio
	Link     *net.UnixConn     // stdio: the launcher is the parent
	Admin    *net.UnixListener // admin.sock; nil: none
	HTTP     []Listener        // for MCP and more over HTTP, by token; none: not there
	Hosts    []string          // by which a request over HTTP may call this machine, beside localhost
	Origins  []string          // of pages that may make one
	Bell     string            // path of the socket by which the launcher is asked to connect; "": it cannot be
	IdleExit time.Duration     // without a session or a job, until the front ends; 0: it stays
	StateDir string
	Live     Live
	Version  string
	Health   health.Settings
	Watchdog time.Duration // after which systemd restarts this room; 0: it does not
	Log      *slog.Logger
	Notify   func(state string) // sd_notify
	Replaced func() bool        // another version of this program is there; nil: not looked at
	// Reload reads the configuration again; nil: it is never read again.
	Reload func() (Next, error)
	Hangup <-chan os.Signal // each asks for a reload; nil: none does
	// Grace is how long after the end of the launcher's connection what its jobs have written is
	// kept here, too. How they ended is for the next one to say.
	Grace time.Duration
}

// Live is what of the configuration a reload changes while the front serves. It is taken once for each
// call, so that none is answered by halves of two; nothing in it is changed.
type Live struct {
	Tools   runners.Table // the scanners that there are
	Metrics string        // the file for node_exporter; "": none
	Every   time.Duration // between two of its writings, unless a job ends
	Keep    store.Limits
}

// front is the room while it runs.
type front struct {
	cfg     Config
	log     *slog.Logger
	store   *store.Store
	inForce atomic.Pointer[Live]
	names   atomic.Pointer[[]string] // of the tools that there are, also of those that are no scanners
	server  *mcp.Server
	// The tools and schemas that are offered, by name, as JSON; guarded by rereading once Serve has begun.
	offers, schemas map[string]string
	rereading       sync.Mutex
	asRead          *Next // what the launcher had us read, until it says what becomes of it
	speaker         *mcpsession.Speaker
	gaps            []wire.Gap // what it could not enforce about itself

	ctx     context.Context // ends with Serve
	stop    func()          // ends it
	running sync.WaitGroup  // sessions and jobs; added to under mu while not closing

	sealer cipher.AEAD   // of what clients keep for us; its key is this process's
	term   time.Duration // that a call may take: what a user may take to answer, and what is waited for then

	statuses statuses
	damaged  chan error // holds one: the store is not what was written
	events   *events
	links    atomic.Int32 // connections of launchers
	resting  atomic.Bool  // the launcher is asked to let go

	loggingIn  chan struct{} // has room for one: a token is being asked for, or handles are left
	beyondOnce sync.Once     // it was told that a listener is refused

	health    *health.Runner
	service   *health.Service
	accepting health.Turn // of the loop that accepts the launcher
	wasReady  atomic.Bool

	counted   chan struct{} // holds one: a job has ended since metrics were written
	metrics   *metrics.Registry
	tally     tally
	heard     atomic.Pointer[wire.State] // what a launcher said last; it may be gone
	keeping   sync.Mutex                 // one job's result at a time is put into the store: each may be large
	pruning   sync.Mutex
	exporting chan struct{} // has room for one: a result in one of its forms is large while it is written
	comparing chan struct{} // has room for one: a scan_diff that reads results
	searching chan struct{} // has room for one: a result_query that reads what jobs looked at

	mu       sync.Mutex
	closing  bool
	since    time.Time
	link     *link // nil: no launcher
	jobs     map[string]*job
	sessions map[uint64]*session
	bearers  map[uint64]*bearer            // callers by token, by their handles
	byToken  map[[sha256.Size]byte]*bearer // those whose token has been seen
	arrived  chan struct{}                 // closed when a launcher connects
	doors    []*door                       // of operators and HTTP
	linkDoor *door                         // of the launcher
	spoken   int                           // requests of MCP over HTTP that are under way
	used     time.Time                     // when a session or a job was last there
}

// Serve runs the front until ctx ends or, in stdio, until the launcher is gone.
func Serve(ctx context.Context, cfg Config) error {
	gaps, err := selfCheck()
	if err != nil {
		return err
	}
	s, err := openStore(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	if a := s.Aside(); a != nil {
		cfg.Log.Error("the database of jobs was damaged and is set aside; what could be read of it is taken over", journal.Key, journal.StateSetAside, "to", a.Path, "jobs", a.Kept, "why", a.Why)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f, err := newFront(ctx, cfg, s, gaps)
	if err != nil {
		return err
	}
	f.stop = stop
	return f.serve(stop)
}

const (
	openTold = 5 * time.Second  // between two words to systemd that the store is being opened
	openTerm = 30 * time.Minute // that it waits for it at most
)

// openStore opens the store. A large one that is looked through, or taken over, takes longer than systemd waits
// for a start: it would be ended and begun again without end.
func openStore(cfg Config) (*store.Store, error) {
	opened, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		for range openTerm / openTold {
			select {
			case <-opened:
				return
			case <-time.After(openTold):
				cfg.Notify(fmt.Sprintf("STATUS=opening the store of jobs\nEXTEND_TIMEOUT_USEC=%d", (6 * openTold).Microseconds()))
			}
		}
	}()
	s, err := store.Open(cfg.StateDir)
	close(opened)
	<-told
	return s, err
}

func newFront(ctx context.Context, cfg Config, s *store.Store, gaps []wire.Gap) (*front, error) {
	f := &front{cfg: cfg, log: cfg.Log, store: s, gaps: gaps, ctx: ctx, term: consentTerm + time.Minute, counted: make(chan struct{}, 1), damaged: make(chan error, 1), exporting: make(chan struct{}, 1), comparing: make(chan struct{}, 1), searching: make(chan struct{}, 1),
		jobs: map[string]*job{}, sessions: map[uint64]*session{}, since: time.Now(), used: time.Now(),
		events: newEvents(time.Now()), bearers: map[uint64]*bearer{}, byToken: map[[sha256.Size]byte]*bearer{}, arrived: make(chan struct{}), loggingIn: make(chan struct{}, 1)}
	f.inForce.Store(&cfg.Live)
	f.metrics = metrics.New(f.facts)
	var err error
	if f.sealer, err = newSealer(); err != nil {
		return nil, err
	}
	if f.server, err = newServer(f); err != nil {
		return nil, err
	}
	f.service = health.NewService(cfg.Notify)
	f.health = health.New(cfg.Health.Timeout, f.looked, f.checks()...)
	f.wasReady.Store(true)
	f.accepting.Came()
	f.speaker = mcpsession.New(f.server, mcpsession.Limits{}, f.log)
	f.speaker.Ready, f.speaker.Info = f.ready, encode(f.implementation())
	return f, f.remember(ctx)
}

func (f *front) serve(stop func()) error {
	g, ctx := errgroup.WithContext(f.ctx)
	if f.cfg.Link != nil {
		g.Go(func() error {
			defer stop()
			return f.follow(f.cfg.Link)
		})
	} else {
		g.Go(func() error { return f.accept(ctx) })
	}
	g.Go(func() error { return f.serveAdmin(ctx) })
	g.Go(func() error { return f.serveHTTP(ctx) })
	g.Go(func() error { return f.idle(ctx, stop) })
	g.Go(func() error { return f.followHangups(ctx) })
	g.Go(func() error { return f.house(ctx) })
	g.Go(func() error {
		f.index()
		return nil
	})
	g.Go(func() error { return f.watchSpace(ctx) })
	g.Go(func() error { return f.count(ctx) })
	g.Go(func() error { return f.endWhenDamaged(ctx) })
	g.Go(func() error { f.health.Run(ctx); return nil })
	g.Go(func() error { f.service.Run(ctx, f.line); return nil })
	g.Go(func() error {
		f.service.Feed(ctx, f.cfg.Watchdog, func() bool { return f.health.Report().Live })
		return nil
	})
	f.service.Ready()
	err := g.Wait()
	stop()
	f.service.Stopping()
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	f.closeSessions()
	f.speaker.Close()
	f.running.Wait()
	return err
}

// now is what is in force.
func (f *front) now() *Live { return f.inForce.Load() }

// spawn starts a goroutine that Serve waits for; false: the front is closing.
func (f *front) spawn(do func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return false
	}
	f.running.Go(do)
	return true
}

// remember takes up the jobs that were under way when the front last ended. The launcher will
// speak of them, or they are interrupted.
func (f *front) remember(ctx context.Context) error {
	rows, err := f.store.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		j := newJob(f.now().Tools, row)
		if len(row.Record) > 0 {
			if err := json.Unmarshal(row.Record, &j.record); err != nil { // the launcher tells it anew, or it is interrupted
				f.log.Error("cannot read back what was kept of a job under way", "job", row.ID)
				j.record = wire.Job{}
			}
			j.record.Outcome = nil
		}
		f.jobs[row.ID] = j
	}
	return nil
}

// looksDamaged has the front end, and its next start see to the store, if that is what an error says. Scans
// run on meanwhile, and are taken up again.
func (f *front) looksDamaged(err error) {
	if !errors.Is(err, store.ErrDamaged) {
		return
	}
	select {
	case f.damaged <- err:
	default:
	}
}

func (f *front) endWhenDamaged(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.damaged:
		return errors.Join(err, f.store.Suspect())
	}
}

// prune removes what is too much or too old, one at a time: two that found the same surplus would
// remove it twice.
func (f *front) prune(ctx context.Context) {
	f.pruning.Lock()
	defer f.pruning.Unlock()
	n, err := f.store.Prune(ctx, f.now().Keep, time.Now())
	if n > 0 || err != nil {
		f.statuses.forget()
	}
	f.looksDamaged(err)
	if err != nil && ctx.Err() == nil {
		f.log.Error("cannot remove old jobs", "why", err)
		f.add(metrics.StoreError())
	} else if n > 0 {
		f.log.Info("old jobs removed", "count", n)
	}
}

// house removes what has become too old, and leaves tokens that are not used; what is too much is removed whenever a job has ended.
func (f *front) house(ctx context.Context) error {
	tick, often := time.NewTicker(time.Hour), time.NewTicker(bearerIdle/10)
	defer tick.Stop()
	defer often.Stop()
	f.prune(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.prune(ctx)
		case <-often.C:
			f.letGo(ctx, time.Now().Add(-bearerIdle))
		}
	}
}
