package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/test/lab"
)

// Tokens of the tests, and whose they are.
var bearers = map[string]string{
	"token-of-somebody":  "{user: '65402', sha256: %x}",
	"token-of-root":      "{user: root, sha256: %x, root: true, for: [mcp, metrics]}",
	"token-of-a-scraper": "{user: '65403', sha256: %x, for: [metrics]}",
}

// let writes the file of tokens, with those alone.
func (h *house) let(tokens ...string) {
	h.t.Helper()
	text := "tokens:\n"
	if len(tokens) == 0 {
		text = "tokens: []\n"
	}
	for _, token := range tokens {
		text += "  - " + fmt.Sprintf(bearers[token], sha256.Sum256([]byte(token))) + "\n"
	}
	path := filepath.Join(h.daemon.Dir, "tokens.new")
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Rename(path, h.daemon.Tokens())); err != nil {
		h.t.Fatal(err)
	}
}

// get is one request beside MCP; change may be nil.
func (h *house) get(path, token string, change func(*http.Request)) (*http.Response, string) {
	h.t.Helper()
	r := h.request(context.Background(), path, token, change)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return r, string(body)
}

func (h *house) request(ctx context.Context, path, token string, change func(*http.Request)) *http.Response {
	h.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.daemon.HTTP()+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if change != nil {
		change(r)
	}
	a, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// bearing puts a token on every request.
type bearing struct {
	token string
	*http.Transport
}

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.Transport.RoundTrip(r)
}

// overHTTP is an agent that comes by token. Its connections end with done.
func (h *house) overHTTP(token string) (s *mcp.ClientSession, done func(), err error) {
	from := bearing{token, &http.Transport{}}
	s, err = h.from(from)
	return s, from.CloseIdleConnections, err
}

func (h *house) from(b bearing) (*mcp.ClientSession, error) {
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	return mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, nil).Connect(ctx,
		&mcp.StreamableClientTransport{Endpoint: "http://" + h.daemon.HTTP() + "/mcp", HTTPClient: &http.Client{Transport: b}}, nil)
}

// told is what a stream of events tells.
type told struct {
	id, kind, data string
}

// listen follows the events of a token, from an id on ("": from now on).
func (h *house) listen(token, from string) (chan told, func()) {
	h.t.Helper()
	ctx, end := context.WithCancel(context.Background())
	a := h.request(ctx, "/events", token, func(r *http.Request) {
		if from != "" {
			r.Header.Set("Last-Event-ID", from)
		}
	})
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/event-stream" {
		h.t.Fatalf("events: %s", a.Status)
	}
	out := make(chan told, 1024)
	go func() {
		defer close(out)
		defer a.Body.Close()
		var one told
		for in := bufio.NewScanner(a.Body); in.Scan(); {
			name, value, _ := strings.Cut(in.Text(), ": ")
			switch name {
			case "id":
				one.id = value
			case "event":
				one.kind = value
			case "data":
				one.data = value
			case "":
				if one.kind != "" {
					out <- one
				}
				one = told{}
			}
		}
	}()
	h.t.Cleanup(end)
	return out, end
}

// until reads events up to the first of a kind.
func until(t *testing.T, in chan told, kind string) (all []told) {
	t.Helper()
	for deadline := time.After(30 * time.Second); ; {
		select {
		case one, ok := <-in:
			if !ok {
				t.Fatalf("the stream ended after %+v", all)
			}
			all = append(all, one)
			if one.kind == kind {
				return all
			}
		case <-deadline:
			t.Fatalf("no %s among %+v", kind, all)
		}
	}
}

func kinds(all []told) (names []string) {
	for _, one := range all {
		if one.kind != "job.progress" {
			names = append(names, one.kind)
		}
	}
	return names
}

// Whoever bears a token is its user over HTTP, for what it is for, and for as long as it is listed.
func TestByTokenOneIsItsUserOverHTTP(t *testing.T) {
	h := newHouse(t, lab.Options{HTTP: "127.0.0.1:0"})
	h.let("token-of-somebody", "token-of-root", "token-of-a-scraper")
	own, _ := h.listen("token-of-somebody", "")
	others, _ := h.listen("token-of-root", "")
	s, gone, err := h.overHTTP("token-of-somebody")
	if err != nil {
		t.Fatal(err)
	}
	defer gone()
	answer, err := call(s, "nmap_scan", object{"targets": []string{lab.SSH}, "ports": []int{22}, "wait_s": 45})
	if err != nil || ports(answer) != "10.77.0.12/22/open/ssh" {
		t.Fatalf("%v, %s", err, show(answer))
	}

	heard := until(t, own, "job.ended")
	if got := strings.Join(kinds(heard), " "); got != "job.queued job.running job.ended" {
		t.Errorf("events: %s", got)
	}
	last := heard[len(heard)-1]
	if id, _ := at(answer, "job_id").(string); id == "" || !strings.Contains(last.data, id) || !strings.Contains(last.data, `"state":"completed","reason":"exited"`) {
		t.Errorf("the end: %s", last.data)
	}
	again, _ := h.listen("token-of-somebody", heard[0].id)
	if got := strings.Join(kinds(until(t, again, "job.ended")), " "); got != "job.running job.ended" {
		t.Errorf("events after the first: %s", got)
	}
	lost, _ := h.listen("token-of-somebody", "7")
	if got := strings.Join(kinds(until(t, lost, "job.ended")), " "); got != "gap job.queued job.running job.ended" {
		t.Errorf("events after one that is not kept: %s", got)
	}
	select {
	case one := <-others:
		t.Errorf("another user hears %+v", one)
	default:
	}

	// The audit log has the caller, as for any other.
	records, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if err != nil || !strings.Contains(string(records), `"caller":{"uid":65402,"gid":65402,"pid":0}`) {
		t.Errorf("%v, no record of the caller", err)
	}

	// What was taken back ends, with what came by it.
	h.let("token-of-root", "token-of-a-scraper")
	begun := time.Now()
	for range own {
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("a token that was taken back ends after %s", took)
	}
	if r, body := h.get("/events", "token-of-somebody", nil); r.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "login_failed") {
		t.Errorf("a token that was taken back: %s, %s", r.Status, body)
	}
	if _, err := call(s, "capabilities", object{}); err == nil {
		t.Error("a session whose token was taken back goes on")
	}
}

func TestWhatIsRefusedOverHTTP(t *testing.T) {
	h := newHouse(t, lab.Options{HTTP: "127.0.0.1:0"})
	h.let("token-of-somebody", "token-of-a-scraper")
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		path, token string
		change      func(*http.Request)
		status      int
		says        string
	}{
		"no token":                      {"/events", "", nil, 401, "no_token"},
		"a token that is nobody's":      {"/events", "guessed", nil, 401, "login_failed"},
		"two tokens":                    {"/events", "token-of-somebody", func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }, 401, "no_token"},
		"a password":                    {"/events", "", func(r *http.Request) { r.SetBasicAuth("root", "root") }, 401, "no_token"},
		"a token in the address":        {"/events?token=token-of-somebody", "", nil, 401, "no_token"},
		"MCP without a token":           {"/mcp", "", nil, 401, "no_token"},
		"MCP by a scraper":              {"/mcp", "token-of-a-scraper", nil, 403, "wrong_token"},
		"events for a scraper":          {"/events", "token-of-a-scraper", nil, 403, "wrong_token"},
		"metrics for an agent":          {"/metrics", "token-of-somebody", nil, 403, "wrong_token"},
		"metrics without a token":       {"/metrics", "", nil, 401, "no_token"},
		"operators' status":             {"/v1/status", "token-of-somebody", nil, 404, "not_found"},
		"another host":                  {"/events", "token-of-somebody", func(r *http.Request) { r.Host = "attacker.example" }, 403, "not_taken"},
		"a page of another origin":      {"/events", "token-of-somebody", header("Origin", "http://attacker.example"), 403, "not_taken"},
		"a page in a frame":             {"/events", "token-of-somebody", header("Origin", "null"), 403, "not_taken"},
		"a request that a browser made": {"/events", "token-of-somebody", header("Sec-Fetch-Site", "cross-site"), 403, "not_taken"},
		"what any server answers": {"/events", "token-of-somebody", func(r *http.Request) {
			r.Method, r.URL.Opaque, r.Host = "OPTIONS", "*", "attacker.example"
		}, 403, "not_taken"},
		"an id that is none":              {"/events", "token-of-somebody", header("Last-Event-ID", "-1"), 400, "bad_event_id"},
		"another method":                  {"/events", "token-of-somebody", func(r *http.Request) { r.Method = "POST" }, 405, "method"},
		"what the predecessor had":        {"/tools/nmap/execute", "", func(r *http.Request) { r.Method = "POST" }, 410, "tools/call"},
		"what the predecessor's page had": {"/health", "", nil, 410, "/healthz"},
		"nothing":                         {"/", "", nil, 404, "/mcp"},
	} {
		t.Run(name, func(t *testing.T) {
			r, body := h.get(c.path, c.token, c.change)
			if r.StatusCode != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%s: %s", r.Status, body)
			}
			if c.status == 401 && !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("without a challenge: %v", r.Header)
			}
			if r.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("a page may read it: %v", r.Header)
			}
		})
	}

	// Health is one word without a token, and all that is known with one for metrics.
	for _, path := range []string{"/healthz", "/readyz"} {
		if r, body := h.get(path, "", nil); r.StatusCode >= 400 || !regexp.MustCompile(`^\{"status":"[a-z]+"\}\n$`).MatchString(body) {
			t.Errorf("%s without a token: %s, %s", path, r.Status, body)
		}
		if r, body := h.get(path, "token-of-a-scraper", nil); r.StatusCode >= 400 || !strings.Contains(body, `"checks":`) {
			t.Errorf("%s: %s, %s", path, r.Status, body)
		}
	}

	// Guessing is told on the record, and not for each guess.
	for range 100 {
		if r, _ := h.get("/events", "guessed", nil); r.StatusCode != 401 && r.StatusCode != 429 {
			t.Fatalf("a guess: %s", r.Status)
		}
	}
	if r, body := h.get("/events", "guessed", nil); r.StatusCode != 429 || r.Header.Get("Retry-After") == "" {
		t.Errorf("guesses go on: %s, %s", r.Status, body)
	}
	records, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if n := strings.Count(string(records), string(observability.LoginFailed)); err != nil || n == 0 || n > 2 || strings.Contains(string(records), "guessed") {
		t.Errorf("%v, %d records", err, n)
	}
	if _, _, err := h.overHTTP("token-of-somebody"); err != nil {
		t.Errorf("somebody else's guesses lock out who has a token: %v", err)
	}

	// A file that others can read has no token.
	if err := os.Chmod(h.daemon.Tokens(), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(4 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r, _ := h.get("/metrics", "token-of-a-scraper", nil)
		if r.StatusCode == 401 || r.StatusCode == 429 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a token of a file that others can read: %s", r.Status)
		}
	}
}

// A listener that others than this machine reach is of use to nobody without a token.
func TestBeyondLoopbackThereIsNoHTTPWithoutAToken(t *testing.T) {
	h := newHouse(t, lab.Options{HTTP: "0.0.0.0:0"})
	at := regexp.MustCompile(`^.*:`).ReplaceAllString(h.daemon.HTTP(), "127.0.0.1:")
	health := func() int {
		r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + at + "/events")
		if err != nil {
			return 0
		}
		r.Body.Close()
		return r.StatusCode
	}
	if got := health(); got != 0 && got != http.StatusServiceUnavailable {
		t.Errorf("without a token: %d", got)
	}
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(h.daemon.Log(lab.Front), "no token is in force"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not told")
		}
	}
	if h.call("capabilities", object{})["engagements"] == nil {
		t.Error("agents on the socket are not served")
	}
	h.let("token-of-somebody")
	for deadline := time.Now().Add(10 * time.Second); health() != http.StatusUnauthorized; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("with a token it is refused still")
		}
	}
}

// Fronts that nobody needs end, and whoever comes is served: before, while and after they do.
func TestAFrontThatIsNotNeededEndsAndNobodyIsLost(t *testing.T) {
	h := newHouse(t, lab.Options{HTTP: "127.0.0.1:0", Settings: "front: {idle_exit: 1s}\n"})
	h.let("token-of-somebody", "token-of-a-scraper")
	found := h.call("nmap_scan", object{"targets": []string{lab.SSH}, "ports": []int{22}, "wait_s": 45})
	id, _ := found["job_id"].(string)
	h.agent.Close()
	h.agent = nil

	lost := make(chan error, 1000)
	var clients sync.WaitGroup
	end := time.Now().Add(45 * time.Second)
	came := 0
	for time.Now().Before(end) {
		time.Sleep(900*time.Millisecond + rand.N(300*time.Millisecond)) // about when the front ends
		for range 1 + rand.N(3) {
			came++
			way := came % 3
			clients.Go(func() {
				time.Sleep(rand.N(50 * time.Millisecond))
				if err := h.visit(way); err != nil {
					lost <- fmt.Errorf("way %d: %w", way, err)
				}
			})
		}
		clients.Wait()
	}
	close(lost)
	for err := range lost {
		t.Error(err)
	}
	starts := h.daemon.Starts(lab.Front)
	t.Logf("%d clients, %d starts of the front", came, starts)
	if starts < 10 || h.daemon.Starts(lab.Launcher) != 1 {
		t.Errorf("the front was started %d times, the launcher %d times", starts, h.daemon.Starts(lab.Launcher))
	}
	// What was counted and kept in its first life is there.
	if r, body := h.get("/metrics", "token-of-a-scraper", nil); r.StatusCode != http.StatusOK || !regexp.MustCompile(`(?m)^mcp_tool_execution_total\{.*nmap_scan.*\} 1$`).MatchString(body) {
		t.Errorf("%s\n%.4000s", r.Status, body)
	}
	answer, err := call(h.connect(0), "job_status", object{"job_id": id})
	if err != nil || at(answer, "status") != "completed" {
		t.Errorf("%v, %s", err, show(answer))
	}
}

// visit is one client: over the socket, over HTTP, or an operator.
func (h *house) visit(way int) error {
	var s *mcp.ClientSession
	var err error
	ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	switch way {
	case 0:
		s, err = h.daemon.Client(ctx, 0, nil)
	case 1:
		var gone func()
		s, gone, err = h.overHTTP("token-of-somebody")
		defer gone()
	default:
		out, err := h.command(0, "status").CombinedOutput()
		// 3: it is degraded, since the lab has no directory for metrics. It has answered.
		if exit, is := errors.AsType[*exec.ExitError](err); err != nil && !(is && exit.ExitCode() == 3) {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer s.Close()
	tools, err := s.ListTools(ctx, nil)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(tools.Tools, func(t *mcp.Tool) bool { return t.Name == "nmap_scan" }) {
		return errors.New("no tools")
	}
	answer, err := call(s, "capabilities", object{})
	if err == nil && answer["engagements"] == nil {
		err = errors.New(show(answer))
	}
	return err
}
