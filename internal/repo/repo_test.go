package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/paraglide/glide/"

// lowest is what every room of the host may import.
var lowest = []string{"internal/errs", "internal/fault", "internal/pack"}

// layers lists what each package may import of this module. Data goes down one
// stair and back up: what is not listed is a step sideways, or up.
var layers = map[string][]string{
	"internal/errs":         {},
	"internal/fault":        {},
	"internal/extent":       {},
	"internal/reserve":      {},
	"internal/limits":       {},
	"internal/reload":       {},
	"internal/datadir":      {"internal/errs", "internal/reserve"},
	"internal/objstore":     {"internal/errs"},
	"internal/seal":         {"internal/errs"},
	"internal/pack":         {"internal/errs", "internal/fault", "internal/objstore", "internal/seal"},
	"internal/blockmap":     {"internal/errs", "internal/pack"},
	"internal/cost":         {"internal/objstore"},
	"internal/sharing":      {"internal/pack", "internal/blockmap"},
	"internal/wal":          {"internal/errs", "internal/fault", "internal/extent", "internal/datadir", "internal/seal"},
	"internal/meta":         {"internal/errs", "internal/pack", "internal/reserve", "internal/seal"},
	"internal/cache":        {"internal/cost", "internal/forward", "internal/errs", "internal/fault", "internal/datadir", "internal/pack", "internal/objstore", "internal/blockmap", "internal/readahead", "internal/seal"},
	"internal/peers":        {"internal/errs", "internal/pack", "internal/api"},
	"internal/keys":         {"internal/errs", "internal/objstore", "internal/seal"},
	"internal/localkey":     {"internal/errs", "internal/keys", "internal/objstore", "internal/seal"},
	"internal/readahead":    {"internal/cost", "internal/pack", "internal/blockmap"},
	"internal/commitlog":    {"internal/errs", "internal/fault", "internal/pack", "internal/objstore", "internal/blockmap", "internal/seal"},
	"internal/sealed":       {"internal/errs"},
	"internal/tenants":      {"internal/errs", "internal/sealed", "internal/seal", "internal/objstore", "internal/pack", "internal/keys", "internal/commitlog"},
	"internal/installation": {"internal/errs", "internal/objstore", "internal/sealed"},
	"internal/forward":      {"internal/errs", "internal/pack", "internal/objstore", "internal/sealed"},
	"internal/pinobject":    {"internal/errs", "internal/pack", "internal/sealed", "internal/objstore", "internal/blockmap", "internal/commitlog"},
	"internal/volume":       {"internal/cost", "internal/errs", "internal/fault", "internal/pack", "internal/blockmap", "internal/readahead", "internal/wal", "internal/extent"},
	"internal/flush":        {"internal/seal", "internal/errs", "internal/fault", "internal/pack", "internal/objstore", "internal/blockmap", "internal/volume"},
	"internal/size":         {"internal/errs"},
	"internal/nearest":      {},
	"internal/image":        {"internal/errs", "internal/api", "internal/size"},
	"internal/auth":         {"internal/errs"},
	"internal/listener":     {"internal/errs", "internal/api", "internal/certs"},
	"internal/audit":        {"internal/errs"},
	"internal/doors":        {"internal/errs", "internal/audit", "internal/auth", "internal/certs", "internal/api", "internal/commitlog", "internal/disk", "internal/retention", "nbd"},
	"internal/tokencmd":     {"internal/errs", "client"},
	"internal/tenantcmd":    {"internal/errs", "internal/size", "client"},
	"internal/api":          {"internal/errs", "internal/auth", "internal/nearest", "internal/size"},
	"internal/config":       {"internal/keys", "internal/cost", "internal/errs", "internal/api", "internal/pack", "internal/host", "internal/nearest", "internal/size"},
	"internal/clock":        {"internal/errs"},
	"internal/metrics":      {"internal/api"},
	"internal/event":        {"internal/api"},
	"internal/latency":      {"internal/api", "nbd"},
	"internal/disk":         append(lowest, "internal/tenants", "internal/cost", "internal/objstore", "internal/blockmap", "internal/cache", "internal/commitlog", "internal/meta", "internal/volume", "internal/wal", "internal/api", "internal/clock", "internal/event", "internal/latency"),
	"internal/pin":          append(lowest, "internal/blockmap", "internal/pinobject", "internal/volume", "internal/flush", "internal/disk"),
	"internal/catalog":      append(lowest, "internal/objstore", "internal/commitlog", "internal/volume", "internal/api", "internal/disk"),
	"internal/retention":    {"internal/errs"},
	"internal/rekey":        append(lowest, "internal/clock", "internal/commitlog", "internal/gc", "internal/keys", "internal/objstore", "internal/tenants"),
	"internal/ownership":    append(lowest, "internal/retention", "internal/cost", "internal/commitlog", "internal/meta", "internal/volume", "internal/api", "internal/clock", "internal/event", "internal/disk", "internal/pin", "internal/catalog"),
	"internal/recall":       {"internal/fault", "internal/objstore"},
	"internal/gc":           append(lowest, "internal/tenants", "internal/recall", "internal/installation", "internal/retention", "internal/sealed", "internal/forward", "internal/objstore", "internal/blockmap", "internal/cache", "internal/commitlog", "internal/pinobject", "internal/boot"),
	"internal/publication":  append(lowest, "internal/cost", "internal/gc", "internal/objstore", "internal/blockmap", "internal/commitlog", "internal/volume", "internal/flush", "internal/api", "internal/disk", "internal/pin", "internal/ownership"),
	"internal/durability":   append(lowest, "internal/cost", "internal/commitlog", "internal/volume", "internal/api", "internal/clock", "internal/event", "internal/disk", "internal/pin", "internal/ownership", "internal/publication"),
	"internal/cleaner":      append(lowest, "internal/volume", "internal/clock", "internal/event", "internal/disk", "internal/publication"),
	"internal/export":       append(lowest, "internal/cost", "internal/volume", "internal/wal", "internal/api", "internal/clock", "internal/kernelnbd", "internal/latency", "internal/disk", "internal/ownership", "nbd", "nbd/nbdclient"),
	"internal/ingest":       append(lowest, "internal/blockmap", "internal/flush", "internal/api", "internal/disk"),
	"internal/inspect":      append(lowest, "internal/keys", "internal/tenants", "internal/audit", "internal/cost", "internal/forward", "internal/sealed", "internal/boot", "internal/blockmap", "internal/cache", "internal/meta", "internal/objstore", "internal/wal", "internal/commitlog", "internal/pinobject", "internal/volume", "internal/api", "internal/disk", "internal/catalog", "internal/clock", "internal/sharing"),
	"internal/scrub":        append(lowest, "internal/installation", "internal/cost", "internal/api", "internal/clock", "internal/event", "internal/objstore", "internal/forward", "internal/blockmap", "internal/cache", "internal/commitlog", "internal/pinobject", "internal/meta", "internal/wal", "internal/volume", "internal/flush", "internal/disk", "internal/boot", "internal/gc"),
	"internal/hydrate":      append(lowest, "internal/cost", "internal/api", "internal/clock", "internal/event", "internal/blockmap", "internal/cache", "internal/disk", "internal/inspect"),
	"internal/boot":         append(lowest, "internal/cost", "internal/blockmap", "internal/volume", "internal/disk"),
	"internal/forget":       append(lowest, "internal/objstore", "internal/commitlog", "internal/pinobject", "internal/gc"),
	"internal/collect":      append(lowest, "internal/keys", "internal/tenants", "internal/forget", "internal/commitlog", "internal/cost", "internal/objstore", "internal/api", "internal/clock", "internal/event", "internal/size", "internal/disk", "internal/gc", "internal/publication"),
	"internal/forks":        append(lowest, "internal/cost", "internal/commitlog", "internal/volume", "internal/api", "internal/event", "internal/disk", "internal/pin", "internal/catalog", "internal/ownership", "internal/publication", "internal/durability", "internal/gc"),
	"internal/undo":         append(lowest, "internal/retention", "internal/cost", "internal/commitlog", "internal/volume", "internal/api", "internal/disk", "internal/pin", "internal/catalog", "internal/ownership", "internal/publication", "internal/durability", "internal/inspect", "internal/gc"),
	"internal/rehome":       append(lowest, "internal/tenants", "internal/cost", "internal/objstore", "internal/blockmap", "internal/commitlog", "internal/pinobject", "internal/volume", "internal/flush", "internal/api", "internal/clock", "internal/disk", "internal/pin", "internal/catalog", "internal/ownership", "internal/publication"),
	"internal/custody":      append(lowest, "internal/catalog", "internal/rehome", "internal/rekey", "internal/keys", "internal/seal", "internal/tenants", "internal/commitlog", "internal/api", "internal/disk"),
	"internal/host": append(lowest, "internal/rehome", "internal/custody", "internal/seal", "internal/keys", "internal/tenants", "internal/undo", "internal/retention", "internal/cost", "internal/forward", "internal/objstore", "internal/blockmap", "internal/cache", "internal/commitlog", "internal/pinobject", "internal/meta", "internal/reserve", "internal/datadir", "internal/size", "internal/limits",
		"internal/volume", "internal/wal", "internal/flush", "internal/api", "internal/kernelnbd", "internal/clock", "internal/event",
		"internal/disk", "internal/pin", "internal/catalog", "internal/ownership", "internal/publication", "internal/durability", "internal/cleaner", "internal/export", "internal/ingest", "internal/inspect", "internal/hydrate", "internal/scrub", "internal/boot", "internal/forks", "internal/collect", "internal/gc", "internal/peers", "nbd"),
	"internal/certs":        {"internal/errs", "internal/auth"},
	"internal/connect":      {"internal/errs", "internal/nearest", "internal/certs", "internal/config", "client"},
	"internal/contextcmd":   {"internal/errs", "internal/connect", "internal/terminal"},
	"internal/doctor":       {"internal/errs", "internal/api", "internal/auth", "internal/certs", "internal/config", "internal/installation", "internal/kernelnbd", "internal/localkey", "internal/objstore", "internal/size", "internal/terminal", "client"},
	"internal/server":       {"internal/audit", "internal/auth", "internal/certs", "internal/doctor", "internal/doors", "internal/listener", "internal/installation", "internal/cost", "client", "internal/errs", "internal/config", "internal/host", "internal/localkey", "internal/seal", "internal/api", "internal/objstore", "internal/datadir", "internal/limits", "internal/metrics", "internal/reload", "nbd"},
	"internal/kernelnbd":    {"internal/errs"},
	"internal/sim/dice":     {},
	"internal/sim/hardware": {"internal/errs", "internal/objstore", "internal/pack", "internal/host", "internal/sim/dice"},
	"internal/sim/tenant":   {"internal/errs", "internal/objstore", "internal/pack", "internal/seal", "internal/keys", "internal/commitlog", "internal/tenants"},
	"nbd":                   {},
	"client":                {"internal/api", "internal/listener", "internal/errs", "internal/size"},
}

// engine lists the packages that get their clock and their files handed in, so
// that tests can take them away.
var engine = []string{
	"internal/volume", "internal/wal", "internal/flush", "internal/commitlog", "internal/blockmap", "internal/cache", "internal/extent", "internal/meta",
}

var forbidden = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker", "Tick", "AfterFunc"},
	"os":   {"Open", "Create", "OpenFile", "Rename", "Remove", "RemoveAll", "ReadFile", "WriteFile", "Mkdir", "MkdirAll"},
}

// top is the repository's directory.
func top(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// files calls fn for every Go file that is not a test.
func files(t *testing.T, fn func(pkg, path string, f *ast.File)) {
	t.Helper()
	everyFile(t, func(pkg, path string, f *ast.File) {
		if !strings.HasSuffix(path, "_test.go") {
			fn(pkg, path, f)
		}
	})
}

// everyFile calls fn for every Go file.
func everyFile(t *testing.T, fn func(pkg, path string, f *ast.File)) {
	t.Helper()
	root := top(t)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", ".cache", "bin", "testdata", "tools":
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		fn(filepath.ToSlash(rel), path, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsPointDownward(t *testing.T) {
	files(t, func(pkg, path string, f *ast.File) {
		allowed, ok := layers[pkg]
		if !ok {
			return // commands, and packages for tests
		}
		for _, imp := range f.Imports {
			name, mine := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module)
			if mine && name != "internal/invariants" && !slices.Contains(allowed, name) && !strings.HasPrefix(name, pkg+"/internal/") {
				t.Errorf("%s imports %s, which is not below it", path, name)
			}
		}
	})
}

func TestEngineGetsClockAndFilesHandedIn(t *testing.T) {
	files(t, func(pkg, path string, f *ast.File) {
		if !slices.Contains(engine, pkg) || strings.HasSuffix(path, "/dump.go") {
			return // a dump reads a file that a person names
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(forbidden[x.Name], sel.Sel.Name) && x.Obj == nil {
				t.Errorf("%s calls %s.%s: it has to be handed in", path, x.Name, sel.Sel.Name)
			}
			return true
		})
	})
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	files(t, func(pkg, _ string, f *ast.File) {
		said[pkg] = said[pkg] || f.Doc != nil
	})
	for pkg, ok := range said {
		if !ok {
			t.Errorf("package %s has no comment", pkg)
		}
	}
}

// TestModules compares the modules that the binary links with the list in
// testdata: a new dependency is a decision.
func TestModules(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/glide")
	cmd.Dir = top(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	mods := strings.Fields(string(out))
	slices.Sort(mods)
	mods = slices.Compact(mods)
	got := strings.Join(mods, "\n") + "\n"
	const golden = "testdata/modules.txt"
	if os.Getenv("GLIDE_UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the linked modules are not those of %s (GLIDE_UPDATE=1 writes it):\n%s", golden, got)
	}
}

func TestFilesAreShort(t *testing.T) {
	files(t, func(_, path string, _ *ast.File) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "\n"); n > 600 {
			t.Errorf("%s has %d lines: is it still one idea?", path, n)
		}
	})
}

// TestArchitectureNamesPackages: who looks for the place of a change finds every package in
// docs/architecture.md. What is below a package is that one's own.
func TestArchitectureNamesPackages(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(top(t), "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	files(t, func(pkg, _ string, _ *ast.File) {
		name, ok := strings.CutPrefix(pkg, "internal/")
		if ok && !strings.Contains(name, "/") && !seen[name] && !strings.Contains(string(doc), "`internal/"+name+"`") {
			t.Errorf("docs/architecture.md does not say what internal/%s is", name)
		}
		seen[name] = ok
	})
}
