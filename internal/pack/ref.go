package pack

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
)

// Hash identifies the raw bytes of a block or map page. It is BLAKE3, keyed with the
// tenant's deduplication key, so that a tenant cannot probe for the content of another.
type Hash [32]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Hasher computes hashes in one deduplication domain. It may be used concurrently.
type Hasher struct{ states sync.Pool }

// NewHasher returns the hasher of the domain with this name (a tenant).
func NewHasher(domain string) *Hasher {
	var key [32]byte
	blake3.DeriveKey("glide 2026 block hash", []byte(domain), key[:])
	h := &Hasher{}
	h.states.New = func() any {
		s, err := blake3.NewKeyed(key[:])
		if err != nil {
			panic(err) // only a key of the wrong length causes an error
		}
		return s
	}
	return h
}

// Sum hashes raw. It does not allocate: keyed states of 2 KiB each are reused.
func (h *Hasher) Sum(raw []byte) (sum Hash) {
	s := h.states.Get().(*blake3.Hasher)
	s.Reset()
	_, _ = s.Write(raw)
	s.Sum(sum[:0])
	h.states.Put(s)
	return sum
}

// ID names a pack. Content comes from the hashes of its data blocks (see Builder). Nonce
// is the upload session's eight random bytes and a counter, so that no key is ever used
// twice, whatever the content.
type ID struct {
	Content [12]byte
	Nonce   [12]byte
}

// Key returns the object key of the pack: packs/<2 hex>/<hash>-<nonce>.
func (id ID) Key() string {
	return fmt.Sprintf("packs/%02x/%x-%x", id.Content[0], id.Content, id.Nonce)
}

// parseKey is the inverse of ID.Key. A key that Key cannot have returned is an
// errs.Invalid error.
func parseKey(key string) (ID, error) {
	var id ID
	bad := func() (ID, error) { return ID{}, errs.New(errs.Invalid, "%q is not the key of a pack", key) }
	rest, ok := strings.CutPrefix(key, "packs/")
	if !ok || len(rest) != 2+1+2*len(id.Content)+1+2*len(id.Nonce) {
		return bad()
	}
	content, nonce, ok := strings.Cut(rest[3:], "-")
	if !ok || len(content) != 2*len(id.Content) {
		return bad()
	}
	_, err1 := hex.Decode(id.Content[:], []byte(content))
	_, err2 := hex.Decode(id.Nonce[:], []byte(nonce))
	if err1 != nil || err2 != nil || id.Key() != key { // also refuses capitals and a wrong directory
		return bad()
	}
	return id, nil
}

// IsZero reports whether the ID names no pack.
func (id ID) IsZero() bool { return id == ID{} }

// Ref identifies the bytes of a block or map page and their place in the store. Len bytes
// at Off of the pack are the encoded slot, so that one ranged GET reads it. The zero Ref
// is a hole, which reads as zeros.
type Ref struct {
	Hash Hash
	Pack ID
	Off  uint32
	Len  uint32
}

// IsHole reports whether the Ref refers to nothing.
func (r Ref) IsHole() bool { return r.Len == 0 }

// RefLen is the length of an encoded Ref.
const RefLen = 64

// Append appends the encoded Ref: hash, content and nonce of the pack's ID, offset and
// length in little-endian order.
func (r *Ref) Append(b []byte) []byte {
	b = append(append(append(b, r.Hash[:]...), r.Pack.Content[:]...), r.Pack.Nonce[:]...)
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, r.Off), r.Len)
}

// ReadRef decodes the Ref in the first RefLen bytes.
func ReadRef(b []byte) *Ref {
	return &Ref{
		Hash: Hash(b[:32]), Pack: ID{Content: [12]byte(b[32:44]), Nonce: [12]byte(b[44:56])},
		Off: binary.LittleEndian.Uint32(b[56:]), Len: binary.LittleEndian.Uint32(b[60:RefLen]),
	}
}
