package gc

import (
	"errors"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
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
	m := newMark(store)
	if err := m.rootOfSomeone(t.Context(), root); !errors.Is(err, errs.Corrupt) {
		t.Fatalf("a damaged map: %v", err)
	}
	if len(m.walked) != 0 {
		t.Errorf("%d pages of it count as walked", len(m.walked))
	}
}
