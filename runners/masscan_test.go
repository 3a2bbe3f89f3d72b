package runners

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func masscanCall(t *testing.T, arguments string) Call {
	t.Helper()
	call, faults := Read(masscanName, []byte(arguments))
	if len(faults) > 0 {
		t.Fatalf("Read(%s): %v", arguments, faults)
	}
	return call
}

func TestMasscanIsCanonical(t *testing.T) {
	for _, row := range []struct{ why, arguments, want string }{
		{"defaults", `{"targets":["10.0.0.5"],"ports":[80]}`,
			`{"targets":["10.0.0.5"],"profile":"quick","ports":["80"],"retries":1,"wait":3}`},
		{"spellings become one", `{"targets":["10.0.0.5/32","10.0.0.5","Host.Lab.Internal"],"ports":["udp/53","81-90",80,"udp/54-60",22.0],"profile":"web"}`,
			`{"targets":["10.0.0.5","host.lab.internal"],"profile":"web","ports":["22","80-90","udp/53-60"],"retries":1,"wait":3}`},
		{"a profile's ports", `{"targets":["10.0.0.0/24"],"profile":"web","rate":50,"retries":0,"wait":10,"limit":600,"engagement":"lab"}`,
			`{"targets":["10.0.0.0/24"],"profile":"web","ports":["80","443","3000","5000","8000","8008","8080-8081","8443","8888","9000","9090"],"rate":50,"retries":0,"wait":10,"limit":600,"engagement":"lab"}`},
		{"what is left out, and what follows", `{"targets":["10.0.0.0/24"],"exclude":["10.0.0.7/32","10.0.0.64/26","10.0.0.7"],"ports":[80],"second_pass":true,"verify":"services"}`,
			`{"targets":["10.0.0.0/24"],"exclude":["10.0.0.7","10.0.0.64/26"],"profile":"quick","ports":["80"],"retries":1,"wait":3,"second_pass":true,"verify":"services"}`},
		{"nothing left out", `{"targets":["10.0.0.5"],"exclude":[],"ports":[80],"second_pass":false}`,
			`{"targets":["10.0.0.5"],"profile":"quick","ports":["80"],"retries":1,"wait":3}`},
	} {
		call := masscanCall(t, row.arguments)
		got, err := call.Arguments()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(row.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.why, diff)
		}
		checkStable(t, call)
	}
}

// The counts of ports are those that the descriptions name.
func TestMasscanProfiles(t *testing.T) {
	want := map[string]int{"quick": 100, "standard": 1000, "thorough": 65535, "web": 12, "common": 21}
	for _, name := range masscanProfileNames() {
		call := masscanCall(t, `{"targets":["10.0.0.5"],"profile":"`+name+`"}`)
		if got := call.Plan().Ports; got != want[name] {
			t.Errorf("%s: %d ports, want %d", name, got, want[name])
		}
	}
	if names, ok := Profiles(masscanName); !ok || len(names) != len(want) {
		t.Errorf("profiles %v", names)
	}
}

func TestMasscanRefuses(t *testing.T) {
	for _, row := range []struct{ why, arguments, field, code string }{
		{"no targets", `{}`, "targets", "missing"},
		{"an option as a target", `{"targets":["--conf=/tmp/x"]}`, "targets[0]", "target_option"},
		{"two targets in one", `{"targets":["10.0.0.1,8.8.8.8"]}`, "targets[0]", "target_list"},
		{"an address range", `{"targets":["10.0.0.1-10.0.0.9"]}`, "targets[0]", "target_ipv4_form"},
		{"everything", `{"targets":["0.0.0.0/0"]}`, "targets[0]", "target_too_large"},
		{"IPv6", `{"targets":["10.0.0.1","fd00::1"]}`, "targets[1]", "target_ipv6"},
		{"a network of IPv6", `{"targets":["fd00::/120"]}`, "targets[0]", "target_ipv6"},
		{"port 0", `{"targets":["10.0.0.1"],"ports":[0]}`, "ports[0]", "bad_port"},
		{"masscan's own UDP", `{"targets":["10.0.0.1"],"ports":["U:53"]}`, "ports[0]", "bad_port"},
		{"SCTP", `{"targets":["10.0.0.1"],"ports":["sctp/2905"]}`, "ports[0]", "bad_port"},
		{"a word for TCP", `{"targets":["10.0.0.1"],"ports":["tcp/80"]}`, "ports[0]", "bad_port"},
		{"UDP twice", `{"targets":["10.0.0.1"],"ports":["udp/udp/53"]}`, "ports[0]", "bad_port"},
		{"ports in one", `{"targets":["10.0.0.1"],"ports":["80,443"]}`, "ports[0]", "bad_port"},
		{"no port", `{"targets":["10.0.0.1"],"ports":[]}`, "ports", "too_few"},
		{"rate 0", `{"targets":["10.0.0.1"],"rate":0}`, "rate", "out_of_range"},
		{"a rate past the bound", `{"targets":["10.0.0.1"],"rate":10001}`, "rate", "out_of_range"},
		{"a rate in e", `{"targets":["10.0.0.1"],"rate":1e3}`, "rate", "wrong_type"},
		{"four retries", `{"targets":["10.0.0.1"],"retries":4}`, "retries", "out_of_range"},
		{"no time to listen", `{"targets":["10.0.0.1"],"wait":0}`, "wait", "out_of_range"},
		{"more time to listen than all", `{"targets":["10.0.0.1"],"wait":60,"limit":30}`, "wait", "contradiction"},
		{"a profile that is none", `{"targets":["10.0.0.1"],"profile":"discovery"}`, "profile", "not_one_of"},
		{"banners", `{"targets":["10.0.0.1"],"banners":true}`, "banners", "unknown_argument"},
		{"an option to leave out", `{"targets":["10.0.0.1"],"exclude":["--excludefile=/etc/shadow"]}`, "exclude[0]", "target_option"},
		{"a name to leave out", `{"targets":["10.0.0.0/24"],"exclude":["10.0.0.1","db.lab.internal"]}`, "exclude[1]", "target_address"},
		{"host bits to leave out", `{"targets":["10.0.0.0/24"],"exclude":["10.0.0.1/24"]}`, "exclude[0]", "target_host_bits"},
		{"the other version to leave out", `{"targets":["10.0.0.0/24"],"exclude":["fd00::1"]}`, "exclude[0]", "mixed_families"},
		{"two to leave out in one", `{"targets":["10.0.0.0/24"],"exclude":["10.0.0.1,10.0.0.2"]}`, "exclude[0]", "target_list"},
		{"a text to leave out", `{"targets":["10.0.0.0/24"],"exclude":"10.0.0.1"}`, "exclude", "wrong_type"},
		{"no verification", `{"targets":["10.0.0.1"],"verify":""}`, "verify", "not_one_of"},
		{"another verification", `{"targets":["10.0.0.1"],"verify":"--banners"}`, "verify", "not_one_of"},
		{"a verification that is no word", `{"targets":["10.0.0.1"],"verify":true}`, "verify", "wrong_type"},
		{"a second pass in words", `{"targets":["10.0.0.1"],"second_pass":"yes"}`, "second_pass", "wrong_type"},
		{"a source address", `{"targets":["10.0.0.1"],"source_ip":"10.0.0.9"}`, "source_ip", "unknown_argument"},
	} {
		_, faults := Read(masscanName, []byte(row.arguments))
		if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Field == row.field && f.Code == row.code }) {
			t.Errorf("%s: %v", row.why, faults)
		}
	}
}

func TestMasscanValidateRefusesWhatReadCannotMake(t *testing.T) {
	for _, row := range []struct {
		why    string
		change func(*Masscan)
		field  string
	}{
		{"an option as a target", func(m *Masscan) { m.Targets = []string{"--echo"} }, "targets[0]"},
		{"a target twice", func(m *Masscan) { m.Targets = []string{"10.0.0.5", "10.0.0.5"} }, "targets"},
		{"IPv6", func(m *Masscan) { m.Targets = []string{"fd00::1"} }, "targets[0]"},
		{"a profile that is an option", func(m *Masscan) { m.Profile = "--echo" }, "profile"},
		{"no ports", func(m *Masscan) { m.Ports = nil }, "ports"},
		{"UDP before TCP", func(m *Masscan) { m.Ports = []ProtoPorts{{true, Ports{53, 53}}, {false, Ports{80, 80}}} }, "ports"},
		{"touching ranges", func(m *Masscan) { m.Ports = []ProtoPorts{{false, Ports{80, 80}}, {false, Ports{81, 81}}} }, "ports"},
		{"a range backwards", func(m *Masscan) { m.Ports = []ProtoPorts{{false, Ports{9, 1}}} }, "ports[0]"},
		{"an option to leave out", func(m *Masscan) { m.Exclude = []string{"--conf=/tmp/x"} }, "exclude[0]"},
		{"what is left out twice", func(m *Masscan) { m.Exclude = []string{"10.0.0.7", "10.0.0.7"} }, "exclude"},
		{"what is left out in another spelling", func(m *Masscan) { m.Exclude = []string{"10.0.0.7/32"} }, "exclude[0]"},
		{"too much to leave out", func(m *Masscan) { m.Exclude = make([]string, maxExclude+1) }, "exclude"},
		{"another verification", func(m *Masscan) { m.Verify = "-A" }, "verify"},
		{"a negative rate", func(m *Masscan) { m.Rate = -1 }, "rate"},
		{"negative retries", func(m *Masscan) { m.Retries = -1 }, "retries"},
		{"no wait", func(m *Masscan) { m.Wait = 0 }, "wait"},
		{"an engagement of control characters", func(m *Masscan) { m.Engagement = "a\x00" }, "engagement"},
	} {
		call := masscanCall(t, `{"targets":["10.0.0.5"]}`)
		row.change(call.Masscan)
		if faults := Validate(call); !slices.ContainsFunc(faults, func(f Fault) bool { return f.Field == row.field }) {
			t.Errorf("%s: %v", row.why, faults)
		}
		if _, err := call.Command(testedMasscan, prefixes("10.0.0.5/32"), nil, nil); err == nil {
			t.Errorf("%s: a command was built", row.why)
		}
	}
	both := masscanCall(t, `{"targets":["10.0.0.5"]}`)
	both.Nmap = mustRead(t, `{"targets":["10.0.0.5"]}`).Nmap
	if len(Validate(both)) == 0 {
		t.Error("a call for two tools is valid")
	}
}

// The command lines, with what they are expected to send and to take.
func TestMasscanCommands(t *testing.T) {
	var out bytes.Buffer
	for _, row := range []struct {
		why, arguments string
		addresses      []netip.Prefix
		rate           int
		limit          time.Duration
		reach          *Reach
	}{
		{"quick", `{"targets":["10.0.0.0/24"]}`, prefixes("10.0.0.0/24"), 1000, time.Hour, nil},
		{"an engagement's lower rate", `{"targets":["10.0.0.0/24"],"profile":"web"}`, prefixes("10.0.0.0/25", "10.0.0.128/26"), 50, time.Hour, nil},
		{"an engagement's higher rate", `{"targets":["10.0.0.0/24"],"profile":"common"}`, prefixes("10.0.0.0/24"), 5000, time.Hour, nil},
		{"asked for", `{"targets":["10.0.0.0/24"],"ports":[22,"udp/53","udp/100-110"],"rate":300,"retries":0,"wait":10}`, prefixes("10.0.0.0/24"), 1000, time.Hour, nil},
		{"few probes are not repeated more often", `{"targets":["10.0.0.5"],"ports":[22,80],"retries":2}`, prefixes("10.0.0.5/32"), 1000, time.Hour, nil},
		{"kept to some ports", `{"targets":["10.0.0.0/24"],"ports":["1-100","udp/53"]}`, prefixes("10.0.0.0/24"), 1000, time.Hour, &Reach{TCP: [][2]uint16{{20, 25}, {80, 65535}}}},
		{"no port is left", `{"targets":["10.0.0.0/24"],"ports":["udp/53"]}`, prefixes("10.0.0.0/24"), 1000, time.Hour, &Reach{TCP: [][2]uint16{{20, 25}}}},
		{"longer than its limit", `{"targets":["10.0.0.0/24"],"profile":"thorough"}`, prefixes("10.0.0.0/24"), 1000, time.Hour, nil},
	} {
		c, err := masscanCall(t, row.arguments).Bounded(row.rate, row.limit).Command(testedMasscan, row.addresses, nil, row.reach)
		fmt.Fprintf(&out, "# %s\n", row.why)
		if err != nil {
			fmt.Fprintf(&out, "refused: %v\n\n", err)
			continue
		}
		fmt.Fprintf(&out, "%s\nbox %s, raw %v, ticks %v, %d packets a second, %d packets and %s at most\n\n", strings.Join(c.Argv, " "), c.Box, c.Raw, c.Ticks, c.Rate, c.Packets, c.Time)
	}
	golden(t, "masscan_commands.txt", out.Bytes())
	for why, build := range map[string]func() (Command, error){
		"an unknown version": func() (Command, error) {
			return masscanCall(t, `{"targets":["10.0.0.5"]}`).Command(Version{1, 4}, prefixes("10.0.0.5/32"), nil, nil)
		},
		"an excluded address": func() (Command, error) {
			return masscanCall(t, `{"targets":["10.0.0.5"]}`).Command(testedMasscan, prefixes("10.0.0.5/32"), prefixes("10.0.0.0/24"), nil)
		},
		"an address of IPv6": func() (Command, error) {
			return masscanCall(t, `{"targets":["a.example"]}`).Command(testedMasscan, prefixes("fd00::5/128"), nil, nil)
		},
		"no address": func() (Command, error) {
			return masscanCall(t, `{"targets":["10.0.0.5"]}`).Command(testedMasscan, nil, nil, nil)
		},
	} {
		if c, err := build(); err == nil {
			t.Errorf("%s: %q", why, c.Argv)
		}
	}
}

func TestMasscanPlan(t *testing.T) {
	p := masscanCall(t, `{"targets":["10.0.0.0/21"],"ports":[22,"udp/53"],"rate":3000,"limit":60}`).Plan()
	if got := fmt.Sprint(p.Ports, p.Asked, p.PortsField, p.Raw, p.Rate, p.Limit, len(p.Intrusive)); got != "2 {[[22 22]] [[53 53]] [] false}portstrue 3000 1m0s 2" {
		t.Error(got)
	}
}

func TestMasscanVersion(t *testing.T) {
	said, err := os.ReadFile("testdata/masscan_version.txt")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := ParseVersion("masscan", said); err != nil || v != testedMasscan || Known("masscan", v, nil) != nil {
		t.Errorf("%v, %v", v, err)
	}
	for _, text := range []string{"", "masscan 1.3.2", "Masscan version x", "nmap\nMasscan version 1.3.2"} {
		if v, err := ParseVersion("masscan", []byte(text)); err == nil {
			t.Errorf("%q is version %v", text, v)
		}
	}
	if Known("masscan", Version{1, 0}, nil) == nil {
		t.Error("1.0 is known")
	}
}

func TestMasscanSchema(t *testing.T) {
	tool := masscanTool()
	var indented bytes.Buffer
	if err := json.Indent(&indented, tool.InputSchema, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "masscan_scan.schema.json", append(indented.Bytes(), '\n'))
	if n := len(tool.InputSchema) + len(tool.Description); n > 1600 {
		t.Errorf("schema and description have %d bytes: they are read in every session", n)
	}
	for _, name := range fieldNames(masscanFields()) {
		if d := (&masscanDraft{reader: reader{given: map[string]bool{}}}); !d.take(name, json.RawMessage("1")) {
			t.Errorf("%s is in the schema and is not read", name)
		}
	}
}

// checkMasscan builds the command of a call whose names resolve to one address, and looks at every word of it.
func checkMasscan(t *testing.T, call Call) {
	t.Helper()
	var judged []netip.Prefix
	for _, target := range call.Plan().Targets {
		if target.Name != "" {
			target.Prefix = netip.MustParsePrefix("10.9.8.7/32")
		}
		if !slices.Contains(judged, target.Prefix) {
			judged = append(judged, target.Prefix)
		}
	}
	c, err := call.Command(testedMasscan, judged, nil, nil)
	if err != nil {
		if countAddresses(judged) > MaxAddresses || strings.Contains(err.Error(), "limit") {
			return
		}
		t.Fatalf("no command for %+v: %v", call.Masscan, err)
	}
	const fixed = 10
	for i, want := range []string{"masscan", "--rate", "", "--retries", "", "--wait", "", "--noreset", "-p", ""} {
		if want != "" && c.Argv[i] != want || want == "" && strings.Trim(c.Argv[i], "0123456789,-U:") != "" {
			t.Errorf("word %d is %q in %q", i, c.Argv[i], c.Argv)
		}
	}
	for _, word := range c.Argv[fixed:] {
		if p, err := parseOperand(word); err != nil || !slices.Contains(judged, p) {
			t.Errorf("operand %q is not one of the judged addresses: %v", word, err)
		}
	}
	if len(c.Argv) != fixed+len(judged) || argvBytes(c.Argv) > maxArgvBytes || c.Packets <= 0 || c.Time <= 0 {
		t.Errorf("%q, %d packets in %v", c.Argv, c.Packets, c.Time)
	}
}

func FuzzReadMasscan(f *testing.F) {
	for _, seed := range []string{
		`{"targets":["10.0.0.5"]}`,
		`{"targets":["10.0.0.0/24","host.lab.internal"],"profile":"thorough","rate":10000,"limit":600}`,
		`{"targets":["10.0.0.0/29"],"ports":[53,"100-200","udp/1-9"],"retries":3,"wait":60}`,
		`{"targets":["-iL/etc/passwd","--conf=x"],"profile":"--echo"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, arguments []byte) {
		call, faults := Read(masscanName, arguments)
		if len(faults) > 0 {
			for _, fault := range faults {
				if fault.Code == "" || fault.Field == "" || len([]rune(fault.Got)) > 64 {
					t.Errorf("a fault that says too little or too much: %+v", fault)
				}
			}
			return
		}
		checkStable(t, call)
		checkMasscan(t, call)
	})
}

// Every dangerous option of masscan, tried as every argument: refused, or (a number that happens to be allowed) inert.
func TestMasscansDangerousOptionsAreRefusedEverywhere(t *testing.T) {
	rows := tryTable(t, BuiltIn(), "testdata/masscan_dangerous.txt", masscanName, fieldNames(masscanFields()), []map[string]any{{"targets": []string{"10.0.0.5"}}},
		func(call Call) { checkMasscan(t, call) })
	if rows < 70 {
		t.Errorf("the table has %d options", rows)
	}
}

// tryTable tries each option of a table, in several spellings, as each argument of a tool beside those that it needs,
// and as an argument itself. What is read all the same is looked at.
func tryTable(t *testing.T, tools Table, table, tool string, names []string, needed []map[string]any, look func(Call)) (rows int) {
	t.Helper()
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	try := func(beside map[string]any, name string, value any) (Call, []Fault, []byte) {
		all := maps.Clone(beside)
		all[name] = value
		arguments, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		call, faults := tools.Read(tool, arguments)
		return call, faults, arguments
	}
	for line := range strings.Lines(string(text)) {
		option, _, _ := strings.Cut(line, " #")
		if option = strings.TrimSpace(option); option == "" || strings.HasPrefix(option, "#") {
			continue
		}
		rows++
		for _, text := range []string{option, strings.ReplaceAll(option, " ", "="), strings.ReplaceAll(option, " ", ":"), strings.TrimLeft(option, "-"), strings.Replace(option, "--", "-", 1), strings.ToUpper(option), " " + option} {
			for _, beside := range needed {
				for _, name := range names {
					for _, value := range []any{text, []string{text}, []string{"10.0.0.5", text}} {
						call, faults, arguments := try(beside, name, value)
						if len(faults) > 0 {
							continue
						}
						if strings.HasPrefix(text, "-") || strings.ContainsAny(text, " =:") {
							t.Errorf("%s is read", arguments)
						}
						look(call)
					}
				}
				if slices.Contains(names, text) {
					continue // an argument's own name
				}
				if _, faults, arguments := try(beside, text, true); len(faults) == 0 {
					t.Errorf("%s is read as an argument", arguments)
				}
			}
		}
	}
	return rows
}
