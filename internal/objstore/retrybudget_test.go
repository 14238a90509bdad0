package objstore_test

import (
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// TestPatienceIsShared: once a request of a context gave up, the others get one
// short try each, until one is answered.
func TestPatienceIsShared(t *testing.T) {
	s, f, c := flaky(objstore.RetryOptions{MaxTries: 5}, objstore.Fault{})
	ctx := objstore.WithRetryBudget(t.Context())
	tries := func(want uint64) {
		t.Helper()
		before := f.Requests()
		if err := s.Put(ctx, "a", nil); errs.KindOf(err) != errs.Unavailable {
			t.Fatal(err)
		}
		if got := uint64(f.Requests() - before); got != want {
			t.Fatalf("%d tries, want %d", got, want)
		}
	}
	tries(5)
	slept := len(c.slept)
	tries(1)
	tries(1)
	if last := c.limits[len(c.limits)-1]; last != 2*time.Second || len(c.slept) != slept {
		t.Fatalf("a hurried try may take %v, and %d pauses were made", last, len(c.slept)-slept)
	}
	f.Clear()
	if err := s.Put(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	f.Inject(objstore.Fault{})
	tries(5)
	ctx = t.Context() // each request has its own
	tries(5)
	tries(5)
}
