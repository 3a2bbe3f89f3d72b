package front

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
)

// wantsConsent is a launcher that has every scan confirmed; it returns the consents that came.
func (r *room) wantsConsent(consents chan<- string) {
	for m := range r.inbox {
		reply := wire.Reply{}
		switch {
		case m.Start != nil:
			consents <- m.Start.Consent
			reply.Seq = m.Start.Seq
			reply.Refused = &wire.Refusal{Code: "target_never"} // what follows is another test's
			if m.Start.Consent == "" {
				reply.Refused = &wire.Refusal{Code: wire.ConfirmationNeeded, Rule: "lab: confirm", Hint: "ask the operator"}
			}
		case m.Preview != nil:
			reply.Seq = m.Preview.Seq
			reply.Preview = &wire.Previewed{Verdict: wire.Verdict{Outcome: "allow", Engagement: "lab", Revision: "r1", AddressCount: 1, Rate: 100, LimitS: 60, Confirm: []string{"nmap_scan"}}}
		default:
			continue
		}
		if r.conn.Send(wire.Message{Reply: &reply}) != nil {
			return
		}
	}
}

// asker is a client that answers as its user does; nil: it cannot ask.
func (r *room) asker(uid uint32, answer func(*mcp.ElicitParams) *mcp.ElicitResult) *mcp.ClientSession {
	r.t.Helper()
	conn, _ := r.client(uid)
	options := &mcp.ClientOptions{}
	if answer != nil {
		options.ElicitationHandler = func(_ context.Context, q *mcp.ElicitRequest) (*mcp.ElicitResult, error) { return answer(q.Params), nil }
	}
	s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, options).Connect(context.Background(), &mcp.IOTransport{Reader: conn, Writer: conn}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func TestAUserIsAskedBeforeWhatHasToBeConfirmed(t *testing.T) {
	for says, c := range map[string]struct {
		answer *mcp.ElicitResult
		asked  bool
		code   string   // of the answer
		starts []string // the consents that the launcher heard
	}{
		"confirmed":     {&mcp.ElicitResult{Action: "accept", Content: map[string]any{"confirm": true}}, true, "target_never", []string{"", "lab@r1"}},
		"not confirmed": {&mcp.ElicitResult{Action: "accept", Content: map[string]any{"confirm": false}}, true, "not_confirmed", []string{""}},
		"declined":      {&mcp.ElicitResult{Action: "decline"}, true, "not_confirmed", []string{""}},
		"cancelled":     {&mcp.ElicitResult{Action: "cancel"}, true, "not_confirmed", []string{""}},
		"it cannot ask": {nil, false, wire.ConfirmationNeeded, []string{""}},
	} {
		t.Run(says, func(t *testing.T) {
			r := newRoom(t)
			consents := make(chan string, 8)
			go r.wantsConsent(consents)
			question := ""
			var answer func(p *mcp.ElicitParams) *mcp.ElicitResult
			if c.answer != nil {
				answer = func(p *mcp.ElicitParams) *mcp.ElicitResult {
					question = p.Message
					return c.answer
				}
			}
			s := r.asker(1000, answer)
			e := r.call(s, "nmap_scan", json.RawMessage(quick))["error"]
			if at(e, "code") != c.code || at(e, "hint") == nil && c.code != "target_never" {
				t.Errorf("%v", e)
			}
			want := "Start this scan? nmap_scan with profile quick on 1 addresses under engagement lab, with at most 100 packets per second for at most 60 seconds. The engagement has it confirmed because of: nmap_scan."
			if c.asked && question != want || !c.asked && question != "" {
				t.Errorf("asked: %q", question)
			}
			for _, want := range c.starts {
				if got := <-consents; got != want {
					t.Errorf("the launcher heard of %q, not %q", got, want)
				}
			}
			if len(consents) > 0 {
				t.Errorf("the launcher heard of %q, too", <-consents)
			}
		})
	}
}

// A client of an earlier era is asked by a request of its own.
func TestAUserOfAnEarlierEraIsAsked(t *testing.T) {
	r := newRoom(t)
	consents := make(chan string, 8)
	go r.wantsConsent(consents)
	conn, _ := r.client(1000)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	say := func(line string) string {
		t.Helper()
		if _, err := fmt.Fprintln(conn, line); err != nil {
			t.Fatal(err)
		}
		answer, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	say(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"elicitation":{}},"clientInfo":{"name":"t","version":"1"}}}`)
	fmt.Fprintln(conn, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	var asks struct {
		ID     json.RawMessage
		Method string
	}
	ask := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(say(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"nmap_scan","arguments":{"targets":["10.77.0.10"]}}}`)), &asks); err != nil || asks.Method != "elicitation/create" {
			t.Fatalf("%+v, %v", asks, err)
		}
	}
	for _, strange := range []string{`"error":{"code":-1,"message":"do as I say"}`, `"result":5`, `"result":{"action":"accept","content":{"confirm":"do as I say"}}`} {
		ask()
		answer := say(`{"jsonrpc":"2.0","id":` + string(asks.ID) + `,` + strange + `}`)
		if !strings.Contains(answer, `"code":"not_confirmed"`) || strings.Contains(answer, "as I say") || <-consents != "" || len(consents) > 0 {
			t.Errorf("%s is answered %s", strange, answer)
		}
	}
	ask()
	answer := say(`{"jsonrpc":"2.0","id":` + string(asks.ID) + `,"result":{"action":"accept","content":{"confirm":true}}}`)
	if !strings.Contains(answer, "target_never") || <-consents != "" || <-consents != "lab@r1" {
		t.Errorf("%s", answer)
	}
}

// A consent that is not whole, late, another user's or to something else starts nothing.
func TestAConsentIsForWhatWasAsked(t *testing.T) {
	sealer, err := newSealer()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer()
	if err != nil {
		t.Fatal(err)
	}
	f := &front{sealer: sealer}
	call, _ := runners.BuiltIn().Read("nmap_scan", []byte(`{"targets":["10.77.0.10"]}`))
	value, err := wire.Encode(&call, wire.MaxValue)
	if err != nil {
		t.Fatal(err)
	}
	good := askedFor{1000, "nmap_scan", sha256.Sum256(value), "lab@r1", time.Now().Add(time.Minute)}
	seal := func(change func(a *askedFor)) string {
		a := good
		change(&a)
		return base64.RawURLEncoding.EncodeToString(sealer.Seal(nil, nil, encode(a), []byte(consentSeal)))
	}
	whole := seal(func(*askedFor) {})
	yes := mcp.InputResponseMap{"confirm": &mcp.ElicitResult{Action: "accept", Content: map[string]any{"confirm": true}}}
	for says, c := range map[string]struct {
		state   string
		answers mcp.InputResponseMap
		want    string // of the reason; empty: it is a consent
	}{
		"as it was asked":         {whole, yes, ""},
		"tampered":                {whole[:20] + strings.Map(func(r rune) rune { return map[bool]rune{true: 'B', false: 'A'}[r == 'A'] }, whole[20:21]) + whole[21:], yes, "not as it was sent"},
		"of another life":         {base64.RawURLEncoding.EncodeToString(other.Seal(nil, nil, encode(good), []byte(consentSeal))), yes, "not as it was sent"},
		"no text of ours":         {"?", yes, "not as it was sent"},
		"short":                   {"AAAA", yes, "not as it was sent"},
		"an answer alone":         {"", yes, "not as it was sent"},
		"no answer":               {whole, nil, "did not confirm"},
		"too late":                {seal(func(a *askedFor) { a.Until = time.Now().Add(-time.Second) }), yes, "too late"},
		"another user's":          {seal(func(a *askedFor) { a.UID = 1001 }), yes, "another question"},
		"another tool's":          {seal(func(a *askedFor) { a.Tool = "masscan_scan" }), yes, "another question"},
		"of other arguments":      {seal(func(a *askedFor) { a.Value[0]++ }), yes, "another question"},
		"accepted, not confirmed": {whole, mcp.InputResponseMap{"confirm": &mcp.ElicitResult{Action: "accept"}}, "did not confirm"},
	} {
		consent, refusal := f.consented(&session{client: wire.Client{UID: 1000}}, &mcp.CallToolParamsRaw{RequestState: c.state, InputResponses: c.answers}, "nmap_scan", value)
		if c.want == "" && (consent != "lab@r1" || refusal != nil) {
			t.Errorf("%s: %q, %+v", says, consent, refusal)
		}
		if c.want != "" && (consent != "" || refusal == nil || !strings.Contains(refusal.Reason, c.want) || refusal.Hint == "") {
			t.Errorf("%s: %q, %+v", says, consent, refusal)
		}
	}
	if consent, refusal := f.consented(&session{}, &mcp.CallToolParamsRaw{}, "nmap_scan", value); consent != "" || refusal != nil {
		t.Errorf("nothing was asked: %q, %+v", consent, refusal)
	}
}

// A client of an earlier era that never answers what its user is asked has its call answered all the same.
func TestACallEndsThoughItsUserIsAsked(t *testing.T) {
	f := &front{term: 20 * time.Millisecond}
	f.names.Store(&[]string{"nmap_scan"})
	call := f.around(func(ctx context.Context, _ string, _ mcp.Request) (mcp.Result, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	asked := &mcp.CallToolRequest{Params: &mcp.CallToolParamsRaw{Name: "nmap_scan"}}
	answer, err := call(t.Context(), "tools/call", asked)
	if text := string(encode(answer)); err != nil || !strings.Contains(text, "not_confirmed") {
		t.Errorf("%s, %v", text, err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if answer, err := call(gone, "tools/call", asked); err == nil {
		t.Errorf("one that is gone is answered %v", answer)
	}
}
