// Package publication puts volumes into the store. It folds a cut into packs, commits it,
// and puts the new map under the volume. Snapshots come first.
//
// # Invariants
//
//	published-is-complete  a commit names only what the store has; the cut's part of the log is
//	                       synced before
//	reachable-is-kept      packs that a fold reuses are pinned, then checked, then named; a
//	                       published state that moves on stays pinned while local forks use it
//
// It has no lock of its own. All methods that publish need the Op of their disk, and
// hold its Moving while the published state moves.
package publication
