package commitlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/objstore"
)

// Options configure an Owner.
type Options struct {
	Store  objstore.Store
	Volume Volume
	// Isolated is the volume's own domain, if it has one (see Identity).
	Isolated uint32
	Host     Host             // who commits
	Rand     io.Reader        // source of marks; read only under the Owner's lock
	Now      func() time.Time // for the times in states, which only people read
	RollAt   uint64           // objects of an epoch before the next begins, 3 to 900; 0: 900

	Uptime   func() time.Duration // a monotonic clock, for RollAge and YieldFor
	RollAge  time.Duration        // age of an epoch before the next begins, with the next commit; 0: any
	RollStep time.Duration        // of an interval, with whose first commit an epoch begins; 0: none does. See SetRollStep
	YieldFor time.Duration        // how long the Owner yields to another host's seal; 0: 30 s
	// Pause waits between two tries of a claim. If ctx ends, it returns ctx's error.
	Pause func(ctx context.Context, d time.Duration) error
}

const (
	// maxEpoch is the largest number of objects in an owner's epoch. Together with
	// claimers' objects before and after them, they fit in one page of a listing, so
	// one LIST finds the tip.
	maxEpoch = 900
	yieldFor = 30 * time.Second
)

func (o *Options) withDefaults() Options {
	c := *o
	if c.RollAt == 0 {
		c.RollAt = maxEpoch
	}
	if c.YieldFor == 0 {
		c.YieldFor = yieldFor
	}
	return c
}

// Validate reports everything that is wrong with the options.
func (o *Options) Validate() error {
	var wrong []string
	if o.Store == nil || o.Rand == nil || o.Now == nil || o.Uptime == nil || o.Pause == nil {
		wrong = append(wrong, "Store, Rand, Now, Uptime and Pause are needed")
	}
	if err := o.Volume.Check(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if !ValidName(o.Host.ID) {
		wrong = append(wrong, fmt.Sprintf("%.110q is no host ID", o.Host.ID))
	}
	if o.RollAt != 0 && (o.RollAt < 3 || o.RollAt > maxEpoch) {
		wrong = append(wrong, fmt.Sprintf("RollAt is %d", o.RollAt))
	}
	if wrong == nil {
		return nil
	}
	return errs.New(errs.Invalid, "%s", strings.Join(wrong, "; "))
}

// Owner is a host's claim on one volume's log, for the life of a process (rule 4). A
// new Owner has no claim. OpenFirst or Claim make one, and begin a new epoch. It lasts
// until Release, Tombstone, or another host's seal.
//
// An Owner can be used further after any error. A request that failed after it was
// sent may still take effect at any time. The Owner keeps what it sent and settles it,
// with the same bytes, before it sends anything else (rule 5). Until then (Unsettled),
// everything that the failed call referred to must stay pinned.
//
// It may be used concurrently; its operations wait for each other.
type Owner struct {
	opts   Options
	status atomic.Pointer[status] // for readers that do not wait for a request

	mu       sync.Mutex    // guards the rest; held during requests, except those of flights
	tip      *Object       // the newest object, which is ours; nil: nothing was claimed
	next     Generation    // where the next object goes; number 1: the previous epoch is closed
	raw      []byte        // the bytes of tip, if they are sealed and cannot be made again
	closed   closed        // the seal that closed the previous epoch, if it is closed
	yield    *yield        // set if that seal is another host's
	pending  *sent         // sent, and not known to have taken effect
	flights  []*flight     // sent without waiting, in order; none while pending is set
	again    []*flight     // sent, and cut off by a seal: to be sent again in the next epoch
	unfolded []unfoldedRun // the data commits of tip and of flights that are not folded
	claim    claim         // what was sent to close another host's epoch
	left     error         // why the claim has ended
	aging    uint64        // an epoch in which this process has committed,
	since    time.Duration // and since when
	interval int64         // of RollStep, in which that epoch began
	root     uint32        // with which its objects were sealed then; 0: they are plain
	rollStep atomic.Int64  // see SetRollStep
}

// closed is the end of an epoch.
type closed struct {
	at   Generation
	hash ObjectHash // of the seal
}

func closedWith(seal *Object) closed { return closed{seal.Generation, seal.Hash} }

type sent struct {
	object *Object
	raw    []byte
	landed bool // of a seal ahead: it is known to have taken effect
}

type status struct {
	tip       Generation
	left      error
	unsettled bool
}

// New returns an Owner that has not claimed anything. It makes no request.
func New(opts Options) (*Owner, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	o := &Owner{opts: opts.withDefaults()}
	o.SetRollStep(opts.RollStep)
	o.publishStatus()
	return o, nil
}

// SetRollStep makes the first commit in each interval of this length begin an epoch, so
// that a collector, which takes whole epochs, can leave one of each interval. 0: no
// interval matters. It does not block.
func (o *Owner) SetRollStep(d time.Duration) { o.rollStep.Store(int64(d)) }

// Generation is the place of the newest object that is known to have taken effect;
// zero before the first claim. It does not block.
func (o *Owner) Generation() Generation { return o.status.Load().tip }

// Unsettled tells whether something was sent whose result is unknown. It does not
// block.
func (o *Owner) Unsettled() bool { return o.status.Load().unsettled }

// Err returns why the claim has ended: errs.Fenced if another host took the volume
// over, errs.Invalid after Release and Tombstone; nil while it lasts. It does not
// block.
func (o *Owner) Err() error { return o.status.Load().left }

func (o *Owner) publishStatus() {
	s := &status{left: o.left, unsettled: o.pending != nil || len(o.flights) > 0 || len(o.again) > 0}
	if o.tip != nil {
		s.tip = o.tip.Generation
	}
	if old := o.status.Load(); invariants.Enabled && old != nil {
		invariants.Check(s.tip.Compare(old.tip) >= 0, "the tip of %s goes from %s back to %s", o.opts.Volume, old.tip, s.tip)
		invariants.Check(o.pending == nil || len(o.flights) == 0, "%s has %d objects under way beside the one that is pending", o.opts.Volume, len(o.flights))
	}
	o.status.Store(s)
}

// lock begins an operation; the function it returns ends it.
func (o *Owner) lock() (unlock func()) {
	o.mu.Lock()
	return func() {
		o.publishStatus()
		o.mu.Unlock()
	}
}

// State is the volume's state at Generation, as a successor carries it.
func (o *Owner) State() State {
	defer o.lock()()
	if o.tip == nil {
		return State{}
	}
	return o.tip.Carry()
}

// Commit publishes a state as the next object of the log and returns its
// generation. Unsettled objects are settled first. The Owner begins its next epoch
// about every thousand commits. After errs.Fenced, another host owns the volume. After
// any other error, the state may or may not be published, now or later: see Unsettled.
//
// Commit itself fills in the data commits that are not folded into the state's Root
// (those with writes after its Seq) and the pins of former owners.
//
// published-is-complete: everything that the state names is durable before the call.
func (o *Owner) Commit(ctx context.Context, state State) (Generation, error) {
	unlock := o.lock()
	if len(o.flights) == 0 {
		defer unlock()
		return o.commit(ctx, state)
	}
	s, err := o.follow(ctx, state)
	unlock()
	if err != nil {
		return Generation{}, err
	}
	return s.Wait(ctx)
}

func (o *Owner) commit(ctx context.Context, state State) (Generation, error) {
	err := o.append(ctx, func() (*Object, error) {
		if state.ID != o.tip.State.ID {
			return nil, errs.New(errs.Invalid, "commit of volume ID %s to the log of %s, which is of %s",
				state.ID, o.opts.Volume, o.tip.State.ID)
		}
		next := state
		o.carry(&next)
		return &Object{Kind: Commit, State: next}, nil
	})
	return o.reached(err)
}

// Forget publishes the volume's state without what is kept for a former owner (rule
// 12), on an operator's request. It makes no request if nothing is kept for that host.
func (o *Owner) Forget(ctx context.Context, host string) error {
	defer o.lock()()
	err := o.append(ctx, func() (*Object, error) {
		state := o.tip.Carry()
		kept := slices.DeleteFunc(slices.Clone(state.SealedFrom), func(f SealedFrom) bool { return f.Host == host })
		if len(kept) == len(state.SealedFrom) {
			return nil, errNothing
		}
		state.Cause, state.SealedFrom = CauseForget, kept
		return &Object{Kind: Commit, State: state}, nil
	})
	if err == errNothing {
		return nil
	}
	return err
}

var errNothing = errors.New("there is nothing to send")

// Resolve settles what was sent before and returns the generation of the newest
// object. It makes no request when everything is settled.
func (o *Owner) Resolve(ctx context.Context) (Generation, error) {
	defer o.lock()()
	err := o.settle(ctx)
	if len(o.again) > 0 && (err == nil || err == errSealed) {
		err = o.ready(ctx)
	}
	if err != nil && err != errSealed {
		return Generation{}, err
	}
	if o.tip == nil {
		return Generation{}, nil
	}
	return o.tip.Generation, nil
}

// Roll ends the epoch and begins the next, as Commit does when the epoch is full (rule 3).
func (o *Owner) Roll(ctx context.Context) error {
	defer o.lock()()
	if err := o.append(ctx, o.sealOf(CauseRoll, false)); err != nil {
		return err
	}
	return o.ready(ctx)
}

// begin opens the next epoch after a seal, with the same state.
func (o *Owner) begin(ctx context.Context) error {
	state := o.tip.Carry()
	state.Cause = CauseRoll
	if o.yield != nil {
		state.Cause = CauseOpen
	}
	return o.send(ctx, &Object{Kind: First, State: state})
}

// ready settles what was sent and brings the log to where a commit can follow.
func (o *Owner) ready(ctx context.Context) error {
	for range moves {
		if err := o.owning(ctx); err != nil {
			return err
		}
		var err error
		switch {
		case o.next.Number == 1:
			err = o.begin(ctx)
		case o.full():
			err = o.sendSeal(ctx, CauseRoll, false)
		case len(o.again) > 0:
			err = o.relaunch()
		default:
			return nil
		}
		if err != nil && err != errSealed {
			return err
		}
	}
	return errs.New(errs.Busy, "volume %s is sealed by others again and again", o.opts.Volume)
}

// atOnce is for what is not worth waiting for.
var atOnce, cancelAtOnce = context.WithCancel(context.Background())

func init() { cancelAtOnce() }

// full tells whether the next object belongs into the next epoch. An epoch also ends when
// it is old, so that its commits can be collected, and when the tenant has a new root, so that
// nothing that stays is under the old one.
func (o *Owner) full() bool {
	now, interval := o.opts.Uptime(), int64(0)
	if step := o.rollStep.Load(); step > 0 {
		interval = o.opts.Now().UnixNano() / step
	}
	root := o.root
	if k, err := keysOf(atOnce, o.opts.Store, DomainName(o.opts.Volume.Tenant, o.opts.Isolated)); err == nil && k.Domain != nil {
		root = k.Domain.Current()
	}
	if o.next.Epoch != o.aging {
		o.aging, o.since, o.interval, o.root = o.next.Epoch, now, interval, root
	}
	old := o.opts.RollAge > 0 && now-o.since >= o.opts.RollAge || interval != o.interval || root != o.root
	return o.next.Number >= o.opts.RollAt || o.next.Number > 2 && old
}

// owning settles what was sent, and returns nil if the volume is ours and does not
// yield.
func (o *Owner) owning(ctx context.Context) error {
	if o.left != nil {
		return o.left
	}
	if err := o.settle(ctx); err != nil && err != errSealed {
		return err
	}
	if o.left != nil {
		return o.left
	}
	if o.tip == nil {
		return errs.New(errs.Invalid, "volume %s is not claimed by this process", o.opts.Volume)
	}
	if err := o.meetAhead(ctx); err != nil {
		return err
	}
	if o.yield != nil {
		return o.yielded(ctx)
	}
	return nil
}

// append appends the object that make returns to the log. It calls make again if a
// seal was at that number.
func (o *Owner) append(ctx context.Context, made func() (*Object, error)) error {
	for range moves {
		if err := o.ready(ctx); err != nil {
			return err
		}
		before := o.unfolded
		obj, err := made()
		if err == nil {
			err = o.prepare(ctx, obj, o.next)
		}
		if err != nil { // nothing was sent
			o.unfolded = before
			return err
		}
		if err := o.settle(ctx); err != errSealed {
			return err
		}
	}
	return errs.New(errs.Busy, "volume %s is sealed by others again and again", o.opts.Volume)
}

// sealOf makes a seal of our epoch.
func (o *Owner) sealOf(cause Cause, released bool) func() (*Object, error) {
	return func() (*Object, error) {
		state := o.tip.Carry()
		state.Cause, state.SealedBy = cause, o.opts.Host.ID
		return &Object{Kind: Seal, Released: released, State: state}, nil
	}
}

func (o *Owner) sendSeal(ctx context.Context, cause Cause, released bool) error {
	obj, _ := o.sealOf(cause, released)()
	return o.send(ctx, obj)
}

// send makes obj the next object of our epoch.
func (o *Owner) send(ctx context.Context, obj *Object) error {
	if err := o.prepare(ctx, obj, o.next); err != nil {
		return err
	}
	return o.settle(ctx)
}

// prepare makes obj the object that settle sends.
func (o *Owner) prepare(ctx context.Context, obj *Object, at Generation) (err error) {
	if obj.Kind == First && at.Epoch > 1 {
		obj.State.After = o.closed.at
	}
	o.pending, err = o.encode(ctx, obj, at, o.before(at))
	return err
}

// encode stamps, marks and encodes obj, once. prev is the hash of the object before it, as
// far as it is known.
//
// sealed-once: whatever becomes of the request, these bytes are sent for that number.
func (o *Owner) encode(ctx context.Context, obj *Object, at Generation, prev ObjectHash) (*sent, error) {
	obj.Generation = at
	if obj.Kind == Commit && obj.State.Isolated != o.opts.Isolated {
		return nil, errs.New(errs.Internal, "a commit of %s is of domain %08x, and the volume of %08x", o.opts.Volume, obj.State.Isolated, o.opts.Isolated)
	}
	s := obj.State.Clone()
	s.Tenant, s.Name, s.Time = o.opts.Volume.Tenant, o.opts.Volume.Name, o.opts.Now().UTC()
	if !obj.Closes() { // else it is sealed as the epoch that it closes
		s.Owner, s.SealedBy, s.Isolated = o.opts.Host, "", o.opts.Isolated
	}
	if obj.Kind != First {
		s.After = Generation{}
	}
	obj.State = s
	k, err := keysOf(ctx, o.opts.Store, s.DomainName())
	if err == nil && k.Domain != nil {
		err = o.sealing(k, obj, prev)
	}
	if err == nil {
		obj.log, err = LogOf(ctx, o.opts.Store, o.opts.Volume)
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(o.opts.Rand, obj.Mark[:]); err != nil {
		return nil, fmt.Errorf("commit of %s: no random bytes for its mark: %w", o.opts.Volume, err)
	}
	raw, err := obj.EncodeFor(k.Domain)
	if err != nil {
		return nil, err
	}
	obj.Hash, obj.Size = blake3.Sum256(raw), len(raw)
	return &sent{object: obj, raw: raw}, nil
}

// settle sends what is pending, if necessary again, until the result is known. If a
// seal cuts off flights, they are sent again, which is not an error. If it cuts off a
// pending object, the error is errSealed.
func (o *Owner) settle(ctx context.Context) error {
	if len(o.flights) > 0 {
		if err := o.drain(ctx); err != nil {
			return err
		}
		return o.left
	}
	found, err := o.resolve(ctx)
	if err != nil || found == nil {
		return err
	}
	return o.lost(found)
}

// resolve finds out the result of what is pending. found is another host's object at
// its number; nil if ours is there, and is now the tip. After an error the result is
// still unknown.
func (o *Owner) resolve(ctx context.Context) (found *Object, err error) {
	if len(o.flights) > 0 {
		return nil, o.drain(ctx)
	}
	p := o.pending
	if p == nil {
		return nil, nil
	}
	found, err = create(ctx, o.opts.Store, o.opts.Volume, p.object, p.raw)
	if fault.Is("number-sent-twice") {
		o.pending = nil
	}
	if err != nil {
		return nil, err
	}
	o.pending = nil
	if found == nil {
		o.took(p)
	}
	return found, nil
}

// lost records that another host's object is where ours should be.
func (o *Owner) lost(found *Object) error {
	switch {
	case o.tip == nil:
		return busy(o.opts.Volume, found)
	case found.Closes() && found.Generation == o.tip.Generation.Next():
		o.closedBy(found)
		return errSealed
	}
	o.fencedBy(found)
	return o.left
}

// create creates the object, or finds another object at its key. After every error but
// errs.Exists it is unknown whether the object was created. Exists may be the echo of
// our own earlier request: only the mark of the object found there counts (rule 5). It
// is in clear, and counts without keys, too.
func create(ctx context.Context, store objstore.Store, vol Volume, obj *Object, raw []byte) (found *Object, err error) {
	err = store.PutIfAbsent(ctx, obj.Log().Key(obj.Generation), raw)
	if err == nil {
		return nil, nil
	}
	if ctx.Err() != nil { // it may exist, and its mark is unknown
		return nil, errs.New(errs.Unavailable, "commit %s of %s: %s (%w)", obj.Generation, vol, err, ctx.Err())
	}
	found, readErr := get(ctx, store, vol, obj.Generation)
	switch {
	case found != nil && found.Mark == obj.Mark, readErr == nil && fault.Is("collision-believed-ours"):
		return nil, nil
	case readErr == nil:
		return found, nil
	case isNewer(readErr): // a newer version: it cannot be ours
		return &Object{Generation: obj.Generation}, nil
	case errors.Is(readErr, errs.NotFound) && !errors.Is(err, errs.Exists),
		errs.KindOf(readErr) == errs.Unavailable && errs.KindOf(err) == errs.Unavailable:
		return nil, fmt.Errorf("commit %s of %s: %w", obj.Generation, vol, err)
	case errors.Is(readErr, errs.NotFound):
		return nil, errs.New(errs.Unavailable, "commit %s of %s: the store says that it exists and that it does not", obj.Generation, vol)
	}
	return nil, readErr
}

// took makes an object that took effect the tip.
func (o *Owner) took(s *sent) {
	obj := s.object
	if o.raw = nil; obj.Domain != 0 {
		o.raw = s.raw
	}
	if obj.Kind == First {
		o.inherit(&obj.State)
	}
	o.tip, o.left = obj, nil
	o.next, o.closed, o.yield = obj.Generation.Next(), closed{}, nil
	switch {
	case obj.Kind == Seal && obj.Released:
		o.left = errs.New(errs.Invalid, "volume %s was released at %s; claim it first", o.opts.Volume, obj.Generation)
	case obj.Kind == Seal:
		o.next, o.closed = obj.Generation.NextEpoch(), closedWith(obj)
	case obj.Tombstone:
		o.left = errs.New(errs.Invalid, "volume %s was removed at %s", o.opts.Volume, obj.Generation)
	}
}
