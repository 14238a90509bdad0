package host

import (
	"slices"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// byID returns the disk with an id in text, nil if there is none.
func (h *Host) byID(id string) *disk {
	var vid volume.ID
	if vid.UnmarshalText([]byte(id)) != nil {
		return nil
	}
	return h.disk(vid)
}

// dedupIndex is one tenant's part of the host's dedup index; it implements
// flush.Index.
type dedupIndex struct {
	db     *meta.DB
	tenant string
}

// Block returns where a block is stored, a hole if it is not known.
func (x *dedupIndex) Block(h pack.Hash) (pack.Ref, error) { return x.db.Block(x.tenant, h) }

// AddBlocks enters blocks that are in the store.
func (x *dedupIndex) AddBlocks(refs []pack.Ref) error { return x.db.AddBlocks(x.tenant, refs) }

// ForgetBlock removes a block that was not where the index said.
func (x *dedupIndex) ForgetBlock(h pack.Hash) error { return x.db.ForgetBlock(x.tenant, h) }

// tenant is what the volumes of one tenant share.
type tenant struct {
	name   string
	hasher *pack.Hasher
	domain *cache.Domain
	pages  *blockmap.Source
	index  *dedupIndex
}

// tenant returns what the tenant's volumes share.
func (h *Host) tenant(name string) *tenant {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tenantLocked(name)
}

func (h *Host) tenantLocked(name string) *tenant {
	if t := h.tenants[name]; t != nil {
		return t
	}
	t := &tenant{name: name, hasher: pack.NewHasher(name)}
	t.index = &dedupIndex{db: h.db, tenant: name}
	t.domain = h.cache.Domain(t.hasher, t.index.Block)
	t.pages = h.pages.Source(h.loader.For(t.hasher), t.hasher)
	h.tenants[name] = t
	return t
}

// env is what a volume of the tenant needs.
func (h *Host) env(t *tenant) volume.Env {
	return volume.Env{
		Log: h.pool, Pages: t.pages, Blocks: t.domain,
		Save: h.save, SaveSoon: h.saveSoon, Forget: h.forget, Pressure: h.cleaner.pressure, Throttle: h.throttle, SharedOverlays: h.siblings, Damaged: h.damaged,
		Now: h.cfg.Now, Uptime: h.cfg.Uptime,
	}
}

// register puts a disk into the tables.
func (h *Host) register(d *disk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks[d.id] = d
	h.byName[d.key()] = d
}

// all lists every disk, snapshots included.
func (h *Host) all() []*disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*disk, 0, len(h.disks))
	for _, d := range h.disks {
		out = append(out, d)
	}
	return out
}

// since is the time that has passed, in milliseconds.
func (h *Host) since(t time.Time) float64 { return float64(h.cfg.Now().Sub(t)) / 1e6 }

// find returns this host's disk with the name, nil if it has none.
func (h *Host) find(n Name) *disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byName[keyOf(n.Tenant, n.Volume, n.Snapshot)]
}

// local returns this host's disk with the name.
func (h *Host) local(name string, snapshot bool) (*disk, error) {
	n, err := ParseName(name, snapshot)
	if err != nil {
		return nil, err
	}
	d := h.find(n)
	if d == nil {
		whole := Name{n.Tenant, n.Volume, ""}
		if n.Snapshot != "" && h.find(whole) != nil {
			return nil, errs.New(errs.NotFound, "volume %q has no snapshot %q: glide snapshots %s lists them", whole, n.Snapshot, whole)
		}
		return nil, errs.New(errs.NotFound, "there is no volume %q on this host: glide ls --all shows those of the store, glide wake %s takes one over", n, whole)
	}
	return d, nil
}

// reserve puts a new disk under its name, if that is free on this host.
func (h *Host) reserve(d *disk) error {
	key := d.key()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byName[key] != nil {
		st := d.state()
		return onThisHost(Name{st.Tenant, st.Name, st.Snapshot})
	}
	if old := h.disks[d.id]; old != nil {
		return errs.New(errs.Busy, "volume %s is on this host already, under another name", d.id)
	}
	if _, left := h.orphans[d.id]; left {
		return errs.New(errs.Busy, "volume %s was left by a call that did not end, and is being removed from the store", d.id)
	}
	h.byName[key] = d
	h.disks[d.id] = d
	return nil
}

func onThisHost(n Name) error {
	return errs.New(errs.Exists, "a volume %q is on this host already", n)
}

// disk finds a disk of this host; nil if there is none.
func (h *Host) disk(id volume.ID) *disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disks[id]
}

// unreserve takes a disk that was reserved, and not made, out of the tables; who
// waits for it finds it gone.
func (h *Host) unreserve(d *disk) {
	h.drop(d)
	d.mu.Lock()
	d.gone = true
	d.mu.Unlock()
}

// drop takes a disk out of the tables.
func (h *Host) drop(d *disk) {
	key := d.key()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.disks, d.id)
	if h.byName[key] == d {
		delete(h.byName, key)
	}
}

// keep puts a folded block into the SSD tier.
func (t *tenant) keep(_ uint64, hash pack.Hash, raw []byte) { t.domain.Keep(hash, raw) }

// reserveName keeps a name on this host from being taken until release.
func (h *Host) reserveName(n Name) (release func(), err error) {
	key := keyOf(n.Tenant, n.Volume, "")
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byName[key] != nil {
		return nil, onThisHost(n)
	}
	holder := newDisk(h, volume.State{Tenant: n.Tenant, Name: n.Volume, Mode: volume.Failed, Reason: "it is being renamed"})
	h.byName[key] = holder
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.byName[key] == holder {
			delete(h.byName, key)
		}
	}, nil
}

// snapshotsOf lists the snapshots of a volume, the oldest first.
func (h *Host) snapshotsOf(id volume.ID) []*disk {
	var out []*disk
	for _, d := range h.all() {
		if d.state().SnapshotOf == id {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *disk) int {
		x, y := a.state(), b.state()
		return x.CreatedAt.Compare(y.CreatedAt)
	})
	return out
}

// withoutCleaning does what makes a volume let go of log segments while nothing is
// cleaned.
func (h *Host) withoutCleaning(do func() error) error {
	h.cleaning.Lock()
	defer h.cleaning.Unlock()
	return do()
}
