package scrub

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// local checks this host: the SSD tier, the map pages, the log.
func (r *run) local() error {
	_, tier := r.disks.Cache.Usage()
	used, _ := r.disks.WAL.Used()
	r.total += uint64(tier) + uint64(used)
	return errors.Join(r.log(), r.slots(), r.pages())
}

// holder is a disk that holds a log segment.
type holder struct {
	*disk.Disk
	through uint64 // limit of the segment in its record
}

// log checks every segment in use.
func (r *run) log() error {
	holders := map[*wal.Segment][]holder{}
	var segs []*wal.Segment
	defer func() {
		for _, s := range segs {
			s.Release()
		}
	}()
	for _, d := range r.disks.All() {
		for _, s := range d.Segments() {
			h := holder{Disk: d}
			for _, ref := range d.State().Segments {
				if ref.Number == s.Number() && ref.Incarnation == s.Ref().Incarnation {
					h.through = ref.Limit
				}
			}
			holders[s] = append(holders[s], h)
			segs = append(segs, s)
		}
	}
	for s, list := range holders {
		through := uint64(0)
		for _, h := range list {
			through = max(through, h.through)
		}
		file := fmt.Sprintf("wal/%d.seg", s.Number())
		c, err := s.Check(through, func(n int64) error { return r.checked(0, n) })
		r.out.Blocks += uint64(c.Records)
		if c.Mended > 0 {
			r.damaged(c.Mended, event.Disk, file, errors.New("its header or its index"))
			r.repaired(c.Mended, event.Disk, file, "it was written again")
		}
		for _, d := range c.Damage {
			r.damaged(1, event.Disk, file, d)
			if !r.segment(file, d, list) {
				r.repaired(1, event.Disk, file, "no volume needs what was there any more")
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// segment finds out who needs what a log segment has lost. It reports whether anybody
// does.
func (r *run) segment(file string, d *wal.Damage, holders []holder) (needed bool) {
	for _, h := range holders {
		var ranges []api.Range
		st := h.State()
		if v := h.Volume(); v != nil {
			v.Lost(d, func(off, n uint64) { ranges = append(ranges, api.Range{Offset: off, Length: n}) })
			if len(ranges) == 0 {
				continue
			}
		} else if d.Seq > 0 && (d.Seq <= st.Folded || h.through > 0 && d.Seq > h.through) {
			continue
		} else if d.Len > 0 {
			ranges = []api.Range{{Offset: d.Off, Length: min(d.Len, st.Size-min(d.Off, st.Size))}}
		}
		needed = true
		written, published := h.Sequences()
		if published >= written || d.Seq > 0 && published >= d.Seq {
			gen := "GENERATION"
			if written == published {
				gen = disk.Generation(st.Published).String()
			}
			r.tell(event.Volume, h.String(), "its log has lost %s (%s), and the store has them: glide rollback %s %s puts the volume back to what the store has", text(join(ranges)), file, h, gen)
			continue
		}
		r.lose(file, h.String(), ranges, "it was not published yet: roll the volume back (glide rollback), or write these ranges again in the guest")
	}
	return needed
}

// badTier is what the tier or the metadata has lost, by hash.
type badTier struct {
	file string
	kind pack.Kind
	size int
}

// slots checks the SSD tier. What is damaged comes again.
func (r *run) slots() error {
	bad := map[pack.Hash]badTier{}
	strange := map[pack.Hash]bool{} // whole, but no tenant's here: nobody can use it
	good := func(h *pack.Hash, raw []byte) bool {
		if r.someones(h, raw) {
			return true
		}
		strange[*h] = true
		return false
	}
	err := r.disks.Cache.CheckSlots(good, func(n int64) error { return r.checked(1, n) }, func(b cache.BadSlot) {
		if strange[b.Hash] {
			return
		}
		b.Path = path.Join("slabs", path.Base(b.Path)) // as in the data directory
		r.damaged(1, event.Disk, b.Path, errs.New(errs.Corrupt, "a slot of a block of %d bytes", b.Size))
		switch {
		case b.Mended:
			r.repaired(1, event.Disk, b.Path, "what was wrong about it was written again")
		case b.Hash == pack.Hash{}:
			r.repaired(1, event.Disk, b.Path, "the slot is free, and the block is fetched when it is needed")
		default:
			bad[b.Hash] = badTier{b.Path, pack.KindBlock, b.Size}
		}
	})
	return errors.Join(err, r.restore(bad))
}

// pagesAtOnce is how many stored pages are read together.
const pagesAtOnce = 256

// pages checks the map pages in the metadata. What is damaged comes again.
func (r *run) pages() error {
	bad := map[pack.Hash]badTier{}
	const file = "meta"
	var after *pack.Hash
	for {
		list, err := r.disks.DB.PagesAfter(after, pagesAtOnce)
		if err != nil {
			return err
		}
		var n int64
		for i := range list {
			p := &list[i]
			after = &p.Hash
			n += int64(len(p.Page))
			if r.someones(&p.Hash, p.Page) || len(r.locked) > 0 { // it may be of one of those
				continue
			}
			r.damaged(1, event.Disk, file, errs.New(errs.Corrupt, "the map page %s does not match its hash", p.Hash))
			if err := r.disks.DB.ForgetPage(p.Hash); err != nil {
				return err
			}
			bad[p.Hash] = badTier{file, pack.KindPage, len(p.Page)}
		}
		if err := r.checked(len(list), n); err != nil {
			return err
		}
		if len(list) < pagesAtOnce {
			return r.restore(bad)
		}
	}
}

// restore brings what this host has lost from the store or another host.
func (r *run) restore(bad map[pack.Hash]badTier) error {
	if len(bad) == 0 {
		return nil
	}
	for h, b := range bad {
		if b.kind == pack.KindBlock && r.indexed(h, b.size) {
			r.repaired(1, event.Disk, b.file, "the block was fetched again")
			delete(bad, h)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	// The others are found through the maps of this host's volumes. Loading them puts
	// their pages into the metadata again.
	keyed := map[slotID]pack.Hash{}
	f := r.finder(r.disks.Loader, func(ref *pack.Ref, _ pack.Kind) bool {
		_, ok := bad[ref.Hash]
		if ok {
			keyed[idOf(ref)] = ref.Hash
		}
		return ok
	})
	if err := f.disks(r.ctx); err != nil {
		return fmt.Errorf("what is damaged on this host could not be found in the store: %w", err)
	}
	var failed error
	needed := map[pack.Hash]error{}
	for id, u := range f.used {
		h := keyed[id]
		if _, ok := bad[h]; !ok {
			continue
		}
		err := u.err // of a page
		if bad[h].kind == pack.KindBlock {
			err = r.disks.Tenant(u.tenant).Domain.Restore(r.ctx, &u.ref, bad[h].size)
		}
		switch {
		case err == nil:
			r.repaired(1, event.Disk, bad[h].file, "it was fetched again")
			delete(bad, h)
		case isDamage(err):
			needed[h] = err
			for vol, ranges := range u.volumes {
				r.lose(bad[h].file, vol, ranges, err.Error())
			}
		default:
			failed = err
		}
	}
	for h, b := range bad {
		if needed[h] == nil && failed == nil {
			r.repaired(1, event.Disk, b.file, "no volume of this host needs it")
		}
	}
	if failed != nil {
		return fmt.Errorf("what is damaged on this host could not be fetched again: %w", failed)
	}
	return nil
}

// indexed restores a block of which the dedup index knows the place. It reports whether
// that was possible.
func (r *run) indexed(h pack.Hash, size int) bool {
	for _, t := range r.tenants {
		if ref, err := r.disks.DB.Block(t, h); err == nil && !ref.IsHole() && r.disks.Tenant(t).Domain.Restore(r.ctx, &ref, size) == nil {
			return true
		}
	}
	return false
}

// checkedPages are the pages that the metadata has, for a walk that keeps nothing.
type checkedPages struct{ db *meta.DB }

func (p checkedPages) Page(h pack.Hash) ([]byte, error) { return p.db.Page(h) }

func (checkedPages) AddPage(pack.Hash, []byte) error { return nil }

// disks adds what this host's volumes stand on.
func (f *finder) disks(ctx context.Context) error {
	for _, d := range f.run.disks.All() {
		st := d.State()
		if st.Mode == volume.Failed && st.BlockSize == 0 || f.run.locked[disk.DomainName(&st)] != nil {
			continue // a name that is being changed, or nobody can tell
		}
		if err := f.root(ctx, use{disk.DomainName(&st), d.String(), uint64(st.BlockSize), st.Size}, st.Root); err != nil {
			return err
		}
	}
	return ctx.Err()
}
