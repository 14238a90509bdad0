package durability

import (
	"errors"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

// promise is what one volume's policy promises, and how far the promise is kept. It is a
// state machine without I/O, goroutines or a clock. Events go in as calls, with times of
// the host's uptime clock; actions come out as results. The shipper drives it, under its
// lock.
//
// Invariants: 0 <= acked <= sent. inFlight is in the order of the writes. Every write
// through sent is in the store, in flight, or was already in the published map.
type promise struct {
	policy promised

	acked  uint64 // the store holds every write through this one
	sent   uint64 // no write through this one is left to be sent
	wanted uint64 // a flush waits until the store holds this write
	rebase bool   // the volume was rolled back: it must be folded before anything is sent

	inFlight []flight
	bytes    int64         // of inFlight
	latency  time.Duration // moving average for a commit
	began    time.Duration // when the last commit began
	saved    time.Duration // when the progress was last saved in the record

	sending bool          // changes were taken that are neither in flight nor returned yet
	taken   time.Duration // the oldest of those changes; 0: none
	folding bool          // a fold runs in the background

	err   error         // why the store does not take commits; nil if it does
	since time.Duration // since when err is set
	fails uint64        // number of failures so far
	over  error         // why nothing will be acknowledged any more; nil: it may be
}

// promised is a policy that needs the store.
type promised struct {
	sync bool          // true: flushes wait for the store; false: writes wait, so that none is unsent for longer than rpo
	rpo  time.Duration // of continuous
}

// flight is a data commit in flight, or one that waits for the upload of its blocks.
type flight struct {
	seq   uint64        // it holds every unsent write through this one
	at    time.Duration // the time of its oldest write
	began time.Duration
	bytes int64
}

// unsent is what a volume has changed and the shipper has not taken.
type unsent struct {
	bytes int64
	at    time.Duration // the time of the oldest change; 0: there is none
}

// forever is how long the loop of an idle volume waits.
const forever = 365 * 24 * time.Hour

// margin is the part of an rpo that is kept in reserve.
func margin(rpo time.Duration) time.Duration { return min(max(rpo/10, 50*time.Millisecond), rpo/2) }

// due returns how long to wait before the next commit begins.
func (p *promise) due(now time.Duration, u unsent) time.Duration {
	asked := p.wanted > p.sent || p.rebase
	if u.bytes == 0 && !asked {
		return forever
	}
	if len(p.inFlight) >= maxInFlight || p.bytes >= maxInFlightBytes {
		return forever // the end of a commit makes the loop check again
	}
	// Flushes in quick succession share a commit. If commits take long, only a few are in
	// flight.
	var apart time.Duration
	if len(p.inFlight) > 0 {
		apart = p.began + p.latency/5 - now
	}
	if asked || u.bytes >= shipBytes {
		return apart
	}
	return max(apart, u.at+p.interval()-now)
}

// interval returns the age at which a change is sent.
func (p *promise) interval() time.Duration {
	rpo := p.policy.rpo
	if p.policy.sync {
		return max(rpo, time.Second) // sync promises nothing before a flush
	}
	return max(min(rpo/2, rpo-margin(rpo)-2*p.latency), min(leastInterval, rpo/4))
}

// mayAcknowledge reports whether a write may be acknowledged now. slow is a delay before
// the acknowledgement, for a store that barely keeps up. oldest is the time of the oldest
// write that the store does not hold; 0: there is none.
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

// oldestInFlight returns the time of the oldest write that is in flight or about to be;
// 0: there is none.
func (p *promise) oldestInFlight() time.Duration {
	at := p.taken
	for _, f := range p.inFlight {
		if at == 0 || f.at < at {
			at = f.at
		}
	}
	return at
}

// take records that changes are being taken to be sent, the oldest from at. returned
// records that they are in flight, or unsent again.
func (p *promise) take(at time.Duration) { p.sending, p.taken = true, at }
func (p *promise) returned()             { p.sending, p.taken = false, 0 }

// took records that a commit is in flight.
func (p *promise) took(f flight) {
	p.sent = max(p.sent, f.seq)
	p.inFlight = append(p.inFlight, f)
	p.bytes += f.bytes
	p.began = f.began
}

// withdrawn records that the last n commits were not sent after all: their changes are
// unsent again.
func (p *promise) withdrawn(n int) {
	keep := len(p.inFlight) - n
	for _, f := range p.inFlight[keep:] {
		p.bytes -= f.bytes
	}
	p.inFlight, p.sent = p.inFlight[:keep], p.acked
	if keep > 0 {
		p.sent = max(p.sent, p.inFlight[keep-1].seq)
	}
}

// nothingUnsentThrough records that no write through seq is left to be sent.
func (p *promise) nothingUnsentThrough(seq uint64) { p.sent = max(p.sent, seq) }

// dueToSave reports whether the progress is to be saved in the record now.
func (p *promise) dueToSave(now time.Duration) bool {
	if now-p.saved <= saveEvery {
		return false
	}
	p.saved = now
	return true
}

// landed records that the oldest commit in flight took effect. recovered is true if the
// store did not take commits before.
func (p *promise) landed(now time.Duration) (recovered bool) {
	f := p.inFlight[0]
	p.inFlight, p.bytes = p.inFlight[1:], p.bytes-f.bytes
	p.latency += (now - f.began - p.latency) / 4
	recovered, p.err = p.err != nil, nil
	return recovered
}

// reached records that the store holds every write through seq.
func (p *promise) reached(seq uint64) {
	p.acked = max(p.acked, seq)
	p.sent = max(p.sent, seq)
	p.rebase = false
}

// settled reports whether the store holds every write although no commit has confirmed
// it: the changes taken last may have been in the published map already.
func (p *promise) settled(last uint64, u unsent) bool {
	return u.bytes == 0 && !p.sending && len(p.inFlight) == 0 && last > p.acked
}

// failed records that the store did not take a commit. fresh is true if it took commits
// before.
func (p *promise) failed(now time.Duration, err error) (fresh bool) {
	fresh = p.err == nil
	if fresh {
		p.since = now
	}
	p.err = err
	p.fails++
	return fresh
}

// end makes every waiter give up. The first reason counts.
func (p *promise) end(why error) {
	if p.over == nil {
		p.over = why
	}
}

// foldNow reports how urgent a fold is, given the number and bytes of the data commits.
// soon means in the background, first means before the next data commit.
func foldNow(count uint64, bytes int64, foldAfter uint64) (soon, first bool) {
	return count >= foldAfter || bytes >= FoldBytes, count >= foldFactor*foldAfter || bytes >= foldFactor*FoldBytes
}

// waiter waits until the store holds a write.
type waiter struct {
	seq     uint64
	came    time.Duration
	fails   uint64        // the number of failures from which on a failure counts: see newWaiter
	timeout time.Duration // how long the store may fail; 0: without limit
}

// newWaiter returns a waiter that starts now. The attempt in progress may have begun
// before damaged data was rewritten or before the store came back, so its failure does
// not count; that of the next attempt does.
func (p *promise) newWaiter(now time.Duration, seq uint64, timeout time.Duration) waiter {
	return waiter{seq: seq, came: now, fails: p.fails + 2, timeout: timeout}
}

// outcome reports whether the waiter is done, and with which error. cancelled is the
// error of its context if that has ended.
func (p *promise) outcome(w waiter, now time.Duration, cancelled error) (done bool, err error) {
	switch {
	case p.acked >= w.seq:
		return true, nil
	case p.over != nil:
		return true, p.over
	case p.fails >= w.fails && p.err != nil && errs.KindOf(p.err) == errs.Corrupt:
		return true, p.err
	}
	expired := w.timeout > 0 && p.err != nil && now-p.since > w.timeout && (p.fails >= w.fails || now-w.came > w.timeout)
	switch {
	case p.err != nil && (expired || cancelled != nil):
		return true, errs.New(errs.Unavailable, "the store does not hold these writes yet; sending resumes by itself when the store does: %w", p.err)
	case cancelled != nil:
		return true, cancelled
	}
	return false, nil
}

// stalled returns why writes are not acknowledged or the store does not keep up, or "" if
// neither is so.
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

// unshipped returns why changes do not reach the store.
func unshipped(err error) string {
	if errors.Is(err, commitlog.ErrYielding) {
		return err.Error()
	}
	if errs.KindOf(err) == errs.Corrupt {
		return "changes cannot be sent to the store: " + err.Error()
	}
	return "the store does not take commits: " + err.Error()
}
