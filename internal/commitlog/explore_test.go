package commitlog

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
)

// An exploration runs a few actors, each of which talks to one store, in every
// order of their requests (or in many random ones), and with every fate of a
// few of their creations. A run is determined by its choices, so that a failing
// one can be repeated.

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
	t       *testing.T
	store   objstore.Store // what there is; touched by the scheduler only
	choose  func(n int) int
	faults  int // creations that may still have another fate than to take effect
	events  chan *step
	waiting []*step // one for each actor that waits for its request, by actor
	late    []*step
	trace   []string
	acks    []ack
	sent    map[string][]byte // content by actor and key
}

// step is a request of an actor, or its end.
type step struct {
	actor int
	what  string // empty: the actor is done
	exec  func() error
	fated bool // a creation
	reply chan error
}

// ack is a commit that was acknowledged.
type ack struct {
	g   Generation
	seq uint64
}

// port is the store as one actor sees it.
type port struct {
	objstore.Store
	r     *run
	actor int
}

var errNoAnswer = problem.New(problem.Unavailable, "no answer")

func (p *port) do(what string, fated bool, exec func() error) error {
	s := &step{actor: p.actor, what: what, exec: exec, fated: fated, reply: make(chan error)}
	p.r.events <- s
	return <-s.reply
}

func (p *port) Get(ctx context.Context, key string) (data []byte, err error) {
	failed := p.do("GET "+key, false, func() error { data, err = p.Store.Get(ctx, key); return err })
	return data, failed
}

func (p *port) List(ctx context.Context, prefix, after string, limit int) (infos []objstore.Info, err error) {
	failed := p.do("LIST", false, func() error { infos, err = p.Store.List(ctx, prefix, after, limit); return err })
	return infos, failed
}

func (p *port) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	// A number once sent never changes its content (rule 5).
	id := fmt.Sprint(p.actor, key)
	if before, ok := p.r.sent[id]; ok && !bytes.Equal(before, data) {
		p.r.t.Errorf("actor %d sends another content for %s", p.actor, key)
	}
	p.r.sent[id] = data
	return p.do("PUT "+key, true, func() error { return p.Store.PutIfAbsent(ctx, key, data) })
}

// actor is what one host does; it ends when it returns.
type actor func(r *run, store objstore.Store)

// play runs the actors to their end, then lets what is late take effect.
func (r *run) play(actors []actor) {
	r.waiting = make([]*step, len(actors))
	for i, act := range actors {
		go func() {
			act(r, &port{Store: r.store, r: r, actor: i})
			r.events <- &step{actor: i}
		}()
		r.collect() // one actor runs at a time
	}
	for slices.ContainsFunc(r.waiting, func(s *step) bool { return s != nil }) {
		r.next()
	}
	for _, s := range r.late {
		_ = s.exec()
	}
}

// collect waits until the running actor wants something, or is done.
func (r *run) collect() {
	if s := <-r.events; s.what != "" {
		r.waiting[s.actor] = s
	}
}

// next chooses among all that can happen next, and does it.
func (r *run) next() {
	var can []func()
	for _, s := range r.waiting {
		if s == nil {
			continue
		}
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
	r.waiting[s.actor] = nil
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
	r.collect()
}

// explore plays a scenario in all its runs, if they are no more than most, and
// in so many random ones otherwise, and checks each.
func explore(t *testing.T, most, faults int, begin func(tb, objstore.Store), actors ...actor) {
	t.Helper()
	most *= *depth
	base := newStore().Store
	begin(t, base)
	var prefix []int // choices of the next run; 0 after their end
	all, runs := true, 0
	rng := rand.New(rand.NewPCG(1, 2))
	for ; ; runs++ {
		var made, among []int
		r := &run{t: t, store: clone(t, base), faults: faults, events: make(chan *step), sent: map[string][]byte{}}
		r.choose = func(n int) int {
			c := 0
			switch {
			case !all:
				c = rng.IntN(n)
			case len(made) < len(prefix):
				c = prefix[len(made)]
			}
			made, among = append(made, c), append(among, n)
			return c
		}
		r.play(actors)
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
	log := historyOf(r.t, r.store, disk)
	bySeq := map[uint64]*Object{}
	owners := map[uint64]string{}
	var before *Object
	for _, o := range log {
		switch {
		case o.Kind == First:
			owners[o.Generation.Epoch] = o.State.Owner.ID
		case o.Kind == Commit:
			bySeq[o.State.Seq] = o
			// one-writer: an epoch has one owner.
			if o.State.Owner.ID != owners[o.Generation.Epoch] {
				r.t.Errorf("%s is of %s, its epoch of %s", o.Generation, o.State.Owner.ID, owners[o.Generation.Epoch])
			}
		}
		// Whatever opens or closes an epoch carries its predecessor's state.
		if before != nil && o.Kind != Commit && o.State.Seq != before.State.Seq {
			r.t.Errorf("%s %s has sequence %d after %d", o.Generation, o.Kind, o.State.Seq, before.State.Seq)
		}
		before = o
	}
	for _, a := range r.acks {
		if o := bySeq[a.seq]; o == nil || o.Generation != a.g {
			r.t.Errorf("sequence %d was acknowledged as %s, but is not in the log %q", a.seq, a.g, shape(log))
		}
	}
}

// commits is an actor's way to commit: it notes what was acknowledged, and
// tries again what was not answered.
func (r *run) commits(o *Owner, seq uint64) error {
	for {
		g, err := o.Commit(ctx, someState(seq))
		if err == nil {
			r.acks = append(r.acks, ack{g, seq}) // one actor runs at a time
		}
		if !errors.Is(err, problem.Unavailable) {
			return err
		}
	}
}

// owning is an actor that opens the volume's epoch, before the run, and then commits.
func owning(host string, seqs ...uint64) (begin func(tb, objstore.Store), act actor) {
	var claimed *Owner
	begin = func(t tb, store objstore.Store) {
		claimed = newOwner(t, store, host, 1)
		_, err := claimed.OpenFirst(ctx, someState(1))
		check(t, err)
	}
	act = func(r *run, store objstore.Store) {
		o := newOwner(r.t, store, host, 1)
		o.tip, o.next = claimed.tip, claimed.next // it did that itself, in this process
		o.opts.Rand = rand.NewChaCha8([32]byte{1: 1})
		for _, seq := range seqs {
			if err := r.commits(o, seq); err != nil {
				wantKind(r.t, err, problem.Fenced)
				return
			}
		}
	}
	return begin, act
}

// claiming is an actor that claims the volume and commits.
func claiming(host string, process uint64, seqs ...uint64) actor {
	return func(r *run, store objstore.Store) {
		o := newOwner(r.t, store, host, process)
		for {
			_, err := o.Claim(ctx, CauseTakeover, nil)
			if err == nil {
				break
			}
			if !errors.Is(err, problem.Unavailable) {
				wantKind(r.t, err, problem.Busy)
				return
			}
		}
		for _, seq := range seqs {
			if err := r.commits(o, seq); err != nil {
				wantKind(r.t, err, problem.Fenced)
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
		o := newOwner(r.t, store, "c", 1)
		_, err := o.Claim(ctx, CauseTakeover, nil)
		for tries := 0; err == nil && tries < 3; tries++ {
			if err = r.commits(o, 30); err == nil {
				err = o.Release(ctx)
			}
			if errors.Is(err, problem.Unavailable) {
				err = nil
			}
		}
	})
}
