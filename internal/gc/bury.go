package gc

import (
	"context"
	"errors"
	"path"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/objstore"
)

// keyed is the store with the keys for the logs of tenants.
func (c *collector) keyed() objstore.Store {
	if c.Tenants == nil {
		return c.Store
	}
	return c.Tenants.Keyed(c.Store)
}

// load reads an object of a log; nil: it is gone.
func (c *collector) load(ctx context.Context, key string) (*commitlog.Object, error) {
	raw, err := c.Store.Get(ctx, key)
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return commitlog.Read(ctx, c.keyed(), key, raw)
}

// putStub puts the stub of an object in its place: sealed, if the object was.
func (c *collector) putStub(ctx context.Context, o *commitlog.Object) error {
	stub := o.Stub()
	var k commitlog.Keys
	var err error
	if o.Domain != 0 {
		if k, err = c.Tenants.Keys(ctx, o.State.DomainName()); err != nil {
			return err
		}
	}
	raw, err := stub.EncodeFor(k.Domain)
	if err != nil {
		return err
	}
	return c.Store.Put(ctx, o.Log().Key(o.Generation), raw)
}

// bury puts a stub in the place of an epoch's first object, so that nothing of it is a root
// any more.
func (c *collector) bury(ctx context.Context, e reach.PastEpoch) error {
	o, err := c.load(ctx, e.Key())
	if o == nil || err != nil || o.Kind == commitlog.Stub { // nil: its name was forgotten meanwhile
		return err
	}
	return c.putStub(ctx, o)
}

// collect collects a buried epoch: a stub for its seal, nothing for the rest. It may be
// called again.
func (c *collector) collect(ctx context.Context, e reach.EpochID) error {
	at := func(n uint64) string { return e.Log().Key(commitlog.Generation{Epoch: e.Epoch, Number: n}) }
	var numbers []int
	err := objstore.ListAll(ctx, c.Store, path.Dir(e.Key())+"/", "", func(in objstore.Info) bool {
		if _, g, err := commitlog.ParseKey(in.Key); err == nil {
			numbers = append(numbers, int(g.Number))
		}
		return true
	})
	if err != nil {
		return err
	}
	objects := make([]*commitlog.Object, len(numbers)) // nil: another collector is at it, too
	places := make([]int, len(numbers))
	for i := range places {
		places[i] = i
	}
	err = reach.SideBySide(ctx, places, func(ctx context.Context, i int) (err error) {
		objects[i], err = c.load(ctx, at(uint64(numbers[i])))
		return err
	})
	if err != nil {
		return err
	}
	var gone []string
	sealed := false
	for i, o := range objects {
		switch {
		case o == nil:
		case o.Generation.Number == 1:
		case o.Closes() && !sealed && !fault.Is("gc-deletes-seals"):
			sealed = true
			if o.Kind == commitlog.Stub {
				break
			}
			if err := c.putStub(ctx, o); err != nil {
				return err
			}
		default:
			gone = append(gone, at(uint64(numbers[i])))
		}
	}
	return c.remove(ctx, gone)
}
