package disk

import "github.com/paraglide/glide/internal/volume"

// loan is the time for which verbs that only read have a volume open that
// sleeps. Under disk.mu.
type reader struct {
	readers int
	over    bool // it is being closed
}

// keepOpen is open for whoever wants the volume to stay open: it is nobody's loan any
// more. It is nil while the end of a loan closes the volume, which op waits for.
func (d *Disk) KeepOpen() *volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.readers != nil && d.readers.over {
		return nil
	}
	d.readers = nil
	return d.v
}

// borrow opens the disk for a verb that only reads, until done. One that sleeps
// goes back to sleep then, unless it was woken meanwhile. A disk that is open is
// read beside the verb that holds op, which may be waiting for the store.
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
		d.readers = &reader{}
		d.mu.Unlock()
	}
	v, done = d.acquire()
	return v, done, nil
}

// acquire borrows a disk that is open; nil if it is not.
func (d *Disk) acquire() (*volume.Volume, func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.readers
	switch {
	case d.v == nil || l != nil && l.over:
		return nil, nil
	case l == nil:
		return d.v, func() {}
	}
	l.readers++
	return d.v, func() { d.releaseReader(l) }
}

// releaseReader ends one reader's part in a loan.
func (d *Disk) releaseReader(l *reader) {
	d.Op.Lock()
	defer d.Op.Unlock()
	d.mu.Lock()
	l.readers--
	over := d.readers == l && l.readers == 0
	if over {
		l.over = true
	}
	d.mu.Unlock()
	if !over {
		return
	}
	if err := d.Sleep(false); err != nil {
		d.Table.Log.Warn("a volume that was only read stays awake", "volume", d.String(), "error", err)
	}
	d.mu.Lock()
	d.readers = nil
	d.mu.Unlock()
}
