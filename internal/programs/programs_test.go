package programs

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// end records how a test ended.
type end struct{ failed, skipped string }

func (e *end) Helper() {}
func (e *end) Fatalf(format string, args ...any) {
	e.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (e *end) Skipf(format string, args ...any) {
	e.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// need calls Need in a goroutine, which it may end.
func need(name string) *end {
	e, done := &end{}, make(chan struct{})
	go func() {
		defer close(done)
		Need(e, name)
	}()
	<-done
	return e
}

// A program that is missing fails a test under make, and skips it otherwise.
func TestMissing(t *testing.T) {
	t.Setenv("GLIDE_TOOLS", "/nowhere")
	if e := need("no-such-program"); !strings.Contains(e.failed, "no-such-program is not installed") || e.skipped != "" {
		t.Errorf("under make: %+v", e)
	}
	t.Setenv("GLIDE_TOOLS", "")
	if e := need("no-such-program"); e.failed != "" || !strings.Contains(e.skipped, "make test") {
		t.Errorf("without it: %+v", e)
	}
}

func TestFind(t *testing.T) {
	path, err := Find("sh")
	if err != nil || !filepath.IsAbs(path) {
		t.Fatalf("%q, %v", path, err)
	}
	if again, err := Find(path); err != nil || again != path {
		t.Errorf("what was found: %q, %v", again, err)
	}
	if _, err := Find("/nowhere/sh"); err == nil {
		t.Error("/nowhere/sh was found")
	}
}
