package ownership

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/volume"
)

// openFirst publishes a volume for the first time. If this host earlier began to publish
// another volume under the name and gave up, that publication is withdrawn first. Under
// op.
func (ow *Owners) openFirst(ctx context.Context, d *disk.Disk, st *volume.State, state commitlog.State) (commitlog.Generation, error) {
	begun, err := ow.freeName(ctx, st)
	if err != nil {
		return commitlog.Generation{}, err
	}
	if !begun {
		ow.firstPublishMu.Lock()
		err := ow.disks.DB.SetFact(disk.FirstFact(st), d.ID[:])
		ow.firstPublishMu.Unlock()
		if err != nil {
			return commitlog.Generation{}, err
		}
		g, err := d.Owner.OpenNew(ctx, state)
		ow.reportTwin(err)
		return g, err
	}
	return d.Owner.OpenFirst(ctx, state)
}

// freeName withdraws another volume that this host earlier began to publish under the name.
// begun tells whether it was this one.
func (ow *Owners) freeName(ctx context.Context, st *volume.State) (begun bool, err error) {
	b, err := ow.disks.DB.Fact(disk.FirstFact(st))
	var before volume.ID
	if err != nil || copy(before[:], b) != len(before) {
		return false, err
	}
	if before == st.ID {
		return true, nil
	}
	if d := ow.disks.ByID(before); d != nil {
		name := disk.Display(st.Tenant, st.Name, "")
		return false, errs.New(errs.Exists, "the name %q is reserved by a rename of volume %q that failed: run glide rename %s %s again, or give it another name", name, d, d, name)
	}
	o, err := ow.NewOwner(st)
	if err == nil {
		err = o.Withdraw(ctx, commitlog.VolumeID(before), commitlog.CauseWithdraw)
	}
	return false, err
}

// FirstMayBeSent reports whether the volume's first publication may have reached the store
// and is not recorded.
func (ow *Owners) FirstMayBeSent(st *volume.State) (bool, error) {
	b, err := ow.disks.DB.Fact(disk.FirstFact(st))
	return len(b) == len(st.ID) && volume.ID(b) == st.ID, err
}

// FirstPublished removes the fact that openFirst saved. Call it when the volume's record names
// its newest commit, or when the volume is gone.
func (ow *Owners) FirstPublished(d *disk.Disk, st *volume.State) error {
	if began, err := ow.FirstMayBeSent(st); err != nil || !began {
		return err
	}
	return ow.disks.DB.SetFact(disk.FirstFact(st), nil)
}

// Withdraw makes sure that a volume whose publication was never confirmed is not in the
// store under the record's name, and cannot appear there. It makes no request if nothing
// was sent. Under op.
func (ow *Owners) Withdraw(ctx context.Context, d *disk.Disk, st *volume.State, cause commitlog.Cause) error {
	began, err := ow.FirstMayBeSent(st)
	if err == nil && !began {
		d.SetOwner(nil) // it is for this name, and the caller may be about to give another
	}
	if err != nil || !began || fault.Is("first-publication-not-withdrawn") {
		return err
	}
	if err := ow.Own(d, st); err != nil {
		return err
	}
	if err := d.Owner.Withdraw(ctx, commitlog.VolumeID(d.ID), cause); err != nil {
		return err
	}
	d.SetOwner(nil)
	return ow.FirstPublished(d, st)
}

// BeginRename records that a volume may appear in the store under another name, until the
// function that it returns is called. A rename that fails leaves the fact behind: its
// requests may still take effect.
func (ow *Owners) BeginRename(ctx context.Context, renamed *volume.State) (finish func() error, err error) {
	if _, err := ow.freeName(ctx, renamed); err != nil {
		return nil, err
	}
	ow.firstPublishMu.Lock()
	defer ow.firstPublishMu.Unlock()
	fact := disk.FirstFact(renamed)
	return func() error { return ow.disks.DB.SetFact(fact, nil) }, ow.disks.DB.SetFact(fact, renamed.ID[:])
}

// WithdrawRenames makes sure that a volume is not in the store under the names that renames
// which failed were about to give it, and cannot appear there. Its log must not name one
// of them.
func (ow *Owners) WithdrawRenames(ctx context.Context, id volume.ID, names []disk.Name) error {
	for _, n := range names {
		if err := ow.withdrawOrphan(ctx, id, n); err != nil {
			return err
		}
	}
	return nil
}

// Pauses between attempts to withdraw orphans while the store does not respond.
const (
	firstWithdraw   = 100 * time.Millisecond
	longestWithdraw = 5 * time.Second
)

// WithdrawOrphans removes the orphans from the store, and retries until the store
// responds. It makes no request if there are none.
func (ow *Owners) WithdrawOrphans() {
	for retry := firstWithdraw; ; retry = min(2*retry, longestWithdraw) {
		left := ow.disks.OrphanNames()
		for id, n := range left {
			err := ow.withdrawOrphan(cost.Begin(ow.disks.Ctx, cost.Upkeep, cost.Volume{}), id, n)
			switch {
			case ow.disks.Ctx.Err() != nil:
				return
			case err != nil && errs.KindOf(err) == errs.Unavailable:
				continue
			case err != nil:
				ow.disks.Log.Warn("a volume stays in the store although the call that created it did not finish", "volume", n.String(), "error", err)
			}
			delete(left, id)
			ow.disks.ForgetOrphan(id)
		}
		if len(left) == 0 || clock.Pause(ow.disks.Ctx, retry) != nil {
			return
		}
	}
}

func (ow *Owners) withdrawOrphan(ctx context.Context, id volume.ID, n disk.Name) error {
	st := volume.State{ID: id, Tenant: n.Tenant, Name: n.Volume}
	o, err := ow.NewOwner(&st)
	if err == nil {
		err = o.Withdraw(ctx, commitlog.VolumeID(id), commitlog.CauseWithdraw)
	}
	if err != nil {
		return err
	}
	ow.firstPublishMu.Lock()
	defer ow.firstPublishMu.Unlock()
	b, err := ow.disks.DB.Fact(disk.FirstFact(&st))
	if err != nil || len(b) != len(id) || volume.ID(b) != id { // another volume is being published under the name
		return err
	}
	return ow.disks.DB.SetFact(disk.FirstFact(&st), nil)
}
