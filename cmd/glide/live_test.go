package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// until waits until something holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 s it does not hold that %s", what)
		}
	}
}

// lastSignal is the number of the last signal, a real-time one.
const lastSignal = 64

// No signal ends the daemon but SIGTERM, SIGINT and SIGQUIT (and those that
// nobody can outlive); and those do.
func TestSignals(t *testing.T) {
	d := start(t, shortDir(t), nil)
	for n := 1; n <= lastSignal; n++ {
		switch s := syscall.Signal(n); s {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
			continue
		default:
			if err := d.Signal(s); err != nil {
				t.Fatalf("it ended before signal %d: %v", n, err)
			}
			greeting(t, d.field("nbd")) // an ended process would not answer
		}
	}
	d.must("ls")
	d.stop()
	d = start(t, shortDir(t), nil)
	d.signal(syscall.SIGINT)
	if code := d.wait(); code != 0 {
		t.Errorf("exit %d after SIGINT", code)
	}
	d = start(t, shortDir(t), nil)
	d.signal(syscall.SIGQUIT)
	if code := d.wait(); code == 0 || !strings.Contains(d.Log.String(), "goroutine") {
		t.Errorf("exit %d after SIGQUIT, and no dump", code)
	}
}

// Whoever read the log, or the ready line, may go away.
func TestReadersGone(t *testing.T) {
	data := shortDir(t)
	cmd := glide(t, "serve", "--data", data, "--log-level", "debug")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Close(), log.Close()); err != nil {
		t.Fatal(err)
	}
	addr := "unix:" + data + "/api.sock"
	for range 20 { // each is logged
		greeting(t, "unix:"+data+"/nbd.sock")
	}
	if o := run(t, glide(t, "--api", addr, "create", "v", "--size", "1M")); o.Code != 0 {
		t.Errorf("create: %s", o.Err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// A changed token, certificate or log level is used without a restart; a bad one
// leaves the old one in use.
func TestFilesChange(t *testing.T) {
	dir := t.TempDir()
	tokenFile, settings := filepath.Join(dir, "token"), filepath.Join(dir, "glide.toml")
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := selfSigned(t)
	files := map[string]string{}
	for name, from := range map[string]string{"cert.pem": cert, "key.pem": key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = filepath.Join(dir, name)
		write(files[name], string(b))
	}
	write(tokenFile, "first\n")
	write(settings, "log-level = \"info\"\n")
	d := start(t, shortDir(t), nil, "--api", "tcp:127.0.0.1:0", "--nbd", "tcp:127.0.0.1:0", "--token-file", tokenFile, "--config", settings,
		"--tls", "require", "--tls-cert", files["cert.pem"], "--tls-key", files["key.pem"])
	ask := func(token string) bool {
		f := filepath.Join(dir, "mine")
		write(f, token)
		return run(t, glide(t, "--api", d.field("api"), "--token-file", f, "--tls-ca", cert, "ls")).Code == 0
	}
	if !ask("first") || ask("second") {
		t.Fatal("the token does not work from the start")
	}
	write(tokenFile, "second\n")
	until(t, "the new token works", func() bool { return ask("second") })
	if ask("first") {
		t.Error("the old token works, too")
	}
	write(tokenFile, "two words\n")
	until(t, "the bad token is told", func() bool { return strings.Contains(d.Log.String(), "must hold one word") })
	if !ask("second") {
		t.Error("a bad token file takes the good token away")
	}

	shown := func() string { return serverCert(t, d.field("nbd")) }
	ofAPI := func() string {
		c, err := tls.Dial("tcp", strings.TrimPrefix(d.field("api"), "tcp:"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return string(c.ConnectionState().PeerCertificates[0].Raw)
	}
	before := shown()
	if ofAPI() != before {
		t.Error("the API and NBD have different certificates")
	}
	cert2, key2 := selfSigned(t)
	for name, from := range map[string]string{"cert.pem": cert2, "key.pem": key2} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(files[name], string(b))
		time.Sleep(50 * time.Millisecond)
	}
	until(t, "the new certificate is used", func() bool { return shown() != before })
	after := shown()
	if ofAPI() != after {
		t.Error("the API has the old certificate")
	}
	write(files["cert.pem"], "none")
	until(t, "the bad certificate is told", func() bool { return strings.Contains(d.Log.String(), "the certificates of TLS") })
	if shown() != after || ofAPI() != after {
		t.Error("a bad certificate takes the good one away")
	}

	write(settings, "log-level = \"debug\"\nretention = \"1h\"\n")
	d.signal(syscall.SIGHUP)
	until(t, "the log level is the new one", func() bool {
		_ = shown()
		return strings.Contains(d.Log.String(), "level=DEBUG")
	})
	if !strings.Contains(d.Log.String(), "used after a restart") || !strings.Contains(d.Log.String(), "Retention") {
		t.Error("a setting that needs a restart is not named")
	}
	write(settings, "log-levle = \"debug\"\n")
	until(t, "the bad settings are told", func() bool { return strings.Contains(d.Log.String(), "did you mean") })
	d.stop()
}

// serverCert is the certificate that an NBD server shows.
func serverCert(t *testing.T, addr string) string {
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
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x05\x00\x00\x00\x00")); err != nil { // STARTTLS
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	s := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := s.Handshake(); err != nil {
		t.Fatal(err)
	}
	return string(s.ConnectionState().PeerCertificates[0].Raw)
}

// Sockets that a cleaner of temporary files removes are made again; who is
// connected stays so.
func TestSocketsGone(t *testing.T) {
	data, run := shortDir(t), filepath.Join(shortDir(t), "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	d := start(t, data, nil, "--nbd", "unix:"+run+"/nbd.sock")
	c, err := net.Dial("unix", run+"/nbd.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := errors.Join(os.RemoveAll(run), os.Remove(data+"/api.sock")); err != nil {
		t.Fatal(err)
	}
	if o := d.try("ls"); o.Code != 0 && !strings.Contains(o.Err, "glide serve runs (process") {
		t.Errorf("without its socket: %s", o.Err)
	}
	until(t, "the API answers", func() bool { return d.try("ls").Code == 0 })
	until(t, "NBD answers", func() bool { _, err := os.Stat(run + "/nbd.sock"); return err == nil })
	greeting(t, d.field("nbd"))
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	// A file of somebody else's stays, and is told.
	if err := errors.Join(os.Remove(data+"/api.sock"), os.WriteFile(data+"/api.sock", []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	until(t, "the file is told", func() bool { return strings.Contains(d.Log.String(), "is not a socket") })
	if err := os.Remove(data + "/api.sock"); err != nil {
		t.Fatal(err)
	}
	until(t, "the API answers again", func() bool { return d.try("ls").Code == 0 })
	d.stop()
}

// While a daemon has no socket, doctor says that it runs.
func TestDoctorOfAHiddenDaemon(t *testing.T) {
	data := shortDir(t)
	d := start(t, data, nil)
	d.signal(syscall.SIGSTOP) // so that it cannot make it again
	if err := os.Remove(data + "/api.sock"); err != nil {
		t.Fatal(err)
	}
	o := d.try("doctor")
	if o.Code != 1 || !strings.Contains(o.Out, fmt.Sprintf("process %d serves from %s", d.Cmd.Process.Pid, data)) {
		t.Errorf("exit %d: %s%s", o.Code, o.Out, o.Err)
	}
	d.signal(syscall.SIGCONT)
	until(t, "the API answers", func() bool { return d.try("ls").Code == 0 })
	d.stop()
}
