package api

import (
	"context"
	"net/http"
)

// volumeRoutes are volumes as such.
var volumeRoutes = []route{
	handle(http.MethodGet, "/v1/volumes", func(ctx context.Context, b Backend, p params, _ None) ([]Volume, error) {
		all, err := p.flag("all")
		if err != nil {
			return nil, err
		}
		list, err := b.List(ctx, all)
		return notNull(list), err
	}, "all"),
	handle(http.MethodPost, "/v1/volumes", func(ctx context.Context, b Backend, _ params, in CreateRequest) (Volume, error) {
		return b.Create(ctx, in)
	}),
	handle(http.MethodGet, "/v1/volumes/{name}", func(ctx context.Context, b Backend, p params, _ None) (Volume, error) {
		return b.Show(ctx, p.name())
	}),
	handle(http.MethodPatch, "/v1/volumes/{name}", func(ctx context.Context, b Backend, p params, in Settings) (Volume, error) {
		return b.Set(ctx, p.name(), in)
	}),
	handle(http.MethodDelete, "/v1/volumes/{name}", func(ctx context.Context, b Backend, p params, _ None) (None, error) {
		force, err := p.flag("force")
		if err != nil {
			return None{}, err
		}
		return None{}, b.Remove(ctx, p.name(), force)
	}, "force"),
	handle(http.MethodPost, "/v1/volumes/{name}/rename", func(ctx context.Context, b Backend, p params, in RenameRequest) (Volume, error) {
		return b.Rename(ctx, p.name(), in.To)
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/resize", func(ctx context.Context, b Backend, p params, in ResizeRequest) (Volume, error) {
		return b.Resize(ctx, p.name(), in.Size)
	}),
}

// notNull makes an empty list [] in JSON.
func notNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
