package host

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

// storedBytes is what the store holds.
func storedBytes(t *testing.T, store objstore.Store, prefix string) (n int64) {
	t.Helper()
	for _, in := range infosOf(t, store, prefix) {
		n += in.Size
	}
	return n
}

// mostlyDead makes a volume whose packs have two live blocks in ten, and returns what it
// holds.
func mostlyDead(t *testing.T, b *bed, h *Host, name string) []byte {
	t.Helper()
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: 16 * mib}))
	want := fill(t, h, name, 1, 0, 10*mib)
	must[api.Flush](t)(h.Flush(ctx, name))
	for at := uint64(0); at < 80; at += 10 {
		copy(want[at<<17:], fill(t, h, name, 100+at, at<<17, 8<<17))
	}
	for range 3 { // in an epoch of its own in the end
		copy(want, fill(t, h, name, 99, 0, 1<<17))
		must[api.Flush](t)(h.Flush(ctx, name))
	}
	if err := h.publisher.Session.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestCompaction: packs with much dead content give way to packs without it, and all that
// refers to them reads on, on this host and on others.
func TestCompaction(t *testing.T) {
	b := newBed(t)
	b.retention = time.Nanosecond
	h := b.host(t.TempDir(), "a")
	want := mostlyDead(t, b, h, "v")
	runRound(t, b.store, 0) // the history
	before := storedBytes(t, b.store, "packs/")
	r := runRound(t, b.store, 0)
	after := storedBytes(t, b.store, "packs/")
	if r.CompactedPacks == 0 || r.CopiedBytes == 0 || before-after != r.DeletedBytes-r.CopiedBytes {
		t.Fatalf("%d bytes of packs became %d: %+v", before, after, r)
	}
	if live := int64(10 * mib); after > live*11/10 {
		t.Errorf("the store has %d bytes of packs, %d are live", after, live)
	}
	if again := runRound(t, b.store, 0); again.CompactedPacks != 0 || again.FlaggedObjects != 0 {
		t.Errorf("a store at rest: %+v", again)
	}
	if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:len(want)], want) {
		t.Fatalf("what is live is not there: %v", err)
	}
	far := b.host(t.TempDir(), "b")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	same(t, far, "kid", 0, want)
	if v := must[api.Verify](t)(far.Verify(ctx, "kid", true)); len(v.Damaged) > 0 {
		t.Errorf("%v", v.Damaged)
	}
	// What moved once moves again, and goes in the end.
	for at := uint64(0); at < 80; at += 20 {
		copy(want[at<<17:], fill(t, h, "v", 300+at, at<<17, 20<<17))
		must[api.Flush](t)(h.Flush(ctx, "v"))
		if err := h.publisher.Session.Rotate(ctx); err != nil {
			t.Fatal(err)
		}
		if at == 20 {
			if err := far.Remove(ctx, "kid", false); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			runRound(t, b.store, 0)
		}
		if _, got, err := published(b.store, "v"); err != nil || !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("what is live is not there: %v", err)
		}
	}
	// No chain grows: everything leads to a pack that is there.
	err := forward.Each(ctx, b.store, func(from, to pack.ID, _ objstore.Info) {
		if _, err := b.store.Head(ctx, to.Key()); err != nil {
			t.Errorf("the forward of pack %s leads to pack %s: %v", from, to, err)
		}
	})
	if n := countKeys(t, b.store, "forwards/"); err != nil || n == 0 {
		t.Fatalf("%d forwards, %v", n, err)
	}
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*Host{h, far} {
		if err := x.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		runRound(t, b.store, 0)
	}
	if n := countKeys(t, b.store, "packs/") + countKeys(t, b.store, "forwards/"); n > 0 {
		t.Errorf("%d packs and forwards are left", n)
	}
}

// TestCompactionCrashes: a collector that dies at any of its writes leaves a round that the
// next one goes on with, and everything readable.
func TestCompactionCrashes(t *testing.T) {
	for n := range 200 {
		b := newBed(t)
		b.retention = time.Nanosecond
		h := b.host(t.TempDir(), "a")
		want := mostlyDead(t, b, h, "v")
		runRound(t, b.store, 0)
		f := objstore.NewFaults(b.store, 1)
		f.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPut, objstore.OpPutIfAbsent, objstore.OpDelete, objstore.OpDeleteBatch}, Skip: n, Effect: objstore.FailBefore})
		_, err := gc.Run(ctx, gc.Options{Store: f, Tenants: tenantstest.New(f, tenantstest.Shared()), By: "dies", Retention: time.Nanosecond, MinDead: 1})
		if err != nil && errs.KindOf(err) != errs.Unavailable {
			t.Fatalf("write %d: %v", n, err)
		}
		if _, got, perr := published(b.store, "v"); perr != nil || !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("write %d: what is live is not there: %v", n, perr)
		}
		for range 3 {
			runRound(t, b.store, 0)
		}
		if _, got, perr := published(b.store, "v"); perr != nil || !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("write %d, and three rounds later: what is live is not there: %v", n, perr)
		}
		if after, live := storedBytes(t, b.store, "packs/"), int64(10*mib); after > live*11/10 {
			t.Errorf("write %d: the store has %d bytes of packs, %d are live", n, after, live)
		}
		if err := h.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if n < 5 {
				t.Errorf("only %d writes", n)
			}
			return
		}
	}
	t.Error("no run without a fault")
}

// TestLostPackAlarm: a guest that reads what is gone gets an error, and everybody is told.
func TestLostPackAlarm(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 4 * mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	far := b.host(t.TempDir(), "b")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	if err := vol(t, far, "kid").ReadAt(make([]byte, 1), 3*mib); err != nil { // its pages are here
		t.Fatal(err)
	}
	if err := b.store.DeleteBatch(ctx, keysOf(t, b.store, "packs/")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := vol(t, far, "kid").ReadAt(make([]byte, 4096), 0); err == nil {
			t.Fatal("a block that is gone was read")
		}
	}
	alarms := 0
	for _, e := range must[[]api.Event](t)(far.Events(ctx, 0, 0)) {
		if strings.Contains(e.Message, "ALARM") {
			alarms++
		}
	}
	if s := must[api.Stats](t)(far.Stats(ctx, "")); s.Cache.LostBlocks != 3 || alarms != 1 {
		t.Errorf("%d blocks were missed, %d alarms", s.Cache.LostBlocks, alarms)
	}
}
