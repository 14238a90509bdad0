// Package cache holds published blocks close to the host: an SSD tier of slabs, which
// survives a restart, and the store behind it. Other hosts may be asked before the store. A
// memory tier has the blocks for which the
// SSD tier has no room, or which it cannot write. All volumes share the tiers, and each
// content is held once. What guests read often is in the kernel's page cache of the
// slabs. That is the faster memory tier, and it takes the memory that is free on the
// machine.
//
// verified: a block is verified against its hash when it comes from another host or the
// store. When it
// enters the SSD tier, a checksum of each of its 4 KiB pages is recorded. A read touches
// only the pages that it needs, and verifies them against these checksums. If a page does
// not match, the whole block is fetched again. If a block from the store does not match
// its hash, it is fetched from another pack that has it; without one, that is an error.
// Concurrent misses of a block share one fetch.
package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// Options configure a Cache.
type Options struct {
	FS     vfs.FS
	Dir    string // of slabs; must exist
	Memory int64  // bytes of the memory tier
	Disk   int64  // bytes of the SSD tier; 0: there is none
	// Room reports whether the disk has room for that many more bytes of cache; nil:
	// always.
	//
	// glide:blocks
	Room  func(bytes int64) bool
	Store objstore.Store
	Peers Peers // asked before the store; nil: none
	// Local seals the blocks of the SSD tier; nil: they are plain.
	Local *seal.Local
	// Fetches is how many requests for blocks that a guest announced may be in progress;
	// 0 means 16.
	Fetches int
	NoAhead bool // fetch nothing that no guest asked for
	// Panicked is told of a panic of a fetch that nobody waits for; nil: nobody is.
	Panicked func(doing string, value any) error
	// Gone is told of a block or a page that a reader needs and that is in no place where
	// it should be; nil: nobody is.
	Gone func(ref *pack.Ref)
	// Uptime is a clock that is never set; nil: time stands still.
	Uptime func() time.Duration
}

// Stats are the counters of a cache since it was opened.
type Stats struct {
	Hits, Misses atomic.Uint64 // blocks that a tier had, or did not have
	Fetched      atomic.Uint64 // bytes from the store
	Served       atomic.Uint64 // bytes of blocks returned
	Repaired     atomic.Uint64 // blocks on the SSD with a damaged page
	Ahead        AheadStats
	Damaged      atomic.Uint64 // blocks that were damaged in the store
	Gone         atomic.Uint64 // blocks and pages that the store should have and has not
}

// Cache is the cache of one host. It may be used concurrently.
type Cache struct {
	opts  Options
	packs *forward.Store // opts.Store, where the slots of packs are followed
	mem   *memory
	disk  *disk
	slots chan struct{}   // bounds the requests of Prefetch
	ctx   context.Context // of the fetches that nobody waits for; ends with the cache
	stop  context.CancelFunc
	ahead *ahead
	Stats Stats

	mu      sync.Mutex // glide:nonblocking
	flights map[pack.Hash]*flight
	closed  bool
	running sync.WaitGroup // of background; grows only under mu while closed is false
}

// flight is a fetch that several callers may wait for.
type flight struct {
	done chan struct{}
	raw  []byte
	kept bool // the SSD tier has the block
	err  error
}

// Open opens the cache with the slabs of earlier runs.
func Open(opts Options) (*Cache, error) {
	if opts.Fetches == 0 {
		opts.Fetches = 16
	}
	if opts.Uptime == nil {
		opts.Uptime = func() time.Duration { return 0 }
	}
	if opts.Room == nil {
		opts.Room = func(int64) bool { return true }
	}
	d, err := openDisk(opts.FS, opts.Dir, opts.Disk, opts.Room, opts.Local)
	if err != nil {
		return nil, err
	}
	c := &Cache{opts: opts, packs: forward.Follow(opts.Store), mem: newMemory(opts.Memory), disk: d, slots: make(chan struct{}, opts.Fetches), flights: map[pack.Hash]*flight{}}
	c.ahead = newAhead(opts.Uptime, &c.Stats.Ahead)
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the fetches in the background and closes the slabs. Nothing may use the
// cache afterwards.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
	c.disk.close()
}

// background runs fetch while the cache is open, or else calls refused.
func (c *Cache) background(fetch func(ctx context.Context), refused func()) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.running.Go(func() { fetch(c.ctx) })
	}
	c.mu.Unlock()
	if closed {
		refused()
	}
}

// Missing returns the names of slabs whose files were removed from the directory or
// replaced there. They stay in use until the cache is closed.
func (c *Cache) Missing() []string { return c.disk.missing() }

// Usage returns the bytes that the two tiers take.
func (c *Cache) Usage() (memory, disk int64) {
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	return c.mem.bytes(), c.disk.bytes
}

// Domain is one tenant's view of the cache.
type Domain struct {
	cache  *Cache
	tenant string
	hasher *pack.Hasher
	// other returns another place of a block, or a hole if there is none.
	other  func(pack.Hash) (pack.Ref, error)
	volume cost.Volume // that fetches in the background are counted for
}

// Domain returns the cache for the blocks of a tenant, which h hashes. other returns where
// else the store has a block, for when a pack is damaged or gone; nil: nowhere.
func (c *Cache) Domain(tenant string, h *pack.Hasher, other func(pack.Hash) (pack.Ref, error)) *Domain {
	return &Domain{cache: c, tenant: tenant, hasher: h, other: other}
}

// For returns the domain for the reads of one volume: what it fetches in the background is
// counted for that.
func (d *Domain) For(v cost.Volume) *Domain {
	return &Domain{d.cache, d.tenant, d.hasher, d.other, v}
}

// TryRead fills p from byte off of a block of size bytes if that needs no disk and no
// network. It reports whether it did; if not, the content of p is undefined.
func (d *Domain) TryRead(h *pack.Hash, size int, p []byte, off int) bool {
	c := d.cache
	if c.disk.read(h, size, p, off, false) != whole {
		return d.readMemory(h, p, off)
	}
	c.Stats.Hits.Add(1)
	c.Stats.Served.Add(uint64(len(p)))
	return true
}

// ReadLocal fills p from byte off of a block of size bytes if one of the tiers has it. It
// may wait for the disk. It reports whether it filled p.
func (d *Domain) ReadLocal(h *pack.Hash, size int, p []byte, off int) bool {
	if !d.readDisk(h, size, p, off) {
		return d.readMemory(h, p, off)
	}
	d.cache.Stats.Served.Add(uint64(len(p)))
	return true
}

// readMemory fills p from byte off of a block if the memory tier has it.
func (d *Domain) readMemory(h *pack.Hash, p []byte, off int) bool {
	raw, ok := d.cache.mem.get(h)
	if !ok {
		return false
	}
	copy(p, raw[off:])
	d.cache.Stats.Hits.Add(1)
	d.cache.Stats.Served.Add(uint64(len(p)))
	return true
}

// Fetch fills p from byte off of the block, which has size bytes and is in no tier.
func (d *Domain) Fetch(ctx context.Context, ref *pack.Ref, size int, p []byte, off int) error {
	raw, err := d.Block(ctx, ref, size)
	if err == nil {
		copy(p, raw[off:])
	}
	return err
}

// Block returns the block, which has size bytes and must not be modified.
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
				continue // the caller that fetched gave up, but this one has not
			}
		}
		if f.err == nil {
			c.Stats.Served.Add(uint64(len(f.raw)))
		}
		return f.raw, f.err
	}
}

// errCrashed ends a flight that panicked. Each waiter then tries itself.
var errCrashed = errs.New(errs.Internal, "the fetch of a block met a bug")

// fly gets the block of a flight and ends the flight.
func (d *Domain) fly(ctx context.Context, ref *pack.Ref, size int, f *flight) {
	f.err = errCrashed
	defer d.cache.land(&ref.Hash, f)
	// A flight that ended after the first lookup and before the lock has left the block
	// in a tier.
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

// load gets a block from the SSD tier, another host or the store. kept is true if the SSD
// tier has it now.
func (d *Domain) load(ctx context.Context, ref *pack.Ref, size int) (raw []byte, kept bool, err error) {
	raw = make([]byte, size)
	if d.readDisk(&ref.Hash, size, raw, 0) {
		return raw, true, nil
	}
	d.cache.Stats.Misses.Add(1)
	defer d.cache.ahead.yield()()
	if raw := d.fromPeer(ctx, ref, size); raw != nil {
		return raw, d.cache.disk.put(&ref.Hash, raw), nil
	}
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
		d.cache.gone(ref, err)
		return nil, false, err
	}
	return raw, d.cache.disk.put(&ref.Hash, raw), nil
}

// gone counts and reports a reference to what is not there.
func (c *Cache) gone(ref *pack.Ref, err error) {
	if errs.KindOf(err) != errs.NotFound {
		return
	}
	if c.Stats.Gone.Add(1); c.opts.Gone != nil {
		c.opts.Gone(ref)
	}
}

// readDisk reads a part of a block from the SSD tier and verifies it. A damaged block is
// dropped.
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

// fetch gets a block from the store, from a copy of it if its own place is damaged.
func (d *Domain) fetch(ctx context.Context, ref *pack.Ref, size int) ([]byte, error) {
	raw, err := d.fetchAt(ctx, ref, size)
	if errs.KindOf(err) != errs.Corrupt || err == nil {
		return raw, err
	}
	copies, cerr := d.cache.packs.Copies(ctx, *ref)
	if cerr != nil && len(copies) == 0 {
		return nil, errors.Join(err, cerr)
	}
	for i := range copies {
		if raw, cerr := d.fetchAt(ctx, &copies[i], size); cerr == nil {
			return raw, nil
		}
	}
	return nil, err
}

func (d *Domain) fetchAt(ctx context.Context, ref *pack.Ref, size int) ([]byte, error) {
	if _, err := d.hasher.Ready(ctx); err != nil {
		return nil, err
	}
	slot, err := d.cache.packs.GetRange(ctx, ref.Pack.Key(), int64(ref.Off), int64(ref.Len))
	if err != nil {
		return nil, err
	}
	d.cache.Stats.Fetched.Add(uint64(len(slot)))
	raw, err := d.open(ref, slot, size)
	if errors.Is(err, seal.ErrNoRoot) || errors.Is(err, seal.ErrLocked) {
		if _, err := d.hasher.Newest(ctx); err != nil {
			return nil, err
		}
		raw, err = d.open(ref, slot, size)
	}
	return raw, err
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

// FetchStored reads a block from the store, whatever the tiers hold, and verifies it.
func (d *Domain) FetchStored(ctx context.Context, ref *pack.Ref, size int) ([]byte, error) {
	return d.fetch(ctx, ref, size)
}

// Keep puts a block into the SSD tier that was just uploaded. It does not retain raw.
func (d *Domain) Keep(h pack.Hash, raw []byte) { d.cache.disk.put(&h, raw) }
