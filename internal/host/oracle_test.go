package host

import (
	"fmt"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// imported is what somebody sees who imports an image, but for times and names.
type imported struct {
	requests objstore.Counts
	answers  [3]string
	bytes    [3]uint64    // uploaded
	blocks   [3][2]uint64 // folded, new
}

// importInto imports the same image, and a fork's worth of changes, into a tenant by a new
// host.
func importInto(t *testing.T, b *bed, tenant string, img []byte) (seen imported, h *Host) {
	t.Helper()
	h = b.host(t.TempDir(), tenant)
	before := b.count.Counts()
	for i := range 2 { // the second lies over blocks of the first
		r := must[api.Import](t)(h.Import(ctx, fmt.Sprintf("%s/img%d", tenant, i), 0, &bytesSource{b: img}))
		seen.answers[i] = fmt.Sprintf("%s %d %d %t %+v", r.Generation, r.Size, r.BytesRead, r.Unchanged, r.Requests)
		seen.bytes[i] = r.BytesUploaded
		seen.blocks[i] = [2]uint64{r.BlocksFolded, r.BlocksNew}
	}
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: tenant + "/img0", Name: tenant + "/fork"}))
	if err := vol(t, h, tenant+"/fork").WriteAt(img[mib:2*mib], 4*mib); err != nil { // what it has elsewhere
		t.Fatal(err)
	}
	f := must[api.Flush](t)(h.Flush(ctx, tenant+"/fork"))
	seen.answers[2] = fmt.Sprintf("%s %+v", f.Generation, f.Requests)
	seen.bytes[2] = f.BytesUploaded
	seen.blocks[2] = [2]uint64{f.BlocksFolded, f.BlocksNew}
	seen.requests = b.count.Counts().Sub(before)
	return seen, h
}

// alike tells whether two numbers of bytes differ by no more than the compression of map
// pages makes of other random numbers. A block has 128 KiB.
func alike(a, b int64) bool { return a-b < 256 && b-a < 256 }

// packsOf are the domains and the bytes of all packs in the store.
func packsOf(t *testing.T, b *bed) map[uint32]int64 {
	t.Helper()
	bytes := map[uint32]int64{}
	for _, in := range infosOf(t, b.store, "packs/") {
		id, err := pack.ParseKey(in.Key)
		if err != nil {
			t.Fatal(err)
		}
		bytes[id.Domain] += in.Size
	}
	return bytes
}

// TestNoOracle: whether another tenant has an image shows in nothing: who imports it makes
// the same requests, sends the same bytes and gets the same answers. No block of his is
// another's. Within a sealed tenant blocks are stored once, as within a plain one.
func TestNoOracle(t *testing.T) {
	img := random(77, 6*mib)
	run := func(bSealed, aToo, aSealed bool) (imported, map[uint32]int64, uint32) {
		b := newBed(t)
		key := tenantstest.Shared()
		b.keys = append(b.keys, key)
		known := tenantstest.New(b.store, key)
		domain := uint32(0)
		if bSealed {
			tenantstest.Create(t, b.store, key, "bob")
			domain = must[tenants.Info](t)(known.Show(ctx, "bob")).Domain
		}
		if aSealed {
			tenantstest.Create(t, b.store, key, "alice")
		}
		if aToo {
			importInto(t, b, "alice", img)
		}
		before := packsOf(t, b)[domain]
		seen, h := importInto(t, b, "bob", img)
		packs := packsOf(t, b)
		packs[domain] -= before
		v := vol(t, h, "bob/img1")
		if err := v.Map().Walk(ctx, 0, v.Map().Blocks(), func(_ uint64, r pack.Ref) error {
			if r.Pack.Domain != domain {
				t.Errorf("a block is in domain %08x, and the tenant's is %08x", r.Pack.Domain, domain)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return seen, packs, domain
	}
	alone, packs, domain := run(true, false, false)
	want := packs[domain]
	for _, aSealed := range []bool{false, true} {
		beside, packs, domain := run(true, true, aSealed)
		if !alike(packs[domain], want) {
			t.Errorf("alice has the image (sealed: %v): bob stored %d bytes, and %d if she has not", aSealed, packs[domain], want)
		}
		for i := range beside.bytes {
			if !alike(int64(beside.bytes[i]), int64(alone.bytes[i])) {
				t.Errorf("alice has the image (sealed: %v): bob sends %v bytes, and %v if she has not", aSealed, beside.bytes, alone.bytes)
			}
		}
		without := alone
		for _, s := range []*imported{&beside, &without} {
			s.requests.BytesUp, s.requests.BytesDown, s.bytes = 0, 0, [3]uint64{}
		}
		if beside.requests != without.requests || beside.answers != without.answers || beside.blocks != without.blocks {
			t.Errorf("alice has the image (sealed: %v): bob sees\n%+v, and without her\n%+v", aSealed, beside, without)
		}
	}
	plain, _, _ := run(false, false, false)
	if plain.blocks != alone.blocks || plain.blocks[0][1] != 48 || plain.blocks[1][1] != 0 {
		t.Errorf("a sealed tenant folds and uploads %v blocks, a plain one %v", alone.blocks, plain.blocks)
	}
}
