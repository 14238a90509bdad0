package commitlog

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

// OpenFirst publishes a volume for the first time: it creates the first object
// of epoch 1 and nothing else (rule 8). A removed name is used again in a later
// epoch (rule 9). If another volume has the name, the error is errs.Exists. A
// volume with the same ID and host is this one, published by an earlier request that
// took effect after the caller had stopped waiting: it is claimed.
//
// A failed first publication that is not repeated may still appear later;
// Withdraw prevents that.
func (o *Owner) OpenFirst(ctx context.Context, state State) (Generation, error) {
	return o.openFirst(ctx, state, true)
}

// OpenNew is OpenFirst for a volume that no process of this host has started to
// publish. If the store has a volume with the same ID and host, it belongs to another
// daemon that runs on a copy of this host's data directory. Then the error is
// errs.Exists, marked with ErrTwin.
func (o *Owner) OpenNew(ctx context.Context, state State) (Generation, error) {
	return o.openFirst(ctx, state, false)
}

func (o *Owner) openFirst(ctx context.Context, state State, begun bool) (Generation, error) {
	defer o.lock()()
	repeated := o.pending != nil
	if err := o.unclaimed(ctx); err != nil {
		return Generation{}, err
	}
	if o.claimed() { // by an earlier call's request
		return o.commit(ctx, state)
	}
	begun = begun || repeated
	if !repeated {
		found, err := o.first(ctx, Generation{Epoch: 1, Number: 1}, &Object{Kind: First, State: state})
		if err != nil || found == nil {
			return o.reached(err)
		}
	}
	err := o.race(ctx, "", func(tip *Object) error { return o.mayReuse(tip, state.ID, begun) }, func(*Object) *Object {
		return &Object{Kind: First, State: state}
	})
	return o.reached(err)
}

func (o *Owner) claimed() bool { return o.tip != nil && o.left == nil }

// unclaimed starts every kind of claim. It refuses if the volume is claimed already,
// and settles an earlier attempt's request, which may turn out to be a claim.
func (o *Owner) unclaimed(ctx context.Context) error {
	if o.claimed() {
		return errs.New(errs.Invalid, "volume %s is claimed already", o.opts.Volume)
	}
	_, err := o.resolve(ctx) // if another host won, the log shows it again
	return err
}

func (o *Owner) reached(err error) (Generation, error) {
	if err != nil {
		return Generation{}, err
	}
	return o.tip.Generation, nil
}

// mayReuse tells whether the volume with the ID may take a name whose log ends in
// tip. begun: a request of this host may have created tip.
func (o *Owner) mayReuse(tip *Object, id VolumeID, begun bool) error {
	switch {
	case tip.Tombstone:
		return nil
	case tip.State.ID != id:
		return errs.New(errs.Exists, "the name %s is taken in the store, by volume %s of host %s", o.opts.Volume, tip.State.ID, tip.State.Owner.ID)
	case tip.State.Owner.ID != o.opts.Host.ID:
		return fenced(o.opts.Volume, tip, o.opts.Host.ID)
	case !begun:
		return errs.New(errs.Exists, "volume %s was published by %w at %s", o.opts.Volume, ErrTwin, tip.Generation)
	}
	return nil
}

// Claim takes the volume over: it seals the newest epoch, if it is not sealed yet,
// and opens the next one with the same state and this host as owner. approve sees the
// newest object before anything is sent, and again each time the log has changed. It
// can refuse with its own error, and may be nil. The claimer whose first object is
// created wins; others get errs.Busy, which names the winner. If the volume is not in
// the store, or was removed, the error is errs.NotFound. Claim returns the first
// object of the epoch that it opened.
//
// It is safe to call it again after an error: an earlier call's request is settled or
// sealed first.
func (o *Owner) Claim(ctx context.Context, cause Cause, approve func(tip *Object) error) (*Object, error) {
	defer o.lock()()
	if err := o.unclaimed(ctx); err != nil {
		return nil, err
	}
	if !o.claimed() {
		if err := o.takeOver(ctx, cause, approve); err != nil {
			return nil, err
		}
	}
	tip := *o.tip
	tip.State = o.tip.State.Clone()
	return &tip, nil
}

func (o *Owner) takeOver(ctx context.Context, cause Cause, approve func(tip *Object) error) error {
	return o.race(ctx, cause, func(tip *Object) error {
		switch {
		case tip.Tombstone:
			return removed(o.opts.Volume, tip)
		case len(tip.State.SealedFrom) >= maxSealedFrom: // check now: there is no way back after the seal
			return errs.New(errs.Invalid, "volume %s is kept for %d former owners: `glide host forget` the dead ones",
				o.opts.Volume, maxSealedFrom)
		}
		if err := Activated(ctx, o.opts.Store, tip); err != nil || approve == nil {
			return err
		}
		return approve(tip)
	}, func(sealed *Object) *Object {
		state := sealed.Carry()
		o.opts.Isolated = state.Isolated
		state.Cause, state.Reserved = cause, false // the old name's tombstone shows that the rename is finished
		state.SealedFrom = sealedFrom(sealed, o.opts.Host.ID)
		return &Object{Kind: First, State: state}
	})
}

func removed(vol Volume, tip *Object) error {
	if to := tip.State.RenamedTo; to != "" {
		return errs.New(errs.NotFound, "volume %s was renamed to %s", vol, Volume{vol.Tenant, to})
	}
	return errs.New(errs.NotFound, "volume %s was removed", vol)
}

// sealedFrom is the sealed state's list plus the owner of the epoch that host closed,
// unless that owner released the volume (rule 12).
func sealedFrom(sealed *Object, host string) []SealedFrom {
	list := sealed.State.SealedFrom
	owner, g := sealed.State.Owner.ID, sealed.Generation
	if sealed.Released || owner == host || fault.Is("former-owner-not-kept") {
		return list
	}
	return append(list[:len(list):len(list)], SealedFrom{Host: owner, Generation: Generation{Epoch: g.Epoch, Number: g.Number - 1}})
}

var errOther = errors.New("the name is another volume's")

// Withdraw makes sure that no request of this host has put, or will put, a volume
// with this ID into the log. A name that is not in the store gets a tombstone, and so
// does the volume itself if it is there and belongs to this host. Use it for a first
// publication that was abandoned, or may have been in flight when an earlier process
// ended, with CauseWithdraw; and with CauseRemove to remove a volume of this host that is
// not claimed. A name that belongs to another volume stays as it is.
func (o *Owner) Withdraw(ctx context.Context, id VolumeID, cause Cause) error {
	defer o.lock()()
	if err := o.unclaimed(ctx); err != nil {
		return err
	}
	if o.claimed() {
		return o.bury(ctx, cause, "")
	}
	grave := func(*Object) *Object {
		return &Object{Kind: First, Tombstone: true, State: State{Identity: Identity{ID: id, Cause: cause}}}
	}
	if found, err := o.first(ctx, Generation{Epoch: 1, Number: 1}, grave(nil)); err != nil || found == nil {
		return err
	}
	approve := func(tip *Object) error {
		// A removed name is used again after a seal behind its tombstone: then a request may
		// be on its way to the next epoch, and another tombstone takes its place.
		reused := tip.Tombstone && tip.Kind == Seal
		if !reused && (tip.Tombstone || tip.State.ID != id || tip.State.Owner.ID != o.opts.Host.ID) {
			return errOther
		}
		return nil
	}
	err := o.race(ctx, "", approve, grave)
	if errs.KindOf(err) == errs.Busy && err != nil { // another host took that place
		err = o.race(ctx, "", approve, grave)
	}
	if errors.Is(err, errOther) {
		return nil
	}
	return err
}

// first sends the first object of an epoch.
func (o *Owner) first(ctx context.Context, at Generation, obj *Object) (found *Object, err error) {
	if err := o.prepare(ctx, obj, at); err != nil {
		return nil, err
	}
	found, err = o.resolve(ctx)
	if errors.Is(err, ErrPlain) && at.Epoch == 1 { // the name was used before the tenant was sealed
		o.pending = nil
		return &Object{Generation: at}, nil
	}
	return found, err
}

// race seals the log after its tip and opens the next epoch with the state that next
// makes from the sealed one, if approve accepts the tip.
//
// one-writer: any host that finds an epoch sealed and the next one not begun may try
// to create its first object, whoever sealed (rule 2). Only the host whose first object
// is created owns the epoch (rule 1).
func (o *Owner) race(ctx context.Context, cause Cause, approve func(tip *Object) error, next func(sealed *Object) *Object) error {
	var there Generation // what is known to be in the log
	for range moves {
		tip, err := Listed(ctx, o.opts.Store, o.opts.Volume)
		if err != nil {
			return err
		}
		if tip.Generation.Compare(there) < 0 {
			return unlisted(o.opts.Volume, tip.Generation, there)
		}
		if err := approve(tip); err != nil {
			return err
		}
		if cause == CauseOpen && tip.Kind == Seal && !tip.Released && tip.State.Owner.ID == o.opts.Host.ID && tip.State.SealedBy != o.opts.Host.ID {
			o.yieldTo(tip)
			if err := o.waited(); err != nil {
				return err
			}
		}
		sealed, err := o.closeAfter(ctx, tip)
		if err != nil {
			return err
		}
		if sealed == nil { // the log has grown
			there = tip.Generation.Next()
			if err := o.overtake(ctx, cause, tip); err != nil {
				return err
			}
			continue
		}
		o.closed = closedWith(sealed)
		winner, err := o.first(ctx, sealed.Generation.NextEpoch(), next(sealed))
		if err != nil || winner == nil {
			return err
		}
		switch by := winner.State.Owner.ID; {
		case by == o.opts.Host.ID:
			// An earlier attempt of this host took effect late. No process continues
			// an epoch that it did not open (rule 4).
		case cause != CauseTakeover || by != sealed.State.Owner.ID:
			return busy(o.opts.Volume, winner)
		case sealed.State.SealedBy == o.opts.Host.ID:
			return errs.New(errs.Busy, "volume %s was sealed here at %s, and host %s went on with it at %s, since this host did not take it over in time: "+
				"look at its path to the store, and try again", o.opts.Volume, sealed.Generation, hostName(winner.State.Owner), winner.Generation)
		default: // it rolled its epoch
			if err := o.overtake(ctx, cause, winner); err != nil {
				return err
			}
		}
		there = winner.Generation
	}
	return errs.New(errs.Busy, "volume %s is being committed to while it is claimed", o.opts.Volume)
}

// closeAfter makes sure that the epoch of tip is closed right after it, and returns
// the seal. It returns nil if an object that is not a seal follows tip.
func (o *Owner) closeAfter(ctx context.Context, tip *Object) (*Object, error) {
	if tip.Closes() || fault.Is("claim-without-seal") {
		return tip, nil
	}
	if err := o.prepareSeal(ctx, tip); err != nil {
		return nil, err
	}
	found, err := create(ctx, o.opts.Store, o.opts.Volume, o.claim.seal.object, o.claim.seal.raw)
	if err != nil {
		return nil, err
	}
	seal := o.claim.seal.object
	o.claim.seal = nil
	switch {
	case found != nil && found.Kind != Seal:
		return o.claim.early(tip), nil
	case found != nil:
		seal = found
	}
	if seal.SealAhead() {
		return seal.closing(tip), nil
	}
	return seal, nil
}

// prepareSeal makes the seal that follows tip. If one was sent before, it reuses that
// one (rule 5).
func (o *Owner) prepareSeal(ctx context.Context, tip *Object) (err error) {
	at := tip.Generation.Next()
	if o.claim.seal != nil && o.claim.seal.object.Generation == at {
		return nil
	}
	if before := o.claim.ahead[at]; before != nil {
		o.claim.seal = before
		return nil
	}
	state := tip.Carry()
	state.Cause, state.SealedBy = CauseSeal, o.opts.Host.ID
	o.claim.seal, err = o.encode(ctx, &Object{Kind: Seal, Tombstone: tip.Tombstone, State: state}, at, tip.Hash)
	return err
}
