package commitlog

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

const (
	numberDigits = 10 // decimal, zero-padded
	epochDigits  = 16 // hexadecimal
	maxNumber    = 9_999_999_999

	// MaxName is the length of the longest name.
	MaxName = 100
)

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// ValidName tells whether s may be the name of a volume, a tenant, a snapshot or a
// host: 1 to 100 letters, digits, dots, underscores and hyphens. The first character
// is a letter or a digit.
func ValidName(s string) bool { return name.MatchString(s) }

// Volume names a volume, and with it a log.
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

func tenantPrefix(tenant string) string { return "t/" + tenant + "/volumes/" }

// prefix is the common prefix of the keys of the volume's log.
func (v Volume) prefix() string { return tenantPrefix(v.Tenant) + v.Name + "/log/" }

// Key is the object key of the generation: t/<tenant>/volumes/<name>/log/<epoch>/<number>.
// The epoch is the 16 hexadecimal digits of its complement, so that the newest
// lists first; the number has 10 decimal digits.
func (v Volume) Key(g Generation) string {
	return fmt.Sprintf("%s%0*x/%0*d", v.prefix(), epochDigits, ^g.Epoch, numberDigits, g.Number)
}

// ParseKey reads exactly what Key writes.
func ParseKey(key string) (Volume, Generation, error) {
	part := strings.Split(key, "/")
	if len(part) == 7 {
		v := Volume{Tenant: part[1], Name: part[3]}
		epoch, err1 := strconv.ParseUint(part[5], 16, 64)
		number, err2 := strconv.ParseUint(part[6], 10, 64)
		g := Generation{Epoch: ^epoch, Number: number}
		if err1 == nil && err2 == nil && v.Check() == nil && g.valid() && v.Key(g) == key {
			return v, g, nil
		}
	}
	return Volume{}, Generation{}, errs.New(errs.Invalid, "%.300q is no key of a commit", key)
}

// Generation is a commit's place in its volume's history. The zero Generation is
// before every history.
type Generation struct{ Epoch, Number uint64 }

// String is the generation as it is printed: epoch.number.
func (g Generation) String() string { return fmt.Sprintf("%d.%d", g.Epoch, g.Number) }

// ParseGeneration reads epoch.number, two positive decimal numbers without
// leading zeros. Anything else is errs.Invalid.
func ParseGeneration(s string) (Generation, error) {
	epoch, number, _ := strings.Cut(s, ".")
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	n, err2 := strconv.ParseUint(number, 10, 64)
	g := Generation{Epoch: e, Number: n}
	if err1 != nil || err2 != nil || !g.valid() || g.String() != s {
		return Generation{}, errs.New(errs.Invalid, "%.60q is no generation: write epoch.number, as `glide log` prints it", s)
	}
	return g, nil
}

func (g Generation) valid() bool {
	return 1 <= g.Epoch && g.Epoch < math.MaxUint64 && 1 <= g.Number && g.Number <= maxNumber
}

// IsZero tells whether the generation is before every history.
func (g Generation) IsZero() bool { return g == Generation{} }

// Compare is negative, zero or positive if g is before, at or after h.
func (g Generation) Compare(h Generation) int {
	if c := cmp.Compare(g.Epoch, h.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(g.Number, h.Number)
}

// Next is the generation that follows in the same epoch.
func (g Generation) Next() Generation { return Generation{g.Epoch, g.Number + 1} }

// NextEpoch is the first generation of the next epoch.
func (g Generation) NextEpoch() Generation { return Generation{g.Epoch + 1, 1} }

// MarshalText is String, or empty for the zero Generation. It makes Generation a
// string in JSON.
func (g Generation) MarshalText() ([]byte, error) {
	if g.IsZero() {
		return nil, nil
	}
	return []byte(g.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (g *Generation) UnmarshalText(text []byte) (err error) {
	*g = Generation{}
	if len(text) > 0 {
		*g, err = ParseGeneration(string(text))
	}
	return err
}
