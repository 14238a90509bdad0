package host

import (
	"context"
	"io"

	"github.com/paraglide/glide/internal/inspect"
)

// Dump writes an object of the store as text.
func (h *Host) Dump(ctx context.Context, key string, w io.Writer) error {
	raw, err := h.disks.Store.Get(ctx, key)
	if err != nil {
		return err
	}
	return inspect.DumpObject(w, key, raw)
}
