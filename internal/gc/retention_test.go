package gc

import (
	"context"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/retention"
)

// history is a log whose owner has a clock of the test's.
type history struct {
	t     *testing.T
	now   time.Time
	store objstore.Store
	vol   commitlog.Volume
	owner *commitlog.Owner
	state commitlog.State
	ended map[uint64]time.Time // epochs
}

func newHistory(t *testing.T, keep string, all time.Duration) *history {
	t.Helper()
	h := &history{t: t, now: time.Date(2026, 1, 1, 0, 0, 5, 0, time.UTC), vol: commitlog.Volume{Tenant: "default", Name: "v"}, ended: map[uint64]time.Time{}}
	begin := h.now
	h.store = objstore.NewMem(objstore.Clock{Now: func() time.Time { return h.now }})
	rule, err := retention.Parse(keep)
	if err != nil {
		t.Fatal(err)
	}
	h.owner, err = commitlog.New(commitlog.Options{
		Store: h.store, Volume: h.vol, Host: commitlog.Host{ID: "h"}, Rand: rand.Reader, Now: func() time.Time { return h.now },
		Uptime: func() time.Duration { return h.now.Sub(begin) }, Pause: func(context.Context, time.Duration) error { return nil },
		RollAge: all, RollStep: rule.Step(all),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.state = commitlog.State{
		Identity: commitlog.Identity{ID: commitlog.VolumeID{1}, Tenant: "default", Name: "v", Cause: commitlog.CauseFlush},
		Size:     1 << 20, BlockSize: 1 << 17, Durability: "local", CreatedAt: h.now, Keep: keep,
	}
	if _, err := h.owner.OpenFirst(t.Context(), h.state); err != nil {
		t.Fatal(err)
	}
	return h
}

// commit makes a commit.
func (h *history) commit() {
	h.t.Helper()
	before := h.owner.Generation().Epoch
	g, err := h.owner.Commit(h.t.Context(), h.state)
	if err != nil {
		h.t.Fatal(err)
	}
	if g.Epoch != before {
		h.ended[before] = h.now
	}
}

func (h *history) collect(all time.Duration) {
	h.t.Helper()
	if _, err := Run(h.t.Context(), Options{Store: h.store, By: "test", Grace: 0, Retention: all}); err != nil {
		h.t.Fatal(err)
	}
}

// whole returns the closed epochs that were not collected.
func (h *history) whole() (list []uint64) {
	h.t.Helper()
	for e := uint64(1); e < h.owner.Generation().Epoch; e++ {
		o, err := commitlog.Load(h.t.Context(), h.store, h.vol, commitlog.Generation{Epoch: e, Number: 1})
		if err != nil {
			h.t.Fatal(err)
		}
		if o.Kind != commitlog.Stub {
			list = append(list, e)
		}
	}
	return list
}

// TestKeepOver60Days: with a rule, the history of a busy volume has exactly the epochs that
// the rule names, whenever rounds ran.
func TestKeepOver60Days(t *testing.T) {
	const all, day = 6 * time.Hour, 24 * time.Hour
	for _, every := range []time.Duration{10 * time.Hour, 60 * day} {
		h := newHistory(t, "48h:1h,30d:1d", all)
		last := h.now
		for end := h.now.Add(60 * day); h.now.Before(end); h.now = h.now.Add(20*time.Minute + 7*time.Second) {
			h.commit()
			if h.now.Sub(last) >= every {
				h.collect(all)
				last = h.now
			}
		}
		h.commit()
		h.collect(all)
		var want []uint64
		ofHour, ofDay := map[time.Time]uint64{}, map[time.Time]uint64{} // the newest that ended in each
		for e, at := range h.ended {
			hour, day := at.Truncate(time.Hour), at.Truncate(day)
			ofHour[hour], ofDay[day] = max(ofHour[hour], e), max(ofDay[day], e)
		}
		recent, hours, days := 0, 0, 0
		for e := uint64(1); e < h.owner.Generation().Epoch; e++ {
			switch at := h.ended[e]; {
			case h.now.Sub(at) < all:
				recent++
			case h.now.Sub(at) <= 48*time.Hour && ofHour[at.Truncate(time.Hour)] == e:
				hours++
			case h.now.Sub(at) > 48*time.Hour && h.now.Sub(at) <= 30*day && ofDay[at.Truncate(day)] == e:
				days++
			default:
				continue
			}
			want = append(want, e)
		}
		if got := h.whole(); !slices.Equal(got, want) {
			t.Errorf("a round every %v leaves %d epochs: %v, want %d: %v", every, len(got), got, len(want), want)
		}
		if recent < 6 || recent > 7 || recent+hours != 49 || days != 28 {
			t.Errorf("%d recent epochs, %d of hours, %d of days", recent, hours, days)
		}
	}
}

// TestKeepChanges: without the rule, what it kept goes; a rule that this program does not
// understand keeps everything.
func TestKeepChanges(t *testing.T) {
	const all, day = time.Hour, 24 * time.Hour
	h := newHistory(t, "10d:1d", all)
	grow := func() {
		for range 5 * 24 {
			h.now = h.now.Add(time.Hour)
			h.commit()
		}
		h.collect(all)
	}
	grow()
	kept := len(h.whole())
	if kept < 5 || kept > 7 {
		t.Errorf("five days: %v", h.whole())
	}
	h.state.Keep = "forever:please"
	grow()
	if n := len(h.whole()); n != kept+5*24 {
		t.Errorf("with a newer program's rule, %d epochs of %d are left", n, kept+5*24)
	}
	h.state.Keep = ""
	h.commit()
	h.collect(all)
	if left := h.whole(); len(left) > 1 {
		t.Errorf("without a rule: %v", left)
	}
}

// TestKeepOfARemovedVolume: a rule keeps nothing of a volume that was removed.
func TestKeepOfARemovedVolume(t *testing.T) {
	h := newHistory(t, "10d:1d", time.Hour)
	for range 48 {
		h.now = h.now.Add(time.Hour)
		h.commit()
	}
	if err := h.owner.Tombstone(t.Context(), commitlog.CauseRemove, ""); err != nil {
		t.Fatal(err)
	}
	h.collect(time.Hour)
	if left := h.whole(); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}
