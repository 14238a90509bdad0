package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/objstore"
)

// purpose derives the context of a verb for a named volume.
func (h *Host) purpose(ctx context.Context, c cost.Cause, name string) context.Context {
	var v cost.Volume
	if n, err := disk.ParseName(name, true); err == nil {
		if d := h.disks.Find(n); d != nil {
			v = d.Payer()
		}
	}
	return cost.With(ctx, c, v)
}

// Cost returns the requests to the store since the daemon started, by cause: all, or those
// that were made for one volume. If the store's prices are set, it also returns what a
// month costs.
func (h *Host) Cost(ctx context.Context, name string) (api.Cost, error) {
	now := h.cfg.Now()
	counts := h.cfg.Ledger.Counts()
	if name != "" {
		d, err := h.disks.Local(name, false)
		if err != nil {
			return api.Cost{}, err
		}
		counts = h.cfg.Ledger.VolumeCounts(d.Payer())
	}
	out := api.Cost{Since: h.cfg.Ledger.Since().UTC(), Causes: byCause(counts)}
	if h.cfg.Prices.IsZero() {
		return out, nil
	}
	u, err := h.Usage(ctx, name)
	if err != nil {
		return api.Cost{}, err
	}
	var all objstore.Counts
	for _, n := range counts {
		all = all.Add(n)
	}
	money := h.cfg.Prices.PerMonth(all, now.Sub(h.cfg.Ledger.Since()), u.Stored)
	out.Money = &money
	return out, nil
}

// Causes returns all requests to the store since the daemon started, by cause.
func (h *Host) Causes() map[string]api.CauseCost { return byCause(h.cfg.Ledger.Counts()) }

func byCause(counts map[string]objstore.Counts) map[string]api.CauseCost {
	out := make(map[string]api.CauseCost, len(counts))
	for cause, n := range counts {
		out[cause] = api.CauseCost{
			Requests: api.Requests{Put: n.Put, Get: n.Get, List: n.List, Head: n.Head, Delete: n.Delete},
			BytesUp:  n.BytesUp, BytesDown: n.BytesDown,
		}
	}
	return out
}
