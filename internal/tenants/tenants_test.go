package tenants

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

var ctx = context.Background()

// facts is a Memory.
type facts map[string][]byte

func (f facts) SetFact(name string, value []byte) error { f[name] = bytes.Clone(value); return nil }

func (f facts) Facts(prefix string, fn func(string, []byte) error) error {
	for name, value := range f {
		if strings.HasPrefix(name, prefix) {
			if err := fn(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// bed is a store, and processes on it whose clock the test moves.
type bed struct {
	*testing.T
	store objstore.Store
	fail  error // what the store answers
	now   time.Duration
	calls int // requests
}

func newBed(t *testing.T) *bed { return &bed{T: t, store: objstore.NewMem(objstore.Clock{})} }

// failing is the store of a bed.
type failing struct {
	objstore.Store
	b *bed
}

func (f failing) Get(ctx context.Context, key string) ([]byte, error) {
	if f.b.calls++; f.b.fail != nil {
		return nil, f.b.fail
	}
	return f.Store.Get(ctx, key)
}

func (f failing) List(ctx context.Context, prefix, after string, most int) ([]objstore.Info, error) {
	if f.b.calls++; f.b.fail != nil {
		return nil, f.b.fail
	}
	return f.Store.List(ctx, prefix, after, most)
}

func (b *bed) drop(key string) error { return b.store.DeleteBatch(ctx, []string{key}) }

func (b *bed) process(m Memory, with ...keys.Provider) *Tenants {
	b.Helper()
	t := New(Options{
		Store: failing{b.store, b}, Providers: with, Now: time.Now, Uptime: func() time.Duration { return b.now }, Log: slog.New(slog.DiscardHandler),
	})
	if m != nil {
		if err := t.Recall(m); err != nil {
			b.Fatal(err)
		}
	}
	return t
}

func (b *bed) key(name string, fill byte) keys.Provider {
	b.Helper()
	path := filepath.Join(b.TempDir(), name)
	if err := os.WriteFile(path, bytes.Repeat([]byte{fill}, 32), 0o600); err != nil {
		b.Fatal(err)
	}
	p, err := keys.Parse("file:" + path)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func (b *bed) create(t *Tenants, name string, key keys.Provider) Info {
	b.Helper()
	i, err := t.Create(ctx, Birth{Name: name, Keys: []keys.Provider{key}, OneKey: true, Suite: seal.AES256GCM})
	if err != nil {
		b.Fatal(err)
	}
	return i
}

// current is the root with which a process seals for a tenant, 0 if it does not.
func (b *bed) current(t *Tenants, name string) uint32 {
	b.Helper()
	k, err := t.Keys(ctx, name)
	if err != nil {
		b.Fatal(err)
	}
	if k.Domain == nil {
		return 0
	}
	return k.Domain.Current()
}

// TestFoundWhenNeeded: nothing is asked until a tenant is needed, then once.
func TestFoundWhenNeeded(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	b.create(b.process(nil, key), "acme", key)
	b.calls = 0
	p := b.process(facts{}, key)
	for _, name := range []string{"acme", "other"} {
		_ = p.Hasher(name)
	}
	if b.calls != 0 || !p.Plain("acme") {
		t.Fatalf("%d requests before anybody needed anything", b.calls)
	}
	if b.current(p, "acme") != 1 || b.current(p, "other") != 0 || p.Plain("acme") || !p.Plain("other") {
		t.Error("acme is sealed, and other is not")
	}
	if h, err := p.Hasher("acme").Ready(ctx); err != nil || h.Codec().Domain == nil {
		t.Errorf("%v", err)
	}
	n := b.calls
	for range 10 {
		b.current(p, "acme")
		b.current(p, "other")
	}
	if b.calls != n {
		t.Errorf("%d requests more", b.calls-n)
	}
}

// TestLocked: each reason for which keys are not here is another error; all are Unavailable,
// and none makes the tenant a plain one. When the keys are back, so is the tenant.
func TestLocked(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	b.create(b.process(nil, key), "acme", key)
	for name, with := range map[string][]keys.Provider{"no provider": nil, "another key": {b.key("other", 2)}} {
		p := b.process(nil, with...)
		_, err := p.Keys(ctx, "acme")
		if !errors.Is(err, keys.ErrWrongKey) || !errors.Is(err, seal.ErrLocked) || errs.KindOf(err) != errs.Unavailable || p.Plain("acme") {
			t.Errorf("%s: %v", name, err)
		}
		h := p.Hasher("acme")
		if _, err := h.In(0); !errors.Is(err, keys.ErrWrongKey) {
			t.Errorf("%s: a locked tenant reads what is plain: %v", name, err)
		}
		if _, err := h.Renewed(ctx); !errors.Is(err, keys.ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "late")
	late, err := keys.Parse("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	p := b.process(nil, late)
	if _, err := p.Keys(ctx, "acme"); !errors.Is(err, keys.ErrAway) {
		t.Fatalf("a key file that is missing: %v", err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	n := b.calls
	if _, err := p.Keys(ctx, "acme"); !errors.Is(err, keys.ErrAway) || b.calls != n {
		t.Errorf("asked again at once: %v", err)
	}
	b.now += retryAfter
	if b.current(p, "acme") != 1 {
		t.Error("the key is there, and the tenant is locked")
	}
}

// TestNoDowngrade: a host that saw a tenant sealed takes it for nothing else, whatever the
// store shows.
func TestNoDowngrade(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	m := facts{}
	first := b.process(m, key)
	i := b.create(first, "acme", key)
	record, err := b.store.Get(ctx, "tenants/acme")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := (&Record{Tenant: "acme"}).encode()
	if err != nil {
		t.Fatal(err)
	}
	other, err := (&Record{Tenant: "acme", Domain: i.Domain + 1}).encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"none": nil, "plain": plain, "another domain": other, "cut": record[:20], "a newer version": bytes.Replace(record, []byte(`"version":1`), []byte(`"version":9`), 1)} {
		if err := b.drop("tenants/acme"); err != nil {
			t.Fatal(err)
		}
		if raw != nil {
			if err := b.store.Put(ctx, "tenants/acme", raw); err != nil {
				t.Fatal(err)
			}
		}
		p := b.process(m, key)
		if _, err := p.Keys(ctx, "acme"); !errors.Is(err, seal.ErrLocked) || p.Plain("acme") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Hasher("acme").Ready(ctx); err == nil {
			t.Errorf("%s: the hasher is ready", name)
		}
	}
	if err := b.store.Put(ctx, "tenants/acme", record); err != nil {
		t.Fatal(err)
	}
	// An older keyring than the one that was seen.
	old, err := b.store.Get(ctx, "keys/"+DomainText(i.Domain)+"/0000000001")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Rotate(ctx, "acme", false); err != nil {
		t.Fatal(err)
	}
	if err := b.drop("keys/" + DomainText(i.Domain) + "/0000000002"); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Put(ctx, "keys/"+DomainText(i.Domain)+"/0000000001", old); err != nil {
		t.Fatal(err)
	}
	if _, err := b.process(m, key).Keys(ctx, "acme"); !errors.Is(err, keys.ErrOld) {
		t.Errorf("an old keyring: %v", err)
	}
}

// TestStoreAway: a host that starts while the store is away has the keys of what it saw; it
// knows nothing of others.
func TestStoreAway(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	m := facts{}
	b.create(b.process(m, key), "acme", key)
	b.fail = errs.New(errs.Unavailable, "the store is away")
	p := b.process(m, key)
	if b.current(p, "acme") != 1 {
		t.Error("the keys are not here")
	}
	if _, err := p.Keys(ctx, "new"); !errors.Is(err, b.fail) {
		t.Errorf("a tenant that nobody knows: %v", err)
	}
	wrong := b.process(m, b.key("other", 2))
	if _, err := wrong.Keys(ctx, "acme"); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
	b.fail = nil
	b.now += freshFor
	if b.current(p, "new") != 0 || b.current(p, "acme") != 1 {
		t.Error("the store is back")
	}
}

// TestRotation: another process finds a new root when it lacks it, when it writes after a
// minute, and when the tenant is used all the time; hashes stay the same.
func TestRotation(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	one, two := b.process(nil, key), b.process(nil, key)
	b.create(one, "acme", key)
	sum := one.Hasher("acme").Sum([]byte("a block"))
	b.current(two, "acme")
	rotate := func() {
		t.Helper()
		if _, err := one.Rotate(ctx, "acme", false); err != nil {
			t.Fatal(err)
		}
	}
	rotate()
	if b.current(one, "acme") != 2 || b.current(two, "acme") != 1 {
		t.Fatal("who rotates seals with the new root, and nobody else yet")
	}
	if err := two.Renew(ctx, "acme"); err != nil || b.current(two, "acme") != 2 {
		t.Errorf("renewed: %v", err)
	}
	rotate()
	if h, err := two.Hasher("acme").Renewed(ctx); err != nil || h.Codec().Domain.Current() != 2 {
		t.Errorf("within a minute the keys are taken for the newest: %v", err)
	}
	b.now += freshFor
	if h, err := two.Hasher("acme").Renewed(ctx); err != nil || h.Codec().Domain.Current() != 3 {
		t.Errorf("after a minute: %v", err)
	}
	rotate()
	for range 3 {
		b.now += freshFor
		b.current(two, "acme")
		two.Refresh(ctx)
	}
	if b.current(two, "acme") != 4 {
		t.Error("used all the time")
	}
	if two.Hasher("acme").Sum([]byte("a block")) != sum {
		t.Error("another hash after rotations")
	}
	b.fail = errs.New(errs.Unavailable, "away")
	if err := two.Renew(ctx, "acme"); err != nil || b.current(two, "acme") != 4 {
		t.Errorf("the store is away, and the keys that are here do: %v", err)
	}
}

// TestErased: a process that has the keys gives them up when it looks again.
func TestErased(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	one, two := b.process(nil, key), b.process(facts{}, key)
	b.create(one, "acme", key)
	b.current(two, "acme")
	if err := one.Erase(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if err := one.Erase(ctx, "acme"); err != nil {
		t.Errorf("once more: %v", err)
	}
	if err := two.Renew(ctx, "acme"); !errors.Is(err, keys.ErrErased) {
		t.Errorf("%v", err)
	}
	for _, p := range []*Tenants{one, two, b.process(nil, key)} {
		if _, err := p.Keys(ctx, "acme"); !errors.Is(err, keys.ErrErased) || p.Plain("acme") {
			t.Errorf("%v", err)
		}
		if i, err := p.Show(ctx, "acme"); err != nil || i.Locked == "" {
			t.Errorf("%+v, %v", i, err)
		}
	}
	if _, err := one.Create(ctx, Birth{Name: "acme", Keys: []keys.Provider{key}, OneKey: true, Suite: seal.AES256GCM}); errs.KindOf(err) != errs.Exists {
		t.Errorf("made again: %v", err)
	}
}

// TestCreate: what cannot be opened again is not made, and neither is a tenant that exists.
func TestCreate(t *testing.T) {
	b := newBed(t)
	key, other := b.key("k", 1), b.key("other", 2)
	p := b.process(nil, key)
	vol := commitlog.Volume{Tenant: "old", Name: "v"}
	if err := b.store.Put(ctx, vol.Key(commitlog.Generation{Epoch: 1, Number: 1}), []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		birth Birth
		kind  errs.Kind
		says  string
	}{
		"no name":           {Birth{Name: "a/b", Keys: []keys.Provider{key}, OneKey: true}, errs.Invalid, "must have"},
		"one key":           {Birth{Name: "a", Keys: []keys.Provider{key}}, errs.Invalid, "two key providers"},
		"not ours":          {Birth{Name: "a", Keys: []keys.Provider{other}, OneKey: true}, errs.Unavailable, "this daemon cannot open"},
		"has volumes":       {Birth{Name: "old", Keys: []keys.Provider{key}, OneKey: true}, errs.Exists, "glide tenant seal old"},
		"hidden and public": {Birth{Name: "a", Keys: []keys.Provider{key}, OneKey: true, Hidden: true, Public: true}, errs.Invalid, "cannot hide names and be public"},
		"hidden and plain":  {Birth{Name: "a", Hidden: true}, errs.Invalid, "has no keys, with which names are hidden"},
		"the same key":      {Birth{Name: "a", Keys: []keys.Provider{key, key}}, errs.Invalid, "the same key"},
	} {
		if c.birth.Suite == 0 {
			c.birth.Suite = seal.AES256GCM
		}
		_, err := p.Create(ctx, c.birth)
		if err == nil || errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.Show(ctx, "a"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("what failed left something: %v", err)
	}
	if i, err := p.Show(ctx, "old"); err != nil || i.Domain != 0 {
		t.Errorf("%+v, %v", i, err)
	}
	i, err := p.Create(ctx, Birth{Name: "a", Keys: []keys.Provider{key, other}, Suite: seal.XChaCha20Poly1305})
	if err != nil || len(i.Wraps) != 2 || i.Suite != seal.XChaCha20Poly1305 {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := b.process(nil, other).Keys(ctx, "a"); err != nil {
		t.Errorf("by the other key: %v", err)
	}
	if _, err := p.Rewrap(ctx, "old", []keys.Provider{key}, true); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a plain tenant was wrapped: %v", err)
	}
}

// TestSealedOnly: a host that is to store nothing in clear refuses plain tenants.
func TestSealedOnly(t *testing.T) {
	b := newBed(t)
	p := New(Options{Store: b.store, SealedOnly: true, Now: time.Now, Uptime: func() time.Duration { return 0 }, Log: slog.New(slog.DiscardHandler)})
	if _, err := p.Keys(ctx, "plain"); errs.KindOf(err) != errs.Denied {
		t.Errorf("%v", err)
	}
	if _, err := p.Hasher("plain").Renewed(ctx); errs.KindOf(err) != errs.Denied {
		t.Errorf("%v", err)
	}
}

// TestLockedWritesNothing: a bug that would write for a locked tenant ends in a panic, and
// not in plain text.
func TestLockedWritesNothing(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	b.create(b.process(nil, key), "acme", key)
	p := b.process(nil)
	_ = p.Ready(ctx, "acme")
	c := p.Hasher("acme").Codec()
	for name, write := range map[string]func(){
		"slot": func() { c.EncodeSlot(nil, pack.KindBlock, pack.Hash{}, []byte("x"), pack.CompressionNone) },
		"pack": func() { pack.NewBuilder(0, [12]byte{}, pack.Limits{}).Begin(c, 0, [12]byte{1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a %s was written without keys", name)
				}
			}()
			write()
		}()
	}
}

// TestTTL: keys are asked for again when their time is over. Who has no right to them any
// more loses them then; a provider that is away changes nothing.
func TestTTL(t *testing.T) {
	b := newBed(t)
	path := filepath.Join(t.TempDir(), "k")
	key := func(fill byte) {
		t.Helper()
		if err := os.WriteFile(path, bytes.Repeat([]byte{fill}, 32), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key(1)
	p, err := keys.Parse("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	var lost []string
	open := New(Options{
		Store: b.store, Providers: []keys.Provider{p}, Now: time.Now, Uptime: func() time.Duration { return b.now }, Log: slog.New(slog.DiscardHandler),
		TTL: time.Hour, Locked: func(tenant string, _ error) { lost = append(lost, tenant) },
	})
	b.create(open, "acme", p)
	look := func(after time.Duration) {
		b.now += after
		open.Refresh(ctx)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look(2 * time.Hour)
	if b.current(open, "acme") != 1 || len(lost) > 0 {
		t.Error("the provider is away, and the keys are gone")
	}
	key(2)
	look(time.Minute)
	if _, err := open.Keys(ctx, "acme"); !errors.Is(err, keys.ErrWrongKey) || len(lost) != 1 {
		t.Errorf("%v, %v", err, lost)
	}
	key(1)
	b.now += retryAfter
	if b.current(open, "acme") != 1 {
		t.Error("the right key is back")
	}
	key(2)
	look(59 * time.Minute)
	if len(lost) != 1 {
		t.Error("asked before the time was over")
	}
	look(time.Minute)
	if len(lost) != 2 {
		t.Error("not asked when the time was over")
	}
}

// TestFresh: who begins a log takes a tenant for a plain one only if the store has shown
// that within a minute; a plain newest commit shows it.
func TestFresh(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	p := b.process(facts{}, key)
	away := errs.New(errs.Unavailable, "the store is away")
	fresh := func(want error) {
		t.Helper()
		if err := p.Fresh(ctx, "acme"); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	fresh(nil)
	b.fail = away
	b.now += freshFor - 1
	fresh(nil)
	b.now++
	fresh(away)
	_, _ = p.Hasher("acme").Renewed(ctx) // which goes on with what it has
	fresh(away)
	p.SawPlain("acme")
	fresh(nil)
	b.now += freshFor
	fresh(away)
	b.fail = nil
	b.create(b.process(nil, key), "acme", key)
	fresh(nil)
	if b.current(p, "acme") != 1 {
		t.Error("it became a sealed one, and was taken for plain")
	}
	b.fail = away
	b.now += time.Hour
	fresh(nil) // what is sealed can be begun with the keys that are here
}

// TestHiddenNames: whether names are hidden is what the keyring says, whatever the record says;
// a tenant that is locked keeps the names of its logs, and one whose keys were erased does not.
func TestHiddenNames(t *testing.T) {
	b := newBed(t)
	key := b.key("k", 1)
	p := b.process(nil, key)
	for name, hidden := range map[string]bool{"covert": true, "overt": false} {
		i, err := p.Create(ctx, Birth{Name: name, Keys: []keys.Provider{key}, OneKey: true, Suite: seal.AES256GCM, Hidden: hidden})
		if err != nil || i.Hidden != hidden {
			t.Fatalf("%+v, %v", i, err)
		}
		r := i.Record
		if r.Hidden = !hidden; r.Hidden == hidden {
			t.Fatal("not turned")
		}
		raw, err := r.encode()
		if err == nil {
			err = b.store.Put(ctx, Prefix+name, raw) // as who can write to the store could
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	q := b.process(nil, key)
	vol := func(name string) commitlog.Volume { return commitlog.Volume{Tenant: name, Name: "web"} }
	for name, hidden := range map[string]bool{"covert": true, "overt": false} {
		log, err := commitlog.LogOf(ctx, q.Keyed(b.store), vol(name))
		if err != nil || log.Hidden() != hidden {
			t.Errorf("the log is %s, %v", log, err)
		}
		if i, err := q.Show(ctx, name); err != nil || i.Hidden != hidden {
			t.Errorf("%+v, %v", i, err)
		}
		if i, err := q.Rotate(ctx, name, false); err != nil || i.Hidden != hidden {
			t.Errorf("rotated: %+v, %v", i, err)
		}
		calls := b.calls
		if again, err := commitlog.LogOf(ctx, q.Keyed(b.store), vol(name)); err != nil || again != log || b.calls != calls {
			t.Errorf("after a rotation the log is %s, %v, with %d requests", again, err, b.calls-calls)
		}
		e := q.of(name)
		q.lock(e, errs.New(errs.Unavailable, "away"))
		if again, err := commitlog.LogOf(ctx, q.Keyed(b.store), vol(name)); err != nil || again != log {
			t.Errorf("locked: the log is %s, %v", again, err)
		}
		q.lock(e, keys.ErrErased)
		if _, err := commitlog.LogOf(ctx, q.Keyed(b.store), vol(name)); (err != nil) != hidden {
			t.Errorf("erased: %v", err)
		}
	}
	// Without providers, nothing that is hidden is taken for missing, and plain tenants cost nothing.
	none := b.process(nil)
	if _, err := commitlog.Newest(ctx, none.Keyed(b.store), vol("covert")); !errors.Is(err, seal.ErrLocked) {
		t.Errorf("without providers: %v", err)
	}
	calls := b.calls
	if log, err := commitlog.LogOf(ctx, none.Keyed(b.store), vol("plain")); err != nil || log != vol("plain") || b.calls != calls {
		t.Errorf("of a plain tenant: %s, %v, %d requests", log, err, b.calls-calls)
	}
	// A host that was told before keeps what it knows when the store denies it.
	m := facts{}
	if _, err := b.process(m, key).Keys(ctx, "covert"); err != nil {
		t.Fatal(err)
	}
	if err := b.drop(Prefix + "covert"); err != nil {
		t.Fatal(err)
	}
	if _, err := commitlog.LogOf(ctx, b.process(m, key).Keyed(b.store), vol("covert")); err == nil {
		t.Error("a tenant whose record is gone has names in clear")
	}
}
