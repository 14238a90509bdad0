package keys_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/seal"
)

// roundTrip wraps with one provider and unwraps with another.
func roundTrip(t *testing.T, wrap, unwrap keys.Provider) error {
	t.Helper()
	kek := seal.NewKey()
	w, err := wrap.Wrap(t.Context(), domain, kek)
	if err != nil {
		t.Fatalf("%v: %v", wrap, err)
	}
	if w.Kind != wrap.Kind() || wrap.Kind() != unwrap.Kind() {
		t.Errorf("%v and %v: kind %s", wrap, unwrap, w.Kind)
	}
	got, err := unwrap.Unwrap(t.Context(), domain, w)
	if err == nil && !got.Equal(kek) {
		t.Errorf("%v: another key comes back", unwrap)
	}
	return err
}

// TestKeysInFiles: a key may be bytes or text, and be in a file here and a variable there.
func TestKeysInFiles(t *testing.T) {
	key := seal.NewKey().Append(nil)
	forms := map[string]string{
		"bytes": string(key), "hexadecimal": hex.EncodeToString(key) + "\n", "capitals": strings.ToUpper(hex.EncodeToString(key)),
		"base64": base64.StdEncoding.EncodeToString(key) + "\r\n", "base64, no padding": base64.RawStdEncoding.EncodeToString(key),
		"base64url": base64.URLEncoding.EncodeToString(key), "base64url, no padding": " " + base64.RawURLEncoding.EncodeToString(key),
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	var all []keys.Provider
	for name, form := range forms {
		all = append(all, parse(t, "file:"+write(t, form))...)
		if name != "bytes" { // a variable has no zero bytes
			variable := fmt.Sprintf("GLIDE_TEST_%d", len(all))
			t.Setenv(variable, form)
			all = append(all, parse(t, "env:"+variable)...)
		}
		credential := fmt.Sprintf("key%d", len(all))
		if err := os.WriteFile(filepath.Join(dir, credential), []byte(form), 0o440); err != nil { // as systemd does
			t.Fatal(err)
		}
		all = append(all, parse(t, "credential:"+credential)...)
	}
	for _, a := range all {
		for _, b := range all {
			if err := roundTrip(t, a, b); err != nil {
				t.Errorf("%v, then %v: %v", a, b, err)
			}
		}
	}
	other := parse(t, newKey(t))[0]
	isLocked(t, roundTrip(t, all[0], other), keys.ErrWrongKey)

	kek := seal.NewKey()
	w, err := all[0].Wrap(t.Context(), domain, kek)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].Unwrap(t.Context(), domain+1, w); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("for another domain: %v", err)
	}
	for name, form := range map[string]string{"nothing": "", "31 bytes": string(key[:31]), "33 bytes": string(key) + "\n", "hexadecimal of 31": hex.EncodeToString(key[:31]), "much": strings.Repeat("a", 1<<20)} {
		p := parse(t, "file:"+write(t, form))[0]
		if _, err := p.Wrap(t.Context(), domain, kek); !errors.Is(err, errs.Invalid) || form != "" && strings.Contains(err.Error(), form) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFilesOfSecrets: a secret that others can read is none, and what is no file does not hang.
func TestFilesOfSecrets(t *testing.T) {
	path := write(t, string(seal.NewKey().Append(nil)))
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for _, spec := range []string{"file:" + path, "passphrase:file=" + path, "age:identity=" + path} {
			if _, err := parse(t, spec)[0].Wrap(t.Context(), domain, seal.NewKey()); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("%s with mode %o: %v", spec, mode, err)
			}
		}
	}
	k, r, _ := born(t, newStore())
	for spec, want := range map[string]error{
		"file:" + path: keys.ErrWrongKey, "file:" + pipe: keys.ErrWrongKey, "file:" + t.TempDir(): keys.ErrWrongKey,
		"file:" + path + ".absent": keys.ErrAway, "env:GLIDE_TEST_ABSENT": keys.ErrAway, "credential:absent": keys.ErrAway, "credential:../secret": keys.ErrAway,
	} {
		host := *k
		host.Providers = parse(t, spec)
		_, err := host.Open(t.Context(), domain, "acme", r.Seen())
		isLocked(t, err, want)
	}
}

// TestParse: what is no provider is refused, and not repeated: it may be the secret.
func TestParse(t *testing.T) {
	for _, text := range []string{
		"", "file", "file:", "hunter2", "hunter2-is-a-long-passphrase:x", "passphrase:hunter2", "passphrase:file=", "passphrase:hunter2=x", "passphrase:",
		"age:hunter2", "age:AGE-SECRET-KEY-1HUNTER2", "age:identity=", "age:age1hunter2", "age:age1pq1hunter2",
		"kms:hunter2", "kms:arn:aws:s3:::hunter2", "kms:arn:aws:kms::1:key/hunter2", "kms:arn:aws:kms:us-east-1:1:hunter2",
		"vault:hunter2", "vault:https://host/hunter2", "vault:https://token:hunter2@host/transit/key", "vault:https://host/transit/key?token=hunter2",
		"vault:http://vault.example/transit/hunter2", "vault:http://10.0.0.1/transit/hunter2", "vault:ftp://host/transit/hunter2", "vault:https://host/transit/",
	} {
		if p, err := keys.Parse(text); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s is %v, %v", text, p, err)
		} else if strings.Contains(strings.ToLower(err.Error()), "hunter2-is-a-long") || strings.Contains(text, ":hunter2") && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats it: %v", text, err)
		}
	}
	parse(t, "vault:https://vault.example:8200/transit/glide", "vault:http://127.0.0.1:8200/a/b/key", "vault:http://[::1]:8200/transit/key", "vault:http://localhost:8200/transit/key",
		"kms:arn:aws:kms:us-east-1:111122223333:key/1", "kms:arn:aws-cn:kms:cn-north-1:111122223333:alias/glide", "file:/key", "env:KEY", "passphrase:credential=words")
}

func TestPassphrase(t *testing.T) {
	t.Setenv("GLIDE_TEST_WORDS", "correct horse battery staple")
	file, env := "passphrase:file="+write(t, "correct horse battery staple\n"), "passphrase:env=GLIDE_TEST_WORDS"
	ps := parse(t, file, env, "passphrase:file="+write(t, "correct horse"), "passphrase:file="+write(t, "\n"))
	w, err := ps[0].Wrap(t.Context(), domain, seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	if p := w.Params; p == nil || p.MemoryKiB != 64<<10 || p.Passes != 3 || p.Threads != 4 || len(p.Salt) != 16 {
		t.Errorf("%+v", p)
	}
	if _, err := ps[1].Unwrap(t.Context(), domain, w); err != nil {
		t.Errorf("from a variable: %v", err)
	}
	_, err = ps[2].Unwrap(t.Context(), domain, w)
	isLocked(t, err, keys.ErrWrongKey)
	if strings.Contains(fmt.Sprint(err), "horse") {
		t.Errorf("%v", err)
	}
	if _, err = ps[3].Unwrap(t.Context(), domain, w); !errors.Is(err, errs.Invalid) {
		t.Errorf("an empty one: %v", err)
	}
	w.Params.MemoryKiB = 2 << 20
	began := time.Now()
	if _, err := ps[0].Unwrap(t.Context(), domain, w); !errors.Is(err, errs.Corrupt) || time.Since(began) > time.Minute {
		t.Errorf("2 GiB: %v after %v", err, time.Since(began))
	}
}

func TestAge(t *testing.T) {
	recipient, identity := newAge(t)
	_, other := newAge(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(identity, "=")
	first, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	both := "age:identity=" + write(t, hybrid.String()+"\n"+string(first))
	ps := parse(t, recipient, identity, other, "age:"+hybrid.Recipient().String(), both)
	for _, c := range []struct {
		wrap, unwrap int
		want         error
	}{{0, 1, nil}, {1, 1, nil}, {0, 4, nil}, {3, 4, nil}, {4, 4, nil}, {0, 2, keys.ErrWrongKey}, {3, 1, keys.ErrWrongKey}, {0, 0, keys.ErrWrongKey}} {
		err := roundTrip(t, ps[c.wrap], ps[c.unwrap])
		if c.want != nil {
			isLocked(t, err, c.want)
		} else if err != nil {
			t.Errorf("%v, then %v: %v", ps[c.wrap], ps[c.unwrap], err)
		}
	}
	bad := parse(t, "age:identity="+write(t, "AGE-SECRET-KEY-1HUNTER2"))[0]
	if _, err := bad.Wrap(t.Context(), domain, seal.NewKey()); !errors.Is(err, errs.Invalid) || strings.Contains(err.Error(), "HUNTER2") {
		t.Errorf("no identity: %v", err)
	}
	// A keyring has room for recipients of both kinds.
	k := keyrings(t, newStore(), ps[3].String(), recipient)
	r, err := k.Create(t.Context(), keys.Birth{Domain: domain, Tenant: "acme", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyrings(t, k.Store, both).Open(t.Context(), domain, "acme", r.Seen()); err != nil {
		t.Error(err)
	}
}

// fakeVault is a fake: it behaves as the documentation of Vault's transit engine says, but
// no Vault was run against it. It has keys for AEAD, a policy, and can be sealed.
type fakeVault struct {
	mu     sync.Mutex // guards all of it; not held while it hangs
	keys   map[string]seal.Key
	tokens map[string]bool
	status int    // other than 0: its only answer
	moved  string // where it sends clients
	hang   chan struct{}
	seen   *http.Request
}

func (v *fakeVault) fail(w http.ResponseWriter, status int, errors ...string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": errors})
}

// set changes something between requests, or while one hangs.
func (v *fakeVault) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = r
	var ask struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		Associated []byte `json:"associated_data"`
	}
	switch err := json.NewDecoder(r.Body).Decode(&ask); {
	case v.hang != nil:
		hang := v.hang
		v.mu.Unlock()
		<-hang
		v.mu.Lock()
	case err != nil || r.Method != http.MethodPost:
		v.fail(w, http.StatusBadRequest, "bad request")
	case v.status == http.StatusTemporaryRedirect:
		http.Redirect(w, r, v.moved, v.status)
	case v.status != 0:
		v.fail(w, v.status, "Vault is sealed")
	case !v.tokens[r.Header.Get("X-Vault-Token")]:
		v.fail(w, http.StatusForbidden, "permission denied")
	default:
		parts := strings.Split(r.URL.Path, "/") // /v1/transit/VERB/KEY
		key, ok := v.keys[parts[len(parts)-1]]
		switch verb := parts[len(parts)-2]; {
		case !ok:
			v.fail(w, http.StatusBadRequest, "encryption key not found")
		case verb == "encrypt":
			text := "vault:v1:" + base64.StdEncoding.EncodeToString(key.Seal(nil, 1, ask.Associated, ask.Plaintext))
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ciphertext": text, "key_version": 1}})
		default:
			sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(ask.Ciphertext, "vault:v1:"))
			if err == nil {
				sealed, err = key.Open(nil, 1, ask.Associated, sealed)
			}
			if err != nil {
				v.fail(w, http.StatusBadRequest, "cipher: message authentication failed")
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"plaintext": sealed}})
		}
	}
}

func TestFakeVault(t *testing.T) {
	v := &fakeVault{keys: map[string]seal.Key{"glide": seal.NewKey(), "other": seal.NewKey()}, tokens: map[string]bool{"good-token": true}}
	server := httptest.NewServer(v)
	defer server.Close()
	t.Setenv("VAULT_TOKEN", "good-token")
	t.Setenv("VAULT_NAMESPACE", "team")
	spec := "vault:" + server.URL + "/transit/glide"
	p := parse(t, spec)[0]
	if err := roundTrip(t, p, p); err != nil {
		t.Fatal(err)
	}
	var seen *http.Request
	v.set(func() { seen = v.seen })
	if seen.URL.Path != "/v1/transit/decrypt/glide" || seen.Header.Get("X-Vault-Namespace") != "team" || seen.Header.Get("X-Vault-Request") != "true" {
		t.Errorf("it was asked for %s, %v", seen.URL, seen.Header)
	}
	store := newStore()
	k := keyrings(t, store, spec, newKey(t))
	r, err := k.Create(t.Context(), keys.Birth{Domain: domain, Tenant: "acme", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	host := &keys.Keyrings{Store: store, Providers: parse(t, spec), Limit: 3 * time.Second, Now: time.Now}
	expect := func(what string, want error) {
		t.Helper()
		_, err := host.Open(t.Context(), domain, "acme", r.Seen())
		if want == nil {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		isLocked(t, err, want)
		if strings.Contains(err.Error(), "-token") {
			t.Errorf("%s: the token is printed: %v", what, err)
		}
	}
	expect("in order", nil)
	w, err := p.Wrap(t.Context(), domain, seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Unwrap(t.Context(), domain+1, w); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("for another domain: %v", err)
	}
	if _, err := parse(t, "vault:"+server.URL+"/transit/other")[0].Unwrap(t.Context(), domain, w); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
	t.Setenv("VAULT_TOKEN", "bad-token")
	expect("a token without rights", keys.ErrDenied)
	t.Setenv("VAULT_TOKEN", "")
	expect("no token", keys.ErrAway)
	path := write(t, "good-token\n")
	t.Setenv("VAULT_TOKEN_FILE", path)
	expect("a token in a file", nil)
	stranger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a stranger is asked, with the token %q", r.Header.Get("X-Vault-Token"))
	}))
	defer stranger.Close()
	v.set(func() { v.moved = stranger.URL })
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusTemporaryRedirect} {
		v.set(func() { v.status = status })
		expect(fmt.Sprint(status), keys.ErrAway)
	}
	var was seal.Key
	v.set(func() { v.status, was, v.keys["glide"] = 0, v.keys["glide"], seal.NewKey() })
	expect("a key that was replaced", keys.ErrWrongKey)
	v.set(func() { delete(v.keys, "glide") })
	expect("a key that was deleted", keys.ErrDenied)
	hang := make(chan struct{})
	v.set(func() { v.keys["glide"], v.hang = was, hang })
	expect("a server that hangs", keys.ErrAway)
	close(hang)
	v.set(func() { v.hang = nil })
	expect("in order again", nil)
	server.Close()
	expect("down", keys.ErrAway)
}
