// Package ownership decides which host owns a volume. It claims volumes and commits to
// their logs, checks whether another host has taken one over, fences a volume that was
// lost and moves its unpublished data to a rescue volume, takes volumes over, and removes
// them.
//
// # Invariants
//
//	one-owner           only the host whose epoch is the newest commits
//	no-silent-rollback  a claim takes the newest state, or says what is missing
//	nothing-dropped     whatever a fenced volume had not published moves to a rescue volume, in
//	                    the same save that fences it
//	first-is-known      the first publication of a volume is recorded before it is sent, so
//	                    that it can be withdrawn
//
// Lock: firstPublishMu is held while the record of a first publication changes. It comes
// after Disk.Op. Methods that say "under op" need the Op of their disk: the verbs of
// package host hold it, and so does the shipper.
package ownership
