package blockmap

import (
	"context"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// Map is one published tree: block index to reference. It is immutable, takes about a
// hundred bytes, and may be used concurrently. Its pages are loaded on demand.
type Map struct {
	src    *Source
	root   Root
	blocks uint64
}

// New returns the map with this number of blocks and this root. It loads nothing. If the
// root's height is not HeightFor(blocks), the error is errs.Corrupt.
func New(src *Source, root Root, blocks uint64) (*Map, error) {
	if blocks > maxBlocks {
		return nil, tooMany(blocks)
	}
	if root.IsHole() {
		root = Root{}
	} else if root.Height != HeightFor(blocks) {
		return nil, errs.New(errs.Corrupt, "block map of height %d for %d blocks, which need %d",
			root.Height, blocks, HeightFor(blocks))
	}
	return &Map{src: src, root: root, blocks: blocks}, nil
}

func tooMany(blocks uint64) error {
	return errs.New(errs.Invalid, "a block map of %d blocks; the most is %d: use larger blocks", blocks, uint64(maxBlocks))
}

// Root returns the map's root.
func (m *Map) Root() Root { return m.root }

// Blocks returns the number of blocks, including holes.
func (m *Map) Blocks() uint64 { return m.blocks }

// Lookup returns what block idx is mapped to. It returns a hole (the zero Ref) if the
// block is not mapped or lies beyond the end.
func (m *Map) Lookup(ctx context.Context, idx uint64) (pack.Ref, error) {
	if ref, ok := m.TryLookup(idx); ok {
		return ref, nil
	}
	return m.src.lookup(ctx, m.root.Ref, int(m.root.Height)-1, idx)
}

// TryLookup is Lookup without waiting: ok is false if a page that it needs is not in the
// cache. It does not allocate.
func (m *Map) TryLookup(idx uint64) (ref pack.Ref, ok bool) {
	if idx >= m.blocks || m.root.IsHole() {
		return pack.Ref{}, true
	}
	hash, domain := &m.root.Ref.Hash, m.root.Ref.Pack.Domain
	if !m.src.reads(domain) {
		return pack.Ref{}, false
	}
	for level := int(m.root.Height) - 1; ; level-- {
		p, ok := m.src.cache.get(hash, domain)
		if !ok || p.Level() != level { // Lookup says what is wrong with a page, or loads it
			return pack.Ref{}, false
		}
		e := p.entry(slotOf(idx, level))
		if e == nil {
			return pack.Ref{}, true
		}
		if level == 0 {
			return p.decode(e), true
		}
		hash = (*pack.Hash)(e)
		if d := p.domain(e); d != domain {
			if domain = d; !m.src.reads(d) {
				return pack.Ref{}, false
			}
		}
	}
}

// lookup looks up block idx below the page at ref. A hole maps nothing.
func (s *Source) lookup(ctx context.Context, ref pack.Ref, level int, idx uint64) (pack.Ref, error) {
	for ; level >= 0 && !ref.IsHole(); level-- {
		p, err := s.Page(ctx, &ref, level)
		if err != nil {
			return pack.Ref{}, err
		}
		ref = p.Ref(slotOf(idx, level))
	}
	return ref, nil
}
