package front

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/internal/wire"
)

const trusted = "https://console.example"

// overHTTP is what answers over HTTP, with one page that is trusted.
func (h *house) overHTTP() http.Handler {
	h.front.cfg.Origins = []string{trusted}
	for deadline := time.Now().Add(10 * time.Second); h.front.launcher() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("the front does not take its launcher")
		}
	}
	return h.front.httpHandler()
}

// request is one by token; "": without.
func request(method, path, token string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "localhost"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// serve answers a request of which the launcher is asked, with what it says of the token; nil: it is not asked.
func (h *house) serve(to http.Handler, r *http.Request, says *wire.Reply) *httptest.ResponseRecorder {
	h.t.Helper()
	w := httptest.NewRecorder()
	over := make(chan struct{})
	go func() {
		defer close(over)
		to.ServeHTTP(w, r)
	}()
	if says != nil {
		login := h.until(func(m wire.Message) bool { return m.Login != nil }).Login
		if want := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); login.Token != want {
			h.t.Errorf("asked for %q", login.Token)
		}
		reply := *says
		reply.Seq = login.Seq
		h.tell(wire.Message{Reply: &reply})
	}
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		h.t.Fatal("no answer")
	}
	return w
}

func named(handle uint64, uid uint32, uses ...string) *wire.Reply {
	return &wire.Reply{LoggedIn: &wire.LoggedIn{Client: wire.Client{Handle: handle, UID: uid}, For: uses}}
}

func TestTheLauncherSaysWhoseATokenIs(t *testing.T) {
	h := newHouse(t)
	h.synced()
	to := h.overHTTP()
	for name, c := range map[string]struct {
		says   *wire.Reply
		status int
		header string // that is there
	}{
		"nobody's":             {&wire.Reply{Refused: &wire.Refusal{Code: "login_failed", Reason: "r"}}, 401, "Www-Authenticate"},
		"nobody's, once more":  {&wire.Reply{Refused: &wire.Refusal{Code: "too_many_failed_logins", Reason: "r", Retryable: true}}, 429, "Retry-After"},
		"one too many":         {&wire.Reply{Refused: &wire.Refusal{Code: "busy", Reason: "r", Retryable: true}}, 503, "Retry-After"},
		"an answer that is no": {&wire.Reply{}, 503, "Retry-After"},
		"for something else":   {named(70, 1000, wire.ForMetrics), 403, "Www-Authenticate"},
	} {
		t.Run(name, func(t *testing.T) {
			w := h.serve(to, request("POST", "/mcp", "token-"+strings.ReplaceAll(name, " ", "-")), c.says)
			if w.Code != c.status || w.Header().Get(c.header) == "" || !strings.Contains(w.Body.String(), `{"error":{"code":"`) {
				t.Errorf("%d, %v: %s", w.Code, w.Header(), w.Body)
			}
		})
	}

	// It is asked once, and again when the handle has ended.
	mcp := func() *http.Request {
		r := request("POST", "/mcp", "somebody's")
		r.Body = http.NoBody
		return r
	}
	if w := h.serve(to, mcp(), named(71, 1000, wire.ForMCP)); w.Code != 400 || !strings.Contains(w.Body.String(), "jsonrpc") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	if w := h.serve(to, mcp(), nil); w.Code != 400 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	h.tell(wire.Message{Gone: &wire.Gone{Handle: 71}})
	for {
		h.front.mu.Lock()
		gone := h.front.bearers[71] == nil
		h.front.mu.Unlock()
		if gone {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if w := h.serve(to, mcp(), named(72, 1000, wire.ForMCP)); w.Code != 400 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}

	// A handle that nobody uses is left.
	h.front.letGo(t.Context(), time.Now().Add(-time.Hour))
	h.front.letGo(t.Context(), time.Now().Add(time.Hour))
	left := map[uint64]bool{}
	for range 2 { // that of metrics, too
		left[h.until(func(m wire.Message) bool { return m.Leave != nil }).Leave.Handle] = true
	}
	if !left[70] || !left[72] {
		t.Errorf("left: %v", left)
	}
}

// Without a launcher a request is not kept waiting for longer than one may be started.
func TestWithoutALauncherThereIsNobodyToAsk(t *testing.T) {
	h := newHouse(t)
	h.synced()
	to := h.overHTTP()
	h.conn.Close()
	for h.front.launcher() != nil {
		time.Sleep(time.Millisecond)
	}
	if w := h.serve(to, request("POST", "/mcp", "somebody's"), nil); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	bell, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@" + newJobID(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer bell.Close()
	h.front.cfg.Bell = bell.Addr().String()
	rung := make(chan error, 1)
	go func() {
		c, err := bell.Accept()
		if err == nil {
			c.Close()
		}
		rung <- err
	}()
	over := make(chan *httptest.ResponseRecorder)
	go func() {
		w := httptest.NewRecorder()
		to.ServeHTTP(w, request("POST", "/mcp", "somebody's"))
		over <- w
	}()
	if err := <-rung; err != nil {
		t.Fatal(err)
	}
	h.link() // it comes because of that
	login := h.until(func(m wire.Message) bool { return m.Login != nil }).Login
	reply := *named(80, 1000, wire.ForMCP)
	reply.Seq = login.Seq
	h.tell(wire.Message{Reply: &reply})
	if w := <-over; w.Code != 400 || !strings.Contains(w.Body.String(), "jsonrpc") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// A page that is trusted may ask and read; what it may send is told without a token.
func TestATrustedPageMayAsk(t *testing.T) {
	h := newHouse(t)
	h.synced()
	to := h.overHTTP()
	ask := request("OPTIONS", "/mcp", "")
	ask.Header.Set("Origin", trusted)
	ask.Header.Set("Access-Control-Request-Method", "POST")
	if w := h.serve(to, ask, nil); w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != trusted || w.Header().Get("Access-Control-Allow-Credentials") != "" ||
		!strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("%d: %v", w.Code, w.Header())
	}
	get := request("GET", "/events", "")
	get.Header.Set("Origin", trusted)
	if w := h.serve(to, get, nil); w.Code != 401 || w.Header().Get("Access-Control-Allow-Origin") != trusted || w.Header().Get("Vary") != "Origin" {
		t.Errorf("%d: %v", w.Code, w.Header())
	}
	ask.Header.Set("Origin", trusted+".attacker.example")
	if w := h.serve(to, ask, nil); w.Code != 403 || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d: %v", w.Code, w.Header())
	}
}

func TestWithoutATokenHealthIsOneWord(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"well":           {200, `{"status":"healthy","checks":{"launcher.scanners":{"message":"nmap 7.93"}}}`, `{"status":"healthy"}`},
		"not so well":    {503, `{"status":"unhealthy","reasons":["disk"]}`, `{"status":"unhealthy"}`},
		"no status":      {200, `{"live":true}`, `{"status":"ok"}`},
		"no JSON at all": {503, "the store is gone: /var/lib/secmcpd", `{"status":"failed"}`},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			alone := &statusAlone{ResponseWriter: w}
			alone.WriteHeader(c.status)
			for _, part := range []string{c.body, "more"} {
				if n, err := alone.Write([]byte(part)); n != len(part) || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			}
			if w.Code != c.status || strings.TrimSpace(w.Body.String()) != c.want {
				t.Errorf("%d: %s", w.Code, w.Body)
			}
		})
	}
}

func TestWhichListenersAreOfThisMachineAlone(t *testing.T) {
	for address, beyond := range map[string]bool{
		"127.0.0.1:8765": false, "127.8.8.8:1": false, "[::1]:8765": false, "[::ffff:127.0.0.1]:1": false,
		"0.0.0.0:8765": true, "[::]:8765": true, "10.0.0.1:80": true, "[fe80::1%eth0]:1": true,
	} {
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if beyondLoopback(a) != beyond {
			t.Errorf("%s: %v", address, !beyond)
		}
	}
	if beyondLoopback(&net.UnixAddr{Name: "/run/secmcpd/http.sock", Net: "unix"}) {
		t.Error("a path is reached from elsewhere")
	}
}
