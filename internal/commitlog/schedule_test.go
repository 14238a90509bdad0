package commitlog

import (
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// The schedules of the table in docs/protocols.md, and their
// neighbours. Each test is named for what broke when a rule was missing.

// hold keeps the next creation of a generation's object until Release.
func hold(store *objstore.Faults, g Generation) {
	store.Inject(objstore.Fault{
		Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.Late,
		Match: func(key string) bool { return key == disk.Key(g) },
	})
}

// trim deletes commits of a closed epoch, as a collector's verdict does.
func trim(t *testing.T, store objstore.Store, epoch, from, to uint64) {
	t.Helper()
	for n := from; n <= to; n++ {
		check(t, store.Delete(ctx, disk.Key(Generation{Epoch: epoch, Number: n})))
	}
}

// "A claimer lists the tip, stalls; the owner commits on and old commits of the
// same epoch are trimmed; the seal lands in the hole." Trimming waits for the
// next epoch (rule 3); so the seal may land in a hole, but of a closed epoch.
func TestSealLandsInAHole(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	b := newOwner(t, store, "b", 1)
	done := false
	_, err := b.Claim(ctx, CauseTakeover, func(tip *Object) error {
		if done {
			return errs.New(errs.WouldLose, "the tip is now %s", tip.Generation)
		}
		done = true // b has seen 1.1, and stalls
		for seq := range uint64(5) {
			commit(t, a, seq+2)
		}
		check(t, a.Roll(ctx)) // 1.7 is the seal
		commit(t, a, 10)
		trim(t, store, 1, 2, 6)
		stub(t, store, Generation{Epoch: 1, Number: 7})
		stub(t, store, Generation{Epoch: 1, Number: 1})
		return nil
	})
	wantKind(t, err, errs.Busy) // its seal is in the hole, the next epoch is a's
	commit(t, a, 11)
	check(t, a.CheckSeal(ctx))
	wantShape(t, historyOf(t, store, disk), "1.1 stub", "1.7 stub", "2.1 first", "2.2 commit", "2.3 commit")
}

// "An owner's PUT is delayed; it is sealed out; the seal is trimmed; the PUT
// succeeds." The seal is never removed (rule 3); its stub fences as well.
func TestDelayedCommitAfterTheSeal(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	hold(store, Generation{Epoch: 1, Number: 2})
	_, err := a.Commit(ctx, someState(2))
	wantKind(t, err, errs.Unavailable)
	if !a.Unsettled() {
		t.Error("the commit's fate is not known")
	}
	b := newOwner(t, store, "b", 1)
	_, err = b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	commit(t, b, 3)
	stub(t, store, Generation{Epoch: 1, Number: 1})
	stub(t, store, Generation{Epoch: 1, Number: 2})
	wantKind(t, store.Held()[0].Release(), errs.Exists)
	wantKind(t, errOf(a.Commit(ctx, someState(4))), errs.Fenced)
	wantShape(t, historyOf(t, store, disk), "1.1 stub", "1.2 stub", "2.1 first", "2.2 commit")
	commit(t, b, 5)
}

// "A claimer stalls before the first object of its epoch, which is begun, used
// and trimmed by others." The first object is never removed (rule 3).
func TestLateFirstObject(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	hold(store, Generation{Epoch: 2, Number: 1})
	b := newOwner(t, store, "b", 1)
	_, err := b.Claim(ctx, CauseTakeover, nil)
	wantKind(t, err, errs.Unavailable)
	c := newOwner(t, store, "c", 1)
	_, err = c.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	commit(t, c, 2)
	commit(t, c, 3)
	check(t, c.Roll(ctx))
	trim(t, store, 2, 2, 3)
	stub(t, store, Generation{Epoch: 2, Number: 1})
	stub(t, store, Generation{Epoch: 2, Number: 4})
	wantKind(t, store.Held()[0].Release(), errs.Exists)
	wantKind(t, errOf(b.Commit(ctx, someState(9))), errs.Busy)
	if b.Generation() != (Generation{}) || b.Err() != nil {
		t.Errorf("b claims to be at %s (%v)", b.Generation(), b.Err())
	}
	commit(t, c, 4)
}

// "An owner pipelines 2 and 3, only 3 lands, it crashes, resumes its epoch and
// writes another 2." No process resumes an epoch (rule 4), so the old 3 stays
// beyond the seal.
func TestOldPipelinedCommit(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	old := someState(33)
	old.Owner.ID = "a"
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 3}, Kind: Commit, Ahead: 1, State: old})
	again := newOwner(t, store, "a", 2)
	hold(store, Generation{Epoch: 2, Number: 1})
	_, err := again.Claim(ctx, CauseOpen, nil)
	wantKind(t, err, errs.Unavailable)
	// The seal is at 1.2 and the next epoch is not begun: 1.3 follows without a gap.
	if tip := newest(t, store, disk); tip.Generation != (Generation{Epoch: 1, Number: 2}) || tip.State.Seq != 1 {
		t.Errorf("the tip is %s with sequence %d", tip.Generation, tip.State.Seq)
	}
	_, err = again.Claim(ctx, CauseOpen, nil)
	check(t, err)
	commit(t, again, 2)
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 seal", "2.1 first", "2.2 commit")
	for _, o := range historyOf(t, store, disk) {
		if o.State.Seq == 33 {
			t.Error("the old 3 joined the log")
		}
	}
}

// "A fenced PUT of the same number and content owner, told apart only by host
// id." It is told by its mark (rule 5).
func TestZombieOfTheSameHost(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	zombie := newOwner(t, store, "a", 1) // even the same source of random numbers, read differently
	_, _ = zombie.opts.Rand.Read(make([]byte, 16))
	state := someState(2)
	state.Tenant, state.Name, state.Owner, state.Time = "default", "disk", a.opts.Host, someDay
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 2}, Kind: Commit, Mark: Mark{1}, State: state})
	wantKind(t, errOf(a.Commit(ctx, someState(2))), errs.Fenced)
}

// The answer to a commit that took effect is lost; the retry meets its own object.
func TestOwnCommitIsRecognised(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	store.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.FailAfter})
	if g := commit(t, a, 2); g != (Generation{Epoch: 1, Number: 2}) {
		t.Errorf("committed as %s, want 1.2", g)
	}
	// And so does one that lands between two tries.
	hold(store, Generation{Epoch: 1, Number: 3})
	wantKind(t, errOf(a.Commit(ctx, someState(3))), errs.Unavailable)
	check(t, store.Held()[0].Release())
	check(t, a.CheckSeal(ctx))
	if a.Unsettled() || a.Generation() != (Generation{Epoch: 1, Number: 3}) {
		t.Errorf("CheckSeal leaves it at %s", a.Generation())
	}
	if g := commit(t, a, 4); g != (Generation{Epoch: 1, Number: 4}) {
		t.Errorf("committed as %s, want 1.4", g)
	}
}

// A number once sent never changes its content (rule 5): what was sent first is
// what the number gets, though the caller has something newer.
func TestPendingCommitIsSentAgain(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	hold(store, Generation{Epoch: 1, Number: 2})
	wantKind(t, errOf(a.Commit(ctx, someState(2))), errs.Unavailable)
	if g := commit(t, a, 3); g != (Generation{Epoch: 1, Number: 3}) {
		t.Errorf("committed as %s, want 1.3", g)
	}
	wantKind(t, store.Held()[0].Release(), errs.Exists)
	log := historyOf(t, store, disk)
	if len(log) != 3 || log[1].State.Seq != 2 || log[2].State.Seq != 3 {
		t.Errorf("the log is %q", shape(log))
	}
}

// A first publication that is given up must never appear.
func TestWithdraw(t *testing.T) {
	store := newStore()
	a := newOwner(t, store, "a", 1)
	hold(store, Generation{Epoch: 1, Number: 1})
	wantKind(t, errOf(a.OpenFirst(ctx, someState(1))), errs.Unavailable)
	again := newOwner(t, store, "a", 2) // after a crash
	check(t, again.Withdraw(ctx, volumeID(1), CauseWithdraw))
	wantKind(t, store.Held()[0].Release(), errs.Exists)
	wantShape(t, historyOf(t, store, disk), "1.1 first tombstone")
	check(t, newOwner(t, store, "a", 3).Withdraw(ctx, volumeID(1), CauseWithdraw)) // again is no error
	b := newOwner(t, store, "b", 1)
	_, err := b.OpenFirst(ctx, someState(5))
	check(t, err)

	// It had appeared already.
	store = newStore()
	opened(t, store, "a")
	again = newOwner(t, store, "a", 2)
	check(t, again.Withdraw(ctx, volumeID(1), CauseWithdraw))
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 seal", "2.1 first tombstone")

	// The name is another's.
	store = newStore()
	b = opened(t, store, "b")
	check(t, newOwner(t, store, "a", 2).Withdraw(ctx, volumeID(1), CauseWithdraw))
	check(t, newOwner(t, store, "b", 2).Withdraw(ctx, volumeID(2), CauseWithdraw))
	commit(t, b, 2)

	// The same process gives up what it sent.
	store = newStore()
	a = newOwner(t, store, "a", 1)
	hold(store, Generation{Epoch: 1, Number: 1})
	wantKind(t, errOf(a.OpenFirst(ctx, someState(1))), errs.Unavailable)
	check(t, a.Withdraw(ctx, volumeID(1), CauseWithdraw))
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 seal", "2.1 first tombstone")
}

// Nor may it appear under the name of a volume that was removed, in the epoch after that
// of the tombstone, whose seal had been created before.
func TestWithdrawFromAUsedName(t *testing.T) {
	for _, winner := range []string{"", "b"} {
		store := newStore()
		check(t, opened(t, store, "b").Tombstone(ctx, CauseRemove, ""))
		a := newOwner(t, store, "a", 1)
		hold(store, Generation{Epoch: 3, Number: 1})
		wantKind(t, errOf(a.OpenFirst(ctx, someState(1))), errs.Unavailable)
		if winner != "" { // another volume got the name
			_, err := newOwner(t, store, winner, 2).OpenNew(ctx, someState(2))
			check(t, err)
		}
		check(t, newOwner(t, store, "a", 2).Withdraw(ctx, volumeID(1), CauseWithdraw)) // after a crash
		wantKind(t, store.Held()[0].Release(), errs.Exists)
		if tip := newest(t, store, disk); tip.Tombstone == (winner != "") || tip.State.Owner.ID == "a" && winner != "" {
			t.Errorf("the name is host %s's, with a tombstone: %t", tip.State.Owner.ID, tip.Tombstone)
		}
	}
}

// A first publication that took effect after its sender stopped waiting is the
// volume's own, not another's (rule 8).
func TestLateFirstPublication(t *testing.T) {
	store := newStore()
	a := newOwner(t, store, "a", 1)
	hold(store, Generation{Epoch: 1, Number: 1})
	wantKind(t, errOf(a.OpenFirst(ctx, someState(1))), errs.Unavailable)
	check(t, store.Held()[0].Release())
	_, err := a.OpenFirst(ctx, someState(2)) // the same process settles it
	check(t, err)
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 commit")

	store = newStore()
	opened(t, store, "a")
	again := newOwner(t, store, "a", 2) // another process claims it
	_, err = again.OpenFirst(ctx, someState(2))
	check(t, err)
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 seal", "2.1 first")
	if s := newest(t, store, disk).State; s.Seq != 2 {
		t.Errorf("published sequence %d, want 2", s.Seq)
	}
	third := newOwner(t, store, "b", 1)
	_, err = third.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	_, err = newOwner(t, store, "a", 3).OpenFirst(ctx, someState(3)) // b took it meanwhile
	wantKind(t, err, errs.Fenced)
}

// A claim whose first object is late is its own when it is repeated.
func TestRepeatedClaim(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	b := newOwner(t, store, "b", 1)
	hold(store, Generation{Epoch: 2, Number: 1})
	wantKind(t, errOf(b.Claim(ctx, CauseTakeover, nil)), errs.Unavailable)
	check(t, store.Held()[0].Release())
	tip, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	if tip.Generation != (Generation{Epoch: 2, Number: 1}) {
		t.Errorf("claimed at %s, want 2.1", tip.Generation)
	}
	commit(t, b, 2)

	// In another process it is an epoch like any other's, and is sealed.
	store = newStore()
	opened(t, store, "a")
	hold(store, Generation{Epoch: 2, Number: 1})
	wantKind(t, errOf(newOwner(t, store, "b", 1).Claim(ctx, CauseTakeover, nil)), errs.Unavailable)
	held := store.Held()[0]
	again := newOwner(t, store, "b", 2)
	store.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.FailBefore,
		Match: func(key string) bool {
			if key == disk.Key(Generation{Epoch: 2, Number: 1}) {
				check(t, held.Release()) // just before ours
				return true
			}
			return false
		}})
	tip, err = again.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	if tip.Generation != (Generation{Epoch: 3, Number: 1}) {
		t.Errorf("claimed at %s, want 3.1", tip.Generation)
	}
}

// TestEveryRequestFails lets each single request of a volume's life fail, before
// and after its effect. Each step is repeated until it succeeds; the log must
// come out with all that was acknowledged, in order.
func TestEveryRequestFails(t *testing.T) {
	steps := func(store objstore.Store) []func() error {
		a, b, c := newOwner(t, store, "a", 1), newOwner(t, store, "b", 1), newOwner(t, store, "a", 2)
		commitTo := func(o *Owner, seq uint64) func() error {
			return func() error { return errOf(o.Commit(ctx, someState(seq))) }
		}
		return []func() error{
			func() error { return errOf(a.OpenFirst(ctx, someState(1))) },
			commitTo(a, 2), commitTo(a, 3),
			func() error { return a.Roll(ctx) },
			commitTo(a, 4),
			func() error { return a.Release(ctx) },
			func() error { return errOf(b.Claim(ctx, CauseWake, nil)) },
			commitTo(b, 5),
			func() error { return errOf(c.Claim(ctx, CauseTakeover, nil)) },
			commitTo(c, 6),
			func() error { return c.Tombstone(ctx, CauseRemove, "") },
		}
	}
	for _, effect := range []objstore.Effect{objstore.FailBefore, objstore.FailAfter} {
		for times := 1; times <= 2; times++ {
			for skip := 0; ; skip++ {
				store := newStore()
				store.Inject(objstore.Fault{Skip: skip, Times: times, Effect: effect})
				for i, step := range steps(store) {
					err := step()
					for range 3 {
						if err == nil {
							break
						}
						err = step()
					}
					if err != nil {
						t.Fatalf("effect %d on request %d: step %d: %v", effect, skip, i, err)
					}
				}
				if store.Requests() <= skip {
					break
				}
				wantEverySequence(t, historyOf(t, store, disk), 6)
			}
		}
	}
}

// wantEverySequence wants that every object carries on, or goes beyond, what was before.
func wantEverySequence(t *testing.T, log []*Object, last uint64) {
	t.Helper()
	seq := uint64(0)
	for _, o := range log {
		if o.Bare() {
			continue
		}
		// A step that was repeated may have committed the same again.
		if next := o.State.Seq; next < seq || next > seq+1 || next > seq && o.Closes() {
			t.Errorf("%s %s has sequence %d after %d", o.Generation, o.Kind, next, seq)
		}
		seq = o.State.Seq
	}
	if seq != last || !log[len(log)-1].Tombstone {
		t.Errorf("the log ends at sequence %d: %q", seq, shape(log))
	}
}
