package ownership

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// tombstone removes a published volume of this host from the store. Under op.
func (ow *Owners) tombstone(ctx context.Context, d *disk.Disk, st *volume.State, cause commitlog.Cause) error {
	err := ow.tryTombstone(ctx, d, st, cause)
	if err != nil && d.ClaimEnded() {
		d.SetOwner(nil)
		err = ow.tryTombstone(ctx, d, st, cause)
	}
	return ow.FenceIfLost(d, err)
}

func (ow *Owners) tryTombstone(ctx context.Context, d *disk.Disk, st *volume.State, cause commitlog.Cause) error {
	begun, err := ow.disks.NamesBegun(d.ID, st.Name)
	if err != nil {
		return err
	}
	if len(begun) > 0 { // the tombstone of a rename may be on its way: only a new epoch stops it
		d.SetOwner(nil)
	}
	if err := ow.Own(d, st); err != nil {
		return err
	}
	if d.Owner.Generation().IsZero() {
		_, err := ow.ClaimOwn(ctx, d, st)
		if errors.Is(err, errRemovedHere) {
			return ow.WithdrawRenames(ctx, d.ID, begun)
		}
		if err != nil {
			return err
		}
	}
	if err := ow.WithdrawRenames(ctx, d.ID, begun); err != nil {
		return err
	}
	if err := ow.KeepForFormer(ctx, d); err != nil {
		return err
	}
	return d.Owner.Tombstone(ctx, cause, "")
}

// KeepForFormer pins what a volume that is about to leave its name keeps for hosts from
// which it was claimed: their forks, and their rescue volumes, lie over that state, and a
// tombstone does not name it (reachable-is-kept). The pins are the former owners'. They
// find them at their next start, and drop them when nothing needs them. Under op.
func (ow *Owners) KeepForFormer(ctx context.Context, d *disk.Disk) error {
	st := d.State()
	vol := commitlog.Volume{Tenant: st.Tenant, Name: st.Name}
	for _, f := range d.Owner.State().SealedFrom {
		o, err := commitlog.Load(ctx, ow.disks.Store, vol, f.Generation)
		if errors.Is(err, errs.NotFound) {
			continue // an earlier attempt has created the pins, and its tombstone took effect
		}
		if err == nil {
			err = ow.pins.KeepFor(ctx, f.Host, o.State.Root)
		}
		if err != nil {
			return err
		}
		for _, s := range o.State.Snapshots {
			if err := ow.pins.KeepFor(ctx, f.Host, s.Root); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveFromStore removes a volume from the store, if it may be there and this host owns
// it. cause is commitlog.CauseRemove, or commitlog.CauseWithdraw if the call that created it
// failed: then it is nothing that can be restored. Under op and Moving.
func (ow *Owners) RemoveFromStore(ctx context.Context, d *disk.Disk, st *volume.State, cause commitlog.Cause) error {
	switch {
	case st.Published == nil:
		return ow.Withdraw(ctx, d, st, cause)
	case st.Mode == volume.Fenced:
		return nil
	}
	if err := ow.pins.KeepFamily(ctx, st); err != nil {
		return err
	}
	return ow.tombstone(ctx, d, st, cause)
}

// EraseAll removes a volume and its snapshots from this host. Even after a crash either
// all of them are gone or none: a snapshot cannot exist without its volume. Under op.
func (ow *Owners) EraseAll(d *disk.Disk) error {
	snaps := ow.disks.SnapshotsOf(d.ID)
	for _, s := range snaps {
		s.Op.Lock()
		defer s.Op.Unlock()
	}
	return ow.Erase(append(snaps, d)...)
}

// Erase removes disks from this host: records, table entries and log segments. It closes
// them first, because an open volume saves its record whenever its log changes, even
// after the record was removed. Under the Op of each.
func (ow *Owners) Erase(disks ...*disk.Disk) error {
	records := make([]meta.Record, len(disks))
	for i, d := range disks {
		d.Disconnect()
		_ = d.Close() // what it could not sync is not needed any more
		records[i] = disk.RecordGone(d.ID)
	}
	if err := ow.disks.DB.SaveVolumes(records...); err != nil {
		return err
	}
	for _, d := range disks {
		// If the publication of a volume was never confirmed, its requests may still take
		// effect. The fact about it is kept for the next volume of this name.
		if st := d.State(); st.Published != nil {
			if err := ow.FirstPublished(d, &st); err != nil {
				return err
			}
		}
		ow.disks.Drop(d)
		d.SetRemoved()
	}
	return nil
}
