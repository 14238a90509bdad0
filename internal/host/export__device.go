package host

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

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
	ex       *Exports
	d        *disk
	v        *volume.Volume
	readOnly bool
	dead     atomic.Bool  // the volume was pulled from under the connection, or the connection ended
	mayFn    func() error // alive, once, so that passing it costs nothing
}

// Cut implements disk.Conn.
func (x *device) Cut() { x.dead.Store(true) }

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
	if err := x.d.limiter.wait(len(p), x.d.table.Ctx); err != nil {
		return errno(err)
	}
	return errno(x.v.ReadAt(p, off))
}

func (x *device) TryReadAt(p []byte, off uint64) (ok bool) {
	defer x.caught("read", nil, false) // ReadAt then has the error
	return !x.dead.Load() && !x.d.limiter.limited() && x.v.TryReadAt(p, off)
}

func (x *device) WriteFrames(offs []uint64, frames [][]byte) (err error) {
	defer x.caught("write", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	if x.d.limiter.limited() {
		for i := range frames {
			if err := x.d.limiter.wait(len(frames[i])-nbd.Headroom, x.d.table.Ctx); err != nil {
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

func (x *device) Flush() (err error) {
	defer x.caught("flush", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	// The shipper that is there now has the say, whatever becomes of it meanwhile.
	s, err := x.d.shipperOfGuest()
	if err != nil {
		return errno(err)
	}
	seq := x.v.Last()
	if err := x.v.Flush(); err != nil {
		return errno(err)
	}
	if s != nil && s.FlushWaits() {
		return errno(ignoreRelaxed(s.Flushed(context.Background(), seq, 0)))
	}
	return nil
}

// FlushWaits implements nbd.Acknowledger.
func (x *device) FlushWaits() bool { return x.d.ships() }

// TryAcknowledge implements nbd.Acknowledger.
func (x *device) TryAcknowledge() bool {
	s := x.d.shipper()
	if s == nil {
		return !x.d.ships()
	}
	s.Written()
	ok, slow := s.MayAcknowledge()
	return ok && slow == 0
}

// Acknowledge implements nbd.Acknowledger.
func (x *device) Acknowledge() (err error) {
	defer x.caught("acknowledgement", &err, true)
	s, err := x.d.shipperOfGuest()
	if err != nil {
		return errno(err)
	}
	if s == nil {
		return x.alive()
	}
	s.Written() // also by who did not try before: a forced write is flushed first
	return errno(s.Acknowledge())
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

// caught is deferred by a request of a guest's: a panic becomes its error.
func (x *device) caught(doing string, err *error, changes bool) {
	value := recover()
	if value == nil {
		return
	}
	e := x.ex.Panicked(fmt.Sprintf("a %s of volume %q", doing, x.d), value)
	if changes {
		x.v.Fail(e)
	}
	if err != nil {
		*err = errno(e)
	}
}
