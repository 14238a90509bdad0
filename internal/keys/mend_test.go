package keys_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
)

// TestMend: whatever is damaged of a keyring that a host has open, it puts back.
func TestMend(t *testing.T) {
	ctx, store := t.Context(), objstore.NewMem(objstore.Clock{})
	k, r, _ := born(t, store)
	key, damage, err := k.Mend(ctx, r)
	if damage != nil || err != nil {
		t.Fatalf("nothing is wrong: %v, %v", damage, err)
	}
	whole := r.Bytes()
	bad := [][]byte{whole[:len(whole)-1], append(bytes.Clone(whole), 0), whole[:len(whole)/2+200]}
	for at := range whole {
		b := bytes.Clone(whole)
		b[at] ^= 1 << (at % 8)
		bad = append(bad, b)
	}
	for i, b := range bad {
		if err := store.Put(ctx, key, b); err != nil {
			t.Fatal(err)
		}
		_, damage, err := k.Mend(ctx, r)
		if got, gerr := store.Get(ctx, key); errs.KindOf(damage) != errs.Corrupt || damage == nil || err != nil || gerr != nil || !bytes.Equal(got, whole) {
			t.Fatalf("case %d: damage %v, error %v; then %d bytes, %v", i, damage, err, len(got), gerr)
		}
	}
}

// TestMendLeavesAlone: what is not damage of the keyring in force is nobody's to overwrite.
func TestMendLeavesAlone(t *testing.T) {
	ctx := t.Context()
	t.Run("another keyring", func(t *testing.T) {
		store, other := objstore.NewMem(objstore.Clock{}), objstore.NewMem(objstore.Clock{})
		k, r, _ := born(t, store)
		_, theirs, _ := born(t, other)
		key, _, _ := k.Mend(ctx, r)
		if err := store.Put(ctx, key, theirs.Bytes()); err != nil {
			t.Fatal(err)
		}
		if _, damage, err := k.Mend(ctx, r); damage == nil || err == nil {
			t.Errorf("damage %v, error %v", damage, err)
		}
		if raw, err := store.Get(ctx, key); err != nil || !bytes.Equal(raw, theirs.Bytes()) {
			t.Errorf("the secrets of others are overwritten: %v", err)
		}
	})
	t.Run("deleted by hand", func(t *testing.T) {
		store := objstore.NewMem(objstore.Clock{})
		k, r, _ := born(t, store)
		key, _, _ := k.Mend(ctx, r)
		if err := store.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
		if _, damage, err := k.Mend(ctx, r); damage == nil || !errors.Is(err, errs.NotFound) {
			t.Errorf("damage %v, error %v", damage, err)
		}
		if _, err := store.Get(ctx, key); !errors.Is(err, errs.NotFound) {
			t.Errorf("it is there again: %v", err)
		}
	})
	for name, change := range map[string]func(*keys.Keyrings, *keys.Ring) error{
		"erased":  func(k *keys.Keyrings, r *keys.Ring) error { return k.Erase(ctx, domain) },
		"wrapped": func(k *keys.Keyrings, r *keys.Ring) error { _, err := k.Rewrap(ctx, r, k.Providers, true); return err },
		"rotated": func(k *keys.Keyrings, r *keys.Ring) error { _, err := k.Rotate(ctx, r, false); return err },
	} {
		t.Run(name, func(t *testing.T) {
			store := objstore.NewMem(objstore.Clock{})
			k, r, _ := born(t, store)
			key, _, _ := k.Mend(ctx, r)
			if err := change(k, r); err != nil {
				t.Fatal(err)
			}
			if raw, err := store.Get(ctx, key); err == nil { // a rotation keeps it
				raw[9] ^= 1
				if err := store.Put(ctx, key, raw); err != nil {
					t.Fatal(err)
				}
			}
			before := all(t, store)
			if _, damage, err := k.Mend(ctx, r); damage != nil || err != nil {
				t.Errorf("damage %v, error %v", damage, err)
			}
			if after := all(t, store); !slices.Equal(before, after) {
				t.Errorf("%v became %v", before, after)
			}
		})
	}
}

// TestMendBesideErase: keys that are erased while they are put back stay erased.
func TestMendBesideErase(t *testing.T) {
	ctx, mem := t.Context(), objstore.NewMem(objstore.Clock{Now: time.Now})
	k, r, _ := born(t, mem)
	key, _, _ := k.Mend(ctx, r)
	raw := bytes.Clone(r.Bytes())
	raw[9] ^= 1
	if err := mem.Put(ctx, key, raw); err != nil {
		t.Fatal(err)
	}
	late := *k
	late.Store = &beforePut{Store: mem, do: func() error { return k.Erase(ctx, domain) }}
	if _, _, err := late.Mend(ctx, r); err != nil {
		t.Fatal(err)
	}
	if left := all(t, mem); len(left) != 1 || left[0] == key {
		t.Errorf("after the erasure there are %v", left)
	}
}

// beforePut does something just before an object is put.
type beforePut struct {
	objstore.Store
	do func() error
}

func (s *beforePut) Put(ctx context.Context, key string, raw []byte) error {
	return errors.Join(s.do(), s.Store.Put(ctx, key, raw))
}

// all are the keys in a store.
func all(t *testing.T, store objstore.Store) (list []string) {
	t.Helper()
	err := objstore.ListAll(t.Context(), store, "", "", func(in objstore.Info) bool { list = append(list, in.Key); return true })
	if err != nil {
		t.Fatal(err)
	}
	return list
}
