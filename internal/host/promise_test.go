package host

import (
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// TestPromiseBegins: a guest that writes and flushes while its volume begins to
// ship gets no error.
func TestPromiseBegins(t *testing.T) {
	h := newBed(t).host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	dev := guest(t, h, "v")
	d := must[*disk](t)(h.local("v", false))
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
	d.op.Lock()
	defer d.op.Unlock()
	var err error
	for i := 0; i < 300 && err == nil; i++ {
		p := policy{"continuous", defaultRPO}
		if err = d.update(p.record); err == nil {
			d.startShipping()
			d.promises.Store(false)
			d.stopShipping(errRelaxed)
			err = d.update(policy{local, defaultRPO}.record)
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
