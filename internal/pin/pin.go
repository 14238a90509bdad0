package pin

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
	"github.com/paraglide/glide/internal/volume"
)

// Pins announces to collectors what this host is about to refer to or still needs. It
// implements flush.Pins.
type Pins struct {
	disks *disk.Table

	mu sync.Mutex
	// children are the pinned roots of published states that have moved on but that
	// unpublished volumes of this host still use.
	children map[blockmap.Root]pinobject.Pin
	// stale are those of them that a record names although the volume's newest commit
	// names another root.
	stale map[blockmap.Root]bool
	// former are the pins of an earlier process for its sessions and for what it was about
	// to publish.
	former []pinobject.Pin
	// known are the pins of this host that it has a use for. found tells whether those that
	// an earlier process left are among them.
	known map[pinobject.ID]bool
	found bool
	used  bool // a fact records that this host may have pins in the store
}

const pinsFact = "pins"

// New returns the pins of a host. Recover loads those of an earlier process.
func New(t *disk.Table) *Pins {
	return &Pins{disks: t, children: map[blockmap.Root]pinobject.Pin{}, stale: map[blockmap.Root]bool{}, known: map[pinobject.ID]bool{}}
}

// RecoverTimeout is how long a start waits while the store lists this host's pins. Guests
// wait too.
const RecoverTimeout = 3 * time.Second

// Recover lists the pins that an earlier process left. Those for its sessions and for what
// it was about to publish stay until DropFormer: reachable-is-kept. Those for local
// children stay while they are needed. A host that never pinned anything makes no request.
func (p *Pins) Recover(ctx context.Context) error {
	b, err := p.disks.DB.Fact(pinsFact)
	if err != nil || len(b) == 0 {
		return err
	}
	p.used = true
	ctx, cancel := context.WithTimeout(ctx, RecoverTimeout)
	defer cancel()
	if err := p.find(ctx); err != nil {
		// Local volumes work without the store, and a pin that stays only keeps garbage.
		p.disks.Log.Warn("pins of an earlier run could not be listed", "error", err)
	}
	return nil
}

// create records that this host has pins, and creates one in the store.
func (p *Pins) create(ctx context.Context, kind pinobject.Kind, fill func(*pinobject.Pin)) (pinobject.Pin, error) {
	if err := p.Expect(); err != nil {
		return pinobject.Pin{}, err
	}
	pin, err := pinobject.New(p.disks.Rand, p.disks.HostID, kind, p.disks.Now())
	if err != nil {
		return pin, err
	}
	fill(&pin)
	p.mu.Lock()
	p.known[pin.ID] = true // before it is in the store, where Sweep looks for those that nobody knows
	p.mu.Unlock()
	if fault.Is("no-pins-of-kind-" + string(kind)) {
		return pin, nil
	}
	return pin, pinobject.Create(ctx, p.disks.Store, pin)
}

func (p *Pins) dropper(pin pinobject.Pin) func(context.Context) error {
	return func(ctx context.Context) error { return p.forget(ctx, pin) }
}

// PinSession announces the packs of an upload session.
func (p *Pins) PinSession(ctx context.Context, nonce [8]byte) (func(context.Context) error, error) {
	pin, err := p.create(ctx, pinobject.Session, func(pin *pinobject.Pin) { pin.Nonce = nonce })
	return p.dropper(pin), err
}

// PinPacks announces packs that dedup hits are about to refer to.
func (p *Pins) PinPacks(ctx context.Context, ids []pack.ID) (func(context.Context) error, error) {
	pin, err := p.create(ctx, pinobject.Packs, func(pin *pinobject.Pin) {
		for _, id := range ids {
			pin.Packs = append(pin.Packs, pinobject.PackName(id))
		}
	})
	return p.dropper(pin), err
}

// PinFork announces the commit that a fork will copy.
func (p *Pins) PinFork(ctx context.Context, key string) (func(context.Context) error, error) {
	pin, err := p.create(ctx, pinobject.Fork, func(pin *pinobject.Pin) { pin.Commit = key })
	return p.dropper(pin), err
}

// KeepChildren pins the root of a published state that is about to move, if a volume that
// only this host knows still uses it (reachable-is-kept). Local forks therefore make no
// request before that.
func (p *Pins) KeepChildren(ctx context.Context, root blockmap.Root, except volume.ID) error {
	if !p.needed(root, except) {
		return nil
	}
	return p.keep(ctx, root)
}

// KeepFamily is KeepChildren for the roots of a volume and of its snapshots, which leave the
// store together, or go to another host.
func (p *Pins) KeepFamily(ctx context.Context, st *volume.State) error {
	err := p.KeepChildren(ctx, st.Root, st.ID)
	for _, s := range p.disks.SnapshotsOf(st.ID) {
		if snap := s.State(); err == nil && snap.Root != st.Root {
			err = p.KeepChildren(ctx, snap.Root, snap.ID)
		}
	}
	return err
}

// KeepNext pins a root that the record of a volume, which no commit names, is about to have.
func (p *Pins) KeepNext(ctx context.Context, root blockmap.Root) error { return p.keep(ctx, root) }

// KeepStale pins the root that the record of a volume names although the volume's newest
// commit names another: an earlier process of this host made that commit and died before
// it recorded it. The epoch that still holds the older root is about to be closed, but
// the volume and its forks use that root until the next fold.
func (p *Pins) KeepStale(ctx context.Context, root blockmap.Root) error {
	p.mu.Lock()
	p.stale[root] = true
	p.mu.Unlock()
	err := p.keep(ctx, root)
	// The volume may have moved on while the store was asked. Nothing would then drop the
	// pin until the next publication.
	p.Release(ctx)
	return err
}

func (p *Pins) keep(ctx context.Context, root blockmap.Root) error {
	if root.IsHole() || fault.Is("children-not-pinned") {
		return nil
	}
	p.mu.Lock()
	_, pinned := p.children[root]
	p.mu.Unlock()
	if pinned {
		return nil
	}
	pin, err := p.create(ctx, pinobject.Children, func(pin *pinobject.Pin) { pin.Roots = []blockmap.Root{root} })
	if err != nil {
		return err
	}
	p.mu.Lock()
	_, pinned = p.children[root]
	if !pinned {
		p.children[root] = pin
	}
	p.mu.Unlock()
	if pinned { // another call was faster, and only its pin is dropped by Release
		p.drop(ctx, pin)
	}
	return nil
}

// KeepFor pins a root for the local children of another host.
func (p *Pins) KeepFor(ctx context.Context, host string, root blockmap.Root) error {
	if root.IsHole() {
		return nil
	}
	pin, err := pinobject.New(p.disks.Rand, host, pinobject.Children, p.disks.Now())
	if err != nil {
		return err
	}
	pin.Roots = []blockmap.Root{root}
	return pinobject.Create(ctx, p.disks.Store, pin)
}

// Expect records that this host may have pins in the store that it did not create: of
// those that KeepFor creates the next start takes care.
func (p *Pins) Expect() error {
	p.mu.Lock()
	used := p.used
	p.used = true
	p.mu.Unlock()
	if used {
		return nil
	}
	return p.disks.DB.SetFact(pinsFact, []byte{1})
}

func (p *Pins) drop(ctx context.Context, pin pinobject.Pin) {
	if err := p.forget(ctx, pin); err != nil {
		p.disks.Log.Warn("a pin was not dropped", "error", err)
	}
}

// forget removes a pin from the store. If that fails, or if a request that creates the pin
// comes late, Sweep removes it.
func (p *Pins) forget(ctx context.Context, pin pinobject.Pin) error {
	p.mu.Lock()
	delete(p.known, pin.ID)
	p.mu.Unlock()
	return pinobject.Drop(ctx, p.disks.Store, pin)
}

// needed reports whether an unpublished volume of this host, other than except, uses the
// root.
func (p *Pins) needed(root blockmap.Root, except volume.ID) bool {
	for _, d := range p.disks.All() {
		st := d.State()
		listed := st.SnapshotOf != volume.ID{} && st.Generation != "" // a commit names its root
		if st.ID != except && st.Published == nil && st.Root == root && !listed {
			return true
		}
	}
	return false
}

// inUse reports whether any volume of this host uses the root.
func (p *Pins) inUse(root blockmap.Root) bool {
	return slices.ContainsFunc(p.disks.All(), func(d *disk.Disk) bool { return d.State().Root == root })
}

// Release drops the pins of roots that no unpublished volume needs any more and that no
// record with an older root names. While a commit that was sent may still take effect, it
// drops none: that commit may list a snapshot that this host has no more.
func (p *Pins) Release(ctx context.Context) {
	if p.disks.Unsettled() {
		return
	}
	p.mu.Lock()
	var drop []pinobject.Pin
	for root, pin := range p.children {
		if p.needed(root, volume.ID{}) || p.stale[root] && p.inUse(root) {
			continue
		}
		drop = append(drop, pin)
		delete(p.children, root)
		delete(p.stale, root)
	}
	p.mu.Unlock()
	for _, pin := range drop {
		p.drop(ctx, pin)
	}
}

// storePins creates the pins of an import without a host. It has no metadata.
type storePins struct{ disks *disk.Table }

// ForImport returns the pins of an import without a host. Nothing about them outlives the
// process.
func ForImport(t *disk.Table) flush.Pins { return storePins{t} }

func (p storePins) pin(ctx context.Context, kind pinobject.Kind, fill func(*pinobject.Pin)) (func(context.Context) error, error) {
	pin, err := pinobject.New(p.disks.Rand, p.disks.HostID, kind, p.disks.Now())
	if err != nil {
		return nil, err
	}
	fill(&pin)
	drop := func(ctx context.Context) error { return pinobject.Drop(ctx, p.disks.Store, pin) }
	return drop, pinobject.Create(ctx, p.disks.Store, pin)
}

// PinSession announces the packs of the import.
func (p storePins) PinSession(ctx context.Context, nonce [8]byte) (func(context.Context) error, error) {
	return p.pin(ctx, pinobject.Session, func(pin *pinobject.Pin) { pin.Nonce = nonce })
}

// PinPacks announces packs that the import refers to.
func (p storePins) PinPacks(ctx context.Context, ids []pack.ID) (func(context.Context) error, error) {
	return p.pin(ctx, pinobject.Packs, func(pin *pinobject.Pin) {
		for _, id := range ids {
			pin.Packs = append(pin.Packs, pinobject.PackName(id))
		}
	})
}
