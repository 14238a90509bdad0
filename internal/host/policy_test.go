package host

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// awayStore does not respond while it is away. It records whether the last caller had a
// retry budget.
type awayStore struct {
	objstore.Store
	away, limited atomic.Bool
}

func (s *awayStore) gone(ctx context.Context) error {
	if !s.away.Load() {
		return nil
	}
	_, limited := ctx.Deadline()
	s.limited.Store(limited)
	return errs.New(errs.Unavailable, "no answer")
}

func (s *awayStore) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.gone(ctx); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key)
}

func (s *awayStore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := s.gone(ctx); err != nil {
		return err
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}

// TestSyncIsNotMadeWithoutStore: nothing is left of the volume, and the creation does not
// wait for the store a second time.
func TestSyncIsNotMadeWithoutStore(t *testing.T) {
	b := newBed(t)
	s := &awayStore{Store: b.store}
	b.store = s
	h := b.host(t.TempDir(), "a")
	if err := h.disks.Tenants.Ready(ctx, "default"); err != nil { // else nothing is sent that had to be taken back
		t.Fatal(err)
	}
	s.away.Store(true)
	for _, policy := range []string{volume.Sync, volume.Continuous} {
		_, err := h.Create(ctx, api.CreateRequest{Name: policy, Size: mib, Durability: policy})
		wantKind(t, err, errs.Unavailable)
		if !s.limited.Load() {
			t.Errorf("%s: giving the name back may take as long as the store likes", policy)
		}
		_, err = h.disks.Local(policy, false)
		wantKind(t, err, errs.NotFound)
	}
	s.away.Store(false)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "sync", Size: mib, Durability: volume.Sync}))
}
