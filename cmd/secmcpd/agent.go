package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"github.com/secmcpd/secmcpd/internal/bridge"
)

// agent is this program as any other client of the daemon: who it is, is the kernel's word, and what it
// may do, policy's.
type agent struct {
	conn    net.Conn
	session *mcp.ClientSession
}

// socketFlag gives a command the daemon's socket.
func socketFlag(c *cobra.Command, into *string) {
	socket := os.Getenv("SECMCPD_SOCKET")
	if socket == "" {
		socket = bridge.Socket
	}
	c.Flags().StringVar(into, "socket", socket, "the daemon's socket (also SECMCPD_SOCKET)")
}

// dialAgent connects. confirm, if any, is asked what the daemon wants its user to confirm.
func dialAgent(ctx context.Context, socket, name string, confirm func(question string) bool) (*agent, error) {
	conn, err := bridge.Dial(ctx, socket, bridge.Retry)
	if err != nil {
		return nil, err
	}
	options := &mcp.ClientOptions{}
	if confirm != nil {
		options.ElicitationHandler = func(_ context.Context, q *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			if !confirm(q.Params.Message) {
				return &mcp.ElicitResult{Action: "decline"}, nil
			}
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"confirm": true}}, nil
		}
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: name, Version: version}, options).Connect(ctx, &mcp.IOTransport{Reader: conn, Writer: conn}, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot speak with the daemon: %w", err), conn.Close())
	}
	return &agent{conn, session}, nil
}

func (a *agent) close() {
	_ = a.session.Close() // there is nothing to lose: answers have been read
	_ = a.conn.Close()
}

// toolRefusal is an answer that says no, and why.
type toolRefusal struct {
	Problem toolProblem   `json:"error"`
	Faults  []toolProblem `json:"faults"`
	JobID   string        `json:"job_id"`
}

type toolProblem struct {
	Code    string   `json:"code"`
	Field   string   `json:"field"`
	Got     string   `json:"got"`
	Allowed []string `json:"allowed"`
	Reason  string   `json:"reason"`
	Hint    string   `json:"hint"`
	Rule    string   `json:"rule"`
}

func (p toolProblem) String() string {
	var b strings.Builder
	b.WriteString(clean(p.Code))
	if p.Field != "" {
		fmt.Fprintf(&b, ": %s", clean(p.Field))
	}
	if p.Got != "" {
		fmt.Fprintf(&b, ": got %q", clean(p.Got))
	}
	if p.Reason != "" {
		fmt.Fprintf(&b, ": %s", clean(p.Reason))
	}
	if p.Rule != "" {
		fmt.Fprintf(&b, " (rule %s)", clean(p.Rule))
	}
	if len(p.Allowed) > 0 {
		fmt.Fprintf(&b, "\nallowed: %s", clean(strings.Join(p.Allowed, ", ")))
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "\nhint: %s", clean(p.Hint))
	}
	return b.String()
}

func (r *toolRefusal) Error() string {
	if len(r.Faults) == 0 {
		return r.Problem.String()
	}
	var all []string
	for _, f := range r.Faults {
		all = append(all, f.String())
	}
	return strings.Join(all, "\n")
}

// call calls a tool and decodes its answer, which is returned whole, too. An answer that says no is a
// *toolRefusal; any other error is one of the connection.
func (a *agent) call(ctx context.Context, tool string, arguments, into any) (json.RawMessage, error) {
	got, err := a.session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return nil, fmt.Errorf("cannot ask the daemon: %w", err)
	}
	whole, err := json.Marshal(got.StructuredContent)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the daemon: %w", err)
	}
	if got.IsError {
		var r toolRefusal
		if err := json.Unmarshal(whole, &r); err != nil || r.Problem.Code == "" {
			return nil, errors.New("the daemon refused, and did not say why: is it of this version?")
		}
		return whole, &r
	}
	if err := json.Unmarshal(whole, into); err != nil {
		return nil, fmt.Errorf("cannot read the daemon's answer: %w", err)
	}
	return whole, nil
}

// read reads a resource, part by part.
func (a *agent) read(ctx context.Context, uri string, to io.Writer) error {
	for range maxReportParts {
		got, err := a.session.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
		if err != nil {
			return fmt.Errorf("cannot read the report: %w\nhint: job_list lists the jobs of yours that are kept; another user's are not shown", err)
		}
		if len(got.Contents) == 0 {
			return errors.New("cannot read the report: the daemon answered with nothing")
		}
		if _, err := io.WriteString(to, got.Contents[0].Text); err != nil {
			return fmt.Errorf("cannot write the report: %w", err)
		}
		if len(got.Contents) == 1 {
			return nil
		}
		uri = got.Contents[1].URI
	}
	return fmt.Errorf("cannot read the report: it has more than %d parts", maxReportParts)
}
