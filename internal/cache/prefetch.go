package cache

import (
	"context"
	"slices"

	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// errAhead ends the flights of a failed prefetch. A caller that needs a block tries
// itself.
var errAhead = errs.New(errs.Unavailable, "a fetch ahead of need failed")

// Limits on one request for several blocks, bytes.
const (
	maxTogether = 4 << 20
	maxAhead    = 1 << 20  // if nobody waits for it: a guest may want a block of it meanwhile
	maxBetween  = 16 << 10 // unneeded bytes between two slots
)

// WillNeed brings those of the blocks into the kernel's page cache that the SSD tier has.
func (d *Domain) WillNeed(refs []pack.Ref, size int) {
	for i := range refs {
		d.cache.disk.willNeed(&refs[i].Hash, size)
	}
}

// Prefetch fetches blocks in the background that a guest has asked for. It fetches
// neighbours in a pack in one request, and brings blocks of the SSD tier into the page
// cache. It drops what exceeds its limits.
func (d *Domain) Prefetch(refs []pack.Ref, size int) {
	c := d.cache
	d.WillNeed(refs, size)
	mine := d.takeOff(refs, size)
	for len(mine) > 0 {
		n := together(mine, maxTogether)
		group := mine[:n:n]
		mine = mine[n:]
		select {
		case c.slots <- struct{}{}:
			free := func() { <-c.slots }
			c.background(func(ctx context.Context) {
				defer free()
				d.fetchGroup(cost.Begin(ctx, cost.Read, d.volume), group, size, nil)
			}, func() {
				defer free()
				d.landAll(group, errAhead)
			})
		default:
			d.landAll(group, errAhead)
		}
	}
}

// takeOff begins flights for those blocks that are in no tier and in no flight. It
// returns them as they lie in packs.
func (d *Domain) takeOff(refs []pack.Ref, size int) []pack.Ref {
	var mine []pack.Ref
	for i := range refs {
		if d.absent(&refs[i].Hash, size) && d.cache.takeOff(&refs[i].Hash) {
			mine = append(mine, refs[i])
		}
	}
	slices.SortFunc(mine, inPacks)
	return mine
}

// absent reports whether a block is in no tier.
func (d *Domain) absent(h *pack.Hash, size int) bool {
	if at, ok := d.cache.disk.peek(h, size); ok {
		at.done()
		return false
	}
	_, ok := d.cache.mem.get(h)
	return !ok
}

// takeOff begins a flight unless the block has one.
func (c *Cache) takeOff(h *pack.Hash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, waiting := c.flights[*h]; waiting {
		return false
	}
	c.flights[*h] = &flight{done: make(chan struct{})}
	return true
}

// together returns how many of the first refs, which are in the order of inPacks, one
// request of at most limit bytes can fetch.
func together(refs []pack.Ref, limit uint32) int {
	first := refs[0]
	n := 1
	for ; n < len(refs); n++ {
		end := refs[n-1].Off + refs[n-1].Len
		if r := refs[n]; r.Pack != first.Pack || r.Off < end || r.Off > end+maxBetween || r.Off+r.Len-first.Off > limit {
			break
		}
	}
	return n
}

// span returns the bytes of the request for neighbours in a pack.
func span(group []pack.Ref) int64 {
	last := group[len(group)-1]
	return int64(last.Off + last.Len - group[0].Off)
}

// fetchGroup fetches neighbours in a pack, those that no other host has with one request
// to the store, and ends their flights. came, if not nil, is called for each block that
// came, before its flight ends. It returns the number of bytes that the store sent, and
// would have sent for what other hosts sent.
func (d *Domain) fetchGroup(ctx context.Context, group []pack.Ref, size int, came func(*pack.Ref)) (n int64) {
	c := d.cache
	flights := make(map[pack.Hash]*flight, len(group)) // that have not ended
	for i := range group {
		flights[group[i].Hash] = c.flight(&group[i].Hash)
	}
	defer func() {
		if v := recover(); v != nil { // a bug ends these flights, and not the daemon
			for h, f := range flights {
				f.err = errCrashed
				c.land(&h, f)
			}
			if c.opts.Panicked != nil {
				_ = c.opts.Panicked("a fetch ahead of need", v)
			}
		}
	}()
	land := func(r *pack.Ref, raw []byte, err error) {
		f := flights[r.Hash]
		delete(flights, r.Hash)
		if f.raw, f.err = raw, err; err == nil {
			f.kept = c.disk.put(&r.Hash, raw)
			c.Stats.Misses.Add(1)
			if came != nil {
				came(r)
			}
		}
		c.land(&r.Hash, f)
	}
	group = d.askPeers(ctx, group, size, func(r *pack.Ref, raw []byte) {
		n += int64(r.Len)
		land(r, raw, nil)
	})
	if len(group) == 0 {
		return n
	}
	from := group[0].Off
	b, err := c.packs.GetRange(ctx, group[0].Pack.Key(), int64(from), span(group))
	if err != nil {
		d.landAll(group, errAhead)
		return n
	}
	c.Stats.Fetched.Add(uint64(len(b)))
	for i := range group {
		r := &group[i]
		raw, err := d.open(r, b[r.Off-from:][:r.Len], size)
		if err != nil {
			err = errAhead // a caller that needs it will get the reason
		}
		land(r, raw, err)
	}
	return n + int64(len(b))
}

// landAll ends flights that failed.
func (d *Domain) landAll(refs []pack.Ref, err error) {
	for i := range refs {
		f := d.cache.flight(&refs[i].Hash)
		f.err = err
		d.cache.land(&refs[i].Hash, f)
	}
}

// flight returns the flight of a block. There must be one.
func (c *Cache) flight(h *pack.Hash) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flights[*h]
}
