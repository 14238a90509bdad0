package volume

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/pack"
)

// pieces is reused memory for what one read finds in the overlay.
type pieces struct {
	extents []extent.Extent
}

var piecePool = sync.Pool{New: func() any { return new(pieces) }}

// ReadAt fills p from off. It sees everything that was acknowledged before the call. It
// may see parts of concurrent writes.
func (v *Volume) ReadAt(p []byte, off uint64) error {
	if err := v.Err(); err != nil {
		return err
	}
	ps := piecePool.Get().(*pieces)
	defer piecePool.Put(ps)
	g := v.guard.enter()
	defer v.guard.leave(g)
	base := v.lookup(ps, p, off)
	v.ahead.waited(v, base, off, len(p))
	if err := v.readBelow(context.Background(), ps, base, p, off); err != nil {
		return err
	}
	return v.noteDamage(v.env.Log.ServeExtents(p, off, ps.extents))
}

// TryReadAt is ReadAt without disk and network. It reports whether it filled p.
func (v *Volume) TryReadAt(p []byte, off uint64) bool {
	if v.broken.Load() != nil {
		return false
	}
	ps := piecePool.Get().(*pieces)
	defer piecePool.Put(ps)
	g := v.guard.enter()
	defer v.guard.leave(g)
	base := v.lookup(ps, p, off)
	if !v.tryRead(ps, base, p, off) {
		return false
	}
	v.ahead.served(v, base, off, len(p))
	return true
}

// lookup finds the overlay's pieces of [off, off+len(p)), and returns the map below.
func (v *Volume) lookup(ps *pieces, p []byte, off uint64) *blockmap.Map {
	v.omu.RLock()
	defer v.omu.RUnlock()
	ps.extents = v.tree.Range(ps.extents[:0], off, off+uint64(len(p)))
	return v.base
}

// readBelow fills the parts of p that no piece covers, from the blocks below.
func (v *Volume) readBelow(ctx context.Context, ps *pieces, base *blockmap.Map, p []byte, off uint64) error {
	next := off
	for _, e := range ps.extents {
		if e.Start > next {
			if err := v.readBase(ctx, base, p[next-off:e.Start-off], next); err != nil {
				return err
			}
		}
		next = e.End
	}
	if end := off + uint64(len(p)); next < end {
		if err := v.readBase(ctx, base, p[next-off:], next); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) tryRead(ps *pieces, base *blockmap.Map, p []byte, off uint64) bool {
	next := off
	for _, e := range ps.extents {
		if e.Start > next && !v.tryBase(base, p[next-off:e.Start-off], next) {
			return false
		}
		next = e.End
	}
	if next < off+uint64(len(p)) && !v.tryBase(base, p[next-off:], next) {
		return false
	}
	return v.env.Log.TryServeExtents(p, off, ps.extents)
}

// readBase fills p from the published blocks.
func (v *Volume) readBase(ctx context.Context, m *blockmap.Map, p []byte, off uint64) error {
	if m.Root().IsHole() {
		clear(p)
		return nil
	}
	size := uint64(v.state.BlockSize)
	if uint64(len(p)) > size {
		v.prefetch(ctx, m, off, uint64(len(p)))
	}
	for len(p) > 0 {
		n := min(uint64(len(p)), size-off%size)
		ref, err := m.Lookup(ctx, off/size)
		if err != nil {
			return err
		}
		if ref.IsHole() {
			clear(p[:n])
		} else if err := v.env.Blocks.Read(ctx, &ref, int(size), p[:n], int(off%size)); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// tryBase is readBase if all blocks are in memory.
func (v *Volume) tryBase(m *blockmap.Map, p []byte, off uint64) bool {
	if m.Root().IsHole() {
		clear(p)
		return true
	}
	size := uint64(v.state.BlockSize)
	for len(p) > 0 {
		n := min(uint64(len(p)), size-off%size)
		ref, ok := m.TryLookup(off / size)
		if !ok {
			return false
		}
		if ref.IsHole() {
			clear(p[:n])
		} else if !v.env.Blocks.TryRead(&ref.Hash, int(size), p[:n], int(off%size)) {
			return false
		}
		p, off = p[n:], off+n
	}
	return true
}

// prefetch starts to fetch the published blocks of a range, so that a read of several
// waits for one round trip instead of one each.
func (v *Volume) prefetch(ctx context.Context, m *blockmap.Map, off, length uint64) {
	size := uint64(v.state.BlockSize)
	var refs []pack.Ref
	for idx := off / size; idx <= (off+length-1)/size && len(refs) < maxAhead; idx++ {
		ref, err := m.Lookup(ctx, idx)
		if err != nil {
			return // the read itself will report it
		}
		if !ref.IsHole() {
			refs = append(refs, ref)
		}
	}
	v.env.Blocks.Prefetch(refs, int(size))
}

// Prefetch starts to fetch the part of the range that is not in the overlay.
func (v *Volume) Prefetch(off, length uint64) {
	if length == 0 || v.Err() != nil {
		return
	}
	m := v.Map()
	if m.Root().IsHole() {
		return
	}
	go v.prefetch(context.Background(), m, off, length)
}

// maxAhead is how many blocks one hint fetches at most: 32 MiB of 128 KiB blocks.
const maxAhead = 256

// readAhead detects that a guest reads published blocks sequentially. It is a hint: races
// between connections cost only a prefetch too many or too few.
type readAhead struct {
	next atomic.Uint64 // offset at which a read would continue the last one
	run  atomic.Uint32 // how many reads in a row continued the one before
	upTo atomic.Uint64 // prefetched up to this offset
	cold atomic.Int32  // prefetches left since a read last had to wait
}

const (
	aheadAfter = 3       // sequential reads before prefetching starts
	aheadBytes = 2 << 20 // how far ahead to prefetch
	aheadCold  = 8       // after this many prefetches without a wait, sequential reads count as served from memory
)

// waited records a read that may have needed a disk or the network. served records one
// that found everything in memory. Blocks in memory are not prefetched.
func (a *readAhead) waited(v *Volume, m *blockmap.Map, off uint64, n int) {
	if !m.Root().IsHole() {
		a.cold.Store(aheadCold)
		a.note(v, off, n)
	}
}

func (a *readAhead) served(v *Volume, m *blockmap.Map, off uint64, n int) {
	if !m.Root().IsHole() {
		a.note(v, off, n)
	}
}

func (a *readAhead) note(v *Volume, off uint64, n int) {
	end := off + uint64(n)
	if a.next.Swap(end) != off {
		if a.run.Load() != 0 {
			a.run.Store(0)
			a.upTo.Store(0)
		}
		return
	}
	if a.run.Add(1) < aheadAfter || a.cold.Load() <= 0 {
		return
	}
	from := max(a.upTo.Load(), end)
	to := min(end+aheadBytes, v.size.Load())
	if to < from+aheadBytes/2 && to != v.size.Load() || to <= from {
		return
	}
	a.upTo.Store(to)
	a.cold.Add(-1)
	v.Prefetch(from, to-from)
}
