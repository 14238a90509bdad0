package host

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// snapshotsOf lists the snapshots of a volume, the oldest first.
func (h *Host) snapshotsOf(id volume.ID) []*disk {
	var out []*disk
	for _, d := range h.all() {
		if d.state().SnapshotOf == id {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *disk) int {
		x, y := a.state(), b.state()
		return x.CreatedAt.Compare(y.CreatedAt)
	})
	return out
}

// Snapshot gives the volume's present cut a name. It is durable on this host
// when Snapshot returns, and in the store with the next flush.
func (h *Host) Snapshot(ctx context.Context, name, snapshot string) (api.Snapshot, error) {
	d, err := h.local(name, false)
	if err != nil {
		return api.Snapshot{}, err
	}
	if !commitlog.ValidName(snapshot) {
		return api.Snapshot{}, badName("snapshot", snapshot)
	}
	if err := h.mayGrow(); err != nil {
		return api.Snapshot{}, err
	}
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.refuseFenced(); err != nil {
		return api.Snapshot{}, err
	}
	st := d.state()
	if n := len(h.snapshotsOf(d.id)); n >= commitlog.MaxSnapshots {
		return api.Snapshot{}, errs.New(errs.Invalid, "volume %q has %d snapshots, the most there can be: remove some with glide rm %s@NAME", d, n, d)
	}
	v, err := d.wake(false)
	if err != nil {
		return api.Snapshot{}, err
	}
	snap := volume.State{
		ID: newVolumeID(h), Tenant: st.Tenant, Name: st.Name, Snapshot: snapshot, SnapshotOf: d.id, CreatedAt: h.cfg.Now().UTC(),
		Mode: volume.Active, Durability: st.Durability, RPO: st.RPO, BlockSize: st.BlockSize, Size: st.Size,
	}
	s := newDisk(h, snap)
	s.op.Lock() // who finds it waits until it is there
	defer s.op.Unlock()
	if err := h.reserve(s); err != nil {
		return api.Snapshot{}, errs.New(errs.Exists, "volume %q has a snapshot %q already", d, snapshot)
	}
	kids, err := h.forkCut(v, []*volume.State{&snap})
	if err != nil {
		h.unreserve(s)
		return api.Snapshot{}, err
	}
	s.adopt(kids[0])
	return s.snapshotView(), nil
}

// forkCut forks the volume's present cut on this host.
func (h *Host) forkCut(v *volume.Volume, children []*volume.State) ([]*volume.Volume, error) {
	for {
		c, err := v.Cut()
		if err != nil {
			return nil, err
		}
		kids, err := c.Fork(children...)
		c.Release()
		if !errors.Is(err, volume.ErrRepaired) {
			return kids, err
		}
	}
}

// adopt makes a fresh volume the disk's.
func (d *disk) adopt(v *volume.Volume) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.v = v
	st := v.State()
	d.rec = st
	if st.Published != nil {
		d.published()
	}
	d.limiter.set(st.Limits, d.h.cfg.Now)
}

func (d *disk) snapshotView() api.Snapshot {
	st := d.state()
	return api.Snapshot{Name: st.Snapshot, Volume: display(st.Tenant, st.Name, ""), Size: st.Size, Generation: st.Generation, CreatedAt: st.CreatedAt}
}

// Snapshots lists the volume's snapshots, the oldest first.
func (h *Host) Snapshots(ctx context.Context, name string) ([]api.Snapshot, error) {
	n, err := ParseName(name, false)
	if err != nil {
		return nil, err
	}
	out := []api.Snapshot{}
	if d := h.find(n); d != nil {
		for _, s := range h.snapshotsOf(d.id) {
			out = append(out, s.snapshotView())
		}
		return out, nil
	}
	tip, err := h.tip(ctx, n)
	if err != nil {
		return nil, err
	}
	for _, s := range tip.State.Snapshots {
		g := cmp.Or(s.Generation, tip.Generation) // the commit that first lists it does not know its own
		out = append(out, api.Snapshot{Name: s.Name, Volume: n.String(), Size: s.Size, Generation: g.String(), CreatedAt: s.CreatedAt})
	}
	return out, nil
}

// publishSnapshots folds the snapshots that the store does not have yet, the
// oldest first, and returns all of them as the next commit will list them. Under op.
func (h *Host) publishSnapshots(ctx context.Context, d *disk) ([]commitlog.Snapshot, error) {
	out := []commitlog.Snapshot{}
	for _, s := range h.snapshotsOf(d.id) {
		if err := h.foldSnapshot(ctx, s); errors.Is(err, errs.NotFound) && s.removed() {
			continue // meanwhile
		} else if err != nil {
			return nil, err
		}
		st := s.state()
		g, _ := commitlog.ParseGeneration(st.Generation) // zero until the commit is made
		out = append(out, commitlog.Snapshot{Name: st.Snapshot, Root: st.Root, Size: st.Size, Seq: st.Folded, Generation: g, CreatedAt: st.CreatedAt})
	}
	return out, nil
}

// foldSnapshot uploads a snapshot; its record then needs no log any more.
func (h *Host) foldSnapshot(ctx context.Context, s *disk) error {
	s.op.Lock()
	defer s.op.Unlock()
	v, err := s.wake(false)
	if err != nil {
		return err
	}
	st := v.State()
	if !v.Dirty() && st.RootBlocks == st.Blocks() {
		return nil
	}
	c, err := v.BeginFold()
	if err != nil {
		return err
	}
	defer v.EndFold(c)
	end := h.session.Begin()
	defer func() { end(context.WithoutCancel(ctx)) }()
	t := h.tenant(st.Tenant)
	res, release, err := h.foldCut(ctx, t, c)
	if err != nil {
		return err
	}
	// Until the commit that lists the snapshot is made, nothing in the store
	// names this root: the pin for local children keeps it.
	defer release(context.WithoutCancel(ctx))
	m, err := blockmap.New(t.pages, res.Root, c.State.Blocks())
	if err != nil {
		return err
	}
	if err := h.cleaner.withoutCleaning(func() error { return v.Published(c, m, nil) }); err != nil {
		return err
	}
	return h.pins.keepChildren(ctx, res.Root, volume.ID{})
}

// Rollback makes the volume what a snapshot, or a commit, of it was.
func (h *Host) Rollback(ctx context.Context, name, to string, force bool) (api.Volume, error) {
	d, err := h.local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	if to == "" {
		return api.Volume{}, errs.New(errs.Invalid, "what to take %q back to is missing: a snapshot or a generation", d)
	}
	if err := h.mayGrow(); err != nil {
		return api.Volume{}, err
	}
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.refuseFenced(); err != nil {
		return api.Volume{}, err
	}
	if err := d.refuseIfConnected("roll it back with --force", force); err != nil {
		return api.Volume{}, err
	}
	st := d.state()
	v, err := d.wake(false)
	if err != nil {
		return api.Volume{}, err
	}
	c, done, err := h.cutAt(ctx, Name{st.Tenant, st.Name, ""}, to)
	if err != nil {
		return api.Volume{}, err
	}
	defer done()
	d.disconnect()
	d.stopShipping(errHeld)
	defer d.startShipping()
	if err := h.rollback(ctx, d, v, c); err != nil {
		return api.Volume{}, err
	}
	if st.Published != nil {
		// The store must not go on showing the state that was given up.
		if _, err := h.publish(ctx, d, commitlog.CauseRollback, func(*commitlog.State) {}); err != nil {
			h.cfg.Log.Warn("a rollback is not in the store yet", "volume", d.String(), "error", err)
		}
	}
	return h.view(d), nil
}

// rollback makes an open volume what a cut of another holds. Under op.
func (h *Host) rollback(ctx context.Context, d *disk, v *volume.Volume, c *volume.Cut) error {
	d.moving.Lock()
	defer d.moving.Unlock()
	st := d.state()
	if err := h.pins.keepChildren(ctx, st.Root, st.ID); err != nil {
		return err
	}
	return h.cleaner.withoutCleaning(func() error { return v.Rollback(c, func(s *volume.State) { s.RolledBack = true }) })
}

// cutAt returns a cut of the snapshot, or of the commit, of a volume; done
// releases it.
func (h *Host) cutAt(ctx context.Context, n Name, at string) (*volume.Cut, func(), error) {
	if s := h.find(Name{n.Tenant, n.Volume, at}); s != nil {
		v, err := s.wakeAlone(false)
		if err != nil {
			return nil, nil, err
		}
		c, err := v.Cut()
		if err != nil {
			return nil, nil, err
		}
		return c, c.Release, nil
	}
	state, g, err := h.resolve(ctx, n, at)
	if err != nil {
		return nil, nil, err
	}
	if d := h.find(n); d != nil && volume.ID(state.ID) != d.id {
		return nil, nil, errs.New(errs.NotFound, "%s is a state of another volume, which had the name %q before: glide fork --at %s takes it", g, n, g)
	}
	return h.cutOfState(ctx, state)
}

// cutOfState returns a cut of a published state, and what releases it.
func (h *Host) cutOfState(ctx context.Context, s *commitlog.State) (*volume.Cut, func(), error) {
	v, err := h.openState(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	c, err := v.Cut()
	if err != nil {
		closeState(v)
		return nil, nil, err
	}
	return c, func() {
		c.Release()
		closeState(v)
	}, nil
}

// openState opens a published state for reading; nothing is recorded. Its data
// commits lie in log segments that are given back by closeState.
func (h *Host) openState(ctx context.Context, s *commitlog.State) (*volume.Volume, error) {
	st := recordOf(s, newVolumeID(h))
	st.Durability = local
	env := h.env(h.tenant(s.Tenant))
	env.Save = func(...*volume.State) error { return nil }
	v, err := volume.Open(env, st, false)
	if err != nil {
		return nil, err
	}
	if err := h.replay(ctx, v, s); err != nil {
		closeState(v)
		return nil, err
	}
	return v, nil
}

// closeState closes what openState opened.
func closeState(v *volume.Volume) {
	_ = v.Close() // nobody will look for what was written
	v.Discard()
}

// replay brings the data commits of a published state into a volume that was
// opened from the rest of it.
func (h *Host) replay(ctx context.Context, v *volume.Volume, s *commitlog.State) error {
	return commitlog.Replay(ctx, h.cfg.Store, &commitlog.Object{State: *s}, func(ranges []commitlog.Range) error {
		for _, r := range ranges {
			var err error
			if r.Data == nil {
				err = v.Zero(r.Off, r.Len)
			} else {
				err = v.WriteAt(r.Data, r.Off)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// takeSnapshot makes a state that of one of its snapshots.
func takeSnapshot(s *commitlog.State, snap *commitlog.Snapshot) {
	s.Root, s.Size, s.Seq = snap.Root, snap.Size, snap.Seq
	s.DataCommits, s.DataSeq = nil, 0
}

// recordOf is the record of a volume that begins as the published state s is.
func recordOf(s *commitlog.State, id volume.ID) volume.State {
	st := volume.State{
		Version: 1, ID: id, Tenant: s.Tenant, Name: s.Name, CreatedAt: s.CreatedAt, Size: s.Size, BlockSize: s.BlockSize,
		Mode: volume.Active, Durability: s.Durability, RPO: rpoOf(s),
		Limits: volume.Limits(s.Limits), Labels: s.Labels, ImportDigest: s.ImportDigest,
		Root: s.Root, Folded: s.Seq, Floor: s.Through(), Used: s.Through(), Shipped: s.Through(),
	}
	st.RootBlocks = st.Blocks()
	if s.Parent != nil {
		st.Parent = &volume.Parent{Name: display(s.Tenant, s.Parent.Name, ""), ID: volume.ID(s.Parent.ID)}
		if !s.Parent.Generation.IsZero() {
			st.Parent.Generation = s.Parent.Generation.String()
		}
	}
	return st
}

// disconnect makes the open connections of the disk fail from now on.
func (d *disk) disconnect() {
	d.h.attachments.abandon(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	for x := range d.conns {
		x.cut()
	}
}
