package host

import (
	"bytes"
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
