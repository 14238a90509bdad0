package sim

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
)

// abroad chooses a published volume and a running host that does not have it.
func (w *world) abroad(d *dice.Dice) (name string, m *machine) {
	m = w.machines[d.N(len(w.machines))]
	w.mu.Lock()
	defer w.mu.Unlock()
	var can []string
	for _, n := range sortedKeys(w.logs) {
		g := w.logs[n]
		here := g.newest() == nil || g.newest().Bare()
		for _, l := range w.lines {
			here = here || l.m == m && (!l.ended || l.failed) && l.mayBe(n)
		}
		if !here {
			can = append(can, n)
		}
	}
	if len(can) == 0 {
		return "", m
	}
	return can[d.N(len(can))], m
}

// holder is the line of the host that may commit to a volume, or released it; nil
// if it is nowhere. Under mu.
func (w *world) holder(name string) *line {
	g := w.logs[name]
	if g == nil || g.newest() == nil {
		return nil
	}
	return w.opener(g, g.tip.Epoch)
}

// opener is the line of the host that began an epoch. Under mu.
func (w *world) opener(g *volumeLog, epoch uint64) *line {
	o := g.entries[commitlog.Generation{Epoch: epoch, Number: 1}]
	if o == nil {
		return nil
	}
	for i := len(w.lines) - 1; i >= 0; i-- {
		l := w.lines[i]
		if l.m.index == o.from.machine && l.id == o.State.ID.String() && !l.taking && !l.maybe {
			return l
		}
	}
	return nil
}

// takeOver wakes a volume on a host that does not have it. no-silent-rollback:
// without force, nothing that was acknowledged may be missing.
func (w *world) takeOver(d *dice.Dice) string {
	name, m := w.abroad(d)
	u := m.Use()
	defer u.End()
	if name == "" || u.Host == nil {
		return "skipped"
	}
	force := d.Chance(300)
	res, _ := w.wakeElsewhere(u, m, name, force, func() string {
		if d.Chance(200) {
			return w.logs[name].tip.String()
		}
		return ""
	})
	return res
}

// wakeElsewhere wakes a volume on a machine that does not have it, expecting a
// generation. The error is the host's.
func (w *world) wakeElsewhere(u hardware.Use, m *machine, name string, force bool, expected func() string) (string, error) {
	w.mu.Lock()
	g := w.logs[name]
	id := g.newest().State.ID.String()
	was := w.holder(name)
	floor := 0
	if was != nil {
		floor = was.floor()
	}
	expect := expected()
	k := w.newLine(m, name)
	k.id, k.taking, k.blockSize = id, true, g.newest().State.BlockSize
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	v, err := u.Host.Wake(ctx, name, force, expect)
	if err != nil {
		m.ifAlive(u.Life, func() { k.ended = true })
		w.trace("h%d: wake %s from elsewhere: %v", m.index, name, err)
		if m.Alive(u.Life) && !w.mayRefuse(err) {
			w.violate(progress, "wake of %s on host %d fails without a reason (%v): %v", name, m.index, errs.KindOf(err), err)
		}
		return "error", err
	}
	res := "crash"
	m.ifAlive(u.Life, func() {
		res = "ok"
		at, _ := commitlog.ParseGeneration(v.Generation)
		e := g.entries[at]
		if e == nil || e.content == nil && !e.State.Root.IsHole() {
			w.violateLocked(noSilentRollback, "%s was woken on host %d at %s, which is not in the log", name, m.index, v.Generation)
			return
		}
		w.adopt(k, e, v.ID)
		if was != nil && !force && was == w.opener(g, e.Generation.Epoch-1) {
			w.covers(was, e, floor, "woken elsewhere")
		}
	})
	return res, nil
}

// covers checks that a commit holds what a line's guests were told is there. Under mu.
func (w *world) covers(was *line, e *entry, floor int, how string) {
	floor = min(floor, was.floor())
	if e.State.ID.String() != was.id || floor < was.first {
		return
	}
	_, _, ok := was.find(e.content, floor, was.last())
	if !ok {
		w.violateLocked(noSilentRollback, "%s was %s at %s, without --force, and of the writes there %d have to be: %s",
			was, how, e.Generation, floor, was.explain(e.content, floor))
	}
}

// adopt makes a line what a commit holds. Under mu.
func (w *world) adopt(k *line, e *entry, id string) {
	k.id, k.taking, k.maybe, k.owns = id, false, false, true
	if e.State.ID.String() == id { // else it is a fork, whose epochs are its own
		k.since, k.sinceName = e.Generation.Epoch, k.name
	}
	k.history = history{start: e.content}
	k.stored, k.sizes, k.blockSize = 0, []uint64{e.State.Size}, e.State.BlockSize
	k.inStore, k.promises = e.content, []promise{promiseOf(&e.State)}
	for n, s := range e.snaps {
		for _, x := range e.State.Snapshots {
			if x.Name == n {
				k.snaps[n] = &snap{history: history{start: s}, size: x.Size} // it came with the volume
			}
		}
	}
}

// mayRefuse tells whether a verb that takes something from elsewhere may be
// refused in this way.
func (w *world) mayRefuse(err error) bool {
	switch errs.KindOf(err) {
	case errs.Busy, errs.WouldLose, errs.NotFound, errs.Exists, errs.Fenced:
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.machines {
		if m.hadBadSync && errs.KindOf(err) == errs.Internal {
			return true
		}
	}
	return w.excused(err) || errors.Is(err, errs.Unavailable)
}

// stormy tells whether the store is not as it should be. Under mu.
func (w *world) stormy() bool { return w.weather != (hardware.Weather{}) || w.troubled }

// forkAway forks a volume that another host has.
func (w *world) forkAway(d *dice.Dice) string {
	name, m := w.abroad(d)
	u := m.Use()
	defer u.End()
	if name == "" || u.Host == nil || w.live() >= w.params.volumes+2 {
		return "skipped"
	}
	lazy := d.Chance(500)
	w.mu.Lock()
	was, g := w.holder(name), w.logs[name]
	floor, before := 0, g.tip
	if was != nil {
		floor = was.floor()
	}
	k := w.newLine(m, w.newName())
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	fs, err := u.Host.Fork(ctx, api.ForkRequest{Source: name, Name: k.name, Lazy: lazy})
	if err != nil {
		m.ifAlive(u.Life, func() { k.ended = true })
		w.trace("h%d: fork %s from elsewhere: %v", m.index, name, err)
		if m.Alive(u.Life) && !w.mayRefuse(err) {
			w.violate(progress, "fork of %s on host %d fails without a reason (%v): %v", name, m.index, errs.KindOf(err), err)
		}
		return "error"
	}
	res := "crash"
	m.ifAlive(u.Life, func() {
		res = "ok"
		at, _ := commitlog.ParseGeneration(fs[0].Generation)
		e := g.entries[at]
		if e == nil || !g.counts(at) {
			w.violateLocked(noSilentRollback, "%s was forked at %s, which is no part of its log", name, fs[0].Generation)
			return
		}
		w.adopt(k, e, fs[0].ID)
		clear(k.snaps)
		k.promises = nil
		if was != nil && !lazy && was == w.opener(g, at.Epoch) {
			w.covers(was, e, floor, "forked")
		}
		renamed := uint64(0)
		if e.State.RenamedFrom != "" {
			renamed = 2 // whether its old name says so
		}
		moved := uint64(0)
		if g.tip != at || before != at || e.ahead || g.gap(at) {
			// Another list and look, the object before a seal ahead, or one beyond a gap; and if
			// a collector's round is open, its list and what it has flagged.
			moved = 5
		}
		looked := uint64(0)
		if len(e.Carry().DataCommits) > 0 && !lazy {
			looked = 2 // at the collector's round, and at the commit again
		}
		r := fs[0].Requests
		if n := r.Put + r.Get + r.List + r.Head + r.Delete; n > 6+w.unfolded(e)+2*uint64(e.Ahead)+renamed+moved+looked+w.keysNeed(e.State.Isolated) && !w.stormy() {
			w.violateLocked(forkIsConstant, "the fork of %s made %d requests: %+v", name, n, r)
		}
	})
	return res
}
