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

// FenceIfLost fences a disk when an error says that another host has it, and
// returns the error. Under op; the volume must not be in a fold.
func (ow *Owners) FenceIfLost(d *disk.Disk, err error) error {
	ow.reportTwin(err)
	if err == nil || errs.KindOf(err) != errs.Fenced {
		return err
	}
	v := d.Volume()
	if v == nil || d.State().Mode == volume.Fenced {
		return err
	}
	// From here on nothing is acknowledged; what waits, and what comes, is EIO.
	v.Fail(err)
	d.StopShipping(err)
	if rerr := ow.fence(d, v, err); rerr != nil {
		ow.disks.Event(event.Volume, d.String(), "fenced, and what it had not published could not be put aside yet: %v", rerr)
		return errors.Join(err, rerr)
	}
	return err
}

// FenceClosedIfLost is fenceIfLost for a disk that need not be open. Under op.
func (ow *Owners) FenceClosedIfLost(d *disk.Disk, err error) error {
	ow.reportTwin(err)
	st := d.State()
	if errs.KindOf(err) != errs.Fenced || err == nil || st.Mode == volume.Fenced || d.Volume() != nil {
		return err
	}
	if st.Released {
		return errors.Join(err, ow.FenceClosed(d, err))
	}
	if _, werr := d.Wake(false); werr != nil { // what it has not published is to be rescued
		return errors.Join(err, werr)
	}
	return ow.FenceIfLost(d, err)
}

// fence records that a disk is another host's now, and, in the same step, the
// rescue volume that has what it could not publish.
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
		rescue.Op.Lock() // who finds it waits until it has what it is for
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
		ow.disks.Event(event.Volume, name, "fenced: %v; nothing was left to be published", why)
		return nil
	}
	ow.disks.Event(event.Volume, name, "fenced: %v; what was not published is in %s", why, rescue)
	return nil
}

// unpublished tells whether the store lacks anything of a disk.
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

// rescueRecord is the record of a rescue volume, named for the epoch in which
// its volume was fenced.
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
			continue // of another volume with this name, fenced before
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

// moveAside closes a fenced volume and gives what it holds to its rescue.
func (ow *Owners) moveAside(d *disk.Disk, v *volume.Volume, why error, rescue *disk.Disk, snaps []*disk.Disk) error {
	fenced := v.State()
	fenced.Mode, fenced.Reason, fenced.Segments = volume.Fenced, why.Error(), nil
	if rescue == nil {
		_ = v.Close() // what it could not sync was published, or is not wanted
		if err := ow.disks.Save(&fenced); err != nil {
			return err
		}
		d.SetClosed(v, fenced)
		return nil
	}
	fenced.Reason += "; what was not published is in volume " + rescue.String()
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
			ow.disks.Log.Warn("a record lags", "volume", s.String(), "error", err) // it was saved above
		}
		ow.disks.Register(s)
	}
	return nil
}

// FenceClosed records that a disk that is closed, and holds nothing that the store
// lacks, is another host's now. Under op.
func (ow *Owners) FenceClosed(d *disk.Disk, why error) error {
	d.SetOwner(nil)
	err := d.Update(func(s *volume.State) { s.Mode, s.Reason, s.Segments = volume.Fenced, why.Error(), nil })
	if err != nil {
		return err
	}
	d.ReleaseClaims()
	ow.disks.Event(event.Volume, d.String(), "fenced: %v; nothing was left to be published", why)
	return nil
}
