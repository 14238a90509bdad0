package publication

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/volume"
)

// Count returns a context whose requests are also counted by the returned counter.
func Count(ctx context.Context) (context.Context, *objstore.Counter) {
	c := &objstore.Counter{}
	return objstore.WithCounter(ctx, c), c
}

// Requests returns the counts of one operation.
func Requests(c *objstore.Counter) api.Requests {
	n := c.Counts()
	return api.Requests{Put: n.Put, Get: n.Get, List: n.List, Head: n.Head, Delete: n.Delete}
}

// Flush publishes the disk's current state. Cause "" means commitlog.CauseFlush.
func (pub *Publisher) Flush(ctx context.Context, d *disk.Disk, cause commitlog.Cause) (api.Flush, error) {
	d.Op.Lock()
	defer d.Op.Unlock()
	if cause == "" {
		cause = commitlog.CauseFlush
	}
	return pub.Publish(ctx, d, cause, nil)
}

// Publish folds a cut of the disk, uploads it and commits it. change, if not nil, edits
// the state that is committed. If nothing changed since the last commit and change is
// nil, Publish makes no request. Under op.
func (pub *Publisher) Publish(ctx context.Context, d *disk.Disk, cause commitlog.Cause, change func(*commitlog.State)) (api.Flush, error) {
	return pub.PublishCut(ctx, d, cause, change, nil)
}

// PublishCut is Publish for the cut that begin takes; a nil begin means the BeginFold
// of the shipper, or of the volume if there is none.
func (pub *Publisher) PublishCut(ctx context.Context, d *disk.Disk, cause commitlog.Cause, change func(*commitlog.State), begin func() (*volume.Cut, error)) (api.Flush, error) {
	f, err := pub.TryPublish(ctx, d, cause, change, begin)
	return f, pub.owners.FenceIfLost(d, err)
}

// TryPublish is PublishCut without fencing. It is for a shipper, because fencing would
// stop the shipper that calls it. Under op.
func (pub *Publisher) TryPublish(ctx context.Context, d *disk.Disk, cause commitlog.Cause, change func(*commitlog.State), begin func() (*volume.Cut, error)) (api.Flush, error) {
	return pub.publish(ctx, publication{pub: pub, d: d, cause: cause, change: change}, begin)
}

// publish makes a publication of the cut that begin takes. Under op.
func (pub *Publisher) publish(ctx context.Context, p publication, begin func() (*volume.Cut, error)) (api.Flush, error) {
	d := p.d
	began := pub.disks.Now()
	ctx, counter := Count(cost.With(ctx, cost.Flush, d.Payer()))
	v, err := d.Wake(false)
	if err != nil {
		return api.Flush{}, err
	}
	if err := d.RefuseFenced(); err != nil {
		return api.Flush{}, err
	}
	st := v.State()
	if st.Published != nil && p.change == nil && !v.Dirty() && !pub.changed(d, &st) {
		return api.Flush{Generation: disk.Generation(st.Published).String(), ElapsedMs: pub.disks.Since(began), Requests: Requests(counter)}, nil
	}
	snaps, err := pub.PublishSnapshots(ctx, d)
	if err != nil {
		return api.Flush{}, err
	}
	if begin == nil {
		begin = v.BeginFold
		if s := d.Shipper(); s != nil {
			begin = s.BeginFold
		}
	}
	c, err := begin()
	if err != nil {
		return api.Flush{}, err
	}
	defer v.EndFold(c)
	p.v, p.cut, p.snapshots = v, c, snaps
	if err := p.run(ctx); err != nil {
		return api.Flush{}, err
	}
	d.Stored.Add(int64(p.res.Uploaded))
	pub.Dedup.Add(p.res.Hits)
	pub.pins.Release(ctx)
	return api.Flush{
		Generation: p.gen.String(), BlocksFolded: p.res.Folded, BlocksNew: p.res.New, BytesUploaded: p.res.Uploaded,
		Requests: Requests(counter), ElapsedMs: pub.disks.Since(began),
	}, nil
}

// Changes reports whether the disk's record says something that the newest commit does
// not.
func (pub *Publisher) Changes(d *disk.Disk) bool {
	st := d.State()
	return pub.changed(d, &st)
}

// changed is Changes for a record that the caller has read.
func (pub *Publisher) changed(d *disk.Disk, st *volume.State) bool {
	if st.RootBlocks != st.Blocks() || st.RolledBack || st.Unsaid {
		return true // it has grown, was rolled back, or has other labels or limits
	}
	for _, s := range pub.disks.SnapshotsOf(st.ID) {
		if s.State().Generation == "" {
			return true
		}
	}
	return false
}

// Options say how a host folds.
type Options struct {
	PackBlocks  int // maximum number of blocks in a pack
	Compression pack.Compression
}

// Publisher publishes the volumes of a host. All methods may be called concurrently;
// those that say "under op" need the Op of their disk.
type Publisher struct {
	Options
	Session *flush.Session // uploads
	Dedup   atomic.Uint64  // blocks not uploaded because the store had them

	disks  *disk.Table
	pins   *pin.Pins
	owners *ownership.Owners
}

// New returns a publisher with an upload session of its own.
func New(o Options, t *disk.Table, p *pin.Pins, ow *ownership.Owners) *Publisher {
	return &Publisher{Options: o, Session: flush.NewSession(t.Store, p, t.Random64), disks: t, pins: p, owners: ow}
}

// publication is one fold and its commit.
type publication struct {
	pub       *Publisher
	d         *disk.Disk
	v         *volume.Volume
	cut       *volume.Cut
	cause     commitlog.Cause
	snapshots []commitlog.Snapshot
	change    func(*commitlog.State)
	part      *flush.Plain // what is stored again though it did not change; nil: nothing

	res flush.Result
	gen commitlog.Generation
}

func (p *publication) run(ctx context.Context) error {
	h, st := p.pub, &p.cut.State
	if !fault.Is("published-before-synced") {
		if err := p.cut.Sync(); err != nil {
			return err
		}
	}
	end, committed := h.Session.Begin(), false
	release := func(context.Context) {}
	defer func() {
		// If the commit may still take effect, the pins of the packs that it refers to
		// stay.
		if committed || !p.d.Unsettled() {
			release(context.WithoutCancel(ctx))
			end(context.WithoutCancel(ctx))
		}
	}()
	t := h.disks.Tenant(disk.DomainName(st))
	res, drop, err := h.foldCut(ctx, t, p.cut, p.part)
	if err != nil {
		return err
	}
	release = drop
	if p.res = res; fault.Is("pins-dropped-before-the-commit") {
		drop(ctx)
		end(ctx)
	}
	p.d.Moving.Lock()
	defer p.d.Moving.Unlock()
	if err := h.pins.KeepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	state := h.disks.CommitState(st, p.cause)
	state.Root, state.Seq, state.Snapshots = res.Root, p.cut.Seq, p.snapshots
	if p.change != nil {
		p.change(&state)
	}
	if p.gen, err = p.pub.owners.Commit(ctx, p.d, state); err != nil {
		return err
	}
	committed = true
	p.d.NotePublished()
	m, err := blockmap.New(t.Pages, res.Root, st.Blocks())
	if err != nil {
		return err
	}
	if err := h.disks.WithoutCleaning(func() error {
		return p.v.Published(p.cut, m, func(s *volume.State) {
			if p.gen.Compare(disk.Generation(s.Published)) > 0 { // a data commit may have followed
				s.Published, s.RolledBack, s.Unsaid, s.ExpiredAt = &volume.Published{Epoch: p.gen.Epoch, Number: p.gen.Number}, false, false, time.Time{}
			}
		})
	}); err != nil {
		return err
	}
	if s := p.d.Shipper(); s != nil {
		s.Reached(p.cut.Seq)
	}
	if st.Published == nil {
		if err := p.pub.owners.FirstPublished(p.d, st); err != nil {
			return err
		}
	}
	return p.nameSnapshots()
}

// nameSnapshots records the generation of this commit in the snapshots that it was the
// first to list.
func (p *publication) nameSnapshots() error {
	for _, listed := range p.snapshots {
		if !listed.Generation.IsZero() {
			continue
		}
		st := &p.cut.State
		s := p.pub.disks.Find(disk.Name{Tenant: st.Tenant, Volume: st.Name, Snapshot: listed.Name})
		if s == nil {
			continue // removed meanwhile
		}
		if err := s.Update(func(r *volume.State) { r.Generation = p.gen.String() }); err != nil && errs.KindOf(err) != errs.NotFound {
			return err
		}
	}
	return nil
}
