package host

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// requests are the counts of one operation.
func requests(c *objstore.Counter) api.Requests {
	n := c.Counts()
	return api.Requests{Put: n.Put, Get: n.Get, List: n.List, Head: n.Head, Delete: n.Delete}
}

// Flush publishes what was acknowledged before the call.
func (h *Host) Flush(ctx context.Context, name string) (api.Flush, error) {
	d, err := h.local(name, false)
	if err != nil {
		return api.Flush{}, err
	}
	if s := d.ship.Load(); s != nil && !d.changes() {
		if f, err := s.barrier(ctx); err != errRelaxed {
			return f, err
		}
	}
	return h.flush(ctx, d, commitlog.CauseFlush)
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
	if err := h.cleaner.withoutCleaning(func() error {
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

// foldCut folds a cut, again if the dedup index turned out to be stale.
func (h *Host) foldCut(ctx context.Context, t *tenant, c *volume.Cut) (flush.Result, func(context.Context), error) {
	for {
		edit := c.Base().Edit()
		if err := edit.Grow(c.State.Blocks()); err != nil {
			return flush.Result{}, nil, err
		}
		res, release, err := h.fold(ctx, t, c.Base(), edit, flush.CutSource(c), t.keep, foldProgress(ctx, c))
		if !errors.Is(err, errStale) {
			return res, release, err
		}
	}
}

// fold uploads what a source yields and makes sure that what it borrows stays.
func (h *Host) fold(ctx context.Context, t *tenant, base *blockmap.Map, edit *blockmap.Edit, src flush.Source, folded func(uint64, pack.Hash, []byte), progress func(uint64)) (flush.Result, func(context.Context), error) {
	res, err := flush.Fold(ctx, h.session, base, edit, src, flush.Options{
		Hasher: t.hasher, Index: t.index, Limits: pack.Limits{Blocks: h.cfg.PackBlocks}, Compression: h.cfg.Compression,
		Folded: folded, Page: h.keepPage, Progress: progress,
	})
	if err != nil {
		return res, nil, err
	}
	release, err := h.pinReused(ctx, t, &res)
	return res, release, err
}

// keepPage keeps a page of a block map that this host made: a volume that is
// read after a restart must not need the store for what the SSD still has.
func (h *Host) keepPage(hash pack.Hash, page []byte) {
	if err := h.db.AddPage(hash, page); err != nil {
		h.cfg.Log.Warn("a page of a block map was not kept", "error", err) // it can be fetched
	}
}

// keep puts a folded block into the SSD tier.
func (t *tenant) keep(_ uint64, hash pack.Hash, raw []byte) { t.domain.Keep(hash, raw) }

// commitState is the state of a disk as its commits carry it, but for what a
// fold decides.
func (h *Host) commitState(st *volume.State, cause commitlog.Cause) commitlog.State {
	s := commitlog.State{
		Identity: commitlog.Identity{ID: commitlog.VolumeID(st.ID), Tenant: st.Tenant, Name: st.Name, Cause: cause},
		Size:     st.Size, BlockSize: st.BlockSize, Durability: st.Durability, RPOMillis: st.RPO.Milliseconds(),
		Labels: st.Labels, Limits: commitlog.Limits(st.Limits), CreatedAt: st.CreatedAt,
		Root: st.Root, Seq: st.Folded, ImportDigest: st.ImportDigest,
	}
	if st.Parent != nil {
		g, _ := commitlog.ParseGeneration(st.Parent.Generation) // zero if it was never published
		s.Parent = &commitlog.Parent{Name: inTenant(st.Parent.Name), ID: commitlog.VolumeID(st.Parent.ID), Generation: g}
	}
	return s
}

func generation(p *volume.Published) commitlog.Generation {
	if p == nil {
		return commitlog.Generation{}
	}
	return commitlog.Generation{Epoch: p.Epoch, Number: p.Number}
}

// newOwner is a hold on the disk's log that claims nothing yet.
func (h *Host) newOwner(st *volume.State) (*commitlog.Owner, error) {
	self := h.self()
	var err error
	if self.Process, err = h.process(); err != nil {
		return nil, err
	}
	return commitlog.New(commitlog.Options{
		Store: h.cfg.Store, Volume: commitlog.Volume{Tenant: st.Tenant, Name: st.Name}, Host: self, Rand: h.cfg.Rand, Now: h.cfg.Now, RollAt: h.cfg.RollAt,
		Uptime: h.cfg.Uptime, Pause: pause,
	})
}

func (h *Host) self() commitlog.Host {
	host := commitlog.Host{ID: h.id}
	if h.cfg.Advertise != "" {
		host.Addresses = []string{h.cfg.Advertise}
	}
	return host
}

// commit publishes a state, opening the log or an epoch of this process first
// where that has not been done. While another host has its time to take the
// volume over, it waits. Under op.
func (d *disk) commit(ctx context.Context, state commitlog.State) (commitlog.Generation, error) {
	g, err := d.tryCommit(ctx, state)
	for errors.Is(err, commitlog.ErrYielding) && pause(ctx, yieldPoll) == nil {
		g, err = d.tryCommit(ctx, state)
	}
	if err != nil && d.ended() {
		d.setOwner(nil)
		g, err = d.tryCommit(ctx, state)
	}
	return g, nameTaken(err, d.String(), state.Cause)
}

// nameTaken says what can be done about a name that another volume has in the store.
func nameTaken(err error, name string, cause commitlog.Cause) error {
	if errs.KindOf(err) != errs.Exists || err == nil {
		return err
	}
	switch cause {
	case commitlog.CauseCreate, commitlog.CauseImport, commitlog.CauseFork, commitlog.CauseRename:
		return errs.New(errs.Exists, "%w: choose another", err)
	}
	return errs.New(errs.Exists, "%w: give this one another with glide rename %s NEW", err, name)
}

// ended tells whether the owner's claim ended by what an earlier verb sent and
// gave up on: a release, or a removal, that took effect all the same. The volume
// is still this host's, and a new claim begins.
func (d *disk) ended() bool {
	return d.owner != nil && d.owner.Err() != nil && errs.KindOf(d.owner.Err()) == errs.Invalid
}

func (d *disk) tryCommit(ctx context.Context, state commitlog.State) (commitlog.Generation, error) {
	st := d.state()
	if err := d.own(&st); err != nil {
		return commitlog.Generation{}, err
	}
	if d.owner.Generation().IsZero() {
		if st.Published == nil {
			return d.openFirst(ctx, &st, state)
		}
		if _, err := d.claimOwn(ctx, &st); errors.Is(err, errRemovedHere) {
			return d.owner.OpenFirst(ctx, state) // it was not removed after all
		} else if err != nil {
			return commitlog.Generation{}, err
		}
	}
	return d.owner.Commit(ctx, state)
}

// own gives the disk an owner, which need not have claimed anything.
func (d *disk) own(st *volume.State) error {
	if d.owner == nil {
		o, err := d.h.newOwner(st)
		if err != nil {
			return err
		}
		d.setOwner(o)
	}
	return nil
}

// firstFact names the fact that tells which volume is being published for the
// first time under a name. While it is there, the volume may be, or appear, in
// the store, whatever its record says, or even if it has none.
func firstFact(st *volume.State) string { return "first/" + st.Tenant + "/" + st.Name }

// openFirst publishes a volume for the first time. What this host began to
// publish under the name before, and gave up, is withdrawn. Under op.
func (d *disk) openFirst(ctx context.Context, st *volume.State, state commitlog.State) (commitlog.Generation, error) {
	h := d.h
	b, err := h.db.Fact(firstFact(st))
	if err != nil {
		return commitlog.Generation{}, err
	}
	var before volume.ID
	if copy(before[:], b) == len(before) && before != d.id && h.disk(before) == nil {
		o, err := h.newOwner(st)
		if err == nil {
			err = o.Withdraw(ctx, commitlog.VolumeID(before))
		}
		if err != nil {
			return commitlog.Generation{}, err
		}
	}
	if before != d.id {
		h.firstPublishMu.Lock()
		err := h.db.SetFact(firstFact(st), d.id[:])
		h.firstPublishMu.Unlock()
		if err != nil {
			return commitlog.Generation{}, err
		}
		g, err := d.owner.OpenNew(ctx, state)
		h.reportTwin(err)
		return g, err
	}
	return d.owner.OpenFirst(ctx, state)
}

// beganFirst tells whether the volume's first publication may have reached the store.
func (d *disk) beganFirst(st *volume.State) (bool, error) {
	b, err := d.h.db.Fact(firstFact(st))
	return len(b) == len(d.id) && volume.ID(b) == d.id, err
}

// firstDone ends what openFirst began, once the volume's record says where the
// volume is, or the volume is gone.
func (d *disk) firstDone(st *volume.State) error {
	if began, err := d.beganFirst(st); err != nil || !began {
		return err
	}
	return d.h.db.SetFact(firstFact(st), nil)
}

// withdraw makes sure that a volume which was never known to be published is
// not, and will not be, in the store under the record's name. It makes no
// request if nothing was sent. Under op.
func (d *disk) withdraw(ctx context.Context, st *volume.State) error {
	began, err := d.beganFirst(st)
	if err != nil || !began || fault.Is("first-publication-not-withdrawn") {
		return err
	}
	if err := d.own(st); err != nil {
		return err
	}
	if err := d.owner.Withdraw(ctx, commitlog.VolumeID(d.id)); err != nil {
		return err
	}
	d.setOwner(nil)
	return d.firstDone(st)
}

// claimOwn begins this process's epoch of a volume that is this host's; finding
// it somebody else's is being fenced.
func (d *disk) claimOwn(ctx context.Context, st *volume.State) (*commitlog.Object, error) {
	first, err := d.owner.Claim(ctx, commitlog.CauseOpen, func(tip *commitlog.Object) error {
		if tip.State.Owner.ID != d.h.id || tip.State.ID != commitlog.VolumeID(st.ID) || d.h.isTwins(tip.State.Owner) {
			return takenBy(d, tip)
		}
		if had := generation(st.Published); tip.Generation.Compare(had) < 0 { // no-silent-rollback
			return errs.New(errs.Unsupported, "the store shows generation %s of volume %q, and this host published %s: it lost what was written, or its lists are not complete",
				tip.Generation, d, had)
		}
		if v := d.open(); v != nil && tip.State.Through() > v.Last() {
			// no-silent-rollback: what this host syncs before it publishes is not here.
			return errs.New(errs.Fenced, "the store has a newer state of volume %q (generation %s, write %d) than the disk of this host (write %d): was the data directory restored from a copy?", d, tip.Generation, tip.State.Through(), v.Last())
		}
		if tip.State.Root != st.Root { // reachable-is-kept
			return d.h.pins.keepBehind(ctx, st.Root)
		}
		return nil
	})
	if err != nil && errs.KindOf(err) == errs.NotFound {
		return nil, d.whyRemoved(ctx, st, err)
	}
	return first, err
}

// errRemovedHere is a volume of this host that this host removed from the store,
// and still has: it lost its power, or the answer, in between.
var errRemovedHere = errs.New(errs.NotFound, "the volume was removed from the store by this host")

// halfRenamed is a volume of this host that goes by another name in the store.
type halfRenamed struct {
	error
	to string
}

func (e halfRenamed) Unwrap() error { return e.error }

// whyRemoved tells what became of a volume of this host whose log in the store
// says that it was removed.
func (d *disk) whyRemoved(ctx context.Context, st *volume.State, err error) error {
	tip, findErr := commitlog.Newest(ctx, d.h.cfg.Store, commitlog.Volume{Tenant: st.Tenant, Name: st.Name})
	switch {
	case findErr != nil:
		return errors.Join(err, findErr)
	case !tip.Tombstone || tip.State.ID != commitlog.VolumeID(d.id) || tip.State.Owner.ID != d.h.id:
		return takenBy(d, tip)
	case tip.State.RenamedTo != "":
		to := tip.State.RenamedTo
		whole := display(st.Tenant, to, "")
		return halfRenamed{errs.New(errs.Busy, "the renaming of volume %q to %q was not finished: glide rename %s %s again", d, whole, d, whole), to}
	}
	return errRemovedHere
}

// removedElsewhere is a volume that another host removed from the store.
type removedElsewhere struct{ error }

func (e removedElsewhere) Unwrap() error { return e.error }

func takenBy(d *disk, tip *commitlog.Object) error {
	if tip.State.Owner.ID == d.h.id && !tip.Tombstone {
		return errs.New(errs.Fenced, "volume %q was taken over by %w at %s", d, commitlog.ErrTwin, tip.Generation)
	}
	if tip.Tombstone {
		return removedElsewhere{errs.New(errs.Fenced, "volume %q was removed from the store by host %s at %s", d, tip.State.Owner.ID, tip.Generation)}
	}
	return errs.New(errs.Fenced, "volume %q was taken over by host %s at %s", d, tip.State.Owner.ID, tip.Generation)
}

func (d *disk) refuseFenced() error {
	if st := d.state(); st.Mode == volume.Fenced {
		return fencedError(&st)
	}
	return nil
}
