package custody

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/rekey"
)

// RekeyTenant implements api.TenantKeeper. It also retires the roots that nothing is sealed
// with any more.
func (c *Custody) RekeyTenant(ctx context.Context, name string, r api.RekeyRequest) (api.Rekey, error) {
	o := rekey.Options{
		Tenants: c.disks.Tenants, Store: c.disks.Store, Name: name, By: c.disks.HostID, Rate: int64(r.Rate),
		Roll: c.roll, Now: c.disks.Now, Uptime: c.disks.Uptime, Rand: c.disks.Rand, Log: c.disks.Log,
	}
	if tell := api.Progress(ctx); tell != nil {
		o.Progress = func(r rekey.Report) {
			if done := uint64(r.Bytes); r.Packs > 0 { // packs are about of one size
				tell(done, done+uint64(r.PacksLeft)*done/uint64(r.Packs))
			}
		}
	}
	if err := c.unpin(ctx); err != nil {
		return api.Rekey{}, err
	}
	report, err := rekey.Run(ctx, o)
	if err != nil {
		return api.Rekey{}, err
	}
	out := api.Rekey{
		Root: uint64(report.Root), Packs: report.Packs, Bytes: report.Bytes, PacksLeft: report.PacksLeft, CommitsLeft: report.CommitsLeft,
		Volumes: append([]string{}, report.Volumes...), Retired: []uint64{},
	}
	info, err := c.disks.Tenants.Show(ctx, name)
	for i := 0; err == nil && i+1 < len(info.Roots); i++ { // the oldest first; the last is in use
		root := info.Roots[i]
		if root.State == keys.Retired {
			continue
		}
		_, err = rekey.Retire(ctx, o, root.Number)
		if errors.Is(err, errs.WouldLose) || errors.Is(err, errs.Busy) { // not yet, and none after it
			err = nil
			break
		}
		if err == nil {
			out.Retired = append(out.Retired, uint64(root.Number))
		}
	}
	if err == nil {
		out.Tenant, err = c.Tenant(ctx, name)
	}
	return out, err
}

// roll begins an epoch of a volume whose owner is this process.
func (c *Custody) roll(ctx context.Context, vol commitlog.Volume) error {
	d := c.disks.Find(disk.Name{Tenant: vol.Tenant, Volume: vol.Name})
	if d == nil {
		return errs.New(errs.NotFound, "volume %q is not on this host", vol)
	}
	return d.Roll(ctx)
}
