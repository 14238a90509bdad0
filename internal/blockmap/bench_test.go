package blockmap

import (
	"testing"

	"github.com/paraglide/glide/internal/pack"
)

const gb100 = 819200 // blocks of 128 KiB in 100 GB: four levels

func BenchmarkTryLookup(b *testing.B) {
	s := newStore()
	m := filled(b, s, s.sized(64<<20), gb100, blockRef)
	b.Run("sequential", func(b *testing.B) { tryLookups(b, m, 1) })
	b.Run("scattered", func(b *testing.B) { tryLookups(b, m, 104729) })
	b.Run("16TiB", func(b *testing.B) {
		s := newStore()
		m := mustNew(b, s.cold(), fullPath(b, s, 77777777), tib16)
		_, err := m.Lookup(ctx, 77777777)
		check(b, err)
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := m.TryLookup(77777777); !ok {
				b.Fatal("not cached")
			}
		}
	})
}

func tryLookups(b *testing.B, m *Map, step uint64) {
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i += step {
		if _, ok := m.TryLookup(i % m.blocks); !ok {
			b.Fatal("not cached")
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	s := newStore()
	m := filled(b, s, s.sized(64<<20), gb100, blockRef)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i += 104729 {
		if _, err := m.Lookup(ctx, i%m.blocks); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkImport maps one block of an import in order, including its share of pages.
func BenchmarkImport(b *testing.B) {
	s := newStore()
	e := mustNew(b, s.sized(1<<20), Root{}, maxBlocks).Edit()
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		check(b, e.Set(i, blockRef(i)))
		check(b, e.PublishBefore(ctx, i, s))
	}
}

// BenchmarkPublishOne changes one block of a 100 GB volume and publishes it.
func BenchmarkPublishOne(b *testing.B) {
	s := newStore()
	m := filled(b, s, s.sized(64<<20), gb100, blockRef)
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i += 104729 {
		e := m.Edit()
		check(b, e.Set(i%m.blocks, scattered(i)))
		mustPublish(b, e, s)
	}
}

func BenchmarkZeroRange16TiB(b *testing.B) {
	m := mustNew(b, newStore().cold(), Root{}, tib16)
	b.ReportAllocs()
	for b.Loop() {
		m.Edit().ZeroRange(1, tib16-1)
	}
}

func BenchmarkWalk(b *testing.B) {
	s := newStore()
	m := filled(b, s, s.sized(64<<20), gb100, blockRef)
	for b.Loop() {
		check(b, m.Walk(ctx, 0, m.blocks, func(uint64, pack.Ref) error { return nil }))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/gb100, "ns/block")
}
