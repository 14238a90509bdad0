package commitlog

import (
	"context"

	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
)

// flight is an object that was sent without waiting for it (rule 6): it may be
// created before, or after, others that were sent before it, but takes effect
// and is acknowledged in the order of their numbers only.
type flight struct {
	*sent
	done  chan struct{} // closed once found and err are set
	found *Object       // another's object that stands in its place
	err   error         // its fate is not known
	took  bool          // it and all before it are part of the log; under Owner.mu
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

// Generation is where the commit will be, if it takes effect.
func (s *Shipment) Generation() Generation { return s.f.object.Generation }

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
	before := o.parcels
	o.carry(&state)
	if len(data) > 0 {
		state.DataSeq = through
	}
	s, err := o.launch(ctx, at, &Object{State: state, Data: data})
	if err != nil {
		o.parcels = before
		return nil, err
	}
	if len(data) > 0 {
		run := DataRun{Name: o.opts.Volume.Name, Epoch: at.Epoch, First: at.Number, Last: at.Number, Hash: s.f.object.Hash, Count: 1, Bytes: decodedSize(data)}
		o.parcels = append(o.parcels[:len(o.parcels):len(o.parcels)], parcel{run, through})
	}
	return s, nil
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
		return nil, problem.New(problem.Invalid, "commit of volume ID %s to the log of %s, which is of %s", state.ID, o.opts.Volume, o.tip.State.ID)
	}
	before := o.parcels
	o.carry(&state)
	s, err := o.launch(ctx, at, &Object{State: state})
	if err != nil {
		o.parcels = before
	}
	return s, err
}

// place is where the next commit goes, behind what was sent.
func (o *Owner) place(ctx context.Context) (Generation, error) {
	o.reap()
	if n := len(o.flights); n > 0 && !o.stuck() && n < MaxAhead {
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
func (o *Owner) launch(ctx context.Context, at Generation, obj *Object) (*Shipment, error) {
	obj.Kind, obj.Ahead = Commit, uint32(len(o.flights))
	s, err := o.encode(obj, at)
	if err != nil {
		return nil, err
	}
	f := &flight{sent: s, done: make(chan struct{})}
	o.flights = append(o.flights, f)
	ctx = objstore.WithPatience(ctx) // it is nobody's in particular
	go func() {
		f.found, f.err = create(ctx, o.opts.Store, o.opts.Volume, f.object, f.raw)
		close(f.done)
	}()
	return &Shipment{o, f}, nil
}

// Wait returns the commit's generation once it and all before it took effect.
// After an error of any kind but problem.Fenced the commit is unsettled:
// Resolve, or the next commit, sends it again.
func (s *Shipment) Wait(ctx context.Context) (Generation, error) {
	for {
		unlock := s.o.lock()
		s.o.reap()
		took, left, stuck := s.f.took, s.o.left, s.o.stuck()
		var first *flight
		if len(s.o.flights) > 0 {
			first = s.o.flights[0]
		}
		unlock()
		switch {
		case took:
			return s.Generation(), nil
		case left != nil:
			return Generation{}, left
		case stuck || first == nil:
			return Generation{}, s.failure(first)
		}
		select {
		case <-first.done:
		case <-ctx.Done():
			return Generation{}, ctx.Err()
		}
	}
}

func (s *Shipment) failure(first *flight) error {
	if first != nil && first.err != nil {
		return first.err
	}
	return problem.New(problem.Unavailable, "commit %s of %s was not sent", s.Generation(), s.o.opts.Volume)
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
			o.left, o.flights = fenced(o.opts.Volume, f.found), nil
			return
		}
		o.flights = o.flights[1:]
		f.took = true
		o.took(f.object)
	}
}

// drain waits for all flights, and sends those that failed again.
func (o *Owner) drain(ctx context.Context) (found *Object, err error) {
	for len(o.flights) > 0 {
		f := o.flights[0]
		stuck := o.stuck()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.err != nil {
			if !stuck { // it was waited for while it gave up
				objstore.LosePatience(ctx)
			}
			found, err := create(ctx, o.opts.Store, o.opts.Volume, f.object, f.raw)
			if err != nil {
				return nil, err
			}
			f.found, f.err = found, nil
		}
		found := f.found
		o.reap()
		if found != nil {
			return found, nil
		}
	}
	return nil, nil
}

// inherit takes over the data commits that the first object of an epoch names.
func (o *Owner) inherit(s *State) {
	if o.tip != nil && s.Cause == CauseRoll {
		return // the parcels of this process's epoch before
	}
	o.parcels = nil
	for _, run := range s.DataCommits {
		o.parcels = append(o.parcels, parcel{run, s.DataSeq})
	}
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
