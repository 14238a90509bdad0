package blockmap

import (
	"context"
	"math/bits"
	"slices"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// Edit is a change to a map that is not published yet. It holds what was changed
// and nothing else: 64 bytes for each block that was set and about as much for
// each page on the way to it. Nothing of the old tree is loaded before Publish.
//
// An Edit belongs to one goroutine. The map that it was made from stays as it is.
type Edit struct {
	src    *Source
	blocks uint64
	root   pack.Ref // the top page below the changes
	top    *node    // the changes, nil when there are none
}

// node is what is changed within one page. A slot holds what refs says if it is
// in own, else what the page below (root, or the parent's content of its slot)
// says; the changes in kids, if it is in over, come on top of either.
type node struct {
	own  uint64     // slots that were replaced
	over uint64     // slots with changes below them; none at level 0
	refs []pack.Ref // one for each bit of own; may be a hole
	kids []*node    // one for each bit of over
}

// Edit begins a change to the map.
func (m *Map) Edit() *Edit {
	return &Edit{src: m.src, blocks: m.blocks, root: m.root.Ref}
}

// Blocks is the number of blocks, holes included.
func (e *Edit) Blocks() uint64 { return e.blocks }

func (e *Edit) height() int { return int(HeightFor(e.blocks)) }

// Set maps block idx to ref; a hole unmaps it.
func (e *Edit) Set(idx uint64, ref pack.Ref) error {
	if idx >= e.blocks {
		return errs.New(errs.Invalid, "block %d of a map of %d blocks", idx, e.blocks)
	}
	if ref.IsHole() {
		ref = pack.Ref{}
	} else if !validExtent(ref.Off, ref.Len) {
		return errs.New(errs.Invalid, "block at %d+%d of a pack: slots end at 4 GiB", ref.Off, ref.Len)
	}
	n := e.changes()
	for level := e.height() - 1; level > 0; level-- {
		n = n.kid(slotOf(idx, level))
	}
	n.replace(slotOf(idx, 0), ref)
	return nil
}

// ZeroRange makes holes of the blocks from from up to but not including to.
//
// zero-is-free: whole subtrees are cut at the highest level they fill, so that
// it costs at most two paths from top to bottom, whatever the range, and loads
// nothing.
func (e *Edit) ZeroRange(from, to uint64) {
	if from >= min(to, e.blocks) {
		return
	}
	top := e.height() - 1
	if to >= e.blocks {
		to = span(top + 1) // there is nothing behind the end to keep
	}
	if from == 0 && to == span(top+1) {
		e.root, e.top = pack.Ref{}, nil
		return
	}
	e.changes().zero(top, from, to)
}

// Grow makes the map larger; the new blocks are holes. A smaller number of
// blocks than there are is refused.
func (e *Edit) Grow(blocks uint64) error {
	if blocks < e.blocks {
		return errs.New(errs.Invalid, "a map of %d blocks cannot shrink to %d", e.blocks, blocks)
	}
	if blocks > maxBlocks {
		return tooMany(blocks)
	}
	for level := e.height(); level < int(HeightFor(blocks)); level++ {
		e.raise()
	}
	e.blocks = blocks
	return nil
}

// raise puts a level on top of the tree, which becomes its slot 0.
func (e *Edit) raise() {
	if e.root.IsHole() && e.top == nil {
		return
	}
	n := &node{own: 1, refs: []pack.Ref{e.root}}
	if e.top != nil {
		n.over, n.kids = 1, []*node{e.top}
	}
	e.root, e.top = pack.Ref{}, n
}

// Lookup returns what block idx is mapped to, changes included; a hole when it
// is not, or lies beyond the end.
func (e *Edit) Lookup(ctx context.Context, idx uint64) (pack.Ref, error) {
	if idx >= e.blocks {
		return pack.Ref{}, nil
	}
	// What the lowest change on the way says counts; below it, the old pages.
	level := e.height() - 1
	ref, refLevel := e.root, level
	for n := e.top; n != nil; level-- {
		slot := slotOf(idx, level)
		if n.owns(slot) {
			ref, refLevel = n.ref(slot), level-1
		}
		n = n.child(slot)
	}
	return e.src.lookup(ctx, ref, refLevel, idx)
}

func (e *Edit) changes() *node {
	if e.top == nil {
		e.top = &node{}
	}
	return e.top
}

func (n *node) owns(slot int) bool { return n.own>>slot&1 != 0 }

// ref is what an owned slot holds.
func (n *node) ref(slot int) pack.Ref { return n.refs[rank(n.own, slot)] }

// child is the changes below a slot, nil when there are none.
func (n *node) child(slot int) *node {
	if n.over>>slot&1 == 0 {
		return nil
	}
	return n.kids[rank(n.over, slot)]
}

// kid is the changes below a slot, made if there are none.
func (n *node) kid(slot int) *node {
	i := rank(n.over, slot)
	if n.over>>slot&1 == 0 {
		n.over |= 1 << slot
		n.kids = slices.Insert(n.kids, i, &node{})
	}
	return n.kids[i]
}

// replace makes a slot hold ref, and drops the changes below it.
func (n *node) replace(slot int, ref pack.Ref) {
	i := rank(n.own, slot)
	if n.owns(slot) {
		n.refs[i] = ref
	} else {
		n.own |= 1 << slot
		n.refs = slices.Insert(n.refs, i, ref)
	}
	if i := rank(n.over, slot); n.over>>slot&1 != 0 {
		n.over &^= 1 << slot
		n.kids = slices.Delete(n.kids, i, i+1)
	}
}

// zero makes holes of the blocks [from, to), counted from the first of the page.
func (n *node) zero(level int, from, to uint64) {
	for m := within(level, 0, from, to); m != 0; m &= m - 1 {
		slot := bits.TrailingZeros64(m)
		first := uint64(slot) * span(level)
		low, high := max(from, first)-first, min(to-first, span(level))
		if high-low == span(level) {
			n.replace(slot, pack.Ref{})
		} else {
			n.kid(slot).zero(level-1, low, high)
		}
	}
}
