package front

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secmcpd/secmcpd/internal/store"
	"github.com/secmcpd/secmcpd/internal/wire"
	"github.com/secmcpd/secmcpd/runners"
	"github.com/secmcpd/secmcpd/runners/report"
)

// scanOfTest is a job that has ended, as the store gives it back.
type scanOfTest struct {
	tool, arguments string
	scans           string // the ports that nmap says it scans
	hosts           string // as nmap writes them
	report          *report.Report
	verdict         wire.Verdict
	outcome         wire.Outcome
	wordlist        *wire.Wordlist
}

func (c scanOfTest) job(t *testing.T) store.Job {
	t.Helper()
	if c.tool == "" {
		c.tool = "nmap_scan"
	}
	if c.arguments == "" {
		c.arguments = `{"targets":["10.0.0.0/29"],"top_ports":100}`
	}
	call, faults := runners.BuiltIn().Read(c.tool, json.RawMessage(c.arguments))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	arguments, err := call.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	if c.report == nil {
		xml := `<?xml version="1.0"?><nmaprun scanner="nmap" version="7.93">`
		if c.scans != "" {
			count := strings.Count(c.scans, ",") + 1
			xml += fmt.Sprintf(`<scaninfo type="syn" protocol="tcp" numservices="%d" services="%s"/>`, count, c.scans)
		}
		r, err := report.ParseNmap(strings.NewReader(xml+c.hosts+`<runstats><finished exit="success"/></runstats></nmaprun>`), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.report = &r
	}
	if c.outcome.Reason == "" {
		c.outcome = wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 100, Received: 100}}
	}
	if c.verdict.AddressCount == 0 {
		c.verdict = allowed(8, "10.0.0.0/29")
	}
	record := wire.Job{Verdict: c.verdict, Started: time.Now(), Outcome: &c.outcome, Wordlist: c.wordlist}
	return store.Job{ID: newJobID(), Tool: c.tool, Arguments: arguments, State: stateOf(record, *c.report), Ended: time.Now(), Started: time.Now(), Record: encode(record), Result: encode(*c.report)}
}

func sideOfTest(t *testing.T, c scanOfTest) *side {
	t.Helper()
	d, err := sideOf(runners.BuiltIn(), c.job(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// up is a host with ports, each written "80 open http nginx 1.18", and the state of those not listed.
func up(addr, others string, ports ...string) string {
	out := `<host><status state="up" reason="syn-ack"/><address addr="` + addr + `" addrtype="ipv4"/><ports>`
	if others != "" {
		out += `<extraports state="` + others + `" count="90"/>`
	}
	for _, text := range ports {
		w := append(strings.Fields(text), "", "", "", "")
		out += fmt.Sprintf(`<port protocol="tcp" portid="%s"><state state="%s" reason="syn-ack"/><service name="%s" product="%s" version="%s" method="probed"/></port>`, w[0], w[1], w[2], w[3], w[4])
	}
	return out + `</ports></host>`
}

func down(addr string) string {
	return `<host><status state="down" reason="no-response"/><address addr="` + addr + `" addrtype="ipv4"/></host>`
}

func (j judged) said() string {
	at := j.addr.String()
	if j.port > 0 {
		at += fmt.Sprintf(":%d/%s", j.port, j.proto)
	}
	text := j.kind + " " + at + j.name
	for _, s := range []*seen{j.before, j.after} {
		switch {
		case s == nil:
			text += " -"
		case s.Untrusted != nil:
			text += " " + strings.TrimSpace(strings.Join([]string{s.State, s.Service, s.Untrusted.Product, s.Untrusted.Version, s.Untrusted.Location}, "/"))
		case s.Status > 0:
			text += fmt.Sprintf(" %d", s.Status)
		default:
			text += " " + s.State
		}
	}
	if j.reason != "" {
		text += " " + j.scan + " " + j.reason
	}
	return text
}

func differences(a, b *side) string {
	all, _ := compare(a, b)
	var out []string
	for _, j := range all {
		out = append(out, j.said())
	}
	return strings.Join(out, "\n")
}

func TestWhatTwoScansSayOfEachOther(t *testing.T) {
	words := func(list, status string, complete bool) scanOfTest {
		n := int64(4)
		r := report.Report{Scanner: "gobuster", Finished: true, ExitOK: true, Coverage: report.Coverage{Up: 1, Alive: 1, Whole: true,
			Completed: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, Requests: &report.Requests{Mode: "dir", Asked: n, Made: n}}}
		if !complete {
			r.Coverage.Requests.Failed = 1
		}
		h := report.Host{Addr: netip.MustParseAddr("10.0.0.1"), Status: "up", Ports: []report.Port{}}
		for path, code := range map[string]int{"/same": 200, "/" + status: len(status) * 100} {
			h.Found = append(h.Found, report.Found{Path: path, Status: code})
		}
		r.Hosts = []report.Host{h}
		return scanOfTest{tool: "gobuster_scan", arguments: `{"url":"http://10.0.0.1/"}`, report: &r, verdict: allowed(1, "10.0.0.1/32"), wordlist: &wire.Wordlist{SHA256: list}}
	}
	detects := `{"targets":["10.0.0.0/29"],"ports":[22,80],"service_detection":true}`
	masscan := func(finished bool, ports ...int) scanOfTest {
		h := report.Host{Addr: netip.MustParseAddr("10.0.0.1"), Status: "up", Ports: []report.Port{}}
		for _, p := range ports {
			h.Ports = append(h.Ports, report.Port{Port: p, Proto: "tcp", State: "open"})
		}
		r := report.Report{Scanner: "masscan", Finished: finished, ExitOK: finished, Coverage: report.Coverage{Up: 1, Alive: 1, Whole: finished}, Hosts: []report.Host{h}}
		o := wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 9}}
		if !finished {
			o.Reason = wire.Timeout
		}
		return scanOfTest{tool: "masscan_scan", arguments: `{"targets":["10.0.0.0/29"],"ports":["20-30","udp/53"]}`, report: &r, outcome: o}
	}
	datagrams := func(hosts string) scanOfTest {
		return scanOfTest{arguments: `{"targets":["10.0.0.0/29"],"scan_type":"udp","ports":[161,162]}`, hosts: strings.ReplaceAll(hosts, `protocol="tcp"`, `protocol="udp"`)}
	}
	masscanned := masscan(true)
	masscanned.arguments = `{"targets":["10.0.0.0/29"],"ports":["udp/161"]}`
	moved := words("a", "ab", true)
	moved.report.Hosts[0].Addr, moved.verdict = netip.MustParseAddr("10.0.0.2"), allowed(2, "10.0.0.1/32", "10.0.0.2/32")
	for _, c := range []struct {
		says          string
		before, after scanOfTest
		want          string
	}{
		{"the same is no difference", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh")}, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "22 open ssh")}, ""},
		{"a port that is open now and was listed as closed", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 closed http")}, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")},
			"appeared 10.0.0.1:80/tcp closed open"},
		{"a port that is open now and was among the others", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "filtered")}, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")},
			"appeared 10.0.0.1:80/tcp filtered open"},
		{"a port that is gone", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")}, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "closed")},
			"vanished 10.0.0.1:80/tcp open closed"},
		{"a port that the other did not ask for", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")}, scanOfTest{scans: "22", hosts: up("10.0.0.1", "closed")},
			"not_comparable 10.0.0.1:80/tcp open - after port_not_asked"},
		{"which ports the most common ones were is not known", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")}, scanOfTest{hosts: up("10.0.0.1", "closed")},
			"not_comparable 10.0.0.1:80/tcp open - after ports_unknown"},
		{"ports that were asked for by number are", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")},
			scanOfTest{arguments: `{"targets":["10.0.0.0/29"],"ports":["70-90"]}`, hosts: up("10.0.0.1", "closed")}, "vanished 10.0.0.1:80/tcp open closed"},
		{"a port that an engagement left out", scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")},
			scanOfTest{arguments: `{"targets":["10.0.0.0/29"],"ports":["70-90"]}`, hosts: up("10.0.0.1", "closed"),
				verdict: wire.Verdict{Addresses: []string{"10.0.0.0/29"}, AddressCount: 8, ExcludedPorts: []string{"80"}, ExcludedPortsCount: 1}}, "not_comparable 10.0.0.1:80/tcp open - after port_not_asked"},
		{"a host that the other did not come to", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")}, scanOfTest{scans: "22", hosts: ""},
			"not_comparable 10.0.0.1:22/tcp open - after not_reached"},
		{"a host that the other was not to scan", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")}, scanOfTest{scans: "22", verdict: allowed(1, "10.0.0.2/32"), hosts: up("10.0.0.2", "closed")},
			"not_comparable 10.0.0.1:22/tcp open - after not_asked"},
		{"a host that a rule left out of the other", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")},
			scanOfTest{scans: "22", verdict: wire.Verdict{Addresses: []string{"10.0.0.2/32"}, AddressCount: 1, Excluded: []wire.Exclusion{{Prefix: "10.0.0.1/32"}}, ExcludedCount: 1}, hosts: up("10.0.0.2", "closed")},
			"not_comparable 10.0.0.1:22/tcp open - after excluded"},
		{"a host that was given up", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")},
			scanOfTest{scans: "22", hosts: `<host timedout="true"><status state="up" reason="syn-ack"/><address addr="10.0.0.1" addrtype="ipv4"/></host>`},
			"not_comparable 10.0.0.1:22/tcp open - after timed_out"},
		{"a host that is down has vanished, and nobody looked at its ports", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")}, scanOfTest{scans: "22", hosts: down("10.0.0.1")},
			"vanished 10.0.0.1 up down\nnot_comparable 10.0.0.1:22/tcp open - after down"},
		{"and the other way round", scanOfTest{scans: "22", hosts: down("10.0.0.1")}, scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")},
			"appeared 10.0.0.1 down up\nnot_comparable 10.0.0.1:22/tcp - open before down"},
		{"a scan of which packets were dropped says nothing by silence", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")},
			scanOfTest{scans: "22", hosts: up("10.0.0.1", "filtered"), outcome: wire.Outcome{Reason: wire.Exited, Usage: wire.Usage{SentPackets: 10, OverRate: 1}}},
			"not_comparable 10.0.0.1:22/tcp open - after over_rate"},
		{"nor does one that sent nothing", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")},
			scanOfTest{scans: "22", hosts: up("10.0.0.1", "filtered"), outcome: wire.Outcome{Reason: wire.Exited}}, "not_comparable 10.0.0.1:22/tcp open - after nothing_sent"},
		{"a port of which nothing is known is not gone", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")}, scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open|filtered ssh")},
			"not_comparable 10.0.0.1:22/tcp open open|filtered after undecided"},
		{"nor is one among many of which nothing is known", datagrams(up("10.0.0.1", "", "161 open snmp")), datagrams(up("10.0.0.1", "open|filtered")),
			"not_comparable 10.0.0.1:161/udp open open|filtered after undecided"},
		{"whatever the state of others of them is", datagrams(up("10.0.0.1", "", "161 open snmp")), datagrams(strings.Replace(up("10.0.0.1", "open|filtered"), "<extraports", `<extraports state="closed" count="3"/><extraports`, 1)),
			"not_comparable 10.0.0.1:161/udp open - after undecided"},
		{"but one that is closed", datagrams(up("10.0.0.1", "", "161 open snmp")), datagrams(up("10.0.0.1", "closed")), "vanished 10.0.0.1:161/udp open closed"},
		{"masscan has no sign of closed datagram ports", datagrams(up("10.0.0.1", "", "161 open snmp")), masscanned, "not_comparable 10.0.0.1:161/udp open - after undecided"},
		{"ports that are closed in both are no findings", scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 closed ssh")}, scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 filtered ssh")}, ""},
		{"another version of the service", scanOfTest{arguments: detects, scans: "22,80", hosts: up("10.0.0.1", "", "80 open http nginx 1.18")}, scanOfTest{arguments: detects, scans: "22,80", hosts: up("10.0.0.1", "", "80 open http nginx 1.20")},
			"changed 10.0.0.1:80/tcp open/http/nginx/1.18/ open/http/nginx/1.20/"},
		{"a version that the other did not ask for", scanOfTest{arguments: detects, scans: "22,80", hosts: up("10.0.0.1", "", "80 open http nginx 1.18")}, scanOfTest{scans: "22,80", hosts: up("10.0.0.1", "", "80 open http")},
			"not_comparable 10.0.0.1:80/tcp open/http/nginx/1.18/ open after service_not_asked"},
		{"a whole scan by masscan looked at all that it does not list", masscan(true, 22, 25), masscan(true, 22), "vanished 10.0.0.1:25/tcp open -"},
		{"one that was cut did not", masscan(true, 22, 25), masscan(false, 22), "not_comparable 10.0.0.1:25/tcp open - after not_reached"},
		{"nmap's and masscan's ports are compared", scanOfTest{scans: "25,80", hosts: up("10.0.0.1", "", "25 open smtp", "80 open http")}, masscan(true, 22),
			"not_comparable 10.0.0.1:22/tcp - open before port_not_asked\nvanished 10.0.0.1:25/tcp open -\nnot_comparable 10.0.0.1:80/tcp open - after port_not_asked"},
		{"paths, of the same words", words("a", "ab", true), words("a", "abc", true), "vanished 10.0.0.1/ab 200 -\nappeared 10.0.0.1/abc - 300"},
		{"paths, of other words", words("a", "ab", true), words("b", "same", true),
			"not_comparable 10.0.0.1/ab 200 - after other_words\nchanged 10.0.0.1/same 200 400"},
		{"paths, and not all words had an answer", words("a", "ab", true), words("a", "same", false), "not_comparable 10.0.0.1/ab 200 - after not_complete\nchanged 10.0.0.1/same 200 400"},
		{"paths, and the name leads elsewhere", words("a", "ab", true), moved,
			"not_comparable 10.0.0.1/ab 200 - after not_asked\nnot_comparable 10.0.0.1/same 200 - after not_asked\nnot_comparable 10.0.0.2/ab - 200 before not_asked\nnot_comparable 10.0.0.2/same - 200 before not_asked"},
		{"paths and ports", words("a", "ab", true), scanOfTest{scans: "22", hosts: up("10.0.0.1", "", "22 open ssh")},
			"not_comparable 10.0.0.1/ab 200 - after no_words\nnot_comparable 10.0.0.1/same 200 - after no_words\nnot_comparable 10.0.0.1:22/tcp - open before no_ports"},
	} {
		got := differences(sideOfTest(t, c.before), sideOfTest(t, c.after))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.says, diff)
		}
	}
}

// randomScan is a scan of a few hosts, of which it did not look at everything.
func randomScan(t *testing.T, random *rand.Rand) *side {
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	c := scanOfTest{scans: pick("22", "22,80", "22,80,443", ""), arguments: pick("", `{"targets":["10.0.0.0/29"],"ports":[22,80],"service_detection":true}`)}
	for i := range 5 {
		addr := fmt.Sprintf("10.0.0.%d", i)
		switch random.IntN(5) {
		case 0:
			c.hosts += down(addr)
		case 1:
			c.hosts += `<host timedout="true"><status state="up" reason="syn-ack"/><address addr="` + addr + `" addrtype="ipv4"/></host>`
		case 2:
		default:
			var ports []string
			for _, port := range []string{"22", "80", "443"} {
				if random.IntN(2) == 0 {
					ports = append(ports, port+" "+pick("open", "open", "closed", "filtered", "open|filtered")+" "+pick("http", "ssh")+pick("", " nginx 1.18", " nginx 1.20"))
				}
			}
			c.hosts += up(addr, pick("", "closed", "filtered", "open|filtered"), ports...)
		}
	}
	if random.IntN(6) == 0 {
		c.outcome = wire.Outcome{Reason: pick(wire.Timeout, wire.Exited), Usage: wire.Usage{SentPackets: 9, OverRate: uint64(random.IntN(2))}}
	}
	if random.IntN(4) == 0 {
		c.verdict = allowed(2, "10.0.0.0/31")
	}
	return sideOfTest(t, c)
}

// What is said of two scans is the mirror of what is said of them the other way round; a scan differs from itself in
// nothing; and nothing is said to have come or gone where the other did not look.
func TestDifferencesMirror(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	mirrored := map[string]string{appeared: vanished, vanished: appeared, changed: changed, notComparable: notComparable}
	otherScan := map[string]string{"before": "after", "after": "before"}
	for range 400 {
		a, b := randomScan(t, random), randomScan(t, random)
		if got := differences(a, a); got != "" {
			t.Fatalf("seed %d: a scan differs from itself:\n%s", seed, got)
		}
		there, same := compare(a, b)
		back, sameBack := compare(b, a)
		for i := range back {
			j := &back[i]
			j.kind, j.before, j.after = mirrored[j.kind], j.after, j.before
			j.scan = otherScan[j.scan]
		}
		if diff := cmp.Diff(there, back, cmp.AllowUnexported(judged{}, spot{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" || same != sameBack {
			t.Fatalf("seed %d: not the mirror (%d and %d alike):\n%s", seed, same, sameBack, diff)
		}
		for _, j := range there {
			other := b
			if j.kind == appeared {
				other = a
			}
			if (j.kind == appeared || j.kind == vanished) && !j.isHost() && (!other.through.has(j.addr) || other.down.has(j.addr) || other.Silence != "" || other.port(j.proto, j.port) != "" && !lists(other, j.spot)) {
				t.Fatalf("seed %d: %s, and the other scan did not look", seed, j.said())
			}
		}
	}
}

func lists(d *side, at spot) bool { _, is := d.found[at]; return is }

// Counts come first, pages are whole and bounded, and an answer about a scan that was not complete says so.
func TestDifferencesComePageByPage(t *testing.T) {
	var before, after string
	for i := range 5 {
		var ports []string
		for p := range 60 {
			ports = append(ports, fmt.Sprintf("%d open http %s", p+1, strings.Repeat("x", 200)))
		}
		before += up(fmt.Sprintf("10.0.0.%d", i), "", ports...)
		after += up(fmt.Sprintf("10.0.0.%d", i), "closed")
	}
	all := make([]string, 60)
	for i := range all {
		all[i] = fmt.Sprint(i + 1)
	}
	scans := strings.Join(all, ",")
	a, b := sideOfTest(t, scanOfTest{scans: scans, hosts: before}), sideOfTest(t, scanOfTest{scans: scans, hosts: after, verdict: allowed(5, "10.0.0.0/30", "10.0.0.4/32")})
	from, seen := 0, 0
	for range 100 {
		d := diffAnswer(a, b, vanished, from, 100)
		if d.Vanished != 300 || d.Page.Total != 300 || d.Notice == "" || !strings.Contains(d.Next, "not complete") || d.Before.Complete || !d.After.Complete {
			t.Fatalf("%+v", d)
		}
		if n := len(encode(d)); n > pageBytes+4<<10 {
			t.Errorf("an answer of %d bytes", n)
		}
		seen += len(d.Changes)
		m := diffCursor.FindStringSubmatch(d.Page.Next)
		if m == nil {
			break
		}
		if m[4] != ".v" {
			t.Error(d.Page.Next)
		}
		if _, err := fmt.Sscan(m[3], &from); err != nil || from != seen {
			t.Fatal(d.Page.Next, seen)
		}
	}
	if seen != 300 {
		t.Errorf("%d were seen", seen)
	}
	d := diffAnswer(b, a, "", 0, 1)
	if d.Appeared != 300 || d.Changes[0].Kind != appeared {
		t.Errorf("%+v", d)
	}
	nothing := sideOfTest(t, scanOfTest{report: &report.Report{Hosts: []report.Host{}}, outcome: wire.Outcome{Reason: wire.Launch}})
	d = diffAnswer(a, nothing, "", 0, 5)
	if d.Vanished != 0 || d.NotComparable != 300 || len(d.Reasons) != 1 || d.Reasons[0] != (reasonCount{"after", notSent, 300}) || !strings.Contains(d.Next, "Nothing can be compared: after sent nothing.") {
		t.Errorf("a scan that failed: %+v", d)
	}
	if d := diffAnswer(nothing, nothing, "", 0, 5); !strings.Contains(d.Next, "before and after sent nothing") {
		t.Errorf("two scans that failed: %+v", d)
	}
	if !slices.Contains(reasons, d.Reasons[0].Reason) {
		t.Error(d.Reasons)
	}
}
