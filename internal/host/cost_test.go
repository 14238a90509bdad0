package host

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/objstoretest"
)

var longAgo = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// longHistory puts a volume with this many commits, one per second, into the store, as an
// owner on another host would.
func longHistory(t *testing.T, store objstore.Store, name string, commits int) {
	t.Helper()
	now := longAgo
	o, err := commitlog.New(commitlog.Options{
		Store: store, Volume: commitlog.Volume{Tenant: "default", Name: name}, Host: commitlog.Host{ID: "away"}, Rand: rand.NewChaCha8([32]byte{}),
		Now: func() time.Time { return now }, Uptime: func() time.Duration { return 0 }, Pause: clock.Pause,
	})
	if err != nil {
		t.Fatal(err)
	}
	state := commitlog.State{
		Identity: commitlog.Identity{ID: commitlog.VolumeID{byte(len(name)), name[0], name[len(name)-1], name[len(name)/2]}, Cause: commitlog.CauseFlush},
		Size:     mib, BlockSize: 128 << 10, Durability: "local", CreatedAt: longAgo, Root: blockmap.Root{},
	}
	if _, err := o.OpenFirst(ctx, state); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < commits; n++ {
		now = longAgo.Add(time.Duration(n) * time.Second)
		state.Seq = uint64(n)
		if _, err := o.Commit(ctx, state); err != nil {
			t.Fatal(err)
		}
	}
}

// costing checks the number of requests that a verb makes.
func (b *bed) costing(t *testing.T, what string, most uint64, do func()) {
	t.Helper()
	before := b.count.Counts()
	began := time.Now()
	do()
	n := b.count.Counts().Sub(before)
	t.Logf("%s: %d requests in %v (%+v)", what, n.Requests(), time.Since(began).Round(time.Millisecond), n)
	if n.Requests() > most {
		t.Errorf("%s takes %d requests, at most %d may: %+v", what, n.Requests(), most, n)
	}
}

// TestCostOfALongHistory: the cost of a verb depends on what it is asked for, not on the
// length of the history. The bounds are those of docs/performance.md.
func TestCostOfALongHistory(t *testing.T) {
	b := newBed(t)
	const commits = 20_000
	longHistory(t, b.logs(), "v", commits)
	h := b.host(t.TempDir(), "b")
	asks := uint64(1)
	if len(b.keys) > 0 {
		asks = 3 // and for its keyring
	}
	b.costing(t, "to find out whether the tenant is sealed, once a process", asks, func() {
		if err := h.disks.Tenants.Ready(ctx, "default"); err != nil {
			t.Fatal(err)
		}
	})
	generation := func(list []api.Commit, i int) string { return list[i].Generation }
	var page []api.Commit
	for _, n := range []uint64{1, 20, 500} {
		b.costing(t, fmt.Sprintf("log -n %d", n), 2+n, func() { page = must[[]api.Commit](t)(h.Log(ctx, "v", "", n)) })
		if uint64(len(page)) != n {
			t.Errorf("%d commits, want %d", len(page), n)
		}
	}
	b.costing(t, "the next page", 100, func() { page = must[[]api.Commit](t)(h.Log(ctx, "v", generation(page, 499), 100)) })
	if page[0].Time.Sub(page[99].Time) > 100*time.Second || !page[0].Time.After(page[99].Time) {
		t.Errorf("the page is from %s to %s", page[0].Time, page[99].Time)
	}
	b.costing(t, "show", 3, func() { must[api.Volume](t)(h.Show(ctx, "v")) })
	fork := func(name, at string) api.Fork {
		fs, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: name, At: at, Lazy: true})
		return must[[]api.Fork](t)(fs, err)[0]
	}
	b.costing(t, "fork", 6, func() { fork("f1", "") })
	further := uint64(0)
	if len(b.keys) > 0 {
		further = 1 // rounds of two domains may have flagged the commit
	}
	b.costing(t, "fork --at GENERATION", 6+further, func() { fork("f2", "3.500") })
	for i, second := range []int{0, 1, 898, 899, 900, 12_345, commits - 2, commits - 1} {
		at := longAgo.Add(time.Duration(second)*time.Second + time.Second/2)
		var f api.Fork
		b.costing(t, fmt.Sprintf("fork --at the time of commit %d", second), 32, func() { f = fork(fmt.Sprint("t", i), at.Format(time.RFC3339Nano)) })
		g, _ := commitlog.ParseGeneration(f.Generation)
		o, err := commitlog.Load(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v"}, g)
		if err != nil || o.State.Seq != uint64(second) {
			t.Errorf("commit %d is not %s: %v", second, g, err)
		}
	}
	for at, kind := range map[string]errs.Kind{
		time.Now().Add(time.Hour).Format(time.RFC3339): errs.Invalid,
		longAgo.Add(-time.Second).Format(time.RFC3339): errs.NotFound,
	} {
		_, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: "no", At: at, Lazy: true})
		wantKind(t, err, kind)
	}
	b.costing(t, "wake --force", 8, func() { must[api.Volume](t)(h.Wake(ctx, "v", true, "")) })
	b.costing(t, "snapshots", 0, func() { must[[]api.Snapshot](t)(h.Snapshots(ctx, "v")) })
	b.costing(t, "df", 0, func() { must[api.Usage](t)(h.Usage(ctx, "v")) })
}

// TestCostOfManyVolumes: ls --all costs two requests per volume, which run in parallel. A
// volume that cannot be read does not affect the others.
func TestCostOfManyVolumes(t *testing.T) {
	b := newBed(t)
	const volumes = 300
	for i := range volumes {
		longHistory(t, b.logs(), fmt.Sprintf("v%03d", i), 3)
	}
	longHistory(t, b.logs(), "w", 1500)
	bad := must[string](t)(commitlog.KeyOf(ctx, b.logs(), commitlog.Volume{Tenant: "default", Name: "v007"}, commitlog.Generation{Epoch: 1, Number: 3}))
	if err := b.store.Put(ctx, bad, []byte("rot")); err != nil {
		t.Fatal(err)
	}
	slow := b.store
	b.store = objstoretest.Latency(slow, objstoretest.LatencyOptions{Fixed: 20 * time.Millisecond})
	h := b.host(t.TempDir(), "b")
	began := time.Now()
	var list []api.Volume
	b.costing(t, "ls --all", 2*(volumes+1)+12, func() { list = must[[]api.Volume](t)(h.List(ctx, true)) })
	if took := time.Since(began); took > 20*time.Second { // one after the other they would take at least 12 s, even on an idle machine
		t.Errorf("it took %v", took)
	}
	failed := 0
	for _, v := range list {
		if v.State == "failed" {
			failed++
			if v.Name != "v007" || !strings.Contains(v.Reason, "not a commit") {
				t.Errorf("%+v", v)
			}
		}
	}
	if len(list) != volumes+1 || failed != 1 {
		t.Errorf("%d volumes, %d of them failed", len(list), failed)
	}
	faults := objstore.NewFaults(slow, 1)
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpGet}})
	b.store = faults
	_, err := b.host(t.TempDir(), "c").List(ctx, true)
	wantKind(t, err, errs.Unavailable) // a store from which nothing can be read
}
