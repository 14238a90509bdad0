package host

import (
	"cmp"
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// Snapshot names the current cut of a volume. When Snapshot returns, the snapshot is
// durable on this host; the next flush puts it into the store.
func (h *Host) Snapshot(ctx context.Context, name, snapshot string) (api.Snapshot, error) {
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
	st := d.State()
	if n := len(h.disks.SnapshotsOf(d.ID)); n >= commitlog.MaxSnapshots {
		return api.Snapshot{}, errs.New(errs.Invalid, "volume %q has %d snapshots, which is the limit: remove some with glide rm %s@NAME", d, n, d)
	}
	v, err := d.Wake(false)
	if err != nil {
		return api.Snapshot{}, err
	}
	snap := volume.State{
		ID: disk.NewVolumeID(h.disks), Tenant: st.Tenant, Name: st.Name, Snapshot: snapshot, SnapshotOf: d.ID, CreatedAt: h.disks.Now().UTC(),
		Mode: volume.Active, Durability: st.Durability, RPO: st.RPO, BlockSize: st.BlockSize, Size: st.Size,
	}
	s := disk.New(h.disks, snap)
	s.Op.Lock() // callers that find the snapshot wait until it is created
	defer s.Op.Unlock()
	if err := h.disks.Reserve(s); err != nil {
		return api.Snapshot{}, errs.New(errs.Exists, "volume %q has a snapshot %q already", d, snapshot)
	}
	kids, err := h.disks.ForkCut(v, []*volume.State{&snap})
	if err != nil {
		h.disks.Unreserve(s)
		return api.Snapshot{}, err
	}
	s.SetVolume(kids[0])
	return snapshotView(s), nil
}

func snapshotView(d *disk.Disk) api.Snapshot {
	st := d.State()
	return api.Snapshot{Name: st.Snapshot, Volume: disk.Display(st.Tenant, st.Name, ""), Size: st.Size, Generation: st.Generation, CreatedAt: st.CreatedAt}
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
		out = append(out, api.Snapshot{Name: s.Name, Volume: n.String(), Size: s.Size, Generation: g.String(), CreatedAt: s.CreatedAt})
	}
	return out, nil
}

// Rollback returns the volume to the state of a snapshot or a commit of it.
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
	st := d.State()
	v, err := d.Wake(false)
	if err != nil {
		return api.Volume{}, err
	}
	n := disk.Name{Tenant: st.Tenant, Volume: st.Name}
	to, settle, err := h.keepCommit(ctx, n, to)
	if err != nil {
		return api.Volume{}, err
	}
	published := false
	defer func() { settle(published) }()
	c, done, err := h.inspector.CutAt(ctx, n, to) // reads the commit after its announcement
	if err != nil {
		return api.Volume{}, err
	}
	defer done()
	d.Disconnect()
	d.StopShipping(disk.ErrClosing)
	defer h.durability.StartShipping(d)
	if err := h.publisher.Rollback(ctx, d, v, c); err != nil {
		return api.Volume{}, err
	}
	if st.Published != nil {
		// The store must not continue to show the state that was given up.
		if _, err := h.publisher.Publish(ctx, d, commitlog.CauseRollback, func(*commitlog.State) {}); err != nil {
			h.disks.Log.Warn("a rollback is not in the store yet", "volume", d.String(), "error", err)
		} else {
			published = true
		}
	}
	return h.view(d), nil
}

// keepCommit announces the commit of the volume that to means, unless it means a snapshot
// of this host, and returns its generation as text. settle ends the announcement once
// the volume's newest commit has the same content; if it has not, and the volume lies over
// that state, the state stays pinned. reachable-is-kept.
func (h *Host) keepCommit(ctx context.Context, n disk.Name, to string) (_ string, settle func(published bool), _ error) {
	if h.disks.Find(disk.Name{Tenant: n.Tenant, Volume: n.Volume, Snapshot: to}) != nil {
		return to, func(bool) {}, nil
	}
	state, g, err := h.catalog.Resolve(ctx, n, to)
	if err != nil {
		return "", nil, err
	}
	drop, err := h.pins.PinFork(ctx, n.Log().Key(g))
	if err != nil {
		return "", nil, err
	}
	return g.String(), func(published bool) {
		ctx := context.WithoutCancel(ctx)
		err := error(nil)
		if d := h.disks.Find(n); !published && d != nil && d.State().Root == state.Root {
			err = h.pins.KeepStale(ctx, state.Root)
		}
		if err == nil {
			err = drop(ctx)
		}
		if err != nil {
			h.disks.Log.Warn("a pin was not dropped", "error", err)
		}
	}, nil
}
