package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
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

// SealBlock appends a block of the SSD tier, sealed with the domain's current root and suite.
func (l *Local) SealBlock(dst []byte, id *[32]byte, plain []byte) []byte {
	return l.seal(dst, slab, id[:], plain)
}

// OpenBlock is the inverse of SealBlock. That it opens proves the block, as its hash
// would: only verified blocks were sealed, by this host. Errors are those of OpenSlot.
func (l *Local) OpenBlock(dst []byte, root uint32, suite Suite, id *[32]byte, sealed []byte) ([]byte, error) {
	return l.open(dst, root, suite, slab, id[:], sealed)
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
