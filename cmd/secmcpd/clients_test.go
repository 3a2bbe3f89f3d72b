package main

import (
	"encoding/json"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/secmcpd/secmcpd/internal/bridge"
	"github.com/secmcpd/secmcpd/internal/session"
)

// snippet is one block of docs/agents.md, under its heading.
type snippet struct{ client, language, text string }

func snippets(t *testing.T) (all []snippet) {
	t.Helper()
	page, err := os.ReadFile("../../docs/agents.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(text, -1) {
			all = append(all, snippet{heading, m[1], m[2]})
		}
	}
	return all
}

// tree is a snippet as its client reads it. Of TOML it takes tables, strings and lists of them: what
// a JSON reader takes, too.
func (s snippet) tree(t *testing.T) (v map[string]any) {
	t.Helper()
	var err error
	switch s.language {
	case "json":
		err = json.Unmarshal([]byte(s.text), &v)
	case "yaml":
		err = yaml.Unmarshal([]byte(s.text), &v)
	case "toml":
		v = map[string]any{}
		at := v
		for line := range strings.Lines(s.text) {
			if table := regexp.MustCompile(`^\[([\w.]+)\]\n$`).FindStringSubmatch(line); table != nil {
				at = v
				for _, name := range strings.Split(table[1], ".") {
					next := map[string]any{}
					at[name] = next
					at = next
				}
				continue
			}
			name, value, ok := strings.Cut(line, " = ")
			var decoded any
			if !ok || json.Unmarshal([]byte(value), &decoded) != nil {
				t.Fatalf("%s: %q", s.client, line)
			}
			at[name] = decoded
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", s.client, err, s.text)
	}
	return v
}

// Every client that the page names has a snippet; each snippet is what its format says, starts the
// program where the package puts it, with arguments that it takes, or names the socket that it
// listens on.
func TestTheSnippetsForClients(t *testing.T) {
	nfpm, err := os.ReadFile("../../nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/bin/secmcpd"
	if !strings.Contains(string(nfpm), "dst: "+program+",") {
		t.Fatalf("the package does not have %s", program)
	}
	unit, err := os.ReadFile("../../systemd/secmcpd.socket")
	if err != nil || !strings.Contains(string(unit), "ListenStream="+bridge.Socket+"\n") {
		t.Fatalf("the unit does not listen on %s (%v)", bridge.Socket, err)
	}
	starts := func(s snippet, words []string) {
		if len(words) == 0 || words[0] != program {
			t.Errorf("%s starts %q", s.client, words)
			return
		}
		if status := run(append(slices.Clone(words[1:]), "--help"), strings.NewReader(""), io.Discard, io.Discard); status != exitOK || !slices.Contains(words, "connect") {
			t.Errorf("%s: %q ends with %d", s.client, words[1:], status)
		}
	}
	words := func(v any) (list []string) {
		for _, w := range v.([]any) {
			list = append(list, w.(string))
		}
		return list
	}
	seen := map[string]int{}
	for _, s := range snippets(t) {
		seen[s.client]++
		if s.language == "sh" {
			if i := strings.Index(s.text, program); i >= 0 {
				starts(s, strings.Fields(s.text[i:]))
			} else if !strings.Contains(s.text, "--unix-socket "+bridge.Socket+" http://localhost"+session.Path+" ") {
				t.Errorf("%s: %s", s.client, s.text)
			}
			for _, quoted := range regexp.MustCompile(`'(\{.*?\})'`).FindAllStringSubmatch(s.text, -1) {
				if !json.Valid([]byte(quoted[1])) {
					t.Errorf("%s: %s", s.client, quoted[1])
				}
			}
			continue
		}
		v := s.tree(t)
		for _, key := range []string{"mcpServers", "mcp_servers", "mcp", "servers", "extensions"} {
			servers, ok := v[key].(map[string]any)
			if !ok {
				continue
			}
			delete(v, key)
			server := servers["secmcpd"].(map[string]any)
			switch command := server["command"].(type) {
			case string:
				starts(s, append([]string{command}, words(server["args"])...))
			case []any:
				starts(s, words(command))
			default:
				url, _ := server["url"].(string)
				uri, _ := server["uri"].(string)
				socket, _ := server["socket"].(string)
				if url != "unix://"+bridge.Socket+"#"+session.Path && (uri != "http://localhost"+session.Path || socket != bridge.Socket) {
					t.Errorf("%s: %v", s.client, server)
				}
			}
		}
		if len(v) > 0 {
			t.Errorf("%s: nobody reads %v", s.client, v)
		}
	}
	for _, client := range []string{"Claude Code", "Claude Desktop", "Codex", "opencode", "Gemini CLI", "Cursor", "VS Code", "Goose", "From another machine"} {
		if seen[client] == 0 {
			t.Errorf("nothing for %s", client)
		}
	}
}
