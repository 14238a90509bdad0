// Package peers moves blocks from the SSD of one host to that of another. A host that
// misses a block asks the hosts that it knows from the commit log, and then the store. A
// host that is asked sends what its SSD tier has.
//
// The cache calls Fetch when it misses blocks. The API calls Serve for other hosts. Forks
// and take-overs call Learn with the owners that commits name.
//
// # Invariants
//
//	verified  a block from another host counts only if it matches its hash; a host that
//	          sends another block is left alone for minutes
//	brief     Fetch waits for other hosts 100 ms, plus the time in which what came would
//	          have come at 16 MB/s, and no longer
//	bounded   what is remembered of other hosts and their misses has bounds, and so has the
//	          work for them
//	local     Serve reads the SSD tier only: no request of another host reaches the store
//
// Locks: Peers.mu, then host.mu. Neither is held over I/O.
package peers
