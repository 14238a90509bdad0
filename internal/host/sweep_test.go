package host

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pinobject"
)

// TestPinsThatComeBack: a request that creates a pin may come after the pin was dropped, and
// after what it names was collected. It would stop every collector, so the host drops it; but
// none of those that it has a use for.
func TestPinsThatComeBack(t *testing.T) {
	b := newBed(t)
	b.retention = 1
	h := b.host(t.TempDir(), "a")
	far := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 * mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	d := must[*blockmap.Root](t)(rootOf(h, "v"))
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s"}))
	}
	if n := countKeys(t, b.store, "packs/"); n > 0 {
		t.Fatalf("%d packs are left", n)
	}
	for _, kind := range []pinobject.Kind{pinobject.Children, pinobject.Packs} {
		p := must[pinobject.Pin](t)(pinobject.New(h.disks.Rand, h.ID(), kind, h.disks.Now()))
		if p.Roots = []blockmap.Root{*d}; kind == pinobject.Packs {
			p.Roots, p.Packs = nil, []pinobject.PackName{pinobject.PackName(d.Ref.Pack)}
		}
		if err := pinobject.Create(ctx, b.store, p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := far.Collect(ctx, api.CollectRequest{Grace: "0s"}); err == nil || !strings.Contains(err.Error(), "pins/"+h.ID()) {
		t.Errorf("a root that cannot be read does not stop the round of another host: %v", err)
	}
	must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s"}))
	if n := countKeys(t, b.store, "pins/"); n > 0 {
		t.Errorf("%d pins are left that nobody needs", n)
	}
	must[api.Collection](t)(far.Collect(ctx, api.CollectRequest{Grace: "0s"}))
}

// rootOf is the root of what a volume last published.
func rootOf(h *Host, name string) (*blockmap.Root, error) {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return nil, err
	}
	root := d.State().Root
	return &root, nil
}

// TestSweepKeepsWhatIsInUse: rounds of the host itself, between each of the requests of a
// fork and of a flush, drop no pin that they need.
func TestSweepKeepsWhatIsInUse(t *testing.T) {
	b := newBed(t)
	far := b.host(t.TempDir(), "b")
	must[api.Volume](t)(far.Create(ctx, api.CreateRequest{Name: "v", Size: 8 * mib}))
	want := fill(t, far, "v", 1, 0, mib)
	must[api.Flush](t)(far.Flush(ctx, "v"))
	s := &between{Store: b.store}
	b.store = s
	h := b.host(t.TempDir(), "a")
	s.do = func() { // a round of the host, but that it leaves the session alone, which the caller holds
		if err := h.pins.Sweep(ctx); err != nil {
			t.Error(err)
		}
		runRound(t, s.Store, 0)
	}
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid", Lazy: true}))
	more := fill(t, h, "kid", 2, mib, mib)
	must[api.Flush](t)(h.Flush(ctx, "kid"))
	if err := far.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runRound(t, s.Store, 0)
	}
	same(t, h, "kid", 0, append(want, more...))
	if _, got, err := published(s.Store, "kid"); err != nil || string(got[:2*mib]) != string(append(want, more...)) {
		t.Errorf("what was published is not there: %v", err)
	}
}

// between is a store that does something before each object is created, unless that is
// what it is doing.
type between struct {
	objstore.Store
	busy sync.Mutex
	do   func()
}

func (s *between) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if s.do != nil && s.busy.TryLock() {
		s.do()
		s.busy.Unlock()
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}
