package volume

import (
	"context"
	"sync"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
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
	g := v.guard.Enter()
	defer v.guard.Leave(g)
	base := v.lookup(ps, p, off)
	v.guide.Sequential(v.env.Blocks, base, off, uint64(len(p)), int(v.state.BlockSize), true)
	if err := v.readBelow(v.reads, &v.guide, ps, base, p, off); err != nil {
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
	g := v.guard.Enter()
	defer v.guard.Leave(g)
	base := v.lookup(ps, p, off)
	if !v.tryRead(ps, base, p, off) {
		return false
	}
	v.guide.Sequential(v.env.Blocks, base, off, uint64(len(p)), int(v.state.BlockSize), false)
	return true
}

// lookup finds the overlay's pieces of [off, off+len(p)), and returns the map below.
func (v *Volume) lookup(ps *pieces, p []byte, off uint64) *blockmap.Map {
	v.omu.RLock()
	defer v.omu.RUnlock()
	ps.extents = v.tree.Range(ps.extents[:0], off, off+uint64(len(p)))
	return v.base
}

// readBelow fills the parts of p that no piece covers, from the blocks below. g, if not
// nil, is told what a guest reads.
func (v *Volume) readBelow(ctx context.Context, g *readahead.Guide, ps *pieces, base *blockmap.Map, p []byte, off uint64) error {
	next := off
	for _, e := range ps.extents {
		if e.Start > next {
			if err := v.readBase(ctx, g, base, p[next-off:e.Start-off], next); err != nil {
				return err
			}
		}
		next = e.End
	}
	if end := off + uint64(len(p)); next < end {
		if err := v.readBase(ctx, g, base, p[next-off:], next); err != nil {
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
func (v *Volume) readBase(ctx context.Context, g *readahead.Guide, m *blockmap.Map, p []byte, off uint64) error {
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
		} else if err := v.readBlock(ctx, g, m, &ref, p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readBlock fills p from off, which lies in the block at ref.
func (v *Volume) readBlock(ctx context.Context, g *readahead.Guide, m *blockmap.Map, ref *pack.Ref, p []byte, off uint64) error {
	b, size := v.env.Blocks, int(v.state.BlockSize)
	idx, at := off/uint64(size), int(off%uint64(size))
	if !b.ReadLocal(&ref.Hash, size, p, at) {
		if g != nil {
			g.Missed(b, m, idx, size)
		}
		if err := b.Fetch(ctx, ref, size, p, at); err != nil {
			return err
		}
	}
	if g != nil {
		g.Read(b, m, idx, &ref.Hash, size)
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
		} else {
			v.guide.Read(v.env.Blocks, m, off/size, &ref.Hash, int(size))
		}
		p, off = p[n:], off+n
	}
	return true
}

// prefetch starts to fetch the published blocks of a range, so that a read of several
// waits for one round trip instead of one each.
func (v *Volume) prefetch(ctx context.Context, m *blockmap.Map, off, length uint64) {
	size := uint64(v.state.BlockSize)
	first, last := off/size, (off+length-1)/size
	if refs, err := readahead.Refs(ctx, m, first, min(last, first+maxAhead)); err == nil { // else the read itself will report it
		v.env.Blocks.Prefetch(refs, int(size))
	}
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
	go v.prefetch(v.reads, m, off, length)
}

// maxAhead is how many blocks one hint fetches at most: 32 MiB of 128 KiB blocks.
const maxAhead = 256
