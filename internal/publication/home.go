package publication

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// PublishHome is Publish with a part of what the disk has in plain packs stored again, in the
// tenant's domain. Under op.
func (pub *Publisher) PublishHome(ctx context.Context, d *disk.Disk, part *flush.Plain, change func(*commitlog.State)) (api.Flush, error) {
	f, err := pub.publish(ctx, publication{pub: pub, d: d, cause: commitlog.CauseMove, change: change, part: part}, nil)
	return f, pub.owners.FenceIfLost(d, err)
}

// Rehome stores a part of what a disk has in plain packs again, in the tenant's domain. The
// disk is one that no commit names by its record: a snapshot, or a volume that was never
// published. A snapshot is listed anew by the next commit of its volume. Under op.
func (pub *Publisher) Rehome(ctx context.Context, d *disk.Disk, part *flush.Plain) error {
	v, err := d.Wake(false)
	if err != nil {
		return err
	}
	ctx = cost.With(ctx, cost.Flush, d.Payer())
	c, err := v.BeginFold()
	if err != nil {
		return err
	}
	defer v.EndFold(c)
	end := pub.Session.Begin()
	defer func() { end(context.WithoutCancel(ctx)) }()
	t := pub.disks.Tenant(disk.DomainName(&c.State))
	res, release, err := pub.foldHome(ctx, t, c, part, nil)
	if err != nil {
		return err
	}
	defer release(context.WithoutCancel(ctx))
	return pub.rebase(ctx, d, v, c, res.Root)
}

// Adopt puts a root under a disk that maps the same as its own, and that another disk of this
// host has since Rehome made it. It reports false if none has it any more. Under op.
func (pub *Publisher) Adopt(ctx context.Context, d *disk.Disk, root blockmap.Root) (bool, error) {
	v, err := d.Wake(false)
	if err != nil {
		return false, err
	}
	c, err := v.BeginFold()
	if err != nil {
		return false, err
	}
	defer v.EndFold(c)
	// reachable-is-kept: announced first, and kept by the other one at that time.
	if err := pub.pins.KeepNext(ctx, root); err != nil {
		return false, err
	}
	if !slices.ContainsFunc(pub.disks.All(), func(o *disk.Disk) bool { return o.State().Root == root }) {
		pub.pins.Release(ctx)
		return false, nil
	}
	return true, pub.rebase(ctx, d, v, c, root)
}

// rebase puts a root under a volume that maps the same as the base of a cut of it.
func (pub *Publisher) rebase(ctx context.Context, d *disk.Disk, v *volume.Volume, c *volume.Cut, root blockmap.Root) error {
	m, err := blockmap.New(pub.disks.Tenant(disk.DomainName(&c.State)).Pages, root, c.Base().Blocks())
	if err != nil {
		return err
	}
	d.Moving.Lock()
	defer d.Moving.Unlock()
	// reachable-is-kept: first of those who stay on the old root, then of this one.
	if err := pub.pins.KeepChildren(ctx, c.State.Root, d.ID); err != nil {
		return err
	}
	if err := pub.pins.KeepNext(ctx, root); err != nil {
		return err
	}
	err = v.Rebase(c, m, func(s *volume.State) { s.Generation = "" })
	if err == nil {
		err = pub.pins.KeepChildren(ctx, root, volume.ID{}) // if it was dropped before the record had it
	}
	pub.pins.Release(ctx)
	return err
}

// foldHome folds the changes of a source, and a part of what the cut's base has in plain
// packs.
func (pub *Publisher) foldHome(ctx context.Context, t *disk.Tenant, c *volume.Cut, part *flush.Plain, changes flush.Source) (flush.Result, func(context.Context), error) {
	part.Base, part.Size = c.Base(), int64(c.State.BlockSize)
	part.Load = func(ctx context.Context, _ uint64, ref pack.Ref) ([]byte, error) {
		return loadPlain(ctx, t, ref, int(part.Size))
	}
	for {
		edit := part.Base.Edit()
		if changes != nil {
			if err := edit.Grow(c.State.Blocks()); err != nil {
				return flush.Result{}, nil, err
			}
		}
		opts := pub.flushOptions(t, t.Keep)
		opts.Page, opts.Home = pub.KeepPage, true
		res, release, err := pub.foldWith(ctx, t, part.Base, edit, part.Source(changes), opts)
		if !errors.Is(err, errStale) {
			return res, release, err
		}
	}
}

// loadPlain reads a block, from a tier of this host if one has it. It is verified, since it
// is stored under another hash.
func loadPlain(ctx context.Context, t *disk.Tenant, ref pack.Ref, size int) ([]byte, error) {
	h, err := t.Hasher.In(ref.Pack.Domain)
	if err != nil {
		return nil, err
	}
	raw := flush.NewBlock(size)
	if t.Domain.ReadLocal(&ref.Hash, size, raw, 0) && h.Matches(ref.Hash, raw) {
		return raw, nil
	}
	b, err := t.Domain.FetchStored(ctx, &ref, size)
	if err != nil {
		return nil, err
	}
	if len(b) != size {
		return nil, errs.New(errs.Internal, "a block of %d bytes has %d", size, len(b))
	}
	copy(raw, b)
	return raw, nil
}
