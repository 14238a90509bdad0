// Package extent is the index of a volume's overlay: a copy-on-write B-tree that maps
// byte ranges to the places that hold their newest content.
//
// Ranges never overlap: setting one cuts away what it covers. A clone costs
// O(1) and shares every node; the first change of a shared node copies it.
// Leaves are flat arrays without pointers, so that the garbage collector has
// nothing to trace in them: 24 bytes for each extent of a full leaf.
//
// A Tree is not safe for concurrent use. Clones of a tree are independent: different
// goroutines may use them at the same time, as long as each clone has its own lock.
package extent

import "sync/atomic"

// Place says where the bytes of an extent lie. The tree does not interpret it, except for
// one rule: the content of byte start+n lies at place+n, unless the place is Zero.
type Place uint64

// Zero is the place of bytes that read as zeros.
const Zero Place = 1<<64 - 1

// Extent is a range [Start, End) of bytes and its place.
type Extent struct {
	Start, End uint64
	Place      Place
}

// Len is the extent's length in bytes.
func (e Extent) Len() uint64 { return e.End - e.Start }

// After returns the place of the byte n bytes after p. For Zero that is Zero.
func (p Place) After(n uint64) Place {
	if p == Zero {
		return Zero
	}
	return p + Place(n)
}

// Clip returns the part of e within [start, end).
func (e Extent) Clip(start, end uint64) Extent {
	if e.Start < start {
		e.Place = e.Place.After(start - e.Start)
		e.Start = start
	}
	e.End = min(e.End, end)
	return e
}

// Fan-outs. A leaf of 64 extents takes 1.5 KiB. Compared with 32 and 128 by measurement,
// it makes writes after a clone cheapest.
const (
	leafMax  = 64
	innerMax = 64
)

type leaf struct {
	owner uint64
	n     int
	start [leafMax]uint64
	end   [leafMax]uint64
	place [leafMax]Place
}

// inner has n children. Every start in child i is >= key[i] and < key[i+1]. key[0] is
// never compared, so it need not change when a smaller start is inserted.
type inner struct {
	owner uint64
	n     int
	key   [innerMax]uint64
	kid   [innerMax]node
}

// node is either a leaf or an inner; exactly one pointer is set.
type node struct {
	leaf  *leaf
	inner *inner
}

// Tree maps ranges to places. Use New: the zero Tree is not valid.
type Tree struct {
	owner uint64 // nodes with another owner are shared and must be copied
	root  node
	count int
}

// owners is the source of owner numbers. It is process-wide, because trees of different
// volumes share nodes after a fork.
var owners atomic.Uint64

// New returns an empty tree.
func New() *Tree {
	t := &Tree{owner: owners.Add(1)}
	t.root.leaf = &leaf{owner: t.owner}
	return t
}

// Clone returns an independent tree with the same content, in O(1).
func (t *Tree) Clone() *Tree {
	c := *t
	t.owner, c.owner = owners.Add(1), owners.Add(1)
	return &c
}

// Count returns the number of extents.
func (t *Tree) Count() int { return t.count }

// Set maps [start, end) to place. It removes the extents that the range covers, entirely
// or in part, and reports the removed parts to displaced, which may be nil. Neighbouring
// Zero extents are joined, so that a disk which is discarded in steps has one extent.
func (t *Tree) Set(start, end uint64, place Place, displaced func(Extent)) {
	if start >= end {
		return
	}
	if t.overwrite(start, end, place, displaced) {
		return
	}
	t.cut(start, end, displaced)
	if place == Zero {
		start, end = t.absorbZeros(start, end)
	}
	t.insert(Extent{start, end, place})
}

// Delete maps [start, end) to nothing, and reports what was there.
func (t *Tree) Delete(start, end uint64, displaced func(Extent)) {
	if start < end {
		t.cut(start, end, displaced)
	}
}

// overwrite is the fast path of Set for a range that already is exactly one extent.
func (t *Tree) overwrite(start, end uint64, place Place, displaced func(Extent)) bool {
	if place == Zero {
		return false // it may have to be joined with its neighbours
	}
	l := t.root
	for l.leaf == nil {
		l = l.inner.kid[l.inner.find(start)]
	}
	i := l.leaf.search(start)
	if i < 0 || l.leaf.start[i] != start || l.leaf.end[i] != end {
		return false
	}
	if displaced != nil {
		displaced(l.leaf.at(i))
	}
	w := t.mutableLeaf(start)
	w.place[i] = place
	return true
}

// absorbZeros removes the Zero extents that touch [start, end), and returns the range
// extended by theirs.
func (t *Tree) absorbZeros(start, end uint64) (uint64, uint64) {
	if start > 0 {
		if e, ok := t.Find(start - 1); ok && e.Place == Zero {
			t.cut(e.Start, e.End, nil)
			start = e.Start
		}
	}
	if e, ok := t.Find(end); ok && e.Place == Zero {
		t.cut(e.Start, e.End, nil)
		end = e.End
	}
	return start, end
}

// Find returns the extent that contains the byte at off.
func (t *Tree) Find(off uint64) (Extent, bool) {
	var it Iterator
	it.Seek(t, off)
	e, ok := it.Next()
	if !ok || e.Start > off {
		return Extent{}, false
	}
	return e, true
}

// search returns the index of the last extent with a start <= off, or -1.
func (l *leaf) search(off uint64) int {
	lo, hi := 0, l.n
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if l.start[m] <= off {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

func (l *leaf) at(i int) Extent { return Extent{l.start[i], l.end[i], l.place[i]} }

func (l *leaf) put(i int, e Extent) { l.start[i], l.end[i], l.place[i] = e.Start, e.End, e.Place }

// splice replaces the extents [i, j) by those in with. There must be room.
func (l *leaf) splice(i, j int, with ...Extent) {
	d := i + len(with)
	copy(l.start[d:], l.start[j:l.n])
	copy(l.end[d:], l.end[j:l.n])
	copy(l.place[d:], l.place[j:l.n])
	l.n += d - j
	for k, e := range with {
		l.put(i+k, e)
	}
}

// find returns the index of the child that holds starts equal to off.
func (n *inner) find(off uint64) int {
	lo, hi := 1, n.n
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if n.key[m] <= off {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}
