package keys

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 16 << 10

// source is where a secret is read, each time that it is needed: it may be replaced.
type source struct{ from, name string }

func (s source) String() string { return s.from + ":" + s.name }

// read returns the secret. That it is not there is ErrAway: a file system or the
// service's set-up may lack, and the key itself may be right.
func (s source) read() ([]byte, error) {
	switch s.from {
	case "env":
		if v, ok := os.LookupEnv(s.name); ok {
			return []byte(v), nil
		}
		return nil, locked(ErrAway, "there is no environment variable %s, which has the key: set it", s.name)
	case "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || s.name != filepath.Base(s.name) {
			return nil, locked(ErrAway, "systemd gave this service no credential %s: add LoadCredentialEncrypted=%s to its unit", s.name, s.name)
		}
		return readSecret(filepath.Join(dir, s.name), false) // the directory is the service's own
	}
	return readSecret(s.name, true)
}

// readSecret reads a file. If private is set, others must not be able to.
func readSecret(path string, private bool) ([]byte, error) {
	st, err := os.Stat(path) // opening a pipe would wait for its writer
	if err == nil && !st.Mode().IsRegular() {
		return nil, errs.New(errs.Invalid, "%s is not a regular file, and cannot have a secret", path)
	}
	if err != nil {
		return nil, locked(ErrAway, "the secret cannot be read: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, locked(ErrAway, "the secret cannot be read: %w", err)
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, locked(ErrAway, "the secret cannot be read: %w", err)
	}
	if private && st.Mode().Perm()&0o077 != 0 {
		return nil, errs.New(errs.Invalid, "%s has a secret, and others can read or change it (mode %#o): chmod 600 it", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, locked(ErrAway, "the secret cannot be read: %w", err)
	}
	if len(b) > maxSecret {
		return nil, errs.New(errs.Invalid, "%s has more than %d bytes, and cannot have a secret", path, maxSecret)
	}
	return b, nil
}

// rawKey is a key that somebody keeps.
type rawKey struct{ source }

// Kind implements Provider.
func (*rawKey) Kind() string { return kindKey }

func (k *rawKey) key() (seal.Key, error) {
	b, err := k.read()
	if err != nil {
		return seal.Key{}, err
	}
	if len(b) == seal.KeySize {
		return seal.KeyOf(b)
	}
	text := string(bytes.TrimSpace(b))
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString, base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if b, err := decode(text); err == nil && len(b) == seal.KeySize {
			return seal.KeyOf(b)
		}
	}
	return seal.Key{}, errs.New(errs.Invalid, "%v has no key: a key is %d bytes, or those in hexadecimal or base64", k, seal.KeySize)
}

// nameOf is the ID of a key: 8 bytes that say nothing of a random key.
func nameOf(key seal.Key) string {
	sum := key.MAC([]byte("glide/1/key id"))
	return hex.EncodeToString(sum[:8])
}

// other tells whether the wrap is certainly for another key.
func (k *rawKey) other(w Wrap) bool {
	key, err := k.key()
	return err == nil && nameOf(key) != w.ID
}

// Wrap implements Provider.
func (k *rawKey) Wrap(_ context.Context, domain uint32, kek seal.Key) (Wrap, error) {
	key, err := k.key()
	if err != nil {
		return Wrap{}, err
	}
	return Wrap{Kind: kindKey, ID: nameOf(key), Blob: wrapWith(key, domain, kek)}, nil
}

// Unwrap implements Provider.
func (k *rawKey) Unwrap(_ context.Context, domain uint32, w Wrap) (seal.Key, error) {
	key, err := k.key()
	if err != nil {
		return seal.Key{}, err
	}
	if id := nameOf(key); id != w.ID {
		return seal.Key{}, locked(ErrWrongKey, "%v has key %s, and the keyring is wrapped with key %.40s: find that one", k, id, w.ID)
	}
	kek, err := unwrapWith(key, domain, w)
	if err != nil {
		return seal.Key{}, locked(ErrWrongKey, "%v does not open the keyring, whose wrap was changed (%w)", k, err)
	}
	return kek, nil
}

// wrapWith seals the KEK with a key: suite 1, and the kind of wrap does not matter, since
// the keys of different kinds have nothing in common.
func wrapWith(key seal.Key, domain uint32, kek seal.Key) []byte {
	return key.Derive("wrap", domain).Seal(nil, seal.AES256GCM, nil, kek.Append(nil))
}

func unwrapWith(key seal.Key, domain uint32, w Wrap) (seal.Key, error) {
	b, err := key.Derive("wrap", domain).Open(nil, seal.AES256GCM, nil, w.Blob)
	if err != nil {
		return seal.Key{}, fmt.Errorf("%s: %w", w.Kind, err)
	}
	return seal.KeyOf(b)
}
