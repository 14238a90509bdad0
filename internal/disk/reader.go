package disk

import "github.com/paraglide/glide/internal/volume"

// readers counts the verbs for which a sleeping volume is temporarily open. Under
// Disk.mu.
type readers struct {
	n       int
	closing bool // the last reader has ended, and the volume is being closed
}

// KeepOpen returns the open volume and makes it stay open: if a reader had opened it
// temporarily, it is no longer closed when that reader ends. It returns nil if the
// volume is not open, or is being closed by its last reader, which holds Op.
func (d *Disk) KeepOpen() *volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.readers != nil && d.readers.closing {
		return nil
	}
	d.readers = nil
	return d.v
}

// OpenForRead opens the disk for a verb that only reads. done ends the read: a volume
// that was asleep goes back to sleep, unless it was woken meanwhile. A volume that is
// already open is read at once, even if another verb holds Op, for instance because it
// waits for the store.
func (d *Disk) OpenForRead() (v *volume.Volume, done func(), err error) {
	if v, done := d.acquire(); v != nil {
		return v, done, nil
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	if v, done := d.acquire(); v != nil {
		return v, done, nil
	}
	slept := d.State().Mode == volume.Asleep
	if v, err = d.Wake(false); err != nil {
		return nil, nil, err
	}
	if slept {
		d.mu.Lock()
		d.readers = &readers{}
		d.mu.Unlock()
	}
	v, done = d.acquire()
	return v, done, nil
}

// acquire adds a reader to an open volume. It returns nil if the volume is closed.
func (d *Disk) acquire() (*volume.Volume, func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.readers
	switch {
	case d.v == nil || r != nil && r.closing:
		return nil, nil
	case r == nil:
		return d.v, func() {}
	}
	r.n++
	return d.v, func() { d.releaseReader(r) }
}

// releaseReader removes a reader. After the last one the volume goes back to sleep,
// unless KeepOpen was called meanwhile.
func (d *Disk) releaseReader(r *readers) {
	d.Op.Lock()
	defer d.Op.Unlock()
	d.mu.Lock()
	r.n--
	last := d.readers == r && r.n == 0
	if last {
		r.closing = true
	}
	d.mu.Unlock()
	if !last {
		return
	}
	if err := d.Sleep(false); err != nil {
		d.Table.Log.Warn("a volume that was only read stays awake", "volume", d.String(), "error", err)
	}
	d.mu.Lock()
	d.readers = nil
	d.mu.Unlock()
}
