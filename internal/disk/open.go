package disk

import (
	"errors"
	"syscall"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// WakeToServe opens a disk of this host for guests.
func (d *Disk) WakeToServe() error {
	if err := d.RefuseFenced(); err != nil {
		return err
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	_, err := d.Wake(false)
	return err
}

// Add records a new volume and opens it.
func (t *Table) Add(st volume.State) (*Disk, error) {
	d := New(t, st)
	d.Op.Lock() // callers that find the disk wait until it is created
	defer d.Op.Unlock()
	if err := t.Reserve(d); err != nil {
		return nil, err
	}
	if err := t.Save(&st); err != nil {
		t.Unreserve(d)
		return nil, err
	}
	v, err := volume.Open(t.Env(t.Tenant(DomainName(&st))), st, false)
	if err != nil {
		t.Unreserve(d)
		return nil, errors.Join(err, t.Forget(st.ID))
	}
	d.SetVolume(v)
	return d, nil
}

// start brings a disk up when the host starts. A disk that was active is opened; any
// other only claims its log segments. A disk that cannot be opened is marked as failed
// and keeps its data; the other disks still start.
func (d *Disk) start() {
	st := d.State()
	if st.Mode == volume.Active {
		v, err := volume.Open(d.Table.Env(d.Table.Tenant(DomainName(&st))), st, false)
		if err == nil {
			d.mu.Lock()
			d.v = v
			d.mu.Unlock()
			d.Table.Hooks.Ship(d)
			return
		}
		d.Table.Event(event.Volume, d.String(), "it cannot be opened: %v", err)
		d.mu.Lock()
		d.failed = err
		d.mu.Unlock()
	}
	d.claim()
}

// claim holds the log segments of a disk that is not open.
func (d *Disk) claim() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ref := range d.rec.Segments {
		if s, err := d.Table.WAL.Claim(ref); err == nil {
			d.claims = append(d.claims, s)
		} else if d.failed == nil {
			d.failed = err
		}
	}
}

// unclaim releases the log segments of a disk that is not open. Under mu.
func (d *Disk) unclaim() {
	for _, s := range d.claims {
		s.Release()
	}
	d.claims = nil
}

// ReleaseClaims releases the log segments of a closed disk that no longer needs them.
func (d *Disk) ReleaseClaims() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unclaim()
}

// Wake returns the open volume of the disk, and opens it first if needed. Under op.
func (d *Disk) Wake(force bool) (*volume.Volume, error) {
	if v := d.KeepOpen(); v != nil {
		return v, nil
	}
	if err := d.Table.Hooks.Reclaim(d, force); err != nil {
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
		return nil, FencedError(&st)
	}
	v, err := volume.Open(d.Table.Env(d.Table.Tenant(DomainName(&st))), st, force)
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
	d.Table.Hooks.Ship(d)
	d.Table.checkLog(d)
	return v, nil
}

// mayPass reports whether the reason why a disk could not be opened may be temporary: the
// local disk was full or did not respond. A log whose sync failed is never read again.
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

// WakeUnlocked is Wake for callers that do not hold op.
func (d *Disk) WakeUnlocked(force bool) (*volume.Volume, error) {
	d.Op.Lock()
	defer d.Op.Unlock()
	return d.Wake(force)
}

// FencedError is the error for using a fenced volume.
func FencedError(st *volume.State) error {
	return errs.New(errs.Fenced, "volume %q is fenced: %s", Display(st.Tenant, st.Name, ""), st.Reason)
}

// Close closes an open disk, as when the host stops: its record stays active. Under op.
func (d *Disk) Close() error {
	d.StopShipping(ErrClosing)
	d.mu.Lock()
	v := d.v
	d.mu.Unlock()
	if v == nil {
		return nil
	}
	return d.Table.WithoutCleaning(func() error {
		err := v.Close()
		st := v.State()
		d.mu.Lock()
		d.rec, d.v = st, nil
		if errors.Is(err, wal.ErrSync) {
			d.failed = err // the disk may not have what its log seems to hold
		}
		d.mu.Unlock()
		d.claim()
		v.Discard()
		return err
	})
}

// FailAfterBug makes a volume fail, because a bug may have left it half-changed.
func (d *Disk) FailAfterBug(err error) {
	if v := d.Volume(); v != nil {
		v.Fail(err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v == nil && d.failed == nil {
		d.failed = err
	}
}

// RefuseFenced returns an error if the disk was fenced.
func (d *Disk) RefuseFenced() error {
	if st := d.State(); st.Mode == volume.Fenced {
		return FencedError(&st)
	}
	return nil
}

// SetClosed removes a closed volume from the disk. rec, the new record, no longer names
// the volume's log segments.
func (d *Disk) SetClosed(v *volume.Volume, rec volume.State) {
	d.mu.Lock()
	d.rec, d.v = rec, nil
	d.mu.Unlock()
	v.Discard()
}

// ForkCut forks the current cut of a volume on this host.
func (t *Table) ForkCut(v *volume.Volume, children []*volume.State) ([]*volume.Volume, error) {
	for {
		c, err := v.Cut()
		if err != nil {
			return nil, err
		}
		kids, err := c.Fork(children...)
		c.Release()
		if !errors.Is(err, volume.ErrRepaired) {
			return kids, err
		}
	}
}

// SetVolume makes a newly opened volume the disk's.
func (d *Disk) SetVolume(v *volume.Volume) {
	defer d.Table.Hooks.Opened(d, v)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.v = v
	st := v.State()
	d.rec = st
	if st.Published != nil {
		d.NotePublished()
	}
	d.Limiter.Set(st.Limits, d.Table.Now)
}

// Disconnect cuts the open connections of the disk: their later requests fail.
func (d *Disk) Disconnect() {
	d.Table.Hooks.Abandon(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		c.Cut()
	}
}

// checkLog verifies in the background those parts of the log that opening the volume did
// not read.
func (t *Table) checkLog(d *Disk) {
	v := d.Volume()
	if v == nil || t.Ctx.Err() != nil {
		return
	}
	t.BG.Go(func() { v.CheckLog(func() bool { return t.Ctx.Err() != nil }) })
}

// damaged implements volume.Env.Damaged.
func (t *Table) damaged(v *volume.Volume, err error) {
	t.Mu.Lock()
	d := t.disks[v.ID()]
	t.Mu.Unlock()
	name := v.ID().String()
	if d != nil {
		name = d.String()
	}
	t.Event(event.Disk, name, "its log is damaged: %v", err)
}

// Sleep closes an open disk and records it as asleep. Under op.
func (d *Disk) Sleep(released bool) error {
	v := d.Volume()
	if v == nil {
		return nil
	}
	a := v.Account()
	if err := v.Change(func(s *volume.State) {
		s.Mode, s.Released, s.DirtyAtSleep, s.OldestAtSleep = volume.Asleep, released, a.Dirty, a.Oldest
	}); err != nil {
		return err
	}
	return d.Close()
}

// BlockGuestsIfNone lets no guest connect until open is called. ok is false if one is
// connected: then nothing changes.
func (d *Disk) BlockGuestsIfNone() (open func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.conns) > 0 || d.guestsBlocked {
		return nil, false
	}
	d.guestsBlocked = true
	return d.letGuests, true
}

func (d *Disk) letGuests() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guestsBlocked = false
}

// BlockGuests disconnects the guests of a disk and lets none connect until open is
// called. A guest that connected in between would be told that its writes are durable,
// but the next owner would not have them.
func (d *Disk) BlockGuests() (open func()) {
	d.mu.Lock()
	d.guestsBlocked = true
	v := d.v
	d.mu.Unlock()
	d.Disconnect()
	if v != nil && !fault.Is("writes-not-drained") {
		v.Drain() // these writes were acknowledged, or will be
	}
	return d.letGuests
}

// Segments returns the log segments that a disk holds, open or not, each held once more
// for the caller.
func (d *Disk) Segments() (segs []*wal.Segment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v != nil {
		return d.v.HoldLog()
	}
	for _, s := range d.claims {
		s.Hold()
		segs = append(segs, s)
	}
	return segs
}
