package flush

import (
	"bytes"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// TestDomain: what is new goes into packs of the fold's domain, what the store has stays
// where it is, and a cold reader finds all of it.
func TestDomain(t *testing.T) {
	const domain = 0x2a
	b := newBench(t, 300)
	endAll := b.session.Begin() // builders are reused from one domain for the other
	defer endAll(ctx)
	b.fold(one(0, content(1)), one(1, content(2)), one(290, content(3)))
	plain := b.base
	opts := b.options()
	opts.Domain = domain
	changes := []Change{one(2, content(1)), one(3, content(4)), one(4, content(5)), one(5, content(6)), one(6, content(7))}
	res, err := Fold(ctx, b.session, b.base, b.base.Edit(), list(changes), opts)
	if err != nil || res.New != 4 || res.Hits != 1 || len(res.Reused) != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	b.source = blockmap.NewPageCache(1<<20).Source(b, b.hasher)
	b.open(res.Root, 300)
	for idx, c := range map[uint64]struct {
		seed   uint64
		domain uint32
	}{0: {1, 0}, 1: {2, 0}, 290: {3, 0}, 2: {1, 0}, 3: {4, domain}, 6: {7, domain}} {
		ref, err := b.base.Lookup(ctx, idx)
		if err != nil || ref.Pack.Domain != c.domain || !bytes.Equal(b.block(idx), content(c.seed)) {
			t.Errorf("block %d is in %s, %v", idx, ref.Pack.Key(), err)
		}
	}
	if res.Root.Ref.Pack.Domain != domain || plain.Root().Ref.Pack.Domain != 0 {
		t.Errorf("the roots are %s and %s", res.Root, plain.Root())
	}
	// A fold back in domain 0, whose index has the blocks of both.
	if res := b.fold(one(7, content(4)), one(8, content(8))); res.New != 1 || res.Root.Ref.Pack.Domain != 0 {
		t.Errorf("%+v", res)
	}
	keys, nonces := map[string]int{}, map[[12]byte]bool{}
	check := objstore.ListAll(ctx, b.store, "", "", func(in objstore.Info) bool {
		id, err := pack.ParseKey(in.Key)
		if err != nil || nonces[id.Nonce] {
			t.Errorf("%s: %v", in.Key, err)
		}
		nonces[id.Nonce] = true
		prefix, _, _ := strings.Cut(in.Key, "packs/")
		keys[prefix]++
		return true
	})
	if check != nil || len(keys) != 2 || keys[""] == 0 || keys["d/0000002a/"] == 0 {
		t.Errorf("packs %v, %v", keys, check)
	}
	// The packs of both domains have to be pinned by the next session.
	b.restart()
	if res := b.fold(one(9, content(4)), one(10, content(1))); len(res.Reused) != 2 {
		t.Errorf("%d packs are to be pinned", len(res.Reused))
	}
}
