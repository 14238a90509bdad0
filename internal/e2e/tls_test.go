package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/certs/certstest"
)

// withTLS are a daemon's flags for files.
func withTLS(mode string, f certs.Files) []string {
	return []string{"--tls", mode, "--tls-cert", f.Cert, "--tls-key", f.Key, "--tls-ca", f.CA}
}

// by are the flags of a command that shows a certificate.
func by(addr string, f certs.Files, args ...string) []string {
	return append([]string{"--api", addr, "--tls-cert", f.Cert, "--tls-key", f.Key, "--tls-ca", f.CA}, args...)
}

// tcpOf is the daemon's address of TCP, without the word.
func (d *daemon) tcpOf(field string) string {
	d.tb.Helper()
	for _, a := range strings.Split(d.proc.Field(field), ",") {
		if addr, ok := strings.CutPrefix(a, "tcp:"); ok {
			return addr
		}
	}
	d.tb.Fatalf("there is no address of TCP in %q", d.proc.Field(field))
	return ""
}

// TestTLSDoors: with certificates of each kind, NBD and the API open to clients what their
// certificates are for.
func TestTLSDoors(t *testing.T) {
	t.Parallel()
	for kind, key := range map[string]certstest.NewKey{"RSA": certstest.RSA, "ECDSA": certstest.ECDSA, "Ed25519": certstest.Ed25519} {
		t.Run(kind, func(t *testing.T) { t.Parallel(); testTLSDoors(t, key, kind == "ECDSA") })
	}
}

func testTLSDoors(t *testing.T, key certstest.NewKey, all bool) {
	ours, theirs := certstest.New(t, key), certstest.New(t, key)
	_, server := ours.Issue(certstest.Want{})
	d := newDaemon(t, "", append(withTLS("require", server), "--api", "tcp:127.0.0.1:0", "--nbd", "tcp:127.0.0.1:0")...)
	d.start()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, pattern(1<<20, 3), 0o600))
	for _, name := range []string{"plain", "acme/web", "acme/db", "other/web"} {
		d.do("import", image, name)
	}
	type client struct {
		dir   string
		files certs.Files
	}
	issue := func(a *certstest.Authority, w certstest.Want) (c client) {
		c.dir, c.files = a.Issue(w)
		c.files.CA = ours.CA
		raw, err := os.ReadFile(ours.CA)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(c.dir, "ca-cert.pem"), raw, 0o600)) // it is the client that is refused
		return c
	}
	acme := issue(ours, certstest.Want{URI: "glide://tenant/acme"})
	web := issue(ours, certstest.Want{URI: "glide://tenant/acme/volume/we*"})
	whole := issue(ours, certstest.Want{})
	peer := issue(ours, certstest.Want{URI: "glide://host/0a1b"})
	foreign := issue(theirs, certstest.Want{URI: "glide://tenant/acme"})
	over := issue(ours, certstest.Want{URI: "glide://tenant/acme", Lasts: -time.Hour})

	addr := d.tcpOf("nbd")
	host, port, err := net.SplitHostPort(addr)
	must(t, err)
	tools := map[string]func(c client, export string) (string, error){
		"nbdinfo": func(c client, export string) (string, error) {
			return tool(t, "nbdinfo", "--size", "nbds://"+addr+"/"+export+"?tls-certificates="+c.dir)
		},
		"qemu-img": func(c client, export string) (string, error) {
			return tool(t, "qemu-img", "info", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+c.dir, "--image-opts", "driver=nbd,host="+host+",port="+port+",tls-creds=t,export="+export)
		},
		"nbdkit": func(c client, export string) (string, error) {
			return tool(t, "nbdkit", "-U", "-", "nbd", "hostname="+host, "port="+port, "export="+export, "tls=require", "tls-certificates="+c.dir, "--run", `nbdinfo --size "$uri"`)
		},
	}
	var wg sync.WaitGroup
	for name, ask := range tools {
		wg.Go(func() {
			for i, x := range []struct {
				who    string
				c      client
				export string
				ok     bool
			}{
				{"acme", acme, "web", true}, {"acme", acme, "other/web", false}, {"a foreigner", foreign, "web", false}, {"one whose time is over", over, "web", false},
				{"acme", acme, "acme/db", true}, {"acme", acme, "plain", false}, {"acme's web", web, "web", true}, {"acme's web", web, "db", false},
				{"the whole host", whole, "other/web", true}, {"the whole host", whole, "plain", true}, {"a host", peer, "plain", false},
			} {
				if i > 3 && !all {
					break // what a certificate is for does not depend on its key
				}
				if out, err := ask(x.c, x.export); (err == nil) != x.ok || x.ok && !strings.Contains(out, "1048576") {
					t.Errorf("%s asks for %s as %s: %v %s", name, x.export, x.who, err, out)
				}
			}
		})
	}
	wg.Wait()
	if out, err := tool(t, "nbdinfo", "--list", "nbds://"+addr+"/?tls-certificates="+acme.dir); err != nil || strings.Contains(out, "other") || strings.Contains(out, "plain") || !strings.Contains(out, `export="db"`) {
		t.Errorf("what acme is shown: %v %s", err, out)
	}
	if out, _ := tool(t, "nbdinfo", "--list", "nbds://"+addr+"/?tls-certificates="+peer.dir); strings.Contains(out, "web") || strings.Contains(out, "plain") {
		t.Errorf("what a host is shown: %s", out)
	}
	if out, err := tool(t, "qemu-io", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+web.dir, "--image-opts", "driver=nbd,host="+host+",port="+port+",tls-creds=t,export=web", "-c", "write -P 5 0 64k", "-c", "flush", "-c", "read -P 5 0 64k"); err != nil || strings.Contains(out, "failed") {
		t.Errorf("qemu-io: %v %s", err, out)
	}

	if !all {
		must(t, exec.Command(d.cli().Glide, by("tcp:"+d.tcpOf("api"), acme.files, "show", "web")...).Run())
		refused(t, run(t, "", by("tcp:"+d.tcpOf("api"), foreign.files, "ls")...), 1, "does not accept the certificate")
		return
	}
	// The API, with curl and with glide.
	at := d.tcpOf("api")
	curl := func(c *client, args ...string) (string, error) {
		all := []string{"-sS", "--max-time", "10", "--cacert", ours.CA, "-w", " %{http_code}"}
		if c != nil {
			all = append(all, "--cert", c.files.Cert, "--key", c.files.Key)
		}
		return tool(t, "curl", append(all, args...)...)
	}
	for _, x := range []struct {
		who  string
		c    *client
		path string
		want string // in the answer, "!" before what must not be; "": there is none
	}{
		{"acme", &acme, "/v1/volumes", `"db" !other !plain 200`}, {"acme's web", &web, "/v1/volumes", `"web" !"db" !other 200`},
		{"the whole host", &whole, "/v1/volumes", `other/web plain 200`}, {"the whole host", &whole, "/v1/tokens", "200"}, {"acme", &acme, "/v1/tokens", "403"},
		{"a host", &peer, "/v1/volumes", "!web 403"}, {"a host", &peer, "/v1/host", `"id" 200`}, {"a host", &peer, "/v1/volumes/plain/image", "403"},
		{"nobody", nil, "/v1/volumes", "token 401"}, {"nobody", nil, "/healthz", "ok 200"},
		{"a foreigner", &foreign, "/healthz", ""}, {"one whose time is over", &over, "/healthz", ""},
	} {
		out, err := curl(x.c, "https://"+at+x.path)
		if (err == nil) != (x.want != "") {
			t.Errorf("curl asks for %s as %s: %v %s", x.path, x.who, err, out)
		}
		for _, word := range strings.Fields(x.want) {
			if not := strings.TrimPrefix(word, "!"); strings.Contains(out, not) == (not != word) {
				t.Errorf("curl asks for %s as %s: %s, where %s", x.path, x.who, out, word)
			}
		}
	}
	if out, err := tool(t, "curl", "-sS", "-w", " %{http_code}", "http://"+at+"/healthz"); err != nil || !strings.Contains(out, "TLS only") || !strings.HasSuffix(out, "400") {
		t.Errorf("plain: %v %s", err, out)
	}
	tcp := "tcp:" + at
	if r := run(t, "", by(tcp, acme.files, "fork", "web", "web-2")...); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	refused(t, run(t, "", by(tcp, acme.files, "show", "other/web")...), 1, "there is no volume")
	refused(t, run(t, "", by(tcp, peer.files, "ls")...), 1, "read")
	refused(t, run(t, "", by(tcp, foreign.files, "ls")...), 1, "does not accept the certificate")
	refused(t, run(t, "", by(tcp, over.files, "ls")...), 1, "has expired")
	refused(t, run(t, "", "--api", tcp, "ls"), 2, "TLS only")
	refused(t, run(t, "", "--api", tcp, "--tls-ca", theirs.CA, "ls"), 1, "unknown authority")
	refused(t, run(t, "", "--api", tcp, "--tls-ca", ours.CA, "ls"), 2, "token")
	refused(t, run(t, "", "--api", strings.Replace(tcp, "127.0.0.1", "127.0.0.2", 1), "--tls-ca", ours.CA, "ls"), 1, "not running")
	cmd := exec.Command(d.cli().Glide, "ls")
	cmd.Env = append(os.Environ(), "GLIDE_API="+tcp, "GLIDE_TLS_CA="+acme.files.CA, "GLIDE_TLS_CERT="+acme.files.Cert, "GLIDE_TLS_KEY="+acme.files.Key)
	if r := finish(t, cmd); r.Code != 0 || !strings.Contains(r.Out, "web-2") {
		t.Errorf("%+v", r)
	}
	refused(t, run(t, "", "doctor", "--api", tcp, "--tls-ca", theirs.CA), 1, "unknown authority")
	if r := d.try("doctor"); strings.Contains(r.Out, "WRONG") && strings.Contains(r.Out, "TLS") {
		t.Errorf("%+v", r)
	}
	must(t, os.Chmod(server.Key, 0o644))
	if r := d.try("doctor"); r.Code != 1 || !strings.Contains(r.Out, "TLS key") || !strings.Contains(r.Out, "can be read by others") {
		t.Errorf("%+v", r)
	}
	d.stop()
}

// heard is what a listener in another host's place got.
type heard struct {
	requests, certificates atomic.Int64
	bytes                  bytes.Buffer
}

// inPlace listens at an address until stop: over TLS with a certificate, or plainly.
func inPlace(t *testing.T, addr string, f *certs.Files) (h *heard, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	must(t, err)
	h = &heard{}
	if f == nil {
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				b := make([]byte, 4096)
				n, _ := c.Read(b)
				h.bytes.Write(b[:n])
				_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
				_, _ = io.Copy(&h.bytes, c)
				_ = c.Close()
			}
		})
		return h, func() { _ = l.Close(); wg.Wait() }
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	must(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.requests.Add(1) }))
	_ = s.Listener.Close()
	s.Listener = l
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		h.certificates.Add(int64(len(raw)))
		return nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return h, s.Close
}

// TestPeersTLS: hosts with certificates ask each other over TLS, and send no token. Whoever
// is at a host's address and cannot prove that he is that host gets nothing.
func TestPeersTLS(t *testing.T) {
	t.Parallel()
	store := "file://" + t.TempDir()
	ours := certstest.New(t, certstest.ECDSA)
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte("bearer-canary\n"), 0o600))
	host := func() *daemon {
		addr := openPort(t)
		d := newDaemon(t, store, "--api", addr, "--advertise", addr, "--peers", "on", "--token-file", token)
		d.start()
		_, files := ours.Issue(certstest.Want{URI: "glide://host/" + d.proc.Field("host"), Names: []string{}})
		d.stop()
		d.flags = append(d.flags, withTLS("require", files)...)
		d.flags = append(d.flags, "--log-level", "debug")
		d.start()
		return d
	}
	a, b := host(), host()
	image := pattern(32<<20, 5) // enough for more than one try on a busy machine
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, image, 0o600))
	a.do("import", path, "image")
	a.do("create", "moves", "--size", "1M")
	a.do("create", "stays", "--size", "1M")
	a.do("flush", "moves")
	a.do("flush", "stays")
	read := func(d *daemon, name string, want []byte) {
		t.Helper()
		var out bytes.Buffer
		cmd := d.cli().Command(context.Background(), "export", name, "-")
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s has other bytes: %v", name, err)
		}
	}
	// A fork of what another host has, its blocks from that host's SSD, and a move.
	b.do("fork", "image", "vm")
	read(b, "vm", image)
	if s := b.stats(); s.Peers.FetchedBytes == 0 || s.Peers.BadBlocks != 0 {
		t.Errorf("blocks from the other host: %+v", s.Peers)
	}
	b.do("wake", "moves")
	var v api.Volume
	if a.json(&v, "show", "moves"); v.State == "active" {
		t.Errorf("it is %s at the host that it left", v.State)
	}

	addr, id := a.tcpOf("api"), a.proc.Field("host")
	a.kill()
	_, third := ours.Issue(certstest.Want{URI: "glide://host/0123456789abcdef"})
	for who, f := range map[string]*certs.Files{"another host": &third, "a plain listener": nil} {
		h, stop := inPlace(t, addr, f)
		r := b.try("wake", "stays")
		forked := b.try("fork", "image", "vm-"+strings.Fields(who)[0], "--lazy")
		stop()
		if r.Code != 3 || f != nil && !strings.Contains(r.Err, "is not "+id) {
			t.Errorf("%s: %+v", who, r)
		}
		if forked.Code != 0 {
			t.Errorf("%s: %+v", who, forked)
		}
		if h.requests.Load()+h.certificates.Load() > 0 || bytes.Contains(h.bytes.Bytes(), []byte("canary")) || bytes.Contains(h.bytes.Bytes(), []byte("HTTP/1.1")) {
			t.Errorf("%s got %d requests, %d certificates and %q", who, h.requests.Load(), h.certificates.Load(), h.bytes.Bytes())
		}
		if f == nil && h.bytes.Len() == 0 {
			t.Error("nobody came to the plain listener")
		}
	}
	a.start()
	b.do("wake", "stays")
	for _, d := range []*daemon{a, b} {
		d.stop()
	}
}
