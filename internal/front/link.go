package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
)

// requestTimeout bounds one request to the launcher. It may have to hash a scanner and ask it
// for its version; a scan itself is not waited for.
const requestTimeout = 60 * time.Second

// helloTimeout bounds the launcher's first word.
const helloTimeout = 10 * time.Second

// link is a connection from a launcher.
type link struct {
	conn     *wire.Conn
	instance string
	ended    chan struct{}

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]chan wire.Reply
	listed  map[string]bool // jobs that it spoke of; nil once synced
	state   *wire.State     // as it last said; nil: not yet
	spoke   time.Time       // when it did, or came
	budget  int             // of all scans together, in packets a second
}

var errUnreachable = errors.New("the launcher cannot be reached")

// accept takes the launcher's connections until ctx ends. The newest one counts: there is one
// launcher, and one that connects again has lost the old connection.
func (f *front) accept(ctx context.Context) error {
	d, stop := newDoor(ctx, f.cfg.Listener, 0)
	defer stop()
	d.turn = f.accepting.Came // the health of this room goes by it
	f.mu.Lock()
	f.linkDoor = d
	f.mu.Unlock()
	for {
		came, err := d.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot accept: %w", err)
		}
		conn := came.(*visitor).Conn.(*net.UnixConn)
		if f.madeWay() {
			conn.Close()
			return nil
		}
		if err := fromLauncher(conn); err != nil {
			f.log.Error("connection refused", "why", err)
			conn.Close()
			continue
		}
		f.links.Add(1)
		if !f.spawn(func() {
			defer f.links.Add(-1)
			if err := f.follow(conn); err != nil {
				f.log.Error("launcher lost", journal.Key, journal.LauncherLost, "why", err)
			} else if f.ctx.Err() == nil && !f.resting.Load() {
				f.log.Info("launcher lost: its connection has ended", journal.Key, journal.LauncherLost)
			}
		}) {
			conn.Close()
			return nil
		}
	}
}

// madeWay ends the front if its program was replaced: when its launcher has gone, and when one comes, which dials
// again. systemd starts the new front for it. So both rooms are of one version, and a front goes on for as long
// as its launcher does.
func (f *front) madeWay() bool {
	if f.cfg.Replaced == nil || !f.cfg.Replaced() {
		return false
	}
	f.log.Info("the program was replaced: the front makes way for it")
	f.stop()
	return true
}

// fromLauncher refuses whoever is not root. The socket's mode says so already.
func fromLauncher(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("cannot tell who connects: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("uid %d is not the launcher", cred.Uid)
	}
	return nil
}

// follow serves one connection from the launcher until it ends.
func (f *front) follow(uc *net.UnixConn) error {
	conn := wire.NewFront(uc)
	defer conn.Close()
	defer context.AfterFunc(f.ctx, func() { conn.Close() })()
	if err := uc.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	m, _, err := conn.Receive()
	if err != nil {
		return err
	}
	if m.Hello == nil || m.Hello.Version != wire.Version {
		return fmt.Errorf("the launcher does not speak version %d of the protocol: restart both units", wire.Version)
	}
	if err := errors.Join(uc.SetReadDeadline(time.Time{}), conn.Send(wire.Message{Hello: &wire.Hello{Version: wire.Version, Gaps: f.gaps}})); err != nil {
		return err
	}
	l := &link{conn: conn, instance: m.Hello.Instance, budget: m.Hello.Budget, ended: make(chan struct{}), spoke: time.Now(),
		waiting: map[uint64]chan wire.Reply{}, listed: map[string]bool{}}
	f.take(l)
	defer f.lose(l)
	for {
		m, files, err := conn.Receive()
		if errors.Is(err, io.EOF) || (err != nil && f.ctx.Err() != nil) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.dispatch(l, m, files); err != nil {
			return err
		}
	}
}

// dispatch hands a message on. Its descriptors are the receiver's from then on.
func (f *front) dispatch(l *link, m wire.Message, files []*os.File) error {
	switch {
	case m.Client != nil:
		f.open(l, *m.Client, files)
		return nil
	case m.Job != nil:
		l.spokeOf(m.Job.ID)
		f.learn(l, *m.Job, files)
		return nil
	}
	closeAll(files)
	switch {
	case m.Gone != nil:
		f.hangUp(m.Gone.Handle)
	case m.Reply != nil:
		if m.Reply.LoggedIn != nil {
			f.welcome(l, *m.Reply.LoggedIn)
		}
		l.deliver(*m.Reply)
	case m.State != nil:
		l.mu.Lock()
		l.state, l.spoke, l.budget = m.State, time.Now(), m.State.Budget
		l.mu.Unlock()
		if f.heard.Swap(m.State) == nil {
			f.recount() // the file has nothing of a launcher yet
		}
		f.tellQueue(m.State.Queue, time.Now())
	case m.Reread != nil:
		f.spawn(func() { f.reread(l, *m.Reread) })
	case m.Synced != nil:
		f.reconcile(l)
	default:
		return errors.New("the launcher sent a message that only the front sends")
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// take makes l the connection in use.
func (f *front) take(l *link) {
	f.mu.Lock()
	old := f.link
	f.link = l
	close(f.arrived)
	f.arrived = make(chan struct{})
	f.mu.Unlock()
	if old != nil {
		old.conn.Close()
	}
}

// lose ends what depended on a connection: requests under way, and sessions, whose handles were
// its launcher's. Jobs wait for the next one.
func (f *front) lose(l *link) {
	close(l.ended)
	f.mu.Lock()
	if f.link == l {
		f.link = nil
	}
	f.mu.Unlock()
	f.closeSessionsOf(l)
	if f.madeWay() {
		return // what is under way is taken up again by the next front
	}
	f.awaitLauncher()
}

// awaitLauncher keeps what the jobs under way have written if no launcher has come by the end of
// the grace. No end is guessed: whether the launcher died with its boxes or is only late, it says
// itself when it comes, and until then nobody can ask, since agents come through it.
func (f *front) awaitLauncher() {
	f.spawn(func() {
		select {
		case <-time.After(f.cfg.Grace):
		case <-f.ctx.Done():
			return // what is under way is taken up again at the next start
		}
		if f.launcher() == nil {
			f.saveAll()
		}
	})
}

// reconcile ends the jobs that the launcher did not speak of, but for those that it is only just
// being asked for on this connection.
func (f *front) reconcile(l *link) {
	if f.launcher() != l {
		return // a newer connection has taken its place, and tells for itself
	}
	l.mu.Lock()
	listed := l.listed
	l.listed = nil
	l.mu.Unlock()
	for _, j := range f.underWayAll() {
		if !listed[j.row.ID] && j.unanswered() != l {
			f.miss(j)
		}
	}
}

func (f *front) launcher() *link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.link
}

// launcherState is what the launcher last said of itself; nil: there is none, or it has not spoken yet.
func (f *front) launcherState() *wire.State {
	l := f.launcher()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

func (l *link) spokeOf(job string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listed != nil {
		l.listed[job] = true
	}
}

func (l *link) deliver(r wire.Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiting := l.waiting[r.Seq]; waiting != nil {
		waiting <- r // buffered, and only one reply is waited for
		delete(l.waiting, r.Seq)
	}
}

// ask sends a request to the launcher and waits for its answer. make gets the sequence number.
func (f *front) ask(ctx context.Context, make_ func(seq uint64) wire.Message) (wire.Reply, error) {
	l := f.launcher()
	if l == nil {
		return wire.Reply{}, errUnreachable
	}
	ctx, done := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("%w: no answer within %s", errUnreachable, requestTimeout))
	defer done()
	return l.ask(ctx, make_)
}

// ask waits for the answer until ctx or the connection ends.
func (l *link) ask(ctx context.Context, make_ func(seq uint64) wire.Message) (wire.Reply, error) {
	answer := make(chan wire.Reply, 1)
	l.mu.Lock()
	l.seq++
	seq := l.seq
	l.waiting[seq] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, seq)
		l.mu.Unlock()
	}()
	if err := l.conn.Send(make_(seq)); err != nil {
		l.conn.Close()
		return wire.Reply{}, errors.Join(errUnreachable, err)
	}
	select {
	case r := <-answer:
		return r, nil
	case <-l.ended:
	case <-ctx.Done():
		return wire.Reply{}, context.Cause(ctx)
	}
	select {
	case r := <-answer: // it came before the end
		return r, nil
	default:
		return wire.Reply{}, errUnreachable
	}
}

// tell sends something that has no answer.
func (f *front) tell(l *link, m wire.Message) bool {
	if l == nil {
		return false
	}
	if err := l.conn.Send(m); err != nil {
		f.log.Warn("cannot tell the launcher", "why", err)
		l.conn.Close()
		return false
	}
	return true
}
