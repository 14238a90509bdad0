package gc

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// Compaction copies the live slots of packs with much dead content into new packs. The
// packs are flagged, so that no host refers to dead slots of them any more; what is live
// is what the mark after the flag found; the verdict says where it went; whoever executes
// the verdict creates the forwards before it deletes the packs.
//
// A new pack that no verdict names is garbage in the next round. No round can condemn one
// that the verdict of the open round names: until its forwards are there, no other round
// begins.

const (
	// deadShare is the share of a pack that has to be dead before it is compacted: one in
	// five. What a bucket holds in vain stays below a quarter of what is live, mostly below
	// a tenth, and a byte is copied at most four times for each that is freed.
	deadShare = 5
	// defaultMinDead is how many bytes of a pack have to be dead, too: below, a forward and
	// its requests cost more than they save.
	defaultMinDead = 32 << 10
	// defaultCompact is how many bytes of packs a round reads to compact them.
	defaultCompact = 1 << 30
)

// compacted says where the slots of a flagged pack went.
type compacted struct {
	Pack int    `json:"pack"` // in the flag list
	To   []went `json:"to"`
}

// went is one pack that has slots of another.
type went struct {
	Pack  string         `json:"pack"`
	Slots []forward.Slot `json:"slots"`
}

// candidates returns the packs to compact, those with the most dead content first, as far
// as the budget goes.
func (c *collector) candidates(codec pack.Codec, packs []flaggedObject) []flaggedObject {
	type candidate struct {
		flaggedObject
		dead float64 // share
	}
	var all []candidate
	for _, p := range packs {
		id, err := pack.ParseKey(p.Key)
		slots := c.marks.Alive(id)
		if err != nil || len(slots) == 0 {
			continue
		}
		used := int64(0)
		for _, s := range slots {
			used += int64(s.Len)
		}
		if dead := p.Bytes - codec.SizeWith(len(slots), used); dead >= c.MinDead && dead >= p.Bytes/deadShare {
			all = append(all, candidate{p, float64(dead) / float64(p.Bytes)})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.dead, a.dead), cmp.Compare(a.Key, b.Key)) })
	var out []flaggedObject
	budget := c.Compact
	for _, x := range all {
		if budget -= x.Bytes; budget < 0 {
			break
		}
		out = append(out, x.flaggedObject)
	}
	return out
}

// compact uploads new packs with the live slots of flagged packs, and returns where they
// went. A pack that is pinned, gone or damaged is left as it is.
func (c *collector) compact(ctx context.Context, domain uint32, flagged []flaggedObject) ([]compacted, error) {
	if len(flagged) == 0 {
		return nil, nil
	}
	if domain != 0 && c.Tenants != nil { // others may have sealed with a newer root since
		if err := c.Tenants.Renew(ctx, c.realm.owners[0]); err != nil {
			return nil, err
		}
	}
	codec, err := c.codec(ctx, c.realm)
	if err != nil {
		return nil, err
	}
	k := &copier{c: c, domain: domain, codec: codec, out: make([]compacted, len(flagged)), spare: make(chan *pack.Builder, atOnce+1)}
	if _, err := io.ReadFull(c.Rand, k.session[:]); err != nil {
		return nil, err
	}
	k.uploads, ctx = errgroup.WithContext(ctx)
	k.uploads.SetLimit(atOnce)
	err = k.copy(ctx, flagged)
	if uerr := k.uploads.Wait(); uerr != nil {
		err = uerr // which ended the copying, too
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(k.out, func(x compacted) bool { return len(x.To) == 0 }), nil
}

// copy copies what is live of the flagged packs. Uploads may be under way when it returns.
func (k *copier) copy(ctx context.Context, flagged []flaggedObject) error {
	c := k.c
	var list []*source
	for i, p := range flagged {
		k.out[i].Pack = i
		id, err := pack.ParseKey(p.Key)
		if err != nil {
			return err
		}
		if live := c.marks.Alive(id); len(live) > 0 {
			list = append(list, &source{i, id, live, make(chan fetched, 1)})
		}
	}
	for src, obj := range c.fetch(ctx, list) {
		err := obj.err
		var all, chosen []pack.Slot
		if err == nil {
			all, err = k.codec.Slots(src.id, obj.raw)
		}
		if err == nil {
			chosen, err = choose(all, src.live)
		}
		if err == nil {
			chosen, err = k.resealed(chosen)
		}
		if kind := errs.KindOf(err); err != nil && (kind == errs.NotFound || kind == errs.Corrupt || kind == errs.Unsupported) {
			c.Log.Warn("a pack is not compacted; glide scrub tells more", "pack", src.id.Key(), "error", err)
			continue
		}
		if err != nil {
			return err
		}
		for _, s := range chosen {
			k.add(ctx, src.pack, s)
		}
	}
	k.finish(ctx)
	return ctx.Err()
}

// atOnce is how many packs are read ahead, and how many are being uploaded: with 20 ms to
// the store and 3 MB in a pack, four keep a link of 100 MB/s busy.
const atOnce = 6

// source is a flagged pack of which something is live.
type source struct {
	pack int // in the flag list
	id   pack.ID
	live []reach.Slot
	got  chan fetched
}

type fetched struct {
	raw []byte
	err error
}

// fetch yields the packs in their order, and reads a few ahead of the one that is looked at.
func (c *collector) fetch(ctx context.Context, list []*source) iter.Seq2[*source, fetched] {
	return func(yield func(*source, fetched) bool) {
		ctx, stop := context.WithCancel(ctx)
		var reads sync.WaitGroup
		defer reads.Wait()
		defer stop()
		begun := 0
		for i, src := range list {
			for ; begun < len(list) && begun <= i+atOnce; begun++ {
				next := list[begun]
				reads.Go(func() { next.got <- c.get(ctx, next.id) })
			}
			if !yield(src, <-src.got) {
				return
			}
		}
	}
}

func (c *collector) get(ctx context.Context, id pack.ID) (f fetched) {
	defer errs.Catch(&f.err)
	f.raw, f.err = c.Store.Get(ctx, id.Key())
	return f
}

// choose returns the slots that are live. One that is not there is errs.Corrupt.
func choose(all []pack.Slot, live []reach.Slot) (out []pack.Slot, err error) {
	for _, l := range live {
		i, found := slices.BinarySearchFunc(all, l.Off, func(s pack.Slot, off uint32) int { return cmp.Compare(s.Off, off) })
		if !found || uint32(len(all[i].Bytes)) != l.Len {
			return nil, errs.New(errs.Corrupt, "it has no slot of %d bytes at %d, to which a volume refers", l.Len, l.Off)
		}
		out = append(out, all[i])
	}
	return out, nil
}

// resealed puts slots that are under an old root under the current one; the others are
// copied as they are. What it returns is good until the next call.
func (k *copier) resealed(slots []pack.Slot) (_ []pack.Slot, err error) {
	k.slots = k.slots[:0]
	for i := range slots {
		s := &slots[i]
		if k.codec.Domain == nil {
			break
		}
		begin := len(k.slots)
		if k.slots, err = k.codec.Reseal(k.slots, s.Bytes, s.Hash); err != nil {
			return nil, fmt.Errorf("the slot at %d: %w", s.Off, err)
		}
		s.Bytes = k.slots[begin:]
	}
	return slots, nil
}

// copier fills new packs. Blocks come first in a pack, so pages wait for its end.
type copier struct {
	c       *collector
	domain  uint32
	codec   pack.Codec
	session [8]byte
	n       uint32 // packs so far
	b       *pack.Builder
	blocks  []moved // in the order of the builder
	pages   []moved
	held    int // bytes of pages
	out     []compacted
	slots   []byte // of one pack, sealed again
	uploads *errgroup.Group
	spare   chan *pack.Builder // whose objects are uploaded
}

// moved is a slot of a flagged pack.
type moved struct {
	pack int
	pack.Slot
}

func (k *copier) add(ctx context.Context, of int, s pack.Slot) {
	if k.b == nil {
		var nonce [12]byte
		copy(nonce[:], k.session[:])
		binary.BigEndian.PutUint32(nonce[8:], k.n)
		k.n++
		select {
		case k.b = <-k.spare:
		default:
			k.b = pack.NewBuilder(k.domain, nonce, pack.Limits{})
		}
		k.b.Begin(k.codec, k.domain, nonce)
	}
	if s.Kind == pack.KindBlock {
		k.b.AddBlock(s.Hash, s.Bytes)
		k.blocks = append(k.blocks, moved{of, pack.Slot{Off: s.Off}})
	} else {
		s.Bytes = slices.Clone(s.Bytes) // else one page would keep all of a pack in memory
		k.pages = append(k.pages, moved{of, s})
		k.held += len(s.Bytes)
	}
	if k.b.Full() || k.held >= 4<<20 {
		k.finish(ctx)
	}
}

// finish uploads the pack that is being filled, while the next one is: nothing names it
// before all are there.
func (k *copier) finish(ctx context.Context) {
	if k.b == nil {
		return
	}
	id := k.b.Seal()
	for i, ref := range k.b.Refs() {
		k.note(&k.blocks[i], ref)
	}
	for i := range k.pages {
		p := &k.pages[i]
		k.note(p, k.b.AddPage(p.Hash, p.Bytes))
	}
	b, obj := k.b, k.b.Finish()
	k.uploads.Go(func() (err error) {
		defer errs.Catch(&err)
		if err := k.c.Store.PutIfAbsent(ctx, id.Key(), obj); err != nil {
			return fmt.Errorf("compacting: %w", err)
		}
		k.spare <- b
		return nil
	})
	k.c.res.CopiedBytes += int64(len(obj))
	k.b, k.blocks, k.pages, k.held = nil, nil, nil, 0
}

// note notes where a slot went.
func (k *copier) note(m *moved, to pack.Ref) {
	x := &k.out[m.pack]
	name := to.Pack.String()
	if n := len(x.To); n == 0 || x.To[n-1].Pack != name {
		x.To = append(x.To, went{Pack: name})
	}
	t := &x.To[len(x.To)-1]
	t.Slots = append(t.Slots, forward.Slot{Off: m.Off, Len: to.Len, To: to.Off})
}

// forwards returns the forwards that a verdict promises.
func (v *verdict) forwards(f *flags) (out []forward.Forward, err error) {
	for _, x := range v.Compacted {
		from, err := pack.ParseKey(f.Compact[x.Pack].Key)
		if err != nil {
			return nil, err
		}
		for _, t := range x.To {
			to, ok := pack.ParseID(t.Pack)
			if !ok {
				return nil, errs.New(errs.Corrupt, "the verdict of round %d names %.60q, which is no pack", v.Round, t.Pack)
			}
			out = append(out, forward.Forward{From: from, To: to, Slots: t.Slots})
		}
	}
	return out, nil
}

// redirect creates the forwards of a verdict, and others past the old packs: what led to a
// slot of one of them leads to where the slot went. So no chain of forwards grows with the
// number of compactions. It returns the keys of the forwards that are superseded.
func (c *collector) redirect(ctx context.Context, f *flags, v *verdict) (superseded []string, err error) {
	list, err := v.forwards(f)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	moved := map[pack.ID][]forward.Forward{} // by the old pack
	for _, x := range list {
		moved[x.From] = append(moved[x.From], x)
	}
	err = forward.Each(ctx, c.Store, func(_, to pack.ID, in objstore.Info) {
		if moved[to] != nil {
			superseded = append(superseded, in.Key)
		}
	})
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // of list
	err = reach.SideBySide(ctx, superseded, func(ctx context.Context, key string) error {
		older, err := forward.Read(ctx, c.Store, key)
		if errors.Is(err, errs.NotFound) {
			return nil // another collector executes the verdict, too
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, next := range moved[older.To] {
			if past := older.Past(&next); len(past.Slots) > 0 {
				list = append(list, past)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return superseded, reach.SideBySide(ctx, list, func(ctx context.Context, fw forward.Forward) error { return createForward(ctx, c.Store, fw) })
}

func createForward(ctx context.Context, store objstore.Store, f forward.Forward) error {
	if err := forward.Create(ctx, store, f); err != nil {
		return fmt.Errorf("the forward of pack %s: %w", f.From, err)
	}
	return nil
}
