package host

import "github.com/paraglide/glide/internal/volume"

// loan is the time for which verbs that only read have a volume open that
// sleeps. Under disk.mu.
type loan struct {
	readers int
	over    bool // it is being closed
}

// use is open for whoever wants the volume to stay open: it is nobody's loan any
// more. It is nil while the end of a loan closes the volume, which op waits for.
func (d *disk) use() *volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loan != nil && d.loan.over {
		return nil
	}
	d.loan = nil
	return d.v
}

// borrow opens the disk for a verb that only reads, until done. One that sleeps
// goes back to sleep then, unless it was woken meanwhile. A disk that is open is
// read beside the verb that holds op, which may be waiting for the store.
func (d *disk) borrow() (v *volume.Volume, done func(), err error) {
	if v, done := d.join(); v != nil {
		return v, done, nil
	}
	d.op.Lock()
	defer d.op.Unlock()
	if v, done := d.join(); v != nil {
		return v, done, nil
	}
	slept := d.state().Mode == volume.Asleep
	if v, err = d.wake(false); err != nil {
		return nil, nil, err
	}
	if slept {
		d.mu.Lock()
		d.loan = &loan{}
		d.mu.Unlock()
	}
	v, done = d.join()
	return v, done, nil
}

// join borrows a disk that is open; nil if it is not.
func (d *disk) join() (*volume.Volume, func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.loan
	switch {
	case d.v == nil || l != nil && l.over:
		return nil, nil
	case l == nil:
		return d.v, func() {}
	}
	l.readers++
	return d.v, func() { d.giveBack(l) }
}

// giveBack ends one reader's part in a loan.
func (d *disk) giveBack(l *loan) {
	d.op.Lock()
	defer d.op.Unlock()
	d.mu.Lock()
	l.readers--
	over := d.loan == l && l.readers == 0
	if over {
		l.over = true
	}
	d.mu.Unlock()
	if !over {
		return
	}
	if err := d.sleep(false); err != nil {
		d.h.cfg.Log.Warn("a volume that was only read stays awake", "volume", d.String(), "error", err)
	}
	d.mu.Lock()
	d.loan = nil
	d.mu.Unlock()
}
