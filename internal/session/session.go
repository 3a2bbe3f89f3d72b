// Package session speaks MCP with one client over one connection, and knows nothing of scans.
//
//	connection ── session.go: which framing? ──► lines.go (newline JSON) ──► mcp.Server
//	                                         └─► http.go  (HTTP/1.1)     ──► mcp.Server
package session

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Versions are the eras of the protocol that are spoken, the newest first.
func Versions() []string { return []string{"2026-07-28", "2025-11-25", "2025-06-18"} }

// Limits bound what clients may have under way. A zero value stands for the default.
type Limits struct {
	Line int // bytes of one message, without its newline; 1 MiB

	// Calls under way: of one connection (64), of one user (128), of all (512).
	InFlight, InFlightUID, InFlightAll int

	// Messages of more than 32 KiB that are being read or are under way: of one user (16), of all (32). Each
	// takes several times its size, and the front has half a GiB for all of its clients.
	LargeUID, LargeAll int

	FirstByte time.Duration // until a connection says anything; 10 s
	Message   time.Duration // from a message's first byte to its last; 30 s
	Idle      time.Duration // with no call under way, until the next message; 24 h
	Write     time.Duration // until a client has taken one message; 5 s
	Drain     time.Duration // for the answers, after the end of a client's input; 2 min

	HTTPSession           time.Duration // an HTTP session without a request; 10 min
	Sessions, SessionsUID int           // HTTP sessions: of all (256), of one user (32)
}

func (l Limits) orDefaults() Limits {
	number := func(n *int, otherwise int) {
		if *n == 0 {
			*n = otherwise
		}
	}
	span := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	number(&l.Line, 1<<20)
	number(&l.InFlight, 64)
	number(&l.InFlightUID, 128)
	number(&l.InFlightAll, 512)
	number(&l.LargeUID, 16)
	number(&l.LargeAll, 32)
	span(&l.FirstByte, 10*time.Second)
	span(&l.Message, 30*time.Second)
	span(&l.Idle, 24*time.Hour)
	span(&l.Write, 5*time.Second)
	span(&l.Drain, 2*time.Minute)
	span(&l.HTTPSession, 10*time.Minute)
	number(&l.Sessions, 256)
	number(&l.SessionsUID, 32)
	return l
}

// codeBusy answers a call beyond a limit (a code of the implementation's own range).
const codeBusy = -32000

// Speaker is what all connections share: one server, the limits and what counts against them.
type Speaker struct {
	// Ready finds the result of a call that has been encoded before: what the SDK would write if its
	// handler were called. nil: it is called. ctx has the values of Serve's, tool and arguments are
	// the client's, and not judged yet. It must not wait, and is set before the first Serve, or left out.
	Ready func(ctx context.Context, tool string, arguments json.RawMessage) json.RawMessage
	Info  json.RawMessage // the server's mcp.Implementation, which such a result has in the era without sessions

	server *mcp.Server
	limits Limits
	log    *slog.Logger
	http   *over

	mu    sync.Mutex
	calls int            // under way
	byUID map[uint32]int // of them, whose
	large map[uint32]int // large messages, whose
}

// New makes a speaker for server, and has a panic of its handlers end one call alone. Whatever
// else shall see a call goes into the server's middleware before.
func New(server *mcp.Server, l Limits, log *slog.Logger) *Speaker {
	l = l.orDefaults()
	s := &Speaker{server: server, limits: l, log: log, http: newOver(server, l), byUID: map[uint32]int{}, large: map[uint32]int{}}
	server.AddReceivingMiddleware(s.guard, s.overHTTP)
	return s
}

// Close ends what outlives connections: HTTP sessions. There will be no others.
func (s *Speaker) Close() { s.http.close() }

// Serve speaks until the connection or ctx ends, and closes conn: newline JSON, or HTTP/1.1 if
// conn is a net.Conn and the first byte is a capital letter. Values of ctx reach the handlers of
// every call that comes over this connection, whatever the framing. uid is whose limits count. The
// error's text is ours: nothing of the client's is in it. A client that went away when all was
// answered is none.
func (s *Speaker) Serve(ctx context.Context, conn io.ReadWriteCloser, uid uint32) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in := bufio.NewReader(conn)
	if err := setReadDeadline(conn, s.limits.FirstByte); err != nil {
		return inOurWords(err)
	}
	first, err := in.Peek(1)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the client said nothing")
	}
	if err == nil {
		err = setReadDeadline(conn, 0)
	}
	if err != nil {
		return inOurWords(err)
	}
	if nc, ok := conn.(net.Conn); ok && first[0] >= 'A' && first[0] <= 'Z' {
		return inOurWords(s.serveHTTP(ctx, sniffed{nc, in}, uid))
	}
	return inOurWords(s.serveLines(ctx, conn, in, uid))
}

// sniffed is a connection of which something has been read already.
type sniffed struct {
	net.Conn
	in *bufio.Reader
}

func (s sniffed) Read(b []byte) (int, error) { return s.in.Read(b) }

// setReadDeadline bounds the reads that follow; 0 is for ever. What has no deadlines (a terminal)
// has none.
func setReadDeadline(conn io.ReadWriteCloser, d time.Duration) error {
	c, ok := conn.(interface{ SetReadDeadline(time.Time) error })
	if !ok {
		return nil
	}
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	if err := c.SetReadDeadline(at); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return err
	}
	return nil
}

// ended is how a connection ended, in words of ours.
type ended string

func (e ended) Error() string { return string(e) }

// inOurWords puts the end of a connection into words of ours: the error's own text may quote the
// client.
func inOurWords(err error) error {
	var ours ended
	var timeout net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return ours
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ended("the client hung up within a message")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return ended("the client is gone")
	case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed), errors.Is(err, io.ErrClosedPipe), errors.Is(err, context.Canceled):
		return ended("ended here")
	case errors.As(err, &timeout) && timeout.Timeout():
		return ended("the client stopped reading")
	}
	return ended("the connection failed")
}

// enter counts a call of a user, or says why there is no room for it. Each that entered leaves.
func (s *Speaker) enter(uid uint32) *jsonrpc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.byUID[uid] >= s.limits.InFlightUID:
		return busy("%d calls of this user are under way; wait for one", s.limits.InFlightUID)
	case s.calls >= s.limits.InFlightAll:
		return busy("%d calls are under way in all; ask again in a few seconds", s.limits.InFlightAll)
	}
	s.calls++
	s.byUID[uid]++
	return nil
}

func (s *Speaker) leave(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if s.byUID[uid]--; s.byUID[uid] == 0 {
		delete(s.byUID, uid)
	}
}

// hold counts a large message of a user, or says why there is no room for it. Each that is held is let go.
func (s *Speaker) hold(uid uint32) *jsonrpc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := 0
	for _, n := range s.large {
		all += n
	}
	switch {
	case s.large[uid] >= s.limits.LargeUID:
		return busy("%d large messages of this user are under way; wait for one, or give less in one call", s.limits.LargeUID)
	case all >= s.limits.LargeAll:
		return busy("%d large messages are under way in all; give less in one call, or ask again in a minute", s.limits.LargeAll)
	}
	s.large[uid]++
	return nil
}

func (s *Speaker) letGo(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.large[uid]--; s.large[uid] == 0 {
		delete(s.large, uid)
	}
}

func busy(format string, limit int) *jsonrpc.Error {
	return &jsonrpc.Error{Code: codeBusy, Message: fmt.Sprintf(format, limit), Data: json.RawMessage(`{"error":{"code":"busy","retryable":true}}`)}
}

// Cancelled says whether a call ended because its client cancelled it, and not because the client
// went away.
func Cancelled(ctx context.Context) bool {
	// The SDK gives an ended connection's error as the cause.
	return ctx.Err() != nil && context.Cause(ctx) == context.Canceled
}

// guard turns a panic in a handler into an error of that one call; the SDK would let it end the
// process. An error that is not made for the client is not told to it.
func (s *Speaker) guard(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (result mcp.Result, err error) {
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("a handler panicked", "method", method, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				result, err = nil, errInternal
			}
		}()
		result, err = next(ctx, method, r)
		var told *jsonrpc.Error
		if errors.As(err, &told) && !sayable(told) {
			return nil, &jsonrpc.Error{Code: told.Code, Message: told.Message}
		}
		if err == nil || told != nil || ctx.Err() != nil {
			return result, err
		}
		if method == initialize {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: "the session has begun already"}
		}
		s.log.Error("a call failed", "method", method, "why", stageOf(err))
		return nil, errInternal
	}
}

// sayable says whether an error can be written at all. What the SDK has with a resource that is missing
// is its URI in quotes of Go's, which are none of JSON's where it has a control character: there would be
// no answer, and over HTTP the session would end.
func sayable(e *jsonrpc.Error) bool { return len(e.Data) == 0 || json.Valid(e.Data) }

// stageOf is what is logged of an error of ours: its text may quote the client, or a scanned host,
// and so it says what it is about by a method. Of any other it is the kinds.
func stageOf(err error) string {
	var at interface{ Stage() string }
	if errors.As(err, &at) {
		return at.Stage()
	}
	kinds := fmt.Sprintf("%T", err)
	for err = errors.Unwrap(err); err != nil; err = errors.Unwrap(err) {
		kinds += fmt.Sprintf(" of %T", err)
	}
	return kinds
}

var errInternal = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "internal error"}
