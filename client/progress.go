package client

import (
	"context"

	"github.com/paraglide/glide/internal/api"
)

// WithProgress returns a context with which Flush, Sleep, Wake, Verify, Hydrate, Scrub, RekeyTenant and SealTenant report the
// daemon's progress in bytes. report is called by one goroutine at a time, a few
// times a second at most, and perhaps never.
func WithProgress(ctx context.Context, report func(done, total uint64)) context.Context {
	return api.WithProgress(ctx, report)
}
