package clock

import (
	"context"
	"testing"
	"time"
)

// TestPacer: the first bytes go at once, the next when those before them have had their time;
// time that passed otherwise counts.
func TestPacer(t *testing.T) {
	now := time.Duration(0)
	p := NewPacer(100, func() time.Duration { return now })
	wait := func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		err := p.Wait(ctx, 50)
		return time.Since(began), err
	}
	if took, err := wait(t.Context()); err != nil || took > 400*time.Millisecond {
		t.Errorf("the first took %v, %v", took, err)
	}
	if took, err := wait(t.Context()); err != nil || took < 500*time.Millisecond {
		t.Errorf("the second took %v, %v", took, err)
	}
	now = time.Second
	if took, err := wait(t.Context()); err != nil || took > 400*time.Millisecond {
		t.Errorf("after a second: %v, %v", took, err)
	}
	now = 0
	ended, end := context.WithCancel(t.Context())
	end()
	if took, err := wait(ended); err == nil || took > 400*time.Millisecond {
		t.Errorf("without a context: %v, %v", took, err)
	}
	if err := NewPacer(0, func() time.Duration { return 0 }).Wait(t.Context(), 1<<40); err != nil {
		t.Error(err)
	}
}
