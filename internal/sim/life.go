package sim

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/sim/hardware"
)

// lost notes that a machine lost its power, or was stopped: what its guests wrote
// since they last flushed may be missing.
func (w *world) lost(m *machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lines {
		if l.m != m || l.ended {
			continue
		}
		if l.maybe && l.source != nil {
			l.inherit()
		}
		l.conn = nil
		if !l.loose || l.least > l.durable {
			l.loose, l.least = true, min(l.durable, l.last())
		}
		l.crashed, l.broken, l.unsure = true, false, l.owns
		for _, s := range l.snaps {
			s.going = s.going || s.maybe
		}
	}
}

// buried notes that a machine lost its disk: what was only there is gone. Under the machine's lock.
func (w *world) buried(m *machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.rotten, m.lostPages = false, false
	for _, l := range w.lines {
		if l.m == m {
			l.ended, l.maybe, l.failed = true, true, false
		}
	}
}

// restarted compares what a host found on its disk with what has to be there.
func (w *world) restarted(m *machine, h *host.Host, life int) {
	if w.reconcile(m, h, life) {
		w.lookAtAll(m, life)
	}
}

// reconcile compares the volumes that a host has with those it has to have.
func (w *world) reconcile(m *machine, h *host.Host, life int) bool {
	vs, err := h.List(context.Background(), false)
	if err != nil {
		if m.Alive(life) {
			w.violate(flushIsDurable, "host %d cannot list its volumes: %v", m.index, err)
		}
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[*line]bool{}
	for i := range vs {
		v := &vs[i]
		l := w.recognise(m, v)
		if l == nil {
			continue
		}
		found[l] = true
		if !l.mayBe(v.Name) {
			w.violateLocked(prefix, "%s is called %s after a restart", l, v.Name)
		}
		if v.Name != l.name && l.mayBe(v.Name) {
			l.name, l.names = v.Name, []string{l.name} // the store may have it otherwise
		}
		if p := (promise{v.Durability, time.Duration(v.RPOms * float64(time.Millisecond))}); v.State != "fenced" {
			if !l.mayPromise(p) {
				w.violateLocked(flushIsDurable, "%s promises %v after a restart, and should one of %v", l, p, l.promises)
			}
			l.promises = []promise{p}
		}
		switch v.State {
		case "failed":
			if m.rotten || m.lostPages {
				l.ended, l.maybe, l.failed = true, true, true
			} else {
				w.violateLocked(flushIsDurable, "%s failed: %s", l, v.Reason)
			}
		case "fenced":
			w.fence(l)
		}
	}
	for _, l := range w.lines {
		if l.m != m || l.ended || found[l] {
			continue
		}
		if w.wokenAgain(l) {
			w.fence(l) // when the host took it under the new name, if not before
		}
		if !l.maybe && !l.ending && !l.leaving && !l.fenced && !m.rotten {
			w.violateLocked(flushIsDurable, "%s is gone", l)
		}
		l.ended = true
	}
	return true
}

// wokenAgain tells whether a host that had lost the line's volume, perhaps without
// knowing, woke it again under the name that its next owner gave it. A volume
// that may never have been made has no ID yet, and was not. Under mu.
func (w *world) wokenAgain(l *line) bool {
	if l.id == "" {
		return false
	}
	for _, k := range w.lines {
		if k != l && k.m == l.m && k.id == l.id && k.index > l.index && k.name != l.name {
			return true
		}
	}
	return false
}

// recognise finds the line of a volume that a host has. Under mu.
func (w *world) recognise(m *machine, v *api.Volume) *line {
	id, name := v.ID, v.Name
	var over *line
	for i := len(w.lines) - 1; i >= 0; i-- {
		l := w.lines[i]
		switch {
		case l.m != m || l.id != id && !(l.id == "" && l.name == name), l.taking && l.name != name:
		case l.ended && over == nil:
			over = l
		case !l.ended:
			if l.maybe {
				w.found(l, id)
			}
			return l
		}
	}
	if i := strings.LastIndex(name, ".rescue-"); over == nil && i > 0 {
		return w.rescued(m, v, name[:i])
	}
	switch {
	case over == nil:
		w.violateLocked(prefix, "host %d has a volume %s that nobody asked for", m.index, name)
	case !over.maybe:
		w.violateLocked(prefix, "%s, which was removed, is back", over)
	}
	return nil // a verb that failed left it
}

// rescued makes a line of what a fenced host could not publish: all that was
// written there. The volume may be back on its host by then, taken over again, as
// another line: a rescue is named for the epoch in which its volume was fenced, and
// that is of the newest line which had begun by then. Under mu.
func (w *world) rescued(m *machine, v *api.Volume, of string) *line {
	epoch := uint64(math.MaxUint64)
	_, _ = fmt.Sscanf(v.Name[len(of):], ".rescue-%d", &epoch)
	for i := len(w.lines) - 1; i >= 0; i-- {
		l := w.lines[i]
		if l.m != m || l.rescue != nil || l.maybe && !l.inRescue || l.sinceName == of && l.since > epoch || !l.mayBe(of) {
			continue
		}
		k := w.newLine(m, v.Name)
		l.rescue, k.id, k.maybe = k, v.ID, false
		k.history, k.sizes, k.blockSize = l.copy(), append([]uint64(nil), l.sizes...), l.blockSize
		k.loose, k.least, k.crashed, k.durable = true, l.floor(), l.crashed, min(l.durable, l.floor())
		k.snaps, k.rolled = l.snaps, true
		l.snaps = map[string]*snap{}
		w.fence(l)
		return k
	}
	w.violateLocked(prefix, "host %d has a rescue volume %s of nothing", m.index, v.Name)
	return nil
}

// found makes a line of a volume that a verb made, though its answer was lost. Under mu.
func (w *world) found(l *line, id string) {
	l.id, l.maybe = id, false
	g := w.logs[l.name]
	if g == nil {
		return // made on its host
	}
	var mine *entry
	for at, e := range g.entries {
		if e.from.machine == l.m.index && e.State.ID.String() == id && e.Kind == commitlog.First && !e.Bare() && (mine == nil || at.Compare(mine.Generation) > 0) {
			mine = e
		}
	}
	if mine != nil && (l.taking || l.source == nil) {
		asked := l.promises
		if w.adopt(l, mine, id); asked != nil {
			l.promises = append(l.promises, asked...) // one of these, if that was not noted in time
		}
		l.loose, l.least = true, 0
	}
	l.owns = true
}

// lookAtAll reads every volume of a host that has just begun a life.
func (w *world) lookAtAll(m *machine, life int) {
	w.mu.Lock()
	var ls []*line
	for _, l := range w.lines {
		if l.m == m && !l.ended && !l.fenced && !l.maybe {
			ls = append(ls, l)
		}
	}
	w.mu.Unlock()
	for _, l := range ls {
		w.background(func() {
			defer l.hold()()
			for range 5 {
				if !m.Alive(life) || w.failed() || w.look(l) {
					return
				}
				time.Sleep(20 * time.Second)
			}
		})
	}
}

// epilogue is the end of a run: nothing is in anybody's way any more, so
// everything has to work.
func (w *world) epilogue() {
	for _, m := range w.machines {
		if u := m.Use(); u.Host != nil {
			w.reconcile(m, u.Host, u.Life)
			u.End()
		}
	}
	for pass := range 3 {
		if pass == 1 { // those that are in the store are flushed
			w.note(func(w *world) { w.checkKept("the end") })
			time.Sleep(2 * keepWithin)
			w.note(func(w *world) { w.checkKept("the end") })
		}
		w.mu.Lock()
		ls := append([]*line(nil), w.lines...)
		w.mu.Unlock()
		for _, l := range ls {
			if w.failed() {
				return
			}
			w.visit(l, pass)
		}
	}
}

// visit reads a line, flushes it, and reads it again.
func (w *world) visit(l *line, pass int) {
	w.mu.Lock()
	skip := l.ended || l.maybe || l.fenced || l.ending || l.m.rotten || len(l.names) > 0 || pass == 0 && !l.owns
	w.mu.Unlock()
	if skip {
		return
	}
	defer l.hold()()
	try := func(what string, do func() string) {
		res := do()
		for range 3 {
			if res == "" || res == "ok" || w.failed() || l.isOver() {
				return
			}
			time.Sleep(time.Minute)
			res = do()
		}
		if res == "" || res == "ok" || w.failed() || l.isOver() || w.flipped > 0 || w.rotten {
			return
		}
		w.violate(progress, "%s of %s does not work, though nothing is in its way: %s", what, l, res)
	}
	try("reading", func() string { return w.check(l, "in the end") })
	if pass > 0 {
		try("writing", func() string { return w.scribble(l) })
	}
	try("flushing", func() string { return w.flushLine(l) })
	if pass > 1 {
		try("reading", func() string { return w.check(l, "after the last flush") })
	}
	l.disconnect()
}

// scribble writes a little, and makes it as durable as the line's policy promises.
func (w *world) scribble(l *line) string {
	w.mu.Lock()
	w.stampNext++
	id := w.stampNext << 16
	w.mu.Unlock()
	if res := w.writes(l, []write{{at: 0, n: 8, stamp: func(s int) uint64 { return id | uint64(s) + 1 }, what: "write in the end"}}); res != "" {
		return res
	}
	return w.flushIO(l)
}

func (l *line) isOver() bool {
	l.m.w.mu.Lock()
	defer l.m.w.mu.Unlock()
	return l.fenced || l.ended || l.broken
}

// asked notes that a host is asked to give a volume away. Under no lock.
func (w *world) asked(m *machine, name string, r api.ReleaseRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lines {
		if l.m == m && l.name == name && !r.FlushOnly {
			l.leaving, l.released = true, true
			l.askers++
		}
	}
}

// isLate is called when a host is asked to give a volume away. If nobody waits for
// the answer any more, nothing may come of it: one-writer. That the host finds
// out meanwhile that another took the volume by force does not come of it: the
// epoch that it was asked about ends with the other's seal, not with a release.
func (w *world) isLate(ctx context.Context, m *machine, h *host.Host, name string, epoch uint64) (done func(error)) {
	state := func() string {
		v, err := h.Show(context.Background(), name)
		if err != nil {
			return hardware.Kind(err)
		}
		return v.State
	}
	alone := func() (yes bool) {
		w.note(func(*world) {
			for _, l := range w.lines {
				yes = yes || l.m == m && l.name == name && l.askers == 1 && !l.maybe && !l.ending && len(l.names) == 0 && !l.fenced
			}
		})
		return yes
	}
	taken := func() (yes bool) {
		w.note(func(*world) {
			g := w.logs[name]
			if g == nil {
				return
			}
			e := g.entries[g.runEnd(epoch)]
			yes = e != nil && e.Closes() && !e.Released && e.from.machine != m.index
		})
		return yes
	}
	if ctx.Err() == nil || state() != "active" || !alone() {
		return func(error) {}
	}
	return func(err error) {
		now := state()
		if alone() && (err == nil || now != "active" && !(now == "fenced" && taken())) {
			w.violate(oneWriter, "%s on h%d was asked for by a host that gave up, and is %s", name, m.index, now)
		}
	}
}

// answered notes what it answered: a volume that was given away is gone there.
func (w *world) answered(m *machine, life int, name string, r api.ReleaseRequest, err error) {
	w.note(func(*world) {
		for _, l := range w.lines {
			if l.m == m && l.name == name && !r.FlushOnly && l.askers > 0 {
				l.askers--
			}
		}
	})
	m.ifAlive(life, func() {
		for _, l := range w.lines {
			if l.m != m || l.name != name || !l.leaving || r.FlushOnly {
				continue
			}
			l.ended, l.unsure = l.ended || err == nil, true
			if k := errs.KindOf(err); err != nil && (k == errs.Busy || k == errs.WouldLose) {
				l.leaving = false // it was refused
			}
		}
	})
}
