package host

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
	"github.com/paraglide/glide/internal/volume"
)

// Hosts lists this host and the hosts that the store knows: those that own volumes, and
// those for which the store keeps something.
func (h *Host) Hosts(ctx context.Context) ([]api.StoreHost, error) {
	ctx = cost.With(ctx, cost.List, cost.Volume{})
	all := map[string]*api.StoreHost{}
	of := func(id string) *api.StoreHost {
		if all[id] == nil {
			all[id] = &api.StoreHost{ID: id, Addresses: []string{}, Self: id == h.disks.HostID}
		}
		return all[id]
	}
	self := of(h.disks.HostID)
	self.Addresses = h.owners.Self().Addresses
	self.Twin = h.owners.TwinNoticed() != nil
	err := h.catalog.EachTip(ctx, func(_ disk.Name, tip *commitlog.Object) error {
		s := &tip.State
		if !tip.Released && s.Owner.ID != "" {
			o := of(s.Owner.ID)
			o.Volumes++
			o.Twin = o.Twin || h.owners.CommittedByTwin(s.Owner)
			if s.Time.After(o.LastCommit) {
				o.LastCommit = s.Time
				o.Addresses = append([]string{}, s.Owner.Addresses...)
			}
		}
		for _, from := range s.SealedFrom {
			of(from.Host).Kept++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = pinobject.List(ctx, h.disks.Store, "", func(p pinobject.Pin) error {
		of(p.Host).Pins++
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := []api.StoreHost{}
	for _, s := range all {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b api.StoreHost) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// learn notes a host that may have blocks of a domain's volumes.
func (h *Host) learn(domain string, owner commitlog.Host) {
	if owner.ID != h.disks.HostID {
		h.peers.Learn(domain, owner.ID, owner.Addresses)
	}
}

// localBlock fills p with a block that the SSD tier has, for another host.
func (h *Host) localBlock(hash *pack.Hash, p []byte) bool { return h.disks.Cache.ReadFor(hash, p) }

// Blocks sends another host those of the blocks that the SSD tier has.
func (h *Host) Blocks(ctx context.Context, r api.BlocksRequest, send func(i int, raw []byte) error) error {
	return h.peers.Serve(ctx, r, send)
}

// ForgetHost gives up what the store keeps for another host: its pins, and the states
// that it may still need of volumes that were taken over from it. It is for a host that
// will never come back. If the host still answers, ForgetHost returns an error, unless
// force is set.
func (h *Host) ForgetHost(ctx context.Context, id string, force bool) (api.Forgotten, error) {
	ctx = cost.With(ctx, cost.Upkeep, cost.Volume{})
	out := api.Forgotten{Host: id, Volumes: []string{}, Left: []string{}}
	if !commitlog.ValidName(id) {
		return out, disk.BadName("host", id)
	}
	if id == h.disks.HostID {
		return out, errs.New(errs.Invalid, "host %s is this one", id)
	}
	known, silent := false, map[string]bool{}
	ask := func(host commitlog.Host) error {
		at := strings.Join(host.Addresses, ",")
		if force || host.ID != id || silent[at] {
			return nil
		}
		if h.owners.Reachable(ctx, host) {
			return errs.New(errs.WouldLose, "host %s answers at %s, and may still need what it holds; --force forgets it anyway", id, at)
		}
		silent[at] = true // it takes a while to find out, so do not ask again
		return nil
	}
	var mine, others []disk.Name
	err := h.catalog.EachTip(ctx, func(n disk.Name, tip *commitlog.Object) error {
		s := &tip.State
		if s.Owner.ID == id && !tip.Released {
			known = true
			if err := ask(s.Owner); err != nil {
				return err
			}
		}
		if i := slices.IndexFunc(s.SealedFrom, func(f commitlog.SealedFrom) bool { return f.Host == id }); i >= 0 {
			known = true
			sealed, err := commitlog.Load(ctx, h.disks.Store, n.Log(), s.SealedFrom[i].Generation)
			if err != nil {
				return err
			}
			if err := ask(sealed.State.Owner); err != nil { // its forks and its rescue volume may be there
				return err
			}
			if s.Owner.ID == h.disks.HostID && h.disks.Find(n) != nil {
				mine = append(mine, n)
			} else {
				others = append(others, n)
				out.Left = append(out.Left, n.String()+" (held by host "+s.Owner.ID+")")
			}
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	for _, n := range mine {
		if err := h.forgetFor(ctx, n, id); err != nil {
			return out, err
		}
		out.Volumes = append(out.Volumes, n.String())
	}
	var pins []pinobject.Pin
	err = pinobject.List(ctx, h.disks.Store, id, func(p pinobject.Pin) error { pins = append(pins, p); return nil })
	if err != nil {
		return out, err
	}
	for _, p := range pins {
		if err := pinobject.Drop(ctx, h.disks.Store, p); err != nil {
			return out, err
		}
		out.Pins++
	}
	if !known && out.Pins == 0 {
		return out, errs.New(errs.NotFound, "the store knows of no host %s: glide hosts lists them", id)
	}
	h.disks.Event(event.Host, "", "host %s was forgotten: %d pins, %d volumes", id, out.Pins, len(out.Volumes))
	return out, nil
}

// forgetFor removes what a volume of this host keeps for another host.
func (h *Host) forgetFor(ctx context.Context, n disk.Name, id string) error {
	d, err := h.disks.Local(n.String(), false)
	if err != nil {
		return err
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	if err := d.RefuseFenced(); err != nil {
		return err
	}
	st := d.State()
	if err := h.owners.Own(d, &st); err != nil {
		return err
	}
	if d.Owner.Generation().IsZero() {
		if _, err := h.owners.ClaimOwn(ctx, d, &st); err != nil {
			return h.owners.FenceIfLost(d, err)
		}
	}
	if err := d.Owner.Forget(ctx, id); err != nil {
		return h.owners.FenceIfLost(d, err)
	}
	g := d.Owner.Generation()
	return d.Update(func(s *volume.State) { s.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number} })
}
