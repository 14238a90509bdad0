package disk

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// limiterCredit is how much of a limit an idle volume saves up, in seconds. It makes up for
// timers that fire late, and is less than the 5 % by which a second may exceed the limit.
const limiterCredit = 0.04

// limiter limits the requests and bytes per second of a volume with two token buckets. A
// request may begin when neither is overdrawn, and then takes what it needs. So a request
// that is larger than a bucket passes, too, and the next one waits for it.
type limiter struct {
	on      atomic.Bool
	mu      sync.Mutex
	iops    bucket
	bytes   bucket
	now     func() time.Time
	last    time.Time
	changed chan struct{} // closed when the limits change
}

// bucket holds the tokens of one limit.
type bucket struct {
	rate float64 // tokens per second; 0: no limit
	have float64 // negative while it is overdrawn
}

// fill adds the tokens of dt seconds.
func (b *bucket) fill(dt float64) { b.have = min(b.rate*limiterCredit, b.have+dt*b.rate) }

// take takes n tokens, and returns after how many seconds they were there to be taken.
func (b *bucket) take(n float64) (wait float64) {
	if b.rate == 0 {
		return 0
	}
	wait = max(0, -b.have/b.rate)
	b.have -= n
	return wait
}

// Set changes the limits; 0 means none. Requests that wait are measured again.
func (l *limiter) Set(lim volume.Limits, now func() time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.iops, l.bytes = bucket{rate: float64(lim.IOPS)}, bucket{rate: float64(lim.Bandwidth)}
	l.now, l.last = now, now()
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
	l.on.Store(lim.IOPS > 0 || lim.Bandwidth > 0)
}

// TryTake lets a request of n bytes begin if it need not wait.
func (l *limiter) TryTake(n int) bool {
	if !l.on.Load() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fillLocked()
	if l.iops.have < 0 || l.bytes.have < 0 {
		return false
	}
	l.iops.take(1)
	l.bytes.take(float64(n))
	return true
}

// Wait waits until a request of n bytes may begin, or ended is closed.
func (l *limiter) Wait(n int, ctx context.Context, ended <-chan struct{}) error {
	for l.on.Load() {
		d, changed := l.take(n)
		if d <= 0 {
			return nil
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
			return nil
		case <-changed:
			t.Stop()
		case <-ended:
			t.Stop()
			return errs.New(errs.Unavailable, "the connection has ended")
		case <-ctx.Done():
			t.Stop()
			return errs.New(errs.Unavailable, "the daemon is stopping")
		}
	}
	return nil
}

// take takes the tokens of a request and returns how long the request has to wait, and what
// is closed if the limits change meanwhile.
func (l *limiter) take(n int) (time.Duration, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fillLocked()
	wait := max(l.iops.take(1), l.bytes.take(float64(n)))
	return time.Duration(min(wait, maxLimiterWait) * 1e9), l.changed
}

// maxLimiterWait bounds a wait in seconds, so that it fits a time.Duration.
const maxLimiterWait = 1 << 30

func (l *limiter) fillLocked() {
	now := l.now()
	dt := max(0, now.Sub(l.last).Seconds())
	l.last = now
	l.iops.fill(dt)
	l.bytes.fill(dt)
}
