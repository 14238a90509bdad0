package objstore

import (
	"context"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

// Property is something that a store must do because safety or correctness rests on
// it. Probe proves each before a store is used, and `glide doctor` proves it again.
// Where possible, every answer is checked too.
type Property string

// The properties.
const (
	CreatesOnce    Property = "creates an object only once"       // who owns a volume, and fencing
	ReadsItsWrites Property = "reads back what was written"       // everything
	ReadsRanges    Property = "reads a part of an object"         // blocks of packs
	ForgetsDeleted Property = "forgets what was deleted"          // collection, pins
	ListsAll       Property = "lists everything that was written" // the newest commit
	ListsInOrder   Property = "lists keys in the order of their bytes"
	ListsFrom      Property = "lists from a key on, and page by page"
)

// lacks is the error for a store without a property: none of its answers can be
// trusted.
func (p Property) lacks(s Store, format string, args ...any) error {
	return errs.New(errs.Unsupported, "the store %s cannot be used, it is not true that it %s: "+format+"; %s",
		append(append([]any{s, string(p)}, args...), p.advice())...)
}

func (p Property) advice() string {
	if p == CreatesOnce {
		return "use a store that has conditional writes (If-None-Match), or update it"
	}
	return "use a store that is consistent, or reach it without what lies between"
}

// listChecked checks the answers to List: a wrong or unordered page would hide the
// newest commit and show an old state instead.
type listChecked struct{ Store }

// List implements Store.
func (c listChecked) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	infos, err := c.Store.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	if most := listLimit(limit); len(infos) > most {
		return nil, ListsFrom.lacks(c, "asked for %d keys under %s it gave %d", most, prefix, len(infos))
	}
	last := after
	for _, in := range infos {
		switch {
		case !strings.HasPrefix(in.Key, prefix):
			return nil, ListsFrom.lacks(c, "asked for keys under %s it gave %.200q", prefix, in.Key)
		case in.Key <= after && after != "":
			return nil, ListsFrom.lacks(c, "asked for keys after %s it gave %s", after, in.Key)
		case in.Key <= last && last != "":
			return nil, ListsInOrder.lacks(c, "it gave %s after %s", in.Key, last)
		}
		last = in.Key
	}
	return infos, nil
}
