// Package listing lists what lies under a prefix of keys, part by part.
package listing

import (
	"context"
	"strings"

	"github.com/paraglide/glide/internal/objstore"
)

// PageSize is how many keys a page has.
const PageSize = 1000

// Children calls fn once for each part that follows prefix in keys and is valid.
func Children(ctx context.Context, store objstore.Store, prefix string, valid func(string) bool, fn func(string) error) error {
	last := ""
	return Pages(ctx, store, prefix, valid, func(child, _ string) error {
		if child == last {
			return nil
		}
		last = child
		return fn(child)
	}, func() {})
}

// Pages calls fn with the keys under prefix, and with the part of each that follows
// prefix, if that is valid. If a page ends within one part, it skips the rest of that part
// ("0" is the byte after "/") and calls skips.
func Pages(ctx context.Context, store objstore.Store, prefix string, valid func(string) bool, fn func(child, key string) error, skips func()) error {
	after, last := "", ""
	for {
		infos, err := store.List(ctx, prefix, after, PageSize)
		if err != nil {
			return err
		}
		for _, in := range infos {
			child, _, ok := strings.Cut(strings.TrimPrefix(in.Key, prefix), "/")
			if !ok || !valid(child) {
				continue
			}
			last = child
			if err := fn(child, in.Key); err != nil {
				return err
			}
		}
		if len(infos) < PageSize {
			return nil
		}
		after = infos[len(infos)-1].Key
		if last != "" && strings.HasPrefix(after, prefix+last+"/") {
			skips()
			after = prefix + last + "0"
		}
	}
}
