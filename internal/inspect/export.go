package inspect

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// exported is a cut that is being read. It implements api.Exported.
type exported struct {
	cut  *volume.Cut
	done func()
}

func (e exported) Size() uint64 { return e.cut.Size() }

func (e exported) ReadAt(ctx context.Context, p []byte, off uint64) error {
	return e.cut.ReadAt(e.pays(ctx), p, off)
}

func (e exported) Extents(ctx context.Context, off, length uint64, fn func(uint64, bool) error) error {
	return e.cut.Extents(e.pays(ctx), volume.Allocation, off, length, fn)
}

func (e exported) pays(ctx context.Context) context.Context {
	return cost.With(ctx, cost.Export, e.cut.State.Payer())
}

func (e exported) Close() { e.done() }

// Inspector reads volumes for users: whole ones, and where their bytes are. All methods
// may be called concurrently.
type Inspector struct {
	disks   *disk.Table
	catalog *catalog.Catalog
	usages  usages
}

// New returns an inspector of the volumes of a host and of the store.
func New(t *disk.Table, c *catalog.Catalog) *Inspector {
	return &Inspector{disks: t, catalog: c, usages: usages{turn: make(chan struct{}, 1)}}
}

// Export opens the current cut of a volume, or a snapshot, for reading. A volume that
// only the store has is read as it was last published.
func (in *Inspector) Export(ctx context.Context, name string) (api.Exported, error) {
	n, err := disk.ParseName(name, true)
	if err != nil {
		return nil, err
	}
	c, done, err := in.CutOf(ctx, n)
	if err != nil {
		return nil, err
	}
	return exported{c, done}, nil
}

// CutOf returns a cut of the named volume or snapshot, and a function that releases it. A
// volume that this host has lost to another is read as the store has it.
func (in *Inspector) CutOf(ctx context.Context, n disk.Name) (*volume.Cut, func(), error) {
	if d := in.disks.Find(n); d != nil && d.HoldsState() {
		v, done, err := d.OpenForRead()
		if err != nil {
			return nil, nil, err
		}
		c, err := v.Cut()
		if err != nil {
			done()
			return nil, nil, err
		}
		return c, func() {
			c.Release()
			done()
		}, nil
	}
	if d := in.disks.Find(disk.Name{Tenant: n.Tenant, Volume: n.Volume}); d != nil && d.HoldsState() {
		_, err := in.disks.Local(n.String(), true) // the store may have an unrelated volume of that name
		return nil, nil, err
	}
	tip, err := in.catalog.Tip(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	state := tip.Carry()
	if n.Snapshot != "" {
		found := false
		for _, s := range state.Snapshots {
			if s.Name == n.Snapshot {
				disk.TakeSnapshot(&state, &s)
				found = true
			}
		}
		if !found {
			return nil, nil, errs.New(errs.NotFound, "volume %q has no snapshot %q", n.Log(), n.Snapshot)
		}
	}
	return in.catalog.CutOfState(ctx, &state)
}

func (in *Inspector) cutNamed(ctx context.Context, name string) (*volume.Cut, func(), error) {
	n, err := disk.ParseName(name, true)
	if err != nil {
		return nil, nil, err
	}
	return in.CutOf(ctx, n)
}

// CutAt returns a cut of a snapshot or a commit of a volume, and a function that releases
// it.
func (in *Inspector) CutAt(ctx context.Context, n disk.Name, at string) (*volume.Cut, func(), error) {
	if s := in.disks.Find(disk.Name{Tenant: n.Tenant, Volume: n.Volume, Snapshot: at}); s != nil {
		v, err := s.WakeUnlocked(false)
		if err != nil {
			return nil, nil, err
		}
		c, err := v.Cut()
		if err != nil {
			return nil, nil, err
		}
		return c, c.Release, nil
	}
	state, g, err := in.catalog.Resolve(ctx, n, at)
	if err != nil {
		return nil, nil, err
	}
	if d := in.disks.Find(n); d != nil && volume.ID(state.ID) != d.ID {
		return nil, nil, errs.New(errs.NotFound, "%s is a state of another volume, which had the name %q before: use glide fork --at %s", g, n, g)
	}
	return in.catalog.CutOfState(ctx, state)
}
