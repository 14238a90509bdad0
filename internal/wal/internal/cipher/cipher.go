// Package cipher encrypts the records of one segment of the log.
//
// The segment has a key that only this host derives. Each record has a random vector, also
// one that is written again: after a failed append, its position and its number are used
// again, with other bytes. A read decrypts the range that is asked for. It finds the record,
// and its vector, in memory: 20 bytes for each record.
package cipher

import (
	"sort"

	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/growing"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

// Size is the length of a vector in bytes.
const Size = len(seal.IV{})

// Vector is that of the record at a position of the segment.
type Vector struct {
	At uint32
	IV seal.IV
}

// Cipher encrypts and decrypts what one segment holds. Vectors are added as to a
// growing.List; everything else may be called concurrently.
type Cipher struct {
	growing.List[Vector] // by position

	Mark seal.Mark
	*seal.Segment
}

// New returns the cipher of a segment with this header; nil if its records are plain.
func New(l *seal.Local, h *segfile.Header) (*Cipher, error) {
	if h.Seal == (seal.Mark{}) {
		return nil, nil
	}
	if err := l.Check(h.Seal); err != nil {
		return nil, err
	}
	s, err := l.Segment(h.Seal.Root, h.Incarnation, h.Number, h.Writer)
	return &Cipher{Mark: h.Seal, Segment: s}, err
}

// Seal encrypts the bytes of the record at pos into dst, which is not body, with a new
// vector, which it puts into iv and queues.
func (c *Cipher) Seal(iv, dst, body []byte, pos uint32) {
	v := Vector{pos, seal.NewIV()}
	copy(iv, v.IV[:])
	c.XOR(dst, body, v.IV, 0)
	c.Queue(v)
}

// Of returns the vector of the record that contains pos. ok is false if there is none.
func (c *Cipher) Of(pos uint32) (v Vector, ok bool) {
	all := c.All()
	i := sort.Search(len(all), func(i int) bool { return all[i].At > pos })
	if i == 0 {
		return v, false
	}
	return all[i-1], true
}

// Open decrypts, in place, what was read at pos of the segment. head is how many bytes
// precede those of a record.
func (c *Cipher) Open(b []byte, pos, head uint32) {
	if v, ok := c.Of(pos); ok {
		c.XOR(b, b, v.IV, uint64(pos-v.At-head))
	}
}
