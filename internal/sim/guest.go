package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// connect gives the line a connection, as an NBD client has it; nil if there is
// none to be had. The line is held.
func (w *world) connect(l *line) (*nbd.Export, int) {
	u := l.m.Use()
	defer u.End()
	if u.Host == nil {
		return nil, 0
	}
	life := u.Life
	if l.conn != nil && l.life == life {
		return l.conn, life
	}
	l.conn = nil
	w.mu.Lock()
	name, skip := l.name, l.ended || l.maybe || l.fenced
	w.mu.Unlock()
	if skip {
		return nil, 0
	}
	x, err := u.Host.Exports().Open(name)
	if err != nil {
		w.judge(l, name, life, "connect", err)
		return nil, 0
	}
	l.conn, l.life = x, life
	return x, life
}

// disconnect ends the line's connection. The line is held.
func (l *line) disconnect() {
	if l.conn != nil {
		l.conn.Closed()
		l.conn = nil
	}
}

// judge decides whether an error that a guest, or a verb, met has an excuse.
// After it the line is looked at again.
func (w *world) judge(l *line, name string, life int, what string, err error) {
	if !l.m.Alive(life) {
		return
	}
	w.trace("h%d: %s %s: %v", l.m.index, what, l.name, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, nbd.ESHUTDOWN) && errs.KindOf(err) == errs.Internal:
	case errs.KindOf(err) == errs.Fenced:
		w.fence(l)
	case errs.KindOf(err) == errs.Busy && w.elsewhere(l): // it will know that it is fenced when it asks again
	case errs.KindOf(err) == errs.NotFound && w.elsewhere(l): // its snapshots are its rescue's
	case w.excused(err), l.ended, l.ending, l.leaving, l.name != name, l.fenced, l.broken, len(l.names) > 0:
	case l.m.hadBadSync && errs.KindOf(err) == errs.Internal:
		l.broken = true
	case l.m.hadBadSync && errs.KindOf(err) == errs.NoSpace && w.stormy():
		// What is in a segment that could not be synced stays until the store has it.
	default:
		w.violateLocked(progress, "%s of %s fails without a reason (%v): %v", what, l, errs.KindOf(err), err)
	}
}

// elsewhere tells whether another host has the volume of a line. Under mu.
func (w *world) elsewhere(l *line) bool {
	g := w.logs[l.name]
	return g != nil && g.newest() != nil && g.newest().from.machine != l.m.index
}

// fence notes that a host says it lost a volume: somebody has to have it. Under mu.
func (w *world) fence(l *line) {
	if l.fenced {
		return
	}
	l.fenced = true
	for _, n := range append([]string{l.name}, l.names...) {
		if x := w.logs[n]; x != nil && x.newest() != nil {
			e := x.newest()
			if e.from.machine != l.m.index || e.Tombstone || e.Closes() || e.State.ID.String() != l.id {
				return
			}
			if _, _, ok := l.find(e.content, l.first, l.last()); l.m.rotten && (l.loose || !ok) {
				return // the end of its log rotted, so the store has more of it than its own host
			}
			// It may have been taken and given back since this line was begun.
			for _, o := range w.lines {
				if o != l && o.id == l.id && o.index > l.index {
					return
				}
			}
		}
	}
	w.violateLocked(oneWriter, "%s is fenced, and nobody else has it", l)
}

// look makes a line whose writes are uncertain certain again, by reading it. The
// line is held. It tells whether the line can be used.
func (w *world) look(l *line) bool {
	w.mu.Lock()
	loose := l.loose
	w.mu.Unlock()
	if !loose {
		return true
	}
	return w.check(l, "look") == ""
}

// check reads all of a line and compares it with the model. The line is held. It
// returns "" if it could, else why not.
func (w *world) check(l *line, why string) string {
	u := l.m.Use()
	defer u.End()
	x, life := w.connect(l)
	if x == nil {
		return "no connection"
	}
	w.mu.Lock()
	sizes := append([]uint64(nil), l.sizes...) // it may be grown while it is read
	w.mu.Unlock()
	size := x.Device.Size()
	buf := make([]byte, size)
	err := x.Device.ReadAt(buf, 0)
	if err != nil {
		w.judge(l, x.Name, life, "read", err)
		l.disconnect()
		return "error"
	}
	if !l.m.Alive(life) {
		return "crash"
	}
	got, err := stamps(buf, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.violateLocked(verified, "%s: %v", l, err)
		return "violation"
	}
	w.compare(l, got, size, sizes, why)
	return ""
}

// compare looks for the number of writes after which the line is as it was read.
// prefix, flush-is-durable. Under mu.
func (w *world) compare(l *line, got image, size uint64, sizes []uint64, why string) {
	from := l.acked
	if l.loose {
		from = l.least
	}
	_, n, ok := l.find(got, from, l.last())
	if !ok && l.m.rotten { // what rots at the end of a log looks like its torn tail
		_, n, ok = l.find(got, 0, l.last())
	}
	if !ok {
		inv := prefix
		if _, k, older := l.find(got, 0, l.last()); older {
			if inv = flushIsDurable; !l.loose {
				inv = prefix
			}
			w.violateLocked(inv, "%s (%s): %d of %d writes are there, and %d have to be", l, why, k, l.last(), from)
			return
		}
		if !l.loose {
			inv = verified
		}
		w.violateLocked(inv, "%s (%s) is not the state after any of its writes %d to %d: %s", l, why, from, l.last(), l.explain(got, l.last()))
		for n := max(from, l.first); n <= l.last(); n++ {
			w.trace("%s: against write %d: %s", l, n, l.explain(got, n))
		}
		return
	}
	if !slices.Contains(sizes, size) && !slices.Contains(l.sizes, size) {
		w.violateLocked(prefix, "%s has %d bytes, and should have one of %d", l, size, l.sizes)
	}
	if l.loose {
		w.trace("%s: %d of %d writes are left", l, n, l.last())
		l.truncate(n)
		l.acked, l.loose = n, false
		l.stored = min(l.stored, n)
		if l.crashed {
			if l.crashed = false; !l.m.lostPages {
				l.durable = n
			}
		}
		l.durable = min(l.durable, n)
	}
	if len(l.sizes) > 1 && !l.resizing && slices.Equal(sizes, l.sizes) {
		l.sizes = []uint64{size}
	}
	if f := min(l.acked, max(l.stored, 0), l.durable); f > l.first+30 && !w.beingCopied(l) {
		l.settle(f)
	}
}

// beingCopied tells whether a fork, or a snapshot, of a line is being made: it may
// be what the line was after any of its writes since that began. Under mu.
func (w *world) beingCopied(l *line) bool {
	for _, k := range w.lines {
		if k.source == l {
			return true
		}
	}
	for _, s := range l.snaps {
		if s.maybe {
			return true
		}
	}
	return false
}

// uncertain notes that a write failed: it may be there or not. The line is held.
func (w *world) uncertain(l *line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !l.loose {
		l.loose, l.least = true, l.acked
	}
}

// doIO makes one change through the guest's connection; then is told, with the
// model's lock, when it is acknowledged. The line is held.
func (w *world) doIO(l *line, op nbd.Op, os []write, do func(nbd.Device) error, then ...func(n int)) string {
	if !w.look(l) {
		return "not certain"
	}
	u := l.m.Use()
	defer u.End()
	x, life := w.connect(l)
	if x == nil {
		return "no connection"
	}
	w.mu.Lock()
	for _, o := range os {
		l.add(o)
	}
	last := l.last()
	w.mu.Unlock()
	began := time.Now()
	err := l.m.await(u, func() error { return do(x.Device) })
	if !l.m.Alive(life) {
		return "crash"
	}
	if x.Observe != nil {
		x.Observe(op, 0, time.Since(began))
	}
	if err != nil {
		w.uncertain(l)
		w.guestFailed(l, x.Name, life, op.String(), err)
		return "error"
	}
	l.m.ifAlive(life, func() {
		if !l.loose {
			w.acknowledged(l, last)
			for _, f := range then {
				f(last)
			}
		}
	})
	return ""
}

// flushIO makes durable what the guest was told is written. The line is held.
func (w *world) flushIO(l *line) string {
	u := l.m.Use()
	defer u.End()
	x, life := w.connect(l)
	if x == nil {
		return "no connection"
	}
	w.mu.Lock()
	n, before := l.acked, l.promised()
	if l.loose {
		n = l.least
	}
	w.mu.Unlock()
	if err := l.m.await(u, x.Device.Flush); err != nil {
		w.guestFailed(l, x.Name, life, "flush", err)
		return "error"
	}
	if !l.m.ifAlive(life, func() { w.flushed(l, n, before) }) {
		return "crash"
	}
	return ""
}

// flushed notes that a flush, or a forced write, of the first n writes was
// acknowledged, with the policy from before it. Under mu.
func (w *world) flushed(l *line, n int, before promise) {
	l.durable = max(l.durable, n)
	if before.durability == volume.Sync && l.promised().durability == volume.Sync {
		w.checkStored(l, n, "a flush of it was acknowledged, and it is sync")
	}
}

// guestFailed ends a connection on which something failed. The line is held.
func (w *world) guestFailed(l *line, name string, life int, what string, err error) {
	if err != errHungUp {
		w.judge(l, name, life, what, err)
	}
	l.disconnect()
}
