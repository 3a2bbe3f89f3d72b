package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

// As root, `secmcpd stdio` is the whole of secmcpd: the same boxes, the same records.
func TestStdioIsTheWholeWithoutADaemon(t *testing.T) {
	h := newHouse(t, lab.Options{NoRoles: true})
	stdio := func() (*mcp.ClientSession, func()) {
		t.Helper()
		ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		s, process, err := h.daemon.Stdio(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s, func() {
			if err := process.Kill(); err != nil {
				t.Error(err)
			}
			s.Close()
		}
	}
	agent, kill := stdio()
	h.agent = agent
	answer := h.call("nmap_scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}, "scan_type": "syn", "wait_s": 40})
	if got, want := ports(answer), "10.77.0.10/22/open/ssh 10.77.0.10/80/open/http"; got != want {
		t.Errorf("%s\n%s", got, show(answer))
	}
	var missing []string
	list, _ := answer["not_enforced"].([]any)
	for _, m := range list {
		missing = append(missing, at(m, "layer").(string))
	}
	if accepted := h.daemon.Accepts(); !slices.Equal(missing, accepted) {
		t.Errorf("not enforced: %v, this machine lacks %v", missing, accepted)
	}

	running := h.slow()
	kill()
	h.noBoxes(boxesDeadWithin)

	h.agent, _ = stdio()
	answer = h.call("job_result", object{"job_id": running, "wait_s": 10})
	if answer["status"] != "interrupted" {
		t.Errorf("%s", show(answer))
	}
}
