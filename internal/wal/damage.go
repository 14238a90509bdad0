package wal

import (
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
)

// Damage says which bytes of the log differ from what was written. Every error that
// reports damaged bytes has it in its chain; all such errors are of kind errs.Corrupt.
type Damage struct {
	Segment  Ref
	From, To uint32 // in the file
	// The range of the volume that was written there, and the write; 0 if not known.
	Off, Len, Seq uint64
	text          string
}

func (d *Damage) Error() string { return d.text }

// Has reports whether a place lies in the damage.
func (d *Damage) Has(p extent.Place) bool {
	return NumberOf(p) == d.Segment.Number && d.From <= uint32(p) && uint32(p) < d.To
}

// damage returns the error for bytes [from, to) of the segment.
func (s *Segment) damage(from, to uint32, off, n uint64, text string) error {
	s.pool.Stats.Damaged.Add(1)
	return errs.New(errs.Corrupt, "%w", &Damage{s.Ref(), from, to, off, n, 0, "log segment " + s.name() + " is damaged: " + text})
}

// mismatch returns the error for bytes that do not match their checksum.
func (s *Segment) mismatch(from, to uint32) error {
	return s.damage(from, to, 0, 0, fmt.Sprintf("bytes %d to %d do not match their checksum", from, to))
}

// mismatchAt is mismatch for bytes whose range on the volume is known.
func (s *Segment) mismatchAt(from, to uint32, off, n uint64) error {
	return s.damage(from, to, off, n, fmt.Sprintf("bytes %d to %d, with what was written at offset %d of the volume (%d bytes), do not match their checksum", from, to, off, n))
}
