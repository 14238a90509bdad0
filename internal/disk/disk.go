package disk

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/latency"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// sealCheckEvery is how often a published volume that is being written looks whether
// another host took it over.
const sealCheckEvery = time.Minute

// SealCheckDue is called when a guest has changed the volume. It tells, once every
// sealCheckEvery, that a published volume should look for a seal; a volume that
// was never published, or is idle, asks the store nothing.
func (d *Disk) SealCheckDue() bool {
	at := d.NextSealCheck.Load()
	if at == 0 {
		return false
	}
	now := d.Table.Now().UnixNano()
	return now > at && d.NextSealCheck.CompareAndSwap(at, now+int64(sealCheckEvery))
}

// NotePublished notes that the store knows the volume from now on.
func (d *Disk) NotePublished() {
	d.NextSealCheck.CompareAndSwap(0, d.Table.Now().Add(sealCheckEvery).UnixNano())
}

// Disk is one volume (or snapshot) of this host, open or not.
type Disk struct {
	Table *Table
	ID    volume.ID

	// op is held for the length of a verb. The owner is used under it.
	Op    awaitable
	Owner *commitlog.Owner                // of this process; nil before its first commit; see setOwner
	Owned atomic.Pointer[commitlog.Owner] // the same, for who does not hold op
	ship  atomic.Pointer[Shipper]         // nil while the disk is closed, a verb is at work, or its policy is local
	// mustShip tells that the policy is not local: without a shipper nothing is
	// acknowledged then.
	MustShip atomic.Bool

	// moving is held by forks, shared, and by whoever lets the published state
	// move, from looking for children that need the old one to when it has moved:
	// a child that is born in between would be seen by nobody. It comes after op.
	Moving sync.RWMutex

	mu            sync.Mutex
	rec           volume.State   // while it is not open
	v             *volume.Volume // nil while it is not open
	readers       *readers       // nil unless it is open only for verbs that read
	claims        []*wal.Segment // held for the record while it is not open
	failed        error          // why it could not be opened
	gone          bool           // removed
	guestsBlocked bool           // it is being handed over: nobody may connect
	conns         map[Conn]struct{}

	// nextSealCheck is when to look for a seal while writes come, in nanoseconds since
	// 1970; 0: never, the store does not know the volume.
	NextSealCheck atomic.Int64
	Stored        atomic.Int64 // bytes of packs that its flushes uploaded, by this process
	Limiter       limiter
	latency       *latency.ByOp // under mu; made with the first connection
}

// SetOwner makes o the disk's hold on its log. Under op.
func (d *Disk) SetOwner(o *commitlog.Owner) {
	d.Owner = o
	d.Owned.Store(o)
}

// New returns a disk that is in no table yet.
func New(t *Table, st volume.State) *Disk {
	d := &Disk{Table: t, ID: st.ID, Op: newAwaitable(), rec: st, conns: map[Conn]struct{}{}}
	d.MustShip.Store(st.Ships())
	if st.Published != nil {
		d.NotePublished()
	}
	return d
}

// State is the disk's record.
func (d *Disk) State() volume.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v != nil {
		return d.v.State()
	}
	return d.rec
}

// Volume returns the open volume, nil if it is not open.
func (d *Disk) Volume() *volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.v
}

// LogDamage is what the disk's log has lost, as far as that was noticed; nil if nothing.
func (d *Disk) LogDamage() error {
	if v := d.Volume(); v != nil {
		return v.Damage()
	}
	return nil
}

// key is the disk's place in Host.byName.
func (d *Disk) key() string {
	st := d.State()
	return keyOf(st.Tenant, st.Name, st.Snapshot)
}

// String is the name as people know it.
func (d *Disk) String() string {
	st := d.State()
	return Display(st.Tenant, st.Name, st.Snapshot)
}

// Removed tells whether the disk was removed from this host.
func (d *Disk) Removed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

// Exports is the number of open NBD connections.
func (d *Disk) Exports() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// RefuseIfConnected refuses what would pull the disk from under its guests; or says what to
// do about it.
func (d *Disk) RefuseIfConnected(or string, force bool) error {
	if n := d.Exports(); n > 0 && !force {
		if dev := d.Table.Hooks.Device(d.ID); dev != "" {
			return errs.New(errs.Busy, "volume %q has %d open NBD connection(s), one of them is %s: disconnect them (glide detach), or %s", d, n, dev, or)
		}
		return errs.New(errs.Busy, "volume %q has %d open NBD connection(s): disconnect them, or %s", d, n, or)
	}
	return nil
}

// HoldsState tells whether this host has the disk's present state: it is not another's,
// or anybody's who wakes it.
func (d *Disk) HoldsState() bool {
	st := d.State()
	return st.Mode != volume.Fenced && !st.Released
}

// Sequences are the numbers of the newest write, and of the newest one that the
// store holds with all before it.
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

// ClaimEnded tells whether the owner's claim ended by what an earlier verb sent and
// gave up on: a release, or a removal, that took effect all the same. The volume
// is still this host's, and a new claim begins.
func (d *Disk) ClaimEnded() bool {
	return d.Owner != nil && d.Owner.Err() != nil && errs.KindOf(d.Owner.Err()) == errs.Invalid
}

// Removable refuses to remove what guests are connected to, or what is gone. Under op.
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
	Cut() // makes every further request fail
}

// Connect adds a connection to the open volume v, unless that was closed, or is
// about to be, meanwhile.
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
	defer d.mu.Unlock()
	delete(d.conns, c)
}

// LogBytes is what the log segments take that a closed disk holds.
func (d *Disk) LogBytes() (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.claims {
		n += int64(s.Size())
	}
	return n
}

// OpenError is why the disk could not be opened, nil if it could.
func (d *Disk) OpenError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Latencies are the histograms of the disk's requests. They take 48 KiB, and are
// made when they are first needed.
func (d *Disk) Latencies() *latency.ByOp {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.latency == nil {
		d.latency = &latency.ByOp{}
	}
	return d.latency
}

// Shipper is the disk's shipper, nil if it has none now.
func (d *Disk) Shipper() Shipper {
	if s := d.ship.Load(); s != nil {
		return *s
	}
	return nil
}

// SetRecord replaces the record of a disk that is not open. It saves nothing.
func (d *Disk) SetRecord(st *volume.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rec = *st
}

// SetRemoved ends the disk: its record is gone, or was never saved.
func (d *Disk) SetRemoved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	d.unclaim()
}

// FlushLog makes everything durable on this host that was acknowledged before.
func (d *Disk) FlushLog() error {
	if v := d.Volume(); v != nil {
		return v.Flush()
	}
	return nil
}
