package host

import (
	"context"
	"fmt"
	"os"
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

// TestChainOfForks makes a chain of forks, each with one changed block: opening and
// reading the last costs what it costs for the first, and every ancestor can be removed.
func TestChainOfForks(t *testing.T) {
	n := chainLength()
	b := newBed(t)
	h, err := Open(ctx, Config{Data: t.TempDir(), Store: b.store, Dial: b.dial, Cache: Share{Bytes: 4 << 30}, WALLimit: Share{Bytes: 24 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(context.Background()) })
	name := func(i int) string { return fmt.Sprint("c-", i) }
	at := func(i int) uint64 { return uint64(i) << 17 }
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name(0), Size: uint64(n+1) << 17}))
	forks := make([]time.Duration, n)
	most := 0
	for i := range n {
		fill(t, h, name(i), uint64(i), at(i), 4096)
		began := time.Now()
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: name(i), Name: name(i + 1)}))
		forks[i] = time.Since(began)
		most = max(most, len(vol(t, h, name(i+1)).State().Segments))
	}
	half := n / 2
	slices.Sort(forks[:half])
	slices.Sort(forks[half:])
	t.Logf("%d forks: median %v in the first half, %v in the second; at most %d segments in a record", n, forks[half/2], forks[half+half/2], most)
	if most > 65 {
		t.Errorf("a fork has inherited %d segments", most)
	}
	if forks[half+half/2] > 2*forks[half/2]+time.Millisecond {
		t.Error("a fork takes longer, the longer its chain")
	}

	// What the last one has, it has from all of them.
	for i := range n {
		same(t, h, name(n), at(i), random(uint64(i), 4096))
	}
	// Both are published: opening a volume that is not costs its log, whatever its chain.
	for _, v := range []string{name(0), name(n)} {
		must[api.Flush](t)(h.Flush(ctx, v))
	}
	open := func(i int) time.Duration {
		took := make([]time.Duration, 15)
		p := make([]byte, 4096)
		for k := range took {
			must[api.Volume](t)(h.Sleep(ctx, name(i), false, false))
			began := time.Now()
			if err := vol(t, h, name(i)).ReadAt(p, 0); err != nil {
				t.Fatal(err)
			}
			took[k] = time.Since(began)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	first, last := open(0), open(n)
	for tries := 0; tries < 3 && float64(last) > 1.2*float64(first); tries++ { // a busy machine
		first, last = open(0), open(n)
	}
	t.Logf("to open and read the first: %v, the last: %v, %.2f times", first, last, float64(last)/float64(first))
	if float64(last) > 1.2*float64(first) {
		t.Error("the last of a chain takes longer than the first")
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
