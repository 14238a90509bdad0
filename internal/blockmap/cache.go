package blockmap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
)

// Pages loads encoded pages, from the store or from a local copy.
type Pages interface {
	// Page returns the raw bytes of the page at ref. The caller keeps them and
	// checks their hash. It may be called concurrently.
	//
	// glide:blocks
	Page(ctx context.Context, ref pack.Ref) ([]byte, error)
}

const (
	shards = 16
	// entryOverhead is what a cached page costs besides its bytes: the entry (64
	// bytes), its share of the map and of the ring, and what allocation rounds up.
	entryOverhead = 256
)

// PageCache holds the pages that were used lately, of any number of trees, in a
// bounded number of bytes. Pages are known by their hash, which is keyed by
// tenant, so tenants can share a cache. It may be used concurrently.
type PageCache struct {
	shards [shards]shard
}

// shard is one part of the cache, with its own clock: pages lie on a ring, a hit
// marks its page, and the hand evicts the first page without a mark and takes
// the marks that it passes. New pages come without one, so a walk over a whole
// tree does not drive out the pages in use.
type shard struct {
	// glide:nonblocking
	mu      sync.Mutex // guards everything below; never held while loading
	budget  int64      // bytes
	bytes   int64
	entries map[pack.Hash]*entry
	ring    []*entry
	hand    int
	flights map[pack.Hash]*flight
	stats   CacheStats
}

type entry struct {
	sum  invariants.Sum // of the page
	page Page
	hash pack.Hash
	used bool
}

// flight is one load under way, for everyone who asks for the page meanwhile.
type flight struct {
	done   chan struct{} // closed when the rest is set
	page   Page
	err    error
	gaveUp bool // err is there because whoever was loading was cancelled
}

// CacheStats says what a PageCache holds and how it was used.
type CacheStats struct {
	Hits, Misses uint64 // looks that found their page, and those that did not
	Pages, Bytes int64
}

// NewPageCache returns a cache of at most so many bytes (a few pages more when
// that is less than one page for each of its 16 shards).
func NewPageCache(bytes int64) *PageCache {
	c := &PageCache{}
	for i := range c.shards {
		c.shards[i] = shard{
			budget:  bytes / shards,
			entries: make(map[pack.Hash]*entry),
			flights: make(map[pack.Hash]*flight),
		}
	}
	return c
}

// Cached is the page with the hash, if it is in the cache. It does not allocate
// and never waits for a load.
func (c *PageCache) Cached(hash pack.Hash) (Page, bool) { return c.get(&hash) }

// Stats sums up the cache since it was made.
func (c *PageCache) Stats() (sum CacheStats) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		sum.Hits += s.stats.Hits
		sum.Misses += s.stats.Misses
		sum.Pages += int64(len(s.ring))
		sum.Bytes += s.bytes
		s.mu.Unlock()
	}
	return sum
}

func (c *PageCache) shard(hash *pack.Hash) *shard { return &c.shards[hash[0]%shards] }

func (c *PageCache) get(hash *pack.Hash) (Page, bool) {
	s := c.shard(hash)
	s.mu.Lock()
	p, ok := s.look(hash)
	s.mu.Unlock()
	return p, ok
}

func (c *PageCache) put(hash pack.Hash, p Page) {
	s := c.shard(&hash)
	s.mu.Lock()
	s.insert(hash, p)
	s.mu.Unlock()
}

func (s *shard) look(hash *pack.Hash) (Page, bool) {
	e := s.entries[*hash]
	if e == nil {
		s.stats.Misses++
		return nil, false
	}
	s.stats.Hits++
	e.used = true
	if invariants.Enabled {
		invariants.Check(e.hash == *hash && e.sum.Matches(e.page), "the map page %s was changed in the cache", hash)
	}
	return e.page, true
}

func (s *shard) insert(hash pack.Hash, p Page) {
	if s.entries[hash] != nil {
		return // the same content, since the hash is the same
	}
	size := int64(len(p)) + entryOverhead
	for s.bytes+size > s.budget && len(s.ring) > 0 {
		s.evict()
	}
	e := &entry{sum: invariants.SumOf(p), hash: hash, page: p}
	s.entries[hash] = e
	s.ring = append(s.ring, e)
	s.bytes += size
}

// evict turns the hand to the first page without a mark and drops it; the last
// page of the ring takes its place. The ring is not empty.
func (s *shard) evict() {
	for {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		e := s.ring[s.hand]
		if !e.used {
			break
		}
		e.used = false
		s.hand++
	}
	e, last := s.ring[s.hand], len(s.ring)-1
	s.ring[s.hand], s.ring[last] = s.ring[last], nil
	s.ring = s.ring[:last]
	s.bytes -= int64(len(e.page)) + entryOverhead
	delete(s.entries, e.hash)
}

// Source is where the maps of one tenant find their pages: a cache before a
// loader. It may be used concurrently.
type Source struct {
	cache  *PageCache
	pages  Pages
	hasher *pack.Hasher
}

// Source returns a source that loads with pages what the cache does not hold.
// hasher is the one with which the pages were published.
func (c *PageCache) Source(pages Pages, hasher *pack.Hasher) *Source {
	return &Source{cache: c, pages: pages, hasher: hasher}
}

// Page returns the page at ref, of the given level, from the cache or loaded
// into it. Concurrent loads of one page are one load.
func (s *Source) Page(ctx context.Context, ref *pack.Ref, level int) (Page, error) {
	p, err := s.load(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("map page at %d of %s: %w", ref.Off, ref.Pack.Key(), err)
	}
	if p.Level() != level {
		return nil, errs.New(errs.Corrupt, "map page at %d of %s: it has level %d, its place is at level %d",
			ref.Off, ref.Pack.Key(), p.Level(), level)
	}
	return p, nil
}

func (s *Source) load(ctx context.Context, ref *pack.Ref) (Page, error) {
	for {
		f, p, mine := s.cache.shard(&ref.Hash).join(&ref.Hash)
		if f == nil {
			return p, nil
		}
		if mine {
			s.fly(ctx, ref, f)
			return f.page, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !f.gaveUp {
			return f.page, f.err
		}
	}
}

// join returns the page when it is cached; otherwise the flight that brings it,
// and whether the caller has to fly it.
func (s *shard) join(hash *pack.Hash) (f *flight, p Page, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.look(hash); ok {
		return nil, p, false
	}
	if f := s.flights[*hash]; f != nil {
		return f, nil, false
	}
	f = &flight{done: make(chan struct{})}
	s.flights[*hash] = f
	return f, nil, true
}

// fly loads the page, checks it, and lands.
func (s *Source) fly(ctx context.Context, ref *pack.Ref, f *flight) {
	f.err = errors.New("loading it panicked")
	defer func() {
		sh := s.cache.shard(&ref.Hash)
		sh.mu.Lock()
		delete(sh.flights, ref.Hash)
		if f.err == nil {
			sh.insert(ref.Hash, f.page)
		}
		sh.mu.Unlock()
		close(f.done)
	}()
	f.page, f.err = s.fetch(ctx, ref)
	f.gaveUp = f.err != nil && ctx.Err() != nil
}

func (s *Source) fetch(ctx context.Context, ref *pack.Ref) (Page, error) {
	raw, err := s.pages.Page(ctx, *ref)
	if err != nil {
		return nil, err
	}
	// verified: whatever Pages has checked itself, nothing is looked up in bytes
	// of another hash.
	if s.hasher.Sum(raw) != ref.Hash {
		return nil, errs.New(errs.Corrupt, "its %d bytes do not have the hash %s", len(raw), ref.Hash)
	}
	p, err := parsePage(raw)
	if err != nil {
		return nil, err
	}
	if cap(p) > len(p)+len(p)/4 {
		p = slices.Clone(p) // do not keep a buffer of which the page is a small part
	}
	return p, nil
}
