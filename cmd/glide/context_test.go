package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/certs/certstest"
)

// desk is a user with a home directory, and daemons of several hosts.
type desk struct {
	t    *testing.T
	home string
	env  []string
}

func (d *desk) run(args ...string) outcome {
	d.t.Helper()
	cmd := glide(d.t, args...)
	cmd.Dir = d.home
	cmd.Env = append(slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }), append(d.env, "HOME="+d.home)...)
	return run(d.t, cmd)
}

func (d *desk) must(args ...string) string {
	d.t.Helper()
	o := d.run(args...)
	if o.Code != 0 || o.Err != "" {
		d.t.Fatalf("glide %s: exit %d: %s", strings.Join(args, " "), o.Code, o.Err)
	}
	return o.Out
}

// with sets variables until the test ends, or the next call.
func (d *desk) with(env ...string) *desk { return &desk{d.t, d.home, env} }

func (d *desk) file() string { return filepath.Join(d.home, ".config", "glide", "contexts.toml") }

// lab is a daemon over TCP that wants a token, and remembers those that it was shown.
type lab struct {
	addr string
	mu   sync.Mutex
	seen []string
}

func newLab(t *testing.T, volume string) *lab {
	t.Helper()
	l, b := &lab{}, &apitest.Backend{}
	if _, err := b.Create(t.Context(), api.CreateRequest{Name: volume, Size: 4096}); err != nil {
		t.Fatal(err)
	}
	h := api.Handler(b, api.Options{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.seen = append(l.seen, r.Header.Get("Authorization"))
		l.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	l.addr = "tcp:" + s.Listener.Addr().String()
	return l
}

// shown are the tokens that it was shown since the last call.
func (l *lab) shown() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, l.seen = l.seen, nil
	return slices.Compact(list)
}

// TestContexts has a user name two daemons, and ask one or the other in every way.
func TestContexts(t *testing.T) {
	d := &desk{t: t, home: t.TempDir()}
	a, b := newLab(t, "in-a"), newLab(t, "in-b")
	if err := os.WriteFile(filepath.Join(d.home, "a.token"), []byte("secret-a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.must("context", "add", "a", "--api", a.addr, "--token-file", "a.token")
	d.must("context", "add", "b", "--api", b.addr)
	if len(a.shown())+len(b.shown()) > 0 {
		t.Error("a context was added with a request")
	}
	st, err := os.Stat(d.file())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	raw, err := os.ReadFile(d.file())
	if err != nil || bytes.Contains(raw, []byte("secret")) || !bytes.Contains(raw, []byte(`token-file = "`+d.home+"/a.token")) {
		t.Errorf("%v\n%s", err, raw)
	}
	ls := func(d *desk, args ...string) string {
		t.Helper()
		return d.must(append(args, "ls")...)
	}
	asked := func(what string, wantA, wantB []string) {
		t.Helper()
		if gotA, gotB := a.shown(), b.shown(); !slices.Equal(gotA, wantA) || !slices.Equal(gotB, wantB) {
			t.Errorf("%s: a was shown %q, b %q", what, gotA, gotB)
		}
	}
	token, none := []string{"Bearer secret-a"}, []string{""}
	refused(t, d.run("ls"), 1, "not running") // none is in use yet
	if out := ls(d, "--context", "a"); !strings.Contains(out, "in-a") {
		t.Error(out)
	}
	asked("--context a", token, nil)
	d.must("context", "use", "a")
	ls(d)
	asked("use a", token, nil)
	ls(d, "--context", "b")
	asked("--context b", nil, none)
	ls(d.with("GLIDE_CONTEXT=b"))
	asked("GLIDE_CONTEXT=b", nil, none)
	ls(d.with("GLIDE_CONTEXT=b"), "--context", "a")
	asked("the flag over the variable", token, nil)
	// An address from elsewhere does not get the context's token.
	ls(d, "--api", b.addr)
	asked("--api", nil, none)
	ls(d.with("GLIDE_API=" + b.addr))
	asked("GLIDE_API", nil, none)
	ls(d.with("GLIDE_API="+b.addr, "GLIDE_CONTEXT=a"))
	asked("GLIDE_API over GLIDE_CONTEXT", nil, none)
	// Other flags and variables win, one by one.
	for name, text := range map[string]string{"flag.token": "of-the-flag", "variable.token": "of-the-variable"} {
		if err := os.WriteFile(filepath.Join(d.home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ls(d.with("GLIDE_TOKEN_FILE=variable.token"))
	asked("GLIDE_TOKEN_FILE", []string{"Bearer of-the-variable"}, nil)
	ls(d.with("GLIDE_TOKEN_FILE=variable.token"), "--token-file", "flag.token")
	asked("--token-file", []string{"Bearer of-the-flag"}, nil)
	refused(t, d.run("--context", "a", "--api", b.addr, "ls"), 2, "both name a daemon")
	refused(t, d.with("GLIDE_API="+b.addr).run("--context", "a", "ls"), 2, "unset the variable")
	refused(t, d.run("--context", "default", "ls"), 1, "not running")
	refused(t, d.run("--context", "aa", "ls"), 2, `there is no context "aa"`)
	refused(t, d.with("GLIDE_CONTEXT=none").run("ls"), 2, `there is no context "none"`)
	asked("what was refused", nil, nil)

	list := decode[[]map[string]any](t, d.must("context", "ls", "--json"))
	if len(list) != 3 || list[0]["name"] != "a" || list[0]["in_use"] != true || list[0]["api"] != a.addr || list[0]["token_file"] != d.home+"/a.token" || list[1]["in_use"] != false || list[2]["name"] != "default" {
		t.Errorf("%v", list)
	}
	if out := d.must("context", "ls"); !strings.Contains(out, "*  a") || strings.Count(out, "\n") != 4 {
		t.Error(out)
	}
	for _, args := range [][]string{{"__complete", "context", "use", ""}, {"__complete", "context", "rm", ""}, {"__complete", "ls", "--context", ""}, {"__complete", "fork", "x", "--context", ""}} {
		if o := d.run(args...); !strings.HasPrefix(o.Out, "a\nb\ndefault\n") {
			t.Errorf("%v: %s", args, o.Out)
		}
	}
	refused(t, d.run("context", "rm", "none"), 1, "there is no context")
	refused(t, d.run("context", "rm", "default"), 2, "stays")
	d.must("context", "rm", "a")
	refused(t, d.run("ls"), 1, "not running")
	refused(t, d.run("context", "use", "a"), 2, "there is no context")
	d.must("context", "use", "b")
	d.must("context", "use", "default")
	refused(t, d.run("ls"), 1, "not running")
	asked("the end", nil, nil)
}

// TestContextsRefused: what makes no sense, or would lead elsewhere, is said in one line.
func TestContextsRefused(t *testing.T) {
	d := &desk{t: t, home: t.TempDir()}
	for _, c := range []struct {
		args  []string
		code  int
		words string
	}{
		{[]string{"context", "add", "x"}, 2, "--api"}, {[]string{"context", "add", "--api", "tcp:h:1"}, 2, "missing"}, {[]string{"context", "add", "x", "y", "--api", "tcp:h:1"}, 2, "too many"},
		{[]string{"context", "add", "x", "--api", "h:1"}, 2, "neither unix:PATH"}, {[]string{"context", "add", "x", "--api", "tcp:h:1", "--token-file", "none"}, 2, "no such file"},
		{[]string{"context", "add", "x", "--api", "tcp:h:1", "--tls-ca", "none"}, 2, "no such file"}, {[]string{"context", "add", "x", "--api", "tcp:h:1", "--tls-cert", "c"}, 2, "go together"},
		{[]string{"context", "add", "default", "--api", "tcp:h:1"}, 1, "there is a context"}, {[]string{"context", "add", "a/b", "--api", "tcp:h:1"}, 2, "no name of a context"},
		{[]string{"context", "use"}, 2, "missing"}, {[]string{"context", "ls", "x"}, 2, "too many"}, {[]string{"context", "sue"}, 2, "no command"},
	} {
		refused(t, d.run(c.args...), c.code, c.words)
	}
	if _, err := os.Stat(d.file()); err == nil {
		t.Error("what was refused wrote a file")
	}
	d.must("context", "add", "x", "--api", "unix:some/socket")
	refused(t, d.run("context", "add", "x", "--api", "tcp:h:1"), 1, "there is a context")
	if raw, _ := os.ReadFile(d.file()); !strings.Contains(string(raw), `api = "unix:`+d.home+`/some/socket"`) {
		t.Errorf("%s", raw)
	}
	for text, words := range map[string]string{
		"use = \"y\"":                       `there is no context "y"`,
		"[context.x]\ntoken-file = \"f\"":   "",
		"[context.x]\ntoken = \"secret-x\"": "not known",
		"use = 7":                           "contexts.toml",
		"[context":                          "contexts.toml",
	} {
		if err := os.WriteFile(d.file(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"ls"}
		if words == "" {
			args, words = []string{"--context", "x", "ls"}, "has no api"
		}
		o := d.run(args...)
		if refused(t, o, 2, words); strings.Contains(o.Err, "secret-x") {
			t.Error(o.Err)
		}
		// With an address, nobody looks at it.
		refused(t, d.run("--api", "unix:none", "ls"), 1, "not running")
	}
	if err := os.WriteFile(d.file(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.file(), 0o620); err != nil {
		t.Fatal(err)
	}
	refused(t, d.run("ls"), 2, "can be written by others")
	homeless := &desk{t: t}
	refused(t, homeless.run("context", "add", "x", "--api", "tcp:h:1"), 1, "neither $XDG_CONFIG_HOME nor $HOME says where")
	refused(t, homeless.run("--api", "unix:none", "ls"), 1, "not running")
}

// TestContextOverTLS: a context has the certificates, too.
func TestContextOverTLS(t *testing.T) {
	d := &desk{t: t, home: t.TempDir()}
	authority := certstest.New(t, certstest.ECDSA)
	_, files := authority.Issue(certstest.Want{})
	var out bytes.Buffer
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(&out, r.TLS.PeerCertificates[0].Subject.CommonName)
		_, _ = io.WriteString(w, "[]")
	}))
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	d.must("context", "add", "lab", "--api", "tcp:"+s.Listener.Addr().String(), "--tls-ca", files.CA, "--tls-cert", files.Cert, "--tls-key", files.Key)
	d.must("--context", "lab", "ls")
	if out.String() != "someone" {
		t.Errorf("it was shown the certificate of %q", out.String())
	}
}
