package export

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
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

// Device is one NBD connection's view of a disk. It implements nbd.Device.
type Device struct {
	Ex        *Exports
	D         *disk.Disk
	V         *volume.Volume
	readOnly  bool
	dead      atomic.Bool   // the volume was taken from the connection, or the connection ended
	ended     chan struct{} // closed with dead
	MayChange func() error  // the method value alive, kept so that passing it does not allocate
}

// Cut implements disk.Conn.
func (x *Device) Cut() {
	if !x.dead.Swap(true) {
		close(x.ended)
	}
}

// alive returns an error once the connection was cut.
func (x *Device) alive() error {
	if x.dead.Load() {
		return nbd.ESHUTDOWN
	}
	return nil
}

// errno adds the protocol's error number for the kind of an error.
func errno(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, nbd.Errno(errs.KindOf(err).NBDErrno()))
}

// Size implements nbd.Device.
func (x *Device) Size() uint64 { return x.V.Size() }

// ReadAt implements nbd.Device.
func (x *Device) ReadAt(p []byte, off uint64) (err error) {
	defer x.recoverPanic("read", &err, false)
	if err := x.alive(); err != nil {
		return err
	}
	return errno(x.V.ReadAt(p, off))
}

// TryReadAt implements nbd.Device.
func (x *Device) TryReadAt(p []byte, off uint64) (ok bool) {
	defer x.recoverPanic("read", nil, false) // ReadAt then returns the error
	return !x.dead.Load() && x.V.TryReadAt(p, off)
}

// WriteFrames implements nbd.Device.
func (x *Device) WriteFrames(offs []uint64, frames [][]byte) (err error) {
	defer x.recoverPanic("write", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	return errno(x.V.WriteFramesIf(x.MayChange, offs, frames))
}

// TryAdmit implements nbd.Limiter.
func (x *Device) TryAdmit(bytes int) bool { return x.D.Limiter.TryTake(bytes) }

// Admit implements nbd.Limiter.
func (x *Device) Admit(bytes int) error {
	err := x.D.Limiter.Wait(bytes, x.D.Table.Ctx, x.ended)
	if dead := x.alive(); dead != nil {
		return dead
	}
	return errno(err)
}

// Zero implements nbd.Device.
func (x *Device) Zero(off, length uint64, _ bool) (err error) {
	defer x.recoverPanic("zeroing", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	return errno(x.V.ZeroIf(x.MayChange, off, length))
}

// Flush implements nbd.Device.
func (x *Device) Flush() (err error) {
	defer x.recoverPanic("flush", &err, true)
	if err := x.alive(); err != nil {
		return err
	}
	// The shipper at this moment decides, whatever happens to it later.
	s, err := x.D.ShipperOfGuest()
	if err != nil {
		return errno(err)
	}
	seq := x.V.Last()
	if err := x.V.Flush(); err != nil {
		return errno(err)
	}
	if s != nil && s.FlushWaits() {
		return errno(disk.IgnoreRelaxed(s.Flushed(context.Background(), seq, 0)))
	}
	return nil
}

// FlushWaits implements nbd.Acknowledger.
func (x *Device) FlushWaits() bool { return x.D.Ships() }

// TryAcknowledge implements nbd.Acknowledger.
func (x *Device) TryAcknowledge() bool {
	s := x.D.Shipper()
	if s == nil {
		return !x.D.Ships()
	}
	s.Written()
	ok, slow := s.MayAcknowledge()
	return ok && slow == 0
}

// Acknowledge implements nbd.Acknowledger.
func (x *Device) Acknowledge() (err error) {
	defer x.recoverPanic("acknowledgement", &err, true)
	s, err := x.D.ShipperOfGuest()
	if err != nil {
		return errno(err)
	}
	if s == nil {
		return x.alive()
	}
	s.Written() // also if TryAcknowledge was not called: a FUA write is flushed first
	return errno(s.Acknowledge())
}

// Prefetch implements nbd.Device.
func (x *Device) Prefetch(off, length uint64) {
	defer x.recoverPanic("read ahead", nil, false)
	x.V.Prefetch(off, length)
}

// Flags of base:allocation, as in the protocol, and of glide:dirty.
const (
	stateHole  = 1
	stateZero  = 2
	stateDirty = 1
)

// Extents implements nbd.Device.
func (x *Device) Extents(dst []nbd.Extent, name string, off, length uint64) (all []nbd.Extent, err error) {
	defer x.recoverPanic("block status", &err, false)
	kind, flags := volume.Allocation, uint32(stateHole|stateZero)
	if name == dirtyContext {
		kind, flags = volume.DirtyPages, stateDirty
	}
	err = x.V.Extents(cost.Begin(context.Background(), cost.Read, x.D.Payer()), kind, off, length, func(n uint64, flagged bool) error {
		e := nbd.Extent{Length: n}
		if flagged {
			e.Flags = flags
		}
		dst = append(dst, e)
		return nil
	})
	return dst, errno(err)
}

// recoverPanic must be deferred by each request of a guest. It turns a panic into the request's
// error.
func (x *Device) recoverPanic(doing string, err *error, changes bool) {
	value := recover()
	if value == nil {
		return
	}
	e := x.Ex.Panicked(fmt.Sprintf("a %s of volume %q", doing, x.D), value)
	if changes {
		x.V.Fail(e)
	}
	if err != nil {
		*err = errno(e)
	}
}
