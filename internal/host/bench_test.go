package host

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
)

// TestForkCost: a fork on one host costs a few milliseconds, durable, whatever
// the disk's size and dirty data, with the parent under load, and the parent is
// not paused (fork-is-constant). A fork waits for two syncs that it begins at the
// same time, and the slowest forks for the disk's slowest syncs: medians are held to
// the bound, and lone syncs, measured between the forks, are told beside the rest.
func TestForkCost(t *testing.T) {
	b := newBed(t)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Counter: b.count, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 16 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(ctx)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 1 << 40}))
	v := vol(t, h, "v")
	page := random(1, 4096+28)
	r := rand.New(rand.NewPCG(1, 1))
	dirty := 1 << 30
	if testing.Short() {
		dirty = 64 << 20
	}
	for range dirty / 4096 {
		if err := v.WriteFrames([]uint64{r.Uint64N(1<<28) << 12}, [][]byte{page}); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	before := b.count.Counts().Requests()
	stop := make(chan struct{})
	done := make(chan []time.Duration)
	go func() {
		var worst []time.Duration
		r, page := rand.New(rand.NewPCG(2, 2)), random(2, 4096+28)
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- worst
				return
			default:
			}
			t0 := time.Now()
			if err := v.WriteFrames([]uint64{r.Uint64N(1<<28) << 12}, [][]byte{page}); err != nil {
				t.Error(err)
			}
			worst = append(worst, time.Since(t0))
			if i%32 == 0 {
				_ = v.Flush()
			}
		}
	}()
	var took, peer []time.Duration
	probe := newProbe(t)
	for i := range 100 {
		t0 := time.Now()
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f" + string(rune('a'+i/26)) + string(rune('a'+i%26))}))
		took = append(took, time.Since(t0))
		time.Sleep(3 * time.Millisecond)
		peer = append(peer, probe())
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	writes := <-done
	slices.Sort(took)
	slices.Sort(writes)
	slices.Sort(peer)
	t.Logf("fork p50 %v p99 %v max %v; a lone sync p50 %v p99 %v max %v", took[50], took[98], took[99], peer[50], peer[98], peer[99])
	t.Logf("parent's writes p50 %v p99.9 %v max %v of %d", writes[len(writes)/2], writes[len(writes)*999/1000], writes[len(writes)-1], len(writes))
	if n := b.count.Counts().Requests() - before; n != 0 {
		t.Errorf("%d store requests", n)
	}
	// On a busy machine a lone sync tells by how much everything is slower.
	bound := 5 * time.Millisecond * max(1, peer[50]/quietSync)
	if took[50] > bound {
		t.Errorf("half of the forks took more than %v (bound %v)", took[50], bound)
	}
	if p := writes[len(writes)*999/1000]; p > bound {
		t.Errorf("the parent's writes were paused for %v", p)
	}
}

// quietSync is what a lone sync takes on a disk that is not busy, at most.
const quietSync = 500 * time.Microsecond

// newProbe returns a function that appends two KiB, about a volume's record, to
// a file of its own and tells how long the disk takes to sync it.
func newProbe(t *testing.T) func() time.Duration {
	f, err := os.Create(filepath.Join(t.TempDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return func() time.Duration {
		if _, err := f.Write(make([]byte, 2048)); err != nil {
			t.Fatal(err)
		}
		t0 := time.Now()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		return time.Since(t0)
	}
}

// TestOpenWithDirtyData: what a volume has not published does not have to be
// read to open it: the index of the log's segments is enough.
func TestOpenWithDirtyData(t *testing.T) {
	b := newBed(t)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Counter: b.count, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 16 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close(ctx)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 1 << 40}))
	dirty := 1 << 30
	if testing.Short() {
		dirty = 64 << 20
	}
	v, page, r := vol(t, h, "v"), random(1, 4096+28), rand.New(rand.NewPCG(1, 1))
	for range dirty / 4096 {
		if err := v.WriteFrames([]uint64{r.Uint64N(1<<28) << 12}, [][]byte{page}); err != nil {
			t.Fatal(err)
		}
	}
	var took []time.Duration
	for range 5 {
		must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
		t0 := time.Now()
		must[api.Volume](t)(h.Wake(ctx, "v", false, ""))
		took = append(took, time.Since(t0))
	}
	slices.Sort(took)
	t.Logf("a volume with %d MiB of scattered dirty pages opens in %v (median of 5, longest %v)", dirty>>20, took[2], took[4])
	if took[0] > time.Second { // a read of all the data would take longer
		t.Errorf("opening took %v at best", took[0])
	}
}
