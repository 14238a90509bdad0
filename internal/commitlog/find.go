package commitlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
)

const (
	listPage = 1000
	// moves is how often a reader or claimer starts again because the log moved
	// on between two of its requests. Owners commit at a pace that a few tries
	// overtake; the bound is against a log that is broken.
	moves = 32
)

// tipFinder finds the tip (rule 7) in the keys of a log, given in the order of a
// listing: epochs from the newest, the numbers of each from the first. The tip
// is the end of the unbroken run of the greatest epoch that has a first object.
type tipFinder struct{ tip Generation }

// add takes the next key; done says that what follows cannot change the tip.
func (f *tipFinder) add(g Generation) (done bool) {
	switch {
	case f.tip.IsZero(): // an epoch without a first object is not begun
		if g.Number == 1 {
			f.tip = g
		}
		return false
	case g == f.tip.Next():
		f.tip = g
		return false
	}
	return true // a gap, or the next older epoch
}

// Find returns the place of the newest object of the volume's log, with one
// LIST, or two if its epoch has 1000 objects or more; problem.NotFound if there
// is no log. An object that was sent ahead may lie beyond a seal (rule 6): Load
// tells.
func Find(ctx context.Context, store objstore.Store, vol Volume) (Generation, error) {
	if err := vol.Check(); err != nil {
		return Generation{}, err
	}
	var (
		f     tipFinder
		after string
	)
	for {
		infos, err := store.List(ctx, vol.prefix(), after, listPage)
		if err != nil {
			return Generation{}, fmt.Errorf("finding the newest commit of %s: %w", vol, err)
		}
		done := len(infos) < listPage
		for _, in := range infos {
			after = in.Key
			if _, g, err := ParseKey(in.Key); err == nil && f.add(g) { // what is no commit is not ours to judge
				done = true
				break
			}
		}
		if done {
			return f.tip, notFound(vol, f.tip)
		}
	}
}

func notFound(vol Volume, tip Generation) error {
	if tip.IsZero() {
		return problem.New(problem.NotFound, "volume %s is not in the store", vol)
	}
	return nil
}

// Load reads the object at a generation that Find returned, with one GET. If the
// object was sent ahead of others, those are read too, and a seal among them,
// which ends the log, is returned in its place.
func Load(ctx context.Context, store objstore.Store, vol Volume, g Generation) (*Object, error) {
	o, err := get(ctx, store, vol, g)
	if err != nil {
		return nil, err
	}
	for n := g.Number - uint64(o.Ahead); n < g.Number; n++ {
		before, err := get(ctx, store, vol, Generation{g.Epoch, n})
		if err != nil {
			return nil, err
		}
		if before.Closes() {
			return before, nil
		}
	}
	return o, nil
}

// get reads one object and checks that it is the one of its place.
func get(ctx context.Context, store objstore.Store, vol Volume, g Generation) (*Object, error) {
	key := vol.Key(g)
	raw, err := store.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", g, vol, err)
	}
	o, err := Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s (%s): %w", g, vol, key, err)
	}
	if o.Generation != g || o.State.Volume() != vol {
		return nil, problem.New(problem.Corrupt, "%s holds commit %s of %s", key, o.Generation, o.State.Volume())
	}
	return o, nil
}

// Newest is Find and Load: the object that is the volume. It begins again if the
// log moves on between the two.
func Newest(ctx context.Context, store objstore.Store, vol Volume) (*Object, error) {
	var last error
	for range moves {
		g, err := Find(ctx, store, vol)
		if err != nil {
			return nil, err
		}
		o, err := Load(ctx, store, vol, g)
		if err == nil && o.Kind != Stub {
			return o, nil
		}
		// A tip is never removed or made a stub: it is the tip no more.
		if err == nil {
			err = problem.New(problem.Corrupt, "the newest commit of %s, %s, is a stub", vol, g)
		} else if !errors.Is(err, problem.NotFound) {
			return nil, err
		}
		last = err
	}
	return nil, problem.New(problem.Unavailable, "%w; the log of %s moves while it is read", last, vol)
}
