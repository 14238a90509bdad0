package objstore

import (
	"context"
	"sync/atomic"
	"time"
)

// hurried is how long a request's only try may take when the retry budget of its
// context is spent.
const hurried = 2 * time.Second

type retryBudgetKey struct{}

// WithRetryBudget derives a context whose requests share one retry budget. When one
// of them has failed after all its tries, the budget is spent: the store is taken for
// unreachable, and each other request gets one short try, until one is answered. So a
// command fails after one series of tries, however many requests it makes, including
// those to clean up.
func WithRetryBudget(ctx context.Context) context.Context {
	return context.WithValue(ctx, retryBudgetKey{}, new(atomic.Bool))
}

// retryBudget returns the flag that says whether the context's budget is spent. A
// context without a budget gets a new one for each request.
func retryBudget(ctx context.Context) *atomic.Bool {
	if gone, ok := ctx.Value(retryBudgetKey{}).(*atomic.Bool); ok {
		return gone
	}
	return new(atomic.Bool)
}

// SpendRetryBudget marks the budget as spent: the caller has waited for a request of
// another context, which failed.
func SpendRetryBudget(ctx context.Context) { retryBudget(ctx).Store(true) }
