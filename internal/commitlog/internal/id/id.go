// Package id has what identifies a volume and an object of its log: bytes that are
// hexadecimal digits in text.
package id

import (
	"encoding/hex"

	"github.com/paraglide/glide/internal/errs"
)

// Volume identifies a volume for ever, whatever its name. It is random.
type Volume [16]byte

// String is the ID in hexadecimal.
func (id Volume) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String; it makes Volume a string in JSON.
func (id Volume) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (id *Volume) UnmarshalText(text []byte) error { return Unhex(id[:], text, "volume ID") }

// IsZero tells whether the ID identifies no volume.
func (id Volume) IsZero() bool { return id == Volume{} }

// Hash is the BLAKE3 hash of a whole log object. It is not keyed: anyone who can
// read a commit may know its hash.
type Hash [32]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is String; it makes Hash a string in JSON.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(text []byte) error { return Unhex(h[:], text, "hash") }

// Unhex fills dst from its hexadecimal digits. Text of any other form or length is
// errs.Corrupt; what says what it was to be.
func Unhex(dst, text []byte, what string) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return errs.New(errs.Corrupt, "%.80q is no %s", text, what)
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return errs.New(errs.Corrupt, "%.80q is no %s", text, what)
	}
	return nil
}

// Mark is unique to an object: a host uses it to recognize its own object even if
// another has the same key and content. Sixteen random bytes.
type Mark [16]byte

// String is the mark in hexadecimal.
func (m Mark) String() string { return hex.EncodeToString(m[:]) }
