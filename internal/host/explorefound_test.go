package host

import (
	"errors"
	"fmt"
	"testing"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// TestExploreFound replays what the exploration found, and what was mended since.
func TestExploreFound(t *testing.T) {
	for _, s := range []string{
		// Another host claims a volume and removes it. Its former owner's local forks lie
		// over what only the removed volume named.
		"one0 S1 C1 R1",
		"one0 D1 C1 R1",
		"one0 D1 C1 C1",
		"one0 C1 R1 / 1 3 late",
		// A host dies before its first publication of a volume takes effect. It starts again
		// and drops the pins of what that commit names.
		"one0 N2 / 0 4 crash-late",
		// A volume whose removal was not recorded kept such pins for ever.
		"one0 W1n R1 / 1 2 crash-after",
		// A host dies before the first publication of a fork, or of what it restores, takes
		// effect, under the name of a removed volume. What its next process withdrew came back.
		"was0 F1 / 0 4 crash-late",
		"was0 B22a / 0 4 crash-late",
		"was3 B22b / 0 4 crash-late",
		// What is restored has been condemned, and rounds go on before its first commit: one
		// collects the state that the pin names, and the next its packs.
		"was4 B22a / 0 4 pause",
		"was4 B22b / 0 2 pause",
	} {
		c := parseExploreCase(s)
		if out := explore(&c); out.wrong != "" {
			t.Errorf("%s: %s", s, out.wrong)
		}
	}
}

// TestRenamedElsewhere: as a removal, a new name forgets nothing that a former owner needs.
func TestRenamedElsewhere(t *testing.T) {
	w := newExplored()
	defer w.close()
	w.begin("one0")
	for _, op := range []string{"S1", "C1"} {
		if err := w.do(op); err != nil {
			t.Fatal(err)
		}
	}
	h := w.machines[1].h
	if _, err := h.Rename(ctx, "v1", "x"); err != nil {
		t.Fatal(err)
	}
	before := w.slots[0].live
	for n := range 2 {
		after := before
		after[0] = 80 + n
		if err := exploreWrite(h, "x", before, after); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Flush(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		before = after
	}
	for range 4 {
		w.round("a round")
	}
	if _, err := w.machines[0].h.Flush(ctx, "v2"); err != nil {
		t.Fatal(err)
	}
	if got, err := publishedContent(w.store, "v2"); err != nil || got != w.slots[1].live {
		t.Fatalf("a fork of what was renamed elsewhere: %v, %v", got, err)
	}
}

// TestRestoreBehindAFailedFork: a fork that failed under the name of a removed volume is
// not what the name's next restoration brings back, whatever it left in the log.
func TestRestoreBehindAFailedFork(t *testing.T) {
	for _, b := range []blow{crashAfter, crashLate, replyLost} {
		for n := 1; n <= 6; n++ {
			t.Run(fmt.Sprint(b, n), func(t *testing.T) {
				w := newExplored()
				defer func() {
					if r := recover(); r != nil {
						t.Error(r)
					}
					w.close()
				}()
				w.begin("two0")
				w.run(0, "W2n", &exploreFault{})
				w.run(1, "R1", &exploreFault{})
				w.run(2, "F2", &exploreFault{2, n, b})
				w.noOrphans()
				w.land()
				if w.slots[0].exists {
					w.must(w.remove(0), "removing the fork")
				} else {
					w.slots[0].becomes(slot{})
				}
				h := w.machines[1].h
				if list, err := h.Removed(ctx); err != nil || len(list) != 1 || list[0].Name != "v1" {
					t.Errorf("removed: %+v, %v", list, err)
				}
				if w.must(w.restore(0, 0, 1), "restoring"); !w.slots[0].exists {
					t.Error("it cannot be restored")
				}
				w.finish()
			})
		}
	}
}

// TestRemoveAfterAFailedRename: what a rename that failed reserved, or may still reserve, is
// gone with the volume: it would name what nothing keeps, and end every round.
func TestRemoveAfterAFailedRename(t *testing.T) {
	for _, to := range []string{"x", "w"} { // w was used and removed
		for _, b := range []blow{replyLost, replyLate, crashAfter, crashLate} {
			for n := 1; n <= 10; n++ {
				for _, other := range []string{"", "y"} {
					t.Run(fmt.Sprint(to, b, n, other), func(t *testing.T) { removeAfterAFailedRename(t, to, b, n, other) })
				}
			}
		}
	}
}

func removeAfterAFailedRename(t *testing.T, to string, b blow, n int, other string) {
	w := newExplored()
	defer func() {
		if r := recover(); r != nil {
			t.Error(r)
		}
		w.close()
	}()
	w.begin("one0")
	p := w.machines[0].p
	p.arm(n, b)
	_, err := w.machines[0].h.Rename(ctx, "v1", to)
	p.disarm()
	if p.isDead() {
		w.restart(0)
	}
	h, name := w.machines[0].h, "v1"
	if err == nil && !p.isDead() {
		name = to
	} else if _, local := h.disks.Local("v1", false); local != nil {
		name = to
	}
	if other != "" {
		if _, err := h.Rename(ctx, name, other); err == nil {
			name = other
		} else if !errors.Is(err, errs.Busy) {
			t.Errorf("another name: %v", err)
		}
	}
	if err := h.Remove(ctx, name, true); errors.Is(err, errs.Busy) { // half of it was renamed
		_, err = h.Rename(ctx, name, to)
		w.must(err, "renaming it again")
		w.must(h.Remove(ctx, to, true), "removing it by its new name")
	} else {
		w.must(err, "removing it")
	}
	for range 4 {
		w.round("a round")
	}
	p.land()
	w.removeAll()
}

// TestNameOfAFailedRename: another volume does not get a name under which a rename may still
// take effect; it does when the renamed one got another.
func TestNameOfAFailedRename(t *testing.T) {
	w := newExplored()
	defer w.close()
	w.begin("one0")
	p := w.machines[0].p
	p.arm(4, replyLate)
	h := w.machines[0].h
	if _, err := h.Rename(ctx, "v1", "x"); err == nil {
		t.Fatal("a rename succeeds whose request fails")
	}
	p.disarm()
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "x", Size: explorePages * explorePage, BlockSize: explorePage}))
	if err := exploreWrite(h, "x", content{}, content{50}); err != nil {
		t.Fatal(err)
	}
	_, err := h.Flush(ctx, "x")
	wantKind(t, err, errs.Exists)
	must[api.Volume](t)(h.Rename(ctx, "v1", "y"))
	must[api.Flush](t)(h.Flush(ctx, "x"))
	p.land()
	for range 4 {
		w.round("a round")
	}
	for name, want := range map[string]content{"x": {50}, "y": w.slots[0].live} {
		if c, err := publishedContent(w.store, name); err != nil || c != want {
			t.Errorf("%s has %v, not %v: %v", name, c, want, err)
		}
	}
}
