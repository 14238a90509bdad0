package blockmap

import (
	"context"
	"math/bits"

	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
)

// Sink receives the pages of a publication, each after the pages below it.
type Sink interface {
	// AddPage receives a page, which it must not modify, and returns the page's place.
	// The place is final: the next page may already name it. A sink that has a page with
	// this hash in the store may return its place and write nothing.
	//
	// glide:blocks
	AddPage(ctx context.Context, hash pack.Hash, page []byte) (pack.Ref, error)
}

// Publish passes the changed pages to the sink and returns the new root. It loads the old
// pages that are only partly replaced. A page that does not change keeps its place and is
// not passed on. A page that becomes empty becomes a hole. Equal mappings give equal
// pages.
//
// published-is-complete: the root is not valid before everything that the sink received
// is durable. The Edit continues from the new root; after an error it is unchanged. If
// what a sink received is abandoned, then every Edit that was published to it, even
// partly, must be abandoned too.
func (e *Edit) Publish(ctx context.Context, sink Sink) (Root, error) {
	if e.top != nil {
		ref, err := e.merge(ctx, sink, e.top, e.height()-1, e.root)
		if err != nil {
			return Root{}, err
		}
		e.root, e.top = ref, nil
	}
	if e.root.IsHole() {
		return Root{}, nil
	}
	root := Root{Ref: e.root, Height: HeightFor(e.blocks)}
	if invariants.Enabled {
		e.src.assertRoot(root)
	}
	return root, nil
}

// PublishBefore passes on those changed pages that lie entirely before block idx and
// drops their content. So an import in order holds at most one changed page per level. It
// costs little if there are none. Blocks before idx may still be changed later; that
// passes on their pages again.
func (e *Edit) PublishBefore(ctx context.Context, idx uint64, sink Sink) error {
	if e.top == nil {
		return nil
	}
	return e.finish(ctx, sink, e.top, e.height()-1, e.root, idx)
}

// finish publishes the pages before block idx, which is counted from the first block of
// n's page. under is the page below n.
func (e *Edit) finish(ctx context.Context, sink Sink, n *node, level int, under pack.Ref, idx uint64) error {
	for m := n.over & within(level, 0, 0, idx); m != 0; m &= m - 1 {
		slot := bits.TrailingZeros64(m)
		whole := uint64(slot+1)*span(level) <= idx
		if !whole && level == 1 {
			return nil // the leaf at idx: it has no pages below it
		}
		below, err := e.below(ctx, n, level, under, slot)
		if err != nil {
			return err
		}
		if !whole {
			return e.finish(ctx, sink, n.child(slot), level-1, below, idx-uint64(slot)*span(level))
		}
		ref, err := e.merge(ctx, sink, n.child(slot), level-1, below)
		if err != nil {
			return err
		}
		n.replace(slot, ref)
	}
	return nil
}

// below returns the page below the changes in n's slot.
func (e *Edit) below(ctx context.Context, n *node, level int, under pack.Ref, slot int) (pack.Ref, error) {
	if n.owns(slot) {
		return n.ref(slot), nil
	}
	if under.IsHole() {
		return pack.Ref{}, nil
	}
	p, err := e.src.Page(ctx, &under, level)
	if err != nil {
		return pack.Ref{}, err
	}
	return p.Ref(slot), nil
}

// merge publishes n on top of the page under it. It changes neither.
func (e *Edit) merge(ctx context.Context, sink Sink, n *node, level int, under pack.Ref) (pack.Ref, error) {
	var refs [Fanout]pack.Ref
	if !under.IsHole() && n.own != allSlots {
		p, err := e.src.Page(ctx, &under, level)
		if err != nil {
			return pack.Ref{}, err
		}
		p.unpack(&refs)
	}
	for i, m := 0, n.own; m != 0; i, m = i+1, m&(m-1) {
		refs[bits.TrailingZeros64(m)] = n.refs[i]
	}
	for i, m := 0, n.over; m != 0; i, m = i+1, m&(m-1) {
		slot := bits.TrailingZeros64(m)
		ref, err := e.merge(ctx, sink, n.kids[i], level-1, refs[slot])
		if err != nil {
			return pack.Ref{}, err
		}
		refs[slot] = ref
	}
	return e.add(ctx, sink, encodePage(level, &refs), under)
}

// assertRoot asserts that the page of the root, if it is in the cache, has the
// level that the root's height asks for.
func (s *Source) assertRoot(root Root) {
	if p, ok := s.cache.get(&root.Ref.Hash, root.Ref.Pack.Domain); ok {
		invariants.Check(p.Level() == int(root.Height)-1, "a root of height %d is a page of level %d", root.Height, p.Level())
	}
}

// add passes a page on, unless it is empty or equal to the one below.
func (e *Edit) add(ctx context.Context, sink Sink, p Page, under pack.Ref) (pack.Ref, error) {
	if p == nil {
		return pack.Ref{}, nil
	}
	hash := e.src.hasher.Sum(p)
	if !under.IsHole() {
		// What lies in another domain has that domain's hash.
		h, err := e.src.hasher.In(under.Pack.Domain)
		if err != nil {
			return pack.Ref{}, err
		}
		if h == e.src.hasher && hash == under.Hash || h != e.src.hasher && h.Sum(p) == under.Hash {
			return under, nil
		}
	}
	ref, err := sink.AddPage(ctx, hash, p)
	if err != nil {
		return pack.Ref{}, err
	}
	e.src.cache.put(&pageKey{ref.Pack.Domain, hash}, p)
	return ref, nil
}
