package host

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// TestRemovingFreesWhatDfSays: what df says that removing a volume frees is what
// collection then frees, within a twentieth.
func TestRemovingFreesWhatDfSays(t *testing.T) {
	b := newBed(t)
	b.retention = 1
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "base", Size: 32 * mib}))
	fill(t, h, "base", 1, 0, 16*mib)
	must[api.Flush](t)(h.Flush(ctx, "base"))
	for i, name := range []string{"kid", "twin"} {
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: name}))
		fill(t, h, name, uint64(10+i), uint64(i)*mib, 6*mib) // over what it shares, and beside it
		fill(t, h, name, 99, 20*mib, 3*mib)                  // both have this
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runRound(t, b.store, 0)
	}
	for _, name := range []string{"kid", "base", "twin"} {
		promised := int64(must[api.Usage](t)(h.Usage(ctx, name)).FreedIfRemoved)
		before := storedBytes(t, b.store, "packs/")
		if err := h.Remove(ctx, name, false); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			runRound(t, b.store, 0)
		}
		freed := before - storedBytes(t, b.store, "packs/")
		t.Logf("removing %s frees %d bytes, and was to free %d", name, freed, promised)
		if promised == 0 || math.Abs(float64(freed-promised)) > float64(promised)/20 {
			t.Errorf("removing %s freed %d bytes, and was to free %d", name, freed, promised)
		}
	}
}

// keeps is a store that forbids deletions, as buckets with an object lock do.
type keeps struct{ objstore.Store }

func (keeps) Delete(context.Context, string) error {
	return errs.New(errs.ReadOnly, "the bucket's policy forbids deletions")
}

func (k keeps) DeleteBatch(ctx context.Context, keys []string) error { return k.Delete(ctx, "") }

// TestStoreForbidsDeletions: the round says so and stays open; volumes go on, and the next
// round that may delete ends it.
func TestStoreForbidsDeletions(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 * mib}))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "w", Size: 8 * mib}))
	for _, name := range []string{"v", "w"} {
		fill(t, h, name, uint64(name[0]), 0, mib)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	if err := h.Remove(ctx, "w", false); err != nil {
		t.Fatal(err)
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := gc.Run(ctx, gc.Options{Store: keeps{b.store}, Tenants: tenantstest.New(keeps{b.store}, tenantstest.Shared()), By: "test", Retention: 1})
		if err == nil || !strings.Contains(err.Error(), "forbids deletions") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("a store that forbids deletions: %v", err)
		}
	}
	want := fill(t, h, "v", 'w', 2*mib, mib) // what w had, which is condemned
	must[api.Flush](t)(h.Flush(ctx, "v"))
	for range 3 {
		runRound(t, b.store, 0)
	}
	if _, got, err := published(b.store, "v"); err != nil || string(got[2*mib:3*mib]) != string(want) {
		t.Errorf("what was flushed meanwhile is not there: %v", err)
	}
}
