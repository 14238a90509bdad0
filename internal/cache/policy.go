package cache

// policy is S3-FIFO (Yang et al., SOSP 2023) over numbered slots: a small queue
// that new slots must survive by being used again, a main queue that is walked
// like a clock, and the memory of what was thrown out of the small one. A scan
// passes through the small queue and leaves the main one alone. The caller
// locks.
type policy struct {
	small, main ring
	freq        []uint8 // by slot: uses since it was looked at, at most 3
	inMain      []bool
	ghost       map[uint64]struct{} // keys that left the small queue lately
	ghosts      []uint64            // in order, overwritten round and round
	ghostNext   int
}

const maxFreq = 3

func newPolicy() *policy { return &policy{ghost: map[uint64]struct{}{}} }

// grow makes room for slots up to n.
func (p *policy) grow(n int) {
	for len(p.freq) < n {
		p.freq = append(p.freq, 0)
		p.inMain = append(p.inMain, false)
	}
}

// add enters a slot that holds the key now.
func (p *policy) add(slot uint32, key uint64) {
	p.grow(int(slot) + 1)
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

// use notes that a slot was read.
func (p *policy) use(slot uint32) {
	if p.freq[slot] < maxFreq {
		p.freq[slot]++
	}
}

// evict takes the slot out that is worth least; key tells what a slot holds.
// There must be one.
func (p *policy) evict(key func(slot uint32) uint64) uint32 {
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

// remember keeps the key of a slot that the small queue threw out; as many as
// there are slots.
func (p *policy) remember(key uint64) {
	if len(p.ghosts) < len(p.freq) {
		p.ghosts = append(p.ghosts, key)
	} else {
		delete(p.ghost, p.ghosts[p.ghostNext])
		p.ghosts[p.ghostNext] = key
		p.ghostNext = (p.ghostNext + 1) % len(p.ghosts)
	}
	p.ghost[key] = struct{}{}
}

// len is the number of slots in the queues.
func (p *policy) len() int { return p.small.n + p.main.n }

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
