package commitlog

import (
	"context"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/objstore"
)

// flight is a commit in flight: it was sent without waiting for the answer (rule 6).
// It may be created before or after commits that were sent earlier, but takes effect
// and is acknowledged only in the order of numbers.
type flight struct {
	*sent
	*attempt
	ctx  context.Context
	took bool // it and all commits before it are part of the log; under Owner.mu
}

// attempt is one try to send a flight. A flight that a seal cut off is sent again.
type attempt struct {
	done  chan struct{} // closed once found and err are set
	found *Object       // another host's object at its number
	err   error         // why its result is unknown
}

// unfoldedRun is a data commit, or a run of them, that is not folded yet.
type unfoldedRun struct {
	run DataRun // one of ours, or a whole run of earlier epochs and owners
	seq uint64  // the last write in it
}

// Shipment is a commit in flight, from Ship.
type Shipment struct {
	o *Owner
	f *flight
}

// Ship publishes the state of the previous commit, changed by edit. It does not wait
// for the answer, or for those of earlier commits. With data, the section of a data
// commit (EncodeData), it holds every write through the given one. If the last Commit
// holds those writes already, the data is left out. edit may change everything but the
// block map: Root, Seq and Size always follow the last Commit.
//
// It blocks in two cases: a failed earlier commit is settled first, and at the end of
// an epoch the pipeline is drained and the next epoch begun. ctx must outlive the
// request.
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

// Unfolded is the number and decoded size in bytes of the unfolded data commits below
// the newest commit, which may still be in flight.
func (o *Owner) Unfolded() (count, bytes uint64) {
	defer o.lock()()
	for _, p := range o.unfolded {
		count += p.run.Count
		bytes += p.run.Bytes
	}
	return count, bytes
}

// follow is Commit while commits are in flight.
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

// place is where the next commit goes, after those in flight.
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
	f := &flight{ctx: objstore.WithRetryBudget(ctx)} // a budget of its own
	if err := o.fly(ctx, f, at, state, through, data); err != nil {
		return nil, err
	}
	return &Shipment{o, f}, nil
}

// relaunch sends flights that a seal cut off again, while the epoch has room.
func (o *Owner) relaunch() error {
	for at := o.next; len(o.again) > 0 && at.Number < o.opts.RollAt; at = at.Next() {
		f := o.again[0]
		if err := o.fly(f.ctx, f, at, f.object.State, f.object.State.DataSeq, f.object.Data); err != nil {
			return err
		}
		o.again = o.again[1:]
	}
	return nil
}

// fly sends a commit after those in flight. It names the data commits that come before
// it in that order.
func (o *Owner) fly(ctx context.Context, f *flight, at Generation, state State, through uint64, data []byte) error {
	before := o.unfolded
	o.carry(&state)
	if through <= state.Seq && !fault.Is("older-data-over-newer-fold") {
		data = nil // the root holds it, and may hold newer bytes of these ranges
	}
	if len(data) > 0 {
		state.DataSeq = through
	}
	s, err := o.encode(ctx, &Object{Kind: Commit, Ahead: uint32(len(o.flights)), State: state, Data: data}, at, o.before(at))
	if err != nil {
		o.unfolded = before
		return err
	}
	if len(data) > 0 {
		run := DataRun{Name: s.object.Log().Name, Epoch: at.Epoch, First: at.Number, Last: at.Number, Hash: s.object.Hash, Count: 1, Bytes: s.object.decodedSize()}
		o.unfolded = append(o.unfolded[:len(o.unfolded):len(o.unfolded)], unfoldedRun{run, through})
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

// Wait returns the commit's generation when it and all commits before it have taken
// effect. After any error but errs.Fenced the commit is unsettled: Resolve, or the
// next commit, sends it again.
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

// delayed returns why commits in flight do not take effect yet, or else a channel
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

// stuck tells whether the first flight ended with an unknown result.
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

// reap removes ended flights from the front, up to one that is in flight or whose
// result is unknown.
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
			// A commit sent after another host's object is not part of the log (rule 6).
			f.took = fault.Is("acknowledges-while-yielding")
			_ = o.lost(f.found)
			return
		}
		o.flights = o.flights[1:]
		f.took = true
		o.took(f.sent)
	}
}

// drain waits for all flights, and sends failed ones again.
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
			if !stuck { // it failed while drain waited for it
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

// inherit takes over the data commits named by the first object of an epoch.
func (o *Owner) inherit(s *State) {
	if o.tip != nil && s.Cause == CauseRoll {
		return // they are those of this process's previous epoch
	}
	o.unfolded = unfoldedRunsOf(s)
}

// restUnfolded reduces the data commits to those below the tip.
func (o *Owner) restUnfolded() {
	s := o.tip.Carry()
	o.unfolded = unfoldedRunsOf(&s)
}

func unfoldedRunsOf(s *State) (list []unfoldedRun) {
	for _, run := range s.DataCommits {
		list = append(list, unfoldedRun{run, s.DataSeq})
	}
	return list
}

// carry fills in what every commit takes over from the previous one: the data commits
// that hold writes after the state's Seq, and the pins of former owners.
func (o *Owner) carry(s *State) {
	var kept []unfoldedRun
	for _, p := range o.unfolded {
		if p.seq > s.Seq && !fault.Is("data-commits-forgotten") {
			kept = append(kept, p)
		}
	}
	o.unfolded = kept
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
