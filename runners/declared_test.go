package runners

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secmcpd/secmcpd/internal/strict"
	"github.com/secmcpd/secmcpd/internal/wire"
)

// everything is a declaration that uses what there is.
const everything = `name: all_scan
title: All
description: Everything that a declaration can say.
program: /usr/bin/all
version: {arguments: [-V], pattern: '^all ([0-9]+)\.([0-9]+)', from: "1.2", to: "1.9"}
needs: {raw_sockets: true, icmp: true, udp: [53]}
targets: {ip_versions: [4, 6], at_most: 8}
fields:
  - {name: count, type: integer, about: how often, min: 0, max: 5, default: 2, words: [-c, "{}"], intrusive_above: 3}
  - {name: deep, type: boolean, about: more of it, words: [--deep, --deeper], intrusive: it goes deep}
  - name: way
    type: enum
    about: which way
    values:
      - {name: plain}
      - {name: loud, words: [--loud], intrusive: it is loud}
  - {name: ports, type: ports, protocol: tcp, about: which ports, at_most: 4, default: "80"}
  - {name: list, type: wordlist, about: which words, default: small, words: ["--words={}"]}
profiles:
  - {name: quick, about: little, set: {way: plain}}
  - {name: much, about: more, set: {way: loud, count: 3, deep: true, ports: "443,22-23"}}
command: [--pace, "{gap_ms}", "--rate={rate}", "{count}", "{deep}", "{way}", "{list}", -p, "{ports}", "to={targets}"]
cost: {packets: 2, times: [count, list], start: 2s, each: 100ms, at_once: 10}
output: {lists: found, json: {host: ip, port: port}}
`

func declare(t testing.TB, name, text string) Declaration {
	t.Helper()
	d, faults := ParseDeclaration("/etc/secmcpd/runners.d/"+name+".yaml", []byte(text))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return d
}

func example(t testing.TB, name string) Declaration {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "packaging", "runners.d", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return declare(t, name, string(text))
}

// declaredTable is the built-in scanners, the examples and everything.
func declaredTable(t testing.TB) Table {
	return BuiltIn().With(declare(t, "all_scan", everything), example(t, "fping_scan"), example(t, "sslscan_scan"))
}

func TestDeclaredCommands(t *testing.T) {
	table := declaredTable(t)
	for _, row := range []struct {
		says, tool, arguments string
		to                    []netip.Prefix
		reach                 *Reach
		want                  string
	}{
		{"the defaults of the first profile", "all_scan", `{"targets":["10.0.0.5"]}`, prefixes("10.0.0.5/32"), nil,
			"all --pace 1 --rate=1000 -c 2 --words=/in/words -p 80 to=10.0.0.5"},
		{"another profile", "all_scan", `{"targets":["10.0.0.5"],"profile":"much"}`, prefixes("10.0.0.5/32"), nil,
			"all --pace 1 --rate=1000 -c 3 --deep --deeper --loud --words=/in/words -p 22-23,443 to=10.0.0.5"},
		{"what the caller says goes before the profile", "all_scan", `{"targets":["10.0.0.5"],"profile":"much","count":0,"deep":false,"way":"plain","ports":[8080,"81-82",80],"list":"big","rate":300}`, prefixes("10.0.0.5/32"), nil,
			"all --pace 4 --rate=300 -c 0 --words=/in/words -p 80-82,8080 to=10.0.0.5"},
		{"each address is a word", "all_scan", `{"targets":["10.0.0.4/30"],"exclude":["10.0.0.6"]}`, prefixes("10.0.0.4/31", "10.0.0.7/32"), nil,
			"all --pace 1 --rate=1000 -c 2 --words=/in/words -p 80 to=10.0.0.4 to=10.0.0.5 to=10.0.0.7"},
		{"ports that may not be sent to are left out", "all_scan", `{"targets":["10.0.0.5"],"ports":["80-90"]}`, prefixes("10.0.0.5/32"), &Reach{TCP: [][2]uint16{{85, 100}}, UDP: [][2]uint16{{53, 53}}, ICMP: true},
			"all --pace 1 --rate=1000 -c 2 --words=/in/words -p 85-90 to=10.0.0.5"},
		{"IPv6", "fping_scan", `{"targets":["fd00::5"]}`, prefixes("fd00::5/128"), nil, "fping -A -B 1.5 -t 500 -i 1 -r 0 -b 56 fd00::5"},
		{"IPv6 with a port", "sslscan_scan", `{"targets":["fd00::5"],"port":8443,"starttls":"smtp"}`, prefixes("fd00::5/128"), nil,
			"sslscan --no-colour --no-heartbleed --timeout=5 --starttls-smtp --no-ciphersuites --no-groups [fd00::5]:8443"},
		{"IPv4 with a port", "sslscan_scan", `{"targets":["10.0.0.5"],"profile":"standard"}`, prefixes("10.0.0.5/32"), nil,
			"sslscan --no-colour --no-heartbleed --timeout=5 10.0.0.5:443"},
	} {
		call, faults := table.Read(row.tool, []byte(row.arguments))
		if len(faults) > 0 {
			t.Errorf("%s: %v", row.says, faults)
			continue
		}
		c, err := call.Command(Version{1, 5}, row.to, nil, row.reach)
		if got := strings.Join(c.Argv, " "); err != nil || got != row.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", row.says, err, got, row.want)
		}
		checkDeclaredStable(t, table, call)
	}
}

// checkDeclaredStable wants a call to have one meaning and one spelling, on paper and on the wire.
func checkDeclaredStable(t *testing.T, table Table, call Call) {
	t.Helper()
	text, err := call.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	again, faults := table.Read(call.Tool, text)
	if diff := cmp.Diff(call, again, cmpopts.IgnoreUnexported(Declared{})); len(faults) > 0 || diff != "" {
		t.Errorf("%s: %v\n%s", text, faults, diff)
	}
	value, err := wire.Encode(&call, wire.MaxValue)
	if err != nil {
		t.Fatal(err)
	}
	var decoded Call
	if err := wire.Decode(value, wire.MaxValue, &decoded); err != nil {
		t.Fatal(err)
	}
	checked, faults := table.Validate(decoded)
	if diff := cmp.Diff(call, checked, cmpopts.IgnoreUnexported(Declared{})); len(faults) > 0 || diff != "" {
		t.Errorf("%s over the wire: %v\n%s", text, faults, diff)
	}
	if checked.Plan().Profile != call.Plan().Profile {
		t.Errorf("%s: its plan is lost on the wire", text)
	}
}

// Every dangerous option of every scanner, tried as every argument of declared ones: refused, or (a word that happens to be
// allowed) inert: the command line has the words of the declaration, and in their places what this package writes.
func TestDangerousOptionsAreRefusedByDeclaredScanners(t *testing.T) {
	table := declaredTable(t)
	for _, tool := range []string{"all_scan", "fping_scan", "sslscan_scan"} {
		d := table.Declaration(tool)
		words := slices.Clone(d.command)
		for _, f := range d.fields {
			words = append(words, f.words...)
			for _, v := range f.values {
				words = append(words, v.words...)
			}
		}
		var known []string
		for _, w := range words {
			known = append(known, strings.ReplaceAll(regexp.QuoteMeta(slot.ReplaceAllString(w, "\x00")), "\x00", `([0-9.,:-]+|/in/words)`))
		}
		form := regexp.MustCompile("^(" + strings.Join(known, "|") + ")$")
		for _, options := range []string{"nmap", "masscan", "gobuster"} {
			tryTable(t, table, "testdata/"+options+"_dangerous.txt", tool, fieldNames(d.arguments()), []map[string]any{{"targets": []string{"10.0.0.5"}}}, func(call Call) {
				var to []netip.Prefix
				for _, target := range call.Plan().Targets {
					if target.Name != "" {
						target.Prefix = netip.MustParsePrefix("10.9.8.7/32")
					}
					to = append(to, target.Prefix)
				}
				c, err := call.WithWords(100).Command(Version{1, 5}, to, nil, nil)
				if err != nil && !strings.Contains(err.Error(), "are more than") {
					t.Errorf("no command for %+v: %v", call.Declared, err)
				}
				for _, word := range c.Argv[min(1, len(c.Argv)):] {
					if !form.MatchString(word) {
						t.Errorf("%s: %q is no word of the declaration in %q", tool, word, c.Argv)
					}
				}
			})
		}
	}
}

func TestDeclaredFaults(t *testing.T) {
	table := declaredTable(t)
	for _, row := range []struct{ says, tool, arguments, code, field string }{
		{"no targets", "all_scan", `{}`, "missing", "targets"},
		{"an option for a target", "all_scan", `{"targets":["--all"]}`, "target_option", "targets[0]"},
		{"too many addresses", "all_scan", `{"targets":["10.0.0.0/24"]}`, "too_many", "targets"},
		{"too many targets", "sslscan_scan", `{"targets":["10.0.0.5","10.0.0.6"]}`, "too_many", "targets"},
		{"a number beyond its bounds", "all_scan", `{"targets":["10.0.0.5"],"count":6}`, "out_of_range", "count"},
		{"a number that is a text", "all_scan", `{"targets":["10.0.0.5"],"count":"2"}`, "wrong_type", "count"},
		{"a truth that is a text", "all_scan", `{"targets":["10.0.0.5"],"deep":"yes"}`, "wrong_type", "deep"},
		{"a word that is none of the values", "all_scan", `{"targets":["10.0.0.5"],"way":"--loud"}`, "not_one_of", "way"},
		{"a path for a wordlist", "all_scan", `{"targets":["10.0.0.5"],"list":"../etc/shadow"}`, "bad_name", "list"},
		{"no ports", "all_scan", `{"targets":["10.0.0.5"],"ports":[]}`, "too_few", "ports"},
		{"a port that is none", "all_scan", `{"targets":["10.0.0.5"],"ports":["80;id"]}`, "bad_port", "ports[0]"},
		{"too many ports", "all_scan", `{"targets":["10.0.0.5"],"ports":[1,3,5,7,9]}`, "too_many", "ports"},
		{"port zero", "sslscan_scan", `{"targets":["10.0.0.5"],"port":0}`, "out_of_range", "port"},
		{"an argument that is none", "all_scan", `{"targets":["10.0.0.5"],"argv":["-x"]}`, "unknown_argument", "argv"},
		{"a profile that is none", "all_scan", `{"targets":["10.0.0.5"],"profile":"all"}`, "not_one_of", "profile"},
		{"a name that is left out", "all_scan", `{"targets":["10.0.0.0/29"],"exclude":["a.lab"]}`, "target_address", "exclude[0]"},
		{"both versions of IP", "all_scan", `{"targets":["10.0.0.5","fd00::5"]}`, "mixed_families", "targets[1]"},
		{"a tool that is none", "ping_scan", `{"targets":["10.0.0.5"]}`, "unknown_tool", "tool"},
	} {
		_, faults := table.Read(row.tool, []byte(row.arguments))
		if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Code == row.code && f.Field == row.field }) {
			t.Errorf("%s: %v, want %s of %s", row.says, faults, row.code, row.field)
		}
	}
}

// What Read would not have left is refused when it comes over the wire.
func TestDeclaredValuesFromElsewhere(t *testing.T) {
	table := declaredTable(t)
	read := func() Call {
		call, faults := table.Read("all_scan", []byte(`{"targets":["10.0.0.5"]}`))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		return call
	}
	if _, faults := table.Validate(read()); len(faults) > 0 {
		t.Fatal(faults)
	}
	for says, change := range map[string]func(*Call){
		"of another revision":         func(c *Call) { c.Declared.Revision = "0123456789abcdef" },
		"of another tool":             func(c *Call) { c.Tool = "fping_scan" },
		"of a built-in tool":          func(c *Call) { c.Tool = "nmap_scan" },
		"of two tools":                func(c *Call) { c.Nmap = mustRead(t, `{"targets":["10.0.0.5"]}`).Nmap },
		"a field more":                func(c *Call) { c.Declared.Values["x"] = "1" },
		"a field less":                func(c *Call) { delete(c.Declared.Values, "count") },
		"an option in an enum":        func(c *Call) { c.Declared.Values["way"] = "--loud" },
		"an option in a number":       func(c *Call) { c.Declared.Values["count"] = "-1" },
		"a number with a sign":        func(c *Call) { c.Declared.Values["count"] = "+1" },
		"a number with zeros":         func(c *Call) { c.Declared.Values["count"] = "01" },
		"an option in ports":          func(c *Call) { c.Declared.Values["ports"] = "80,-iL" },
		"ports out of order":          func(c *Call) { c.Declared.Values["ports"] = "443,80" },
		"no ports":                    func(c *Call) { c.Declared.Values["ports"] = "" },
		"a path for a list":           func(c *Call) { c.Declared.Values["list"] = "/etc/shadow" },
		"an option for a target":      func(c *Call) { c.Declared.Targets = []string{"-x"} },
		"a target twice":              func(c *Call) { c.Declared.Targets = []string{"10.0.0.5", "10.0.0.5"} },
		"a truth that is none":        func(c *Call) { c.Declared.Values["deep"] = "TRUE" },
		"a version of IP that is not": func(c *Call) { c.Declared.IPVersion = 5 },
		"a rate beyond":               func(c *Call) { c.Declared.Rate = maxRate + 1 },
		"a profile that is none":      func(c *Call) { c.Declared.Profile = "" },
		"an engagement with a path":   func(c *Call) { c.Declared.Engagement = "../x" },
	} {
		call := read()
		change(&call)
		if _, faults := table.Validate(call); len(faults) == 0 {
			t.Errorf("%s is taken", says)
		}
	}
	if _, faults := BuiltIn().Validate(read()); len(faults) == 0 {
		t.Error("a table without the tool takes its call")
	}
}

func TestDeclaredPlan(t *testing.T) {
	table := declaredTable(t)
	call, _ := table.Read("all_scan", []byte(`{"targets":["10.0.0.5"],"profile":"much","count":4,"rate":2500}`))
	p := call.Plan()
	if !p.Raw || !p.Asked.ICMP || p.Ports != 4 || p.PortsField != "ports" || p.Wordlist != "small" || p.Variants != 1 || p.IPv6 {
		t.Errorf("%+v", p)
	}
	if want := [][2]uint16{{22, 23}, {443, 443}}; !slices.Equal(p.Asked.TCP, want) {
		t.Errorf("%v, want %v", p.Asked.TCP, want)
	}
	if want := [][2]uint16{{53, 53}}; !slices.Equal(p.Asked.UDP, want) {
		t.Errorf("%v, want %v", p.Asked.UDP, want)
	}
	want := []string{"count 4, more than 3", "deep: it goes deep", "way loud: it is loud", "2500 packets per second, more than 2000"}
	if !slices.Equal(p.Intrusive, want) {
		t.Errorf("%q, want %q", p.Intrusive, want)
	}
}

// 10 words, 2 times: 20 probes of each of 2 ports of an address.
func TestDeclaredCost(t *testing.T) {
	table := declaredTable(t)
	call, faults := table.Read("all_scan", []byte(`{"targets":["10.0.0.0/29"],"rate":10}`))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	call = call.WithWords(10)
	c, err := call.Command(Version{1, 5}, prefixes("10.0.0.0/29"), nil, nil)
	if err != nil || c.Packets != 8*2*20*2 || c.Time.Seconds() != 2+64 || !c.Words || c.Box != "declared-raw" || !c.Raw || c.Rate != 10 {
		t.Errorf("%v %+v", err, c)
	}
	if c, err := call.Bounded(5, 0).Command(Version{1, 5}, prefixes("10.0.0.0/29"), nil, nil); err != nil || c.Rate != 5 || c.Time.Seconds() != 2+128 {
		t.Errorf("%v %+v", err, c)
	}
	short, _ := table.Read("all_scan", []byte(`{"targets":["10.0.0.0/29"],"rate":10,"limit":15}`))
	_, err = short.WithWords(10).Command(Version{1, 5}, prefixes("10.0.0.0/29"), nil, nil)
	var u *Unfit
	if !errors.As(err, &u) || fmt.Sprint(u.Would) != "[limit: at least 32 rate: at least 22 addresses: at most 3]" {
		t.Errorf("%v", err)
	}
	if _, err := short.WithWords(10).Command(Version{1, 5}, prefixes("10.0.0.0/31", "10.0.0.2/32"), nil, nil); err != nil {
		t.Errorf("the number that fits does not: %v", err)
	}
}

// What is not judged, is excluded, or may not be sent to becomes no command.
func TestDeclaredCommandsThatAreNone(t *testing.T) {
	table := declaredTable(t)
	for _, row := range []struct {
		says         string
		to, excluded []netip.Prefix
		reach        *Reach
	}{
		{"no address", nil, nil, nil},
		{"of the other version", prefixes("fd00::5/128"), nil, nil},
		{"an excluded one", prefixes("10.0.0.0/30"), prefixes("10.0.0.2/32"), nil},
		{"too many", prefixes("10.0.0.0/28"), nil, nil},
		{"no ICMP", prefixes("10.0.0.5/32"), nil, &Reach{TCP: [][2]uint16{{1, 65535}}, UDP: [][2]uint16{{53, 53}}}},
		{"not what it always sends to", prefixes("10.0.0.5/32"), nil, &Reach{TCP: [][2]uint16{{1, 65535}}, ICMP: true}},
		{"none of its ports", prefixes("10.0.0.5/32"), nil, &Reach{TCP: [][2]uint16{{81, 90}}, UDP: [][2]uint16{{53, 53}}, ICMP: true}},
	} {
		call, faults := table.Read("all_scan", []byte(`{"targets":["10.0.0.5"]}`))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		if c, err := call.Command(Version{1, 5}, row.to, row.excluded, row.reach); err == nil {
			t.Errorf("%s: %q", row.says, c.Argv)
		}
	}
}

func TestDeclaredVersions(t *testing.T) {
	table := declaredTable(t)
	for text, known := range map[string]bool{"all 1.2": true, "all 1.9": true, "all 1.1": false, "all 1.10": false, "all 0.5": false, "all 2.0": false} {
		v, err := table.ParseVersion("all", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if err := table.Known("all", v, nil); (err == nil) != known {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := table.ParseVersion("all", []byte("nmap 1.2")); err == nil {
		t.Error("a version of nothing is read")
	}
	if got := table.Program("all"); got != "/usr/bin/all" || table.Program("nmap") != "" {
		t.Errorf("%q", got)
	}
}

// Tools that are left out stay known, and are not listed.
func TestTablesWithToolsLeftOut(t *testing.T) {
	table := declaredTable(t).Only([]string{"nmap_scan", "all_scan", "fping_scan"}, []string{"fping_scan"})
	var listed []string
	for _, tool := range table.Listed() {
		listed = append(listed, tool.Name)
	}
	if want := []string{"nmap_scan", "all_scan"}; !slices.Equal(listed, want) {
		t.Errorf("%v, want %v", listed, want)
	}
	for tool, off := range map[string]bool{"nmap_scan": false, "masscan_scan": true, "fping_scan": true, "all_scan": false} {
		if _, known := table.Profiles(tool); !known || table.Off(tool) != off {
			t.Errorf("%s: known %v, off %v", tool, known, table.Off(tool))
		}
	}
	if all := BuiltIn().Only(nil, nil).Listed(); len(all) != 3 {
		t.Errorf("%d are listed of 3", len(all))
	}
}

// The faults of a declaration, one at a time, each with its line.
func TestDeclarationFaults(t *testing.T) {
	for _, row := range []struct{ says, old, new, field string }{
		{"the name of a built-in tool", "name: all_scan", "name: nmap_scan", "name"},
		{"a name that is not the file's", "name: all_scan", "name: other_scan", "name"},
		{"a relative program", "/usr/bin/all", "all", "program"},
		{"a program with a way up", "/usr/bin/all", "/usr/bin/../bin/all", "program"},
		{"a pattern with one group", `'^all ([0-9]+)\.([0-9]+)'`, `'^all ([0-9]+)'`, "version.pattern"},
		{"a version that is none", `from: "1.2"`, `from: "1"`, "version.from"},
		{"ICMP without raw sockets", "raw_sockets: true, icmp", "raw_sockets: false, icmp", "needs.icmp"},
		{"a version of IP that is none", "ip_versions: [4, 6]", "ip_versions: [4, 5]", "targets.ip_versions[1]"},
		{"too many targets", "at_most: 8", "at_most: 100000", "targets.at_most"},
		{"a field of ours", "{name: count,", "{name: rate,", "fields[0].name"},
		{"a field twice", "{name: deep,", "{name: count,", "fields[1].name"},
		{"a number without an end", "min: 0, max: 5,", "min: 0,", "fields[0].min"},
		{"a number below zero", "min: 0, max: 5,", "min: -1, max: 5,", "fields[0].min"},
		{"a default that does not fit", "default: 2", "default: 9", "fields[0].default"},
		{"words without the value", `words: [-c, "{}"]`, `words: [-c]`, "fields[0].words"},
		{"a boolean without words", "words: [--deep, --deeper], ", "", "fields[1].words"},
		{"a reason with an escape", "intrusive: it goes deep", `intrusive: "\e[31m"`, "fields[1].intrusive"},
		{"a bound of a boolean", "about: more of it,", "about: more of it, max: 1,", "fields[1].max"},
		{"free text", "type: enum", "type: text", "fields[2].type"},
		{"a value with a space", "{name: plain}", `{name: "pl ain"}`, "fields[2].values[0].name"},
		{"a protocol that is none", "protocol: tcp", "protocol: icmp", "fields[3].protocol"},
		{"a profile of a field that is none", "set: {way: plain}", "set: {weg: plain}", "profiles[0].set.weg"},
		{"a profile of a value that is none", "set: {way: plain}", "set: {way: quiet}", "profiles[0].set.way"},
		{"a field without a place", `"{deep}", `, "", "fields[1].name"},
		{"a place without a field", `"{deep}"`, `"{deep}", "{depp}"`, "command[5]"},
		{"targets twice", `"to={targets}"`, `"to={targets}", "{targets}"`, "command"},
		{"words inside of a word", `"{count}"`, `"x{count}"`, "command[3]"},
		{"a boolean inside of a word", `"{deep}"`, `"x{deep}"`, "command[4]"},
		{"a control character", `"to={targets}"`, `"to\n={targets}"`, "command[9]"},
		{"a cost of nothing", "packets: 2", "packets: 0", "cost.packets"},
		{"a cost of a field that is none", "times: [count, list]", "times: [count, lost]", "cost.times[1]"},
		{"a cost of a truth", "times: [count, list]", "times: [deep]", "cost.times[0]"},
		{"an output of nothing", "lists: found, json: {host: ip, port: port}", "lists: found", "output"},
		{"an output of two kinds", "lists: found, ", "lists: found, lines: [{pattern: '(?P<host>.)'}], ", "output"},
		{"a state that is none", "lists: found, ", "lists: found, states: {alive: awake}, ", "output.states.alive"},
		{"a value with a bad name", "json: {host: ip,", "json: {host: ip, Text: t,", "output.json.Text"},
		{"a status that is none", "lists: found, ", "lists: found, statuses: [256], ", "output.statuses[0]"},
		{"a key that is none", "title: All", "titel: All", "titel"},
		{"a description with an escape", "description: Everything", "description: \"\\e[31m", "description"},
	} {
		text := strings.Replace(everything, row.old, row.new, 1)
		if text == everything {
			t.Fatalf("%s: nothing is changed", row.says)
		}
		if row.says == "a description with an escape" {
			text = strings.Replace(text, "can say.", `can say."`, 1)
		}
		_, faults := ParseDeclaration("all_scan.yaml", []byte(text))
		at := slices.IndexFunc(faults, func(f strict.Fault) bool { return f.Field == row.field })
		if at < 0 {
			t.Errorf("%s: %v, want one of %s", row.says, faults, row.field)
		} else if faults[at].Line < 1 || faults[at].File != "all_scan.yaml" {
			t.Errorf("%s: %v", row.says, faults[at])
		}
	}
}

// Whatever a caller says, the words of a command are those of the declaration, numbers, ports and judged addresses.
func FuzzDeclaredArgumentsBecomeNoOptions(f *testing.F) {
	table := declaredTable(f)
	f.Add([]byte(`{"targets":["10.0.0.5"],"profile":"much","count":1,"deep":true,"way":"loud","ports":[80,"81-90"],"list":"x","rate":5}`))
	f.Add([]byte(`{"targets":["10.0.0.5"],"way":"--loud","list":"-w"}`))
	f.Add([]byte(`{"targets":["-x","fd00::1"],"count":-1,"ports":["-1"],"engagement":"-"}`))
	known := []string{"all", "--pace", "-c", "--deep", "--deeper", "--loud", "-p", "--words=/in/words"}
	f.Fuzz(func(t *testing.T, arguments []byte) {
		call, faults := table.Read("all_scan", arguments)
		if len(faults) > 0 {
			return
		}
		to := prefixes("10.0.0.5/32")
		if call.Plan().IPv6 {
			to = prefixes("fd00::5/128")
		}
		c, err := call.Command(Version{1, 5}, to, nil, nil)
		if err != nil {
			return
		}
		for _, word := range c.Argv {
			digits := strings.Trim(strings.TrimPrefix(word, "--rate="), "0123456789,-")
			if slices.Contains(known, word) || digits == "" && word[0] != '-' || digits == "" && strings.HasPrefix(word, "--rate=") || word == "to="+to[0].Addr().String() {
				continue
			}
			t.Errorf("%s: the word %q of %q", arguments, word, c.Argv)
		}
		text, err := call.Arguments()
		if err != nil || !json.Valid(text) {
			t.Errorf("%s: %v %s", arguments, err, text)
		}
	})
}

// A file is whatever somebody wrote.
func FuzzParseDeclaration(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("name: x_scan\nfields: [{}]\nprofiles: [{set: {a: b}}]\ncommand: ['{a}', '{}', '{{a}}']\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, faults := ParseDeclaration("all_scan.yaml", text)
		if len(faults) > 0 {
			return
		}
		table := BuiltIn().With(d)
		if schema := table.Tools()[3].InputSchema; !json.Valid(schema) {
			t.Errorf("%s", schema)
		}
		call, wrong := table.Read("all_scan", []byte(`{"targets":["10.0.0.5"]}`))
		if len(wrong) == 0 {
			checkDeclaredStable(t, table, call)
			_, _ = call.Command(Version{1, 5}, prefixes("10.0.0.5/32"), nil, nil) // an error is an answer
		}
	})
}
