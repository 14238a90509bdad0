package catalog

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/pack"
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
	env := cat.disks.Env(cat.disks.Tenant(s.DomainName()))
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
	var last []commitlog.Range // with a planted fault, what is written after all others
	err := commitlog.Replay(ctx, cat.disks.Store, &commitlog.Object{State: *s}, func(ranges []commitlog.Range) error {
		if err := cat.fetchBlocks(ctx, s.DomainName(), ranges); err != nil {
			return err
		}
		for _, r := range ranges {
			if r.Block != nil && fault.Is("blocks-after-bytes") {
				last = append(last, r)
			} else if err := apply(v, r); err != nil {
				return err
			}
		}
		return nil
	})
	for _, r := range last {
		err = errors.Join(err, apply(v, r))
	}
	return err
}

// apply writes one range of a data commit into a volume.
func apply(v *volume.Volume, r commitlog.Range) error {
	if r.Data == nil {
		return v.Zero(r.Off, r.Len)
	}
	return v.WriteAt(r.Data, r.Off)
}

// fetchAtOnce is how many blocks of a data commit are fetched in parallel.
const fetchAtOnce = 32

// fetchBlocks gets the blocks that a data commit names, verified, as the data of their
// ranges. A data commit has at most 32 MiB of them. The dedup index learns where they
// are, so that the fold of the volume need not upload them again.
func (cat *Catalog) fetchBlocks(ctx context.Context, domain string, ranges []commitlog.Range) error {
	t := cat.disks.Tenant(domain)
	var learned []pack.Ref
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchAtOnce)
	for i := range ranges {
		r := &ranges[i]
		if r.Block == nil {
			continue
		}
		known, err := t.Index.Block(r.Block.Hash)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if known.IsHole() {
			learned = append(learned, *r.Block)
		}
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			if r.Data, err = t.Domain.Block(gctx, r.Block, int(r.Len)); errs.KindOf(err) == errs.NotFound {
				return errs.New(errs.Corrupt, "the store has lost the pack of a block: %w", err)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return t.Index.AddBlocks(learned)
}
