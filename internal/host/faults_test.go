package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/objstoretest"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// faultBed is a host whose store fails on demand.
type faultBed struct {
	t      *testing.T
	mem    objstore.Store
	faults *objstore.Faults
	h      *Host
	// image is the content of volume v. published are the contents that its newest commit
	// may have; the last of them is the acknowledged one.
	image []byte
	seed  uint64
}

const faultSize = 300 << 10

func newFaultBed(t *testing.T) *faultBed {
	mem := objstore.NewMem(objstore.Clock{})
	b := &faultBed{t: t, mem: mem, faults: objstore.NewFaults(mem, 1), image: make([]byte, faultSize)}
	b.h = b.open("a", b.faults)
	must[api.Volume](t)(b.h.Create(ctx, api.CreateRequest{Name: "v", Size: faultSize}))
	b.write()
	return b
}

func (b *faultBed) open(addr string, store objstore.Store) *Host {
	b.t.Helper()
	h, err := Open(ctx, Config{
		Data: "data", FS: vfs.NewMem(), Store: store, Advertise: addr, PackBlocks: 2,
		Memory: 1 << 20, Cache: Share{Bytes: 1 << 20}, WALLimit: Share{Bytes: 64 << 20},
		Uptime: hurried,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = h.Close(ctx) })
	return h
}

// hurried is a clock that makes a second of the 30 that a host yields to another.
func hurried() time.Duration { return 30 * clock.BootTime() }

// write writes to two blocks of v.
func (b *faultBed) write() {
	b.t.Helper()
	for _, off := range []uint64{1000, 200 << 10} {
		b.seed++
		copy(b.image[off:], fill(b.t, b.h, "v", b.seed, off, 5000))
	}
}

// verb is an operation that makes store requests.
type verb struct {
	name    string
	prepare func(b *faultBed)
	run     func(b *faultBed) error
	// after is the name under which v's content must be found, here and in the store. ""
	// means that v must be gone.
	after string
}

func flushV(b *faultBed) error {
	_, err := b.h.Flush(ctx, "v")
	return err
}

var verbs = []verb{
	{"first flush", func(*faultBed) {}, flushV, "v"},
	{"flush", func(b *faultBed) { must[api.Flush](b.t)(b.h.Flush(ctx, "v")); b.write() }, flushV, "v"},
	{"flush of a process that has not published", func(b *faultBed) {
		must[api.Flush](b.t)(b.h.Flush(ctx, "v"))
		b.restart()
		b.write()
	}, flushV, "v"},
	{"flush over a local fork", func(b *faultBed) {
		must[api.Flush](b.t)(b.h.Flush(ctx, "v"))
		must[[]api.Fork](b.t)(b.h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
		b.write()
	}, flushV, "v"},
	{"flush with a snapshot", func(b *faultBed) {
		must[api.Flush](b.t)(b.h.Flush(ctx, "v"))
		must[api.Snapshot](b.t)(b.h.Snapshot(ctx, "v", "s", ""))
		b.write()
	}, flushV, "v"},
	{"flush of what the store has", func(b *faultBed) {
		must[[]api.Fork](b.t)(b.h.Fork(ctx, api.ForkRequest{Source: "v", Name: "twin"}))
		must[api.Flush](b.t)(b.h.Flush(ctx, "twin"))
		b.restart() // the packs of the old session now have to be pinned
	}, flushV, "v"},
	{"remove", func(b *faultBed) { must[api.Flush](b.t)(b.h.Flush(ctx, "v")) },
		func(b *faultBed) error { return b.h.Remove(ctx, "v", false) }, ""},
	{"remove over a local fork", func(b *faultBed) {
		must[api.Flush](b.t)(b.h.Flush(ctx, "v"))
		must[[]api.Fork](b.t)(b.h.Fork(ctx, api.ForkRequest{Source: "v", Name: "kid"}))
	}, func(b *faultBed) error { return b.h.Remove(ctx, "v", false) }, ""},
	{"rename", func(b *faultBed) { must[api.Flush](b.t)(b.h.Flush(ctx, "v")); b.write() },
		func(b *faultBed) error { _, err := b.h.Rename(ctx, "v", "w"); return err }, "w"},
	{"portable sleep", func(b *faultBed) { must[api.Flush](b.t)(b.h.Flush(ctx, "v")); b.write() },
		func(b *faultBed) error { _, err := b.h.Sleep(ctx, "v", true, false); return err }, "v"},
	{"fork of a commit", func(b *faultBed) { must[api.Flush](b.t)(b.h.Flush(ctx, "v")) },
		func(b *faultBed) error {
			_, err := b.h.Fork(ctx, api.ForkRequest{Source: "v", Name: "fork", At: "1.1"})
			return err
		}, "v"},
	{"import", func(*faultBed) {}, func(b *faultBed) error {
		_, err := b.h.Import(ctx, "img", 0, &bytesSource{b: random(77, 200<<10)})
		return err
	}, "v"},
}

func (b *faultBed) restart() {
	b.t.Helper()
	if err := b.h.Close(ctx); err != nil {
		b.t.Fatal(err)
	}
	h, err := Open(ctx, b.h.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.h = h
	b.t.Cleanup(func() { _ = h.Close(ctx) })
}

// complete checks published-is-complete for every volume in the store.
func (b *faultBed) complete() {
	b.t.Helper()
	for _, n := range []string{"v", "w", "kid", "twin", "fork", "img"} {
		if _, _, err := published(b.mem, n); err != nil && errs.KindOf(err) != errs.NotFound {
			b.t.Fatal(err)
		}
	}
}

// check checks everything after a verb has succeeded.
func (b *faultBed) check(v *verb) {
	b.t.Helper()
	b.complete()
	if v.after == "" {
		if got, err := b.h.Show(ctx, "v"); err == nil || errs.KindOf(err) != errs.NotFound {
			b.t.Fatalf("the removed volume is there: %+v %v", got, err)
		}
	} else {
		same(b.t, b.h, v.after, 0, b.image)
		must[api.Flush](b.t)(b.h.Flush(ctx, v.after))
		_, image, err := published(b.mem, v.after)
		if err == nil && v.name == "import" {
			return
		}
		if err != nil || !bytes.Equal(image, b.image) {
			b.t.Fatalf("the store does not have what was published: %v", err)
		}
	}
	for name, want := range map[string][]byte{"kid": b.image, "twin": b.image, "fork": b.image, "img": random(77, 200<<10)} {
		n, _ := disk.ParseName(name, false)
		if d := b.h.disks.Find(n); d != nil && name != "kid" {
			same(b.t, b.h, name, 0, want)
		}
	}
	want := map[string]string{"import": "img", "fork of a commit": "fork"}[v.name]
	if want != "" {
		if got, err := b.h.Show(ctx, want); err != nil || got.State != string(volume.Active) {
			b.t.Fatalf("%s is not active here: %+v %v", want, got, err)
		}
	}
	for _, d := range b.h.disks.All() {
		if st := d.State(); st.Mode == volume.Fenced || st.Mode == volume.Failed {
			b.t.Fatalf("%s is %s: %s", d, st.Mode, st.Reason)
		}
	}
}

// outage is a way in which a store fails.
type outage struct {
	name   string
	effect objstore.Effect
	times  int // number of requests that fail; 0: all from then on
	err    error
}

var outages = []outage{
	{"fails before", objstore.FailBefore, 1, nil},
	{"fails after", objstore.FailAfter, 1, nil},
	{"times out", objstore.FailAfter, 1, errs.New(errs.Unavailable, "no answer in time: %w", context.DeadlineExceeded)},
	{"is gone", objstore.FailBefore, 0, nil},
	{"answers nothing more", objstore.FailAfter, 0, nil},
}

// TestFaults runs every verb with a fault at each of its requests, and with an outage
// that begins there. When the store works again, the failed verb succeeds, at once or
// after a restart, and nothing is lost. one-writer, published-is-complete,
// no-silent-rollback.
func TestFaults(t *testing.T) {
	for _, v := range verbs {
		for i, o := range outages {
			t.Run(v.name+"/"+o.name, func(t *testing.T) {
				for n := 0; ; n++ {
					// Half of the runs restart the host before the second try; a soak
					// does both.
					end := sweep(t, &v, o, n, (n+i)%2 == 0)
					if os.Getenv("GLIDE_SOAK") != "" {
						sweep(t, &v, o, n, (n+i)%2 == 1)
					}
					if end {
						return
					}
					if n > 60 {
						t.Fatal("the verb makes requests without end")
					}
				}
			})
		}
	}
}

// sweep makes the n-th request fail, and reports whether there was no such request.
func sweep(t *testing.T, v *verb, o outage, n int, restart bool) bool {
	b := newFaultBed(t)
	defer func() {
		if t.Failed() {
			t.Logf("at request %d", n)
		}
		_ = b.h.Close(ctx)
	}()
	v.prepare(b)
	before := b.faults.Requests()
	b.faults.Inject(objstore.Fault{Skip: n, Times: o.times, Effect: o.effect, Err: o.err})
	err := v.run(b)
	made := b.faults.Requests() - before
	b.faults.Clear()
	b.complete()
	if err != nil {
		if restart {
			b.restart()
		}
		if err := v.run(b); err != nil {
			t.Fatalf("the second try: %v", err)
		}
	}
	b.check(v)
	return made <= n
}

// TestAbandoned: an operation that began in an outage and was abandoned has no effect
// later.
func TestAbandoned(t *testing.T) {
	for _, restart := range []bool{false, true} {
		b := newFaultBed(t)
		b.faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Match: func(key string) bool {
			_, _, err := commitlog.ParseKey(key)
			return err == nil
		}, Effect: objstore.Late})
		if err := flushV(b); err == nil {
			t.Fatal("the store was out, and the flush succeeded")
		}
		b.faults.Clear()
		if restart {
			b.restart()
		}
		if err := b.h.Remove(ctx, "v", false); err != nil {
			t.Fatal(err)
		}
		for _, r := range b.faults.Held() {
			_ = r.Release() // much later
		}
		if got, err := b.h.Show(ctx, "v"); errs.KindOf(err) != errs.NotFound || err == nil {
			t.Fatalf("a volume that was removed appears: %+v %v", got, err)
		}
	}
}

// TestFaultsOneWriter: a takeover with a fault at each of its requests leaves at most one
// host that can commit, and its retry wins. one-writer.
func TestFaultsOneWriter(t *testing.T) {
	for _, o := range outages {
		for n := range 12 {
			t.Run(fmt.Sprint(o.name, "/", n), func(t *testing.T) { testOneWriter(t, o, n) })
		}
	}
}

func testOneWriter(t *testing.T, o outage, n int) {
	b := newFaultBed(t)
	h2faults := objstore.NewFaults(b.mem, 2)
	h2 := b.open("b", h2faults)
	must[api.Flush](t)(b.h.Flush(ctx, "v"))
	h2faults.Inject(objstore.Fault{Skip: n, Times: o.times, Effect: o.effect, Err: o.err})
	_, err := h2.Wake(ctx, "v", true, "")
	h2faults.Clear()
	if err != nil && n%2 == 0 { // the old owner continues meanwhile
		b.write()
		_, _ = b.h.Flush(ctx, "v")
	}
	b.complete()
	if err != nil {
		if _, err := h2.Wake(ctx, "v", true, ""); err != nil {
			t.Fatalf("%s at request %d: the second try: %v", o.name, n, err)
		}
	}
	before, image, err := published(b.mem, "v")
	if err != nil {
		t.Fatal(err)
	}
	same(t, h2, "v", 0, image)
	if v := vol2(b.h, "v"); v != nil { // it does not know yet
		_ = v.WriteAt([]byte{1}, 0)
	}
	_, err = b.h.Flush(ctx, "v")
	wantKind(t, err, errs.Fenced)
	after, _, err := published(b.mem, "v")
	if err != nil || after.Generation != before.Generation {
		t.Fatalf("a fenced host committed %s after %s: %v", after.Generation, before.Generation, err)
	}
	fill(t, h2, "v", 99, 0, 4096)
	must[api.Flush](t)(h2.Flush(ctx, "v"))
	_ = h2.Close(ctx)
	_ = b.h.Close(ctx)
}

// TestSlowStore: a slow store makes verbs slow and affects nothing else. A caller that
// gave up can try again.
func TestSlowStore(t *testing.T) {
	mem := objstore.NewMem(objstore.Clock{})
	b := &faultBed{t: t, mem: mem, image: make([]byte, faultSize)}
	b.h = b.open("a", objstoretest.Latency(mem, objstoretest.LatencyOptions{Fixed: 15 * time.Millisecond}))
	must[api.Volume](t)(b.h.Create(ctx, api.CreateRequest{Name: "v", Size: faultSize}))
	b.write()
	for d := time.Duration(0); ; d += 7 * time.Millisecond {
		short, cancel := context.WithTimeout(ctx, d)
		_, err := b.h.Flush(short, "v")
		cancel()
		b.complete()
		if err == nil {
			break
		}
		if d > time.Second {
			t.Fatal(err)
		}
	}
	same(t, b.h, "v", 0, b.image)
	_, image, err := published(mem, "v")
	if err != nil || !bytes.Equal(image, b.image) {
		t.Fatalf("the store does not have what was published: %v", err)
	}
}

// TestWritesOfAClosedConnection: a write waits for room when its connection ends. It must
// not be applied later, over what the client has meanwhile written on another connection.
func TestWritesOfAClosedConnection(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	e, err := h.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	d, _ := h.disks.Local("v", false)
	d.Limiter.Set(volume.Limits{IOPS: 4}, h.disks.Now)
	old, done := append(make([]byte, 28), random(1, 4096)...), make(chan error)
	limits := e.Device.(nbd.Limiter)
	if !limits.TryAdmit(4096) || limits.TryAdmit(4096) {
		t.Error("the limit does not count requests")
	}
	go func() {
		_ = limits.Admit(4096)
		done <- e.Device.WriteFrames([]uint64{0}, [][]byte{old})
	}()
	time.Sleep(50 * time.Millisecond)
	e.Closed()
	d.Limiter.Set(volume.Limits{}, h.disks.Now)
	fresh := random(2, 4096)
	if err := again.Device.WriteFrames([]uint64{0}, [][]byte{append(make([]byte, 28), fresh...)}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("a write of a connection that had ended was made")
	}
	same(t, h, "v", 0, fresh)
	again.Closed()
}
