package pack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
)

// Hash identifies the raw bytes of a block or map page. It is BLAKE3, keyed with the
// deduplication key of the domain, so that a tenant cannot probe for the content of
// another. In domain 0 that key comes from the tenant's name alone.
type Hash [32]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Hasher computes the hashes of one tenant's blocks in one domain. It has the keys that
// open the blocks, too, and leads to the hashers of other domains that the tenant may
// read. It may be used concurrently.
//
// What it is made of can be replaced while it is in use (see Become): a tenant gets a new
// root, or its keys arrive after the hasher. Ready returns one that does not change.
type Hasher struct {
	keys atomic.Pointer[hashing]
	open func(ctx context.Context, age time.Duration) error // nil: what there is, is ready
}

// hashing is what a Hasher is made of. It does not change.
type hashing struct {
	states  sync.Pool
	codec   Codec
	older   []*Hasher          // by whose keys ids of the domain were made before
	granted map[uint32]*Hasher // of other domains; nil: see In
}

// NewHasher returns the hasher of the tenant with this name, for plain packs.
func NewHasher(tenant string) *Hasher {
	var key [32]byte
	blake3.DeriveKey("glide 2026 block hash", []byte(tenant), key[:])
	return hasherWith(key[:], Codec{})
}

// NewSealedHasher returns the hasher of a sealed domain.
func NewSealedHasher(d *seal.Domain) *Hasher {
	h := hasherWith(d.DedupSecret().Append(nil), Codec{Domain: d})
	for _, old := range d.OldDedupSecrets() {
		k := h.keys.Load()
		k.older = append(k.older, hasherWith(old.Append(nil), k.codec))
	}
	return h
}

// NewLockedHasher returns a hasher without keys. Whatever needs them fails with the
// reason; its sums are those of nothing.
func NewLockedHasher(reason error) *Hasher {
	return hasherWith(seal.NewKey().Append(nil), Codec{Locked: reason})
}

func hasherWith(key []byte, c Codec) *Hasher {
	k := &hashing{codec: c}
	k.states.New = func() any {
		s, err := blake3.NewKeyed(key)
		if err != nil {
			panic(err) // only a key of the wrong length causes an error
		}
		return s
	}
	return k.hasher()
}

func (k *hashing) hasher() *Hasher {
	h := &Hasher{}
	h.keys.Store(k)
	return h
}

// Become makes h what other is now. What began with h before may end with either.
func (h *Hasher) Become(other *Hasher) { h.keys.Store(other.keys.Load()) }

// FreshFor is how long the keys of a tenant are taken for the newest by who writes, and AnyAge
// stands for keys that were looked for at any time.
const (
	FreshFor = time.Minute
	AnyAge   = time.Duration(math.MaxInt64)
)

// Opening makes Ready, Renewed and Newest call open, which may call Become: it looks for newer
// keys if nobody has within age. It is called once, before h is used.
func (h *Hasher) Opening(open func(ctx context.Context, age time.Duration) error) *Hasher {
	h.open = open
	return h
}

// Ready waits until the keys are here, and returns a hasher that does not change, or why
// there are none. It may ask the store, and others.
func (h *Hasher) Ready(ctx context.Context) (*Hasher, error) { return h.opened(ctx, AnyAge) }

// Renewed is Ready for who is about to write: it looks for newer keys, unless somebody has
// within FreshFor.
func (h *Hasher) Renewed(ctx context.Context) (*Hasher, error) { return h.opened(ctx, FreshFor) }

// Newest is Ready for who lacks a root: somebody has sealed with one that was made after the
// last look for newer keys, however short ago that was.
func (h *Hasher) Newest(ctx context.Context) (*Hasher, error) { return h.opened(ctx, 0) }

func (h *Hasher) opened(ctx context.Context, age time.Duration) (*Hasher, error) {
	if h.open != nil {
		if err := h.open(ctx, age); err != nil {
			return nil, err
		}
	}
	k := h.keys.Load()
	return k.hasher(), k.codec.Locked
}

// Is tells whether h is still of the domain of other, as far as what is new is concerned.
func (h *Hasher) Is(other *Hasher) bool { return h.domain() == other.domain() }

// Codec reads and writes packs with the hasher's keys.
func (h *Hasher) Codec() Codec { return h.keys.Load().codec }

// domain is the hasher's own.
func (h *Hasher) domain() uint32 { return h.Codec().ID() }

// Granting returns a hasher like h whose tenant may read what is of the other hashers'
// domains, too.
func (h *Hasher) Granting(others ...*Hasher) *Hasher {
	from := h.keys.Load()
	k := &hashing{codec: from.codec, older: from.older, granted: map[uint32]*Hasher{}}
	maps.Copy(k.granted, from.granted)
	k.states.New = from.states.New
	for _, o := range others {
		k.granted[o.domain()] = o
	}
	return k.hasher()
}

// In returns the hasher for what is of a domain, whose hashes differ. A domain that is
// not granted is errs.Corrupt: a map that names one was forged. The hasher of plain packs
// serves for all domains unless Granting made it: what is sealed it does not open. Of a
// hasher without keys the error is why it has none.
func (h *Hasher) In(domain uint32) (*Hasher, error) {
	k := h.keys.Load()
	switch {
	case k.codec.Locked != nil:
		return nil, k.codec.Locked
	case domain == k.codec.ID() || k.granted == nil && k.codec.Domain == nil:
		return h, nil
	}
	if o := k.granted[domain]; o != nil {
		return o, nil
	}
	return nil, errs.New(errs.Corrupt, "domain %08x is none of those that the tenant may read", domain)
}

// Sum hashes raw. It does not allocate: keyed states of 2 KiB each are reused.
func (h *Hasher) Sum(raw []byte) (sum Hash) {
	k := h.keys.Load()
	s := k.states.Get().(*blake3.Hasher)
	s.Reset()
	_, _ = s.Write(raw)
	s.Sum(sum[:0])
	k.states.Put(s)
	return sum
}

// Matches tells whether a hash is that of raw in the hasher's domain, under its key or one
// that it had before.
func (h *Hasher) Matches(hash Hash, raw []byte) bool {
	return h.Sum(raw) == hash || slices.ContainsFunc(h.keys.Load().older, func(o *Hasher) bool { return o.Sum(raw) == hash })
}

// Names tells whether a hash is that of raw in a domain that the tenant may read.
func (h *Hasher) Names(hash *Hash, raw []byte) bool {
	if h.Matches(*hash, raw) {
		return true
	}
	for _, o := range h.keys.Load().granted {
		if o.Matches(*hash, raw) {
			return true
		}
	}
	return false
}

// ID names a pack. Domain says whose keys it is under and with what it is deduplicated; 0
// is plain text. Content comes from the hashes of its data blocks (see Builder). Nonce is
// the upload session's eight random bytes and a counter, so that no key is ever used
// twice, whatever the domain and the content.
type ID struct {
	Domain  uint32
	Content [12]byte
	Nonce   [12]byte
}

// DomainPrefix begins the keys of the packs of every domain except 0.
const DomainPrefix = "d/"

// Key returns the object key of the pack: packs/<2 hex>/<content>-<nonce> in domain 0,
// else d/<domain>/packs/<2 hex>/<content>-<nonce>.
func (id ID) Key() string {
	key := fmt.Sprintf("packs/%02x/%x-%x", id.Content[0], id.Content, id.Nonce)
	if id.Domain != 0 {
		return fmt.Sprintf("%s%08x/%s", DomainPrefix, id.Domain, key)
	}
	return key
}

// ParseKey is the inverse of ID.Key. A key that Key cannot have returned is an
// errs.Invalid error.
func ParseKey(key string) (ID, error) {
	name := key[strings.LastIndexByte(key, '/')+1:]
	if rest, ok := strings.CutPrefix(key, DomainPrefix); ok {
		domain, _, _ := strings.Cut(rest, "/")
		name = domain + "." + name
	}
	id, ok := ParseID(name)
	if !ok || id.Key() != key { // also refuses a wrong directory
		return ID{}, errs.New(errs.Invalid, "%q is not the key of a pack", key)
	}
	return id, nil
}

// String returns the name of the pack in text: <content>-<nonce> in domain 0, else
// <domain>.<content>-<nonce>, in lower-case hexadecimal.
func (id ID) String() string {
	if id.Domain != 0 {
		return fmt.Sprintf("%08x.%x-%x", id.Domain, id.Content, id.Nonce)
	}
	return fmt.Sprintf("%x-%x", id.Content, id.Nonce)
}

// ParseID is the inverse of ID.String. ok is false for a name that String cannot have
// returned.
func ParseID(name string) (id ID, ok bool) {
	rest := name
	if domain, after, found := strings.Cut(name, "."); found {
		n, err := strconv.ParseUint(domain, 16, 32)
		if err != nil {
			return ID{}, false
		}
		id.Domain, rest = uint32(n), after
	}
	content, nonce, _ := strings.Cut(rest, "-")
	if len(content) != hex.EncodedLen(len(id.Content)) || len(nonce) != hex.EncodedLen(len(id.Nonce)) {
		return ID{}, false
	}
	_, err1 := hex.Decode(id.Content[:], []byte(content))
	_, err2 := hex.Decode(id.Nonce[:], []byte(nonce))
	// A pack has one name: no capitals, all digits of a domain, and none of domain 0.
	if err1 != nil || err2 != nil || id.String() != name {
		return ID{}, false
	}
	return id, true
}

// Compare orders IDs by domain, then content, then nonce.
func (id ID) Compare(other ID) int {
	return cmp.Or(cmp.Compare(id.Domain, other.Domain), bytes.Compare(id.Content[:], other.Content[:]), bytes.Compare(id.Nonce[:], other.Nonce[:]))
}

// IsZero reports whether the ID names no pack. A domain alone names none.
func (id ID) IsZero() bool { return id == ID{Domain: id.Domain} }

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

// RefLen and DomainRefLen are the lengths of an encoded Ref: of a pack in domain 0, and
// of one in any domain.
const (
	RefLen       = 64
	DomainRefLen = 4 + RefLen
)

// Append appends the encoded Ref in n bytes, RefLen or DomainRefLen: the domain of the
// pack's ID if n is DomainRefLen, hash, content and nonce of that ID, offset and length.
// Integers are little-endian.
func (r *Ref) Append(b []byte, n int) []byte {
	switch {
	case n == DomainRefLen:
		b = le.AppendUint32(b, r.Pack.Domain)
	case r.Pack.Domain != 0:
		panic("pack: a reference that would lose its domain")
	}
	b = append(append(append(b, r.Hash[:]...), r.Pack.Content[:]...), r.Pack.Nonce[:]...)
	return le.AppendUint32(le.AppendUint32(b, r.Off), r.Len)
}

// ReadRef decodes the Ref of which b, of RefLen or DomainRefLen bytes, is the encoding.
func ReadRef(b []byte) *Ref {
	r := &Ref{}
	if len(b) == DomainRefLen {
		r.Pack.Domain, b = le.Uint32(b), b[4:]
	}
	r.Hash, r.Pack.Content, r.Pack.Nonce = Hash(b[:32]), [12]byte(b[32:44]), [12]byte(b[44:56])
	r.Off, r.Len = le.Uint32(b[56:]), le.Uint32(b[60:RefLen])
	return r
}
