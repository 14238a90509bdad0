package ownership

import (
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/volume"
)

// FenceIfLost fences a disk if err says that another host owns the volume. It returns
// err. Under op; no fold of the volume may be in progress.
func (ow *Owners) FenceIfLost(d *disk.Disk, err error) error {
	ow.reportTwin(err)
	if err == nil || errs.KindOf(err) != errs.Fenced {
		return err
	}
	v := d.Volume()
	if v == nil || d.State().Mode == volume.Fenced {
		return err
	}
	// From here on nothing is acknowledged: waiting and later requests fail with EIO.
	v.Fail(err)
	d.StopShipping(err)
	if rerr := ow.fence(d, v, err); rerr != nil {
		ow.disks.Event(event.Volume, d.String(), "fenced, and its unpublished data could not be moved to a rescue volume yet: %v", rerr)
		return errors.Join(err, rerr)
	}
	return err
}

// FenceClosedIfLost is FenceIfLost for a disk that may be closed. Under op.
func (ow *Owners) FenceClosedIfLost(d *disk.Disk, err error) error {
	ow.reportTwin(err)
	st := d.State()
	if errs.KindOf(err) != errs.Fenced || err == nil || st.Mode == volume.Fenced || d.Volume() != nil {
		return err
	}
	if st.Released {
		return errors.Join(err, ow.FenceClosed(d, err))
	}
	if _, werr := d.Wake(false); werr != nil { // the volume must be open to rescue its unpublished data
		return errors.Join(err, werr)
	}
	return ow.FenceIfLost(d, err)
}

// fence records that another host owns the disk and, in the same save, creates the rescue
// volume with the data that was not published.
func (ow *Owners) fence(d *disk.Disk, v *volume.Volume, why error) error {
	st := v.State()
	var snaps []*disk.Disk
	var rescue *disk.Disk
	if ow.unpublished(d, v, &st) {
		rec, err := ow.rescueRecord(d, &st)
		if err != nil {
			return err
		}
		rescue = disk.New(ow.disks, rec)
		rescue.Op.Lock() // callers that find the rescue volume wait until it has its data
		defer rescue.Op.Unlock()
		if err := ow.disks.Reserve(rescue); err != nil {
			return err
		}
		snaps = ow.disks.SnapshotsOf(d.ID)
	}
	for _, s := range snaps {
		s.Op.Lock()
		defer s.Op.Unlock()
	}
	name := d.String()
	if err := ow.disks.WithoutCleaning(func() error { return ow.moveAside(d, v, why, rescue, snaps) }); err != nil {
		if rescue != nil {
			ow.disks.Unreserve(rescue)
		}
		return err
	}
	if rescue == nil {
		ow.disks.Event(event.Volume, name, "fenced: %v; all of it was published", why)
		return nil
	}
	ow.disks.Event(event.Volume, name, "fenced: %v; unpublished data is in volume %s", why, rescue)
	return nil
}

// unpublished reports whether the store lacks data or snapshots of a disk.
func (ow *Owners) unpublished(d *disk.Disk, v *volume.Volume, st *volume.State) bool {
	for _, s := range ow.disks.SnapshotsOf(d.ID) {
		if s.State().Generation == "" {
			return true
		}
	}
	if st.Ships() {
		return v.Last() > st.Shipped
	}
	return v.Dirty()
}

// rescueRecord returns the record of a rescue volume. Its name contains the epoch in
// which the volume was fenced.
func (ow *Owners) rescueRecord(d *disk.Disk, st *volume.State) (volume.State, error) {
	epoch := disk.Generation(st.Published).Epoch
	if d.Owner != nil && !d.Owner.Generation().IsZero() {
		epoch = d.Owner.Generation().Epoch
	}
	for try := range 100 {
		suffix := fmt.Sprintf(".rescue-%d", epoch)
		if try > 0 {
			suffix += fmt.Sprintf("-%d", try+1)
		}
		n := disk.Name{Tenant: st.Tenant, Volume: st.Name[:min(len(st.Name), commitlog.MaxName-len(suffix))] + suffix}
		if ow.disks.Find(n) != nil {
			continue // the rescue volume of an earlier volume of this name
		}
		rec := ow.disks.NewState(n, st.Size)
		rec.Parent = &volume.Parent{Name: disk.Display(st.Tenant, st.Name, ""), ID: st.ID}
		if st.Published != nil {
			rec.Parent.Generation = disk.Generation(st.Published).String()
		}
		return rec, nil
	}
	return volume.State{}, errs.New(errs.Exists, "there are too many rescue volumes of %q: export and remove some", d)
}

// moveAside closes a fenced volume and moves its unpublished data and snapshots to the
// rescue volume. Without a rescue volume it only closes it.
func (ow *Owners) moveAside(d *disk.Disk, v *volume.Volume, why error, rescue *disk.Disk, snaps []*disk.Disk) error {
	fenced := v.State()
	fenced.Mode, fenced.Reason, fenced.Segments = volume.Fenced, why.Error(), nil
	if rescue == nil {
		_ = v.Close() // what it could not sync was published or is not needed
		if err := ow.disks.Save(&fenced); err != nil {
			return err
		}
		d.SetClosed(v, fenced)
		return nil
	}
	fenced.Reason += "; unpublished data is in volume " + rescue.String()
	rec := rescue.State()
	records := []*volume.State{&rec, &fenced}
	adopted := func(s *volume.State) { s.SnapshotOf, s.Name = rec.ID, rec.Name }
	for _, s := range snaps {
		st := s.State()
		adopted(&st)
		records = append(records, &st)
	}
	kid, err := v.Rescue(&rec, func() error { return ow.disks.Save(records...) })
	if err != nil {
		return err
	}
	rescue.SetVolume(kid)
	d.SetClosed(v, fenced)
	for _, s := range snaps {
		ow.disks.Drop(s)
		if err := s.Update(adopted); err != nil {
			ow.disks.Log.Warn("a record is out of date", "volume", s.String(), "error", err) // it was saved above
		}
		ow.disks.Register(s)
	}
	return nil
}

// FenceClosed records that another host owns a closed disk. The store must have all of
// its data. Under op.
func (ow *Owners) FenceClosed(d *disk.Disk, why error) error {
	d.SetOwner(nil)
	err := d.Update(func(s *volume.State) { s.Mode, s.Reason, s.Segments = volume.Fenced, why.Error(), nil })
	if err != nil {
		return err
	}
	d.ReleaseClaims()
	ow.disks.Event(event.Volume, d.String(), "fenced: %v; all of it was published", why)
	return nil
}
