package disk

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/volume"
)

// limiter limits the requests and bytes per second of a volume with two token buckets.
// Each bucket holds the tokens of one second.
type limiter struct {
	on    atomic.Bool
	mu    sync.Mutex
	iops  float64
	bytes float64
	now   func() time.Time
	last  time.Time
	haveN float64 // request tokens; negative while requests wait
	haveB float64 // byte tokens; negative while requests wait
}

// Set changes the limits; 0 means none.
func (l *limiter) Set(lim volume.Limits, now func() time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.iops, l.bytes, l.now = float64(lim.IOPS), float64(lim.Bandwidth), now
	l.last, l.haveN, l.haveB = now(), l.iops, l.bytes
	l.on.Store(lim.IOPS > 0 || lim.Bandwidth > 0)
}

// Limited reports whether there is a limit.
func (l *limiter) Limited() bool { return l.on.Load() }

// Wait delays one request of n bytes until the limits allow it.
func (l *limiter) Wait(n int, ctx context.Context) error {
	if !l.on.Load() {
		return nil
	}
	return clock.Pause(ctx, l.take(n))
}

// take takes the tokens of a request and returns how long the request has to wait.
func (l *limiter) take(n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	dt := now.Sub(l.last).Seconds()
	l.last = now
	var delay float64
	if l.iops > 0 {
		l.haveN = min(l.iops, l.haveN+dt*l.iops) - 1
		delay = max(delay, -l.haveN/l.iops)
	}
	if l.bytes > 0 {
		l.haveB = min(l.bytes, l.haveB+dt*l.bytes) - float64(n)
		delay = max(delay, -l.haveB/l.bytes)
	}
	return time.Duration(delay * 1e9)
}
