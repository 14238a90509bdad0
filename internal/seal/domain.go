package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/errs"
)

// ErrNoRoot: bytes are sealed with a root that the keyring does not have. A newer keyring
// may have it. The kind is errs.Unavailable: the bytes may be in order.
var ErrNoRoot = errors.New("the keyring lacks a root")

// ErrLocked: bytes are sealed, and whoever reads them was given no keys. The kind is
// errs.Unavailable: they may be in order. Package keys says why a domain is locked.
var ErrLocked = errors.New("locked: sealed, and the keys are not here")

// Purpose is what is sealed. Each has a key of its own under every root.
type Purpose uint8

// The purposes. Block and Data are guests' content; the rest is structure.
const (
	Block Purpose = iota // slots of packs that hold blocks
	Data                 // the bytes of data commits
	Page                 // slots of packs that hold map pages
	Index                // indexes of packs
	State                // the state in commits
	purposes
)

var labels = [purposes]string{Block: "block", Data: "data", Page: "page", Index: "index", State: "state"}

// Secrets is what a Domain is made of: what an opened keyring has.
type Secrets struct {
	Domain  uint32         // not 0, which is plaintext
	Suite   Suite          // with which to seal; either is opened
	Roots   map[uint32]Key // by their numbers, from 1
	Retired []uint32       // numbers of roots that are gone on purpose, for the message
	Current uint32         // the root with which to seal
	Granted bool           // another's domain: it opens, and seals only what is local
	Conv    Key            // from which ids come
	OldConv []Key          // from which those came that are older
	Name    Key            // from which hidden names come; may be zero
}

// String is [secret].
func (Secrets) String() string { return hidden }

// Format prints [secret] for every verb.
func (Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalJSON is "[secret]".
func (Secrets) MarshalJSON() ([]byte, error) { return Key{}.MarshalJSON() }

// Domain seals and opens what is of one domain. It does not change. Sealing panics if the
// domain is only granted; Local still seals.
type Domain struct {
	id      uint32
	suite   Suite
	current uint32
	granted bool
	roots   map[uint32]*root
	retired map[uint32]bool
	dedup   Key
	older   []Key
	name    Key
}

type root struct {
	secret Key
	labels [purposes]*labelKey
}

// New derives the keys of a domain. Secrets that cannot be used are errs.Invalid, a suite
// that cannot errs.Unsupported.
func New(s Secrets) (*Domain, error) {
	if err := s.Suite.Check(); err != nil {
		return nil, err
	}
	switch _, ok := s.Roots[s.Current]; {
	case s.Domain == 0:
		return nil, errs.New(errs.Invalid, "domain 0 is plaintext and has no keys")
	case s.Conv.IsZero():
		return nil, errs.New(errs.Invalid, "domain %08x has no secret for ids", s.Domain)
	case !ok:
		return nil, errs.New(errs.Invalid, "domain %08x does not have root %d, with which it is to seal", s.Domain, s.Current)
	}
	d := &Domain{id: s.Domain, suite: s.Suite, current: s.Current, granted: s.Granted, roots: map[uint32]*root{}, retired: map[uint32]bool{}}
	for n, secret := range s.Roots {
		if n == 0 || secret.IsZero() {
			return nil, errs.New(errs.Invalid, "domain %08x has an empty root %d", s.Domain, n)
		}
		r := &root{secret: secret}
		for p, label := range labels {
			r.labels[p] = newLabelKey(secret.Derive(label, s.Domain))
		}
		d.roots[n] = r
	}
	for _, n := range s.Retired {
		d.retired[n] = true
	}
	d.dedup = s.Conv.Derive("hash", s.Domain)
	for _, conv := range s.OldConv {
		d.older = append(d.older, conv.Derive("hash", s.Domain))
	}
	if !s.Name.IsZero() {
		d.name = s.Name.Derive("name", s.Domain)
	}
	return d, nil
}

// ID is the domain's number.
func (d *Domain) ID() uint32 { return d.id }

// Current is the number of the root with which the domain seals. It is written beside
// what is sealed.
func (d *Domain) Current() uint32 { return d.current }

// Suite is how the domain seals. It is written beside what is sealed.
func (d *Domain) Suite() Suite { return d.suite }

// Overhead is how many bytes longer sealed slots and indexes are.
func (d *Domain) Overhead() int { return d.suite.Overhead() }

// DedupSecret is the key of BLAKE3 for the ids of blocks and pages. Who has it can tell
// from an id whether a block is one that he knows.
func (d *Domain) DedupSecret() Key { return d.dedup }

// OldDedupSecrets are those by which ids were made before.
func (d *Domain) OldDedupSecrets() []Key { return d.older }

// String names the domain, without secrets.
func (d *Domain) String() string { return fmt.Sprintf("domain %08x %s", d.id, hidden) }

// Format prints String for every verb.
func (d *Domain) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, d.String()) }

// MarshalJSON is String.
func (d *Domain) MarshalJSON() ([]byte, error) { return []byte(`"` + d.String() + `"`), nil }

// HideName is the name under which the store knows a volume whose name is hidden: the
// first 16 bytes of the name's HMAC, in base32 of lower-case letters and digits. Names
// are hidden for good, so the domain must have had its name secret from the beginning; one
// that has none panics.
func (d *Domain) HideName(name string) string {
	sum := d.name.MAC([]byte(name))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// PackContent is what stands for its blocks in the name of a pack, under a root: the first 12
// bytes of HMAC(index key, nonce ‖ ids). ids are the concatenated ids of the data slots.
func (d *Domain) PackContent(root uint32, nonce [12]byte, ids []byte) (content [12]byte, err error) {
	l, err := d.label(root, Index)
	if err != nil {
		return content, err
	}
	s := l.state()
	defer l.put(s)
	s.buf = append(append(s.buf[:0], nonce[:]...), ids...)
	return [12]byte(s.objectKey(s.buf)[:12]), nil
}

// SealSlot appends the sealed payload of a slot: a Block or Page with this id, whose
// header begins with these bytes, of which the first 20 are additional data. The header
// says the suite, the root and the length already.
func (d *Domain) SealSlot(dst []byte, p Purpose, id [32]byte, header, plain []byte) []byte {
	l := d.sealing(p)
	s := l.state()
	defer l.put(s)
	s.buf = append(s.buf[:0], id[:]...)
	key := s.objectKey(s.buf)
	s.buf = slotAAD(s.buf[:0], d.id, header)
	return d.suite.seal(dst, key, s.buf, plain)
}

// OpenSlot is the inverse of SealSlot; root and suite are those of the header. Errors are
// ErrTag, ErrNoRoot, and of kind errs.Unsupported.
func (d *Domain) OpenSlot(dst []byte, p Purpose, root uint32, suite Suite, id [32]byte, header, sealed []byte) ([]byte, error) {
	l, err := d.label(root, p)
	if err != nil {
		return nil, err
	}
	s := l.state()
	defer l.put(s)
	s.buf = append(s.buf[:0], id[:]...)
	key := s.objectKey(s.buf)
	s.buf = slotAAD(s.buf[:0], d.id, header)
	return suite.open(dst, key, s.buf, sealed)
}

func slotAAD(b []byte, domain uint32, header []byte) []byte {
	b = le.AppendUint32(append(b, "slot"...), domain)
	return append(b, header[:20]...)
}

// SealIndex appends the sealed index of the pack with this content and nonce; the first 40
// bytes of its trailer are additional data.
func (d *Domain) SealIndex(dst []byte, content, nonce [12]byte, trailer, plain []byte) []byte {
	l := d.sealing(Index)
	s := l.state()
	defer l.put(s)
	s.buf = append(append(s.buf[:0], content[:]...), nonce[:]...)
	return d.suite.seal(dst, s.objectKey(s.buf), trailer[:40], plain)
}

// OpenIndex is the inverse of SealIndex. Errors are those of OpenSlot.
func (d *Domain) OpenIndex(dst []byte, root uint32, suite Suite, content, nonce [12]byte, trailer, sealed []byte) ([]byte, error) {
	l, err := d.label(root, Index)
	if err != nil {
		return nil, err
	}
	s := l.state()
	defer l.put(s)
	s.buf = append(append(s.buf[:0], content[:]...), nonce[:]...)
	return suite.open(dst, s.objectKey(s.buf), trailer[:40], sealed)
}

const (
	saltSize = 16
	// sectionHead is the length of what stands before a sealed section: the number of the
	// root u32, the suite u8, three zero bytes, and the salt.
	sectionHead = 8 + saltSize
	// headerBound is how many bytes of a commit's header are additional data.
	headerBound = 52
)

// SectionOverhead is how many bytes longer a sealed section of a commit is.
func (d *Domain) SectionOverhead() int { return sectionHead + d.suite.Overhead() }

// SealSection appends a sealed section, State or Data, of the commit with this object
// key. The first 52 bytes of its header are additional data; they have the lengths.
func (d *Domain) SealSection(dst []byte, p Purpose, objectKey string, header, plain []byte) []byte {
	l := d.sealing(p)
	s := l.state()
	defer l.put(s)
	dst = slices.Grow(dst, len(plain)+d.SectionOverhead())
	dst = append(le.AppendUint32(dst, d.current), byte(d.suite), 0, 0, 0)
	s.buf = append(s.buf[:0], make([]byte, saltSize)...)
	_, _ = rand.Read(s.buf)
	dst = append(dst, s.buf...)
	key := s.objectKey(s.buf)
	s.buf = sectionAAD(s.buf[:0], p, objectKey, header)
	return d.suite.seal(dst, key, s.buf, plain)
}

// OpenSection is the inverse of SealSection. Errors are those of OpenSlot.
func (d *Domain) OpenSection(dst []byte, p Purpose, objectKey string, header, sealed []byte) ([]byte, error) {
	if len(sealed) < sectionHead || !bytes.Equal(sealed[5:8], []byte{0, 0, 0}) {
		return nil, errs.New(errs.Corrupt, "not a sealed section of a commit (%d bytes)", len(sealed))
	}
	l, err := d.label(le.Uint32(sealed), p)
	if err != nil {
		return nil, err
	}
	s := l.state()
	defer l.put(s)
	s.buf = append(s.buf[:0], sealed[8:sectionHead]...)
	key := s.objectKey(s.buf)
	s.buf = sectionAAD(s.buf[:0], p, objectKey, header)
	return Suite(sealed[4]).open(dst, key, s.buf, sealed[sectionHead:])
}

func sectionAAD(b []byte, p Purpose, objectKey string, header []byte) []byte {
	return append(append(append(b, labels[p]...), objectKey...), header[:headerBound]...)
}

// label returns the key for a purpose under a root, or an ErrNoRoot error.
func (d *Domain) label(n uint32, p Purpose) (*labelKey, error) {
	r, err := d.root(n)
	if err != nil {
		return nil, err
	}
	return r.labels[p], nil
}

func (d *Domain) root(n uint32) (*root, error) {
	r := d.roots[n]
	switch {
	case r != nil:
		return r, nil
	case d.retired[n]:
		return nil, errs.New(errs.Unavailable, "sealed with root %d of domain %08x, which was retired: its key is gone for good (%w)", n, d.id, ErrNoRoot)
	}
	return nil, errs.New(errs.Unavailable, "sealed with root %d of domain %08x, which this keyring does not have; a newer keyring may (%w)", n, d.id, ErrNoRoot)
}

// sealing returns the key for a purpose with which to seal. Of a granted domain it
// panics.
func (d *Domain) sealing(p Purpose) *labelKey {
	if d.granted {
		panic(fmt.Sprintf("seal: domain %08x is another's", d.id)) // what is new goes home
	}
	return d.roots[d.current].labels[p]
}

// labelKey makes object keys. HMAC states are kept: a new one takes 500 bytes.
type labelKey struct{ states sync.Pool }

// keyState is what one call needs. buf holds salts and additional data, which would
// otherwise be moved to the heap one by one.
type keyState struct {
	mac hash.Hash
	key [sha256.Size]byte
	buf []byte
}

func newLabelKey(k Key) *labelKey {
	l := &labelKey{}
	l.states.New = func() any { return &keyState{mac: hmac.New(sha256.New, k.reveal()[:])} }
	return l
}

func (l *labelKey) state() *keyState { return l.states.Get().(*keyState) }

// put keeps the state, without the last object key.
func (l *labelKey) put(s *keyState) {
	clear(s.key[:])
	l.states.Put(s)
}

// objectKey is HMAC(label key, salt). It is the state's, until the next call.
func (s *keyState) objectKey(salt []byte) *[KeySize]byte {
	s.mac.Reset()
	_, _ = s.mac.Write(salt)
	s.mac.Sum(s.key[:0])
	return &s.key
}
