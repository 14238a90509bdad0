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

	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
)

// Options say for whom, and with what, an Owner works.
type Options struct {
	Store  objstore.Store
	Volume Volume
	Host   Host             // who commits
	Rand   io.Reader        // source of marks; read under the Owner's lock only
	Now    func() time.Time // for the times in states, which only people read
	RollAt uint64           // objects of an epoch before the next begins, 3 to 1999; 0: 1000
}

func (o *Options) withDefaults() Options {
	c := *o
	if c.RollAt == 0 {
		c.RollAt = listPage
	}
	return c
}

// Validate reports everything that is wrong with the options.
func (o *Options) Validate() error {
	var wrong []string
	if o.Store == nil || o.Rand == nil || o.Now == nil {
		wrong = append(wrong, "Store, Rand and Now are needed")
	}
	if err := o.Volume.Check(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if !ValidName(o.Host.ID) {
		wrong = append(wrong, fmt.Sprintf("%.110q is no host ID", o.Host.ID))
	}
	if o.RollAt != 0 && (o.RollAt < 3 || o.RollAt >= 2*listPage) { // more would cost Find a third LIST
		wrong = append(wrong, fmt.Sprintf("RollAt is %d", o.RollAt))
	}
	if wrong == nil {
		return nil
	}
	return problem.New(problem.Invalid, "%s", strings.Join(wrong, "; "))
}

// Owner is a host's hold on one volume's log, for the life of a process (rule 4):
// it is made without a claim, gets one with OpenFirst or Claim, which begin a new
// epoch, and keeps it until Release, Tombstone, or another host's seal.
//
// Whatever a request's fate, the Owner may be used on. A request that failed
// after it was sent may still take effect at any time; the Owner keeps what it
// sent and settles it, with the same bytes, before it sends anything else (rule
// 5). Until it is settled (Unsettled), everything that the failed call referred
// to must be kept pinned.
//
// It may be used concurrently; its operations wait for each other.
type Owner struct {
	opts   Options
	status atomic.Pointer[status] // what readers see without waiting for a request

	mu      sync.Mutex // guards the rest; held during requests, but for those of flights
	tip     *Object    // the newest object, which is ours; nil: nothing was claimed
	next    Generation // where the next object goes; number 1: our seal closed the epoch before
	pending *sent      // sent, and not known to have taken effect
	flights []*flight  // sent without waiting, in order; none while there is a pending
	parcels []parcel   // the data commits of tip, and of flights, that are not folded
	seal    *sent      // the seal of another's epoch, likewise; any other in its place does as well
	left    error      // why the claim is over
}

type sent struct {
	object *Object
	raw    []byte
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
	o.publishStatus()
	return o, nil
}

// Generation is that of the newest object that is known to have taken effect;
// zero before the first claim. It does not wait.
func (o *Owner) Generation() Generation { return o.status.Load().tip }

// Unsettled tells whether something was sent that may or may not take effect. It
// does not wait.
func (o *Owner) Unsettled() bool { return o.status.Load().unsettled }

// Err is why the claim is over: problem.Fenced when another host took it,
// problem.Invalid after Release and Tombstone; nil while it is not. It does not
// wait.
func (o *Owner) Err() error { return o.status.Load().left }

func (o *Owner) publishStatus() {
	s := &status{left: o.left, unsettled: o.pending != nil || len(o.flights) > 0}
	if o.tip != nil {
		s.tip = o.tip.Generation
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

// State is the volume's state as of Generation, as a successor carries it on.
func (o *Owner) State() State {
	defer o.lock()()
	if o.tip == nil {
		return State{}
	}
	return o.tip.Carry()
}

// Commit publishes a state as the next object of the log and returns its
// generation. What was sent before and is unsettled is settled first; about
// every thousand commits the Owner begins its next epoch. On an error of kind
// problem.Fenced another host owns the volume; after any other the state may or
// may not be published, now or later, see Unsettled.
//
// The state names the data commits that are not folded into its Root, that is,
// those that hold writes after its Seq, and the pins of former owners, whatever
// the caller put there.
//
// published-is-complete: the caller has made durable what the state names.
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
	if err := o.ready(ctx); err != nil {
		return Generation{}, err
	}
	if state.ID != o.tip.State.ID {
		return Generation{}, problem.New(problem.Invalid, "commit of volume ID %s to the log of %s, which is of %s",
			state.ID, o.opts.Volume, o.tip.State.ID)
	}
	before := o.parcels
	o.carry(&state)
	if err := o.prepare(&Object{Kind: Commit, State: state}, o.next); err != nil {
		o.parcels = before // nothing was sent
		return Generation{}, err
	}
	if err := o.settle(ctx); err != nil {
		return Generation{}, err
	}
	return o.tip.Generation, nil
}

// Forget publishes the volume's state without what is kept for a former owner (rule
// 12): it is an operator's act. It makes no request if nothing is kept for that host.
func (o *Owner) Forget(ctx context.Context, host string) error {
	defer o.lock()()
	if err := o.ready(ctx); err != nil {
		return err
	}
	state := o.tip.Carry()
	kept := slices.DeleteFunc(slices.Clone(state.SealedFrom), func(f SealedFrom) bool { return f.Host == host })
	if len(kept) == len(state.SealedFrom) {
		return nil
	}
	state.Cause, state.SealedFrom = CauseForget, kept
	return o.send(ctx, &Object{Kind: Commit, State: state})
}

// Resolve settles what was sent before and returns the generation of the newest
// object. It makes no request when everything is settled.
func (o *Owner) Resolve(ctx context.Context) (Generation, error) {
	defer o.lock()()
	if err := o.settle(ctx); err != nil {
		return Generation{}, err
	}
	if o.tip == nil {
		return Generation{}, nil
	}
	return o.tip.Generation, nil
}

// Roll ends the epoch and begins the next, as Commit does by itself (rule 3).
func (o *Owner) Roll(ctx context.Context) error {
	defer o.lock()()
	if err := o.ready(ctx); err != nil {
		return err
	}
	return o.roll(ctx)
}

func (o *Owner) roll(ctx context.Context) error {
	if err := o.sendSeal(ctx, CauseRoll, false); err != nil {
		return err
	}
	return o.begin(ctx)
}

// begin opens the next epoch after our own seal, with the same state.
func (o *Owner) begin(ctx context.Context) error {
	state := o.tip.Carry()
	state.Cause = CauseRoll
	return o.send(ctx, &Object{Kind: First, State: state})
}

// ready settles what was sent and brings the log to where a commit can follow.
func (o *Owner) ready(ctx context.Context) error {
	if err := o.owning(ctx); err != nil {
		return err
	}
	switch {
	case o.next.Number == 1: // sealed, and failed before the next epoch
		return o.begin(ctx)
	case o.next.Number >= o.opts.RollAt:
		return o.roll(ctx)
	}
	return nil
}

// owning settles what was sent and is nil if the volume is ours.
func (o *Owner) owning(ctx context.Context) error {
	if o.left != nil {
		return o.left
	}
	if err := o.settle(ctx); err != nil {
		return err
	}
	if o.left != nil {
		return o.left
	}
	if o.tip == nil {
		return problem.New(problem.Invalid, "volume %s is not claimed by this process", o.opts.Volume)
	}
	return nil
}

func (o *Owner) sendSeal(ctx context.Context, cause Cause, released bool) error {
	state := o.tip.Carry()
	state.Cause, state.SealedBy = cause, o.opts.Host.ID
	return o.send(ctx, &Object{Kind: Seal, Released: released, State: state})
}

// send makes obj the next object of our epoch.
func (o *Owner) send(ctx context.Context, obj *Object) error {
	if err := o.prepare(obj, o.next); err != nil {
		return err
	}
	return o.settle(ctx)
}

// prepare makes obj what settle will send.
func (o *Owner) prepare(obj *Object, at Generation) (err error) {
	o.pending, err = o.encode(obj, at)
	return err
}

// encode stamps, marks and encodes obj, once.
func (o *Owner) encode(obj *Object, at Generation) (*sent, error) {
	obj.Generation = at
	s := obj.State.Clone()
	s.Tenant, s.Name, s.Time = o.opts.Volume.Tenant, o.opts.Volume.Name, o.opts.Now().UTC()
	if !obj.Closes() {
		s.Owner, s.SealedBy = o.opts.Host, ""
	}
	obj.State = s
	if _, err := io.ReadFull(o.opts.Rand, obj.Mark[:]); err != nil {
		return nil, fmt.Errorf("commit of %s: no random bytes for its mark: %w", o.opts.Volume, err)
	}
	raw, err := obj.Encode()
	if err != nil {
		return nil, err
	}
	obj.Hash = blake3.Sum256(raw)
	return &sent{object: obj, raw: raw}, nil
}

// settle sends what is pending, again if need be, until its fate is known.
func (o *Owner) settle(ctx context.Context) error {
	found, err := o.resolve(ctx)
	if err != nil || found == nil {
		return err
	}
	if o.tip == nil {
		return busy(o.opts.Volume, found)
	}
	o.left = fenced(o.opts.Volume, found)
	return o.left
}

// resolve learns the fate of what is pending. found is the other object that
// stands in its place; nil when ours does, which then is the tip. On an error the
// fate stays unknown.
func (o *Owner) resolve(ctx context.Context) (found *Object, err error) {
	if len(o.flights) > 0 {
		return o.drain(ctx)
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
		o.took(p.object)
	}
	return found, nil
}

// create makes raw the object of its place, or finds the other one that is
// there. Every error but problem.Exists leaves open whether the object was
// created, and Exists may be the echo of our own earlier request: what counts is
// the mark of what is found there (rule 5).
func create(ctx context.Context, store objstore.Store, vol Volume, obj *Object, raw []byte) (found *Object, err error) {
	err = store.PutIfAbsent(ctx, vol.Key(obj.Generation), raw)
	if err == nil {
		return nil, nil
	}
	if ctx.Err() != nil { // if it exists, nobody has looked whose it is
		return nil, problem.New(problem.Unavailable, "commit %s of %s: %s (%w)", obj.Generation, vol, err, ctx.Err())
	}
	found, readErr := get(ctx, store, vol, obj.Generation)
	switch {
	case readErr == nil && (found.Mark == obj.Mark || fault.Is("collision-believed-ours")):
		return nil, nil
	case readErr == nil:
		return found, nil
	case errors.Is(readErr, problem.Unsupported): // ours is not of a newer version: it is another's
		return &Object{Generation: obj.Generation}, nil
	case errors.Is(readErr, problem.NotFound) && !errors.Is(err, problem.Exists),
		problem.KindOf(readErr) == problem.Unavailable && problem.KindOf(err) == problem.Unavailable:
		return nil, fmt.Errorf("commit %s of %s: %w", obj.Generation, vol, err)
	case errors.Is(readErr, problem.NotFound):
		return nil, problem.New(problem.Unavailable, "commit %s of %s: the store says that it exists and that it does not", obj.Generation, vol)
	}
	return nil, readErr
}

// took makes an object that took effect the tip.
func (o *Owner) took(obj *Object) {
	if obj.Kind == First {
		o.inherit(&obj.State)
	}
	o.tip, o.left = obj, nil
	o.next = obj.Generation.Next()
	switch {
	case obj.Kind == Seal && obj.Released:
		o.left = problem.New(problem.Invalid, "volume %s was released at %s; claim it first", o.opts.Volume, obj.Generation)
	case obj.Kind == Seal:
		o.next = obj.Generation.NextEpoch()
	case obj.Tombstone:
		o.left = problem.New(problem.Invalid, "volume %s was removed at %s", o.opts.Volume, obj.Generation)
	}
}

// fenced is the error of an owner that found another's object in its way.
func fenced(vol Volume, found *Object) error {
	by := found.State.Owner
	if found.Closes() {
		by = Host{ID: found.State.SealedBy}
	}
	return problem.New(problem.Fenced, "volume %s was taken over by host %s at %s; what it did not publish is kept as a rescue volume",
		vol, hostName(by), found.Generation)
}

// busy is the error of a claimer that another was quicker than.
func busy(vol Volume, found *Object) error {
	return problem.New(problem.Busy, "volume %s was just claimed by host %s at %s; ask there", vol, hostName(found.State.Owner), found.Generation)
}

func hostName(h Host) string {
	switch {
	case h.ID == "":
		return "of unknown name"
	case len(h.Addresses) == 0:
		return h.ID
	}
	return h.ID + " (" + strings.Join(h.Addresses, ", ") + ")"
}
