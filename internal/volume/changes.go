package volume

import (
	"time"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal"
)

// changes is the set of ranges that were written since they were last taken. It is kept
// separately from the overlay, which also holds what was already sent to the store but
// not folded yet. Under the volume's omu.
type changes struct {
	ranges *extent.Tree // recorded as zeros, which join
	bytes  int64
	// lessFn subtracts overlaps from bytes. It is a field so that passing it does not
	// allocate.
	lessFn func(extent.Extent)
}

func newChanges() *changes {
	c := &changes{ranges: extent.New()}
	c.lessFn = func(e extent.Extent) { c.bytes -= int64(e.Len()) }
	return c
}

// noteChange records that a range was written. Under omu.
func (v *Volume) noteChange(off, length uint64) {
	if v.changed == nil {
		return
	}
	if v.changedAt.Load() == 0 {
		v.changedAt.Store(max(1, int64(v.env.Uptime())))
	}
	v.addChange(off, length)
}

func (v *Volume) addChange(off, length uint64) {
	c := v.changed
	c.ranges.Set(off, off+length, extent.Zero, c.lessFn)
	c.bytes += int64(length)
	v.changedN.Store(c.bytes)
}

// Changed returns how many bytes were written since the last TakeChanges, and the
// Env.Uptime of the oldest of these writes. It returns 0 and 0 if there are none or if
// the volume's policy does not ship. It does not wait.
func (v *Volume) Changed() (bytes int64, at time.Duration) {
	return v.changedN.Load(), time.Duration(v.changedAt.Load())
}

// LongAgo is the age given to changes of an earlier process: more than any policy allows.
const LongAgo = 365 * 24 * time.Hour

// recallChanges finds the changes that the store may not have. It is called when the
// volume is opened.
func (v *Volume) recallChanges(rec wal.Recovered) {
	if v.changed == nil {
		return
	}
	for i := range rec.Entries {
		if e := &rec.Entries[i]; e.Seq > v.state.Shipped {
			v.addChange(e.Off, e.Len)
			v.changedAt.Store(int64(v.env.Uptime() - LongAgo))
		}
	}
}

// Changes is a cut of a volume, with the ranges that were written since the last Changes
// were taken.
type Changes struct {
	*Cut
	ranges *extent.Tree
	Bytes  int64         // in the ranges
	At     time.Duration // Env.Uptime of the oldest of those writes
}

// TakeChanges takes a cut together with the ranges written since the last call, or
// returns nil if nothing was written. The next call does not return them again unless
// ReturnChanges was called.
func (v *Volume) TakeChanges() (*Changes, error) {
	v.wmu.Lock()
	defer v.wmu.Unlock()
	if err := v.Err(); err != nil {
		return nil, err
	}
	v.omu.Lock()
	taken, at := v.changed, v.changedAt.Load()
	if taken == nil || taken.ranges.Count() == 0 {
		v.omu.Unlock()
		return nil, nil
	}
	v.resetChanges(newChanges())
	v.omu.Unlock()
	return &Changes{v.cut(), taken.ranges, taken.bytes, time.Duration(at)}, nil
}

// ReturnChanges puts back changes that could not be sent.
func (v *Volume) ReturnChanges(c *Changes) {
	v.omu.Lock()
	defer v.omu.Unlock()
	if v.changed == nil {
		return
	}
	var it extent.Iterator
	it.Seek(c.ranges, 0)
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		v.addChange(e.Start, e.Len())
	}
	if at := v.changedAt.Load(); at == 0 || int64(c.At) < at {
		v.changedAt.Store(int64(c.At))
	}
}

// resetChanges starts recording in c, which is empty. Under omu.
func (v *Volume) resetChanges(c *changes) {
	v.changed = c
	v.changedAt.Store(0)
	v.changedN.Store(0)
}

// forgetChanges drops the recorded changes: the whole volume is about to be published.
// The caller keeps writers out.
func (v *Volume) forgetChanges() {
	v.omu.Lock()
	defer v.omu.Unlock()
	if v.changed != nil {
		v.resetChanges(newChanges())
	}
}

// Loaded ends the loading of data commits: the store has everything that was written so
// far, and the record says that the volume is complete.
func (v *Volume) Loaded(change func(*State)) error {
	if err := v.Flush(); err != nil {
		return err
	}
	v.forgetChanges()
	last := v.log.Last()
	return v.Update(func(st *State) {
		st.Loading, st.Shipped = false, last
		change(st)
	})
}

// StopTracking stops the recording of changes.
func (v *Volume) StopTracking() {
	v.omu.Lock()
	defer v.omu.Unlock()
	v.resetChanges(nil)
}

// NoteShipped records that the store holds the volume through seq. With save it also
// saves the record, without waiting. The saved record may lag, because its only cost is
// that some changes are sent again.
func (v *Volume) NoteShipped(seq uint64, p Published, save bool) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	v.stMu.Lock()
	v.state.Shipped = max(v.state.Shipped, seq)
	if old := v.state.Published; old == nil || p.Epoch > old.Epoch || p.Epoch == old.Epoch && p.Number > old.Number {
		v.state.Published = &p
	}
	st := v.stateLocked()
	v.stMu.Unlock()
	if !save {
		return nil
	}
	return v.env.SaveSoon(&st)
}

// Last returns the number of the newest write.
func (v *Volume) Last() uint64 { return v.log.Last() }

// Runs calls fn for the changed ranges, in order. zero is true where a range reads as
// zeros. ReadAt has the content of the others, all of it from the log. Ranges that the
// block map holds completely by now are left out.
func (c *Changes) Runs(fn func(off, length uint64, zero bool)) {
	var it extent.Iterator
	it.Seek(c.ranges, 0)
	var pieces []extent.Extent
	for r, ok := it.Next(); ok; r, ok = it.Next() {
		pieces = c.tree.Range(pieces[:0], r.Start, r.End)
		for len(pieces) > 0 {
			n := run(pieces)
			first, end := pieces[0], pieces[n-1].End
			fn(first.Start, end-first.Start, first.Place == extent.Zero)
			pieces = pieces[n:]
		}
	}
}

// run returns how many pieces, from the first, are adjacent and are either all zeros or
// all not.
func run(pieces []extent.Extent) int {
	zero := pieces[0].Place == extent.Zero
	n := 1
	for n < len(pieces) && pieces[n].Start == pieces[n-1].End && (pieces[n].Place == extent.Zero) == zero {
		n++
	}
	return n
}
