package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
)

// Flush publishes what was acknowledged before the call.
func (h *Host) Flush(ctx context.Context, name string) (api.Flush, error) {
	d, err := h.disks.local(name, false)
	if err != nil {
		return api.Flush{}, err
	}
	if s := d.shipper(); s != nil && !h.publisher.changes(d) {
		if f, err := s.Barrier(ctx); err != errRelaxed {
			return f, err
		}
	}
	return h.publisher.flush(ctx, d, commitlog.CauseFlush)
}
