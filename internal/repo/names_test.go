package repo

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// refused returns the names that the glossary refuses, each with the word to
// use instead. It reads the table under "## Words": the first column is the
// word, and the third lists the refused names in backquotes. A name without
// backquotes is refused in prose only.
func refused(doc string) map[string]string {
	names := map[string]string{}
	_, words, _ := strings.Cut(doc, "\n## Words\n")
	words, _, _ = strings.Cut(words, "\n## ")
	for line := range strings.Lines(words) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 5 { // what is before the first bar and after the last is empty
			continue
		}
		for i, part := range strings.Split(cells[3], "`") {
			if i%2 == 1 {
				names[part] = strings.TrimSpace(cells[1])
			}
		}
	}
	return names
}

// split cuts a name into its words, in lower case: lookForSeal, look_for_seal
// and LookForSeal are look, for, seal, and HTTPServer is http, server.
func split(name string) []string {
	var words []string
	var word []rune
	end := func() {
		if len(word) > 0 {
			words = append(words, strings.ToLower(string(word)))
		}
		word = nil
	}
	rs := []rune(name)
	for i, r := range rs {
		switch {
		case !unicode.IsLetter(r):
			end()
			continue
		case unicode.IsUpper(r):
			if i > 0 && !unicode.IsUpper(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1]) {
				end()
			}
		}
		word = append(word, r)
	}
	end()
	return words
}

// contains tells whether the words of name appear in a row among the words of
// ident. The last may be in the plural.
func contains(ident, name string) bool {
	in, words := split(ident), split(name)
	last := len(words) - 1
	for i := 0; last >= 0 && i+last < len(in); i++ {
		if slices.Equal(in[i:i+last], words[:last]) && (in[i+last] == words[last] || in[i+last] == words[last]+"s") {
			return true
		}
	}
	return false
}

// declared calls fn for every name that the file declares.
func declared(f *ast.File, fn func(*ast.Ident)) {
	fn(f.Name)
	exprs := func(list ...ast.Expr) {
		for _, e := range list {
			if id, ok := e.(*ast.Ident); ok {
				fn(id)
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			fn(n.Name)
		case *ast.TypeSpec:
			fn(n.Name)
		case *ast.ValueSpec:
			for _, id := range n.Names {
				fn(id)
			}
		case *ast.Field:
			for _, id := range n.Names {
				fn(id)
			}
		case *ast.ImportSpec:
			if n.Name != nil {
				fn(n.Name)
			}
		case *ast.LabeledStmt:
			fn(n.Label)
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				exprs(n.Lhs...)
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				exprs(n.Key, n.Value)
			}
		}
		return true
	})
}

func TestNamesAreThoseOfTheGlossary(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(top(t), "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := refused(string(doc))
	sorted := slices.Sorted(maps.Keys(names))
	files(t, func(pkg, path string, f *ast.File) {
		check := func(ident string) {
			for _, name := range sorted {
				if contains(ident, name) {
					t.Errorf("%s: the name %s: the glossary refuses %s and has %q instead", path, ident, name, names[name])
				}
			}
		}
		check(strings.TrimSuffix(filepath.Base(path), ".go"))
		seen := map[string]bool{}
		declared(f, func(id *ast.Ident) {
			if !seen[id.Name] {
				seen[id.Name] = true
				check(id.Name)
			}
		})
	})
}

func TestRefused(t *testing.T) {
	got := refused("# A\n\n| x | y | `before` |\n\n## Words\n\n| word | meaning | not this |\n|---|---|---|\n" +
		"| temporary open | a volume that is open for a reader | `loan`, `giveBack`, debt |\n| plain | has none | |\n| old | two columns |\n" +
		"\n## Packages\n\n| x | y | `after` |\n")
	want := map[string]string{"loan": "temporary open", "giveBack": "temporary open"}
	if !maps.Equal(got, want) {
		t.Errorf("refused: %v, want %v", got, want)
	}
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		ident, name string
		want        bool
	}{
		{"loan", "loan", true},
		{"takeLoans", "loan", true},
		{"LoanedVolume", "loan", false},
		{"sloan", "loan", false},
		{"giveBack", "giveBack", true},
		{"mustGiveBackNow", "giveBack", true},
		{"give_back", "giveBack", true},
		{"giveItBack", "giveBack", false},
		{"giveBackup", "giveBack", false},
		{"first", "firsts", false},
		{"HTTPLoan", "loan", true},
		{"loan2", "loan", true},
		{"x", "", false},
	} {
		if got := contains(c.ident, c.name); got != c.want {
			t.Errorf("contains(%q, %q) = %v", c.ident, c.name, got)
		}
	}
}

func TestDeclared(t *testing.T) {
	f := parse(t, `package p
import im "fmt"
type T[P any] struct{ field int }
const c = 1
var v = 2
func (r T[P]) method(arg int) (res int) {
	local, used := 1, other
label:
	for k, e := range list { im.Print(called(k, e)) }
	var inner int
	lit := T[int]{field: 1}
}`)
	var got []string
	declared(f, func(id *ast.Ident) { got = append(got, id.Name) })
	slices.Sort(got)
	want := []string{"P", "T", "arg", "c", "e", "field", "im", "inner", "k", "label", "lit", "local", "method", "p", "r", "res", "used", "v"}
	if !slices.Equal(got, want) {
		t.Errorf("declared:\n%v, want\n%v", got, want)
	}
}
