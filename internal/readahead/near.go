package readahead

import "sync"

// neighbourhoods counts the misses in the neighbourhoods in which a guest reads now. A
// guest that reads many small files of one directory jumps back and forth within a few
// MiB, and needs most of them in the end.
type neighbourhoods struct {
	mu     sync.Mutex // glide:nonblocking
	recent [64]neighbourhood
	dense  int // how many had many misses
}

// neighbourhood is a run of blocks.
type neighbourhood struct {
	number uint64 // plus 1
	misses int
}

const (
	neighbours = 32 // blocks in a neighbourhood
	manyMisses = 6
	manyDense  = 4 // dense neighbourhoods after which a guest counts as one that reads everything
)

// missed counts a miss. It returns how many dense neighbourhoods there have been if this
// miss shows that there is one more, or else 0.
func (n *neighbourhoods) missed(idx uint64) (dense int) {
	number := idx/neighbours + 1
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &n.recent[number%uint64(len(n.recent))]
	if r.number != number {
		*r = neighbourhood{number: number}
	}
	if r.misses++; r.misses != manyMisses {
		return 0
	}
	n.dense++
	return n.dense
}
