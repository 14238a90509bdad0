package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// Base holds what the volumes of a host share. It does not change once the host is open.
type Base struct {
	HostID  string         // the data directory's identity
	Store   objstore.Store // with the keys of Tenants
	Tenants *tenants.Tenants
	Ledger  *cost.Ledger // counts the requests to Store
	DB      *meta.DB
	WAL     *wal.Pool
	Cache   *cache.Cache
	Pages   *blockmap.PageCache // of all tenants
	Loader  *cache.Pages        // loads the pages that are not in Pages
	Rand    io.Reader
	Now     func() time.Time
	Uptime  func() time.Duration // monotonic; it counts the time that the machine is suspended
	Log     *slog.Logger
	Events  *event.Log
	Ctx     context.Context // canceled when the host stops
	BG      *sync.WaitGroup // background work, which the host waits for when it stops
}

// Hooks are the calls of this package into the packages above it. All are set before the
// first volume is opened.
type Hooks struct {
	// Reclaim claims a volume that was released to the store, before it is used again.
	// Under op.
	Reclaim func(d *Disk, force bool) error
	// Ship starts the shipper of an open volume if its policy needs one. Under op.
	Ship func(d *Disk)
	// Abandon disconnects the volume's kernel device even if it is in use. Under op.
	Abandon func(d *Disk)
	// Device returns the path of a volume's kernel device, or "" if it has none.
	Device func(id volume.ID) string
	// Opened is called when a volume that is new on this host is open, and GuestsLeft when
	// the last connection to a disk has ended. They do not wait.
	Opened     func(d *Disk, v *volume.Volume)
	GuestsLeft func(d *Disk)
	// Saved is called when records change: log segments may have become free.
	Saved func()
	// Pressure and Throttle are those of volume.Env.
	Pressure func(v *volume.Volume, waited time.Duration) error
	Throttle func(v *volume.Volume, n int) error
}

// Table holds the volumes and snapshots of one host, by id and by name.
type Table struct {
	Base
	Hooks Hooks

	overlays *volume.SharedOverlays // set only while the host opens its volumes

	// Cleaning is held from the choice of segments to clean until they are cleaned, and
	// by everything else that makes volumes let go of segments. Otherwise a chosen
	// segment could be freed and reused meanwhile, even by the same volume; and cleaning
	// could save the record of a volume that has been closed, which must not happen.
	Cleaning sync.Mutex

	Mu      sync.Mutex
	disks   map[volume.ID]*Disk
	byName  map[string]*Disk // "tenant/name", and "tenant/name@snapshot"
	tenants map[string]*Tenant
	// Orphans are volumes that unfinished calls left in the store. They are being removed
	// from it.
	Orphans  map[volume.ID]Name
	creating map[volume.ID]bool // by calls in progress; see BeginCreate
}

// NewTable returns an empty table.
func NewTable(b Base) *Table {
	return &Table{Base: b, disks: map[volume.ID]*Disk{}, byName: map[string]*Disk{}, tenants: map[string]*Tenant{}, Orphans: map[volume.ID]Name{}, creating: map[volume.ID]bool{}}
}

// Random64 returns a random number. It panics if the source of randomness fails.
func (t *Table) Random64() uint64 {
	var b [8]byte
	if _, err := io.ReadFull(t.Rand, b[:]); err != nil {
		panic(fmt.Sprintf("no random numbers: %v", err))
	}
	return binary.LittleEndian.Uint64(b[:])
}

// Event reports an event of a volume, or of the host if vol is "".
func (t *Table) Event(kind, vol, format string, args ...any) {
	t.Events.Add(kind, vol, format, args...)
}

// ByText returns the disk whose id has this text form, or nil.
func (t *Table) ByText(id string) *Disk {
	var vid volume.ID
	if vid.UnmarshalText([]byte(id)) != nil {
		return nil
	}
	return t.ByID(vid)
}

// dedupIndex is one tenant's part of the host's dedup index. It implements flush.Index.
type dedupIndex struct {
	db     *meta.DB
	tenant string
}

// Block returns where a block is stored, or a hole if the index does not know it.
func (x *dedupIndex) Block(h pack.Hash) (pack.Ref, error) { return x.db.Block(x.tenant, h) }

// AddBlocks adds blocks that are in the store.
func (x *dedupIndex) AddBlocks(refs []pack.Ref) error { return x.db.AddBlocks(x.tenant, refs) }

// ForgetBlock removes a block that was not at the place in the index.
func (x *dedupIndex) ForgetBlock(h pack.Hash) error { return x.db.ForgetBlock(x.tenant, h) }

// Tenant holds what the volumes of one tenant share, or those of an isolated domain.
type Tenant struct {
	name   string // of the domain, see DomainName
	Hasher *pack.Hasher
	Domain *cache.Domain
	Pages  *blockmap.Source
	Index  *dedupIndex
}

// Tenant returns what the volumes of a domain share, by its name, and creates it if needed.
func (t *Table) Tenant(name string) *Tenant {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	return t.tenantLocked(name)
}

func (t *Table) tenantLocked(name string) *Tenant {
	if n := t.tenants[name]; n != nil {
		return n
	}
	n := &Tenant{name: name, Hasher: t.Tenants.Hasher(name)}
	n.Index = &dedupIndex{db: t.DB, tenant: name}
	n.Domain = t.Cache.Domain(name, n.Hasher, n.Index.Block)
	n.Pages = t.Pages.Source(t.Loader.For(n.Hasher), n.Hasher)
	t.tenants[name] = n
	return n
}

// Env returns the environment of a volume of the tenant.
func (t *Table) Env(n *Tenant) volume.Env {
	return volume.Env{
		Log: t.WAL, Pages: n.Pages, Blocks: n.Domain, BlocksFor: func(v cost.Volume) volume.Blocks { return n.Domain.For(v) },
		Save: t.Save, SaveSoon: t.saveSoon, Forget: t.Forget, Pressure: t.Hooks.Pressure, Throttle: t.Hooks.Throttle, SharedOverlays: t.overlays, Damaged: t.damaged,
		Now: t.Now, Uptime: t.Uptime,
	}
}

// Register adds a disk to the table.
func (t *Table) Register(d *Disk) {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	t.disks[d.ID] = d
	t.byName[d.key()] = d
}

// All returns every disk, including snapshots.
func (t *Table) All() []*Disk {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	out := make([]*Disk, 0, len(t.disks))
	for _, d := range t.disks {
		out = append(out, d)
	}
	return out
}

// Unsettled reports whether a commit of any disk that was sent may still take effect.
func (t *Table) Unsettled() bool {
	return slices.ContainsFunc(t.All(), (*Disk).Unsettled)
}

// Since returns the time since began in milliseconds.
func (t *Table) Since(began time.Time) float64 { return float64(t.Now().Sub(began)) / 1e6 }

// Find returns this host's disk with the name, or nil.
func (t *Table) Find(n Name) *Disk {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	return t.byName[keyOf(n.Tenant, n.Volume, n.Snapshot)]
}

// Local returns this host's disk with the name, or an error if there is none.
func (t *Table) Local(name string, snapshot bool) (*Disk, error) {
	n, err := ParseName(name, snapshot)
	if err != nil {
		return nil, err
	}
	d := t.Find(n)
	if d == nil {
		whole := Name{n.Tenant, n.Volume, ""}
		if n.Snapshot != "" && t.Find(whole) != nil {
			return nil, errs.New(errs.NotFound, "volume %q has no snapshot %q: glide snapshots %s lists them", whole, n.Snapshot, whole)
		}
		return nil, errs.New(errs.NotFound, "there is no volume %q on this host: glide ls --all lists those in the store, glide wake %s takes it over", n, whole)
	}
	return d, nil
}

// Reserve adds a new disk to the table if its name and id are free on this host.
func (t *Table) Reserve(d *Disk) error {
	key := d.key()
	t.Mu.Lock()
	defer t.Mu.Unlock()
	if t.byName[key] != nil {
		st := d.State()
		return OnThisHost(Name{st.Tenant, st.Name, st.Snapshot})
	}
	if old := t.disks[d.ID]; old != nil {
		return errs.New(errs.Busy, "volume %s is on this host already, under another name", d.ID)
	}
	if _, left := t.Orphans[d.ID]; left {
		return errs.New(errs.Busy, "volume %s was left by a call that did not finish, and is being removed from the store", d.ID)
	}
	t.byName[key] = d
	t.disks[d.ID] = d
	return nil
}

// OnThisHost is the error for a name that a volume of this host already has.
func OnThisHost(n Name) error {
	return errs.New(errs.Exists, "a volume %q is on this host already", n)
}

// ByID returns the disk of this host with the id, or nil.
func (t *Table) ByID(id volume.ID) *Disk {
	t.Mu.Lock()
	defer t.Mu.Unlock()
	return t.disks[id]
}

// Unreserve removes a disk that was reserved but not created. Callers that wait for it
// find it removed.
func (t *Table) Unreserve(d *Disk) {
	t.Drop(d)
	d.SetRemoved()
}

// Drop removes a disk from the table.
func (t *Table) Drop(d *Disk) {
	key := d.key()
	t.Mu.Lock()
	defer t.Mu.Unlock()
	delete(t.disks, d.ID)
	if t.byName[key] == d {
		delete(t.byName, key)
	}
}

// Keep adds a folded block to the SSD tier.
func (n *Tenant) Keep(_ uint64, hash pack.Hash, raw []byte) { n.Domain.Keep(hash, raw) }

// ReserveName keeps others from taking a name on this host until release is called.
func (t *Table) ReserveName(n Name) (release func(), err error) {
	key := keyOf(n.Tenant, n.Volume, "")
	t.Mu.Lock()
	defer t.Mu.Unlock()
	if t.byName[key] != nil {
		return nil, OnThisHost(n)
	}
	holder := New(t, volume.State{Tenant: n.Tenant, Name: n.Volume, Mode: volume.Failed, Reason: "it is being renamed"})
	t.byName[key] = holder
	return func() {
		t.Mu.Lock()
		defer t.Mu.Unlock()
		if t.byName[key] == holder {
			delete(t.byName, key)
		}
	}, nil
}

// SnapshotsOf returns the snapshots of a volume, the oldest first.
func (t *Table) SnapshotsOf(id volume.ID) []*Disk {
	var out []*Disk
	for _, d := range t.All() {
		if d.snapshotOf == id {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *Disk) int {
		x, y := a.State(), b.State()
		return x.CreatedAt.Compare(y.CreatedAt)
	})
	return out
}

// WithoutCleaning runs do, which makes a volume let go of log segments, while no cleaning
// runs.
func (t *Table) WithoutCleaning(do func() error) error {
	t.Cleaning.Lock()
	defer t.Cleaning.Unlock()
	return do()
}
