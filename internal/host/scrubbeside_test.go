package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/scrub"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
)

// scrubGate is a store that calls a hook before each request.
type scrubGate struct {
	objstore.Store
	hook func(op, key string) error
	data func(key string, raw []byte) // may change it; nil: nothing does
}

func (g *scrubGate) Get(ctx context.Context, key string) ([]byte, error) {
	if err := g.hook("get", key); err != nil {
		return nil, err
	}
	raw, err := g.Store.Get(ctx, key)
	if err == nil && g.data != nil {
		g.data(key, raw)
	}
	return raw, err
}

func (g *scrubGate) List(ctx context.Context, prefix, after string, n int) ([]objstore.Info, error) {
	if err := g.hook("list", prefix); err != nil {
		return nil, err
	}
	return g.Store.List(ctx, prefix, after, n)
}

// gatedBed is scrubBed with a gate before the store.
func gatedBed(t *testing.T) (*bed, *Host, *scrubGate, []byte) {
	t.Helper()
	b := newBed(t)
	g := &scrubGate{Store: b.store, hook: func(string, string) error { return nil }}
	b.store = g
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	want := fill(t, h, "v", 1, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	return b, h, g, want
}

// TestScrubBesideACollection: a pack that was deleted after the walk is no damage if
// nothing refers to it any more.
func TestScrubBesideACollection(t *testing.T) {
	b, h, g, _ := gatedBed(t)
	b.retention = time.Nanosecond
	fill(t, h, "v", 2, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	packs := keysOf(t, b.store, "packs/")
	var once atomic.Bool
	g.hook = func(op, key string) error {
		if op == "get" && isPack(key) && !once.Swap(true) {
			if err := h.Remove(ctx, "v", false); err != nil {
				t.Error(err)
			}
			if err := h.publisher.Session.Rotate(ctx); err != nil {
				t.Error(err)
			}
			for range 3 {
				runRound(t, b.store, 0)
			}
		}
		return nil
	}
	scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	if left := keysOf(t, b.store, "packs/"); !once.Load() || len(left) >= len(packs) {
		t.Errorf("%d packs of %d are left: nothing was collected meanwhile", len(left), len(packs))
	}
}

// TestStoreDown: a store that does not answer is an error, and nothing is damaged.
func TestStoreDown(t *testing.T) {
	_, h, g, want := gatedBed(t)
	for _, op := range []string{"list", "get"} {
		g.hook = func(o, _ string) error {
			if o == op {
				return errs.New(errs.Unavailable, "the store is down")
			}
			return nil
		}
		got, err := h.Scrub(ctx, api.ScrubRequest{})
		if wantKind(t, err, errs.Unavailable); got.Damaged != 0 || len(got.Lost) != 0 {
			t.Errorf("%s: %+v", op, got)
		}
	}
	// Nor is what cannot be fetched again just now lost.
	g.hook = func(string, string) error { return nil }
	rotSlabs(t, h, want[:64])
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 1, 0)
}

// TestScrubCancelled ends soon, with the caller's error, and another can run.
func TestScrubCancelled(t *testing.T) {
	_, h, g, _ := gatedBed(t)
	cctx, cancel := context.WithCancel(ctx)
	g.hook = func(op, key string) error {
		if op == "get" && isPack(key) {
			cancel()
		}
		return nil
	}
	if _, err := h.Scrub(cctx, api.ScrubRequest{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	g.hook = func(string, string) error { return nil }
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
}

// TestVerifiedAt: a cold verify that found everything whole is remembered.
func TestVerifiedAt(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	fill(t, h, "v", 1, 0, 4*4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Verify](t)(h.Verify(ctx, "v", false))
	if at := must[api.Volume](t)(h.Show(ctx, "v")).VerifiedAt; !at.IsZero() {
		t.Errorf("verified at %s, from the cache", at)
	}
	must[api.Verify](t)(h.Verify(ctx, "v", true))
	at := must[api.Volume](t)(h.Show(ctx, "v")).VerifiedAt
	if at.IsZero() {
		t.Error("not verified")
	}
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	if kid := must[api.Volume](t)(h.Show(ctx, "kid")).VerifiedAt; !kid.IsZero() {
		t.Error("a fork was never verified itself")
	}
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a")
	if again := must[api.Volume](t)(h.Show(ctx, "v")).VerifiedAt; !again.Equal(at) {
		t.Errorf("verified at %s, after a restart at %s", at, again)
	}
	r := refsOf(t, h, "v")[0]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	if v := must[api.Verify](t)(h.Verify(ctx, "v", true)); len(v.Damaged) == 0 {
		t.Error("the damage was not found")
	}
}

// TestBackgroundScrub checks this host at its rate, and asks the store for nothing.
func TestBackgroundScrub(t *testing.T) {
	b, h, _ := scrubBed(t, 64)
	s := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Disk: 256 << 10})
	before := requestsOf(b)
	began := time.Now()
	got := must[api.Scrub](t)(s.Pass(ctx))
	took := time.Since(began)
	if after := requestsOf(b); after != before {
		t.Errorf("%d store requests", after-before)
	}
	least := time.Duration(float64(got.Bytes)/float64(256<<10)*float64(time.Second)) - time.Second
	if got.Blocks < 64 || took < least {
		t.Errorf("%d bytes in %s: at 256K a second that takes %s", got.Bytes, took, least)
	}
	if v := must[api.Scrub](t)(scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Store: 1 << 20}).Pass(ctx)); v.Blocks == 0 || requestsOf(b) == before {
		t.Errorf("%+v: the store was not read", v)
	}
}

func requestsOf(b *bed) uint64 {
	n := b.count.Counts()
	return n.Put + n.Get + n.List + n.Head + n.Delete
}

// TestAskedWhileInTheBackground: a pass in the background, which may take hours, gives way.
func TestAskedWhileInTheBackground(t *testing.T) {
	_, h, _ := scrubBed(t, 64)
	s := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Disk: 1000})
	ended := make(chan error, 1)
	go func() {
		_, err := s.Pass(ctx)
		ended <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if v := must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{})); v.Blocks < 2*64 {
		t.Errorf("%+v", v)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestDamagedLogOfASleepingVolume: nothing of it is in memory.
func TestDamagedLogOfASleepingVolume(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	want := fill(t, h, "v", 2, 8192, 4096)
	must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 0, 0, 0)
	dir := filepath.Join(h.cfg.Data, "wal")
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		rotFile(t, filepath.Join(dir, e.Name()), want[:64])
	}
	got := scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 0, 1)
	if l := got.Lost[0]; !slices.Equal(l.Volumes, []string{"v"}) || !strings.HasPrefix(l.Key, "wal/") {
		t.Errorf("%+v", l)
	}
}

// TestPublishedLog: what a policy has shipped is in the store, and that is said.
func TestPublishedLog(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096, Durability: volume.Sync}))
	want := fill(t, h, "v", 2, 8192, 512)
	if err := vol(t, h, "v").Flush(); err != nil {
		t.Fatal(err)
	}
	must[api.Flush](t)(h.Barrier(ctx, "v", vol(t, h, "v").Last()))
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
	dir := filepath.Join(h.cfg.Data, "wal")
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		rotFile(t, filepath.Join(dir, e.Name()), want[:64])
	}
	scrubbed(t, h, api.ScrubRequest{LocalOnly: true}, 1, 0, 0)
	events := must[[]api.Event](t)(h.Events(ctx, 0, 0))
	if !slices.ContainsFunc(events, func(e api.Event) bool { return e.Volume == "v" && strings.Contains(e.Message, "glide rollback v 1.") }) {
		t.Errorf("no event says that the store has it: %v", events)
	}
}

// TestTenantsAreScrubbed: hashes are keyed by the tenant.
func TestTenantsAreScrubbed(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	for _, name := range []string{"one/v", "two/v"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib, BlockSize: 4096}))
		fill(t, h, name, 7, 0, 4*4096)
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	scrubbed(t, h, api.ScrubRequest{}, 0, 0, 0)
	r := refsOf(t, h, "two/v")[2]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	scrubbed(t, h, api.ScrubRequest{}, 1, 1, 0)
	other := b.host(t.TempDir(), "b")
	scrubbed(t, other, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	r = refsOf(t, h, "one/v")[2]
	flip(t, b.store, r.Pack.Key(), int(r.Off)+30)
	got := scrubbed(t, other, api.ScrubRequest{StoreOnly: true}, 1, 0, 1)
	if l := got.Lost[0]; !slices.Equal(l.Volumes, []string{"one/v"}) || !slices.Equal(l.Ranges, []api.Range{{Offset: 8192, Length: 4096}}) {
		t.Errorf("%+v", l)
	}
}

// TestLargeStoreIsWalkedInParts: as many references as fit are in memory at a time.
func TestLargeStoreIsWalkedInParts(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096}))
	for i := range uint64(8) {
		fill(t, h, "v", i+1, i*40960, 40960)
		must[api.Flush](t)(h.Flush(ctx, "v"))
	}
	all := scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	s := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{})
	s.Most = 30
	got := must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{StoreOnly: true}))
	if got.Blocks != all.Blocks || got.Bytes != all.Bytes || got.Damaged != 0 {
		t.Errorf("in parts %+v, at once %+v", got, all)
	}
	for _, key := range keysOf(t, b.store, "packs/") {
		flip(t, b.store, key, 60)
	}
	if got = must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{StoreOnly: true})); got.Damaged < 8 || got.Repaired != got.Damaged {
		t.Errorf("every pack is damaged: %+v", got)
	}
	if got = must[api.Scrub](t)(s.Scrub(ctx, api.ScrubRequest{})); got.Damaged != 0 {
		t.Errorf("after the repair: %+v", got)
	}
}

// TestDamagedOnItsWay: what is whole when it is read again is no damage.
func TestDamagedOnItsWay(t *testing.T) {
	_, h, g, _ := gatedBed(t)
	var once atomic.Bool
	g.data = func(key string, raw []byte) {
		if isPack(key) && !once.Swap(true) {
			raw[100] ^= 1
		}
	}
	scrubbed(t, h, api.ScrubRequest{StoreOnly: true}, 0, 0, 0)
	if !once.Load() {
		t.Error("no pack was read")
	}
}

// TestScrubBesideEverything: while volumes are written, published, forked and removed, and
// rounds of collection pass, nothing is damaged.
func TestScrubBesideEverything(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, BlockSize: 4096, Durability: volume.Continuous}))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := vol(t, h, "v").WriteAt(random(i%7, 40960), i%16*40960); err != nil {
				t.Error(err)
			}
			if _, err := h.Flush(ctx, "v"); err != nil && errs.KindOf(err) != errs.Unavailable && errs.KindOf(err) != errs.Busy {
				t.Error(err)
			}
			if i%3 == 0 {
				_, _ = h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"})
			} else if i%3 == 2 {
				_ = h.Remove(ctx, "kid", false)
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = h.publisher.Session.Rotate(ctx)
			if _, err := gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Retention: time.Nanosecond}); err != nil {
				t.Log(err) // it stops when a root vanishes, and goes on later
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	runs := 0
	for began := time.Now(); time.Since(began) < 2*time.Second; runs++ {
		if got := must[api.Scrub](t)(h.Scrub(ctx, api.ScrubRequest{})); got.Damaged != 0 {
			for _, e := range must[[]api.Event](t)(h.Events(ctx, 0, 0)) {
				t.Log(e.Message)
			}
			t.Errorf("%+v", got)
			break
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d scrubs", runs)
}
