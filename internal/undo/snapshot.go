package undo

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/retention"
	"github.com/paraglide/glide/internal/volume"
)

// Snapshot names the current cut of a volume. The snapshot is durable on this host when it
// returns; the next flush puts it into the store. expires is how long it is kept, such as
// 30d; "" means until somebody removes it. Under op.
func (u *Undo) Snapshot(d *disk.Disk, name, expires string) (*disk.Disk, error) {
	var end time.Time
	if expires != "" {
		in, err := retention.ParseDuration(expires)
		if err != nil {
			return nil, err
		}
		if in <= 0 || in > longestExpiry {
			return nil, errs.New(errs.Invalid, "a snapshot cannot expire in %s: more than nothing and at most %d days are possible", expires, longestExpiry/(24*time.Hour))
		}
		end = u.disks.Now().UTC().Add(in)
	}
	if n := len(u.disks.SnapshotsOf(d.ID)); n >= commitlog.MaxSnapshots {
		return nil, errs.New(errs.Invalid, "volume %q has %d snapshots, which is the limit: remove some with glide rm %s@NAME", d, n, d)
	}
	v, err := d.Wake(false)
	if err != nil {
		return nil, err
	}
	return u.snapshot(d, v, name, end)
}

// longestExpiry keeps the times of expiry within four digits of a year, which is what JSON
// can have.
const longestExpiry = 100 * 365 * 24 * time.Hour

// snapshot makes a snapshot of an open volume. Under op.
func (u *Undo) snapshot(d *disk.Disk, v *volume.Volume, name string, expires time.Time) (*disk.Disk, error) {
	st := d.State()
	snap := volume.State{
		ID: disk.NewVolumeID(u.disks), Tenant: st.Tenant, Name: st.Name, Isolated: st.Isolated, Snapshot: name, SnapshotOf: d.ID, CreatedAt: u.disks.Now().UTC(), ExpiresAt: expires,
		Mode: volume.Active, Durability: st.Durability, RPO: st.RPO, BlockSize: st.BlockSize, Size: st.Size,
	}
	s := disk.New(u.disks, snap)
	s.Op.Lock() // callers that find the snapshot wait until it is created
	defer s.Op.Unlock()
	if err := u.disks.Reserve(s); err != nil {
		return nil, errs.New(errs.Exists, "volume %q has a snapshot %q already", d, name)
	}
	kids, err := u.disks.ForkCut(v, []*volume.State{&snap})
	if err != nil {
		u.disks.Unreserve(s)
		return nil, err
	}
	s.SetVolume(kids[0])
	return s, nil
}

const (
	// publishExpired is how long the newest commit of a volume that is open may list
	// snapshots that have expired.
	publishExpired = time.Hour
	// publishWithin is how long the store may take for that.
	publishWithin = time.Minute
)

// Expire removes the snapshots of this host's volumes that have expired. One that a guest
// is connected to stays until it is not. The store learns of it when the volume is published
// for another reason, but at most an hour later if the volume is open. For volumes that the
// store does not know Expire makes no request.
func (u *Undo) Expire(ctx context.Context) {
	ctx = cost.With(ctx, cost.Upkeep, cost.Volume{})
	now := u.disks.Now()
	for _, s := range u.disks.All() {
		st := s.State()
		if at := st.ExpiresAt; !at.IsZero() && at.Before(now) && st.SnapshotOf != (volume.ID{}) {
			u.try(ctx, st.SnapshotOf, func(d *disk.Disk) error {
				_, err := u.discard(ctx, d, s)
				return err
			})
		}
		if at := st.ExpiredAt; !at.IsZero() && now.Sub(at) >= publishExpired && s.Volume() != nil {
			u.try(ctx, s.ID, func(d *disk.Disk) error {
				ctx, cancel := context.WithTimeout(ctx, publishWithin)
				defer cancel()
				_, err := u.publisher.Publish(ctx, d, commitlog.CauseSnapshot, nil)
				return err
			})
		}
	}
}

// try calls do with a volume of which this host has the current state, under op, unless a
// verb is at work there. Whatever fails is tried again the next time.
func (u *Undo) try(ctx context.Context, id volume.ID, do func(*disk.Disk) error) {
	d := u.disks.ByID(id)
	if d == nil || ctx.Err() != nil || !d.HoldsState() || !d.Op.TryLock() {
		return
	}
	defer d.Op.Unlock()
	if d.Removed() || !d.HoldsState() {
		return
	}
	if err := do(d); err != nil {
		u.disks.Log.Warn("an expired snapshot is not removed yet", "volume", d.String(), "error", err)
	}
}

// discard removes a snapshot from this host, unless guests are connected to it. The next
// commit of its volume does not list it any more. Under op of the volume.
func (u *Undo) discard(ctx context.Context, d, s *disk.Disk) (gone bool, _ error) {
	open, ok := s.BlockGuestsIfNone()
	if !ok {
		return false, nil
	}
	defer open()
	s.Op.Lock()
	defer s.Op.Unlock()
	if s.Removed() {
		return true, nil
	}
	s.Moving.Lock() // no fork may be born without the pin
	defer s.Moving.Unlock()
	if st := s.State(); st.Generation != "" {
		if err := u.pins.KeepChildren(ctx, st.Root, st.ID); err != nil { // reachable-is-kept
			return false, err
		}
		err := d.Update(func(r *volume.State) {
			if r.Unsaid = true; r.ExpiredAt.IsZero() {
				r.ExpiredAt = u.disks.Now().UTC()
			}
		})
		if err != nil {
			return false, err
		}
	}
	if err := u.owners.Erase(s); err != nil {
		return true, err
	}
	ctx, cancel := context.WithTimeout(ctx, durability.LastShipping) // the store need not answer
	defer cancel()
	u.pins.Release(ctx) // it may have been the last that needed a pin
	return true, nil
}
