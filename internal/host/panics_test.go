package host

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/export"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// bugStore panics where a bug might: in a read of a block during a guest's request.
type bugStore struct {
	objstore.Store
	on atomic.Bool
}

func (s *bugStore) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if s.on.Load() {
		panic("a bug")
	}
	return s.Store.GetRange(ctx, key, off, n)
}

// A bug in a guest's request ends only that request. No lock stays held, and state that
// may be half-changed is not used any more.
func TestPanicInARequest(t *testing.T) {
	store := &bugStore{Store: objstore.NewMem(objstore.Clock{})}
	open := func(dir string) *Host {
		h, err := Open(ctx, Config{Data: dir, FS: vfs.NewMem(), Store: store, Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 24 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close(ctx) })
		return h
	}
	a := open("a")
	must[api.Volume](t)(a.Create(ctx, api.CreateRequest{Name: "v", Size: 1 << 20}))
	want := fill(t, a, "v", 1, 0, 1<<20)
	must[api.Flush](t)(a.Flush(ctx, "v"))
	b := open("b")
	must[[]api.Fork](t)(b.Fork(ctx, api.ForkRequest{Source: "v", Name: "w", Lazy: true}))
	x := must[*nbd.Export](t)(b.exports.Open("w"))
	store.on.Store(true)
	for range 3 { // nobody may wait for a flight that crashed
		err := x.Device.ReadAt(make([]byte, 4096), 0)
		if !errors.Is(err, nbd.EIO) || !strings.Contains(err.Error(), "bug") {
			t.Fatalf("a read that panics: %v", err)
		}
	}
	store.on.Store(false)
	same(t, b, "w", 0, want)
	if n := must[api.Stats](t)(b.Stats(ctx, "")).Panics; n != 3 {
		t.Errorf("%d panics are counted", n)
	}

	// A bug in a write may have left the volume half-changed.
	whole := x.Device.(*export.Device)
	broken := &export.Device{Ex: whole.Ex, D: whole.D, V: whole.V, MayChange: func() error { panic("a bug") }}
	err := broken.WriteFrames([]uint64{0}, [][]byte{make([]byte, nbd.Headroom+512)})
	if !errors.Is(err, nbd.EIO) {
		t.Fatalf("a write that panics: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- x.Device.Flush() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a volume that a bug may have left half-changed goes on")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a lock is held")
	}
	if v := must[api.Volume](t)(b.Show(ctx, "w")); v.State != string(volume.Failed) || !strings.Contains(v.Reason, "bug") {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	must[api.Volume](t)(b.Create(ctx, api.CreateRequest{Name: "other", Size: 1 << 20})) // no other volume is affected

	// So may a bug in a verb, except in one that only reads.
	_ = a.PanickedAt("", "GET /v1/volumes/v", "a bug")
	fill(t, a, "v", 2, 0, 4096)
	err = a.PanickedAt("v", "POST /v1/volumes/v/flush", "a bug")
	if errs.KindOf(err) != errs.Internal || vol(t, a, "v").Err() == nil {
		t.Errorf("after a panic in a verb: %v, %v", err, vol(t, a, "v").Err())
	}
}
