package host

import (
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// disk is one volume (or snapshot) of this host, open or not.
type disk struct {
	h  *Host
	id volume.ID

	// op is held for the length of a verb. The owner is used under it.
	op    mutex
	owner *commitlog.Owner                // of this process; nil before its first commit; see setOwner
	owned atomic.Pointer[commitlog.Owner] // the same, for who does not hold op
	ship  atomic.Pointer[shipper]         // nil while the disk is closed, a verb is at work, or its policy is local
	// promises tells that the policy is not local: without a shipper nothing is
	// acknowledged then.
	mustShip atomic.Bool

	// moving is held by forks, shared, and by whoever lets the published state
	// move, from looking for children that need the old one to when it has moved:
	// a child that is born in between would be seen by nobody. It comes after op.
	moving sync.RWMutex

	mu            sync.Mutex
	rec           volume.State   // while it is not open
	v             *volume.Volume // nil while it is not open
	readers       *reader        // nil unless it is open only for verbs that read
	claims        []*wal.Segment // held for the record while it is not open
	failed        error          // why it could not be opened
	gone          bool           // removed
	guestsBlocked bool           // it is being handed over: nobody may connect
	conns         map[*device]struct{}

	// nextLook is when to look for a seal while writes come, in nanoseconds since
	// 1970; 0: never, the store does not know the volume.
	nextSealCheck atomic.Int64
	stored        atomic.Int64 // bytes of packs that its flushes uploaded, by this process
	limiter       limiter
	lat           *latencies // under mu; made with the first connection
}

// setOwner makes o the disk's hold on its log. Under op.
func (d *disk) setOwner(o *commitlog.Owner) {
	d.owner = o
	d.owned.Store(o)
}

// latencies are made when they are first needed: 48 KiB. Under mu.
func (d *disk) latencies() *latencies {
	if d.lat == nil {
		d.lat = &latencies{}
	}
	return d.lat
}

func newDisk(h *Host, st volume.State) *disk {
	d := &disk{h: h, id: st.ID, op: newMutex(), rec: st, conns: map[*device]struct{}{}}
	d.mustShip.Store(st.Ships())
	if st.Published != nil {
		d.published()
	}
	return d
}

// state is the disk's record.
func (d *disk) state() volume.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v != nil {
		return d.v.State()
	}
	return d.rec
}

// open returns the open volume, nil if it is not open.
func (d *disk) open() *volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.v
}

// damage is what the disk's log has lost, as far as that was noticed; nil if nothing.
func (d *disk) damage() error {
	if v := d.open(); v != nil {
		return v.Damage()
	}
	return nil
}

// key is the disk's place in Host.byName.
func (d *disk) key() string {
	st := d.state()
	return keyOf(st.Tenant, st.Name, st.Snapshot)
}

// String is the name as people know it.
func (d *disk) String() string {
	st := d.state()
	return display(st.Tenant, st.Name, st.Snapshot)
}

// update changes the disk's record, durably, open or not. What it says has happened
// already: it is true even if it cannot be made durable.
func (d *disk) update(change func(*volume.State)) error {
	if v := d.open(); v != nil {
		return v.Update(change)
	}
	return d.updateClosed(change)
}

// change is update for what people ask for: if it fails nothing has changed.
func (d *disk) change(change func(*volume.State)) error {
	if v := d.open(); v != nil {
		return v.Change(change)
	}
	return d.updateClosed(change)
}

func (d *disk) updateClosed(change func(*volume.State)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.rec
	if d.gone { // its record must not come back
		return errs.New(errs.NotFound, "volume %q was removed", display(st.Tenant, st.Name, st.Snapshot))
	}
	change(&st)
	if err := d.h.save(&st); err != nil {
		return err
	}
	d.rec = st
	return nil
}

// start brings a disk up when the host starts: open if it was, else with a
// hold on what it needs. A disk that cannot be opened is failed, and keeps its
// data; the others go on.
func (d *disk) start() {
	st := d.state()
	if st.Mode == volume.Active {
		v, err := volume.Open(d.h.env(d.h.tenant(st.Tenant)), st, false)
		if err == nil {
			d.mu.Lock()
			d.v = v
			d.mu.Unlock()
			d.startShipping()
			return
		}
		d.h.event(eventVolume, d.String(), "it cannot be opened: %v", err)
		d.mu.Lock()
		d.failed = err
		d.mu.Unlock()
	}
	d.claim()
}

// claim holds the segments of a disk that is not open.
func (d *disk) claim() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ref := range d.rec.Segments {
		if s, err := d.h.pool.Claim(ref); err == nil {
			d.claims = append(d.claims, s)
		} else if d.failed == nil {
			d.failed = err
		}
	}
}

// unclaim gives the holds of a disk that is not open up again. Under mu.
func (d *disk) unclaim() {
	for _, s := range d.claims {
		s.Release()
	}
	d.claims = nil
}

// wake opens a disk of this host that is not open. Under op.
func (d *disk) wake(force bool) (*volume.Volume, error) {
	if v := d.keepOpen(); v != nil {
		return v, nil
	}
	if err := d.reclaim(force); err != nil {
		return nil, err
	}
	d.mu.Lock()
	st, gone, failed := d.rec, d.gone, d.failed
	d.mu.Unlock()
	switch {
	case gone:
		return nil, errs.New(errs.NotFound, "volume %q was removed", d)
	case failed != nil && !force && !mayPass(failed):
		return nil, failed
	case st.Mode == volume.Fenced:
		return nil, fencedError(&st)
	}
	v, err := volume.Open(d.h.env(d.h.tenant(st.Tenant)), st, force)
	if err != nil {
		d.mu.Lock()
		d.failed = err
		d.mu.Unlock()
		return nil, err
	}
	if st.Mode != volume.Active {
		if err := v.Update(func(s *volume.State) { s.Mode = volume.Active }); err != nil {
			_ = v.Close()
			v.Discard()
			return nil, err
		}
	}
	d.mu.Lock()
	d.v, d.failed = v, nil
	d.unclaim()
	d.mu.Unlock()
	d.startShipping()
	d.h.checkLog(d)
	return v, nil
}

// mayPass tells whether what kept a disk from being opened may be over: its disk
// was full, or did not answer. A log whose sync failed is not looked at again.
func mayPass(err error) bool {
	if errors.Is(err, wal.ErrSync) {
		return false
	}
	switch errs.KindOf(err) {
	case errs.NoSpace, errs.Unavailable, errs.ReadOnly:
		return true
	}
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// wakeAlone is wake for who does not hold op.
func (d *disk) wakeAlone(force bool) (*volume.Volume, error) {
	d.op.Lock()
	defer d.op.Unlock()
	return d.wake(force)
}

func fencedError(st *volume.State) error {
	return errs.New(errs.Fenced, "volume %q is fenced: %s", display(st.Tenant, st.Name, ""), st.Reason)
}

// shut closes an open disk, as it is when the host stops: it stays active in
// its record. Under op.
func (d *disk) shut() error {
	d.stopShipping(errHeld)
	d.mu.Lock()
	v := d.v
	d.mu.Unlock()
	if v == nil {
		return nil
	}
	return d.h.cleaner.withoutCleaning(func() error {
		err := v.Close()
		st := v.State()
		d.mu.Lock()
		d.rec, d.v = st, nil
		if errors.Is(err, wal.ErrSync) {
			d.failed = err // what its log seems to hold is not on the disk
		}
		d.mu.Unlock()
		d.claim()
		v.Discard()
		return err
	})
}

// removed tells whether the disk was removed from this host.
func (d *disk) removed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone
}

// exports is the number of open NBD connections.
func (d *disk) exports() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// quiet refuses what would pull the disk from under its guests; or says what to
// do about it.
func (d *disk) refuseIfConnected(or string, force bool) error {
	if n := d.exports(); n > 0 && !force {
		if dev := d.h.attachments.device(d.id); dev != "" {
			return errs.New(errs.Busy, "volume %q has %d open NBD connection(s), one of them is %s: disconnect them (glide detach), or %s", d, n, dev, or)
		}
		return errs.New(errs.Busy, "volume %q has %d open NBD connection(s): disconnect them, or %s", d, n, or)
	}
	return nil
}

func newVolumeID(h *Host) (id volume.ID) {
	b := make([]byte, 0, len(id))
	for len(b) < len(id) {
		n := h.cfg.random64()
		for i := range 8 {
			b = append(b, byte(n>>(8*i)))
		}
	}
	copy(id[:], b)
	return id
}

// short is the beginning of an id, for names made from it.
func short(id volume.ID) string { return hex.EncodeToString(id[:4]) }
