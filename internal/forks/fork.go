// Package forks makes forks: of a volume of this host without a request, and of what only
// the store has with at most six. Others call Fork; everything else here is one call of it.
package forks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/volume"
)

// Options are what the host does for forks.
type Options struct {
	MayGrow func() error                              // an error if nothing new may be begun that takes disk space
	Learn   func(tenant string, owner commitlog.Host) // notes a host that may have blocks of a tenant
}

// Forker makes forks. Its methods may be called concurrently.
type Forker struct {
	opts       Options
	disks      *disk.Table
	pins       *pin.Pins
	catalog    *catalog.Catalog
	owners     *ownership.Owners
	publisher  *publication.Publisher
	durability *durability.Keeper

	shortenAfter atomic.Int64 // uptime before which no chain of forks is shortened
}

// New creates a Forker.
func New(o Options, disks *disk.Table, pins *pin.Pins, cat *catalog.Catalog, owners *ownership.Owners, pub *publication.Publisher, dur *durability.Keeper) *Forker {
	return &Forker{opts: o, disks: disks, pins: pins, catalog: cat, owners: owners, publisher: pub, durability: dur}
}

// maxForks is the maximum number of forks per call.
const maxForks = 10000

// Fork forks one cut of a volume, a snapshot or a commit. It makes all forks or none.
func (h *Forker) Fork(ctx context.Context, r api.ForkRequest) ([]api.Fork, error) {
	began := h.disks.Now()
	ctx, counter := publication.Count(cost.With(ctx, cost.Fork, cost.Volume{}))
	src, err := disk.ParseName(r.Source, true)
	if err != nil {
		return nil, err
	}
	if src.Snapshot != "" && r.At != "" {
		return nil, errs.New(errs.Invalid, "%q names a snapshot already: leave out --at", r.Source)
	}
	if err := durability.CheckDurability(r.Durability); err != nil {
		return nil, err
	}
	names, err := forkNames(&r)
	if err != nil {
		return nil, err
	}
	if err := h.opts.MayGrow(); err != nil {
		return nil, err
	}
	p := durability.Policy{Durability: cmp.Or(r.Durability, disk.Local), RPO: disk.DefaultRPO}
	f := forking{h: h, src: src, at: r.At, lazy: r.Lazy, isolate: r.Isolate, names: names, ships: p.Ships(), finish: func() error { return nil }}
	if src.Snapshot != "" {
		f.at, f.src.Snapshot = src.Snapshot, ""
	}
	disks, gen, err := f.run(ctx)
	if err == nil {
		err = h.durability.ApplyPolicy(ctx, p, commitlog.CauseFork, disks...)
	}
	if err = errors.Join(err, f.finish()); err != nil {
		return nil, err
	}
	out := make([]api.Fork, len(disks))
	for i, d := range disks {
		st := d.State()
		out[i] = api.Fork{Name: d.String(), ID: st.ID.String(), Parent: src.String(), Generation: gen, AgeMs: f.age}
		if i == 0 {
			out[i].Requests = publication.Requests(counter)
		}
		out[i].ElapsedMs = h.disks.Since(began)
	}
	return out, nil
}

func forkNames(r *api.ForkRequest) ([]disk.Name, error) {
	n, err := disk.ParseName(r.Name, false)
	if err != nil {
		return nil, err
	}
	if r.Count < 0 || r.Count > maxForks {
		return nil, errs.New(errs.Invalid, "%d forks: 1 to %d can be made at once", r.Count, maxForks)
	}
	if r.Count == 0 {
		return []disk.Name{n}, nil
	}
	names := make([]disk.Name, r.Count)
	for i := range names {
		if names[i], err = disk.ParseName(disk.Name{Tenant: n.Tenant, Volume: fmt.Sprintf("%s-%d", n.Volume, i+1)}.String(), false); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// forking is one call of Fork.
type forking struct {
	h     *Forker
	src   disk.Name
	at    string
	lazy  bool
	names []disk.Name
	// isolate has forks of another tenant's snapshot in a domain of their own.
	isolate  bool
	isolated uint32  // that domain
	ships    bool    // the forks have a policy that ships
	age      float64 // age of the commit that a lazy fork took, ms

	domain string // the name of the source's, in the store

	unsettled bool // the first commit of a fork that failed may still take effect

	finish func() error // ends the recording that BeginCreate began
}

func (f *forking) run(ctx context.Context) ([]*disk.Disk, string, error) {
	for _, n := range f.names { // check first, so that another host does not flush for nothing
		if f.h.disks.Find(n) != nil {
			return nil, "", disk.OnThisHost(n)
		}
	}
	if f.src.Tenant != f.names[0].Tenant {
		return f.foreign(ctx)
	}
	if f.isolate {
		return nil, "", errs.New(errs.Invalid, "a fork of %q shares its blocks, and so its keys: a volume has keys of its own if it was created with them (glide create --isolate), or is a fork of a public snapshot", f.src)
	}
	d := f.h.disks.Find(f.src)
	if d != nil && f.at != "" {
		if s := f.h.disks.Find(disk.Name{Tenant: f.src.Tenant, Volume: f.src.Volume, Snapshot: f.at}); s != nil {
			d = s
		} else {
			d = nil // a commit of the volume in the store
		}
	}
	if d == nil || f.released() {
		return f.remote(ctx)
	}
	return f.local(ctx, d)
}

// A fork of a fork of a fork holds the log of every ancestor that was never published.
// Beyond this many of them, a fork first publishes its source, and then inherits none.
const (
	deepChain     = 64
	publishWithin = 5 * time.Second
	publishAgain  = time.Minute // after the store did not take it
)

// shorten publishes a volume that has inherited the log of many ancestors, if the store
// takes it: the cost of a volume must not grow with the length of its chain.
func (h *Forker) shorten(ctx context.Context, d *disk.Disk, v *volume.Volume) {
	if v.Ancestors() < deepChain || int64(h.disks.Uptime()) < h.shortenAfter.Load() {
		return
	}
	if !d.Op.TryLock() {
		return // a fork waits for no other verb
	}
	defer d.Op.Unlock()
	ctx, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	if _, err := h.publisher.Publish(ctx, d, commitlog.CauseFlush, nil); err != nil {
		h.shortenAfter.Store(int64(h.disks.Uptime() + publishAgain))
		h.disks.Event(event.Store, d.String(), "a fork of it inherits the log of %d volumes, because it could not be published: %v", deepChain, err)
	}
}

// released reports whether the source was released to the store. Then this host cannot
// keep in the store the state that a local child would use.
func (f *forking) released() bool {
	d := f.h.disks.Find(disk.Name{Tenant: f.src.Tenant, Volume: f.src.Volume})
	return d != nil && d.State().Released
}

// local forks on this host: no upload, no store request, and the source is not paused.
// Only in a deep chain of forks, one in deepChain publishes its source. fork-is-constant.
func (f *forking) local(ctx context.Context, d *disk.Disk) ([]*disk.Disk, string, error) {
	ctx = cost.With(ctx, cost.Fork, d.Payer())
	h := f.h
	st := d.State()
	if st.Mode == volume.Fenced {
		return nil, "", disk.FencedError(&st)
	}
	v := d.KeepOpen()
	if v == nil {
		var err error
		if v, err = d.WakeUnlocked(false); err != nil {
			return nil, "", err
		}
		h.owners.CheckSealSoon(d)
	}
	if st.SnapshotOf == (volume.ID{}) {
		h.shorten(ctx, d, v)
		st = d.State()
	}
	gen := ""
	if st.Published != nil {
		gen = disk.Generation(st.Published).String()
	}
	parent := &volume.Parent{Name: disk.Display(f.src.Tenant, f.src.Volume, ""), ID: st.ID, Generation: gen}
	if root := v.State().Root; !root.IsHole() {
		parent.Root = root.Ref.Hash.String()
	}
	if st.SnapshotOf != (volume.ID{}) {
		parent.ID, parent.Generation = st.SnapshotOf, st.Generation
	}
	var disks []*disk.Disk
	var records []*volume.State
	for _, n := range f.names {
		child := h.disks.NewState(n, st.Size)
		child.Isolated, child.Parent = st.Isolated, parent
		disks, records = append(disks, disk.New(h.disks, child)), append(records, &child)
	}
	if f.ships {
		var err error
		if f.finish, err = h.disks.BeginCreate(records...); err != nil {
			return nil, "", err
		}
	}
	done, err := f.reserve(disks)
	if err != nil {
		return nil, "", err
	}
	defer done()
	d.Moving.RLock()
	kids, err := h.disks.ForkCut(v, records)
	d.Moving.RUnlock()
	if err != nil {
		for _, k := range disks {
			h.disks.Unreserve(k)
		}
		return nil, "", err
	}
	for i, k := range disks {
		k.SetVolume(kids[i])
	}
	return disks, gen, nil
}

// reserve reserves the names of all disks, or of none. Callers that find one of the disks
// wait until done is called.
func (f *forking) reserve(disks []*disk.Disk) (done func(), err error) {
	for i, d := range disks {
		d.Op.Lock()
		if err := f.h.disks.Reserve(d); err != nil {
			d.Op.Unlock()
			for _, k := range disks[:i] {
				f.h.disks.Unreserve(k)
				k.Op.Unlock()
			}
			return nil, err
		}
	}
	return func() {
		for _, d := range disks {
			d.Op.Unlock()
		}
	}, nil
}

// remote forks a published state. It makes at most six requests, whatever the size of the
// disk and the length of its history, and a few more if the log moves on meanwhile. A state
// that is not the newest as far as this host knows costs two more if it names data commits.
// reachable-is-kept: announce the commit, check it, and only then refer to it.
func (f *forking) remote(ctx context.Context) ([]*disk.Disk, string, error) {
	h := f.h
	gen, tip, snapshot, err := f.place(ctx)
	if err != nil {
		return nil, "", err
	}
	log, err := commitlog.LogOf(ctx, h.disks.Store, f.src.Log())
	if err != nil {
		return nil, "", err
	}
	drop, err := h.pins.PinFork(ctx, log.Key(gen))
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if f.unsettled {
			return // a fork may still take effect, which names what only this pin keeps
		}
		if err := drop(context.WithoutCancel(ctx)); err != nil {
			h.disks.Log.Warn("a pin was not dropped", "error", err)
		}
	}()
	tip, condemned, err := f.look(ctx, gen, tip)
	if err != nil {
		return nil, "", err
	}
	if tip.Bare() {
		return nil, "", errs.New(errs.NotFound, "generation %s of %q is past retention or is a removal: its state is gone", gen, f.src)
	}
	h.opts.Learn(tip.State.DomainName(), tip.State.Owner)
	if f.lazy {
		f.age = h.disks.Since(tip.State.Time)
	}
	from := tip.Carry()
	if snapshot != nil {
		disk.TakeSnapshot(&from, snapshot)
	}
	if condemned != nil && f.condemned(condemned, log, &from, gen) {
		return nil, "", errs.New(errs.NotFound, "that state of %q is past retention and is being collected: fork a newer one", f.src)
	}
	disks, err := f.publish(ctx, &from, gen)
	return disks, gen.String(), err
}

// foreign forks a snapshot of a public tenant, as the store has it: the forks' maps name
// blocks of that tenant's domain, which their own keyring says that they may read. What they
// write, they have under their own keys.
func (f *forking) foreign(ctx context.Context) ([]*disk.Disk, string, error) {
	if f.at == "" {
		return nil, "", errs.New(errs.Invalid, "%q is another tenant's, of whom only snapshots can be forked: name one, as in %s@NAME", f.src, f.src)
	}
	known, tenant := f.h.disks.Tenants, f.names[0].Tenant
	if f.isolate {
		var err error
		if f.isolated, err = known.Isolate(ctx, tenant); err != nil {
			return nil, "", err
		}
	}
	if err := known.Grant(ctx, commitlog.DomainName(tenant, f.isolated), f.src.Tenant); err != nil {
		if f.isolate {
			err = errors.Join(err, known.Drop(context.WithoutCancel(ctx), tenant, f.isolated))
		}
		return nil, "", err
	}
	return f.remote(ctx)
}

// condemned tells whether a collector has flagged the commit, or data commits that the fork
// would name. Of a commit that is collected nothing is kept, not even by the announcement: a
// later round flags its packs, and may end before the fork names them.
func (f *forking) condemned(c *gc.Condemned, log commitlog.Volume, from *commitlog.State, gen commitlog.Generation) bool {
	return c.Commit(log, gen.Epoch) || slices.ContainsFunc(from.DataCommits, func(run commitlog.DataRun) bool {
		return c.Commit(commitlog.Volume{Tenant: f.src.Tenant, Name: run.Name}, run.Epoch)
	})
}

// look makes sure that an announced commit still has its state. The newest commit has it
// as long as nothing follows. Any other commit, or one that was overtaken, is read again,
// after a look at what collectors have flagged: a round that ended just before may have
// taken the commit together with its data commits.
func (f *forking) look(ctx context.Context, gen commitlog.Generation, tip *commitlog.Object) (*commitlog.Object, *gc.Condemned, error) {
	if tip != nil {
		if moved, err := commitlog.Moved(ctx, f.h.disks.Store, f.src.Log(), tip); err != nil || !moved {
			return tip, nil, err
		}
	}
	if tip == nil && f.at == "" { // its owner has just published it: only its data commits may be flagged
		o, err := commitlog.Load(ctx, f.h.disks.Store, f.src.Log(), gen)
		if err != nil || len(o.State.DataCommits) == 0 {
			return o, nil, err
		}
	}
	c, err := gc.Look(ctx, f.h.disks.Store, 0, f.h.disks.Tenant(f.domain).Hasher.Codec().ID())
	if err != nil {
		return nil, nil, err
	}
	tip, err = commitlog.Load(ctx, f.h.disks.Store, f.src.Log(), gen)
	return tip, c, err
}

// place returns the commit to fork: the newest one, after its owner has flushed, or the
// one that --at names. If it has read that commit as the newest one, it returns it as
// tip.
func (f *forking) place(ctx context.Context) (_ commitlog.Generation, tip *commitlog.Object, _ *commitlog.Snapshot, _ error) {
	h := f.h
	if f.src.Tenant != f.names[0].Tenant {
		tip, s, err := f.published(ctx)
		if err == nil && s == nil {
			err = errs.New(errs.NotFound, "%q has no snapshot %q that others can fork: glide publish %s@%s makes it one", f.src, f.at, f.src, f.at)
		}
		if err != nil {
			return commitlog.Generation{}, nil, nil, err
		}
		f.domain = tip.State.DomainName()
		return tip.Generation, tip, s, nil
	}
	if f.at != "" {
		if _, err := commitlog.ParseGeneration(f.at); err == nil { // it comes before a snapshot of that name
			if of, g, err := h.catalog.Resolve(ctx, f.src, f.at); err == nil {
				f.domain = of.DomainName()
				return g, nil, nil, nil
			}
		}
		g, s, err := f.snapshot(ctx)
		if err == nil && s == nil {
			var of *commitlog.State
			if of, g, err = h.catalog.Resolve(ctx, f.src, f.at); err == nil {
				f.domain = of.DomainName()
			}
		}
		return g, nil, s, err
	}
	tip, err := h.catalog.Listed(ctx, f.src)
	if err != nil {
		return commitlog.Generation{}, nil, nil, err
	}
	if f.domain = tip.State.DomainName(); tip.Domain == 0 {
		h.disks.Tenants.SawPlain(f.src.Tenant)
	}
	if f.lazy || tip.Closes() && tip.Released || tip.State.Owner.ID == h.disks.HostID || tip.State.Owner.ID == "" {
		return tip.Generation, tip, nil, nil
	}
	vol, err := h.owners.AskOwner(ctx, f.src, tip, true)
	if err != nil {
		return commitlog.Generation{}, nil, nil, errs.New(errs.WouldLose, "host %s, which holds %q, did not flush it, so its writes since %s (%s) would be missing: try again, or take that state with --lazy: %w",
			tip.State.Owner.ID, f.src, tip.Generation, tip.State.Time.Format(time.RFC3339), err)
	}
	g, err := commitlog.ParseGeneration(vol.Generation)
	return g, nil, nil, err
}

// snapshot looks up --at among the snapshots that the volume has in the store. It returns
// nil if there is no such snapshot. If the store has an unrelated volume under the name
// of a volume of this host, its snapshots do not count.
func (f *forking) snapshot(ctx context.Context) (g commitlog.Generation, found *commitlog.Snapshot, err error) {
	d := f.h.disks.Find(f.src)
	if d != nil && d.State().Published == nil {
		return g, nil, nil
	}
	tip, s, err := f.published(ctx)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return g, nil, nil // the volume was removed, but its history may still be there
	}
	if err != nil || s == nil || d != nil && d.ID != volume.ID(tip.State.ID) {
		return g, nil, err
	}
	f.domain = tip.State.DomainName()
	return tip.Generation, s, nil
}

// published returns the newest commit of the source, and its snapshot --at; nil if there is
// no such snapshot.
func (f *forking) published(ctx context.Context) (*commitlog.Object, *commitlog.Snapshot, error) {
	tip, err := f.h.catalog.Listed(ctx, f.src)
	if err != nil {
		return nil, nil, err
	}
	for i := range tip.State.Snapshots {
		if s := &tip.State.Snapshots[i]; s.Name == f.at {
			return tip, s, nil
		}
	}
	return tip, nil, nil
}

// publish creates the children: the first commit of each copies the source's state.
func (f *forking) publish(ctx context.Context, from *commitlog.State, gen commitlog.Generation) ([]*disk.Disk, error) {
	h := f.h
	disks := make([]*disk.Disk, len(f.names))
	states := make([]commitlog.State, len(f.names))
	records := make([]*volume.State, len(f.names))
	for i, n := range f.names {
		id := disk.NewVolumeID(h.disks)
		states[i] = from.Fork(n.Volume, commitlog.VolumeID(id), gen, h.disks.Now().UTC())
		states[i].Tenant, states[i].Cause = n.Tenant, commitlog.CauseFork
		if n.Tenant != f.src.Tenant {
			states[i].Parent.Tenant, states[i].Isolated = f.src.Tenant, f.isolated
		}
		rec := disk.RecordOf(&states[i], id)
		rec.Name = n.Volume
		disks[i], records[i] = disk.New(h.disks, rec), &rec
	}
	var err error
	if f.finish, err = h.disks.BeginCreate(records...); err != nil {
		return nil, err
	}
	done, err := f.reserve(disks)
	if err != nil {
		return nil, err
	}
	for i, d := range disks {
		if err = h.publishFork(ctx, d, states[i]); err != nil {
			break
		}
	}
	done()
	if err != nil {
		f.unsettled = slices.ContainsFunc(disks, (*disk.Disk).Unsettled)
		return nil, errors.Join(err, h.durability.UndoCreate(ctx, err, disks...))
	}
	return disks, nil
}

// publishFork publishes state as the first commit of a reserved disk, and opens the disk.
// Under op.
func (h *Forker) publishFork(ctx context.Context, d *disk.Disk, state commitlog.State) error {
	ctx = cost.With(ctx, cost.Fork, d.Payer())
	g, err := h.owners.Commit(ctx, d, state)
	if err != nil {
		return err
	}
	rec := d.State()
	rec.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number}
	d.SetRecord(&rec)
	v, err := h.owners.Load(ctx, rec, &state)
	if err != nil {
		return err
	}
	d.SetVolume(v)
	return h.owners.FirstPublished(d, &rec)
}
