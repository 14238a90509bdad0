// Package publication puts volumes into the store: it folds a cut into packs,
// commits it, and puts the new map under the volume; snapshots first.
//
// # Invariants
//
//	published-is-complete  a commit names only what the store has; what the cut needs of the
//	                       log is synced before
//	reachable-is-kept      packs that a fold reuses are pinned, then looked at, then named; a
//	                       state that moves on stays pinned while local forks lie over it
//
// It has no lock of its own. All methods that publish need the Op of their disk, and
// hold its Moving while the published state moves.
package publication
