// Package programs finds the programs of others that tests and the demo run, and
// the glide binary, and decides what happens to a test whose program is missing.
//
// Under make, which sets GLIDE_TOOLS and installs everything first, it fails: a
// test that is skipped proves nothing. Without it, as in `go test ./...`, it is
// skipped, and says what it needs.
package programs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// TB is what Need uses of a test or benchmark.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Need returns the path of a program. The test fails or is skipped without it.
func Need(tb TB, name string) (path string) {
	tb.Helper()
	path, err := Find(name)
	if err != nil {
		Missing(tb, err)
	}
	return path
}

// NeedRoot is for tests that mount file systems or make network namespaces.
func NeedRoot(tb TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Missing(tb, errors.New("this test has to run as root"))
	}
}

// Missing ends a test that lacks something: it fails or is skipped.
func Missing(tb TB, what error) {
	tb.Helper()
	if os.Getenv("GLIDE_TOOLS") != "" {
		tb.Fatalf("%v", what)
	}
	tb.Skipf("%v (make test installs everything, and runs this)", what)
}

// Find looks for a program: where `make tools` puts it, in PATH, and in the
// directories of system programs, which not everybody has in PATH.
func Find(name string) (path string, err error) {
	if filepath.IsAbs(name) { // one that was found before
		return exec.LookPath(name)
	}
	places := []string{os.Getenv("GLIDE_TOOLS")}
	if root, err := top(); err == nil {
		places = append(places, filepath.Join(root, ".cache", "bin"))
	}
	places = append(places, filepath.SplitList(os.Getenv("PATH"))...)
	for _, dir := range append(places, "/usr/sbin", "/sbin") {
		if dir == "" {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// top is the directory of this repository, from anywhere in it.
func top() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", fmt.Errorf("not in a Go module: %w", os.ErrNotExist)
}

// Glide is the binary under test: GLIDE_BIN, or one that is built here and now.
func Glide(tb TB) string {
	tb.Helper()
	bin, err := os.Getenv("GLIDE_BIN"), error(nil)
	if bin == "" {
		bin, err = build()
	} else if bin, err = filepath.Abs(bin); err == nil {
		_, err = os.Stat(bin)
	}
	if err != nil {
		tb.Fatalf("no glide binary: %v", err)
	}
	return bin
}

// build builds the binary once in a process. The place is the same each time, so
// that nothing piles up; a daemon that runs the file of an earlier time keeps it.
var build = sync.OnceValues(func() (string, error) {
	root, err := top()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("glide-test-%d-%x", os.Getuid(), sha256.Sum256([]byte(root)))[:40])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	bin, temp := filepath.Join(dir, "glide"), filepath.Join(dir, fmt.Sprint("glide-", os.Getpid()))
	cmd := exec.Command("go", "build", "-o", temp, "./cmd/glide")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return bin, os.Rename(temp, bin)
})
