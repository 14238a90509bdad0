package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/certs/certstest"
	"github.com/paraglide/glide/internal/config"
)

// TestFiles: what is wrong with a file is said in one line of its own, and nothing else is.
func TestFiles(t *testing.T) {
	const id = "0a1b"
	a := certstest.New(t, certstest.ECDSA)
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		return path
	}
	mode := func(path string, mode os.FileMode) string {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := func() *config.Config {
		_, f := a.Issue(certstest.Want{URI: "glide://host/" + id})
		return &config.Config{
			TokenFile: put("token", "x\n", 0o640), Tokens: put("tokens", "", 0o600), TLS: "require",
			TLSCert: f.Cert, TLSKey: f.Key, TLSCA: f.CA, API: []api.Addr{{Network: "tcp", Address: "10.0.0.1:7070"}},
		}
	}
	issue := func(c *config.Config, w certstest.Want) {
		_, f := a.Issue(w)
		c.TLSCert, c.TLSKey = f.Cert, f.Key
	}
	for _, x := range []struct {
		what   string
		change func(c *config.Config)
		name   string // of the check that fails; "": none does
		says   string
	}{
		{"all is well", func(*config.Config) {}, "", ""},
		{"no tokens yet", func(c *config.Config) { c.Tokens = filepath.Join(dir, "none") }, "", ""},
		{"nothing is set", func(c *config.Config) { *c = config.Config{TLS: "off", Tokens: filepath.Join(dir, "none")} }, "", ""},
		{"the token for all", func(c *config.Config) { mode(c.TokenFile, 0o644) }, "token file", "can be read by others: its mode is 0644"},
		{"no token", func(c *config.Config) { c.TokenFile += "-none" }, "token file", "no such file"},
		{"tokens by a group", func(c *config.Config) { mode(c.Tokens, 0o660) }, "tokens", "can be written by others"},
		{"the key for all", func(c *config.Config) { mode(c.TLSKey, 0o604) }, "TLS key", "can be read by others"},
		{"another key", func(c *config.Config) { _, f := a.Issue(certstest.Want{}); c.TLSKey = f.Key }, "TLS certificate", "is not the certificate of"},
		{"soon", func(c *config.Config) { issue(c, certstest.Want{URI: "glide://host/" + id, Lasts: 49 * time.Hour}) }, "TLS certificate", "expires in 2 days"},
		{"not soon", func(c *config.Config) { issue(c, certstest.Want{URI: "glide://host/" + id, Lasts: soon + time.Hour}) }, "", ""},
		{"over", func(c *config.Config) { issue(c, certstest.Want{URI: "glide://host/" + id, Lasts: -time.Hour}) }, "TLS certificate", "expired at"},
		{"another host's", func(c *config.Config) { issue(c, certstest.Want{URI: "glide://host/ffff"}) }, "TLS certificate", "lacks the URI glide://host/0a1b"},
		{"nobody's", func(c *config.Config) { issue(c, certstest.Want{}) }, "TLS certificate", "lacks the URI"},
		{"nobody's, where no host asks", func(c *config.Config) { issue(c, certstest.Want{}); c.API = nil }, "", ""},
		{"nobody's, where no authority is", func(c *config.Config) { issue(c, certstest.Want{}); c.TLSCA = "" }, "", ""},
		{"no authority in the file", func(c *config.Config) { c.TLSCA = c.TLSKey }, "TLS authority", "holds no certificate"},
	} {
		c := good()
		x.change(c)
		found := false
		for _, check := range Files(c, id) {
			if strings.Contains(check.Detail, "\n") || check.Detail == "" || !check.OK && check.Fix == "" {
				t.Errorf("%s: %+v", x.what, check)
			}
			if check.OK {
				continue
			}
			found = true
			if check.Name != x.name || !strings.Contains(check.Detail, x.says) {
				t.Errorf("%s: %+v", x.what, check)
			}
		}
		if found != (x.name != "") {
			t.Errorf("%s: something is wrong: %v", x.what, found)
		}
	}
}

// TestAtRest: how the data directory is protected is told, and never a failure.
func TestAtRest(t *testing.T) {
	for key, want := range map[string]string{"file:/k": "sealed with the host's own key (file:/k)", "": "disk of"} {
		c := &config.Config{TLS: "off", Data: t.TempDir(), LocalKey: key, Tokens: filepath.Join(t.TempDir(), "none")}
		list := Files(c, "")
		if len(list) != 1 || list[0].Name != "disk encryption" || !list[0].OK || !strings.Contains(list[0].Detail, want) {
			t.Errorf("with --local-key %q: %+v", key, list)
		}
	}
}
