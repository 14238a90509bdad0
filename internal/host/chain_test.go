package host

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
)

// chainLength is how many forks of forks there are: 10,000 with GLIDE_LONG.
func chainLength() int {
	if os.Getenv("GLIDE_LONG") != "" {
		return 10_000
	}
	return 500
}

// TestChainWithoutStore: without the store a deep chain is forked all the same, and only
// one fork waits for it.
func TestChainWithoutStore(t *testing.T) {
	b := newBed(t)
	f := objstore.NewFaults(b.store, 1)
	b.store = f
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "c-0", Size: 1 << 30}))
	f.Inject(objstore.Fault{Effect: objstore.FailBefore})
	before := b.count.Counts()
	const n = 64 + 20 // beyond what a chain may inherit
	for i := range n {
		fill(t, h, fmt.Sprint("c-", i), uint64(i), uint64(i)*4096, 4096)
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: fmt.Sprint("c-", i), Name: fmt.Sprint("c-", i+1)}))
	}
	for i := range n {
		same(t, h, fmt.Sprint("c-", n), uint64(i)*4096, random(uint64(i), 4096))
	}
	if after := b.count.Counts(); after != before {
		t.Errorf("requests reached the store: %+v", after)
	}
	asked := func(e api.Event) bool { return strings.Contains(e.Message, "could not be published") }
	if !slices.ContainsFunc(must[[]api.Event](t)(h.Events(ctx, 0, 0)), asked) {
		t.Error("the store was never asked to take a volume of the chain")
	}
}

// work is what something costs: objects and bytes that this process allocates, and requests to
// the store.
type work struct{ objects, bytes, requests uint64 }

// work runs fn and returns what it costs.
func (b *bed) work(fn func()) work {
	var before, after runtime.MemStats
	requests := b.count.Counts().Requests()
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return work{after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc, uint64(b.count.Counts().Requests() - requests)}
}

// least is the least of each kind of work: what goes on beside can only add to it.
func least(list []work) work {
	m := list[0]
	for _, w := range list {
		m = work{min(m.objects, w.objects), min(m.bytes, w.bytes), min(m.requests, w.requests)}
	}
	return m
}

// exceeds tells whether it is clearly more than another.
func (w work) exceeds(other work) bool {
	return float64(w.objects) > 1.2*float64(other.objects) || float64(w.bytes) > 1.2*float64(other.bytes) || w.requests > other.requests
}

// perVolume is how many bytes a fork may allocate for each volume of the host, in lists.
const perVolume = 64

// String says it in words.
func (w work) String() string {
	return fmt.Sprintf("%d objects, %d bytes, %d requests", w.objects, w.bytes, w.requests)
}

// byForks is what forks of this process have allocated, whatever goes on beside, but for
// assertions, which look at all that there is: the rate of the memory profile must be 1.
func byForks() (w work) {
	runtime.GC() // the profile is as of the collection before the last
	runtime.GC()
	var all []runtime.MemProfileRecord
	for n, ok := runtime.MemProfile(nil, true); !ok; {
		all = make([]runtime.MemProfileRecord, n+100)
		if n, ok = runtime.MemProfile(all, true); ok {
			all = all[:n]
		}
	}
	for i := range all {
		forks, asserts := false, false
		for frames := runtime.CallersFrames(all[i].Stack()); ; {
			f, more := frames.Next()
			forks = forks || strings.HasSuffix(f.Function, "forks.(*Forker).Fork")
			asserts = asserts || strings.Contains(f.Function, "assert")
			if !more {
				break
			}
		}
		if forks && !asserts {
			w.objects += uint64(all[i].AllocObjects)
			w.bytes += uint64(all[i].AllocBytes)
		}
	}
	return w
}

// each is the mean from an earlier count on.
func (w work) each(before work, n int) work {
	return work{objects: (w.objects - before.objects) / uint64(n), bytes: (w.bytes - before.bytes) / uint64(n)}
}

// TestChainOfForks makes a chain of forks, each with one changed block: opening and
// reading the last costs what it costs for the first, and every ancestor can be removed.
// Costs are allocations and requests to the store: times would say more of the machine.
func TestChainOfForks(t *testing.T) {
	n := chainLength()
	b := newBed(t)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Keys: b.keys, Dial: b.dial, Cache: Share{Bytes: 4 << 30}, WALLimit: Share{Bytes: 24 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(context.Background()) })
	name := func(i int) string { return fmt.Sprint("c-", i) }
	at := func(i int) uint64 { return uint64(i) << 17 }
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name(0), Size: uint64(n+1) << 17}))
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1
	forks := make([]work, n)
	counts := map[int]work{}
	most := 0
	for i := range n {
		if i == 64 || i == n/2 {
			counts[i] = byForks()
		}
		fill(t, h, name(i), uint64(i), at(i), 4096)
		forks[i] = b.work(func() { must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: name(i), Name: name(i + 1)})) })
		most = max(most, len(vol(t, h, name(i+1)).State().Segments))
	}
	// From the 64th on, the chain is as long as a fork can tell.
	counts[n] = byForks()
	early, late := counts[n/2].each(counts[64], n/2-64), counts[n].each(counts[n/2], n-n/2)
	early.requests, late.requests = least(forks[64:n/2]).requests, least(forks[n/2:]).requests
	t.Logf("%d forks: %v from the 64th on, %v at the end; at most %d segments in a record", n, early, late, most)
	if early.objects == 0 {
		t.Fatal("the profile has no forks")
	}
	if most > 65 {
		t.Errorf("a fork has inherited %d segments", most)
	}
	early.bytes += uint64(n) * perVolume
	if late.exceeds(early) {
		t.Error("a fork costs more, the longer its chain")
	}

	// What the last one has, it has from all of them.
	for i := range n {
		same(t, h, name(n), at(i), random(uint64(i), 4096))
	}
	// Both are published: opening a volume that is not costs its log, whatever its chain.
	for _, v := range []string{name(0), name(n)} {
		must[api.Flush](t)(h.Flush(ctx, v))
	}
	open := func(i int) work {
		took := make([]work, 15)
		p := make([]byte, 4096)
		for k := range took {
			must[api.Volume](t)(h.Sleep(ctx, name(i), false, false))
			took[k] = b.work(func() {
				if err := vol(t, h, name(i)).ReadAt(p, 0); err != nil {
					t.Fatal(err)
				}
			})
		}
		return least(took)
	}
	first, last := open(0), open(n)
	for tries := 0; tries < 10 && last.exceeds(first); tries++ { // what goes on beside was in all of them
		first, last = least([]work{first, open(0)}), least([]work{last, open(n)})
	}
	t.Logf("to open and read the first: %v, the last: %v", first, last)
	if last.exceeds(first) {
		t.Error("to open and read the last of a chain costs more than the first")
	}

	began := time.Now()
	for i := range n {
		if err := h.Remove(ctx, name(i), false); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("all ancestors removed in %v", time.Since(began))
	for i := range n {
		same(t, h, name(n), at(i), random(uint64(i), 4096))
	}
	if ls := must[[]api.Volume](t)(h.List(ctx, false)); len(ls) != 1 {
		t.Errorf("%d volumes are left", len(ls))
	}
}
