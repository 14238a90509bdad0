package pin

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// together is a store whose creates wait until there are n of them.
type together struct {
	objstore.Store
	all sync.WaitGroup
}

func (s *together) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	s.all.Done()
	s.all.Wait()
	return s.Store.PutIfAbsent(ctx, key, data)
}

var someRoot = blockmap.Root{Ref: pack.Ref{Hash: pack.Hash{1}, Pack: pack.ID{Content: [12]byte{1}}, Len: 1}, Height: 1}

func openMeta(t *testing.T) *meta.DB {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("meta", 0o755); err != nil {
		t.Fatal(err)
	}
	db, err := meta.Open(meta.Options{FS: fs, Dir: "meta"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func pinsOver(t *testing.T, store objstore.Store, db *meta.DB) *Pins {
	t.Helper()
	return New(disk.NewTable(disk.Base{HostID: "h", Store: store, DB: db, Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler)}))
}

func countPins(t *testing.T, store objstore.Store) (n int) {
	t.Helper()
	if err := pinobject.List(context.Background(), store, "h", func(pinobject.Pin) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOnePinARoot: two calls that keep one root leave one pin, which Release drops. So
// does a crash before the second was dropped.
func TestOnePinARoot(t *testing.T) {
	ctx := context.Background()
	db := openMeta(t)
	mem := objstore.NewMem(objstore.Clock{})
	store := &together{Store: mem}
	p := pinsOver(t, store, db)
	store.all.Add(2)
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			if err := p.keep(ctx, someRoot); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := countPins(t, mem); n != 1 {
		t.Fatalf("%d pins of one root", n)
	}
	crashed, err := pinobject.New(rand.Reader, "h", pinobject.Children, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	crashed.Roots = []blockmap.Root{someRoot}
	if err := pinobject.Create(ctx, mem, crashed); err != nil {
		t.Fatal(err)
	}
	p = pinsOver(t, mem, db)
	if err := p.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	if n := countPins(t, mem); n != 1 {
		t.Fatalf("%d pins of one root after a crash", n)
	}
	p.Release(ctx)
	if n := countPins(t, mem); n != 0 {
		t.Fatalf("%d pins of a root that nothing uses", n)
	}
}

// TestStalePinOfWhatMovedOn: a root that nothing uses any more when its pin is there does
// not stay pinned until something is published.
func TestStalePinOfWhatMovedOn(t *testing.T) {
	ctx := context.Background()
	db := openMeta(t)
	store := objstore.NewMem(objstore.Clock{})
	p := pinsOver(t, store, db)
	if err := p.KeepStale(ctx, someRoot); err != nil {
		t.Fatal(err)
	}
	if n := countPins(t, store); n != 0 {
		t.Fatalf("%d pins", n)
	}
}
