package blockmap

import (
	"errors"
	"testing"

	"github.com/paraglide/glide/internal/pack"
)

const tib16 = 1 << 27 // blocks of 128 KiB in 16 TiB

// fullPath is a map of 16 TiB. Every page on the path to block idx is full of entries,
// each in a pack of its own, and nothing else is mapped.
func fullPath(t tb, s *fakeStore, idx uint64) Root {
	var ref pack.Ref
	for level := range int(HeightFor(tib16)) {
		var refs [Fanout]pack.Ref
		last := int((uint64(tib16) - 1) >> (slotBits * level) & (Fanout - 1))
		if level < int(HeightFor(tib16))-1 {
			last = Fanout - 1
		}
		for slot := range last + 1 {
			refs[slot] = scattered(uint64(1000*level + slot))
		}
		if level > 0 {
			refs[slotOf(idx, level)] = ref
		}
		s.nextPack()
		p := encodePage(level, &refs)
		var err error
		ref, err = s.AddPage(ctx, pack.NewHasher("test").Sum(p), p)
		check(t, err)
	}
	return Root{ref, HeightFor(tib16)}
}

func TestWorstCasePublish(t *testing.T) {
	s, idx := newStore(), uint64(77777777)
	m := mustNew(t, s.cold(), fullPath(t, s, idx), tib16)
	e := m.Edit()
	check(t, e.Set(idx, scattered(1<<30)))
	s.nextPack()
	root := mustPublish(t, e, s)
	if s.added != 5 || s.bytes > 17240 {
		t.Errorf("one changed block publishes %d pages, %d bytes; the package comment says 5 and 17240", s.added, s.bytes)
	}
	got, err := mustNew(t, s.cold(), root, tib16).Lookup(ctx, idx)
	check(t, err)
	if got != scattered(1<<30) {
		t.Errorf("published %v", got)
	}
}

// zero-is-free: whatever the range, zeroing loads at most two pages per level.
func TestZeroRangeLoads(t *testing.T) {
	s := newStore()
	// Map blocks at the edges of the ranges, so that there are pages to load.
	edges := []uint64{1, 2, 63, 64, 5000, 1<<18 + 3, 77777777, tib16 - 2, tib16 - 1}
	e := mustNew(t, s.cold(), Root{}, tib16).Edit()
	for _, idx := range edges {
		for i := idx &^ 63; i < idx|63; i++ {
			check(t, e.Set(i, blockRef(i)))
		}
	}
	root := mustPublish(t, e, s)
	for _, from := range edges {
		for _, to := range edges {
			s.nextPack()
			e := mustNew(t, s.cold(), root, tib16).Edit()
			e.ZeroRange(from, to)
			if s.loads != 0 {
				t.Errorf("ZeroRange(%d, %d) itself loads %d pages", from, to, s.loads)
			}
			mustPublish(t, e, s)
			for level, n := range s.levels {
				if n > 2 {
					t.Errorf("ZeroRange(%d, %d) loads %d pages of level %d", from, to, n, level)
				}
			}
		}
	}
}

func TestZeroAll(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 5000, blockRef)
	s.nextPack()
	e := mustNew(t, s.cold(), m.Root(), 5000).Edit()
	check(t, e.Set(7, blockRef(9)))
	e.ZeroRange(0, 5000)
	if root := mustPublish(t, e, s); !root.IsHole() || s.loads+s.added != 0 {
		t.Errorf("root %v after %d loads and %d new pages, want a hole for nothing", root, s.loads, s.added)
	}
}

func TestDiffLoadsOnlyTheDifference(t *testing.T) {
	s := newStore()
	const blocks = 300000 // four levels
	a := filled(t, s, s.cold(), blocks, blockRef)
	e := a.Edit()
	changed := []uint64{5, 6, 123456}
	for _, idx := range changed {
		check(t, e.Set(idx, scattered(1<<20+idx)))
	}
	b := mustNew(t, s.cold(), mustPublish(t, e, s), blocks)
	a = mustNew(t, s.cold(), a.Root(), blocks)
	s.nextPack()
	var got []uint64
	check(t, Diff(ctx, a, b, func(idx uint64, _, _ pack.Ref) error { got = append(got, idx); return nil }))
	if len(got) != 3 {
		t.Errorf("Diff gives %v, want %v", got, changed)
	}
	// From each tree: the top, its two pages, their two pages, and the two leaves.
	if s.loads > 2*(1+2+2+2) {
		t.Errorf("Diff of two changed leaves loads %d pages", s.loads)
	}
	s.nextPack()
	check(t, Diff(ctx, a, a, nil))
	if s.loads != 0 {
		t.Errorf("Diff of a map with itself loads %d pages", s.loads)
	}
}

func TestUnchangedKeepsItsPages(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 5000, blockRef)
	s.nextPack()
	e := m.Edit()
	for i := range uint64(200) {
		check(t, e.Set(i, scattered(1<<20+i)))
		check(t, e.Set(i, blockRef(i)))
	}
	check(t, e.Set(4999, blockRef(4999)))
	if root := mustPublish(t, e, s); root != m.Root() || s.added != 0 {
		t.Errorf("an edit that leads back publishes %d pages and moves %v to %v", s.added, m.Root(), root)
	}
}

// TestImportHoldsOnePath sets a whole volume in order, and checks how many changed pages
// the edit holds meanwhile.
func TestImportHoldsOnePath(t *testing.T) {
	s := newStore()
	const blocks = 300000
	e := mustNew(t, s.cold(), Root{}, blocks).Edit()
	most := 0
	for i := range uint64(blocks) {
		check(t, e.Set(i, blockRef(i)))
		if i%64 == 0 {
			check(t, e.PublishBefore(ctx, i, s))
			most = max(most, count(e.top))
		}
	}
	if most > 5 { // one per level
		t.Errorf("the edit holds up to %d changed pages", most)
	}
	root := mustPublish(t, e, s)
	n := 0
	check(t, mustNew(t, s.cold(), root, blocks).Walk(ctx, 0, blocks, func(i uint64, ref pack.Ref) error {
		if ref != blockRef(i) {
			t.Fatalf("block %d is %v", i, ref)
		}
		n++
		return nil
	}))
	if n != blocks {
		t.Errorf("%d blocks are mapped, want %d", n, blocks)
	}
	t.Logf("%.1f bytes of pages per block", float64(s.bytes)/blocks)
	if perBlock := float64(s.bytes) / blocks; perBlock > 45 {
		t.Errorf("%.1f bytes of pages per block, want 45 at most", perBlock)
	}
}

func count(n *node) int {
	if n == nil {
		return 0
	}
	sum := 1
	for _, kid := range n.kids {
		sum += count(kid)
	}
	return sum
}

func TestPublishErrors(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 5000, blockRef)
	e := mustNew(t, s.cold(), m.Root(), 5000).Edit()
	check(t, e.Set(100, scattered(1)))
	s.fail = errors.New("no store")
	if _, err := e.Publish(ctx, s); !errors.Is(err, s.fail) {
		t.Errorf("Publish returns %v", err)
	}
	if err := e.PublishBefore(ctx, 200, s); !errors.Is(err, s.fail) {
		t.Errorf("PublishBefore returns %v", err)
	}
	s.fail = nil
	root := mustPublish(t, e, s)
	got, err := mustNew(t, s.cold(), root, 5000).Lookup(ctx, 100)
	check(t, err)
	if got != scattered(1) {
		t.Errorf("after the failure, block 100 is %v", got)
	}
}

func TestGrowKeepsWhatIsThere(t *testing.T) {
	s := newStore()
	m := filled(t, s, s.cold(), 64, blockRef)
	s.nextPack()
	e := m.Edit()
	check(t, e.Grow(maxBlocks))
	check(t, e.Set(maxBlocks-1, blockRef(5)))
	root := mustPublish(t, e, s)
	if s.added != 2*MaxHeight-2 { // one page per level on two paths; the top is shared, and the old leaf is kept
		t.Errorf("growing publishes %d pages", s.added)
	}
	big := mustNew(t, s.cold(), root, maxBlocks)
	for idx, want := range map[uint64]pack.Ref{0: blockRef(0), 63: blockRef(63), 64: {}, maxBlocks - 1: blockRef(5)} {
		got, err := big.Lookup(ctx, idx)
		check(t, err)
		if got != want {
			t.Errorf("block %d is %v, want %v", idx, got, want)
		}
	}
	n := 0
	check(t, Diff(ctx, m, big, func(idx uint64, a, b pack.Ref) error {
		if n++; idx != maxBlocks-1 || !a.IsHole() || b != blockRef(5) {
			t.Errorf("Diff gives %d: %v, %v", idx, a, b)
		}
		return nil
	}))
	if n != 1 {
		t.Errorf("Diff gives %d differences, want 1", n)
	}
}
