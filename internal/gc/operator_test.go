package gc

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

var (
	somePack = pack.ID{Content: [12]byte{1}, Nonce: [12]byte{2}}.Key()
	farPack  = pack.ID{Domain: 42, Content: [12]byte{3}, Nonce: [12]byte{4}}.Key()
	anEpoch  = reach.EpochID{Tenant: "default", Volume: "vm1", Epoch: 2}
	bootList = "t/default/boot/" + strings.Repeat("ab", 32)
)

// flaggedStore has an open round in domain 0 and another in domain 42.
func flaggedStore(t *testing.T) objstore.Store {
	t.Helper()
	s := objstore.NewMem(objstore.Clock{})
	for _, f := range []flags{
		{header: header{formatFlags, version, 0, 7, "test"}, Packs: []flaggedObject{{somePack, 100}}, Epochs: []reach.PastEpoch{{EpochID: anEpoch, Bytes: 30, Objects: 3}}, Keys: []flaggedObject{{bootList, 20}}},
		{header: header{formatFlags, version, 42, 1, "test"}, Packs: []flaggedObject{{farPack, 200}}},
	} {
		if _, err := create(t.Context(), s, key(f.Domain, f.Round, partFlags), f); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func pinsIn(t *testing.T, s objstore.Store) (pins []pinobject.Pin) {
	t.Helper()
	if err := pinobject.List(t.Context(), s, "", func(p pinobject.Pin) error { pins = append(pins, p); return nil }); err != nil {
		t.Fatal(err)
	}
	return pins
}

func TestPlanAndStatus(t *testing.T) {
	ctx := t.Context()
	s := objstore.NewMem(objstore.Clock{})
	if st, err := ReadStatus(ctx, s); err != nil || st != (Status{Stage: StageNone}) {
		t.Errorf("an empty store: %+v, %v", st, err)
	}
	s2 := flaggedStore(t)
	plan, err := Plan(ctx, s2)
	if err != nil || len(plan) != 4 {
		t.Fatalf("%+v, %v", plan, err)
	}
	for i, want := range []Planned{
		{Key: somePack, Bytes: 100, Kind: "pack"},
		{Key: anEpoch.Key(), Bytes: 30, Kind: "commits"},
		{Key: bootList, Bytes: 20, Kind: "boot-list", LastRoot: strings.Repeat("ab", 32)},
		{Key: farPack, Bytes: 200, Kind: "pack"},
	} {
		want.FlaggedAt = plan[i].FlaggedAt
		if plan[i] != want || want.FlaggedAt.IsZero() {
			t.Errorf("%+v, want %+v", plan[i], want)
		}
	}
	stage := func(want string, number uint64) {
		t.Helper()
		st, err := ReadStatus(ctx, s2)
		if err != nil || st.Stage != want || st.Round != number || st.UndoUntil.IsZero() == (want == StageFlagged) {
			t.Errorf("%+v, %v: want %s, round %d", st, err, want, number)
		}
	}
	c := &collector{Options: Options{Store: s2, By: "test"}}
	if err := c.close(ctx, &round{domain: 42, number: 1}); err != nil {
		t.Fatal(err)
	}
	stage(StageFlagged, 7) // the open one
	if _, err := create(ctx, s2, key(0, 7, partVerdict), verdict{header: header{formatVerdict, version, 0, 7, "test"}}); err != nil {
		t.Fatal(err)
	}
	stage(StageJudged, 7)
	if err := Undelete(ctx, s2, rand.Reader, time.Now(), []string{somePack}); !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "too late") {
		t.Errorf("a judged round: %v", err)
	}
	if err := c.close(ctx, &round{domain: 0, number: 7}); err != nil {
		t.Fatal(err)
	}
	stage(stageClosed, 7)
	if plan, err := Plan(ctx, s2); err != nil || len(plan) != 0 {
		t.Errorf("closed rounds: %+v, %v", plan, err)
	}
}

func TestUndelete(t *testing.T) {
	ctx := t.Context()
	s := flaggedStore(t)
	for _, c := range []struct {
		kind  errs.Kind
		words string
		keys  []string
	}{
		{errs.NotFound, "is not flagged", []string{somePack, "packs/1"}},
		{errs.NotFound, "is not flagged", []string{reach.EpochID{Tenant: "default", Volume: "vm1", Epoch: 3}.Key()}},
		{errs.Invalid, "only a hint", []string{somePack, bootList}},
	} {
		err := Undelete(ctx, s, rand.Reader, time.Now(), c.keys)
		if err == nil || errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%v: %v", c.keys, err)
		}
	}
	if pins := pinsIn(t, s); len(pins) != 0 {
		t.Errorf("refused, with pins: %+v", pins)
	}
	inEpoch := anEpoch.Log().Key(commitlog.Generation{Epoch: 2, Number: 3})
	if err := Undelete(ctx, s, rand.Reader, time.Now(), []string{somePack, farPack, inEpoch}); err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	for _, p := range pinsIn(t, s) {
		if p.Host != "undelete" {
			t.Errorf("a pin of %s", p.Host)
		}
		kept[p.Commit] = true
		for _, n := range p.Packs {
			kept[pack.ID(n).Key()] = true
		}
	}
	if !kept[somePack] || !kept[farPack] || !kept[anEpoch.Key()] {
		t.Errorf("the pins keep %v", kept)
	}
}

// judging is a store in which a collector judges the round as soon as there is a pin.
type judging struct{ objstore.Store }

func (s judging) PutIfAbsent(ctx context.Context, k string, data []byte) error {
	err := s.Store.PutIfAbsent(ctx, k, data)
	if err == nil && strings.HasPrefix(k, "pins/") {
		_, err = create(ctx, s.Store, key(0, 7, partVerdict), verdict{header: header{formatVerdict, version, 0, 7, "test"}})
	}
	return err
}

// TestUndeleteTooLate: a verdict that may not know of the pin.
func TestUndeleteTooLate(t *testing.T) {
	s := flaggedStore(t)
	err := Undelete(t.Context(), judging{s}, rand.Reader, time.Now(), []string{somePack})
	if !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "too late") {
		t.Errorf("%v", err)
	}
	if pins := pinsIn(t, s); len(pins) != 0 {
		t.Errorf("its pins stay: %+v", pins)
	}
}
