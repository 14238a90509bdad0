package publication

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
	"golang.org/x/sync/errgroup"
)

// errStale means that packs named by the dedup index are gone: the fold must run again
// without them.
var errStale = errs.New(errs.NotFound, "packs named by the dedup index are gone")

// PinReused makes sure that the packs which a fold refers to but did not upload stay in
// the store: announce, check, and only then may the root be published. The returned
// function drops the announcement. If packs are gone, PinReused removes their blocks from
// the index and returns errStale.
func (pub *Publisher) PinReused(ctx context.Context, t *disk.Tenant, res *flush.Result) (func(context.Context), error) {
	nothing := func(context.Context) {}
	if len(res.Reused) == 0 {
		return nothing, nil
	}
	ids := make([]pack.ID, 0, len(res.Reused))
	for id := range res.Reused {
		ids = append(ids, id)
	}
	drop, err := pub.pins.PinPacks(ctx, ids)
	if err != nil {
		return nothing, err
	}
	release := func(ctx context.Context) {
		if err := drop(ctx); err != nil {
			pub.disks.Log.Warn("a pin was not dropped", "error", err)
		}
	}
	condemned, err := gc.Look(ctx, pub.disks.Store, domains(ids)...)
	if err != nil {
		release(ctx)
		return nothing, err
	}
	var gone atomic.Bool
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, id := range ids {
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			_, err = pub.disks.Store.Head(gctx, id.Key())
			if err == nil && (!condemned.Pack(id) || fault.Is("flags-not-looked-at")) {
				return nil
			}
			if err != nil && errs.KindOf(err) != errs.NotFound {
				return err
			}
			gone.Store(true)
			for _, hash := range res.Reused[id] {
				if err := t.Index.ForgetBlock(hash); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	if err == nil && gone.Load() {
		err = errStale
	}
	if err != nil {
		release(ctx)
		return nothing, err
	}
	return release, nil
}

// domains returns the domains of packs, each once.
func domains(ids []pack.ID) (all []uint32) {
	for _, id := range ids {
		if !slices.Contains(all, id.Domain) {
			all = append(all, id.Domain)
		}
	}
	return all
}

// foldProgress returns a function that reports the progress of the fold of a cut, or nil
// if no caller asked for it.
func foldProgress(ctx context.Context, c *volume.Cut) func(folded uint64) {
	report := api.Progress(ctx)
	if report == nil {
		return nil
	}
	total := dirtyBlockBytes(c)
	return func(folded uint64) { report(min(folded, total), total) }
}

// dirtyBlockBytes returns the total size of the blocks for which a cut's overlay has
// data.
func dirtyBlockBytes(c *volume.Cut) (total uint64) {
	size, next := uint64(c.State.BlockSize), uint64(0)
	_ = c.Overlay(func(start, end uint64, zero bool) error { // the callback returns no error
		if first, last := max(start/size, next), (end-1)/size; !zero && first <= last {
			total += (last - first + 1) * size
			next = last + 1
		}
		return nil
	})
	return total
}

// foldCut folds a cut, and a part of what its base has in plain packs, if it is not nil. It
// repeats the fold if the dedup index was stale.
func (pub *Publisher) foldCut(ctx context.Context, t *disk.Tenant, c *volume.Cut, part *flush.Plain) (flush.Result, func(context.Context), error) {
	if part != nil {
		return pub.foldHome(ctx, t, c, part, flush.CutSource(c))
	}
	for {
		edit := c.Base().Edit()
		if err := edit.Grow(c.State.Blocks()); err != nil {
			return flush.Result{}, nil, err
		}
		res, release, err := pub.fold(ctx, t, c.Base(), edit, flush.CutSource(c), t.Keep, foldProgress(ctx, c))
		if !errors.Is(err, errStale) {
			return res, release, err
		}
	}
}

// fold uploads the changes of a source and pins the packs that it reuses.
func (pub *Publisher) fold(ctx context.Context, t *disk.Tenant, base *blockmap.Map, edit *blockmap.Edit, src flush.Source, folded func(uint64, pack.Hash, []byte), progress func(uint64)) (flush.Result, func(context.Context), error) {
	opts := pub.flushOptions(t, folded)
	opts.Page, opts.Progress = pub.KeepPage, progress
	return pub.foldWith(ctx, t, base, edit, src, opts)
}

func (pub *Publisher) foldWith(ctx context.Context, t *disk.Tenant, base *blockmap.Map, edit *blockmap.Edit, src flush.Source, opts flush.Options) (flush.Result, func(context.Context), error) {
	res, err := flush.Fold(ctx, pub.Session, base, edit, src, opts)
	if err != nil {
		return res, nil, err
	}
	release, err := pub.PinReused(ctx, t, &res)
	return res, release, err
}

// KeepPage saves a block map page that this host made, so that after a restart a volume
// can be read without the store as long as the SSD has its blocks.
func (pub *Publisher) KeepPage(hash pack.Hash, page []byte) {
	if err := pub.disks.DB.AddPage(hash, page); err != nil {
		pub.disks.Log.Warn("a block map page was not saved", "error", err) // it can be fetched
	}
}
