package runners

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	atSite  = []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32")}
	toNames = &Reach{TCP: [][2]uint16{{53, 53}}, UDP: [][2]uint16{{53, 53}}}
)

func readGobusterCall(t testing.TB, arguments string) Call {
	t.Helper()
	call, faults := Read(gobusterName, []byte(arguments))
	if len(faults) > 0 {
		t.Fatalf("%s: %v", arguments, faults)
	}
	return call
}

func TestGobusterIsRefused(t *testing.T) {
	for _, row := range []struct{ arguments, code, field string }{
		{`{}`, "contradiction", "url"},
		{`{"profile":"dns"}`, "contradiction", "domain"},
		{`{"profile":"vhost","url":"http://10.0.0.5"}`, "contradiction", "domain"},
		{`{"profile":"dns","domain":"lab.internal","url":"http://10.0.0.5"}`, "contradiction", "url"},
		{`{"url":"10.0.0.5"}`, "bad_url", "url"},
		{`{"url":"ftp://10.0.0.5"}`, "bad_url", "url"},
		{`{"url":"http://user@10.0.0.5"}`, "target_url", "url"},
		{`{"url":"http://10.0.0.5/?a=1"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.5/#a"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.5/%2e%2e"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.5/a b"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.5\\@8.8.8.8/"}`, "target_url", "url"},
		{`{"url":"http://10.0.0.5:0/"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.5:080/"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.5:99999/"}`, "bad_url", "url"},
		{`{"url":"http://10.0.0.0/24"}`, "", ""}, // a path
		{`{"url":"http://10.1/"}`, "target_ipv4_form", "url"},
		{`{"url":"http://0x0a000005/"}`, "target_ipv4_form", "url"},
		{`{"url":"http://012.0.0.1/"}`, "target_ipv4_form", "url"},
		{`{"url":"http://fd00::5/"}`, "target_address", "url"},
		{`{"url":"http://[fd00::5%eth0]/"}`, "target_zone", "url"},
		{`{"url":"http://[::ffff:10.0.0.5]/"}`, "target_mapped", "url"},
		{`{"url":"http://[10.0.0.5]/"}`, "bad_url", "url"},
		{`{"url":"http:///etc/passwd"}`, "target_empty", "url"},
		{`{"url":"--url=http://8.8.8.8"}`, "bad_url", "url"},
		{`{"url":"http://-oX/"}`, "target_option", "url"},
		{`{"url":"http://10.0.0.5","host":"10.0.0.6"}`, "target_name", "host"},
		{`{"url":"http://10.0.0.5","host":"a\r\nX: y"}`, "target_space", "host"},
		{`{"url":"http://10.0.0.5","host":"a:b"}`, "target_address", "host"},
		{`{"domain":"lab.internal.","mode":"dns"}`, "target_trailing_dot", "domain"},
		{`{"domain":"lab.internal","mode":"dns","host":"a.b"}`, "contradiction", "host"},
		{`{"url":"http://10.0.0.5","wordlist":"/etc/passwd"}`, "bad_name", "wordlist"},
		{`{"url":"http://10.0.0.5","wordlist":"-"}`, "bad_name", "wordlist"},
		{`{"url":"http://10.0.0.5","wordlist":"../small"}`, "bad_name", "wordlist"},
		{`{"url":"http://10.0.0.5","extensions":["php,../x"]}`, "bad_extension", "extensions[0]"},
		{`{"url":"http://10.0.0.5","extensions":["-x"]}`, "bad_extension", "extensions[0]"},
		{`{"url":"http://10.0.0.5","status_codes":[200],"exclude_status":[404]}`, "contradiction", "exclude_status"},
		{`{"url":"http://10.0.0.5","status_codes":[99]}`, "out_of_range", "status_codes[0]"},
		{`{"url":"http://10.0.0.5","status_codes":[]}`, "too_few", "status_codes"},
		{`{"url":"http://10.0.0.5","status_codes":["200-299"]}`, "wrong_type", "status_codes[0]"},
		{`{"url":"http://10.0.0.5","domain":"lab.internal","mode":"vhost","extensions":["php"]}`, "contradiction", "extensions"},
		{`{"url":"http://10.0.0.5","threads":0}`, "out_of_range", "threads"},
		{`{"url":"http://10.0.0.5","threads":51}`, "out_of_range", "threads"},
		{`{"url":"http://10.0.0.5","delay_ms":10001}`, "out_of_range", "delay_ms"},
		{`{"url":"http://10.0.0.5","timeout_s":61}`, "out_of_range", "timeout_s"},
		{`{"profile":"dns","domain":"lab.internal","ip_version":6}`, "contradiction", "ip_version"},
		{`{"profile":"dns","domain":"lab.internal","tls_verify":false}`, "contradiction", "tls_verify"},
		{`{"url":"http://10.0.0.5","ip_version":6}`, "mixed_families", "ip_version"},
		{`{"url":"http://10.0.0.5","mode":"s3"}`, "not_one_of", "mode"},
		{`{"url":"http://10.0.0.5","mode":"fuzz"}`, "not_one_of", "mode"},
		{`{"url":"http://10.0.0.5","tls_verify":"no"}`, "wrong_type", "tls_verify"},
	} {
		_, faults := Read(gobusterName, []byte(row.arguments))
		if row.code == "" {
			if len(faults) > 0 {
				t.Errorf("%s: %v", row.arguments, faults)
			}
			continue
		}
		if len(faults) == 0 || faults[0].Code != row.code || faults[0].Field != row.field {
			t.Errorf("%s: %v, want %s at %s", row.arguments, faults, row.code, row.field)
		}
	}
	// Each row of what gobuster's options can do to the wrong hands is no argument here.
	for _, name := range []string{"pattern", "discover_pattern", "extensions_file", "client_cert_pem", "client_cert_p12", "output", "follow_redirect", "proxy", "resolver", "server",
		"interface", "local_ip", "method", "body", "headers", "cookies", "useragent", "username", "password", "retry", "force", "wildcard", "no_fqdn", "exclude_length", "debug", "wordlist_offset", "u", "w", "o"} {
		arguments, _ := json.Marshal(map[string]any{"url": "http://10.0.0.5", name: "x"})
		if _, faults := Read(gobusterName, arguments); len(faults) == 0 || faults[0].Code != "unknown_argument" {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

func TestGobusterIsCanonical(t *testing.T) {
	for _, row := range []struct{ one, other string }{
		{`{"url":"HTTP://10.0.0.5:80"}`, `{"url":"http://10.0.0.5/","profile":"quick","mode":"dir","wordlist":"small","threads":10,"exclude_status":[404,404]}`},
		{`{"url":"https://WWW.Lab.Internal:443/a"}`, `{"url":"https://www.lab.internal/a/"}`},
		{`{"url":"http://[FD00:0::5]:8080"}`, `{"url":"http://[fd00::5]:8080/","ip_version":6}`},
		{`{"url":"http://www.lab.internal","profile":"vhost"}`, `{"url":"http://www.lab.internal/","profile":"vhost","domain":"WWW.lab.internal"}`},
		{`{"url":"http://10.0.0.5","extensions":["php","html","php"]}`, `{"url":"http://10.0.0.5","extensions":["html","php"]}`},
	} {
		a, err1 := readGobusterCall(t, row.one).Arguments()
		b, err2 := readGobusterCall(t, row.other).Arguments()
		if err1 != nil || err2 != nil || string(a) != string(b) {
			t.Errorf("%s\n%s", a, b)
		}
		again, faults := Read(gobusterName, a)
		if len(faults) > 0 {
			t.Errorf("%s: %v", a, faults)
		} else if c, _ := again.Arguments(); string(c) != string(a) {
			t.Errorf("%s is read as %s", a, c)
		}
	}
}

func TestGobusterCommandRefuses(t *testing.T) {
	site, names := readGobusterCall(t, `{"url":"http://10.0.0.5"}`), readGobusterCall(t, `{"mode":"dns","domain":"lab.internal"}`)
	for _, row := range []struct {
		says      string
		call      Call
		v         Version
		addresses []netip.Prefix
		excluded  []netip.Prefix
		reach     *Reach
	}{
		{"an unknown version", site, Version{3, 9}, atSite, nil, nil},
		{"one before modes", site, Version{2, 0}, atSite, nil, nil},
		{"no address", site, Version{3, 5}, nil, nil, nil},
		{"two addresses", site, Version{3, 5}, append(slices.Clone(atSite), netip.MustParsePrefix("10.0.0.6/32")), nil, nil},
		{"another address than the URL's", site, Version{3, 5}, []netip.Prefix{netip.MustParsePrefix("10.0.0.6/32")}, nil, nil},
		{"an excluded address", site, Version{3, 5}, atSite, atSite, nil},
		{"a port that may not be sent to", site, Version{3, 5}, atSite, nil, &Reach{TCP: [][2]uint16{{443, 443}}}},
		{"names without a name server's port", names, Version{3, 5}, atSite, nil, nil},
	} {
		if c, err := row.call.Command(row.v, row.addresses, row.excluded, row.reach); err == nil {
			t.Errorf("%s: %v", row.says, c.Argv)
		}
	}
}

func TestGobusterVersions(t *testing.T) {
	for _, row := range []struct {
		said string
		want Version
	}{
		{"3.5\n", Version{3, 5}},
		{"3.6\n", Version{3, 6}},
		{"gobuster version 3.8.2\nBuild info:\n", Version{3, 8}},
		{"\n=====================================================\nGobuster v2.0.1              OJ Reeves (@TheColonial)\n", Version{2, 0}},
		{"NAME:\n   gobuster - the tool you love\nVERSION:\n   3.8.2\n", Version{}},
		{"", Version{}},
	} {
		if v, err := ParseVersion("gobuster", []byte(row.said)); v != row.want || (err == nil) != (row.want != Version{}) {
			t.Errorf("%q: %v, %v", row.said, v, err)
		}
	}
	if err := Known("gobuster", Version{2, 0}, nil); err == nil || !strings.Contains(err.Error(), "no modes") {
		t.Errorf("2.0: %v", err)
	}
	if err := Known("gobuster", Version{3, 9}, nil); err == nil || !strings.Contains(err.Error(), "known are") {
		t.Errorf("3.9: %v", err)
	}
}

// The installed gobuster has what its dialect says, and one without an option is refused.
func TestInstalledGobuster(t *testing.T) {
	ask := func(words []string) []byte {
		out, err := exec.Command("gobuster", words...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	v, err := ParseVersion("gobuster", ask(VersionArguments("gobuster")[0]))
	if err != nil {
		t.Fatal(err)
	}
	var help [][]byte
	for _, words := range HelpArguments("gobuster") {
		help = append(help, ask(words))
	}
	if err := Known("gobuster", v, help); err != nil {
		t.Error(err)
	}
	without := slices.Clone(help)
	without[0] = []byte(strings.ReplaceAll(string(help[0]), "--status-codes-blacklist ", "--other "))
	if err := Known("gobuster", v, without); err == nil || !strings.Contains(err.Error(), "status-codes-blacklist") {
		t.Errorf("without an option: %v", err)
	}
}

func TestGobusterCosts(t *testing.T) {
	for _, row := range []struct {
		arguments string
		lines     int64
		packets   int64
		time      time.Duration
	}{
		{`{"url":"http://10.0.0.5","limit":3600}`, 1000, 8016, 20200 * time.Millisecond},
		{`{"url":"http://10.0.0.5","limit":3600,"extensions":["php"]}`, 1000, 16016, 40200 * time.Millisecond},
		{`{"url":"http://10.0.0.5","limit":3600,"delay_ms":800,"threads":1}`, 1000, 8016, 1001 * time.Second},
		{`{"url":"http://10.0.0.5","limit":3600,"rate":10}`, 1000, 8016, 801 * time.Second},
		{`{"url":"http://10.0.0.5","limit":120,"rate":10}`, 1000, 8016, 801 * time.Second},
	} {
		c, err := readGobusterCall(t, row.arguments).WithWords(row.lines).Command(Version{3, 5}, atSite, nil, nil)
		if err != nil || c.Packets != row.packets || c.Time != row.time {
			t.Errorf("%s: %d packets, %v, %v", row.arguments, c.Packets, c.Time, err)
		}
	}
}

// FuzzReadGobuster: whatever is read, no word of its command is an option but those of this package, and it goes to the
// judged address alone.
func FuzzReadGobuster(f *testing.F) {
	for _, seed := range []string{
		`{"url":"http://10.0.0.5"}`, `{"url":"https://www.lab.internal:8443/a/b","host":"x.lab.internal","tls_verify":false,"extensions":["php","tar.gz"]}`,
		`{"url":"http://[fd00::5]/","status_codes":[200,301]}`, `{"mode":"dns","domain":"lab.internal"}`, `{"profile":"vhost","url":"http://10.0.0.5","domain":"lab.internal"}`,
		`{"url":"http://10.0.0.5/--output=x","wordlist":"-o"}`,
	} {
		f.Add([]byte(seed))
	}
	options := map[string]bool{}
	for _, d := range dialects {
		for _, names := range d.options {
			for _, name := range names {
				options["--"+name] = true
			}
		}
	}
	f.Fuzz(func(t *testing.T, arguments []byte) {
		call, faults := Read(gobusterName, arguments)
		if len(faults) > 0 {
			return
		}
		checkStable(t, call)
		plan := call.Plan()
		address, reach := atSite, (*Reach)(nil)
		if plan.IPv6 {
			address = []netip.Prefix{netip.MustParsePrefix("fd00::5/128")}
		}
		if len(plan.Targets) > 0 && plan.Targets[0].Prefix.IsValid() {
			address = []netip.Prefix{plan.Targets[0].Prefix}
		}
		if plan.Asks {
			reach = toNames
		}
		for _, v := range []Version{{3, 5}, {3, 8}} {
			c, err := call.WithWords(10).Command(v, address, nil, reach)
			if err != nil {
				t.Fatalf("%s: %v", arguments, err)
			}
			for _, word := range c.Argv[2:] {
				name, _, _ := strings.Cut(word, "=")
				if strings.HasPrefix(word, "-") && !options[name] {
					t.Errorf("%q: %q", arguments, c.Argv)
				}
			}
			if strings.Count(c.Hosts, "\n") > 1 || c.Hosts != "" && !strings.HasPrefix(c.Hosts, address[0].Addr().String()+" ") {
				t.Errorf("%q: %q", arguments, c.Hosts)
			}
		}
	})
}
