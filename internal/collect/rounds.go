package collect

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/size"
)

// changes counts what a host writes to its store and deletes from it.
type changes struct{ n atomic.Uint64 }

// Watched is a store that notes what makes garbage, so that a host that changed nothing
// asks nothing.
type Watched struct {
	objstore.Store
	changes changes
}

// Watch returns the store that everything but the collector must use.
func Watch(s objstore.Store) *Watched { return &Watched{Store: s} }

// Put implements objstore.Store.
func (w *Watched) Put(ctx context.Context, key string, data []byte) error {
	w.changes.n.Add(1)
	return w.Store.Put(ctx, key, data)
}

// PutIfAbsent implements objstore.Store.
func (w *Watched) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	w.changes.n.Add(1)
	return w.Store.PutIfAbsent(ctx, key, data)
}

// schedule decides when a host runs a round by itself. Times are of its uptime.
//
// What is written makes garbage soon (of what it replaced), and once more when it is past
// retention. What a round has flagged is deleted when the grace period is over.
type schedule struct {
	interval, grace, retention time.Duration

	seen uint64          // changes that a round, or its schedule, knows of
	due  []time.Duration // when rounds are due, besides those for changes
}

// next reports whether a round is due.
func (s *schedule) next(now time.Duration, changes uint64) bool {
	due := changes != s.seen
	if due {
		s.add(now + s.retention + s.interval)
	}
	s.seen = changes
	rest := s.due[:0]
	for _, t := range s.due {
		if t > now {
			rest = append(rest, t)
		} else {
			due = true
		}
	}
	s.due = rest
	return due
}

// add makes a round due at t. Times that are close are one.
func (s *schedule) add(t time.Duration) {
	for i, x := range s.due {
		if t-x <= s.interval && x-t <= s.interval {
			s.due[i] = max(x, t)
			return
		}
	}
	s.due = append(s.due, t)
}

// done notes the outcome of a round that began at now.
func (s *schedule) done(now time.Duration, r *api.Collection) {
	switch {
	case r.Round > 0 && r.DeletedObjects == 0: // it waits for the grace period; it may only compact
		s.add(now + s.grace + s.interval)
	case r.DeletedObjects > 0: // what that made garbage of
		s.add(now + s.interval)
	}
}

// pollEvery is how often the loop looks, at most: an interval may be short, too.
const pollEvery = 10 * time.Second

// Loop runs rounds until ctx ends: at each interval in which one is due.
func (c *Collector) Loop(ctx context.Context) {
	ctx = cost.Begin(ctx, cost.GC, cost.Volume{})
	if c.opts.Interval <= 0 {
		return
	}
	s := schedule{interval: c.opts.Interval, grace: c.opts.Grace, retention: c.opts.Retention}
	for at := c.opts.Uptime() + c.opts.Interval; ; {
		if clock.Pause(ctx, min(pollEvery, c.opts.Interval)) != nil {
			return
		}
		now := c.opts.Uptime()
		if now < at {
			continue
		}
		at = now + c.opts.Interval
		if s.next(now, c.changes.n.Load()) {
			c.byItself(ctx, &s, now)
		}
	}
}

// byItself runs a round if it is this host's turn.
func (c *Collector) byItself(ctx context.Context, s *schedule, now time.Duration) {
	ctx = cost.With(ctx, cost.GC, cost.Volume{})
	mine, err := takeTurn(ctx, c.store, c.disks.HostID, c.opts.Interval)
	if err == nil && !mine {
		s.add(now + s.interval) // the other host may have been too early for what is new here
		return
	}
	var r api.Collection
	if err == nil {
		r, err = c.Collect(ctx, api.CollectRequest{})
	}
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, errs.Unavailable):
		c.disks.Log.Warn("no garbage was collected", "error", err)
	case err != nil:
		c.disks.Event(event.Store, "", "no garbage was collected: %v", err)
	case r.DeletedObjects > 0:
		c.disks.Event(event.Store, "", "round %d of garbage collection deleted %d objects (%s)", r.Round, r.DeletedObjects, size.Human(r.DeletedBytes))
	}
	if err != nil {
		s.add(now + s.interval)
		return
	}
	s.done(now, &r)
}
