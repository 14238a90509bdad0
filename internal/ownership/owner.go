package ownership

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/retention"
	"github.com/paraglide/glide/internal/volume"
)

// Peer is another host, seen through its API.
type Peer interface {
	// Release asks for a flush, and unless r.FlushOnly is set, for the release of the
	// volume.
	Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error)
	// Host returns the identity of the host.
	Host(ctx context.Context) (api.Host, error)
	// Close closes the connections to it.
	Close()
}

// Options say how a host presents itself to others.
type Options struct {
	Advertise string                              // the address at which other hosts reach this one's API, "" if none
	Dial      func(addr, id string) (Peer, error) // returns a host at the address that it advertises; nil: no peer can be asked
	RollAt    uint64                              // objects per epoch before a new epoch begins; 0: commitlog's default
	RollAge   time.Duration                       // age of an epoch after which a new one begins; 0: any
	// Saw is called with the owner of a volume that is about to be taken over; nil: nobody
	// wants to know.
	Saw func(domain string, owner commitlog.Host)
}

// Owners holds this host's claims on its volumes. All methods may be called concurrently;
// those that say "under op" need the Op of their disk.
type Owners struct {
	Options
	disks   *disk.Table
	pins    *pin.Pins
	catalog *catalog.Catalog

	processes processes
	twin      atomic.Pointer[error] // evidence of another daemon with this host's identity; nil if there is none

	firstPublishMu sync.Mutex // held while the fact of a first publication changes
}

// New returns the owners of a host that has claimed nothing.
func New(o Options, t *disk.Table, p *pin.Pins, c *catalog.Catalog) *Owners {
	return &Owners{Options: o, disks: t, pins: p, catalog: c}
}

// NewOwner returns an owner for the disk's log that has not claimed anything yet.
func (ow *Owners) NewOwner(st *volume.State) (*commitlog.Owner, error) {
	self := ow.Self()
	var err error
	if self.Process, err = ow.process(); err != nil {
		return nil, err
	}
	return commitlog.New(commitlog.Options{
		Store: ow.disks.Store, Volume: commitlog.Volume{Tenant: st.Tenant, Name: st.Name}, Isolated: st.Isolated, Host: self, Rand: ow.disks.Rand, Now: ow.disks.Now, RollAt: ow.RollAt, RollAge: ow.RollAge,
		RollStep: ow.rollStep(st), Uptime: ow.disks.Uptime, Pause: clock.Pause,
	})
}

// rollStep is how often a volume's log must begin an epoch for its rule. A rule that cannot
// be read is one of a newer program.
func (ow *Owners) rollStep(st *volume.State) time.Duration {
	r, err := retention.Parse(st.Keep)
	if err != nil {
		return 0
	}
	return r.Step(ow.RollAge)
}

// Keep makes the disk's log follow the rule in its record from now on. Under op.
func (ow *Owners) Keep(d *disk.Disk) {
	if d.Owner != nil {
		st := d.State()
		d.Owner.SetRollStep(ow.rollStep(&st))
	}
}

// Self returns this host as its commits name it.
func (ow *Owners) Self() commitlog.Host {
	host := commitlog.Host{ID: ow.disks.HostID}
	if ow.Advertise != "" {
		host.Addresses = []string{ow.Advertise}
	}
	return host
}

// Commit publishes a state. If this process has not committed to the volume yet, Commit
// first opens the log, or an epoch. While another host has time to take the volume over,
// Commit waits. Under op.
func (ow *Owners) Commit(ctx context.Context, d *disk.Disk, state commitlog.State) (commitlog.Generation, error) {
	g, err := ow.tryCommit(ctx, d, state)
	for errors.Is(err, commitlog.ErrYielding) && clock.Pause(ctx, YieldPoll) == nil {
		g, err = ow.tryCommit(ctx, d, state)
	}
	if err != nil && d.ClaimEnded() {
		d.SetOwner(nil)
		g, err = ow.tryCommit(ctx, d, state)
	}
	return g, NameTaken(err, d.String(), state.Cause)
}

// NameTaken adds advice to the error for a name that another volume has in the store. It
// returns all other errors unchanged.
func NameTaken(err error, name string, cause commitlog.Cause) error {
	if errs.KindOf(err) != errs.Exists || err == nil {
		return err
	}
	switch cause {
	case commitlog.CauseRestore:
		return errs.New(errs.Exists, "%w: restore it under another name, with --as NEW", err)
	case commitlog.CauseCreate, commitlog.CauseImport, commitlog.CauseFork, commitlog.CauseRename:
		return errs.New(errs.Exists, "%w: choose another name", err)
	}
	return errs.New(errs.Exists, "%w: rename this one with glide rename %s NEW", err, name)
}

func (ow *Owners) tryCommit(ctx context.Context, d *disk.Disk, state commitlog.State) (commitlog.Generation, error) {
	st := d.State()
	if err := ow.Own(d, &st); err != nil {
		return commitlog.Generation{}, err
	}
	if d.Owner.Generation().IsZero() {
		if err := ow.disks.Tenants.Fresh(ctx, disk.DomainName(&st)); err != nil {
			return commitlog.Generation{}, err
		}
		if st.Published == nil {
			return ow.openFirst(ctx, d, &st, state)
		}
		if _, err := ow.ClaimOwn(ctx, d, &st); errors.Is(err, errRemovedHere) {
			return d.Owner.OpenFirst(ctx, state) // it was not removed for good: publish it again
		} else if err != nil {
			return commitlog.Generation{}, err
		}
	}
	return d.Owner.Commit(ctx, state)
}

// Own gives the disk an owner if it has none. The owner need not have claimed anything.
func (ow *Owners) Own(d *disk.Disk, st *volume.State) error {
	if d.Owner == nil {
		o, err := ow.NewOwner(st)
		if err != nil {
			return err
		}
		d.SetOwner(o)
	}
	return nil
}

// ClaimOwn begins this process's epoch of a volume that this host owns. If another host
// or another daemon owns it by now, the error is errs.Fenced.
func (ow *Owners) ClaimOwn(ctx context.Context, d *disk.Disk, st *volume.State) (*commitlog.Object, error) {
	first, err := d.Owner.Claim(ctx, commitlog.CauseOpen, func(tip *commitlog.Object) error {
		if tip.State.Owner.ID != ow.disks.HostID || tip.State.ID != commitlog.VolumeID(st.ID) || ow.CommittedByTwin(tip.State.Owner) {
			return takenBy(d, tip)
		}
		if had := disk.Generation(st.Published); tip.Generation.Compare(had) < 0 { // no-silent-rollback
			return errs.New(errs.Unsupported, "the store shows generation %s of volume %q, and this host published %s: it lost data, or its lists are incomplete",
				tip.Generation, d, had)
		}
		if v := d.Volume(); v != nil && tip.State.Through() > v.Last() {
			// no-silent-rollback: what this host syncs before it publishes is not here.
			return errs.New(errs.Fenced, "the store has a newer state of volume %q (generation %s, write %d) than the disk of this host (write %d): was the data directory restored from a copy?", d, tip.Generation, tip.State.Through(), v.Last())
		}
		if tip.State.Root != st.Root { // reachable-is-kept
			return ow.pins.KeepStale(ctx, st.Root)
		}
		return nil
	})
	if err != nil && errs.KindOf(err) == errs.NotFound {
		return nil, ow.whyRemoved(ctx, d, st, err)
	}
	return first, err
}

// errRemovedHere means that this host removed its own volume from the store but still has
// it: the host crashed, or the reply was lost, in between.
var errRemovedHere = errs.New(errs.NotFound, "the volume was removed from the store by this host")

// HalfRenamed is the error for a volume of this host that has another name in the store.
type HalfRenamed struct {
	error
	To string
}

// Unwrap returns the error with its kind.
func (e HalfRenamed) Unwrap() error { return e.error }

// whyRemoved returns what happened to a volume of this host whose log in the store ends
// with a tombstone.
func (ow *Owners) whyRemoved(ctx context.Context, d *disk.Disk, st *volume.State, err error) error {
	tip, findErr := commitlog.Newest(ctx, ow.disks.Store, commitlog.Volume{Tenant: st.Tenant, Name: st.Name})
	switch {
	case findErr != nil:
		return errors.Join(err, findErr)
	case tip.State.ID != commitlog.VolumeID(d.ID) || tip.State.Owner.ID != ow.disks.HostID || !tip.Tombstone && ow.CommittedByTwin(tip.State.Owner):
		return takenBy(d, tip)
	case !tip.Tombstone: // it was not removed, and nobody took it
		return errs.New(errs.Unavailable, "the store showed nothing of volume %q, and then generation %s of this host: its lists are incomplete", d, tip.Generation)
	case tip.State.RenamedTo != "":
		to := tip.State.RenamedTo
		whole := disk.Display(st.Tenant, to, "")
		return HalfRenamed{errs.New(errs.Busy, "the rename of volume %q to %q was not finished: run glide rename %s %s again", d, whole, d, whole), to}
	}
	return errRemovedHere
}

// RemovedElsewhere is the error for a volume that another host removed from the store.
type RemovedElsewhere struct{ error }

// Unwrap returns the error with its kind.
func (e RemovedElsewhere) Unwrap() error { return e.error }

func takenBy(d *disk.Disk, tip *commitlog.Object) error {
	if tip.State.Owner.ID == d.Table.HostID && !tip.Tombstone {
		return errs.New(errs.Fenced, "volume %q was taken over by %w at %s", d, commitlog.ErrTwin, tip.Generation)
	}
	if tip.Tombstone {
		return RemovedElsewhere{errs.New(errs.Fenced, "volume %q was removed from the store by host %s at %s", d, tip.State.Owner.ID, tip.Generation)}
	}
	return errs.New(errs.Fenced, "volume %q was taken over by host %s at %s", d, tip.State.Owner.ID, tip.Generation)
}
