package undo

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/volume"
)

// Restore brings a removed volume back as it was before its newest removal, under its name
// or under another. The new volume is a fork of the last state that the log has before the
// tombstone, but with the policy, the limits, the labels, the snapshots and the parent of
// the removed one.
//
// It has an ID of its own. One removal can be restored twice, under two names, and by
// hosts that do not know of each other; two volumes with one ID would be taken for one.
func (u *Undo) Restore(ctx context.Context, name, as string) (*disk.Disk, error) {
	n, err := disk.ParseName(name, false)
	if err != nil {
		return nil, err
	}
	to, err := disk.ParseName(cmp.Or(as, name), false)
	if err != nil {
		return nil, err
	}
	if to.Tenant != n.Tenant {
		return nil, errs.New(errs.Invalid, "%q and %q belong to different tenants: tenants share no blocks", n, to)
	}
	if u.disks.Find(to) != nil {
		if to == n {
			return nil, taken(n, "on this host")
		}
		return nil, disk.OnThisHost(to)
	}
	tombstone, tip, err := u.catalog.LastRemoval(ctx, n)
	switch {
	case errs.KindOf(err) == errs.NotFound && err != nil:
		return nil, errs.New(errs.NotFound, "the store has nothing of a volume %q: one that was never published cannot be restored", n)
	case err != nil:
		return nil, err
	case tombstone == nil && !tip.Tombstone:
		return nil, errs.New(errs.Exists, "volume %q was not removed: glide show %s describes it", n, n)
	case tombstone == nil && tip.State.RenamedTo != "":
		return nil, errs.New(errs.NotFound, "volume %q was not removed, but renamed to %q", n, disk.Display(n.Tenant, tip.State.RenamedTo, ""))
	case tombstone == nil:
		return nil, errs.New(errs.NotFound, "volume %q was removed before it was published: there is nothing to restore", n)
	case to == n && !tip.Tombstone:
		return nil, taken(n, "in the store, of host "+tip.State.Owner.ID)
	}
	// reachable-is-kept: announce the commit, check it, and only then refer to it.
	drop, err := u.pins.PinFork(ctx, tombstone.Log().Key(tombstone.State.After))
	if err != nil {
		return nil, err
	}
	unsettled := false
	defer func() {
		if unsettled {
			return // the first commit may still take effect, which names what only this pin keeps
		}
		if err := drop(context.WithoutCancel(ctx)); err != nil {
			u.disks.Log.Warn("a pin was not dropped", "error", err)
		}
	}()
	state, err := u.last(ctx, n, tombstone)
	if err != nil {
		return nil, err
	}
	d, sent, err := u.bringBack(ctx, to, state)
	unsettled = sent
	return d, err
}

func taken(n disk.Name, where string) error {
	return errs.New(errs.Exists, "the name %q is taken, by a volume %s: restore the removed one under another name, with glide restore %s --as NEW", n, where, n)
}

// last returns the state before a tombstone, which is announced.
func (u *Undo) last(ctx context.Context, n disk.Name, tombstone *commitlog.Object) (*commitlog.State, error) {
	gone := func() error {
		return errs.New(errs.NotFound, "volume %q was removed at %s, and its content is gone: glide gc has collected it", n, tombstone.State.Time.Format("2006-01-02 15:04:05"))
	}
	read := func() (*commitlog.State, error) {
		o, err := commitlog.Load(ctx, u.disks.Store, n.Log(), tombstone.State.After)
		if errs.KindOf(err) == errs.NotFound && err != nil || err == nil && o.Bare() {
			return nil, gone()
		}
		if err := u.catalog.RefusePlain(ctx, n, tombstone.State.After, o, err); err != nil {
			return nil, err
		}
		s := o.Carry()
		return &s, nil
	}
	state, err := read()
	if err != nil {
		return nil, err
	}
	kept, err := u.spare(ctx, n, tombstone.State.After, state)
	switch {
	case err != nil:
		return nil, err
	case !kept:
		return nil, gone()
	}
	return read() // a round that ended before may have collected the state together with its data commits
}

// spare keeps the open round from collecting a commit that is announced, and its data
// commits: the round may have flagged them before. It reports false if they are condemned. Of
// a commit that is collected nothing is kept, not even by a pin that names it: the next
// round flags its packs, and may end before anything else names them. What spare kept must
// be read after it, since a round may have ended before.
func (u *Undo) spare(ctx context.Context, n disk.Name, at commitlog.Generation, state *commitlog.State) (bool, error) {
	key, err := u.disks.KeyOf(ctx, n, at)
	if err != nil {
		return false, err
	}
	keys := []string{key}
	for _, run := range state.DataCommits {
		keys = append(keys, commitlog.Volume{Tenant: n.Tenant, Name: run.Name}.Key(commitlog.Generation{Epoch: run.Epoch, Number: run.First}))
	}
	return gc.SpareCommits(ctx, u.disks.Store, keys, 0, u.disks.Tenant(state.DomainName()).Hasher.Codec().ID())
}

// bringBack creates a volume of this host with a published state. If it fails, unsettled
// tells whether the volume may still appear in the store.
func (u *Undo) bringBack(ctx context.Context, to disk.Name, state *commitlog.State) (_ *disk.Disk, unsettled bool, _ error) {
	id := disk.NewVolumeID(u.disks)
	state.Identity = commitlog.Identity{ID: commitlog.VolumeID(id), Tenant: to.Tenant, Name: to.Volume, Isolated: state.Isolated, Cause: commitlog.CauseRestore}
	state.SealedFrom, state.RenamedFrom, state.Reserved = nil, "", false
	rec := disk.RecordOf(state, id)
	d := disk.New(u.disks, rec)
	finish, err := u.disks.BeginCreate(&rec)
	if err != nil {
		return nil, unsettled, err
	}
	ctx = cost.With(ctx, cost.Manage, d.Payer())
	d.Op.Lock()
	err = u.disks.Reserve(d)
	reserved := err == nil
	if reserved {
		err = u.open(ctx, d, state)
	}
	d.Op.Unlock()
	if err != nil && reserved {
		unsettled = d.Unsettled()
		err = errors.Join(err, u.durability.UndoCreate(ctx, err, d))
	}
	if err = errors.Join(err, finish()); err != nil {
		return nil, unsettled, err
	}
	return d, false, nil
}

// open publishes the first commit of a reserved disk, and opens the disk. Under op.
func (u *Undo) open(ctx context.Context, d *disk.Disk, state *commitlog.State) error {
	g, err := u.owners.Commit(ctx, d, *state)
	if err != nil {
		return err
	}
	rec := d.State()
	rec.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number}
	d.SetRecord(&rec)
	v, err := u.owners.Load(ctx, rec, state)
	if err != nil {
		return err
	}
	d.SetVolume(v)
	u.disks.Hooks.Ship(d)
	return u.owners.FirstPublished(d, &rec)
}

// Removed lists the removed volumes of the store that can be restored, those of one tenant
// together and by name.
func (u *Undo) Removed(ctx context.Context) ([]api.Removed, error) {
	ends, err := gc.Ends(ctx, u.disks.Store)
	if err != nil {
		return nil, err
	}
	out := []api.Removed{}
	err = u.catalog.EachRemoved(ctx, func(n disk.Name, tombstone, last *commitlog.Object) {
		s := &last.State
		r := api.Removed{
			Name: n.String(), Tenant: disk.ShowTenant(n.Tenant), ID: s.ID.String(), Size: s.Size, BlockSize: uint64(s.BlockSize), Durability: s.Durability,
			RPOms: float64(disk.RPOOf(s).Milliseconds()), Owner: tombstone.State.Owner.ID, Generation: last.Generation.String(), CreatedAt: s.CreatedAt,
			StoreBytes: int64(s.StoredBytes), Labels: map[string]string{}, RemovedAt: tombstone.State.Time,
		}
		for k, l := range s.Labels {
			r.Labels[k] = l
		}
		if s.Parent != nil {
			r.Parent = disk.ParentName(n.Tenant, s.Parent)
		}
		r.Until = ends[last.Log().Key(commitlog.Generation{Epoch: last.Generation.Epoch, Number: 1})]
		out = append(out, r)
	})
	slices.SortFunc(out, func(a, b api.Removed) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return out, err
}
