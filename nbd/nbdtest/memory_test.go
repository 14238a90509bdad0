package nbdtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/paraglide/glide/nbd"
)

// TestMemory compares the device with plain slices.
func TestMemory(t *testing.T) {
	const size = 300_000
	m := NewMemory(size)
	data, present := make([]byte, size), make([]bool, size)
	r := rand.New(rand.NewPCG(1, 1))
	for step := range 2000 {
		n := 1 + r.IntN(1<<r.IntN(18))
		off := r.IntN(size - n)
		// Writing touches whole pages, punching frees those that it covers.
		first, end := off/pageSize*pageSize, min((off+n+pageSize-1)/pageSize*pageSize, size)
		switch r.IntN(4) {
		case 0:
			frame := make([]byte, nbd.Headroom+n)
			for i := range frame {
				frame[i] = byte(r.Uint32())
			}
			copy(data[off:], frame[nbd.Headroom:])
			if err := m.WriteFrames([]uint64{uint64(off)}, [][]byte{frame}); err != nil {
				t.Fatal(err)
			}
			for i := first; i < end; i++ {
				present[i] = true
			}
		case 1:
			clear(data[off : off+n])
			punch := r.IntN(2) == 0
			if err := m.Zero(uint64(off), uint64(n), punch); err != nil {
				t.Fatal(err)
			}
			if punch {
				first, end = (off+pageSize-1)/pageSize*pageSize, (off+n)/pageSize*pageSize
			}
			for i := first; i < end; i++ {
				present[i] = !punch
			}
		case 2:
			got := make([]byte, n)
			if err := m.ReadAt(got, uint64(off)); err != nil || !bytes.Equal(got, data[off:off+n]) {
				t.Fatalf("step %d: read of %d at %d: %v", step, n, off, err)
			}
		case 3:
			got, err := m.Extents(nil, "base:allocation", uint64(off), uint64(n))
			if err != nil {
				t.Fatal(err)
			}
			var want []nbd.Extent
			for i := off; i < off+n; i++ {
				flags := uint32(Hole | Zero)
				if present[i] {
					flags = 0
				}
				if k := len(want); k > 0 && want[k-1].Flags == flags {
					want[k-1].Length++
				} else {
					want = append(want, nbd.Extent{Length: 1, Flags: flags})
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("step %d: extents of %d at %d: got %v, want %v", step, n, off, got, want)
			}
		}
	}
}
