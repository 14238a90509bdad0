package keys

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// vaultKey is a key of Vault's transit engine, or OpenBao's: an AEAD key, because the domain
// is associated data. As for Vault's own tools, the token is in VAULT_TOKEN, or in the
// file that VAULT_TOKEN_FILE names, and VAULT_NAMESPACE and VAULT_CACERT count.
type vaultKey struct {
	text string // the URL
	base string // scheme and host
	path string // of the mount, escaped
	key  string
}

func parseVault(text string) (Provider, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errs.New(errs.Invalid, "not the URL of a key: say vault:https://HOST:PORT/transit/KEY")
	}
	parts := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	last := len(parts) - 1
	if last < 1 || parts[last] == "" {
		return nil, errs.New(errs.Invalid, "the URL names no key: say vault:https://HOST:PORT/transit/KEY")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return nil, errs.New(errs.Invalid, "the token would cross the network in clear: use https")
	}
	return &vaultKey{text: text, base: u.Scheme + "://" + u.Host, path: strings.Join(parts[:last], "/"), key: parts[last]}, nil
}

// String implements Provider.
func (v *vaultKey) String() string { return kindVault + ":" + v.text }

// Kind implements Provider.
func (*vaultKey) Kind() string { return kindVault }

// Wrap implements Provider.
func (v *vaultKey) Wrap(ctx context.Context, domain uint32, kek seal.Key) (Wrap, error) {
	out, err := v.call(ctx, "encrypt", domain, "plaintext", base64.StdEncoding.EncodeToString(kek.Append(nil)), "ciphertext")
	if err != nil {
		return Wrap{}, err
	}
	return Wrap{Kind: kindVault, ID: v.text, Blob: []byte(out)}, nil
}

// Unwrap implements Provider.
func (v *vaultKey) Unwrap(ctx context.Context, domain uint32, w Wrap) (seal.Key, error) {
	if w.ID != v.text {
		return seal.Key{}, locked(ErrWrongKey, "the keyring is wrapped for %.200s, not for %v: name that key", w, v)
	}
	out, err := v.call(ctx, "decrypt", domain, "ciphertext", string(w.Blob), "plaintext")
	if err != nil {
		return seal.Key{}, err
	}
	b, err := base64.StdEncoding.DecodeString(out)
	if err != nil || len(b) != seal.KeySize {
		return seal.Key{}, locked(ErrWrongKey, "%v opens something that is no key", v)
	}
	return seal.KeyOf(b)
}

// call asks Vault to encrypt or decrypt one field, and returns another.
func (v *vaultKey) call(ctx context.Context, verb string, domain uint32, field, value, want string) (string, error) {
	ask, err := json.Marshal(map[string]string{
		field: value, "associated_data": base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "glide:domain=%08x", domain)),
	})
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, v.base+"/v1/"+v.path+"/"+verb+"/"+v.key, bytes.NewReader(ask))
	if err != nil {
		return "", err
	}
	token, err := vaultToken()
	if err != nil {
		return "", err
	}
	request.Header.Set("X-Vault-Token", token)
	request.Header.Set("X-Vault-Request", "true")
	if ns := os.Getenv("VAULT_NAMESPACE"); ns != "" {
		request.Header.Set("X-Vault-Namespace", ns)
	}
	client, err := vaultClient()
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return "", locked(ErrAway, "%v does not answer: check that it runs and can be reached: %w", v, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxSize))
	if err != nil {
		return "", locked(ErrAway, "the answer of %v broke off: %w", v, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", v.refused(response.StatusCode, body)
	}
	var answer struct {
		Data map[string]any `json:"data"`
	}
	out := ""
	if err := json.Unmarshal(body, &answer); err == nil {
		out, _ = answer.Data[want].(string)
	}
	if out == "" {
		return "", locked(ErrAway, "what answers as %v is no transit engine: check the URL", v)
	}
	return out, nil
}

// refused says what an answer means. Vault's errors are texts without codes.
func (v *vaultKey) refused(status int, body []byte) error {
	var answer struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(body, &answer) // what is no JSON says no more than its status
	why := oneLine(strings.Join(answer.Errors, "; "))
	switch {
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return locked(ErrDenied, "%v refuses this host's token: give it a policy with encrypt and decrypt, or a new token (%s)", v, why)
	case status == http.StatusNotFound, strings.Contains(why, "key not found"), strings.Contains(why, "no existing key"), strings.Contains(why, "disallowed by policy"):
		return locked(ErrDenied, "%v does not have the key, or not this version of it any more (%s)", v, why)
	case status == http.StatusBadRequest:
		return locked(ErrWrongKey, "%v does not open the keyring: it was wrapped with another key, or for another domain, or its wrap was changed (%s)", v, why)
	}
	return locked(ErrAway, "%v answers %d: it may be sealed, or fail; look at its log (%s)", v, status, why)
}

func vaultToken() (string, error) {
	if t := os.Getenv("VAULT_TOKEN"); t != "" {
		return t, nil
	}
	if path := os.Getenv("VAULT_TOKEN_FILE"); path != "" {
		b, err := readSecret(path, true)
		return string(bytes.TrimSpace(b)), err
	}
	return "", locked(ErrAway, "this host has no token for Vault: set VAULT_TOKEN or VAULT_TOKEN_FILE")
}

// vaultClient makes one call. It follows no redirects: they would get the token.
func vaultClient() (*http.Client, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if path := os.Getenv("VAULT_CACERT"); path != "" {
		pem, err := os.ReadFile(path)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			return nil, locked(ErrAway, "VAULT_CACERT names no file of certificates: correct it")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}
