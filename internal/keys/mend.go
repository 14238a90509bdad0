package keys

import (
	"bytes"
	"context"
	"errors"

	"github.com/paraglide/glide/internal/errs"
)

// Mend compares the keyring in the store with r, and puts r's bytes back where they are
// damaged: a host that has the secrets may be the last one that could. damage is what was
// wrong with the object key, nil if nothing; err is why it is so still, nil if it was mended.
//
// An object that is gone stays gone, since somebody may have deleted it to destroy the keys,
// and so does one that shares neither its MAC nor its body with r: that is another keyring,
// of a store that was set back, and the only copy of its secrets.
func (k *Keyrings) Mend(ctx context.Context, r *Ring) (key string, damage, err error) {
	key = objectKey(r.domain, r.number)
	raw, err := k.Store.Get(ctx, key)
	switch {
	case err == nil && bytes.Equal(raw, r.raw):
		return key, nil, nil
	case err != nil && !errors.Is(err, errs.NotFound):
		return key, nil, err
	}
	gone := err != nil
	if current, err := k.inForce(ctx, r); err != nil || !current {
		return key, nil, err // its successor is in force, or a tombstone
	}
	if gone {
		damage = errs.New(errs.Corrupt, "it is gone")
		return key, damage, errs.New(errs.NotFound, "restore it from a backup: hosts that start without it cannot open the domain")
	}
	damage = corrupt("%d bytes are not those that this host opened", len(raw))
	o, err := decode(r.raw)
	if err != nil {
		return key, damage, err
	}
	if !bytes.Contains(raw, o.mac) && !bytes.Contains(raw, o.body) {
		return key, damage, errs.New(errs.Corrupt, "it may be another keyring: the store was set back, and somebody went on; restore the right one from a backup")
	}
	if err := k.Store.Put(ctx, key, r.raw); err != nil {
		return key, damage, err
	}
	if current, err := k.inForce(ctx, r); err != nil || current {
		return key, damage, err
	}
	return key, damage, k.Store.Delete(ctx, key) // erased, or wrapped again, meanwhile
}

// inForce tells whether the domain has neither a keyring after r nor a tombstone.
func (k *Keyrings) inForce(ctx context.Context, r *Ring) (bool, error) {
	number, erased, err := k.newest(ctx, r.domain)
	return number <= r.number && !erased, err
}
