package session

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	legacy = "2025-11-25"
	modern = stateless
)

type whoKey struct{}

// newHTTPPlace is a place with a tool that says whose connection its call came over.
func newHTTPPlace(l Limits) *place {
	p := newPlace(l)
	p.server.AddTool(&mcp.Tool{Name: "whose", Description: "whose", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(ctx.Value(whoKey{}))}}}, nil
		})
	return p
}

// browser is a client with one connection.
type browser struct {
	*client
	session string
}

func (p *place) browser(t testing.TB, uid uint32, name string) *browser {
	t.Helper()
	ours, theirs := pair(t)
	c := &client{t: t, conn: ours, in: bufio.NewReader(ours), end: make(chan error, 1)}
	go func() {
		c.end <- p.Serve(context.WithValue(context.Background(), whoKey{}, name), theirs, uid)
		close(c.end)
	}()
	t.Cleanup(func() {
		ours.Close()
		c.ended()
	})
	return &browser{client: c}
}

// request is a POST of a message, as an era's clients make it.
func (b *browser) request(version, body string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, "http://localhost"+Path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if version != "" {
		r.Header.Set(versionHeader, version)
	}
	if b.session != "" {
		r.Header.Set(sessionHeader, b.session)
	}
	if version == modern {
		var m struct {
			Method string
			Params struct{ Name string }
		}
		_ = json.Unmarshal([]byte(body), &m) // a test may say anything
		r.Header.Set("Mcp-Method", m.Method)
		if m.Params.Name != "" {
			r.Header.Set("Mcp-Name", m.Params.Name)
		}
	}
	return r
}

// send makes a request and reads its answer whole.
func (b *browser) send(r *http.Request) (int, http.Header, message) {
	b.t.Helper()
	if err := r.Write(b.conn); err != nil {
		b.t.Fatal(err)
	}
	return b.receive(r)
}

func (b *browser) receive(r *http.Request) (status int, h http.Header, m message) {
	b.t.Helper()
	_ = b.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	a, err := http.ReadResponse(b.in, r)
	if err != nil {
		b.t.Fatal(err)
	}
	body, err := io.ReadAll(a.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	m.line = string(body)
	if _, data, ok := bytes.Cut(body, []byte("data: ")); ok {
		body = data
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &m); err != nil {
			b.t.Fatalf("%q: %v", m.line, err)
		}
	}
	return a.StatusCode, a.Header, m
}

func (b *browser) begin() *browser {
	b.t.Helper()
	first, second, _ := strings.Cut(hello, "\n")
	status, h, m := b.send(b.request("", first))
	if b.session = h.Get(sessionHeader); status != http.StatusOK || b.session == "" {
		b.t.Fatalf("%d, %v, %s", status, h, m.line)
	}
	if status, _, m := b.send(b.request(legacy, second)); status != http.StatusAccepted {
		b.t.Fatalf("%d: %s", status, m.line)
	}
	return b
}

// call is a tools/call of either era.
func (b *browser) call(version string, id any, tool string) *http.Request {
	body := calling(id, tool)
	if version == modern {
		body = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, plain(id), tool)
	}
	return b.request(version, body)
}

// eras has what is true in each.
func eras(t *testing.T, do func(t *testing.T, version string)) {
	for _, version := range []string{legacy, modern} {
		t.Run(version, func(t *testing.T) { do(t, version) })
	}
}

func (p *place) of(t *testing.T, version string, uid uint32, name string) *browser {
	b := p.browser(t, uid, name)
	if version == legacy {
		b.begin()
	}
	return b
}

func TestBothErasAreAtOneURL(t *testing.T) {
	p := newHTTPPlace(Limits{})
	b := p.browser(t, 1000, "a")
	if _, _, m := b.send(b.call(modern, 1, "whose")); !strings.Contains(string(m.Result), `"text":"a"`) || !strings.Contains(string(m.Result), `"resultType":"complete"`) {
		t.Errorf("without a session: %s", m.line)
	}
	b.begin()
	if _, _, m := b.send(b.call(legacy, 2, "whose")); !strings.Contains(string(m.Result), `"text":"a"`) {
		t.Errorf("in a session: %s", m.line)
	}
	if _, _, m := b.send(b.call(modern, 3, "whose")); !strings.Contains(string(m.Result), `"resultType":"complete"`) {
		t.Errorf("without a session, on the same connection: %s", m.line)
	}
	r := b.request(legacy, "")
	r.Method = http.MethodDelete
	if status, _, m := b.send(r); status != http.StatusNoContent {
		t.Errorf("DELETE: %d, %s", status, m.line)
	}
	if status, _, m := b.send(b.call(legacy, 4, "whose")); status != http.StatusNotFound || m.code() != codeNoSession {
		t.Errorf("after DELETE: %d, %s", status, m.line)
	}
	p.nothingUnderWay(t)
}

// The values of a call's context are its own connection's: the one that opened the session may be
// gone, and with it the handle by which the launcher knows the caller.
func TestACallHasTheValuesOfTheConnectionItCameOver(t *testing.T) {
	p := newHTTPPlace(Limits{})
	first := p.browser(t, 1000, "first").begin()
	second := p.browser(t, 1000, "second")
	second.session = first.session
	for _, gone := range []bool{false, true} {
		if gone {
			first.conn.Close()
			if err := first.ended(); err != nil {
				t.Error(err)
			}
		}
		if status, _, m := second.send(second.call(legacy, 1, "whose")); !strings.Contains(string(m.Result), `"text":"second"`) {
			t.Errorf("with the first connection gone: %v: %d, %s", gone, status, m.line)
		}
	}
}

func TestASessionIsItsUsersAlone(t *testing.T) {
	p := newHTTPPlace(Limits{})
	owner := p.browser(t, 1000, "owner").begin()
	thief := p.browser(t, 1001, "thief")
	for _, id := range []string{owner.session, "NOTASESSION"} {
		thief.session = id
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			r := thief.call(legacy, 1, "whose")
			if r.Method = method; method != http.MethodPost {
				r.Body, r.ContentLength = nil, 0
			}
			r.Header.Set("Authorization", "Bearer 1000")
			status, h, m := thief.send(r)
			if status != http.StatusNotFound || m.code() != codeNoSession || h.Get(sessionHeader) != "" {
				t.Errorf("%s of another user's session: %d, %s", method, status, m.line)
			}
		}
	}
	if _, _, m := owner.send(owner.call(legacy, 2, "whose")); m.Result == nil {
		t.Errorf("its own: %s", m.line)
	}
}

func TestWhatTheRouterRefuses(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set(versionHeader, modern)
			r.Header.Set("Mcp-Method", "tools/list")
			r.Header.Set(name, value)
		}
	}
	p := newHTTPPlace(Limits{Line: 1 << 10})
	for name, c := range map[string]struct {
		change func(*http.Request)
		body   string
		status int
		code   int64
	}{
		"another path":             {func(r *http.Request) { r.URL.Path = "/metrics" }, "{}", 404, -32600},
		"the path and more":        {func(r *http.Request) { r.URL.Path = Path + "/x" }, "{}", 404, -32600},
		"PUT":                      {func(r *http.Request) { r.Method = "PUT" }, "{}", 405, -32600},
		"OPTIONS":                  {func(r *http.Request) { r.Method = "OPTIONS" }, "", 405, -32600},
		"GET without a session":    {func(r *http.Request) { r.Method = "GET" }, "", 405, -32600},
		"DELETE without a session": {func(r *http.Request) { r.Method = "DELETE" }, "", 405, -32600},
		"GET without sessions":     {func(r *http.Request) { r.Method = "GET"; r.Header.Set(versionHeader, modern) }, "", 405, -32600},
		"a version of before":      {func(r *http.Request) { r.Header.Set(versionHeader, "2024-11-05") }, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, 400, -32022},
		"a version to come":        {func(r *http.Request) { r.Header.Set(versionHeader, "2099-01-01") }, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, 400, -32022},
		"no version":               {func(r *http.Request) { r.Header.Set(versionHeader, strings.Repeat("z", 1000)) }, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, 400, -32022},
		"another host":             {func(r *http.Request) { r.Host = "attacker.example" }, "{}", 403, -32600},
		"a host that looks local":  {func(r *http.Request) { r.Host = "localhost.attacker.example:80" }, "{}", 403, -32600},
		"another origin":           {func(r *http.Request) { r.Header.Set("Origin", "http://attacker.example") }, "{}", 403, -32600},
		"a page's request":         {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, "{}", 403, -32600},
		"no JSON":                  {nil, "{", 400, -32700},
		"nothing":                  {nil, "", 400, -32700},
		"no Unicode":               {nil, "\"\xff\"", 400, -32700},
		"a batch":                  {nil, `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, 400, -32600},
		"a name twice":             {nil, `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, 400, -32600},
		"a name in capitals":       {nil, `{"jsonrpc":"2.0","id":1,"METHOD":"ping"}`, 400, -32600},
		"an id of a half":          {nil, `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, 400, -32600},
		"too long":                 {nil, `{"jsonrpc":"2.0","id":1,"method":"` + strings.Repeat("x", 1<<10) + `"}`, 413, -32600},
		"a call before initialize": {nil, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, 400, -32600},
		"era in the body alone":    {nil, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 400, -32020},
		"era in the header alone":  {header("X", ""), `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, 400, -32602},
		"eras that differ":         {header(versionHeader, legacy), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 400, -32020},
		"another method":           {header("Mcp-Method", "tools/call"), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 400, -32020},
		"no method":                {header("Mcp-Method", ""), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 400, -32020},
		"another tool":             {header("Mcp-Name", "wait"), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",` + meta + `}}`, 400, -32020},
		"no name":                  {header("X", ""), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",` + meta + `}}`, 400, -32020},
		"a name that is none":      {header("Mcp-Name", "7"), `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":7,` + meta + `}}`, 400, -32020},
		"another resource":         {header("Mcp-Name", "a:c"), `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b",` + meta + `}}`, 400, -32020},
		"another task":             {header("Mcp-Name", "a"), `{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"b",` + meta + `}}`, 400, -32020},
		"nothing that it can do":   {header("X", ""), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, 400, -32602},
		"no such method":           {header("Mcp-Method", "no/such"), `{"jsonrpc":"2.0","id":1,"method":"no/such","params":{` + meta + `}}`, 404, -32601},
		"a method of sessions":     {header("Mcp-Method", "ping"), `{"jsonrpc":"2.0","id":1,"method":"ping","params":{` + meta + `}}`, 404, -32601},
		"a notification's method":  {header("Mcp-Method", "notifications/cancelled"), `{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled","params":{` + meta + `}}`, 404, -32601},
		"parameters that differ":   {header("X", ""), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":{},` + meta + `}}`, 400, -32602},
		"no JSON by its type":      {header("Content-Type", "text/plain"), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 415, -32600},
		"nothing that it accepts":  {header("Accept", "application/json"), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 406, -32600},
		"where a stream ended":     {header("Last-Event-ID", "x_1"), `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta + `}}`, 400, -32600},
	} {
		t.Run(name, func(t *testing.T) {
			b := p.browser(t, 1000, "a")
			r := b.request("", c.body)
			if c.change != nil {
				c.change(r)
			}
			status, h, m := b.send(r)
			if status != c.status || m.code() != c.code || h.Get("Content-Type") != "application/json" {
				t.Errorf("%d, %s: %s", status, h.Get("Content-Type"), m.line)
			}
			if len(m.line) > 512 {
				t.Errorf("an answer of %d bytes", len(m.line))
			}
			for _, theirs := range []string{"mcp.", "json:", "unmarshal", "mismatch", "unsupported", "not handled", "invalid request:"} {
				if strings.Contains(m.line, theirs) {
					t.Errorf("what the SDK would say: %s", m.line)
				}
			}
		})
	}
	if log := p.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
}

// What a session is refused within the SDK is told in words of ours, too.
func TestWhatASessionIsRefused(t *testing.T) {
	p := newHTTPPlace(Limits{})
	b := p.browser(t, 1000, "a").begin()
	side := p.browser(t, 1000, "b")
	side.session = b.session
	get := func(b *browser) *http.Request {
		r := b.request(legacy, "")
		r.Method = http.MethodGet
		return r
	}
	stream := p.browser(t, 1000, "c")
	stream.session = b.session
	if err := get(stream).Write(stream.conn); err != nil {
		t.Fatal(err)
	}
	if a, err := http.ReadResponse(stream.in, nil); err != nil || a.StatusCode != http.StatusOK {
		t.Fatal(a, err)
	}
	if err := b.call(legacy, 1, "wait").Write(b.conn); err != nil {
		t.Fatal(err)
	}
	<-p.begun
	again := get(side)
	again.Header.Set("Last-Event-ID", "x")
	for name, c := range map[string]struct {
		r      *http.Request
		status int
		want   string
	}{
		"a second stream":           {get(side), 409, `"code":-32600,"message":"the stream of this session is open already"`},
		"a stream taken up":         {again, 400, `"code":-32600,"message":"a stream cannot be taken up again`},
		"an id that is used":        {side.call(legacy, 1, "echo"), 400, `"id":1,"error":{"code":-32600,"message":"` + usedID + `"`},
		"no session to begin with":  {p.browser(t, 1000, "d").request("", `{"jsonrpc":"2.0","id":8,"method":"initialize","params":{"protocolVersion":7}}`), 200, `"id":8,"error":{"code":-32602,"message":"` + unfit + `"`},
		"a name that is none":       {side.request(legacy, `{"jsonrpc":"2.0","id":"<2>","method":"tools/call","params":{"name":7}}`), 200, `"id":"<2>","error":{"code":-32602,"message":"` + unfit + `"`},
		"a cursor that is none":     {side.request(legacy, `{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{"cursor":7}}`), 200, `"id":3,"error":{"code":-32602,"message":"` + unfit + `"`},
		"no such tool, at length":   {side.call(legacy, 4, strings.Repeat("n", 5000)), 200, `nnn…"`},
		"no such method":            {side.request(legacy, `{"jsonrpc":"2.0","id":5,"method":"no/such"}`), 400, `"id":5,"error":{"code":-32601,"message":"there is no such method"`},
		"a result that is as it is": {side.request(legacy, `{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","arguments":{"a":1,"error":{"code":1,"message":"handling '"}}}}`), 200, `\"error\":{\"code\":1,\"message\":\"handling '\"}`},
	} {
		status, h, m := side.send(c.r)
		if status != c.status || !strings.Contains(m.line, c.want) || strings.Contains(m.line, "mcp.") || len(m.line) > 1000 {
			t.Errorf("%s: %d, %v, %s", name, status, h, m.line)
		}
	}
	close(p.release)
	if _, _, m := b.receive(nil); m.Result == nil {
		t.Errorf("%s", m.line)
	}
}

func TestWhoseRequestsAreTaken(t *testing.T) {
	v := Visitors{Hosts: []string{"scans.example"}, Origins: []string{"https://console.example:8443"}}
	for name, c := range map[string]struct {
		host, origin, site string
		taken              bool
	}{
		"a program of this machine":           {host: "localhost:8765", taken: true},
		"by a loopback address":               {host: "[::1]:8765", taken: true},
		"by a name that is listed":            {host: "Scans.example:443", taken: true},
		"by a name of a page's":               {host: "attacker.example:8765"},
		"by a name that ends as a listed one": {host: "not-scans.example"},
		"without a host":                      {},
		"a page that is listed":               {host: "localhost", origin: "https://console.example:8443", site: "cross-site", taken: true},
		"the same on another port":            {host: "localhost", origin: "https://console.example"},
		"the same without TLS":                {host: "localhost", origin: "http://console.example:8443"},
		"a page of another":                   {host: "localhost", origin: "https://attacker.example"},
		"a page of nobody":                    {host: "localhost", origin: "null"},
		"what is no origin":                   {host: "localhost", origin: "localhost"},
		"a page of this machine":              {host: "localhost:80", origin: "http://localhost:8080"},
		"a page of the same host":             {host: "localhost:8765", origin: "http://localhost:8765", site: "same-origin", taken: true},
		"a page, by its picture":              {host: "localhost", site: "cross-site"},
		"a page of a neighbour":               {host: "localhost", site: "same-site"},
		"who types the address":               {host: "localhost", site: "none", taken: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				r := httptest.NewRequest(method, "/mcp", nil)
				r.Host = c.host
				for header, value := range map[string]string{"Origin": c.origin, "Sec-Fetch-Site": c.site} {
					if value != "" {
						r.Header.Set(header, value)
					}
				}
				if why := v.Refused(r); (why == "") != c.taken {
					t.Errorf("%s: %q", method, why)
				}
			}
		})
	}
	r := httptest.NewRequest(http.MethodGet, "/mcp", nil)
	r.Host = "localhost"
	r.Header["Origin"] = []string{"https://console.example:8443", "https://attacker.example"}
	if v.Refused(r) == "" {
		t.Error("two origins, of which one is listed, are taken")
	}
}

func TestHostsOfThisMachine(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:80": true, "127.0.0.1": true, "127.0.0.1:8080": true, "[::1]": true, "[::1]:80": true,
		"": false, "localhost.": false, "127.0.0.1.nip.io": false, "10.0.0.1": false, "example.org": false, "[::2]:80": false,
	} {
		if isLocal(host) != want {
			t.Errorf("%q", host)
		}
	}
}

func TestAClientThatIsGoneDoesNotCancelItsCallOverHTTP(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		p := newHTTPPlace(Limits{})
		b := p.of(t, version, 1000, "a")
		if err := b.call(version, 1, "wait").Write(b.conn); err != nil {
			t.Fatal(err)
		}
		<-p.begun
		b.conn.Close()
		if <-p.endings {
			t.Error("its going away counts as a cancellation")
		}
		b.ended()
		p.nothingUnderWay(t)
		if log := p.log.String(); log != "" {
			t.Errorf("logged: %s", log)
		}
	})
}

func TestASessionsCallsAreCancelledByMessageAndEndedByDelete(t *testing.T) {
	for name, cancelled := range map[string]bool{"message": true, "DELETE": false} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPlace(Limits{})
			b := p.browser(t, 1000, "a").begin()
			other := p.browser(t, 1000, "b")
			other.session = b.session
			if err := b.call(legacy, 1, "wait").Write(b.conn); err != nil {
				t.Fatal(err)
			}
			<-p.begun
			r := other.request(legacy, cancelling(1))
			if !cancelled {
				r = other.request(legacy, "")
				r.Method = http.MethodDelete
			}
			if status, _, m := other.send(r); status/100 != 2 {
				t.Fatalf("%d: %s", status, m.line)
			}
			if <-p.endings != cancelled {
				t.Errorf("cancelled: %v", !cancelled)
			}
		})
	}
}

func TestTheEndOfAConnectionHereEndsItsCalls(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		p := newHTTPPlace(Limits{})
		ctx, hangUp := context.WithCancel(context.Background())
		ours, theirs := pair(t)
		defer ours.Close()
		b := &browser{client: &client{t: t, conn: ours, in: bufio.NewReader(ours), end: make(chan error, 1)}}
		go func() { b.end <- p.Serve(ctx, theirs, 1000) }()
		if version == legacy {
			b.begin()
		}
		if err := b.call(version, 1, "wait").Write(b.conn); err != nil {
			t.Fatal(err)
		}
		<-p.begun
		hangUp()
		if <-p.endings {
			t.Error("that counts as a cancellation")
		}
		b.ended()
		p.nothingUnderWay(t)
	})
}

func TestAPanicEndsOneCallOverHTTP(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		p := newHTTPPlace(Limits{})
		b := p.of(t, version, 1000, "a")
		if _, _, m := b.send(b.call(version, 1, "panic")); m.code() != -32603 || strings.Contains(m.line, "mistake") {
			t.Errorf("%s", m.line)
		}
		if _, _, m := b.send(b.call(version, 2, "whose")); m.Result == nil {
			t.Errorf("the next: %s", m.line)
		}
		if n := strings.Count(p.log.String(), "a handler panicked"); n != 1 || strings.Contains(p.log.String(), "mistake") {
			t.Errorf("logged: %s", p.log.String())
		}
	})
}

func TestAnErrorThatCannotBeWrittenDoesNotEndASession(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		b := newHTTPPlace(Limits{}).of(t, version, 1000, "a")
		if _, _, m := b.send(b.call(version, 1, "unsayable")); m.code() != -32602 || !strings.Contains(m.line, "Resource not found") {
			t.Errorf("%s", m.line)
		}
		if _, _, m := b.send(b.call(version, 2, "whose")); m.Result == nil {
			t.Errorf("the next: %s", m.line)
		}
	})
}

func TestCallsCountAgainstTheSameLimitsInBothFramings(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		p := newHTTPPlace(Limits{InFlightUID: 2})
		lines := p.greeted(t, 1000)
		lines.say("%s", calling(1, "wait"))
		<-p.begun
		b := p.of(t, version, 1000, "b")
		if err := b.call(version, 1, "wait").Write(b.conn); err != nil {
			t.Fatal(err)
		}
		<-p.begun
		c := p.browser(t, 1000, "c")
		if _, _, m := c.send(c.call(modern, 1, "echo")); m.code() != codeBusy {
			t.Errorf("over HTTP: %s", m.line)
		}
		lines.say("%s", calling(2, "echo"))
		if m := lines.hear(); m.code() != codeBusy {
			t.Errorf("by lines: %s", m.line)
		}
		other := p.browser(t, 1001, "other")
		if _, _, m := other.send(other.call(modern, 1, "echo")); m.Result == nil {
			t.Errorf("another user: %s", m.line)
		}
		close(p.release)
		if _, _, m := b.receive(nil); m.Result == nil {
			t.Errorf("%s", m.line)
		}
		lines.hear()
		p.nothingUnderWay(t)
	})
}

func TestHTTPSessionsAreBoundedAndEnd(t *testing.T) {
	p := newHTTPPlace(Limits{Sessions: 3, SessionsUID: 2})
	first, _, _ := strings.Cut(hello, "\n")
	full := func(uid uint32) bool {
		b := p.browser(t, uid, "full")
		_, _, m := b.send(b.request("", first))
		return m.code() == codeBusy
	}
	a := p.browser(t, 1000, "a").begin()
	p.browser(t, 1000, "b").begin()
	if !full(1000) {
		t.Error("a third of one user")
	}
	p.browser(t, 1001, "c").begin()
	if !full(1001) {
		t.Error("a fourth in all")
	}
	r := a.request(legacy, "")
	r.Method = http.MethodDelete
	a.send(r)
	for begun := time.Now(); full(1001); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			t.Fatal("an ended session still counts")
		}
	}
	p.Close()
	p.http.mu.Lock()
	defer p.http.mu.Unlock()
	if len(p.http.open) > 0 {
		t.Errorf("%d sessions after the end", len(p.http.open))
	}
}

func TestAfterTheEndNoSessionBegins(t *testing.T) {
	p := newHTTPPlace(Limits{})
	p.Close()
	first, _, _ := strings.Cut(hello, "\n")
	b := p.browser(t, 1000, "a")
	if _, _, m := b.send(b.request("", first)); m.code() != codeBusy {
		t.Errorf("%s", m.line)
	}
}

func TestAnIdleHTTPSessionEnds(t *testing.T) {
	p := newHTTPPlace(Limits{HTTPSession: 100 * time.Millisecond})
	b := p.browser(t, 1000, "a").begin()
	for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		other := p.browser(t, 1000, "b") // idle connections end, too
		other.session = b.session
		if status, _, _ := other.send(other.call(legacy, 1, "whose")); status == http.StatusNotFound {
			return
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal("it does not")
		}
	}
}

// A stream that only listens ends with its session, and with its client.
func TestTheStreamOfASessionEnds(t *testing.T) {
	p := newHTTPPlace(Limits{})
	b := p.browser(t, 1000, "a").begin()
	stream := p.browser(t, 1000, "b")
	stream.session = b.session
	r := stream.request(legacy, "")
	r.Method = http.MethodGet
	if err := r.Write(stream.conn); err != nil {
		t.Fatal(err)
	}
	a, err := http.ReadResponse(stream.in, r)
	if err != nil || a.StatusCode != http.StatusOK {
		t.Fatal(a, err)
	}
	r = b.request(legacy, "")
	r.Method = http.MethodDelete
	b.send(r)
	_ = stream.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if rest, err := io.ReadAll(a.Body); err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestSlowClientsOverHTTPAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		said string
		want int // status; 0: none
	}{
		"a header without end": {"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX: ", 0},
		"a body without end":   {"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", http.StatusRequestTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHTTPPlace(Limits{FirstByte: 200 * time.Millisecond, Message: 200 * time.Millisecond})
			b := p.browser(t, 1000, "slow")
			if _, err := io.WriteString(b.conn, c.said); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for { // a byte now and then does not help
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						_, _ = io.WriteString(b.conn, "x")
					}
				}
			}()
			if c.want != 0 {
				if status, _, m := b.receive(nil); status != c.want || m.code() != -32600 {
					t.Errorf("%d: %s", status, m.line)
				}
			}
			begun := time.Now()
			b.ended()
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestAClientThatDoesNotReadOverHTTPIsCutOff(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		p := newHTTPPlace(Limits{Write: 200 * time.Millisecond})
		b := p.of(t, version, 1000, "stalled")
		go func() {
			for range 100 { // some MiB of answers that nobody reads
				if b.call(version, 1, "large").Write(b.conn) != nil {
					return
				}
			}
		}()
		if err := b.ended(); err == nil || err.Error() != "the client stopped reading" {
			t.Errorf("it ended with %v", err)
		}
		p.nothingUnderWay(t)
	})
}

// A long call outlives every deadline that is about the client's own speaking.
func TestALongCallIsNotCutOff(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		p := newHTTPPlace(Limits{FirstByte: 100 * time.Millisecond, Message: 100 * time.Millisecond, Write: 100 * time.Millisecond})
		b := p.of(t, version, 1000, "patient")
		r := b.call(version, 1, "wait")
		if err := r.Write(b.conn); err != nil {
			t.Fatal(err)
		}
		<-p.begun
		time.Sleep(400 * time.Millisecond)
		close(p.release)
		if _, _, m := b.receive(r); m.Result == nil {
			t.Errorf("%s", m.line)
		}
	})
}

func TestAThousandHTTPConnectionsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		p := newHTTPPlace(Limits{Sessions: 1000, SessionsUID: 1000})
		for i := range 1000 {
			ours, theirs := net.Pipe()
			end := make(chan error, 1)
			go func() { end <- p.Serve(context.Background(), theirs, 1000) }()
			b := &browser{client: &client{t: t, conn: ours, in: bufio.NewReader(ours)}}
			if i%2 == 0 {
				b.begin()
			} else {
				b.send(b.call(modern, i, "whose"))
			}
			ours.Close()
			<-end
		}
		p.Close()
		p.nothingUnderWay(t)
	})
}

// Whatever a client sends for a request is answered in words of ours, and costs nobody else anything.
func FuzzRequest(f *testing.F) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	f.Add("POST", modern, "tools/call", "echo", "*/*", "application/json", "", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{},`+meta+`}}`)
	f.Add("POST", modern, "prompts/get", "x", "text/*, application/*", "application/json; charset=utf-8", "", `{"jsonrpc":"2.0","id":"a","method":"prompts/get","params":{"name":"x",`+meta+`}}`)
	f.Add("POST", modern, "server/discover", "", "*/*", "application/json", "", `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{`+meta+`}}`)
	f.Add("POST", modern, "completion/complete", "", "*/*", "application/json", "", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":7,`+meta+`}}`)
	f.Add("POST", modern, "resources/read", "a:b", "*/*", "application/json", "", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b",`+meta+`}}`)
	f.Add("POST", legacy, "", "", "*/*", "application/json", "", strings.Split(hello, "\n")[0])
	f.Add("POST", "", "", "", "*/*", "application/json", "x_1", strings.Split(hello, "\n")[0])
	f.Add("GET", modern, "", "", "text/event-stream", "", "", "")
	f.Add("DELETE", "", "", "", "", "", "", "[]")
	f.Add("POST", modern, "tools/list", "", "*/*", "application/json", "", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":{},`+meta+`}}`)
	f.Fuzz(func(t *testing.T, method, version, mcpMethod, name, accept, contentType, event, body string) {
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		r, err := http.NewRequestWithContext(ctx, method, "http://localhost"+Path, strings.NewReader(body))
		if err != nil {
			return
		}
		for header, value := range map[string]string{versionHeader: version, "Mcp-Method": mcpMethod, "Mcp-Name": name, "Accept": accept, "Content-Type": contentType, "Last-Event-ID": event} {
			if value != "" {
				r.Header.Set(header, value)
			}
		}
		if strings.Contains(body, listen) || strings.Contains(body, `\u`) || strings.Contains(body, "wait") || strings.Contains(body, "flood") {
			return // it would last as long as its client
		}
		p := newHTTPPlace(Limits{})
		w := httptest.NewRecorder()
		p.safely(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.Answer(ctx, 1000, w, r) })).ServeHTTP(w, r)
		said := w.Body.String()
		if w.Code >= 500 || w.Code >= 400 && !strings.HasPrefix(said, `{"jsonrpc":"2.0","id":`) {
			t.Errorf("%d: %s", w.Code, said)
		}
		if _, failed, is := strings.Cut(said, `,"error":{`); is && !strings.Contains(said, `"result":`) {
			for _, theirs := range []string{"mcp.", "unmarshal", "jsonrpc2", "handling '", "Go "} {
				if strings.Contains(failed, theirs) && !strings.Contains(body, theirs) && !strings.Contains(name, theirs) {
					t.Errorf("%d: %s", w.Code, said)
				}
			}
		}
		p.Close()
		p.nothingUnderWay(t)
	})
}
