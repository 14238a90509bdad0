package catalog

import (
	"context"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/volume"
)

// CutOfState returns a cut of a published state, and a function that releases it.
func (cat *Catalog) CutOfState(ctx context.Context, s *commitlog.State) (*volume.Cut, func(), error) {
	v, err := cat.openState(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	c, err := v.Cut()
	if err != nil {
		closeState(v)
		return nil, nil, err
	}
	return c, func() {
		c.Release()
		closeState(v)
	}, nil
}

// openState opens a published state for reading, without a record. Its data commits are
// replayed into log segments, which closeState frees.
func (cat *Catalog) openState(ctx context.Context, s *commitlog.State) (*volume.Volume, error) {
	st := disk.RecordOf(s, disk.NewVolumeID(cat.disks))
	st.Durability = disk.Local
	env := cat.disks.Env(cat.disks.Tenant(s.Tenant))
	env.Save = func(...*volume.State) error { return nil }
	v, err := volume.Open(env, st, false)
	if err != nil {
		return nil, err
	}
	if err := cat.Replay(ctx, v, s); err != nil {
		closeState(v)
		return nil, err
	}
	return v, nil
}

// closeState closes a volume that openState opened.
func closeState(v *volume.Volume) {
	_ = v.Close() // the replayed data need not be durable
	v.Discard()
}

// Replay writes the data commits of a published state into a volume that was opened from
// the rest of that state.
func (cat *Catalog) Replay(ctx context.Context, v *volume.Volume, s *commitlog.State) error {
	return commitlog.Replay(ctx, cat.disks.Store, &commitlog.Object{State: *s}, func(ranges []commitlog.Range) error {
		for _, r := range ranges {
			var err error
			if r.Data == nil {
				err = v.Zero(r.Off, r.Len)
			} else {
				err = v.WriteAt(r.Data, r.Off)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
