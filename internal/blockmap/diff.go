package blockmap

import (
	"context"

	"github.com/paraglide/glide/internal/pack"
)

// Diff calls fn, in order, for every block whose content differs between a and b, with
// the references in both; one of them may be a hole. Equal hashes mean equal content,
// wherever the bytes lie. Diff does not enter subtrees with equal hashes, so its cost
// follows the difference. The maps may differ in size and height. An error of fn ends
// Diff and is returned.
func Diff(ctx context.Context, a, b *Map, fn func(idx uint64, refA, refB pack.Ref) error) error {
	x, y := a.top(), b.top()
	return diff(ctx, x, y, max(x.level, y.level), 0, fn)
}

// side is one of the two subtrees that are compared: a page of some level, or a block at
// level -1.
type side struct {
	src   *Source
	ref   pack.Ref
	level int
}

func (m *Map) top() side { return side{m.src, m.root.Ref, int(m.root.Height) - 1} }

// diff compares two subtrees, as seen at a level that is at least the height of both.
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

// slots returns what a page of the level maps that has s below it. If s is a lower tree,
// it is slot 0 of the pages that it lacks.
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

// below returns the subtree at ref, which is one of the slots of s at the level.
func (s side) below(ref pack.Ref, level int) side {
	return side{s.src, ref, min(s.level, level-1)}
}
