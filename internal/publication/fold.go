package publication

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
	"golang.org/x/sync/errgroup"
)

// errStale tells that packs which the dedup index named are gone: the fold has
// to be done again without them.
var errStale = errs.New(errs.NotFound, "packs that the dedup index named are gone")

// PinReused makes sure that the packs a fold refers to without having uploaded
// them stay: announce, look, and only then may the root be published. What it
// returns drops the announcement. If packs are gone, their blocks are taken out
// of the index and the error is errStale.
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
	flagged, err := pub.openRound(ctx)
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
			if err == nil && !flagged[id] {
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

// gcPrefix is where collectors keep their rounds.
const gcPrefix = "gc/rounds/"

// openRound reads which packs the open collection round has flagged, before the
// packs are looked at: the other order fails. A round of a collector that this
// release does not know may have flagged anything, so nothing is borrowed then.
func (pub *Publisher) openRound(ctx context.Context) (map[pack.ID]bool, error) {
	infos, err := pub.disks.Store.List(ctx, gcPrefix, "", 1)
	if err != nil {
		return nil, err
	}
	if len(infos) > 0 {
		return nil, errs.New(errs.Unsupported, "a collection of a newer glide is under way in the store (%s): use that version on this host too", infos[0].Key)
	}
	return nil, nil
}

// foldProgress tells whoever waits for the fold of a cut how far it is; nil if
// nobody wants to know.
func foldProgress(ctx context.Context, c *volume.Cut) func(folded uint64) {
	report := api.Progress(ctx)
	if report == nil {
		return nil
	}
	total := dirtyBlockBytes(c)
	return func(folded uint64) { report(min(folded, total), total) }
}

// dirtyBlockBytes is the length of the blocks that a cut's overlay has data for.
func dirtyBlockBytes(c *volume.Cut) (total uint64) {
	size, next := uint64(c.State.BlockSize), uint64(0)
	_ = c.Overlay(func(start, end uint64, zero bool) error { // the function's own error
		if first, last := max(start/size, next), (end-1)/size; !zero && first <= last {
			total += (last - first + 1) * size
			next = last + 1
		}
		return nil
	})
	return total
}

// foldCut folds a cut, again if the dedup index turned out to be stale.
func (pub *Publisher) foldCut(ctx context.Context, t *disk.Tenant, c *volume.Cut) (flush.Result, func(context.Context), error) {
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

// fold uploads what a source yields and makes sure that what it borrows stays.
func (pub *Publisher) fold(ctx context.Context, t *disk.Tenant, base *blockmap.Map, edit *blockmap.Edit, src flush.Source, folded func(uint64, pack.Hash, []byte), progress func(uint64)) (flush.Result, func(context.Context), error) {
	res, err := flush.Fold(ctx, pub.Session, base, edit, src, flush.Options{
		Hasher: t.Hasher, Index: t.Index, Limits: pack.Limits{Blocks: pub.PackBlocks}, Compression: pub.Compression,
		Folded: folded, Page: pub.KeepPage, Progress: progress,
	})
	if err != nil {
		return res, nil, err
	}
	release, err := pub.PinReused(ctx, t, &res)
	return res, release, err
}

// KeepPage keeps a page of a block map that this host made: a volume that is
// read after a restart must not need the store for what the SSD still has.
func (pub *Publisher) KeepPage(hash pack.Hash, page []byte) {
	if err := pub.disks.DB.AddPage(hash, page); err != nil {
		pub.disks.Log.Warn("a page of a block map was not kept", "error", err) // it can be fetched
	}
}
