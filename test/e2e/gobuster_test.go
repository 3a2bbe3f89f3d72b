package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

const webEngagement = `name: web
callers: {users: [0]}
targets:
  - 10.77.0.0/24
  - fd77::/64
  - {name: .lab.internal, within: [10.77.0.0/24, fd77::/64]}
exclude: [10.77.0.13]
tools: {gobuster_scan: {profiles: ["*"]}}
`

// newWebHouse has the bundled list and those given, by name.
func newWebHouse(t *testing.T, engagement string, lists map[string]string) *house {
	t.Helper()
	return newWebHouseWith(t, "", engagement, lists)
}

func newWebHouseWith(t *testing.T, settings, engagement string, lists map[string]string) *house {
	t.Helper()
	dir, err := os.MkdirTemp("", "words")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	small, err := os.ReadFile("../../packaging/wordlists/small.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"small": string(small)} {
		lists = withDefault(lists, name, text)
	}
	for name, text := range lists {
		if err := os.WriteFile(filepath.Join(dir, name+".txt"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return newHouse(t, lab.Options{Settings: settings + "wordlists: {directories: [" + dir + "]}\n", Engagements: map[string]string{"web": engagement}})
}

func withDefault(lists map[string]string, name, text string) map[string]string {
	out := map[string]string{name: text}
	for n, t := range lists {
		out[n] = t
	}
	return out
}

// founds is what was found, sorted, as "path status location" or "name addresses".
func founds(answer object) string {
	var out []string
	hosts, _ := answer["hosts"].([]any)
	for _, h := range hosts {
		list, _ := at(h, "found").([]any)
		for _, f := range list {
			parts := []string{}
			for _, key := range []string{"path", "name", "status", "addresses"} {
				if v := at(f, key); v != nil {
					parts = append(parts, fmt.Sprint(v))
				}
			}
			if to := at(f, "untrusted", "location"); to != nil {
				parts = append(parts, "-> "+fmt.Sprint(to))
			}
			out = append(out, strings.Join(parts, " "))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestScansByWords(t *testing.T) { scansByWords(t, "") }

// scansByWords has gobuster, the one of the settings, find what is there, and send to nobody else.
func scansByWords(t *testing.T, settings string) {
	h := newWebHouseWith(t, settings, webEngagement, map[string]string{"paths": "# what there is\nlogin\n \nbackup\nadmin\nstatic\naway\nnothing\n"})
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4, lab.SlotsV6), Targets: lab.Prefixes(lab.Sites, lab.Sites6, lab.DNS)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	paths := "/admin 403, /away 302 -> http://" + lab.Outside + "/landed, /login 200, /static 301 -> /static/"
	for _, c := range []struct {
		says      string
		arguments object
		want      string
		requests  float64
	}{
		{"paths at an address", object{"url": "http://" + lab.Sites, "wordlist": "paths"}, paths, 6},
		{"paths at an address of IPv6", object{"url": "http://[" + lab.Sites6 + "]/", "wordlist": "paths"}, paths, 6},
		{"paths at a name, which the box has from the judged answer", object{"url": "http://www.lab.internal/", "wordlist": "paths"}, paths, 6},
		{"with extensions", object{"url": "http://" + lab.Sites, "wordlist": "paths", "extensions": []string{"zip"}}, strings.Replace(paths, "/login", "/backup.zip 200, /login", 1), 12},
		{"some statuses alone", object{"url": "http://" + lab.Sites, "wordlist": "paths", "status_codes": []int{403}}, "/admin 403", 6},
		{"the bundled list", object{"url": "http://" + lab.Sites}, "/admin 403, /api 401, /login 200, /static 301 -> /static/", 276},
		{"virtual hosts", object{"url": "http://" + lab.Sites, "domain": "lab.internal", "profile": "vhost"}, "shop.lab.internal 200, staff.lab.internal 200", 276},
		{"names", object{"domain": "lab.internal", "profile": "dns"}, "shop.lab.internal [" + lab.Sites + " " + lab.Sites6 + "], staff.lab.internal [" + lab.Sites + " " + lab.Sites6 +
			"], web.lab.internal [" + lab.Web + "], www.lab.internal [" + lab.Sites + " " + lab.Sites6 + "]", 276},
	} {
		began := time.Now()
		answer := h.call("gobuster_scan", c.arguments)
		if answer["status"] != "completed" || founds(answer) != c.want || at(answer, "coverage", "complete") != true || at(answer, "coverage", "dropped_packets") != 0.0 ||
			at(answer, "coverage", "requests", "asked") != c.requests || at(answer, "coverage", "requests", "made") != c.requests {
			t.Errorf("%s: %s\nwant %s\n%s", c.says, founds(answer), c.want, show(answer))
		}
		if len(fmt.Sprint(at(answer, "wordlist", "sha256"))) != 64 {
			t.Errorf("%s: which list it was: %s", c.says, show(answer["wordlist"]))
		}
		t.Logf("%s: %v, expected %v packets at most, sent %v", c.says, time.Since(began).Round(time.Millisecond), at(h.call("scan_preview", object{"tool": "gobuster_scan", "arguments": c.arguments}), "expected"), at(answer, "usage", "sent_packets"))
		o.Check(t, c.says)
	}
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

// What no rule allows is denied before anything is sent.
func TestScansByWordsThatAreDenied(t *testing.T) {
	h := newWebHouse(t, strings.Replace(webEngagement, "  - 10.77.0.0/24\n", "  - {network: 10.77.0.0/24, ports: [80]}\n", 1)+"limits: {packets_per_second: 500}\n", nil)
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4, lab.SlotsV6), Targets: lab.Prefixes(lab.DNS)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	site := "http://" + lab.Sites
	for _, c := range []struct {
		says        string
		arguments   object
		code, field string
	}{
		{"an address of nobody's", object{"url": "http://" + lab.Outside}, "target_out_of_scope", "url"},
		{"an excluded address", object{"url": "http://10.77.0.13"}, "target_excluded", "url"},
		{"another port", object{"url": site + ":8080"}, "port_not_allowed", "url"},
		{"this machine", object{"url": "http://127.0.0.1"}, "target_never", "url"},
		{"cloud metadata", object{"url": "http://169.254.169.254/latest/"}, "target_never", "url"},
		{"a name of nobody's", object{"url": "http://example.com"}, "name_not_allowed", "url"},
		{"a name that leads off scope", object{"url": "http://evil.lab.internal"}, "name_outside_scope", "url"},
		{"somebody else's name as Host", object{"url": site, "host": "example.com"}, "name_not_allowed", "host"},
		{"virtual hosts below somebody else's name", object{"url": site, "domain": "example.com", "profile": "vhost"}, "name_not_allowed", "domain"},
		{"names below somebody else's", object{"domain": "example.com", "profile": "dns"}, "name_not_allowed", "domain"},
		{"a faster one", object{"url": site, "rate": 1000}, "rate_too_high", "rate"},
		{"many threads", object{"url": site, "threads": 50}, "intrusive", ""},
		{"a list that is not there", object{"url": site, "wordlist": "smal"}, "unknown_wordlist", "wordlist"},
		{"a file as a list", object{"url": site, "wordlist": "../../etc/passwd"}, "bad_name", "wordlist"},
		{"an option as a URL", object{"url": "--url=http://x"}, "bad_url", "url"},
	} {
		answer := h.call("gobuster_scan", c.arguments)
		field, _ := at(answer, "error", "field").(string)
		if at(answer, "error", "code") != c.code || field != c.field {
			t.Errorf("%s: %s", c.says, show(answer))
		}
		preview := h.call("scan_preview", object{"tool": "gobuster_scan", "arguments": c.arguments})
		if code := at(preview, "error", "code"); code != c.code && c.code != "name_outside_scope" {
			t.Errorf("%s, previewed: %s", c.says, show(preview))
		}
	}
	o.Check(t, "denied")
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
}

// A scan that is ended keeps what it found, and says how far it came.
func TestScansByWordsThatAreCut(t *testing.T) { scansByWordsThatAreCut(t, "", true) }

// tells says whether this gobuster tells how far it is.
func scansByWordsThatAreCut(t *testing.T, settings string, tells bool) {
	words := "login\nadmin\n" + strings.Repeat("nothing\n", 1990)
	h := newWebHouseWith(t, settings, webEngagement, map[string]string{"long": words})
	slow := object{"url": "http://" + lab.Sites, "wordlist": "long", "threads": 1, "delay_ms": 5, "limit": 10} // the pauses alone would do
	check := func(says string, answer object, status, cut string) {
		t.Helper()
		q := at(answer, "coverage", "requests")
		made, _ := at(q, "made").(float64)
		if answer["status"] != status || founds(answer) != "/admin 403, /login 200" || at(answer, "coverage", "cut_by") != cut || at(answer, "coverage", "complete") != false ||
			at(q, "asked") != 1992.0 || made >= 1992 || tells && made < 2 || !tells && made != 0 || at(answer, "coverage", "not_reached") != 1.0 {
			t.Errorf("%s: %s, %s", says, founds(answer), show(answer))
		}
	}
	check("out of time", h.call("gobuster_scan", slow), "partial", "timeout")
	slow["delay_ms"] = 100
	refused := h.call("gobuster_scan", slow)
	if at(refused, "error", "code") != "cannot_finish" || at(refused, "error", "field") != "limit" || !strings.Contains(fmt.Sprint(at(refused, "error", "allowed")), "threads: at least 20") {
		t.Errorf("one that cannot end in time: %s", show(refused))
	}
	delete(slow, "limit")
	slow["wait_s"] = 3
	running := h.call("gobuster_scan", slow)
	if running["status"] != "running" || tells && at(running, "progress", "task") != "requests" {
		t.Fatalf("%s", show(running))
	}
	check("cancelled", h.call("job_cancel", object{"job_id": running["job_id"]}), "cancelled", "cancelled")
	record, err := os.ReadFile(filepath.Join(h.daemon.AuditDir(), "audit.jsonl"))
	if err != nil || !strings.Contains(string(record), `"wordlist":{"name":"long","lines":1992,"sha256":"`) {
		t.Errorf("the audit log does not say which list it was: %v", err)
	}
	// The server answers whatever is asked for. Its header has an escape in it, which a gobuster of a newer Go does not read.
	whyNot := "wildcard"
	if settings != "" {
		whyNot = "unreachable"
	}
	if answer := h.call("gobuster_scan", object{"url": "http://" + lab.Web}); answer["status"] != "failed" || at(answer, "end", "scanner_error") != whyNot || at(answer, "coverage", "complete") != false {
		t.Errorf("a server that has everything: %s", show(answer))
	}
	for _, list := range at(h.call("capabilities", object{}), "wordlists").([]any) {
		if at(list, "name") == "small" && at(list, "lines") == 276.0 {
			return
		}
	}
	t.Error("capabilities do not list the bundled list")
}

// A question that nobody answers is not a name that is not there, and a Host header is what was given.
func TestScansByWordsThatAreNotAnswered(t *testing.T) { scansByWordsThatAreNotAnswered(t, "") }

func scansByWordsThatAreNotAnswered(t *testing.T, settings string) {
	h := newWebHouseWith(t, settings, webEngagement, map[string]string{"names": "www\nslow\nnothing\n"})
	answer := h.call("gobuster_scan", object{"domain": "lab.internal", "profile": "dns", "wordlist": "names", "timeout_s": 1})
	lost, _ := at(answer, "coverage", "requests", "unanswered").(float64)
	if answer["status"] != "partial" || !strings.HasPrefix(founds(answer), "www.lab.internal") || lost < 1 || at(answer, "coverage", "complete") != false {
		t.Errorf("%s, %s", founds(answer), show(answer))
	}
	answer = h.call("gobuster_scan", object{"url": "http://" + lab.Sites, "host": "staff.lab.internal", "wordlist": "names"})
	if at(answer, "end", "scanner_error") != "wildcard" { // that site answers whatever is asked for
		t.Errorf("a Host header: %s", show(answer))
	}
}
