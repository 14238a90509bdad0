package host

import (
	"context"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// unpin ends the upload session, unless a commit may still take effect that needs it, and
// drops the pins of an earlier process, if they can be.
func (h *Host) unpin(ctx context.Context) error {
	if err := h.settleFormer(ctx); err != nil {
		h.disks.Log.Warn("pins that nobody needs stay", "error", err)
	}
	if h.disks.Unsettled() {
		return nil
	}
	return h.publisher.Session.Rotate(ctx)
}

// settleFormer drops the pins that an earlier process left for what it was about to
// publish. First it begins a new epoch of each volume that has none of this process, so
// that a commit of the earlier one that comes late is no part of its log: it may name packs
// that only those pins keep. reachable-is-kept.
//
// It also drops the pins that nobody needs: of forks that were removed before they were
// published (their removal works without the store), and those that came back late.
func (h *Host) settleFormer(ctx context.Context) error {
	if err := h.pins.Sweep(ctx); err != nil {
		return err
	}
	if !h.pins.Former() || len(h.disks.OrphanNames()) > 0 {
		return nil
	}
	for _, d := range h.disks.All() {
		if err := h.beginEpoch(ctx, d); err != nil {
			return err
		}
	}
	return h.pins.DropFormer(ctx)
}

// beginEpoch begins this process's epoch of a volume that the store has, unless it has
// one already or has given the volume up. It publishes a volume whose first publication an
// earlier process began and did not confirm: that one may still come.
func (h *Host) beginEpoch(ctx context.Context, d *disk.Disk) error {
	d.Op.Lock()
	defer d.Op.Unlock()
	st := d.State()
	if sent, err := h.owners.FirstMayBeSent(&st); err != nil || sent {
		if err == nil {
			_, err = h.publisher.Publish(ctx, d, commitlog.CauseFlush, nil)
		}
		return err
	}
	if st.SnapshotOf != (volume.ID{}) || st.Published == nil || st.Released || st.Mode == volume.Fenced || h.disks.Find(disk.Name{Tenant: st.Tenant, Volume: st.Name}) != d {
		return nil
	}
	if err := h.owners.Own(d, &st); err != nil {
		return err
	}
	if !d.Owner.Generation().IsZero() {
		return nil
	}
	if _, err := h.owners.ClaimOwn(ctx, d, &st); err != nil {
		switch errs.KindOf(err) {
		case errs.NotFound: // the earlier process removed it, and its log is over
			return nil
		case errs.Fenced:
			_ = h.owners.FenceIfLost(d, err) // what it sent is no part of the log either
			return nil
		}
		return err
	}
	g := d.Owner.Generation()
	return d.Update(func(s *volume.State) { s.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number} })
}
