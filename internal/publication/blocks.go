package publication

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// Stored is where the store has blocks that a data commit is about to name.
type Stored struct {
	Blocks   map[uint64]pack.Ref // by index; a hole for a block of zeros
	Uploaded uint64              // bytes of packs
	// Release ends the announcement of their packs. The caller calls it when the commit
	// that names them has taken effect, or never can. It does not wait for the store.
	Release func()
}

// StoreBlocks uploads the blocks of a cut, given by index in ascending order, that the
// store does not have yet. When it returns, all of them are durable and announced
// (published-is-complete, reachable-is-kept). On an error, nothing is left to be
// released.
func (pub *Publisher) StoreBlocks(ctx context.Context, c *volume.Cut, indexes []uint64) (Stored, error) {
	t := pub.disks.Tenant(disk.DomainName(&c.State))
	end := pub.Session.Begin()
	var uploaded uint64
	for {
		res, err := flush.Store(ctx, pub.Session, flush.BlockSource(indexes, c.State.BlockSize, c.ReadAt), pub.flushOptions(t, t.Keep))
		uploaded += res.Uploaded
		drop := func(context.Context) {}
		if err == nil {
			drop, err = pub.PinReused(ctx, t, &res)
		}
		if errors.Is(err, errStale) {
			continue // the index does not name those packs any more
		}
		release := func() {
			pub.disks.BG.Go(func() {
				later := cost.Carry(pub.disks.Ctx, ctx)
				drop(later)
				end(later)
			})
		}
		if err != nil {
			release()
			return Stored{}, err
		}
		pub.Dedup.Add(res.Hits)
		return Stored{res.Blocks, uploaded, release}, nil
	}
}

// flushOptions returns how a tenant's blocks are encoded and uploaded. folded is
// flush.Options.Folded.
func (pub *Publisher) flushOptions(t *disk.Tenant, folded func(uint64, pack.Hash, []byte)) flush.Options {
	return flush.Options{
		Hasher: t.Hasher, Index: t.Index, Limits: pack.Limits{Blocks: pub.PackBlocks}, Compression: pub.Compression, Folded: folded,
	}
}
