package host

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
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

// TestSealUnderWriters: guests of every policy write while their tenant is sealed, a reader on
// another host goes on, and nobody misses anything.
func TestSealUnderWriters(t *testing.T) {
	b := newSealing(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	names := []string{"acme/local", "acme/continuous", "acme/sync"}
	image := map[string][]byte{}
	for i, name := range names {
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: name, Size: 32 * mib, Durability: strings.TrimPrefix(name, "acme/")}))
		image[name] = fill(t, h1, name, uint64(i), 0, 24*mib)
		must[api.Flush](t)(h1.Flush(ctx, name))
		must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-elsewhere"}))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, name := range names {
		dev, frozen := guest(t, h1, name), bytes.Clone(image[name])
		reader := vol(t, h2, name+"-elsewhere")
		wg.Go(func() {
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				off := n * 37 % 5000 * 4096
				data := random(1000*uint64(i)+n, 8192)
				if err := guestWrite(dev, off, data); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				copy(image[name][off:], data)
				got := make([]byte, 8192)
				if err := reader.ReadAt(got, off); err != nil || !bytes.Equal(got, frozen[off:off+8192]) {
					t.Errorf("%s on another host: %v", name, err)
					return
				}
			}
		})
	}
	out, err := b.try(h1, "acme")
	if err != nil || len(out.Left) == 0 {
		t.Errorf("the forks of the other host: %+v, %v", out, err)
	}
	for _, left := range out.Left {
		if left.Host != h2.ID() || !strings.Contains(left.Reason, "seal acme on host "+h2.ID()) {
			t.Errorf("left: %+v", left)
		}
	}
	if out, err = b.try(h2, "acme"); err != nil || len(out.Left) > 0 && out.Tenant.State == api.TenantSealed {
		t.Errorf("%+v, %v", out, err)
	}
	b.seal(h1, "acme")
	time.Sleep(200 * time.Millisecond) // and they go on
	close(stop)
	wg.Wait()
	for _, name := range names {
		same(t, h1, name, 0, image[name])
		must[api.Flush](t)(h1.Flush(ctx, name))
		if v := must[api.Verify](t)(h1.Verify(ctx, name, true)); len(v.Damaged) > 0 {
			t.Errorf("%+v", v)
		}
		must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-after"}))
		same(t, h2, name+"-after", 0, image[name])
	}
	nothingPlain(t, b.bed, h1)
}

// nothingPlain makes sure that nothing of tenant acme that a host reads is plain, as the store
// has it and without its history.
func nothingPlain(t *testing.T, b *bed, h *Host) {
	t.Helper()
	strict := h.disks.Tenants.Strict(h.disks.Store)
	err := commitlog.Tips(ctx, b.store, "acme", func(name string, _ commitlog.Generation) error {
		tip, err := commitlog.Newest(ctx, strict, commitlog.Volume{Tenant: "acme", Name: name})
		if err != nil || tip.Bare() {
			return err
		}
		if tip.Domain == 0 || slices.Contains(tip.State.Domains, 0) {
			t.Errorf("%s names domains %x", name, tip.State.Domains)
		}
		for _, s := range append(tip.State.Snapshots, commitlog.Snapshot{Root: tip.State.Root}) {
			m := must[*blockmap.Map](t)(blockmap.New(h.disks.Tenant("acme").Pages, s.Root, s.Root.Span()))
			err := m.WalkPages(ctx, nil, func(ref pack.Ref, p blockmap.Page) error {
				plain := ref.Pack.Domain == 0
				for _, r := range p.All() {
					plain = plain || r.Pack.Domain == 0
				}
				if plain {
					t.Errorf("%s@%s is over plain packs", name, s.Name)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSealFails: whatever request fails, nothing is lost, and the next call goes on, also in
// another process.
func TestSealFails(t *testing.T) {
	step := 7 // of the requests, each is tried in time
	if testing.Short() {
		step = 31
	}
	for n := 1; ; n += step {
		b := newSealing(t)
		faults := objstore.NewFaults(b.store, 1)
		good := b.store
		b.store = faults
		dir := t.TempDir()
		h := b.host(dir, "a")
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/v", Size: 16 * mib}))
		data := fill(t, h, "acme/v", 1, 0, 9*mib)
		must[api.Snapshot](t)(h.Snapshot(ctx, "acme/v", "s", ""))
		must[api.Flush](t)(h.Flush(ctx, "acme/v"))
		more := fill(t, h, "acme/v", 2, 0, mib)
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: "acme/f"}))
		must[api.Volume](t)(h.Sleep(ctx, "acme/f", false, false))
		faults.Inject(objstore.Fault{Skip: n - 1, Effect: objstore.Effect(n % 2)}) // from this request on
		_, err := b.try(h, "acme")
		faults.Clear()
		if n%2 == 0 { // kill -9, as far as the store knows
			if err := h.Close(ctx); err != nil {
				t.Fatal(err)
			}
			h = b.host(dir, "a")
		}
		same(t, h, "acme/v", 0, append(bytes.Clone(more), data[mib:]...))
		same(t, h, "acme/v@s", 0, data)
		b.seal(h, "acme")
		b.store = good
		h2 := b.host(t.TempDir(), "b")
		must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: "acme/w"}))
		same(t, h2, "acme/w", 0, append(more, data[mib:]...))
		must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "acme/v@s", Name: "acme/x"}))
		same(t, h2, "acme/x", 0, data)
		same(t, h, "acme/f", mib, data[mib:])
		nothingPlain(t, b.bed, h)
		if err == nil {
			t.Logf("%d requests", n)
			return
		}
	}
}

// TestMovedRefusesPlain: once a tenant is sealed, a plain object in the place of a sealed one
// is refused, and so is what is plain below a map.
func TestMovedRefusesPlain(t *testing.T) {
	b := newSealing(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/v", Size: 16 * mib}))
	fill(t, h, "acme/v", 1, 0, 3*mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/v"))
	vol := commitlog.Volume{Tenant: "acme", Name: "v"}
	first := must[[]byte](t)(b.store.Get(ctx, vol.Key(commitlog.Generation{Epoch: 1, Number: 1})))
	o := must[*commitlog.Object](t)(commitlog.Decode(first))
	b.seal(h, "acme")
	tip := must[*commitlog.Object](t)(commitlog.Newest(ctx, h.disks.Store, vol))
	o.Generation, o.Kind = tip.Generation, commitlog.Commit
	if err := b.store.Put(ctx, vol.Key(tip.Generation), must[[]byte](t)(o.Encode())); err != nil {
		t.Fatal(err)
	}
	for name, where := range map[string]*Host{"there": h, "elsewhere": b.host(t.TempDir(), "b")} {
		_, err := where.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: "acme/w", Lazy: true, At: tip.Generation.String()})
		if err == nil {
			t.Errorf("%s: forked from what was put there", name)
		}
	}
	if _, err := h.disks.Tenant("acme").Hasher.In(0); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("plain packs: %v", err)
	}
}

// TestSealDeduplicates: a tenant that was moved stores as many blocks as one born sealed, and
// forks with the same map are stored again once.
func TestSealDeduplicates(t *testing.T) {
	b := newSealing(t)
	tenantstest.Create(t, b.store, b.key, "born")
	h := b.host(t.TempDir(), "a")
	blocks := map[string]int{}
	for _, tenant := range []string{"acme", "born"} {
		name := tenant + "/v"
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 64 * mib}))
		data := fill(t, h, name, 1, 0, 8*mib)
		if err := vol(t, h, name).WriteAt(data, 16*mib); err != nil { // twice
			t.Fatal(err)
		}
		must[api.Flush](t)(h.Flush(ctx, name))
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: name, Name: name, Count: 5}))
		for i := range 5 {
			fork := name + "-" + string(rune('1'+i))
			fill(t, h, fork, uint64(10+i), 40*mib, mib)
			if i < 2 {
				must[api.Flush](t)(h.Flush(ctx, fork))
			}
		}
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: tenant + "/copy", Size: 64 * mib}))
		fill(t, h, tenant+"/copy", 1, mib, 8*mib)
		must[api.Flush](t)(h.Flush(ctx, tenant+"/copy"))
	}
	out := b.seal(h, "acme")
	if out.Bytes > 6*18*mib {
		t.Errorf("%d bytes were read", out.Bytes)
	}
	for _, tenant := range []string{"acme", "born"} {
		for i := range 5 {
			must[api.Flush](t)(h.Flush(ctx, tenant+"/v-"+string(rune('1'+i))))
		}
		domain := h.disks.Tenant(tenant).Hasher.Codec().ID()
		for key, raw := range stored(t, b.store) {
			if id, err := pack.ParseKey(key); err == nil && id.Domain == domain {
				for _, s := range must[[]pack.Slot](t)(h.disks.Tenant(tenant).Hasher.Codec().Slots(id, raw)) {
					if pack.KindOf(s.Bytes) == pack.KindBlock {
						blocks[tenant]++
					}
				}
			}
		}
	}
	if blocks["acme"] != blocks["born"] || blocks["acme"] == 0 {
		t.Errorf("blocks stored: %v", blocks)
	}
}

// TestSealWaits: as long as a host may take the tenant for a plain one, plain text is read.
func TestSealWaits(t *testing.T) {
	b := newSealing(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/v", Size: 16 * mib}))
	fill(t, h, "acme/v", 1, 0, mib)
	old := must[api.Flush](t)(h.Flush(ctx, "acme/v")).Generation
	for range 2 { // the second call finds nothing plain, and has seen nobody who read what was
		short, stop := context.WithTimeout(ctx, 2*time.Second)
		if out, err := h.Custody().SealTenant(short, "acme", api.SealRequest{Keys: []string{b.key.String()}, OneKey: true}); err == nil {
			t.Errorf("it did not wait: %+v", out)
		}
		stop()
		b.ahead.Add(int64(2 * tenants.SettleFor))
	}
	if i := must[api.Tenant](t)(h.Custody().Tenant(ctx, "acme")); i.State != api.TenantMoving {
		t.Errorf("%+v", i)
	}
	_, err := h.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: "acme/past", At: old})
	wantKind(t, err, errs.NotFound)
	b.seal(h, "acme")
}

// blind is a store that does not answer what a tenant is, while it is on.
type blind struct {
	objstore.Store
	on atomic.Bool
}

func (s *blind) Get(ctx context.Context, key string) ([]byte, error) {
	if s.on.Load() && strings.HasPrefix(key, tenants.Prefix) {
		return nil, errs.New(errs.Unavailable, "no answer")
	}
	return s.Store.Get(ctx, key)
}

// TestSealKnownAsPlain: a host that took the tenant for a plain one, and did nothing for it
// while it was moved, begins no plain log afterwards, also not if it cannot find out.
func TestSealKnownAsPlain(t *testing.T) {
	b := newSealing(t)
	h := b.host(t.TempDir(), "a")
	all := &blind{Store: b.store}
	b.store = all
	idle := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/v", Size: 16 * mib}))
	data := fill(t, h, "acme/v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/v"))
	if err := idle.disks.Tenants.Ready(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	b.seal(h, "acme")
	fresh := api.CreateRequest{Name: "acme/new", Size: 16 * mib, Durability: volume.Sync}
	all.on.Store(true)
	_, err := idle.Create(ctx, fresh)
	wantKind(t, err, errs.Unavailable)
	_, err = h.Show(ctx, "acme/new")
	wantKind(t, err, errs.NotFound)
	all.on.Store(false)
	must[api.Volume](t)(idle.Create(ctx, fresh))
	if v := must[api.Volume](t)(h.Show(ctx, "acme/new")); !v.Encrypted {
		t.Errorf("%+v", v)
	}
	must[[]api.Fork](t)(idle.Fork(ctx, api.ForkRequest{Source: "acme/v", Name: "acme/fork"}))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "acme/fork", Name: "acme/fork-of-fork"}))
	same(t, h, "acme/fork-of-fork", 0, data)
}

// TestSealThenCollect: what a tenant stored in clear is garbage once it is sealed, at the
// first rounds and with its plain history still there; what it has now, and other tenants'
// plain packs, stay.
func TestSealThenCollect(t *testing.T) {
	b := newSealing(t)
	h := b.host(t.TempDir(), "a")
	plain := func() (n int) {
		for key := range stored(t, b.store) {
			if strings.HasPrefix(key, "packs/") {
				n++
			}
		}
		return n
	}
	data := map[string][]byte{}
	of := map[string]int{}
	for _, name := range []string{"other/v", "acme/v"} {
		before := plain()
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 64 * mib}))
		data[name] = fill(t, h, name, 1, 0, 8*mib)
		must[api.Flush](t)(h.Flush(ctx, name))
		of[name] = plain() - before
	}
	b.seal(h, "acme")
	for range 3 {
		if c := must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s"})); len(c.Skipped) > 0 {
			t.Errorf("skipped: %+v", c.Skipped)
		}
	}
	if n := plain(); n != of["other/v"] || of["acme/v"] == 0 {
		t.Errorf("%d plain packs are left, %d are another tenant's", n, of["other/v"])
	}
	if s := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{})); s.Damaged > 0 || len(s.Lost) > 0 {
		t.Errorf("a scrub found %+v", s)
	}
	for name, want := range data {
		same(t, h, name, 0, want)
		if v := must[api.Verify](t)(h.Verify(ctx, name, true)); v.Blocks == 0 || len(v.Damaged) > 0 {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
