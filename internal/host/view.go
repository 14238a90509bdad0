package host

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/export"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/volume"
)

// Host describes this host.
func (h *Host) Host(context.Context) (api.Host, error) {
	n := 0
	for _, d := range h.disks.All() {
		if st := d.State(); st.SnapshotOf == (volume.ID{}) {
			n++
		}
	}
	return api.Host{
		ID: h.disks.HostID, Version: h.cfg.Version, Store: h.cfg.StoreURL, Data: h.cfg.Data, Advertise: h.cfg.Advertise,
		NBD: append([]string{}, h.cfg.NBD...), API: append([]string{}, h.cfg.API...), Volumes: n,
	}, nil
}

// view returns a disk of this host as ls and show print it.
func (h *Host) view(d *disk.Disk) api.Volume {
	st := d.State()
	v := api.Volume{
		Name: d.String(), Tenant: disk.ShowTenant(st.Tenant), ID: st.ID.String(), Size: st.Size, BlockSize: uint64(st.BlockSize),
		State: string(st.Mode), Reason: st.Reason, Durability: st.Durability, RPOms: float64(st.RPO.Milliseconds()),
		Owner: h.disks.HostID, CreatedAt: st.CreatedAt, StoreBytes: d.Stored.Load(), Exports: d.Exports(), Device: h.attachments.Device(d.ID), Labels: map[string]string{},
		IOPS: st.Limits.IOPS, Bandwidth: st.Limits.Bandwidth, DirtyBudget: st.Limits.DirtyBudget, Keep: st.Keep,
	}
	if st.Released {
		v.Owner = ""
		if st.Mode == volume.Asleep {
			v.Reason = "released to the store: any host can wake it, and may already have; glide show checks"
		}
	}
	v.Sequence, v.PublishedTo = d.Sequences()
	for k, l := range st.Labels {
		v.Labels[k] = l
	}
	if g := disk.Generation(st.Published); !g.IsZero() {
		v.Epoch, v.Generation = g.Epoch, g.String()
	}
	if st.Parent != nil {
		v.Parent = st.Parent.Name
	}
	failed := d.OpenError()
	if open := d.Volume(); open != nil {
		a := open.Account()
		v.DirtyBytes, v.LocalBytes = a.Dirty, a.Log
		if !a.Oldest.IsZero() {
			v.Unpublished = h.disks.Since(a.Oldest)
		}
		if s := d.Shipper(); s != nil {
			bytes, age := s.Unpublished()
			v.DirtyBytes, v.Reason = bytes, s.Stalled()
			if age < volume.LongAgo/2 || v.Unpublished == 0 {
				v.Unpublished = float64(age) / 1e6
			} // else the writes are of an earlier process, and at least as old as this one
		}
		if err := open.Damage(); err != nil {
			v.Reason = damagedLog(err)
		}
		if st.Mode == volume.Active {
			failed = open.Err()
		}
	} else {
		v.DirtyBytes = st.DirtyAtSleep
		v.LocalBytes = d.LogBytes()
		if v.DirtyBytes > 0 {
			v.Unpublished = h.disks.Since(st.OldestAtSleep)
		}
	}
	sealed, why := h.disks.Tenants.Sealed(disk.DomainName(&st))
	v.Encrypted = sealed
	if st.Isolated != 0 {
		v.Isolated = disk.DomainName(&st)
	}
	switch {
	case why != nil && st.Mode != volume.Fenced:
		v.State, v.Reason = api.TenantLocked, why.Error()
	case failed == nil || st.Mode == volume.Fenced:
	case errs.KindOf(failed) == errs.Fenced: // its rescue volume is about to be created
		v.State, v.Reason = string(volume.Fenced), failed.Error()
	default:
		v.State, v.Reason = string(volume.Failed), failed.Error()
	}
	return v
}

// damagedLog is the reason of a volume that has lost data but otherwise works.
func damagedLog(err error) string { return "its log is damaged: " + err.Error() }

// List returns this host's volumes by name. With all, it adds those that only the store
// has.
func (h *Host) List(ctx context.Context, all bool) ([]api.Volume, error) {
	ctx = cost.With(ctx, cost.List, cost.Volume{})
	out := []api.Volume{}
	var released []*disk.Disk
	for _, d := range h.disks.All() {
		switch st := d.State(); {
		case st.SnapshotOf != volume.ID{}:
		case all && st.Released:
			released = append(released, d)
		default:
			out = append(out, h.view(d))
		}
	}
	if all {
		views, err := h.viewAllReleased(ctx, released)
		if err != nil {
			return nil, err
		}
		remote, err := h.listStore(ctx)
		if err != nil {
			return nil, err
		}
		out = append(append(out, views...), remote...)
	}
	slices.SortFunc(out, func(a, b api.Volume) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (h *Host) viewAllReleased(ctx context.Context, disks []*disk.Disk) ([]api.Volume, error) {
	views := make([]*api.Volume, len(disks))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(catalog.TipsAtOnce)
	for i, d := range disks {
		g.Go(func() error {
			v, err := h.viewReleased(ctx, d)
			if err == nil {
				views[i] = &v
			} else if errs.KindOf(err) != errs.NotFound {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []api.Volume
	for _, v := range views {
		if v != nil {
			out = append(out, *v)
		}
	}
	return out, nil
}

// listStore returns the volumes of the store that are not on this host. A volume that
// cannot be read is listed as failed. If none can be read because the store is
// unavailable, listStore returns that error.
func (h *Host) listStore(ctx context.Context) ([]api.Volume, error) {
	var out []api.Volume
	var last error
	bad := 0
	err := h.catalog.EachStored(ctx, func(n disk.Name) bool { return h.disks.Find(n) == nil }, func(n disk.Name, tip *commitlog.Object, err error) error {
		if tip, err = h.catalog.CheckTip(ctx, n, tip, err); err == nil {
			out = append(out, remoteView(n, tip))
		} else if errs.KindOf(err) != errs.NotFound {
			v := api.Volume{Name: n.String(), Tenant: disk.ShowTenant(n.Tenant), State: string(volume.Failed), Reason: err.Error(), Labels: map[string]string{}}
			if errors.Is(err, seal.ErrLocked) {
				v.State, v.Encrypted = api.TenantLocked, true
			} else {
				last = err
				bad++
			}
			out = append(out, v)
		}
		return ctx.Err()
	})
	if err == nil && bad > 0 && bad == len(out) && errs.KindOf(last) == errs.Unavailable {
		err = last
	}
	return out, err
}

func remoteView(n disk.Name, tip *commitlog.Object) api.Volume {
	s := &tip.State
	v := api.Volume{
		Name: n.String(), Tenant: disk.ShowTenant(n.Tenant), ID: s.ID.String(), Size: s.Size, BlockSize: uint64(s.BlockSize), State: "remote",
		Durability: s.Durability, RPOms: float64(disk.RPOOf(s).Milliseconds()), Owner: s.Owner.ID, Epoch: tip.Generation.Epoch, Generation: tip.Generation.String(),
		CreatedAt: s.CreatedAt, StoreBytes: int64(s.StoredBytes), Labels: map[string]string{}, Encrypted: tip.Domain != 0,
		IOPS: s.Limits.IOPS, Bandwidth: s.Limits.Bandwidth, DirtyBudget: s.Limits.DirtyBudget, Keep: s.Keep,
	}
	for k, l := range s.Labels {
		v.Labels[k] = l
	}
	if tip.Released {
		v.Owner = ""
	}
	if s.Isolated != 0 {
		v.Isolated = s.DomainName()
	}
	if s.Parent != nil {
		v.Parent = disk.ParentName(n.Tenant, s.Parent)
	}
	return v
}

// Show describes one volume, on this host or in the store.
func (h *Host) Show(ctx context.Context, name string) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.List, name)
	n, err := disk.ParseName(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	if d := h.disks.Find(n); d != nil {
		v, st := h.view(d), d.State()
		if st.Released {
			v, err = h.viewReleased(ctx, d)
		}
		v.VerifiedAt = st.VerifiedAt
		return withBoot(v, h.boots.Show(d)), err
	}
	tip, err := h.catalog.Tip(ctx, n)
	if err != nil {
		return api.Volume{}, err
	}
	st := disk.RecordOf(&tip.State, volume.ID(tip.State.ID))
	return withBoot(remoteView(n, tip), h.boots.Stored(ctx, &st)), nil
}

// withBoot adds what is known of the boots of a volume's image.
func withBoot(v api.Volume, l boot.Summary) api.Volume {
	v.BootBlocks, v.BootUsed = l.Blocks, l.Used
	return v
}

// viewReleased is view for a released disk. The store decides who owns the volume now, so
// it is asked.
func (h *Host) viewReleased(ctx context.Context, d *disk.Disk) (api.Volume, error) {
	v := h.view(d)
	st := d.State()
	if st.Mode != volume.Asleep {
		return v, nil // it was claimed or fenced meanwhile
	}
	n := disk.Name{Tenant: st.Tenant, Volume: st.Name}
	tip, err := h.catalog.Tip(ctx, n)
	switch {
	case err == nil && tip.State.Owner.ID == h.disks.HostID && volume.ID(tip.State.ID) == d.ID:
		v.Reason = "released to the store: any host can wake it"
	case err == nil:
		return remoteView(n, tip), nil
	case errs.KindOf(err) == errs.NotFound:
		return api.Volume{}, err
	default:
		v.Reason = "released to the store, which could not be asked whether another host has it: " + err.Error()
	}
	return v, nil
}

// URI returns the NBD URI of a volume or snapshot, for qemu, libnbd and nbdcopy.
func (h *Host) URI(_ context.Context, name string) (string, error) {
	d, err := h.disks.Local(name, true)
	if err != nil {
		return "", err
	}
	if len(h.cfg.NBD) == 0 {
		return "", errs.New(errs.Unavailable, "this host serves no NBD address")
	}
	return export.URI(h.cfg.NBD[0], d.String(), h.cfg.NBDTLS), nil
}
