package gc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
)

// RunAndForget is Run, and then forgets the names of removed volumes of which nothing but
// stubs and the tombstone is left, if the tombstone is older than the retention.
//
// The stubs are what fences a host that was away when its volume was removed: without them
// it would publish under the name again, and what it sent long ago may appear in the log
// of another volume of that name. So nothing is done without force if a name would be
// forgotten. A dry run only counts them.
func RunAndForget(ctx context.Context, o Options, force bool) (Result, error) {
	if !force && !o.DryRun {
		list, err := forgettable(ctx, o)
		if err != nil {
			return Result{}, err
		}
		if n := len(list); n > 0 {
			return Result{}, errs.New(errs.WouldLose, "%d name(s) of removed volumes would be forgotten, such as %s. A host that was away since before such a volume was removed "+
				"would still take it for its own, and publish it again; --force forgets them, when no such host is left", n, list[0].vol)
		}
	}
	res, err := Run(ctx, o)
	if err != nil || !force && !o.DryRun {
		return res, err
	}
	list, err := forgettable(ctx, o)
	if err != nil {
		return res, err
	}
	for _, log := range list {
		if !o.DryRun {
			if err := forget(ctx, o.Store, log); err != nil {
				return res, fmt.Errorf("forgetting the name %s: %w", log.vol, err)
			}
		}
		res.Forgotten = append(res.Forgotten, log.vol)
	}
	return res, nil
}

// forgettable returns the logs of which nothing is left that anybody needs.
func forgettable(ctx context.Context, o Options) ([]*log, error) {
	c := &collector{Options: o}
	if o.DryRun { // it writes nothing
		inv, err := c.inventory(ctx)
		if err != nil {
			return nil, err
		}
		c.at = inv.newest
	} else if _, err := c.now(ctx); err != nil {
		return nil, err
	}
	// A pin whose object is gone stops every collector. An open round puts stubs back.
	needed := map[commitlog.Volume]bool{}
	err := pinobject.List(ctx, o.Store, "", func(p pinobject.Pin) error {
		for _, key := range append([]string{p.Commit}, p.Commits...) {
			if vol, _, err := commitlog.ParseKey(key); err == nil {
				needed[vol] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := newest(ctx, o.Store, 0)
	if err != nil {
		return nil, err
	}
	if r.open() {
		f, err := readFlags(ctx, o.Store, &r)
		if err != nil && !errors.Is(err, errs.NotFound) {
			return nil, err
		}
		for i := 0; err == nil && i < len(f.Epochs); i++ {
			needed[f.Epochs[i].log()] = true
		}
	}
	all, err := listLogs(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var out []*log
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for _, log := range all.volumes {
		if needed[log.vol] || !log.mayBeForgotten(c.at.Add(-o.Retention)) {
			continue
		}
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			ok, err := log.onlyStubs(gctx, o.Store)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				out = append(out, log)
			}
			return err
		})
	}
	return out, g.Wait()
}

// mayBeForgotten tells whether a log, as a list shows it, can end in a tombstone that is
// older than the given time.
func (l *log) mayBeForgotten(before time.Time) bool {
	tip := l.epochs[0]
	if !tip.has(1) {
		return false
	}
	for _, in := range tip.objects { // a seal is of a host that began to use the name again
		if in.Modified.After(before) {
			return false
		}
	}
	return !slices.ContainsFunc(l.epochs, func(e *epoch) bool { return len(e.objects) > 2 }) // stubs for the first object and the seal
}

// onlyStubs tells whether the log ends in the tombstone of a removal, and has only stubs
// before it. A log of nothing but stubs is what an earlier call left that was interrupted:
// the newest object of a log is never replaced by one.
func (l *log) onlyStubs(ctx context.Context, store objstore.Store) (bool, error) {
	for i, e := range l.epochs {
		for n := range e.objects {
			raw, err := store.Get(ctx, l.vol.Key(commitlog.Generation{Epoch: e.number, Number: n}))
			if errors.Is(err, errs.NotFound) {
				return false, nil // somebody is at work there
			}
			if err != nil {
				return false, err
			}
			o, err := commitlog.Decode(raw)
			if err != nil {
				return false, nil // a newer program's, or damaged: glide gc says so
			}
			if removal := o.Tombstone && o.State.RenamedTo == ""; o.Kind != commitlog.Stub && (i > 0 || !removal) {
				return false, nil
			}
		}
	}
	return true, nil
}

// forget deletes a log. The first object of epoch 1 goes last, and only if nothing else is
// left: while it is there, no host takes the name for one that was never used, and no two
// volumes can get it. The tombstone goes before, so that what a crash leaves can be told
// from a volume.
func forget(ctx context.Context, store objstore.Store, l *log) error {
	guard := l.vol.Key(commitlog.Generation{Epoch: 1, Number: 1})
	tombstone := l.vol.Key(commitlog.Generation{Epoch: l.epochs[0].number, Number: 1})
	var keys []string
	for _, e := range l.epochs {
		for n := range e.objects {
			if k := l.vol.Key(commitlog.Generation{Epoch: e.number, Number: n}); k != guard && k != tombstone {
				keys = append(keys, k)
			}
		}
	}
	c := &collector{Options: Options{Store: store}}
	if err := c.remove(ctx, keys); err != nil {
		return err
	}
	if tombstone != guard {
		if err := c.remove(ctx, []string{tombstone}); err != nil {
			return err
		}
		left := 0
		err := objstore.ListAll(ctx, store, path.Dir(path.Dir(guard))+"/", "", func(objstore.Info) bool { left++; return left < 2 })
		if err != nil {
			return err
		}
		if left > 1 {
			return errs.New(errs.Busy, "a host begins to use it again")
		}
	}
	return c.remove(ctx, []string{guard})
}
