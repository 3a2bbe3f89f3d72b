package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// What explain says of a call, by the files and without the daemon, is what the daemon says of it: whether it would
// be allowed, need an approval, or why not.
func TestExplainSaysWhatTheDaemonWould(t *testing.T) {
	lists := t.TempDir()
	if err := os.WriteFile(filepath.Join(lists, "small.txt"), []byte("admin\nlogin\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := lists; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := newHouse(t, lab.Options{Settings: "wordlists: {directories: [" + lists + "]}\n", Engagements: map[string]string{"lab": lab.Engagement, "narrow": `name: narrow
description: Few ports of another network.
callers: {users: [0]}
targets:
  - {network: 192.0.2.0/28, ports: ["22", "80-90"]}
  - 198.51.100.0/24
exclude: [198.51.100.7]
tools: {nmap_scan: {profiles: [quick, standard]}, gobuster_scan: {profiles: ["*"]}}
limits: {addresses_per_job: 64, packets_per_second: 300, duration: 10m}
intrusive: approve
`, "others": `name: others
description: Not the caller's.
callers: {users: [65402]}
targets: [203.0.113.0/24]
tools: {nmap_scan: {profiles: ["*"]}}
`, "faulty": `name: faulty
targets: nowhere
`}})
	r := rand.New(rand.NewPCG(1, 2))
	one := func(of ...any) any { return of[r.IntN(len(of))] }
	targets := []any{"10.77.0.10", "10.77.0.13", "10.77.0.0/28", "10.77.0.0/20", "192.0.2.3", "192.0.2.0/29", "198.51.100.7", "198.51.100.0/26", "198.51.100.0/24", "203.0.113.5", "8.8.8.8", "127.0.0.1",
		"fd77::10", "web.lab.internal", "web.example.org", "169.254.169.254", "0.0.0.0/0"}
	counts := map[string]int{}
	for range 150 {
		tool := one("nmap_scan", "nmap_scan", "masscan_scan", "gobuster_scan").(string)
		a := object{}
		if tool == "gobuster_scan" {
			a = object{"url": fmt.Sprintf("http://%s:%d/", one("10.77.0.11", "192.0.2.3", "198.51.100.9", "8.8.8.8"), one(80, 443, 22)), "wordlist": "small"}
		} else {
			var list []any
			for range 1 + r.IntN(2) {
				list = append(list, targets[r.IntN(len(targets))])
			}
			a["targets"] = slices.Compact(list)
			a["ports"] = []any{one(22, 80, 443, "1-1024", "80-90")}
			if tool == "nmap_scan" && r.IntN(2) == 0 {
				a["profile"] = one("quick", "standard", "version", "thorough")
				delete(a, "ports")
			}
			if tool == "nmap_scan" && r.IntN(2) == 0 {
				a["scripts"] = []any{one("http-title", "http-enum", "ssh-hostkey")}
			}
		}
		if r.IntN(3) == 0 {
			a["rate"] = one(50, 250, 500, 100000)
		}
		if r.IntN(3) == 0 {
			a["engagement"] = one("lab", "narrow", "others", "nosuch", "faulty")
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		p := h.call("scan_preview", object{"tool": tool, "arguments": a})
		for at(p, "error", "retry_after_s") != nil { // so many questions in a short time
			time.Sleep(time.Second)
			p = h.call("scan_preview", object{"tool": tool, "arguments": a})
		}
		daemon := fmt.Sprint(at(p, "error", "code"))
		if p["allowed"] == true {
			daemon = fmt.Sprint(at(p, "verdict", "outcome"))
		}
		said := h.run("engagements", "explain", tool, "--arguments", string(text), "--json")
		var x object
		if err := json.Unmarshal([]byte(said.stdout), &x); err != nil && said.status != 2 {
			t.Fatalf("%v: %+v", err, said)
		}
		files := fmt.Sprint(at(x, "verdict", "outcome"))
		if d := at(x, "denial", "code"); d != nil {
			files = d.(string)
		}
		if want, is := map[string]int{"allow": 0, "approve": 3}[files]; is && said.status != want || !is && said.status != 1 && said.status != 2 {
			t.Errorf("%s %s: %s, and exit status %d", tool, text, files, said.status)
		}
		if files == "<nil>" { // its arguments are wrong
			files = daemon
		}
		counts[daemon]++
		if files != daemon {
			t.Errorf("%s %s:\nexplain says %s, the daemon %s %s", tool, text, files, daemon, show(at(p, "error")))
		}
	}
	for _, want := range []string{"allow", "approve", "engagement_suspended", "target_excluded", "port_not_allowed", "rate_too_high"} {
		if counts[want] == 0 {
			t.Errorf("no request came to %s: %v", want, counts)
		}
	}
}
