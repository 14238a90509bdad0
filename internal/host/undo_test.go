package host

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

func snapshotNames(t *testing.T, h *Host, name string) string {
	t.Helper()
	var list []string
	for _, s := range must[[]api.Snapshot](t)(h.Snapshots(ctx, name)) {
		list = append(list, s.Name)
	}
	return strings.Join(list, " ")
}

// TestRollbackKeeps: a rollback can be undone, again and again, with the writes that were
// never published.
func TestRollbackKeeps(t *testing.T) {
	for _, durability := range []string{volume.Local, volume.Sync} {
		t.Run(durability, func(t *testing.T) {
			b := newBed(t)
			b.retention = time.Nanosecond
			h, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
			must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 2 * mib, Durability: durability}))
			first := fill(t, h, "v", 1, 0, mib)
			must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
			must[api.Flush](t)(h.Flush(ctx, "v"))
			fill(t, h, "v", 2, 0, mib)
			must[api.Flush](t)(h.Flush(ctx, "v"))
			second := append(fill(t, h, "v", 3, 0, 64*kib), random(2, mib)[64*kib:]...) // not published
			if durability == volume.Sync {
				must[api.Flush](t)(h.Barrier(ctx, "v", must[api.Volume](t)(h.Show(ctx, "v")).Sequence))
			}
			head := must[api.Volume](t)(h.Show(ctx, "v")).Generation
			v := must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
			same(t, h, "v", 0, first)
			if got, want := snapshotNames(t, h, "v"), "s before-rollback-"+head; got != want {
				t.Fatalf("snapshots %q, want %q", got, want)
			}
			if got, want := snapshotNames(t, h2, "v"), "s before-rollback-"+head; got != want {
				t.Errorf("the store has the snapshots %q, want %q", got, want)
			}
			same(t, h, "v@before-rollback-"+head, 0, second)
			must[api.Volume](t)(h.Rollback(ctx, "v", "before-rollback-"+head, false)) // undone
			same(t, h, "v", 0, second)
			must[api.Volume](t)(h.Rollback(ctx, "v", "before-rollback-"+v.Generation, false)) // and that
			same(t, h, "v", 0, first)
			for range 4 {
				runRound(t, b.store, 0)
			}
			must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", At: "before-rollback-" + head, Name: "old", Lazy: true}))
			same(t, h2, "old", 0, second)
			if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:mib], first) {
				t.Errorf("the store has something else: %v", err)
			}
		})
	}
}

// TestRollbackOfALocalVolume: it makes no request; snapshots of one generation have
// different names.
func TestRollbackOfALocalVolume(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	made := b.count.Counts() // by a sealed tenant
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	for i := range 3 {
		fill(t, h, "v", uint64(i), 0, 4096)
		must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
		same(t, h, "v", 0, make([]byte, 4096))
	}
	if got, want := snapshotNames(t, h, "v"), "s before-rollback-0.1 before-rollback-0.2 before-rollback-0.3"; got != want {
		t.Errorf("snapshots %q, want %q", got, want)
	}
	for i := range 3 {
		same(t, h, fmt.Sprintf("v@before-rollback-0.%d", i+1), 0, random(uint64(i), 4096))
	}
	if n := b.count.Counts(); n != made {
		t.Errorf("requests: %+v, before it %+v", n, made)
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "before-rollback-1.1", ""))
	must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
	if got := snapshotNames(t, h, "v"); !strings.HasSuffix(got, " before-rollback-1.1 before-rollback-1.1-2") {
		t.Errorf("snapshots %q", got)
	}
}

// TestRollbackWithoutTheStore: two rollbacks have one generation then, and a child of what
// was given up keeps what it needs when the store is back. reachable-is-kept.
func TestRollbackWithoutTheStore(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	away := &awayStore{Store: b.store}
	b.store = away
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 2 * mib}))
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	must[api.Flush](t)(h.Flush(ctx, "v"))
	head := fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v")) // 1.2
	copy(head, fill(t, h, "v", 2, 0, 4096))
	away.away.Store(true)
	must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v@before-rollback-1.2", Name: "kid"}))
	fill(t, h, "v", 3, 0, 4096)
	must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
	if got, want := snapshotNames(t, h, "v"), "s before-rollback-1.2 before-rollback-1.2-2"; got != want {
		t.Errorf("snapshots %q, want %q", got, want)
	}
	away.away.Store(false)
	for range 2 {
		must[api.Flush](t)(h.Flush(ctx, "v"))
		fill(t, h, "v", 4, 0, 4096)
	}
	for _, s := range []string{"before-rollback-1.2", "before-rollback-1.2-2"} {
		if err := h.Remove(ctx, "v@"+s, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		runRound(t, b.store, 0)
	}
	must[api.Flush](t)(h.Flush(ctx, "kid"))
	if _, got, err := published(b.store, "kid"); err != nil || !bytes.Equal(got[:mib], head) {
		t.Fatalf("what a fork lies over is gone: %v", err)
	}
}

// TestRollbackAtTheLimit: the oldest snapshot of a rollback makes room, but no other does.
func TestRollbackAtTheLimit(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	for i := range commitlog.MaxSnapshots - 2 {
		must[api.Snapshot](t)(h.Snapshot(ctx, "v", fmt.Sprint("s", i), ""))
	}
	for range 2 {
		must[api.Volume](t)(h.Rollback(ctx, "v", "s1", false))
	}
	must[api.Volume](t)(h.Rollback(ctx, "v", "before-rollback-0.1", false)) // 0.2 goes
	must[api.Flush](t)(h.Flush(ctx, "v"))
	g := must[api.Volume](t)(h.Show(ctx, "v")).Generation
	must[api.Volume](t)(h.Rollback(ctx, "v", "s0", false)) // 0.1 goes, from the store too
	if list := snapshotNames(t, b.host(t.TempDir(), "b"), "v"); !strings.HasSuffix(list, " before-rollback-0.2 before-rollback-"+g) || strings.Contains(list, "0.1") {
		t.Errorf("snapshots …%s", list[len(list)-100:])
	}
	for _, s := range []string{"before-rollback-0.2", "before-rollback-" + g} {
		if err := h.Remove(ctx, "v@"+s, false); err != nil {
			t.Fatal(err)
		}
		must[api.Snapshot](t)(h.Snapshot(ctx, "v", "x"+s, ""))
	}
	_, err := h.Rollback(ctx, "v", "s0", false)
	wantKind(t, err, errs.Invalid)
	_, err = h.Snapshot(ctx, "v", "more", "")
	wantKind(t, err, errs.Invalid)
}

// TestRollbackIsAllOrNothing loses the power at every file operation of a rollback. Then the
// volume is as it was, or as it is to be and has the snapshot.
func TestRollbackIsAllOrNothing(t *testing.T) {
	before, after := 0, 0
	first, second := random(1, 8192), random(2, 8192)
	for at := 1; ; at++ {
		mem := operatorsDisk(t)
		if err := mem.MkdirAll(crashData, 0o755); err != nil {
			t.Fatal(err)
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
		fill(t, h, "v", 1, 0, 8192)
		must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
		fill(t, h, "v", 2, 0, 8192)
		if err := vol(t, h, "v").Flush(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		armed = true
		mu.Unlock()
		must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
		mu.Lock()
		armed = false
		c := left
		mu.Unlock()
		_ = h.Close(ctx)
		if c == nil {
			break
		}
		h = removeHost(t, c)
		got := make([]byte, 8192)
		if err := vol(t, h, "v").ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		switch {
		case bytes.Equal(got, second):
			before++
		case bytes.Equal(got, first):
			after++
			same(t, h, "v@before-rollback-0.1", 0, second)
		default:
			t.Fatalf("power lost at operation %d: the volume is neither", at)
		}
		must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
		same(t, h, "v", 0, first)
		_ = h.Close(ctx)
	}
	if before == 0 || after == 0 {
		t.Errorf("%d times as before and %d times after", before, after)
	}
}
