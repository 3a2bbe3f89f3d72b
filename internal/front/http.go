package front

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	mcpsession "github.com/secmcpd/secmcpd/internal/session"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// HTTP for those who cannot use the Unix socket, on a socket that the operator switches on. The kernel
// names nobody there: each request bears a token, and the launcher says whose it is.
//
//	request ── visitors (host, origin) ── token ── launcher: Login ── bearer ──► MCP, events
//	                                                              └──────────► metrics, details of health

const (
	// maxHTTP bounds the connections of a listener; others are told to come again.
	maxHTTP = 256
	// loginTimeout bounds the launcher's answer about a token; it may have to be started first.
	loginTimeout = 15 * time.Second
	// bearerIdle is how long a token's handle is kept without a request.
	bearerIdle = 10 * time.Minute
)

// bearer is a caller by token, as a session is one by connection.
type bearer struct {
	session *session
	uses    []string
	ctx     context.Context // ends with the handle
	end     func()

	token [sha256.Size]byte // by which it was found; zero: not yet
	busy  int               // requests under way; guarded by f.mu, as is used
	used  time.Time
}

// serveHTTP answers on the sockets for HTTP until ctx ends.
func (f *front) serveHTTP(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make(chan error, len(f.cfg.HTTP))
	for _, l := range f.cfg.HTTP {
		d, stop := newDoor(ctx, l, maxHTTP)
		defer stop()
		f.addDoor(d)
		s := f.speaker.Server(f.httpHandler())
		if d := f.cfg.IdleExit; d > 0 { // a connection that says nothing keeps no front up for longer than nobody does
			s.IdleTimeout = min(s.IdleTimeout, d)
		}
		all.Go(func() {
			err := s.Serve(watchedDoor{d, f, beyondLoopback(l.Addr())}) // until its door ends
			closeServer(s)
			if ctx.Err() == nil {
				errs <- fmt.Errorf("cannot answer over HTTP: %w", err)
			}
		})
	}
	all.Wait()
	close(errs)
	return <-errs
}

// closeServer gives the answers under way a moment.
func closeServer(s *http.Server) {
	ctx, done := context.WithTimeout(context.Background(), adminClose)
	defer done()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}

// watchedDoor is a door whose visitors are cut off if they do not read, and turned away from a listener
// that more than this machine can reach as long as no token is in force.
type watchedDoor struct {
	*door
	f      *front
	beyond bool
}

func (d watchedDoor) Accept() (net.Conn, error) {
	for {
		conn, err := d.door.Accept()
		if err != nil {
			return nil, err
		}
		if d.beyond && !d.f.hasTokens() {
			turnAway(conn)
			continue
		}
		return d.f.speaker.Watch(conn), nil
	}
}

// beyondLoopback says whether others than this machine can reach a listener.
func beyondLoopback(a net.Addr) bool {
	if a.Network() == "unix" {
		return false
	}
	at, err := netip.ParseAddrPort(a.String())
	return err != nil || !at.Addr().Unmap().IsLoopback()
}

// hasTokens says whether any token is in force, as the launcher last said. It is asked for if it has
// not spoken yet.
func (f *front) hasTokens() bool {
	ctx, done := context.WithTimeout(f.ctx, loginTimeout)
	defer done()
	f.reach(ctx)
	for f.launcherState() == nil && ctx.Err() == nil && f.launcher() != nil {
		time.Sleep(20 * time.Millisecond) // it comes within a second of the connection
	}
	if state := f.launcherState(); state != nil && state.Tokens > 0 {
		return true
	}
	f.beyondOnce.Do(func() {
		f.log.Error("HTTP is refused on a listener that is not of this machine alone: no token is in force",
			"hint", "`secmcpd http token new USER` makes one; or let secmcpd-http.socket listen on 127.0.0.1")
	})
	return false
}

// reach is the launcher's connection. If there is none the launcher is asked to make one, and waited for
// until ctx ends; nil: it has not come.
func (f *front) reach(ctx context.Context) *link {
	for rung := false; ; rung = true {
		f.mu.Lock()
		l, arrived := f.link, f.arrived
		f.mu.Unlock()
		if l != nil || f.cfg.Bell == "" || ctx.Err() != nil {
			return l
		}
		if !rung {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", f.cfg.Bell)
			if err != nil {
				f.log.Warn("cannot ask for the launcher", "why", err)
				return nil
			}
			conn.Close()
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *front) httpHandler() http.Handler {
	admin := f.adminHandler()
	visitors := mcpsession.Visitors{Hosts: f.cfg.Hosts, Origins: f.cfg.Origins}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := visitors.Refused(r); why != "" {
			w.Header().Set("Connection", "close")
			refuseHTTP(w, http.StatusForbidden, refusalOf("not_taken", why, "the operator names others in http.hosts and http.origins"))
			return
		}
		if cors(w, r) {
			return
		}
		path := r.URL.Path
		if path != mcpsession.Path {
			w.Header().Set("Connection", "close") // whoever comes now and then keeps no front up
			if instead := replaced(path); instead != "" {
				refuseHTTP(w, http.StatusGone, refusalOf("gone", "this is not answered any more", instead))
				return
			}
			if r.Method != http.MethodGet && r.Method != http.MethodHead && slices.Contains(httpPaths, path) {
				w.Header().Set("Allow", "GET")
				refuseHTTP(w, http.StatusMethodNotAllowed, refusalOf("method", "only GET is answered here", ""))
				return
			}
		}
		switch path {
		case mcpsession.Path:
			f.asBearer(w, r, wire.ForMCP, func(b *bearer) {
				defer f.speaks()()
				f.speaker.Answer(context.WithValue(b.ctx, sessionKey{}, b.session), b.session.client.UID, w, r)
			})
		case eventsPath:
			f.asBearer(w, r, wire.ForMCP, func(b *bearer) { f.events.stream(b.ctx, w, r, b.session.client.UID, false) })
		case healthPath, readyPath:
			if r.Header.Get("Authorization") == "" {
				admin.ServeHTTP(&statusAlone{ResponseWriter: w}, r)
				return
			}
			f.asBearer(w, r, wire.ForMetrics, func(*bearer) { admin.ServeHTTP(w, r) })
		case metricsPath:
			f.asBearer(w, r, wire.ForMetrics, func(*bearer) { admin.ServeHTTP(w, r) })
		default:
			refuseHTTP(w, http.StatusNotFound, refusalOf("not_found", "there is nothing here", "there is "+mcpsession.Path+", "+strings.Join(httpPaths, ", ")))
		}
	})
}

const (
	eventsPath  = "/events"
	healthPath  = "/healthz"
	readyPath   = "/readyz"
	metricsPath = "/metrics"
)

// httpPaths are those beside MCP's. The operators' socket has them, too.
var httpPaths = []string{healthPath, readyPath, metricsPath, eventsPath}

// replaced says what stands in place of what the predecessor answered at a path; "": it answered nothing.
func replaced(path string) string {
	switch {
	case path == "/health":
		return "GET " + healthPath + " says whether it is well, with a token for metrics in detail; `secmcpd status` says all"
	case path == "/config":
		return "`secmcpd config show`, on the machine itself"
	case path == "/tools":
		return "MCP at " + mcpsession.Path + ": tools/list, and the tool capabilities"
	case strings.HasPrefix(path, "/tools/") && (strings.HasSuffix(path, "/enable") || strings.HasSuffix(path, "/disable")):
		return "`secmcpd tools enable` and `secmcpd tools disable`, on the machine itself"
	case strings.HasPrefix(path, "/tools/"):
		return "MCP at " + mcpsession.Path + ": tools/call"
	}
	return ""
}

// cors answers a browser that asks what a page of a trusted origin may send, and lets such a page read
// its answers. Every other origin was refused before. done: it has been answered.
func cors(w http.ResponseWriter, r *http.Request) (done bool) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Mcp-Session-Id, WWW-Authenticate")
	h.Add("Vary", "Origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, Mcp-Session-Id, Mcp-Protocol-Version, Mcp-Method, Mcp-Name, Last-Event-ID")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// asBearer answers a request in the name of whoever bears its token, if that is good for use.
func (f *front) asBearer(w http.ResponseWriter, r *http.Request, use string, answer func(*bearer)) {
	token, ok := tokenOf(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer realm="secmcpd"`)
		refuseHTTP(w, http.StatusUnauthorized, refusalOf("no_token", "a request has one token, as Authorization: Bearer TOKEN", "the operator makes one with `secmcpd http token new USER`"))
		return
	}
	b, refused := f.bearerOf(r.Context(), token)
	if refused != nil {
		status := http.StatusServiceUnavailable
		switch {
		case !refused.Retryable:
			status = http.StatusUnauthorized
			w.Header().Set("WWW-Authenticate", `Bearer realm="secmcpd", error="invalid_token"`)
		case strings.HasPrefix(refused.Code, "too_many"):
			status = http.StatusTooManyRequests
		}
		if refused.Retryable {
			w.Header().Set("Retry-After", fmt.Sprint(max(refused.RetryAfterS, 2)))
		}
		w.Header().Set("Connection", "close")
		refuseHTTP(w, status, *refused)
		return
	}
	defer f.release(b)
	if !slices.Contains(b.uses, use) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="secmcpd", error="insufficient_scope", scope=%q`, use))
		refuseHTTP(w, http.StatusForbidden, refusalOf("wrong_token", "this token is not for "+use, "the operator lists what it is for beside it"))
		return
	}
	answer(b)
}

// tokenOf is the token that a request bears.
func tokenOf(r *http.Request) (string, bool) {
	all := r.Header.Values("Authorization")
	if len(all) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(all[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > wire.MaxToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", false
	}
	return token, true
}

// bearerOf finds who bears a token, and holds it until release. The launcher is asked once for as long as
// the handle lives.
func (f *front) bearerOf(ctx context.Context, token string) (*bearer, *wire.Refusal) {
	key := sha256.Sum256([]byte(token))
	if b := f.hold(func() *bearer { return f.byToken[key] }); b != nil {
		return b, nil
	}
	ctx, done := context.WithTimeout(ctx, loginTimeout)
	defer done()
	unreachable := refusalOf("launcher_unreachable", "the privileged half of the daemon does not answer", "ask again in a few seconds")
	unreachable.Retryable = true
	// One at a time, also with those that are let go: a handle that is being left is not found again.
	select {
	case f.loggingIn <- struct{}{}:
		defer func() { <-f.loggingIn }()
	case <-ctx.Done():
		return nil, &unreachable
	}
	l := f.reach(ctx)
	if l == nil {
		return nil, &unreachable
	}
	reply, err := l.ask(ctx, func(seq uint64) wire.Message { return wire.Message{Login: &wire.Login{Seq: seq, Token: token}} })
	switch {
	case err != nil:
		return nil, &unreachable
	case reply.Refused != nil:
		return nil, reply.Refused
	case reply.LoggedIn == nil:
		return nil, &unreachable
	}
	b := f.hold(func() *bearer {
		b := f.bearers[reply.LoggedIn.Client.Handle] // since it was told of; it may be gone again
		if b != nil {
			f.byToken[key], b.token = b, key
		}
		return b
	})
	if b == nil {
		return nil, &unreachable
	}
	return b, nil
}

func (f *front) hold(find func() *bearer) *bearer {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := find()
	if b != nil {
		b.busy++
	}
	return b
}

func (f *front) release(b *bearer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b.busy--
	b.used = time.Now()
}

// welcome takes a bearer whom the launcher has named, before anything that it says of the handle later.
func (f *front) welcome(l *link, who wire.LoggedIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bearers[who.Client.Handle] != nil || f.link != l {
		return
	}
	b := &bearer{session: &session{client: who.Client, link: l}, uses: who.For, used: time.Now()}
	b.ctx, b.end = context.WithCancel(f.ctx)
	f.bearers[who.Client.Handle] = b
}

// forget ends a bearer. It needs f.mu.
func (f *front) forget(b *bearer) {
	delete(f.bearers, b.session.client.Handle)
	if f.byToken[b.token] == b {
		delete(f.byToken, b.token)
	}
	b.end()
}

// letGo leaves the handles of tokens that have not been used since, of which no request and no job is
// under way.
func (f *front) letGo(ctx context.Context, since time.Time) {
	select {
	case f.loggingIn <- struct{}{}:
		defer func() { <-f.loggingIn }()
	case <-ctx.Done():
		return
	}
	asked := map[*session]bool{}
	for _, j := range f.underWayAll() {
		j.mu.Lock()
		asked[j.asker] = true
		j.mu.Unlock()
	}
	f.mu.Lock()
	var left []*bearer
	for _, b := range f.bearers {
		if b.busy == 0 && !asked[b.session] && b.used.Before(since) {
			f.forget(b)
			left = append(left, b)
		}
	}
	f.mu.Unlock()
	for _, b := range left {
		f.tell(b.session.link, wire.Message{Leave: &wire.Leave{Handle: b.session.client.Handle}})
	}
}

// refusalOf is a refusal in the form that every answer here has.
func refusalOf(code, reason, hint string) wire.Refusal {
	return wire.Refusal{Code: code, Reason: reason, Hint: hint}
}

func refuseHTTP(w http.ResponseWriter, status int, r wire.Refusal) {
	answerJSON(w, status, struct {
		Error wire.Refusal `json:"error"`
	}{r})
}

// statusAlone is where health is written for whoever has no token: the status, and nothing of the rest.
type statusAlone struct {
	http.ResponseWriter
	failed, done bool
}

// WriteHeader is where it is heard how the answer ends.
func (w *statusAlone) WriteHeader(status int) {
	w.failed = status >= http.StatusBadRequest
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusAlone) Write(b []byte) (int, error) {
	if w.done {
		return len(b), nil
	}
	w.done = true
	var said struct {
		Status string `json:"status"`
	}
	_ = json.Unmarshal(b, &said) // what has no status has a code
	if said.Status == "" {
		said.Status = map[bool]string{false: "ok", true: "failed"}[w.failed]
	}
	if _, err := w.ResponseWriter.Write(append(encode(said), '\n')); err != nil {
		return 0, err
	}
	return len(b), nil
}
