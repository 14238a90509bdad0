// Package cache keeps published blocks near: an SSD tier of slabs, which survives a
// restart, and the store behind it. A memory tier has the blocks that the SSD tier
// has no room for, or cannot be written with. All volumes share the tiers, which
// hold each content once. What guests read often is in the kernel's page cache,
// over the slabs: that is the faster memory tier, and the machine gives it what is
// free.
//
// verified: a block is checked against its hash when it comes from the store, and
// when it enters the SSD tier a checksum of each of its 4 KiB pages is recorded. A
// read touches the pages that it needs, and checks them against those. A page that
// does not match makes the whole block be fetched again. A block of the store that
// does not match its hash is looked for in another pack, and else an error.
// Concurrent misses of one block make one fetch.
package cache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// Options configure a Cache.
type Options struct {
	FS     vfs.FS
	Dir    string // of slabs; must exist
	Memory int64  // bytes of the memory tier
	Disk   int64  // bytes of the SSD tier; 0: none
	// Room tells whether the disk has room for so many bytes of cache more; nil: always.
	//
	// glide:blocks
	Room  func(bytes int64) bool
	Store objstore.Store
	// Fetches is how many fetches ahead of need may be under way; 0 means 16.
	Fetches int
}

// Stats count what a cache did since it was opened.
type Stats struct {
	Hits, Misses atomic.Uint64 // blocks found in a tier, or not
	Fetched      atomic.Uint64 // bytes from the store
	Served       atomic.Uint64 // bytes of blocks handed out
	Repaired     atomic.Uint64 // blocks of the SSD of which a page was damaged
	Damaged      atomic.Uint64 // blocks that the store had damaged
}

// Cache is the cache of one host. It may be used concurrently.
type Cache struct {
	opts  Options
	mem   *memory
	disk  *disk
	slots chan struct{} // bounds fetches ahead
	Stats Stats

	mu      sync.Mutex // glide:nonblocking
	flights map[pack.Hash]*flight
}

// flight is a fetch that others may wait for.
type flight struct {
	done chan struct{}
	raw  []byte
	kept bool // by the SSD tier
	err  error
}

// Open opens the cache, taking up the slabs that are there.
func Open(opts Options) (*Cache, error) {
	if opts.Fetches == 0 {
		opts.Fetches = 16
	}
	if opts.Room == nil {
		opts.Room = func(int64) bool { return true }
	}
	d, err := openDisk(opts.FS, opts.Dir, opts.Disk, opts.Room)
	if err != nil {
		return nil, err
	}
	return &Cache{opts: opts, mem: newMemory(opts.Memory), disk: d, slots: make(chan struct{}, opts.Fetches), flights: map[pack.Hash]*flight{}}, nil
}

// Close closes the slabs; nothing may use the cache afterwards.
func (c *Cache) Close() { c.disk.close() }

// Missing names the slabs whose files were removed from the directory, or replaced
// there. They are used on until the cache is closed.
func (c *Cache) Missing() []string { return c.disk.missing() }

// Usage is the bytes that the two tiers take.
func (c *Cache) Usage() (memory, disk int64) {
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	return c.mem.bytes(), c.disk.bytes
}

// Domain is the cache as one tenant's volumes use it.
type Domain struct {
	cache  *Cache
	hasher *pack.Hasher
	// other returns another place of a block, a hole if there is none.
	other func(pack.Hash) (pack.Ref, error)
}

// Domain returns the cache for blocks with the hashes of a domain. other says
// where else a block may be, for when a pack is damaged or gone; nil: nowhere.
func (c *Cache) Domain(h *pack.Hasher, other func(pack.Hash) (pack.Ref, error)) *Domain {
	return &Domain{c, h, other}
}

// TryRead fills p from byte off of a block of size bytes, if no disk and no network is
// needed for it. It reports whether it did; else p holds anything.
func (d *Domain) TryRead(h *pack.Hash, size int, p []byte, off int) bool {
	c := d.cache
	if c.disk.read(h, size, p, off, false) != whole {
		raw, ok := c.mem.get(h)
		if !ok {
			return false
		}
		copy(p, raw[off:])
	}
	c.Stats.Hits.Add(1)
	c.Stats.Served.Add(uint64(len(p)))
	return true
}

// Read fills p from byte off of the block, which has size bytes.
func (d *Domain) Read(ctx context.Context, ref *pack.Ref, size int, p []byte, off int) error {
	if d.readDisk(&ref.Hash, size, p, off) {
		d.cache.Stats.Served.Add(uint64(len(p)))
		return nil
	}
	raw, err := d.Block(ctx, ref, size)
	if err == nil {
		copy(p, raw[off:])
	}
	return err
}

// Block returns the block of the given size, which must not be modified.
func (d *Domain) Block(ctx context.Context, ref *pack.Ref, size int) ([]byte, error) {
	c := d.cache
	if raw, ok := c.mem.get(&ref.Hash); ok {
		c.Stats.Hits.Add(1)
		c.Stats.Served.Add(uint64(len(raw)))
		return raw, nil
	}
	for {
		c.mu.Lock()
		f, waiting := c.flights[ref.Hash]
		if !waiting {
			f = &flight{done: make(chan struct{})}
			c.flights[ref.Hash] = f
		}
		c.mu.Unlock()
		if !waiting {
			d.fly(ctx, ref, size, f)
		} else {
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if f.err != nil && ctx.Err() == nil && (f.err == errAhead || errs.KindOf(f.err) == errs.Internal) {
				continue // the one that fetched gave up, this one has not
			}
		}
		if f.err == nil {
			c.Stats.Served.Add(uint64(len(f.raw)))
		}
		return f.raw, f.err
	}
}

// errCrashed is how a flight ends that a panic ended: whoever waits tries itself.
var errCrashed = errs.New(errs.Internal, "the fetch of a block met a bug")

// fly gets the block of a flight, and lands it.
func (d *Domain) fly(ctx context.Context, ref *pack.Ref, size int, f *flight) {
	f.err = errCrashed
	defer d.cache.land(&ref.Hash, f)
	// A flight that landed between the look before and the lock has left the
	// block in a tier.
	if raw, ok := d.cache.mem.get(&ref.Hash); ok {
		f.raw, f.err = raw, nil
		return
	}
	f.raw, f.kept, f.err = d.load(ctx, ref, size)
}

// land ends a flight.
func (c *Cache) land(h *pack.Hash, f *flight) {
	if f.err == nil && !f.kept {
		c.mem.put(h, f.raw)
	}
	c.mu.Lock()
	delete(c.flights, *h)
	c.mu.Unlock()
	close(f.done)
}

// load gets a block from the SSD tier or the store; kept tells that the SSD tier has
// it now.
func (d *Domain) load(ctx context.Context, ref *pack.Ref, size int) (raw []byte, kept bool, err error) {
	raw = make([]byte, size)
	if d.readDisk(&ref.Hash, size, raw, 0) {
		return raw, true, nil
	}
	d.cache.Stats.Misses.Add(1)
	raw, err = d.fetch(ctx, ref, size)
	if err != nil && d.other != nil && (errs.KindOf(err) == errs.Corrupt || errs.KindOf(err) == errs.NotFound) {
		if errs.KindOf(err) == errs.Corrupt {
			d.cache.Stats.Damaged.Add(1)
		}
		if alt, aerr := d.other(ref.Hash); aerr == nil && !alt.IsHole() && alt.Pack != ref.Pack {
			raw, err = d.fetch(ctx, &alt, size)
		}
	}
	if err != nil {
		return nil, false, err
	}
	return raw, d.cache.disk.put(&ref.Hash, raw), nil
}

// readDisk reads and verifies a part of a block of the SSD tier. A block that is
// damaged is not there any more.
func (d *Domain) readDisk(h *pack.Hash, size int, p []byte, off int) bool {
	switch d.cache.disk.read(h, size, p, off, true) {
	case whole:
		d.cache.Stats.Hits.Add(1)
		return true
	case damaged:
		d.cache.Stats.Repaired.Add(1)
		d.cache.disk.forget(h, size)
	}
	return false
}

// fetch gets one block from the store.
func (d *Domain) fetch(ctx context.Context, ref *pack.Ref, size int) ([]byte, error) {
	slot, err := d.cache.opts.Store.GetRange(ctx, ref.Pack.Key(), int64(ref.Off), int64(ref.Len))
	if err != nil {
		return nil, err
	}
	d.cache.Stats.Fetched.Add(uint64(len(slot)))
	return d.open(ref, slot, size)
}

func (d *Domain) open(ref *pack.Ref, slot []byte, size int) ([]byte, error) {
	raw, err := pack.Open(d.hasher, *ref, slot, nil, size)
	if err != nil {
		return nil, err
	}
	if len(raw) != size {
		return nil, errs.New(errs.Corrupt, "%s: the block at byte %d has %d bytes, not %d", ref.Pack.Key(), ref.Off, len(raw), size)
	}
	return raw, nil
}

// FetchStored reads a block from the store, whatever the tiers hold, and
// verifies it.
func (d *Domain) FetchStored(ctx context.Context, ref *pack.Ref, size int) ([]byte, error) {
	return d.fetch(ctx, ref, size)
}

// Keep puts a block that was just uploaded, and whose bytes are at hand, into
// the SSD tier; raw is not kept.
func (d *Domain) Keep(h pack.Hash, raw []byte) { d.cache.disk.put(&h, raw) }

// errAhead marks a fetch ahead that was given up; whoever needs the block tries itself.
var errAhead = errs.New(errs.Unavailable, "a fetch ahead of need failed")

// Bounds on one request of a fetch ahead, bytes.
const (
	maxTogether = 4 << 20
	maxBetween  = 16 << 10 // unwanted bytes between two wanted slots
)

// Prefetch fetches blocks in the background. Neighbours in a pack are fetched
// in one request; what the SSD tier has is brought into the page cache. It drops
// what it has no room for.
func (d *Domain) Prefetch(refs []pack.Ref, size int) {
	c := d.cache
	var mine []pack.Ref
	for i := range refs {
		h := &refs[i].Hash
		if c.disk.willNeed(h, size) {
			continue
		}
		if _, ok := c.mem.get(h); ok {
			continue
		}
		c.mu.Lock()
		if _, waiting := c.flights[*h]; !waiting {
			c.flights[*h] = &flight{done: make(chan struct{})}
			mine = append(mine, refs[i])
		}
		c.mu.Unlock()
	}
	slices.SortFunc(mine, inPacks)
	for len(mine) > 0 {
		n := together(mine)
		group := mine[:n:n]
		mine = mine[n:]
		select {
		case c.slots <- struct{}{}:
			go func() {
				defer func() { <-c.slots }()
				d.ahead(group, size)
			}()
		default:
			d.landAll(group, errAhead)
		}
	}
}

// together is how many of the first refs one request can fetch.
func together(refs []pack.Ref) int {
	first := refs[0]
	n := 1
	for ; n < len(refs); n++ {
		end := refs[n-1].Off + refs[n-1].Len
		if r := refs[n]; r.Pack != first.Pack || r.Off > end+maxBetween || r.Off+r.Len-first.Off > maxTogether {
			break
		}
	}
	return n
}

// ahead fetches a group and lands its flights.
func (d *Domain) ahead(group []pack.Ref, size int) {
	c := d.cache
	for len(group) > 0 {
		n := together(group)
		part := group[:n]
		group = group[n:]
		from, to := part[0].Off, part[n-1].Off+part[n-1].Len
		b, err := c.opts.Store.GetRange(context.Background(), part[0].Pack.Key(), int64(from), int64(to-from))
		if err != nil {
			d.landAll(part, errAhead)
			continue
		}
		c.Stats.Fetched.Add(uint64(len(b)))
		c.Stats.Misses.Add(uint64(n))
		for i := range part {
			d.landAhead(&part[i], b[part[i].Off-from:][:part[i].Len], size)
		}
	}
}

// landAhead lands the flight of one block, whose slot was fetched.
func (d *Domain) landAhead(ref *pack.Ref, slot []byte, size int) {
	f := d.cache.flight(&ref.Hash)
	if f.raw, f.err = d.open(ref, slot, size); f.err == nil {
		f.kept = d.cache.disk.put(&ref.Hash, f.raw)
	} else {
		f.err = errAhead // the one who needs it finds out why
	}
	d.cache.land(&ref.Hash, f)
}

// landAll ends flights that failed.
func (d *Domain) landAll(refs []pack.Ref, err error) {
	for i := range refs {
		f := d.cache.flight(&refs[i].Hash)
		f.err = err
		d.cache.land(&refs[i].Hash, f)
	}
}

// flight is the flight of a block, which there must be.
func (c *Cache) flight(h *pack.Hash) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flights[*h]
}
