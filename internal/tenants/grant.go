package tenants

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// Grant lets a sealed tenant read what a public one has stored, unless its keyring says so
// already. From then on its maps may name blocks of the public one's domain, which it keeps
// as long as they do: see realms in package gc.
func (t *Tenants) Grant(ctx context.Context, to, public string) error {
	s, err := t.Stands(ctx, public)
	switch {
	case err != nil:
		return err
	case s.Erased || !s.Public || s.Domain == 0: // one that does not exist looks the same
		return notPublic(public)
	case s.Locked != nil:
		return s.Locked
	}
	k, err := t.Keys(ctx, to)
	if err != nil {
		return err
	}
	if k.Domain == nil {
		return errs.New(errs.Invalid, "tenant %q is not sealed, so it has no keyring that could say what it may read of %q: glide tenant seal %s --key PROVIDER", to, public, to)
	}
	lender, e := t.of(public), t.of(to)
	if err := lender.take(ctx); err != nil {
		return err
	}
	other := lender.ring
	lender.give()
	switch {
	case other == nil:
		return errs.New(errs.Busy, "the keys of tenant %q were just taken away; try again", public)
	case !other.Public(): // whatever the store shows as its record
		return notPublic(public)
	}
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if e.ring != nil && e.ring.Public() {
		return errs.New(errs.Invalid, "tenant %q is public itself, and what others read must be of one domain: import the disk again", to)
	}
	if e.ring == nil || e.ring.Allows(other) {
		return e.why
	}
	ring, err := t.keyrings.Allow(ctx, e.ring, other)
	if err != nil {
		return err
	}
	return t.adopt(e, ring)
}

func notPublic(tenant string) error {
	return errs.New(errs.Invalid, "tenant %q is not public, and tenants share no blocks: others fork only what a tenant has that was made with glide tenant create --public", tenant)
}

// hasherOf returns that of a tenant with these keys, which reads what its keyring grants, too.
func (t *Tenants) hasherOf(ring *keys.Ring, k *seal.Domain) (*pack.Hasher, error) {
	others := []*pack.Hasher{}
	for _, g := range ring.Grants() {
		granted, err := ring.Granted(g.Domain)
		if err != nil {
			return nil, err
		}
		// Since the grant the other tenant may have rotated, and sealed what it had anew.
		if newer := t.of(g.Tenant).lent.Load(); newer != nil && newer.ID() == g.Domain {
			granted = newer
		}
		others = append(others, pack.NewSealedHasher(granted))
	}
	if ring.Plain() {
		others = append(others, pack.NewHasher(ring.Tenant()))
	}
	return pack.NewSealedHasher(k).Granting(others...), nil
}

// renewGrants looks for newer keys of those whose domains are granted to a tenant. Who cannot have
// them reads with those that the grant has. A public tenant has no grants, so nobody waits
// in a circle.
func (t *Tenants) renewGrants(ctx context.Context, e *tenant, after time.Duration) {
	k := e.keys.Load()
	if e.ring == nil || k == nil || k.Domain == nil || e.ring.Public() {
		return
	}
	for _, g := range e.ring.Grants() {
		if g.Tenant == "" {
			continue
		}
		lender := t.of(g.Tenant)
		if _, err := t.keysOf(ctx, lender); err == nil {
			_ = t.renew(ctx, lender, after)
		}
	}
	if h, err := t.hasherOf(e.ring, k.Domain); err == nil {
		e.hasher.Become(h)
	}
}
