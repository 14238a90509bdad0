// Package durability keeps the promise of a volume's policy: local, continuous (an
// enforced loss window) or sync.
//
// A shipper sends writes to the store as data commits, has them folded, and decides when
// a write or a flush may be acknowledged. The decisions are made by the functions of
// promise.go, which do no I/O and read no clock.
//
// # Invariants
//
//	flush-is-durable  sync acknowledges a flush when the store holds every write before it;
//	                  continuous acknowledges no write while the store lacks a write that is
//	                  older than the rpo less a margin
//	prefix            data commits take effect in the order of the writes
//
// Lock: shipper.mu comes after Disk.Op and before the volume's. It is held over no I/O.
// Disk starts and stops shippers, under op.
package durability
