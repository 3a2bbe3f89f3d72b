package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secmcpd/secmcpd/test/lab"
)

// open is what a scan found, as "address port/protocol".
func open(answer object) string {
	var out []string
	hosts, _ := answer["hosts"].([]any)
	for _, h := range hosts {
		list, _ := at(h, "ports").([]any)
		for _, p := range list {
			out = append(out, fmt.Sprintf("%v %v/%v", at(h, "addr"), at(p, "port"), at(p, "proto")))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestMasscan(t *testing.T) { masscanScans(t, lab.Options{}, "routed", lab.SlotsV4) }

func TestMasscanWithoutAWayBack(t *testing.T) {
	back, err := network.Strand()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	}()
	masscanScans(t, lab.Options{Translated: true}, "translated", lab.Uplink)
}

// masscanScans has masscan find what is open, end by itself also where nobody answers, and send to nobody else.
func masscanScans(t *testing.T, options lab.Options, mode string, sources ...string) {
	h := newHouse(t, options)
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(sources...), Targets: lab.Prefixes("10.77.0.8/29", lab.DNS, "10.77.1.0/28")})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, c := range []struct {
		says                string
		arguments           object
		want                string
		asked, up, excluded float64
	}{
		{"a network, without what the engagement excludes", object{"targets": []string{"10.77.0.8/29"}, "ports": []any{22, 80, 81, 8080}},
			"10.77.0.10 22/tcp, 10.77.0.10 80/tcp, 10.77.0.11 80/tcp, 10.77.0.11 8080/tcp, 10.77.0.12 22/tcp", 7, 3, 1},
		{"a profile", object{"targets": []string{lab.SSHAndWeb, lab.Web}, "profile": "common"}, "10.77.0.10 22/tcp, 10.77.0.10 80/tcp, 10.77.0.11 80/tcp, 10.77.0.11 8080/tcp", 2, 2, 0},
		{"many ports of a host", object{"targets": []string{lab.Web}, "ports": []any{"1-1500", "8000-8999"}, "rate": 1000, "retries": 0}, "10.77.0.11 80/tcp, 10.77.0.11 8080/tcp", 1, 1, 0},
		{"UDP and TCP", object{"targets": []string{lab.DNS}, "ports": []any{53, "udp/53", "udp/54"}}, "10.77.0.53 53/tcp, 10.77.0.53 53/udp", 1, 1, 0},
		{"a name", object{"targets": []string{"web.lab.internal"}, "ports": []any{80}}, "10.77.0.11 80/tcp", 1, 1, 0},
		{"closed ports", object{"targets": []string{lab.SSH}, "ports": []any{81, 82}, "wait": 1}, "", 1, 0, 0},
		{"hosts that are silent", object{"targets": []string{"10.77.1.0/28"}, "ports": []any{22, 80}, "wait": 1}, "", 16, 0, 0},
		{"once more", object{"targets": []string{"10.77.1.0/28"}, "ports": []any{22, 80}, "wait": 1, "retries": 0}, "", 16, 0, 0},
	} {
		c.arguments["wait_s"] = 45
		preview := h.call("scan_preview", object{"tool": "masscan_scan", "arguments": without(c.arguments, "wait_s")})
		began := time.Now()
		answer := h.call("masscan_scan", c.arguments)
		took := time.Since(began).Seconds()
		if answer["status"] != "completed" || open(answer) != c.want {
			t.Errorf("%s: %s: %s", c.says, open(answer), show(answer))
		}
		coverage := at(answer, "coverage")
		for key, want := range map[string]any{"asked": c.asked, "probed": c.asked, "up": c.up, "silent": c.asked - c.up, "excluded": c.excluded, "not_reached": 0.0, "dropped_packets": 0.0, "complete": true} {
			if got := at(coverage, key); got != want {
				t.Errorf("%s: %s is %v, want %v: %s", c.says, key, got, want, show(coverage))
			}
		}
		if at(answer, "network", "mode") != mode {
			t.Errorf("%s: %s", c.says, show(at(answer, "network")))
		}
		if c.says == "a name" { // a preview asks for none
			continue
		}
		seconds, _ := at(preview, "expected", "seconds").(float64)
		packets, _ := at(preview, "expected", "packets").(float64)
		sent, _ := at(answer, "usage", "sent_packets").(float64)
		if sent == 0 || sent > packets || took > seconds+4 {
			t.Errorf("%s: %v packets of %v, %.1f s of %v", c.says, sent, packets, took, seconds)
		}
		o.Check(t, c.says)
	}
	job := h.call("masscan_scan", object{"targets": []string{"10.77.0.8/29"}, "ports": []any{22}, "retries": 0, "wait": 1})
	for address, want := range map[string]string{"10.77.0.10": "found", "10.77.0.9": "silent", "10.77.0.13": "excluded", "10.77.0.99": "not_asked"} {
		if got := at(h.call("job_result", object{"job_id": job["job_id"], "host": address}), "host", "state"); got != want {
			t.Errorf("%s: %v, want %s", address, got, want)
		}
	}
	if n := network.Strangers(); n != 0 {
		t.Errorf("%d packets reached the host outside", n)
	}
	if log := h.auditLog(); !strings.Contains(log, `"tool":"masscan_scan"`) || !strings.Contains(log, `"--noreset"`) {
		t.Error("the audit log does not have the scans")
	}
}

func without(o object, key string) object {
	out := object{}
	for k, v := range o {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// A scan that is cancelled has what it had found, and says of no address that it is through.
func TestMasscanCancelled(t *testing.T) {
	h := newHouse(t, lab.Options{})
	job := h.call("masscan_scan", object{"targets": []string{"10.77.0.10/31", lab.SSH}, "ports": []any{22, 80, 8080}, "rate": 1, "retries": 0, "wait_s": 0})
	percent := 0.0
	for deadline := time.Now().Add(40 * time.Second); percent < 60 && time.Now().Before(deadline); {
		percent, _ = at(h.call("job_status", object{"job_id": job["job_id"], "wait_s": 1}), "progress", "percent").(float64)
	}
	h.call("job_cancel", object{"job_id": job["job_id"]})
	answer := h.call("job_result", object{"job_id": job["job_id"], "wait_s": 20})
	coverage := at(answer, "coverage")
	found, _ := at(answer, "summary", "open_ports").(float64)
	if answer["status"] != "cancelled" || found == 0 || open(answer) == "" || at(coverage, "complete") != false || at(coverage, "cut_by") != "cancelled" ||
		at(coverage, "not_reached") != 3.0 || at(coverage, "addresses", "completed", "count") != 0.0 {
		t.Errorf("at %v%%: %s", percent, show(answer))
	}
	if pids, err := h.daemon.Boxes(); err != nil || len(pids) > 0 {
		t.Errorf("left behind: %v, %v", pids, err)
	}
}

func TestMasscanIsRefused(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"few": `name: few
callers: {users: [0]}
targets: [{network: 10.77.0.8/29, ports: [22, udp/53]}, {network: 10.77.1.0/24, ports: [22, 80]}]
exclude: [10.77.0.13]
tools: {masscan_scan: {profiles: [web, quick]}}
limits: {packets_per_second: 100, duration: 1m}
`}})
	o, err := network.Observe(lab.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, c := range []struct {
		says      string
		arguments object
		code      string
		field     string
	}{
		{"off scope", object{"targets": []string{lab.Outside}, "ports": []any{22}}, "target_out_of_scope", "targets[0]"},
		{"an exclusion", object{"targets": []string{"10.77.0.13"}, "ports": []any{22}}, "target_excluded", "targets[0]"},
		{"another port", object{"targets": []string{lab.SSH}, "ports": []any{22, 80}}, "port_not_allowed", "ports"},
		{"the same port of UDP", object{"targets": []string{lab.SSH}, "ports": []any{"udp/22"}}, "port_not_allowed", "ports"},
		{"a profile's ports", object{"targets": []string{lab.SSH}}, "port_not_allowed", "ports"},
		{"another profile", object{"targets": []string{lab.SSH}, "ports": []any{22}, "profile": "thorough"}, "profile_not_allowed", "profile"},
		{"a higher rate", object{"targets": []string{lab.SSH}, "ports": []any{22}, "rate": 101}, "rate_too_high", "rate"},
		{"banners", object{"targets": []string{lab.SSH}, "ports": []any{22}, "banners": true}, "unknown_argument", "banners"},
		{"IPv6", object{"targets": []string{lab.IPv6Host}, "ports": []any{22}}, "target_ipv6", "targets[0]"},
		{"more than fits its time", object{"targets": []string{"10.77.1.0/24"}, "ports": []any{22, 80}, "retries": 3, "limit": 20}, "cannot_finish", "limit"},
	} {
		for _, call := range []func() object{
			func() object { return h.call("masscan_scan", c.arguments) },
			func() object {
				return h.call("scan_preview", object{"tool": "masscan_scan", "arguments": c.arguments})
			},
		} {
			answer := call()
			if at(answer, "error", "code") != c.code || !strings.HasSuffix(fmt.Sprint(at(answer, "error", "field")), c.field) {
				t.Errorf("%s: %s", c.says, show(answer))
			}
		}
		o.Check(t, c.says)
	}
	preview := h.call("scan_preview", object{"tool": "masscan_scan", "arguments": object{"targets": []string{"10.77.0.8/29"}, "ports": []any{22, "udp/53"}, "retries": 0}})
	if got := show(preview["argv"]); got != `["masscan","--rate","100","--retries","0","--wait","3","--noreset","-p","22,U:53","10.77.0.8/30","10.77.0.12","10.77.0.14/31"]` {
		t.Errorf("%s", show(preview))
	}
}

// What is asked to follow a scan follows it, each a job of its own, and what they find is in the one result.
func TestMasscanTwiceAndVerified(t *testing.T) {
	h := newHouse(t, lab.Options{Engagements: map[string]string{"both": `name: both
callers: {users: [0]}
targets: [10.77.0.0/24, {name: .lab.internal, within: [10.77.0.0/24]}]
tools: {masscan_scan: {profiles: ["*"]}, nmap_scan: {profiles: [quick, version]}}
`, "alone": `name: alone
callers: {users: [0]}
targets: [10.77.0.0/24]
tools: {masscan_scan: {profiles: ["*"]}}
`}})
	o, err := network.Observe(lab.Scope{Sources: lab.Prefixes(lab.SlotsV4), Targets: lab.Prefixes("10.77.0.8/29", lab.DNS)})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	const all = "10.77.0.10 22/tcp, 10.77.0.10 80/tcp, 10.77.0.11 80/tcp, 10.77.0.12 22/tcp"
	targets, ports := []string{"10.77.0.8/30", lab.SSH}, []any{22, 80, 81}
	answer := h.call("masscan_scan", object{"targets": targets, "exclude": []string{"10.77.0.8"}, "ports": ports, "wait": 1, "second_pass": true, "verify": "services", "engagement": "both", "correlation_id": "twice", "wait_s": 45})
	for i := 0; i < 3 && answer["status"] == "running"; i++ {
		answer = h.call("job_result", object{"job_id": answer["job_id"], "wait_s": 45})
	}
	coverage := at(answer, "coverage")
	if answer["status"] != "completed" || open(answer) != all || at(coverage, "complete") != true || at(coverage, "excluded") != 1.0 || at(coverage, "asked") != 4.0 ||
		at(coverage, "exclusions", 0, "rule") != "caller: exclude" {
		t.Errorf("%s", show(answer))
	}
	if at(coverage, "second_pass", "agreed") != true || at(coverage, "second_pass", "status") != "completed" {
		t.Errorf("%s", show(at(coverage, "second_pass")))
	}
	v := at(coverage, "verification", 0)
	if at(v, "status") != "completed" || at(v, "asked") != 4.0 || at(v, "open") != 4.0 || at(v, "unknown") != 0.0 {
		t.Errorf("%s", show(at(coverage, "verification")))
	}
	if at(answer, "hosts", 0, "ports", 0, "method") != "probed" || at(answer, "hosts", 0, "ports", 0, "reason") != "syn-ack" {
		t.Errorf("what nmap knows of services is not taken over: %s", show(answer["hosts"]))
	}
	for i, tool := range []string{"masscan_scan", "nmap_scan"} {
		id := at(answer, "followed_by", i)
		child := h.call("job_result", object{"job_id": id})
		if child["follows"] != answer["job_id"] || child["tool"] != tool || child["correlation_id"] != "twice" || child["status"] != "completed" {
			t.Errorf("%d: %s", i, show(child))
		}
	}
	if list := h.call("job_list", object{"limit": 3}); at(list, "jobs", 0, "follows") != answer["job_id"] || at(list, "jobs", 2, "job_id") != answer["job_id"] {
		t.Errorf("%s", show(list))
	}

	alone := h.call("masscan_scan", object{"targets": targets, "ports": ports, "wait": 1, "verify": "ports", "engagement": "alone", "wait_s": 45})
	if why := fmt.Sprint(at(alone, "coverage", "verification", 0, "why")); alone["status"] != "completed" || !strings.HasPrefix(why, "tool_not_allowed") || at(alone, "coverage", "complete") != false ||
		at(alone, "coverage", "verification", 0, "unknown") != 4.0 || !strings.Contains(fmt.Sprint(alone["next"]), "Not verified: 4 of 4") {
		t.Errorf("%s", show(alone))
	}
	// A name has another answer by the time of the second pass, which is judged by itself.
	rebound := h.call("masscan_scan", object{"targets": []string{"masscan.rebind.lab.internal"}, "ports": []any{80}, "wait": 1, "second_pass": true, "engagement": "both", "wait_s": 45})
	if why := fmt.Sprint(at(rebound, "coverage", "second_pass", "why")); rebound["status"] != "completed" || open(rebound) != lab.Web+" 80/tcp" || !strings.HasPrefix(why, "name_outside_scope") ||
		at(rebound, "coverage", "second_pass", "agreed") != false || at(rebound, "coverage", "complete") != false {
		t.Errorf("%s", show(rebound))
	}
	nothing := h.call("masscan_scan", object{"targets": []string{lab.SSH}, "ports": []any{81}, "wait": 1, "verify": "ports", "engagement": "alone", "wait_s": 45})
	if nothing["status"] != "completed" || at(nothing, "coverage", "complete") != true || at(nothing, "coverage", "verification") != nil {
		t.Errorf("nothing to verify: %s", show(nothing))
	}
	o.Check(t, "followed")
	preview := h.call("scan_preview", object{"tool": "masscan_scan", "arguments": object{"targets": targets, "ports": ports, "second_pass": true, "verify": "ports"}})
	if !strings.Contains(fmt.Sprint(preview["next"]), "the same a second time; nmap_scan of the ports that are found") {
		t.Errorf("%s", show(preview))
	}
}

// The first pass cut short has nothing follow it; cancelling the job ends what follows.
func TestMasscanCancelledInItsSecondPass(t *testing.T) {
	h := newHouse(t, lab.Options{})
	job := h.call("masscan_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait": 10, "retries": 0, "second_pass": true, "verify": "ports", "wait_s": 0})
	var status object
	for deadline := time.Now().Add(40 * time.Second); at(status, "followed_by") == nil && time.Now().Before(deadline); {
		status = h.call("job_status", object{"job_id": job["job_id"], "wait_s": 1})
	}
	if status["status"] != "running" || !strings.HasPrefix(fmt.Sprint(at(status, "progress", "task")), "masscan_scan") {
		t.Logf("in its second pass: %s", show(status))
	}
	began := time.Now()
	h.call("job_cancel", object{"job_id": job["job_id"]})
	answer := h.call("job_result", object{"job_id": job["job_id"], "wait_s": 20})
	coverage := at(answer, "coverage")
	if answer["status"] != "completed" || open(answer) != lab.SSH+" 22/tcp" || at(coverage, "complete") != false || at(coverage, "second_pass", "status") != "cancelled" ||
		at(coverage, "second_pass", "agreed") != false || at(coverage, "verification", 0, "status") != "none" || time.Since(began) > 8*time.Second {
		t.Errorf("after %v: %s", time.Since(began), show(answer))
	}
	cut := h.call("masscan_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait": 60, "second_pass": true, "wait_s": 0})
	time.Sleep(time.Second)
	h.call("job_cancel", object{"job_id": cut["job_id"]})
	cut = h.call("job_result", object{"job_id": cut["job_id"], "wait_s": 20})
	if cut["status"] != "cancelled" || !strings.Contains(fmt.Sprint(at(cut, "coverage", "second_pass", "why")), "did not come to its end") || cut["followed_by"] != nil {
		t.Errorf("%s", show(cut))
	}
}

// A front that dies between two passes goes on where it was: what follows is neither lost nor started twice, and what it
// could no longer start, since whoever asked is gone, is said.
func TestAKilledFrontFindsWhatFollowed(t *testing.T) {
	h := newHouse(t, lab.Options{})
	job := h.call("masscan_scan", object{"targets": []string{lab.SSH}, "ports": []any{22}, "wait": 6, "retries": 0, "second_pass": true, "verify": "ports", "wait_s": 0})
	var second any
	for deadline := time.Now().Add(40 * time.Second); second == nil && time.Now().Before(deadline); {
		second = at(h.call("job_status", object{"job_id": job["job_id"], "wait_s": 1}), "followed_by", 0)
	}
	if err := h.daemon.Kill9(lab.Front); err != nil {
		t.Fatal(err)
	}
	answer := h.again(job["job_id"])
	coverage := at(answer, "coverage")
	if second == nil || answer["status"] != "completed" || open(answer) != lab.SSH+" 22/tcp" || at(coverage, "second_pass", "job_id") != second || at(coverage, "second_pass", "agreed") != true {
		t.Errorf("second pass %v: %s", second, show(answer))
	}
	if why := fmt.Sprint(at(coverage, "verification", 0, "why")); why != "the daemon was restarted before it began" || at(coverage, "complete") != false {
		t.Errorf("%s", show(coverage))
	}
	if child := h.again(second); child["follows"] != job["job_id"] || child["status"] != "completed" || len(at(answer, "followed_by").([]any)) != 1 {
		t.Errorf("%s", show(child))
	}
}
