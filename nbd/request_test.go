package nbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

const mib = 1 << 20

// TestReadWrite writes and reads ranges of all kinds of sizes and alignments
// with both kinds of replies, from warm and from cold devices.
func TestReadWrite(t *testing.T) {
	t.Parallel()
	for _, simple := range []bool{false, true} {
		for _, cold := range []bool{false, true} {
			t.Run(fmt.Sprintf("simple=%v,cold=%v", simple, cold), func(t *testing.T) {
				s := serve(t, nbd.Options{})
				s.mem.Cold.Store(cold)
				c := s.client(t, nbdclient.Options{Simple: simple})
				sizes := []int{
					1, 511, 512, 4096, 8 << 10, 8<<10 + 512, 64 << 10, 128<<10 - 1, 256 << 10, 256<<10 + 1,
					2*mib + 512 - 28, 2*mib + 512 - 27,
				}
				if simple && cold { // once is enough
					sizes = append(sizes, 5*mib+3, 32*mib)
				}
				want := make([]byte, 64*mib)
				end := 0
				for i, n := range sizes {
					off := uint64(i) * 4097
					end = max(end, int(off)+n)
					p := pattern(n, uint64(n))
					copy(want[off:], p)
					if err := c.Write(p, off, 0); err != nil {
						t.Fatalf("write of %d: %v", n, err)
					}
					got := make([]byte, n)
					if err := c.Read(got, off); err != nil || !bytes.Equal(got, p) {
						t.Fatalf("read of %d: %v, same: %v", n, err, bytes.Equal(got, p))
					}
				}
				got := make([]byte, min(end+1, 16*mib))
				if err := c.Read(got, 0); err != nil || !bytes.Equal(got, want[:len(got)]) {
					t.Fatalf("read of all: %v", err)
				}
			})
		}
	}
}

func TestFlushTrimZeroCache(t *testing.T) {
	s := serve(t, nbd.Options{})
	c := s.client(t, nbdclient.Options{Contexts: []string{"base:allocation", "glide:dirty"}})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Write(bytes.Repeat([]byte{1}, mib), 0, 0))
	if n := s.mem.Flushes.Load(); n != 0 {
		t.Errorf("a write flushed %d times", n)
	}
	must(c.Flush())
	must(c.Write([]byte{2}, 5, nbdclient.FUA))
	must(c.Trim(100<<10, 100<<10, nbdclient.FUA))
	must(c.Zero(300<<10+1, 10, nbdclient.FUA|nbdclient.NoHole|nbdclient.FastZero))
	if n := s.mem.Flushes.Load(); n != 4 {
		t.Errorf("%d flushes of the device for 4 of the client", n)
	}
	must(c.Zero(400<<10, 8<<10, nbdclient.NoHole))
	must(c.Zero(500<<10, 8<<10, 0))
	must(c.Cache(0, mib))
	if n := s.mem.Prefetched.Load(); n != mib {
		t.Errorf("prefetched %d", n)
	}
	want := bytes.Repeat([]byte{1}, mib)
	want[5] = 2
	clear(want[100<<10 : 200<<10])
	clear(want[300<<10+1 : 300<<10+11])
	clear(want[400<<10 : 408<<10])
	clear(want[500<<10 : 508<<10])
	got := make([]byte, mib)
	must(c.Read(got, 0))
	if !bytes.Equal(got, want) {
		t.Error("read something else")
	}
	ext, err := c.BlockStatus(0, 2*mib, 0)
	must(err)
	wantExt := map[string][]nbd.Extent{
		"base:allocation": {{100 << 10, 0}, {100 << 10, 3}, {300 << 10, 0}, {8 << 10, 3}, {516 << 10, 0}, {mib, 3}},
		"glide:dirty":     {{100 << 10, 1}, {100 << 10, 0}, {300 << 10, 1}, {8 << 10, 0}, {516 << 10, 1}, {mib, 0}},
	}
	if fmt.Sprint(ext) != fmt.Sprint(wantExt) {
		t.Errorf("block status:\n got %v\nwant %v", ext, wantExt)
	}
	// Clipped at both ends, not aligned.
	ext, err = c.BlockStatus(100<<10-3, 100<<10+7, 0)
	must(err)
	if got, want := fmt.Sprint(ext["base:allocation"]), "[{3 0} {102400 3} {4 0}]"; got != want {
		t.Errorf("block status: got %v, want %v", got, want)
	}
	ext, err = c.BlockStatus(1, 64*mib-1, nbdclient.ReqOne)
	must(err)
	if got, want := fmt.Sprint(ext["base:allocation"]), "[{102399 0}]"; got != want {
		t.Errorf("block status of one: got %v, want %v", got, want)
	}
}

// TestLongRanges uses lengths that only the commands without data may have.
func TestLongRanges(t *testing.T) {
	const length = math.MaxUint32
	s := serve(t, nbd.Options{})
	s.mem.Resize(1 << 40)
	c := s.client(t, nbdclient.Options{Contexts: []string{"base:allocation"}})
	if err := c.Write([]byte("x"), 5<<30, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Trim(3, length, 0), c.Zero(7<<30+1, length, 0), c.Cache(12345, length)); err != nil {
		t.Fatal(err)
	}
	ext, err := c.BlockStatus(5<<30-length+1, length, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(ext), fmt.Sprintf("map[base:allocation:[{%d 3} {1 0}]]", uint32(length-1)); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// combDevice has an extent for every page, so more than fit a reply.
type combDevice struct {
	*nbdtest.Memory
	asked atomic.Int64 // bytes
}

func (d *combDevice) Extents(dst []nbd.Extent, _ string, off, length uint64) ([]nbd.Extent, error) {
	d.asked.Add(int64(length))
	for length > 0 {
		n := min(4096-off%4096, length)
		dst = append(dst, nbd.Extent{Length: n, Flags: uint32(off / 4096 % 2)})
		off, length = off+n, length-n
	}
	return dst, nil
}

func TestManyExtents(t *testing.T) {
	d := &combDevice{Memory: nbdtest.NewMemory(1 << 40)}
	s := &server{socket: t.TempDir() + "/s"}
	serveAt(t, "unix", s.socket, nbdtest.NewExports(nbd.Export{Device: d}), nbd.Options{})
	c := s.client(t, nbdclient.Options{Contexts: []string{"base:allocation"}})
	ext, err := c.BlockStatus(100, 3<<30, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(ext["base:allocation"]); n != 64<<10 {
		t.Errorf("%d extents", n)
	}
	if first := ext["base:allocation"][0]; first.Length != 4096-100 {
		t.Errorf("the first extent is %v", first)
	}
	d.asked.Store(0)
	ext, err = c.BlockStatus(100, 3<<30, nbdclient.ReqOne)
	if err != nil || len(ext["base:allocation"]) != 1 {
		t.Errorf("one extent: %v, %v", ext, err)
	}
	if n := d.asked.Load(); n > mib {
		t.Errorf("for one extent the device was asked about %d bytes", n)
	}
}

// brokenExtents returns extents that do not add up.
type brokenExtents struct {
	*nbdtest.Memory
	extents []nbd.Extent
}

func (d *brokenExtents) Extents(dst []nbd.Extent, _ string, _, _ uint64) ([]nbd.Extent, error) {
	return append(dst, d.extents...), nil
}

func TestBrokenExtents(t *testing.T) {
	for _, ext := range [][]nbd.Extent{nil, {{0, 0}}, {{4095, 0}}, {{4097, 0}}, {{4096, 0}, {1, 1}}, {{math.MaxUint64, 0}}} {
		d := &brokenExtents{nbdtest.NewMemory(mib), ext}
		s := &server{socket: t.TempDir() + "/s"}
		serveAt(t, "unix", s.socket, nbdtest.NewExports(nbd.Export{Device: d}), nbd.Options{})
		c := s.client(t, nbdclient.Options{Contexts: []string{"base:allocation"}})
		_, err := c.BlockStatus(0, 4096, 0)
		wantErrno(t, err, nbd.EIO, "extents")
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	}
}

// TestBadRequests sends one bad request of each kind and checks that it is
// refused with the right number, and that the connection lives on.
func TestBadRequests(t *testing.T) {
	s := serve(t, nbd.Options{})
	const size = 64 * mib
	type request = wire.Request
	for _, c := range []struct {
		name   string
		export string
		req    request
		errno  nbd.Errno
		text   string
	}{
		{"unknown command", "", request{Type: 8}, nbd.EINVAL, "unknown command 8"},
		{"unknown command, far", "", request{Type: 0xffff}, nbd.EINVAL, "unknown command 65535"},
		{"unknown flag", "", request{Type: wire.CmdRead, Flags: 1 << 9, Length: 1}, nbd.EINVAL, "flags 0x200"},
		{"flag of another command", "", request{Type: wire.CmdRead, Flags: wire.CmdFlagNoHole, Length: 1}, nbd.EINVAL, "flags 0x2"},
		{"write with DF", "", request{Type: wire.CmdWrite, Flags: wire.CmdFlagDF, Length: 5}, nbd.EINVAL, "flags"},
		{"trim with NO_HOLE", "", request{Type: wire.CmdTrim, Flags: wire.CmdFlagNoHole, Length: 5}, nbd.EINVAL, "flags"},
		{"flush with REQ_ONE", "", request{Type: wire.CmdFlush, Flags: wire.CmdFlagReqOne}, nbd.EINVAL, "flags"},
		{"cache with FAST_ZERO", "", request{Type: wire.CmdCache, Flags: wire.CmdFlagFastZero, Length: 1}, nbd.EINVAL, "flags"},
		{"block status without context", "", request{Type: wire.CmdBlockStatus, Length: 1}, nbd.EINVAL, "context"},
		{"read beyond", "", request{Type: wire.CmdRead, Offset: size, Length: 1}, nbd.EINVAL, "beyond the end"},
		{"read across", "", request{Type: wire.CmdRead, Offset: size - 1, Length: 2}, nbd.EINVAL, "beyond"},
		{"read far", "", request{Type: wire.CmdRead, Offset: math.MaxUint64, Length: 2}, nbd.EINVAL, "beyond"},
		{"write beyond", "", request{Type: wire.CmdWrite, Offset: size, Length: 1}, nbd.ENOSPC, "beyond"},
		{"write across", "", request{Type: wire.CmdWrite, Offset: size - 1, Length: 4097}, nbd.ENOSPC, "beyond"},
		{"write far", "", request{Type: wire.CmdWrite, Offset: math.MaxUint64 - 1, Length: 3}, nbd.ENOSPC, "beyond"},
		{"empty write beyond", "", request{Type: wire.CmdWrite, Offset: size + 1}, nbd.ENOSPC, "beyond"},
		{"zero beyond", "", request{Type: wire.CmdWriteZeroes, Offset: size - 1, Length: 2}, nbd.ENOSPC, "beyond"},
		{"trim beyond", "", request{Type: wire.CmdTrim, Offset: 1, Length: size}, nbd.EINVAL, "beyond"},
		{"cache beyond", "", request{Type: wire.CmdCache, Offset: 1, Length: size}, nbd.EINVAL, "beyond"},
		{"read too large", "", request{Type: wire.CmdRead, Length: 32*mib + 1}, nbd.EINVAL, "more than"},
		{"read too large with DF", "", request{Type: wire.CmdRead, Flags: wire.CmdFlagDF, Length: 33 * mib}, nbd.EOVERFLOW, "more than"},
		{"write too large", "", request{Type: wire.CmdWrite, Length: 32*mib + 1}, nbd.EINVAL, "more than"},
		{"write on read-only", "ro", request{Type: wire.CmdWrite, Length: 70000}, nbd.EPERM, "read-only"},
		{"trim on read-only", "ro", request{Type: wire.CmdTrim, Length: 1}, nbd.EPERM, "read-only"},
		{"zero on read-only", "ro", request{Type: wire.CmdWriteZeroes, Length: 1}, nbd.EPERM, "read-only"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, structured := range []bool{true, false} {
				r := s.enter(t, c.export, structured)
				req := c.req
				req.Cookie = 7
				var payload []byte
				if req.Type == wire.CmdWrite {
					payload = make([]byte, req.Length)
				}
				errno := c.errno
				if !structured && req.Flags == wire.CmdFlagDF && req.Type == wire.CmdRead {
					errno = nbd.EINVAL // DF is not to be used without
				}
				r.request(req, payload)
				if structured {
					r.wantError(7, errno, c.text)
				} else {
					r.wantSimple(7, errno)
				}
				r.alive()
			}
		})
	}
	if n := s.mem.Batches.Load(); n != 0 {
		t.Errorf("the device was written to %d times", n)
	}
}

// TestHarmlessRequests sends what is odd but must not be refused.
func TestHarmlessRequests(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.enter(t, "", true)
	for typ, flags := range map[uint16]uint16{
		wire.CmdWrite: 0, wire.CmdTrim: 0, wire.CmdWriteZeroes: wire.CmdFlagFUA, wire.CmdCache: wire.CmdFlagFUA,
		wire.CmdFlush: wire.CmdFlagFUA,
	} {
		r.request(wire.Request{Type: typ, Flags: flags, Cookie: 1, Offset: 64 * mib}, nil)
		r.wantSimple(1, 0)
	}
	r.request(wire.Request{Type: wire.CmdRead, Flags: wire.CmdFlagFUA, Cookie: 2, Offset: 64 * mib}, nil)
	if h, _ := r.chunk(); h != (wire.Chunk{Flags: wire.ChunkFlagDone, Type: wire.ChunkNone, Cookie: 2}) {
		t.Errorf("empty read: %+v", h)
	}
	r.request(wire.Request{Type: wire.CmdFlush, Cookie: 3, Offset: 1, Length: 1}, nil)
	r.wantSimple(3, 0)
	r.request(wire.Request{Type: wire.CmdRead, Flags: wire.CmdFlagDF, Cookie: 4, Length: 9}, nil)
	if h, payload := r.chunk(); h.Length != 17 || !bytes.Equal(payload, make([]byte, 17)) {
		t.Errorf("read with DF: %+v", h)
	}
	simple := s.enter(t, "", false)
	simple.request(wire.Request{Type: wire.CmdRead, Cookie: 2}, nil)
	simple.wantSimple(2, 0)
	simple.alive()
}

func TestFatalRequests(t *testing.T) {
	s := serve(t, nbd.Options{})
	for name, b := range map[string][]byte{
		"wrong magic":  bytes.Repeat([]byte{0x42}, wire.RequestSize),
		"absurd write": wire.AppendRequest(nil, wire.Request{Type: wire.CmdWrite, Length: math.MaxUint32}),
	} {
		t.Run(name, func(t *testing.T) {
			r := s.enter(t, "", true)
			// What came before is answered.
			r.send(append(wire.AppendRequest(nil, wire.Request{Type: wire.CmdCache, Length: 9, Cookie: 1}), b...))
			r.wantSimple(1, 0)
			r.wantEnd()
			eventually(t, "Closed is called", func() bool { return s.exports.Connections("") == 0 })
		})
	}
}

// TestResize checks that the device's size counts, not that at the handshake.
func TestResize(t *testing.T) {
	s := serve(t, nbd.Options{})
	c := s.client(t, nbdclient.Options{})
	wantErrno(t, c.Write([]byte("x"), 64*mib, 0), nbd.ENOSPC, "beyond the end at 67108864")
	s.mem.Resize(65 * mib)
	if err := c.Write([]byte("x"), 64*mib, 0); err != nil {
		t.Error(err)
	}
}

// TestDeviceErrors lets each operation of the device fail.
func TestDeviceErrors(t *testing.T) {
	s := serve(t, nbd.Options{})
	s.mem.Cold.Store(true)
	var fail atomic.Pointer[error]
	s.mem.Hook = func(op nbd.Op, _, _ uint64) error {
		if err := fail.Load(); err != nil {
			return *err
		}
		return nil
	}
	for _, simple := range []bool{false, true} {
		o := nbdclient.Options{Simple: simple}
		if !simple {
			o.Contexts = []string{"base:allocation"}
		}
		c := s.client(t, o)
		for _, f := range []struct {
			err   error
			errno nbd.Errno
			text  string
		}{
			{errors.New("disk on fire"), nbd.EIO, "disk on fire"},
			{fmt.Errorf("the volume is full: %w", nbd.ENOSPC), nbd.ENOSPC, "the volume is full"},
			{errors.Join(errors.New("two"), nbd.EPERM), nbd.EPERM, "two: operation not permitted"},
			{nbd.Errno(0), nbd.EIO, ""},
			{errors.New(strings.Repeat("ä", 5000) + "\x00"), nbd.EIO, "ää"},
		} {
			if simple {
				f.text = ""
			}
			fail.Store(&f.err)
			b := make([]byte, 512)
			wantErrno(t, c.Read(b, 0), f.errno, f.text)
			wantErrno(t, c.Read(make([]byte, mib), 0), f.errno, f.text)
			wantErrno(t, c.Write(b, 0, 0), f.errno, f.text)
			wantErrno(t, c.Write(b, 0, nbdclient.FUA), f.errno, f.text)
			wantErrno(t, c.Trim(0, 1, nbdclient.FUA), f.errno, f.text)
			wantErrno(t, c.Zero(0, 1, 0), f.errno, f.text)
			wantErrno(t, c.Flush(), f.errno, f.text)
			if !simple {
				_, err := c.BlockStatus(0, 512, 0)
				wantErrno(t, err, f.errno, f.text)
			}
			fail.Store(nil)
			if err := c.Write(b, 0, nbdclient.FUA); err != nil {
				t.Errorf("after the device has recovered: %v", err)
			}
		}
	}
}

// TestFlushErrorWithFUA checks that a FUA write is not acknowledged when it was
// written but not made durable.
func TestFlushErrorWithFUA(t *testing.T) {
	s := serve(t, nbd.Options{})
	s.mem.Hook = func(op nbd.Op, _, _ uint64) error {
		if op == nbd.OpFlush {
			return nbd.EIO
		}
		return nil
	}
	c := s.client(t, nbdclient.Options{})
	wantErrno(t, c.Write([]byte("x"), 0, nbdclient.FUA), nbd.EIO, "")
	wantErrno(t, c.Trim(0, 1, nbdclient.FUA), nbd.EIO, "")
	if err := c.Write([]byte("x"), 0, 0); err != nil {
		t.Error(err)
	}
}

// TestBatch checks that writes that arrive together reach the device together,
// with their headers as headroom, and before what follows them.
func TestBatch(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.enter(t, "", false)
	const n = 40
	var msg []byte
	for i := range n {
		msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdWrite, Cookie: uint64(i), Offset: uint64(i) * 100, Length: 100})
		msg = append(msg, pattern(100, uint64(i))...)
	}
	msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdRead, Cookie: n, Offset: 0, Length: n * 100})
	msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdTrim, Cookie: n + 1, Offset: 0, Length: n * 100})
	msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdWrite, Cookie: n + 2, Offset: 50, Length: 1})
	msg = append(msg, 'x')
	msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdRead, Cookie: n + 3, Offset: 0, Length: 100})
	r.send(msg)
	for i := range n {
		r.wantSimple(uint64(i), 0)
	}
	r.wantSimple(n, 0)
	for i := range n {
		if got := r.recv(100); !bytes.Equal(got, pattern(100, uint64(i))) {
			t.Fatalf("write %d was lost", i)
		}
	}
	r.wantSimple(n+1, 0)
	r.wantSimple(n+2, 0)
	r.wantSimple(n+3, 0)
	want := make([]byte, 100)
	want[50] = 'x'
	if got := r.recv(100); !bytes.Equal(got, want) {
		t.Errorf("the last read: %q", got)
	}
	if b := s.mem.Batches.Load(); b > n/2 {
		t.Errorf("%d calls for %d writes that arrived together", b, n+1)
	}
}

// TestFailedBatch checks that of writes that arrive together only those fail
// that the device refuses, and those after, which it is not asked about again.
func TestFailedBatch(t *testing.T) {
	s := serve(t, nbd.Options{})
	var calls atomic.Int64
	s.mem.Hook = func(op nbd.Op, off, _ uint64) error {
		if calls.Add(1); off == 300 {
			return nbd.ENOSPC
		}
		return nil
	}
	r := s.enter(t, "", false)
	var msg []byte
	for i := range 8 {
		msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdWrite, Cookie: uint64(i), Offset: uint64(i) * 100, Length: 1})
		msg = append(msg, 'x')
	}
	r.send(msg)
	for i := range 8 {
		errno := nbd.Errno(0)
		if i >= 3 {
			errno = nbd.ENOSPC
		}
		r.wantSimple(uint64(i), errno)
	}
	if n := calls.Load(); n > 4+4 {
		t.Errorf("%d writes reached the device", n)
	}
}

// TestRefusedWriteKeepsOrder checks that a refused write in the middle of good
// ones neither swallows nor reorders anything, however it is cut into pieces.
func TestRefusedWriteKeepsOrder(t *testing.T) {
	s := serve(t, nbd.Options{})
	r := s.enter(t, "", false)
	var msg []byte
	for i, off := range []uint64{0, 1 << 50, 4096} {
		msg = wire.AppendRequest(msg, wire.Request{Type: wire.CmdWrite, Cookie: uint64(i), Offset: off, Length: 300_000})
		msg = append(msg, pattern(300_000, uint64(i))...)
	}
	for len(msg) > 0 {
		n := min(len(msg), 99_991)
		r.send(msg[:n])
		msg = msg[n:]
		time.Sleep(time.Millisecond)
	}
	r.wantSimple(0, 0)
	r.wantSimple(1, nbd.ENOSPC)
	r.wantSimple(2, 0)
	got := make([]byte, 300_000)
	if err := s.mem.ReadAt(got, 4096); err != nil || !bytes.Equal(got, pattern(300_000, 2)) {
		t.Error("the write after the refused one did not arrive")
	}
}

func TestObserve(t *testing.T) {
	var count, bytes [nbd.NumOps]atomic.Int64
	observe := func(op nbd.Op, n int, d time.Duration) {
		if d < 0 || d > patience {
			t.Errorf("%v took %v", op, d)
		}
		count[op].Add(1)
		bytes[op].Add(int64(n))
	}
	// Both the server and the export observe: each request counts twice.
	s := &server{socket: t.TempDir() + "/s", mem: nbdtest.NewMemory(mib)}
	exports := nbdtest.NewExports(nbd.Export{Device: s.mem, Observe: observe}, nbd.Export{Name: "other", Device: s.mem})
	serveAt(t, "unix", s.socket, exports, nbd.Options{Observe: observe})
	c := s.client(t, nbdclient.Options{Contexts: []string{"base:allocation"}})
	b := make([]byte, 1000)
	for _, cold := range []bool{false, true} {
		s.mem.Cold.Store(cold)
		_, err := c.BlockStatus(0, 10, 0)
		err = errors.Join(err, c.Read(b, 0), c.Write(b, 0, 0), c.Write(b, 0, nbdclient.FUA), c.Flush(), c.Trim(0, 100, 0), c.Zero(0, 1, 0), c.Cache(0, 5))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.client(t, nbdclient.Options{Export: "other"}).Flush(); err != nil {
		t.Fatal(err)
	}
	for op, want := range [nbd.NumOps][2]int64{{4, 4000}, {8, 8000}, {5, 0}, {4, 400}, {4, 4}, {4, 20}, {4, 40}} {
		if got := [2]int64{count[op].Load(), bytes[op].Load()}; got != want {
			t.Errorf("%v: got %v, want %v", nbd.Op(op), got, want)
		}
	}
}
