package durability

import (
	"context"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

// age is how old the oldest write is that the store does not hold.
func (s *shipper) age() time.Duration {
	at := time.Duration(s.oldestInFlight.Load())
	if at == 0 {
		if _, at = s.v.Changed(); at == 0 {
			return 0
		}
	}
	return s.k.disks.Uptime() - at
}

// mayAcknowledge tells whether a write may be acknowledged now; it is slowed
// when that is not so yet, but nearly.
func (s *shipper) MayAcknowledge() (now bool, slow time.Duration) {
	if n, _ := s.v.Changed(); n > maxChanged {
		return false, 0
	}
	if s.sync.Load() {
		return true, 0
	}
	rpo := time.Duration(s.rpo.Load())
	limit, age := rpo-margin(rpo), s.age()
	switch soft := limit * 3 / 4; {
	case age >= limit && !fault.Is("rpo-not-kept"):
		return false, 0
	case age > soft:
		return true, (age - soft) / 16
	}
	return true, 0
}

// written tells that the volume was written to; it does not wait.
func (s *shipper) Written() {
	if s.idle.Load() && s.idle.CompareAndSwap(true, false) {
		s.poke()
	} else if n, _ := s.v.Changed(); n >= shipBytes {
		s.poke()
	}
}

// acknowledge waits until what was written may be acknowledged: writes only get
// older, so that only what the loop does, or the policy, can change that.
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

// why is the reason to wait no longer, if there is one. Under mu.
func (s *shipper) why() error {
	if s.over == nil && s.ctx.Err() != nil {
		return disk.ErrHeld
	}
	return s.over
}

// lastShipping is how long a host that stops waits for the store.
const LastShipping = 2 * time.Second

// shipLast gives volumes whose policy ships a last chance to send what they
// have, so that a host that is stopped on purpose leaves nothing unpublished. It
// is a courtesy: what is left is sent after the next start.
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

// verbStoreTimeout is how long a verb waits for a store that fails, before it says
// so. A guest's flush waits for as long as it takes.
const VerbStoreTimeout = 20 * time.Second

// flushed waits until the store holds every write through seq. With patience it
// gives up when the store has failed for that long. errRelaxed says that the
// policy is local now, and the store may not hold them.
func (s *shipper) Flushed(ctx context.Context, seq uint64, patience time.Duration) error {
	if s.acked.Load() >= seq || fault.Is("sync-without-store") {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted < seq {
		s.wanted = seq
		s.poke()
	}
	// The attempt that is under way may have begun before what was damaged was
	// written again, or the store came back: the one after it tells.
	fails, came := s.fails+2, s.k.disks.Uptime()
	if patience > 0 {
		s.endRetryPauses()
	}
	for s.acked.Load() < seq {
		if over := s.why(); over != nil {
			return over
		}
		if s.fails >= fails && errs.KindOf(s.err) == errs.Corrupt && s.err != nil {
			return s.err
		}
		now := s.k.disks.Uptime()
		tired := patience > 0 && s.err != nil && now-s.since > patience && (s.fails >= fails || now-came > patience)
		switch {
		case s.err != nil && (tired || ctx.Err() != nil):
			return errs.New(errs.Unavailable, "the store does not hold it yet; it goes on by itself when the store does: %w", s.err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.changed.Wait()
	}
	return nil
}

// retryPause is the pause before what failed is tried again; a verb that waits ends it.
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
		return disk.ErrHeld
	}
	return nil
}

// endRetryPauses ends the pauses that are being made. Under mu.
func (s *shipper) endRetryPauses() {
	if s.retryPauses != nil {
		close(s.retryPauses)
		s.retryPauses = nil
	}
}

// stalled is why writes are not acknowledged, or the store does not keep up; ""
// if neither.
func (s *shipper) Stalled() string {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	ok, slow := s.MayAcknowledge()
	switch {
	case !ok && err != nil:
		return "writes wait: " + unshipped(err)
	case !ok:
		return "writes wait for the store, which does not keep up"
	case err != nil:
		return unshipped(err)
	case slow > 0:
		return "writes are slowed: the store does not keep up"
	}
	return ""
}

// unpublished is the account of what the store does not hold.
func (s *shipper) Unpublished() (bytes int64, age time.Duration) {
	bytes, _ = s.v.Changed()
	s.mu.Lock()
	bytes += s.inFlightBytes
	s.mu.Unlock()
	return bytes, s.age()
}

// barrier is a flush verb of a volume whose policy ships, or errRelaxed.
func (s *shipper) Barrier(ctx context.Context) (api.Flush, error) {
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
