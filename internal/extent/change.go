package extent

import "github.com/paraglide/glide/internal/invariants"

// own returns n if the tree owns it, else a copy that the tree owns.
func (t *Tree) own(n node) node {
	switch {
	case n.leaf != nil && n.leaf.owner != t.owner:
		c := *n.leaf
		c.owner = t.owner
		n.leaf = &c
	case n.inner != nil && n.inner.owner != t.owner:
		c := *n.inner
		c.owner = t.owner
		n.inner = &c
	}
	return n
}

// mutableLeaf returns the leaf for starts equal to off. The tree owns it.
func (t *Tree) mutableLeaf(off uint64) *leaf {
	t.root = t.own(t.root)
	n := t.root
	for n.leaf == nil {
		i := n.inner.find(off)
		n.inner.kid[i] = t.own(n.inner.kid[i])
		n = n.inner.kid[i]
	}
	return n.leaf
}

// insert adds an extent that overlaps no other.
func (t *Tree) insert(e Extent) {
	t.root = t.own(t.root)
	if t.root.full() {
		old := t.root
		in := &inner{owner: t.owner, n: 1}
		in.kid[0] = old
		t.root = node{inner: in}
		t.splitKid(in, 0)
	}
	n := t.root
	for n.leaf == nil {
		in := n.inner
		i := in.find(e.Start)
		in.kid[i] = t.own(in.kid[i])
		if in.kid[i].full() {
			t.splitKid(in, i)
			i = in.find(e.Start)
		}
		n = in.kid[i]
	}
	i := n.leaf.search(e.Start) + 1
	n.leaf.splice(i, i, e)
	t.count++
	if invariants.Enabled {
		n.leaf.assertPlaced(i)
	}
}

func (n node) full() bool {
	if n.leaf != nil {
		return n.leaf.n == leafMax
	}
	return n.inner.n == innerMax
}

// splitKid splits the full child i, which the tree owns. It splits the last child
// unevenly, so that extents inserted in ascending order fill their leaves.
func (t *Tree) splitKid(in *inner, i int) {
	var right node
	var key uint64
	if l := in.kid[i].leaf; l != nil {
		at := leafMax / 2
		if i == in.n-1 {
			at = leafMax - 4
		}
		r := &leaf{owner: t.owner, n: l.n - at}
		copy(r.start[:], l.start[at:l.n])
		copy(r.end[:], l.end[at:l.n])
		copy(r.place[:], l.place[at:l.n])
		l.n = at
		right.leaf, key = r, r.start[0]
	} else {
		l := in.kid[i].inner
		at := innerMax / 2
		if i == in.n-1 {
			at = innerMax - 4
		}
		r := &inner{owner: t.owner, n: l.n - at}
		copy(r.key[:], l.key[at:l.n])
		copy(r.kid[:], l.kid[at:l.n])
		clear(l.kid[at:l.n])
		l.n = at
		right.inner, key = r, r.key[0]
	}
	copy(in.key[i+2:], in.key[i+1:in.n])
	copy(in.kid[i+2:], in.kid[i+1:in.n])
	in.key[i+1], in.kid[i+1] = key, right
	in.n++
}

// cut removes [start, end) from every extent, leaf by leaf.
func (t *Tree) cut(start, end uint64, displaced func(Extent)) {
	var it Iterator
	for start < end {
		it.Seek(t, start)
		e, ok := it.Next()
		if !ok || e.Start >= end {
			return
		}
		if e.Start < start || e.End > end {
			t.trim(e, start, end, displaced)
		} else {
			t.cutLeaf(e.Start, end, displaced)
		}
		start = e.End
	}
}

// trim removes from the tree the part of extent e that lies within [start, end). e
// reaches beyond that range.
func (t *Tree) trim(e Extent, start, end uint64, displaced func(Extent)) {
	if displaced != nil {
		displaced(e.Clip(start, end))
	}
	l := t.mutableLeaf(e.Start)
	i := l.search(e.Start)
	if e.Start < start {
		l.end[i] = start
	} else {
		t.remove(l, i, i+1)
	}
	if e.End > end {
		t.insert(e.Clip(end, e.End)) // its start may belong to the next leaf
	}
}

// remove removes the extents [i, j) from the leaf, which the tree owns.
func (t *Tree) remove(l *leaf, i, j int) {
	start := l.start[i]
	l.splice(i, j)
	t.count -= j - i
	if l.n == 0 {
		t.prune(start)
	}
}

// cutLeaf removes the extents from the one that starts at start up to the last one in the
// same leaf that ends within end.
func (t *Tree) cutLeaf(start, end uint64, displaced func(Extent)) {
	l := t.mutableLeaf(start)
	i := l.search(start)
	j := i
	for j < l.n && l.end[j] <= end {
		if displaced != nil {
			displaced(l.at(j))
		}
		j++
	}
	t.remove(l, i, j)
}

// prune removes the empty leaf for starts equal to off, and inner nodes that become
// empty.
func (t *Tree) prune(off uint64) {
	var path [maxDepth]*inner
	var at [maxDepth]int
	depth := 0
	for n := t.root; n.leaf == nil; depth++ {
		path[depth], at[depth] = n.inner, n.inner.find(off)
		n = n.inner.kid[at[depth]]
	}
	for depth--; depth >= 0; depth-- {
		in, i := path[depth], at[depth]
		if in.n > 1 {
			copy(in.key[i:], in.key[i+1:in.n])
			copy(in.kid[i:], in.kid[i+1:in.n])
			in.n--
			in.kid[in.n] = node{}
			break
		}
	}
	if depth < 0 && t.root.leaf == nil {
		t.root = node{leaf: &leaf{owner: t.owner}}
	}
	for t.root.inner != nil && t.root.inner.n == 1 {
		t.root = t.own(t.root.inner.kid[0])
	}
}
