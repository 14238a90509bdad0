package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/crashtest"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/wal"
)

const (
	testBlock   = 4096
	testSize    = 40 * testBlock
	testSegment = 64 << 10
)

// disk is a volume under test and the history of what was done to it.
type disk struct {
	v *Volume
	crashtest.History
}

func (d *disk) clone() *disk { return &disk{History: d.Clone()} }

// world is one host in memory.
type world struct {
	t     *testing.T
	r     *rand.Rand
	mem   *vfs.MemFS
	fs    *crashtest.FS
	pool  *wal.Pool
	store *memStore
	disks []*disk
	// siblings are set while the host opens its volumes.
	siblings *SharedOverlays

	mu     sync.Mutex
	states map[ID][]byte // the metadata
	unborn map[ID]*disk  // forks that are being created

	incarnations uint64

	// crash is taken at the operation that was chosen.
	ops     int
	crashAt int
	crash   *crash
}

// crash is what a power loss leaves.
type crash struct {
	fs     *vfs.MemFS
	states map[ID][]byte
	disks  map[ID]*disk
	unborn map[ID]*disk
	where  string
}

func newWorld(t *testing.T, seed uint64, crashAt int) *world {
	mem, err := crashtest.NewMem("wal")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 7)), mem: mem, store: newMemStore(), states: map[ID][]byte{}, unborn: map[ID]*disk{}, crashAt: crashAt}
	w.open()
	return w
}

func (w *world) open() {
	mem := w.mem // what a dead host still does is not counted
	w.fs = crashtest.NewFS(mem, func(where string) { w.hook(mem, where) })
	var err error
	w.pool, err = wal.Open(wal.Options{FS: w.fs, Dir: "wal", SegmentBytes: testSegment, Local: local, Rand: w.incarnation})
	if err != nil {
		w.t.Fatal(err)
	}
}

// incarnation is called by background goroutines too, so it does not use w.r.
func (w *world) incarnation() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.incarnations++
	return w.incarnations * 0x9e3779b97f4a7c15
}

func (w *world) env() Env {
	pages := blockmap.NewPageCache(1 << 20)
	states := w.states // what a dead host still does must not affect its successor
	return Env{Log: w.pool, SharedOverlays: w.siblings, Pages: pages.Source(w.store, w.store.hasher), Blocks: w.store, Now: time.Now,
		Save: func(sts ...*State) error { return w.save(states, sts...) },
		SaveSoon: func(sts ...*State) error {
			if w.r.IntN(2) == 0 {
				return nil // the power may be lost before it is durable
			}
			return w.save(states, sts...)
		},
		Forget: func(ids ...ID) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, id := range ids {
				delete(states, id)
			}
			return nil
		}}
}

func (w *world) save(to map[ID][]byte, states ...*State) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, st := range states {
		b, err := json.Marshal(st)
		if err != nil {
			return err
		}
		to[st.ID] = b
	}
	return nil
}

// hook runs inside the engine's file operations.
func (w *world) hook(mem *vfs.MemFS, where string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mem != w.mem {
		return
	}
	w.ops++
	if w.ops == w.crashAt {
		w.crash = w.takeCrash(where)
	}
}

func (w *world) crashed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crash != nil
}

func (w *world) takeCrash(where string) *crash {
	c := &crash{where: fmt.Sprintf("op %d, %s", w.ops, where), states: map[ID][]byte{}, disks: map[ID]*disk{}, unborn: maps.Clone(w.unborn)}
	c.fs, _ = crashtest.PowerLoss(w.mem, uint64(w.crashAt), uint64(w.crashAt))
	for id, st := range w.states {
		c.states[id] = st
	}
	for _, d := range w.disks {
		c.disks[d.v.id] = d.clone()
	}
	return c
}

func (w *world) newDisk() {
	st := State{Version: 1, Name: "v", Tenant: "default", Size: testSize, BlockSize: testBlock, Mode: Active}
	for i := range st.ID {
		st.ID[i] = byte(w.r.Uint32())
	}
	if err := w.save(w.states, &st); err != nil {
		w.t.Fatal(err)
	}
	v, err := Open(w.env(), st, false)
	if err != nil {
		w.t.Fatal(err)
	}
	w.add(&disk{v, crashtest.History{Start: make([]byte, testSize)}})
}

func (w *world) add(d *disk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disks = append(w.disks, d)
}

// record adds an op to the model before the engine sees it: after a crash it may be
// there.
func (w *world) record(d *disk, o crashtest.Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d.Ops = append(d.Ops, o)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// step does one random thing.
func (w *world) step() {
	d := w.disks[w.r.IntN(len(w.disks))]
	switch k := w.r.IntN(100); {
	case k < 60:
		w.write(d)
	case k < 68:
		off := w.r.Uint64N(testSize)
		n := 1 + w.r.Uint64N(min(testSize-off, 3*testBlock))
		w.record(d, crashtest.Op{Off: off, Len: n})
		w.must(d.v.Zero(off, n))
	case k < 84:
		n := len(d.Ops)
		w.must(d.v.Flush())
		w.mu.Lock()
		d.Durable = max(d.Durable, n)
		w.mu.Unlock()
	case k < 88:
		w.fork(d)
	case k < 92:
		w.fold(d)
	default:
		w.clean()
	}
}

func (w *world) write(d *disk) {
	n := 1 + w.r.Uint64N(3*testBlock)
	switch w.r.IntN(12) {
	case 0:
		n = 1 + w.r.Uint64N(30*testBlock) // longer than a quarter of a segment
	case 1, 2, 3, 4:
		n = testBlock
	}
	off := w.r.Uint64N(testSize - n)
	if n == testBlock {
		off &^= testBlock - 1
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(w.r.Uint32() | 1)
	}
	w.record(d, crashtest.Write(off, data))
	w.must(d.v.WriteAt(data, off))
}

func (w *world) fork(d *disk) {
	if len(w.disks) >= 5 {
		return
	}
	c, err := d.v.Cut()
	w.must(err)
	defer c.Release()
	st := State{Name: "child", Tenant: "default", Mode: Active}
	for i := range st.ID {
		st.ID[i] = byte(w.r.Uint32())
	}
	n := len(d.Ops)
	child := &disk{History: crashtest.History{Start: d.Content(n)}}
	w.mu.Lock()
	w.unborn[st.ID] = child
	w.mu.Unlock()
	kids, err := c.Fork(&st)
	w.must(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	d.Durable = max(d.Durable, n)
	delete(w.unborn, st.ID)
	child.v = kids[0]
	w.disks = append(w.disks, child)
}

// fold publishes a cut to the fake store.
func (w *world) fold(d *disk) {
	w.foldWith(d, func() { // the guest continues meanwhile
		for range w.r.IntN(4) {
			w.write(d)
		}
	})
}

func (w *world) foldWith(d *disk, meanwhile func()) {
	c, err := d.v.BeginFold()
	w.must(err)
	defer d.v.EndFold(c)
	w.must(c.Sync())
	ctx := context.Background()
	e := c.Base().Edit()
	w.must(e.Grow(c.State.Blocks()))
	buf := make([]byte, testBlock)
	w.must(c.Overlay(func(start, end uint64, _ bool) error {
		for idx := start / testBlock; idx*testBlock < end; idx++ {
			if err := c.ReadAt(ctx, buf, idx*testBlock); err != nil {
				return err
			}
			ref := pack.Ref{}
			if !bytes.Equal(buf, make([]byte, testBlock)) {
				ref = w.store.put(buf)
			}
			if err := e.Set(idx, ref); err != nil {
				return err
			}
		}
		return nil
	}))
	root, err := e.Publish(ctx, w.store)
	w.must(err)
	meanwhile()
	m, err := blockmap.New(d.v.env.Pages, root, c.State.Blocks())
	w.must(err)
	w.must(d.v.Published(c, m, nil))
}

func (w *world) clean() {
	var vols []*Volume
	for _, d := range w.disks {
		vols = append(vols, d.v)
	}
	for _, vs := range FindVictims(vols, 0.7, 3) {
		n := make([]int, len(w.disks))
		for i, d := range w.disks {
			n[i] = len(d.Ops)
		}
		done, err := Clean(w.pool, vs)
		w.must(err)
		if done {
			return
		}
	}
}

// check compares every volume, and piecewise reads of it, with the model.
func (w *world) check() {
	w.t.Helper()
	for i, d := range w.disks {
		got := make([]byte, testSize)
		w.must(d.v.ReadAt(got, 0))
		if !bytes.Equal(got, d.Content(len(d.Ops))) {
			w.t.Fatalf("disk %d differs from its model after %d ops: %s", i, len(d.Ops), d.Explain(got, len(d.Ops)))
		}
	}
}

// recover opens what the crash left, checks prefix and flush-is-durable, and continues
// from there.
func (w *world) recover(c *crash) {
	w.t.Helper()
	w.mu.Lock()
	w.mem, w.states, w.crash, w.crashAt = c.fs, c.states, nil, 0
	w.unborn = map[ID]*disk{}
	w.disks = nil
	w.mu.Unlock()
	w.open()
	w.siblings = NewSharedOverlays()
	for _, early := range []bool{false, true} {
		for id, b := range c.states {
			var st State
			w.must(json.Unmarshal(b, &st))
			if early == (st.Unsynced != ID{}) {
				w.reopen(c, id, st)
			}
		}
	}
	for id := range c.disks {
		if c.states[id] == nil {
			w.t.Fatalf("after a crash at %s, volume %v is gone", c.where, id)
		}
	}
	w.siblings = nil
	w.pool.Settle()
	w.check()
}

// reopen opens one volume after a crash, or drops a fork that does not count.
func (w *world) reopen(c *crash, id ID, st State) {
	w.t.Helper()
	d := c.disks[id]
	if d == nil {
		d = c.unborn[id] // a fork that was not acknowledged may exist nevertheless, as a whole
	}
	var parent *Volume
	for _, p := range w.disks {
		if p.v.id == st.Unsynced {
			parent = p.v
		}
	}
	if !st.Counts(parent) {
		if c.disks[id] != nil {
			w.t.Fatalf("after a crash at %s, the acknowledged fork %v does not count", c.where, id)
		}
		delete(w.states, id)
		return
	}
	if st.Unsynced != (ID{}) {
		st.Unsynced = ID{}
		w.must(w.save(w.states, &st))
	}
	v, err := Open(w.env(), st, false)
	if err != nil {
		w.t.Fatalf("after a crash at %s: %v", c.where, err)
	}
	got := make([]byte, testSize)
	w.must(v.ReadAt(got, 0))
	n := d.Prefix(got, d.Durable)
	if n < 0 {
		fmt.Println(st)
		for _, h := range v.segs {
			x, _ := h.seg.Index(0)
			fmt.Println("seg", h.seg.Ref(), h.limit, ID(h.seg.Writer()), h.seg.Compacted())
			for _, r := range x {
				fmt.Printf("   %+v\n", r)
			}
		}
		for i, o := range d.Ops {
			fmt.Println(i, o.Off, o.Len, o.Data == nil)
		}
		w.t.Fatalf("after a crash at %s, volume %v is no prefix of %d writes (%d flushed): %s", c.where, id, len(d.Ops), d.Durable, d.Explain(got, d.Durable))
	}
	w.disks = append(w.disks, &disk{v, crashtest.History{Start: got}})
}

// TestCrash runs random histories, each with a power loss at one of its writes and syncs.
// It recovers, continues, and crashes again. prefix, flush-is-durable.
func TestCrash(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 40
	}
	crashRuns(t, seeds, 0)
}

// TestSoakCrash runs as long as GLIDE_SOAK says.
func TestSoakCrash(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("GLIDE_SOAK"))
	if err != nil {
		limit = time.Second // a short sample
	}
	crashRuns(t, 1<<30, limit)
}

func crashRuns(t *testing.T, seeds int, limit time.Duration) {
	began := time.Now()
	for seed := range seeds {
		if limit > 0 && time.Since(began) > limit || t.Failed() {
			return
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, uint64(seed), 1+seed*7%150)
			w.newDisk()
			w.pool.Settle()
			for round := range 4 {
				for range 60 {
					w.step()
					if w.crashed() {
						break
					}
				}
				w.check()
				w.mu.Lock()
				c := w.crash
				if c == nil {
					c = w.takeCrash("the end")
				}
				w.mu.Unlock()
				w.recover(c)
				w.mu.Lock()
				w.crashAt = w.ops + 1 + (seed*13+round*29)%150
				w.mu.Unlock()
			}
		})
	}
}
