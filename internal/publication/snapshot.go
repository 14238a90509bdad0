package publication

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// PublishSnapshots folds the snapshots that the store does not have yet, the oldest
// first. It returns all snapshots in the form in which the next commit lists them. Under
// op.
func (pub *Publisher) PublishSnapshots(ctx context.Context, d *disk.Disk) ([]commitlog.Snapshot, error) {
	out := []commitlog.Snapshot{}
	for _, s := range pub.disks.SnapshotsOf(d.ID) {
		if err := pub.foldSnapshot(ctx, d, s); errors.Is(err, errs.NotFound) && s.Removed() {
			continue // removed meanwhile
		} else if err != nil {
			return nil, err
		}
		st := s.State()
		g, _ := commitlog.ParseGeneration(st.Generation) // zero until the commit is made
		out = append(out, commitlog.Snapshot{Name: st.Snapshot, Root: st.Root, Size: st.Size, Seq: st.Folded, Generation: g, CreatedAt: st.CreatedAt, ExpiresAt: st.ExpiresAt})
	}
	return out, nil
}

// foldSnapshot uploads a snapshot of d. After that its record no longer needs the log.
func (pub *Publisher) foldSnapshot(ctx context.Context, d, s *disk.Disk) error {
	s.Op.Lock()
	defer s.Op.Unlock()
	v, err := s.Wake(false)
	if err != nil {
		return err
	}
	st := v.State()
	if !v.Dirty() && st.RootBlocks == st.Blocks() {
		return nil
	}
	if d.State().Root != st.Root {
		// The volume was rolled back since, so that its next commit names neither this root
		// nor its children's. reachable-is-kept.
		s.Moving.Lock()
		defer s.Moving.Unlock()
		if err := pub.pins.KeepChildren(ctx, st.Root, st.ID); err != nil {
			return err
		}
	}
	c, err := v.BeginFold()
	if err != nil {
		return err
	}
	defer v.EndFold(c)
	end := pub.Session.Begin()
	defer func() { end(context.WithoutCancel(ctx)) }()
	t := pub.disks.Tenant(disk.DomainName(&st))
	res, release, err := pub.foldCut(ctx, t, c, nil)
	if err != nil {
		return err
	}
	// Until a commit lists the snapshot, nothing in the store names this root. The pin
	// for local children keeps it.
	defer release(context.WithoutCancel(ctx))
	m, err := blockmap.New(t.Pages, res.Root, c.State.Blocks())
	if err != nil {
		return err
	}
	if err := pub.disks.WithoutCleaning(func() error { return v.Published(c, m, nil) }); err != nil {
		return err
	}
	return pub.pins.KeepChildren(ctx, res.Root, volume.ID{})
}

// Rollback replaces the content of an open volume by a cut of another. Before, it calls keep,
// which can make a snapshot. Until the next commit lists that snapshot, the newest one names
// its root. Under op.
func (pub *Publisher) Rollback(ctx context.Context, d *disk.Disk, v *volume.Volume, c *volume.Cut, keep func() error) error {
	d.Moving.Lock()
	defer d.Moving.Unlock()
	if st := d.State(); st.Published != nil { // else no commit of it names the root
		if err := pub.pins.KeepChildren(ctx, st.Root, st.ID); err != nil {
			return err
		}
	}
	if err := keep(); err != nil {
		return err
	}
	return pub.disks.WithoutCleaning(func() error { return v.Rollback(c, func(s *volume.State) { s.RolledBack = true }) })
}
