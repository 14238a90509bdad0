package blockmap

import (
	"context"
	"math/bits"

	"github.com/paraglide/glide/internal/pack"
)

// Walk calls fn for every mapped block in [from, to), in order. An error of fn ends the
// walk and is returned. Holes cost nothing.
func (m *Map) Walk(ctx context.Context, from, to uint64, fn func(idx uint64, ref pack.Ref) error) error {
	return m.leaves(ctx, from, to, func(first uint64, p Page, slots uint64) error {
		for ; slots != 0; slots &= slots - 1 {
			slot := bits.TrailingZeros64(slots)
			if err := fn(first+uint64(slot), p.Ref(slot)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Extents calls fn for every maximal run of mapped or unmapped blocks in [from, to), in
// order and without gaps. Blocks beyond the end are unmapped. An error of fn ends it and
// is returned.
func (m *Map) Extents(ctx context.Context, from, to uint64, fn func(first, count uint64, mapped bool) error) error {
	if from >= to {
		return nil
	}
	r := runs{first: from, end: from, fn: fn}
	err := m.leaves(ctx, from, to, func(first uint64, _ Page, slots uint64) error {
		for slots != 0 {
			low := bits.TrailingZeros64(slots)
			n := bits.TrailingZeros64(^(slots >> low))
			if err := r.mapped(first+uint64(low), first+uint64(low+n)); err != nil {
				return err
			}
			slots &^= (1<<n - 1) << low
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.mapped(to, to)
}

// runs joins adjacent mapped runs. The last one, [first, end), is not reported yet.
type runs struct {
	first, end uint64
	fn         func(first, count uint64, mapped bool) error
}

// mapped adds the next mapped run, [first, end). An empty run ends the last one.
func (r *runs) mapped(first, end uint64) error {
	if first == r.end && first != end {
		r.end = end
		return nil
	}
	if r.first < r.end {
		if err := r.fn(r.first, r.end-r.first, true); err != nil {
			return err
		}
	}
	if r.end < first {
		if err := r.fn(r.end, first-r.end, false); err != nil {
			return err
		}
	}
	r.first, r.end = first, end
	return nil
}

// leaves calls fn, in order, for every leaf with mapped blocks in [from, to). It passes
// the leaf's first block and those of its slots that are mapped and in range.
func (m *Map) leaves(ctx context.Context, from, to uint64, fn func(first uint64, p Page, slots uint64) error) error {
	to = min(to, m.blocks)
	if from >= to || m.root.IsHole() {
		return nil
	}
	return m.src.leaves(ctx, &m.root.Ref, int(m.root.Height)-1, 0, from, to, fn)
}

// leaves does this below one page, whose first block is first.
func (s *Source) leaves(ctx context.Context, ref *pack.Ref, level int, first, from, to uint64,
	fn func(first uint64, p Page, slots uint64) error,
) error {
	p, err := s.Page(ctx, ref, level)
	if err != nil {
		return err
	}
	slots := p.bitmap() & within(level, first, from, to)
	if level == 0 {
		if slots == 0 {
			return nil
		}
		return fn(first, p, slots)
	}
	for ; slots != 0; slots &= slots - 1 {
		slot := bits.TrailingZeros64(slots)
		child := p.Ref(slot)
		if err := s.leaves(ctx, &child, level-1, first+uint64(slot)*span(level), from, to, fn); err != nil {
			return err
		}
	}
	return nil
}

// within returns the slots that hold blocks of [from, to), for a page of the level whose
// first block is first.
func within(level int, first, from, to uint64) uint64 {
	mask := allSlots
	if from > first {
		if low := (from - first) / span(level); low < Fanout {
			mask = mask >> low << low
		} else {
			mask = 0
		}
	}
	if to <= first {
		return 0
	}
	if last := (to - 1 - first) / span(level); last < Fanout-1 {
		mask &= 1<<(last+1) - 1
	}
	return mask
}

// WalkPages calls fn for every page of the tree, each before the pages below it. If skip
// returns true for a page, that page is neither loaded nor entered. So a mark phase can
// visit pages that trees share only once. skip may be nil. An error of fn ends the walk
// and is returned.
func (m *Map) WalkPages(ctx context.Context, skip func(pack.Ref) bool, fn func(pack.Ref, Page) error) error {
	return m.src.walkPages(ctx, m.root.Ref, int(m.root.Height)-1, skip, fn)
}

func (s *Source) walkPages(ctx context.Context, ref pack.Ref, level int,
	skip func(pack.Ref) bool, fn func(pack.Ref, Page) error,
) error {
	if ref.IsHole() || skip != nil && skip(ref) {
		return nil
	}
	p, err := s.Page(ctx, &ref, level)
	if err != nil {
		return err
	}
	if err := fn(ref, p); err != nil || level == 0 {
		return err
	}
	for _, child := range p.All() {
		if err := s.walkPages(ctx, child, level-1, skip, fn); err != nil {
			return err
		}
	}
	return nil
}
