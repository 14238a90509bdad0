package scrub

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/pack"
)

// want is a slot that something refers to.
type want struct {
	ref    pack.Ref
	origin slotID // of the reference, if forwards lead from there to ref
	tenant int32  // in collector.tenants
	size   int32  // of a block; 0: not known
	page   bool
}

func (w *want) maxRaw() int {
	switch {
	case w.page:
		return blockmap.MaxPageSize
	case w.size == 0:
		return maxBlock
	}
	return int(w.size)
}

// minBlock and maxBlock are the sizes that blocks can have, in bytes, and all powers of two
// in between.
const (
	minBlock = 4 << 10
	maxBlock = 1 << 20
)

// maxWants is how many references are in memory at a time, unless told otherwise: about
// 100 MB. A store with more is walked several times, for a part of its packs each time.
const maxWants = 1 << 20

// collector gathers the references to a part of the packs. Pages are walked once, whoever
// shares them.
type collector struct {
	run     *run
	pages   *cache.Pages
	cache   *blockmap.PageCache
	most    int
	parts   int // a power of two
	part    int
	count   int
	bytes   uint64 // of all slots, whichever part they are in
	tenants []string
	packs   map[pack.ID][]want
	walked  map[pageID]bool
	objects map[string]badObject // that cannot be read, by key
}

type badObject struct {
	vol string
	err error
}

func (c *collector) mine(id pack.ID) bool {
	return int(uint32(id.Content[0])|uint32(id.Content[1])<<8|uint32(id.Content[2])<<16)&(c.parts-1) == c.part
}

// add adds a reference. If there are too many, the part becomes smaller.
func (c *collector) add(tenant string, ref *pack.Ref, size int, page bool) {
	c.bytes += uint64(ref.Len)
	if !c.mine(ref.Pack) {
		return
	}
	t := slices.Index(c.tenants, tenant)
	if t < 0 {
		t = len(c.tenants)
		c.tenants = append(c.tenants, tenant)
	}
	c.packs[ref.Pack] = append(c.packs[ref.Pack], want{*ref, idOf(ref), int32(t), int32(size), page})
	c.count++
	for c.part == 0 && c.count > c.most && c.parts < 1<<20 {
		c.parts *= 2
		for id, list := range c.packs {
			if !c.mine(id) {
				c.count -= len(list)
				delete(c.packs, id)
			}
		}
	}
}

func (c *collector) block(u use, ref *pack.Ref, _, n uint64) { c.add(u.tenant, ref, int(n), false) }

func (c *collector) bad(key, vol string, err error) {
	if _, known := c.objects[key]; !known {
		c.objects[key] = badObject{vol, err}
	}
}

func (c *collector) root(ctx context.Context, u use, root blockmap.Root) error {
	if root.IsHole() {
		return nil
	}
	return c.page(ctx, u, c.run.source(c.cache, c.pages, u.tenant), &root.Ref, int(root.Height)-1)
}

func (c *collector) page(ctx context.Context, u use, src *blockmap.Source, ref *pack.Ref, level int) error {
	id := pageID{u.tenant, ref.Hash}
	c.add(u.tenant, ref, 0, true)
	if err := ctx.Err(); err != nil || c.walked[id] {
		return err
	}
	c.walked[id] = true
	p, err := src.Page(ctx, ref, level)
	if isDamage(err) {
		return nil // its slot tells
	}
	if err != nil {
		return err
	}
	for _, child := range p.All() {
		if level == 0 {
			c.add(u.tenant, &child, int(u.blockSize), false)
		} else if err := c.page(ctx, u, src, &child, level-1); err != nil {
			return err
		}
	}
	return nil
}

// storePages loads pages, those that are whole from this host.
func (r *run) storePages() *cache.Pages {
	return cache.CheckedPages(r.disks.Store, checkedPages{r.disks.DB})
}

// store checks what commits and pins reach.
func (r *run) store() error {
	if r.all {
		if err := r.hints(); err != nil {
			return fmt.Errorf("scrubbing the store: %w", err)
		}
	}
	c := &collector{run: r, pages: r.storePages(), cache: blockmap.NewPageCache(walkPages), most: r.Most, parts: 1, objects: map[string]badObject{}}
	for ; c.part < c.parts; c.part++ {
		c.count, c.bytes, c.packs, c.walked = 0, 0, map[pack.ID][]want{}, map[pageID]bool{}
		if err := r.walkStore(c); err != nil {
			return fmt.Errorf("scrubbing the store: %w", err)
		}
		if c.part == 0 {
			r.total = max(r.total, r.out.Bytes+c.bytes)
			if err := r.keyrings(); err != nil {
				return fmt.Errorf("scrubbing the store: %w", err)
			}
			if err := r.checked(len(c.objects), 0); err != nil {
				return err
			}
		}
		if err := r.packs(c); err != nil {
			return fmt.Errorf("scrubbing the store: %w", err)
		}
	}
	return r.objects(c)
}

// keyrings checks the records and keyrings of the tenants whose keys are here, without which
// nothing that they have can be read.
func (r *run) keyrings() error {
	for _, t := range r.tenants {
		list, err := r.disks.Tenants.Mend(r.ctx, t)
		for _, m := range list {
			r.damaged(1, event.Store, m.Key, m.Damage)
			if m.Err == nil {
				r.repaired(1, event.Store, m.Key, "this host had read it when it was whole, and stored it again")
			} else {
				r.lose(m.Key, "", nil, m.Err.Error())
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// objects reports the commits and pins that are damaged. What they said is nowhere else,
// but for the state of a volume that this host owns.
func (r *run) objects(c *collector) error {
	for key, b := range c.objects {
		if _, err := r.disks.Store.Head(r.ctx, key); errs.KindOf(err) == errs.NotFound && err != nil {
			continue // it went meanwhile
		}
		r.damaged(1, event.Store, key, b.err)
		why := b.err.Error()
		if vol, g, err := commitlog.ParseKey(key); err == nil {
			n, _ := r.disks.LogNames().Of(r.ctx, vol)
			d := r.disks.Find(n)
			switch newest := d != nil && disk.Generation(d.State().Published) == g; {
			case newest && d.HoldsState():
				if o := d.Owned.Load(); o != nil {
					if mended, err := o.Mend(r.ctx, g); err != nil {
						return err
					} else if mended {
						r.repaired(1, event.Store, key, "this host sent it, and stored it again")
						continue
					}
				}
				why += fmt.Sprintf("; this host has what it said: glide fork %s NEW and glide flush NEW store that under another name", d)
			case d == nil:
				why += "; if the host that owns the volume runs since before that commit, glide scrub there repairs it; glide fork --at takes an older commit"
			default:
				why += "; the volume is whole, and cannot be forked as it was at " + g.String()
			}
		}
		r.lose(key, b.vol, nil, why)
	}
	return nil
}

// broken is a pack of which something is damaged.
type broken struct {
	wants     []want           // that no forward serves
	bad       map[slotID]error // of these: damaged, by the place that references give
	structure error            // damage beside slots that anybody refers to
}

// packs reads the packs of which the collector has references, and repairs them.
func (r *run) packs(c *collector) error {
	for id, keys := range r.forwards {
		for _, key := range keys {
			if c.mine(id) {
				if err := r.rebuild(c, key, c.packs[id]); err != nil {
					return err
				}
			}
		}
	}
	here := c.packs
	ill := map[pack.ID]*broken{}
	for hops := 0; len(here) > 0 && hops < forward.MaxHops; hops++ {
		next := map[pack.ID][]want{} // where forwards lead
		for id, wants := range here {
			b, err := r.pack(c, id, wants, next)
			if err != nil {
				return err
			}
			if b == nil {
				continue
			}
			if old := ill[id]; old != nil { // found through a forward, too
				old.wants = append(old.wants, b.wants...)
				for k, err := range b.bad {
					old.bad[k] = err
				}
				old.structure = cmp.Or(old.structure, b.structure)
			} else {
				ill[id] = b
			}
		}
		here = next
	}
	if len(ill) == 0 {
		return nil
	}
	// Who needs it? A collector may have deleted what was reached when the walk began.
	suspects := map[slotID]bool{}
	for _, b := range ill {
		for slot := range b.bad {
			suspects[slot] = true
		}
	}
	f := r.finder(r.storePages(), func(ref *pack.Ref, _ pack.Kind) bool { return suspects[idOf(ref)] })
	if len(suspects) > 0 {
		if err := r.walkStore(f); err != nil {
			return err
		}
	}
	for id, b := range ill {
		for slot := range b.bad {
			if f.used[slot] == nil {
				delete(b.bad, slot)
			}
		}
		if err := r.repair(c, id, b, f.used); err != nil {
			return err
		}
	}
	return nil
}

func (f *finder) block(u use, ref *pack.Ref, off, n uint64) {
	if f.wanted(ref, pack.KindBlock) {
		u.blockSize = n
		f.note(u, ref, pack.KindBlock, nil, off, n)
	}
}

func (f *finder) bad(string, string, error) {} // the first walk has told

// pack reads a pack and checks it. What is damaged but forwarded goes into next; nil: the
// rest is whole.
func (r *run) pack(c *collector, id pack.ID, wants []want, next map[pack.ID][]want) (*broken, error) {
	slices.SortFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.ref.Off, b.ref.Off), cmp.Compare(a.ref.Len, b.ref.Len))
	})
	wants = slices.CompactFunc(wants, func(a, b want) bool { return a.ref == b.ref && a.origin == b.origin })
	obj, err := r.disks.Store.Get(r.ctx, id.Key())
	if err != nil && !isDamage(err) {
		return nil, err
	}
	if cerr := r.checked(len(wants), int64(len(obj))); cerr != nil {
		return nil, cerr
	}
	b := &broken{bad: map[slotID]error{}, structure: err}
	if err == nil {
		codec, cerr := r.codec(c.tenants[wants[0].tenant], id.Domain)
		if cerr != nil {
			return nil, cerr
		}
		_, b.structure = codec.Check(id, obj)
		if kind := errs.KindOf(b.structure); b.structure != nil && (kind == errs.Unsupported || kind == errs.Unavailable) {
			return nil, b.structure
		}
	}
	for i := range wants {
		w := &wants[i]
		serr := err
		if serr == nil {
			_, serr = r.slot(c, w, obj)
		}
		if serr != nil {
			if !isDamage(serr) {
				return nil, serr
			}
			b.bad[w.origin] = serr
		}
	}
	if b.structure == nil && len(b.bad) == 0 {
		return nil, nil
	}
	forwards, ferr := forward.Of(r.ctx, r.disks.Store, id)
	if ferr != nil && !isDamage(ferr) {
		return nil, ferr
	}
	for i := range wants {
		w := wants[i]
		to, ok := pack.Ref{}, false
		for _, f := range forwards {
			if to, ok = f.Ref(w.ref); ok {
				break
			}
		}
		if !ok {
			b.wants = append(b.wants, w)
			continue
		}
		if _, bad := b.bad[w.origin]; bad {
			delete(b.bad, w.origin)
			w.ref = to
			next[to.Pack] = append(next[to.Pack], w)
		}
	}
	if len(b.bad) == 0 && len(b.wants) == 0 {
		return nil, nil
	}
	return b, nil
}

// slot returns the bytes of a slot that is whole.
func (r *run) slot(c *collector, w *want, obj []byte) ([]byte, error) {
	if uint64(w.ref.Off)+uint64(w.ref.Len) > uint64(len(obj)) {
		return nil, errs.New(errs.Corrupt, "%s has %d bytes, and a slot of %d at %d", w.ref.Pack.Key(), len(obj), w.ref.Len, w.ref.Off)
	}
	slot := obj[w.ref.Off:][:w.ref.Len]
	_, err := pack.Open(r.hasher(c.tenants[w.tenant]), w.ref, slot, nil, w.maxRaw())
	return slot, err
}
