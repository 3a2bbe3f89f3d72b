package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/secmcpd/secmcpd/observability/metrics"
	"github.com/secmcpd/secmcpd/sandbox"
)

// Whoever is told something looks for it in docs/troubleshooting.md by what was said: a check of doctor, each
// message of it that is no "ok", a check of health, a code with which a call is refused.
func TestWhatIsToldIsInTheManual(t *testing.T) {
	b, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(b)
	part := func(section string) string {
		_, part, _ := strings.Cut(manual, "\n## "+section+"\n")
		part, _, _ = strings.Cut(part, "\n## ")
		return part
	}
	has := func(section, what string) {
		t.Helper()
		if !strings.Contains(part(section), what) {
			t.Errorf("docs/troubleshooting.md has no %s under %q", what, section)
		}
	}
	// firstCells are the words that the rows of a section's table are about.
	firstCells := func(section string) (words []string) {
		for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|").FindAllStringSubmatch(part(section), -1) {
			words = append(words, strings.Split(strings.Trim(row[1], "`"), "`, `")...)
		}
		return words
	}
	named := func(section, what string) {
		t.Helper()
		if !slices.Contains(firstCells(section), what) {
			t.Errorf("docs/troubleshooting.md has no row of %s under %q", what, section)
		}
	}

	for _, c := range checks("", defaultSettings(), nil, sandbox.Features{}) {
		has("doctor", "\n| `"+c.name+"` | ")
	}
	said := messages(t, "doctor.go", "firewall.go")
	if len(said) < 35 {
		t.Fatalf("%d messages: the test looks in the wrong place", len(said))
	}
	for _, message := range said {
		has("doctor", "`"+message+"`")
	}

	looked := regexp.MustCompile(`check\("([a-z]+)", health\.`)
	for _, room := range []string{"front", "launcher"} {
		source, err := os.ReadFile(filepath.Join("../../internal", room, "health.go"))
		if err != nil {
			t.Fatal(err)
		}
		names := looked.FindAllStringSubmatch(string(source), -1)
		if len(names) < 5 {
			t.Errorf("%d checks of the %s: the test looks in the wrong place", len(names), room)
		}
		for _, name := range names {
			named("Health", name[1])
		}
	}

	for _, code := range metrics.Codes {
		named("Refusals", code)
	}
	for _, cell := range firstCells("Refusals") {
		if !slices.Contains(metrics.Codes, cell) {
			t.Errorf("docs/troubleshooting.md has the code %s, and nothing is refused with it", cell)
		}
	}
}

// messages are what doctor finds that is not well, with … for what differs from machine to machine; where all
// of it does, what follows.
func messages(t *testing.T, files ...string) (all []string) {
	t.Helper()
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, is := n.(*ast.CallExpr)
			if !is {
				return true
			}
			if f, is := call.Fun.(*ast.Ident); !is || f.Name != "fault" && f.Name != "warning" {
				return true
			}
			for _, argument := range call.Args[:2] {
				text := constant(argument)
				if strings.Trim(text, "…: ") != "" {
					all = append(all, text)
					break
				}
			}
			return true
		})
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var verb = regexp.MustCompile(`%[0-9.]*[a-z]`)

// constant is a text with … for what is not known before it is said.
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil {
			return "…"
		}
		return text
	case *ast.BinaryExpr:
		return constant(e.X) + constant(e.Y)
	case *ast.CallExpr:
		if f, is := e.Fun.(*ast.SelectorExpr); is && f.Sel.Name == "Sprintf" {
			return verb.ReplaceAllString(constant(e.Args[0]), "…")
		}
	}
	return "…"
}
