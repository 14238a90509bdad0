package host

import (
	"context"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// rolling is a store that can be switched to its state at an earlier time.
type rolling struct{ objstore.Store }

func copyOf(t *testing.T, from objstore.Store) objstore.Store {
	t.Helper()
	to := objstore.NewMem(objstore.Clock{})
	if err := objstore.ListAll(ctx, from, "", "", func(in objstore.Info) bool {
		b, err := from.Get(ctx, in.Key)
		if err == nil {
			err = to.Put(context.Background(), in.Key, b)
		}
		if err != nil {
			t.Error(err)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestOlderStore: a store that shows an older state than before is refused, both by a
// host that has the volume and by one that has only read it. no-silent-rollback.
func TestOlderStore(t *testing.T) {
	b := newBed(t)
	now := &rolling{b.store}
	b.store = now
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	empty := copyOf(t, now)
	fill(t, h1, "v", 1, 0, 4096)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	old := copyOf(t, now)
	fill(t, h1, "v", 2, 0, 4096)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	must[api.Volume](t)(h2.Show(ctx, "v"))
	for _, before := range []objstore.Store{old, empty} {
		now.Store = before
		_, err := h2.Show(ctx, "v")
		wantRolledBack(t, err)
		_, err = h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "w", Lazy: true})
		wantRolledBack(t, err)
		_, err = h2.Wake(ctx, "v", true, "")
		wantRolledBack(t, err)
	}
	now.Store = old
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h1 = b.host(h1.cfg.Data, "a")
	fill(t, h1, "v", 3, 0, 4096)
	_, err := h1.Flush(ctx, "v")
	wantKind(t, err, errs.Unsupported)
	if tip, err := commitlog.Newest(ctx, withKeys(old), commitlog.Volume{Tenant: "default", Name: "v"}); err != nil || tip.Generation.Epoch != 1 || tip.Closes() {
		t.Errorf("the host claimed it in the older store: %v", err)
	}
}

func wantRolledBack(t *testing.T, err error) {
	t.Helper()
	wantKind(t, err, errs.Unsupported)
	if !strings.Contains(err.Error(), "before, and shows") {
		t.Error(err)
	}
}
