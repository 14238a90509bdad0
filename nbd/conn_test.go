package nbd_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// gate blocks the device's operations of one kind while it is shut.
type gate struct {
	op      nbd.Op
	shut    atomic.Bool
	waiting atomic.Int64 // at the gate now
	open    chan struct{}
	once    sync.Once
}

// newGate shuts a gate, which opens at the end of the test if not before.
func newGate(tb testing.TB, mem *nbdtest.Memory, op nbd.Op) *gate {
	g := &gate{op: op, open: make(chan struct{})}
	g.shut.Store(true)
	mem.Hook = func(op nbd.Op, _, _ uint64) error {
		if op == g.op && g.shut.Load() {
			g.waiting.Add(1)
			<-g.open
			g.waiting.Add(-1)
		}
		return nil
	}
	tb.Cleanup(g.unlock)
	return g
}

func (g *gate) unlock() {
	g.shut.Store(false)
	g.once.Do(func() { close(g.open) })
}

// TestVanish lets the client vanish at any byte of a write, and checks that
// Closed is called, and that no part of the write is seen.
func TestVanish(t *testing.T) {
	s := serve(t, nbd.Options{})
	msg := wire.AppendRequest(nil, wire.Request{Type: wire.CmdWrite, Length: 300_000})
	msg = append(msg, bytes.Repeat([]byte{1}, 300_000)...)
	for _, n := range []int{0, 1, 27, 28, 29, 9000, 200_000, len(msg) - 1} {
		r := s.enter(t, "", true)
		r.send(msg[:n])
		_ = r.Close()
	}
	r := s.enter(t, "ro", true) // in the middle of what is skipped
	r.send(msg[:1000])
	_ = r.Close()
	eventually(t, "Closed is called", func() bool {
		return s.exports.Connections("")+s.exports.Connections("ro") == 0
	})
	if n := s.mem.Batches.Load(); n != 0 {
		t.Errorf("%d calls for writes that were never whole", n)
	}
}

// TestVanishWhileBusy lets the client vanish while the server works for it, and
// checks that this is noticed although the work goes on.
func TestVanishWhileBusy(t *testing.T) {
	for _, c := range []struct {
		name string
		op   nbd.Op
		req  wire.Request
		n    int
	}{
		{"read", nbd.OpRead, wire.Request{Type: wire.CmdRead, Length: 1}, 1},
		{"more reads than are taken", nbd.OpRead, wire.Request{Type: wire.CmdRead, Length: 4096}, 3000},
		{"large reads", nbd.OpRead, wire.Request{Type: wire.CmdRead, Length: 8 * mib}, 20},
		{"block status", nbd.OpStatus, wire.Request{Type: wire.CmdBlockStatus, Length: 1}, 1},
		{"flush", nbd.OpFlush, wire.Request{Type: wire.CmdFlush}, 1},
		{"flushes", nbd.OpFlush, wire.Request{Type: wire.CmdFlush}, 5000},
		{"write", nbd.OpWrite, wire.Request{Type: wire.CmdWrite, Length: 4096}, 1},
		{"trim", nbd.OpTrim, wire.Request{Type: wire.CmdTrim, Length: 4096}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, nbd.Options{})
			s.mem.Cold.Store(true)
			g := newGate(t, s.mem, c.op)
			r := s.dial(t, fixed)
			r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
			contexts(t, r.option(wire.OptSetMetaContext,
				wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"base:allocation"}})))
			infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
			msg := wire.AppendRequest(nil, c.req)
			if c.req.Type == wire.CmdWrite {
				msg = append(msg, make([]byte, c.req.Length)...)
			}
			r.send(bytes.Repeat(msg, c.n))
			eventually(t, "the device is busy", func() bool { return g.waiting.Load() > 0 })
			start := time.Now()
			_ = r.Close()
			eventually(t, "Closed is called", func() bool { return s.exports.Connections("") == 0 })
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("Closed was called after %v", d)
			}
			if g.waiting.Load() == 0 {
				t.Error("the device is not busy any more")
			}
		})
	}
}

// TestStuckRead checks that a read that does not come back holds up nothing
// else, neither on its own connection nor on another.
func TestStuckRead(t *testing.T) {
	s := serve(t, nbd.Options{Readers: 4, ReadersPerConn: 3})
	s.mem.Cold.Store(true)
	g := newGate(t, s.mem, nbd.OpRead)
	a, b := s.client(t, nbdclient.Options{}), s.client(t, nbdclient.Options{})
	var stuck []<-chan nbdclient.Result
	for i := range 100 {
		stuck = append(stuck, a.Go(nbdclient.Request{Op: nbd.OpRead, Data: make([]byte, 512), Off: uint64(i)}))
	}
	eventually(t, "as many readers as a connection may have", func() bool { return g.waiting.Load() == 3 })
	for _, c := range []*nbdclient.Client{a, b} {
		if err := errors.Join(c.Write([]byte("x"), 0, 0), c.Flush(), c.Zero(0, 1, nbdclient.FUA)); err != nil {
			t.Error(err)
		}
	}
	s.mem.Cold.Store(false)
	if err := a.Read(make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
	s.mem.Cold.Store(true)
	last := b.Go(nbdclient.Request{Op: nbd.OpRead, Data: make([]byte, 512)})
	eventually(t, "a reader for the other connection", func() bool { return g.waiting.Load() == 4 })
	g.unlock()
	for _, ch := range append(stuck, last) {
		if r := <-ch; r.Err != nil {
			t.Error(r.Err)
		}
	}
}

// TestStopsReading sends requests for much more than the socket holds and reads
// no reply: the server must stop taking requests, then give the client up.
func TestStopsReading(t *testing.T) {
	for _, cold := range []bool{false, true} {
		var log logs
		s := serve(t, nbd.Options{WriteTimeout: 500 * time.Millisecond, LocalTimeout: 500 * time.Millisecond, Logger: log.logger()})
		s.mem.Cold.Store(cold)
		r := s.enter(t, "", true)
		var msg []byte
		for i := range 4000 {
			msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdRead, Cookie: uint64(i), Length: 256 << 10})
		}
		var before, during runtime.MemStats
		runtime.ReadMemStats(&before)
		go func() { _, _ = r.Write(msg) }()
		eventually(t, "the server is done with what it takes", func() bool {
			n := s.mem.Served.Load()
			time.Sleep(20 * time.Millisecond)
			return n > 0 && n == s.mem.Served.Load()
		})
		runtime.ReadMemStats(&during)
		if n := s.mem.Served.Load(); n > 32*mib {
			t.Errorf("cold %v: %d bytes were read for a client that reads nothing", cold, n)
		}
		if n := int64(during.HeapInuse) - int64(before.HeapInuse); n > 64*mib {
			t.Errorf("cold %v: %d bytes held for a client that reads nothing", cold, n)
		}
		other := s.client(t, nbdclient.Options{})
		if err := other.Read(make([]byte, 4096), 0); err != nil {
			t.Error(err)
		}
		eventually(t, "the client is given up", func() bool { return s.exports.Connections("") == 1 })
		eventually(t, "the log says why", func() bool {
			return log.contains(`disconnected" export="" client=local why="the client stopped reading`)
		})
	}
}

// logs collects what a server logs.
// scarce is a listener on a machine that is out of descriptors for a while.
// TestSlowReader reads slowly, but reads, for longer than the timeout.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s := serve(t, nbd.Options{WriteTimeout: time.Second})
	r := s.enter(t, "", false)
	const n = 24
	for i := range n {
		r.request(wire.Request{Type: wire.CmdRead, Cookie: uint64(i), Length: 512 << 10}, nil)
	}
	for range n {
		time.Sleep(80 * time.Millisecond)
		r.wantSimpleAny(n)
		r.recv(512 << 10)
	}
	r.alive()
}

// wantSimpleAny expects a successful simple reply with a cookie below n.
func (r *raw) wantSimpleAny(n uint64) {
	r.tb.Helper()
	got, err := wire.DecodeSimpleReply(r.recv(wire.SimpleReplySize))
	if err != nil || got.Error != 0 || got.Cookie >= n {
		r.tb.Fatalf("got %+v, %v", got, err)
	}
}

// TestFlushesShare checks that flushes that wait while one is under way share
// the next.
func TestFlushesShare(t *testing.T) {
	s := serve(t, nbd.Options{})
	s.mem.Cold.Store(true)
	g := newGate(t, s.mem, nbd.OpFlush)
	c := s.client(t, nbdclient.Options{})
	var all []<-chan nbdclient.Result
	flush := func() { all = append(all, c.Go(nbdclient.Request{Op: nbd.OpFlush})) }
	flush()
	flush() // arrives with or after the first; if after, it waits in the socket
	eventually(t, "a flush is under way", func() bool { return g.waiting.Load() == 1 })
	for range 50 {
		flush()
		all = append(all, c.Go(nbdclient.Request{Op: nbd.OpWrite, Data: []byte("x"), Flags: nbdclient.FUA}))
	}
	g.unlock()
	for _, ch := range all {
		if r := <-ch; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if n := s.mem.Flushes.Load(); n > 30 {
		t.Errorf("%d flushes of the device for %d of the client", n, len(all))
	}
}

// durable is a device that knows which writes are durable.
type durable struct {
	*nbdtest.Memory
	mu      sync.Mutex
	seq     uint64
	written map[uint64]uint64 // by offset: the number of the last write
	synced  uint64            // the last write that is durable
}

func (d *durable) WriteFrames(offs []uint64, frames [][]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, off := range offs {
		d.seq++
		d.written[off] = d.seq
	}
	return d.Memory.WriteFrames(offs, frames)
}

func (d *durable) Flush() error {
	d.mu.Lock()
	upto := d.seq
	d.mu.Unlock()
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	d.mu.Lock()
	d.synced = max(d.synced, upto)
	d.mu.Unlock()
	return nil
}

// isDurable tells whether the last write at off is.
func (d *durable) isDurable(off uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.written[off] > 0 && d.written[off] <= d.synced
}

// TestFlushIsDurable attacks flush-is-durable with many connections: once a
// flush is answered, every write that was answered before it was sent is
// durable, whatever connection it was on; and a FUA write once it is answered.
func TestFlushIsDurable(t *testing.T) {
	t.Parallel()
	d := &durable{Memory: nbdtest.NewMemory(64 * mib), written: make(map[uint64]uint64)}
	s := &server{socket: t.TempDir() + "/s"}
	serveAt(t, "unix", s.socket, nbdtest.NewExports(nbd.Export{Device: d}), nbd.Options{})
	conns := []*nbdclient.Client{s.client(t, nbdclient.Options{}), s.client(t, nbdclient.Options{})}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range 60 {
				off := uint64(r.IntN(1000))*4096 + uint64(w) // its own
				if r.IntN(3) == 0 {
					if err := conns[r.IntN(2)].Write([]byte{1}, off, nbdclient.FUA); err != nil {
						t.Error(err)
					}
				} else {
					if err := conns[r.IntN(2)].Write([]byte{1}, off, 0); err != nil {
						t.Error(err)
					}
					if err := conns[r.IntN(2)].Flush(); err != nil {
						t.Error(err)
					}
				}
				if !d.isDurable(off) {
					t.Error("acknowledged, and not durable")
				}
			}
		})
	}
	wg.Wait()
}

// TestTorture runs all kinds of requests, many at a time, over two connections
// against a model, on a device that is now warm, now cold.
func TestTorture(t *testing.T) {
	t.Parallel()
	const workers, region, steps = 8, 4 * mib, 150
	s := serve(t, nbd.Options{Readers: 5, ReadersPerConn: 3})
	conns := []*nbdclient.Client{
		s.client(t, nbdclient.Options{Contexts: []string{"base:allocation"}}),
		s.client(t, nbdclient.Options{Simple: true}),
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(w)))
			base := uint64(w) * region
			model := make([]byte, region)
			for step := range steps {
				// Ranges of up to a quarter, mostly small; several disjoint
				// ones are under way together.
				var calls []<-chan nbdclient.Result
				var check []func()
				for quarter := range 4 {
					n := 1 + r.IntN(1<<r.IntN(18))
					at := quarter*region/4 + r.IntN(region/4-n)
					part, off := model[at:at+n], base+uint64(at)
					c := conns[r.IntN(2)]
					switch r.IntN(6) {
					case 0, 1:
						copy(part, pattern(n, r.Uint64()))
						calls = append(calls, c.Go(nbdclient.Request{Op: nbd.OpWrite, Off: off, Data: bytes.Clone(part), Flags: nbdclient.Flags(r.IntN(2))}))
					case 2, 3:
						got := make([]byte, n)
						calls = append(calls, c.Go(nbdclient.Request{Op: nbd.OpRead, Off: off, Data: got}))
						check = append(check, func() {
							if !bytes.Equal(got, part) {
								t.Errorf("worker %d, step %d: read of %d at %d is wrong", w, step, n, off)
							}
						})
					case 4:
						clear(part)
						op := []nbd.Op{nbd.OpTrim, nbd.OpZero}[r.IntN(2)]
						calls = append(calls, c.Go(nbdclient.Request{Op: op, Off: off, Length: uint32(n), Flags: nbdclient.Flags(r.IntN(2))}))
					case 5:
						calls = append(calls, c.Go(nbdclient.Request{Op: nbd.OpFlush}))
						calls = append(calls, conns[0].Go(nbdclient.Request{Op: nbd.OpStatus, Off: off, Length: uint32(n)}))
					}
				}
				if r.IntN(20) == 0 {
					s.mem.Cold.Store(!s.mem.Cold.Load())
				}
				for _, ch := range calls {
					if res := <-ch; res.Err != nil {
						t.Errorf("worker %d, step %d: %v: %v", w, step, res.Request.Op, res.Err)
					}
				}
				for _, f := range check {
					f()
				}
			}
		})
	}
	wg.Wait()
}

// TestShutdownTCP checks that a client which sends on and on gets the replies
// to all that was done before the server closed.
// TestShutdownDeadline checks that Shutdown does not wait for ever.
// TestIdleMemory checks that connections that were busy and are idle now give
// back what they held.
func TestIdleMemory(t *testing.T) {
	const n, limit = 30, 64 << 10 // bytes for each
	s := serve(t, nbd.Options{})
	b := make([]byte, 4*mib)
	if err := s.client(t, nbdclient.Options{}).Write(b, 0, 0); err != nil { // so the device has its memory
		t.Fatal(err)
	}
	var clients []*nbdclient.Client
	for range n {
		clients = append(clients, s.client(t, nbdclient.Options{}))
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC() // once for the pools, once for what was in them
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for _, c := range clients {
		if err := errors.Join(c.Write(b[:2*mib], 0, 0), c.Read(b[:100<<10], 0)); err != nil {
			t.Fatal(err)
		}
	}
	if peak := heap() - before; peak < 2*n*limit {
		t.Fatalf("while busy they hold only %d bytes: the test is broken", peak)
	}
	eventually(t, "idle connections are slim", func() bool { return heap()-before < n*limit })
	for _, c := range clients { // and work
		if err := c.Write(b[:100], 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAllocs checks that requests that are done on the spot allocate nothing.
func TestAllocs(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.enter(t, "", true)
	var writes, reads, mixed []byte
	for i := range 8 {
		off := uint64(i) * 4096
		w := append(wire.AppendRequest(nil, wire.Request{Type: wire.CmdWrite, Offset: off, Length: 4096}), make([]byte, 4096)...)
		rd := wire.AppendRequest(nil, wire.Request{Type: wire.CmdRead, Offset: off, Length: 4096})
		writes, reads = append(writes, w...), append(reads, rd...)
		mixed = slices.Concat(mixed, w, rd,
			wire.AppendRequest(nil, wire.Request{Type: wire.CmdCache, Length: 1}),
			wire.AppendRequest(nil, wire.Request{Type: wire.CmdWriteZeroes, Offset: off, Length: 100}))
	}
	flush := wire.AppendRequest(nil, wire.Request{Type: wire.CmdFlush})
	const data = wire.OffsetDataSize + 4096
	in := make([]byte, 1<<20)
	for _, c := range []struct {
		name string
		msg  []byte
		n    int // bytes of replies
	}{
		{"writes", writes, 8 * wire.SimpleReplySize},
		{"reads", reads, 8 * data},
		{"flush", flush, wire.SimpleReplySize},
		{"mixed", mixed, 8 * (data + 3*wire.SimpleReplySize)},
	} {
		// The buffers grow for a few rounds, and the watch comes by now and
		// then: what a single request allocated would show a hundred times.
		got := testing.AllocsPerRun(200, func() {
			r.send(c.msg)
			for n := 0; n < c.n; {
				k, err := r.Read(in)
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
		})
		if !raceEnabled && got > 0 {
			t.Errorf("%s: %v allocations each time", c.name, got)
		}
	}
}

// BenchmarkInline is the whole way of a 4 KiB write and of a 4 KiB read over a
// unix socket, 32 at a time.
func BenchmarkInline(b *testing.B) {
	for _, c := range []struct {
		name  string
		req   wire.Request
		data  int
		reply int
	}{
		{"write", wire.Request{Type: wire.CmdWrite, Length: 4096}, 4096, wire.SimpleReplySize},
		{"read", wire.Request{Type: wire.CmdRead, Length: 4096}, 0, wire.OffsetDataSize + 4096},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := serve(b, nbd.Options{})
			r := s.enter(b, "", true)
			_ = r.SetDeadline(time.Time{})
			const depth = 32
			msg := bytes.Repeat(append(wire.AppendRequest(nil, c.req), make([]byte, c.data)...), depth)
			in := make([]byte, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				r.send(msg)
				for n := 0; n < depth*c.reply; {
					k, err := r.Read(in)
					if err != nil {
						b.Fatal(err)
					}
					n += k
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/depth, "ns/request")
		})
	}
}
