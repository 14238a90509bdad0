package host

import (
	"errors"
	"fmt"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// TestCondemnedPast: a fork of the past and a rollback go back to a state that a round may
// have condemned, and rounds go on while their requests are on the way. What they bring
// back can be read for as long as it is there; else they are refused.
func TestCondemnedPast(t *testing.T) {
	verbs := map[string]func(h *Host, at string) (string, error){
		"fork": func(h *Host, at string) (string, error) {
			_, err := h.Fork(ctx, api.ForkRequest{Source: "v1", Name: "v2", At: at})
			return "v2", err
		},
		"rollback": func(h *Host, at string) (string, error) {
			_, err := h.Rollback(ctx, "v1", at, true)
			return "v1", err
		},
	}
	for name, verb := range verbs {
		refused, done := 0, 0
		for steps := range 6 {
			for n := range 7 {
				t.Run(fmt.Sprint(name, steps, n), func(t *testing.T) {
					w := newExplored()
					defer func() {
						if r := recover(); r != nil {
							t.Error(r)
						}
						w.close()
					}()
					w.begin("one0")
					at, was := w.past()
					for range steps {
						w.must(w.gcStep(), "a step of the collector")
					}
					p := w.machines[0].p
					p.arm(n, pause)
					on, err := verb(w.machines[0].h, at)
					p.disarm()
					if w.must(w.paused, "rounds"); errors.Is(err, errs.NotFound) {
						refused++
						return
					}
					done++
					w.must(err, "the verb")
					if w.steps != nil {
						w.steps.finish()
						w.must(ignoreRace(w.steps.err), "the collector that waited")
						w.steps = nil
					}
					for range 3 {
						w.round("a round")
					}
					for _, read := range []func() (content, error){
						func() (content, error) { return exploreRead(w.machines[0].h, on) },
						func() (content, error) { return publishedContent(w.store, on) },
					} {
						if c, err := read(); err != nil || c != was {
							t.Errorf("%s has %v, not %v: %v", on, c, was, err)
						}
					}
				})
			}
		}
		if refused == 0 || done == 0 {
			t.Errorf("%s: %d were refused, and %d were not", name, refused, done)
		}
	}
}

// past makes a state of v1 past retention, and returns where it is in the log, and what it
// holds. It is the first object of an epoch: of that a collector leaves a stub, while a pin
// that names what is not there at all stops every round.
func (w *explored) past() (at string, was content) {
	w.restart(0)
	err := w.machines[0].h.beginEpoch(ctx, w.machines[0].h.disks.All()[0])
	w.must(err, "beginning an epoch")
	v, err := w.machines[0].h.Show(ctx, "v1")
	w.must(err, "showing it")
	at, was = v.Generation, w.slots[0].live
	w.restart(0) // the next epoch
	for range 2 {
		w.must(w.write(0, false), "writing")
	}
	w.acting = nil
	return at, was
}
