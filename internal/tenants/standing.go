package tenants

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/pack"
)

// Standing is which domains a tenant has to do with, for who must know all that can name
// something of a domain.
type Standing struct {
	Tenant string
	Domain uint32   // its own; 0: it is plain
	Reads  []uint32 // others: what it may read
	Moving bool     // it may have plain volumes besides: of a locked one, the record says so
	Public bool     // others may name what is of its domain
	Erased bool     // a tombstone says that its keys were
	Locked error    // why its keys are not here; nil if they are, it is plain, or it was erased
	// Unknown is set if not even the domain can be told.
	Unknown bool
}

// Stands returns the standing of a tenant, after it has looked for newer keys unless
// somebody just has. The error is only the context's.
func (t *Tenants) Stands(ctx context.Context, name string) (Standing, error) {
	e := t.of(name)
	err := t.ready(ctx, e, freshFor)
	if ctx.Err() != nil {
		return Standing{}, ctx.Err()
	}
	if terr := e.take(ctx); terr != nil {
		return Standing{}, terr
	}
	defer e.give()
	s := Standing{Tenant: name}
	if err == nil {
		if e.record != nil {
			s.Public = e.record.Public
		}
		if r := e.ring; r != nil {
			s.Domain, s.Moving = r.Domain(), r.Plain()
			s.Public = s.Public || r.Public()
			for _, g := range r.Grants() {
				s.Reads = append(s.Reads, g.Domain)
			}
		}
		return s, nil
	}
	return t.lockedOut(ctx, e, s, err), nil
}

// lockedOut fills in what can be known without keys of a tenant whose turn it is.
func (t *Tenants) lockedOut(ctx context.Context, e *tenant, s Standing, why error) Standing {
	s.Locked = why
	r, err := load(ctx, t.o.Store, e.name)
	switch {
	case err == nil:
		s.Domain, s.Public, s.Moving = r.Domain, r.Public, r.Moving
	case e.record != nil && e.record.Domain != 0:
		s.Domain, s.Public, s.Moving = e.record.Domain, e.record.Public, e.record.Moving
	case errors.Is(err, errs.NotFound):
		s.Moving = true // nobody knows
	default:
		s.Unknown = e.seen == nil
		s.Moving = true
	}
	if e.seen != nil {
		s.Domain = e.seen.Domain
	}
	if s.Domain == 0 || err != nil || e.seen != nil && r.Domain != e.seen.Domain {
		return s
	}
	// locked-is-not-lost: a domain without keyrings is not an erased one.
	if errors.Is(why, keys.ErrErased) {
		if erased, err := t.keyrings.Erased(ctx, s.Domain); err == nil && erased {
			s.Erased, s.Locked = true, nil
		}
	}
	return s
}

// HasherOf returns the hasher of the tenant that has a domain, whose keys must be here.
func (t *Tenants) HasherOf(ctx context.Context, domain uint32) (*pack.Hasher, error) {
	found := ""
	err := Records(ctx, t.o.Store, func(r Record, err error) error {
		if err == nil && r.Domain == domain {
			found = r.Tenant
		}
		return nil
	})
	if err == nil && found == "" {
		err = errs.New(errs.NotFound, "no tenant is known whose domain %08x is", domain)
	}
	if err != nil {
		return nil, err
	}
	return t.Hasher(found).Renewed(ctx)
}
