package cache

import (
	"bytes"
	"context"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/pack"
)

// BadSlot is a slot of the SSD tier that is damaged.
type BadSlot struct {
	Hash pack.Hash // of the block that it should hold; zero if it is not known
	Size int       // of that block, bytes
	Path string    // of the slab
	// Mended: the block is whole, and what was damaged, its entry in the file or the
	// slab's header, was written again. Otherwise the tier does not have the block any more.
	Mended bool
}

// CheckSlots reads every block of the SSD tier, and calls bad with each damaged slot. good
// reports whether a block is that of a hash. pace is called after each block with its
// bytes; it may wait, and its error ends the check. Blocks do not become more valuable,
// and do not stay in the kernel's page cache because of it.
func (c *Cache) CheckSlots(good func(h *pack.Hash, raw []byte) bool, pace func(bytes int64) error, bad func(BadSlot)) error {
	c.disk.mu.Lock()
	classes := c.disk.classes
	c.disk.mu.Unlock()
	for _, cl := range classes {
		if cl == nil {
			continue
		}
		var last *slab
		for slot := uint32(0); ; slot++ {
			at, key, state := c.disk.checked(cl, slot)
			if state == noRoom {
				break
			}
			if at.slab != last {
				last = at.slab
				c.disk.checkHeader(last, bad)
			}
			if state == present {
				err := pace(c.disk.checkSlot(cl, slot, key, at, good, bad))
				at.done()
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checked returns a slot of a class. It is in use if it holds a block (present); noRoom
// means that there is no such slot.
func (d *disk) checked(c *class, slot uint32) (p place, key uint64, state claimState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(slot) >= len(c.keys) {
		return place{}, 0, noRoom
	}
	key = c.keys[slot]
	if at, ok := c.index[key]; ok && at == slot {
		return c.use(slot), key, present
	}
	return place{slab: c.slabs[int(slot)/c.perSlab]}, key, claimed
}

// checkHeader writes the header of a slab again if it is damaged: the next start would
// drop the slab.
func (d *disk) checkHeader(s *slab, bad func(BadSlot)) {
	want, got := s.slabHead(s.size), make([]byte, slabHeader)
	if _, err := s.file.ReadAt(got, 0); err != nil || bytes.Equal(got, want) {
		return
	}
	if _, err := s.file.WriteAt(want, 0); err == nil {
		bad(BadSlot{Path: s.path, Mended: true})
	}
}

// checkSlot checks a slot in use, and returns the bytes that it read. A damaged block
// leaves the tier.
func (d *disk) checkSlot(c *class, slot uint32, key uint64, at place, good func(*pack.Hash, []byte) bool, bad func(BadSlot)) int64 {
	entry := make([]byte, at.entrySize(at.size))
	_, err := at.file.ReadAt(entry, at.entryAt())
	found := BadSlot{Path: at.path, Size: at.size}
	if at.table != nil {
		known := at.table[at.i*len(entry):][:len(entry)]
		if err != nil || !bytes.Equal(entry, known) {
			_, err = at.file.WriteAt(known, at.entryAt())
			found.Mended = err == nil
			copy(entry, known)
		}
	}
	h, n, ok := at.decodeEntry(entry, at.size)
	var raw []byte
	if ok {
		raw = make([]byte, n)
	}
	if ok = ok && err == nil && keyOf(&h) == key; ok {
		found.Hash, found.Size = h, n
		ok = at.readOnce(raw, entry, &h) && good(&h, raw)
	}
	if !ok {
		found.Mended = false
		d.mu.Lock()
		if now, still := c.index[key]; still && now == slot {
			delete(c.index, key) // the slot stays in its queue, but no lookup finds it
		}
		d.mu.Unlock()
		// Nor does the next start. Whoever reads the entry now finds no block in it.
		_, _ = at.file.WriteAt(make([]byte, len(entry)), at.entryAt())
	}
	if !ok || found.Mended {
		bad(found)
	}
	return int64(len(entry) + len(raw))
}

// readOnce reads the block of a slot, and verifies it. What was not in the kernel's page
// cache does not stay there.
func (p place) readOnce(raw, entry []byte, h *pack.Hash) bool {
	if p.local == nil {
		return p.readWhole(raw) && matches(entry, h, 0, raw)
	}
	stored := make([]byte, p.stored(len(raw)))
	return p.readWhole(stored) && p.open(raw, h, 0, 0, stored, new(scratch))
}

func (p place) readWhole(raw []byte) bool {
	if p.fd >= 0 && readCached(p.fd, raw, p.at()) {
		return true
	}
	if _, err := p.file.ReadAt(raw, p.at()); err != nil {
		return false
	}
	if p.fd >= 0 {
		_ = unix.Fadvise(p.fd, p.at(), int64(len(raw)), unix.FADV_DONTNEED) // a hint
	}
	return true
}

// Restore brings a block that was damaged in the SSD tier there again, from another host
// or from the store, where it is at ref.
func (d *Domain) Restore(ctx context.Context, ref *pack.Ref, size int) error {
	raw, _, err := d.load(ctx, ref, size)
	if err == nil {
		d.cache.disk.put(&ref.Hash, raw)
	}
	return err
}

// Copy returns a block of size bytes from the tiers or another host, verified against its
// hash; nil: none of them has it.
func (d *Domain) Copy(ctx context.Context, ref *pack.Ref, size int) []byte {
	if raw, ok := d.cache.mem.get(&ref.Hash); ok && len(raw) == size {
		return raw
	}
	h, err := d.hasher.In(ref.Pack.Domain)
	if err != nil {
		return nil
	}
	raw := make([]byte, size)
	if d.cache.disk.read(&ref.Hash, size, raw, 0, true) == whole && h.Matches(ref.Hash, raw) {
		return raw
	}
	return d.fromPeer(ctx, ref, size)
}

// Quiet returns when no guest waits for the store.
func (c *Cache) Quiet(ctx context.Context) error { return c.ahead.quiet(ctx) }

// quiet returns when no guest waits for the store.
func (a *ahead) quiet(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.eased.Broadcast()
	})()
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.waiting > 0 && ctx.Err() == nil {
		a.eased.Wait()
	}
	return ctx.Err()
}
