package host

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
)

// sealing is a bed whose hosts have a key, and a clock of which moves need not wait for it.
type sealing struct {
	*bed
	key   keys.Provider
	ahead atomic.Int64 // of the clock
}

func newSealing(t *testing.T) *sealing {
	t.Helper()
	b := &sealing{bed: newBed(t), key: tenantstest.Key(t)}
	b.keys = append(b.keys, b.key)
	began := time.Now()
	b.uptime = func() time.Duration { return time.Since(began) + time.Duration(b.ahead.Load()) }
	b.move = 4 * mib
	return b
}

// try seals a tenant on a host.
func (b *sealing) try(h *Host, tenant string) (api.Sealing, error) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond):
				b.ahead.Add(int64(tenants.SettleFor))
			}
		}
	}()
	return h.Custody().SealTenant(ctx, tenant, api.SealRequest{Keys: []string{b.key.String()}, OneKey: true})
}

// seal seals a tenant, of which nothing is left then.
func (b *sealing) seal(h *Host, tenant string) api.Sealing {
	b.t.Helper()
	out, err := b.try(h, tenant)
	if err != nil || len(out.Left) > 0 || out.Tenant.State != api.TenantSealed {
		b.t.Fatalf("%+v, %v", out, err)
	}
	return out
}

// TestSealTenant: a tenant with volumes of every policy, forks, snapshots and sleeping
// volumes is sealed. Everything has its content, on this host, after a restart and elsewhere;
// nothing that is in use is plain, and what is plain is refused.
func TestSealTenant(t *testing.T) {
	b := newSealing(t)
	dir := t.TempDir()
	h1, h2 := b.host(dir, "a"), b.host(t.TempDir(), "b")
	want := map[string][]byte{}
	for i, policy := range []string{volume.Local, volume.Continuous, volume.Sync} {
		name := "acme/" + policy
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: name, Size: 64 * mib, Durability: policy}))
		want[name+"@s"] = fill(t, h1, name, uint64(i), 0, 9*mib)
		must[api.Snapshot](t)(h1.Snapshot(ctx, name, "s", ""))
		must[api.Flush](t)(h1.Flush(ctx, name))
		must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-local", Count: 3}))
		want[name+"-local-1"] = append(fill(t, h1, name+"-local-1", 50, 0, mib), want[name+"@s"][mib:]...)
		want[name+"-local-2"], want[name+"-local-3"] = want[name+"@s"], want[name+"@s"]
		must[api.Snapshot](t)(h1.Snapshot(ctx, name+"-local-1", "s", ""))
		want[name+"-local-1@s"] = want[name+"-local-1"]
		want[name] = append(bytes.Clone(want[name+"@s"][:3*mib]), fill(t, h1, name, 60, 3*mib, 6*mib)...)
	}
	must[api.Volume](t)(h1.Sleep(ctx, "acme/local-local-3", false, false))
	must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "acme/local", Name: "acme/away"}))
	want["acme/away"] = want["acme/local"]
	must[api.Volume](t)(h1.Sleep(ctx, "acme/away", true, false))
	must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "acme/sync", Name: "acme/gone"}))
	must[api.Flush](t)(h1.Flush(ctx, "acme/gone"))
	if err := h1.Remove(ctx, "acme/gone", false); err != nil {
		t.Fatal(err)
	}
	must[api.Volume](t)(h2.Wake(ctx, "acme/away", false, ""))
	must[api.Volume](t)(h2.Sleep(ctx, "acme/away", true, false))
	old := must[api.Flush](t)(h1.Flush(ctx, "acme/local")).Generation
	if out := b.seal(h1, "acme"); out.Bytes == 0 {
		t.Errorf("%+v", out)
	}
	check := func(h *Host, when string) {
		t.Helper()
		for name, data := range want {
			if h == h2 && strings.Contains(name, "-local") {
				continue
			}
			if h == h2 {
				fork := "acme/check-" + strings.NewReplacer("/", "-", "@", "-").Replace(name)
				must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: name, Name: fork}))
				same(t, h, fork, 0, data)
				continue
			}
			if name == "acme/away" {
				must[api.Volume](t)(h.Wake(ctx, name, false, ""))
			}
			same(t, h, name, 0, data)
			if v := must[api.Verify](t)(h.Verify(ctx, name, true)); len(v.Damaged) > 0 {
				t.Errorf("%s: %s: %+v", when, name, v)
			}
		}
	}
	check(h1, "sealed")
	check(h2, "elsewhere")
	for name := range want {
		if d, err := h1.disks.Local(name, true); err != nil || d.State().Root.Ref.Pack.Domain == 0 {
			t.Errorf("%s is over %s, %v", name, d.State().Root, err)
		}
	}
	_, err := h1.Fork(ctx, api.ForkRequest{Source: "acme/local", Name: "acme/past", At: old})
	wantKind(t, err, errs.NotFound)
	if !strings.Contains(err.Error(), "before tenant") {
		t.Error(err)
	}
	must[[]api.Commit](t)(h1.Log(ctx, "acme/local", "", 0))
	must[[]api.Volume](t)(h2.List(ctx, true))
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "acme/gone", Size: mib}))
	must[api.Flush](t)(h1.Flush(ctx, "acme/gone"))
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h1 = b.host(dir, "a")
	check(h1, "after a restart")
	if again := b.seal(h1, "acme"); again.Bytes > 0 {
		t.Errorf("once more: %+v", again)
	}
}
