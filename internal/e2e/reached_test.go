package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// bucket is what a store holds, in bytes.
type bucket struct {
	total int64
	kinds map[string]int64 // by the first part of the key
}

// reached returns what the commits in a store reach: the commits themselves, and the slots
// that they name, each once. It shares no code with the collector's mark.
func reached(t *testing.T, url string) (live int64, all bucket) {
	t.Helper()
	ctx := context.Background()
	store, err := objstore.Open(ctx, url, objstore.Options{})
	must(t, err)
	all.kinds = map[string]int64{}
	w := walk{slots: map[slotAt]bool{}, pages: map[pack.Hash]bool{}, store: store}
	must(t, objstore.ListAll(ctx, store, "", "", func(in objstore.Info) bool {
		kind, _, _ := strings.Cut(in.Key, "/")
		all.total += in.Size
		all.kinds[kind] += in.Size
		if _, _, err := commitlog.ParseKey(in.Key); err == nil {
			live += in.Size
			w.keys = append(w.keys, in.Key)
		}
		return true
	}))
	for _, key := range w.keys {
		must(t, w.commit(ctx, key))
	}
	return live + w.bytes, all
}

type slotAt struct {
	pack pack.ID
	off  uint32
}

type walk struct {
	store objstore.Store
	keys  []string
	slots map[slotAt]bool
	pages map[pack.Hash]bool
	bytes int64
}

func (w *walk) commit(ctx context.Context, key string) error {
	raw, err := w.store.Get(ctx, key)
	if err != nil {
		return err
	}
	o, err := commitlog.Decode(raw)
	if err != nil || o.Kind == commitlog.Stub || o.Bare() {
		return err
	}
	roots := []blockmap.Root{o.State.Root}
	for _, s := range o.State.Snapshots {
		roots = append(roots, s.Root)
	}
	for _, root := range roots {
		if err := w.root(ctx, o.State.Tenant, root); err != nil {
			return err
		}
	}
	if len(o.Data) == 0 {
		return nil
	}
	ranges, err := commitlog.DecodeData(o.Data)
	for _, r := range ranges {
		if r.Block != nil {
			w.slot(*r.Block)
		}
	}
	return err
}

func (w *walk) slot(ref pack.Ref) {
	if at := (slotAt{ref.Pack, ref.Off}); !ref.IsHole() && !w.slots[at] {
		w.slots[at] = true
		w.bytes += int64(ref.Len)
	}
}

func (w *walk) root(ctx context.Context, tenant string, root blockmap.Root) error {
	if root.IsHole() {
		return nil
	}
	h := pack.NewHasher(tenant)
	src := blockmap.NewPageCache(1<<20).Source(cache.StorePages(w.store).For(h), h)
	m, err := blockmap.New(src, root, root.Span())
	if err != nil {
		return err
	}
	return m.WalkPages(ctx, func(ref pack.Ref) bool {
		w.slot(ref)
		return w.pages[ref.Hash]
	}, func(ref pack.Ref, p blockmap.Page) error {
		w.pages[ref.Hash] = true
		for _, child := range p.All() {
			w.slot(child)
		}
		return nil
	})
}
