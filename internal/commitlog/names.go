package commitlog

import (
	"context"
	"strings"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
)

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
