package host

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// publishSnapshots folds the snapshots that the store does not have yet, the
// oldest first, and returns all of them as the next commit will list them. Under op.
func (pub *Publisher) publishSnapshots(ctx context.Context, d *disk) ([]commitlog.Snapshot, error) {
	out := []commitlog.Snapshot{}
	for _, s := range pub.disks.snapshotsOf(d.id) {
		if err := pub.foldSnapshot(ctx, s); errors.Is(err, errs.NotFound) && s.removed() {
			continue // meanwhile
		} else if err != nil {
			return nil, err
		}
		st := s.state()
		g, _ := commitlog.ParseGeneration(st.Generation) // zero until the commit is made
		out = append(out, commitlog.Snapshot{Name: st.Snapshot, Root: st.Root, Size: st.Size, Seq: st.Folded, Generation: g, CreatedAt: st.CreatedAt})
	}
	return out, nil
}

// foldSnapshot uploads a snapshot; its record then needs no log any more.
func (pub *Publisher) foldSnapshot(ctx context.Context, s *disk) error {
	s.op.Lock()
	defer s.op.Unlock()
	v, err := s.wake(false)
	if err != nil {
		return err
	}
	st := v.State()
	if !v.Dirty() && st.RootBlocks == st.Blocks() {
		return nil
	}
	c, err := v.BeginFold()
	if err != nil {
		return err
	}
	defer v.EndFold(c)
	end := pub.Session.Begin()
	defer func() { end(context.WithoutCancel(ctx)) }()
	t := pub.disks.tenant(st.Tenant)
	res, release, err := pub.foldCut(ctx, t, c)
	if err != nil {
		return err
	}
	// Until the commit that lists the snapshot is made, nothing in the store
	// names this root: the pin for local children keeps it.
	defer release(context.WithoutCancel(ctx))
	m, err := blockmap.New(t.pages, res.Root, c.State.Blocks())
	if err != nil {
		return err
	}
	if err := pub.disks.withoutCleaning(func() error { return v.Published(c, m, nil) }); err != nil {
		return err
	}
	return pub.pins.keepChildren(ctx, res.Root, volume.ID{})
}

// rollback makes an open volume what a cut of another holds. Under op.
func (pub *Publisher) rollback(ctx context.Context, d *disk, v *volume.Volume, c *volume.Cut) error {
	d.moving.Lock()
	defer d.moving.Unlock()
	st := d.state()
	if err := pub.pins.keepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	return pub.disks.withoutCleaning(func() error { return v.Rollback(c, func(s *volume.State) { s.RolledBack = true }) })
}
