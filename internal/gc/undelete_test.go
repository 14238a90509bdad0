package gc

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// during is a store that calls fn when the collector has read the pins of its second mark.
type during struct {
	objstore.Store
	fn func()
}

func (s *during) List(ctx context.Context, prefix, after string, n int) ([]objstore.Info, error) {
	infos, err := s.Store.List(ctx, prefix, after, n)
	if fn := s.fn; fn != nil && strings.HasPrefix(prefix, "pins/") {
		s.fn = nil
		fn()
	}
	return infos, err
}

// TestUndeleteBesideAMark: a collector that has begun its second mark does not see the pin.
// What was reported as taken back must stay all the same.
func TestUndeleteBesideAMark(t *testing.T) {
	ctx := t.Context()
	s := &during{Store: objstore.NewMem(objstore.Clock{})}
	for _, k := range []string{somePack, farPack} {
		if err := s.Put(ctx, k, []byte("pack")); err != nil {
			t.Fatal(err)
		}
	}
	run := func() Result {
		t.Helper()
		r, err := Run(ctx, Options{Store: s, By: "test", Grace: 0})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := Run(ctx, Options{Store: s, By: "test", Grace: time.Hour}); err != nil {
		t.Fatal(err)
	}
	var err error
	s.fn = func() { err = Undelete(ctx, s, rand.Reader, time.Now(), []string{somePack}) }
	run()
	if err != nil {
		t.Fatalf("undelete in a round that is not judged: %v", err)
	}
	run()
	run()
	if _, err := s.Head(ctx, somePack); err != nil {
		t.Errorf("it was taken back, and is gone: %v", err)
	}
	if _, err := s.Head(ctx, farPack); !errors.Is(err, errs.NotFound) {
		t.Errorf("nobody took back the other one, and it is there: %v", err)
	}
}

// TestUndeleteTwice: the verdict of the first call spares what the second one names.
func TestUndeleteTwice(t *testing.T) {
	ctx := t.Context()
	s := flaggedStore(t)
	for range 2 {
		if err := Undelete(ctx, s, rand.Reader, time.Now(), []string{somePack}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(pinsIn(t, s)); n != 2 {
		t.Errorf("%d pins", n)
	}
}

// TestUndeleteBesideTheEnd: the round is closed between the pins and the verdict. Only what
// is still there was taken back.
func TestUndeleteBesideTheEnd(t *testing.T) {
	for _, there := range []bool{false, true} {
		ctx := t.Context()
		s := flaggedStore(t)
		if there {
			if err := s.Put(ctx, somePack, []byte("pack")); err != nil {
				t.Fatal(err)
			}
		}
		err := Undelete(ctx, ending{s}, rand.Reader, time.Now(), []string{somePack})
		if there != (err == nil) || err != nil && !strings.Contains(err.Error(), "too late") {
			t.Errorf("the pack is there: %v, undelete: %v", there, err)
		}
		if n := len(pinsIn(t, s)); (n == 1) != there {
			t.Errorf("%d pins", n)
		}
	}
}

// ending is a store in which a collector closes the round as soon as there is a pin.
type ending struct{ objstore.Store }

func (s ending) PutIfAbsent(ctx context.Context, k string, data []byte) error {
	err := s.Store.PutIfAbsent(ctx, k, data)
	if err == nil && strings.HasPrefix(k, "pins/") {
		err = (&collector{Options: Options{Store: s.Store, By: "test"}}).close(ctx, &round{domain: 0, number: 7})
	}
	return err
}

// TestOpenRoundWithoutPacks: the collector died after it had deleted the last pack of a
// domain. The next run closes the round.
func TestOpenRoundWithoutPacks(t *testing.T) {
	ctx := t.Context()
	s := flaggedStore(t)
	if _, err := Run(ctx, Options{Store: s, By: "test", Grace: 0}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []uint32{0, 42} {
		if r, err := newest(ctx, s, d); err != nil || r.open() {
			t.Errorf("the round of domain %d: %+v, %v", d, r, err)
		}
	}
}

// TestUndoUntil: the status names the end of the grace period that the round has.
func TestUndoUntil(t *testing.T) {
	ctx := t.Context()
	for _, grace := range []time.Duration{time.Minute, 90 * time.Hour} {
		s := objstore.NewMem(objstore.Clock{})
		if err := s.Put(ctx, somePack, []byte("pack")); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(ctx, Options{Store: s, By: "test", Grace: grace}); err != nil {
			t.Fatal(err)
		}
		st, err := ReadStatus(ctx, s)
		if err != nil || st.UndoUntil.Sub(st.FlaggedAt) != grace {
			t.Errorf("a grace period of %v: %+v, %v", grace, st, err)
		}
	}
	st, err := ReadStatus(ctx, flaggedStore(t)) // a list of an older program
	if err != nil || st.UndoUntil.Sub(st.FlaggedAt) != DefaultGrace {
		t.Errorf("an older list: %+v, %v", st, err)
	}
}
