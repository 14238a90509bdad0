// Package dice makes the numbers of a simulation, each of the seed and of what it is for.
//
// Nothing in a simulation draws from a stream that is shared: what is decided about one
// request must not depend on which others were made, or the steps that are taken out of a
// schedule would change the fate of those that stay. The same seed, text and numbers make the
// same number in every release: the seeds in docs/simulator.md rest on that.
//
// Packages sim and hardware use it. There are no locks: Dice are for one goroutine.
package dice
