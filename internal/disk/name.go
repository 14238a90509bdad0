package disk

import (
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
)

// maxSize is the greatest size of a volume, bytes.
const maxSize = 1 << 62

// CheckSize reports what is wrong with the size of a volume.
func CheckSize(size uint64) error {
	if size == 0 || size%512 != 0 || size > maxSize {
		return errs.New(errs.Invalid, "a volume cannot have %d bytes: a multiple of 512 up to 2^62 is wanted", size)
	}
	return nil
}

// DefaultTenant is the tenant of names that give none.
const DefaultTenant = "default"

// Name is a parsed [tenant/]name[@snapshot].
type Name struct {
	Tenant, Volume, Snapshot string
}

// ParseName reads the name of a volume, or of a snapshot where that is allowed.
func ParseName(s string, snapshot bool) (Name, error) {
	n := Name{Tenant: DefaultTenant, Volume: s}
	if i := strings.IndexByte(n.Volume, '@'); i >= 0 {
		if !snapshot {
			return Name{}, errs.New(errs.Invalid, "%q names a snapshot: only what reads a volume takes one", s)
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

// BadName is the error of a name that breaks the rules.
func BadName(what, s string) error {
	if len(s) > 110 {
		s = s[:107] + "..."
	}
	return errs.New(errs.Invalid, "%q is not a name for a %s: 1 to 100 letters, digits, dots, underscores and hyphens are, beginning with a letter or digit", s, what)
}

// String is the name as people write it: the default tenant is not printed.
func (n Name) String() string { return Display(n.Tenant, n.Volume, n.Snapshot) }

// Log is the volume as its commit log names it.
func (n Name) Log() commitlog.Volume {
	return commitlog.Volume{Tenant: n.Tenant, Name: n.Volume}
}

// Display is a name as people write it: the default tenant is not printed.
func Display(tenant, name, snapshot string) string {
	if tenant != DefaultTenant {
		name = tenant + "/" + name
	}
	if snapshot != "" {
		name += "@" + snapshot
	}
	return name
}

// ShowTenant is a tenant as JSON has it: the default one is not printed.
func ShowTenant(tenant string) string {
	if tenant == DefaultTenant {
		return ""
	}
	return tenant
}

// inTenant is a name as commits have it, which belong to a tenant.
func inTenant(name string) string {
	if n, err := ParseName(name, false); err == nil {
		return n.Volume
	}
	return name // which the commit refuses
}

func keyOf(tenant, name, snapshot string) string {
	if snapshot != "" {
		return tenant + "/" + name + "@" + snapshot
	}
	return tenant + "/" + name
}
