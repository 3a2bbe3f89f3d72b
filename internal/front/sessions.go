package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/observability/metrics"
)

// session is one client: its connection, or its token.
type session struct {
	client wire.Client
	link   *link              // its handle is this launcher's
	conn   io.ReadWriteCloser // nil: it comes over HTTP
}

// open starts a session for a client that the launcher handed over.
func (f *front) open(l *link, c wire.Client, files []*os.File) {
	conn, err := connection(files)
	if err != nil {
		f.log.Error("cannot take a client", "why", err)
		f.tell(l, wire.Message{Leave: &wire.Leave{Handle: c.Handle}})
		return
	}
	s := &session{client: c, link: l, conn: conn}
	f.mu.Lock()
	if f.sessions[c.Handle] != nil {
		f.mu.Unlock()
		conn.Close()
		f.log.Error("the launcher handed over a client twice")
		return
	}
	f.sessions[c.Handle] = s
	f.mu.Unlock()
	f.service.Changed()
	f.add(metrics.Session())
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

// SyscallConn is of what is written to: a client that does not read is seen there.
func (p pipes) SyscallConn() (syscall.RawConn, error) { return p.out.SyscallConn() }

// serveSession speaks MCP with one client until it is gone. A client that the launcher has not heard to be met
// is not read from: it is for the next front.
func (f *front) serveSession(s *session) {
	met := f.ctx.Err() == nil && f.tell(s.link, wire.Message{Met: &wire.Met{Handle: s.client.Handle}})
	if !met {
		s.hangUp()
	} else if err := f.speaker.Serve(context.WithValue(f.ctx, sessionKey{}, s), s.conn, s.client.UID); err != nil {
		f.log.Info("session ended", "uid", s.client.UID, "why", err)
	}
	f.mu.Lock()
	delete(f.sessions, s.client.Handle)
	f.used = time.Now()
	current := f.link == s.link
	f.mu.Unlock()
	f.service.Changed()
	if current && met {
		f.tell(s.link, wire.Message{Leave: &wire.Leave{Handle: s.client.Handle}})
	}
}

// hangUp ends a session's connection. The launcher holds a copy of the socket and ends that.
func (s *session) hangUp() { s.conn.Close() }

func (f *front) hangUp(handle uint64) {
	f.mu.Lock()
	s := f.sessions[handle]
	if b := f.bearers[handle]; b != nil {
		f.forget(b)
	}
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
	for _, b := range f.bearers {
		if l == nil || b.session.link == l {
			f.forget(b)
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
