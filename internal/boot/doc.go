// Package boot learns what guests read when they boot from an image, and fetches it ahead
// of the next guest that boots on a host without it.
//
// It records the reads of each volume that is new on this host, by block and in their
// order, until the guest reads nothing new for a while. The blocks become the boot list
// of the image: the state from which the volume was forked, named by the root of its
// block map. Each boot improves the list. When a guest first waits for the store, the
// list is fetched ahead of it.
//
// # Invariants
//
//	hint       a list that is damaged, too long, of another version, or names what is gone
//	           is ignored and counted; no guest gets an error because of it
//	local      a boot for which nothing came from the store makes no request: its list is
//	           stored with the next publication of the volume or its image, or when
//	           another host wants to fork them
//
// Locks: session.mu; Boots.mu, which comes after no other. Neither is held over I/O.
package boot
