package blockmap

import (
	"maps"
	"slices"
	"testing"

	"github.com/paraglide/glide/internal/pack"
	"pgregory.net/rapid"
)

// world is the code under test and its model, a Go map.
type world struct {
	t      *rapid.T
	store  *fakeStore
	model  map[uint64]pack.Ref
	blocks uint64
	edit   *Edit
	last   *Map                // the last publication
	before map[uint64]pack.Ref // and its content
}

// TestModel makes the same random changes to an Edit and a Go map. The two must look
// alike in every way, also when reloaded with an empty and with a tiny cache.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, store: newStore(), model: map[uint64]pack.Ref{}}
		w.store.byContent = rapid.Bool().Draw(t, "byContent")
		w.blocks = rapid.SampledFrom([]uint64{1, 60, 64, 65, 300, 5000, 1 << 20, 1 << 27, 1 << 43}).Draw(t, "blocks")
		w.last = mustNew(t, w.store.cold(), Root{}, w.blocks)
		w.edit = w.last.Edit()
		t.Repeat(map[string]func(*rapid.T){
			"set":           w.set,
			"setRun":        w.setRun,
			"zero":          w.zero,
			"grow":          w.grow,
			"lookup":        w.lookup,
			"publishBefore": w.publishBefore,
			"publish":       w.publish,
			"walk":          w.walk,
		})
		w.publish(t)
	})
}

// index prefers indexes near mapped blocks, near edges, and near powers of 64.
func (w *world) index(t *rapid.T) uint64 {
	near := rapid.SampledFrom(append([]uint64{0, 63, 64, 4095, 4096, 1 << 18, w.blocks - 1}, w.keys()...)).Draw(t, "near")
	far := rapid.Uint64Range(0, w.blocks-1).Draw(t, "far")
	if rapid.Bool().Draw(t, "anywhere") {
		return far
	}
	return min(near+far%70, w.blocks-1)
}

func (w *world) keys() []uint64 { return slices.Sorted(maps.Keys(w.model)) }

func (w *world) put(t *rapid.T, idx uint64, ref pack.Ref) {
	check(t, w.edit.Set(idx, ref))
	if ref.IsHole() {
		delete(w.model, idx)
	} else {
		w.model[idx] = ref
	}
}

func (w *world) set(t *rapid.T) {
	ref := blockRef(rapid.Uint64Range(0, 40).Draw(t, "content"))
	if rapid.IntRange(0, 5).Draw(t, "hole") == 0 {
		ref = pack.Ref{}
	}
	w.put(t, w.index(t), ref)
}

func (w *world) setRun(t *rapid.T) {
	first := w.index(t)
	for i := range rapid.Uint64Range(1, 150).Draw(t, "count") {
		if first+i < w.blocks {
			w.put(t, first+i, blockRef(first+i))
		}
	}
}

func (w *world) zero(t *rapid.T) {
	from, to := w.index(t), w.index(t)+1
	if rapid.Bool().Draw(t, "beyond") {
		to += w.blocks
	}
	w.edit.ZeroRange(from, to)
	maps.DeleteFunc(w.model, func(i uint64, _ pack.Ref) bool { return from <= i && i < to })
}

func (w *world) grow(t *rapid.T) {
	w.blocks = min(maxBlocks, w.blocks+rapid.SampledFrom([]uint64{0, 1, 64, 4000, w.blocks * 63}).Draw(t, "more"))
	check(t, w.edit.Grow(w.blocks))
}

func (w *world) lookup(t *rapid.T) {
	idx := w.index(t)
	got, err := w.edit.Lookup(ctx, idx)
	check(t, err)
	if got != w.model[idx] {
		t.Fatalf("Edit.Lookup(%d) = %v, want %v", idx, got, w.model[idx])
	}
}

func (w *world) publishBefore(t *rapid.T) {
	check(t, w.edit.PublishBefore(ctx, w.index(t), w.store))
}

func (w *world) publish(t *rapid.T) {
	root := mustPublish(t, w.edit, w.store)
	m := mustNew(t, w.store.cold(), root, w.blocks)
	w.compare(t, m)
	w.compareDiff(t, m)
	w.compareFresh(t, root)
	w.last, w.before = m, maps.Clone(w.model)
	w.edit = mustNew(t, w.store.sized(rapid.SampledFrom([]int64{0, 20000, 1 << 24}).Draw(t, "cache")), root, w.blocks).Edit()
}

// compare checks every mapped block and its neighbours twice: with an empty cache and
// with a warm one.
func (w *world) compare(t *rapid.T, m *Map) {
	for idx := range w.model {
		for _, i := range []uint64{idx, idx + 1, idx + 64} {
			got, err := m.Lookup(ctx, i)
			check(t, err)
			warm, ok := m.TryLookup(i)
			if got != w.model[i] || warm != got || !ok {
				t.Fatalf("Lookup(%d) = %v, then %v (%v), want %v", i, got, warm, ok, w.model[i])
			}
		}
	}
}

// compareDiff checks that Diff returns the differences of the two models.
func (w *world) compareDiff(t *rapid.T, m *Map) {
	want := map[uint64]bool{}
	for i, ref := range w.model {
		want[i] = w.before[i].Hash != ref.Hash
	}
	for i, ref := range w.before {
		want[i] = w.model[i].Hash != ref.Hash
	}
	maps.DeleteFunc(want, func(_ uint64, differs bool) bool { return !differs })
	last := int64(-1)
	check(t, Diff(ctx, w.last, m, func(i uint64, a, b pack.Ref) error {
		if !want[i] || a != w.before[i] || b != w.model[i] || int64(i) <= last {
			t.Fatalf("Diff reports %d: %v, %v", i, a, b)
		}
		last = int64(i)
		delete(want, i)
		return nil
	}))
	if len(want) != 0 {
		t.Fatalf("Diff does not report %v", want)
	}
}

// compareFresh maps the same blocks at once, in order: the pages must be the same.
func (w *world) compareFresh(t *rapid.T, root Root) {
	if !w.store.byContent {
		return
	}
	store := newStore()
	store.byContent = true
	e := mustNew(t, store.cold(), Root{}, w.blocks).Edit()
	for _, i := range w.keys() {
		check(t, e.Set(i, w.model[i]))
	}
	if fresh := mustPublish(t, e, store); fresh != root {
		t.Fatalf("root %v, but %v when mapped in one go", root, fresh)
	}
}

// walk compares Walk, Extents and WalkPages over a random range of the last publication.
func (w *world) walk(t *rapid.T) {
	from, to := w.index(t), w.index(t)+1
	var want []uint64
	for _, i := range slices.Sorted(maps.Keys(w.before)) {
		if from <= i && i < to {
			want = append(want, i)
		}
	}
	var got []uint64
	check(t, w.last.Walk(ctx, from, to, func(i uint64, ref pack.Ref) error {
		if ref != w.before[i] {
			t.Fatalf("Walk gives %v for %d, want %v", ref, i, w.before[i])
		}
		got = append(got, i)
		return nil
	}))
	if !slices.Equal(got, want) {
		t.Fatalf("Walk(%d, %d) gives %v, want %v", from, to, got, want)
	}
	w.extents(t, from, to, want)
}

func (w *world) extents(t *rapid.T, from, to uint64, want []uint64) {
	at, wasMapped := from, false
	check(t, w.last.Extents(ctx, from, to, func(first, count uint64, mapped bool) error {
		if first != at || count == 0 || at > from && mapped == wasMapped {
			t.Fatalf("Extents gives %d+%d (%v) after %d (%v)", first, count, mapped, at, wasMapped)
		}
		if mapped {
			for i := range count {
				if len(want) == 0 || want[0] != first+i {
					t.Fatalf("Extents says that %d is mapped", first+i)
				}
				want = want[1:]
			}
		}
		at, wasMapped = first+count, mapped
		return nil
	}))
	if len(want) != 0 || from < to && at != to {
		t.Fatalf("Extents ends at %d of %d without %v", at, to, want)
	}
}
