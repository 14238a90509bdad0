package host

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// portable leaves a volume "base" of n random bytes in the store.
func portable(t *testing.T, b *bed, n uint64) []byte {
	t.Helper()
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "base", Size: n}))
	data := fill(t, h, "base", 1, 0, n)
	must[api.Volume](t)(h.Sleep(ctx, "base", true, false))
	return data
}

// onHost is how many of a volume's blocks the SSD tier of a host has, and of how many.
func onHost(t *testing.T, h *Host, name string) (have, all int) {
	t.Helper()
	st := h.disks.Find(disk.Name{Tenant: disk.DefaultTenant, Volume: name}).State()
	m := vol(t, h, name).Map()
	d := h.disks.Tenant(st.Tenant).Domain
	if err := m.Walk(ctx, 0, m.Blocks(), func(_ uint64, r pack.Ref) error {
		if all++; d.Has(&r.Hash, int(st.BlockSize)) {
			have++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return have, all
}

// TestHydrate: afterwards the volume reads while the store does not answer.
func TestHydrate(t *testing.T) {
	b := newBed(t)
	data := portable(t, b, 9<<20)
	dir := t.TempDir()
	h := b.host(dir, "b")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f", Lazy: true}))
	out := must[api.Hydrate](t)(h.Hydrate(ctx, "f", 0))
	if have, all := onHost(t, h, "f"); out.Blocks != 72 || out.Fetched != 72 || have != 72 || all != 72 {
		t.Errorf("%+v, and %d of %d blocks are here", out, have, all)
	}
	before := b.count.Counts()
	if out := must[api.Hydrate](t)(h.Hydrate(ctx, "f", 0)); out.Blocks != 72 || out.Fetched != 0 {
		t.Errorf("again: %+v", out)
	}
	same(t, h, "f", 0, data)
	if after := b.count.Counts(); after != before {
		t.Errorf("hydrating again and reading made requests: %+v, %+v before", after, before)
	}
	_, err := h.Hydrate(ctx, "nothing", 0)
	wantKind(t, err, errs.NotFound)
	_, err = h.Hydrate(ctx, "a/b/c", 0)
	wantKind(t, err, errs.Invalid)
}

// TestHydrateAtARate: the store is not asked for more bytes a second than it may be.
func TestHydrateAtARate(t *testing.T) {
	b := newBed(t)
	portable(t, b, 12<<20)
	dir := t.TempDir()
	h := b.host(dir, "b")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f", Lazy: true}))
	began := time.Now()
	must[api.Hydrate](t)(h.Hydrate(ctx, "f", 16<<20))
	// What was asked for last is not waited for.
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("12 MiB at 16 MiB a second took %v", took)
	}
}

// TestHydrateGoesOn: what a host that stops has not brought, its next process brings.
// A client that goes away ends it.
func TestHydrateGoesOn(t *testing.T) {
	b := newBed(t)
	portable(t, b, 12<<20)
	dir := t.TempDir()
	h := b.host(dir, "b")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f", Lazy: true}))
	cctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := h.Hydrate(cctx, "f", 1<<20); err == nil {
		t.Fatal("12 MiB came within 50 ms at 1 MiB a second")
	}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Hydrate(ctx, "f", 1<<20)
		ended <- err
	}()
	for n := b.count.Counts().Get; b.count.Counts().Get < n+2; time.Sleep(time.Millisecond) {
	} // it is under way
	_, err := h.Hydrate(ctx, "f", 0)
	wantKind(t, err, errs.Busy)
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a host that stopped says that the volume is hydrated")
	}
	h = b.host(dir, "b")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if have, all := onHost(t, h, "f"); have == all {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%d of %d blocks are here", have, all)
		}
	}
}

// TestHydrateWithoutRoom: what fits comes, and the error says that the rest does not.
func TestHydrateWithoutRoom(t *testing.T) {
	b := newBed(t)
	portable(t, b, 70<<20)
	b.cache = 65 << 20 // one slab of 64 MiB
	dir := t.TempDir()
	h := b.host(dir, "b")
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "base", Name: "f", Lazy: true}))
	_, err := h.Hydrate(ctx, "f", 0)
	wantKind(t, err, errs.NoSpace)
	if !strings.Contains(err.Error(), "--cache") || !strings.Contains(err.Error(), `volume "f"`) {
		t.Errorf("%v", err)
	}
	if have, _ := onHost(t, h, "f"); have == 0 {
		t.Error("nothing is here")
	}
}
