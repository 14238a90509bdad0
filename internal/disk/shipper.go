package disk

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// Shipper upholds the durability policy of an open volume. Package durability has the
// only implementation. All methods may be called concurrently.
type Shipper interface {
	// SetPolicy adopts the policy of the record.
	SetPolicy(st *volume.State)
	// Written reports that the volume was written to. It does not wait.
	Written()
	// MayAcknowledge reports whether a write may be acknowledged now, and if so, after
	// what delay.
	MayAcknowledge() (now bool, slow time.Duration)
	// Acknowledge waits until the writes so far may be acknowledged.
	Acknowledge() error
	// FlushWaits reports whether a flush must wait for the store before it is
	// acknowledged.
	FlushWaits() bool
	// Flushed waits until the store holds every write through seq. With a timeout it
	// gives up after the store has failed for that long. ErrRelaxed means that the policy
	// is local now, and the store may not hold these writes.
	Flushed(ctx context.Context, seq uint64, timeout time.Duration) error
	// Barrier does what the flush verb does, or returns ErrRelaxed. BarrierUnderOp is for
	// callers that hold the disk's Op.
	Barrier(ctx context.Context) (api.Flush, error)
	BarrierUnderOp(ctx context.Context) error
	// Reached reports that a publication has put every write through seq into the store.
	Reached(seq uint64)
	// BeginFold is Volume.BeginFold. It may wait until the cut's changes are sent.
	BeginFold() (*volume.Cut, error)
	// Acked returns the number through which the store holds every write.
	Acked() uint64
	// Unpublished returns the bytes that the store does not hold, and the age of the
	// oldest.
	Unpublished() (bytes int64, age time.Duration)
	// Stalled returns why writes are not acknowledged or the store does not keep up, or
	// "" if neither is so.
	Stalled() string
	// Start begins shipping. Stop ends it; requests that still wait fail with why.
	Start()
	Stop(why error)
}

// ErrClosing is the reply to waiting requests when a verb stops shipping.
var ErrClosing = errs.New(errs.Unavailable, "the volume is being closed or handed over")

// ErrRelaxed ends a shipper whose volume has become local: requests that wait for the
// store no longer have to.
var ErrRelaxed = errs.New(errs.Internal, "the volume's policy is local now")

// IgnoreRelaxed drops ErrRelaxed, for guests: with a local policy they need not wait for
// the store.
func IgnoreRelaxed(err error) error {
	if err == ErrRelaxed {
		return nil
	}
	return err
}

// StartShipping starts a shipper, which make returns, if the policy of the open volume
// needs one and it has none. Under op.
func (d *Disk) StartShipping(make func(*volume.Volume, *volume.State) Shipper) {
	st := d.State()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !st.Ships() { // the policy may have changed since an earlier look
		d.MustShip.Store(false)
		return
	}
	if d.v == nil || d.ship.Load() != nil || st.Mode != volume.Active {
		return
	}
	s := make(d.v, &st)
	d.ship.Store(&s)
	d.MustShip.Store(true) // after ship is set: see ShipperOfGuest
	s.Start()
}

// StopShipping ends the disk's shipper. Nothing more is acknowledged through it. Under
// op.
func (d *Disk) StopShipping(why error) {
	if s := d.ship.Swap(nil); s != nil {
		(*s).Stop(why)
	}
}

// ShipperOfGuest returns the shipper that decides when a guest's request is acknowledged,
// or nil for a local volume. When a volume begins to ship, ship is set before MustShip.
// So if MustShip is seen without a shipper, either both were set between the two reads,
// or the shipper has been stopped; the second pair of reads tells which.
func (d *Disk) ShipperOfGuest() (Shipper, error) {
	s := d.Shipper()
	if s == nil && d.MustShip.Load() {
		if s = d.Shipper(); s == nil && d.MustShip.Load() {
			return nil, ErrClosing
		}
	}
	return s, nil
}

// Ships reports whether the policy is not local: then the shipper acknowledges writes and
// flushes.
func (d *Disk) Ships() bool { return d.MustShip.Load() }

// SetShips sets whether the policy is not local.
func (d *Disk) SetShips(on bool) { d.MustShip.Store(on) }
