package host

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
)

// TestForkCost: a durable fork on one host costs a few milliseconds, whatever the disk's
// size and dirty data. The parent is under load and is not paused (fork-is-constant). A
// fork waits for two syncs that it starts at the same time. Other work on the disk or the
// processors may slow everything down; lone syncs, measured between the forks, show by
// how much.
func TestForkCost(t *testing.T) {
	b := newBed(t)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Keys: b.keys, Counter: b.count, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 16 << 30}})
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
	for attempt := 1; ; attempt++ {
		forks, syncs, writes := forksUnderLoad(t, h, "f"+string(rune('0'+attempt)))
		t.Logf("fork p50 %v p99 %v max %v; a lone sync p50 %v p99 %v max %v", forks[50], forks[98], forks[99], syncs[50], syncs[98], syncs[99])
		pause := writes[len(writes)*999/1000]
		t.Logf("parent's writes p50 %v p99.9 %v max %v of %d", writes[len(writes)/2], pause, writes[len(writes)-1], len(writes))
		bound := max(5*time.Millisecond, 3*syncs[99]) // the load's sync in progress, the fork's own, and some reserve
		if forks[98] <= bound && pause <= bound {
			break
		}
		if attempt == 5 {
			t.Fatalf("five times; the last time forks took %v and writes %v, bound %v", forks[98], pause, bound)
		}
	}
	if n := b.count.Counts().Requests() - before; n != 0 {
		t.Errorf("%d store requests", n)
	}
}

// forksUnderLoad forks v a hundred times while it is written to. It returns how long the
// forks, lone syncs between them, and the writes took, each sorted.
func forksUnderLoad(t *testing.T, h *Host, prefix string) (forks, syncs, writes []time.Duration) {
	t.Helper()
	v := vol(t, h, "v")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, page := rand.New(rand.NewPCG(2, 2)), random(2, 4096+28)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			t0 := time.Now()
			if err := v.WriteFrames([]uint64{r.Uint64N(1<<28) << 12}, [][]byte{page}); err != nil {
				t.Error(err)
			}
			writes = append(writes, time.Since(t0))
			if i%32 == 0 {
				_ = v.Flush()
			}
		}
	}()
	probe := newProbe(t)
	for i := range 100 {
		t0 := time.Now()
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: prefix + string(rune('a'+i/26)) + string(rune('a'+i%26))}))
		forks = append(forks, time.Since(t0))
		time.Sleep(3 * time.Millisecond)
		syncs = append(syncs, probe())
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	<-done
	slices.Sort(forks)
	slices.Sort(syncs)
	slices.Sort(writes)
	return forks, syncs, writes
}

// newProbe returns a function that appends 2 KiB, about the size of a volume's record, to
// a file of its own, and returns how long the sync took.
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

// TestOpenWithDirtyData: opening a volume does not read its unpublished data. The index
// of the log's segments is enough.
func TestOpenWithDirtyData(t *testing.T) {
	b := newBed(t)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Keys: b.keys, Counter: b.count, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 16 << 30}})
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
	best := math.Inf(1) // of the time of the same run's peer, which a busy machine slows, too
	fine := func() bool { return slices.Min(took) <= opensWithin || best <= opensWithin.Seconds()/sortsIn.Seconds() }
	for len(took) < 5 || !fine() && len(took) < 60 {
		must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
		peer := sorting()
		t0 := time.Now()
		must[api.Volume](t)(h.Wake(ctx, "v", false, ""))
		took = append(took, time.Since(t0))
		best = min(best, took[len(took)-1].Seconds()/max(peer, sorting()).Seconds())
	}
	ok := fine()
	slices.Sort(took)
	t.Logf("a volume with %d MiB of scattered dirty pages opens in %v (median of %d, longest %v)", dirty>>20, took[len(took)/2], len(took), took[len(took)-1])
	t.Logf("at best %v, and %.2f times the time in which every processor sorts a million numbers", took[0], best)
	if !ok {
		t.Errorf("opening took %v at best, %.2f times the time in which every processor sorts a million numbers", took[0], best)
	}
}

// sorting returns how long every processor takes to sort a million numbers.
func sorting() time.Duration {
	t0 := time.Now()
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			r, n := rand.New(rand.NewPCG(1, 1)), make([]uint64, 1<<20)
			for i := range n {
				n[i] = r.Uint64()
			}
			slices.Sort(n)
		})
	}
	all.Wait()
	return time.Since(t0)
}

// sortsIn is what sorting returns on the machine that opensWithin was chosen for, when it
// is quiet.
const sortsIn = 90 * time.Millisecond

// opensWithin is how long opening a volume with 1 GiB of dirty data may take.
const opensWithin = 200 * time.Millisecond
