package host

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// TestFlushAsksAStoreThatFailedBefore: a flush does not report a failure from before its
// call, however long the store has been failing: the store may be back.
func TestFlushAsksAStoreThatFailedBefore(t *testing.T) {
	faults := objstore.NewFaults(objstore.NewMem(objstore.Clock{}), 1)
	var later atomic.Int64
	h := must[*Host](t)(Open(ctx, Config{
		Data: "data", FS: vfs.NewMem(), Store: faults, Memory: 1 << 20, Cache: Share{Bytes: 64 << 20}, WALLimit: Share{Bytes: 64 << 20},
		Uptime: func() time.Duration { return clock.BootTime() + time.Duration(later.Load()) },
	}))
	t.Cleanup(func() { _ = h.Close(ctx) })
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib, Durability: volume.Continuous, RPOms: 3600e3}))
	faults.Inject(objstore.Fault{Err: errs.New(errs.ReadOnly, "read-only store")})
	d, _ := h.disks.Local("v", false)
	e, err := h.exports.Open("v")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Closed()
	if err := e.Device.WriteFrames([]uint64{0}, [][]byte{random(1, 4096+28)}); err != nil {
		t.Fatal(err)
	}
	quick, cancel := context.WithTimeout(ctx, 2*time.Second)
	_, err = h.Flush(quick, "v")
	cancel()
	wantKind(t, err, errs.Unavailable)
	later.Store(int64(time.Minute))
	if s := d.Shipper(); s.Stalled() == "" {
		t.Fatal("nothing failed")
	}
	faults.Clear()
	must[api.Flush](t)(h.Flush(ctx, "v"))
}
