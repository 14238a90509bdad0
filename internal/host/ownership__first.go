package host

import (
	"context"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/volume"
)

// openFirst publishes a volume for the first time. What this host began to
// publish under the name before, and gave up, is withdrawn. Under op.
func (d *disk) openFirst(ctx context.Context, st *volume.State, state commitlog.State) (commitlog.Generation, error) {
	h := d.h
	b, err := h.db.Fact(firstFact(st))
	if err != nil {
		return commitlog.Generation{}, err
	}
	var before volume.ID
	if copy(before[:], b) == len(before) && before != d.id && h.disk(before) == nil {
		o, err := h.newOwner(st)
		if err == nil {
			err = o.Withdraw(ctx, commitlog.VolumeID(before))
		}
		if err != nil {
			return commitlog.Generation{}, err
		}
	}
	if before != d.id {
		h.firstPublishMu.Lock()
		err := h.db.SetFact(firstFact(st), d.id[:])
		h.firstPublishMu.Unlock()
		if err != nil {
			return commitlog.Generation{}, err
		}
		g, err := d.owner.OpenNew(ctx, state)
		h.reportTwin(err)
		return g, err
	}
	return d.owner.OpenFirst(ctx, state)
}

// beganFirst tells whether the volume's first publication may have reached the store.
func (d *disk) beganFirst(st *volume.State) (bool, error) {
	b, err := d.h.db.Fact(firstFact(st))
	return len(b) == len(d.id) && volume.ID(b) == d.id, err
}

// firstDone ends what openFirst began, once the volume's record says where the
// volume is, or the volume is gone.
func (d *disk) firstDone(st *volume.State) error {
	if began, err := d.beganFirst(st); err != nil || !began {
		return err
	}
	return d.h.db.SetFact(firstFact(st), nil)
}

// withdraw makes sure that a volume which was never known to be published is
// not, and will not be, in the store under the record's name. It makes no
// request if nothing was sent. Under op.
func (d *disk) withdraw(ctx context.Context, st *volume.State) error {
	began, err := d.beganFirst(st)
	if err != nil || !began || fault.Is("first-publication-not-withdrawn") {
		return err
	}
	if err := d.own(st); err != nil {
		return err
	}
	if err := d.owner.Withdraw(ctx, commitlog.VolumeID(d.id)); err != nil {
		return err
	}
	d.setOwner(nil)
	return d.firstDone(st)
}

// withdrawOrphans takes them out of the store, which is asked until it answers.
// Without any it makes no request.
func (h *Host) withdrawOrphans() {
	for retry := firstRetry; ; retry = min(2*retry, longestRetry) {
		h.mu.Lock()
		left := make(map[volume.ID]Name, len(h.orphans))
		for id, n := range h.orphans {
			left[id] = n
		}
		h.mu.Unlock()
		for id, n := range left {
			err := h.withdrawOrphan(h.ctx, id, n)
			switch {
			case h.ctx.Err() != nil:
				return
			case err != nil && errs.KindOf(err) == errs.Unavailable:
				continue
			case err != nil:
				h.cfg.Log.Warn("a volume whose making did not end stays in the store", "volume", n.String(), "error", err)
			}
			delete(left, id)
			h.mu.Lock()
			delete(h.orphans, id)
			h.mu.Unlock()
		}
		if len(left) == 0 || pause(h.ctx, retry) != nil {
			return
		}
	}
}

func (h *Host) withdrawOrphan(ctx context.Context, id volume.ID, n Name) error {
	st := volume.State{ID: id, Tenant: n.Tenant, Name: n.Volume}
	o, err := h.newOwner(&st)
	if err == nil {
		err = o.Withdraw(ctx, commitlog.VolumeID(id))
	}
	if err != nil {
		return err
	}
	h.firstPublishMu.Lock()
	defer h.firstPublishMu.Unlock()
	b, err := h.db.Fact(firstFact(&st))
	if err != nil || len(b) != len(id) || volume.ID(b) != id { // another volume is being published under the name
		return err
	}
	return h.db.SetFact(firstFact(&st), nil)
}
