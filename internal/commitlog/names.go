package commitlog

import (
	"context"

	"github.com/paraglide/glide/internal/commitlog/internal/listing"
	"github.com/paraglide/glide/internal/commitlog/internal/place"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Tips calls fn once with the name of every log of the tenant, those of removed volumes
// included (their newest object is a tombstone), and with the place
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
	err := listing.Pages(ctx, store, place.Prefix(tenant), place.ValidLog, func(name, key string) error {
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
	return listing.Children(ctx, store, "t/", ValidName, fn)
}
