package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sys/unix"

	"github.com/secmcpd/secmcpd/test/lab"
)

// plainArg makes this program a server of the SDK alone, on the socket that it gets as its third file.
const plainArg = "plain-mcp-server"

// plainServer is what the SDK's own documentation shows, over a Unix socket.
func plainServer() error {
	type arguments struct {
		Text string `json:"text"`
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "plain", Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "echo"}, func(_ context.Context, _ *mcp.CallToolRequest, a arguments) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: a.Text}}}, nil, nil
	})
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := s.Connect(context.Background(), &mcp.IOTransport{Reader: conn, Writer: conn}, nil); err != nil {
			return err
		}
	}
}

func startPlain(path string) (stop func() error, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command("/proc/self/exe", plainArg)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return err
	}, nil
}

// speaker is a client that costs little: it writes lines that are ready, and looks for ids.
type speaker struct {
	conn net.Conn
	in   *bufio.Reader
	call string // with %d for its id
	next int
}

func dial(path, tool, arguments string) (*speaker, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	s := &speaker{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), next: 1,
		call: `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments + `}}` + "\n"}
	fmt.Fprint(conn, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`+"\n"+
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
	if _, err := s.hear(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

var answerStart = []byte(`{"jsonrpc":"2.0","id":`)

func (s *speaker) hear() (id int, err error) {
	line, err := s.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	digits, rest, ok := bytes.Cut(bytes.TrimPrefix(line, answerStart), []byte(","))
	if !ok || !bytes.HasPrefix(rest, []byte(`"result"`)) || bytes.Contains(rest, []byte(`"isError":true`)) {
		return 0, fmt.Errorf("the answer is %.300q", line)
	}
	return strconv.Atoi(string(digits))
}

// keep has as many calls under way as window says, for a while: calls a second, and how long each
// took in milliseconds.
func (s *speaker) keep(window int, d time.Duration) (rate float64, took []float64, err error) {
	began := time.Now()
	sent := map[int]time.Time{}
	var line []byte
	ask := func() error {
		line = fmt.Appendf(line[:0], s.call, s.next)
		sent[s.next] = time.Now()
		s.next++
		_, err := s.conn.Write(line)
		return err
	}
	for range window {
		if err := ask(); err != nil {
			return 0, nil, err
		}
	}
	for len(sent) > 0 {
		id, err := s.hear()
		if err != nil {
			return 0, nil, err
		}
		took = append(took, float64(time.Since(sent[id]).Microseconds())/1000)
		delete(sent, id)
		if time.Since(began) < d {
			if err := ask(); err != nil {
				return 0, nil, err
			}
		}
	}
	return float64(len(took)) / time.Since(began).Seconds(), took, nil
}

// protocol compares calls of job_status, through the front, about a scan that is over and one that runs,
// and one of job_list, of which no answer is kept, with an echo of the SDK's own server on its own
// transport, and says what a session and a long line cost.
func (b *bench) protocol() (err error) {
	network, err := lab.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	d, err := lab.Start("bin/secmcpd", lab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	if err := idleSessions(d); err != nil {
		return err
	}
	agent, err := d.Client(context.Background(), 0, nil)
	if err != nil {
		return err
	}
	answer, err := agent.CallTool(context.Background(), &mcp.CallToolParams{Name: "nmap_scan", Arguments: map[string]any{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}, "wait_s": 45}})
	if err := errors.Join(err, agent.Close()); err != nil {
		return err
	}
	text, err := json.Marshal(answer.StructuredContent)
	if err != nil {
		return err
	}
	var job struct {
		Status string
		ID     string `json:"job_id"`
	}
	if err := json.Unmarshal(text, &job); err != nil || job.Status != "completed" {
		return fmt.Errorf("the scan ended: %s", text)
	}
	path := filepath.Join(d.Dir, "plain.sock")
	stop, err := startPlain(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ours, err := dial(d.Socket(), "job_status", `{"job_id":"`+job.ID+`"}`)
	if err != nil {
		return err
	}
	defer ours.conn.Close()
	plain, err := dial(path, "echo", `{"text":"0123456789abcdef"}`)
	if err != nil {
		return err
	}
	defer plain.conn.Close()
	made, err := dial(d.Socket(), "job_list", `{"limit":1}`)
	if err != nil {
		return err
	}
	defer made.conn.Close()
	id, err := longScan(d)
	if err != nil {
		return err
	}
	running, err := dial(d.Socket(), "job_status", `{"job_id":"`+id+`"}`)
	if err != nil {
		return err
	}
	defer running.conn.Close()
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{},"elicitation":{}},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}`
	stateless, err := dial(d.Socket(), "job_status", `{"job_id":"`+job.ID+`"},`+meta)
	if err != nil {
		return err
	}
	defer stateless.conn.Close()
	for _, window := range []int{1, 16} {
		var rates, took [5][]float64
		for round := range turns + 1 {
			for i, s := range []*speaker{ours, plain, made, running, stateless} {
				rate, each, err := s.keep(window, time.Second)
				if err != nil {
					return err
				}
				if round > 0 { // the first is to warm up
					rates[i], took[i] = append(rates[i], rate), append(took[i], each...)
				}
			}
		}
		report(fmt.Sprintf("mcp_job_status_%d", window), rates[0], "calls/s", fmt.Sprintf("job_status through the front, %d under way", window))
		report(fmt.Sprintf("mcp_plain_echo_%d", window), rates[1], "calls/s", "an echo by the SDK's own server and transport, likewise")
		ratio(fmt.Sprintf("mcp_over_plain_%d", window), rates[0], rates[1], "the first against the second")
		ratio(fmt.Sprintf("mcp_running_over_plain_%d", window), rates[3], rates[1], "a job_status of a scan that runs, against the second")
		ratio(fmt.Sprintf("mcp_stateless_over_plain_%d", window), rates[4], rates[1], "a job_status in the era without sessions, against the second, which is of the one before")
		ratio(fmt.Sprintf("mcp_made_over_plain_%d", window), rates[2], rates[1], "a job_list, of which no answer is kept, against the second")
		fmt.Printf("BENCH mcp_p99_%d %.2f ms of job_status, slowest hundredth (plain: %.2f)\n", window, quantile(took[0], 0.99), quantile(took[1], 0.99))
	}
	return longLine(d, ours)
}

// longScan is a scan that runs as long as anything is measured.
func longScan(d *lab.Daemon) (id string, err error) {
	agent, err := d.Client(context.Background(), 0, nil)
	if err != nil {
		return "", err
	}
	for _, call := range []mcp.CallToolParams{
		{Name: "nmap_scan", Arguments: map[string]any{"targets": []string{"10.77.128.1"}, "ports": []any{"1-2000"}, "skip_discovery": true, "rate": 10, "wait_s": 0}},
		{Name: "job_status"},
	} {
		if call.Arguments == nil {
			call.Arguments = map[string]any{"job_id": id, "wait_s": 2}
		}
		answer, err := agent.CallTool(context.Background(), &call)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(answer.StructuredContent)
		if err != nil {
			return "", err
		}
		var job struct {
			Status string
			ID     string `json:"job_id"`
		}
		if err := json.Unmarshal(text, &job); err != nil || job.ID == "" || call.Name == "job_status" && job.Status != "running" {
			return "", fmt.Errorf("the scan that should run: %s", text)
		}
		id = job.ID
	}
	return id, agent.Close()
}

// longLine is the most memory that the front has while it refuses lines of 1 MiB.
func longLine(d *lab.Daemon, s *speaker) error {
	pid := d.Pid(lab.Front)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return err
	}
	for range 10 {
		line := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"job_status","arguments":{"x":[`
		line += strings.Repeat("{},", (1<<20-len(line)-8)/3) + "0]}}}\n"
		if _, err := s.conn.Write([]byte(line)); err != nil {
			return err
		}
		if _, err := s.in.ReadString('\n'); err != nil {
			return err
		}
	}
	kib, err := field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
	fmt.Printf("BENCH mcp_line_peak %.1f MiB resident at most in the front, ten lines of 1 MiB one after the other\n", float64(kib)/1024)
	return err
}

// idleSessions is what a session costs that says nothing more: as many as the launcher takes.
func idleSessions(d *lab.Daemon) error {
	const users, each = 4, 120
	rollup := fmt.Sprintf("/proc/%d/smaps_rollup", d.Pid(lab.Front))
	time.Sleep(time.Second) // its start is over
	before, err := field(rollup, "Pss:")
	if err != nil {
		return err
	}
	var all []*speaker
	failed := make(chan error)
	for user := range users {
		go func() {
			runtime.LockOSThread() // it ends with this thread that it is another user's
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(70000+user), ^uintptr(0)); errno != 0 {
				failed <- errno
				return
			}
			for range each {
				s, err := dial(d.Socket(), "", "")
				if err != nil {
					failed <- err
					return
				}
				all = append(all, s)
			}
			failed <- nil
		}()
		if err := <-failed; err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	after, err := field(rollup, "Pss:")
	for _, s := range slices.Backward(all) {
		s.conn.Close()
	}
	fmt.Printf("BENCH mcp_idle_session %.1f KiB of the front's memory for each of %d\n", float64(after-before)/float64(len(all)), len(all))
	return err
}

// field is a number of a file of /proc.
func field(path, name string) (kib int, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strconv.Atoi(strings.Fields(value)[0])
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
