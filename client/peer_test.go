//go:build linux

package client_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/errs"
)

// slowDisk is a source that gives a piece each time it has waited.
type slowDisk struct {
	pos, size uint64
	wait      time.Duration
}

func (d *slowDisk) Size() uint64 { return d.size }

func (d *slowDisk) Next() (client.Extent, error) {
	time.Sleep(d.wait)
	if d.pos == d.size {
		return client.Extent{}, io.EOF
	}
	e := client.Extent{Off: d.pos, Data: bytes.Repeat([]byte{7}, 1<<20)}
	d.pos += 1 << 20
	return e, nil
}

// TestSlowSource: while a source has nothing the daemon is told so, and does not
// take the client for one that is gone; one that says nothing is given up.
func TestSlowSource(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: api.Handler(&apitest.Backend{}, api.Options{StallTimeout: 500 * time.Millisecond})}
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	for beat, fails := range map[time.Duration]bool{50 * time.Millisecond: false, time.Hour: true} {
		c, err := client.New("tcp:"+l.Addr().String(), client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Beat(beat)
		out, err := c.Import(t.Context(), "v", 2<<20, &slowDisk{size: 2 << 20, wait: 1200 * time.Millisecond})
		if fails != (err != nil) || !fails && out.BytesRead != 2<<20 {
			t.Errorf("beats every %v: %+v, %v", beat, out, err)
		}
	}
}

// TestDaemonVanishes: a client that waits for the answer of a host that has lost
// its power notices.
func TestDaemonVanishes(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	over := make(chan struct{})
	defer close(over)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = nc.Close() }()
		_, _ = nc.Read(make([]byte, 4096))
		time.Sleep(200 * time.Millisecond) // what was read is acknowledged
		raw, err := nc.(*net.TCPConn).SyscallConn()
		if err != nil {
			return
		}
		drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
		})
		<-over
	}()
	c, err := client.New("tcp:"+l.Addr().String(), client.Options{PeerTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() { _, err := c.Host(t.Context()); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("error: %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("it waits still")
	}
}
