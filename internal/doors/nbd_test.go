package doors

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/nbd"
)

// shop has exports for everyone.
type shop struct{ asked []string }

func (s *shop) names() []string { return []string{"acme/db", "acme/web", "other/web", "plain"} }

func (s *shop) Open(name string) (*nbd.Export, error) {
	s.asked = append(s.asked, name)
	if !slices.Contains(s.names(), name) {
		return nil, errs.New(errs.NotFound, "there is no volume %q", name)
	}
	return &nbd.Export{Name: name}, nil
}

func (s *shop) Describe(name string) (*nbd.Export, error) { return s.Open(name) }

func (s *shop) List() []string { return s.names() }

// certificate is a client's, verified, with URIs.
func certificate(t *testing.T, uris ...string) *tls.ConnectionState {
	t.Helper()
	c := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
}

func ends(t *testing.T) (local, remote net.Conn) {
	t.Helper()
	open := func(network, addr string) net.Conn {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := net.Dial(network, l.Addr().String()); err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
		}()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	return open("unix", t.TempDir()+"/s"), open("tcp", "127.0.0.1:0")
}

// TestNBD has every kind of client list, look at and open exports, as LIST, INFO, GO,
// EXPORT_NAME and the options for metadata contexts do.
func TestNBD(t *testing.T) {
	local, remote := ends(t)
	b := newBed(t)
	use, useRO, manage, one := b.token("acme", "use"), b.token("acme", "use-ro"), b.token("acme", "manage"), b.token("acme", "use", "we?")
	all := b.token("*", "use")
	plain := &tls.ConnectionState{}
	everything := []string{"acme/db", "acme/web", "other/web", "plain"}
	type want struct{ open, readOnly, list []string }
	for _, c := range []struct {
		who   string
		bound *auth.Principal
		local bool
		peer  nbd.Peer
		token string
		want
	}{
		{"the host's own socket", nil, true, nbd.Peer{Conn: local}, "", want{open: everything, list: everything}},
		{"a socket of acme", auth.Bound("acme", ""), true, nbd.Peer{Conn: local}, "", want{open: []string{"db", "web", "acme/db", "acme/web"}, list: []string{"db", "web"}}},
		{"a socket of acme/web", auth.Bound("acme", "web"), true, nbd.Peer{Conn: local}, "", want{open: []string{"", "web", "acme/web"}, list: []string{"web"}}},
		{"nobody, over TCP", nil, false, nbd.Peer{Conn: remote}, "", want{}},
		{"nobody, over TLS", nil, false, nbd.Peer{Conn: remote, TLS: plain}, "", want{}},
		{"a token in plain text", nil, false, nbd.Peer{Conn: remote}, use, want{}},
		{"a token to use", nil, false, nbd.Peer{Conn: remote, TLS: plain}, use, want{open: []string{"db", "web", "acme/db", "acme/web"}}},
		{"the same at the host's socket", nil, true, nbd.Peer{Conn: local}, use, want{open: []string{"db", "web", "acme/db", "acme/web"}, list: everything}},
		{"a token to read", nil, false, nbd.Peer{Conn: remote, TLS: plain}, useRO, want{readOnly: []string{"db", "web", "acme/db", "acme/web"}}},
		{"a token for other things", nil, false, nbd.Peer{Conn: remote, TLS: plain}, manage, want{}},
		{"a token for some volumes", nil, false, nbd.Peer{Conn: remote, TLS: plain}, one, want{open: []string{"web", "acme/web"}}},
		{"a token for all tenants", nil, false, nbd.Peer{Conn: remote, TLS: plain}, all, want{open: append(everything, "default/plain")}},
		{"a wrong token", nil, true, nbd.Peer{Conn: local}, use[:len(use)-1], want{list: everything}},
		{"the common token", nil, false, nbd.Peer{Conn: remote, TLS: plain}, "common", want{open: append(everything, "default/plain")}},
		{"a certificate for the host", nil, false, nbd.Peer{Conn: remote, TLS: certificate(t)}, "", want{open: everything, list: everything}},
		{"a certificate of acme", nil, false, nbd.Peer{Conn: remote, TLS: certificate(t, "glide://tenant/acme")}, "", want{open: []string{"db", "web", "acme/db", "acme/web"}, list: []string{"db", "web"}}},
		{"a certificate of acme's web", nil, false, nbd.Peer{Conn: remote, TLS: certificate(t, "https://x/y", "glide://tenant/acme/volume/web*")}, all, want{open: []string{"web", "acme/web"}, list: []string{"web"}}},
	} {
		t.Run(c.who, func(t *testing.T) {
			for _, name := range []string{"", "db", "web", "plain", "acme/db", "acme/web", "other/web", "none", "other/none", "default/plain"} {
				b.d.wrong.buckets = map[string]*bucket{}
				s := &shop{}
				var e nbd.Exporter = b.d.Exports(s, c.bound, c.local)
				if per, ok := e.(nbd.PerPeer); ok {
					var err error
					if e, err = per.For(c.peer); err != nil {
						t.Fatal(err)
					}
				}
				if got := e.List(); !slices.Equal(got, c.list) {
					t.Errorf("lists %q, want %q", got, c.list)
				}
				asked := name
				if c.token != "" {
					asked += "#" + c.token
				}
				for _, ask := range []func(string) (*nbd.Export, error){e.Open, e.Describe} {
					x, err := ask(asked)
					if want := slices.Contains(c.open, name) || slices.Contains(c.readOnly, name); (err == nil) != want {
						t.Errorf("%q: %v", name, err)
					}
					if err == nil && (x.ReadOnly != slices.Contains(c.readOnly, name) || strings.Contains(x.Name, "glide_")) {
						t.Errorf("%q: %+v", name, x)
					}
					if err != nil && (strings.Contains(err.Error(), "glide_") || c.token != "" && strings.Contains(err.Error(), c.token)) {
						t.Errorf("the error has the token: %v", err)
					}
				}
				for _, a := range s.asked {
					if strings.Contains(a, "#") {
						t.Errorf("the host was asked for %q", a)
					}
				}
			}
		})
	}
}

// TestNoTokens: over TCP everything is open as long as nobody has begun to use tokens. To
// revoke the last one, or to remove the file, opens nothing.
func TestNoTokens(t *testing.T) {
	_, remote := ends(t)
	b := newBed(t)
	open := func() error {
		e, err := b.d.Exports(&shop{}, nil, false).(nbd.PerPeer).For(nbd.Peer{Conn: remote})
		if err == nil {
			_, err = e.Open("plain")
		}
		return err
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	id := strings.Split(b.token("acme", "read"), "_")[1]
	for _, state := range []string{"with a token in the file", "when the last one was revoked", "without the file"} {
		if err := open(); errs.KindOf(err) != errs.Denied || err == nil {
			t.Errorf("%s: %v", state, err)
		}
		switch state {
		case "with a token in the file":
			if err := b.d.tokens.Revoke(id); err != nil {
				t.Fatal(err)
			}
		case "when the last one was revoked":
			if err := errors.Join(os.Remove(b.file), b.d.tokens.Read()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNBDForeign: an export of somebody else is answered like one that does not exist, and
// the host is not asked.
func TestNBDForeign(t *testing.T) {
	s := &shop{}
	e := newBed(t).d.Exports(s, auth.Bound("acme", "web"), true)
	var answers []string
	for _, name := range []string{"other/web", "other/none", "acme/db", "acme/none", "none"} {
		for _, ask := range []func(string) (*nbd.Export, error){e.Open, e.Describe} {
			_, err := ask(name)
			if err == nil || errs.KindOf(err) != errs.NotFound {
				t.Fatalf("%q: %v", name, err)
			}
			answers = append(answers, strings.ReplaceAll(err.Error(), name, "NAME"))
		}
	}
	if len(slices.Compact(answers)) != 1 || len(s.asked) > 0 {
		t.Errorf("the answers tell: %q; the host was asked for %q", answers, s.asked)
	}
}

// TestCertificates: one that says something else than whose it is lets nobody in.
func TestCertificates(t *testing.T) {
	_, remote := ends(t)
	for _, uris := range [][]string{
		{"glide://tenant"}, {"glide://tenant/"}, {"glide://tenant/*"}, {"glide://tenant/a/b"}, {"glide://tenant/a/volume/"}, {"glide://tenant/a/volume/[x"},
		{"glide://tenant/a/volume/x/y"}, {"glide://volume/a"}, {"glide://tenant/a?x=y"}, {"glide://tenant/a", "glide://tenant/b"},
	} {
		e := newBed(t).d.Exports(&shop{}, nil, false).(nbd.PerPeer)
		if _, err := e.For(nbd.Peer{Conn: remote, TLS: certificate(t, uris...)}); errs.KindOf(err) != errs.Denied || err == nil {
			t.Errorf("%q: %v", uris, err)
		}
	}
}

// TestHostCertificate: the certificate of another host opens nothing over NBD, not even
// with a token beside it.
func TestHostCertificate(t *testing.T) {
	_, remote := ends(t)
	b := newBed(t)
	s := &shop{}
	e, err := b.d.Exports(s, nil, false).(nbd.PerPeer).For(nbd.Peer{Conn: remote, TLS: certificate(t, "glide://host/0a1b")})
	if err != nil {
		t.Fatal(err)
	}
	token := b.token("*", "use")
	for _, name := range []string{"plain", "acme/web", "", "none", "plain#" + token} {
		for _, ask := range []func(string) (*nbd.Export, error){e.Open, e.Describe} {
			if _, err := ask(name); errs.KindOf(err) != errs.Denied || err == nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	if list := e.List(); len(list) > 0 || len(s.asked) > 0 {
		t.Errorf("it lists %q, and the host was asked for %q", list, s.asked)
	}
}

// TestGuessing: a source that shows wrong tokens is not listened to for a while, not even
// with a right one, and others are.
func TestGuessing(t *testing.T) {
	b := newBed(t)
	token := b.token("acme", "use")
	for i := range 2 * wrongPerSecond {
		_, status, err := b.d.show("10.0.0.1", "wrong")
		if want := map[bool]int{true: 401, false: 429}[i < wrongPerSecond]; status != want || err == nil {
			t.Fatalf("wrong token %d: %d, %v", i, status, err)
		}
	}
	if _, status, _ := b.d.show("10.0.0.1", token); status != 429 {
		t.Errorf("a right one after many wrong ones: %d", status)
	}
	if p, _, err := b.d.show("10.0.0.2", token); err != nil || p.Tenant != "acme" {
		t.Errorf("from elsewhere: %v", err)
	}
}
