package commitlog

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
)

// History calls fn for every object of the volume's log that still exists,
// newest first, with one GET for each and one LIST for every 1000. Objects
// beyond a gap or a seal, and those that late requests put back after they were
// trimmed, are no part of the log and are left out (rules 3 and 6). An error of
// fn ends it and is returned. A volume that is not in the store is
// problem.NotFound.
func History(ctx context.Context, store objstore.Store, vol Volume, fn func(*Object) error) error {
	if err := vol.Check(); err != nil {
		return err
	}
	h := history{ctx: ctx, store: store, vol: vol, fn: fn}
	err := objstore.ListAll(ctx, store, vol.prefix(), "", func(in objstore.Info) bool {
		_, g, err := ParseKey(in.Key)
		if err != nil {
			return true
		}
		if len(h.epoch) > 0 && h.epoch[0].Epoch != g.Epoch {
			h.flush()
		}
		h.epoch = append(h.epoch, g)
		return h.err == nil
	})
	if h.err == nil && err == nil {
		h.flush()
	}
	if h.err != nil {
		return h.err
	}
	if err != nil {
		return err
	}
	return notFound(vol, h.tip)
}

// history goes through a log epoch by epoch.
type history struct {
	ctx   context.Context
	store objstore.Store
	vol   Volume
	fn    func(*Object) error

	tip   Generation   // zero until an epoch with a first object was seen
	epoch []Generation // the keys of the epoch that is being listed
	err   error
}

// flush reports the epoch whose keys are complete.
func (h *history) flush() {
	epoch := h.epoch
	h.epoch = nil
	if h.err != nil || len(epoch) == 0 || epoch[0].Number != 1 {
		return // an epoch without a first object is not begun
	}
	if h.tip.IsZero() {
		h.err = h.newest(epoch)
	} else {
		h.err = h.closed(epoch)
	}
}

// newest reports the unbroken run of the newest epoch, up to a seal.
func (h *history) newest(epoch []Generation) error {
	var f tipFinder
	for _, g := range epoch {
		if f.add(g) {
			break
		}
	}
	h.tip = f.tip
	tip, err := Load(h.ctx, h.store, h.vol, f.tip)
	if err != nil {
		return err
	}
	if err := h.fn(tip); err != nil {
		return err
	}
	return h.report(epoch[:tip.Generation.Number-1])
}

// closed reports a closed epoch. It ends in a seal, its first object stays, and
// others may have been trimmed, from the front: what is left is the run before
// the seal.
func (h *history) closed(epoch []Generation) error {
	for i := len(epoch) - 1; i >= 1; i-- {
		o, err := h.get(epoch[i])
		if err != nil {
			return err
		}
		if o == nil || !o.Closes() {
			continue // beyond the seal
		}
		if err := h.fn(o); err != nil {
			return err
		}
		first := i
		for first > 1 && epoch[first-1].Next() == epoch[first] {
			first--
		}
		if err := h.report(epoch[first:i]); err != nil {
			return err
		}
		break
	}
	return h.report(epoch[:1])
}

// report reports objects, the last one first. A seal among them was put back by
// a late request, as was what is before it.
func (h *history) report(gs []Generation) error {
	for _, g := range slices.Backward(gs) {
		o, err := h.get(g)
		if err != nil {
			return err
		}
		if o == nil {
			continue
		}
		if o.Closes() {
			return nil
		}
		if err := h.fn(o); err != nil {
			return err
		}
	}
	return nil
}

// get reads an object; nil if it was removed since it was listed.
func (h *history) get(g Generation) (*Object, error) {
	o, err := get(h.ctx, h.store, h.vol, g)
	if errors.Is(err, problem.NotFound) {
		return nil, nil
	}
	return o, err
}

// Names calls fn once with the name of every volume of the tenant that has a log,
// removed ones included (their newest object is a tombstone). It costs at
// most one LIST for each volume, whatever the length of the logs. An error of fn
// ends it and is returned.
func Names(ctx context.Context, store objstore.Store, tenant string, fn func(name string) error) error {
	if !ValidName(tenant) {
		return problem.New(problem.Invalid, "%.110q is no tenant", tenant)
	}
	return children(ctx, store, tenantPrefix(tenant), fn)
}

// Tenants is Names for the tenants that have volumes in the store.
func Tenants(ctx context.Context, store objstore.Store, fn func(tenant string) error) error {
	return children(ctx, store, "t/", fn)
}

// children calls fn with each different part that follows prefix in keys. After
// a page that ends within one of them it skips the rest of that one: "0" is the
// byte after "/".
func children(ctx context.Context, store objstore.Store, prefix string, fn func(string) error) error {
	after, last := "", ""
	for {
		infos, err := store.List(ctx, prefix, after, listPage)
		if err != nil {
			return err
		}
		for _, in := range infos {
			child, _, ok := strings.Cut(strings.TrimPrefix(in.Key, prefix), "/")
			if !ok || child == last || !ValidName(child) {
				continue
			}
			last = child
			if err := fn(child); err != nil {
				return err
			}
		}
		if len(infos) < listPage {
			return nil
		}
		after = infos[len(infos)-1].Key
		if last != "" && strings.HasPrefix(after, prefix+last+"/") {
			after = prefix + last + "0"
		}
	}
}
