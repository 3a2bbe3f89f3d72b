package runners

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

var tested = Version{7, 93}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func mustRead(t *testing.T, arguments string) Call {
	t.Helper()
	call, faults := Read(nmapName, []byte(arguments))
	if len(faults) > 0 {
		t.Fatalf("Read(%s): %v", arguments, faults)
	}
	return call
}

func prefixes(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, t := range texts {
		ps = append(ps, netip.MustParsePrefix(t))
	}
	return ps
}

// What is refused, with the code and field of the fault: one row, one reason.
func TestRefused(t *testing.T) {
	for _, row := range []struct{ why, arguments, field, code string }{
		{"an empty target", `{"targets":[""]}`, "targets[0]", "target_empty"},
		{"an option as a target", `{"targets":["-iL/etc/passwd"]}`, "targets[0]", "target_option"},
		{"a long option as a target", `{"targets":["--script=/tmp/evil.nse"]}`, "targets[0]", "target_option"},
		{"two targets in one", `{"targets":["10.0.0.1,8.8.8.8"]}`, "targets[0]", "target_list"},
		{"two targets with a space", `{"targets":["10.0.0.1 8.8.8.8"]}`, "targets[0]", "target_space"},
		{"a line break", `{"targets":["10.0.0.1\n"]}`, "targets[0]", "target_space"},
		{"a NUL", `{"targets":["10.0.0.1\u0000"]}`, "targets[0]", "target_name"},
		{"a zone", `{"targets":["fe80::1%eth0"]}`, "targets[0]", "target_zone"},
		{"an octal octet", `{"targets":["012.0.0.1"]}`, "targets[0]", "target_ipv4_form"},
		{"a short address", `{"targets":["10.1"]}`, "targets[0]", "target_ipv4_form"},
		{"a hex address", `{"targets":["0x0a000001"]}`, "targets[0]", "target_ipv4_form"},
		{"hex octets", `{"targets":["0xa.0.0.0x1"]}`, "targets[0]", "target_ipv4_form"},
		{"an integer address", `{"targets":["167772161"]}`, "targets[0]", "target_ipv4_form"},
		{"an octet past 255", `{"targets":["10.0.0.256"]}`, "targets[0]", "target_ipv4_form"},
		{"a short network", `{"targets":["10/8"]}`, "targets[0]", "target_ipv4_form"},
		{"a mapped address", `{"targets":["::ffff:10.0.0.1"]}`, "targets[0]", "target_mapped"},
		{"a mapped network", `{"targets":["::ffff:10.0.0.0/120"]}`, "targets[0]", "target_mapped"},
		{"host bits", `{"targets":["10.0.0.5/24"]}`, "targets[0]", "target_host_bits"},
		{"an octet range", `{"targets":["10.0.0-5.1"]}`, "targets[0]", "target_range"},
		{"a wildcard", `{"targets":["10.0.0.*"]}`, "targets[0]", "target_range"},
		{"an octet range with a prefix", `{"targets":["10.0.0-5.0/24"]}`, "targets[0]", "target_ipv4_form"},
		{"a prefix past 32", `{"targets":["10.0.0.0/33"]}`, "targets[0]", "target_prefix"},
		{"a name with a prefix", `{"targets":["scanme.example/8"]}`, "targets[0]", "target_prefix"},
		{"an underscore", `{"targets":["a_b.example"]}`, "targets[0]", "target_name"},
		{"a label that begins with a hyphen", `{"targets":["a.-b.example"]}`, "targets[0]", "target_name"},
		{"an empty label", `{"targets":["a..example"]}`, "targets[0]", "target_name"},
		{"a label of 64", `{"targets":["` + strings.Repeat("a", 64) + `.example"]}`, "targets[0]", "target_name"},
		{"a name of 254", `{"targets":["` + strings.Repeat("a.", 126) + `aa"]}`, "targets[0]", "target_name"},
		{"a numeric top level", `{"targets":["host.123"]}`, "targets[0]", "target_ipv4_form"},
		{"a name in Unicode", `{"targets":["bücher.example"]}`, "targets[0]", "target_unicode"},
		{"full-width digits", `{"targets":["１0.0.0.1"]}`, "targets[0]", "target_unicode"},
		{"a trailing dot", `{"targets":["host.example."]}`, "targets[0]", "target_trailing_dot"},
		{"a URL", `{"targets":["http://10.0.0.1/"]}`, "targets[0]", "target_url"},
		{"a path", `{"targets":["host.example/admin"]}`, "targets[0]", "target_url"},
		{"brackets", `{"targets":["[fd00::1]"]}`, "targets[0]", "target_url"},
		{"a port on an address", `{"targets":["10.0.0.1:80"]}`, "targets[0]", "target_address"},
		{"a user", `{"targets":["root@10.0.0.1"]}`, "targets[0]", "target_url"},
		{"everything", `{"targets":["0.0.0.0/0"]}`, "targets[0]", "target_too_large"},
		{"all of IPv6", `{"targets":["::/0"]}`, "targets[0]", "target_too_large"},
		{"networks too large together", `{"targets":["10.0.0.0/16","10.1.0.0/32"]}`, "targets", "too_many"},
		{"no targets", `{}`, "targets", "missing"},
		{"an empty list of targets", `{"targets":[]}`, "targets", "missing"},
		{"both families", `{"targets":["10.0.0.1","fd00::1"]}`, "targets[1]", "mixed_families"},
		{"the other family", `{"targets":["10.0.0.1"],"ip_version":6}`, "ip_version", "mixed_families"},
		{"a family that is none", `{"targets":["a.example"],"ip_version":5}`, "ip_version", "not_one_of"},
		{"targets as a string", `{"targets":"10.0.0.1"}`, "targets", "wrong_type"},
		{"a number as a target", `{"targets":[10]}`, "targets[0]", "wrong_type"},
		{"257 targets", `{"targets":[` + strings.Repeat(`"10.0.0.1",`, 256) + `"10.0.0.1"]}`, "targets", "too_many"},
		{"a second spelling of a key", `{"targets":["10.0.0.1"],"Targets":["8.8.8.8"]}`, "Targets", "unknown_argument"},
		{"a key twice", `{"targets":["10.0.0.1"],"targets":["8.8.8.8"]}`, "targets", "duplicate_argument"},
		{"a key twice, once escaped", `{"targets":["10.0.0.1"],"\u0074argets":["8.8.8.8"]}`, "targets", "duplicate_argument"},
		{"free-form arguments", `{"targets":["10.0.0.1"],"extra_args":"-A"}`, "extra_args", "unknown_argument"},
		{"a list of JSON", `[]`, "arguments", "bad_json"},
		{"two objects", `{"targets":["10.0.0.1"]}{}`, "arguments", "bad_json"},
		{"half an object", `{"targets":["10.0.0.1"]`, "arguments", "bad_json"},
		{"invalid UTF-8", "{\"targets\":[\"\xff\"]}", "arguments", "bad_json"},
		{"too much", `{"targets":["` + strings.Repeat("a", MaxArguments) + `"]}`, "arguments", "too_large"},
		{"a profile that is none", `{"targets":["10.0.0.1"],"profile":"-A"}`, "profile", "not_one_of"},
		{"a profile in capitals", `{"targets":["10.0.0.1"],"profile":"Quick"}`, "profile", "not_one_of"},
		{"a null", `{"targets":["10.0.0.1"],"profile":null}`, "profile", "wrong_type"},
		{"port 0", `{"targets":["10.0.0.1"],"ports":["0"]}`, "ports[0]", "bad_port"},
		{"port 65536", `{"targets":["10.0.0.1"],"ports":[65536]}`, "ports[0]", "bad_port"},
		{"a range backwards", `{"targets":["10.0.0.1"],"ports":["9-1"]}`, "ports[0]", "bad_port"},
		{"all ports as nmap says", `{"targets":["10.0.0.1"],"ports":["-"]}`, "ports[0]", "bad_port"},
		{"a protocol", `{"targets":["10.0.0.1"],"ports":["U:53"]}`, "ports[0]", "bad_port"},
		{"a service name", `{"targets":["10.0.0.1"],"ports":["http*"]}`, "ports[0]", "bad_port"},
		{"a leading zero", `{"targets":["10.0.0.1"],"ports":["022"]}`, "ports[0]", "bad_port"},
		{"a plus", `{"targets":["10.0.0.1"],"ports":["+22"]}`, "ports[0]", "bad_port"},
		{"a fraction of a port", `{"targets":["10.0.0.1"],"ports":[22.5]}`, "ports[0]", "bad_port"},
		{"an object as a port", `{"targets":["10.0.0.1"],"ports":[{}]}`, "ports[0]", "bad_port"},
		{"no ports", `{"targets":["10.0.0.1"],"ports":[]}`, "ports", "too_few"},
		{"101 ranges", `{"targets":["10.0.0.1"],"ports":[` + strings.Repeat(`22,`, 100) + `22]}`, "ports", "too_many"},
		{"ports and top ports", `{"targets":["10.0.0.1"],"ports":[22],"top_ports":10}`, "top_ports", "contradiction"},
		{"no top ports", `{"targets":["10.0.0.1"],"top_ports":0}`, "top_ports", "out_of_range"},
		{"ports and ping", `{"targets":["10.0.0.1"],"profile":"discovery","ports":[22]}`, "ports", "contradiction"},
		{"top ports and ping", `{"targets":["10.0.0.1"],"scan_type":"ping","top_ports":5}`, "top_ports", "contradiction"},
		{"services and ping", `{"targets":["10.0.0.1"],"scan_type":"ping","service_detection":true}`, "service_detection", "contradiction"},
		{"operating system and ping", `{"targets":["10.0.0.1"],"scan_type":"ping","os_detection":true}`, "os_detection", "contradiction"},
		{"scripts and ping", `{"targets":["10.0.0.1"],"scan_type":"ping","scripts":["ssl-cert"]}`, "scripts", "contradiction"},
		{"ping without discovery", `{"targets":["10.0.0.1"],"scan_type":"ping","skip_discovery":true}`, "skip_discovery", "contradiction"},
		{"intensity without services", `{"targets":["10.0.0.1"],"version_intensity":3}`, "version_intensity", "contradiction"},
		{"intensity 10", `{"targets":["10.0.0.1"],"profile":"version","version_intensity":10}`, "version_intensity", "out_of_range"},
		{"a truth in quotes", `{"targets":["10.0.0.1"],"os_detection":"true"}`, "os_detection", "wrong_type"},
		{"a script's path", `{"targets":["10.0.0.1"],"scripts":["/tmp/evil.nse"]}`, "scripts[0]", "unknown_script"},
		{"a script category", `{"targets":["10.0.0.1"],"scripts":["vuln"]}`, "scripts[0]", "unknown_script"},
		{"a script expression", `{"targets":["10.0.0.1"],"scripts":["ssl-cert or all"]}`, "scripts[0]", "unknown_script"},
		{"a forced script", `{"targets":["10.0.0.1"],"scripts":["+ssl-cert"]}`, "scripts[0]", "unknown_script"},
		{"a script that asks a third party", `{"targets":["10.0.0.1"],"scripts":["shodan-api"]}`, "scripts[0]", "unknown_script"},
		{"the fastest timing", `{"targets":["10.0.0.1"],"timing":"insane"}`, "timing", "not_one_of"},
		{"rate 0", `{"targets":["10.0.0.1"],"rate":0}`, "rate", "out_of_range"},
		{"a rate past the bound", `{"targets":["10.0.0.1"],"rate":10001}`, "rate", "out_of_range"},
		{"a rate with an exponent", `{"targets":["10.0.0.1"],"rate":1e3}`, "rate", "wrong_type"},
		{"a rate past 32 bits", `{"targets":["10.0.0.1"],"rate":4294967297}`, "rate", "wrong_type"},
		{"a host timeout of 1", `{"targets":["10.0.0.1"],"host_timeout":1}`, "host_timeout", "out_of_range"},
		{"a host timeout past the limit", `{"targets":["10.0.0.1"],"host_timeout":60,"limit":30}`, "host_timeout", "contradiction"},
		{"a negative limit", `{"targets":["10.0.0.1"],"limit":-1}`, "limit", "out_of_range"},
		{"an engagement that is a path", `{"targets":["10.0.0.1"],"engagement":"../x"}`, "engagement", "bad_name"},
		{"an engagement that is an option", `{"targets":["10.0.0.1"],"engagement":"-x"}`, "engagement", "bad_name"},
		{"an engagement with a line break", `{"targets":["10.0.0.1"],"engagement":"a\n"}`, "engagement", "bad_name"},
		{"an empty engagement", `{"targets":["10.0.0.1"],"engagement":""}`, "engagement", "bad_name"},
	} {
		t.Run(row.why, func(t *testing.T) {
			call, faults := Read(nmapName, []byte(row.arguments))
			if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Field == row.field && f.Code == row.code }) {
				t.Fatalf("no fault %s on %s; got %v", row.code, row.field, faults)
			}
			if len(faults) > 1 {
				t.Errorf("one thing is wrong, %d faults: %v", len(faults), faults)
			}
			if call != (Call{}) {
				t.Error("a refused call has a value")
			}
		})
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	_, faults := Read(nmapName, []byte(`{"targets":["10.0.0.1","10.0.0.1","10.0.0.0/33","-oN"],"ports":["22","U:53"],"profil":"quick","rate":0,
		"timing":"T5","os_detection":1,"scripts":["ssl-cert","ssl-certs","banner"],"top_ports":99999}`))
	var got []string
	for _, f := range faults {
		got = append(got, f.Field+" "+f.Code+" "+f.Hint)
	}
	want := []string{
		"os_detection wrong_type the schema of the tool has the type of each argument",
		"ports[1] bad_port no protocol here: scan_type udp scans UDP ports, every other scan type TCP ports",
		"profil unknown_argument did you mean profile?",
		"rate out_of_range give a number of that range, or leave it out",
		"targets[2] target_prefix after / comes a prefix length, to 32 or 128, and only after an address",
		"targets[3] target_option a target is never an option; scanner options are arguments of this tool",
		"timing not_one_of take one of those allowed, or leave it out",
		"top_ports out_of_range give a number of that range, or leave it out",
		"scripts[1] unknown_script did you mean ssl-cert?",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

// A fault says all that may stand there, also what is not a runner's own, or where all of it is.
func TestFaultsSayWhatIsAllowed(t *testing.T) {
	for _, row := range []struct{ why, arguments, field, allowed, hint string }{
		{"the front's arguments are arguments", `{"targets":["10.0.0.1"],"wait":5}`, "wait", "wait_s", "did you mean wait_s?"},
		{"and the other", `{"targets":["10.0.0.1"],"correlation":"x"}`, "correlation", "correlation_id", ""},
		{"scripts for the same service", `{"targets":["10.0.0.1"],"scripts":["banner","smb-vuln"]}`, "scripts[1]", "smb-protocols", ""},
		{"where all scripts are", `{"targets":["10.0.0.1"],"scripts":["vuln"]}`, "scripts[0]", fmt.Sprintf("the %d names that the schema of nmap_scan lists for scripts", len(scripts)), "scripts are given by name, not by category, path or expression"},
		{"a number that is no port", `{"targets":["10.0.0.1"],"ports":["70000"]}`, "ports[0]", "1 to 65535", "ports are numbers from 1 to 65535, without leading zeros; names are not taken"},
	} {
		_, faults := Read(nmapName, []byte(row.arguments))
		if len(faults) != 1 || faults[0].Field != row.field || !slices.Contains(faults[0].Allowed, row.allowed) || row.hint != "" && faults[0].Hint != row.hint {
			t.Errorf("%s: %+v", row.why, faults)
		}
	}
}

func TestFaultsRepeatLittleAndNothingThatActs(t *testing.T) {
	_, faults := Read(nmapName, []byte(`{"targets":["\u001b[31m\u202e\u200b`+strings.Repeat("x", 300)+`"],"`+strings.Repeat("k", 500)+`":1}`))
	if len(faults) != 2 {
		t.Fatalf("want 2 faults, got %v", faults)
	}
	for _, f := range faults {
		for _, text := range []string{f.Field, f.Got} {
			if n := len([]rune(text)); n > 64 {
				t.Errorf("%d runes are repeated", n)
			}
			if strings.ContainsAny(text, "\x1b\u202e\u200b") {
				t.Errorf("%q acts on a terminal", text)
			}
		}
	}
}

// Each row is a way of asking; beside it the canonical arguments.
func TestReadIsCanonical(t *testing.T) {
	for _, row := range []struct{ why, arguments, want string }{
		{"one address", `{"targets":["10.0.0.5"]}`,
			`{"targets":["10.0.0.5"],"profile":"quick","scan_type":"connect","top_ports":100,"service_detection":false,"os_detection":false,"scripts":[],"timing":"aggressive","ip_version":4,"host_timeout":300,"skip_discovery":true}`},
		{"a network is searched first", `{"targets":["10.0.0.0/24"]}`,
			`{"targets":["10.0.0.0/24"],"profile":"quick","scan_type":"connect","top_ports":100,"service_detection":false,"os_detection":false,"scripts":[],"timing":"aggressive","ip_version":4,"host_timeout":300,"skip_discovery":false}`},
		{"spellings become one", `{"targets":["FD00::0:5","fd00::5/128","Host.Lab.Internal"],"ports":["80-90",22,"23","85-100",22]}`,
			`{"targets":["fd00::5","host.lab.internal"],"profile":"quick","scan_type":"connect","ports":["22-23","80-100"],"service_detection":false,"os_detection":false,"scripts":[],"timing":"aggressive","ip_version":6,"host_timeout":300,"skip_discovery":true}`},
		{"a profile gives way", `{"targets":["a.example"],"profile":"thorough","scan_type":"syn","top_ports":10,"scripts":[],"service_detection":false,"timing":"polite"}`,
			`{"targets":["a.example"],"profile":"thorough","scan_type":"syn","top_ports":10,"service_detection":false,"os_detection":false,"scripts":[],"timing":"polite","ip_version":4,"host_timeout":3600,"skip_discovery":true}`},
		{"discovery", `{"targets":["10.0.0.0/24"],"profile":"discovery","limit":30}`,
			`{"targets":["10.0.0.0/24"],"profile":"discovery","scan_type":"ping","service_detection":false,"os_detection":false,"scripts":[],"timing":"aggressive","ip_version":4,"host_timeout":30,"limit":30,"skip_discovery":false}`},
		{"services at no intensity", `{"targets":["10.0.0.1"],"service_detection":true,"version_intensity":0}`,
			`{"targets":["10.0.0.1"],"profile":"quick","scan_type":"connect","top_ports":100,"service_detection":true,"version_intensity":0,"os_detection":false,"scripts":[],"timing":"aggressive","ip_version":4,"host_timeout":300,"skip_discovery":true}`},
		{"scripts are sorted", `{"targets":["10.0.0.1"],"scripts":["ssl-cert","banner","ssl-cert"],"engagement":"lab-1"}`,
			`{"targets":["10.0.0.1"],"profile":"quick","scan_type":"connect","top_ports":100,"service_detection":false,"os_detection":false,"scripts":["banner","ssl-cert"],"timing":"aggressive","ip_version":4,"host_timeout":300,"skip_discovery":true,"engagement":"lab-1"}`},
	} {
		t.Run(row.why, func(t *testing.T) {
			call := mustRead(t, row.arguments)
			got, err := call.Arguments()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			checkStable(t, call)
		})
	}
}

// checkStable checks that a call survives both of its encodings.
func checkStable(t *testing.T, call Call) {
	t.Helper()
	text, err := call.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	again, faults := Read(call.Tool, text)
	if len(faults) > 0 || !cmp.Equal(again, call) {
		t.Errorf("Read of its own arguments %s: %v\n%s", text, faults, cmp.Diff(call, again))
	}
	encoded, err := cbor.Marshal(call)
	if err != nil {
		t.Fatal(err)
	}
	var decoded Call
	if err := cbor.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(decoded, call) {
		t.Errorf("over the wire:\n%s", cmp.Diff(call, decoded))
	}
	if faults := Validate(decoded); len(faults) > 0 {
		t.Errorf("Validate after the wire: %v", faults)
	}
}

// A front that lies sends values that Read could not have made.
func TestValidateRefusesWhatReadCannotMake(t *testing.T) {
	intensity := 3
	for _, row := range []struct {
		why    string
		change func(*Nmap)
		field  string
	}{
		{"an option as a target", func(n *Nmap) { n.Targets = []string{"--script=/tmp/x"} }, "targets[0]"},
		{"capitals", func(n *Nmap) { n.Targets = []string{"Host.example"} }, "targets[0]"},
		{"a target twice", func(n *Nmap) { n.Targets = []string{"10.0.0.5", "10.0.0.5"} }, "targets"},
		{"no targets", func(n *Nmap) { n.Targets = nil }, "targets"},
		{"too many targets", func(n *Nmap) { n.Targets = make([]string, MaxTargets+1) }, "targets"},
		{"a profile that is an option", func(n *Nmap) { n.Profile = "-A" }, "profile"},
		{"a scan type that is an option", func(n *Nmap) { n.ScanType = "-sI" }, "scan_type"},
		{"a timing that is an option", func(n *Nmap) { n.Timing = "-T5" }, "timing"},
		{"an unknown script", func(n *Nmap) { n.Scripts = []string{"/tmp/x.nse"} }, "scripts[0]"},
		{"scripts out of order", func(n *Nmap) { n.Scripts = []string{"ssl-cert", "banner"} }, "scripts"},
		{"ports out of order", func(n *Nmap) { n.TopPorts, n.Ports = 0, []Ports{{80, 80}, {22, 22}} }, "ports"},
		{"touching ranges", func(n *Nmap) { n.TopPorts, n.Ports = 0, []Ports{{22, 22}, {23, 23}} }, "ports"},
		{"a range backwards", func(n *Nmap) { n.TopPorts, n.Ports = 0, []Ports{{9, 1}} }, "ports[0]"},
		{"port 0", func(n *Nmap) { n.TopPorts, n.Ports = 0, []Ports{{0, 1}} }, "ports[0]"},
		{"too many ranges", func(n *Nmap) { n.TopPorts, n.Ports = 0, make([]Ports, maxPortRanges+1) }, "ports"},
		{"ports twice over", func(n *Nmap) { n.Ports = []Ports{{22, 22}} }, "top_ports"},
		{"no ports", func(n *Nmap) { n.TopPorts = 0 }, "ports"},
		{"negative top ports", func(n *Nmap) { n.TopPorts = -1 }, "top_ports"},
		{"a negative rate", func(n *Nmap) { n.Rate = -1 }, "rate"},
		{"no host timeout", func(n *Nmap) { n.HostTimeout = 0 }, "host_timeout"},
		{"a limit past the bound", func(n *Nmap) { n.Limit = maxLimit + 1 }, "limit"},
		{"services without intensity", func(n *Nmap) { n.ServiceDetection = true }, "version_intensity"},
		{"intensity without services", func(n *Nmap) { n.VersionIntensity = &intensity }, "version_intensity"},
		{"no family", func(n *Nmap) { n.IPVersion = 0 }, "ip_version"},
		{"an engagement of control characters", func(n *Nmap) { n.Engagement = "a\x00" }, "engagement"},
	} {
		t.Run(row.why, func(t *testing.T) {
			call := mustRead(t, `{"targets":["10.0.0.5"]}`)
			if faults := Validate(call); len(faults) > 0 {
				t.Fatalf("before the change: %v", faults)
			}
			row.change(call.Nmap)
			faults := Validate(call)
			if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Field == row.field }) {
				t.Errorf("no fault on %s: %v", row.field, faults)
			}
			if _, err := call.Command(tested, prefixes("10.0.0.5/32"), nil, nil); err == nil {
				t.Error("a command was built")
			}
		})
	}
	for _, call := range []Call{{}, {Tool: nmapName}, {Tool: "masscan_scan", Nmap: &Nmap{}}} {
		if len(Validate(call)) == 0 {
			t.Errorf("Validate(%+v) finds nothing", call)
		}
	}
}

func TestPlan(t *testing.T) {
	got := mustRead(t, `{"targets":["10.0.0.0/24","10.1.0.1","Host.Lab.Internal"],"ports":["1-10",80],"rate":50,"limit":60,"engagement":"lab"}`).Plan()
	want := Plan{
		Targets: []Target{
			{Text: "10.0.0.0/24", Prefix: netip.MustParsePrefix("10.0.0.0/24")},
			{Text: "10.1.0.1", Prefix: netip.MustParsePrefix("10.1.0.1/32")},
			{Text: "host.lab.internal", Name: "host.lab.internal"},
		},
		Profile: "quick", Ports: 11, Rate: 50, Limit: time.Minute, Engagement: "lab",
		PortsField: "ports", Asked: Reach{TCP: [][2]uint16{{1, 10}, {80, 80}}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatAPlanSaysOfPorts(t *testing.T) {
	for _, row := range []struct{ why, arguments, want string }{
		{"ports of TCP", `{"targets":["10.0.0.1"],"ports":[22,"80-90"]}`, `{[[22 22] [80 90]] [] [] false} ports [] false`},
		{"ports of UDP", `{"targets":["10.0.0.1"],"scan_type":"udp","ports":[53]}`, `{[] [[53 53]] [] false} ports [] false`},
		{"top ports can be any", `{"targets":["10.0.0.1"],"scan_type":"syn","top_ports":5}`, `{[[1 65535]] [] [] false} top_ports [] false`},
		{"discovery asks for none", `{"targets":["10.0.0.1"],"profile":"discovery"}`, `{[] [] [] false} ports [] true`},
		{"scripts that stay", `{"targets":["10.0.0.1"],"ports":[22],"scripts":["ssh-hostkey","http-title"]}`, `{[[22 22]] [] [] false} ports [] false`},
		{"scripts that do not", `{"targets":["10.0.0.1"],"ports":[22],"scripts":["smb2-time","nbstat","http-title"]}`,
			`{[[22 22]] [] [] false} ports [{scripts nbstat, smb2-time these scripts send to other ports than the ones that are scanned give scripts without them}] false`},
		{"the operating system", `{"targets":["10.0.0.1"],"ports":[22],"os_detection":true}`,
			`{[[22 22]] [] [] false} ports [{os_detection true it sends to ports of TCP and UDP that nmap chooses, and ICMP leave it out}] false`},
	} {
		p := mustRead(t, row.arguments).Plan()
		if got := fmt.Sprint(p.Asked, " ", p.PortsField, " ", p.Elsewhere, " ", p.Discovery); got != row.want {
			t.Errorf("%s: %s", row.why, got)
		}
	}
}

// Under a rule for ports nothing in a command leads elsewhere: not the discovery, not what nmap would
// choose itself.
func TestCommandWithinAReach(t *testing.T) {
	const (
		net   = `{"targets":["10.0.0.0/24"],`
		ping  = `{"targets":["10.0.0.0/24"],"profile":"discovery"}`
		ping6 = `{"targets":["fd00::/120"],"profile":"discovery"}`
	)
	port := func(ports ...uint16) (out [][2]uint16) {
		for _, p := range ports {
			out = append(out, [2]uint16{p, p})
		}
		return out
	}
	for _, row := range []struct {
		why, arguments string
		reach          Reach
		want           string // of the command line from the scan type on
	}{
		{"a port that is no usual one", net + `"ports":[8443]}`, Reach{TCP: port(8443)}, "-sT -p 8443 -PS8443"},
		{"usual ports before those that are scanned", net + `"ports":[8443]}`, Reach{TCP: port(22, 80, 8443)}, "-sT -p 8443 -PS80,22"},
		{"ports left out", net + `"ports":["8000-9200"]}`, Reach{TCP: [][2]uint16{{1, 9099}, {9101, 65535}}}, "-sT -p 8000-9099,9101-9200 -PS443,80,22"},
		{"ICMP needs a raw socket", net + `"ports":[22]}`, Reach{TCP: port(22), ICMP: true}, "-sT -p 22 -PS22"},
		{"and is asked with one", net + `"ports":[22],"scan_type":"syn"}`, Reach{TCP: port(22), ICMP: true}, "-sS -p 22 -PE -PP -PS22"},
		{"UDP alone finds no host first", net + `"ports":[53],"scan_type":"udp"}`, Reach{UDP: port(53)}, "-sU -Pn -p 53"},
		{"UDP with TCP beside it", net + `"ports":[53],"scan_type":"udp"}`, Reach{UDP: port(53), TCP: port(8443, 8444, 8446, 8448)}, "-sU -p 53 -PS8443,8444,8446"},
		{"without a search for hosts", `{"targets":["10.0.0.1"],"ports":[22]}`, Reach{TCP: port(22)}, "-sT -Pn -p 22"},
		{"top ports but some", net + `"top_ports":10}`, Reach{TCP: [][2]uint16{{1, 9099}, {9101, 65535}}, ICMP: true}, "-sT --top-ports 10 --exclude-ports 9100 -PS443,80,22"},
		{"top ports without ICMP", net + `"top_ports":10,"scan_type":"syn"}`, Reach{TCP: [][2]uint16{{1, 65535}}}, "-sS --top-ports 10 -PS443,80,22"},
		{"services", net + `"ports":[22],"profile":"version"}`, Reach{TCP: port(22)}, "-sT -p 22 -sV --version-intensity 5 -PS22"},
		{"scripts that stay", net + `"ports":[443],"scripts":["ssl-cert"]}`, Reach{TCP: port(443)}, "-sT -p 443 --script ssl-cert -PS443"},
		{"hosts, by everything", ping, Reach{TCP: port(22, 443), ICMP: true}, "-sn -PE -PP -PS443,22"},
		{"hosts, by ICMP", ping, Reach{ICMP: true}, "-sn -PE -PP"},
		{"hosts, by TCP", ping, Reach{TCP: [][2]uint16{{8000, 8100}}}, "-sn -PS8000"},
		{"hosts of IPv6", ping6, Reach{TCP: port(80), ICMP: true}, "-sn -6 -PE -PS80"},
		{"hosts, by nothing", ping, Reach{UDP: port(53)}, "refused"},
		{"no port", net + `"ports":[22]}`, Reach{TCP: port(23)}, "refused"},
		{"no port of its protocol", net + `"ports":[53],"scan_type":"udp"}`, Reach{TCP: port(53)}, "refused"},
		{"no top port", net + `"top_ports":10}`, Reach{UDP: port(53)}, "refused"},
		{"the operating system", net + `"ports":[22],"os_detection":true}`, Reach{TCP: port(22), ICMP: true}, "refused"},
		{"scripts that roam", net + `"ports":[445],"scripts":["smb-os-discovery"]}`, Reach{TCP: port(445)}, "refused"},
	} {
		to := prefixes("10.0.0.0/25")
		if strings.Contains(row.arguments, "fd00") {
			to = prefixes("fd00::/121")
		}
		got := "refused"
		if command, err := mustRead(t, row.arguments).Command(tested, to, nil, &row.reach); err == nil {
			line := strings.Join(command.Argv, " ")
			got = strings.TrimSuffix(line[strings.Index(line, " -s")+1:], " -- "+operand(to[0]))
		}
		if i := strings.Index(got, "-sT"); i > 0 {
			got = got[i:]
		}
		if got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.why, got, row.want)
		}
	}
}

func TestRawAndIntrusive(t *testing.T) {
	for _, row := range []struct {
		why, arguments string
		raw            bool
		intrusive      int
	}{
		{"a connect scan", `{"targets":["10.0.0.1"]}`, false, 0},
		{"a SYN scan", `{"targets":["10.0.0.1"],"scan_type":"syn"}`, true, 0},
		{"a UDP scan", `{"targets":["10.0.0.1"],"scan_type":"udp"}`, true, 0},
		{"discovery", `{"targets":["10.0.0.1"],"profile":"discovery"}`, true, 0},
		{"the operating system alone", `{"targets":["10.0.0.1"],"os_detection":true}`, true, 0},
		{"thorough", `{"targets":["10.0.0.1"],"profile":"thorough"}`, false, 0},
		{"thorough with the operating system is -A", `{"targets":["10.0.0.1"],"profile":"thorough","os_detection":true}`, true, 1},
		{"an intrusive script", `{"targets":["10.0.0.1"],"scripts":["ssl-cert","ssl-heartbleed","http-enum"]}`, false, 2},
		{"every probe", `{"targets":["10.0.0.1"],"profile":"version","version_intensity":9}`, false, 1},
		{"1024 addresses", `{"targets":["10.0.0.0/22"]}`, false, 0},
		{"1025 addresses", `{"targets":["10.0.0.0/22","10.1.0.1"]}`, false, 1},
		{"2000 packets per second", `{"targets":["10.0.0.1"],"rate":2000}`, false, 0},
		{"2001 packets per second", `{"targets":["10.0.0.1"],"rate":2001}`, false, 1},
	} {
		t.Run(row.why, func(t *testing.T) {
			plan := mustRead(t, row.arguments).Plan()
			if plan.Raw != row.raw || len(plan.Intrusive) != row.intrusive {
				t.Errorf("raw %v, intrusive %q", plan.Raw, plan.Intrusive)
			}
		})
	}
}

// Each row is a whole command line, so that a reviewer can read what is run.
func TestCommand(t *testing.T) {
	var out bytes.Buffer
	for _, row := range []struct {
		arguments string
		addresses []netip.Prefix
	}{
		{`{"targets":["10.0.0.5"]}`, prefixes("10.0.0.5/32")},
		{`{"targets":["10.0.0.0/24"],"profile":"discovery"}`, prefixes("10.0.0.0/25", "10.0.0.128/26")},
		{`{"targets":["10.0.0.0/29"],"profile":"standard","scan_type":"syn","rate":200}`, prefixes("10.0.0.0/29")},
		{`{"targets":["10.0.0.5"],"profile":"thorough","os_detection":true,"limit":600}`, prefixes("10.0.0.5/32")},
		{`{"targets":["a.example"],"profile":"version","ip_version":6,"ports":[443,"8000-8100"]}`, prefixes("fd00::5/128", "fd00::8/125")},
		{`{"targets":["10.0.0.5"],"scan_type":"udp","top_ports":20,"timing":"polite"}`, prefixes("10.0.0.5/32")},
		{`{"targets":["10.0.0.0/16"],"scripts":["ssl-heartbleed","ssl-cert"],"ports":[443]}`, prefixes("10.0.0.0/16")},
	} {
		command, err := mustRead(t, row.arguments).Command(tested, row.addresses, prefixes("192.168.7.0/24"), nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s\n  %s\n  box %s, raw %v, at most %d packets, %v\n\n", row.arguments,
			strings.Join(command.Argv, " "), command.Box, command.Raw, command.Packets, command.Time)
	}
	golden(t, "nmap_commands.txt", out.Bytes())
}

func TestCommandRefuses(t *testing.T) {
	many := []netip.Prefix{}
	for i := range 1 << 13 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(100 + i>>7), byte(100 + i&127)}), 32))
	}
	mapped := netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.5"), 128)
	for _, row := range []struct {
		why                 string
		version             Version
		addresses, excluded []netip.Prefix
	}{
		{"no addresses", tested, nil, nil},
		{"the other family", tested, prefixes("fd00::5/128"), nil},
		{"a mapped address", tested, []netip.Prefix{mapped}, nil},
		{"host bits", tested, prefixes("10.0.0.5/24"), nil},
		{"the zero prefix", tested, []netip.Prefix{{}}, nil},
		{"an excluded address", tested, prefixes("10.0.0.0/24"), prefixes("10.0.0.7/32")},
		{"more addresses than a call may have", tested, prefixes("10.0.0.0/15"), nil},
		{"a command line too long", tested, many, nil},
		{"an old nmap", Version{7, 70}, prefixes("10.0.0.5/32"), nil},
		{"an nmap nobody has looked at", Version{8, 0}, prefixes("10.0.0.5/32"), nil},
	} {
		t.Run(row.why, func(t *testing.T) {
			if c, err := mustRead(t, `{"targets":["10.0.0.5"]}`).Command(row.version, row.addresses, row.excluded, nil); err == nil {
				t.Errorf("got %q", c.Argv)
			}
		})
	}
}

func TestBounded(t *testing.T) {
	open := mustRead(t, `{"targets":["10.0.0.5"]}`)
	set := mustRead(t, `{"targets":["10.0.0.5"],"rate":100,"limit":120,"host_timeout":120}`)
	for _, row := range []struct {
		why                        string
		call                       Call
		rate                       int
		limit                      time.Duration
		wantRate, wantLimit, wantH int
	}{
		{"what is open is filled", open, 500, time.Minute, 500, 60, 60},
		{"what is smaller stays", set, 500, time.Hour, 100, 120, 120},
		{"what is larger is lowered", set, 50, time.Minute, 50, 60, 60},
		{"zero bounds nothing", set, 0, 0, 100, 120, 120},
		{"hardly any time is the least there is", open, 0, time.Second, 0, minLimit, minLimit},
		{"a rate beyond all is the most there is", open, 1 << 30, 1 << 60, maxRate, maxLimit, 300},
	} {
		t.Run(row.why, func(t *testing.T) {
			before := *row.call.Nmap
			got := row.call.Bounded(row.rate, row.limit)
			if n := got.Nmap; n.Rate != row.wantRate || n.Limit != row.wantLimit || n.HostTimeout != row.wantH {
				t.Errorf("rate %d, limit %d, host_timeout %d", n.Rate, n.Limit, n.HostTimeout)
			}
			if faults := Validate(got); len(faults) > 0 {
				t.Errorf("no longer valid: %v", faults)
			}
			if !cmp.Equal(before, *row.call.Nmap) {
				t.Error("the original was changed")
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for line, want := range map[string]Version{
		"Nmap version 7.93 ( https://nmap.org )":    {7, 93},
		"Nmap version 7.94SVN ( https://nmap.org )": {7, 94},
		"Nmap version 7.80 ( https://nmap.org )":    {7, 80},
		"Nmap version 7.98":                         {7, 98},
	} {
		if got, err := ParseVersion("nmap", []byte(line)); err != nil || got != want {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "Nmap version 7", "nmap version 7.93", "\x1b[31mNmap version 7.93", "Nmap version 7.93;rm", strings.Repeat("9", 9999)} {
		if got, err := ParseVersion("nmap", []byte(line)); err == nil {
			t.Errorf("%q: %v", line, got)
		}
	}
	if _, err := ParseVersion("hydra", []byte("Nmap version 7.93")); err == nil {
		t.Error("a version of an unknown scanner was read")
	}
}

func TestToolsAreDescribed(t *testing.T) {
	trick := regexp.MustCompile(`(?i)\b(you must|always|never|important|ignore|instruction|do not tell|system prompt)\b`)
	for _, tool := range Tools() {
		if tool.Title == "" || len(tool.Description) == 0 || len(tool.Description) >= 2048 {
			t.Errorf("%s: title %q, description of %d bytes", tool.Name, tool.Title, len(tool.Description))
		}
		if m := trick.FindString(tool.Description + string(tool.InputSchema)); m != "" {
			t.Errorf("%s speaks to the model: %q", tool.Name, m)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, tool.InputSchema, "", "  "); err != nil {
			t.Fatal(err)
		}
		indented.WriteByte('\n')
		golden(t, tool.Name+".schema.json", indented.Bytes())
		golden(t, tool.Name+".txt", []byte(tool.Title+"\n\n"+tool.Description+"\n"))
		if len(tool.InputSchema) > 8<<10 {
			t.Errorf("%s: a schema of %d bytes costs every session", tool.Name, len(tool.InputSchema))
		}
	}
}

// Every argument that the schema names is one that Read takes, and the other way round.
func TestSchemaAndReadNameTheSameArguments(t *testing.T) {
	for _, name := range fieldNames(nmapFields()) {
		if d := (&draft{}); !d.take(name, json.RawMessage("1")) {
			t.Errorf("%s is in the schema and is not read", name)
		}
	}
	encoded, err := json.Marshal(&Nmap{Exclude: []string{"x"}, Ports: []Ports{{1, 1}}, TopPorts: 1, VersionIntensity: new(int), Rate: 1, Limit: 1, Engagement: "x"})
	if err != nil {
		t.Fatal(err)
	}
	members, faults := Members(encoded)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for name := range members {
		if !slices.Contains(fieldNames(nmapFields()), name) {
			t.Errorf("%s is a field and is not in the schema", name)
		}
	}
	if len(members) != len(fieldNames(nmapFields())) {
		t.Errorf("%d fields, %d in the schema", len(members), len(fieldNames(nmapFields())))
	}
}

var databaseLine = regexp.MustCompile(`^Entry \{ filename = "(.*)\.nse", categories = \{(.*)\} \}$`)

// installedScripts is what the installed nmap says about its scripts.
func installedScripts(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(nmapData + "/scripts/script.db")
	if err != nil {
		t.Fatalf("this test needs nmap: %v", err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if m := databaseLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			for _, c := range regexp.MustCompile(`"([a-z]+)"`).FindAllStringSubmatch(m[2], -1) {
				found[m[1]] = append(found[m[1]], c[1])
			}
		}
	}
	return found
}

func TestScriptsAreWhatTheTableSays(t *testing.T) {
	installed := installedScripts(t)
	forbidden := []string{"external", "broadcast", "dos", "exploit", "brute", "malware", "fuzzer"}
	acts := regexp.MustCompile(`io\.open|os\.(execute|remove|rename)|target\.add|prerule *=`)
	// Rules for hosts, and libraries that look elsewhere for the port of a service or for its data.
	elsewhere := regexp.MustCompile(`(?m)hostrule|require *\(?"(rpc|mssql|smb|netbios)"|(?i:pasv)|redirect_ok *= *function`)
	if !slices.IsSortedFunc(scripts, func(a, b script) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the table is not sorted")
	}
	for _, s := range scripts {
		categories, ok := installed[s.name]
		if !ok {
			t.Errorf("%s: not in the installed script.db", s.name)
			continue
		}
		for _, c := range categories {
			if slices.Contains(forbidden, c) {
				t.Errorf("%s: category %s", s.name, c)
			}
		}
		if slices.Contains(categories, "intrusive") && !s.intrusive {
			t.Errorf("%s: nmap calls it intrusive, the table does not", s.name)
		}
		if s.standard && (s.intrusive || !slices.Contains(categories, "default")) {
			t.Errorf("%s: in the standard set, categories %v", s.name, categories)
		}
		if s.reason == "" {
			t.Errorf("%s: no reason", s.name)
		}
		source, err := os.ReadFile(nmapData + "/scripts/" + s.name + ".nse")
		if forHosts := elsewhere.Match(source); forHosts && !slices.Contains(roaming, s.name) && s.name != "address-info" { // which sends nothing
			t.Errorf("%s: sends to ports that are not scanned, and the table does not say so", s.name)
		}
		if err != nil {
			t.Error(err)
		}
		if m := acts.Find(source); m != nil {
			t.Errorf("%s: its source has %q", s.name, m)
		}
	}
	// -sV runs every script of category version by itself.
	for name, categories := range installed {
		if slices.Contains(categories, "version") && slices.ContainsFunc(categories, func(c string) bool { return slices.Contains(forbidden, c) }) {
			t.Errorf("service detection runs %s, categories %v", name, categories)
		}
	}
}

func TestImportsNothingThatActs(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	forbidden := []string{"os", "net", "syscall", "os/exec", "golang.org/x/sys/unix", "unsafe", "plugin"}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); slices.Contains(forbidden, path) {
				t.Errorf("%s imports %s: this package reads and decides, it does not act", name, path)
			}
		}
	}
}
