package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fpingForm and sslscanForm are those of the examples that are shipped.
func fpingForm() Form {
	return Form{Scanner: "fping_scan", Lines: []Line{{Pattern: regexp.MustCompile(`^(?P<host>[0-9a-f.:]{2,39}) is (?P<state>alive|unreachable)$`)}},
		States: map[string]string{"alive": "up", "unreachable": "down"}, Failed: regexp.MustCompile(`: error while sending `), Statuses: []int{0, 1}}
}

func sslscanForm() Form {
	open := map[string]string{"state": "open"}
	return Form{Scanner: "sslscan_scan", Whole: true, Failed: regexp.MustCompile(`^ERROR: `), Statuses: []int{0}, Only: netip.MustParseAddrPort("127.0.0.1:4443"),
		Lines: []Line{
			{regexp.MustCompile(`^Testing SSL server (?P<host>[0-9a-f.:]{2,39}) on port (?P<port>[0-9]{1,5}) `), map[string]string{"state": "open", "service": "ssl"}},
			{regexp.MustCompile(`^(?P<version>(?:SSLv[23]|TLSv1\.[0-3]) +(?:enabled|disabled))$`), open},
			{regexp.MustCompile(`^(?P<cipher>(?:Preferred|Accepted) +.+?) *$`), open},
			{regexp.MustCompile(`^(?P<subject>Subject: +.+)$`), open},
		}}
}

func jsonForm() Form {
	return Form{Scanner: "all_scan", Whole: true, Statuses: []int{0}, JSON: map[string]string{"host": "ip", "port": "port", "protocol": "proto", "state": "state", "banner": "data.banner"}}
}

func parseDeclared(t testing.TB, form Form, stdout, stderr string) Report {
	t.Helper()
	r, err := ParseDeclared(strings.NewReader(stdout), strings.NewReader(stderr), form, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func captured(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/declared/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFpingByItsDeclaration(t *testing.T) {
	text := captured(t, "fping.txt")
	r := parseDeclared(t, fpingForm(), text, "")
	if got := fmt.Sprint(r.Coverage.Completed, r.Coverage.DownAt, r.Coverage.Up, r.Coverage.Down, r.Finished, len(r.Hosts)); got != "[10.77.0.11/32 10.77.0.12/32 10.77.1.1/32 10.77.1.2/32] [10.77.1.1/32 10.77.1.2/32] 2 2 true 2" {
		t.Error(got)
	}
	for _, end := range []string{"\n", ""} {
		if unsent := parseDeclared(t, fpingForm(), text, "10.77.1.1: error while sending ping: Invalid argument"+end); unsent.Finished || unsent.ErrorClass != ErrorScanner {
			t.Errorf("what was not sent is not down: %+v", unsent)
		}
	}
	// Cut at any byte, what is told is of whole lines, and of no address that they do not name.
	for i := range text {
		cut := parseDeclared(t, fpingForm(), text[:i], "")
		if broken := i > 0 && text[i-1] != '\n'; slices.Contains(cut.Cut, "line") != broken {
			t.Fatalf("%d bytes: cut %v", i, cut.Cut)
		}
		if whole := strings.Count(text[:i], "\n"); cut.Coverage.Up+cut.Coverage.Down != whole || len(cut.Coverage.Completed) != whole {
			t.Fatalf("%d bytes: %+v", i, cut.Coverage)
		}
	}
}

func TestSslscanByItsDeclaration(t *testing.T) {
	text := captured(t, "sslscan.txt")
	r := parseDeclared(t, sslscanForm(), text, "")
	if len(r.Hosts) != 1 || len(r.Hosts[0].Ports) != 1 || !r.Finished || !r.Coverage.Whole || r.Coverage.OpenPorts != 1 {
		t.Fatalf("%+v", r)
	}
	p := r.Hosts[0].Ports[0]
	names := map[string]int{}
	for _, s := range p.Untrusted.Scripts {
		names[s.Name]++
	}
	if p.Port != 4443 || p.Proto != "tcp" || p.State != "open" || p.Service != "ssl" || fmt.Sprint(names) != "map[cipher:23 subject:1 version:6]" {
		t.Errorf("%+v %v", p, names)
	}
	for i := range text {
		cut := parseDeclared(t, sslscanForm(), text[:i], "")
		for _, h := range cut.Hosts {
			for _, p := range h.Ports {
				if p.Untrusted == nil {
					continue
				}
				for _, s := range p.Untrusted.Scripts {
					if !slices.Contains(r.Hosts[0].Ports[0].Untrusted.Scripts, s) {
						t.Fatalf("%d bytes: %+v is in no whole line", i, s)
					}
				}
			}
		}
	}
	failed := parseDeclared(t, sslscanForm(), "Version: 2.0.7\n", "ERROR: Could not open a connection to host 127.0.0.1 (127.0.0.1) on port 4444.\n")
	if failed.Finished || failed.ExitOK || failed.Coverage.Whole || failed.ErrorClass != ErrorScanner {
		t.Errorf("%+v", failed)
	}
}

func TestDeclaredLines(t *testing.T) {
	asked := fpingForm()
	asked.Asked = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	ended := fpingForm()
	ended.End = regexp.MustCompile(`^done$`)
	onError := fpingForm()
	onError.Stderr = true
	some := jsonForm()
	some.Ports = &AskedPorts{TCP: [][2]uint16{{22, 22}, {80, 90}}, UDP: [][2]uint16{{53, 53}}}
	udp := jsonForm()
	udp.Only, udp.UDP = netip.MustParseAddrPort("10.0.0.5:161"), true
	for _, row := range []struct {
		says           string
		form           Form
		stdout, stderr string
		want           string // hosts and ports; up, down, invalid, finished
	}{
		{"an address twice is one", fpingForm(), "10.0.0.1 is alive\n10.0.0.1 is alive\n", "", "10.0.0.1[]; 1 0 0 true"},
		{"what answered once is up", fpingForm(), "10.0.0.1 is unreachable\n10.0.0.1 is alive\n10.0.0.1 is unreachable\n", "", "10.0.0.1[]; 1 0 0 true"},
		{"an address that was not asked is not believed", asked, "10.0.0.1 is alive\n10.9.9.9 is alive\n10.9.9.8 is unreachable\n", "", "10.0.0.1[]; 1 0 2 true"},
		{"an address that is none", fpingForm(), "999.0.0.1 is alive\n", "", "; 0 0 1 true"},
		{"colours are no part of a line", fpingForm(), "\r\x1b[2K\x1b[32m10.0.0.1\x1b[0m is alive\x1b[0m\n", "", "10.0.0.1[]; 1 0 0 true"},
		{"lines of no form are passed over", fpingForm(), "hello\n\n10.0.0.1 is alive \n", "", "; 0 0 0 true"},
		{"a line that is too long is passed over", fpingForm(), strings.Repeat("10.0.0.2 is alive", 5000) + "\n10.0.0.1 is alive\n", "", "10.0.0.1[]; 1 0 0 true"},
		{"an end that was not said", ended, "10.0.0.1 is alive\n", "", "10.0.0.1[]; 1 0 0 false"},
		{"an end that was said on the other output", ended, "10.0.0.1 is alive\n", "done\n", "10.0.0.1[]; 1 0 0 true"},
		{"standard error", onError, "10.0.0.2 is alive\n", "10.0.0.1 is alive\n", "10.0.0.1[]; 1 0 0 true"},
		{"objects", jsonForm(), `{"ip":"10.0.0.1","port":80,"data":{"banner":"x"}}` + "\n" + `{"ip":"10.0.0.1","port":"53","proto":"UDP","state":"filtered"}` + "\n", "",
			"10.0.0.1[tcp/80 open x, udp/53 filtered]; 1 0 0 true"},
		{"objects that are none", jsonForm(), "{\"ip\":\n[1]\n{\"ip\":{}}\n{\"other\":1}\n", "", "; 0 0 0 true"},
		{"ports that are none", jsonForm(), `{"ip":"10.0.0.1","port":0}` + "\n" + `{"ip":"10.0.0.1","port":65536}` + "\n" + `{"ip":"10.0.0.1","port":-1}` + "\n" + `{"ip":"10.0.0.1","port":80,"proto":"x"}` + "\n" + `{"ip":"10.0.0.1","port":80,"state":"up"}` + "\n", "", "; 0 0 5 true"},
		{"ports that were not asked are not believed", some, `{"ip":"10.0.0.1","port":90}` + "\n" + `{"ip":"10.0.0.1","port":91}` + "\n" + `{"ip":"10.0.0.1","port":80,"proto":"udp"}` + "\n" + `{"ip":"10.0.0.2","port":22,"proto":"sctp"}` + "\n", "",
			"10.0.0.1[tcp/90 open]; 1 0 3 true"},
		{"a port of the only protocol that it was asked in", some, `{"ip":"10.0.0.1","port":53}` + "\n", "", "10.0.0.1[udp/53 open]; 1 0 0 true"},
		{"a state that is none", jsonForm(), `{"ip":"10.0.0.1","state":"rm -rf"}` + "\n", "", "; 0 0 1 true"},
		{"no host and no port: of the only ones that were asked", udp, `{"state":"open","data":{"banner":"b"}}` + "\n", "", "10.0.0.5[udp/161 open b]; 1 0 0 true"},
		{"no host, and more than one was asked", jsonForm(), `{"port":80}` + "\n", "", "; 0 0 1 true"},
		{"text of a host", jsonForm(), `{"ip":"10.0.0.1","data":{"banner":"a\u001b[31mb\u202ec\nd"}}` + "\n", "", "10.0.0.1[] abc d; 1 0 0 true"},
	} {
		r := parseDeclared(t, row.form, row.stdout, row.stderr)
		var hosts []string
		for _, h := range r.Hosts {
			var ports []string
			for _, p := range h.Ports {
				text := fmt.Sprintf("%s/%d %s", p.Proto, p.Port, p.State)
				if p.Untrusted != nil {
					text += " " + p.Untrusted.Scripts[0].Output
				}
				ports = append(ports, text)
			}
			text := h.Addr.String() + "[" + strings.Join(ports, ", ") + "]"
			if h.Untrusted != nil {
				text += " " + h.Untrusted.Scripts[0].Output
			}
			hosts = append(hosts, text)
		}
		c := r.Coverage
		if got := fmt.Sprintf("%s; %d %d %d %v", strings.Join(hosts, " "), c.Up, c.Down, c.Invalid, r.Finished); got != row.want {
			t.Errorf("%s: %s, want %s", row.says, got, row.want)
		}
	}
}

// A flood is read in bounded memory, counted, and said to be cut.
func TestDeclaredFlood(t *testing.T) {
	var b bytes.Buffer
	for i := range 1_000_000 {
		fmt.Fprintf(&b, `{"ip":"10.%d.%d.%d","port":%d,"data":{"banner":"%s"}}`+"\n", i>>16, i>>8&255, i&255, 1+i%60000, strings.Repeat("x", i%7))
	}
	r := parseDeclared(t, jsonForm(), b.String(), "")
	if len(r.Hosts) != maxHosts || r.Coverage.Up > maxCovered || !slices.Contains(r.Cut, "hosts") || !slices.Contains(r.Cut, "coverage") {
		t.Errorf("%d hosts, %d up, cut %v", len(r.Hosts), r.Coverage.Up, r.Cut)
	}
	one := strings.Repeat(`{"ip":"10.0.0.1","port":80,"data":{"banner":"`+strings.Repeat("y", 900)+`"}}`+"\n", 20000)
	r = parseDeclared(t, jsonForm(), one, "")
	if n := len(r.Hosts[0].Ports[0].Untrusted.Scripts); n != maxScripts || !slices.Contains(r.Cut, "texts") {
		t.Errorf("%d texts, cut %v", n, r.Cut)
	}
}

// Whatever a scanner prints, what is kept is clean, bounded, and of addresses that were asked for.
func FuzzParseDeclared(f *testing.F) {
	f.Add([]byte("10.0.0.1 is alive\n"), []byte("ERROR: x\n"))
	f.Add([]byte(`{"ip":"10.0.0.1","port":80,"data":{"banner":"\u001b]0;x\u0007"}}`+"\n"), []byte{})
	f.Add([]byte(captured(f, "sslscan.txt")), []byte{})
	asked := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}
	f.Fuzz(func(t *testing.T, stdout, stderr []byte) {
		for _, form := range []Form{fpingForm(), sslscanForm(), jsonForm()} {
			form.Asked = asked
			r, err := ParseDeclared(bytes.NewReader(stdout), bytes.NewReader(stderr), form, nil)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(r)
			if err != nil || bytes.ContainsAny(text, "\x1b\u202e") {
				t.Errorf("%v %q", err, text)
			}
			for _, h := range r.Hosts {
				if !slices.ContainsFunc(asked, func(p netip.Prefix) bool { return p.Contains(h.Addr) }) {
					t.Errorf("%v was not asked for", h.Addr)
				}
				for _, p := range h.Ports {
					if p.Untrusted == nil {
						continue
					}
					for _, s := range p.Untrusted.Scripts {
						if s.Output != sanitise(s.Output, maxOutput) {
							t.Errorf("%q is not clean", s.Output)
						}
					}
				}
			}
		}
	})
}

// A number is a port of each protocol, and a port of which no text is kept has none.
func TestDeclaredPortsOfEachProtocol(t *testing.T) {
	form := Form{Scanner: "other", Lines: []Line{{Pattern: regexp.MustCompile(`^(?P<host>\S+) (?P<port>\d+)/(?P<protocol>\w+)(?: (?P<banner>.*))?$`)}}}
	r, err := ParseDeclared(strings.NewReader("10.0.0.1 80/tcp\n10.0.0.1 80/sctp \u200b\n10.0.0.1 80/udp hello\n10.0.0.1 80/tcp\n"), strings.NewReader(""), form, nil)
	if err != nil || len(r.Hosts) != 1 || len(r.Hosts[0].Ports) != 3 || r.Coverage.OpenPorts != 3 {
		t.Fatalf("%v: %+v", err, r)
	}
	for _, p := range r.Hosts[0].Ports {
		if (p.Untrusted != nil) != (p.Proto == "udp") {
			t.Errorf("%s: %+v", p.Proto, p.Untrusted)
		}
	}
}
