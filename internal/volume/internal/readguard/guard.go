// Package readguard lets readers go on without a lock while what they read may be recycled.
package readguard

import (
	"sync"
	"sync/atomic"
)

// Guard counts the readers that may still read segments which the overlay no longer
// names. Entering and leaving cost one atomic addition each. Before a segment is
// recycled, Wait returns when the readers that were inside have left. Its methods may be
// called concurrently, after Init.
type Guard struct {
	phase atomic.Uint32
	in    [2]paddedCount
	mu    sync.Mutex // one waiter at a time
	left  sync.Cond
	cond  sync.Mutex // glide:nonblocking
}

type paddedCount struct {
	n atomic.Int64
	_ [56]byte // one cache line each
}

// Init makes a Guard ready.
func (g *Guard) Init() { g.left.L = &g.cond }

// Enter returns the value that Leave takes. It is called before the lookup in the
// overlay.
func (g *Guard) Enter() uint32 {
	for {
		p := g.phase.Load() & 1
		g.in[p].n.Add(1)
		if g.phase.Load()&1 == p {
			return p
		}
		g.Leave(p)
	}
}

// Leave ends what Enter began.
func (g *Guard) Leave(p uint32) {
	if g.in[p].n.Add(-1) == 0 && g.phase.Load()&1 != p {
		g.cond.Lock()
		g.left.Broadcast()
		g.cond.Unlock()
	}
}

// Wait returns when every reader that was inside at the call has left.
func (g *Guard) Wait() {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.phase.Add(1) - 1
	g.cond.Lock()
	defer g.cond.Unlock()
	for g.in[old&1].n.Load() != 0 {
		g.left.Wait()
	}
}
