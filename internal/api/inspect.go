package api

import (
	"context"
	"net/http"
)

// inspectRoutes look at volumes and change nothing.
var inspectRoutes = []route{
	handle(http.MethodGet, "/v1/volumes/{name}/log", func(ctx context.Context, b Backend, p params, _ None) ([]Commit, error) {
		count, err := p.number("count")
		if err != nil {
			return nil, err
		}
		list, err := b.Log(ctx, p.name(), p.query("before"), count)
		return notNull(list), err
	}, "before", "count"),
	handle(http.MethodGet, "/v1/diff", func(ctx context.Context, b Backend, p params, _ None) (Diff, error) {
		d, err := b.Diff(ctx, p.query("a"), p.query("b"))
		d.Ranges = notNull(d.Ranges)
		return d, err
	}, "a", "b"),
	handle(http.MethodGet, "/v1/cost", costOf),
	handle(http.MethodGet, "/v1/volumes/{name}/cost", costOf),
	handle(http.MethodGet, "/v1/usage", usage),
	handle(http.MethodGet, "/v1/volumes/{name}/usage", usage),
	handle(http.MethodPost, "/v1/volumes/{name}/verify", func(ctx context.Context, b Backend, p params, in VerifyRequest) (Verify, error) {
		v, err := b.Verify(ctx, p.name(), in.Cold)
		v.Damaged = notNull(v.Damaged)
		return v, err
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/hydrate", func(ctx context.Context, b Backend, p params, in HydrateRequest) (Hydrate, error) {
		return b.Hydrate(ctx, p.name(), in.Rate)
	}),
	handle(http.MethodGet, "/v1/volumes/{name}/uri", func(ctx context.Context, b Backend, p params, _ None) (URI, error) {
		u, err := b.URI(ctx, p.name())
		return URI{u}, err
	}),
	handle(http.MethodGet, "/v1/stats", stats),
	handle(http.MethodGet, "/v1/volumes/{name}/stats", stats),
}

func costOf(ctx context.Context, b Backend, p params, _ None) (Cost, error) {
	return b.Cost(ctx, p.name())
}

func usage(ctx context.Context, b Backend, p params, _ None) (Usage, error) {
	return b.Usage(ctx, p.name())
}

func stats(ctx context.Context, b Backend, p params, _ None) (Stats, error) {
	return b.Stats(ctx, p.name())
}
