package crowd

import (
	"net"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a unix socket, and the first one's descriptor.
func pair(t *testing.T) (a, b net.Conn, raw syscall.RawConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if b, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	if raw, err = a.(*net.UnixConn).SyscallConn(); err != nil {
		t.Fatal(err)
	}
	return a, b, raw
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestCrowd: two connections in use on a busy process wait on threads of their own, until
// it is quiet again.
func TestCrowd(t *testing.T) {
	var c Crowd
	var turns [2]atomic.Uint64
	var busy, over atomic.Bool
	busy.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; !over.Load(); n++ {
			if turns[0].Add(1); n%64 == 0 {
				turns[1].Add(1)
			}
			if !busy.Load() {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	defer func() { over.Store(true); <-done }()
	first := c.Join(&turns[0])
	time.Sleep(3 * often)
	if c.on.Load() {
		t.Error("one connection is a crowd")
	}
	second := c.Join(&turns[1])
	until(t, "two busy connections are no crowd", c.on.Load)
	busy.Store(false)
	until(t, "a quiet process is crowded", func() bool { return !c.on.Load() })
	busy.Store(true)
	until(t, "busy again, and no crowd", c.on.Load)
	second.Leave()
	if c.on.Load() {
		t.Error("the one that stayed is a crowd")
	}
	first.Leave()
}

// TestWait: a member returns when there is something to read, when it is woken, when the
// other end has gone, and when it was idle for long. Then it gives its thread back.
func TestWait(t *testing.T) {
	_, b, raw := pair(t)
	var c Crowd
	var turns atomic.Uint64
	m := c.Join(&turns)
	defer m.Leave()
	m.Wait(raw)
	if m.onThread {
		t.Error("a thread without a crowd")
	}
	c.on.Store(true)
	began := time.Now()
	m.Wait(raw)
	if took := time.Since(began); m.onThread || took < wait {
		t.Errorf("an idle connection kept its thread (%v), or returned after %v", m.onThread, took)
	}
	time.AfterFunc(10*time.Millisecond, m.Wake)
	if m.Wait(raw); !m.onThread {
		t.Error("the woken member waited until it was idle")
	}
	m.Awake()
	time.AfterFunc(10*time.Millisecond, func() { _, _ = b.Write([]byte{1}) })
	if m.Wait(raw); !m.onThread {
		t.Error("the member did not see what came")
	}
	_ = b.Close()
	if m.Wait(raw); !m.onThread {
		t.Error("the member did not see the end")
	}
}
