//go:build !invariants

package invariants

// Enabled tells whether the program was built with the tag invariants.
const Enabled = false

// Sum remembers what bytes were, to see that nobody has changed them since. It is
// empty in a program that does not check.
type Sum struct{}

// SumOf returns the sum of b.
func SumOf([]byte) Sum { return Sum{} }

// Matches tells whether b is what SumOf was given.
func (Sum) Matches([]byte) bool { return true }
