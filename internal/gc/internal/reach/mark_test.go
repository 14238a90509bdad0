package reach

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// TestDamageUnderAPinnedRoot: a pin does not say whose its root is, so tenants are tried.
// A damaged page below the root is no reason to take the root for another tenant's, and
// what is under it for marked.
func TestDamageUnderAPinnedRoot(t *testing.T) {
	store := objstore.NewMem(objstore.Clock{})
	f := newForest(t, store)
	e := f.edit(blockmap.Root{}, 1<<14)
	f.set(e, 1, 0, 1<<14)
	root := f.commit("v", e)
	// The pages lie in the order of the blocks, the root last: damage the first.
	key := root.Ref.Pack.Key()
	raw, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw[pack.HeaderLen+pack.SlotHeaderLen+9] ^= 1
	if err := store.Put(t.Context(), key, raw); err != nil {
		t.Fatal(err)
	}
	m := newMark(plain(store), nil)
	if err := m.rootOfSomeone(t.Context(), root); !errors.Is(err, errs.Corrupt) {
		t.Fatalf("a damaged map: %v", err)
	}
	if len(m.walked) != 0 {
		t.Errorf("%d pages of it count as walked", len(m.walked))
	}
}

// TestForwardGoesMeanwhile: a collector that runs beside this one compacts the pack that a
// forward leads to, and deletes the forward after those past it are there: between this
// one's list and its read. A forward that is listed and cannot be read ends the mark.
func TestForwardGoesMeanwhile(t *testing.T) {
	for _, lost := range []bool{false, true} {
		mem := objstore.NewMem(objstore.Clock{})
		f := newForest(t, mem)
		e := f.edit(blockmap.Root{}, 1<<14)
		f.set(e, 1, 0, 100)
		root := f.commit("v", e)
		from := block(1, 3)
		to := func(n byte) pack.ID { return pack.ID{Content: [12]byte{n}} }
		lead := func(n byte) forward.Forward {
			return forward.Forward{From: from.Pack, To: to(n), Slots: []forward.Slot{{Off: from.Off, Len: from.Len, To: pack.HeaderLen}}}
		}
		b := lead(2)
		if err := forward.Create(t.Context(), mem, b); err != nil {
			t.Fatal(err)
		}
		store := &meanwhile{Store: mem, key: b.Key(), do: func() {
			if lost {
				return
			}
			if err := forward.Create(t.Context(), mem, lead(3)); err != nil {
				t.Fatal(err)
			}
			if err := mem.Delete(t.Context(), b.Key()); err != nil {
				t.Fatal(err)
			}
		}}
		c := &Marks{Scope: plain(store)}
		_, err := c.Next(t.Context())
		if lost {
			if !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), b.Key()) {
				t.Errorf("a forward that is listed and not there: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !c.Reached(root.Ref.Pack.Key()) || !c.Reached(to(3).Key()) {
			t.Error("where the slots went is not marked")
		}
	}
}

// TestForwardsAreFollowed: from pack to pack, of packs that are kept whole, and those that
// came after the first look, though no more of their pack is reached by then.
func TestForwardsAreFollowed(t *testing.T) {
	store := objstore.NewMem(objstore.Clock{})
	id := func(n byte) pack.ID { return pack.ID{Content: [12]byte{n}} }
	lead := func(from, to byte, off uint32) {
		f := forward.Forward{From: id(from), To: id(to), Slots: []forward.Slot{{Off: off, Len: 100, To: pack.HeaderLen}}}
		if err := forward.Create(t.Context(), store, f); err != nil {
			t.Fatal(err)
		}
	}
	m := newMark(plain(store), nil)
	follow := func(want ...byte) {
		t.Helper()
		if err := m.listForwards(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, n := range want {
			if !m.Reached(id(n).Key()) {
				t.Errorf("pack %d is not marked", n)
			}
		}
	}
	m.reach(&pack.Ref{Pack: id(1), Off: pack.HeaderLen, Len: 100})
	m.pack(id(5)).whole = true
	lead(1, 2, pack.HeaderLen)
	lead(2, 3, pack.HeaderLen)
	lead(3, 4, pack.HeaderLen)
	lead(5, 6, 4096)
	follow(2, 3, 4, 6)
	lead(1, 7, pack.HeaderLen) // a repair beside it
	lead(5, 8, 8192)
	follow(7, 8)
	lead(1, 9, 4096) // nobody needs that slot
	follow()
	if m.Reached(id(9).Key()) {
		t.Error("a slot that nobody needs is followed")
	}
}

// meanwhile is a store where something happens before a key is read, which then is gone.
type meanwhile struct {
	objstore.Store
	key string
	do  func()
}

func (s *meanwhile) Get(ctx context.Context, key string) ([]byte, error) {
	if key != s.key {
		return s.Store.Get(ctx, key)
	}
	s.do()
	return nil, errs.New(errs.NotFound, "get %s: no such object", key)
}
