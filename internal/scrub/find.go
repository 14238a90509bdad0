package scrub

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/pack"
)

// slotID is the place of a slot.
type slotID struct {
	pack pack.ID
	off  uint32
}

func idOf(ref *pack.Ref) slotID { return slotID{ref.Pack, ref.Off} }

// use is a volume or snapshot that refers to something.
type use struct {
	tenant    string
	name      string // "" if only a pin does
	blockSize uint64
	size      uint64
}

// user is what was found of a slot: who needs it.
type user struct {
	tenant  string
	ref     pack.Ref
	kind    pack.Kind
	size    int   // of a block, bytes
	err     error // of loading a page; nil: it is there
	volumes map[string][]api.Range
}

// finder walks maps for who needs certain slots. A page without any below it is loaded
// once.
type finder struct {
	run    *run
	wanted func(ref *pack.Ref, kind pack.Kind) bool
	pages  *cache.Pages
	cache  *blockmap.PageCache
	used   map[slotID]*user
	clean  map[pageID]bool // pages with nothing wanted below them
}

type pageID struct {
	tenant string
	hash   pack.Hash
}

// walkPages bounds the memory for pages of one walk, in bytes.
const walkPages = 4 << 20

func (r *run) finder(pages *cache.Pages, wanted func(*pack.Ref, pack.Kind) bool) *finder {
	return &finder{run: r, wanted: wanted, pages: pages, cache: blockmap.NewPageCache(walkPages), used: map[slotID]*user{}, clean: map[pageID]bool{}}
}

func (r *run) source(c *blockmap.PageCache, pages *cache.Pages, tenant string) *blockmap.Source {
	h := r.hasher(tenant)
	return c.Source(pages.For(h), h)
}

// note adds a use of a slot.
func (f *finder) note(u use, ref *pack.Ref, kind pack.Kind, err error, off, n uint64) {
	x := f.used[idOf(ref)]
	if x == nil {
		x = &user{tenant: u.tenant, ref: *ref, kind: kind, size: int(u.blockSize), err: err, volumes: map[string][]api.Range{}}
		f.used[idOf(ref)] = x
	}
	if u.name != "" && off < u.size {
		x.volumes[u.name] = append(x.volumes[u.name], api.Range{Offset: off, Length: min(n, u.size-off)})
	}
}

// root adds the uses of a map.
func (f *finder) root(ctx context.Context, u use, root blockmap.Root) error {
	if root.IsHole() {
		return nil
	}
	_, err := f.page(ctx, u, f.run.source(f.cache, f.pages, u.tenant), root.Ref, int(root.Height)-1, 0)
	return err
}

// page adds the uses below a page whose first block is first. It reports whether there
// are any.
func (f *finder) page(ctx context.Context, u use, src *blockmap.Source, ref pack.Ref, level int, first uint64) (found bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	id := pageID{u.tenant, ref.Hash}
	found = f.wanted(&ref, pack.KindPage)
	if !found && f.clean[id] {
		return false, nil
	}
	p, err := src.Page(ctx, &ref, level)
	switch {
	case found:
		if err != nil && !isDamage(err) {
			return true, err
		}
		f.note(u, &ref, pack.KindPage, err, first*u.blockSize, span(level+1)*u.blockSize)
	case isDamage(err):
		return true, nil // it went meanwhile, or is not what is looked for
	}
	if err != nil {
		if found {
			err = nil
		}
		return true, err
	}
	for slot, child := range p.All() {
		idx := first + uint64(slot)*span(level)
		if level == 0 {
			if f.wanted(&child, pack.KindBlock) {
				f.note(u, &child, pack.KindBlock, nil, idx*u.blockSize, u.blockSize)
				found = true
			}
			continue
		}
		below, err := f.page(ctx, u, src, child, level-1, idx)
		if err != nil {
			return true, err
		}
		found = found || below
	}
	if !found {
		f.clean[id] = true
	}
	return found, nil
}

// span returns the number of blocks below a slot of a page of a level, or a number that is
// beyond every volume and does not overflow when it is multiplied by a block's size.
func span(level int) uint64 {
	n := uint64(1)
	for ; level > 0 && n < 1<<37; level-- {
		n *= blockmap.Fanout
	}
	return n
}
