package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/secmcpd/secmcpd/test/lab"
)

// apart takes what stands under "untrusted" out of an answer, and tells of each text in it.
func apart(v any, tell func(text string, untrusted bool)) (words int) {
	var walk func(v any, untrusted bool)
	walk = func(v any, untrusted bool) {
		switch v := v.(type) {
		case object:
			for key, inner := range v {
				tell(key, untrusted)
				walk(inner, untrusted || key == "untrusted")
			}
		case []any:
			for _, inner := range v {
				walk(inner, untrusted)
			}
		case string:
			if tell(v, untrusted); untrusted && strings.Contains(v, lab.Told) {
				words++
			}
		}
	}
	walk(v, false)
	return words
}

// plainText says what of a text could act on who reads it.
func plainText(text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("not UTF-8: %q", text)
	}
	for _, r := range text {
		if unicode.Is(unicode.C, r) || unicode.Is(unicode.Variation_Selector, r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || r == '\u2028' || r == '\u2029' {
			return fmt.Errorf("%U in %q", r, text)
		}
	}
	return nil
}

// A host that says to whoever reads its answers what to do is heard where a host's words stand, cleaned and cut, and
// nowhere else: in no other part of an answer, no error, no list, no log, no record and no metric, and it fills nothing.
func TestAHostThatTalksToTheModelIsHeardNowhereElse(t *testing.T) {
	dir, err := os.MkdirTemp("", "metrics")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, lab.FrontUID, lab.FrontUID); err != nil {
		t.Fatal(err)
	}
	words := filepath.Join(dir, "words")
	if err := os.Mkdir(words, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(words, "small.txt"), []byte("nothing\nadmin\nlogin\nstatic\napi\nstaff\nobey\nwww\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	metrics := filepath.Join(dir, "secmcpd.prom")
	engagement := strings.Replace(lab.Engagement, "masscan_scan: {profiles: [\"*\"]}", "masscan_scan: {profiles: [\"*\"]}, gobuster_scan: {profiles: [\"*\"]}", 1)
	h := newHouse(t, lab.Options{Settings: "wordlists: {directories: [" + words + "]}\nmetrics: {textfile: " + metrics + "}\n", Engagements: map[string]string{"lab": engagement}})
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4, lab.SlotsV6), Targets: lab.Prefixes(lab.Talker, lab.Talker6, lab.DNS)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	check := func(says string, answer any) (heard int) {
		t.Helper()
		heard = apart(answer, func(text string, untrusted bool) {
			if err := plainText(text); err != nil {
				t.Errorf("%s: %v", says, err)
			}
			if len(text) > 8<<10 {
				t.Errorf("%s: a text of %d bytes", says, len(text))
			}
			if !untrusted && (strings.Contains(text, lab.Told) || strings.Contains(text, "previous instructions")) {
				t.Errorf("%s: not apart: %s", says, text)
			}
		})
		if size := len(show(answer)); size > 100<<10 {
			t.Errorf("%s: an answer of %d bytes", says, size)
		}
		return heard
	}
	ports := []any{13, 21, 22, 23, 25, 79, 80, 443}
	scripts := []string{"banner", "daytime", "finger", "http-title", "http-headers", "http-server-header", "http-robots.txt", "http-auth", "http-methods", "http-generator", "http-cookie-flags", "smtp-commands", "ssl-cert", "tls-alpn"}
	for _, c := range []struct {
		says, tool string
		arguments  object
		status     string
		heard      bool
	}{
		{"scripts", "nmap_scan", object{"targets": []string{lab.Talker}, "ports": ports, "profile": "script", "scripts": scripts}, "completed", true},
		{"services", "nmap_scan", object{"targets": []string{lab.Talker}, "ports": []any{21, 22, 25, 80}, "service_detection": true, "version_intensity": 1}, "completed", true},
		{"scripts over IPv6", "nmap_scan", object{"targets": []string{lab.Talker6}, "ports": []any{21, 22, 80, 443}, "profile": "script", "scripts": []string{"banner", "http-title", "ssl-cert"}}, "completed", true},
		{"texts of names and of SNMP", "nmap_scan", object{"targets": []string{lab.Talker}, "ports": []any{53, 161}, "scan_type": "udp", "profile": "script", "scripts": []string{"dns-nsid", "snmp-sysdescr"}}, "completed", true},
		{"open ports", "masscan_scan", object{"targets": []string{lab.Talker}, "ports": ports}, "completed", false},
		{"paths", "gobuster_scan", object{"url": "http://" + lab.Talker}, "completed", true},
		{"paths over IPv6", "gobuster_scan", object{"url": "http://[" + lab.Talker6 + "]"}, "completed", true},
		{"virtual hosts", "gobuster_scan", object{"url": "http://" + lab.Talker, "domain": "lab.internal", "profile": "vhost"}, "completed", true},
		{"names", "gobuster_scan", object{"domain": "lab.internal", "profile": "dns"}, "completed", false},
		{"a certificate that is not trusted", "gobuster_scan", object{"url": "https://" + lab.Talker}, "failed", false},
		{"a scan by the name that it has", "nmap_scan", object{"targets": []string{"obey.lab.internal"}, "ports": []any{22}, "profile": "script", "scripts": []string{"banner"}}, "completed", true},
	} {
		c.arguments["wait_s"] = 45
		answer := h.call(c.tool, c.arguments)
		for range 100 {
			if at(answer, "error", "code") != "rate_too_high" {
				break
			}
			time.Sleep(200 * time.Millisecond)
			answer = h.call(c.tool, c.arguments)
		}
		for deadline := time.Now().Add(3 * time.Minute); answer["status"] == "running" && time.Now().Before(deadline); {
			answer = h.call("job_result", object{"job_id": answer["job_id"], "wait_s": 45})
		}
		heard := check(c.says, answer)
		if answer["status"] != c.status || c.heard && heard == 0 {
			t.Errorf("%s: %v, heard %d times: %s", c.says, answer["status"], heard, show(answer))
		}
		t.Logf("%s: %v, heard %d times, %d bytes, cut_from %v, unanswered %v", c.says, answer["status"], heard, len(show(answer)), at(answer, "coverage", "cut_from"), at(answer, "coverage", "requests", "unanswered"))
		for cursor := at(answer, "page", "next_cursor"); cursor != nil; {
			next := h.call("job_result", object{"job_id": answer["job_id"], "cursor": cursor})
			check(c.says+", further", next)
			cursor = at(next, "page", "next_cursor")
		}
		check(c.says+", status", h.call("job_status", object{"job_id": answer["job_id"]}))
		o.Check(t, c.says)
	}
	check("jobs", h.call("job_list", object{}))
	h.saysNothing(metrics)
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

// saysNothing looks for the host's words in all that the daemon says by itself.
func (h *house) saysNothing(metrics string) {
	h.t.Helper()
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	listed, err := h.agent.ListResources(ctx, &mcp.ListResourcesParams{})
	if err != nil {
		h.t.Fatal(err)
	}
	var names strings.Builder
	results := 0
	for _, r := range listed.Resources {
		fmt.Fprintln(&names, r.URI, r.Name, r.Title, r.Description)
		if !strings.HasSuffix(r.URI, "/result") {
			continue
		}
		results++
		read, err := h.agent.ReadResource(ctx, &mcp.ReadResourceParams{URI: r.URI})
		if err != nil || len(read.Contents) != 1 {
			h.t.Fatal(err)
		}
		if err := plainText(strings.ReplaceAll(read.Contents[0].Text, "\n", "")); err != nil {
			h.t.Errorf("%s: %v", r.URI, err)
		}
	}
	if results < 5 {
		h.t.Errorf("%d results are listed", results)
	}
	said := map[string]string{"resources": names.String(), "audit": h.auditLog(), "launcher": h.daemon.Log(lab.Launcher), "front": h.daemon.Log(lab.Front)}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(said["metrics"], "gobuster_scan") && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		text, err := os.ReadFile(metrics)
		if err != nil && !os.IsNotExist(err) {
			h.t.Fatal(err)
		}
		said["metrics"] = string(text)
	}
	raw := 0
	err = filepath.WalkDir(filepath.Join(h.daemon.Dir, "state", "jobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		switch filepath.Base(path) {
		case "nmap.xml", "output.txt", "stderr.txt":
			raw += strings.Count(string(text), lab.Told)
		default:
			said[path] = string(text)
		}
		return err
	})
	if err != nil || raw == 0 {
		h.t.Errorf("%v; in the raw outputs the word is found %d times", err, raw)
	}
	for where, text := range said {
		if text == "" && where != "launcher" && where != "front" {
			h.t.Errorf("%s: nothing is said", where)
		}
		if strings.Contains(strings.ToLower(text), strings.ToLower(lab.Told)) || strings.Contains(text, "\x1b") {
			h.t.Errorf("%s: %s", where, text)
		}
	}
}

// The lab's own host says what it is to say, or nothing above is tried.
func TestTheTalkingHostTalks(t *testing.T) {
	for _, port := range []string{"13", "21", "22", "23", "25", "79"} {
		for _, a := range []string{lab.Talker, lab.Talker6} {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(a, port), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4096)
			n, err := c.Read(b)
			if err != nil || !strings.Contains(string(b[:n]), lab.Told) || !strings.Contains(string(b[:n]), "\x1b[31m") {
				t.Errorf("%s port %s: %v, %q", a, port, err, b[:n])
			}
			c.Close()
		}
	}
}

// A script that ended in an error, and scripts of a host that was given up or not reached, are no scripts that found
// nothing.
func TestScriptsThatDidNotRunAreSaid(t *testing.T) {
	h := newHouse(t, lab.Options{})
	for _, c := range []struct {
		says                 string
		arguments            object
		status               string
		failed, hosts        float64
		timedOut, notReached float64
		cancel               bool
	}{
		{"all ran", object{"targets": []string{lab.Web}, "ports": []any{80}, "scripts": []string{"http-title"}}, "completed", 0, 0, 0, 0, false},
		{"one ended in an error", object{"targets": []string{lab.SNMP}, "ports": []any{161}, "scan_type": "udp", "scripts": []string{"snmp-sysdescr"}}, "completed", 1, 0, 0, 0, false},
		{"a host was given up", object{"targets": []string{lab.Web, lab.Mute}, "ports": []any{80}, "scripts": []string{"http-title"}, "host_timeout": 5, "skip_discovery": true}, "partial", 0, 1, 1, 0, false},
		{"cancelled", object{"targets": []string{lab.Web, lab.Mute}, "ports": []any{80}, "scripts": []string{"http-title", "banner"}, "skip_discovery": true}, "cancelled", 0, 2, 0, 2, true},
	} {
		c.arguments["profile"], c.arguments["wait_s"] = "script", 45
		if c.cancel {
			c.arguments["wait_s"] = 3
		}
		answer := h.call("nmap_scan", c.arguments)
		if c.cancel {
			answer = h.call("job_cancel", object{"job_id": answer["job_id"]})
		}
		coverage := at(answer, "coverage")
		lacks := at(coverage, "scripts_not_run")
		if answer["status"] != c.status || at(coverage, "timed_out") != c.timedOut || at(coverage, "not_reached") != c.notReached || at(coverage, "complete") != (c.failed+c.hosts == 0) || (lacks == nil) != (c.failed+c.hosts == 0) {
			t.Errorf("%s: %s", c.says, show(answer))
		}
		if lacks != nil && (at(lacks, "failed") != c.failed || at(lacks, "hosts") != c.hosts || (at(lacks, "scripts", 0) == "snmp-sysdescr") != (c.failed > 0)) {
			t.Errorf("%s: %s", c.says, show(lacks))
		}
	}
}
