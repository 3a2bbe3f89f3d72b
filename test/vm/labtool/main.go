// Command labtool is what the cases use inside a guest: hosts that listen, and an agent.
//
//	labtool listen ADDRESS:PORT ...       accept on each, greet, until killed
//	labtool call TOOL ARGUMENTS [COMMAND] call a tool through `secmcpd connect`, print its structured result
//	labtool remote URL TOKEN TOOL ARGUMENTS the same over HTTP, by token
//	labtool http URL [TOKEN [HEADER=VALUE...]] GET it, print status and body
//	labtool tools                         print the names of the tools, one a line
//	labtool listed N                      connect N times in turn, print the milliseconds until the tools were listed, and those of the listing alone
//	labtool stream ROUNDS AGENTS PAUSE    so many agents at once list the tools, and two operators look, after pauses about as long
//	labtool get PATH                      print what is at a.b[0].c of the JSON on standard input
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A call that hangs is ended before the case is, so that its log says why.
const callLimit = 100 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labtool:", err)
		var refused toolError
		if errors.As(err, &refused) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) > 1 && args[0] == "listen":
		return listen(args[1:])
	case len(args) > 2 && args[0] == "call":
		return call(args[1], args[2], args[3:])
	case len(args) == 5 && args[0] == "remote":
		return remote(args[1], args[2], args[3], args[4])
	case len(args) > 1 && args[0] == "http":
		return overHTTP(args[1], args[2:])
	case len(args) == 1 && args[0] == "tools":
		return tools()
	case len(args) == 2 && args[0] == "listed":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		for range n {
			took, last, err := listed(agents)
			if err != nil {
				return err
			}
			fmt.Println(milliseconds(took), milliseconds(last))
		}
		return nil
	case len(args) == 4 && args[0] == "stream":
		return stream(args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "get":
		return get(os.Stdin, args[1])
	}
	return errors.New("usage: labtool listen ADDRESS:PORT... | call TOOL ARGUMENTS | remote URL TOKEN TOOL ARGUMENTS | http URL [TOKEN [HEADER=VALUE...]] | tools | listed N | stream ROUNDS AGENTS PAUSE | get PATH")
}

func listen(addresses []string) error {
	failed := make(chan error)
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				// A scanner may have hung up; that is no fault of the lab.
				_, _ = io.WriteString(c, "SSH-2.0-lab\r\n")
				c.Close()
			}
		}()
	}
	fmt.Println("listening")
	return <-failed
}

// toolError is an answer of the tool that says no.
type toolError string

func (e toolError) Error() string { return string(e) }

func connect(ctx context.Context, command []string) (*mcp.ClientSession, error) {
	if len(command) == 0 {
		command = []string{"secmcpd", "connect"}
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "labtool", Version: "1"}, nil)
	return client.Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
}

func call(tool, arguments string, command []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	session, err := connect(ctx, command)
	if err != nil {
		return err
	}
	return answered(ctx, session, tool, arguments)
}

// bearer puts a token on each request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func remote(url, token, tool, arguments string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	client := mcp.NewClient(&mcp.Implementation{Name: "labtool", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: url, HTTPClient: &http.Client{Transport: bearer(token)}}, nil)
	if err != nil {
		return err
	}
	return answered(ctx, session, tool, arguments)
}

func overHTTP(url string, more []string) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for i, word := range more {
		name, value, _ := strings.Cut(word, "=")
		switch {
		case i == 0 && word != "":
			r.Header.Set("Authorization", "Bearer "+word)
		case name == "Host":
			r.Host = value
		case i > 0:
			r.Header.Set(name, value)
		}
	}
	a, err := (&http.Client{Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(io.LimitReader(a.Body, 1<<20))
	fmt.Printf("%d %s\n", a.StatusCode, body)
	return err
}

func answered(ctx context.Context, session *mcp.ClientSession, tool, arguments string) error {
	defer session.Close()
	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(arguments)})
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(result.StructuredContent, "", " ")
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	if !result.IsError {
		return nil
	}
	reason := "the tool refused"
	for _, c := range result.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			reason += ": " + t.Text
		}
	}
	return toolError(reason)
}

func tools() error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	session, err := connect(ctx, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	list, err := session.ListTools(ctx, nil)
	if err != nil {
		return err
	}
	for _, t := range list.Tools {
		fmt.Println(t.Name)
	}
	return nil
}

const (
	agents     = "/run/secmcpd/mcp.sock"
	initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"labtool","version":"1"}}}` + "\n"
	listTools  = `{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n" + `{"jsonrpc":"2.0","id":2,"method":"tools/list"}` + "\n"
)

// listed is an agent that costs nothing itself: it connects, says who it is, and asks for the tools.
func listed(socket string) (all, last time.Duration, err error) {
	began := time.Now()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(began.Add(callLimit)); err != nil {
		return 0, 0, err
	}
	lines := bufio.NewReader(conn)
	var asked time.Time
	for _, ask := range []struct{ say, id, want string }{{initialize, `"id":1,`, `"serverInfo"`}, {listTools, `"id":2,`, `"nmap_scan"`}} {
		asked = time.Now()
		if _, err := io.WriteString(conn, ask.say); err != nil {
			return 0, 0, err
		}
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return 0, 0, fmt.Errorf("after %s: %w", time.Since(began), err)
			}
			if !strings.Contains(line, ask.id) {
				continue // a notification
			}
			if !strings.Contains(line, ask.want) {
				return 0, 0, fmt.Errorf("no %s in the answer: %.300s", ask.want, line)
			}
			break
		}
	}
	return time.Since(began), time.Since(asked), nil
}

// looked is an operator's look at the front.
func looked(socket string) (time.Duration, error) {
	began := time.Now()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(began.Add(callLimit)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, fmt.Errorf("after %s: %w", time.Since(began), err)
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		return 0, err
	}
	if a.StatusCode != http.StatusOK {
		return 0, errors.New(a.Status)
	}
	return time.Since(began), nil
}

// stream connects in rounds, after pauses from nine to thirteen tenths of the one given, so that some come while
// whoever answers them is about to end. Who is cut off comes again once, and is counted; who cannot connect, or is cut
// off twice, is lost.
func stream(rounds, agentsAtOnce, pause string) error {
	n, err := strconv.Atoi(rounds)
	if err != nil {
		return err
	}
	agentsOf, err := strconv.Atoi(agentsAtOnce)
	if err != nil {
		return err
	}
	about, err := time.ParseDuration(pause)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var answered, again, lost int
	var slowest time.Duration
	visit := func(do func(string) (time.Duration, error), socket string) {
		took, err := do(socket)
		var refused *net.OpError
		cut := err != nil && !(errors.As(err, &refused) && refused.Op == "dial")
		if cut {
			fmt.Fprintf(os.Stderr, "%s %s: %v\n", time.Now().Format("15:04:05.000000"), socket, err)
			took, err = do(socket)
		}
		mu.Lock()
		defer mu.Unlock()
		if cut {
			again++
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s lost at %s: %v\n", time.Now().Format("15:04:05.000000"), socket, err)
			lost++
			return
		}
		answered++
		slowest = max(slowest, took)
	}
	for range n {
		time.Sleep(about*9/10 + rand.N(about*4/10+1))
		var all sync.WaitGroup
		for i := range agentsOf + operatorsAtOnce {
			all.Go(func() {
				time.Sleep(rand.N(20 * time.Millisecond))
				if i < agentsOf {
					visit(func(socket string) (time.Duration, error) { took, _, err := listed(socket); return took, err }, agents)
				} else {
					visit(looked, operators)
				}
			})
		}
		all.Wait()
	}
	fmt.Printf("{\"answered\": %d, \"again\": %d, \"lost\": %d, \"slowest_ms\": %s}\n", answered, again, lost, milliseconds(slowest))
	if lost > 0 {
		return fmt.Errorf("%d were lost", lost)
	}
	return nil
}

const (
	operators       = "/run/secmcpd/admin.sock"
	operatorsAtOnce = 2
)

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

// get walks a path such as hosts[0].ports[1].port; text is printed bare, all else as JSON.
func get(r io.Reader, path string) error {
	var at any
	if err := json.NewDecoder(r).Decode(&at); err != nil {
		return fmt.Errorf("cannot read JSON: %w", err)
	}
	for _, key := range strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
		switch v := at.(type) {
		case map[string]any:
			found, ok := v[key]
			if !ok {
				return fmt.Errorf("no %q in %s", key, path)
			}
			at = found
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return fmt.Errorf("no element %q in %s, which has %d", key, path, len(v))
			}
			at = v[i]
		default:
			return fmt.Errorf("nothing below %q in %s", key, path)
		}
	}
	if text, ok := at.(string); ok {
		fmt.Println(text)
		return nil
	}
	text, err := json.Marshal(at)
	fmt.Println(string(text))
	return err
}
