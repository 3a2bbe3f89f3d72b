package policy

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const examplePath = "../packaging/etc/engagements.d/private-lab.yaml"

var agents = Lookup{
	User:  func(name string) (uint32, bool) { return 1000, name == "alice" },
	Group: func(name string) (uint32, bool) { return 990, name == "secmcpd-agents" },
	Profiles: func(tool string) ([]string, bool) {
		return []string{"quick", "standard", "thorough"}, tool == "nmap_scan"
	},
}

func TestTheShippedEngagement(t *testing.T) {
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	e, faults := ParseEngagement(examplePath, data, agents)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	agent := Caller{UID: 2000, GID: 2000, Groups: []uint32{990}}
	world{&Policy{Engagements: []Engagement{e}, Machine: machine}, agent, monday}.check(t, []row{
		allow("private networks", scan("10.1.0.0/23", "192.168.1.0/24", "172.20.0.1", "fd12::1"), "10.1.0.0/23 172.20.0.1 192.168.1.0/24 fd12::1"),
		allow("names of the lab", scan("web.lab.internal=192.168.9.1"), "192.168.9.1"),
		allow("1024 addresses", scan("10.1.0.0/22"), "10.1.0.0/22"),
		refuse("1025", scan("10.1.0.0/22", "10.2.0.0"), TooManyAddresses),
		refuse("the Internet", scan("193.0.0.1"), TargetOutOfScope),
		refuse("a name that leads there", scan("web.lab.internal=193.0.0.1"), NameOutsideScope),
		refuse("other names", scan("www.example.org=10.0.0.1"), NameNotAllowed),
		refuse("anything intrusive", scan("10.1.2.3").with(func(r *Request) { r.Intrusive = []string{"scripts"} }), Intrusive),
		refuse("metadata in unique local space", scan("fd00:ec2::254"), TargetNever),
	})
	if v := Decide(&Policy{Engagements: []Engagement{e}}, alice, scan("10.1.2.3"), monday); v.Code != NotACaller {
		t.Errorf("somebody outside of the group: %s", v)
	}
	want := `private-lab (revision ` + e.Revision[:12] + `)
  about       Look at hosts of private networks. Nothing intrusive.
  callers     group secmcpd-agents (990)
  targets     10.0.0.0/8
              172.16.0.0/12
              192.168.0.0/16
              fc00::/7
              .lab.internal within 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7
  tools       nmap_scan: all profiles
  limits      1024 addresses, 65535 ports each, 1000 packets a second, 4h0m0s a job
              4 jobs at once
  intrusive   deny`
	if got := e.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The example explains every key: each stands in it, and what is commented out parses too.
func TestTheShippedEngagementShowsEveryKey(t *testing.T) {
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "description", "callers", "users", "groups", "targets", "within", "network", "ports", "icmp", "exclude", "hours", "days", "from", "to",
		"timezone", "expires", "tools", "profiles", "limits", "addresses_per_job", "ports_per_address", "packets_per_second", "duration", "total_packets_per_second", "jobs", "intrusive", "confirm", "approve", "approval", "addresses_over", "packets_per_second_over", "within", "self"} {
		if !strings.Contains(string(data), key+":") {
			t.Errorf("the example does not show %s", key)
		}
	}
	text := string(data)
	for _, line := range []string{"  # users: [alice, 1001]", "  # - 10.0.0.1 ", "  # - 10.20.0.0/16", "  # - {network: 10.0.7.0/24, ports: [9100]}", "  # - network: 100.64.8.0/24", "  #   ports: [22,", "  #   icmp: true", "# hours:", "#   days:", "#   from:", "#   to:", "#   timezone:", "# expires: 2027-03-31", "# confirm: [intrusive,", "# approve: [nmap_scan/thorough]", "# approval:", "#   addresses_over: 256", "#   packets_per_second_over: 500", "#   within: 30m", "#   self: true", "  # total_packets_per_second: 2000"} {
		if !strings.Contains(text, "\n"+line) {
			t.Fatalf("the example has no line %q", line)
		}
		text = strings.Replace(text, "\n"+line, "\n"+strings.Replace(line, "# ", "", 1), 1)
	}
	text = strings.Replace(text, "exclude: []", "exclude:", 1)
	e, faults := ParseEngagement("private-lab.yaml", []byte(text), agents)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(e.Confirm(), []string{"intrusive", "nmap_scan/thorough"}) || len(e.exclude) != 2 || len(e.partly) != 1 || e.hours == nil || e.Expires.IsZero() || !slices.Equal(e.users, []uint32{1000, 1001}) {
		t.Errorf("not all of it was read: %s", e)
	}
	for _, want := range []string{"user alice (1000)", "user 1001", "10.20.0.0/16", "10.0.7.0/24 ports 9100", "100.64.8.0/24 ports 22, 80, 443, 8000-8100, udp/53, icmp", "mon tue wed thu fri 22:00-06:00 Europe/Berlin", "2027-04-01T00:00:00+02:00"} {
		if !strings.Contains(e.String(), want) {
			t.Errorf("does not say %q:\n%s", want, e)
		}
	}
}

func TestTemplate(t *testing.T) {
	text, err := Template("office-2", monday)
	if err != nil {
		t.Fatal(err)
	}
	e, faults := ParseEngagement("/etc/x/office-2.yaml", []byte(text), agents)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	if until, closed := e.Open(monday); closed != "" || until.Before(monday.AddDate(0, 0, 89)) {
		t.Errorf("until %v, closed %q", until, closed)
	}
	if _, closed := e.Open(monday.AddDate(0, 0, 92)); !strings.Contains(closed, "expired") {
		t.Errorf("it does not end: %q", closed)
	}
	for _, name := range []string{"", "../x", "A", "a b", "a\nb", "-", strings.Repeat("a", 64)} {
		if text, err := Template(name, monday); err == nil || text != "" {
			t.Errorf("%q is a name", name)
		}
	}
}

const whole = `name: x
callers: {users: [1000]}
targets: [10.0.0.0/8]
tools: {nmap_scan: {profiles: [quick]}}
`

// Each change to a good engagement is a fault, with its line and what would be right.
func TestEngagementFaults(t *testing.T) {
	if _, faults := ParseEngagement("x.yaml", []byte(whole), agents); faults != nil {
		t.Fatal(faults)
	}
	for _, row := range []struct{ why, from, to, want string }{
		{"no name", "name: x\n", "", `x.yaml:1: name: got nothing`},
		{"another name than the file's", "name: x", "name: y", `x.yaml:1: name: got "y"; allowed: the name of the file, "x"`},
		{"no callers", "callers: {users: [1000]}", "callers: {}", "x.yaml:2: callers: got nothing; allowed: users, groups, or both"},
		{"callers of nobody", "users: [1000]", "users: []", "callers: got nothing"},
		{"nobody's number", "1000", "4294967295", "callers.users[0]: got \"4294967295\"; allowed: a number from 0"},
		{"a number too large", "1000", "99999999999", "callers.users[0]"},
		{"a user that is not there", "1000", "mallory", `callers.users[0]: got "mallory"; allowed: a user of this machine`},
		{"a group that is not there", "users: [1000]", "groups: [x]", `callers.groups[0]: got "x"; allowed: a group of this machine`},
		{"a name that is none", "1000", `"a b"`, "callers.users[0]: got \"a b\"; allowed: a name or a number"},
		{"no targets", "[10.0.0.0/8]", "[]", "x.yaml:3: targets: got nothing"},
		{"host bits", "10.0.0.0/8", "10.1.0.0/8", `targets[0]: got "10.1.0.0/8"; allowed: a network without host bits; write 10.0.0.0/8`},
		{"a network with nothing said of it", "[10.0.0.0/8]", "[{ports: [22]}]", `targets[0].name: got nothing`},
		{"a network and a name", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, name: .lab, ports: [22]}]", `targets[0]: got a network and a name; allowed: one of them`},
		{"a network and its prefixes", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, within: [10.0.0.0/9]}]", `targets[0]: got a network and a name`},
		{"host bits in a mapping", "[10.0.0.0/8]", "[{network: 10.0.0.1/8}]", `targets[0].network: got "10.0.0.1/8"; allowed: a network without host bits`},
		{"no port", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: []}]", `targets[0].ports: got nothing; allowed: ports, or icmp: true beside an empty list`},
		{"port 0", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [22, 0]}]", `targets[0].ports[1]: got "0"; allowed: a port or a range`},
		{"a port too large", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [65536]}]", `targets[0].ports[0]: got "65536"`},
		{"an octal port", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [022]}]", `targets[0].ports[0]: got "022"`},
		{"a range backwards", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [100-22]}]", `the smaller number comes first: 22-100`},
		{"a list in a string", "[10.0.0.0/8]", `[{network: 10.0.0.0/8, ports: ["22,80"]}]`, `give each as an element of its own`},
		{"a name of a service", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [ssh]}]", `targets[0].ports[0]: got "ssh"`},
		{"TCP said twice", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [tcp/22]}]", `targets[0].ports[0]: got "tcp/22"; allowed: a port or a range of ports from 1 to 65535, such as 22 or 8000-8100 (TCP), udp/53, sctp/2905; write 22`},
		{"the spelling of the scanner", "[10.0.0.0/8]", `[{network: 10.0.0.0/8, ports: ["U:53"]}]`, `targets[0].ports[0]: got "U:53"`},
		{"ICMP among ports", "[10.0.0.0/8]", "[{network: 10.0.0.0/8, ports: [icmp]}]", `write icmp: true beside ports`},
		{"ports of a name that are none", "[10.0.0.0/8]", "[{name: .lab, within: [10.0.0.0/8], ports: [x]}]", `targets[0].ports[0]: got "x"`},
		{"an exclusion of the ports of nothing", "targets:", "exclude: [{ports: [22]}]\ntargets:", `exclude[0].network: got nothing`},
		{"an exclusion of no port", "targets:", "exclude: [{network: 10.0.0.1, ports: []}]\ntargets:", `exclude[0].ports: got nothing; allowed: ports; without the key, the whole of it is excluded`},
		{"a port in an exclusion that is none", "targets:", "exclude: [{network: 10.0.0.1, ports: [udp/0]}]\ntargets:", `exclude[0].ports[0]: got "udp/0"`},
		{"ICMP of an exclusion", "targets:", "exclude: [{network: 10.0.0.1, icmp: true}]\ntargets:", `exclude[0].icmp: got an unknown key "icmp"; allowed: network, ports`},
		{"octal", "10.0.0.0/8", "010.0.0.0/8", `targets[0]: got "010.0.0.0/8"; allowed: a network`},
		{"a short form", "10.0.0.0/8", "10/8", `targets[0]: got "10/8"`},
		{"a short address", "10.0.0.0/8", `"10.1"`, `targets[0]: got "10.1"`},
		{"a number as an address", "10.0.0.0/8", "167772161", `targets[0]: got "167772161"`},
		{"hexadecimal", "10.0.0.0/8", "0x0a000001", `targets[0]: got "0x0a000001"`},
		{"IPv4-mapped", "10.0.0.0/8", `"::ffff:10.0.0.1"`, "write 10.0.0.1"},
		{"a mapped network", "10.0.0.0/8", `"::ffff:10.0.0.0/104"`, "IPv4 network in its own form"},
		{"a zone", "10.0.0.0/8", "fe80::1%eth0", "write fe80::1"},
		{"a zone in a network", "10.0.0.0/8", "fe80::%eth0/64", "targets[0]"},
		{"NAT64", "10.0.0.0/8", "64:ff9b::a00:0/104", "NAT64 addresses never are: RFC 6052"},
		{"6to4", "10.0.0.0/8", "2002:a00::/24", "6to4 addresses never are"},
		{"broadcast", "10.0.0.0/8", "255.255.255.255", "broadcast addresses never are"},
		{"an address that is a key to YAML", "targets: [10.0.0.0/8]", "targets:\n  - fd00::", "targets[0]: got \"fd00::\"; allowed: text or a mapping; put it in quotes"},
		{"a range", "10.0.0.0/8", "10.0.0.1-10.0.0.9", "targets[0]"},
		{"a name without its networks", "10.0.0.0/8", "web.lab.internal", "write a name as {name: web.lab.internal, within: [192.168.1.0/24]}"},
		{"a name within nothing", "10.0.0.0/8", "{name: web.lab.internal}", "targets[0].within: got nothing"},
		{"a name within an empty list", "10.0.0.0/8", "{name: a.b, within: []}", "targets[0].within: got nothing"},
		{"within without a name", "10.0.0.0/8", "{within: [10.0.0.0/8]}", "targets[0].name: got nothing"},
		{"within what can never be", "10.0.0.0/8", "{name: a.b, within: [\"64:ff9b::/96\"]}", "targets[0].within[0]: got \"64:ff9b::/96\""},
		{"within host bits", "10.0.0.0/8", "{name: a.b, within: [10.0.0.0/8, 10.1.0.0/8]}", "targets[0].within[1]"},
		{"a wildcard", "10.0.0.0/8", "{name: \"*.lab.internal\", within: [10.0.0.0/8]}", "write .lab.internal"},
		{"capitals", "10.0.0.0/8", "{name: Web.Lab, within: [10.0.0.0/8]}", "write web.lab"},
		{"everything", "10.0.0.0/8", "{name: \".\", within: [10.0.0.0/8]}", "targets[0].name"},
		{"an address as a name", "10.0.0.0/8", "{name: 127.1, within: [10.0.0.0/8]}", "targets[0].name"},
		{"a key that is misspelt", "callers:", "exlcude: []\ncallers:", `did you mean "exclude"?`},
		{"a misspelt key of a target", "10.0.0.0/8", "{name: a.b, wihtin: [10.0.0.0/8]}", `did you mean "within"?`},
		{"an excluded network with host bits", "tools", "exclude: [10.1.1.1/24]\ntools", "exclude[0]: got \"10.1.1.1/24\""},
		{"no tools", "{nmap_scan: {profiles: [quick]}}", "{}", "tools: got nothing"},
		{"a tool that is not there", "nmap_scan", "nmap", `tools.nmap: got "nmap"`},
		{"no profiles", "profiles: [quick]", "", "tools.nmap_scan.profiles: got nothing"},
		{"an empty list of profiles", "[quick]", "[]", "tools.nmap_scan.profiles: got nothing"},
		{"a profile that is not there", "quick", "quikc", `did you mean "quick"?`},
		{"all and one", "quick", `"*", quick`, `["*"] alone`},
		{"no address", "tools", "limits: {addresses_per_job: 0}\ntools", "x.yaml:4: limits.addresses_per_job: got 0; allowed: 1 to 67108864"},
		{"too many ports", "tools", "limits: {ports_per_address: 200000}\ntools", "limits.ports_per_address"},
		{"a rate of less than nothing", "tools", "limits: {packets_per_second: -1}\ntools", "limits.packets_per_second: got -1"},
		{"a budget of nothing", "tools", "limits: {total_packets_per_second: 0}\ntools", "limits.total_packets_per_second: got 0; allowed: 1 to 10000000"},
		{"a budget of less", "tools", "limits: {total_packets_per_second: -1}\ntools", "limits.total_packets_per_second: got -1"},
		{"a duration without a unit", "tools", "limits: {duration: 60}\ntools", "add the unit"},
		{"a very long job", "tools", "limits: {duration: 1000h}\ntools", "limits.duration: got 1000h0m0s"},
		{"an unknown limit", "tools", "limits: {rate: 5}\ntools", `limits.rate: got an unknown key "rate"`},
		{"another word for intrusive", "tools", "intrusive: yes\ntools", "allowed: deny, approve, allow"},
		{"a profile to confirm that is not allowed", "tools", "confirm: [intrusive, nmap_scan/quikc]\ntools", `did you mean "nmap_scan/quick"?`},
		{"a profile to approve that is not allowed", "tools", "approve: [nmap_scan/quikc]\ntools", `approve[0]: got "nmap_scan/quikc"; allowed: a tool of tools, or TOOL/PROFILE; did you mean "nmap_scan/quick"?`},
		{"what is intrusive among what is approved", "tools", "approve: [intrusive]\ntools", "`intrusive: approve` says that"},
		{"an approval that waits for ever", "tools", "approval: {within: 0s}\ntools", "approval.within: got 0s; allowed: 1m0s to 24h0m0s"},
		{"an approval of nothing less", "tools", "approval: {addresses_over: 0}\ntools", "approval.addresses_over: got 0; allowed: 1 to 67108864"},
		{"an approval of more than is allowed", "tools", "approval: {packets_per_second_over: 1000}\ntools", "less than limits.packets_per_second, 1000"},
		{"an approval by nobody known", "tools", "approval: {by: alice}\ntools", `unknown key "by"`},
		{"a day that is none", "tools", "expires: 2026-02-30\ntools", "expires: got \"2026-02-30\""},
		{"a time without a zone", "tools", "expires: 2026-02-03T10:00:00\ntools", "expires:"},
		{"hours without a zone", "tools", "hours: {from: \"08:00\", to: \"10:00\"}\ntools", "hours.timezone: got nothing"},
		{"hours of this machine", "tools", "hours: {from: \"08:00\", to: \"10:00\", timezone: Local}\ntools", "hours.timezone: got \"Local\""},
		{"a zone that is a path", "tools", "hours: {from: \"08:00\", to: \"10:00\", timezone: ../../etc/passwd}\ntools", "hours.timezone:"},
		{"a zone that is not there", "tools", "hours: {from: \"08:00\", to: \"10:00\", timezone: Europe/Nowhere}\ntools", "knows no such zone"},
		{"a zone that is no place", "tools", "hours: {from: \"08:00\", to: \"10:00\", timezone: CET}\ntools", "hours.timezone:"},
		{"hours of no length", "tools", "hours: {from: \"08:00\", to: \"08:00\", timezone: UTC}\ntools", "hours.to: got \"08:00\""},
		{"hours that begin at their end", "tools", "hours: {from: \"24:00\", to: \"08:00\", timezone: UTC}\ntools", "hours.from: got \"24:00\""},
		{"half past 24", "tools", "hours: {from: \"08:00\", to: \"24:30\", timezone: UTC}\ntools", "hours.to: got \"24:30\""},
		{"hours without an end", "tools", "hours: {from: \"08:00\", timezone: UTC}\ntools", "hours.to: got nothing"},
		{"a day by its whole name", "tools", "hours: {days: [monday], from: \"08:00\", to: \"10:00\", timezone: UTC}\ntools", "hours.days[0]: got \"monday\""},
		{"a day twice", "tools", "hours: {days: [mon, mon], from: \"08:00\", to: \"10:00\", timezone: UTC}\ntools", "hours.days[1]: got the day again"},
		{"no day", "tools", "hours: {days: [], from: \"08:00\", to: \"10:00\", timezone: UTC}\ntools", "hours.days: got nothing"},
		{"a control character in the description", "tools", "description: \"a\\e[2Jb\"\ntools", "description: got"},
		{"an anchor", "[10.0.0.0/8]", "&a [10.0.0.0/8]", "an anchor"},
		{"too many rules", "10.0.0.0/8", strings.Repeat("10.0.0.0/8,", maxRules+1), "targets: got 8193 entries"},
	} {
		if !strings.Contains(whole, row.from) {
			t.Fatalf("%s: %q is not in the engagement", row.why, row.from)
		}
		e, faults := ParseEngagement("x.yaml", []byte(strings.Replace(whole, row.from, row.to, 1)), agents)
		if got := faults.Error(); !strings.Contains(got, row.want) {
			t.Errorf("%s: %q, want %q", row.why, got, row.want)
		}
		if len(faults) == 0 || e.Name != "" || e.Names(alice) {
			t.Errorf("%s: an engagement with faults may be used", row.why)
		}
	}
}

func TestEveryFaultOfAnEngagementAtOnce(t *testing.T) {
	_, faults := ParseEngagement("x.yaml", []byte("name: y\ncallers: {users: [mallory]}\ntargets:\n  - 10.1.0.0/8\n  - {name: a.b}\nexclude: [x]\ntools: {nmap: {profiles: [q]}}\nlimits: {jobs: 0}\nintrusive: no\n"), agents)
	var fields []string
	for _, f := range faults {
		fields = append(fields, fmt.Sprintf("%d %s", f.Line, f.Field))
	}
	want := []string{"1 name", "2 callers.users[0]", "4 targets[0]", "5 targets[1].within", "6 exclude[0]", "7 tools.nmap", "8 limits.jobs", "9 intrusive"}
	if !slices.Equal(fields, want) {
		t.Errorf("got %q, want %q", fields, want)
	}
}

// Of a file that could not be read nothing is known to be missing.
func TestOneFaultOfAFileThatCannotBeRead(t *testing.T) {
	for why, text := range map[string]string{
		"a quote that is not closed": strings.Replace(whole, "[quick]", `["quick]`, 1),
		"a tab for an indent":        strings.Replace(whole, "{nmap", "\n\t{nmap", 1),
		"bytes that are not UTF-8":   whole + "# \xff\n",
		"a list":                     "- " + strings.ReplaceAll(whole, "\n", "\n  "),
		"an anchor on all of it":     "&all\n" + whole,
	} {
		if e, faults := ParseEngagement("x.yaml", []byte(text), agents); len(faults) != 1 || faults[0].Field != "" || e.Name != "" {
			t.Errorf("%s: %v", why, faults)
		}
	}
	if _, faults := ParseEngagement("x.yaml", nil, agents); len(faults) != 4 {
		t.Errorf("of an empty file: %v", faults)
	}
}

func TestRevision(t *testing.T) {
	a, b := parse(t, whole), parse(t, whole+"# a comment\n")
	if len(a.Revision) != 64 || a.Revision == b.Revision || a.Revision != parse(t, whole).Revision {
		t.Errorf("revisions %s and %s", a.Revision, b.Revision)
	}
}

func TestHours(t *testing.T) {
	read := func(hours string) Engagement { return parse(t, whole+"hours: "+hours+"\n") }
	night := read(`{days: [fri, sat], from: "22:00", to: "06:00", timezone: Europe/Berlin}`)
	week := read(`{from: "00:00", to: "24:00", timezone: Europe/Berlin}`)
	days := read(`{days: [mon, tue], from: "00:00", to: "24:00", timezone: UTC}`)
	early := read(`{from: "02:30", to: "03:30", timezone: Europe/Berlin}`)
	for _, row := range []struct {
		why  string
		e    Engagement
		now  string
		want string // until when it is open, or empty
	}{
		{"Friday night", night, "2026-11-27T22:30:00+01:00", "2026-11-28T06:00:00+01:00"},
		{"which ends on Saturday morning", night, "2026-11-28T05:59:59+01:00", "2026-11-28T06:00:00+01:00"},
		{"and not later", night, "2026-11-28T06:00:00+01:00", ""},
		{"Saturday night, on Sunday", night, "2026-11-29T03:00:00+01:00", "2026-11-29T06:00:00+01:00"},
		{"no Sunday night", night, "2026-11-29T23:00:00+01:00", ""},
		{"no Thursday night", night, "2026-11-27T03:00:00+01:00", ""},
		{"the same moment in another zone", night, "2026-11-27T21:30:00Z", "2026-11-28T06:00:00+01:00"},
		{"summer time ends in the night, which is an hour longer", night, "2026-10-25T05:59:00+01:00", "2026-10-25T06:00:00+01:00"},
		{"every hour, a week ahead at the least", week, "2026-11-27T12:00:00+01:00", "2026-12-05T00:00:00+01:00"},
		{"two whole days are one window", days, "2026-11-23T12:00:00Z", "2026-11-25T00:00:00Z"},
		{"and close", days, "2026-11-25T00:00:00Z", ""},
		{"a window across the missing hour is not longer than it says", early, "2026-03-29T04:00:00+02:00", ""},
	} {
		now, err := time.Parse(time.RFC3339, row.now)
		if err != nil {
			t.Fatal(err)
		}
		until, closed := row.e.Open(now)
		got := ""
		if closed == "" {
			got = until.Format(time.RFC3339)
		}
		if got != row.want {
			t.Errorf("%s: at %s it is open until %q, want %q (%s)", row.why, row.now, got, row.want, closed)
		}
		if next, ok := row.e.hours.next(now); closed != "" && ok {
			if _, closed := row.e.Open(next); closed != "" {
				t.Errorf("%s: said to open at %v, and is closed then", row.why, next)
			}
			if _, closed := row.e.Open(next.Add(-time.Second)); closed == "" {
				t.Errorf("%s: open before the moment it is said to open, %v", row.why, next)
			}
		}
	}
}

// For as long as two years, at each quarter of an hour: what is open closes later than now, and
// is open until just then.
func TestHoursAgreeWithThemselves(t *testing.T) {
	for _, hours := range []string{
		`{days: [sat], from: "23:30", to: "04:00", timezone: America/Sao_Paulo}`,
		`{from: "02:15", to: "02:45", timezone: Europe/Berlin}`,
		`{days: [sun, mon], from: "00:00", to: "24:00", timezone: Africa/Cairo}`,
		`{from: "12:00", to: "11:00", timezone: Australia/Lord_Howe}`,
	} {
		e := parse(t, whole+"hours: "+hours+"\n")
		for now := monday; now.Before(monday.AddDate(2, 0, 0)); now = now.Add(15 * time.Minute) {
			until, closed := e.Open(now)
			if closed != "" {
				continue
			}
			if !until.After(now) {
				t.Fatalf("%s: at %v open until %v", hours, now, until)
			}
			if last, closed := e.Open(until.Add(-time.Nanosecond)); closed != "" || last.Before(until) {
				t.Fatalf("%s: at %v open until %v, and then until %v, %q", hours, now, until, last, closed)
			}
		}
	}
}

// What is to be confirmed is in the verdict, and denies nothing.
func TestConfirm(t *testing.T) {
	const text = "name: x\ncallers: {users: [1]}\ntargets: [10.0.0.0/8]\ntools: {nmap_scan: {profiles: [\"*\"]}, other_scan: {profiles: [\"*\"]}}\nintrusive: allow\nconfirm: [intrusive, other_scan, nmap_scan/thorough, intrusive]\n"
	e, faults := ParseEngagement("x.yaml", []byte(text), Lookup{Profiles: func(string) ([]string, bool) { return []string{"quick", "thorough"}, true }})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	p := &Policy{Engagements: []Engagement{e}}
	for _, c := range []struct {
		why, tool, profile string
		intrusive          []string
		want               string
	}{
		{"an ordinary scan", "nmap_scan", "quick", nil, ""},
		{"an intrusive one", "nmap_scan", "quick", []string{"scripts"}, "intrusive"},
		{"a profile", "nmap_scan", "thorough", nil, "nmap_scan/thorough"},
		{"both", "nmap_scan", "thorough", []string{"scripts"}, "intrusive nmap_scan/thorough"},
		{"a tool", "other_scan", "quick", nil, "other_scan"},
	} {
		v := Decide(p, Caller{UID: 1}, Request{Tool: c.tool, Profile: c.profile, Intrusive: c.intrusive, Ports: 1,
			Targets: []Target{{Text: "10.0.0.5", Prefix: netip.MustParsePrefix("10.0.0.5/32")}}}, monday)
		if v.Outcome != Allow || strings.Join(v.Confirm, " ") != c.want {
			t.Errorf("%s: %s %v", c.why, v.Outcome, v.Confirm)
		}
	}
}
