package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The manual's table of settings is compared with the program's, key by key.
func TestTheManualsTableOfSettingsIsTrue(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "## Settings")
	section, _, _ = strings.Cut(section, "\n## ")
	said := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(section, -1) {
		said[m[1]] = strings.Trim(strings.TrimSpace(m[2]), "`")
	}
	for key, want := range keys(reflect.ValueOf(defaultSettings()), "") {
		if got, ok := said[key]; !ok || want != "" && got != want {
			t.Errorf("%s: the manual says %q, the program %q", key, got, want)
		}
		delete(said, key)
	}
	for key := range said {
		t.Errorf("the manual has %s, the program has not", key)
	}
}

// keys are the settings with their defaults, as the manual writes them; "" where it uses words.
func keys(v reflect.Value, prefix string) map[string]string {
	out := map[string]string{}
	for i := range v.NumField() {
		key, f := prefix+v.Type().Field(i).Tag.Get("yaml"), v.Field(i)
		switch {
		case f.Type() == reflect.TypeFor[time.Duration]():
			text := time.Duration(f.Int()).String() // 1h0m0s
			for _, none := range []string{"m0s", "h0m"} {
				if strings.HasSuffix(text, none) {
					text = strings.TrimSuffix(text, none[1:])
				}
			}
			out[key] = text
		case f.Kind() == reflect.Struct && f.Type().Name() != "Prefix":
			for k, w := range keys(f, key+".") {
				out[k] = w
			}
		case f.Kind() == reflect.Slice:
			out[key] = ""
		case f.Kind() == reflect.Map:
			var rows []string
			for _, k := range f.MapKeys() {
				rows = append(rows, fmt.Sprintf("%s: %v", k, f.MapIndex(k)))
			}
			slices.Sort(rows)
			out[key] = strings.Join(rows, ", ")
		default:
			out[key] = fmt.Sprint(f.Interface())
		}
	}
	return out
}

func TestThePackagedSettingsAreSettings(t *testing.T) {
	s, err := loadSettings(filepath.Join("..", "..", "packaging", "etc", "secmcpd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(s), fmt.Sprint(defaultSettings()); got != want {
		t.Errorf("they differ from the defaults:\n%s\n%s", got, want)
	}
}
