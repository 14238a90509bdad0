package blockmap

import (
	"context"
	"math/bits"
	"slices"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// Edit is an unpublished change to a map. It holds only the changes: 68 bytes for each
// block that was set, and about as much for each page on the path to it. No page of the
// old tree is loaded before Publish.
//
// An Edit belongs to one goroutine. The map that it was made from does not change.
type Edit struct {
	src    *Source
	blocks uint64
	root   pack.Ref // the top page under the changes
	top    *node    // the changes, nil if there are none
}

// node is the change to one page. If own has the bit of a slot, refs says what the slot
// holds; otherwise the page below does (root, or what the slot of the parent holds). If
// over has the bit, the changes in kids apply on top.
type node struct {
	own  uint64     // slots that were replaced
	over uint64     // slots with changes below them; none at level 0
	refs []pack.Ref // one per bit of own; may be a hole
	kids []*node    // one per bit of over
}

// Edit starts a change to the map.
func (m *Map) Edit() *Edit {
	return &Edit{src: m.src, blocks: m.blocks, root: m.root.Ref}
}

// Blocks returns the number of blocks, including holes.
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

// ZeroRange makes holes of the blocks in [from, to).
//
// zero-is-free: whole subtrees are cut at the highest level that they fill. So it costs
// at most two paths from top to bottom, whatever the range, and loads nothing.
func (e *Edit) ZeroRange(from, to uint64) {
	if from >= min(to, e.blocks) {
		return
	}
	top := e.height() - 1
	if to >= e.blocks {
		to = span(top + 1) // there is nothing after the end to keep
	}
	if from == 0 && to == span(top+1) {
		e.root, e.top = pack.Ref{}, nil
		return
	}
	e.changes().zero(top, from, to)
}

// Grow makes the map larger. The new blocks are holes. It returns an error if blocks is
// less than the current number.
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

// raise adds a level on top of the tree, which becomes slot 0 of that level.
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

// Lookup returns what block idx is mapped to, including changes. It returns a hole if the
// block is not mapped or lies beyond the end.
func (e *Edit) Lookup(ctx context.Context, idx uint64) (pack.Ref, error) {
	if idx >= e.blocks {
		return pack.Ref{}, nil
	}
	// The lowest change on the path counts. Below it, the old pages do.
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

// ref returns what an owned slot holds.
func (n *node) ref(slot int) pack.Ref { return n.refs[rank(n.own, slot)] }

// child returns the changes below a slot, or nil if there are none.
func (n *node) child(slot int) *node {
	if n.over>>slot&1 == 0 {
		return nil
	}
	return n.kids[rank(n.over, slot)]
}

// kid returns the changes below a slot, and creates them if there are none.
func (n *node) kid(slot int) *node {
	i := rank(n.over, slot)
	if n.over>>slot&1 == 0 {
		n.over |= 1 << slot
		n.kids = slices.Insert(n.kids, i, &node{})
	}
	return n.kids[i]
}

// replace makes a slot hold ref and drops the changes below it.
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
