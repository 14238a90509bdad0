package scrub

import (
	"context"
	"errors"
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
		_, err := s.Pass(ctx)
		switch {
		case errors.Is(err, context.Canceled):
			wait = firstAfter
			continue
		case err != nil:
			s.disks.Log.Warn("a scrub did not check everything", "error", err)
		}
		wait = max(passEvery-(s.disks.Uptime()-began), firstAfter)
	}
}

// Pass scrubs once as in the background. A scrub that somebody asks for ends it.
func (s *Scrubber) Pass(ctx context.Context) (api.Scrub, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.mu.Lock()
	s.stop = stop
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stop = nil
	}()
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
