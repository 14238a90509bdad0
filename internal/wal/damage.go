package wal

import (
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
)

// Damage says which bytes of the log are not what was written. It is in the
// chain of every error that reports some, all of kind errs.Corrupt.
type Damage struct {
	Segment  Ref
	From, To uint32 // in the file
	Off, Len uint64 // what was written there, on the volume; 0 and 0 if that is not known
	text     string
}

func (d *Damage) Error() string { return d.text }

// Has tells whether a place lies in the damage.
func (d *Damage) Has(p extent.Place) bool {
	return NumberOf(p) == d.Segment.Number && d.From <= uint32(p) && uint32(p) < d.To
}

// damage is the error for bytes [from, to) of the segment.
func (s *Segment) damage(from, to uint32, off, n uint64, text string) error {
	s.pool.Stats.Damaged.Add(1)
	return errs.New(errs.Corrupt, "%w", &Damage{s.Ref(), from, to, off, n, "log segment " + s.name() + " is damaged: " + text})
}

// mismatch is damage to bytes that do not match their checksum.
func (s *Segment) mismatch(from, to uint32) error {
	return s.damage(from, to, 0, 0, fmt.Sprintf("bytes %d to %d do not match their checksum", from, to))
}

// mismatchAt is mismatch where it is known what lies there.
func (s *Segment) mismatchAt(from, to uint32, off, n uint64) error {
	return s.damage(from, to, off, n, fmt.Sprintf("bytes %d to %d, with what was written at offset %d of the volume (%d bytes), do not match their checksum", from, to, off, n))
}
