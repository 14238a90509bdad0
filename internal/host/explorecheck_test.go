package host

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/volume"
)

// check: what was acknowledged is in the store, and every volume reads on its host what
// was written.
func (w *explored) check(when string) {
	for v := range w.slots {
		s, name := &w.slots[v], slotName(v)
		c, err := publishedContent(w.store, name)
		absent := err != nil && errs.KindOf(err) == errs.NotFound
		switch {
		case err != nil && !absent:
			broken("%s: %s: %v", when, name, err)
		case s.failed != 0 && s.failed != 'W': // it may be there
		case absent && s.exists && s.stored:
			broken("%s: %s is not in the store: %v", when, name, err)
		case !absent && !s.exists:
			broken("%s: %s was removed, and is in the store with %v", when, name, c)
		case !absent && !s.may1(c):
			broken("%s: the store has %v of %s, and may have %v", when, c, name, s.may)
		}
		if !s.exists || s.failed != 0 && s.failed != 'W' {
			continue
		}
		c, err = exploreRead(w.machines[s.at].h, name)
		w.must(err, "%s: reading %s on its host", when, name)
		if c != s.live {
			broken("%s: %s reads %v on its host, not %v", when, name, c, s.live)
		}
	}
}

// again repeats what failed. It must succeed.
func (w *explored) again() {
	for range 2 { // a fork may wait for what its source waits for
		for v := range w.slots {
			s := &w.slots[v]
			var err error
			switch s.failed {
			case 'W':
				err = w.flush(v)
			case 'N':
				err = w.create(v)
			case 'S', 'F':
				if _, here := w.machines[s.host].h.disks.Local(slotName(v), false); here != nil && !w.slots[s.from].exists {
					// Its source is gone, so it cannot be repeated: its host withdraws it.
					w.noOrphans()
					s.becomes(slot{})
					continue
				}
				err = w.fork(s.from, s.host, s.failed == 'S')
			case 'R':
				if err = w.remove(v); errors.Is(err, errs.NotFound) {
					s.removed()
					err = nil
				}
			case 'B':
				w.noOrphans()
				err = w.restore(s.from, v, s.host)
			case 'C':
				err = w.claim(v, s.host)
			}
			w.must(err, "repeating %c%d", s.failed, v+1)
		}
	}
}

// round runs a collector to its end, alone.
func (w *explored) round(when string) gc.Result {
	w.settle()
	r, err := gc.Run(ctx, collectorOptions(w.store, w.memory))
	w.must(err, "%s: a round", when)
	return r
}

func (w *explored) land() {
	for _, p := range w.lates {
		p.land()
	}
	w.lates = nil
}

// finish ends a run: everything comes to rest, and is checked on the way.
func (w *explored) finish() {
	w.check("before the end")
	if w.steps != nil {
		w.steps.finish()
		w.must(ignoreRace(w.steps.err), "the collector that waited")
		w.steps = nil
		w.check("after the collector that waited")
	}
	w.round("the first at the end")
	w.check("after a round")
	w.land()
	w.check("after the late requests")
	for n := range 2 {
		w.round(fmt.Sprintf("number %d after the late requests", n+1))
	}
	w.check("after three rounds")
	w.again()
	w.check("after what failed was repeated")
	for v := range w.slots {
		if w.slots[v].exists {
			w.must(w.flush(v), "the last flush")
		}
	}
	w.check("after the last flushes")
	rest := 0
	for ; w.round("until nothing is left").FlaggedObjects > 0; rest++ {
		if rest == 8 {
			broken("rounds flag something again and again")
		}
	}
	w.check("when nothing is left to collect")
	w.removeAll()
}

// removeAll removes every volume. Then the store must become empty of packs and forwards.
func (w *explored) removeAll() {
	for _, m := range w.machines {
		for _, d := range m.h.disks.All() {
			st := d.State()
			if st.Mode == volume.Fenced || st.SnapshotOf != (volume.ID{}) {
				continue
			}
			err := m.h.Remove(ctx, d.String(), true)
			if err != nil && errs.KindOf(err) != errs.Fenced && errs.KindOf(err) != errs.NotFound {
				broken("removing %s at the end: %v", d, err)
			}
		}
		for _, d := range m.h.disks.All() { // it has learnt that they were claimed
			w.must(m.h.Remove(ctx, d.String(), true), "removing %s", d)
		}
	}
	w.noOrphans()
	// What an earlier process announced, or a failed verb, stays pinned until the host has
	// started once more.
	for again := range 2 {
		if again > 0 {
			w.open(0)
			w.open(1)
		}
		w.settle()
		for _, m := range w.machines {
			w.must(m.h.Close(ctx), "closing a host")
		}
		for range 3 {
			_, err := gc.Run(ctx, collectorOptions(w.store, w.memory))
			w.must(err, "a round in a store without volumes")
		}
		var left []string
		for _, p := range []string{"packs/", "forwards/", "pins/"} {
			w.must(objstore.ListAll(ctx, w.store, p, "", func(in objstore.Info) bool { left = append(left, in.Key); return true }), "listing")
		}
		if len(left) == 0 {
			return
		}
		if again > 0 {
			broken("left in a store without volumes: %s", strings.Join(left, " "))
		}
	}
}

// state is a hash of the state of a run: of the model, and of the store without the random
// parts of its keys. What hosts have in memory and on their disks is not in it.
func (w *explored) state() uint64 {
	var lines []string
	w.must(objstore.ListAll(ctx, w.store, "", "", func(in objstore.Info) bool {
		class := in.Key
		switch kind, rest, _ := strings.Cut(in.Key, "/"); kind {
		case "packs", "forwards", "boot":
			class = kind
		case "pins":
			class = kind + rest[:1]
		default:
			if _, g, err := commitlog.ParseKey(in.Key); err == nil {
				class = fmt.Sprint(in.Key[:strings.LastIndexByte(in.Key, '/')], g.Number)
			}
		}
		lines = append(lines, fmt.Sprint(class, " ", in.Size/64))
		return true
	}), "listing")
	slices.Sort(lines)
	h := fnv.New64a()
	at := 0
	if w.steps != nil {
		at = 1
	}
	_, _ = fmt.Fprint(h, lines, w.slots, at)
	return h.Sum64()
}
