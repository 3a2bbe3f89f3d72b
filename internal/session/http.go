package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Path is where MCP is spoken over HTTP: there is nothing else to be had.
const Path = "/mcp"

const (
	versionHeader = "Mcp-Protocol-Version"
	sessionHeader = "Mcp-Session-Id"

	maxHeader = 32 << 10 // bytes
)

// codeNoSession answers a request of a session that is not there, or is another user's.
const codeNoSession = -32001

// stateless is the era without sessions, and those after it.
const stateless = "2026-07-28"

// over are the SDK's two ways of HTTP. Each era is served by its own.
type over struct {
	stateless, sessions http.Handler

	mu      sync.Mutex
	closed  bool
	open    map[string]*opened // by their ids
	running sync.WaitGroup     // what waits for their ends
}

// opened is an HTTP session. It belongs to a user, not to a connection: clients open several, and
// new ones.
type opened struct {
	uid uint32
	ss  *mcp.ServerSession
	ctx context.Context // of its calls; the SDK's Close would wait for them
	end func()
}

// close ends a session with its calls. Its client, or the SDK, may have done so.
func (o *opened) close() {
	o.end()
	_ = o.ss.Close()
}

// newOver makes the handlers. A session's requests may come over any connection of its user, so
// nothing of the one that opened it may cling to it: handlers get what is known of the connection
// that a call came over with the call itself, by the SDK's one way for that, which is what it
// takes for the bearer of a token.
func newOver(server *mcp.Server, l Limits) *over {
	get := func(*http.Request) *mcp.Server { return server }
	bearer := auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		e := exchangeOf(ctx)
		return &auth.TokenInfo{UserID: strconv.FormatUint(uint64(e.uid), 10), Extra: map[string]any{"": e}}, nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})
	return &over{
		stateless: bearer(mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{Stateless: true, MaxRequestBodyBytes: int64(l.Line)})),
		sessions:  bearer(mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{SessionTimeout: l.HTTPSession, MaxRequestBodyBytes: int64(l.Line)})),
		open:      map[string]*opened{},
	}
}

// exchange is one request over HTTP.
type exchange struct {
	connection context.Context // has the values of the connection
	request    context.Context // ends when the client goes away
	uid        uint32
	session    *opened // nil: none
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	e, _ := ctx.Value(exchangeKey{}).(*exchange)
	return e
}

// errGone ends the calls of a client that went away, for nobody to read.
var errGone = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "the client is gone"}

// called is the context of a call: the SDK's, with the values of the connection it came over.
type called struct {
	context.Context
	e *exchange
}

func (c called) Value(key any) any {
	if key == (exchangeKey{}) {
		return c.e
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.e.connection.Value(key)
}

// overHTTP is the middleware for what came over HTTP: a call counts against its user's limits, has
// the values of its connection, and ends with it.
func (s *Speaker) overHTTP(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		extra := r.GetExtra()
		if extra == nil || extra.TokenInfo == nil {
			return next(ctx, method, r)
		}
		e := extra.TokenInfo.Extra[""].(*exchange)
		ctx = called{ctx, e}
		if method == initialized || method == cancelled {
			return next(ctx, method, r)
		}
		if method != listen && method != ping {
			if busy := s.enter(e.uid); busy != nil {
				return nil, busy
			}
			defer s.leave(e.uid)
		}
		if method == initialize {
			if full := s.openSession(r.GetSession().(*mcp.ServerSession), e.uid); full != nil {
				return nil, full
			}
		}
		ctx, end := context.WithCancelCause(ctx)
		defer end(nil)
		defer context.AfterFunc(e.request, func() { end(errGone) })()
		if e.session != nil {
			defer context.AfterFunc(e.session.ctx, func() { end(errGone) })()
		}
		result, err := next(ctx, method, r)
		if err != nil && context.Cause(ctx) == errGone {
			return nil, errGone
		}
		return result, err
	}
}

// openSession counts an HTTP session until it ends, or says why there is no room for it.
func (s *Speaker) openSession(ss *mcp.ServerSession, uid uint32) *jsonrpc.Error {
	h := s.http
	h.mu.Lock()
	defer h.mu.Unlock()
	same := 0
	for _, other := range h.open {
		if other.uid == uid {
			same++
		}
	}
	switch {
	case h.closed:
		return &jsonrpc.Error{Code: codeBusy, Message: "the server is closing"}
	case h.open[ss.ID()] != nil:
		return nil // a second initialize; the SDK refuses it
	case same >= s.limits.SessionsUID:
		return busy("%d sessions of this user are open; end one with DELETE", s.limits.SessionsUID)
	case len(h.open) >= s.limits.Sessions:
		return busy("%d sessions are open in all; ask again in a few minutes", s.limits.Sessions)
	}
	o := &opened{uid: uid, ss: ss}
	o.ctx, o.end = context.WithCancel(context.Background())
	h.open[ss.ID()] = o
	h.running.Go(func() {
		defer o.end()
		_ = ss.Wait() // however it ended
		h.mu.Lock()
		delete(h.open, ss.ID())
		h.mu.Unlock()
	})
	return nil
}

// find is a user's session; nil: it has none of that id.
func (h *over) find(id string, uid uint32) *opened {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.open[id]; o != nil && o.uid == uid {
		return o
	}
	return nil
}

func (h *over) close() {
	h.mu.Lock()
	h.closed = true
	var all []*opened
	for _, o := range h.open {
		all = append(all, o)
	}
	h.mu.Unlock()
	for _, o := range all {
		o.close()
	}
	h.running.Wait()
}

// serveHTTP speaks HTTP/1.1 until the connection ends. It has a server of its own: there is only
// one connection that its requests can be from.
func (s *Speaker) serveHTTP(ctx context.Context, conn net.Conn, uid uint32) error {
	one := &single{conn: make(chan net.Conn, 1), addr: conn.LocalAddr()}
	watched := &watched{Conn: conn, limit: s.limits.Write}
	one.conn <- watched
	server := &http.Server{
		Handler:           s.safely(&router{s, ctx, uid}),
		ReadHeaderTimeout: s.limits.FirstByte,
		IdleTimeout:       s.limits.HTTPSession,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // it quotes what clients send
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				_ = one.Close()
			}
		},
	}
	_ = server.Serve(one) // that there is no other connection to take
	return watched.why
}

// single is a listener with one connection.
type single struct {
	conn chan net.Conn
	addr net.Addr
	once sync.Once
}

func (l *single) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *single) Close() error {
	l.once.Do(func() { close(l.conn) })
	return nil
}

func (l *single) Addr() net.Addr { return l.addr }

// watched cuts off a client that does not read.
type watched struct {
	net.Conn
	limit time.Duration
	why   error // for whoever saw the connection closed
}

func (c *watched) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.why = err
		c.Conn.Close() // a part of an answer may be out: nothing sensible can follow it
	}
	return n, err
}

// safely ends the connection of a request that panics, and logs that as ours.
func (s *Speaker) safely(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("a request panicked", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// router sends a request over one connection to its era's handler, or says what is wrong with it.
type router struct {
	*Speaker
	connection context.Context
	uid        uint32
}

func (h *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m envelope
	switch {
	case !isLocal(r.Host):
		refuse(w, http.StatusForbidden, invalid(m.id, "the host must be localhost"))
		return
	case new(http.CrossOriginProtection).Check(r) != nil:
		refuse(w, http.StatusForbidden, invalid(m.id, "requests of other origins are not taken"))
		return
	case r.URL.Path != Path:
		refuse(w, http.StatusNotFound, invalid(m.id, "there is nothing here but %s", Path))
		return
	case r.Method == http.MethodPost:
		var ok bool
		if m, ok = h.read(w, r); !ok {
			return
		}
	}
	version, id := r.Header.Get(versionHeader), r.Header.Get(sessionHeader)
	modern := version >= stateless || m.version != ""
	e := &exchange{connection: h.connection, request: r.Context(), uid: h.uid}
	if !modern {
		e.session = h.http.find(id, h.uid)
	}
	isNotice := m.method != "" && !m.id.IsValid()
	switch {
	case version != "" && !slices.Contains(Versions(), version):
		refuse(w, http.StatusBadRequest, unsupported(m.id, version))
	case r.Method != http.MethodPost && (modern || id == "" || r.Method != http.MethodGet && r.Method != http.MethodDelete):
		w.Header().Set("Allow", "POST")
		refuse(w, http.StatusMethodNotAllowed, invalid(m.id, "messages come by POST; only a session has GET and DELETE"))
	case !modern && id != "" && e.session == nil:
		refuse(w, http.StatusNotFound, fault{m.id, jsonrpc.Error{Code: codeNoSession, Message: "there is no such session; begin with initialize"}})
	case isNotice && (modern || m.method != initialized && m.method != cancelled):
		w.WriteHeader(http.StatusAccepted) // it changes nothing, and the SDK would keep it for ever
	case modern:
		h.pass(w, r, e, h.http.stateless)
	case e.session == nil && m.method != initialize:
		refuse(w, http.StatusBadRequest, invalid(m.id, "begin with initialize, and send the %s that it answers", sessionHeader))
	case r.Method == http.MethodDelete:
		e.session.close()
		w.WriteHeader(http.StatusNoContent)
	default:
		h.pass(w, r, e, h.http.sessions)
	}
}

// pass hands a request on, with what its call is to know of it.
func (h *router) pass(w http.ResponseWriter, r *http.Request, e *exchange, to http.Handler) {
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e))
	r.Header.Set("Authorization", "Bearer peer")
	to.ServeHTTP(w, r)
}

// read takes the message of a POST; false: it has been answered.
func (h *router) read(w http.ResponseWriter, r *http.Request) (envelope, bool) {
	in := http.NewResponseController(w)
	_ = in.SetReadDeadline(time.Now().Add(h.limits.Message)) // it fails where the connection does
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(h.limits.Line)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, http.StatusRequestEntityTooLarge, invalid(jsonrpc.ID{}, "a message has at most %d bytes; give less in one call", h.limits.Line))
		return envelope{}, false
	case err != nil:
		refuse(w, http.StatusRequestTimeout, invalid(jsonrpc.ID{}, "the message did not come to its end"))
		return envelope{}, false
	}
	m, f := parse(body)
	if f != nil {
		refuse(w, http.StatusBadRequest, *f)
		return envelope{}, false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return m, true
}

// isLocal says whether a request was meant for this machine. Whoever puts this socket on a TCP port
// would else have it spoken to by any page of the web, under a name of the page's.
func isLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// unsupported answers a version that is not spoken with those that are.
func unsupported(id jsonrpc.ID, version string) fault {
	data, err := json.Marshal(mcp.UnsupportedProtocolVersionData{Supported: Versions(), Requested: version[:min(len(version), 64)]})
	if err != nil {
		panic(err) // strings
	}
	return fault{id, jsonrpc.Error{Code: mcp.CodeUnsupportedProtocolVersion, Message: "this version of the protocol is not spoken", Data: data}}
}

func refuse(w http.ResponseWriter, status int, f fault) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer(f.id, nil, &f.said)) // the client may be gone
}
