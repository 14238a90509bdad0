package host

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/volume"
)

// Remove removes a volume, or a snapshot of one. A volume that was published is
// removed from the store too.
func (h *Host) Remove(ctx context.Context, name string, force bool) error {
	n, err := ParseName(name, true)
	if err != nil {
		return err
	}
	d, err := h.local(name, true)
	if err != nil {
		return err
	}
	if n.Snapshot != "" {
		return h.removeSnapshot(ctx, n, d, force)
	}
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.removable(force); err != nil {
		return err
	}
	for _, s := range h.snapshotsOf(d.id) { // they go with it
		if err := s.removable(force); err != nil {
			return err
		}
	}
	defer d.blockGuests()()
	d.stopShipping(errHeld)
	defer d.startShipping() // if it cannot be removed
	st := d.state()
	d.moving.Lock()
	defer d.moving.Unlock()
	err = h.removeFromStore(ctx, d, &st)
	if gone := (removedElsewhere{}); st.Released && errors.As(err, &gone) {
		err = nil // it was the store's, and is not there any more
	}
	if err != nil {
		return h.fenceClosedIfLost(d, err)
	}
	if err := h.eraseAll(d); err != nil {
		return err
	}
	if st.Published != nil {
		h.pins.release(ctx)
	}
	return nil
}

// takeOut removes a volume from the store, if it may be there and is this host's.
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

// removable refuses to remove what guests are connected to, or what is gone. Under op.
func (d *disk) removable(force bool) error {
	d.mu.Lock()
	gone := d.gone
	d.mu.Unlock()
	if gone {
		return errs.New(errs.NotFound, "volume %q was removed meanwhile", d)
	}
	return d.refuseIfConnected("remove it with --force", force)
}

// removeSnapshot takes a snapshot out of a volume, and if the store has it out of
// there first: what is reported as failed has not happened. The volume's op
// comes before its snapshots', as in a flush.
func (h *Host) removeSnapshot(ctx context.Context, n Name, s *disk, force bool) error {
	d := h.find(Name{n.Tenant, n.Volume, ""})
	if d != nil {
		d.op.Lock()
		defer d.op.Unlock()
	}
	s.op.Lock()
	err := s.removable(force)
	s.op.Unlock() // publishing takes it
	if err != nil {
		return err
	}
	defer s.blockGuests()()
	if st := s.state(); d != nil && st.Generation != "" {
		if err := h.pins.keepChildren(ctx, st.Root, st.ID); err != nil { // reachable-is-kept
			return err
		}
		_, err := h.publish(ctx, d, commitlog.CauseSnapshot, func(c *commitlog.State) {
			c.Snapshots = slices.DeleteFunc(slices.Clone(c.Snapshots), func(l commitlog.Snapshot) bool { return l.Name == n.Snapshot })
		})
		if err != nil {
			return err
		}
	}
	s.op.Lock()
	defer s.op.Unlock()
	return h.erase(s)
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
