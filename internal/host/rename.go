package host

import (
	"context"
	"errors"
	"slices"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/volume"
)

// Rename gives a volume another name. A published volume is first reserved under the new
// name; then a tombstone that names the new log ends the old log; then the volume goes on
// under the new name.
func (h *Host) Rename(ctx context.Context, name, to string) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.Manage, name)
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	n, err := disk.ParseName(to, false)
	if err != nil {
		return api.Volume{}, err
	}
	unlock, err := h.lockToChange(d)
	if err != nil {
		return api.Volume{}, err
	}
	defer unlock()
	st := d.State()
	if n.Tenant != st.Tenant {
		return api.Volume{}, errs.New(errs.Invalid, "volume %q cannot become %q: a rename does not change the tenant", d, n)
	}
	if n.Volume == st.Name {
		return h.view(d), nil
	}
	if err := d.RefuseIfConnected("put it to sleep with --force first", false); err != nil {
		return api.Volume{}, err
	}
	defer d.BlockGuests()()
	d.StopShipping(disk.ErrClosing)
	defer h.durability.StartShipping(d)
	release, err := h.disks.ReserveName(n)
	if err != nil {
		return api.Volume{}, err
	}
	defer release()
	published := st.Published
	if published == nil {
		if err := h.owners.Withdraw(ctx, d, &st, commitlog.CauseWithdraw); err != nil {
			return api.Volume{}, err
		}
	} else {
		if published, err = h.renamePublished(ctx, d, &st, n); err != nil {
			return api.Volume{}, err
		}
	}
	family := append(h.disks.SnapshotsOf(d.ID), d)
	for _, m := range family {
		h.disks.Drop(m)
	}
	for _, m := range family {
		own := m == d
		err = m.Update(func(s *volume.State) {
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
		h.disks.Register(m)
	}
	if err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// renamePublished renames a volume in the store and returns its newest commit there.
// Under op.
func (h *Host) renamePublished(ctx context.Context, d *disk.Disk, st *volume.State, n disk.Name) (*volume.Published, error) {
	_, err := h.publisher.Publish(ctx, d, commitlog.CauseRename, func(*commitlog.State) {})
	var half ownership.HalfRenamed
	switch {
	case errors.As(err, &half) && half.To == n.Volume: // an earlier call or process published it
	case err != nil:
		return nil, err
	}
	// Start from the record, not from the log's newest object, which may be the old
	// name's tombstone by now. Both have what was last published.
	now := d.State()
	state := h.disks.CommitState(&now, commitlog.CauseRename)
	if d.Owner != nil {
		carried := d.Owner.State()
		state.DataCommits, state.DataSeq = carried.DataCommits, carried.DataSeq
	}
	if state.Snapshots, err = h.publisher.PublishSnapshots(ctx, d); err != nil {
		return nil, err
	}
	renamed := *st
	renamed.Name = n.Volume
	o, err := h.owners.NewOwner(&renamed)
	if err != nil {
		return nil, err
	}
	if err := h.owners.KeepForFormer(ctx, d); err != nil {
		return nil, err
	}
	finish, err := h.beginRename(ctx, st, &renamed)
	if err != nil {
		return nil, err
	}
	g, err := commitlog.Rename(ctx, d.Owner, o, state)
	if err != nil {
		return nil, h.owners.FenceIfLost(d, ownership.NameTaken(err, d.String(), commitlog.CauseRename))
	}
	if err := finish(); err != nil {
		return nil, err
	}
	d.SetOwner(o)
	return &volume.Published{Epoch: g.Epoch, Number: g.Number}, nil
}

// beginRename records that a volume may be published under its new name, and withdraws it
// from others, to which renames failed. Under op.
func (h *Host) beginRename(ctx context.Context, st, renamed *volume.State) (finish func() error, err error) {
	begun, err := h.disks.NamesBegun(st.ID, st.Name)
	if err != nil {
		return nil, err
	}
	begun = slices.DeleteFunc(begun, func(n disk.Name) bool { return n.Volume == renamed.Name })
	if err := h.owners.WithdrawRenames(ctx, st.ID, begun); err != nil {
		return nil, err
	}
	return h.owners.BeginRename(ctx, renamed)
}
