package peers

import (
	"time"

	"github.com/paraglide/glide/internal/pack"
)

// Bounds on what a host is remembered for.
const (
	firstPause = 100 * time.Millisecond // after the first failure, or when nothing is found; it doubles
	maxPause   = 5 * time.Minute        // and after a block that does not match its hash
	dryAfter   = 64                     // blocks in a row that a host did not have: from then on it is asked now and then
	maxDry     = time.Minute            // and not less often than this
	missedFor  = 30 * time.Second       // a block that a host did not have is not asked for again for this long, up to twice that
	maxMissed  = 4096                   // such blocks, up to twice as many
)

// memory is what a host's answers have told of it. The caller locks.
type memory struct {
	failures int           // in a row
	dry      int           // blocks in a row that the host did not have
	pause    time.Duration // the last one
	until    time.Duration // the host is left alone until then
	probing  bool          // one request finds out whether it is better now

	missed [2]map[pack.Hash]struct{} // the blocks that it did not have: recent, and older ones
	turned time.Duration             // when the recent ones became older ones
}

// doubtful reports whether only one request at a time goes to the host.
func (m *memory) doubtful() bool { return m.failures > 0 || m.dry >= dryAfter }

// mayAsk reports whether the host may be asked now. If so, the caller must call answered,
// failed, lied or abandoned.
func (m *memory) mayAsk(now time.Duration) bool {
	if now < m.until || m.doubtful() && m.probing {
		return false
	}
	m.probing = m.doubtful()
	return true
}

// mayHave reports whether the host is not known to lack a block.
func (m *memory) mayHave(now time.Duration, h *pack.Hash) bool {
	m.turn(now)
	for _, set := range m.missed {
		if _, ok := set[*h]; ok {
			return false
		}
	}
	return true
}

// turn forgets the blocks that the host did not have long ago.
func (m *memory) turn(now time.Duration) {
	if now-m.turned >= 2*missedFor {
		m.missed = [2]map[pack.Hash]struct{}{}
		m.turned = now
	}
	if now-m.turned >= missedFor || len(m.missed[0]) >= maxMissed {
		m.missed = [2]map[pack.Hash]struct{}{1: m.missed[0]}
		m.turned = now
	}
}

// answered records an answer: the number of blocks that the host had, and those that it
// did not have.
func (m *memory) answered(now time.Duration, had int, lacked []pack.Hash) {
	m.probing, m.failures = false, 0
	for _, h := range lacked {
		if m.turn(now); m.missed[0] == nil {
			m.missed[0] = map[pack.Hash]struct{}{}
		}
		m.missed[0][h] = struct{}{}
	}
	if had > 0 {
		m.dry, m.pause = 0, 0
		return
	}
	if m.dry += len(lacked); m.dry >= dryAfter {
		m.leave(now, maxDry)
	}
}

// failed records that the host did not answer as it should.
func (m *memory) failed(now time.Duration) {
	m.probing = false
	m.failures++
	m.leave(now, maxPause)
}

// lied records that the host sent something else than the block.
func (m *memory) lied(now time.Duration) {
	m.pause = maxPause
	m.failed(now)
}

// abandoned records that nobody waited for the host's answer.
func (m *memory) abandoned() { m.probing = false }

// leave leaves the host alone for a while, longer each time. Requests that were in
// progress together count once.
func (m *memory) leave(now, most time.Duration) {
	if now < m.until && m.pause < most {
		return
	}
	m.pause = min(max(2*m.pause, firstPause), most)
	m.until = now + m.pause
}
