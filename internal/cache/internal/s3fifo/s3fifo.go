// Package s3fifo decides which blocks a tier of the cache keeps.
package s3fifo

// Policy is S3-FIFO (Yang et al., SOSP 2023) over numbered slots. New slots enter a small
// queue, and stay only if they are used again. Then they move to a main queue, which
// works like CLOCK. The policy also remembers the keys that left the small queue. A scan
// passes through the small queue and does not touch the main one. The caller locks.
type Policy struct {
	small, main ring
	freq        []uint8 // by slot: uses since it was last examined, at most 3
	inMain      []bool
	ghost       map[uint64]struct{} // keys that left the small queue recently
	ghosts      []uint64            // the same in order, a circular buffer
	ghostNext   int
}

const maxFreq = 3

// New returns a policy without slots.
func New() *Policy { return &Policy{ghost: map[uint64]struct{}{}} }

// Grow makes room for slots below n.
func (p *Policy) Grow(n int) {
	for len(p.freq) < n {
		p.freq = append(p.freq, 0)
		p.inMain = append(p.inMain, false)
	}
}

// Add adds a slot that now holds the key.
func (p *Policy) Add(slot uint32, key uint64) {
	p.Grow(int(slot) + 1)
	p.freq[slot] = 0
	_, known := p.ghost[key]
	p.inMain[slot] = known
	if known {
		delete(p.ghost, key)
		p.main.push(slot)
	} else {
		p.small.push(slot)
	}
}

// Use records that a slot was read.
func (p *Policy) Use(slot uint32) {
	if p.freq[slot] < maxFreq {
		p.freq[slot]++
	}
}

// Evict removes the least valuable slot and returns it. key returns the key that a slot
// holds. There must be a slot.
func (p *Policy) Evict(key func(slot uint32) uint64) uint32 {
	for {
		if p.small.n > 0 && (p.small.n*10 >= p.small.n+p.main.n || p.main.n == 0) {
			slot := p.small.pop()
			if p.freq[slot] > 0 {
				p.freq[slot] = 0
				p.inMain[slot] = true
				p.main.push(slot)
				continue
			}
			p.remember(key(slot))
			return slot
		}
		slot := p.main.pop()
		if p.freq[slot] == 0 {
			return slot
		}
		p.freq[slot]--
		p.main.push(slot)
	}
}

// remember remembers the key of a slot that left the small queue. It keeps as many keys
// as there are slots.
func (p *Policy) remember(key uint64) {
	if len(p.ghosts) < len(p.freq) {
		p.ghosts = append(p.ghosts, key)
	} else {
		delete(p.ghost, p.ghosts[p.ghostNext])
		p.ghosts[p.ghostNext] = key
		p.ghostNext = (p.ghostNext + 1) % len(p.ghosts)
	}
	p.ghost[key] = struct{}{}
}

// Len returns the number of slots in the queues.
func (p *Policy) Len() int { return p.small.n + p.main.n }

// ring is a queue of slots.
type ring struct {
	buf  []uint32
	head int
	n    int
}

func (r *ring) push(s uint32) {
	if r.n == len(r.buf) {
		next := make([]uint32, max(16, 2*len(r.buf)))
		for i := range r.n {
			next[i] = r.buf[(r.head+i)%len(r.buf)]
		}
		r.buf, r.head = next, 0
	}
	r.buf[(r.head+r.n)%len(r.buf)] = s
	r.n++
}

func (r *ring) pop() uint32 {
	s := r.buf[r.head]
	r.head = (r.head + 1) % len(r.buf)
	r.n--
	return s
}
