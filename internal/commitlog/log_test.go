package commitlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

func TestKeys(t *testing.T) {
	for g, want := range map[Generation]string{
		{Epoch: 1, Number: 1}:                  "t/default/volumes/disk/log/fffffffffffffffe/0000000001",
		{Epoch: 3, Number: 10}:                 "t/default/volumes/disk/log/fffffffffffffffc/0000000010",
		{Epoch: 1<<64 - 2, Number: 9999999999}: "t/default/volumes/disk/log/0000000000000001/9999999999",
	} {
		key := disk.Key(g)
		if key != want {
			t.Errorf("Key(%s) = %s, want %s", g, key, want)
		}
		vol, back, err := ParseKey(key)
		check(t, err)
		if vol != disk || back != g {
			t.Errorf("ParseKey(%s) = %s, %s", key, vol, back)
		}
		check(t, objstore.CheckKey(key))
	}
	if disk.Key(Generation{Epoch: 2, Number: 1}) > disk.Key(Generation{Epoch: 1, Number: 9}) {
		t.Error("the newest epoch does not list first")
	}
	for _, bad := range []string{
		"", "t/default/volumes/disk/log/fffffffffffffffe", "t/default/volumes/disk/log/ffffffffffffffff/0000000001",
		"t/default/volumes/disk/log/fffffffffffffffe/0000000000", "t/default/volumes/disk/log/fffffffffffffffe/1",
		"t/default/volumes/disk/log/FFFFFFFFFFFFFFFE/0000000001", "t/default/volumes/disk/log/fffffffffffffffe/00000000010",
		"t/default/volumes/.disk/log/fffffffffffffffe/0000000001", "x/default/volumes/disk/log/fffffffffffffffe/0000000001",
		"t/default/volumes/disk/log/fffffffffffffffe/0000000001/x", "t/default/volumes/disk/log/0000000000000000/0000000001",
	} {
		_, _, err := ParseKey(bad)
		wantKind(t, err, errs.Invalid)
	}
}

func TestGenerationText(t *testing.T) {
	for _, g := range []Generation{{}, {Epoch: 1, Number: 1}, {Epoch: 3, Number: 10}, {Epoch: 1<<64 - 2, Number: 9999999999}} {
		text, err := json.Marshal(g)
		check(t, err)
		var back Generation
		check(t, json.Unmarshal(text, &back))
		if back != g {
			t.Errorf("%v became %s became %v", g, text, back)
		}
	}
	for _, bad := range []string{"", "3", "3.", ".3", "3.0", "0.3", "03.1", "3.01", "+3.1", "3.1.1", "3.1 ", "-1.1", "18446744073709551615.1"} {
		_, err := ParseGeneration(bad)
		wantKind(t, err, errs.Invalid)
	}
	order := []Generation{{}, {Epoch: 1, Number: 1}, {Epoch: 1, Number: 2}, {Epoch: 1, Number: 10}, {Epoch: 2, Number: 1}, {Epoch: 10, Number: 1}}
	if !slices.IsSortedFunc(order, Generation.Compare) {
		t.Error("Compare does not order generations")
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(disk.Key(Generation{Epoch: 3, Number: 10}))
	f.Add("3.10")
	f.Fuzz(func(t *testing.T, s string) {
		if vol, g, err := ParseKey(s); err == nil && vol.Key(g) != s {
			t.Errorf("%q was read as %s of %s", s, g, vol)
		}
		if g, err := ParseGeneration(s); err == nil && g.String() != s {
			t.Errorf("%q was read as %s", s, g)
		}
	})
}

func TestTipFinder(t *testing.T) {
	for _, c := range []struct {
		name string
		keys string // as listed: epochs from the newest
		want string
	}{
		{"nothing", "", "0.0"},
		{"one", "1.1", "1.1"},
		{"a run", "1.1 1.2 1.3", "1.3"},
		{"beyond a gap", "1.1 1.2 1.4 1.5", "1.2"},
		{"a new epoch", "2.1 1.1 1.2 1.3", "2.1"},
		{"an epoch that is not begun", "3.2 3.3 2.1 2.2 1.1", "2.2"},
		{"an older epoch continues the number", "2.1 1.2 1.3", "2.1"},
		{"an epoch was forgotten", "5.1 5.2 2.1 2.2", "5.2"},
		{"only what is not begun", "2.2 1.3", "0.0"},
	} {
		var f tipFinder
		for text := range strings.FieldsSeq(c.keys) {
			g, err := ParseGeneration(text)
			check(t, err)
			if f.add(g) {
				break
			}
		}
		if f.tip.String() != c.want {
			t.Errorf("%s: the tip of %q is %s, want %s", c.name, c.keys, f.tip, c.want)
		}
	}
}

// counted runs f and returns the requests that it made.
func counted(t *testing.T, mem objstore.Store, f func(context.Context, objstore.Store)) objstore.Counts {
	t.Helper()
	var c objstore.Counter
	f(ctx, objstore.Count(mem, &c))
	return c.Counts()
}

// find takes one LIST, whatever the log's length; epochs that are longer than owners
// make them take more.
func TestFindRequests(t *testing.T) {
	raw := []byte("x") // find does not read
	plant := func(store objstore.Store, g Generation) { check(t, store.Put(ctx, disk.Key(g), raw)) }
	for _, c := range []struct {
		name  string
		fill  func(objstore.Store)
		want  Generation
		lists uint64
	}{
		{"3000 epochs", func(s objstore.Store) {
			for e := range uint64(3000) {
				plant(s, Generation{Epoch: e + 1, Number: 1})
				plant(s, Generation{Epoch: e + 1, Number: 2})
			}
		}, Generation{Epoch: 3000, Number: 2}, 1},
		{"the longest epoch", func(s objstore.Store) {
			for _, e := range []uint64{8, 9, 10, 11} { // seals ahead, of several claims
				plant(s, Generation{Epoch: e, Number: 2})
			}
			epochOf(plant, maxEpoch)(s)
		}, Generation{Epoch: 7, Number: maxEpoch}, 1},
		{"an epoch of 999", epochOf(plant, 999), Generation{Epoch: 7, Number: 999}, 1},
		{"an epoch of 1000", epochOf(plant, 1000), Generation{Epoch: 7, Number: 1000}, 2},
		{"an epoch of 1999", epochOf(plant, 1999), Generation{Epoch: 7, Number: 1999}, 2},
		{"an epoch of 2500, which no owner makes", epochOf(plant, 2500), Generation{Epoch: 7, Number: 2500}, 3},
		{"objects of others", func(s objstore.Store) {
			plant(s, Generation{Epoch: 1, Number: 1})
			check(t, s.Put(ctx, disk.prefix()+"fffffffffffffffe/junk", raw))
			check(t, s.Put(ctx, disk.prefix()+"0junk", raw))
		}, Generation{Epoch: 1, Number: 1}, 1},
	} {
		mem := newStore().Store
		c.fill(mem)
		n := counted(t, mem, func(ctx context.Context, s objstore.Store) {
			got, err := find(ctx, s, disk)
			check(t, err)
			if got != c.want {
				t.Errorf("%s: the tip is %s, want %s", c.name, got, c.want)
			}
		})
		if n.List != c.lists || n.Requests() != c.lists {
			t.Errorf("%s: %+v, want %d LISTs", c.name, n, c.lists)
		}
	}
}

func epochOf(plant func(objstore.Store, Generation), n uint64) func(objstore.Store) {
	return func(s objstore.Store) {
		plant(s, Generation{Epoch: 6, Number: 1})
		for i := range n {
			plant(s, Generation{Epoch: 7, Number: i + 1})
		}
	}
}

func TestNotInStore(t *testing.T) {
	store := newStore()
	_, err := find(ctx, store, disk)
	wantKind(t, err, errs.NotFound)
	_, err = newOwner(t, store, "a", 1).Claim(ctx, CauseWake, nil)
	wantKind(t, err, errs.NotFound)
	wantKind(t, History(ctx, store, disk, Generation{}, 0, nil), errs.NotFound)
	_, err = find(ctx, store, Volume{"default", "../x"})
	wantKind(t, err, errs.Invalid)
}

// An object that was sent ahead, beyond a seal, is no part of the log (rule 6).
func TestLoadAheadOfASeal(t *testing.T) {
	store := newStore()
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 1}, Kind: First})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 2}, Kind: Commit})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 3}, Kind: Commit, Ahead: 1})
	if o := newest(t, store, disk); o.Generation != (Generation{Epoch: 1, Number: 3}) {
		t.Errorf("the tip is %s, want 1.3: all before it took effect", o.Generation)
	}
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 4}, Kind: Seal})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 5}, Kind: Commit, Ahead: 1})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 6}, Kind: Commit, Ahead: 2})
	if o := newest(t, store, disk); o.Generation != (Generation{Epoch: 1, Number: 4}) {
		t.Errorf("the tip is %s, want the seal 1.4", o.Generation)
	}
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 commit", "1.3 commit", "1.4 seal")
	o := newOwner(t, store, "b", 1)
	_, err := o.Claim(ctx, CauseWake, nil)
	check(t, err)
	if o.Generation() != (Generation{Epoch: 2, Number: 1}) {
		t.Errorf("claimed at %s, want 2.1", o.Generation())
	}
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 commit", "1.3 commit", "1.4 seal", "2.1 first")
}

func TestLoadChecksThePlace(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	raw, err := store.Get(ctx, disk.Key(Generation{Epoch: 1, Number: 1}))
	check(t, err)
	check(t, store.Put(ctx, disk.Key(Generation{Epoch: 2, Number: 1}), raw))
	_, err = Newest(ctx, store, disk)
	wantKind(t, err, errs.Corrupt)
	other := Volume{"default", "other"}
	check(t, store.Put(ctx, other.Key(Generation{Epoch: 1, Number: 1}), raw))
	_, err = Newest(ctx, store, other)
	wantKind(t, err, errs.Corrupt)
	check(t, store.Put(ctx, other.Key(Generation{Epoch: 1, Number: 1}), []byte("junk")))
	_, err = Newest(ctx, store, other)
	wantKind(t, err, errs.Corrupt)
}

// What was trimmed, and what late requests put back, is left out of the history.
func TestHistoryOfATrimmedEpoch(t *testing.T) {
	store := newStore()
	o := opened(t, store, "a")
	for seq := range uint64(8) {
		commit(t, o, seq+2)
	}
	check(t, o.Roll(ctx)) // 1.10 is the seal
	commit(t, o, 20)
	want := []string{"1.1 first", "1.6 commit", "1.7 commit", "1.8 commit", "1.9 commit", "1.10 seal", "2.1 first", "2.2 commit"}
	for n := uint64(2); n <= 5; n++ {
		check(t, store.Delete(ctx, disk.Key(Generation{Epoch: 1, Number: n})))
	}
	wantShape(t, historyOf(t, store, disk), want...)
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 3}, Kind: Commit})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 5}, Kind: Seal})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 11}, Kind: Commit})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 13}, Kind: Commit})
	put(t, store, &Object{Generation: Generation{Epoch: 9, Number: 2}, Kind: Commit})
	wantShape(t, historyOf(t, store, disk), want...)
	stub(t, store, Generation{Epoch: 1, Number: 1})
	stub(t, store, Generation{Epoch: 1, Number: 10})
	want[0], want[5] = "1.1 stub", "1.10 stub"
	wantShape(t, historyOf(t, store, disk), want...)
	stop := errors.New("enough")
	if err := History(ctx, store, disk, Generation{}, 0, func(*Object) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("History returns %v", err)
	}
}

func TestNames(t *testing.T) {
	mem := newStore().Store
	want := []string{"a", "a-b", "a.b", "a0", "b", "big", "c"}
	for _, name := range want {
		n := uint64(1)
		if name == "big" {
			n = 5000
		}
		for i := range n {
			check(t, mem.Put(ctx, Volume{"default", name}.Key(Generation{Epoch: 1, Number: i + 1}), []byte("x")))
		}
	}
	check(t, mem.Put(ctx, Volume{"other", "z"}.Key(Generation{Epoch: 1, Number: 1}), []byte("x")))
	check(t, mem.Put(ctx, "t/default/volumes/_junk/x", []byte("x")))
	tips := map[string]string{}
	var got []string
	n := counted(t, mem, func(ctx context.Context, s objstore.Store) {
		check(t, Tips(ctx, s, "default", func(name string, tip Generation) error {
			got = append(got, name)
			tips[name] = tip.String()
			return nil
		}))
	})
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the names are %q, want %q", got, want)
	}
	if n.Requests() != 2 { // the second skips what is left of the 5000
		t.Errorf("%d requests for %d volumes", n.Requests(), len(want))
	}
	for _, name := range want {
		tip := "1.1"
		if name == "big" {
			tip = "0.0" // its page does not show it
		}
		if tips[name] != tip || len(tips) != len(want) {
			t.Errorf("the tips are %v", tips)
		}
	}
	got = nil
	check(t, Tenants(ctx, mem, func(name string) error { got = append(got, name); return nil }))
	if !slices.Equal(got, []string{"default", "other"}) {
		t.Errorf("the tenants are %q", got)
	}
	wantKind(t, Tips(ctx, mem, "a/b", nil), errs.Invalid)
}

func TestTipsOfManyVolumes(t *testing.T) {
	mem := newStore().Store
	for i := range 2500 {
		vol := Volume{"default", fmt.Sprintf("v%04d", i)}
		check(t, mem.Put(ctx, vol.Key(Generation{Epoch: 1, Number: 1}), []byte("x")))
		check(t, mem.Put(ctx, vol.Key(Generation{Epoch: 1, Number: 2}), []byte("x")))
	}
	seen := map[string]int{}
	check(t, Tips(ctx, mem, "default", func(name string, _ Generation) error { seen[name]++; return nil }))
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s is named %d times", name, n)
		}
	}
	if len(seen) != 2500 {
		t.Errorf("%d names, want 2500", len(seen))
	}
}

// racing is a store in which something happens after the first LIST.
type racing struct {
	objstore.Store
	then func()
}

func (s *racing) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	infos, err := s.Store.List(ctx, prefix, after, limit)
	if then := s.then; then != nil {
		s.then = nil
		then()
	}
	return infos, err
}

// The tip that was listed may be collected before it is read.
func TestNewestWhileTheLogMoves(t *testing.T) {
	for name, collect := range map[string]func(*objstore.Faults, Generation){
		"stub":    func(s *objstore.Faults, g Generation) { stub(t, s, g) },
		"trimmed": func(s *objstore.Faults, g Generation) { check(t, s.Delete(ctx, disk.Key(g))) },
	} {
		store := newStore()
		a := opened(t, store, "a")
		commit(t, a, 2)
		o, err := Newest(ctx, &racing{store, func() {
			seen := a.Generation()
			check(t, a.Roll(ctx))
			commit(t, a, 3)
			collect(store, seen)
		}}, disk)
		check(t, err)
		if o.State.Seq != 3 {
			t.Errorf("%s: got sequence %d, want 3", name, o.State.Seq)
		}
	}
	store := newStore()
	opened(t, store, "a")
	stub(t, store, Generation{Epoch: 1, Number: 1}) // which no collector does
	_, err := Newest(ctx, store, disk)
	wantKind(t, err, errs.Unavailable)
}
