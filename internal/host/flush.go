package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/errs"
)

// Barrier waits until the store holds every write of a volume through the one with this
// number, as Show numbers them. If the store already does, Barrier publishes nothing.
func (h *Host) Barrier(ctx context.Context, name string, through uint64) (api.Flush, error) {
	ctx = h.purpose(ctx, cost.Flush, name)
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Flush{}, err
	}
	began := h.disks.Now()
	written, published := d.Sequences()
	if through > written {
		return api.Flush{}, errs.New(errs.Invalid, "volume %q has no write %d yet: its newest is %d", d, through, written)
	}
	if s := d.Shipper(); s != nil && through > published {
		if err := d.FlushLog(); err != nil {
			return api.Flush{}, err
		}
		switch err := s.Flushed(ctx, through, durability.VerbStoreTimeout); {
		case err == disk.ErrRelaxed:
			return h.Flush(ctx, name)
		case err != nil:
			return api.Flush{}, err
		}
	} else if through > published {
		return h.Flush(ctx, name)
	}
	st := d.State()
	return api.Flush{Generation: disk.Generation(st.Published).String(), ElapsedMs: h.disks.Since(began)}, nil
}

// Flush publishes every write that was acknowledged before the call.
func (h *Host) Flush(ctx context.Context, name string) (api.Flush, error) {
	ctx = h.purpose(ctx, cost.Flush, name)
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Flush{}, err
	}
	if s := d.Shipper(); s != nil && !h.publisher.Changes(d) {
		if f, err := s.Barrier(ctx); err != disk.ErrRelaxed {
			return f, err
		}
	}
	f, err := h.publisher.Flush(ctx, d, commitlog.CauseFlush)
	if err == nil {
		h.boots.Published(ctx, d)
	}
	return f, err
}
