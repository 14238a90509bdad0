package gc

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants"
)

// Skipped is a domain of which no round could be run. What is unreadable because keys are
// not here is no garbage.
type Skipped struct {
	Domain uint32
	Why    string
}

// realm is a domain with the tenants that have to do with it. An isolated domain is called as
// commitlog.DomainName has it, and is one more tenant here.
type realm struct {
	domain uint32
	all    bool     // every tenant is plain, as far as anybody knows
	owners []string // whose logs are collected in its rounds
	reads  []string // whose logs and pins may name what is of it
	public bool     // everybody's may
	erased bool     // its keys were: nothing of it is anybody's
	why    error    // no round can be run
}

// owns tells whether the logs of a tenant are collected in rounds of the realm.
func (r *realm) owns(tenant string) bool { return r.all || slices.Contains(r.owners, tenant) }

func (r *realm) stop(why error) {
	if r.why == nil {
		r.why = why
	}
}

// realms are all domains that have to do with a tenant.
type realms struct {
	tenants []string
	of      map[uint32]*realm
	unknown error // a tenant of which not even the domain is known
}

func (rs *realms) get(domain uint32) *realm {
	r := rs.of[domain]
	if r == nil {
		r = &realm{domain: domain}
		rs.of[domain] = r
	}
	return r
}

// realms finds out which tenants can name what of each domain. Without Options.Tenants all
// are plain.
func (c *collector) realms(ctx context.Context, inv *inventory) (*realms, error) {
	rs := &realms{of: map[uint32]*realm{}, tenants: slices.Sorted(maps.Keys(inv.tenants))}
	zero := rs.get(0)
	if c.Tenants == nil {
		for _, d := range inv.domains() {
			rs.get(d).all = true
		}
		rs.tenants = withDefault(rs.tenants)
		return rs, nil
	}
	for _, name := range rs.tenants {
		s, err := c.Tenants.Stands(ctx, name)
		if err != nil {
			return nil, err
		}
		rs.add(&s)
	}
	for _, r := range rs.of {
		switch {
		case r.domain != 0 && len(r.owners) > 1:
			r.stop(errs.New(errs.Corrupt, "tenants %q say that it is theirs: one of their records was changed", r.owners))
		case r.public: // whoever may name it must be read
			r.reads = rs.tenants
			for _, other := range rs.of {
				if other.why != nil {
					r.stop(other.why)
				}
			}
		}
	}
	if rs.unknown != nil {
		zero.stop(rs.unknown)
	}
	rs.tenants = withDefault(rs.tenants)
	return rs, nil
}

// withDefault adds the tenant that may have pins, and nothing else yet.
func withDefault(names []string) []string {
	if slices.Contains(names, "default") {
		return names
	}
	return append([]string{"default"}, names...)
}

// add adds a tenant.
func (rs *realms) add(s *tenants.Standing) {
	home, zero := rs.get(s.Domain), rs.get(0)
	if s.Unknown {
		rs.unknown = s.Locked
		return
	}
	home.owners = append(home.owners, s.Tenant)
	home.public = home.public || s.Public && s.Domain != 0
	switch {
	case s.Erased:
		home.erased = true
		return
	case s.Locked != nil:
		home.stop(s.Locked)
		if s.Moving { // it may have plain blocks still
			zero.stop(s.Locked)
		}
		return
	}
	home.reads = append(home.reads, s.Tenant)
	if s.Moving && s.Domain != 0 {
		zero.reads = append(zero.reads, s.Tenant)
	}
	for _, d := range s.Reads {
		rs.get(d).reads = append(rs.get(d).reads, s.Tenant)
	}
}

// realm returns that of a domain of which something is in the store.
func (rs *realms) realm(domain uint32) *realm {
	r := rs.of[domain]
	if r == nil || domain != 0 && !r.all && len(r.owners) == 0 {
		why := rs.unknown
		if why == nil {
			why = errs.New(errs.NotFound, "no tenant is known whose it is; restore its record, below tenants/, from a backup")
		}
		return &realm{domain: domain, why: why}
	}
	return r
}

// scope is what a mark of the realm reads.
func (c *collector) scope(r *realm, rs *realms) *reach.Scope {
	s := &reach.Scope{Domain: r.domain, Store: c.Store, Reads: r.reads, Limited: !r.all, Tenants: rs.tenants}
	if c.Tenants != nil {
		s.Store, s.Hasher = c.Tenants.Keyed(c.Store), c.Tenants.Hasher
	}
	return s
}

// codec returns that of the realm's packs, with its newest keys.
func (c *collector) codec(ctx context.Context, r *realm) (pack.Codec, error) {
	if r.domain == 0 || r.all {
		return pack.Codec{}, nil
	}
	h, err := c.Tenants.Hasher(r.owners[0]).Renewed(ctx)
	if err != nil {
		return pack.Codec{}, err
	}
	return h.Codec(), nil
}

// domains are those with something to collect: of which there are packs or an open round,
// or a tenant who has something.
func (rs *realms) domains(inv *inventory) []uint32 {
	d := inv.domains()
	for x, r := range rs.of {
		if len(r.owners) > 0 {
			d = append(d, x)
		}
	}
	slices.Sort(d)
	return slices.Compact(d)
}

// skip notes that no round of a realm can be run.
func (c *collector) skip(r *realm) {
	s := Skipped{Domain: r.domain, Why: r.why.Error()}
	c.Log.Warn("no garbage is collected of a domain", "domain", fmt.Sprintf("%08x", s.Domain), "why", s.Why)
	c.res.Skipped = append(c.res.Skipped, s)
}
