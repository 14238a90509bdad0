package api

import (
	"context"
	"net/http"
)

// lifeRoutes move a volume between memory, disk, store and hosts.
var lifeRoutes = []route{
	handle(http.MethodPost, "/v1/volumes/{name}/barrier", func(ctx context.Context, b Backend, p params, _ None) (Flush, error) {
		through, err := p.number("through")
		if err != nil {
			return Flush{}, err
		}
		return b.Barrier(ctx, p.name(), through)
	}, "through"),
	handle(http.MethodPost, "/v1/volumes/{name}/flush", func(ctx context.Context, b Backend, p params, _ None) (Flush, error) {
		return b.Flush(ctx, p.name())
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/sleep", func(ctx context.Context, b Backend, p params, in SleepRequest) (Volume, error) {
		return b.Sleep(ctx, p.name(), in.Portable, in.Force)
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/wake", func(ctx context.Context, b Backend, p params, in WakeRequest) (Volume, error) {
		return b.Wake(ctx, p.name(), in.Force, in.Expect)
	}),
	// One host asks another. When the asker gives up, the request's context ends.
	handle(http.MethodPost, "/v1/volumes/{name}/release", func(ctx context.Context, b Backend, p params, in ReleaseRequest) (Volume, error) {
		return b.Release(ctx, p.name(), in)
	}),
}
