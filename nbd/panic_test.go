package nbd_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// buggy is a device that panics in the method that is armed.
type buggy struct {
	*nbdtest.Memory
	armed atomic.Pointer[string]
	slow  bool // flushes wait
}

func (b *buggy) panicIn(method string) {
	if m := b.armed.Load(); m != nil && *m == method {
		_ = (*m)[len(method)] // as bugs do
	}
}

func (b *buggy) Size() uint64 { b.panicIn("Size"); return b.Memory.Size() }
func (b *buggy) ReadAt(p []byte, off uint64) error {
	b.panicIn("ReadAt")
	return b.Memory.ReadAt(p, off)
}
func (b *buggy) TryReadAt(p []byte, off uint64) bool {
	b.panicIn("TryReadAt")
	return b.Memory.TryReadAt(p, off)
}
func (b *buggy) WriteFrames(offs []uint64, frames [][]byte) error {
	b.panicIn("WriteFrames")
	return b.Memory.WriteFrames(offs, frames)
}
func (b *buggy) Zero(off, n uint64, punch bool) error {
	b.panicIn("Zero")
	return b.Memory.Zero(off, n, punch)
}
func (b *buggy) Flush() error                { b.panicIn("Flush"); return b.Memory.Flush() }
func (b *buggy) Prefetch(off, length uint64) { b.panicIn("Prefetch"); b.Memory.Prefetch(off, length) }
func (b *buggy) Extents(dst []nbd.Extent, context string, off, n uint64) ([]nbd.Extent, error) {
	b.panicIn("Extents")
	return b.Memory.Extents(dst, context, off, n)
}
func (b *buggy) FlushWaits() bool     { b.panicIn("FlushWaits"); return b.slow }
func (b *buggy) TryAcknowledge() bool { b.panicIn("TryAcknowledge"); return !b.slow }
func (b *buggy) Acknowledge() error   { b.panicIn("Acknowledge"); return nil }

// TestDevicePanics: a panic of the device is the answer to one request. The
// connection lives on, others lose nothing, and the log has the stack once.
func TestDevicePanics(t *testing.T) {
	for method, want := range map[string]map[uint16]nbd.Errno{ // by command; all others succeed
		"Size":           {wire.CmdRead: nbd.EIO, wire.CmdWrite: nbd.EIO, wire.CmdTrim: nbd.EIO, wire.CmdCache: nbd.EIO, wire.CmdBlockStatus: nbd.EIO},
		"ReadAt":         {wire.CmdRead: nbd.EIO},
		"TryReadAt":      {},
		"WriteFrames":    {wire.CmdWrite: nbd.EIO},
		"Zero":           {wire.CmdTrim: nbd.EIO},
		"Flush":          {wire.CmdFlush: nbd.EIO},
		"Prefetch":       {wire.CmdCache: nbd.EIO},
		"Extents":        {wire.CmdBlockStatus: nbd.EIO},
		"FlushWaits":     {},
		"TryAcknowledge": {},
		"Acknowledge":    {wire.CmdWrite: nbd.EIO, wire.CmdTrim: nbd.EIO},
	} {
		t.Run(method, func(t *testing.T) {
			var log logs
			var told atomic.Int64
			dev := &buggy{Memory: nbdtest.NewMemory(mib), slow: method == "Acknowledge"}
			dev.Cold.Store(method == "ReadAt")
			other := nbdtest.NewMemory(mib)
			s := &server{socket: t.TempDir() + "/s", exports: nbdtest.NewExports(nbd.Export{Device: dev}, nbd.Export{Name: "other", Device: other})}
			s.Server, _ = serveAt(t, "unix", s.socket, s.exports, nbd.Options{Logger: log.logger(), OnPanic: func(v any, stack []byte) {
				if !strings.Contains(string(stack), "panicIn") {
					t.Errorf("the stack is not that of the panic:\n%s", stack)
				}
				told.Add(1)
			}})
			c, beside := s.client(t, nbdclient.Options{}), s.client(t, nbdclient.Options{Export: "other"})
			r := s.dial(t, fixed)
			r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
			r.option(wire.OptSetMetaContext, wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"base:allocation"}}))
			infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
			dev.armed.Store(&method)
			for range 3 {
				for _, cmd := range []uint16{wire.CmdRead, wire.CmdWrite, wire.CmdTrim, wire.CmdFlush, wire.CmdCache, wire.CmdBlockStatus} {
					req, payload := wire.Request{Type: cmd, Cookie: 5, Length: 4096}, []byte(nil)
					switch cmd {
					case wire.CmdWrite:
						payload = make([]byte, 4096)
					case wire.CmdFlush:
						req.Length = 0
					}
					r.request(req, payload)
					if got := r.errnoOfReply(5); got != want[cmd] {
						t.Errorf("command %d: error %d, want %d", cmd, got, want[cmd])
					}
				}
			}
			// Many at once, over another connection of the export, and one beside it.
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					_ = errors.Join(c.Read(make([]byte, 512), 0), c.Write(make([]byte, 512), 0, 0), c.Zero(0, 512, 0))
					_ = c.Flush()
					if err := errors.Join(beside.Write([]byte("x"), 0, nbdclient.FUA), beside.Read(make([]byte, 1), 0)); err != nil {
						t.Errorf("another guest: %v", err)
					}
				})
			}
			wg.Wait()
			dev.armed.Store(nil)
			if err := errors.Join(c.Write([]byte("x"), 0, 0), c.Flush(), c.Read(make([]byte, 512), 0), c.Zero(0, 512, 0)); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if n := s.Counts().Panics; n == 0 || n != uint64(told.Load()) {
				t.Errorf("%d panics are counted, of %d", n, told.Load())
			}
			if n := log.count("stack="); n == 0 || n > 8 {
				t.Errorf("the log has %d stacks", n)
			}
		})
	}
}

// errnoOfReply receives a structured reply to its end, or a simple one.
func (r *raw) errnoOfReply(cookie uint64) nbd.Errno {
	r.tb.Helper()
	head := r.recv(wire.SimpleReplySize)
	if s, err := wire.DecodeSimpleReply(head); err == nil {
		if s.Cookie != cookie {
			r.tb.Fatalf("%+v", s)
		}
		return nbd.Errno(s.Error)
	}
	h, err := wire.DecodeChunk(append(head, r.recv(wire.ChunkHeaderSize-wire.SimpleReplySize)...))
	if err != nil || h.Cookie != cookie || h.Flags&wire.ChunkFlagDone == 0 {
		r.tb.Fatalf("%+v, %v", h, err)
	}
	payload := r.recv(int(h.Length))
	if h.Type != wire.ChunkError {
		return 0
	}
	errno, _, err := wire.DecodeError(payload)
	if err != nil {
		r.tb.Fatal(err)
	}
	return nbd.Errno(errno)
}

// hostile is an exporter that panics in what is armed.
type hostile struct {
	*nbdtest.Exports
	armed string
}

func (h *hostile) Open(name string) (*nbd.Export, error) {
	x, err := h.Exports.Open(name)
	if h.armed == "Open" {
		panic("Open")
	}
	if err != nil {
		return nil, err
	}
	closed := x.Closed
	x.Closed = func() {
		closed()
		if h.armed == "Closed" {
			panic("Closed")
		}
	}
	if h.armed == "Observe" {
		x.Observe = func(nbd.Op, int, time.Duration) { panic("Observe") }
	}
	return x, err
}

func (h *hostile) Describe(name string) (*nbd.Export, error) {
	if h.armed == "Describe" {
		panic("Describe")
	}
	return h.Exports.Describe(name)
}

func (h *hostile) List() []string {
	if h.armed == "List" {
		panic("List")
	}
	return h.Exports.List()
}

// TestExporterPanics: neither does a panic around the device end more than its
// connection.
func TestExporterPanics(t *testing.T) {
	for _, armed := range []string{"Open", "Describe", "List", "Closed", "Observe"} {
		mem := nbdtest.NewMemory(mib)
		mem.Cold.Store(true)
		h := &hostile{nbdtest.NewExports(nbd.Export{Device: mem}), armed}
		s := &server{socket: t.TempDir() + "/s"}
		s.Server, _ = serveAt(t, "unix", s.socket, h, nbd.Options{})
		info := wire.AppendInfoRequest(nil, wire.InfoRequest{})
		r := s.dial(t, fixed)
		switch armed {
		case "Open":
			r.wantReply(wire.OptGo, info, wire.RepErrUnknown, "bug")
		case "Describe":
			r.wantReply(wire.OptInfo, info, wire.RepErrUnknown, "bug")
		case "List":
			r.wantReply(wire.OptList, nil, wire.RepErrUnknown, "bug")
		case "Closed":
			infos(t, r.option(wire.OptGo, info))
			_ = r.Close()
		case "Observe": // in the pool, in the flusher, in the receive loop
			for _, req := range []wire.Request{{Type: wire.CmdRead, Length: 512}, {Type: wire.CmdFlush}, {Type: wire.CmdTrim, Length: 512}} {
				r := s.enter(t, "", false)
				r.request(req, nil)
				r.wantEnd()
			}
			r := s.enter(t, "", false)
			r.send(wire.AppendRequest(wire.AppendRequest(nil, wire.Request{Type: wire.CmdFlush}), wire.Request{Type: wire.CmdFlush}))
			r.wantEnd()
		}
		eventually(t, "it is counted", func() bool { return s.Counts().Panics > 0 })
		_ = r.Close()
		eventually(t, "nothing is left of it", func() bool { return s.Counts().Connections == 0 })
		if n := h.Connections(""); armed != "Open" && n != 0 {
			t.Errorf("%s: %d connections were not closed", armed, n)
		}
	}
}
