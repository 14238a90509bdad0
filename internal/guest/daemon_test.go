package guest

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	servers "github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/programs"
)

// daemon is a `glide serve` on this machine that a test may replace.
type daemon struct {
	t    *testing.T
	bin  string
	dir  string // of its data and its sockets: a short path
	args []string
	proc *servers.Process
	log  servers.Log
}

func newDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	dir, err := servers.ShortDir()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, bin: programs.Glide(t), dir: dir, args: args}
	t.Cleanup(func() {
		d.end(syscall.SIGKILL)
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("glide serve said: %s", &d.log)
		}
	})
	return d
}

// start runs the daemon until it is ready. It may be called from any goroutine.
func (d *daemon) start() {
	d.t.Helper()
	args := append([]string{"serve", "--data", d.dir, "--api", d.api(), "--nbd", "unix:" + d.dir + "/nbd.sock"}, d.args...)
	p, err := servers.Serve(d.t.Context(), exec.Command(d.bin, args...), &d.log, 30*time.Second)
	if err != nil {
		d.t.Errorf("glide serve: %v", err)
	}
	d.proc = p
}

// end stops the daemon with a signal, and waits until it is gone.
func (d *daemon) end(sig syscall.Signal) {
	if d.proc != nil {
		_ = d.proc.Signal(sig)
		<-d.proc.Exited()
		d.proc = nil
	}
}

func (d *daemon) api() string { return "unix:" + d.dir + "/api.sock" }

// do runs a verb, which has to succeed, and returns what it printed.
func (d *daemon) do(args ...string) string {
	d.t.Helper()
	out, err := servers.Verbs{Glide: d.bin, API: d.api()}.Do(d.t.Context(), args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
