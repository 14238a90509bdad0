package commitlog

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// hiding has the keys of a tenant that hides names, or why they are not here.
type hiding struct {
	d   *seal.Domain
	why error
}

func (h hiding) Keys(context.Context, string) (Keys, error) {
	return Keys{Domain: h.d, Keyring: 3, Hidden: true}, h.why
}
func (h hiding) ForNames(ctx context.Context, t string) (Keys, error) { return h.Keys(ctx, t) }
func (hiding) Plain(string) bool                                      { return false }
func (hiding) Renew(context.Context, string) error                    { return nil }

// hidingStore is a store for a tenant that hides names. Other tenants have other keys.
func hidingStore(t tb, store objstore.Store) objstore.Store {
	t.Helper()
	key := func(b byte) seal.Key {
		k, err := seal.KeyOf(bytes.Repeat([]byte{b}, seal.KeySize))
		check(t, err)
		return k
	}
	d, err := seal.New(seal.Secrets{Domain: home, Suite: seal.AES256GCM, Roots: map[uint32]seal.Key{1: key(1)}, Current: 1, Conv: key(2), Name: key(3)})
	check(t, err)
	return WithKeys(store, hiding{d: d})
}

// keysIn are the keys of all objects.
func keysIn(t tb, store objstore.Store) (list []string) {
	t.Helper()
	check(t, objstore.ListAll(ctx, store, "", "", func(in objstore.Info) bool { list = append(list, in.Key); return true }))
	return list
}

// TestHiddenNames: names are hidden in one way, which can be told from a name, and hiding
// twice is hiding once.
func TestHiddenNames(t *testing.T) {
	store := hidingStore(t, newStore())
	vol := Volume{Tenant: "acme", Name: "web"}
	log, err := LogOf(ctx, store, vol)
	check(t, err)
	if want := (Volume{"acme", "_pzmapx7aojfpnbj5maqjg56aau"}); log != want {
		t.Errorf("%s is hidden as %s, want %s", vol, log, want)
	}
	if again, err := LogOf(ctx, store, log); err != nil || again != log || !log.Hidden() || vol.Hidden() {
		t.Errorf("hidden twice: %s, %v", again, err)
	}
	if other, err := LogOf(ctx, store, Volume{"acme", "Web"}); err != nil || other == log {
		t.Errorf("another name: %s, %v", other, err)
	}
	g := Generation{Epoch: 3, Number: 10}
	key, err := KeyOf(ctx, store, vol, g)
	check(t, err)
	if want := "t/acme/volumes/" + log.Name + "/log/fffffffffffffffc/0000000010"; key != want {
		t.Errorf("the key is %s, want %s", key, want)
	}
	if v, at, err := ParseKey(key); err != nil || v != log || at != g {
		t.Errorf("%s is read as %s of %s, %v", key, at, v, err)
	}
	for _, wrong := range []string{"_", log.Name[:26], log.Name + "a", strings.ToUpper(log.Name), strings.Replace(log.Name, "p", "1", 1), "_" + log.Name} {
		if _, _, err := ParseKey(Volume{"acme", wrong}.Key(g)); err == nil {
			t.Errorf("%s is a log", wrong)
		}
	}
	if _, _, err := ParseKey(Volume{log.Name, "web"}.Key(g)); err == nil {
		t.Error("a tenant's name is hidden")
	}
	if ValidName(log.Name) || log.Check() == nil {
		t.Error("a user may name a volume like a log")
	}
	s := someState(1)
	s.Tenant, s.Name, s.Owner.ID = "acme", log.Name, "a"
	if s.check() == "" {
		t.Error("a state may have the name of a log")
	}
	plain, err := LogOf(ctx, newStore(), vol)
	if err != nil || plain != vol {
		t.Errorf("without keys: %s, %v", plain, err)
	}
}

// TestHiddenLog: a log is written, claimed, renamed, listed and read by the volume's name,
// and nothing of the store says that.
func TestHiddenLog(t *testing.T) {
	mem := newStore()
	store := hidingStore(t, mem)
	data, err := EncodeData([]Range{{Off: 1 << 20, Len: 9}})
	check(t, err)
	old, now := Volume{"acme", "canary-old"}, Volume{"acme", "canary-new"}
	a := ownerOf(t, store, old, "a", 1)
	check(t, errOf(a.OpenFirst(ctx, someState(1))))
	for seq := range uint64(3) {
		sh, err := a.Ship(ctx, 3+seq, data, func(*State) {})
		check(t, err)
		check(t, errOf(sh.Wait(ctx)))
	}
	check(t, a.Roll(ctx))
	to := ownerOf(t, store, now, "a", 2)
	state := a.State()
	state.After = Generation{}
	check(t, errOf(Rename(ctx, a, to, state)))
	b := ownerOf(t, store, now, "b", 1)
	check(t, errOf(b.Claim(ctx, CauseTakeover, nil)))
	sh, err := b.Ship(ctx, 9, data, func(*State) {})
	check(t, err)
	check(t, errOf(sh.Wait(ctx)))

	tip, err := Newest(ctx, store, now)
	check(t, err)
	oldLog, err := LogOf(ctx, store, old)
	check(t, err)
	log, err := LogOf(ctx, store, now)
	check(t, err)
	if tip.State.Volume() != now || tip.Log() != log || tip.State.RenamedFrom != old.Name {
		t.Errorf("the tip is of %s, renamed from %s, in %s", tip.State.Volume(), tip.State.RenamedFrom, tip.Log())
	}
	carried := tip.Carry()
	runs := carried.DataCommits
	if len(runs) != 2 || runs[0].Name != oldLog.Name || runs[0].Count != 3 || runs[1].Name != log.Name {
		t.Errorf("data commits: %+v", runs)
	}
	n := 0
	check(t, Replay(ctx, store, tip, func([]Range) error { n++; return nil }))
	if n != 4 {
		t.Errorf("%d data commits replayed", n)
	}
	tomb, err := Newest(ctx, store, old)
	check(t, err)
	if !tomb.Tombstone || tomb.State.RenamedTo != now.Name {
		t.Errorf("the old log ends in %+v", tomb)
	}
	if found, err := At(ctx, store, now, someDay); err != nil || found.State.Volume() != now {
		t.Errorf("at its time: %v, %v", found, err)
	}
	var logs []Volume
	check(t, Tips(ctx, store, "acme", func(name string, at Generation) error {
		logs = append(logs, Volume{"acme", name})
		o, err := NewestAt(ctx, store, Volume{"acme", name}, at) // by the log, as by the name
		if err == nil && o.Log().Name != name {
			t.Errorf("%s is listed as %s", o.Log(), name)
		}
		return err
	}))
	if len(logs) != 2 {
		t.Errorf("listed: %v", logs)
	}
	if ok, err := b.Mend(ctx, b.Generation()); err != nil || !ok {
		t.Errorf("mended: %v, %v", ok, err)
	}
	check(t, b.Tombstone(ctx, CauseRemove, ""))
	for _, key := range keysIn(t, mem) {
		raw, err := mem.Get(ctx, key)
		check(t, err)
		if v, _, err := ParseKey(key); err != nil || v != log && v != oldLog || bytes.Contains(raw, []byte("canary")) {
			t.Errorf("%s: %v; its bytes are %q", key, err, raw)
		}
		o, err := Read(ctx, store, key, raw)
		check(t, err)
		check(t, errOf(Read(ctx, store, key, mustSeal(t, o.Stub(), mustDomain(t, store)))))
	}
}

func mustDomain(t tb, store objstore.Store) *seal.Domain {
	t.Helper()
	k, err := keysOf(ctx, store, "acme")
	check(t, err)
	return k.Domain
}

// TestHiddenElsewhere: what is in a log counts only if its state has the name that the log
// stands for, and only under that log's key.
func TestHiddenElsewhere(t *testing.T) {
	mem := newStore()
	store := hidingStore(t, mem)
	web, other := Volume{"acme", "web"}, Volume{"acme", "other"}
	check(t, errOf(ownerOf(t, store, web, "a", 1).OpenFirst(ctx, someState(1))))
	tip, err := Newest(ctx, store, web)
	check(t, err)

	key, err := KeyOf(ctx, store, other, tip.Generation)
	check(t, err)
	raw, err := mem.Get(ctx, tip.Log().Key(tip.Generation))
	check(t, err)
	for _, to := range []string{key, web.Key(tip.Generation)} {
		check(t, mem.Put(ctx, to, raw))
		_, err = Read(ctx, store, to, raw)
		if !errors.Is(err, seal.ErrTag) {
			t.Errorf("the object of another key: %v", err)
		}
	}
	wantKind(t, errOf(Newest(ctx, store, other)), errs.Corrupt)

	// A program with keys that puts the state of one volume into the log of another.
	stray := *tip
	if stray.log, err = LogOf(ctx, store, other); err != nil {
		t.Fatal(err)
	}
	raw = mustSeal(t, &stray, mustDomain(t, store))
	check(t, mem.Put(ctx, key, raw))
	wantKind(t, errOf(Newest(ctx, store, other)), errs.Corrupt)
	wantKind(t, errOf(Read(ctx, store, key, raw)), errs.Corrupt)
	// And one that does not hide.
	stray.log = web
	key = web.Key(tip.Generation)
	wantKind(t, errOf(Read(ctx, store, key, mustSeal(t, &stray, mustDomain(t, store)))), errs.Corrupt)
}

// TestHiddenAndLocked: without keys nobody knows where the log of a volume is, so nothing is
// asked for and nothing is taken for missing. What is listed is locked.
func TestHiddenAndLocked(t *testing.T) {
	mem := newStore()
	store := hidingStore(t, mem)
	web := Volume{"acme", "web"}
	check(t, errOf(ownerOf(t, store, web, "a", 1).OpenFirst(ctx, someState(1))))
	log, err := LogOf(ctx, store, web)
	check(t, err)
	away := errs.New(errs.Unavailable, "the provider is away: %w", seal.ErrLocked)
	counter := &objstore.Counter{}
	locked := WithKeys(objstore.Count(mem, counter), hiding{why: away})
	g := Generation{Epoch: 1, Number: 1}
	for what, err := range map[string]error{
		"newest": errOf(Newest(ctx, locked, web)), "load": errOf(Load(ctx, locked, web, g)), "at": errOf(At(ctx, locked, web, someDay)),
		"look": errOf(Look(ctx, locked, web, g, "a")), "history": History(ctx, locked, web, Generation{}, 0, func(*Object) error { return nil }),
		"claim": errOf(ownerOf(t, locked, web, "b", 1).Claim(ctx, CauseTakeover, nil)),
		"open":  errOf(ownerOf(t, locked, web, "b", 1).OpenFirst(ctx, someState(1))),
	} {
		if !errors.Is(err, seal.ErrLocked) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := counter.Counts().Requests(); n > 0 {
		t.Errorf("%d requests", n)
	}
	n := 0
	check(t, Tips(ctx, locked, "acme", func(name string, _ Generation) error {
		n++
		_, err := Newest(ctx, locked, Volume{"acme", name})
		if name != log.Name || !errors.Is(err, seal.ErrLocked) {
			t.Errorf("%s is listed: %v", name, err)
		}
		return nil
	}))
	if n != 1 {
		t.Errorf("%d logs are listed", n)
	}
}
