package host

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// twoHosts creates a volume v on the first of two hosts. It is flushed and then written
// to again.
func twoHosts(t *testing.T) (b *bed, h1, h2 *Host, data []byte) {
	b = newBed(t)
	h1, h2 = b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data = fill(t, h1, "v", 1, 0, 300<<10)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	copy(data[100<<10:], fill(t, h1, "v", 2, 100<<10, 8192))
	return b, h1, h2, data
}

// TestConnectedOwnerRefuses: a volume with an open connection is not handed over. After
// the guest has gone it is, including the guest's last writes.
func TestConnectedOwnerRefuses(t *testing.T) {
	_, h1, h2, data := twoHosts(t)
	e, err := h1.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.Exports != 1 {
		t.Fatalf("%+v", v)
	}
	_, err = h2.Wake(ctx, "v", false, "")
	wantKind(t, err, errs.WouldLose)
	if !strings.Contains(err.Error(), "1 open NBD connection") {
		t.Fatal(err)
	}
	if err := e.Device.Flush(); err != nil {
		t.Fatalf("the guest noticed: %v", err)
	}
	e.Closed()
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	same(t, h2, "v", 0, data)
	if _, err := h1.disks.Local("v", false); errs.KindOf(err) != errs.NotFound || err == nil {
		t.Fatalf("two hosts show the volume as theirs: %v", err)
	}
}

// TestReleasedWakesWithoutAsking: after a portable sleep the old host may be gone.
func TestReleasedWakesWithoutAsking(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	must[api.Snapshot](t)(h1.Snapshot(ctx, "v", "s", ""))
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	same(t, h2, "v", 0, data)
	same(t, h2, "v@s", 0, data)
	if s := must[[]api.Snapshot](t)(h2.Snapshots(ctx, "v")); len(s) != 1 {
		t.Fatalf("%+v", s)
	}
}

// TestSettingsTravel: a flush stores labels and limits even if nothing else changed. A
// policy that cannot be set changes no setting.
func TestSettingsTravel(t *testing.T) {
	for _, durability := range []string{disk.Local, "continuous"} {
		b := newBed(t)
		faults := objstore.NewFaults(b.store, 1)
		b.store = faults
		h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: durability, RPOms: 3600e3}))
		fill(t, h1, "v", 1, 0, 4096)
		must[api.Flush](t)(h1.Flush(ctx, "v"))
		before := b.count.Counts().Put
		must[api.Volume](t)(h1.Set(ctx, "v", api.Settings{"label.role": "build", "iops": "500"}))
		must[api.Flush](t)(h1.Flush(ctx, "v"))
		after := b.count.Counts().Put
		must[api.Volume](t)(h1.Set(ctx, "v", api.Settings{"label.role": "build"}))
		must[api.Flush](t)(h1.Flush(ctx, "v"))
		if n := b.count.Counts().Put; before == after || n != after {
			t.Errorf("%s: %d puts for new settings, %d for the same again", durability, after-before, n-after)
		}
		faults.Inject(objstore.Fault{})
		if _, err := h1.Set(ctx, "v", api.Settings{"label.role": "web", "durability": "sync"}); err == nil {
			t.Errorf("%s: a policy was set without the store", durability)
		}
		faults.Clear()
		if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.Labels["role"] != "build" {
			t.Errorf("%s: what failed set labels %v", durability, v.Labels)
		}
		must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
		if v := must[api.Volume](t)(h2.Wake(ctx, "v", false, "")); v.Labels["role"] != "build" || v.IOPS != 500 {
			t.Errorf("%s: labels %v and %d IOPS are what the other host got", durability, v.Labels, v.IOPS)
		}
	}
}

// TestPortableSleepAndBackHome: the host that released a volume can claim it again.
func TestPortableSleepAndBackHome(t *testing.T) {
	_, h1, _, data := twoHosts(t)
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	must[api.Volume](t)(h1.Wake(ctx, "v", false, ""))
	copy(data, fill(t, h1, "v", 3, 0, 4096))
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	same(t, h1, "v", 0, data)
}

// TestReleasedAndWokenElsewhere: another host took a released volume. Its former host
// finds that out before a guest can write to it there. one-writer, no-silent-rollback.
func TestReleasedAndWokenElsewhere(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "asleep" || v.Owner != "" {
		t.Fatalf("%+v", v)
	}
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	_, err := h1.exports.Open("v")
	wantKind(t, err, errs.Fenced)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "fenced" {
		t.Fatalf("%+v", v)
	}
	_, err = h1.Flush(ctx, "v")
	wantKind(t, err, errs.Fenced)
	same(t, h2, "v", 0, data)
	if _, image, err := published(b.store, "v"); err != nil || !bytes.Equal(image[:len(data)], data) {
		t.Fatalf("a host that has let go changed the store: %v", err)
	}
}

// TestReleasedAndWrittenHere: a guest that connects on the host that released the volume
// makes that host the owner again. So another host cannot take the released state without
// what the guest has written since. no-silent-rollback.
func TestReleasedAndWrittenHere(t *testing.T) {
	_, h1, h2, data := twoHosts(t)
	must[api.Volume](t)(h1.Sleep(ctx, "v", true, false))
	must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"})) // leaves it without an owner
	same(t, h1, "f", 0, data)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "asleep" || v.Owner != "" {
		t.Fatalf("%+v", v)
	}
	e, err := h1.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	copy(data, fill(t, h1, "v", 4, 0, 4096))
	if err := e.Device.Flush(); err != nil {
		t.Fatal(err)
	}
	_, err = h2.Wake(ctx, "v", false, "")
	wantKind(t, err, errs.WouldLose)
	e.Closed()
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	same(t, h2, "v", 0, data)
}

// TestReleaseOfUnknownFate: a release whose reply was lost may take effect now or later.
// No guest writes to the volume before its host has claimed it again. no-silent-rollback.
func TestReleaseOfUnknownFate(t *testing.T) {
	b := newBed(t)
	faults := objstore.NewFaults(b.store, 1)
	b.store = faults
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data := fill(t, h1, "v", 1, 0, 300<<10)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.Late})
	_, err := h1.Sleep(ctx, "v", true, false)
	wantKind(t, err, errs.Unavailable)
	faults.Clear()
	faults.Inject(objstore.Fault{})
	mayNotWrite := func() {
		t.Helper()
		if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "asleep" {
			t.Fatalf("%+v", v)
		}
		_, err := h1.exports.Open("v")
		wantKind(t, err, errs.Unavailable)
	}
	mayNotWrite()
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h1 = b.host(h1.cfg.Data, "a") // it remembers
	mayNotWrite()
	faults.Clear()
	copy(data, fill(t, h1, "v", 4, 0, 4096))
	if err := faults.Held()[0].Release(); err == nil {
		t.Fatal("the release came true when the volume was in use again")
	}
	must[api.Volume](t)(h2.Wake(ctx, "v", false, "")) // it asks the owner
	same(t, h2, "v", 0, data)
}

// TestWokenUnderAnotherName: a volume that was taken over and renamed comes back to its
// first host, which has not noticed. What was not published there is in a rescue volume.
func TestWokenUnderAnotherName(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, random(1, 300<<10))
	must[api.Volume](t)(h2.Rename(ctx, "v", "w"))
	must[api.Volume](t)(h1.Wake(ctx, "w", false, ""))
	same(t, h1, "w", 0, random(1, 300<<10))
	same(t, h1, "v.rescue-1", 0, data)
	if vs := must[[]api.Volume](t)(h1.List(ctx, false)); len(vs) != 2 {
		t.Fatalf("%+v", vs)
	}
}

// TestDeadOwner: the error says what may be lost, and only --force loses it. The fenced
// host keeps its data, and its guests get errors.
func TestDeadOwner(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	old := random(1, 300<<10)
	e, err := h1.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	delete(b.peers, "a")
	_, err = h2.Wake(ctx, "v", false, "")
	wantKind(t, err, errs.WouldLose)
	if !strings.Contains(err.Error(), "1.1") || !strings.Contains(err.Error(), "--force") {
		t.Fatalf("it does not say what may be lost: %v", err)
	}
	_, err = h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"})
	wantKind(t, err, errs.WouldLose)
	must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Lazy: true}))
	same(t, h2, "f", 0, old)
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, old)

	_, err = h1.Flush(ctx, "v")
	wantKind(t, err, errs.Fenced)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "fenced" || v.Reason == "" {
		t.Fatalf("%+v", v)
	}
	if err := e.Device.Flush(); err == nil {
		t.Fatal("a fenced volume acknowledged a flush")
	}
	if err := e.Device.Zero(0, 4096, false); err == nil {
		t.Fatal("a fenced volume took a write")
	}
	if _, err := h1.exports.Open("v"); err == nil {
		t.Fatal("a fenced volume took a connection")
	}
	for _, verb := range []func() error{
		func() error { _, err := h1.Fork(ctx, api.ForkRequest{Source: "v", Name: "g"}); return err },
		func() error { _, err := h1.Snapshot(ctx, "v", "s", ""); return err },
		func() error { _, err := h1.Rename(ctx, "v", "g"); return err },
		func() error { _, err := h1.Sleep(ctx, "v", true, true); return err },
	} {
		wantKind(t, verb(), errs.Fenced)
	}
	// What it could not publish is in a volume of its own, which can be opened, forked,
	// and compared with the new owner's.
	same(t, h1, "v.rescue-1", 0, data)
	if d := must[api.Volume](t)(h1.Show(ctx, "v.rescue-1")); d.DirtyBytes != 8192 || d.State != "active" || d.Parent != "v" {
		t.Fatalf("%+v", d)
	}
	if d := must[api.Diff](t)(h1.Diff(ctx, "v.rescue-1", "v")); d.DifferentBytes == 0 || d.DifferentBytes > 256<<10 {
		t.Fatalf("%+v", d)
	}
	must[[]api.Fork](t)(h1.Fork(ctx, api.ForkRequest{Source: "v.rescue-1", Name: "r"}))
	same(t, h1, "r", 0, data)
	// It is still there after a restart.
	e.Closed()
	dir := h1.cfg.Data
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h1 = b.host(dir, "a")
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "fenced" {
		t.Fatalf("%+v", v)
	}
	same(t, h1, "v.rescue-1", 0, data)
	// Removing what is left here changes nothing in the store.
	if err := h1.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	same(t, h1, "v.rescue-1", 0, data)
	copy(old, fill(t, h2, "v", 5, 0, 4096))
	must[api.Flush](t)(h2.Flush(ctx, "v"))
	// It can be taken back from its present owner.
	must[api.Volume](t)(h1.Wake(ctx, "v", false, ""))
	same(t, h1, "v", 0, old)
}

// TestLateRelease: a request has no effect if its sender gave up, or if it is about an
// epoch that has passed.
func TestLateRelease(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	before, _, _ := published(b.store, "v")
	d, _ := h1.disks.Local("v", false)
	d.Op.Lock() // the request arrives while the volume is busy, for longer than its sender waits
	done := make(chan error)
	go func() {
		_, err := h1.Release(ctx, "v", api.ReleaseRequest{Host: h2.ID(), Epoch: 1, WithinMs: 1})
		done <- err
	}()
	if err := clock.Pause(ctx, 20e6); err != nil {
		t.Fatal(err)
	}
	d.Op.Unlock()
	wantKind(t, <-done, errs.Unavailable)
	_, err := h1.Release(ctx, "v", api.ReleaseRequest{Host: h2.ID(), Epoch: 7, WithinMs: 5000})
	wantKind(t, err, errs.Busy)
	_, err = h1.Release(ctx, "v", api.ReleaseRequest{Host: h2.ID(), Epoch: 7, WithinMs: 5000, FlushOnly: true})
	wantKind(t, err, errs.Busy)
	if after, _, err := published(b.store, "v"); err != nil || after.Generation != before.Generation {
		t.Fatalf("a late request had an effect: %s, %v", after.Generation, err)
	}
	// The volume moves away and comes back. A request for the first epoch still does
	// nothing.
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	must[api.Volume](t)(h1.Wake(ctx, "v", false, ""))
	_, err = h1.Release(ctx, "v", api.ReleaseRequest{Host: h2.ID(), Epoch: 1, WithinMs: 5000})
	wantKind(t, err, errs.Busy)
	same(t, h1, "v", 0, data)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
}

// TestExpectGeneration: no-silent-rollback.
func TestExpectGeneration(t *testing.T) {
	b, h1, h2, data := twoHosts(t)
	must[api.Volume](t)(h1.Sleep(ctx, "v", false, false))
	_, err := h1.Wake(ctx, "v", false, "1.2")
	wantKind(t, err, errs.WouldLose)
	_, err = h1.Wake(ctx, "v", true, "1.2")
	wantKind(t, err, errs.WouldLose)
	must[api.Volume](t)(h1.Wake(ctx, "v", false, "1.1"))
	_, err = h1.Wake(ctx, "v", false, "1")
	wantKind(t, err, errs.Invalid)
	delete(b.peers, "a")
	_, err = h2.Wake(ctx, "v", true, "1.10") // not 1.1
	wantKind(t, err, errs.WouldLose)
	if _, err := h2.disks.Local("v", false); err == nil {
		t.Fatal("a refused claim left a volume")
	}
	must[api.Flush](t)(h1.Flush(ctx, "v")) // the refused claim sealed nothing
	must[api.Volume](t)(h2.Wake(ctx, "v", true, "1.2"))
	same(t, h2, "v", 0, data)
}

// TestTwoClaim: of hosts that claim at the same time, exactly one gets the volume, and
// only that one can commit. one-writer.
func TestTwoClaim(t *testing.T) {
	for round := range 10 {
		b := newBed(t)
		h0 := b.host(t.TempDir(), "x")
		must[api.Volume](t)(h0.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
		data := fill(t, h0, "v", 1, 0, 8192)
		if round%2 == 0 {
			must[api.Volume](t)(h0.Sleep(ctx, "v", true, false))
		} else {
			must[api.Flush](t)(h0.Flush(ctx, "v"))
		}
		delete(b.peers, "x")
		hosts := []*Host{b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b"), b.host(t.TempDir(), "c")}
		b.peers = nil // no host responds: the log alone decides
		outcomes := make([]error, len(hosts))
		var wg sync.WaitGroup
		for i, h := range hosts {
			wg.Add(1)
			go func() {
				defer wg.Done()
				_, outcomes[i] = h.Wake(ctx, "v", round%2 == 1, "")
			}()
		}
		wg.Wait()
		// With force they may have taken it from each other in turn. Only the last one
		// can commit.
		writers := 0
		for i, h := range hosts {
			if outcomes[i] != nil {
				if _, err := h.disks.Local("v", false); err == nil {
					t.Fatalf("round %d: a claim failed (%v) and left a volume", round, outcomes[i])
				}
				continue
			}
			if must[api.Volume](t)(h.Show(ctx, "v")).State == "fenced" {
				continue // it knows of the takeover
			}
			same(t, h, "v", 0, data)
			fill(t, h, "v", uint64(i), 8192, 4096)
			if _, err := h.Flush(ctx, "v"); err == nil {
				writers++
			} else if errs.KindOf(err) != errs.Fenced {
				t.Fatal(err)
			}
		}
		if writers != 1 {
			t.Fatalf("round %d: %d hosts can commit: %v", round, writers, outcomes)
		}
		if round%2 == 1 { // it does not know of the takeover, and did not release the volume
			fill(t, h0, "v", 9, 0, 4096)
		}
		_, err := h0.Flush(ctx, "v")
		wantKind(t, err, errs.Fenced)
		for _, h := range append(hosts, h0) {
			_ = h.Close(ctx)
		}
	}
}

// TestWriteUnderWayIsReleased: a write that began before its guest was disconnected is in
// the released state, or it is not acknowledged. no-silent-rollback.
func TestWriteUnderWayIsReleased(t *testing.T) {
	b := newBed(t)
	var slow atomic.Bool
	open, began := make(chan struct{}), make(chan struct{}, 1)
	mem := vfs.NewMem()
	if err := mem.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	h1, err := Open(ctx, Config{
		Data: "data", Store: b.store, Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 64 << 20}, Keys: b.keys,
		FS: crashFS{mem, func(where string) {
			if strings.HasPrefix(where, "before write data/wal/") && slow.CompareAndSwap(true, false) {
				began <- struct{}{}
				<-open
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h1.Close(ctx) })
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data := fill(t, h1, "v", 1, 0, 300<<10)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	dev := guest(t, h1, "v")
	slow.Store(true)
	late := random(2, 4096)
	written, slept := make(chan error, 1), make(chan error, 1)
	go func() { written <- guestWrite(dev, 8192, late) }()
	<-began
	go func() {
		_, err := h1.Sleep(ctx, "v", true, true)
		slept <- err
	}()
	time.Sleep(100 * time.Millisecond) // the host proceeds as far as it can without the write
	close(open)
	if err := <-written; err == nil {
		copy(data[8192:], late)
	}
	if err := <-slept; err != nil {
		t.Fatal(err)
	}
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	same(t, h2, "v", 0, data)
}
