package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The manual's table of metrics is compared with the program's.
func TestTheManualsTableOfMetricsIsTrue(t *testing.T) {
	manual, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:mcp|secmcpd)_[a-z_]+)(?:\\{([a-z_,]+)\\})?` \\| ([a-z]+) \\| .+ \\|$").FindAllStringSubmatch(string(manual), -1) {
		said[m[1]] = []string{m[3], m[2]}
	}
	for _, f := range Families() {
		if want := []string{f.Type, strings.Join(f.Labels, ",")}; !slices.Equal(said[f.Name], want) {
			t.Errorf("%s: the manual says %q, the program %q", f.Name, said[f.Name], want)
		}
		delete(said, f.Name)
	}
	for name := range said {
		t.Errorf("the manual has %s, the program has not", name)
	}
	for what, words := range map[string][]string{"error types": append(slices.Clone(ErrorTypes), None)} {
		for _, word := range words {
			if !strings.Contains(string(manual), "`"+word+"`") {
				t.Errorf("the manual does not say the %s %s", what, word)
			}
		}
	}
}
