// Package readahead decides what to fetch of a volume before its guest asks for it.
//
// A guest that must wait for the store gets the blocks behind the missed one, too. The
// first of these is marked: when the guest reads it, twice as many follow, and so on. So
// any number of files that are read in turn are each read ahead, across packs, without
// anything being kept about them. What is fetched is paid for by what was
// read of it (Credit).
//
// Blocks that are on the SSD, but perhaps not in the kernel's page cache, are read ahead
// for a guest that reads the volume sequentially.
//
// Callers: volume, for the reads of guests. It has no locks.
package readahead

import (
	"context"
	"sync/atomic"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/pack"
)

// Blocks are the blocks of a tenant on this host. All methods may be called concurrently,
// and none waits for the disk or the network.
type Blocks interface {
	// Touch tells that a guest read a block. It returns how many blocks to fetch ahead of
	// the reader now; mostly 0.
	Touch(h *pack.Hash) (window int)
	// Ahead fetches the first window of refs that are not on this host. When a guest
	// reads the first of them, Touch returns twice the window.
	Ahead(refs []pack.Ref, size, window int, credit *Credit)
	// WillNeed brings blocks from the SSD into the page cache.
	WillNeed(refs []pack.Ref, size int)
}

// Recorder records what a guest reads.
type Recorder interface {
	Read(idx uint64)   // the guest read something of a block
	Missed(idx uint64) // the guest must wait for the store to get a block
}

// Guide is the state of one volume. Its zero value is ready for use. It is a hint: races
// between connections cost only a fetch too many or too few.
type Guide struct {
	credit   Credit
	near     neighbourhoods
	recorder atomic.Pointer[Recorder]

	// Volume is the one that its requests are counted for. It is set before the first read.
	Volume cost.Volume

	next atomic.Uint64 // offset at which a read would continue the last one
	run  atomic.Uint32 // how many reads in a row continued the one before
	upTo atomic.Uint64 // read ahead up to this offset
	cold atomic.Int32  // times to read ahead since a read last had to wait
}

// Windows, in blocks.
const (
	firstWindow = 8
	maxWindow   = 64
	savedShare  = 4 // one block more for so many that credit was saved for
)

// Record makes r record what the guest reads from now on; nil: nothing does.
func (g *Guide) Record(r Recorder) {
	if r == nil {
		g.recorder.Store(nil)
	} else {
		g.recorder.Store(&r)
	}
}

// Recorder returns what records the reads, or nil.
func (g *Guide) Recorder() Recorder {
	if r := g.recorder.Load(); r != nil {
		return *r
	}
	return nil
}

// Read tells that the guest read something of a published block.
func (g *Guide) Read(b Blocks, m *blockmap.Map, idx uint64, h *pack.Hash, size int) {
	if w := b.Touch(h); w > 0 {
		g.fetch(b, m, idx, min(w, maxWindow), size)
	}
	if r := g.recorder.Load(); r != nil {
		(*r).Read(idx)
	}
}

// Missed tells that the guest must wait for the store to get a block.
func (g *Guide) Missed(b Blocks, m *blockmap.Map, idx uint64, size int) {
	g.credit.missed(g.near.missed(idx))
	if r := g.recorder.Load(); r != nil {
		(*r).Missed(idx)
	}
	w := min(firstWindow+g.credit.saved()/savedShare, maxWindow)
	refs := behind(make([]pack.Ref, 0, 3*w), m, idx, 2*w)
	if before := idx - min(idx, uint64(w)+1); idx > 0 {
		refs = behind(refs, m, before, int(idx-before)-1)
	}
	g.ahead(b, refs, w, size)
}

// fetch fetches the next window of blocks behind idx.
func (g *Guide) fetch(b Blocks, m *blockmap.Map, idx uint64, window, size int) {
	g.ahead(b, behind(make([]pack.Ref, 0, 2*window), m, idx, 2*window), window, size)
}

func (g *Guide) ahead(b Blocks, refs []pack.Ref, window, size int) {
	if len(refs) > 0 {
		b.Ahead(refs, size, window, &g.credit)
	}
}

// behind appends where the n blocks behind idx are, without holes. It ends early at a
// page of the map that is not in memory.
func behind(refs []pack.Ref, m *blockmap.Map, idx uint64, n int) []pack.Ref {
	for i := idx + 1; i <= idx+uint64(n) && i < m.Blocks(); i++ {
		ref, ok := m.TryLookup(i)
		if !ok {
			break
		}
		if !ref.IsHole() {
			refs = append(refs, ref)
		}
	}
	return refs
}

const (
	aheadAfter = 3       // sequential reads before reading ahead starts
	aheadBytes = 2 << 20 // how far to read ahead
	aheadCold  = 8       // after this many times without a wait, sequential reads count as served from memory
)

// Sequential tells where the guest read, and whether the read may have waited for the
// disk. It reads ahead from the SSD for a guest that reads sequentially and waits.
func (g *Guide) Sequential(b Blocks, m *blockmap.Map, off, length uint64, size int, waited bool) {
	if m.Root().IsHole() {
		return
	}
	if waited {
		g.cold.Store(aheadCold)
	}
	end := off + length
	if g.next.Swap(end) != off {
		if g.run.Load() != 0 {
			g.run.Store(0)
			g.upTo.Store(0)
		}
		return
	}
	if g.run.Add(1) < aheadAfter || g.cold.Load() <= 0 {
		return
	}
	all := m.Blocks() * uint64(size)
	from, to := max(g.upTo.Load(), end), min(end+aheadBytes, all)
	if to < from+aheadBytes/2 && to != all || to <= from {
		return
	}
	g.upTo.Store(to)
	g.cold.Add(-1)
	go func() {
		if refs, err := Refs(cost.Begin(context.Background(), cost.Prefetch, g.Volume), m, from/uint64(size), (to-1)/uint64(size)); err == nil {
			b.WillNeed(refs, size)
		}
	}()
}

// Refs returns where the blocks from first through last are, without holes.
func Refs(ctx context.Context, m *blockmap.Map, first, last uint64) (refs []pack.Ref, err error) {
	for idx := first; idx <= last && idx < m.Blocks(); idx++ {
		ref, err := m.Lookup(ctx, idx)
		if err != nil {
			return nil, err
		}
		if !ref.IsHole() {
			refs = append(refs, ref)
		}
	}
	return refs, nil
}
