package durability

import (
	"context"
	"errors"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// Bounds of an rpo. A store takes about as long as leastRPO to respond, so with a shorter
// rpo a volume might as well be sync.
const (
	leastRPO = 100 * time.Millisecond
	mostRPO  = 24 * time.Hour
)

// CheckDurability returns an error if policy is not the name of a policy. "" means none
// was given.
func CheckDurability(policy string) error {
	switch policy {
	case "", volume.Local, volume.Continuous, volume.Sync:
		return nil
	}
	return errs.New(errs.Invalid, "%q is not a durability policy: choose local, continuous or sync", policy)
}

// CheckRPO returns an error if a loss window is out of bounds.
func CheckRPO(rpo time.Duration) error {
	if rpo < leastRPO || rpo > mostRPO {
		return errs.New(errs.Invalid, "an rpo of %v is not between %v and %v; 5s is one that is", rpo, leastRPO, mostRPO)
	}
	return nil
}

// Policy is the durability that a volume promises.
type Policy struct {
	Durability string
	RPO        time.Duration
}

// Ships reports whether the policy needs the store.
func (p Policy) Ships() bool { return p.Durability != volume.Local }

// tighter reports whether p promises more than q.
func (p Policy) tighter(q Policy) bool {
	rank := map[string]int{volume.Local: 0, volume.Continuous: 1, volume.Sync: 2}
	if rank[p.Durability] != rank[q.Durability] {
		return rank[p.Durability] > rank[q.Durability]
	}
	return p.RPO < q.RPO
}

// Record puts the policy into a volume's record.
func (p Policy) Record(st *volume.State) { st.Durability, st.RPO = p.Durability, p.RPO }

func (p Policy) commit(s *commitlog.State) {
	s.Durability, s.RPOMillis = p.Durability, p.RPO.Milliseconds()
}

// SetPolicy changes the policy of a volume while it is in use. A looser policy takes
// effect with the commit that records it. A tighter one is complete when the store holds
// everything that was acknowledged before. Under op.
func (k *Keeper) SetPolicy(ctx context.Context, d *disk.Disk, p Policy) error {
	st := d.State()
	old := Policy{st.Durability, st.RPO}
	switch {
	case p == old:
		return nil
	case !old.Ships() && !p.Ships(): // the rpo matters only when the policy changes
		return d.Update(p.Record)
	}
	v, err := d.Wake(false)
	if err != nil {
		return err
	}
	switch {
	case !old.Ships():
		return k.beginShipping(ctx, d, p, commitlog.CauseSet)
	case !p.Ships():
		if err := k.publishPolicy(ctx, d, p); err != nil {
			return err
		}
		d.SetShips(false)
		d.StopShipping(disk.ErrRelaxed)
		v.StopTracking()
		return d.Update(p.Record)
	case !p.tighter(old):
		if err := k.publishPolicy(ctx, d, p); err != nil {
			return err
		}
		if err := k.adoptPolicy(d, p); err != nil || p.Durability == old.Durability {
			return err
		}
		return k.publishBacklog(ctx, d) // sync does not bound the age of writes that nobody flushed
	}
	if err := k.adoptPolicy(d, p); err != nil {
		return err
	}
	if err := k.publishBacklog(ctx, d); err != nil {
		return err
	}
	return k.publishPolicy(ctx, d, p)
}

// publishBacklog waits until the store holds everything that was acknowledged before.
// Under op.
func (k *Keeper) publishBacklog(ctx context.Context, d *disk.Disk) error {
	if s := d.Shipper(); s != nil {
		return s.BarrierUnderOp(ctx)
	}
	return nil
}

// adoptPolicy records a policy and makes the shipper follow it.
func (k *Keeper) adoptPolicy(d *disk.Disk, p Policy) error {
	if err := d.Update(p.Record); err != nil {
		return err
	}
	if s := d.Shipper(); s != nil {
		st := d.State()
		s.SetPolicy(&st)
	}
	announce(d, nil)
	return nil
}

// announce makes the data commits of a disk name a policy that its record does not have
// yet, or with nil that of the record.
func announce(d *disk.Disk, p *Policy) {
	if s, ok := d.Shipper().(*shipper); ok {
		s.announced.Store(p)
	}
}

// publishPolicy makes a commit that records the policy. Under op.
func (k *Keeper) publishPolicy(ctx context.Context, d *disk.Disk, p Policy) (err error) {
	announce(d, &p)
	defer func() {
		if err != nil {
			announce(d, nil)
		}
	}()
	st := d.State()
	if d.Owner == nil || d.Owner.Generation().IsZero() {
		_, err := k.publisher.Publish(ctx, d, commitlog.CauseSet, p.commit)
		return err
	}
	sh, err := d.Owner.Ship(cost.Carry(k.disks.Ctx, ctx), 0, nil, func(s *commitlog.State) {
		k.amend(d, s, &st)
		s.Cause = commitlog.CauseSet
		p.commit(s)
	})
	if errs.KindOf(err) == errs.Invalid && err != nil {
		_, err = k.publisher.Publish(ctx, d, commitlog.CauseSet, p.commit)
		return err
	}
	if err != nil {
		return k.owners.FenceIfLost(d, err)
	}
	g, err := sh.Wait(ctx)
	if err != nil {
		return k.owners.FenceIfLost(d, err)
	}
	if v := d.Volume(); v != nil {
		return v.NoteShipped(0, volume.Published{Epoch: g.Epoch, Number: g.Number}, true)
	}
	return nil
}

// beginShipping publishes a local volume and makes it follow a policy that ships. Writes
// after the cut are tracked. Some of them are acknowledged before the policy holds; they
// too are in the store when beginShipping returns. Under op.
func (k *Keeper) beginShipping(ctx context.Context, d *disk.Disk, p Policy, cause commitlog.Cause) error {
	v := d.Volume()
	_, err := k.publisher.PublishCut(ctx, d, cause, p.commit, v.BeginFoldTracking)
	if err == nil {
		err = d.Update(p.Record)
	}
	if err != nil {
		v.StopTracking()
		return err
	}
	k.StartShipping(d)
	return k.publishBacklog(ctx, d)
}

// withdrawWithin is how long a store that did not respond may take to give up the name of
// a volume whose creation failed.
const withdrawWithin = 2 * time.Second

// ApplyPolicy gives newly created volumes their policy. If the store is unavailable, none
// of them is created.
func (k *Keeper) ApplyPolicy(ctx context.Context, p Policy, cause commitlog.Cause, disks ...*disk.Disk) error {
	if !p.Ships() {
		return nil // they were created as local
	}
	for _, d := range disks {
		if err := k.applyPolicyToOne(ctx, d, p, cause); err != nil {
			return errors.Join(err, k.UndoCreate(ctx, err, disks...))
		}
	}
	return nil
}

func (k *Keeper) applyPolicyToOne(ctx context.Context, d *disk.Disk, p Policy, cause commitlog.Cause) error {
	d.Op.Lock()
	defer d.Op.Unlock()
	if _, err := d.Wake(false); err != nil { // removed meanwhile
		return err
	}
	return k.beginShipping(cost.With(ctx, cost.Manage, d.Payer()), d, p, cause)
}

// UndoCreate removes the volumes of a call that created them, or some of them, and then
// failed with why. None of them stays, here or in the store. If the store is unavailable,
// UndoCreate does not go through its retries again: the next volume of that name, or the
// next start of the host, withdraws what was sent.
func (k *Keeper) UndoCreate(ctx context.Context, why error, disks ...*disk.Disk) error {
	impatient := errs.KindOf(why) == errs.Unavailable || ctx.Err() != nil
	ctx = context.WithoutCancel(ctx)
	if impatient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, withdrawWithin)
		defer cancel()
	}
	var errs []error
	for _, d := range disks {
		errs = append(errs, k.undoCreateOne(ctx, d))
	}
	return errors.Join(errs...)
}

func (k *Keeper) undoCreateOne(ctx context.Context, d *disk.Disk) error {
	d.Op.Lock()
	defer d.Op.Unlock()
	if d.Removed() {
		return nil
	}
	defer d.BlockGuests()()
	d.StopShipping(disk.ErrClosing)
	d.Moving.Lock()
	defer d.Moving.Unlock()
	st := d.State()
	if err := k.owners.RemoveFromStore(ctx, d, &st, commitlog.CauseWithdraw); err != nil {
		if errs.KindOf(err) != errs.Unavailable {
			k.disks.Log.Warn("a volume whose creation failed may be in the store", "volume", d.String(), "error", err)
		}
		if st.Published != nil { // continue as if the publication had never been confirmed
			if err := k.disks.DB.SetFact(disk.FirstFact(&st), d.ID[:]); err != nil {
				return err
			}
			if err := d.Update(func(s *volume.State) { s.Published = nil }); err != nil {
				return err
			}
		}
	}
	return k.owners.EraseAll(d)
}
