package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/daemon"
)

// TestMain makes the test binary the program itself when it is run as that.
func TestMain(m *testing.M) {
	if os.Getenv("BE_GLIDE") != "" {
		main()
	}
	os.Exit(m.Run())
}

// fake is a daemon that serves a backend in memory.
type fake struct {
	*apitest.Backend
	addr string
}

func newFake(t *testing.T, o api.Options) *fake {
	t.Helper()
	f := &fake{&apitest.Backend{}, "unix:" + filepath.Join(t.TempDir(), "api.sock")}
	l, err := net.Listen("unix", strings.TrimPrefix(f.addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: api.Handler(f.Backend, o), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return f
}

// glide prepares a run of the program, in an environment without settings.
func glide(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	// The race detector would have every process sleep for a second at its end.
	cmd.Env = []string{"BE_GLIDE=1", "GORACE=atexit_sleep_ms=0", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TZ=UTC"}
	return cmd
}

// outcome is what a run left.
type outcome = daemon.Result

func run(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	return begin(t, cmd)()
}

// begin starts a run; what it returns waits for the end.
func begin(t *testing.T, cmd *exec.Cmd) (end func() outcome) {
	t.Helper()
	wait, err := daemon.Begin(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return func() outcome {
		o, err := wait()
		if err != nil {
			t.Error(err)
		}
		return o
	}
}

func (f *fake) try(t *testing.T, args ...string) outcome {
	t.Helper()
	return run(t, glide(t, append([]string{"--api", f.addr}, args...)...))
}

func (f *fake) must(t *testing.T, args ...string) string {
	t.Helper()
	o := f.try(t, args...)
	if o.Code != 0 || o.Err != "" {
		t.Fatalf("glide %s: exit %d: %s", strings.Join(args, " "), o.Code, o.Err)
	}
	return o.Out
}

// refused checks that a run failed with the status, and said why in one line.
func refused(t *testing.T, o outcome, code int, words string) {
	t.Helper()
	if o.Code != code || o.Out != "" || !strings.HasPrefix(o.Err, "glide: ") || strings.Count(o.Err, "\n") != 1 || !strings.Contains(o.Err, words) {
		t.Errorf("exit %d, out %q, err %q; want %d and one line with %q", o.Code, o.Out, o.Err, code, words)
	}
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&v); err != nil || d.More() {
		t.Fatalf("no single JSON document (%v):\n%s", err, text)
	}
	return v
}
