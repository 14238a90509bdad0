package commitlog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/commitlog/internal/place"
	"github.com/paraglide/glide/internal/errs"
)

const (
	maxNumber = place.MaxNumber

	// MaxName is the length of the longest name.
	MaxName = 100
)

// ValidName tells whether s may be the name of a volume, a tenant, a snapshot or a
// host: 1 to 100 letters, digits, dots, underscores and hyphens. The first character
// is a letter or a digit.
func ValidName(s string) bool { return place.ValidName(s) }

// Volume names a volume, and with it a log. In the keys of objects the name may be hidden:
// LogOf tells.
type Volume struct{ Tenant, Name string }

// String is the volume's name, with its tenant unless that is "default".
func (v Volume) String() string {
	if v.Tenant == "default" {
		return v.Name
	}
	return v.Tenant + "/" + v.Name
}

// Check returns an errs.Invalid error unless both parts are valid names.
func (v Volume) Check() error {
	if !ValidName(v.Tenant) || !ValidName(v.Name) {
		return errs.New(errs.Invalid, "%.210q is no name of a volume: each part is 1 to 100 letters, digits, "+
			"dots, underscores and hyphens, beginning with a letter or digit", v.String())
	}
	return nil
}

// DomainName is how the domain of a volume is called: as its tenant, or, if the volume was
// isolated in a further one, TENANT+DOMAIN with the 8 hexadecimal digits of its number.
func DomainName(tenant string, isolated uint32) string {
	if isolated == 0 {
		return tenant
	}
	return fmt.Sprintf("%s+%08x", tenant, isolated)
}

// ParseDomainName reads exactly what DomainName writes.
func ParseDomainName(name string) (tenant string, isolated uint32, err error) {
	tenant, hex, _ := strings.Cut(name, "+")
	n, _ := strconv.ParseUint(hex, 16, 32)
	if !ValidName(tenant) || DomainName(tenant, uint32(n)) != name {
		return "", 0, errs.New(errs.Invalid, "%.120q is neither a tenant nor TENANT+DOMAIN", name)
	}
	return tenant, uint32(n), nil
}

// prefix is the common prefix of the keys of the volume's log.
func (v Volume) prefix() string { return place.Prefix(v.Tenant) + v.Name + "/log/" }

// Key is the object key of the generation: t/<tenant>/volumes/<name>/log/<epoch>/<number>.
func (v Volume) Key(g Generation) string { return place.Key(v.Tenant, v.Name, g) }

// ParseKey reads exactly what Key writes. Of a log with a hidden name, the volume has that.
func ParseKey(key string) (Volume, Generation, error) {
	tenant, log, g, ok := place.ParseKey(key)
	if !ok {
		return Volume{}, Generation{}, errs.New(errs.Invalid, "%.300q is no key of a commit", key)
	}
	return Volume{Tenant: tenant, Name: log}, g, nil
}

// Generation is a commit's place in its volume's history. The zero Generation is
// before every history.
type Generation = place.Generation

// ParseGeneration reads epoch.number, two positive decimal numbers without
// leading zeros. Anything else is errs.Invalid.
func ParseGeneration(s string) (Generation, error) { return place.Parse(s) }
