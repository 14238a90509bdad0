package commitlog

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/fault"
)

// A claim by force has to win against an owner that commits faster than the
// claimer's requests travel (rule 13): whatever tip the claimer finds, its seal
// comes too late. So it puts seals where the owner is going to be: some numbers
// ahead, and at the beginning of epochs that are to come. The owner fills the
// gap, collides with one of them, and yields.
//
// Between the LIST that says where the owner is and the seals ahead it commits at
// most 256 objects, or else begins another epoch, and is caught at number 2 of
// one of the next ones: that is good for as long as a request of the claimer takes
// less time than maxEpochsAhead epochs of the owner.
var leads = [...]uint64{16, 64, 256} // numbers ahead of the tip

const (
	maxEpochsAhead = 4
	maxSealsAhead  = 32 // that one claim sends
	firstPause     = 20 * time.Millisecond
	longestPause   = 500 * time.Millisecond
)

// claim is what was sent to close another's epoch, and may take effect later.
type claim struct {
	seal  *sent // any other in its place does as well
	ahead map[Generation]*sent
	round int
}

// overtake puts seals ahead of the tip, side by side, unless one lies there
// already, and gives the owner time to run into it. tip is an object that was the
// tip. Whether they took effect the
// next look at the log tells.
func (o *Owner) overtake(ctx context.Context, cause Cause, tip *Object) error {
	if cause != CauseTakeover {
		return nil
	}
	c := &o.claim
	c.round++
	now, err := find(ctx, o.opts.Store, o.opts.Volume) // the tip has moved far since
	if err != nil {
		return err
	}
	if c.awaits(now) {
		return o.opts.Pause(ctx, c.pause())
	}
	var g errgroup.Group
	for _, at := range c.places(now) {
		if c.ahead[at] != nil || len(c.ahead) >= maxSealsAhead {
			continue
		}
		s, err := o.sealAhead(tip, now, at)
		if err != nil {
			return err
		}
		if c.ahead == nil {
			c.ahead = map[Generation]*sent{}
		}
		c.ahead[at] = s
		g.Go(func() error { // an error is a fate that is not known
			found, err := create(ctx, o.opts.Store, o.opts.Volume, s.object, s.raw)
			s.landed = err == nil && found == nil
			return nil
		})
	}
	_ = g.Wait()
	return o.opts.Pause(ctx, c.pause())
}

// awaits tells whether a seal that was put ahead lies before the owner.
func (c *claim) awaits(now Generation) bool {
	for at, s := range c.ahead {
		if s.landed && at.Epoch == now.Epoch && at.Number > now.Number {
			return true
		}
	}
	return false
}

func (c *claim) pause() time.Duration { return min(firstPause<<min(c.round-1, 8), longestPause) }

// places are where the seals of a round go. Those of later epochs wait until the
// owner has outrun the others: the claimer, too, will run into them.
func (c *claim) places(tip Generation) (list []Generation) {
	for _, lead := range leads {
		list = append(list, Generation{tip.Epoch, tip.Number + lead})
	}
	for k := 1; k < c.round && k <= maxEpochsAhead; k++ {
		list = append(list, Generation{tip.Epoch + uint64(k), 2})
	}
	return list
}

// sealAhead makes a seal beyond now, which is at or after an object of the volume.
func (o *Owner) sealAhead(tip *Object, now, at Generation) (*sent, error) {
	ahead := at.Number - 1
	if at.Epoch == now.Epoch {
		ahead = at.Number - now.Number - 1
	}
	if fault.Is("seal-ahead-with-old-state") {
		state := tip.Carry()
		state.Cause, state.SealedBy = CauseSeal, o.opts.Host.ID
		return o.encode(&Object{Kind: Seal, State: state}, at)
	}
	id := tip.State.Identity
	id.Cause, id.SealedBy = CauseSeal, o.opts.Host.ID
	return o.encode(&Object{Kind: Seal, Ahead: uint32(ahead), State: State{Identity: id}}, at)
}

// meetAhead ends an epoch of ours at whose next number we put a seal, when
// it was another's to come: the number was sent, and keeps its content (rule 5).
func (o *Owner) meetAhead(ctx context.Context) error {
	s := o.claim.ahead[o.next]
	if s == nil {
		return nil
	}
	found, err := create(ctx, o.opts.Store, o.opts.Volume, s.object, s.raw)
	if err != nil {
		return err
	}
	if found == nil {
		found = s.object
	}
	if err := o.lost(found); err != errSealed {
		return err
	}
	return nil
}

// early is nil: a seal ahead closes nothing before the owner has reached it.
func (c *claim) early(tip *Object) *Object {
	if s := c.ahead[Generation{tip.Generation.Epoch, tip.Generation.Number + leads[0]}]; s != nil && fault.Is("seal-ahead-counts-at-once") {
		return s.object.closing(tip)
	}
	return nil
}
