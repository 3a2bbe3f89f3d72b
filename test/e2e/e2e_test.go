// Package e2e tries the whole of secmcpd as its users do: the real binary in both rooms, agents
// that connect through `secmcpd connect`, real nmap in its box, and a lab whose far side says
// what arrived.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/observability"
	"github.com/secmcpd/secmcpd/test/lab"
)

var (
	network *lab.Lab
	binary  string
)

func TestMain(m *testing.M) {
	os.Exit(lab.Enter(func() int {
		dir, err := os.MkdirTemp("", "e2e")
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
		if network, err = lab.New(); err != nil {
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
		if _, err := observability.VerifyAudit(d.AuditDir()); err != nil {
			t.Error(err)
		}
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) connect(uid uint32) *mcp.ClientSession {
	h.t.Helper()
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	s, err := h.daemon.Client(ctx, uid, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

type object = map[string]any

// call is one tool call of the house's agent; it connects if need be.
func (h *house) call(tool string, arguments object) object {
	h.t.Helper()
	if h.agent == nil {
		h.agent = h.connect(0)
	}
	answer, err := call(h.agent, tool, arguments)
	if err != nil {
		h.t.Fatalf("%s: %v", tool, err)
	}
	return answer
}

func call(s *mcp.ClientSession, tool string, arguments object) (object, error) {
	ctx, done := context.WithTimeout(context.Background(), 60*time.Second)
	defer done()
	r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(r.StructuredContent)
	if err != nil {
		return nil, err
	}
	var answer object
	return answer, json.Unmarshal(b, &answer)
}

// at follows keys and indexes: at(answer, "error", "code").
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(object)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// ports is what was found, as "address/port/state/service".
func ports(answer object) string {
	var out []string
	hosts, _ := answer["hosts"].([]any)
	for _, h := range hosts {
		list, _ := at(h, "ports").([]any)
		for _, p := range list {
			out = append(out, fmt.Sprintf("%v/%v/%v/%v", at(h, "addr"), at(p, "port"), at(p, "state"), at(p, "service")))
		}
	}
	return strings.Join(out, " ")
}

func TestRealScans(t *testing.T) {
	h := newHouse(t, lab.Options{})
	for _, c := range []struct {
		says      string
		arguments object
		want      string // of ports
		hosts     float64
	}{
		{"a connect scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 23, 80}}, "10.77.0.10/22/open/ssh 10.77.0.10/23/closed/telnet 10.77.0.10/80/open/http", 1},
		{"a SYN scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 80}, "scan_type": "syn"}, "10.77.0.10/22/open/ssh 10.77.0.10/80/open/http", 1},
		{"a UDP scan", object{"targets": []string{lab.DNS}, "ports": []any{53, 54}, "scan_type": "udp"}, "10.77.0.53/53/open/domain 10.77.0.53/54/closed/xns-ch", 1},
		{"a host discovery", object{"targets": []string{"10.77.0.8/29"}, "profile": "discovery"}, "", 3},
		{"a service scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "service_detection": true}, "10.77.0.12/22/open/ssh", 1},
		{"a script", object{"targets": []string{lab.Web}, "ports": []any{80}, "profile": "script", "scripts": []string{"http-title"}}, "10.77.0.11/80/open/http", 1},
		{"an operating system scan", object{"targets": []string{lab.SSHAndWeb}, "ports": []any{22, 23}, "scan_type": "syn", "os_detection": true}, "10.77.0.10/22/open/ssh 10.77.0.10/23/closed/telnet", 1},
		{"a connect scan over IPv6", object{"targets": []string{lab.IPv6Host}, "ports": []any{22, 23, 80}}, "fd77::10/22/open/ssh fd77::10/23/closed/telnet fd77::10/80/open/http", 1},
		{"a SYN scan over IPv6", object{"targets": []string{lab.IPv6Host}, "ports": []any{22, 80}, "scan_type": "syn"}, "fd77::10/22/open/ssh fd77::10/80/open/http", 1},
		{"a UDP scan over IPv6", object{"targets": []string{lab.IPv6Host}, "ports": []any{54}, "scan_type": "udp"}, "fd77::10/54/closed/xns-ch", 1},
		{"a host discovery over IPv6", object{"targets": []string{lab.IPv6Host}, "profile": "discovery"}, "", 1},
		{"a scan by name", object{"targets": []string{"web.lab.internal"}, "ports": []any{80}}, "10.77.0.11/80/open/http", 1},
		{"a scan by name over IPv6", object{"targets": []string{"ssh.lab.internal"}, "ports": []any{22}, "ip_version": 6}, "fd77::10/22/open/ssh", 1},
	} {
		c.arguments["wait_s"] = 45
		answer := h.call("nmap_scan", c.arguments)
		if answer["status"] != "completed" || ports(answer) != c.want || at(answer, "summary", "hosts_up") != c.hosts {
			t.Errorf("%s: %s", c.says, show(answer))
		}
		if at(answer, "coverage", "dropped_packets") != 0.0 {
			t.Errorf("%s: the kernel dropped %v packets off scope", c.says, at(answer, "coverage", "dropped_packets"))
		}
	}
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

// What comes from a scanned host is under "untrusted" and nowhere else, and clean.
func TestAHostsOwnWordsAreKeptApart(t *testing.T) {
	h := newHouse(t, lab.Options{})
	answer := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "profile": "script", "scripts": []string{"http-title", "http-headers"}, "wait_s": 45})
	text := show(answer)
	if !strings.Contains(text, "http-title") {
		t.Fatal(text)
	}
	var strip func(v any)
	strip = func(v any) {
		switch v := v.(type) {
		case object:
			delete(v, "untrusted")
			for _, inner := range v {
				strip(inner)
			}
		case []any:
			for _, inner := range v {
				strip(inner)
			}
		}
	}
	if strings.Contains(text, `\u001b`) {
		t.Errorf("a control character came through: %s", text)
	}
	strip(answer)
	for _, said := range []string{"nginx", "[31m", "X-Said", "previous instructions"} {
		if strings.Contains(show(answer), said) {
			t.Errorf("%q stands outside of untrusted: %s", said, show(answer))
		}
	}
}

// Each bad input is refused with field, value, what is allowed and a hint, and changes nothing.
func TestBadInputIsRefusedAndChangesNothing(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": lab.Engagement,
		"past":  strings.NewReplacer("name: lab", "name: past", "10.77.", "10.78.").Replace(lab.Engagement) + "expires: 2020-01-01\n",
		"night": strings.NewReplacer("name: lab", "name: night", "10.77.", "10.79.").Replace(lab.Engagement) + "hours: {days: [" + yesterday() + "], from: \"10:00\", to: \"11:00\", timezone: UTC}\n"}})
	for says, c := range map[string]struct {
		arguments object
		code      string
	}{
		"an unknown argument":           {object{"targets": []string{lab.SSH}, "flags": "-A"}, "unknown_argument"},
		"a leading dash":                {object{"targets": []string{"-iL"}}, "target_option"},
		"a comma":                       {object{"targets": []string{"10.77.0.10,10.99.0.5"}}, "target_list"},
		"a space":                       {object{"targets": []string{"10.77.0.10 10.99.0.5"}}, "target_space"},
		"a zone":                        {object{"targets": []string{"fe80::1%eth0"}}, "target_zone"},
		"an octal address":              {object{"targets": []string{"012.77.0.10"}}, "target_ipv4_form"},
		"a short address":               {object{"targets": []string{"10.1"}}, "target_ipv4_form"},
		"IPv4 in disguise":              {object{"targets": []string{"::ffff:10.77.0.10"}}, "target_mapped"},
		"a network that is too large":   {object{"targets": []string{"10.77.0.0/16"}}, "too_many_addresses"},
		"port 0":                        {object{"targets": []string{lab.SSH}, "ports": []any{0}}, "bad_port"},
		"port 70000":                    {object{"targets": []string{lab.SSH}, "ports": []any{70000}}, "bad_port"},
		"an unknown script":             {object{"targets": []string{lab.SSH}, "profile": "script", "scripts": []string{"evil"}}, "unknown_script"},
		"a script by path":              {object{"targets": []string{lab.SSH}, "profile": "script", "scripts": []string{"/tmp/evil.nse"}}, "unknown_script"},
		"a name that resolves outside":  {object{"targets": []string{"evil.lab.internal"}}, "name_outside_scope"},
		"a name that resolves half-way": {object{"targets": []string{"half.lab.internal"}}, "name_outside_scope"},
		"a name for this machine":       {object{"targets": []string{"self.lab.internal"}}, "name_outside_scope"},
		"a name that nobody answers":    {object{"targets": []string{"slow.lab.internal"}}, "name_unresolved"},
		"a name that is not there":      {object{"targets": []string{"none.lab.internal"}}, "name_unresolved"},
		"a name with too many answers":  {object{"targets": []string{"many.lab.internal"}}, "name_unresolved"},
		"a name of nobody's":            {object{"targets": []string{"example.org"}}, "name_not_allowed"},
		"outside the engagement":        {object{"targets": []string{lab.Outside}}, "target_out_of_scope"},
		"an excluded host":              {object{"targets": []string{"10.77.0.13"}}, "target_excluded"},
		"loopback":                      {object{"targets": []string{"127.0.0.1"}}, "target_never"},
		"an engagement that expired":    {object{"targets": []string{"10.78.0.1"}, "engagement": "past"}, "expired"},
		"outside its hours":             {object{"targets": []string{"10.79.0.1"}, "engagement": "night"}, "outside_hours"},
		"an unknown engagement":         {object{"targets": []string{lab.SSH}, "engagement": "nowhere"}, "no_engagement"},
	} {
		c.arguments["wait_s"] = 45
		answer := h.call("nmap_scan", c.arguments)
		if at(answer, "error", "code") != c.code {
			t.Errorf("%s: %s, want %s", says, show(answer), c.code)
		}
		if at(answer, "hosts") != nil || at(answer, "status") != nil && at(answer, "status") != "refused" {
			t.Errorf("%s: the answer has more than a refusal: %s", says, show(answer))
		}
	}
	b, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if err != nil || strings.Contains(string(b), `"event":"launched"`) {
		t.Errorf("something was launched (%v)", err)
	}
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

func yesterday() string {
	return strings.ToLower(time.Now().UTC().AddDate(0, 0, -2).Format("Mon"))
}

func TestAJobIsItsCallersAlone(t *testing.T) {
	h := newHouse(t, lab.Options{})
	mine := h.call("nmap_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait_s": 45})
	id := mine["job_id"]
	other := h.connect(65402)
	defer other.Close()
	for _, tool := range []string{"job_status", "job_result", "job_cancel"} {
		answer, err := call(other, tool, object{"job_id": id})
		if err != nil || at(answer, "error", "code") != "no_such_job" {
			t.Errorf("%s for another user: %s, %v", tool, show(answer), err)
		}
	}
	if answer, err := call(other, "job_list", object{}); err != nil || len(at(answer, "jobs").([]any)) != 0 {
		t.Errorf("job_list for another user: %s, %v", show(answer), err)
	}
	// Somebody whom no engagement names.
	stranger := h.connect(65403)
	defer stranger.Close()
	if answer, err := call(stranger, "nmap_scan", object{"targets": []string{lab.SSH}}); err != nil || at(answer, "error", "code") != "not_a_caller" {
		t.Errorf("a stranger's scan: %s, %v", show(answer), err)
	}
	// The front's own user: refused at the door.
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if s, err := h.daemon.Client(ctx, lab.FrontUID, nil); err == nil {
		s.Close()
		t.Error("the front's user was served")
	}
}

func TestWithoutAcceptanceThisMachineRefuses(t *testing.T) {
	h := newHouse(t, lab.Options{AcceptNone: true})
	answer := h.call("nmap_scan", object{"targets": []string{lab.SSH}})
	if len(h.daemon.Accepts()) > 0 && at(answer, "error", "code") != "not_enforced" {
		t.Errorf("%s", show(answer))
	}
}

func TestALimitedOutputEndsTruncated(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "limits: {output_mib: 1}\n", Engagements: map[string]string{"lab": lab.Engagement + "limits: {addresses_per_job: 8192, packets_per_second: 10000}\n"}})
	answer := h.call("nmap_scan", object{"targets": []string{lab.Closed}, "ports": []any{"1-4"}, "skip_discovery": true, "timing": "aggressive", "rate": 10000, "wait_s": 45})
	for range 3 {
		if answer["status"] == "running" {
			answer = h.call("job_result", object{"job_id": answer["job_id"], "wait_s": 45})
		}
	}
	if answer["status"] != "truncated" || at(answer, "coverage", "cut_by") != "output" || at(answer, "coverage", "complete") != false {
		delete(answer, "hosts")
		t.Errorf("%s", show(answer))
	}
}
