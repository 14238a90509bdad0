package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
)

// Flush publishes what was acknowledged before the call.
func (h *Host) Flush(ctx context.Context, name string) (api.Flush, error) {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Flush{}, err
	}
	if s := d.Shipper(); s != nil && !h.publisher.Changes(d) {
		if f, err := s.Barrier(ctx); err != disk.ErrRelaxed {
			return f, err
		}
	}
	return h.publisher.Flush(ctx, d, commitlog.CauseFlush)
}
