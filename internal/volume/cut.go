package volume

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/wal"
)

// Cut is the volume exactly after one of its writes. It does not change, and it holds the
// log segments that it needs until Release. It may be read concurrently.
type Cut struct {
	vol  *Volume
	tree *extent.Tree
	base *blockmap.Map
	segs []held
	// live and dirty are the accounts of tree.
	live  map[uint32]int64
	dirty int64
	// Seq is the number of the newest write in the cut.
	Seq uint64
	// State is the volume's record at the cut. The limits of its segments make them end
	// at the cut.
	State State
	at    time.Time
	// repaired is the volume's repair count at the cut.
	repaired uint64
}

// ErrRepaired is the error for a cut whose log was rewritten meanwhile. The volume is
// intact, and another cut of it can be forked.
var ErrRepaired = errs.New(errs.Unavailable, "the disk did not keep what was written, and it was written again: try again")

// Cut takes a cut of the current volume. The cut is not durable yet: see Sync. It takes
// microseconds, whatever the volume's size and dirty data.
func (v *Volume) Cut() (*Cut, error) {
	v.wmu.Lock()
	defer v.wmu.Unlock()
	if err := v.Err(); err != nil {
		return nil, err
	}
	return v.cut(), nil
}

// cut is Cut for a volume in any state. Under wmu.
func (v *Volume) cut() *Cut {
	c := &Cut{vol: v, at: v.env.Now()}
	c.Seq, c.repaired = v.log.Last(), v.repaired.Load()
	v.stMu.Lock()
	c.State = v.stateLocked()
	for i, h := range v.segs {
		limit := c.State.Segments[i].Limit
		if limit == 0 && !h.seg.Compacted() {
			if !h.seg.Begun() {
				continue // prepared for later writes
			}
			limit = c.Seq
			if end := h.seg.End(); end > 0 {
				limit = min(limit, end)
			}
		}
		h.seg.Hold()
		c.segs = append(c.segs, held{h.seg, limit})
	}
	v.omu.Lock()
	c.tree, c.base = v.tree.Clone(), v.base
	c.live, c.dirty = maps.Clone(v.live), v.dirty
	if invariants.Enabled && c.tree.Count() <= maxAsserted {
		assertOverlay(v.id, c.tree, c.segs, c.live, c.dirty)
	}
	v.omu.Unlock()
	v.stMu.Unlock()
	c.State.Segments = refs(c.segs)
	return c
}

func refs(segs []held) []wal.Ref {
	out := make([]wal.Ref, len(segs))
	for i, h := range segs {
		out[i] = h.seg.Ref()
		out[i].Limit = h.limit
	}
	return out
}

// Sync makes the cut durable on this host's disk.
func (c *Cut) Sync() error {
	if c.durable() || fault.Is("cut-without-sync") {
		return nil
	}
	return c.vol.flushTo(c.Seq)
}

func (c *Cut) durable() bool { return c.vol.log.Durable() >= c.Seq }

// Release releases what the cut holds. Nothing may be reading it.
func (c *Cut) Release() {
	for _, h := range c.segs {
		h.seg.Release()
	}
	c.segs = nil
}

// Size returns the cut's size in bytes.
func (c *Cut) Size() uint64 { return c.State.Size }

// Base returns the block map under the cut's overlay.
func (c *Cut) Base() *blockmap.Map { return c.base }

// Clean reports whether the block map holds all of the cut.
func (c *Cut) Clean() bool { return c.tree.Count() == 0 }

// ReadAt fills p from off. Everything is verified, because bytes that are read from a cut
// are stored elsewhere.
func (c *Cut) ReadAt(ctx context.Context, p []byte, off uint64) error {
	ps := piecePool.Get().(*pieces)
	defer piecePool.Put(ps)
	ps.extents = c.tree.Range(ps.extents[:0], off, off+uint64(len(p)))
	if err := c.vol.readBelow(ctx, nil, ps, c.base, p, off); err != nil {
		return err
	}
	return c.vol.noteDamage(c.vol.env.Log.ReadExtents(p, off, ps.extents))
}

// Extents is Volume.Extents for the cut.
func (c *Cut) Extents(ctx context.Context, kind ExtentKind, off, length uint64, fn func(length uint64, flagged bool) error) error {
	return extents(ctx, kind, c.tree.Range(nil, off, off+length), c.base, uint64(c.State.BlockSize), off, length, fn)
}

// Overlay calls fn for every range that the block map does not hold yet, in order. zero
// is true if the range reads as zeros.
func (c *Cut) Overlay(fn func(start, end uint64, zero bool) error) error {
	var it extent.Iterator
	it.Seek(c.tree, 0)
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		if err := fn(e.Start, e.End, e.Place == extent.Zero); err != nil {
			return err
		}
	}
	return nil
}

// Segments returns the log segments that the cut holds.
func (c *Cut) Segments() []*wal.Segment {
	out := make([]*wal.Segment, len(c.segs))
	for i, h := range c.segs {
		out[i] = h.seg
	}
	return out
}

// Places calls fn for every part of the overlay that has content. place numbers its first
// byte among all bytes of this host's log, so parts that volumes share have the same
// numbers.
func (c *Cut) Places(fn func(place, length uint64)) {
	var it extent.Iterator
	it.Seek(c.tree, 0)
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		if e.Place != extent.Zero {
			fn(uint64(e.Place), e.Len())
		}
	}
}

// Fork creates a volume from the cut for each of the records. The caller has set their
// identities; Fork fills in the content. The children are durable when it returns.
// fork-is-constant: it copies a record with the list of segments, and the root of a tree.
//
// The log and the records are synced at the same time, because one after the other takes
// twice as long: see State.Counts.
func (c *Cut) Fork(children ...*State) ([]*Volume, error) {
	env := &c.vol.env
	if c.durable() {
		return c.fork(func() error { return env.Save(children...) }, children)
	}
	synced := make(chan error, 1)
	go func() { synced <- c.Sync() }()
	return c.fork(func() error {
		unsynced, ids := make([]*State, len(children)), make([]ID, len(children))
		for i, st := range children {
			early := *st
			early.Unsynced = c.vol.id
			unsynced[i], ids[i] = &early, st.ID
		}
		err := env.Save(unsynced...)
		if serr := <-synced; serr != nil {
			err = serr
		} else if c.vol.repaired.Load() != c.repaired {
			err = ErrRepaired
		}
		if err == nil {
			// Anything that becomes durable after this, in the parent too, comes after
			// this.
			err = env.SaveSoon(children...)
		}
		if err != nil {
			return errors.Join(err, env.Forget(ids...))
		}
		return nil
	}, children)
}

// fork is Fork for a cut that is durable.
func (c *Cut) fork(save func() error, children []*State) ([]*Volume, error) {
	for _, st := range children {
		st.Version = stateVersion
		st.Size, st.BlockSize, st.Isolated = c.State.Size, c.State.BlockSize, c.State.Isolated
		st.Root, st.RootBlocks = c.State.Root, c.State.RootBlocks
		st.Folded, st.Floor, st.Used, st.Repairs = c.State.Folded, c.Seq, c.Seq, c.State.Repairs
		st.Segments = c.State.Segments
	}
	out := make([]*Volume, 0, len(children))
	for _, st := range children {
		v, err := newVolume(c.vol.env, *st)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	if err := save(); err != nil {
		return nil, err
	}
	for _, v := range out {
		v.adopt(c)
		v.log = wal.NewLog(v.env.Log, wal.Identity(v.id), c.Seq, v.attach)
		if v.tree.Count() > 0 {
			v.oldest = c.at
		}
	}
	return out, nil
}

// Rescue creates a volume that holds everything of this failed one, and closes this one.
// save makes both records durable in one step: that of the child, which Rescue has filled
// in, and that of this volume, which no longer needs its log.
func (v *Volume) Rescue(child *State, save func() error) (*Volume, error) {
	v.wmu.Lock()
	c := v.cut()
	v.wmu.Unlock()
	defer c.Release()
	if err := v.log.SyncTo(c.Seq); err != nil {
		return nil, err
	}
	if err := v.Close(); err != nil {
		return nil, err
	}
	kids, err := c.fork(save, []*State{child})
	if err != nil {
		return nil, err
	}
	return kids[0], nil
}

// adopt gives the volume the overlay of a cut and the segments under it. Only one
// goroutine at a time may clone a cut's trees.
func (v *Volume) adopt(c *Cut) {
	for _, h := range c.segs {
		h.seg.Hold()
	}
	v.stMu.Lock()
	v.segs = slices.Clone(c.segs)
	clear(v.deadAt)
	v.stMu.Unlock()
	v.omu.Lock()
	defer v.omu.Unlock()
	v.tree, v.base = c.tree.Clone(), c.base
	v.live, v.dirty = maps.Clone(c.live), c.dirty
}

// BeginFold takes the cut that is to be published. It keeps out cleaning and other folds
// until EndFold.
func (v *Volume) BeginFold() (*Cut, error) { return v.beginFold(false) }

// BeginFoldTracking is BeginFold for a volume whose policy is about to ship: writes after
// the cut are recorded as changes.
func (v *Volume) BeginFoldTracking() (*Cut, error) { return v.beginFold(true) }

func (v *Volume) beginFold(track bool) (*Cut, error) {
	v.foldMu.Lock()
	v.wmu.Lock()
	defer v.wmu.Unlock()
	if err := v.Err(); err != nil {
		v.foldMu.Unlock()
		return nil, err
	}
	v.omu.Lock()
	v.zeroed = extent.New()
	if track {
		v.resetChanges(newChanges())
	}
	v.omu.Unlock()
	return v.cut(), nil
}

// EndFold ends what BeginFold began, whether the fold succeeded or not.
func (v *Volume) EndFold(c *Cut) {
	c.Release()
	v.omu.Lock()
	v.zeroed = nil
	v.omu.Unlock()
	v.foldMu.Unlock()
}

// pruneStep is how many extents are removed from the overlay under one lock. That delays
// a guest by a few hundred microseconds at most.
const pruneStep = 512

// Published puts the map in which the cut was published under the volume. It removes what
// the map holds from the overlay and frees the log before the cut. change, if not nil, is
// applied to the record that is saved.
func (v *Volume) Published(c *Cut, m *blockmap.Map, change func(*State)) error {
	v.omu.Lock()
	v.base = m
	v.omu.Unlock()
	freed := v.forgetFolded(c, m)
	v.wmu.Lock()
	if v.log.Last() == c.Seq {
		v.forgetChanges() // the store has everything
	}
	v.wmu.Unlock()
	v.omu.Lock()
	if v.tree.Count() == 0 {
		v.oldest = time.Time{}
	} else {
		v.oldest = c.at
	}
	v.omu.Unlock()
	if err := v.Update(func(st *State) {
		if change != nil {
			change(st)
		}
	}); err != nil {
		// The segments stay on the disk for the record that is saved there.
		return err
	}
	v.guard.Wait()
	for _, h := range freed {
		h.seg.Release()
	}
	return nil
}

// forgetFolded removes what a published cut holds from the overlay. It also removes the
// segments that are no longer needed from the record that is to be saved, and returns
// them.
//
// A repair since the cut has moved the data to which the overlay points, so it looks as
// if it had been written since. It stays until the next fold, with its segments, although
// their records are folded.
func (v *Volume) forgetFolded(c *Cut, m *blockmap.Map) (freed []held) {
	v.repair.Lock()
	defer v.repair.Unlock()
	moved := v.repaired.Load() != c.repaired && !fault.Is("repair-unnoticed-by-fold")
	if !moved {
		v.prune(c)
	}
	v.stMu.Lock()
	defer v.stMu.Unlock()
	v.state.Root, v.state.RootBlocks, v.state.Folded = m.Root(), m.Blocks(), c.Seq
	v.state.Shipped, v.state.Rebase = max(v.state.Shipped, c.Seq), false
	if !moved {
		freed = v.dropFolded(c.Seq)
	}
	return freed
}

// prune removes from the overlay what has not changed since the cut. Zeros that were made
// since the cut stay even where the cut had zeros: data that was written in between may
// still be in the log or in a data commit, and the zeros must cover it.
func (v *Volume) prune(c *Cut) {
	var it extent.Iterator
	it.Seek(c.tree, 0)
	var found, fresh []extent.Extent
	for more := true; more; {
		v.omu.Lock()
		for range pruneStep {
			var e extent.Extent
			if e, more = it.Next(); !more {
				break
			}
			found = v.tree.Range(found[:0], e.Start, e.End)
			for _, f := range found {
				switch {
				case f.Place != e.Place.After(f.Start-e.Start) && !fault.Is("fold-forgets-later-writes"):
				case f.Place == extent.Zero && !fault.Is("fold-forgets-later-zeros"):
					fresh = v.zeroed.Range(fresh[:0], f.Start, f.End)
					v.deleteBetween(f, fresh)
				default:
					v.tree.Delete(f.Start, f.End, v.displacedFn)
				}
			}
		}
		v.omu.Unlock()
	}
}

// deleteBetween removes a range from the overlay, except for the ranges in keep. Under
// omu.
func (v *Volume) deleteBetween(f extent.Extent, keep []extent.Extent) {
	for _, k := range keep {
		if f.Start < k.Start {
			v.tree.Delete(f.Start, k.Start, v.displacedFn)
		}
		f.Start = k.End
	}
	if f.Start < f.End {
		v.tree.Delete(f.Start, f.End, v.displacedFn)
	}
}

// dropFolded removes the segments from the list whose records are all folded. Under stMu.
func (v *Volume) dropFolded(folded uint64) (freed []held) {
	kept := v.segs[:0:0]
	for _, h := range v.segs {
		if last := h.last(); last > 0 && last <= folded {
			freed = append(freed, h)
		} else {
			kept = append(kept, h)
		}
	}
	v.segs = kept
	return freed
}

// Rollback replaces the volume's content by that of a cut of another volume (one of its
// snapshots) or of a published map. All writes since are gone. It is durable when
// Rollback returns.
func (v *Volume) Rollback(c *Cut, change func(*State)) error {
	if err := c.Sync(); err != nil {
		return err
	}
	v.foldMu.Lock()
	defer v.foldMu.Unlock()
	// Writers are kept out while one record is saved.
	v.wmu.Lock()
	defer v.wmu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if err := v.log.Restart(); err != nil {
		if errors.Is(err, wal.ErrSync) {
			v.Fail(err) // a second sync would succeed although the writes are lost
		}
		return err
	}
	last := v.log.Last()
	v.stMu.Lock()
	old := v.segs
	v.stMu.Unlock()
	v.adopt(c)
	v.forgetChanges()
	if err := v.Update(func(st *State) {
		st.Root, st.RootBlocks = c.State.Root, c.State.RootBlocks
		st.Folded, st.Floor = c.State.Folded, last
		st.Size, st.Rebase = c.State.Size, st.Ships()
		if change != nil {
			change(st)
		}
	}); err != nil {
		v.Fail(errs.New(errs.Internal, "the rollback was not recorded, restart glide to find out which state holds: %w", err))
		return err
	}
	v.guard.Wait()
	for _, h := range old {
		h.seg.Release()
	}
	return nil
}

// Rebase puts another map under the volume that maps the same content as that of c, which
// BeginFold took. change, if not nil, is applied to the record that is saved.
func (v *Volume) Rebase(c *Cut, m *blockmap.Map, change func(*State)) error {
	if invariants.Enabled {
		invariants.Check(c.base.Blocks() == m.Blocks(), "%s gets a map of %d blocks for one of %d", v.id, m.Blocks(), c.base.Blocks())
	}
	v.omu.Lock()
	v.base = m
	v.omu.Unlock()
	return v.Update(func(st *State) {
		st.Root = m.Root()
		if change != nil {
			change(st)
		}
	})
}

// Resize grows the volume; the new bytes read as zeros.
func (v *Volume) Resize(size uint64) error {
	v.foldMu.Lock()
	defer v.foldMu.Unlock()
	st := v.State()
	if size < st.Size {
		return errs.New(errs.Invalid, "%s is %d bytes: it cannot shrink to %d", st.Name, st.Size, size)
	}
	// The next fold grows the map below. Beyond its end the map reads as a hole.
	return v.Change(func(st *State) { st.Size = size })
}
