// Package invariants is for checks of what is true unless Glide has a bug. They
// run in programs that are built with the tag invariants, as tests, the simulator
// and race runs are; in all others the compiler removes them. Damage on a disk or
// in the store is no bug of Glide's: it is an error, and never a matter of this
// package.
//
// Assertions come in pairs: what is checked when something is written is checked
// again when it is read. Each stands behind the constant, so that its arguments
// cost nothing either:
//
//	if invariants.Enabled {
//		invariants.Check(durable <= last, "durable through %d, written through %d", durable, last)
//	}
//
// A longer assertion is a function named assert…, which is called behind the
// constant. A test of internal/repo holds the code to that.
//
// It has no state and no locks. Any package may import it.
package invariants

import "fmt"

// Check panics if an invariant does not hold.
func Check(ok bool, format string, args ...any) {
	if Enabled && !ok {
		Fail(format, args...)
	}
}

// Fail panics: an invariant does not hold. A check that runs for every extent or block
// calls it behind its own condition, since Check's arguments are allocated.
func Fail(format string, args ...any) {
	panic("invariant does not hold: " + fmt.Sprintf(format, args...))
}
