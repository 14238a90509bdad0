package repo

import (
	"go/ast"
	"os"
	"strings"
	"testing"
)

// packageLines is how long a package may be, without its tests.
const packageLines = 2500

// longPackages lists the packages that are longer, each with its own bound. A
// bound only goes down, and a package that fits packageLines leaves the table.
var longPackages = map[string]int{
	"cmd/glide":          3000,
	"internal/commitlog": 3700,
	"internal/host":      3000,
	"internal/objstore":  3600,
	"internal/sim":       4200,
	"internal/volume":    2700,
	"internal/wal":       3500,
	"nbd":                2900,
}

func TestPackagesAreShort(t *testing.T) {
	lines := map[string]int{}
	files(t, func(pkg, path string, _ *ast.File) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines[pkg] += strings.Count(string(b), "\n")
	})
	for pkg, n := range lines {
		if most, ok := longPackages[pkg]; ok && n > most {
			t.Errorf("%s has %d lines without its tests, and may have %d", pkg, n, most)
		} else if !ok && n > packageLines {
			t.Errorf("%s has %d lines without its tests: split it, a package may have %d", pkg, n, packageLines)
		}
	}
	for pkg := range longPackages {
		if n := lines[pkg]; n <= packageLines {
			t.Errorf("%s has only %d lines: remove it from longPackages", pkg, n)
		}
	}
}
