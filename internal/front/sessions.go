package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const (
	// maxLine bounds one message of a client, in bytes.
	maxLine = 1 << 20
	// maxInFlight bounds the calls of one session that are under way.
	maxInFlight = 64
	// writeTimeout is how long a client may leave an answer unread before it is cut off.
	writeTimeout = 5 * time.Second
	// drainTimeout bounds the wait for answers after the end of a client's input.
	drainTimeout = 2 * time.Minute
)

// codeBusy answers a call beyond maxInFlight (a code of the implementation's own range).
const codeBusy = -32000

// session is one client's connection.
type session struct {
	client wire.Client
	link   *link // its handle is this launcher's
	conn   io.ReadWriteCloser
	gone   chan struct{} // closed when nobody reads the answers any more
	once   sync.Once
}

// open starts a session for a client that the launcher handed over.
func (f *front) open(l *link, c wire.Client, files []*os.File) {
	conn, err := connection(files)
	if err != nil {
		f.log.Error("cannot take a client", "why", err)
		f.tell(l, wire.Message{Leave: &wire.Leave{Handle: c.Handle}})
		return
	}
	s := &session{client: c, link: l, conn: conn, gone: make(chan struct{})}
	f.mu.Lock()
	if f.sessions[c.Handle] != nil {
		f.mu.Unlock()
		conn.Close()
		f.log.Error("the launcher handed over a client twice")
		return
	}
	f.sessions[c.Handle] = s
	f.mu.Unlock()
	if !f.spawn(func() { f.serveSession(s) }) {
		s.hangUp()
	}
}

// connection is the client's: one socket, or the two files of stdio.
func connection(files []*os.File) (io.ReadWriteCloser, error) {
	switch len(files) {
	case 1:
		defer files[0].Close()
		return net.FileConn(files[0])
	case 2:
		return pipes{files[0], files[1]}, nil
	}
	closeAll(files)
	return nil, fmt.Errorf("a client came with %d descriptors", len(files))
}

// pipes are standard input and output as one connection.
type pipes struct{ in, out *os.File }

func (p pipes) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }

// SetWriteDeadline is there for files that have deadlines; a terminal has none.
func (p pipes) SetWriteDeadline(t time.Time) error {
	if err := p.out.SetWriteDeadline(t); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return err
	}
	return nil
}

// serveSession speaks MCP with one client until it is gone.
func (f *front) serveSession(s *session) {
	ctx := context.WithValue(f.ctx, sessionKey{}, s)
	ss, err := f.server.Connect(ctx, &transport{s}, nil)
	if err != nil {
		f.log.Warn("cannot speak with a client", "why", err)
	} else if err := ss.Wait(); err != nil {
		f.log.Info("session ended", "uid", s.client.UID, "why", whyEnded(err))
	}
	s.hangUp()
	f.mu.Lock()
	delete(f.sessions, s.client.Handle)
	current := f.link == s.link
	f.mu.Unlock()
	if current {
		f.tell(s.link, wire.Message{Leave: &wire.Leave{Handle: s.client.Handle}})
	}
}

// whyEnded puts the end of a session into words of ours: the error's own text may quote the client.
func whyEnded(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the client hung up within a message"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the client is gone"
	case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed), errors.Is(err, context.Canceled):
		return "ended here"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the client stopped reading"
	}
	return "what the client sent is not MCP"
}

// hangUp ends a session's connection. The launcher holds a copy of the socket and ends that.
func (s *session) hangUp() {
	s.once.Do(func() {
		close(s.gone)
		s.conn.Close()
	})
}

func (f *front) hangUp(handle uint64) {
	f.mu.Lock()
	s := f.sessions[handle]
	f.mu.Unlock()
	if s != nil {
		s.hangUp()
	}
}

func (f *front) closeSessions() { f.closeSessionsOf(nil) }

// closeSessionsOf ends the sessions of a link, or all.
func (f *front) closeSessionsOf(l *link) {
	f.mu.Lock()
	var all []*session
	for _, s := range f.sessions {
		if l == nil || s.link == l {
			all = append(all, s)
		}
	}
	f.mu.Unlock()
	for _, s := range all {
		s.hangUp()
	}
}

type sessionKey struct{}

// sessionOf is the session that a request came from. It was bound when the session began and
// does not depend on anything that a message says.
func sessionOf(ctx context.Context) *session {
	return ctx.Value(sessionKey{}).(*session)
}

// hasVanished tells a client that is gone from a call that was cancelled: only the latter
// cancels a scan. Jobs are durable, and whoever lost a connection asks again for their results.
func (s *session) hasVanished() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// transport gives the SDK a session's connection as newline-delimited JSON.
type transport struct{ s *session }

func (t *transport) Connect(ctx context.Context) (mcp.Connection, error) {
	rw := deadlined{t.s.conn}
	inner, err := (&mcp.IOTransport{Reader: rw, Writer: rw, MaxLineLength: maxLine}).Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &connected{Connection: inner, s: t.s, idle: make(chan struct{}, 1), open: map[any]bool{}}, nil
}

// deadlined cuts off a client that does not read: a writer must never wait for it.
type deadlined struct{ io.ReadWriteCloser }

func (d deadlined) Write(b []byte) (int, error) {
	if c, ok := d.ReadWriteCloser.(interface{ SetWriteDeadline(time.Time) error }); ok {
		if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return 0, err
		}
	}
	n, err := d.ReadWriteCloser.Write(b)
	if err != nil {
		d.ReadWriteCloser.Close() // a part of a line may be out: nothing sensible can follow it
	}
	return n, err
}

// Close may come twice: the SDK closes reader and writer, which are one here, and the launcher may
// have hung up before. Neither is a fault of the session.
func (d deadlined) Close() error {
	if err := d.ReadWriteCloser.Close(); !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// connected counts the calls under way, so that the end of a client's input does not take the
// answers with it: `printf … | secmcpd connect` is a client that has nothing more to say and
// waits.
type connected struct {
	mcp.Connection
	s    *session
	idle chan struct{} // one token whenever the last call has been answered

	mu   sync.Mutex
	open map[any]bool // ids of calls that have not been answered
}

func (c *connected) Read(ctx context.Context) (jsonrpc.Message, error) {
	for {
		m, err := c.Connection.Read(ctx)
		if err != nil {
			c.drain(ctx)
			return nil, err
		}
		r, ok := m.(*jsonrpc.Request)
		if !ok || !r.ID.IsValid() || c.enter(r.ID.Raw()) {
			return m, nil
		}
		busy := &jsonrpc.Response{ID: r.ID, Error: &jsonrpc.Error{Code: codeBusy, Message: fmt.Sprintf("%d calls are under way; wait for one", maxInFlight)}}
		if err := c.Connection.Write(ctx, busy); err != nil {
			return nil, err
		}
	}
}

func (c *connected) enter(id any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= maxInFlight {
		return false
	}
	c.open[id] = true
	return true
}

func (c *connected) Write(ctx context.Context, m jsonrpc.Message) error {
	err := c.Connection.Write(ctx, m)
	if r, ok := m.(*jsonrpc.Response); ok {
		c.mu.Lock()
		delete(c.open, r.ID.Raw())
		if len(c.open) == 0 {
			select {
			case c.idle <- struct{}{}:
			default:
			}
		}
		c.mu.Unlock()
	}
	return err
}

// drain waits until every call is answered, or nobody is there to read the answers.
func (c *connected) drain(ctx context.Context) {
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		answered := len(c.open) == 0
		c.mu.Unlock()
		if answered {
			return
		}
		select {
		case <-c.idle:
		case <-c.s.gone:
			return
		case <-ctx.Done():
			return
		case <-timeout.C:
			return
		}
	}
}

// recovered turns a panic in a handler into an error of that one call. The SDK would let it end
// the process.
func (f *front) recovered(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (result mcp.Result, err error) {
		defer func() {
			if p := recover(); p != nil {
				f.log.Error("a handler panicked", "method", method, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				result, err = nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "internal error"}
			}
		}()
		return next(ctx, method, r)
	}
}
