package sim

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
)

// peer is another host, over a network that can be cut.
type peer struct {
	from *machine
	life int
	to   *machine
}

// Host implements ownership.Peer.
func (p peer) Host(ctx context.Context) (api.Host, error) {
	u := p.to.Use()
	if !p.from.Alive(p.life) || u.Host == nil || p.from.w.parted(p.from, p.to) {
		return api.Host{}, errs.New(errs.Unavailable, "host %d does not answer", p.to.index)
	}
	return u.Host.Host(ctx)
}

// Close implements ownership.Peer.
func (peer) Close() {}

// Blocks implements peers.Peer. The simulated hosts exchange no blocks.
func (peer) Blocks(context.Context, api.BlocksRequest, func(int, []byte) error) error {
	return errs.New(errs.Unavailable, "no blocks are exchanged")
}

// Release implements ownership.Peer.
func (p peer) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	w := p.from.w
	d := dice.New(w.seed, "release "+name, uint64(p.from.index), uint64(p.to.index), r.Epoch, uint64(p.life))
	unreachable := errs.New(errs.Unavailable, "host %d does not answer", p.to.index)
	wait := func() error {
		t := time.NewTimer(d.Around(3 * time.Millisecond))
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "no answer: %w", ctx.Err())
		}
	}
	if err := wait(); err != nil {
		return api.Volume{}, err
	}
	u := p.to.Use()
	if !p.from.Alive(p.life) || u.Host == nil || w.parted(p.from, p.to) {
		u.End()
		return api.Volume{}, unreachable
	}
	type answer struct {
		v   api.Volume
		err error
	}
	got := make(chan answer, 1)
	w.background(func() {
		defer u.End()
		p.to.Awake()
		if d.Chance(150) { // it arrives late, and nobody waits
			time.Sleep(d.Around(20 * time.Second))
		}
		w.asked(p.to, name, r)
		// Nothing of the asker's context goes over the network but its end.
		rctx, cancel := context.WithCancel(u.Ctx)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		late := w.isLate(ctx, p.to, u.Host, name, r.Epoch)
		v, err := u.Host.Release(rctx, name, r)
		late(err)
		w.answered(p.to, u.Life, name, r, err)
		w.trace("h%d: release of %s for h%d: %v", p.to.index, name, p.from.index, hardware.Kind(err))
		got <- answer{v, err}
	})
	select {
	case a := <-got:
		if err := wait(); err != nil || w.parted(p.from, p.to) || !p.to.Alive(u.Life) || d.Chance(30) {
			return api.Volume{}, unreachable
		}
		return a.v, a.err
	case <-ctx.Done():
		return api.Volume{}, errs.New(errs.Unavailable, "no answer: %w", ctx.Err())
	}
}
