package api

import (
	"context"
	"net/http"
)

// forkRoutes are forks. A request always makes a list of them, also of one.
var forkRoutes = []route{
	handle(http.MethodPost, "/v1/forks", func(ctx context.Context, b Backend, _ params, in ForkRequest) ([]Fork, error) {
		forks, err := b.Fork(ctx, in)
		return notNull(forks), err
	}),
}
