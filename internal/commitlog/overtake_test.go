package commitlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// The schedules of rule 13: a claim against an owner that commits on and on.

// The owner of these runs ships data commits ahead of their answers, the claimer
// is slow, and its seals ahead are near.
func TestExploreSealsAhead(t *testing.T) {
	nearLeads(t)
	begin, owner := shipping("a", 2, 3, 4, 5, 6, 7, 8, 9)
	explore(t, 400, 0, begin, owner, claiming("b", 1, 20))
	explore(t, 150, 2, begin, owner, claiming("b", 1, 20))
}

func TestExploreSealsAheadOfRolls(t *testing.T) {
	nearLeads(t)
	begin, owner := opening("a", func(r *run, store objstore.Store, o *Owner) error {
		o.opts.RollAt = 4
		return r.ships(store, o, []uint64{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13})
	})
	explore(t, 250, 0, begin, owner, claiming("b", 1, 20))
	explore(t, 150, 2, begin, owner, claiming("b", 1, 20))
}

func TestExploreTwoClaimersAhead(t *testing.T) {
	nearLeads(t)
	begin, owner := shipping("a", 2, 3, 4, 5, 6, 7)
	explore(t, 200, 1, begin, owner, claiming("b", 1, 20), claiming("c", 1, 30))
}

// A claimer dies after each of its requests: the owner goes on, after a pause,
// and nothing that it was about to send is lost.
func TestExploreClaimerDies(t *testing.T) {
	nearLeads(t)
	seqs := []uint64{2, 3, 4, 5, 6, 7, 8, 9}
	for dies := 1; dies <= 14; dies++ {
		begin, owner := opening("a", func(r *run, store objstore.Store, o *Owner) error {
			if err := r.ships(store, o, seqs); err != nil {
				return err
			}
			return r.commits(store, o, 20)
		})
		s := scenario{most: 30, begin: begin, actors: []actor{owner, claiming("b", 1, 30)}, dies: map[int]int{1: dies}}
		s.explore(t)
	}
}

// nearLeads puts seals ahead where a short run meets them.
func nearLeads(t *testing.T) {
	before := leads
	leads = [...]uint64{2, 3, 5}
	t.Cleanup(func() { leads = before })
}

// pushed is the store of a claimer while whose requests are under way the owner
// commits.
type pushed struct {
	objstore.Store
	push func()

	mu       sync.Mutex
	requests int
	putting  bool // side by side: they travel together
}

func (p *pushed) travel(put bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.requests++; !put || !p.putting {
		p.push()
	}
	p.putting = put
}

func (p *pushed) Get(ctx context.Context, key string) ([]byte, error) {
	p.travel(false)
	return p.Store.Get(ctx, key)
}

func (p *pushed) Head(ctx context.Context, key string) (objstore.Info, error) {
	p.travel(false)
	return p.Store.Head(ctx, key)
}

func (p *pushed) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	p.travel(false)
	return p.Store.List(ctx, prefix, after, limit)
}

func (p *pushed) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	p.travel(true)
	return p.Store.PutIfAbsent(ctx, key, data)
}

// A forced claim wins within a bounded number of its requests, however many
// commits the owner makes in the time of each, up to some epochs; the owner is
// fenced, and all that it acknowledged is in the log.
func TestClaimWins(t *testing.T) {
	for _, speed := range []int{0, 1, 3, 17, 40, 100, 250, 700} {
		t.Run(fmt.Sprint(speed), func(t *testing.T) { claimAgainst(t, speed, 120) })
	}
}

func claimAgainst(t *testing.T, speed, most int) {
	store := newStore()
	a := opened(t, store, "a")
	seq, acked := uint64(1), uint64(1)
	p := &pushed{Store: store, push: func() {
		var way []*Shipment
		for range speed {
			s, err := a.Ship(ctx, seq+1, noRanges, func(s *State) { s.Seq = seq })
			if err != nil {
				wantEnd(t, err)
				break
			}
			seq++
			if way = append(way, s); len(way) == 8 {
				for _, s := range way {
					if _, err := s.Wait(ctx); err == nil {
						acked++
					}
				}
				way = nil
			}
		}
		for _, s := range way {
			if _, err := s.Wait(ctx); err == nil {
				acked++
			}
		}
	}}
	b := newOwner(t, p, "b", 1)
	first, err := b.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	t.Logf("%d commits while %d requests were under way", seq, p.requests)
	if p.requests > most {
		t.Errorf("it took %d requests, at most %d may", p.requests, most)
	}
	if got := first.State.Through(); got < acked || got > seq {
		t.Errorf("claimed with write %d; %d were acknowledged, of %d", got, acked, seq)
	}
	_, err = a.Commit(ctx, someState(seq))
	wantKind(t, err, errs.Fenced)
	b.opts.Store = store
	commit(t, b, seq+1)
	var through uint64
	for _, o := range historyOf(t, store, disk) {
		if o.Kind == Commit && o.State.Through() <= through {
			t.Fatalf("%s has write %d after %d", o.Generation, o.State.Through(), through)
		}
		through = max(through, o.State.Through())
	}
	if through != seq+1 {
		t.Errorf("the log ends with write %d, not %d", through, seq+1)
	}
}

func wantEnd(t *testing.T, err error) {
	if !errors.Is(err, ErrYielding) && !errors.Is(err, errs.Fenced) {
		t.Errorf("the owner ends with %v", err)
	}
}

// An owner yields to another host's seal for half a minute of its own clock; what
// was on its way waits, and goes into the epoch that it opens then.
func TestOwnerYields(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	var now time.Duration
	a.opts.Uptime = func() time.Duration { return now }
	b := newOwner(t, store, "b", 1)
	hold(store, Generation{Epoch: 2, Number: 1}) // b dies
	wantKind(t, errOf(b.Claim(ctx, CauseTakeover, nil)), errs.Unavailable)
	var way []*Shipment
	sent := make(chan struct{})
	a.opts.Store = &late{store, disk.Key(Generation{Epoch: 1, Number: 2}), func() { <-sent }}
	for seq := uint64(2); seq < 6; seq++ {
		way = append(way, shipData(t, a, seq))
	}
	close(sent)
	for range 3 {
		_, err := way[0].Wait(ctx)
		wantYields(t, err)
		_, err = a.Resolve(ctx)
		wantYields(t, err)
		wantYields(t, a.CheckSeal(ctx))
		wantYields(t, a.Release(ctx))
		wantYields(t, errOf(a.Commit(ctx, someState(1))))
		if !a.Unsettled() {
			t.Error("nothing is under way")
		}
		now += yieldFor/3 - 1
	}
	now += 3
	check(t, errOf(a.Resolve(ctx)))
	for i, s := range way {
		g, err := s.Wait(ctx)
		check(t, err)
		if want := (Generation{Epoch: 2, Number: uint64(i) + 2}); g != want {
			t.Errorf("acknowledged as %s, want %s", g, want)
		}
	}
	wantKind(t, store.Held()[0].Release(), errs.Exists)
	_, through, pages := replayed(t, store)
	if through != 5 || len(pages) != 4 {
		t.Errorf("through %d with %d pages", through, len(pages))
	}
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 seal", "2.1 first", "2.2 commit", "2.3 commit", "2.4 commit", "2.5 commit")
	_, err := b.Claim(ctx, CauseTakeover, nil) // it comes back
	check(t, err)
	wantKind(t, errOf(a.Commit(ctx, someState(6))), errs.Fenced)
}

func wantYields(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrYielding) || !errors.Is(err, errs.Unavailable) {
		t.Fatalf("got %v, want that it yields", err)
	}
}

// Seals that a claim gave up cost one pause, not one each.
func TestOnePauseForAClaim(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	var now time.Duration
	a.opts.Uptime = func() time.Duration { return now }
	for _, n := range []uint64{4, 6, 9} {
		s := someState(0)
		s.Owner.ID, s.SealedBy, s.Cause = "a", "b", CauseSeal
		s.Tenant, s.Name = disk.Tenant, disk.Name
		put(t, store, &Object{Generation: Generation{Epoch: 1, Number: n}, Kind: Seal, Ahead: uint32(n) - 2, State: State{Identity: s.Identity}})
	}
	pauses := 0
	for seq := uint64(2); seq < 20; seq++ {
		_, err := a.Commit(ctx, someState(seq))
		if errors.Is(err, ErrYielding) {
			pauses++
			now += yieldFor
			_, err = a.Commit(ctx, someState(seq))
		}
		check(t, err)
	}
	if pauses != 1 {
		t.Errorf("%d pauses", pauses)
	}
	log := shape(historyOf(t, store, disk))
	if !slices.Equal(log[:5], []string{"1.1 first", "1.2 commit", "1.3 commit", "1.4 seal", "2.1 first"}) {
		t.Errorf("the log is %q", log)
	}
}

// The state of a log that a seal ahead ended is that of the object before it, for
// every reader, and for whoever goes on with it.
func TestSealAheadEndsTheLog(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	s := someState(0)
	s.Owner.ID, s.SealedBy, s.Cause, s.Tenant, s.Name = "a", "b", CauseSeal, disk.Tenant, disk.Name
	for _, n := range []uint64{3, 4} {
		put(t, store, &Object{Generation: Generation{Epoch: 1, Number: n}, Kind: Seal, Ahead: 1, State: State{Identity: s.Identity}})
	}
	if tip := newest(t, store, disk); tip.Generation != (Generation{Epoch: 1, Number: 1}) {
		t.Errorf("beyond a gap, %s is the tip", tip.Generation)
	}
	_, err := shipData(t, a, 2).Wait(ctx)
	check(t, err)
	tip := newest(t, store, disk)
	if tip.Generation != (Generation{Epoch: 1, Number: 3}) || tip.State.Through() != 2 || !tip.Closes() || tip.Bare() || tip.State.SealedBy != "b" {
		t.Errorf("the tip is %s with write %d", tip.Generation, tip.State.Through())
	}
	if _, through, pages := replayed(t, store); through != 2 || len(pages) != 1 {
		t.Errorf("replayed through %d, %d pages", through, len(pages))
	}
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 commit", "1.3 seal")
	wantYields(t, errOf(a.Commit(ctx, someState(2))))
	again := newOwner(t, store, "a", 2) // in its next life it yields, too
	wantYields(t, errOf(again.Claim(ctx, CauseOpen, nil)))
	_, err = Look(ctx, store, disk, Generation{Epoch: 1, Number: 2}, "a")
	wantYields(t, err)
	c := newOwner(t, store, "c", 1)
	first, err := c.Claim(ctx, CauseTakeover, nil)
	check(t, err)
	if first.State.Through() != 2 || first.State.After != (Generation{Epoch: 1, Number: 3}) || first.State.SealedFrom[0] != (SealedFrom{"a", Generation{Epoch: 1, Number: 2}}) {
		t.Errorf("the next epoch begins with %+v", first.State)
	}
	wantKind(t, errOf(again.Claim(ctx, CauseOpen, func(tip *Object) error { return fenced(disk, tip, "a") })), errs.Fenced)
	commit(t, c, 3)
	wantShape(t, historyOf(t, store, disk), "1.1 first", "1.2 commit", "1.3 seal", "2.1 first", "2.2 commit")
}

// A claimer that was too slow, so that the owner went on, is told so.
func TestTooSlowClaim(t *testing.T) {
	store := newStore()
	a := opened(t, store, "a")
	var now time.Duration
	a.opts.Uptime = func() time.Duration { return now }
	slow := &late{store, disk.Key(Generation{Epoch: 2, Number: 1}), func() {
		wantYields(t, errOf(a.Commit(ctx, someState(2))))
		now += yieldFor
		commit(t, a, 2)
	}}
	_, err := newOwner(t, slow, "b", 1).Claim(ctx, CauseTakeover, nil)
	wantKind(t, err, errs.Busy)
	commit(t, a, 3)
}

// late is a store in which something happens before an object is created.
type late struct {
	objstore.Store
	key    string
	before func()
}

func (s *late) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if key == s.key {
		s.before()
	}
	return s.Store.PutIfAbsent(ctx, key, data)
}
