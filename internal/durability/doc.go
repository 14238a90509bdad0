// Package durability keeps the promise of a volume's policy: local, continuous (an
// enforced loss window) or sync.
//
// A shipper sends writes to the store as data commits, has them folded, and decides when
// a write or a flush may be acknowledged. The decisions are made by the functions of
// promise.go, which do no I/O and read no clock.
//
// Changes are taken as a cut (take), become a data commit (prepare: as bytes, or bulk as
// blocks in packs), wait for their turn, are sent (ship), and take effect (landed).
// Several can be in each of these states. They are taken and sent by one goroutine, in
// order. If one cannot be sent, it and all later ones are withdrawn, and their changes are
// taken again.
//
// # Invariants
//
//	flush-is-durable       sync acknowledges a flush when the store holds every write before
//	                       it; continuous acknowledges no write while the store lacks a write
//	                       that is older than the rpo less a margin
//	prefix                 data commits take effect in the order of the writes
//	published-is-complete  a data commit is sent when the packs that it names are durable
//	reachable-is-kept      these packs stay announced until it takes effect, or never can
//
// Lock: shipper.mu comes after Disk.Op and before the volume's. It is held over no I/O.
// Disk starts and stops shippers, under op.
package durability
