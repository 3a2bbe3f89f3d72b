// Command demo shows the main job on the terminal: an agent scans a lab with nmap, through both
// rooms. It makes everything that it scans, and takes it away again. It needs root.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

func main() {
	binary := flag.String("bin", "bin/secmcpd", "the program to show")
	flag.Parse()
	os.Exit(lab.Enter(func() int {
		if err := run(*binary); err != nil {
			fmt.Fprintln(os.Stderr, "\ndemo:", err)
			return 1
		}
		return 0
	}))
}

func run(binary string) (err error) {
	began := time.Now()
	ctx, done := context.WithTimeout(context.Background(), 2*time.Minute)
	defer done()
	heading("A lab of its own")
	network, err := lab.New()
	if err != nil {
		return err
	}
	fmt.Printf("hosts that listen   %s, %s, %s, %s\nanswers nothing     %s\noutside             %s\n", lab.SSHAndWeb, lab.Web, lab.SSH, lab.IPv6Host, lab.Slow, lab.Outside)
	daemon, err := lab.Start(binary, lab.Options{})
	if err != nil {
		return errors.Join(err, network.Close())
	}
	defer func() {
		heading("Nothing is left")
		err = errors.Join(err, daemon.Stop(), network.Close())
		if err == nil {
			err = nothingLeft(daemon)
		}
		fmt.Printf("\n%.0f seconds in all\n", time.Since(began).Seconds())
	}()
	fmt.Printf("launcher            pid %d, root\nfront               pid %d, uid %d, no capability, no network\n", daemon.Pid(lab.Launcher), daemon.Pid(lab.Front), lab.FrontUID)
	if gaps := daemon.Accepts(); len(gaps) > 0 {
		fmt.Printf("this machine lacks  %s\n                    the demo's configuration accepts exactly that; the default would refuse\n", strings.Join(gaps, ", "))
	}
	show := &show{ctx: ctx, daemon: daemon, network: network}
	for _, step := range []func() error{show.connect, show.tools, show.scan, show.outside, show.cancelled, show.audit} {
		if err := step(); err != nil {
			return err
		}
	}
	return show.session.Close()
}

type show struct {
	ctx     context.Context
	daemon  *lab.Daemon
	network *lab.Lab
	session *mcp.ClientSession
}

func heading(text string) {
	if info, err := os.Stdout.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Printf("\n== %s\n", text)
}

// connect is what an agent's configuration names as its command.
func (s *show) connect() (err error) {
	heading("An agent connects: secmcpd connect --socket " + s.daemon.Socket())
	s.session, err = s.daemon.Client(s.ctx, 0, func(p *mcp.ProgressNotificationParams) {
		fmt.Printf("   progress %3.0f  %s\n", p.Progress, p.Message)
	})
	return err
}

func (s *show) tools() error {
	heading("The tools that it sees")
	list, err := s.session.ListTools(s.ctx, nil)
	if err != nil {
		return err
	}
	for _, t := range list.Tools {
		first, _, _ := strings.Cut(t.Description, ". ")
		fmt.Printf("%-14s %s\n", t.Name, strings.TrimSuffix(first, "."))
	}
	if len(list.Tools) != 12 {
		return fmt.Errorf("%d tools", len(list.Tools))
	}
	answer, err := s.call("capabilities", map[string]any{})
	if err != nil {
		return err
	}
	show, _ := json.MarshalIndent(map[string]any{"engagements": answer["engagements"], "scanners": answer["scanners"]}, "", "  ")
	fmt.Printf("\ncapabilities:\n%s\n", show)
	return nil
}

// call is one tools/call; a refusal is an answer, too.
func (s *show) call(tool string, arguments map[string]any) (map[string]any, error) {
	params := &mcp.CallToolParams{Name: tool, Arguments: arguments}
	params.SetProgressToken(tool)
	result, err := s.session.CallTool(s.ctx, params)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(result.StructuredContent)
	if err != nil {
		return nil, err
	}
	var answer map[string]any
	return answer, json.Unmarshal(b, &answer)
}

func (s *show) scan() error {
	arguments := map[string]any{"targets": []string{lab.SSHAndWeb, lab.Web, lab.SSH}, "ports": []any{22, 80, 8080}, "service_detection": true, "wait_s": 45}
	heading("A service scan: nmap_scan " + compact(arguments))
	answer, err := s.call("nmap_scan", arguments)
	if err != nil {
		return err
	}
	print(answer)
	summary, _ := answer["summary"].(map[string]any)
	coverage, _ := answer["coverage"].(map[string]any)
	if answer["status"] != "completed" || summary["hosts_up"] != 3.0 || summary["open_ports"] != 5.0 || coverage["complete"] != true {
		return errors.New("the scan did not find what is there")
	}
	return nil
}

func (s *show) outside() error {
	arguments := map[string]any{"targets": []string{lab.Outside}}
	heading("Outside the engagement: nmap_scan " + compact(arguments))
	answer, err := s.call("nmap_scan", arguments)
	if err != nil {
		return err
	}
	print(answer)
	refused, _ := answer["error"].(map[string]any)
	if refused["code"] != "target_out_of_scope" || refused["rule"] == "" {
		return errors.New("it was not refused as it should be")
	}
	return s.watched()
}

// watched asks the one that cannot be talked to: the host outside.
func (s *show) watched() error {
	n := s.network.Strangers()
	fmt.Printf("packets that reached %s: %d\n", lab.Outside, n)
	if n != 0 {
		return errors.New("something left the scope")
	}
	return nil
}

func (s *show) cancelled() error {
	arguments := map[string]any{"targets": []string{lab.SSHAndWeb + "/31", "10.77.1.0/25"}, "ports": []any{22, 80}, "skip_discovery": true, "wait_s": 4}
	heading("A long scan, cancelled: nmap_scan " + compact(arguments))
	answer, err := s.call("nmap_scan", arguments)
	if err != nil {
		return err
	}
	fmt.Printf("after 4 s: %s\n", compact(pick(answer, "job_id", "status", "progress", "next")))
	id, _ := answer["job_id"].(string)
	if answer["status"] != "running" {
		return errors.New("it is not running")
	}
	fmt.Println("job_cancel:")
	if answer, err = s.call("job_cancel", map[string]any{"job_id": id}); err != nil {
		return err
	}
	print(answer)
	coverage, _ := answer["coverage"].(map[string]any)
	if hosts, _ := answer["hosts"].([]any); len(hosts) == 0 {
		return errors.New("nothing of what it had found was kept")
	}
	if answer["status"] != "cancelled" || coverage["complete"] != false || coverage["cut_by"] != "cancelled" {
		return errors.New("the answer does not say that it was cancelled")
	}
	return s.watched()
}

func (s *show) audit() error {
	heading("The audit log: secmcpd audit verify")
	out, err := exec.CommandContext(s.ctx, filepath.Join(s.daemon.Dir, "secmcpd"), "audit", "verify", "--config", s.daemon.Config).CombinedOutput()
	fmt.Print(string(out))
	if err != nil {
		return fmt.Errorf("audit verify: %w", err)
	}
	f, err := os.Open(filepath.Join(s.daemon.AuditDir(), "audit.jsonl"))
	if err != nil {
		return err
	}
	defer f.Close()
	seen := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r map[string]any
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		event, _ := r["event"].(string)
		seen[event]++
		fmt.Printf("%4.0f %-11s %s\n", r["seq"], event, compact(pick(r, "job", "caller", "targets", "rule", "code", "argv", "not_enforced", "outcome", "exit_code")))
	}
	for event, want := range map[string]int{"asked": 3, "denied": 1, "decided": 2, "launched": 2, "done": 2} {
		if seen[event] != want {
			return fmt.Errorf("%d records %q, not %d", seen[event], event, want)
		}
	}
	return nil
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(b) > 200 {
		return string(b[:200]) + "…"
	}
	return string(b)
}

func pick(from map[string]any, keys ...string) map[string]any {
	out := map[string]any{}
	for _, k := range keys {
		if v, ok := from[k]; ok {
			out[k] = v
		}
	}
	return out
}

// print shows an answer as the agent gets it, but for the hosts beyond the third.
func print(answer map[string]any) {
	if hosts, ok := answer["hosts"].([]any); ok && len(hosts) > 3 {
		answer = maps.Clone(answer)
		answer["hosts"] = append(slices.Clone(hosts[:3]), fmt.Sprintf("and %d more", len(hosts)-3))
	}
	b, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		b = []byte(err.Error())
	}
	fmt.Println(string(b))
}

// nothingLeft looks where something could be.
func nothingLeft(d *lab.Daemon) error {
	if _, err := os.Stat(d.Dir); !os.IsNotExist(err) {
		return fmt.Errorf("%s is still there (%v)", d.Dir, err)
	}
	links, err := filepath.Glob("/sys/class/net/secv*")
	if err != nil || len(links) > 0 {
		return fmt.Errorf("links are left: %v %v", links, err)
	}
	out, err := exec.Command("pgrep", "-f", d.Dir).Output()
	var exit *exec.ExitError
	if err == nil {
		return fmt.Errorf("processes are left: %s", strings.Fields(string(out)))
	}
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Errorf("cannot look for processes: %w", err)
	}
	fmt.Println("no process, no cgroup, no link, no file")
	return nil
}
