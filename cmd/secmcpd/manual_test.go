package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual has every command, flag and setting that there is, in a form that mandoc has no complaint about.
func TestTheManualPages(t *testing.T) {
	for page, from := range map[string]string{"secmcpd": "packaging/man/secmcpd.8", "settings": "docs/operating.md", "engagement": "docs/engagements.md",
		"runner": "docs/runners.md", "troubleshooting": "docs/troubleshooting.md"} {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "..", from))
			if err != nil {
				t.Fatal(err)
			}
			var out, said bytes.Buffer
			if status := run([]string{"manual", page}, bytes.NewReader(text), &out, &said); status != exitOK {
				t.Fatalf("status %d: %s", status, said.String())
			}
			path := filepath.Join(t.TempDir(), page)
			if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			// Pages of others are there or not; that some are is no fault of these.
			complaints, err := exec.Command("mandoc", "-T", "lint", "-W", "style", path).CombinedOutput()
			if complaints = aboutOthers.ReplaceAll(complaints, nil); len(complaints) > 0 {
				t.Errorf("mandoc: %v\n%s", err, complaints)
			}
			shown, err := exec.Command("mandoc", "-T", "ascii", "-O", "width=1000", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			// A letter in bold is struck twice.
			plain := strings.Join(strings.Fields(string(bytes.ReplaceAll(strike.ReplaceAll(shown, nil), []byte("\u00a0"), []byte(" ")))), " ")
			for _, want := range map[string]func(*testing.T) []string{"secmcpd": everyCommand, "settings": everySetting,
				"engagement": func(*testing.T) []string { return []string{"limits.addresses_per_job", "callers: {", "SEE ALSO"} },
				"runner":     func(*testing.T) []string { return []string{"program: /usr/bin/fping", "intrusive_above", "SEE ALSO"} },
				"troubleshooting": func(*testing.T) []string {
					return []string{"no Landlock", "target_out_of_scope", "protection, cgroups"}
				}}[page](t) {
				if !strings.Contains(plain, want) {
					t.Errorf("%q is not in the page", want)
				}
			}
		})
	}
	var out bytes.Buffer
	if status := run([]string{"manual", "secmcpd"}, strings.NewReader("no mark"), &out, &out); status != exitFailed {
		t.Errorf("a page without a mark: status %d", status)
	}
}

var aboutOthers = regexp.MustCompile(`(?m)^mandoc: (.*referenced manual not found: .*|outdated mandoc.db .*)\n`)

var strike = regexp.MustCompile(`.\x08`)

func everyCommand(t *testing.T) (all []string) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.HasParent() && c.Parent().Annotations[ofTools] != "briefly" {
			all = append(all, strings.TrimPrefix(c.CommandPath(), "secmcpd "))
			c.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if !f.Hidden && f.Name != "help" {
					all = append(all, "--"+f.Name)
				}
			})
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand(&surroundings{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}, nil))
	if len(all) < 25 {
		t.Fatalf("%d commands: the test looks in the wrong place", len(all))
	}
	return append(all, "--diff-baseline text", "--top-ports number", "--second-pass", "-o, --output text", "--with-engagements")
}

func everySetting(t *testing.T) (all []string) {
	for key := range manualKeys() {
		all = append(all, key)
	}
	if len(all) < 30 {
		t.Fatalf("%d settings: the test looks in the wrong place", len(all))
	}
	return all
}
