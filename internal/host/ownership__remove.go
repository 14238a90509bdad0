package host

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// tombstone removes a published volume of this host from the store. Under op.
func (d *disk) tombstone(ctx context.Context, st *volume.State) error {
	err := d.tryTombstone(ctx, st)
	if err != nil && d.ended() {
		d.setOwner(nil)
		err = d.tryTombstone(ctx, st)
	}
	return d.h.fenceIfLost(d, err)
}

func (d *disk) tryTombstone(ctx context.Context, st *volume.State) error {
	if err := d.own(st); err != nil {
		return err
	}
	if d.owner.Generation().IsZero() {
		if _, err := d.claimOwn(ctx, st); errors.Is(err, errRemovedHere) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return d.owner.Tombstone(ctx, commitlog.CauseRemove, "")
}

// removeFromStore removes a volume from the store, if it may be there and is this host's.
// Under op, and moving.
func (h *Host) removeFromStore(ctx context.Context, d *disk, st *volume.State) error {
	switch {
	case st.Published == nil:
		return d.withdraw(ctx, st)
	case st.Mode == volume.Fenced:
		return nil
	}
	if err := h.pins.keepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	return d.tombstone(ctx, st)
}

// eraseAll removes a volume and its snapshots from this host, all or none of
// them whatever happens: a snapshot is nothing without its volume. Under op.
func (h *Host) eraseAll(d *disk) error {
	snaps := h.snapshotsOf(d.id)
	for _, s := range snaps {
		s.op.Lock()
		defer s.op.Unlock()
	}
	return h.erase(append(snaps, d)...)
}

// erase removes disks from this host: records, tables, log. They are closed
// first: an open volume saves its record whenever its log changes, also after
// that was removed. Under the op of each.
func (h *Host) erase(disks ...*disk) error {
	records := make([]meta.Record, len(disks))
	for i, d := range disks {
		d.disconnect()
		_ = d.shut() // what it could not sync is not wanted any more
		records[i] = recordGone(d.id)
	}
	if err := h.db.SaveVolumes(records...); err != nil {
		return err
	}
	for _, d := range disks {
		// What was sent for a volume that was never known to be published may yet
		// take effect: the fact stays, for the next volume of the name.
		if st := d.state(); st.Published != nil {
			if err := d.firstDone(&st); err != nil {
				return err
			}
		}
		h.drop(d)
		d.mu.Lock()
		d.gone = true
		d.unclaim()
		d.mu.Unlock()
	}
	return nil
}
