package host

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/pack"
)

// TestFlushesShareAndDoNotWaitInLine: concurrent flushes of a sync volume share
// commits, and none waits for much more than one.
func TestFlushesShareAndDoNotWaitInLine(t *testing.T) {
	bubble(t, testFlushesShare)
}

// bubble runs a test in virtual time. Whatever the process shares is created outside.
func bubble(t *testing.T, test func(*testing.T)) {
	data, err := commitlog.EncodeData([]commitlog.Range{{Len: 4, Data: make([]byte, 4)}})
	if err == nil {
		_, err = commitlog.DecodeData(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, test)
}

// virtual opens a host in a bubble of virtual time, on an in-memory file system. Only the
// store takes time there.
func virtual(t *testing.T, b *bed) *Host { return virtualOn(t, b, vfs.NewMem()) }

// virtualOn is virtual on the given file system.
func virtualOn(t *testing.T, b *bed, fs vfs.FS) *Host {
	if err := fs.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	h, err := Open(ctx, Config{
		Data: "data", FS: fs, Store: b.store, Keys: b.keys, Counter: b.count, Cache: Share{Bytes: 16 << 20}, WALLimit: Share{Bytes: 64 << 20},
		Uptime: func() time.Duration { return time.Since(start) + time.Hour },
		// Coders that are created in a bubble cannot be used outside.
		Compression: pack.CompressionNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(ctx) })
	return h
}

func testFlushesShare(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	h := virtual(t, b)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	dev := guest(t, h, "v")
	g.delay.Store(int64(30 * time.Millisecond))
	if err := guestWrite(dev, 0, random(1, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := dev.Flush(); err != nil { // begins an epoch, and measures the latency of the store
		t.Fatal(err)
	}
	before := g.puts.Load()
	var wg sync.WaitGroup
	var flushes, total atomic.Int64
	end := time.Now().Add(1500 * time.Millisecond)
	for i := range uint64(16) {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := guestWrite(dev, i<<14, random(i, 4096)); err != nil {
					t.Error(err)
				}
				began := time.Now()
				if err := dev.Flush(); err != nil {
					t.Error(err)
				}
				flushes.Add(1)
				total.Add(int64(time.Since(began)))
				time.Sleep(time.Duration(i) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	puts := g.puts.Load() - before
	mean := time.Duration(total.Load() / flushes.Load())
	t.Logf("%d flushes in %d puts, %v each, of 30ms", flushes.Load(), puts, mean)
	if puts*2 > flushes.Load() {
		t.Errorf("%d puts for %d flushes", puts, flushes.Load())
	}
	if mean > 39*time.Millisecond {
		t.Errorf("a flush takes %v when a put takes 30ms", mean)
	}
}

// TestRPO: while the store takes nothing, a continuous volume acknowledges writes for
// less than its rpo. It says why it stopped, and resumes by itself.
func TestRPO(t *testing.T) { bubble(t, testRPO) }

func testRPO(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	h := virtual(t, b)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "continuous", RPOms: 600}))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "other", Size: 8 << 20}))
	dev, other := guest(t, h, "v"), guest(t, h, "other")
	g.set(true)
	began := time.Now()
	var last atomic.Int64
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := guestWrite(dev, i%1000*4096, random(i, 4096)); err != nil {
				done <- err
				return
			}
			last.Store(int64(time.Since(began)))
			time.Sleep(time.Millisecond)
		}
	}()
	time.Sleep(1500 * time.Millisecond)
	if span := time.Duration(last.Load()); span > 600*time.Millisecond {
		t.Errorf("writes were acknowledged for %v without the store", span)
	} else if span < 200*time.Millisecond {
		t.Errorf("writes were acknowledged for %v only", span)
	}
	if v := must[api.Volume](t)(h.Show(ctx, "v")); v.Reason == "" || v.Unpublished < 500 || v.State != "active" {
		t.Errorf("it does not say why it waits: %+v", v)
	}
	if err := guestWrite(other, 0, random(5, 4096)); err != nil || other.Flush() != nil {
		t.Errorf("another volume: %v", err)
	}
	p := make([]byte, 4096)
	if err := dev.ReadAt(p, 0); err != nil {
		t.Error(err)
	}
	g.set(false)
	time.Sleep(500 * time.Millisecond)
	if span := time.Duration(last.Load()); span < 1500*time.Millisecond {
		t.Error("it did not go on when the store came back")
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f := must[api.Flush](t)(h.Flush(ctx, "v"))
	want := imageOfVolume(t, h, "v")
	h2 := virtual(t, b)
	v := must[api.Volume](t)(h2.Wake(ctx, "v", true, f.Generation))
	if v.Durability != "continuous" || v.RPOms != 600 {
		t.Errorf("%+v", v)
	}
	same(t, h2, "v", 0, want)
}

// TestIdleShipperRests: after a rollback, or after a flush without changes, nothing is
// retried in a loop. In a bubble, a goroutine that never waits stops the clock.
func TestIdleShipperRests(t *testing.T) { bubble(t, testIdleShipperRests) }

func testIdleShipperRests(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	h := virtual(t, b)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "sync"}))
	fill(t, h, "v", 1, 0, 4096)
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Volume](t)(h.Rollback(ctx, "v", "s", true))
	time.Sleep(time.Hour)
	dev := guest(t, h, "v")
	if err := dev.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(guestWrite(dev, 0, make([]byte, 4096)), dev.Flush(), dev.Flush()); err != nil {
		t.Fatal(err)
	}
	before := g.puts.Load()
	time.Sleep(24 * time.Hour)
	if n := g.puts.Load() - before; n != 0 {
		t.Errorf("an idle volume made %d commits in a day", n)
	}
}

// TestAgeOfWhatIsTaken: changes that have been taken but are not in flight yet keep their
// age when an earlier commit takes effect. No later write is acknowledged as if there
// were no older ones. flush-is-durable.
func TestAgeOfWhatIsTaken(t *testing.T) { bubble(t, testAgeOfWhatIsTaken) }

func testAgeOfWhatIsTaken(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	var slow atomic.Bool
	open, syncs := make(chan struct{}), make(chan struct{}, 1)
	h := virtualOn(t, b, crashFS{vfs.NewMem(), func(where string) {
		if slow.Load() && strings.HasPrefix(where, "before sync data/wal/") {
			select {
			case syncs <- struct{}{}:
			default:
			}
			<-open
		}
	}})
	release := sync.OnceFunc(func() { close(open) })
	t.Cleanup(release)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 8 << 20, Durability: "continuous", RPOms: 600}))
	dev := guest(t, h, "v")
	write := func(n uint64) <-chan error {
		acked := make(chan error, 1)
		go func() { acked <- guestWrite(dev, n<<20, random(n, 4096)) }()
		return acked
	}
	g.set(true)
	sent := g.puts.Load()
	if err := <-write(1); err != nil {
		t.Fatal(err)
	}
	for g.puts.Load() == sent { // until it is in flight
		time.Sleep(time.Millisecond)
	}
	slow.Store(true)
	if err := <-write(2); err != nil {
		t.Fatal(err)
	}
	<-syncs // it is taken, but its log is not synced yet
	g.set(false)
	time.Sleep(time.Second)
	acked := write(3)
	select {
	case err := <-acked:
		t.Fatalf("a write is acknowledged while one from a second ago is not in the store: %v", err)
	case <-time.After(time.Minute):
	}
	release()
	if err := <-acked; err != nil {
		t.Fatal(err)
	}
}
