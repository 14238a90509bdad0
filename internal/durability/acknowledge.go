package durability

import (
	"context"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/fault"
)

// oldest returns the uptime of the oldest write that the store does not hold, or 0 if it
// holds all. u is what unsent returned before. A change may move between unsent and in
// flight during the call, in either direction. The order of the three reads ensures that
// at least one of them sees it.
func (s *shipper) oldest(u unsent) time.Duration {
	if at := time.Duration(s.oldestInFlight.Load()); at != 0 {
		return at
	}
	if u.at != 0 {
		return u.at
	}
	return s.unsent().at
}

// MayAcknowledge implements disk.Shipper.
func (s *shipper) MayAcknowledge() (now bool, slow time.Duration) {
	u := s.unsent()
	return s.policy.Load().mayAcknowledge(s.k.disks.Uptime(), s.oldest(u), u)
}

// Written implements disk.Shipper.
func (s *shipper) Written() {
	if s.idle.Load() && s.idle.CompareAndSwap(true, false) {
		s.poke()
	} else if n, _ := s.v.Changed(); n >= shipBytes {
		s.poke()
	}
}

// Acknowledge implements disk.Shipper. Time alone never permits an acknowledgement,
// because unsent writes only get older. So it is enough to wait for changes of the
// promise.
func (s *shipper) Acknowledge() error {
	slow, err := s.acknowledgeable()
	if err == nil {
		_ = clock.Pause(s.ctx, slow)
	}
	return disk.IgnoreRelaxed(err)
}

func (s *shipper) acknowledgeable() (slow time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		ok, slow := s.MayAcknowledge()
		if ok {
			return slow, nil
		}
		if err := s.why(); err != nil {
			return 0, err
		}
		s.poke()
		s.changed.Wait()
	}
}

// why returns the reason to stop waiting, or nil. Under mu.
func (s *shipper) why() error {
	if s.p.over == nil && s.ctx.Err() != nil {
		return disk.ErrClosing
	}
	return s.p.over
}

// LastShipping is how long a stopping host waits for the store.
const LastShipping = 2 * time.Second

// ShipLast gives volumes with a policy that ships a last chance to send their changes, so
// that a host that is stopped on purpose leaves nothing unpublished. It is best effort:
// the rest is sent after the next start.
func (k *Keeper) ShipLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, LastShipping)
	defer cancel()
	var wg sync.WaitGroup
	for _, d := range k.disks.All() {
		if s := d.Shipper(); s != nil {
			wg.Go(func() {
				if _, err := s.Barrier(ctx); err != nil {
					k.disks.Log.Warn("the store does not have all of a volume", "volume", d.String(), "error", err)
				}
			})
		}
	}
	wg.Wait()
}

// VerbStoreTimeout is how long a verb waits for a failing store before it returns an
// error. A guest's flush waits without limit.
const VerbStoreTimeout = 20 * time.Second

// Flushed implements disk.Shipper.
func (s *shipper) Flushed(ctx context.Context, seq uint64, timeout time.Duration) error {
	if s.acked.Load() >= seq || fault.Is("sync-without-store") {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { s.change(func(*promise) {}) })
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p.wanted < seq {
		s.p.wanted = seq
		s.poke()
	}
	w := s.p.newWaiter(s.k.disks.Uptime(), seq, timeout)
	if timeout > 0 {
		s.endRetryPauses()
	}
	for {
		if s.p.acked < seq && s.why() != nil {
			return s.why()
		}
		if done, err := s.p.outcome(w, s.k.disks.Uptime(), ctx.Err()); done {
			return err
		}
		s.changed.Wait()
	}
}

// retryPause waits before a failed request is retried. A verb that starts to wait ends
// the pause.
func (s *shipper) retryPause(d time.Duration) error {
	s.mu.Lock()
	if s.retryPauses == nil {
		s.retryPauses = make(chan struct{})
	}
	enough := s.retryPauses
	s.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-enough:
	case <-s.ctx.Done():
		return disk.ErrClosing
	}
	return nil
}

// endRetryPauses ends the current pauses. Under mu.
func (s *shipper) endRetryPauses() {
	if s.retryPauses != nil {
		close(s.retryPauses)
		s.retryPauses = nil
	}
}

// Stalled implements disk.Shipper.
func (s *shipper) Stalled() string {
	ok, slow := s.MayAcknowledge()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.stalled(ok, slow)
}

// Unpublished implements disk.Shipper.
func (s *shipper) Unpublished() (bytes int64, age time.Duration) {
	u := s.unsent()
	s.mu.Lock()
	bytes = u.bytes + s.p.bytes
	s.mu.Unlock()
	if at := s.oldest(u); at != 0 {
		age = s.k.disks.Uptime() - at
	}
	return bytes, age
}

// Barrier implements disk.Shipper.
func (s *shipper) Barrier(ctx context.Context) (api.Flush, error) {
	ctx = cost.With(ctx, cost.Ship, s.d.Payer())
	began, before, commits, seq := s.k.disks.Now(), s.d.Stored.Load(), s.commits.Load(), s.v.Last()
	if err := s.v.Flush(); err != nil {
		return api.Flush{}, err
	}
	if err := s.Flushed(ctx, seq, VerbStoreTimeout); err != nil {
		return api.Flush{}, err
	}
	st := s.d.State()
	out := api.Flush{Generation: disk.Generation(st.Published).String(), BytesUploaded: uint64(s.d.Stored.Load() - before), ElapsedMs: s.k.disks.Since(began)}
	out.Requests.Put = s.commits.Load() - commits
	return out, nil
}
