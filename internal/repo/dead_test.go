package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// parse parses the source of one file.
func parse(t *testing.T, src string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// source is a file of package pkg, a path in this module. That of an external
// test has pkg + "_test".
type source struct {
	pkg  string
	test bool
	file *ast.File
}

// exports returns the exported package-level names that a file declares: not
// methods, since those may be there for an interface, and not constants of an
// exported type, which are its values.
func exports(f *ast.File) []string {
	var names []string
	add := func(ids ...*ast.Ident) {
		for _, id := range ids {
			if id.IsExported() {
				names = append(names, id.Name)
			}
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				add(d.Name)
			}
		case *ast.GenDecl:
			typed := false
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					add(s.Name)
				case *ast.ValueSpec:
					if s.Type != nil || len(s.Values) > 0 { // else it repeats the one above
						id, ok := s.Type.(*ast.Ident)
						typed = d.Tok == token.CONST && ok && id.IsExported()
					}
					if !typed {
						add(s.Names...)
					}
				}
			}
		}
	}
	return names
}

// surface calls fn for every name that stands in the exported interface of a
// file: in the signatures of exported functions and methods, in the exported
// fields of exported types, and in the types of exported variables. Such a name
// is in use elsewhere even if nobody spells it there.
func surface(f *ast.File, fn func(name string)) {
	var walk func(n ast.Node)
	walk = func(n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				fn(n.Name)
			case *ast.StructType:
				for _, field := range n.Fields.List {
					if len(field.Names) == 0 || slices.ContainsFunc(field.Names, (*ast.Ident).IsExported) {
						walk(field.Type)
					}
				}
				return false
			}
			return true
		})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() {
				walk(d.Type)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						walk(s.Type)
					}
				case *ast.ValueSpec:
					if s.Type != nil && slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
						walk(s.Type)
					}
				}
			}
		}
	}
}

// dead returns the exported package-level names of packages under internal/
// that no other package uses, as package.Name.
func dead(all []source) []string {
	unused := map[string]bool{}
	for _, s := range all {
		if strings.HasPrefix(s.pkg, "internal/") && !s.test {
			for _, name := range exports(s.file) {
				unused[s.pkg+"."+name] = true
			}
		}
	}
	for _, s := range all {
		if !s.test {
			surface(s.file, func(name string) { delete(unused, s.pkg+"."+name) })
		}
		imported := map[string]string{}
		for _, imp := range s.file.Imports {
			if pkg, mine := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module); mine {
				name := path.Base(pkg)
				if imp.Name != nil {
					name = imp.Name.Name
				}
				imported[name] = pkg
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				// A package's name has no object in the file's scopes; a variable that hides it has.
				if x, ok := sel.X.(*ast.Ident); ok && x.Obj == nil {
					delete(unused, imported[x.Name]+"."+sel.Sel.Name)
				}
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(unused))
}

// TestExportedNamesAreUsed finds what is exported for nobody: a name that only
// its own package uses says, by its capital, more than is true.
func TestExportedNamesAreUsed(t *testing.T) {
	var all []source
	everyFile(t, func(pkg, path string, f *ast.File) {
		s := source{pkg: pkg, test: strings.HasSuffix(path, "_test.go"), file: f}
		if strings.HasSuffix(f.Name.Name, "_test") {
			s.pkg += "_test"
		}
		all = append(all, s)
	})
	for _, name := range dead(all) {
		t.Errorf("no other package uses %s: remove it, or do not export it", name)
	}
}

func TestDead(t *testing.T) {
	const imp = `import "github.com/paraglide/glide/internal/low"` + "\n"
	got := dead([]source{
		{pkg: "internal/low", file: parse(t, `package low
			type Result struct { Inner Part; inner hidden }
			type Part int
			type hidden int
			type Kept struct{ cache Private }
			type Private int
			const Used, Dead = 1, 2
			const (
				Value Part = iota
				Other
				NoValue = 1
			)
			var InTest int
			func F() (*Result, error) { Own(); return nil, nil }
			func Own() {}
			func (Kept) Method() {}
			func Shadowed() {}`)},
		{pkg: "internal/low", test: true, file: parse(t, `package low
			func Helper() { Own() }`)},
		{pkg: "internal/low_test", test: true, file: parse(t, `package low_test
			`+imp+`
			var _ = low.InTest`)},
		{pkg: "internal/high", file: parse(t, `package high
			`+imp+`
			func g() { low.F(); var _ low.Kept; _ = low.Used }
			func h(low struct{ Shadowed func() }) { low.Shadowed() }`)},
	})
	want := []string{"internal/low.Dead", "internal/low.NoValue", "internal/low.Own", "internal/low.Private", "internal/low.Shadowed"}
	if !slices.Equal(got, want) {
		t.Errorf("dead: %v, want %v", got, want)
	}
}
