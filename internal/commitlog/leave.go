package commitlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// Release closes the owner's epoch with a seal marked as released: another host can
// wake the volume without asking. The caller has flushed. After an error it can be
// called again.
func (o *Owner) Release(ctx context.Context) error {
	defer o.lock()()
	if o.gone(true) {
		return nil
	}
	err := o.append(ctx, o.sealOf(CauseRelease, true))
	if err != nil && o.gone(true) {
		return nil // an earlier call's seal took effect
	}
	return err
}

// gone tells whether Release, or Tombstone, ended the claim.
func (o *Owner) gone(released bool) bool {
	return o.left != nil && o.tip != nil && (released && o.tip.Released || !released && o.tip.Tombstone) &&
		!errors.Is(o.left, errs.Fenced)
}

// Tombstone removes the volume: it seals the epoch and opens the next one with a
// first object that carries no state, so that everything before can be collected
// (rule 9). renamedTo is the volume's new name, if it was renamed. After an error it
// can be called again.
func (o *Owner) Tombstone(ctx context.Context, cause Cause, renamedTo string) error {
	defer o.lock()()
	return o.bury(ctx, cause, renamedTo)
}

func (o *Owner) bury(ctx context.Context, cause Cause, renamedTo string) error {
	err := errSealed
	for range moves {
		if err != errSealed {
			break
		}
		if err = o.owning(ctx); err != nil {
			if o.gone(false) {
				return nil
			}
			return err
		}
		if o.next.Number > 1 {
			err = o.sendSeal(ctx, cause, false)
		} else {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	grave := State{Identity: Identity{ID: o.tip.State.ID, Cause: cause, RenamedTo: renamedTo}}
	return o.send(ctx, &Object{Kind: First, Tombstone: true, State: grave})
}

// Rebury writes the tombstone that ends a log again, with keys; errs.Busy: nothing ends it.
func (o *Owner) Rebury(ctx context.Context) error {
	defer o.lock()()
	if err := o.unclaimed(ctx); err != nil {
		return err
	}
	return o.race(ctx, "", func(tip *Object) error {
		if !tip.Tombstone {
			return busy(o.opts.Volume, tip)
		}
		return nil
	}, func(sealed *Object) *Object {
		return &Object{Kind: First, Tombstone: true, State: State{Identity: sealed.State.Identity}}
	})
}

// Rename moves a volume from one owner's name to another's in three steps: it
// reserves the new name, tombstones the old one so that it names the new, and
// activates the new. from owns the old name; to has claimed nothing. state is
// the volume's state.
//
// It can be called again after an error, even by another process of the host, until
// it has succeeded. In a repeated call, from may be unclaimed if its log already ends
// in the tombstone.
func Rename(ctx context.Context, from, to *Owner, state State) (Generation, error) {
	state = state.Clone()
	state.Cause, state.RenamedFrom, state.Reserved = CauseRename, from.opts.Volume.Name, true
	if !to.holds(state.ID) {
		if _, err := to.OpenFirst(ctx, state); err != nil {
			return Generation{}, err
		}
	}
	if err := from.leaveFor(ctx, state.ID, to.opts.Volume.Name); err != nil {
		return Generation{}, err
	}
	state.Reserved = false
	return to.Commit(ctx, state)
}

// holds tells whether the owner has claimed the volume with the ID.
func (o *Owner) holds(id VolumeID) bool {
	defer o.lock()()
	return o.claimed() && o.tip.State.ID == id
}

// leaveFor writes the tombstone that names the volume's new name, unless it exists.
func (o *Owner) leaveFor(ctx context.Context, id VolumeID, name string) error {
	err := o.Tombstone(ctx, CauseRename, name)
	if err == nil || !errors.Is(err, errs.Invalid) {
		return err
	}
	tip, findErr := Newest(ctx, o.opts.Store, o.opts.Volume)
	if findErr != nil {
		return findErr
	}
	if moved(tip, id, name) {
		return nil
	}
	return err
}

// moved tells whether a log ends in the tombstone of a renamed volume.
func moved(tip *Object, id VolumeID, name string) bool {
	return tip.Tombstone && tip.State.ID == id && tip.State.RenamedTo == name
}

// Activated returns nil if the volume whose newest object is tip has its name for
// good. If a rename has only reserved the name, and did not reach the old name's
// tombstone, the error is errs.NotFound.
func Activated(ctx context.Context, store objstore.Store, tip *Object) error {
	s := &tip.State
	if !s.Reserved {
		return nil
	}
	old, err := Newest(ctx, store, Volume{s.Tenant, s.RenamedFrom})
	switch {
	case err != nil && !errors.Is(err, errs.NotFound):
		return err
	case err == nil && moved(old, s.ID, s.Name):
		return nil
	}
	return errs.New(errs.NotFound, "the name %s is reserved for volume %s, whose renaming was not finished: glide rename again",
		Volume{s.Tenant, s.Name}, Volume{s.Tenant, s.RenamedFrom})
}

// CheckSeal checks, with one GET, whether another host has sealed the epoch at the
// owner's next number (rule 11). If one has and has begun the next epoch, the error is
// errs.Fenced, for good. If it has yet to begin it, the error is ErrYielding. Any other
// error means that the check failed.
func (o *Owner) CheckSeal(ctx context.Context) error {
	defer o.lock()()
	switch {
	case o.left != nil:
		return o.left
	case o.tip == nil && o.pending == nil:
		return errs.New(errs.Invalid, "volume %s is not claimed by this process", o.opts.Volume)
	case len(o.flights) == 0 && o.yield == nil: // otherwise the first flight finds the seal
		if found, err := o.look(ctx); err != nil || !found {
			return err
		}
	}
	if err := o.settle(ctx); err != nil && err != errSealed {
		return err
	}
	switch {
	case o.left != nil:
		return o.left
	case o.yield != nil:
		return o.yielded(ctx)
	}
	return nil
}

// look is CheckSeal's GET. The object that it finds may be the owner's own pending
// one, which is settled then.
func (o *Owner) look(ctx context.Context) (found bool, err error) {
	at := o.next
	if o.pending != nil {
		at = o.pending.object.Generation
	}
	obj, err := get(ctx, o.opts.Store, o.opts.Volume, at)
	switch {
	case errors.Is(err, errs.NotFound):
		return false, nil
	case isNewer(err):
		obj = &Object{Generation: at}
	case err != nil:
		return false, err
	}
	if o.pending == nil {
		_ = o.lost(obj)
	}
	return true, nil
}

// isNewer tells whether an object is there that a newer release wrote, which this host did
// not. That it is a keyring which is newer says nothing of the object.
func isNewer(err error) bool {
	return errors.Is(err, errs.Unsupported) && !errors.Is(err, seal.ErrLocked)
}

// Look is CheckSeal for a host that owned the volume in an earlier process. last is
// the newest commit that the host remembers; one GET shows if nothing followed it.
// The host may not know of its own last commits: Look follows them, and returns the
// host's newest object. If another host has opened the next epoch, the error is
// errs.Fenced. If one has only sealed the epoch, it is ErrYielding.
func Look(ctx context.Context, store objstore.Store, vol Volume, last Generation, host string) (Generation, error) {
	at, sealedBy := last.Next(), host
	for {
		found, err := get(ctx, store, vol, at)
		switch {
		case errors.Is(err, errs.NotFound) && sealedBy != host:
			return last, errs.New(errs.Unavailable, "volume %s was sealed by host %s: %w", vol, sealedBy, ErrYielding)
		case errors.Is(err, errs.NotFound):
			return last, nil
		case isNewer(err):
			return last, fenced(vol, &Object{Generation: at}, host)
		case err != nil:
			return last, fmt.Errorf("looking for a seal: %w", err)
		}
		if found.Closes() {
			if sealedBy = found.State.SealedBy; sealedBy == host {
				last = at
			}
			at = at.NextEpoch()
			continue
		}
		if found.State.Owner.ID != host {
			return last, fenced(vol, found, host)
		}
		last, at, sealedBy = at, at.Next(), host
	}
}
