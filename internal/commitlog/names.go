package commitlog

import (
	"context"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Tips calls fn once with the name of every volume of the tenant that has a log,
// removed ones included (their newest object is a tombstone), and with the place
// of its newest object as the listing shows it; zero where it does not, as of
// logs that fill a page: Load tells. It costs at most one LIST for each volume,
// whatever the length of the logs. An error of fn ends it and is returned.
func Tips(ctx context.Context, store objstore.Store, tenant string, fn func(name string, tip Generation) error) error {
	if !ValidName(tenant) {
		return errs.New(errs.Invalid, "%.110q is no tenant", tenant)
	}
	var last string
	var f tipFinder
	done, cut := false, false // last's tip is known; last's keys are incomplete
	report := func() error {
		if last == "" {
			return nil
		}
		if cut || !f.beyond.IsZero() {
			f.tip = Generation{}
		}
		return fn(last, f.tip)
	}
	err := pages(ctx, store, tenantPrefix(tenant), func(name, key string) error {
		if name != last {
			if err := report(); err != nil {
				return err
			}
			last, f, done, cut = name, tipFinder{}, false, false
		}
		if _, g, err := ParseKey(key); err == nil && !done {
			done = f.add(g)
		}
		return nil
	}, func() { cut = !done })
	if err != nil {
		return err
	}
	return report()
}

// Tenants calls fn once with the name of every tenant that has volumes in the store.
func Tenants(ctx context.Context, store objstore.Store, fn func(tenant string) error) error {
	return children(ctx, store, "t/", fn)
}

// children calls fn once for each part that follows prefix in keys.
func children(ctx context.Context, store objstore.Store, prefix string, fn func(string) error) error {
	last := ""
	return pages(ctx, store, prefix, func(child, _ string) error {
		if child == last {
			return nil
		}
		last = child
		return fn(child)
	}, func() {})
}

// pages calls fn with the keys under prefix, and with the part of each that follows
// prefix. If a page ends within one part, it skips the rest of that part ("0" is the
// byte after "/") and calls skips.
func pages(ctx context.Context, store objstore.Store, prefix string, fn func(child, key string) error, skips func()) error {
	after, last := "", ""
	for {
		infos, err := store.List(ctx, prefix, after, listPage)
		if err != nil {
			return err
		}
		for _, in := range infos {
			child, _, ok := strings.Cut(strings.TrimPrefix(in.Key, prefix), "/")
			if !ok || !ValidName(child) {
				continue
			}
			last = child
			if err := fn(child, in.Key); err != nil {
				return err
			}
		}
		if len(infos) < listPage {
			return nil
		}
		after = infos[len(infos)-1].Key
		if last != "" && strings.HasPrefix(after, prefix+last+"/") {
			skips()
			after = prefix + last + "0"
		}
	}
}
