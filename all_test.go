// Package secmcpd holds the rules of this repository as tests.
package secmcpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/secmcpd/secmcpd/"

// Each arrow that must not exist, with its reason. A trailing /... means the package and all
// below it.
var forbidden = []struct{ from, to, why string }{
	{"policy", "os", "policy decides on values; whoever reads files hands it their bytes"},
	{"policy", "net", "policy knows addresses (net/netip), not networks"},
	{"policy", "syscall", "policy is pure"},
	{"policy", module + "runners", "shared ideas cross as standard types, joined by the launcher"},
	{"policy", module + "sandbox", "a decision does not know how it is carried out"},
	{"policy", module + "observability", "a decision is recorded by whoever asked for it"},
	{"runners", "os", "a runner is data and pure functions: arguments to argv"},
	{"runners", "net", "a runner knows addresses (net/netip), not networks"},
	{"runners", "syscall", "a runner is pure"},
	{"runners", "os/exec", "only the sandbox starts programs"},
	{"runners", module + "policy", "what is asked does not know what is allowed"},
	{"runners", module + "sandbox", "joined by boxFor in the launcher"},
	{"runners", module + "runners/report", "reading a scanner's output is the front's half"},
	{"runners/report", "os", "a parser of hostile text reads what it is given"},
	{"runners/report", module + "runners", "the report parser stands apart: arguments and output meet in the front"},
	{"sandbox", module + "policy", "the box enforces values; it does not decide them"},
	{"sandbox", module + "runners", "the box runs any command"},
	{"sandbox", module + "observability", "the box returns what happened; the launcher records it"},
	{"sandbox/scope", module + "sandbox", "the network of a slot does not know the box in it"},
	{"observability/journal", module + "observability", "each room logs; the audit log is the launcher's"},
	{"observability", module + "policy", "the audit log keeps plain records"},
	{"observability", module + "sandbox", "the audit log keeps plain records"},
	{"observability/health", module + "observability", "both rooms say how they are; the audit log is the launcher's"},
	{"observability/health", "net", "what is looked at is the rooms' to say"},
	{"observability/metrics", module + "observability", "the front counts; the audit log is the launcher's"},
	{"internal/launcher", module + "observability/metrics", "the front counts; the privileged room has nothing to export"},
	{"internal/front", module + "sandbox", "the front has no privilege and nothing to use it on"},
	{"internal/front", module + "sandbox/scope", "the front has no network"},
	{"internal/front", module + "policy", "only the launcher decides; the front asks it"},
	{"internal/front", module + "observability", "the audit log is the launcher's"},
	{"internal/front", module + "internal/launcher", "the rooms meet in internal/wire only"},
	{"internal/front", "github.com/containerd/cgroups/v3/cgroup2", "a library of the privileged room"},
	{"internal/front", "github.com/seccomp/libseccomp-golang", "a library of the privileged room"},
	{"internal/launcher", module + "runners/report", "no scanner output is parsed where there is privilege"},
	{"internal/launcher", module + "internal/front", "the rooms meet in internal/wire only"},
	{"internal/launcher", module + "internal/store", "results are the front's"},
	{"internal/launcher", "encoding/xml", "no scanner output is parsed where there is privilege"},
	{"internal/launcher", "github.com/modelcontextprotocol/go-sdk/mcp", "agents' JSON is parsed in the front alone"},
	{"internal/launcher", "net/http", "the launcher speaks no network protocol"},
	{"internal/wire", module + "internal/front", "the protocol serves both rooms"},
	{"internal/wire", module + "internal/launcher", "the protocol serves both rooms"},
	{"internal/session", module + "internal/front", "a session knows nothing of scans"},
	{"internal/session", module + "internal/store", "a session knows nothing of jobs"},
	{"internal/session", module + "internal/wire", "a session knows nothing of the launcher"},
	{"internal/session", module + "runners", "a session knows nothing of scanners"},
	{"internal/export", "os", "a form is written to whatever there is"},
	{"internal/export", module + "internal/front", "the front is who exports"},
	{"internal/export", module + "internal/store", "a form knows an answer, not where it is kept"},
	{"internal/launcher", module + "internal/export", "results are the front's"},
	{"internal/view", module + "internal/front", "what is shown knows nothing of who shows it"},
	{"internal/view", module + "internal/store", "what is shown is not how it is kept"},
	{"internal/store", module + "internal/front", "the store is used by the front, not the other way round"},
}

// direct are the rules about imports written in the package itself: what a library of the
// standard kind pulls in (net/netip reaches for internal packages, fmt for os) is not our arrow.
var direct = []string{"os", "net", "syscall", "os/exec", "encoding/xml"}

func TestNoForbiddenImport(t *testing.T) {
	packages := list(t)
	for _, rule := range forbidden {
		p, ok := packages[module+rule.from]
		if !ok {
			t.Errorf("a rule names the package %s, which is not there", rule.from)
			continue
		}
		imports := p.Deps
		if slices.Contains(direct, rule.to) {
			imports = p.Imports
		}
		if slices.Contains(imports, rule.to) {
			t.Errorf("%s imports %s: %s", rule.from, rule.to, rule.why)
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) map[string]goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", stderr(err))
	}
	packages := map[string]goPackage{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

func stderr(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return err.Error() + "\n" + string(exit.Stderr)
	}
	return err.Error()
}

// A link in the documentation that leads nowhere misleads the newcomer whom it was written for.
func TestLinksInTheDocumentationLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)]*))?\)`)
	walk(t, ".md", func(path string, text []byte) {
		for _, m := range link.FindAllSubmatch(text, -1) {
			to, heading := string(m[1]), string(m[2])
			if strings.Contains(to, "://") {
				continue
			}
			page := path
			if to != "" {
				page = filepath.Join(filepath.Dir(path), to)
			}
			there, err := os.ReadFile(page)
			if info, at := os.Stat(page); at == nil && info.IsDir() && heading == "" {
				continue
			}
			if err != nil {
				t.Errorf("%s links to %s: %v", path, to, err)
			} else if heading != "" && !slices.Contains(anchors(there), heading) {
				t.Errorf("%s links to %s, which has no heading #%s", path, page, heading)
			}
		}
	})
}

// anchors are what the headings of a page are linked by.
func anchors(page []byte) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllSubmatch(page, -1) {
		plain := regexp.MustCompile(`[^a-z0-9_ -]`).ReplaceAllString(strings.ToLower(string(m[1])), "")
		all = append(all, strings.ReplaceAll(plain, " ", "-"))
	}
	return all
}

// Who installs the package has every document, beside the one that links to it; and the first page names them all.
func TestThePackageHasTheDocumentation(t *testing.T) {
	nfpm, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"{src: docs/*.md, dst: /usr/share/doc/secmcpd/docs/,", "{src: README.md, dst: /usr/share/doc/secmcpd/README.md,"} {
		if !strings.Contains(string(nfpm), row) {
			t.Errorf("nfpm.yaml has no row %s", row)
		}
	}
	documents, err := filepath.Glob("docs/*.md")
	if err != nil || len(documents) < 10 {
		t.Fatalf("%v, %v", documents, err)
	}
	for _, path := range documents {
		if !strings.Contains(string(readme), "]("+path+")") {
			t.Errorf("README.md does not lead to %s", path)
		}
	}
	named := regexp.MustCompile(`/usr/share/doc/secmcpd/([A-Za-z/_-]+\.md)`)
	for _, suffix := range []string{".yaml", ".go", ".service", ".socket", ".8", ".sh"} {
		walk(t, suffix, func(path string, text []byte) {
			for _, m := range named.FindAllSubmatch(text, -1) {
				if _, err := os.Stat(string(m[1])); err != nil && path != "nfpm.yaml" {
					t.Errorf("%s names %s, which is not installed", path, m[0])
				}
			}
		})
	}
}

// Goroutines are started where they are awaited.
func TestNoInitFunctionAndNoSkippedTest(t *testing.T) {
	initFunction := regexp.MustCompile(`(?m)^func init\(\)`)
	skip := regexp.MustCompile(`\b[tbf]\.Skip(f|Now)?\(`)
	walk(t, ".go", func(path string, text []byte) {
		if path == "all_test.go" {
			return
		}
		if initFunction.Match(text) {
			t.Errorf("%s has an init function: tables are written out, not filled behind the reader's back", path)
		}
		if skip.Match(text) {
			t.Errorf("%s skips a test: a feature that must be there and is not is a failure", path)
		}
	})
}

func walk(t *testing.T, suffix string, visit func(path string, text []byte)) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name != "." && (strings.HasPrefix(name, ".") || name == "bin" || name == "dist" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, suffix) {
			return nil
		}
		seen++
		text, err := os.ReadFile(path)
		if err == nil {
			visit(path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Errorf("no %s file was found: the test looks in the wrong place", suffix)
	}
}

// A document that says what proves a claim names a test that is there.
func TestTheTestsThatDocumentsNameAreThere(t *testing.T) {
	functions := map[string]bool{}
	walk(t, "_test.go", func(_ string, text []byte) {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
			functions[string(m[1])] = true
		}
	})
	named := 0
	walk(t, ".md", func(path string, text []byte) {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllSubmatch(text, -1) {
			if named++; !functions[string(m[1])] {
				t.Errorf("%s names the test %s, and there is none", path, m[1])
			}
		}
		for _, m := range regexp.MustCompile("`([0-9]{2}-[a-z-]+\\.sh)`").FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("test/vm/cases", string(m[1]))); err != nil {
				t.Errorf("%s names the case %s: %v", path, m[1], err)
			}
		}
	})
	if named < 30 {
		t.Errorf("%d tests are named: the test looks in the wrong place", named)
	}
}
