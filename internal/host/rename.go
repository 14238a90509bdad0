package host

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// Rename gives a volume another name. A published one is first reserved under
// the new name, then ends under the old one, naming the new, and then goes on.
func (h *Host) Rename(ctx context.Context, name, to string) (api.Volume, error) {
	d, err := h.disks.local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	n, err := ParseName(to, false)
	if err != nil {
		return api.Volume{}, err
	}
	if err := h.mayGrow(); err != nil {
		return api.Volume{}, err
	}
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.refuseFenced(); err != nil {
		return api.Volume{}, err
	}
	st := d.state()
	if n.Tenant != st.Tenant {
		return api.Volume{}, errs.New(errs.Invalid, "volume %q cannot become %q: a rename does not change the tenant", d, n)
	}
	if n.Volume == st.Name {
		return h.view(d), nil
	}
	if err := d.refuseIfConnected("put it to sleep with --force first", false); err != nil {
		return api.Volume{}, err
	}
	defer d.blockGuests()()
	d.stopShipping(errHeld)
	defer h.durability.startShipping(d)
	release, err := h.disks.reserveName(n)
	if err != nil {
		return api.Volume{}, err
	}
	defer release()
	published := st.Published
	if published == nil {
		if err := h.owners.withdraw(ctx, d, &st); err != nil {
			return api.Volume{}, err
		}
	} else {
		if published, err = h.renamePublished(ctx, d, &st, n); err != nil {
			return api.Volume{}, err
		}
	}
	family := append(h.disks.snapshotsOf(d.id), d)
	for _, m := range family {
		h.disks.drop(m)
	}
	for _, m := range family {
		own := m == d
		err = m.update(func(s *volume.State) {
			s.Name = n.Volume
			if own {
				s.Published = published
			}
		})
		if err != nil {
			break
		}
	}
	release()
	for _, m := range family {
		h.disks.register(m)
	}
	if err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// renamePublished does the store's part and returns where the volume is now. Under op.
func (h *Host) renamePublished(ctx context.Context, d *disk, st *volume.State, n Name) (*volume.Published, error) {
	_, err := h.publisher.publish(ctx, d, commitlog.CauseRename, func(*commitlog.State) {})
	var half halfRenamed
	switch {
	case errors.As(err, &half) && half.to == n.Volume: // by an earlier call, or process
	case err != nil:
		return nil, err
	}
	// The record, not the log's newest object, which may be the old name's
	// tombstone by now: what was published last is in both.
	now := d.state()
	state := h.disks.commitState(&now, commitlog.CauseRename)
	if d.owner != nil {
		carried := d.owner.State()
		state.DataCommits, state.DataSeq = carried.DataCommits, carried.DataSeq
	}
	if state.Snapshots, err = h.publisher.publishSnapshots(ctx, d); err != nil {
		return nil, err
	}
	renamed := *st
	renamed.Name = n.Volume
	o, err := h.owners.newOwner(&renamed)
	if err != nil {
		return nil, err
	}
	g, err := commitlog.Rename(ctx, d.owner, o, state)
	if err != nil {
		return nil, h.owners.fenceIfLost(d, nameTaken(err, d.String(), commitlog.CauseRename))
	}
	d.setOwner(o)
	return &volume.Published{Epoch: g.Epoch, Number: g.Number}, nil
}
