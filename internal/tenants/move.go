package tenants

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
)

// claims begins the keys of the objects by which hosts that seal one tenant at the same time
// agree on its domain, if it has a plain record: the first one has the record to be.
const claims = "sealing/"

// SettleFor is how long a tenant may still be taken for a plain one after its keys are in the
// store and no newest commit of it is plain. A host that stores something looks for keys when
// it begins and when it ends, and a host that begins a log looks for them (Fresh), if neither
// did so, nor read a plain newest commit, within freshFor; the commit, one request of at most
// 30 s of tries and a last one of 20 s and what its bytes take, follows. The rest is for hosts
// that are slow.
const SettleFor = freshFor + 4*freshFor

// Seal gives a plain tenant keys. From then on what it stores is sealed, and what is plain
// can still be read, until Moved. It may be repeated: a tenant that has keys stays as it is.
func (t *Tenants) Seal(ctx context.Context, b Birth) (Info, error) {
	if !commitlog.ValidName(b.Name) {
		return Info{}, errs.New(errs.Invalid, "%.120q is no name of a tenant", b.Name)
	}
	if err := t.begin(ctx, &b); err != nil {
		return Info{}, err
	}
	return t.Show(ctx, b.Name)
}

// begin makes the keyring and the record of a tenant that is to be moved, unless there are.
func (t *Tenants) begin(ctx context.Context, b *Birth) error {
	e := t.of(b.Name)
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	was, err := load(ctx, t.o.Store, b.Name)
	switch {
	case errors.Is(err, errs.NotFound) && e.seen == nil:
		was = nil
	case err != nil:
		return err
	case was.Domain != 0:
		return nil
	case e.seen != nil:
		return t.accept(ctx, e, was) // which says what is wrong
	}
	if len(b.Keys) == 0 {
		return errs.New(errs.Invalid, "tenant %q needs keys: name key providers (--key), or have this daemon know some (glide serve --key)", b.Name)
	}
	ring, err := t.bear(ctx, b, true)
	if err != nil {
		return err
	}
	r := &Record{Tenant: b.Name, CreatedAt: t.o.Now()}
	if was != nil {
		*r = *was
	}
	r.Domain, r.Moving, r.Hidden = ring.Domain(), true, false
	if was == nil {
		err = t.write(ctx, r)
	} else {
		r, err = t.replace(ctx, r)
	}
	if errors.Is(err, errs.Exists) || err == nil && r.Domain != ring.Domain() { // another host was faster
		return t.keyrings.Erase(ctx, ring.Domain())
	}
	if err != nil {
		return err
	}
	e.record = r
	return t.adopt(e, ring)
}

// replace puts a record in the place of a plain one. If another host does, too, it returns
// the one that both put there.
func (t *Tenants) replace(ctx context.Context, r *Record) (*Record, error) {
	raw, err := r.encode()
	if err != nil {
		return nil, err
	}
	if err := t.o.Store.PutIfAbsent(ctx, claims+r.Tenant, raw); err != nil {
		there, gerr := t.o.Store.Get(ctx, claims+r.Tenant)
		if gerr != nil {
			return nil, errors.Join(err, gerr)
		}
		if r, err = decode(r.Tenant, there); err != nil {
			return nil, err
		}
		raw = there
	}
	return r, t.o.Store.Put(ctx, Prefix+r.Tenant, raw)
}

// Moved ends the time in which what a tenant stored before it was sealed is read: the caller
// has made sure that nothing needs it, and that SettleFor is over.
func (t *Tenants) Moved(ctx context.Context, name string) (Info, error) {
	i, err := t.change(ctx, name, func(r *keys.Ring) (*keys.Ring, error) { return t.keyrings.Moved(ctx, r) })
	if err != nil {
		return i, err
	}
	r := i.Record
	r.Moving = false
	raw, err := r.encode()
	if err == nil {
		// Only who has no keys believes it, and does less as long as it is there.
		err = t.o.Store.Put(ctx, Prefix+name, raw)
	}
	i.Record = r
	return i, err
}

// strict are the keys of tenants for who reads nothing that is plain of one that has a domain.
type strict struct{ *Tenants }

// Keys implements commitlog.KeyRing.
func (s strict) Keys(ctx context.Context, tenant string) (commitlog.Keys, error) {
	k, err := s.Tenants.Keys(ctx, tenant)
	k.Plain = k.Plain && k.Domain == nil
	return k, err
}

// Strict returns a store whose logs are read as when everything was moved.
func (t *Tenants) Strict(store objstore.Store) objstore.Store {
	return commitlog.WithKeys(store, strict{t})
}

// Sealing tells whether a tenant is sealed, and if so, whether it is still being moved. It
// looks for newer keys unless somebody just has.
func (t *Tenants) Sealing(ctx context.Context, name string) (sealed, moving bool, err error) {
	if _, err := t.Hasher(name).Renewed(ctx); err != nil {
		return false, false, err
	}
	k, err := t.Keys(ctx, name)
	return k.Domain != nil, k.Plain, err
}
