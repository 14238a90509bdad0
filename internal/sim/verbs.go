package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
)

// verbTime is how long a verb may take before its caller gives up.
const verbTime = 3 * time.Minute

func (w *world) newLine(m *machine, name string) *line {
	l := &line{
		index: len(w.lines), m: m, name: name, stored: -1, maybe: true, snaps: map[string]*snap{},
		guest: make(chan struct{}, 1), verb: make(chan struct{}, 1),
	}
	w.lines = append(w.lines, l)
	return l
}

func (w *world) newName() string {
	w.names++
	return fmt.Sprintf("v%d", w.names)
}

// pick chooses a line that can be used, nil if there is none.
func (w *world) pick(d *dice.Dice, ok func(*line) bool) *line {
	w.mu.Lock()
	defer w.mu.Unlock()
	var can []*line
	for _, l := range w.lines {
		if !l.maybe && !l.ended && !l.fenced && (ok == nil || ok(l)) {
			can = append(can, l)
		}
	}
	if len(can) == 0 {
		return nil
	}
	return can[d.N(len(can))]
}

// live counts the lines in use.
func (w *world) live() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lines {
		if !l.ended && !l.fenced {
			n++
		}
	}
	return n
}

// floor is how many writes of a line nothing may be without: those that were
// acknowledged, or after a crash those that were flushed. Under mu.
func (l *line) floor() int {
	if l.loose {
		return l.least
	}
	return l.acked
}

// part is the history of a line from a write on, as a fork or a snapshot of it
// may be: after any of those writes. Under mu.
func (l *line) part(from int) history {
	from = max(from, l.first)
	return history{start: l.content(from), writes: append([]write(nil), l.writes[from-l.first:]...)}
}

// copy is a history that goes its own way from here.
func (h *history) copy() history {
	return history{start: h.start, first: h.first, writes: append([]write(nil), h.writes...)}
}

// inherit gives a fork what its source may have held when it was made. Under mu.
func (l *line) inherit() {
	if s := l.source; s != nil {
		l.history, l.sizes = s.part(l.sourceFrom), append(l.sizes, s.sizes...) // it may be grown meanwhile
		l.source = nil
	}
	l.first, l.loose, l.least = 0, true, 0
}

func (w *world) create(d *dice.Dice) string {
	m := w.machines[d.N(len(w.machines))]
	u := m.Use()
	defer u.End()
	if u.Host == nil || w.live() >= w.params.volumes {
		return "skipped"
	}
	sectors := 64 + 8*d.N(80)
	if d.Chance(300) {
		sectors += d.N(8)
	}
	size, block := uint64(sectors)*sectorSize, uint64(4096<<d.N(5))
	w.mu.Lock()
	l := w.newLine(m, w.newName())
	l.sizes, l.blockSize = []uint64{size}, uint32(block)
	p := localOnly
	if d.Chance(600) {
		p = somePromise(d)
	}
	l.promises = []promise{p, localOnly}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	r := api.CreateRequest{Name: l.name, Size: size, BlockSize: block, Durability: p.durability}
	if p.ships() {
		r.RPOms = float64(p.rpo.Milliseconds())
	}
	r.Isolate = w.isolates(l)
	v, err := u.Host.Create(ctx, r)
	res := w.settled(l, l.name, u.Life, "create", err, func() {
		l.id, l.maybe, l.promises = v.ID, false, []promise{p}
		if p.ships() {
			l.stored = 0
		}
	})
	if (p.ships() || r.Isolate) && res == "error" {
		w.note(func(*world) { l.ended = true }) // it is not made without the store
	}
	return res
}

// settled ends a verb: if it succeeded, the model changes; if not, it needs an
// excuse. name is the one under which it went.
func (w *world) settled(l *line, name string, life int, what string, err error, change func()) string {
	if err != nil {
		if !l.m.Alive(life) {
			return "crash"
		}
		w.note(func(*world) { l.unsure = true })
		w.judge(l, name, life, what, err)
		return "error"
	}
	if !l.m.ifAlive(life, change) {
		return "crash"
	}
	w.trace("h%d: %s %s: ok", l.m.index, what, name)
	return "ok"
}

// flushLine publishes a line, and checks that the store has then what was
// acknowledged before. flush-is-durable.
func (w *world) flushLine(l *line) string {
	u := l.m.Use()
	defer u.End()
	if u.Host == nil {
		return "down"
	}
	w.mu.Lock()
	n, name := l.floor(), l.name
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	f, err := u.Host.Flush(ctx, name)
	return w.settled(l, name, u.Life, "flush", err, func() {
		l.unsure = false
		at, gerr := commitlog.ParseGeneration(f.Generation)
		g := w.logs[l.name]
		switch {
		case len(l.names) > 0 || l.name != name || l.ended || l.m.hadBadSync:
		case gerr != nil || g == nil || !g.counts(at):
			w.violateLocked(flushIsDurable, "%s was flushed to %s, and the log has no such commit", l, f.Generation)
		case !w.holds(l, g.entries[at], n):
			w.violateLocked(flushIsDurable, "%s was flushed to %s, which holds %d writes, and %d were acknowledged before", l, f.Generation, l.stored, n)
		default:
			l.durable = max(l.durable, n)
		}
	})
}

// holds tells whether a commit is a line after at least n of its writes. Under mu.
func (w *world) holds(l *line, e *entry, n int) bool {
	if n < l.first {
		return true // what was before is settled, and in the store
	}
	k, _, ok := l.find(e.content, min(n, l.last()), l.last())
	if ok {
		l.stored = max(l.stored, k)
	}
	return ok
}

func (w *world) sleep(d *dice.Dice, l *line, u hardware.Use) string {
	portable, force := d.Chance(400), d.Chance(500)
	if d.Chance(700) {
		release := l.hold()
		l.disconnect()
		if !portable {
			defer release()
		} else {
			release()
		}
	}
	w.mu.Lock()
	n, name := l.floor(), l.name
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	w.note(func(*world) { l.released, l.askers = l.released || portable, l.askers+1 })
	defer w.note(func(*world) { l.askers-- })
	v, err := u.Host.Sleep(ctx, name, portable, force)
	if err != nil && errs.KindOf(err) == errs.Busy {
		return "busy"
	}
	return w.settled(l, name, u.Life, "sleep", err, func() {
		l.durable = max(l.durable, min(n, l.acked))
		at, _ := commitlog.ParseGeneration(v.Generation)
		if portable && l.name == name && !l.m.hadBadSync && (w.logs[name] == nil || w.logs[name].entries[at] == nil || !w.holds(l, w.logs[name].entries[at], n)) {
			w.violateLocked(flushIsDurable, "%s sleeps portably at %s with %d writes, and %d were acknowledged before", l, v.Generation, l.stored, n)
		}
	})
}

// wake wakes a volume where it is. One that is fenced there is taken over again.
func (w *world) wake(d *dice.Dice, l *line, u hardware.Use) string {
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	if w.isLeaving(l) {
		return "skipped" // that would be to take it over again
	}
	w.mu.Lock()
	name, expect, before := l.name, "", commitlog.Generation{}
	g := w.logs[name]
	if g != nil {
		before = g.tip
		if l.owns && d.Chance(300) {
			expect = g.tip.String()
		}
	}
	if w.elsewhere(l) {
		l.leaving = true
	}
	w.mu.Unlock()
	v, err := u.Host.Wake(ctx, name, false, expect)
	if k := errs.KindOf(err); err != nil && k == errs.WouldLose && (expect != "" || w.isLeaving(l)) {
		return "refused" // the host had not heard of its own commit, or another has it
	}
	return w.settled(l, name, u.Life, "wake", err, func() {
		at, _ := commitlog.ParseGeneration(v.Generation)
		if g == nil || g.entries[at] == nil || at.Number != 1 || at.Compare(before) <= 0 {
			return
		}
		if c := g.entries[at].State.Cause; c == commitlog.CauseWake || c == commitlog.CauseTakeover {
			k := w.newLine(l.m, name)
			w.adopt(k, g.entries[at], v.ID)
			l.ended, l.maybe, l.inRescue = true, true, true
		}
	})
}

func (w *world) isLeaving(l *line) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return l.leaving || l.ended || l.ending || len(l.names) > 0
}

func (w *world) resize(d *dice.Dice, l *line, u hardware.Use) string {
	w.mu.Lock()
	size := l.sizes[0] + uint64(1+d.N(64))*sectorSize
	shrinks := len(l.sizes) > 1 || l.loose || size > 1<<20
	name := l.name
	if !shrinks {
		l.sizes, l.resizing = append(l.sizes, size), true
	}
	w.mu.Unlock()
	defer w.note(func(*world) { l.resizing = false })
	if shrinks {
		return "skipped"
	}
	_, err := u.Host.Resize(context.Background(), name, size)
	res := w.settled(l, name, u.Life, "resize", err, func() { l.sizes = []uint64{size} })
	return res
}

func (w *world) set(d *dice.Dice, l *line, u hardware.Use) string {
	s := api.Settings{"label.x": fmt.Sprint(d.N(100))}
	switch d.N(3) {
	case 0:
		s["dirty-budget"] = fmt.Sprintf("%dK", 64<<d.N(4))
	case 1:
		s["iops"] = fmt.Sprint(d.N(2) * 500)
	}
	w.mu.Lock()
	name := l.name
	w.mu.Unlock()
	_, err := u.Host.Set(context.Background(), name, s)
	return w.settled(l, name, u.Life, "set", err, func() {})
}

func (w *world) rename(d *dice.Dice, l *line, u hardware.Use) string {
	l.disconnect()
	w.mu.Lock()
	name, to := l.name, w.newName()
	if len(l.names) > 0 && d.Chance(700) {
		to = l.names[len(l.names)-1] // again
	}
	l.names = append(l.names, to)
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	_, err := u.Host.Rename(ctx, name, to)
	return w.settled(l, name, u.Life, "rename", err, func() { l.name, l.names = to, nil })
}

func (w *world) remove(_ *dice.Dice, l *line, u hardware.Use) string {
	if w.live() < 2 {
		return "skipped"
	}
	w.mu.Lock()
	l.ending = true
	name := l.name
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	err := u.Host.Remove(ctx, name, true)
	return w.settled(l, name, u.Life, "remove", err, func() { l.ended = true })
}
