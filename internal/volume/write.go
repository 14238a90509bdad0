package volume

import (
	"context"
	"errors"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/wal"
)

// WriteFrames writes frames[i][wal.HeaderSize:] at offs[i], in order, and overwrites the
// room in front of the bytes. Each frame is one write: after a crash it is there entirely
// or not at all.
func (v *Volume) WriteFrames(offs []uint64, frames [][]byte) error {
	return v.WriteFramesIf(nil, offs, frames)
}

// WriteFramesIf is WriteFrames unless may returns an error. may is called when the write
// has nothing left to wait for. By that time a client that gave up may have sent the same
// write again, and others after it.
func (v *Volume) WriteFramesIf(may func() error, offs []uint64, frames [][]byte) error {
	if v.env.Throttle != nil {
		n := 0
		for _, f := range frames {
			n += len(f) - wal.HeaderSize
		}
		if err := v.env.Throttle(v, n); err != nil {
			return err
		}
	}
	return v.whenRoom(func() error { return v.tryWrite(may, offs, frames) })
}

// WriteAt is WriteFrames for one write without room in front of it.
func (v *Volume) WriteAt(p []byte, off uint64) error {
	frame := make([]byte, wal.HeaderSize+len(p))
	copy(frame[wal.HeaderSize:], p)
	return v.WriteFrames([]uint64{off}, [][]byte{frame})
}

// whenRoom retries a write as long as the host says that it can free space. bounded:
// writers over a budget are slowed; they do not fail.
func (v *Volume) whenRoom(try func() error) error {
	var waited time.Duration
	for {
		err := try()
		if errs.KindOf(err) != errs.NoSpace || v.env.Pressure == nil {
			return err
		}
		began := v.env.Now()
		if perr := v.env.Pressure(v, waited); perr != nil {
			return err
		}
		waited += v.env.Now().Sub(began)
	}
}

func (v *Volume) tryWrite(may func() error, offs []uint64, frames [][]byte) error {
	v.wmu.Lock()
	defer v.wmu.Unlock()
	if err := v.mayChange(may); err != nil {
		return err
	}
	written, err := v.log.Append(offs, frames)
	v.cover(written)
	if errors.Is(err, wal.ErrTorn) {
		v.Fail(err)
	}
	return err
}

// cover points the overlay at new records.
func (v *Volume) cover(written []wal.Written) {
	if invariants.Enabled {
		v.assertWritten(written)
	}
	v.omu.Lock()
	defer v.omu.Unlock()
	for i := range written {
		w := &written[i]
		v.apply(w.Off, w.Len, w.Place)
		v.noteChange(w.Off, w.Len)
	}
	v.noteDirty()
}

// Drain waits until every write is complete that began before the call and that its may
// did not refuse.
func (v *Volume) Drain() {
	v.wmu.Lock()
	defer v.wmu.Unlock()
}

// mayChange returns an error if no write may be made now. Under wmu.
func (v *Volume) mayChange(may func() error) error {
	if err := v.Err(); err != nil || may == nil {
		return err
	}
	return may()
}

// apply points the overlay at new bytes. Under omu.
func (v *Volume) apply(off, length uint64, pl extent.Place) {
	v.tree.Set(off, off+length, pl, v.displacedFn)
	if pl != extent.Zero {
		v.live[wal.NumberOf(pl)] += int64(length)
		v.dirty += int64(length)
	}
}

// displaced subtracts overwritten bytes from the accounts. Under omu.
func (v *Volume) displaced(e extent.Extent) {
	if e.Place != extent.Zero {
		v.live[wal.NumberOf(e.Place)] -= int64(e.Len())
		v.dirty -= int64(e.Len())
		if invariants.Enabled {
			invariants.Check(v.live[wal.NumberOf(e.Place)] >= 0 && v.dirty >= 0, "%d bytes of segment %d are live, %d in all", v.live[wal.NumberOf(e.Place)], wal.NumberOf(e.Place), v.dirty)
		}
	}
}

func (v *Volume) noteDirty() {
	if v.oldest.IsZero() {
		v.oldest = v.env.Now()
	}
}

// Zero makes a range read as zeros.
//
// zero-is-free: one record and one extent, whatever the range. If the range already reads
// as zeros, nothing at all, so that a file system may discard a fresh disk.
func (v *Volume) Zero(off, length uint64) error { return v.ZeroIf(nil, off, length) }

// ZeroIf is Zero with the may of WriteFramesIf.
func (v *Volume) ZeroIf(may func() error, off, length uint64) error {
	if length == 0 {
		return nil
	}
	return v.whenRoom(func() error {
		v.wmu.Lock()
		defer v.wmu.Unlock()
		if err := v.mayChange(may); err != nil {
			return err
		}
		if v.isZero(off, length) {
			return nil
		}
		if err := v.log.AppendZero(off, length); err != nil {
			return err
		}
		v.omu.Lock()
		defer v.omu.Unlock()
		v.apply(off, length, extent.Zero)
		if v.zeroed != nil {
			v.zeroed.Set(off, off+length, extent.Zero, nil)
		}
		v.noteChange(off, length)
		v.noteDirty()
		return nil
	})
}

// isZero reports whether the overlay, or a map without blocks, already says that the
// range reads as zeros.
func (v *Volume) isZero(off, length uint64) bool {
	v.omu.RLock()
	defer v.omu.RUnlock()
	hole := v.base.Root().IsHole()
	next, end := off, off+length
	var it extent.Iterator
	it.Seek(v.tree, off)
	for next < end {
		e, ok := it.Next()
		if !ok || e.Start >= end {
			return hole
		}
		if e.Place != extent.Zero || e.Start > next && !hole {
			return false
		}
		next = e.End
	}
	return true
}

// Flush makes everything durable on this host's disk that was acknowledged before the
// call.
func (v *Volume) Flush() error { return v.flushTo(v.log.Last()) }

// flushTo makes every write through seq durable.
func (v *Volume) flushTo(seq uint64) error {
	if err := v.Err(); err != nil {
		return err
	}
	err := v.log.SyncTo(seq)
	if errors.Is(err, wal.ErrSync) {
		return v.repairTail(err)
	}
	return err
}

// ExtentKind says what Extents flags.
type ExtentKind int

// Kinds of extents.
const (
	Allocation ExtentKind = iota // flagged: holes, which read as zeros
	DirtyPages                   // flagged: ranges that the block map does not hold yet
)

// Extents calls fn for the maximal runs of one state in the range, in order and without
// gaps.
func (v *Volume) Extents(ctx context.Context, kind ExtentKind, off, length uint64, fn func(length uint64, flagged bool) error) error {
	if err := v.Err(); err != nil {
		return err
	}
	v.omu.RLock()
	tree, base := v.tree, v.base
	ext := tree.Range(nil, off, off+length)
	v.omu.RUnlock()
	return extents(ctx, kind, ext, base, uint64(v.state.BlockSize), off, length, fn)
}

func extents(ctx context.Context, kind ExtentKind, overlay []extent.Extent, base *blockmap.Map, blockSize, off, length uint64, fn func(uint64, bool) error) error {
	run := runs{fn: fn}
	next, end := off, off+length
	gap := func(to uint64) error {
		if kind == DirtyPages {
			return run.add(to-next, false)
		}
		return baseExtents(ctx, base, blockSize, next, to, &run)
	}
	for _, e := range overlay {
		if e.Start > next {
			if err := gap(e.Start); err != nil {
				return err
			}
		}
		if err := run.add(e.Len(), kind == DirtyPages || e.Place == extent.Zero); err != nil {
			return err
		}
		next = e.End
	}
	if next < end {
		if err := gap(end); err != nil {
			return err
		}
	}
	return run.end()
}

// baseExtents adds the runs of mapped and unmapped blocks of [from, to).
func baseExtents(ctx context.Context, base *blockmap.Map, blockSize, from, to uint64, run *runs) error {
	if base.Root().IsHole() {
		return run.add(to-from, true)
	}
	return base.Extents(ctx, from/blockSize, (to+blockSize-1)/blockSize, func(first, count uint64, mapped bool) error {
		a, b := max(first*blockSize, from), min((first+count)*blockSize, to)
		return run.add(b-a, !mapped)
	})
}

// runs joins neighbouring runs of one state.
type runs struct {
	fn      func(uint64, bool) error
	length  uint64
	flagged bool
}

func (r *runs) add(length uint64, flagged bool) error {
	if length == 0 {
		return nil
	}
	if r.length > 0 && r.flagged == flagged {
		r.length += length
		return nil
	}
	if err := r.end(); err != nil {
		return err
	}
	r.length, r.flagged = length, flagged
	return nil
}

func (r *runs) end() error {
	if r.length == 0 {
		return nil
	}
	n := r.length
	r.length = 0
	return r.fn(n, r.flagged)
}
