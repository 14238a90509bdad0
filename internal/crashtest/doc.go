// Package crashtest is what the crash tests of a volume and of a whole host have in
// common: a file system in memory that loses its power (FS), and a model of what
// must be on a disk afterwards (History).
//
// A crash test makes a file system with NewMem and wraps it in an FS, whose Hook
// runs before and after every operation that changes a file or a directory. At one
// of those the test calls PowerLoss, and keeps copies of its models as they are at
// that moment. It goes on until it sees that the power is gone, opens what was left,
// and asks each model whether what it reads is possible: the Prefix of the writes
// that holds all durable ones.
//
// What was asked of the engine, and which object stands for which disk, belongs to
// the tests. The package has no goroutines and, but for the two atomic fields of FS,
// no locks: Hook is called by whatever goroutine of the engine is at work, so tests
// hold a lock of their own around their models and PowerLoss.
package crashtest
