// Package s3test runs a real S3 server for tests: versitygw, over a temporary
// directory, on the loopback interface.
package s3test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	bucket = "glide-test"
	access = "test"
	secret = "testsecret"
	binary = "versitygw"
)

// Start starts a server with one empty bucket and sets the AWS environment of
// the process up for it (so the test cannot be parallel). It returns the
// bucket's store URL, to which a prefix may be added with At, and the path of
// the server's access log, one line for each request (those by which Start
// finds out that it is up are the first). The server is stopped
// when the test ends. It is fatal if it is not installed: a test that is
// skipped proves nothing.
func Start(tb testing.TB) (storeURL, accessLog string) {
	tb.Helper()
	program := find(tb)
	// Nothing of the machine's own AWS set-up may get in.
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "",
		"AWS_REGION": "us-east-1", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		tb.Setenv(name, value)
	}
	dir := tb.TempDir()
	for _, sub := range []string{filepath.Join("data", bucket), "users"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	accessLog = filepath.Join(dir, "access.log")
	var last error
	for range 5 { // the free port may be taken by the time the server wants it
		addr, err := start(tb, program, dir, accessLog)
		if err == nil {
			return "s3://" + bucket + "?" + url.Values{"endpoint": {"http://" + addr}, "path_style": {"true"}}.Encode(), accessLog
		}
		last = err
	}
	tb.Fatalf("the S3 server does not start: %v", last)
	return "", ""
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

// find looks for the server where `make tools` puts it, and where `go install` does.
func find(tb testing.TB) string {
	tb.Helper()
	var places []string
	if dir := os.Getenv("GLIDE_TOOLS"); dir != "" {
		places = append(places, dir)
	}
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				places = append(places, filepath.Join(dir, ".cache", "bin"))
				break
			}
		}
	}
	places = append(places, filepath.SplitList(os.Getenv("PATH"))...)
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, "go", "bin"))
	}
	for _, dir := range places {
		if path, err := exec.LookPath(filepath.Join(dir, binary)); err == nil {
			return path
		}
	}
	tb.Fatalf("%s is not installed: run make tools", binary)
	return ""
}

// start runs the server on a free port and waits until it answers.
func start(tb testing.TB, program, dir, accessLog string) (addr string, err error) {
	if addr, err = freeAddr(); err != nil {
		return "", err
	}
	var output bytes.Buffer
	cmd := exec.Command(program, "--port", addr, "--access", access, "--secret", secret, "--quiet", "--keep-alive",
		"--access-log", accessLog, "--iam-dir", filepath.Join(dir, "users"), "posix", filepath.Join(dir, "data"))
	cmd.Stdout, cmd.Stderr = &output, &output
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-exited:
			return "", fmt.Errorf("%s ended: %v: %s", binary, err, output.Bytes())
		default:
		}
		if answers(addr) {
			break
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			<-exited
			return "", fmt.Errorf("%s does not answer on %s: %s", binary, addr, output.Bytes())
		}
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	return addr, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

func answers(addr string) bool {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + "/")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return true // without credentials it is refused, but by the server
}
