// Command labtool is what the cases use inside a guest: hosts that listen, and an agent.
//
//	labtool listen ADDRESS:PORT ...       accept on each, greet, until killed
//	labtool call TOOL ARGUMENTS [COMMAND] call a tool through `secmcpd connect`, print its structured result
//	labtool tools                         print the names of the tools, one a line
//	labtool get PATH                      print what is at a.b[0].c of the JSON on standard input
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
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
	case len(args) == 1 && args[0] == "tools":
		return tools()
	case len(args) == 2 && args[0] == "get":
		return get(os.Stdin, args[1])
	}
	return errors.New("usage: labtool listen ADDRESS:PORT... | call TOOL ARGUMENTS | tools | get PATH")
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
