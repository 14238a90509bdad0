package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/paraglide/glide/internal/errs"
)

// Local seals what one host keeps on its own SSD, of granted domains as well. Another
// host's keys differ: what is sealed here does not open there.
type Local struct {
	d      *Domain
	host   string
	labels map[uint32]*labelKey // by the number of the root
}

// Local returns the keys of a host, which has this ID.
func (d *Domain) Local(host string) *Local {
	l := &Local{d, host, map[uint32]*labelKey{}}
	for n, r := range d.roots {
		l.labels[n] = newLabelKey(r.secret.Derive("local"+host, d.id))
	}
	return l
}

// String names the domain and the host, without secrets.
func (l *Local) String() string { return fmt.Sprintf("%v of host %s", l.d, l.host) }

// Format prints String for every verb.
func (l *Local) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.String()) }

// label returns the local key under a root, or an ErrNoRoot error.
func (l *Local) label(n uint32) (*labelKey, error) {
	if _, err := l.d.root(n); err != nil {
		return nil, err
	}
	return l.labels[n], nil
}

// Mark says with which keys something local is sealed. Whoever stores what is sealed stores
// the mark in clear beside it, MarkSize bytes: domain u32, number of the root u32, suite u8,
// three zero bytes. The zero Mark is that of plaintext.
type Mark struct {
	Domain, Root uint32
	Suite        Suite
}

// MarkSize is the length of a stored Mark, in bytes.
const MarkSize = 12

// Append appends the bytes of the mark.
func (m Mark) Append(b []byte) []byte {
	b = le.AppendUint32(le.AppendUint32(b, m.Domain), m.Root)
	return append(b, byte(m.Suite), 0, 0, 0)
}

// ReadMark is the mark at the start of b, which has at least MarkSize bytes. ok is false if
// nothing is stored so.
func ReadMark(b []byte) (m Mark, ok bool) {
	m = Mark{le.Uint32(b), le.Uint32(b[4:]), Suite(b[8])}
	return m, m.Domain != 0 && m.Root != 0 && m.Suite != 0 && b[9]|b[10]|b[11] == 0
}

// Mark is the mark of what is sealed from now on; of no keys, the zero Mark.
func (l *Local) Mark() Mark {
	if l == nil {
		return Mark{}
	}
	return Mark{l.d.id, l.d.current, l.d.suite}
}

// Check returns nil if what has this mark opens with these keys: else ErrLocked without
// keys, and with those of another domain, ErrNoRoot, or an errs.Unsupported error.
func (l *Local) Check(m Mark) error {
	switch {
	case l == nil:
		return errs.New(errs.Unavailable, "it is sealed with the host's own key: start with the --local-key that it had (%w)", ErrLocked)
	case m.Domain != l.d.id:
		return errs.New(errs.Unavailable, "it is sealed with keys of domain %08x, and those of this data directory are of domain %08x: "+
			"restore its keyring, keys/%08x/, from a backup (%w)", m.Domain, l.d.id, m.Domain, ErrLocked)
	}
	if _, err := l.d.root(m.Root); err != nil {
		return err
	}
	return m.Suite.Check()
}

// HideName is HideName of the domain, for names in the keys of the host's metadata.
func (l *Local) HideName(name string) string { return l.d.HideName(name) }

// What is local is of one of these kinds, which begin its salts. None begins another.
const (
	slab    = "slab"
	meta    = "meta"
	segment = "wal"
)

// place appends the salt for something local, and then its additional data, which begins
// with the same bytes.
func (l *Local) place(b []byte, kind string, id []byte) (all []byte, salt int) {
	b = append(append(b, kind...), id...)
	salt = len(b)
	return append(le.AppendUint32(b, l.d.id), l.host...), salt
}

func (l *Local) seal(dst []byte, kind string, id, plain []byte) []byte {
	key := l.labels[l.d.current]
	s := key.state()
	defer key.put(s)
	var salt int
	s.buf, salt = l.place(s.buf[:0], kind, id)
	return l.d.suite.seal(dst, s.objectKey(s.buf[:salt]), s.buf, plain)
}

func (l *Local) open(dst []byte, root uint32, suite Suite, kind string, id, sealed []byte) ([]byte, error) {
	key, err := l.label(root)
	if err != nil {
		return nil, err
	}
	s := key.state()
	defer key.put(s)
	var salt int
	s.buf, salt = l.place(s.buf[:0], kind, id)
	return suite.open(dst, s.objectKey(s.buf[:salt]), s.buf, sealed)
}

// SlabSalt makes the key of one slab of the SSD tier: random, and stored in clear in it.
type SlabSalt [16]byte

// NewSlabSalt returns a random one.
func NewSlabSalt() (s SlabSalt) {
	_, _ = rand.Read(s[:])
	return s
}

// Slab seals and opens the pages of the blocks in one slab of the SSD tier, each by itself: a
// guest reads a page of a long block. A key of the slab's own costs a read no derivation, and
// keeps the number of pages sealed with it far below 2³². It may be used concurrently.
type Slab struct {
	aead cipher.AEAD
	end  []byte // of additional data, before the number of the page
}

// Slab returns the keys of a slab, under what its mark says. Errors are those of Check.
func (l *Local) Slab(m Mark, salt SlabSalt) (*Slab, error) {
	if err := l.Check(m); err != nil {
		return nil, err
	}
	key := l.labels[m.Root]
	s := key.state()
	defer key.put(s)
	s.buf = append(append(s.buf[:0], slab...), salt[:]...)
	a, err := m.Suite.aead(s.objectKey(s.buf))
	if err != nil {
		return nil, err
	}
	return &Slab{a, append(le.AppendUint32(nil, l.d.id), l.host...)}, nil
}

// String is [secret].
func (*Slab) String() string { return hidden }

// Format prints [secret] for every verb.
func (*Slab) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// bounds has memory for additional data.
var bounds = sync.Pool{New: func() any { return new([]byte) }}

// bound returns the additional data of page n of a block.
func (s *Slab) bound(b []byte, id *[32]byte, n uint32) []byte {
	b = append(append(append(b, slab...), id[:]...), s.end...)
	return le.AppendUint32(b, n)
}

// Seal appends page number n of a block, sealed.
func (s *Slab) Seal(dst []byte, id *[32]byte, n uint32, plain []byte) []byte {
	b := bounds.Get().(*[]byte)
	defer bounds.Put(b)
	*b = s.bound((*b)[:0], id, n)
	return sealWith(s.aead, dst, *b, plain)
}

// Open appends page number n of a block, of which these are the sealed bytes. That it opens
// proves the page, as the block's hash would: only verified blocks were sealed, by this
// host. The error is ErrTag. sealed must not overlap dst.
func (s *Slab) Open(dst []byte, id *[32]byte, n uint32, sealed []byte) ([]byte, error) {
	b := bounds.Get().(*[]byte)
	defer bounds.Put(b)
	*b = s.bound((*b)[:0], id, n)
	return openWith(s.aead, dst, *b, sealed)
}

// SealValue appends the value of a key of the host's metadata, sealed with the domain's
// current root and suite.
func (l *Local) SealValue(dst, key, plain []byte) []byte { return l.seal(dst, meta, key, plain) }

// OpenValue is the inverse of SealValue. Errors are those of OpenSlot.
func (l *Local) OpenValue(dst []byte, root uint32, suite Suite, key, sealed []byte) ([]byte, error) {
	return l.open(dst, root, suite, meta, key, sealed)
}

// IV begins the keystream of one record of the log.
type IV [aes.BlockSize]byte

// NewIV returns a random one. Every record that is written needs its own, also one that is
// written again after a failure: positions and sequence numbers are used again.
func NewIV() (iv IV) {
	_, _ = rand.Read(iv[:])
	return iv
}

// Segment encrypts and decrypts the payloads of the records of one log segment, with
// AES-256-CTR. There is no tag: what somebody flips in the ciphertext is flipped in the
// plaintext, and the record's checksum, which has no key, does not find out.
type Segment struct{ block cipher.Block }

// Segment returns the cipher of a segment under a root, an ErrNoRoot error without it. New
// segments are for the domain's current root.
func (l *Local) Segment(root uint32, incarnation uint64, number uint32, writer [16]byte) (*Segment, error) {
	key, err := l.label(root)
	if err != nil {
		return nil, err
	}
	s := key.state()
	defer key.put(s)
	s.buf = append(s.buf[:0], segment...)
	s.buf = le.AppendUint32(le.AppendUint64(s.buf, incarnation), number)
	s.buf = append(s.buf, writer[:]...)
	block, err := aes.NewCipher(s.objectKey(s.buf)[:])
	if err != nil {
		return nil, err
	}
	return &Segment{block}, nil
}

// String is [secret].
func (*Segment) String() string { return hidden }

// Format prints [secret] for every verb.
func (*Segment) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// XOR encrypts or decrypts src into dst, as the bytes from off of a record's payload: a
// part of a record takes the time of the part. dst is src, or does not overlap it.
func (s *Segment) XOR(dst, src []byte, iv IV, off uint64) {
	// The counter is the IV plus the number of the block, big-endian as CTR has it.
	lo, carry := bits.Add64(binary.BigEndian.Uint64(iv[8:]), off/aes.BlockSize, 0)
	binary.BigEndian.PutUint64(iv[8:], lo)
	binary.BigEndian.PutUint64(iv[:8], binary.BigEndian.Uint64(iv[:8])+carry)
	stream := cipher.NewCTR(s.block, iv[:])
	if skip := off % aes.BlockSize; skip != 0 {
		var lost [aes.BlockSize]byte
		stream.XORKeyStream(lost[:skip], lost[:skip])
	}
	stream.XORKeyStream(dst[:len(src)], src)
}
