package commitlog

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/commitlog/internal/listing"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

const (
	listPage = listing.PageSize
	// moves is how often a reader or claimer starts again because the log grew
	// between two of its requests. A few tries are enough against any owner; the
	// bound is for a broken log.
	moves = 32
	// overtaken is how often Newest checks whether its list showed everything, while
	// the log grows.
	overtaken = 3
	// sideBySide is how many objects of one log are read in parallel.
	sideBySide = 16
)

// tipFinder finds the tip (rule 7) in the keys of a log, which come in the order of a
// listing: newest epoch first, numbers of each epoch from the first. The tip is the
// end of the unbroken run of the greatest epoch that has a first object.
type tipFinder struct {
	tip    Generation
	beyond Generation // the first key beyond a gap in the tip's epoch, if there is one
}

// add takes the next key. done: later keys cannot change the tip.
func (f *tipFinder) add(g Generation) (done bool) {
	switch {
	case f.tip.IsZero(): // an epoch without a first object has not begun
		if g.Number == 1 {
			f.tip = g
		}
		return false
	case g == f.tip.Next():
		f.tip = g
		return false
	case g.Epoch == f.tip.Epoch:
		f.beyond = g
	}
	return true // a gap, or the next older epoch
}

// find returns the place of the newest object of the volume's log according to the
// store's list; errs.NotFound if there is no log. It makes one LIST, because an epoch
// fits in a page, and one GET if there is an object beyond a gap. If that object proves
// that something in the gap took effect, the error is errs.Unsupported. An object that
// was sent ahead may be beyond a seal (rule 6); Load finds that out.
func find(ctx context.Context, store objstore.Store, vol Volume) (Generation, error) {
	if err := vol.checkLog(); err != nil {
		return Generation{}, err
	}
	f, err := listTip(ctx, store, vol)
	if err != nil || f.beyond.IsZero() {
		return f.tip, err
	}
	proof, err := get(ctx, store, vol, f.beyond)
	if errors.Is(err, errs.NotFound) {
		return f.tip, nil
	}
	if err != nil {
		return Generation{}, err
	}
	// Its sender had seen everything before this number take effect.
	known := Generation{Epoch: f.beyond.Epoch, Number: f.beyond.Number - uint64(proof.Ahead)}
	if known.Number <= f.tip.Number+1 {
		return f.tip, nil
	}
	if f, err = listTip(ctx, store, vol); err == nil && f.tip.Next().Compare(known) < 0 {
		err = unlisted(vol, f.tip, f.tip.Next())
	}
	return f.tip, err
}

func listTip(ctx context.Context, store objstore.Store, vol Volume) (f tipFinder, err error) {
	log, err := LogOf(ctx, store, vol)
	if err != nil {
		return f, fmt.Errorf("finding the newest commit of %s: %w", vol, err)
	}
	after := ""
	for {
		infos, err := store.List(ctx, log.prefix(), after, listPage)
		if err != nil {
			return f, fmt.Errorf("finding the newest commit of %s: %w", vol, err)
		}
		done := len(infos) < listPage
		for _, in := range infos {
			after = in.Key
			if _, g, err := ParseKey(in.Key); err == nil && f.add(g) { // ignore keys that are not commits
				done = true
				break
			}
		}
		if done {
			return f, notFound(ctx, store, vol, f.tip)
		}
	}
}

// unlisted is the error for a store whose list omits existing objects: no state found
// with such a list can be trusted to be the newest.
func unlisted(vol Volume, tip, there Generation) error {
	return errs.New(errs.Unsupported, "the store's list does not show what was written: it ends the log of volume %s at %s, though %s is there; "+
		"glide needs a store whose lists are complete at once", vol, tip, there)
}

// notFound is nil if there is a tip. locked-is-not-lost: the names of a tenant without keys
// may be hidden.
func notFound(ctx context.Context, store objstore.Store, vol Volume, tip Generation) error {
	if !tip.IsZero() {
		return nil
	}
	if _, err := keysOf(ctx, store, vol.Tenant); err != nil {
		return err
	}
	return errs.New(errs.NotFound, "volume %s is not in the store", vol)
}

// Load reads the object at a generation that find returned, with one GET. If the
// object was sent ahead of others, those are read too. A seal among them ends the log,
// and is returned instead. A seal ahead is returned with the state of the object
// before it, which takes one more GET.
func Load(ctx context.Context, store objstore.Store, vol Volume, g Generation) (*Object, error) {
	o, err := get(ctx, store, vol, g)
	if err != nil {
		return nil, err
	}
	if o.SealAhead() {
		last, err := Load(ctx, store, vol, Generation{Epoch: g.Epoch, Number: g.Number - 1})
		if err != nil || last.Closes() {
			return last, err
		}
		return o.closing(last), nil
	}
	before, err := getAll(ctx, store, vol, Generation{Epoch: g.Epoch, Number: g.Number - uint64(o.Ahead)}, uint64(o.Ahead), false)
	if err != nil {
		return nil, err
	}
	for _, b := range before {
		if b.SealAhead() {
			return Load(ctx, store, vol, b.Generation)
		}
		if b.Closes() {
			return b, nil
		}
	}
	return o, nil
}

// getAll reads count objects of one epoch in parallel. A missing one is errs.NotFound, or, if
// some may be missing, nil.
func getAll(ctx context.Context, store objstore.Store, vol Volume, first Generation, count uint64, some bool) ([]*Object, error) {
	list := make([]*Object, count)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for i := range list {
		g.Go(func() error {
			o, err := get(ctx, store, vol, Generation{Epoch: first.Epoch, Number: first.Number + uint64(i)})
			if list[i] = o; some && errors.Is(err, errs.NotFound) {
				list[i], err = nil, nil
			}
			return err
		})
	}
	return list, g.Wait()
}

// get reads one object and checks that it belongs at its key. If it only lacks keys for
// it, it returns its header with the error.
func get(ctx context.Context, store objstore.Store, vol Volume, g Generation) (*Object, error) {
	log, err := LogOf(ctx, store, vol)
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", g, vol, err)
	}
	key := log.Key(g)
	raw, err := store.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", g, vol, err)
	}
	o, err := open(ctx, store, vol.Tenant, key, raw)
	if err != nil {
		if errors.Is(err, errs.Unavailable) {
			o, _ = DecodeHeader(raw) // damaged: nil
		}
		return o, fmt.Errorf("commit %s of %s (%s): %w", g, vol, key, err)
	}
	if err := o.belongs(ctx, store, log, g); err != nil {
		return nil, err
	}
	return o, nil
}

// Listed is find and Load: the object that is the volume according to the store's
// list. It starts again if the log changes between the two.
func Listed(ctx context.Context, store objstore.Store, vol Volume) (*Object, error) {
	var last error
	for range moves {
		g, err := find(ctx, store, vol)
		if err != nil {
			return nil, err
		}
		o, err := Load(ctx, store, vol, g)
		if err == nil && o.Kind != Stub {
			return o, nil
		}
		// A tip is never removed or replaced by a stub, so this is no longer the tip.
		if err == nil {
			err = errs.New(errs.Corrupt, "the newest commit of %s, %s, is a stub", vol, g)
		} else if !errors.Is(err, errs.NotFound) {
			return nil, err
		}
		last = err
	}
	return nil, errs.New(errs.Unavailable, "%w; the log of %s moves while it is read", last, vol)
}

// Newest is Listed, and makes sure with one HEAD that nothing follows: LIST, GET
// and HEAD. If the log grows meanwhile, it returns an object that was the newest at
// some moment after the call began.
func Newest(ctx context.Context, store objstore.Store, vol Volume) (*Object, error) {
	for try := 1; ; try++ {
		o, err := Listed(ctx, store, vol)
		if err != nil {
			return nil, err
		}
		if moved, err := Moved(ctx, store, vol, o); err != nil {
			return nil, err
		} else if !moved || try == overtaken {
			return o, nil
		}
	}
}

// NewestAt is Newest for a log whose tip is known from a listing: GET and HEAD.
func NewestAt(ctx context.Context, store objstore.Store, vol Volume, g Generation) (*Object, error) {
	if o, err := Load(ctx, store, vol, g); err == nil && o.Kind != Stub {
		if moved, err := Moved(ctx, store, vol, o); err != nil || !moved {
			return o, err
		}
	} else if err != nil && !errors.Is(err, errs.NotFound) {
		return nil, err
	}
	return Newest(ctx, store, vol)
}

// Moved tells, with one HEAD, whether something follows the object in its log. While
// nothing follows, the object is the tip, and complete.
//
// no-silent-rollback: an object that follows must be in the next list; otherwise the
// error is errs.Unsupported.
func Moved(ctx context.Context, store objstore.Store, vol Volume, o *Object) (bool, error) {
	next := o.following()
	key, err := KeyOf(ctx, store, vol, next)
	if err == nil {
		_, err = store.Head(ctx, key)
	}
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking behind commit %s of %s: %w", o.Generation, vol, err)
	}
	now, err := find(ctx, store, vol)
	if err == nil && now.Compare(next) < 0 {
		err = unlisted(vol, now, next)
	}
	return true, err
}

// following is where the log continues after the object.
func (o *Object) following() Generation {
	if o.Closes() {
		return o.Generation.NextEpoch()
	}
	return o.Generation.Next()
}
