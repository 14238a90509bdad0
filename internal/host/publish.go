package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
)

// Flush publishes what was acknowledged before the call.
func (h *Host) Flush(ctx context.Context, name string) (api.Flush, error) {
	d, err := h.local(name, false)
	if err != nil {
		return api.Flush{}, err
	}
	if s := d.ship.Load(); s != nil && !d.changes() {
		if f, err := s.barrier(ctx); err != errRelaxed {
			return f, err
		}
	}
	return h.flush(ctx, d, commitlog.CauseFlush)
}
