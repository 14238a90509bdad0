package ownership

import (
	"context"
	"errors"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// YieldPoll is how often a host that yields looks whether the other one has taken
// the volume over.
const YieldPoll = time.Second

// CheckSealSoon asks, without making anyone wait, whether a published volume that
// is being opened was taken over meanwhile. A volume that was never published
// makes no request. The first look is made beside the verbs, which would wait as
// long as a store that is away.
func (ow *Owners) CheckSealSoon(d *disk.Disk) {
	st := d.State()
	if st.Published == nil || ow.disks.Ctx.Err() != nil {
		return
	}
	ow.disks.BG.Add(1)
	go func() {
		defer ow.disks.BG.Done()
		ctx, cancel := context.WithTimeout(ow.disks.Ctx, time.Minute)
		defer cancel()
		err := ow.checkSealAfterRestart(ctx, d, &st)
		for errors.Is(err, commitlog.ErrYielding) && clock.Pause(ctx, YieldPoll) == nil {
			err = ow.checkSealAfterRestart(ctx, d, &st)
		}
		if err == nil || errs.KindOf(err) != errs.Fenced {
			return
		}
		d.Op.Lock()
		defer d.Op.Unlock()
		if err := ow.checkSeal(ctx, d); err != nil && errs.KindOf(err) == errs.Fenced {
			_ = ow.FenceIfLost(d, err) // it is logged, and the volume's state says it
		}
	}()
}

// CheckSealsAtStart is checkSealSoon for the volumes that were opened when the host
// started: they may have been taken over while it was away. Verbs need not wait for
// that either, unless there is something to be done. A store that does not answer
// is asked again when they are written to.
func (ow *Owners) CheckSealsAtStart() {
	for _, d := range ow.disks.All() {
		st := d.State()
		if st.Published == nil || st.Mode != volume.Active {
			continue
		}
		err := ow.checkSealAfterRestart(ow.disks.Ctx, d, &st)
		switch {
		case err == nil:
		case errs.KindOf(err) == errs.Fenced || errors.Is(err, commitlog.ErrYielding):
			ow.CheckSealSoon(d)
		case errs.KindOf(err) == errs.Unavailable || ow.disks.Ctx.Err() != nil:
			return
		}
	}
}

// checkSeal looks whether the disk's newest commit is still the tip of its log.
func (ow *Owners) checkSeal(ctx context.Context, d *disk.Disk) error {
	if d.Owner != nil && !d.Owner.Generation().IsZero() {
		return d.Owner.CheckSeal(ctx)
	}
	st := d.State()
	return ow.checkSealAfterRestart(ctx, d, &st)
}

// checkSealAfterRestart is checkSeal for a process that has not committed, and so has no
// epoch: it looks behind the newest commit that its predecessors noted. What one
// of them made, and did not live to note, leaves the volume over a state that
// the store has moved on from (reachable-is-kept).
func (ow *Owners) checkSealAfterRestart(ctx context.Context, d *disk.Disk, st *volume.State) error {
	vol, last := commitlog.Volume{Tenant: st.Tenant, Name: st.Name}, disk.Generation(st.Published)
	g, err := commitlog.Look(ctx, ow.disks.Store, vol, last, ow.disks.HostID)
	if err != nil || g.Compare(last) <= 0 {
		return err
	}
	if o, err := commitlog.Load(ctx, ow.disks.Store, vol, g); err != nil {
		return err
	} else if ow.IsTwins(o.State.Owner) {
		return takenBy(d, o)
	}
	return ow.pins.KeepBehind(ctx, st.Root)
}
