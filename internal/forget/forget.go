// Package forget removes what the store keeps of names for ever: the stubs and the tombstone
// of volumes that were removed long ago, on an operator's word.
package forget

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
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
)

// sideBySide is how many logs are read at a time.
const sideBySide = 32

// Names runs a round of collection, and then forgets the names of removed volumes of which
// nothing but stubs and the tombstone is left, if the tombstone is older than the retention.
// It returns their logs. A dry run only lists them.
//
// The stubs are what fences a host that was away when its volume was removed: without them
// it would publish under the name again, and what it sent long ago may appear in the log
// of another volume of that name. So nothing is done without force if a name would be
// forgotten.
func Names(ctx context.Context, o gc.Options, force bool) (res gc.Result, logs []commitlog.Volume, err error) {
	if !force && !o.DryRun {
		list, err := forgettable(ctx, &o)
		if err != nil {
			return res, nil, err
		}
		if n := len(list); n > 0 {
			return res, nil, errs.New(errs.WouldLose, "%d name(s) of removed volumes would be forgotten, such as %s. A host that was away since before such a volume was removed "+
				"would still take it for its own, and publish it again; --force forgets them, when no such host is left", n, list[0].name)
		}
	}
	if res, err = gc.Run(ctx, o); err != nil || !force && !o.DryRun {
		return res, nil, err
	}
	list, err := forgettable(ctx, &o)
	if err != nil {
		return res, nil, err
	}
	for _, l := range list {
		if !o.DryRun {
			if err := l.forget(ctx, o.Store); err != nil {
				return res, logs, fmt.Errorf("forgetting the name %s: %w", l.name, err)
			}
		}
		logs = append(logs, l.vol)
	}
	return res, logs, nil
}

// log is the log of one volume, as a list shows it.
type log struct {
	vol     commitlog.Volume
	name    commitlog.Volume       // as its objects have it
	objects []commitlog.Generation // the newest epoch first
	young   bool                   // an object of the newest epoch is not old enough
}

// tip is the newest epoch that has an object.
func (l *log) tip() uint64 { return l.objects[0].Epoch }

// forgettable returns the logs of which nothing is left that anybody needs.
func forgettable(ctx context.Context, o *gc.Options) ([]*log, error) {
	logs, err := list(ctx, o)
	if err != nil {
		return nil, err
	}
	// A pin whose object is gone stops every collector. An open round puts stubs back.
	pinned := map[commitlog.Volume]bool{}
	err = pinobject.List(ctx, o.Store, "", func(p pinobject.Pin) error {
		for _, key := range append([]string{p.Commit}, p.Commits...) {
			if vol, _, err := commitlog.ParseKey(key); err == nil {
				pinned[vol] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	flagged, err := gc.LookAll(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	keyed := o.Store
	if o.Tenants != nil {
		keyed = o.Tenants.Keyed(o.Store)
	}
	var mu sync.Mutex
	var out []*log
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for _, l := range logs {
		if l.young || pinned[l.vol] || !l.mayBeForgotten() || slices.ContainsFunc(l.objects, func(at commitlog.Generation) bool { return flagged.Commit(l.vol, at.Epoch) }) {
			continue
		}
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			ok, err := l.onlyStubs(gctx, keyed)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				out = append(out, l)
			}
			return err
		})
	}
	return out, g.Wait()
}

// list lists all logs. A log is young if its newest epoch is not older than the retention,
// by the store's clock; a dry run, which writes nothing, takes the newest object for the
// present.
func list(ctx context.Context, o *gc.Options) ([]*log, error) {
	var logs []*log
	modified := map[*log]time.Time{} // the newest object of the newest epoch
	var now time.Time
	err := objstore.ListAll(ctx, o.Store, "t/", "", func(in objstore.Info) bool {
		if in.Modified.After(now) {
			now = in.Modified
		}
		vol, at, err := commitlog.ParseKey(in.Key)
		if err != nil {
			return true
		}
		if len(logs) == 0 || logs[len(logs)-1].vol != vol {
			logs = append(logs, &log{vol: vol})
		}
		l := logs[len(logs)-1]
		if l.objects = append(l.objects, at); at.Epoch == l.tip() && in.Modified.After(modified[l]) {
			modified[l] = in.Modified
		}
		return true
	})
	if err == nil && !o.DryRun {
		now, err = gc.StoreTime(ctx, o.Store, o.By)
	}
	for _, l := range logs {
		l.young = modified[l].After(now.Add(-o.Retention))
	}
	return logs, err
}

// mayBeForgotten tells whether a log can have nothing but stubs: at most one for the first
// object of each epoch and one for its seal.
func (l *log) mayBeForgotten() bool {
	n := map[uint64]int{}
	for _, at := range l.objects {
		if n[at.Epoch]++; n[at.Epoch] > 2 {
			return false
		}
	}
	return slices.Contains(l.objects, commitlog.Generation{Epoch: l.tip(), Number: 1})
}

// onlyStubs tells whether the log ends in the tombstone of a removal, and has only stubs
// before it. A log of nothing but stubs is what an earlier call left that was interrupted:
// the newest object of a log is never replaced by one.
func (l *log) onlyStubs(ctx context.Context, store objstore.Store) (bool, error) {
	for _, at := range l.objects {
		raw, err := store.Get(ctx, l.vol.Key(at))
		if errors.Is(err, errs.NotFound) {
			return false, nil // somebody is at work there
		}
		if err != nil {
			return false, err
		}
		o, err := commitlog.Read(ctx, store, l.vol.Key(at), raw)
		if err != nil {
			return false, nil // a newer program's, damaged, or of a locked tenant: glide gc says so
		}
		l.name = o.State.Volume()
		if removal := o.Tombstone && o.State.RenamedTo == ""; o.Kind != commitlog.Stub && (at.Epoch < l.tip() || !removal) {
			return false, nil
		}
	}
	return true, nil
}

// forget deletes a log. The first object of epoch 1 goes last, and only if nothing else is
// left: while it is there, no host takes the name for one that was never used, and no two
// volumes can get it. The tombstone goes before, so that what a crash leaves can be told
// from a volume.
func (l *log) forget(ctx context.Context, store objstore.Store) error {
	guard := l.vol.Key(commitlog.Generation{Epoch: 1, Number: 1})
	tombstone := l.vol.Key(commitlog.Generation{Epoch: l.tip(), Number: 1})
	var keys []string
	for _, at := range l.objects {
		if k := l.vol.Key(at); k != guard && k != tombstone {
			keys = append(keys, k)
		}
	}
	for batch := range slices.Chunk(keys, 1000) {
		if err := store.DeleteBatch(ctx, batch); err != nil {
			return err
		}
	}
	if tombstone != guard {
		if err := store.DeleteBatch(ctx, []string{tombstone}); err != nil {
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
	return store.DeleteBatch(ctx, []string{guard})
}
