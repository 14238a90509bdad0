package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/paraglide/glide/internal/errs"
)

var le = binary.LittleEndian

// KeySize is the length of every key, in bytes.
const KeySize = 32

// hidden is what is printed in place of a secret.
const hidden = "[secret]"

// derivation begins the info of every derivation. Its number would change if what is
// derived, or how, ever did.
const derivation = "glide/1/"

// Key is 32 secret bytes, or none in the zero Key. It prints as [secret], however it is
// printed. The bytes are behind a function, because package fmt does not ask the methods
// of unexported fields and follows their pointers (%s does, for one); nothing looks into
// a function.
type Key struct{ reveal func() *[KeySize]byte }

func hide(b *[KeySize]byte) Key { return Key{func() *[KeySize]byte { return b }} }

// NewKey returns a random key.
func NewKey() Key {
	b := new([KeySize]byte)
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return hide(b)
}

// KeyOf returns the key that has these bytes, which it copies. Other than 32 bytes are
// errs.Invalid.
func KeyOf(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, errs.New(errs.Invalid, "a key has %d bytes, not %d", KeySize, len(b))
	}
	return hide((*[KeySize]byte)(bytes.Clone(b))), nil
}

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.reveal == nil }

// Append appends the bytes of the key: for what wraps keys, and for BLAKE3.
func (k Key) Append(dst []byte) []byte { return append(dst, k.reveal()[:]...) }

// Equal compares keys in constant time. The zero Key equals itself only.
func (k Key) Equal(other Key) bool {
	if k.IsZero() || other.IsZero() {
		return k.IsZero() && other.IsZero()
	}
	return subtle.ConstantTimeCompare(k.reveal()[:], other.reveal()[:]) == 1
}

// String is [secret].
func (Key) String() string { return hidden }

// Format prints [secret] for every verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalText is [secret].
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON is "[secret]": a key that has to be stored is stored by name, with Append.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// Derive returns the key for a label and domain: HKDF-SHA256-Expand with the info
// "glide/1/" ‖ label ‖ domain u32.
func (k Key) Derive(label string, domain uint32) Key {
	info := string(le.AppendUint32([]byte(derivation+label), domain))
	out, err := hkdf.Expand(sha256.New, k.reveal()[:], info, KeySize)
	if err != nil {
		panic(err) // only a length that HKDF does not have is an error
	}
	return hide((*[KeySize]byte)(out))
}

// MAC is the HMAC-SHA256 of data.
func (k Key) MAC(data []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, k.reveal()[:])
	_, _ = h.Write(data)
	return [sha256.Size]byte(h.Sum(nil))
}

// Seal appends nonce, ciphertext and tag of plain, sealed with the key itself, which may
// be used for 2³² messages. A suite that Check refuses panics. plain must not overlap dst.
func (k Key) Seal(dst []byte, suite Suite, aad, plain []byte) []byte {
	return suite.seal(dst, k.reveal(), aad, plain)
}

// Open appends what Seal sealed. Anything else is ErrTag, of kind errs.Corrupt; an
// unknown suite is errs.Unsupported. sealed must not overlap dst.
func (k Key) Open(dst []byte, suite Suite, aad, sealed []byte) ([]byte, error) {
	return suite.open(dst, k.reveal(), aad, sealed)
}
