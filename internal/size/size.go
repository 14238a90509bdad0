// Package size reads and prints amounts of bytes as people write them: 20G,
// 512K, 1T. The units are binary, as everywhere in Glide.
package size

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

const (
	// Sector is the unit of a volume's size, in bytes.
	Sector = 512
	// Max is the largest size of a volume, in bytes.
	Max = 1 << 62
	// minBlock and maxBlock bound a volume's block size, in bytes.
	minBlock = 4 << 10
	maxBlock = 1 << 20
)

// units lists the units that Parse accepts, then those that only Human prints.
const (
	units    = "KMGT"
	allUnits = units + "PE"
)

// Parse reads a number of bytes: a decimal number, followed by K, M, G or T
// (powers of 1024; "iB" or "B" may follow), or by nothing. It is below 2^63.
func Parse(s string) (uint64, error) {
	bad := func(why string) (uint64, error) {
		return 0, errs.New(errs.Invalid, "%.60q is not a size: %s", s, why)
	}
	if strings.HasPrefix(s, "-") {
		return bad("it is negative")
	}
	digits := s
	if i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || '9' < r }); i >= 0 {
		digits = s[:i]
	}
	shift, ok := unit(s[len(digits):])
	if !ok || digits == "" {
		return bad("write a whole number and K, M, G or T, such as 20G")
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > math.MaxInt64>>shift {
		return bad("it is too large")
	}
	return n << shift, nil
}

// unit is the power of two of a suffix.
func unit(s string) (shift uint, ok bool) {
	s = strings.ToUpper(s)
	if s == "" || s == "B" {
		return 0, true
	}
	i := strings.IndexByte(units, s[0])
	if i < 0 || s[1:] != "" && s[1:] != "B" && s[1:] != "IB" {
		return 0, false
	}
	return 10 * uint(i+1), true
}

// ParseVolume is Parse for the size of a volume, which Check checks.
func ParseVolume(s string) (uint64, error) {
	n, err := Parse(s)
	if err != nil {
		return 0, err
	}
	return n, Check(n)
}

// Check returns why n cannot be the size of a volume. A size is positive, a
// multiple of 512, and at most 2^62.
func Check(n uint64) error {
	switch {
	case n == 0:
		return errs.New(errs.Invalid, "the size is zero: a volume has at least 512 bytes")
	case n%Sector != 0:
		return errs.New(errs.Invalid, "the size %d is not a multiple of 512", n)
	case n > Max:
		return errs.New(errs.Invalid, "the size %d is over 2^62", n)
	}
	return nil
}

// ParseBlock is Parse for a volume's block size: a power of two from 4K to 1M.
func ParseBlock(s string) (uint64, error) {
	n, err := Parse(s)
	if err != nil {
		return 0, err
	}
	if n < minBlock || n > maxBlock || bits.OnesCount64(n) != 1 {
		return 0, errs.New(errs.Invalid, "%.60q is not a block size: choose a power of two from 4K to 1M", s)
	}
	return n, nil
}

// Human prints about n for people, with three digits: 0 B, 1.50 KiB, 20.0 GiB.
func Human[T int | int64 | uint64](n T) string {
	f, sign := float64(n), ""
	if f < 0 {
		f, sign = -f, "-"
	}
	if f < 1000 {
		return sign + strconv.FormatFloat(f, 'f', 0, 64) + " B"
	}
	u := -1
	for f >= 999.5 && u < len(allUnits)-1 {
		f /= 1024
		u++
	}
	digits := 2
	for limit := 9.995; f >= limit && digits > 0; limit *= 10 {
		digits--
	}
	text := strconv.FormatFloat(f, 'f', digits, 64)
	if strings.Contains(text, ".") && strings.Trim(text[strings.IndexByte(text, '.'):], ".0") == "" {
		text = text[:strings.IndexByte(text, '.')]
	}
	return sign + text + " " + allUnits[u:u+1] + "iB"
}
