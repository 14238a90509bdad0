package extent

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// model is the same mapping as an array with the place of every byte.
type model []Place

const nowhere Place = 1<<64 - 2

func newModel(n int) model {
	m := make(model, n)
	for i := range m {
		m[i] = nowhere
	}
	return m
}

func (m model) set(start, end uint64, p Place) {
	for i := start; i < end; i++ {
		m[i] = p
		if p != nowhere {
			m[i] = p.After(i - start)
		}
	}
}

func check(t rapid.TB, tr *Tree, m model) {
	got := newModel(len(m))
	count, last := 0, uint64(0)
	var it Iterator
	it.Seek(tr, 0)
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		if e.Start < last || e.End <= e.Start {
			t.Fatalf("extent %v after %d", e, last)
		}
		got.set(e.Start, e.End, e.Place)
		last = e.End
		count++
	}
	if count != tr.Count() {
		t.Fatalf("Count is %d, %d extents found", tr.Count(), count)
	}
	for i := range m {
		if got[i] != m[i] {
			t.Fatalf("byte %d lies at %d, should be %d", i, got[i], m[i])
		}
	}
}

func TestTreeAgreesWithModel(t *testing.T) {
	const size = 1024
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			tree *Tree
			m    model
		}
		all := []pair{{New(), newModel(size)}}
		seed := rapid.Uint64().Draw(t, "seed")
		maxLen := rapid.SampledFrom([]int{1, 3, 16, 500}).Draw(t, "maxLen")
		r := rand.New(rand.NewPCG(seed, 1))
		for range 1500 {
			p := &all[r.IntN(len(all))]
			start := r.Uint64N(size - 1)
			end := min(size, start+1+r.Uint64N(uint64(maxLen)))
			next := start
			note := func(e Extent) {
				for i := e.Start; i < e.End; i++ {
					if p.m[i] != e.Place.After(i-e.Start) {
						t.Fatalf("byte %d: displaced %v, was %d", i, e, p.m[i])
					}
				}
				for ; next < e.Start; next++ {
					if p.m[next] != nowhere {
						t.Fatalf("byte %d was displaced in silence", next)
					}
				}
				next = e.End
			}
			switch r.IntN(20) {
			case 0:
				if len(all) < 4 {
					all = append(all, pair{p.tree.Clone(), append(model(nil), p.m...)})
				}
				continue
			case 1, 2, 3, 4:
				p.tree.Delete(start, end, note)
				p.m.set(start, end, nowhere)
			case 5, 6, 7:
				p.tree.Set(start, end, Zero, note)
				p.m.set(start, end, Zero)
			default:
				place := Place(r.Uint64N(1<<40)) << 12
				p.tree.Set(start, end, place, note)
				p.m.set(start, end, place)
			}
			off := r.Uint64N(size)
			e, ok := p.tree.Find(off)
			if ok != (p.m[off] != nowhere) || ok && e.Place.After(off-e.Start) != p.m[off] {
				t.Fatalf("Find(%d) = %v, %v; want %d", off, e, ok, p.m[off])
			}
		}
		for _, p := range all {
			check(t, p.tree, p.m)
			p.tree.Delete(0, size, nil)
			if p.tree.Count() != 0 || p.tree.root.leaf == nil {
				t.Fatalf("%d extents left in an emptied tree", p.tree.Count())
			}
		}
	})
}

// zero-is-free: discarding 16 TiB in the largest requests that NBD allows leaves one
// extent.
func TestZeroNeighboursJoin(t *testing.T) {
	tr := New()
	const piece = 1<<32 - 4096
	for off := uint64(0); off < 16<<40; off += piece {
		tr.Set(off, min(off+piece, 16<<40), Zero, nil)
	}
	if tr.Count() != 1 {
		t.Fatalf("%d extents", tr.Count())
	}
}

func filled(pages int) *Tree {
	r := rand.New(rand.NewPCG(1, 2))
	tr := New()
	for tr.Count() < pages {
		p := r.Uint64N(1 << 28)
		tr.Set(p<<12, (p+1)<<12, Place(r.Uint64N(1<<40)), nil)
	}
	return tr
}

func BenchmarkSetScattered(b *testing.B) {
	tr := filled(262144)
	r := rand.New(rand.NewPCG(3, 4))
	b.ReportAllocs()
	for b.Loop() {
		p := r.Uint64N(1 << 28)
		tr.Set(p<<12, (p+1)<<12, Place(p), nil)
	}
}

func BenchmarkFind(b *testing.B) {
	tr := filled(262144)
	r := rand.New(rand.NewPCG(3, 4))
	b.ReportAllocs()
	for b.Loop() {
		tr.Find(r.Uint64N(1 << 40))
	}
}

func BenchmarkClone(b *testing.B) {
	tr := filled(262144)
	for b.Loop() {
		tr.Clone()
	}
}

func BenchmarkSetAfterClone(b *testing.B) {
	tr := filled(262144)
	r := rand.New(rand.NewPCG(3, 4))
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if n++; n%1000 == 0 {
			tr.Clone()
		}
		p := r.Uint64N(1 << 28)
		tr.Set(p<<12, (p+1)<<12, Place(p), nil)
	}
}
