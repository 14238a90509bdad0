package ownership

import (
	"context"
	"errors"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// YieldPoll is how often a yielding host checks whether the other host has taken the
// volume over.
const YieldPoll = time.Second

// CheckSealSoon checks in the background whether another host took over a published
// volume that is being opened. A volume that was never published makes no request. The
// first check runs without op: if the store is unreachable, verbs do not wait for it.
func (ow *Owners) CheckSealSoon(d *disk.Disk) {
	st := d.State()
	if st.Published == nil || ow.disks.Ctx.Err() != nil {
		return
	}
	ow.disks.BG.Add(1)
	go func() {
		defer ow.disks.BG.Done()
		ctx, cancel := context.WithTimeout(cost.Begin(ow.disks.Ctx, cost.Upkeep, d.Payer()), time.Minute)
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
			_ = ow.FenceIfLost(d, err) // it logs an event, and the volume's state says it
		}
	}()
}

// CheckSealsAtStart checks the volumes that were opened when the host started: another
// host may have taken them over while this one was down. Verbs do not wait for it, except
// to fence a volume. If the store does not respond, it gives up; the next write to a
// volume checks again.
func (ow *Owners) CheckSealsAtStart() {
	for _, d := range ow.disks.All() {
		st := d.State()
		if st.Published == nil || st.Mode != volume.Active {
			continue
		}
		err := ow.checkSealAfterRestart(cost.Begin(ow.disks.Ctx, cost.Upkeep, d.Payer()), d, &st)
		switch {
		case err == nil:
		case errs.KindOf(err) == errs.Fenced || errors.Is(err, commitlog.ErrYielding):
			ow.CheckSealSoon(d)
		case errs.KindOf(err) == errs.Unavailable || ow.disks.Ctx.Err() != nil:
			return
		}
	}
}

// checkSeal checks whether the disk's newest commit is still the tip of its log.
func (ow *Owners) checkSeal(ctx context.Context, d *disk.Disk) error {
	if d.Owner != nil && !d.Owner.Generation().IsZero() {
		return d.Owner.CheckSeal(ctx)
	}
	st := d.State()
	return ow.checkSealAfterRestart(ctx, d, &st)
}

// checkSealAfterRestart looks for a seal after the newest commit that an earlier process
// of this host recorded. A process that has not committed yet has no epoch of its own to
// check. If an earlier process made a commit and died before it recorded it, the volume
// still uses the older state, whose root is therefore pinned (reachable-is-kept).
func (ow *Owners) checkSealAfterRestart(ctx context.Context, d *disk.Disk, st *volume.State) error {
	vol, last := commitlog.Volume{Tenant: st.Tenant, Name: st.Name}, disk.Generation(st.Published)
	g, err := commitlog.Look(ctx, ow.disks.Store, vol, last, ow.disks.HostID)
	if err != nil || g.Compare(last) <= 0 {
		return err
	}
	if o, err := commitlog.Load(ctx, ow.disks.Store, vol, g); err != nil {
		return err
	} else if ow.CommittedByTwin(o.State.Owner) {
		return takenBy(d, o)
	}
	return ow.pins.KeepStale(ctx, st.Root)
}
