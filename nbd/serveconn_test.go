package nbd_test

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// TestServeConn: a connection by itself, whose client does the handshake in one
// place and the rest in another. ServeConn returns only when the device has done
// with the writes of a client that vanished.
func TestServeConn(t *testing.T) {
	mem := nbdtest.NewMemory(mib)
	under, release := make(chan struct{}), make(chan struct{})
	mem.Hook = func(op nbd.Op, off, _ uint64) error {
		if op == nbd.OpWrite && off == 4096 {
			close(under)
			<-release
		}
		return nil
	}
	s := &nbd.Server{Exporter: nbdtest.NewExports(nbd.Export{Name: "a", Device: mem})}
	ours, theirs := pair(t)
	over := make(chan error, 1)
	go func() { over <- s.ServeConn(ours) }()
	info, err := nbdclient.Handshake(t.Context(), theirs, "a")
	if err != nil || info.Size != mib {
		t.Fatalf("%+v, %v", info, err)
	}
	c := nbdclient.Resume(theirs, info)
	want, got := bytes.Repeat([]byte{7}, 512), make([]byte, 512)
	if err := errors.Join(c.Write(want, 0, 0), c.Flush(), c.Read(got, 0)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, same %v", err, bytes.Equal(got, want))
	}
	stuck := c.Go(nbdclient.Request{Op: nbd.OpWrite, Off: 4096, Data: want})
	<-under
	_ = theirs.Close()
	if r := <-stuck; r.Err == nil {
		t.Error("a write without an answer succeeded")
	}
	select {
	case err := <-over:
		t.Fatalf("it returned (%v) while a write was under way", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-over; err != nil {
		t.Error(err)
	}
	_ = c.Close()

	ours, theirs = pair(t)
	go func() { over <- s.ServeConn(ours) }()
	if _, err := nbdclient.Handshake(t.Context(), theirs, "none"); !errors.Is(err, nbdclient.ErrRefused) {
		t.Errorf("an export that is not there: %v", err)
	}
	<-over
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	ours, theirs = pair(t)
	if err := s.ServeConn(ours); err != nil {
		t.Errorf("after Shutdown: %v", err)
	}
	_ = theirs.Close()
}

// pair returns two connected sockets.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}
