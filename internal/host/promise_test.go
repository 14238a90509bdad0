package host

import (
	"errors"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/nbd"
)

// TestRPOOfForcedWrites: a write with FUA, which is flushed before it is acknowledged, is
// in the store within the rpo although nothing else is written.
func TestRPOOfForcedWrites(t *testing.T) { bubble(t, testRPOOfForcedWrites) }

func testRPOOfForcedWrites(t *testing.T) {
	h := virtual(t, newBed(t))
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: "continuous", RPOms: 1000}))
	dev := guest(t, h, "v")
	for range 3 {
		time.Sleep(time.Hour)
		frame := append(make([]byte, nbd.Headroom), random(1, 4096)...)
		err := dev.WriteFrames([]uint64{0}, [][]byte{frame})
		if err = errors.Join(err, dev.Flush(), dev.Acknowledge()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if v := must[api.Volume](t)(h.Show(ctx, "v")); v.DirtyBytes != 0 || v.Reason != "" {
			t.Fatalf("a second later the store does not have it: %+v", v)
		}
	}
}

// TestPromiseBegins: a guest that writes and flushes while its volume begins to ship gets
// no error.
func TestPromiseBegins(t *testing.T) {
	h := newBed(t).host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	dev := guest(t, h, "v")
	d := must[*disk.Disk](t)(h.disks.Local("v", false))
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for err == nil {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if !dev.TryAcknowledge() {
				err = dev.Acknowledge()
			}
			if err == nil {
				err = dev.Flush()
			}
		}
		done <- err
	}()
	d.Op.Lock()
	defer d.Op.Unlock()
	var err error
	for i := 0; i < 300 && err == nil; i++ {
		p := durability.Policy{Durability: "continuous", RPO: disk.DefaultRPO}
		if err = d.Update(p.Record); err == nil {
			h.durability.StartShipping(d)
			d.MustShip.Store(false)
			d.StopShipping(disk.ErrRelaxed)
			err = d.Update(durability.Policy{Durability: disk.Local, RPO: disk.DefaultRPO}.Record)
		}
	}
	if err != nil {
		t.Error(err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
