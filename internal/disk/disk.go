package disk

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/latency"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// sealCheckEvery is how often a published volume with ongoing writes checks whether
// another host took it over.
const sealCheckEvery = time.Minute

// SealCheckDue is called after a guest has changed the volume. It returns true at most
// once every sealCheckEvery: the caller then checks for a seal. A volume that is idle, or
// was never published, makes no store request.
func (d *Disk) SealCheckDue() bool {
	at := d.NextSealCheck.Load()
	if at == 0 {
		return false
	}
	now := d.Table.Now().UnixNano()
	return now > at && d.NextSealCheck.CompareAndSwap(at, now+int64(sealCheckEvery))
}

// NotePublished records that the store knows the volume from now on.
func (d *Disk) NotePublished() {
	d.NextSealCheck.CompareAndSwap(0, d.Table.Now().Add(sealCheckEvery).UnixNano())
}

// Disk is one volume (or snapshot) of this host, open or not.
type Disk struct {
	Table *Table
	ID    volume.ID

	snapshotOf volume.ID // of the record, which never changes it

	// Op is held while a verb runs. Owner is read and written under it.
	Op    awaitable
	Owner *commitlog.Owner                // of this process; nil before its first commit; set by SetOwner
	Owned atomic.Pointer[commitlog.Owner] // the same, for readers that do not hold Op
	ship  atomic.Pointer[Shipper]         // nil while the disk is closed, while a verb has stopped it, or if the policy is local
	// MustShip is true if the policy is not local. While it is true and there is no
	// shipper, no write and no flush is acknowledged.
	MustShip atomic.Bool

	// Moving is held, shared, by forks. Whatever replaces the published state holds it
	// exclusively, from the search for children that need the old state until the
	// replacement is complete. A child that is born in between would be missed. Moving is
	// taken after Op.
	Moving sync.RWMutex

	mu            sync.Mutex
	rec           volume.State   // valid while the disk is not open
	v             *volume.Volume // nil while the disk is not open
	readers       *readers       // nil unless the disk is open only for verbs that read
	claims        []*wal.Segment // log segments of rec, held while the disk is not open
	failed        error          // why the disk could not be opened
	gone          bool           // the disk was removed
	guestsBlocked bool           // the disk is being handed over: no guest may connect
	conns         map[Conn]struct{}

	// NextSealCheck is when the next seal check is due while writes arrive, in
	// nanoseconds since 1970. 0 means never: the store does not know the volume.
	NextSealCheck atomic.Int64
	Stored        atomic.Int64 // bytes of packs that this process uploaded for the disk
	Limiter       limiter
	latency       *latency.ByOp // under mu; created with the first connection
}

// Payer returns the volume that the requests to the store are counted for.
func (d *Disk) Payer() cost.Volume {
	st := volume.State{ID: d.ID, SnapshotOf: d.snapshotOf}
	return st.Payer()
}

// SetOwner sets the owner by which this process commits to the disk's log. Under op.
func (d *Disk) SetOwner(o *commitlog.Owner) {
	d.Owner = o
	d.Owned.Store(o)
}

// New returns a disk that is not in the table yet.
func New(t *Table, st volume.State) *Disk {
	d := &Disk{Table: t, ID: st.ID, snapshotOf: st.SnapshotOf, Op: newAwaitable(), rec: st, conns: map[Conn]struct{}{}}
	d.MustShip.Store(st.Ships())
	if st.Published != nil {
		d.NotePublished()
	}
	return d
}

// State returns the disk's record.
func (d *Disk) State() volume.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v != nil {
		return d.v.State()
	}
	return d.rec
}

// Volume returns the open volume, or nil if the disk is not open.
func (d *Disk) Volume() *volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.v
}

// LogDamage returns the damage found so far in the disk's log, or nil.
func (d *Disk) LogDamage() error {
	if v := d.Volume(); v != nil {
		return v.Damage()
	}
	return nil
}

// key is the disk's key in Table.byName.
func (d *Disk) key() string {
	st := d.State()
	return keyOf(st.Tenant, st.Name, st.Snapshot)
}

// Unsettled reports whether a commit of the disk that was sent may still take effect. Then
// what it names stays announced.
func (d *Disk) Unsettled() bool {
	o := d.Owned.Load()
	return o != nil && o.Unsettled()
}

// String returns the name as users write it.
func (d *Disk) String() string {
	st := d.State()
	return Display(st.Tenant, st.Name, st.Snapshot)
}

// Removed reports whether the disk was removed from this host.
func (d *Disk) Removed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

// Exports returns the number of open NBD connections.
func (d *Disk) Exports() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// RefuseIfConnected returns an error if guests are connected and force is false. The
// error ends with or, which says what the user can do instead of disconnecting them.
func (d *Disk) RefuseIfConnected(or string, force bool) error {
	if n := d.Exports(); n > 0 && !force {
		if dev := d.Table.Hooks.Device(d.ID); dev != "" {
			return errs.New(errs.Busy, "volume %q has %d open NBD connection(s), one of them is %s: disconnect them (glide detach), or %s", d, n, dev, or)
		}
		return errs.New(errs.Busy, "volume %q has %d open NBD connection(s): disconnect them, or %s", d, n, or)
	}
	return nil
}

// HoldsState reports whether this host has the current state of the disk: no other host
// owns the volume, and it was not released for any host to claim.
func (d *Disk) HoldsState() bool {
	st := d.State()
	return st.Mode != volume.Fenced && !st.Released
}

// Sequences returns the number of the newest write, and the number through which the
// store holds every write.
func (d *Disk) Sequences() (written, published uint64) {
	st := d.State()
	published = st.Folded
	if st.Ships() {
		published = max(published, st.Shipped)
	}
	if s := d.Shipper(); s != nil {
		published = max(published, s.Acked())
	}
	if st.Published == nil {
		published = 0
	}
	if v := d.Volume(); v != nil {
		return v.Last(), published
	}
	return st.Used, published
}

// ClaimEnded reports whether the owner's claim has ended through a request that an
// earlier verb sent and gave up on: a release or a removal took effect after all. The
// volume still belongs to this host, and a new claim begins.
func (d *Disk) ClaimEnded() bool {
	return d.Owner != nil && d.Owner.Err() != nil && errs.KindOf(d.Owner.Err()) == errs.Invalid
}

// Removable returns an error if the disk is gone, or if guests are connected and force is
// false. Under op.
func (d *Disk) Removable(force bool) error {
	d.mu.Lock()
	gone := d.gone
	d.mu.Unlock()
	if gone {
		return errs.New(errs.NotFound, "volume %q was removed meanwhile", d)
	}
	return d.RefuseIfConnected("remove it with --force", force)
}

// Conn is a guest's connection to a disk.
type Conn interface {
	Cut() // makes every later request fail
}

// Connect adds a connection to the open volume v. It returns false if v was closed
// meanwhile or is about to be.
func (d *Disk) Connect(c Conn, v *volume.Volume) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v != v || d.guestsBlocked {
		return false
	}
	d.conns[c] = struct{}{}
	return true
}

// Disconnected removes a connection that has ended.
func (d *Disk) Disconnected(c Conn) {
	d.mu.Lock()
	delete(d.conns, c)
	n := len(d.conns)
	d.mu.Unlock()
	if n == 0 {
		d.Table.Hooks.GuestsLeft(d)
	}
}

// LogBytes returns the size of the log segments that a closed disk holds, in bytes.
func (d *Disk) LogBytes() (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.claims {
		n += int64(s.Size())
	}
	return n
}

// OpenError returns why the disk could not be opened, or nil.
func (d *Disk) OpenError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Latencies returns the latency histograms of the disk's requests. They take 48 KiB, so
// they are created on first use.
func (d *Disk) Latencies() *latency.ByOp {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.latency == nil {
		d.latency = &latency.ByOp{}
	}
	return d.latency
}

// Shipper returns the disk's shipper, or nil if it has none now.
func (d *Disk) Shipper() Shipper {
	if s := d.ship.Load(); s != nil {
		return *s
	}
	return nil
}

// SetRecord replaces the record of a disk that is not open, in memory only.
func (d *Disk) SetRecord(st *volume.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rec = *st
}

// SetRemoved marks the disk as removed: its record was deleted or never saved.
func (d *Disk) SetRemoved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	d.unclaim()
	if d.Table.Ledger != nil {
		d.Table.Ledger.Forget(cost.Volume(d.ID)) // of a snapshot there is nothing
	}
}

// FlushLog makes every acknowledged write durable on this host.
func (d *Disk) FlushLog() error {
	if v := d.Volume(); v != nil {
		return v.Flush()
	}
	return nil
}
