package durability

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/volume"
)

// Bounds per volume on what a policy that ships sends.
const (
	shipBytes        = 8 << 20  // unsent changes that are sent without waiting for their interval
	maxChanged       = 16 << 20 // unsent changes beyond which writes are not acknowledged
	maxInFlightBytes = 32 << 20 // bytes of data commits in flight
	maxInFlight      = 8        // data commits in flight
	FoldBytes        = 64 << 20 // bytes of data commits that trigger a fold into packs; see Options.FoldAfter
	foldFactor       = 4        // at this multiple of FoldBytes or FoldAfter, sending waits for a fold
	leastInterval    = 20 * time.Millisecond
	saveEvery        = 200 * time.Millisecond // between saves of the progress in the record
	firstRetry       = 100 * time.Millisecond
	longestRetry     = 5 * time.Second
)

// Keeper upholds the durability policies of a host's volumes. All methods may be called
// concurrently; those that say "under op" need the Op of their disk.
type Keeper struct {
	Options

	disks     *disk.Table
	pins      *pin.Pins
	owners    *ownership.Owners
	publisher *publication.Publisher
}

// Options say what volumes whose policy ships send, and when they are folded.
type Options struct {
	FoldAfter uint64 // data commits of a volume that trigger a fold into packs
	// BulkBytes is how many bytes of whole blocks among the changes that are sent together
	// make these blocks go into packs, instead of as bytes in the data commit.
	BulkBytes int64
}

// New returns the keeper of a host's policies.
func New(o Options, t *disk.Table, p *pin.Pins, ow *ownership.Owners, pub *publication.Publisher) *Keeper {
	return &Keeper{Options: o, disks: t, pins: p, owners: ow, publisher: pub}
}

// shipper keeps the promise of a volume whose durability policy is continuous or sync. It
// sends writes to the store as data commits, has them folded, and decides when a write or
// a flush may be acknowledged.
//
// flush-is-durable: sync acknowledges a flush when the store holds every write before it.
// continuous acknowledges no write while the store lacks a write that is older than the
// rpo less a margin. As that age approaches, the shipper first commits sooner, then
// delays replies, then holds them back.
//
// A shipper lives while its volume is open on this host. Verbs that change the volume's
// owner stop it first. Its lock comes before the volume's, and after Disk.Op.
type shipper struct {
	k *Keeper
	d *disk.Disk
	v *volume.Volume

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	kick   chan struct{}
	idle   atomic.Bool // the loop waits for the first write

	// The receive loops of guests read these without the lock. They are updated under mu
	// whenever p changes: see publish.
	policy         atomic.Pointer[promised]
	oldestInFlight atomic.Int64  // uptime of the oldest write in flight; 0: there is none
	acked          atomic.Uint64 // p.acked
	commits        atomic.Uint64 // data commits that took effect

	// announced is a policy that a commit may already name although the record does not
	// yet: later data commits must not take it back. nil: the record has it.
	announced atomic.Pointer[Policy]

	// lentOp holds a token while a verb that holds Disk.Op waits for the shipper and
	// lends it.
	lentOp chan struct{}

	mu          sync.Mutex
	changed     sync.Cond // signals changes of p
	p           promise
	dataCommits []*dataCommit // in the order of p.inFlight; those that are sent come first
	opWanted    bool          // the loop that sends waits for Op, or holds it
	retryPauses chan struct{} // closed to end the pauses of retryPause; nil if there are none
}

func newShipper(k *Keeper, d *disk.Disk, v *volume.Volume, st *volume.State) *shipper {
	s := &shipper{k: k, d: d, v: v, kick: make(chan struct{}, 1), lentOp: make(chan struct{}, 1)}
	s.p.latency = 50 * time.Millisecond
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(cost.Begin(d.Table.Ctx, cost.Ship, d.Payer()))
	switch n, _ := v.Changed(); {
	case st.Rebase:
		s.p.rebase = true // the store must learn of the rollback, even if nothing is written
	case n > 0:
		s.p.reached(st.Shipped)
	default:
		s.p.reached(v.Last())
	}
	s.SetPolicy(st)
	return s
}

// SetPolicy implements disk.Shipper.
func (s *shipper) SetPolicy(st *volume.State) {
	s.change(func(p *promise) { p.policy = promised{sync: st.Durability == volume.Sync, rpo: st.RPO} })
	s.poke()
}

// change applies an event to the promise and wakes all waiters.
func (s *shipper) change(event func(p *promise)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	event(&s.p)
	s.publish()
}

// publish updates the copies that are read without the lock and wakes all waiters. Under
// mu.
func (s *shipper) publish() {
	if now := s.policy.Load(); now == nil || *now != s.p.policy {
		policy := s.p.policy
		s.policy.Store(&policy)
	}
	s.oldestInFlight.Store(int64(s.p.oldestInFlight()))
	s.acked.Store(s.p.acked)
	s.changed.Broadcast()
}

// unsent returns what the volume has changed and the shipper has not taken.
func (s *shipper) unsent() unsent {
	bytes, at := s.v.Changed()
	return unsent{bytes, at}
}

// poke makes the loop check again. It does not wait.
func (s *shipper) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// StartShipping gives a disk a shipper if its policy needs one. Under op.
func (k *Keeper) StartShipping(d *disk.Disk) {
	d.StartShipping(func(v *volume.Volume, st *volume.State) disk.Shipper { return newShipper(k, d, v, st) })
}

// Start implements disk.Shipper.
func (s *shipper) Start() {
	s.done.Go(s.run)
	s.done.Go(s.settle)
	s.done.Go(s.wakeWaiters)
}

// Stop implements disk.Shipper.
func (s *shipper) Stop(why error) {
	s.end(why)
	s.cancel()
	s.done.Wait()
	// flush-is-durable: commits in flight may never take effect. The next shipper sends
	// their changes again, and acknowledges nothing that depends on them before.
	if !fault.Is("flights-forgotten") {
		for _, c := range s.dataCommits {
			s.v.ReturnChanges(c.changes)
		}
	}
	// If a commit may still take effect, the packs that it names stay announced.
	o := s.d.Owned.Load()
	for _, c := range s.dataCommits {
		if c.sent == nil || o == nil || !o.Unsettled() {
			c.release()
		}
	}
}

// FlushWaits implements disk.Shipper.
func (s *shipper) FlushWaits() bool { return s.policy.Load().sync }

// Acked implements disk.Shipper.
func (s *shipper) Acked() uint64 { return s.acked.Load() }

// end makes every waiter give up.
func (s *shipper) end(why error) { s.change(func(p *promise) { p.end(why) }) }

// wakeWaiters makes the waiters give up when the shipper or the host stops.
func (s *shipper) wakeWaiters() {
	<-s.ctx.Done()
	s.end(disk.ErrClosing)
}

// run sends changes until the shipper is stopped.
func (s *shipper) run() {
	retry := firstRetry
	for s.ctx.Err() == nil {
		if !s.await() {
			return
		}
		err := s.claim()
		if err == nil {
			err = s.send()
		}
		if err == nil {
			retry = firstRetry
			continue
		}
		if s.failed(err) {
			return
		}
		if s.retryPause(retry) != nil {
			return
		}
		retry = nextRetry(retry, err)
	}
}

// nextRetry returns the pause before the next attempt after an error. A host that yields
// should learn the outcome soon, so its pauses are short.
func nextRetry(retry time.Duration, err error) time.Duration {
	if errors.Is(err, commitlog.ErrYielding) {
		return min(2*retry, ownership.YieldPoll)
	}
	return min(2*retry, longestRetry)
}

// failed records an error and reports whether it ends the shipper.
func (s *shipper) failed(err error) (over bool) {
	if errs.KindOf(err) == errs.Fenced {
		s.end(err)
		// The verb that fences stops this shipper, and waits for it.
		s.k.disks.BG.Go(func() {
			s.d.Op.Lock()
			defer s.d.Op.Unlock()
			_ = s.k.owners.FenceIfLost(s.d, err) // it logs an event, and the volume's state says it
		})
		return true
	}
	var fresh bool
	s.change(func(p *promise) { fresh = p.failed(s.k.disks.Uptime(), err) && s.ctx.Err() == nil })
	if fresh {
		s.k.disks.Event(event.Store, s.d.String(), "%s", unshipped(err))
	}
	return s.ctx.Err() != nil
}

// await waits until something is to be sent and another commit may be in flight. It
// returns false when the shipper stops.
func (s *shipper) await() bool {
	for {
		wait := s.due()
		if wait <= 0 {
			return s.ctx.Err() == nil
		}
		if wait == forever {
			if s.idle.Store(true); s.due() != forever { // a write came before idle was set
				s.idle.Store(false)
				continue
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-s.kick:
		case <-t.C:
		case <-s.ctx.Done():
		}
		t.Stop()
		s.idle.Store(false)
		if s.ctx.Err() != nil {
			return false
		}
	}
}

// due returns how long to wait before there is something to send.
func (s *shipper) due() time.Duration {
	if c := s.nextToSend(); c != nil && c.isReady() {
		return 0
	}
	return s.dueToTake()
}

// dueToTake returns how long to wait before the next changes are taken.
func (s *shipper) dueToTake() time.Duration {
	u, now := s.unsent(), s.k.disks.Uptime()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.due(now, u)
}

// lockOp locks the disk's Op, or borrows it from a verb that waits for the shipper. It
// gives up when the shipper ends, because the holder of Op may be about to stop the
// shipper.
func (s *shipper) lockOp() (unlock func(), err error) {
	select {
	case s.d.Op <- struct{}{}:
		return s.d.Op.Unlock, nil
	case <-s.lentOp:
		return func() { s.lentOp <- struct{}{} }, nil
	case <-s.ctx.Done():
		return nil, disk.ErrClosing
	}
}

// lockOpNow is lockOp for the loop that sends. Whoever holds Op may be waiting for this
// loop in BeginFold, and then stops waiting.
func (s *shipper) lockOpNow() (unlock func(), err error) {
	want := func(on bool) { s.change(func(*promise) { s.opWanted = on }) }
	want(true)
	release, err := s.lockOp()
	if err != nil {
		want(false)
		return nil, err
	}
	return func() {
		release()
		want(false)
	}, nil
}

// BarrierUnderOp implements disk.Shipper. It lends Op to the shipper, which may need it
// meanwhile.
func (s *shipper) BarrierUnderOp(ctx context.Context) error {
	s.lentOp <- struct{}{}
	defer func() { <-s.lentOp }()
	_, err := s.Barrier(ctx)
	return err
}

// claim makes sure that this process has an epoch in the volume's log.
func (s *shipper) claim() error {
	if o := s.d.Owned.Load(); o != nil && !o.Generation().IsZero() {
		return nil
	}
	unlock, err := s.lockOpNow()
	if err != nil {
		return err
	}
	defer unlock()
	st := s.d.State()
	if st.Published == nil {
		return nil // the verb that gave the volume its policy makes the first publication
	}
	if err := s.k.owners.Own(s.d, &st); err != nil {
		return err
	}
	if !s.d.Owner.Generation().IsZero() {
		return nil
	}
	_, err = s.k.owners.ClaimOwn(s.ctx, s.d, &st)
	return err
}
