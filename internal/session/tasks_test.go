package session

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// taskPlace is a place with a tool whose calls become the task "one", where their clients take it.
func taskPlace(t *testing.T) (p *place, said *[]string) {
	t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ServerOptions{SupportedProtocolVersions: Versions(),
		Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}, Extensions: map[string]any{TasksExtension: map[string]any{}, "x/other": map[string]any{}}}})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ms := int64(60000)
	one := Task{ID: "one", Status: Working, Message: "under way", Created: at, Updated: at, Poll: 2000, TTL: &ms}
	server.AddTool(&mcp.Tool{Name: "begin", Description: "begin", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if TakesTask(ctx) {
			GiveTask(ctx, Task{ID: one.ID, Status: Working, Created: at, Updated: at, Result: &mcp.CallToolResult{}, Error: &jsonrpc.Error{}, Asks: mcp.InputRequestMap{}})
		}
		if string(r.Params.Arguments) == `{"fail":true}` {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "failed"}
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "a result"}}}, nil
	})
	said = &[]string{}
	find := func(id json.RawMessage) error {
		if string(id) == `"panic"` {
			panic("a task's mistake")
		}
		if string(id) != `"one"` {
			return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "no such task"}
		}
		return nil
	}
	if err := AddTasks(server, Tasks{
		Get: func(_ context.Context, id json.RawMessage) (*Task, error) { return &one, find(id) },
		Update: func(_ context.Context, id, answers json.RawMessage) error {
			*said = append(*said, string(answers))
			return find(id)
		},
		Cancel: func(_ context.Context, id json.RawMessage) error {
			*said = append(*said, "cancel")
			return find(id)
		},
	}); err != nil {
		t.Fatal(err)
	}
	return &place{Speaker: New(server, Limits{}, slog.New(slog.DiscardHandler))}, said
}

const (
	taking = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`
	other  = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{}}}`
)

// taskCalls are calls and what is in their answers; in both framings.
var taskCalls = []struct{ says, method, params, want, not string }{
	{"a client that takes tasks gets one", "tools/call", `"name":"begin","arguments":{},` + taking, `"resultType":"task","taskId":"one","status":"working","createdAt":"2026-01-02T03:04:05Z"`, `"result":{"content"`},
	{"and nothing of what it comes to", "tools/call", `"name":"begin","arguments":{},` + taking, `"ttlMs":null}`, "inputRequests"},
	{"any other gets the result", "tools/call", `"name":"begin","arguments":{},` + other, `"a result"`, `"taskId"`},
	{"a failure is none", "tools/call", `"name":"begin","arguments":{"fail":true},` + taking, `"message":"failed"`, `"taskId"`},
	{"a task", "tasks/get", `"taskId":"one",` + taking, `"resultType":"complete","taskId":"one","status":"working","statusMessage":"under way"`, `"result":{"content"`},
	{"its times", "tasks/get", `"taskId":"one",` + taking, `"ttlMs":60000,"pollIntervalMs":2000`, `requestState`},
	{"no task", "tasks/get", `"taskId":"two",` + taking, `"error":{"code":-32602,"message":"no such task"}`, ""},
	{"no task is updated", "tasks/update", `"taskId":"two","inputResponses":{},` + taking, `"error":{"code":-32602`, ""},
	{"no task is cancelled", "tasks/cancel", `"taskId":"two",` + taking, `"error":{"code":-32602`, ""},
	{"an update", "tasks/update", `"taskId":"one","inputResponses":{"a":[1]},` + taking, `"resultType":"complete"}`, "taskId"},
	{"a cancellation", "tasks/cancel", `"taskId":"one",` + taking, `"resultType":"complete"}`, "taskId"},
	{"a panic", "tasks/get", `"taskId":"panic",` + taking, `"error":{"code":-32603,"message":"internal error"}`, "mistake"},
	{"to whoever does not take tasks: get", "tasks/get", `"taskId":"one",` + other, `"error":{"code":-32021,"message":"the client must declare io.modelcontextprotocol/tasks`, ""},
	{"update", "tasks/update", `"taskId":"one",` + other, `"data":{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`, ""},
	{"cancel", "tasks/cancel", `"taskId":"one",` + other, `"error":{"code":-32021`, ""},
	{"what there was before", "tasks/result", `"taskId":"one",` + taking, `"error":{"code":-32601`, ""},
	{"and a list of all", "tasks/list", taking, `"error":{"code":-32601`, ""},
	{"the extension is offered", "server/discover", other, `"extensions":{"io.modelcontextprotocol/tasks":{},"x/other":{}}`, ""},
}

func TestTasks(t *testing.T) {
	for framing, ask := range map[string]func(*testing.T, *place, string, string) string{
		"lines": func(t *testing.T, p *place, method, params string) string {
			c := p.client(t, 1000)
			c.say(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s}}`, method, params)
			return c.hearLine()
		},
		"HTTP": func(t *testing.T, p *place, method, params string) string {
			b := p.browser(t, 1000, "a")
			r := b.request(modern, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s}}`, method, params))
			if _, id, ok := strings.Cut(params, `"taskId":"`); ok {
				id, _, _ = strings.Cut(id, `"`)
				r.Header.Set("Mcp-Name", id)
			}
			_, _, m := b.send(r)
			return m.line
		},
	} {
		for _, c := range taskCalls {
			t.Run(framing+"/"+c.says, func(t *testing.T) {
				p, said := taskPlace(t)
				got := ask(t, p, c.method, c.params)
				if !strings.Contains(got, c.want) || c.not != "" && strings.Contains(got, c.not) {
					t.Errorf("%s", got)
				}
				if c.says == "an update" && (len(*said) != 1 || (*said)[0] != `{"a":[1]}`) {
					t.Errorf("answered: %q", *said)
				}
				p.nothingUnderWay(t)
			})
		}
	}
}

// What one request declares does not hold for others, and an earlier era has no such extension.
func TestTasksAreNotOfSessions(t *testing.T) {
	p, said := taskPlace(t)
	c := p.client(t, 1000)
	c.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}},"clientInfo":{"name":"t","version":"1"}}}`)
	if line := c.hearLine(); strings.Contains(line, TasksExtension) || !strings.Contains(line, "x/other") {
		t.Errorf("a session begins with %s", line)
	}
	c.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	c.say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	if a := c.hear(); a.code() != jsonrpc.CodeInvalidRequest {
		t.Errorf("a second beginning is answered %s", a.line)
	}
	for _, params := range []string{`"name":"begin","arguments":{}`,
		`"name":"begin","arguments":{},"_meta":{"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}`,
		`"name":"begin","arguments":{},"task":{"ttl":1}`} {
		c.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{%s}}`, params)
		if line := c.hearLine(); !strings.Contains(line, "a result") || strings.Contains(line, "taskId") {
			t.Errorf("%s is answered %s", params, line)
		}
	}
	for _, method := range []string{getTask, updateTask, cancelTask} {
		c.say(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{"taskId":"one"}}`, method)
		if a := c.hear(); a.code() != jsonrpc.CodeMethodNotFound {
			t.Errorf("%s is answered %s", method, a.line)
		}
	}
	if len(*said) > 0 {
		t.Errorf("%q", *said)
	}
}

// The header has to name the task, so that whoever stands between can tell whose it is.
func TestTheHeaderNamesTheTask(t *testing.T) {
	p, said := taskPlace(t)
	b := p.browser(t, 1000, "a")
	for _, header := range []string{"", "two", "One"} {
		r := b.request(modern, `{"jsonrpc":"2.0","id":1,"method":"tasks/cancel","params":{"taskId":"one",`+taking+`}}`)
		r.Header.Set("Mcp-Name", header)
		if status, _, m := b.send(r); status != http.StatusBadRequest || m.code() != mcp.CodeHeaderMismatch {
			t.Errorf("%q: %d, %s", header, status, m.line)
		}
	}
	if len(*said) > 0 {
		t.Errorf("%q", *said)
	}
}

// Whatever a client writes for a task and its answers, what is done gets one string, or is not asked.
func FuzzTaskParams(f *testing.F) {
	f.Add(`"taskId":"one"`)
	f.Add(`"taskId":7,"inputResponses":[]`)
	f.Add(`"taskId":{"a":[]},"inputResponses":"x"`)
	f.Fuzz(func(t *testing.T, params string) {
		line := []byte(`{"jsonrpc":"2.0","id":1,"method":"tasks/update","params":{` + params + `,` + taking + `}}`)
		if bytes.ContainsAny(line, "\r\n") || !json.Valid(line) || !utf8.Valid(line) {
			return
		}
		p, _ := taskPlace(t)
		c := p.client(t, 1000)
		if _, err := io.WriteString(c.conn, string(line)+"\n"); err != nil {
			t.Fatal(err)
		}
		if got := c.hearLine(); !strings.Contains(got, `"code":-3260`) && !strings.Contains(got, `"code":-32022`) && !strings.Contains(got, `"code":-32021`) && !strings.Contains(got, `"resultType":"complete"`) || strings.Contains(got, "session.") {
			t.Errorf("%s is answered %s", line, got)
		}
	})
}
