package cache

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
)

// AheadStats count what was fetched before a guest asked for it, in bytes as the store has
// them, even if another host sent the block. Each byte is pending at first, and then used or wasted.
type AheadStats struct {
	Fetched atomic.Uint64
	Used    atomic.Uint64 // in blocks that a guest then read
	Wasted  atomic.Uint64 // in blocks that no guest read within a minute, and between blocks
}

// Bounds on what is fetched ahead of need.
const (
	aheadBytes   = 8 << 20 // of requests in flight
	followBytes  = 6 << 20 // the same, beyond which a list waits: there must be room for the neighbours of a miss
	yieldBytes   = 1 << 20 // the same while a guest waits for the store
	wastedAfter  = time.Minute
	followedOnce = 64 // blocks of a list that are looked up together
)

// ahead is what was fetched ahead of need and not read yet, and the budget for more.
type ahead struct {
	uptime func() time.Duration
	stats  *AheadStats
	unread atomic.Int64 // len(blocks)

	mu      sync.Mutex // glide:nonblocking
	blocks  map[uint64]unread
	order   []fetched // the oldest first; some were read since
	bytes   int64     // of requests in flight
	waiting int       // guests that wait for the store
	eased   sync.Cond // of mu: bytes or waiting fell
}

// unread is a block that was fetched ahead and that no guest has read yet.
type unread struct {
	bytes  uint32            // of the store
	window int               // blocks to fetch ahead when it is read; 0: none
	at     time.Duration     // when it came
	credit *readahead.Credit // earns when the block is read; nil: none
}

type fetched struct {
	key uint64
	at  time.Duration
}

func newAhead(uptime func() time.Duration, stats *AheadStats) *ahead {
	a := &ahead{uptime: uptime, stats: stats, blocks: map[uint64]unread{}}
	a.eased.L = &a.mu
	return a
}

// yield makes lists wait until the returned function is called: a guest waits for the
// store.
func (a *ahead) yield() (done func()) {
	a.mu.Lock()
	a.waiting++
	a.mu.Unlock()
	return func() {
		a.mu.Lock()
		a.waiting--
		a.mu.Unlock()
		a.eased.Broadcast()
	}
}

// reserve takes n bytes of the budget if there are as many.
func (a *ahead) reserve(n int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bytes > 0 && a.bytes+n > aheadBytes {
		return false
	}
	a.bytes += n
	return true
}

// await takes n bytes of the budget when a list may have them.
func (a *ahead) await(ctx context.Context, n int64) error {
	defer context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.eased.Broadcast()
	})()
	a.mu.Lock()
	defer a.mu.Unlock()
	for ctx.Err() == nil {
		limit := int64(followBytes)
		if a.waiting > 0 {
			limit = yieldBytes
		}
		if a.bytes == 0 || a.bytes+n <= limit {
			a.bytes += n
			return nil
		}
		a.eased.Wait()
	}
	return ctx.Err()
}

func (a *ahead) release(n int64) {
	a.mu.Lock()
	a.bytes -= n
	a.mu.Unlock()
	a.eased.Broadcast()
}

// note records a block that came.
func (a *ahead) note(h *pack.Hash, u unread) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u.at = a.uptime()
	a.expire(u.at)
	if old, ok := a.blocks[keyOf(h)]; ok {
		a.stats.Wasted.Add(uint64(old.bytes))
	}
	a.blocks[keyOf(h)] = u
	a.order = append(a.order, fetched{keyOf(h), u.at})
	a.unread.Store(int64(len(a.blocks)))
}

// expire gives up the blocks that came long ago. Under mu.
func (a *ahead) expire(now time.Duration) {
	n := 0
	for ; n < len(a.order) && now-a.order[n].at > wastedAfter; n++ {
		if u, ok := a.blocks[a.order[n].key]; ok && u.at == a.order[n].at {
			a.stats.Wasted.Add(uint64(u.bytes))
			delete(a.blocks, a.order[n].key)
		}
	}
	if a.order = a.order[n:]; len(a.blocks) == 0 {
		a.order = nil
	}
	a.unread.Store(int64(len(a.blocks)))
}

// Expire counts what no guest has read in time as wasted.
func (c *Cache) Expire() {
	c.ahead.mu.Lock()
	defer c.ahead.mu.Unlock()
	c.ahead.expire(c.ahead.uptime())
}

// Touch tells that a guest read a block. It returns how many blocks to fetch ahead of the
// reader now; mostly 0.
func (d *Domain) Touch(h *pack.Hash) (window int) {
	a := d.cache.ahead
	if a.unread.Load() == 0 {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(a.uptime())
	u, ok := a.blocks[keyOf(h)]
	if !ok {
		return 0
	}
	delete(a.blocks, keyOf(h))
	a.unread.Store(int64(len(a.blocks)))
	a.stats.Used.Add(uint64(u.bytes))
	if u.credit != nil {
		u.credit.Used()
	}
	return u.window
}

// Ahead fetches blocks in the background that a guest may read next: the first window of
// refs, which are in the order of the volume, that are not on this host. When the guest
// reads the first of them, Touch returns twice the window. It drops what exceeds its
// budget, and what credit does not cover.
func (d *Domain) Ahead(refs []pack.Ref, size, window int, credit *readahead.Credit) {
	a := d.cache.ahead
	if d.cache.opts.NoAhead {
		return
	}
	var first *pack.Hash
	var mine []pack.Ref
	for i := range refs {
		if len(mine) == window {
			break
		}
		if h := &refs[i].Hash; d.absent(h, size) && credit.Take() {
			if !d.cache.takeOff(h) {
				credit.Return(1)
				continue
			}
			if mine = append(mine, refs[i]); first == nil {
				first = h
			}
		}
	}
	slices.SortFunc(mine, inPacks)
	d.together(mine, func(group []pack.Ref) {
		n := span(group)
		refused := func() {
			d.landAll(group, errAhead)
			credit.Return(len(group))
		}
		if !a.reserve(n) {
			refused()
			return
		}
		d.cache.background(func(ctx context.Context) {
			defer a.release(n)
			d.fetchAhead(cost.Begin(ctx, cost.Prefetch, d.volume), group, size, func(r *pack.Ref) unread {
				u := unread{bytes: r.Len, credit: credit}
				if r.Hash == *first {
					u.window = 2 * window
				}
				return u
			})
		}, func() {
			a.release(n)
			refused()
		})
	})
}

// Follow fetches a list of blocks that guests are likely to read, in about this order. It
// yields to guests that wait for the store. It returns when the blocks are here, or when
// ctx ends. A block that cannot be fetched is left out.
func (d *Domain) Follow(ctx context.Context, refs iter.Seq[pack.Ref], size int) {
	var requests sync.WaitGroup
	defer requests.Wait()
	var part []pack.Ref
	for r := range refs {
		if d.absent(&r.Hash, size) {
			part = append(part, r)
		}
		if len(part) == followedOnce {
			if d.follow(ctx, part, size, &requests) != nil {
				return
			}
			part = part[:0]
		}
	}
	_ = d.follow(ctx, part, size, &requests)
}

// follow fetches the blocks of a part of a list.
func (d *Domain) follow(ctx context.Context, part []pack.Ref, size int, requests *sync.WaitGroup) (err error) {
	a := d.cache.ahead
	part = slices.Clone(part)
	slices.SortFunc(part, inPacks)
	d.together(part, func(group []pack.Ref) {
		n := span(group)
		if err != nil {
			return
		}
		if err = a.await(ctx, n); err != nil {
			return
		}
		group = d.takeOff(group, size) // a guest may have fetched some of them meanwhile
		requests.Go(func() {
			defer a.release(n)
			d.together(group, func(group []pack.Ref) {
				d.fetchAhead(ctx, group, size, func(r *pack.Ref) unread { return unread{bytes: r.Len} })
			})
		})
	})
	return err
}

// together calls fn for each group of blocks that one request can fetch.
func (d *Domain) together(refs []pack.Ref, fn func(group []pack.Ref)) {
	for len(refs) > 0 {
		n := together(refs, maxAhead)
		fn(refs[:n:n])
		refs = refs[n:]
	}
}

// fetchAhead is fetchGroup for blocks that nobody has asked for yet.
func (d *Domain) fetchAhead(ctx context.Context, group []pack.Ref, size int, note func(*pack.Ref) unread) {
	stats, kept := d.cache.ahead.stats, int64(0)
	n := d.fetchGroup(ctx, group, size, func(r *pack.Ref) {
		kept += int64(r.Len)
		d.cache.ahead.note(&r.Hash, note(r))
	})
	stats.Fetched.Add(uint64(n))
	stats.Wasted.Add(uint64(n - kept))
}
