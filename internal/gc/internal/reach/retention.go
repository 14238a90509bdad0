package reach

import (
	"time"

	"github.com/paraglide/glide/internal/retention"
)

// keptByRule returns the epochs that the rule in the newest state of a volume keeps, by
// the store's clock. Later the rule keeps none of the others: see package retention.
func (l *log) keptByRule(now time.Time) map[*epoch]bool {
	kept := map[*epoch]bool{}
	text, tip := "", true
	var whole []*epoch // closed ones that hold states
	var ended []time.Time
	for _, e := range l.epochs {
		switch {
		case e.first == nil:
		case tip:
			text, tip = e.keep, false
		case !e.first.stub && !e.first.removed:
			whole, ended = append(whole, e), append(ended, e.objects[e.run()].Modified)
		}
	}
	if text == "" {
		return kept
	}
	rule, err := retention.Parse(text)
	if err != nil { // a newer program's: keep too much
		for _, e := range whole {
			kept[e] = true
		}
		return kept
	}
	for i, k := range rule.Kept(now, ended) {
		kept[whole[i]] = k
	}
	return kept
}

// beganAfter tells whether the epoch began after a time, by the store's clock. A stub is
// younger than the first object that it replaces, whose epoch was past that time already.
func (e *epoch) beganAfter(t time.Time) bool {
	return !e.first.stub && e.objects[1].Modified.After(t)
}
