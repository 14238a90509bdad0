package host

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
)

// silentStore does not answer requests that change something while it is silent.
type silentStore struct {
	objstore.Store
	silent atomic.Bool
}

func (s *silentStore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if s.silent.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}

func (s *silentStore) Delete(ctx context.Context, key string) error {
	if s.silent.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.Delete(ctx, key)
}

// TestStopWithASilentStore: a stopping host does not wait long for an unresponsive store.
// The pins that stayed are dropped by the first round of the next process, which first
// makes sure that nothing of the former one counts any more.
func TestStopWithASilentStore(t *testing.T) {
	b := newBed(t)
	s := &silentStore{Store: b.store}
	b.store = s
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if sessions(t, s.Store, h.ID()) == 0 {
		t.Fatal("no session is open")
	}
	s.silent.Store(true)
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	began := time.Now()
	_ = h.Close(limited)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	s.silent.Store(false)
	h = b.host(dir, "a")
	if n := sessions(t, s.Store, h.ID()); n == 0 {
		t.Error("the pins of the process before are dropped, though what it sent may come late")
	}
	must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s"}))
	if n := sessions(t, s.Store, h.ID()); n > 0 {
		t.Errorf("%d pins of the process before stay", n)
	}
}

// sessions counts a host's pins for upload sessions.
func sessions(t *testing.T, store objstore.Store, host string) (n int) {
	t.Helper()
	err := pinobject.List(ctx, store, host, func(p pinobject.Pin) error {
		if p.Kind == pinobject.Session {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
