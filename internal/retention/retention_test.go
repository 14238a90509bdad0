package retention

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0, "0": 0, "-1h": -time.Hour, "2d0s": 48 * time.Hour,
	} {
		if d, err := ParseDuration(text); err != nil || d != want {
			t.Errorf("%s: %v, %v; want %v", text, d, err, want)
		}
	}
	for _, text := range []string{"", "d", "1", "1.5d", "-1d", "+1d", "1d-1h", "1d+1h", "1d2", "30days", "1w", "106752d", "106751d24h", "99999999999999999999d", strings.Repeat("9", 300) + "d", "١d"} {
		if d, err := ParseDuration(text); err == nil || errs.KindOf(err) != errs.Invalid || len(err.Error()) > 150 {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, good := range []string{"", "24h:1h", "24h:1h,30d:1d", "1h:1m,2h:2m,3h:4m,4h:8m,5h:16m,6h:32m,7h:64m,8h:128m"} {
		if r, err := Parse(good); err != nil || (len(r) == 0) != (good == "") {
			t.Errorf("%q: %v, %v", good, r, err)
		}
	}
	for bad, words := range map[string]string{
		"24h":                                 "is not SPAN:STEP",
		"x:1h":                                "is not a duration",
		"24h:":                                "is not a duration",
		"24h:1h,":                             "is not SPAN:STEP",
		"0s:1h":                               "longer than zero",
		"24h:0s":                              "longer than zero",
		"24h:-1h":                             "longer than zero",
		"-24h:1h":                             "longer than zero",
		"24h:59s":                             "at least a minute",
		"1h:2h":                               "the step is longer than the span",
		"30d:1d,24h:1h":                       "does not reach further back",
		"24h:1h,24h:2h":                       "does not reach further back",
		"24h:1h,30d:1h":                       "two, three or more times",
		"24h:1h,30d:90m":                      "two, three or more times",
		"24h:6h,30d:1h":                       "two, three or more times",
		"1h:1m" + strings.Repeat(",2h:2m", 8): "it has 9 parts",
	} {
		if r, err := Parse(bad); err == nil || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, %v", bad, r, err)
		}
	}
}

func TestStep(t *testing.T) {
	r, err := Parse("24h:1h,30d:1d")
	if err != nil {
		t.Fatal(err)
	}
	for all, want := range map[time.Duration]time.Duration{0: time.Hour, 23 * time.Hour: time.Hour, 24 * time.Hour: day, 72 * time.Hour: day, 30 * day: 0} {
		if got := r.Step(all); got != want {
			t.Errorf("with %v kept anyway: %v, want %v", all, got, want)
		}
	}
}

// TestKept applies a rule hour by hour. What it keeps at the end is what one application
// would keep: the order of rounds makes no difference.
func TestKept(t *testing.T) {
	r, err := Parse("24h:2h,7d:1d")
	if err != nil {
		t.Fatal(err)
	}
	var all, left []time.Time // the newest first
	begin := time.Date(2026, 1, 1, 0, 7, 0, 0, time.UTC)
	now := begin
	for range 24 * 12 {
		all, left = slices.Insert(all, 0, now), slices.Insert(left, 0, now)
		now = now.Add(time.Hour)
		var next []time.Time
		for i, k := range r.Kept(now, left) {
			if k {
				next = append(next, left[i])
			}
		}
		left = next
		var once []time.Time
		for i, k := range r.Kept(now, all) {
			if k {
				once = append(once, all[i])
			}
		}
		if !slices.Equal(left, once) {
			t.Fatalf("at %v: %v, at once %v", now, left, once)
		}
	}
	// Now it is 00:07. Of the last day, each interval of two hours has one that ended at an
	// odd hour; of the days before, the last of each.
	var hours, days int
	for _, at := range left {
		if now.Sub(at) <= day {
			hours++
		} else if days++; at.Hour() != 23 {
			t.Errorf("%v is kept", at)
		}
	}
	if hours != 12 || days != 6 {
		t.Errorf("%d of the last day and %d of the days before: %v", hours, days, left)
	}
	if got := interval(time.Unix(-1, 0), time.Hour); got != -1 {
		t.Errorf("an interval before 1970: %d", got)
	}
}
