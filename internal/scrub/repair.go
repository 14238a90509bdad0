package scrub

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/pack"
)

// piece is a slot for a new pack.
type piece struct {
	*want
	slot []byte
}

// repair puts what is left of a pack, and copies of what is damaged, into a new pack, to
// which a forward leads. What nothing has a copy of is lost.
func (r *run) repair(c *collector, id pack.ID, b *broken, used map[slotID]*user) error {
	n := len(b.bad)
	gone := errs.KindOf(b.structure) == errs.NotFound && b.structure != nil
	if n == 0 && (b.structure == nil || gone) {
		return nil // nothing needs what is damaged any more
	}
	key := id.Key()
	why := b.structure
	for _, why = range b.bad {
		break
	}
	obj, err := r.disks.Store.Get(r.ctx, key)
	if err != nil && !isDamage(err) {
		return err
	}
	if err == nil && r.whole(c, id, b.wants, obj) {
		r.disks.Log.Warn("an object of the store was damaged on its way", "object", key, "error", why)
		return nil
	}
	n = max(n, 1)
	r.damaged(n, event.Store, key, why)
	var pieces []piece
	seen, mended := map[uint32]bool{}, []*want{}
	for i := range b.wants {
		w := &b.wants[i]
		_, bad := b.bad[w.origin]
		slot, err := r.slot(c, w, obj)
		if err != nil && bad {
			if slot, err = r.copyOf(c, w); err == nil {
				mended = append(mended, w)
			} else if r.ctx.Err() != nil {
				return r.ctx.Err()
			} else {
				r.missed(c, key, w, used[w.origin], err)
			}
		}
		if err == nil && !seen[w.ref.Off] {
			seen[w.ref.Off] = true
			pieces = append(pieces, piece{w, slot})
		}
	}
	// Without a forward for something that is worse where it is, nothing would be better.
	if len(mended) == 0 && (b.structure == nil || len(pieces) == 0) {
		return nil
	}
	codec, err := r.codec(c.tenants[b.wants[0].tenant], id.Domain)
	if err != nil {
		return err
	}
	moved, err := r.upload(id, codec, pieces)
	if err != nil {
		return fmt.Errorf("repairing %s: %w", key, err)
	}
	for _, w := range mended {
		if !w.page { // else new writes would refer to the damaged place
			ref := moved[w.ref.Off]
			if err := r.disks.DB.AddBlocks(c.tenants[w.tenant], []pack.Ref{ref}); err != nil {
				return err
			}
		}
	}
	good := len(mended)
	if len(b.bad) == 0 {
		good = 1
	}
	r.repaired(good, event.Store, key, fmt.Sprintf("%d slots are in a new pack", len(pieces)))
	return nil
}

// whole reports whether a pack and the slots that are wanted of it are whole.
func (r *run) whole(c *collector, id pack.ID, wants []want, obj []byte) bool {
	codec, err := r.codec(c.tenants[wants[0].tenant], id.Domain)
	if err != nil {
		return false
	}
	if _, err := codec.Check(id, obj); err != nil {
		return false
	}
	for i := range wants {
		if _, err := r.slot(c, &wants[i], obj); err != nil {
			return false
		}
	}
	return true
}

// rebuild writes a damaged forward again, from its key and from the index of the new pack.
// It has what is needed of the old one.
func (r *run) rebuild(c *collector, key string, wants []want) error {
	from, to, _ := forward.ParseKey(key)
	if len(wants) == 0 && len(r.locked) > 0 {
		r.lose(key, "", nil, "a tenant is locked that may need it: scrub again when its keys are here")
		return nil
	}
	if len(wants) == 0 {
		if err := r.disks.Store.Delete(r.ctx, key); err != nil {
			return err
		}
		r.repaired(1, event.Store, key, "nothing refers to the old pack, and the forward was removed")
		return nil
	}
	obj, err := r.disks.Store.Get(r.ctx, to.Key())
	var slots []pack.Slot
	if err == nil {
		var codec pack.Codec
		if codec, err = r.codec(c.tenants[wants[0].tenant], to.Domain); err == nil {
			slots, err = codec.Slots(to, obj)
		}
	}
	if err != nil && !isDamage(err) {
		return err
	}
	f := forward.Forward{From: from, To: to}
	seen := map[uint32]bool{}
	for i := range wants {
		w := &wants[i].ref
		at := slices.IndexFunc(slots, func(x pack.Slot) bool { return x.Hash == w.Hash && len(x.Bytes) == int(w.Len) })
		if at >= 0 && !seen[w.Off] {
			seen[w.Off] = true
			f.Slots = append(f.Slots, forward.Slot{Off: w.Off, Len: w.Len, To: slots[at].Off})
		}
	}
	slices.SortFunc(f.Slots, func(a, b forward.Slot) int { return int(int64(a.Off) - int64(b.Off)) })
	raw, ferr := f.Encode()
	if ferr != nil {
		r.lose(key, "", nil, cmp.Or(err, ferr).Error())
		return nil
	}
	if err := r.disks.Store.Put(r.ctx, key, raw); err != nil {
		return err
	}
	r.repaired(1, event.Store, key, "it was written again from what the new pack holds")
	return nil
}

// missed notes a slot that nothing has a copy of.
func (r *run) missed(c *collector, key string, w *want, u *user, err error) {
	if len(u.volumes) == 0 {
		r.lose(key, "", nil, err.Error())
	}
	for vol, ranges := range u.volumes {
		r.lose(key, vol, ranges, err.Error())
	}
	if t := c.tenants[w.tenant]; !w.page {
		// A guest that writes this content again must not be told that the store has it.
		if known, err := r.disks.DB.Block(t, w.ref.Hash); err == nil && (known.Pack == w.ref.Pack || known.Pack == w.origin.pack) {
			_ = r.disks.DB.ForgetBlock(t, w.ref.Hash)
		}
	}
}

// copyOf returns a slot that is as long as the damaged one, from the tiers of this host or
// another, or from another pack.
func (r *run) copyOf(c *collector, w *want) ([]byte, error) {
	tenant := c.tenants[w.tenant]
	h, err := r.hasher(tenant).In(w.ref.Pack.Domain)
	if err != nil {
		return nil, err
	}
	var raw []byte
	kind := pack.KindBlock
	if w.page {
		kind = pack.KindPage
		if raw, err = r.disks.DB.Page(w.ref.Hash); err != nil || !h.Matches(w.ref.Hash, raw) {
			raw = nil
		}
	}
	for size := minBlock; size <= maxBlock && !w.page && raw == nil; size *= 2 {
		if w.size > 0 && size != int(w.size) {
			continue
		}
		if raw, err = r.copyOfSize(tenant, w, size); err != nil {
			return nil, err
		}
	}
	if raw == nil {
		return nil, errs.New(errs.Corrupt, "no copy of it is in the store, on this host or on another that it may ask")
	}
	slot, ok := h.Codec().EncodeSlotOf(kind, w.ref.Hash, raw, int(w.ref.Len))
	if !ok {
		return nil, errs.New(errs.Corrupt, "this host has a copy, and it does not fit the place: read it here and write it again")
	}
	return slot, nil
}

// copyOfSize returns a block of a size, nil if nothing has it.
func (r *run) copyOfSize(tenant string, w *want, size int) ([]byte, error) {
	d := r.disks.Tenant(tenant).Domain
	if raw := d.Copy(r.ctx, &w.ref, size); raw != nil {
		return raw, nil
	}
	known, err := r.disks.DB.Block(tenant, w.ref.Hash)
	if err != nil || known.IsHole() || known.Pack == w.ref.Pack {
		return nil, nil
	}
	raw, err := d.FetchStored(r.ctx, &known, size)
	if err != nil && !isDamage(err) {
		return nil, err
	}
	return raw, nil
}

// Limits of a new pack: whatever was in one is in one again.
var repairLimits = pack.Limits{Blocks: 1 << 14, Bytes: 56 << 20}

// dropTimeout bounds the dropping of a pin, also when the host stops.
const dropTimeout = 5 * time.Second

// upload stores slots of a pack in new ones, with a forward to each. It returns where the
// slots are now, by where they were.
//
// reachable-is-kept: a pin announces the new packs before they are uploaded, and goes when
// the forwards are there. If their creation fails, it may still succeed later: then the
// pin stays until the next start of this host.
func (r *run) upload(id pack.ID, codec pack.Codec, pieces []piece) (map[uint32]pack.Ref, error) {
	slices.SortStableFunc(pieces, func(a, b piece) int { return int(pack.KindOf(a.slot)) - int(pack.KindOf(b.slot)) }) // blocks first
	var nonce [12]byte
	if _, err := io.ReadFull(r.disks.Rand, nonce[:8]); err != nil {
		return nil, err
	}
	drop, err := r.pins.PinSession(r.ctx, [8]byte(nonce[:8]))
	if err != nil {
		return nil, err
	}
	moved := map[uint32]pack.Ref{}
	for len(pieces) > 0 {
		b := pack.NewBuilder(id.Domain, nonce, repairLimits)
		b.Begin(codec, id.Domain, nonce)
		binary.BigEndian.PutUint32(nonce[8:], binary.BigEndian.Uint32(nonce[8:])+1)
		n, sealed := 0, false
		f := forward.Forward{From: id}
		for ; n < len(pieces); n++ {
			p := &pieces[n]
			to := pack.Ref{Hash: p.ref.Hash, Len: p.ref.Len}
			if pack.KindOf(p.slot) == pack.KindBlock {
				if b.Full() {
					break
				}
				to.Off = uint32(b.SlotsEnd())
				b.AddBlock(p.ref.Hash, p.slot)
			} else {
				if !sealed {
					b.Seal()
					sealed = true
				}
				if len(p.slot) > b.Room() {
					break
				}
				to.Off = b.AddPage(p.ref.Hash, p.slot).Off
			}
			moved[p.ref.Off] = to
			f.Slots = append(f.Slots, forward.Slot{Off: p.ref.Off, Len: p.ref.Len, To: to.Off})
		}
		f.To = b.Seal()
		for i := range pieces[:n] {
			to := moved[pieces[i].ref.Off]
			to.Pack = f.To
			moved[pieces[i].ref.Off] = to
		}
		if err := r.disks.Store.Put(r.ctx, f.To.Key(), b.Finish()); err != nil {
			return nil, err
		}
		if err := forward.Create(r.ctx, r.disks.Store, f); err != nil {
			return nil, err
		}
		pieces = pieces[n:]
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), dropTimeout)
	defer cancel()
	if err := drop(ctx); err != nil {
		r.disks.Log.Warn("a pin was not dropped", "error", err)
	}
	return moved, nil
}
