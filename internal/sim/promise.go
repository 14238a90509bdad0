package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// promise is what a volume's durability policy promises.
type promise struct {
	durability string
	rpo        time.Duration
}

var localOnly = promise{durability: volume.Local}

func (p promise) ships() bool { return p.durability != volume.Local }

// somePromise draws a policy.
func somePromise(d *dice.Dice) promise {
	p := promise{durability: []string{volume.Local, volume.Continuous, volume.Continuous, volume.Sync}[d.N(4)]}
	p.rpo = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, time.Minute}[d.N(4)]
	return p
}

// promised is what can be asked of a line now: while its policy is being changed,
// only what both the old one and the new one promise. Under mu.
func (l *line) promised() promise {
	if len(l.promises) == 0 {
		return localOnly
	}
	p := l.promises[0]
	for _, q := range l.promises[1:] {
		if q.durability != p.durability {
			return localOnly
		}
		p.rpo = max(p.rpo, q.rpo)
	}
	return p
}

// mayPromise tells whether a line's policy can be this one. Under mu.
func (l *line) mayPromise(p promise) bool {
	for _, q := range l.promises {
		if q.durability == p.durability && (q.rpo == p.rpo || !p.ships()) {
			return true
		}
	}
	return len(l.promises) == 0 && !p.ships()
}

// acknowledged notes that a guest was told that its writes through one are made.
// flush-is-durable: the acknowledgements whose writes a loss of the host would
// take span no more than the rpo. Under mu.
func (w *world) acknowledged(l *line, through int) {
	now := time.Now()
	for i := range l.writes {
		if n := l.first + i + 1; n > l.acked && n <= through {
			l.writes[i].acked = now
		}
	}
	l.acked = max(l.acked, through)
	w.checkWindow(l)
}

// checkWindow checks the loss window of a continuous volume. Under mu.
func (w *world) checkWindow(l *line) {
	p := l.promised()
	if p.durability != volume.Continuous || l.fenced || l.ended {
		return
	}
	window := func(stored int) (n int, span time.Duration) {
		for i := max(0, stored-l.first); i < len(l.writes); i++ {
			if at := l.writes[i].acked; !at.IsZero() {
				return l.first + i + 1, time.Since(at)
			}
		}
		return 0, 0
	}
	if _, span := window(l.stored); span <= p.rpo {
		return
	}
	// Writes that changed nothing leave open how many of them the store holds.
	most := l.stored
	if _, k, ok := l.find(l.inStore, max(l.stored, 0), l.last()); ok {
		most = k
	}
	if n, span := window(most); span > p.rpo {
		w.violateLocked(flushIsDurable, "%s has an rpo of %v, and a write is acknowledged while number %d of %d, acknowledged %v ago, is not in the store, which holds %d",
			l, p.rpo, n, l.last(), span, most)
	}
}

// checkStored checks that the store holds the first n writes of a line, as an
// acknowledged flush of a sync volume promises. flush-is-durable. Under mu.
func (w *world) checkStored(l *line, n int, why string) {
	if n <= l.stored || n < l.first || n > l.last() || l.m.hadBadSync {
		return
	}
	if _, _, ok := l.find(l.inStore, n, l.last()); !ok {
		w.violateLocked(flushIsDurable, "%s: %s, and of the %d writes before that the store holds %d", l, why, n, l.stored)
	}
}

// guestTimeout is how long a guest waits for a reply before it hangs up: those
// of volumes whose policy ships may wait for as long as the store is away.
const guestTimeout = 30 * time.Second

var errHungUp = errors.New("the guest hung up")

// await does what a guest asked for, for as long as the guest waits and the
// connection lasts. The guest is a VM of the machine, and suspended with it.
func (m *machine) await(u hardware.Use, do func() error) error {
	got := make(chan error, 1)
	m.w.background(func() { got <- do() })
	for {
		t := time.NewTimer(guestTimeout)
		select {
		case err := <-got:
			t.Stop()
			return err
		case <-u.Ctx.Done():
			t.Stop()
			return errHungUp
		case <-t.C:
		}
		if !m.Suspended() {
			return errHungUp
		}
		m.Awake()
	}
}

// acknowledge waits, as the NBD server does, until writes may be acknowledged.
func acknowledge(dev nbd.Device) error {
	a, ok := dev.(nbd.Acknowledger)
	if !ok || a.TryAcknowledge() {
		return nil
	}
	return a.Acknowledge()
}

// setPolicy changes what a volume promises, while it is in use.
func (w *world) setPolicy(d *dice.Dice, l *line, u hardware.Use) string {
	return w.setPromise(somePromise(d), l, u)
}

func (w *world) setPromise(p promise, l *line, u hardware.Use) string {
	w.mu.Lock()
	name, before, backlog := l.name, l.promises, l.floor()
	news := !l.mayPromise(p)
	if len(l.promises) == 0 {
		l.promises = []promise{localOnly}
	}
	l.promises = append(l.promises, p)
	if p.ships() { // one setting may be made, and not the other
		for _, q := range l.promises {
			l.promises = append(l.promises, promise{p.durability, q.rpo}, promise{q.durability, p.rpo})
		}
	}
	w.mu.Unlock()
	s := api.Settings{"durability": p.durability}
	if p.ships() {
		s["rpo"] = p.rpo.String()
	}
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	w.trace("h%d: setting %v of %s, which is %v", l.m.index, p, name, before)
	_, err := u.Host.Set(ctx, name, s)
	return w.settled(l, name, u.Life, fmt.Sprintf("set %v of", p), err, func() {
		if l.promises = []promise{p}; news && p.ships() && !relaxes(before, p) {
			w.checkStored(l, backlog, "its policy became "+p.durability)
		}
	})
}

// relaxes tells whether p is the promise before, with a longer rpo at most. After
// a change that was not known to be made there may be several: which of them the
// host kept is open, and so is whether it has to store anything for p.
func relaxes(before []promise, p promise) bool {
	return slices.ContainsFunc(before, func(q promise) bool {
		return q.durability == p.durability && q.rpo <= p.rpo
	})
}

// promiseOf is the policy that a commit says.
func promiseOf(s *commitlog.State) promise {
	return promise{s.Durability, time.Duration(s.RPOMillis) * time.Millisecond}
}
