package reach

import (
	"errors"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// Scope is all that can name what is of a domain.
type Scope struct {
	Domain uint32
	Store  objstore.Store // with the keys of those that are read
	// Reads has the names of the domains whose logs and pins are read, a tenant's or those of
	// isolated volumes. Of the objects of others in the same logs only headers are. Without
	// Limited it is everybody's.
	Reads   []string
	Limited bool
	// Tenants are all that are known. In domain 0 one of them is whose root a pin keeps.
	Tenants []string
	// Hasher returns a domain's; nil: that of a plain tenant.
	Hasher func(domain string) *pack.Hasher
}

// past tells whether maps of the past may name what is plain, from the time when the tenant
// of a sealed domain was moved into it. That is not of the domain, names nothing of it, and
// may be gone.
func (s *Scope) past() bool { return s.Limited && s.Domain != 0 }

// reads tells whether a domain's logs are read.
func (s *Scope) reads(domain string) bool { return !s.Limited || slices.Contains(s.Reads, domain) }

// lists tells whether a tenant has a domain whose logs are read.
func (s *Scope) lists(tenant string) bool {
	return !s.Limited || slices.ContainsFunc(s.Reads, func(name string) bool { return tenantIn(name) == tenant })
}

func tenantIn(name string) string {
	tenant, _, _ := commitlog.ParseDomainName(name)
	return tenant
}

// hasher returns the hasher of a domain that is read.
func (s *Scope) hasher(domain string) *pack.Hasher {
	if s.Hasher == nil {
		return pack.NewHasher(domain)
	}
	return s.Hasher(domain)
}

// prefixes are where the logs begin that are read. All are listed at once if most of them
// may be read.
func (s *Scope) prefixes() (list []string) {
	if !s.Limited || s.Domain == 0 {
		return []string{"t/"}
	}
	for _, name := range s.Reads {
		list = append(list, "t/"+tenantIn(name)+"/")
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// candidate is a tenant whose a root may be, with the hasher that tells.
type candidate struct {
	tenant string
	hasher *pack.Hasher
}

// candidates are whose a pinned root may be that lies in a domain. Pins do not say so: the
// domain does, as far as there is one, and else the hash is keyed by the tenant's name. There
// are none if nothing that the root reaches is of the domain of the scope: what lies in
// domain 0 names nothing of another.
func (s *Scope) candidates(domain uint32) (list []candidate) {
	if domain == 0 {
		if s.Limited && s.Domain != 0 {
			return nil
		}
		// No keys are needed for plain pages, also not of who was moved meanwhile.
		for _, t := range s.Tenants {
			list = append(list, candidate{t, pack.NewHasher(t)})
		}
		return list
	}
	from := s.Reads
	if !s.Limited {
		from = s.Tenants
	}
	for _, t := range from {
		h := s.hasher(t)
		if _, err := h.In(domain); err == nil && (!s.Limited || h.Codec().Domain != nil) { // a plain one reads only what is plain
			list = append(list, candidate{t, h})
		}
	}
	return list
}

// TenantOf is the tenant in the key of something below t/, or the name of a domain.
func TenantOf(key string) string {
	tenant, _, _ := strings.Cut(strings.TrimPrefix(key, "t/"), "/")
	return tenant
}

// EpochID names an epoch of a volume's log. If names are hidden, so is that of the volume.
type EpochID struct {
	Tenant string `json:"tenant"`
	Volume string `json:"volume"`
	Epoch  uint64 `json:"epoch"`
}

// Log is the volume whose log it is in.
func (e EpochID) Log() commitlog.Volume { return commitlog.Volume{Tenant: e.Tenant, Name: e.Volume} }

// Key is the key of the epoch's first object.
func (e EpochID) Key() string {
	return e.Log().Key(commitlog.Generation{Epoch: e.Epoch, Number: 1})
}

// PastEpoch is an epoch that is to be collected.
type PastEpoch struct {
	EpochID
	Domain  string `json:"-"` // its name, as the mark found it
	Bytes   int64  `json:"bytes"`
	Objects int    `json:"objects"`
}

// isOther tells whether an error means that a map is another tenant's, or damaged.
func isOther(err error) bool { return errors.Is(err, errs.Corrupt) }
