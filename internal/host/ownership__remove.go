package host

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// tombstone removes a published volume of this host from the store. Under op.
func (ow *Owners) tombstone(ctx context.Context, d *disk, st *volume.State) error {
	err := ow.tryTombstone(ctx, d, st)
	if err != nil && d.ended() {
		d.setOwner(nil)
		err = ow.tryTombstone(ctx, d, st)
	}
	return ow.fenceIfLost(d, err)
}

func (ow *Owners) tryTombstone(ctx context.Context, d *disk, st *volume.State) error {
	if err := ow.own(d, st); err != nil {
		return err
	}
	if d.owner.Generation().IsZero() {
		if _, err := ow.claimOwn(ctx, d, st); errors.Is(err, errRemovedHere) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return d.owner.Tombstone(ctx, commitlog.CauseRemove, "")
}

// removeFromStore removes a volume from the store, if it may be there and is this host's.
// Under op, and moving.
func (ow *Owners) removeFromStore(ctx context.Context, d *disk, st *volume.State) error {
	switch {
	case st.Published == nil:
		return ow.withdraw(ctx, d, st)
	case st.Mode == volume.Fenced:
		return nil
	}
	if err := ow.pins.keepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	return ow.tombstone(ctx, d, st)
}

// eraseAll removes a volume and its snapshots from this host, all or none of
// them whatever happens: a snapshot is nothing without its volume. Under op.
func (ow *Owners) eraseAll(d *disk) error {
	snaps := ow.disks.snapshotsOf(d.id)
	for _, s := range snaps {
		s.op.Lock()
		defer s.op.Unlock()
	}
	return ow.erase(append(snaps, d)...)
}

// erase removes disks from this host: records, tables, log. They are closed
// first: an open volume saves its record whenever its log changes, also after
// that was removed. Under the op of each.
func (ow *Owners) erase(disks ...*disk) error {
	records := make([]meta.Record, len(disks))
	for i, d := range disks {
		d.disconnect()
		_ = d.shut() // what it could not sync is not wanted any more
		records[i] = recordGone(d.id)
	}
	if err := ow.disks.DB.SaveVolumes(records...); err != nil {
		return err
	}
	for _, d := range disks {
		// What was sent for a volume that was never known to be published may yet
		// take effect: the fact stays, for the next volume of the name.
		if st := d.state(); st.Published != nil {
			if err := ow.firstDone(d, &st); err != nil {
				return err
			}
		}
		ow.disks.drop(d)
		d.setRemoved()
	}
	return nil
}
