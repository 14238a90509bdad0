package tenants

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
)

// Isolate makes a further domain of a sealed tenant, for a volume and its forks: with keys of
// their own they can be erased alone, and no other volume of the tenant shares blocks with
// them, which would tell that it has the same. Its keyring opens for whom the tenant's does.
// It returns the number of the domain, whose name is that of commitlog.DomainName.
func (t *Tenants) Isolate(ctx context.Context, tenant string) (uint32, error) {
	home := t.of(tenant)
	k, err := t.keysOf(ctx, home)
	if err != nil {
		return 0, err
	}
	if k.Domain == nil {
		return 0, errs.New(errs.Invalid, "tenant %q is plain, and only a volume of a sealed tenant can have keys of its own: glide tenant create NAME --key PROVIDER makes one", tenant)
	}
	if err := home.take(ctx); err != nil {
		return 0, err
	}
	of, record := home.ring, home.record
	home.give()
	switch {
	case of == nil:
		return 0, errs.New(errs.Busy, "the keys of tenant %q were just taken away; try again", tenant)
	case of.Public():
		return 0, errs.New(errs.Invalid, "tenant %q is public, and what others read must be of one domain", tenant)
	}
	name := ""
	ring, err := t.first(ctx, record.SSE, record.KMSKey, func(domain uint32) (string, *keys.Ring, error) {
		name = commitlog.DomainName(tenant, domain)
		ring, err := t.keyrings.Isolate(ctx, of, domain, name)
		return name, ring, err
	})
	if err != nil {
		return 0, err
	}
	r := &Record{Tenant: name, Domain: ring.Domain(), SSE: record.SSE, KMSKey: record.KMSKey, CreatedAt: t.o.Now()}
	if err := t.write(ctx, r); err != nil {
		return 0, errors.Join(err, t.keyrings.Erase(ctx, ring.Domain()))
	}
	e := t.of(name)
	if err := e.take(ctx); err != nil {
		return 0, err
	}
	defer e.give()
	e.record = r
	return ring.Domain(), t.adopt(e, ring)
}

// Drop removes a domain that Isolate made, and that nothing was stored in.
func (t *Tenants) Drop(ctx context.Context, tenant string, isolated uint32) error {
	name := commitlog.DomainName(tenant, isolated)
	if err := t.Erase(ctx, name); err != nil {
		return err
	}
	return t.o.Store.Delete(ctx, recordKey(name))
}

// Isolated returns the names of a tenant's isolated domains, as the store has their records;
// "" is everybody's.
func (t *Tenants) Isolated(ctx context.Context, tenant string) ([]string, error) {
	prefix := Prefix
	if tenant != "" {
		prefix += tenant + "+"
	}
	all, err := names(ctx, t.o.Store, prefix)
	var list []string
	for _, name := range all {
		if _, isolated, _ := commitlog.ParseDomainName(name); isolated != 0 {
			list = append(list, name)
		}
	}
	return list, err
}
