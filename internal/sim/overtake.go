package sim

import (
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/internal/volume"
)

// overtake is the step in which a host claims, by force, a volume whose owner
// does not answer and goes on committing, faster than the claimer's requests
// travel. Some claimers lose their power meanwhile.
var overtake = op{name: "overtake", run: (*world).overtake}

// overtakes tells whether a step is that. Other seeds have the schedules that
// they would have without it.
func (w *world) overtakes(step int) bool {
	return dice.Draw(w.seed, "overtakes")%3 == 0 && dice.Draw(w.seed, "overtake", uint64(step))%12 == 0
}

// most writes of the owner's guest in one such step.
const busyWrites = 150

func (w *world) overtake(d *dice.Dice) string {
	l := w.pick(d, func(l *line) bool { return len(l.names) == 0 })
	far, dies := d.Around(100*time.Millisecond), d.Chance(300)
	after, down := 1+d.N(40), d.Around(2*time.Minute)
	if l == nil {
		return "skipped"
	}
	m := w.machines[(l.m.index+1)%len(w.machines)]
	defer l.hold()()
	if !w.makeSync(l) {
		return "skipped"
	}
	u := m.Use()
	defer u.End()
	if u.Host == nil || w.has(m, l) || l.isOver() {
		return "skipped"
	}
	life, name := l.m.Life(), l.name
	m.SetFarther(far)
	defer m.SetFarther(0)
	if dies {
		m.Crash(after, 100, down)
	}
	res, done := "", make(chan struct{})
	var err error
	w.note(func(w *world) { w.partedBy, w.partedTo = 1<<m.index, time.Now().Add(time.Hour) }) // it asks in vain
	w.verbs.Go(func() {
		defer close(done)
		res, err = w.wakeElsewhere(u, m, name, true, func() string { return "" })
	})
	w.hurry(l, done)
	<-done
	w.note(func(w *world) { w.partedTo = time.Time{} })
	if !dies && errs.KindOf(err) == errs.Busy && err != nil && w.calmly() && m.Alive(u.Life) && l.m.Alive(life) && w.ownedBy(l, name) {
		w.violate(progress, "host %d does not get %s by force, while host %d goes on with it: %v", m.index, name, l.m.index, err)
	}
	return res
}

// makeSync gives a line the policy under which each flush of its guest commits.
func (w *world) makeSync(l *line) bool {
	l.verb <- struct{}{}
	defer func() { <-l.verb }()
	u := l.m.Use()
	defer u.End()
	return u.Host != nil && w.setPromise(promise{volume.Sync, time.Second}, l, u) == "ok"
}

// hurry lets the guest of a line write and flush, as fast as it can. The line is held.
func (w *world) hurry(l *line, done chan struct{}) {
	for i := range busyWrites {
		select {
		case <-done:
			return
		default:
		}
		w.mu.Lock()
		w.stampNext++
		id := w.stampNext << 16
		w.mu.Unlock()
		o := write{at: 8 * (i % 4), n: 8, stamp: func(s int) uint64 { return id | uint64(s) + 1 }, what: "hurried write"}
		if w.writes(l, []write{o}) != "" || w.flushIO(l) != "" {
			return
		}
	}
}

// has tells whether a machine has the volume of a line, or had.
func (w *world) has(m *machine, l *line) (yes bool) {
	w.note(func(w *world) {
		for _, o := range w.lines {
			yes = yes || o.m == m && !o.ended && (o.id == l.id || o.mayBe(l.name))
		}
	})
	return yes
}

// calmly tells whether nothing but what the steps do is in anybody's way, and epochs
// are long enough for a claim to be sure of (see commitlog's overtake).
func (w *world) calmly() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.weather == (hardware.Weather{}) && !w.troubled && w.params.rollAt == 0
}

// ownedBy tells whether the log of a volume is still that of the line's host.
func (w *world) ownedBy(l *line, name string) (yes bool) {
	w.note(func(w *world) {
		g := w.logs[name]
		yes = !l.ended && l.name == name && g != nil && g.newest() != nil && w.opener(g, g.tip.Epoch) == l
	})
	return yes
}
