package doors

import (
	"sync"
	"time"
)

// limiter counts what comes from each source against a rate. It keeps the sources of the
// last seconds only.
type limiter struct {
	now         func() time.Time
	rate, burst float64

	mu      sync.Mutex
	buckets map[string]*bucket
}

// bucket is what a source may still do.
type bucket struct {
	left float64
	at   time.Time
}

// maxSources is when sources that have all they may have again are forgotten.
const maxSources = 4096

func newLimiter(now func() time.Time, rate, burst float64) *limiter {
	return &limiter{now: now, rate: rate, burst: burst, buckets: map[string]*bucket{}}
}

// at returns a source's bucket, filled up to now. Under mu.
func (l *limiter) at(source string) *bucket {
	now := l.now()
	b := l.buckets[source]
	if b == nil {
		if len(l.buckets) >= maxSources {
			for s, x := range l.buckets {
				if l.fill(x, now); x.left >= l.burst {
					delete(l.buckets, s)
				}
			}
		}
		b = &bucket{left: l.burst, at: now}
		l.buckets[source] = b
	}
	l.fill(b, now)
	return b
}

func (l *limiter) fill(b *bucket, now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.left = min(l.burst, b.left+d.Seconds()*l.rate)
		b.at = now
	}
}

// spare tells whether a source may do something more. It counts nothing.
func (l *limiter) spare(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(source).left >= 1
}

// take counts one, and tells whether it was allowed.
func (l *limiter) take(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.at(source)
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
