package host

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// total adds up the causes of a host.
func total(t *testing.T, h *Host, name string) (sum objstore.Counts) {
	t.Helper()
	for _, c := range must[api.Cost](t)(h.Cost(ctx, name)).Causes {
		sum = sum.Add(objstore.Counts{Put: c.Put, Get: c.Get, List: c.List, Head: c.Head, Delete: c.Delete, BytesUp: c.BytesUp, BytesDown: c.BytesDown})
	}
	return sum
}

func wantCauses(t *testing.T, h *Host, name string, want ...string) {
	t.Helper()
	c := must[api.Cost](t)(h.Cost(ctx, name)).Causes
	for _, w := range want {
		if _, ok := c[w]; !ok {
			t.Errorf("cost %q has no requests under %s: %+v", name, w, c)
		}
	}
	if n, ok := c["other"]; ok {
		t.Errorf("cost %q has requests that no cause is named for: %+v", name, n)
	}
}

// TestCauses: over all that a host does, the causes add up to all its requests, and each
// request has a cause.
func TestCauses(t *testing.T) {
	mem := objstore.NewMem(objstore.Clock{})
	peers := map[string]*Host{}
	var counts [2]objstore.Counter
	open := func(i int) *Host {
		b := &bed{peers: peers}
		addr := fmt.Sprintf("tcp:h%d:1", i)
		h := must[*Host](t)(Open(ctx, Config{
			Data: "data", FS: vfs.NewMem(), Store: objstore.Count(mem, &counts[i]), Counter: &counts[i], Advertise: addr, Dial: b.dial,
			Cache: Share{Bytes: 256 << 20}, WALLimit: Share{Bytes: 256 << 20}, PackBlocks: 2, FoldAfter: 4,
		}))
		peers[addr] = h
		t.Cleanup(func() { _ = h.Close(ctx) })
		return h
	}
	h, other := open(0), open(1)

	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 4 * mib}))
	fill(t, h, "v", 1, 0, 2*mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "c", Size: mib, Durability: "sync"}))
	for i := range uint64(20) {
		fill(t, h, "c", i, 4096*i, 4096)
		must[api.Flush](t)(must[*disk.Disk](t)(h.disks.Local("c", false)).Shipper().Barrier(ctx))
	}
	must[api.Import](t)(h.Import(ctx, "img", 0, &bytesSource{b: random(9, mib)}))
	wantCauses(t, h, "img", "import")
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	fill(t, h, "v", 2, 0, 64*kib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Volume](t)(h.Rollback(ctx, "v", "s", false))
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Durability: "continuous"}))
	fill(t, h, "f", 3, mib, 64*kib)
	wantCauses(t, h, "v", "flush")
	wantCauses(t, h, "c", "manage", "ship")
	wantCauses(t, h, "f", "fork")

	// The other host reads, claims, and forks what this one published.
	must[[]api.Fork](t)(other.Fork(ctx, api.ForkRequest{Source: "v", Name: "g", Lazy: true}))
	for i := range uint64(16) {
		if err := vol(t, other, "g").ReadAt(make([]byte, 4096), 128*kib*i); err != nil {
			t.Fatal(err)
		}
	}
	vol(t, other, "g").Prefetch(0, 2*mib)
	must[api.Verify](t)(other.Verify(ctx, "g", true))
	must[api.Hydrate](t)(other.Hydrate(ctx, "g", 0))
	wantCauses(t, other, "g", "fork", "read", "verify")
	must[api.Volume](t)(h.Sleep(ctx, "v", true, false))
	must[api.Volume](t)(other.Wake(ctx, "v", false, ""))
	must[api.Volume](t)(other.Wake(ctx, "c", false, "")) // asks its owner
	wantCauses(t, h, "", "flush", "manage", "ship", "fork", "wake")
	wantCauses(t, other, "", "fork", "wake", "read", "verify")
	wantCauses(t, other, "v", "wake")

	x := must[api.Exported](t)(other.Export(ctx, "img"))
	if err := x.ReadAt(ctx, make([]byte, mib), 0); err != nil {
		t.Fatal(err)
	}
	x.Close()
	must[[]api.Volume](t)(h.List(ctx, true))
	must[api.Volume](t)(h.Show(ctx, "g"))
	must[[]api.Commit](t)(h.Log(ctx, "f", "", 0))
	must[api.Usage](t)(other.Usage(ctx, ""))
	must[[]api.StoreHost](t)(h.Hosts(ctx))
	must[api.Volume](t)(h.Rename(ctx, "f", "f2"))
	if err := h.Remove(ctx, "f2", false); err != nil {
		t.Fatal(err)
	}
	must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s"}))
	must[[]api.Planned](t)(h.CollectPlan(ctx))
	wantCauses(t, h, "", "list", "gc")
	wantCauses(t, other, "", "export")
	for i, h := range []*Host{h, other} {
		if err := h.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if got, want := total(t, h, ""), counts[i].Counts(); got != want {
			t.Errorf("host %d: the causes add up to %+v, the store was asked %+v", i, got, want)
		}
		wantCauses(t, h, "")
	}
}

// TestCostOfVolumes: what is done for one volume counts for it and for no other, under its
// new name too, and ends with it.
func TestCostOfVolumes(t *testing.T) {
	var n objstore.Counter
	h := small(t, objstore.Count(objstore.NewMem(objstore.Clock{}), &n), vfs.NewMem())
	names := []string{"a", "b", "c"}
	for _, v := range names {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: v, Size: mib}))
	}
	r := rand.New(rand.NewPCG(1, 1))
	want := map[string]objstore.Counts{}
	for range 30 {
		v := names[r.IntN(3)]
		before := n.Counts()
		fill(t, h, v, r.Uint64(), 4096*r.Uint64N(100), 4096)
		must[api.Flush](t)(h.Flush(ctx, v))
		want[v] = want[v].Add(n.Counts().Sub(before))
	}
	for _, v := range names {
		if got := total(t, h, v); got != want[v] || got.Put == 0 {
			t.Errorf("cost %s: %+v, it made %+v", v, got, want[v])
		}
	}
	for _, v := range []string{"x", "a@s"} {
		_, err := h.Cost(ctx, v)
		if k := errs.KindOf(err); err == nil || k != errs.NotFound && k != errs.Invalid {
			t.Errorf("cost %s: %v", v, err)
		}
	}
	must[api.Volume](t)(h.Rename(ctx, "c", "d"))
	if got := total(t, h, "d"); got.Put <= want["c"].Put {
		t.Errorf("after its renaming a volume has %+v, it had %+v", got, want["c"])
	}
	if err := h.Remove(ctx, "a", false); err != nil {
		t.Fatal(err)
	}
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "a", Size: mib}))
	if got := total(t, h, "a"); got != (objstore.Counts{}) {
		t.Errorf("a new volume begins with %+v", got)
	}
	h.cfg.Prices = cost.Prices{Put: 5}
	if c := must[api.Cost](t)(h.Cost(ctx, "b")); c.Money == nil || *c.Money <= 0 || c.Since.IsZero() {
		t.Errorf("with prices, cost says %+v", c)
	}
}
