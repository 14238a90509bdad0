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
	// Page returns the raw bytes of the page at ref. The caller may keep them, and
	// verifies their hash. It may be called concurrently.
	//
	// glide:blocks
	Page(ctx context.Context, ref pack.Ref) ([]byte, error)
}

const (
	shards = 16
	// entryOverhead is what a cached page costs besides its bytes: the entry (64 bytes),
	// its share of the map and of the ring, and the rounding of allocations.
	entryOverhead = 256
)

// PageCache holds recently used pages of any number of trees, in a bounded number of
// bytes. It may be used concurrently.
//
// domains-apart: it finds pages by their domain and hash, so tenants can share a cache,
// and who knows the hash of another's page does not find that page with it.
type PageCache struct {
	shards [shards]shard
}

// shard is one part of the cache, with its own CLOCK: the pages form a ring, and a hit
// marks its page. The hand evicts the first page without a mark, and clears the marks
// that it passes. New pages start without a mark, so a walk over a whole tree does not
// evict the pages in use.
type shard struct {
	// glide:nonblocking
	mu      sync.Mutex // guards everything below; not held while a page is loaded
	budget  int64      // bytes
	bytes   int64
	entries map[pack.Hash]*entry // by their mixed hashes
	ring    []*entry
	hand    int
	flights map[pageKey]*flight
	stats   CacheStats
}

// pageKey is by what a page is found.
type pageKey struct {
	domain uint32
	hash   pack.Hash
}

// mixed returns where in a shard's entries the page is: at its hash, into which its domain
// is mixed. buf is for that. Several keys can have one place: then one of them is cached.
func mixed(hash *pack.Hash, domain uint32, buf *pack.Hash) *pack.Hash {
	if domain == 0 {
		return hash
	}
	*buf = *hash
	for i := range 4 {
		buf[28+i] ^= byte(domain >> (8 * i))
	}
	return buf
}

func keyOf(ref *pack.Ref) pageKey { return pageKey{ref.Pack.Domain, ref.Hash} }

type entry struct {
	sum  invariants.Sum // of the page
	page Page
	key  pageKey
	used bool
}

// flight is a load in progress. All callers that ask for the page meanwhile share it.
type flight struct {
	done   chan struct{} // closed when the other fields are set
	page   Page
	err    error
	gaveUp bool // err is set because the loading caller was cancelled
}

// CacheStats says what a PageCache holds and how it has been used.
type CacheStats struct {
	Hits, Misses uint64 // lookups that found their page, and those that did not
	Pages, Bytes int64
}

// NewPageCache returns a cache of at most this many bytes. If that is less than one page
// for each of its 16 shards, it may hold a few pages more.
func NewPageCache(bytes int64) *PageCache {
	c := &PageCache{}
	for i := range c.shards {
		c.shards[i] = shard{
			budget:  bytes / shards,
			entries: make(map[pack.Hash]*entry),
			flights: make(map[pageKey]*flight),
		}
	}
	return c
}

// Cached returns the page at a place if it is in the cache. It does not allocate, and it
// never waits for a load.
func (c *PageCache) Cached(ref pack.Ref) (Page, bool) {
	return c.get(&ref.Hash, ref.Pack.Domain)
}

// Stats returns the statistics of the cache since it was created.
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

func (c *PageCache) get(hash *pack.Hash, domain uint32) (Page, bool) {
	s := c.shard(hash)
	s.mu.Lock()
	p, ok := s.look(hash, domain)
	s.mu.Unlock()
	return p, ok
}

func (c *PageCache) put(key *pageKey, p Page) {
	s := c.shard(&key.hash)
	s.mu.Lock()
	s.insert(key, p)
	s.mu.Unlock()
}

func (s *shard) look(hash *pack.Hash, domain uint32) (Page, bool) {
	var buf pack.Hash
	e := s.entries[*mixed(hash, domain, &buf)]
	if e == nil || e.key.domain != domain {
		s.stats.Misses++
		return nil, false
	}
	s.stats.Hits++
	e.used = true
	if invariants.Enabled {
		invariants.Check(e.key.hash == *hash && e.sum.Matches(e.page), "the map page %s was changed in the cache", hash)
	}
	return e.page, true
}

func (s *shard) insert(key *pageKey, p Page) {
	var buf pack.Hash
	at := mixed(&key.hash, key.domain, &buf)
	if s.entries[*at] != nil {
		return // the hash is the same, so the content is; or another page has the place
	}
	size := int64(len(p)) + entryOverhead
	for s.bytes+size > s.budget && len(s.ring) > 0 {
		s.evict()
	}
	e := &entry{sum: invariants.SumOf(p), key: *key, page: p}
	s.entries[*at] = e
	s.ring = append(s.ring, e)
	s.bytes += size
}

// evict moves the hand to the first page without a mark and drops that page. The last
// page of the ring takes its place. The ring must not be empty.
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
	var buf pack.Hash
	delete(s.entries, *mixed(&e.key.hash, e.key.domain, &buf))
}

// Source is where the maps of one tenant find their pages: in a cache, or through a
// loader. It may be used concurrently.
type Source struct {
	cache  *PageCache
	pages  Pages
	hasher *pack.Hasher
}

// Source returns a source that loads the pages which the cache does not hold. hasher must
// be the one with which the pages were published. It leads to those of the domains that
// the tenant was granted; what is in any other domain is errs.Corrupt.
func (c *PageCache) Source(pages Pages, hasher *pack.Hasher) *Source {
	return &Source{cache: c, pages: pages, hasher: hasher}
}

// reads tells whether the tenant may read what is in a domain.
func (s *Source) reads(domain uint32) bool {
	_, err := s.hasher.In(domain)
	return err == nil
}

// Page returns the page at ref, which must have the given level, from the cache. If
// needed it loads the page into the cache. Concurrent loads of one page are one load.
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
	if !s.reads(ref.Pack.Domain) { // also for what another tenant has put into the cache
		if _, err := s.hasher.Ready(ctx); err != nil {
			return nil, err
		}
		if _, err := s.hasher.In(ref.Pack.Domain); err != nil {
			return nil, err
		}
	}
	key := keyOf(ref)
	for {
		f, p, mine := s.cache.shard(&key.hash).join(&key)
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

// join returns the page if it is cached. Otherwise it returns the flight that loads the
// page; mine is true if the caller must fly it.
func (s *shard) join(key *pageKey) (f *flight, p Page, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.look(&key.hash, key.domain); ok {
		return nil, p, false
	}
	if f := s.flights[*key]; f != nil {
		return f, nil, false
	}
	f = &flight{done: make(chan struct{})}
	s.flights[*key] = f
	return f, nil, true
}

// fly loads the page, verifies it, and ends the flight.
func (s *Source) fly(ctx context.Context, ref *pack.Ref, f *flight) {
	f.err = errors.New("loading it panicked")
	key := keyOf(ref)
	defer func() {
		sh := s.cache.shard(&key.hash)
		sh.mu.Lock()
		delete(sh.flights, key)
		if f.err == nil {
			sh.insert(&key, f.page)
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
	// Not before: the keys may have arrived while it was loaded.
	h, err := s.hasher.In(ref.Pack.Domain)
	if err != nil {
		return nil, err
	}
	// verified: whatever Pages has verified itself, nothing is looked up in bytes that do
	// not match the hash.
	if !h.Matches(ref.Hash, raw) {
		return nil, errs.New(errs.Corrupt, "its %d bytes do not have the hash %s", len(raw), ref.Hash)
	}
	p, err := parsePage(raw)
	if err != nil {
		return nil, err
	}
	for i := range p.packs() {
		if _, err := s.hasher.In(p.packID(i).Domain); err != nil {
			return nil, err // a writer of this tenant cannot have named it
		}
	}
	if cap(p) > len(p)+len(p)/4 {
		p = slices.Clone(p) // the page may be a small part of a larger buffer: do not keep that
	}
	return p, nil
}
