package host

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

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
