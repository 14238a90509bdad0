// Package place has the names of logs and of the places in them, as keys and people have
// them.
package place

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

	// MaxNumber is the greatest number of an epoch.
	MaxNumber = 9_999_999_999

	// HiddenMark begins the names of logs whose volumes' names are hidden. No user's name
	// does, so that one can be told from the other, and nobody can ask for a log by its own
	// name.
	HiddenMark = "_"
)

var (
	name   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	hidden = regexp.MustCompile(`^` + HiddenMark + `[a-z2-7]{26}$`)
)

// ValidName tells whether s has the form of a name that users give.
func ValidName(s string) bool { return name.MatchString(s) }

// ValidLog tells whether s may be the name of a log: that of its volume, or a hidden one.
func ValidLog(s string) bool { return ValidName(s) || hidden.MatchString(s) }

// Prefix is the common prefix of the keys of a tenant's logs, or of one of them: its name
// and "/log/" follow.
func Prefix(tenant string) string { return "t/" + tenant + "/volumes/" }

// Key is the object key of a generation: t/<tenant>/volumes/<log>/log/<epoch>/<number>. The
// epoch is the 16 hexadecimal digits of its complement, so that the newest lists first; the
// number has 10 decimal digits.
func Key(tenant, log string, g Generation) string {
	return fmt.Sprintf("%s%s/log/%0*x/%0*d", Prefix(tenant), log, epochDigits, ^g.Epoch, numberDigits, g.Number)
}

// ParseKey reads exactly what Key writes.
func ParseKey(key string) (tenant, log string, g Generation, ok bool) {
	part := strings.Split(key, "/")
	if len(part) != 7 {
		return "", "", g, false
	}
	tenant, log = part[1], part[3]
	epoch, err1 := strconv.ParseUint(part[5], 16, 64)
	number, err2 := strconv.ParseUint(part[6], 10, 64)
	g = Generation{Epoch: ^epoch, Number: number}
	return tenant, log, g, err1 == nil && err2 == nil && ValidName(tenant) && ValidLog(log) && g.Valid() && Key(tenant, log, g) == key
}

// Generation is a commit's place in its volume's history. The zero Generation is
// before every history.
type Generation struct{ Epoch, Number uint64 }

// String is the generation as it is printed: epoch.number.
func (g Generation) String() string { return fmt.Sprintf("%d.%d", g.Epoch, g.Number) }

// Parse reads epoch.number, two positive decimal numbers without
// leading zeros. Anything else is errs.Invalid.
func Parse(s string) (Generation, error) {
	epoch, number, _ := strings.Cut(s, ".")
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	n, err2 := strconv.ParseUint(number, 10, 64)
	g := Generation{Epoch: e, Number: n}
	if err1 != nil || err2 != nil || !g.Valid() || g.String() != s {
		return Generation{}, errs.New(errs.Invalid, "%.60q is no generation: write epoch.number, as `glide log` prints it", s)
	}
	return g, nil
}

// Valid tells whether a commit can be there.
func (g Generation) Valid() bool {
	return 1 <= g.Epoch && g.Epoch < math.MaxUint64 && 1 <= g.Number && g.Number <= MaxNumber
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
		*g, err = Parse(string(text))
	}
	return err
}
