package readahead

import "sync"

// neighbourhoods counts the misses in the neighbourhoods in which a guest reads now. A
// guest that reads many small files of one directory jumps back and forth within a few
// MiB, and needs most of them in the end.
type neighbourhoods struct {
	mu     sync.Mutex // glide:nonblocking
	recent [64]neighbourhood
}

// neighbourhood is a run of blocks.
type neighbourhood struct {
	number uint64 // plus 1
	misses int
}

const (
	neighbours = 32 // blocks in a neighbourhood
	manyMisses = 6
)

// missed counts a miss, and reports whether there were many nearby.
func (n *neighbourhoods) missed(idx uint64) bool {
	number := idx/neighbours + 1
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &n.recent[number%uint64(len(n.recent))]
	if r.number != number {
		*r = neighbourhood{number: number}
	}
	r.misses++
	return r.misses == manyMisses
}
