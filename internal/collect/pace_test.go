package collect

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/objstore"
)

// TestPaced: while guests are served, a round works a small part of the time, with few
// requests under way; else as fast as it can.
func TestPaced(t *testing.T) {
	var served, under, most atomic.Int64
	slow := &slowStore{Store: objstore.NewMem(objstore.Clock{}), under: &under, most: &most}
	p := newPaced(slow, func() uint64 { return uint64(served.Load()) }, clock.BootTime)
	run := func(n int) time.Duration {
		most.Store(0)
		began := time.Now()
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				for range 5 {
					if _, err := p.List(t.Context(), "", "", 0); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	if took := run(32); most.Load() <= atATime || took > time.Second {
		t.Errorf("nobody is served: %d requests at a time, %v", most.Load(), took)
	}
	stop := make(chan struct{})
	var guest sync.WaitGroup
	guest.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				served.Add(1)
			}
		}
	})
	time.Sleep(2 * lookEvery)
	// 160 requests of 300 µs each, a twentieth of the time: about a second.
	if took := run(32); most.Load() > atATime || took < 600*time.Millisecond {
		t.Errorf("a guest is served: %d requests at a time, %v", most.Load(), took)
	}
	close(stop)
	guest.Wait()
	time.Sleep(2 * lookEvery)
	if took := run(32); took > time.Second {
		t.Errorf("nobody is served any more: %v", took)
	}
}

// slowStore takes a millisecond for a list, and counts how many it is asked for at a time.
type slowStore struct {
	objstore.Store
	under, most *atomic.Int64
}

func (s *slowStore) List(ctx context.Context, prefix, after string, n int) ([]objstore.Info, error) {
	now := s.under.Add(1)
	defer s.under.Add(-1)
	for top := s.most.Load(); now > top && !s.most.CompareAndSwap(top, now); top = s.most.Load() {
	}
	time.Sleep(time.Millisecond)
	return s.Store.List(ctx, prefix, after, n)
}
