package nbd_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// farDevice is a disk in memory that holds acknowledgements back until it is told.
type farDevice struct {
	nbd.Device
	mu   sync.Mutex
	open bool
	wake sync.Cond
}

func (d *farDevice) FlushWaits() bool { return true }

func (d *farDevice) TryAcknowledge() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

func (d *farDevice) Acknowledge() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.open {
		d.wake.Wait()
	}
	return nil
}

func (d *farDevice) Flush() error { return d.Acknowledge() }

func (d *farDevice) let() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = true
	d.wake.Broadcast()
}

// TestHeldAcknowledgements: while a device holds the replies of writes and
// flushes back, the connection goes on reading, and reads see what was written.
func TestHeldAcknowledgements(t *testing.T) {
	dev := &farDevice{Device: nbdtest.NewMemory(1 << 20)}
	dev.wake.L = &dev.mu
	s := &server{socket: filepath.Join(t.TempDir(), "nbd.sock")}
	s.Server, _ = serveAt(t, "unix", s.socket, nbdtest.NewExports(nbd.Export{Device: dev}), nbd.Options{})
	c := s.client(t, nbdclient.Options{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered := 0
	later := func(do func() error) {
		wg.Go(func() {
			if err := do(); err != nil {
				t.Error(err)
			}
			mu.Lock()
			answered++
			mu.Unlock()
		})
	}
	page := make([]byte, 4096)
	page[0] = 7
	later(func() error { return c.Write(page, 8192, 0) })
	later(func() error { return c.Write(page, 16384, nbdclient.FUA) })
	later(c.Flush)
	got := make([]byte, 4096)
	for deadline := time.Now().Add(5 * time.Second); got[0] != 7; {
		if err := c.Read(got, 8192); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("a read behind held writes does not see them")
		}
	}
	mu.Lock()
	if answered != 0 {
		t.Errorf("%d requests were answered too early", answered)
	}
	mu.Unlock()
	dev.let()
	wg.Wait()
}
