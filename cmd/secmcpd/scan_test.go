package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// standIn is a daemon that answers a call for a scan when it is told to.
type standIn struct {
	socket string
	asked  chan struct{}       // a call for a scan has come
	answer chan map[string]any // what is answered to it
	mu     sync.Mutex
	calls  []string // tools, with the job they were called for
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	d := &standIn{socket: filepath.Join(t.TempDir(), "mcp.sock"), asked: make(chan struct{}, 1), answer: make(chan map[string]any, 1)}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	server := mcp.NewServer(&mcp.Implementation{Name: "stand-in", Version: "1"}, nil)
	for _, name := range []string{"nmap_scan", "job_status", "job_cancel", "job_result"} {
		server.AddTool(&mcp.Tool{Name: name, InputSchema: map[string]any{"type": "object"}}, d.call)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				if session, err := server.Connect(ctx, &mcp.IOTransport{Reader: conn, Writer: conn}, nil); err == nil {
					_ = session.Wait()
				}
			})
		}
	})
	t.Cleanup(func() {
		stop()
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
	return d
}

func (d *standIn) call(ctx context.Context, q *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	var arguments struct {
		JobID string `json:"job_id"`
	}
	if err := json.Unmarshal(q.Params.Arguments, &arguments); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.calls = append(d.calls, strings.TrimSpace(q.Params.Name+" "+arguments.JobID))
	d.mu.Unlock()
	answer := map[string]any{"job_id": arguments.JobID, "status": "cancelled"}
	switch q.Params.Name {
	case "nmap_scan":
		d.asked <- struct{}{}
		select {
		case answer = <-d.answer:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "job_status": // it waits for news, of which there are none
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &mcp.CallToolResult{StructuredContent: answer, IsError: answer["error"] != nil}, nil
}

func (d *standIn) called() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.calls), func(c string) bool { return strings.HasPrefix(c, "job_status") })
}

// Whoever sends a signal while the daemon has not yet answered leaves no scan behind that nobody knows of.
func TestASignalWhileAScanIsAskedFor(t *testing.T) {
	running := map[string]any{"job_id": "j1", "status": "running"}
	for _, c := range []struct {
		says    string
		detach  bool
		signals int
		answer  map[string]any
		calls   []string
		err     string
		signal  bool          // what it ends by
		after   time.Duration // when, at the earliest
	}{
		{says: "the scan that was begun meanwhile is cancelled", signals: 1, answer: running,
			calls: []string{"nmap_scan", "job_cancel j1", "job_result j1"}},
		{says: "also where it was to be left alone", detach: true, signals: 1, answer: running,
			calls: []string{"nmap_scan", "job_cancel j1", "job_result j1"}},
		{says: "a refusal is told as one", signals: 1,
			answer: map[string]any{"error": map[string]any{"code": "not_in_scope"}}, calls: []string{"nmap_scan"}, err: "not_in_scope"},
		{says: "a second one does not wait for the answer", signals: 2, calls: []string{"nmap_scan"}, err: "ended by the signal terminated", signal: true},
		{says: "a daemon that never answers is not waited for without end", signals: 1, calls: []string{"nmap_scan"},
			err: "ended by the signal terminated", signal: true, after: answerFor},
	} {
		t.Run(c.says, func(t *testing.T) {
			t.Parallel() // one of them waits
			d := newStandIn(t)
			var out, said bytes.Buffer
			s := &surroundings{stdin: strings.NewReader(""), stdout: &out, stderr: &said}
			r := &scanRun{s: s, tool: "nmap_scan", options: scanOptions{socket: d.socket, detach: c.detach}, line: s.newProgressLine(),
				signals: make(chan os.Signal, 4)}
			ended := make(chan error, 1)
			go func() { ended <- r.run(context.Background(), json.RawMessage(`{"targets":["192.0.2.1"]}`)) }()
			<-d.asked
			begun := time.Now()
			for range c.signals {
				r.signals <- syscall.SIGTERM
			}
			// The answer does not overtake the signal.
			for len(r.signals) > 0 {
				if time.Since(begun) > answerFor/2 {
					t.Fatal("it does not hear of the signal")
				}
				time.Sleep(time.Millisecond)
			}
			if c.answer != nil {
				d.answer <- c.answer
			}
			var err error
			select {
			case err = <-ended:
			case <-time.After(c.after + answerFor/2): // where it need not wait, the bound on that is not what ends it
				t.Fatalf("it waits still: %q", d.called())
			}
			if took := time.Since(begun); took < c.after {
				t.Errorf("ends after %s, want %s", took, c.after)
			}
			if got := d.called(); !slices.Equal(got, c.calls) {
				t.Errorf("called %q, want %q\n%s", got, c.calls, said.String())
			}
			var exit exitError
			if !errors.As(err, &exit) || exit.code != exitFailed {
				t.Errorf("ends with %v", err)
			}
			var sig signalled
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) || errors.As(err, &sig) != c.signal {
				t.Errorf("got %v, want %q", err, c.err)
			}
			if c.err == "" && !strings.Contains(out.String(), "cancelled") {
				t.Errorf("does not say what became of it: %q", out.String())
			}
		})
	}
}
