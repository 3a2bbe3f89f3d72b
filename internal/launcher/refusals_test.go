package launcher

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// Whoever is refused is told what it was, why, and what to do, wherever in the launcher it happens.
// The words may come from policy or from a runner; that there are some is said where they are used.
func TestEveryRefusalSaysWhyAndWhatToDo(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			literal, is := n.(*ast.CompositeLit)
			if !is {
				return true
			}
			if of, is := literal.Type.(*ast.SelectorExpr); !is || of.Sel.Name != "Refusal" {
				return true
			}
			seen++
			for _, want := range []string{"Code", "Reason", "Hint"} {
				if !slices.ContainsFunc(literal.Elts, func(e ast.Expr) bool { return gives(e, want) }) {
					t.Errorf("%s: a refusal without %s", set.Position(literal.Pos()), want)
				}
			}
			return true
		})
	}
	if seen < 20 {
		t.Errorf("%d refusals were found in this package", seen)
	}
}

// gives says that a field of a literal is set, and not to an empty text.
func gives(e ast.Expr, field string) bool {
	pair, is := e.(*ast.KeyValueExpr)
	if !is {
		return false
	}
	name, _ := pair.Key.(*ast.Ident)
	text, isText := pair.Value.(*ast.BasicLit)
	return name != nil && name.Name == field && (!isText || text.Value != `""`)
}
