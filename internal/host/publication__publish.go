package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// count makes requests in the returned context count to the returned counter too.
func count(ctx context.Context) (context.Context, *objstore.Counter) {
	c := &objstore.Counter{}
	return objstore.WithCounter(ctx, c), c
}

// requests are the counts of one operation.
func requests(c *objstore.Counter) api.Requests {
	n := c.Counts()
	return api.Requests{Put: n.Put, Get: n.Get, List: n.List, Head: n.Head, Delete: n.Delete}
}

// flush publishes the disk as it is now; cause "" is a flush for want of room.
func (h *Host) flush(ctx context.Context, d *disk, cause commitlog.Cause) (api.Flush, error) {
	d.op.Lock()
	defer d.op.Unlock()
	if cause == "" {
		cause = commitlog.CauseFlush
	}
	return h.publish(ctx, d, cause, nil)
}

// publish folds a cut of the disk, uploads it and commits it; change, if not
// nil, edits the state that is committed. Where nothing changed since the last
// commit, and change is nil, it makes no request. Under op.
func (h *Host) publish(ctx context.Context, d *disk, cause commitlog.Cause, change func(*commitlog.State)) (api.Flush, error) {
	return h.publishCut(ctx, d, cause, change, nil)
}

// publishCut is publish of the cut that begin takes; nil: the volume's BeginFold.
func (h *Host) publishCut(ctx context.Context, d *disk, cause commitlog.Cause, change func(*commitlog.State), begin func() (*volume.Cut, error)) (api.Flush, error) {
	f, err := h.tryPublish(ctx, d, cause, change, begin)
	return f, h.fenceIfLost(d, err)
}

func (h *Host) tryPublish(ctx context.Context, d *disk, cause commitlog.Cause, change func(*commitlog.State), begin func() (*volume.Cut, error)) (api.Flush, error) {
	began := h.cfg.Now()
	ctx, counter := count(ctx)
	v, err := d.wake(false)
	if err != nil {
		return api.Flush{}, err
	}
	if err := d.refuseFenced(); err != nil {
		return api.Flush{}, err
	}
	st := v.State()
	if st.Published != nil && change == nil && !v.Dirty() && !d.changed(&st) {
		return api.Flush{Generation: generation(st.Published).String(), ElapsedMs: h.since(began), Requests: requests(counter)}, nil
	}
	snaps, err := h.publishSnapshots(ctx, d)
	if err != nil {
		return api.Flush{}, err
	}
	if begin == nil {
		begin = v.BeginFold
	}
	c, err := begin()
	if err != nil {
		return api.Flush{}, err
	}
	defer v.EndFold(c)
	p := publication{h: h, d: d, v: v, cut: c, cause: cause, snapshots: snaps, change: change}
	if err := p.run(ctx); err != nil {
		return api.Flush{}, err
	}
	d.stored.Add(int64(p.res.Uploaded))
	h.dedup.n.Add(p.res.Hits)
	h.pins.release(ctx)
	return api.Flush{
		Generation: p.gen.String(), BlocksFolded: p.res.Folded, BlocksNew: p.res.New, BytesUploaded: p.res.Uploaded,
		Requests: requests(counter), ElapsedMs: h.since(began),
	}, nil
}

// changes is changed for the disk as it is now.
func (d *disk) changes() bool {
	st := d.state()
	return d.changed(&st)
}

// changed tells whether the record says something that the newest commit does not.
func (d *disk) changed(st *volume.State) bool {
	if st.RootBlocks != st.Blocks() || st.RolledBack || st.Unsaid {
		return true // it has grown, shows what was given up, or has other labels
	}
	for _, s := range d.h.snapshotsOf(st.ID) {
		if s.state().Generation == "" {
			return true
		}
	}
	return false
}

// publication is one fold and commit.
type publication struct {
	h         *Host
	d         *disk
	v         *volume.Volume
	cut       *volume.Cut
	cause     commitlog.Cause
	snapshots []commitlog.Snapshot
	change    func(*commitlog.State)

	res flush.Result
	gen commitlog.Generation
}

func (p *publication) run(ctx context.Context) error {
	h, st := p.h, &p.cut.State
	if !fault.Is("published-before-synced") {
		if err := p.cut.Sync(); err != nil {
			return err
		}
	}
	end := h.session.Begin()
	defer func() { end(context.WithoutCancel(ctx)) }()
	t := h.tenant(st.Tenant)
	res, release, err := h.foldCut(ctx, t, p.cut)
	if err != nil {
		return err
	}
	committed := false
	defer func() {
		// A commit that may yet take effect keeps what it refers to announced.
		if committed || p.d.owner == nil || !p.d.owner.Unsettled() {
			release(context.WithoutCancel(ctx))
		}
	}()
	p.res = res
	p.d.moving.Lock()
	defer p.d.moving.Unlock()
	if err := h.pins.keepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	state := h.commitState(st, p.cause)
	state.Root, state.Seq, state.Snapshots = res.Root, p.cut.Seq, p.snapshots
	if p.change != nil {
		p.change(&state)
	}
	if p.gen, err = p.d.commit(ctx, state); err != nil {
		return err
	}
	committed = true
	p.d.published()
	m, err := blockmap.New(t.pages, res.Root, st.Blocks())
	if err != nil {
		return err
	}
	if err := h.withoutCleaning(func() error {
		return p.v.Published(p.cut, m, func(s *volume.State) {
			if p.gen.Compare(generation(s.Published)) > 0 { // a data commit may have followed
				s.Published, s.RolledBack, s.Unsaid = &volume.Published{Epoch: p.gen.Epoch, Number: p.gen.Number}, false, false
			}
		})
	}); err != nil {
		return err
	}
	if s := p.d.ship.Load(); s != nil {
		s.reached(p.cut.Seq)
	}
	if st.Published == nil {
		if err := p.d.firstDone(st); err != nil {
			return err
		}
	}
	return p.nameSnapshots()
}

// nameSnapshots records in which commit the snapshots are that it was the first to list.
func (p *publication) nameSnapshots() error {
	for _, listed := range p.snapshots {
		if !listed.Generation.IsZero() {
			continue
		}
		st := &p.cut.State
		s := p.h.find(Name{st.Tenant, st.Name, listed.Name})
		if s == nil {
			continue // removed meanwhile
		}
		if err := s.update(func(r *volume.State) { r.Generation = p.gen.String() }); err != nil && errs.KindOf(err) != errs.NotFound {
			return err
		}
	}
	return nil
}
