package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/volume"
)

// Sleep makes a volume durable and drops it from memory; portable hands it back
// to the store too, so that any host can wake it without asking.
func (h *Host) Sleep(ctx context.Context, name string, portable, force bool) (api.Volume, error) {
	d, err := h.local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.refuseIfConnected("put it to sleep with --force", force); err != nil {
		return api.Volume{}, err
	}
	if err := d.refuseFenced(); err != nil {
		return api.Volume{}, err
	}
	if portable {
		if err := h.handOver(ctx, d); err != nil {
			return api.Volume{}, err
		}
		return h.view(d), nil
	}
	defer d.blockGuests()()
	if s := d.ship.Load(); s != nil {
		// Asleep, the volume sends nothing: what it promised must be kept first.
		if err := s.barrierUnderOp(ctx); err != nil {
			return api.Volume{}, err
		}
	}
	if err := d.sleep(false); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// sleep closes an open disk and records that it sleeps. Under op.
func (d *disk) sleep(released bool) error {
	v := d.open()
	if v == nil {
		return nil
	}
	a := v.Account()
	if err := v.Change(func(s *volume.State) {
		s.Mode, s.Released, s.DirtyAtSleep, s.OldestAtSleep = volume.Asleep, released, a.Dirty, a.Oldest
	}); err != nil {
		return err
	}
	return d.shut()
}

// handOver publishes a disk, releases it in the store, and puts it to sleep.
// Guests are cut off before the last flush, so that nothing they are told is
// durable is missing from it. Under op.
func (h *Host) handOver(ctx context.Context, d *disk) error {
	if _, err := h.publish(ctx, d, commitlog.CauseFlush, nil); err != nil {
		return err
	}
	defer d.blockGuests()()
	d.stopShipping(errHeld)
	defer d.startShipping() // unless it sleeps then
	if fault.Is("released-before-flushed") {
		h.cfg.Log.Warn("a fault is planted")
	} else if _, err := h.publish(ctx, d, commitlog.CauseRelease, nil); err != nil {
		return err
	}
	if d.owner == nil || d.owner.Generation().IsZero() {
		// Published by an earlier process: an epoch of this one is what can be released.
		if _, err := h.publish(ctx, d, commitlog.CauseRelease, func(*commitlog.State) {}); err != nil {
			return err
		}
	}
	return h.release(ctx, d)
}

// release puts a published disk to sleep and hands it to the store. Under op.
//
// no-silent-rollback: a release may take effect long after this host stopped
// waiting for it, and then any host wakes the volume without asking. So the
// record says first that the volume has to be claimed again before it is used.
func (h *Host) release(ctx context.Context, d *disk) error {
	d.moving.Lock()
	defer d.moving.Unlock()
	st := d.state()
	if err := h.pins.keepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	if ctx.Err() != nil && !fault.Is("late-release-counts") {
		return errs.New(errs.Unavailable, "volume %q is not released: %w", d, ctx.Err())
	}
	if err := d.sleep(!fault.Is("released-not-recorded")); err != nil {
		return err
	}
	err := d.owner.Release(ctx)
	switch {
	case err == nil:
		d.setOwner(nil)
		return nil
	case errs.KindOf(err) == errs.Fenced:
		return errors.Join(err, d.fenceClosed(err))
	case !d.owner.Unsettled(): // nothing was sent
		return errors.Join(err, d.update(func(s *volume.State) { s.Released = false }))
	}
	return errs.New(errs.KindOf(err), "volume %q sleeps, and may be released, now or later; waking it claims it again: %w", d, err)
}

// reclaimWithin is how long the store may take when a volume that was released is
// woken on the host that released it.
const reclaimWithin = 10 * time.Second

// reclaim makes a released disk this host's again. If another host claimed it
// meanwhile it is fenced here, with nothing to rescue. Under op.
func (d *disk) reclaim(force bool) error {
	st := d.state()
	if !st.Released || st.Mode == volume.Fenced {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.h.ctx, reclaimWithin)
	defer cancel()
	if d.owner != nil && !d.owner.Generation().IsZero() {
		d.setOwner(nil) // whose release may still be under way; one of an earlier try goes on, with its time to yield
	}
	if err := d.own(&st); err != nil {
		return err
	}
	first, err := d.claimOwn(ctx, &st)
	switch {
	case err == nil:
		return d.update(func(s *volume.State) {
			s.Released, s.Published = false, &volume.Published{Epoch: first.Generation.Epoch, Number: first.Generation.Number}
		})
	case errs.KindOf(err) == errs.Fenced:
		return errors.Join(err, d.fenceClosed(err))
	case force:
		d.h.event(eventVolume, d.String(), "woken by force, though it was released: another host may have it too")
		return d.update(func(s *volume.State) { s.Released = false })
	}
	return errs.New(errs.KindOf(err), "volume %q was released to the store, which has to say that no other host woke it: %w", d, err)
}

// fenceClosed records that a disk that is closed, and holds nothing that the store
// lacks, is another host's now. Under op.
func (d *disk) fenceClosed(why error) error {
	d.setOwner(nil)
	err := d.update(func(s *volume.State) { s.Mode, s.Reason, s.Segments = volume.Fenced, why.Error(), nil })
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.unclaim()
	d.mu.Unlock()
	d.h.event(eventVolume, d.String(), "fenced: %v; nothing was left to be published", why)
	return nil
}

// turnAway cuts the guests of a disk off and lets none connect until what it
// returns is called: one that came in between would be told of durable writes
// that the next owner does not have.
func (d *disk) blockGuests() (open func()) {
	d.mu.Lock()
	d.guestsBlocked = true
	v := d.v
	d.mu.Unlock()
	d.disconnect()
	if v != nil && !fault.Is("writes-not-drained") {
		v.Drain() // they were acknowledged, or will be
	}
	return func() {
		d.mu.Lock()
		d.guestsBlocked = false
		d.mu.Unlock()
	}
}

// Wake opens a volume: one that sleeps on this host, or one that is not on this
// host, which is claimed from whoever holds it.
func (h *Host) Wake(ctx context.Context, name string, force bool, expect string) (api.Volume, error) {
	n, err := ParseName(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	var want commitlog.Generation
	if expect != "" {
		if want, err = commitlog.ParseGeneration(expect); err != nil {
			return api.Volume{}, err
		}
	}
	d := h.find(n)
	if d != nil && d.state().Released {
		d.op.Lock()
		err := d.reclaim(force)
		d.op.Unlock()
		if err != nil && d.state().Mode != volume.Fenced {
			return api.Volume{}, err
		}
	}
	switch {
	case d == nil:
		if err := h.mayGrow(); err != nil {
			return api.Volume{}, err
		}
	case d.state().Mode != volume.Fenced:
		return h.wakeLocal(ctx, d, force, want)
	default:
		if err := h.clearFenced(d, force); err != nil {
			return api.Volume{}, err
		}
	}
	if d, err = h.takeOver(ctx, n, force, want); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// clearFenced takes a fenced volume off this host, so that it can be claimed
// like any other; what it had not published is in its rescue volume.
func (h *Host) clearFenced(d *disk, force bool) error {
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.refuseIfConnected("wake it with --force", force); err != nil {
		return err
	}
	if st := d.state(); st.Mode == volume.Fenced && len(st.Segments) > 0 {
		return fencedError(&st)
	}
	return h.eraseAll(d)
}

// wakeLocal wakes a volume of this host; no-silent-rollback.
func (h *Host) wakeLocal(ctx context.Context, d *disk, force bool, want commitlog.Generation) (api.Volume, error) {
	d.op.Lock()
	defer d.op.Unlock()
	st := d.state()
	if have := generation(st.Published); have.Compare(want) < 0 {
		return api.Volume{}, older(d.String(), have, want)
	}
	slept := d.open() == nil
	if _, err := d.wake(force); err != nil {
		return api.Volume{}, err
	}
	if slept {
		h.checkSealSoon(d)
	}
	return h.view(d), nil
}

func older(name string, have, want commitlog.Generation) error {
	if have.IsZero() {
		return errs.New(errs.WouldLose, "volume %q was never published, and generation %s is expected: what was written since is not here", name, want)
	}
	return errs.New(errs.WouldLose, "the newest state of %q is generation %s, and %s is expected: what was written between them is missing", name, have, want)
}

// takeOver claims a volume that is not on this host.
func (h *Host) takeOver(ctx context.Context, n Name, force bool, want commitlog.Generation) (*disk, error) {
	tip, err := h.listed(ctx, n)
	if err != nil {
		return nil, err
	}
	cause := commitlog.CauseWake
	if owner := tip.State.Owner; !tip.Released && owner.ID != "" && owner.ID != h.id {
		if _, err := h.askOwner(ctx, n, tip, false); err != nil {
			// Meanwhile it may have been removed, or its host have let go of it.
			now, terr := h.listed(ctx, n)
			if terr == nil {
				tip = now
			} else if errs.KindOf(terr) == errs.NotFound {
				return nil, terr
			}
			if !tip.Released {
				if !force {
					return nil, h.wouldLose(n, tip, err)
				}
				cause = commitlog.CauseTakeover
			}
		}
	}
	if tip.Generation.Compare(want) < 0 {
		if tip, err = h.listed(ctx, n); err != nil {
			return nil, err
		}
		if tip.Generation.Compare(want) < 0 {
			return nil, older(n.String(), tip.Generation, want)
		}
	}
	if err := h.evict(n, tip, force); err != nil {
		return nil, err
	}
	rec := recordOf(&tip.State, volume.ID(tip.State.ID))
	d := newDisk(h, rec)
	d.op.Lock()
	defer d.op.Unlock()
	if err := h.reserve(d); err != nil {
		return nil, err
	}
	if err := h.claim(ctx, d, cause, want); err != nil {
		h.unreserve(d)
		return nil, err
	}
	return d, nil
}

// claimWithin is how long a claim may take: a path to the store on which a request
// takes a second wins well before.
const claimWithin = 90 * time.Second

// claim opens an epoch of this host for a disk that the store has, and brings
// it up. Under op.
func (h *Host) claim(ctx context.Context, d *disk, cause commitlog.Cause, want commitlog.Generation) error {
	if err := d.firstDone(&d.rec); err != nil { // one that a call left behind is somebody's now
		return err
	}
	o, err := h.newOwner(&d.rec)
	if err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, claimWithin)
	defer cancel()
	name := Name{d.rec.Tenant, d.rec.Name, ""}
	seen := h.seen.of(name)
	first, err := o.Claim(cctx, cause, func(tip *commitlog.Object) error {
		if tip.Generation.Compare(seen) < 0 {
			return rolledBack(name, seen, "generation "+tip.Generation.String())
		}
		if tip.Generation.Compare(want) < 0 {
			return older(d.String(), tip.Generation, want)
		}
		return nil
	})
	if err != nil && cctx.Err() != nil && ctx.Err() == nil {
		return errs.New(errs.Busy, "volume %q could not be claimed within %v: try again; if its owner goes on writing, it pauses once: %w", d, claimWithin, err)
	}
	if err != nil {
		return err
	}
	rec := recordOf(&first.State, volume.ID(first.State.ID))
	rec.Published = &volume.Published{Epoch: first.Generation.Epoch, Number: first.Generation.Number}
	if rec.ID != d.id {
		return errs.New(errs.Busy, "volume %q was replaced by another of the same name meanwhile: try again", d)
	}
	v, err := h.load(ctx, rec, &first.State)
	if err != nil {
		return err
	}
	d.setOwner(o)
	d.adopt(v)
	d.startShipping()
	if cause == commitlog.CauseTakeover {
		h.event(eventVolume, d.String(), "taken over by force, at generation %s", first.Generation)
	}
	return nil
}

// load records and opens a volume as the store has it. Until its data commits
// are in this host's log too, and its snapshots have records, its own record says
// that it does not count: it would come back without them after a crash.
func (h *Host) load(ctx context.Context, rec volume.State, s *commitlog.State) (*volume.Volume, error) {
	published := rec.Published
	if rec.Loading = len(s.DataCommits)+len(s.Snapshots) > 0; rec.Loading {
		rec.Published = nil
	}
	if err := h.save(&rec); err != nil {
		return nil, err
	}
	v, err := volume.Open(h.env(h.tenant(rec.Tenant)), rec, false)
	if err != nil {
		return nil, errors.Join(err, h.forget(rec.ID))
	}
	if !rec.Loading {
		return v, nil
	}
	if err = h.replay(ctx, v, s); err == nil {
		err = h.adoptSnapshots(s, generation(published))
	}
	if err == nil {
		err = v.Loaded(func(st *volume.State) { st.Published = published })
	}
	if err != nil {
		_ = v.Close() // it is fetched again
		err = errors.Join(err, h.forget(rec.ID))
		v.Discard()
		return nil, err
	}
	return v, nil
}

// adoptSnapshots records the snapshots that came with a volume.
func (h *Host) adoptSnapshots(s *commitlog.State, g commitlog.Generation) error {
	for _, snap := range s.Snapshots {
		st := recordOf(s, newVolumeID(h))
		st.Snapshot, st.SnapshotOf, st.CreatedAt = snap.Name, volume.ID(s.ID), snap.CreatedAt
		st.Root, st.Size, st.Folded, st.Floor, st.Used = snap.Root, snap.Size, snap.Seq, snap.Seq, snap.Seq
		st.RootBlocks = st.Blocks()
		if st.Generation = snap.Generation.String(); snap.Generation.IsZero() {
			st.Generation = g.String()
		}
		st.Labels, st.Parent = nil, nil
		if _, err := h.add(st); err != nil && !errors.Is(err, errs.Exists) {
			return err
		}
	}
	return nil
}

// wouldLose says what forcing a claim may lose.
func (h *Host) wouldLose(n Name, tip *commitlog.Object, why error) error {
	kind := errs.WouldLose
	return errs.New(kind, "volume %q is held by host %s, and what it wrote since generation %s (%s) may be lost: %w; --force takes it over all the same",
		n, tip.State.Owner.ID, tip.Generation, tip.State.Time.Format(time.RFC3339), why)
}

// askWithin is how long another host may take to answer before it counts as
// unreachable.
const askWithin = 5 * time.Second

// ask asks the owner of a volume to flush it, and unless flushOnly to release it.
func (h *Host) askOwner(ctx context.Context, n Name, tip *commitlog.Object, flushOnly bool) (api.Volume, error) {
	owner := tip.State.Owner
	if len(owner.Addresses) == 0 || h.cfg.Dial == nil {
		return api.Volume{}, errs.New(errs.Unavailable, "host %s has no address where it could be asked", owner.ID)
	}
	var last error
	for _, addr := range owner.Addresses {
		actx, cancel := context.WithTimeout(ctx, askWithin)
		r := api.ReleaseRequest{Host: h.id, Epoch: tip.Generation.Epoch, WithinMs: float64(askWithin.Milliseconds()), FlushOnly: flushOnly}
		v, err := h.cfg.Dial(addr).Release(actx, n.String(), r)
		late := actx.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			return v, nil
		}
		if late { // a host that hangs, or that the network swallows what is sent to
			err = errs.New(errs.Unavailable, "no answer within %v", askWithin)
		}
		last = fmt.Errorf("host %s at %s: %w", owner.ID, addr, err)
	}
	return api.Volume{}, last
}

// noticeWithin is how long it may take to notice that a connection, a request of
// which was read just now, has ended.
const noticeWithin = 10 * time.Millisecond

// Release is what another host asks of this one: flush a volume, and unless
// FlushOnly hand it over. A request that comes late, or for another epoch, has
// no effect.
func (h *Host) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	if r.WithinMs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.WithinMs*1e6))
		defer cancel()
	}
	d, err := h.local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	// A host that hung for a while finds requests in its sockets of which the
	// askers have gone. That is noticed a moment after they are read.
	_ = pause(ctx, noticeWithin)
	d.op.Lock()
	defer d.op.Unlock()
	if ctx.Err() != nil && !fault.Is("late-release-counts") {
		return api.Volume{}, errs.New(errs.Unavailable, "host %s asked too long ago: nothing was done", r.Host)
	}
	if now, err := h.local(name, false); err != nil || now != d {
		// Renamed meanwhile: the epoch that was asked about is another name's.
		return api.Volume{}, errs.New(errs.Busy, "there is no volume %q on this host any more: nothing was done", name)
	}
	st := d.state()
	if g := generation(st.Published); g.Epoch != r.Epoch && (d.owner == nil || d.owner.Generation().Epoch != r.Epoch) {
		return api.Volume{}, errs.New(errs.Busy, "volume %q is at epoch %d here, not %d: nothing was done", d, g.Epoch, r.Epoch)
	}
	if r.FlushOnly {
		if _, err := h.publish(ctx, d, commitlog.CauseFlush, nil); err != nil {
			return api.Volume{}, err
		}
		return h.view(d), nil
	}
	if n := d.exports(); n > 0 {
		return api.Volume{}, errs.New(errs.WouldLose, "volume %q has %d open NBD connection(s) there", d, n)
	}
	if err := h.handOver(ctx, d); err != nil {
		return api.Volume{}, err
	}
	view := h.view(d)
	// It is the asker's now: this host keeps nothing of it but its cache.
	return view, h.eraseAll(d)
}

// tip reads the newest object of a volume's log; one that was removed is not found.
func (h *Host) tip(ctx context.Context, n Name) (*commitlog.Object, error) {
	o, err := h.newest(ctx, n, h.readNewest)
	return h.checkTip(ctx, n, o, err)
}

// listed is tip as the store's list shows it, for a claim, which finds out by what
// it creates whether that is all.
func (h *Host) listed(ctx context.Context, n Name) (*commitlog.Object, error) {
	o, err := h.newest(ctx, n, h.readListed)
	return h.checkTip(ctx, n, o, err)
}

// judge tells what the newest object of a volume's log, or the error in its
// place, means for whoever wants the volume.
func (h *Host) checkTip(ctx context.Context, n Name, o *commitlog.Object, err error) (*commitlog.Object, error) {
	if errs.KindOf(err) == errs.NotFound && err != nil || h.isOrphan(o) {
		return nil, errs.New(errs.NotFound, "there is no volume %q, neither on this host nor in the store", n)
	}
	if err != nil {
		return nil, err
	}
	if o.Tombstone {
		if o.State.RenamedTo != "" {
			return nil, errs.New(errs.NotFound, "volume %q was renamed to %q", n, display(n.Tenant, o.State.RenamedTo, ""))
		}
		return nil, errs.New(errs.NotFound, "volume %q was removed", n)
	}
	return o, commitlog.Activated(ctx, h.cfg.Store, o)
}
