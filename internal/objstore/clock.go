package objstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Clock is time as drivers and wrappers see it, so that a simulator can own it.
// What is nil is real time; the zero Clock is real throughout.
type Clock struct {
	// Now is the present.
	Now func() time.Time
	// Sleep waits for d, or until ctx ends, which it then returns as an error.
	Sleep func(ctx context.Context, d time.Duration) error
	// WithTimeout derives a context that ends after d.
	WithTimeout func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
}

func (c Clock) withDefaults() Clock {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	if c.WithTimeout == nil {
		c.WithTimeout = context.WithTimeout
	}
	return c
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// SeededRand is a source of numbers in [0,1) for the Rand fields of this
// package: equal seeds give equal sequences. It may be used concurrently (the
// sequence is then shared out in the order of the calls).
func SeededRand(seed uint64) func() float64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Float64()
	}
}

// randOrDefault is r, or the process's own random numbers when r is nil.
func randOrDefault(r func() float64) func() float64 {
	if r == nil {
		return rand.Float64
	}
	return r
}
