// Package s3test runs a real S3 server for tests: versitygw, over a temporary
// directory, on the loopback interface.
package s3test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/programs"
)

const (
	bucket = "glide-test"
	access = "test"
	secret = "testsecret"
	binary = "versitygw"
)

// Options say where a server runs. The zero value is a free port of the loopback
// interface.
type Options struct {
	// Within is the command that runs the server, which has to become it: ip
	// netns exec NAME, for one.
	Within []string
	// Addr is HOST:PORT, where the test itself need not reach it.
	Addr string
	// Private leaves the environment of the process alone, so that the test can be
	// parallel: what speaks to the server gets Environment.
	Private bool
}

// Server is a server that a test can kill and start again.
type Server struct {
	URL string // of the store: the bucket
	Log string // the file to which it logs requests

	tb     testing.TB
	o      Options
	access string // of the root user
	secret string
	dir    string
	probe  string // socket by which the test finds out that it is up
	bin    string
	proc   *daemon.Process
}

// Start starts a server with one empty bucket and sets the AWS environment of
// the process up for it (so the test cannot be parallel). It returns the
// bucket's store URL, to which a prefix may be added with At, and the path of
// the server's access log, one line for each request (those by which Start
// finds out that it is up are the first). The server is stopped
// when the test ends. Package programs decides what happens if it is not installed.
func Start(tb testing.TB) (storeURL, accessLog string) {
	tb.Helper()
	s := New(tb, Options{})
	return s.URL, s.Log
}

// New is Start with options.
func New(tb testing.TB, o Options) *Server {
	tb.Helper()
	// Nothing of the machine's own AWS set-up may get in.
	if !o.Private {
		for _, v := range Environment() {
			name, value, _ := strings.Cut(v, "=")
			tb.Setenv(name, value)
		}
	}
	s := &Server{tb: tb, o: o, access: access, secret: secret, dir: tb.TempDir(), bin: programs.Need(tb, binary)}
	s.Log = filepath.Join(s.dir, "access.log")
	for _, sub := range []string{filepath.Join("data", bucket), "users"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	socks, err := daemon.ShortDir()
	if err != nil {
		tb.Fatal(err)
	}
	s.probe = filepath.Join(socks, "probe")
	tb.Cleanup(func() {
		s.Kill()
		_ = os.RemoveAll(socks)
	})
	var last error
	for range 5 { // a free port may be taken by the time the server wants it
		if o.Addr == "" {
			if s.o.Addr, err = daemon.FreeAddr(); err != nil {
				tb.Fatal(err)
			}
		}
		if last = s.start(); last == nil {
			s.URL = "s3://" + bucket + "?" + url.Values{"endpoint": {"http://" + s.o.Addr}, "path_style": {"true"}}.Encode()
			return s
		}
	}
	tb.Fatalf("the S3 server does not start: %v", last)
	return nil
}

// Environment is the AWS environment, NAME=VALUE, of a process that uses a server
// which has not been given other keys, and nothing else.
func Environment() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=",
		"AWS_REGION=us-east-1", "AWS_PROFILE=", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL=", "AWS_ENDPOINT_URL_S3=",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
}

// Rekey gives the root user other keys, from the next Start on.
func (s *Server) Rekey(access, secret string) { s.access, s.secret = access, secret }

// Start starts a server again that was killed, with what it had.
func (s *Server) Start() {
	s.tb.Helper()
	if err := s.start(); err != nil {
		s.tb.Fatalf("the S3 server does not start again: %v", err)
	}
}

// Kill is kill -9.
func (s *Server) Kill() {
	if s.proc != nil {
		s.proc.Kill()
		s.proc = nil
	}
}

// At is the store URL with a prefix added, or another replaced.
func At(storeURL, prefix string) string {
	u, err := url.Parse(storeURL)
	if err != nil {
		panic(err) // Start made it
	}
	u.Path = "/" + prefix
	return u.String()
}

// start runs the server and waits until it answers.
func (s *Server) start() error {
	_ = os.Remove(s.probe)
	args := append(append([]string{}, s.o.Within...), s.bin, "--port", s.o.Addr, "--port", s.probe, "--access", s.access, "--secret", s.secret,
		"--quiet", "--keep-alive", "--access-log", s.Log, "--iam-dir", filepath.Join(s.dir, "users"), "posix", filepath.Join(s.dir, "data"))
	p, err := daemon.Start(exec.Command(args[0], args[1:]...), nil)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); !s.answers(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.Exited():
			return fmt.Errorf("%s ended: %v: %s", binary, p.Cmd.ProcessState, p.Log)
		default:
		}
		if time.Now().After(deadline) {
			p.Kill()
			return fmt.Errorf("%s does not answer on %s: %s", binary, s.o.Addr, p.Log)
		}
	}
	s.proc = p
	return nil
}

func (s *Server) answers() bool {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.probe)
		},
	}}
	resp, err := client.Get("http://" + binary + "/")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return true // without credentials it is refused, but by the server
}
