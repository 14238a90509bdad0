package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	servers "github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/programs"
)

// result is what a run of glide left.
type result = servers.Result

// daemon is one `glide serve` after another, with the same data directory.
type daemon struct {
	tb     testing.TB
	data   string
	store  string
	flags  []string
	env    []string // beyond that of the process
	within []string // a command that runs it, and becomes it
	sock   string   // directory of the sockets: short paths
	proc   *servers.Process
	log    servers.Log
}

// newDaemon prepares a daemon; store "" is the default one.
func newDaemon(tb testing.TB, store string, flags ...string) *daemon {
	tb.Helper()
	sock, err := servers.ShortDir()
	must(tb, err)
	d := &daemon{tb: tb, data: tb.TempDir(), store: store, flags: flags, sock: sock}
	tb.Cleanup(func() {
		d.kill()
		_ = os.RemoveAll(sock)
		if tb.Failed() {
			tb.Logf("stderr of the daemon in %s:\n%s", d.data, &d.log)
		}
	})
	return d
}

func (d *daemon) nbd() string { return filepath.Join(d.sock, "nbd") }
func (d *daemon) api() string { return "unix:" + filepath.Join(d.sock, "api") }

func (d *daemon) args() []string {
	a := []string{"serve", "--data", d.data, "--nbd", "unix:" + d.nbd(), "--api", d.api()}
	if d.store != "" {
		a = append(a, "--store", d.store)
	}
	return append(a, d.flags...)
}

// start runs the daemon and waits until it is ready.
func (d *daemon) start() {
	d.tb.Helper()
	if err := d.tryStart(); err != nil {
		d.tb.Fatalf("%v\n%s", err, &d.log)
	}
}

func (d *daemon) tryStart() error {
	if err := d.spawn(); err != nil {
		return err
	}
	return d.proc.WaitReady(context.Background(), time.Minute)
}

// spawn runs the daemon, and does not wait until it is ready.
func (d *daemon) spawn() (err error) {
	args := append(append(append([]string{}, d.within...), programs.Glide(d.tb)), d.args()...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), d.env...)
	d.proc, err = servers.Start(cmd, &d.log)
	return err
}

// kill is kill -9.
func (d *daemon) kill() {
	if d.proc != nil {
		d.proc.Kill()
		d.proc = nil
	}
}

// stop is SIGTERM; the daemon must exit with 0.
func (d *daemon) stop() {
	d.tb.Helper()
	if err := d.proc.Stop(time.Minute); err != nil {
		d.tb.Fatalf("%v\n%s", err, &d.log)
	}
	d.proc = nil
}

// cli runs verbs against the daemon.
func (d *daemon) cli() servers.Verbs {
	d.tb.Helper()
	return servers.Verbs{Glide: programs.Glide(d.tb), API: d.api()}
}

// try runs a verb that may fail.
func (d *daemon) try(args ...string) result {
	d.tb.Helper()
	return finish(d.tb, d.cli().Command(context.Background(), args...))
}

// do runs a verb that has to succeed.
func (d *daemon) do(args ...string) string {
	d.tb.Helper()
	out, err := d.cli().Do(context.Background(), args...)
	must(d.tb, err)
	return out
}

// json runs a verb with --json and decodes its document into v.
func (d *daemon) json(v any, args ...string) {
	d.tb.Helper()
	must(d.tb, d.cli().JSON(context.Background(), v, args...))
}

func run(tb testing.TB, stdin string, args ...string) result {
	tb.Helper()
	cmd := exec.Command(programs.Glide(tb), args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(tb, cmd)
}

// finish runs a command to its end.
func finish(tb testing.TB, cmd *exec.Cmd) result {
	tb.Helper()
	r, err := servers.Run(cmd)
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		tb.Error(err)
	}
	return r
}
