package cache

import (
	"context"
	"errors"
	"sync"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// LocalPages stores block map pages on this host. Both methods may be called
// concurrently. The caller verifies what Page returns.
type LocalPages interface {
	// glide:blocks
	Page(h pack.Hash) ([]byte, error) // nil: this host does not have it
	// glide:blocks
	AddPage(h pack.Hash, page []byte) error
}

// Pages loads block map pages, from the host's own copy or else from the store. The pages
// of one map lie next to each other, and upper ones after those below. So each fetch also
// takes the bytes in front of the page: to open a map costs one request per hundred pages
// or so.
type Pages struct {
	store   *forward.Store
	local   LocalPages
	fetched func(bytes int)
	gone    func(*pack.Ref, error)

	mu      sync.Mutex // glide:nonblocking
	windows []window   // the newest is last
}

// window is a range of a pack that was fetched.
type window struct {
	pack pack.ID
	from uint32
	data []byte
}

const (
	windowBytes = 256 << 10
	maxWindows  = 16
)

// Pages returns the loader for the cache's store.
func (c *Cache) Pages(local LocalPages) *Pages {
	return &Pages{store: c.packs, local: local, gone: c.gone, fetched: func(n int) { c.Stats.Fetched.Add(uint64(n)) }}
}

// StorePages returns a loader that keeps nothing on this host.
func StorePages(store objstore.Store) *Pages {
	return &Pages{store: forward.Follow(store), local: nothingLocal{}, fetched: func(int) {}, gone: func(*pack.Ref, error) {}}
}

// CheckedPages is StorePages with pages of this host, as long as they are whole.
func CheckedPages(store objstore.Store, local LocalPages) *Pages {
	p := StorePages(store)
	p.local = local
	return p
}

// nothingLocal is LocalPages without any.
type nothingLocal struct{}

func (nothingLocal) Page(pack.Hash) ([]byte, error)  { return nil, nil }
func (nothingLocal) AddPage(pack.Hash, []byte) error { return nil }

// For returns the loader for the pages of a domain.
func (p *Pages) For(h *pack.Hasher) blockmap.Pages { return domainPages{p, h} }

type domainPages struct {
	*Pages
	hasher *pack.Hasher
}

// Page returns the verified raw bytes of the page at ref.
func (p domainPages) Page(ctx context.Context, ref pack.Ref) ([]byte, error) {
	page, err := p.local.Page(ref.Hash)
	if err == nil && page != nil && p.is(&ref, page) {
		return page, nil
	}
	if _, err := p.hasher.Ready(ctx); err != nil {
		return nil, err
	}
	if page != nil && p.is(&ref, page) { // with keys it can be told
		return page, nil
	}
	page, err = p.fromWindow(&ref)
	if page == nil {
		if page, err = p.fetch(ctx, &ref); errs.KindOf(err) == errs.Corrupt && err != nil {
			page, err = p.fetch(ctx, &ref) // once more: it may have been damaged in transit
		}
		if errs.KindOf(err) == errs.Corrupt && err != nil {
			page, err = p.fetchCopy(ctx, &ref, err)
		}
	}
	if err != nil {
		p.gone(&ref, err)
		return nil, err
	}
	// If the copy cannot be saved, the next load costs a request.
	_ = p.local.AddPage(ref.Hash, page)
	return page, nil
}

// is tells whether a page is the one at ref, which may be of another domain.
func (p domainPages) is(ref *pack.Ref, page []byte) bool {
	h, err := p.hasher.In(ref.Pack.Domain)
	return err == nil && h.Matches(ref.Hash, page)
}

// fromWindow returns the page from what was fetched earlier, or nil if it is not entirely
// there.
func (p domainPages) fromWindow(ref *pack.Ref) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.windows) - 1; i >= 0; i-- {
		w := &p.windows[i]
		if w.pack == ref.Pack && ref.Off >= w.from && uint64(ref.Off)+uint64(ref.Len) <= uint64(w.from)+uint64(len(w.data)) {
			slot := w.data[ref.Off-w.from:][:ref.Len]
			if page, err := pack.Open(p.hasher, *ref, slot, nil, blockmap.MaxPageSize); err == nil {
				return page, nil
			}
		}
	}
	return nil, nil
}

// fetchCopy fetches a page whose own place is damaged from a copy of it.
func (p domainPages) fetchCopy(ctx context.Context, ref *pack.Ref, damage error) ([]byte, error) {
	copies, err := p.store.Copies(ctx, *ref)
	if err != nil && len(copies) == 0 {
		return nil, errors.Join(damage, err)
	}
	for i := range copies {
		if page, err := p.fetch(ctx, &copies[i]); err == nil {
			return page, nil
		}
	}
	return nil, damage
}

func (p domainPages) fetch(ctx context.Context, ref *pack.Ref) ([]byte, error) {
	end := ref.Off + ref.Len
	from := end - min(end-pack.HeaderLen, max(windowBytes, ref.Len))
	data, err := p.store.GetRange(ctx, ref.Pack.Key(), int64(from), int64(end-from))
	if err != nil {
		return nil, err
	}
	p.fetched(len(data))
	page, err := pack.Open(p.hasher, *ref, data[ref.Off-from:], nil, blockmap.MaxPageSize)
	if errors.Is(err, seal.ErrNoRoot) || errors.Is(err, seal.ErrLocked) {
		if _, err := p.hasher.Newest(ctx); err != nil {
			return nil, err
		}
		page, err = pack.Open(p.hasher, *ref, data[ref.Off-from:], nil, blockmap.MaxPageSize)
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if len(p.windows) == maxWindows {
		p.windows = append(p.windows[:0], p.windows[1:]...)
	}
	p.windows = append(p.windows, window{ref.Pack, from, data})
	p.mu.Unlock()
	return page, nil
}
