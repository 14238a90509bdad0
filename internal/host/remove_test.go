package host

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
)

// TestRemoveIsAllOrNothing loses the power at every file operation of a removal.
// Afterwards the volume and all of its snapshots exist, or none of them.
func TestRemoveIsAllOrNothing(t *testing.T) {
	const snapshots = 3
	removed, kept := 0, 0
	for at := 1; ; at++ {
		mem := vfs.NewCrashableMem()
		if err := mem.MkdirAll(crashData, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{"/", ""} { // the directory itself is the operator's
			if f, err := mem.OpenDir(d); err == nil {
				_ = f.Sync()
			}
		}
		var mu sync.Mutex
		armed, ops := false, 0
		var left *vfs.MemFS
		h := removeHost(t, crashFS{mem, func(string) {
			mu.Lock()
			defer mu.Unlock()
			if !armed || left != nil {
				return
			}
			if ops++; ops == at {
				left = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (at % 3), RNG: rand.New(rand.NewPCG(uint64(at), 7))})
			}
		}})
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
		for i := range snapshots {
			fill(t, h, "v", uint64(i), 0, 4*kib)
			must[api.Snapshot](t)(h.Snapshot(ctx, "v", fmt.Sprint("s", i), ""))
		}
		mu.Lock()
		armed = true
		mu.Unlock()
		if err := h.Remove(ctx, "v", false); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		armed = false
		c := left
		mu.Unlock()
		_ = h.Close(ctx)
		if c == nil {
			break // the removal makes no more operations
		}
		h = removeHost(t, c)
		switch n := len(h.disks.All()); n {
		case 0:
			removed++
		case snapshots + 1:
			kept++
		default:
			t.Errorf("power lost at operation %d: %d of %d volumes and snapshots are left", at, n, snapshots+1)
		}
		_ = h.Close(ctx)
	}
	if removed == 0 || kept == 0 {
		t.Errorf("%d times removed and %d times kept: the crashes are not where they should be", removed, kept)
	}
}

func removeHost(t *testing.T, fs vfs.FS) *Host {
	t.Helper()
	h, err := Open(ctx, Config{
		Data: crashData, FS: fs, Store: objstore.NewMem(objstore.Clock{}),
		Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 24 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestRemoveSnapshotBesideFlush: a flush holds the volume's Op and needs those of its
// snapshots. The removal of a snapshot must not hold the snapshot's Op and need the
// volume's.
func TestRemoveSnapshotBesideFlush(t *testing.T) {
	h := newBed(t).host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 30 {
			fill(t, h, "v", uint64(i), 0, 4*kib)
			if _, err := h.Snapshot(ctx, "v", "s", ""); err != nil {
				t.Error(err)
				return
			}
			if _, err := h.Flush(ctx, "v"); err != nil {
				t.Error(err)
				return
			}
			fill(t, h, "v", uint64(i)+100, 0, 4*kib)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if _, err := h.Flush(ctx, "v"); err != nil {
						t.Error(err)
					}
				})
				// One of two removals of the same snapshot comes too late.
				wg.Go(func() {
					if err := h.Remove(ctx, "v@s", false); err != nil && errs.KindOf(err) != errs.NotFound {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		panic("they wait for each other: " + t.Name()) // it is a deadlock, and the host cannot be closed either
	}
}

// TestRemoveSnapshotOfTheStore: the snapshot is also gone from the store, or it was not
// removed at all. What a local fork of it needs stays pinned. reachable-is-kept.
func TestRemoveSnapshotOfTheStore(t *testing.T) {
	b := newBed(t)
	away := &awayStore{Store: b.store}
	b.store = away
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data := fill(t, h1, "v", 1, 0, 8192)
	for _, name := range []string{"r", "s"} {
		must[api.Snapshot](t)(h1.Snapshot(ctx, "v", name, ""))
	}
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	fill(t, h1, "v", 2, 0, 8192)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "v@s", Name: "child"}))
	root := must[*disk.Disk](t)(h1.disks.Local("v@s", true)).State().Root

	away.away.Store(true)
	wantKind(t, h1.Remove(ctx, "v@s", false), errs.Unavailable)
	same(t, h1, "v@s", 0, data)
	away.away.Store(false)
	for _, name := range []string{"v@s", "v@r"} {
		if err := h1.Remove(ctx, name, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []*Host{h1, h2} {
		if list := must[[]api.Snapshot](t)(h.Snapshots(ctx, "v")); len(list) != 0 {
			t.Errorf("there still are %+v", list)
		}
	}
	pinned := false
	err := pinobject.List(ctx, b.store, h1.ID(), func(p pinobject.Pin) error {
		pinned = pinned || slices.Contains(p.Roots, root)
		return nil
	})
	if err != nil || !pinned {
		t.Errorf("nothing keeps what the fork lies over (%v)", err)
	}
	same(t, h1, "child", 0, data)
}
