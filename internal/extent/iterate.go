package extent

import "github.com/paraglide/glide/internal/invariants"

// maxDepth bounds the tree's height: a tree of 2^40 extents in quarter-full
// nodes has ten levels.
const maxDepth = 12

// Iterator walks the extents of a tree in order. It does not allocate. Any change of the
// tree invalidates it.
type Iterator struct {
	path  [maxDepth]*inner
	at    [maxDepth]int
	depth int
	leaf  *leaf
	i     int
}

// Seek places the iterator before the first extent that ends after off.
func (it *Iterator) Seek(t *Tree, off uint64) {
	it.depth = 0
	n := t.root
	for n.leaf == nil {
		i := n.inner.find(off)
		it.path[it.depth], it.at[it.depth] = n.inner, i
		it.depth++
		n = n.inner.kid[i]
	}
	it.leaf = n.leaf
	it.i = it.leaf.search(off)
	if it.i < 0 {
		// Keys may be smaller than every start below them, so the extent that
		// contains off can be the last one of the leaf before.
		if !it.back() {
			it.i = 0
			return
		}
	}
	if it.leaf.end[it.i] <= off {
		it.i++
	}
}

// back moves to the last extent of the previous leaf. Without one, the iterator stays.
func (it *Iterator) back() bool {
	d := it.depth - 1
	for d >= 0 && it.at[d] == 0 {
		d--
	}
	if d < 0 {
		return false
	}
	it.at[d]--
	n := it.path[d].kid[it.at[d]]
	for d++; n.leaf == nil; d++ {
		it.path[d], it.at[d] = n.inner, n.inner.n-1
		n = n.inner.kid[n.inner.n-1]
	}
	it.leaf, it.i = n.leaf, n.leaf.n-1
	return true
}

// Next returns the extent and moves past it.
func (it *Iterator) Next() (Extent, bool) {
	for it.i >= it.leaf.n {
		if !it.forward() {
			return Extent{}, false
		}
	}
	if invariants.Enabled {
		it.leaf.assertPlaced(it.i)
	}
	e := it.leaf.at(it.i)
	it.i++
	return e, true
}

// forward moves to the first extent of the next leaf.
func (it *Iterator) forward() bool {
	d := it.depth - 1
	for d >= 0 && it.at[d] == it.path[d].n-1 {
		d--
	}
	if d < 0 {
		return false
	}
	it.at[d]++
	n := it.path[d].kid[it.at[d]]
	for d++; n.leaf == nil; d++ {
		it.path[d], it.at[d] = n.inner, 0
		n = n.inner.kid[0]
	}
	if last := it.leaf; invariants.Enabled && last.n > 0 && n.leaf.n > 0 {
		invariants.Check(last.end[last.n-1] <= n.leaf.start[0], "the extents of a leaf end at %d, those of the next begin at %d",
			last.end[last.n-1], n.leaf.start[0])
	}
	it.leaf, it.i = n.leaf, 0
	return true
}

// assertPlaced asserts the invariants of extent i of a leaf and of its neighbours.
func (l *leaf) assertPlaced(i int) {
	e := l.at(i)
	if e.Start >= e.End {
		invariants.Fail("an extent of [%d, %d)", e.Start, e.End)
	}
	if e.Place != Zero && e.Place >= Zero-Place(e.Len()) {
		invariants.Fail("an extent of %d bytes at place %d", e.Len(), e.Place)
	}
	if i > 0 && l.end[i-1] > e.Start {
		invariants.Fail("an extent from %d overlaps one that ends at %d", e.Start, l.end[i-1])
	}
	if i+1 < l.n && e.End > l.start[i+1] {
		invariants.Fail("an extent that ends at %d overlaps one from %d", e.End, l.start[i+1])
	}
}

// Range appends to dst the extents within [start, end), clipped to it.
func (t *Tree) Range(dst []Extent, start, end uint64) []Extent {
	var it Iterator
	it.Seek(t, start)
	for {
		e, ok := it.Next()
		if !ok || e.Start >= end {
			return dst
		}
		dst = append(dst, e.Clip(start, end))
	}
}
