package host

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// hiding is a store that does not show some keys.
type hiding struct {
	objstore.Store
	hidden atomic.Pointer[[]string] // parts of keys
	once   bool                     // they are shown again after a list
}

func (s *hiding) hides(key string) bool {
	h := s.hidden.Load()
	return h != nil && slices.ContainsFunc(*h, func(part string) bool { return strings.Contains(key, part) })
}

func (s *hiding) Get(ctx context.Context, key string) ([]byte, error) {
	if s.hides(key) {
		return nil, errs.New(errs.NotFound, "there is no object %q", key)
	}
	return s.Store.Get(ctx, key)
}

func (s *hiding) Head(ctx context.Context, key string) (objstore.Info, error) {
	if s.hides(key) {
		return objstore.Info{}, errs.New(errs.NotFound, "there is no object %q", key)
	}
	return s.Store.Head(ctx, key)
}

func (s *hiding) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	list, err := s.Store.List(ctx, prefix, after, limit)
	n := len(list)
	if list = slices.DeleteFunc(list, func(in objstore.Info) bool { return s.hides(in.Key) }); len(list) < n && s.once {
		s.hidden.Store(nil)
	}
	return list, err
}

// TestHiddenIsNotTaken: a store that hides a volume, or its newest commits, from the host
// that made them does not fence it, not even if it shows them again while the host looks. The
// host goes on when the store is honest, and has all of its data.
func TestHiddenIsNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		part string // of the keys of its log
		once bool
	}{
		"the newest commit": {"fffffffffffffffe/0000000002", false},
		"all of it":         {"", false},
		"all of it once":    {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			store := &hiding{Store: b.store, once: c.once}
			b.store = store
			dir := t.TempDir()
			h := b.host(dir, "a")
			must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 64 * mib}))
			fill(t, h, "v", 1, 0, mib)
			must[api.Flush](t)(h.Flush(ctx, "v"))
			data := fill(t, h, "v", 2, 0, mib)
			must[api.Flush](t)(h.Flush(ctx, "v"))
			if err := h.Close(ctx); err != nil {
				t.Fatal(err)
			}
			h = b.host(dir, "a")
			more := fill(t, h, "v", 3, mib, 4096)
			store.hidden.Store(&[]string{b.logOf("v") + c.part})
			if _, err := h.Flush(ctx, "v"); err == nil || errs.KindOf(err) == errs.Fenced {
				t.Errorf("with something hidden: %v", err)
			}
			if v := must[api.Volume](t)(h.Show(ctx, "v")); v.State != "active" {
				t.Fatalf("it is %s: %s", v.State, v.Reason)
			}
			store.hidden.Store(nil)
			must[api.Flush](t)(h.Flush(ctx, "v"))
			same(t, h, "v", 0, data)
			same(t, h, "v", mib, more)
		})
	}
}

// TestForgedSealDoesNotFence: a plain seal, and a plain first commit of another host, in the
// log of a sealed tenant are damage: they fence nobody. When they are gone the host goes on.
func TestForgedSealDoesNotFence(t *testing.T) {
	b := newBed(t)
	b.keys = []keys.Provider{tenantstest.Shared()}
	tenantstest.Create(t, b.store, tenantstest.Shared(), "acme")
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/v", Size: 64 * mib}))
	fill(t, h, "acme/v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/v"))
	tip := must[*commitlog.Object](t)(commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "acme", Name: "v"}))
	seal := commitlog.Object{Generation: tip.Generation.Next(), Kind: commitlog.Seal, Mark: commitlog.Mark{1}, State: tip.Carry()}
	seal.State.SealedBy, seal.State.Cause = "other", commitlog.CauseSeal
	first := commitlog.Object{Generation: seal.Generation.NextEpoch(), Kind: commitlog.First, Mark: commitlog.Mark{2}, State: seal.Carry()}
	first.State.Owner, first.State.SealedBy, first.State.Cause = commitlog.Host{ID: "other"}, "", commitlog.CauseTakeover
	var forged []string
	for _, o := range []*commitlog.Object{&seal, &first} {
		o.State.Prev, o.State.Keyring, o.State.Domains, o.State.Root = commitlog.ObjectHash{}, 0, nil, blockmap.Root{}
		forged = append(forged, must[string](t)(commitlog.KeyOf(ctx, b.logs(), o.State.Volume(), o.Generation)))
		if err := b.store.PutIfAbsent(ctx, forged[len(forged)-1], must[[]byte](t)(o.Encode())); err != nil {
			t.Fatal(err)
		}
	}
	data := fill(t, h, "acme/v", 2, 0, mib)
	_, err := h.Flush(ctx, "acme/v")
	wantKind(t, err, errs.Corrupt)
	if v := must[api.Volume](t)(h.Show(ctx, "acme/v")); v.State != "active" {
		t.Fatalf("it is %s: %s", v.State, v.Reason)
	}
	if err := b.store.DeleteBatch(ctx, forged); err != nil {
		t.Fatal(err)
	}
	must[api.Flush](t)(h.Flush(ctx, "acme/v"))
	same(t, h, "acme/v", 0, data)
}
