package durability

import (
	"errors"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

// promise is what one volume's policy promises, and how far it is kept. It is a state
// machine without I/O, goroutines or a clock: events go in as calls, with the time
// of the host's uptime clock; what is to be done comes out as their results. The
// shipper drives it, under its lock.
//
// Invariants: 0 <= acked <= sent; inFlight is in the order of the writes; writes
// through sent are in the store, in flight, or were in the published map already.
type promise struct {
	policy promised

	acked  uint64 // the store holds every write through this one
	sent   uint64 // nothing through this write is left to be sent
	wanted uint64 // a flush waits for the store to hold this write
	rebase bool   // a fold has to come first: the volume was rolled back

	inFlight []flight
	bytes    int64         // of inFlight
	latency  time.Duration // of a commit, as it has been lately
	began    time.Duration // when the last commit was begun
	saved    time.Duration // when the record last learned how far the store is

	sending bool          // changes are taken that are neither in flight nor returned
	taken   time.Duration // the oldest of those; 0: none
	folding bool          // a fold runs in the background

	err   error         // why the store does not take commits, nil while it does
	since time.Duration // when that began
	fails uint64        // how often that was noted
	over  error         // why nothing will be acknowledged any more
}

// promised is a policy that needs the store.
type promised struct {
	sync bool          // a flush waits for the store; else every write does, for at most rpo
	rpo  time.Duration // of continuous
}

// flight is a data commit in flight.
type flight struct {
	seq   uint64        // it holds every write through this one that was not sent before
	at    time.Duration // the oldest of its writes
	began time.Duration
	bytes int64
}

// unsent is what a volume has changed, and nobody has taken to be sent.
type unsent struct {
	bytes int64
	at    time.Duration // the oldest of the changes; 0: there are none
}

// forever is how long the loop of an idle volume waits.
const forever = 365 * 24 * time.Hour

// margin is the part of an rpo that is kept in hand.
func margin(rpo time.Duration) time.Duration { return min(max(rpo/10, 50*time.Millisecond), rpo/2) }

// due is how long until the next commit is to be begun.
func (p *promise) due(now time.Duration, u unsent) time.Duration {
	asked := p.wanted > p.sent || p.rebase
	if u.bytes == 0 && !asked {
		return forever
	}
	if len(p.inFlight) >= maxInFlight || p.bytes >= maxInFlightBytes {
		return forever // the end of one makes the loop look again
	}
	// Flushes that come close together share a commit; and while commits take
	// long, there are only a few of them in flight.
	var apart time.Duration
	if len(p.inFlight) > 0 {
		apart = p.began + p.latency/5 - now
	}
	if asked || u.bytes >= shipBytes {
		return apart
	}
	return max(apart, u.at+p.interval()-now)
}

// interval is how old a change gets before it is sent.
func (p *promise) interval() time.Duration {
	rpo := p.policy.rpo
	if p.policy.sync {
		return max(rpo, time.Second) // nobody was promised anything before a flush
	}
	return max(min(rpo/2, rpo-margin(rpo)-2*p.latency), min(leastInterval, rpo/4))
}

// mayAcknowledge tells whether a write may be acknowledged now. It is slowed when
// the store nearly does not keep up. Oldest is the oldest write that the store does
// not hold; 0: there is none.
func (p promised) mayAcknowledge(now, oldest time.Duration, u unsent) (ok bool, slow time.Duration) {
	if u.bytes > maxChanged {
		return false, 0
	}
	if p.sync || oldest == 0 {
		return true, 0
	}
	limit, age := p.rpo-margin(p.rpo), now-oldest
	switch soft := limit * 3 / 4; {
	case age >= limit && !fault.Is("rpo-not-kept"):
		return false, 0
	case age > soft:
		return true, (age - soft) / 16
	}
	return true, 0
}

// oldestInFlight is the oldest write that is in flight, or taken to be; 0: none is.
func (p *promise) oldestInFlight() time.Duration {
	at := p.taken
	for _, f := range p.inFlight {
		if at == 0 || f.at < at {
			at = f.at
		}
	}
	return at
}

// take tells that changes are being taken to be sent, the oldest from at; returned
// that they are in flight, or unsent again.
func (p *promise) take(at time.Duration) { p.sending, p.taken = true, at }
func (p *promise) returned()             { p.sending, p.taken = false, 0 }

// took tells that a commit is in flight.
func (p *promise) took(f flight) {
	p.sent = max(p.sent, f.seq)
	p.inFlight = append(p.inFlight, f)
	p.bytes += f.bytes
	p.began = f.began
}

// nothingThrough tells that nothing through a write is left to be sent.
func (p *promise) nothingThrough(seq uint64) { p.sent = max(p.sent, seq) }

// dueToSave tells whether the record is to learn durably of what landed now.
func (p *promise) dueToSave(now time.Duration) bool {
	if now-p.saved <= saveEvery {
		return false
	}
	p.saved = now
	return true
}

// landed tells that the oldest commit in flight took effect, with all before it;
// recovered says that the store did not take commits before.
func (p *promise) landed(now time.Duration) (recovered bool) {
	f := p.inFlight[0]
	p.inFlight, p.bytes = p.inFlight[1:], p.bytes-f.bytes
	p.latency += (now - f.began - p.latency) / 4
	recovered, p.err = p.err != nil, nil
	return recovered
}

// reached tells that the store holds every write through seq.
func (p *promise) reached(seq uint64) {
	p.acked = max(p.acked, seq)
	p.sent = max(p.sent, seq)
	p.rebase = false
}

// settled tells that the store holds all there is, though no commit said so: what was
// taken last may have been in the published map already.
func (p *promise) settled(last uint64, u unsent) bool {
	return u.bytes == 0 && !p.sending && len(p.inFlight) == 0 && last > p.acked
}

// failed notes that the store did not take a commit; fresh says that it did before.
func (p *promise) failed(now time.Duration, err error) (fresh bool) {
	fresh = p.err == nil
	if fresh {
		p.since = now
	}
	p.err = err
	p.fails++
	return fresh
}

// end makes every waiter give up, with the first reason.
func (p *promise) end(why error) {
	if p.over == nil {
		p.over = why
	}
}

// foldNow says how urgent a fold is, by the data commits that there are.
func foldNow(count uint64, bytes int64, foldAfter uint64) (soon, first bool) {
	return count >= foldAfter || bytes >= FoldBytes, count >= foldFactor*foldAfter || bytes >= foldFactor*FoldBytes
}

// waiter waits for the store to hold a write.
type waiter struct {
	seq     uint64
	came    time.Duration
	fails   uint64        // the failure that counts, see newWaiter
	timeout time.Duration // for how long the store may fail; 0: for ever
}

// newWaiter is a waiter that comes now. The attempt that is under way may have begun
// before what was damaged was written again, or the store came back: the one after
// it tells.
func (p *promise) newWaiter(now time.Duration, seq uint64, timeout time.Duration) waiter {
	return waiter{seq: seq, came: now, fails: p.fails + 2, timeout: timeout}
}

// outcome tells whether the waiter is done, and with what; cancelled is the error of
// its context, if that has ended.
func (p *promise) outcome(w waiter, now time.Duration, cancelled error) (done bool, err error) {
	switch {
	case p.acked >= w.seq:
		return true, nil
	case p.over != nil:
		return true, p.over
	case p.fails >= w.fails && p.err != nil && errs.KindOf(p.err) == errs.Corrupt:
		return true, p.err
	}
	tired := w.timeout > 0 && p.err != nil && now-p.since > w.timeout && (p.fails >= w.fails || now-w.came > w.timeout)
	switch {
	case p.err != nil && (tired || cancelled != nil):
		return true, errs.New(errs.Unavailable, "the store does not hold it yet; it goes on by itself when the store does: %w", p.err)
	case cancelled != nil:
		return true, cancelled
	}
	return false, nil
}

// stalled is why writes are not acknowledged, or the store does not keep up; "" if
// neither.
func (p *promise) stalled(ok bool, slow time.Duration) string {
	switch {
	case !ok && p.err != nil:
		return "writes wait: " + unshipped(p.err)
	case !ok:
		return "writes wait for the store, which does not keep up"
	case p.err != nil:
		return unshipped(p.err)
	case slow > 0:
		return "writes are slowed: the store does not keep up"
	}
	return ""
}

// unshipped says why changes do not reach the store.
func unshipped(err error) string {
	if errors.Is(err, commitlog.ErrYielding) {
		return err.Error()
	}
	if errs.KindOf(err) == errs.Corrupt {
		return "changes cannot be sent to the store: " + err.Error()
	}
	return "the store does not take commits: " + err.Error()
}
