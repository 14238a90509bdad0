package commitlog

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// replayAhead is how many objects are fetched in parallel.
const replayAhead = 8

// Replay calls fn with the ranges of every data commit on top of an object's Root,
// the oldest first, and then with the object's own. Applied to Root, they give the
// volume. It makes one GET for each object of the runs. It checks hashes on the way,
// and the last hash at the end of each run, so fn's input is unverified until Replay
// returns nil.
func Replay(ctx context.Context, store objstore.Store, o *Object, fn func([]Range) error) error {
	r := replay{ctx: ctx, store: store, fn: fn}
	for _, run := range o.State.DataCommits {
		if err := r.run(Volume{o.State.Tenant, run.Name}, run); err != nil {
			return err
		}
	}
	if len(o.Data) == 0 {
		return nil
	}
	return r.object(o)
}

type replay struct {
	ctx   context.Context
	store objstore.Store
	fn    func([]Range) error
	prev  *Object // the previous data commit
}

func (r *replay) run(vol Volume, run DataRun) error {
	var count uint64
	for first := run.First; first <= run.Last; first += replayAhead {
		objs := make([]*Object, min(replayAhead, run.Last-first+1))
		g, ctx := errgroup.WithContext(r.ctx)
		for i := range objs {
			g.Go(func() (err error) {
				objs[i], err = get(ctx, r.store, vol, Generation{Epoch: run.Epoch, Number: first + uint64(i)})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, o := range objs {
			if len(o.Data) == 0 {
				continue // a commit without data: of a fold, or of a setting
			}
			count++
			if err := r.object(o); err != nil {
				return err
			}
		}
	}
	if r.prev == nil || count != run.Count || r.prev.Hash != run.Hash {
		return errs.New(errs.Corrupt, "the data commits of %s from %d.%d to %d are not those that the volume names", vol, run.Epoch, run.First, run.Last)
	}
	return nil
}

// object checks and applies one data commit, which names the previous one.
func (r *replay) object(o *Object) error {
	if p := r.prev; p != nil {
		runs := o.State.DataCommits
		if n := len(runs); n == 0 || runs[n-1].Hash != p.Hash || runs[n-1].Epoch != p.Generation.Epoch || runs[n-1].Last != p.Generation.Number {
			return errs.New(errs.Corrupt, "data commit %s of %s does not follow %s of %s", o.Generation, o.State.Volume(), p.Generation, p.State.Volume())
		}
	}
	ranges, err := DecodeData(o.Data)
	for i := 0; i < len(ranges) && err == nil; i++ {
		if x := &ranges[i]; x.Block != nil && x.Len != uint64(o.State.BlockSize) {
			err = errs.New(errs.Corrupt, "it names a block of %d bytes, and the volume has blocks of %d", x.Len, o.State.BlockSize)
		} else if x.Block != nil && o.Domain != 0 && !slices.Contains(o.State.Domains, x.Block.Pack.Domain) {
			err = errs.New(errs.Corrupt, "it names a block in domain %08x, and only domains %08x", x.Block.Pack.Domain, o.State.Domains)
		}
	}
	if err == nil {
		r.prev = o
		err = r.fn(ranges)
	}
	if err != nil {
		return fmt.Errorf("data commit %s of %s (%s): %w", o.Generation, o.State.Volume(), o.Log().Key(o.Generation), err)
	}
	return nil
}
