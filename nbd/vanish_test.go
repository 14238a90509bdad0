//go:build linux

package nbd_test

import (
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// vanish makes the host of a client's socket look as if it had lost its power:
// whatever is sent to it is dropped before TCP sees it, so that nothing is
// acknowledged, answered or reset.
func vanish(t *testing.T, nc net.Conn) {
	t.Helper()
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	if cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// remote is a client over TCP of a device in memory.
type remote struct {
	*raw
	mem     *nbdtest.Memory
	exports *nbdtest.Exports
	server  *nbd.Server
}

// connectTCP connects, and enters the transmission phase if that is wanted.
func connectTCP(t *testing.T, o nbd.Options, hook func(op nbd.Op, off, n uint64) error, enter bool) *remote {
	t.Helper()
	mem := nbdtest.NewMemory(64 * mib)
	mem.Hook = hook
	exports := nbdtest.NewExports(nbd.Export{Device: mem})
	s, addr := serveAt(t, "tcp", "127.0.0.1:0", exports, o)
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(4 * patience))
	r := &remote{&raw{t, nc}, mem, exports, s}
	r.send(wire.AppendClientFlags(nil, fixed))
	r.recv(wire.GreetingSize)
	if enter {
		infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
	}
	return r
}

// gone waits until the server holds nothing of the connection any more.
func (r *remote) gone() {
	r.tb.Helper()
	eventually(r.tb, "the export is closed", func() bool { return r.exports.Connections("") == 0 })
}

// TestVanishes: a client whose host loses power is noticed in every state,
// whichever side had something to send.
func TestVanishes(t *testing.T) {
	t.Parallel()
	o := nbd.Options{PeerTimeout: 2 * time.Second, HandshakeTimeout: 2 * time.Second}
	t.Run("in the handshake", func(t *testing.T) {
		t.Parallel()
		r := connectTCP(t, o, nil, false)
		vanish(t, r.Conn)
		eventually(t, "the connection ends", func() bool { return r.server.Counts().Connections == 0 })
	})
	t.Run("while nothing is asked", func(t *testing.T) {
		t.Parallel()
		r := connectTCP(t, o, nil, true)
		r.alive()
		vanish(t, r.Conn)
		r.gone()
	})
	t.Run("in the middle of a write", func(t *testing.T) {
		t.Parallel()
		r := connectTCP(t, o, nil, true)
		r.request(wire.Request{Type: wire.CmdWrite, Length: 4 << 20}, make([]byte, 3<<20))
		vanish(t, r.Conn)
		r.gone()
	})
	t.Run("in the middle of a refused write", func(t *testing.T) {
		t.Parallel()
		r := connectTCP(t, o, nil, true)
		r.request(wire.Request{Type: wire.CmdWrite, Offset: 1 << 40, Length: 64 << 20}, make([]byte, 1<<20))
		vanish(t, r.Conn)
		r.gone()
	})
	t.Run("in the middle of the reply to a read", func(t *testing.T) {
		t.Parallel()
		r := connectTCP(t, o, nil, true)
		for range 8 {
			r.request(wire.Request{Type: wire.CmdRead, Length: 8 << 20}, nil)
		}
		r.recv(wire.SimpleReplySize + 1000)
		vanish(t, r.Conn)
		r.gone()
	})
	t.Run("before a reply that takes long", func(t *testing.T) {
		t.Parallel()
		free := make(chan struct{})
		r := connectTCP(t, o, func(nbd.Op, uint64, uint64) error { <-free; return nil }, true)
		r.mem.Cold.Store(true)
		r.request(wire.Request{Type: wire.CmdRead, Length: 4096}, nil)
		vanish(t, r.Conn)
		r.gone()
		close(free)
	})
	t.Run("while a write waits for room", func(t *testing.T) {
		t.Parallel()
		var once sync.Once
		free, waits := make(chan struct{}), make(chan struct{})
		r := connectTCP(t, o, func(op nbd.Op, _, _ uint64) error {
			once.Do(func() { close(waits) })
			<-free
			return nil
		}, true)
		for range 4 { // one waits, and others behind it, in the socket too
			r.request(wire.Request{Type: wire.CmdWrite, Length: 2 << 20}, make([]byte, 2<<20))
		}
		<-waits
		vanish(t, r.Conn)
		r.gone()
		close(free)
	})
}

// TestStandsStill: a client over TCP whose machine lives on, and which does not
// read, or send the rest of a request, is given up; one that owes nothing is not.
func TestStandsStill(t *testing.T) {
	t.Parallel()
	o := nbd.Options{WriteTimeout: time.Second}
	idle := connectTCP(t, o, nil, true)
	half := connectTCP(t, o, nil, true)
	half.request(wire.Request{Type: wire.CmdWrite, Length: 4 << 20}, make([]byte, 3<<20))
	head := connectTCP(t, o, nil, true)
	head.send(make([]byte, wire.RequestSize-1))
	full := connectTCP(t, o, nil, true)
	for range 8 {
		full.request(wire.Request{Type: wire.CmdRead, Length: 8 << 20}, nil)
	}
	half.gone()
	head.gone()
	full.gone()
	idle.alive()
}

// TestPausedLocally: a client on this machine that stands still is paused, and
// goes on where it was, unless its like hold too much memory.
func TestPausedLocally(t *testing.T) {
	t.Parallel()
	s := serve(t, nbd.Options{WriteTimeout: 200 * time.Millisecond})
	reading, writing := s.enter(t, "", false), s.enter(t, "", false)
	for range 4 {
		reading.request(wire.Request{Type: wire.CmdRead, Cookie: 7, Length: 8 << 20}, nil)
	}
	writing.request(wire.Request{Type: wire.CmdWrite, Cookie: 8, Length: 4 << 20}, make([]byte, 3<<20))
	time.Sleep(1200 * time.Millisecond) // six times WriteTimeout
	for range 4 {
		reading.wantSimple(7, 0)
		reading.recv(8 << 20)
	}
	reading.alive()
	writing.send(make([]byte, 1<<20))
	writing.wantSimple(8, 0)
	writing.alive()

	var log logs
	s = serve(t, nbd.LimitStalled(nbd.Options{WriteTimeout: 200 * time.Millisecond, LocalTimeout: time.Hour, Logger: log.logger()}, 12*mib))
	much, little := s.enter(t, "", false), s.enter(t, "", false)
	for range 2 {
		much.request(wire.Request{Type: wire.CmdRead, Length: 10 << 20}, nil)
	}
	little.request(wire.Request{Type: wire.CmdRead, Cookie: 7, Length: 10 << 20}, nil)
	eventually(t, "the one with the most is given up", func() bool { return s.exports.Connections("") == 1 })
	time.Sleep(700 * time.Millisecond)
	little.wantSimple(7, 0)
	little.recv(10 << 20)
	little.alive()
}

// TestHandshakeThatIsNotRead: who asks for lists and does not read them is gone
// when the handshake has to be over.
func TestHandshakeThatIsNotRead(t *testing.T) {
	t.Parallel()
	exports := make([]nbd.Export, 3000)
	for i := range exports {
		exports[i] = nbd.Export{Name: string(pattern(1, uint64(i))[0]%26+'a') + pad(i), Device: nbdtest.NewMemory(512)}
	}
	s, addr := serveAt(t, "tcp", "127.0.0.1:0", nbdtest.NewExports(exports...), nbd.Options{HandshakeTimeout: time.Second})
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	go func() {
		b := wire.AppendClientFlags(nil, fixed)
		for range 4000 {
			b = wire.AppendOption(b, wire.OptList, nil)
		}
		_, _ = nc.Write(b)
	}()
	eventually(t, "it is connected", func() bool { return s.Counts().Connections == 1 })
	eventually(t, "it is given up", func() bool { return s.Counts().Connections == 0 })
}

// pad is i in a thousand characters.
func pad(i int) string {
	b := make([]byte, 1000)
	for j := range b {
		b[j] = byte('0' + (i>>(j%16))&7)
	}
	return string(b)
}
