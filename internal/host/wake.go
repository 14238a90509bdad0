package host

import (
	"context"
	"errors"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/volume"
)

// Sleep makes a volume durable and drops it from memory; portable hands it back
// to the store too, so that any host can wake it without asking.
func (h *Host) Sleep(ctx context.Context, name string, portable, force bool) (api.Volume, error) {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	if err := d.RefuseIfConnected("put it to sleep with --force", force); err != nil {
		return api.Volume{}, err
	}
	if err := d.RefuseFenced(); err != nil {
		return api.Volume{}, err
	}
	if portable {
		if err := h.handOver(ctx, d); err != nil {
			return api.Volume{}, err
		}
		return h.view(d), nil
	}
	defer d.BlockGuests()()
	if s := d.Shipper(); s != nil {
		// Asleep, the volume sends nothing: what it promised must be kept first.
		if err := s.BarrierUnderOp(ctx); err != nil {
			return api.Volume{}, err
		}
	}
	if err := d.Sleep(false); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// handOver publishes a disk, releases it in the store, and puts it to sleep.
// Guests are cut off before the last flush, so that nothing they are told is
// durable is missing from it. Under op.
func (h *Host) handOver(ctx context.Context, d *disk.Disk) error {
	if _, err := h.publisher.Publish(ctx, d, commitlog.CauseFlush, nil); err != nil {
		return err
	}
	defer d.BlockGuests()()
	d.StopShipping(disk.ErrClosing)
	defer h.durability.StartShipping(d) // unless it sleeps then
	if fault.Is("released-before-flushed") {
		h.disks.Log.Warn("a fault is planted")
	} else if _, err := h.publisher.Publish(ctx, d, commitlog.CauseRelease, nil); err != nil {
		return err
	}
	if d.Owner == nil || d.Owner.Generation().IsZero() {
		// Published by an earlier process: an epoch of this one is what can be released.
		if _, err := h.publisher.Publish(ctx, d, commitlog.CauseRelease, func(*commitlog.State) {}); err != nil {
			return err
		}
	}
	return h.release(ctx, d)
}

// release puts a published disk to sleep and hands it to the store. Under op.
//
// no-silent-rollback: a release may take effect long after this host stopped
// waiting for it, and then any host wakes the volume without asking. So the
// record says first that the volume has to be claimed again before it is used.
func (h *Host) release(ctx context.Context, d *disk.Disk) error {
	d.Moving.Lock()
	defer d.Moving.Unlock()
	st := d.State()
	if err := h.pins.KeepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	if ctx.Err() != nil && !fault.Is("late-release-counts") {
		return errs.New(errs.Unavailable, "volume %q is not released: %w", d, ctx.Err())
	}
	if err := d.Sleep(!fault.Is("released-not-recorded")); err != nil {
		return err
	}
	err := d.Owner.Release(ctx)
	switch {
	case err == nil:
		d.SetOwner(nil)
		return nil
	case errs.KindOf(err) == errs.Fenced:
		return errors.Join(err, h.owners.FenceClosed(d, err))
	case !d.Owner.Unsettled(): // nothing was sent
		return errors.Join(err, d.Update(func(s *volume.State) { s.Released = false }))
	}
	return errs.New(errs.KindOf(err), "volume %q sleeps, and may be released, now or later; waking it claims it again: %w", d, err)
}

// Wake opens a volume: one that sleeps on this host, or one that is not on this
// host, which is claimed from whoever holds it.
func (h *Host) Wake(ctx context.Context, name string, force bool, expect string) (api.Volume, error) {
	n, err := disk.ParseName(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	var want commitlog.Generation
	if expect != "" {
		if want, err = commitlog.ParseGeneration(expect); err != nil {
			return api.Volume{}, err
		}
	}
	d := h.disks.Find(n)
	if d != nil && d.State().Released {
		d.Op.Lock()
		err := h.owners.Reclaim(d, force)
		d.Op.Unlock()
		if err != nil && d.State().Mode != volume.Fenced {
			return api.Volume{}, err
		}
	}
	switch {
	case d == nil:
		if err := h.mayGrow(); err != nil {
			return api.Volume{}, err
		}
	case d.State().Mode != volume.Fenced:
		return h.wakeLocal(ctx, d, force, want)
	default:
		if err := h.clearFenced(d, force); err != nil {
			return api.Volume{}, err
		}
	}
	if d, err = h.owners.TakeOver(ctx, n, force, want); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// clearFenced takes a fenced volume off this host, so that it can be claimed
// like any other; what it had not published is in its rescue volume.
func (h *Host) clearFenced(d *disk.Disk, force bool) error {
	d.Op.Lock()
	defer d.Op.Unlock()
	if err := d.RefuseIfConnected("wake it with --force", force); err != nil {
		return err
	}
	if st := d.State(); st.Mode == volume.Fenced && len(st.Segments) > 0 {
		return disk.FencedError(&st)
	}
	return h.owners.EraseAll(d)
}

// wakeLocal wakes a volume of this host; no-silent-rollback.
func (h *Host) wakeLocal(ctx context.Context, d *disk.Disk, force bool, want commitlog.Generation) (api.Volume, error) {
	d.Op.Lock()
	defer d.Op.Unlock()
	st := d.State()
	if have := disk.Generation(st.Published); have.Compare(want) < 0 {
		return api.Volume{}, ownership.Older(d.String(), have, want)
	}
	slept := d.Volume() == nil
	if _, err := d.Wake(force); err != nil {
		return api.Volume{}, err
	}
	if slept {
		h.owners.CheckSealSoon(d)
	}
	return h.view(d), nil
}

// noticeWithin is how long it may take to notice that a connection, a request of
// which was read just now, has ended.
const noticeWithin = 10 * time.Millisecond

// Release is what another host asks of this one: flush a volume, and unless
// FlushOnly hand it over. A request that comes late, or for another epoch, has
// no effect.
func (h *Host) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	if r.WithinMs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.WithinMs*1e6))
		defer cancel()
	}
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	// A host that hung for a while finds requests in its sockets of which the
	// askers have gone. That is noticed a moment after they are read.
	_ = clock.Pause(ctx, noticeWithin)
	d.Op.Lock()
	defer d.Op.Unlock()
	if ctx.Err() != nil && !fault.Is("late-release-counts") {
		return api.Volume{}, errs.New(errs.Unavailable, "host %s asked too long ago: nothing was done", r.Host)
	}
	if now, err := h.disks.Local(name, false); err != nil || now != d {
		// Renamed meanwhile: the epoch that was asked about is another name's.
		return api.Volume{}, errs.New(errs.Busy, "there is no volume %q on this host any more: nothing was done", name)
	}
	st := d.State()
	if g := disk.Generation(st.Published); g.Epoch != r.Epoch && (d.Owner == nil || d.Owner.Generation().Epoch != r.Epoch) {
		return api.Volume{}, errs.New(errs.Busy, "volume %q is at epoch %d here, not %d: nothing was done", d, g.Epoch, r.Epoch)
	}
	if r.FlushOnly {
		if _, err := h.publisher.Publish(ctx, d, commitlog.CauseFlush, nil); err != nil {
			return api.Volume{}, err
		}
		return h.view(d), nil
	}
	if n := d.Exports(); n > 0 {
		return api.Volume{}, errs.New(errs.WouldLose, "volume %q has %d open NBD connection(s) there", d, n)
	}
	if err := h.handOver(ctx, d); err != nil {
		return api.Volume{}, err
	}
	view := h.view(d)
	// It is the asker's now: this host keeps nothing of it but its cache.
	return view, h.owners.EraseAll(d)
}
