// Package export provides what a guest sees of a volume: an NBD export, and a kernel
// block device that is connected to one.
//
// # Invariants
//
//	closed-is-cut       a connection that was cut or has ended changes nothing any more
//	promise-first       nothing is acknowledged while a policy needs a shipper and has none
//	devices-outlive-us  a kernel device waits for the next process, which takes it over
//
// Lock: Attachments.mu protects the table of kernel devices. It comes after all others,
// and is held while that table is saved.
package export
