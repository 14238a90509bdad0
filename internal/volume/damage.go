package volume

import (
	"errors"
	"sync"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal"
)

// damages is the damage found in a volume's log since it was opened.
type damages struct {
	mu  sync.Mutex // glide:nonblocking
	all []*wal.Damage
}

// maxDamages is how many damages are remembered and reported.
const maxDamages = 100

// noteDamage records the damage that err reports, and reports it to the host if it is
// new. It returns err.
func (v *Volume) noteDamage(err error) error {
	var d *wal.Damage
	if err == nil || !errors.As(err, &d) {
		return err
	}
	v.damages.mu.Lock()
	known := len(v.damages.all) >= maxDamages
	for _, old := range v.damages.all {
		known = known || old.Segment == d.Segment && old.From == d.From
	}
	if !known {
		v.damages.all = append(v.damages.all, d)
	}
	v.damages.mu.Unlock()
	if !known && v.env.Damaged != nil {
		v.env.Damaged(v, err)
	}
	return err
}

// Damage returns the damage found in the log that is still part of the volume, or nil. A
// range that a guest has rewritten is no longer damaged.
func (v *Volume) Damage() error {
	v.damages.mu.Lock()
	defer v.damages.mu.Unlock()
	kept := v.damages.all[:0]
	for _, d := range v.damages.all {
		if v.needs(d) {
			kept = append(kept, d)
		}
	}
	v.damages.all = kept
	if len(kept) == 0 {
		return nil
	}
	return kept[0]
}

// needs reports whether the overlay points into the damage.
func (v *Volume) needs(d *wal.Damage) bool {
	v.stMu.Lock()
	held := false
	for _, h := range v.segs {
		held = held || h.seg.Ref() == d.Segment
	}
	v.stMu.Unlock()
	v.omu.RLock()
	defer v.omu.RUnlock()
	if !held || d.Len == 0 {
		return held && v.live[d.Segment.Number] > 0
	}
	var it extent.Iterator
	it.Seek(v.tree, d.Off)
	for e, ok := it.Next(); ok && e.Start < d.Off+d.Len; e, ok = it.Next() {
		if e = e.Clip(d.Off, d.Off+d.Len); e.Place != extent.Zero && (d.Has(e.Place) || d.Has(e.Place.After(e.Len()-1))) {
			return true
		}
	}
	return false
}

// CheckLog verifies what recovery did not read, so that damage is found before a guest
// asks for it. It ends early when stop returns true.
func (v *Volume) CheckLog(stop func() bool) {
	v.stMu.Lock()
	segs := make([]*wal.Segment, 0, len(v.segs))
	for _, h := range v.segs {
		h.seg.Hold()
		segs = append(segs, h.seg)
	}
	v.stMu.Unlock()
	for _, s := range segs {
		if !stop() {
			_ = v.noteDamage(s.CheckAll())
		}
		s.Release()
	}
}

// HoldLog returns the log segments of the volume, each held once more for the caller.
func (v *Volume) HoldLog() (segs []*wal.Segment) {
	v.stMu.Lock()
	defer v.stMu.Unlock()
	for _, h := range v.segs {
		h.seg.Hold()
		segs = append(segs, h.seg)
	}
	return segs
}

// Lost calls fn with the ranges of the volume whose newest bytes lie in a damage. If there
// are any, it reports the damage.
func (v *Volume) Lost(d *wal.Damage, fn func(off, length uint64)) {
	v.omu.Lock()
	tree := v.tree.Clone()
	v.omu.Unlock()
	var it extent.Iterator
	it.Seek(tree, 0)
	x := *d // as far as it matters
	x.Off, x.Len = v.State().Size, 0
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		from, to := max(uint64(uint32(e.Place)), uint64(d.From)), min(uint64(uint32(e.Place))+e.Len(), uint64(d.To))
		if e.Place != extent.Zero && wal.NumberOf(e.Place) == d.Segment.Number && from < to {
			fn(e.Start+from-uint64(uint32(e.Place)), to-from)
			x.Off, x.Len = min(x.Off, e.Start), e.End-min(x.Off, e.Start)
		}
	}
	if x.Len > 0 {
		_ = v.noteDamage(&x)
	}
}
