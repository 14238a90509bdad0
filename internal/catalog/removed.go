package catalog

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// epochsAtOnce is how many first objects of one log are read at the same time.
const epochsAtOnce = 16

// LastRemoval returns the tombstone of the newest removal in a log, or nil if the volume was
// never removed, or had nothing in the store then. A tombstone of a rename is none, nor is
// one of a call that failed to create a volume. tip is the newest object of the log. A GET
// for each epoch since the removal.
func (cat *Catalog) LastRemoval(ctx context.Context, n disk.Name) (tombstone, tip *commitlog.Object, err error) {
	if tip, err = cat.newest(ctx, n, cat.readNewest); err != nil {
		return nil, nil, err
	}
	tombstone, err = cat.removalBefore(ctx, n, tip.Generation.Epoch)
	return tombstone, tip, err
}

// removalBefore returns the tombstone of the newest removal among the epochs through top.
func (cat *Catalog) removalBefore(ctx context.Context, n disk.Name, top uint64) (*commitlog.Object, error) {
	for top > 1 {
		list := make([]*commitlog.Object, min(epochsAtOnce, top-1))
		g, gctx := errgroup.WithContext(ctx)
		for i := range list {
			g.Go(func() (err error) {
				defer errs.Catch(&err)
				list[i], err = commitlog.Load(gctx, cat.disks.Store, n.Log(), commitlog.Generation{Epoch: top - uint64(i), Number: 1})
				if errors.Is(err, errs.NotFound) {
					return nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for _, o := range list {
			if isRemoval(o) {
				return o, nil
			}
		}
		top -= uint64(len(list))
	}
	return nil, nil
}

// isRemoval tells whether the first object of an epoch removed a volume that was in the
// store.
func isRemoval(first *commitlog.Object) bool {
	return isTombstone(first) && first.State.Cause != commitlog.CauseWithdraw
}

// isTombstone tells whether the first object of an epoch ended a volume, but gave it no
// other name.
func isTombstone(first *commitlog.Object) bool {
	return first != nil && first.Tombstone && first.State.RenamedTo == "" && !first.State.After.IsZero()
}

// EachRemoved calls fn, in any order and one call at a time, for every name in the store
// whose log ends in a removal, with the tombstone and the newest object before it, if that
// still has its state. Volumes that cannot be read are left out: nobody knows whether they
// were removed. The cost is one LIST per thousand keys, or per volume that has more than a
// thousand, and for each removed volume two GETs and a HEAD.
func (cat *Catalog) EachRemoved(ctx context.Context, fn func(n disk.Name, tombstone, last *commitlog.Object)) error {
	ctx = objstore.WithRetryBudget(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(TipsAtOnce)
	var mu sync.Mutex
	err := commitlog.Tenants(ctx, cat.disks.Store, func(tenant string) error {
		return commitlog.Tips(ctx, cat.disks.Store, tenant, func(log string, at commitlog.Generation) error {
			// The epoch of a tombstone has no object but its seal.
			if !at.IsZero() && (at.Number > 2 || at.Epoch == 1) {
				return nil
			}
			g.Go(func() (err error) {
				defer errs.Catch(&err)
				n := disk.Name{Tenant: tenant, Volume: log}
				tombstone, last, err := cat.removed(ctx, n, at)
				if kind := errs.KindOf(err); err != nil && (kind == errs.Unavailable || ctx.Err() != nil) {
					return err
				}
				if err == nil && last != nil {
					n.Volume = tombstone.State.Name // that of the log may be hidden
					mu.Lock()
					defer mu.Unlock()
					fn(n, tombstone, last)
				}
				return nil
			})
			return ctx.Err()
		})
	})
	if werr := g.Wait(); werr != nil {
		return werr // this error also ended the listing
	}
	return err
}

// removed reads the end of a log whose tip a listing shows at a generation, or anywhere if
// that is zero. last is nil if the log does not end in a removal, or if its state is gone.
func (cat *Catalog) removed(ctx context.Context, n disk.Name, at commitlog.Generation) (tombstone, last *commitlog.Object, err error) {
	tip, err := cat.newest(ctx, n, func(ctx context.Context, vol commitlog.Volume) (*commitlog.Object, error) {
		if at.IsZero() {
			return commitlog.Newest(ctx, cat.disks.Store, vol)
		}
		return commitlog.NewestAt(ctx, cat.disks.Store, vol, at)
	})
	if err != nil || !tip.Tombstone {
		return nil, nil, err
	}
	tombstone = tip
	if tip.Generation.Number > 1 {
		if tombstone, err = commitlog.Load(ctx, cat.disks.Store, n.Log(), commitlog.Generation{Epoch: tip.Generation.Epoch, Number: 1}); err != nil {
			return nil, nil, err
		}
	}
	if isTombstone(tombstone) && !isRemoval(tombstone) { // of what followed a removal, perhaps
		if tombstone, err = cat.removalBefore(ctx, n, tip.Generation.Epoch-1); err != nil {
			return nil, nil, err
		}
	}
	if !isRemoval(tombstone) {
		return nil, nil, nil
	}
	last, err = commitlog.Load(ctx, cat.disks.Store, n.Log(), tombstone.State.After)
	if err != nil || last.Bare() {
		return nil, nil, err
	}
	return tombstone, last, nil
}
