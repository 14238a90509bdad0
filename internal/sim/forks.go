package sim

import (
	"context"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
)

func (w *world) fork(d *dice.Dice, l *line, u hardware.Use) string {
	if w.live() >= w.params.volumes+2 {
		return "skipped"
	}
	var source *snap
	w.mu.Lock()
	from, name := l.floor(), l.name
	sourceName := name
	if s, sn := l.someSnap(d); s != nil && d.Chance(400) {
		source, sourceName = s, name+"@"+sn
	}
	k := w.newLine(l.m, w.newName())
	k.blockSize, k.sizes = l.blockSize, append([]uint64(nil), l.sizes...)
	if k.source, k.sourceFrom = l, from; source != nil {
		k.source, k.history, k.sizes = nil, source.copy(), append(k.sizes, source.size)
	}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	fs, err := u.Host.Fork(ctx, api.ForkRequest{Source: sourceName, Name: k.name})
	after, _ := u.Host.Show(context.Background(), name)
	res := w.settled(k, k.name, u.Life, "fork", errOr(err, l, name, w), func() {
		k.id, k.maybe = fs[0].ID, false
		r := fs[0].Requests
		made := r.Put + r.Get + r.List + r.Head + r.Delete
		if g := w.logs[name]; made > 0 && g != nil && w.forkedFromStore(l, k, name, fs[0], from) {
			return
		}
		if k.inherit(); source == nil {
			k.behind = l.unsure || l.behind
			k.baseRoot, k.owns = w.baseOf(l, fs[0].Generation, after.Generation)
		} else {
			k.sizes = []uint64{source.size}
		}
		if g := w.logs[k.name]; g != nil {
			k.owns = true
		}
		if made > 0 {
			w.violateLocked(forkIsConstant, "the fork %s of %s on its host made requests: %+v", k, l, r)
		}
	})
	if err != nil && l.m.Alive(u.Life) {
		w.note(func(*world) { k.ended = true }) // a local fork is there, or not
	}
	return res
}

// forkedFromStore takes note of a fork of what this host released before: that is
// made as one of another host's volume is. Under mu.
func (w *world) forkedFromStore(l, k *line, name string, f api.Fork, from int) bool {
	at, err := commitlog.ParseGeneration(f.Generation)
	e, mine := w.logs[name].entries[at], w.logs[k.name]
	if err != nil || e == nil || mine == nil || mine.newest() == nil || !l.released {
		return false
	}
	source := k.source
	if w.adopt(k, mine.newest(), f.ID); source != nil {
		k.source = nil
	}
	if source != nil && !l.fenced && l.name == name && !l.ended && !w.elsewhere(l) {
		w.covers(l, e, from, "forked")
	}
	clear(k.snaps)
	return true
}

// baseOf is the root that a local fork of a line lies over, if the host knew of
// the same commit before and after; unknown tells that it did not. Under mu.
func (w *world) baseOf(l *line, before, after string) (root rootKey, unknown bool) {
	if l.rolled {
		return rootKey{}, true
	}
	if before == "" && after == "" {
		return l.baseRoot, false
	}
	at, err := commitlog.ParseGeneration(before)
	g := w.logs[l.name]
	if before != after || err != nil || g == nil || g.entries[at] == nil {
		return rootKey{}, true
	}
	e := g.entries[at]
	if len(e.State.DataCommits) > 0 || len(e.Data) > 0 || e.Bare() {
		return rootKey{}, true
	}
	return e.State.Root, false
}

func (l *line) someSnap(d *dice.Dice) (*snap, string) {
	for _, n := range sortedKeys(l.snaps) {
		if s := l.snaps[n]; !s.maybe && !s.going && d.Chance(500) {
			return s, n
		}
	}
	return nil, ""
}

func (w *world) snapshot(d *dice.Dice, l *line, u hardware.Use) string {
	if d.Chance(700) {
		defer l.hold()()
		if !w.look(l) {
			return "not certain"
		}
	}
	w.mu.Lock()
	if len(l.snaps) >= 3 {
		w.mu.Unlock()
		return "skipped"
	}
	name, sn, from := l.name, "s"+w.newName(), l.floor()
	s := &snap{maybe: true}
	l.snaps[sn] = s
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	_, err := u.Host.Snapshot(ctx, name, sn, "")
	res := w.settled(l, name, u.Life, "snapshot", err, func() { s.history, s.size, s.maybe = l.part(from), l.sizes[0], false })
	if res != "ok" {
		w.note(func(*world) { s.going = true })
	}
	return res
}

func (w *world) removeSnapshot(d *dice.Dice, l *line, u hardware.Use) string {
	w.mu.Lock()
	s, sn := l.someSnap(d)
	if s == nil {
		w.mu.Unlock()
		return "skipped"
	}
	s.going = true
	name := l.name
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	err := u.Host.Remove(ctx, name+"@"+sn, true)
	return w.settled(l, name, u.Life, "remove snapshot", err, func() { delete(l.snaps, sn) })
}

func (w *world) rollback(d *dice.Dice, l *line, u hardware.Use) string {
	if !w.look(l) {
		return "not certain"
	}
	l.disconnect()
	w.mu.Lock()
	s, sn := l.someSnap(d)
	if s == nil || len(s.writes) > 0 {
		w.mu.Unlock()
		return "skipped"
	}
	l.add(write{whole: s.start.clone(0), what: "rollback to " + sn})
	n, name := l.last(), l.name
	l.sizes = append(l.sizes, s.size)
	l.baseRoot, l.rolled = rootKey{}, true // it may lie over another now
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	_, err := u.Host.Rollback(ctx, name, sn, true)
	if going := w.isGoing(s); err != nil && going && errs.KindOf(err) == errs.NotFound {
		w.uncertain(l)
		return "gone"
	}
	res := w.settled(l, name, u.Life, "rollback", err, func() {
		for i := range l.writes { // nobody misses them any more
			l.writes[i].acked = time.Time{}
		}
		w.acknowledged(l, n)
		l.durable, l.sizes = n, []uint64{s.size}
	})
	if res == "error" {
		w.uncertain(l)
	}
	return res
}

func (w *world) isGoing(s *snap) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.going
}

// errOr gives an error the excuses of the source.
func errOr(err error, l *line, name string, w *world) error {
	if err == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.name != name || l.ended || l.ending || l.leaving || l.fenced || l.broken || len(l.names) > 0 ||
		errs.KindOf(err) == errs.Fenced || w.elsewhere(l) || l.released && errs.KindOf(err) == errs.WouldLose {
		return errs.New(errs.Unavailable, "the source is busy: %w", err)
	}
	return err
}
