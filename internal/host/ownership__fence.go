package host

import (
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// fenceIfLost fences a disk when an error says that another host has it, and
// returns the error. Under op; the volume must not be in a fold.
func (ow *Owners) fenceIfLost(d *disk, err error) error {
	ow.reportTwin(err)
	if err == nil || errs.KindOf(err) != errs.Fenced {
		return err
	}
	v := d.open()
	if v == nil || d.state().Mode == volume.Fenced {
		return err
	}
	// From here on nothing is acknowledged; what waits, and what comes, is EIO.
	v.Fail(err)
	d.stopShipping(err)
	if rerr := ow.fence(d, v, err); rerr != nil {
		ow.disks.event(eventVolume, d.String(), "fenced, and what it had not published could not be put aside yet: %v", rerr)
		return errors.Join(err, rerr)
	}
	return err
}

// fenceClosedIfLost is fenceIfLost for a disk that need not be open. Under op.
func (ow *Owners) fenceClosedIfLost(d *disk, err error) error {
	ow.reportTwin(err)
	st := d.state()
	if errs.KindOf(err) != errs.Fenced || err == nil || st.Mode == volume.Fenced || d.open() != nil {
		return err
	}
	if st.Released {
		return errors.Join(err, ow.fenceClosed(d, err))
	}
	if _, werr := d.wake(false); werr != nil { // what it has not published is to be rescued
		return errors.Join(err, werr)
	}
	return ow.fenceIfLost(d, err)
}

// fence records that a disk is another host's now, and, in the same step, the
// rescue volume that has what it could not publish.
func (ow *Owners) fence(d *disk, v *volume.Volume, why error) error {
	st := v.State()
	var snaps []*disk
	var rescue *disk
	if ow.unpublished(d, v, &st) {
		rec, err := ow.rescueRecord(d, &st)
		if err != nil {
			return err
		}
		rescue = newDisk(ow.disks, rec)
		rescue.op.Lock() // who finds it waits until it has what it is for
		defer rescue.op.Unlock()
		if err := ow.disks.reserve(rescue); err != nil {
			return err
		}
		snaps = ow.disks.snapshotsOf(d.id)
	}
	for _, s := range snaps {
		s.op.Lock()
		defer s.op.Unlock()
	}
	name := d.String()
	if err := ow.disks.withoutCleaning(func() error { return ow.moveAside(d, v, why, rescue, snaps) }); err != nil {
		if rescue != nil {
			ow.disks.unreserve(rescue)
		}
		return err
	}
	if rescue == nil {
		ow.disks.event(eventVolume, name, "fenced: %v; nothing was left to be published", why)
		return nil
	}
	ow.disks.event(eventVolume, name, "fenced: %v; what was not published is in %s", why, rescue)
	return nil
}

// unpublished tells whether the store lacks anything of a disk.
func (ow *Owners) unpublished(d *disk, v *volume.Volume, st *volume.State) bool {
	for _, s := range ow.disks.snapshotsOf(d.id) {
		if s.state().Generation == "" {
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
func (ow *Owners) rescueRecord(d *disk, st *volume.State) (volume.State, error) {
	epoch := generation(st.Published).Epoch
	if d.owner != nil && !d.owner.Generation().IsZero() {
		epoch = d.owner.Generation().Epoch
	}
	for try := range 100 {
		suffix := fmt.Sprintf(".rescue-%d", epoch)
		if try > 0 {
			suffix += fmt.Sprintf("-%d", try+1)
		}
		n := Name{st.Tenant, st.Name[:min(len(st.Name), commitlog.MaxName-len(suffix))] + suffix, ""}
		if ow.disks.find(n) != nil {
			continue // of another volume with this name, fenced before
		}
		rec := ow.disks.newState(n, st.Size)
		rec.Parent = &volume.Parent{Name: display(st.Tenant, st.Name, ""), ID: st.ID}
		if st.Published != nil {
			rec.Parent.Generation = generation(st.Published).String()
		}
		return rec, nil
	}
	return volume.State{}, errs.New(errs.Exists, "there are too many rescue volumes of %q: export and remove some", d)
}

// moveAside closes a fenced volume and gives what it holds to its rescue.
func (ow *Owners) moveAside(d *disk, v *volume.Volume, why error, rescue *disk, snaps []*disk) error {
	fenced := v.State()
	fenced.Mode, fenced.Reason, fenced.Segments = volume.Fenced, why.Error(), nil
	if rescue == nil {
		_ = v.Close() // what it could not sync was published, or is not wanted
		if err := ow.disks.save(&fenced); err != nil {
			return err
		}
		d.closed(v, fenced)
		return nil
	}
	fenced.Reason += "; what was not published is in volume " + rescue.String()
	rec := rescue.state()
	records := []*volume.State{&rec, &fenced}
	adopted := func(s *volume.State) { s.SnapshotOf, s.Name = rec.ID, rec.Name }
	for _, s := range snaps {
		st := s.state()
		adopted(&st)
		records = append(records, &st)
	}
	kid, err := v.Rescue(&rec, func() error { return ow.disks.save(records...) })
	if err != nil {
		return err
	}
	rescue.adopt(kid)
	d.closed(v, fenced)
	for _, s := range snaps {
		ow.disks.drop(s)
		if err := s.update(adopted); err != nil {
			ow.disks.Log.Warn("a record lags", "volume", s.String(), "error", err) // it was saved above
		}
		ow.disks.register(s)
	}
	return nil
}

// fenceClosed records that a disk that is closed, and holds nothing that the store
// lacks, is another host's now. Under op.
func (ow *Owners) fenceClosed(d *disk, why error) error {
	d.setOwner(nil)
	err := d.update(func(s *volume.State) { s.Mode, s.Reason, s.Segments = volume.Fenced, why.Error(), nil })
	if err != nil {
		return err
	}
	d.releaseClaims()
	ow.disks.event(eventVolume, d.String(), "fenced: %v; nothing was left to be published", why)
	return nil
}
