// Package retention reads spans of time as people write them, and the rules by which the
// history of a volume is thinned.
//
// A rule is a list of parts SPAN:STEP, such as 24h:1h,30d:1d. Of the epochs of a log that
// ended in one interval of STEP, the newest is kept until it is SPAN old. The intervals lie
// one after the other from the beginning of 1970 on, whenever a rule is applied. Each STEP is
// a multiple of the one before: so an epoch that a later part keeps is one that the
// earlier parts kept, and what a rule takes away it would take away at any later time, too.
package retention

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/paraglide/glide/internal/errs"
)

const (
	// maxParts is how many parts a rule has at most.
	maxParts = 8
	// maxText is how many bytes of text a rule has at most; a commit has no room for more.
	maxText = 256
	// leastStep keeps owners from beginning an epoch with every commit. Each epoch leaves
	// two small objects in the store for ever.
	leastStep = time.Minute
	day       = 24 * time.Hour
)

// ParseDuration reads a duration of Go, such as 90m, in which days may come first: 30d,
// 1d12h.
func ParseDuration(s string) (time.Duration, error) {
	bad := errs.New(errs.Invalid, "%.60q is not a duration, such as 90m, 12h or 30d", s)
	days, rest, found := strings.Cut(s, "d")
	if !found {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, bad
		}
		return d, nil
	}
	if days == "" || strings.ContainsFunc(days, func(r rune) bool { return !unicode.IsDigit(r) }) {
		return 0, bad
	}
	n, err := strconv.ParseUint(days, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/day) {
		return 0, errs.New(errs.Invalid, "%.60q is too long: a duration has at most %d days", s, math.MaxInt64/day)
	}
	d := time.Duration(n) * day
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || rest[0] == '+' {
		return 0, bad
	}
	if d > math.MaxInt64-more {
		return 0, errs.New(errs.Invalid, "%.60q is too long", s)
	}
	return d + more, nil
}

// Rule says which old epochs of a log are kept. An empty rule keeps none.
type Rule []part

// part keeps one epoch in each interval of step, until it is span old.
type part struct{ span, step time.Duration }

// Parse reads a rule. The empty text is the empty rule.
func Parse(text string) (Rule, error) {
	if text == "" {
		return nil, nil
	}
	wrong := func(format string, args ...any) (Rule, error) {
		return nil, errs.New(errs.Invalid, "keep=%.200s: %w", text, errs.New(errs.Invalid, format, args...))
	}
	parts := strings.Split(text, ",")
	if len(text) > maxText {
		return wrong("it has %d bytes, at most %d are possible", len(text), maxText)
	}
	if len(parts) > maxParts {
		return wrong("it has %d parts, at most %d are possible", len(parts), maxParts)
	}
	var r Rule
	for i, p := range parts {
		span, step, ok := strings.Cut(p, ":")
		if !ok {
			return wrong("%.60q is not SPAN:STEP, such as 30d:1d", p)
		}
		var next part
		var err error
		if next.span, err = ParseDuration(span); err == nil {
			next.step, err = ParseDuration(step)
		}
		switch {
		case err != nil:
			return wrong("%w", err)
		case next.span <= 0 || next.step <= 0:
			return wrong("%.60s: both times must be longer than zero", p)
		case next.step < leastStep:
			return wrong("%.60s: the step must be at least a minute", p)
		case next.step > next.span:
			return wrong("%.60s: the step is longer than the span", p)
		case i > 0 && next.span <= r[i-1].span:
			return wrong("%.60s does not reach further back than the part before it: name the shortest span first", p)
		case i > 0 && (next.step <= r[i-1].step || next.step%r[i-1].step != 0):
			return wrong("%.60s: the step must be two, three or more times that of the part before it", p)
		}
		r = append(r, next)
	}
	return r, nil
}

// Step is how often a log must begin an epoch, so that the rule finds one in each of its
// intervals: the shortest step of a part that reaches beyond the time for which everything
// is kept anyway; 0 if there is none.
func (r Rule) Step(all time.Duration) time.Duration {
	for _, p := range r {
		if p.span > all {
			return p.step
		}
	}
	return 0
}

// Kept tells which epochs the rule keeps. ended are the times at which they ended, the
// newest first.
func (r Rule) Kept(now time.Time, ended []time.Time) []bool {
	kept := make([]bool, len(ended))
	for i, at := range ended {
		for _, p := range r {
			if now.Sub(at) <= p.span {
				kept[i] = i == 0 || interval(ended[i-1], p.step) != interval(at, p.step)
				break
			}
		}
	}
	return kept
}

// interval numbers the interval of a step in which a time is.
func interval(t time.Time, step time.Duration) int64 {
	n, d := t.UnixNano(), int64(step)
	if n < 0 {
		return (n+1)/d - 1
	}
	return n / d
}
