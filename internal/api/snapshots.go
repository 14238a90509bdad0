package api

import (
	"context"
	"net/http"
)

// snapshotRoutes are a volume's snapshots. One is removed as what it is named:
// DELETE /v1/volumes/NAME@SNAPSHOT.
var snapshotRoutes = []route{
	handle(http.MethodGet, "/v1/volumes/{name}/snapshots", func(ctx context.Context, b Backend, p params, _ None) ([]Snapshot, error) {
		list, err := b.Snapshots(ctx, p.name())
		return notNull(list), err
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/snapshots", func(ctx context.Context, b Backend, p params, in SnapshotRequest) (Snapshot, error) {
		return b.Snapshot(ctx, p.name(), in.Name, in.Expires)
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/rollback", func(ctx context.Context, b Backend, p params, in RollbackRequest) (Volume, error) {
		return b.Rollback(ctx, p.name(), in.To, in.Force)
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/restore", func(ctx context.Context, b Backend, p params, in RestoreRequest) (Volume, error) {
		return b.Restore(ctx, p.name(), in.As)
	}),
	handle(http.MethodGet, "/v1/removed", func(ctx context.Context, b Backend, _ params, _ None) ([]Removed, error) {
		list, err := b.Removed(ctx)
		return notNull(list), err
	}),
}
