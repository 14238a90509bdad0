package host

import (
	"context"
	"errors"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/volume"
)

// Sleep makes a volume durable and closes it. With portable, it also releases the volume
// to the store, so that any host can wake it without asking this one.
func (h *Host) Sleep(ctx context.Context, name string, portable, force bool) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.Wake, name)
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
		// A sleeping volume sends nothing, so its policy must be fulfilled first.
		if err := s.BarrierUnderOp(ctx); err != nil {
			return api.Volume{}, err
		}
	}
	if err := d.Sleep(false); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// handOver publishes a disk, releases it in the store, and puts it to sleep. It
// disconnects guests before the last flush, so that this flush has everything that they
// were told is durable. Under op.
func (h *Host) handOver(ctx context.Context, d *disk.Disk) error {
	if _, err := h.publisher.Publish(ctx, d, commitlog.CauseFlush, nil); err != nil {
		return err
	}
	defer d.BlockGuests()()
	d.StopShipping(disk.ErrClosing)
	defer h.durability.StartShipping(d) // no effect if the disk sleeps by then
	if fault.Is("released-before-flushed") {
		h.disks.Log.Warn("a fault is planted")
	} else if _, err := h.publisher.Publish(ctx, d, commitlog.CauseRelease, nil); err != nil {
		return err
	}
	h.boots.Published(ctx, d)
	if d.Owner == nil || d.Owner.Generation().IsZero() {
		// An earlier process published it. Only an epoch of this process can be released.
		if _, err := h.publisher.Publish(ctx, d, commitlog.CauseRelease, func(*commitlog.State) {}); err != nil {
			return err
		}
	}
	return h.release(ctx, d)
}

// release puts a published disk to sleep and releases it to the store. Under op.
//
// no-silent-rollback: a release may take effect long after this host stopped waiting for
// it. From then on any host may wake the volume without asking. So the record first says
// that the volume must be claimed again before it is used.
func (h *Host) release(ctx context.Context, d *disk.Disk) error {
	d.Moving.Lock()
	defer d.Moving.Unlock()
	st := d.State()
	if err := h.pins.KeepFamily(ctx, &st); err != nil {
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

// Wake opens a volume that sleeps on this host, or claims and opens one that is not on
// this host.
func (h *Host) Wake(ctx context.Context, name string, force bool, expect string) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.Wake, name)
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

// wakeReleased wakes a volume that nobody owns.
func (h *Host) wakeReleased(ctx context.Context, name string) error {
	_, err := h.Wake(ctx, name, false, "")
	return err
}

// clearFenced removes a fenced volume from this host, so that it can be claimed like any
// other. Its unpublished data is in its rescue volume.
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
		return api.Volume{}, ownership.OlderThanExpected(d.String(), have, want)
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

// noticeWithin is how long the server may take to notice that a connection has ended from
// which it has just read a request.
const noticeWithin = 10 * time.Millisecond

// Release is the request of another host: flush a volume, and unless FlushOnly is set,
// hand it over. A request that is late, or names another epoch, has no effect.
func (h *Host) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.Wake, name)
	if r.WithinMs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.WithinMs*1e6))
		defer cancel()
	}
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	// A host that hung for a while finds requests in its sockets whose senders have gone.
	// The server notices that a moment after it reads them.
	_ = clock.Pause(ctx, noticeWithin)
	d.Op.Lock()
	defer d.Op.Unlock()
	if ctx.Err() != nil && !fault.Is("late-release-counts") {
		return api.Volume{}, errs.New(errs.Unavailable, "host %s asked too long ago: nothing was done", r.Host)
	}
	if now, err := h.disks.Local(name, false); err != nil || now != d {
		// It was renamed meanwhile: the epoch in the request belongs to another name.
		return api.Volume{}, errs.New(errs.Busy, "there is no volume %q on this host any more: nothing was done", name)
	}
	st := d.State()
	if g := disk.Generation(st.Published); g.Epoch != r.Epoch && (d.Owner == nil || d.Owner.Generation().Epoch != r.Epoch) {
		return api.Volume{}, errs.New(errs.Busy, "volume %q is at epoch %d here, not %d: nothing was done", d, g.Epoch, r.Epoch)
	}
	if r.FlushOnly {
		// The other host is about to boot a fork.
		h.boots.Published(ctx, d)
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
	// The other host owns it now. This host keeps nothing of it except cached blocks.
	return view, h.owners.EraseAll(d)
}
