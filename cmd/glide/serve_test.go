package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/daemon"
)

// serving is a `glide serve` of the tests.
type serving struct {
	*daemon.Process
	t    *testing.T
	data string
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := daemon.ShortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start runs a daemon and waits for its ready line.
func start(t *testing.T, data string, env []string, args ...string) *serving {
	t.Helper()
	cmd := glide(t, append([]string{"serve", "--data", data, "--wal-limit", "1G", "--cache", "1G"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	return startCmd(t, data, cmd)
}

func startCmd(t *testing.T, data string, cmd *exec.Cmd) *serving {
	t.Helper()
	p, err := daemon.Serve(t.Context(), cmd, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", p.Log)
		}
	})
	return &serving{p, t, data}
}

// field is a value of the ready line.
func (d *serving) field(name string) string {
	d.t.Helper()
	value := d.Field(name)
	if value == "" {
		d.t.Fatalf("no %s in %q", name, d.ReadyLine())
	}
	return value
}

func (d *serving) try(args ...string) outcome {
	d.t.Helper()
	return run(d.t, glide(d.t, append([]string{"--api", d.field("api")}, args...)...))
}

func (d *serving) must(args ...string) string {
	d.t.Helper()
	o := d.try(args...)
	if o.Code != 0 {
		d.t.Fatalf("glide %s: exit %d: %s", strings.Join(args, " "), o.Code, o.Err)
	}
	return o.Out
}

// signal sends the daemon a signal.
func (d *serving) signal(s os.Signal) {
	d.t.Helper()
	if err := d.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// wait waits for the daemon's end and returns its exit status.
func (d *serving) wait() int {
	d.t.Helper()
	if err := d.Wait(time.Minute); err != nil {
		d.t.Fatal(err)
	}
	if more := d.Output(); more != "" {
		d.t.Errorf("standard output has more than the ready line: %q", more)
	}
	return d.ExitCode()
}

func (d *serving) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	if code := d.wait(); code != 0 {
		d.t.Errorf("exit %d after SIGTERM", code)
	}
}

// greeting connects as an NBD client does.
func greeting(t *testing.T, addr string) {
	t.Helper()
	a, err := api.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout(a.Network, a.Address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b := make([]byte, 8)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "NBDMAGIC" {
		t.Fatalf("NBD at %s says %q, %v", addr, b, err)
	}
}

func TestServe(t *testing.T) {
	data := shortDir(t)
	d := start(t, data, nil)
	if d.field("api") != "unix:"+data+"/api.sock" || d.field("nbd") != "unix:"+data+"/nbd.sock" {
		t.Errorf("ready line: %s", d.ReadyLine())
	}
	greeting(t, d.field("nbd"))
	d.must("create", "vm1", "--size", "1G")
	d.must("fork", "vm1", "vm2")
	d.must("flush", "vm1")
	if uri := d.must("uri", "vm2"); uri != "nbd+unix:///vm2?socket="+data+"/nbd.sock\n" {
		t.Error(uri)
	}
	refused(t, run(t, glide(t, "serve", "--data", data, "--api", "unix:"+data+"/other", "--nbd", "unix:"+data+"/another")), 1, "in use")
	refused(t, run(t, glide(t, "serve", "--data", shortDir(t), "--api", d.field("api"))), 1, "somebody listens")
	d.stop()
	for _, s := range []string{"api.sock", "nbd.sock"} {
		if _, err := os.Lstat(filepath.Join(data, s)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left: %v", s, err)
		}
	}

	// The same again, after kill -9, by variables and a file.
	file := filepath.Join(t.TempDir(), "glide.toml")
	if err := os.WriteFile(file, []byte("log-format = \"json\"\nlog-level = \"debug\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = start(t, data, []string{"GLIDE_CONFIG=" + file, "GLIDE_LOG_LEVEL=info"})
	d.signal(syscall.SIGKILL)
	d.wait()
	if !strings.Contains(d.Log.String(), `"msg":"serving"`) || strings.Contains(d.Log.String(), "DEBUG") {
		t.Errorf("log: %s", d.Log)
	}
	d = start(t, data, nil)
	if list := decode[[]api.Volume](t, d.must("ls", "--json")); len(list) != 2 || list[0].State != "active" {
		t.Errorf("after a restart: %+v", list)
	}
	d.stop()
}

// TestRestartIsSilent: a store that was proved once is asked nothing at a start.
func TestRestartIsSilent(t *testing.T) {
	data := shortDir(t)
	d := start(t, data, nil)
	d.must("create", "vm1", "--size", "1G")
	if s := decode[api.Stats](t, d.must("stats", "--json")); s.Requests.Put == 0 {
		t.Errorf("the first start proves the store: %+v", s.Requests)
	}
	d.stop()
	d = start(t, data, nil)
	if s := decode[api.Stats](t, d.must("stats", "--json")); s.Requests != (api.Requests{}) {
		t.Errorf("a restart made requests: %+v", s.Requests)
	}
	d.stop()
}

func TestStaleFiles(t *testing.T) {
	data := shortDir(t)
	path := filepath.Join(data, "nbd.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, withoutLog(run(t, glide(t, "serve", "--data", data))), 1, "is not a socket")
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// withoutLog leaves what is not log lines of standard error.
func withoutLog(o outcome) outcome {
	var lines []string
	for _, l := range strings.SplitAfter(o.Err, "\n") {
		if !strings.HasPrefix(l, "time=") {
			lines = append(lines, l)
		}
	}
	o.Err = strings.Join(lines, "")
	return o
}

func TestVanishedStore(t *testing.T) {
	data, store := shortDir(t), filepath.Join(t.TempDir(), "store")
	d := start(t, data, nil, "--store", "file://"+store)
	d.must("create", "vm1", "--size", "1G")
	d.stop()
	if err := os.Rename(store, store+".gone"); err != nil {
		t.Fatal(err)
	}
	d = start(t, data, nil, "--store", "file://"+store)
	d.must("fork", "vm1", "vm2")
	refused(t, d.try("flush", "vm1"), 1, "is gone")
	if err := os.Rename(store+".gone", store); err != nil {
		t.Fatal(err)
	}
	d.must("flush", "vm1")
	d.stop()
	if !strings.Contains(d.Log.String(), "is gone") {
		t.Errorf("log: %s", d.Log)
	}
}

func TestStoreThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	d := start(t, shortDir(t), []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}, "--store", "s3://none?endpoint=http://127.0.0.1:1&region=r")
	d.must("create", "vm1", "--size", "1G")
	d.must("fork", "vm1", "vm2")
	d.stop()
	if !strings.Contains(d.Log.String(), "cannot be used yet") {
		t.Errorf("log: %s", d.Log)
	}
	refused(t, withoutLog(run(t, glide(t, "serve", "--data", shortDir(t), "--store", "s3://"))), 2, "store URL")
}

// TestStopFinishesRequests: an import that is under way is finished before the
// end; a second signal does not wait for it.
func TestStopFinishesRequests(t *testing.T) {
	for _, patient := range []bool{true, false} {
		data := shortDir(t)
		d := start(t, data, nil)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		in := glide(t, "--api", d.field("api"), "import", "-", "vm1", "--size", "64M")
		in.Stdin = r
		done := make(chan outcome, 1)
		end := begin(t, in)
		go func() { done <- end() }()
		if _, err := w.Write(bytes.Repeat([]byte("begin"), 1<<20)); err != nil { // more than a pipe holds: it is read
			t.Fatal(err)
		}
		d.signal(syscall.SIGTERM)
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(d.Log.String(), "stopping"); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the daemon does not stop")
			}
		}
		if patient {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if o := <-done; o.Code != 0 {
				t.Errorf("the import: %+v", o)
			}
			if code := d.wait(); code != 0 {
				t.Errorf("exit %d", code)
			}
			continue
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		d.signal(syscall.SIGTERM)
		if code := d.wait(); code == 0 || time.Since(began) > 5*time.Second {
			t.Errorf("after a second signal: exit %d after %s", code, time.Since(began))
		}
		_ = w.Close()
		if o := <-done; o.Code != 1 {
			t.Errorf("the import: %+v", o)
		}
	}
}

// TestStopDoesNotWaitForEvents: who follows events waits for longer than a stop may take.
func TestStopDoesNotWaitForEvents(t *testing.T) {
	d := start(t, shortDir(t), nil)
	follow := glide(t, "--api", d.field("api"), "events", "--follow")
	end := begin(t, follow)
	time.Sleep(500 * time.Millisecond) // it has asked
	began := time.Now()
	d.stop()
	if took := time.Since(began); took > 10*time.Second { // a request may take twice as long
		t.Errorf("took %v", took)
	}
	if o := end(); o.Code != 1 {
		t.Errorf("events --follow: %+v", o)
	}
}

// TestImportToStore: an image goes into the store without a daemon, and a
// daemon wakes what came of it.
func TestImportToStore(t *testing.T) {
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "out")
	sparse(t, raw)
	store := "file://" + dir + "/store"
	first := decode[api.Import](t, run(t, glide(t, "import", raw, "vm1", "--store", store, "--json")).Out)
	again := decode[api.Import](t, run(t, glide(t, "import", raw, "vm1", "--store", store, "--json")).Out)
	if first.Size != 8<<20 || first.Unchanged || !again.Unchanged || again.ID != first.ID {
		t.Errorf("%+v, then %+v", first, again)
	}
	refused(t, run(t, glide(t, "import", raw, "vm1", "--store", "ftp://x")), 2, "store URL")
	d := start(t, shortDir(t), nil, "--store", store)
	d.must("wake", "vm1")
	d.must("export", "vm1", out)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image came back changed (%v)", err)
	}
	d.stop()
}

func TestDoctorAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	o := run(t, glide(t, "doctor", "--data", dir, "--json"))
	if checks := decode[[]api.Check](t, o.Out); o.Code != 0 || len(checks) < 5 {
		t.Errorf("%+v", o)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("doctor made the directory")
	}
	if o := run(t, glide(t, "doctor", "--data", "/proc/glide")); o.Code != 1 || !strings.Contains(o.Out, "WRONG") || !strings.Contains(o.Out, "→ ") {
		t.Errorf("%+v", o)
	}
	if o := run(t, glide(t, "doctor", "--store", "ftp://x")); o.Code != 1 || !strings.Contains(o.Out, "ftp") {
		t.Errorf("%+v", o)
	}
	if o := run(t, glide(t, "doctor", "--data", "/"+strings.Repeat("x", 120))); o.Code != 1 || !strings.Contains(o.Out, "107") {
		t.Errorf("%+v", o)
	}
}
