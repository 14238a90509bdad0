package host

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/pack"
)

// dedupIndex is one tenant's part of the host's dedup index; it implements
// flush.Index.
type dedupIndex struct {
	db     *meta.DB
	tenant string
}

// Block returns where a block is stored, a hole if it is not known.
func (x *dedupIndex) Block(h pack.Hash) (pack.Ref, error) { return x.db.Block(x.tenant, h) }

// AddBlocks enters blocks that are in the store.
func (x *dedupIndex) AddBlocks(refs []pack.Ref) error { return x.db.AddBlocks(x.tenant, refs) }

// ForgetBlock removes a block that was not where the index said.
func (x *dedupIndex) ForgetBlock(h pack.Hash) error { return x.db.ForgetBlock(x.tenant, h) }

// dedupHits counts blocks that were not uploaded because the store had them.
type dedupHits struct{ n atomic.Uint64 }

// errStale tells that packs which the dedup index named are gone: the fold has
// to be done again without them.
var errStale = errs.New(errs.NotFound, "packs that the dedup index named are gone")

// borrow makes sure that the packs a fold refers to without having uploaded
// them stay: announce, look, and only then may the root be published. What it
// returns drops the announcement. If packs are gone, their blocks are taken out
// of the index and the error is errStale.
func (h *Host) pinReused(ctx context.Context, t *tenant, res *flush.Result) (func(context.Context), error) {
	nothing := func(context.Context) {}
	if len(res.Reused) == 0 {
		return nothing, nil
	}
	ids := make([]pack.ID, 0, len(res.Reused))
	for id := range res.Reused {
		ids = append(ids, id)
	}
	drop, err := h.pins.PinPacks(ctx, ids)
	if err != nil {
		return nothing, err
	}
	release := func(ctx context.Context) {
		if err := drop(ctx); err != nil {
			h.cfg.Log.Warn("a pin was not dropped", "error", err)
		}
	}
	flagged, err := h.openRound(ctx)
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
			_, err = h.cfg.Store.Head(gctx, id.Key())
			if err == nil && !flagged[id] {
				return nil
			}
			if err != nil && errs.KindOf(err) != errs.NotFound {
				return err
			}
			gone.Store(true)
			for _, hash := range res.Reused[id] {
				if err := t.index.ForgetBlock(hash); err != nil {
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
func (h *Host) openRound(ctx context.Context) (map[pack.ID]bool, error) {
	infos, err := h.cfg.Store.List(ctx, gcPrefix, "", 1)
	if err != nil {
		return nil, err
	}
	if len(infos) > 0 {
		return nil, errs.New(errs.Unsupported, "a collection of a newer glide is under way in the store (%s): use that version on this host too", infos[0].Key)
	}
	return nil, nil
}
