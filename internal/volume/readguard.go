package volume

import (
	"sync"
	"sync/atomic"
)

// readGuard counts the readers that may still read segments which the overlay no longer
// names. Entering and leaving cost one atomic addition each. Before a segment is
// recycled, wait returns when the readers that were inside have left.
type readGuard struct {
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

func (g *readGuard) init() { g.left.L = &g.cond }

// enter returns the value that leave takes. It is called before the lookup in the
// overlay.
func (g *readGuard) enter() uint32 {
	for {
		p := g.phase.Load() & 1
		g.in[p].n.Add(1)
		if g.phase.Load()&1 == p {
			return p
		}
		g.leave(p)
	}
}

func (g *readGuard) leave(p uint32) {
	if g.in[p].n.Add(-1) == 0 && g.phase.Load()&1 != p {
		g.cond.Lock()
		g.left.Broadcast()
		g.cond.Unlock()
	}
}

// wait returns when every reader that was inside at the call has left.
func (g *readGuard) wait() {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.phase.Add(1) - 1
	g.cond.Lock()
	defer g.cond.Unlock()
	for g.in[old&1].n.Load() != 0 {
		g.left.Wait()
	}
}
