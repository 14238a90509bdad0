package nbd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test for something that should happen soon.
const patience = 10 * time.Second

// server is a server under test, on a unix socket.
type server struct {
	*nbd.Server
	socket  string
	exports *nbdtest.Exports
	mem     *nbdtest.Memory // of the default export
}

// serve serves a device of 64 MiB in memory as the exports "" and "ro" until the
// end of the test.
func serve(tb testing.TB, o nbd.Options) *server {
	tb.Helper()
	mem := nbdtest.NewMemory(64 << 20)
	exports := nbdtest.NewExports(
		nbd.Export{Device: mem, Description: "in memory", Contexts: []string{"glide:dirty"}},
		nbd.Export{Name: "ro", Device: mem, ReadOnly: true},
	)
	s := &server{socket: filepath.Join(tb.TempDir(), "nbd.sock"), exports: exports, mem: mem}
	s.Server, _ = serveAt(tb, "unix", s.socket, exports, o)
	return s
}

// serveAt serves exports on any address until the end of the test.
func serveAt(tb testing.TB, network, address string, e nbd.Exporter, o nbd.Options) (*nbd.Server, net.Addr) {
	tb.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	s := &nbd.Server{Exporter: e, Options: o}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return s, l.Addr()
}

// client connects a client that is closed at the end of the test.
func (s *server) client(tb testing.TB, o nbdclient.Options) *nbdclient.Client {
	tb.Helper()
	c, err := nbdclient.Dial(tb.Context(), "unix", s.socket, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually waits until a condition holds.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// pattern returns n bytes that depend on seed.
func pattern(n int, seed uint64) []byte {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// wantErrno checks the number and the text of an error reply.
func wantErrno(tb testing.TB, err error, errno nbd.Errno, text string) {
	tb.Helper()
	if !errors.Is(err, errno) {
		tb.Errorf("got error %v, want %v", err, errno)
	} else if !strings.Contains(err.Error(), text) {
		tb.Errorf("error %q does not say %q", err, text)
	}
}

// raw speaks the protocol byte by byte.
type raw struct {
	tb testing.TB
	net.Conn
}

// dial connects and receives the greeting.
func (s *server) dial(tb testing.TB, clientFlags uint32) *raw {
	tb.Helper()
	nc, err := net.Dial("unix", s.socket)
	if err != nil {
		tb.Fatal(err)
	}
	r := &raw{tb, nc}
	tb.Cleanup(func() { _ = r.Close() })
	_ = nc.SetDeadline(time.Now().Add(2 * patience))
	flags, err := wire.DecodeGreeting(r.recv(wire.GreetingSize))
	if err != nil || flags != wire.FlagFixedNewstyle|wire.FlagNoZeroes {
		tb.Fatalf("greeting: flags %#x, %v", flags, err)
	}
	r.send(wire.AppendClientFlags(nil, clientFlags))
	return r
}

func (r *raw) send(b []byte) {
	r.tb.Helper()
	if _, err := r.Write(b); err != nil {
		r.tb.Fatalf("send: %v", err)
	}
}

func (r *raw) recv(n int) []byte {
	r.tb.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		r.tb.Fatalf("receive: %v", err)
	}
	return b
}

// wantEnd expects that the server closes the connection without another byte.
func (r *raw) wantEnd() {
	r.tb.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		r.tb.Fatalf("the server goes on: %d bytes, %v", n, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// reply is a reply to an option.
type reply struct {
	kind uint32
	data []byte
}

// option sends an option and returns the replies to it.
func (r *raw) option(option uint32, data []byte) (replies []reply) {
	r.tb.Helper()
	r.send(wire.AppendOption(nil, option, data))
	return r.replies(option)
}

// replies receives the replies to an option.
func (r *raw) replies(option uint32) (replies []reply) {
	r.tb.Helper()
	for {
		h, err := wire.DecodeOptionReply(r.recv(wire.OptionReplyHeaderSize))
		if err != nil {
			r.tb.Fatal(err)
		}
		if h.Option != option {
			r.tb.Fatalf("reply to option %d instead of %d", h.Option, option)
		}
		replies = append(replies, reply{h.Type, r.recv(int(h.Length))})
		if h.Type == wire.RepAck || h.Type&wire.RepError != 0 {
			return replies
		}
	}
}

// wantReply sends an option that is to be answered with one reply of a kind,
// with text in it.
func (r *raw) wantReply(option uint32, data []byte, kind uint32, text string) {
	r.tb.Helper()
	got := r.option(option, data)
	if len(got) != 1 || got[0].kind != kind || !bytes.Contains(got[0].data, []byte(text)) {
		r.tb.Fatalf("%s: got %v, want %s with %q", wire.OptionName(option), got, wire.ReplyName(kind), text)
	}
}

// enter enters the transmission phase of an export.
func (s *server) enter(tb testing.TB, export string, structured bool) *raw {
	tb.Helper()
	r := s.dial(tb, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	if structured {
		r.wantReply(wire.OptStructuredReply, nil, wire.RepAck, "")
	}
	got := r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{Name: export}))
	if last := got[len(got)-1]; last.kind != wire.RepAck {
		tb.Fatalf("GO: %s: %s", wire.ReplyName(last.kind), last.data)
	}
	return r
}

// request sends a request.
func (r *raw) request(req wire.Request, payload []byte) {
	r.tb.Helper()
	r.send(append(wire.AppendRequest(nil, req), payload...))
}

// wantSimple expects a simple reply.
func (r *raw) wantSimple(cookie uint64, errno nbd.Errno) {
	r.tb.Helper()
	got, err := wire.DecodeSimpleReply(r.recv(wire.SimpleReplySize))
	if err != nil || got.Cookie != cookie || got.Error != uint32(errno) {
		r.tb.Fatalf("got reply %+v, %v; want cookie %d, error %d", got, err, cookie, errno)
	}
}

// chunk receives one chunk.
func (r *raw) chunk() (wire.Chunk, []byte) {
	r.tb.Helper()
	h, err := wire.DecodeChunk(r.recv(wire.ChunkHeaderSize))
	if err != nil {
		r.tb.Fatal(err)
	}
	return h, r.recv(int(h.Length))
}

// wantError expects an error chunk with a message.
func (r *raw) wantError(cookie uint64, errno nbd.Errno, text string) {
	r.tb.Helper()
	h, payload := r.chunk()
	if h.Type != wire.ChunkError || h.Flags != wire.ChunkFlagDone || h.Cookie != cookie {
		r.tb.Fatalf("got chunk %+v; want an error for cookie %d", h, cookie)
	}
	got, msg, err := wire.DecodeError(payload)
	if err != nil || got != uint32(errno) || !strings.Contains(msg, text) {
		r.tb.Fatalf("got error %d %q, %v; want %d with %q", got, msg, err, errno, text)
	}
}

// alive checks that the connection still answers.
func (r *raw) alive() {
	r.tb.Helper()
	r.request(wire.Request{Type: wire.CmdFlush, Cookie: 0xa11e}, nil)
	r.wantSimple(0xa11e, 0)
}
