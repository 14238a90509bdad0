package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// glideBin is the binary under test.
func glideBin(tb testing.TB) string {
	tb.Helper()
	bin := os.Getenv("GLIDE_BIN")
	if bin == "" {
		bin = "../../bin/glide"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		tb.Fatalf("no glide binary: run make build (%v)", err)
	}
	return bin
}

// daemon is one `glide serve`, with its own data directory.
type daemon struct {
	tb     testing.TB
	data   string
	store  string
	flags  []string
	env    []string // beyond that of the process
	within []string // a command that runs it, and becomes it
	sock   string   // directory of the sockets: short paths
	cmd    *exec.Cmd
	stderr lockedBuffer
	exited chan struct{}
}

// lockedBuffer can be read while a process still writes into it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// newDaemon prepares a daemon; store "" is the default one.
func newDaemon(tb testing.TB, store string, flags ...string) *daemon {
	tb.Helper()
	sock, err := os.MkdirTemp("", "glide")
	if err != nil {
		tb.Fatal(err)
	}
	d := &daemon{tb: tb, data: tb.TempDir(), store: store, flags: flags, sock: sock}
	tb.Cleanup(func() {
		d.kill()
		_ = os.RemoveAll(sock)
		if tb.Failed() {
			tb.Logf("stderr of the daemon in %s:\n%s", d.data, d.stderr.String())
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
		d.tb.Fatalf("%v\n%s", err, d.stderr.String())
	}
}

func (d *daemon) tryStart() error {
	ready, err := d.spawn()
	if err != nil {
		return err
	}
	select {
	case ok := <-ready:
		if !ok {
			<-d.exited
			return fmt.Errorf("the daemon exited with %v before it was ready", d.cmd.ProcessState)
		}
		return nil
	case <-time.After(60 * time.Second):
		return fmt.Errorf("the daemon was not ready within a minute")
	}
}

// spawn runs the daemon; ready tells when it is, or false when it has exited.
func (d *daemon) spawn() (ready <-chan bool, err error) {
	args := append(append(append([]string{}, d.within...), glideBin(d.tb)), d.args()...)
	d.cmd = exec.Command(args[0], args[1:]...)
	d.cmd.Env = append(os.Environ(), d.env...)
	d.cmd.Stderr = &d.stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	said := make(chan bool, 2)
	cmd, exited := d.cmd, make(chan struct{})
	d.exited = exited
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if strings.HasPrefix(sc.Text(), "glide: ready") {
				said <- true
			}
		}
		_ = cmd.Wait()
		close(exited)
		said <- false
	}()
	return said, nil
}

// kill is kill -9.
func (d *daemon) kill() {
	if d.cmd != nil && d.cmd.Process != nil {
		_ = d.cmd.Process.Kill()
		<-d.exited
		d.cmd = nil
	}
}

// stop is SIGTERM; the daemon must exit with 0.
func (d *daemon) stop() {
	d.tb.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(60 * time.Second):
		d.tb.Fatal("the daemon did not stop within a minute of SIGTERM")
	}
	if c := d.cmd.ProcessState.ExitCode(); c != 0 {
		d.tb.Fatalf("the daemon exited with %d after SIGTERM\n%s", c, d.stderr.String())
	}
	d.cmd = nil
}

// result is what a run of glide left.
type result struct {
	code        int
	out, stderr string
}

// try runs a verb against the daemon.
func (d *daemon) try(args ...string) result {
	d.tb.Helper()
	return run(d.tb, "", append([]string{"--api", d.api()}, args...)...)
}

// do runs a verb that has to succeed.
func (d *daemon) do(args ...string) string {
	d.tb.Helper()
	r := d.try(args...)
	if r.code != 0 {
		d.tb.Fatalf("glide %s: exit %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.out
}

// json runs a verb with --json and decodes its document into v.
func (d *daemon) json(v any, args ...string) {
	d.tb.Helper()
	out := d.do(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		d.tb.Fatalf("glide %s --json printed no JSON document: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func run(tb testing.TB, stdin string, args ...string) result {
	tb.Helper()
	cmd := exec.Command(glideBin(tb), args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(tb, cmd)
}

// finish runs a command to its end.
func finish(tb testing.TB, cmd *exec.Cmd) result {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{out: out.String(), stderr: errs.String()}
	if ee, ok := err.(*exec.ExitError); ok {
		r.code = ee.ExitCode()
	} else if err != nil {
		tb.Error(err)
		r.code = -1
	}
	return r
}
