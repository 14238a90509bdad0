package custody

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// far is a store whose answers take a while.
type far struct {
	objstore.Store
	takes time.Duration
}

func (f far) Get(ctx context.Context, key string) ([]byte, error) {
	time.Sleep(f.takes)
	return f.Store.Get(ctx, key)
}

func (f far) List(ctx context.Context, prefix, after string, most int) ([]objstore.Info, error) {
	time.Sleep(f.takes)
	return f.Store.List(ctx, prefix, after, most)
}

func (f far) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	time.Sleep(f.takes)
	return f.Store.PutIfAbsent(ctx, key, data)
}

func (f far) DeleteBatch(ctx context.Context, keys []string) error {
	time.Sleep(f.takes)
	return f.Store.DeleteBatch(ctx, keys)
}

func newCustody(store objstore.Store, with ...keys.Provider) *Custody {
	began := time.Now()
	known := tenants.New(tenants.Options{
		Store: store, Providers: with, Now: time.Now, Uptime: func() time.Duration { return time.Since(began) }, Log: slog.New(slog.DiscardHandler),
	})
	return New(disk.NewTable(disk.Base{Store: known.Keyed(store), Tenants: known, Log: slog.New(slog.DiscardHandler)}), with, nil, nil, nil)
}

// TestRewrapMany: the keys of many tenants are wrapped anew within a minute, though the
// store is 20 ms away. GLIDE_LONG=1 takes a thousand.
func TestRewrapMany(t *testing.T) {
	n := 100
	if os.Getenv("GLIDE_LONG") != "" {
		n = 1000
	}
	old, next := tenantstest.Key(t), tenantstest.Key(t)
	c := newCustody(far{objstore.NewMem(objstore.Clock{}), 20 * time.Millisecond}, old)
	each := func(do func(name string) error) time.Duration {
		t.Helper()
		began := time.Now()
		var g errgroup.Group
		g.SetLimit(sideBySide)
		for i := range n {
			g.Go(func() error { return do(fmt.Sprintf("tenant-%04d", i)) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	each(func(name string) error {
		_, err := c.CreateTenant(t.Context(), api.TenantRequest{Name: name, OneKey: true})
		return err
	})
	took := each(func(name string) error {
		x, err := c.RewrapTenant(t.Context(), name, api.RewrapRequest{Keys: []string{next.String()}, OneKey: true})
		if err == nil && (len(x.Keys) != 1 || x.Keyring != 2) {
			err = fmt.Errorf("%+v", x)
		}
		return err
	})
	t.Logf("%d tenants in %v", n, took)
	if most := 60 * time.Second * time.Duration(n) / 1000; took > most {
		t.Errorf("%d tenants took %v, %v are possible", n, took, most)
	}
	// Another process, which has the new key only.
	list, err := newCustody(c.disks.Store, next).Tenants(t.Context())
	if err != nil || len(list) != n {
		t.Fatalf("%d tenants, %v", len(list), err)
	}
	for _, x := range list {
		if x.State != api.TenantSealed {
			t.Errorf("%s is %s: %s", x.Name, x.State, x.Reason)
		}
	}
}

// TestVerbs: what is asked of tenants that are not there, have no keys or have guests is
// refused, each time with one line.
func TestVerbs(t *testing.T) {
	key := tenantstest.Key(t)
	store := objstore.NewMem(objstore.Clock{})
	c, none := newCustody(store, key), newCustody(store)
	for what, x := range map[string]struct {
		kind errs.Kind
		do   func() error
	}{
		"no keys at all": {errs.Invalid, func() error { _, err := none.CreateTenant(t.Context(), api.TenantRequest{Name: "a"}); return err }},
		"no provider": {errs.Invalid, func() error {
			_, err := c.CreateTenant(t.Context(), api.TenantRequest{Name: "a", Keys: []string{"secret"}})
			return err
		}},
		"no suite": {errs.Invalid, func() error {
			_, err := c.CreateTenant(t.Context(), api.TenantRequest{Name: "a", OneKey: true, Suite: "rot13"})
			return err
		}},
		"show":       {errs.NotFound, func() error { _, err := c.Tenant(t.Context(), "a"); return err }},
		"check":      {errs.NotFound, func() error { _, err := c.CheckTenant(t.Context(), "a"); return err }},
		"rotate":     {errs.NotFound, func() error { _, err := c.RotateTenant(t.Context(), "a", api.RotateRequest{}); return err }},
		"erase":      {errs.NotFound, func() error { _, err := c.EraseTenant(t.Context(), "a"); return err }},
		"add nobody": {errs.Invalid, func() error { _, err := c.RewrapTenant(t.Context(), "a", api.RewrapRequest{Add: true}); return err }},
		"wrap":       {errs.NotFound, func() error { _, err := c.RewrapTenant(t.Context(), "a", api.RewrapRequest{}); return err }},
	} {
		if err := x.do(); err == nil || errs.KindOf(err) != x.kind {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := c.Tenants(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.CreateTenant(t.Context(), api.TenantRequest{Name: "a", OneKey: true, Suite: "XChaCha20-Poly1305"}); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "tenants/broken", []byte("{")); err != nil {
		t.Fatal(err)
	}
	list, err := none.Tenants(t.Context())
	if err != nil || len(list) != 2 || list[0].State != api.TenantLocked || list[1].State != api.TenantLocked || list[1].Reason == "" {
		t.Errorf("%+v, %v", list, err)
	}
	x, err := c.EraseTenant(t.Context(), "a")
	if err != nil || x.State != api.TenantLocked || len(x.Keys) != 1 {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := c.RotateTenant(t.Context(), "a", api.RotateRequest{}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("rotated after it was erased: %v", err)
	}
}
