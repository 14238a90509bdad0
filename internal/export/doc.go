// Package export is what a guest sees of a volume: an NBD export, and a block device
// of the kernel's that is connected to one.
//
// # Invariants
//
//	closed-is-cut       a connection that was cut, or has ended, changes nothing any more
//	promise-first       nothing is acknowledged through a policy that has no shipper
//	devices-outlive-us  a kernel device waits for the next process, which takes it over
//
// Lock: Attachments.mu protects the table of kernel devices. It comes after all others,
// and is held over the saving of that table.
package export
