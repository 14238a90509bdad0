package rehome

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/volume"
)

// stepBytes and stepTime bound what a step stores again: the Op of a volume is held meanwhile.
const (
	stepBytes = 128 << 20
	stepTime  = 5 * time.Second
)

// Options are what the host does for a move.
type Options struct {
	// HandOver publishes a volume and releases it to the store. Under op.
	HandOver func(ctx context.Context, d *disk.Disk) error
	// Wake claims and opens a volume that was released.
	Wake func(ctx context.Context, name string) error
	Step int64 // bytes of a step; 0: stepBytes
}

// Mover moves tenants. Its methods may be called concurrently.
type Mover struct {
	opts      Options
	disks     *disk.Table
	pins      *pin.Pins
	catalog   *catalog.Catalog
	owners    *ownership.Owners
	publisher *publication.Publisher

	mu   sync.Mutex
	busy map[string]bool
}

// New returns a Mover.
func New(o Options, t *disk.Table, p *pin.Pins, c *catalog.Catalog, ow *ownership.Owners, pub *publication.Publisher) *Mover {
	if o.Step == 0 {
		o.Step = stepBytes
	}
	return &Mover{opts: o, disks: t, pins: p, catalog: c, owners: ow, publisher: pub, busy: map[string]bool{}}
}

// run is one call of Move.
type run struct {
	*Mover
	tenant string
	home   uint32
	rate   uint64
	pace   *clock.Pacer

	clean map[pack.Hash]bool              // map pages under which nothing is plain
	twins map[blockmap.Root]blockmap.Root // plain roots, and what has the same content
	next  map[volume.ID]uint64            // the first block of a disk that was not looked at
	ways  map[volume.ID]way               // what was made of its map
	moved map[volume.ID]bool              // disks of which something was stored again
	looks map[volume.ID]int               // see again
	stuck map[string]string               // why volumes could not be moved
	out   api.Sealing
	total uint64
	done  uint64
}

// way is what steps made of a map without another change.
type way struct{ from, to blockmap.Root }

// begin notes that a tenant is being moved.
func (m *Mover) begin(tenant string) (end func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[tenant] {
		return nil, errs.New(errs.Busy, "tenant %q is being sealed by another call on this host", tenant)
	}
	m.busy[tenant] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, tenant)
	}, nil
}

// Move moves a tenant that has keys (tenants.Seal) into its domain, as far as that can be
// done here, reading at most rate bytes a second; 0: no limit. When nothing is left on any
// host it ends the time in which plain text is read. Progress is reported in bytes.
func (m *Mover) Move(ctx context.Context, tenant string, rate uint64) (api.Sealing, error) {
	info, err := m.disks.Tenants.Show(ctx, tenant)
	switch {
	case err != nil:
		return api.Sealing{}, err
	case info.Locked != "":
		return api.Sealing{}, errs.New(errs.Unavailable, "%s", info.Locked)
	case info.Domain == 0:
		return api.Sealing{}, errs.New(errs.Invalid, "tenant %q has no keys", tenant)
	case !info.Moving:
		return api.Sealing{Left: []api.Unsealed{}}, nil
	}
	end, err := m.begin(tenant)
	if err != nil {
		return api.Sealing{}, err
	}
	defer end()
	ctx, stop := context.WithCancel(cost.With(ctx, cost.Manage, cost.Volume{}))
	defer stop()
	defer context.AfterFunc(m.disks.Ctx, stop)() // a stop of the host ends it
	r := &run{
		Mover: m, tenant: tenant, home: info.Domain, rate: rate, pace: clock.NewPacer(rate, m.disks.Uptime),
		clean: map[pack.Hash]bool{}, twins: map[blockmap.Root]blockmap.Root{}, next: map[volume.ID]uint64{}, ways: map[volume.ID]way{}, looks: map[volume.ID]int{},
		moved: map[volume.ID]bool{}, out: api.Sealing{Left: []api.Unsealed{}},
	}
	err = r.all(ctx)
	r.out.Volumes = uint64(len(r.moved))
	return r.out, err
}

// all moves what is here, and then looks at everything. Twice: see moved-is-all.
func (r *run) all(ctx context.Context) error {
	if err := r.count(ctx); err != nil {
		return err
	}
	for settled := false; ; settled = true {
		if err := r.here(ctx); err != nil {
			return err
		}
		if err := r.nobodys(ctx); err != nil {
			return err
		}
		// Until here somebody may have read a plain newest commit, and takes the tenant for a
		// plain one on the strength of that.
		since := r.disks.Uptime()
		left, err := r.look(ctx)
		if r.out.Left = left; err != nil || len(left) > 0 && !fault.Is("moved-too-early") {
			return err
		}
		if settled || fault.Is("moved-too-early") {
			break
		}
		if err := r.settle(ctx, since+tenants.SettleFor); err != nil {
			return err
		}
	}
	left, err := r.pinned(ctx)
	if err == nil && len(left) == 0 {
		left, err = r.look(ctx)
	}
	if r.out.Left = left; err != nil || len(left) > 0 && !fault.Is("moved-too-early") {
		return err
	}
	_, err = r.disks.Tenants.Moved(ctx, r.tenant)
	return err
}

// settlePoll is how often a wait looks at the clock, which may count what a timer does not.
const settlePoll = 200 * time.Millisecond

// settle waits until an uptime.
func (r *run) settle(ctx context.Context, until time.Duration) error {
	if fault.Is("moved-too-early") {
		return nil
	}
	for {
		left := until - r.disks.Uptime()
		if left <= 0 {
			return ctx.Err()
		}
		r.report(ctx, 0)
		if err := clock.Pause(ctx, min(left, settlePoll)); err != nil {
			return err
		}
	}
}

// here moves what this host has, until a look at all of it finds nothing: forks may have been
// made meanwhile of what was not moved yet.
func (r *run) here(ctx context.Context) error {
	for again := true; again; {
		again = false
		r.stuck = map[string]string{}
		for _, d := range r.volumes() {
			changed, err := r.volume(ctx, d)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				r.stuck[d.String()] = err.Error()
			}
			again = again || changed && err == nil
		}
	}
	return nil
}

// volumes are the tenant's on this host, without isolated ones, of which nothing was ever
// plain. Those that only this host knows come first: of what
// has the same map, one is stored again, and the others take it over.
func (r *run) volumes() (list []*disk.Disk) {
	for _, d := range r.disks.All() {
		if st := d.State(); disk.DomainName(&st) == r.tenant && st.SnapshotOf == (volume.ID{}) && st.Mode != volume.Fenced {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b *disk.Disk) int {
		if x, y := a.State().Published == nil, b.State().Published == nil; x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a.String(), b.String())
	})
	return list
}

// report reports that n more bytes were read.
func (r *run) report(ctx context.Context, n uint64) {
	r.done += n
	if report := api.Progress(ctx); report != nil {
		report(min(r.done, r.total), r.total)
	}
}
