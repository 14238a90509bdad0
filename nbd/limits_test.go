package nbd_test

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/internal/wire"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// TestTooManyConnections: one more than there may be is told so, at once, by
// every way to ask for an export; those that are connected lose nothing, and one
// that leaves makes room.
func TestTooManyConnections(t *testing.T) {
	var log logs
	s := serve(t, nbd.Options{MaxConns: 3, Logger: log.logger()})
	a, b := s.client(t, nbdclient.Options{}), s.client(t, nbdclient.Options{})
	half := s.dial(t, fixed) // one in the handshake counts as well
	const why = "too many NBD connections: there are 3, the limit of this server"
	for range 2 {
		_, err := nbdclient.Dial(t.Context(), "unix", s.socket, nbdclient.Options{})
		if !errors.Is(err, nbdclient.ErrRefused) || !strings.Contains(err.Error(), why) {
			t.Errorf("one too many: %v", err)
		}
	}
	r := s.dial(t, fixed)
	r.wantReply(wire.OptStartTLS, nil, wire.RepErrPolicy, why)
	r.wantReply(wire.OptStructuredReply, nil, wire.RepErrPolicy, why)
	r.wantReply(wire.OptList, nil, wire.RepErrPolicy, why)
	r.wantReply(wire.OptInfo, wire.AppendInfoRequest(nil, wire.InfoRequest{}), wire.RepErrPolicy, why)
	r.wantReply(wire.OptAbort, nil, wire.RepAck, "")
	r.wantEnd()
	r = s.dial(t, fixed)
	r.send(wire.AppendOption(nil, wire.OptExportName, nil))
	r.wantEnd()
	t.Setenv("LIBNBD_DEBUG", "1") // without it libnbd shows no server's text
	out, err := tryTool(t, "nbdinfo", "nbd+unix:///?socket="+s.socket)
	if err == nil || !strings.Contains(out, why) {
		t.Errorf("nbdinfo: %v\n%s", err, out)
	}
	out, err = tryTool(t, "qemu-img", "info", "nbd+unix:///?socket="+s.socket)
	if err == nil || !strings.Contains(out, why) {
		t.Errorf("qemu-img: %v\n%s", err, out)
	}
	if err := errors.Join(a.Write([]byte("x"), 0, 0), a.Flush(), b.Read(make([]byte, 1), 0)); err != nil {
		t.Error(err)
	}
	if n := s.Counts(); n.Connections != 3 || n.Limit != 3 || n.Refused < 6 {
		t.Errorf("%+v", n)
	}
	if n := log.count("connections are refused"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
	_ = half.Close()
	eventually(t, "there is room again", func() bool {
		c, err := nbdclient.Dial(t.Context(), "unix", s.socket, nbdclient.Options{})
		return err == nil && errors.Join(c.Flush(), c.Close()) == nil
	})
}

// TestManyTooMany: those that are turned away are bounded themselves, also when
// they do not listen, and take nothing from the others.
func TestManyTooMany(t *testing.T) {
	t.Parallel()
	s := serve(t, nbd.Options{MaxConns: 1, HandshakeTimeout: time.Second})
	a := s.client(t, nbdclient.Options{})
	var silent []net.Conn
	for range 300 {
		nc, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		silent = append(silent, nc)
	}
	eventually(t, "all were seen", func() bool { return s.Counts().Refused == 300 })
	if err := a.Flush(); err != nil {
		t.Error(err)
	}
	closed := 0
	for _, nc := range silent {
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if n, err := nc.Read(make([]byte, wire.GreetingSize)); n == 0 && err != nil && !isTimeout(err) {
			closed++
		}
	}
	if closed < 300-64 {
		t.Errorf("%d of 300 were closed at once", closed)
	}
	eventually(t, "the others are told, too", func() bool {
		_, err := nbdclient.Dial(t.Context(), "unix", s.socket, nbdclient.Options{})
		return errors.Is(err, nbdclient.ErrRefused)
	})
	if n := s.Counts().Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestServeConnIsExempt: what the operator attaches has room.
func TestServeConnIsExempt(t *testing.T) {
	s := serve(t, nbd.Options{MaxConns: 1})
	s.client(t, nbdclient.Options{})
	ours, theirs := pair(t)
	over := make(chan error, 1)
	go func() { over <- s.ServeConn(ours) }()
	info, err := nbdclient.Handshake(t.Context(), theirs, "")
	if err != nil {
		t.Fatal(err)
	}
	c := nbdclient.Resume(theirs, info)
	if err := errors.Join(c.Flush(), c.Close(), <-over); err != nil {
		t.Error(err)
	}
}

// troubled is a listener that fails in ways that pass.
type troubled struct {
	net.Listener
	errs  []error
	calls atomic.Int64
}

func (l *troubled) Accept() (net.Conn, error) {
	if n := int(l.calls.Add(1)); n <= len(l.errs) {
		return nil, &net.OpError{Op: "accept", Err: l.errs[n-1]}
	}
	return l.Listener.Accept()
}

// TestAcceptFails: whatever passes is waited for, not in a busy loop, and is in
// the log once; the listener lives on.
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	bad := &troubled{Listener: l}
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPERM, syscall.EPROTO, syscall.EHOSTUNREACH,
	} {
		bad.errs = append(bad.errs, os.NewSyscallError("accept4", e))
	}
	var log logs
	s := &nbd.Server{
		Exporter: nbdtest.NewExports(nbd.Export{Device: nbdtest.NewMemory(mib)}),
		Options:  nbd.Options{Logger: log.logger()},
	}
	done := make(chan error)
	began := time.Now()
	go func() { done <- s.Serve(t.Context(), bad) }()
	c, err := nbdclient.Dial(t.Context(), "unix", l.Addr().String(), nbdclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Flush(), c.Close()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("eight failures took %v: it does not wait", took)
	}
	if n := log.count("cannot be accepted"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
	if err := errors.Join(s.Shutdown(t.Context()), <-done); err != nil {
		t.Error(err)
	}
}
