package blockmap

import (
	"bytes"
	"context"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// hasherOf is the hasher of a sealed domain.
func hasherOf(t tb, domain uint32) *pack.Hasher {
	t.Helper()
	d, err := seal.New(seal.Secrets{
		Domain: domain, Suite: seal.AES256GCM, Current: 1, Conv: seal.NewKey(), Roots: map[uint32]seal.Key{1: seal.NewKey()},
	})
	check(t, err)
	return pack.NewSealedHasher(d)
}

// domainStore is a fakeStore whose pages are in a domain.
type domainStore struct {
	*fakeStore
	domain uint32
}

func (s domainStore) AddPage(ctx context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	ref, err := s.fakeStore.AddPage(ctx, hash, page)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[place{inDomain(ref, s.domain).Pack, ref.Off}] = page
	return inDomain(ref, s.domain), err
}

// mapIn publishes a map of blocks through a source, into a domain.
func mapIn(t tb, s domainStore, src *Source, blocks uint64, ref func(uint64) pack.Ref) *Map {
	t.Helper()
	e := mustNew(t, src, Root{}, blocks).Edit()
	for i := range blocks {
		check(t, e.Set(i, ref(i)))
	}
	root, err := e.Publish(ctx, s)
	check(t, err)
	return mustNew(t, src, root, blocks)
}

// TestOnlyGrantedDomains: a page that names a domain which the tenant may not read was
// forged, wherever the name is: in the root, in an upper page, or in a leaf. So is one
// that another tenant, who may read it, has put into the cache.
func TestOnlyGrantedDomains(t *testing.T) {
	home, other := hasherOf(t, 1), hasherOf(t, 2)
	foreign := func(n uint64) pack.Ref {
		if n == 70 {
			return inDomain(blockRef(n), 2)
		}
		return inDomain(blockRef(n), 1)
	}
	s := domainStore{newStore(), 1}
	writer := NewPageCache(1<<20).Source(s, home.Granting(other))
	m := mapIn(t, s, writer, 100, foreign)
	ref, err := m.Lookup(ctx, 70)
	check(t, err)
	if ref != foreign(70) {
		t.Errorf("block 70 is %v", ref)
	}
	for name, cache := range map[string]*PageCache{"cold": NewPageCache(1 << 20), "warm": writer.cache} {
		all := mustNew(t, cache.Source(s, home.Granting(other)), m.Root(), 100)
		if ref, err := all.Lookup(ctx, 70); err != nil || ref != foreign(70) {
			t.Errorf("%s: %v, %v", name, ref, err)
		}
	}
	few := mustNew(t, NewPageCache(1<<20).Source(s, home), m.Root(), 100)
	if ref, err := few.Lookup(ctx, 3); err != nil || ref != foreign(3) { // another leaf
		t.Errorf("%v, %v", ref, err)
	}
	_, err = few.Lookup(ctx, 71)
	wantKind(t, err, errs.Corrupt)

	// The top page of another domain, which is in the cache.
	s2 := domainStore{newStore(), 2}
	shared := NewPageCache(1 << 20)
	theirs := mapIn(t, s2, shared.Source(s2, other), 100, func(n uint64) pack.Ref { return inDomain(blockRef(n), 2) })
	_, err = mustNew(t, shared.Source(s2, home), theirs.Root(), 100).Lookup(ctx, 3)
	wantKind(t, err, errs.Corrupt)
	mixed := theirs.Root()
	mixed.Ref.Pack.Domain = 1 // a forged root that knows the hash
	forger := mustNew(t, shared.Source(s2, home), mixed, 100)
	if ref, ok := forger.TryLookup(3); ok {
		t.Errorf("another domain's page was found by its hash: %v", ref)
	}
	if _, err := forger.Lookup(ctx, 3); err == nil {
		t.Error("another domain's page was read under a false domain")
	}
	// A page of another domain below a page of ours.
	top := mapIn(t, s, writer, 100, func(n uint64) pack.Ref { return inDomain(blockRef(n), 1) })
	var refs [Fanout]pack.Ref
	refs[0], refs[1] = theirs.Root().Ref, top.Root().Ref
	page := encodePage(1, &refs)
	place, err := s.AddPage(ctx, home.Sum(page), page)
	check(t, err)
	_, err = NewPageCache(1<<20).Source(s, home).Page(ctx, &place, 1)
	wantKind(t, err, errs.Corrupt)
}

// TestForeignPagesAreVerified with the hash of their own domain.
func TestForeignPagesAreVerified(t *testing.T) {
	home, base := hasherOf(t, 1), hasherOf(t, 2)
	s := domainStore{newStore(), 2}
	m := mapIn(t, s, NewPageCache(1<<20).Source(s, base), 200, func(n uint64) pack.Ref { return inDomain(blockRef(n), 2) })
	mine := NewPageCache(1<<20).Source(s, home.Granting(base))
	fork := mustNew(t, mine, m.Root(), 200)
	check(t, fork.Walk(ctx, 0, 200, func(n uint64, ref pack.Ref) error {
		if ref != inDomain(blockRef(n), 2) {
			t.Errorf("block %d is %v", n, ref)
		}
		return nil
	}))
	at := place{m.Root().Ref.Pack, m.Root().Ref.Off}
	good, cold := s.pages[at], NewPageCache(1<<20).Source(s, home.Granting(base))
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		s.pages[at] = bad
		_, err := mustNew(t, cold, m.Root(), 200).Lookup(ctx, 1)
		wantKind(t, err, errs.Corrupt)
	}
}

// TestForksWriteHome: what changes goes home, under the home hash; what does not keeps
// its place in the base's domain, also if it was written again with what it had.
func TestForksWriteHome(t *testing.T) {
	home, base := hasherOf(t, 1), hasherOf(t, 2)
	s := domainStore{newStore(), 2}
	m := mapIn(t, s, NewPageCache(1<<20).Source(s, base), 200, func(n uint64) pack.Ref { return inDomain(blockRef(n), 2) })
	mine := NewPageCache(1<<20).Source(s, home.Granting(base))
	into := domainStore{s.fakeStore, 1}
	e := mustNew(t, mine, m.Root(), 200).Edit()
	check(t, e.Set(130, inDomain(blockRef(130), 2))) // as it was
	root, err := e.Publish(ctx, into)
	check(t, err)
	if root != m.Root() {
		t.Errorf("nothing changed, and the root became %s", root)
	}
	check(t, e.Set(130, inDomain(blockRef(999), 1)))
	root, err = e.Publish(ctx, into)
	check(t, err)
	top, err := mine.Page(ctx, &root.Ref, 1)
	check(t, err)
	if root.Ref.Pack.Domain != 1 || home.Sum(top) != root.Ref.Hash || top[2] != version {
		t.Errorf("the new root is %s, of version %d", root, top[2])
	}
	for slot, want := range []uint32{2, 2, 1, 2} {
		if ref := top.Ref(slot); ref.Pack.Domain != want {
			t.Errorf("page %d is in domain %d, want %d", slot, ref.Pack.Domain, want)
		}
	}
}

// TestOnePlaceTwoPages: a key whose hash and domain give the place of another page in the
// cache does not find that page, nor does it drive it out.
func TestOnePlaceTwoPages(t *testing.T) {
	c := NewPageCache(1 << 20)
	var refs [Fanout]pack.Ref
	refs[0] = blockRef(1)
	page := encodePage(0, &refs)
	owned := pageKey{0x01020304, pack.Hash{7, 31: 0xff}}
	c.put(&owned, page)
	var buf pack.Hash
	forged := pageKey{0, *mixed(&owned.hash, owned.domain, &buf)}
	c.put(&forged, page)
	if _, ok := c.get(&forged.hash, 0); ok {
		t.Error("a page was found under another domain")
	}
	if _, ok := c.Cached(pack.Ref{Hash: owned.hash, Pack: pack.ID{Domain: owned.domain}}); !ok {
		t.Error("the page is gone")
	}
	if _, ok := c.get(&owned.hash, 5); ok {
		t.Error("a page was found by its hash alone")
	}
}
