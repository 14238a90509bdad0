package ownership

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// tombstone removes a published volume of this host from the store. Under op.
func (ow *Owners) tombstone(ctx context.Context, d *disk.Disk, st *volume.State) error {
	err := ow.tryTombstone(ctx, d, st)
	if err != nil && d.ClaimEnded() {
		d.SetOwner(nil)
		err = ow.tryTombstone(ctx, d, st)
	}
	return ow.FenceIfLost(d, err)
}

func (ow *Owners) tryTombstone(ctx context.Context, d *disk.Disk, st *volume.State) error {
	if err := ow.Own(d, st); err != nil {
		return err
	}
	if d.Owner.Generation().IsZero() {
		if _, err := ow.ClaimOwn(ctx, d, st); errors.Is(err, errRemovedHere) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return d.Owner.Tombstone(ctx, commitlog.CauseRemove, "")
}

// RemoveFromStore removes a volume from the store, if it may be there and is this host's.
// Under op, and moving.
func (ow *Owners) RemoveFromStore(ctx context.Context, d *disk.Disk, st *volume.State) error {
	switch {
	case st.Published == nil:
		return ow.Withdraw(ctx, d, st)
	case st.Mode == volume.Fenced:
		return nil
	}
	if err := ow.pins.KeepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	return ow.tombstone(ctx, d, st)
}

// EraseAll removes a volume and its snapshots from this host, all or none of
// them whatever happens: a snapshot is nothing without its volume. Under op.
func (ow *Owners) EraseAll(d *disk.Disk) error {
	snaps := ow.disks.SnapshotsOf(d.ID)
	for _, s := range snaps {
		s.Op.Lock()
		defer s.Op.Unlock()
	}
	return ow.Erase(append(snaps, d)...)
}

// Erase removes disks from this host: records, tables, log. They are closed
// first: an open volume saves its record whenever its log changes, also after
// that was removed. Under the op of each.
func (ow *Owners) Erase(disks ...*disk.Disk) error {
	records := make([]meta.Record, len(disks))
	for i, d := range disks {
		d.Disconnect()
		_ = d.Close() // what it could not sync is not wanted any more
		records[i] = disk.RecordGone(d.ID)
	}
	if err := ow.disks.DB.SaveVolumes(records...); err != nil {
		return err
	}
	for _, d := range disks {
		// What was sent for a volume that was never known to be published may yet
		// take effect: the fact stays, for the next volume of the name.
		if st := d.State(); st.Published != nil {
			if err := ow.FirstDone(d, &st); err != nil {
				return err
			}
		}
		ow.disks.Drop(d)
		d.SetRemoved()
	}
	return nil
}
