package collect

import (
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// TestSchedule: a host runs a round if it changed something since the last one, once
// more when that is past retention, and when the grace period is over; else it asks
// nothing.
func TestSchedule(t *testing.T) {
	const hour = time.Hour
	s := schedule{interval: hour, grace: 24 * hour, retention: 72 * hour}
	changes, rounds := uint64(0), []int{}
	garbage := 0 // rounds that find some
	for at := 1; at < 400; at++ {
		if at == 10 || at == 11 {
			changes++
		}
		if s.next(time.Duration(at)*hour, changes) {
			rounds = append(rounds, at)
			r := api.Collection{}
			switch {
			case at == 10:
				garbage, r.Round = 1, 7
			case garbage == 1 && at >= 34:
				garbage, r.Round, r.DeletedObjects = 2, 7, 5
			}
			s.done(time.Duration(at)*hour, &r)
		}
	}
	want := []int{10, 11, 35, 36, 84}
	if len(rounds) != len(want) {
		t.Fatalf("rounds at %v, want %v", rounds, want)
	}
	for i := range want {
		if rounds[i] != want[i] {
			t.Fatalf("rounds at %v, want %v", rounds, want)
		}
	}
}
