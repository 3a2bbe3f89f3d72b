package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
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
	for key, want := range manualKeys() {
		if got, ok := said[key]; !ok || want != "" && got != want {
			t.Errorf("%s: the manual says %q, the program %q", key, got, want)
		}
		delete(said, key)
	}
	for key := range said {
		t.Errorf("the manual has %s, the program has not", key)
	}
}

// manualKeys are the settings with their defaults, as the manual writes them; "" where it uses words.
func manualKeys() map[string]string {
	out := map[string]string{}
	s := defaultSettings()
	for _, k := range s.keys() {
		path, text := k.path, fmt.Sprint(k.value.Interface())
		switch {
		case k.value.Kind() == reflect.Slice:
			text = ""
		case k.of == "" && k.value.Type() == reflect.TypeFor[time.Duration]():
			text = textOf(k.value)
		}
		if k.of != "" {
			_, name, _ := strings.Cut(path, k.of+".")
			path, text = k.of, strings.Trim(out[k.of]+", "+name+": "+fmt.Sprint(k.value.Interface()), ", ")
		}
		out[path] = text
	}
	return out
}

func TestThePackagedSettingsAreSettings(t *testing.T) {
	s, err := loadSettings(sources{file: filepath.Join("..", "..", "packaging", "etc", "secmcpd.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	s.from = nil
	if got, want := fmt.Sprint(s), fmt.Sprint(defaultSettings()); got != want {
		t.Errorf("they differ from the defaults:\n%s\n%s", got, want)
	}
}

// What the manual shows as settings are some.
func TestTheManualsExamplesAreSettings(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "\n### Examples\n")
	section, _, _ = strings.Cut(section, "\n## ")
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(examples) < 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, example := range examples {
		file := filepath.Join(t.TempDir(), "secmcpd.yaml")
		if err := os.WriteFile(file, []byte("front_user: \"65401\"\n"+example[1]), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := loadSettings(sources{file: file}); err != nil {
			t.Errorf("%v:\n%s", err, example[1])
		}
	}
}
