package nbd_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/fuzztest"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// script is a connection on which a client says a fixed text, in pieces, and
// hangs up, having read everything that came back.
type script struct {
	net.Conn // nil: only what follows is called
	pieces   [][]byte
	closed   chan struct{}
	once     sync.Once
}

func newScript(text []byte, piece int) *script {
	s := &script{closed: make(chan struct{})}
	for len(text) > 0 {
		n := min(len(text), piece)
		s.pieces = append(s.pieces, text[:n])
		text = text[n:]
	}
	return s
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
		return len(p), nil
	}
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// play serves one script and checks that it comes to an end and that every Open
// is followed by Closed.
func play(t *testing.T, text []byte, piece int) {
	mem := nbdtest.NewMemory(mib)
	mem.Cold.Store(piece%2 == 0)
	exports := nbdtest.NewExports(nbd.Export{Device: mem, Contexts: []string{"glide:dirty"}},
		nbd.Export{Name: "ro", Device: mem, ReadOnly: true})
	s := &nbd.Server{Exporter: exports, Options: nbd.Options{Readers: 2}}
	l := newPipes()
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	nc := newScript(text, piece)
	l.conns <- nc
	select {
	case <-nc.closed:
	case <-time.After(patience):
		t.Fatal("the server hangs")
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if n := exports.Connections("") + exports.Connections("ro"); n != 0 {
		t.Fatalf("%d exports were not closed", n)
	}
}

// played is what a server, its disk of a MiB, and the buffers of one connection
// take, whatever is said to it, bytes.
const played = 8 * mib

// FuzzHandshake has a client say anything from the beginning.
func FuzzHandshake(f *testing.F) {
	flags := wire.AppendClientFlags(nil, fixed)
	goOpt := wire.AppendOption(nil, wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{Name: "ro", Infos: []uint16{1, 2, 3}}))
	ctx := wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"base:", "glide:dirty"}})
	disc := wire.AppendRequest(nil, wire.Request{Type: wire.CmdDisc})
	for _, parts := range [][][]byte{
		{flags, goOpt, disc},
		{flags, wire.AppendOption(nil, wire.OptExportName, nil), disc},
		{flags, wire.AppendOption(nil, wire.OptList, nil), wire.AppendOption(nil, wire.OptAbort, nil)},
		{flags, wire.AppendOption(nil, wire.OptStructuredReply, nil), wire.AppendOption(nil, wire.OptSetMetaContext, ctx), goOpt},
		{flags, wire.AppendOption(nil, wire.OptListMetaContext, ctx), wire.AppendOption(nil, wire.OptInfo, ctx)},
		{flags, wire.AppendOption(nil, wire.OptStartTLS, nil), wire.AppendOption(nil, wire.OptExtendedHeaders, nil)},
		{flags, wire.AppendOption(nil, wire.OptGo, make([]byte, 70_000)), goOpt},
	} {
		f.Add(bytes.Join(parts, nil), byte(0))
		f.Add(bytes.Join(parts, nil), byte(7))
	}
	f.Fuzz(func(t *testing.T, text []byte, piece byte) {
		// An option of 64 KiB is read whole; a list of exports answers eight bytes.
		fuzztest.Bound(t, len(text), played, 256, func() { play(t, text, 1+int(piece)*13) })
	})
}

// FuzzTransmission has a client say anything after a good handshake.
func FuzzTransmission(f *testing.F) {
	hello := bytes.Join([][]byte{
		wire.AppendClientFlags(nil, fixed),
		wire.AppendOption(nil, wire.OptStructuredReply, nil),
		wire.AppendOption(nil, wire.OptSetMetaContext,
			wire.AppendContextRequest(nil, wire.ContextRequest{Queries: []string{"base:allocation", "glide:dirty"}})),
		wire.AppendOption(nil, wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})),
	}, nil)
	var all []byte
	for typ := range uint16(9) {
		req := wire.AppendRequest(nil, wire.Request{Type: typ, Cookie: uint64(typ), Offset: 100, Length: 50})
		if typ == wire.CmdWrite {
			req = append(req, pattern(50, 1)...)
		}
		if typ != wire.CmdDisc {
			all = append(all, req...)
		}
		f.Add(req, byte(1))
	}
	f.Add(all, byte(2))
	f.Add(append(all, wire.AppendRequest(nil, wire.Request{Type: wire.CmdDisc})...), byte(255))
	for _, r := range []wire.Request{
		{Type: wire.CmdWrite, Length: 32 * mib},
		{Type: wire.CmdWrite, Length: 200 * mib},
		{Type: wire.CmdWrite, Length: 1 << 31},
		{Type: wire.CmdWrite, Flags: wire.CmdFlagFUA, Offset: 1 << 40, Length: 3},
		{Type: wire.CmdRead, Length: mib},
		{Type: wire.CmdBlockStatus, Flags: wire.CmdFlagReqOne, Length: mib},
	} {
		f.Add(append(wire.AppendRequest(nil, r), all...), byte(3))
	}
	f.Fuzz(func(t *testing.T, text []byte, piece byte) {
		// The answer to a request of 28 bytes may be the whole disk, of a MiB here.
		fuzztest.Bound(t, len(text), played, 2*mib/wire.RequestSize, func() {
			play(t, append(bytes.Clone(hello), text...), 1+int(piece)*13)
		})
	})
}
