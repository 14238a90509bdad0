package blockmap

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

func TestCacheIsBounded(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 100000, blockRef)
	const budget = 1 << 20
	src := s.sized(budget)
	m = mustNew(t, src, m.Root(), m.Blocks())
	check(t, m.Walk(ctx, 0, m.Blocks(), func(uint64, pack.Ref) error { return nil }))
	stats := src.cache.Stats()
	if stats.Bytes > budget || stats.Bytes < budget*3/4 || stats.Pages < 200 {
		t.Errorf("after a walk over 4 MiB of pages: %+v", stats)
	}
}

// A walk over everything must not evict the pages that others keep using.
func TestCacheResistsScans(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 100000, blockRef)
	src := s.sized(1 << 20)
	m = mustNew(t, src, m.Root(), m.Blocks())
	hot := func() (found int) {
		for i := range uint64(50) {
			if _, ok := m.TryLookup(i * 64); ok {
				found++
			}
		}
		return found
	}
	for i := range uint64(50) {
		_, err := m.Lookup(ctx, i*64)
		check(t, err)
	}
	hot()
	check(t, m.Walk(ctx, 50*64, m.Blocks(), func(i uint64, _ pack.Ref) error {
		if i%6400 == 0 {
			hot()
		}
		return nil
	}))
	if n := hot(); n < 45 {
		t.Errorf("%d of 50 hot pages survive a scan", n)
	}
}

// gate is a Pages whose loads wait until the test says what they return.
type gate struct {
	calls  atomic.Int32
	answer chan func() ([]byte, error)
}

func (g *gate) Page(ctx context.Context, _ pack.Ref) ([]byte, error) {
	g.calls.Add(1)
	select {
	case f := <-g.answer:
		return f()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestSingleFlight(t *testing.T) {
	page := samples()["some"]
	hasher := pack.NewHasher("test")
	ref := pack.Ref{Hash: hasher.Sum(page), Len: 1}
	synctest.Test(t, func(t *testing.T) {
		g := &gate{answer: make(chan func() ([]byte, error))}
		src := NewPageCache(1<<20).Source(g, hasher)
		cancelled, cancel := context.WithCancel(t.Context())
		var (
			wg     sync.WaitGroup
			good   atomic.Int32
			failed atomic.Int32
		)
		ask := func(ctx context.Context) {
			wg.Go(func() {
				p, err := src.Page(ctx, &ref, 0)
				switch {
				case err == nil && bytes.Equal(p, page):
					good.Add(1)
				case errors.Is(err, context.Canceled):
					failed.Add(1)
				}
			})
		}
		ask(cancelled)
		synctest.Wait() // it is loading
		for range 10 {
			ask(t.Context())
		}
		ask(cancelled)
		synctest.Wait()
		cancel() // another caller must take over
		synctest.Wait()
		if n := g.calls.Load(); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
		g.answer <- func() ([]byte, error) { return page, nil }
		wg.Wait()
		if good.Load() != 10 || failed.Load() != 2 {
			t.Errorf("%d got the page, %d were cancelled; want 10 and 2", good.Load(), failed.Load())
		}
	})
}

func TestErrorsAreNotCached(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 100, blockRef)
	m = mustNew(t, s.cold(), m.Root(), 100)
	s.fail = errs.New(errs.Unavailable, "no store")
	_, err := m.Lookup(ctx, 1)
	wantKind(t, err, errs.Unavailable)
	s.fail = nil
	got, err := m.Lookup(ctx, 1)
	check(t, err)
	if got != blockRef(1) {
		t.Errorf("got %v", got)
	}
}

// verified: no lookup uses a page with other bytes or of another level.
func TestCorruptPages(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 100, blockRef)
	root := m.Root()
	at := place{root.Ref.Pack, root.Ref.Off}
	whole := s.pages[at]

	s.pages[at] = bytes.Clone(whole)
	s.pages[at][100] ^= 1
	_, err := mustNew(t, s.cold(), root, 100).Lookup(ctx, 1)
	wantKind(t, err, errs.Corrupt)
	if !bytes.Contains([]byte(err.Error()), []byte(root.Ref.Pack.Key())) {
		t.Errorf("%q does not name the pack", err)
	}

	s.pages[at] = whole
	wrong := mustNew(t, s.cold(), Root{root.Ref, 3}, 5000)
	_, err = wrong.Lookup(ctx, 1)
	wantKind(t, err, errs.Corrupt)
	if _, ok := wrong.TryLookup(1); ok {
		t.Error("TryLookup looks in a page of the wrong level")
	}
	wantKind(t, wrong.WalkPages(ctx, nil, func(pack.Ref, Page) error { return nil }), errs.Corrupt)

	newer := bytes.Clone(whole)
	newer[2] = 9
	ref, err := s.AddPage(ctx, pack.NewHasher("test").Sum(newer), newer)
	check(t, err)
	_, err = mustNew(t, s.cold(), Root{ref, 2}, 100).Lookup(ctx, 1)
	wantKind(t, err, errs.Unsupported)
}

func TestBadArguments(t *testing.T) {
	src := newStore().cold()
	_, err := New(src, Root{}, maxBlocks+1)
	wantKind(t, err, errs.Invalid)
	_, err = New(src, Root{blockRef(1), 2}, 64)
	wantKind(t, err, errs.Corrupt)
	e := mustNew(t, src, Root{}, 100).Edit()
	wantKind(t, e.Set(100, blockRef(1)), errs.Invalid)
	wantKind(t, e.Set(1, pack.Ref{Off: 1<<32 - 1, Len: 2}), errs.Invalid)
	wantKind(t, e.Grow(99), errs.Invalid)
	wantKind(t, e.Grow(maxBlocks+1), errs.Invalid)
	e.ZeroRange(5, 5)
	e.ZeroRange(100, 200)
	e.ZeroRange(7, 3)
	if e.top != nil {
		t.Error("empty ranges change something")
	}
}

// A mark phase visits what two trees share once.
func TestWalkPagesSkips(t *testing.T) {
	s := newStore()
	a := filled(t, s, s.cold(), 5000, blockRef)
	e := a.Edit()
	check(t, e.Set(4321, scattered(1)))
	b := mustNew(t, s.cold(), mustPublish(t, e, s), 5000)
	seen := map[pack.Hash]bool{}
	skip := func(ref pack.Ref) bool { return seen[ref.Hash] }
	blocks := 0
	visit := func(ref pack.Ref, p Page) error {
		seen[ref.Hash] = true
		if p.Level() == 0 {
			blocks += p.Len()
		}
		return nil
	}
	check(t, a.WalkPages(ctx, skip, visit))
	if blocks != 5000 {
		t.Errorf("the leaves hold %d blocks, want 5000", blocks)
	}
	first := len(seen)
	check(t, b.WalkPages(ctx, skip, visit))
	if n := len(seen) - first; n != 3 {
		t.Errorf("the second walk visits %d pages, want the 3 that are new", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 20000, blockRef)
	m = mustNew(t, s.sized(100_000), m.Root(), m.Blocks())
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			for i := range uint64(2000) {
				idx := (i*7919 + g*104729) % m.Blocks()
				if ref, ok := m.TryLookup(idx); ok && ref != blockRef(idx) {
					t.Errorf("TryLookup(%d) = %v", idx, ref)
				}
				if ref, err := m.Lookup(ctx, idx); err != nil || ref != blockRef(idx) {
					t.Errorf("Lookup(%d) = %v, %v", idx, ref, err)
				}
			}
		})
	}
	wg.Wait()
}
