package pin

import (
	"context"

	"github.com/paraglide/glide/internal/pinobject"
)

// Former reports whether pins of an earlier process are kept that announced what it was
// about to publish. A request of it may still take effect.
func (p *Pins) Former() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.former) > 0
}

// DropFormer drops these pins. The caller has begun a new epoch of every volume that the
// earlier process may have published: what comes late is no part of a log any more.
func (p *Pins) DropFormer(ctx context.Context) error {
	p.mu.Lock()
	pins := p.former
	p.mu.Unlock()
	for _, pin := range pins {
		if err := pinobject.Drop(ctx, p.disks.Store, pin); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.former = p.former[len(pins):]
	p.mu.Unlock()
	return nil
}
