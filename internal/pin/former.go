package pin

import (
	"context"
	"slices"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/pinobject"
)

// Former reports whether pins of an earlier process are kept that announced what it was
// about to publish. A request of it may still take effect.
func (p *Pins) Former() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.former) > 0
}

// DropFormer drops these pins. One call at a time. The caller has begun a new epoch of every volume that the
// earlier process may have published: what comes late is no part of a log any more.
func (p *Pins) DropFormer(ctx context.Context) error {
	p.mu.Lock()
	pins := p.former
	p.mu.Unlock()
	for _, pin := range pins {
		if err := p.forget(ctx, pin); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.former = nil
	p.mu.Unlock()
	return nil
}

// Sweep looks for pins of this host that it has no use for, and drops them: those that a
// late request put back, which may name what has been collected since and would stop every
// collector, and those that could not be dropped. Pins that other hosts created for local
// children of this one are kept as long as a volume needs them. A host that never pinned
// anything makes no request. One call at a time.
func (p *Pins) Sweep(ctx context.Context) error {
	p.mu.Lock()
	used := p.used
	p.mu.Unlock()
	if !used {
		return nil
	}
	err := p.find(ctx)
	p.Release(ctx)
	return err
}

// find lists the pins of this host that it does not know, and takes them over or drops
// them. What an earlier process announced is kept when it is found for the first time.
func (p *Pins) find(ctx context.Context) error {
	var unknown []pinobject.Pin
	skip := func(id pinobject.ID) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.known[id]
	}
	err := pinobject.Each(ctx, p.disks.Store, p.disks.HostID, skip, func(pin pinobject.Pin) error {
		unknown = append(unknown, pin)
		return nil
	})
	if err != nil {
		return err
	}
	for _, pin := range unknown {
		if p.adopt(pin) {
			continue
		}
		if err := p.forget(ctx, pin); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.found = true
	p.mu.Unlock()
	return nil
}

// adopt takes a pin over, if that is of use.
func (p *Pins) adopt(pin pinobject.Pin) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pin.Kind != pinobject.Children {
		if p.found || fault.Is("former-pins-dropped-at-start") {
			return false
		}
		p.former = append(p.former, pin)
		p.known[pin.ID] = true
		return true
	}
	// A crash may have come before the second pin of a root was dropped.
	if !slices.ContainsFunc(pin.Roots, func(r blockmap.Root) bool { _, twice := p.children[r]; return !twice }) {
		return false
	}
	for _, r := range pin.Roots {
		p.children[r] = pin
		// A record may name it whose volume another host has claimed and removed: what this
		// host rescues of the volume will lie over that root.
		p.stale[r] = true
	}
	p.known[pin.ID] = true
	return true
}
