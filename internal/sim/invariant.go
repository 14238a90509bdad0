package sim

import "fmt"

// invariant is one of the design's, by its name.
type invariant string

// The invariants. What else can go wrong, such as a verb that fails without a
// reason, is a violation too: of progress.
const (
	publishedIsComplete invariant = "published-is-complete"
	flushIsDurable      invariant = "flush-is-durable"
	prefix              invariant = "prefix"
	oneWriter           invariant = "one-writer"
	reachableIsKept     invariant = "reachable-is-kept"
	verified            invariant = "verified"
	forkIsConstant      invariant = "fork-is-constant"
	zeroIsFree          invariant = "zero-is-free"
	noSilentRollback    invariant = "no-silent-rollback"
	bounded             invariant = "bounded"
	sealedHome          invariant = "sealed-home"
	progress            invariant = "progress"
)

// violation is what a run found.
type violation struct {
	Invariant string
	Seed      uint64
	Step      int // the newest one that had begun
	Text      string
}

// Error implements error.
func (v *violation) Error() string {
	return fmt.Sprintf("%s is violated at step %d of seed %d: %s", v.Invariant, v.Step, v.Seed, v.Text)
}
