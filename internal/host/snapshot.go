package host

import (
	"cmp"
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
)

// Snapshot names the current cut of a volume. When Snapshot returns, the snapshot is
// durable on this host; the next flush puts it into the store. expires is how long it is
// kept, such as 30d; "" means for ever.
func (h *Host) Snapshot(ctx context.Context, name, snapshot, expires string) (api.Snapshot, error) {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Snapshot{}, err
	}
	if !commitlog.ValidName(snapshot) {
		return api.Snapshot{}, disk.BadName("snapshot", snapshot)
	}
	unlock, err := h.lockToChange(d)
	if err != nil {
		return api.Snapshot{}, err
	}
	defer unlock()
	s, err := h.undo.Snapshot(d, snapshot, expires)
	if err != nil {
		return api.Snapshot{}, err
	}
	return snapshotView(s), nil
}

func snapshotView(d *disk.Disk) api.Snapshot {
	st := d.State()
	return api.Snapshot{Name: st.Snapshot, Volume: disk.Display(st.Tenant, st.Name, ""), Size: st.Size, Generation: st.Generation, CreatedAt: st.CreatedAt, ExpiresAt: st.ExpiresAt}
}

// Snapshots lists the volume's snapshots, the oldest first.
func (h *Host) Snapshots(ctx context.Context, name string) ([]api.Snapshot, error) {
	n, err := disk.ParseName(name, false)
	if err != nil {
		return nil, err
	}
	out := []api.Snapshot{}
	if d := h.disks.Find(n); d != nil {
		for _, s := range h.disks.SnapshotsOf(d.ID) {
			out = append(out, snapshotView(s))
		}
		return out, nil
	}
	tip, err := h.catalog.Tip(ctx, n)
	if err != nil {
		return nil, err
	}
	for _, s := range tip.State.Snapshots {
		g := cmp.Or(s.Generation, tip.Generation) // the commit that first lists a snapshot cannot name its own generation
		out = append(out, api.Snapshot{Name: s.Name, Volume: n.String(), Size: s.Size, Generation: g.String(), CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt})
	}
	return out, nil
}

// Rollback returns the volume to the state of a snapshot or a commit of it. What it gives up
// stays as another snapshot.
func (h *Host) Rollback(ctx context.Context, name, to string, force bool) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.Snapshot, name)
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	if to == "" {
		return api.Volume{}, errs.New(errs.Invalid, "name the snapshot or generation to roll %q back to", d)
	}
	unlock, err := h.lockToChange(d)
	if err != nil {
		return api.Volume{}, err
	}
	defer unlock()
	if err := d.RefuseIfConnected("roll it back with --force", force); err != nil {
		return api.Volume{}, err
	}
	if err := h.undo.Rollback(ctx, d, to); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// Restore brings a removed volume back, under another name if as is not "".
func (h *Host) Restore(ctx context.Context, name, as string) (api.Volume, error) {
	if err := h.mayGrow(); err != nil {
		return api.Volume{}, err
	}
	d, err := h.undo.Restore(cost.With(ctx, cost.Manage, cost.Volume{}), name, as)
	if err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// Removed lists the removed volumes of the store that can be restored.
func (h *Host) Removed(ctx context.Context) ([]api.Removed, error) {
	return h.undo.Removed(cost.With(ctx, cost.List, cost.Volume{}))
}
