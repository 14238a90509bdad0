package listener_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/certs/certstest"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/listener"
)

// door is an API whose clients may speak TLS.
type door struct {
	addr  string
	guard *listener.Listener
}

// holds waits until so many connections are open.
func (d *door) holds(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		open, _, _ := d.guard.Counts()
		if open == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are open, not %d", open, n)
		}
	}
}

func serve(t *testing.T, config func() *tls.Config, require bool, o listener.Options, h http.Handler) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{l.Addr().String(), listener.Listen(l, o)}
	either := &listener.TLS{Listener: d.guard, Config: config, Require: require, Log: slog.New(slog.DiscardHandler)}
	s := &http.Server{
		Handler: listener.WithState(h), ConnContext: listener.ConnContext, ReadHeaderTimeout: 2 * time.Second,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	go func() { _ = s.Serve(either) }()
	t.Cleanup(func() { _ = s.Close() })
	return d
}

// who answers with what the handler knows of a client.
var who = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	say := "plain"
	if r.TLS != nil {
		say = "TLS"
		if len(r.TLS.VerifiedChains) > 0 {
			say += " " + r.TLS.PeerCertificates[0].URIs[0].String()
		}
	}
	_, _ = io.WriteString(w, say)
})

func get(url string, c *tls.Config) (int, string, error) {
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := h.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func config(t *testing.T, f certs.Files) *tls.Config {
	t.Helper()
	c, err := certs.Client(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func daemon(t *testing.T, f certs.Files) func() *tls.Config {
	t.Helper()
	s, err := certs.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return func() *tls.Config { return s.API }
}

// TestTLS: both are spoken, or TLS only; requests say which, and whose certificate it was.
func TestTLS(t *testing.T) {
	t.Parallel()
	a := certstest.New(t, certstest.ECDSA)
	_, files := a.Issue(certstest.Want{})
	_, acme := a.Issue(certstest.Want{URI: "glide://tenant/acme"})
	for _, require := range []bool{false, true} {
		d := serve(t, daemon(t, files), require, listener.Options{}, who)
		for f, want := range map[certs.Files]string{{CA: a.CA}: "TLS", acme: "TLS glide://tenant/acme"} {
			if status, body, err := get("https://"+d.addr, config(t, f)); status != 200 || body != want {
				t.Errorf("require %v: %d %q, %v", require, status, body, err)
			}
		}
		status, body, err := get("http://"+d.addr, nil)
		if !require {
			if status != 200 || body != "plain" {
				t.Errorf("plain: %d %q, %v", status, body, err)
			}
			continue
		}
		var e api.Error
		if jerr := json.Unmarshal([]byte(body), &e); jerr != nil || status != http.StatusBadRequest || e.Kind != "invalid" || e.Error != "the API here speaks TLS only: use https, glide --tls-ca FILE" {
			t.Errorf("plain: %d %q, %v", status, body, err)
		}
	}
}

// TestTLSSlow: those who send nothing, one byte, or half a handshake hold up nobody, and are
// given up.
func TestTLSSlow(t *testing.T) {
	t.Parallel()
	a := certstest.New(t, certstest.ECDSA)
	_, files := a.Issue(certstest.Want{})
	d := serve(t, daemon(t, files), false, listener.Options{}, who)
	var slow []net.Conn
	for i := range 30 {
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sends := []string{"", "G", "\x16", "\x16\x03\x01\x00\xff\x01\x00"}[i%4]
		if _, err := io.WriteString(c, sends); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
	}
	d.holds(t, len(slow))
	began := time.Now()
	for _, url := range []string{"http://" + d.addr, "https://" + d.addr} {
		if status, body, err := get(url, config(t, certs.Files{CA: a.CA})); status != 200 {
			t.Errorf("%s: %d %q, %v", url, status, body, err)
		}
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("others waited %v", took)
	}
	for i, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, net.ErrClosed) || err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("client %d is still connected: %v", i, err)
		}
	}
}

// TestTLSLimit: a client over TLS beyond the limit of connections is not answered in plain
// text, and places are free again when connections end, however they do.
func TestTLSLimit(t *testing.T) {
	t.Parallel()
	a := certstest.New(t, certstest.ECDSA)
	_, files := a.Issue(certstest.Want{})
	d := serve(t, daemon(t, files), true, listener.Options{MaxConns: 2}, who)
	for range 3 {
		for range 2 {
			c, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		d.holds(t, 2)
		_, _, err := get("https://"+d.addr, config(t, certs.Files{CA: a.CA}))
		if err == nil || errors.Is(err, http.ErrSchemeMismatch) {
			t.Fatalf("beyond the limit: %v", err)
		}
		d.holds(t, 0) // the silent ones are given up
		if status, _, err := get("https://"+d.addr, config(t, certs.Files{CA: a.CA})); status != 200 {
			t.Fatalf("with free places: %d, %v", status, err)
		}
		d.holds(t, 0)
	}
}

// TestTLSErrors: a command says in one line what is wrong between it and a daemon.
func TestTLSErrors(t *testing.T) {
	t.Parallel()
	ours, theirs := certstest.New(t, certstest.ECDSA), certstest.New(t, certstest.ECDSA)
	issue := func(by *certstest.Authority, w certstest.Want) certs.Files {
		_, f := by.Issue(w)
		f.CA = ours.CA
		return f
	}
	h := api.Handler(&apitest.Backend{}, api.Options{})
	at := func(f certs.Files) string { return serve(t, daemon(t, f), true, listener.Options{}, h).addr }
	good := at(issue(ours, certstest.Want{}))
	strict := func() string {
		c := daemon(t, issue(ours, certstest.Want{}))().Clone()
		c.ClientAuth = tls.RequireAndVerifyClientCert
		return serve(t, func() *tls.Config { return c }, true, listener.Options{}, h).addr
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go func() { _ = plain.Serve(l) }()
	defer plain.Close()
	for _, c := range []struct {
		what, addr string
		files      certs.Files
		says       string // "": it works
	}{
		{"right", good, certs.Files{CA: ours.CA}, ""},
		{"right, with a certificate", good, issue(ours, certstest.Want{URI: "glide://tenant/acme"}), ""},
		{"with a certificate that is wanted", strict, issue(ours, certstest.Want{}), ""},
		{"no host in the address", ":" + good[len("127.0.0.1:"):], certs.Files{CA: ours.CA}, ""},
		{"TLS to plain", l.Addr().String(), certs.Files{CA: ours.CA}, "speaks no TLS"},
		{"plain to TLS", good, certs.Files{}, "speaks TLS only"},
		{"an unknown authority", good, certs.Files{CA: theirs.CA}, "unknown authority"},
		{"another name", at(issue(ours, certstest.Want{Names: []string{"elsewhere"}})), certs.Files{CA: ours.CA}, "another name"},
		{"expired", at(issue(ours, certstest.Want{Lasts: -time.Hour})), certs.Files{CA: ours.CA}, "expired"},
		{"none that is wanted", strict, certs.Files{CA: ours.CA}, "wants a certificate"},
		{"a foreign one", good, issue(theirs, certstest.Want{}), "not of the authority"},
		{"one that has expired", good, issue(ours, certstest.Want{Lasts: -time.Hour}), "it has expired"},
	} {
		x, err := client.New("tcp:"+c.addr, client.Options{TLS: config(t, c.files)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = x.Host(t.Context())
		x.Close()
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %v", c.what, err)
		case err != nil && errs.KindOf(err) != errs.Denied && c.what != "plain to TLS":
			t.Errorf("%s: an error of the kind %v", c.what, errs.KindOf(err))
		case err != nil:
			t.Log(err)
		}
	}
}

// TestTLSAuthorityChanges: who has a certificate of an authority that is trusted no more is
// nobody from then on, in a connection that he has already, too; others stay who they are.
func TestTLSAuthorityChanges(t *testing.T) {
	t.Parallel()
	ours, theirs := certstest.New(t, certstest.ECDSA), certstest.New(t, certstest.ECDSA)
	both := filepath.Join(t.TempDir(), "both.pem")
	var pems []byte
	for _, a := range []*certstest.Authority{ours, theirs} {
		b, err := os.ReadFile(a.CA)
		if err != nil {
			t.Fatal(err)
		}
		pems = append(pems, b...)
	}
	if err := os.WriteFile(both, pems, 0o600); err != nil {
		t.Fatal(err)
	}
	_, files := ours.Issue(certstest.Want{})
	files.CA = both
	var now atomic.Pointer[tls.Config]
	use := func(ca string) {
		files.CA = ca
		now.Store(daemon(t, files)())
	}
	use(both)
	d := serve(t, now.Load, true, listener.Options{}, who)
	keep := func(a *certstest.Authority) func() string {
		_, f := a.Issue(certstest.Want{URI: "glide://tenant/acme"})
		f.CA = ours.CA
		dials := 0
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: config(t, f), MaxConnsPerHost: 1, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}}
		t.Cleanup(h.CloseIdleConnections)
		return func() string {
			resp, err := h.Get("https://" + d.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || dials != 1 {
				t.Fatalf("%v, %d connections", err, dials)
			}
			return string(b)
		}
	}
	one, other := keep(ours), keep(theirs)
	for i, ca := range []string{both, ours.CA, ours.CA, both, ""} {
		use(ca)
		wantOne, wantOther := "TLS glide://tenant/acme", "TLS"
		if i == 0 {
			wantOther = wantOne
		}
		if ca == "" {
			wantOne = "TLS"
		}
		if a, b := one(), other(); a != wantOne || b != wantOther {
			t.Errorf("step %d: %q and %q", i, a, b)
		}
	}
}

// TestTLSBodies: what goes through is what was sent: a large body, an early refusal of one,
// and progress.
func TestTLSBodies(t *testing.T) {
	t.Parallel()
	a := certstest.New(t, certstest.ECDSA)
	_, files := a.Issue(certstest.Want{})
	d := serve(t, daemon(t, files), true, listener.Options{}, api.Handler(&apitest.Backend{}, api.Options{}))
	c, err := client.New("tcp:"+d.addr, client.Options{TLS: config(t, certs.Files{CA: a.CA})})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		out, err := c.Import(t.Context(), "v", 8<<20, apitest.Full(8<<20))
		if err != nil || out.BytesRead != 8<<20 {
			t.Errorf("%+v, %v", out, err)
		}
		if err := c.Remove(t.Context(), "v", false); err != nil {
			t.Error(err)
		}
	}
}
