package host

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
)

// stored returns all objects of a store.
func stored(t *testing.T, store objstore.Store) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := objstore.ListAll(ctx, store, "", "", func(in objstore.Info) bool {
		all[in.Key] = must[[]byte](t)(store.Get(ctx, in.Key))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSealedTenant: volumes of a sealed tenant are written, forked, read on other hosts and
// after a restart like those of others, with every policy, and nothing of them is in the
// store in clear.
func TestSealedTenant(t *testing.T) {
	b := newBed(t)
	key := tenantstest.Key(t)
	b.keys = append(b.keys, key)
	tenantstest.Create(t, b.store, key, "acme")
	dir := t.TempDir()
	h1, h2 := b.host(dir, "a"), b.host(t.TempDir(), "b")
	mark := bytes.Repeat([]byte("canary in a coal mine!! "), 200)
	for _, policy := range []string{volume.Local, volume.Continuous, volume.Sync} {
		name := "acme/secretname-" + policy
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: name, Size: 64 * mib, Durability: policy}))
		data := append(fill(t, h1, name, 1, 0, 3*mib), mark...)
		if err := guestWrite(guest(t, h1, name), 3*mib, mark); err != nil {
			t.Fatal(err)
		}
		must[api.Flush](t)(h1.Flush(ctx, name))
		must[api.Snapshot](t)(h1.Snapshot(ctx, name, "snap", ""))
		must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-fork"}))
		same(t, h2, name+"-fork", 0, data)
		must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: name + "@snap", Name: name + "-fork2"}))
		same(t, h2, name+"-fork2", 0, data)
		more := fill(t, h2, name+"-fork", 2, 0, mib)
		must[api.Flush](t)(h2.Flush(ctx, name+"-fork"))
		same(t, h2, name+"-fork", 0, append(more, data[mib:]...))
		if v := must[api.Verify](t)(h2.Verify(ctx, name+"-fork", true)); v.Blocks == 0 || len(v.Damaged) > 0 {
			t.Errorf("%s: verified %+v", name, v)
		}
	}
	for k, raw := range stored(t, b.store) {
		if bytes.Contains(raw, mark[:24]) || bytes.Contains(raw, []byte("\"size\"")) || strings.HasPrefix(k, "packs/") {
			t.Errorf("%s has something in clear", k)
		}
	}
}

// TestSealedDedup: a sealed tenant's volumes, forks and imports share the same blocks as a
// plain one's, and with another tenant none.
func TestSealedDedup(t *testing.T) {
	b := newBed(t)
	key := tenantstest.Key(t)
	b.keys = append(b.keys, key)
	tenantstest.Create(t, b.store, key, "acme", "other")
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	image := random(9, 3*mib)
	// counts does the same for each tenant, and returns what was stored and what was there.
	counts := func(tenant string) (all []uint64) {
		vol := func(name string) string { return tenant + "/" + name }
		flush := func(h *Host, name string) {
			f := must[api.Flush](t)(h.Flush(ctx, vol(name)))
			all = append(all, f.BlocksFolded, f.BlocksNew)
		}
		for i, name := range []string{"a", "b"} { // the second has what the first has, and more
			must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: vol(name), Size: 8 * mib}))
			fill(t, h1, vol(name), 1, 0, 4*mib)
			fill(t, h1, vol(name), uint64(20+i), 4*mib, mib)
			flush(h1, name)
		}
		for _, name := range []string{"image", "again"} {
			x := must[api.Import](t)(h1.Import(ctx, vol(name), 0, &bytesSource{b: image}))
			all = append(all, x.BlocksFolded, x.BlocksNew)
		}
		for i, h := range []*Host{h1, h2} {
			fork := fmt.Sprint("fork", i)
			must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: vol("a"), Name: vol(fork)}))
			fill(t, h, vol(fork), 1, 0, mib) // what was there
			fill(t, h, vol(fork), 3, mib, mib)
			flush(h, fork)
		}
		for _, x := range must[api.Usage](t)(h1.Usage(ctx, vol("a"))).SharedWith {
			all = append(all, x.Bytes)
		}
		return all
	}
	plain := counts("open")
	if n := len(plain); n < 13 || plain[1] != 40 || plain[3] != 8 || plain[7] != 0 || plain[9] != 8 {
		t.Fatalf("a plain tenant: %v", plain)
	}
	for _, tenant := range []string{"acme", "other"} {
		if got := counts(tenant); !slices.Equal(got, plain) {
			t.Errorf("%s: %v\nplain: %v", tenant, got, plain)
		}
	}
}
