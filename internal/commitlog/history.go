package commitlog

import (
	"context"
	"errors"
	"math"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// History calls fn for the objects of the volume's log that still exist, newest
// first: count of them, or all if count is 0. It starts before a generation that it
// reported earlier or, if that is zero, at the tip. An error of fn ends it and is
// returned.
//
// It costs one GET for each object, in parallel, and no LIST. To find the tip it makes
// the requests of Newest. In an epoch whose beginning was removed, up to sideBySide
// GETs find nothing. It reads nothing older than asked for.
//
// Objects beyond a gap or a seal, and removed objects that late requests created
// again, are not part of the log and are left out (rules 3 and 6). If the volume is
// not in the store, the error is errs.NotFound.
func History(ctx context.Context, store objstore.Store, vol Volume, before Generation, count int, fn func(*Object) error) error {
	if err := vol.checkLog(); err != nil {
		return err
	}
	h := history{ctx: ctx, store: store, vol: vol, fn: fn, left: count}
	if count <= 0 {
		h.left = math.MaxInt
	}
	o := &Object{Generation: before}
	var err error
	switch {
	case before.IsZero():
		if o, err = Newest(ctx, store, vol); err == nil {
			h.open = o.Generation
			err = h.report(o)
		}
	case before.Number == 1: // it names the end of the previous epoch
		o, err = get(ctx, store, vol, before)
	}
	if err == nil {
		err = h.before(o)
	}
	if err == errEnough {
		return nil
	}
	return err
}

// errEnough ends a history when count objects were reported.
var errEnough = errors.New("enough")

// history walks a log from an object back to its beginning.
type history struct {
	ctx   context.Context
	store objstore.Store
	vol   Volume
	fn    func(*Object) error
	left  int        // objects still to report
	later *Object    // what was reported last
	open  Generation // the tip, if nothing before it may be missing from its epoch; else zero
}

func (h *history) report(o *Object) error {
	if n := h.later; n != nil && !n.follows(o) {
		return errs.New(errs.Corrupt, "commit %s of %s does not follow the %s that the store has at %s", n.Generation, h.vol, o.Kind, o.Generation)
	}
	h.later = o
	if err := h.fn(o); err != nil {
		return err
	}
	if h.left--; h.left <= 0 {
		return errEnough
	}
	return nil
}

// follows tells whether an object may follow another, so that nobody can mix two sealed
// histories: if it is in the next place, it has the other's hash. A stub has replaced what
// is named.
func (o *Object) follows(before *Object) bool {
	next := before.Generation.Next() == o.Generation || o.Generation.Number == 1 && o.State.After == before.Generation
	return !next || o.State.Prev == ObjectHash{} || o.State.Prev == before.Hash || before.Kind == Stub
}

// before reports the objects before one that was reported.
func (h *history) before(o *Object) error {
	for o != nil {
		first, err := h.epoch(o)
		if err != nil || first == nil {
			return err
		}
		if o, err = h.sealBefore(first); err != nil || o == nil {
			return err
		}
		if err := h.report(o); err != nil {
			return err
		}
	}
	return nil
}

// epoch reports the objects before one of the same epoch, and returns the first.
// The first object and the seal stay; others may have been removed from the front, so
// the rest is the run before the seal. A late request created a seal within that run
// again, and everything before that seal.
func (h *history) epoch(o *Object) (first *Object, err error) {
	at := o.Generation
	if at.Number == 1 {
		return o, nil
	}
	for at.Number > 2 {
		n := min(sideBySide, uint64(h.left), at.Number-2)
		list, err := h.some(Generation{Epoch: at.Epoch, Number: at.Number - n}, n)
		if err != nil {
			return nil, err
		}
		for i := int(n) - 1; i >= 0; i-- {
			missing := list[i] == nil
			if missing && at.Epoch == h.open.Epoch {
				if err := h.trimmed(); err != nil {
					return nil, err
				}
			}
			if missing || list[i].Closes() {
				return h.first(at.Epoch)
			}
			if err := h.report(list[i]); err != nil {
				return nil, err
			}
		}
		at.Number -= n
	}
	return h.first(at.Epoch)
}

// trimmed is an error if the epoch of the tip is still open: nothing before the tip
// can have been removed from an open epoch.
func (h *history) trimmed() error {
	now, err := find(h.ctx, h.store, h.vol)
	if err == nil && now.Epoch == h.open.Epoch {
		return errs.New(errs.Unsupported, "the log of volume %s has a hole in epoch %d, before its newest commit %s: "+
			"the store lost what was written, or does not show it", h.vol, h.open.Epoch, h.open)
	}
	return err
}

// first reports the first object of an epoch.
func (h *history) first(epoch uint64) (*Object, error) {
	list, err := h.some(Generation{Epoch: epoch, Number: 1}, 1)
	if err != nil || list[0] == nil {
		return nil, err
	}
	return list[0], h.report(list[0])
}

// some reads count objects in parallel; nil where there is none.
func (h *history) some(first Generation, count uint64) ([]*Object, error) {
	return getAll(h.ctx, h.store, h.vol, first, count, true)
}

// sealBefore is the seal of the epoch before the one that the first object opens; nil
// at the beginning of the log.
func (h *history) sealBefore(first *Object) (*Object, error) {
	after := first.State.After
	if first.Generation.Epoch == 1 {
		return nil, nil
	}
	if after.IsZero() {
		var err error
		if after, err = h.listedSeal(first.Generation.Epoch); err != nil || after.IsZero() {
			return nil, err
		}
	}
	list, err := h.some(after, 1)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// listedSeal finds the end of the previous epoch if a first object does not name it,
// with one LIST and one GET: the last object that is a seal but not a seal ahead.
func (h *history) listedSeal(epoch uint64) (Generation, error) {
	log, err := LogOf(h.ctx, h.store, h.vol)
	if err != nil {
		return Generation{}, err
	}
	after := log.Key(Generation{Epoch: epoch, Number: maxNumber})
	var epochKeys []Generation
	err = objstore.ListAll(h.ctx, h.store, log.prefix(), after, func(in objstore.Info) bool {
		_, g, err := ParseKey(in.Key)
		if err != nil {
			return true
		}
		if len(epochKeys) > 0 && epochKeys[0].Epoch != g.Epoch {
			if epochKeys[0].Number == 1 {
				return false
			}
			epochKeys = nil // this epoch has not begun
		}
		epochKeys = append(epochKeys, g)
		return true
	})
	if err != nil {
		return Generation{}, err
	}
	for i := len(epochKeys) - 1; i >= 0; i-- {
		list, err := h.some(epochKeys[i], 1)
		if err != nil {
			return Generation{}, err
		}
		if o := list[0]; o != nil && o.Closes() && !o.SealAhead() {
			return o.Generation, nil
		}
	}
	if len(epochKeys) > 0 {
		return epochKeys[0], nil
	}
	return Generation{}, nil
}
