package runners

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Whatever users of the predecessor look for is in the manual, under its tool, and what the manual gives instead exists.
func TestTheManualHasAPlaceForEverything(t *testing.T) {
	manual, err := os.ReadFile("../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, part := range strings.Split(string(manual), "\n## ")[1:] {
		title, text, _ := strings.Cut(part, "\n")
		sections[title] = text
	}
	wanted, err := os.ReadFile("testdata/predecessor.txt")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(wanted)) {
		about, words, found := strings.Cut(line, ":")
		if strings.HasPrefix(line, "#") || !found {
			continue
		}
		tool, kind, _ := strings.Cut(about, " ")
		for _, word := range strings.Fields(words) {
			rows++
			in := regexp.MustCompile("`" + `([^` + "`" + `]* )?` + regexp.QuoteMeta(word) + `([ ,][^` + "`" + `]*|: [^` + "`" + `]*)?` + "`")
			if kind == "templates" {
				in = regexp.MustCompile(`(?m)^\| ` + word + `\b`)
			}
			if !in.MatchString(sections[tool]) {
				t.Errorf("%s: nothing is said of %s", about, word)
			}
		}
	}
	if rows < 120 {
		t.Errorf("only %d were looked for", rows)
	}
	fields := map[string][]field{"nmap": nmapFields(), "masscan": masscanFields(), "gobuster": gobusterFields()}
	for tool, known := range fields {
		profiles, _ := Profiles(tool + "_scan")
		for _, m := range regexp.MustCompile("(?m)^\\| [^|]* \\| `([a-z_]+)`[^|]*\\| ?").FindAllStringSubmatch(sections[tool], -1) {
			if !slices.Contains(append(fieldNames(known), profiles...), m[1]) && m[1] != "job_result" && m[1] != "nmap_scan" && m[1] != "scan_preview" && m[1] != "tools" {
				t.Errorf("%s: there is no %s", tool, m[1])
			}
		}
		for _, profile := range profiles {
			if !strings.Contains(sections[tool], "`"+profile+"`") {
				t.Errorf("%s: profile %s replaces no template", tool, profile)
			}
		}
	}
}
