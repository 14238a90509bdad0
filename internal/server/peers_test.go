package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/certs/certstest"
	"github.com/paraglide/glide/internal/errs"
)

// hostAt asks the host at an address what it is.
func hostAt(ctx context.Context, p peers, addr string) (api.Host, error) {
	c, err := p.dial(addr, "host")
	if err != nil {
		return api.Host{}, err
	}
	defer c.Close()
	return c.Host(ctx)
}

// A token goes only where the operator allows it, whatever a name stands for.
func TestPeersAllow(t *testing.T) {
	p := peers{certs: func() *certs.Set { return nil }, allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "127.3.4.5": true, "::ffff:127.0.0.1": true, "10.1.2.3": true, "::ffff:10.1.2.3": true, "fd00::1": true,
		"11.0.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "::ffff:11.0.0.1": false, "fe80::1%eth0": false, "0.0.0.0": false,
	} {
		if err := p.permit(netip.MustParseAddr(addr)); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	sent := make(chan string, 1)
	p.token = func() string { return "secret" }
	p.allow = nil
	for _, addr := range []string{"tcp:192.0.2.1:7070", "tcp:stranger.invalid:7070"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := hostAt(ctx, p, addr)
		cancel()
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", addr, err)
		}
		if strings.Contains(addr, "192.0.2.1") && !strings.Contains(err.Error(), "--peers-allow") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		sent <- string(b[:n])
		_ = c.Close()
	}()
	_, _ = hostAt(t.Context(), p, "tcp:"+l.Addr().String())
	if got := <-sent; !strings.Contains(got, "Bearer secret") {
		t.Errorf("to this machine: %q", got)
	}
	_ = l.Close()
}

// TestPeersTLS: a host with certificates sends a request, and no token, to the host that a
// commit names; somebody else at that address gets nothing.
func TestPeersTLS(t *testing.T) {
	a := certstest.New(t, certstest.ECDSA)
	set := func(uri string) *certs.Set {
		t.Helper()
		_, files := a.Issue(certstest.Want{URI: uri, Names: []string{"nowhere"}})
		s, err := certs.Read(files)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	me := set("glide://host/me")
	p := peers{token: func() string { return "secret" }, certs: func() *certs.Set { return me }}
	type seen struct{ who, authorization string }
	for _, c := range []struct {
		who string
		tls *tls.Config // nil: it speaks none
		ok  bool
	}{{"right", set("glide://host/other").API, true}, {"an impostor", set("glide://host/third").API, false}, {"a client", set("glide://tenant/other").API, false}, {"plain", nil, false}} {
		var got []seen
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := seen{authorization: r.Header.Get("Authorization")}
			if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
				s.who = r.TLS.PeerCertificates[0].URIs[0].String()
			}
			got = append(got, s)
			_, _ = w.Write([]byte(`{"id":"other"}`))
		})
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		if s.TLS = c.tls; c.tls != nil {
			s.StartTLS()
		} else {
			s.Start()
		}
		c2, err := p.dial("tcp:"+s.Listener.Addr().String(), "other")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c2.Host(t.Context())
		c2.Close()
		s.Close()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.Denied) {
			t.Errorf("%s: %v", c.who, err)
		}
		if want := []seen{{who: "glide://host/me"}}; c.ok && !slices.Equal(got, want) || !c.ok && len(got) > 0 {
			t.Errorf("%s got %q", c.who, got)
		}
	}
	// Over a unix socket, too, no token is sent.
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	var sent []string
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = append(sent, r.Header.Get("Authorization"))
		_, _ = w.Write([]byte(`{"id":"other"}`))
	})}
	go func() { _ = s.Serve(l) }()
	c, err := p.dial("unix:"+l.Addr().String(), "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Host(t.Context()); err != nil || !slices.Equal(sent, []string{""}) {
		t.Errorf("%v, %q", err, sent)
	}
	c.Close()
	_ = s.Close()
}
