// Package e2e tries the whole of secmcpd as its users do: the real binary in both rooms, agents
// that connect through `secmcpd connect`, real nmap in its box, and a lab whose far side says
// what arrived.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/sys/unix"

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
	realScans(t, lab.Options{}, "routed", lab.SlotsV4, lab.SlotsV6)
}

// The default: nobody outside needs to know of the slots.
func TestRealScansOfALabWithoutAWayBack(t *testing.T) {
	back, err := network.Strand()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	}()
	realScans(t, lab.Options{Translated: true}, "translated", lab.Uplink, lab.Uplink6)
}

// realScans has every kind of scan done, in a mode of the network in which the lab sees these sources.
func realScans(t *testing.T, options lab.Options, mode string, sources ...string) {
	h := newHouse(t, options)
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(sources...), Targets: lab.Prefixes("10.77.0.8/29", lab.DNS, lab.IPv6Host)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
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
		if got := at(answer, "network", "mode"); got != mode {
			t.Errorf("%s: the mode is %v", c.says, got)
		}
		if at(answer, "coverage", "dropped_packets") != 0.0 {
			t.Errorf("%s: the kernel dropped %v packets off scope", c.says, at(answer, "coverage", "dropped_packets"))
		}
		o.Check(t, c.says)
	}
	if o.Permitted() == 0 {
		t.Error("nothing was seen of the scans")
	}
	h.saysItsMode(mode)
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

// What comes from a scanned host is under "untrusted" and nowhere else, and clean.
// saysItsMode looks for the mode of the network wherever it is to be told, and for what follows from it.
func (h *house) saysItsMode(mode string) {
	h.t.Helper()
	if c := h.call("capabilities", object{}); at(c, "network", "mode") != mode || at(c, "network", "cannot", 0) == nil {
		h.t.Errorf("capabilities: %s", show(c))
	}
	// A scan that would fill the machine's table of connections is slowed where there is one.
	preview := func(targets string, ports int) (rate, slowed string) {
		p := h.call("scan_preview", object{"tool": "nmap_scan", "arguments": object{"targets": []string{targets}, "top_ports": ports}})
		if at(p, "network", "mode") != mode {
			h.t.Errorf("preview: %s", show(p))
		}
		argv, _ := p["argv"].([]any)
		if len(argv) == 0 {
			h.t.Fatalf("no command: %s", show(p))
		}
		for i, word := range argv[1:] {
			if argv[i] == "--max-rate" {
				rate, _ = word.(string)
			}
		}
		slowed, _ = at(p, "network", "slowed").(string)
		return rate, slowed
	}
	rate, slowed := preview(lab.SSH, 100)
	if rate == "" || slowed != "" {
		h.t.Errorf("a small scan: %s packets per second, %q", rate, slowed)
	}
	if large, why := preview(lab.Slow, 1000); (large != rate) != (mode == "translated") || (why == "to "+large+" packets per second: this machine's table of connections is shared with all that it does") != (mode == "translated") {
		h.t.Errorf("a large scan: %s packets per second, %q; a small one: %s", large, why, rate)
	}
	launched := 0
	for line := range strings.Lines(h.auditLog()) {
		var r observability.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			h.t.Fatal(err)
		}
		if r.Event == observability.Launched {
			launched++
			if r.Network != mode {
				h.t.Errorf("the audit record of a launch: %s", line)
			}
		}
	}
	if launched == 0 {
		h.t.Error("no launch is in the audit log")
	}
}

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

// refusal is what a refusal has to say. Where got is empty the argument has no value; allowed says
// whether there is a set of what would do.
type refusal struct {
	code, field, got string
	allowed          bool
}

func (want refusal) check(t *testing.T, says string, answer object) {
	t.Helper()
	e := at(answer, "error")
	text := func(key string) string { s, _ := at(e, key).(string); return s }
	list, _ := at(e, "allowed").([]any)
	if text("code") != want.code || text("field") != want.field || text("got") != want.got || (len(list) > 0) != want.allowed || text("hint") == "" {
		t.Errorf("%s: %s, want %+v and a hint", says, show(answer), want)
	}
	if at(answer, "hosts") != nil || at(answer, "status") != nil && at(answer, "status") != "refused" {
		t.Errorf("%s: the answer has more than a refusal: %s", says, show(answer))
	}
}

// Each bad input is refused with field, value, what is allowed and a hint, and changes nothing.
func TestBadInputIsRefusedAndChangesNothing(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": lab.Engagement,
		"past":  strings.NewReplacer("name: lab", "name: past", "10.77.", "10.78.").Replace(lab.Engagement) + "expires: 2020-01-01\n",
		"night": strings.NewReplacer("name: lab", "name: night", "10.77.", "10.79.").Replace(lab.Engagement) + "hours: {days: [" + yesterday() + "], from: \"10:00\", to: \"11:00\", timezone: UTC}\n"}})
	to := func(target string) object { return object{"targets": []string{target}} }
	with := func(target, name string, value any) object { return object{"targets": []string{target}, name: value} }
	script := func(name string) object {
		return object{"targets": []string{lab.SSH}, "profile": "script", "scripts": []string{name}}
	}
	for says, c := range map[string]struct {
		arguments object
		want      refusal
	}{
		"an unknown argument":                    {with(lab.SSH, "flags", "-A"), refusal{"unknown_argument", "flags", "-A", true}},
		"a contradiction":                        {object{"targets": []string{lab.SSH}, "ports": []int{22}, "top_ports": 10}, refusal{"contradiction", "top_ports", "10", false}},
		"a word that is none of those":           {with(lab.SSH, "timing", "insane"), refusal{"not_one_of", "timing", "insane", true}},
		"a number beyond its range":              {with(lab.SSH, "rate", 0), refusal{"out_of_range", "rate", "0", true}},
		"a truth in quotes":                      {with(lab.SSH, "os_detection", "true"), refusal{"wrong_type", "os_detection", `"true"`, true}},
		"a leading dash":                         {to("-iL"), refusal{"target_option", "targets[0]", "-iL", false}},
		"a comma":                                {to("10.77.0.10,10.99.0.5"), refusal{"target_list", "targets[0]", "10.77.0.10,10.99.0.5", false}},
		"a space":                                {to("10.77.0.10 10.99.0.5"), refusal{"target_space", "targets[0]", "10.77.0.10 10.99.0.5", false}},
		"a zone":                                 {to("fe80::1%eth0"), refusal{"target_zone", "targets[0]", "fe80::1%eth0", false}},
		"an octal address":                       {to("012.77.0.10"), refusal{"target_ipv4_form", "targets[0]", "012.77.0.10", false}},
		"a short address":                        {to("10.1"), refusal{"target_ipv4_form", "targets[0]", "10.1", false}},
		"IPv4 in disguise":                       {to("::ffff:10.77.0.10"), refusal{"target_mapped", "targets[0]", "::ffff:10.77.0.10", false}},
		"a network too large for its engagement": {to("10.77.0.0/16"), refusal{"too_many_addresses", "targets", "65535", true}},
		"a network too large for any call":       {to("10.0.0.0/8"), refusal{"target_too_large", "targets[0]", "10.0.0.0/8", false}},
		"port 0":                                 {with(lab.SSH, "ports", []any{0}), refusal{"bad_port", "ports[0]", "0", true}},
		"port 70000":                             {with(lab.SSH, "ports", []any{70000}), refusal{"bad_port", "ports[0]", "70000", true}},
		"an unknown script":                      {script("evil"), refusal{"unknown_script", "scripts[0]", "evil", true}},
		"a script by path":                       {script("/tmp/evil.nse"), refusal{"unknown_script", "scripts[0]", "/tmp/evil.nse", true}},
		"a name that resolves outside":           {to("evil.lab.internal"), refusal{"name_outside_scope", "targets[0]", lab.Outside, true}},
		"a name that resolves half-way":          {to("half.lab.internal"), refusal{"name_outside_scope", "targets[0]", lab.Outside, true}},
		"a name for this machine":                {to("self.lab.internal"), refusal{"name_outside_scope", "targets[0]", "127.0.0.1", false}},
		"a name that nobody answers":             {to("slow.lab.internal"), refusal{"name_unresolved", "targets[0]", "slow.lab.internal", false}},
		"a name that is not there":               {to("none.lab.internal"), refusal{"name_unresolved", "targets[0]", "none.lab.internal", false}},
		"a name with too many answers":           {to("many.lab.internal"), refusal{"name_unresolved", "targets", "", false}},
		"a name of nobody's":                     {to("example.org"), refusal{"name_not_allowed", "targets[0]", "example.org", true}},
		"outside the engagement":                 {to(lab.Outside), refusal{"target_out_of_scope", "targets[0]", lab.Outside, true}},
		"an excluded host":                       {to("10.77.0.13"), refusal{"target_excluded", "targets[0]", "10.77.0.13", false}},
		"loopback":                               {to("127.0.0.1"), refusal{"target_never", "targets[0]", "127.0.0.1", false}},
		"an engagement that expired":             {with("10.78.0.1", "engagement", "past"), refusal{"expired", "engagement", "past", false}},
		"outside its hours":                      {with("10.79.0.1", "engagement", "night"), refusal{"outside_hours", "engagement", "night", true}},
		"an unknown engagement":                  {with(lab.SSH, "engagement", "nowhere"), refusal{"no_engagement", "engagement", "nowhere", true}},
		"more packets than allowed":              {with(lab.SSH, "rate", 9999), refusal{"rate_too_high", "rate", "9999", true}},
		"more time than allowed":                 {with(lab.SSH, "limit", 43200), refusal{"duration_too_long", "limit", "43200", true}},
	} {
		c.arguments["wait_s"] = 45
		answer := h.call("nmap_scan", c.arguments)
		c.want.check(t, says, answer)
		if id := at(answer, "job_id"); id != nil {
			if now := h.call("job_status", object{"job_id": id}); now["status"] != "refused" || at(now, "error", "code") != c.want.code {
				t.Errorf("%s: job_status says %s", says, show(now))
			}
		}
	}
	h.nothingLaunched()
}

func (h *house) nothingLaunched() {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if err != nil || strings.Contains(string(b), `"event":"launched"`) {
		h.t.Errorf("something was launched (%v)", err)
	}
	if n := network.Strangers(); n != 0 {
		h.t.Errorf("%d packets reached the host outside", n)
	}
}

// An engagement whose file is broken is suspended and says so; the others stand.
func TestABrokenEngagementIsSuspendedAndTheOthersStand(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"lab": lab.Engagement,
		"other": strings.NewReplacer("name: lab", "name: other", "10.77.0.0/16", "10.77.0.12").Replace(lab.Engagement)}})
	file := filepath.Join(h.daemon.Engagements(), "lab.yaml")
	for says, spoil := range map[string]func() error{
		"malformed":  func() error { return os.WriteFile(file, []byte("name: [\n"), 0o644) },
		"unreadable": func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o755)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		refusal{"engagement_suspended", "engagement", "lab", false}.check(t, says, h.call("nmap_scan", object{"targets": []string{lab.Web}, "engagement": "lab", "wait_s": 45}))
		if answer := h.call("nmap_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait_s": 45}); answer["status"] != "completed" || answer["engagement"] != "other" {
			t.Errorf("%s: the other one: %s", says, show(answer))
		}
		if err := errors.Join(os.RemoveAll(file), os.WriteFile(file, []byte(lab.Engagement), 0o644)); err != nil {
			t.Fatal(err)
		}
		if answer := h.call("nmap_scan", object{"targets": []string{lab.Web}, "ports": []any{80}, "engagement": "lab", "wait_s": 45}); answer["status"] != "completed" {
			t.Errorf("%s, and mended: %s", says, show(answer))
		}
	}
}

// With a full disk a scan is refused, and with space again all goes on.
func TestAFullDiskRefusesAScan(t *testing.T) {
	dir, err := os.MkdirTemp("", "small")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	h := newHouse(t, lab.Options{Settings: "limits: {output_mib: 1}\njobs: {free_mib: 8}\n"})
	scan := object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait_s": 45}
	h.call("capabilities", object{})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 130<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	refusal{code: "disk_full"}.check(t, "a full disk", h.call("nmap_scan", scan))
	h.nothingLaunched()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if answer := h.call("nmap_scan", scan); answer["status"] != "completed" {
		t.Errorf("with space again: %s", show(answer))
	}
}

// A client that vanishes leaves its scan, and whoever it is next time finds it.
func TestAClientThatVanishesFindsItsScanAgain(t *testing.T) {
	h := newHouse(t, lab.Options{})
	conn, err := net.Dial("unix", h.daemon.Socket())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"lost","version":"1"}}}`+"\n"+
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n"+
		`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"nmap_scan","arguments":{"targets":["`+lab.SSHAndWeb+`","10.77.1.0/29"],"ports":[22,80],"skip_discovery":true,"correlation_id":"lost"}}}`+"\n")
	var id any
	for deadline := time.Now().Add(20 * time.Second); id == nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its scan does not begin")
		}
		id = at(h.call("job_list", object{"state": "running"}), "jobs", 0, "job_id")
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	answer := h.again(id)
	if answer["status"] != "completed" || answer["correlation_id"] != "lost" || ports(answer) != "10.77.0.10/22/open/ssh 10.77.0.10/80/open/http" &&
		!strings.HasPrefix(ports(answer), "10.77.0.10/22/open/ssh 10.77.0.10/80/open/http ") {
		t.Errorf("%s", show(answer))
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

// On a machine that lacks a feature of the kernel nothing is scanned unless the operator accepted it.
func TestWithoutAcceptanceThisMachineRefuses(t *testing.T) {
	h := newHouse(t, lab.Options{AcceptNone: true, NoControllers: true})
	answer := h.call("nmap_scan", object{"targets": []string{lab.SSH}})
	refusal{"not_enforced", "", "cgroup-cpu, cgroup-io, cgroup-memory, cgroup-pids", true}.check(t, "a machine without controllers", answer)
	for i, layer := range []string{"cgroup-cpu", "cgroup-io", "cgroup-memory", "cgroup-pids"} {
		if why, _ := at(answer, "error", "allowed", i).(string); !strings.HasPrefix(why, layer+": ") {
			t.Errorf("of %s: %q", layer, why)
		}
	}
	h.nothingLaunched()
}

// Without its scanner a scan is refused before anything is made for it.
func TestAScanWithoutItsScannerIsRefused(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "scanners: {nmap: /nowhere/nmap}\n"})
	refusal{"scanner_missing", "tool", "nmap_scan", false}.check(t, "no scanner", h.call("nmap_scan", object{"targets": []string{lab.SSH}, "wait_s": 45}))
	h.nothingLaunched()
}

func TestALimitedOutputEndsTruncated(t *testing.T) {
	h := newHouse(t, lab.Options{Settings: "limits: {output_mib: 1}\n", Engagements: map[string]string{"lab": lab.Engagement + "limits: {addresses_per_job: 8192, packets_per_second: 10000}\n"}})
	answer := h.call("nmap_scan", object{"targets": []string{lab.Closed}, "ports": []any{"1-4"}, "skip_discovery": true, "timing": "aggressive", "rate": 10000, "wait_s": 45})
	for range 3 {
		if answer["status"] == "running" {
			answer = h.call("job_result", object{"job_id": answer["job_id"], "wait_s": 45})
		}
	}
	count := func(part string) float64 {
		n, _ := at(answer, "coverage", "addresses", part, "count").(float64)
		return n
	}
	next, _ := answer["next"].(string)
	if answer["status"] != "truncated" || at(answer, "coverage", "cut_by") != "output" || at(answer, "coverage", "complete") != false || at(answer, "summary", "complete") != false ||
		count("completed") == 0 || count("not_reached") == 0 || count("completed")+count("not_reached") != 8192 || !strings.Contains(next, "fewer targets or ports") {
		delete(answer, "hosts")
		t.Errorf("%s", show(answer))
	}
	if at(answer, "coverage", "addresses", "not_reached", "prefixes", 0) == nil {
		t.Errorf("it does not say what was not reached: %s", show(answer["coverage"]))
	}
}

// A host that is given up is not a host without open ports.
func TestAHostThatIsGivenUpIsNotDone(t *testing.T) {
	h := newHouse(t, lab.Options{})
	answer := h.call("nmap_scan", object{"targets": []string{"10.77.1.1", lab.SSH}, "ports": []any{"1-250"}, "rate": 60, "host_timeout": 5, "wait_s": 45})
	if answer["status"] != "partial" || at(answer, "coverage", "addresses", "timed_out", "prefixes", 0) == nil || at(answer, "coverage", "complete") != false ||
		!strings.Contains(fmt.Sprint(answer["next"]), "host_timeout") {
		t.Errorf("%s", show(answer))
	}
	of := h.call("job_result", object{"job_id": answer["job_id"], "host": "10.77.1.1"})
	if at(of, "host", "state") != "timed_out" {
		t.Errorf("%s", show(of))
	}
}

// What a name stood for when it was scanned is part of the result.
func TestAResultSaysWhatItsNamesWere(t *testing.T) {
	h := newHouse(t, lab.Options{})
	answer := h.call("nmap_scan", object{"targets": []string{"web.lab.internal"}, "ports": []any{80}, "wait_s": 45})
	if at(answer, "arguments", "targets", 0) != "web.lab.internal" || at(answer, "resolved", 0, "name") != "web.lab.internal" || at(answer, "resolved", 0, "addresses", 0) != lab.Web {
		t.Errorf("%s", show(answer))
	}
	if of := h.call("job_result", object{"job_id": answer["job_id"], "host": lab.Web}); at(of, "host", "state") != "found" {
		t.Errorf("%s", show(of))
	}
}
