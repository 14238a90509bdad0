package blockmap

import (
	"context"

	"github.com/paraglide/glide/internal/pack"
)

// Diff calls fn, in order, for every block whose content differs between a and b,
// with what each maps it to; one of the two may be a hole. Content is the same
// where the hash is, wherever the bytes lie. Subtrees of one hash are not
// entered, so the cost follows the difference. The maps may differ in size and
// height. An error of fn ends it and is returned.
func Diff(ctx context.Context, a, b *Map, fn func(idx uint64, refA, refB pack.Ref) error) error {
	x, y := a.top(), b.top()
	return diff(ctx, x, y, max(x.level, y.level), 0, fn)
}

// side is one of the two subtrees that are compared: a page of some level, or at
// level -1 a block.
type side struct {
	src   *Source
	ref   pack.Ref
	level int
}

func (m *Map) top() side { return side{m.src, m.root.Ref, int(m.root.Height) - 1} }

// diff compares two subtrees that stand at a level, and so are no higher.
func diff(ctx context.Context, x, y side, level int, first uint64, fn func(uint64, pack.Ref, pack.Ref) error) error {
	if x.ref.IsHole() && y.ref.IsHole() {
		return nil
	}
	if x.level == y.level && x.ref.Hash == y.ref.Hash && x.ref.IsHole() == y.ref.IsHole() {
		return nil
	}
	if level < 0 {
		return fn(first, x.ref, y.ref)
	}
	xs, err := x.slots(ctx, level)
	if err != nil {
		return err
	}
	ys, err := y.slots(ctx, level)
	if err != nil {
		return err
	}
	for slot := range Fanout {
		err := diff(ctx, x.below(xs[slot], level), y.below(ys[slot], level), level-1, first+uint64(slot)*span(level), fn)
		if err != nil {
			return err
		}
	}
	return nil
}

// slots is what a page of the level, with s below it, maps. A lower tree stands
// in slot 0 of the pages that it lacks.
func (s side) slots(ctx context.Context, level int) (refs [Fanout]pack.Ref, err error) {
	switch {
	case s.ref.IsHole():
	case s.level < level:
		refs[0] = s.ref
	default:
		var p Page
		if p, err = s.src.Page(ctx, &s.ref, level); err == nil {
			p.unpack(&refs)
		}
	}
	return refs, err
}

// below is the subtree at ref, one of the slots of s at the level.
func (s side) below(ref pack.Ref, level int) side {
	return side{s.src, ref, min(s.level, level-1)}
}
