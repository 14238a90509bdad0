package keys_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

const domain = 0x1234abcd

// write makes a file that only its owner can read.
func write(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parse(t *testing.T, specs ...string) (ps []keys.Provider) {
	t.Helper()
	for _, s := range specs {
		p, err := keys.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if p.String() != s {
			t.Errorf("%s is printed as %s", s, p)
		}
		ps = append(ps, p)
	}
	return ps
}

// newKey is a provider with a random key in a file.
func newKey(t *testing.T) string {
	t.Helper()
	return "file:" + write(t, string(seal.NewKey().Append(nil)))
}

// newAge is an identity: its recipient, and the provider that opens.
func newAge(t *testing.T) (recipient, identity string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return "age:" + id.Recipient().String(), "age:identity=" + write(t, "# made by a test\n"+id.String()+"\n")
}

func keyrings(t *testing.T, store objstore.Store, specs ...string) *keys.Keyrings {
	t.Helper()
	return &keys.Keyrings{Store: store, Providers: parse(t, specs...), Now: time.Now}
}

// born makes a domain that is wrapped for a key in a file, and for a recipient of age.
func born(t *testing.T, store objstore.Store) (k *keys.Keyrings, r *keys.Ring, identity string) {
	t.Helper()
	recipient, identity := newAge(t)
	k = keyrings(t, store, newKey(t), recipient)
	r, err := k.Create(t.Context(), keys.Birth{Domain: domain, Tenant: "acme", Suite: seal.AES256GCM})
	if err != nil {
		t.Fatal(err)
	}
	return k, r, identity
}

func newStore() objstore.Store { return objstore.NewMem(objstore.Clock{}) }

func derive(t *testing.T, r *keys.Ring) *seal.Domain {
	t.Helper()
	d, err := r.Keys()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var slot = make([]byte, 24)

// TestLife: create, open, rotate, retire, wrap again, erase.
func TestLife(t *testing.T) {
	ctx, store := t.Context(), newStore()
	k, r, identity := born(t, store)
	if _, err := store.Head(ctx, "keys/1234abcd/0000000001"); err != nil {
		t.Fatal(err)
	}
	id := [32]byte{1}
	first := derive(t, r).SealSlot(nil, seal.Block, id, slot, []byte("under root 1"))

	rotated, err := k.Rotate(ctx, r, false)
	if err != nil {
		t.Fatal(err)
	}
	// Another host, which has the identity of age, and remembers the first keyring.
	host := keyrings(t, store, identity)
	opened, err := host.Open(ctx, domain, "acme", r.Seen())
	if err != nil || opened.Seen() != rotated.Seen() || opened.OpenedBy() != identity || opened.Tenant() != "acme" || opened.Domain() != domain {
		t.Fatalf("%v by %s, %v", opened, opened.OpenedBy(), err)
	}
	d := derive(t, opened)
	if got, err := d.OpenSlot(nil, seal.Block, 1, d.Suite(), id, slot, first); err != nil || string(got) != "under root 1" || d.Current() != 2 {
		t.Errorf("%q, %v, root %d in use", got, err, d.Current())
	}
	if !d.DedupSecret().Equal(derive(t, r).DedupSecret()) || d.HideName("web") != derive(t, r).HideName("web") {
		t.Error("a rotation changed ids or hidden names")
	}

	if _, err := k.Retire(ctx, rotated, 2); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "rotate first") {
		t.Errorf("retiring the current root: %v", err)
	}
	if _, err := k.Retire(ctx, rotated, 9); !errors.Is(err, errs.Invalid) {
		t.Errorf("retiring no root: %v", err)
	}
	retired, err := k.Retire(ctx, rotated, 1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.Retire(ctx, retired, 1); err != nil || again.Seen() != retired.Seen() {
		t.Errorf("retiring once more: %v, %v", again, err)
	}
	if _, err := derive(t, retired).OpenSlot(nil, seal.Block, 1, 1, id, slot, first); !errors.Is(err, seal.ErrNoRoot) {
		t.Errorf("a retired root opens: %v", err)
	}
	if roots := retired.Roots(); len(roots) != 2 || roots[0].State != keys.Retired || roots[1].State != keys.Current {
		t.Errorf("%+v", roots)
	}

	// The key in the file leaves; a passphrase comes.
	words := "passphrase:file=" + write(t, "correct horse battery staple\n")
	wrapped, err := k.Rewrap(ctx, retired, parse(t, words, identity), false)
	if err != nil {
		t.Fatal(err)
	}
	if infos, err := store.List(ctx, "keys/", "", 0); err != nil || len(infos) != 1 {
		t.Errorf("%d keyrings are left, %v", len(infos), err)
	}
	if _, err := k.Open(ctx, domain, "acme", keys.Seen{}); !errors.Is(err, keys.ErrWrongKey) || !strings.Contains(err.Error(), "passphrase:") {
		t.Errorf("the provider that left: %v", err)
	}
	opened, err = keyrings(t, store, words).Open(ctx, domain, "acme", wrapped.Seen())
	if err != nil || derive(t, opened).Current() != 2 || len(opened.Wraps()) != 2 {
		t.Errorf("with the passphrase: %v, %v", opened, err)
	}

	if err := k.Erase(ctx, domain); err != nil {
		t.Fatal(err)
	}
	if err := k.Erase(ctx, domain); err != nil {
		t.Errorf("once more: %v", err)
	}
	_, err = keyrings(t, store, words).Open(ctx, domain, "acme", wrapped.Seen())
	isLocked(t, err, keys.ErrErased)
	if _, err := k.Rotate(ctx, wrapped, false); !errors.Is(err, keys.ErrErased) {
		t.Errorf("an erased domain rotates: %v", err)
	}
	if _, err := k.Create(ctx, keys.Birth{Domain: domain, Tenant: "acme", Suite: 1}); !errors.Is(err, errs.Exists) {
		t.Errorf("an erased domain is created: %v", err)
	}
	if infos, err := store.List(ctx, "keys/", "", 0); err != nil || len(infos) != 1 || infos[0].Key != "keys/1234abcd/erased" {
		t.Errorf("what is left: %v, %v", infos, err)
	}
	_, err = k.Open(ctx, domain+1, "acme", keys.Seen{})
	isLocked(t, err, keys.ErrErased)
}

// isLocked: a locked domain is one of the four, and of a kind that makes callers wait.
func isLocked(t *testing.T, err, want error) {
	t.Helper()
	for _, mark := range []error{keys.ErrAway, keys.ErrDenied, keys.ErrWrongKey, keys.ErrErased} {
		if errors.Is(err, mark) != (mark == want) {
			t.Errorf("%v: that it is %q is %v", err, mark, mark != want)
		}
	}
	if errs.KindOf(err) != errs.Unavailable || errors.Is(err, errs.NotFound) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v: kind %v", err, errs.KindOf(err))
	}
}

func TestTwoWraps(t *testing.T) {
	one := newKey(t)
	b := keys.Birth{Domain: domain, Tenant: "acme", Suite: seal.XChaCha20Poly1305}
	if _, err := keyrings(t, newStore(), one).Create(t.Context(), b); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "loses all data") {
		t.Errorf("one provider: %v", err)
	}
	if _, err := keyrings(t, newStore(), one, one).Create(t.Context(), b); !errors.Is(err, errs.Invalid) {
		t.Errorf("one provider twice: %v", err)
	}
	b.OneKey = true
	k := keyrings(t, newStore(), one)
	r, err := k.Create(t.Context(), b)
	if err != nil || derive(t, r).Suite() != seal.XChaCha20Poly1305 {
		t.Fatal(err)
	}
	if _, err := k.Create(t.Context(), b); !errors.Is(err, errs.Exists) {
		t.Errorf("a domain that is there: %v", err)
	}
	if _, err := k.Rewrap(t.Context(), r, k.Providers, false); !errors.Is(err, errs.Invalid) {
		t.Errorf("wrapped again for one: %v", err)
	}
	if _, err := k.Create(t.Context(), keys.Birth{Domain: 7, Tenant: "acme", OneKey: true}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("no suite: %v", err)
	}
	if _, err := k.Create(t.Context(), keys.Birth{Domain: 0, Tenant: "acme", Suite: 1, OneKey: true}); !errors.Is(err, errs.Invalid) {
		t.Errorf("domain 0: %v", err)
	}
}

// TestRotationsAtOnce: of rotations at the same time each has its root, and all keyrings
// follow one another.
func TestRotationsAtOnce(t *testing.T) {
	store := newStore()
	k, r, _ := born(t, store)
	const n = 8
	var wait sync.WaitGroup
	rings := make([]*keys.Ring, n)
	for i := range n {
		wait.Go(func() {
			var err error
			if rings[i], err = k.Rotate(t.Context(), r, false); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	seen := map[uint32]bool{}
	for _, r := range rings {
		seen[derive(t, r).Current()] = true
	}
	last, err := k.Open(t.Context(), domain, "acme", r.Seen())
	if err != nil || len(seen) != n || derive(t, last).Current() != n+1 || last.Seen().Number != n+1 {
		t.Errorf("%v, %v, %v", last, err, seen)
	}
}

// TestLostAnswer: a keyring that was created although the answer was lost is ours, when the
// request is sent again.
func TestLostAnswer(t *testing.T) {
	f := objstore.NewFaults(newStore(), 1)
	k, r, _ := born(t, f)
	f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.FailAfter, Err: errs.New(errs.Exists, "it is there")})
	next, err := k.Rotate(t.Context(), r, false)
	if err != nil || derive(t, next).Current() != 2 || next.Seen().Number != 2 {
		t.Errorf("%v, %v", next, err)
	}
	f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.FailBefore})
	if _, err := k.Rotate(t.Context(), r, false); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a store that does not answer: %v", err)
	}
	f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpList}, Times: 1, Effect: objstore.FailBefore})
	if _, err := k.Open(t.Context(), domain, "acme", r.Seen()); !errors.Is(err, errs.Unavailable) || errors.Is(err, keys.ErrErased) {
		t.Errorf("a store that does not answer: %v", err)
	}
}

// copyOf is the store as it was, as a hostile one shows it.
func copyOf(t *testing.T, from objstore.Store, change func(key string, data []byte) (string, []byte)) objstore.Store {
	t.Helper()
	to := newStore()
	err := objstore.ListAll(t.Context(), from, "", "", func(in objstore.Info) bool {
		data, err := from.Get(t.Context(), in.Key)
		if err != nil {
			t.Fatal(err)
		}
		if key, data := change(in.Key, bytes.Clone(data)); key != "" {
			if err := to.Put(t.Context(), key, data); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func same(key string, data []byte) (string, []byte) { return key, data }

// TestOldKeyring (no-old-keyring): who has seen a keyring is given no older one, no other
// one, and none of another history.
func TestOldKeyring(t *testing.T) {
	ctx, store := t.Context(), newStore()
	k, r1, _ := born(t, store)
	before := copyOf(t, store, same)
	r2, err := k.Rotate(ctx, r1, false)
	if err != nil {
		t.Fatal(err)
	}
	old, empty := *k, *k
	old.Store, empty.Store = before, newStore()
	for name, k := range map[string]*keys.Keyrings{"an older store": &old, "an empty store": &empty} {
		if _, err := k.Open(ctx, domain, "acme", r2.Seen()); !errors.Is(err, keys.ErrOld) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := k.Refresh(ctx, r2); !errors.Is(err, keys.ErrOld) {
			t.Errorf("%s, refreshed: %v", name, err)
		}
	}
	if _, err := old.Open(ctx, domain, "acme", keys.Seen{}); err != nil {
		t.Errorf("who saw none takes what there is: %v", err)
	}
	// The same people, another history: number 2 was made twice.
	other, err := old.Rotate(ctx, r1, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Open(ctx, domain, "acme", r2.Seen()); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another keyring 2: %v", err)
	}
	if _, err := old.Open(ctx, domain, "acme", keys.Seen{Number: 2}); err != nil {
		t.Errorf("who remembers only the number: %v", err)
	}
	if _, err := old.Rotate(ctx, other, false); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Open(ctx, domain, "acme", r2.Seen()); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "another history") {
		t.Errorf("keyring 3 after another 2: %v", err)
	}
	if got, err := k.Refresh(ctx, r2); err != nil || got != r2 {
		t.Errorf("nothing new: %v, %v", got, err)
	}
	if got, err := k.Refresh(ctx, r1); err != nil || got.Seen() != r2.Seen() {
		t.Errorf("something new: %v, %v", got, err)
	}
}

// TestForeign (domains-apart): a keyring at another domain's key, at another number, or of
// another tenant is refused.
func TestForeign(t *testing.T) {
	ctx, store := t.Context(), newStore()
	k, r, _ := born(t, store)
	at := func(name string) *keys.Keyrings {
		moved := *k
		moved.Store = copyOf(t, store, func(_ string, data []byte) (string, []byte) { return name, data })
		return &moved
	}
	if _, err := at("keys/00000007/0000000001").Open(ctx, 7, "acme", keys.Seen{}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("at another domain: %v", err)
	}
	if _, err := at("keys/1234abcd/0000000002").Open(ctx, domain, "acme", keys.Seen{}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("at another number: %v", err)
	}
	for _, name := range []string{"keys/1234abcd/1", "keys/1234abcd/00000000001", "keys/1234abcd/000000000x"} {
		_, err := at(name).Open(ctx, domain, "acme", keys.Seen{})
		isLocked(t, err, keys.ErrErased)
	}
	if _, err := k.Open(ctx, domain, "evil", r.Seen()); !errors.Is(err, errs.Corrupt) || strings.Contains(err.Error(), "acme") {
		t.Errorf("of another tenant: %v", err)
	}
}

// TestForgery: a recipient of age is public, so that anybody can make a keyring that an
// identity opens. A host that has another one open is not taken in.
func TestForgery(t *testing.T) {
	ctx, store := t.Context(), newStore()
	k, r, identity := born(t, store)
	recipient := r.Wraps()[1].String()
	forger := keyrings(t, newStore(), recipient, newKey(t))
	f, err := forger.Create(ctx, keys.Birth{Domain: domain, Tenant: "acme", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forger.Rotate(ctx, f, false); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(ctx, "keys/1234abcd/0000000001"); err != nil {
		t.Fatal(err)
	}
	raw, err := forger.Store.Get(ctx, "keys/1234abcd/0000000002")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(ctx, "keys/1234abcd/0000000002", raw); err != nil {
		t.Fatal(err)
	}
	host := keyrings(t, store, identity)
	if _, err := host.Open(ctx, domain, "acme", r.Seen()); !errors.Is(err, errs.Corrupt) {
		t.Errorf("who remembers its hash: %v", err)
	}
	if _, err := host.Open(ctx, domain, "acme", keys.Seen{Number: 1}); err != nil {
		t.Errorf("who remembers nothing cannot know: %v", err)
	}
	if _, err := host.Refresh(ctx, r); !errors.Is(err, errs.Corrupt) {
		t.Errorf("who has one open: %v", err)
	}
	_, err = k.Open(ctx, domain, "acme", keys.Seen{})
	isLocked(t, err, keys.ErrWrongKey) // the forger does not have the key in the file
}

// TestGrants: a public domain opens for a tenant, and only opens.
func TestGrants(t *testing.T) {
	ctx, store := t.Context(), newStore()
	k, r, _ := born(t, store)
	public, err := k.Create(ctx, keys.Birth{Domain: 99, Tenant: "public", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	if public, err = k.Rotate(ctx, public, false); err != nil {
		t.Fatal(err)
	}
	if public, err = k.Retire(ctx, public, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Granted(99); !errors.Is(err, errs.Corrupt) {
		t.Errorf("before: %v", err)
	}
	if r, err = k.Allow(ctx, r, public); err != nil {
		t.Fatal(err)
	}
	if r, err = k.Allow(ctx, r, public); err != nil { // again, as after a rotation
		t.Fatal(err)
	}
	if r, err = k.Open(ctx, domain, "acme", r.Seen()); err != nil {
		t.Fatal(err)
	}
	foreign, err := r.Granted(99)
	if err != nil {
		t.Fatal(err)
	}
	id := [32]byte{1}
	sealed := derive(t, public).SealSlot(nil, seal.Block, id, slot, []byte("public"))
	if got, err := foreign.OpenSlot(nil, seal.Block, 2, 1, id, slot, sealed); err != nil || string(got) != "public" {
		t.Errorf("%q, %v", got, err)
	}
	if !foreign.DedupSecret().Equal(derive(t, public).DedupSecret()) {
		t.Error("ids of the granted domain cannot be compared")
	}
}

// TestOthersStay: who changes a keyring cannot drop, or replace, a provider that he does not have.
func TestOthersStay(t *testing.T) {
	ctx := t.Context()
	recipient, identity := newAge(t)
	file, words := newKey(t), "passphrase:file="+write(t, "correct horse battery staple")
	store := newStore()
	r, err := keyrings(t, store, file, words, recipient).Create(ctx, keys.Birth{Domain: domain, Tenant: "acme", Suite: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyrings(t, store, file).Rotate(ctx, r, false); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "passphrase:") {
		t.Errorf("without the passphrase: %v", err)
	}
	wrong := "passphrase:file=" + write(t, "incorrect horse")
	if _, err := keyrings(t, store, file, wrong).Rotate(ctx, r, false); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	if _, err := keyrings(t, store, newKey(t), words).Rotate(ctx, r, false); !errors.Is(err, errs.Invalid) {
		t.Errorf("with another key: %v", err)
	}
	// age is written to without being there.
	if r, err = keyrings(t, store, words, file).Rotate(ctx, r, false); err != nil || r.Seen().Number != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	for _, p := range []string{file, words, identity} {
		if _, err := keyrings(t, store, p).Open(ctx, domain, "acme", r.Seen()); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// stuck is a provider that does not know of contexts.
type stuck struct {
	keys.Provider
	release chan struct{}
}

func (s *stuck) Unwrap(ctx context.Context, domain uint32, w keys.Wrap) (seal.Key, error) {
	<-s.release
	return s.Provider.Unwrap(ctx, domain, w)
}

// TestStuckProvider: a provider that hangs costs its limit, and the next one is asked.
func TestStuckProvider(t *testing.T) {
	store := newStore()
	k, r, identity := born(t, store)
	release := make(chan struct{})
	defer close(release)
	hung := &stuck{k.Providers[0], release}
	host := &keys.Keyrings{Store: store, Providers: []keys.Provider{hung}, Limit: 500 * time.Millisecond, Now: time.Now}
	began := time.Now()
	_, err := host.Open(t.Context(), domain, "acme", r.Seen())
	isLocked(t, err, keys.ErrAway)
	if !strings.Contains(err.Error(), "did not answer within 500ms") || time.Since(began) > time.Minute {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	host.Providers = append(host.Providers, parse(t, identity)...)
	if _, err := host.Open(t.Context(), domain, "acme", r.Seen()); err != nil {
		t.Errorf("the other one: %v", err)
	}
	host.Providers = append(host.Providers[:1], parse(t, newKey(t))...)
	_, err = host.Open(t.Context(), domain, "acme", r.Seen())
	isLocked(t, err, keys.ErrAway) // it may come back, whatever the other one says
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := host.Open(ctx, domain, "acme", r.Seen()); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}

// TestHiddenFlag: that names are hidden outlives every change of the keyring.
func TestHiddenFlag(t *testing.T) {
	ctx, store := t.Context(), newStore()
	k := keyrings(t, store, newKey(t))
	for d, hidden := range map[uint32]bool{1: true, 2: false} {
		r, err := k.Create(ctx, keys.Birth{Domain: d, Tenant: "acme", Suite: seal.AES256GCM, OneKey: true, Hidden: hidden})
		name := ""
		for what, change := range map[string]func() (*keys.Ring, error){
			"born": func() (*keys.Ring, error) { return r, err }, "rotated": func() (*keys.Ring, error) { return k.Rotate(ctx, r, false) },
			"wrapped": func() (*keys.Ring, error) { return k.Rewrap(ctx, r, k.Providers, true) }, "opened": func() (*keys.Ring, error) { return k.Open(ctx, d, "acme", keys.Seen{}) },
		} {
			if r, err = change(); err != nil {
				t.Fatal(what, err)
			}
			if r.Hidden() != hidden {
				t.Errorf("%s: hidden %v, want %v", what, r.Hidden(), hidden)
			}
			if now := derive(t, r).HideName("web"); name != "" && now != name {
				t.Errorf("%s: a name is hidden as %s, and was as %s", what, now, name)
			} else {
				name = now
			}
		}
	}
}
