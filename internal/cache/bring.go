package cache

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// Has tells whether the SSD tier has a block of a size.
func (d *Domain) Has(h *pack.Hash, size int) bool { return d.cache.disk.has(h, size) }

func (d *disk) has(h *pack.Hash, n int) bool {
	return d.entryOf(h, n, func(place, []byte) bool { return true })
}

// entryOf calls fn with the slot of a block and its entry, and returns what fn returned;
// false if the tier does not have the block. The block does not become more valuable.
func (d *disk) entryOf(h *pack.Hash, n int, fn func(at place, entry []byte) bool) bool {
	at, ok := d.peek(h, n)
	if !ok {
		return false
	}
	defer at.done()
	buf := scratchPool.Get().(*scratch)
	defer scratchPool.Put(buf)
	entry, got := at.entry(buf, true)
	return got == whole && pack.Hash(entry[:len(h)]) == *h && fn(at, entry)
}

// bringAtOnce is how many requests Bring has under way.
const bringAtOnce = 4

// Fits tells whether the SSD tier can have so many blocks of a size at once.
func (d *Domain) Fits(blocks uint64, size int) bool {
	slot := classOf(size)
	if slot == 0 {
		return false
	}
	slabs := (blocks + uint64(perSlab(slot)) - 1) / uint64(perSlab(slot))
	return slabs*uint64(d.cache.disk.slabLen(slot)) <= uint64(max(d.cache.disk.limit, 0))
}

// ErrNoRoom is the error of blocks that the SSD tier does not take.
var ErrNoRoom = errs.New(errs.NoSpace, "the SSD tier has no room for more blocks: raise --cache, or make room on its disk")

// Bring fetches blocks that the SSD tier does not have into it, neighbours in a pack
// together. Before each request it calls pace with the request's bytes, which may
// wait. It returns how many blocks it brought. The first error ends it; one of kind
// NoSpace tells that the tier, or its disk, is full.
func (d *Domain) Bring(ctx context.Context, refs []pack.Ref, size int, pace func(ctx context.Context, bytes int64) error) (blocks int, err error) {
	refs = slices.DeleteFunc(slices.Clone(refs), func(r pack.Ref) bool { return d.Has(&r.Hash, size) })
	slices.SortFunc(refs, inPacks)
	refs = slices.CompactFunc(refs, func(a, b pack.Ref) bool { return a.Hash == b.Hash })
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(bringAtOnce)
	n := len(refs)
	for len(refs) > 0 && gctx.Err() == nil {
		k := together(refs, maxTogether)
		group := refs[:k]
		refs = refs[k:]
		if err := pace(gctx, span(group)); err != nil {
			break // a request failed, which Wait tells, or ctx has ended
		}
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			return d.bring(gctx, group, size)
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return n, ctx.Err()
}

// bring fetches neighbours in a pack, those that no other host has with one request to the
// store.
func (d *Domain) bring(ctx context.Context, group []pack.Ref, size int) error {
	full := false
	group = d.askPeers(ctx, group, size, func(r *pack.Ref, raw []byte) {
		full = full || !d.cache.disk.put(&r.Hash, raw)
	})
	if full {
		return ErrNoRoom
	}
	if len(group) == 0 {
		return nil
	}
	from := group[0].Off
	b, err := d.cache.packs.GetRange(ctx, group[0].Pack.Key(), int64(from), span(group))
	if err != nil && errs.KindOf(err) != errs.Corrupt {
		return err
	}
	d.cache.Stats.Fetched.Add(uint64(len(b)))
	for i := range group {
		r := &group[i]
		var raw []byte
		if err == nil { // else the pack is too short
			raw, err = d.open(r, b[r.Off-from:][:r.Len], size)
		}
		if raw == nil { // there may be another place for it
			if raw, _, err = d.load(ctx, r, size); err != nil {
				return err
			}
		}
		if !d.cache.disk.put(&r.Hash, raw) {
			return ErrNoRoom
		}
	}
	return nil
}

// inPacks orders blocks as they lie in packs, and packs as an upload session made them.
func inPacks(a, b pack.Ref) int {
	return cmp.Or(bytes.Compare(a.Pack.Nonce[:], b.Pack.Nonce[:]), a.Pack.Compare(b.Pack), cmp.Compare(a.Off, b.Off))
}
