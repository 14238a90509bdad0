package host

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/ownership"
)

// Remove removes a volume, or a snapshot of one. A volume that was published is
// removed from the store too.
func (h *Host) Remove(ctx context.Context, name string, force bool) error {
	n, err := disk.ParseName(name, true)
	if err != nil {
		return err
	}
	d, err := h.disks.Local(name, true)
	if err != nil {
		return err
	}
	if n.Snapshot != "" {
		return h.removeSnapshot(ctx, n, d, force)
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	if err := d.Removable(force); err != nil {
		return err
	}
	for _, s := range h.disks.SnapshotsOf(d.ID) { // they go with it
		if err := s.Removable(force); err != nil {
			return err
		}
	}
	defer d.BlockGuests()()
	d.StopShipping(disk.ErrClosing)
	defer h.durability.StartShipping(d) // if it cannot be removed
	st := d.State()
	d.Moving.Lock()
	defer d.Moving.Unlock()
	err = h.owners.RemoveFromStore(ctx, d, &st)
	if gone := (ownership.RemovedElsewhere{}); st.Released && errors.As(err, &gone) {
		err = nil // it was the store's, and is not there any more
	}
	if err != nil {
		return h.owners.FenceClosedIfLost(d, err)
	}
	if err := h.owners.EraseAll(d); err != nil {
		return err
	}
	if st.Published != nil {
		h.pins.Release(ctx)
	}
	return nil
}

// removeSnapshot takes a snapshot out of a volume, and if the store has it out of
// there first: what is reported as failed has not happened. The volume's op
// comes before its snapshots', as in a flush.
func (h *Host) removeSnapshot(ctx context.Context, n disk.Name, s *disk.Disk, force bool) error {
	d := h.disks.Find(disk.Name{Tenant: n.Tenant, Volume: n.Volume})
	if d != nil {
		d.Op.Lock()
		defer d.Op.Unlock()
	}
	s.Op.Lock()
	err := s.Removable(force)
	s.Op.Unlock() // publishing takes it
	if err != nil {
		return err
	}
	defer s.BlockGuests()()
	if st := s.State(); d != nil && st.Generation != "" {
		if err := h.pins.KeepChildren(ctx, st.Root, st.ID); err != nil { // reachable-is-kept
			return err
		}
		_, err := h.publisher.Publish(ctx, d, commitlog.CauseSnapshot, func(c *commitlog.State) {
			c.Snapshots = slices.DeleteFunc(slices.Clone(c.Snapshots), func(l commitlog.Snapshot) bool { return l.Name == n.Snapshot })
		})
		if err != nil {
			return err
		}
	}
	s.Op.Lock()
	defer s.Op.Unlock()
	return h.owners.Erase(s)
}
