package disk

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// Shipper keeps the durability policy of an open volume: package durability has
// the only one. All methods may be called concurrently.
type Shipper interface {
	// SetPolicy takes over the policy of the record.
	SetPolicy(st *volume.State)
	// Written tells that the volume was written to. It does not wait.
	Written()
	// MayAcknowledge tells whether a write may be acknowledged now, and if so after
	// which delay.
	MayAcknowledge() (now bool, slow time.Duration)
	// Acknowledge waits until what was written may be acknowledged.
	Acknowledge() error
	// FlushWaits tells whether a flush is acknowledged only by the store.
	FlushWaits() bool
	// Flushed waits until the store holds every write through seq. With a timeout it
	// gives up when the store has failed for that long. ErrRelaxed says that the
	// policy is local now, and the store may not hold them.
	Flushed(ctx context.Context, seq uint64, timeout time.Duration) error
	// Barrier is the flush command, or ErrRelaxed; BarrierUnderOp is for a caller
	// that holds the disk's op.
	Barrier(ctx context.Context) (api.Flush, error)
	BarrierUnderOp(ctx context.Context) error
	// Reached tells that a publication has put every write through seq into the store.
	Reached(seq uint64)
	// Acked is the number of the write through which the store holds every one.
	Acked() uint64
	// Unpublished says what the store does not hold: bytes, and the age of the oldest.
	Unpublished() (bytes int64, age time.Duration)
	// Stalled is why writes are not acknowledged, or the store does not keep up; ""
	// if neither.
	Stalled() string
	// Start begins to ship; Stop ends it and fails with why what still waits.
	Start()
	Stop(why error)
}

// ErrClosing is the reply to requests that wait when shipping stops for a verb.
var ErrClosing = errs.New(errs.Unavailable, "the volume is being closed or handed over")

// ErrRelaxed ends a shipper whose volume is local now: what waits for the store
// need not any more.
var ErrRelaxed = errs.New(errs.Internal, "the volume's policy is local now")

// IgnoreRelaxed is for guests: they are not owed the store any more.
func IgnoreRelaxed(err error) error {
	if err == ErrRelaxed {
		return nil
	}
	return err
}

// StartShipping gives an open volume whose policy wants one the shipper that make
// returns, unless it has one. Under op.
func (d *Disk) StartShipping(make func(*volume.Volume, *volume.State) Shipper) {
	st := d.State()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !st.Ships() { // also a volume whose policy was another when it was looked at first
		d.MustShip.Store(false)
		return
	}
	if d.v == nil || d.ship.Load() != nil || st.Mode != volume.Active {
		return
	}
	s := make(d.v, &st)
	d.ship.Store(&s)
	d.MustShip.Store(true) // after it: shipperOfGuest
	s.Start()
}

// StopShipping ends the disk's shipper; nothing is acknowledged through it any
// more. Under op.
func (d *Disk) StopShipping(why error) {
	if s := d.ship.Swap(nil); s != nil {
		(*s).Stop(why)
	}
}

// ShipperOfGuest is what has a say in when a guest is answered, nil for a local
// volume. A volume that begins to ship has its shipper first, and then the
// promise; so a promise that is seen without a shipper was either made in between,
// or its shipper has been stopped.
func (d *Disk) ShipperOfGuest() (Shipper, error) {
	s := d.Shipper()
	if s == nil && d.MustShip.Load() {
		if s = d.Shipper(); s == nil && d.MustShip.Load() {
			return nil, ErrClosing
		}
	}
	return s, nil
}

// Ships tells that the disk's policy is not local: its writes and flushes are
// acknowledged by its shipper.
func (d *Disk) Ships() bool { return d.MustShip.Load() }

// SetShips tells that the policy is local from now on, or not any more.
func (d *Disk) SetShips(on bool) { d.MustShip.Store(on) }
