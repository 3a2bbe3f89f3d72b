package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/url"
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
	watched := s.watch(conn)
	one.conn <- watched
	server := s.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := (Visitors{}).Refused(r); why != "" {
			refuse(w, http.StatusForbidden, invalid(jsonrpc.ID{}, "%s", why))
			return
		}
		s.Answer(ctx, uid, w, r)
	}))
	server.IdleTimeout = s.limits.HTTPSession
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			_ = one.Close()
		}
	}
	_ = server.Serve(one) // that there is no other connection to take
	return watched.why
}

// keepAlive is how long a connection of a [Speaker.Server] may say nothing between two requests.
const keepAlive = time.Minute

// Server is one that answers HTTP/1.1 within the speaker's limits, and ends the connection of a handler
// that panics. Its connections are those of [Speaker.Watch].
func (s *Speaker) Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           s.safely(h),
		ReadHeaderTimeout: s.limits.FirstByte,
		IdleTimeout:       keepAlive,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // it quotes what clients send
		// OPTIONS * is judged as any other request, too.
		DisableGeneralOptionsHandler: true,
	}
}

// Watch is a connection that is cut off when its client does not read what is written to it.
func (s *Speaker) Watch(conn net.Conn) net.Conn { return s.watch(conn) }

func (s *Speaker) watch(conn net.Conn) *watched {
	return &watched{Conn: conn, limit: s.limits.Write}
}

// Answer answers one request, whatever the connection. Values of ctx reach the handlers of its call,
// which ends when ctx does; uid is whose limits count, and whose sessions there are. Whether the request
// may be made at all, the caller has judged (see [Visitors]).
func (s *Speaker) Answer(ctx context.Context, uid uint32, w http.ResponseWriter, r *http.Request) {
	of, end := context.WithCancel(r.Context())
	defer end()
	defer context.AfterFunc(ctx, end)()
	(&router{s, ctx, uid}).ServeHTTP(w, r.WithContext(of))
}

// Sessions is how many HTTP sessions are open.
func (s *Speaker) Sessions() int {
	s.http.mu.Lock()
	defer s.http.mu.Unlock()
	return len(s.http.open)
}

// Visitors are requests that are taken beside those that name this machine as their host and that no
// page makes: of other names of it, and of pages that are trusted.
type Visitors struct {
	Hosts   []string // without a port
	Origins []string // as browsers write them: scheme://host or scheme://host:port
}

// Refused says why a request is not taken; "": it is. Whoever may reach this machine could else have it
// spoken to by any page of the web that the users of this machine look at: under a name of the page's
// own that it has led here (the host), or from the page that it is (the origin).
func (v Visitors) Refused(r *http.Request) string {
	if !isLocal(r.Host) && !slices.ContainsFunc(v.Hosts, func(name string) bool { return strings.EqualFold(name, hostOf(r.Host)) }) {
		return "the host must be localhost"
	}
	const otherwise = "requests of other origins are not taken"
	origins := r.Header.Values("Origin")
	switch {
	case len(origins) > 1:
		return otherwise
	case len(origins) == 1 && slices.Contains(v.Origins, origins[0]):
		return ""
	case len(origins) == 1:
		from, err := url.Parse(origins[0])
		if err != nil || from.Host == "" || !strings.EqualFold(from.Host, r.Host) {
			return otherwise
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return ""
	}
	return otherwise
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
	case r.URL.Path != Path:
		refuse(w, http.StatusNotFound, invalid(m.id, "there is nothing here but %s", Path))
		return
	case r.Method == http.MethodPost:
		var large, ok bool
		m, large, ok = h.read(w, r)
		if large {
			defer h.letGo(h.uid)
		}
		if !ok {
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
	case modern && m.isCall() && m.version == "":
		refuse(w, http.StatusBadRequest, fault{m.id, jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fmt.Sprintf("%q is missing in _meta", mcp.MetaKeyProtocolVersion)}})
	case modern && m.isCall() && headersDiffer(r.Header, &m) != "":
		refuse(w, http.StatusBadRequest, fault{m.id, jsonrpc.Error{Code: mcp.CodeHeaderMismatch, Message: headersDiffer(r.Header, &m)}})
	case r.Method != http.MethodPost && (modern || id == "" || r.Method != http.MethodGet && r.Method != http.MethodDelete):
		w.Header().Set("Allow", "POST")
		refuse(w, http.StatusMethodNotAllowed, invalid(m.id, "messages come by POST; only a session has GET and DELETE"))
	case !modern && id != "" && e.session == nil:
		refuse(w, http.StatusNotFound, fault{m.id, jsonrpc.Error{Code: codeNoSession, Message: "there is no such session; begin with initialize"}})
	case m.isCall() && m.refusal() != nil:
		f := m.refusal()
		status := http.StatusBadRequest
		if modern && f.said.Code == jsonrpc.CodeMethodNotFound {
			status = http.StatusNotFound // in a session it would be the session that is not found
		}
		refuse(w, status, *f)
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
	switch {
	case r.Method == http.MethodPost && !isJSON(r.Header.Get("Content-Type")):
		refuse(w, http.StatusUnsupportedMediaType, invalid(jsonrpc.ID{}, "the Content-Type must be application/json"))
		return
	case !accepts(r.Header, "text/event-stream") || r.Method == http.MethodPost && !accepts(r.Header, "application/json"):
		refuse(w, http.StatusNotAcceptable, invalid(jsonrpc.ID{}, "Accept must have text/event-stream and, with POST, application/json"))
		return
	case r.Header.Get("Last-Event-ID") != "":
		refuse(w, http.StatusBadRequest, invalid(jsonrpc.ID{}, "a stream cannot be taken up again: leave out Last-Event-ID"))
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e))
	r.Header.Set("Authorization", "Bearer peer")
	to.ServeHTTP(&reworded{ResponseWriter: w}, r)
}

func isJSON(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}

// accepts says whether a client takes a kind of content.
func accepts(h http.Header, kind string) bool {
	major, _, _ := strings.Cut(kind, "/")
	for _, value := range h.Values("Accept") {
		for one := range strings.SplitSeq(value, ",") {
			one, _, _ = strings.Cut(one, ";")
			switch strings.ToLower(strings.TrimSpace(one)) {
			case kind, major + "/*", "*/*":
				return true
			}
		}
	}
	return false
}

// headersDiffer says in what the headers of a call without a session do not repeat it; "": in nothing.
func headersDiffer(h http.Header, m *envelope) string {
	name := ""
	if of := methods[m.method].name; of != "" {
		members(m.params, func(member string, value json.RawMessage) {
			if member == of {
				_ = json.Unmarshal(value, &name) // what is no string is no name
			}
		})
		if got := h.Get("Mcp-Name"); got == "" || got != name {
			return fmt.Sprintf("the header Mcp-Name must be %q of the parameters", of)
		}
	}
	switch {
	case h.Get(versionHeader) != m.version:
		return fmt.Sprintf("the header %s must be %q of _meta", versionHeader, mcp.MetaKeyProtocolVersion)
	case h.Get("Mcp-Method") != m.method:
		return "the header Mcp-Method must be the method"
	}
	return ""
}

// reworded is where the SDK writes an answer. What it says of requests that it refuses is about its
// own types, or repeats what the client sent: that is told as newline JSON tells it.
type reworded struct {
	http.ResponseWriter
	refused bool
}

// Unwrap is how http.ResponseController finds what can be flushed.
func (w *reworded) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *reworded) WriteHeader(status int) {
	if status < http.StatusBadRequest || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	words := "the request is not one that is taken here"
	switch status {
	case http.StatusConflict:
		words = "the stream of this session is open already"
	case http.StatusNotFound:
		words = "the session has ended; begin with " + initialize
	}
	refuse(w.ResponseWriter, status, invalid(jsonrpc.ID{}, "%s", words))
}

// Write takes a message whole: the SDK writes each at once.
func (w *reworded) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil // it has been answered
	}
	if bytes.Contains(b[:min(len(b), 8*maxID)], []byte(`,"error":{`)) {
		if _, err := w.ResponseWriter.Write(rewordedError(b)); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// rewordedError is an answer, as an event or by itself, with its error in words of ours.
func rewordedError(b []byte) []byte {
	at := bytes.IndexByte(b, '{')
	text := bytes.TrimRight(b[at:], "\n")
	var said struct {
		ID    json.RawMessage
		Error *jsonrpc.Error
	}
	if json.Unmarshal(text, &said) != nil || said.Error == nil {
		return b
	}
	switch e := said.Error; {
	case strings.HasPrefix(e.Message, "handling '"):
		e.Code, e.Message = jsonrpc.CodeInvalidParams, unfit // of initialize it has no code
	case strings.HasPrefix(e.Message, "duplicate in-flight"):
		e.Message = usedID
	}
	var id jsonrpc.ID
	if said.ID != nil {
		id = identifier(said.ID)
	}
	return slices.Concat(b[:at], bytes.TrimSuffix(answer(id, nil, said.Error), newline), b[at+len(text):])
}

// read takes the message of a POST. large: it is held as that; not ok: it has been answered.
func (h *router) read(w http.ResponseWriter, r *http.Request) (m envelope, large, ok bool) {
	in := http.NewResponseController(w)
	_ = in.SetReadDeadline(time.Now().Add(h.limits.Message)) // it fails where the connection does
	from := http.MaxBytesReader(w, r.Body, int64(h.limits.Line))
	body, err := io.ReadAll(io.LimitReader(from, maxAbout+1))
	if err == nil && len(body) > maxAbout {
		if full := h.hold(h.uid); full != nil {
			refuse(w, http.StatusServiceUnavailable, fault{said: *full})
			return m, false, false
		}
		large = true
		var rest []byte
		rest, err = io.ReadAll(from)
		body = append(body, rest...)
	}
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		refuse(w, http.StatusRequestEntityTooLarge, invalid(jsonrpc.ID{}, "a message has at most %d bytes; give less in one call", h.limits.Line))
		return m, large, false
	case err != nil:
		refuse(w, http.StatusRequestTimeout, invalid(jsonrpc.ID{}, "the message did not come to its end"))
		return m, large, false
	}
	m, f := parse(body)
	if f != nil {
		refuse(w, http.StatusBadRequest, *f)
		return m, large, false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return m, large, true
}

// hostOf is a host without its port.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// isLocal says whether a host is this machine by a name that cannot be another's.
func isLocal(host string) bool {
	host = hostOf(host)
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
