package repo

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// guarded tells whether a condition can only hold where invariants are checked.
func guarded(cond ast.Expr) bool {
	switch c := ast.Unparen(cond).(type) {
	case *ast.BinaryExpr:
		return c.Op == token.LAND && (guarded(c.X) || guarded(c.Y))
	case *ast.SelectorExpr:
		return isInvariants(c) && c.Sel.Name == "Enabled"
	}
	return false
}

func isInvariants(sel *ast.SelectorExpr) bool {
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == "invariants" && x.Obj == nil
}

// asserting tells whether a function makes assertions, by its name, as
// assertOverlay does.
func asserting(name string) bool { return split(name)[0] == "assert" }

// unguarded returns the assertions of a file that cost something in a program
// that does not check invariants: calls of invariants.Check and Fail, and of functions that
// make assertions, outside such functions and not behind the constant.
func unguarded(f *ast.File) (calls []string) {
	var visit func(n ast.Node) bool
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			return !asserting(n.Name.Name)
		case *ast.IfStmt:
			if guarded(n.Cond) {
				if n.Else != nil {
					ast.Inspect(n.Else, visit)
				}
				return false
			}
		case *ast.CallExpr:
			switch fn := n.Fun.(type) {
			case *ast.Ident:
				if asserting(fn.Name) {
					calls = append(calls, fn.Name)
				}
			case *ast.SelectorExpr:
				if asserting(fn.Sel.Name) || isInvariants(fn) && (fn.Sel.Name == "Check" || fn.Sel.Name == "Fail") {
					calls = append(calls, fn.Sel.Name)
				}
			}
		}
		return true
	}
	ast.Inspect(f, visit)
	return calls
}

// TestAssertionsAreGuarded keeps assertions out of release builds.
func TestAssertionsAreGuarded(t *testing.T) {
	files(t, func(pkg, path string, f *ast.File) {
		if strings.HasPrefix(pkg, "internal/invariants") {
			return
		}
		for _, call := range unguarded(f) {
			t.Errorf("%s calls %s without asking invariants.Enabled first", path, call)
		}
	})
}

func TestUnguarded(t *testing.T) {
	got := unguarded(parse(t, `package p
import "github.com/paraglide/glide/internal/invariants"
func f(x int) {
	if invariants.Enabled { invariants.Check(true, "good") }
	if x > 3 && invariants.Enabled { assertX() }
	if y := x; invariants.Enabled && y > 3 { t.assertX() }
	if invariants.Enabled || x > 3 { invariants.Check(true, "or") }
	if !invariants.Enabled { t.assertNot() }
	if invariants.Enabled { } else { assertElse() }
	invariants.Check(true, "bare")
	other.Check(true)
	assertion()
}
func assertX() { invariants.Check(true, "good") }`))
	want := []string{"Check", "assertNot", "assertElse", "Check"}
	if !slices.Equal(got, want) {
		t.Errorf("unguarded: %v, want %v", got, want)
	}
}
