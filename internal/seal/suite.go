package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/paraglide/glide/internal/errs"
)

// ErrTag: a tag does not confirm the bytes. Their checksum is looked at first, so this is
// not the damage of a disk: they were sealed with another key, or for another place, or
// somebody changed them. The kind is errs.Corrupt: another copy may help.
var ErrTag = errors.New("sealed with another key or for another place, or tampered with")

// Suite is how bytes are sealed.
type Suite uint8

// The suites.
const (
	AES256GCM         Suite = 1
	XChaCha20Poly1305 Suite = 2 // for processors without AES instructions; not in FIPS mode
)

const tagSize = 16

// MaxOverhead is the greatest Overhead of a suite.
const MaxOverhead = chacha20poly1305.NonceSizeX + tagSize

// String is the suite's name.
func (s Suite) String() string {
	switch s {
	case AES256GCM:
		return "AES-256-GCM"
	case XChaCha20Poly1305:
		return "XChaCha20-Poly1305"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// ParseSuite is the inverse of String, in any case of letters. Another name is errs.Invalid.
func ParseSuite(name string) (Suite, error) {
	for _, s := range []Suite{AES256GCM, XChaCha20Poly1305} {
		if strings.EqualFold(s.String(), name) {
			return s, nil
		}
	}
	return 0, errs.New(errs.Invalid, "the suite %.60q is not known: there are %v and %v", name, AES256GCM, XChaCha20Poly1305)
}

// Check returns an errs.Unsupported error for a suite that this release, or this process,
// cannot use.
func (s Suite) Check() error {
	_, err := s.aead(new([KeySize]byte))
	return err
}

// Overhead is how many bytes sealing adds: a nonce and a tag.
func (s Suite) Overhead() int {
	if s == XChaCha20Poly1305 {
		return chacha20poly1305.NonceSizeX + tagSize
	}
	return 12 + tagSize
}

// aead returns the cipher. That of suite 1 makes its nonces itself, which is the one
// form of GCM that FIPS mode allows.
func (s Suite) aead(key *[KeySize]byte) (cipher.AEAD, error) {
	switch s {
	case AES256GCM:
		block, err := aes.NewCipher(key[:])
		if err != nil {
			return nil, err
		}
		return cipher.NewGCMWithRandomNonce(block)
	case XChaCha20Poly1305:
		a, err := chacha20poly1305.NewX(key[:])
		if err != nil {
			return nil, errs.New(errs.Unsupported, "%v cannot be used in this process: %w", s, err)
		}
		return a, nil
	}
	return nil, errs.New(errs.Unsupported, "sealed with %v, which this release does not know; use a newer glide", s)
}

func (s Suite) seal(dst []byte, key *[KeySize]byte, aad, plain []byte) []byte {
	a, err := s.aead(key)
	if err != nil {
		panic(err) // Check found that it can be used
	}
	return sealWith(a, dst, aad, plain)
}

func (s Suite) open(dst []byte, key *[KeySize]byte, aad, sealed []byte) ([]byte, error) {
	a, err := s.aead(key)
	if err != nil {
		return nil, err
	}
	return openWith(a, dst, aad, sealed)
}

func sealWith(a cipher.AEAD, dst, aad, plain []byte) []byte {
	dst = slices.Grow(dst, len(plain)+a.NonceSize()+a.Overhead())
	nonce := dst[len(dst) : len(dst)+a.NonceSize()]
	_, _ = rand.Read(nonce) // never fails; of suite 1 there is nothing to fill
	return a.Seal(dst[:len(dst)+len(nonce)], nonce, plain, aad)
}

func openWith(a cipher.AEAD, dst, aad, sealed []byte) ([]byte, error) {
	n := a.NonceSize()
	if len(sealed) < n+a.Overhead() {
		return nil, errs.New(errs.Corrupt, "%d bytes are fewer than a nonce and a tag have", len(sealed))
	}
	out, err := a.Open(dst, sealed[:n], sealed[n:], aad)
	if err != nil {
		return nil, errs.New(errs.Corrupt, "%w", ErrTag)
	}
	return out, nil
}
