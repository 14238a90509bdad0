package host

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/objstoretest"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// busyOwner is a host whose guest writes to and flushes a sync volume as fast as it can,
// until that fails. Other hosts cannot ask it.
func busyOwner(t *testing.T, b *bed) (h *Host, flushes *atomic.Int64, ended chan error) {
	store := b.store
	b.store = objstoretest.Latency(store, objstoretest.LatencyOptions{Fixed: time.Millisecond})
	h = b.host(t.TempDir(), "a")
	b.store = store
	delete(b.peers, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: "sync"}))
	e, err := h.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	flushes, ended = &atomic.Int64{}, make(chan error, 1)
	go func() {
		defer e.Closed()
		page := make([]byte, nbd.Headroom+4096)
		for n := byte(1); ; n++ {
			page[nbd.Headroom] = n
			err := e.Device.WriteFrames([]uint64{uint64(n%8) * 4096}, [][]byte{page})
			if err == nil {
				err = e.Device.Flush()
			}
			if err != nil {
				ended <- err
				return
			}
			flushes.Add(1)
		}
	}()
	return h, flushes, ended
}

// TestForceAgainstABusyOwner: a forced claim wins within seconds, although the owner
// commits many times faster than the claimer's requests travel. The owner is fenced, and
// has a rescue volume if anything was unpublished.
func TestForceAgainstABusyOwner(t *testing.T) {
	b := newBed(t)
	a, flushes, ended := busyOwner(t, b)
	b.store = objstoretest.Latency(b.store, objstoretest.LatencyOptions{Fixed: 20 * time.Millisecond})
	c := b.host(t.TempDir(), "c")
	for flushes.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	v := must[api.Volume](t)(c.Wake(ctx, "v", true, ""))
	t.Logf("after %v, at %s, and %d flushes", time.Since(began), v.Generation, flushes.Load())
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := <-ended; errs.KindOf(err) != errs.Fenced {
		t.Errorf("the guest's flush fails with %v", err)
	}
	if v := must[api.Volume](t)(a.Show(ctx, "v")); v.State != "fenced" {
		t.Errorf("the former owner has it %s", v.State)
	}
	same(t, c, "v", 32<<10, make([]byte, 4096)) // it can be read
}

// TestOwnerGoesOnAfterADeadClaim: an owner whose volume was sealed by a host that died
// pauses once, says why, and loses nothing.
func TestOwnerGoesOnAfterADeadClaim(t *testing.T) {
	b := newBed(t)
	var skew atomic.Int64
	began := time.Now()
	b.uptime = func() time.Duration { return time.Since(began) + time.Duration(skew.Load()) }
	a, flushes, ended := busyOwner(t, b)
	for flushes.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	faults := objstore.NewFaults(b.store, 1)
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Match: func(key string) bool { return strings.HasSuffix(key, "/0000000001") }})
	b.store = faults
	dying := b.host(t.TempDir(), "c")
	delete(b.peers, "c")
	if _, err := dying.Wake(ctx, "v", true, ""); err == nil {
		t.Fatal("the claimer was to die")
	}
	reason := func() string { return must[api.Volume](t)(a.Show(ctx, "v")).Reason }
	for !strings.Contains(reason(), commitlog.ErrYielding.Error()) {
		time.Sleep(time.Millisecond)
	}
	at := flushes.Load()
	e, err := a.exports.Open("v")
	if err == nil {
		err = e.Device.ReadAt(make([]byte, 4096), 0)
		e.Closed()
	}
	if err != nil {
		t.Errorf("reads do not go on: %v", err)
	}
	time.Sleep(100 * time.Millisecond)
	if n := flushes.Load(); n != at {
		t.Errorf("%d flushes were acknowledged while it yields", n-at)
	}
	skew.Store(int64(time.Minute))
	for flushes.Load() < at+20 {
		select {
		case err := <-ended:
			t.Fatalf("the guest's flush fails with %v", err)
		default:
			time.Sleep(time.Millisecond)
		}
	}
	if v := must[api.Volume](t)(a.Show(ctx, "v")); v.State != "active" || v.Reason != "" || v.Epoch != 2 {
		t.Errorf("it is %s (%s) in epoch %d", v.State, v.Reason, v.Epoch)
	}
}

// TestFlushWaitsWhileYielding: the flush verb of a local volume waits for the host that
// sealed it, and is fenced when that host takes it over.
func TestFlushWaitsWhileYielding(t *testing.T) {
	b, h1, _, _ := twoHosts(t)
	tip, err := commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v"})
	if err != nil {
		t.Fatal(err)
	}
	seal := follow(tip, tip.Generation.Next(), commitlog.Seal)
	seal.State.SealedBy, seal.State.Cause = "other", commitlog.CauseSeal
	plant(t, b, seal)
	got := make(chan error, 1)
	go func() { _, err := h1.Flush(ctx, "v"); got <- err }()
	select {
	case err := <-got:
		t.Fatalf("it does not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	first := follow(seal, seal.Generation.NextEpoch(), commitlog.First)
	first.State.Owner, first.State.SealedBy, first.State.Cause = commitlog.Host{ID: "other"}, "", commitlog.CauseTakeover
	plant(t, b, first)
	wantKind(t, <-got, errs.Fenced)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "fenced" || !strings.Contains(v.Reason, "rescue") {
		t.Errorf("%+v", v)
	}
}

// TestFencedByACopy: a copy of a data directory, including host.json, fences the
// original. The message says so.
func TestFencedByACopy(t *testing.T) {
	b, h1, _, _ := twoHosts(t)
	tip, err := commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v"})
	if err != nil {
		t.Fatal(err)
	}
	seal := follow(tip, tip.Generation.Next(), commitlog.Seal)
	seal.State.SealedBy = h1.disks.HostID
	plant(t, b, seal)
	plant(t, b, follow(tip, seal.Generation.NextEpoch(), commitlog.First))
	_, err = h1.Flush(ctx, "v")
	wantKind(t, err, errs.Fenced)
	if !strings.Contains(err.Error(), "another daemon with this host's identity") {
		t.Error(err)
	}
}

// follow is an object that another host could store in the log of an earlier one.
func follow(o *commitlog.Object, g commitlog.Generation, kind commitlog.Kind) *commitlog.Object {
	next := *o // it keeps the log
	next.Generation, next.Kind, next.Mark, next.State = g, kind, commitlog.Mark{byte(kind)}, o.Carry()
	next.Released, next.Ahead, next.Data = false, 0, nil
	return &next
}

func plant(t *testing.T, b *bed, o *commitlog.Object) {
	t.Helper()
	k, err := tenantstest.New(b.store, tenantstest.Shared()).Keys(ctx, "default")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := o.EncodeFor(k.Domain)
	if err == nil {
		err = b.store.PutIfAbsent(ctx, o.Log().Key(o.Generation), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestReleasedThenSealed: this host released a volume, and another host sealed it but did
// not take it. After the time to yield, the volume belongs to this host again, however
// often a verb was tried meanwhile.
func TestReleasedThenSealed(t *testing.T) {
	b := newBed(t)
	var skew atomic.Int64
	began := time.Now()
	b.uptime = func() time.Duration { return time.Since(began) + time.Duration(skew.Load()) }
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	data := fill(t, h, "v", 1, 0, 4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	tip, err := commitlog.Newest(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v"})
	if err != nil {
		t.Fatal(err)
	}
	seal := follow(tip, tip.Generation.Next(), commitlog.Seal)
	seal.State.SealedBy = "other"
	plant(t, b, seal) // just before the release
	if _, err := h.Sleep(ctx, "v", true, false); !errors.Is(err, commitlog.ErrYielding) {
		t.Fatalf("a sealed volume is released: %v", err)
	}
	d := h.disks.Find(disk.Name{Tenant: "default", Volume: "v"}) // the host crashes before it learns the outcome
	d.SetOwner(nil)
	if err := d.Update(func(s *volume.State) { s.Released = true }); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := h.Wake(ctx, "v", false, ""); !errors.Is(err, commitlog.ErrYielding) {
			t.Fatalf("it does not yield: %v", err)
		}
		skew.Add(int64(10 * time.Second))
	}
	must[api.Volume](t)(h.Wake(ctx, "v", false, ""))
	same(t, h, "v", 0, data)
}
