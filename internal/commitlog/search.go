package commitlog

import (
	"context"
	"sort"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// At returns the newest object of the log that carries a state and was created at or
// before a time, by its creator's clock; errs.NotFound if there is none. It does a
// binary search over the epochs, then over one epoch: about 2·log₂ GETs for each,
// whatever the length of the history. If the owners' clocks contradict each other, it
// returns some object that is followed by a later time.
func At(ctx context.Context, store objstore.Store, vol Volume, when time.Time) (*Object, error) {
	tip, err := Newest(ctx, store, vol)
	if err != nil {
		return nil, err
	}
	s := search{history: history{ctx: ctx, store: store, vol: vol}, when: when, read: map[Generation]*Object{}}
	at := tip.Generation
	if tip.State.Time.After(when) {
		if at, err = s.last(at); err != nil {
			return nil, err
		}
	}
	return s.whole(at)
}

// maxBare is how many objects without a state At skips: removals, seals ahead, and the
// rest of epochs past retention.
const maxBare = 64

// search looks for a time in a log.
type search struct {
	history
	when time.Time
	read map[Generation]*Object
	err  error
}

// object reads an object, once; nil if there is none.
func (s *search) object(g Generation) *Object {
	o, ok := s.read[g]
	if !ok && s.err == nil {
		var list []*Object
		if list, s.err = s.some(g, 1); s.err == nil {
			o = list[0]
			s.read[g] = o
		}
	}
	return o
}

// later tells whether an object was created after the time. A removed object is older
// than the remaining ones.
func (s *search) later(g Generation) bool {
	o := s.object(g)
	return o != nil && o.State.Time.After(s.when)
}

// last is the place of the last object that is not later, before the tip.
func (s *search) last(tip Generation) (Generation, error) {
	epoch := uint64(sort.Search(int(tip.Epoch), func(i int) bool { return s.later(Generation{Epoch: uint64(i) + 1, Number: 1}) }))
	if s.err != nil {
		return Generation{}, s.err
	}
	first := s.object(Generation{Epoch: 1, Number: 1})
	switch {
	case s.err != nil:
		return Generation{}, s.err
	case epoch == 0 && first == nil:
		return Generation{}, errs.New(errs.NotFound, "the beginning of the history of volume %s is not kept", s.vol)
	case epoch == 0:
		return Generation{}, errs.New(errs.NotFound, "the history of volume %s begins at %s, after %s", s.vol,
			first.State.Time.Format(time.RFC3339), s.when.Format(time.RFC3339))
	}
	end := tip.Number
	if next := s.object(Generation{Epoch: epoch + 1, Number: 1}); epoch < tip.Epoch && next != nil {
		after := next.State.After
		if after.IsZero() {
			if after, s.err = s.listedSeal(epoch + 1); s.err != nil {
				return Generation{}, s.err
			}
		}
		end = after.Number
	}
	n := 1 + sort.Search(int(end-1), func(i int) bool { return s.later(Generation{Epoch: epoch, Number: uint64(i) + 2}) })
	return Generation{Epoch: epoch, Number: uint64(n)}, s.err
}

// whole is the object at a generation, or the next older object with a state.
func (s *search) whole(at Generation) (*Object, error) {
	found := s.object(at)
	if s.err != nil || found != nil && !found.Bare() {
		return found, s.err
	}
	found = nil
	err := History(s.ctx, s.store, s.vol, at, maxBare, func(o *Object) error {
		if o.Bare() {
			return nil
		}
		found = o
		return errEnough
	})
	if err == nil && found == nil {
		err = errs.New(errs.NotFound, "nothing is kept of the history of volume %s at or before %s", s.vol, s.when.Format(time.RFC3339))
	}
	return found, err
}
