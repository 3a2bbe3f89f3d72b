package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/secmcpd/secmcpd/runners/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Answers as the front gives them, without their hosts.
const (
	about = `"job_id":"abcdefghijklmnopqrstuvwx23","engagement":"lab","rule":"lab: targets[0]","created":"2026-03-01T09:59:58Z",` +
		`"network":{"mode":"translated","filter":"bpf"},"usage":{"sent_packets":1200,"received_packets":900},"not_enforced":[]`
	complete = `{"scanner":{"tool":"nmap","version":"7.93","sha256":"00ff"},` + about + `,"status":"completed","tool":"nmap_scan","profile":"standard","started":"2026-03-01T10:00:00Z","ended":"2026-03-01T10:01:30Z","end":{"reason":"exited","exit_code":0},` +
		`"arguments":{"targets":["10.77.0.0/24"],"profile":"standard"},"summary":{"hosts_up":2,"open_ports":4,"complete":true},` +
		`"coverage":{"asked":254,"excluded":2,"exclusions":[{"prefix":"10.77.0.1/32","rule":"lab: exclude[0]"}],"up":3,"down":251,"silent":1,"timed_out":0,"not_reached":0,"probed":254,` +
		`"addresses":{"completed":{"count":254,"prefixes":["10.77.0.0/24"]},"timed_out":{"count":0,"prefixes":[]},"not_reached":{"count":0,"prefixes":[]}},"excluded_ports":["tcp/9100"],"dropped_packets":0,"complete":true}}`
	cutShort = `{"scanner":{"tool":"masscan","version":"1.3.2"},` + about + `,"status":"partial","tool":"masscan_scan","profile":"quick","started":"2026-03-01T10:00:00Z","ended":"2026-03-01T10:05:00Z","end":{"reason":"timeout"},` +
		`"arguments":{"targets":["10.77.0.0/16"]},"summary":{"hosts_up":2,"open_ports":3,"complete":false},` +
		`"coverage":{"asked":65536,"excluded":0,"exclusions":[],"up":2,"down":0,"silent":0,"timed_out":1,"not_reached":65533,"probed":3,` +
		`"addresses":{"completed":{"count":2,"prefixes":["10.77.0.2/31"]},"timed_out":{"count":1,"prefixes":["10.77.0.9/32"]},"not_reached":{"count":65533,"prefixes":["10.77.0.0/31"],"more":true}},` +
		`"dropped_packets":7,"over_rate_packets":12,"cut_by":"timeout","second_pass":{"status":"completed","agreed":false,"only_first":{"count":1,"ports":["10.77.0.3 80/tcp"]},"only_second":{"count":0,"ports":[]}},` +
		`"verification":[{"status":"completed","asked":3,"open":2,"not_open":{"count":1,"ports":["10.77.0.2 443/tcp closed"]},"unknown":0}],"complete":false}}`
	refusedOne = `{` + about + `,"status":"refused","tool":"nmap_scan","profile":"quick","arguments":{"targets":["8.8.8.8"]},"ended":"2026-03-01T10:00:00Z","end":{"reason":"refused"},` +
		`"error":{"code":"target_out_of_scope","field":"targets[0]","reason":"no engagement of yours has it","hint":"ask the operator","retryable":false}}`
	failedOne = `{` + about + `,"status":"failed","tool":"nmap_scan","profile":"quick","started":"2026-03-01T10:00:00Z","ended":"2026-03-01T10:00:00.2Z","end":{"reason":"exited","exit_code":1,"scanner_error":"route"},` +
		`"arguments":{"targets":["10.77.0.0/24"]},"summary":{"hosts_up":0,"open_ports":0,"complete":false},` +
		`"coverage":{"asked":256,"excluded":0,"exclusions":[],"up":0,"down":0,"silent":0,"timed_out":0,"not_reached":256,"addresses":{"completed":{"count":0,"prefixes":[]},"timed_out":{"count":0,"prefixes":[]},` +
		`"not_reached":{"count":256,"prefixes":["10.77.0.0/24"]}},"dropped_packets":0,"complete":false}}`
	nobody = `{"scanner":{"tool":"nmap","version":"7.93"},` + about + `,"status":"completed","tool":"nmap_scan","profile":"discovery","started":"2026-03-01T10:00:00Z","ended":"2026-03-01T10:00:09Z",` +
		`"end":{"reason":"exited","exit_code":0},"arguments":{"targets":["10.77.3.0/24"]},"summary":{"hosts_up":0,"open_ports":0,"complete":true},` +
		`"coverage":{"asked":256,"excluded":0,"exclusions":[],"up":0,"down":256,"silent":0,"timed_out":0,"not_reached":0,"addresses":{"completed":{"count":256,"prefixes":["10.77.3.0/24"]},` +
		`"timed_out":{"count":0,"prefixes":[]},"not_reached":{"count":0,"prefixes":[]}},"dropped_packets":0,"complete":true}}`
	byWords = `{"scanner":{"tool":"gobuster","version":"3.5"},` + about + `,"status":"completed","tool":"gobuster_scan","profile":"quick","started":"2026-03-01T10:00:00Z","ended":"2026-03-01T10:00:30Z","end":{"reason":"exited","exit_code":0},` +
		`"arguments":{"mode":"dir","url":"https://www.lab.internal:8443/app"},"summary":{"hosts_up":1,"open_ports":1,"found":3,"complete":true},` +
		`"coverage":{"asked":1,"excluded":0,"exclusions":[],"up":1,"down":0,"silent":0,"timed_out":0,"not_reached":0,"addresses":{"completed":{"count":1,"prefixes":["10.77.0.10/32"]},"timed_out":{"count":0,"prefixes":[]},` +
		`"not_reached":{"count":0,"prefixes":[]}},"dropped_packets":0,"requests":{"asked":220,"made":220,"unanswered":0,"found":3},"complete":true}}`
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// hostile is what a host could send to each of the forms, after the parser has cleaned it.
const hostile = `=HYPERLINK("http://a/","x") </pre><script>alert(1)</script> [a](http://a/) {0} ]]> --> "'&amp;`

func hosts() []report.Host {
	return []report.Host{
		{Addr: addr("10.77.0.10"), Status: "up", Reason: "syn-ack", OS: []report.OS{{Name: "Linux 5.4", Accuracy: 96}}, Ports: []report.Port{
			{Port: 22, Proto: "tcp", State: "open", Reason: "syn-ack", Service: "ssh", Method: "probed", Untrusted: &report.PortText{Product: "OpenSSH", Version: "9.2p1", Extra: "protocol 2.0", OS: "Linux", CPE: []string{"cpe:/a:openbsd:openssh:9.2p1"}}},
			{Port: 80, Proto: "tcp", State: "open", Reason: "syn-ack", Service: "http", Method: "probed", Untrusted: &report.PortText{Product: hostile, Scripts: []report.Script{{Name: "http-title", Output: hostile}}}},
			{Port: 443, Proto: "tcp", State: "open", Reason: "syn-ack", Service: "http", Tunnel: "ssl", Method: "table"},
			{Port: 139, Proto: "tcp", State: "closed", Reason: "reset", Service: "netbios-ssn", Method: "table"},
		}, Others: []report.Others{{State: "filtered", Count: 996}}, Untrusted: &report.HostText{Scripts: []report.Script{{Name: "nbstat", Output: "NetBIOS name: LAB"}}}},
		{Addr: addr("fd00:77::10"), Status: "up", MAC: "02:00:00:00:00:01", Vendor: "Unknown", Ports: []report.Port{{Port: 53, Proto: "udp", State: "open|filtered", Reason: "no-response", Service: "domain", Method: "table"}}},
		{Addr: addr("10.77.0.11"), Status: "up", Reason: "user-set", Silent: true, Ports: []report.Port{}},
	}
}

func wordsFound() []report.Host {
	return []report.Host{{Addr: addr("10.77.0.10"), Status: "up", Ports: []report.Port{{Port: 8443, Proto: "tcp", State: "open"}}, Found: []report.Found{
		{Path: "/admin", Status: 301, Size: 2, Untrusted: &report.FoundText{Location: hostile}},
		{Path: "/a b?c", Status: 200, Size: 1234},
		{Name: "dev.lab.internal", Addresses: []netip.Addr{addr("10.77.0.12")}},
	}}}
}

func masscanFound() []report.Host {
	return []report.Host{
		{Addr: addr("10.77.0.2"), Status: "up", Ports: []report.Port{{Port: 80, Proto: "tcp", State: "open"}, {Port: 443, Proto: "tcp", State: "open"}}},
		{Addr: addr("10.77.0.3"), Status: "up", Ports: []report.Port{{Port: 80, Proto: "tcp", State: "open"}}},
		{Addr: addr("10.77.0.9"), Status: "up", TimedOut: true, Ports: []report.Port{}},
	}
}

var cases = []struct {
	name, answer string
	hosts        []report.Host
}{
	{"complete", complete, hosts()},
	{"cut", cutShort, masscanFound()},
	{"refused", refusedOne, nil},
	{"failed", failedOne, nil},
	{"words", byWords, wordsFound()},
	{"empty", nobody, nil},
}

func read(t testing.TB, answer string, hosts []report.Host) *Scan {
	t.Helper()
	s, err := Read(json.RawMessage(answer), hosts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func written(t testing.TB, f Format, s *Scan) string {
	t.Helper()
	var b bytes.Buffer
	if err := f.Write(&b, s); err != nil {
		t.Fatalf("%s: %v", f.Word, err)
	}
	return b.String()
}

func TestGoldenFiles(t *testing.T) {
	for _, c := range cases {
		s := read(t, c.answer, c.hosts)
		for _, f := range Of(s.Tool) {
			path := "testdata/" + c.name + "." + f.Name
			got := written(t, f, s)
			if got != written(t, f, read(t, c.answer, c.hosts)) {
				t.Errorf("%s: not the same twice", path)
			}
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", path, diff)
			}
		}
	}
}

// A scan that failed, was refused or was cut says so in each form, where its readers look.
func TestEachFormSaysWhatTheResultIsWorth(t *testing.T) {
	for _, c := range cases {
		s := read(t, c.answer, c.hosts)
		whole := c.name == "complete" || c.name == "words" || c.name == "empty"
		if s.Complete() != whole {
			t.Errorf("%s: complete %v", c.name, s.Complete())
		}
		for _, f := range Of(s.Tool) {
			got := written(t, f, s)
			says := false
			switch f.Word {
			case "html":
				says = strings.Contains(got, `class="verdict good"`)
			case "jsonl":
				lines := strings.Split(strings.TrimSpace(got), "\n")
				var first, last struct {
					Record   string
					Complete bool
				}
				if json.Unmarshal([]byte(lines[0]), &first) != nil || json.Unmarshal([]byte(lines[len(lines)-1]), &last) != nil || first.Record != "job" || last.Record != "coverage" || first.Complete != last.Complete {
					t.Errorf("%s: first %+v, last %+v", c.name, first, last)
				}
				says = last.Complete
			case "csv":
				rows, err := csv.NewReader(strings.NewReader(got)).ReadAll()
				if err != nil || rows[1][0] != "job" || rows[len(rows)-1][0] != "coverage" {
					t.Fatalf("%s: %v, %v", c.name, rows, err)
				}
				says = rows[len(rows)-1][4] == "complete"
			case "sarif":
				says = strings.Contains(got, `"executionSuccessful":true`)
			case "xml":
				says = strings.Contains(got, ` exit="success"`)
			}
			if says != whole {
				t.Errorf("%s as %s says that it is complete: %v\n%s", c.name, f.Word, says, got)
			}
			if !whole && !strings.Contains(got, "no result about the targets") && !strings.Contains(got, "nown") {
				t.Errorf("%s as %s does not say what is not known", c.name, f.Word)
			}
		}
	}
}

// elements is a page as the parser of browsers sees it, without its texts: what is there to act.
func elements(t testing.TB, page string) (tags []string, style, policy string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) {
				t.Fatal(z.Err())
			}
			return tags, style, policy
		case html.StartTagToken, html.SelfClosingTagToken:
			token := z.Token()
			tag := token.Data
			for _, a := range token.Attr {
				tag += " " + a.Key
				if a.Key == "content" && strings.HasPrefix(a.Val, "default-src") {
					policy = a.Val
				}
			}
			tags = append(tags, tag)
			if token.Data == "style" && z.Next() == html.TextToken {
				style = string(z.Text())
			}
		}
	}
}

// What a page is made of does not depend on what hosts say, has nothing that acts or is loaded, and its policy is that
// of its own style sheet.
func TestAPageHasNothingThatActs(t *testing.T) {
	page := written(t, formats[0], read(t, complete, hosts()))
	tags, style, policy := elements(t, page)
	for _, tag := range tags {
		name, attributes, _ := strings.Cut(tag, " ")
		if slices.Contains([]string{"script", "a", "link", "img", "iframe", "object", "embed", "base", "form", "input", "image", "use", "foreignobject"}, name) {
			t.Errorf("<%s> is on the page", tag)
		}
		for _, a := range strings.Fields(attributes) {
			if a == "style" || a == "href" || a == "src" || a == "xlink:href" || a == "srcset" || strings.HasPrefix(a, "on") {
				t.Errorf("<%s> is on the page", tag)
			}
		}
	}
	if strings.Contains(style, "url(") || strings.Contains(style, "@import") {
		t.Error("the style sheet loads something")
	}
	if want := "default-src 'none'; style-src '" + hashOf(style) + "'; base-uri 'none'; form-action 'none'"; policy != want {
		t.Errorf("the policy is %s, not %s", policy, want)
	}
}

// The schema of SARIF itself is large; this is what it requires of what is written here.
func TestSARIFHasWhatItsSchemaRequires(t *testing.T) {
	for _, c := range cases {
		var log struct {
			Schema  string `json:"$schema"`
			Version string
			Runs    []struct {
				Tool struct {
					Driver struct {
						Name, InformationURI string
						Rules                []struct {
							ID               string
							ShortDescription struct{ Text string }
						}
					}
				}
				Invocations []struct {
					ExecutionSuccessful        *bool
					ToolExecutionNotifications []struct {
						Level   string
						Message struct{ Text string }
					}
				}
				ColumnKind string
				Results    []struct {
					RuleID    string
					RuleIndex int
					Level     string
					Message   struct{ Text string }
					Locations []struct {
						PhysicalLocation struct {
							ArtifactLocation struct{ URI string }
						}
					}
					PartialFingerprints map[string]string
				}
			}
		}
		text := written(t, formats[3], read(t, c.answer, c.hosts))
		d := json.NewDecoder(strings.NewReader(text))
		if err := d.Decode(&log); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, text)
		}
		if log.Version != "2.1.0" || log.Schema != sarifSchema || len(log.Runs) != 1 {
			t.Fatalf("%s: %+v", c.name, log)
		}
		run := log.Runs[0]
		if run.Tool.Driver.Name == "" || run.ColumnKind != "utf16CodeUnits" || len(run.Invocations) != 1 || run.Invocations[0].ExecutionSuccessful == nil || run.Results == nil {
			t.Errorf("%s: %+v", c.name, run)
		}
		for _, n := range run.Invocations[0].ToolExecutionNotifications {
			if n.Message.Text == "" || !slices.Contains([]string{"none", "note", "warning", "error"}, n.Level) {
				t.Errorf("%s: %+v", c.name, n)
			}
		}
		seen := map[string]bool{}
		for _, r := range run.Results {
			print := r.PartialFingerprints["secmcpd/v1"]
			if r.Message.Text == "" || r.RuleIndex < 0 || r.RuleIndex >= len(run.Tool.Driver.Rules) || run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID || r.Level != "note" || len(r.Locations) != 1 ||
				r.Locations[0].PhysicalLocation.ArtifactLocation.URI == "" || print == "" || seen[print] {
				t.Errorf("%s: %+v", c.name, r)
			}
			seen[print] = true
			if strings.ContainsAny(strings.NewReplacer(`\[`, "", `\]`, "", "{{", "", "}}", "").Replace(r.Message.Text), "[]{}") {
				t.Errorf("%s: a message has a link: %s", c.name, r.Message.Text)
			}
		}
	}
}

// What nmap's own reader would see of it is what is in the report.
func TestXMLIsReadAsNmapsIs(t *testing.T) {
	whole := read(t, complete, hosts())
	r, err := report.ParseNmap(strings.NewReader(written(t, formats[4], whole)), nil)
	if err != nil || !r.Finished || !r.ExitOK || len(r.Hosts) != len(whole.Hosts) || r.Version != "7.93" {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, h := range r.Hosts {
		want := whole.Hosts[i]
		if i == 2 {
			h.Silent = want.Silent // the reason alone tells, and counts
		}
		if h.Untrusted == nil && len(h.Ports) == 0 {
			h.Ports = want.Ports
		}
		if diff := cmp.Diff(want.Ports, h.Ports); diff != "" || h.Addr != want.Addr || fmt.Sprint(h.Others, h.OS, h.Untrusted == nil) != fmt.Sprint(want.Others, want.OS, want.Untrusted == nil) {
			t.Errorf("%v\n%s", h, diff)
		}
	}
	cut, err := report.ParseNmap(strings.NewReader(written(t, formats[4], read(t, cutShort, masscanFound()))), nil)
	if err != nil || cut.ExitOK || cut.Coverage.TimedOut != 1 {
		t.Errorf("%+v, %v", cut, err)
	}
}

func TestNoCellIsAFormula(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "nginx": "nginx", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1", "\r=1": "'\r=1", " =1": "' =1", "'=1": "''=1", `"=1`: `'"=1`,
		"＝1": "'＝1", "\n=1": "'\n=1", "10.0.0.1": "10.0.0.1", "fd00::1": "fd00::1", "::1": "::1", "a=1": "a=1", "/admin": "/admin", "%0|x": "'%0|x",
	} {
		if got := cell(text); got != want {
			t.Errorf("%q is written as %q, not %q", text, got, want)
		}
	}
}

// Whatever hosts say stays where it is quoted: no form changes its shape by it, and each reads back what was said.
func FuzzHostileTextStaysInItsPlace(f *testing.F) {
	f.Add(hostile, hostile)
	f.Add("</style><style>*{}", "<svg onload=alert(1)>")
	f.Add("\",\"results\":[", "a,b\r\nc")
	f.Add("{{.Style}}", "<!--")
	f.Add("\x00\x1b[31m\u202e", "]]>&#x3c;")
	scan := func(t testing.TB, a, b string) *Scan {
		all := hosts()
		all[0].Ports[1].Untrusted = &report.PortText{Product: a, Version: b, Extra: a, Hostname: b, OS: a, Device: b, CPE: []string{a}, Scripts: []report.Script{{Name: "http-title", Output: b}}}
		all[0].Untrusted.Scripts[0].Output = a
		all[0].Found = []report.Found{{Path: "/x", Status: 301, Untrusted: &report.FoundText{Location: b}}}
		return read(t, complete, all)
	}
	calm := scan(f, "x", "y")
	shape, _, _ := elements(f, written(f, formats[0], calm))
	rows := strings.Count(written(f, formats[2], calm), "\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		a, b = report.Sanitise(a), report.Sanitise(b)
		if a == "" || b == "" {
			return // what is empty is left out
		}
		s := scan(t, a, b)
		if got, _, _ := elements(t, written(t, formats[0], s)); !slices.Equal(got, shape) {
			t.Errorf("%q, %q change the page to %v", a, b, got)
		}
		got := written(t, formats[1], s)
		if n := strings.Count(got, "\n"); n != len(s.Hosts)+2 {
			t.Errorf("%d lines", n)
		}
		table, err := csv.NewReader(strings.NewReader(written(t, formats[2], s))).ReadAll()
		if err != nil || len(table) != rows {
			t.Fatalf("%d rows, %v", len(table), err)
		}
		for _, row := range table {
			for _, c := range row {
				if cell(c) != c && !strings.HasPrefix(c, "'") {
					t.Errorf("a formula: %q", c)
				}
			}
		}
		if !json.Valid([]byte(written(t, formats[3], s))) {
			t.Error("the SARIF is no JSON")
		}
		back, err := report.ParseNmap(strings.NewReader(written(t, formats[4], s)), nil)
		if err != nil || !back.Finished || len(back.Hosts) != len(s.Hosts) || back.Hosts[0].Ports[1].Untrusted.Product != report.Sanitise(a) {
			t.Errorf("the XML reads back %+v, %v", back, err)
		}
	})
}

// many is a scan of so many hosts, which share their ports: what it takes to write them is not theirs.
func many(t testing.TB, n int) *Scan {
	all := make([]report.Host, n)
	like := hosts()[0]
	like.Ports, like.Untrusted = like.Ports[:1], nil
	for i := range all {
		all[i] = like
		all[i].Addr = netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
	}
	return read(t, complete, all)
}

// 65,536 hosts are written in memory that does not grow with them.
func TestMemoryDoesNotGrowWithTheHosts(t *testing.T) {
	s := many(t, 65536)
	for _, f := range formats {
		w := &highest{}
		runtime.GC()
		runtime.ReadMemStats(&w.stats)
		before := w.stats.HeapAlloc
		if err := f.Write(w, s); err != nil {
			t.Fatal(err)
		}
		grown := (int64(w.most) - int64(before)) >> 20
		t.Logf("%s: %d MiB written, the heap grew by %d MiB", f.Word, w.n>>20, grown)
		if grown > 24 {
			t.Errorf("%s: the heap grew by %d MiB", f.Word, grown)
		}
	}
}

// highest notes how large the heap became while it was written to.
type highest struct {
	n     int64
	next  int64
	most  uint64
	stats runtime.MemStats
}

func (h *highest) Write(b []byte) (int, error) {
	h.n += int64(len(b))
	if h.n >= h.next {
		h.next += 4 << 20
		runtime.GC() // what is kept, not what was let go
		runtime.ReadMemStats(&h.stats)
		h.most = max(h.most, h.stats.HeapAlloc)
	}
	return len(b), nil
}

// A writer that fails ends it, in each form.
func TestAFullDiskIsTold(t *testing.T) {
	s := many(t, 500)
	full := errors.New("no space left")
	for _, f := range formats {
		for _, room := range []int{0, 10, 40 << 10} {
			if err := f.Write(&small{room, full}, s); !errors.Is(err, full) {
				t.Errorf("%s with room for %d: %v", f.Word, room, err)
			}
		}
	}
}

type small struct {
	room int
	full error
}

func (s *small) Write(b []byte) (int, error) {
	if s.room -= len(b); s.room < 0 {
		return 0, s.full
	}
	return len(b), nil
}

func TestWellFormedXMLForAnyState(t *testing.T) {
	for _, c := range cases {
		d := xml.NewDecoder(strings.NewReader(written(t, formats[4], read(t, c.answer, c.hosts))))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
	}
}
