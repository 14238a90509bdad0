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

// ErrYielding is in the errors of an Owner whose epoch another host sealed, as
// long as that host may still begin the next one (rule 13). Nothing that waits
// is lost: once the time is over the Owner opens the next epoch itself, with
// the next operation, and sends it there.
var ErrYielding = errors.New("it has half a minute to take the volume over")

// errSealed is an object that is no part of the log, since a seal is in its place.
var errSealed = errs.New(errs.Unavailable, "the epoch was sealed")

// yield is an owner's wait for the host that sealed its epoch.
type yield struct {
	seal  Generation
	by    string
	since time.Duration // Uptime
}

// yieldTo is the wait for the host that made the seal, which may have begun.
func (o *Owner) yieldTo(seal *Object) {
	if o.yield == nil || o.yield.seal != seal.Generation {
		o.yield = &yield{seal: seal.Generation, by: seal.State.SealedBy, since: o.opts.Uptime()}
	}
}

// waited is ErrYielding until the sealer has had its time.
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

// closedBy takes note that another's seal ends our epoch. What was sent behind it
// is no part of the log and never will be (rule 6): it is sent again in the next
// epoch, if that is ours.
//
// A seal ahead that an earlier claim of this host left waits for nobody.
func (o *Owner) closedBy(seal *Object) {
	o.pending = nil
	o.flights, o.again = nil, append(o.flights, o.again...)
	o.restParcels()
	o.closed, o.next = seal.Generation, seal.Generation.NextEpoch()
	if o.yield = nil; !seal.SealAhead() || seal.State.SealedBy != o.opts.Host.ID {
		o.yieldTo(seal)
	}
}

// yielded looks, with one GET, whether the next epoch was begun; it is nil once
// this host may begin it.
func (o *Owner) yielded(ctx context.Context) error {
	found, err := get(ctx, o.opts.Store, o.opts.Volume, o.next)
	switch {
	case errors.Is(err, errs.NotFound):
		return o.waited()
	case errors.Is(err, errs.Unsupported):
		found = &Object{Generation: o.next}
	case err != nil:
		return err
	}
	o.fencedBy(found)
	return o.left
}

// fencedBy ends the claim: another host has an object where ours was to be.
func (o *Owner) fencedBy(found *Object) {
	o.left = fenced(o.opts.Volume, found, o.opts.Host.ID)
	o.pending, o.flights, o.again, o.yield = nil, nil, nil, nil
}

// ErrTwin marks what another daemon did that has this host's identity: it runs on a
// copy of its data directory.
var ErrTwin = errors.New("another daemon with this host's identity (a copy of its data directory)")

// fenced is the error of an owner, on host self, that found another's object in
// its way.
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

// busy is the error of a claimer that another was quicker than.
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
