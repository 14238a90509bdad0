package ownership

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/volume"
)

// Reachable reports whether a host can be reached.
func (ow *Owners) Reachable(ctx context.Context, host commitlog.Host) bool {
	for _, addr := range host.Addresses {
		if ow.Dial == nil {
			return false
		}
		var got api.Host
		err := ow.ask(ctx, addr, host.ID, func(ctx context.Context, p Peer) (err error) { got, err = p.Host(ctx); return err })
		if err == nil && got.ID == host.ID {
			return true
		}
	}
	return false
}

// ask calls fn with a host at the address that it advertises. The host has askTimeout to
// answer. ask keeps no connection.
func (ow *Owners) ask(ctx context.Context, addr, id string, fn func(context.Context, Peer) error) error {
	p, err := ow.Dial(addr, id)
	if err != nil {
		return errs.New(errs.Unavailable, "the owner's address: %w", err)
	}
	defer p.Close()
	actx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = fn(actx, p)
	if err != nil && actx.Err() != nil && ctx.Err() == nil { // the host hangs, or the network drops the request
		return errs.New(errs.Unavailable, "no answer within %v", askTimeout)
	}
	return err
}

// evict removes a volume from this host that is to be woken here under the new name that
// its next owner gave it. Its unpublished data becomes a rescue volume first.
func (ow *Owners) evict(n disk.Name, tip *commitlog.Object, force bool) error {
	d := ow.disks.ByID(volume.ID(tip.State.ID))
	if d == nil {
		return nil
	}
	st := d.State()
	mine := tip.State.Owner.ID == ow.disks.HostID
	if now := disk.Generation(st.Published); st.Name == n.Volume && st.Mode != volume.Fenced && (mine || now.Compare(tip.Generation) > 0) {
		return errs.New(errs.Busy, "volume %q was just woken on this host", n) // by another call
	}
	if mine {
		return errs.New(errs.Busy, "volume %q is on this host as %q, and its rename was not finished: run glide rename %s %s again", n, d, d, n)
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	if err := d.RefuseIfConnected("wake it as "+n.String(), force); err != nil {
		return err
	}
	if d.State().Mode != volume.Fenced {
		if _, err := d.Wake(false); err != nil && errs.KindOf(err) != errs.Fenced {
			return err
		}
		if err := ow.FenceIfLost(d, takenBy(d, tip)); d.State().Mode != volume.Fenced {
			return err
		}
	}
	return ow.EraseAll(d)
}

// reclaimTimeout is how long the store may take when a released volume is woken on the
// host that released it.
const reclaimTimeout = 10 * time.Second

// Reclaim claims a released disk for this host again. If another host claimed it
// meanwhile, the disk is fenced here; there is nothing to rescue. Under op.
func (ow *Owners) Reclaim(d *disk.Disk, force bool) error {
	st := d.State()
	if !st.Released || st.Mode == volume.Fenced {
		return nil
	}
	ctx, cancel := context.WithTimeout(cost.Begin(ow.disks.Ctx, cost.Wake, d.Payer()), reclaimTimeout)
	defer cancel()
	if d.Owner != nil && !d.Owner.Generation().IsZero() {
		d.SetOwner(nil) // its release may still be in progress; an owner of an earlier attempt is kept, with its time to yield
	}
	if err := ow.Own(d, &st); err != nil {
		return err
	}
	first, err := ow.ClaimOwn(ctx, d, &st)
	switch {
	case err == nil:
		return d.Update(func(s *volume.State) {
			s.Released, s.Published = false, &volume.Published{Epoch: first.Generation.Epoch, Number: first.Generation.Number}
		})
	case errs.KindOf(err) == errs.Fenced:
		return errors.Join(err, ow.FenceClosed(d, err))
	case force:
		ow.disks.Event(event.Volume, d.String(), "woken by force, though it was released: another host may have it too")
		return d.Update(func(s *volume.State) { s.Released = false })
	}
	return errs.New(errs.KindOf(err), "volume %q was released to the store, which must confirm that no other host woke it: %w", d, err)
}

// OlderThanExpected is the error for a volume whose newest state is older than the expected one.
func OlderThanExpected(name string, have, want commitlog.Generation) error {
	if have.IsZero() {
		return errs.New(errs.WouldLose, "volume %q was never published, and generation %s is expected: the writes up to it are missing", name, want)
	}
	return errs.New(errs.WouldLose, "the newest state of %q is generation %s, and %s is expected: the writes between them are missing", name, have, want)
}

// TakeOver claims a volume that is not on this host, and opens it.
func (ow *Owners) TakeOver(ctx context.Context, n disk.Name, force bool, want commitlog.Generation) (*disk.Disk, error) {
	tip, err := ow.catalog.Listed(ctx, n)
	if err != nil {
		return nil, err
	}
	if ow.Saw != nil {
		ow.Saw(tip.State.DomainName(), tip.State.Owner)
	}
	cause := commitlog.CauseWake
	if owner := tip.State.Owner; !tip.Released && owner.ID != "" && owner.ID != ow.disks.HostID {
		if _, err := ow.AskOwner(ctx, n, tip, false); err != nil {
			// Meanwhile the volume may have been removed, or its owner may have released
			// it.
			now, terr := ow.catalog.Listed(ctx, n)
			if terr == nil {
				tip = now
			} else if errs.KindOf(terr) == errs.NotFound {
				return nil, terr
			}
			if !tip.Released {
				if !force {
					return nil, ow.wouldLose(n, tip, err)
				}
				cause = commitlog.CauseTakeover
			}
		}
	}
	if tip.Generation.Compare(want) < 0 {
		if tip, err = ow.catalog.Listed(ctx, n); err != nil {
			return nil, err
		}
		if tip.Generation.Compare(want) < 0 {
			return nil, OlderThanExpected(n.String(), tip.Generation, want)
		}
	}
	if err := ow.evict(n, tip, force); err != nil {
		return nil, err
	}
	rec := disk.RecordOf(&tip.State, volume.ID(tip.State.ID))
	d := disk.New(ow.disks, rec)
	d.Op.Lock()
	defer d.Op.Unlock()
	if err := ow.disks.Reserve(d); err != nil {
		return nil, err
	}
	if err := ow.claim(ctx, d, cause, want); err != nil {
		ow.disks.Unreserve(d)
		return nil, err
	}
	return d, nil
}

// claimTimeout is how long a claim may take. Even if each store request takes a second, a
// claim needs much less.
const claimTimeout = 90 * time.Second

// claim opens an epoch of this host for a volume in the store, and opens the volume.
// Under op.
func (ow *Owners) claim(ctx context.Context, d *disk.Disk, cause commitlog.Cause, want commitlog.Generation) error {
	ctx = cost.With(ctx, cost.Wake, d.Payer())
	st := d.State()
	if err := ow.FirstPublished(d, &st); err != nil { // a first publication that a call left unfinished has an owner now
		return err
	}
	if err := ow.pins.Expect(); err != nil { // the next owner may create some
		return err
	}
	o, err := ow.NewOwner(&st)
	if err != nil {
		return err
	}
	cctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	name := disk.Name{Tenant: st.Tenant, Volume: st.Name}
	seen, err := ow.catalog.NewestSeen(ctx, name)
	if err != nil {
		return err
	}
	first, err := o.Claim(cctx, cause, func(tip *commitlog.Object) error {
		if tip.Generation.Compare(seen) < 0 {
			return catalog.RolledBack(name, seen, "generation "+tip.Generation.String())
		}
		if tip.Generation.Compare(want) < 0 {
			return OlderThanExpected(d.String(), tip.Generation, want)
		}
		return nil
	})
	if err != nil && cctx.Err() != nil && ctx.Err() == nil {
		return errs.New(errs.Busy, "volume %q could not be claimed within %v: try again; if its owner goes on writing, it pauses once: %w", d, claimTimeout, err)
	}
	if err != nil {
		return err
	}
	rec := disk.RecordOf(&first.State, volume.ID(first.State.ID))
	rec.Published = &volume.Published{Epoch: first.Generation.Epoch, Number: first.Generation.Number}
	if rec.ID != d.ID {
		return errs.New(errs.Busy, "volume %q was replaced by another of the same name meanwhile: try again", d)
	}
	v, err := ow.Load(ctx, rec, &first.State)
	if err != nil {
		return err
	}
	d.SetOwner(o)
	d.SetVolume(v)
	ow.disks.Hooks.Ship(d)
	if cause == commitlog.CauseTakeover {
		ow.disks.Event(event.Volume, d.String(), "taken over by force, at generation %s", first.Generation)
	}
	return nil
}

// Load records and opens a volume as the store has it. Until its data commits are in this
// host's log and its snapshots have records, its record is marked as loading. After a
// crash such a record is dropped: the volume would come back without them.
func (ow *Owners) Load(ctx context.Context, rec volume.State, s *commitlog.State) (*volume.Volume, error) {
	published := rec.Published
	if rec.Loading = len(s.DataCommits)+len(s.Snapshots) > 0; rec.Loading {
		rec.Published = nil
	}
	if err := ow.disks.Save(&rec); err != nil {
		return nil, err
	}
	v, err := volume.Open(ow.disks.Env(ow.disks.Tenant(disk.DomainName(&rec))), rec, false)
	if err != nil {
		return nil, errors.Join(err, ow.disks.Forget(rec.ID))
	}
	if !rec.Loading {
		return v, nil
	}
	if err = ow.catalog.Replay(ctx, v, s); err == nil {
		err = ow.adoptSnapshots(s, disk.Generation(published))
	}
	if err == nil {
		err = v.Loaded(func(st *volume.State) { st.Published = published })
	}
	if err != nil {
		_ = v.Close() // it can be fetched again
		err = errors.Join(err, ow.disks.Forget(rec.ID))
		v.Discard()
		return nil, err
	}
	return v, nil
}

// adoptSnapshots creates records for the snapshots of a volume that was taken over.
func (ow *Owners) adoptSnapshots(s *commitlog.State, g commitlog.Generation) error {
	for _, snap := range s.Snapshots {
		st := disk.RecordOf(s, disk.NewVolumeID(ow.disks))
		st.Snapshot, st.SnapshotOf, st.CreatedAt = snap.Name, volume.ID(s.ID), snap.CreatedAt
		st.ExpiresAt = snap.ExpiresAt
		st.Root, st.Size, st.Folded, st.Floor, st.Used = snap.Root, snap.Size, snap.Seq, snap.Seq, snap.Seq
		st.RootBlocks = st.Blocks()
		if st.Generation = snap.Generation.String(); snap.Generation.IsZero() {
			st.Generation = g.String()
		}
		st.Labels, st.Parent, st.Keep = nil, nil, ""
		if _, err := ow.disks.Add(st); err != nil && !errors.Is(err, errs.Exists) {
			return err
		}
	}
	return nil
}

// wouldLose returns the error that says what forcing a claim may lose.
func (ow *Owners) wouldLose(n disk.Name, tip *commitlog.Object, why error) error {
	kind := errs.WouldLose
	return errs.New(kind, "volume %q is held by host %s, and its writes since generation %s (%s) may be lost: %w; --force takes it over anyway",
		n, tip.State.Owner.ID, tip.Generation, tip.State.Time.Format(time.RFC3339), why)
}

// askTimeout is how long another host may take to respond before it counts as unreachable.
const askTimeout = 5 * time.Second

// AskOwner asks the owner of a volume to flush it, and unless flushOnly is set, to
// release it.
func (ow *Owners) AskOwner(ctx context.Context, n disk.Name, tip *commitlog.Object, flushOnly bool) (api.Volume, error) {
	owner := tip.State.Owner
	if len(owner.Addresses) == 0 || ow.Dial == nil {
		return api.Volume{}, errs.New(errs.Unavailable, "host %s has no address at which to ask it", owner.ID)
	}
	var last error
	for _, addr := range owner.Addresses {
		r := api.ReleaseRequest{Host: ow.disks.HostID, Epoch: tip.Generation.Epoch, WithinMs: float64(askTimeout.Milliseconds()), FlushOnly: flushOnly}
		var v api.Volume
		err := ow.ask(ctx, addr, owner.ID, func(ctx context.Context, p Peer) (err error) { v, err = p.Release(ctx, n.String(), r); return err })
		if err == nil {
			return v, nil
		}
		last = fmt.Errorf("host %s at %s: %w", owner.ID, addr, err)
	}
	return api.Volume{}, last
}
