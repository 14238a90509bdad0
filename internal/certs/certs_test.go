package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/certs/certstest"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/programs"
)

func read(t *testing.T, f certs.Files) *certs.Set {
	t.Helper()
	s, err := certs.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// meet has a server and a client speak TLS, and returns what became of both, and every byte
// that the server got.
func meet(t *testing.T, server func(net.Conn) (*tls.ConnectionState, error), client *tls.Config) (state *tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		state, serverErr = server(c)
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(c, client)
	if clientErr = tc.Handshake(); clientErr == nil {
		_, clientErr = tc.Read(make([]byte, 1)) // what the server makes of the client's certificate
	}
	_ = c.Close()
	<-done
	return state, serverErr, clientErr
}

// at is a server with a configuration, which sends a byte to those that it lets in.
func at(config *tls.Config) func(net.Conn) (*tls.ConnectionState, error) {
	return func(c net.Conn) (*tls.ConnectionState, error) {
		s := tls.Server(c, config)
		if err := s.Handshake(); err != nil {
			return nil, err
		}
		state := s.ConnectionState()
		_, err := s.Write([]byte{1})
		return &state, err
	}
}

// TestPeer: a host shows its certificate to the host that it means, and to nobody else.
func TestPeer(t *testing.T) {
	const id, uri = "0a1b2c", "glide://host/0a1b2c"
	for name, key := range map[string]certstest.NewKey{"RSA": certstest.RSA, "ECDSA": certstest.ECDSA, "Ed25519": certstest.Ed25519} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := certstest.New(t, key), certstest.New(t, certstest.ECDSA)
			_, own := ours.Issue(certstest.Want{URI: "glide://host/ffff", Names: []string{}})
			me := read(t, own)
			if !me.Mutual() || !me.Is("ffff") || me.Is(id) {
				t.Error("it is not what it says")
			}
			for _, c := range []struct {
				who  string
				by   *certstest.Authority
				want certstest.Want
				why  string // "": it is let in
			}{
				{"the right one", ours, certstest.Want{URI: uri, Names: []string{}}, ""},
				{"another host, with the right name", ours, certstest.Want{URI: "glide://host/0a1b2d"}, "is not 0a1b2c"},
				{"a longer id", ours, certstest.Want{URI: uri + "0"}, "is not 0a1b2c"},
				{"a tenant", ours, certstest.Want{URI: "glide://tenant/0a1b2c"}, "is not 0a1b2c"},
				{"nobody", ours, certstest.Want{}, "is not 0a1b2c"},
				{"the id as a name", ours, certstest.Want{Names: []string{"0a1b2c", "localhost"}}, "is not 0a1b2c"},
				{"of another authority", theirs, certstest.Want{URI: uri}, "unknown authority"},
				{"that has expired", ours, certstest.Want{URI: uri, Lasts: -time.Hour}, "expired"},
				{"for clients only", ours, certstest.Want{URI: uri, Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, "usage"},
			} {
				_, files := c.by.Issue(c.want)
				files.CA = ours.CA
				var shown bool
				server := read(t, files).API.Clone()
				server.ClientAuth, server.ClientCAs = tls.RequestClientCert, nil
				server.VerifyConnection = func(s tls.ConnectionState) error { shown = len(s.PeerCertificates) > 0; return nil }
				_, _, err := meet(t, at(server), certs.Peer(func() *certs.Set { return me }, id))
				if (err == nil) != (c.why == "") || err != nil && (!strings.Contains(err.Error(), c.why) || errs.KindOf(err) != errs.Unavailable) {
					t.Errorf("%s: %v", c.who, err)
				}
				if shown != (c.why == "") {
					t.Errorf("%s: the certificate was shown: %v", c.who, shown)
				}
			}
			// The real one, which verifies whoever shows a certificate.
			_, files := ours.Issue(certstest.Want{URI: uri})
			state, _, err := meet(t, at(read(t, files).API), certs.Peer(func() *certs.Set { return me }, id))
			if err != nil || len(state.VerifiedChains) == 0 || state.PeerCertificates[0].URIs[0].String() != "glide://host/ffff" {
				t.Errorf("%+v, %v", state, err)
			}
			if state != nil && state.Version != tls.VersionTLS13 {
				t.Errorf("version %x", state.Version)
			}
		})
	}
}

// TestPeerOlder: TLS in which a certificate could be seen on its way is not spoken.
func TestPeerOlder(t *testing.T) {
	a := certstest.New(t, certstest.ECDSA)
	_, files := a.Issue(certstest.Want{URI: "glide://host/a"})
	s := read(t, files)
	old := s.API.Clone()
	old.MaxVersion = tls.VersionTLS12
	if _, _, err := meet(t, at(old), certs.Peer(func() *certs.Set { return s }, "a")); err == nil {
		t.Error("it speaks TLS 1.2")
	}
}

// TestPeerPlain: a listener that does not speak TLS gets no certificate and no request.
func TestPeerPlain(t *testing.T) {
	a := certstest.New(t, certstest.ECDSA)
	_, files := a.Issue(certstest.Want{URI: "glide://host/secret-name"})
	s := read(t, files)
	var got []byte
	_, _, err := meet(t, func(c net.Conn) (*tls.ConnectionState, error) {
		b := make([]byte, 64<<10)
		n, err := c.Read(b)
		if _, werr := c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); werr != nil {
			return nil, werr
		}
		rest, _ := io.ReadAll(c)
		got = append(b[:n], rest...)
		return nil, err
	}, certs.Peer(func() *certs.Set { return s }, "a"))
	if err == nil || len(got) == 0 || bytes.Contains(got, []byte("secret-name")) || bytes.Contains(got, []byte("HTTP")) {
		t.Errorf("%v; it got %q", err, got)
	}
}

// TestAPI: a client of the API may have a certificate; if it has one that cannot be
// verified, it is not served. NBD's must have one.
func TestAPI(t *testing.T) {
	ours, theirs := certstest.New(t, certstest.RSA), certstest.New(t, certstest.RSA)
	_, files := ours.Issue(certstest.Want{})
	s := read(t, files)
	client := func(by *certstest.Authority, w *certstest.Want) *tls.Config {
		f := certs.Files{CA: ours.CA}
		if w != nil {
			_, f = by.Issue(*w)
			f.CA = ours.CA
		}
		c, err := certs.Client(f)
		if err != nil {
			t.Fatal(err)
		}
		c.ServerName = "localhost"
		return c
	}
	for _, c := range []struct {
		who      string
		config   *tls.Config
		api, nbd bool
	}{
		{"without one", client(nil, nil), true, false},
		{"with a right one", client(ours, &certstest.Want{URI: "glide://tenant/acme"}), true, true},
		{"with a foreign one", client(theirs, &certstest.Want{}), false, false},
		{"with one that has expired", client(ours, &certstest.Want{Lasts: -time.Hour}), false, false},
		{"with one of a server", client(ours, &certstest.Want{Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), false, false},
	} {
		state, _, err := meet(t, at(s.API), c.config)
		if (err == nil) != c.api || err == nil && state.Version != tls.VersionTLS13 {
			t.Errorf("API, %s: %v, %+v", c.who, err, state)
		}
		if _, _, err := meet(t, at(s.NBD), c.config); (err == nil) != c.nbd {
			t.Errorf("NBD, %s: %v", c.who, err)
		}
	}
}

// TestFiles: what is wrong with files is said in one line.
func TestFiles(t *testing.T) {
	a := certstest.New(t, certstest.ECDSA)
	_, x := a.Issue(certstest.Want{})
	_, y := a.Issue(certstest.Want{})
	empty := t.TempDir() + "/empty"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for words, f := range map[string]certs.Files{
		"no such file":                {Cert: "/none", Key: x.Key, CA: x.CA},
		"private key does not match":  {Cert: x.Cert, Key: y.Key, CA: x.CA},
		"authority of TLS: open":      {Cert: x.Cert, Key: x.Key, CA: "/none"},
		"holds no certificate in PEM": {Cert: x.Cert, Key: x.Key, CA: empty},
	} {
		_, serr := certs.Read(f)
		_, cerr := certs.Client(f)
		for _, err := range []error{serr, cerr} {
			if err == nil || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", words, err)
			}
		}
	}
	if _, err := certs.Client(certs.Files{Cert: x.Cert}); err == nil || !strings.Contains(err.Error(), "together") {
		t.Error(err)
	}
	if c, err := certs.Client(certs.Files{}); c != nil || err != nil {
		t.Error(c, err)
	}
	var none *certs.Set
	if none.Mutual() || read(t, certs.Files{Cert: x.Cert, Key: x.Key}).Mutual() {
		t.Error("without an authority hosts cannot tell each other")
	}
}

// TestDocumented runs the commands of docs/operations.md that make certificates.
func TestDocumented(t *testing.T) {
	bash, openssl := programs.Need(t, "bash"), programs.Need(t, "openssl")
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "<!-- test: certificates -->\n```sh\n")
	script, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the commands are not there")
	}
	cmd := exec.Command(bash, "-e", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOST_ID=0a1b", "PATH="+filepath.Dir(openssl)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := func(name string) certs.Files {
		at := func(file string) string { return filepath.Join(cmd.Dir, file) }
		return certs.Files{Cert: at(name + ".pem"), Key: at(name + ".key"), CA: at("ca.pem")}
	}
	host := read(t, files("host-a"))
	if !host.Is("0a1b") {
		t.Error("the host's certificate is not the host's")
	}
	if _, _, err := meet(t, at(host.API), certs.Peer(func() *certs.Set { return host }, "0a1b")); err != nil {
		t.Errorf("another host: %v", err)
	}
	for name, who := range map[string]string{"acme": "glide://tenant/acme", "ci": "glide://tenant/acme/volume/ci-*", "admin": ""} {
		c, err := certs.Client(files(name))
		if err != nil {
			t.Fatal(err)
		}
		c.ServerName = "10.0.0.5"
		state, _, err := meet(t, at(host.API), c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p, err := auth.Certified(state.PeerCertificates[0])
		if err != nil || (p == nil) != (who == "") || p != nil && p.Who != who {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if st, err := os.Stat(files(name).Key); err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: its key can be read by others: %v", name, err)
		}
	}
}
