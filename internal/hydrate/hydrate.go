// Package hydrate brings every block of a volume to this host's SSD tier, so that the
// volume reads without the store.
//
// What is under way is recorded, with its rate, and goes on after a restart: blocks that
// are here already cost nothing, so it goes on where it was. It has no locks; any
// goroutine may call.
package hydrate

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/internal/pack"
)

// facts are the names of volumes that are being hydrated; a value is the rate, in text.
const facts = "hydrate/"

// batch is how many blocks of the map are looked at before their packs are asked for.
const batch = 512

// Hydrator hydrates the volumes of a host. All methods may be called concurrently.
type Hydrator struct {
	disks     *disk.Table
	inspector *inspect.Inspector

	mu   sync.Mutex
	busy map[string]bool // names under way
}

// payer returns the volume that the requests are counted for, if this host has it.
func (y *Hydrator) payer(n disk.Name) cost.Volume {
	if d := y.disks.Find(n); d != nil {
		return d.Payer()
	}
	return cost.Volume{}
}

// New returns a hydrator.
func New(t *disk.Table, in *inspect.Inspector) *Hydrator {
	return &Hydrator{disks: t, inspector: in, busy: map[string]bool{}}
}

// Hydrate brings every block of a volume, or a snapshot, to this host, at no more than
// rate bytes of the store a second; 0: as fast as they come. It is an error of kind
// NoSpace if not all of them fit; what fits stays.
func (y *Hydrator) Hydrate(ctx context.Context, name string, rate uint64) (api.Hydrate, error) {
	n, err := disk.ParseName(name, true)
	if err != nil {
		return api.Hydrate{}, err
	}
	done, err := y.begin(n.String())
	if err != nil {
		return api.Hydrate{}, err
	}
	defer done()
	fact := facts + n.String()
	if err := y.disks.DB.SetFact(fact, []byte(strconv.FormatUint(rate, 10))); err != nil {
		return api.Hydrate{}, err
	}
	out, err := y.run(cost.With(ctx, cost.Hydrate, y.payer(n)), n, rate)
	if err == nil || y.disks.Ctx.Err() == nil { // else the next process goes on with it
		if ferr := y.disks.DB.SetFact(fact, nil); err == nil {
			err = ferr
		}
	}
	return out, err
}

// begin sees to it that a volume is hydrated once at a time.
func (y *Hydrator) begin(name string) (done func(), err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.busy[name] {
		return nil, errs.New(errs.Busy, "volume %q is being hydrated already", name)
	}
	y.busy[name] = true
	return func() {
		y.mu.Lock()
		defer y.mu.Unlock()
		delete(y.busy, name)
	}, nil
}

// Resume goes on with what an earlier process of this host had begun, until the host stops.
func (y *Hydrator) Resume() {
	rates := map[string]uint64{}
	err := y.disks.DB.Facts(facts, func(fact string, value []byte) error {
		rate, err := strconv.ParseUint(string(value), 10, 64)
		if err == nil {
			rates[strings.TrimPrefix(fact, facts)] = rate
		}
		return nil
	})
	if err != nil {
		y.disks.Log.Warn("what was being hydrated is not known", "error", err)
	}
	for name, rate := range rates {
		out, err := y.Hydrate(y.disks.Ctx, name, rate)
		switch {
		case y.disks.Ctx.Err() != nil:
			return
		case err != nil:
			y.disks.Event(event.Volume, name, "not hydrated: %v", err)
		default:
			y.disks.Event(event.Volume, name, "hydrated: %d blocks are on this host", out.Blocks)
		}
	}
}

// hydration is one run.
type hydration struct {
	t      *disk.Tenant
	size   int
	pace   *clock.Pacer
	report func(done, total uint64) // nil: nobody wants to know
	total  uint64                   // bytes of the volume
	refs   []pack.Ref
	out    api.Hydrate
}

func (y *Hydrator) run(ctx context.Context, n disk.Name, rate uint64) (api.Hydrate, error) {
	began := y.disks.Now()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(y.disks.Ctx, stop)() // a stop of the host ends it
	c, done, err := y.inspector.CutOf(ctx, n)
	if err != nil {
		return api.Hydrate{}, err
	}
	defer done()
	r := &hydration{
		t: y.disks.Tenant(disk.DomainName(&c.State)), size: int(c.State.BlockSize), report: api.Progress(ctx), total: c.Size(),
		pace: clock.NewPacer(rate, y.disks.Uptime), out: api.Hydrate{Name: n.String()},
	}
	base := c.Base()
	err = base.Walk(ctx, 0, base.Blocks(), func(idx uint64, ref pack.Ref) error {
		r.refs = append(r.refs, ref)
		if len(r.refs) < batch {
			return nil
		}
		return r.bring(ctx, idx+1)
	})
	if err == nil {
		err = r.bring(ctx, base.Blocks())
	}
	if err == nil {
		err = r.check(ctx, base)
	}
	r.out.ElapsedMs = y.disks.Since(began)
	if errs.KindOf(err) == errs.NoSpace && err != nil {
		err = errs.New(errs.NoSpace, "%d blocks of volume %q are on this host, and the others do not fit: %w", r.out.Blocks, n, err)
	}
	return r.out, err
}

// check makes sure that no block went again while the others came.
func (r *hydration) check(ctx context.Context, m *blockmap.Map) error {
	r.out.Blocks = 0
	gone := false
	err := m.Walk(ctx, 0, m.Blocks(), func(_ uint64, ref pack.Ref) error {
		if r.t.Domain.Has(&ref.Hash, r.size) {
			r.out.Blocks++
		} else {
			gone = true
		}
		return nil
	})
	if err == nil && gone {
		err = cache.ErrNoRoom
	}
	return err
}

// bring brings the blocks that were collected, which lie before block idx.
func (r *hydration) bring(ctx context.Context, idx uint64) error {
	if !r.t.Domain.Fits(r.out.Blocks+uint64(len(r.refs)), r.size) {
		return cache.ErrNoRoom // rather than throw out what came first
	}
	n, err := r.t.Domain.Bring(ctx, r.refs, r.size, r.pace.Wait)
	if err != nil {
		for i := range r.refs { // some may have come
			if r.t.Domain.Has(&r.refs[i].Hash, r.size) {
				r.out.Blocks++
			}
		}
		return err
	}
	r.out.Blocks += uint64(len(r.refs))
	r.out.Fetched += uint64(n)
	r.refs = r.refs[:0]
	if r.report != nil {
		r.report(min(idx*uint64(r.size), r.total), r.total)
	}
	return nil
}
