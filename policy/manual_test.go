package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The manual's table of an engagement's keys is compared with what is read.
func TestTheManualHasEveryKeyOfAnEngagement(t *testing.T) {
	b, err := os.ReadFile("../docs/engagements.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Every key\n")
	section, _, _ = strings.Cut(section, "\n## ")
	said, without := []string{}, map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|([^|]*)\\|").FindAllStringSubmatch(section, -1) {
		for _, key := range strings.Split(strings.Trim(row[1], "`"), "`, `") {
			said, without[key] = append(said, key), strings.TrimSpace(row[2])
		}
	}
	for key, says := range without {
		if fault := faultWithout(t, key); says != "" && fault != (says == "a fault") {
			t.Errorf("without %s there is %q by the manual; a fault: %v", key, says, fault)
		}
	}
	for key, is := range map[string]string{
		"limits.addresses_per_job": fmt.Sprint(defaultLimits.Addresses), "limits.ports_per_address": fmt.Sprint(defaultLimits.Ports),
		"limits.packets_per_second": fmt.Sprint(defaultLimits.Rate), "limits.jobs": fmt.Sprint(defaultLimits.Jobs),
		"limits.duration": strings.TrimSuffix(defaultLimits.Duration.String(), "0m0s"), "approval.within": strings.TrimSuffix(defaultWithin.String(), "0m0s"),
	} {
		if without[key] != is {
			t.Errorf("without %s there is %q by the manual, and %s", key, without[key], is)
		}
	}
	read := keysOf(reflect.TypeFor[engagementFile](), "")
	slices.Sort(said)
	slices.Sort(read)
	if !slices.Equal(said, read) {
		t.Errorf("the manual has\n%s\nwhat is read is\n%s", strings.Join(said, "\n"), strings.Join(read, "\n"))
	}
}

// keysOf are the keys of a mapping as people write them. A list is a key of its own, and so are tools.
func keysOf(of reflect.Type, before string) (keys []string) {
	for _, field := range reflect.VisibleFields(of) {
		key, is := field.Tag.Lookup("yaml")
		if !is {
			continue
		}
		key = before + key
		inner := func(within string, inside reflect.Type) []string {
			if inside.Kind() != reflect.Struct {
				return nil
			}
			return keysOf(inside, within)
		}
		kind, below := field.Type, key+"."
		switch kind.Kind() {
		case reflect.Pointer:
			kind = kind.Elem()
		case reflect.Slice:
			kind, below = kind.Elem(), key+"[]."
		case reflect.Map:
			kind, below = kind.Elem(), key+".TOOL."
		}
		parts := inner(below, kind)
		if len(parts) == 0 || field.Type.Kind() == reflect.Slice || field.Type.Kind() == reflect.Map {
			keys = append(keys, key)
		}
		keys = append(keys, parts...)
	}
	return keys
}

// faultWithout says whether an engagement that has every other key has a fault.
func faultWithout(t *testing.T, key string) bool {
	t.Helper()
	type m = map[string]any
	file := m{
		"name": "whole", "description": "every key", "callers": m{"users": []any{1}, "groups": []any{2}},
		"targets": []any{m{"network": "10.0.0.0/24", "ports": []any{22}, "icmp": true}, m{"name": "a.example", "within": []any{"10.0.0.0/24"}}},
		"exclude": []any{m{"network": "10.0.0.1", "ports": []any{22}}, "10.0.0.2"},
		"hours":   m{"days": []any{"mon"}, "from": "08:00", "to": "18:00", "timezone": "UTC"}, "expires": "2030-01-01",
		"tools": m{"nmap_scan": m{"profiles": []any{"*"}}},
		"limits": m{"addresses_per_job": 2, "ports_per_address": 1, "packets_per_second": 2, "duration": "1m", "jobs": 1,
			"total_packets_per_second": 1},
		"intrusive": "allow", "confirm": []any{"intrusive"}, "approve": []any{"nmap_scan"},
		"approval": m{"addresses_over": 1, "packets_per_second_over": 1, "within": "1m", "self": true},
	}
	if !isWell(t, file) {
		t.Fatal("the engagement with every key has a fault")
	}
	removed := false
	var remove func(in any, path []string)
	remove = func(in any, path []string) {
		switch in := in.(type) {
		case []any:
			for _, item := range in {
				remove(item, path)
			}
		case m:
			name := strings.TrimSuffix(path[0], "[]")
			if name == "TOOL" {
				name = "nmap_scan"
			}
			if below, is := in[name]; is && len(path) > 1 {
				remove(below, path[1:])
			} else if is {
				delete(in, name)
				removed = true
			}
		}
	}
	remove(file, strings.Split(key, "."))
	if !removed {
		t.Errorf("%s is not among every key", key)
	}
	return !isWell(t, file)
}

// isWell says that an engagement has no fault.
func isWell(t *testing.T, file map[string]any) bool {
	t.Helper()
	text, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	_, faults := ParseEngagement("whole.yaml", text, Lookup{})
	return len(faults) == 0
}
