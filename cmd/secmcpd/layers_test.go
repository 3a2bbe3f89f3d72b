package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/internal/strict"
)

// No two keys have the same variable, and none has that of something else.
func TestEachKeyHasAVariableOfItsOwn(t *testing.T) {
	s := defaultSettings()
	keys := map[string]string{}
	for _, k := range s.keys() {
		name := variable(k.path)
		if other, twice := keys[name]; twice || slices.Contains(ownVariables, name) {
			t.Errorf("%s is the variable of %s and of %s", name, k.path, other)
		}
		keys[name] = k.path
	}
}

// Every number has bounds, and each bound is of a number: nobody adds one and forgets them.
func TestEveryNumberHasBounds(t *testing.T) {
	s := defaultSettings()
	bounded := map[string]bool{}
	for _, b := range s.bounds() {
		if bounded[b.field] {
			t.Errorf("%s has bounds twice", b.field)
		}
		bounded[b.field] = true
	}
	for _, k := range s.keys() {
		if k.value.CanInt() != bounded[k.path] {
			t.Errorf("%s is a number: %v, has bounds: %v", k.path, k.value.CanInt(), bounded[k.path])
		}
		delete(bounded, k.path)
	}
	for key := range bounded {
		t.Errorf("bounds for %s, which is no key", key)
	}
}

// The defaults are settings without a fault, and nothing of them is clamped.
func TestTheDefaultsAreWithinBounds(t *testing.T) {
	s := defaultSettings()
	faults := s.check(func(field, got, allowed, hint string) strict.Fault {
		return strict.Fault{Field: field, Got: got, Allowed: allowed, Hint: hint}
	})
	if len(faults)+len(s.from.warnings) > 0 {
		t.Errorf("%v\n%v", faults, s.from.warnings)
	}
}

// What is printed of a setting can be read again, and is the same then.
func TestWhatIsShownCanBeRead(t *testing.T) {
	s := defaultSettings()
	var file strings.Builder
	for _, k := range s.keys() {
		if _, _, nested := strings.Cut(k.path, "."); !nested {
			file.WriteString(k.path + ": " + k.shown() + "\n")
		}
		again := defaultSettings()
		if strings.Contains(k.path, "ipv6") || k.path == "front_user" {
			continue // has to fit the rest; texts in quotes are the file's
		}
		if _, faults := strict.Set("test", k.path, strings.Trim(k.shown(), `"`), &again); len(faults) > 0 {
			t.Errorf("%s: %s: %v", k.path, k.shown(), faults)
		}
		if d := differing(&s, &again); len(d) > 0 {
			t.Errorf("%s: %s differs then", k.path, d[0].path)
		}
	}
	again := defaultSettings()
	if _, faults := strict.Decode("shown", []byte(file.String()), &again); len(faults) > 0 {
		t.Errorf("%v", faults)
	}
	if d := differing(&s, &again); len(d) > 0 {
		t.Errorf("%s differs", d[0].path)
	}
}

// A key or section that is tagged as a secret is never shown: not its value, not in JSON, not in a fault.
func TestSecretsAreNotShown(t *testing.T) {
	type tokens struct {
		First  string   `yaml:"first"`
		Others []string `yaml:"others"`
	}
	var s struct {
		Name   string            `yaml:"name"`
		Token  string            `yaml:"token" secret:"yes"`
		None   string            `yaml:"none" secret:"yes"`
		Tokens tokens            `yaml:"tokens" secret:"yes"`
		Of     map[string]string `yaml:"of" secret:"yes"`
	}
	s.Name, s.Token, s.Tokens = "public", "hunter2", tokens{"hunter2", []string{"hunter2"}}
	s.Of = map[string]string{"somebody": "hunter2"}
	want := map[string]string{"name": "public", "token": redacted, "none": `""`, "tokens.first": redacted, "tokens.others": redacted, "of.somebody": redacted}
	for _, k := range keysOf(&s) {
		if got := k.shown(); got != want[k.path] {
			t.Errorf("%s is shown as %s, want %s", k.path, got, want[k.path])
		}
		if text, is := jsonOf(k).(string); k.path != "name" && k.path != "none" && (!is || text != redacted) {
			t.Errorf("%s is %v in JSON", k.path, jsonOf(k))
		}
		delete(want, k.path)
	}
	for path := range want {
		t.Errorf("%s is not there", path)
	}
	faults := strict.Faults{{Field: "tokens.others[0]", Got: `"hunter2"`}, {Field: "name", Got: `"public"`}, {Field: "of.somebody", Got: "x"}}
	redactIn(keysOf(&s), faults)
	if faults[0].Got != redacted || faults[1].Got != `"public"` || faults[2].Got != redacted {
		t.Errorf("faults say %v", faults)
	}
}

// Each variable of the predecessor has a key that there is, or what to use; none is one of ours, and the
// manual has each.
func TestThePredecessorsVariables(t *testing.T) {
	manual, err := os.ReadFile("../../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	s := defaultSettings()
	var keys []string
	for _, k := range s.keys() {
		keys = append(keys, k.path)
	}
	seen := map[string]bool{}
	for _, f := range predecessor {
		if seen[f.name] || strings.HasPrefix(f.name, "SECMCPD_") {
			t.Errorf("%s is there twice, or ours", f.name)
		}
		seen[f.name] = true
		if (f.key == "") == (f.use == "") || f.key != "" && !slices.Contains(keys, f.key) {
			t.Errorf("%s: key %q, use %q", f.name, f.key, f.use)
		}
		row := fmt.Sprintf("| `%s` | %s |", f.name, f.noEffect())
		if f.key != "" {
			row = fmt.Sprintf("| `%s` | `%s`, `%s`", f.name, f.key, variable(f.key))
		}
		if !strings.Contains(string(manual), "\n"+row) {
			t.Errorf("docs/migration.md has no row %s", row)
		}
	}
}

// Each variable of the predecessor that has an equivalent says what its manual said of it.
func TestThePredecessorsVariablesCount(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secmcpd.yaml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	says := map[string][2]string{
		"TOOL_INCLUDE":                                    {"NmapTool,GobusterTool", "[nmap_scan, gobuster_scan]"},
		"TOOL_EXCLUDE":                                    {"MasscanTool", "[masscan_scan]"},
		"MCP_MAX_MEMORY_MB":                               {"256", "256"},
		"MCP_MAX_FILE_DESCRIPTORS":                        {"300", "300"},
		"MCP_MAX_STDOUT_BYTES":                            {"2097152", "2"},
		"MCP_DNS_SERVERS":                                 {"10.0.0.53,10.0.1.53", "[10.0.0.53, 10.0.1.53]"},
		"MCP_SERVER_SHUTDOWN_GRACE_PERIOD":                {"45", "45s"},
		"MCP_CIRCUIT_BREAKER_FAILURE_THRESHOLD":           {"7", "7"},
		"MCP_CIRCUIT_BREAKER_RECOVERY_TIMEOUT":            {"90.5", "1m30.5s"},
		"MCP_CIRCUIT_BREAKER_HALF_OPEN_SUCCESS_THRESHOLD": {"2", "2"},
		"MCP_HEALTH_CHECK_INTERVAL":                       {"60", "1m"},
		"MCP_HEALTH_TIMEOUT":                              {"5", "5s"},
		"MCP_HEALTH_CPU_THRESHOLD":                        {"95", "95"},
		"MCP_HEALTH_MEMORY_THRESHOLD":                     {"70.5", "70"},
		"MCP_HEALTH_DISK_THRESHOLD":                       {"60", "60"},
		"MCP_METRICS_COLLECTION_INTERVAL":                 {"30", "30s"},
		"MCP_LOGGING_LEVEL":                               {"WARNING", "warn"},
		"LOG_LEVEL":                                       {"CRITICAL", "error"},
		"LOG_FORMAT":                                      {"JSON", "json"},
	}
	for _, f := range predecessor {
		given, is := says[f.name]
		if is != (f.key != "") {
			t.Errorf("%s: key %q; tried: %v", f.name, f.key, is)
			continue
		}
		if !is {
			given[0] = "1"
		}
		s, err := loadSettings(sources{file: file, environ: []string{f.name + "=" + given[0]}})
		if err != nil {
			t.Errorf("%s=%s: %v", f.name, given[0], err)
			continue
		}
		if len(s.from.warnings) == 0 || !strings.Contains(s.from.warnings[0].String(), f.name) {
			t.Errorf("%s: nobody is told of it: %v", f.name, s.from.warnings)
		}
		for _, k := range s.keys() {
			if k.path == f.key && k.shown() != given[1] {
				t.Errorf("%s=%s: %s is %s, want %s", f.name, given[0], k.path, k.shown(), given[1])
			}
		}
	}
}
