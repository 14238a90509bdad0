package commitlog

import (
	"cmp"
	"context"
	"strings"

	"github.com/paraglide/glide/internal/commitlog/internal/place"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Hidden tells whether the volume goes by the hidden name of its log.
func (v Volume) Hidden() bool { return strings.HasPrefix(v.Name, place.HiddenMark) }

// checkLog is Check for what may be a log's name.
func (v Volume) checkLog() error {
	if ValidName(v.Tenant) && v.Hidden() && place.ValidLog(v.Name) {
		return nil
	}
	return v.Check()
}

// hide returns the volume as the store knows it.
func (k *Keys) hide(v Volume) Volume {
	if k.Hidden && !v.Hidden() {
		v.Name = place.HiddenMark + k.Domain.HideName(v.Name)
	}
	return v
}

// LogOf returns a volume as the keys of its log have it: under its own name, or under the
// hidden one if its tenant hides names. What is hidden stays as it is, and needs no keys. It
// makes no request if the tenant's are known.
func LogOf(ctx context.Context, store objstore.Store, vol Volume) (Volume, error) {
	s, ok := store.(*keyedStore)
	if !ok || vol.Hidden() {
		return vol, nil
	}
	k, err := s.keys.ForNames(ctx, vol.Tenant)
	if err != nil {
		return Volume{}, err
	}
	return k.hide(vol), nil
}

// KeyOf is the key of a generation of the volume, in its log.
func KeyOf(ctx context.Context, store objstore.Store, vol Volume, g Generation) (string, error) {
	log, err := LogOf(ctx, store, vol)
	return log.Key(g), err
}

// Log names the log that the object is in, as keys and data runs have it.
func (o *Object) Log() Volume { return cmp.Or(o.log, o.State.Volume()) }

// belongs checks that an object that was read is where its state says, under the keys that
// the store has. Who can write to a log must not be able to show it as another volume's.
func (o *Object) belongs(ctx context.Context, store objstore.Store, log Volume, g Generation) error {
	want := o.State.Volume()
	if o.Domain != 0 { // its keys are here: it was opened
		var err error
		if want, err = LogOf(ctx, store, want); err != nil {
			return err
		}
	}
	if o.Generation != g || want != log {
		return errs.New(errs.Corrupt, "%s holds commit %s of %s", log.Key(g), o.Generation, o.State.Volume())
	}
	o.log = log
	return nil
}
