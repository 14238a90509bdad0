package tenants

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/errs"
)

// Mending is an object of a tenant's that was damaged.
type Mending struct {
	Key    string
	Damage error
	Err    error // why it is so still; nil: it was mended
}

// Mend compares the record and the keyring of a sealed tenant in the store with what this
// host has of them, and puts right what is damaged. It asks no provider. What is not known
// here is not looked at. The error says why the store could not be asked.
func (t *Tenants) Mend(ctx context.Context, name string) (list []Mending, err error) {
	e := t.of(name)
	if err := e.take(ctx); err != nil {
		return nil, err
	}
	defer e.give()
	if e.ring == nil || e.keys.Load() == nil {
		return nil, nil
	}
	key, damage, kerr := t.keyrings.Mend(ctx, e.ring)
	switch {
	case damage != nil:
		list = append(list, Mending{key, damage, kerr})
	case kerr != nil:
		return nil, kerr
	}
	damage, rerr := t.mendRecord(ctx, e)
	switch {
	case damage != nil:
		list = append(list, Mending{recordKey(name), damage, rerr})
	case rerr != nil:
		return list, rerr
	}
	return list, nil
}

// mendRecord does for the record what Keyrings.Mend does for the keyring.
func (t *Tenants) mendRecord(ctx context.Context, e *tenant) (damage, err error) {
	switch _, err = load(ctx, t.o.Store, e.name); {
	case errors.Is(err, errs.NotFound):
		if erased, err := t.keyrings.Erased(ctx, e.ring.Domain()); err != nil || erased {
			return nil, err
		}
		return errs.New(errs.Corrupt, "it is gone"), errs.New(errs.NotFound, "restore it from a backup: a host that never saw the tenant takes it for a plain one")
	case errs.KindOf(err) == errs.Corrupt && err != nil:
		return err, t.putBack(ctx, e.record)
	case errs.KindOf(err) == errs.Unsupported && err != nil:
		return nil, nil // of a newer release, which can tell
	}
	return nil, err
}

// putBack stores a record as it was read.
func (t *Tenants) putBack(ctx context.Context, r *Record) error {
	if r.CreatedAt.IsZero() {
		return errs.New(errs.Unavailable, "this host has not read it since its start; restore it from a backup")
	}
	raw, err := r.encode()
	if err != nil {
		return err
	}
	return t.o.Store.Put(ctx, recordKey(r.Tenant), raw)
}
