package host

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/ownership"
)

// Remove removes a volume or a snapshot. A published volume is also removed from the
// store.
func (h *Host) Remove(ctx context.Context, name string, force bool) error {
	ctx = h.purpose(ctx, cost.Manage, name)
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
	for _, s := range h.disks.SnapshotsOf(d.ID) { // they are removed with it
		if err := s.Removable(force); err != nil {
			return err
		}
		s.Moving.Lock() // no fork of it may be born between its pin and its end
		defer s.Moving.Unlock()
	}
	defer d.BlockGuests()()
	d.StopShipping(disk.ErrClosing)
	defer h.durability.StartShipping(d) // if it cannot be removed
	st := d.State()
	d.Moving.Lock()
	defer d.Moving.Unlock()
	err = h.owners.RemoveFromStore(ctx, d, &st, commitlog.CauseRemove)
	if gone := (ownership.RemovedElsewhere{}); st.Released && errors.As(err, &gone) {
		err = nil // it had been released, and is already gone from the store
	}
	if err != nil {
		return h.owners.FenceClosedIfLost(d, err)
	}
	if err := h.owners.EraseAll(d); err != nil {
		return err
	}
	h.releasePins(ctx, st.Published == nil)
	return nil
}

// releasePins drops the pins that a removed disk was the last to need. For one that only this
// host knew, the store need not answer.
func (h *Host) releasePins(ctx context.Context, local bool) {
	if local {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, durability.LastShipping)
		defer cancel()
	}
	h.pins.Release(ctx)
}

// removeSnapshot removes a snapshot of a volume, from the store first if the store has
// it: if it reports an error, the snapshot is still there. It takes the volume's Op
// before those of its snapshots, as a flush does.
func (h *Host) removeSnapshot(ctx context.Context, n disk.Name, s *disk.Disk, force bool) error {
	d := h.disks.Find(disk.Name{Tenant: n.Tenant, Volume: n.Volume})
	if d != nil {
		d.Op.Lock()
		defer d.Op.Unlock()
	}
	s.Op.Lock()
	err := s.Removable(force)
	s.Op.Unlock() // Publish takes it
	if err != nil {
		return err
	}
	defer s.BlockGuests()()
	s.Moving.Lock()
	defer s.Moving.Unlock()
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
	if err := h.owners.Erase(s); err != nil {
		return err
	}
	h.releasePins(ctx, s.State().Generation == "")
	return nil
}
