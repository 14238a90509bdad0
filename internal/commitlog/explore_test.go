package commitlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// An exploration runs a few actors, each of which talks to one store, in every
// order of their requests (or in many random ones), and with every fate of a
// few of their creations. An actor may have several requests under way. A run is
// determined by its choices, so that a failing one can be repeated.

var depth = flag.Int("explore", 1, "play so many times as many runs")

// fate is what becomes of a creation.
type fate int

const (
	takesEffect fate = iota
	answerLost       // takes effect, and the sender sees an error
	isLost           // has no effect, and the sender sees an error
	isLate           // the sender sees an error; it takes effect at any later step
	fates
)

// run is one run.
type run struct {
	t      *testing.T
	store  objstore.Store // what there is; touched by the scheduler only
	choose func(n int) int
	faults int // creations that may still have another fate than to take effect
	late   []*step
	trace  []string
	clock  time.Duration // of every actor; waiting moves it on
	keys   func(objstore.Store) objstore.Store

	mu      sync.Mutex
	waiting []*step // requests of which the actors wait for the answers
	acks    []ack
	sent    map[string][]byte // content by actor and key
	counts  map[int]int       // requests by actor
}

// step is a request of an actor.
type step struct {
	actor int
	what  string
	exec  func() error
	fated bool // a creation
	reply chan error
}

// ack is a commit that was acknowledged.
type ack struct {
	g   Generation
	seq uint64
}

// port is the store as one actor sees it. After so many requests as it may make
// the actor is dead: nothing answers.
type port struct {
	objstore.Store
	r     *run
	actor int
	most  int
}

var errNoAnswer = errs.New(errs.Unavailable, "no answer")
var errDead = errs.New(errs.Internal, "the actor is dead")

func (p *port) do(what string, fated bool, exec func() error) error {
	s := &step{actor: p.actor, what: what, exec: exec, fated: fated, reply: make(chan error)}
	p.r.mu.Lock()
	if p.r.counts[p.actor]++; p.most > 0 && p.r.counts[p.actor] > p.most {
		p.r.mu.Unlock()
		return errDead
	}
	p.r.waiting = append(p.r.waiting, s)
	p.r.mu.Unlock()
	return <-s.reply
}

// rest lets a third of the time pass for which an owner yields.
func (r *run) rest(store objstore.Store) error {
	p, ok := store.(*port)
	if !ok {
		p = store.(*keyedStore).Store.(*port)
	}
	return p.do("WAIT", false, func() error { r.clock += yieldFor / 3; return nil })
}

func (p *port) Get(ctx context.Context, key string) (data []byte, err error) {
	failed := p.do("GET "+key, false, func() error { data, err = p.Store.Get(ctx, key); return err })
	return data, failed
}

func (p *port) Head(ctx context.Context, key string) (info objstore.Info, err error) {
	failed := p.do("HEAD "+key, false, func() error { info, err = p.Store.Head(ctx, key); return err })
	return info, failed
}

func (p *port) List(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	failed := p.do("LIST", false, func() error { infos, err = p.Store.List(ctx, prefix, after, limit); return err })
	return infos, failed
}

func (p *port) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	// A number once sent never changes its content (rule 5).
	id := fmt.Sprint(p.actor, key)
	p.r.mu.Lock()
	if before, ok := p.r.sent[id]; ok && !bytes.Equal(before, data) {
		p.r.t.Errorf("actor %d sends another content for %s", p.actor, key)
	}
	p.r.sent[id] = data
	p.r.mu.Unlock()
	return p.do("PUT "+key, true, func() error { return p.Store.PutIfAbsent(ctx, key, data) })
}

// actor is what one host does; it ends when it returns.
type actor func(r *run, store objstore.Store)

// play runs the actors to their end, then lets what is late take effect.
func (r *run) play(actors []actor, most map[int]int) {
	for i, act := range actors {
		go act(r, r.keys(&port{Store: r.store, r: r, actor: i, most: most[i]}))
	}
	for synctest.Wait(); len(r.waiting) > 0; synctest.Wait() {
		slices.SortFunc(r.waiting, func(a, b *step) int { return cmp.Or(a.actor-b.actor, strings.Compare(a.what, b.what)) })
		r.next()
	}
	for _, s := range r.late {
		_ = s.exec()
	}
}

// next chooses among all that can happen next, and does it.
func (r *run) next() {
	var can []func()
	for _, s := range r.waiting {
		can = append(can, func() { r.answer(s, takesEffect) })
		for f := takesEffect + 1; s.fated && r.faults > 0 && f < fates; f++ {
			can = append(can, func() { r.faults--; r.answer(s, f) })
		}
	}
	for i, s := range r.late {
		can = append(can, func() {
			r.late = slices.Delete(slices.Clone(r.late), i, i+1)
			r.note(s, "late")
			_ = s.exec()
		})
	}
	can[r.choose(len(can))]()
}

func (r *run) note(s *step, how string) {
	what := strings.Replace(s.what, disk.prefix(), "", 1)
	r.trace = append(r.trace, fmt.Sprintf("%d: %s %s", s.actor, what, how))
}

// answer lets a request have its fate, and its actor go on to its next.
func (r *run) answer(s *step, f fate) {
	r.waiting = slices.DeleteFunc(r.waiting, func(w *step) bool { return w == s })
	var err error
	switch f {
	case takesEffect:
		err = s.exec()
	case answerLost:
		_ = s.exec()
		err = errNoAnswer
	case isLost:
		err = errNoAnswer
	case isLate:
		err = errNoAnswer
		r.late = append(r.late, s)
	}
	r.note(s, []string{"", "(answer lost)", "(lost)", "(to be late)"}[f])
	s.reply <- err
}

// scenario is what explore plays.
type scenario struct {
	most   int         // runs, all of them if they are no more, then as many at random
	faults int         // creations that may have another fate than to take effect
	dies   map[int]int // requests that an actor makes before it dies
	begin  func(tb, objstore.Store)
	actors []actor
	keys   func(objstore.Store) objstore.Store // WithKeys, if the log is sealed
}

func explore(t *testing.T, most, faults int, begin func(tb, objstore.Store), actors ...actor) {
	t.Helper()
	scenario{most: most, faults: faults, begin: begin, actors: actors}.explore(t)
}

// explore plays a scenario and checks each run.
func (s scenario) explore(t *testing.T) {
	t.Helper()
	synctest.Test(t, s.runs)
}

func (s scenario) runs(t *testing.T) {
	most := s.most * *depth
	base := newStore().Store
	if s.keys == nil {
		s.keys = func(store objstore.Store) objstore.Store { return store }
	}
	s.begin(t, s.keys(base))
	var prefix []int // choices of the next run; 0 after their end
	all, runs := true, 0
	rng := rand.New(rand.NewPCG(1, 2))
	for ; ; runs++ {
		var made, among []int
		r := &run{t: t, store: clone(t, base), faults: s.faults, sent: map[string][]byte{}, counts: map[int]int{}, keys: s.keys}
		r.choose = func(n int) int {
			c := 0
			switch {
			case !all:
				c = rng.IntN(n)
			case len(made) < len(prefix):
				c = prefix[len(made)]
			}
			made, among = append(made, c), append(among, n)
			if len(made) > 5000 {
				t.Fatalf("no end: %s", strings.Join(r.trace[len(r.trace)-60:], "\n"))
			}
			return c
		}
		r.play(s.actors, s.dies)
		if r.verify(); t.Failed() {
			t.Fatalf("run %d:\n%s", runs, strings.Join(r.trace, "\n"))
		}
		if runs == 2*most {
			break
		}
		if runs == most {
			all = false // too many: go on at random
		}
		if all {
			i := len(made) - 1
			for i >= 0 && made[i] == among[i]-1 {
				i--
			}
			if i < 0 {
				runs++
				break
			}
			prefix = append(made[:i], made[i]+1)
		}
	}
	t.Logf("%d runs, all of them: %v", runs, all)
}

func clone(t tb, from objstore.Store) objstore.Store {
	to := newStore().Store
	check(t, objstore.ListAll(ctx, from, "", "", func(in objstore.Info) bool {
		data, err := from.Get(ctx, in.Key)
		check(t, err)
		check(t, to.Put(ctx, in.Key, data))
		return true
	}))
	return to
}

// verify checks the invariants on what a run has left.
func (r *run) verify() {
	store := r.keys(r.store)
	log := historyOf(r.t, store, disk)
	bySeq := map[uint64]*Object{}
	owners := map[uint64]string{}
	var before *Object
	for _, o := range log {
		switch {
		case o.Kind == First:
			owners[o.Generation.Epoch] = o.State.Owner.ID
		case o.Kind == Commit:
			bySeq[o.State.Through()] = o
			// one-writer: an epoch has one owner.
			if o.State.Owner.ID != owners[o.Generation.Epoch] {
				r.t.Errorf("%s is of %s, its epoch of %s", o.Generation, o.State.Owner.ID, owners[o.Generation.Epoch])
			}
		}
		// Whatever opens or closes an epoch carries its predecessor's state.
		if o.SealAhead() {
			continue // but one that was put there before its predecessor
		}
		if before != nil && o.Kind != Commit && o.State.Through() != before.State.Through() {
			r.t.Errorf("%s %s has sequence %d after %d", o.Generation, o.Kind, o.State.Through(), before.State.Through())
		}
		// prefix: a data commit follows the one before it.
		if len(o.Data) > 0 && o.State.DataSeq != before.State.Through()+1 {
			r.t.Errorf("data commit %s has write %d after %d", o.Generation, o.State.DataSeq, before.State.Through())
		}
		before = o
	}
	if tip := newest(r.t, store, disk); tip.State.Through() != before.State.Through() {
		r.t.Errorf("the tip has sequence %d, its log %d", tip.State.Through(), before.State.Through())
	}
	for _, a := range r.acks {
		if o := bySeq[a.seq]; o == nil || o.Generation != a.g {
			r.t.Errorf("sequence %d was acknowledged as %s, but is not in the log %q", a.seq, a.g, shape(log))
		}
	}
}

// acknowledged notes it.
func (r *run) acknowledged(g Generation, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acks = append(r.acks, ack{g, seq})
}

// again tells whether an actor goes on after an error of its owner: while it
// yields, it waits.
func (r *run) again(store objstore.Store, err error) bool {
	if errors.Is(err, ErrYielding) && r.rest(store) != nil {
		return false
	}
	return errors.Is(err, errs.Unavailable)
}

// commits is an actor's way to commit: it notes what was acknowledged, and
// tries again what was not answered.
func (r *run) commits(store objstore.Store, o *Owner, seq uint64) error {
	for {
		g, err := o.Commit(ctx, someState(seq))
		if err == nil {
			r.acknowledged(g, seq)
		}
		if !r.again(store, err) {
			return err
		}
	}
}

// noRanges is a data section without ranges. It was not compressed: the coder
// is shared by tests, and must not be made in the bubble of one.
var noRanges = []byte{0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// ships is an actor's way to send data commits, up to three under way at once.
func (r *run) ships(store objstore.Store, o *Owner, seqs []uint64) error {
	type way struct {
		s   *Shipment
		seq uint64
	}
	var under []way
	for len(seqs) > 0 || len(under) > 0 {
		var err error
		if len(seqs) > 0 && len(under) < 3 {
			var s *Shipment
			if s, err = o.Ship(ctx, seqs[0], noRanges, func(s *State) { s.Cause = CauseData }); err == nil {
				under, seqs = append(under, way{s, seqs[0]}), seqs[1:]
				continue
			}
		} else {
			var g Generation
			if g, err = under[0].s.Wait(ctx); err == nil {
				r.acknowledged(g, under[0].seq)
				under = under[1:]
				continue
			}
			if r.again(store, err) {
				_, err = o.Resolve(ctx)
			}
		}
		if err != nil && !r.again(store, err) {
			return err
		}
	}
	return nil
}

// of makes an owner's clock that of the run.
func (r *run) of(o *Owner) *Owner {
	o.opts.Uptime = func() time.Duration { return r.clock }
	return o
}

// opening is the owner's part: it opens the volume's epoch before the run; act
// goes on with that.
func opening(host string, act func(*run, objstore.Store, *Owner) error) (begin func(tb, objstore.Store), _ actor) {
	var claimed *Owner
	begin = func(t tb, store objstore.Store) {
		claimed = newOwner(t, store, host, 1)
		_, err := claimed.OpenFirst(ctx, someState(1))
		check(t, err)
	}
	return begin, func(r *run, store objstore.Store) {
		o := r.of(newOwner(r.t, store, host, 1))
		o.tip, o.next = claimed.tip, claimed.next // it did that itself, in this process
		o.opts.Rand = rand.NewChaCha8([32]byte{1: 1})
		r.ended(act(r, store, o), errs.Fenced)
	}
}

// ended checks why an actor ended.
func (r *run) ended(err error, kind errs.Kind) {
	if err != nil && !errors.Is(err, errDead) && !errors.Is(err, kind) {
		r.t.Errorf("an actor ends with %v", err)
	}
}

// owning is an actor that commits to a volume of its own.
func owning(host string, seqs ...uint64) (begin func(tb, objstore.Store), act actor) {
	return opening(host, func(r *run, store objstore.Store, o *Owner) error {
		for _, seq := range seqs {
			if err := r.commits(store, o, seq); err != nil {
				return err
			}
		}
		return nil
	})
}

// shipping is owning, with data commits that are sent ahead.
func shipping(host string, seqs ...uint64) (begin func(tb, objstore.Store), act actor) {
	return opening(host, func(r *run, store objstore.Store, o *Owner) error { return r.ships(store, o, seqs) })
}

// claiming is an actor that claims the volume and commits.
func claiming(host string, process uint64, seqs ...uint64) actor {
	return func(r *run, store objstore.Store) {
		o := r.of(newOwner(r.t, store, host, process))
		for {
			_, err := o.Claim(ctx, CauseTakeover, nil)
			if err == nil {
				break
			}
			if !errors.Is(err, errs.Unavailable) {
				r.ended(err, errs.Busy)
				return
			}
		}
		for _, seq := range seqs {
			if err := r.commits(store, o, seq); err != nil {
				r.ended(err, errs.Fenced)
				return
			}
		}
	}
}

func TestExploreOwnerAndClaimer(t *testing.T) {
	begin, owner := owning("a", 10, 11)
	explore(t, 3000, 0, begin, owner, claiming("b", 1, 20))
}

func TestExploreTwoClaimers(t *testing.T) {
	begin, _ := owning("a")
	explore(t, 3000, 0, begin, claiming("b", 1, 20), claiming("c", 1, 30))
}

func TestExploreTwoProcessesOfOneHost(t *testing.T) {
	begin, _ := owning("a")
	explore(t, 600, 1, begin, claiming("a", 2, 20), claiming("a", 3, 30))
}

func TestExploreFaults(t *testing.T) {
	begin, owner := owning("a", 10, 11)
	explore(t, 600, 1, begin, owner, claiming("b", 1, 20))
	explore(t, 400, 3, begin, owner, claiming("b", 1, 20))
}

func TestExploreThree(t *testing.T) {
	begin, owner := owning("a", 10, 11)
	explore(t, 250, 0, begin, owner, claiming("b", 1, 20), claiming("c", 1, 30))
	explore(t, 250, 2, begin, owner, claiming("b", 1, 20), claiming("c", 1, 30))
}

// TestExploreRelease: a volume that is released while another claims it.
func TestExploreRelease(t *testing.T) {
	begin, _ := owning("a")
	explore(t, 300, 1, begin, claiming("b", 1, 20), func(r *run, store objstore.Store) {
		o := r.of(newOwner(r.t, store, "c", 1))
		_, err := o.Claim(ctx, CauseTakeover, nil)
		for tries := 0; err == nil && tries < 3; tries++ {
			if err = r.commits(store, o, 30); err == nil {
				err = o.Release(ctx)
			}
			if errors.Is(err, errs.Unavailable) {
				err = nil
			}
		}
	})
}
