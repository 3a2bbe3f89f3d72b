package metrics

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every code with which something is refused has a series of its own.
func TestTheListOfCodesIsWhole(t *testing.T) {
	found := map[string]bool{Arguments: true, Other: true}
	for dir, form := range map[string]string{
		"../../policy":            `(?m)^\t[A-Z][A-Za-z]+ += "([a-z]+_[a-z_]+|expired|intrusive)"`,
		"../../internal/launcher": `(?:Code: +|\br\.Code(?:, r\.[A-Za-z]+)* = )"([a-z_]+)"`,
		"../../internal/front":    `Code: +"([a-z_]+)"`,
	} {
		for _, text := range sources(t, dir) {
			for _, m := range regexp.MustCompile(form).FindAllStringSubmatch(text, -1) {
				found[m[1]] = true
			}
		}
	}
	for _, text := range sources(t, "../../internal/wire") {
		for _, m := range regexp.MustCompile(`(?m)^(?:const |\t)([A-Za-z]+Needed|Stopping|Drained) += "([a-z_]+)"`).FindAllStringSubmatch(text, -1) {
			found[m[2]] = true
		}
	}
	for _, argument := range []string{"too_large", "unknown_argument"} { // faults of arguments
		delete(found, argument)
	}
	for _, other := range []string{
		"own_request", "breakers_disabled", "no_such_breaker", "too_many", "too_many_logins", "no_reload", // of operators' orders and of logins, which are no calls
		"probe_failed", "probes_succeeded", // why a breaker changed
	} {
		delete(found, other)
	}
	for code := range found {
		if !slices.Contains(Codes, code) {
			t.Errorf("the code %s is counted as %s", code, Other)
		}
	}
	for _, code := range Codes {
		if !found[code] {
			t.Errorf("nothing is refused as %s", code)
		}
	}
}

// Every stage at which a launch can fail has a series of its own.
func TestTheListOfStagesIsWhole(t *testing.T) {
	found := map[string]bool{Other: true}
	for dir, form := range map[string]string{
		"../../internal/launcher": `l\.failed\("([a-z ]+)"`,
		"../../sandbox":           `(?:failed\(|return )"([a-z ]+)", (?:err|ctx\.Err|killed|noRoot|fmt\.Errorf)`,
	} {
		for _, text := range sources(t, dir) {
			for _, m := range regexp.MustCompile(form).FindAllStringSubmatch(text, -1) {
				found[m[1]] = true
			}
		}
	}
	steps, err := os.ReadFile("../../sandbox/child.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t\{"([a-z ]+)", [a-z_]+\},`).FindAllStringSubmatch(string(steps), -1) {
		found[m[1]] = true
	}
	for _, stage := range []string{"command", "connections", "segment"} { // commandStage
		found[stage] = true
	}
	for stage := range found {
		if !slices.Contains(Stages, stage) {
			t.Errorf("the stage %q is counted as %s", stage, Other)
		}
	}
	for _, stage := range Stages {
		if !found[stage] {
			t.Errorf("nothing fails at %q", stage)
		}
	}
}

func sources(t *testing.T, dir string) (texts []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) < 3 {
		t.Fatalf("%s: %d files, %v", dir, len(paths), err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "operators.go" { // no scan is refused to operators
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	return texts
}
