package auth

import (
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string, now func() time.Time) *Tokens {
	t.Helper()
	tokens, err := OpenTokens(path, now)
	check(t, err)
	return tokens
}

func TestVerbs(t *testing.T) {
	for text, want := range map[string]Verbs{"read": Read, "read,use,manage": Read | Use | Manage, "use-ro, metrics": UseReadOnly | Metrics, All.String(): All} {
		if v, err := ParseVerbs(text); err != nil || v != want {
			t.Errorf("%q: %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "root", "read,", "READ", "read use"} {
		if v, err := ParseVerbs(text); errs.KindOf(err) != errs.Invalid || err == nil {
			t.Errorf("%q: %v, %v", text, v, err)
		}
	}
	for _, c := range []struct{ has, asked Verbs }{{Use, UseReadOnly}, {Use, Read}, {Manage, Read}, {All, Admin | Peer}} {
		if p := (&Principal{Verbs: c.has}); !p.May(c.asked) {
			t.Errorf("who may %s may not %s", c.has, c.asked)
		}
	}
	for _, c := range []struct{ has, asked Verbs }{{UseReadOnly, Use}, {Read, UseReadOnly}, {Manage, Use}, {Use, Manage}, {Admin, Read}, {Metrics, Read}, {All &^ Admin, Admin}, {0, Read}} {
		if p := (&Principal{Verbs: c.has}); p.May(c.asked) {
			t.Errorf("who may %q may %s", c.has, c.asked)
		}
	}
}

func TestSees(t *testing.T) {
	for _, c := range []struct {
		p              Principal
		tenant, volume string
		want           bool
	}{
		{Principal{}, "acme", "web", true},
		{Principal{Tenant: "acme"}, "acme", "web", true},
		{Principal{Tenant: "acme"}, "acme2", "web", false},
		{Principal{Tenant: "acme"}, "default", "web", false},
		{Principal{Tenant: "acme", Volumes: []string{"ci-*", "web"}}, "acme", "ci-1", true},
		{Principal{Tenant: "acme", Volumes: []string{"ci-*", "web"}}, "acme", "web", true},
		{Principal{Tenant: "acme", Volumes: []string{"ci-*", "web"}}, "acme", "web2", false},
		{Principal{Tenant: "acme", Volumes: []string{"ci-*"}}, "other", "ci-1", false},
		{*Bound("acme", "web"), "acme", "web", true},
		{*Bound("acme", "web"), "acme", "web.rescue-1", false},
		{*Bound("acme", ""), "acme", "any", true},
	} {
		if got := c.p.Sees(c.tenant, c.volume); got != c.want {
			t.Errorf("%+v sees %s/%s: %v", c.p, c.tenant, c.volume, got)
		}
	}
}

// TestToken: a token opens what it is for until it ends or is revoked, and nothing that
// differs from it in one character does.
func TestToken(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tokens := open(t, filepath.Join(t.TempDir(), "tokens"), func() time.Time { return now })
	tok, text := NewToken("acme", []string{"ci-*"}, Read|Use, now.Add(time.Hour))
	other, otherText := NewToken("", nil, All, time.Time{})
	check(t, tokens.Add(tok))
	check(t, tokens.Add(other))
	p := tokens.Check(text)
	if p == nil || p.Tenant != "acme" || len(p.Volumes) != 1 || p.Verbs != Read|Use || strings.Contains(p.Who, text[20:40]) {
		t.Fatalf("%+v", p)
	}
	for i := range text {
		b := []byte(text)
		if b[i]++; tokens.Check(string(b)) != nil {
			t.Errorf("another character %d is accepted", i)
		}
		if tokens.Check(text[:i]) != nil {
			t.Errorf("%d characters are accepted", i)
		}
		// Right as far as i, and with a checksum: what a comparison by prefix would take.
		if i > len(tokenPrefix)+idLen && i < tokenLen-checkLen-1 {
			if b[i] = 'A'; text[i] == 'A' {
				b[i] = 'B'
			}
			body := string(b[:tokenLen-checkLen])
			if tokens.Check(body+checksum(body)) != nil {
				t.Errorf("another secret that agrees in %d characters is accepted", i)
			}
		}
	}
	if tokens.Check(text[:14]+otherText[14:]) != nil {
		t.Error("the secret of another token is accepted")
	}
	now = now.Add(time.Hour)
	if tokens.Check(text) != nil {
		t.Error("it is accepted when its time is over")
	}
	check(t, tokens.Revoke(other.ID))
	if tokens.Check(otherText) != nil {
		t.Error("it is accepted when it was revoked")
	}
	if err := tokens.Revoke(other.ID); errs.KindOf(err) != errs.NotFound || err == nil {
		t.Errorf("revoked twice: %v", err)
	}
}

// TestTokenFile: the file has no secrets, comes back as it was, and is read again.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	tokens := open(t, path, time.Now)
	var texts []string
	for _, tok := range []struct {
		tenant  string
		volumes []string
		until   time.Time
	}{{"", nil, time.Time{}}, {"acme", []string{"a", "b-?"}, time.Now().Add(time.Hour)}} {
		k, text := NewToken(tok.tenant, tok.volumes, Read|Manage, tok.until)
		check(t, tokens.Add(k))
		texts = append(texts, text)
	}
	raw, err := os.ReadFile(path)
	check(t, err)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	for _, text := range texts {
		if strings.Contains(string(raw), text[15:40]) {
			t.Error("the file has a secret")
		}
	}
	again := open(t, path, time.Now)
	for i, text := range texts {
		if p := again.Check(text); p == nil || p.Verbs != Read|Manage {
			t.Errorf("token %d does not come back: %+v", i, p)
		}
	}
	// Somebody else changes the file.
	lines := strings.SplitAfter(string(raw), "\n")
	check(t, os.WriteFile(path, []byte(strings.Join(lines[:2], "")+"\n# a comment\n"), 0o600))
	check(t, tokens.Read())
	if len(tokens.List()) != 1 {
		t.Errorf("%d tokens", len(tokens.List()))
	}
	for text, want := range map[string]string{
		"x":                            "not 6",
		lines[1] + lines[1]:            "twice",
		"0123456z" + lines[1][8:]:      "no id",
		lines[1][:20] + "\n":           "not 6",
		lines[1][:9] + "00 * read * -": "SHA-256",
		strings.Replace(lines[1], "read", "root", 1): "no verb",
	} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if err := tokens.Read(); errs.KindOf(err) != errs.Invalid || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if len(tokens.List()) != 1 {
		t.Error("a bad file replaced the tokens")
	}
	check(t, os.WriteFile(path, raw, 0o600))
	check(t, os.Chmod(path, 0o622))
	if err := tokens.Read(); err == nil || !strings.Contains(err.Error(), "written by others") {
		t.Errorf("a file that others can write: %v", err)
	}
}

// TestUsers: root and the daemon's own user own the host; others are who the file says, or
// nobody.
func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	check(t, os.WriteFile(path, []byte("# comment\n4711 acme use,manage ci-*,web # more\nnobody * metrics *\n"), 0o600))
	u, err := OpenUsers(path)
	check(t, err)
	if p := u.Of(4711); p == nil || p.Tenant != "acme" || len(p.Volumes) != 2 || p.Verbs != Use|Manage {
		t.Errorf("%+v", p)
	}
	if p := u.Of(65534); p == nil || p.Tenant != "" || p.Verbs != Metrics {
		t.Errorf("%+v", p)
	}
	for _, id := range []uint32{0, uint32(os.Geteuid())} {
		if p := u.Of(id); p == nil || p.Verbs != All {
			t.Errorf("user %d: %+v", id, p)
		}
	}
	if p := u.Of(4712); p != nil {
		t.Errorf("a user who is not there: %+v", p)
	}
	if p := (*Users)(nil).Of(4712); p == nil || p.Verbs != All {
		t.Errorf("without a file: %+v", p)
	}
	for text, want := range map[string]string{
		"4711 acme use": "not 4", "no-such-user acme use *": "no user", "1 a use [": "pattern", "1 a root *": "no verb", "1 a use *\n1 b use *": "twice", "99999999999 a use *": "no user",
	} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if err := u.Read(); errs.KindOf(err) != errs.Invalid || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if u.Of(4711) == nil {
		t.Error("a bad file replaced the users")
	}
	check(t, os.Chmod(path, 0o620))
	if err := u.Read(); err == nil || !strings.Contains(err.Error(), "written by others") {
		t.Error(err)
	}
}

// TestCertificate: whom a certificate names, and which host's it is.
func TestCertificate(t *testing.T) {
	const id = "0a1b2c3d"
	for _, c := range []struct {
		uris []string
		who  string // "": it is refused; "-": nobody
		host bool   // it is that of id
		p    Principal
	}{
		{uris: nil, who: "-"},
		{uris: []string{"spiffe://x/y"}, who: "-"},
		{uris: []string{"glide://tenant/acme"}, who: "glide://tenant/acme", p: Principal{Tenant: "acme", Verbs: Read | Use | Manage}},
		{uris: []string{"spiffe://x/y", "glide://tenant/acme/volume/ci-*"}, who: "glide://tenant/acme/volume/ci-*", p: Principal{Tenant: "acme", Volumes: []string{"ci-*"}, Verbs: Read | Use | Manage}},
		{uris: []string{"glide://host/" + id}, who: "glide://host/" + id, host: true, p: Principal{Verbs: Peer}},
		{uris: []string{"glide://host/" + id + "0"}, who: "glide://host/" + id + "0", p: Principal{Verbs: Peer}},
		{uris: []string{"glide://host/0%61" + id[2:]}, who: "glide://host/0%61" + id[2:], p: Principal{Verbs: Peer}},
		{uris: []string{"glide://tenant/" + id}, who: "glide://tenant/" + id, p: Principal{Tenant: id, Verbs: Read | Use | Manage}},
		{uris: []string{"glide://host/" + id, "glide://host/" + id}},
		{uris: []string{"glide://host/" + id, "glide://tenant/acme"}},
		{uris: []string{"glide://host/"}}, {uris: []string{"glide://host"}}, {uris: []string{"glide://host/*"}},
		{uris: []string{"glide://host/" + id + "/x"}}, {uris: []string{"glide://host/" + id + "/volume/x"}}, {uris: []string{"glide://host/" + id + "?x"}},
		{uris: []string{"glide://user@host/" + id}}, {uris: []string{"glide://host:1/" + id}}, {uris: []string{"glide://HOST/" + id}}, {uris: []string{"glide:host/" + id}},
	} {
		cert := &x509.Certificate{}
		for _, s := range c.uris {
			u, err := url.Parse(s)
			check(t, err)
			cert.URIs = append(cert.URIs, u)
		}
		p, err := Certified(cert)
		switch {
		case c.who == "" && (err == nil || errs.KindOf(err) != errs.Denied), c.who == "-" && (p != nil || err != nil):
			t.Errorf("%q: %+v, %v", c.uris, p, err)
		case c.who != "" && c.who != "-":
			if c.p.Who = c.who; err != nil || !reflect.DeepEqual(*p, c.p) {
				t.Errorf("%q: %+v, %v", c.uris, p, err)
			}
		}
		if IsHost(cert, id) != c.host || IsHost(cert, "") {
			t.Errorf("%q: the host's: %v", c.uris, IsHost(cert, id))
		}
	}
}

// FuzzTokens: no text is a token but the token.
func FuzzTokens(f *testing.F) {
	tok, text := NewToken("a", nil, All, time.Time{})
	tokens := &Tokens{now: time.Now, byID: map[string]*Token{tok.ID: tok}}
	f.Add(text)
	f.Add(tok.line())
	f.Fuzz(func(t *testing.T, s string) {
		if p := tokens.Check(s); (p != nil) != (s == text) {
			t.Errorf("%q: %+v", s, p)
		}
		if k, err := parseLine(s); err == nil {
			if again, err := parseLine(k.line()); err != nil || again.line() != k.line() {
				t.Errorf("%q comes back as %v, %v", s, again, err)
			}
		}
	})
}

// BenchmarkCheck is what checks of tokens cost: a right one, and wrong ones.
func BenchmarkCheck(b *testing.B) {
	tokens := &Tokens{now: time.Now, byID: map[string]*Token{}}
	var texts []string
	for range 10_000 {
		tok, text := NewToken("a", nil, All, time.Time{})
		tokens.byID[tok.ID] = tok
		texts = append(texts, text)
	}
	_, unknown := NewToken("a", nil, All, time.Time{})
	b.Run("right", func(b *testing.B) {
		for i := range b.N {
			tokens.Check(texts[i%len(texts)])
		}
	})
	b.Run("unknown", func(b *testing.B) {
		for range b.N {
			tokens.Check(unknown)
		}
	})
	b.Run("garbage", func(b *testing.B) {
		for range b.N {
			tokens.Check("glide_xyz")
		}
	})
}
