package host

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
	"github.com/paraglide/glide/nbd"
)

// A received NBD request must be able to become a log record in place.
var _ [nbd.Headroom - wal.HeaderSize]struct{}
var _ [wal.HeaderSize - nbd.Headroom]struct{}

// dirtyContext is the metadata context of pages that the store does not have.
const dirtyContext = "glide:dirty"

// device is one NBD connection's view of a disk; it implements nbd.Device.
type device struct {
	d        *disk
	v        *volume.Volume
	readOnly bool
	dead     atomic.Bool  // the volume was pulled from under the connection, or the connection ended
	mayFn    func() error // alive, once, so that passing it costs nothing
}

// cut makes every further request of the connection fail.
func (x *device) cut() { x.dead.Store(true) }

// alive is an error once the connection was cut.
func (x *device) alive() error {
	if x.dead.Load() {
		return nbd.ESHUTDOWN
	}
	return nil
}

// errno gives an error of the engine the number that the protocol has for its kind.
func errno(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, nbd.Errno(errs.KindOf(err).NBDErrno()))
}

func (x *device) Size() uint64 { return x.v.Size() }

func (x *device) ReadAt(p []byte, off uint64) (err error) {
	defer x.caught("read", &err, false)
	if err := x.alive(); err != nil {
		return err
	}
	if err := x.d.limiter.wait(len(p), x.d.h.ctx); err != nil {
		return errno(err)
	}
	return errno(x.v.ReadAt(p, off))
}

func (x *device) TryReadAt(p []byte, off uint64) (ok bool) {
	defer x.caught("read", nil, false) // ReadAt then has the error
	return !x.dead.Load() && !x.d.limiter.on.Load() && x.v.TryReadAt(p, off)
}

func (x *device) WriteFrames(offs []uint64, frames [][]byte) (err error) {
	defer x.caught("write", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	if x.d.limiter.on.Load() {
		for i := range frames {
			if err := x.d.limiter.wait(len(frames[i])-nbd.Headroom, x.d.h.ctx); err != nil {
				return errno(err)
			}
		}
	}
	return errno(x.v.WriteFramesIf(x.mayFn, offs, frames))
}

func (x *device) Zero(off, length uint64, _ bool) (err error) {
	defer x.caught("zeroing", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	return errno(x.v.ZeroIf(x.mayFn, off, length))
}

// shipper is what has a say in when the guest is answered, nil for a local volume.
// One that begins to ship has its shipper first, and then the promise; so a
// promise that is seen without one was either made in between, or its shipper
// has been stopped.
func (x *device) shipper() (*shipper, error) {
	s := x.d.ship.Load()
	if s == nil && x.d.mustShip.Load() {
		if s = x.d.ship.Load(); s == nil && x.d.mustShip.Load() {
			return nil, errHeld
		}
	}
	return s, nil
}

func (x *device) Flush() (err error) {
	defer x.caught("flush", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	// The shipper that is there now has the say, whatever becomes of it meanwhile.
	s, err := x.shipper()
	if err != nil {
		return errno(err)
	}
	seq := x.v.Last()
	if err := x.v.Flush(); err != nil {
		return errno(err)
	}
	if s != nil && s.sync.Load() {
		return errno(ignoreRelaxed(s.flushed(context.Background(), seq, 0)))
	}
	return nil
}

// FlushWaits implements nbd.Acknowledger.
func (x *device) FlushWaits() bool { return x.d.mustShip.Load() }

// TryAcknowledge implements nbd.Acknowledger.
func (x *device) TryAcknowledge() bool {
	s := x.d.ship.Load()
	if s == nil {
		return !x.d.mustShip.Load()
	}
	s.written()
	ok, slow := s.mayAcknowledge()
	return ok && slow == 0
}

// Acknowledge implements nbd.Acknowledger.
func (x *device) Acknowledge() (err error) {
	defer x.caught("acknowledgement", &err, true)
	s, err := x.shipper()
	if err != nil {
		return errno(err)
	}
	if s == nil {
		return x.alive()
	}
	s.written() // also by who did not try before: a forced write is flushed first
	return errno(s.acknowledge())
}

func (x *device) Prefetch(off, length uint64) {
	defer x.caught("read ahead", nil, false)
	x.v.Prefetch(off, length)
}

// Flags of base:allocation, as the protocol has them, and of glide:dirty.
const (
	stateHole  = 1
	stateZero  = 2
	stateDirty = 1
)

func (x *device) Extents(dst []nbd.Extent, name string, off, length uint64) (all []nbd.Extent, err error) {
	defer x.caught("block status", &err, false)
	kind, flags := volume.Allocation, uint32(stateHole|stateZero)
	if name == dirtyContext {
		kind, flags = volume.DirtyPages, stateDirty
	}
	err = x.v.Extents(context.Background(), kind, off, length, func(n uint64, flagged bool) error {
		e := nbd.Extent{Length: n}
		if flagged {
			e.Flags = flags
		}
		dst = append(dst, e)
		return nil
	})
	return dst, errno(err)
}

// limiter holds a volume to its limits of requests and bytes a second, with
// two token buckets of a second's worth each.
type limiter struct {
	on    atomic.Bool
	mu    sync.Mutex
	iops  float64
	bytes float64
	now   func() time.Time
	last  time.Time
	haveN float64 // requests
	haveB float64 // bytes
}

// set changes the limits; 0 means none.
func (l *limiter) set(lim volume.Limits, now func() time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.iops, l.bytes, l.now = float64(lim.IOPS), float64(lim.Bandwidth), now
	l.last, l.haveN, l.haveB = now(), l.iops, l.bytes
	l.on.Store(lim.IOPS > 0 || lim.Bandwidth > 0)
}

// wait delays one request of n bytes.
func (l *limiter) wait(n int, ctx context.Context) error {
	if !l.on.Load() {
		return nil
	}
	return pause(ctx, l.take(n))
}

// take takes a request's tokens, and is how long it has to wait for them.
func (l *limiter) take(n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	dt := now.Sub(l.last).Seconds()
	l.last = now
	var delay float64
	if l.iops > 0 {
		l.haveN = min(l.iops, l.haveN+dt*l.iops) - 1
		delay = max(delay, -l.haveN/l.iops)
	}
	if l.bytes > 0 {
		l.haveB = min(l.bytes, l.haveB+dt*l.bytes) - float64(n)
		delay = max(delay, -l.haveB/l.bytes)
	}
	return time.Duration(delay * 1e9)
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errs.New(errs.Unavailable, "the daemon is stopping")
	}
}

// Open implements nbd.Exporter: a connection to a volume that sleeps wakes it.
func (h *Host) openExport(name string) (*nbd.Export, error) {
	d, err := h.local(name, true)
	if err != nil {
		return nil, err
	}
	return h.openDisk(d)
}

// openDisk is openExport for a disk that was found.
func (h *Host) openDisk(d *disk) (*nbd.Export, error) {
	err := cmp.Or(d.refuseFenced(), d.refuseWhileCreated())
	if err != nil {
		return nil, err
	}
	v := d.keepOpen()
	if v == nil {
		if v, err = d.wakeAlone(false); err != nil {
			return nil, err
		}
		h.checkSealSoon(d)
	}
	x := &device{d: d, v: v, readOnly: d.state().Snapshot != ""}
	x.mayFn = x.alive
	d.mu.Lock()
	if d.v != v || d.guestsBlocked {
		d.mu.Unlock()
		return nil, errs.New(errs.Unavailable, "volume %q is being closed", d)
	}
	d.conns[x] = struct{}{}
	lat := d.latencies()
	d.mu.Unlock()
	e := d.export(x)
	e.Observe = func(op nbd.Op, _ int, took time.Duration) {
		lat.of(op).add(took)
		h.lat.of(op).add(took)
		if op == nbd.OpWrite || op == nbd.OpTrim || op == nbd.OpZero {
			d.written()
		}
	}
	e.Closed = func() {
		x.cut() // a write of it that still waits must not come after those of the next connection
		d.mu.Lock()
		delete(d.conns, x)
		d.mu.Unlock()
	}
	return e, nil
}

// lookEvery is how often a published volume that is being written looks whether
// another host took it over.
const sealCheckEvery = time.Minute

// written notes that a guest changed the volume. One that was never published,
// or is idle, asks the store nothing.
func (d *disk) written() {
	at := d.nextSealCheck.Load()
	if at == 0 {
		return
	}
	now := d.h.cfg.Now().UnixNano()
	if now > at && d.nextSealCheck.CompareAndSwap(at, now+int64(sealCheckEvery)) {
		d.h.checkSealSoon(d)
	}
}

// published notes that the store knows the volume from now on.
func (d *disk) published() {
	d.nextSealCheck.CompareAndSwap(0, d.h.cfg.Now().Add(sealCheckEvery).UnixNano())
}

func (d *disk) export(x *device) *nbd.Export {
	return &nbd.Export{Name: d.String(), ReadOnly: x.readOnly, Contexts: []string{dirtyContext}, Device: x}
}

// describeExport describes an export: a volume that sleeps is described from its
// record; nothing is woken.
func (h *Host) describeExport(name string) (*nbd.Export, error) {
	d, err := h.local(name, true)
	if err != nil {
		return nil, err
	}
	st := d.state()
	if st.Mode == volume.Failed || st.Mode == volume.Fenced {
		return nil, errs.New(errs.Fenced, "volume %q is %s: %s", d, st.Mode, st.Reason)
	}
	e := d.export(&device{d: d, readOnly: st.Snapshot != ""})
	e.Device = sleeping{st.Size}
	return e, nil
}

// sleeping is a device that only has a size.
type sleeping struct{ size uint64 }

func (s sleeping) Size() uint64                         { return s.size }
func (s sleeping) ReadAt([]byte, uint64) error          { return errClosedDevice }
func (s sleeping) TryReadAt([]byte, uint64) bool        { return false }
func (s sleeping) WriteFrames([]uint64, [][]byte) error { return errClosedDevice }
func (s sleeping) Zero(uint64, uint64, bool) error      { return errClosedDevice }
func (s sleeping) Flush() error                         { return errClosedDevice }
func (s sleeping) Prefetch(uint64, uint64)              {}
func (s sleeping) Extents([]nbd.Extent, string, uint64, uint64) ([]nbd.Extent, error) {
	return nil, errClosedDevice
}

var errClosedDevice = errs.New(errs.Unavailable, "the volume is not open")

// exportNames lists what can be connected to.
func (h *Host) exportNames() []string {
	var names []string
	for _, d := range h.all() {
		if st := d.state(); st.Mode == volume.Active || st.Mode == volume.Asleep {
			names = append(names, d.String())
		}
	}
	slices.Sort(names)
	return names
}
