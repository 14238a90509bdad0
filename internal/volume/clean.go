package volume

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/wal"
)

// Use says how a volume uses a log segment.
type Use struct {
	Segment *wal.Segment
	Limit   uint64
	Live    int64 // bytes that the volume's overlay points at
}

// Uses returns the complete segments that the volume holds.
func (v *Volume) Uses() []Use {
	v.stMu.Lock()
	segs := append([]held(nil), v.segs...)
	v.stMu.Unlock()
	v.omu.RLock()
	defer v.omu.RUnlock()
	out := make([]Use, 0, len(segs))
	for _, h := range segs {
		if h.limit > 0 || h.seg.End() > 0 {
			out = append(out, Use{h.seg, h.limit, v.live[h.seg.Number()]})
		}
	}
	return out
}

// Victims are segments that can be cleaned together: the same volume wrote them, the same
// volumes hold them, and each holder counts them entirely or up to the same number.
type Victims struct {
	Segments []*wal.Segment
	Holders  []*Volume // in the order of their IDs
	Live     int64     // an upper bound: bytes that holders share are counted for each
}

// Size returns the bytes that cleaning frees, without subtracting the copies.
func (vs *Victims) Size() (n int64) {
	for _, s := range vs.Segments {
		n += int64(s.Size())
	}
	return n
}

// Settled reports whether the writes that made the victims' records dead are durable.
// Then the victims can go without a sync. It remembers what it sees for the next call.
// Only segments without live data settle.
func (vs *Victims) Settled() bool {
	if vs.Live > 0 {
		return false
	}
	settled := true
	for _, v := range vs.Holders {
		durable, last := v.log.Durable(), v.log.Last()
		v.stMu.Lock()
		for _, s := range vs.Segments {
			at, noted := v.deadAt[s]
			if !noted {
				at = last
				v.deadAt[s] = at
			}
			settled = settled && at <= durable
		}
		v.stMu.Unlock()
	}
	return settled
}

// FindVictims groups the segments that the volumes hold and of which less than the given
// share is live. The emptiest groups come first. Each group has at most most segments.
func FindVictims(vols []*Volume, share float64, most int) []Victims {
	type found struct {
		seg     *wal.Segment
		holders []*Volume
		limits  []uint64 // of the holders; 0: none
		live    int64
	}
	key := func(f *found) string { // what a group has in common: the writer, and the holders with their limits
		writer := f.seg.Writer()
		k := slices.Clone(writer[:])
		for i, v := range f.holders {
			k = binary.LittleEndian.AppendUint64(append(k, v.id[:]...), f.limits[i])
		}
		return string(k)
	}
	vols = slices.Clone(vols)
	slices.SortFunc(vols, func(a, b *Volume) int { return slices.Compare(a.id[:], b.id[:]) })
	bySegment := map[*wal.Segment]*found{}
	for _, v := range vols {
		for _, u := range v.Uses() {
			f := bySegment[u.Segment]
			if f == nil {
				f = &found{seg: u.Segment}
				bySegment[u.Segment] = f
			}
			if u.Limit >= u.Segment.End() {
				u.Limit = 0
			}
			f.holders, f.limits = append(f.holders, v), append(f.limits, u.Limit)
			f.live += u.Live
		}
	}
	groups := map[string][]*found{}
	for _, f := range bySegment {
		if float64(f.live) < share*float64(f.seg.Size()) && f.seg.Holders() == len(f.holders) && !f.seg.Damaged() {
			groups[key(f)] = append(groups[key(f)], f)
		}
	}
	var out []Victims
	for _, g := range groups {
		sort.Slice(g, func(i, j int) bool { return g[i].live < g[j].live })
		vs := Victims{Holders: g[0].holders}
		for _, f := range g[:min(len(g), most)] {
			vs.Segments = append(vs.Segments, f.seg)
			vs.Live += f.live
		}
		out = append(out, vs)
	}
	slices.SortFunc(out, func(a, b Victims) int {
		return cmp.Compare(a.Live*b.Size(), b.Live*a.Size()) // by the live share
	})
	return out
}

// liveIn returns the bytes of the segments to which the overlay points.
func (v *Volume) liveIn(segs []*wal.Segment) (n int64) {
	v.omu.RLock()
	defer v.omu.RUnlock()
	for _, s := range segs {
		n += v.live[s.Number()]
	}
	return n
}

// move is a part of the log that cleaning copied.
type move struct {
	off, length uint64
	from, to    extent.Place
}

// Clean copies the live parts of the victims into fresh segments and frees the victims.
// It returns false, and has done nothing, if a holder is being folded or closed.
//
// verified: a record that does not match its checksum is not copied, because the copy
// would get a valid one. Its segment stays as it is and is not cleaned again.
//
// prefix: before a segment goes, the log is synced through every write that made its
// records dead. Copies keep their numbers. They are durable before the volume records
// that name them, and those are durable before the old segments are reused.
func Clean(log *wal.Pool, vs Victims) (bool, error) {
	for i, v := range vs.Holders {
		if !v.foldMu.TryLock() {
			for _, u := range vs.Holders[:i] {
				u.foldMu.Unlock()
			}
			return false, nil
		}
	}
	defer func() {
		for _, v := range vs.Holders {
			v.foldMu.Unlock()
		}
	}()
	if !vs.current() {
		return false, nil
	}
	vs.Live = 0
	for _, v := range vs.Holders {
		// An append that filled one of the victims points the overlay at it before it
		// releases this lock. Only after that is it known what is live in the victims,
		// and whether that is synced.
		v.wmu.Lock()
		//lint:ignore SA2001 the lock is a barrier
		v.wmu.Unlock()
		vs.Live += v.liveIn(vs.Segments)
	}
	settled := vs.Settled()
	for _, v := range vs.Holders {
		if settled {
			continue
		}
		if err := v.Flush(); err != nil {
			return false, err
		}
	}
	c := log.NewCompactor(vs.Segments[0].Writer(), vs.Live)
	moves, err := copyLive(c, vs)
	if err != nil {
		c.Abort()
		for _, v := range vs.Holders {
			_ = v.noteDamage(err)
		}
		return false, err
	}
	fresh, err := c.Finish()
	if err != nil {
		c.Abort()
		return false, err
	}
	var size int64
	for _, s := range fresh {
		size += int64(s.Size())
	}
	if size >= vs.Size() {
		// Headers and indexes use up the space that cleaning would gain. It must not go
		// on, or it would copy the same parts again and again.
		c.Abort()
		return false, nil
	}
	for _, v := range vs.Holders {
		v.addSegments(fresh, vs.Segments)
		v.relocate(moves)
	}
	for _, s := range fresh {
		s.Release() // the holders have their own holds
	}
	for _, v := range vs.Holders {
		if err := v.dropSegments(vs.Segments); err != nil {
			return false, err
		}
	}
	return true, nil
}

// current reports whether the holders are open and still hold the victims, the victims
// are complete, and nothing else holds them. Time has passed since they were found, and
// segments are reused. The caller holds the holders' foldMu.
func (vs *Victims) current() bool {
	for _, v := range vs.Holders {
		if v.Err() != nil {
			return false
		}
		v.stMu.Lock()
		held := map[*wal.Segment]bool{}
		for _, h := range v.segs {
			held[h.seg] = h.last() > 0
		}
		v.stMu.Unlock()
		for _, s := range vs.Segments {
			if !held[s] || s.Holders() != len(vs.Holders) {
				return false
			}
		}
	}
	return true
}

// through returns the greatest number in the segment that counts for a holder.
func (vs *Victims) through(s *wal.Segment) (seq uint64) {
	for _, v := range vs.Holders {
		v.stMu.Lock()
		for _, h := range v.segs {
			if h.seg == s {
				seq = max(seq, h.last())
			}
		}
		v.stMu.Unlock()
	}
	return seq
}

// copyLive copies the live parts of the victims.
func copyLive(c *wal.Compactor, vs Victims) (moves []move, err error) {
	var body []byte
	var live []extent.Extent
	for _, s := range vs.Segments {
		recs, err := s.Index(vs.through(s))
		if err != nil {
			return nil, err
		}
		for i := range recs {
			r := &recs[i]
			live = liveParts(live[:0], vs.Holders, r, s.PlaceOf(r))
			if len(live) == 0 {
				continue
			}
			if r.Zero {
				if fault.Is("cleaning-drops-zeros") {
					continue
				}
				if _, err := c.Add(*r, nil); err != nil {
					return nil, err
				}
				continue
			}
			if body, err = s.ReadRecord(r, body); err != nil {
				return nil, err
			}
			for _, e := range live {
				part := *r
				part.Off, part.Len = e.Start, e.Len()
				to, err := c.Add(part, body[e.Start-r.Off:e.End-r.Off])
				if err != nil {
					return nil, err
				}
				moves = append(moves, move{e.Start, e.Len(), e.Place, to})
			}
		}
	}
	return moves, nil
}

// liveParts appends the parts of the record to which some holder's overlay points. Parts
// that overlap are joined. A zero record is live as a whole as long as any of its range
// reads as zeros through an overlay, whichever record made it so.
func liveParts(dst []extent.Extent, holders []*Volume, r *wal.Record, pl extent.Place) []extent.Extent {
	for _, v := range holders {
		v.omu.RLock()
		var it extent.Iterator
		it.Seek(v.tree, r.Off)
		for e, ok := it.Next(); ok && e.Start < r.Off+r.Len; e, ok = it.Next() {
			e = e.Clip(r.Off, r.Off+r.Len)
			if e.Place == pl.After(e.Start-r.Off) {
				dst = append(dst, e)
				if r.Zero {
					break
				}
			}
		}
		v.omu.RUnlock()
	}
	if len(dst) < 2 || len(holders) == 1 {
		return dst
	}
	slices.SortFunc(dst, func(a, b extent.Extent) int { return cmp.Compare(a.Start, b.Start) })
	out := dst[:1]
	for _, e := range dst[1:] {
		last := &out[len(out)-1]
		if e.Start <= last.End {
			last.End = max(last.End, e.End)
		} else {
			out = append(out, e)
		}
	}
	return out
}

// addSegments makes the volume hold the fresh segments that replace the old ones.
func (v *Volume) addSegments(fresh, old []*wal.Segment) {
	v.stMu.Lock()
	defer v.stMu.Unlock()
	var limit uint64
	for _, h := range v.segs {
		if slices.Contains(old, h.seg) {
			limit = max(limit, h.last())
		}
	}
	for _, s := range fresh {
		s.Hold()
		v.segs = append(v.segs, held{s, limit})
		delete(v.deadAt, s)
	}
}

// relocate points the overlay at the copies, where it still points at the originals.
func (v *Volume) relocate(moves []move) {
	var found []extent.Extent
	for len(moves) > 0 {
		v.omu.Lock()
		for _, m := range moves[:min(len(moves), pruneStep)] {
			found = v.tree.Range(found[:0], m.off, m.off+m.length)
			for _, e := range found {
				if d := e.Start - m.off; e.Place == m.from.After(d) {
					v.apply(e.Start, e.Len(), m.to.After(d))
				}
			}
		}
		moves = moves[min(len(moves), pruneStep):]
		v.omu.Unlock()
	}
}

// dropSegments removes segments from the volume's record and then releases them.
func (v *Volume) dropSegments(old []*wal.Segment) error {
	v.stMu.Lock()
	kept := make([]held, 0, len(v.segs))
	var dropped []held
	for _, h := range v.segs {
		if slices.Contains(old, h.seg) {
			dropped = append(dropped, h)
		} else {
			kept = append(kept, h)
		}
	}
	v.segs = kept
	for _, h := range dropped {
		delete(v.deadAt, h.seg)
	}
	v.stMu.Unlock()
	if fault.Is("recycled-before-recorded") {
		for _, h := range dropped {
			h.seg.Release()
		}
		return nil
	}
	if err := v.Update(func(*State) {}); err != nil {
		// The saved record still names them: keep them until the next start.
		return err
	}
	v.guard.Wait()
	v.omu.Lock()
	for _, h := range dropped {
		delete(v.live, h.seg.Number())
	}
	v.omu.Unlock()
	for _, h := range dropped {
		h.seg.Release()
	}
	return nil
}
