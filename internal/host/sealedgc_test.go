package host

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// collectWith runs rounds to their ends as a collector that has these keys.
func collectWith(t *testing.T, store objstore.Store, with ...keys.Provider) (r gc.Result) {
	t.Helper()
	for range 3 {
		r = must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: store, Tenants: tenantstest.New(store, with...), By: "test", Retention: time.Nanosecond, MinDead: 1}))
	}
	return r
}

// objectsOf is the packs, forwards and logs of a tenant, with their bytes.
func objectsOf(t *testing.T, store objstore.Store, tenant string, domain uint32) map[string][]byte {
	t.Helper()
	all := stored(t, store)
	maps.DeleteFunc(all, func(k string, _ []byte) bool {
		return !strings.HasPrefix(k, "t/"+tenant+"/") && !strings.Contains(k, fmt.Sprintf("%08x", domain)) || strings.HasPrefix(k, "gc/") || strings.HasPrefix(k, "keys/")
	})
	return all
}

func sameObjects(t *testing.T, what string, before, after map[string][]byte) {
	t.Helper()
	for k, raw := range before {
		if got, ok := after[k]; !ok || string(got) != string(raw) {
			t.Errorf("%s: %s is gone, or was changed", what, k)
		}
	}
}

// withGarbage makes a volume of a tenant that stays, and garbage: one that was removed, and
// history. It returns what the one that stays holds.
func withGarbage(t *testing.T, h *Host, tenant string) []byte {
	t.Helper()
	for i, name := range []string{tenant + "/stays", tenant + "/gone"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 16 * mib}))
		for n := range 3 {
			fill(t, h, name, uint64(10*i+n), 0, 2*mib)
			must[api.Flush](t)(h.Flush(ctx, name))
		}
	}
	if err := h.Remove(ctx, tenant+"/gone", false); err != nil {
		t.Fatal(err)
	}
	want := fill(t, h, tenant+"/stays", 7, 0, 2*mib)
	must[api.Flush](t)(h.Flush(ctx, tenant+"/stays"))
	return want
}

// TestLockedBesideOpen: of a tenant whose keys the collector lacks nothing goes, and it says
// why; garbage of others goes. With its keys its own goes, too.
func TestLockedBesideOpen(t *testing.T) {
	b := newBed(t)
	one, two := tenantstest.Key(t), tenantstest.Shared()
	b.keys = append(b.keys, one, two)
	tenantstest.Create(t, b.store, one, "acme")
	tenantstest.Create(t, b.store, two, "beta")
	h := b.host(t.TempDir(), "a")
	for _, tenant := range []string{"acme", "beta", "plain"} {
		withGarbage(t, h, tenant)
	}
	if err := h.Close(ctx); err != nil { // its pins go
		t.Fatal(err)
	}
	known := tenantstest.New(b.store, one, two)
	domains := map[string]uint32{"plain": 0}
	for _, tenant := range []string{"acme", "beta"} {
		s, err := known.Stands(ctx, tenant)
		if err != nil || s.Domain == 0 {
			t.Fatal(s, err)
		}
		domains[tenant] = s.Domain
	}
	packs := func(tenant string) int {
		return len(slices.DeleteFunc(keysOf(t, b.store, "packs/"), func(k string) bool {
			return strings.HasPrefix(k, fmt.Sprintf("d/%08x/", domains[tenant])) != (tenant != "plain") || tenant == "plain" && strings.HasPrefix(k, "d/")
		}))
	}
	before := objectsOf(t, b.store, "acme", domains["acme"])
	counts := map[string]int{"beta": packs("beta"), "plain": packs("plain")}
	r := collectWith(t, b.store, two)
	sameObjects(t, "a locked tenant", before, objectsOf(t, b.store, "acme", domains["acme"]))
	if len(r.Skipped) != 1 || r.Skipped[0].Domain != domains["acme"] || !strings.Contains(r.Skipped[0].Why, "acme") {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	for tenant, n := range counts {
		if got := packs(tenant); got == 0 || got >= n {
			t.Errorf("%s has %d packs of %d", tenant, got, n)
		}
	}
	n := packs("acme")
	if r := collectWith(t, b.store, one, two); len(r.Skipped) > 0 || packs("acme") >= n {
		t.Errorf("with its keys: %+v, %d packs of %d", r, packs("acme"), n)
	}
	h = b.host(t.TempDir(), "b")
	for _, tenant := range []string{"acme", "beta", "plain"} {
		must[api.Volume](t)(h.Wake(ctx, tenant+"/stays", true, ""))
		if v := must[api.Verify](t)(h.Verify(ctx, tenant+"/stays", true)); v.Blocks == 0 || len(v.Damaged) > 0 {
			t.Errorf("%s: verified %+v", tenant, v)
		}
	}
}

// TestEqualBlocksOfTenants: rounds of one domain touch nothing of another, whose blocks are
// the same.
func TestEqualBlocksOfTenants(t *testing.T) {
	b := newBed(t)
	key := tenantstest.Shared()
	b.keys = append(b.keys, key)
	tenantstest.Create(t, b.store, key, "acme", "beta")
	h := b.host(t.TempDir(), "a")
	var want []byte
	for _, tenant := range []string{"acme", "beta"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: tenant + "/v", Size: 16 * mib}))
		want = fill(t, h, tenant+"/v", 1, 0, 4*mib)
		must[api.Flush](t)(h.Flush(ctx, tenant+"/v"))
	}
	beta, err := tenantstest.New(b.store, key).Stands(ctx, "beta")
	if err != nil {
		t.Fatal(err)
	}
	s := beta.Domain
	if err := h.Remove(ctx, "acme/v", false); err != nil {
		t.Fatal(err)
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	before := objectsOf(t, b.store, "beta", s)
	collectWith(t, b.store, key)
	sameObjects(t, "the other tenant", before, objectsOf(t, b.store, "beta", s))
	if n := len(keysOf(t, b.store, "packs/")); n == 0 || len(objectsOf(t, b.store, "beta", s)) != len(before) {
		t.Errorf("%d packs are left", n)
	}
	for _, k := range keysOf(t, b.store, "packs/") {
		if !strings.HasPrefix(k, fmt.Sprintf("d/%08x/", s)) {
			t.Errorf("%s of the tenant that has nothing any more is there", k)
		}
	}
	same(t, h, "beta/v", 0, want)
}

// TestErasedTenant: what an erased tenant has left is collected without keys, after the grace
// period. A tenant whose keyrings are merely gone loses nothing.
func TestErasedTenant(t *testing.T) {
	for _, lost := range []bool{false, true} {
		b := newBed(t)
		others := len(b.keys) // of which a collector without keys knows nothing
		key := tenantstest.Shared()
		b.keys = append(b.keys[:0:0], key)
		tenantstest.Create(t, b.store, key, "acme")
		h := b.host(t.TempDir(), "a")
		withGarbage(t, h, "acme")
		known := tenantstest.New(b.store, key)
		s, err := known.Stands(ctx, "acme")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if lost {
			err = b.store.DeleteBatch(ctx, keysOf(t, b.store, fmt.Sprintf("keys/%08x/", s.Domain)))
		} else {
			err = known.Erase(ctx, "acme")
		}
		if err != nil {
			t.Fatal(err)
		}
		before := objectsOf(t, b.store, "acme", s.Domain)
		r := must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store), By: "test", Grace: time.Hour, Retention: time.Nanosecond}))
		sameObjects(t, "in the grace period", before, objectsOf(t, b.store, "acme", s.Domain))
		if !lost {
			if r.FlaggedObjects < len(before)-1 { // its record stays
				t.Errorf("%d objects are flagged of %d", r.FlaggedObjects, len(before))
			}
			plan := must[[]gc.Planned](t)(gc.Plan(ctx, b.store))
			if err := gc.Undelete(ctx, b.store, rander{}, time.Now(), []string{plan[len(plan)-1].Key}); errs.KindOf(err) != errs.Invalid {
				t.Errorf("undelete of %s: %v", plan[len(plan)-1].Key, err)
			}
		}
		r = collectWith(t, b.store)
		after := objectsOf(t, b.store, "acme", s.Domain)
		switch {
		case lost && (len(after) != len(before) || len(r.Skipped) != 1+others):
			t.Errorf("a tenant whose keyrings are gone: %d objects of %d, skipped %+v", len(after), len(before), r.Skipped)
		case !lost && len(after) > 0:
			t.Errorf("left of an erased tenant: %v", slices.Sorted(maps.Keys(after)))
		}
	}
}

type rander struct{}

func (rander) Read(b []byte) (int, error) { return len(b), nil }

// TestMovingTenant: a tenant that is being moved has plain blocks, which rounds of domain 0
// keep; while it is locked there are no such rounds.
func TestMovingTenant(t *testing.T) {
	b := newBed(t)
	others := len(b.keys)
	key := tenantstest.Shared()
	h := b.host(t.TempDir(), "a")
	want := withGarbage(t, h, "acme")
	withGarbage(t, h, "other")
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	tenantstest.Move(t, b.store, key, "acme")
	before := stored(t, b.store)
	r := collectWith(t, b.store)
	sameObjects(t, "a locked tenant that is being moved", before, stored(t, b.store))
	if len(r.Skipped) != 2+others {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	if r := collectWith(t, b.store, key); len(r.Skipped) > 0 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	if n := len(stored(t, b.store)); n >= len(before) {
		t.Errorf("%d objects of %d", n, len(before))
	}
	if _, got, err := published(b.store, "acme/stays"); err != nil || string(got[:2*mib]) != string(want) {
		t.Errorf("what it had before: %v", err)
	}
}

// TestDumpSealed: what is in clear is shown without keys, the rest with them.
func TestDumpSealed(t *testing.T) {
	b := newBed(t)
	b.keys = append(b.keys, tenantstest.Shared())
	tenantstest.Create(t, b.store, tenantstest.Shared(), "acme")
	h := b.host(t.TempDir(), "a")
	withGarbage(t, h, "acme")
	b.keys = nil
	locked := b.host(t.TempDir(), "b")
	log := keysOf(t, b.store, b.logOf("acme/stays"))[0]
	for key, want := range map[string][2]string{log: {"generation 1.1", `"cause"`}, keysOf(t, b.store, "packs/")[0]: {"slot", "ok"}} {
		var open, shut strings.Builder
		if err := h.Dump(ctx, key, &open); err != nil || !strings.Contains(open.String(), want[1]) || strings.Contains(open.String(), "locked") {
			t.Errorf("%s with keys: %v\n%s", key, err, open.String())
		}
		if err := locked.Dump(ctx, key, &shut); err != nil || !strings.Contains(shut.String(), want[0]) || !strings.Contains(shut.String(), "locked") || strings.Contains(shut.String(), `"cause"`) {
			t.Errorf("%s without keys: %v\n%s", key, err, shut.String())
		}
	}
	// Scrubs and figures pass over what is locked.
	s := must[api.Scrub](t)(locked.Scrub(ctx, api.ScrubRequest{}))
	if tenantstest.Sealed() { // so is another tenant
		s.Locked = slices.DeleteFunc(s.Locked, func(why string) bool { return strings.HasPrefix(why, `tenant "default"`) })
	}
	if s.Damaged > 0 || len(s.Locked) != 1 || !strings.Contains(s.Locked[0], "acme") {
		t.Errorf("a scrub without keys: %+v", s)
	}
	must[api.Usage](t)(locked.Usage(ctx, ""))
	if s := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{})); s.Damaged > 0 || len(s.Locked) > 0 || s.Blocks == 0 {
		t.Errorf("a scrub with keys: %+v", s)
	}
}
