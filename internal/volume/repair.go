package volume

import (
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal"
)

// repairTail is called after a failed sync. What the sync covered may be lost on the
// disk, even if a second sync succeeds. So everything after the last good sync is
// rewritten to a fresh segment, from what the page cache still holds. Nothing is
// acknowledged meanwhile. If the repair fails, the volume has failed.
func (v *Volume) repairTail(cause error) error {
	v.repair.Lock()
	defer v.repair.Unlock()
	v.wmu.Lock()
	defer v.wmu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if !v.log.Failed() {
		return nil // another waiter's repair covered this one
	}
	durable := v.log.Durable()
	// Count the repair before anything is copied: forks that are not durable yet refer to
	// the old places, see State.Counts.
	err := v.Update(func(st *State) { st.Repairs++ })
	var rewritten []wal.Rewritten
	if err == nil {
		rewritten, err = v.log.Rewrite()
	}
	if err != nil {
		err = errs.New(errs.Internal, "%w; writing it again failed too: %w", cause, err)
		v.Fail(err)
		return err
	}
	moves := make([]move, 0, len(rewritten))
	copied := map[*wal.Segment]bool{}
	for _, r := range rewritten {
		copied[r.Segment] = true
		if r.From != extent.Zero {
			moves = append(moves, move{r.Off, r.Len, r.From, r.To})
		}
	}
	v.relocate(moves)
	v.stMu.Lock()
	kept := make([]held, 0, len(v.segs))
	var dropped []*wal.Segment
	for _, h := range v.segs {
		switch {
		case !copied[h.seg]:
			kept = append(kept, h)
		case h.seg.First() > durable:
			dropped = append(dropped, h.seg)
		default:
			kept = append(kept, held{h.seg, durable})
		}
	}
	v.segs = kept
	v.stMu.Unlock()
	v.repaired.Add(1)
	if err := v.Update(func(*State) {}); err != nil {
		err = errs.New(errs.Internal, "%w; the repair could not be recorded: %w", cause, err)
		v.Fail(err)
		return err
	}
	v.guard.Wait()
	for _, s := range dropped {
		s.Release()
	}
	return nil
}
