package sim

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/nbd"
)

// op is a kind of step. What exactly it does it draws when it runs, among what
// exists then: a schedule from which steps were taken out is a schedule.
type op struct {
	name   string
	weight int
	run    func(*world, *dice.Dice) string
}

var ops = []op{
	{"create", 60, (*world).create},
	{"write", 300, asGuest((*world).write)},
	{"zero", 60, asGuest((*world).zero)},
	{"churn", 50, asGuest((*world).churn)},
	{"sync", 80, asGuest((*world).sync)},
	{"read", 60, asGuest((*world).readBack)},
	{"hang up", 20, asGuest((*world).hangUp)},
	{"flush", 90, anyLine((*world).flushLine)},
	{"fork", 50, verb{do: (*world).fork}.run},
	{"snapshot", 30, verb{do: (*world).snapshot}.run},
	{"remove snapshot", 10, verb{do: (*world).removeSnapshot, can: hasSnaps}.run},
	{"rollback", 15, verb{do: (*world).rollback, can: hasSnaps, alone: true, still: true}.run},
	{"sleep", 40, verb{do: (*world).sleep}.run},
	{"wake", 25, verb{do: (*world).wake}.run},
	{"take over", 50, (*world).takeOver},
	{"fork away", 25, (*world).forkAway},
	{"resize", 12, verb{do: (*world).resize, alone: true}.run},
	{"set", 15, verb{do: (*world).set}.run},
	{"set policy", 40, verb{do: (*world).setPolicy, alone: true}.run},
	{"rename", 18, verb{do: (*world).rename, alone: true, still: true}.run},
	{"remove", 14, verb{do: (*world).remove, alone: true}.run},
	{"crash", 50, (*world).crash},
	{"lose", 8, (*world).lose},
	{"restart", 15, (*world).restart},
	{"cut off", 15, (*world).cutOff},
	{"part", 15, (*world).part},
	{"outage", 8, (*world).storeOut},
	{"suspend", 8, (*world).suspend},
	{"clock", 8, (*world).clock},
	{"bad disk", 15, (*world).badDisk},
	{"rot", 15, (*world).rot},
}

var opsWeight = func() (n int) {
	for _, o := range ops {
		n += o.weight
	}
	return n
}()

func choose(d *dice.Dice) *op {
	n := d.N(opsWeight)
	for i := range ops {
		if n -= ops[i].weight; n < 0 {
			return &ops[i]
		}
	}
	return nil
}

// anyLine is a step that does something to a line.
func anyLine(do func(*world, *line) string) func(*world, *dice.Dice) string {
	return func(w *world, d *dice.Dice) string {
		l := w.pick(d, nil)
		if l == nil {
			return "skipped"
		}
		return do(w, l)
	}
}

// asGuest is a step of a line's guest; the line is held.
func asGuest(do func(*world, *dice.Dice, *line) string) func(*world, *dice.Dice) string {
	return func(w *world, d *dice.Dice) string {
		return anyLine(func(w *world, l *line) string {
			defer l.hold()()
			return do(w, d, l)
		})(w, d)
	}
}

// verb is a step in which somebody asks a line's host for something.
type verb struct {
	do    func(*world, *dice.Dice, *line, hardware.Use) string
	can   func(*line) bool // lines of which it can be asked; nil: any
	alone bool             // it excludes others like it
	still bool             // the guest does nothing meanwhile: the line is held
}

func (v verb) run(w *world, d *dice.Dice) string {
	l := w.pick(d, v.can)
	if l == nil {
		return "skipped"
	}
	if v.still {
		defer l.hold()()
	}
	if v.alone {
		l.verb <- struct{}{}
		defer func() { <-l.verb }()
	}
	u := l.m.Use()
	defer u.End()
	if u.Host == nil {
		return "down"
	}
	return v.do(w, d, l, u)
}

func hasSnaps(l *line) bool { return len(l.snaps) > 0 }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// write makes a few writes, of new content or of content that others have too,
// and now and then makes them durable.
func (w *world) write(d *dice.Dice, l *line) string {
	w.mu.Lock()
	sectors := int(slices.Min(l.sizes) / sectorSize)
	per := max(int(l.blockSize)/sectorSize, 1)
	var os []write
	for range 1 + d.N(4) {
		w.stampNext++
		id := w.stampNext << 16
		o := write{stamp: func(s int) uint64 { return id | uint64(s) + 1 }, what: "write"}
		switch d.N(8) {
		case 0: // whole blocks that others may hold too
			common := uint64(1+d.N(4)) << 56
			o.at, o.n = d.N(sectors)/per*per, per*(1+d.N(2))
			o.stamp = func(s int) uint64 { return common | uint64(s%per) + 1 }
		case 1: // long
			o.at, o.n = d.N(sectors), 1+d.N(160)
		case 2: // small
			o.at, o.n = d.N(sectors), 1+d.N(8)
		default: // a page
			o.at, o.n = d.N(sectors)&^7, 8
		}
		o.n = min(o.n, sectors-o.at)
		os = append(os, o)
	}
	w.mu.Unlock()
	if d.Chance(100) {
		return w.forced(l, os)
	}
	res := w.writes(l, os)
	if res == "" && d.Chance(300) {
		return w.flushIO(l)
	}
	return res
}

// writes makes writes of a guest, as one batch. The line is held.
func (w *world) writes(l *line, os []write) string {
	return w.doIO(l, nbd.OpWrite, os, func(dev nbd.Device) error {
		if err := dev.WriteFrames(frames(os)); err != nil {
			return err
		}
		return acknowledge(dev)
	})
}

// forced makes writes of a guest with FUA, which the NBD server flushes before it
// acknowledges them. The line is held.
func (w *world) forced(l *line, os []write) string {
	w.mu.Lock()
	before := l.promised()
	w.mu.Unlock()
	return w.doIO(l, nbd.OpWrite, os, func(dev nbd.Device) error {
		if err := dev.WriteFrames(frames(os)); err != nil {
			return err
		}
		if err := dev.Flush(); err != nil {
			return err
		}
		return dev.(nbd.Acknowledger).Acknowledge()
	}, func(n int) { w.flushed(l, n, before) })
}

// frames are writes as the NBD server hands them to a device.
func frames(os []write) (offs []uint64, frames [][]byte) {
	for i := range os {
		offs = append(offs, uint64(os[i].at*sectorSize))
		frames = append(frames, append(make([]byte, nbd.Headroom), os[i].bytes()...))
	}
	return offs, frames
}

func (w *world) zero(d *dice.Dice, l *line) string {
	w.mu.Lock()
	sectors := int(slices.Min(l.sizes) / sectorSize)
	w.mu.Unlock()
	o := write{at: d.N(sectors), what: "zero"}
	switch o.n = 1 + d.N(sectors-o.at); d.N(4) {
	case 0:
		o.at, o.n = 0, sectors
	case 1:
		o.n = min(o.n, 8)
	}
	return w.zeroes(l, o)
}

// zeroes makes a range of a guest's disk read as zeros. The line is held.
func (w *world) zeroes(l *line, o write) string {
	return w.doIO(l, nbd.OpZero, []write{o}, func(dev nbd.Device) error {
		if err := dev.Zero(uint64(o.at*sectorSize), uint64(o.n*sectorSize), true); err != nil {
			return err
		}
		return acknowledge(dev)
	})
}

// churn zeroes and writes one place again and again, while other things go on.
func (w *world) churn(d *dice.Dice, l *line) string {
	w.mu.Lock()
	at := d.N(int(slices.Min(l.sizes)/sectorSize)-16) &^ 7
	w.mu.Unlock()
	for range 2 + d.N(8) {
		w.mu.Lock()
		w.stampNext++
		id := w.stampNext << 16
		w.mu.Unlock()
		o := write{at: at, n: 8, stamp: func(s int) uint64 { return id | uint64(s) + 1 }, what: "churn"}
		res := ""
		if d.Chance(500) {
			o.stamp = nil
			res = w.zeroes(l, o)
		} else {
			res = w.writes(l, []write{o})
		}
		if res != "" {
			return res
		}
		time.Sleep(d.Around(3 * time.Millisecond))
	}
	return ""
}

func (w *world) sync(_ *dice.Dice, l *line) string {
	return w.flushIO(l)
}

func (w *world) readBack(_ *dice.Dice, l *line) string {
	return w.check(l, "read back")
}

func (w *world) hangUp(_ *dice.Dice, l *line) string {
	l.disconnect()
	return ""
}

func (w *world) someMachine(d *dice.Dice) *machine { return w.machines[d.N(len(w.machines))] }

func (w *world) crash(d *dice.Dice) string {
	m := w.someMachine(d)
	n := 0
	if d.Chance(700) {
		n = 1 + d.N(1<<d.N(9))
	}
	keep := []int{0, 30, 70, 100, 100}[d.N(5)]
	down := d.Around(200 * time.Millisecond)
	if d.Chance(100) {
		down = d.Around(24 * time.Hour)
	}
	m.Crash(n, keep, down)
	return ""
}

// lose takes a host's disk with its power.
func (w *world) lose(d *dice.Dice) string {
	if !w.someMachine(d).Lose(d.Around(time.Second)) {
		return "skipped"
	}
	return ""
}

func (w *world) restart(d *dice.Dice) string {
	m := w.someMachine(d)
	m.Stop()
	time.Sleep(d.Around(50 * time.Millisecond))
	m.Start()
	return ""
}

// stretch is how long trouble lasts.
func stretch(d *dice.Dice) time.Duration {
	return d.Around([]time.Duration{20 * time.Millisecond, time.Second, time.Minute}[d.N(3)])
}

func (w *world) cutOff(d *dice.Dice) string {
	m := w.someMachine(d)
	m.CutOff(stretch(d))
	w.note(func(w *world) { w.troubled = true })
	return ""
}

func (w *world) part(d *dice.Dice) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partedBy, w.partedTo = d.Next(), time.Now().Add(stretch(d))
	return ""
}

func (w *world) storeOut(d *dice.Dice) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calm, w.troubled = time.Now().Add(stretch(d)), true
	return ""
}

func (w *world) suspend(d *dice.Dice) string {
	span := stretch(d)
	if d.Chance(500) {
		span = d.Around(48 * time.Hour)
	}
	w.note(func(w *world) { w.troubled = true })
	w.someMachine(d).Suspend(span)
	return ""
}

func (w *world) clock(d *dice.Dice) string {
	m := w.someMachine(d)
	m.Drift(d.Around(time.Hour) - time.Hour)
	return ""
}

// badDisk makes syncs of the log fail.
func (w *world) badDisk(d *dice.Dice) string {
	if !w.params.badDisk {
		return "skipped"
	}
	m := w.someMachine(d)
	fails := 1 + d.N(2)
	if d.Chance(700) {
		l := w.pick(d, func(l *line) bool { return l.m == m && !l.promised().ships() && l.sizes[0] > foldedOnBadDisk })
		if l != nil {
			return w.foldOnBadDisk(d, l, fails)
		}
	}
	m.FailSyncs(fails)
	return ""
}

// foldedOnBadDisk is how much a volume has to hold for foldOnBadDisk: more than
// the log's smallest segment, so that whole ones are written again.
const foldedOnBadDisk = 100 << 10

// foldOnBadDisk lets a sync fail while what it was to make durable is published,
// and then uses the log again: what was written again in between has to stay.
func (w *world) foldOnBadDisk(d *dice.Dice, l *line, fails int) string {
	defer l.hold()()
	w.mu.Lock()
	sectors := int(slices.Min(l.sizes) / sectorSize)
	w.mu.Unlock()
	stamped := func(at, n int) write {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stampNext++
		id := w.stampNext << 16
		return write{at: at, n: min(n, sectors-at), stamp: func(s int) uint64 { return id | uint64(s) + 1 }, what: "write before a bad sync"}
	}
	for at := 0; at < sectors; at += 64 {
		if res := w.writes(l, []write{stamped(at, 64)}); res != "" {
			return res
		}
	}
	l.m.FailSyncs(fails)
	var published sync.WaitGroup
	published.Go(func() { w.flushLine(l) })
	if d.Chance(500) {
		published.Wait()
	}
	at := d.N(sectors)
	for range 4 + d.N(12) {
		res := w.writes(l, []write{stamped(at, 96)})
		if res == "" {
			res = w.flushIO(l)
		}
		if res != "" {
			published.Wait()
			return res
		}
	}
	published.Wait()
	return w.check(l, "after a bad sync")
}

// rot changes a bit of what a machine's disk, or the store, holds.
func (w *world) rot(d *dice.Dice) string {
	if !w.params.rot {
		return "skipped"
	}
	m := w.someMachine(d)
	dir := m.Rot(d)
	switch dir {
	case "":
		return "skipped"
	case "wal":
		w.note(func(w *world) { m.rotten, w.rotten = true, true })
	}
	return dir
}
