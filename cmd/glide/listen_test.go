package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/programs"
)

func TestTokenOverTCP(t *testing.T) {
	dir := t.TempDir()
	token, bad := filepath.Join(dir, "token"), filepath.Join(dir, "bad")
	for path, text := range map[string]string{token: "secret\n", bad: "wrong"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, shortDir(t), nil, "--api", "tcp:127.0.0.1:0", "--nbd", "tcp:127.0.0.1:0", "--token-file", token)
	if strings.HasSuffix(d.field("api"), ":0") || strings.HasSuffix(d.field("nbd"), ":0") {
		t.Errorf("ready line: %s", d.ReadyLine())
	}
	greeting(t, d.field("nbd"))
	refused(t, d.try("ls"), 2, "token")
	refused(t, d.try("ls", "--token-file", bad), 2, "token")
	d.must("ls", "--token-file", token)
	d.must("create", "vm1", "--size", "1M", "--token-file", token)
	if uri := d.must("uri", "vm1", "--token-file", token); uri != "nbd://"+strings.TrimPrefix(d.field("nbd"), "tcp:")+"/vm1\n" {
		t.Error(uri)
	}
	d.stop()
	refused(t, run(t, glide(t, "serve", "--data", shortDir(t), "--token-file", filepath.Join(dir, "none"))), 2, "token file")
}

func TestSystemd(t *testing.T) {
	dir, data := shortDir(t), shortDir(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	var files []*os.File
	for _, name := range []string{"api", "nbd"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" serve --data "$1"`, self, data)
	cmd.Env = append(glide(t).Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=api:nbd", "NOTIFY_SOCKET="+filepath.Join(dir, "notify"), "WATCHDOG_USEC=200000")
	cmd.ExtraFiles = files
	d := startCmd(t, data, cmd)
	if d.field("api") != "unix:"+dir+"/api" || d.field("nbd") != "unix:"+dir+"/nbd" {
		t.Errorf("ready line: %s", d.ReadyLine())
	}
	greeting(t, d.field("nbd"))
	d.must("ls")
	told := func(want string) {
		t.Helper()
		_ = notify.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 400)
		for {
			n, err := notify.Read(b)
			if err == nil && strings.HasPrefix(string(b[:n]), want) {
				return
			}
			if err != nil || !strings.HasPrefix(string(b[:n]), "STATUS=") && !strings.HasPrefix(string(b[:n]), "WATCHDOG=") {
				t.Errorf("systemd was told %q, %v, want %q", b[:n], err, want)
				return
			}
		}
	}
	told("READY=1")
	told("STATUS=serving at unix:" + dir + "/nbd")
	told("WATCHDOG=1")
	d.signal(syscall.SIGHUP)
	told("RELOADING=1\nMONOTONIC_USEC=")
	told("READY=1")
	d.signal(syscall.SIGTERM)
	if code := d.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	b := make([]byte, 400)
	for {
		_ = notify.SetReadDeadline(time.Now().Add(time.Second))
		n, err := notify.Read(b)
		if err != nil {
			t.Error("systemd was not told that it stops")
			break
		}
		if string(b[:n]) == "STOPPING=1" {
			break
		}
	}
	cmd = exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" serve --data "$1"`, self, shortDir(t))
	cmd.Env = append(glide(t).Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=web")
	cmd.ExtraFiles = files[:1]
	refused(t, run(t, cmd), 2, "FileDescriptorName")
}

// selfSigned makes a certificate, which is an authority, and its key.
func selfSigned(t *testing.T) (cert, key string) { return signed(t, "ca", nil, ecdsaKey) }

func ecdsaKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func rsaKey() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

// signed makes a certificate NAME-cert.pem of an authority, or of its own, and its
// key, in a directory that holds the authority's as ca-cert.pem.
func signed(t *testing.T, name string, ca *tls.Certificate, newKey func() (crypto.Signer, error)) (cert, key string) {
	t.Helper()
	private, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca == nil, BasicConstraintsValid: true,
		Subject: pkix.Name{CommonName: name},
	}
	parent, by := template, any(private)
	if ca != nil {
		parent, by = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, name+"-cert.pem"), filepath.Join(dir, name+"-key.pem")
	files := map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}}
	if ca != nil {
		files[filepath.Join(dir, "ca-cert.pem")] = &pem.Block{Type: "CERTIFICATE", Bytes: parent.Raw}
	}
	for path, block := range files {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// nbdSize asks for the size of an export, over TLS with what a directory holds.
func nbdSize(t *testing.T, uri, dir string) (string, error) {
	t.Helper()
	info := programs.Need(t, "nbdinfo")
	if dir != "" {
		uri += "?tls-certificates=" + dir
	}
	out, err := exec.Command(info, "--size", uri).CombinedOutput()
	return string(out), err
}

// TestTLSOfClients: with an authority, who has no certificate of it is not served.
func TestTLSOfClients(t *testing.T) {
	t.Run("ECDSA", func(t *testing.T) { testTLSOfClients(t, ecdsaKey) })
	t.Run("RSA", func(t *testing.T) { testTLSOfClients(t, rsaKey) })
}

func testTLSOfClients(t *testing.T, newKey func() (crypto.Signer, error)) {
	authority := func() (string, *tls.Certificate) {
		cert, key := signed(t, "ca", nil, newKey)
		ca, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return cert, &ca
	}
	caFile, ca := authority()
	_, other := authority()
	cert, key := signed(t, "server", ca, newKey)
	client, _ := signed(t, "client", ca, newKey)
	stranger, _ := signed(t, "client", other, newKey)
	trusting := filepath.Join(filepath.Dir(stranger), "ca-cert.pem") // of the server: it is the client that is refused
	if b, err := os.ReadFile(caFile); err != nil || os.WriteFile(trusting, b, 0o600) != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"require", "allow"} {
		d := start(t, shortDir(t), nil, "--nbd", "tcp:127.0.0.1:0", "--tls", mode, "--tls-cert", cert, "--tls-key", key, "--tls-ca", caFile)
		d.must("create", "vm1", "--size", "1M")
		uri := "nbds://" + strings.TrimPrefix(d.field("nbd"), "tcp:") + "/vm1"
		if out, err := nbdSize(t, uri, filepath.Dir(client)); err != nil || out != "1048576\n" {
			t.Errorf("--tls %s, a client with a certificate: %s, %v", mode, out, err)
		}
		for who, dir := range map[string]string{"of another authority": filepath.Dir(stranger), "without one": filepath.Dir(caFile)} {
			if out, err := nbdSize(t, uri, dir); err == nil || !strings.Contains(out, "TLS") {
				t.Errorf("--tls %s, a client with a certificate %s: %s, %v", mode, who, out, err)
			}
		}
		if out, err := nbdSize(t, "nbd"+strings.TrimPrefix(uri, "nbds"), ""); (err == nil) != (mode == "allow") {
			t.Errorf("--tls %s, a client without TLS: %s, %v", mode, out, err)
		}
		d.stop()
	}
}

func TestTLS(t *testing.T) {
	cert, key := selfSigned(t)
	d := start(t, shortDir(t), nil, "--nbd", "tcp:127.0.0.1:0", "--tls", "require", "--tls-cert", cert, "--tls-key", key)
	d.must("create", "vm1", "--size", "1M")
	if uri := d.must("uri", "vm1"); uri != "nbds://"+strings.TrimPrefix(d.field("nbd"), "tcp:")+"/vm1\n" {
		t.Error(uri)
	}
	uri := strings.TrimSpace(d.must("uri", "vm1"))
	if out, err := nbdSize(t, uri, filepath.Dir(cert)); err != nil || out != "1048576\n" {
		t.Errorf("over TLS: %s, %v", out, err)
	}
	if out, err := nbdSize(t, strings.Replace(uri, "nbds:", "nbd:", 1), ""); err == nil {
		t.Errorf("without TLS: %s", out)
	}
	d.stop()
	for words, args := range map[string][]string{
		"no such file": {"--tls", "allow", "--tls-cert", "/proc/none", "--tls-key", key},
		"certificate":  {"--tls", "allow", "--tls-cert", cert, "--tls-key", key, "--tls-ca", key},
	} {
		refused(t, run(t, glide(t, append([]string{"serve", "--data", shortDir(t)}, args...)...)), 2, words)
	}
}

// TestWatchdogOverTLS: a daemon whose API speaks TLS only finds itself alive.
func TestWatchdogOverTLS(t *testing.T) {
	cert, key := selfSigned(t)
	dir := shortDir(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	d := start(t, shortDir(t), []string{"NOTIFY_SOCKET=" + filepath.Join(dir, "notify"), "WATCHDOG_USEC=200000"},
		"--api", "tcp:127.0.0.1:0", "--tls", "require", "--tls-cert", cert, "--tls-key", key)
	_ = notify.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 400)
	for alive := 0; alive < 3; {
		n, err := notify.Read(b)
		if err != nil {
			t.Fatalf("%d signs of life: %v", alive, err)
		}
		if string(b[:n]) == "WATCHDOG=1" {
			alive++
		}
	}
	if strings.Contains(d.Log.String(), "check of itself failed") {
		t.Error("it does not find itself alive")
	}
	refused(t, d.try("ls"), 2, "TLS only")
	refused(t, d.try("--tls-ca", cert, "ls"), 2, "token")
	d.stop()
}
