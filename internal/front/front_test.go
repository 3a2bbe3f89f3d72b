package front

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The front refuses to run as root, so these tests run as nobody, in an empty network.
func TestMain(m *testing.M) {
	if os.Getenv("FRONT_TEST") == "" && os.Getuid() == 0 {
		os.Exit(asNobody("FRONT_TEST=1", syscall.CLONE_NEWNET, "--no-new-privs"))
	}
	if os.Getenv("FRONT_TEST") == "selfcheck" {
		gaps, err := selfCheck()
		fmt.Println(gaps, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func asNobody(env string, namespaces uintptr, privs ...string) int {
	dir, err := os.MkdirTemp("", "front")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "test"), program, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	args := append([]string{"--reuid", "65401", "--regid", "65401", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, privs...)
	args = append(args, filepath.Join(dir, "test"))
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") { // root's
			args = append(args, a)
		}
	}
	cmd := exec.Command("setpriv", args...)
	cmd.Env = append(os.Environ(), env, "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "front: as nobody:", err)
		return 1
	}
	return 0
}

// room is a front with the test as its launcher.
type room struct {
	t       *testing.T
	dir     string
	conn    *wire.Conn
	stop    func()
	ended   chan error
	inbox   chan wire.Message
	handles uint64
}

func newRoom(t *testing.T) *room {
	r := &room{t: t, dir: t.TempDir()}
	r.open()
	t.Cleanup(r.close)
	return r
}

// open starts the front, with whatever is in its directory, and greets it.
func (r *room) open() {
	r.t.Helper()
	ours, theirs := pair(r.t, unix.SOCK_SEQPACKET)
	ctx, stop := context.WithCancel(context.Background())
	r.stop, r.ended = stop, make(chan error, 1)
	cfg := Config{Link: theirs.(*net.UnixConn), StateDir: r.dir, Live: Live{Tools: runners.BuiltIn(), Keep: store.Limits{Jobs: 100, Bytes: 1 << 30, Age: time.Hour}}, Version: "test",
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Notify: func(string) {}, Grace: 300 * time.Millisecond}
	go func() { r.ended <- Serve(ctx, cfg) }()
	r.greet(ours)
}

// greet is the launcher's side of a new connection, up to the front's hello.
func (r *room) greet(ours net.Conn) {
	r.t.Helper()
	r.conn, r.inbox = wire.NewLauncher(ours.(*net.UnixConn)), make(chan wire.Message, 64)
	r.tell(wire.Message{Hello: &wire.Hello{Version: wire.Version, Instance: "test", Budget: 5000}})
	go func(conn *wire.Conn, inbox chan wire.Message) {
		defer close(inbox)
		for {
			m, _, err := conn.Receive()
			if err != nil {
				return
			}
			inbox <- m
		}
	}(r.conn, r.inbox)
	if m := r.hear(); m.Hello == nil || len(m.Hello.Gaps) != 0 {
		r.t.Fatalf("the front began with %+v", m)
	}
}

func (r *room) close() {
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Errorf("the front ended: %v", err)
		}
	case <-time.After(10 * time.Second):
		r.t.Error("the front does not end")
	}
	r.conn.Close()
}

func pair(t *testing.T, kind int) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
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

func (r *room) tell(m wire.Message, files ...*os.File) {
	r.t.Helper()
	if err := r.conn.Send(m, files...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) hear() wire.Message {
	r.t.Helper()
	select {
	case m, ok := <-r.inbox:
		if !ok {
			r.t.Fatal("the front hung up")
		}
		return m
	case <-time.After(10 * time.Second):
		r.t.Fatal("the front says nothing")
	}
	panic("unreachable")
}

// until skips what does not fit.
func (r *room) until(fits func(wire.Message) bool) wire.Message {
	r.t.Helper()
	for {
		if m := r.hear(); fits(m) {
			return m
		}
	}
}

// client hands a caller over and returns the other end of its connection.
func (r *room) client(uid uint32) (net.Conn, uint64) {
	r.t.Helper()
	ours, theirs := pair(r.t, unix.SOCK_STREAM)
	f, err := theirs.(*net.UnixConn).File()
	if err != nil {
		r.t.Fatal(err)
	}
	r.handles++
	r.tell(wire.Message{Client: &wire.Client{Handle: r.handles, UID: uid}}, f)
	f.Close()
	theirs.Close()
	r.t.Cleanup(func() { ours.Close() })
	return ours, r.handles
}

// agent is a real MCP client.
func (r *room) agent(uid uint32, progress func(*mcp.ProgressNotificationParams)) *mcp.ClientSession {
	r.t.Helper()
	conn, _ := r.client(uid)
	options := &mcp.ClientOptions{}
	if progress != nil {
		options.ProgressNotificationHandler = func(_ context.Context, n *mcp.ProgressNotificationClientRequest) { progress(n.Params) }
	}
	s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, options).Connect(context.Background(), &mcp.IOTransport{Reader: conn, Writer: conn}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

type answered struct {
	result *mcp.CallToolResult
	err    error
}

func start(ctx context.Context, s *mcp.ClientSession, tool string, arguments any) chan answered {
	out := make(chan answered, 1)
	params := &mcp.CallToolParams{Name: tool, Arguments: arguments}
	params.SetProgressToken("p")
	go func() {
		r, err := s.CallTool(ctx, params)
		out <- answered{r, err}
	}()
	return out
}

// object is the structured content, which must be the text's JSON.
func (r *room) object(a answered) map[string]any {
	r.t.Helper()
	if a.err != nil {
		r.t.Fatal(a.err)
	}
	structured, err := json.Marshal(a.result.StructuredContent)
	if err != nil {
		r.t.Fatal(err)
	}
	var x, y map[string]any
	if err := json.Unmarshal(structured, &x); err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(a.result.Content[0].(*mcp.TextContent).Text), &y); err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(x, y); diff != "" {
		r.t.Errorf("text and structured content differ:\n%s", diff)
	}
	return x
}

func (r *room) call(s *mcp.ClientSession, tool string, arguments any) map[string]any {
	r.t.Helper()
	return r.object(<-start(context.Background(), s, tool, arguments))
}

const quick = `{"targets":["10.77.0.10"],"wait_s":20}`

// begin starts a scan, accepts it as the launcher, and shows it running with an empty output.
func (r *room) begin(s *mcp.ClientSession, arguments string) (chan answered, *running) {
	r.t.Helper()
	out := start(context.Background(), s, "nmap_scan", json.RawMessage(arguments))
	m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	return out, r.launched(m.Job)
}

// running is a scan as the launcher has it.
type running struct {
	r      *room
	record wire.Job
	stdout *os.File
}

func (r *room) launched(id string) *running {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "stdout")
	out, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { out.Close() })
	run := &running{r: r, stdout: out, record: wire.Job{ID: id, UID: 1000, Tool: "nmap_scan", State: wire.Running, Rate: 700, Files: []string{"stdout"}, Started: time.Now(),
		Verdict: wire.Verdict{Outcome: "allow", Engagement: "lab", Rule: "targets[0]", AddressCount: 1, ExcludedCount: 2,
			Excluded: []wire.Exclusion{{Prefix: "10.77.0.13/32", Rule: "exclude[0]"}}},
		Network:     &wire.Network{Mode: "translated", Cannot: []string{"c"}, Slowed: "s"},
		NotEnforced: []wire.Gap{{Layer: "cgroup-memory", Why: "w", Follows: "f"}}}}
	run.show()
	return run
}

func (run *running) show() {
	run.r.t.Helper()
	f, err := os.Open(run.stdout.Name())
	if err != nil {
		run.r.t.Fatal(err)
	}
	defer f.Close()
	run.r.tell(wire.Message{Job: &run.record}, f)
}

func (run *running) write(b []byte) {
	run.r.t.Helper()
	if _, err := run.stdout.Write(b); err != nil {
		run.r.t.Fatal(err)
	}
}

func (run *running) end(o wire.Outcome) {
	run.r.t.Helper()
	o.Ended = time.Now()
	run.record.State, run.record.Outcome = wire.Ended, &o
	run.record.Files = nil
	run.r.tell(wire.Message{Job: &run.record})
}

func (run *running) acknowledged() {
	run.r.t.Helper()
	run.r.until(func(m wire.Message) bool { return m.Ack != nil && m.Ack.Job == run.record.ID })
}

// capture is nmap's own output, from the captures of the parser.
func capture(t *testing.T, name string) []byte {
	t.Helper()
	b, err := captures(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func captures(name string) ([]byte, error) {
	for _, dir := range []string{"../../runners/report/testdata", os.Getenv("FRONT_CAPTURES")} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("no capture %s", name)
}

func at(v any, path ...string) any {
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

var exited = wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 7}}

func TestAScanIsAnsweredWithWhatItFoundAndDid(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	out, run := r.begin(s, quick)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	answer := r.object(<-out)
	run.acknowledged()
	want, err := report.ParseNmap(bytes.NewReader(capture(t, "connect.xml")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if answer["status"] != "completed" || at(answer, "engagement") != "lab" || at(answer, "coverage", "excluded") != 2.0 || len(answer["hosts"].([]any)) != len(want.Hosts) ||
		len(answer["not_enforced"].([]any)) != 1 {
		t.Errorf("%v", answer)
	}
	if at(answer, "network", "mode") != "translated" || at(answer, "network", "slowed") != "s" || len(at(answer, "network", "cannot").([]any)) != 1 {
		t.Errorf("network: %v", answer["network"])
	}
	// The same again, in a later session; nothing for another user.
	id := answer["job_id"]
	if again := r.call(r.agent(1000, nil), "job_result", map[string]any{"job_id": id}); again["status"] != "completed" {
		t.Errorf("%v", again)
	}
	stranger := r.agent(1001, nil)
	for _, tool := range []string{"job_status", "job_result", "job_cancel"} {
		if a := r.call(stranger, tool, map[string]any{"job_id": id}); at(a, "error", "code") != "no_such_job" {
			t.Errorf("%s for another user: %v", tool, a)
		}
	}
	uri := "secmcpd://jobs/" + id.(string) + "/raw"
	if _, err := s.ReadResource(context.Background(), &mcp.ReadResourceParams{URI: uri}); err != nil {
		t.Errorf("its own artefact: %v", err)
	}
	for _, no := range []string{uri + "/..", "secmcpd://jobs/" + id.(string) + "/../jobs.db", "secmcpd://jobs/../nmap.xml", "file:///etc/passwd"} {
		if _, err := s.ReadResource(context.Background(), &mcp.ReadResourceParams{URI: no}); err == nil {
			t.Errorf("%s was read", no)
		}
	}
	if _, err := stranger.ReadResource(context.Background(), &mcp.ReadResourceParams{URI: uri}); err == nil {
		t.Error("another user's artefact was read")
	}
}

// A scan that failed or was cut is never "0 findings": its status and its coverage say so.
func TestHowAScanEndsIsHowItIsTold(t *testing.T) {
	whole, cut := capture(t, "connect.xml"), capture(t, "killed.xml")
	told := map[string]bool{wire.Refused: true} // that one is a refusal, and has a test of its own
	for _, c := range []struct {
		says    string
		wrote   []byte
		outcome wire.Outcome
		status  string
		cutBy   any
	}{
		{"well", whole, exited, "completed", nil},
		{"with an error status", whole, wire.Outcome{Reason: wire.Exited, Code: 1}, "failed", nil},
		{"without a word", nil, exited, "failed", nil},
		{"in the middle of its report", cut, exited, "failed", nil},
		{"by its caller", cut, wire.Outcome{Reason: wire.Cancelled}, "cancelled", "cancelled"},
		{"by its time", cut, wire.Outcome{Reason: wire.Timeout}, "partial", "timeout"},
		{"by its output", cut, wire.Outcome{Reason: wire.Output}, "truncated", "output"},
		{"by its memory", cut, wire.Outcome{Reason: wire.Memory}, "partial", "memory"},
		{"by its processor time", cut, wire.Outcome{Reason: wire.CPU}, "partial", "cpu"},
		{"by its processes", cut, wire.Outcome{Reason: wire.Pids, Code: 1}, "partial", "pids"},
		{"by a signal of its own", cut, wire.Outcome{Reason: wire.Signalled, Signal: 11}, "failed", "signalled"},
		{"by a full disk", cut, wire.Outcome{Reason: wire.DiskFull}, "partial", "disk_full"},
		{"by its engagement", cut, wire.Outcome{Reason: wire.Withdrawn}, "partial", "withdrawn"},
		{"by its box", cut, wire.Outcome{Reason: wire.Violation, Signal: 31}, "failed", "violation"},
		{"before it began", nil, wire.Outcome{Reason: wire.Launch, Stage: "clone", Refused: &wire.Refusal{Code: "launch_failed", Hint: "h"}}, "failed", "launch"},
		{"with the launcher", cut, wire.Outcome{Reason: wire.Interrupted}, "interrupted", "interrupted"},
		{"by the loss of its filter", cut, wire.Outcome{Reason: wire.ScopeLost}, "interrupted", "scope_lost"},
		{"with the daemon", cut, wire.Outcome{Reason: wire.Shutdown}, "interrupted", "shutdown"},
	} {
		t.Run(c.says, func(t *testing.T) {
			r := newRoom(t)
			out, run := r.begin(r.agent(1000, nil), quick)
			run.write(c.wrote)
			run.end(c.outcome)
			answer := r.object(<-out)
			if answer["status"] != c.status || at(answer, "coverage", "cut_by") != c.cutBy || at(answer, "coverage", "complete") != (c.status == "completed") {
				t.Errorf("%v", answer)
			}
			if got := at(answer, "end", "reason"); got != c.outcome.Reason {
				t.Errorf("its end says %v, the launcher said %s", got, c.outcome.Reason)
			}
			if c.outcome.Refused != nil && (at(answer, "error", "code") != c.outcome.Refused.Code || at(answer, "error", "hint") != "h") {
				t.Errorf("without the error: %v", answer)
			}
			if c.status != "completed" && answer["next"] == nil {
				t.Error("it does not say how to go on")
			}
		})
		told[c.outcome.Reason] = true
	}
	source, err := os.ReadFile("../wire/wire.go")
	if err != nil {
		t.Fatal(err)
	}
	_, reasons, _ := strings.Cut(string(source), "// The reasons for which a job ended.")
	reasons, _, _ = strings.Cut(reasons, "\n)\n")
	words := regexp.MustCompile(`(?m)^\t\w+ += "(\w+)"`).FindAllStringSubmatch(reasons, -1)
	for _, word := range words {
		if !told[word[1]] {
			t.Errorf("no row for a scan that ended by %s", word[1])
		}
	}
	if len(words) < 16 {
		t.Errorf("%d reasons were found: %s", len(words), reasons)
	}
}

// Where a scan was ended before its scanner had written anything, the scanner is not to blame.
func TestAScannerErrorIsTheScanners(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	for _, c := range []struct {
		says    string
		wrote   string
		outcome wire.Outcome
		want    any
	}{
		{"it ended without a word", "", wire.Outcome{Reason: wire.Exited}, "not_a_report"},
		{"it was cancelled before its first word", "", wire.Outcome{Reason: wire.Cancelled}, nil},
		{"it was never started", "", wire.Outcome{Reason: wire.Launch, Stage: "clone"}, nil},
		{"it went with the launcher, before its first word", "", wire.Outcome{Reason: wire.Interrupted}, nil},
		{"it wrote something else until its time was up", "Starting Nmap\n", wire.Outcome{Reason: wire.Timeout, Usage: wire.Usage{Output: 14}}, "not_a_report"},
		{"it broke off in something else", "<nmaprun><host <", wire.Outcome{Reason: wire.Signalled, Signal: 11}, "malformed"},
	} {
		answer := r.scanned(s, quick, allowed(1, "10.77.0.10/32"), []byte(c.wrote), c.outcome)
		if got := at(answer, "end", "scanner_error"); got != c.want {
			t.Errorf("%s: %v, want %v", c.says, got, c.want)
		}
	}
}

func TestARefusalIsAnErrorThatSaysWhy(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	out := start(context.Background(), s, "nmap_scan", json.RawMessage(quick))
	m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq, Refused: &wire.Refusal{Code: "target_never", Field: "targets[0]", Rule: "never", Hint: "h"}}})
	a := <-out
	answer := r.object(a)
	if !a.result.IsError || at(answer, "error", "code") != "target_never" || at(answer, "error", "rule") != "never" || answer["job_id"] != m.Job {
		t.Errorf("%v", answer)
	}
}

func TestEveryFaultIsToldAtOnce(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	for _, c := range []struct{ tool, arguments, want string }{
		{"nmap_scan", `{"targets":["-A","10.1"],"ports":[0],"wait_s":99,"correlation_id":"a b","traget":1}`, "wait_s correlation_id traget targets[0] targets[1] ports[0]"},
		{"job_result", `{"job_id":"../x","limit":0,"flags":1}`, `flags job_id limit`},
		{"job_status", `{}`, "job_id"},
		{"scan_preview", `{"tool":"sh","arguments":{}}`, "tool"},
	} {
		a := <-start(context.Background(), s, c.tool, json.RawMessage(c.arguments))
		answer := r.object(a)
		faults, _ := answer["faults"].([]any)
		found := map[string]bool{}
		for _, f := range faults {
			found[fmt.Sprint(at(f, "field"))] = true
		}
		for _, want := range strings.Fields(c.want) {
			if !found[want] {
				t.Errorf("%s %s: no fault for %s in %v", c.tool, c.arguments, want, answer)
			}
		}
		if !a.result.IsError {
			t.Errorf("%s: no error", c.tool)
		}
	}
}

// Hundreds of faults are counted, and the first of them told; thousands of arguments are not looked at.
func TestHundredsOfFaultsFitAnAnswer(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	for _, n := range []int{250, 256, 257, 6000} {
		arguments := map[string]any{}
		for i := range n {
			arguments[fmt.Sprintf("k%d", i)] = 1
		}
		for _, tool := range []string{"nmap_scan", "job_list"} {
			a := <-start(context.Background(), s, tool, arguments)
			answer := r.object(a)
			faults := answer["faults"].([]any)
			if said := len(a.result.Content[0].(*mcp.TextContent).Text); said > 32<<10 {
				t.Errorf("%s: %d bytes", tool, said)
			}
			if n <= 256 && (len(faults) != maxFaults || answer["faults_total"].(float64) < float64(n)) {
				t.Errorf("%s: %v of %d faults", tool, answer["faults_total"], n)
			}
			if n > 256 && (len(faults) != 1 || at(faults[0], "code") != "too_many" || at(faults[0], "field") != "arguments") {
				t.Errorf("%s: %d arguments are %v", tool, n, faults)
			}
		}
	}
}

// Cancelling a call cancels its scan; losing the client does not.
func TestACancelledCallEndsItsScanAndAVanishedClientDoesNot(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	ctx, cancel := context.WithCancel(context.Background())
	start(ctx, s, "nmap_scan", json.RawMessage(quick))
	m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	run := r.launched(m.Job)
	cancel()
	c := r.until(func(m wire.Message) bool { return m.Cancel != nil }).Cancel
	if c.Job != m.Job {
		t.Errorf("job %s was cancelled, not %s", c.Job, m.Job)
	}
	r.tell(wire.Message{Reply: &wire.Reply{Seq: c.Seq}})
	run.end(wire.Outcome{Reason: wire.Cancelled})
	run.acknowledged()

	lost, handle := r.client(1000)
	fmt.Fprint(lost, hello+`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"nmap_scan","arguments":`+quick+`}}`+"\n")
	m = r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	run = r.launched(m.Job)
	lost.Close()
	r.tell(wire.Message{Gone: &wire.Gone{Handle: handle}})
	r.until(func(m wire.Message) bool {
		if m.Cancel != nil {
			t.Error("the scan of a client that vanished was cancelled")
		}
		return m.Leave != nil && m.Leave.Handle == handle
	})
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	run.acknowledged()
	if answer := r.call(r.agent(1000, nil), "job_result", map[string]any{"job_id": m.Job}); answer["status"] != "completed" {
		t.Errorf("%v", answer)
	}
}

const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}
`

// `printf … | secmcpd connect`: a client that has nothing more to say still gets its answers.
func TestTheEndOfInputDoesNotTakeTheAnswersWithIt(t *testing.T) {
	r := newRoom(t)
	conn, _ := r.client(1000)
	fmt.Fprint(conn, hello+`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"nmap_scan","arguments":`+quick+`}}`+"\n")
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
	r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq}})
	run := r.launched(m.Job)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(b), `"id":2`) || !strings.Contains(string(b), `"status":"completed"`) {
		t.Errorf("%.300s, %v", b, err)
	}
}

func TestALongScanIsAJobToComeBackTo(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	out, run := r.begin(s, `{"targets":["10.77.0.10"],"wait_s":0}`)
	answer := r.object(<-out)
	if s := answer["status"]; s != "running" && s != "queued" || answer["poll_after_s"] == nil || answer["next"] == nil {
		t.Errorf("%v", answer)
	}
	waiting := start(context.Background(), s, "job_status", map[string]any{"job_id": answer["job_id"], "wait_s": 20})
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	if now := r.object(<-waiting); now["status"] != "completed" || now["hosts"] != nil || now["coverage"] == nil {
		t.Errorf("%v", now)
	}
	list := r.call(s, "job_list", map[string]any{})
	if jobs := list["jobs"].([]any); len(jobs) != 1 || at(jobs[0], "status") != "completed" {
		t.Errorf("%v", list)
	}
}

func TestProgressRises(t *testing.T) {
	r := newRoom(t)
	told := make(chan float64, 100)
	s := r.agent(1000, func(p *mcp.ProgressNotificationParams) { told <- p.Progress })
	out, run := r.begin(s, quick)
	whole := capture(t, "killed.xml")
	for i := range 4 {
		run.write(whole[len(whole)*i/4 : len(whole)*(i+1)/4])
		time.Sleep(tellInterval + 50*time.Millisecond) // progress is told at most so often
	}
	run.end(wire.Outcome{Reason: wire.Cancelled})
	<-out
	last := 0.0
	for len(told) > 0 {
		p := <-told
		if p <= last {
			t.Errorf("%v after %v", p, last)
		}
		last = p
	}
	if last < 2 {
		t.Errorf("only %v was told", last)
	}
}

// What a launcher that is gone left: its successor speaks of the job, or it is interrupted, with
// what it had.
func TestAJobOutlivesTheConnectionToTheLauncher(t *testing.T) {
	for _, listed := range []bool{true, false} {
		t.Run(fmt.Sprint("listed ", listed), func(t *testing.T) {
			r := newRoom(t)
			out, run := r.begin(r.agent(1000, nil), `{"targets":["10.77.0.10"],"wait_s":0}`)
			id := r.object(<-out)["job_id"].(string)
			run.write(capture(t, "killed.xml"))
			r.close() // the front ends with its link here; the next one takes the job up
			r.open()
			if listed {
				run.show()
			}
			r.tell(wire.Message{Synced: &wire.Synced{}})
			want := "interrupted"
			if listed {
				want = "cancelled"
				run.end(wire.Outcome{Reason: wire.Cancelled})
			}
			run.acknowledged()
			answer := r.call(r.agent(1000, nil), "job_result", map[string]any{"job_id": id})
			if answer["status"] != want {
				t.Errorf("%v", answer)
			}
			if listed && len(answer["hosts"].([]any)) == 0 {
				t.Error("what it had found is gone")
			}
		})
	}
}

// The launcher repeats an end until it is acknowledged.
func TestAnEndThatIsToldTwiceIsKeptOnce(t *testing.T) {
	r := newRoom(t)
	out, run := r.begin(r.agent(1000, nil), quick)
	run.write(capture(t, "connect.xml"))
	run.end(exited)
	<-out
	run.acknowledged()
	run.record.Outcome.Reason = wire.Cancelled // whatever it says now
	run.r.tell(wire.Message{Job: &run.record})
	run.acknowledged()
	if answer := r.call(r.agent(1000, nil), "job_result", map[string]any{"job_id": run.record.ID}); answer["status"] != "completed" {
		t.Errorf("%v", answer)
	}
}

func TestACallBeyondTheBoundIsAnsweredBusy(t *testing.T) {
	r := newRoom(t)
	conn, _ := r.client(1000)
	var calls strings.Builder
	calls.WriteString(hello)
	for i := range 64 + 6 {
		fmt.Fprintf(&calls, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"capabilities","arguments":{}}}`+"\n", i+2)
	}
	go io.WriteString(conn, calls.String())
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	busy := 0
	for lines := bufio.NewScanner(conn); busy < 6 && lines.Scan(); {
		if strings.Contains(lines.Text(), "calls are under way") {
			busy++
		}
	}
	if busy != 6 {
		t.Errorf("%d were answered busy", busy)
	}
}

// A client that does not read is cut off, and the front goes on.
func TestAStalledClientIsCutOff(t *testing.T) {
	r := newRoom(t)
	conn, handle := r.client(1000)
	go func() {
		fmt.Fprint(conn, hello)
		for i := range 100000 {
			if _, err := fmt.Fprintf(conn, `{"jsonrpc":"2.0","id":%d,"method":"tools/list"}`+"\n", i+2); err != nil {
				return
			}
		}
	}()
	began := time.Now()
	for {
		select {
		case m := <-r.inbox:
			if m.Leave == nil || m.Leave.Handle != handle {
				continue
			}
		case <-time.After(15 * time.Second):
			t.Fatal("it was not cut off")
		}
		break
	}
	t.Logf("cut off after %v", time.Since(began))
	if _, err := r.agent(1000, nil).ListTools(context.Background(), nil); err != nil {
		t.Errorf("the others suffer: %v", err)
	}
}

const someJob = "abcdefghijklmnopqrstuvwxyz"

func TestAPageFitsAModelAndTheCursorWalksAll(t *testing.T) {
	var hosts []report.Host
	for i := range 300 {
		h := report.Host{Status: "up", Ports: []report.Port{}}
		for p := range i%40 + 1 {
			h.Ports = append(h.Ports, report.Port{Port: p + 1, Proto: "tcp", State: "open", Untrusted: &report.PortText{Product: strings.Repeat("x", 60)}})
		}
		hosts = append(hosts, h)
	}
	q, seen := query{Limit: 100}, 0
	for range 300 {
		part, p, err := q.page(someJob, hosts)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(part)
		if n := len(encode(part)); n > pageBytes+8<<10 {
			t.Errorf("a page of %d bytes", n)
		}
		if p.Total != 300 || p.Returned != len(part) {
			t.Errorf("%+v", p)
		}
		if q.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	if seen != 300 {
		t.Errorf("%d hosts were seen", seen)
	}
}

// What agents see is a golden file: a changed description is a changed behaviour.
func TestTheToolsAsAgentsSeeThem(t *testing.T) {
	r := newRoom(t)
	list, err := r.agent(1000, nil).ListTools(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range list.Tools {
		a := tool.Annotations
		if tool.Title == "" || tool.Description == "" || len(tool.Description) > 2048 || a == nil || a.DestructiveHint == nil || a.OpenWorldHint == nil || tool.InputSchema == nil || tool.OutputSchema == nil {
			t.Errorf("%s lacks something: %+v", tool.Name, tool)
		}
		for _, word := range []string{"ignore", "do not follow", "do not execute", "<important>"} {
			if strings.Contains(strings.ToLower(tool.Description), word) {
				t.Errorf("%s: the description says %q", tool.Name, word)
			}
		}
		got, err := json.MarshalIndent(tool, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "tools/"+tool.Name+".json", append(got, '\n'))
	}
	for name, schema := range fullSchemas() {
		got, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "schemas/"+name+".json", append(got, '\n'))
	}
	if len(instructions) >= 1500 {
		t.Errorf("instructions of %d bytes", len(instructions))
	}
	compact, err := json.Marshal(list.Tools)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the list is %d bytes", len(compact))
	for _, unclear := range []string{`"type":[`, `"$ref"`, `"null"`} {
		if strings.Contains(string(compact), unclear) {
			t.Errorf("there are clients that do not take %s", unclear)
		}
	}
	if len(compact) > 12000 { // 3,000 tokens
		t.Errorf("the list of tools is %d bytes: models read it in every session", len(compact))
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s has changed; if that is meant, run with -update:\n%s", name, diff)
	}
}

// Every kind of answer is what its tool's schema says.
func TestAnswersFitTheirSchemas(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	list, err := s.ListTools(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*jsonschema.Resolved{} // whole ones, and what the list of tools has of them
	for name, schema := range fullSchemas() {
		if schemas[name], err = schema.Resolve(nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range list.Tools {
		var schema jsonschema.Schema
		b, err := json.Marshal(tool.OutputSchema)
		if err == nil {
			err = json.Unmarshal(b, &schema)
		}
		if err != nil {
			t.Fatal(err)
		}
		if schemas["listed "+tool.Name], err = schema.Resolve(nil); err != nil {
			t.Fatal(err)
		}
	}
	fits := func(schema string, answer map[string]any) {
		t.Helper()
		if err := schemas[schema].Validate(answer); err != nil {
			t.Errorf("%s: %v\n%v", schema, err, answer)
		}
	}
	check := func(tool string, answer map[string]any) map[string]any {
		t.Helper()
		fits(schemaOf(tool), answer)
		fits("listed "+tool, answer)
		return answer
	}
	out, run := r.begin(s, `{"targets":["10.77.0.10"],"wait_s":0,"correlation_id":"c-1"}`)
	id := check("nmap_scan", r.object(<-out))["job_id"]
	check("job_status", r.call(s, "job_status", map[string]any{"job_id": id}))
	run.write(capture(t, "scripts.xml"))
	run.end(exited)
	run.acknowledged()
	check("job_result", r.call(s, "job_result", map[string]any{"job_id": id}))
	check("job_status", r.call(s, "job_status", map[string]any{"job_id": id}))
	check("job_cancel", r.call(s, "job_cancel", map[string]any{"job_id": id}))
	check("job_list", r.call(s, "job_list", map[string]any{"state": "completed"}))
	check("job_result", r.call(s, "job_result", map[string]any{"job_id": id, "host": "10.77.0.10"}))
	for _, by := range []any{"port", "product", nil} {
		arguments := map[string]any{}
		if by != nil {
			arguments["by"] = by
		}
		check("result_query", r.call(s, "result_query", arguments))
	}
	check("job_pin", r.call(s, "job_pin", map[string]any{"name": "base", "job_id": id}))
	check("scan_diff", r.call(s, "scan_diff", map[string]any{"before": "base", "after": id}))
	check("job_pin", r.call(s, "job_pin", map[string]any{"name": "base"}))
	fits("error", r.call(s, "nmap_scan", map[string]any{"targets": []string{"-A"}}))
	fits("error", r.call(s, "job_status", map[string]any{"job_id": someJob}))
	for _, tool := range []string{"scan_preview", "capabilities"} {
		arguments := any(map[string]any{})
		if tool == "scan_preview" {
			arguments = map[string]any{"tool": "nmap_scan", "arguments": map[string]any{"targets": []string{"10.77.0.10"}}}
		}
		out := start(context.Background(), s, tool, arguments)
		m := r.until(func(m wire.Message) bool { return m.Preview != nil || m.Ask != nil })
		reply := wire.Reply{Capabilities: &wire.Capabilities{Slots: 1}}
		if m.Preview != nil {
			reply = wire.Reply{Seq: m.Preview.Seq, Preview: &wire.Previewed{Verdict: wire.Verdict{Outcome: "allow"}, Argv: []string{"nmap"}, ArgvCount: 1}}
		} else {
			reply.Seq = m.Ask.Seq
		}
		r.tell(wire.Message{Reply: &reply})
		check(tool, r.object(<-out))
	}
}

func TestSelfCheck(t *testing.T) {
	if gaps, err := selfCheck(); err != nil || len(gaps) != 0 {
		t.Errorf("as nobody, without privilege and network: %v, %v", gaps, err)
	}
}

// scanned is a whole scan of which the launcher's record and the report are given.
func (r *room) scanned(s *mcp.ClientSession, arguments string, verdict wire.Verdict, wrote []byte, o wire.Outcome) map[string]any {
	r.t.Helper()
	out, run := r.begin(s, arguments)
	run.record.Verdict = verdict
	run.show()
	run.write(wrote)
	run.end(o)
	answer := r.object(<-out)
	run.acknowledged()
	return answer
}

func allowed(count uint64, prefixes ...string) wire.Verdict {
	return wire.Verdict{Outcome: "allow", Engagement: "lab", Rule: "targets[0]", Addresses: prefixes, AddressCount: count}
}

// Hosts that were given up are neither done nor silent, and the way on is said.
func TestAScanThatGaveHostsUpIsPartial(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	answer := r.scanned(s, `{"targets":["10.91.0.10","10.91.0.96/31"],"wait_s":20}`, allowed(3, "10.91.0.10/32", "10.91.0.96/31"), capture(t, "host_timeout.xml"), exited)
	if answer["status"] != "partial" || at(answer, "coverage", "timed_out") != 2.0 || at(answer, "coverage", "silent") != 0.0 || at(answer, "coverage", "complete") != false {
		t.Errorf("%v", answer)
	}
	if got := fmt.Sprint(at(answer, "coverage", "addresses", "timed_out", "prefixes")); got != "[10.91.0.96/31]" {
		t.Error(got)
	}
	for _, tool := range []string{"job_status", "job_result", "job_cancel"} {
		if next := fmt.Sprint(r.call(s, tool, map[string]any{"job_id": answer["job_id"]})["next"]); !strings.Contains(next, "host_timeout") {
			t.Errorf("%s: next is %s", tool, next)
		}
	}
	summary := at(r.call(s, "job_list", map[string]any{})["jobs"].([]any)[0], "summary")
	if at(summary, "timed_out") != 2.0 || at(summary, "complete") != false {
		t.Errorf("%v", summary)
	}
	// Firewalled hosts that nobody looked for first: given up, and of that, not silent.
	var b strings.Builder
	for i := range 4 {
		fmt.Fprintf(&b, `<host timedout="true"><status state="up" reason="user-set"/><address addr="10.91.0.%d" addrtype="ipv4"/></host>`, 96+i)
	}
	answer = r.scanned(s, `{"targets":["10.91.0.96/30"],"wait_s":20}`, allowed(4, "10.91.0.96/30"), whole(b.String()), exited)
	if answer["status"] != "partial" || at(answer, "coverage", "timed_out") != 4.0 || at(answer, "coverage", "silent") != 0.0 || at(answer, "summary", "hosts_up") != 0.0 {
		t.Errorf("%v", answer)
	}
}

func whole(hosts string) []byte {
	return []byte(`<?xml version="1.0"?><nmaprun scanner="nmap" version="7.93">` + hosts + `<runstats><finished exit="success"/></runstats></nmaprun>`)
}

// Which addresses were looked at is said by prefix, and of each one what became of it.
func TestCoverageSaysWhichAddressesAndHostSaysOfOne(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	verdict := allowed(14, "10.91.0.0/29", "10.91.0.10/31", "10.91.0.12/30")
	verdict.Excluded, verdict.ExcludedCount = []wire.Exclusion{{Prefix: "10.91.0.8/31", Rule: "exclude[0]"}}, 2
	open := `<ports><port protocol="tcp" portid="80"><state state="open" reason="syn-ack"/></port></ports>`
	silent := `<ports><extraports state="filtered" count="100"/></ports>`
	var b strings.Builder
	for _, h := range []struct{ state, addr, rest string }{{"up", "10.91.0.0", open}, {"up", "10.91.0.1", silent}, {"down", "10.91.0.2", ""}, {"down", "10.91.0.3", ""}} {
		fmt.Fprintf(&b, `<host><status state=%q reason="user-set"/><address addr=%q addrtype="ipv4"/>%s</host>`, h.state, h.addr, h.rest)
	}
	b.WriteString(`<host timedout="true"><status state="up" reason="user-set"/><address addr="10.91.0.4" addrtype="ipv4"/></host>`)
	out, run := r.begin(s, `{"targets":["10.91.0.0/28","web.lab.internal"],"wait_s":20}`)
	verdict.Addresses, verdict.AddressCount = append(verdict.Addresses, "10.92.0.1/32"), verdict.AddressCount+1
	run.record.Verdict = verdict
	run.record.Resolved = []wire.Resolved{{Name: "web.lab.internal", Addresses: []string{"10.92.0.1"}, Count: 1}}
	run.show()
	run.write([]byte(`<?xml version="1.0"?><nmaprun scanner="nmap" version="7.93">` + b.String()))
	run.end(wire.Outcome{Reason: wire.Timeout, Usage: wire.Usage{SentPackets: 1}})
	answer := r.object(<-out)
	for part, want := range map[string]string{
		"completed":   "map[count:4 prefixes:[10.91.0.0/30]]",
		"timed_out":   "map[count:1 prefixes:[10.91.0.4/32]]",
		"not_reached": "map[count:10 prefixes:[10.91.0.5/32 10.91.0.6/31 10.91.0.10/31 10.91.0.12/30 10.92.0.1/32]]",
	} {
		if got := fmt.Sprint(at(answer, "coverage", "addresses", part)); got != want {
			t.Errorf("%s: %s, want %s", part, got, want)
		}
	}
	if at(answer, "coverage", "not_reached") != 10.0 || at(answer, "coverage", "silent") != 1.0 {
		t.Errorf("%v", answer["coverage"])
	}
	for addr, want := range map[string]string{"10.91.0.0": "found", "10.91.0.1": "silent", "10.91.0.3": "down", "10.91.0.4": "timed_out", "10.91.0.5": "not_reached",
		"10.91.0.9": "excluded", "10.91.0.15": "not_reached", "10.92.0.1": "not_reached", "10.91.0.16": "not_asked", "fd00::1": "not_asked"} {
		got := r.call(s, "job_result", map[string]any{"job_id": answer["job_id"], "host": addr})
		if at(got, "host", "state") != want || at(got, "host", "addr") != addr {
			t.Errorf("%s: %v, want %s", addr, got["host"], want)
		}
		if hosts, _ := got["hosts"].([]any); (len(hosts) == 1) != (want == "found" || want == "silent" || want == "timed_out") {
			t.Errorf("%s: %d hosts", addr, len(hosts))
		}
		if want == "excluded" && at(got, "host", "rule") != "exclude[0]" {
			t.Errorf("%s: %v", addr, got["host"])
		}
	}
	// What was asked is part of the answer.
	if got := fmt.Sprint(at(answer, "arguments", "targets"), answer["resolved"]); got != "[10.91.0.0/28 web.lab.internal] [map[addresses:[10.92.0.1] count:1 name:web.lab.internal]]" {
		t.Error(got)
	}
}

// Where a verdict could not list all that it says, the counts are right and nothing is guessed.
func TestCoverageBeyondTheListsOfAVerdict(t *testing.T) {
	arguments, err := json.Marshal(map[string]any{"targets": []string{"10.91.0.0/24"}})
	if err != nil {
		t.Fatal(err)
	}
	row := store.Job{Tool: "nmap_scan", Arguments: arguments}
	record := wire.Job{Started: time.Now(), Outcome: &wire.Outcome{Reason: wire.Timeout}, Verdict: allowed(128, "10.91.0.0/26")}
	record.Verdict.Excluded, record.Verdict.ExcludedCount = []wire.Exclusion{{Prefix: "10.91.0.64/27", Rule: "exclude[0]"}}, 128
	var r report.Report
	r.Coverage.Up, r.Coverage.Completed = 32, []netip.Prefix{netip.MustParsePrefix("10.91.0.0/27")}
	if got := fmt.Sprint(cover(record, r).Addresses.NotReached); got != "{96 [10.91.0.32/27] true}" {
		t.Error(got)
	}
	for addr, want := range map[string]string{"10.91.0.1": "not_kept", "10.91.0.33": "not_reached", "10.91.0.65": "excluded", "10.91.0.200": "not_listed", "10.92.0.1": "not_asked"} {
		if got := fateOf(row, record, r, netip.MustParseAddr(addr)); got.State != want {
			t.Errorf("%s is %s, want %s", addr, got.State, want)
		}
	}
}

// A host that says as much as it can fills no answer, and all that is kept of it can be had.
func TestAHostileHostFillsNoAnswer(t *testing.T) {
	var b strings.Builder
	text := strings.Repeat("&lt;", 1024)
	b.WriteString(`<host><status state="up" reason="user-set"/><address addr="10.77.0.10" addrtype="ipv4"/><ports>`)
	for i := range 65535 {
		fmt.Fprintf(&b, `<port protocol="tcp" portid="%d"><state state="open" reason="syn-ack"/><service name="http" product="%s"/>`, i+1, strings.Repeat("x", 200))
		for n := 0; i == 0 && n < 128; n++ {
			fmt.Fprintf(&b, `<script id="s%d" output="%s"/>`, n, text)
		}
		b.WriteString(`</port>`)
	}
	b.WriteString("</ports><hostscript>")
	for n := range 128 {
		fmt.Fprintf(&b, `<script id="h%d" output="%s"/>`, n, text)
	}
	b.WriteString(`</hostscript></host><host><status state="up" reason="user-set"/><address addr="10.77.0.11" addrtype="ipv4"/></host>`)
	targets := make([]string, 256)
	for i := range targets {
		targets[i] = fmt.Sprintf("%s%d.lab.internal", strings.Repeat("long-label.", 12), i)
	}
	arguments, err := json.Marshal(map[string]any{"targets": targets, "wait_s": 20})
	if err != nil {
		t.Fatal(err)
	}
	r := newRoom(t)
	s := r.agent(1000, nil)
	out, run := r.begin(s, string(arguments))
	run.write(whole(b.String()))
	run.end(exited)
	const most = 100 << 10
	var id any
	for _, host := range []string{"", "10.77.0.10"} {
		ports, scripts, hosts := map[float64]bool{}, map[string]bool{}, map[any]bool{}
		again, pages := any(nil), 0
		for pages < 500 {
			var a answered
			if pages++; id == nil {
				a = <-out
			} else {
				ask := map[string]any{"job_id": id}
				if host != "" {
					ask["host"] = host
				}
				if again != nil {
					ask["cursor"] = again
				}
				a = <-start(context.Background(), s, "job_result", ask)
			}
			answer := r.object(a)
			id = answer["job_id"]
			if n := len(a.result.Content[0].(*mcp.TextContent).Text); n > most {
				t.Fatalf("an answer of %d bytes", n)
			}
			list, _ := answer["hosts"].([]any)
			for _, h := range list {
				hosts[at(h, "addr")] = true
				own, _ := at(h, "untrusted", "scripts").([]any)
				for _, script := range own {
					scripts[fmt.Sprint(at(script, "script"))] = true
				}
				some, _ := at(h, "ports").([]any)
				for _, p := range some {
					ports[at(p, "port").(float64)] = true
					said, _ := at(p, "untrusted", "scripts").([]any)
					for _, script := range said {
						scripts[fmt.Sprint(at(p, "port"), at(script, "script"))] = true
					}
				}
			}
			if again = at(answer, "page", "next_cursor"); again == nil {
				break
			}
			if next := fmt.Sprint(answer["next"]); !strings.Contains(next, fmt.Sprint(again)) {
				t.Fatalf("next does not say the cursor: %s", next)
			}
		}
		want := 2
		if host != "" {
			want = 1
		}
		if len(ports) != 2048 || len(scripts) != 2*128 || len(hosts) != want {
			t.Errorf("host %q: %d ports, %d scripts, %d hosts on %d pages", host, len(ports), len(scripts), len(hosts), pages)
		}
		t.Logf("host %q: %d pages", host, pages)
	}
	if answer := r.call(s, "job_status", map[string]any{"job_id": id}); at(answer, "summary", "open_ports") != 65535.0 || !strings.Contains(fmt.Sprint(at(answer, "coverage", "cut_from")), "ports") ||
		!strings.Contains(fmt.Sprint(answer["next"]), "ports") || at(answer, "arguments_shortened", "targets") != 256.0 {
		t.Errorf("%v", answer)
	}
}

// Jobs with long arguments make a page of the list shorter, not larger.
func TestAPageOfJobsIsBounded(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	targets := make([]string, 256)
	for i := range targets {
		targets[i] = fmt.Sprintf("%s%d.lab.internal", strings.Repeat("long-label.", 12), i)
	}
	const jobs = 60
	for range jobs {
		out := start(context.Background(), s, "nmap_scan", map[string]any{"targets": targets})
		m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
		r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq, Refused: &wire.Refusal{Code: "busy"}}})
		<-out
	}
	seen := map[any]bool{}
	ask := map[string]any{"limit": 100}
	for range jobs {
		a := <-start(context.Background(), s, "job_list", ask)
		if n := len(a.result.Content[0].(*mcp.TextContent).Text); n > 32<<10 {
			t.Errorf("a page of %d bytes", n)
		}
		answer := r.object(a)
		for _, j := range answer["jobs"].([]any) {
			seen[at(j, "job_id")] = true
		}
		if ask["cursor"] = answer["next_cursor"]; answer["next_cursor"] == nil {
			break
		}
	}
	if len(seen) != jobs {
		t.Errorf("%d jobs were seen", len(seen))
	}
}

// What was refused is refused, at once and whoever asks, and no answer about it says otherwise.
func TestAStatusAfterARefusalSaysRefused(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	for range 20 {
		out := start(context.Background(), s, "nmap_scan", json.RawMessage(quick))
		m := r.until(func(m wire.Message) bool { return m.Start != nil }).Start
		r.tell(wire.Message{Reply: &wire.Reply{Seq: m.Seq, Refused: &wire.Refusal{Code: "target_never", Hint: "h"}}})
		r.object(<-out)
		for _, tool := range []string{"job_status", "job_result", "job_cancel"} {
			if answer := r.call(s, tool, map[string]any{"job_id": m.Job}); answer["status"] != "refused" || answer["next"] != "h" || at(answer, "error", "code") != "target_never" {
				t.Fatalf("%s: %v", tool, answer)
			}
		}
	}
}

// The way on comes from the state of the job, whichever tool tells it.
func TestTheWayOnComesFromTheState(t *testing.T) {
	cut := capture(t, "killed.xml")
	for _, c := range []struct {
		says    string
		wrote   []byte
		outcome wire.Outcome
		want    string
	}{
		{"failed", cut, wire.Outcome{Reason: wire.Exited, Code: 1}, "The scan failed"},
		{"by its caller", cut, wire.Outcome{Reason: wire.Cancelled}, "unknown, not closed"},
		{"by its time", cut, wire.Outcome{Reason: wire.Timeout}, "longer limit"},
		{"by its engagement", cut, wire.Outcome{Reason: wire.Withdrawn}, "no longer allows it"},
		{"without a packet", capture(t, "os.xml"), wire.Outcome{Reason: wire.Exited}, "No packet left"},
	} {
		t.Run(c.says, func(t *testing.T) {
			r := newRoom(t)
			s := r.agent(1000, nil)
			answer := r.scanned(s, `{"targets":["10.91.0.10"],"wait_s":20}`, allowed(1, "10.91.0.10/32"), c.wrote, c.outcome)
			for _, tool := range []string{"job_status", "job_result", "job_cancel"} {
				if next := fmt.Sprint(r.call(s, tool, map[string]any{"job_id": answer["job_id"]})["next"]); !strings.Contains(next, c.want) {
					t.Errorf("%s: next is %s", tool, next)
				}
			}
		})
	}
}

// A firewall that drops what scans send looks like a network of silent hosts, and nothing else does
// for certain: where each host is one, the way to find out is said.
func TestSilenceEverywhereNamesTheDoctor(t *testing.T) {
	const (
		silent = `<host><status state="up" reason="user-set"/><address addr="10.91.0.%d" addrtype="ipv4"/><ports><extraports state="filtered" count="100"/></ports></host>`
		open   = `<host><status state="up" reason="user-set"/><address addr="10.91.0.%d" addrtype="ipv4"/><ports><port protocol="tcp" portid="80"><state state="open" reason="syn-ack"/></port></ports></host>`
		// The same from a firewall that rejects, seen by connect: it is no word of the host's.
		refused = `<host><status state="up" reason="user-set"/><address addr="10.91.0.%d" addrtype="ipv4"/><ports><port protocol="tcp" portid="80"><state state="filtered" reason="host-unreach"/></port></ports></host>`
		down    = `<host><status state="down" reason="no-response"/><address addr="10.91.0.%d" addrtype="ipv4"/></host>`
	)
	r := newRoom(t)
	s := r.agent(1000, nil)
	for _, c := range []struct {
		says  string
		hosts []string
		want  bool
	}{
		{"all are silent", []string{silent, silent}, true},
		{"all are refused on the way", []string{refused, refused}, true},
		{"one answers", []string{silent, open}, false},
		{"one is down", []string{silent, down}, false},
		{"nobody", nil, false},
	} {
		var b strings.Builder
		for i, h := range c.hosts {
			fmt.Fprintf(&b, h, i)
		}
		answer := r.scanned(s, `{"targets":["10.91.0.0/31"],"wait_s":20}`, allowed(2, "10.91.0.0/31"), whole(b.String()), exited)
		if next := fmt.Sprint(answer["next"]); strings.Contains(next, "secmcpd doctor") != c.want {
			t.Errorf("%s: next is %s", c.says, next)
		}
	}
}

func TestAScanThatIsBeingEndedDoesNotGoOn(t *testing.T) {
	for _, state := range []store.State{store.Queued, store.Running} {
		if next := (&answer{Status: state, ending: true}).next(); strings.Contains(next, "goes on") || !strings.Contains(next, "job_status") {
			t.Errorf("%s: %s", state, next)
		}
	}
}

func TestAStrangeCursorIsRefused(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	one := r.scanned(s, quick, allowed(1, "10.77.0.10/32"), capture(t, "connect.xml"), exited)["job_id"].(string)
	two := r.scanned(s, quick, allowed(1, "10.77.0.10/32"), capture(t, "connect.xml"), exited)["job_id"].(string)
	first := r.call(s, "job_result", map[string]any{"job_id": one, "limit": 1})
	again := at(first, "page", "next_cursor")
	if second := r.call(s, "job_result", map[string]any{"job_id": one, "limit": 1, "cursor": again}); second["error"] != nil || fmt.Sprint(second["hosts"]) == fmt.Sprint(first["hosts"]) {
		t.Errorf("%v", second)
	}
	for _, c := range []struct {
		says, tool string
		arguments  map[string]any
	}{
		{"a job's id", "job_result", map[string]any{"job_id": one, "cursor": one}},
		{"a number", "job_result", map[string]any{"job_id": one, "cursor": "1"}},
		{"another job's", "job_result", map[string]any{"job_id": two, "cursor": again}},
		{"past the end", "job_result", map[string]any{"job_id": one, "cursor": cursor(one, 4, 0)}},
		{"past the end of a host", "job_result", map[string]any{"job_id": one, "cursor": cursor(one, 0, 999999)}},
		{"another host's", "job_result", map[string]any{"job_id": one, "host": "10.91.0.10", "cursor": cursor(one, 1, 0)}},
		{"a page's", "job_list", map[string]any{"cursor": again}},
		{"nobody's", "job_list", map[string]any{"cursor": someJob}},
	} {
		e := r.call(s, c.tool, c.arguments)["error"]
		if at(e, "code") != "bad_value" || at(e, "field") != "cursor" || at(e, "got") != c.arguments["cursor"] || at(e, "hint") == nil || at(e, "allowed") == nil {
			t.Errorf("%s: %v", c.says, e)
		}
	}
	out, _ := r.begin(s, `{"targets":["10.77.0.10"],"wait_s":0}`)
	id := r.object(<-out)["job_id"].(string)
	if e := r.call(s, "job_result", map[string]any{"job_id": id, "cursor": cursor(id, 0, 1)})["error"]; at(e, "field") != "cursor" {
		t.Errorf("of a scan that goes on: %v", e)
	}
}

// A fault repeats what was written, once and without quotes of its own.
func TestAFaultRepeatsWhatWasWritten(t *testing.T) {
	r := newRoom(t)
	s := r.agent(1000, nil)
	for _, c := range []struct {
		tool, arguments string
		field, got      any
		hint            string // a part of it
	}{
		{"job_result", `{"job_id":"../x"}`, "job_id", "../x", "job_list"},
		{"job_result", `{"job_id":"` + someJob + `","limit":"ten"}`, "limit", "ten", "a whole number"},
		{"job_list", `{"state":7}`, "state", "7", "any state"},
		{"job_list", `{"fl\u0007ags":1}`, "fl\ufffdags", "1", "leave it out"},
		{"job_list", `{"limit":5,"limit":6}`, "limit", "6", "once"},
		{"scan_preview", `{"tool":"sh","arguments":{}}`, "tool", "sh", "the name of a scan tool"},
		{"scan_preview", `{"tool":"nmap_scan","arguments":{},"fast":true}`, "fast", "true", "leave it out"},
		{"scan_preview", `{"tool":"nmap_scan","arguments":{"targets":["10.0.0.1"],"ports":[22],"top_ports":10}}`, "top_ports", "10", "not both"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"flags":"-A"}`, "flags", "-A", "leave it out"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"targets":["8.8.8.8"]}`, "targets", `["8.8.8.8"]`, "once"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"profile":"discovery","ports":[22]}`, "ports", "[22]", "looks for hosts only"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"rate":0}`, "rate", "0", "a number of that range"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"timing":"insane"}`, "timing", "insane", "one of those allowed"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"os_detection":"true"}`, "os_detection", `"true"`, "the schema"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"profile":null}`, "profile", "null", "leave the argument out"},
		{"nmap_scan", `{"targets":["10.0.0.1"],"correlation_id":"a b"}`, "correlation_id", "a b", "leave it out"},
	} {
		e := r.call(s, c.tool, json.RawMessage(c.arguments))["error"]
		if hint, _ := at(e, "hint").(string); at(e, "field") != c.field || at(e, "got") != c.got || !strings.Contains(hint, c.hint) {
			t.Errorf("%s: %v", c.arguments, e)
		}
	}
}

// Ports that were asked for and left out are in the coverage, with the rule.
func TestCoverageSaysWhichPortsAreLeftOut(t *testing.T) {
	v := wire.Verdict{ExcludedPorts: []string{"9100"}, ExcludedPortsCount: 1, ExcludedPortsRule: "exclude[0] 10.0.0.0/8 ports 9100"}
	if c := cover(wire.Job{Verdict: v}, report.Report{}); !slices.Equal(c.ExcludedPorts, v.ExcludedPorts) || c.PortsRule != v.ExcludedPortsRule {
		t.Errorf("%+v", c)
	}
	b, err := json.Marshal(cover(wire.Job{}, report.Report{}))
	if err != nil || strings.Contains(string(b), "excluded_ports") {
		t.Errorf("without any: %s, %v", b, err)
	}
}
