package objstore

import (
	"context"
	"sync/atomic"
	"time"
)

// hurried is what the one try of a request may take once the patience of its
// context is at an end.
const hurried = 2 * time.Second

type retryBudgetKey struct{}

// WithRetryBudget derives a context whose requests share their patience. Once one
// of them gave up after all its tries, the store is taken to be away, and each
// of the others gets one short try, until one is answered: what somebody waits
// for fails after one row of tries, however many requests it takes to find that
// out and to clear up.
func WithRetryBudget(ctx context.Context) context.Context {
	return context.WithValue(ctx, retryBudgetKey{}, new(atomic.Bool))
}

// retryBudget tells whether a request of the context gave up. A context without
// has one for each request.
func retryBudget(ctx context.Context) *atomic.Bool {
	if gone, ok := ctx.Value(retryBudgetKey{}).(*atomic.Bool); ok {
		return gone
	}
	return new(atomic.Bool)
}

// SpendRetryBudget is for whoever waited until a request of another context gave up.
func SpendRetryBudget(ctx context.Context) { retryBudget(ctx).Store(true) }
