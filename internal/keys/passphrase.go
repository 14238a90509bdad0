package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/argon2"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// Argon2 is how a passphrase becomes a key, by Argon2id.
type Argon2 struct {
	Salt      []byte `json:"salt"`
	MemoryKiB uint32 `json:"memory_kib"`
	Passes    uint32 `json:"passes"`
	Threads   uint8  `json:"threads"`
}

// What a keyring may ask for before anything of it is confirmed: 10 s of one core or so.
const (
	maxMemoryKiB = 1 << 20
	maxPasses    = 16
	maxThreads   = 16
	argonSalt    = 16
)

// check finds what is wrong with the parameters, as text; "" when nothing is.
func (a *Argon2) check() string {
	if len(a.Salt) != argonSalt || a.MemoryKiB < 8 || a.MemoryKiB > maxMemoryKiB || a.Passes < 1 || a.Passes > maxPasses || a.Threads < 1 || a.Threads > maxThreads {
		return fmt.Sprintf("it asks for %d KiB, %d passes and %d threads of Argon2id, at most %d, %d and %d are allowed, or its salt is not %d bytes",
			a.MemoryKiB, a.Passes, a.Threads, maxMemoryKiB, maxPasses, maxThreads, argonSalt)
	}
	return ""
}

// passphrase is something that a person remembers. There is one for a keyring, so that
// its wrap needs no name: none that is public could tell passphrases apart.
type passphrase struct{ source }

// String implements Provider.
func (p *passphrase) String() string { return kindPassphrase + ":" + p.from + "=" + p.name }

// Kind implements Provider.
func (*passphrase) Kind() string { return kindPassphrase }

func (p *passphrase) key(a *Argon2) (seal.Key, error) {
	b, err := p.read()
	if err != nil {
		return seal.Key{}, err
	}
	// A file ends in a line feed that nobody means.
	if b = bytes.TrimRight(b, "\r\n"); len(b) == 0 {
		return seal.Key{}, errs.New(errs.Invalid, "%v is empty", p)
	}
	return seal.KeyOf(argon2.IDKey(b, a.Salt, a.Passes, a.MemoryKiB, a.Threads, seal.KeySize))
}

// Wrap implements Provider.
func (p *passphrase) Wrap(_ context.Context, domain uint32, kek seal.Key) (Wrap, error) {
	a := &Argon2{Salt: make([]byte, argonSalt), MemoryKiB: 64 << 10, Passes: 3, Threads: 4}
	_, _ = rand.Read(a.Salt) // never fails
	key, err := p.key(a)
	if err != nil {
		return Wrap{}, err
	}
	return Wrap{Kind: kindPassphrase, Params: a, Blob: wrapWith(key, domain, kek)}, nil
}

// Unwrap implements Provider. It cannot be interrupted.
func (p *passphrase) Unwrap(_ context.Context, domain uint32, w Wrap) (seal.Key, error) {
	if w.Params == nil || w.Params.check() != "" {
		return seal.Key{}, corrupt("a passphrase without parameters")
	}
	key, err := p.key(w.Params)
	if err != nil {
		return seal.Key{}, err
	}
	kek, err := unwrapWith(key, domain, w)
	if err != nil {
		return seal.Key{}, locked(ErrWrongKey, "%v is not the passphrase of the keyring: correct it", p)
	}
	return kek, nil
}
