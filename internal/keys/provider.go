package keys

import (
	"context"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// The kinds of wraps. Files, variables and credentials hold the same kind of key: one host
// may have it in a file and another as a credential.
const (
	kindKey        = "key"
	kindPassphrase = "passphrase"
	kindAge        = "age"
	kindKMS        = "kms"
	kindVault      = "vault"
)

// Provider wraps the KEKs of keyrings, and unwraps them. Its methods may be called
// concurrently, may do I/O, and end with the context as far as they can.
type Provider interface {
	// Kind is that of its wraps.
	Kind() string
	// Wrap encrypts the KEK of a keyring of the domain.
	Wrap(ctx context.Context, domain uint32, kek seal.Key) (Wrap, error)
	// Unwrap decrypts it. Errors are ErrAway, ErrDenied and ErrWrongKey.
	Unwrap(ctx context.Context, domain uint32, w Wrap) (seal.Key, error)
	// String is what Parse was given. It has no secrets.
	String() string
}

// ParseAll is Parse for several.
func ParseAll(texts []string) (list []Provider, err error) {
	for _, text := range texts {
		p, err := Parse(text)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// Parse returns the provider that a text names:
//
//	file:PATH                a key in a file that only its owner can read
//	env:NAME                 a key in an environment variable
//	credential:NAME          a key in a credential of systemd
//	passphrase:file=PATH     a passphrase in a file; also env=NAME, credential=NAME
//	age:RECIPIENT            a recipient of age, who can open the keyring elsewhere
//	age:identity=PATH        identities of age in a file, which open it here
//	kms:ARN                  a key of AWS KMS, with the environment's credentials
//	vault:URL                a key of Vault's transit engine: https://HOST:PORT/MOUNT/KEY
//
// A key is 32 bytes, or those in hexadecimal or base64. A text that names no provider is
// errs.Invalid; the error does not repeat it, as it may be the secret itself.
func Parse(text string) (Provider, error) {
	kind, rest, _ := strings.Cut(text, ":")
	if rest == "" {
		return nil, errs.New(errs.Invalid, "a key provider is one of file:PATH, env:NAME, credential:NAME, passphrase:file=PATH, age:RECIPIENT, kms:ARN, vault:URL")
	}
	switch kind {
	case "file", "env", "credential":
		return &rawKey{source{kind, rest}}, nil
	case kindPassphrase:
		from, name, ok := strings.Cut(rest, "=")
		if !ok || name == "" || from != "file" && from != "env" && from != "credential" {
			return nil, errs.New(errs.Invalid, "a passphrase is not given itself: say passphrase:file=PATH, passphrase:env=NAME or passphrase:credential=NAME")
		}
		return &passphrase{source{from, name}}, nil
	case kindAge:
		return parseAge(rest)
	case kindKMS:
		return parseKMS(rest)
	case kindVault:
		return parseVault(rest)
	}
	return nil, errs.New(errs.Invalid, "that is no kind of key provider: use file, env, credential, passphrase, age, kms or vault")
}
