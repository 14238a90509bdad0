// Package objstore stands for the real one.
package objstore

import (
	"context"
	"io"
)

type Store interface {
	io.Closer
	Get(ctx context.Context, key string) ([]byte, error)
}

// Twice makes two requests.
func Twice(ctx context.Context, s Store) {
	_, _ = s.Get(ctx, "a")
	_, _ = s.Get(ctx, "b")
}
