// Package exports tries what the real daemon tells of itself: its metrics, by the file and by a scrape, as the
// real node_exporter and promtool read them, and the alerts that follow. It is a package of its own since alerts take
// minutes to come about.
package exports

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(lab.Enter(func() int {
		dir, err := os.MkdirTemp("", "exports")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "secmcpd")
		build := exec.Command("go", "build", "-tags", "osusergo,netgo", "-o", binary, "../../cmd/secmcpd")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		network, err := lab.New()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := network.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

// house is one daemon and one agent.
type house struct {
	t      *testing.T
	daemon *lab.Daemon
	agent  *mcp.ClientSession
}

func newHouse(t *testing.T, o lab.Options) *house {
	t.Helper()
	d, err := lab.Start(binary, o)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, daemon: d}
	t.Cleanup(func() {
		if h.agent != nil {
			h.agent.Close()
		}
		if t.Failed() {
			t.Logf("launcher:\n%s\nfront:\n%s", d.Log(lab.Launcher), d.Log(lab.Front))
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) connect() *mcp.ClientSession {
	h.t.Helper()
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	s, err := h.daemon.Client(ctx, 0, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

type object = map[string]any

// call is one tool call of the house's agent; it connects if need be.
func (h *house) call(tool string, arguments object) (answer object) {
	h.t.Helper()
	if h.agent == nil {
		h.agent = h.connect()
	}
	ctx, done := context.WithTimeout(context.Background(), 60*time.Second)
	defer done()
	r, err := h.agent.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		h.t.Fatalf("%s: %v", tool, err)
	}
	b, err := json.Marshal(r.StructuredContent)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		h.t.Fatal(err)
	}
	return answer
}

// code is what a call was refused with; empty: it was not.
func code(answer object) string {
	refused, _ := answer["error"].(object)
	code, _ := refused["code"].(string)
	return code
}

func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
