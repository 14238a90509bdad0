// Package sim is the deterministic simulator: several hosts, one store, virtual
// time, and one seed for each run.
//
// The hosts are those that `glide serve` runs (package host and all below it);
// nothing of the engine is written a second time here. Under them is a machine
// (package hardware) whose file system forgets what was not synced, and whose
// requests to the store fail, come late, come twice or take effect hours later;
// between them is a network that is cut. A
// schedule of steps, made from the seed, lets guests write and read, volumes be
// flushed, forked, moved, renamed and removed, and hosts crash, restart, sleep
// and lose their clocks, all at once. A model, which knows only what was asked
// for and what was answered, checks the invariants of the design by name: at
// every object that takes effect in the store, at every answer, and after every
// restart.
//
// # How a run is the same each time
//
// A run is a bubble of testing/synctest: time is virtual, and goes on when every
// goroutine waits. All that takes time (a request, a sync) takes a duration drawn
// from the seed and from what it is, so that the order in which things happen is
// decided by virtual time, not by the scheduler. What testing/synctest leaves to
// chance, package overlay takes away. Package dice makes the numbers. The trace of a run, hashed, shows that it
// was the same.
//
// # Locks, in the order in which they are taken
//
//	line.guest   the guest's I/O on a volume, one at a time
//	line.verb    verbs on a volume that exclude each other
//	Machine.mu   one machine's life, disk, and troubles (package hardware)
//	world.mu     the model
//	world.tmu    the trace
package sim
