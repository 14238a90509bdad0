package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

type scarce struct {
	net.Listener
	left atomic.Int64
}

func (l *scarce) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestOutOfDescriptors(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	sc := &scarce{Listener: l}
	sc.left.Store(3)
	var log logs
	s := &nbd.Server{
		Exporter: nbdtest.NewExports(nbd.Export{Device: nbdtest.NewMemory(mib)}),
		Options:  nbd.Options{Logger: log.logger()},
	}
	done := make(chan error)
	go func() { done <- s.Serve(t.Context(), sc) }()
	c, err := nbdclient.Dial(t.Context(), "unix", l.Addr().String(), nbdclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Flush(), c.Close()); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"too many open files", "nbd: connected", `why="the client disconnected"`} {
		eventually(t, "the log says "+want, func() bool { return log.contains(want) })
	}
	if err := errors.Join(s.Shutdown(t.Context()), <-done); err != nil {
		t.Error(err)
	}
}

func TestShutdown(t *testing.T) {
	s := serve(t, nbd.Options{})
	s.mem.Cold.Store(true)
	g := newGate(t, s.mem, nbd.OpRead)
	idle, busy := s.client(t, nbdclient.Options{}), s.client(t, nbdclient.Options{})
	half := s.dial(t, fixed)
	read := busy.Go(nbdclient.Request{Op: nbd.OpRead, Data: make([]byte, 4096)})
	eventually(t, "the read is under way", func() bool { return g.waiting.Load() == 1 })
	done := make(chan error)
	go func() { done <- s.Shutdown(context.Background()) }()
	eventually(t, "the idle connection is closed", func() bool { return idle.Flush() != nil })
	half.wantEnd()
	if _, err := net.Dial("unix", s.socket); err == nil {
		t.Error("the server still accepts connections")
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait: %v", err)
	case <-read:
		t.Fatal("the read was answered")
	case <-time.After(50 * time.Millisecond):
	}
	g.unlock()
	if r := <-read; r.Err != nil {
		t.Errorf("a read that was under way: %v", r.Err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := s.exports.Connections(""); n != 0 {
		t.Errorf("%d connections were not closed", n)
	}
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), l); err != nil {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

func TestShutdownTCP(t *testing.T) {
	t.Parallel()
	mem := nbdtest.NewMemory(64 * mib)
	s, addr := serveAt(t, "tcp", "127.0.0.1:0", nbdtest.NewExports(nbd.Export{Device: mem}), nbd.Options{})
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(patience))
	r := &raw{t, nc}
	r.send(wire.AppendClientFlags(nil, fixed))
	r.recv(wire.GreetingSize)
	infos(t, r.option(wire.OptGo, wire.AppendInfoRequest(nil, wire.InfoRequest{})))
	const size = 32 << 10
	go func() {
		msg := bytes.Repeat(wire.AppendRequest(nil, wire.Request{Type: wire.CmdRead, Length: size}), 100)
		for {
			if _, err := nc.Write(msg); err != nil {
				return
			}
		}
	}()
	r.wantSimple(0, 0)
	go func() { _ = s.Shutdown(context.Background()) }()
	got, err := io.ReadAll(nc)
	if err != nil {
		t.Errorf("the connection was cut: %v", err)
	}
	if want, n := mem.Served.Load(), int64(size); int64(len(got))/(n+wire.SimpleReplySize)+1 != want/n {
		t.Errorf("%d bytes arrived, of %d that were read", len(got), want)
	}
}

func TestShutdownDeadline(t *testing.T) {
	for _, op := range []nbd.Op{nbd.OpRead, nbd.OpWrite} {
		s := serve(t, nbd.Options{})
		s.mem.Cold.Store(true)
		g := newGate(t, s.mem, op)
		c := s.client(t, nbdclient.Options{})
		half := s.dial(t, fixed)
		call := c.Go(nbdclient.Request{Op: op, Data: make([]byte, 512)})
		eventually(t, "the request is under way", func() bool { return g.waiting.Load() == 1 })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		cancel()
		if r := <-call; r.Err == nil {
			t.Error("the stuck request was answered")
		}
		half.wantEnd()
		eventually(t, "Closed is called", func() bool { return s.exports.Connections("") == 0 })
		g.unlock()
	}
}

func TestServeErrors(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	s := &nbd.Server{Options: nbd.Options{TLS: nbd.TLSRequire, Readers: -1, WriteTimeout: -1}}
	err = s.Serve(t.Context(), l)
	for _, want := range []string{"TLSConfig", "Readers", "WriteTimeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Serve with bad options: %v does not name %s", err, want)
		}
	}
	l, err = net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s = &nbd.Server{Exporter: nbdtest.NewExports()}
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve with a context that ended: %v", err)
	}
	_ = l.Close()
	if err := s.Serve(t.Context(), l); err == nil {
		t.Error("Serve on a closed listener succeeded")
	}
}
