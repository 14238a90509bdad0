package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
	"github.com/paraglide/glide/internal/volume"
)

// lockedReader is a source of randomness for several goroutines.
type lockedReader struct {
	mu sync.Mutex
	b  io.Reader
}

func (r *lockedReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Read(p)
}

func randomSource(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 2})
}

// crashFS calls hook before and after everything that changes a file or a
// directory: the log's files and the metadata's alike.
type crashFS struct {
	vfs.FS
	hook func(where string)
}

type crashFile struct {
	vfs.File
	hook func(where string)
	name string
}

func (f crashFile) around(what string, do func() error) error {
	f.hook("before " + what + " " + f.name)
	err := do()
	f.hook("after " + what + " " + f.name)
	return err
}

func (f crashFile) Write(p []byte) (n int, err error) {
	err = f.around("write", func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f crashFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.around("write", func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f crashFile) Sync() error     { return f.around("sync", f.File.Sync) }
func (f crashFile) SyncData() error { return f.around("sync", f.File.SyncData) }

func (f crashFile) SyncTo(n int64) (full bool, err error) {
	err = f.around("sync", func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}

func (fs crashFS) wrap(f vfs.File, err error, name string) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return crashFile{f, fs.hook, name}, nil
}

func (fs crashFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return fs.wrap(f, err, name)
}

func (fs crashFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return fs.wrap(f, err, name)
}

func (fs crashFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(from, to, c)
	return fs.wrap(f, err, to)
}

func (fs crashFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return fs.wrap(f, err, name)
}

func (fs crashFS) Rename(from, to string) error {
	fs.hook("before rename " + to)
	err := fs.FS.Rename(from, to)
	fs.hook("after rename " + to)
	return err
}

func (fs crashFS) Remove(name string) error {
	fs.hook("before remove " + name)
	err := fs.FS.Remove(name)
	fs.hook("after remove " + name)
	return err
}

// crashStore is the store as one life of the host reaches it. A host that has
// lost its power sends nothing more; what it had sent may be lost, or take
// effect at once or much later, when its successor is at work.
type crashStore struct {
	objstore.Store
	w   *crashWorld
	gen int
}

func (s crashStore) change(ctx context.Context, what string, do func(context.Context) error) error {
	if !s.w.alive(s.gen) {
		return problem.New(problem.Unavailable, "this host has no power")
	}
	if late := s.w.tick(s.gen, "before "+what); late != nil {
		late(func() error { return do(context.WithoutCancel(ctx)) })
		return problem.New(problem.Unavailable, "this host lost its power")
	}
	err := do(ctx)
	s.w.tick(s.gen, "after "+what)
	return err
}

func (s crashStore) Put(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return s.change(ctx, "put "+key, func(ctx context.Context) error { return s.Store.Put(ctx, key, data) })
}

func (s crashStore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	data = bytes.Clone(data)
	return s.change(ctx, "create "+key, func(ctx context.Context) error { return s.Store.PutIfAbsent(ctx, key, data) })
}

func (s crashStore) Delete(ctx context.Context, key string) error {
	return s.change(ctx, "delete "+key, func(ctx context.Context) error { return s.Store.Delete(ctx, key) })
}

const (
	crashBlock = 128 << 10
	crashData  = "data"
)

// crashOp is one write in the model: bytes, or zeros when data is nil. A
// rollback is a write of the whole disk.
type crashOp struct {
	off, n uint64
	data   []byte
}

func (o crashOp) apply(b []byte) {
	if o.data == nil {
		clear(b[o.off : o.off+o.n])
	} else {
		copy(b[o.off:], o.data)
	}
}

// modelDisk is what has to be true of one volume.
type modelDisk struct {
	id, name string
	size     uint64
	start    []byte
	ops      []crashOp
	flushed  int // so many ops are acknowledged as durable
	// stored: the newest commit holds at least so many ops; -1: it may not be
	// in the store.
	stored int
	snaps  map[string]modelSnap
	// What was asked for and not acknowledged: it may or may not be so.
	maybe, removing bool
	renaming        string
	policy          string // "" for local
}

type modelSnap struct {
	content []byte
	maybe   bool
}

func (d *modelDisk) clone() *modelDisk {
	c := *d
	c.ops, c.snaps = d.ops[:len(d.ops):len(d.ops)], maps.Clone(d.snaps)
	return &c
}

// content is the model's content after n ops.
func (d *modelDisk) content(n int) []byte {
	b := bytes.Clone(d.start)
	for _, o := range d.ops[:n] {
		o.apply(b)
	}
	return b
}

// prefix finds an n of at least from for which got is the content after n ops, -1
// if there is none.
func (d *modelDisk) prefix(got []byte, from int) int {
	b := d.content(from)
	for n := from; ; n++ {
		if bytes.Equal(b, got) {
			return n
		}
		if n == len(d.ops) {
			return -1
		}
		d.ops[n].apply(b)
	}
}

// explain says where got first differs from the content after n ops, and which
// ops touched that byte.
func (d *modelDisk) explain(got []byte, n int) string {
	want := d.content(n)
	for i := range got {
		if got[i] != want[i] {
			s := fmt.Sprintf("byte %d is %#x, after op %d it was %#x;", i, got[i], n, want[i])
			for n, o := range d.ops {
				if o.off <= uint64(i) && uint64(i) < o.off+o.n {
					s += fmt.Sprintf(" op %d %d+%d zero=%v;", n, o.off, o.n, o.data == nil)
				}
			}
			return s
		}
	}
	return "equal"
}

// crashWorld is one data directory and a store, through many lives of a host.
type crashWorld struct {
	t     *testing.T
	r     *rand.Rand
	store objstore.Store
	h     *Host
	names int

	mu      sync.Mutex // the rest is reached from the host's goroutines too
	mem     *vfs.MemFS
	gen     int
	disks   []*modelDisk
	removed map[string]string // names by ID, acknowledged as removed
	late    []func() error    // requests of dead hosts that are still under way
	ops     int
	crashAt int
	fate    uint64
	crash   *powerLoss
	life    context.Context // of the host; ends with its power
	dies    context.CancelFunc
}

// powerLoss is what is left.
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
	w.open(seed)
	return w
}

func (w *crashWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open starts the host's next life.
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
		Rand: entropy(seed<<8 + uint64(gen)),
	})
	if err != nil {
		w.t.Fatalf("life %d: %v", gen, err)
	}
	w.h = h
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

// tick runs inside the host's file operations and requests. At the one whose
// turn it is, the power goes; it then returns what decides over a request that
// was about to be sent.
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
			_ = do() // nobody hears the answer
		case 2:
			w.mu.Lock()
			w.late = append(w.late, do)
			w.mu.Unlock()
		}
	}
}

// takeCrash takes the file system and the model as they are. Under mu.
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

// done tells whether a verb was acknowledged: one that fails has to have an
// excuse, and the only one is that the power is gone.
func (w *crashWorld) done(what string, err error) bool {
	w.t.Helper()
	if err != nil && !w.crashed() {
		w.t.Fatalf("%s: %v", what, err)
	}
	return err == nil
}

func (w *crashWorld) name() string {
	w.names++
	return fmt.Sprintf("v%d", w.names)
}

func (w *crashWorld) create() {
	d := &modelDisk{name: w.name(), size: uint64(2+w.r.IntN(3)) * crashBlock, stored: -1, snaps: map[string]modelSnap{}, maybe: true}
	if w.r.IntN(2) == 0 {
		d.size -= 512 * (1 + w.r.Uint64N(100)) // the last block is a part of one
	}
	d.start = make([]byte, d.size)
	w.model(func() { w.disks = append(w.disks, d) })
	v, err := w.h.Create(ctx, api.CreateRequest{Name: d.name, Size: d.size})
	if w.done("create", err) {
		w.model(func() { d.id, d.maybe = v.ID, false })
	}
}

// step does one random thing.
func (w *crashWorld) step() {
	w.model(func() {
		if len(w.late) > 0 && w.r.IntN(6) == 0 { // a dead host's request arrives
			_ = w.late[0]()
			w.late = w.late[1:]
		}
	})
	if len(w.disks) < 2 {
		w.create()
		return
	}
	d := w.disks[w.r.IntN(len(w.disks))]
	switch k := w.r.IntN(100); {
	case k < 42:
		w.write(d)
	case k < 50:
		off := w.r.Uint64N(d.size)
		o := crashOp{off: off, n: 1 + w.r.Uint64N(min(d.size-off, 2*crashBlock))}
		w.apply(d, o, func(v *volume.Volume) error { return v.Zero(o.off, o.n) })
	case k < 62 && d.policy == volume.Sync:
		w.guestFlush(d)
	case k < 62:
		n := len(d.ops)
		if v := w.vol(d); v != nil && w.done("volume flush", v.Flush()) {
			w.model(func() { d.flushed = max(d.flushed, n) })
		}
	case k < 72:
		w.flush(d)
	case k < 78:
		w.fork(d)
	case k < 82:
		w.snapshot(d)
	case k < 84:
		w.rollback(d)
	case k < 88:
		n := len(d.ops)
		if _, err := w.h.Sleep(w.life, d.name, false, false); w.done("sleep", err) {
			w.model(func() { d.flushed = max(d.flushed, n) })
		}
	case k < 90:
		_, err := w.h.Wake(ctx, d.name, false, "")
		w.done("wake", err)
	case k < 92:
		w.rename(d, w.name())
	case k < 93:
		w.remove(d)
	case k < 96:
		w.setPolicy(d)
	default:
		w.clean()
	}
}

// vol is the volume, woken if it sleeps; nil if there is no power to wake it.
func (w *crashWorld) vol(d *modelDisk) *volume.Volume {
	x, err := w.h.local(d.name, false)
	w.must(err)
	x.op.Lock()
	defer x.op.Unlock()
	v, err := x.wake(false)
	if !w.done("wake", err) {
		return nil
	}
	return v
}

// apply notes an op before the engine sees it: it may be there after a crash.
func (w *crashWorld) apply(d *modelDisk, o crashOp, do func(*volume.Volume) error) {
	v := w.vol(d)
	if v == nil {
		return
	}
	w.model(func() { d.ops = append(d.ops, o) })
	w.done("write", do(v))
}

func (w *crashWorld) write(d *modelDisk) {
	n := 1 + w.r.Uint64N(16<<10)
	switch w.r.IntN(8) {
	case 0:
		n = 1 + w.r.Uint64N(crashBlock+crashBlock/2)
	case 1, 2, 3:
		n = 4096
	}
	off := w.r.Uint64N(d.size - n)
	if n == 4096 {
		off &^= 4095
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(w.r.Uint32() | 1)
	}
	w.apply(d, crashOp{off, n, data}, func(v *volume.Volume) error { return v.WriteAt(data, off) })
}

func (w *crashWorld) flush(d *modelDisk) {
	n := len(d.ops)
	if _, err := w.h.Flush(w.life, d.name); w.done("flush", err) {
		w.model(func() { d.flushed, d.stored = max(d.flushed, n), n })
	}
}

// guestFlush is a guest's FLUSH of a sync volume: the store has it then.
func (w *crashWorld) guestFlush(d *modelDisk) {
	n := len(d.ops)
	e, err := w.h.openExport(d.name)
	if !w.done("connect", err) {
		return
	}
	defer e.Closed()
	done := make(chan error, 1)
	go func() { done <- e.Device.Flush() }()
	select { // without power it waits for a store that never answers
	case err = <-done:
	case <-w.life.Done():
		err = w.life.Err()
	}
	if w.done("guest's flush", err) {
		w.model(func() { d.flushed, d.stored = max(d.flushed, n), max(d.stored, n) })
	}
}

// setPolicy changes what a volume promises; what tightens it publishes first.
func (w *crashWorld) setPolicy(d *modelDisk) {
	n, to := len(d.ops), []string{volume.Local, volume.Continuous, volume.Sync}[w.r.IntN(3)]
	_, err := w.h.Set(w.life, d.name, api.Settings{"durability": to, "rpo": "200ms"})
	if !w.done("set", err) {
		return
	}
	w.model(func() {
		if to == volume.Sync && d.policy != volume.Sync || to == volume.Continuous && (d.policy == "" || d.policy == volume.Local) {
			d.flushed, d.stored = max(d.flushed, n), max(d.stored, n)
		}
		d.policy = to
	})
}

// fork: the child is its parent's cut, whatever becomes of the parent.
func (w *crashWorld) fork(d *modelDisk) {
	if len(w.disks) >= 4 {
		return
	}
	n := len(d.ops)
	source, content := d.name, d.content(n)
	for s, snap := range d.snaps {
		if w.r.IntN(2) == 0 {
			source, content = d.name+"@"+s, snap.content
			break
		}
	}
	kid := &modelDisk{name: w.name(), size: d.size, start: content, stored: -1, snaps: map[string]modelSnap{}, maybe: true}
	w.model(func() { w.disks = append(w.disks, kid) })
	fs, err := w.h.Fork(ctx, api.ForkRequest{Source: source, Name: kid.name})
	if w.done("fork", err) {
		w.model(func() { kid.id, kid.maybe = fs[0].ID, false })
	}
}

func (w *crashWorld) snapshot(d *modelDisk) {
	if len(d.snaps) >= 3 {
		return
	}
	name, n := "s"+w.name(), len(d.ops)
	s := modelSnap{d.content(n), true}
	w.model(func() { d.snaps[name] = s })
	if _, err := w.h.Snapshot(ctx, d.name, name); w.done("snapshot", err) {
		w.model(func() { d.snaps[name] = modelSnap{s.content, false} })
	}
}

func (w *crashWorld) rollback(d *modelDisk) {
	for s, snap := range d.snaps {
		w.model(func() { d.ops = append(d.ops, crashOp{0, d.size, snap.content}) })
		n := len(d.ops)
		if _, err := w.h.Rollback(ctx, d.name, s, false); w.done("rollback", err) {
			w.model(func() { d.flushed = max(d.flushed, n) })
		}
		return
	}
}

func (w *crashWorld) rename(d *modelDisk, to string) {
	w.model(func() { d.renaming = to })
	if _, err := w.h.Rename(ctx, d.name, to); w.done("rename", err) {
		w.model(func() { d.name, d.renaming = to, "" })
	}
}

func (w *crashWorld) remove(d *modelDisk) {
	w.model(func() { d.removing = true })
	if err := w.h.Remove(ctx, d.name, false); w.done("remove", err) {
		w.model(func() {
			w.removed[d.id] = d.name
			for i, x := range w.disks {
				if x == d {
					w.disks = append(w.disks[:i:i], w.disks[i+1:]...)
				}
			}
		})
	}
}

func (w *crashWorld) clean() {
	var vols []*volume.Volume
	for _, d := range w.h.all() {
		if v := d.open(); v != nil {
			vols = append(vols, v)
		}
	}
	w.h.cleaner.mu.Lock()
	defer w.h.cleaner.mu.Unlock()
	for _, vs := range volume.FindVictims(vols, 0.95, 3) {
		done, err := volume.Clean(w.h.pool, vs)
		if w.done("clean", err) && done {
			return
		}
	}
}

// recover opens what the crash left and checks it; it then goes on from there.
func (w *crashWorld) recover(seed uint64) {
	w.t.Helper()
	w.mu.Lock()
	if w.crash == nil {
		w.takeCrash("the end")
	}
	c := w.crash
	w.mu.Unlock()
	// The dead host's goroutines are ended; all that they still do reaches a file
	// system that is not its successor's, and no store.
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
			continue // what was not acknowledged may as well not be
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

// checkRecovered: prefix, flush-is-durable, and fork-is-constant's promise that
// a fork is its parent's cut, for volumes and for snapshots.
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

// again repeats what the crash interrupted: that always succeeds.
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
		if problem.KindOf(err) == problem.NotFound && err != nil && d.stored < 0 {
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
		if v, err := w.h.Show(ctx, name); problem.KindOf(err) != problem.NotFound || err == nil {
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

// TestSoakCrash goes on for as long as GLIDE_SOAK says.
func TestSoakCrash(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("GLIDE_SOAK"))
	if err != nil {
		limit = time.Second // a slice of it
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
