package host

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// lateGet is a store whose second answer about an object of a log arrives late.
type lateGet struct {
	objstore.Store
	log     string
	asked   atomic.Int32
	began   chan struct{}
	release chan struct{}
}

func (s *lateGet) Get(ctx context.Context, key string) ([]byte, error) {
	raw, err := s.Store.Get(ctx, key)
	if strings.Contains(key, s.log) && s.asked.Add(1) == 2 {
		close(s.began)
		<-s.release
	}
	return raw, err
}

// TestTwoWakesByForce: of two calls that take a volume over for one host, the one that saw the
// log as it was before the other does not throw out what that one has woken.
func TestTwoWakesByForce(t *testing.T) {
	b, h1, _, _ := twoHosts(t)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	if err := h1.Close(ctx); err != nil {
		t.Fatal(err)
	}
	late := &lateGet{Store: b.store, log: "/volumes/", began: make(chan struct{}), release: make(chan struct{})}
	b.store = late
	h := b.host(t.TempDir(), "new")
	b.store = late.Store
	ended := make(chan error, 1)
	go func() {
		_, err := h.Wake(ctx, "v", true, "")
		ended <- err
	}()
	<-late.began // it has asked the owner in vain, and read the log again
	must[api.Volume](t)(h.Wake(ctx, "v", true, ""))
	data := fill(t, h, "v", 77, 0, 64<<10)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	at := must[api.Volume](t)(h.Show(ctx, "v")).Generation
	close(late.release)
	if err := <-ended; errs.KindOf(err) != errs.Busy && errs.KindOf(err) != errs.Exists {
		t.Errorf("the second call: %v", err)
	}
	same(t, h, "v", 0, data)
	if v := must[api.Volume](t)(h.Show(ctx, "v")); v.Generation != at {
		t.Errorf("it went from %s to %s", at, v.Generation)
	}
}
