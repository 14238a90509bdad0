package host

import (
	"context"
	"slices"
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
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
)

// deadly is a store at whose n-th write the host's machine stops, either before or after
// the write takes effect.
type deadly struct {
	objstore.Store
	after bool
	disk  *vfs.MemFS

	mu   sync.Mutex
	n    int
	left *vfs.MemFS // what is on the disk then
}

func (s *deadly) write(do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n < 0 {
		return errs.New(errs.Unavailable, "the machine has stopped")
	}
	if s.n > 0 {
		return do()
	}
	if s.after {
		_ = do()
	}
	s.left = s.disk.CrashClone(vfs.CrashCloneCfg{})
	return errs.New(errs.Unavailable, "the machine stops")
}

func (s *deadly) Put(ctx context.Context, key string, data []byte) error {
	return s.write(func() error { return s.Store.Put(ctx, key, data) })
}

func (s *deadly) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return s.write(func() error { return s.Store.PutIfAbsent(ctx, key, data) })
}

func (s *deadly) Delete(ctx context.Context, key string) error {
	return s.write(func() error { return s.Store.Delete(ctx, key) })
}

// operatorsDisk has the data directory for small. The operator created it.
func operatorsDisk(t *testing.T) *vfs.MemFS {
	t.Helper()
	disk := vfs.NewCrashableMem()
	if err := disk.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/", ""} {
		if f, err := disk.OpenDir(d); err == nil {
			_ = f.Sync()
		}
	}
	return disk
}

// TestMachineStopsWhileVolumesAreMade: a machine stops anywhere in the creation of
// volumes that the store learns of. In the end all of them exist or none, here and in the
// store.
func TestMachineStopsWhileVolumesAreMade(t *testing.T) {
	fork := func(r api.ForkRequest) func(*Host) error {
		return func(h *Host) error { _, err := h.Fork(ctx, r); return err }
	}
	for name, c := range map[string]struct {
		make func(*Host) error
		made []string
	}{
		"forks of what another host holds": {fork(api.ForkRequest{Source: "v", Name: "f", Count: 3}), []string{"f-1", "f-2", "f-3"}},
		"sync forks of that":               {fork(api.ForkRequest{Source: "v", Name: "f", Count: 2, Durability: volume.Sync}), []string{"f-1", "f-2"}},
		"sync forks of a local volume":     {fork(api.ForkRequest{Source: "mine", Name: "f", Count: 2, Durability: volume.Sync}), []string{"f-1", "f-2"}},
		"one fork":                         {fork(api.ForkRequest{Source: "v", Name: "f"}), []string{"f"}},
		"a sync volume": {func(h *Host) error {
			_, err := h.Create(ctx, api.CreateRequest{Name: "f", Size: mib, Durability: volume.Sync})
			return err
		}, []string{"f"}},
		"a removed volume":       {func(h *Host) error { _, err := h.Restore(ctx, "gone", ""); return err }, []string{"gone"}},
		"one under another name": {func(h *Host) error { _, err := h.Restore(ctx, "gone", "f"); return err }, []string{"f"}},
		"an import":              {func(h *Host) error { _, err := h.Import(ctx, "f", 0, &bytesSource{b: random(5, mib)}); return err }, []string{"f"}},
	} {
		t.Run(name, func(t *testing.T) {
			for at, reached := 1, true; reached; at++ {
				for _, after := range []bool{false, true} {
					reached = stopWhile(t, at, after, c.make, c.made)
				}
			}
		})
	}
}

// stopWhile stops the machine at its at-th write to the store. It reports whether there
// was one.
func stopWhile(t *testing.T, at int, after bool, do func(*Host) error, made []string) bool {
	b := newBed(t)
	other := b.host(t.TempDir(), "a")
	must[api.Volume](t)(other.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, other, "v", 1, 0, 8192)
	must[api.Volume](t)(other.Sleep(ctx, "v", true, false))
	must[api.Volume](t)(other.Create(ctx, api.CreateRequest{Name: "gone", Size: mib, Durability: volume.Sync}))
	must[api.Snapshot](t)(other.Snapshot(ctx, "gone", "s", ""))
	fill(t, other, "gone", 1, 0, 8192)
	must[api.Flush](t)(other.Barrier(ctx, "gone", 1))
	if err := other.Remove(ctx, "gone", false); err != nil {
		t.Fatal(err)
	}
	disk := operatorsDisk(t)
	s := &deadly{Store: b.store, after: after, disk: disk, n: 1 << 30}
	h := small(t, s, disk)
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "mine", Size: mib}))
	must[api.Flush](t)(h.Flush(ctx, "mine"))
	s.mu.Lock()
	s.n = at
	s.mu.Unlock()
	err := do(h)
	s.mu.Lock()
	left := s.left
	s.mu.Unlock()
	told := left == nil
	if told {
		if err != nil {
			t.Fatal(err)
		}
		left = disk.CrashClone(vfs.CrashCloneCfg{})
	}
	again := small(t, b.store, left)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		again.disks.Mu.Lock()
		n := len(again.disks.Orphans)
		again.disks.Mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("write %d, after %v: %d volumes were left in the store", at, after, n)
		}
	}
	none, all := []string{"mine", "v"}, append(slices.Clone(made), "mine", "v")
	got := names(t, other, true)
	if !slices.Equal(got, none) && !slices.Equal(got, all) || told && !slices.Equal(got, all) {
		t.Fatalf("write %d, after %v: %v in the store (%v)", at, after, got, err)
	}
	wantNames(t, again, true, got...)
	for _, name := range made {
		if slices.Contains(got, name) {
			fill(t, again, name, 1, 0, 4096)
			must[api.Flush](t)(again.Flush(ctx, name))
		}
	}
	if !slices.Contains(got, made[0]) {
		if err := do(again); err != nil {
			t.Fatalf("write %d, after %v: they cannot be made later: %v", at, after, err)
		}
	}
	return s.left != nil
}

// TestLeftoversWaitForTheStore: what a call left in an unavailable store has no owner.
// When the store is back, its name can be used again. A host that left nothing makes no
// request.
func TestLeftoversWaitForTheStore(t *testing.T) {
	b := newBed(t)
	disk := operatorsDisk(t)
	s := &deadly{Store: b.store, after: true, disk: disk, n: 1 << 30}
	h := small(t, s, disk)
	s.mu.Lock()
	s.n = 1
	s.mu.Unlock()
	_, _ = h.Create(ctx, api.CreateRequest{Name: "f", Size: mib, Durability: volume.Sync}) // the caller is gone
	faults := objstore.NewFaults(b.store, 1)
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}})
	again := small(t, faults, s.left)
	wantNames(t, again, true)
	_, err := again.Wake(ctx, "f", false, "")
	wantKind(t, err, errs.NotFound)
	must[api.Volume](t)(again.Create(ctx, api.CreateRequest{Name: "f", Size: mib}))
	faults.Clear()
	must[api.Flush](t)(again.Flush(ctx, "f"))
	for range 5000 {
		again.disks.Mu.Lock()
		n := len(again.disks.Orphans)
		again.disks.Mu.Unlock()
		if n == 0 {
			must[api.Flush](t)(again.Flush(ctx, "f"))
			if err := again.Close(ctx); err != nil {
				t.Fatal(err)
			}
			before := faults.Requests()
			third := small(t, faults, s.left)
			wantNames(t, third, false, "f")
			most := uint64(2) // the seal check of a published, active volume
			if tenantstest.Sealed() {
				most = 5 // for the record, the list of keyrings and the newest, too
			}
			if n := faults.Requests() - before; uint64(n) > most {
				t.Fatalf("%d requests", n)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("what was left is still in the store")
}

// TestStoreThatRefusesMakesNone: if the store refuses all writes, nothing is left of the
// volumes that could not be created, and one line says why.
func TestStoreThatRefusesMakesNone(t *testing.T) {
	b := newBed(t)
	faults := objstore.NewFaults(b.store, 1)
	h := small(t, faults, vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Err: errs.New(errs.ReadOnly, "read-only store")})
	make := map[string]func() error{
		"create": func() error {
			_, err := h.Create(ctx, api.CreateRequest{Name: "f", Size: mib, Durability: volume.Sync})
			return err
		},
		"fork": func() error {
			_, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: "g", Durability: volume.Sync, Count: 2})
			return err
		},
		"import": func() error { _, err := h.Import(ctx, "i", 0, &bytesSource{b: random(5, mib)}); return err },
	}
	for name, do := range make {
		err := do()
		wantKind(t, err, errs.ReadOnly)
		if strings.Count(err.Error(), "read-only store") != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantNames(t, h, false, "v")
	faults.Clear()
	for _, do := range make {
		if err := do(); err != nil {
			t.Error(err)
		}
	}
	wantNames(t, h, true, "f", "g-1", "g-2", "i", "v")
}

// TestUnfinishedTakesNoGuests: until the call that creates a volume is done, no guest can
// write to it, because a stop of the host would lose those writes. flush-is-durable.
func TestUnfinishedTakesNoGuests(t *testing.T) {
	b := newBed(t)
	g := newGated(b.store)
	b.store = g
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	g.set(true)
	t.Cleanup(func() { g.set(false) }) // before the host is closed
	made := make(chan error, 1)
	go func() {
		_, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Durability: volume.Sync})
		made <- err
	}()
	for h.disks.Find(disk.Name{Tenant: "default", Volume: "f"}) == nil || g.puts.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	_, err := h.exports.Open("f")
	wantKind(t, err, errs.Busy)
	g.set(false)
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	e, err := h.exports.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	e.Closed()
}

// TestRenamedBeforeItsFirstCommit: a publication that failed before anything was sent leaves
// nothing that knows the volume by the name that it had then.
func TestRenamedBeforeItsFirstCommit(t *testing.T) {
	b := newBed(t)
	var later atomic.Int64
	b.uptime = func() time.Duration { return clock.BootTime() + time.Duration(later.Load()) }
	faults := objstore.NewFaults(b.store, 1)
	real := b.store
	b.store = faults
	h := b.host(t.TempDir(), "a")
	b.store = real
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "plain/first", Size: mib}))
	must[api.Flush](t)(h.Flush(ctx, "plain/first"))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "plain/old", Size: mib}))
	later.Add(int64(time.Hour)) // what is known of the tenant is old
	faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpGet}})
	_, err := h.Flush(ctx, "plain/old")
	wantKind(t, err, errs.Unavailable)
	must[api.Volume](t)(h.Rename(ctx, "plain/old", "plain/new"))
	faults.Clear()
	data := fill(t, h, "plain/new", 1, 0, 64<<10)
	must[api.Flush](t)(h.Flush(ctx, "plain/new"))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "plain/old", Size: mib}))
	must[api.Flush](t)(h.Flush(ctx, "plain/old"))
	far := b.host(t.TempDir(), "far")
	must[[]api.Fork](t)(far.Fork(ctx, api.ForkRequest{Source: "plain/new", Name: "plain/fork", Lazy: true}))
	same(t, far, "plain/fork", 0, data)
}
