package host

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/commitlog"
)

// Remove removes a volume, or a snapshot of one. A volume that was published is
// removed from the store too.
func (h *Host) Remove(ctx context.Context, name string, force bool) error {
	n, err := ParseName(name, true)
	if err != nil {
		return err
	}
	d, err := h.disks.local(name, true)
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
	for _, s := range h.disks.snapshotsOf(d.id) { // they go with it
		if err := s.removable(force); err != nil {
			return err
		}
	}
	defer d.blockGuests()()
	d.stopShipping(errHeld)
	defer h.durability.startShipping(d) // if it cannot be removed
	st := d.state()
	d.moving.Lock()
	defer d.moving.Unlock()
	err = h.owners.removeFromStore(ctx, d, &st)
	if gone := (removedElsewhere{}); st.Released && errors.As(err, &gone) {
		err = nil // it was the store's, and is not there any more
	}
	if err != nil {
		return h.owners.fenceClosedIfLost(d, err)
	}
	if err := h.owners.eraseAll(d); err != nil {
		return err
	}
	if st.Published != nil {
		h.pins.release(ctx)
	}
	return nil
}

// removeSnapshot takes a snapshot out of a volume, and if the store has it out of
// there first: what is reported as failed has not happened. The volume's op
// comes before its snapshots', as in a flush.
func (h *Host) removeSnapshot(ctx context.Context, n Name, s *disk, force bool) error {
	d := h.disks.find(Name{n.Tenant, n.Volume, ""})
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
		_, err := h.publisher.publish(ctx, d, commitlog.CauseSnapshot, func(c *commitlog.State) {
			c.Snapshots = slices.DeleteFunc(slices.Clone(c.Snapshots), func(l commitlog.Snapshot) bool { return l.Name == n.Snapshot })
		})
		if err != nil {
			return err
		}
	}
	s.op.Lock()
	defer s.op.Unlock()
	return h.owners.erase(s)
}
