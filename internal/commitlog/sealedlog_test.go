package commitlog

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
)

// TestSealedLog: Owners, readers and collectors work on a sealed log as on a plain one,
// each object names the one before it, and a rotation begins an epoch.
func TestSealedLog(t *testing.T) {
	plain := newStore()
	root := 1
	store := WithKeys(plain, always(func() (Keys, error) {
		return Keys{Domain: domainWith(t, home, seal.AES256GCM, root), Keyring: uint64(root)}, nil
	}))
	a := opened(t, store, "a")
	commit(t, a, 2)
	data, err := EncodeData([]Range{{Off: 1 << 17, Len: 1 << 17, Block: domainRef(1, 77)}, {Off: 1 << 20, Len: 9}})
	check(t, err)
	root = 2
	for seq := range uint64(3) {
		sh, err := a.Ship(ctx, 3+seq, data, func(*State) {})
		check(t, err)
		defer func() { check(t, errOf(sh.Wait(ctx))) }()
	}
	check(t, errOf(a.Resolve(ctx)))
	b := newOwner(t, store, "b", 1)
	first, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	if want := []uint32{0, 77, home}; !slices.Equal(first.State.Domains, want) {
		t.Errorf("domains %x, want %x", first.State.Domains, want)
	}
	commit(t, b, 9)
	check(t, b.Roll(ctx))
	commit(t, b, 10)
	check(t, b.Release(ctx))
	log := historyOf(t, store, disk)
	wantShape(t, log, "1.1 first", "1.2 commit", "1.3 seal", "2.1 first", "2.2 commit", "2.3 commit", "2.4 commit", "2.5 seal",
		"3.1 first", "3.2 commit", "3.3 seal", "4.1 first", "4.2 commit", "4.3 seal released")
	for i, o := range log {
		if i > 0 && o.State.Prev != log[i-1].Hash || o.Domain != home {
			t.Errorf("%s names %s, its predecessor is %s", o.Generation, o.State.Prev, log[i-1].Hash)
		}
		if want := uint64(2); (i < 2) == (o.State.Keyring == want) {
			t.Errorf("%s is under keyring %d", o.Generation, o.State.Keyring)
		}
		if o.Kind == Commit && o.State.Seq == 10 && slices.Contains(o.State.Domains, 1) {
			t.Errorf("%s names domains %x", o.Generation, o.State.Domains)
		}
	}
	// The log without keys: its end is found, and what is there is locked.
	g, err := find(ctx, plain, disk)
	check(t, err)
	if g != (Generation{Epoch: 4, Number: 3}) {
		t.Errorf("the tip is %s", g)
	}
	if _, err := Newest(ctx, plain, disk); !errors.Is(err, seal.ErrLocked) {
		t.Errorf("without keys: %v", err)
	}
	// Another history's object in this one, and a stub.
	check(t, plain.Put(ctx, disk.Key(Generation{Epoch: 2, Number: 5}), mustSeal(t, log[7].Stub(), domainWith(t, home, seal.AES256GCM, 3))))
	root = 3
	if got := len(historyOf(t, store, disk)); got != len(log) {
		t.Errorf("%d objects beside a stub", got)
	}
	forged := *log[6]
	forged.Mark[0]++
	raw, err := forged.EncodeFor(domainWith(t, home, seal.AES256GCM, 2))
	check(t, err)
	check(t, plain.Put(ctx, disk.Key(forged.Generation), raw))
	check(t, plain.Delete(ctx, disk.Key(Generation{Epoch: 2, Number: 5})))
	seal5 := *log[7]
	raw, err = seal5.EncodeFor(domainWith(t, home, seal.AES256GCM, 2))
	check(t, err)
	check(t, plain.Put(ctx, disk.Key(seal5.Generation), raw))
	err = History(ctx, store, disk, Generation{Epoch: 2, Number: 5}.NextEpoch(), 0, func(*Object) error { return nil })
	wantKind(t, err, errs.Corrupt)
}

// TestForgedSealsDoNotFence: what was not sealed with the domain's keys is not believed,
// be it a plain seal, or one from another place.
func TestForgedSealsDoNotFence(t *testing.T) {
	d := domainWith(t, home, seal.AES256GCM, 1)
	for name, forge := range map[string]func(o *Object) []byte{
		"plain": func(o *Object) []byte { raw, err := o.Encode(); check(t, err); return raw },
		"a newer version": func(o *Object) []byte {
			raw, err := o.Encode()
			check(t, err)
			raw[4] = 99
			resign(raw)
			return raw
		},
		"another domain": func(o *Object) []byte {
			return mustSeal(t, o, domainWith(t, home+1, seal.AES256GCM, 1))
		},
		"another place": func(o *Object) []byte {
			c := *o
			c.Generation.Number++
			raw := mustSeal(t, &c, d)
			raw[16] = byte(o.Generation.Number)
			resign(raw)
			return raw
		},
	} {
		store := newStore()
		a := opened(t, keyed(store, d), "a")
		s := someState(1)
		s.Tenant, s.Name, s.Owner.ID, s.SealedBy, s.Cause = disk.Tenant, disk.Name, "a", "evil", CauseSeal
		if strings.HasPrefix(name, "another") {
			check(t, s.name(nil, home, home+1))
		}
		check(t, store.PutIfAbsent(ctx, disk.Key(Generation{Epoch: 1, Number: 2}), forge(&Object{Generation: Generation{Epoch: 1, Number: 2}, Kind: Seal, State: s})))
		_, err := a.Commit(ctx, someState(2))
		if !errors.Is(err, errs.Corrupt) || a.Err() != nil {
			t.Errorf("%s: %v, and the claim ends with %v", name, err, a.Err())
		}
	}
}

// newerKeyring is why a tenant is locked whose keyring this release cannot read.
type newerKeyring struct{ error }

func (newerKeyring) Is(target error) bool {
	return target == seal.ErrLocked || target == errs.Unsupported
}

// TestNewerKeyringsDoNotFence: that a keyring cannot be read, because it is newer or was
// damaged, says nothing of an object that is there: it may be the host's own.
func TestNewerKeyringsDoNotFence(t *testing.T) {
	store, locked := newStore(), false
	keyed := WithKeys(store, always(func() (Keys, error) {
		if locked {
			return Keys{}, newerKeyring{errors.New("keyring of version 32769")}
		}
		return Keys{Domain: domainWith(t, home, seal.AES256GCM, 1)}, nil
	}))
	a := opened(t, keyed, "a")
	g, err := a.Commit(ctx, someState(2))
	check(t, err)
	locked = true
	for what, err := range map[string]error{
		"a look": func() error { _, err := Look(ctx, keyed, disk, Generation{Epoch: 1, Number: 1}, "a"); return err }(),
		"the echo of a commit": func() error {
			_, err := create(ctx, keyed, disk, &Object{Generation: g}, []byte("sent again"))
			return err
		}(),
	} {
		if err == nil || errors.Is(err, errs.Fenced) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := someState(2)
	s.Tenant, s.Name, s.Owner.ID, s.SealedBy, s.Cause = disk.Tenant, disk.Name, "a", "b", CauseSeal
	check(t, s.name(nil, home))
	o := &Object{Generation: g.Next(), Kind: Seal, State: s}
	check(t, store.PutIfAbsent(ctx, disk.Key(o.Generation), mustSeal(t, o, domainWith(t, home, seal.AES256GCM, 1))))
	if err := a.CheckSeal(ctx); err == nil || errors.Is(err, errs.Fenced) || a.Err() != nil {
		t.Errorf("a check for a seal: %v, and the claim ends with %v", err, a.Err())
	}
	locked = false
	if err := a.CheckSeal(ctx); !errors.Is(err, ErrYielding) {
		t.Fatalf("sealed by another: %v", err)
	}
	first := &Object{Generation: g.NextEpoch(), Kind: First, State: s}
	first.State.After, first.State.Owner.ID = o.Generation, "b"
	check(t, store.PutIfAbsent(ctx, disk.Key(first.Generation), mustSeal(t, first, domainWith(t, home, seal.AES256GCM, 1))))
	locked = true
	if err := a.CheckSeal(ctx); err == nil || errors.Is(err, errs.Fenced) || a.Err() != nil {
		t.Errorf("a check for the next epoch: %v, and the claim ends with %v", err, a.Err())
	}
	locked = false
	if err := a.CheckSeal(ctx); !errors.Is(err, errs.Fenced) {
		t.Errorf("the next epoch is another's: %v", err)
	}
}

// TestSealedOnce: whatever becomes of a request, its bytes are sent again as they were:
// after a lost answer, by Mend, and when keys were rotated in between.
func TestSealedOnce(t *testing.T) {
	store := newStore()
	root := 1
	keyed := WithKeys(store, always(func() (Keys, error) { return Keys{Domain: domainWith(t, home, seal.AES256GCM, root)}, nil }))
	a := newOwner(t, keyed, "a", 1)
	check(t, errOf(a.OpenFirst(ctx, someState(1))))
	commit(t, a, 2)
	key := disk.Key(Generation{Epoch: 1, Number: 2})
	was, err := store.Get(ctx, key)
	check(t, err)
	root = 2
	check(t, store.Put(ctx, key, []byte("damaged")))
	mended, err := a.Mend(ctx, Generation{Epoch: 1, Number: 2})
	check(t, err)
	now, err := store.Get(ctx, key)
	check(t, err)
	if !mended || !bytes.Equal(was, now) {
		t.Error("another object was stored in the place of the damaged one")
	}
}

// TestLockedOwner: while keys are away nothing is sent, nothing is lost, and what was sent
// before is settled by its mark, which is in clear.
func TestLockedOwner(t *testing.T) {
	mem := newStore()
	away := errs.New(errs.Unavailable, "the provider is away")
	var locked error
	d := domainWith(t, home, seal.AES256GCM, 1)
	store := WithKeys(mem, always(func() (Keys, error) { return Keys{Domain: d}, locked }))
	a := newOwner(t, store, "a", 1)
	check(t, errOf(a.OpenFirst(ctx, someState(1))))
	locked = away
	if _, err := a.Commit(ctx, someState(2)); !errors.Is(err, away) || a.Unsettled() || a.Err() != nil {
		t.Fatalf("%v, %v", err, a.Err())
	}
	if _, err := Newest(ctx, store, disk); !errors.Is(err, away) {
		t.Fatalf("%v", err)
	}
	locked = nil
	commit(t, a, 2)
	// An answer is lost, and the keys go.
	obj := &Object{Kind: Commit, State: a.tip.State}
	s, err := a.encode(ctx, obj, Generation{Epoch: 1, Number: 3}, a.tip.Hash)
	check(t, err)
	check(t, mem.PutIfAbsent(ctx, disk.Key(Generation{Epoch: 1, Number: 3}), s.raw))
	locked = away
	found, err := create(ctx, store, disk, s.object, s.raw)
	if err != nil || found != nil {
		t.Errorf("%v, %v", found, err)
	}
	s.object.Mark[0]++
	if _, err = create(ctx, store, disk, s.object, s.raw); !errors.Is(err, away) {
		t.Errorf("another's object without keys: %v", err)
	}
}

// TestDomainsOfUnfoldedData: a commit names the domains of the data commits below it, also
// if its caller knows nothing of them; once they are folded it does not.
func TestDomainsOfUnfoldedData(t *testing.T) {
	store := keyed(newStore(), domainWith(t, home, seal.AES256GCM, 1))
	a := opened(t, store, "a")
	data, err := EncodeData([]Range{{Off: 1 << 17, Len: 1 << 17, Block: domainRef(1, 77)}})
	check(t, err)
	sh, err := a.Ship(ctx, 3, data, func(*State) {})
	check(t, err)
	check(t, errOf(sh.Wait(ctx)))
	commit(t, a, 2)
	if got := newest(t, store, disk).State.Domains; !slices.Equal(got, []uint32{0, 77, home}) {
		t.Errorf("not folded: domains %x", got)
	}
	commit(t, a, 3)
	if got := newest(t, store, disk).State.Domains; !slices.Equal(got, []uint32{0, home}) {
		t.Errorf("folded: domains %x", got)
	}
}

// TestReplayRefusesForeignPlaces: a data commit that names a block in a domain which its
// state does not name was forged.
func TestReplayRefusesForeignPlaces(t *testing.T) {
	o := sealable(t)["domain-data"]
	o.State.DataCommits = nil
	check(t, Replay(ctx, newStore(), o, func([]Range) error { return nil }))
	o.State.Domains = []uint32{0, home}
	wantKind(t, Replay(ctx, newStore(), o, func([]Range) error { return nil }), errs.Corrupt)
}

// TestExploreSealed plays what the plain log is explored with, on a sealed one. A port
// notices when another content is sent for a number.
func TestExploreSealed(t *testing.T) {
	d := domainWith(t, home, seal.AES256GCM, 1)
	keys := func(store objstore.Store) objstore.Store { return keyed(store, d) }
	begin, owner := owning("a", 10, 11)
	scenario{most: 200, faults: 2, begin: begin, actors: []actor{owner, claiming("b", 1, 20)}, keys: keys}.explore(t)
	begin, owner = shipping("a", 2, 3, 4)
	scenario{most: 200, faults: 2, begin: begin, actors: []actor{owner, claiming("b", 1, 20)}, keys: keys}.explore(t)
}
