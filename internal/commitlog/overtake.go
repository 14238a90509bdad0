package commitlog

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/fault"
)

// A forced claim places seals where the owner will be: the package comment says why. Between the claimer's LIST and its seals ahead, the owner commits at most 256
// objects, or else begins another epoch and is caught at number 2 of one of the next
// epochs. That works as long as a request of the claimer takes less time than
// maxEpochsAhead epochs of the owner.
var leads = [...]uint64{16, 64, 256} // numbers ahead of the tip

const (
	maxEpochsAhead = 4
	maxSealsAhead  = 32 // of one claim
	firstPause     = 20 * time.Millisecond
	longestPause   = 500 * time.Millisecond
)

// claim holds what was sent to close another host's epoch, and may take effect later.
type claim struct {
	seal  *sent // a seal of another host at its number serves as well
	ahead map[Generation]*sent
	round int
}

// overtake puts seals ahead of the tip, in parallel, unless one is there already, and
// gives the owner time to run into it. tip is an object that was the tip. The next
// read of the log shows whether the seals took effect.
func (o *Owner) overtake(ctx context.Context, cause Cause, tip *Object) error {
	if cause != CauseTakeover {
		return nil
	}
	c := &o.claim
	c.round++
	now, err := find(ctx, o.opts.Store, o.opts.Volume) // the tip has moved far meanwhile
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
		s, err := o.sealAhead(ctx, tip, now, at)
		if err != nil {
			return err
		}
		if c.ahead == nil {
			c.ahead = map[Generation]*sent{}
		}
		c.ahead[at] = s
		g.Go(func() error { // after an error, the result is unknown
			found, err := create(ctx, o.opts.Store, o.opts.Volume, s.object, s.raw)
			s.landed = err == nil && found == nil
			return nil
		})
	}
	_ = g.Wait()
	return o.opts.Pause(ctx, c.pause())
}

// awaits tells whether a seal ahead is still before the owner.
func (c *claim) awaits(now Generation) bool {
	for at, s := range c.ahead {
		if s.landed && at.Epoch == now.Epoch && at.Number > now.Number {
			return true
		}
	}
	return false
}

func (c *claim) pause() time.Duration { return min(firstPause<<min(c.round-1, 8), longestPause) }

// places returns where the seals of a round go. Seals in later epochs are used only
// after the owner has outrun the others: the claimer will run into them, too.
func (c *claim) places(tip Generation) (list []Generation) {
	for _, lead := range leads {
		list = append(list, Generation{Epoch: tip.Epoch, Number: tip.Number + lead})
	}
	for k := 1; k < c.round && k <= maxEpochsAhead; k++ {
		list = append(list, Generation{Epoch: tip.Epoch + uint64(k), Number: 2})
	}
	return list
}

// sealAhead makes a seal beyond now. tip is an object of the volume at or before now.
func (o *Owner) sealAhead(ctx context.Context, tip *Object, now, at Generation) (*sent, error) {
	ahead := at.Number - 1
	if at.Epoch == now.Epoch {
		ahead = at.Number - now.Number - 1
	}
	if fault.Is("seal-ahead-with-old-state") {
		state := tip.Carry()
		state.Cause, state.SealedBy = CauseSeal, o.opts.Host.ID
		return o.encode(ctx, &Object{Kind: Seal, State: state}, at, ObjectHash{})
	}
	id := tip.State.Identity
	id.Cause, id.SealedBy = CauseSeal, o.opts.Host.ID
	return o.encode(ctx, &Object{Kind: Seal, Ahead: uint32(ahead), State: State{Identity: id}}, at, ObjectHash{})
}

// meetAhead ends our own epoch at a number where we placed a seal while we expected
// the epoch to be another host's. The number was sent, and keeps its content (rule 5).
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

// early is nil: a seal ahead closes nothing until the owner has reached it.
func (c *claim) early(tip *Object) *Object {
	if s := c.ahead[Generation{Epoch: tip.Generation.Epoch, Number: tip.Generation.Number + leads[0]}]; s != nil && fault.Is("seal-ahead-counts-at-once") {
		return s.object.closing(tip)
	}
	return nil
}
