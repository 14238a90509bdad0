package commitlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

// ErrYielding is in the errors of an Owner whose epoch another host sealed, while
// that host may still begin the next one (rule 13). Waiting commits are not lost: when
// the time is over, the Owner's next operation opens the next epoch itself, and sends
// them there.
var ErrYielding = errors.New("it has half a minute to take the volume over")

// errSealed means that an object is not part of the log, because a seal is at its
// number.
var errSealed = errs.New(errs.Unavailable, "the epoch was sealed")

// yield is an owner's wait for the host that sealed its epoch.
type yield struct {
	seal  Generation
	by    string
	since time.Duration // Uptime
}

// yieldTo starts the wait for the host that made the seal, or continues it.
func (o *Owner) yieldTo(seal *Object) {
	if o.yield == nil || o.yield.seal != seal.Generation {
		o.yield = &yield{seal: seal.Generation, by: seal.State.SealedBy, since: o.opts.Uptime()}
	}
}

// waited returns ErrYielding until the sealer's time is over.
func (o *Owner) waited() error {
	over := o.opts.Uptime()-o.yield.since >= o.opts.YieldFor
	if over && !fault.Is("yields-forever") || fault.Is("owner-does-not-yield") {
		return nil
	}
	return o.yielding()
}

func (o *Owner) yielding() error {
	return errs.New(errs.Unavailable, "volume %s was sealed by host %s at %s: %w", o.opts.Volume, o.yield.by, o.yield.seal, ErrYielding)
}

// closedBy records that another host's seal ends our epoch. Commits sent after it
// will never be part of the log (rule 6): they are sent again in the next epoch, if
// that is ours.
//
// After a seal ahead that this host's own earlier claim left, there is nobody to wait
// for.
func (o *Owner) closedBy(seal *Object) {
	o.pending = nil
	o.flights, o.again = nil, append(o.flights, o.again...)
	o.restUnfolded()
	o.closed, o.next = closedWith(seal), seal.Generation.NextEpoch()
	if o.yield = nil; !seal.SealAhead() || seal.State.SealedBy != o.opts.Host.ID {
		o.yieldTo(seal)
	}
}

// yielded checks, with one GET, whether the next epoch has begun. It returns nil when
// this host may begin it.
func (o *Owner) yielded(ctx context.Context) error {
	found, err := get(ctx, o.opts.Store, o.opts.Volume, o.next)
	switch {
	case errors.Is(err, errs.NotFound):
		return o.waited()
	case isNewer(err):
		found = &Object{Generation: o.next}
	case err != nil:
		return err
	}
	o.fencedBy(found)
	return o.left
}

// fencedBy ends the claim: another host's object is where ours should be.
func (o *Owner) fencedBy(found *Object) {
	o.left = fenced(o.opts.Volume, found, o.opts.Host.ID)
	o.pending, o.flights, o.again, o.yield = nil, nil, nil, nil
}

// ErrTwin marks errors caused by another daemon with this host's identity, which runs
// on a copy of its data directory.
var ErrTwin = errors.New("another daemon with this host's identity (a copy of its data directory)")

// fenced is the error of an owner, on host self, that found another host's object at
// its next number.
func fenced(vol Volume, found *Object, self string) error {
	by := found.State.Owner
	if found.Closes() {
		by = Host{ID: found.State.SealedBy}
	}
	who := fmt.Errorf("host %s", hostName(by))
	if by.ID == self {
		who = ErrTwin
	}
	return errs.New(errs.Fenced, "volume %s was taken over by %w at %s; what it did not publish is kept as a rescue volume",
		vol, who, found.Generation)
}

// busy is the error of a claimer that lost to another.
func busy(vol Volume, found *Object) error {
	return errs.New(errs.Busy, "volume %s was just claimed by host %s at %s; ask there", vol, hostName(found.State.Owner), found.Generation)
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
