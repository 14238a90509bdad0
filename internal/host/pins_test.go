package host

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
	"github.com/paraglide/glide/internal/volume"
)

// pinned returns the roots that a host keeps for its children.
func pinned(t *testing.T, store objstore.Store, host string) (roots []blockmap.Root) {
	t.Helper()
	err := pinobject.List(ctx, store, host, func(p pinobject.Pin) error {
		if p.Kind == pinobject.Children {
			roots = append(roots, p.Roots...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// TestBehindTheStore: a host crashes after a commit took effect and before its record
// says so. Its volume, and the forks that it makes, then still use a state that the store
// has moved on from. That state is pinned before anything of it can be collected.
// reachable-is-kept.
func TestBehindTheStore(t *testing.T) {
	for _, c := range []struct {
		name   string
		asleep bool
		policy string
		last   func(*testing.T, *Host)
	}{
		{"flush", false, volume.Local, func(t *testing.T, h *Host) { must[api.Flush](t)(h.Flush(ctx, "v")) }},
		{"flush of what ships", false, volume.Continuous, func(t *testing.T, h *Host) {
			must[api.Flush](t)(h.publisher.Flush(ctx, h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}), commitlog.CauseFold))
		}},
		{"flush before it slept", true, volume.Local, func(t *testing.T, h *Host) { must[api.Flush](t)(h.Flush(ctx, "v")) }},
		{"removal", false, volume.Local, func(t *testing.T, h *Host) {
			if err := h.Remove(ctx, "v", false); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := objstore.NewMem(objstore.Clock{})
			mem := vfs.NewCrashableMem()
			open := func(fs vfs.FS) *Host {
				h, err := Open(ctx, Config{Data: "data", FS: fs, Store: store, Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 64 << 20}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = h.Close(ctx) })
				return h
			}
			if err := mem.MkdirAll("data", 0o755); err != nil {
				t.Fatal(err)
			}
			h := open(mem)
			must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: c.policy}))
			fill(t, h, "v", 1, 0, 300<<10)
			must[api.Flush](t)(h.publisher.Flush(ctx, h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}), commitlog.CauseFlush))
			fill(t, h, "v", 2, 0, 8192)
			root := h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}).State().Root
			if c.asleep {
				must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
			}
			before := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
			c.last(t, h)
			if err := h.Close(ctx); err != nil {
				t.Fatal(err)
			}

			h = open(before)
			must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
			if kid := h.disks.Find(disk.Name{Tenant: "default", Volume: "kid"}).State(); kid.Root != root {
				t.Fatalf("the fork lies over %v, not %v", kid.Root, root)
			}
			for deadline := time.Now().Add(10 * time.Second); !slices.Contains(pinned(t, store, h.ID()), root); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nothing keeps what the fork lies over")
				}
			}
			must[api.Flush](t)(h.Flush(ctx, "v"))
			if !slices.Contains(pinned(t, store, h.ID()), root) {
				t.Fatal("the next flush drops what the fork lies over")
			}
			if err := h.Remove(ctx, "kid", false); err != nil {
				t.Fatal(err)
			}
			fill(t, h, "v", 3, 0, 4096)
			must[api.Flush](t)(h.publisher.Flush(ctx, h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}), commitlog.CauseFlush))
			// The volume's own commits may be dropping the pin just now.
			for deadline := time.Now().Add(10 * time.Second); slices.Contains(pinned(t, store, h.ID()), root); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("what nothing lies over any more is kept for ever")
				}
			}
		})
	}
}
