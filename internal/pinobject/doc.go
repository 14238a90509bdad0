// Package pinobject is the objects under pins/ in the store: their format, and how they
// are created, listed and dropped. docs/formats/pin.md has the bytes, docs/protocols.md
// (Pins) the rules.
//
// # Callers
//
// Package pin creates and drops those of a host that runs, or imports. Package host counts
// the pins of all hosts, and drops those of a host that is forgotten. Dumps decode them.
//
// # Guarantees
//
//   - reachable-is-kept: what a pin names stays in the store while the pin is there. The
//     order is pin, check, refer, drop. This package gives each step; its callers keep the
//     order.
//   - A pin is immutable, and its ID is never used again: that Create finds it there means
//     that an earlier attempt made it.
//   - Encode and Decode check the same things, so that what was written can be read.
//   - A pin that cannot be read is an error, not one pin less: who deletes what no pin
//     names has to know all of them.
//
// There is no state, and there are no locks: everything may be called concurrently.
package pinobject
