package host

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/nbd"
)

// gated is a store whose conditional PUTs of log objects can be delayed.
type gated struct {
	objstore.Store
	mu     sync.Mutex
	opened sync.Cond
	shut   bool
	puts   atomic.Int64
	delay  atomic.Int64
}

func newGated(s objstore.Store) *gated {
	g := &gated{Store: s}
	g.opened.L = &g.mu
	return g
}

func (g *gated) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	g.opened.Broadcast()
}

func (g *gated) PutIfAbsent(ctx context.Context, key string, b []byte) error {
	g.puts.Add(1)
	time.Sleep(time.Duration(g.delay.Load()))
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.opened.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	for g.shut && ctx.Err() == nil {
		g.opened.Wait()
	}
	g.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return g.Store.PutIfAbsent(ctx, key, b)
}

// guest is one NBD connection's view of a volume.
func guest(t *testing.T, h *Host, name string) nbd.Acknowledger {
	t.Helper()
	e, err := h.exports.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Closed)
	return e.Device.(nbd.Acknowledger)
}

// guestWrite writes as the NBD server does: to the device, and then it waits for the
// acknowledgement.
func guestWrite(dev nbd.Acknowledger, off uint64, b []byte) error {
	frame := append(make([]byte, nbd.Headroom), b...)
	if err := dev.WriteFrames([]uint64{off}, [][]byte{frame}); err != nil {
		return err
	}
	if dev.TryAcknowledge() {
		return nil
	}
	return dev.Acknowledge()
}

// TestSyncSurvivesTheHost: what an acknowledged flush of a sync volume covers is in the
// store, whatever happens to the host and its disk. flush-is-durable.
func TestSyncSurvivesTheHost(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	v := must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	if v.Generation != "1.1" || v.Durability != "sync" {
		t.Fatalf("%+v", v)
	}
	dev := guest(t, h1, "v")
	image := make([]byte, 8<<20)
	for i := range uint64(50) {
		p := random(i, 5000)
		off := i * 7919 * 13 % (8<<20 - 5000) &^ 511
		if err := guestWrite(dev, off, p); err != nil {
			t.Fatal(err)
		}
		copy(image[off:], p)
		if i == 30 {
			if err := dev.Zero(1<<20, 1<<20, true); err != nil {
				t.Fatal(err)
			}
			clear(image[1<<20 : 2<<20])
		}
		before := b.count.Counts()
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := b.count.Counts().Put - before.Put; n > 1 && i != 0 {
			t.Fatalf("a flush cost %d puts", n)
		}
	}
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.DirtyBytes != 0 || v.Unpublished != 0 {
		t.Fatalf("after a flush: %+v", v)
	}
	delete(b.peers, "a") // its host is gone, with its disk
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, image)
	// The volume continues there, and a third host finds the writes of both hosts.
	dev2 := guest(t, h2, "v")
	p := random(99, 4096)
	if err := guestWrite(dev2, 0, p); err != nil {
		t.Fatal(err)
	}
	copy(image, p)
	if err := dev2.Flush(); err != nil {
		t.Fatal(err)
	}
	delete(b.peers, "b")
	h3 := b.host(t.TempDir(), "c")
	must[api.Volume](t)(h3.Wake(ctx, "v", true, ""))
	same(t, h3, "v", 0, image)
	if err := dev.Flush(); err != nil { // nothing has been written since
		t.Fatal(err)
	}
	if err := guestWrite(dev, 0, p); err != nil {
		t.Fatal(err)
	}
	if err := dev.Flush(); err == nil {
		t.Fatal("a fenced host acknowledged a flush")
	}
}

func imageOfVolume(t *testing.T, h *Host, name string) []byte {
	t.Helper()
	v := vol(t, h, name)
	p := make([]byte, v.Size())
	if err := v.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestShippingGoesOnAfterARestart: a process that starts with unsent writes sends them.
// Its data commits follow those of the earlier process.
func TestShippingGoesOnAfterARestart(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "continuous", RPOms: 2000}))
	for round := range uint64(4) {
		dev := guest(t, h, "v")
		for i := range uint64(20) {
			if err := guestWrite(dev, (round*20+i)*8192, random(round*20+i, 4096)); err != nil {
				t.Fatal(err)
			}
			if i == 10 {
				must[api.Flush](t)(h.Flush(ctx, "v"))
				g.set(true)
			}
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(ctx); err != nil {
			t.Fatal(err)
		}
		g.set(false)
		h = b.host(dir, "a")
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	want := imageOfVolume(t, h, "v")
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, want)
	for i := range uint64(80) {
		if !bytes.Equal(want[i*8192:i*8192+4096], random(i, 4096)) {
			t.Fatalf("write %d is lost", i)
		}
	}
}

// TestPolicyChanges: every change between the policies keeps every write.
func TestPolicyChanges(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20}))
	dev := guest(t, h, "v")
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				done <- i
				return
			default:
			}
			if err := guestWrite(dev, i%2000*4096, random(i, 4096)); err != nil {
				t.Error(err)
			}
			if i%10 == 0 {
				if err := dev.Flush(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for _, s := range []api.Settings{
		{"durability": "continuous", "rpo": "1s"}, {"durability": "sync"}, {"durability": "local"}, {"durability": "sync"},
		{"durability": "continuous", "rpo": "3s"}, {"rpo": "300ms"}, {"durability": "local"}, {"rpo": "9s"}, {"durability": "continuous"},
	} {
		time.Sleep(60 * time.Millisecond)
		v := must[api.Volume](t)(h.Set(ctx, "v", s))
		if d := s["durability"]; d != "" && v.Durability != d {
			t.Fatalf("%v: %+v", s, v)
		}
		if tip := must[api.Volume](t)(h.Show(ctx, "v")); tip.State != "active" {
			t.Fatalf("%v: %+v", s, tip)
		}
	}
	close(stop)
	<-done
	must[api.Flush](t)(h.Flush(ctx, "v"))
	want := imageOfVolume(t, h, "v")
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	v := must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	if v.Durability != "continuous" || v.RPOms != 9000 {
		t.Errorf("%+v", v)
	}
	same(t, h2, "v", 0, want)
	for _, bad := range []api.Settings{{"rpo": "0"}, {"rpo": "-1s"}, {"rpo": "1ns"}, {"rpo": "1000000h"}, {"rpo": "soon"}, {"durability": "most"}, {"durability": ""}} {
		_, err := h2.Set(ctx, "v", bad)
		wantKind(t, err, errs.Invalid)
	}
}

// TestFoldsWhileShipping: data commits are folded while more are made.
func TestFoldsWhileShipping(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	dev := guest(t, h, "v")
	for i := range 3 * h.durability.FoldAfter {
		if err := guestWrite(dev, i*31%2000*4096, random(i, 4096)); err != nil {
			t.Fatal(err)
		}
		if i%500 == 400 {
			must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s"+time.Now().Format("150405.000000000"), ""))
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	folds := 0
	for _, c := range must[[]api.Commit](t)(h.Log(ctx, "v", "", 0)) {
		if c.Cause == "fold" {
			folds++
		}
	}
	if folds == 0 {
		t.Error("nothing was folded")
	}
	want := imageOfVolume(t, h, "v")
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	forks := must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Lazy: true}))
	same(t, h2, "f", 0, want)
	if len(forks) != 1 {
		t.Fatalf("%+v", forks)
	}
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, want)
}

// TestRollbackWhileShipping: after a rollback the store follows, and later data commits
// apply to the state that was rolled back to.
func TestRollbackWhileShipping(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	write := func(seed uint64) {
		dev := guest(t, h, "v")
		if err := guestWrite(dev, seed*4096, random(seed, 8192)); err != nil {
			t.Fatal(err)
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	write(2)
	write(3)
	must[api.Volume](t)(h.Rollback(ctx, "v", "s", true))
	write(7)
	want := imageOfVolume(t, h, "v")
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, want)
	same(t, h2, "v", 4096, random(1, 8192))
}

// TestFlushesHoldNobodyUp: reads and writes keep their speed while a flush of the same
// volume is on its way to a store 20 ms away.
func TestFlushesHoldNobodyUp(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 32 << 20, Durability: "sync"}))
	g.delay.Store(int64(20 * time.Millisecond))
	dev := guest(t, h, "v")
	run := func(flushers int) (n int) {
		stop := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(stop) })
		going := func() bool {
			select {
			case <-stop:
				return false
			default:
				return true
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			r, p := rand.New(rand.NewPCG(1, 1)), make([]byte, 4096)
			for ; going(); n++ {
				off := r.Uint64N(4096) * 4096
				err := dev.ReadAt(p, off)
				if n%2 == 0 {
					err = guestWrite(dev, off, p)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		for range flushers {
			wg.Go(func() {
				for going() {
					if err := errors.Join(guestWrite(dev, 5000*4096, make([]byte, 4096)), dev.Flush()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return n
	}
	run(0)
	without, with := run(0), run(1)
	t.Logf("%d requests a second without flushes, %d with: %.2f", without, with, float64(with)/float64(without))
	if with < without/3 { // if flushes blocked it, it would be a few hundred
		t.Errorf("flushes hold others up: %d requests a second without, %d with", without, with)
	}
}

// TestFoldsWhatCompressesWell: what opening a volume writes to a log is bounded, even if
// its data commits are small in the store. bounded.
func TestFoldsWhatCompressesWell(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 128 * mib, Durability: "sync"}))
	dev := guest(t, h, "v")
	p := bytes.Repeat([]byte("well"), mib/4)
	for i := range uint64(100) {
		if err := guestWrite(dev, i*mib, p); err != nil {
			t.Fatal(err)
		}
		if err := dev.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := h.disks.Local("v", false)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if count, _ := d.Owned.Load().Unfolded(); count <= durability.FoldBytes/mib {
			return
		}
		if i > 200 {
			t.Fatal("nothing is folded")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestFlightsAreNotForgotten: commits that were in flight when a verb stopped the shipper
// are sent again, and nothing is acknowledged because of them before. flush-is-durable.
func TestFlightsAreNotForgotten(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: "sync"}))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "taken", Size: mib}))
	e, err := h.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	if err := guestWrite(e.Device.(nbd.Acknowledger), 0, random(1, 4096)); err != nil {
		t.Fatal(err)
	}
	g.set(true)
	sent := g.puts.Load()
	hungUp := make(chan error, 1)
	go func() { hungUp <- e.Device.Flush() }()
	for g.puts.Load() == sent {
		time.Sleep(time.Millisecond)
	}
	e.Closed()
	_, err = h.Rename(ctx, "v", "taken") // stops the shipper, and fails
	wantKind(t, err, errs.Exists)
	if err := <-hungUp; err == nil {
		t.Fatal("a flush was acknowledged that the store did not take")
	}
	flushed := make(chan error, 1)
	dev := guest(t, h, "v")
	go func() { flushed <- dev.Flush() }()
	select {
	case err := <-flushed:
		t.Fatalf("after another verb it was acknowledged: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	g.set(false)
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	delete(b.peers, "a")
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, random(1, 4096))
}

// After a restart, writes of an earlier process are at least as old as this process, and
// not a year old.
func TestAgeAfterRestart(t *testing.T) {
	b, dir := newBed(t), t.TempDir()
	faults := objstore.NewFaults(b.store, 1)
	b.store = faults
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 1 << 20, Durability: "continuous"}))
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}})
	fill(t, h, "v", 1, 0, 8192)
	if err := vol(t, h, "v").Flush(); err != nil {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	_ = h.Close(stopped) // there is no time for the store
	h = b.host(dir, "a")
	if v := must[api.Volume](t)(h.Show(ctx, "v")); v.DirtyBytes == 0 || v.Unpublished <= 0 || v.Unpublished > 60_000 {
		t.Errorf("%d bytes are %v ms old", v.DirtyBytes, v.Unpublished)
	}
}
