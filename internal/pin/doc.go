// Package pin announces to collectors what this host is about to refer to in the store,
// or still needs there.
//
// reachable-is-kept: announce, check, and only then refer. A published state that local
// forks still use stays pinned after their parent has moved on.
//
// Lock: Pins.mu, which protects the maps, is held over no I/O. It comes after Disk.Op and
// Disk.Moving, and before Table.Mu and Disk.mu. All methods may be called concurrently.
package pin
