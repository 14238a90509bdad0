package host

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// isolatedBed has a sealed tenant acme, with a volume home and an isolated one, web, of the
// same 4 MiB, both in the store. It returns the name of web's domain.
func isolatedBed(t *testing.T) (b *bed, h *Host, domain string, data []byte) {
	t.Helper()
	return isolatedIn(t, tenantstest.Create)
}

func isolatedIn(t *testing.T, create func(testing.TB, objstore.Store, keys.Provider, ...string)) (b *bed, h *Host, domain string, data []byte) {
	t.Helper()
	b = newBed(t)
	key := tenantstest.Shared()
	if len(b.keys) == 0 {
		b.keys = append(b.keys, key)
	}
	create(t, b.store, key, "acme")
	h = b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/home", Size: 64 * mib}))
	v := must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/web", Size: 64 * mib, Isolate: true}))
	if v.Isolated == "" || v.Isolated == "acme" || !v.Encrypted {
		t.Fatalf("%+v", v)
	}
	data = fill(t, h, "acme/home", 1, 0, 4*mib)
	fill(t, h, "acme/web", 1, 0, 4*mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/home"))
	must[api.Flush](t)(h.Flush(ctx, "acme/web"))
	return b, h, v.Isolated, data
}

// isolatedPacks counts the packs of a domain in the store.
func isolatedPacks(t *testing.T, store objstore.Store, domain string) (n int) {
	for k := range stored(t, store) {
		if strings.HasPrefix(k, "d/"+domain[strings.IndexByte(domain, '+')+1:]+"/packs/") {
			n++
		}
	}
	return n
}

// TestIsolate: an isolated volume shares nothing with its tenant's others, and all with its
// forks; it goes through the life of a volume, on two hosts, under its own keys.
func TestIsolate(t *testing.T) {
	for name, create := range map[string]func(testing.TB, objstore.Store, keys.Provider, ...string){"clear names": tenantstest.Create, "hidden names": tenantstest.CreateHidden} {
		t.Run(name, func(t *testing.T) {
			b, a, domain, data := isolatedIn(t, create)
			lifeIsolated(t, b, a, domain, data)
		})
	}
}

func lifeIsolated(t *testing.T, b *bed, a *Host, domain string, data []byte) {
	t.Helper()
	n := isolatedPacks(t, b.store, domain)
	if n == 0 {
		t.Fatal("it shares the blocks of its sibling")
	}
	must[[]api.Fork](t)(a.Fork(ctx, api.ForkRequest{Source: "acme/web", Name: "acme/child"}))
	must[api.Snapshot](t)(a.Snapshot(ctx, "acme/web", "s", ""))
	must[api.Flush](t)(a.Flush(ctx, "acme/child"))
	must[api.Flush](t)(a.Flush(ctx, "acme/web"))
	if got := isolatedPacks(t, b.store, domain); got > n+1 { // a pack of pages
		t.Errorf("%d packs were %d before a fork", got, n)
	}
	other := b.host(t.TempDir(), "b")
	must[[]api.Fork](t)(other.Fork(ctx, api.ForkRequest{Source: "acme/web@s", Name: "acme/far"}))
	same(t, other, "acme/far", 0, data)
	fill(t, other, "acme/far", 7, 0, 256<<10)
	must[api.Volume](t)(other.Set(ctx, "acme/far", api.Settings{"durability": "sync"}))
	must[api.Volume](t)(a.Rename(ctx, "acme/child", "acme/grandchild"))
	if err := a.Remove(ctx, "acme/grandchild", false); err != nil {
		t.Fatal(err)
	}
	if v := must[api.Volume](t)(a.Restore(ctx, "acme/grandchild", "")); v.Isolated != domain {
		t.Errorf("restored: %+v", v)
	}
	same(t, a, "acme/grandchild", 0, data)
	must[api.Volume](t)(a.Sleep(ctx, "acme/web", true, false))
	must[api.Volume](t)(other.Wake(ctx, "acme/web", false, ""))
	same(t, other, "acme/web", 0, data)
	written := fill(t, other, "acme/web", 9, mib, mib)
	must[api.Volume](t)(other.Rollback(ctx, "acme/web", "s", true))
	same(t, other, "acme/web", 0, data)
	fill(t, other, "acme/web", 9, mib, mib)
	must[api.Flush](t)(other.Flush(ctx, "acme/web"))
	for _, v := range append(must[[]api.Volume](t)(a.List(ctx, true)), must[[]api.Volume](t)(other.List(ctx, true))...) {
		if want := map[bool]string{true: "", false: domain}[v.Name == "acme/home"]; v.Isolated != want {
			t.Errorf("%s is isolated in %q", v.Name, v.Isolated)
		}
	}
	for k, raw := range stored(t, b.store) {
		if _, _, err := commitlog.ParseKey(k); err != nil {
			continue
		}
		o, err := commitlog.Read(ctx, withKeys(b.store), k, raw)
		if err != nil || (o.State.Isolated != 0) == (o.State.Name == "home") {
			t.Errorf("%s says domain %08x: %v", k, o.State.Isolated, err)
		}
	}
	if r := collectWith(t, b.store, b.keys...); len(r.Skipped) > 0 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	same(t, other, "acme/web", mib, written)
	for _, name := range []string{"acme/web", "acme/far"} {
		if v := must[api.Verify](t)(other.Verify(ctx, name, true)); v.Blocks == 0 || len(v.Damaged) > 0 {
			t.Errorf("%s: verified %+v", name, v)
		}
	}
	if s := must[api.Scrub](t)(a.Scrub(ctx, api.ScrubRequest{StoreOnly: true})); s.Damaged > 0 || len(s.Locked) > 0 {
		t.Errorf("scrubbed: %+v", s)
	}
	// A new root of its domain alone; what is stored is sealed again under it.
	if err := other.Close(ctx); err != nil { // its pins go
		t.Fatal(err)
	}
	must[api.Tenant](t)(a.Custody().RotateTenant(ctx, domain, api.RotateRequest{}))
	if r := must[api.Rekey](t)(a.Custody().RekeyTenant(ctx, domain, api.RekeyRequest{})); r.Root != 2 || r.Packs == 0 || r.PacksLeft > 0 {
		t.Errorf("%+v", r)
	}
	if r := must[api.Rekey](t)(a.Custody().RekeyTenant(ctx, "acme", api.RekeyRequest{})); r.Packs+r.PacksLeft+r.CommitsLeft != 0 {
		t.Errorf("the home domain: %+v", r)
	}
	must[api.Volume](t)(a.Wake(ctx, "acme/far", true, ""))
	same(t, a, "acme/far", 256<<10, data[256<<10:])
	// What other domains have under old roots is none of the tenant's own business.
	must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "acme/second", Size: mib, Isolate: true}))
	must[api.Flush](t)(a.Flush(ctx, "acme/second"))
	must[api.Tenant](t)(a.Custody().RotateTenant(ctx, "acme", api.RotateRequest{}))
	must[api.Rekey](t)(a.Custody().RekeyTenant(ctx, "acme", api.RekeyRequest{}))
	collectWith(t, b.store, b.keys...)
	if r := must[api.Rekey](t)(a.Custody().RekeyTenant(ctx, "acme", api.RekeyRequest{})); r.PacksLeft+r.CommitsLeft != 0 {
		t.Errorf("the home domain: %+v", r)
	}
}

// TestIsolatedBesideOthers: rounds of a collector that remembers what it read keep what volumes
// of either domain have, though those of the other read of them no more than headers.
func TestIsolatedBesideOthers(t *testing.T) {
	b, a, _, data := isolatedBed(t)
	known, memory := tenantstest.New(b.store, b.keys...), gc.NewMemory()
	for range 4 {
		must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: b.store, Tenants: known, By: "test", Retention: time.Nanosecond, MinDead: 1, Memory: memory}))
	}
	if err := a.Close(ctx); err != nil { // and its pins
		t.Fatal(err)
	}
	for range 4 {
		must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: b.store, Tenants: known, By: "test", Retention: time.Nanosecond, MinDead: 1, Memory: memory}))
	}
	far := b.host(t.TempDir(), "b")
	for _, name := range []string{"acme/web", "acme/home"} {
		must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-fork", Lazy: true}))
		same(t, far, name+"-fork", 0, data)
	}
}

// TestIsolatedErasure: the keys of an isolated domain are erased, and the rest of the tenant
// goes on, collection included. What is left of it goes, and its names are free again.
func TestIsolatedErasure(t *testing.T) {
	b, a, domain, data := isolatedBed(t)
	far := b.host(t.TempDir(), "b")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "acme/web", Name: "acme/copy"}))
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "acme/home", Name: "acme/stays"}))
	x, err := a.Custody().EraseTenant(ctx, domain)
	if err != nil || x.State != api.TenantLocked || x.Name != domain {
		t.Fatalf("%+v, %v", x, err)
	}
	if v := must[api.Volume](t)(a.Show(ctx, "acme/web")); v.State != api.TenantLocked || !strings.Contains(v.Reason, "erased") {
		t.Errorf("%+v", v)
	}
	if _, err := b.host(t.TempDir(), "c").Wake(ctx, "acme/web", true, ""); err == nil || !strings.Contains(err.Error(), "erased") {
		t.Errorf("woken without keys: %v", err)
	}
	if err := vol(t, a, "acme/web").WriteAt(data[:mib], 8*mib); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Flush(ctx, "acme/web"); err == nil {
		t.Error("flushed without keys")
	}
	for range 2 {
		if r := collectWith(t, b.store, b.keys...); len(r.Skipped) > 0 {
			t.Errorf("skipped: %+v", r.Skipped)
		}
	}
	if n := isolatedPacks(t, b.store, domain); n > 0 {
		t.Errorf("%d packs are left", n)
	}
	for k := range stored(t, b.store) {
		if strings.Contains(k, "/volumes/web/") || strings.Contains(k, "/volumes/copy/") {
			t.Errorf("%s is left", k)
		}
	}
	same(t, a, "acme/home", 0, data)
	same(t, far, "acme/stays", 0, data)
	c := b.host(t.TempDir(), "d")
	must[[]api.Fork](t)(c.Fork(ctx, api.ForkRequest{Source: "acme/home", Name: "acme/web"}))
	must[api.Flush](t)(c.Flush(ctx, "acme/web"))
	same(t, c, "acme/web", 0, data)
	// The tenant takes its other isolated domains with it.
	v := must[api.Volume](t)(c.Create(ctx, api.CreateRequest{Name: "acme/last", Size: mib, Isolate: true}))
	if x := must[api.Tenant](t)(c.Custody().Tenant(ctx, "acme")); len(x.Isolated) != 2 {
		t.Errorf("%+v", x)
	}
	if _, err := c.Custody().EraseTenant(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if x := must[api.Tenant](t)(c.Custody().Tenant(ctx, v.Isolated)); x.State != api.TenantLocked || !strings.Contains(x.Reason, "erased") {
		t.Errorf("%+v", x)
	}
}

// TestIsolatedLocked: without the keys of an isolated domain, the rest of the tenant goes on,
// and its blocks are collected; nothing of the domain is.
func TestIsolatedLocked(t *testing.T) {
	b, a, domain, data := isolatedBed(t)
	must[api.Volume](t)(a.Sleep(ctx, "acme/web", true, false)) // an epoch of it will be past retention
	must[api.Volume](t)(a.Wake(ctx, "acme/web", false, ""))
	other := tenantstest.Key(t)
	known := tenantstest.New(b.store, b.keys[len(b.keys)-1], other)
	if _, err := known.Rewrap(ctx, domain, []keys.Provider{other}, true); err != nil {
		t.Fatal(err)
	}
	far := b.host(t.TempDir(), "b")
	for _, v := range must[[]api.Volume](t)(far.List(ctx, true)) {
		if locked := v.State == api.TenantLocked; locked != (v.Name == "acme/web") {
			t.Errorf("%+v", v)
		}
	}
	if _, err := far.Fork(ctx, api.ForkRequest{Source: "acme/web", Name: "acme/x", Lazy: true}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("forked without keys: %v", err)
	}
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "acme/home", Name: "acme/y", Lazy: true}))
	if s := must[api.Scrub](t)(far.Scrub(ctx, api.ScrubRequest{StoreOnly: true})); s.Damaged > 0 || len(s.Locked) != 1 {
		t.Errorf("scrubbed: %+v", s)
	}
	n := isolatedPacks(t, b.store, domain)
	fill(t, a, "acme/home", 3, 0, 4*mib)
	must[api.Flush](t)(a.Flush(ctx, "acme/home"))
	r := collectWith(t, b.store, b.keys...)
	if len(r.Skipped) != 1 || isolatedPacks(t, b.store, domain) != n {
		t.Errorf("%d packs were %d; skipped: %+v", isolatedPacks(t, b.store, domain), n, r.Skipped)
	}
	same(t, a, "acme/web", 0, data) // whose host has the keys still
}

// TestIsolatedNames: a name goes from one domain to another and back; what the log has of the
// past is read, and nothing is rolled back into other keys.
func TestIsolatedNames(t *testing.T) {
	b, a, domain, data := isolatedBed(t)
	first := must[api.Volume](t)(a.Show(ctx, "acme/web")).Generation
	if err := a.Remove(ctx, "acme/web", false); err != nil {
		t.Fatal(err)
	}
	must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "acme/web", Size: 64 * mib}))
	fill(t, a, "acme/web", 2, 0, mib)
	must[api.Flush](t)(a.Flush(ctx, "acme/web"))
	if _, err := a.Rollback(ctx, "acme/web", first, false); err == nil || !strings.Contains(err.Error(), "another volume") {
		t.Errorf("rolled back into another domain: %v", err)
	}
	must[[]api.Fork](t)(a.Fork(ctx, api.ForkRequest{Source: "acme/web", Name: "acme/old", At: first}))
	same(t, a, "acme/old", 0, data)
	if v := must[api.Volume](t)(a.Show(ctx, "acme/old")); v.Isolated != domain {
		t.Errorf("%+v", v)
	}
	if err := a.Remove(ctx, "acme/web", false); err != nil {
		t.Fatal(err)
	}
	v := must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "acme/web", Size: mib, Isolate: true}))
	fill(t, a, "acme/web", 4, 0, mib)
	must[api.Flush](t)(a.Flush(ctx, "acme/web"))
	if v.Isolated == domain || v.Isolated == "" {
		t.Errorf("isolated in %q again", v.Isolated)
	}
	if r := collectWith(t, b.store, b.keys...); len(r.Skipped) > 0 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	same(t, a, "acme/old", 0, data)
	if n := isolatedPacks(t, b.store, domain); n == 0 {
		t.Error("the packs of a fork are gone")
	}
}

// TestIsolateRefused: where there are no keys, or nothing new can have keys of its own.
func TestIsolateRefused(t *testing.T) {
	b, h, _ := publicBed(t)
	for what, err := range map[string]error{
		"a plain tenant": func() error {
			_, err := h.Create(ctx, api.CreateRequest{Name: "plain/v", Size: mib, Isolate: true})
			return err
		}(),
		"a public tenant": func() error {
			_, err := h.Create(ctx, api.CreateRequest{Name: "public/v", Size: mib, Isolate: true})
			return err
		}(),
		"a fork in its tenant": func() error {
			_, err := h.Fork(ctx, api.ForkRequest{Source: "public/debian", Name: "public/v", Isolate: true})
			return err
		}(),
		"of no public tenant": func() error {
			must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "t1/v", Size: mib}))
			must[api.Snapshot](t)(h.Snapshot(ctx, "t1/v", "s", ""))
			_, err := h.Fork(ctx, api.ForkRequest{Source: "t1/v@s", Name: "t2/v", Isolate: true})
			return err
		}(),
	} {
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := h.Create(ctx, api.CreateRequest{Name: "t1/v", Size: mib, Isolate: true}); errs.KindOf(err) != errs.Exists {
		t.Errorf("a name that is taken: %v", err)
	}
	for k := range stored(t, b.store) {
		if name, ok := tenants.NameOf(k); ok && strings.Contains(name, "+") {
			t.Errorf("%s is left", k)
		}
	}
}

// TestIsolatedForks: forks of one public image, each with keys of its own in one tenant, keep
// the image once.
func TestIsolatedForks(t *testing.T) {
	b, _, image := publicBed(t)
	h := b.host(t.TempDir(), "b")
	alone := bytesOf(t, b)
	domains := map[string]bool{}
	for i := range 4 {
		name := fmt.Sprint("t0/vm", i)
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "public/debian@12", Name: name, Isolate: true}))
		fill(t, h, name, 5, 0, 256<<10) // the same in each
		must[api.Flush](t)(h.Flush(ctx, name))
		same(t, h, name, 256<<10, image[256<<10:])
		domains[must[api.Volume](t)(h.Show(ctx, name)).Isolated] = true
	}
	if len(domains) != 4 || domains[""] {
		t.Errorf("%v", domains)
	}
	if n, most := bytesOf(t, b), float64(alone+4*256<<10)*1.05; float64(n) > most {
		t.Errorf("the store has %d bytes, %.0f are possible", n, most)
	} else if n < alone+4*256<<10 {
		t.Error("they share what they wrote")
	}
	if r := collectWith(t, b.store, b.keys...); len(r.Skipped) > 0 {
		t.Errorf("skipped: %+v", r.Skipped)
	}
	far := b.host(t.TempDir(), "c")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "t0/vm3", Name: "t0/far", Lazy: true}))
	same(t, far, "t0/far", 256<<10, image[256<<10:])
	if err := errors.Join(far.Remove(ctx, "t0/far", false), h.Remove(ctx, "t0/vm0", false)); err != nil {
		t.Fatal(err)
	}
}

// TestIsolatedWhileMoved: a tenant with an isolated volume, that is being moved into its own
// domain, is moved without that volume.
func TestIsolatedWhileMoved(t *testing.T) {
	b := newSealing(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/old", Size: 64 * mib}))
	old := fill(t, h, "acme/old", 1, 0, 2*mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/old"))
	if _, err := h.disks.Tenants.Seal(ctx, tenants.Birth{Name: "acme", Keys: []keys.Provider{b.key}, OneKey: true, Suite: seal.AES256GCM}); err != nil {
		t.Fatal(err)
	}
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/web", Size: 64 * mib, Isolate: true}))
	data := fill(t, h, "acme/web", 2, 0, 2*mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/web"))
	b.seal(h, "acme")
	far := b.host(t.TempDir(), "b")
	for name, want := range map[string][]byte{"acme/old": old, "acme/web": data} {
		must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-fork"}))
		same(t, far, name+"-fork", 0, want)
	}
}
