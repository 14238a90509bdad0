package reach

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// oneSecond is a store in whose lists all is of one second, as on S3 it may be.
func oneSecond() objstore.Store {
	return objstore.NewMem(objstore.Clock{Now: func() time.Time { return time.Unix(1_700_000_000, 0) }})
}

// TestRemembered: marks of later rounds read nothing of what earlier ones have read, and
// reach the same.
func TestRemembered(t *testing.T) {
	f := newForest(t, oneSecond())
	e := f.edit(blockmap.Root{}, 1<<14)
	f.set(e, 1, 0, 1<<14)
	f.commit("base", e)
	g := &gets{Store: f.store}
	memory := NewMemory()
	var first *Mark
	for i := range 3 {
		m := newMark(plain(g), memory)
		if _, err := m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		memory.logs.Turn()
		if i == 0 {
			first = m
		} else if n := g.n.Load(); n != 0 {
			t.Errorf("mark %d makes %d GETs", i+1, n)
		}
		slots := 0
		for id, l := range m.packs {
			if slots += len(l.slots); first.packs[id] == nil {
				t.Errorf("mark %d reaches %s, the first did not", i+1, id)
			}
		}
		if len(m.packs) != len(first.packs) || slots < 1<<14 || len(m.walked) != f.pages || len(m.roots) != 1 {
			t.Errorf("mark %d reaches %d slots of %d packs, by %d pages and %d roots", i+1, slots, len(m.packs), len(m.walked), len(m.roots))
		}
		g.n.Store(0)
	}
}

// withoutVersions is a store that tells no versions.
type withoutVersions struct{ objstore.Store }

func (s withoutVersions) List(ctx context.Context, prefix, after string, n int) ([]objstore.Info, error) {
	infos, err := s.Store.List(ctx, prefix, after, n)
	for i := range infos {
		infos[i].Version = ""
	}
	return infos, err
}

// TestRememberedIsReplaced: what is remembered of an object counts for that object alone: not
// for a stub in its place, or a commit in the place of a stub, of the same size and second.
func TestRememberedIsReplaced(t *testing.T) {
	for _, versions := range []bool{true, false} {
		store := oneSecond()
		f := newForest(t, store)
		e := f.edit(blockmap.Root{}, 1<<14)
		f.set(e, 1, 0, 100)
		one := f.commit("one", e)
		e = f.edit(blockmap.Root{}, 1<<14)
		f.set(e, 2, 0, 100)
		two := f.commit("two", e)
		vol := commitlog.Volume{Tenant: "default", Name: "one"}
		at := commitlog.Generation{Epoch: 1, Number: 1}
		whole, err := commitlog.Load(t.Context(), store, vol, at)
		if err != nil {
			t.Fatal(err)
		}
		other, tombstone := *whole, *whole
		other.State.Root = two // another volume got the name, after it was forgotten
		tombstone.Tombstone, tombstone.State = true, commitlog.State{Identity: whole.State.Identity}
		if err := store.Delete(t.Context(), commitlog.Volume{Tenant: "default", Name: "two"}.Key(at)); err != nil {
			t.Fatal(err)
		}
		memory := NewMemory()
		sizes := map[string]int{}
		for i, step := range []struct {
			name string
			o    *commitlog.Object
			pack pack.ID // reached; nothing: none
			stub bool
		}{
			{"commit", whole, one.Ref.Pack, false},
			{"stub", whole.Stub(), pack.ID{}, true},
			{"commit", whole, one.Ref.Pack, false},
			{"other", &other, two.Ref.Pack, false},
			{"commit", whole, one.Ref.Pack, false},
			{"tombstone", &tombstone, pack.ID{}, false},
			{"stub of tombstone", tombstone.Stub(), pack.ID{}, true},
			{"tombstone", &tombstone, pack.ID{}, false},
		} {
			raw, err := step.o.Encode()
			if err == nil {
				err = store.Put(t.Context(), vol.Key(at), raw)
			}
			if err != nil {
				t.Fatal(err)
			}
			sizes[step.name] = len(raw)
			g := &gets{Store: store}
			var s objstore.Store = g
			if !versions {
				s = withoutVersions{g}
			}
			for again := range 2 {
				g.n.Store(0)
				m := newMark(plain(s), memory)
				l, err := m.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				memory.logs.Turn()
				if first := l.volumes[0].epochs[0].first; first.stub != step.stub || first.removed != step.o.Tombstone {
					t.Errorf("step %d, a %s: taken for a stub %v, a tombstone %v", i, step.name, first.stub, first.removed)
				}
				for _, root := range []blockmap.Root{one, two} {
					if got := m.packs[root.Ref.Pack] != nil; got != (root.Ref.Pack == step.pack) {
						t.Errorf("step %d, a %s: the pack of one of the roots is reached: %v", i, step.name, got)
					}
				}
				if n := g.n.Load(); (n == 0) != (versions && again == 1) {
					t.Errorf("step %d, a %s, mark %d: %d GETs", i, step.name, again+1, n)
				}
			}
		}
		if sizes["commit"] != sizes["other"] || sizes["tombstone"] != sizes["stub of tombstone"] {
			t.Errorf("the sizes tell them apart: %v", sizes)
		}
	}
}

// TestMemoryIsWrong: if what is remembered leads to what is gone, all is read again.
func TestMemoryIsWrong(t *testing.T) {
	store := oneSecond()
	f := newForest(t, store)
	e := f.edit(blockmap.Root{}, 1<<14)
	f.set(e, 1, 0, 100)
	root := f.commit("v", e)
	c := &Marks{Scope: plain(store), Memory: NewMemory()}
	if _, err := c.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The pages are in memory, so nobody misses the pack; a memory without pages does.
	if err := store.Delete(t.Context(), root.Ref.Pack.Key()); err != nil {
		t.Fatal(err)
	}
	c.Mark = nil
	if _, err := c.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Mark, c.Memory.pages = nil, blockmap.NewPageCache(memoryPages)
	if _, err := c.Next(t.Context()); !errors.Is(err, errs.NotFound) {
		t.Fatalf("a map that is gone: %v", err)
	}
	in, err := store.List(t.Context(), "t/", "", 0)
	if err != nil || len(in) != 1 {
		t.Fatal(in, err)
	}
	if _, ok := c.Memory.logs.Recall(in[0]); ok {
		t.Error("what leads to nothing is still remembered")
	}
}
