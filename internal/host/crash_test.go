package host

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/seal/sealtest"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
)

const (
	crashBlock = 128 << 10
	crashData  = "data"
)

// crashWorld is one data directory and one store during many lives of a host.
type crashWorld struct {
	t     *testing.T
	r     *rand.Rand
	store objstore.Store
	h     *Host
	names int

	mu      sync.Mutex // the host's goroutines use the fields below too
	mem     *vfs.MemFS
	gen     int
	disks   []*modelDisk
	removed map[string]string // names by ID, acknowledged as removed
	keys    []keys.Provider   // of the tenant, if it is sealed
	late    []func() error    // requests of dead hosts that are still in flight
	ops     int
	crashAt int
	fate    uint64
	crash   *powerLoss
	life    context.Context // of the host; ends when its power is lost
	dies    context.CancelFunc
}

// powerLoss is what a power loss leaves.
type powerLoss struct {
	fs      *vfs.MemFS
	disks   []*modelDisk
	removed map[string]string
	where   string
}

func newCrashWorld(t *testing.T, seed uint64) *crashWorld {
	w := &crashWorld{
		t: t, r: rand.New(rand.NewPCG(seed, 11)), fate: seed * 0x9e3779b97f4a7c15, mem: vfs.NewCrashableMem(),
		store: objstore.NewMem(objstore.Clock{}), removed: map[string]string{},
	}
	w.must(w.mem.MkdirAll(crashData, 0o755))
	for _, d := range []string{"/", ""} { // the directory itself is the operator's
		if f, err := w.mem.OpenDir(d); err == nil {
			w.must(f.Sync())
		}
	}
	if tenantstest.Sealed() || seed%3 == 2 { // whatever its disk is
		w.keys = []keys.Provider{tenantstest.Shared()}
		tenantstest.Create(t, w.store, tenantstest.Shared(), "default")
	}
	w.open(seed)
	return w
}

func (w *crashWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open starts the host's next life. A quarter of the hosts is sealed, and another one from
// its second life on.
func (w *crashWorld) open(seed uint64) {
	w.t.Helper()
	w.mu.Lock()
	w.gen++
	gen := w.gen
	w.life, w.dies = context.WithCancel(ctx)
	w.mu.Unlock()
	h, err := Open(ctx, Config{
		Data: crashData, FS: crashFS{w.mem, func(where string) { w.tick(gen, where) }}, Store: crashStore{w.store, w, gen},
		Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 24 << 20}, PackBlocks: 2,
		Rand: entropy(seed<<8 + uint64(gen)), Local: sealedFrom(seed%4 == 1 || seed%4 == 3 && gen > 1), Keys: w.keys,
	})
	if err != nil {
		w.t.Fatalf("life %d: %v", gen, err)
	}
	w.h = h
}

// sealedFrom are the keys of a host that seals what it has on its disk from now on, or not.
func sealedFrom(now bool) func(context.Context, string) (*seal.Local, error) {
	if !now {
		return nil
	}
	return func(_ context.Context, host string) (*seal.Local, error) { return sealtest.Local(host), nil }
}

func (w *crashWorld) alive(gen int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return gen == w.gen && w.crash == nil
}

func (w *crashWorld) crashed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crash != nil
}

// tick runs inside the host's file operations and requests. At the operation that was
// chosen, the power is lost. tick then returns a function that decides whether a request
// that was about to be sent takes effect.
func (w *crashWorld) tick(gen int, where string) (late func(do func() error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gen != w.gen || w.crash != nil {
		return nil
	}
	if w.ops++; w.ops != w.crashAt {
		return nil
	}
	w.takeCrash(where)
	return func(do func() error) {
		switch w.fate % 3 {
		case 0: // lost
		case 1:
			_ = do() // nobody gets the reply
		case 2:
			w.mu.Lock()
			w.late = append(w.late, do)
			w.mu.Unlock()
		}
	}
}

// takeCrash captures the file system and the model as they are. Under mu.
func (w *crashWorld) takeCrash(where string) {
	w.fate = w.fate*6364136223846793005 + 1442695040888963407
	percent := []int{0, 30, 70, 100}[w.fate>>33%4]
	c := &powerLoss{where: fmt.Sprintf("%s (life %d, op %d, %d%% kept)", where, w.gen, w.ops, percent), removed: maps.Clone(w.removed)}
	c.fs = w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(w.fate, 3))})
	for _, d := range w.disks {
		c.disks = append(c.disks, d.clone())
	}
	w.crash = c
	w.dies()
}

// model changes the model.
func (w *crashWorld) model(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// done reports whether a verb was acknowledged. A verb may fail only because the power is
// lost.
func (w *crashWorld) done(what string, err error) bool {
	w.t.Helper()
	if err != nil && !w.crashed() {
		w.t.Fatalf("%s: %v", what, err)
	}
	return err == nil
}

// recover opens and checks what the crash left, and continues from there.
func (w *crashWorld) recover(seed uint64) {
	w.t.Helper()
	w.mu.Lock()
	if w.crash == nil {
		w.takeCrash("the end")
	}
	c := w.crash
	w.mu.Unlock()
	// End the dead host's goroutines. What they still do reaches a file system that its
	// successor does not use, and no store.
	_ = w.h.Close(ctx)
	w.mu.Lock()
	w.mem, w.disks, w.removed, w.crash, w.crashAt, w.ops = c.fs, c.disks, c.removed, nil, 0, 0
	w.mu.Unlock()
	w.open(seed)
	kept := w.disks[:0:0]
	have := map[string]api.Volume{}
	vs, err := w.h.List(ctx, false)
	w.must(err)
	for _, v := range vs {
		if name, ok := w.removed[v.ID]; ok {
			w.t.Fatalf("after a crash at %s: %s is back as %s", c.where, name, v.Name)
		}
		have[v.Name] = v
	}
	for _, d := range w.disks {
		v, ok := have[d.name]
		if !ok && d.renaming != "" {
			if v, ok = have[d.renaming]; ok {
				d.name, d.renaming = d.renaming, ""
			}
		}
		switch {
		case ok && d.id != "" && v.ID != d.id:
			w.t.Fatalf("after a crash at %s: %s is another volume", c.where, d.name)
		case !ok && !d.maybe && !d.removing:
			w.t.Fatalf("after a crash at %s: %s is gone", c.where, d.name)
		case !ok:
			if d.removing {
				w.removed[d.id] = d.name
			}
			continue // an unacknowledged operation may have no effect
		}
		d.id, d.maybe, d.policy = v.ID, false, v.Durability
		w.checkRecovered(d, c.where)
		kept = append(kept, d)
	}
	w.disks = kept
	for _, d := range append([]*modelDisk{}, kept...) {
		w.again(d)
	}
	w.check(c.where)
}

// checkRecovered checks prefix and flush-is-durable, and the promise of fork-is-constant
// that a fork is a cut of its parent, for volumes and for snapshots.
func (w *crashWorld) checkRecovered(d *modelDisk, where string) {
	w.t.Helper()
	got := w.read(d.name, d.size)
	n := d.prefix(got, d.flushed)
	if n < 0 {
		w.t.Fatalf("after a crash at %s: %s is no prefix of its %d writes (%d flushed): %s", where, d.name, len(d.ops), d.flushed, d.explain(got, d.flushed))
	}
	d.ops, d.flushed = d.ops[:n], n // what was read from the disk stays on it
	d.stored = min(d.stored, n)
	have := map[string]bool{}
	ss, err := w.h.Snapshots(ctx, d.name)
	w.must(err)
	for _, s := range ss {
		have[s.Name] = true
	}
	for name, s := range d.snaps {
		switch {
		case have[name]:
			d.snaps[name] = modelSnap{s.content, false}
		case s.maybe, d.removing: // snapshots go first
			delete(d.snaps, name)
		default:
			w.t.Fatalf("after a crash at %s: snapshot %s@%s is gone", where, d.name, name)
		}
	}
}

// again repeats the operations that the crash interrupted. They must succeed.
func (w *crashWorld) again(d *modelDisk) {
	w.t.Helper()
	if d.renaming != "" {
		w.rename(d, d.renaming)
	}
	if d.removing {
		w.remove(d)
	}
}

func (w *crashWorld) read(name string, size uint64) []byte {
	w.t.Helper()
	b := make([]byte, size)
	w.must(vol(w.t, w.h, name).ReadAt(b, 0))
	return b
}

// check compares everything with the model, and the store with it.
func (w *crashWorld) check(where string) {
	w.t.Helper()
	for _, d := range w.disks {
		if got := w.read(d.name, d.size); !bytes.Equal(got, d.content(len(d.ops))) {
			w.t.Fatalf("after %s: %s differs from its model after %d ops: %s", where, d.name, len(d.ops), d.explain(got, len(d.ops)))
		}
		for s, snap := range d.snaps {
			if got := w.read(d.name+"@"+s, d.size); !bytes.Equal(got, snap.content) {
				w.t.Fatalf("after %s: snapshot %s@%s differs from its cut", where, d.name, s)
			}
		}
		tip, image, err := published(w.store, d.name)
		if errs.KindOf(err) == errs.NotFound && err != nil && d.stored < 0 {
			continue
		}
		if err != nil {
			w.t.Fatalf("after %s: %v", where, err)
		}
		// no-silent-rollback: the store never shows less than what was published.
		if d.prefix(image, max(d.stored, 0)) < 0 {
			w.t.Fatalf("after %s: commit %s of %s is no prefix of its %d writes (%d published): %s", where, tip.Generation, d.name, len(d.ops), d.stored, d.explain(image, max(d.stored, 0)))
		}
	}
	for id, name := range w.removed {
		if v, err := w.h.Show(ctx, name); errs.KindOf(err) != errs.NotFound || err == nil {
			w.t.Fatalf("after %s: the removed volume %s (%s) is there: %+v %v", where, name, id, v, err)
		}
	}
}

// TestCrash runs random histories of a whole host, its metadata included, with a
// power loss at one of its writes, syncs and requests; it recovers, goes on, and
// loses its power again.
// prefix, flush-is-durable, fork-is-constant, no-silent-rollback,
// published-is-complete.
func TestCrash(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	hostCrashes(t, seeds, 12*time.Second)
}

// TestSoakCrash runs as long as GLIDE_SOAK says.
func TestSoakCrash(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("GLIDE_SOAK"))
	if err != nil {
		limit = time.Second // a short sample
	}
	hostCrashes(t, 1<<30, limit)
}

func hostCrashes(t *testing.T, seeds int, limit time.Duration) {
	began := time.Now()
	for seed := range seeds {
		if time.Since(began) > limit || t.Failed() {
			return
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newCrashWorld(t, uint64(seed))
			for round := range 5 {
				w.model(func() { w.crashAt = w.ops + 1 + int(w.fate>>40)%(60+100*round) })
				for range 70 {
					w.step()
					if w.crashed() {
						break
					}
				}
				if !w.crashed() {
					w.check("no crash")
				}
				w.recover(uint64(seed))
			}
			w.must(w.h.Close(ctx))
		})
	}
}
