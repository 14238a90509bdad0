package scrub

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
)

// firstAfter is how long after its start a host begins to scrub.
const firstAfter = 10 * time.Minute

// Run scrubs in the background, at the rates that were set, until the host stops: first
// this host, then what its volumes reach in the store.
func (s *Scrubber) Run() {
	if s.rates == (Rates{}) {
		return
	}
	ctx := s.disks.Ctx
	for wait := firstAfter; clock.Pause(ctx, wait) == nil; {
		began := s.disks.Uptime()
		if _, err := s.Pass(ctx); err != nil && ctx.Err() == nil {
			s.disks.Log.Warn("a scrub did not check everything", "error", err)
		}
		wait = max(passEvery-(s.disks.Uptime()-began), firstAfter)
	}
}

// Pass scrubs once as in the background.
func (s *Scrubber) Pass(ctx context.Context) (api.Scrub, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	return s.run(ctx, s.rates.Disk > 0, s.rates.Store > 0, false, s.rates)
}

// pacer returns a function that is told of bytes that were read, and waits as long as a
// rate demands and while guests wait for the store; 0: it does not wait.
func (s *Scrubber) pacer(rate uint64) func(ctx context.Context, bytes int64) error {
	due := s.disks.Uptime()
	return func(ctx context.Context, bytes int64) error {
		if rate == 0 {
			return ctx.Err()
		}
		now := s.disks.Uptime()
		// Time in which it could not read is not made up for.
		due = max(due, now-time.Second) + time.Duration(float64(bytes)/float64(rate)*float64(time.Second))
		if clock.Pause(ctx, due-now) != nil {
			return ctx.Err()
		}
		return s.disks.Cache.Quiet(ctx)
	}
}
