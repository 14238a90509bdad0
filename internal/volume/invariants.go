package volume

import (
	"slices"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/wal"
)

// maxAsserted is the largest overlay, in extents, of which a cut asserts every extent.
// Tests also measure the cost of forks.
const maxAsserted = 1024

// assertWritten asserts that new parts of the overlay lie within the volume and in
// segments that it holds. Under wmu.
func (v *Volume) assertWritten(written []wal.Written) {
	v.stMu.Lock()
	defer v.stMu.Unlock()
	for _, w := range written {
		invariants.Check(w.Len > 0 && holds(v.segs, w.Place), "a write of %d bytes at %d lies in segment %d, which %s does not hold", w.Len, w.Off, wal.NumberOf(w.Place), v.id)
	}
}

// assertOverlay asserts for a whole overlay what assertWritten asserts for new parts, and
// that the accounts are right. The caller keeps others from changing any of them.
func assertOverlay(id ID, tree *extent.Tree, segs []held, live map[uint32]int64, dirty int64) {
	bytes := map[uint32]int64{}
	var sum int64
	var it extent.Iterator
	it.Seek(tree, 0)
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		if e.Place != extent.Zero {
			bytes[wal.NumberOf(e.Place)] += int64(e.Len())
			sum += int64(e.Len())
			if !holds(segs, e.Place) {
				invariants.Fail("the overlay of %s has [%d, %d) in segment %d, which is not held", id, e.Start, e.End, wal.NumberOf(e.Place))
			}
		}
	}
	invariants.Check(sum == dirty, "the overlay of %s has %d bytes and is accounted %d", id, sum, dirty)
	for number, n := range live {
		invariants.Check(bytes[number] == n, "the overlay of %s has %d bytes in segment %d and is accounted %d", id, bytes[number], number, n)
	}
}

func holds(segs []held, pl extent.Place) bool {
	return pl == extent.Zero || slices.ContainsFunc(segs, func(h held) bool { return h.seg.Number() == wal.NumberOf(pl) })
}
