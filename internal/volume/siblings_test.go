package volume

import (
	"math/rand/v2"
	"testing"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal"
)

// TestLayAll: records that are applied in the order of their offsets give the same
// overlay as in the order of their numbers.
func TestLayAll(t *testing.T) {
	fast := 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		entries := make([]wal.Entry, 1024+r.IntN(3000))
		unit := uint64(4096)
		for i := range entries {
			e := &entries[i]
			e.Seq, e.Off, e.Len = uint64(i+1), r.Uint64N(2000)*unit, unit
			e.Place = extent.Place(1<<33 + uint64(i)*8192)
			if r.IntN(10) == 0 {
				e.Zero, e.Place = true, extent.Zero
			}
			if seed%2 == 1 && r.IntN(500) == 0 { // a write that is not a page
				e.Off, e.Len = e.Off+r.Uint64N(unit), 1+r.Uint64N(3*unit)
			}
		}
		if distinct(entries) != nil {
			fast++
		}
		got, want := extent.New(), extent.New()
		layAll(got, entries)
		for i := range entries {
			e := &entries[i]
			want.Set(e.Off, e.Off+e.Len, e.Place, nil)
		}
		a, b := got.Range(nil, 0, 1<<40), want.Range(nil, 0, 1<<40)
		if len(a) != len(b) {
			t.Fatalf("seed %d: %d extents, want %d", seed, len(a), len(b))
		}
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("seed %d: extent %d is %+v, want %+v", seed, i, a[i], b[i])
			}
		}
	}
	if fast < 20 {
		t.Errorf("only %d of 40 took the fast way", fast)
	}
}
