package commitlog

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// showing is a store whose lists show what show leaves of them.
type showing struct {
	objstore.Store
	show func(gs []objstore.Info) []objstore.Info
}

func (s *showing) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	infos, err := s.Store.List(ctx, prefix, after, limit)
	return s.show(infos), err
}

// without shows the keys of which hidden is false.
func without(hidden func(Generation) bool) func([]objstore.Info) []objstore.Info {
	return func(infos []objstore.Info) []objstore.Info {
		return slices.DeleteFunc(infos, func(in objstore.Info) bool {
			_, g, err := ParseKey(in.Key)
			return err == nil && hidden(g)
		})
	}
}

// A list that does not show what was written is refused, with the property's
// name, by whoever takes a state for the newest: no-silent-rollback.
func TestShortListsAreRefused(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	for seq := uint64(2); seq < 12; seq++ {
		commit(t, a, seq)
	}
	check(t, a.Roll(ctx)) // 1.12
	for seq := uint64(12); seq < 20; seq++ {
		commit(t, a, seq) // through 2.9
	}
	for name, show := range map[string]func([]objstore.Info) []objstore.Info{
		"newest keys not listed yet":  without(func(g Generation) bool { return g.Epoch == 2 && g.Number > 6 }),
		"the newest key not listed":   without(func(g Generation) bool { return g == Generation{Epoch: 2, Number: 9} }),
		"a key in the middle":         without(func(g Generation) bool { return g == Generation{Epoch: 2, Number: 4} }),
		"the newest epoch not listed": without(func(g Generation) bool { return g.Epoch == 2 }),
		"nor the seal before it":      without(func(g Generation) bool { return g.Epoch == 2 || g.Number == 12 }),
		"its first object not listed": without(func(g Generation) bool { return g == Generation{Epoch: 2, Number: 1} }),
		"cut to 7":                    func(infos []objstore.Info) []objstore.Info { return infos[:min(7, len(infos))] },
	} {
		short := &showing{store, show}
		_, err := Newest(ctx, short, disk)
		t.Run(name, func(t *testing.T) { wantUnlisted(t, err) })
		_, err = newOwner(t, short, "b", 1).Claim(ctx, CauseTakeover, nil)
		t.Run("claim, "+name, func(t *testing.T) { wantUnlisted(t, err) })
		wantUnlisted(t, History(ctx, short, disk, Generation{}, 1, func(*Object) error { return nil }))
	}
	commit(t, a, 30) // the claims did no harm
	late := &showing{store, without(func(g Generation) bool { return g == Generation{Epoch: 2, Number: 10} })}
	late.show = func(infos []objstore.Info) []objstore.Info {
		late.show = func(infos []objstore.Info) []objstore.Info { return infos }
		return without(func(g Generation) bool { return g == Generation{Epoch: 2, Number: 10} })(infos)
	}
	if o := newest(t, late, disk); o.State.Seq != 30 {
		t.Errorf("listed again, it is %d", o.State.Seq)
	}
}

func wantUnlisted(t *testing.T, err error) {
	t.Helper()
	wantKind(t, err, errs.Unsupported)
	if !strings.Contains(err.Error(), "the store's list does not show what was written") {
		t.Error(err)
	}
}

// A number that is missing where objects beyond it prove that it took effect was
// lost; a gap that they do not rule out is none.
func TestHoleInTheLog(t *testing.T) {
	for _, n := range []uint64{3, 7, 8} {
		store := newStore()
		a := opened(t, store, "a")
		for seq := uint64(2); seq < 10; seq++ {
			commit(t, a, seq)
		}
		check(t, store.Delete(ctx, disk.Key(Generation{Epoch: 1, Number: n})))
		_, err := Newest(ctx, store, disk)
		wantUnlisted(t, err)
	}
	store := newStore()
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 1}, Kind: First})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 4}, Kind: Commit, Ahead: 2})
	if o := newest(t, store, disk); o.Generation != (Generation{Epoch: 1, Number: 1}) {
		t.Errorf("the tip is %s", o.Generation)
	}
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 2}, Kind: Commit})
	if o := newest(t, store, disk); o.Generation != (Generation{Epoch: 1, Number: 2}) {
		t.Errorf("the tip is %s", o.Generation)
	}
}

// A hole that only going back through the log shows is named, too.
func TestHoleInTheHistory(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	for seq := uint64(2); seq < 30; seq++ {
		commit(t, a, seq)
	}
	shown := &showing{store, func(infos []objstore.Info) []objstore.Info { return infos }}
	infos, err := store.List(ctx, disk.prefix(), "", 1000)
	check(t, err)
	shown.show = func([]objstore.Info) []objstore.Info { return infos }
	check(t, store.Delete(ctx, disk.Key(Generation{Epoch: 1, Number: 7})))
	wantKind(t, History(ctx, shown, disk, Generation{}, 0, func(*Object) error { return nil }), errs.Unsupported)
}
