package commitlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

func TestLifeOfAVolume(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	commit(t, a, 2)
	commit(t, a, 3)
	check(t, a.Release(ctx))
	wantKind(t, errOf(a.Commit(ctx, someState(4))), errs.Invalid)
	check(t, a.Release(ctx)) // again is no error

	b := newOwner(t, store, "b", 1)
	tip, err := b.Claim(ctx, CauseWake, func(tip *Object) error {
		if !tip.Released || tip.State.Seq != 3 || tip.State.Owner.ID != "a" {
			t.Errorf("Claim shows %+v", tip)
		}
		return nil
	})
	check(t, err)
	if tip.State.Owner.ID != "b" || tip.State.Seq != 3 || len(tip.State.SealedFrom) != 0 || tip.State.Cause != CauseWake {
		t.Errorf("b opened its epoch with %+v", tip.State)
	}
	commit(t, b, 4)
	check(t, b.Tombstone(ctx, CauseRemove, ""))
	check(t, b.Tombstone(ctx, CauseRemove, ""))
	wantShape(t, historyOf(t, store, disk),
		"1.1 first", "1.2 commit", "1.3 commit", "1.4 seal released",
		"2.1 first", "2.2 commit", "2.3 seal", "3.1 first tombstone")

	_, err = newOwner(t, store, "c", 1).Claim(ctx, CauseWake, nil)
	wantKind(t, err, errs.NotFound)

	// Rule 9: the name is used again in a later epoch.
	c := newOwner(t, store, "c", 1)
	state := someState(100)
	state.ID = volumeID(2)
	g, err := c.OpenFirst(ctx, state)
	check(t, err)
	if g != (Generation{Epoch: 4, Number: 1}) {
		t.Errorf("the name is used again at %s, want 4.1", g)
	}
	if o := newest(t, store, disk); o.State.Seq != 100 || o.State.ID != volumeID(2) || o.State.Owner.ID != "c" {
		t.Errorf("the tip is %+v", o.State)
	}
	if sealed, err := get(ctx, store, disk, Generation{Epoch: 3, Number: 2}); err != nil || !sealed.Tombstone {
		t.Errorf("the seal after a tombstone is %+v (%v), it must be one too", sealed, err)
	}
}

func TestNameTaken(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	state := someState(5)
	state.ID = volumeID(2)
	_, err := newOwner(t, store, "b", 1).OpenFirst(ctx, state)
	wantKind(t, err, errs.Exists)
	if want := fmt.Sprintf("by volume %s of host a", volumeID(1)); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say: %s", err, want)
	}
	wantShape(t, historyOf(t, store, disk), "1.1 first")
}

// A claim of a volume that another host holds pins what that host may need, and
// fences it.
func TestTakeover(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	commit(t, a, 2)
	b := newOwner(t, store, "b", 1)
	tip, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	if len(tip.State.SealedFrom) != 1 || tip.State.SealedFrom[0] != (SealedFrom{"a", Generation{Epoch: 1, Number: 2}}) {
		t.Errorf("sealed from %v, want a at 1.2", tip.State.SealedFrom)
	}
	commit(t, b, 3)
	for range 2 {
		_, err = a.Commit(ctx, someState(4))
		wantKind(t, err, errs.Fenced)
		wantKind(t, a.Err(), errs.Fenced)
		wantKind(t, a.CheckSeal(ctx), errs.Fenced)
		wantKind(t, a.Release(ctx), errs.Fenced)
		wantKind(t, a.Tombstone(ctx, CauseRemove, ""), errs.Fenced)
		wantKind(t, a.Roll(ctx), errs.Fenced)
	}
	if !strings.Contains(err.Error(), "host b") {
		t.Errorf("%q does not name the new owner", err)
	}
	if a.Unsettled() {
		t.Error("a fenced owner has nothing unsettled")
	}
	// The former owner may claim it back.
	_, err = a.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	commit(t, a, 5)
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 commit", "1.3 seal", "2.1 first", "2.2 commit", "2.3 seal",
		"3.1 first", "3.2 commit")
}

func TestClaimCanBeRefused(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	no := errs.New(errs.WouldLose, "no")
	_, err := newOwner(t, store, "b", 1).Claim(ctx, CauseTakeover, func(*Object) error { return no })
	if !errors.Is(err, no) {
		t.Errorf("Claim returns %v", err)
	}
	wantShape(t, historyOf(t, store, disk), "1.1 first")
	commit(t, a, 2)
}

// A new process of the same host begins a new epoch (rule 4), and pins nothing.
func TestNextProcess(t *testing.T) {
	store := newStore()
	opened(t, store, "a")
	again := newOwner(t, store, "a", 2)
	wantKind(t, errOf(again.Commit(ctx, someState(2))), errs.Invalid)
	wantKind(t, again.CheckSeal(ctx), errs.Invalid)
	tip, err := again.Claim(ctx, CauseOpen, nil)
	check(t, err)
	if tip.State.SealedFrom != nil {
		t.Errorf("sealed from %v", tip.State.SealedFrom)
	}
	commit(t, again, 2)
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 seal", "2.1 first", "2.2 commit")
	wantKind(t, errOf(again.Claim(ctx, CauseOpen, nil)), errs.Invalid)
	wantKind(t, errOf(again.OpenFirst(ctx, someState(3))), errs.Invalid)
	wantKind(t, again.Withdraw(ctx, volumeID(1), CauseRemove), errs.Invalid)
}

func TestRollsByItself(t *testing.T) {
	store := newStore()
	o := newOwner(t, store, "a", 1)
	o.opts.RollAt = 5
	_, err := o.OpenFirst(ctx, someState(1))
	check(t, err)
	for seq := range uint64(8) {
		g := commit(t, o, seq+2)
		if o.Generation() != g {
			t.Errorf("Generation is %s after commit %s", o.Generation(), g)
		}
	}
	wantShape(t, historyOf(t, store, disk),
		"1.1 first", "1.2 commit", "1.3 commit", "1.4 commit", "1.5 seal",
		"2.1 first", "2.2 commit", "2.3 commit", "2.4 commit", "2.5 seal",
		"3.1 first", "3.2 commit", "3.3 commit")
	if s := o.State(); s.Seq != 9 || s.Owner.ID != "a" || s.SealedBy != "" {
		t.Errorf("the state is %+v", s)
	}
}

func TestCommitOfAnotherVolume(t *testing.T) {
	o := opened(t, newStore(), "a")
	s := someState(2)
	s.ID = volumeID(2)
	wantKind(t, errOf(o.Commit(ctx, s)), errs.Invalid)
	s = someState(2)
	s.Size = 5
	wantKind(t, errOf(o.Commit(ctx, s)), errs.Invalid)
	commit(t, o, 3) // what was refused was not sent
}

// The owner's copy of a state must not change with the caller's.
func TestStatesAreCopied(t *testing.T) {
	store := newStore()
	o := newOwner(t, store, "a", 1)
	s := someState(1)
	s.Labels = map[string]string{"a": "1"}
	_, err := o.OpenFirst(ctx, s)
	check(t, err)
	s.Labels["a"] = "2"
	o.State().Labels["a"] = "3"
	check(t, o.Roll(ctx))
	if got := newest(t, store, disk).State.Labels["a"]; got != "1" {
		t.Errorf("the label is %s, want 1", got)
	}
}

func TestRequests(t *testing.T) {
	mem := newStore().Store
	var c objstore.Counter
	store := objstore.Count(mem, &c)
	last := objstore.Counts{}
	want := func(what string, lists, gets, puts uint64) {
		t.Helper()
		n := c.Counts().Sub(last)
		last = c.Counts()
		if n.List != lists || n.Get != gets || n.Put != puts || n.Requests() != lists+gets+puts {
			t.Errorf("%s: %+v, want %d LISTs, %d GETs, %d PUTs", what, n, lists, gets, puts)
		}
	}
	a := newOwner(t, store, "a", 1)
	want("New", 0, 0, 0)
	_, err := a.OpenFirst(ctx, someState(1))
	check(t, err)
	want("first publication", 0, 0, 1)
	commit(t, a, 2)
	want("commit", 0, 0, 1)
	check(t, a.CheckSeal(ctx))
	want("CheckSeal", 0, 1, 0)
	check(t, errOf(Look(ctx, store, disk, a.Generation(), "a")))
	want("Look", 0, 1, 0)
	check(t, errOf(a.Resolve(ctx)))
	want("Resolve", 0, 0, 0)
	check(t, a.Release(ctx))
	want("release", 0, 0, 1)
	b := newOwner(t, store, "b", 1)
	_, err = b.Claim(ctx, CauseWake, nil)
	check(t, err)
	want("claim of a released volume", 1, 1, 1)
	check(t, errOf(newOwner(t, store, "b", 2).Claim(ctx, CauseOpen, nil)))
	want("claim", 1, 1, 2)
	wantKind(t, errOf(b.Commit(ctx, someState(3))), errs.Fenced)
	want("fenced", 0, 2, 1)

	// A fork to another name: the pin, the look and the drop are three more.
	child := ownerOf(t, store, Volume{"default", "child"}, "c", 1)
	g, err := find(ctx, store, disk)
	check(t, err)
	tip, err := Load(ctx, store, disk, g)
	check(t, err)
	carried := tip.Carry()
	_, err = child.OpenFirst(ctx, carried.Fork("child", volumeID(9), g, someDay))
	check(t, err)
	want("fork", 1, 1, 1)
}

// Every claim and commit of another's data commits must carry them on.
func TestDataCommitsAreCarried(t *testing.T) {
	store := newStore()
	data, err := EncodeData([]Range{{Off: 0, Len: 4, Data: []byte("abcd")}})
	check(t, err)
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 1}, Kind: First})
	put(t, store, &Object{Generation: Generation{Epoch: 1, Number: 2}, Kind: Commit, Data: data})
	with := newest(t, store, disk)
	o := newOwner(t, store, "a", 1)
	tip, err := o.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	want := DataRun{Name: "disk", Epoch: 1, First: 2, Last: 2, Hash: with.Hash, Count: 1, Bytes: (&Object{Data: data}).decodedSize()}
	if len(tip.State.DataCommits) != 1 || tip.State.DataCommits[0] != want {
		t.Errorf("the new epoch begins with %+v, want %+v", tip.State.DataCommits, want)
	}
}

func TestLook(t *testing.T) {
	look := func(store objstore.Store, last Generation) (string, error) {
		g, err := Look(ctx, store, disk, last, "a")
		return g.String(), err
	}
	store := newStore()
	a := opened(t, store, "a")
	last := a.Generation()
	if g, err := look(store, last); err != nil || g != "1.1" {
		t.Errorf("nothing followed: %s, %v", g, err)
	}
	commit(t, a, 2)
	check(t, a.Roll(ctx))
	commit(t, a, 3)
	if g, err := look(store, last); err != nil || g != "2.2" {
		t.Errorf("own commits followed: %s, %v", g, err)
	}
	b := newOwner(t, store, "b", 1)
	_, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	g, err := look(store, last)
	wantKind(t, err, errs.Fenced)
	if g != "2.2" {
		t.Errorf("own commits end at %s, want 2.2", g)
	}
	stub(t, store, Generation{Epoch: 2, Number: 3})
	_, err = look(store, last)
	wantKind(t, err, errs.Fenced)

	// A seal of our own, and another host was quicker with the next epoch.
	store = newStore()
	a = opened(t, store, "a")
	last = a.Generation()
	check(t, a.Release(ctx))
	if g, err := look(store, last); err != nil || g != "1.2" {
		t.Errorf("own seal followed: %s, %v", g, err)
	}
	_, err = newOwner(t, store, "b", 1).Claim(ctx, CauseWake, nil)
	check(t, err)
	_, err = look(store, last)
	wantKind(t, err, errs.Fenced)
}

// A newer release's object is another's, even if this one cannot read it.
func TestFencedByANewerRelease(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	newer := make([]byte, 100)
	copy(newer, "GLDC"+"\xff\x00")
	check(t, store.Put(ctx, disk.Key(Generation{Epoch: 1, Number: 2}), newer))
	_, err := Look(ctx, store, disk, Generation{Epoch: 1, Number: 1}, "a")
	wantKind(t, err, errs.Fenced)
	wantKind(t, errOf(a.Commit(ctx, someState(2))), errs.Fenced)
	_, err = newOwner(t, store, "b", 1).Claim(ctx, CauseTakeover, nil)
	wantKind(t, err, errs.Unsupported)
}

func TestOptions(t *testing.T) {
	_, err := New(Options{Volume: Volume{"a", "b/c"}, Host: Host{ID: "no/host"}, RollAt: 2})
	wantKind(t, err, errs.Invalid)
	for _, part := range []string{"Store", "a/b/c", "no/host", "RollAt"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q says nothing about %s", err, part)
		}
	}
}

func renamed(t *testing.T, store objstore.Store) (from, to *Owner) {
	t.Helper()
	return opened(t, store, "a"), ownerOf(t, store, Volume{"default", "new"}, "a", 1)
}

func TestRename(t *testing.T) {
	store := newStore()
	from, to := renamed(t, store)
	_, err := Rename(ctx, from, to, someState(2))
	check(t, err)
	wantRenamed(t, store)
	commit(t, to, 3)
	_, err = newOwner(t, store, "b", 1).Claim(ctx, CauseWake, nil)
	wantKind(t, err, errs.NotFound)
	if !strings.Contains(err.Error(), "renamed to new") {
		t.Errorf("%q does not say where it went", err)
	}
	// Back again: the old name is a tombstone.
	back := newOwner(t, store, "a", 2)
	_, err = Rename(ctx, to, back, someState(4))
	check(t, err)
	if o := newest(t, store, disk); o.State.Seq != 4 || o.State.Reserved {
		t.Errorf("renamed back: %+v", o.State)
	}
}

func wantRenamed(t *testing.T, store objstore.Store) {
	t.Helper()
	if old := newest(t, store, disk); !old.Tombstone || old.State.RenamedTo != "new" {
		t.Errorf("the old name ends in %+v", old)
	}
	now := newest(t, store, Volume{"default", "new"})
	if now.State.Reserved || now.State.RenamedFrom != "disk" || now.State.ID != volumeID(1) || now.State.Seq != 2 {
		t.Errorf("the new name ends in %+v", now.State)
	}
}

// TestRenameFails lets each request of a rename fail, before and after its
// effect, and repeats it with the same owners, and with those of a new process.
func TestRenameFails(t *testing.T) {
	for _, effect := range []objstore.Effect{objstore.FailBefore, objstore.FailAfter} {
		for skip := range 6 {
			for _, restart := range []bool{false, true} {
				store := newStore()
				from, to := renamed(t, store)
				store.Inject(objstore.Fault{Skip: skip, Times: 2, Effect: effect})
				_, err := Rename(ctx, from, to, someState(2))
				store.Clear()
				if err != nil {
					if restart {
						from, to = newOwner(t, store, "a", 7), ownerOf(t, store, Volume{"default", "new"}, "a", 7)
						if _, err := from.Claim(ctx, CauseOpen, nil); err != nil {
							wantKind(t, err, errs.NotFound) // the tombstone is there already
						}
						checkReserved(t, store)
					}
					_, err = Rename(ctx, from, to, someState(2))
					check(t, err)
				}
				wantRenamed(t, store)
			}
		}
	}
}

// checkReserved wants that at no point of a rename both names are the volume's.
func checkReserved(t *testing.T, store objstore.Store) {
	t.Helper()
	now, err := Newest(ctx, store, Volume{"default", "new"})
	if errors.Is(err, errs.NotFound) {
		return
	}
	check(t, err)
	err = Activated(ctx, store, now)
	if old := newest(t, store, disk); (err == nil) != old.Tombstone {
		t.Errorf("the new name is active: %v; the old one is a tombstone: %v", err, old.Tombstone)
	}
	if err != nil {
		_, err = ownerOf(t, store, Volume{"default", "new"}, "b", 3).Claim(ctx, CauseWake, nil)
		wantKind(t, err, errs.NotFound)
	}
}

// TestClaimOfRenamed: a volume that was claimed between the old name's tombstone
// and its activation goes by its new name, whatever becomes of the old one.
func TestClaimOfRenamed(t *testing.T) {
	store := newStore()
	from, to := renamed(t, store)
	store.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Skip: 3, Effect: objstore.FailBefore})
	if _, err := Rename(ctx, from, to, someState(2)); err == nil {
		t.Fatal("nothing failed")
	}
	store.Clear()
	now, err := Newest(ctx, store, to.opts.Volume)
	check(t, err)
	check(t, Activated(ctx, store, now))
	if !now.State.Reserved {
		t.Fatal("the volume was activated")
	}
	_, err = ownerOf(t, store, to.opts.Volume, "b", 3).Claim(ctx, CauseWake, nil)
	check(t, err)
	other := someState(50)
	other.ID = volumeID(5)
	_, err = newOwner(t, store, "c", 9).OpenFirst(ctx, other)
	check(t, err)
	now, err = Newest(ctx, store, to.opts.Volume)
	check(t, err)
	check(t, Activated(ctx, store, now))
}

func TestRenameToATakenName(t *testing.T) {
	store := newStore()
	from, to := renamed(t, store)
	other := someState(50)
	other.ID = volumeID(5)
	_, err := ownerOf(t, store, to.opts.Volume, "b", 1).OpenFirst(ctx, other)
	check(t, err)
	_, err = Rename(ctx, from, to, someState(2))
	wantKind(t, err, errs.Exists)
	commit(t, from, 3) // it goes on under its old name
}

func TestCancelledCommitIsUnsettled(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	store.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPutIfAbsent}, Times: 1, Effect: objstore.Late})
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := a.Commit(cancelled, someState(2))
	if err == nil || !a.Unsettled() {
		t.Fatalf("Commit returns %v, unsettled is %v", err, a.Unsettled())
	}
	if a.Generation() != (Generation{Epoch: 1, Number: 1}) {
		t.Errorf("the generation is %s", a.Generation())
	}
	g := commit(t, a, 3)
	if g != (Generation{Epoch: 1, Number: 3}) || a.Unsettled() {
		t.Errorf("after the failed commit, which is settled as 1.2, comes %s", g)
	}
}
