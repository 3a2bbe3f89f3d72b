package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Each command that a document shows is a command that there is, with the flags that it has.
func TestTheCommandsInDocuments(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	root := rootCommand(&surroundings{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}, nil)
	seen := 0
	for _, page := range append(pages, "../../README.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, shown := range shownCommands(string(b)) {
			seen++
			if wrong := notACommand(root, shown); wrong != "" {
				t.Errorf("%s shows `secmcpd %s`: %s", filepath.Base(page), strings.Join(shown, " "), wrong)
			}
		}
	}
	if seen < 100 {
		t.Errorf("%d commands: the test looks in the wrong place", seen)
	}
	for shown, wrong := range map[string]bool{"engagements explain nmap_scan --uid 1": false, "audit show --last 8": false, "frobnicate": true, "audit shew": true, "doctor --colour": true} {
		if got := notACommand(root, strings.Fields(shown)); (got != "") != wrong {
			t.Errorf("secmcpd %s: %q", shown, got)
		}
	}
}

var (
	fenced   = regexp.MustCompile("(?ms)^```(?:sh|text)\n(.*?)^```")
	inline   = regexp.MustCompile("`([^`\n]+(?:\n[^`\n]+)?)`")
	ownCall  = regexp.MustCompile(`(?:^|[\s(/])secmcpd ([a-z][^#|<>;)&]*)`)
	endsLine = regexp.MustCompile(`\\\n\s*`)
)

// shownCommands are the words behind `secmcpd` in blocks for a shell, and between backquotes.
func shownCommands(page string) (all [][]string) {
	var texts []string
	for _, m := range fenced.FindAllStringSubmatch(page, -1) {
		texts = append(texts, strings.Split(endsLine.ReplaceAllString(m[1], " "), "\n")...)
	}
	for _, m := range inline.FindAllStringSubmatch(regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(page, ""), -1) {
		if text := strings.ReplaceAll(m[1], "\n", " "); strings.HasPrefix(text, "secmcpd ") || strings.Contains(text, "/secmcpd ") || strings.Contains(text, " secmcpd ") {
			texts = append(texts, text)
		}
	}
	for _, text := range texts {
		if strings.HasPrefix(text, "journalctl") || strings.HasPrefix(text, "systemctl") || strings.HasPrefix(text, "dpkg") || strings.HasPrefix(text, "apt") || strings.HasPrefix(text, "rpm") || strings.HasPrefix(text, "claude") {
			continue
		}
		if strings.HasPrefix(text, "docker") || strings.HasPrefix(text, "kubectl") { // containers bear the name, too
			text = text[max(0, strings.LastIndex(text, "secmcpd ")):]
		}
		for _, m := range ownCall.FindAllStringSubmatch(text, -1) {
			all = append(all, strings.Fields(m[1]))
		}
	}
	return all
}

// notACommand says what is wrong with words behind `secmcpd`; "" for nothing.
func notACommand(root *cobra.Command, words []string) string {
	c := root
	for len(words) > 0 && !strings.HasPrefix(words[0], "-") {
		at := -1
		for i, sub := range c.Commands() {
			if sub.Name() == strings.Trim(words[0], `,.'"`) {
				at = i
			}
		}
		if at < 0 {
			break
		}
		c, words = c.Commands()[at], words[1:]
	}
	switch {
	case c == root:
		return "there is no such command"
	case c.HasSubCommands() && len(words) > 0 && regexp.MustCompile(`^[a-z]+$`).MatchString(words[0]):
		return "there is no " + words[0] + " of " + c.Name()
	}
	for _, word := range words {
		name, is := strings.CutPrefix(word, "--")
		name, _, _ = strings.Cut(strings.TrimRight(name, "`',."), "=")
		if is && name != "" && name != "help" && !slices.ContainsFunc(append(c.Commands(), c), func(c *cobra.Command) bool {
			return c.Flags().Lookup(name) != nil || c.InheritedFlags().Lookup(name) != nil
		}) {
			return "it has no --" + name
		}
	}
	return ""
}

// Each key of settings or engagements that a document names is one.
func TestTheKeysInDocuments(t *testing.T) {
	known, sections := map[string]bool{}, map[string]bool{}
	for key := range manualKeys() {
		known[key] = true
		section, _, _ := strings.Cut(key, ".")
		sections[section] = true
	}
	engagements, err := os.ReadFile("../../docs/engagements.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(engagements), "\n## Every key\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile("(?m)(?:^\\| |, )`([a-z]+\\.[a-z_]+)`").FindAllStringSubmatch(table, -1) {
		known[m[1]] = true // another test compares them
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range pages {
		if filepath.Base(page) == "migration.md" { // it has another program's
			continue
		}
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`(([a-z]+)\\.[a-z_]+)`").FindAllStringSubmatch(string(b), -1) {
			if !sections[m[2]] || strings.HasSuffix(m[1], ".yaml") || m[1] == "breakers.broken" { // files
				continue
			}
			if seen++; !known[m[1]] {
				t.Errorf("%s names %s, which is no key", filepath.Base(page), m[1])
			}
		}
	}
	if seen < 80 {
		t.Errorf("%d keys: the test looks in the wrong place", seen)
	}
}
