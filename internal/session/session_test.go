package session

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// place is a speaker with a few tools, and what became of their calls.
type place struct {
	*Speaker
	log     syncBuffer
	release chan struct{}      // lets the calls of "wait" end
	begun   chan struct{}      // one of them has begun
	endings chan bool          // it was ended from outside; true: cancelled by its client
	flooded chan time.Duration // how long "flood" took
	ready   atomic.Int32       // results that were ready
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newPlace(l Limits) *place {
	p := &place{release: make(chan struct{}), begun: make(chan struct{}, 1<<16), endings: make(chan bool, 1<<16), flooded: make(chan time.Duration, 1<<10)}
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ServerOptions{
		SupportedProtocolVersions: Versions(), Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}}})
	tool := func(name string, h mcp.ToolHandler) {
		server.AddTool(&mcp.Tool{Name: name, Description: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, h)
	}
	say := func(text string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}
	}
	tool("echo", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return say(string(r.Params.Arguments)), nil
	})
	tool("large", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return say(strings.Repeat("x", 64<<10)), nil
	})
	tool("wait", func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		p.begun <- struct{}{}
		select {
		case <-p.release:
			return say("released"), nil
		case <-ctx.Done():
			p.endings <- Cancelled(ctx)
			return nil, ctx.Err()
		}
	})
	tool("flood", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		began := time.Now()
		for i := range 10000 {
			_ = r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i + 1), Message: strings.Repeat("x", 1000)})
		}
		p.flooded <- time.Since(began)
		return say("flooded"), nil
	})
	tool("panic", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("a parser's mistake") })
	tool("fail", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, fmt.Errorf("a wrong argument: %w", errors.New("sqlite: /var/lib/secret is gone"))
	})
	tool("unreadable", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, fmt.Errorf("secret: %w", staged{})
	})
	tool("unsayable", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, mcp.ResourceNotFoundError("a\x00b\a")
	})
	tool("ask", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "sure?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{}}})
		if err != nil {
			return say("no answer"), nil
		}
		return say(answer.Action), nil
	})
	p.Speaker = New(server, l, slog.New(slog.NewTextHandler(&p.log, nil)))
	return p
}

// staged is an error that says what it is about.
type staged struct{}

func (staged) Error() string { return "the secret cannot be read" }
func (staged) Stage() string { return "cannot read job: disk I/O error" }

// prepared is a place where the results of "large" are ready, and of "echo" but for some arguments.
func prepared(l Limits) *place {
	p := newPlace(l)
	p.Info = json.RawMessage(`{"name":"test","version":"1"}`)
	p.Ready = func(_ context.Context, tool string, arguments json.RawMessage) json.RawMessage {
		if tool == "panic" {
			panic("found nothing")
		}
		text := string(arguments)
		switch {
		case tool == "large":
			text = strings.Repeat("x", 64<<10)
		case tool != "echo", text == `{"ready":false}`:
			return nil
		}
		p.ready.Add(1)
		b, err := json.Marshal(&mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}})
		if err != nil {
			panic(err)
		}
		return b
	}
	return p
}

// client is the other end of a connection that is served.
type client struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	end  chan error // of Serve
}

func pair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

func (p *place) client(t testing.TB, uid uint32) *client {
	t.Helper()
	ours, theirs := pair(t)
	c := p.serve(t, ours, theirs, uid)
	t.Cleanup(func() {
		ours.Close()
		c.ended()
	})
	return c
}

func (p *place) serve(t testing.TB, ours, theirs net.Conn, uid uint32) *client {
	c := &client{t: t, conn: ours, in: bufio.NewReader(ours), end: make(chan error, 1)}
	go func() {
		c.end <- p.Serve(context.Background(), theirs, uid)
		close(c.end)
	}()
	return c
}

const hello = `{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"test","version":"1"}}}` + "\n" +
	`{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n"

func (p *place) greeted(t testing.TB, uid uint32) *client {
	t.Helper()
	c := p.client(t, uid)
	c.say(hello)
	if a := c.hear(); a.ID != "hello" || a.Error != nil {
		t.Fatalf("%+v", a)
	}
	return c
}

func (c *client) say(format string, args ...any) {
	c.t.Helper()
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatal(err)
	}
}

func calling(id any, tool string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{},"_meta":{"progressToken":%s}}}`+"\n", plain(id), tool, plain(id))
}

func cancelling(id any) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s,"reason":"r"}}`+"\n", plain(id))
}

// message is whatever the server says.
type message struct {
	line   string
	ID     any
	Method string
	Result json.RawMessage
	Params struct {
		Progress float64
	}
	Error *jsonrpc.Error
}

func (m message) code() int64 {
	if m.Error == nil {
		return 0
	}
	return m.Error.Code
}

func (c *client) hearLine() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	line, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("the server says %q, %v", line, err)
	}
	return line
}

func (c *client) hear() (m message) {
	c.t.Helper()
	m.line = c.hearLine()
	if err := json.Unmarshal([]byte(m.line), &m); err != nil {
		c.t.Fatalf("%q: %v", m.line, err)
	}
	return m
}

func (c *client) ended() error {
	c.t.Helper()
	select {
	case err := <-c.end:
		return err
	case <-time.After(20 * time.Second):
		c.t.Fatal("the connection does not end")
	}
	return nil
}

func (p *place) nothingUnderWay(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls != 0 || len(p.byUID) != 0 || len(p.large) != 0 {
		t.Errorf("%d calls are still counted, of %v, and large messages of %v", p.calls, p.byUID, p.large)
	}
}

// Each file is one session: the client's lines, and what each is answered. A line after "- " has no
// answer, one after "+ " has two.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no session (%v)", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, newPlace(Limits{}), string(archive.Files[0].Data))
			if *update {
				archive.Files = []txtar.File{archive.Files[0], {Name: "server", Data: []byte(got)}}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(archive.Files[1].Data); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if short := play(t, prepared(Limits{}), string(archive.Files[0].Data)); short != got {
				t.Errorf("where results are ready, got\n%s\nwant\n%s", short, got)
			}
		})
	}
}

// play says a client's lines, one after the other, and returns the server's.
func play(t *testing.T, p *place, sent string) string {
	c := p.client(t, 1000)
	var got strings.Builder
	for line := range strings.Lines(sent) {
		answers := 1
		if line[0] == '-' || line[0] == '+' {
			answers, line = 1+int(',')-int(line[0]), line[2:] // '+', ',', '-'
		}
		c.say("%s", line)
		for range answers {
			got.WriteString(c.hearLine())
		}
	}
	return got.String()
}

// A result that is ready is sent where the SDK would send the same, and nowhere else; the call counts
// against the limits.
func TestAResultThatIsReady(t *testing.T) {
	for _, x := range []struct {
		hello, params string
		ready         int32
	}{
		{hello, `{"name":"echo","arguments":{}}`, 1},
		{hello, `{"name":"echo","arguments":{"a":"<\u00e9>"},"_meta":{"progressToken":7,"claudecode/toolUseId":"x"}}`, 1},
		{hello, `{"name":"echo","arguments":{"ready":false}}`, 0},
		{hello, `{"name":"panic"}`, 0},
		{hello, `{"name":"echo","arguments":{},"requestState":"x"}`, 0},
		{hello, `{"name":"echo","arguments":{},"inputResponses":7}`, 0},
		{hello, `{"name":7,"arguments":{}}`, 0},
		{hello, `{"name":null,"arguments":{}}`, 0},
		{hello, `{"name":"echo","arguments":{},"_meta":7}`, 0},
		{hello, `{"name":"echo","arguments":{},"_meta":{"n":1e999}}`, 0},
		{hello, `{"name":"echo","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`, 0},
		{strings.Replace(hello, "2025-11-25", "2025-06-18", 1), `{"name":"echo","arguments":{}}`, 1},
		{strings.Replace(hello, "2025-11-25", "2026-07-28", 1), `{"name":"echo","arguments":{}}`, 0},
		{strings.Replace(hello, "2025-11-25", "2024-11-05", 1), `{"name":"echo","arguments":{}}`, 0},
		{`{"jsonrpc":"2.0","id":"hello","method":"ping"}`, `{"name":"echo","arguments":{}}`, 0},
		{`{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":7}}`, `{"name":"echo","arguments":{}}`, 0},
	} {
		var answers []string
		p := prepared(Limits{})
		for _, p := range []*place{newPlace(Limits{}), p} {
			c := p.client(t, 1000)
			c.say("%s", x.hello)
			c.hear()
			c.say(`{"jsonrpc":"2.0","id":"%s","method":"tools/call","params":%s}`, "a", x.params)
			answers = append(answers, c.hearLine())
			p.nothingUnderWay(t)
			c.conn.Close()
			c.ended()
			p.nothingUnderWay(t)
		}
		if answers[0] != answers[1] {
			t.Errorf("%s\nis answered %s\nand where it is ready %s", x.params, answers[0], answers[1])
		}
		if n := p.ready.Load(); n != x.ready {
			t.Errorf("%s\nwas answered %d times by what was ready, after %s", x.params, n, x.hello)
		}
	}
	p := prepared(Limits{InFlight: 1})
	c := p.greeted(t, 1000)
	c.say("%s", calling(1, "wait"))
	<-p.begun
	c.say("%s", calling(2, "echo"))
	if a := c.hear(); a.code() != codeBusy {
		t.Errorf("beyond the limit: %s", a.line)
	}
	close(p.release)
}

// The same without sessions: the first call is the SDK's, which learns from it who is there.
func TestAReadyResultWithoutASession(t *testing.T) {
	const version = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
	const able = version + `,"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{}},"extensions":{"x/y":{}}}`
	for _, x := range []struct {
		first, meta string
		ready       int32
	}{
		{able, able, 1},
		{able, able + `,"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"progressToken":7,"claudecode/toolUseId":"x"`, 1},
		{"", able, 0}, // it is the first
		{able, version, 0},
		{able, version + `,"io.modelcontextprotocol/clientCapabilities":7`, 0},
		{able, version + `,"io.modelcontextprotocol/clientCapabilities":{"roots":7}`, 0},
		{able, able + `,"io.modelcontextprotocol/clientInfo":7`, 0},
		{able, able + `,"io.modelcontextprotocol/clientInfo":{"name":[]}`, 0},
		{able, able + `,"other":7`, 0},
		{able, `"io.modelcontextprotocol/protocolVersion":"2025-11-25","io.modelcontextprotocol/clientCapabilities":{}`, 0},
		{able, `"progressToken":7`, 0}, // of a session that has not begun
	} {
		var answers []string
		ready := prepared(Limits{})
		for _, p := range []*place{newPlace(Limits{}), ready} {
			c := p.client(t, 1000)
			if x.first != "" {
				c.say(`{"jsonrpc":"2.0","id":0,"method":"tools/list","params":{"_meta":{%s}}}`, x.first)
				c.hear()
			}
			c.say(`{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"echo","arguments":{"a":"<&>"},"_meta":{%s}}}`, x.meta)
			answers = append(answers, c.hearLine())
			p.nothingUnderWay(t)
		}
		if answers[0] != answers[1] {
			t.Errorf("%s\nis answered %s\nand where it is ready %s", x.meta, answers[0], answers[1])
		}
		if n := ready.ready.Load(); n != x.ready {
			t.Errorf("%s\nwas answered %d times by what was ready", x.meta, n)
		}
	}
}

func TestWhatIsNoMessageIsAnsweredAndTheSessionLives(t *testing.T) {
	const id = `"jsonrpc":"2.0","id":7`
	c := newPlace(Limits{}).greeted(t, 1000)
	for _, bad := range []struct {
		line string
		code int64
		id   any
	}{
		{`EHLO there`, -32700, nil},
		{`{"jsonrpc":"2.0","id":7,"method":"ping"`, -32700, nil},
		{`{` + id + `,"method":"ping"}{` + id + `,"method":"ping"}`, -32700, nil},
		{`{` + id + `,"method":"pi` + "\xff" + `ng"}`, -32700, nil},
		{"\x00", -32700, nil},
		{strings.Repeat("[", 20000), -32700, nil},
		{`null`, -32600, nil}, {`5`, -32600, nil}, {`"ping"`, -32600, nil}, {`[]`, -32600, nil},
		{`[{` + id + `,"method":"ping"}]`, -32600, nil},
		{`{}`, -32600, nil},
		{`{"ID":3,"METHOD":"ping","JSONRPC":"2.0"}`, -32600, nil},
		{`{"jsonrpc":"2.0","Method":"ping","id":7}`, -32600, 7.0},
		{`{"jsonrpc":"1.0","id":7,"method":"ping"}`, -32600, 7.0},
		{`{"jsonrpc":2.0,"id":7,"method":"ping"}`, -32600, 7.0},
		{`{"id":7,"method":"ping"}`, -32600, 7.0},
		{`{` + id + `,"method":5}`, -32600, 7.0},
		{`{` + id + `,"method":null}`, -32600, 7.0},
		{`{` + id + `,"method":"ping","result":{}}`, -32600, 7.0},
		{`{` + id + `,"method":"ping","params":[]}`, -32600, 7.0},
		{`{` + id + `,"method":"ping","params":"x"}`, -32600, 7.0},
		{`{` + id + `,"method":"ping","method":"tools/list"}`, -32600, nil},
		{`{` + id + `,"method":"ping","\u006dethod":"tools/list"}`, -32600, nil},
		{`{` + id + `,"id":8,"method":"ping"}`, -32600, nil},
		{`{` + id + `,"method":"tools/call","params":{"name":"echo","name":"wait"}}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/call","params":{"name":"echo","_meta":{"progressToken":1,"progressToken":2}}}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/call","params":{"name":"echo","_meta":{"progressToken":1.5}}}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/call","params":{"name":"echo","_meta":{"x":"` + strings.Repeat("x", maxAbout) + `"}}}`, -32602, 7.0},
		{`{` + id + `,"method":"initialize","params":{"x":"` + strings.Repeat("x", maxAbout) + `"}}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/call","params":{"name":5}}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/call"}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/call","params":null}`, -32602, 7.0},
		{`{` + id + `,"method":"server/discover"}`, -32601, 7.0},
		{`{` + id + `,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, -32601, 7.0},
		{`{` + id + `,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, -32602, 7.0},
		{`{` + id + `,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2024-11-05"}}}`, -32022, 7.0},
		{`{` + id + `,"method":"notifications/initialized"}`, -32601, 7.0},
		{`{` + id + `,"method":"subscriptions/listen","params":{"notifications":{"taskIds":["x"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, -32021, 7.0},
		{`{` + id + `,"method":"no/such"}`, -32601, 7.0},
		{`{"jsonrpc":"2.0","id":null,"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":true,"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":[1],"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":1e3,"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":-9007199254740993,"method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":"\ud800","method":"ping"}`, -32600, nil},
		{`{"jsonrpc":"2.0","id":"` + strings.Repeat("i", 257) + `","method":"ping"}`, -32600, nil},
		{`{` + id + `,"method":"tools/call","params":{"name":"` + strings.Repeat("n", 5000) + `"}}`, -32602, 7.0},
		{`{` + id + `,"method":"` + strings.Repeat("n", 5000) + `"}`, -32601, 7.0},
		{`{` + id + `,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`, -32600, 7.0},
	} {
		c.say("%s", bad.line)
		if a := c.hear(); a.code() != bad.code || a.ID != bad.id || !strings.Contains(a.line, `"id":`) || len(a.Error.Message) > 600 ||
			strings.Contains(a.line, "mcp.") || strings.Contains(a.line, "json:") {
			t.Errorf("%.100s is answered %s", bad.line, a.line)
		}
	}
	for _, good := range []struct{ line, id string }{
		{`{"jsonrpc":"2.0","id":9007199254740992,"method":"ping"}`, `"id":9007199254740992,`},
		{` {"jsonrpc" : "2.0" , "id" : -1 , "method" : "ping" } ` + "\r", `"id":-1,`},
		{`{"\u006asonrpc":"2.0","id":"<\u0061\"\\>","m\u0065thod":"p\u0069ng","params":null}`, `"id":"<a\"\\>",`},
		{`{"jsonrpc":"2.0","id":"","method":"ping","Method":"tools/call","x":[1,{"y":"}"}]}`, `"id":"",`},
		{`{"jsonrpc":"2.0","id":"` + strings.Repeat("i", 256) + `","method":"ping"}`, `iii",`},
	} {
		c.say("%s", good.line)
		if a := c.hear(); a.Error != nil || !strings.Contains(a.line, good.id) {
			t.Errorf("%.100s is answered %s", good.line, a.line)
		}
	}
}

// Before a session has begun, and when it does not begin, what is said is ours as well.
// What the SDK would make a tree of is bounded before that, and an answer that is of no tree is not.
func TestWhatBecomesATreeIsBounded(t *testing.T) {
	c := newPlace(Limits{}).greeted(t, 1000)
	long := strings.Repeat("x", maxAbout)
	for _, call := range []struct{ method, params string }{
		{"initialize", `"x":"` + long + `"`},
		{"prompts/get", `"name":"x","arguments":{"x":"` + long + `"}`},
		{"completion/complete", `"ref":{"type":"ref/prompt","name":"x"},"argument":{"name":"x","value":"` + long + `"}`},
		{"tools/call", `"name":"echo","inputResponses":{"x":"` + long + `"}`},
		{"tools/call", `"name":"echo","_meta":{"x":"` + long + `"}`},
	} {
		c.say(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s}}`, call.method, call.params)
		if a := c.hear(); a.code() != jsonrpc.CodeInvalidParams || !strings.Contains(a.Error.Message, "has at most 32768 bytes") {
			t.Errorf("%s is answered %.200s", call.method, a.line)
		}
	}
	c.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"x":"%s"}}}`, long)
	if a := c.hear(); a.Result == nil {
		t.Errorf("arguments are answered %.200s", a.line)
	}
}

func TestBeforeASession(t *testing.T) {
	c := newPlace(Limits{}).client(t, 1000)
	for _, x := range []struct {
		line string
		code int64
		says string
	}{
		{`{"jsonrpc":"2.0","id":7,"method":"tools/list"}`, -32600, early},
		{`{"jsonrpc":"2.0","id":7,"method":"initialize"}`, -32602, `"params" is missing`},
		{`{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":7}}`, -32602, unfit},
		{`{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":"x","clientInfo":[]}}`, -32602, unfit},
	} {
		c.say("%s", x.line)
		if a := c.hear(); a.code() != x.code || a.ID != 7.0 || a.Error.Message != x.says {
			t.Errorf("%s is answered %s", x.line, a.line)
		}
	}
	c.say(hello)
	if a := c.hear(); a.Error != nil {
		t.Errorf("%s", a.line)
	}
}

// Nothing answers what asks for no answer, whatever it is.
func TestWhatAsksForNoAnswerGetsNone(t *testing.T) {
	c := newPlace(Limits{}).greeted(t, 1000)
	for _, line := range []string{"", " \r", `{"jsonrpc":"2.0","method":"no/such"}`, `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"panic"}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled"}`, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[]}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}`, `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}`, `{"jsonrpc":"2.0","id":1,"error":7}`} {
		c.say("%s", line)
		c.say(`{"jsonrpc":"2.0","id":"fence","method":"ping"}`)
		if a := c.hear(); a.ID != "fence" {
			t.Errorf("%q is answered %s", line, a.line)
		}
	}
}

func TestTheServersOwnQuestionsAreAnswered(t *testing.T) {
	c := newPlace(Limits{}).greeted(t, 1000)
	for says, want := range map[string]string{`"result":{"action":"accept","content":{}}`: "accept", `"result":{"action":"decline"}`: "decline",
		`"error":{"code":-1,"message":"no"}`: "no answer", `"error":[]`: "no answer"} {
		c.say("%s", calling(1, "ask"))
		q := c.hear()
		if q.Method != "elicitation/create" {
			t.Fatalf("%s", q.line)
		}
		c.say(`{"jsonrpc":"2.0","id":%s,%s}`, plain(q.ID), says)
		if a := c.hear(); a.ID != 1.0 || !strings.Contains(string(a.Result), want) {
			t.Errorf("%s: %s", says, a.line)
		}
	}
}

func TestAPanicAndAFailureEndOneCall(t *testing.T) {
	p := newPlace(Limits{})
	c := p.greeted(t, 1000)
	for _, tool := range []string{"panic", "fail", "unreadable"} {
		c.say("%s", calling(1, tool))
		if a := c.hear(); a.code() != -32603 || a.Error.Message != "internal error" {
			t.Errorf("%s", a.line)
		}
	}
	log := p.log.String()
	for _, want := range []string{`why="cannot read job: disk I/O error"`, `why="*fmt.wrapError of *errors.errorString"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %s: %s", want, log)
		}
	}
	if strings.Count(log, "level=ERROR") != 3 || strings.Contains(log, "mistake") || strings.Contains(log, "secret") || strings.Contains(log, "argument:") {
		t.Errorf("the log: %s", log)
	}
}

// What the SDK says of a resource that is missing is no JSON where the client's URI has a control character.
func TestAnErrorThatCannotBeWrittenIsToldWithoutWhatCannot(t *testing.T) {
	c := newPlace(Limits{}).greeted(t, 1000)
	c.say("%s", calling(1, "unsayable"))
	if a := c.hear(); a.code() != -32602 || a.Error.Message != "Resource not found" {
		t.Errorf("%s", a.line)
	}
	if b := answer(jsonrpc.ID{}, nil, mcp.ResourceNotFoundError("\x7f")); !json.Valid(b) || !strings.Contains(string(b), `"code":-32602`) {
		t.Errorf("%s", b)
	}
}

func TestACancelledCallIsNotAnsweredAndTheSessionGoesOn(t *testing.T) {
	p := newPlace(Limits{})
	c := p.greeted(t, 1000)
	c.say("%s", calling(1, "wait"))
	<-p.begun
	c.say("%s", calling(1, "echo")) // no second answer with this id
	if a := c.hear(); a.ID != nil || a.code() != -32600 {
		t.Errorf("%s", a.line)
	}
	c.say("%s%s", cancelling(1), cancelling(1))
	if !<-p.endings {
		t.Error("the handler is not told that its client cancelled")
	}
	for range 3 { // whatever is still on its way comes before
		c.say(`{"jsonrpc":"2.0","id":2,"method":"ping"}`)
		if a := c.hear(); a.ID != 2.0 {
			t.Errorf("%s", a.line)
		}
	}
}

// A client that goes away cancels nothing: what it began is durable.
func TestACallWhoseClientIsGoneIsNotCancelledByIt(t *testing.T) {
	p := newPlace(Limits{Write: 200 * time.Millisecond})
	for says, leave := range map[string]func(c *client){
		"it closes": func(c *client) { c.conn.Close() },
		"it stops reading": func(c *client) {
			for i := range 60 {
				c.say("%s", calling(i+2, "large"))
			}
		},
		"its last message is half": func(c *client) {
			fmt.Fprint(c.conn, `{"jsonrpc":`)
			c.conn.Close()
		},
	} {
		t.Run(says, func(t *testing.T) {
			c := p.greeted(t, 1000)
			c.say("%s", calling(1, "wait"))
			<-p.begun
			leave(c)
			select {
			case cancelled := <-p.endings:
				if cancelled {
					t.Error("that counts as cancelled")
				}
			case <-time.After(5 * time.Second):
				t.Error("its call goes on for ever")
			}
			c.ended()
			p.nothingUnderWay(t)
		})
	}
}

func TestAHalfClosedConnectionGetsItsAnswers(t *testing.T) {
	p := newPlace(Limits{})
	c := p.greeted(t, 1000)
	for i := range 5 {
		c.say("%s", calling(i, "wait"))
		<-p.begun
	}
	fmt.Fprintf(c.conn, `{"jsonrpc":"2.0","id":"last","method":"tools/list"}`) // without its newline
	if err := c.conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if a := c.hear(); a.ID != "last" {
		t.Errorf("%s", a.line)
	}
	close(p.release)
	for range 5 {
		if a := c.hear(); !strings.Contains(a.line, "released") {
			t.Errorf("%s", a.line)
		}
	}
	if b, err := io.ReadAll(c.in); len(b) > 0 || err != nil {
		t.Errorf("then %q, %v", b, err)
	}
	if err := c.ended(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// Large messages are counted while they are read, too, and as long as their calls are under way.
func TestLargeMessagesAreBounded(t *testing.T) {
	p := newHTTPPlace(Limits{LargeUID: 2, LargeAll: 3})
	long := strings.Repeat("x", maxAbout)
	large := func(id, tool string) string {
		return `{"jsonrpc":"2.0","id":"` + id + `","method":"tools/call","params":{"name":"` + tool + `","arguments":{"x":"` + long + `"}}}`
	}
	busy := func(c *client, why string) {
		t.Helper()
		if a := c.hear(); a.code() != codeBusy || !strings.Contains(a.Error.Message, why) {
			t.Errorf("%.200s", a.line)
		}
	}
	c := p.greeted(t, 1)
	for range 5 { // what is answered is not under way, nor what is none
		c.say("%s", large("a", "echo"))
		if a := c.hear(); a.Result == nil {
			t.Errorf("%.200s", a.line)
		}
		for _, none := range []string{large("a", "echo") + "}", `{"jsonrpc":"2.0","method":"x","params":{"x":"` + long + `"}}`, `{"jsonrpc":"2.0","id":1,"method":"x","params":{"x":"` + long + `"}}`} {
			c.say("%s", none)
		}
		for range 2 {
			if a := c.hear(); a.code() == codeBusy {
				t.Errorf("%.200s", a.line)
			}
		}
	}
	c.say("%s", large("b", "wait"))
	<-p.begun
	half := p.greeted(t, 1)
	if _, err := half.conn.Write([]byte(`{"x":"` + long + long)); err != nil {
		t.Fatal(err)
	}
	for held := 0; held < 2; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		held = p.large[1]
		p.mu.Unlock()
	}
	c.say("%s", large("d", "echo"))
	busy(c, "2 large messages of this user are under way")
	c.say("%s", calling("e", "echo")) // what is not large is taken
	if a := c.hear(); a.Result == nil {
		t.Errorf("%s", a.line)
	}
	b := p.of(t, modern, 1, "b")
	r := b.request(modern, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"x":%q},%s}}`, long, other))
	if status, _, m := b.send(r); status != http.StatusServiceUnavailable || m.code() != codeBusy {
		t.Errorf("over HTTP: %.200s", m.line)
	}
	others := p.greeted(t, 2)
	others.say("%s", large("f", "wait"))
	<-p.begun
	others.say("%s", large("g", "echo"))
	busy(others, "3 large messages are under way in all")
	half.conn.Close() // makes room
	half.ended()
	others.say("%s", large("h", "echo"))
	if a := others.hear(); a.Result == nil {
		t.Errorf("%.200s", a.line)
	}
	for _, c := range []*client{c, others} {
		c.conn.Close()
		c.ended()
	}
	p.nothingUnderWay(t)
}

func TestLimitsOfConnectionUserAndAll(t *testing.T) {
	p := newPlace(Limits{InFlight: 3, InFlightUID: 5, InFlightAll: 7})
	var all []*client
	fill := func(uid uint32, fit int, why string) *client {
		t.Helper()
		c := p.greeted(t, uid)
		all = append(all, c)
		for i := range fit {
			c.say("%s", calling(i, "wait"))
			<-p.begun
		}
		c.say("%s", calling("beyond", "wait"))
		if a := c.hear(); a.code() != -32000 || !strings.Contains(a.Error.Message, why) || !strings.Contains(a.line, `"data":{"error":{"code":"busy","retryable":true}}`) {
			t.Errorf("%s", a.line)
		}
		c.say(`{"jsonrpc":"2.0","id":"p","method":"ping"}`) // always
		if a := c.hear(); a.ID != "p" || a.Error != nil {
			t.Errorf("%s", a.line)
		}
		return c
	}
	fill(1, 3, "3 calls are under way")
	c := fill(1, 2, "of this user")
	fill(2, 2, "in all")
	c.say("%s", cancelling(0)) // makes room
	for room := false; !room; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		room = p.calls < 7
		p.mu.Unlock()
	}
	c.say("%s", calling("again", "wait"))
	<-p.begun
	for _, c := range all {
		c.conn.Close()
		c.ended()
	}
	p.nothingUnderWay(t)
}

func TestOneSubscriptionOfAConnection(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}`
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ServerOptions{
		Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{ListChanged: true}}})
	p := &place{Speaker: New(server, Limits{}, slog.New(slog.DiscardHandler))}
	c := p.client(t, 1000)
	for id, want := range []int64{0, -32600} {
		c.say(`{"jsonrpc":"2.0","id":%d,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},%s}}`, id, meta)
		if a := c.hear(); a.code() != want {
			t.Errorf("%s", a.line)
		}
	}
	if err := c.conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	began := time.Now() // nothing is waited for
	if err := c.ended(); err != nil || time.Since(began) > 2*time.Second {
		t.Errorf("it ended with %v after %v", err, time.Since(began))
	}
}

func TestDeadlines(t *testing.T) {
	const short = 300 * time.Millisecond
	for says, c := range map[string]struct {
		limits Limits
		does   func(c *client)
		want   string
	}{
		"nothing is said":       {Limits{FirstByte: short}, func(*client) {}, "the client said nothing"},
		"half a message":        {Limits{Message: short}, func(c *client) { fmt.Fprint(c.conn, `{"jsonrpc":`) }, "a message took too long"},
		"a message in crumbs":   {Limits{Message: short}, func(c *client) { go crumbs(c) }, "a message took too long"},
		"nothing more is said":  {Limits{Idle: short}, func(c *client) { c.say(hello) }, "the client had nothing to say"},
		"nobody reads":          {Limits{Write: short}, func(c *client) { go stall(c) }, "the client stopped reading"},
		"an endless line":       {Limits{Message: short}, func(c *client) { go endless(c) }, "a message took too long"},
		"it hangs up, and that": {Limits{}, func(c *client) { c.conn.Close() }, ""},
	} {
		for where, p := range map[string]*place{"": newPlace(c.limits), ", with results that are ready": prepared(c.limits)} {
			t.Run(says+where, func(t *testing.T) {
				t.Parallel()
				client := p.client(t, 1000)
				began := time.Now()
				c.does(client)
				err := client.ended()
				if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want || time.Since(began) > 10*short {
					t.Errorf("%v, after %v", err, time.Since(began))
				}
				p.nothingUnderWay(t)
			})
		}
	}
	t.Run("a call is under way", func(t *testing.T) {
		t.Parallel()
		p := newPlace(Limits{Idle: short})
		c := p.greeted(t, 1000)
		c.say("%s", calling(1, "wait"))
		<-p.begun
		time.Sleep(3 * short)
		close(p.release)
		if a := c.hear(); a.ID != 1.0 || a.Error != nil {
			t.Errorf("%s", a.line)
		}
	})
}

func crumbs(c *client) {
	for {
		if _, err := c.conn.Write([]byte(" ")); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func endless(c *client) {
	part := bytes.Repeat([]byte("x"), 64<<10)
	for {
		if _, err := c.conn.Write(part); err != nil {
			return
		}
	}
}

func stall(c *client) {
	fmt.Fprint(c.conn, hello)
	for i := 0; ; i++ {
		if _, err := io.WriteString(c.conn, calling(i, "large")); err != nil {
			return
		}
	}
}
