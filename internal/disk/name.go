package disk

import (
	"cmp"
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
)

// maxSize is the largest size of a volume, in bytes.
const maxSize = 1 << 62

// CheckSize returns an error if a volume cannot have this size.
func CheckSize(size uint64) error {
	if size == 0 || size%512 != 0 || size > maxSize {
		return errs.New(errs.Invalid, "a volume cannot have %d bytes: its size is a multiple of 512, up to 2^62", size)
	}
	return nil
}

// DefaultTenant is the tenant of a name that gives none.
const DefaultTenant = "default"

// Name is a parsed [tenant/]name[@snapshot].
type Name struct {
	Tenant, Volume, Snapshot string
}

// ParseName parses the name of a volume, and of a snapshot if snapshot is true.
func ParseName(s string, snapshot bool) (Name, error) {
	n := Name{Tenant: DefaultTenant, Volume: s}
	if i := strings.IndexByte(n.Volume, '@'); i >= 0 {
		if !snapshot {
			return Name{}, errs.New(errs.Invalid, "%q names a snapshot: only commands that read a volume accept one", s)
		}
		n.Volume, n.Snapshot = n.Volume[:i], n.Volume[i+1:]
		if !commitlog.ValidName(n.Snapshot) {
			return Name{}, BadName("snapshot", n.Snapshot)
		}
	}
	if i := strings.IndexByte(n.Volume, '/'); i >= 0 {
		n.Tenant, n.Volume = n.Volume[:i], n.Volume[i+1:]
		if !commitlog.ValidName(n.Tenant) {
			return Name{}, BadName("tenant", n.Tenant)
		}
	}
	if !commitlog.ValidName(n.Volume) {
		return Name{}, BadName("volume", n.Volume)
	}
	return n, nil
}

// BadName is the error for a name that breaks the rules.
func BadName(what, s string) error {
	if len(s) > 110 {
		s = s[:107] + "..."
	}
	return errs.New(errs.Invalid, "%q is not a name for a %s: it needs 1 to 100 letters, digits, dots, underscores and hyphens, and begins with a letter or digit", s, what)
}

// String returns the name as users write it: without the default tenant.
func (n Name) String() string { return Display(n.Tenant, n.Volume, n.Snapshot) }

// Log returns the volume as its commit log names it.
func (n Name) Log() commitlog.Volume {
	return commitlog.Volume{Tenant: n.Tenant, Name: n.Volume}
}

// Display returns a name as users write it: without the default tenant.
func Display(tenant, name, snapshot string) string {
	if tenant != DefaultTenant {
		name = tenant + "/" + name
	}
	if snapshot != "" {
		name += "@" + snapshot
	}
	return name
}

// ShowTenant returns a tenant as JSON shows it: "" for the default one.
func ShowTenant(tenant string) string {
	if tenant == DefaultTenant {
		return ""
	}
	return tenant
}

// ParentName returns the name of the parent that a commit of the tenant has.
func ParentName(tenant string, p *commitlog.Parent) string {
	return Display(cmp.Or(p.Tenant, tenant), p.Name, "")
}

// parentIn is the inverse of ParentName.
func parentIn(tenant, name string) (of, volume string) {
	n, err := ParseName(name, false)
	if err != nil {
		return "", name // the commit refuses it
	}
	if n.Tenant != tenant {
		of = n.Tenant
	}
	return of, n.Volume
}

func keyOf(tenant, name, snapshot string) string {
	if snapshot != "" {
		return tenant + "/" + name + "@" + snapshot
	}
	return tenant + "/" + name
}
