package host

import (
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/rekey"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// dataOf is how many bytes of packs the store has.
func dataOf(t *testing.T, store objstore.Store) (n int) {
	t.Helper()
	for k, raw := range stored(t, store) {
		if strings.HasPrefix(k, "d/") {
			n += len(raw)
		}
	}
	return n
}

// TestRotateConv: with another secret for ids, what is written shares nothing with what is
// there, and all of it is read: by hosts that know the new secret or not yet, from the store,
// the SSD tier and other hosts, after it was sealed again under the new root, and by who has
// been granted it.
func TestRotateConv(t *testing.T) {
	b, a, domain, data := isolatedBed(t)
	late := b.host(t.TempDir(), "late") // it has the old keys
	must[[]api.Fork](t)(late.Fork(ctx, api.ForkRequest{Source: "acme/home", Name: "acme/late"}))
	write := func(name string) (grew int) {
		t.Helper()
		before := dataOf(t, b.store)
		must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: name, Size: 64 * mib}))
		fill(t, a, name, 1, 0, 4*mib) // what home has
		must[api.Flush](t)(a.Flush(ctx, name))
		return dataOf(t, b.store) - before
	}
	if n := write("acme/same"); n > mib {
		t.Errorf("the same content takes %d bytes before", n)
	}
	x := must[api.Tenant](t)(a.Custody().RotateTenant(ctx, "acme", api.RotateRequest{Conv: true}))
	if len(x.Roots) != 2 {
		t.Errorf("%+v", x)
	}
	if n := write("acme/apart"); n < 4*mib {
		t.Errorf("the same content takes %d bytes with another secret", n)
	}
	if n := write("acme/again"); n > mib {
		t.Errorf("the same content takes %d bytes once it is there", n)
	}
	changed := append(fill(t, a, "acme/home", 2, 0, mib), data[mib:]...)
	must[api.Flush](t)(a.Flush(ctx, "acme/home")) // a map with ids of both kinds
	far := b.host(t.TempDir(), "far")
	check := func() {
		t.Helper()
		for name, want := range map[string][]byte{"acme/home": changed, "acme/same": data, "acme/apart": data, "acme/again": data} {
			for _, h := range []*Host{late, far} {
				fork := name + "-" + h.owners.Advertise
				must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: name, Name: fork, Lazy: true}))
				same(t, h, fork, 0, want)
				if v := must[api.Verify](t)(h.Verify(ctx, fork, true)); len(v.Damaged) > 0 {
					t.Errorf("%s: %+v", fork, v)
				}
				if err := h.Remove(ctx, fork, false); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	check()
	same(t, late, "acme/late", 0, data)
	fill(t, late, "acme/late", 3, 8*mib, mib)
	must[api.Flush](t)(late.Flush(ctx, "acme/late"))
	for _, h := range []*Host{a, late} {
		if s := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{})); s.Damaged > 0 {
			t.Errorf("scrubbed: %+v", s)
		}
	}
	if r := collectWith(t, b.store, b.keys...); len(r.Skipped) > 0 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	check()
	known := tenantstest.New(b.store, b.keys[len(b.keys)-1])
	if r := must[rekey.Report](t)(rekey.Run(ctx, rekey.Options{Tenants: known, Store: b.store, Name: "acme", By: "test"})); r.Root != 2 {
		t.Errorf("%+v", r)
	}
	check()
	if x := must[api.Tenant](t)(a.Custody().Tenant(ctx, domain)); len(x.Roots) != 1 {
		t.Errorf("the isolated domain was rotated, too: %+v", x)
	}
}

// TestRotateConvOfAPublicTenant: who was granted it before reads what it stores afterwards.
func TestRotateConvOfAPublicTenant(t *testing.T) {
	b, a, image := publicBed(t)
	h := b.host(t.TempDir(), "b")
	forkOf(t, h, "public/debian@12", "t0/old")
	must[api.Tenant](t)(a.Custody().RotateTenant(ctx, "public", api.RotateRequest{Conv: true}))
	must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "public/next", Size: 64 * mib}))
	next := fill(t, a, "public/next", 9, 0, 2*mib)
	must[api.Snapshot](t)(a.Snapshot(ctx, "public/next", "13", ""))
	must[api.Flush](t)(a.Flush(ctx, "public/next"))
	forkOf(t, h, "public/next@13", "t0/next")
	same(t, h, "t0/next", 0, next)
	same(t, h, "t0/old", 0, image)
	far := b.host(t.TempDir(), "c")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "t0/next", Name: "t0/far", Lazy: true}))
	same(t, far, "t0/far", 0, next)
}

// TestRotateConvLimit: secrets for ids never go, so there are not many.
func TestRotateConvLimit(t *testing.T) {
	_, a, _, _ := isolatedBed(t)
	for range 15 {
		must[api.Tenant](t)(a.Custody().RotateTenant(ctx, "acme", api.RotateRequest{Conv: true}))
	}
	if _, err := a.Custody().RotateTenant(ctx, "acme", api.RotateRequest{Conv: true}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Error(err)
	}
	must[api.Tenant](t)(a.Custody().RotateTenant(ctx, "acme", api.RotateRequest{}))
}
