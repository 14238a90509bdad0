//go:build invariants

package invariants

import "hash/crc32"

// Enabled tells whether the program was built with the tag invariants.
const Enabled = true

// Sum remembers what bytes were, to see that nobody has changed them since.
type Sum struct{ crc uint32 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SumOf returns the sum of b.
func SumOf(b []byte) Sum { return Sum{crc32.Checksum(b, castagnoli)} }

// Matches tells whether b is what SumOf was given.
func (s Sum) Matches(b []byte) bool { return s == SumOf(b) }
