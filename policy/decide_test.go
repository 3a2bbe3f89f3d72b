package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// The lab of these tests. Alice (1000) is named herself, bob (1001) by his group 50, carol
// (1002) by nobody.
var (
	alice = Caller{UID: 1000, GID: 1000}
	bob   = Caller{UID: 1001, GID: 1001, Groups: []uint32{7, 50}}
	carol = Caller{UID: 1002, GID: 1002, Groups: []uint32{7}}

	// monday is within all hours of these tests.
	monday = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
)

const lab = `
name: lab
callers: {users: [1000], groups: [50]}
targets:
  - 10.0.0.0/8
  - 192.168.1.0/24
  - 100.64.0.0/10
  - fd00::/8
  - 203.0.113.0/25
  - 127.0.0.1
  - 0.0.0.0/7
  - {name: .lab.internal, within: [10.0.0.0/16, fd00::/16]}
  - {name: db.lab.internal, within: [192.168.1.0/24]}
  - {name: cloud.lab.internal, within: [169.254.169.254, 198.18.0.0/15]}
exclude:
  - 10.0.0.1
  - 10.9.0.0/16
  - fd00::bad
hours: {days: [mon, tue], from: "08:00", to: "18:00", timezone: UTC}
expires: 2026-11-30
tools:
  nmap_scan: {profiles: [quick, discovery]}
  masscan_scan: {profiles: ["*"]}
limits: {addresses_per_job: 4096, ports_per_address: 1000, packets_per_second: 500, duration: 1h}
`

const office = `
name: office
callers: {users: [1000]}
targets: [172.16.0.0/12]
tools:
  nmap_scan: {profiles: ["*"]}
intrusive: approve
`

var machine = Machine{
	Own:       prefixes("10.0.5.5/32", "fd00::5/128"),
	Slots:     prefixes("10.200.0.0/16"),
	Bridges:   prefixes("172.17.0.0/16", "10.88.0.0/16"),
	Broadcast: prefixes("10.0.5.255/32"),
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func parse(t testing.TB, text string) Engagement {
	t.Helper()
	_, after, _ := strings.Cut(text, "name: ")
	name, _, _ := strings.Cut(after, "\n")
	e, faults := ParseEngagement(name+".yaml", []byte(text), Lookup{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return e
}

// world is a policy for rows of a table to ask.
type world struct {
	*Policy
	caller Caller
	now    time.Time
}

func labWorld(t testing.TB) world {
	return world{&Policy{Engagements: []Engagement{parse(t, office), parse(t, lab)}, Machine: machine}, alice, monday}
}

// scan is a modest request for targets: networks, addresses, or names as name=answer,answer.
func scan(targets ...string) Request {
	r := Request{Tool: "nmap_scan", Profile: "quick", Ports: 100}
	for _, text := range targets {
		r.Targets = append(r.Targets, asTarget(text))
	}
	return r
}

func asTarget(text string) Target {
	if name, answers, isName := strings.Cut(text, "="); isName {
		t := Target{Text: name, Name: name}
		for a := range strings.SplitSeq(answers, ",") {
			if a != "" {
				t.Answers = append(t.Answers, netip.MustParseAddr(a))
			}
		}
		return t
	}
	if !strings.Contains(text, "/") {
		a := netip.MustParseAddr(text)
		return Target{Text: text, Prefix: netip.PrefixFrom(a, a.BitLen())}
	}
	return Target{Text: text, Prefix: netip.MustParsePrefix(text)}
}

func (r Request) with(change func(*Request)) Request { change(&r); return r }

// row is one line of a table: what is asked, and what the answer has to say. want is the code
// of a denial, or "allow" or "approve" with the addresses; each of say stands in the rest of the verdict.
type row struct {
	why  string
	r    Request
	want string
	say  []string
}

func allow(why string, r Request, addresses string, say ...string) row {
	return row{why, r, "allow " + addresses, say}
}

func approve(why string, r Request, addresses string, say ...string) row {
	return row{why, r, "approve " + addresses, say}
}

func refuse(why string, r Request, code string, say ...string) row { return row{why, r, code, say} }

func (w world) check(t *testing.T, rows []row) {
	t.Helper()
	for _, row := range rows {
		v := Decide(w.Policy, w.caller, row.r, w.now)
		got := v.Code
		if v.Grants() {
			got = string(v.Outcome) + " " + strings.Join(textsOf(v.Addresses()), " ")
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q\n%s", row.why, got, row.want, v)
		}
		hint, _, _ := strings.Cut(v.Hint, "one job is under one engagement") // that says how it was judged, not what to do
		if !v.Grants() && (v.Outcome != Deny || v.Reason == "" || v.Code == "" || hint == "" || len(v.Targets) != 0) {
			t.Errorf("%s: a denial has outcome, code, reason and hint, and no targets: %+v", row.why, v)
		}
		for _, say := range row.say {
			if !strings.Contains(v.String(), say) {
				t.Errorf("%s: does not say %q:\n%s", row.why, say, v)
			}
		}
	}
}

func TestNetworks(t *testing.T) {
	labWorld(t).check(t, []row{
		allow("an address in scope", scan("10.1.2.3"), "10.1.2.3", "targets[0] 10.0.0.0/8", "engagement lab"),
		allow("a network in scope", scan("10.1.2.0/24"), "10.1.2.0/24"),
		allow("networks that touch are one", scan("10.1.2.0/25", "10.1.2.128/25", "10.1.2.7"), "10.1.2.0/24", "256 addresses"),
		allow("both families", scan("10.1.0.0/30", "fd00:1::/126"), "10.1.0.0/30 fd00:1::/126"),
		allow("another engagement, alone", scan("172.16.0.1"), "172.16.0.1", "engagement office"),
		allow("an excluded address is left out of a network", scan("10.0.0.0/30"), "10.0.0.0 10.0.0.2/31", "10.0.0.1 by exclude[0] 10.0.0.1"),
		allow("so is an excluded network", scan("10.8.248.0/21", "10.10.0.0/24"), "10.8.248.0/21 10.10.0.0/24"),
		allow("the same twice is counted once", scan("10.1.0.0/20", "10.1.0.0/20"), "10.1.0.0/20", "4096 addresses"),
		allow("the machine's own address is left out", scan("10.0.5.4/31"), "10.0.5.4", "its own address"),
		allow("a directed broadcast address is left out", scan("10.0.5.252/30"), "10.0.5.252/31 10.0.5.254", "broadcast"),
		allow("half a network of documentation, named by a rule", scan("203.0.113.0/25"), "203.0.113.0/25"),
		allow("loopback, named by a rule as one address", scan("127.0.0.1"), "127.0.0.1"),
		allow("the metadata service in a wide rule is left out", scan("100.100.100.200/31"), "100.100.100.201", "never: cloud metadata"),

		refuse("outside of every rule", scan("193.0.0.1"), TargetOutOfScope, `got         "193.0.0.1"`, "10.0.0.0/8", "targets[0]"),
		refuse("one of two outside", scan("10.1.2.3", "193.0.0.1"), TargetOutOfScope, "targets[1]"),
		refuse("partly outside, with the part", scan("192.168.0.0/23"), TargetOutOfScope, `got         "192.168.0.0/24"`),
		refuse("around a rule", scan("192.168.0.0/22"), TargetOutOfScope, `got         "192.168.0.0/24, 192.168.2.0/23"`),
		refuse("all of two engagements together", scan("10.1.2.3", "172.16.0.1"), TargetOutOfScope, "one job is under one engagement"),
		refuse("an excluded address", scan("10.0.0.1"), TargetExcluded, "exclude[0] 10.0.0.1"),
		refuse("all in an excluded network", scan("10.9.4.0/24"), TargetExcluded, "exclude[1] 10.9.0.0/16"),
		refuse("an excluded address of IPv6", scan("fd00::bad"), TargetExcluded),
		refuse("the machine itself", scan("10.0.5.5"), TargetNever, "machine: its own address"),
		refuse("the machine itself by IPv6", scan("fd00::5"), TargetNever, "machine: its own address"),
		refuse("the network of boxes", scan("10.200.3.0/24"), TargetNever, "network of its boxes"),
		refuse("containers under a wide rule", scan("10.88.0.7"), TargetNever, "containers"),
		refuse("the rest of loopback is not named", scan("127.0.0.2"), TargetNever, "never: loopback"),
		refuse("the other half of documentation", scan("203.0.113.200"), TargetNever, "documentation"),
		refuse("multicast", scan("224.0.0.251"), TargetNever, "multicast"),
		refuse("IPv4-mapped disguise", scan("::ffff:10.1.2.3"), TargetNever, "IPv4-mapped"),
		refuse("a mapped network", scan("::ffff:10.0.0.0/104"), TargetNever, "IPv4-mapped"),
		refuse("NAT64", scan("64:ff9b::a01:203"), TargetNever, "NAT64"),
		refuse("6to4", scan("2002:a01:203::1"), TargetNever, "6to4"),
		refuse("unspecified", scan("0.0.0.0"), TargetNever, "unspecified"),
		refuse("metadata by IPv6 under a wide rule", scan("fd00:ec2::254"), TargetNever, "cloud metadata"),
		refuse("too many addresses", scan("10.1.0.0/19"), TooManyAddresses, "got         \"8192\"", "allowed     4096"),
		refuse("too many in all", scan("10.1.0.0/20", "10.2.0.0"), TooManyAddresses, "\"4097\""),
		refuse("a whole IPv6 subnet", scan("fd00:1::/64"), TooManyAddresses, "\"18446744073709551615\""),
		refuse("a larger one does not overflow", scan("fd01::/16"), TooManyAddresses),
		refuse("half of IPv6 and more does not overflow", scan("fd01::/64", "fd02::/64", "fd03::/64"), TooManyAddresses),
		refuse("nothing", scan(), TargetOutOfScope, "no target"),
		refuse("host bits", scan("10.1.2.3/24"), TargetOutOfScope, "write 10.1.2.0/24"),
		refuse("a target that is both", scan("10.1.2.3").with(func(r *Request) { r.Targets[0].Name = "x" }), TargetOutOfScope),
		refuse("a target that is neither", Request{Tool: "nmap_scan", Profile: "quick", Targets: []Target{{Text: "?"}}}, TargetOutOfScope),
		refuse("very many targets", scan(slices.Repeat([]string{"10.1.2.3"}, 5000)...), TooManyAddresses),
	})
}

// What a request leaves out of its own targets is not judged, and said like what a rule leaves out.
func TestWhatARequestLeavesOut(t *testing.T) {
	but := func(r Request, omit ...string) Request {
		return r.with(func(r *Request) { r.Omit = prefixes(omit...) })
	}
	labWorld(t).check(t, []row{
		allow("an address of a network", but(scan("10.1.2.0/30"), "10.1.2.1/32"), "10.1.2.0 10.1.2.2/31", "10.1.2.1 by caller: exclude"),
		allow("what is no target changes nothing", but(scan("10.1.2.0/30"), "10.1.3.0/24"), "10.1.2.0/30"),
		allow("a network around some of the targets", but(scan("10.1.2.0/30", "10.3.0.0/31"), "10.3.0.0/31", "10.1.2.2/31").with(func(r *Request) { r.Targets = r.Targets[:1] }), "10.1.2.0/31"),
		allow("what a rule excludes stays the rule's", but(scan("10.0.0.0/29"), "10.0.0.0/31"), "10.0.0.2/31 10.0.0.4/30", "10.0.0.1 by exclude[0] 10.0.0.1", "10.0.0.0 by caller: exclude"),
		allow("what no rule allows", but(scan("192.168.0.0/23"), "192.168.0.0/24"), "192.168.1.0/24", "192.168.0.0/24 by caller: exclude"),
		allow("the limit counts what is left", but(scan("10.1.0.0/19"), "10.1.0.0/20"), "10.1.16.0/20", "4096 addresses"),
		allow("an answer of a name", but(scan("db.lab.internal=10.0.2.3,10.0.2.4"), "10.0.2.4/32"), "10.0.2.3", "10.0.2.4 by caller: exclude"),
		refuse("all of a target", but(scan("10.1.2.0/30"), "10.1.2.0/24"), TargetExcluded, "the request itself", "take it out of targets"),
		refuse("all of one of two", but(scan("10.1.2.0/30", "10.1.3.1"), "10.1.3.1/32"), TargetExcluded, "targets[1]"),
		refuse("all that a rule leaves", but(scan("10.0.0.0/31"), "10.0.0.0/32"), TargetExcluded, "exclude[0] 10.0.0.1"),
		refuse("all answers of a name", but(scan("db.lab.internal=10.1.2.3"), "10.1.2.0/24"), TargetExcluded, "the request itself"),
		refuse("no part of what is outside is forgiven", but(scan("192.168.0.0/23"), "192.168.0.0/25"), TargetOutOfScope, `got         "192.168.0.128/25"`),
	})
}

func TestNames(t *testing.T) {
	labWorld(t).check(t, []row{
		allow("a name below the suffix", scan("web.lab.internal=10.0.3.4"), "10.0.3.4", "targets[7] .lab.internal"),
		allow("deep below the suffix, both families", scan("a.b.lab.internal=10.0.3.4,fd00::7"), "10.0.3.4 fd00::7"),
		allow("the second rule that covers a name", scan("db.lab.internal=192.168.1.9"), "192.168.1.9", "targets[8] db.lab.internal"),
		allow("two names", scan("web.lab.internal=10.0.3.4", "db.lab.internal=192.168.1.9"), "10.0.3.4 192.168.1.9"),
		refuse("a bad name after a good one", scan("web.lab.internal=10.0.3.4", "ftp.lab.internal=8.8.8.8"), NameOutsideScope, "targets[1]"),
		refuse("the same name with another answer", scan("web.lab.internal=10.0.3.4", "web.lab.internal=8.8.8.8"), NameOutsideScope, "targets[1]"),
		allow("a name with an address", scan("web.lab.internal=10.0.3.4", "10.1.1.1"), "10.0.3.4 10.1.1.1"),
		allow("a name's rule that lies in reserved ranges lifts them for it", scan("cloud.lab.internal=169.254.169.254,198.18.0.7"), "169.254.169.254 198.18.0.7"),

		refuse("no rule covers the name", scan("www.example.org=10.0.3.4"), NameNotAllowed, ".lab.internal"),
		refuse("the suffix alone is not below itself", scan("lab.internal=10.0.3.4"), NameNotAllowed),
		refuse("no label border", scan("evil-lab.internal=10.0.3.4"), NameNotAllowed),
		refuse("a name that resolves outside", scan("web.lab.internal=8.8.8.8"), NameOutsideScope, `got         "8.8.8.8"`, "10.0.0.0/16"),
		refuse("an address of another rule does not help", scan("web.lab.internal=10.1.0.1"), NameOutsideScope, "10.1.0.1"),
		refuse("one bad answer among good ones", scan("web.lab.internal=10.0.3.4,10.0.3.5,8.8.8.8"), NameOutsideScope, "8.8.8.8"),
		refuse("answers in two rules, none of them in one", scan("db.lab.internal=192.168.1.9,10.0.3.4"), NameOutsideScope),
		refuse("an excluded answer", scan("web.lab.internal=10.0.0.1"), NameOutsideScope, "exclude[0] 10.0.0.1"),
		refuse("the machine's own address", scan("web.lab.internal=10.0.5.5"), NameOutsideScope, "its own address"),
		refuse("loopback, which is lifted for addresses and not for this name", scan("web.lab.internal=127.0.0.1"), NameOutsideScope),
		refuse("metadata within the rule's own networks", scan("web.lab.internal=fd00:ec2::254"), NameOutsideScope),
		refuse("an answer in IPv4-mapped disguise", scan("web.lab.internal=::ffff:10.0.3.4"), NameOutsideScope, "no plain address"),
		refuse("an answer with a zone", scan("web.lab.internal=fd00::7%eth0"), NameOutsideScope, "no plain address"),
		refuse("no answer", scan("web.lab.internal="), NameUnresolved),
		refuse("capitals", scan("Web.lab.internal=10.0.3.4"), NameNotAllowed, "canonical"),
		refuse("a final dot", scan("web.lab.internal.=10.0.3.4"), NameNotAllowed, "canonical"),
		refuse("an address in short form as a name", scan("10.1=10.0.3.4"), NameNotAllowed, "canonical"),
		refuse("an option as a name", scan("--script.lab.internal=10.0.3.4"), NameNotAllowed, "canonical"),
		refuse("a list as a name", scan("a,b.lab.internal=10.0.3.4"), NameNotAllowed, "canonical"),
	})
}

// A rate beyond a budget is no denial: the job is slowed, and told by which.
func TestABudgetSlowsAJob(t *testing.T) {
	one := scan("10.1.2.3")
	with := func(budget string, machine int) world {
		w := labWorld(t)
		w.Policy = &Policy{Engagements: []Engagement{parse(t, strings.Replace(lab, "packets_per_second: 500", "packets_per_second: 500"+budget, 1))}, Machine: w.Machine}
		w.Policy.Machine.Budget = machine
		return w
	}
	engagement, both := with(", total_packets_per_second: 100", 0), with(", total_packets_per_second: 100", 60)
	engagement.check(t, []row{
		allow("the engagement's limit is more", one, "10.1.2.3", "100 packets a second, 1h0m0s a job", "all jobs together 100 packets a second",
			"slowed      to 100 packets per second: all scans under engagement lab together have no more (limits.total_packets_per_second)"),
		allow("a rate that is more", one.with(func(r *Request) { r.Rate = 101 }), "10.1.2.3", "slowed      to 100"),
		refuse("one that no job has", one.with(func(r *Request) { r.Rate = 501 }), RateTooHigh),
	})
	both.check(t, []row{allow("the machine has less", one, "10.1.2.3", "slowed      to 60 packets per second: all scans of this machine together have no more (scans.packets_per_second)")})
	for _, v := range []Verdict{
		Decide(engagement.Policy, engagement.caller, one.with(func(r *Request) { r.Rate = 100 }), engagement.now),
		Decide(with("", 500).Policy, engagement.caller, one, engagement.now),
		Decide(with("", 0).Policy, engagement.caller, one, engagement.now),
	} {
		if v.Outcome != Allow || v.Slowed != "" {
			t.Errorf("slowed without a cause: %s", v)
		}
	}
}

func TestLimitsToolsAndTime(t *testing.T) {
	w := labWorld(t)
	at := func(when string) world {
		now, err := time.Parse(time.RFC3339, when)
		if err != nil {
			t.Fatal(err)
		}
		return world{w.Policy, bob, now}
	}
	one := scan("10.1.2.3")
	w.check(t, []row{
		allow("as many ports as allowed", one.with(func(r *Request) { r.Ports = 1000 }), "10.1.2.3"),
		refuse("a port more", one.with(func(r *Request) { r.Ports = 1001 }), TooManyPorts, "\"1001\"", "allowed     1000", "limits.ports_per_address"),
		allow("the rate that is allowed", one.with(func(r *Request) { r.Rate = 500 }), "10.1.2.3"),
		allow("a lower rate is the job's", one.with(func(r *Request) { r.Rate = 20 }), "10.1.2.3", "20 packets a second"),
		refuse("a higher rate", one.with(func(r *Request) { r.Rate = 501 }), RateTooHigh, "\"501\"", "allowed     500"),
		refuse("a longer time", one.with(func(r *Request) { r.Duration = 2 * time.Hour }), DurationTooLong, "\"7200\"", "allowed     3600", "limit is in seconds"),
		refuse("less than nothing", one.with(func(r *Request) { r.Rate = -1 }), RateTooHigh),
		refuse("intrusive, which nobody allows", one.with(func(r *Request) { r.Intrusive = []string{"scripts"} }), Intrusive, "\"scripts\""),
		approve("intrusive, to be approved", scan("172.16.0.1").with(func(r *Request) { r.Intrusive = []string{"scripts"} }), "172.16.0.1", "intrusive: scripts", "within 1h0m0s, by an operator who is not who asked"),
		refuse("another tool", one.with(func(r *Request) { r.Tool = "gobuster_scan" }), ToolNotAllowed, "masscan_scan"),
		refuse("another profile", one.with(func(r *Request) { r.Profile = "thorough" }), ProfileNotAllowed, "quick"),
		refuse("no profile", one.with(func(r *Request) { r.Profile = "" }), ProfileNotAllowed),
		allow("any profile of a tool with all", one.with(func(r *Request) { r.Tool, r.Profile = "masscan_scan", "fast" }), "10.1.2.3"),
		allow("an engagement by name", one.with(func(r *Request) { r.Engagement = "lab" }), "10.1.2.3"),
		refuse("the other engagement by name", one.with(func(r *Request) { r.Engagement = "office" }), TargetOutOfScope, "engagement office"),
		refuse("no such engagement", one.with(func(r *Request) { r.Engagement = "offcie" }), NoEngagement, `did you mean "office"?`),
	})
	world{w.Policy, bob, monday}.check(t, []row{
		allow("by group", one, "10.1.2.3", "until       2026-11-23T18:00:00Z"),
		refuse("not named by this one", scan("172.16.0.1").with(func(r *Request) { r.Engagement = "office" }), NotACaller, "uid 1001"),
	})
	world{w.Policy, carol, monday}.check(t, []row{
		refuse("named by none", one, NotACaller),
		refuse("whoever asks learns nothing of other people's engagements", one.with(func(r *Request) { r.Engagement = "x" }), NoEngagement),
	})
	at("2026-11-23T08:00:00Z").check(t, []row{allow("as it opens", one, "10.1.2.3")})
	at("2026-11-23T07:59:59Z").check(t, []row{refuse("a moment earlier", one, OutsideHours, "it opens at 2026-11-23T08:00:00Z", "mon tue 08:00-18:00 UTC")})
	at("2026-11-23T18:00:00Z").check(t, []row{refuse("as it closes", one, OutsideHours, "it opens at 2026-11-24T08:00:00Z")})
	at("2026-11-25T10:00:00Z").check(t, []row{refuse("on another day", one, OutsideHours, "it opens at 2026-11-30T08:00:00Z")})
	at("2026-11-30T17:59:59Z").check(t, []row{allow("on the last day", one, "10.1.2.3")})
	at("2026-12-01T00:00:00Z").check(t, []row{refuse("after the last day", one, Expired, "2026-12-01T00:00:00Z")})
	world{w.Policy, Caller{UID: 0, GID: 0}, monday}.check(t, []row{refuse("root is a caller like any other", one, NotACaller)})
	for _, p := range []*Policy{nil, {}} {
		world{p, alice, monday}.check(t, []row{refuse("nothing is authorised", one, NoEngagement)})
	}
	world{&Policy{Engagements: []Engagement{{}, {Name: "lab"}}}, Caller{}, monday}.check(t, []row{refuse("an engagement that was not read", one, NotACaller)})
}

// However targets overlap, an address that is left out is left out once.
func TestExcludedCountsEachAddressOnce(t *testing.T) {
	w := labWorld(t)
	for _, c := range []struct {
		says string
		r    Request
		want []string
	}{
		{"a network", scan("10.0.0.0/30"), []string{"10.0.0.1/32"}},
		{"the same network again", scan("10.0.0.0/30", "10.0.0.0/30"), []string{"10.0.0.1/32"}},
		{"a network in a network", scan("10.0.0.0/24", "10.0.0.0/30"), []string{"10.0.0.1/32"}},
		{"the other way round", scan("10.0.0.0/30", "10.0.0.0/24"), []string{"10.0.0.1/32"}},
		{"two families", scan("10.0.0.0/30", "fd00::ba0/124", "fd00::b00/120"), []string{"10.0.0.1/32", "fd00::bad/128"}},
	} {
		v := Decide(w.Policy, alice, c.r, monday)
		var got []string
		for _, e := range v.Excluded() {
			got = append(got, e.Prefix.String())
		}
		if v.Outcome != Allow || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v of\n%s", c.says, got, v)
		}
	}
	v := Verdict{Targets: []Judged{
		{Excluded: []Exclusion{{netip.MustParsePrefix("10.9.0.0/25"), "a"}}},
		{Excluded: []Exclusion{{netip.MustParsePrefix("10.8.0.0/16"), "b"}, {netip.MustParsePrefix("10.9.0.0/16"), "b"}}},
	}}
	if got := v.Excluded(); len(got) != 2 || got[1].Prefix.Bits() != 16 {
		t.Errorf("a part and the whole: %v", got)
	}
}

func TestSuspended(t *testing.T) {
	w := labWorld(t)
	w.Suspended = map[string]string{"lab": "lab.yaml:3: callers: got nothing"}
	one := scan("10.1.2.3")
	named := one.with(func(r *Request) { r.Engagement = "lab" })
	w.check(t, []row{
		refuse("suspended, with why for its caller", named, EngagementSuspended, "lab.yaml:3"),
		refuse("the others stand", one, TargetOutOfScope, "engagement office"),
		allow("and allow", scan("172.16.0.1"), "172.16.0.1"),
	})
	world{w.Policy, bob, monday}.check(t, []row{refuse("the only one is suspended", one, EngagementSuspended, "lab.yaml:3")})
	if v := Decide(w.Policy, carol, named, monday); v.Code != EngagementSuspended || strings.Contains(v.String(), "lab.yaml") {
		t.Errorf("carol is told what the file says:\n%s", v)
	}
	if v := Rejudge(w.Policy, bob, one, "lab", monday); v.Outcome != Allow {
		t.Errorf("a running job does not go on under the engagement as it last was:\n%s", v)
	}
	if v := Rejudge(w.Policy, bob, one, "lab", monday.AddDate(0, 0, 20)); v.Code != Expired {
		t.Errorf("a running job outlives the engagement:\n%s", v)
	}
	never := &Policy{Suspended: w.Suspended}
	world{never, bob, monday}.check(t, []row{
		refuse("one that was never read", one, EngagementSuspended, "some engagement files are faulty", "secmcpd check"),
		refuse("by name", named, EngagementSuspended),
	})
	w.Suspended["secret"] = "secret.yaml:1: name: got nothing"
	for says, p := range map[string]*Policy{"nothing else is in force": never, "others are in force": w.Policy} {
		if v := Decide(p, carol, one, monday); v.Code != EngagementSuspended || strings.Contains(v.String(), "secret") || strings.Contains(v.String(), "lab") ||
			!strings.Contains(v.String(), "secmcpd check") {
			t.Errorf("%s: somebody whom a faulty file may name is told\n%s", says, v)
		}
	}
	for _, name := range []string{"lab", "gone"} {
		if v := Rejudge(never, bob, one, name, monday); v.Outcome == Allow {
			t.Errorf("a running job goes on under an engagement that is not there:\n%s", v)
		}
	}
	if v := Rejudge(nil, bob, one, "lab", monday); v.Code != NoEngagement {
		t.Errorf("no policy:\n%s", v)
	}
}

// An engagement that was narrowed, removed, or lost its caller ends its running jobs.
func TestRejudge(t *testing.T) {
	r := scan("web.lab.internal=10.0.3.4", "10.1.2.0/24")
	for _, row := range []struct {
		why, from, to string
		code          string
	}{
		{"nothing changed", "", "", ""},
		{"the description changed", "\ncallers", "\ndescription: x\ncallers", ""},
		{"the answer of the name is excluded now", "- 10.0.0.1\n", "- 10.0.3.4\n", NameOutsideScope},
		{"the network is excluded now", "- 10.0.0.1\n", "- 10.1.0.0/16\n", TargetExcluded},
		{"the rule is gone", "- 10.0.0.0/8\n", "- 10.0.0.0/16\n", TargetOutOfScope},
		{"the caller is gone", "groups: [50]", "groups: [51]", NotACaller},
		{"fewer addresses", "addresses_per_job: 4096", "addresses_per_job: 256", TooManyAddresses},
		{"the tool is gone", "nmap_scan:", "other_scan:", ToolNotAllowed},
		{"other hours", `from: "08:00"`, `from: "11:00"`, OutsideHours},
	} {
		if !strings.Contains(lab, row.from) {
			t.Fatalf("%s: the text is not in the engagement", row.why)
		}
		p := &Policy{Engagements: []Engagement{parse(t, strings.Replace(lab, row.from, row.to, 1))}, Machine: machine}
		if v := Rejudge(p, bob, r, "lab", monday); v.Code != row.code {
			t.Errorf("%s: got %q, want %q\n%s", row.why, v.Code, row.code, v)
		}
	}
	// The machine got the address of the target.
	p := &Policy{Engagements: []Engagement{parse(t, lab)}, Machine: Machine{Own: prefixes("10.0.3.4/32")}}
	if v := Rejudge(p, bob, r, "lab", monday); v.Code != NameOutsideScope {
		t.Errorf("a job goes on against this machine:\n%s", v)
	}
}

func TestPrecheck(t *testing.T) {
	w := labWorld(t)
	for _, row := range []struct {
		why  string
		r    Request
		want string
	}{
		{"a name that a rule could allow", scan("web.lab.internal="), "allow"},
		{"a name whose answers are ignored", scan("web.lab.internal=8.8.8.8"), "allow"},
		{"a name that no rule could allow is not asked for", scan("secret.example.org="), NameNotAllowed},
		{"a bad address beside a good name", scan("web.lab.internal=", "193.0.0.1"), TargetOutOfScope},
		{"too many ports, before anything is asked", scan("web.lab.internal=").with(func(r *Request) { r.Ports = 5000 }), TooManyPorts},
		{"another tool", scan("web.lab.internal=").with(func(r *Request) { r.Tool = "x" }), ToolNotAllowed},
		{"intrusive", scan("web.lab.internal=").with(func(r *Request) { r.Intrusive = []string{"x"} }), Intrusive},
	} {
		v := Precheck(w.Policy, w.caller, row.r, w.now)
		got := v.Code
		if v.Outcome == Allow {
			got = "allow"
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q\n%s", row.why, got, row.want, v)
		}
		if v.MoreNames != (row.want == "allow") {
			t.Errorf("%s: more names: %v", row.why, v.MoreNames)
		}
		if v.Outcome == Allow && len(v.Addresses()) != 0 {
			t.Errorf("%s: a name has addresses before it was asked for: %v", row.why, v.Addresses())
		}
	}
	if v := Precheck(w.Policy, w.caller, scan("10.1.2.3"), w.now); v.MoreNames || v.Outcome != Allow {
		t.Errorf("no name is left to ask for, yet: %s", v)
	}
}

// Every row of the table is refused where no rule names it, left out of wider rules, and lifted
// by a rule that lies in it or not at all, as the row says.
func TestNever(t *testing.T) {
	wide := newScope([]portRule{newPortRule("wide", netip.MustParsePrefix("0.0.0.0/0"), allPorts, ""), newPortRule("wide", netip.MustParsePrefix("::/0"), allPorts, "")})
	for _, row := range never {
		if row.why == "" || row.what == "" {
			t.Errorf("%v gives no reason", row.span)
		}
		for _, a := range []netip.Addr{row.from, row.to} {
			own := span{a, a}
			if p := wide.judge(own, nil, Machine{}); len(p.left) != 0 {
				t.Errorf("%s (%s) is a target under the widest rule", a, row.what)
			}
			if _, is := neverRow(own); !is {
				t.Errorf("%s (%s) is not told as what it is", a, row.what)
			}
			named := newScope([]portRule{newPortRule("exact", netip.PrefixFrom(a, a.BitLen()), allPorts, "")})
			lifted := len(named.judge(own, nil, Machine{}).left) == 1
			if want := liftable(a); lifted != want {
				t.Errorf("%s (%s), named by a rule: lifted is %v, want %v", a, row.what, lifted, want)
			}
		}
	}
	for _, text := range []string{"1.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "100.64.0.1", "10.0.0.1",
		"172.16.0.1", "192.168.0.1", "223.255.255.255", "fc00::1", "fd00::1", "2001:4860::1", "2600::1", "64:ff9c::1", "2003::1", "fe7f::1"} {
		a := netip.MustParseAddr(text)
		if p := wide.judge(span{a, a}, nil, Machine{}); len(p.left) != 1 {
			t.Errorf("%s is never a target: %v", a, p.taken)
		}
	}
}

// liftable says that each row of a lifts.
func liftable(a netip.Addr) bool {
	for _, row := range never {
		if !row.lifts && (span{a, a}).isIn(row.span) {
			return false
		}
	}
	return true
}

// A rule lifts its own addresses, of the row that it lies in, and nothing of the rows inside.
func TestLifting(t *testing.T) {
	judge := func(asked string, rules ...string) string {
		var list []portRule
		for _, text := range rules {
			list = append(list, newPortRule("r", netip.MustParsePrefix(text), allPorts, ""))
		}
		p := newScope(list).judge(spanOf(netip.MustParsePrefix(asked)), nil, machine)
		return strings.Join(textsOf(prefixesOf(p.left)), " ")
	}
	for _, row := range []struct{ why, asked, want, rules string }{
		{"a rule in loopback", "127.0.0.0/31", "127.0.0.0/31", "127.0.0.0/31"},
		{"beside a wide one lifts its own addresses only", "127.0.0.0/30", "127.0.0.0/31", "0.0.0.0/0 127.0.0.0/31"},
		{"a rule wider than the row", "127.0.0.0/31", "", "126.0.0.0/7"},
		{"link-local does not lift metadata in it", "169.254.169.254/31", "169.254.169.255", "169.254.0.0/16"},
		{"metadata by name", "169.254.169.254/32", "169.254.169.254", "169.254.169.254/32"},
		{"loopback of IPv6 is not IPv4-compatible", "::1/128", "::1", "::1/128"},
		{"containers", "172.17.0.4/30", "172.17.0.4/30", "172.17.0.0/24"},
		{"containers under a wide rule", "172.17.0.4/30", "", "172.16.0.0/12"},
		{"a broadcast address", "10.0.5.255/32", "10.0.5.255", "10.0.5.255/32"},
		{"own addresses are never lifted", "10.0.5.5/32", "", "10.0.5.5/32"},
		{"nor slots", "10.200.0.0/24", "", "10.200.0.0/24"},
		{"nor the broadcast address of everybody", "255.255.255.255/32", "", "255.255.255.255/32"},
		{"class E goes without it", "255.255.255.254/31", "255.255.255.254", "240.0.0.0/4"},
	} {
		if got := judge(row.asked, strings.Fields(row.rules)...); got != row.want {
			t.Errorf("%s: %s under %s leaves %q, want %q", row.why, row.asked, row.rules, got, row.want)
		}
	}
}

// A decision about a network of sixteen million addresses with thousands of holes is quick.
func TestLargeNetworks(t *testing.T) {
	var text strings.Builder
	text.WriteString("name: big\ncallers: {users: [1000]}\ntargets: [10.0.0.0/8, \"fd00::/8\"]\ntools: {nmap_scan: {profiles: [\"*\"]}}\nlimits: {addresses_per_job: 20000000}\nexclude:\n")
	for i := range maxRules / 2 {
		text.WriteString("  - \"" + netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(i >> 5), 2: byte(i << 3), 15: byte(i)}).String() + "\"\n")
		text.WriteString("  - " + netip.AddrFrom4([4]byte{10, byte(i >> 5), byte(i << 3), byte(i)}).String() + "\n")
	}
	w := world{&Policy{Engagements: []Engagement{parse(t, text.String())}, Machine: machine}, alice, monday}
	begin := time.Now()
	v := Decide(w.Policy, alice, scan("10.0.0.0/8"), monday)
	if v.Outcome != Allow {
		t.Fatal(v)
	}
	got := sizeOf(v.spans())
	var out uint64
	for _, e := range v.Targets[0].Excluded {
		out += spanOf(e.Prefix).size()
	}
	if got+out != 1<<24 {
		t.Errorf("%d addresses and %d left out are not 10.0.0.0/8", got, out)
	}
	// The worst that a lying front may ask: as many targets as go into a request.
	all := scan(slices.Repeat([]string{"10.0.0.0/8"}, maxTargets)...)
	for i := range all.Targets[1:] {
		all.Targets[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16+i%9).Masked()
	}
	Decide(w.Policy, alice, all, monday)
	var nested Request
	for bits := 8; bits < 128; bits++ {
		nested = scan(append(textsOf(targetsOf(nested)), netip.PrefixFrom(netip.MustParseAddr("fd00::"), bits).String())...)
	}
	Decide(w.Policy, alice, nested, monday)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func targetsOf(r Request) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range r.Targets {
		out = append(out, t.Prefix)
	}
	return out
}
