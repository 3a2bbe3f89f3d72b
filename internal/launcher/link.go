package launcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/journal"
)

const (
	// helloTimeout bounds the first exchange with the front; systemd may be starting it.
	helloTimeout = 20 * time.Second
	// maxRequests bounds the requests that are under way at once, maxRequestsPerUID those in the
	// name of one user.
	maxRequests       = 64
	maxRequestsPerUID = maxRequests / 2
)

// link is the connection to the front, one at a time. Its mutex orders what is sent: a job's
// record is always sent as it is at that moment, so a later message is never an older truth.
type link struct {
	mu    sync.Mutex
	conn  *wire.Conn      // nil: the front is not there
	shown map[string]bool // jobs whose descriptors this connection has had
	gaps  []wire.Gap      // what the front could not enforce about itself

	seq  uint64            // of the last Reread
	read chan wire.HasRead // has room for one: its answer; nil: nobody waits for it
}

// keepLinked holds a connection to the front for as long as there is something to say to it: a
// client, a record that has not been acknowledged, or that this room became ready or no longer is.
func (l *Launcher) keepLinked(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wanted:
		}
		for attempt := 0; l.needsFront() && ctx.Err() == nil; attempt++ {
			l.answerBell()
			err := l.linkOnce(ctx)
			if l.cfg.stdio() {
				return err // its front is a child that is not started twice
			}
			if err != nil && ctx.Err() == nil {
				l.log.Warn("front lost", journal.Key, journal.FrontLost, "why", err)
			} else if ctx.Err() == nil {
				l.log.Info("front lost: its connection has ended", journal.Key, journal.FrontLost)
			}
			select {
			case <-ctx.Done():
			case <-time.After(min(time.Duration(attempt)*100*time.Millisecond, 2*time.Second)):
			}
		}
	}
}

// want wakes keepLinked.
func (l *Launcher) want() {
	select {
	case l.wanted <- struct{}{}:
	default:
	}
}

func (l *Launcher) linked() bool {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	return l.link.conn != nil
}

func (l *Launcher) needsFront() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.clients)+len(l.jobs) > 0 || l.rung || l.news.Load()
}

// hearBell connects to the front when it asks for it. A front that an operator or a request over HTTP
// has started has no launcher yet, and may not call one. Who rings says nothing but that.
func (l *Launcher) hearBell(ctx context.Context) error {
	if l.cfg.Bell == nil {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = l.cfg.Bell.SetDeadline(time.Unix(1, 0)) })()
	for {
		conn, err := l.cfg.Bell.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			l.log.Error("cannot hear the front's bell", "why", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		who, err := peer(conn)
		conn.Close()
		if err != nil || who.UID != l.cfg.FrontUID {
			continue // the socket's mode says so already
		}
		l.mu.Lock()
		l.rung = true // also while linked: that the connection has ended may only not be known here yet
		l.mu.Unlock()
		l.want()
	}
}

// answerBell takes the front's asking back: one try is made for it.
func (l *Launcher) answerBell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rung = false
}

// rest lets go of a front under which nothing is under way, unless something is here: then it is
// refused. From then on nothing is sent over the connection, so that nothing is lost with it; whatever
// comes wakes a front anew.
func (l *Launcher) rest(conn *wire.Conn) *wire.Refusal {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.clients)+len(l.jobs) > 0 || l.news.Load() && len(l.changed) > 0 || l.cfg.stdio() {
		return &wire.Refusal{Code: "busy", Reason: "a client, a record or news are here", Hint: "the front stays, and asks again", Retryable: true}
	}
	if l.link.conn == conn {
		l.link.conn = nil
		l.news.Store(false) // it has been told: nothing has changed since
	}
	return nil
}

// linkOnce dials the front, tells it all that is known, and serves it until one side ends.
func (l *Launcher) linkOnce(ctx context.Context) error {
	uc, err := l.cfg.dialFront(ctx)
	if err != nil {
		return err
	}
	conn := wire.NewLauncher(uc)
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	gaps, err := l.greet(uc, conn)
	if err != nil {
		return err
	}
	if err = l.bring(conn, gaps); err == nil {
		err = l.serveFront(ctx, conn)
	}
	l.drop(conn, l.heardAll(uc, conn, err))
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

func (l *Launcher) greet(uc *net.UnixConn, conn *wire.Conn) ([]wire.Gap, error) {
	if err := uc.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	hello := wire.Hello{Version: wire.Version, Instance: l.instance, Gaps: l.machineGaps(), Budget: l.now().Budget}
	if err := conn.Send(wire.Message{Hello: &hello}); err != nil {
		return nil, err
	}
	m, _, err := conn.Receive()
	if err != nil {
		return nil, fmt.Errorf("cannot greet the front: %w", err)
	}
	if m.Hello == nil || m.Hello.Version != wire.Version {
		return nil, fmt.Errorf("the front does not speak version %d of the protocol: restart both units", wire.Version)
	}
	return frontGaps(m.Hello.Gaps), uc.SetReadDeadline(time.Time{})
}

// roomGaps is what the front may say of itself, in our words: what it writes beside a layer's
// name would travel into records, refusals and the audit log.
var roomGaps = []wire.Gap{
	{Layer: wire.FrontNetwork, Why: "the front has a network interface", Follows: "a front that is taken over could send to the network"},
	{Layer: wire.FrontPrivileges, Why: "the front was started without no_new_privs",
		Follows: "a front that is taken over could run set-uid programs"},
	{Layer: wire.Wall, Why: "the front says that both rooms are one user",
		Follows: "what parses scanners' output can do what starts them can"},
}

// frontGaps are those of roomGaps that the front names, each once.
func frontGaps(said []wire.Gap) (known []wire.Gap) {
	for _, g := range roomGaps {
		if slices.ContainsFunc(said, func(s wire.Gap) bool { return s.Layer == g.Layer }) {
			known = append(known, g)
		}
	}
	return known
}

// bring sends every record and every client, then lets events through. Clients that were there
// before belong to the front that is gone: they were disconnected by drop.
func (l *Launcher) bring(conn *wire.Conn, gaps []wire.Gap) error {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	l.link.conn, l.link.shown, l.link.gaps = conn, map[string]bool{}, gaps
	l.mu.Lock()
	l.rung = false
	var jobs []*job
	for _, j := range l.jobs {
		if j.begun {
			jobs = append(jobs, j)
		}
	}
	var clients []*client
	for _, c := range l.clients {
		clients = append(clients, c)
	}
	l.mu.Unlock()
	slices.SortFunc(jobs, func(a, b *job) int { return oldestFirst(a.snapshot(), b.snapshot()) })
	for _, j := range jobs {
		if err := l.showLocked(j); errors.Is(err, wire.ErrUnsendable) {
			l.sentLocked(err)
		} else if err != nil {
			return err
		}
	}
	l.stateChanged() // for this front
	l.news.Store(false)
	if err := conn.Send(wire.Message{Synced: &wire.Synced{}}); err != nil {
		return err
	}
	for _, c := range clients {
		if err := l.introduceLocked(c); err != nil {
			return err
		}
	}
	return nil
}

// endsWithin is how long a front that has ended is listened to for what it had said.
const endsWithin = time.Second

// maxTries is how many fronts one after the other may end before they have met a client.
const maxTries = 3

// drop forgets a connection that has ended, and with it the handles that it knew: the front
// held the sessions, and a caller that reconnects gets a new one. Whom it had not met yet has noticed nothing,
// and is for the next front, if all that this one had said was heard.
func (l *Launcher) drop(conn *wire.Conn, heardAll bool) {
	l.link.mu.Lock()
	if l.link.conn == conn {
		l.link.conn, l.link.shown = nil, nil
	}
	l.mu.Lock()
	var handles []uint64
	for h, c := range l.clients {
		switch {
		case !c.introduced:
		case c.met || c.tries >= maxTries || !heardAll:
			handles = append(handles, h)
		default:
			c.introduced = false
		}
	}
	l.mu.Unlock()
	l.link.mu.Unlock()
	for _, h := range handles {
		l.disconnect(h)
	}
}

// heardAll tells whether all is known that a front had said before it ended. One that ended while it was told
// something has not been heard yet.
func (l *Launcher) heardAll(uc *net.UnixConn, conn *wire.Conn, err error) bool {
	if frontEnded(err) && uc.SetReadDeadline(time.Now().Add(endsWithin)) != nil {
		return false
	}
	for told := frontEnded(err); told && (err == nil || frontEnded(err)); {
		var m wire.Message
		if m, _, err = conn.Receive(); m.Met != nil {
			l.hasMet(m.Met.Handle)
		}
	}
	return err == nil || errors.Is(err, io.EOF)
}

// frontEnded is what the kernel says to whoever tells something to a front that has ended.
func frontEnded(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) }

// hasMet notes that the front reads from a client: what it has read, no other can.
func (l *Launcher) hasMet(handle uint64) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.clients[handle]; c != nil {
		c.met = true
	}
}

func oldestFirst(a, b wire.Job) int {
	return cmp.Or(a.Asked.Compare(b.Asked), strings.Compare(a.ID, b.ID))
}

// serveFront answers requests until the connection ends. Those still under way then are ended,
// and not waited for: the next front hears of its scans before it gives them up.
func (l *Launcher) serveFront(ctx context.Context, conn *wire.Conn) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	for {
		m, _, err := conn.Receive()
		if err != nil {
			return err
		}
		if m.Ack != nil {
			l.acknowledge(m.Ack.Job)
			continue
		}
		if m.Met != nil {
			l.hasMet(m.Met.Handle)
			continue
		}
		if m.Leave != nil {
			l.disconnect(m.Leave.Handle)
			continue
		}
		if m.Login != nil { // at once: it asks nothing of anybody
			who, refused := l.login(*m.Login)
			l.answer(conn, m.Login.Seq, wire.Reply{LoggedIn: who, Refused: refused})
			continue
		}
		if m.Rest != nil {
			refused := l.rest(conn)
			if refused == nil {
				return nil
			}
			l.answer(conn, m.Rest.Seq, wire.Reply{Refused: refused})
			continue
		}
		if m.HasRead != nil {
			l.frontHasRead(*m.HasRead)
			continue
		}
		if m.Signal != nil {
			l.signalled()
			continue
		}
		r, err := l.request(ctx, m)
		if err != nil {
			return err
		}
		if m.Cancel != nil { // at once: a cancel is never in want of a place
			l.answer(conn, r.seq, r.answer())
			continue
		}
		refused := l.tooFast(r.handle, m)
		var leave func()
		if refused == nil {
			leave, refused = l.place(r.handle)
		}
		if refused != nil {
			l.answer(conn, r.seq, wire.Reply{Refused: refused})
			continue
		}
		go func() {
			defer leave()
			// A start waits by itself: it can be cancelled meanwhile.
			if m.Start != nil || l.knowsFilter(ctx) == nil {
				l.answer(conn, r.seq, r.answer())
			}
		}()
	}
}

// request is one of the front's, in the name of a caller.
type request struct {
	seq, handle uint64
	answer      func() wire.Reply
}

// place gives a request a place among those under way. There is no waiting for one: whoever
// waited here would not hear that the front is gone.
func (l *Launcher) place(handle uint64) (leave func(), refused *wire.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[handle]
	if c == nil {
		return nil, gone()
	}
	all := 0
	for _, n := range l.requests {
		all += n
	}
	if all >= maxRequests || l.requests[c.UID] >= maxRequestsPerUID {
		return nil, &wire.Refusal{Code: "busy", Reason: "too many requests are being answered", Hint: "ask again in a moment", Retryable: true, RetryAfterS: 1}
	}
	l.requests[c.UID]++
	l.answering.Add(1)
	return func() {
		defer l.answering.Done()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.requests[c.UID]--; l.requests[c.UID] == 0 {
			delete(l.requests, c.UID)
		}
	}, nil
}

// answer sends a reply, or says that there is none that could be sent.
func (l *Launcher) answer(conn *wire.Conn, seq uint64, reply wire.Reply) {
	reply.Seq = seq
	err := conn.Send(wire.Message{Reply: &reply})
	if errors.Is(err, wire.ErrUnsendable) {
		l.log.Error("cannot answer the front", "why", err)
		err = conn.Send(wire.Message{Reply: &wire.Reply{Seq: seq, Refused: &wire.Refusal{Code: "too_large",
			Reason: "the answer is larger than one that can be given", Hint: "ask for less at once"}}})
	}
	if err != nil {
		l.log.Warn("cannot answer the front", "why", err)
		conn.Close()
	}
}

// request picks what answers a message. Only these kinds may come from the front.
func (l *Launcher) request(ctx context.Context, m wire.Message) (request, error) {
	switch {
	case m.Start != nil:
		return request{m.Start.Seq, m.Start.Handle, func() wire.Reply { return wire.Reply{Refused: l.start(ctx, *m.Start)} }}, nil
	case m.Cancel != nil:
		return request{m.Cancel.Seq, m.Cancel.Handle, func() wire.Reply { return wire.Reply{Refused: l.cancel(*m.Cancel)} }}, nil
	case m.Preview != nil:
		return request{m.Preview.Seq, m.Preview.Handle, func() wire.Reply {
			p, refused := l.preview(ctx, *m.Preview)
			return wire.Reply{Preview: p, Refused: refused}
		}}, nil
	case m.Ask != nil:
		return request{m.Ask.Seq, m.Ask.Handle, func() wire.Reply {
			c, refused := l.capabilities(ctx, *m.Ask)
			return wire.Reply{Capabilities: c, Refused: refused}
		}}, nil
	}
	return request{}, errors.New("the front sent a message that only the launcher sends")
}

// send tells the front something, if it is there. Whatever matters is in a record that is sent
// again when it comes back.
func (l *Launcher) send(m wire.Message, files ...*os.File) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	if l.link.conn == nil {
		return
	}
	l.sentLocked(l.link.conn.Send(m, files...))
}

// sentLocked sees to what Send said. A message that cannot be sent to anybody is left out: the
// next front would not get it either. Any other error ends the connection; serveFront then drops
// it.
func (l *Launcher) sentLocked(err error) {
	if err == nil {
		return
	}
	conn := l.link.conn
	l.log.Error("cannot tell the front", "why", err)
	switch {
	case errors.Is(err, wire.ErrUnsendable):
	case frontEnded(err):
		// Whoever reads from it notices, with what it had said before. One that only pretends has no longer.
		time.AfterFunc(endsWithin, func() { conn.Close() })
	default:
		conn.Close()
	}
}

// introduce hands a client to the front, waking it first if need be.
func (l *Launcher) introduce(c *client) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	if l.link.conn == nil || c.introduced {
		l.want()
		return
	}
	l.sentLocked(l.introduceLocked(c))
}

// introduceLocked needs link.mu.
func (l *Launcher) introduceLocked(c *client) error {
	c.tries++
	err := l.link.conn.Send(wire.Message{Client: &c.Client}, c.files...)
	c.introduced = err == nil
	return err
}

// show sends a job's record as it is now.
func (l *Launcher) show(j *job) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	l.stateChanged()
	if l.link.conn == nil {
		l.want()
		return
	}
	l.sentLocked(l.showLocked(j))
}

// showLocked needs link.mu. The first record of a connection that has outputs to show brings
// their descriptors.
func (l *Launcher) showLocked(j *job) error {
	record := j.snapshot()
	if record.State == wire.Queued || l.link.shown[record.ID] {
		return l.link.conn.Send(wire.Message{Job: &record})
	}
	names, files := l.records.open(record.ID)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	record.Files = names
	if err := l.link.conn.Send(wire.Message{Job: &record}, files...); err != nil {
		return err
	}
	l.link.shown[record.ID] = true
	return nil
}
