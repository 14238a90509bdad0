package guest

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// daemon is a `glide serve` on this machine that a test may replace.
type daemon struct {
	t    *testing.T
	bin  string
	dir  string // of its data and its sockets: a short path
	args []string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

func glideBin(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs(os.Getenv("GLIDE_BIN"))
	if err != nil || os.Getenv("GLIDE_BIN") == "" {
		t.Fatal("GLIDE_BIN is not set: make test does it")
	}
	return bin
}

func newDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "glide-guest-")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, bin: glideBin(t), dir: dir, args: args}
	t.Cleanup(func() {
		d.end(syscall.SIGKILL)
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("glide serve said: %s", d.log.Bytes())
		}
	})
	return d
}

// start runs the daemon until it is ready. It may be called from any goroutine.
func (d *daemon) start() {
	d.t.Helper()
	args := append([]string{"serve", "--data", d.dir, "--api", d.api(), "--nbd", "unix:" + d.dir + "/nbd.sock"}, d.args...)
	d.cmd = exec.Command(d.bin, args...)
	d.cmd.Stderr = &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := d.cmd.StdoutPipe()
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		d.t.Errorf("glide serve: %v", err)
		return
	}
	late := time.AfterFunc(30*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer late.Stop()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "glide: ready") {
		d.t.Errorf("glide serve is not ready: %q, %v", line, err)
	}
}

// end stops the daemon with a signal, and waits until it is gone.
func (d *daemon) end(sig syscall.Signal) {
	if d.cmd != nil && d.cmd.Process != nil {
		_ = d.cmd.Process.Signal(sig)
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

func (d *daemon) api() string { return "unix:" + d.dir + "/api.sock" }

// do runs a verb, which has to succeed, and returns what it printed.
func (d *daemon) do(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(d.bin, append(args, "--api", d.api())...)
	out, err := cmd.Output()
	if err != nil {
		var said []byte
		if ee, ok := err.(*exec.ExitError); ok {
			said = ee.Stderr
		}
		d.t.Fatalf("glide %s: %v: %s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(string(out))
}
