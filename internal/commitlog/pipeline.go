package commitlog

import (
	"context"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/objstore"
)

// flight is an object that was sent without waiting for it (rule 6): it may be
// created before, or after, others that were sent before it, but takes effect
// and is acknowledged in the order of their numbers only.
type flight struct {
	*sent
	*attempt
	ctx  context.Context
	took bool // it and all before it are part of the log; under Owner.mu
}

// attempt is one sending of a flight: one that a seal cut off is sent again.
type attempt struct {
	done  chan struct{} // closed once found and err are set
	found *Object       // another's object that stands in its place
	err   error         // its fate is not known
}

// parcel is a data commit that is not folded.
type parcel struct {
	run DataRun // one of ours, or a whole run of earlier epochs and owners
	seq uint64  // the last write in it
}

// Shipment is a commit on its way.
type Shipment struct {
	o *Owner
	f *flight
}

// Ship publishes the state of the commit before it, as edit changes it, and does
// not wait for the answer, nor for those of commits sent before. With data, the
// section of a data commit (EncodeData), it holds every write through the given
// one. edit may change anything but the block map: Root, Seq and Size stay in
// step with the last Commit, whatever its caller has learned of it.
//
// It waits where it has to: when what was sent before has failed, that is settled
// first; and when the epoch is long, the pipeline is drained and the next one
// begun. ctx has to outlive the request.
func (o *Owner) Ship(ctx context.Context, through uint64, data []byte, edit func(*State)) (*Shipment, error) {
	defer o.lock()()
	at, err := o.place(ctx)
	if err != nil {
		return nil, err
	}
	last := o.tip
	if n := len(o.flights); n > 0 {
		last = o.flights[n-1].object
	}
	state := last.State.Clone()
	edit(&state)
	return o.launch(ctx, at, state, through, data)
}

// Unfolded is the number and decoded size in bytes of the data commits that the newest
// commit, sent or known to have taken effect, rests on.
func (o *Owner) Unfolded() (count, bytes uint64) {
	defer o.lock()()
	for _, p := range o.parcels {
		count += p.run.Count
		bytes += p.run.Bytes
	}
	return count, bytes
}

// follow is Commit behind flights.
func (o *Owner) follow(ctx context.Context, state State) (*Shipment, error) {
	at, err := o.place(ctx)
	if err != nil {
		return nil, err
	}
	if state.ID != o.tip.State.ID {
		return nil, errs.New(errs.Invalid, "commit of volume ID %s to the log of %s, which is of %s", state.ID, o.opts.Volume, o.tip.State.ID)
	}
	return o.launch(ctx, at, state, 0, nil)
}

// place is where the next commit goes, behind what was sent.
func (o *Owner) place(ctx context.Context) (Generation, error) {
	o.reap()
	if n := len(o.flights); n > 0 && len(o.again) == 0 && !o.stuck() && n < maxAhead {
		if at := o.flights[n-1].object.Generation.Next(); at.Number < o.opts.RollAt {
			return at, nil
		}
	}
	if err := o.ready(ctx); err != nil {
		return Generation{}, err
	}
	return o.next, nil
}

// launch sends a commit.
func (o *Owner) launch(ctx context.Context, at Generation, state State, through uint64, data []byte) (*Shipment, error) {
	f := &flight{ctx: objstore.WithRetryBudget(ctx)} // it is nobody's in particular
	if err := o.fly(f, at, state, through, data); err != nil {
		return nil, err
	}
	return &Shipment{o, f}, nil
}

// relaunch sends what a seal cut off again, as long as the epoch has room.
func (o *Owner) relaunch() error {
	for at := o.next; len(o.again) > 0 && at.Number < o.opts.RollAt; at = at.Next() {
		f := o.again[0]
		if err := o.fly(f, at, f.object.State, f.object.State.DataSeq, f.object.Data); err != nil {
			return err
		}
		o.again = o.again[1:]
	}
	return nil
}

// fly sends a commit behind those that are under way. The data commits that it
// names are those that come before it there.
func (o *Owner) fly(f *flight, at Generation, state State, through uint64, data []byte) error {
	before := o.parcels
	o.carry(&state)
	if len(data) > 0 {
		state.DataSeq = through
	}
	s, err := o.encode(&Object{Kind: Commit, Ahead: uint32(len(o.flights)), State: state, Data: data}, at)
	if err != nil {
		o.parcels = before
		return err
	}
	if len(data) > 0 {
		run := DataRun{Name: o.opts.Volume.Name, Epoch: at.Epoch, First: at.Number, Last: at.Number, Hash: s.object.Hash, Count: 1, Bytes: decodedSize(data)}
		o.parcels = append(o.parcels[:len(o.parcels):len(o.parcels)], parcel{run, through})
	}
	a := &attempt{done: make(chan struct{})}
	f.sent, f.attempt = s, a
	o.flights = append(o.flights, f)
	go func() {
		a.found, a.err = create(f.ctx, o.opts.Store, o.opts.Volume, s.object, s.raw)
		close(a.done)
	}()
	return nil
}

// Wait returns the commit's generation once it and all before it took effect.
// After an error of any kind but errs.Fenced the commit is unsettled:
// Resolve, or the next commit, sends it again.
func (s *Shipment) Wait(ctx context.Context) (Generation, error) {
	for {
		unlock := s.o.lock()
		s.o.reap()
		if s.o.yield != nil && !s.f.took {
			if err := s.o.yielded(ctx); err != nil {
				unlock()
				return Generation{}, err
			}
		}
		g, took, left := s.f.object.Generation, s.f.took, s.o.left
		done, failed := s.o.delayed(g)
		unlock()
		switch {
		case took:
			return g, nil
		case left != nil:
			return Generation{}, left
		case failed != nil:
			return Generation{}, failed
		}
		select {
		case <-done:
		case <-ctx.Done():
			return Generation{}, ctx.Err()
		}
	}
}

// delayed is why what was sent does not take effect for now, or else a channel
// that is closed when the first flight ends.
func (o *Owner) delayed(g Generation) (done chan struct{}, failed error) {
	switch {
	case o.stuck():
		return nil, o.flights[0].err
	case len(o.flights) > 0:
		return o.flights[0].done, nil
	}
	return nil, errs.New(errs.Unavailable, "commit %s of %s is to be sent again", g, o.opts.Volume)
}

// stuck tells whether the first flight ended and its fate is not known.
func (o *Owner) stuck() bool {
	if len(o.flights) == 0 {
		return false
	}
	select {
	case <-o.flights[0].done:
		return o.flights[0].err != nil
	default:
		return false
	}
}

// reap takes the flights that ended from the front, up to one that is under way
// or whose fate is not known.
func (o *Owner) reap() {
	for len(o.flights) > 0 {
		f := o.flights[0]
		select {
		case <-f.done:
		default:
			return
		}
		if f.err != nil {
			return
		}
		if f.found != nil {
			// What was sent behind another's object is no part of the log (rule 6).
			f.took = fault.Is("acknowledges-while-yielding")
			_ = o.lost(f.found)
			return
		}
		o.flights = o.flights[1:]
		f.took = true
		o.took(f.object)
	}
}

// drain waits for all flights, and sends those that failed again.
func (o *Owner) drain(ctx context.Context) error {
	for len(o.flights) > 0 {
		f := o.flights[0]
		stuck := o.stuck()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.err != nil {
			if !stuck { // it was waited for while it gave up
				objstore.SpendRetryBudget(ctx)
			}
			found, err := create(ctx, o.opts.Store, o.opts.Volume, f.object, f.raw)
			if err != nil {
				return err
			}
			f.found, f.err = found, nil
		}
		o.reap()
	}
	return nil
}

// inherit takes over the data commits that the first object of an epoch names.
func (o *Owner) inherit(s *State) {
	if o.tip != nil && s.Cause == CauseRoll {
		return // the parcels of this process's epoch before
	}
	o.parcels = parcelsOf(s)
}

// restParcels makes the data commits those that the tip rests on.
func (o *Owner) restParcels() {
	s := o.tip.Carry()
	o.parcels = parcelsOf(&s)
}

func parcelsOf(s *State) (list []parcel) {
	for _, run := range s.DataCommits {
		list = append(list, parcel{run, s.DataSeq})
	}
	return list
}

// carry fills in what every commit carries on from the one before it: the data
// commits that hold writes after the state's Seq, and the pins of former owners.
func (o *Owner) carry(s *State) {
	var kept []parcel
	for _, p := range o.parcels {
		if p.seq > s.Seq && !fault.Is("data-commits-forgotten") {
			kept = append(kept, p)
		}
	}
	o.parcels = kept
	s.DataCommits, s.DataSeq = nil, 0
	for _, p := range kept {
		n := len(s.DataCommits)
		if n > 0 && s.DataCommits[n-1].Name == p.run.Name && s.DataCommits[n-1].Epoch == p.run.Epoch {
			last := &s.DataCommits[n-1]
			last.Last, last.Hash, last.Count, last.Bytes = p.run.Last, p.run.Hash, last.Count+p.run.Count, last.Bytes+p.run.Bytes
		} else {
			s.DataCommits = append(s.DataCommits, p.run)
		}
		s.DataSeq = p.seq
	}
	s.SealedFrom = o.tip.State.SealedFrom
}
